//! Softmax, norms and cross-entropy against f64, in every layout, on every instruction set.

mod views;

use starling_contract::{
    CrossEntropy, CrossEntropyBackward, DType, Error, Kind, Layout, Norm, NormBackward, NormKind,
    Softmax, SoftmaxBackward, Verb, View,
};
use starling_kernels_cpu::{Isa, rows};
use views::{
    EMULATED, Random, array, bits, close, dense, filled, get, golden, integers, isas, layouts,
    same_with_any_threads, tensor, view,
};

/// Runs a verb that passes the check.
fn run(isa: Isa, verb: impl Into<Verb>) -> Result<(), Error> {
    let verb = verb.into().check()?;
    match verb.kind() {
        Kind::Softmax(v) => rows::softmax(isa, v),
        Kind::SoftmaxBackward(v) => rows::softmax_backward(isa, v),
        Kind::Norm(v) => rows::norm(isa, v),
        Kind::NormBackward(v) => rows::norm_backward(isa, v),
        Kind::CrossEntropy(v) => rows::cross_entropy(isa, v),
        Kind::CrossEntropyBackward(v) => rows::cross_entropy_backward(isa, v),
        _ => unreachable!("not a row verb"),
    }
}

/// Shapes with empty, single, odd and long rows.
fn shapes() -> Vec<Vec<usize>> {
    let long = if EMULATED { 5000 } else { 70_000 };
    let many = if EMULATED { 40 } else { 700 };
    [
        vec![0, 5],
        vec![3, 0],
        vec![4, 1],
        vec![1],
        vec![2, 3, 5],
        vec![3, 17],
        vec![2, 2, 64],
        vec![5, 133],
        vec![2, long],
        vec![many, 130],
    ]
    .into()
}

/// The layouts to try for a shape: all of them while that is quick.
fn some_layouts(shape: &[usize]) -> Vec<Layout> {
    let all = layouts(shape);
    if shape.iter().product::<usize>() < 1000 { all } else { all[..3].to_vec() }
}

fn f64s(x: &[f32]) -> Vec<f64> {
    x.iter().map(|&x| x.into()).collect()
}

fn chunks(x: &[f64], n: usize) -> impl Iterator<Item = &[f64]> {
    x.chunks_exact(n.max(1))
}

/// The largest element and the logarithm of the sum of exponentials less it.
fn log_sum_exp(x: &[f64]) -> (f64, f64) {
    let top = x.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    (top, x.iter().map(|x| (x - top).exp()).sum::<f64>().ln())
}

fn softmax_of(x: &[f64], n: usize, log: bool) -> Vec<f64> {
    let mut y = Vec::new();
    for row in chunks(x, n) {
        let (top, sum) = log_sum_exp(row);
        y.extend(row.iter().map(|x| x - top - sum).map(|l| if log { l } else { l.exp() }));
    }
    y
}

#[test]
fn softmax_of_any_layout() {
    let mut random = Random(1);
    for shape in shapes() {
        let (len, n) = (shape.iter().product(), shape[shape.len() - 1]);
        let x: Vec<f32> = random.units(len).iter().map(|x| x * 12.0).collect();
        for (layout, log) in some_layouts(&shape).into_iter().flat_map(|l| [(l, false), (l, true)])
        {
            let want = softmax_of(&f64s(&x), n, log);
            for isa in isas() {
                let what = format!("{isa} log {log} {layout:?}");
                let source = filled(DType::F32, layout, &x);
                for out in some_layouts(&shape).into_iter().take(2) {
                    let y = view(DType::F32, out);
                    run(isa, Softmax { x: source.clone(), y: y.clone(), log }).unwrap();
                    close(&what, &get(&y), &want, 2.5e-6, if log { 2e-6 } else { 0.0 });
                }
                let y = source.clone();
                run(isa, Softmax { x: source, y: y.clone(), log }).unwrap();
                close(&what, &get(&y), &want, 2.5e-6, if log { 2e-6 } else { 0.0 });
            }
        }
    }
}

#[test]
fn softmax_of_special_rows() {
    let (inf, nan) = (f32::INFINITY, f32::NAN);
    for isa in isas() {
        for n in [3, 16, 40, 5000] {
            let mut x = vec![-inf; 5 * n];
            x[n + 2] = 2.0; // one finite element
            x[2 * n..3 * n].fill(1e4); // equal and large
            x[3 * n..4 * n].fill(0.5);
            x[3 * n + 1] = nan;
            x[4 * n] = inf;
            for log in [false, true] {
                let y = view(DType::F32, Layout::contiguous(&[5, n]));
                run(isa, Softmax { x: dense(&[5, n], &x), y: y.clone(), log }).unwrap();
                let y: Vec<f32> = get(&y);
                let what = format!("{isa} {n} log {log}");
                assert!(y[..n].iter().all(|y| y.is_nan()), "{what}: only -inf");
                let (zero, one) = if log { (-inf, 0.0) } else { (0.0, 1.0) };
                let single = &y[n..2 * n];
                assert!((0..n).all(|i| single[i] == if i == 2 { one } else { zero }), "{what}");
                let even = if log { -(n as f64).ln() } else { 1.0 / n as f64 };
                close(&what, &y[2 * n..3 * n], &vec![even; n], 3e-7, 0.0);
                assert!(y[3 * n..].iter().all(|y| y.is_nan()), "{what}: NaN or inf");
            }
        }
    }
}

#[test]
fn softmax_gradient_of_any_layout() {
    let mut random = Random(2);
    for shape in shapes() {
        let (len, n) = (shape.iter().product(), shape[shape.len() - 1]);
        let x: Vec<f64> = random.units(len).iter().map(|&x| f64::from(x) * 4.0).collect();
        let d_y = random.units(len);
        for log in [false, true] {
            let y: Vec<f32> = softmax_of(&x, n, log).iter().map(|&y| y as f32).collect();
            let mut want = Vec::new();
            for (y, d_y) in chunks(&f64s(&y), n).zip(chunks(&f64s(&d_y), n)) {
                let dot: f64 = y.iter().zip(d_y).map(|(y, d)| if log { *d } else { y * d }).sum();
                let gradient = |(y, d): (&f64, &f64)| {
                    if log { d - y.exp() * dot } else { y * (d - dot) }
                };
                want.extend(y.iter().zip(d_y).map(gradient));
            }
            for (layout, isa) in some_layouts(&shape)
                .into_iter()
                .flat_map(|l| isas().into_iter().map(move |i| (l, i)))
            {
                let y = filled(DType::F32, layout, &y);
                let what = format!("{isa} log {log} {layout:?}");
                let upstream = filled(DType::F32, layout, &d_y);
                for d_x in [view(DType::F32, Layout::contiguous(&shape)), upstream.clone()] {
                    let (y, d_y) = (y.clone(), upstream.clone());
                    run(isa, SoftmaxBackward { y, d_y, d_x: d_x.clone(), log }).unwrap();
                    close(&what, &get(&d_x), &want, 1e-6, if log { 3e-6 } else { 2e-7 });
                }
            }
        }
    }
}

/// Everything that a norm takes and gives, in f64.
struct NormCase {
    kind: NormKind,
    n: usize,
    eps: f32,
    x: Vec<f64>,
    weight: Option<Vec<f64>>,
    bias: Option<Vec<f64>>,
}

/// `[y, mean, rstd]`
fn norm_of(c: &NormCase) -> [Vec<f64>; 3] {
    let [mut y, mut means, mut rstds] = [const { Vec::new() }; 3];
    let pick = |v: &Option<Vec<f64>>, i: usize, default| v.as_ref().map_or(default, |v| v[i]);
    for row in chunks(&c.x, c.n) {
        let n = row.len() as f64;
        let mean = if c.kind == NormKind::Layer { row.iter().sum::<f64>() / n } else { 0.0 };
        let var = row.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n;
        let rstd = 1.0 / (var + f64::from(c.eps)).sqrt();
        y.extend(
            row.iter()
                .enumerate()
                .map(|(i, x)| (x - mean) * rstd * pick(&c.weight, i, 1.0) + pick(&c.bias, i, 0.0)),
        );
        means.push(mean);
        rstds.push(rstd);
    }
    [y, means, rstds]
}

/// `[d_x, d_weight, d_bias]`
fn norm_gradient(c: &NormCase, mean: &[f64], rstd: &[f64], d_y: &[f64]) -> [Vec<f64>; 3] {
    let (mut d_x, mut d_weight, mut d_bias) = (Vec::new(), vec![0.0; c.n], vec![0.0; c.n]);
    for (r, (x, d_y)) in chunks(&c.x, c.n).zip(chunks(d_y, c.n)).enumerate() {
        let hat: Vec<f64> = x.iter().map(|x| (x - mean[r]) * rstd[r]).collect();
        let weight = |i: usize| c.weight.as_ref().map_or(1.0, |w| w[i]);
        let g: Vec<f64> = d_y.iter().enumerate().map(|(i, d)| d * weight(i)).collect();
        let n = x.len() as f64;
        let shift = if c.kind == NormKind::Layer { g.iter().sum::<f64>() / n } else { 0.0 };
        let slope = g.iter().zip(&hat).map(|(g, h)| g * h).sum::<f64>() / n;
        for i in 0..x.len() {
            d_x.push(rstd[r] * (g[i] - shift - hat[i] * slope));
            d_weight[i] += d_y[i] * hat[i];
            d_bias[i] += d_y[i];
        }
    }
    [d_x, d_weight, d_bias]
}

/// Forward and backward of one case in one layout; `[y, mean, rstd, d_x, d_weight, d_bias]`.
fn norm_views(isa: Isa, c: &NormCase, layout: Layout, d_y: &[f64], in_place: bool) -> Vec<View> {
    let f32s = |x: &[f64]| x.iter().map(|&x| x as f32).collect::<Vec<f32>>();
    let shape = layout.shape();
    let leading = &shape[..shape.len() - 1];
    // Vectors with gaps where the rows have some.
    let along = if layout.is_contiguous() { 1 } else { -2 };
    let line = || Layout::new(&[c.n], &[along], if along < 0 { 2 * c.n } else { 0 });
    let vector = |v: &Option<Vec<f64>>| v.as_ref().map(|v| filled(DType::F32, line(), &f32s(v)));
    let x = filled(DType::F32, layout, &f32s(&c.x));
    let y = view(DType::F32, layout);
    let of_rows = || view(DType::F32, *layouts(leading).last().unwrap());
    let (mean, rstd) = ((c.kind == NormKind::Layer).then(of_rows), of_rows());
    let weight = vector(&c.weight);
    let forward = Norm {
        kind: c.kind,
        x: x.clone(),
        weight: weight.clone(),
        bias: vector(&c.bias),
        eps: c.eps,
        y: y.clone(),
        mean: mean.clone(),
        rstd: rstd.clone(),
    };
    run(isa, forward).unwrap();
    let d_y = filled(DType::F32, layout, &f32s(d_y));
    let d_x = if in_place { d_y.clone() } else { view(DType::F32, layout) };
    let d_weight = c.weight.as_ref().map(|_| view(DType::F32, line()));
    let d_bias = c.bias.as_ref().map(|_| view(DType::F32, line()));
    let mut backward = NormBackward {
        kind: c.kind,
        x,
        weight,
        mean: mean.clone(),
        rstd: rstd.clone(),
        d_y,
        d_x: d_x.clone(),
        d_weight: d_weight.clone(),
        d_bias: d_bias.clone(),
        workspace: None,
    };
    let bytes = rows::norm_backward_workspace_bytes(&backward);
    if bytes > 0 {
        let short = run(isa, backward.clone());
        assert!(matches!(short, Err(Error::Shape { .. })), "a missing workspace is an error");
        backward.workspace = Some(view(DType::U8, Layout::contiguous(&[bytes])));
    }
    run(isa, backward).unwrap();
    let empty = || view(DType::F32, Layout::contiguous(&[0]));
    let or_empty = |v: Option<View>| v.unwrap_or_else(empty);
    vec![y, or_empty(mean), rstd, d_x, or_empty(d_weight), or_empty(d_bias)]
}

fn check_norm(what: &str, c: &NormCase, d_y: &[f64], views: &[View]) {
    let [y, mean, rstd] = norm_of(c);
    let got: Vec<Vec<f32>> = views.iter().map(get).collect();
    close(&format!("{what} y"), &got[0], &y, 1e-6, 2e-6);
    if c.n == 0 {
        assert!(got[2].iter().all(|r| r.is_nan()), "{what}: statistics of nothing");
        return;
    }
    if c.kind == NormKind::Layer {
        close(&format!("{what} mean"), &got[1], &mean, 1e-7, 1e-7);
    }
    close(&format!("{what} rstd"), &got[2], &rstd, 1e-6, 0.0);
    let [d_x, d_weight, d_bias] = norm_gradient(c, &mean, &rstd, d_y);
    let scale = rstd.iter().copied().fold(1.0, f64::max);
    close(&format!("{what} d_x"), &got[3], &d_x, 2e-6, 3e-6 * scale);
    let rows = (rstd.len() as f64).sqrt().max(1.0);
    if c.weight.is_some() {
        close(&format!("{what} d_weight"), &got[4], &d_weight, 1e-6, 1e-6 * rows);
    }
    if c.bias.is_some() {
        close(&format!("{what} d_bias"), &got[5], &d_bias, 1e-6, 1e-6 * rows);
    }
}

#[test]
fn norms_of_any_layout() {
    let mut random = Random(3);
    for shape in shapes() {
        let (len, n) = (shape.iter().product(), shape[shape.len() - 1]);
        for (kind, affine) in [
            (NormKind::Layer, [true, true]),
            (NormKind::Layer, [false, false]),
            (NormKind::Rms, [true, false]),
            (NormKind::Rms, [false, true]),
        ] {
            let draw = |random: &mut Random, n| f64s(&random.units(n));
            let c = NormCase {
                kind,
                n,
                eps: 1e-5,
                x: draw(&mut random, len).iter().map(|x| x * 2.0 + 0.5).map(f32_of).collect(),
                weight: affine[0].then(|| draw(&mut random, n)),
                bias: affine[1].then(|| draw(&mut random, n)),
            };
            let d_y = draw(&mut random, len);
            for (i, layout) in some_layouts(&shape).into_iter().enumerate() {
                for isa in isas() {
                    let views = norm_views(isa, &c, layout, &d_y, i % 2 == 1);
                    check_norm(&format!("{isa} {kind:?} {layout:?}"), &c, &d_y, &views);
                }
            }
        }
    }
}

fn f32_of(x: f64) -> f64 {
    f64::from(x as f32)
}

/// With a mean of 1e4 and a deviation of 0.01, neighbouring numbers are a tenth of a deviation
/// apart: nothing but the input's own rounding may be lost, in the gradient neither.
#[test]
fn norms_of_far_away_rows_do_not_cancel() {
    let mut random = Random(4);
    for n in [7, 64, 1000, 5000] {
        let near = |random: &mut Random| f32_of(1e4 + 0.017 * f64::from(random.unit()));
        let x: Vec<f64> = (0..3 * n).map(|_| near(&mut random)).collect();
        let c = NormCase { kind: NormKind::Layer, n, eps: 1e-12, x, weight: None, bias: None };
        let d_y = f64s(&random.units(3 * n));
        for isa in isas() {
            let views = norm_views(isa, &c, Layout::contiguous(&[3, n]), &d_y, false);
            check_norm(&format!("{isa} {n}"), &c, &d_y, &views);
        }
    }
    // A constant row has no deviation at all.
    let x = vec![f32_of(1234.567); 100];
    let c = NormCase { kind: NormKind::Layer, n: 100, eps: 1e-5, x, weight: None, bias: None };
    for isa in isas() {
        let views = norm_views(isa, &c, Layout::contiguous(&[1, 100]), &[1.0; 100], false);
        close("a constant row", &get(&views[0]), &[0.0; 100], 0.0, 1e-6);
    }
}

fn targets_view(targets: &[i64], unsigned: bool) -> View {
    if unsigned {
        let words: Vec<u32> = targets.iter().map(|&t| t as u32).collect();
        return filled(DType::U32, Layout::new(&[words.len()], &[2], 1), &words);
    }
    let words: Vec<i32> = targets.iter().map(|&t| t as i32).collect();
    integers(&[words.len()], &words)
}

#[test]
fn cross_entropy_of_any_layout() {
    let mut random = Random(5);
    for shape in [[0, 5], [4, 1], [3, 17], [9, 96], [3, 4097], [700, 130]] {
        let [rows, n] = shape;
        let x: Vec<f32> = random.units(rows * n).iter().map(|x| x * 12.0).collect();
        let d_losses: Vec<f32> = random.units(rows);
        let unsigned = n == 17;
        let ignore = if unsigned { 4_000_000_000 } else { -100 };
        let pick = |random: &mut Random| match random.below(4) {
            0 => ignore,
            _ => random.below(n) as i64,
        };
        let targets: Vec<i64> = (0..rows).map(|_| pick(&mut random)).collect();
        for (layout, isa) in
            some_layouts(&shape).into_iter().flat_map(|l| isas().into_iter().map(move |i| (l, i)))
        {
            let what = format!("{isa} {layout:?}");
            let logits = filled(DType::F32, layout, &x);
            let of_rows = || view(DType::F32, Layout::new(&[rows], &[-3], 3 * rows));
            let (losses, lse) = (of_rows(), of_rows());
            let (t, ignore_index) = (targets_view(&targets, unsigned), Some(ignore));
            let forward = CrossEntropy {
                logits: logits.clone(),
                targets: t.clone(),
                ignore_index,
                losses: losses.clone(),
                lse: lse.clone(),
            };
            run(isa, forward).unwrap();
            let wide = f64s(&x);
            let (mut want, mut sums, mut gradient) = (Vec::new(), Vec::new(), Vec::new());
            for (r, row) in chunks(&wide, n).enumerate() {
                let (top, sum) = log_sum_exp(row);
                let class = (targets[r] != ignore).then_some(targets[r] as usize);
                want.push(class.map_or(0.0, |c| top + sum - row[c]));
                sums.push(top + sum);
                let scale = class.map_or(0.0, |_| f64::from(d_losses[r]));
                gradient.extend(row.iter().enumerate().map(|(i, x)| {
                    scale * ((x - top - sum).exp() - f64::from(u8::from(class == Some(i))))
                }));
            }
            close(&what, &get(&losses), &want, 1e-6, 1e-6);
            close(&what, &get(&lse), &sums, 1e-6, 0.0);
            for d_logits in [view(DType::F32, Layout::contiguous(&shape)), logits.clone()] {
                let backward = CrossEntropyBackward {
                    logits: logits.clone(),
                    targets: t.clone(),
                    ignore_index,
                    lse: lse.clone(),
                    d_losses: dense(&[rows], &d_losses),
                    d_logits: d_logits.clone(),
                };
                run(isa, backward).unwrap();
                close(&what, &get(&d_logits), &gradient, 4e-6, 1e-7);
            }
        }
    }
}

#[test]
fn targets_outside_the_classes_are_errors() {
    for (isa, bad) in isas().into_iter().flat_map(|isa| [(isa, 3), (isa, -1), (isa, -100)]) {
        let logits = dense(&[2, 3], &[0.0; 6]);
        let line = || view(DType::F32, Layout::contiguous(&[2]));
        let targets = integers(&[2], &[1, bad]);
        let (losses, lse) = (line(), line());
        let before = bits(&losses);
        let forward = CrossEntropy {
            logits: logits.clone(),
            targets: targets.clone(),
            ignore_index: None,
            losses: losses.clone(),
            lse: lse.clone(),
        };
        let backward = CrossEntropyBackward {
            d_logits: logits.clone(),
            logits,
            targets,
            ignore_index: None,
            lse,
            d_losses: dense(&[2], &[1.0; 2]),
        };
        for result in [run(isa, forward.clone()), run(isa, backward)] {
            let Err(Error::Index { index, bound: 3, .. }) = result else { panic!("{result:?}") };
            assert_eq!(index, i64::from(bad));
        }
        assert_eq!(before, bits(&losses), "nothing is written");
        run(isa, CrossEntropy { ignore_index: Some(bad.into()), ..forward }).unwrap_or_else(|e| {
            panic!("an ignored target may be anything: {e}");
        });
    }
}

/// As PyTorch: a row of nothing but -inf has a log-sum-exp of -inf and no loss.
#[test]
fn cross_entropy_of_special_rows() {
    let inf = f32::INFINITY;
    for isa in isas() {
        for n in [3, 5000] {
            let mut x = vec![-inf; 4 * n];
            x[n + 1] = 3.0; // -inf where masked out
            x[2 * n..3 * n].fill(-1e30);
            x[3 * n..].fill(1.0);
            x[3 * n + 2] = inf;
            let line = || view(DType::F32, Layout::contiguous(&[4]));
            let (losses, lse) = (line(), line());
            let (logits, targets) = (dense(&[4, n], &x), integers(&[4], &[1; 4]));
            let (l, s) = (losses.clone(), lse.clone());
            run(isa, CrossEntropy { logits, targets, ignore_index: None, losses, lse }).unwrap();
            let (l, s): (Vec<f32>, Vec<f32>) = (get(&l), get(&s));
            assert!(l[0].is_nan() && l[1] == 0.0 && l[3].is_nan(), "{isa} {n}: {l:?}");
            close("equal classes", &l[2..3], &[(n as f64).ln()], 1e-6, 0.0);
            assert_eq!(s, [-inf, 3.0, -1e30, inf], "{isa} {n}");
        }
    }
}

#[test]
fn threads_do_not_change_the_bits() {
    let mut random = Random(6);
    let (rows, n) = if EMULATED { (300, 200) } else { (3000, 101) };
    let x = f64s(&random.units(rows * n));
    let d_y = f64s(&random.units(rows * n));
    let ones = Some(vec![1.0; n]);
    let c = NormCase { kind: NormKind::Layer, n, eps: 1e-5, x, weight: ones.clone(), bias: ones };
    let values: Vec<f32> = c.x.iter().map(|&x| x as f32).collect();
    for isa in isas() {
        for layout in layouts(&[rows, n]).into_iter().take(3) {
            same_with_any_threads(&format!("{isa} norm"), || {
                norm_views(isa, &c, layout, &d_y, true).iter().map(bits).collect::<Vec<_>>()
            });
            same_with_any_threads(&format!("{isa} softmax"), || {
                let (x, y) = (filled(DType::F32, layout, &values), view(DType::F32, layout));
                run(isa, Softmax { x, y: y.clone(), log: false }).unwrap();
                bits(&y)
            });
            same_with_any_threads(&format!("{isa} cross_entropy"), || {
                let line = || view(DType::F32, Layout::contiguous(&[rows]));
                let (losses, lse) = (line(), line());
                let verb = CrossEntropy {
                    logits: filled(DType::F32, layout, &values),
                    targets: integers(&[rows], &vec![7; rows]),
                    ignore_index: None,
                    losses: losses.clone(),
                    lse,
                };
                run(isa, verb).unwrap();
                bits(&losses)
            });
        }
    }
}

#[test]
fn other_dtypes_are_unsupported() {
    let half = || view(DType::F16, Layout::contiguous(&[2, 3]));
    let error = run(Isa::from_env().unwrap(), Softmax { x: half(), y: half(), log: false });
    assert!(matches!(error, Err(Error::Unsupported { dtype: DType::F16, .. })), "{error:?}");
}

#[test]
fn softmax_agrees_with_pytorch() {
    for (op, log) in [("softmax", false), ("log_softmax", true)] {
        for (case, isa) in
            golden(op).into_iter().flat_map(|c| isas().into_iter().map(move |i| (c.clone(), i)))
        {
            let (shape, want) = array(&case["outputs"]["out"]);
            let out = || view(DType::F32, Layout::contiguous(&shape));
            let (x, y, d_x) = (tensor(&case["inputs"]["x"]), out(), out());
            run(isa, Softmax { x, y: y.clone(), log }).unwrap();
            close(op, &get(&y), &want, 2e-6, if log { 1e-6 } else { 1e-38 });
            let d_y = tensor(&case["upstream"]["out"]);
            run(isa, SoftmaxBackward { y, d_y, d_x: d_x.clone(), log }).unwrap();
            close(op, &get(&d_x), &array(&case["gradients"]["x"]).1, 1e-6, 2e-6);
        }
    }
}

#[test]
fn norms_agree_with_pytorch() {
    for (op, kind) in [("layer_norm", NormKind::Layer), ("rms_norm", NormKind::Rms)] {
        for case in golden(op) {
            let (shape, x) = array(&case["inputs"]["x"]);
            let vector = |name: &str| case["inputs"].get(name).map(|v| array(v).1);
            let c = NormCase {
                kind,
                n: shape[shape.len() - 1],
                eps: case["attrs"]["eps"].as_f64().unwrap() as f32,
                x,
                weight: vector("weight"),
                bias: vector("bias"),
            };
            let d_y = array(&case["upstream"]["out"]).1;
            for isa in isas() {
                let views = norm_views(isa, &c, Layout::contiguous(&shape), &d_y, false);
                close(op, &get(&views[0]), &array(&case["outputs"]["out"]).1, 1e-6, 1e-6);
                let gradients = &case["gradients"];
                for (name, view) in [("x", 3), ("weight", 4), ("bias", 5)] {
                    let Some(want) = gradients.get(name) else { continue };
                    close(name, &get(&views[view]), &array(want).1, 2e-6, 2e-6);
                }
            }
        }
    }
}

#[test]
fn cross_entropy_agrees_with_pytorch() {
    for (case, isa) in golden("cross_entropy")
        .into_iter()
        .flat_map(|c| isas().into_iter().map(move |i| (c.clone(), i)))
    {
        let logits = tensor(&case["inputs"]["logits"]);
        let targets: Vec<i32> =
            array(&case["inputs"]["targets"]).1.iter().map(|&t| t as i32).collect();
        let ignore_index = case["attrs"]["ignore_index"].as_i64();
        let rows = targets.len();
        let line = || view(DType::F32, Layout::contiguous(&[rows]));
        let (losses, lse) = (line(), line());
        let targets_view = integers(&[rows], &targets);
        let forward = CrossEntropy {
            logits: logits.clone(),
            targets: targets_view.clone(),
            ignore_index,
            losses: losses.clone(),
            lse: lse.clone(),
        };
        run(isa, forward).unwrap();
        let count = targets.iter().filter(|&&t| Some(i64::from(t)) != ignore_index).count() as f32;
        let mean = get::<f32>(&losses).iter().sum::<f32>() / count;
        close("loss", &[mean], &array(&case["outputs"]["loss"]).1, 1e-6, 0.0);
        close("lse", &get(&lse), &array(&case["outputs"]["log_sum_exp"]).1, 1e-6, 0.0);
        let upstream = array(&case["upstream"]["loss"]).1[0] as f32 / count;
        let repeated = Layout::contiguous(&[1]).broadcast_to(&[rows]).unwrap();
        let d_losses = dense(&[1], &[upstream]).with(repeated);
        let d_logits = logits.clone();
        let out = d_logits.clone();
        let targets = targets_view;
        run(isa, CrossEntropyBackward { logits, targets, ignore_index, lse, d_losses, d_logits })
            .unwrap();
        close("d_logits", &get(&out), &array(&case["gradients"]["logits"]).1, 2e-6, 1e-7);
    }
}
