//! Moving elements: copy, fill, gather, scatter_add.

use super::Tier;
use crate::data::{Case, Place, Problem};
use starling_contract::{Copy, DType, Fill, Gather, ScatterAdd, View};
use starling_ops::philox::HostStream;

pub fn cases(tier: Tier, all: &mut Vec<Case>) {
    copies(tier, all);
    fills(all);
    for (shape, axis, picks) in tables(tier) {
        for index in [DType::I32, DType::U32] {
            all.push(gather(DType::F32, &shape, axis, picks, index));
        }
        all.push(scatter_add(&shape, axis, picks, DType::I32));
    }
    for dtype in DType::ALL {
        all.push(gather(dtype, &[7, 5], 0, 9, DType::I32));
        all.push(gather(dtype, &[5, 7], 1, 9, DType::U32));
    }
    embedding(tier, all);
}

/// Numbers of a type: small, large, its ends, halves, and what the narrow types cannot hold.
fn number(r: &mut HostStream, dtype: DType) -> f64 {
    let pick = r.below(8);
    let spread = f64::from(r.below(2_000_001)) - 1e6;
    match dtype {
        DType::U8 => f64::from(r.below(256)),
        DType::I8 => f64::from(r.below(256)) - 128.0,
        DType::I32 => match pick {
            0 => f64::from(i32::MIN),
            1 => f64::from(i32::MAX),
            2..5 => f64::from(r.below(600)) - 300.0,
            _ => spread,
        },
        DType::U32 => match pick {
            0 => f64::from(u32::MAX),
            1 => f64::from(r.word()),
            2..5 => f64::from(r.below(600)),
            _ => spread.abs(),
        },
        DType::F16 => float(r, pick, spread).clamp(-65504.0, 65504.0),
        _ => float(r, pick, spread),
    }
}

fn float(r: &mut HostStream, pick: u32, spread: f64) -> f64 {
    match pick {
        0 => [0.0, -0.0, 0.5, -0.5, 1.5, -2.5, 255.5, -128.5][r.below(8) as usize],
        1 => spread * 1e-12,
        2 => spread,
        3 => spread * 1e-3 + 0.5,
        _ => 16.0 * f64::from(r.uniform()) - 8.0,
    }
}

fn copy(from: DType, to: DType, shape: &[usize], places: [Place; 2]) -> Case {
    let [source, target] = places;
    let name = format!("{from} to {to} {shape:?} {source:?} to {target:?}");
    let shape = shape.to_vec();
    let case = Case::new("copy", name, move |title| {
        let mut p = Problem::new(title);
        p.drawn(from, &shape, source, |r| number(r, from));
        p.output(to, &shape, target);
        p.verb(|v: &[View]| Copy { src: v[0].clone(), dst: v[1].clone() }.into())
    });
    // f16 overflows to infinity.
    if to == DType::F16 && from != to { case.special() } else { case }
}

fn copies(tier: Tier, all: &mut Vec<Case>) {
    for (i, from) in DType::ALL.into_iter().enumerate() {
        for (j, to) in DType::ALL.into_iter().enumerate() {
            all.push(copy(from, to, &[3, 37], [Place::Contiguous; 2]));
            let places = [Place::OUTPUTS[(i + j) % 6], Place::OUTPUTS[(2 * i + j + 1) % 6]];
            all.push(copy(from, to, &[4, 3, 7], places));
        }
    }
    for from in Place::OUTPUTS.into_iter().chain([Place::Repeat(0b101), Place::Overlap]) {
        for to in Place::OUTPUTS {
            all.push(copy(DType::F32, DType::F32, &[3, 5, 4], [from, to]));
        }
    }
    for shape in [&[][..], &[0], &[3, 0, 2], &[1], &[2, 1, 3, 1, 2, 2, 1, 2]] {
        all.push(copy(DType::F32, DType::F32, shape, [Place::Contiguous; 2]));
        all.push(copy(DType::F16, DType::F32, shape, [Place::Reversed, Place::Step]));
    }
    if tier == Tier::Full {
        let places = [Place::Transposed, Place::Contiguous];
        all.push(copy(DType::F32, DType::F32, &[517, 1031], places));
        all.push(copy(DType::F32, DType::F32, &[7, 65, 129], places));
        all.push(copy(DType::BF16, DType::BF16, &[517, 131], places));
        all.push(copy(DType::U8, DType::U8, &[517, 131], places));
        for narrow in [DType::F16, DType::BF16] {
            all.push(copy(DType::F32, narrow, &[100_003], [Place::Contiguous; 2]));
            all.push(copy(narrow, DType::F32, &[100_003], [Place::Contiguous; 2]));
        }
    }
    special_copies(all);
}

/// Infinities, NaN, subnormals and the numbers half-way between narrow ones.
fn special_copies(all: &mut Vec<Case>) {
    const VALUES: [f64; 20] = [
        f64::INFINITY,
        f64::NEG_INFINITY,
        f64::NAN,
        65504.0,
        65519.996,
        65520.0,
        -65536.0,
        3.4e38,
        3.396e38,
        6e-8,
        2.98e-8,
        2.9802322e-8,
        6.1e-5,
        1e-40,
        -1e-45,
        1.00048828125,
        1.00146484375,
        1.00390625,
        1.01171875,
        4294967296.0,
    ];
    for from in [DType::F32, DType::F16, DType::BF16] {
        for to in DType::ALL {
            let name = format!("{from} to {to} special values");
            let case = Case::new("copy", name, move |title| {
                let mut p = Problem::new(title);
                p.values(from, &[VALUES.len()], Place::Contiguous, |i| VALUES[i]);
                p.output(to, &[VALUES.len()], Place::Contiguous);
                p.verb(|v: &[View]| Copy { src: v[0].clone(), dst: v[1].clone() }.into())
            });
            all.push(case.special());
        }
    }
}

fn fills(all: &mut Vec<Case>) {
    for (i, dtype) in DType::ALL.into_iter().enumerate() {
        for (j, value) in [0.0, 1.0, 2.5, -3.0, 70_000.0].into_iter().enumerate() {
            let shape = [vec![67], vec![3, 5], vec![0], vec![], vec![2, 3, 5]][j].clone();
            let place = Place::OUTPUTS[(i + j) % 6];
            let name = format!("{dtype} {shape:?} with {value} {place:?}");
            let case = Case::new("fill", name, move |title| {
                let mut p = Problem::new(title);
                p.output(dtype, &shape, place);
                p.verb(move |v: &[View]| Fill { dst: v[0].clone(), value }.into())
            });
            all.push(if dtype == DType::F16 { case.special() } else { case });
        }
    }
    for value in [f64::INFINITY, f64::NAN] {
        let case = Case::new("fill", format!("f32 [19] with {value}"), move |title| {
            let mut p = Problem::new(title);
            p.output(DType::F32, &[19], Place::Contiguous);
            p.verb(move |v: &[View]| Fill { dst: v[0].clone(), value }.into())
        });
        all.push(case.special());
    }
}

/// The table's shape, the axis and how many are picked.
fn tables(tier: Tier) -> Vec<(Vec<usize>, usize, usize)> {
    let mut all = vec![
        (vec![7], 0, 20),
        (vec![7, 4], 0, 9),
        (vec![7, 4], 1, 9),
        (vec![3, 5, 4], 1, 6),
        (vec![3, 5, 4], 2, 3),
        (vec![1, 5], 0, 6),
        (vec![7, 4], 0, 0),
        (vec![7, 0], 0, 3),
    ];
    if tier == Tier::Full {
        all.extend([(vec![1001, 67], 0, 5000), (vec![67, 1001], 1, 500), (vec![3, 70_000], 1, 99)]);
    }
    all
}

fn with_picks(shape: &[usize], axis: usize, picks: usize) -> Vec<usize> {
    let mut part = shape.to_vec();
    part[axis] = picks;
    part
}

fn gather(dtype: DType, shape: &[usize], axis: usize, picks: usize, index: DType) -> Case {
    let name = format!("{dtype} {shape:?} axis {axis} by {picks} {index}");
    let (shape, part) = (shape.to_vec(), with_picks(shape, axis, picks));
    Case::new("gather", name, move |title| {
        let mut p = Problem::new(title);
        let bound = shape[axis] as u32;
        p.drawn(dtype, &shape, Place::Gaps, |r| number(r, dtype));
        p.drawn(index, &part, Place::Contiguous, |r| f64::from(r.below(bound)));
        p.output(dtype, &part, Place::Transposed);
        p.verb(move |v: &[View]| {
            Gather { x: v[0].clone(), index: v[1].clone(), axis, out: v[2].clone() }.into()
        })
    })
}

fn scatter_add(shape: &[usize], axis: usize, picks: usize, index: DType) -> Case {
    let name = format!("f32 {shape:?} axis {axis} by {picks} {index}");
    let (shape, part) = (shape.to_vec(), with_picks(shape, axis, picks));
    Case::new("scatter_add", name, move |title| {
        let mut p = Problem::new(title);
        let bound = shape[axis] as u32;
        p.uniform(&part, Place::Reversed);
        p.drawn(index, &part, Place::Gaps, |r| f64::from(r.below(bound)));
        p.uniform(&shape, Place::Transposed);
        p.verb(move |v: &[View]| {
            let [x, index, out] = [v[0].clone(), v[1].clone(), v[2].clone()];
            ScatterAdd { x, index, axis, out, workspace: None }.into()
        })
    })
}

/// Rows of a table by number, the index repeated along them: an embedding and its gradient.
fn embedding(tier: Tier, all: &mut Vec<Case>) {
    let mut sizes = vec![(11, 5, 7), (5, 33, 3), (300, 17, 40)];
    if tier == Tier::Full {
        sizes.push((256, 768, 1024));
    }
    for (rows, width, tokens) in sizes {
        let name = format!("f32 rows of [{rows}, {width}] by {tokens}");
        all.push(Case::new("gather", name.clone(), move |title| {
            let mut p = Problem::new(title);
            p.uniform(&[rows, width], Place::Contiguous);
            token_index(&mut p, rows, width, tokens);
            p.output(DType::F32, &[tokens, width], Place::Contiguous);
            p.verb(|v: &[View]| {
                Gather { x: v[0].clone(), index: v[1].clone(), axis: 0, out: v[2].clone() }.into()
            })
        }));
        all.push(Case::new("scatter_add", name, move |title| {
            let mut p = Problem::new(title);
            p.uniform(&[tokens, width], Place::Contiguous);
            token_index(&mut p, rows, width, tokens);
            p.uniform(&[rows, width], Place::Contiguous);
            p.verb(|v: &[View]| {
                let [x, index, out] = [v[0].clone(), v[1].clone(), v[2].clone()];
                ScatterAdd { x, index, axis: 0, out, workspace: None }.into()
            })
        }));
    }
}

/// An index of `[tokens, width]` that repeats along the rows.
fn token_index(p: &mut Problem, rows: usize, width: usize, tokens: usize) {
    let ids: Vec<u32> = (0..tokens).map(|_| p.random().below(rows as u32)).collect();
    p.values(DType::I32, &[tokens, width], Place::Repeat(0b10), |at| f64::from(ids[at / width]));
}
