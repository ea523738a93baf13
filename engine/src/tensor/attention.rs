//! Scaled dot-product attention.

use super::Tensor;
use super::autograd::{Backward, Operation, Saved, record};
use super::tape::{self, Draw};
use crate::error::{Error, Result};
use starling_contract::{
    Attention, AttentionBackward, BlockMask, DType, Immediates, Layout, Lengths, Program, Score,
    Sight, View, WeightDropout,
};
use starling_ops::program::Builder;
use starling_ops::trace::Real;
use starling_ops::{Math, Trace};
use std::cell::RefCell;
use std::sync::Arc;

const OP: &str = "attention";

/// What attention may look at, and what becomes of scores and weights.
#[derive(Clone, Debug, Default)]
pub struct AttentionOptions {
    /// Query `i` sees keys `0 ..= i + keys - queries` only; of sequences with lengths of their own
    /// the numbers of keys and queries are those of the sequence.
    pub causal: bool,
    /// A query sees only keys whose position differs from its own by less than this.
    pub window: Option<usize>,
    /// How long the sequences are.
    pub lengths: SequenceLengths,
    /// Factor of the scores; `1 / sqrt(head_dim)` when `None`.
    pub scale: Option<f32>,
    /// What scores pass through before the mask.
    pub score: Option<AttentionScore>,
    /// Broadcasts to `[batch, heads, queries, keys]`: f32 is added to the scores, u8 keeps a score
    /// where it is not 0. An f32 mask gets a gradient if it requires one.
    pub mask: Option<Tensor>,
    /// Whole blocks of pairs that are left out.
    pub blocks: Option<AttentionBlocks>,
    /// Weights become 0 with this probability, below 1, and the others are divided by the rest.
    pub dropout: f64,
}

/// How many keys and queries there are, read on the device when attention runs, so that a captured
/// step can be replayed with other lengths.
#[derive(Clone, Debug, Default)]
pub enum SequenceLengths {
    /// All.
    #[default]
    Full,
    /// `[batch]`, i32 or u32: only the first keys of each batch element exist, and its queries are
    /// the last of them.
    Keys(Tensor),
    /// Several sequences one after another, which do not see each other: `[batch, sequences + 1]`,
    /// i32 or u32, where each begins and the last one ends.
    Packed {
        /// Among the queries.
        queries: Tensor,
        /// Among the keys.
        keys: Tensor,
    },
}

/// Blocks of queries and keys that count or do not.
#[derive(Clone, Debug)]
pub struct AttentionBlocks {
    /// u8, broadcasts to `[batch, heads, queries / size[0], keys / size[1]]`, rounded up: 0 leaves
    /// a block out.
    pub keep: Tensor,
    /// Queries and keys of a block.
    pub size: [usize; 2],
}

/// The terms that a program of scores may use.
#[derive(Clone, Copy, Debug)]
pub struct ScoreTerms {
    /// The scaled product of query and key.
    pub product: Real,
    /// The query's position in its sequence.
    pub query: Real,
    /// The key's position in its sequence.
    pub key: Real,
    /// The number of the query head.
    pub head: Real,
    /// The number of the batch element.
    pub batch: Real,
}

/// A program that each score passes through.
#[derive(Clone, Debug)]
pub struct AttentionScore {
    program: Arc<Program>,
    immediates: Immediates,
    inputs: Vec<Tensor>,
}

impl AttentionScore {
    /// `f(t, terms, inputs)` of each score; the inputs, f32, broadcast to
    /// `[batch, heads, queries, keys]` and get gradients if they require them. Derivatives are
    /// taken from the program.
    ///
    /// ```
    /// use starling_engine::{AttentionScore, Math};
    /// // Gemma's soft cap, at 50.
    /// let capped = AttentionScore::new(&[], |t, terms, _| {
    ///     let cap = t.lit(50.0);
    ///     t.mul(cap, t.tanh(t.div(terms.product, cap)))
    /// });
    /// ```
    pub fn new(inputs: &[Tensor], f: impl FnOnce(Trace<'_>, ScoreTerms, &[Real]) -> Real) -> Self {
        let builder = RefCell::new(Builder::new());
        let t = Trace(&builder);
        let [product, query, key, head, batch] = [0, 1, 2, 3, 4].map(|i| t.input(i));
        let own: Vec<Real> = (0..inputs.len()).map(|i| t.input(Score::OWN_INPUTS + i)).collect();
        let value = f(t, ScoreTerms { product, query, key, head, batch }, &own);
        let (program, immediates) = builder.borrow().finish_with_immediates(&[value.0]);
        Self { program: Arc::new(program), immediates, inputs: inputs.to_vec() }
    }

    /// Refuses a program that reads what it was not given.
    fn check(&self) -> Result<()> {
        let (program, inputs) = (&self.program, Score::OWN_INPUTS + self.inputs.len());
        if program.input_count() <= inputs && program.param_count() == 0 && !program.uses_index() {
            return Ok(());
        }
        Err(Error::shape(
            OP,
            "a score is computed from its terms, its inputs and numbers alone: the program reads \
             another input, a parameter or the element's index",
        ))
    }

    /// `cap * tanh(score / cap)` (Gemma 2, 2024).
    pub fn soft_cap(cap: f64) -> Self {
        Self::new(&[], |t, terms, _| {
            let cap = t.immediate(cap);
            t.mul(cap, t.tanh(t.div(terms.product, cap)))
        })
    }

    /// `score + slope * (key - query)` with a slope for each of `[heads]` (ALiBi: Press, Smith,
    /// Lewis 2022).
    ///
    /// # Errors
    /// [`Error::Backend`] when the slopes have no single axis.
    pub fn linear_bias(slopes: &Tensor) -> Result<Self> {
        let &[heads] = slopes.shape() else {
            return Err(Error::shape(OP, "slopes have the shape [heads]"));
        };
        Ok(Self::new(&[slopes.reshape(&[1, heads, 1, 1])?], |t, terms, own| {
            t.add(terms.product, t.mul(own[0], t.sub(terms.key, terms.query)))
        }))
    }
}

/// The lengths kept for backward.
enum SavedLengths {
    Full,
    Keys(Saved),
    Packed([Saved; 2]),
}

/// Everything of the forward verb but the operands.
struct Terms {
    causal: bool,
    window: Option<usize>,
    lengths: SavedLengths,
    blocks: Option<(Saved, [usize; 2])>,
    mask: Option<Saved>,
    program: Option<(Arc<Program>, Immediates)>,
    inputs: Vec<Saved>,
    dropout: Option<(f32, Draw)>,
    scale: f32,
    lse: Saved,
    out: Saved,
}

impl Terms {
    fn new(options: &AttentionOptions, dim: usize, out: &Tensor, lse: &Tensor) -> Result<Self> {
        let lengths = match &options.lengths {
            SequenceLengths::Full => SavedLengths::Full,
            SequenceLengths::Keys(lengths) => SavedLengths::Keys(Saved::new(lengths)),
            SequenceLengths::Packed { queries, keys } => {
                SavedLengths::Packed([Saved::new(queries), Saved::new(keys)])
            }
        };
        let p = options.dropout;
        if !(0.0..1.0).contains(&p) {
            return Err(Error::invalid(format!("dropout probability {p} is not in 0..1")));
        }
        let dropout = match p > 0.0 {
            // A checkpoint that runs again draws what it drew.
            true => Some((p as f32, tape::draw(out)?)),
            false => None,
        };
        options.score.iter().try_for_each(AttentionScore::check)?;
        let inputs = options.score.iter().flat_map(|s| &s.inputs);
        Ok(Self {
            causal: options.causal,
            window: options.window,
            lengths,
            blocks: options.blocks.as_ref().map(|b| (Saved::new(&b.keep), b.size)),
            mask: options.mask.as_ref().map(Saved::new),
            program: options.score.as_ref().map(|s| (s.program.clone(), s.immediates)),
            inputs: inputs.map(Saved::new).collect(),
            dropout,
            scale: options.scale.unwrap_or(1.0 / (dim as f32).sqrt()),
            lse: Saved::new(lse),
            out: Saved::new(out),
        })
    }

    /// Fills in the verb; the tensors that it reads are kept in `held` until it is submitted.
    fn verb(&self, [q, k, v]: [View; 3], out: View, held: &mut Vec<Tensor>) -> Result<Attention> {
        let mut get = |saved: &Saved| -> Result<View> {
            let tensor = saved.get(OP)?;
            let view = tensor.view();
            held.push(tensor);
            view
        };
        let (queries, keys) = (q.shape()[2], k.shape()[2]);
        let pairs = [q.shape()[0], q.shape()[1], queries, keys];
        let lengths = match &self.lengths {
            SavedLengths::Full => Lengths::Full,
            SavedLengths::Keys(lengths) => Lengths::Keys(get(lengths)?),
            SavedLengths::Packed([queries, keys]) => {
                Lengths::Packed { queries: get(queries)?, keys: get(keys)? }
            }
        };
        let mut blocks = None;
        if let Some((keep, size)) = &self.blocks {
            let [rows, columns] = size.map(|n| n.max(1));
            let shape = [pairs[0], pairs[1], queries.div_ceil(rows), keys.div_ceil(columns)];
            blocks =
                Some(BlockMask { keep: repeated("block mask", get(keep)?, &shape)?, size: *size });
        }
        let mut mask = None;
        if let Some(saved) = &self.mask {
            mask = Some(repeated("mask", get(saved)?, &pairs)?);
        }
        let mut inputs = Vec::new();
        for input in &self.inputs {
            inputs.push(repeated("score's input", get(input)?, &pairs)?);
        }
        let score = self.program.clone().map(|p| Score::new(p, Vec::new(), inputs));
        let mut dropout = None;
        if let Some((p, (random, instance))) = &self.dropout {
            dropout = Some(WeightDropout { p: *p, key: random.key(*instance)? });
        }
        let lse = get(&self.lse)?;
        let sight = Sight { causal: self.causal, window: self.window, lengths, blocks };
        Ok(Attention { q, k, v, mask, sight, scale: self.scale, score, dropout, out, lse })
    }
}

/// A view repeated to a shape.
fn repeated(name: &str, view: View, shape: &[usize]) -> Result<View> {
    let layout = view.layout.broadcast_to(shape).ok_or_else(|| {
        let message = format!("the {name} {:?} does not broadcast to {shape:?}", view.shape());
        Error::shape(OP, message)
    })?;
    Ok(view.with(layout))
}

/// Query, key and value heads side by side in one row.
#[derive(Clone, Copy)]
struct Packing {
    heads: usize,
    kv_heads: usize,
    dim: usize,
}

impl Packing {
    /// `[batch, heads, sequence, dim]` views of a `[batch, sequence, packed]` tensor.
    fn views(&self, packed: &View) -> [View; 3] {
        let part = |first: usize, heads: usize| {
            let (shape, strides) = (packed.shape(), packed.layout.strides());
            let head = self.dim as isize * strides[2];
            let layout = Layout::new(
                &[shape[0], heads, shape[1], self.dim],
                &[strides[0], head, strides[1], strides[2]],
                (packed.layout.offset() as isize + first as isize * head) as usize,
            );
            packed.with(layout)
        };
        let Packing { heads, kv_heads, .. } = *self;
        [part(0, heads), part(heads, kv_heads), part(heads + kv_heads, kv_heads)]
    }

    /// The `[batch, heads, sequence, dim]` view of a `[batch, sequence, heads * dim]` tensor.
    fn joined(&self, out: &View) -> View {
        Packing { kv_heads: 0, ..*self }.views(out)[0].clone()
    }
}

/// Queries, keys and values: three tensors, or one that holds them.
struct Operands {
    tensors: Vec<Saved>,
    packing: Option<Packing>,
}

impl Operands {
    /// The three operands in their tensors' memory.
    fn views(&self, tensors: &[View]) -> [View; 3] {
        match (self.packing, tensors) {
            (None, [q, k, v]) => [q.clone(), k.clone(), v.clone()],
            (Some(packing), [packed]) => packing.views(packed),
            _ => unreachable!("three tensors, or one and its packing"),
        }
    }

    fn result(&self, view: &View) -> View {
        self.packing.map_or_else(|| view.clone(), |packing| packing.joined(view))
    }
}

struct Attend {
    operands: Operands,
    terms: Terms,
}

impl Operation for Attend {
    fn name(&self) -> &'static str {
        OP
    }

    fn backward(&self, upstream: &Tensor, wanted: &[bool]) -> Result<Backward> {
        let device = upstream.device();
        let mut held = Vec::new();
        let (mut gradients, mut views, mut targets) = (Vec::new(), Vec::new(), Vec::new());
        for saved in &self.operands.tensors {
            let tensor = saved.get(OP)?;
            let (gradient, target) = Tensor::output(device, DType::F32, tensor.shape())?;
            gradients.push(Some(gradient));
            targets.push(target);
            views.push(tensor.view()?);
            held.push(tensor);
        }
        let out = self.operands.result(&self.terms.out.get(OP)?.view()?);
        let forward = self.terms.verb(self.operands.views(&views), out, &mut held)?;
        let [d_q, d_k, d_v] = self.operands.views(&targets);
        let mut more = |saved: &Saved, wanted: bool| -> Result<Option<View>> {
            let (gradient, view) = match wanted {
                true => pair_gradient(&saved.get(OP)?).map(|(g, v)| (Some(g), Some(v)))?,
                false => (None, None),
            };
            gradients.push(gradient);
            Ok(view)
        };
        let mut wanted = wanted[self.operands.tensors.len()..].iter().copied();
        let mut next = || wanted.next().unwrap_or(false);
        let d_mask = match &self.terms.mask {
            Some(mask) => more(mask, next())?,
            None => None,
        };
        let inputs = self.terms.inputs.iter();
        let d_inputs = inputs.map(|input| more(input, next())).collect::<Result<_>>()?;
        let d_out = self.operands.result(&upstream.view()?);
        let workspace = None;
        device.run(AttentionBackward {
            forward,
            d_out,
            d_q,
            d_k,
            d_v,
            d_mask,
            d_inputs,
            workspace,
        })?;
        Ok(Backward::Gradients(gradients))
    }
}

/// Memory for the gradient of what broadcast to the pairs, and its view with four axes.
fn pair_gradient(of: &Tensor) -> Result<(Tensor, View)> {
    let (gradient, view) = Tensor::output(of.device(), DType::F32, of.shape())?;
    let mut shape = vec![1; 4 - of.rank().min(4)];
    shape.extend(of.shape());
    let view = view.with(Layout::contiguous(&shape));
    Ok((gradient, view))
}

/// Runs the verb and records it.
fn attend(
    tensors: &[&Tensor],
    packing: Option<Packing>,
    options: &AttentionOptions,
    [out_shape, lse_shape]: [&[usize]; 2],
    dim: usize,
) -> Result<Tensor> {
    let device = tensors[0].device();
    let mut recorded = tensors.to_vec();
    if let Some(mask) = &options.mask {
        recorded.push(mask);
    }
    for input in options.score.iter().flat_map(|s| &s.inputs) {
        recorded.push(input);
    }
    let (out, out_view) = Tensor::output(device, DType::F32, out_shape)?;
    let (lse, _) = Tensor::output(device, DType::F32, lse_shape)?;
    let operands = Operands { tensors: tensors.iter().map(|t| Saved::new(t)).collect(), packing };
    let terms = Terms::new(options, dim, &out, &lse)?;
    let views = tensors.iter().map(|t| t.view()).collect::<Result<Vec<_>>>()?;
    let mut held = Vec::new();
    let verb = terms.verb(operands.views(&views), operands.result(&out_view), &mut held)?;
    device.run(verb)?;
    Ok(record(out.node().clone(), &recorded, || Attend { operands, terms }))
}

impl Tensor {
    /// `dropout(softmax(score(scale * q k^T) + mask)) v` for a query
    /// `[batch, heads, queries, head_dim]` and keys and values `[batch, kv_heads, keys, head_dim]`;
    /// `kv_heads` divides `heads`. Memory is linear in the sequence lengths where the backend runs
    /// the options itself. What a query does not see contributes nothing, whatever it holds.
    ///
    /// # Errors
    /// [`Error::Backend`] when the shapes do not fit or an operand is not f32.
    pub fn attention(
        &self,
        key: &Tensor,
        value: &Tensor,
        options: &AttentionOptions,
    ) -> Result<Tensor> {
        let &[batch, heads, queries, dim] = self.shape() else {
            return Err(Error::shape(OP, "the query needs four axes"));
        };
        if key.rank() != 4 {
            return Err(Error::shape(OP, "the key needs four axes"));
        }
        let lse = [batch, heads, queries];
        attend(&[self, key, value], None, options, [self.shape(), &lse], dim)
    }

    /// Attention of a sequence to itself, from one tensor that holds queries, keys and values side
    /// by side: `[batch, sequence, (heads + 2 * kv_heads) * head_dim]` gives
    /// `[batch, sequence, heads * head_dim]`. Nothing is moved: the heads are strided views, and
    /// the gradients are written into one tensor.
    ///
    /// # Errors
    /// As [`Tensor::attention`].
    pub fn attention_packed(
        &self,
        heads: usize,
        kv_heads: usize,
        options: &AttentionOptions,
    ) -> Result<Tensor> {
        let parts = kv_heads.saturating_mul(2).saturating_add(heads);
        let &[batch, sequence, width] = self.shape() else {
            return Err(Error::shape(OP, "a packed operand needs three axes"));
        };
        if width == 0 || parts == 0 || width % parts != 0 {
            let message = format!("{width} columns are no {parts} heads of one size");
            return Err(Error::shape(OP, message));
        }
        let packing = Packing { heads, kv_heads, dim: width / parts };
        let shape = [batch, sequence, heads * packing.dim];
        let lse = [batch, heads, sequence];
        attend(&[self], Some(packing), options, [&shape, &lse], packing.dim)
    }
}
