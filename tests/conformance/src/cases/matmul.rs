//! Matrix products.

use super::Tier;
use super::programs::{Traced, apply, traced};
use crate::data::{Case, Place, Problem};
use starling_contract::{DType, Epilogue, Gemm, View};
use starling_ops::Math;

/// Sizes, layouts and factors of one product.
#[derive(Clone, Debug)]
struct Product {
    batch: Vec<usize>,
    mnk: [usize; 3],
    /// Layouts of a, b and c; `Transposed` within a matrix is the t of nt, tn and tt.
    places: [Place; 3],
    /// Batch axes of a and of b that repeat.
    repeat: [bool; 2],
    alpha: f32,
    beta: f32,
    /// Of a, b and c.
    dtypes: [DType; 3],
}

const ROWS: Place = Place::Contiguous;
const COLUMNS: Place = Place::Transposed;

impl Product {
    fn new(m: usize, n: usize, k: usize) -> Self {
        Self {
            batch: Vec::new(),
            mnk: [m, n, k],
            places: [ROWS; 3],
            repeat: [false; 2],
            alpha: 1.0,
            beta: 0.0,
            dtypes: [DType::F32; 3],
        }
    }

    fn of(self, dtypes: [DType; 3]) -> Self {
        Self { dtypes, ..self }
    }

    /// The types in words.
    fn types(&self) -> String {
        match self.dtypes {
            [a, b, c] if a == b && b == c => a.to_string(),
            [a, b, c] => format!("{a} by {b} to {c}"),
        }
    }

    fn over(self, a: Place, b: Place, c: Place) -> Self {
        Self { places: [a, b, c], ..self }
    }

    fn scaled(self, alpha: f32, beta: f32) -> Self {
        Self { alpha, beta, ..self }
    }

    fn batched(self, batch: &[usize], repeat: [bool; 2]) -> Self {
        Self { batch: batch.to_vec(), repeat, ..self }
    }

    fn title(&self) -> String {
        let [m, n, k] = self.mnk;
        let mut title = format!("{m}x{n}x{k}");
        if !self.batch.is_empty() {
            title += &format!(" batch {:?} repeated {:?}", self.batch, self.repeat);
        }
        if self.places != [ROWS; 3] {
            title += &format!(" {:?}", self.places);
        }
        if (self.alpha, self.beta) != (1.0, 0.0) {
            title += &format!(" alpha {} beta {}", self.alpha, self.beta);
        }
        title
    }

    /// The shapes of a, b and c.
    fn shapes(&self) -> [Vec<usize>; 3] {
        let [m, n, k] = self.mnk;
        [[m, k], [k, n], [m, n]].map(|matrix| [&self.batch[..], &matrix].concat())
    }

    /// A place for operand `i`: repeated along the batch where asked for.
    fn place(&self, i: usize) -> Place {
        let repeated = i < 2 && self.repeat[i] && !self.batch.is_empty();
        if repeated { Place::Repeat((1 << self.batch.len()) - 1) } else { self.places[i] }
    }

    fn case(self, title: String, fill: fn(&Product, &mut Problem)) -> Case {
        Case::new("gemm", title, move |title| {
            let mut p = Problem::new(title);
            fill(&self, &mut p);
            let (alpha, beta) = (self.alpha, self.beta);
            p.verb(move |v: &[View]| {
                let [a, b, c] = [v[0].clone(), v[1].clone(), v[2].clone()];
                Gemm { a, b, c, alpha, beta, epilogue: None, workspace: None }.into()
            })
        })
    }

    /// Random operands; c holds guards unless it is read.
    fn random(self) -> Case {
        let title = format!("{} {}", self.types(), self.title());
        self.case(title, |product, p| {
            let [a, b, c] = product.shapes();
            drawn(p, product.dtypes[0], &a, product.place(0));
            drawn(p, product.dtypes[1], &b, product.place(1));
            if product.beta == 0.0 {
                p.output(product.dtypes[2], &c, product.places[2]);
            } else {
                drawn(p, product.dtypes[2], &c, product.places[2]);
            }
        })
    }

    /// Each row of `a` picks one row of `b`, whose significands use all 24 bits: the product must
    /// be those numbers, which nothing that rounds its operands can give.
    fn one_hot(self, pick_rows: bool) -> Case {
        let which = if pick_rows { "a" } else { "b" };
        let title = format!("f32 one-hot {which} {}", self.title());
        let fill: fn(&Product, &mut Problem) = if pick_rows {
            |product, p| {
                let [_, _, k] = product.mnk;
                let [a, b, c] = product.shapes();
                p.values(DType::F32, &a, product.place(0), move |at| {
                    f64::from(u8::from(at % k == at / k * 7 % k))
                });
                significands(p, &b, product.place(1));
                p.output(DType::F32, &c, product.places[2]);
            }
        } else {
            |product, p| {
                let [_, n, k] = product.mnk;
                let [a, b, c] = product.shapes();
                significands(p, &a, product.place(0));
                p.values(DType::F32, &b, product.place(1), move |at| {
                    let (row, column) = (at / n % k, at % n);
                    f64::from(u8::from(row == column * 5 % k)) * -2.0
                });
                p.output(DType::F32, &c, product.places[2]);
            }
        };
        self.case(title, fill).exact()
    }

    /// Small integers, whose sums are exact in any order: a term too many or too few shows.
    fn integers(self) -> Case {
        let title = format!("{} integers {}", self.types(), self.title());
        let case = self.case(title, |product, p| {
            let [a, b, c] = product.shapes();
            let [a_type, b_type, c_type] = product.dtypes;
            if a_type == DType::I8 {
                drawn(p, a_type, &a, product.place(0));
                drawn(p, b_type, &b, product.place(1));
            } else {
                p.drawn(a_type, &a, product.place(0), |r| f64::from(r.below(9)) - 4.0);
                p.drawn(b_type, &b, product.place(1), |r| f64::from(r.below(9)) - 4.0);
            }
            p.drawn(c_type, &c, product.places[2], |r| f64::from(r.below(9)) - 4.0);
        });
        case.exact()
    }
}

/// Random numbers of a type: between -1 and 1, or every byte.
fn drawn(p: &mut Problem, dtype: DType, shape: &[usize], place: Place) {
    match dtype {
        DType::I8 => p.drawn(dtype, shape, place, |r| f64::from(r.below(256)) - 128.0),
        _ => p.drawn(dtype, shape, place, |r| f64::from(2.0 * r.uniform() - 1.0)),
    };
}

/// Numbers whose last bit is set, of random size and sign.
fn significands(p: &mut Problem, shape: &[usize], place: Place) {
    p.drawn(DType::F32, shape, place, |r| {
        let bits = r.word() & 0x807f_ffff | (120 + r.below(14)) << 23 | 1;
        f64::from(f32::from_bits(bits))
    });
}

pub fn cases(tier: Tier, all: &mut Vec<Case>) {
    let transposes = [ROWS, COLUMNS].map(|a| [ROWS, COLUMNS].map(|b| (a, b)));
    for (a, b) in transposes.into_iter().flatten() {
        for (m, n, k) in [(5, 7, 9), (17, 33, 20), (1, 18, 37), (19, 1, 33), (1, 1, 40)] {
            all.push(Product::new(m, n, k).over(a, b, ROWS).random());
            all.push(Product::new(m, n, k).over(a, b, ROWS).scaled(-0.5, 1.5).random());
        }
        all.push(Product::new(13, 21, 70).over(a, b, ROWS).one_hot(true));
        all.push(Product::new(13, 21, 70).over(a, b, ROWS).one_hot(false));
        all.push(Product::new(1, 21, 70).over(a, b, ROWS).one_hot(true));
        all.push(Product::new(13, 1, 70).over(a, b, ROWS).one_hot(false));
        all.push(Product::new(11, 23, 65).over(a, b, ROWS).scaled(2.0, -1.0).integers());
    }
    layouts(all);
    batches(all);
    degenerate(all);
    epilogues(tier, all);
    special(all);
    narrow(tier, all);
    integers(tier, all);
    if tier == Tier::Full {
        large(all);
    }
}

fn layouts(all: &mut Vec<Case>) {
    for (i, c) in Place::OUTPUTS.into_iter().enumerate() {
        let a = Place::OUTPUTS[(i + 2) % 6];
        let b = Place::OUTPUTS[(i * 5 + 1) % 6];
        all.push(Product::new(9, 11, 13).over(a, b, c).random());
        all.push(Product::new(9, 11, 13).over(a, b, c).scaled(2.0, 0.5).random());
        all.push(Product::new(1, 11, 13).over(a, b, c).random());
        all.push(Product::new(9, 1, 13).over(a, b, c).random());
    }
    for a in [Place::Repeat(0b01), Place::Repeat(0b10), Place::Overlap] {
        all.push(Product::new(9, 11, 13).over(a, ROWS, ROWS).random());
        all.push(Product::new(9, 11, 13).over(ROWS, a, ROWS).random());
    }
}

fn batches(all: &mut Vec<Case>) {
    for repeat in [[false, false], [true, false], [false, true]] {
        all.push(Product::new(5, 6, 7).batched(&[3], repeat).random());
        all.push(Product::new(5, 6, 7).batched(&[2, 3], repeat).scaled(0.5, 2.0).random());
        all.push(Product::new(1, 6, 7).batched(&[4], repeat).random());
        all.push(Product::new(6, 7, 8).batched(&[2, 2], repeat).one_hot(true));
    }
    let transposed = Product::new(5, 6, 7).batched(&[2, 3], [false; 2]);
    all.push(transposed.over(COLUMNS, Place::Gaps, Place::Reversed).random());
}

fn degenerate(all: &mut Vec<Case>) {
    for (m, n, k) in [(0, 3, 4), (3, 0, 4), (3, 4, 0), (0, 0, 0)] {
        all.push(Product::new(m, n, k).random());
        all.push(Product::new(m, n, k).scaled(1.0, 2.0).random());
    }
    all.push(Product::new(3, 4, 5).batched(&[0], [false; 2]).random());
    all.push(Product::new(3, 4, 5).scaled(0.0, 0.5).random());
    all.push(Product::new(2, 3, 4097).random());
    all.push(Product::new(2, 3, 4097).integers());
}

/// The old c of a product with beta = 0 is never read, but factors of 0 meet infinities.
fn special(all: &mut Vec<Case>) {
    let case = Product::new(6, 19, 21).case("f32 infinities and NaN".into(), |_, p| {
        p.values(DType::F32, &[6, 21], ROWS, |at| match at {
            3 => f64::INFINITY,
            45 => f64::NAN,
            66 => f64::NEG_INFINITY,
            at => (at % 5) as f64 - 2.0,
        });
        p.values(DType::F32, &[21, 19], ROWS, |at| match at {
            300 => f64::INFINITY,
            at => (at % 7) as f64 - 3.0,
        });
        p.output(DType::F32, &[6, 19], ROWS);
    });
    all.push(case.special());
}

/// A product with a program on its result.
fn with_epilogue(
    label: &str,
    product: Product,
    program: &Traced,
    inputs: &'static [Place],
    outputs: usize,
) -> Case {
    let title = format!("f32 {label} {}", product.title());
    let program = program.clone();
    Case::new("gemm", title, move |title| {
        let mut p = Problem::new(title);
        let [a, b, c] = product.shapes();
        p.uniform(&a, product.place(0));
        p.uniform(&b, product.place(1));
        p.uniform(&c, product.places[2]);
        for &place in inputs {
            p.uniform(&c, place);
        }
        for _ in 0..outputs {
            p.output(DType::F32, &c, Place::Gaps);
        }
        p.values(DType::F32, &[], Place::Contiguous, |_| 0.7);
        let (alpha, beta) = (product.alpha, product.beta);
        let Traced { program, immediates } = program.clone();
        p.verb(move |v: &[View]| {
            let [a, b, c] = [v[0].clone(), v[1].clone(), v[2].clone()];
            let (inputs, rest) = v[3..].split_at(inputs.len());
            let (outputs, params) = rest.split_at(outputs);
            let (inputs, outputs, params) = (inputs.to_vec(), outputs.to_vec(), params.to_vec());
            let epilogue =
                Some(Epilogue { program: program.clone(), params, immediates, inputs, outputs });
            Gemm { a, b, c, alpha, beta, epilogue, workspace: None }.into()
        })
    })
}

fn epilogues(tier: Tier, all: &mut Vec<Case>) {
    let bias = traced(|t| vec![t.add(t.input(0), t.input(1))]);
    let gelu = traced(|t| {
        let pre = t.add(t.input(0), t.input(1));
        vec![apply(t, "gelu", &[pre])[0], pre]
    });
    let residual = traced(|t| {
        let h = apply(t, "silu", &[t.mul(t.input(0), t.param(0))])[0];
        vec![t.add(h, t.input(2)), t.add(h, t.input(1))]
    });
    let clamped = traced(|t| {
        let scaled = t.mul(t.input(0), t.immediate(1.25));
        vec![apply(t, "clamp", &[t.add(scaled, t.input(1))])[0]]
    });
    let index = traced(|t| vec![t.fma(t.to_real(t.index()), t.lit(0.01), t.input(0))]);
    const ROW: Place = Place::Repeat(0b01);
    let mut sizes = vec![(5, 7, 9), (17, 35, 40), (1, 19, 21), (21, 1, 9), (4, 5, 0)];
    if tier == Tier::Full {
        sizes.extend([(130, 150, 300), (1, 700, 513), (7, 129, 700)]);
    }
    for (m, n, k) in sizes {
        for c in [ROWS, COLUMNS] {
            let product = Product::new(m, n, k).over(ROWS, COLUMNS, c).scaled(0.5, 0.0);
            all.push(with_epilogue("bias", product.clone(), &bias, &[ROW], 0));
            let added = product.clone().scaled(1.0, 0.5);
            all.push(with_epilogue("bias", added.clone(), &bias, &[ROW], 0));
            all.push(with_epilogue("bias, gelu, saved", product.clone(), &gelu, &[ROW], 1));
            all.push(with_epilogue("clamp", product.clone(), &clamped, &[ROW], 0));
            let inputs = &[ROW, Place::Gaps];
            all.push(with_epilogue("silu and residual", added, &residual, inputs, 1));
            all.push(with_epilogue("index", product, &index, &[], 0));
        }
    }
    let batched = Product::new(5, 6, 7).batched(&[2, 2], [false, true]);
    all.push(with_epilogue(
        "bias, gelu, saved",
        batched.clone(),
        &gelu,
        &[Place::Repeat(0b0111)],
        1,
    ));
    all.push(with_epilogue("index", batched, &index, &[], 0));
}

/// Operands of 16 bits, in any mixture with f32; sums are f32 at least.
fn narrow(tier: Tier, all: &mut Vec<Case>) {
    const HALF: DType = DType::F16;
    const BRAIN: DType = DType::BF16;
    const SINGLE: DType = DType::F32;
    for dtype in [HALF, BRAIN] {
        all.push(Product::new(9, 11, 13).of([dtype; 3]).random());
        for (a, b) in [(ROWS, ROWS), (ROWS, COLUMNS), (COLUMNS, ROWS), (COLUMNS, COLUMNS)] {
            all.push(Product::new(20, 24, 32).of([dtype; 3]).over(a, b, ROWS).random());
        }
        let to_f32 = Product::new(12, 20, 36).of([dtype, dtype, SINGLE]);
        all.push(to_f32.clone().random());
        all.push(to_f32.scaled(0.5, 1.5).random());
        all.push(Product::new(5, 8, 12).of([dtype; 3]).scaled(2.0, 0.5).random());
        all.push(Product::new(5, 6, 8).of([dtype; 3]).batched(&[3], [false, true]).random());
        all.push(Product::new(1, 20, 32).of([dtype; 3]).random());
        all.push(Product::new(20, 1, 32).of([dtype; 3]).random());
        all.push(Product::new(12, 21, 32).of([dtype, SINGLE, SINGLE]).random());
        all.push(Product::new(11, 23, 64).of([dtype; 3]).integers());
        if tier == Tier::Full {
            all.push(Product::new(129, 260, 512).of([dtype; 3]).random());
            all.push(Product::new(129, 260, 513).of([dtype; 3]).random());
            all.push(Product::new(30, 40, 4096).of([dtype, dtype, SINGLE]).random());
        }
    }
    all.push(Product::new(12, 20, 32).of([HALF, BRAIN, SINGLE]).random());
    all.push(Product::new(7, 9, 10).of([SINGLE, HALF, BRAIN]).random());
}

/// i8 by i8: exact in i32, rounded once in f32.
fn integers(tier: Tier, all: &mut Vec<Case>) {
    let mut sizes =
        vec![(9, 11, 13), (12, 20, 64), (1, 19, 32), (19, 1, 48), (5, 4, 0), (2, 3, 4097)];
    if tier == Tier::Full {
        sizes.extend([(129, 260, 512), (64, 130, 1000), (1, 1000, 2048)]);
    }
    const BYTE: DType = DType::I8;
    for to in [DType::I32, DType::F32] {
        for &(m, n, k) in &sizes {
            for (a, b) in [(ROWS, ROWS), (ROWS, COLUMNS), (COLUMNS, ROWS)] {
                let product = Product::new(m, n, k).of([BYTE, BYTE, to]).over(a, b, ROWS);
                all.push(product.integers());
            }
        }
        let layouts = Product::new(9, 11, 16).of([BYTE, BYTE, to]);
        all.push(layouts.clone().over(Place::Reversed, Place::Gaps, COLUMNS).integers());
        all.push(layouts.clone().over(Place::Overlap, Place::Repeat(0b01), Place::Gaps).integers());
        all.push(layouts.clone().scaled(1.0, 1.0).integers());
        all.push(layouts.clone().batched(&[2, 3], [true, false]).integers());
        all.push(layouts.batched(&[2, 3], [false, true]).integers());
    }
    let scaled = Product::new(9, 20, 64).of([BYTE, BYTE, DType::F32]);
    all.push(scaled.clone().scaled(0.01, 0.0).random());
    all.push(scaled.scaled(0.01, 2.0).over(ROWS, COLUMNS, COLUMNS).random());
    all.push(Product::new(9, 20, 64).of([BYTE, BYTE, DType::BF16]).scaled(0.01, 0.0).random());
}

fn large(all: &mut Vec<Case>) {
    for (a, b) in [(ROWS, ROWS), (ROWS, COLUMNS), (COLUMNS, ROWS), (COLUMNS, COLUMNS)] {
        for (m, n, k) in [
            (129, 257, 513),
            (64, 64, 4097),
            (1, 1025, 1025),
            (1025, 1, 1025),
            (5, 1025, 769),
            (300, 17, 1025),
        ] {
            all.push(Product::new(m, n, k).over(a, b, ROWS).random());
            all.push(Product::new(m, n, k).over(a, b, COLUMNS).scaled(2.0, 0.5).random());
        }
        all.push(Product::new(131, 517, 700).over(a, b, ROWS).one_hot(true));
        all.push(Product::new(131, 517, 700).over(a, b, ROWS).one_hot(false));
        all.push(Product::new(67, 131, 4097).over(a, b, ROWS).integers());
        all.push(Product::new(1, 2000, 500).over(a, b, ROWS).one_hot(true));
    }
    all.push(Product::new(300, 1500, 600).random());
    all.push(Product::new(33, 65, 129).batched(&[3, 4], [false; 2]).random());
    all.push(Product::new(33, 65, 129).batched(&[3, 4], [false, true]).random());
    all.push(Product::new(1, 65, 129).batched(&[64], [false, true]).random());
}
