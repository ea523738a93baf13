//! Lowering: verbs that a backend has not written, made of `map`, `reduce`, `gemm` and `copy`.
//!
//! A backend that answers `Support::Composed` for a verb gets here, so that a new
//! one works with those four and is made fast verb by verb. What that costs:
//!
//! - attention keeps the matrix of scores, and its backward two of them: memory is quadratic in
//!   the sequence lengths. Where pairs may be hidden, three products stand for each one that reads
//!   what is hidden: of what is finite, and of where it is not;
//! - gather and scatter_add compare every index with every row of the table;
//! - a product writes its result before the epilogue, a map of its own, reads it again; narrow
//!   operands (f16, bf16) are copied to f32 first;
//! - indices pass through f32, which is exact up to 2^24: larger tables are refused;
//! - an index outside its table cannot be reported, because nothing is read back. Gather then
//!   yields -inf (0 for integers), cross-entropy a loss of inf or, in backward, the gradient of
//!   the log-sum-exp alone; scatter_add adds nothing.
//!
//! Lowering makes a list and runs nothing: it knows neither a device nor a queue. Whoever asked
//! runs the list as it runs any verb, so what is made here is checked, counted, captured and, where
//! the backend has not written it either, lowered once more.

mod attention;
mod gemm;
mod heads;
mod index;
mod rows;
mod sight;

use crate::error::{Error, Result};
use starling_contract::{
    Copy, DType, Gemm, Immediates, Layout, MAX_RANK, Map, Program, Reduce, ReduceKind, Storage,
    Verb, View,
};
use starling_ops::Math;
use starling_ops::program::Builder;
use starling_ops::trace::{Real, Trace};
use std::cell::RefCell;
use std::sync::Arc;

/// Positions up to this one are exact in f32.
const MAX_POSITION: usize = 1 << 24;

/// Memory for so many bytes. Whoever gives it keeps it until the verbs are enqueued.
pub(crate) type Alloc<'a> = &'a mut dyn FnMut(usize) -> Result<Arc<dyn Storage>>;

/// The simpler verbs that a composed one stands for, in order; `None` for the verbs that others are
/// made of.
///
/// # Errors
/// Operands that the composition cannot take; what `alloc` reports.
pub(crate) fn lower(verb: &Verb, alloc: Alloc<'_>) -> Result<Option<Vec<Verb>>> {
    let mut lowering = Lowering { op: verb.name(), alloc, verbs: Vec::new() };
    let l = &mut lowering;
    match verb {
        Verb::Attention(v) => attention::forward(l, v)?,
        Verb::AttentionBackward(v) => attention::backward(l, v)?,
        Verb::Softmax(v) => rows::softmax(l, v)?,
        Verb::SoftmaxBackward(v) => rows::softmax_backward(l, v)?,
        Verb::Norm(v) => rows::norm(l, v)?,
        Verb::NormBackward(v) => rows::norm_backward(l, v)?,
        Verb::CrossEntropy(v) => rows::cross_entropy(l, v)?,
        Verb::CrossEntropyBackward(v) => rows::cross_entropy_backward(l, v)?,
        Verb::Gather(v) => index::gather(l, v)?,
        Verb::ScatterAdd(v) => index::scatter_add(l, v)?,
        Verb::Fill(v) => index::fill(l, v)?,
        Verb::Gemm(v) if gemm::is_composable(v) => gemm::gemm(l, v)?,
        Verb::Map(_) | Verb::Reduce(_) | Verb::Gemm(_) | Verb::Copy(_) => return Ok(None),
    }
    Ok(Some(lowering.verbs))
}

/// One verb on its way to simpler ones.
struct Lowering<'a> {
    op: &'static str,
    alloc: Alloc<'a>,
    verbs: Vec<Verb>,
}

impl Lowering<'_> {
    /// Fresh f32 memory.
    fn temporary(&mut self, shape: &[usize]) -> Result<View> {
        let bytes = shape.iter().try_fold(DType::F32.size(), |b, &n| b.checked_mul(n));
        let bytes = bytes.filter(|_| shape.len() <= MAX_RANK).ok_or_else(|| {
            Error::shape(self.op, format!("{shape:?} is too large to compose the verb over"))
        })?;
        Ok(View::contiguous((self.alloc)(bytes)?, DType::F32, shape))
    }

    /// Views repeated to a shape.
    fn spread(&self, inputs: &[&View], shape: &[usize]) -> Result<Vec<View>> {
        let one = |view: &&View| {
            let layout = view.layout.broadcast_to(shape).ok_or_else(|| {
                Error::shape(self.op, format!("{view:?} does not broadcast to {shape:?}"))
            })?;
            Ok(view.with(layout))
        };
        inputs.iter().map(one).collect()
    }

    /// `output = f(inputs)`, inputs repeated to the output's shape.
    fn map(
        &mut self,
        inputs: &[&View],
        output: &View,
        f: impl FnOnce(Trace<'_>) -> Real,
    ) -> Result<()> {
        let inputs = self.spread(inputs, output.shape())?;
        let ((program, immediates), outputs) = (program(f), vec![output.clone()]);
        self.push(Map { program, params: Vec::new(), immediates, inputs, outputs });
        Ok(())
    }

    /// The list goes on with this verb.
    fn push(&mut self, verb: impl Into<Verb>) {
        self.verbs.push(verb.into());
    }

    /// `output = kind of f(inputs)`: inputs repeated to `shape` and reduced over `axes`, a bit
    /// each.
    fn reduce(
        &mut self,
        kind: ReduceKind,
        inputs: &[&View],
        (shape, axes): (&[usize], u32),
        output: &View,
        f: impl FnOnce(Trace<'_>) -> Real,
    ) -> Result<()> {
        let inputs = self.spread(inputs, shape)?;
        let ((program, immediates), output) = (program(f), output.clone());
        let (params, workspace) = (Vec::new(), None);
        self.push(Reduce { kind, program, params, immediates, inputs, axes, output, workspace });
        Ok(())
    }

    /// `c = alpha * a b`
    fn gemm(&mut self, alpha: f32, a: &View, b: &View, c: &View) {
        let (a, b, c) = (a.clone(), b.clone(), c.clone());
        self.push(Gemm { a, b, c, alpha, beta: 0.0, epilogue: None, workspace: None });
    }

    fn copy(&mut self, src: &View, dst: &View) {
        self.push(Copy { src: src.clone(), dst: dst.clone() });
    }

    /// `0, 1, .. n`: what indices are compared with.
    fn positions(&mut self, n: usize) -> Result<View> {
        if n > MAX_POSITION {
            let message = format!("{n} positions are more than the {MAX_POSITION} exact in f32");
            return Err(Error::shape(self.op, message));
        }
        let view = self.temporary(&[n])?;
        self.map(&[], &view, |t| t.to_real(t.index()))?;
        Ok(view)
    }

    /// A view's elements as f32. Those that repeat are converted once.
    fn real(&mut self, view: &View) -> Result<View> {
        if view.dtype == DType::F32 {
            return Ok(view.clone());
        }
        let (shape, strides) = (view.shape(), view.layout.strides());
        let once: Vec<usize> =
            shape.iter().zip(strides).map(|(&n, &s)| if s == 0 { n.min(1) } else { n }).collect();
        let real = self.temporary(&once)?;
        self.copy(&view.with(Layout::new(&once, strides, view.layout.offset())), &real);
        Ok(self.spread(&[&real], shape)?.swap_remove(0))
    }

    /// The same elements under another shape, moved where their strides do not allow it.
    fn reshaped(&mut self, view: &View, shape: &[usize]) -> Result<View> {
        if let Some(layout) = view.layout.reshape(shape) {
            return Ok(view.with(layout));
        }
        let moved = self.temporary(view.shape())?;
        self.copy(view, &moved);
        Ok(moved.with(Layout::contiguous(shape)))
    }

    /// The view with one more axis of extent `n`, before axis `at`: repeated, or of extent 1.
    fn inserted(&self, view: &View, at: usize, n: usize) -> Result<View> {
        if view.shape().len() == MAX_RANK {
            let message = format!("{view:?} has too many axes to compose the verb over");
            return Err(Error::shape(self.op, message));
        }
        let (mut shape, mut strides) = (view.shape().to_vec(), view.layout.strides().to_vec());
        shape.insert(at, n);
        strides.insert(at, 0);
        Ok(view.with(Layout::new(&shape, &strides, view.layout.offset())))
    }
}

/// The program with one output that `f` traces, and its immediates.
fn program(f: impl FnOnce(Trace<'_>) -> Real) -> (Arc<Program>, Immediates) {
    let builder = RefCell::new(Builder::new());
    let output = f(Trace(&builder));
    let (program, immediates) = builder.into_inner().finish_with_immediates(&[output.0]);
    (Arc::new(program), immediates)
}

/// Row-major `shape` with `axis` of extent 1.
fn kept(shape: &[usize], axis: usize) -> Vec<usize> {
    let mut shape = shape.to_vec();
    shape[axis] = 1;
    shape
}

#[cfg(test)]
mod tests {
    use super::*;
    use starling_contract::{HostStorage, Softmax};

    #[test]
    fn a_composed_verb_is_a_list_that_nothing_has_run() {
        let memory = |shape: &[usize]| {
            let bytes = shape.iter().product::<usize>() * DType::F32.size();
            View::contiguous(HostStorage::new(bytes).unwrap(), DType::F32, shape)
        };
        let (x, y) = (memory(&[3, 5]), memory(&[3, 5]));
        let mut asked = Vec::new();
        let mut alloc = |bytes| {
            asked.push(bytes);
            Ok(HostStorage::new(bytes)? as Arc<dyn Storage>)
        };
        let softmax = Verb::from(Softmax { x: x.clone(), y: y.clone(), log: false });
        let list = lower(&softmax, &mut alloc).unwrap().unwrap();
        let names: Vec<_> = list.iter().map(Verb::name).collect();
        assert_eq!(names, ["reduce", "reduce", "map"]);
        assert!(list[2].writes()[0].same_storage(&y) && list[0].reads()[0].same_storage(&x));
        list.into_iter().for_each(|verb| assert!(verb.check().is_ok()));
        let copy = Verb::from(Copy { src: x, dst: y });
        assert!(lower(&copy, &mut alloc).unwrap().is_none(), "others are made of it");
        assert_eq!(asked, [12, 12]);
    }

    #[test]
    fn memory_that_is_refused_ends_the_list() {
        let x = View::contiguous(HostStorage::new(16).unwrap(), DType::F32, &[2, 2]);
        let softmax = Verb::from(Softmax { x: x.clone(), y: x, log: false });
        let refused = lower(&softmax, &mut |_| Err(Error::invalid("no")));
        assert!(refused.is_err());
    }
}
