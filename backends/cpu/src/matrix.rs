//! Products and attention: f32 only, but for masks and what epilogues read and write.

use crate::host::NAME;
use crate::map::is_elementwise;
use starling_contract::{
    Attention, AttentionBackward, CheckedRef, DType, Error, Gemm, HostStorage, Layout, Lengths,
    Result, Sequence, View,
};
use starling_kernels_cpu::Isa;
use starling_kernels_cpu::attention::{self, Mask, Tensor};
use starling_kernels_cpu::gemm::{self, Operand, OutOperand, TileEpilogue};
use starling_kernels_cpu::map::ProgramEpilogue;
use std::cell::Cell;

fn is_f32(view: &View) -> bool {
    view.dtype == DType::F32
}

pub(crate) fn runs_gemm(v: &Gemm) -> bool {
    let views = v.epilogue.iter().flat_map(|e| e.inputs.iter().chain(&e.outputs));
    [&v.a, &v.b, &v.c].into_iter().all(is_f32) && views.into_iter().all(is_elementwise)
}

pub(crate) fn runs_attention(v: &Attention) -> bool {
    let mask = v.mask.as_ref().is_none_or(|m| matches!(m.dtype, DType::F32 | DType::U8));
    [&v.q, &v.k, &v.v, &v.out, &v.lse].into_iter().all(is_f32) && mask
}

/// What the kernels leave to the engine.
pub(crate) fn composes_attention(v: &Attention) -> bool {
    v.sight.blocks.is_some() || v.score.is_some() || v.dropout.is_some()
}

pub(crate) fn composes_attention_backward(v: &AttentionBackward) -> bool {
    let gradients = v.d_mask.is_some() || v.d_inputs.iter().any(Option::is_some);
    composes_attention(&v.forward) || gradients
}

pub(crate) fn runs_attention_backward(v: &AttentionBackward) -> bool {
    runs_attention(&v.forward) && [&v.d_out, &v.d_q, &v.d_k, &v.d_v].into_iter().all(is_f32)
}

pub(crate) fn attention_workspace_bytes(v: &AttentionBackward) -> usize {
    attention::backward_workspace_bytes(&v.forward.q.layout, &v.forward.k.layout)
}

/// The start of an f32 view's storage.
fn start(op: &'static str, view: &View) -> Result<*mut f32> {
    if !is_f32(view) {
        return Err(Error::Unsupported { op, dtype: view.dtype, backend: NAME.into() });
    }
    bytes(op, view).map(<*mut u8>::cast)
}

fn bytes(op: &'static str, view: &View) -> Result<*mut u8> {
    let message = "an operand is not in host memory: copy it there first";
    HostStorage::of(view).ok_or_else(|| Error::shape(op, message))
}

/// Row stride and column stride of the last two axes.
fn strides(layout: &Layout) -> (isize, isize) {
    let s = &layout.strides()[layout.rank() - 2..];
    (s[0], s[1])
}

/// Appends each batch item's offset.
fn put_offsets(layout: &Layout, to: &mut Vec<isize>) {
    let axes = layout.rank() - 2;
    let (shape, strides) = (&layout.shape()[..axes], &layout.strides()[..axes]);
    for item in 0..shape.iter().product() {
        let (mut rest, mut offset) = (item, 0);
        for (&n, &s) in shape.iter().zip(strides).rev() {
            offset += (rest % n) as isize * s;
            rest /= n;
        }
        to.push(offset);
    }
}

thread_local! {
    /// The offsets of a product's batch items, kept so that a step of training does not allocate.
    static OFFSETS: Cell<Vec<isize>> = const { Cell::new(Vec::new()) };
}

pub(crate) fn gemm(isa: Isa, v: CheckedRef<'_, Gemm>) -> Result<()> {
    let first = |view: &View| -> Result<*mut f32> {
        Ok(start("gemm", view)?.wrapping_add(view.layout.offset()))
    };
    let (a, b, c) = (first(&v.a)?, first(&v.b)?, first(&v.c)?);
    let program = ProgramEpilogue::new(isa, v)?;
    let (shape, rank) = (v.c.shape(), v.c.layout.rank());
    let batch: usize = shape[..rank - 2].iter().product();
    let mut offsets = OFFSETS.take();
    offsets.clear();
    for layout in [&v.a.layout, &v.b.layout, &v.c.layout] {
        put_offsets(layout, &mut offsets);
    }
    let (a_strides, b_strides) = (strides(&v.a.layout), strides(&v.b.layout));
    let c_strides = strides(&v.c.layout);
    let product = gemm::Gemm {
        m: shape[rank - 2],
        n: shape[rank - 1],
        k: v.a.shape()[rank - 1],
        batch,
        a: Operand { ptr: a, row_stride: a_strides.0, col_stride: a_strides.1 },
        b: Operand { ptr: b, row_stride: b_strides.0, col_stride: b_strides.1 },
        c: OutOperand { ptr: c, row_stride: c_strides.0, col_stride: c_strides.1 },
        a_batch: &offsets[..batch],
        b_batch: &offsets[batch..2 * batch],
        c_batch: &offsets[2 * batch..],
        alpha: v.alpha,
        beta: v.beta,
        epilogue: program.as_ref().map(|p| p as &dyn TileEpilogue),
    };
    // SAFETY: the verb's check found every view inside its storage and C's elements distinct and
    // apart from A and B; the stream's order keeps other verbs away.
    unsafe { gemm::gemm(isa, &product) };
    OFFSETS.set(offsets);
    Ok(())
}

fn tensor(op: &'static str, view: &View) -> Result<Tensor> {
    Ok(Tensor { at: start(op, view)?, layout: view.layout })
}

fn mask(op: &'static str, view: &View) -> Result<Mask> {
    match view.dtype {
        DType::F32 => Ok(Mask::Additive { at: start(op, view)?, layout: view.layout }),
        DType::U8 => Ok(Mask::Keep { at: bytes(op, view)?, layout: view.layout }),
        dtype => Err(Error::Unsupported { op, dtype, backend: NAME.into() }),
    }
}

thread_local! {
    /// What each query sees, and starts of sequences: kept so that a step does not allocate.
    static SPANS: Cell<(Vec<[u32; 2]>, Vec<i64>)> = const { Cell::new((Vec::new(), Vec::new())) };
}

/// Appends the numbers of an i32 or u32 view.
fn put_integers(op: &'static str, view: &View, to: &mut Vec<i64>) -> Result<()> {
    let first = bytes(op, view)?.cast::<i32>();
    for at in view.layout.positions() {
        // SAFETY: the verb's check found the view of 4-byte integers inside its storage.
        let x = unsafe { first.add(at).read_unaligned() };
        to.push(if view.dtype == DType::U32 { i64::from(x as u32) } else { i64::from(x) });
    }
    Ok(())
}

/// The keys that each query sees, where that is not a matter of causality alone.
fn put_spans(
    op: &'static str,
    v: &Attention,
    spans: &mut Vec<[u32; 2]>,
    numbers: &mut Vec<i64>,
) -> Result<()> {
    let [batch, _, queries, keys] = v.pairs();
    spans.clear();
    numbers.clear();
    let mut starts = 0;
    match &v.sight.lengths {
        Lengths::Full => {}
        Lengths::Keys(lengths) => put_integers(op, lengths, numbers)?,
        Lengths::Packed { queries, keys } => {
            starts = queries.shape()[1];
            put_integers(op, queries, numbers)?;
            put_integers(op, keys, numbers)?;
        }
    }
    for b in 0..batch {
        for query in 0..queries {
            let own = |part: usize| &numbers[(part * batch + b) * starts..][..starts];
            let sequence = match &v.sight.lengths {
                Lengths::Full => Sequence::first(keys as i64, [queries, keys]),
                Lengths::Keys(_) => Sequence::first(numbers[b], [queries, keys]),
                Lengths::Packed { .. } => {
                    Sequence::packed(query, [own(0), own(1)], [queries, keys])
                }
            };
            let seen = v.sight.keys(query, &sequence);
            spans.push(if seen.is_empty() { [0, 0] } else { [seen.start as u32, seen.end as u32] });
        }
    }
    Ok(())
}

/// Calls `f` with the pointers and strides of the forward's operands.
fn with_unpacked(
    op: &'static str,
    v: &Attention,
    f: impl FnOnce(attention::Forward) -> Result<()>,
) -> Result<()> {
    if v.sight.is_plain() {
        return f(unpack(op, v, std::ptr::null())?);
    }
    let (mut spans, mut numbers) = SPANS.take();
    let result =
        put_spans(op, v, &mut spans, &mut numbers).and_then(|()| f(unpack(op, v, spans.as_ptr())?));
    SPANS.set((spans, numbers));
    result
}

fn unpack(op: &'static str, v: &Attention, spans: *const [u32; 2]) -> Result<attention::Forward> {
    Ok(attention::Forward {
        q: tensor(op, &v.q)?,
        k: tensor(op, &v.k)?,
        v: tensor(op, &v.v)?,
        mask: v.mask.as_ref().map(|m| mask(op, m)).transpose()?,
        causal: v.sight.causal && spans.is_null(),
        spans,
        scale: v.scale,
        out: tensor(op, &v.out)?,
        lse: tensor(op, &v.lse)?,
    })
}

pub(crate) fn attention(isa: Isa, v: CheckedRef<'_, Attention>) -> Result<()> {
    with_unpacked("attention", &v, |call| {
        // SAFETY: the verb's check found shapes that fit, every view inside its storage and the
        // outputs apart from everything; the stream's order keeps other verbs away. There are as
        // many spans as queries, none beyond the keys: `put_spans`.
        unsafe { attention::forward(isa, &call) };
        Ok(())
    })
}

pub(crate) fn attention_backward(isa: Isa, v: CheckedRef<'_, AttentionBackward>) -> Result<()> {
    let op = "attention_backward";
    let needed = attention_workspace_bytes(&v);
    let workspace = match &v.workspace {
        _ if needed == 0 => std::ptr::null_mut(),
        Some(w) if w.layout.is_contiguous() && w.len() * w.dtype.size() >= needed => {
            bytes(op, w)?.wrapping_add(w.layout.offset() * w.dtype.size()).cast::<f32>()
        }
        _ => {
            let message = format!("it needs a contiguous workspace of {needed} bytes");
            return Err(Error::shape(op, message));
        }
    };
    if !workspace.is_aligned() {
        return Err(Error::shape(op, "the workspace must be aligned for f32"));
    }
    with_unpacked(op, &v.forward, |forward| {
        let call = attention::Backward {
            forward,
            d_out: tensor(op, &v.d_out)?,
            d_q: tensor(op, &v.d_q)?,
            d_k: tensor(op, &v.d_k)?,
            d_v: tensor(op, &v.d_v)?,
            workspace,
        };
        // SAFETY: as in `attention`; the workspace is as long as the kernel asks for.
        unsafe { attention::backward(isa, &call) };
        Ok(())
    })
}
