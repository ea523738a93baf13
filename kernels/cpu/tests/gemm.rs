//! The matrix product against a naive f64 loop, for every instruction set of the machine.

use starling_kernels_cpu::gemm::{Gemm, Operand, OutOperand, TileEpilogue, gemm};
use starling_kernels_cpu::{Isa, Team};

/// Numbers in [-0.5, 0.5), from a xorshift generator.
struct Random(u64);

impl Random {
    fn next(&mut self) -> f32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 40) as f32 / (1 << 24) as f32 - 0.5
    }

    fn below(&mut self, n: usize) -> usize {
        ((f64::from(self.next()) + 0.5) * n as f64) as usize
    }
}

/// How a matrix lies in memory.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Lie {
    /// Rows adjacent.
    Rows,
    /// Columns adjacent: the transpose.
    Columns,
    /// Rows with a gap behind each.
    Padded,
    /// Neither.
    Spread,
    /// Rows and columns backwards.
    Backwards,
    /// Every row the same.
    SameRow,
    /// Every column the same.
    SameColumn,
}

const READ: [Lie; 7] = [
    Lie::Rows,
    Lie::Columns,
    Lie::Padded,
    Lie::Spread,
    Lie::Backwards,
    Lie::SameRow,
    Lie::SameColumn,
];
const WRITTEN: [Lie; 5] = [Lie::Rows, Lie::Columns, Lie::Padded, Lie::Spread, Lie::Backwards];
const GUARD: f32 = 12345.0;
const GUARDS: usize = 64;

/// A batch of matrices with guard numbers around.
struct Matrix {
    data: Vec<f32>,
    /// Of element (0, 0) of item 0.
    start: isize,
    row_stride: isize,
    col_stride: isize,
    batch: Vec<isize>,
    rows: usize,
    cols: usize,
}

impl Matrix {
    fn new(lie: Lie, rows: usize, cols: usize, batch: usize, random: &mut Random) -> Matrix {
        let (r, c) = (rows as isize, cols as isize);
        let (row_stride, col_stride) = match lie {
            Lie::Rows => (c, 1),
            Lie::Columns => (1, r),
            Lie::Padded => (c + 3, 1),
            Lie::Spread => (2 * c + 1, 2),
            Lie::Backwards => (-c, -1),
            Lie::SameRow => (0, 1),
            Lie::SameColumn => (1, 0),
        };
        let reach = |n: isize, stride: isize| (n.max(1) - 1) * stride.abs();
        let item = reach(r, row_stride) + reach(c, col_stride) + 1;
        let before = |n: isize, stride: isize| if stride < 0 { reach(n, stride) } else { 0 };
        let start = GUARDS as isize + before(r, row_stride) + before(c, col_stride);
        // Items in falling order.
        let batch: Vec<_> = (0..batch as isize).rev().map(|i| i * item).collect();
        let mut m = Matrix {
            data: vec![GUARD; item as usize * batch.len() + 2 * GUARDS],
            start,
            row_stride,
            col_stride,
            batch,
            rows,
            cols,
        };
        for e in m.elements() {
            m.data[e] = random.next();
        }
        m
    }

    fn at(&self, item: usize, i: usize, j: usize) -> usize {
        let at = self.batch[item] + i as isize * self.row_stride + j as isize * self.col_stride;
        (self.start + at) as usize
    }

    fn elements(&self) -> Vec<usize> {
        let mut all = Vec::new();
        for item in 0..self.batch.len() {
            for i in 0..self.rows {
                all.extend((0..self.cols).map(|j| self.at(item, i, j)));
            }
        }
        all
    }

    fn operand(&self) -> Operand {
        let ptr = self.data.as_ptr().wrapping_offset(self.start);
        Operand { ptr, row_stride: self.row_stride, col_stride: self.col_stride }
    }

    fn out(&mut self) -> OutOperand {
        let ptr = self.data.as_mut_ptr().wrapping_offset(self.start);
        OutOperand { ptr, row_stride: self.row_stride, col_stride: self.col_stride }
    }
}

/// `x -> 2 x + 100 item + 10 row + col`, which catches a wrong position and a second call.
struct Where;

fn where_offset(item: usize, i: usize, j: usize) -> f32 {
    (100 * item + 10 * (i % 16) + j % 16) as f32
}

impl TileEpilogue for Where {
    unsafe fn apply(
        &self,
        item: usize,
        row: usize,
        col: usize,
        rows: usize,
        cols: usize,
        tile: *mut f32,
        row_stride: usize,
    ) {
        for i in 0..rows {
            for j in 0..cols {
                // SAFETY: inside the tile that the caller promises.
                unsafe {
                    let p = tile.add(i * row_stride + j);
                    *p = 2.0 * *p + where_offset(item, row + i, col + j);
                }
            }
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Case {
    m: usize,
    n: usize,
    k: usize,
    batch: usize,
    a: Lie,
    b: Lie,
    c: Lie,
    alpha: f32,
    beta: f32,
    epilogue: bool,
}

/// Runs a case and gives C; the elements are checked against f64, the rest for having been left.
fn run(isa: Isa, case: &Case, check: bool) -> Vec<f32> {
    let mut random = Random(0x9e37_79b9_7f4a_7c15 ^ (case.m * 1009 + case.n * 31 + case.k) as u64);
    let a = Matrix::new(case.a, case.m, case.k, case.batch, &mut random);
    let b = Matrix::new(case.b, case.k, case.n, case.batch, &mut random);
    let mut c = Matrix::new(case.c, case.m, case.n, case.batch, &mut random);
    if case.beta == 0.0 {
        for e in c.elements() {
            c.data[e] = f32::NAN;
        }
    }
    let old = c.data.clone();
    let offsets = c.batch.clone();
    let product = Gemm {
        m: case.m,
        n: case.n,
        k: case.k,
        batch: case.batch,
        a: a.operand(),
        b: b.operand(),
        c: c.out(),
        a_batch: &a.batch,
        b_batch: &b.batch,
        c_batch: &offsets,
        alpha: case.alpha,
        beta: case.beta,
        epilogue: case.epilogue.then_some(&Where),
    };
    // SAFETY: the matrices hold what the strides reach; C's elements are distinct.
    unsafe { gemm(isa, &product) }.unwrap();
    if check {
        compare(isa, case, &a, &b, &old, &c);
    }
    c.data
}

/// `|C - f64| <= 4 u sqrt(k) |a| |b|` (row of A and column of B by norm) and the roundings of the
/// rest of the formula.
fn compare(isa: Isa, case: &Case, a: &Matrix, b: &Matrix, old: &[f32], c: &Matrix) {
    let u = f64::from(f32::EPSILON) / 2.0;
    let mut seen = vec![false; c.data.len()];
    for item in 0..case.batch {
        for i in 0..case.m {
            for j in 0..case.n {
                let (mut sum, mut aa, mut bb) = (0.0, 0.0, 0.0);
                for p in 0..case.k {
                    let x = f64::from(a.data[a.at(item, i, p)]);
                    let y = f64::from(b.data[b.at(item, p, j)]);
                    (sum, aa, bb) = (sum + x * y, aa + x * x, bb + y * y);
                }
                let e = c.at(item, i, j);
                seen[e] = true;
                let alpha = f64::from(case.alpha);
                let mut want = alpha * sum;
                let mut size = want.abs();
                if case.beta != 0.0 {
                    let term = f64::from(case.beta) * f64::from(old[e]);
                    size += term.abs();
                    want += term;
                }
                let chain = 4.0 * (case.k as f64).sqrt() * (aa * bb).sqrt() * alpha.abs();
                let mut allowed = u * (chain + 2.0 * size);
                if case.epilogue {
                    want = 2.0 * want + f64::from(where_offset(item, i, j));
                    allowed = 2.0 * allowed + 2.0 * u * want.abs();
                }
                let error = (f64::from(c.data[e]) - want).abs();
                assert!(
                    error <= allowed,
                    "{isa} {case:?} item {item} ({i}, {j}): {} for {want}, {error:e} > {allowed:e}",
                    c.data[e]
                );
            }
        }
    }
    for (e, seen) in seen.into_iter().enumerate() {
        assert!(seen || c.data[e] == old[e], "{isa} {case:?}: number {e} beside C was written");
    }
}

const PLAIN: Case = Case {
    m: 1,
    n: 1,
    k: 1,
    batch: 1,
    a: Lie::Rows,
    b: Lie::Rows,
    c: Lie::Rows,
    alpha: 1.0,
    beta: 0.0,
    epilogue: false,
};
/// nn, nt, tn, tt.
const LAYOUTS: [(Lie, Lie); 4] = [
    (Lie::Rows, Lie::Rows),
    (Lie::Rows, Lie::Columns),
    (Lie::Columns, Lie::Rows),
    (Lie::Columns, Lie::Columns),
];

#[test]
fn small_sizes_agree_with_f64() {
    for isa in Isa::under_test().unwrap() {
        for m in [1, 2, 3, 5, 7, 12, 13, 25, 33] {
            for n in [1, 2, 3, 8, 15, 16, 17, 31, 32, 33, 65] {
                for k in [1, 2, 5, 17, 40] {
                    for (a, b) in LAYOUTS {
                        run(isa, &Case { m, n, k, a, b, ..PLAIN }, true);
                    }
                }
            }
        }
    }
}

#[test]
fn sizes_beyond_every_block_agree_with_f64() {
    for isa in Isa::under_test().unwrap() {
        let sizes = [(1, 700, 300), (2, 1030, 530), (4, 300, 1100), (40, 130, 700), (65, 1, 515)];
        let large = [(100, 3, 600), (300, 70, 33), (130, 260, 517), (400, 40, 260), (5, 2100, 9)];
        for (m, n, k) in sizes.into_iter().chain(large) {
            for (a, b) in LAYOUTS {
                run(isa, &Case { m, n, k, a, b, ..PLAIN }, true);
                let more = Case { alpha: -0.75, beta: 1.0, epilogue: true, ..PLAIN };
                run(isa, &Case { m, n, k, a, b, ..more }, true);
            }
        }
    }
}

#[test]
fn every_stride_alpha_beta_and_batch_agrees_with_f64() {
    let mut random = Random(77);
    for isa in Isa::under_test().unwrap() {
        for a in READ {
            for b in READ {
                for c in WRITTEN {
                    for (alpha, beta) in [(1.0, 0.0), (1.0, 1.0), (-0.5, 0.25), (0.0, 2.0)] {
                        let case = Case {
                            m: 1 + random.below(40),
                            n: 1 + random.below(70),
                            k: random.below(40),
                            batch: 1 + random.below(4),
                            a,
                            b,
                            c,
                            alpha,
                            beta,
                            epilogue: random.next() < 0.0,
                        };
                        run(isa, &case, true);
                        let thin = Case { m: 1 + random.below(6), ..case };
                        run(isa, &thin, true);
                        let narrow = Case { n: 1 + random.below(6), ..case };
                        run(isa, &narrow, true);
                    }
                }
            }
        }
    }
}

#[test]
fn empty_products_do_what_the_formula_says() {
    for isa in Isa::under_test().unwrap() {
        for (m, n, k, batch) in [(0, 5, 3, 1), (5, 0, 3, 1), (5, 3, 4, 0), (3, 7, 0, 2)] {
            for (beta, epilogue) in [(0.0, false), (2.0, false), (1.0, true)] {
                run(isa, &Case { m, n, k, batch, beta, epilogue, ..PLAIN }, true);
            }
        }
    }
}

/// A with a single 1 in each row picks rows of B, whose significands have all 24 bits: a product
/// through tf32, bf16 or f16 cannot be exact.
#[test]
fn one_hot_rows_pick_exactly() {
    for isa in Isa::under_test().unwrap() {
        for (m, n, k) in [(1, 40, 300), (3, 33, 70), (30, 48, 300), (64, 64, 64)] {
            for nt in [false, true] {
                let mut random = Random(5);
                let picks: Vec<_> = (0..m).map(|_| random.below(k)).collect();
                let mut a = vec![0.0f32; m * k];
                picks.iter().enumerate().for_each(|(i, &p)| a[i * k + p] = 1.0);
                let full = |_| f32::from_bits(random.next().to_bits() | 1);
                let b: Vec<f32> = (0..k * n).map(full).collect();
                let (row_stride, col_stride) = if nt { (1, k) } else { (n, 1) };
                let (row, col) = (row_stride as isize, col_stride as isize);
                let mut c = vec![f32::NAN; m * n];
                let product = Gemm {
                    m,
                    n,
                    k,
                    batch: 1,
                    a: Operand { ptr: a.as_ptr(), row_stride: k as isize, col_stride: 1 },
                    b: Operand { ptr: b.as_ptr(), row_stride: row, col_stride: col },
                    c: OutOperand { ptr: c.as_mut_ptr(), row_stride: n as isize, col_stride: 1 },
                    a_batch: &[0],
                    b_batch: &[0],
                    c_batch: &[0],
                    alpha: 1.0,
                    beta: 0.0,
                    epilogue: None,
                };
                // SAFETY: the vectors hold m x k, k x n and m x n numbers.
                unsafe { gemm(isa, &product) }.unwrap();
                for (i, &p) in picks.iter().enumerate() {
                    for j in 0..n {
                        let want = b[p * row_stride + j * col_stride];
                        assert_eq!(c[i * n + j], want, "{isa} {m}x{n}x{k} nt {nt} ({i}, {j})");
                    }
                }
            }
        }
    }
}

#[test]
fn the_number_of_threads_changes_no_bit() {
    let teams = [1, 2, 3].map(|n| Team::new(n).expect("threads"));
    let bits = |data: Vec<f32>| data.into_iter().map(f32::to_bits).collect::<Vec<_>>();
    let shapes = [
        (1, 1500, 1000, 1),
        (5, 700, 600, 1),
        (130, 300, 700, 1),
        (300, 64, 900, 1),
        (31, 17, 300, 40),
        (200, 200, 300, 2),
        // Rows that lie 4096 bytes apart, read where they are and packed.
        (10, 1024, 1024, 1),
        (40, 1024, 1024, 1),
        // More k-blocks than are packed at once: several groups add to C.
        (9, 512, 5000, 1),
    ];
    for isa in Isa::under_test().unwrap() {
        for (m, n, k, batch) in shapes {
            for (a, b) in LAYOUTS {
                let case = Case { m, n, k, batch, a, b, beta: 1.0, epilogue: true, ..PLAIN };
                let runs: Vec<_> =
                    teams.iter().map(|t| t.install(|| bits(run(isa, &case, false)))).collect();
                assert!(runs.iter().all(|r| *r == runs[0]), "{isa} {case:?}");
            }
        }
    }
}
