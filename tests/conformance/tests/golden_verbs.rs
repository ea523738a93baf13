//! The reference's verbs and their gradients against PyTorch in float64 (tests/golden/verbs.json).
//!
//! Inputs are exact in f32, so values agree to f64's accuracy. A backward verb reads what its
//! forward saved in f32 (log-sum-exp, means, results), so gradients agree to a few of its
//! roundings.

use serde_json::Value;
use starling_conformance::{Array, Place};
use starling_contract::{
    Attention, AttentionBackward, BlockMask, CrossEntropy, CrossEntropyBackward, DType, Gather,
    Gemm, Layout, Lengths, Norm, NormBackward, NormKind, Program, Reduce, ReduceKind, ScatterAdd,
    Score, Sight, Softmax, SoftmaxBackward, Verb, View,
};
use starling_ops::program::Builder;
use starling_ops::{Math, Trace};
use starling_reference::{evaluate, execute};
use std::cell::RefCell;
use std::sync::Arc;

const U: f64 = 1.0 / 16_777_216.0;

/// An array of the file.
#[derive(Clone, Debug)]
struct Tensor {
    shape: Vec<usize>,
    data: Vec<f64>,
}

impl Tensor {
    fn read(x: &Value) -> Self {
        let number = |x: &Value| match x.as_str() {
            Some("nan") => f64::NAN,
            Some("inf") => f64::INFINITY,
            Some("-inf") => f64::NEG_INFINITY,
            _ => x.as_f64().expect("a number"),
        };
        let array = |x: &Value| x.as_array().expect("an array").clone();
        let shape = array(&x["shape"]).into_iter().map(|n| n.as_u64().expect("an extent") as usize);
        Self { shape: shape.collect(), data: array(&x["data"]).iter().map(number).collect() }
    }

    fn view(&self, dtype: DType) -> View {
        let array = Array::new(dtype, &self.shape, Place::Contiguous, |i| self.data[i]);
        array.on_host().expect("host memory")
    }
}

fn zeros(shape: &[usize]) -> View {
    Array::new(DType::F32, shape, Place::Contiguous, |_| 0.0).on_host().expect("host memory")
}

/// A case of the file.
struct Case(Value);

impl Case {
    fn tensor(&self, group: &str, name: &str) -> Option<Tensor> {
        self.0[group].get(name).map(Tensor::read)
    }

    fn input(&self, name: &str) -> View {
        self.tensor("inputs", name).expect("an input").view(DType::F32)
    }

    fn upstream(&self) -> View {
        self.tensor("upstream", "out").expect("an upstream gradient").view(DType::F32)
    }

    fn attr(&self, name: &str) -> f64 {
        self.0["attrs"][name].as_f64().expect("a number")
    }

    fn title(&self) -> String {
        format!("{} {}", self.0["op"].as_str().expect("a name"), self.0["attrs"])
    }

    /// Compares numbers with a golden array, relative to its largest.
    fn same(&self, group: &str, name: &str, ours: &[f64], relative: f64) {
        let golden = self.tensor(group, name).expect("a golden array").data;
        assert_eq!(ours.len(), golden.len(), "{} {name}", self.title());
        let finite = golden.iter().filter(|x| x.is_finite());
        let largest = finite.fold(0.0f64, |m, x| m.max(x.abs()));
        for (i, (ours, golden)) in ours.iter().zip(&golden).enumerate() {
            let equal = ours == golden || (ours.is_nan() && golden.is_nan());
            assert!(
                equal || (ours - golden).abs() <= relative * largest,
                "{} {group} {name}[{i}]: {golden} and not {ours}",
                self.title()
            );
        }
    }

    fn value(&self, name: &str, ours: &[f64]) {
        self.same("outputs", name, ours, 1e-13);
    }

    fn gradient(&self, name: &str, ours: &[f64]) {
        self.same("gradients", name, ours, 32.0 * U);
    }
}

fn eval(verb: impl Into<Verb>) -> Vec<Vec<f64>> {
    evaluate(&verb.into()).expect("a verb")
}

fn transposed(view: &View) -> View {
    let rank = view.shape().len();
    let mut axes: Vec<usize> = (0..rank).collect();
    axes.swap(rank - 1, rank - 2);
    view.with(view.layout.permute(&axes))
}

fn gemm(case: &Case) {
    let layout = case.0["attrs"]["layout"].as_str().expect("a layout");
    let turn = |x: View, t: char| if t == 't' { transposed(&x) } else { x };
    let mut letters = layout.chars();
    let a = turn(case.input("a"), letters.next().expect("nn"));
    let b = turn(case.input("b"), letters.next().expect("nn"));
    let (alpha, beta) = (case.attr("alpha") as f32, case.attr("beta") as f32);
    let g = case.upstream();
    let c = match case.tensor("inputs", "c") {
        Some(c) => c.view(DType::F32),
        None => zeros(g.shape()),
    };
    let plain = |a: &View, b: &View, c: View, alpha: f32, beta: f32| {
        let (a, b) = (a.clone(), b.clone());
        eval(Gemm { a, b, c, alpha, beta, epilogue: None, workspace: None }).swap_remove(0)
    };
    case.value("out", &plain(&a, &b, c, alpha, beta));
    // The gradients are products too: d_a = alpha g b^T and d_b = alpha a^T g, turned as a and b.
    let stored = |t: char, like: &View, first: &View, second: &View| {
        let (first, second, like) = match t {
            't' => (transposed(second), transposed(first), transposed(like)),
            _ => (first.clone(), second.clone(), like.clone()),
        };
        plain(&first, &second, zeros(like.shape()), alpha, 0.0)
    };
    let t: Vec<char> = layout.chars().collect();
    case.same("gradients", "a", &stored(t[0], &a, &g, &transposed(&b)), 1e-13);
    case.same("gradients", "b", &stored(t[1], &b, &transposed(&a), &g), 1e-13);
}

/// One f32 mask that says what the additive mask and the padding of a case say.
fn mask(case: &Case, shape: [usize; 4]) -> Option<View> {
    let added = case.tensor("inputs", "mask");
    let padding = case.tensor("inputs", "padding");
    let broadcast = |t: &Tensor, middle: bool| {
        let shaped = if middle {
            Layout::contiguous(&[t.shape[0], 1, 1, t.shape[1]])
        } else {
            Layout::contiguous(&t.shape)
        };
        shaped.broadcast_to(&shape).expect("a mask that broadcasts")
    };
    match (added, padding) {
        (None, None) => None,
        (Some(mask), None) => {
            let view = mask.view(DType::F32);
            Some(view.with(broadcast(&mask, false)))
        }
        (None, Some(padding)) => {
            let view = padding.view(DType::U8);
            Some(view.with(broadcast(&padding, true)))
        }
        (Some(mask), Some(padding)) => {
            let (a, b) = (broadcast(&mask, false), broadcast(&padding, true));
            let both = Array::new(DType::F32, &shape, Place::Contiguous, |i| {
                let exists = padding.data[b.position(i)] != 0.0;
                if exists { mask.data[a.position(i)] } else { f64::NEG_INFINITY }
            });
            Some(both.on_host().expect("host memory"))
        }
    }
}

fn sight(case: &Case) -> Sight {
    let attrs = &case.0["attrs"];
    let whole = |name: &str| case.tensor("inputs", name).map(|t| t.view(DType::I32));
    let lengths = match (whole("lengths"), whole("query_starts"), whole("key_starts")) {
        (Some(lengths), ..) => Lengths::Keys(lengths),
        (_, Some(queries), Some(keys)) => Lengths::Packed { queries, keys },
        _ => Lengths::Full,
    };
    let blocks = case.tensor("inputs", "blocks").map(|keep| BlockMask {
        keep: keep.view(DType::U8),
        size: [case.attr("block_rows") as usize, case.attr("block_columns") as usize],
    });
    Sight {
        causal: attrs["causal"].as_bool().expect("a truth value"),
        window: attrs["window"].as_u64().map(|w| w as usize),
        lengths,
        blocks,
    }
}

/// The program that the case names, written again in these terms.
fn score(case: &Case, pairs: [usize; 4]) -> Option<Score> {
    let kind = case.0["attrs"]["score"].as_str()?;
    let builder = RefCell::new(Builder::new());
    let t = Trace(&builder);
    let (score, query, key) = (t.input(0), t.input(1), t.input(2));
    let (value, name) = match kind {
        "soft_cap" => {
            let cap = t.immediate(case.attr("cap"));
            (t.mul(cap, t.tanh(t.div(score, cap))), None)
        }
        "alibi" => {
            let bias = t.mul(t.input(Score::OWN_INPUTS), t.sub(key, query));
            (t.add(score, bias), Some("slopes"))
        }
        "bias" => (t.add(score, t.input(Score::OWN_INPUTS)), Some("bias")),
        other => panic!("the score {other}"),
    };
    let (program, immediates) = builder.borrow().finish_with_immediates(&[value.0]);
    let program = (Arc::new(program), immediates);
    let inputs = name.map(|name| {
        let view = case.input(name);
        view.with(view.layout.broadcast_to(&pairs).expect("an input that repeats"))
    });
    Some(Score::new(program, Vec::new(), inputs.into_iter().collect()))
}

fn attention(case: &Case) {
    let (q, k, v) = (case.input("q"), case.input("k"), case.input("v"));
    let s = q.shape().to_vec();
    let pairs = [s[0], s[1], s[2], k.shape()[2]];
    let forward = Attention {
        mask: mask(case, pairs),
        sight: sight(case),
        scale: case.attr("scale") as f32,
        score: score(case, pairs),
        dropout: None,
        out: zeros(&s),
        lse: zeros(&s[..3]),
        q,
        k,
        v,
    };
    let results = eval(forward.clone());
    // The scale is rounded to f32 here and not there.
    case.same("outputs", "out", &results[0], 8.0 * U);
    case.same("outputs", "log_sum_exp", &results[1], 8.0 * U);
    execute(&forward.clone().into()).expect("attention");
    let d_out = case.upstream();
    let (d_q, d_k, d_v) = (zeros(&s), zeros(forward.k.shape()), zeros(forward.k.shape()));
    let mut names = vec!["q", "k", "v"];
    let mut more = |name: &'static str| {
        let gradient = case.tensor("gradients", name)?;
        names.push(name);
        Some(zeros(&gradient.shape))
    };
    let d_mask = more("mask");
    let d_inputs = vec![more("slopes").or_else(|| more("bias"))];
    let takes_inputs = forward.score.as_ref().is_some_and(|s| !s.inputs.is_empty());
    let d_inputs = if takes_inputs { d_inputs } else { vec![] };
    let backward =
        AttentionBackward { forward, d_out, d_q, d_k, d_v, d_mask, d_inputs, workspace: None };
    for (name, gradient) in names.into_iter().zip(eval(backward)) {
        case.gradient(name, &gradient);
    }
}

fn softmax(case: &Case, log: bool) {
    let x = case.input("x");
    let y = zeros(x.shape());
    let forward = Softmax { x: x.clone(), y: y.clone(), log };
    case.value("out", &eval(forward.clone())[0]);
    execute(&forward.into()).expect("softmax");
    let (d_y, d_x) = (case.upstream(), zeros(x.shape()));
    case.gradient("x", &eval(SoftmaxBackward { y, d_y, d_x, log })[0]);
}

fn norm(case: &Case, kind: NormKind) {
    let (x, weight) = (case.input("x"), Some(case.input("weight")));
    let bias = case.tensor("inputs", "bias").map(|b| b.view(DType::F32));
    let rows = &x.shape()[..x.shape().len() - 1];
    let n = [x.shape()[rows.len()]];
    let mean = (kind == NormKind::Layer).then(|| zeros(rows));
    let (y, rstd, eps) = (zeros(x.shape()), zeros(rows), case.attr("eps") as f32);
    let forward = Norm {
        kind,
        x: x.clone(),
        weight: weight.clone(),
        bias: bias.clone(),
        eps,
        y,
        mean: mean.clone(),
        rstd: rstd.clone(),
    };
    case.value("out", &eval(forward.clone())[0]);
    execute(&forward.into()).expect("a normalisation");
    let (d_y, d_x) = (case.upstream(), zeros(x.shape()));
    let (d_weight, d_bias) = (Some(zeros(&n)), bias.map(|_| zeros(&n)));
    let workspace = None;
    let backward =
        NormBackward { kind, x, weight, mean, rstd, d_y, d_x, d_weight, d_bias, workspace };
    for (name, gradient) in ["x", "weight", "bias"].into_iter().zip(eval(backward)) {
        case.gradient(name, &gradient);
    }
}

fn cross_entropy(case: &Case) {
    let logits = case.input("logits");
    let targets = case.tensor("inputs", "targets").expect("targets");
    let ignore = case.attr("ignore_index");
    let rows = logits.shape()[0];
    let (losses, lse) = (zeros(&[rows]), zeros(&[rows]));
    let forward = CrossEntropy {
        logits: logits.clone(),
        targets: targets.view(DType::I32),
        ignore_index: Some(ignore as i64),
        losses,
        lse: lse.clone(),
    };
    let results = eval(forward.clone());
    let counted = targets.data.iter().filter(|&&t| t != ignore).count() as f64;
    case.value("loss", &[results[0].iter().sum::<f64>() / counted]);
    case.value("log_sum_exp", &results[1]);
    execute(&forward.clone().into()).expect("cross-entropy");
    let upstream = case.tensor("upstream", "loss").expect("an upstream gradient").data[0];
    let each = Tensor { shape: vec![rows], data: vec![upstream / counted; rows] };
    let backward = CrossEntropyBackward {
        d_logits: zeros(logits.shape()),
        logits,
        targets: forward.targets,
        ignore_index: forward.ignore_index,
        lse,
        d_losses: each.view(DType::F32),
    };
    case.gradient("logits", &eval(backward)[0]);
}

fn reduce(case: &Case) {
    let x = case.input("x");
    let attrs = &case.0["attrs"];
    let kind = match attrs["kind"].as_str().expect("a kind") {
        "sum" => ReduceKind::Sum,
        "mean" => ReduceKind::Mean,
        "max" => ReduceKind::Max,
        "min" => ReduceKind::Min,
        "argmax" => ReduceKind::ArgMax,
        "var" => ReduceKind::Var { correction: case.attr("unbiased") as u32 },
        other => panic!("reduction {other}"),
    };
    let axes = attrs["axes"].as_array().expect("axes").iter();
    let axes = axes.fold(0, |mask, a| mask | 1 << a.as_u64().expect("an axis"));
    let shape: Vec<usize> = x.shape().to_vec();
    let reduced = shape.iter().enumerate().map(|(i, &n)| if axes >> i & 1 == 1 { 1 } else { n });
    let dtype = if kind == ReduceKind::ArgMax { DType::I32 } else { DType::F32 };
    let reduced: Vec<usize> = reduced.collect();
    let output = Array::guards(dtype, &reduced, Place::Contiguous).on_host().expect("memory");
    let program = Arc::new(Program::identity());
    let inputs = vec![x];
    let verb = Reduce {
        kind,
        program,
        params: Vec::new(),
        immediates: Default::default(),
        inputs,
        workspace: None,
        axes,
        output,
    };
    case.value("out", &eval(verb)[0]);
}

/// `ids` flattened, repeated along the rows of a table.
fn row_index(case: &Case, width: usize) -> View {
    let ids = case.tensor("inputs", "ids").expect("ids");
    let view = Tensor { shape: vec![ids.data.len()], data: ids.data }.view(DType::I32);
    let layout = Layout::new(&[view.len(), width], &[1, 0], 0);
    view.with(layout)
}

fn flat_rows(t: &Tensor) -> View {
    let width = t.shape[t.shape.len() - 1];
    let shape = vec![t.data.len() / width, width];
    Tensor { shape, data: t.data.clone() }.view(DType::F32)
}

fn scatter(x: View, index: View, out: View) -> Vec<f64> {
    eval(ScatterAdd { x, index, axis: 0, out, workspace: None }).swap_remove(0)
}

fn pick(x: View, index: View) -> Vec<f64> {
    let out = zeros(index.shape());
    eval(Gather { x, index, axis: 0, out }).swap_remove(0)
}

fn gather(case: &Case) {
    let table = case.input("table");
    let index = row_index(case, table.shape()[1]);
    case.value("out", &pick(table.clone(), index.clone()));
    let upstream = flat_rows(&case.tensor("upstream", "out").expect("upstream"));
    let gradient = scatter(upstream, index, zeros(table.shape()));
    case.same("gradients", "table", &gradient, 1e-13);
}

fn scatter_add(case: &Case) {
    let table = case.input("table");
    let index = row_index(case, table.shape()[1]);
    let rows = flat_rows(&case.tensor("inputs", "rows").expect("rows"));
    case.value("out", &scatter(rows, index.clone(), table));
    let upstream = flat_rows(&case.tensor("upstream", "out").expect("upstream"));
    case.same("gradients", "rows", &pick(upstream, index), 1e-13);
}

#[test]
fn verbs_and_their_gradients_agree_with_pytorch() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../golden/verbs.json");
    let text = std::fs::read_to_string(path).expect("the golden file");
    let mut file: Value = serde_json::from_str(&text).expect("JSON");
    let cases = file["cases"].as_array_mut().expect("cases");
    for case in std::mem::take(cases) {
        let op = case["op"].as_str().expect("a name").to_string();
        let case = Case(case);
        match op.as_str() {
            "gemm" => gemm(&case),
            "attention" => attention(&case),
            "softmax" => softmax(&case, false),
            "log_softmax" => softmax(&case, true),
            "layer_norm" => norm(&case, NormKind::Layer),
            "rms_norm" => norm(&case, NormKind::Rms),
            "cross_entropy" => cross_entropy(&case),
            "reduce" => reduce(&case),
            "gather" => gather(&case),
            "scatter_add" => scatter_add(&case),
            other => panic!("no test for {other}"),
        }
    }
}
