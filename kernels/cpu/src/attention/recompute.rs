//! Blocks of scores computed again from the saved log-sum-exp, with their gradients.

use super::Backward;
use super::Tensor;
use super::pack::{PackRows, PackTransposed, RowDots};
use super::product::{Band, Product, Start, panel_columns};
use super::shape::{Block, Pass, Pieces, Shape, Shared, blocks, visible_keys};
use super::softmax::{Gradient, MAX_KEYS, MAX_LANES, MAX_QUERIES, Scores};
use crate::map::few::Few;
use crate::scratch::with_scratch;
use std::ops::Range;

/// Queries of a block.
pub const ROWS: usize = MAX_QUERIES;
/// Keys of a block: a whole number of panels of every instruction set.
pub const COLS: usize = 128;
/// Distance of the scores' rows; see the forward pass.
pub const SCORES_ROW: usize = COLS + MAX_LANES;
/// Numbers of a block's scores.
pub const TILE: usize = ROWS * SCORES_ROW;
/// The widest panel of any instruction set.
const MAX_PANEL: usize = 64;

const _: () = assert!(COLS <= MAX_KEYS);

/// One key head as the products read it.
#[derive(Clone, Copy)]
pub struct Keys {
    /// Panels of keys as columns.
    keys_transposed: *mut f32,
    /// Panels of values as columns.
    values_transposed: *mut f32,
    /// Rows of keys.
    pub keys: *mut f32,
}

impl Keys {
    fn panels_len(shape: &Shape) -> usize {
        Pieces::size(shape.keys.next_multiple_of(MAX_PANEL) * shape.dim)
    }

    /// Numbers that it takes.
    pub fn len(shape: &Shape) -> usize {
        2 * Self::panels_len(shape) + shape.keys * shape.width()
    }

    /// In the memory from `at` on.
    pub fn new(shape: &Shape, at: *mut f32) -> Self {
        let panels = Self::panels_len(shape);
        Self {
            keys_transposed: at,
            values_transposed: at.wrapping_add(panels),
            keys: at.wrapping_add(2 * panels),
        }
    }

    /// Copies a unit's keys and values.
    ///
    /// # Safety
    /// `self` is writable for `rows`, and `call`'s tensors are readable.
    pub unsafe fn pack(&self, pass: Pass<'_, Backward<'_>>, unit: usize, rows: Range<usize>) {
        let Pass { isa, call, shape } = pass;
        let (batch, head) = shape.unit(unit);
        let (start, dim, width, n) = (rows.start, shape.dim, shape.width(), rows.len());
        let columns = panel_columns(isa.lanes());
        let k = call.forward.k.matrix(batch, head).skip_rows(start);
        let v = call.forward.v.matrix(batch, head).skip_rows(start);
        // SAFETY: as the caller promises.
        unsafe {
            for (src, panels) in [(k, self.keys_transposed), (v, self.values_transposed)] {
                let dst = panels.add(start * dim);
                isa.run(PackTransposed { src, dst, rows: n, dim, columns }.kernel());
            }
            let dst = self.keys.add(start * width);
            isa.run(PackRows { src: k, dst, rows: n, dim, width, factor: 1.0 }.kernel());
        }
    }
}

/// One query head as the products read it.
#[derive(Clone, Copy)]
pub struct Queries {
    /// Rows of scaled queries.
    pub q: *mut f32,
    /// Rows of upstream gradients.
    pub d_out: *mut f32,
    lse: *mut f32,
    delta: *mut f32,
}

impl Queries {
    /// Numbers that it takes.
    pub fn len(shape: &Shape) -> usize {
        2 * shape.queries * shape.width() + 2 * Pieces::size(shape.queries)
    }

    /// In the memory from `at` on.
    pub fn new(shape: &Shape, at: *mut f32) -> Self {
        let (rows, column) = (shape.queries * shape.width(), Pieces::size(shape.queries));
        Self {
            q: at,
            d_out: at.wrapping_add(rows),
            lse: at.wrapping_add(2 * rows),
            delta: at.wrapping_add(2 * rows + column),
        }
    }

    /// Copies a head's queries and upstream gradients.
    ///
    /// # Safety
    /// `self` is writable for `rows`, and `call`'s tensors are readable.
    pub unsafe fn pack(
        &self,
        pass: Pass<'_, Backward<'_>>,
        (batch, head): (usize, usize),
        rows: Range<usize>,
    ) {
        let Pass { isa, call, shape } = pass;
        let (dim, width) = (shape.dim, shape.width());
        let copy = |from: &Tensor, rows: &Range<usize>, dst, factor| PackRows {
            src: from.matrix(batch, head).skip_rows(rows.start),
            dst,
            rows: rows.len(),
            dim,
            width,
            factor,
        };
        for rows in blocks(rows.len(), ROWS).map(|r| rows.start + r.start..rows.start + r.end) {
            let at = rows.start * width;
            // SAFETY: as the caller promises; the scratch holds one block of `out`.
            with_scratch(ROWS * width, |out| unsafe {
                let (out, d_out) = (out.as_mut_ptr(), self.d_out.add(at));
                isa.run(copy(&call.forward.q, &rows, self.q.add(at), call.forward.scale).kernel());
                isa.run(copy(&call.d_out, &rows, d_out, 1.0).kernel());
                isa.run(copy(&call.forward.out, &rows, out, 1.0).kernel());
                let delta = self.delta.add(rows.start);
                isa.run(RowDots { a: d_out, b: out, out: delta, rows: rows.len(), width }.kernel());
                for row in rows {
                    *self.lse.add(row) = *call.forward.lse.scalar(batch, head, row);
                }
            });
        }
    }
}

/// All keys and queries, packed one after another.
#[derive(Clone, Copy)]
pub struct Packed {
    memory: Shared,
    shape: Shape,
}

impl Packed {
    /// Numbers that it takes.
    pub fn len(shape: &Shape) -> usize {
        let heads = shape.batch * shape.heads;
        shape.units() * Keys::len(shape) + heads * Queries::len(shape)
    }

    /// In the memory from `at` on.
    pub fn new(shape: Shape, at: *mut f32) -> Self {
        Self { memory: Shared::new(at), shape }
    }

    /// Those of a unit.
    pub fn keys(&self, unit: usize) -> Keys {
        Keys::new(&self.shape, self.memory.offset(unit * Keys::len(&self.shape)))
    }

    /// Those of head `batch * heads + head`.
    pub fn queries(&self, head: usize) -> Queries {
        let start = self.shape.units() * Keys::len(&self.shape);
        Queries::new(&self.shape, self.memory.offset(start + head * Queries::len(&self.shape)))
    }

    /// What lies behind.
    pub fn rest(&self) -> Shared {
        Shared::new(self.memory.offset(Self::len(&self.shape)))
    }
}

/// Working memory for one block: tiles laid out alike.
#[derive(Clone, Copy)]
pub struct Tiles<'a> {
    /// The weights; before, products and scores.
    pub weights: *mut f32,
    /// The gradients of the scores, not yet of the products.
    pub d_scores: *mut f32,
    /// The first derivatives of the score's program.
    pub slopes: &'a [*mut f32],
}

impl Tiles<'_> {
    /// Numbers that tiles with so many slopes take.
    pub const fn len(slopes: usize) -> usize {
        (2 + slopes) * TILE
    }
}

/// Calls `f` with tiles in `memory`, of [`Tiles::len`] numbers.
pub fn with_tiles<R>(memory: *mut f32, slopes: usize, f: impl FnOnce(Tiles<'_>) -> R) -> R {
    let tile = |i: usize| memory.wrapping_add(i * TILE);
    let slopes: Few<*mut f32, 4> = Few::collect(memory, (0..slopes).map(|i| tile(2 + i)));
    f(Tiles { weights: tile(0), d_scores: tile(1), slopes: &slopes })
}

/// A block's weights, before dropout, and the gradients of its scores, both 0 where a pair does not
/// count; `None`, and nothing written, where no pair does.
///
/// # Safety
/// As [`super::backward`]; `keys` and `queries` are packed and the tiles this task's own.
pub unsafe fn recompute(
    pass: Pass<'_, Backward<'_>>,
    block: &Block,
    keys: Keys,
    queries: Queries,
    tiles: Tiles<'_>,
) -> Option<Scores> {
    let Pass { isa, call, shape } = pass;
    let (dim, width) = (shape.dim, shape.width());
    let (i, j) = (block.rows.start, block.cols.start);
    let options = call.forward.options;
    // SAFETY: as the caller promises.
    let (scores, seen) = unsafe {
        let seen = visible_keys(&call.forward, &shape, block.batch, &block.rows, 1);
        (block.scores(&call.forward, &shape, tiles.weights, SCORES_ROW), seen)
    };
    let visible = scores.visible();
    if visible == 0 || seen.end <= block.cols.start || seen.start >= block.cols.end {
        return None;
    }
    let panel = panel_columns(isa.lanes());
    // SAFETY: as the caller promises; a block's scores fit `ROWS` rows of `SCORES_ROW`.
    unsafe {
        if options.is_some_and(|o| o.leaves_out(block)) {
            return None;
        }
        let q_k = Product {
            m: scores.rows,
            n: visible,
            k: dim,
            a: queries.q.add(i * width),
            a_row: width,
            a_col: 1,
            b: keys.keys_transposed.add(j * dim),
            b_row: panel,
            b_panel: Some(panel * dim),
            c: tiles.weights,
            c_row: SCORES_ROW,
            start: Start::Zero,
            band: scores.band(Band::Columns),
        };
        isa.run(q_k.kernel());
        let (a, b) = (queries.d_out.add(i * width), keys.values_transposed.add(j * dim));
        isa.run(Product { a, b, c: tiles.d_scores, ..q_k }.kernel());
        if let Some(options) = options {
            options.slopes(block, &scores, tiles.slopes);
            options.score(block, &scores);
            options.drop_weights(block, &scores, tiles.d_scores);
        }
        let (d_p, lse, delta) = (tiles.d_scores, queries.lse.add(i), queries.delta.add(i));
        isa.run(Gradient { scores, d_p, lse, delta }.kernel());
    }
    Some(scores)
}
