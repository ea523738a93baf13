//! The queue is in order, whatever the threads that give it work: no two verbs overlap.

use starling_contract::{
    Backend, Copy, DType, Error, Fill, Gather, Map, Program, Stream, Verb, View,
};
use starling_cpu::{CpuBackend, Isa};
use starling_ops::program::Op;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

/// Enough for several tasks a verb, and for verbs that take longer than a thread's start.
const LEN: usize = 1 << if cfg!(miri) { 8 } else { 17 };
const ROUNDS: usize = if cfg!(miri) { 3 } else { 50 };
const THREADS: usize = 4;

fn backend() -> Arc<CpuBackend> {
    CpuBackend::new(Isa::best(), Some(2)).unwrap()
}

fn filled(backend: &CpuBackend, value: f64) -> View {
    let x = View::contiguous(backend.alloc(4 * LEN).unwrap(), DType::F32, &[LEN]);
    give(&*backend.stream().unwrap(), Fill { dst: x.clone(), value });
    x
}

fn give(stream: &dyn Stream, verb: impl Into<Verb>) {
    stream.submit(&verb.into().check().unwrap()).unwrap();
}

fn numbers(stream: &dyn Stream, x: &View) -> Vec<f32> {
    let mut bytes = vec![0; 4 * x.len()];
    pollster::block_on(stream.download(x, &mut bytes)).unwrap();
    bytes.chunks_exact(4).map(|b| f32::from_ne_bytes([b[0], b[1], b[2], b[3]])).collect()
}

/// `x += 1`, which loses numbers where two overlap.
fn add_one(x: &View) -> Verb {
    let program = Program::build(|b| {
        let (x, one) = (b.put(Op::Input(0), &[]), b.constant(1.0));
        vec![b.put(Op::Add, &[x, one])]
    });
    let (inputs, outputs) = (vec![x.clone()], vec![x.clone()]);
    let program = Arc::new(program);
    Map { program, params: vec![], immediates: Default::default(), inputs, outputs }.into()
}

fn threads_add(streams: &[Box<dyn Stream>], x: &View) {
    let verb = &add_one(x).check().unwrap();
    thread::scope(|scope| {
        for i in 0..THREADS {
            let stream = &streams[i % streams.len()];
            scope.spawn(move || (0..ROUNDS).for_each(|_| stream.submit(verb).unwrap()));
        }
    });
    let right = vec![(THREADS * ROUNDS) as f32; LEN];
    assert!(numbers(&*streams[0], x) == right, "numbers were lost");
}

#[test]
fn verbs_of_several_threads_on_one_queue_do_not_overlap() {
    let backend = backend();
    threads_add(&[backend.stream().unwrap()], &filled(&backend, 0.0));
}

#[test]
fn nor_do_those_on_several_queues_and_several_openings_of_the_device() {
    let (backend, other) = (backend(), CpuBackend::new(Isa::Scalar, Some(3)).unwrap());
    let streams = [backend.stream(), backend.stream(), other.stream()].map(Result::unwrap);
    threads_add(&streams, &filled(&backend, 0.0));
}

/// One thread writes a whole view again and again, another looks at it: always at one value.
fn is_always_whole(x: &View, write: impl Fn(f64) + Sync, read: impl Fn() -> Vec<f32>) {
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            (0..4 * ROUNDS).for_each(|round| write(round as f64));
            done.store(true, Ordering::Relaxed);
        });
        while !done.load(Ordering::Relaxed) {
            let found = read();
            assert_eq!(found.len(), x.len());
            assert!(found.iter().all(|v| *v == found[0]), "parts of two values");
        }
    });
}

#[test]
fn transfers_are_in_the_order_too() {
    let backend = backend();
    let [a, b] = [(); 2].map(|()| backend.stream().unwrap());
    let (x, y) = (filled(&backend, 0.0), filled(&backend, 0.0));
    let up = |value: f64| a.upload(&(value as f32).to_ne_bytes().repeat(LEN), &x).unwrap();
    let fill = |value| give(&*a, Fill { dst: x.clone(), value });
    let copied = || {
        give(&*b, Copy { src: x.clone(), dst: y.clone() });
        numbers(&*b, &y)
    };
    is_always_whole(&x, up, || numbers(&*b, &x));
    is_always_whole(&x, up, copied);
    is_always_whole(&x, fill, || numbers(&*b, &x));
}

#[test]
fn a_replayed_list_is_one_turn() {
    let backend = backend();
    let [a, b] = [(); 2].map(|()| backend.stream().unwrap());
    let x = filled(&backend, 0.0);
    // Within the list the two halves differ.
    let half = |i: usize| x.with(starling_contract::Layout::new(&[LEN / 2], &[1], i * LEN / 2));
    let list = [0, 1].map(|i| add_one(&half(i)).check().unwrap());
    let list = a.compile(list.to_vec()).unwrap();
    is_always_whole(&x, |_| list.run(&*a).unwrap(), || numbers(&*b, &x));
    assert_eq!(numbers(&*a, &x)[0], 4.0 * ROUNDS as f32);
}

/// Verbs given from inside the tasks of a stealing pool: a thread that waited for its turn or for
/// its helpers by taking up another task would wait for itself.
fn stealing_tasks_add(workers: usize) {
    let backend = &backend();
    let stream = &backend.stream().unwrap();
    let (x, y) = (&filled(backend, 0.0), &filled(backend, 0.0));
    let [add_x, add_y] = &[x, y].map(|v| add_one(v).check().unwrap());
    let pool = rayon::ThreadPoolBuilder::new().num_threads(workers).build().unwrap();
    pool.scope(|scope| {
        for _ in 0..ROUNDS {
            scope.spawn(move |scope| {
                stream.submit(add_x).unwrap();
                let inner = || stream.submit(add_y).unwrap();
                rayon::join(inner, inner);
                scope.spawn(move |_| stream.submit(add_x).unwrap());
                stream.submit(add_x).unwrap();
            });
        }
    });
    assert!(numbers(&**stream, x) == vec![3.0 * ROUNDS as f32; LEN]);
    assert!(numbers(&**stream, y) == vec![2.0 * ROUNDS as f32; LEN]);
}

#[test]
fn tasks_of_a_stealing_pool_may_give_verbs() {
    for workers in [1, 2, 8] {
        stealing_tasks_add(workers);
    }
}

#[test]
fn a_verb_that_fails_leaves_the_turn_to_others() {
    let backend = backend();
    let stream = &backend.stream().unwrap();
    let index = View::contiguous(backend.alloc(4).unwrap(), DType::I32, &[1]);
    stream.upload(&(LEN as i32).to_ne_bytes(), &index).unwrap();
    let x = filled(&backend, 1.0);
    let out = View::contiguous(backend.alloc(4).unwrap(), DType::F32, &[1]);
    let gather: Verb = Gather { x: x.clone(), index, axis: 0, out }.into();
    let gather = gather.check().unwrap();
    let list = stream.compile(vec![gather.clone(), add_one(&x).check().unwrap()]).unwrap();
    assert!(matches!(stream.submit(&gather), Err(Error::Index { .. })));
    assert!(matches!(list.run(&**stream), Err(Error::Index { .. })));
    thread::scope(|scope| {
        scope.spawn(|| give(&**stream, add_one(&x)));
    });
    assert_eq!(numbers(&**stream, &x)[0], 2.0, "the list ended at the verb that failed");
}
