//! The backward pass: every block of scores is computed again from the saved log-sum-exp.
//!
//! With `p = exp(scores - lse)`, `d_p = d_out v^T`, `delta = sum over d of d_out * out` and
//! `d_s = p (d_p - delta)`: `d_v = p^T d_out`, `d_k = scale d_s^T q`, `d_q = scale d_s k`.
//!
//! With many key heads each is one piece of work that does five products a block. With few, one
//! pass makes `d_k` and `d_v` by blocks of keys and another `d_q` by blocks of queries: seven
//! products, but no sum crosses a piece of work.

use super::Backward;
use super::pack::{Factor, Matrix, UnpackRows};
use super::pairs::{self, TimesSlope};
use super::product::{AnyNotFinite, Band, Product, Start};
use super::recompute::{
    COLS, Keys, Packed, Queries, ROWS, SCORES_ROW, Tiles, recompute, with_tiles,
};
use super::shape::{Block, Pass, Pieces, Shape, blocks, for_each};
use crate::isa::Isa;
use crate::scratch::with_scratch;
use starling_contract::Layout;
use std::ops::Range;

/// Where a block's gradients are added: rows as far apart as the packed rows. Null is not wanted.
#[derive(Clone, Copy)]
struct Gradients {
    d_q: *mut f32,
    d_k: *mut f32,
    d_v: *mut f32,
}

/// Bytes of working memory that the backward pass of such `q` and `k` wants, with gradients of
/// such `pairs`.
pub fn backward_workspace_bytes<'a>(
    q: &Layout,
    k: &Layout,
    pairs: impl IntoIterator<Item = &'a Layout>,
) -> usize {
    let shape = Shape::new(q, k);
    let sums = pairs.into_iter().map(|to| pairs::partial_len(&shape, to)).max();
    if shape.many_units() && sums.is_none() {
        return 0;
    }
    size_of::<f32>() * (Packed::len(&shape) + sums.unwrap_or(0))
}

/// Computes `d_q`, `d_k`, `d_v` and the gradients of pairs.
///
/// # Safety
/// The tensors have the shapes that [`Backward`] says, as checked by `Verb::check`;
/// every element is readable, those of the gradients and the workspace are writable, overlap
/// nothing, and nobody else touches them meanwhile.
pub unsafe fn backward(isa: Isa, call: &Backward) {
    let shape = Shape::new(&call.forward.q.layout, &call.forward.k.layout);
    let pass = Pass { isa, call, shape };
    if shape.many_units() && call.pairs.is_empty() {
        for_each(shape.units(), 5 * shape.work(), |unit| {
            // SAFETY: as the caller promises; units write disjoint gradients.
            unsafe { one_pass(pass, unit) };
        });
    } else {
        // SAFETY: as the caller promises.
        unsafe { two_passes(pass) };
    }
}

/// Derivatives of the score that the gradients of queries and keys need.
fn slopes(call: &Backward<'_>) -> usize {
    usize::from(call.forward.options.is_some_and(|o| o.has_slopes()))
}

/// All gradients of one key head and its query heads.
///
/// # Safety
/// As [`backward`].
unsafe fn one_pass(pass: Pass<'_, Backward<'_>>, unit: usize) {
    let Pass { isa, call, shape } = pass;
    let (dim, width) = (shape.dim, shape.width());
    let (batch, kv_head) = shape.unit(unit);
    let (kv_len, q_len) = (shape.keys * width, shape.queries * width);
    let (keys_len, queries_len) = (Keys::len(&shape), Queries::len(&shape));
    let scores_len = Tiles::len(slopes(call));
    let total = keys_len + queries_len + 2 * kv_len + q_len + scores_len;
    with_scratch(total, |memory| {
        let mut pieces = Pieces(memory);
        let keys = Keys::new(&shape, pieces.take(keys_len));
        let queries = Queries::new(&shape, pieces.take(queries_len));
        let (d_k, d_v) = (pieces.take(kv_len), pieces.take(kv_len));
        let (d_q, scores) = (pieces.take(q_len), pieces.take(scores_len));
        // SAFETY: the pieces are this task's own and as long as they are used.
        unsafe {
            keys.pack(pass, unit, 0..shape.keys);
            std::slice::from_raw_parts_mut(d_k, kv_len).fill(0.0);
            std::slice::from_raw_parts_mut(d_v, kv_len).fill(0.0);
            for head in shape.heads_of(kv_head) {
                queries.pack(pass, (batch, head), 0..shape.queries);
                std::slice::from_raw_parts_mut(d_q, q_len).fill(0.0);
                for cols in blocks(shape.keys, COLS) {
                    for rows in blocks(shape.queries, ROWS) {
                        let grads = Gradients {
                            d_q: d_q.add(rows.start * width),
                            d_k: d_k.add(cols.start * width),
                            d_v: d_v.add(cols.start * width),
                        };
                        let block = Block { batch, head, rows, cols: cols.clone() };
                        pair(pass, &block, keys, queries, grads, scores);
                    }
                }
                let dst = call.d_q.matrix(batch, head);
                let factor = Factor::One(call.forward.scale);
                let rows = shape.queries;
                isa.run(UnpackRows { src: d_q, width, dst, rows, dim, factor }.kernel());
            }
            for (src, to) in [(d_k, &call.d_k), (d_v, &call.d_v)] {
                let dst = to.matrix(batch, kv_head);
                let (rows, factor) = (shape.keys, Factor::One(1.0));
                isa.run(UnpackRows { src, width, dst, rows, dim, factor }.kernel());
            }
        }
    });
}

/// `d_k` and `d_v` by blocks of keys, then `d_q` by blocks of queries, then the gradients of pairs.
///
/// # Safety
/// As [`backward`].
unsafe fn two_passes(pass: Pass<'_, Backward<'_>>) {
    let shape = pass.shape;
    let heads = shape.batch * shape.heads;
    let packed = Packed::new(shape, pass.call.workspace);
    let cols: Vec<_> = blocks(shape.keys, COLS).collect();
    let rows: Vec<_> = blocks(shape.queries, ROWS).collect();
    let (key_tasks, query_tasks) = (shape.units() * cols.len(), heads * rows.len());
    for_each(key_tasks + query_tasks, shape.work(), |task| {
        // SAFETY: as the caller promises; the tasks pack disjoint parts of the workspace.
        unsafe {
            if task < key_tasks {
                let (unit, part) = (task / cols.len(), cols[task % cols.len()].clone());
                packed.keys(unit).pack(pass, unit, part);
            } else {
                let (bh, i) = ((task - key_tasks) / rows.len(), (task - key_tasks) % rows.len());
                let (batch, head) = (bh / shape.heads, bh % shape.heads);
                packed.queries(bh).pack(pass, (batch, head), rows[i].clone());
            }
        }
    });
    for_each(key_tasks, 4 * shape.work(), |task| {
        let (unit, part) = (task / cols.len(), cols[task % cols.len()].clone());
        // SAFETY: as the caller promises; everything packed is only read now.
        unsafe { keys_gradient(pass, unit, part, packed) };
    });
    for_each(query_tasks, 3 * shape.work(), |task| {
        let (bh, part) = (task / rows.len(), rows[task % rows.len()].clone());
        let (batch, head) = (bh / shape.heads, bh % shape.heads);
        // SAFETY: as above.
        unsafe { queries_gradient(pass, (batch, head), part, packed) };
    });
    for gradient in pass.call.pairs {
        // SAFETY: as above.
        unsafe { pairs::gradient(pass, gradient, packed) };
    }
}

/// `d_k` and `d_v` of one block of keys.
///
/// # Safety
/// As [`backward`]; everything is packed.
unsafe fn keys_gradient(
    pass: Pass<'_, Backward<'_>>,
    unit: usize,
    cols: Range<usize>,
    packed: Packed,
) {
    let Pass { isa, call, shape } = pass;
    let (width, (batch, kv_head)) = (shape.width(), shape.unit(unit));
    let (len, scores_len) = (COLS * width, Tiles::len(slopes(call)));
    with_scratch(2 * len + scores_len, |memory| {
        let mut pieces = Pieces(memory);
        let (d_k, d_v, scores) = (pieces.take(len), pieces.take(len), pieces.take(scores_len));
        let grads = Gradients { d_q: std::ptr::null_mut(), d_k, d_v };
        // SAFETY: the pieces are this task's own and as long as they are used.
        unsafe {
            std::slice::from_raw_parts_mut(d_k, len).fill(0.0);
            std::slice::from_raw_parts_mut(d_v, len).fill(0.0);
            for head in shape.heads_of(kv_head) {
                let queries = packed.queries(batch * shape.heads + head);
                for rows in blocks(shape.queries, ROWS) {
                    let block = Block { batch, head, rows, cols: cols.clone() };
                    pair(pass, &block, packed.keys(unit), queries, grads, scores);
                }
            }
            for (src, to) in [(d_k, &call.d_k), (d_v, &call.d_v)] {
                let dst = to.matrix(batch, kv_head).skip_rows(cols.start);
                let (rows, dim, factor) = (cols.len(), shape.dim, Factor::One(1.0));
                isa.run(UnpackRows { src, width, dst, rows, dim, factor }.kernel());
            }
        }
    });
}

/// `d_q` of one block of queries.
///
/// # Safety
/// As [`backward`]; everything is packed.
unsafe fn queries_gradient(
    pass: Pass<'_, Backward<'_>>,
    (batch, head): (usize, usize),
    rows: Range<usize>,
    packed: Packed,
) {
    let Pass { isa, call, shape } = pass;
    let (width, none) = (shape.width(), std::ptr::null_mut());
    let (len, scores_len) = (ROWS * width, Tiles::len(slopes(call)));
    let keys = packed.keys(batch * shape.kv_heads + head / shape.group());
    let queries = packed.queries(batch * shape.heads + head);
    with_scratch(len + scores_len, |memory| {
        let mut pieces = Pieces(memory);
        let (d_q, scores) = (pieces.take(len), pieces.take(scores_len));
        // SAFETY: the pieces are this task's own and as long as they are used.
        unsafe {
            std::slice::from_raw_parts_mut(d_q, len).fill(0.0);
            for cols in blocks(shape.keys, COLS) {
                let block = Block { batch, head, rows: rows.clone(), cols };
                let grads = Gradients { d_q, d_k: none, d_v: none };
                pair(pass, &block, keys, queries, grads, scores);
            }
            let dst: Matrix = call.d_q.matrix(batch, head).skip_rows(rows.start);
            let (rows, dim, factor) = (rows.len(), shape.dim, Factor::One(call.forward.scale));
            isa.run(UnpackRows { src: d_q, width, dst, rows, dim, factor }.kernel());
        }
    });
}

/// What one block of scores adds to the gradients that are wanted.
///
/// # Safety
/// As [`backward`]; `keys` and `queries` are packed; `memory` is as long as the tiles.
unsafe fn pair(
    pass: Pass<'_, Backward<'_>>,
    block: &Block,
    keys: Keys,
    queries: Queries,
    grads: Gradients,
    memory: *mut f32,
) {
    let isa = pass.isa;
    let (dim, width) = (pass.shape.dim, pass.shape.width());
    let (i, j) = (block.rows.start, block.cols.start);
    // SAFETY: as the caller promises; a block's scores fit `ROWS` rows of `SCORES_ROW`.
    with_tiles(memory, slopes(pass.call), |tiles| unsafe {
        let Some(scores) = recompute(pass, block, keys, queries, tiles) else { return };
        let visible = scores.visible();
        if let Some(options) = pass.call.forward.options {
            options.drop_weights(block, &scores, tiles.weights);
        }
        if let Some(&slope) = tiles.slopes.first() {
            let (rows, cols) = (scores.rows, visible);
            isa.run(TimesSlope { d: tiles.d_scores, slope, rows, cols }.kernel());
        }
        let d_out = queries.d_out.add(i * width);
        let p_d_out = Product {
            m: visible,
            n: dim,
            k: scores.rows,
            a: tiles.weights,
            a_row: 1,
            a_col: SCORES_ROW,
            b: d_out,
            b_row: width,
            b_panel: None,
            c: grads.d_v,
            c_row: width,
            start: Start::Old,
            band: scores.band(Band::DepthBegin),
        };
        // What is hidden has a weight of 0, and 0 times NaN is NaN.
        let add = |p: Product| {
            let rows = AnyNotFinite { at: p.b, rows: p.k, width };
            if scores.hides() && isa.run(rows.kernel()) {
                isa.run(p.kernel_of_seen());
            } else {
                isa.run(p.kernel());
            }
        };
        if !grads.d_v.is_null() {
            add(p_d_out);
            let b = queries.q.add(i * width);
            add(Product { a: tiles.d_scores, b, c: grads.d_k, ..p_d_out });
        }
        if !grads.d_q.is_null() {
            let d_s_k = Product {
                m: scores.rows,
                k: visible,
                a: tiles.d_scores,
                a_row: SCORES_ROW,
                a_col: 1,
                b: keys.keys.add(j * width),
                c: grads.d_q,
                band: scores.band(Band::DepthEnd),
                ..p_d_out
            };
            add(d_s_k);
        }
    });
}
