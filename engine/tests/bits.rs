//! A result's bits depend on the values that it is made of, not on how these came to lie in memory:
//! random expressions over views that are permuted, repeated, sliced, and of narrow types give the
//! same bits when every value is looked at on the way, and when every value is replaced by a fresh
//! copy of itself.

use starling_contract::Backend;
use starling_cpu::{CpuBackend, Isa};
use starling_engine::{DType, Device, Result, Tensor};
use starling_ops::philox::HostStream;
use std::sync::Arc;

/// What is done with every value as soon as it is made.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Eye {
    Closed,
    /// It is downloaded.
    Looking,
    /// It is downloaded, and what was uploaded again is used instead.
    Copying,
}

/// One random expression on its way.
struct Run {
    device: Device,
    draw: HostStream,
    eye: Eye,
}

/// Every device of this machine, the CPU's with one and with two threads.
fn devices() -> Vec<(String, Device)> {
    let mut backends: Vec<(String, Arc<dyn Backend>)> = Vec::new();
    for isa in Isa::under_test().unwrap() {
        for threads in [1, 2] {
            let name = format!("cpu {isa}, {threads} threads");
            backends.push((name, CpuBackend::new(isa, Some(threads)).unwrap()));
        }
    }
    let reference = starling_reference::ReferenceBackend::new();
    backends.push(("reference".into(), Arc::new(reference)));
    let minimal = starling_example_backend::MinimalBackend::new();
    backends.push(("minimal".into(), Arc::new(minimal)));
    let mut all: Vec<(String, Device)> =
        backends.into_iter().map(|(n, b)| (n, Device::from_backend(b).unwrap())).collect();
    for probe in Device::probe() {
        if probe.status.is_ok() && probe.name.starts_with("webgpu") {
            all.push((probe.name.clone(), Device::new(&probe.name).unwrap()));
        }
    }
    all
}

impl Run {
    fn below(&mut self, n: usize) -> usize {
        self.draw.below(n as u32) as usize
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }

    fn seen(&self, x: Tensor) -> Result<Tensor> {
        match (self.eye, x.dtype()) {
            (Eye::Closed, _) => Ok(x),
            (_, DType::F16) => self.as_is::<half::f16>(x),
            (_, DType::BF16) => self.as_is::<half::bf16>(x),
            (_, DType::I32) => self.as_is::<i32>(x),
            _ => self.as_is::<f32>(x),
        }
    }

    fn as_is<T: starling_engine::Element>(&self, x: Tensor) -> Result<Tensor> {
        let data = x.to_vec::<T>()?;
        if self.eye == Eye::Looking {
            return Ok(x);
        }
        Tensor::from_slice(&self.device, &data, x.shape())
    }

    /// Short axes, sometimes a long one.
    fn shape(&mut self, rank: usize) -> Vec<usize> {
        let mut shape: Vec<usize> = (0..rank).map(|_| 1 + self.below(6)).collect();
        if self.below(2) == 0 {
            let axis = self.below(rank);
            shape[axis] = self.pick(&[16, 33, 130, 600, 1100, 2600]);
        }
        shape
    }

    /// A value of `shape` whose axes lie in another order, of which some are repeated or passed
    /// in steps.
    fn leaf(&mut self, shape: &[usize], narrow: bool) -> Result<Tensor> {
        let rank = shape.len();
        let mut order: Vec<usize> = (0..rank).collect();
        (1..rank).rev().for_each(|i| order.swap(i, self.below(i + 1)));
        let kinds: Vec<usize> = (0..rank).map(|_| self.below(8)).collect();
        // What lies in memory: axis `order[i]` of the shape is axis `i` of it.
        let lies = |&axis: &usize| match kinds[axis] {
            0 => 1,
            1 => 2 * shape[axis],
            _ => shape[axis],
        };
        let own: Vec<usize> = order.iter().map(lies).collect();
        let data: Vec<f32> = (0..own.iter().product()).map(|_| self.draw.normal()).collect();
        let mut x = Tensor::from_slice(&self.device, &data, &own)?;
        if narrow {
            let dtype = self.pick(&[DType::F32, DType::F32, DType::F16, DType::BF16]);
            x = self.seen(x.to_dtype(dtype)?)?;
        }
        let places: Vec<usize> =
            (0..rank).map(|axis| order.iter().position(|&a| a == axis).unwrap()).collect();
        x = self.seen(x.permute(&places)?)?;
        for axis in 0..rank {
            match kinds[axis] {
                1 => x = self.seen(x.slice(axis, 1, shape[axis], 2)?)?,
                2 => x = self.seen(x.slice(axis, shape[axis] - 1, shape[axis], -1)?)?,
                _ => {}
            }
        }
        self.seen(x.broadcast_to(shape)?)
    }

    /// Up to six operands, and up to a dozen values of which all are needed to the end.
    fn chain(&mut self, shape: &[usize], narrow: bool) -> Result<Tensor> {
        let leaves = 1 + self.below(6);
        let leaves = (0..leaves).map(|_| self.leaf(shape, narrow)).collect::<Result<Vec<_>>>()?;
        let mut values = leaves.clone();
        for _ in 0..self.below(9) {
            let (a, b) = (self.below(values.len()), self.below(values.len()));
            let a = &values[a];
            let b = &values[b].to_dtype(a.dtype())?;
            let value = match self.draw.below(8) {
                0 => a.tanh()?,
                1 => a.gelu()?,
                2 => a.mul(b)?.add_scalar(0.3)?,
                3 => a.maximum(b)?,
                4 => a.sub(b)?,
                5 => a.sigmoid()?.mul(b)?,
                6 => a.sin()?,
                _ => a.mul_scalar(1.7)?.add(b)?,
            };
            values.push(self.seen(value)?);
        }
        let mut y = values[0].clone();
        for value in &values[1..] {
            y = self.seen(y.add(&value.to_dtype(y.dtype())?)?)?;
        }
        for value in &values[leaves.len()..] {
            y = self.seen(y.mul(&value.to_dtype(y.dtype())?)?)?;
        }
        Ok(y)
    }

    /// A chain whose result is seen with its axes in another order.
    fn turned(&mut self, shape: &[usize], narrow: bool) -> Result<Tensor> {
        let mut order: Vec<usize> = (0..shape.len()).collect();
        if self.below(2) == 0 {
            (1..order.len()).rev().for_each(|i| order.swap(i, self.below(i + 1)));
        }
        let mut own = vec![0; shape.len()];
        order.iter().zip(shape).for_each(|(&axis, &n)| own[axis] = n);
        let y = self.chain(&own, narrow)?.permute(&order)?;
        self.seen(y)
    }

    fn reduction(&mut self) -> Result<Tensor> {
        let rank = 1 + self.below(4);
        let shape = self.shape(rank);
        let x = self.turned(&shape, true)?;
        let axes: Vec<isize> = (0..rank as isize).filter(|_| self.below(2) == 0).collect();
        let axis = self.below(rank) as isize;
        match self.below(7) {
            0 => x.sum(&axes, false),
            1 => x.mean(&axes, true),
            2 => x.max(&axes, false),
            3 => x.min(&axes, true),
            4 => x.var(&axes, 0, false),
            5 => x.argmax(axis, false),
            _ => x.sum_all(),
        }
    }

    fn rows(&mut self) -> Result<Tensor> {
        let rank = 1 + self.below(3);
        let mut shape: Vec<usize> = (0..rank).map(|_| 1 + self.below(6)).collect();
        shape[rank - 1] = self.pick(&[1, 7, 16, 33, 300, 1030, 4100]);
        let n = [shape[rank - 1]];
        let x = self.turned(&shape, false)?;
        match self.below(5) {
            0 => x.softmax(-1),
            1 => x.log_softmax(self.below(rank) as isize),
            2 => {
                let (weight, bias) = (self.turned(&n, false)?, self.turned(&n, false)?);
                x.layer_norm(Some(&weight), Some(&bias), 1e-5)
            }
            3 => x.rms_norm(Some(&self.turned(&n, false)?), 1e-5),
            _ => {
                let rows = &shape[..rank - 1];
                let classes: Vec<i32> =
                    (0..rows.iter().product()).map(|_| self.below(n[0]) as i32).collect();
                x.cross_entropy_rows(&Tensor::from_slice(&self.device, &classes, rows)?, None)
            }
        }
    }
}

/// The bits of one random expression's result.
fn bits(
    device: &Device,
    seed: u64,
    eye: Eye,
    make: impl Fn(&mut Run) -> Result<Tensor>,
) -> (Vec<usize>, Vec<u32>) {
    let mut run = Run { device: device.clone(), draw: HostStream::seeded(seed, 7), eye };
    let y = make(&mut run).unwrap();
    let bits = match y.dtype() {
        DType::I32 => y.to_vec::<i32>().unwrap().into_iter().map(|x| x as u32).collect(),
        _ => y.to_vec::<f32>().unwrap().into_iter().map(f32::to_bits).collect(),
    };
    (y.shape().to_vec(), bits)
}

/// Panics with every seed and device whose bits are others when values are looked at.
fn check(seeds: u64, make: impl Fn(&mut Run) -> Result<Tensor>) {
    let mut wrong = Vec::new();
    for (name, device) in devices() {
        // A GPU compiles every program anew.
        let seeds = if name.starts_with("webgpu") { seeds.div_ceil(15) } else { seeds };
        for seed in 0..seeds {
            let plain = bits(&device, seed, Eye::Closed, &make);
            for eye in [Eye::Looking, Eye::Copying] {
                if bits(&device, seed, eye, &make) != plain {
                    wrong.push(format!("seed {seed}: {eye:?} gives other bits on {name}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn a_reduction_adds_in_an_order_of_its_own() {
    check(150, Run::reduction);
}

#[test]
fn rows_are_added_in_an_order_of_their_own() {
    check(60, Run::rows);
}
