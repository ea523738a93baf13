//! Reductions against plain loops in f64, and against themselves on other numbers of threads.

mod strides;

use super::*;
use crate::Team;
use starling_contract::{HostStorage, Kind, Layout, Verb, View};
use starling_ops::program::Op;
use starling_ops::{Program, philox::HostStream};
use std::sync::Arc;

fn view(x: &[f32], shape: &[usize], strides: &[isize], offset: usize) -> View {
    let storage = HostStorage::new(4 * x.len()).unwrap();
    // SAFETY: the storage is as long as the numbers and nobody else has it.
    unsafe { std::ptr::copy_nonoverlapping(x.as_ptr().cast(), storage.pointer(), 4 * x.len()) };
    View { storage, dtype: DType::F32, layout: Layout::new(shape, strides, offset) }
}

fn dense(x: &[f32], shape: &[usize]) -> View {
    view(x, shape, Layout::contiguous(shape).strides(), 0)
}

fn word(v: &View, at: usize) -> u32 {
    let p: *const u32 = HostStorage::of(v).unwrap().cast();
    // SAFETY: the position is inside the storage.
    unsafe { *p.add(v.layout.position(at)) }
}

fn verb(kind: ReduceKind, x: View, axes: u32) -> Reduce {
    let reduced = |i: usize| axes >> i & 1 == 1;
    let shape: Vec<usize> =
        x.shape().iter().enumerate().map(|(i, &n)| if reduced(i) { 1 } else { n }).collect();
    let mut output = dense(&vec![f32::NAN; shape.iter().product()], &shape);
    if matches!(kind, ReduceKind::ArgMax | ReduceKind::ArgMin) {
        output.dtype = DType::I32;
    }
    let program = Arc::new(Program::identity());
    let verb = Reduce {
        kind,
        program,
        params: vec![],
        immediates: Default::default(),
        inputs: vec![x],
        axes,
        output,
        workspace: None,
    };
    Verb::from(verb.clone()).check().unwrap();
    verb
}

fn checked(isa: Isa, verb: &Reduce) -> Result<()> {
    let checked = Verb::from(verb.clone()).check()?;
    let Kind::Reduce(verb) = checked.kind() else { unreachable!("a reduction stays one") };
    reduce(isa, verb)
}

/// The results' bits, the same ones on 1, 2 and 3 threads.
fn run(isa: Isa, verb: &Reduce) -> Vec<u32> {
    let mut all = [1, 2, 3].map(|threads| {
        Team::new(threads).unwrap().install(|| checked(isa, verb)).unwrap();
        (0..verb.output.len()).map(|i| word(&verb.output, i)).collect::<Vec<_>>()
    });
    assert!(all[0] == all[1] && all[0] == all[2], "{isa} {:?}", verb.kind);
    std::mem::take(&mut all[0])
}

const KINDS: [ReduceKind; 8] = [
    ReduceKind::Sum,
    ReduceKind::Mean,
    ReduceKind::Max,
    ReduceKind::Min,
    ReduceKind::ArgMax,
    ReduceKind::ArgMin,
    ReduceKind::Var { correction: 0 },
    ReduceKind::Var { correction: 1 },
];

/// The result of one group of numbers, and how far from it an f32 may be.
fn truth(kind: ReduceKind, x: &[f64]) -> (f64, f64) {
    let n = x.len() as f64;
    let sum: f64 = x.iter().sum();
    let size: f64 = x.iter().map(|x| x.abs()).sum();
    // The order of the first of the best, by plain comparison.
    let first = |sign: f64| {
        let mut best = 0;
        for i in 1..x.len() {
            if !x[best].is_nan() && (x[i].is_nan() || sign * x[i] > sign * x[best]) {
                best = i;
            }
        }
        best
    };
    match kind {
        ReduceKind::Sum => (sum, 40.0 * 2f64.powi(-24) * size),
        ReduceKind::Mean => (sum / n, 40.0 * 2f64.powi(-24) * size / n),
        ReduceKind::Max => (x[first(1.0)], 0.0),
        ReduceKind::Min => (x[first(-1.0)], 0.0),
        ReduceKind::ArgMax => (first(1.0) as f64, 0.0),
        ReduceKind::ArgMin => (first(-1.0) as f64, 0.0),
        ReduceKind::Var { correction } => {
            let squares: f64 = x.iter().map(|x| (x - sum / n).powi(2)).sum();
            let var = squares / (n - f64::from(correction)).max(0.0);
            (var, var * 1e-5)
        }
    }
}

fn check(kind: ReduceKind, x: View, axes: u32) {
    let (shape, rank) = (x.shape().to_vec(), x.shape().len());
    let verb = verb(kind, x, axes);
    let mut groups = vec![Vec::new(); verb.output.len()];
    for i in 0..verb.inputs[0].len() {
        let (mut rest, mut at, mut step) = (i, 0, 1);
        for axis in (0..rank).rev() {
            if axes >> axis & 1 == 0 {
                at += rest % shape[axis] * step;
                step *= shape[axis];
            }
            rest /= shape[axis];
        }
        groups[at].push(f64::from(f32::from_bits(word(&verb.inputs[0], i))));
    }
    for isa in Isa::under_test().unwrap() {
        for (i, (&bits, group)) in run(isa, &verb).iter().zip(&groups).enumerate() {
            let position = verb.output.dtype == DType::I32;
            let got = if position { f64::from(bits) } else { f64::from(f32::from_bits(bits)) };
            let (expected, allowed) = truth(kind, group);
            let good = (got - expected).abs() <= allowed
                || got == expected
                || (got.is_nan() && expected.is_nan());
            assert!(
                good,
                "{kind:?} of {shape:?} strides {:?} over {axes:b} on {isa}, result {i}: {got} \
                 and not {expected}",
                verb.inputs[0].layout.strides()
            );
        }
    }
}

fn normal(n: usize, seed: u64) -> Vec<f32> {
    let mut stream = HostStream::seeded(seed, 0);
    (0..n).map(|_| stream.normal()).collect()
}

#[test]
fn every_kind_over_every_axis_of_every_layout() {
    let x = normal(12_000, 1);
    let layouts: [(&[usize], &[isize], usize); 9] = [
        (&[7, 5, 11], &[55, 11, 1], 0),
        (&[3, 1200], &[1200, 1], 0),
        (&[1100, 10], &[10, 1], 0),
        (&[10, 1100], &[1, 10], 0),
        (&[40, 17], &[0, 1], 3),
        (&[5, 6, 7], &[-42, 7, -1], 300),
        (&[2, 3, 2, 4, 5], &[120, 40, 20, 5, 1], 0),
        (&[1, 1], &[1, 1], 9),
        (&[33, 1], &[1, 1], 0),
    ];
    for (shape, strides, offset) in layouts {
        for axes in 0..1u32 << shape.len() {
            for kind in KINDS {
                check(kind, view(&x, shape, strides, offset), axes);
            }
        }
    }
}

#[test]
fn long_reductions_cross_every_boundary() {
    for n in [1023, 1025, 16_385, 70_001, 300_000] {
        for kind in KINDS {
            check(kind, dense(&normal(n, 2), &[n]), 1);
        }
    }
    let x = normal(600 * 500, 3);
    for kind in KINDS {
        check(kind, dense(&x, &[600, 500]), 1);
        check(kind, dense(&x, &[600, 500]), 2);
        check(kind, dense(&x, &[4, 75_000]), 1);
        check(kind, dense(&x, &[4, 75_000]), 2);
    }
}

#[test]
fn a_large_mean_does_not_cancel_the_variance() {
    let n = 100_000;
    let x: Vec<f32> = normal(n, 4).iter().map(|z| 1e4 + 1e-2 * z).collect();
    for kind in [ReduceKind::Var { correction: 0 }, ReduceKind::Mean] {
        check(kind, dense(&x, &[n]), 1);
        check(kind, dense(&x, &[n / 10, 10]), 1);
        check(kind, dense(&x, &[n / 10, 10]), 2);
    }
}

#[test]
fn errors_of_sums_do_not_grow_with_their_length() {
    let n = 1 << 22;
    let verb = verb(ReduceKind::Sum, dense(&vec![0.1; n], &[n]), 1);
    for isa in Isa::under_test().unwrap() {
        let got = f64::from(f32::from_bits(run(isa, &verb)[0]));
        let exact = f64::from(0.1f32) * n as f64;
        assert!((got - exact).abs() <= 64.0 * 2f64.powi(-24) * exact, "{isa}: {got}, {exact}");
    }
}

#[test]
fn nan_wins_and_the_first_of_equals_is_found() {
    let mut x = normal(5000, 5);
    x[4000] = 9.0;
    x[4500] = 9.0;
    x[700] = -9.0;
    for kind in KINDS {
        check(kind, dense(&x, &[5000]), 1);
        check(kind, dense(&x, &[250, 20]), 1);
    }
    x[4700] = f32::NAN;
    x[4701] = f32::NAN;
    x[3] = f32::INFINITY;
    for kind in KINDS {
        check(kind, dense(&x, &[5000]), 1);
        check(kind, dense(&x, &[250, 20]), 1);
        check(kind, dense(&x, &[250, 20]), 2);
        check(kind, dense(&vec![f32::NEG_INFINITY; 3000], &[3000]), 1);
        check(kind, dense(&vec![f32::NEG_INFINITY; 3000], &[60, 50]), 1);
    }
}

#[test]
fn nothing_has_the_stated_results() {
    for (kind, expected) in [
        (ReduceKind::Sum, 0.0),
        (ReduceKind::Mean, f32::NAN),
        (ReduceKind::Max, f32::NEG_INFINITY),
        (ReduceKind::Min, f32::INFINITY),
        (ReduceKind::Var { correction: 1 }, f32::NAN),
    ] {
        let verb = verb(kind, dense(&[], &[3, 0]), 2);
        checked(Isa::from_env().unwrap(), &verb).unwrap();
        for i in 0..3 {
            let got = f32::from_bits(word(&verb.output, i));
            assert!(got == expected || (got.is_nan() && expected.is_nan()), "{kind:?}: {got}");
        }
    }
    let mut none = verb(ReduceKind::Sum, dense(&[], &[3, 0]), 2);
    none.kind = ReduceKind::ArgMax;
    none.output.dtype = DType::I32;
    assert!(checked(Isa::from_env().unwrap(), &none).is_err());
}

#[test]
fn a_fused_program_is_reduced_like_its_values() {
    // sum((x * x + index)) with a broadcast input and the element's index.
    let (m, n) = (37, 1500);
    let x = normal(m * n, 6);
    let program = Program::build(|b| {
        let x = b.put(Op::Input(0), &[]);
        let y = b.put(Op::Input(1), &[]);
        let index = b.put(Op::Index, &[]);
        let index = b.put(Op::ToReal, &[index]);
        let square = b.put(Op::Mul, &[x, y]);
        vec![b.put(Op::Add, &[square, index])]
    });
    let bias = normal(n, 7);
    for axes in [1, 2, 3] {
        let mut verb = verb(ReduceKind::Sum, dense(&x, &[m, n]), axes);
        verb.program = Arc::new(program.clone());
        verb.inputs.push(view(&bias, &[m, n], &[0, 1], 0));
        let mut expected = vec![0.0f64; verb.output.len()];
        for i in 0..m * n {
            let value = f64::from(x[i]) * f64::from(bias[i % n]) + i as f64;
            expected[[0, i % n, i / n, 0][axes as usize]] += value;
        }
        for isa in Isa::under_test().unwrap() {
            for (got, e) in run(isa, &verb).into_iter().zip(&expected) {
                let got = f64::from(f32::from_bits(got));
                assert!((got - e).abs() <= 1e-6 * e.abs(), "{isa} {axes:b}: {got} and not {e}");
            }
        }
    }
}
