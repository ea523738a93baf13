//! Attention and its gradient against the formula in f64, for every instruction set.

use serde_json::Value;
use starling_contract::Layout;
use starling_kernels_cpu::attention::{
    Backward, Forward, Mask, Tensor, backward, backward_workspace_bytes, forward,
};
use starling_kernels_cpu::{Isa, Team};
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
struct Results {
    values: [Vec<f64>; 5],
    /// The largest sum of absolute terms behind an element: what rounding errors are relative to.
    sizes: [f64; 5],
}

/// The formula, in f64.
fn naive(case: &Case, inputs: &[Held; 4]) -> Results {
    let values = formula(case, inputs, |x| x);
    let mut sizes = [0; 5].map(|_| 0.0);
    for (size, terms) in sizes.iter_mut().zip(formula(case, inputs, f64::abs)) {
        *size = terms.into_iter().filter(|x| x.is_finite()).fold(0.0, f64::max);
    }
    sizes[1] = sizes[1].max(1.0);
    Results { values, sizes }
}

/// The formula, each term of a sum (but those of the scores) passed through `term`.
fn formula(case: &Case, inputs: &[Held; 4], term: fn(f64) -> f64) -> [Vec<f64>; 5] {
    let Case { batch, heads, kv_heads, queries, keys, dim, .. } = *case;
    let (q_len, kv_len) = (batch * heads * queries, batch * kv_heads * keys * dim);
    let mut results = [q_len * dim, q_len, q_len * dim, kv_len, kv_len].map(|len| vec![0.0; len]);
    let [out, lse, d_q, d_k, d_v] = &mut results;
    let dense = |i: usize| inputs[i].values().into_iter().map(f64::from).collect::<Vec<f64>>();
    let [q, k, v, d_out] = [0, 1, 2, 3].map(dense);
    let scale = f64::from(case.scale);
    for (row, lse) in lse.iter_mut().enumerate() {
        let (b, h, i) = (row / (heads * queries), row / queries % heads, row % queries);
        let start = (b * kv_heads + h / (heads / kv_heads)) * keys;
        let here = row * dim..(row + 1) * dim;
        let (q, upstream) = (&q[here.clone()], &d_out[here.clone()]);
        let there = |j: usize| (start + j) * dim..(start + j + 1) * dim;
        let mut scores = vec![f64::NEG_INFINITY; keys];
        for (j, score) in scores.iter_mut().enumerate() {
            if case.causal && j + queries > i + keys {
                continue;
            }
            let dot: f64 = q.iter().zip(&k[there(j)]).map(|(q, k)| q * k).sum();
            *score = dot * scale + case.mask.bias(case.scores_shape(), row * keys + j);
        }
        let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        *lse = f64::NEG_INFINITY;
        if max == f64::NEG_INFINITY {
            continue;
        }
        *lse = max + scores.iter().map(|s| (s - max).exp()).sum::<f64>().ln();
        let p: Vec<f64> = scores.iter().map(|s| (s - *lse).exp()).collect();
        let seen = || p.iter().enumerate().filter(|&(_, &p)| p != 0.0);
        for (j, p) in seen() {
            add(&mut out[here.clone()], &v[there(j)], |v| term(p * v));
        }
        let dots = |a: &[f64]| a.iter().zip(upstream).map(|(a, g)| term(a * g)).sum::<f64>();
        let delta = dots(&out[here.clone()]);
        for (j, p) in seen() {
            let d_s = p * (dots(&v[there(j)]) + term(-delta)) * scale;
            add(&mut d_v[there(j)], upstream, |g| term(p * g));
            add(&mut d_k[there(j)], q, |q| term(d_s * q));
            add(&mut d_q[here.clone()], &k[there(j)], |k| term(d_s * k));
        }
    }
    results
}

/// `to[d] += f(from[d])`
fn add(to: &mut [f64], from: &[f64], f: impl Fn(f64) -> f64) {
    to.iter_mut().zip(from).for_each(|(to, &from)| *to += f(from));
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
        spans: std::ptr::null(),
        scale: case.scale,
        options: None,
        out: out.tensor(),
        lse: Tensor { at: lse.as_mut_ptr(), layout: Layout::contiguous(&shape) },
    };
    // SAFETY: the tensors have the shapes of the case, and each its own memory.
    unsafe { forward(isa, &call) };
    let mut d_q = Held::new(case.q_shape(), case.order);
    let mut d_k = Held::new(case.k_shape(), case.order);
    let mut d_v = Held::new(case.k_shape(), case.order);
    let bytes = backward_workspace_bytes(&q.layout, &k.layout, []);
    let mut workspace = vec![f32::NAN; bytes / 4];
    let call = Backward {
        forward: call,
        d_out: d_out.tensor(),
        d_q: d_q.tensor(),
        d_k: d_k.tensor(),
        d_v: d_v.tensor(),
        pairs: &[],
        workspace: workspace.as_mut_ptr(),
    };
    // SAFETY: as above; the workspace has the bytes that were asked for.
    unsafe { backward(isa, &call) };
    [out.values(), lse, d_q.values(), d_k.values(), d_v.values()]
}

/// Scores of a few units are rounded some ten times on their way.
const TOLERANCE: f64 = 3e-6;
const NAMES: [&str; 5] = ["out", "lse", "d_q", "d_k", "d_v"];

fn compare(label: &str, found: &[Vec<f32>; 5], expected: &Results, tolerance: f64) {
    for (i, name) in NAMES.iter().enumerate() {
        let (found, expected, size) = (&found[i], &expected.values[i], expected.sizes[i]);
        assert_eq!(found.len(), expected.len(), "{label}: {name}");
        for (j, (&f, &e)) in found.iter().zip(expected).enumerate() {
            let error = (f64::from(f) - e).abs();
            let fits = f64::from(f) == e || error <= tolerance * size;
            assert!(fits, "{label}: {name}[{j}] is {f}, expected {e} (terms of {size})");
        }
    }
}

fn check(case: &Case) {
    let mut inputs = case.random_inputs();
    let expected = naive(case, &inputs);
    for isa in Isa::under_test().unwrap() {
        let found = computed(isa, case, &mut inputs);
        compare(&format!("{isa} {case:?}"), &found, &expected, TOLERANCE);
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
        assert!(expected.values[1].iter().any(|lse| *lse > 5e3), "scores are large");
        for isa in Isa::under_test().unwrap() {
            let found = computed(isa, &case, &mut inputs);
            // The log-sum-exp is rounded at 1e4: its half ulp is what p is off by.
            compare(&format!("{isa} sign {sign}"), &found, &expected, 1e-3);
            compare_forward(&found, &expected);
        }
    }
}

fn compare_forward(found: &[Vec<f32>; 5], expected: &Results) {
    for (&f, &e) in found[0].iter().zip(&expected.values[0]) {
        assert!((f64::from(f) - e).abs() <= 1e-5, "out is {f}, expected {e}");
    }
}

#[test]
fn threads_change_no_bit() {
    for heads in [[1, 1, 1], [1, 4, 2], [2, 8, 4]] {
        for causal in [false, true] {
            let case = Case::new(heads, [200, 300, 40], causal);
            let run = |threads| {
                let team = Team::new(threads).expect("threads");
                let mut inputs = case.random_inputs();
                team.install(|| computed(Isa::from_env().unwrap(), &case, &mut inputs))
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

fn numbers(array: &Value) -> Vec<f32> {
    let data = array["data"].as_array().expect("an array's data");
    data.iter().map(|x| x.as_f64().unwrap_or(f64::NEG_INFINITY) as f32).collect()
}

fn extents(array: &Value) -> [usize; 4] {
    let shape = array["shape"].as_array().expect("an array's shape");
    let mut extents = [1; 4];
    for (to, n) in extents[4 - shape.len()..].iter_mut().zip(shape) {
        *to = n.as_u64().expect("an extent") as usize;
    }
    extents
}

/// The golden case's mask: its additive one, its padding or, where there are both, their sum.
fn golden_mask(inputs: &Value) -> TestMask {
    let mask = inputs.get("mask").map(|m| (extents(m), numbers(m)));
    let Some(padding) = inputs.get("padding") else {
        return mask.map_or(TestMask::None, |(extents, data)| TestMask::Additive(extents, data));
    };
    let [_, _, batch, keys] = extents(padding);
    let keep = numbers(padding);
    let Some((extents, mut data)) = mask else {
        let keep = keep.iter().map(|&x| x as u8).collect();
        return TestMask::Keep([batch, 1, 1, keys], keep);
    };
    for (i, x) in data.iter_mut().enumerate() {
        let row = i / (extents[1] * extents[2] * keys) * keys;
        if keep[row + i % keys] == 0.0 {
            *x = f32::NEG_INFINITY;
        }
    }
    TestMask::Additive(extents, data)
}

#[test]
fn pytorch_agrees() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/golden/verbs.json");
    let text = std::fs::read_to_string(path).expect("the golden file");
    let file: Value = serde_json::from_str(&text).expect("JSON");
    let rows = file["cases"].as_array().expect("cases").iter();
    let mut count = 0;
    // Rows with options that are no shape (windows, lengths, scores) name no sizes: the table of
    // cases and `golden_verbs` hold those.
    let plain = |row: &&Value| row["op"] == "attention" && row["attrs"]["batch"].is_u64();
    for row in rows.filter(plain) {
        let attrs = &row["attrs"];
        let size = |name: &str| attrs[name].as_u64().expect("a size") as usize;
        let case = Case {
            causal: attrs["causal"] == true,
            scale: attrs["scale"].as_f64().expect("a scale") as f32,
            mask: golden_mask(&row["inputs"]),
            ..Case::new(
                [size("batch"), size("heads"), size("kv_heads")],
                [size("q_len"), size("kv_len"), size("dim")],
                false,
            )
        };
        let held = |array: &Value| {
            let data = numbers(array);
            Held::filled(extents(array), Order::Plain, |i| data[i])
        };
        let (inputs, gradients) = (&row["inputs"], &row["gradients"]);
        let arrays = [&inputs["q"], &inputs["k"], &inputs["v"], &row["upstream"]["out"]];
        let mut held = arrays.map(held);
        let outputs = [&row["outputs"]["out"], &row["outputs"]["log_sum_exp"]];
        let golden = outputs.into_iter().chain(["q", "k", "v"].map(|name| &gradients[name]));
        let golden: Vec<Vec<f32>> = golden.map(numbers).collect();
        for isa in Isa::under_test().unwrap() {
            let found = computed(isa, &case, &mut held);
            for ((name, found), golden) in NAMES.iter().zip(&found).zip(&golden) {
                for (f, g) in found.iter().zip(golden) {
                    let fits = f == g || (f - g).abs() <= 2e-6 * g.abs().max(1.0);
                    assert!(fits, "{isa} {}: {name} is {f}, PyTorch has {g}", attrs["case"]);
                }
            }
        }
        count += 1;
    }
    assert!(count >= 13, "{count} golden rows of attention");
}
