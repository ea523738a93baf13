//! Elementwise work and reductions.

use crate::memory::load;
use starling_contract::{DType, Immediates, Map, Program, Reduce, ReduceKind, Result, View};
use starling_ops::program::{Env, Slot};
use starling_ops::scalar::Scalar;

/// A program with its parameters and inputs read.
pub struct Operands {
    inputs: Vec<Vec<f64>>,
    words: Vec<u32>,
    reals: Vec<f64>,
    immediates: Vec<f64>,
}

impl Operands {
    /// Reads inputs and parameters.
    pub fn load(inputs: &[View], params: &[View], immediates: &Immediates) -> Result<Self> {
        let inputs = inputs.iter().map(load).collect::<Result<Vec<_>>>()?;
        let words = params.iter().map(word).collect::<Result<Vec<_>>>()?;
        let reals = words.iter().map(|&w| f64::from(f32::from_bits(w))).collect();
        let immediates = immediates.values().map(f64::from).collect();
        Ok(Self { inputs, words, reals, immediates })
    }

    /// The elements of each input.
    pub(crate) fn inputs(&self) -> &[Vec<f64>] {
        &self.inputs
    }

    /// The bits of each parameter.
    pub(crate) fn words(&self) -> &[u32] {
        &self.words
    }

    /// Each parameter as a number.
    pub(crate) fn reals(&self) -> &[f64] {
        &self.reals
    }

    /// The same with another first input.
    pub fn with_first(mut self, first: Vec<f64>) -> Self {
        self.inputs.insert(0, first);
        self
    }

    /// The program's outputs at each of `len` elements.
    pub fn eval(&self, program: &Program, len: usize) -> Vec<Vec<f64>> {
        let mut outputs = vec![vec![0.0; len]; program.outputs().len()];
        let mut slots: Vec<Slot<Scalar<f64>>> = Vec::new();
        let mut element = vec![0.0; self.inputs.len()];
        for i in 0..len {
            for (x, input) in element.iter_mut().zip(&self.inputs) {
                *x = input[i];
            }
            let env = Env {
                inputs: &element,
                params: &self.reals,
                words: &self.words,
                immediates: &self.immediates,
                index: i as u32,
            };
            program.eval(Scalar::NEW, &env, &mut slots, |o, x| outputs[o][i] = x);
        }
        outputs
    }
}

/// A parameter's 32 bits.
fn word(view: &View) -> Result<u32> {
    let x = load(view)?[0];
    Ok(if view.dtype == DType::U32 { x as u32 } else { (x as f32).to_bits() })
}

/// What is stored for `x` in an output of an elementwise program: a byte holds a truth value.
pub fn stored(dtype: DType, x: f64) -> f64 {
    if dtype == DType::U8 { f64::from(u8::from(x != 0.0)) } else { x }
}

/// Applies [`stored`] to each output.
pub fn store(views: &[&View], mut values: Vec<Vec<f64>>) -> Vec<Vec<f64>> {
    for (view, values) in views.iter().zip(&mut values) {
        values.iter_mut().for_each(|x| *x = stored(view.dtype, *x));
    }
    values
}

pub fn map(v: &Map) -> Result<Vec<Vec<f64>>> {
    let operands = Operands::load(&v.inputs, &v.params, &v.immediates)?;
    let views: Vec<&View> = v.outputs.iter().collect();
    Ok(store(&views, operands.eval(&v.program, views[0].len())))
}

pub fn reduce(v: &Reduce) -> Result<Vec<Vec<f64>>> {
    let shape = v.inputs[0].shape();
    let operands = Operands::load(&v.inputs, &v.params, &v.immediates)?;
    let values = operands.eval(&v.program, v.inputs[0].len()).swap_remove(0);
    let mut groups = vec![Vec::new(); v.output.len()];
    for (i, &x) in values.iter().enumerate() {
        groups[group(shape, v.axes, i)].push(x);
    }
    Ok(vec![groups.iter().map(|g| combine(v.kind, g)).collect()])
}

/// The output element, in row-major order, that element `index` of `shape` is combined into.
pub fn group(shape: &[usize], axes: u32, mut index: usize) -> usize {
    let (mut at, mut step) = (0, 1);
    for (axis, &n) in shape.iter().enumerate().rev() {
        if axes >> axis & 1 == 0 {
            at += index % n * step;
            step *= n;
        }
        index /= n;
    }
    at
}

/// The elements of one group in row-major order, as one number.
fn combine(kind: ReduceKind, x: &[f64]) -> f64 {
    let n = x.len() as f64;
    let sum = || x.iter().sum::<f64>();
    let first = |better: fn(f64, f64) -> bool| {
        let mut best = 0;
        for i in 1..x.len() {
            if !x[best].is_nan() && (x[i].is_nan() || better(x[i], x[best])) {
                best = i;
            }
        }
        best
    };
    match kind {
        ReduceKind::Sum => sum(),
        ReduceKind::Mean => sum() / n,
        ReduceKind::Max if x.is_empty() => f64::NEG_INFINITY,
        ReduceKind::Min if x.is_empty() => f64::INFINITY,
        ReduceKind::Max => x[first(|a, b| a > b)],
        ReduceKind::Min => x[first(|a, b| a < b)],
        ReduceKind::ArgMax => first(|a, b| a > b) as f64,
        ReduceKind::ArgMin => first(|a, b| a < b) as f64,
        ReduceKind::Var { correction } => {
            let mean = sum() / n;
            let squares: f64 = x.iter().map(|x| (x - mean) * (x - mean)).sum();
            // As in PyTorch nothing is left to divide by when there are too few.
            squares / (n - f64::from(correction)).max(0.0)
        }
    }
}
