//! Verbs, transfers and direct access of several threads do not overlap.

use starling_contract::{Backend, Copy, DType, Fill, ScatterAdd, Stream, Verb, View};
use starling_reference::{ReferenceBackend, evaluate, execute, memory};
use std::thread;

const LEN: usize = 512;
const ROUNDS: usize = 200;

fn view(backend: &ReferenceBackend, dtype: DType, len: usize) -> View {
    View::contiguous(backend.alloc(dtype.size() * len).unwrap(), dtype, &[len])
}

#[test]
fn numbers_that_several_threads_add_are_not_lost() {
    let backend = ReferenceBackend::new();
    let (a, b) = (backend.stream().unwrap(), ReferenceBackend::new().stream().unwrap());
    let [x, out] = [(); 2].map(|()| view(&backend, DType::F32, LEN));
    let index = view(&backend, DType::I32, LEN);
    memory::write(&x, &[1.0; LEN]).unwrap();
    let add: Verb = ScatterAdd { x, index, axis: 0, out: out.clone(), workspace: None }.into();
    let add = &add.check().unwrap();
    let submit = |s: &dyn Stream| (0..ROUNDS).for_each(|_| s.submit(add).unwrap());
    thread::scope(|scope| {
        scope.spawn(|| submit(&*a));
        scope.spawn(|| submit(&*b));
        scope.spawn(|| (0..ROUNDS).for_each(|_| execute(add).unwrap()));
    });
    assert_eq!(memory::read(&out).unwrap()[0], (3 * ROUNDS * LEN) as f64);
}

#[test]
fn values_are_seen_whole() {
    let backend = ReferenceBackend::new();
    let stream = backend.stream().unwrap();
    let x = view(&backend, DType::F32, LEN);
    let whole = |found: Vec<f64>| assert!(found.iter().all(|v| *v == found[0]));
    thread::scope(|scope| {
        scope.spawn(|| {
            for round in 0..2 * ROUNDS {
                let value = round as f64;
                let fill: Verb = Fill { dst: x.clone(), value }.into();
                stream.submit(&fill.check().unwrap()).unwrap();
                stream.upload(&(-1f32).to_ne_bytes().repeat(LEN), &x).unwrap();
                memory::write(&x, &[value; LEN]).unwrap();
            }
        });
        let copy: Verb = Copy { src: x.clone(), dst: view(&backend, DType::F32, LEN) }.into();
        for _ in 0..ROUNDS {
            whole(memory::read(&x).unwrap());
            whole(evaluate(&copy).unwrap().swap_remove(0));
            let mut bytes = vec![0; 4 * LEN];
            pollster::block_on(stream.download(&x, &mut bytes)).unwrap();
            assert!(bytes.chunks(4).all(|b| b == &bytes[..4]));
        }
    });
}
