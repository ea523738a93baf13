//! Elementwise programs, and reductions of their values.
//!
//! A [`Program`] is data: nodes in an order in which they can be evaluated. A device prints it as
//! source (`starling_ops::wgsl` does for WGSL), compiles it once and finds it again under
//! `Program::hash`; here it is interpreted, in f32, element by element. `Scalar<f32>` has the
//! polynomials of every other backend, and so their bits.

use crate::memory::{load, storer};
use starling_contract::{
    DType, Immediates, Layout, Map, Program, Reduce, ReduceKind, Result, View,
};
use starling_ops::program::{Env, Slot};
use starling_ops::scalar::Scalar;

/// Hands the program's outputs at each of `len` elements to `each`, in row-major order. Inputs of
/// every dtype are computed on as f32, bytes as 0 to 255.
fn evaluate(
    op: &'static str,
    program: &Program,
    (inputs, params, immediates): (&[View], &[View], &Immediates),
    len: usize,
    mut each: impl FnMut(&[f32]),
) -> Result<()> {
    // A parameter is read now and not when the program is built: it changes from step to step.
    // It is one word, which the program takes as an f32 or as an integer.
    let mut words = Vec::new();
    for view in params {
        let word = |x: f64| if view.dtype == DType::U32 { x as u32 } else { (x as f32).to_bits() };
        words.extend(load(op, view)?.map(word));
    }
    // Immediates are numbers that came with the verb: programs that differ only in them are one.
    let immediates: Vec<f32> = immediates.values().collect();
    let reals: Vec<f32> = words.iter().map(|&w| f32::from_bits(w)).collect();

    let mut element = vec![0.0; inputs.len()];
    let mut inputs = inputs.iter().map(|view| load(op, view)).collect::<Result<Vec<_>>>()?;
    let mut outputs = vec![0.0; program.outputs().len()];
    let mut slots: Vec<Slot<Scalar<f32>>> = Vec::new();
    for i in 0..len {
        let numbers = inputs.iter_mut().filter_map(Iterator::next);
        element.iter_mut().zip(numbers).for_each(|(to, x)| *to = x as f32);
        // The index is the element's number in row-major order, whatever the strides.
        let env = Env {
            inputs: &element,
            params: &reals,
            words: &words,
            immediates: &immediates,
            index: i as u32,
        };
        program.eval(Scalar::NEW, &env, &mut slots, |output, x| outputs[output] = x);
        each(&outputs);
    }
    Ok(())
}

/// An output may be the very same view as an input: an element is written after it was read, and
/// nothing reads it again.
///
/// A map without inputs has its outputs' shape. A u8 output holds truth: 1 where the value is not
/// 0, and NaN is not.
pub(crate) fn map(v: &Map) -> Result<()> {
    let truth = |view: &View| view.dtype == DType::U8;
    let store = |view| Ok((storer("map", view)?, truth(view)));
    let mut outputs = v.outputs.iter().map(store).collect::<Result<Vec<_>>>()?;
    let len = v.outputs[0].len();
    evaluate("map", &v.program, (&v.inputs, &v.params, &v.immediates), len, |values| {
        for ((store, truth), &x) in outputs.iter_mut().zip(values) {
            store(if *truth { f64::from(u8::from(x != 0.0)) } else { x.into() });
        }
    })
}

/// Elements are combined in row-major order. Any order that follows from the shape alone will do
/// (blocks, a tree), so that results have the same bits in every run: no atomics on floats.
pub(crate) fn reduce(v: &Reduce) -> Result<()> {
    let (shape, len) = (v.inputs[0].shape(), v.inputs[0].len());
    let mut groups = vec![Group::default(); v.output.len()];
    // The output repeated along the reduced axes: which group each element belongs to.
    let repeated = Layout::contiguous(v.output.shape()).broadcast_to(shape);
    let mut group = repeated.iter().flat_map(Layout::positions);
    evaluate("reduce", &v.program, (&v.inputs, &v.params, &v.immediates), len, |values| {
        if let Some(at) = group.next() {
            groups[at].add(v.kind, values[0]);
        }
    })?;
    let mut store = storer("reduce", &v.output)?;
    groups.iter().for_each(|group| store(group.result(v.kind)));
    Ok(())
}

/// What is known of the elements that have been combined so far. Sums are f64 because the host
/// has it; a device adds in f32, in blocks or as a tree, and the table allows for that.
#[derive(Clone, Default)]
struct Group {
    count: f64,
    sum: f64,
    /// The mean and the sum of squared distances from it (Welford 1962): the difference of two
    /// large sums would cancel.
    mean: f64,
    squares: f64,
    best: f32,
    best_at: f64,
}

impl Group {
    fn add(&mut self, kind: ReduceKind, x: f32) {
        let better = match kind {
            ReduceKind::Max | ReduceKind::ArgMax => x > self.best,
            ReduceKind::Min | ReduceKind::ArgMin => x < self.best,
            ReduceKind::Sum | ReduceKind::Mean | ReduceKind::Var { .. } => false,
        };
        // NaN beats all numbers, and the first NaN and the first of equals stay.
        if self.count == 0.0 || !self.best.is_nan() && (better || x.is_nan()) {
            (self.best, self.best_at) = (x, self.count);
        }
        let x = f64::from(x);
        self.count += 1.0;
        self.sum += x;
        let distance = x - self.mean;
        self.mean += distance / self.count;
        self.squares += distance * (x - self.mean);
    }

    fn result(&self, kind: ReduceKind) -> f64 {
        match kind {
            ReduceKind::Sum => self.sum,
            ReduceKind::Mean => self.sum / self.count,
            ReduceKind::Max if self.count == 0.0 => f64::NEG_INFINITY,
            ReduceKind::Min if self.count == 0.0 => f64::INFINITY,
            ReduceKind::Max | ReduceKind::Min => self.best.into(),
            ReduceKind::ArgMax | ReduceKind::ArgMin => self.best_at,
            ReduceKind::Var { correction } => {
                self.squares / (self.count - f64::from(correction)).max(0.0)
            }
        }
    }
}
