//! Programs: what users pass as numbers is no part of them.

use starling_contract::{
    Backend, Capabilities, Checked, DeviceId, Download, Pending, Result as ContractResult, Storage,
    Stream, Support, Verb, View,
};
use starling_engine::{Device, Result, Tensor};
use starling_reference::ReferenceBackend;
use std::collections::HashSet;
use std::sync::{Arc, Mutex};

type Programs = Arc<Mutex<HashSet<u64>>>;

/// The reference, which notes the program of every verb.
struct Spy(ReferenceBackend, Programs);

impl Backend for Spy {
    fn name(&self) -> &str {
        "spy"
    }
    fn device(&self) -> DeviceId {
        self.0.device()
    }
    fn capabilities(&self) -> &Capabilities {
        self.0.capabilities()
    }
    fn supports(&self, verb: &Verb) -> Support {
        self.0.supports(verb)
    }
    fn alloc(&self, bytes: usize) -> ContractResult<Arc<dyn Storage>> {
        self.0.alloc(bytes)
    }
    fn stream(&self) -> ContractResult<Box<dyn Stream>> {
        Ok(Box::new(SpyStream(self.0.stream()?, self.1.clone())))
    }
}

struct SpyStream(Box<dyn Stream>, Programs);

impl Stream for SpyStream {
    fn submit(&self, verb: &Checked) -> ContractResult<()> {
        let program = match &**verb {
            Verb::Map(v) => Some(&v.program),
            Verb::Reduce(v) => Some(&v.program),
            _ => None,
        };
        self.1.lock().unwrap().extend(program.map(|p| p.hash()));
        self.0.submit(verb)
    }
    fn upload(&self, bytes: &[u8], to: &View) -> ContractResult<()> {
        self.0.upload(bytes, to)
    }
    fn download<'a>(&'a self, from: &'a View, bytes: &'a mut [u8]) -> Download<'a> {
        self.0.download(from, bytes)
    }
    fn sync(&self) -> Pending<'_, ()> {
        self.0.sync()
    }
}

/// Numbers that users pass, in every way that there is.
fn with_numbers(x: &Tensor, i: usize) -> Result<Tensor> {
    let n = 0.25 + i as f64 * 1e-4;
    let y = x.mul_scalar(n)?.add_scalar(-n)?.clamp(-n, n)?.leaky_relu(n)?;
    y.add(&x.huber_error(x, n)?)?.masked_fill(&x.gt(x)?, n)?.sum_all()
}

#[test]
fn different_numbers_are_one_program() {
    let programs = Programs::default();
    let spy = Spy(ReferenceBackend::new(), programs.clone());
    let device = Device::from_backend(Arc::new(spy)).unwrap();
    let x = Tensor::from_slice(&device, &[1.0f32, -2.0, 3.0], &[3]).unwrap();
    for i in 0..300 {
        with_numbers(&x, i).unwrap().to_vec::<f32>().unwrap();
    }
    let few = programs.lock().unwrap().len();
    for i in 0..50_000 {
        let n = 1.0 + i as f64 * 1e-3;
        assert_eq!(x.mul_scalar(n).unwrap().to_vec::<f32>().unwrap()[0], n as f32);
    }
    assert!(few <= 4, "{few} programs");
    assert_eq!(programs.lock().unwrap().len(), few + 1);
}

#[test]
fn numbers_beyond_what_a_verb_carries_cut_the_chain() {
    let device = Device::new("cpu").unwrap();
    let x = Tensor::from_slice(&device, &[1.0f32, -2.0, 3.0], &[3]).unwrap();
    let before = device.counters().launches;
    let (mut y, mut expected) = (x.clone(), [1.0f32, -2.0, 3.0]);
    for i in 0..15 {
        let n = 1.0 + f64::from(i) * 0.25;
        y = y.mul_scalar(n).unwrap().clamp(-n, n).unwrap();
        expected = expected.map(|x| (x * n as f32).clamp(-n as f32, n as f32));
    }
    assert_eq!(y.to_vec::<f32>().unwrap(), expected);
    assert!(device.counters().launches - before > 1, "forty-five numbers in one verb");
}

#[test]
fn a_gpu_compiles_nothing_for_another_number() {
    let device = Device::new("webgpu:0").unwrap();
    let x = Tensor::from_slice(&device, &[1.0f32, -2.0, 3.0], &[3]).unwrap();
    with_numbers(&x, 0).unwrap().to_vec::<f32>().unwrap();
    x.mul_scalar(0.3).unwrap().sum_all().unwrap().to_vec::<f32>().unwrap();
    let compiled = device.counters().compilations;
    for i in 0..100 {
        with_numbers(&x, i).unwrap().to_vec::<f32>().unwrap();
    }
    for i in 0..5_000 {
        x.mul_scalar(i as f64 * 1e-3).unwrap().sum_all().unwrap();
    }
    device.sync().unwrap();
    assert_eq!(device.counters().compilations, compiled);
}
