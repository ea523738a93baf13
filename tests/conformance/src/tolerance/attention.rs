//! Attention and its gradients.

use super::{TINY, U, dot_error, norm, sum_factor};
use starling_contract::{Attention, AttentionBackward, DType, Result};
use starling_reference::memory::read;

/// A key that a query sees.
struct Seen {
    /// Its row of `k` and `v`.
    at: usize,
    /// The score, scaled and masked.
    score: f64,
    /// The score's error.
    error: f64,
}

/// The operands, and which query meets which keys.
struct Operands {
    q: Vec<f64>,
    k: Vec<f64>,
    v: Vec<f64>,
    dim: usize,
    rows: usize,
    keys: usize,
    heads_per_kv_head: usize,
    queries: usize,
    scale: f64,
    causal: bool,
    mask: Option<(DType, Vec<f64>)>,
}

impl Operands {
    fn read(v: &Attention) -> Result<Self> {
        let (q, k) = (v.q.shape(), v.k.shape());
        let mask = match &v.mask {
            Some(mask) => Some((mask.dtype, read(mask)?)),
            None => None,
        };
        Ok(Self {
            q: read(&v.q)?,
            k: read(&v.k)?,
            v: read(&v.v)?,
            dim: q[3],
            rows: q[0] * q[1] * q[2],
            keys: k[2],
            heads_per_kv_head: q[1] / k[1],
            queries: q[2],
            scale: f64::from(v.scale),
            causal: v.causal,
            mask,
        })
    }

    fn row<'a>(&self, x: &'a [f64], row: usize) -> &'a [f64] {
        &x[row * self.dim..][..self.dim]
    }

    /// The keys that query row `row` sees. Query heads of one key head follow each other, so the
    /// key head is the query head over their number, batch by batch.
    fn seen(&self, row: usize) -> Vec<Seen> {
        let (query, kv_head) = (row % self.queries, row / self.queries / self.heads_per_kv_head);
        let q = self.row(&self.q, row);
        let q_norm = norm(q);
        let mut all = Vec::new();
        for j in 0..self.keys {
            let at = kv_head * self.keys + j;
            let k = self.row(&self.k, at);
            let dot = self.scale * q.iter().zip(k).map(|(q, k)| q * k).sum::<f64>();
            let added = match &self.mask {
                Some((DType::U8, mask)) if mask[row * self.keys + j] == 0.0 => f64::NEG_INFINITY,
                Some((DType::U8, _)) | None => 0.0,
                Some((_, mask)) => mask[row * self.keys + j],
            };
            let hidden = self.causal && j > query + self.keys - self.queries;
            if hidden || added == f64::NEG_INFINITY {
                continue;
            }
            let score = dot + added;
            let error = self.scale.abs() * dot_error(self.dim, q_norm, norm(k))
                + U * (2.0 * dot.abs() + score.abs());
            all.push(Seen { at, score, error });
        }
        all
    }
}

/// Each weight `p = exp(s - max) / sum` is off, relatively, by its score's error, the mean of all
/// scores' errors (the sum), the rounding of `s - max`, 3 u of the exponential and 4 u for each
/// time that the running maximum grows, which random scores make it do about log2 S times.
pub fn forward(verb: &Attention) -> Result<Vec<Vec<f64>>> {
    let o = Operands::read(verb)?;
    let mut out = vec![0.0; o.q.len()];
    let mut lse = vec![0.0; o.rows];
    for row in 0..o.rows {
        let seen = o.seen(row);
        let largest = seen.iter().map(|s| s.score).fold(f64::NEG_INFINITY, f64::max);
        let weights: Vec<f64> = seen.iter().map(|s| (s.score - largest).exp()).collect();
        let sum: f64 = weights.iter().sum();
        let steps = U * 4.0 * sum_factor(seen.len());
        let relative: Vec<f64> =
            seen.iter().map(|s| s.error + U * (largest - s.score) + steps).collect();
        let mean: f64 = weights.iter().zip(&relative).map(|(w, r)| w / sum * r).sum();
        for (i, s) in seen.iter().enumerate() {
            let error = weights[i] / sum * (relative[i] + mean + 2.0 * U) + TINY;
            let values = o.row(&o.v, s.at);
            out[row * o.dim..][..o.dim].iter_mut().zip(values).for_each(|(e, v)| {
                *e += error * v.abs();
            });
        }
        if !seen.is_empty() {
            let total = largest + sum.ln();
            lse[row] = mean + U * (largest.abs() + 3.0 * sum.ln().abs() + 2.0 * total.abs());
        }
    }
    Ok(vec![out, lse])
}

/// With `p = exp(s - lse)`, `ds = p (d_out . v - d_out . out)`: the errors of the two dot products
/// and the relative error of `p` pass into `ds`, and with it into `d_q = scale * ds k` and
/// `d_k = scale * ds^T q`; `d_v = p^T d_out`. Each sum adds its own.
pub fn backward(verb: &AttentionBackward) -> Result<Vec<Vec<f64>>> {
    let o = Operands::read(&verb.forward)?;
    let (out, d_out) = (read(&verb.forward.out)?, read(&verb.d_out)?);
    let lse = read(&verb.forward.lse)?;
    let mut d_q = vec![0.0; o.q.len()];
    let mut d_k = vec![0.0; o.k.len()];
    let mut d_v = vec![0.0; o.v.len()];
    let adds = U * sum_factor(o.keys);
    let adds_over_queries = U * sum_factor(o.queries * o.heads_per_kv_head);
    let scale = o.scale.abs();
    let add = |to: &mut [f64], at: usize, factor: f64, x: &[f64]| {
        let to = &mut to[at * o.dim..][..o.dim];
        to.iter_mut().zip(x).for_each(|(e, x)| *e += factor * x.abs());
    };
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    for (row, &lse) in lse.iter().enumerate() {
        let (d_out, out) = (o.row(&d_out, row), o.row(&out, row));
        let delta = dot(d_out, out);
        let delta_error = dot_error(o.dim, norm(d_out), norm(out));
        for s in o.seen(row) {
            let v = o.row(&o.v, s.at);
            let p = (s.score - lse).exp();
            let relative = s.error + U * ((s.score - lse).abs() + 3.0);
            let d_p = dot(d_out, v);
            let d_p_error = dot_error(o.dim, norm(d_out), norm(v));
            let gap = (d_p - delta).abs();
            let d_s = p * gap;
            let d_s_error = p * (d_p_error + delta_error + 2.0 * U * (d_p.abs() + delta.abs()))
                + (relative + 2.0 * U) * d_s
                + TINY;
            add(&mut d_q, row, scale * (d_s_error + adds * d_s), o.row(&o.k, s.at));
            let q = o.row(&o.q, row);
            add(&mut d_k, s.at, scale * (d_s_error + adds_over_queries * d_s), q);
            add(&mut d_v, s.at, p * (relative + adds_over_queries) + TINY, d_out);
        }
    }
    Ok(vec![d_q, d_k, d_v])
}
