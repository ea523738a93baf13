//! The forward pass: for each block of queries one walk over the keys that they see.

use super::Forward;
use super::pack::{Factor, PackRows, PackTransposed, UnpackRows};
use super::product::{AnyNotFinite, Band, Product, Start, panel_columns};
use super::shape::{Block, Pass, Pieces, Shape, Shared, blocks, blocks_of, for_each, visible_keys};
use super::softmax::{Finish, MAX_LANES, MAX_QUERIES, OnlineSoftmax};
use crate::isa::Isa;
use crate::scratch::with_scratch;
use std::ops::Range;

/// Queries of a block.
const ROWS: usize = MAX_QUERIES;
/// Keys of a block: a whole number of panels of every instruction set.
const COLS: usize = 128;
/// Distance of the scores' rows: one cache line more than a block, so that a column of them does
/// not fall into few sets of the cache.
const SCORES_ROW: usize = COLS + MAX_LANES;

/// One key head as the products read it.
#[derive(Clone, Copy)]
struct Keys {
    /// Panels of keys as columns.
    transposed: *mut f32,
    /// Rows of values.
    values: *mut f32,
}

impl Keys {
    fn len(shape: &Shape, isa: Isa) -> usize {
        Pieces::size(shape.padded_keys(isa) * shape.dim) + Pieces::size(shape.keys * shape.width())
    }

    fn new(shape: &Shape, isa: Isa, at: *mut f32) -> Self {
        let values = at.wrapping_add(Pieces::size(shape.padded_keys(isa) * shape.dim));
        Self { transposed: at, values }
    }

    /// # Safety
    /// `self` is writable for `rows`, and `call`'s tensors are readable.
    unsafe fn pack(&self, pass: Pass<'_, Forward<'_>>, unit: usize, rows: Range<usize>) {
        let Pass { isa, call, shape } = pass;
        let (batch, head) = shape.unit(unit);
        let (start, dim, width) = (rows.start, shape.dim, shape.width());
        call.k.matrix(batch, head).skip_rows(start).prefetch(rows.len(), dim);
        call.v.matrix(batch, head).skip_rows(start).prefetch(rows.len(), dim);
        // SAFETY: as the caller promises.
        unsafe {
            isa.run(
                PackTransposed {
                    src: call.k.matrix(batch, head).skip_rows(start),
                    dst: self.transposed.add(start * dim),
                    rows: rows.len(),
                    dim,
                    columns: panel_columns(isa.lanes()),
                }
                .kernel(),
            );
            isa.run(
                PackRows {
                    src: call.v.matrix(batch, head).skip_rows(start),
                    dst: self.values.add(start * width),
                    rows: rows.len(),
                    dim,
                    width,
                    factor: 1.0,
                }
                .kernel(),
            );
        }
    }
}

/// Working memory of one block of queries.
struct Work {
    q: *mut f32,
    out: *mut f32,
    scores: *mut f32,
    max: *mut f32,
    sum: *mut f32,
    factor: *mut f32,
}

impl Work {
    fn len(shape: &Shape) -> usize {
        ROWS * (2 * shape.width() + SCORES_ROW + MAX_LANES + 2)
    }

    fn new(shape: &Shape, memory: &mut [f32]) -> Self {
        let mut pieces = Pieces(memory);
        Self {
            q: pieces.take(ROWS * shape.width()),
            out: pieces.take(ROWS * shape.width()),
            scores: pieces.take(ROWS * SCORES_ROW),
            max: pieces.take(ROWS),
            sum: pieces.take(ROWS * MAX_LANES),
            factor: pieces.take(ROWS),
        }
    }
}

/// Computes `out` and `lse`.
///
/// # Safety
/// The tensors have the shapes that [`Forward`] says, as checked by `Verb::check`;
/// every element is readable, those of `out` and `lse` are writable, overlap nothing, and nobody
/// else touches them meanwhile.
pub unsafe fn forward(isa: Isa, call: &Forward<'_>) {
    let shape = Shape::new(&call.q.layout, &call.k.layout);
    if shape.batch * shape.heads * shape.queries == 0 {
        return;
    }
    let pass = Pass { isa, call, shape };
    let packed_len = Keys::len(&shape, isa);
    let units = shape.units();
    if shape.many_units() {
        for_each(units, shape.work(), |unit| {
            with_scratch(packed_len + Work::len(&shape), |memory| {
                let (packed, work) = memory.split_at_mut(packed_len);
                let keys = Keys::new(&shape, isa, packed.as_mut_ptr());
                let work = Work::new(&shape, work);
                let (batch, kv_head) = shape.unit(unit);
                // SAFETY: as the caller promises; the working memory is this task's own.
                unsafe {
                    let seen = visible_keys(call, &shape, batch, &(0..shape.queries), COLS);
                    keys.pack(pass, unit, seen);
                    for head in shape.heads_of(kv_head) {
                        for rows in blocks(shape.queries, ROWS) {
                            query_block(pass, (batch, head), rows, keys, &work);
                        }
                    }
                }
            });
        });
        return;
    }
    with_scratch(units * packed_len, |packed| {
        let packed = Shared::new(packed.as_mut_ptr());
        let keys = |unit| Keys::new(&shape, isa, packed.offset(unit * packed_len));
        let pieces: Vec<_> = blocks(shape.keys, COLS).collect();
        for_each(units * pieces.len(), shape.work(), |task| {
            let (unit, piece) = (task / pieces.len(), task % pieces.len());
            // SAFETY: as the caller promises; the pieces of the packed keys are disjoint.
            unsafe {
                let all = 0..shape.queries;
                let seen = visible_keys(call, &shape, shape.unit(unit).0, &all, COLS);
                let piece = &pieces[piece];
                if piece.start >= seen.start && piece.start < seen.end {
                    keys(unit).pack(pass, unit, piece.clone());
                }
            }
        });
        let pieces: Vec<_> = blocks(shape.queries, ROWS).collect();
        for_each(shape.batch * shape.heads * pieces.len(), shape.work(), |task| {
            let (batch_head, piece) = (task / pieces.len(), task % pieces.len());
            let (batch, head) = (batch_head / shape.heads, batch_head % shape.heads);
            let unit = batch * shape.kv_heads + head / shape.group();
            let rows = pieces[piece].clone();
            with_scratch(Work::len(&shape), |work| {
                let work = Work::new(&shape, work);
                // SAFETY: as the caller promises; the keys are packed and only read now.
                unsafe { query_block(pass, (batch, head), rows, keys(unit), &work) };
            });
        });
    });
}

/// One block of queries of one head.
///
/// # Safety
/// As [`forward`]; `keys` is packed and nobody else has `work`.
unsafe fn query_block(
    pass: Pass<'_, Forward<'_>>,
    (batch, head): (usize, usize),
    rows: Range<usize>,
    keys: Keys,
    work: &Work,
) {
    let Pass { isa, call, shape } = pass;
    let (dim, width, n) = (shape.dim, shape.width(), rows.len());
    let q = call.q.matrix(batch, head).skip_rows(rows.start);
    call.out.matrix(batch, head).skip_rows(rows.start).prefetch(n, dim);
    // SAFETY: the blocks lie inside the tensors and the working memory.
    unsafe {
        let dst = work.q;
        isa.run(PackRows { src: q, dst, rows: n, dim, width, factor: call.scale }.kernel());
        let visible = visible_keys(call, &shape, batch, &rows, COLS);
        let mut first = true;
        for cols in blocks_of(visible, COLS) {
            let block = Block { batch, head, rows: rows.clone(), cols };
            if call.options.is_some_and(|o| o.leaves_out(&block)) {
                continue;
            }
            key_block(pass, &block, first, keys, work);
            first = false;
        }
        if first {
            std::slice::from_raw_parts_mut(work.out, n * width).fill(0.0);
            std::slice::from_raw_parts_mut(work.max, n).fill(f32::NEG_INFINITY);
            std::slice::from_raw_parts_mut(work.sum, n * isa.lanes()).fill(0.0);
        }
        let (max, factor) = (work.max, work.factor);
        isa.run(Finish { rows: n, max, sum: work.sum, factor }.kernel());
        let dst = call.out.matrix(batch, head).skip_rows(rows.start);
        let factor = Factor::PerRow(factor);
        isa.run(UnpackRows { src: work.out, width, dst, rows: n, dim, factor }.kernel());
        for (i, row) in rows.enumerate() {
            *call.lse.scalar(batch, head, row) = *max.add(i);
        }
    }
}

/// One block of scores: `out = rescale * out + exp(scores - max) v`.
///
/// # Safety
/// As [`query_block`].
unsafe fn key_block(
    pass: Pass<'_, Forward<'_>>,
    block: &Block,
    first: bool,
    keys: Keys,
    work: &Work,
) {
    let Pass { isa, call, shape } = pass;
    let (dim, width) = (shape.dim, shape.width());
    let start = block.cols.start;
    let panel = panel_columns(isa.lanes());
    // SAFETY: as the caller promises; a block's scores fit `ROWS` rows of `SCORES_ROW`.
    unsafe {
        let scores = block.scores(call, &shape, work.scores, SCORES_ROW);
        let q_k = Product {
            m: scores.rows,
            n: scores.visible(),
            k: dim,
            a: work.q,
            a_row: width,
            a_col: 1,
            b: keys.transposed.add(start * dim),
            b_row: panel,
            b_panel: Some(panel * dim),
            c: work.scores,
            c_row: SCORES_ROW,
            start: Start::Zero,
            band: scores.band(Band::Columns),
        };
        isa.run(q_k.kernel());
        if let Some(options) = call.options {
            options.score(block, &scores);
        }
        let (max, sum, rescale) = (work.max, work.sum, work.factor);
        isa.run(OnlineSoftmax { scores, first, max, sum, rescale }.kernel());
        if let Some(options) = call.options {
            options.drop_weights(block, &scores, work.scores);
        }
        let p_v = Product {
            m: scores.rows,
            n: dim,
            k: scores.visible(),
            a: work.scores,
            a_row: SCORES_ROW,
            a_col: 1,
            b: keys.values.add(start * width),
            b_row: width,
            b_panel: None,
            c: work.out,
            c_row: width,
            start: if first { Start::Zero } else { Start::Scaled(rescale) },
            band: scores.band(Band::DepthEnd),
        };
        let values = AnyNotFinite { at: p_v.b, rows: p_v.k, width };
        // What is hidden has a weight of 0, and 0 times NaN is NaN.
        if scores.hides() && isa.run(values.kernel()) {
            isa.run(p_v.kernel_of_seen());
        } else {
            isa.run(p_v.kernel());
        }
    }
}
