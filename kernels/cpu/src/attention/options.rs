//! What becomes of scores and weights beyond masks and spans: the score's program, dropout, blocks
//! that are left out. Tile by tile, so that memory stays linear in the sequence lengths.

use super::shape::Block;
use super::softmax::{MAX_KEYS, MAX_LANES, MAX_QUERIES, Scores};
use crate::isa::{Isa, Kernel};
use crate::map::few::Few;
use crate::map::grid::Operand;
use crate::map::part::{Part, PartProgram};
use crate::map::single_word;
use crate::map::steps::uniforms;
use crate::simd::Simd;
use starling_contract::{
    Attention, AttentionBackward, BlockMask, CheckedRef, Error, Immediates, Program, Result, Score,
    View, WeightDropout,
};
use starling_ops::Key;
use starling_ops::defs::{self, Def};
use std::ops::Range;

/// Where a query stands in its sequence.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Standing {
    /// Its position; see [`starling_contract::Sight`].
    pub position: f32,
    /// The key that has position 0.
    pub origin: u32,
}

/// Options of one call that most calls do without, their views resolved.
pub struct Options<'a> {
    isa: Isa,
    score: Option<PartProgram>,
    slopes: Option<PartProgram>,
    dropout: Option<(f32, Key<u32>)>,
    blocks: Option<(Operand, [usize; 2])>,
    /// By batch element and query; empty without a score's program.
    standings: &'a [Standing],
    queries: usize,
    keys: usize,
    heads: usize,
}

impl<'a> Options<'a> {
    /// Those of a forward pass; `None` when it has none. `standings` are as many as there are
    /// queries of all batch elements where there is a score's program.
    ///
    /// # Errors
    /// [`Error::Shape`] for views outside host memory, [`Error::Unsupported`] for integer inputs of
    /// a score.
    pub fn of_forward(
        isa: Isa,
        verb: CheckedRef<'_, Attention>,
        standings: &'a [Standing],
    ) -> Result<Option<Self>> {
        Self::new(("attention", isa), &verb, standings, false)
    }

    /// Those of a backward pass.
    ///
    /// # Errors
    /// As [`Options::of_forward`].
    pub fn of_backward(
        isa: Isa,
        verb: CheckedRef<'_, AttentionBackward>,
        standings: &'a [Standing],
    ) -> Result<Option<Self>> {
        Self::new(("attention_backward", isa), &verb.get().forward, standings, true)
    }

    fn new(
        (op, isa): (&'static str, Isa),
        verb: &Attention,
        standings: &'a [Standing],
        backward: bool,
    ) -> Result<Option<Self>> {
        let (score, blocks) = (&verb.score, &verb.sight.blocks);
        if score.is_none() && blocks.is_none() && verb.dropout.is_none() {
            return Ok(None);
        }
        let pairs = verb.pairs();
        let [batch, heads, queries, keys] = pairs;
        if score.is_some() && standings.len() != batch * queries {
            return Err(Error::shape(op, "a score's program needs each query's standing"));
        }
        let program = |program: &Program, immediates: &Immediates, s: &Score| {
            PartProgram::new((op, isa), program, (&s.params, immediates), [&s.inputs, &[]], &pairs)
        };
        let slopes = score.as_ref().filter(|_| backward);
        let slopes = slopes.map(|s| program(&s.derivatives, &s.derivatives_immediates, s));
        let score = score.as_ref().map(|s| program(&s.program, &s.immediates, s));
        Ok(Some(Self {
            isa,
            score: score.transpose()?,
            slopes: slopes.transpose()?,
            dropout: verb.dropout.as_ref().map(|d| dropout(op, d)).transpose()?,
            blocks: blocks.as_ref().map(|b| block_mask(op, b)).transpose()?,
            standings,
            queries,
            keys,
            heads,
        }))
    }

    /// Whether scores pass through a program, whose derivatives are needed.
    pub(super) fn has_slopes(&self) -> bool {
        self.slopes.is_some()
    }

    /// The blocks of the block mask that a block meets, and whether they are kept.
    ///
    /// # Safety
    /// The block is one of the verb's, which is still as it was checked.
    unsafe fn met(
        &self,
        block: &Block,
    ) -> impl Iterator<Item = (Range<usize>, Range<usize>, bool)> {
        let Block { batch, head, rows, cols } = block.clone();
        self.blocks.iter().flat_map(move |&(keep, size)| {
            let cols = cols.clone();
            stretches(rows.clone(), size[0]).flat_map(move |(i, rows)| {
                stretches(cols.clone(), size[1]).map(move |(j, cols)| {
                    let place = [batch, head, i, j].into_iter().zip(&keep.strides);
                    let at: isize = place.map(|(i, stride)| i as isize * stride).sum();
                    // SAFETY: as the caller promises: the verb's check found the mask's view inside
                    // its storage, with a byte for each of the blocks.
                    let kept = unsafe { *keep.first.offset(at) } != 0;
                    (rows.clone(), cols, kept)
                })
            })
        })
    }

    /// True when no pair of the block counts.
    ///
    /// # Safety
    /// The block is one of the verb's, which is still as it was checked.
    pub(super) unsafe fn leaves_out(&self, block: &Block) -> bool {
        // SAFETY: as the caller promises.
        self.blocks.is_some() && !unsafe { self.met(block) }.any(|(_, _, kept)| kept)
    }

    /// Products become scores: the program's result, and -inf where the block mask hides a pair.
    ///
    /// # Safety
    /// The scores are the block's and nobody else has them; the verb is still as it was checked.
    pub(super) unsafe fn score(&self, block: &Block, scores: &Scores) {
        if let Some(program) = &self.score {
            // SAFETY: as the caller promises.
            unsafe { self.run(program, block, scores, &[scores.at]) };
        }
        let visible = scores.visible();
        // SAFETY: as the caller promises.
        let met = unsafe { self.met(block) };
        for (rows, cols, _) in met.filter(|(_, _, kept)| !kept) {
            let begin = cols.start - block.cols.start;
            let end = (cols.end - block.cols.start).min(visible);
            for i in rows.start - block.rows.start..rows.end - block.rows.start {
                for j in begin..end {
                    // SAFETY: the pair is one of the block's.
                    unsafe { *scores.at.add(i * scores.row + j) = f32::NEG_INFINITY };
                }
            }
        }
    }

    /// The first derivatives of the score's program at the products, one tile laid out as the
    /// products for each.
    ///
    /// # Safety
    /// As [`Options::score`]; `tiles` are as long and nobody else's.
    pub(super) unsafe fn slopes(&self, block: &Block, products: &Scores, tiles: &[*mut f32]) {
        if let Some(program) = self.slopes.as_ref().filter(|_| !tiles.is_empty()) {
            // SAFETY: as the caller promises.
            unsafe { self.run(program, block, products, tiles) };
        }
    }

    /// Runs a program of the score over the rows of each sequence.
    ///
    /// # Safety
    /// As [`Options::slopes`].
    unsafe fn run(
        &self,
        program: &PartProgram,
        block: &Block,
        products: &Scores,
        results: &[*mut f32],
    ) {
        let (cols, pitch) = (products.visible(), [products.row as isize, 1]);
        let own = &self.standings[block.batch * self.queries + block.rows.start..];
        let own = &own[..if cols == 0 { 0 } else { products.rows }];
        let mut row = 0;
        for run in own.chunk_by(|a, b| a.origin == b.origin) {
            let part = Part {
                matrix: block.batch * self.heads + block.head,
                row: block.rows.start + row,
                col: block.cols.start,
                extent: [run.len(), cols],
            };
            let (mut queries, mut keys) = ([0.0f32; MAX_QUERIES], [0.0f32; MAX_KEYS]);
            for (to, from) in queries.iter_mut().zip(run) {
                *to = from.position;
            }
            for (j, to) in keys[..cols].iter_mut().enumerate() {
                *to = ((block.cols.start + j) as i64 - i64::from(run[0].origin)) as f32;
            }
            let mut places = [block.head as f32, block.batch as f32];
            let [head, batch] = &mut places;
            let inputs = [
                Part::operand(products.at.wrapping_add(row * products.row), pitch),
                Part::operand(queries.as_mut_ptr(), [1, 0]),
                Part::operand(keys.as_mut_ptr(), [0, 1]),
                Part::operand(head, [0, 0]),
                Part::operand(batch, [0, 0]),
            ];
            let result = |at: &*mut f32| Part::operand(at.wrapping_add(row * products.row), pitch);
            let outputs: Few<Operand, 4> = Few::collect(inputs[0], results.iter().map(result));
            // SAFETY: the part is one of the matrices of pairs; tiles and lists are this call's
            // own and as long as the part, and the verb's check found the views inside theirs.
            unsafe { program.run(&part, &inputs, &outputs) };
            row += run.len();
        }
    }

    /// Weights, or their gradients, become what dropout makes of them.
    ///
    /// # Safety
    /// `tile` is laid out as the scores, and nobody else has it.
    pub(super) unsafe fn drop_weights(&self, block: &Block, scores: &Scores, tile: *mut f32) {
        let Some((p, key)) = self.dropout else { return };
        let row = (block.batch * self.heads + block.head) * self.queries + block.rows.start;
        let drop = DropWeights {
            at: tile,
            row: scores.row,
            rows: scores.rows,
            cols: scores.visible(),
            first: row * self.keys + block.cols.start,
            keys: self.keys,
            p,
            key,
        };
        self.isa.run(Checked(drop));
    }
}

/// The parts of `all` that lie in different blocks of `size`, with the blocks' numbers.
fn stretches(all: Range<usize>, size: usize) -> impl Iterator<Item = (usize, Range<usize>)> {
    let blocks = if all.is_empty() { 0..0 } else { all.start / size..(all.end - 1) / size + 1 };
    blocks.map(move |b| {
        let begin = b * size;
        (b, begin.max(all.start)..begin.saturating_add(size).min(all.end))
    })
}

fn dropout(op: &'static str, dropout: &WeightDropout) -> Result<(f32, Key<u32>)> {
    let Key { seed_lo, seed_hi, instance, step, node } = &dropout.key;
    let word = |view: &View| single_word(op, view);
    let key = Key {
        seed_lo: word(seed_lo)?,
        seed_hi: word(seed_hi)?,
        instance: word(instance)?,
        step: word(step)?,
        node: word(node)?,
    };
    Ok((dropout.p, key))
}

fn block_mask(op: &'static str, blocks: &BlockMask) -> Result<(Operand, [usize; 2])> {
    Ok((Operand::of(op, &blocks.keep)?, blocks.size))
}

/// Dropout of a tile of weights.
struct DropWeights {
    at: *mut f32,
    row: usize,
    rows: usize,
    cols: usize,
    /// The first pair's place among all pairs.
    first: usize,
    /// Pairs of a query.
    keys: usize,
    p: f32,
    key: Key<u32>,
}

/// A description whose maker promised that its pointers are valid.
struct Checked<T>(T);

impl Kernel for Checked<DropWeights> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let d = self.0;
        let word = |x| s.ulit(x);
        let Key { seed_lo, seed_hi, instance, step, node } = d.key;
        let (seed_lo, seed_hi) = (word(seed_lo), word(seed_hi));
        let (instance, step, node) = (word(instance), word(step), word(node));
        let key = Key { seed_lo, seed_hi, instance, step, node };
        let p = s.lit(d.p.into());
        let mut drawn = [0.0f32; MAX_KEYS + 5 * MAX_LANES + 4];
        for i in 0..d.rows {
            // All pairs have numbers of 32 bits: `Verb::check`.
            let index = (d.first + i * d.keys) as u32;
            // SAFETY: `drawn` holds a row of at most `MAX_KEYS` numbers, the three before it, its
            // last vector and what `uniforms` writes behind; `Options::drop_weights` made its
            // caller promise the tile, whose rows are whole vectors.
            unsafe {
                uniforms(s, key, index, d.cols, drawn.as_mut_ptr());
                let drawn = drawn.as_ptr().add((index % 4) as usize);
                for j in (0..d.cols).step_by(S::LANES) {
                    let at = d.at.add(i * d.row + j);
                    let mut kept = [s.lit(0.0)];
                    let weight = [s.load(at), s.load(drawn.add(j)), p];
                    defs::Dropout.eval(s, &weight, &mut kept);
                    s.store(at, kept[0]);
                }
            }
        }
    }
}
