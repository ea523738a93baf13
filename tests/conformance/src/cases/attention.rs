//! Attention and its gradients.

use super::Tier;
use crate::data::{Case, Place, Problem};
use starling_contract::{Attention, AttentionBackward, DType, View};

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

#[derive(Clone, Copy, Debug)]
struct Shape {
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
        let kv_heads = heads;
        Self { batch, heads, kv_heads, queries, keys, dim, causal, mask, place, size: 1.0 }
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
        title
    }

    fn q_shape(&self) -> [usize; 4] {
        [self.batch, self.heads, self.queries, self.dim]
    }

    fn k_shape(&self) -> [usize; 4] {
        [self.batch, self.kv_heads, self.keys, self.dim]
    }

    /// Puts q, k, v, out, lse and perhaps a mask: arrays 0 to 5.
    fn operands(&self, p: &mut Problem) {
        let size = self.size;
        let draw = |p: &mut Problem, shape: &[usize], place| {
            p.drawn(DType::F32, shape, place, |r| size * f64::from(2.0 * r.uniform() - 1.0));
        };
        draw(p, &self.q_shape(), self.place);
        draw(p, &self.k_shape(), self.place);
        draw(p, &self.k_shape(), self.place);
        p.output(DType::F32, &self.q_shape(), self.place);
        p.output(DType::F32, &self.q_shape()[..3], self.place);
        self.put_mask(p);
    }

    fn put_mask(&self, p: &mut Problem) {
        let shape = [self.batch, self.heads, self.queries, self.keys];
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
        move |v: &[View]| Attention {
            q: v[0].clone(),
            k: v[1].clone(),
            v: v[2].clone(),
            mask: (self.mask != Mask::None).then(|| v[5].clone()),
            causal: self.causal,
            scale: 1.0 / (self.dim as f32).sqrt(),
            out: v[3].clone(),
            lse: v[4].clone(),
        }
    }

    fn cases(self, all: &mut Vec<Case>) {
        // A query that sees nothing has a log-sum-exp of -inf, and masks may be -inf.
        let nothing = matches!(self.mask, Mask::Hidden | Mask::Kept);
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
            let d_out = p.uniform(&self.q_shape(), self.place);
            p.output(DType::F32, &self.q_shape(), self.place);
            p.output(DType::F32, &self.k_shape(), self.place);
            p.output(DType::F32, &self.k_shape(), self.place);
            p.verb(move |v: &[View]| {
                let view = |i: usize| v[d_out + i].clone();
                let forward = verb(v);
                let [d_out, d_q, d_k, d_v] = [view(0), view(1), view(2), view(3)];
                AttentionBackward { forward, d_out, d_q, d_k, d_v, workspace: None }.into()
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
    if tier == Tier::Full {
        large(all);
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
}
