//! Attention and its gradient against the formula in f64, for every instruction set.

use starling_api::Layout;
use starling_kernels_cpu::Isa;
use starling_kernels_cpu::attention::{
    Backward, Forward, Mask, Tensor, backward, backward_workspace_bytes, forward,
};
use std::fmt;

/// How a `[batch, heads, rows, dim]` tensor lies in memory.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Order {
    /// Row-major.
    Plain,
    /// A head's part of `[batch, rows, 3, heads, dim]`, as one product makes q, k and v.
    Fused,
    /// Every second element, rows and elements backwards.
    Backwards,
    /// `[batch, heads, dim, rows]`
    Transposed,
}

struct Held {
    data: Vec<f32>,
    layout: Layout,
}

impl Held {
    fn new(shape: [usize; 4], order: Order) -> Self {
        let [b, h, s, d] = shape;
        let layout = match order {
            Order::Plain => Layout::contiguous(&shape),
            Order::Fused => Layout::contiguous(&[b, s, 3, h, d])
                .slice(2, 1, 1, 1)
                .permute(&[0, 3, 1, 2, 4])
                .reshape(&shape)
                .expect("axis 2 has extent 1"),
            Order::Backwards => Layout::contiguous(&[b, h, s, 2 * d])
                .slice(3, 2 * d - 1, d, -2)
                .slice(2, s.max(1) - 1, s, -1),
            Order::Transposed => Layout::contiguous(&[b, h, d, s]).permute(&[0, 1, 3, 2]),
        };
        let len = layout.extent().map_or(0, |(_, high)| high as usize + 1);
        Self { data: vec![f32::NAN; len], layout }
    }

    fn filled(shape: [usize; 4], order: Order, mut value: impl FnMut(usize) -> f32) -> Self {
        let mut held = Self::new(shape, order);
        for i in 0..held.layout.len() {
            held.data[held.layout.position(i)] = value(i);
        }
        held
    }

    fn get(&self, index: [usize; 4]) -> f64 {
        let steps = index.iter().zip(self.layout.strides()).map(|(&i, &s)| i as isize * s);
        f64::from(self.data[(self.layout.offset() as isize + steps.sum::<isize>()) as usize])
    }

    fn values(&self) -> Vec<f32> {
        (0..self.layout.len()).map(|i| self.data[self.layout.position(i)]).collect()
    }

    fn tensor(&mut self) -> Tensor {
        Tensor { at: self.data.as_mut_ptr(), layout: self.layout }
    }
}

/// Uniform numbers in [-1, 1).
struct Random(u64);

impl Random {
    fn next(&mut self) -> f32 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        ((self.0 >> 40) as f32) / (1 << 23) as f32 - 1.0
    }
}

#[derive(Clone)]
enum TestMask {
    None,
    /// Of these four extents, 1 where it repeats.
    Additive([usize; 4], Vec<f32>),
    Keep([usize; 4], Vec<u8>),
}

impl fmt::Debug for TestMask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TestMask::None => f.write_str("none"),
            TestMask::Additive(extents, _) => write!(f, "additive {extents:?}"),
            TestMask::Keep(extents, _) => write!(f, "keep {extents:?}"),
        }
    }
}

impl TestMask {
    fn layout(extents: [usize; 4], shape: [usize; 4]) -> Layout {
        Layout::contiguous(&extents).broadcast_to(&shape).expect("a mask that repeats")
    }

    fn mask(&self, shape: [usize; 4]) -> Option<Mask> {
        match self {
            TestMask::None => None,
            TestMask::Additive(extents, data) => {
                Some(Mask::Additive { at: data.as_ptr(), layout: Self::layout(*extents, shape) })
            }
            TestMask::Keep(extents, data) => {
                Some(Mask::Keep { at: data.as_ptr(), layout: Self::layout(*extents, shape) })
            }
        }
    }

    fn bias(&self, shape: [usize; 4], index: usize) -> f64 {
        match self {
            TestMask::None => 0.0,
            TestMask::Additive(extents, data) => {
                data[Self::layout(*extents, shape).position(index)].into()
            }
            TestMask::Keep(extents, data) => {
                let keep = data[Self::layout(*extents, shape).position(index)] != 0;
                if keep { 0.0 } else { f64::NEG_INFINITY }
            }
        }
    }
}

#[derive(Clone, Debug)]
struct Case {
    batch: usize,
    heads: usize,
    kv_heads: usize,
    queries: usize,
    keys: usize,
    dim: usize,
    causal: bool,
    mask: TestMask,
    order: Order,
    scale: f32,
}

impl Case {
    fn new(
        [batch, heads, kv_heads]: [usize; 3],
        [queries, keys, dim]: [usize; 3],
        causal: bool,
    ) -> Self {
        let scale = 1.0 / (dim as f32).sqrt();
        let (mask, order) = (TestMask::None, Order::Plain);
        Self { batch, heads, kv_heads, queries, keys, dim, causal, mask, order, scale }
    }

    fn q_shape(&self) -> [usize; 4] {
        [self.batch, self.heads, self.queries, self.dim]
    }

    fn k_shape(&self) -> [usize; 4] {
        [self.batch, self.kv_heads, self.keys, self.dim]
    }

    fn scores_shape(&self) -> [usize; 4] {
        [self.batch, self.heads, self.queries, self.keys]
    }

    fn random_inputs(&self) -> [Held; 4] {
        let mut random = Random(self.dim as u64 + 7919 * self.keys as u64);
        [self.q_shape(), self.k_shape(), self.k_shape(), self.q_shape()]
            .map(|shape| Held::filled(shape, self.order, |_| 2.0 * random.next()))
    }
}

/// out, lse, d_q, d_k, d_v in row-major order.
type Results = [Vec<f64>; 5];

/// The formula, in f64.
fn naive(case: &Case, [q, k, v, d_out]: &[Held; 4]) -> Results {
    let Case { batch, heads, kv_heads, queries, keys, dim, .. } = *case;
    let (q_len, kv_len) = (batch * heads * queries, batch * kv_heads * keys * dim);
    let mut results: Results =
        [q_len * dim, q_len, q_len * dim, kv_len, kv_len].map(|len| vec![0.0; len]);
    let [out, lse, d_q, d_k, d_v] = &mut results;
    for row in 0..q_len {
        let (b, h, i) = (row / (heads * queries), row / queries % heads, row % queries);
        let g = h / (heads / kv_heads);
        let mut scores = vec![f64::NEG_INFINITY; keys];
        for (j, score) in scores.iter_mut().enumerate() {
            if case.causal && j + queries > i + keys {
                continue;
            }
            let dot: f64 = (0..dim).map(|d| q.get([b, h, i, d]) * k.get([b, g, j, d])).sum();
            let bias = case.mask.bias(case.scores_shape(), row * keys + j);
            *score = dot * f64::from(case.scale) + bias;
        }
        let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        lse[row] = f64::NEG_INFINITY;
        if max == f64::NEG_INFINITY {
            continue;
        }
        lse[row] = max + scores.iter().map(|s| (s - max).exp()).sum::<f64>().ln();
        let p: Vec<f64> = scores.iter().map(|s| (s - lse[row]).exp()).collect();
        for d in 0..dim {
            out[row * dim + d] = (0..keys).map(|j| p[j] * v.get([b, g, j, d])).sum();
        }
        let upstream: Vec<f64> = (0..dim).map(|d| d_out.get([b, h, i, d])).collect();
        let delta: f64 = (0..dim).map(|d| upstream[d] * out[row * dim + d]).sum();
        for (j, &p) in p.iter().enumerate().filter(|&(_, &p)| p != 0.0) {
            let at = ((b * kv_heads + g) * keys + j) * dim;
            let d_p: f64 = (0..dim).map(|d| upstream[d] * v.get([b, g, j, d])).sum();
            let d_s = p * (d_p - delta) * f64::from(case.scale);
            for d in 0..dim {
                d_v[at + d] += p * upstream[d];
                d_k[at + d] += d_s * q.get([b, h, i, d]);
                d_q[row * dim + d] += d_s * k.get([b, g, j, d]);
            }
        }
    }
    results
}

/// The kernels' results in row-major order.
fn computed(isa: Isa, case: &Case, [q, k, v, d_out]: &mut [Held; 4]) -> [Vec<f32>; 5] {
    let mut out = Held::new(case.q_shape(), case.order);
    let mut lse = vec![f32::NAN; case.batch * case.heads * case.queries];
    let shape = [case.batch, case.heads, case.queries];
    let call = Forward {
        q: q.tensor(),
        k: k.tensor(),
        v: v.tensor(),
        mask: case.mask.mask(case.scores_shape()),
        causal: case.causal,
        scale: case.scale,
        out: out.tensor(),
        lse: Tensor { at: lse.as_mut_ptr(), layout: Layout::contiguous(&shape) },
    };
    // SAFETY: the tensors have the shapes of the case, and each its own memory.
    unsafe { forward(isa, &call) };
    let mut d_q = Held::new(case.q_shape(), case.order);
    let mut d_k = Held::new(case.k_shape(), case.order);
    let mut d_v = Held::new(case.k_shape(), case.order);
    let bytes = backward_workspace_bytes(&q.layout, &k.layout);
    let mut workspace = vec![f32::NAN; bytes / 4];
    let call = Backward {
        forward: call,
        d_out: d_out.tensor(),
        d_q: d_q.tensor(),
        d_k: d_k.tensor(),
        d_v: d_v.tensor(),
        workspace: workspace.as_mut_ptr(),
    };
    // SAFETY: as above; the workspace has the bytes that were asked for.
    unsafe { backward(isa, &call) };
    [out.values(), lse, d_q.values(), d_k.values(), d_v.values()]
}

const NAMES: [&str; 5] = ["out", "lse", "d_q", "d_k", "d_v"];

fn compare(label: &str, found: &[Vec<f32>; 5], expected: &Results, tolerance: f64) {
    for ((name, found), expected) in NAMES.iter().zip(found).zip(expected) {
        assert_eq!(found.len(), expected.len(), "{label}: {name}");
        let finite = expected.iter().filter(|e| e.is_finite());
        let largest = finite.fold(0.5f64, |a, e| a.max(e.abs()));
        for (i, (&f, &e)) in found.iter().zip(expected).enumerate() {
            let error = (f64::from(f) - e).abs();
            let fits = f64::from(f) == e || error <= tolerance * largest;
            assert!(fits, "{label}: {name}[{i}] is {f}, expected {e} (largest {largest})");
        }
    }
}

fn check(case: &Case) {
    let mut inputs = case.random_inputs();
    let expected = naive(case, &inputs);
    for isa in Isa::available() {
        let found = computed(isa, case, &mut inputs);
        compare(&format!("{isa} {case:?}"), &found, &expected, 1e-5);
    }
}

/// Batch and heads around the bound between the two backward paths, head dimensions of every kind.
const HEADS: [[usize; 3]; 5] = [[1, 1, 1], [1, 2, 2], [3, 3, 1], [2, 4, 2], [2, 8, 4]];

#[test]
fn every_head_dimension() {
    for (i, dim) in [1, 7, 32, 64, 80, 128, 256].into_iter().enumerate() {
        for causal in [false, true] {
            check(&Case::new(HEADS[i % 5], [19, 19, dim], causal));
            check(&Case::new(HEADS[(i + 4) % 5], [66, 131, dim], causal));
        }
    }
}

#[test]
fn every_length() {
    let lengths = [
        [1, 1],
        [1, 2],
        [2, 1],
        [1, 150],
        [150, 1],
        [5, 7],
        [64, 64],
        [63, 65],
        [128, 257],
        [140, 129],
    ];
    for (i, [queries, keys]) in lengths.into_iter().enumerate() {
        for causal in [false, true] {
            for heads in [HEADS[i % 5], [1, 1, 1], [2, 4, 4]] {
                check(&Case::new(heads, [queries, keys, 24], causal));
            }
        }
    }
}

#[test]
fn every_layout() {
    for order in [Order::Fused, Order::Backwards, Order::Transposed] {
        for (heads, dim) in [([2, 2, 1], 32), ([2, 4, 4], 33)] {
            check(&Case { order, ..Case::new(heads, [70, 70, dim], true) });
        }
    }
}

#[test]
fn nothing_is_no_work() {
    for [batch, queries, keys] in [[0, 3, 3], [2, 0, 3], [2, 3, 0]] {
        check(&Case::new([batch, 2, 1], [queries, keys, 8], false));
    }
}

fn masks(case: &Case) -> Vec<TestMask> {
    let [b, h, s, t] = case.scores_shape();
    let mut random = Random(5);
    let mut draw = |extents: [usize; 4]| -> Vec<f32> {
        (0..extents.iter().product()).map(|_| random.next()).collect()
    };
    let additive = |extents, data| TestMask::Additive(extents, data);
    let full = [b, h, s, t];
    let mut blocked = draw([b, 1, s, t]);
    blocked.iter_mut().filter(|x| **x < 0.0).for_each(|x| *x = f32::NEG_INFINITY);
    // One row of every head sees nothing.
    blocked[2 * t..3 * t].fill(f32::NEG_INFINITY);
    let keep = |data: Vec<f32>| data.into_iter().map(|x| u8::from(x > 0.0) * 3).collect();
    // Padding: the last keys are not there, for the last batch element none is.
    let padding = (0..b * t).map(|i| u8::from(i / t + 1 < b && i % t < t / 2 + 1)).collect();
    vec![
        additive(full, draw(full)),
        additive([b, 1, s, t], blocked),
        additive([1, 1, s, 1], draw([1, 1, s, 1])),
        TestMask::Keep(full, keep(draw(full))),
        TestMask::Keep([b, 1, 1, t], padding),
        TestMask::Keep([1, 1, s, 1], keep(draw([1, 1, s, 1]))),
    ]
}

#[test]
fn every_mask() {
    for (heads, lengths) in [([2, 2, 1], [9, 13, 16]), ([2, 8, 4], [67, 140, 8])] {
        for causal in [false, true] {
            let case = Case::new(heads, lengths, causal);
            for mask in masks(&case) {
                check(&Case { mask, ..case.clone() });
            }
        }
    }
}

/// Whole numbers, so that the scores are exact: what is left is the softmax of scores to +-1e4.
#[test]
fn large_scores_do_not_overflow() {
    for sign in [1.0, -1.0] {
        let case = Case { scale: sign, ..Case::new([1, 2, 2], [70, 150, 4], false) };
        let mut random = Random(3);
        let mut draw = |shape, size: f32| {
            Held::filled(shape, Order::Plain, |_| (size * random.next()).round())
        };
        let mut inputs = [
            draw(case.q_shape(), 50.0),
            draw(case.k_shape(), 50.0),
            draw(case.k_shape(), 4.0),
            draw(case.q_shape(), 4.0),
        ];
        let expected = naive(&case, &inputs);
        assert!(expected[1].iter().any(|lse| *lse > 5e3), "scores are large");
        for isa in Isa::available() {
            let found = computed(isa, &case, &mut inputs);
            // The log-sum-exp is rounded at 1e4: its half ulp is what p is off by.
            compare(&format!("{isa} sign {sign}"), &found, &expected, 1e-3);
            compare_forward(&found, &expected);
        }
    }
}

fn compare_forward(found: &[Vec<f32>; 5], expected: &Results) {
    for (&f, &e) in found[0].iter().zip(&expected[0]) {
        assert!((f64::from(f) - e).abs() <= 1e-5, "out is {f}, expected {e}");
    }
}

#[test]
fn threads_change_no_bit() {
    for heads in [[1, 1, 1], [1, 4, 2], [2, 8, 4]] {
        for causal in [false, true] {
            let case = Case::new(heads, [200, 300, 40], causal);
            let run = |threads| {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
                let pool = pool.expect("a thread pool");
                let mut inputs = case.random_inputs();
                pool.install(|| computed(Isa::best(), &case, &mut inputs))
            };
            let one = run(1);
            for threads in [2, 3] {
                for ((name, a), b) in NAMES.iter().zip(&one).zip(run(threads)) {
                    let same = a.iter().zip(&b).all(|(a, b)| a.to_bits() == b.to_bits());
                    assert!(same, "{name} differs with {threads} threads: {case:?}");
                }
            }
        }
    }
}
