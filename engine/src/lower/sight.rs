//! Which keys a query sees, as numbers in memory.

use super::Lowering;
use super::heads::Heads;
use crate::error::Result;
use starling_contract::{Attention, BlockMask, Layout, Lengths, ReduceKind, Sight, View};
use starling_ops::Math;
use starling_ops::trace::{Mask, Real, Trace};

/// The sequence of each query, in the numbering of its batch element's keys. The views are of
/// `[batch, 1, 1, queries, 1]`, or broadcast to it.
pub(super) struct Spans {
    /// Where the query stands among the keys.
    at: View,
    /// The first key of its sequence and the one behind the last; `None` where that is 0 and the
    /// number of all keys.
    keys: Option<[View; 2]>,
    /// `0, 1, ..`
    columns: View,
}

impl Spans {
    pub(super) fn new(l: &mut Lowering<'_>, v: &Attention) -> Result<Self> {
        let [batch, _, queries, keys] = v.pairs();
        let (rows, columns) = (l.positions(queries)?, l.positions(keys)?);
        let rows = axes(&rows, [1, queries], [0, 1]);
        match &v.sight.lengths {
            Lengths::Full => {
                let at = l.temporary(&[1, 1, 1, queries, 1])?;
                let shift = keys as f64 - queries as f64;
                l.map(&[&rows], &at, |t| t.add(t.input(0), t.immediate(shift)))?;
                Ok(Self { at, keys: None, columns })
            }
            Lengths::Keys(lengths) => {
                let end = l.temporary(&[batch, 1, 1, 1, 1])?;
                let lengths = l.real(lengths)?;
                let lengths = axes(&lengths, [batch, 1], [lengths.layout.strides()[0], 0]);
                l.map(&[&lengths], &end, |t| held(t, t.input(0), keys))?;
                let (origin, at) =
                    (l.temporary(end.shape())?, l.temporary(&[batch, 1, 1, queries, 1])?);
                l.map(&[], &origin, |t| t.lit(0.0))?;
                l.map(&[&rows, &end], &at, |t| {
                    t.add(t.input(0), t.sub(t.input(1), t.immediate(queries as f64)))
                })?;
                Ok(Self { at, keys: Some([origin, end]), columns })
            }
            Lengths::Packed { queries: q, keys: k } => {
                Self::packed(l, v.pairs(), [q, k], &rows, columns)
            }
        }
    }

    /// A sum over all sequences of what the one that a query lies in is asked for.
    fn packed(
        l: &mut Lowering<'_>,
        [batch, _, queries, keys]: [usize; 4],
        starts: [&View; 2],
        rows: &View,
        columns: View,
    ) -> Result<Self> {
        let sequences = starts[0].shape()[1] - 1;
        let mut edges = Vec::new();
        for view in starts {
            let real = l.real(view)?;
            let strides = real.layout.strides().to_vec();
            for first in [0, 1] {
                let offset = real.layout.offset() as isize + first * strides[1];
                let shape = [batch, 1, 1, 1, 1, sequences];
                let strides = [strides[0], 0, 0, 0, 0, strides[1]];
                edges.push(real.with(Layout::new(&shape, &strides, offset as usize)));
            }
        }
        let rows = l.inserted(rows, 5, 1)?;
        let inputs = [&rows, &edges[0], &edges[1], &edges[2], &edges[3]];
        let space = [batch, 1, 1, queries, 1, sequences];
        let sum = |l: &mut Lowering<'_>, f: &dyn Fn(Trace<'_>, [Real; 4]) -> Real| {
            let to = l.temporary(&[batch, 1, 1, queries, 1, 1])?;
            if sequences == 0 {
                l.map(&[], &to, |t| t.lit(0.0))?;
            } else {
                l.reduce(ReduceKind::Sum, &inputs, (&space, 1 << 5), &to, |t| {
                    let edge = |i, most| held(t, t.input(i), most);
                    let e = [edge(1, queries), edge(2, queries), edge(3, keys), edge(4, keys)];
                    let own = t.and(t.le(e[0], t.input(0)), t.lt(t.input(0), e[1]));
                    t.select(own, f(t, e), t.lit(0.0))
                })?;
            }
            Ok::<_, crate::error::Error>(to.with(Layout::contiguous(&[batch, 1, 1, queries, 1])))
        };
        let origin = sum(l, &|_, e| e[2])?;
        let end = sum(l, &|_, e| e[3])?;
        let at = sum(l, &|t, e| t.sub(e[3], e[1]))?;
        let rows = rows.with(Layout::new(
            &[1, 1, 1, queries, 1],
            &rows.layout.strides()[..5],
            rows.layout.offset(),
        ));
        l.map(&[&at, &rows], &at, |t| t.add(t.input(0), t.input(1)))?;
        Ok(Self { at, keys: Some([origin, end]), columns })
    }

    /// The positions of query and key in their sequence.
    pub(super) fn positions(&self, l: &mut Lowering<'_>) -> Result<[View; 2]> {
        let Some([origin, _]) = &self.keys else {
            return Ok([self.at.clone(), self.columns.clone()]);
        };
        let query = l.temporary(self.at.shape())?;
        l.map(&[&self.at, origin], &query, |t| t.sub(t.input(0), t.input(1)))?;
        let mut shape = origin.shape().to_vec();
        shape[4] = self.columns.len();
        let key = l.temporary(&shape)?;
        l.map(&[&self.columns, origin], &key, |t| t.sub(t.input(0), t.input(1)))?;
        Ok([query, key])
    }

    /// Puts -inf where a key is not seen.
    pub(super) fn hide(
        &self,
        l: &mut Lowering<'_>,
        sight: &Sight,
        heads: &Heads,
        scores: &View,
    ) -> Result<()> {
        if let Some(blocks) = &sight.blocks {
            let keep = expanded(l, blocks, scores.shape(), heads)?;
            l.map(&[scores, &keep], scores, |t| {
                let off = t.eq(t.input(1), t.lit(0.0));
                t.select(off, t.lit(f64::NEG_INFINITY), t.input(0))
            })?;
        }
        if !sight.causal && sight.window.is_none() && self.keys.is_none() {
            return Ok(());
        }
        let mut inputs = vec![scores, &self.columns, &self.at];
        inputs.extend(self.keys.iter().flatten());
        l.map(&inputs, scores, |t| {
            let (key, at) = (t.input(1), t.input(2));
            let mut seen: Option<Mask> = None;
            let mut also = |more: Mask| seen = Some(seen.map_or(more, |s| t.and(s, more)));
            if sight.causal {
                also(t.le(key, at));
            }
            if let Some(window) = sight.window {
                also(t.lt(t.abs(t.sub(key, at)), t.immediate(window as f64)));
            }
            if self.keys.is_some() {
                also(t.and(t.ge(key, t.input(3)), t.lt(key, t.input(4))));
            }
            match seen {
                Some(seen) => t.select(seen, t.input(0), t.lit(f64::NEG_INFINITY)),
                None => t.input(0),
            }
        })
    }
}

/// A view over `[batch, queries]` as `[batch, 1, 1, queries, 1]`.
fn axes(view: &View, [batch, queries]: [usize; 2], [outer, inner]: [isize; 2]) -> View {
    let shape = [batch, 1, 1, queries, 1];
    view.with(Layout::new(&shape, &[outer, 0, 0, inner, 0], view.layout.offset()))
}

/// `x` held in `0 ..= most`.
fn held(t: Trace<'_>, x: Real, most: usize) -> Real {
    t.min(t.max(x, t.lit(0.0)), t.immediate(most as f64))
}

/// A block mask for each pair.
fn expanded(
    l: &mut Lowering<'_>,
    blocks: &BlockMask,
    scores: &[usize],
    heads: &Heads,
) -> Result<View> {
    let (shape, strides) = (blocks.keep.shape().to_vec(), blocks.keep.layout.strides().to_vec());
    let [rows, columns] = blocks.size;
    let repeated = Layout::new(
        &[shape[0], shape[1], shape[2], rows, shape[3], columns],
        &[strides[0], strides[1], strides[2], 0, strides[3], 0],
        blocks.keep.layout.offset(),
    );
    let all = l.temporary(repeated.shape())?;
    l.copy(&blocks.keep.with(repeated), &all);
    let (padded_rows, padded) = (shape[2] * rows, (shape[3] * columns) as isize);
    let head = padded_rows as isize * padded;
    let pairs = Layout::new(
        &[shape[0], shape[1], scores[3], scores[4]],
        &[shape[1] as isize * head, head, padded, 1],
        all.layout.offset(),
    );
    Ok(heads.grouped(&all.with(pairs)))
}
