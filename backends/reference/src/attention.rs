//! Scaled dot-product attention, with the whole row of scores in memory.

use crate::memory::read;
use starling_contract::{Attention, AttentionBackward, DType, Result};

/// Sizes and operands of one attention.
struct Problem<'a> {
    verb: &'a Attention,
    batch: usize,
    heads: usize,
    kv_heads: usize,
    queries: usize,
    keys: usize,
    dim: usize,
    q: Vec<f64>,
    k: Vec<f64>,
    v: Vec<f64>,
    mask: Option<Vec<f64>>,
}

impl<'a> Problem<'a> {
    fn read(verb: &'a Attention) -> Result<Self> {
        let (q, k) = (verb.q.shape(), verb.k.shape());
        Ok(Self {
            verb,
            batch: q[0],
            heads: q[1],
            kv_heads: k[1],
            queries: q[2],
            keys: k[2],
            dim: q[3],
            q: read(&verb.q)?,
            k: read(&verb.k)?,
            v: read(&verb.v)?,
            mask: verb.mask.as_ref().map(read).transpose()?,
        })
    }

    /// Calls `f(row, kv_row)` for each query: `row` counts `[batch, heads, queries]`, `kv_row` is
    /// the first of its keys in `[batch, kv_heads, keys]`.
    fn for_each_row(&self, mut f: impl FnMut(usize, usize)) {
        for row in 0..self.batch * self.heads * self.queries {
            let head = row / self.queries;
            let (b, h) = (head / self.heads, head % self.heads);
            let kv_head = b * self.kv_heads + h / (self.heads / self.kv_heads);
            f(row, kv_head * self.keys);
        }
    }

    /// The scaled and masked scores of a query; -inf for a key that it may not see.
    fn scores(&self, row: usize, kv_row: usize) -> Vec<f64> {
        let query = row % self.queries;
        let q = &self.q[row * self.dim..][..self.dim];
        let score = |j: usize| {
            let k = &self.k[(kv_row + j) * self.dim..][..self.dim];
            let s = f64::from(self.verb.scale) * dot(q, k);
            if self.verb.causal && j > query + self.keys - self.queries {
                return f64::NEG_INFINITY;
            }
            match (&self.mask, self.verb.mask.as_ref().map(|m| m.dtype)) {
                (Some(mask), Some(DType::U8)) if mask[row * self.keys + j] == 0.0 => {
                    f64::NEG_INFINITY
                }
                (Some(mask), Some(DType::F32)) => s + mask[row * self.keys + j],
                _ => s,
            }
        };
        (0..self.keys).map(score).collect()
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// `sums += factor * x`
fn add_scaled(sums: &mut [f64], factor: f64, x: &[f64]) {
    sums.iter_mut().zip(x).for_each(|(sum, x)| *sum += factor * x);
}

pub fn forward(verb: &Attention) -> Result<Vec<Vec<f64>>> {
    let p = Problem::read(verb)?;
    let mut out = vec![0.0; verb.out.len()];
    let mut lse = vec![f64::NEG_INFINITY; verb.lse.len()];
    p.for_each_row(|row, kv_row| {
        let scores = p.scores(row, kv_row);
        if scores.iter().all(|&s| s == f64::NEG_INFINITY) {
            return;
        }
        let largest = scores.iter().fold(f64::NEG_INFINITY, |m, &s| m.max(s));
        let sum: f64 = scores.iter().map(|s| (s - largest).exp()).sum();
        lse[row] = largest + sum.ln();
        let out = &mut out[row * p.dim..][..p.dim];
        // A key of weight 0 counts nothing, whatever its value.
        for (j, &s) in scores.iter().enumerate().filter(|&(_, &s)| s != f64::NEG_INFINITY) {
            let weight = (s - largest).exp() / sum;
            add_scaled(out, weight, &p.v[(kv_row + j) * p.dim..][..p.dim]);
        }
    });
    Ok(vec![out, lse])
}

pub fn backward(verb: &AttentionBackward) -> Result<Vec<Vec<f64>>> {
    let p = Problem::read(&verb.forward)?;
    let (out, lse) = (read(&verb.forward.out)?, read(&verb.forward.lse)?);
    let d_out = read(&verb.d_out)?;
    let scale = f64::from(verb.forward.scale);
    let mut d_q = vec![0.0; p.q.len()];
    let mut d_k = vec![0.0; p.k.len()];
    let mut d_v = vec![0.0; p.v.len()];
    let dim = p.dim;
    p.for_each_row(|row, kv_row| {
        let here = row * dim..(row + 1) * dim;
        let (d_out, q) = (&d_out[here.clone()], &p.q[here.clone()]);
        let delta = dot(d_out, &out[here.clone()]);
        let scores = p.scores(row, kv_row);
        for (j, &s) in scores.iter().enumerate().filter(|&(_, &s)| s != f64::NEG_INFINITY) {
            let there = (kv_row + j) * dim..(kv_row + j + 1) * dim;
            let weight = (s - lse[row]).exp();
            add_scaled(&mut d_v[there.clone()], weight, d_out);
            let d_score = weight * (dot(d_out, &p.v[there.clone()]) - delta);
            add_scaled(&mut d_q[here.clone()], scale * d_score, &p.k[there.clone()]);
            add_scaled(&mut d_k[there], scale * d_score, q);
        }
    });
    Ok(vec![d_q, d_k, d_v])
}
