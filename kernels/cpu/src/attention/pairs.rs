//! Gradients of what is given for each pair of a query and a key: the mask that is added, and the
//! inputs of the score's program.
//!
//! Every task sums what belongs to its own results or to its own partial sums, in an order that the
//! shapes decide.

use super::recompute::{COLS, Packed, ROWS, SCORES_ROW, TILE, Tiles, recompute, with_tiles};
use super::shape::{Block, Pass, Shape, blocks, for_each};
use super::{Backward, PairGradient, PairOperand, Tensor};
use crate::isa::Kernel;
use crate::scratch::with_scratch;
use crate::simd::Simd;
use starling_contract::Layout;
use std::ops::Range;

/// Over what a gradient is summed within a head.
#[derive(Clone, Copy, PartialEq)]
enum Sum {
    /// Nothing: one result for each query and key.
    Nothing,
    /// Keys, then perhaps queries: one partial sum for each query.
    Keys,
    /// Queries: one partial sum for each key.
    Queries,
}

impl Sum {
    fn of(shape: &Shape, to: &Layout) -> Self {
        match to.shape()[2..] {
            [_, keys] if keys != shape.keys => Sum::Keys,
            [queries, _] if queries != shape.queries => Sum::Queries,
            _ => Sum::Nothing,
        }
    }

    /// Partial sums of one head.
    fn partials(self, shape: &Shape) -> usize {
        match self {
            Sum::Nothing => 0,
            Sum::Keys => shape.queries,
            Sum::Queries => shape.keys,
        }
    }
}

/// Numbers of working memory for partial sums of such a gradient.
pub fn partial_len(shape: &Shape, to: &Layout) -> usize {
    shape.batch * shape.heads * Sum::of(shape, to).partials(shape)
}

/// The indices along an axis that make up each result: all for an axis that is summed.
fn summands(all: usize, to: usize, at: usize) -> Range<usize> {
    if to == all { at..at + 1 } else { 0..all }
}

/// Computes one gradient.
///
/// # Safety
/// As [`super::backward`]; everything is packed, and behind it there are [`partial_len`] numbers.
pub unsafe fn gradient(pass: Pass<'_, Backward<'_>>, wanted: &PairGradient, packed: Packed) {
    let shape = pass.shape;
    let (sum, to) = (Sum::of(&shape, &wanted.to.layout), &wanted.to);
    let rows: Vec<_> = blocks(shape.queries, ROWS).collect();
    let cols: Vec<_> = blocks(shape.keys, COLS).collect();
    let (all_rows, all_cols) = (0..rows.len(), 0..cols.len());
    let [batch, heads] = match sum {
        Sum::Nothing => [to.layout.shape()[0], to.layout.shape()[1]],
        _ => [shape.batch, shape.heads],
    };
    let parts = match sum {
        Sum::Nothing => rows.len() * cols.len(),
        Sum::Keys => rows.len(),
        Sum::Queries => cols.len(),
    };
    let partial = packed.rest();
    for_each(batch * heads * parts, 2 * shape.work(), |task| {
        let (place, part) = (task / parts, task % parts);
        let (b, h) = (place / heads, place % heads);
        let one = |i: usize| i..i + 1;
        let (r, c) = match sum {
            Sum::Nothing => (one(part / cols.len()), one(part % cols.len())),
            Sum::Keys => (one(part), all_cols.clone()),
            Sum::Queries => (all_rows.clone(), one(part)),
        };
        let tiles = (summands(shape.batch, batch, b), summands(shape.heads, heads, h));
        let tiles = tiles.0.flat_map(|b| tiles.1.clone().map(move |h| (b, h)));
        let tiles = tiles.flat_map(|(batch, head)| {
            let (rows, cols, c) = (&rows, &cols, c.clone());
            r.clone().flat_map(move |r| {
                let block = move |c: usize| {
                    let (rows, cols) = (rows[r].clone(), cols[c].clone());
                    Block { batch, head, rows, cols }
                };
                c.clone().map(block)
            })
        });
        with_scratch(TILE, |total| {
            total.fill(0.0);
            let total = total.as_mut_ptr();
            // SAFETY: as the caller promises; the tasks' results and partial sums are disjoint.
            unsafe {
                tiles.for_each(|block| add_block(pass, &block, wanted.of, sum, packed, total));
                match sum {
                    Sum::Nothing => write_tile(to, (b, h), &rows[r.start], &cols[c.start], total),
                    Sum::Keys => {
                        let own = rows[r.start].clone();
                        let at = partial.offset(place * shape.queries + own.start);
                        at.copy_from_nonoverlapping(total, own.len());
                    }
                    Sum::Queries => {
                        let own = cols[c.start].clone();
                        let at = partial.offset(place * shape.keys + own.start);
                        at.copy_from_nonoverlapping(total, own.len());
                    }
                }
            }
        });
    });
    if sum != Sum::Nothing {
        // SAFETY: every partial sum was written.
        unsafe { add_partials(&shape, sum, partial.offset(0), to) };
    }
}

/// `total += d_scores`, times the score's derivative by an input.
///
/// # Safety
/// As [`gradient`]; `total` is a tile of this task's own.
unsafe fn add_block(
    pass: Pass<'_, Backward<'_>>,
    block: &Block,
    of: PairOperand,
    sum: Sum,
    packed: Packed,
    total: *mut f32,
) {
    let (isa, shape) = (pass.isa, pass.shape);
    let slopes = match of {
        PairOperand::Mask => 0,
        PairOperand::Input(i) => 2 + i,
    };
    let unit = block.batch * shape.kv_heads + block.head / shape.group();
    let (keys, queries) =
        (packed.keys(unit), packed.queries(block.batch * shape.heads + block.head));
    with_scratch(Tiles::len(slopes), |memory| {
        // SAFETY: as the caller promises; the tiles are this task's own.
        with_tiles(memory.as_mut_ptr(), slopes, |tiles| unsafe {
            let Some(scores) = recompute(pass, block, keys, queries, tiles) else { return };
            let (d, rows, cols) = (tiles.d_scores, scores.rows, scores.visible());
            if let Some(&slope) = tiles.slopes.last() {
                isa.run(TimesSlope { d, slope, rows, cols }.kernel());
            }
            isa.run(AddTile { from: d, rows, cols, sum, to: total }.kernel());
        });
    });
}

/// Writes the results of one block.
///
/// # Safety
/// The block lies inside `to`, which nobody else writes there.
unsafe fn write_tile(
    to: &Tensor,
    (batch, head): (usize, usize),
    rows: &Range<usize>,
    cols: &Range<usize>,
    tile: *const f32,
) {
    let to = to.matrix(batch, head).skip_rows(rows.start);
    for i in 0..rows.len() {
        let row = to.skip_rows(i);
        for (j, col) in cols.clone().enumerate() {
            // SAFETY: as the caller promises.
            unsafe {
                *row.at.wrapping_offset(col as isize * row.col) = *tile.add(i * SCORES_ROW + j);
            }
        }
    }
}

/// Sums `[batch, heads, n]` partial sums to the results.
///
/// # Safety
/// So many are readable, and nobody else has `to`.
unsafe fn add_partials(shape: &Shape, sum: Sum, partial: *const f32, to: &Tensor) {
    let n = sum.partials(shape);
    let &[batch, heads, queries, keys] = to.layout.shape() else { return };
    let results = if sum == Sum::Keys { queries } else { keys };
    for (b, h) in (0..batch).flat_map(|b| (0..heads).map(move |h| (b, h))) {
        let matrix = to.matrix(b, h);
        let step = if sum == Sum::Keys { matrix.row } else { matrix.col };
        for i in 0..results {
            let mut total = 0.0f64;
            for b in summands(shape.batch, batch, b) {
                for h in summands(shape.heads, heads, h) {
                    for i in summands(n, results, i) {
                        // SAFETY: as the caller promises.
                        total += f64::from(unsafe { *partial.add((b * shape.heads + h) * n + i) });
                    }
                }
            }
            // SAFETY: as the caller promises.
            unsafe { *matrix.at.wrapping_offset(i as isize * step) = total as f32 };
        }
    }
}

/// `d *= slope`, 0 where `d` is: what does not count may have any slope. Tiles of `SCORES_ROW`.
pub struct TimesSlope {
    pub d: *mut f32,
    pub slope: *const f32,
    pub rows: usize,
    pub cols: usize,
}

impl TimesSlope {
    /// The product as a kernel.
    ///
    /// # Safety
    /// While it runs, both are readable and `d` is writable for whole vectors of their rows.
    pub unsafe fn kernel(self) -> impl Kernel<Out = ()> {
        Checked(self)
    }
}

/// Adds a tile of `SCORES_ROW`, zero behind its columns, to a tile or to sums.
struct AddTile {
    from: *const f32,
    rows: usize,
    cols: usize,
    sum: Sum,
    to: *mut f32,
}

impl AddTile {
    /// The sum as a kernel.
    ///
    /// # Safety
    /// While it runs, both are readable and `to` is writable for whole vectors of their rows.
    unsafe fn kernel(self) -> impl Kernel<Out = ()> {
        Checked(self)
    }
}

/// A description whose maker promised that its pointers are valid.
struct Checked<T>(T);

impl Kernel for Checked<TimesSlope> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let p = self.0;
        let zero = s.lit(0.0);
        for i in 0..p.rows {
            for j in (0..p.cols).step_by(S::LANES) {
                let at = i * SCORES_ROW + j;
                // SAFETY: `TimesSlope::kernel`'s caller promised whole vectors.
                unsafe {
                    let d = s.load(p.d.add(at));
                    let product = s.mul(d, s.load(p.slope.add(at)));
                    s.store(p.d.add(at), s.select(s.eq(d, zero), zero, product));
                }
            }
        }
    }
}

impl Kernel for Checked<AddTile> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let p = self.0;
        for i in 0..p.rows {
            let mut sum = s.lit(0.0);
            for j in (0..p.cols).step_by(S::LANES) {
                // SAFETY: `AddTile::kernel`'s caller promised whole vectors.
                unsafe {
                    let x = s.load(p.from.add(i * SCORES_ROW + j));
                    let to = match p.sum {
                        Sum::Nothing => p.to.add(i * SCORES_ROW + j),
                        Sum::Queries => p.to.add(j),
                        Sum::Keys => {
                            sum = s.add(sum, x);
                            continue;
                        }
                    };
                    s.store(to, s.add(s.load(to), x));
                }
            }
            if p.sum == Sum::Keys {
                // SAFETY: as above.
                unsafe { *p.to.add(i) += s.sum(sum) };
            }
        }
    }
}
