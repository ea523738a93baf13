//! Attention and its gradients.

use super::Tier;
use crate::data::{Case, Place, Problem};
use starling_contract::{
    Attention, AttentionBackward, BlockMask, DType, Immediates, Lengths, Program, Score, Sight,
    View, WeightDropout,
};
use starling_ops::program::Builder;
use starling_ops::{Key, Math, Trace};
use std::cell::{Cell, RefCell};
use std::sync::Arc;

/// What lies where something is spoiled.
const NAN: f64 = f64::NAN;
const INFINITY: f64 = f64::INFINITY;

/// What is added to the scores or hides them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mask {
    None,
    /// f32 for every score.
    Added,
    /// f32 with some -inf; the first query sees nothing.
    Hidden,
    /// u8, the same for all heads and queries of a batch: padding at the end.
    Padding,
    /// u8 for every score; the last query sees nothing.
    Kept,
}

/// How many keys there are, as numbers in memory; one list for each batch element.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Long {
    All,
    Keys(&'static [i32]),
    /// Where sequences begin among queries and keys.
    Packed([&'static [&'static [i32]]; 2]),
}

/// What scores pass through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scored {
    Not,
    /// `1.5 tanh(score / 1.5)` (Gemma 2, 2024).
    SoftCap,
    /// A slope per head times the distance (Press, Smith, Lewis 2022).
    Slopes,
    /// A number per pair, times a parameter, plus head and batch element.
    Bias,
}

impl Scored {
    fn program(self) -> (Arc<Program>, Immediates) {
        let builder = RefCell::new(Builder::new());
        let t = Trace(&builder);
        let (score, cap) = (t.input(0), t.immediate(1.5));
        let value = match self {
            Scored::Not => score,
            Scored::SoftCap => t.mul(cap, t.tanh(t.div(score, cap))),
            Scored::Slopes => {
                let distance = t.sub(t.input(2), t.input(1));
                t.add(score, t.mul(t.input(Score::OWN_INPUTS), distance))
            }
            Scored::Bias => {
                let place = t.mul(t.lit(0.25), t.sub(t.input(3), t.input(4)));
                let bias = t.mul(t.input(Score::OWN_INPUTS), t.param(0));
                t.add(score, t.add(place, bias))
            }
        };
        let (program, immediates) = builder.borrow().finish_with_immediates(&[value.0]);
        (Arc::new(program), immediates)
    }
}

/// Where infinities and NaN lie: what does not see them must not be touched by them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Spoiled {
    Nothing,
    /// NaN in the last value, infinities in the one before.
    Values,
    /// Of every batch element the last key and value, which nothing may see.
    LastKey,
    /// The first query.
    Query,
    /// The gradient of the first query's result.
    Upstream,
}

#[derive(Clone, Copy, Debug)]
struct Shape {
    window: Option<usize>,
    long: Long,
    blocks: Option<[usize; 2]>,
    scored: Scored,
    dropout: Option<f32>,
    spoiled: Spoiled,
    /// Bit `i` is set where the gradients of mask and score are summed over axis `i`; `None` where
    /// they are not wanted.
    trained: Option<u32>,
    batch: usize,
    heads: usize,
    kv_heads: usize,
    queries: usize,
    keys: usize,
    dim: usize,
    causal: bool,
    mask: Mask,
    /// Where q, k, v and the gradients lie.
    place: Place,
    /// Size of the numbers: large ones make the softmax one-hot.
    size: f64,
}

impl Shape {
    fn new(batch: usize, heads: usize, queries: usize, keys: usize, dim: usize) -> Self {
        let (causal, mask, place) = (false, Mask::None, Place::Contiguous);
        let (long, blocks, scored) = (Long::All, None, Scored::Not);
        let (window, dropout, spoiled, trained) = (None, None, Spoiled::Nothing, None);
        Self {
            window,
            long,
            blocks,
            scored,
            dropout,
            spoiled,
            trained,
            batch,
            heads,
            kv_heads: heads,
            queries,
            keys,
            dim,
            causal,
            mask,
            place,
            size: 1.0,
        }
    }

    fn window(self, keys: usize) -> Self {
        Self { window: Some(keys), ..self }
    }

    fn long(self, long: Long) -> Self {
        Self { long, ..self }
    }

    fn blocks(self, size: [usize; 2]) -> Self {
        Self { blocks: Some(size), ..self }
    }

    fn scored(self, scored: Scored) -> Self {
        Self { scored, ..self }
    }

    fn dropped(self, p: f32) -> Self {
        Self { dropout: Some(p), ..self }
    }

    fn spoiled(self, spoiled: Spoiled) -> Self {
        Self { spoiled, ..self }
    }

    fn trained(self, summed: u32) -> Self {
        Self { trained: Some(summed), ..self }
    }

    fn causal(self) -> Self {
        Self { causal: true, ..self }
    }

    fn masked(self, mask: Mask) -> Self {
        Self { mask, ..self }
    }

    fn grouped(self, kv_heads: usize) -> Self {
        Self { kv_heads, ..self }
    }

    fn at(self, place: Place) -> Self {
        Self { place, ..self }
    }

    fn sized(self, size: f64) -> Self {
        Self { size, ..self }
    }

    fn title(&self) -> String {
        let Shape { batch, heads, kv_heads, queries, keys, dim, .. } = *self;
        let mut title = format!("f32 {batch}x{heads}:{kv_heads}x{queries}:{keys}x{dim}");
        if self.causal {
            title += " causal";
        }
        if self.mask != Mask::None {
            title += &format!(" mask {:?}", self.mask);
        }
        if self.place != Place::Contiguous {
            title += &format!(" {:?}", self.place);
        }
        if self.size != 1.0 {
            title += &format!(" size {}", self.size);
        }
        if let Some(window) = self.window {
            title += &format!(" window {window}");
        }
        if self.long != Long::All {
            title += &format!(" {:?}", self.long);
        }
        if let Some([rows, columns]) = self.blocks {
            title += &format!(" blocks {rows}x{columns}");
        }
        if self.scored != Scored::Not {
            title += &format!(" {:?}", self.scored);
        }
        if let Some(p) = self.dropout {
            title += &format!(" dropout {p}");
        }
        if self.spoiled != Spoiled::Nothing {
            title += &format!(" spoiled {:?}", self.spoiled);
        }
        if let Some(summed) = self.trained {
            title += &format!(" trained {summed:04b}");
        }
        title
    }

    fn q_shape(&self) -> [usize; 4] {
        [self.batch, self.heads, self.queries, self.dim]
    }

    fn k_shape(&self) -> [usize; 4] {
        [self.batch, self.kv_heads, self.keys, self.dim]
    }

    fn pairs(&self) -> [usize; 4] {
        [self.batch, self.heads, self.queries, self.keys]
    }

    /// Puts q, k, v, out and lse, arrays 0 to 4, and what the options need, in the order in which
    /// [`Shape::verb`] takes it.
    fn operands(&self, p: &mut Problem) {
        use Spoiled::{LastKey, Query, Values};
        self.spoilt(p, &self.q_shape(), |i, _| (self.spoiled == Query && i == 0).then_some(NAN));
        let last = self.keys - usize::from(self.keys > 0);
        self.spoilt(p, &self.k_shape(), |j, _| {
            (self.spoiled == LastKey && j == last).then_some(NAN)
        });
        self.spoilt(p, &self.k_shape(), |j, at| match self.spoiled {
            Values | LastKey if j == last => Some(NAN),
            Values if j + 1 == last => Some(if at % 2 == 0 { INFINITY } else { -INFINITY }),
            _ => None,
        });
        p.output(DType::F32, &self.q_shape(), self.place);
        p.output(DType::F32, &self.q_shape()[..3], self.place);
        self.put_mask(p);
        match self.long {
            Long::All => {}
            Long::Keys(lengths) => {
                p.values(DType::I32, &[self.batch], Place::Step, |b| lengths[b].into());
            }
            Long::Packed(starts) => {
                for starts in starts {
                    let n = starts[0].len();
                    let shape = [self.batch, n];
                    p.values(DType::U32, &shape, Place::Offset, |i| starts[i / n][i % n].into());
                }
            }
        }
        if let Some([rows, columns]) = self.blocks {
            let shape = [self.batch, 1, self.queries.div_ceil(rows), self.keys.div_ceil(columns)];
            let shape = [shape[0], self.heads, shape[2], shape[3]];
            p.values(DType::U8, &shape, Place::Repeat(0b10), |i| f64::from(u8::from(i % 3 != 1)));
        }
        match self.scored {
            Scored::Not | Scored::SoftCap => {}
            Scored::Slopes => {
                p.uniform(&self.pairs(), Place::Repeat(0b1101));
            }
            Scored::Bias => {
                p.uniform(&self.pairs(), Place::Repeat(0b0001));
                p.values(DType::F32, &[], Place::Contiguous, |_| 0.75);
            }
        }
        if self.dropout.is_some() {
            for word in [17, 4_000_000_000u32, 3, 5, 0] {
                p.values(DType::U32, &[], Place::Contiguous, |_| word.into());
            }
        }
    }

    /// Puts random rows `[.., rows, dim]`; `special(row, element)` replaces some.
    fn spoilt(
        &self,
        p: &mut Problem,
        shape: &[usize],
        special: impl Fn(usize, usize) -> Option<f64>,
    ) -> usize {
        let (next, dim, rows) = (Cell::new(0), shape[3], shape[2]);
        p.drawn(DType::F32, shape, self.place, |r| {
            let at = next.replace(next.get() + 1);
            let x = self.size * f64::from(2.0 * r.uniform() - 1.0);
            special(at / dim % rows, at % dim).unwrap_or(x)
        })
    }

    fn put_mask(&self, p: &mut Problem) {
        let shape = self.pairs();
        let (queries, keys, heads) = (self.queries, self.keys, self.heads);
        match self.mask {
            Mask::None => {}
            Mask::Added => {
                p.uniform(&shape, Place::Repeat(0b0011));
            }
            Mask::Hidden => {
                p.values(DType::F32, &shape, Place::Contiguous, move |at| {
                    let (query, key) = (at / keys % queries, at % keys);
                    let hidden = query == 0 || (query + key) % 3 == 1;
                    if hidden { f64::NEG_INFINITY } else { (at % 7) as f64 / 4.0 }
                });
            }
            Mask::Padding => {
                p.values(DType::U8, &shape, Place::Repeat(0b0110), move |at| {
                    let batch = at / keys / queries / heads;
                    f64::from(u8::from(at % keys < keys.saturating_sub(batch + 1).max(1)))
                });
            }
            Mask::Kept => {
                p.values(DType::U8, &shape, Place::Offset, move |at| {
                    let (query, key) = (at / keys % queries, at % keys);
                    let kept = query + 1 < queries && (query * 5 + key) % 4 != 2;
                    f64::from(u8::from(kept) * 3)
                });
            }
        }
    }

    fn verb(self) -> impl Fn(&[View]) -> Attention + 'static {
        move |v: &[View]| {
            let mut rest = v[5..].iter().cloned();
            let mut next = || rest.next().expect("an array");
            let mask = (self.mask != Mask::None).then(&mut next);
            let lengths = match self.long {
                Long::All => Lengths::Full,
                Long::Keys(_) => Lengths::Keys(next()),
                Long::Packed(_) => Lengths::Packed { queries: next(), keys: next() },
            };
            let blocks = self.blocks.map(|size| BlockMask { keep: next(), size });
            let score = (self.scored != Scored::Not).then(|| {
                let inputs = if self.scored == Scored::SoftCap { vec![] } else { vec![next()] };
                let params = if self.scored == Scored::Bias { vec![next()] } else { vec![] };
                Score::new(self.scored.program(), params, inputs)
            });
            let dropout = self.dropout.map(|p| {
                let [seed_lo, seed_hi, instance] = [next(), next(), next()];
                let [step, node] = [next(), next()];
                WeightDropout { p, key: Key { seed_lo, seed_hi, instance, step, node } }
            });
            Attention {
                q: v[0].clone(),
                k: v[1].clone(),
                v: v[2].clone(),
                mask,
                sight: Sight { causal: self.causal, window: self.window, lengths, blocks },
                scale: 1.0 / (self.dim as f32).sqrt(),
                score,
                dropout,
                out: v[3].clone(),
                lse: v[4].clone(),
            }
        }
    }

    fn cases(self, all: &mut Vec<Case>) {
        // A query that sees nothing has a log-sum-exp of -inf, and masks may be -inf.
        let nothing = matches!(self.mask, Mask::Hidden | Mask::Kept)
            || self.spoiled != Spoiled::Nothing
            || self.window.is_some()
            || self.long != Long::All
            || self.blocks.is_some();
        let forward = Case::new("attention", self.title(), move |title| {
            let mut p = Problem::new(title);
            self.operands(&mut p);
            let verb = self.verb();
            p.verb(move |v: &[View]| verb(v).into())
        });
        let backward = Case::new("attention_backward", self.title(), move |title| {
            let mut p = Problem::new(title);
            self.operands(&mut p);
            let verb = self.verb();
            p.forward(|v| verb(v).into());
            let d_out = self.spoilt(&mut p, &self.q_shape(), |i, _| {
                (self.spoiled == Spoiled::Upstream && i == 0).then_some(NAN)
            });
            p.output(DType::F32, &self.q_shape(), self.place);
            p.output(DType::F32, &self.k_shape(), self.place);
            p.output(DType::F32, &self.k_shape(), self.place);
            let summed = self.trained.map(|summed| {
                let mut shape = self.pairs();
                let axes = (0..4).filter(|axis| summed >> axis & 1 == 1);
                axes.for_each(|axis| shape[axis] = 1);
                [
                    p.output(DType::F32, &shape, Place::Gaps),
                    p.output(DType::F32, &shape, self.place),
                ]
            });
            p.verb(move |v: &[View]| {
                let view = |i: usize| v[d_out + i].clone();
                let forward = verb(v);
                let [d_out, d_q, d_k, d_v] = [view(0), view(1), view(2), view(3)];
                let added = matches!(self.mask, Mask::Added | Mask::Hidden);
                let input = !matches!(self.scored, Scored::Not | Scored::SoftCap);
                let d_mask = summed.filter(|_| added).map(|s| v[s[0]].clone());
                let d_input = summed.filter(|_| input).map(|s| v[s[1]].clone());
                let d_inputs = if input { vec![d_input] } else { vec![] };
                let workspace = None;
                AttentionBackward { forward, d_out, d_q, d_k, d_v, d_mask, d_inputs, workspace }
                    .into()
            })
        });
        for case in [forward, backward] {
            all.push(if nothing { case.special() } else { case });
        }
    }
}

pub fn cases(tier: Tier, all: &mut Vec<Case>) {
    let small = Shape::new(2, 2, 5, 5, 4);
    for shape in [small, Shape::new(2, 3, 7, 11, 5), Shape::new(1, 2, 9, 3, 16)] {
        shape.cases(all);
        for mask in [Mask::Added, Mask::Hidden, Mask::Padding, Mask::Kept] {
            shape.masked(mask).cases(all);
            if shape.keys >= shape.queries {
                shape.masked(mask).causal().cases(all);
            }
        }
    }
    small.causal().cases(all);
    Shape::new(1, 4, 6, 6, 8).grouped(2).causal().cases(all);
    Shape::new(2, 6, 3, 7, 8).grouped(2).masked(Mask::Added).cases(all);
    Shape::new(2, 3, 4, 4, 3).grouped(1).cases(all);
    Shape::new(1, 4, 1, 19, 8).grouped(2).causal().cases(all);
    Shape::new(1, 1, 1, 1, 1).cases(all);
    for dim in [1, 33, 64, 127, 128, 256] {
        Shape::new(1, 1, 3, 5, dim).cases(all);
    }
    for place in Place::OUTPUTS {
        small.at(place).causal().cases(all);
        Shape::new(2, 2, 3, 4, 9).at(place).masked(Mask::Kept).cases(all);
    }
    Shape::new(1, 2, 6, 6, 8).sized(12.0).causal().cases(all);
    Shape::new(0, 2, 3, 3, 4).cases(all);
    Shape::new(2, 2, 0, 3, 4).cases(all);
    Shape::new(1, 1, 40, 70, 8).causal().cases(all);
    options(all);
    spoiled(all);
    if tier == Tier::Full {
        large(all);
    }
}

/// Packed starts: two batch elements, one with a sequence of no queries and one of no keys.
const STARTS: [&[&[i32]]; 2] = [&[&[0, 3, 3, 8], &[0, 2, 5, 7]], &[&[0, 5, 7, 9], &[1, 4, 4, 30]]];

fn options(all: &mut Vec<Case>) {
    let shape = Shape::new(2, 4, 9, 11, 5).grouped(2);
    for window in [1, 3, 100] {
        shape.window(window).cases(all);
        shape.window(window).causal().cases(all);
    }
    // Lengths below 0, shorter than the queries, and beyond the keys.
    for long in [Long::Keys(&[4, 11]), Long::Keys(&[-1, 99]), Long::Packed(STARTS)] {
        shape.long(long).cases(all);
        shape.long(long).causal().cases(all);
        shape.long(long).causal().window(2).cases(all);
        shape.long(long).causal().scored(Scored::Slopes).trained(0b1101).cases(all);
    }
    // Decoding.
    Shape::new(2, 4, 1, 130, 8).grouped(2).long(Long::Keys(&[130, 7])).causal().cases(all);
    Shape::new(2, 1, 70, 140, 8).long(Long::Keys(&[3, 133])).causal().window(65).cases(all);
    shape.blocks([4, 3]).cases(all);
    shape.blocks([1, 1]).causal().masked(Mask::Padding).cases(all);
    for scored in [Scored::SoftCap, Scored::Slopes, Scored::Bias] {
        shape.scored(scored).trained(0).cases(all);
        shape.scored(scored).causal().masked(Mask::Hidden).trained(0b0001).cases(all);
        // Not over keys: what all scores of a query have in common has no gradient.
        shape.scored(scored).dropped(0.25).trained(0b0101).cases(all);
    }
    shape.masked(Mask::Added).trained(0b0011).cases(all);
    shape.masked(Mask::Added).causal().trained(0b0111).cases(all);
    shape.dropped(0.5).cases(all);
    shape.dropped(0.1).causal().at(Place::Gaps).cases(all);
    let everything = shape.causal().window(4).long(Long::Packed(STARTS)).blocks([2, 2]);
    let everything = everything.masked(Mask::Added).scored(Scored::Bias).dropped(0.125);
    everything.trained(0b0010).cases(all);
}

/// NaN and infinities beside what sees them.
fn spoiled(all: &mut Vec<Case>) {
    for shape in [Shape::new(2, 2, 11, 11, 5), Shape::new(1, 2, 70, 140, 8).grouped(1)] {
        shape.causal().spoiled(Spoiled::Values).cases(all);
        shape.causal().spoiled(Spoiled::Query).cases(all);
        shape.causal().spoiled(Spoiled::Upstream).cases(all);
        shape.masked(Mask::Kept).spoiled(Spoiled::Values).cases(all);
        shape.masked(Mask::Padding).spoiled(Spoiled::LastKey).cases(all);
        shape.masked(Mask::Hidden).causal().spoiled(Spoiled::Upstream).cases(all);
        shape.causal().window(4).spoiled(Spoiled::Query).cases(all);
        shape.long(Long::Keys(&[10, 5])).spoiled(Spoiled::LastKey).cases(all);
        shape.blocks([3, 4]).spoiled(Spoiled::Values).cases(all);
        shape.causal().dropped(0.5).spoiled(Spoiled::Values).cases(all);
        shape.causal().scored(Scored::SoftCap).spoiled(Spoiled::Query).cases(all);
    }
}

fn large(all: &mut Vec<Case>) {
    Shape::new(1, 1, 513, 513, 64).causal().cases(all);
    Shape::new(2, 3, 129, 257, 65).cases(all);
    Shape::new(2, 3, 129, 257, 65).causal().cases(all);
    Shape::new(2, 4, 130, 130, 32).grouped(2).causal().masked(Mask::Padding).cases(all);
    Shape::new(1, 2, 200, 300, 128).masked(Mask::Hidden).cases(all);
    Shape::new(1, 2, 200, 300, 48).masked(Mask::Kept).cases(all);
    Shape::new(1, 2, 100, 70, 256).masked(Mask::Added).cases(all);
    Shape::new(1, 8, 1, 1025, 64).grouped(2).causal().cases(all);
    Shape::new(1, 2, 3, 2049, 64).cases(all);
    Shape::new(1, 1, 300, 300, 64).sized(12.0).causal().cases(all);
    let long = Shape::new(2, 2, 200, 300, 32);
    let starts: [&[&[i32]]; 2] =
        [&[&[0, 90, 200], &[0, 5, 150]], &[&[0, 130, 300], &[10, 40, 290]]];
    long.window(70).causal().cases(all);
    long.window(150).cases(all);
    long.long(Long::Keys(&[129, 250])).causal().cases(all);
    long.long(Long::Packed(starts)).causal().window(100).cases(all);
    long.long(Long::Packed(starts)).scored(Scored::Slopes).dropped(0.3).trained(0b1101).cases(all);
    long.blocks([64, 128]).scored(Scored::SoftCap).cases(all);
    let wide = Shape::new(2, 4, 70, 140, 8);
    wide.blocks([64, 128]).scored(Scored::Slopes).trained(0b1101).cases(all);
    for summed in [0, 0b0001, 0b0100, 0b0110] {
        let trained = wide.causal().masked(Mask::Added).scored(Scored::Bias).trained(summed);
        trained.dropped(0.1).cases(all);
    }
}
