//! Attention, and all that decides which key a query sees and what its score is.

use super::check::{integer, same};
use crate::error::{Error, Result};
use crate::layout::View;
use starling_ops::program::{Builder, Env, Immediates};
use starling_ops::{DType, Dual, Key, Math, Program, Trace};
use std::cell::RefCell;
use std::ops::Range;
use std::sync::Arc;

/// Scaled dot-product attention (Vaswani et al. 2017; computed as FlashAttention, Dao et al. 2022):
/// `out = dropout(softmax(score(scale * q k^T) + mask)) v`, memory linear in the sequence lengths.
///
/// Query head `h` uses key head `h / (heads / kv_heads)`. What a query does not see, by
/// [`Sight`] or by a mask of 0 or -inf, contributes nothing to its results and gradients, whatever
/// it holds, infinities and NaN included. A row that may see nothing yields zeros and a log-sum-exp
/// of -inf.
#[derive(Clone, Debug)]
pub struct Attention {
    /// `[batch, heads, queries, head_dim]`
    pub q: View,
    /// `[batch, kv_heads, keys, head_dim]`
    pub k: View,
    /// `[batch, kv_heads, keys, head_dim]`
    pub v: View,
    /// Of `[batch, heads, queries, keys]` (repeat with stride 0): f32 is added to the scores, u8
    /// keeps a score where it is not 0.
    pub mask: Option<View>,
    /// Which keys a query sees.
    pub sight: Sight,
    /// Usually `1 / sqrt(head_dim)`.
    pub scale: f32,
    /// What becomes of a scaled product before the mask.
    pub score: Option<Score>,
    /// Weights left out at random.
    pub dropout: Option<WeightDropout>,
    /// `[batch, heads, queries, head_dim]`
    pub out: View,
    /// `[batch, heads, queries]`: the logarithm of each row's sum of exponentials, before dropout.
    pub lse: View,
}

/// Gradients of [`Attention`], recomputed block by block from the saved log-sum-exp.
#[derive(Clone, Debug)]
pub struct AttentionBackward {
    /// The forward verb with its results.
    pub forward: Attention,
    /// `[batch, heads, queries, head_dim]`
    pub d_out: View,
    /// Of `q`'s shape.
    pub d_q: View,
    /// Of `k`'s shape.
    pub d_k: View,
    /// Of `v`'s shape.
    pub d_v: View,
    /// The gradient of an f32 mask: of the mask's shape, or with axes of extent 1 over which it is
    /// summed.
    pub d_mask: Option<View>,
    /// The gradients of [`Score::inputs`], those that are wanted; shaped as `d_mask`. Empty where
    /// none is.
    pub d_inputs: Vec<Option<View>>,
    /// Working memory of [`crate::Backend::workspace_bytes`].
    pub workspace: Option<View>,
}

/// Which keys a query sees by their positions.
///
/// Key `j` of a sequence has position `j`, and its `m` queries are the last `m` of the `n` keys'
/// positions: query `i` has position `i + n - m`.
#[derive(Clone, Debug, Default)]
pub struct Sight {
    /// No key of a later position than the query's.
    pub causal: bool,
    /// Only keys whose position differs from the query's by less than this.
    pub window: Option<usize>,
    /// How long the sequences are.
    pub lengths: Lengths,
    /// Whole blocks of pairs that are left out.
    pub blocks: Option<BlockMask>,
}

/// How many keys exist, read from device memory when the verb runs. Negative lengths count as 0,
/// and those beyond the views as the views' extents.
#[derive(Clone, Debug, Default)]
pub enum Lengths {
    /// All keys of the views.
    #[default]
    Full,
    /// `[batch]`, i32 or u32: a batch element's first keys are one sequence, the others are hidden.
    Keys(View),
    /// Sequences one after another within each batch element; a query sees its own sequence only.
    /// Sequence `s` is `starts[s] .. starts[s + 1]`, and what lies outside of all sees nothing.
    Packed {
        /// `[batch, sequences + 1]`, i32 or u32, ascending: where the queries begin.
        queries: View,
        /// The same for keys.
        keys: View,
    },
}

/// Which blocks of pairs of a query and a key count.
#[derive(Clone, Debug)]
pub struct BlockMask {
    /// `[batch, heads, queries / size[0], keys / size[1]]`, rounded up (repeat with stride 0), u8:
    /// a block counts where it is not 0.
    pub keep: View,
    /// Queries and keys of a block.
    pub size: [usize; 2],
}

/// A program that every score passes through: a soft cap, a bias by distance, a learned bias.
#[derive(Clone, Debug)]
pub struct Score {
    /// One output: the score. Inputs: 0 is `scale * q k`; 1 and 2 are the positions of query and
    /// key in their sequence (see [`Sight`]), 3 the query head, 4 the batch element; 5.. are
    /// `inputs`.
    pub program: Arc<Program>,
    /// As in [`super::Map::immediates`].
    pub immediates: Immediates,
    /// Of the same inputs: the score's derivatives by input 0 and by each of `inputs`.
    pub derivatives: Arc<Program>,
    /// Those of `derivatives`.
    pub derivatives_immediates: Immediates,
    /// As in [`super::Map::params`].
    pub params: Vec<View>,
    /// Of `[batch, heads, queries, keys]` (repeat with stride 0).
    pub inputs: Vec<View>,
}

impl Score {
    /// Inputs of the program that come before [`Score::inputs`].
    pub const OWN_INPUTS: usize = 5;

    /// The program with its derivatives.
    ///
    /// # Panics
    /// When the program has no output or reads more than its own inputs and these.
    pub fn new(
        (program, immediates): (Arc<Program>, Immediates),
        params: Vec<View>,
        inputs: Vec<View>,
    ) -> Self {
        let builder = RefCell::new(Builder::new());
        let t = Trace(&builder);
        let dual = Dual(t);
        let all: Vec<_> = (0..Self::OWN_INPUTS + inputs.len()).map(|i| t.input(i)).collect();
        let constant = Dual::<Trace<'_>>::constant;
        let real: Vec<_> = (0..params.len()).map(|i| constant(t.param(i))).collect();
        let words: Vec<_> = (0..params.len()).map(|i| t.param_word(i)).collect();
        let numbers: Vec<_> =
            immediates.values().map(|x| constant(t.immediate(x.into()))).collect();
        let by = [0].into_iter().chain(Self::OWN_INPUTS..all.len());
        let derivative = |by: usize| {
            let one = |(i, &x)| if i == by { dual.variable(x) } else { constant(x) };
            let inputs: Vec<_> = all.iter().enumerate().map(one).collect();
            let env = Env {
                inputs: &inputs,
                params: &real,
                words: &words,
                immediates: &numbers,
                index: t.ulit(0),
            };
            let mut slope = t.lit(0.0);
            program.eval(dual, &env, &mut Vec::new(), |_, x| slope = dual.derivative(x));
            slope.0
        };
        let outputs: Vec<_> = by.map(derivative).collect();
        let (derivatives, derivatives_immediates) =
            builder.borrow().finish_with_immediates(&outputs);
        let derivatives = Arc::new(derivatives);
        Self { program, immediates, derivatives, derivatives_immediates, params, inputs }
    }
}

/// Weights that become 0 with probability `p`, the others divided by `1 - p`: a weight stays where
/// the uniform number of its row-major position in `[batch, heads, queries, keys]` is at least `p`.
#[derive(Clone, Debug)]
pub struct WeightDropout {
    /// From 0 to below 1.
    pub p: f32,
    /// One u32 each.
    pub key: Key<View>,
}

impl WeightDropout {
    /// The key's words in the order of its fields.
    pub fn words(&self) -> [&View; 5] {
        let Key { seed_lo, seed_hi, instance, step, node } = &self.key;
        [seed_lo, seed_hi, instance, step, node]
    }
}

/// The sequence that a query belongs to, in the numbering of its batch element's keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sequence {
    /// Its keys.
    pub keys: Range<usize>,
    /// Query `i` stands where key `i + shift` does.
    pub shift: i64,
}

impl Sequence {
    /// Of [`Lengths::Full`], and of [`Lengths::Keys`] with this length.
    pub fn first(length: i64, [queries, keys]: [usize; 2]) -> Self {
        let length = length.clamp(0, keys as i64);
        Self { keys: 0..length as usize, shift: length - queries as i64 }
    }

    /// Of [`Lengths::Packed`] with these starts.
    pub fn packed(query: usize, starts: [&[i64]; 2], [queries, keys]: [usize; 2]) -> Self {
        let query = query as i64;
        let held = |x: i64, most: usize| x.clamp(0, most as i64);
        for (q, k) in starts[0].windows(2).zip(starts[1].windows(2)) {
            if (held(q[0], queries)..held(q[1], queries)).contains(&query) {
                let (begin, end) = (held(k[0], keys), held(k[1], keys));
                let shift = end - held(q[1], queries);
                return Self { keys: begin as usize..end.max(begin) as usize, shift };
            }
        }
        Self { keys: 0..0, shift: 0 }
    }
}

impl Sight {
    /// No later keys, and nothing else hidden.
    pub fn causal() -> Self {
        Self { causal: true, ..Self::default() }
    }

    /// The keys that query `query` of a sequence sees, but for blocks that are left out.
    pub fn keys(&self, query: usize, sequence: &Sequence) -> Range<usize> {
        let at = query as i64 + sequence.shift;
        let (mut begin, mut end) = (sequence.keys.start as i64, sequence.keys.end as i64);
        if self.causal {
            end = end.min(at + 1);
        }
        if let Some(window) = self.window {
            let window = i64::try_from(window).unwrap_or(i64::MAX / 4).min(i64::MAX / 4);
            begin = begin.max(at - window + 1);
            end = end.min(at + window);
        }
        begin as usize..end.max(begin) as usize
    }

    /// True when every query sees every key.
    pub fn is_everything(&self) -> bool {
        !self.causal && self.is_plain()
    }

    /// True when nothing but `causal` hides a key.
    pub fn is_plain(&self) -> bool {
        let full = matches!(self.lengths, Lengths::Full);
        self.window.is_none() && full && self.blocks.is_none()
    }

    fn reads(&self) -> impl Iterator<Item = &View> {
        let lengths = match &self.lengths {
            Lengths::Full => [None, None],
            Lengths::Keys(lengths) => [Some(lengths), None],
            Lengths::Packed { queries, keys } => [Some(queries), Some(keys)],
        };
        lengths.into_iter().flatten().chain(self.blocks.iter().map(|b| &b.keep))
    }

    fn check(&self, op: &'static str, [batch, heads, queries, keys]: [usize; 4]) -> Result<()> {
        let full = matches!(self.lengths, Lengths::Full);
        if self.causal && full && keys < queries {
            let message = format!(
                "causal attention needs at least as many keys ({keys}) as queries ({queries})"
            );
            return Err(Error::shape(op, message));
        }
        if self.window == Some(0) {
            return Err(Error::shape(op, "a window of no keys sees nothing: give 1 or more"));
        }
        match &self.lengths {
            Lengths::Full => {}
            Lengths::Keys(lengths) => {
                integer(op, lengths)?;
                same(op, "the key lengths", lengths, &[batch])?;
            }
            Lengths::Packed { queries, keys } => {
                integer(op, queries)?;
                integer(op, keys)?;
                let starts = queries.shape().get(1).copied().unwrap_or(0).max(1);
                same(op, "the queries' starts", queries, &[batch, starts])?;
                same(op, "the keys' starts", keys, &[batch, starts])?;
            }
        }
        let Some(blocks) = &self.blocks else { return Ok(()) };
        let [rows, columns] = blocks.size;
        if rows == 0 || columns == 0 || blocks.keep.dtype != DType::U8 {
            return Err(Error::shape(op, "a block mask is u8, of blocks of at least one pair"));
        }
        let shape = [batch, heads, queries.div_ceil(rows), keys.div_ceil(columns)];
        same(op, "the block mask", &blocks.keep, &shape)
    }
}

impl Attention {
    pub(super) fn reads(&self) -> impl Iterator<Item = &View> {
        let score = self.score.iter().flat_map(|s| s.params.iter().chain(&s.inputs));
        let dropout = self.dropout.iter().flat_map(WeightDropout::words);
        [&self.q, &self.k, &self.v]
            .into_iter()
            .chain(&self.mask)
            .chain(self.sight.reads())
            .chain(score)
            .chain(dropout)
    }

    /// True when some pair of a query and a key may not count.
    pub fn may_hide(&self) -> bool {
        !self.sight.is_everything() || self.mask.is_some() || self.dropout.is_some()
    }

    /// `[batch, heads, queries, keys]`
    pub fn pairs(&self) -> [usize; 4] {
        let (q, k) = (self.q.shape(), self.k.shape());
        [q[0], q[1], q[2], k[2]]
    }

    pub(super) fn check(&self, op: &'static str) -> Result<()> {
        let &[batch, heads, queries, dim] = self.q.shape() else {
            return Err(Error::shape(op, "q needs the shape [batch, heads, queries, head_dim]"));
        };
        let &[_, kv_heads, keys, _] = self.k.shape() else {
            return Err(Error::shape(op, "k needs the shape [batch, kv_heads, keys, head_dim]"));
        };
        if kv_heads == 0 || !heads.is_multiple_of(kv_heads) {
            let message = format!("{heads} query heads are no multiple of {kv_heads} key heads");
            return Err(Error::shape(op, message));
        }
        same(op, "k", &self.k, &[batch, kv_heads, keys, dim])?;
        same(op, "v", &self.v, &[batch, kv_heads, keys, dim])?;
        same(op, "out", &self.out, self.q.shape())?;
        same(op, "lse", &self.lse, &[batch, heads, queries])?;
        let pairs = [batch, heads, queries, keys];
        self.sight.check(op, pairs)?;
        if let Some(score) = &self.score {
            score.check(op, &pairs)?;
        }
        if let Some(dropout) = &self.dropout {
            dropout.check(op, &pairs)?;
        }
        let Some(mask) = &self.mask else { return Ok(()) };
        same(op, "mask", mask, &pairs)?;
        if !matches!(mask.dtype, DType::F32 | DType::U8) {
            let message = format!("the mask is {}: f32 is added, u8 keeps", mask.dtype);
            return Err(Error::shape(op, message));
        }
        Ok(())
    }
}

impl AttentionBackward {
    pub(super) fn reads(&self) -> impl Iterator<Item = &View> {
        let f = &self.forward;
        f.reads().chain([&f.out, &f.lse, &self.d_out])
    }

    pub(super) fn writes(&self) -> impl Iterator<Item = &View> {
        let inputs = self.d_inputs.iter().flatten();
        let all = [&self.d_q, &self.d_k, &self.d_v].into_iter().chain(&self.d_mask).chain(inputs);
        all.chain(&self.workspace)
    }

    pub(super) fn check(&self, op: &'static str) -> Result<()> {
        let f = &self.forward;
        f.check(op)?;
        same(op, "d_out", &self.d_out, f.out.shape())?;
        same(op, "d_q", &self.d_q, f.q.shape())?;
        same(op, "d_k", &self.d_k, f.k.shape())?;
        same(op, "d_v", &self.d_v, f.v.shape())?;
        if let Some(d_mask) = &self.d_mask {
            if f.mask.as_ref().is_none_or(|m| m.dtype != DType::F32) {
                return Err(Error::shape(op, "only a mask that is added has a gradient"));
            }
            summed(op, d_mask, &f.pairs())?;
        }
        let inputs = f.score.as_ref().map_or(0, |s| s.inputs.len());
        if self.d_inputs.len() > inputs {
            let message = format!("{} gradients of {inputs} inputs", self.d_inputs.len());
            return Err(Error::shape(op, message));
        }
        self.d_inputs.iter().flatten().try_for_each(|d| summed(op, d, &f.pairs()))
    }
}

/// A gradient over pairs: f32, with extents of 1 where it is summed.
fn summed(op: &'static str, view: &View, pairs: &[usize; 4]) -> Result<()> {
    let shape = view.shape();
    let fits = shape.len() == 4 && shape.iter().zip(pairs).all(|(&n, &all)| n == 1 || n == all);
    if fits && view.dtype == DType::F32 {
        return Ok(());
    }
    let message = format!("the gradient {view:?} is no f32 of {pairs:?} or its sums");
    Err(Error::shape(op, message))
}

impl Score {
    fn check(&self, op: &'static str, pairs: &[usize; 4]) -> Result<()> {
        let inputs = Self::OWN_INPUTS + self.inputs.len();
        let slopes = 1 + self.inputs.len();
        for (program, immediates, outputs) in [
            (&self.program, &self.immediates, 1),
            (&self.derivatives, &self.derivatives_immediates, slopes),
        ] {
            if program.input_count() > inputs || program.outputs().len() != outputs {
                return Err(Error::shape(op, "the score's program has other inputs or outputs"));
            }
            if program.uses_index() {
                let message = "a score's program has positions as inputs and no element index";
                return Err(Error::shape(op, message));
            }
            super::check::leaves(op, &self.params, immediates, program)?;
        }
        super::check::elementwise(op, &self.inputs, pairs)
    }
}

impl WeightDropout {
    fn check(&self, op: &'static str, pairs: &[usize; 4]) -> Result<()> {
        if !(0.0..1.0).contains(&self.p) {
            let message = format!("the dropout probability {} is not in 0..1", self.p);
            return Err(Error::shape(op, message));
        }
        if self.words().iter().any(|w| w.len() != 1 || w.dtype != DType::U32) {
            return Err(Error::shape(op, "the key of dropout is five single u32"));
        }
        let weights = pairs.iter().try_fold(1usize, |n, &m| n.checked_mul(m));
        if weights.is_none_or(|n| n as u64 > 1 << 32) {
            let message = format!("{pairs:?} are more weights than the 2^32 that can be drawn for");
            return Err(Error::shape(op, message));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_sees_its_sequence_its_past_and_its_window() {
        let sizes = [3, 8];
        let keys =
            |sight: &Sight, length, query| sight.keys(query, &Sequence::first(length, sizes));
        let causal = Sight::causal();
        assert_eq!(keys(&causal, 8, 0), 0..6);
        assert_eq!(keys(&causal, 8, 2), 0..8);
        assert_eq!(keys(&causal, 4, 0), 0..2);
        assert_eq!(keys(&causal, 99, 2), 0..8);
        // Two keys for three queries: the first comes before every key.
        assert_eq!(keys(&causal, 2, 0), 0..0);
        assert_eq!(keys(&causal, -3, 2), 0..0);
        let near = Sight { window: Some(2), ..Sight::default() };
        assert_eq!(keys(&near, 8, 1), 5..8);
        assert_eq!(keys(&Sight { causal: true, ..near.clone() }, 8, 1), 5..7);
        assert_eq!(keys(&Sight { window: Some(usize::MAX), ..near }, 8, 1), 0..8);
    }

    #[test]
    fn packed_sequences_do_not_see_each_other() {
        let starts: [&[i64]; 2] = [&[0, 2, 2, 5], &[0, 3, 4, 9]];
        let keys = |query| Sight::causal().keys(query, &Sequence::packed(query, starts, [7, 8]));
        assert_eq!(keys(0), 0..2);
        assert_eq!(keys(1), 0..3);
        // The last sequence ends with the view: keys 4..8 for queries 2..5.
        assert_eq!(keys(2), 4..6);
        assert_eq!(keys(4), 4..8);
        assert_eq!(keys(5), 0..0);
    }
}
