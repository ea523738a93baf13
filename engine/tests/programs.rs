//! Programs: what users pass as numbers is no part of them.

use starling_contract::{
    Backend, Capabilities, Checked, DeviceId, Download, Pending, Result as ContractResult, Storage,
    Stream, Support, Verb, View,
};
use starling_cpu::{CpuBackend, Isa};
use starling_engine::{DType, Device, Result, Tensor, WeightLayout};
use starling_ops::defs::Def;
use starling_ops::philox::HostStream;
use starling_reference::ReferenceBackend;
use std::collections::HashSet;
use std::sync::{Arc, Mutex};

type Programs = Arc<Mutex<HashSet<u64>>>;

/// The CPU, which notes the program of every verb.
struct Spy(Arc<CpuBackend>, Programs);

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
    let cpu = CpuBackend::new(Isa::Scalar, Some(1)).unwrap();
    let spy = Spy(cpu, programs.clone());
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

fn devices() -> Vec<Device> {
    let reference: Arc<dyn Backend> = Arc::new(ReferenceBackend::new());
    let all = [Device::new("cpu"), Device::from_backend(reference), Device::new("webgpu:0")];
    all.into_iter().map(|d| d.unwrap()).collect()
}

fn bits(t: &Tensor) -> Vec<u32> {
    t.to_dtype(DType::F32).unwrap().to_vec::<f32>().unwrap().iter().map(|x| x.to_bits()).collect()
}

/// A random graph over narrow values: arithmetic, numbers, casts, views and reductions. What
/// `look` is told of is looked at where it says so.
fn graph(device: &Device, seed: u64, dtype: DType, look: &mut dyn FnMut(&Tensor)) -> Tensor {
    let mut random = HostStream::seeded(seed, 0);
    let data: Vec<f32> = (0..36).map(|_| random.normal()).collect();
    let x = Tensor::from_slice(device, &data, &[6, 6]).unwrap();
    let mut all =
        vec![x.to_dtype(dtype).unwrap(), x.transpose(0, 1).unwrap().to_dtype(dtype).unwrap()];
    for _ in 0..14 {
        let a = all[random.below(all.len() as u32) as usize].clone();
        let b = all[random.below(all.len() as u32) as usize].clone();
        let number = f64::from(random.normal());
        let next = match random.below(12) {
            0 => a.add(&b),
            1 => a.mul(&b),
            2 => a.sub(&b),
            3 => a.maximum(&b),
            4 => a.mul_scalar(number),
            5 => a.add_scalar(number),
            6 => a.clamp(-number.abs(), number.abs()),
            7 => a.transpose(0, 1),
            8 => a.slice(0, 5, 6, -1),
            9 => a.reshape(&[4, 9]).unwrap().abs().unwrap().reshape(&[6, 6]),
            10 => a.to_dtype(DType::F32).unwrap().leaky_relu(0.3).unwrap().to_dtype(dtype),
            _ => a.sum_axis(&b),
        }
        .unwrap();
        look(&next);
        all.push(next);
    }
    let last = all.pop().unwrap();
    all.iter().fold(last, |sum, t| sum.add(t).unwrap())
}

/// What the graph takes of a reduction.
trait SumAxis {
    fn sum_axis(&self, other: &Tensor) -> Result<Tensor>;
}

impl SumAxis for Tensor {
    fn sum_axis(&self, other: &Tensor) -> Result<Tensor> {
        let sum = self.mul_scalar(0.125)?.sum(&[1], true)?;
        other.mul(&sum.to_dtype(other.dtype())?.broadcast_to(other.shape())?)
    }
}

#[test]
fn the_bits_of_a_result_do_not_depend_on_what_was_looked_at() {
    for device in devices() {
        // A GPU compiles every program.
        let seeds = if device.name().starts_with("webgpu") { 4 } else { 40 };
        for (seed, dtype) in (0..seeds).zip([DType::F16, DType::BF16].into_iter().cycle()) {
            let unseen = bits(&graph(&device, seed, dtype, &mut |_| {}));
            let seen = bits(&graph(&device, seed, dtype, &mut |t| drop(bits(t))));
            assert_eq!(unseen, seen, "seed {seed}, {dtype} on {}", device.name());
            let mut turn = 0;
            let some = bits(&graph(&device, seed, dtype, &mut |t| {
                turn += 1;
                if turn % 3 == 0 {
                    drop(bits(t));
                }
            }));
            assert_eq!(unseen, some, "seed {seed}, {dtype} on {}", device.name());
        }
    }
}

#[test]
fn views_and_casts_of_expressions_are_expressions() {
    let device = Device::new("cpu").unwrap();
    let data: Vec<f32> = (0..24).map(|i| i as f32 * 0.25 - 3.0).collect();
    let x = Tensor::from_slice(&device, &data, &[4, 6]).unwrap();
    let row = Tensor::from_slice(&device, &data[..6], &[6]).unwrap();
    // ((x + row)^T, every other column, backwards, in another shape) * 2, in bf16
    let seen_as = |shape: &[usize]| {
        let before = device.counters().launches;
        let y = x.add(&row).unwrap().transpose(0, 1).unwrap().slice(0, 4, 3, -2).unwrap();
        let y = y.mul_scalar(2.0).unwrap().reshape(shape).unwrap();
        let y = y.to_dtype(DType::BF16).unwrap().add_scalar(1.0).unwrap();
        let y = y.to_dtype(DType::F32).unwrap().to_vec::<f32>().unwrap();
        (device.counters().launches - before, y)
    };
    let expected = (0..12).map(|i| {
        let (column, r) = (4 - 2 * (i / 4), i % 4);
        let x = 2.0 * (data[r * 6 + column] + data[column]);
        let x = half::bf16::from_f32(half::bf16::from_f32(x).to_f32() + 1.0);
        x.to_f32()
    });
    let expected: Vec<f32> = expected.collect();
    assert_eq!(seen_as(&[3, 2, 2]), (1, expected.clone()));
    // No strides of x say this shape, so the sum is stored.
    assert_eq!(seen_as(&[2, 6]), (2, expected));
}

#[test]
fn a_view_of_an_expression_shares_its_memory() {
    let device = Device::new("cpu").unwrap();
    let x = Tensor::from_slice(&device, &[1.0f32, 2.0, 3.0, 4.0], &[2, 2]).unwrap();
    let y = x.add_scalar(1.0).unwrap();
    let view = y.transpose(0, 1).unwrap();
    let late = view.mul_scalar(10.0).unwrap();
    y.copy_from_slice(&[0.0f32, 0.0, 7.0, 0.0]).unwrap();
    // What was asked for before the write has the old values; the view has the new ones.
    assert_eq!(late.to_vec::<f32>().unwrap(), [20.0, 40.0, 30.0, 50.0]);
    assert_eq!(view.contiguous().unwrap().to_vec::<f32>().unwrap(), [0.0, 7.0, 0.0, 0.0]);
}

mod odd {
    use starling_ops::{Gradient, definition};

    definition! {
        /// No operand.
        seven Seven() [] Gradient::Derived, |m| m.lit(7.0)
    }
    definition! {
        /// Two results.
        pair Pair(x: Real) [] Gradient::Derived, 2, |m| [m.mul(x, x), m.neg(x)]
    }
    definition! {
        /// A truth value.
        is_positive IsPositive(x: Real) [] Gradient::Truth,
            |m| m.select(m.gt(x, m.lit(0.0)), m.lit(1.0), m.lit(0.0))
    }
}

#[test]
fn a_definition_that_does_not_fit_is_an_error() -> Result<()> {
    let device = Device::new("cpu")?;
    let x = Tensor::from_slice(&device, &[1f32, -2.0], &[1, 2])?.requires_grad();
    let w = Tensor::from_slice(&device, &[1f32, 2.0, 3.0, 4.0], &[2, 2])?.requires_grad();
    let through = |def| x.linear(&w, None, WeightLayout::InOut, Some(def));
    let says = |result: Result<Tensor>, words: &str| {
        let error = result.unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    };
    says(Tensor::apply(odd::Seven::DEFINITION, &[], &[]), "operand");
    says(Tensor::apply(odd::Pair::DEFINITION, &[&x], &[]), "2 results");
    says(through(odd::Seven::DEFINITION), "an activation");
    says(through(odd::Pair::DEFINITION), "an activation");
    says(through(odd::IsPositive::DEFINITION), "an activation");
    Ok(())
}
