//! Products with few rows: B is streamed once, as it lies in memory, by all rows together.
//!
//! Two ways to walk B: along its rows, when its columns are adjacent ([`Rows`]), adding multiples
//! of them to sums in L1; and along its columns, when its rows are adjacent ([`Dots`]), a few dot
//! products at a time. Few columns are few rows of the transposed product.

use super::Operand;
use super::item::{Item, each};
use super::table::{THIN_COLS, THIN_DOTS, THIN_ROWS, THIN_SUMS};
use crate::isa::Kernel;
use crate::scratch::with_scratch;
use crate::simd::Simd;
use std::ops::Range;

/// A product with few rows.
#[derive(Clone, Copy)]
pub(super) struct Thin<'a> {
    /// In the orientation in which it has few rows.
    item: &'a Item<'a>,
    /// In the other, if that is the caller's.
    turned: Option<&'a Item<'a>>,
}

impl<'a> Thin<'a> {
    /// Whether the item has few rows and a B that one of the ways can walk.
    pub(super) fn takes(item: &Item<'_>) -> bool {
        let rows = match (item.b.col_stride, item.b.row_stride) {
            (1, _) => THIN_ROWS,
            // Packing transposes such a B, which a product with few more rows does not pay for;
            // short dot products would not pay for adding up their lanes.
            (_, 1) if item.n >= 4 * item.m && item.k >= 128 => THIN_DOTS,
            (_, 1) => THIN_ROWS,
            _ => 0,
        };
        item.k > 0 && item.m <= rows
    }

    /// `item` is what [`Thin::takes`], `turned` the caller's product when that is the transpose.
    pub(super) fn new(item: &'a Item<'a>, turned: Option<&'a Item<'a>>) -> Thin<'a> {
        Thin { item, turned }
    }

    /// Runs the product.
    ///
    /// # Safety
    /// As [`super::gemm`] for the item.
    pub(super) unsafe fn run(&self) {
        let item = self.item;
        let by_rows = item.b.col_stride == 1;
        let most = if by_rows { THIN_SUMS / item.m } else { item.n };
        let share = item.n.div_ceil(if item.threads == 1 { 1 } else { 4 * item.threads });
        let cols = share.next_multiple_of(THIN_COLS).min(most);
        each(item.threads, item.n.div_ceil(cols), |task| {
            let js = task * cols..item.n.min((task + 1) * cols);
            // SAFETY: each task has columns of its own; the rest is the caller's promise.
            unsafe {
                self.task(by_rows, js.clone());
                match self.turned {
                    None => item.finish(0..item.m, js),
                    Some(turned) => turned.finish(js, 0..item.m),
                }
            }
        });
    }

    /// Columns `js`.
    ///
    /// # Safety
    /// As [`Thin::run`], and nobody else has these columns.
    unsafe fn task(&self, by_rows: bool, js: Range<usize>) {
        let item = self.item;
        if by_rows {
            with_scratch(item.m * js.len(), |sums| item.isa.run(Rows { thin: *self, js, sums }));
        } else if item.a.col_stride == 1 {
            item.isa.run(Dots { thin: *self, js, a: item.a });
        } else {
            with_scratch(item.m * item.k, |copy| {
                // SAFETY: A is readable by the caller's promise.
                let a = unsafe { self.copy_a(copy) };
                item.isa.run(Dots { thin: *self, js, a });
            });
        }
    }

    /// A with adjacent columns.
    ///
    /// # Safety
    /// A is readable and `copy` holds `m * k` numbers.
    unsafe fn copy_a(&self, copy: &mut [f32]) -> Operand {
        for (i, row) in copy.chunks_exact_mut(self.item.k).enumerate() {
            for (p, x) in row.iter_mut().enumerate() {
                let at = i as isize * self.item.a.row_stride + p as isize * self.item.a.col_stride;
                // SAFETY: A(i, p).
                *x = unsafe { *self.item.a.ptr.offset(at) };
            }
        }
        Operand { ptr: copy.as_ptr(), row_stride: self.item.k as isize, col_stride: 1 }
    }

    /// `C(i, j) = alpha * sum + beta * C(i, j)`.
    ///
    /// # Safety
    /// The element is this task's.
    #[inline(always)]
    unsafe fn write<S: Simd>(&self, s: S, i: usize, j: usize, sum: f32) {
        let at = i as isize * self.item.c.row_stride + j as isize * self.item.c.col_stride;
        let p = self.item.c.ptr.wrapping_offset(at);
        let product = self.item.alpha * sum;
        // SAFETY: C(i, j); it is read only when beta is not 0.
        unsafe {
            if self.item.beta == 0.0 {
                *p = product;
            } else {
                let v = s.fma(
                    s.lit(f64::from(self.item.beta)),
                    s.load_first(p, 1),
                    s.lit(f64::from(product)),
                );
                s.store_first(p, 1, v);
            }
        }
    }
}

/// Some columns, along the rows of B.
struct Rows<'a> {
    thin: Thin<'a>,
    js: Range<usize>,
    sums: &'a mut [f32],
}

impl Kernel for Rows<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (thin, width) = (self.thin, self.js.len());
        self.sums.fill(0.0);
        let sums = self.sums.as_mut_ptr();
        // SAFETY: `run` made this task for these columns, with room for the sums.
        unsafe {
            let mut i = 0;
            while i < thin.item.m {
                let sums = sums.add(i * width);
                let rows = (thin.item.m - i).min(4);
                match rows {
                    4 => self.add::<S, 4, 4>(s, i, sums),
                    3 => self.add::<S, 3, 4>(s, i, sums),
                    2 => self.add::<S, 2, 8>(s, i, sums),
                    _ => self.add::<S, 1, 8>(s, i, sums),
                }
                i += rows;
            }
            for i in 0..thin.item.m {
                for j in 0..width {
                    thin.write(s, i, self.js.start + j, *sums.add(i * width + j));
                }
            }
        }
    }
}

impl Rows<'_> {
    /// `sums += A(i .. i + M, ..) B(.., js)`, `STEPS` rows of B in one pass over the sums. Every
    /// element is one chain in the order of k, as in the micro-kernel.
    ///
    /// # Safety
    /// As [`Thin::run`]; `sums` holds `M` rows.
    #[inline(always)]
    unsafe fn add<S: Simd, const M: usize, const STEPS: usize>(
        &self,
        s: S,
        i: usize,
        sums: *mut f32,
    ) {
        let k = self.thin.item.k;
        for p in (0..k - k % STEPS).step_by(STEPS) {
            // SAFETY: rows p .. p + STEPS of B.
            unsafe { self.pass::<S, M, STEPS>(s, i, p, sums) }
        }
        for p in k - k % STEPS..k {
            // SAFETY: row p of B.
            unsafe { self.pass::<S, M, 1>(s, i, p, sums) }
        }
    }

    /// Rows `p .. p + STEPS` of B.
    ///
    /// # Safety
    /// As [`Rows::add`].
    #[inline(always)]
    unsafe fn pass<S: Simd, const M: usize, const STEPS: usize>(
        &self,
        s: S,
        i: usize,
        p: usize,
        sums: *mut f32,
    ) {
        let (a, b, width) = (&self.thin.item.a, &self.thin.item.b, self.js.len());
        let mut factors = [[s.lit(0.0); STEPS]; M];
        for (r, factors) in factors.iter_mut().enumerate() {
            for (t, factor) in factors.iter_mut().enumerate() {
                let at = (i + r) as isize * a.row_stride + (p + t) as isize * a.col_stride;
                // SAFETY: A(i + r, p + t).
                *factor = s.lit(f64::from(unsafe { *a.ptr.offset(at) }));
            }
        }
        let row = b.ptr.wrapping_offset(p as isize * b.row_stride).wrapping_add(self.js.start);
        let whole = width - width % S::LANES;
        for j in (0..whole).step_by(S::LANES) {
            let mut v = [s.lit(0.0); STEPS];
            for (t, v) in v.iter_mut().enumerate() {
                let at = row.wrapping_offset(t as isize * b.row_stride).wrapping_add(j);
                // SAFETY: B(p + t, j .. j + LANES).
                *v = unsafe { s.load(at) };
            }
            for (r, factors) in factors.iter().enumerate() {
                let at = sums.wrapping_add(r * width + j);
                // SAFETY: the sums of row r.
                unsafe {
                    let mut sum = s.load(at);
                    for (&factor, &v) in factors.iter().zip(&v) {
                        sum = s.fma(factor, v, sum);
                    }
                    s.store(at, sum);
                }
            }
        }
        if whole == width {
            return;
        }
        let rest = width - whole;
        for (r, factors) in factors.iter().enumerate() {
            let at = sums.wrapping_add(r * width + whole);
            // SAFETY: the last `rest` columns of row r and of B.
            unsafe {
                let mut sum = s.load_first(at, rest);
                for (t, &factor) in factors.iter().enumerate() {
                    let from = row.wrapping_offset(t as isize * b.row_stride).wrapping_add(whole);
                    sum = s.fma(factor, s.load_first(from, rest), sum);
                }
                s.store_first(at, rest, sum);
            }
        }
    }
}

/// Some columns, each along its own memory.
struct Dots<'a> {
    thin: Thin<'a>,
    js: Range<usize>,
    /// A, with adjacent columns.
    a: Operand,
}

impl Kernel for Dots<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        // As many sums as registers hold: 16 registers for AVX2, 32 elsewhere.
        let few = S::LANES == 8;
        let (wide, narrow) = if few { (4, 3) } else { (8, 6) };
        let mut i = 0;
        while i < self.thin.item.m {
            let rows = (self.thin.item.m - i).min(4);
            let cols = if rows < 4 { wide } else { narrow };
            let mut j = self.js.start;
            while j < self.js.end {
                let left = self.js.end - j;
                // SAFETY: `run` made this task for these columns.
                unsafe {
                    match (rows, left >= cols, few) {
                        (4, true, false) => self.dots::<S, 4, 6>(s, i, j),
                        (3, true, false) => self.dots::<S, 3, 8>(s, i, j),
                        (2, true, false) => self.dots::<S, 2, 8>(s, i, j),
                        (1, true, false) => self.dots::<S, 1, 8>(s, i, j),
                        (4, true, true) => self.dots::<S, 4, 3>(s, i, j),
                        (3, true, true) => self.dots::<S, 3, 4>(s, i, j),
                        (2, true, true) => self.dots::<S, 2, 4>(s, i, j),
                        (1, true, true) => self.dots::<S, 1, 4>(s, i, j),
                        (4, false, _) => self.dots::<S, 4, 1>(s, i, j),
                        (3, false, _) => self.dots::<S, 3, 1>(s, i, j),
                        (2, false, _) => self.dots::<S, 2, 1>(s, i, j),
                        _ => self.dots::<S, 1, 1>(s, i, j),
                    }
                }
                j += if left >= cols { cols } else { 1 };
            }
            i += rows;
        }
    }
}

impl Dots<'_> {
    /// `M` rows of A times `N` columns of B: lane `l` of a sum adds the products of the k that
    /// leave the remainder `l`, whatever `M` and `N`.
    ///
    /// # Safety
    /// As [`Thin::run`].
    #[allow(clippy::needless_range_loop, reason = "tiles are indexed, registers are fixed")]
    #[inline(always)]
    unsafe fn dots<S: Simd, const M: usize, const N: usize>(&self, s: S, i: usize, j: usize) {
        let (a, b, k) = (&self.a, &self.thin.item.b, self.thin.item.k);
        let a_at = a.ptr.wrapping_offset(i as isize * a.row_stride);
        let b_at = b.ptr.wrapping_offset(j as isize * b.col_stride);
        let mut sums = [[s.lit(0.0); N]; M];
        let whole = k - k % S::LANES;
        for p in (0..whole).step_by(S::LANES) {
            let mut left = [s.lit(0.0); M];
            for (r, v) in left.iter_mut().enumerate() {
                let at = a_at.wrapping_offset(r as isize * a.row_stride).wrapping_add(p);
                // SAFETY: A(i + r, p .. p + LANES).
                *v = unsafe { s.load(at) };
            }
            for c in 0..N {
                let at = b_at.wrapping_offset(c as isize * b.col_stride).wrapping_add(p);
                // SAFETY: B(p .. p + LANES, j + c).
                let v = unsafe { s.load(at) };
                for r in 0..M {
                    sums[r][c] = s.fma(left[r], v, sums[r][c]);
                }
            }
        }
        if whole < k {
            for c in 0..N {
                let at = b_at.wrapping_offset(c as isize * b.col_stride).wrapping_add(whole);
                // SAFETY: B(whole .. k, j + c).
                let v = unsafe { s.load_first(at, k - whole) };
                for r in 0..M {
                    let at = a_at.wrapping_offset(r as isize * a.row_stride).wrapping_add(whole);
                    // SAFETY: A(i + r, whole .. k).
                    let left = unsafe { s.load_first(at, k - whole) };
                    sums[r][c] = s.fma(left, v, sums[r][c]);
                }
            }
        }
        for (r, sums) in sums.iter().enumerate() {
            for (c, &sum) in sums.iter().enumerate() {
                // SAFETY: an element of this task.
                unsafe { self.thin.write(s, i + r, j + c, s.sum(sum)) }
            }
        }
    }
}
