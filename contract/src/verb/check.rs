//! What a verb must fulfil before a backend sees it.

use super::{Gemm, Map, NormKind, Reduce, ReduceKind, Verb};
use crate::error::{Error, Result};
use crate::identity::DeviceId;
use crate::layout::{MAX_RANK, View};
use starling_ops::program::Immediates;
use starling_ops::{DType, Program};
use std::fmt;

impl Verb {
    /// Everything that [`Verb::check`] looks at; the device of the operands.
    pub(super) fn fits(&self) -> Result<DeviceId> {
        let op = self.name();
        let mut device = None;
        for view in self.reads().into_iter().chain(self.writes()) {
            one_device(op, *device.get_or_insert_with(|| view.device()), view)?;
            in_bounds(op, view)?;
        }
        for view in self.writes() {
            if view.layout.may_overlap_itself() {
                return Err(Error::shape(op, format!("the output {view:?} overlaps itself")));
            }
        }
        self.check_aliasing()?;
        self.check_shapes()?;
        device.ok_or_else(|| Error::shape(op, "there is no operand"))
    }

    fn check_shapes(&self) -> Result<()> {
        let op = self.name();
        match self {
            Verb::Map(v) => check_map(v),
            Verb::Reduce(v) => check_reduce(v),
            Verb::Gemm(v) => check_gemm(v),
            Verb::Attention(v) => v.check(op),
            Verb::AttentionBackward(v) => v.check(op),
            Verb::Softmax(v) => {
                last_axis(op, &v.x)?;
                same(op, "y", &v.y, v.x.shape())
            }
            Verb::SoftmaxBackward(v) => {
                last_axis(op, &v.y)?;
                same(op, "d_y", &v.d_y, v.y.shape())?;
                same(op, "d_x", &v.d_x, v.y.shape())
            }
            Verb::Norm(v) => {
                let n = last_axis(op, &v.x)?;
                same(op, "y", &v.y, v.x.shape())?;
                check_norm(op, v.kind, &v.x, n, &v.mean, &v.rstd, [&v.weight, &v.bias])
            }
            Verb::NormBackward(v) => {
                let n = last_axis(op, &v.x)?;
                same(op, "d_y", &v.d_y, v.x.shape())?;
                same(op, "d_x", &v.d_x, v.x.shape())?;
                let vectors = [&v.d_weight, &v.d_bias];
                check_norm(op, v.kind, &v.x, n, &v.mean, &v.rstd, vectors)?;
                v.weight.iter().try_for_each(|w| same(op, "weight", w, &[n]))
            }
            Verb::CrossEntropy(v) => {
                let rows = check_classes(op, &v.logits, &v.targets)?;
                same(op, "losses", &v.losses, &[rows])?;
                same(op, "lse", &v.lse, &[rows])
            }
            Verb::CrossEntropyBackward(v) => {
                let rows = check_classes(op, &v.logits, &v.targets)?;
                same(op, "lse", &v.lse, &[rows])?;
                same(op, "d_losses", &v.d_losses, &[rows])?;
                same(op, "d_logits", &v.d_logits, v.logits.shape())
            }
            Verb::Gather(v) => {
                if v.x.dtype != v.out.dtype {
                    let message = format!("out is {} and x is {}", v.out.dtype, v.x.dtype);
                    return Err(Error::shape(op, message));
                }
                check_index(op, &v.x, &v.out, &v.index, v.axis)
            }
            Verb::ScatterAdd(v) => {
                if (v.x.dtype, v.out.dtype) != (DType::F32, DType::F32) {
                    return Err(Error::shape(op, "x and out must be f32"));
                }
                check_index(op, &v.out, &v.x, &v.index, v.axis)
            }
            Verb::Copy(v) => same(op, "dst", &v.dst, v.src.shape()),
            Verb::Fill(_) => Ok(()),
        }
    }

    /// Outputs may not share memory with each other or with inputs, except in place.
    fn check_aliasing(&self) -> Result<()> {
        let (reads, writes) = (self.reads(), self.writes());
        for (i, w) in writes.iter().enumerate() {
            for other in &writes[i + 1..] {
                if w.may_overlap(other) {
                    return Err(Error::shape(self.name(), "two outputs overlap"));
                }
            }
            for r in &reads {
                let same = w.same_storage(r) && w.layout == r.layout && w.dtype == r.dtype;
                if w.may_overlap(r) && !(same && self.allows_in_place(w, r)) {
                    let message = format!("the output {w:?} overlaps the input {r:?}");
                    return Err(Error::shape(self.name(), message));
                }
            }
        }
        Ok(())
    }

    /// True when an output may lie where this input of the same view does.
    fn allows_in_place(&self, output: &View, input: &View) -> bool {
        match self {
            Verb::Map(_) | Verb::Softmax(_) | Verb::CrossEntropyBackward(_) | Verb::Copy(_) => true,
            // Not what the sums are taken of as well, nor working memory or a parameter.
            Verb::SoftmaxBackward(v) => std::ptr::eq(input, &v.d_y),
            Verb::NormBackward(v) => std::ptr::eq(output, &v.d_x) && std::ptr::eq(input, &v.d_y),
            // What is added to, and nothing else: an element of the other operands is read for
            // many elements of the output.
            Verb::Gemm(_) | Verb::ScatterAdd(_) => std::ptr::eq(output, input),
            _ => false,
        }
    }
}

fn one_device(op: &'static str, device: DeviceId, view: &View) -> Result<()> {
    let found = view.device();
    if found == device { Ok(()) } else { Err(Error::Devices { op, device, found }) }
}

fn in_bounds(op: &'static str, view: &View) -> Result<()> {
    // Loops count the axes around one that is empty, and elements that repeat.
    let counted = view.layout.without_empty_axes();
    let size = view.dtype.size() as isize;
    let reach = counted.extent().and_then(|(low, high)| {
        counted.len().checked_mul(view.dtype.size()).filter(|&n| n <= isize::MAX as usize)?;
        Some((low.checked_mul(size)?, high.checked_add(1)?.checked_mul(size)?))
    });
    let Some((low, end)) = reach else {
        return Err(Error::shape(op, format!("{view:?} is larger than any memory")));
    };
    if !view.is_empty() && (low < 0 || end as usize > view.storage.bytes()) {
        let message =
            format!("{view:?} reaches outside its storage of {} bytes", view.storage.bytes());
        return Err(Error::shape(op, message));
    }
    Ok(())
}

pub(super) fn same(
    op: &'static str,
    name: impl fmt::Display,
    view: &View,
    shape: &[usize],
) -> Result<()> {
    if view.shape() == shape {
        return Ok(());
    }
    Err(Error::shape(op, format!("{name} has shape {:?} and needs {shape:?}", view.shape())))
}

fn last_axis(op: &'static str, x: &View) -> Result<usize> {
    x.shape().last().copied().ok_or_else(|| Error::shape(op, "a scalar has no last axis"))
}

/// Every leaf of the program but the inputs has a value.
pub(super) fn leaves(
    op: &'static str,
    params: &[View],
    immediates: &Immediates,
    program: &Program,
) -> Result<()> {
    if immediates.len() < program.immediate_count() {
        let message = format!("{} of {} immediates", immediates.len(), program.immediate_count());
        return Err(Error::shape(op, message));
    }
    if params.len() < program.param_count() {
        let message = format!("{} of {} parameters", params.len(), program.param_count());
        return Err(Error::shape(op, message));
    }
    for p in params {
        if p.len() != 1 || !matches!(p.dtype, DType::F32 | DType::U32) {
            return Err(Error::shape(op, format!("the parameter {p:?} is not one f32 or u32")));
        }
    }
    Ok(())
}

pub(super) fn elementwise(op: &'static str, inputs: &[View], shape: &[usize]) -> Result<()> {
    for (i, x) in inputs.iter().enumerate() {
        same(op, format_args!("input {i}"), x, shape)?;
        if !(x.dtype.is_float() || x.dtype == DType::U8) {
            let message = format!("input {i} is {}: cast it to f32 first", x.dtype);
            return Err(Error::shape(op, message));
        }
    }
    Ok(())
}

/// Programs see the element's index, and random numbers its counter, as 32 bits: beyond, elements
/// would share them.
fn counts_in_words(op: &'static str, program: &Program, shape: &[usize]) -> Result<()> {
    let elements = shape.iter().try_fold(1usize, |n, &extent| n.checked_mul(extent));
    if !program.uses_index() || elements.is_some_and(|n| n as u64 <= 1 << 32) {
        return Ok(());
    }
    let message = format!(
        "{shape:?} has more than 2^32 elements, and the index that the program reads has 32 bits: \
         split the tensor"
    );
    Err(Error::shape(op, message))
}

fn check_map(v: &Map) -> Result<()> {
    let Some(first) = v.outputs.first() else {
        return Err(Error::shape("map", "there is no output"));
    };
    if v.inputs.len() < v.program.input_count() || v.outputs.len() != v.program.outputs().len() {
        return Err(Error::shape("map", "the program has other inputs or outputs"));
    }
    leaves("map", &v.params, &v.immediates, &v.program)?;
    elementwise("map", &v.inputs, first.shape())?;
    elementwise("map", &v.outputs, first.shape())?;
    counts_in_words("map", &v.program, first.shape())
}

fn check_reduce(v: &Reduce) -> Result<()> {
    let Some(first) = v.inputs.first() else {
        return Err(Error::shape("reduce", "there is no input"));
    };
    if v.inputs.len() < v.program.input_count() || v.program.outputs().len() != 1 {
        return Err(Error::shape("reduce", "the program has other inputs or outputs"));
    }
    leaves("reduce", &v.params, &v.immediates, &v.program)?;
    elementwise("reduce", &v.inputs, first.shape())?;
    let reduced = |axis: usize| v.axes >> axis & 1 == 1;
    let mut shape = [1; MAX_RANK];
    for (axis, &n) in first.shape().iter().enumerate().filter(|&(axis, _)| !reduced(axis)) {
        shape[axis] = n;
    }
    same("reduce", "the output", &v.output, &shape[..first.shape().len()])?;
    let position = matches!(v.kind, ReduceKind::ArgMax | ReduceKind::ArgMin);
    let wanted = if position { DType::I32 } else { DType::F32 };
    if v.output.dtype != wanted {
        let message = format!("the output is {} and must be {wanted}", v.output.dtype);
        return Err(Error::shape("reduce", message));
    }
    let count = |n: usize, (axis, &extent): (usize, &usize)| match reduced(axis) {
        true => n.checked_mul(extent),
        false => Some(n),
    };
    let positions = first.shape().iter().enumerate().try_fold(1, count);
    if position && positions.is_none_or(|n| n as u64 > 1 << 31) {
        let message = format!(
            "the position among more than 2^31 elements of {:?} does not fit i32: reduce one axis \
             after the other",
            first.shape()
        );
        return Err(Error::shape("reduce", message));
    }
    counts_in_words("reduce", &v.program, first.shape())?;
    if position && first.is_empty() && !v.output.is_empty() {
        return Err(Error::shape("reduce", "nothing has no largest element"));
    }
    Ok(())
}

fn check_gemm(v: &Gemm) -> Result<()> {
    let rank = v.c.shape().len();
    if rank < 2 || v.a.shape().len() != rank || v.b.shape().len() != rank {
        let shapes = format!("{:?} x {:?} -> {:?}", v.a.shape(), v.b.shape(), v.c.shape());
        return Err(Error::shape("gemm", format!("the ranks of {shapes} differ or are below 2")));
    }
    let (batch, mn) = v.c.shape().split_at(rank - 2);
    let k = v.a.shape()[rank - 1];
    let mut shape = [1; MAX_RANK];
    let shape = &mut shape[..rank];
    shape[..rank - 2].copy_from_slice(batch);
    shape[rank - 2..].copy_from_slice(&[mn[0], k]);
    same("gemm", "a", &v.a, shape)?;
    shape[rank - 2..].copy_from_slice(&[k, mn[1]]);
    same("gemm", "b", &v.b, shape)?;
    let Some(e) = &v.epilogue else { return Ok(()) };
    if e.inputs.len() + 1 < e.program.input_count()
        || e.outputs.len() + 1 != e.program.outputs().len()
    {
        return Err(Error::shape("gemm", "the epilogue has other inputs or outputs"));
    }
    leaves("gemm", &e.params, &e.immediates, &e.program)?;
    elementwise("gemm", &e.inputs, v.c.shape())?;
    elementwise("gemm", &e.outputs, v.c.shape())?;
    counts_in_words("gemm", &e.program, v.c.shape())
}

fn check_norm(
    op: &'static str,
    kind: NormKind,
    x: &View,
    n: usize,
    mean: &Option<View>,
    rstd: &View,
    vectors: [&Option<View>; 2],
) -> Result<()> {
    let rows = &x.shape()[..x.shape().len() - 1];
    same(op, "rstd", rstd, rows)?;
    if mean.is_some() != (kind == NormKind::Layer) {
        return Err(Error::shape(op, "layer_norm has a mean and rms_norm has none"));
    }
    mean.iter().try_for_each(|m| same(op, "mean", m, rows))?;
    vectors.into_iter().flatten().try_for_each(|w| same(op, "weight or bias", w, &[n]))
}

fn check_classes(op: &'static str, logits: &View, targets: &View) -> Result<usize> {
    let &[rows, _] = logits.shape() else {
        return Err(Error::shape(op, "logits need the shape [rows, classes]"));
    };
    same(op, "targets", targets, &[rows])?;
    integer(op, targets)?;
    Ok(rows)
}

pub(super) fn integer(op: &'static str, view: &View) -> Result<()> {
    if matches!(view.dtype, DType::I32 | DType::U32) {
        return Ok(());
    }
    Err(Error::shape(op, format!("indices are {} and must be i32 or u32", view.dtype)))
}

/// `whole` is what the indices point into, `part` what has one element per index.
fn check_index(
    op: &'static str,
    whole: &View,
    part: &View,
    index: &View,
    axis: usize,
) -> Result<()> {
    integer(op, index)?;
    let mut shape = whole.shape().to_vec();
    if axis >= shape.len() || part.shape().len() != shape.len() {
        let message = format!("axis {axis} of {:?} and {:?}", whole.shape(), part.shape());
        return Err(Error::shape(op, message));
    }
    shape[axis] = part.shape()[axis];
    same(op, "the picked part", part, &shape)?;
    same(op, "index", index, &shape)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verb::{Epilogue, ScatterAdd};
    use crate::{HostStorage, Layout};
    use std::sync::Arc;

    fn square(dtype: DType) -> View {
        View::contiguous(HostStorage::new(16).unwrap(), dtype, &[2, 2])
    }

    #[test]
    fn a_product_may_add_to_its_output_but_not_overwrite_its_operands() {
        let [x, y, z] = [square(DType::F32), square(DType::F32), square(DType::F32)];
        let gemm = |a: &View, b: &View, c: &View, beta, inputs: &[&View]| {
            let inputs = inputs.iter().map(|&v| v.clone()).collect();
            let (program, params, outputs) = (Arc::new(Program::identity()), vec![], vec![]);
            let immediates = Immediates::default();
            let epilogue = Some(Epilogue { program, params, immediates, inputs, outputs });
            let (a, b, c) = (a.clone(), b.clone(), c.clone());
            Verb::from(Gemm { a, b, c, alpha: 1.0, beta, epilogue, workspace: None }).check()
        };
        assert!(gemm(&x, &y, &z, 1.0, &[&x]).is_ok());
        assert!(gemm(&x, &y, &x, 0.0, &[]).is_err());
        assert!(gemm(&x, &y, &y, 1.0, &[]).is_err());
        assert!(gemm(&x, &y, &z, 0.0, &[&z]).is_err());
    }

    #[test]
    fn what_is_scattered_may_not_be_what_it_is_added_to() {
        let scatter = |x: View, out: View| {
            Verb::from(ScatterAdd { x, index: square(DType::I32), axis: 0, out, workspace: None })
                .check()
        };
        let x = square(DType::F32);
        assert!(scatter(x.clone(), square(DType::F32)).is_ok());
        assert!(scatter(x.clone(), x).is_err());
    }

    /// A view that repeats one element: it needs no memory, however large it is.
    fn repeated(shape: &[usize]) -> View {
        let one = View::contiguous(HostStorage::new(4).unwrap(), DType::F32, &[]);
        one.with(Layout::new(shape, &vec![0; shape.len()], 0))
    }

    fn reduced(kind: ReduceKind, program: Program, shape: &[usize]) -> Result<()> {
        let dtype = if kind == ReduceKind::ArgMax { DType::I32 } else { DType::F32 };
        let ones = vec![1; shape.len()];
        let output = View::contiguous(HostStorage::new(4).unwrap(), dtype, &ones);
        let (program, params, inputs) = (Arc::new(program), vec![], vec![repeated(shape)]);
        let immediates = Immediates::default();
        let axes = (1 << shape.len()) - 1;
        let workspace = None;
        Verb::from(Reduce { kind, program, params, immediates, inputs, axes, output, workspace })
            .check()
            .map(|_| ())
    }

    #[test]
    fn a_position_that_i32_does_not_hold_is_an_error() {
        let position = |shape: &[usize]| reduced(ReduceKind::ArgMax, Program::identity(), shape);
        assert!(position(&[1 << 31]).is_ok());
        assert!(position(&[1 << 16, 1 << 15]).is_ok());
        for shape in [&[(1 << 31) + 1][..], &[1 << 16, 1 << 16]] {
            let message = position(shape).unwrap_err().to_string();
            assert!(message.contains("2^31"), "{message}");
        }
        // Only the elements that compete count.
        assert!(reduced(ReduceKind::Sum, Program::identity(), &[1 << 33]).is_ok());
    }

    #[test]
    fn an_index_that_a_word_does_not_hold_is_an_error() {
        use starling_ops::program::Op;
        let indexed = || {
            Program::build(|b| {
                let (x, index) = (b.put(Op::Input(0), &[]), b.put(Op::Index, &[]));
                let index = b.put(Op::ToReal, &[index]);
                vec![b.put(Op::Add, &[x, index])]
            })
        };
        assert!(reduced(ReduceKind::Sum, indexed(), &[1 << 32]).is_ok());
        for shape in [&[(1 << 32) + 1][..], &[1 << 16, 1 << 17]] {
            let message = reduced(ReduceKind::Sum, indexed(), shape).unwrap_err().to_string();
            assert!(message.contains("2^32"), "{message}");
        }
    }
}
