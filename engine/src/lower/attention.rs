//! Attention as products of matrices, with all scores in memory.
//!
//! Queries are seen as `[batch, kv_heads, groups, queries, dim]`, so that keys and values need only
//! be repeated along `groups`, with stride 0.

use super::heads::Heads;
use super::sight::Spans;
use super::{Lowering, program};
use crate::error::Result;
use starling_contract::{
    Attention, AttentionBackward, DType, Layout, Map, ReduceKind, Score, View, WeightDropout,
};
use starling_ops::defs::{Def, Dropout};
use starling_ops::trace::{Mask, Real, Trace};
use starling_ops::{Key, Math};

/// The axis of keys among `[batch, kv_heads, groups, queries, keys]`.
const KEYS: u32 = 1 << 4;
/// The largest finite number.
const LARGEST: f64 = f32::MAX as f64;

/// The last two axes exchanged.
fn transposed(view: &View) -> View {
    let mut axes: Vec<usize> = (0..view.shape().len()).collect();
    let rank = axes.len();
    axes.swap(rank - 2, rank - 1);
    view.with(view.layout.permute(&axes))
}

/// True where no key is left: the weights of such a row are 0.
fn hidden(t: Trace<'_>, score: Real) -> Mask {
    t.lt(score, t.lit(f32::MIN.into()))
}

/// The scores of all pairs, -inf where a key is not to be seen; and the derivatives of the score's
/// program where they are wanted.
struct Scores {
    scores: View,
    slopes: Vec<View>,
}

impl Scores {
    fn new(l: &mut Lowering<'_>, v: &Attention, heads: &Heads, slopes: bool) -> Result<Self> {
        let (queries, keys) = (v.q.shape()[2], v.k.shape()[2]);
        let q = heads.grouped(&v.q);
        let k = transposed(&l.inserted(&v.k, 2, heads.groups)?);
        let scores = l.temporary(&[q.shape()[0], heads.kv_heads, heads.groups, queries, keys])?;
        l.gemm(v.scale, &q, &k, &scores);
        let positions = v.score.is_some() || !v.sight.is_everything();
        let spans = if positions { Some(Spans::new(l, v)?) } else { None };
        let slopes = match (&v.score, &spans) {
            (Some(score), Some(spans)) => apply_score(l, score, heads, spans, &scores, slopes)?,
            _ => Vec::new(),
        };
        if let Some(mask) = &v.mask {
            l.map(&[&scores, &heads.grouped(mask)], &scores, |t| {
                let (score, mask) = (t.input(0), t.input(1));
                let (off, score) = match v.mask.as_ref().map(|m| m.dtype) {
                    Some(DType::U8) => (t.eq(mask, t.lit(0.0)), score),
                    _ => (hidden(t, mask), t.add(score, mask)),
                };
                t.select(off, t.lit(f64::NEG_INFINITY), score)
            })?;
        }
        if let Some(spans) = &spans {
            spans.hide(l, &v.sight, heads, &scores)?;
        }
        Ok(Self { scores, slopes })
    }
}

/// Puts the scores through their program; the derivatives are taken where they come from.
fn apply_score(
    l: &mut Lowering<'_>,
    score: &Score,
    heads: &Heads,
    spans: &Spans,
    scores: &View,
    slopes: bool,
) -> Result<Vec<View>> {
    let shape = scores.shape().to_vec();
    let [query, key] = spans.positions(l)?;
    let head = l.positions(shape[1] * shape[2])?;
    let head = head.with(Layout::new(
        &[shape[1], shape[2], 1, 1],
        &[shape[2] as isize, 1, 0, 0],
        head.layout.offset(),
    ));
    let batch = l.positions(shape[0])?;
    let batch =
        batch.with(Layout::new(&[shape[0], 1, 1, 1, 1], &[1, 0, 0, 0, 0], batch.layout.offset()));
    let mut inputs = vec![scores.clone(), query, key, head, batch];
    inputs.extend(score.inputs.iter().map(|x| heads.grouped(x)));
    let inputs: Vec<&View> = inputs.iter().collect();
    let inputs = l.spread(&inputs, &shape)?;
    let mut found = Vec::new();
    if slopes {
        for _ in score.derivatives.outputs() {
            found.push(l.temporary(&shape)?);
        }
        let (program, params) = (score.derivatives.clone(), score.params.clone());
        let (immediates, outputs) = (score.derivatives_immediates, found.clone());
        l.push(Map { program, params, immediates, inputs: inputs.clone(), outputs });
    }
    let (program, params, immediates) =
        (score.program.clone(), score.params.clone(), score.immediates);
    l.push(Map { program, params, immediates, inputs, outputs: vec![scores.clone()] });
    Ok(found)
}

pub(super) fn forward(l: &mut Lowering<'_>, v: &Attention) -> Result<()> {
    let heads = Heads::of(v);
    let scores = Scores::new(l, v, &heads, false)?.scores;
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
    if let Some(dropout) = &v.dropout {
        drop_weights(l, dropout, &[&scores], &scores, |t, keeps| t.mul(keeps, t.input(0)))?;
    }
    product_of_seen(l, &scores, &v.v, v.may_hide(), &heads.grouped(&v.out), |l, x| {
        l.inserted(x, 2, heads.groups)
    })
}

/// `exp(input 0 - input 1)`
fn exponential(t: Trace<'_>) -> Real {
    t.exp(t.sub(t.input(0), t.input(1)))
}

/// `output = f(inputs, factor)`: dropout's factor of each weight is 0 or `1 / (1 - p)`.
fn drop_weights(
    l: &mut Lowering<'_>,
    dropout: &WeightDropout,
    inputs: &[&View],
    output: &View,
    f: impl FnOnce(Trace<'_>, Real) -> Real,
) -> Result<()> {
    let inputs = l.spread(inputs, output.shape())?;
    let (program, immediates) = program(|t| {
        let [seed_lo, seed_hi, instance, step, node] = [0, 1, 2, 3, 4].map(|i| t.param_word(i));
        let u = t.uniform(t.index(), Key { seed_lo, seed_hi, instance, step, node });
        let mut factor = [u];
        Dropout.eval(t, &[t.lit(1.0), u, t.immediate(dropout.p.into())], &mut factor);
        f(t, factor[0])
    });
    let params = dropout.words().into_iter().cloned().collect();
    l.push(Map { program, params, immediates, inputs, outputs: vec![output.clone()] });
    Ok(())
}

/// A copy of `x` in which what is not finite is 0.
fn finite(l: &mut Lowering<'_>, x: &View) -> Result<View> {
    marked(l, x, |t, x| t.select(t.le(t.abs(x), t.lit(LARGEST)), x, t.lit(0.0)))
}

/// A new view of `f` of each element.
fn marked(l: &mut Lowering<'_>, x: &View, f: impl FnOnce(Trace<'_>, Real) -> Real) -> Result<View> {
    let to = l.temporary(x.shape())?;
    l.map(&[x], &to, |t| f(t, t.input(0)))?;
    Ok(to)
}

/// `out = weights x`, where a weight of 0 counts nothing even if what it multiplies is infinite or
/// NaN: the product of finite elements, and the infinities that the others add to it.
fn product_of_seen(
    l: &mut Lowering<'_>,
    weights: &View,
    x: &View,
    hides: bool,
    out: &View,
    operand: impl Fn(&mut Lowering<'_>, &View) -> Result<View>,
) -> Result<()> {
    if !hides {
        let x = operand(l, x)?;
        l.gemm(1.0, weights, &x, out);
        return Ok(());
    }
    let seen = marked(l, weights, |t, w| t.select(t.eq(w, t.lit(0.0)), t.lit(0.0), t.lit(1.0)))?;
    // NaN is neither above nor below: it counts as both infinities, whose sum it is.
    let above = marked(l, x, |t, x| t.select(t.le(x, t.lit(LARGEST)), t.lit(0.0), t.lit(1.0)))?;
    let below = marked(l, x, |t, x| t.select(t.ge(x, t.lit(-LARGEST)), t.lit(0.0), t.lit(1.0)))?;
    let clean = finite(l, x)?;
    let clean = operand(l, &clean)?;
    l.gemm(1.0, weights, &clean, out);
    let (plus, minus) = (l.temporary(out.shape())?, l.temporary(out.shape())?);
    for (marks, count) in [(&above, &plus), (&below, &minus)] {
        let marks = operand(l, marks)?;
        l.gemm(1.0, &seen, &marks, count);
    }
    l.map(&[out, &plus, &minus], out, |t| {
        let none = t.lit(0.0);
        let infinite = |count, x| t.select(t.gt(count, none), t.lit(x), none);
        let plus = infinite(t.input(1), f64::INFINITY);
        let minus = infinite(t.input(2), f64::NEG_INFINITY);
        t.add(t.input(0), t.add(plus, minus))
    })
}

pub(super) fn backward(l: &mut Lowering<'_>, v: &AttentionBackward) -> Result<()> {
    let f = &v.forward;
    let heads = Heads::of(f);
    let Scores { scores: weights, slopes } = Scores::new(l, f, &heads, true)?;
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
    l.gemm(1.0, &d_out, &values, &d_scores);
    if let Some(dropout) = &f.dropout {
        drop_weights(l, dropout, &[&d_scores], &d_scores, |t, keeps| {
            let none = t.lit(0.0);
            t.select(t.eq(keeps, none), none, t.mul(keeps, t.input(0)))
        })?;
    }
    // A key of weight 0 counts nothing, whatever its value.
    l.map(&[&d_scores, &weights, &heads.grouped(&delta)], &d_scores, |t| {
        let (d_weight, weight, delta) = (t.input(0), t.input(1), t.input(2));
        let d_score = t.mul(weight, t.sub(d_weight, delta));
        t.select(t.eq(weight, t.lit(0.0)), t.lit(0.0), d_score)
    })?;
    if let Some(d_mask) = &v.d_mask {
        sum_pairs(l, &heads, &d_scores, d_mask)?;
    }
    for (d_input, slope) in v.d_inputs.iter().zip(slopes.iter().skip(1)) {
        let Some(d_input) = d_input else { continue };
        times_slope(l, &d_scores, slope, slope)?;
        sum_pairs(l, &heads, slope, d_input)?;
    }
    if let Some(slope) = slopes.first() {
        times_slope(l, &d_scores, slope, &d_scores)?;
    }
    product_gradients(l, v, &heads, &weights, &d_scores)
}

/// `out = d_scores * slope`, 0 where the score's gradient is: what is hidden may have any slope.
fn times_slope(l: &mut Lowering<'_>, d_scores: &View, slope: &View, out: &View) -> Result<()> {
    l.map(&[d_scores, slope], out, |t| {
        let (d, slope) = (t.input(0), t.input(1));
        t.select(t.eq(d, t.lit(0.0)), t.lit(0.0), t.mul(d, slope))
    })
}

/// Sums what belongs to each pair over the axes of extent 1 of a gradient.
fn sum_pairs(l: &mut Lowering<'_>, heads: &Heads, pairs: &View, gradient: &View) -> Result<()> {
    let gradient = heads.grouped(gradient);
    let extents = pairs.shape().iter().zip(gradient.shape());
    let axes = extents
        .enumerate()
        .filter(|(_, (all, one))| all != one)
        .fold(0u32, |axes, (i, _)| axes | 1 << i);
    if axes == 0 {
        l.copy(pairs, &gradient);
        return Ok(());
    }
    l.reduce(ReduceKind::Sum, &[pairs], (pairs.shape(), axes), &gradient, |t| t.input(0))
}

/// The gradients of queries, keys and values from those of the products.
fn product_gradients(
    l: &mut Lowering<'_>,
    v: &AttentionBackward,
    heads: &Heads,
    weights: &View,
    d_scores: &View,
) -> Result<()> {
    let (f, hides) = (&v.forward, v.forward.may_hide());
    // A pair that does not count has a gradient of 0. What does, and is not finite, has made its
    // scores' gradients NaN already.
    let clean = |l: &mut Lowering<'_>, x: &View| {
        if hides { finite(l, x) } else { Ok(x.clone()) }
    };
    let (k, q) = (clean(l, &f.k)?, clean(l, &f.q)?);
    let keys = l.inserted(&k, 2, heads.groups)?;
    l.gemm(f.scale, d_scores, &keys, &heads.grouped(&v.d_q));
    // All queries of a key head, group after group, in one product.
    let shape = weights.shape();
    let over_queries = [shape[0], shape[1], shape[2] * shape[3], shape[4]];
    let rows = |view: &View| transposed(&view.with(Layout::contiguous(&over_queries)));
    let q = heads.merged(l, &q)?;
    l.gemm(f.scale, &rows(d_scores), &q, &v.d_k);
    if let Some(dropout) = &f.dropout {
        drop_weights(l, dropout, &[weights], weights, |t, keeps| t.mul(keeps, t.input(0)))?;
    }
    product_of_seen(l, &rows(weights), &v.d_out, hides, &v.d_v, |l, x| heads.merged(l, x))
}
