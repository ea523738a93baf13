//! Attention and its gradients.

use super::program::enclose;
use super::{TINY, U, dot_error, norm, sum_factor};
use starling_contract::{Attention, AttentionBackward, Result, Score, View};
use starling_ops::Bound;
use starling_ops::bound::Enclosure;
use starling_reference::attention::{Problem, Seen, dot, place_in};
use starling_reference::memory::read;

/// The operands, and how far off scores are.
struct Operands<'a> {
    problem: Problem<'a>,
    verb: &'a Attention,
    bound: Bound,
}

impl<'a> Operands<'a> {
    fn read(verb: &'a Attention, bound: Bound) -> Result<Self> {
        Ok(Self { problem: Problem::read(verb)?, verb, bound })
    }

    fn row<'b>(&self, x: &'b [f64], row: usize) -> &'b [f64] {
        &x[row * self.problem.dim..][..self.problem.dim]
    }

    /// The error of the scaled product of query row `row` and a key.
    fn product_error(&self, row: usize, s: &Seen) -> f64 {
        let (q, k) = (self.row(&self.problem.q, row), self.row(&self.problem.k, s.at));
        let scale = f64::from(self.verb.scale).abs();
        scale * dot_error(self.problem.dim, norm(q), norm(k)) + 2.0 * U * s.product.abs()
    }

    /// A program of the score over the enclosed product.
    fn enclosed(&self, score: &Score, slopes: bool, row: usize, s: &Seen) -> Result<Vec<f64>> {
        let (program, immediates) = match slopes {
            true => (&score.derivatives, &score.derivatives_immediates),
            false => (&score.program, &score.immediates),
        };
        let mut inputs: Vec<_> = s.inputs.iter().map(|&x| vec![self.bound.input(x)]).collect();
        inputs[0] = vec![Enclosure::around(s.product, self.product_error(row, s))];
        let outputs = enclose(self.bound, program, &inputs, (&score.params, immediates), 1)?;
        Ok(outputs.iter().map(|e| (e[0].hi - e[0].lo).abs()).collect())
    }

    /// The score's error.
    fn score_error(&self, row: usize, s: &Seen) -> Result<f64> {
        let before = match &self.verb.score {
            Some(score) => self.enclosed(score, false, row, s)?[0],
            None => self.product_error(row, s),
        };
        Ok(before + U * s.score.abs())
    }

    /// Each derivative of the score with its error.
    fn slopes(&self, row: usize, s: &Seen) -> Result<Vec<(f64, f64)>> {
        let slopes = self.problem.slopes(s);
        let errors = match &self.verb.score {
            Some(score) => self.enclosed(score, true, row, s)?,
            None => vec![0.0],
        };
        Ok(slopes.into_iter().zip(errors).collect())
    }
}

/// Each weight `p = exp(s - max) / sum` is off, relatively, by its score's error, the mean of all
/// scores' errors (the sum), the rounding of `s - max`, 3 u of the exponential and 4 u for each
/// time that the running maximum grows, which random scores make it do about log2 S times. Dropout
/// multiplies it, with two more roundings.
pub fn forward(verb: &Attention, bound: Bound) -> Result<Vec<Vec<f64>>> {
    let o = Operands::read(verb, bound)?;
    let p = &o.problem;
    let mut out = vec![0.0; p.q.len()];
    let mut lse = vec![0.0; p.rows()];
    for (row, lse) in lse.iter_mut().enumerate() {
        let seen = p.seen(row);
        let largest = seen.iter().map(|s| s.score).fold(f64::NEG_INFINITY, f64::max);
        let weights: Vec<f64> = seen.iter().map(|s| (s.score - largest).exp()).collect();
        let sum: f64 = weights.iter().sum();
        let steps = U * 4.0 * sum_factor(seen.len());
        let mut relative = Vec::with_capacity(seen.len());
        for s in &seen {
            relative.push(o.score_error(row, s)? + U * (largest - s.score) + steps);
        }
        let mean: f64 = weights.iter().zip(&relative).map(|(w, r)| w / sum * r).sum();
        for (i, s) in seen.iter().enumerate().filter(|(_, s)| s.factor != 0.0) {
            let error = s.factor * weights[i] / sum * (relative[i] + mean + 4.0 * U) + TINY;
            let values = o.row(&p.v, s.at);
            out[row * p.dim..][..p.dim].iter_mut().zip(values).for_each(|(e, v)| {
                *e += error * v.abs();
            });
        }
        if !seen.is_empty() {
            let total = largest + sum.ln();
            *lse = mean + U * (largest.abs() + 3.0 * sum.ln().abs() + 2.0 * total.abs());
        }
    }
    Ok(vec![out, lse])
}

/// With `p = exp(s - lse)`, `ds = p (d_out . v - d_out . out)`: the errors of the two dot products
/// and the relative error of `p` pass into `ds`, and with it, times the score's derivatives, into
/// `d_q = scale * ds k`, `d_k = scale * ds^T q` and the gradients of mask and inputs;
/// `d_v = p^T d_out`. Each sum adds its own.
pub fn backward(verb: &AttentionBackward, bound: Bound) -> Result<Vec<Vec<f64>>> {
    let o = Operands::read(&verb.forward, bound)?;
    let p = &o.problem;
    let (out, d_out) = (read(&verb.forward.out)?, read(&verb.d_out)?);
    let lse = read(&verb.forward.lse)?;
    let mut d_q = vec![0.0; p.q.len()];
    let mut d_k = vec![0.0; p.k.len()];
    let mut d_v = vec![0.0; p.v.len()];
    let pairs = verb.forward.pairs();
    let [batch, heads, queries, keys] = pairs;
    let adds = U * sum_factor(keys);
    let adds_over_queries = U * sum_factor(queries * heads / verb.forward.k.shape()[1]);
    let adds_over_pairs = |d: &View| U * sum_factor(batch * heads * queries * keys / d.len());
    let zeros = |d: &View| vec![0.0; d.len()];
    let mut d_mask = verb.d_mask.as_ref().map(zeros);
    let mut d_inputs: Vec<_> = verb.d_inputs.iter().map(|d| d.as_ref().map(zeros)).collect();
    let scale = f64::from(verb.forward.scale).abs();
    let add = |to: &mut [f64], at: usize, factor: f64, x: &[f64]| {
        let to = &mut to[at * p.dim..][..p.dim];
        to.iter_mut().zip(x).for_each(|(e, x)| *e += factor * x.abs());
    };
    for (row, &lse) in lse.iter().enumerate() {
        let (d_out, out) = (o.row(&d_out, row), o.row(&out, row));
        let delta = dot(d_out, out);
        let delta_error = dot_error(p.dim, norm(d_out), norm(out));
        for s in p.seen(row) {
            let v = o.row(&p.v, s.at);
            let weight = (s.score - lse).exp();
            let relative = o.score_error(row, &s)? + U * ((s.score - lse).abs() + 3.0);
            // A weight that is left out does not see its value.
            let (d_p, d_p_error) = match s.factor {
                0.0 => (0.0, 0.0),
                kept => (kept * dot(d_out, v), kept * dot_error(p.dim, norm(d_out), norm(v))),
            };
            let d_s = weight * (d_p - delta).abs();
            let d_s_error = weight
                * (d_p_error + delta_error + 4.0 * U * (d_p.abs() + delta.abs()))
                + (relative + 2.0 * U) * d_s
                + TINY;
            let slopes = o.slopes(row, &s)?;
            let through = |(slope, error): (f64, f64), adds: f64| {
                (d_s_error + (adds + U) * d_s) * slope.abs() + (d_s + d_s_error) * error
            };
            add(&mut d_q, row, scale * through(slopes[0], adds), o.row(&p.k, s.at));
            let q = o.row(&p.q, row);
            add(&mut d_k, s.at, scale * through(slopes[0], adds_over_queries), q);
            if s.factor != 0.0 {
                let error = s.factor * weight * (relative + 2.0 * U + adds_over_queries) + TINY;
                add(&mut d_v, s.at, error, d_out);
            }
            if let (Some(d), Some(view)) = (&mut d_mask, &verb.d_mask) {
                d[place_in(view, pairs, s.pair)] += through((1.0, 0.0), adds_over_pairs(view));
            }
            let inputs = d_inputs.iter_mut().zip(&verb.d_inputs).zip(&slopes[1..]);
            for ((d, view), &slope) in inputs {
                if let (Some(d), Some(view)) = (d, view) {
                    d[place_in(view, pairs, s.pair)] += through(slope, adds_over_pairs(view));
                }
            }
        }
    }
    let more = d_mask.into_iter().chain(d_inputs.into_iter().flatten());
    Ok([d_q, d_k, d_v].into_iter().chain(more).collect())
}
