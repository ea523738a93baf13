//! Reductions and row verbs: the table of cases as it is planned for silicon, more rows than a
//! dispatch has on a side, bits that do not change from run to run, and targets that are no class.

use starling_conformance::{Case, Tier, Verdict, cases, run};
use starling_contract::{
    Backend, CrossEntropy, CrossEntropyBackward, DType, Error, Norm, NormBackward, NormKind,
    Program, Reduce, ReduceKind, Stream, Verb, View,
};
use starling_ops::program::{Builder, NodeId, Op};
use starling_webgpu::{Options, WebGpuBackend};
use std::sync::Arc;

const OPS: [&str; 17] = [
    "sum",
    "mean",
    "max",
    "min",
    "argmax",
    "argmin",
    "var",
    "softmax",
    "softmax_backward",
    "log_softmax",
    "log_softmax_backward",
    "layer_norm",
    "layer_norm_backward",
    "rms_norm",
    "rms_norm_backward",
    "cross_entropy",
    "cross_entropy_backward",
];

fn open(variant: &str, checked: bool, hardware: bool) -> Arc<dyn Backend> {
    let options = Options { variant: Some(variant.parse().unwrap()), checked, hardware };
    WebGpuBackend::with(0, options).unwrap()
}

fn passes(backend: &Arc<dyn Backend>, tier: Tier, wanted: impl Fn(&Case) -> bool) {
    let mut table = cases(tier);
    table.retain(|c| OPS.contains(&c.op.as_str()) && wanted(c));
    let mut failures = Vec::new();
    let summary = run(backend, &table, None, &mut |case, verdict| {
        if let Verdict::Failed { message, .. } = verdict {
            failures.push(format!("{}: {message}", case.title()));
        }
    });
    assert!(failures.is_empty(), "{} failed:\n{}", failures.len(), failures.join("\n"));
    assert!(summary.passed > 0, "nothing ran");
}

/// Workgroups of many invocations, which meet at barriers.
#[test]
fn planned_for_silicon() {
    passes(&open("plain", false, true), Tier::Quick, |_| true);
}

/// Several subgroups in a workgroup.
#[test]
fn planned_for_silicon_with_subgroups() {
    passes(&open("subgroup", true, true), Tier::Quick, |_| true);
}

/// Reductions in two stages and rows of many blocks.
#[test]
fn long_rows() {
    let long = |c: &Case| {
        let shapes = ["[1000003] axes 0b1 Positive", "[70001, 5] axes 0b1 Ties", "[2, 70000] Ord"];
        shapes.iter().any(|s| c.name.contains(s))
    };
    for (variant, hardware) in [("plain", false), ("subgroup", true)] {
        passes(&open(variant, false, hardware), Tier::Full, long);
    }
}

/// A backend with its stream.
struct Device(Arc<dyn Backend>, Box<dyn Stream>);

impl Device {
    fn new(variant: &str, hardware: bool) -> Self {
        let backend = open(variant, false, hardware);
        let stream = backend.stream().unwrap();
        Self(backend, stream)
    }

    fn words(&self, dtype: DType, shape: &[usize], word: impl Fn(usize) -> u32) -> View {
        let len: usize = shape.iter().product();
        let view = View::contiguous(self.0.alloc(len * 4).unwrap(), dtype, shape);
        let bytes: Vec<u8> = (0..len).flat_map(|i| word(i).to_ne_bytes()).collect();
        self.1.upload(&bytes, &view).unwrap();
        view
    }

    fn reals(&self, shape: &[usize], real: impl Fn(usize) -> f32) -> View {
        self.words(DType::F32, shape, |i| real(i).to_bits())
    }

    /// Numbers in [-1, 1) without a pattern.
    fn random(&self, shape: &[usize]) -> View {
        let bits = |i: usize| (i as u32).wrapping_mul(0x9e37_79b9) ^ (i as u32 >> 7);
        self.reals(shape, |i| bits(i).wrapping_mul(0x85eb_ca6b) as i32 as f32 / 2f32.powi(31))
    }

    fn submit(&self, verb: impl Into<Verb>) {
        let mut verb = verb.into();
        let bytes = self.0.workspace_bytes(&verb);
        if bytes > 0 {
            let view = View::contiguous(self.0.alloc(bytes).unwrap(), DType::F32, &[bytes / 4]);
            *verb.workspace_mut().unwrap() = Some(view);
        }
        self.1.submit(&verb.check().unwrap()).unwrap();
    }

    fn download(&self, view: &View) -> Result<Vec<f32>, Error> {
        let mut bytes = vec![0; view.len() * 4];
        pollster::block_on(self.1.download(view, &mut bytes))?;
        let word = |b: &[u8]| f32::from_ne_bytes([b[0], b[1], b[2], b[3]]);
        Ok(bytes.chunks_exact(4).map(word).collect())
    }
}

fn sum(x: &View, axes: u32, output: &View) -> Reduce {
    let (program, inputs, output) =
        (Arc::new(Program::identity()), vec![x.clone()], output.clone());
    let (params, immediates, workspace) = (Vec::new(), Default::default(), None);
    Reduce { kind: ReduceKind::Sum, program, params, immediates, inputs, axes, output, workspace }
}

#[test]
fn rows_beyond_the_side_of_a_dispatch() {
    // 64 rows to a workgroup make 67,188 of them.
    let (device, rows) = (Device::new("plain", false), 4_300_000);
    let (x, y) = (device.random(&[rows, 1]), device.reals(&[rows, 1], |_| 0.0));
    let (kind, eps, rstd) = (NormKind::Rms, 0.25, device.reals(&[rows], |_| 0.0));
    let (weight, bias, mean) = (None, None, None);
    device.submit(Norm { kind, x: x.clone(), weight, bias, eps, y: y.clone(), mean, rstd });
    let (x, y) = (device.download(&x).unwrap(), device.download(&y).unwrap());
    let right = |x: f32| x / (x * x + eps).sqrt();
    let wrong = x.iter().zip(&y).position(|(&x, &y)| (y - right(x)).abs() > 1e-6);
    assert_eq!(wrong, None);
}

#[test]
fn the_same_bits_each_time() {
    for (variant, hardware) in [("plain", false), ("subgroup", true)] {
        let device = Device::new(variant, hardware);
        let (rows, n) = (3001, 96);
        let (x, d_y) = (device.random(&[rows, n]), device.random(&[rows, n]));
        let vector = || device.reals(&[n], |_| 1.0);
        let column = || device.reals(&[rows], |_| 0.0);
        let once = || {
            let (y, d_x) = (device.reals(&[rows, n], |_| 0.0), device.reals(&[rows, n], |_| 0.0));
            let (mean, rstd, d_weight, d_bias) = (column(), column(), vector(), vector());
            let all = device.reals(&[1, 1], |_| 0.0);
            let (kind, eps, weight) = (NormKind::Layer, 1e-5, Some(vector()));
            let (m, r, w) = (Some(mean.clone()), rstd.clone(), weight.clone());
            let (x_, y_) = (x.clone(), y.clone());
            device.submit(Norm {
                kind,
                x: x_,
                weight: w,
                bias: None,
                eps,
                y: y_,
                mean: m,
                rstd: r,
            });
            device.submit(NormBackward {
                kind,
                x: x.clone(),
                weight,
                mean: Some(mean),
                rstd,
                d_y: d_y.clone(),
                d_x: d_x.clone(),
                d_weight: Some(d_weight.clone()),
                d_bias: Some(d_bias.clone()),
                workspace: None,
            });
            device.submit(sum(&x, 0b11, &all));
            [y, d_x, d_weight, d_bias, all].map(|view| device.download(&view).unwrap())
        };
        let bits = |all: [Vec<f32>; 5]| all.map(|x| x.into_iter().map(f32::to_bits).collect());
        let first: [Vec<u32>; 5] = bits(once());
        assert!(first.iter().all(|x| x.iter().any(|&bits| bits != 0)), "there are results");
        for _ in 0..3 {
            assert!(first == bits(once()), "{variant}: bits changed");
        }
    }
}

#[test]
fn a_target_that_is_no_class_is_an_error_and_no_loss() {
    let device = Device::new("plain", false);
    let logits = device.random(&[3, 5]);
    let targets = device.words(DType::I32, &[3], |row| [1, 7, 4][row]);
    let (losses, lse) = (device.reals(&[3], |_| f32::NAN), device.reals(&[3], |_| f32::NAN));
    let of = |targets: &View| CrossEntropy {
        logits: logits.clone(),
        targets: targets.clone(),
        ignore_index: None,
        losses: losses.clone(),
        lse: lse.clone(),
    };
    device.submit(of(&targets));
    let error = pollster::block_on(device.1.sync()).unwrap_err();
    assert!(matches!(error, Error::Index { op: "cross_entropy", index: 7, bound: 5 }), "{error:?}");
    let found = device.download(&losses).unwrap();
    assert!(found[0] > 0.0 && found[1] == 0.0 && found[2] > 0.0, "{found:?}");
    let negative = device.words(DType::I32, &[3], |row| [1, u32::MAX, 4][row]);
    let d_logits = device.reals(&[3, 5], |_| f32::NAN);
    device.submit(CrossEntropyBackward {
        logits: logits.clone(),
        targets: negative,
        ignore_index: None,
        lse,
        d_losses: device.reals(&[3], |_| 1.0),
        d_logits: d_logits.clone(),
    });
    let error = device.download(&d_logits).unwrap_err();
    assert!(
        matches!(error, Error::Index { op: "cross_entropy_backward", index: -1, bound: 5 }),
        "{error:?}"
    );
    let found = device.download(&d_logits).unwrap();
    assert!(found[5..10].iter().all(|&d| d == 0.0), "{found:?}");
    assert!(found[..5].iter().chain(&found[10..]).all(|&d| d != 0.0 && d.is_finite()));
}

#[test]
fn more_inputs_than_a_dispatch_binds() {
    let (device, n) = (Device::new("plain", false), 10);
    let add = |b: &mut Builder| {
        let inputs: Vec<NodeId> = (0..n).map(|i| b.put(Op::Input(i), &[])).collect();
        vec![inputs[1..].iter().fold(inputs[0], |sum, &x| b.put(Op::Add, &[sum, x]))]
    };
    let inputs: Vec<View> = (0..n).map(|i| device.reals(&[3, 5], |_| f32::from(i))).collect();
    let output = device.reals(&[3, 1], |_| 0.0);
    let mut verb = sum(&inputs[0], 0b10, &output);
    (verb.program, verb.inputs) = (Arc::new(Program::build(add)), inputs);
    device.submit(verb);
    assert_eq!(device.download(&output).unwrap(), [225.0; 3]);
}

#[test]
fn missing_working_memory_is_an_error() {
    let device = Device::new("plain", false);
    let (x, all) = (device.random(&[100_000]), device.reals(&[1], |_| 0.0));
    let verb = Verb::from(sum(&x, 0b1, &all)).check().unwrap();
    assert!(device.0.workspace_bytes(&verb) > 0);
    assert!(matches!(device.1.submit(&verb), Err(Error::Shape { op: "reduce", .. })));
}
