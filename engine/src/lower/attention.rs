//! Attention as products of matrices, with all scores in memory.
//!
//! Queries are seen as `[batch, kv_heads, groups, queries, dim]`, so that keys and values need only
//! be repeated along `groups`, with stride 0.

use super::Lowering;
use crate::error::Result;
use starling_contract::{Attention, AttentionBackward, DType, Layout, ReduceKind, View};
use starling_ops::Math;
use starling_ops::trace::{Real, Trace};

/// The axis of keys among `[batch, kv_heads, groups, queries, keys]`.
const KEYS: u32 = 1 << 4;

struct Heads {
    kv_heads: usize,
    groups: usize,
}

impl Heads {
    fn of(v: &Attention) -> Self {
        let kv_heads = v.k.shape()[1];
        Self { kv_heads, groups: v.q.shape()[1] / kv_heads }
    }

    /// `[batch, heads, ..]` as `[batch, kv_heads, groups, ..]`.
    fn grouped(&self, view: &View) -> View {
        let (mut shape, mut strides) = (view.shape().to_vec(), view.layout.strides().to_vec());
        shape.splice(1..2, [self.kv_heads, self.groups]);
        strides.insert(1, strides[1] * self.groups as isize);
        view.with(Layout::new(&shape, &strides, view.layout.offset()))
    }

    /// `[batch, heads, queries, dim]` as `[batch, kv_heads, groups * queries, dim]`.
    fn merged(&self, l: &mut Lowering<'_>, view: &View) -> Result<View> {
        let shape = view.shape();
        l.reshaped(view, &[shape[0], self.kv_heads, self.groups * shape[2], shape[3]])
    }
}

/// The last two axes exchanged.
fn transposed(view: &View) -> View {
    let mut axes: Vec<usize> = (0..view.shape().len()).collect();
    let rank = axes.len();
    axes.swap(rank - 2, rank - 1);
    view.with(view.layout.permute(&axes))
}

/// True where no key is left: the weights of such a row are 0.
fn hidden(t: Trace<'_>, score: Real) -> <Trace<'_> as Math>::B {
    t.lt(score, t.lit(f32::MIN.into()))
}

/// `scale * q k^T + mask`, -inf where a key is not to be seen.
fn scores(l: &mut Lowering<'_>, v: &Attention, heads: &Heads) -> Result<View> {
    let (queries, keys) = (v.q.shape()[2], v.k.shape()[2]);
    let q = heads.grouped(&v.q);
    let k = transposed(&l.inserted(&v.k, 2, heads.groups)?);
    let scores = l.temporary(&[q.shape()[0], heads.kv_heads, heads.groups, queries, keys])?;
    l.gemm(v.scale, &q, &k, &scores)?;
    if let Some(mask) = &v.mask {
        l.map(&[&scores, &heads.grouped(mask)], &scores, |t| {
            let (score, mask) = (t.input(0), t.input(1));
            match v.mask.as_ref().map(|m| m.dtype) {
                Some(DType::U8) => {
                    t.select(t.eq(mask, t.lit(0.0)), t.lit(f64::NEG_INFINITY), score)
                }
                _ => t.add(score, mask),
            }
        })?;
    }
    if v.causal {
        let (rows, columns) = (l.positions(queries)?, l.positions(keys)?);
        let rows = l.inserted(&rows, 1, 1)?;
        l.map(&[&scores, &rows, &columns], &scores, |t| {
            let last = t.add(t.input(1), t.immediate((keys - queries) as f64));
            t.select(t.gt(t.input(2), last), t.lit(f64::NEG_INFINITY), t.input(0))
        })?;
    }
    Ok(scores)
}

pub(super) fn forward(l: &mut Lowering<'_>, v: &Attention) -> Result<()> {
    let heads = Heads::of(v);
    let scores = scores(l, v, &heads)?;
    let space = (scores.shape(), KEYS);
    let mut per_row = scores.shape().to_vec();
    per_row[4] = 1;
    let (largest, sum) = (l.temporary(&per_row)?, l.temporary(&per_row)?);
    l.reduce(ReduceKind::Max, &[&scores], space, &largest, |t| t.input(0))?;
    // -inf less -inf would be NaN.
    l.map(&[&largest], &largest, |t| t.select(hidden(t, t.input(0)), t.lit(0.0), t.input(0)))?;
    l.reduce(ReduceKind::Sum, &[&scores, &largest], space, &sum, exponential)?;
    let lse = heads.grouped(&v.lse);
    l.map(&[&largest, &sum], &l.inserted(&lse, 4, 1)?, |t| {
        let none = t.eq(t.input(1), t.lit(0.0));
        let lse = t.add(t.input(0), t.log(t.input(1)));
        t.select(none, t.lit(f64::NEG_INFINITY), lse)
    })?;
    l.map(&[&scores, &largest, &sum], &scores, |t| {
        let none = t.eq(t.input(2), t.lit(0.0));
        t.select(none, t.lit(0.0), t.div(exponential(t), t.input(2)))
    })?;
    let values = l.inserted(&v.v, 2, heads.groups)?;
    l.gemm(1.0, &scores, &values, &heads.grouped(&v.out))
}

/// `exp(input 0 - input 1)`
fn exponential(t: Trace<'_>) -> Real {
    t.exp(t.sub(t.input(0), t.input(1)))
}

pub(super) fn backward(l: &mut Lowering<'_>, v: &AttentionBackward) -> Result<()> {
    let f = &v.forward;
    let heads = Heads::of(f);
    let weights = scores(l, f, &heads)?;
    let lse = l.inserted(&heads.grouped(&f.lse), 4, 1)?;
    l.map(&[&weights, &lse], &weights, |t| {
        t.select(hidden(t, t.input(0)), t.lit(0.0), exponential(t))
    })?;

    let shape = weights.shape().to_vec();
    let (d_scores, delta) = (l.temporary(&shape)?, l.temporary(f.lse.shape())?);
    let delta = l.inserted(&delta, 3, 1)?;
    l.reduce(ReduceKind::Sum, &[&v.d_out, &f.out], (f.out.shape(), 1 << 3), &delta, |t| {
        t.mul(t.input(0), t.input(1))
    })?;
    let d_out = heads.grouped(&v.d_out);
    let values = transposed(&l.inserted(&f.v, 2, heads.groups)?);
    l.gemm(1.0, &d_out, &values, &d_scores)?;
    // A key of weight 0 counts nothing, whatever its value.
    l.map(&[&d_scores, &weights, &heads.grouped(&delta)], &d_scores, |t| {
        let (d_weight, weight, delta) = (t.input(0), t.input(1), t.input(2));
        let d_score = t.mul(weight, t.sub(d_weight, delta));
        t.select(t.eq(weight, t.lit(0.0)), t.lit(0.0), d_score)
    })?;

    let keys = l.inserted(&f.k, 2, heads.groups)?;
    l.gemm(f.scale, &d_scores, &keys, &heads.grouped(&v.d_q))?;
    // All queries of a key head, group after group, in one product.
    let over_queries = [shape[0], shape[1], shape[2] * shape[3], shape[4]];
    let rows = |view: &View| transposed(&view.with(Layout::contiguous(&over_queries)));
    let q = heads.merged(l, &f.q)?;
    l.gemm(f.scale, &rows(&d_scores), &q, &v.d_k)?;
    let d_out = heads.merged(l, &v.d_out)?;
    l.gemm(1.0, &rows(&weights), &d_out, &v.d_v)
}
