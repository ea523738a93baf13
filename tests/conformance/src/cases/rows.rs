//! Softmax, normalisation and cross-entropy, with their gradients.

use super::Tier;
use crate::data::{Case, Place, Problem};
use starling_contract::{
    CrossEntropy, CrossEntropyBackward, DType, Norm, NormBackward, NormKind, Softmax,
    SoftmaxBackward, View,
};

/// How the rows of a case are drawn.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Data {
    /// In [-4, 4).
    Ordinary,
    /// Far from 0 with a spread of 1.
    Shifted,
    /// Up to 1e4: the largest takes everything.
    Large,
}

impl Data {
    fn draw(self, p: &mut Problem, dtype: DType, shape: &[usize], place: Place) -> usize {
        p.drawn(dtype, shape, place, move |r| {
            let u = f64::from(r.uniform());
            match self {
                Data::Ordinary => 8.0 * u - 4.0,
                Data::Shifted => 1000.0 + u,
                Data::Large => 2e4 * u - 1e4,
            }
        })
    }
}

/// Shapes of rows with the data and the layouts of input and output.
fn variants(tier: Tier) -> Vec<(Vec<usize>, Data, [Place; 2])> {
    let plain = [Place::Contiguous; 2];
    let mut all = Vec::new();
    for shape in [vec![67], vec![5, 7], vec![3, 33], vec![2, 3, 16], vec![4, 1], vec![0, 5]] {
        all.push((shape, Data::Ordinary, plain));
    }
    for data in [Data::Shifted, Data::Large] {
        all.push((vec![3, 17], data, plain));
        all.push((vec![2, 129], data, plain));
    }
    for (i, place) in Place::OUTPUTS.into_iter().enumerate() {
        let other = Place::OUTPUTS[(i * 5 + 3) % 6];
        all.push((vec![5, 19], Data::Ordinary, [place, other]));
    }
    all.push((vec![5, 19], Data::Ordinary, [Place::Repeat(0b01), Place::Gaps]));
    if tier == Tier::Full {
        for data in [Data::Ordinary, Data::Shifted] {
            all.push((vec![2, 70_000], data, plain));
            all.push((vec![257, 1023], data, plain));
        }
        all.push((vec![3000, 5], Data::Ordinary, plain));
        all.push((vec![129, 257], Data::Ordinary, [Place::Transposed, Place::Contiguous]));
    }
    all
}

pub fn cases(tier: Tier, all: &mut Vec<Case>) {
    for (shape, data, places) in variants(tier) {
        for log in [false, true] {
            softmax(log, &shape, data, places, all);
        }
        for kind in [NormKind::Layer, NormKind::Rms] {
            for parameters in [true, false] {
                norm(kind, parameters, &shape, data, places, all);
            }
        }
        if shape.len() == 2 {
            let ignore = (shape[0] > 2).then_some(-100);
            cross_entropy(ignore, &shape, data, places, all);
        }
    }
    in_place(all);
    special(all);
    constant(all);
    narrow(all);
}

fn label(shape: &[usize], data: Data, [from, to]: [Place; 2]) -> String {
    format!("f32 {shape:?} {data:?} {from:?} to {to:?}")
}

fn softmax(log: bool, shape: &[usize], data: Data, places: [Place; 2], all: &mut Vec<Case>) {
    let ops =
        if log { ["log_softmax", "log_softmax_backward"] } else { ["softmax", "softmax_backward"] };
    let [from, to] = places;
    let owned = shape.to_vec();
    all.push(Case::new(ops[0], label(shape, data, places), move |title| {
        let mut p = Problem::new(title);
        data.draw(&mut p, DType::F32, &owned, from);
        p.output(DType::F32, &owned, to);
        p.verb(move |v: &[View]| Softmax { x: v[0].clone(), y: v[1].clone(), log }.into())
    }));
    let owned = shape.to_vec();
    all.push(Case::new(ops[1], label(shape, data, places), move |title| {
        let mut p = Problem::new(title);
        data.draw(&mut p, DType::F32, &owned, Place::Contiguous);
        p.output(DType::F32, &owned, if from == Place::Repeat(1) { to } else { from });
        p.forward(move |v| Softmax { x: v[0].clone(), y: v[1].clone(), log }.into());
        p.uniform(&owned, from);
        p.output(DType::F32, &owned, to);
        p.verb(move |v: &[View]| {
            let [y, d_y, d_x] = [v[1].clone(), v[2].clone(), v[3].clone()];
            SoftmaxBackward { y, d_y, d_x, log }.into()
        })
    }));
}

/// Arrays 0 to 5: x, y, rstd, mean, weight, bias.
fn norm_arrays(p: &mut Problem, shape: &[usize], data: Data, [from, to]: [Place; 2]) {
    let (n, rows) = (shape[shape.len() - 1], &shape[..shape.len() - 1]);
    data.draw(p, DType::F32, shape, from);
    p.output(DType::F32, shape, to);
    p.output(DType::F32, rows, Place::Contiguous);
    p.output(DType::F32, rows, Place::Offset);
    p.uniform(&[n], Place::Offset);
    p.uniform(&[n], Place::Contiguous);
}

fn norm_verb(kind: NormKind, parameters: bool, v: &[View]) -> Norm {
    Norm {
        kind,
        x: v[0].clone(),
        weight: parameters.then(|| v[4].clone()),
        bias: (parameters && kind == NormKind::Layer).then(|| v[5].clone()),
        eps: 1e-5,
        y: v[1].clone(),
        mean: (kind == NormKind::Layer).then(|| v[3].clone()),
        rstd: v[2].clone(),
    }
}

fn norm(
    kind: NormKind,
    parameters: bool,
    shape: &[usize],
    data: Data,
    places: [Place; 2],
    all: &mut Vec<Case>,
) {
    let ops = match kind {
        NormKind::Layer => ["layer_norm", "layer_norm_backward"],
        NormKind::Rms => ["rms_norm", "rms_norm_backward"],
    };
    let weights = if parameters { "" } else { " without weights" };
    let name = format!("{}{weights}", label(shape, data, places));
    let owned = shape.to_vec();
    all.push(Case::new(ops[0], name.clone(), move |title| {
        let mut p = Problem::new(title);
        norm_arrays(&mut p, &owned, data, places);
        p.verb(move |v: &[View]| norm_verb(kind, parameters, v).into())
    }));
    let owned = shape.to_vec();
    all.push(Case::new(ops[1], name, move |title| {
        let n = owned[owned.len() - 1];
        let mut p = Problem::new(title);
        norm_arrays(&mut p, &owned, data, places);
        p.forward(move |v| norm_verb(kind, parameters, v).into());
        p.uniform(&owned, places[0]);
        p.output(DType::F32, &owned, places[1]);
        p.output(DType::F32, &[n], Place::Contiguous);
        p.output(DType::F32, &[n], Place::Offset);
        p.verb(move |v: &[View]| {
            let forward = norm_verb(kind, parameters, v);
            NormBackward {
                kind,
                x: forward.x,
                weight: forward.weight,
                mean: forward.mean,
                rstd: forward.rstd,
                d_y: v[6].clone(),
                d_x: v[7].clone(),
                d_weight: parameters.then(|| v[8].clone()),
                d_bias: (parameters && kind == NormKind::Layer).then(|| v[9].clone()),
                workspace: None,
            }
            .into()
        })
    }));
}

fn cross_entropy(
    ignore_index: Option<i64>,
    shape: &[usize],
    data: Data,
    places: [Place; 2],
    all: &mut Vec<Case>,
) {
    let (rows, classes) = (shape[0], shape[1]);
    let target_type = if ignore_index.is_some() { DType::I32 } else { DType::U32 };
    // Arrays 0 to 3: logits, targets, losses, lse. Every third row is ignored where one may be.
    let arrays = move |p: &mut Problem| {
        data.draw(p, DType::F32, &[rows, classes], places[0]);
        p.values(target_type, &[rows], Place::Offset, move |row| {
            let ignored = ignore_index.filter(|_| row % 3 == 1);
            ignored.map_or((row * 11 + 2) % classes, |_| 0) as f64
                + ignored.map_or(0.0, |i| i as f64)
        });
        p.output(DType::F32, &[rows], Place::Contiguous);
        p.output(DType::F32, &[rows], Place::Step);
    };
    let verb = move |v: &[View]| CrossEntropy {
        logits: v[0].clone(),
        targets: v[1].clone(),
        ignore_index,
        losses: v[2].clone(),
        lse: v[3].clone(),
    };
    let name = label(shape, data, places);
    all.push(Case::new("cross_entropy", name.clone(), move |title| {
        let mut p = Problem::new(title);
        arrays(&mut p);
        p.verb(move |v: &[View]| verb(v).into())
    }));
    for repeated in [false, true] {
        let one = if repeated { " one gradient for all" } else { "" };
        let title = format!("{name}{one}");
        all.push(Case::new("cross_entropy_backward", title, move |title| {
            let mut p = Problem::new(title);
            arrays(&mut p);
            p.forward(move |v| verb(v).into());
            let place = if repeated { Place::Repeat(1) } else { Place::Contiguous };
            p.uniform(&[rows], place);
            p.output(DType::F32, &[rows, classes], places[1]);
            p.verb(move |v: &[View]| {
                CrossEntropyBackward {
                    logits: v[0].clone(),
                    targets: v[1].clone(),
                    ignore_index,
                    lse: v[3].clone(),
                    d_losses: v[4].clone(),
                    d_logits: v[5].clone(),
                }
                .into()
            })
        }));
    }
}

/// Outputs that are the very views of inputs, where the contract allows it.
fn in_place(all: &mut Vec<Case>) {
    for log in [false, true] {
        let op = if log { "log_softmax" } else { "softmax" };
        all.push(Case::new(op, "f32 [5, 35] in place", move |title| {
            let mut p = Problem::new(title);
            Data::Ordinary.draw(&mut p, DType::F32, &[5, 35], Place::Gaps);
            p.verb(move |v: &[View]| Softmax { x: v[0].clone(), y: v[0].clone(), log }.into())
        }));
        let op = if log { "log_softmax_backward" } else { "softmax_backward" };
        all.push(Case::new(op, "f32 [5, 35] in place", move |title| {
            let mut p = Problem::new(title);
            Data::Ordinary.draw(&mut p, DType::F32, &[5, 35], Place::Contiguous);
            p.forward(move |v| Softmax { x: v[0].clone(), y: v[0].clone(), log }.into());
            p.uniform(&[5, 35], Place::Contiguous);
            p.verb(move |v: &[View]| {
                let [y, d_y, d_x] = [v[0].clone(), v[1].clone(), v[1].clone()];
                SoftmaxBackward { y, d_y, d_x, log }.into()
            })
        }));
    }
    for kind in [NormKind::Layer, NormKind::Rms] {
        let op = if kind == NormKind::Layer { "layer_norm" } else { "rms_norm" };
        all.push(Case::new(format!("{op}_backward"), "f32 [5, 35] in place", move |title| {
            let mut p = Problem::new(title);
            norm_arrays(&mut p, &[5, 35], Data::Ordinary, [Place::Contiguous; 2]);
            p.forward(move |v| norm_verb(kind, true, v).into());
            p.uniform(&[5, 35], Place::Contiguous);
            p.output(DType::F32, &[35], Place::Contiguous);
            p.verb(move |v: &[View]| {
                let forward = norm_verb(kind, true, v);
                NormBackward {
                    kind,
                    x: forward.x,
                    weight: forward.weight,
                    mean: forward.mean,
                    rstd: forward.rstd,
                    d_y: v[6].clone(),
                    d_x: v[6].clone(),
                    d_weight: Some(v[7].clone()),
                    d_bias: None,
                    workspace: None,
                }
                .into()
            })
        }));
    }
    all.push(Case::new("cross_entropy_backward", "f32 [5, 35] in place", move |title| {
        let mut p = Problem::new(title);
        Data::Ordinary.draw(&mut p, DType::F32, &[5, 35], Place::Contiguous);
        p.values(DType::I32, &[5], Place::Contiguous, |row| (row * 7) as f64);
        p.output(DType::F32, &[5], Place::Contiguous);
        p.output(DType::F32, &[5], Place::Contiguous);
        p.forward(|v| {
            CrossEntropy {
                logits: v[0].clone(),
                targets: v[1].clone(),
                ignore_index: Some(7),
                losses: v[2].clone(),
                lse: v[3].clone(),
            }
            .into()
        });
        p.uniform(&[5], Place::Contiguous);
        p.verb(move |v: &[View]| {
            CrossEntropyBackward {
                logits: v[0].clone(),
                targets: v[1].clone(),
                ignore_index: Some(7),
                lse: v[3].clone(),
                d_losses: v[4].clone(),
                d_logits: v[0].clone(),
            }
            .into()
        })
    }));
}

/// Rows with -inf (a masked score), +inf and NaN.
fn special(all: &mut Vec<Case>) {
    for log in [false, true] {
        let op = if log { "log_softmax" } else { "softmax" };
        let case = Case::new(op, "f32 infinities and NaN", move |title| {
            let mut p = Problem::new(title);
            p.values(DType::F32, &[4, 19], Place::Contiguous, |at| match (at / 19, at % 19) {
                (0, i) if i % 3 == 0 => f64::NEG_INFINITY,
                (1, 5) => f64::NAN,
                (2, 18) => f64::INFINITY,
                (3, i) if i != 4 => f64::NEG_INFINITY,
                (_, i) => (i % 5) as f64 - 2.0,
            });
            p.output(DType::F32, &[4, 19], Place::Contiguous);
            p.verb(move |v: &[View]| Softmax { x: v[0].clone(), y: v[1].clone(), log }.into())
        });
        all.push(case.special());
    }
}

/// Rows of one value: a variance of nothing but rounding errors.
fn constant(all: &mut Vec<Case>) {
    for kind in [NormKind::Layer, NormKind::Rms] {
        let op = if kind == NormKind::Layer { "layer_norm" } else { "rms_norm" };
        all.push(Case::new(op, "f32 [3, 37] constant rows", move |title| {
            let mut p = Problem::new(title);
            norm_arrays(&mut p, &[3, 37], Data::Ordinary, [Place::Contiguous; 2]);
            p.arrays[0] = crate::data::Array::new(DType::F32, &[3, 37], Place::Contiguous, |at| {
                [0.1, 0.0, -3.3][at / 37]
            });
            p.verb(move |v: &[View]| norm_verb(kind, true, v).into())
        }));
    }
}

/// Narrow types: every result is one more rounding away. Rows of 20 can be moved in fours.
fn narrow(all: &mut Vec<Case>) {
    for dtype in [DType::F16, DType::BF16] {
        for shape in [[3, 17], [5, 20]] {
            all.push(Case::new("softmax", format!("{dtype} {shape:?}"), move |title| {
                let mut p = Problem::new(title);
                Data::Ordinary.draw(&mut p, dtype, &shape, Place::Contiguous);
                p.output(dtype, &shape, Place::Contiguous);
                p.verb(|v: &[View]| Softmax { x: v[0].clone(), y: v[1].clone(), log: false }.into())
            }));
            all.push(Case::new("layer_norm", format!("{dtype} {shape:?}"), move |title| {
                let mut p = Problem::new(title);
                norm_arrays(&mut p, &shape, Data::Ordinary, [Place::Contiguous; 2]);
                // All but the statistics.
                for at in [0, 1, 4, 5] {
                    let old = p.arrays[at].clone();
                    let random = p.random();
                    let values: Vec<f64> =
                        (0..old.layout.len()).map(|_| f64::from(random.uniform())).collect();
                    let shape = old.layout.shape().to_vec();
                    p.arrays[at] =
                        crate::data::Array::new(dtype, &shape, Place::Contiguous, |i| values[i]);
                }
                p.verb(move |v: &[View]| norm_verb(NormKind::Layer, true, v).into())
            }));
        }
    }
}
