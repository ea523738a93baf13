//! Graphs of tensor operations, as tests/golden/graphs.py describes them, run by the engine.

// Each test program uses its part.
#![allow(dead_code)]

mod steps;

use serde_json::Value;
use starling_contract::Backend;
use starling_cpu::{CpuBackend, Isa};
use starling_engine::{DType, Device, Element, Error, Result, Tensor};
use std::path::PathBuf;
use std::sync::Arc;

/// A file of tests/golden.
pub fn golden(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/golden").join(name)
}

/// Every device of this machine: each row of vector instructions, every GPU, the reference, and
/// the smallest backend, for which the engine composes most verbs.
pub fn devices() -> Vec<(String, Device)> {
    let mut backends: Vec<(String, Arc<dyn Backend>)> = Vec::new();
    for isa in Isa::available() {
        backends.push((format!("cpu {isa}"), CpuBackend::new(isa, Some(2)).unwrap()));
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
    let wanted = std::env::var("STARLING_GRAPH_DEVICES").unwrap_or_default();
    all.retain(|(name, _)| wanted.is_empty() || wanted.split(',').any(|w| name.starts_with(w)));
    assert!(!all.is_empty(), "STARLING_GRAPH_DEVICES={wanted} names no device of this machine");
    all
}

/// One graph with what PyTorch says about it.
pub struct Graph(pub Value);

/// What came out of a run: each output and each gradient in its own type, as bits.
pub type Outcome = Vec<Option<Array>>;

/// A downloaded tensor.
#[derive(Clone, Debug, PartialEq)]
pub struct Array {
    pub dtype: DType,
    pub shape: Vec<usize>,
    pub bytes: Vec<u8>,
}

/// What is done besides running the steps one after another.
#[derive(Clone, Copy, PartialEq)]
pub enum Mode {
    Plain,
    /// Every value is downloaded as soon as it is made.
    Looking,
    /// The steps are captured, and replayed on inputs that were zero meanwhile.
    Captured,
}

/// The tensors of one run.
pub struct Run<'a> {
    pub device: &'a Device,
    pub nodes: Vec<Tensor>,
    leaves: Vec<usize>,
}

pub fn usizes(x: &Value) -> Vec<usize> {
    let numbers = x.as_array().expect("an array").iter();
    numbers.map(|n| n.as_u64().expect("an extent") as usize).collect()
}

pub fn number(x: &Value) -> f64 {
    match x.as_str() {
        Some("nan") => f64::NAN,
        Some("inf") => f64::INFINITY,
        Some("-inf") => f64::NEG_INFINITY,
        _ => x.as_f64().expect("a number"),
    }
}

pub fn dtype(x: &Value) -> DType {
    let all = [DType::F32, DType::F16, DType::BF16, DType::I32, DType::U32, DType::U8, DType::I8];
    let name = x.as_str().expect("a dtype");
    all.into_iter().find(|d| d.to_string() == name).expect("a known dtype")
}

macro_rules! by_dtype {
    ($dtype:expr, $t:ident => $body:expr) => {
        match $dtype {
            DType::F32 => {
                type $t = f32;
                $body
            }
            DType::F16 => {
                type $t = half::f16;
                $body
            }
            DType::BF16 => {
                type $t = half::bf16;
                $body
            }
            DType::I32 => {
                type $t = i32;
                $body
            }
            DType::U32 => {
                type $t = u32;
                $body
            }
            DType::U8 => {
                type $t = u8;
                $body
            }
            DType::I8 => {
                type $t = i8;
                $body
            }
        }
    };
}

/// A number of an element type from the file's and back.
trait Number: Element {
    fn of(x: f64) -> Self;
    fn wide(self) -> f64;
}

macro_rules! numbers {
    ($($t:ty)*) => {
        $(impl Number for $t {
            fn of(x: f64) -> Self { x as $t }
            fn wide(self) -> f64 { self as f64 }
        })*
    };
}

numbers! { f32 i32 u32 u8 i8 }

impl Number for half::f16 {
    fn of(x: f64) -> Self {
        half::f16::from_f64(x)
    }
    fn wide(self) -> f64 {
        self.to_f64()
    }
}

impl Number for half::bf16 {
    fn of(x: f64) -> Self {
        half::bf16::from_f64(x)
    }
    fn wide(self) -> f64 {
        self.to_f64()
    }
}

/// A tensor of the file's numbers.
fn upload(device: &Device, d: DType, data: &[Value], shape: &[usize]) -> Result<Tensor> {
    by_dtype!(d, T => {
        let data: Vec<T> = data.iter().map(|x| <T as Number>::of(number(x))).collect();
        Tensor::from_slice(device, &data, shape)
    })
}

/// Overwrites a tensor with the file's numbers.
pub fn overwrite(tensor: &Tensor, data: &[Value]) -> Result<()> {
    by_dtype!(tensor.dtype(), T => {
        let data: Vec<T> = data.iter().map(|x| <T as Number>::of(number(x))).collect();
        tensor.copy_from_slice(&data)
    })
}

fn download(tensor: &Tensor) -> Result<Array> {
    let bytes = by_dtype!(tensor.dtype(), T => {
        bytemuck::cast_slice(&tensor.to_vec::<T>()?).to_vec()
    });
    Ok(Array { dtype: tensor.dtype(), shape: tensor.shape().to_vec(), bytes })
}

impl Array {
    fn numbers(&self) -> Vec<f64> {
        by_dtype!(self.dtype, T => {
            bytemuck::pod_collect_to_vec::<u8, T>(&self.bytes).into_iter().map(T::wide).collect()
        })
    }

    /// What is wrong with it.
    fn differs(&self, golden: &Value) -> Option<String> {
        if self.shape != usizes(&golden["shape"]) {
            return Some(format!("has the shape {:?} and not {}", self.shape, golden["shape"]));
        }
        let truth = golden["data"].as_array().expect("numbers");
        for (i, (x, t)) in self.numbers().into_iter().zip(truth).enumerate() {
            let t = number(t);
            let bound = golden["bound"].as_array().map_or(0.0, |b| number(&b[i]));
            let right = if t.is_finite() { (x - t).abs() <= bound } else { same(x, t) };
            if !right {
                return Some(format!("[{i}] is {x:e} and not {t:e} to within {bound:e}"));
            }
        }
        None
    }
}

fn same(a: f64, b: f64) -> bool {
    a == b || (a.is_nan() && b.is_nan())
}

impl Graph {
    /// The lines of a text that hold a graph each.
    pub fn lines(text: &str) -> Vec<Self> {
        let lines = text.lines().filter(|l| !l.trim().is_empty());
        lines.map(|l| Self(serde_json::from_str(l).expect("a graph a line"))).collect()
    }

    fn list(&self, key: &str) -> &[Value] {
        self.0[key].as_array().map_or(&[], Vec::as_slice)
    }

    fn writes(&self) -> bool {
        let names = self.list("steps").iter().map(|s| s[0].as_str().unwrap_or(""));
        names.into_iter().any(|n| ["copy_from_slice", "slice_assign"].contains(&n))
    }

    /// Whether the steps move nothing between host and device, so that they can be captured.
    pub fn capturable(&self) -> bool {
        let names = self.list("steps").iter().map(|s| s[0].as_str().unwrap_or(""));
        !names.into_iter().any(|n| ["copy_from_slice", "arange", "look", "to_device"].contains(&n))
    }

    fn inputs(&self, device: &Device) -> Result<(Vec<Tensor>, Vec<usize>)> {
        let (mut nodes, mut leaves) = (Vec::new(), Vec::new());
        for (i, x) in self.list("inputs").iter().enumerate() {
            let data = x["data"].as_array().expect("numbers");
            let tensor = upload(device, dtype(&x["dtype"]), data, &usizes(&x["shape"]))?;
            let grad = x["grad"].as_bool().unwrap_or(false);
            nodes.push(if grad { tensor.requires_grad() } else { tensor });
            leaves.extend(grad.then_some(i));
        }
        Ok((nodes, leaves))
    }

    /// Runs the steps and backward; the outputs and gradients are still on the device.
    fn compute(
        &self,
        run: &mut Run<'_>,
        weights: &[Tensor],
        mode: Mode,
    ) -> Result<Vec<Option<Tensor>>> {
        for step in self.list("steps") {
            let before = run.nodes.len();
            run.step(step)?;
            if mode == Mode::Looking {
                run.nodes[before..].iter().try_for_each(|t| download(t).map(|_| ()))?;
            }
        }
        let outputs: Vec<Tensor> =
            usizes(&self.0["outputs"]).into_iter().map(|i| run.nodes[i].clone()).collect();
        let mut loss: Option<Tensor> = None;
        for ((y, w), golden) in outputs.iter().zip(weights).zip(self.list("values")) {
            if golden["taped"] == true {
                let part = y.to_dtype(DType::F32)?.mul(w)?.sum_all()?;
                loss = Some(match loss {
                    Some(sum) => sum.add(&part)?,
                    None => part,
                });
            }
        }
        if let Some(loss) = loss {
            loss.backward()?;
        }
        let gradients = run.leaves.iter().map(|&i| run.nodes[i].grad());
        Ok(outputs.into_iter().map(Some).chain(gradients).collect())
    }

    /// Runs the graph on a device.
    pub fn run(&self, device: &Device, mode: Mode) -> Result<Outcome> {
        let (nodes, leaves) = self.inputs(device)?;
        let inputs = nodes.clone();
        let weights: Vec<Tensor> = self.weights(device)?;
        let mut run = Run { device, nodes, leaves };
        let results = if mode == Mode::Captured {
            let (step, results) = device.capture(|| self.compute(&mut run, &weights, mode))?;
            let data = self.list("inputs").iter().map(|x| x["data"].as_array().expect("numbers"));
            for (tensor, data) in inputs.iter().zip(data.clone()) {
                // Indices of 0 are inside, too.
                overwrite(&tensor.detach(), &vec![Value::from(0); data.len()])?;
            }
            step.replay()?;
            for (tensor, data) in inputs.iter().zip(data) {
                overwrite(&tensor.detach(), data)?;
            }
            step.replay()?;
            results
        } else {
            self.compute(&mut run, &weights, mode)?
        };
        results.iter().map(|t| t.as_ref().map(download).transpose()).collect()
    }

    /// The loss's weight of each element of each output, by the formula that graphs.py has.
    fn weights(&self, device: &Device) -> Result<Vec<Tensor>> {
        let of = |golden: &Value| {
            let shape = usizes(&golden["shape"]);
            let n: usize = shape.iter().product();
            let data: Vec<f32> = (0..n).map(|j| ((7 * j + 3) % 11) as f32 - 5.0).collect();
            let data: Vec<f32> = data.into_iter().map(|w| w / 4.0).collect();
            Tensor::from_slice(device, &data, &shape)
        };
        self.list("values").iter().map(of).collect()
    }

    /// What is wrong with an outcome. `Modified` is right where a step writes in place: the
    /// engine may refuse a gradient that PyTorch, made to keep what was overwritten, has.
    pub fn judge(&self, outcome: &Result<Outcome>) -> std::result::Result<(), String> {
        let outcome = match outcome {
            Ok(outcome) => outcome,
            Err(Error::Modified { .. }) if self.writes() => return Ok(()),
            Err(error) => return Err(error.to_string()),
        };
        let golden: Vec<&Value> =
            self.list("values").iter().chain(self.list("gradients")).collect();
        assert_eq!(golden.len(), outcome.len());
        let outputs = self.list("values").len();
        for (i, (found, golden)) in outcome.iter().zip(golden).enumerate() {
            let name = match i.checked_sub(outputs) {
                Some(leaf) => format!("gradient {leaf}"),
                None => format!("output {i}"),
            };
            match (found, golden.is_null()) {
                (None, true) => {}
                (Some(found), false) => match found.differs(golden) {
                    Some(fault) => return Err(format!("{name} {fault}")),
                    None => self.gradient_dtype(i, outputs, found)?,
                },
                // No path to the leaf: zeros say so as well as nothing.
                (Some(zeros), true) if zeros.numbers().iter().all(|&x| x == 0.0) => {}
                (Some(_), true) => return Err(format!("{name} is there and should not be")),
                (None, false) => return Err(format!("{name} is missing")),
            }
        }
        Ok(())
    }

    /// A gradient has its value's type.
    fn gradient_dtype(
        &self,
        i: usize,
        outputs: usize,
        found: &Array,
    ) -> std::result::Result<(), String> {
        let Some(leaf) = i.checked_sub(outputs) else { return Ok(()) };
        let leaves = self.list("inputs").iter().filter(|x| x["grad"] == true);
        let wanted = leaves.map(|x| dtype(&x["dtype"])).nth(leaf).expect("a leaf");
        if found.dtype == wanted {
            return Ok(());
        }
        Err(format!("gradient {leaf} is {} of a {wanted} value", found.dtype))
    }
}
