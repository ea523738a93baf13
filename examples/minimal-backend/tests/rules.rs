//! Rules of the contract that the table does not reach: memory, transfers, errors.

use starling_contract::{
    Backend, Copy, DType, Error, Fill, Gemm, HostStorage, Layout, Map, Program, Result, Stream,
    Support, Verb, View,
};
use starling_example_backend::MinimalBackend;
use std::sync::Arc;

struct Opened {
    backend: MinimalBackend,
    stream: Box<dyn Stream>,
}

impl Opened {
    fn new() -> Self {
        let backend = MinimalBackend::new();
        let stream = backend.stream().unwrap();
        Self { backend, stream }
    }

    fn view(&self, values: &[f32]) -> View {
        let bytes: Vec<u8> = values.iter().flat_map(|x| x.to_ne_bytes()).collect();
        let storage = self.backend.alloc(bytes.len()).unwrap();
        let view = View::contiguous(storage, DType::F32, &[values.len()]);
        self.stream.upload(&bytes, &view).unwrap();
        view
    }

    fn submit(&self, verb: impl Into<Verb>) -> Result<()> {
        self.stream.submit(&verb.into().check()?)
    }

    fn read(&self, view: &View) -> Result<Vec<f32>> {
        let mut bytes = vec![0; view.len() * 4];
        pollster::block_on(self.stream.download(view, &mut bytes))?;
        let numbers = bytes.chunks_exact(4);
        Ok(numbers.map(|b| f32::from_ne_bytes([b[0], b[1], b[2], b[3]])).collect())
    }
}

fn is_shape_error<T>(result: Result<T>) -> bool {
    matches!(result, Err(Error::Shape { .. }))
}

#[test]
fn only_contiguous_views_of_the_right_size_are_transferred() {
    let d = Opened::new();
    let x = d.view(&[1.0, 2.0, 3.0, 4.0]);
    assert_eq!(d.read(&x.with(Layout::new(&[2], &[1], 1))).unwrap(), [2.0, 3.0]);
    assert!(is_shape_error(d.read(&x.with(Layout::new(&[2], &[2], 0)))));
    assert!(is_shape_error(d.read(&x.with(Layout::new(&[4], &[-1], 3)))));
    assert!(is_shape_error(d.read(&x.with(Layout::new(&[4], &[1], 1)))));
    assert!(is_shape_error(d.stream.upload(&[0; 15], &x)));
    // Nothing, wherever it begins.
    assert_eq!(d.read(&x.with(Layout::new(&[0], &[1], 99))).unwrap(), []);
}

#[test]
fn another_devices_memory_is_an_error() {
    let d = Opened::new();
    let dst = d.view(&[0.0]);
    let src = View::contiguous(HostStorage::new(4).unwrap(), DType::F32, &[1]);
    assert!(matches!(d.stream.upload(&[0; 4], &src), Err(Error::Devices { .. })));
    assert!(matches!(d.read(&src), Err(Error::Devices { .. })));
    assert!(matches!(d.submit(Copy { src: src.clone(), dst }), Err(Error::Devices { .. })));
    // All of it elsewhere, so that the check has nothing to say.
    let dst = View::contiguous(HostStorage::new(4).unwrap(), DType::F32, &[1]);
    let error = d.submit(Copy { src, dst }).unwrap_err();
    assert!(matches!(error, Error::Devices { .. }) && error.to_string().contains("minimal"));
}

#[test]
fn memory_that_is_not_to_be_had_is_an_error() {
    let d = Opened::new();
    let error = d.backend.alloc(usize::MAX / 2).err();
    assert!(matches!(error, Some(Error::OutOfMemory { .. })), "{error:?}");
    assert_eq!(d.backend.alloc(0).unwrap().bytes(), 0);
}

#[test]
fn verbs_run_in_the_order_in_which_they_were_submitted() {
    let d = Opened::new();
    let (x, y) = (d.view(&[1.0, 2.0]), d.view(&[0.0, 0.0]));
    d.submit(Copy { src: x.clone(), dst: y.clone() }).unwrap();
    d.stream.upload(&[0; 8], &x).unwrap();
    // In place: y and an x that is zeros by now, read backwards.
    let program = Program::build(|b| {
        use starling_ops::program::Op;
        let (x, y) = (b.put(Op::Input(0), &[]), b.put(Op::Input(1), &[]));
        vec![b.put(Op::Add, &[x, y])]
    });
    let backwards = x.with(Layout::new(&[2], &[-1], 1));
    let (inputs, outputs) = (vec![y.clone(), backwards], vec![y.clone()]);
    let add = Map {
        program: Arc::new(program),
        params: vec![],
        immediates: Default::default(),
        inputs,
        outputs,
    };
    d.submit(add).unwrap();
    let first = y.with(Layout::new(&[2], &[0], 0));
    d.submit(Copy { src: first, dst: x.clone() }).unwrap();
    pollster::block_on(d.stream.sync()).unwrap();
    assert_eq!(d.read(&y).unwrap(), [1.0, 2.0]);
    assert_eq!(d.read(&x).unwrap(), [1.0, 1.0]);
}

#[test]
fn verbs_and_transfers_of_several_threads_take_turns() {
    let (d, other) = (Opened::new(), Opened::new());
    let (x, y) = (d.view(&[0.0; 64]), d.view(&[0.0; 64]));
    // x += 1, on two queues: numbers are lost where two overlap.
    let program = Arc::new(Program::build(|b| {
        use starling_ops::program::Op;
        let (x, one) = (b.put(Op::Input(0), &[]), b.constant(1.0));
        vec![b.put(Op::Add, &[x, one])]
    }));
    let (inputs, outputs) = (vec![x.clone()], vec![x.clone()]);
    let add = Map { program, params: vec![], immediates: Default::default(), inputs, outputs };
    std::thread::scope(|scope| {
        for i in 0..4 {
            let (d, add) = (if i == 0 { &d } else { &other }, add.clone());
            scope.spawn(move || (0..500).for_each(|_| d.submit(add.clone()).unwrap()));
        }
        // A view is downloaded whole, before or after an upload and never in between.
        let up = |value: f32| d.stream.upload(&value.to_ne_bytes().repeat(64), &y).unwrap();
        scope.spawn(move || (0..2000).for_each(|round| up(round as f32)));
        for _ in 0..500 {
            let found = other.read(&y).unwrap();
            assert_eq!(found, [found[0]; 64]);
        }
    });
    assert_eq!(d.read(&x).unwrap(), [2000.0; 64]);
}

#[test]
fn what_it_cannot_do_is_said_before_and_refused_after() {
    let d = Opened::new();
    let x = d.view(&[1.0]);
    let bytes = |dtype| View::contiguous(x.storage.clone(), dtype, &[1, 1]);
    let c = View::contiguous(d.backend.alloc(4).unwrap(), DType::I32, &[1, 1]);
    let (a, b) = (bytes(DType::I8), bytes(DType::I8));
    let whole = Gemm { a, b, c, alpha: 1.0, beta: 0.0, epilogue: None, workspace: None }.into();
    assert_eq!(d.backend.supports(&whole), Support::No);
    let fill = Fill { dst: x.clone(), value: 1.0 }.into();
    assert_eq!(d.backend.supports(&fill), Support::Composed);
    for verb in [whole, fill] {
        assert!(matches!(d.submit(verb), Err(Error::Unsupported { .. })));
    }
}
