//! The backward pass: every block of scores is computed again from the saved log-sum-exp.
//!
//! With `p = exp(scores - lse)`, `d_p = d_out v^T`, `delta = sum over d of d_out * out` and
//! `d_s = p (d_p - delta)`: `d_v = p^T d_out`, `d_k = scale d_s^T q`, `d_q = scale d_s k`.
//!
//! With many key heads each is one piece of work that does five products a block. With few, one
//! pass makes `d_k` and `d_v` by blocks of keys and another `d_q` by blocks of queries: seven
//! products, but no sum crosses a piece of work.

use super::pack::{Factor, Matrix, PackRows, PackTransposed, RowDots, UnpackRows};
use super::product::{AnyNotFinite, Band, Product, Start, panel_columns};
use super::shape::{Block, Pass, Pieces, Shape, Shared, blocks, for_each, visible_keys};
use super::softmax::{Gradient, MAX_LANES};
use super::{Backward, Tensor};
use crate::isa::Isa;
use crate::scratch::with_scratch;
use starling_contract::Layout;
use std::ops::Range;

/// Queries of a block.
const ROWS: usize = 64;
/// Keys of a block: a whole number of panels of every instruction set.
const COLS: usize = 128;
/// Distance of the scores' rows; see the forward pass.
const SCORES_ROW: usize = COLS + MAX_LANES;
/// The widest panel of any instruction set.
const MAX_PANEL: usize = 64;

/// One key head as the products read it.
#[derive(Clone, Copy)]
struct Keys {
    /// Panels of keys as columns.
    keys_transposed: *mut f32,
    /// Panels of values as columns.
    values_transposed: *mut f32,
    /// Rows of keys.
    keys: *mut f32,
}

impl Keys {
    fn panels_len(shape: &Shape) -> usize {
        Pieces::size(shape.keys.next_multiple_of(MAX_PANEL) * shape.dim)
    }

    fn len(shape: &Shape) -> usize {
        2 * Self::panels_len(shape) + shape.keys * shape.width()
    }

    fn new(shape: &Shape, at: *mut f32) -> Self {
        let panels = Self::panels_len(shape);
        Self {
            keys_transposed: at,
            values_transposed: at.wrapping_add(panels),
            keys: at.wrapping_add(2 * panels),
        }
    }

    /// # Safety
    /// `self` is writable for `rows`, and `call`'s tensors are readable.
    unsafe fn pack(&self, pass: Pass<'_, Backward>, unit: usize, rows: Range<usize>) {
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
struct Queries {
    /// Rows of scaled queries.
    q: *mut f32,
    /// Rows of upstream gradients.
    d_out: *mut f32,
    lse: *mut f32,
    delta: *mut f32,
}

impl Queries {
    fn len(shape: &Shape) -> usize {
        2 * shape.queries * shape.width() + 2 * Pieces::size(shape.queries)
    }

    fn new(shape: &Shape, at: *mut f32) -> Self {
        let (rows, column) = (shape.queries * shape.width(), Pieces::size(shape.queries));
        Self {
            q: at,
            d_out: at.wrapping_add(rows),
            lse: at.wrapping_add(2 * rows),
            delta: at.wrapping_add(2 * rows + column),
        }
    }

    /// # Safety
    /// `self` is writable for `rows`, and `call`'s tensors are readable.
    unsafe fn pack(
        &self,
        pass: Pass<'_, Backward>,
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

/// Where a block's gradients are added: rows as far apart as the packed rows. Null is not wanted.
#[derive(Clone, Copy)]
struct Gradients {
    d_q: *mut f32,
    d_k: *mut f32,
    d_v: *mut f32,
}

/// Bytes of working memory that the backward pass of such `q` and `k` wants.
pub fn backward_workspace_bytes(q: &Layout, k: &Layout) -> usize {
    let shape = Shape::new(q, k);
    if shape.many_units() {
        return 0;
    }
    let heads = shape.batch * shape.heads;
    size_of::<f32>() * (shape.units() * Keys::len(&shape) + heads * Queries::len(&shape))
}

/// Computes `d_q`, `d_k` and `d_v`.
///
/// # Safety
/// The tensors have the shapes that [`Backward`] says, as checked by `Verb::check`;
/// every element is readable, those of the gradients and the workspace are writable, overlap
/// nothing, and nobody else touches them meanwhile.
pub unsafe fn backward(isa: Isa, call: &Backward) {
    let shape = Shape::new(&call.forward.q.layout, &call.forward.k.layout);
    let pass = Pass { isa, call, shape };
    if shape.many_units() {
        for_each(shape.units(), 5 * shape.work(), |unit| {
            // SAFETY: as the caller promises; units write disjoint gradients.
            unsafe { one_pass(pass, unit) };
        });
    } else {
        // SAFETY: as the caller promises.
        unsafe { two_passes(pass) };
    }
}

/// Working memory for the scores of a block and their gradient.
const SCORES_LEN: usize = 2 * ROWS * SCORES_ROW;

/// All gradients of one key head and its query heads.
///
/// # Safety
/// As [`backward`].
unsafe fn one_pass(pass: Pass<'_, Backward>, unit: usize) {
    let Pass { isa, call, shape } = pass;
    let (dim, width) = (shape.dim, shape.width());
    let (batch, kv_head) = shape.unit(unit);
    let (kv_len, q_len) = (shape.keys * width, shape.queries * width);
    let (keys_len, queries_len) = (Keys::len(&shape), Queries::len(&shape));
    let total = keys_len + queries_len + 2 * kv_len + q_len + SCORES_LEN;
    with_scratch(total, |memory| {
        let mut pieces = Pieces(memory);
        let keys = Keys::new(&shape, pieces.take(keys_len));
        let queries = Queries::new(&shape, pieces.take(queries_len));
        let (d_k, d_v) = (pieces.take(kv_len), pieces.take(kv_len));
        let (d_q, scores) = (pieces.take(q_len), pieces.take(SCORES_LEN));
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

/// `d_k` and `d_v` by blocks of keys, then `d_q` by blocks of queries.
///
/// # Safety
/// As [`backward`].
unsafe fn two_passes(pass: Pass<'_, Backward>) {
    let shape = pass.shape;
    let heads = shape.batch * shape.heads;
    let (keys_len, queries_len) = (Keys::len(&shape), Queries::len(&shape));
    let memory = Shared::new(pass.call.workspace);
    let queries_start = shape.units() * keys_len;
    let keys = |unit| Keys::new(&shape, memory.offset(unit * keys_len));
    let queries = |head| Queries::new(&shape, memory.offset(queries_start + head * queries_len));
    let cols: Vec<_> = blocks(shape.keys, COLS).collect();
    let rows: Vec<_> = blocks(shape.queries, ROWS).collect();
    let (key_tasks, query_tasks) = (shape.units() * cols.len(), heads * rows.len());
    for_each(key_tasks + query_tasks, shape.work(), |task| {
        // SAFETY: as the caller promises; the tasks pack disjoint parts of the workspace.
        unsafe {
            if task < key_tasks {
                let (unit, part) = (task / cols.len(), cols[task % cols.len()].clone());
                keys(unit).pack(pass, unit, part);
            } else {
                let (bh, i) = ((task - key_tasks) / rows.len(), (task - key_tasks) % rows.len());
                let (batch, head) = (bh / shape.heads, bh % shape.heads);
                queries(bh).pack(pass, (batch, head), rows[i].clone());
            }
        }
    });
    for_each(key_tasks, 4 * shape.work(), |task| {
        let (unit, part) = (task / cols.len(), cols[task % cols.len()].clone());
        // SAFETY: as the caller promises; everything packed is only read now.
        unsafe { keys_gradient(pass, unit, part, keys(unit), queries) };
    });
    for_each(query_tasks, 3 * shape.work(), |task| {
        let (bh, part) = (task / rows.len(), rows[task % rows.len()].clone());
        let (batch, head) = (bh / shape.heads, bh % shape.heads);
        let keys = keys(batch * shape.kv_heads + head / shape.group());
        // SAFETY: as above.
        unsafe { queries_gradient(pass, (batch, head), part, keys, queries(bh)) };
    });
}

/// `d_k` and `d_v` of one block of keys.
///
/// # Safety
/// As [`backward`]; everything is packed.
unsafe fn keys_gradient(
    pass: Pass<'_, Backward>,
    unit: usize,
    cols: Range<usize>,
    keys: Keys,
    queries: impl Fn(usize) -> Queries,
) {
    let Pass { isa, call, shape } = pass;
    let (width, (batch, kv_head)) = (shape.width(), shape.unit(unit));
    let len = COLS * width;
    with_scratch(2 * len + SCORES_LEN, |memory| {
        let mut pieces = Pieces(memory);
        let (d_k, d_v, scores) = (pieces.take(len), pieces.take(len), pieces.take(SCORES_LEN));
        let grads = Gradients { d_q: std::ptr::null_mut(), d_k, d_v };
        // SAFETY: the pieces are this task's own and as long as they are used.
        unsafe {
            std::slice::from_raw_parts_mut(d_k, len).fill(0.0);
            std::slice::from_raw_parts_mut(d_v, len).fill(0.0);
            for head in shape.heads_of(kv_head) {
                let queries = queries(batch * shape.heads + head);
                for rows in blocks(shape.queries, ROWS) {
                    let block = Block { batch, head, rows, cols: cols.clone() };
                    pair(pass, &block, keys, queries, grads, scores);
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
    pass: Pass<'_, Backward>,
    (batch, head): (usize, usize),
    rows: Range<usize>,
    keys: Keys,
    queries: Queries,
) {
    let Pass { isa, call, shape } = pass;
    let (width, none) = (shape.width(), std::ptr::null_mut());
    let len = ROWS * width;
    with_scratch(len + SCORES_LEN, |memory| {
        let mut pieces = Pieces(memory);
        let (d_q, scores) = (pieces.take(len), pieces.take(SCORES_LEN));
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
/// As [`backward`]; `keys` and `queries` are packed; `scores` has `SCORES_LEN` numbers.
unsafe fn pair(
    pass: Pass<'_, Backward>,
    block: &Block,
    keys: Keys,
    queries: Queries,
    grads: Gradients,
    memory: *mut f32,
) {
    let Pass { isa, call, shape } = pass;
    let (dim, width) = (shape.dim, shape.width());
    let (i, j) = (block.rows.start, block.cols.start);
    // SAFETY: as the caller promises.
    let (scores, seen) = unsafe {
        let seen = visible_keys(&call.forward, &shape, block.batch, &block.rows, 1);
        (block.scores(&call.forward, &shape, memory, SCORES_ROW), seen)
    };
    let visible = scores.visible();
    if visible == 0 || seen.end <= block.cols.start || seen.start >= block.cols.end {
        return;
    }
    let panel = panel_columns(isa.lanes());
    // SAFETY: as the caller promises; a block's scores fit `ROWS` rows of `SCORES_ROW`.
    unsafe {
        let (q, d_out) = (queries.q.add(i * width), queries.d_out.add(i * width));
        let d_p = memory.add(ROWS * SCORES_ROW);
        let q_k = Product {
            m: scores.rows,
            n: visible,
            k: dim,
            a: q,
            a_row: width,
            a_col: 1,
            b: keys.keys_transposed.add(j * dim),
            b_row: panel,
            b_panel: Some((panel, panel * dim)),
            c: memory,
            c_row: SCORES_ROW,
            start: Start::Zero,
            band: scores.band(Band::Columns),
        };
        isa.run(q_k.kernel());
        let b = keys.values_transposed.add(j * dim);
        isa.run(Product { a: d_out, b, c: d_p, ..q_k }.kernel());
        let (lse, delta) = (queries.lse.add(i), queries.delta.add(i));
        isa.run(Gradient { scores, d_p, lse, delta }.kernel());
        let p_d_out = Product {
            m: visible,
            n: dim,
            k: scores.rows,
            a: memory,
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
            add(Product { a: d_p, b: q, c: grads.d_k, ..p_d_out });
        }
        if !grads.d_q.is_null() {
            let d_s_k = Product {
                m: scores.rows,
                k: visible,
                a: d_p,
                a_row: SCORES_ROW,
                a_col: 1,
                b: keys.keys.add(j * width),
                c: grads.d_q,
                band: scores.band(Band::DepthEnd),
                ..p_d_out
            };
            add(d_s_k);
        }
    }
}
