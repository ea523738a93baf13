//! Reductions.

use super::Tier;
use super::programs::{Traced, apply, traced};
use crate::data::{Case, Place, Problem};
use starling_contract::{DType, Reduce, ReduceKind, View};
use starling_ops::Math;

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

fn name(kind: ReduceKind) -> &'static str {
    match kind {
        ReduceKind::Sum => "sum",
        ReduceKind::Mean => "mean",
        ReduceKind::Max => "max",
        ReduceKind::Min => "min",
        ReduceKind::ArgMax => "argmax",
        ReduceKind::ArgMin => "argmin",
        ReduceKind::Var { .. } => "var",
    }
}

fn is_position(kind: ReduceKind) -> bool {
    matches!(kind, ReduceKind::ArgMax | ReduceKind::ArgMin)
}

fn detail(kind: ReduceKind) -> String {
    match kind {
        ReduceKind::Var { correction } => format!("correction {correction} "),
        _ => String::new(),
    }
}

/// The verb over the first arrays as inputs and the last as output.
fn verb(p: Problem, kind: ReduceKind, traced: &Traced, axes: u32) -> Problem {
    let Traced { program, immediates } = traced.clone();
    p.verb(move |v: &[View]| {
        let (output, inputs) = v.split_last().expect("arrays");
        let (inputs, output, program) = (inputs.to_vec(), output.clone(), program.clone());
        let (params, workspace) = (Vec::new(), None);
        Reduce { kind, program, params, immediates, inputs, workspace, axes, output }.into()
    })
}

/// The elements themselves.
fn element() -> Traced {
    traced(|t| vec![t.input(0)])
}

fn reduced(shape: &[usize], axes: u32) -> Vec<usize> {
    shape.iter().enumerate().map(|(i, &n)| if axes >> i & 1 == 1 { 1 } else { n }).collect()
}

fn output(p: &mut Problem, kind: ReduceKind, shape: &[usize], axes: u32, place: Place) {
    let dtype = if is_position(kind) { DType::I32 } else { DType::F32 };
    p.output(dtype, &reduced(shape, axes), place);
}

/// How the numbers of a case are drawn.
#[derive(Clone, Copy, Debug)]
enum Data {
    Signed,
    Positive,
    /// Far from 0 with a small spread: a variance by the difference of squares loses everything.
    Shifted,
    /// Small integers, so that there are ties.
    Ties,
}

fn identity(kind: ReduceKind, shape: &[usize], axes: u32, data: Data, places: [Place; 2]) -> Case {
    let shape = shape.to_vec();
    let [input, out] = places;
    let title = format!("{}{shape:?} axes {axes:#b} {data:?} {input:?} to {out:?}", detail(kind));
    // The unbiased variance of one number is NaN.
    let group =
        shape.iter().product::<usize>() / reduced(&shape, axes).iter().product::<usize>().max(1);
    let undefined = matches!(kind, ReduceKind::Var { correction: 1 }) && group == 1;
    let case = Case::new(name(kind), title, move |title| {
        let mut p = Problem::new(title);
        p.drawn(DType::F32, &shape, input, |r| {
            let u = f64::from(r.uniform());
            match data {
                Data::Signed => 2.0 * u - 1.0,
                Data::Positive => u + 0.01,
                Data::Shifted => 100.0 + u,
                Data::Ties => f64::from(r.below(7)) - 3.0,
            }
        });
        output(&mut p, kind, &shape, axes, out);
        verb(p, kind, &element(), axes)
    });
    if undefined { case.special() } else { case }
}

pub fn cases(tier: Tier, all: &mut Vec<Case>) {
    let plain = [Place::Contiguous; 2];
    for kind in KINDS {
        for (i, (shape, axes)) in shapes().into_iter().enumerate() {
            all.push(identity(kind, shape, axes, Data::Signed, plain));
            let places = [Place::OUTPUTS[(i + 1) % 6], Place::OUTPUTS[(i * 5 + 2) % 6]];
            all.push(identity(kind, shape, axes, Data::Ties, places));
        }
        let repeat = [Place::Repeat(0b01), Place::Contiguous];
        all.push(identity(kind, &[3, 5], 0b10, Data::Signed, repeat));
        all.push(identity(kind, &[3, 5], 0b11, Data::Shifted, repeat));
        all.push(identity(kind, &[4, 33], 0b10, Data::Shifted, plain));
        if !is_position(kind) {
            nothing(kind, all);
        }
        programs(kind, all);
        types(kind, all);
        special(kind, all);
        if tier == Tier::Full {
            large(kind, all);
        }
    }
}

fn shapes() -> Vec<(&'static [usize], u32)> {
    vec![
        (&[67], 0b1),
        (&[5, 7], 0b10),
        (&[5, 7], 0b01),
        (&[5, 7], 0b11),
        (&[5, 7], 0b00),
        (&[3, 4, 5], 0b101),
        (&[3, 4, 5], 0b010),
        (&[3, 4, 5], 0b110),
        (&[2, 3, 2, 3], 0b1010),
        (&[1, 1], 0b11),
        (&[2, 35], 0b10),
        (&[35, 2], 0b01),
    ]
}

fn nothing(kind: ReduceKind, all: &mut Vec<Case>) {
    let plain = [Place::Contiguous; 2];
    // 0 and infinity of nothing, NaN for a mean or a variance.
    all.push(identity(kind, &[3, 0], 0b10, Data::Signed, plain).special());
    all.push(identity(kind, &[3, 0], 0b01, Data::Signed, plain));
    all.push(identity(kind, &[0], 0b1, Data::Signed, plain).special());
    if matches!(kind, ReduceKind::Var { correction: 1 }) {
        all.push(identity(kind, &[3, 1], 0b10, Data::Signed, plain));
    }
}

/// Programs of more than one input in front of the reduction.
fn programs(kind: ReduceKind, all: &mut Vec<Case>) {
    let product = traced(|t| vec![t.mul(t.input(0), t.input(1))]);
    let gelu = traced(|t| apply(t, "gelu", &[t.fma(t.input(0), t.lit(3.0), t.input(1))]));
    let scaled = traced(|t| {
        let shifted = t.sub(t.input(0), t.immediate(0.25));
        vec![t.mul(t.mul(shifted, t.immediate(1.7)), t.input(1))]
    });
    let all_of_them = [("a * b", product), ("gelu(3a + b)", gelu), ("numbers", scaled)];
    for (label, program) in all_of_them {
        for (shape, axes) in [(&[5, 33][..], 0b10), (&[33, 5], 0b01), (&[3, 4, 5], 0b111)] {
            let program = program.clone();
            let title = format!("{}of {label} {shape:?} axes {axes:#b}", detail(kind));
            all.push(Case::new(name(kind), title, move |title| {
                let mut p = Problem::new(title);
                p.uniform(shape, Place::Contiguous);
                p.uniform(shape, Place::Repeat(0b01));
                output(&mut p, kind, shape, axes, Place::Contiguous);
                verb(p, kind, &program, axes)
            }));
        }
    }
}

fn types(kind: ReduceKind, all: &mut Vec<Case>) {
    for dtype in [DType::F16, DType::BF16, DType::U8] {
        for (shape, axes) in [(&[3, 37][..], 0b10), (&[37, 3], 0b01)] {
            let title = format!("{}{dtype} {shape:?} axes {axes:#b}", detail(kind));
            all.push(Case::new(name(kind), title, move |title| {
                let mut p = Problem::new(title);
                p.drawn(dtype, shape, Place::Contiguous, |r| match dtype {
                    DType::U8 => f64::from(r.below(256)),
                    _ => f64::from(r.uniform()) * 2.0 - 1.0,
                });
                output(&mut p, kind, shape, axes, Place::Contiguous);
                verb(p, kind, &element(), axes)
            }));
        }
    }
}

/// Rows and columns with infinities, NaN at the start and the end, signed zeros, and all equal.
fn special(kind: ReduceKind, all: &mut Vec<Case>) {
    const INF: f64 = f64::INFINITY;
    const NAN: f64 = f64::NAN;
    for along_rows in [true, false] {
        let title = format!("{}special values, by rows {along_rows}", detail(kind));
        let case = Case::new(name(kind), title, move |title| {
            let mut p = Problem::new(title);
            let (rows, n) = (9, 35);
            let value = move |row: usize, i: usize| match (row, i) {
                (0, 3) | (6, 34) => NAN,
                (1, 0) | (2, 34) | (7, 17) => INF,
                (3, 5) | (7, 20) => -INF,
                (4, _) => -INF,
                (5, i) => [0.0, -0.0][i % 2],
                (6, 2) => INF,
                (8, 1 | 33) => NAN,
                (row, i) => ((row * 7 + i * 3) % 11) as f64 - 5.0,
            };
            let shape = if along_rows { [rows, n] } else { [n, rows] };
            p.values(DType::F32, &shape, Place::Contiguous, move |at| {
                let (i, j) = (at / shape[1], at % shape[1]);
                if along_rows { value(i, j) } else { value(j, i) }
            });
            let axes = if along_rows { 0b10 } else { 0b01 };
            output(&mut p, kind, &shape, axes, Place::Contiguous);
            verb(p, kind, &element(), axes)
        });
        all.push(case.special());
    }
}

fn large(kind: ReduceKind, all: &mut Vec<Case>) {
    let shapes: [(&[usize], u32); 6] = [
        (&[1_000_003], 0b1),
        (&[5, 70_001], 0b10),
        (&[70_001, 5], 0b01),
        (&[301, 257], 0b01),
        (&[301, 257], 0b10),
        (&[31, 33, 129], 0b101),
    ];
    for (shape, axes) in shapes {
        for data in [Data::Signed, Data::Positive, Data::Shifted, Data::Ties] {
            all.push(identity(kind, shape, axes, data, [Place::Contiguous; 2]));
        }
    }
    let places = [Place::Transposed, Place::Contiguous];
    all.push(identity(kind, &[301, 257], 0b10, Data::Signed, places));
    all.push(identity(kind, &[301, 257], 0b01, Data::Positive, places));
}
