//! Backward verbs against finite differences of their forwards, both by the reference in f64.
//!
//! Inputs are multiples of 2^-8 and steps 2^-9 and 2^-10, so that every shifted input is exact in
//! f32; Richardson's extrapolation of the two central differences leaves an error of the order of
//! the fourth power of the step. A backward verb reads what its forward saved in f32, which is
//! the larger error: the allowance is 32 u of the largest gradient.

use starling_conformance::{Array, Place};
use starling_contract::{
    Attention, AttentionBackward, CrossEntropy, CrossEntropyBackward, DType, Gather, Gemm, Norm,
    NormBackward, NormKind, Program, Reduce, ReduceKind, ScatterAdd, Sight, Softmax,
    SoftmaxBackward, Verb, View,
};
use starling_ops::philox::HostStream;
use starling_reference::memory::{read, write};
use starling_reference::{evaluate, execute};
use std::sync::Arc;

const STEP: f64 = 1.0 / 512.0;

/// Multiples of 2^-8 in [-2, 2).
fn random(shape: &[usize], seed: u64) -> View {
    let mut stream = HostStream::seeded(seed, 0);
    let draw = |_| (f64::from(stream.below(1024)) - 512.0) / 256.0;
    Array::new(DType::F32, shape, Place::Contiguous, draw).on_host().expect("host memory")
}

fn zeros(shape: &[usize]) -> View {
    Array::new(DType::F32, shape, Place::Contiguous, |_| 0.0).on_host().expect("host memory")
}

fn integers(values: &[i64], dtype: DType) -> View {
    let value = |i: usize| values[i] as f64;
    let array = Array::new(dtype, &[values.len()], Place::Contiguous, value);
    array.on_host().expect("host memory")
}

fn eval(verb: impl Into<Verb>) -> Vec<Vec<f64>> {
    evaluate(&verb.into()).expect("a verb")
}

fn run(verb: impl Into<Verb>) {
    execute(&verb.into()).expect("a verb");
}

/// The derivative of `upstream . forward()[0]` by every element of `x`.
fn differences(x: &View, upstream: &View, forward: &dyn Fn() -> Vec<f64>) -> Vec<f64> {
    let weights = read(upstream).expect("host memory");
    let start = read(x).expect("host memory");
    let value = |i: usize, step: f64| {
        let mut shifted = start.clone();
        shifted[i] += step;
        write(x, &shifted).expect("host memory");
        forward().iter().zip(&weights).map(|(y, w)| y * w).sum::<f64>()
    };
    let central = |i: usize, step: f64| (value(i, step) - value(i, -step)) / (2.0 * step);
    let slope = |i: usize| (4.0 * central(i, STEP / 2.0) - central(i, STEP)) / 3.0;
    let slopes = (0..start.len()).map(slope).collect();
    write(x, &start).expect("host memory");
    slopes
}

fn compare(what: &str, exact: &[f64], numeric: &[f64]) {
    assert_eq!(exact.len(), numeric.len(), "{what}");
    let largest = exact.iter().fold(0.0f64, |m, x| m.max(x.abs()));
    assert!(largest > 1e-3, "{what}: the gradient vanishes");
    for (i, (a, b)) in exact.iter().zip(numeric).enumerate() {
        let allowed = 32.0 / 16_777_216.0 * largest;
        assert!((a - b).abs() <= allowed, "{what}[{i}]: {a} and not {b}");
    }
}

#[test]
fn gemm_is_differentiated_by_products() {
    let (a, b, g) = (random(&[2, 3, 4], 1), random(&[2, 4, 5], 2), random(&[2, 3, 5], 3));
    let gemm = |a: &View, b: &View, shape: &[usize]| {
        let (a, b, c) = (a.clone(), b.clone(), zeros(shape));
        eval(Gemm { a, b, c, alpha: 0.75, beta: 0.0, epilogue: None, workspace: None })
            .swap_remove(0)
    };
    let turned = |x: &View| x.with(x.layout.permute(&[0, 2, 1]));
    let forward = || gemm(&a, &b, &[2, 3, 5]);
    compare("d_a", &gemm(&g, &turned(&b), &[2, 3, 4]), &differences(&a, &g, &forward));
    compare("d_b", &gemm(&turned(&a), &g, &[2, 4, 5]), &differences(&b, &g, &forward));
}

fn check_attention(heads: usize, kv_heads: usize, causal: bool, mask: Option<View>) {
    let (q, keys) = ([2, heads, 3, 4], [2, kv_heads, 5, 4]);
    let forward = Attention {
        q: random(&q, 1),
        k: random(&keys, 2),
        v: random(&keys, 3),
        mask,
        sight: Sight { causal, ..Sight::default() },
        scale: 0.5,
        score: None,
        dropout: None,
        out: zeros(&q),
        lse: zeros(&q[..3]),
    };
    let d_out = random(&q, 4);
    run(forward.clone());
    let backward = AttentionBackward {
        forward: forward.clone(),
        d_out: d_out.clone(),
        d_q: zeros(&q),
        d_k: zeros(&keys),
        d_v: zeros(&keys),
        d_mask: None,
        d_inputs: vec![],
        workspace: None,
    };
    let exact = eval(backward);
    let out = || eval(forward.clone()).swap_remove(0);
    for (i, x) in [&forward.q, &forward.k, &forward.v].into_iter().enumerate() {
        let name = format!("attention {heads}:{kv_heads} causal {causal} input {i}");
        compare(&name, &exact[i], &differences(x, &d_out, &out));
    }
}

#[test]
fn attention() {
    check_attention(2, 2, false, None);
    check_attention(2, 2, true, None);
    check_attention(4, 2, true, None);
    check_attention(2, 1, false, Some(random(&[2, 2, 3, 5], 9)));
    // The first query of each head sees nothing, the others all but one key.
    let keep = |i: usize| f64::from(u8::from([1, 2].contains(&(i / 5 % 3)) && i % 4 != 1));
    let kept = Array::new(DType::U8, &[2, 2, 3, 5], Place::Contiguous, keep);
    check_attention(2, 2, false, Some(kept.on_host().expect("host memory")));
}

#[test]
fn softmax_and_its_logarithm() {
    for log in [false, true] {
        let (x, d_y) = (random(&[3, 7], 1), random(&[3, 7], 2));
        let forward = Softmax { x: x.clone(), y: zeros(&[3, 7]), log };
        run(forward.clone());
        let (y, d_x) = (forward.y.clone(), zeros(&[3, 7]));
        let exact = eval(SoftmaxBackward { y, d_y: d_y.clone(), d_x, log });
        let values = || eval(forward.clone()).swap_remove(0);
        compare(&format!("softmax, log {log}"), &exact[0], &differences(&x, &d_y, &values));
    }
}

#[test]
fn norms() {
    for (kind, weighted) in [
        (NormKind::Layer, true),
        (NormKind::Layer, false),
        (NormKind::Rms, true),
        (NormKind::Rms, false),
    ] {
        let (x, d_y) = (random(&[3, 6], 1), random(&[3, 6], 2));
        let layer = kind == NormKind::Layer;
        let forward = Norm {
            kind,
            x: x.clone(),
            weight: weighted.then(|| random(&[6], 3)),
            bias: (weighted && layer).then(|| random(&[6], 4)),
            eps: 0.01,
            y: zeros(&[3, 6]),
            mean: layer.then(|| zeros(&[3])),
            rstd: zeros(&[3]),
        };
        run(forward.clone());
        let backward = NormBackward {
            kind,
            x: x.clone(),
            weight: forward.weight.clone(),
            mean: forward.mean.clone(),
            rstd: forward.rstd.clone(),
            d_y: d_y.clone(),
            d_x: zeros(&[3, 6]),
            d_weight: forward.weight.as_ref().map(|_| zeros(&[6])),
            d_bias: forward.bias.as_ref().map(|_| zeros(&[6])),
            workspace: None,
        };
        let exact = eval(backward);
        let values = || eval(forward.clone()).swap_remove(0);
        let inputs = [Some(x), forward.weight.clone(), forward.bias.clone()];
        for (i, x) in inputs.iter().flatten().enumerate() {
            let name = format!("{kind:?} input {i}");
            compare(&name, &exact[i], &differences(x, &d_y, &values));
        }
    }
}

#[test]
fn cross_entropy() {
    let (logits, d_losses) = (random(&[4, 5], 1), random(&[4], 2));
    let forward = CrossEntropy {
        logits: logits.clone(),
        targets: integers(&[2, -100, 0, 4], DType::I32),
        ignore_index: Some(-100),
        losses: zeros(&[4]),
        lse: zeros(&[4]),
    };
    run(forward.clone());
    let backward = CrossEntropyBackward {
        logits: logits.clone(),
        targets: forward.targets.clone(),
        ignore_index: forward.ignore_index,
        lse: forward.lse.clone(),
        d_losses: d_losses.clone(),
        d_logits: zeros(&[4, 5]),
    };
    let exact = eval(backward);
    let losses = || eval(forward.clone()).swap_remove(0);
    compare("cross_entropy", &exact[0], &differences(&logits, &d_losses, &losses));
}

#[test]
fn gather_and_scatter_add_are_each_others_gradients() {
    let (table, g) = (random(&[4, 3], 1), random(&[5, 3], 2));
    let ids = integers(&[3, 0, 3, 1, 3], DType::I32);
    let index = ids.with(starling_contract::Layout::new(&[5, 3], &[1, 0], 0));
    let gather = |x: &View| {
        let (x, index, out) = (x.clone(), index.clone(), zeros(&[5, 3]));
        eval(Gather { x, index, axis: 0, out }).swap_remove(0)
    };
    let scatter = |x: &View| {
        let (x, index, out) = (x.clone(), index.clone(), zeros(&[4, 3]));
        eval(ScatterAdd { x, index, axis: 0, out, workspace: None }).swap_remove(0)
    };
    compare("gather", &scatter(&g), &differences(&table, &g, &|| gather(&table)));
    let (rows, g) = (random(&[5, 3], 3), random(&[4, 3], 4));
    compare("scatter_add", &gather(&g), &differences(&rows, &g, &|| scatter(&rows)));
}

/// The gradient of a sum is the upstream one repeated, of a mean its part, of an extremum the
/// upstream one where it is taken, of a variance `2 (x - mean) / (n - correction)` of it.
#[test]
fn reductions() {
    let (x, g) = (random(&[3, 6], 1), random(&[3, 1], 2));
    let (data, upstream) = (read(&x).expect("memory"), read(&g).expect("memory"));
    let reduce = |kind: ReduceKind| {
        let program = Arc::new(Program::identity());
        let (inputs, output) = (vec![x.clone()], zeros(&[3, 1]));
        eval(Reduce {
            kind,
            program,
            params: Vec::new(),
            immediates: Default::default(),
            inputs,
            workspace: None,
            axes: 0b10,
            output,
        })
        .swap_remove(0)
    };
    let mean = reduce(ReduceKind::Mean);
    let (max, min) = (reduce(ReduceKind::Max), reduce(ReduceKind::Min));
    let by = |slope: &dyn Fn(usize, f64) -> f64| -> Vec<f64> {
        let element = |(i, x): (usize, &f64)| upstream[i / 6] * slope(i / 6, *x);
        data.iter().enumerate().map(element).collect()
    };
    let taken = |x: f64, y: f64| f64::from(u8::from(x == y));
    for (kind, exact) in [
        (ReduceKind::Sum, by(&|_, _| 1.0)),
        (ReduceKind::Mean, by(&|_, _| 1.0 / 6.0)),
        (ReduceKind::Max, by(&|row, x| taken(x, max[row]))),
        (ReduceKind::Min, by(&|row, x| taken(x, min[row]))),
        (ReduceKind::Var { correction: 0 }, by(&|row, x| (x - mean[row]) / 3.0)),
        (ReduceKind::Var { correction: 1 }, by(&|row, x| (x - mean[row]) / 2.5)),
    ] {
        compare(&format!("{kind:?}"), &exact, &differences(&x, &g, &|| reduce(kind)));
    }
}
