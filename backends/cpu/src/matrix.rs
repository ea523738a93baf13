//! Products and attention: f32 only, but for masks and what epilogues read and write.

use crate::host::NAME;
use crate::map::is_elementwise;
use starling_contract::{
    Attention, AttentionBackward, CheckedRef, DType, Error, Gemm, HostStorage, Layout, Lengths,
    Result, Sequence, View,
};
use starling_kernels_cpu::Isa;
use starling_kernels_cpu::attention::{
    self, Mask, Options, PairGradient, PairOperand, Standing, Tensor,
};
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
    let inputs = v.score.iter().flat_map(|s| &s.inputs).all(is_elementwise);
    [&v.q, &v.k, &v.v, &v.out, &v.lse].into_iter().all(is_f32) && mask && inputs
}

pub(crate) fn runs_attention_backward(v: &AttentionBackward) -> bool {
    runs_attention(&v.forward) && [&v.d_out, &v.d_q, &v.d_k, &v.d_v].into_iter().all(is_f32)
}

pub(crate) fn attention_workspace_bytes(v: &AttentionBackward) -> usize {
    let pairs = v.d_mask.iter().chain(v.d_inputs.iter().flatten()).map(|d| &d.layout);
    attention::backward_workspace_bytes(&v.forward.q.layout, &v.forward.k.layout, pairs)
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
    // There may be more batch items than memory for their offsets.
    if v.c.is_empty() {
        return Ok(());
    }
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
    // apart from A and B; the stream's turn keeps other verbs away.
    let result = unsafe { gemm::gemm(isa, &product) };
    OFFSETS.set(offsets);
    result
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

/// What queries see and where they stand, and starts of sequences.
#[derive(Default)]
struct Queries {
    /// Empty where causality says all.
    spans: Vec<[u32; 2]>,
    /// Empty where no program asks.
    standings: Vec<Standing>,
    numbers: Vec<i64>,
}

thread_local! {
    /// Kept so that a step does not allocate.
    static QUERIES: Cell<Option<Queries>> = const { Cell::new(None) };
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

impl Queries {
    /// Finds out about all queries of a verb, as far as it is not a matter of causality alone.
    fn read(&mut self, op: &'static str, v: &Attention) -> Result<()> {
        let [batch, _, queries, keys] = v.pairs();
        self.spans.clear();
        self.standings.clear();
        self.numbers.clear();
        let (spans, standings) = (!sees_by_causality(v), v.score.is_some());
        if !spans && !standings {
            return Ok(());
        }
        let mut starts = 0;
        match &v.sight.lengths {
            Lengths::Full => {}
            Lengths::Keys(lengths) => put_integers(op, lengths, &mut self.numbers)?,
            Lengths::Packed { queries, keys } => {
                starts = queries.shape()[1];
                put_integers(op, queries, &mut self.numbers)?;
                put_integers(op, keys, &mut self.numbers)?;
            }
        }
        for b in 0..batch {
            let own = |part: usize| &self.numbers[(part * batch + b) * starts..][..starts];
            for query in 0..queries {
                let sequence = match &v.sight.lengths {
                    Lengths::Full => Sequence::first(keys as i64, [queries, keys]),
                    Lengths::Keys(_) => Sequence::first(self.numbers[b], [queries, keys]),
                    Lengths::Packed { .. } => {
                        Sequence::packed(query, [own(0), own(1)], [queries, keys])
                    }
                };
                if spans {
                    let seen = v.sight.keys(query, &sequence);
                    let none = seen.is_empty();
                    let span = if none { [0, 0] } else { [seen.start as u32, seen.end as u32] };
                    self.spans.push(span);
                }
                if standings {
                    let origin = sequence.keys.start;
                    let position = query as i64 + sequence.shift - origin as i64;
                    let (position, origin) = (position as f32, origin as u32);
                    self.standings.push(Standing { position, origin });
                }
            }
        }
        Ok(())
    }
}

/// True when nothing but causality decides which keys of a row may be seen.
fn sees_by_causality(v: &Attention) -> bool {
    v.sight.window.is_none() && matches!(v.sight.lengths, Lengths::Full)
}

/// Calls `f` with what is known about the queries of a verb.
fn with_queries(
    op: &'static str,
    v: &Attention,
    f: impl FnOnce(&Queries) -> Result<()>,
) -> Result<()> {
    let mut queries = QUERIES.take().unwrap_or_default();
    let result = queries.read(op, v).and_then(|()| f(&queries));
    QUERIES.set(Some(queries));
    result
}

/// The pointers and strides of the forward's operands.
fn unpack<'a>(
    op: &'static str,
    v: &Attention,
    queries: &Queries,
    options: Option<&'a Options<'a>>,
) -> Result<attention::Forward<'a>> {
    let by_causality = sees_by_causality(v);
    Ok(attention::Forward {
        q: tensor(op, &v.q)?,
        k: tensor(op, &v.k)?,
        v: tensor(op, &v.v)?,
        mask: v.mask.as_ref().map(|m| mask(op, m)).transpose()?,
        causal: v.sight.causal && by_causality,
        spans: if by_causality { std::ptr::null() } else { queries.spans.as_ptr() },
        scale: v.scale,
        options,
        out: tensor(op, &v.out)?,
        lse: tensor(op, &v.lse)?,
    })
}

pub(crate) fn attention(isa: Isa, v: CheckedRef<'_, Attention>) -> Result<()> {
    let op = "attention";
    with_queries(op, &v, |queries| {
        let options = Options::of_forward(isa, v, &queries.standings)?;
        let call = unpack(op, &v, queries, options.as_ref())?;
        // SAFETY: the verb's check found shapes that fit, every view inside its storage and the
        // outputs apart from everything; the stream's turn keeps other verbs away. There are as
        // many spans as queries, none beyond the keys: `Queries::read`.
        unsafe { attention::forward(isa, &call) };
        Ok(())
    })
}

/// The gradients of mask and score that are wanted.
fn pair_gradients(op: &'static str, v: &AttentionBackward) -> Result<Vec<PairGradient>> {
    let mask = v.d_mask.iter().map(|d| (PairOperand::Mask, d));
    let inputs = v.d_inputs.iter().enumerate();
    let inputs = inputs.filter_map(|(i, d)| Some((PairOperand::Input(i), d.as_ref()?)));
    mask.chain(inputs).map(|(of, d)| Ok(PairGradient { of, to: tensor(op, d)? })).collect()
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
    let pairs = pair_gradients(op, &v)?;
    with_queries(op, &v.forward, |queries| {
        let options = Options::of_backward(isa, v, &queries.standings)?;
        let call = attention::Backward {
            forward: unpack(op, &v.forward, queries, options.as_ref())?,
            d_out: tensor(op, &v.d_out)?,
            d_q: tensor(op, &v.d_q)?,
            d_k: tensor(op, &v.d_k)?,
            d_v: tensor(op, &v.d_v)?,
            pairs: &pairs,
            workspace,
        };
        // SAFETY: as in `attention`; the workspace is as long as the kernel asks for.
        unsafe { attention::backward(isa, &call) };
        Ok(())
    })
}
