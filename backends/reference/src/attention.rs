//! Scaled dot-product attention, with the whole row of scores in memory.

use crate::map::Operands;
use crate::memory::load;
use starling_contract::{
    Attention, AttentionBackward, DType, HostStorage, Immediates, Lengths, Program, Result,
    Sequence, View,
};
use starling_ops::defs::{Def, Dropout};
use starling_ops::program::Env;
use starling_ops::{Key, Math, Scalar};

/// A key that a query sees.
pub struct Seen {
    /// The pair's row-major position in `[batch, heads, queries, keys]`.
    pub pair: usize,
    /// The key's row among all keys and values.
    pub at: usize,
    /// `scale * q k`
    pub product: f64,
    /// What becomes of it, mask included.
    pub score: f64,
    /// What the weight is multiplied by: 1, or what dropout makes of it.
    pub factor: f64,
    /// The inputs of the score's program; none where there is none.
    pub inputs: Vec<f64>,
}

/// The operands of one attention, and which query meets which keys.
pub struct Problem<'a> {
    verb: &'a Attention,
    /// Elements of a row.
    pub dim: usize,
    /// `[batch, heads, queries]` rows.
    pub q: Vec<f64>,
    /// `[batch, kv_heads, keys]` rows.
    pub k: Vec<f64>,
    /// `[batch, kv_heads, keys]` rows.
    pub v: Vec<f64>,
    mask: Option<Vec<f64>>,
    blocks: Option<Vec<f64>>,
    starts: [Vec<i64>; 2],
    score: Option<Operands>,
    key: Option<Key<u32>>,
}

impl<'a> Problem<'a> {
    /// Reads the operands from host memory.
    ///
    /// # Errors
    /// When a view lies elsewhere.
    pub fn read(verb: &'a Attention) -> Result<Self> {
        let _turn = HostStorage::turn();
        Self::load(verb)
    }

    /// As [`Problem::read`], by who has the turn.
    pub(crate) fn load(verb: &'a Attention) -> Result<Self> {
        let whole = |view: &View| -> Result<Vec<i64>> {
            Ok(load(view)?.into_iter().map(|x| x as i64).collect())
        };
        let starts = match &verb.sight.lengths {
            Lengths::Full => [Vec::new(), Vec::new()],
            Lengths::Keys(lengths) => [whole(lengths)?, Vec::new()],
            Lengths::Packed { queries, keys } => [whole(queries)?, whole(keys)?],
        };
        let key = match &verb.dropout {
            Some(dropout) => {
                let mut words = [0; 5];
                for (word, view) in words.iter_mut().zip(dropout.words()) {
                    *word = load(view)?[0] as u32;
                }
                let [seed_lo, seed_hi, instance, step, node] = words;
                Some(Key { seed_lo, seed_hi, instance, step, node })
            }
            None => None,
        };
        let score =
            verb.score.as_ref().map(|s| Operands::load(&s.inputs, &s.params, &s.immediates));
        Ok(Self {
            verb,
            dim: verb.q.shape()[3],
            q: load(&verb.q)?,
            k: load(&verb.k)?,
            v: load(&verb.v)?,
            mask: verb.mask.as_ref().map(load).transpose()?,
            blocks: verb.sight.blocks.as_ref().map(|b| load(&b.keep)).transpose()?,
            starts,
            score: score.transpose()?,
            key,
        })
    }

    /// Number of queries of all heads and batch elements.
    pub fn rows(&self) -> usize {
        self.verb.lse.len()
    }

    fn sequence(&self, batch: usize, query: usize) -> Sequence {
        let [_, _, queries, keys] = self.verb.pairs();
        let [lengths, starts] = &self.starts;
        match &self.verb.sight.lengths {
            Lengths::Full => Sequence::first(keys as i64, [queries, keys]),
            Lengths::Keys(_) => Sequence::first(lengths[batch], [queries, keys]),
            Lengths::Packed { queries: view, .. } => {
                let n = view.shape()[1];
                let own = |starts: &'_ [i64]| starts[batch * n..][..n].to_vec();
                Sequence::packed(query, [&own(lengths), &own(starts)], [queries, keys])
            }
        }
    }

    /// The keys that query row `row` of `[batch, heads, queries]` sees.
    pub fn seen(&self, row: usize) -> Vec<Seen> {
        let [_, heads, queries, keys] = self.verb.pairs();
        let kv_heads = self.verb.k.shape()[1];
        let (query, head) = (row % queries, row / queries % heads);
        let batch = row / queries / heads;
        let sequence = self.sequence(batch, query);
        let kv_row = (batch * kv_heads + head / (heads / kv_heads)) * keys;
        let q = &self.q[row * self.dim..][..self.dim];
        let one = |j: usize| {
            let (pair, at) = (row * keys + j, kv_row + j);
            let k = &self.k[at * self.dim..][..self.dim];
            let product = f64::from(self.verb.scale) * dot(q, k);
            let inputs = match &self.score {
                Some(operands) => {
                    let position = (query as i64 + sequence.shift) as f64;
                    let origin = sequence.keys.start as f64;
                    let (own, key) = (position - origin, j as f64 - origin);
                    let mut all = vec![product, own, key, head as f64, batch as f64];
                    all.extend(operands.element(pair));
                    all
                }
                None => Vec::new(),
            };
            let score = match (&self.verb.score, &self.score) {
                (Some(s), Some(operands)) => {
                    operands.eval_one((&s.program, &s.immediates), &inputs)[0]
                }
                _ => product,
            };
            let mask = self.mask.as_ref().map_or(0.0, |mask| mask[pair]);
            let added = self.verb.mask.as_ref().is_some_and(|m| m.dtype == DType::F32);
            let score = if added { score + mask } else { score };
            Seen { pair, at, product, score, factor: self.factor(pair), inputs }
        };
        let visible = self.verb.sight.keys(query, &sequence);
        // A key of weight 0 counts nothing, whatever its value.
        visible
            .filter(|&j| self.kept(batch * heads + head, query, j) && !self.masked(row * keys + j))
            .map(one)
            .filter(|s| s.score != f64::NEG_INFINITY)
            .collect()
    }

    fn kept(&self, head: usize, query: usize, key: usize) -> bool {
        let (Some(blocks), Some(keep)) = (&self.verb.sight.blocks, &self.blocks) else {
            return true;
        };
        let (shape, [rows, columns]) = (blocks.keep.shape(), blocks.size);
        keep[(head * shape[2] + query / rows) * shape[3] + key / columns] != 0.0
    }

    fn masked(&self, pair: usize) -> bool {
        match (&self.mask, self.verb.mask.as_ref().map(|m| m.dtype)) {
            (Some(mask), Some(DType::U8)) => mask[pair] == 0.0,
            (Some(mask), _) => mask[pair] == f64::NEG_INFINITY,
            _ => false,
        }
    }

    fn factor(&self, pair: usize) -> f64 {
        let (Some(dropout), Some(key)) = (&self.verb.dropout, self.key) else { return 1.0 };
        let m = Scalar::<f64>::NEW;
        let mut factor = [0.0];
        Dropout.eval(m, &[1.0, m.uniform(pair as u32, key), dropout.p.into()], &mut factor);
        factor[0]
    }

    /// The derivatives of a score by its product and by each of the program's own inputs.
    pub fn slopes(&self, seen: &Seen) -> Vec<f64> {
        match (&self.verb.score, &self.score) {
            (Some(s), Some(operands)) => {
                operands.eval_one((&s.derivatives, &s.derivatives_immediates), &seen.inputs)
            }
            _ => vec![1.0],
        }
    }
}

impl Operands {
    /// The inputs at one element.
    fn element(&self, at: usize) -> impl Iterator<Item = f64> + '_ {
        self.inputs().iter().map(move |input| input[at])
    }

    /// The program's outputs for these inputs.
    fn eval_one(&self, (program, immediates): (&Program, &Immediates), inputs: &[f64]) -> Vec<f64> {
        let (words, immediates) = (self.words(), immediates.values().map(f64::from));
        let immediates: Vec<f64> = immediates.collect();
        let params = self.reals();
        let env = Env { inputs, params, words, immediates: &immediates, index: 0 };
        let mut out = vec![f64::NAN; program.outputs().len()];
        program.eval(Scalar::<f64>::NEW, &env, &mut Vec::new(), |i, x| out[i] = x);
        out
    }
}

/// The sum of products.
pub fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// `sums += factor * x`
fn add_scaled(sums: &mut [f64], factor: f64, x: &[f64]) {
    sums.iter_mut().zip(x).for_each(|(sum, x)| *sum += factor * x);
}

pub(crate) fn forward(verb: &Attention) -> Result<Vec<Vec<f64>>> {
    let p = Problem::load(verb)?;
    let mut out = vec![0.0; verb.out.len()];
    let mut lse = vec![f64::NEG_INFINITY; verb.lse.len()];
    for (row, lse) in lse.iter_mut().enumerate() {
        let seen = p.seen(row);
        if seen.is_empty() {
            continue;
        }
        let largest = seen.iter().fold(f64::NEG_INFINITY, |m, s| m.max(s.score));
        let sum: f64 = seen.iter().map(|s| (s.score - largest).exp()).sum();
        *lse = largest + sum.ln();
        let out = &mut out[row * p.dim..][..p.dim];
        for s in seen.iter().filter(|s| s.factor != 0.0) {
            let weight = s.factor * (s.score - largest).exp() / sum;
            add_scaled(out, weight, &p.v[s.at * p.dim..][..p.dim]);
        }
    }
    Ok(vec![out, lse])
}

/// Where an element of `[batch, heads, queries, keys]` is added in a gradient whose axes of extent
/// 1 are sums.
pub fn place_in(view: &View, pairs: [usize; 4], pair: usize) -> usize {
    let (mut rest, mut at, mut step) = (pair, 0, 1);
    for (&n, extent) in view.shape().iter().zip(pairs).rev() {
        at += (rest % extent).min(n - 1) * step;
        rest /= extent;
        step *= n;
    }
    at
}

pub(crate) fn backward(verb: &AttentionBackward) -> Result<Vec<Vec<f64>>> {
    let p = Problem::load(&verb.forward)?;
    let (out, lse) = (load(&verb.forward.out)?, load(&verb.forward.lse)?);
    let d_out = load(&verb.d_out)?;
    let scale = f64::from(verb.forward.scale);
    let mut d_q = vec![0.0; p.q.len()];
    let mut d_k = vec![0.0; p.k.len()];
    let mut d_v = vec![0.0; p.v.len()];
    let (dim, pairs) = (p.dim, verb.forward.pairs());
    let zeros = |d: &View| vec![0.0; d.len()];
    let mut d_mask = verb.d_mask.as_ref().map(zeros);
    let mut d_inputs: Vec<_> = verb.d_inputs.iter().map(|d| d.as_ref().map(zeros)).collect();
    for (row, &lse) in lse.iter().enumerate() {
        let here = row * dim..(row + 1) * dim;
        let (d_out, q) = (&d_out[here.clone()], &p.q[here.clone()]);
        let delta = dot(d_out, &out[here.clone()]);
        for s in p.seen(row) {
            let there = s.at * dim..(s.at + 1) * dim;
            let weight = (s.score - lse).exp();
            let mut d_weight = 0.0;
            if s.factor != 0.0 {
                add_scaled(&mut d_v[there.clone()], s.factor * weight, d_out);
                d_weight = s.factor * dot(d_out, &p.v[there.clone()]);
            }
            let d_score = weight * (d_weight - delta);
            if let (Some(d_mask), Some(view)) = (&mut d_mask, &verb.d_mask) {
                d_mask[place_in(view, pairs, s.pair)] += d_score;
            }
            let slopes = p.slopes(&s);
            for (i, (d, view)) in d_inputs.iter_mut().zip(&verb.d_inputs).enumerate() {
                if let (Some(d), Some(view)) = (d, view) {
                    d[place_in(view, pairs, s.pair)] += d_score * slopes[1 + i];
                }
            }
            let d_product = d_score * slopes[0];
            add_scaled(&mut d_q[here.clone()], scale * d_product, &p.k[there.clone()]);
            add_scaled(&mut d_k[there], scale * d_product, q);
        }
    }
    let more = d_mask.into_iter().chain(d_inputs.into_iter().flatten());
    Ok([d_q, d_k, d_v].into_iter().chain(more).collect())
}
