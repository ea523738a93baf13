//! Softmax and its logarithm.

use super::{BLOCK, First, Rows, Span, Whole, for_rows, lane, max_of, splat, total};
use crate::isa::{Isa, Kernel};
use crate::simd::Simd;
use crate::walk::Shared;
use starling_contract::{CheckedRef, Result, Softmax, SoftmaxBackward};
use std::ops::Range;

/// `y = exp(x - m) / sum(exp(x - m))` with `m = max(x)`, or `y = x - m - log(sum(exp(x - m)))`,
/// over the last axis. A row of nothing but -inf is NaN, as is one with NaN or +inf.
///
/// # Errors
/// `Unsupported` for another dtype than f32; `Shape` for views outside host memory.
pub fn softmax(isa: Isa, v: CheckedRef<'_, Softmax>) -> Result<()> {
    let v = v.get();
    let (x, y) = (Rows::new("softmax", &v.x)?, Rows::new("softmax", &v.y)?);
    debug_assert_eq!(v.x.shape(), v.y.shape());
    // Tasks take what they need of the verb: in a browser its views stay on their thread.
    let log = v.log;
    for_rows(&[&x, &y], 1, |rows, stage| {
        isa.run(Forward { x: &x, y: &y, log, rows, stage: Shared(stage) });
    });
    Ok(())
}

struct Forward<'a> {
    x: &'a Rows,
    y: &'a Rows,
    log: bool,
    rows: Range<usize>,
    stage: Shared<f32>,
}

impl Kernel for Forward<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let n = self.x.n;
        for r in self.rows {
            // SAFETY: `r` is one of the rows that the verb's check found in bounds; rows of `y` do
            // not overlap, and one that shares `x`'s memory is the same row. The stage, which both
            // may share, was asked for when a view is not dense.
            unsafe {
                let x = self.x.read(r, self.stage.0);
                let y = self.y.place(r, self.stage.0);
                if self.log {
                    log_softmax_row(s, x, y, n);
                } else {
                    softmax_row(s, x, y, n);
                }
                self.y.flush(r, self.stage.0);
            }
        }
    }
}

/// `y = exp(x - shift)` for at most a block; the sum of `y`.
///
/// # Safety
/// `x .. x + n` is readable, `y .. y + n` writable; the two are one or apart.
#[inline(always)]
unsafe fn exp_to<S: Simd>(s: S, x: *const f32, y: *mut f32, n: usize, shift: f32) -> f32 {
    let (zero, shift) = (s.lit(0.0), splat(s, shift));
    let mut sum = [zero; 4];
    sweep!(n, |i, u, span| {
        // SAFETY: the sweep stays below `n`.
        unsafe {
            let e = s.exp(s.sub(span.load(s, x.add(i)), shift));
            span.store(s, y.add(i), e);
            sum[u] = s.add(sum[u], span.keep(s, e, zero));
        }
    });
    total(s, sum)
}

/// The sum of `exp(x - shift)` over at most a block.
///
/// # Safety
/// `x .. x + n` is readable.
#[inline(always)]
pub(super) unsafe fn exp_sum<S: Simd>(s: S, x: *const f32, n: usize, shift: f32) -> f32 {
    let (zero, shift) = (s.lit(0.0), splat(s, shift));
    let mut sum = [zero; 4];
    sweep!(n, |i, u, span| {
        // SAFETY: the sweep stays below `n`.
        let e = s.exp(s.sub(unsafe { span.load(s, x.add(i)) }, shift));
        sum[u] = s.add(sum[u], span.keep(s, e, zero));
    });
    total(s, sum)
}

/// # Safety
/// As [`exp_to`].
#[inline(always)]
unsafe fn softmax_row<S: Simd>(s: S, x: *const f32, y: *mut f32, n: usize) {
    // SAFETY: every block lies in the row.
    unsafe {
        let shift = max_of(s, x, n);
        let mut sum = 0f64;
        for at in (0..n).step_by(BLOCK) {
            sum += f64::from(exp_to(s, x.add(at), y.add(at), BLOCK.min(n - at), shift));
        }
        let factor = s.lit(1.0 / sum);
        sweep!(n, |i, _u, span| {
            let p = y.add(i);
            span.store(s, p, s.mul(span.load(s, p), factor));
        });
    }
}

/// # Safety
/// As [`exp_to`].
#[inline(always)]
unsafe fn log_softmax_row<S: Simd>(s: S, x: *const f32, y: *mut f32, n: usize) {
    // SAFETY: every block lies in the row.
    unsafe {
        let shift = max_of(s, x, n);
        let mut sum = 0f64;
        for at in (0..n).step_by(BLOCK) {
            sum += f64::from(exp_sum(s, x.add(at), BLOCK.min(n - at), shift));
        }
        // Two subtractions: `shift + log(sum)` would round away the logarithm of a large row.
        let (shift, log) = (splat(s, shift), splat(s, lane(s, s.log(s.lit(sum)))));
        sweep!(n, |i, _u, span| {
            let v = s.sub(s.sub(span.load(s, x.add(i)), shift), log);
            span.store(s, y.add(i), v);
        });
    }
}

/// `dx = y * (dy - sum(dy * y))`, or `dx = dy - exp(y) * sum(dy)` for the logarithm.
///
/// # Errors
/// As [`softmax`].
pub fn softmax_backward(isa: Isa, v: CheckedRef<'_, SoftmaxBackward>) -> Result<()> {
    let v = v.get();
    let op = "softmax_backward";
    let (y, d_y, d_x) = (Rows::new(op, &v.y)?, Rows::new(op, &v.d_y)?, Rows::new(op, &v.d_x)?);
    debug_assert!(v.y.shape() == v.d_y.shape() && v.y.shape() == v.d_x.shape());
    let log = v.log;
    for_rows(&[&y, &d_y, &d_x], 2, |rows, stage| {
        let stage = Shared(stage);
        isa.run(Backward { y: &y, d_y: &d_y, d_x: &d_x, log, rows, stage });
    });
    Ok(())
}

struct Backward<'a> {
    y: &'a Rows,
    d_y: &'a Rows,
    d_x: &'a Rows,
    log: bool,
    rows: Range<usize>,
    stage: Shared<f32>,
}

impl Kernel for Backward<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let n = self.y.n;
        let (first, second) = (self.stage.0, self.stage.at(n as isize));
        for r in self.rows {
            // SAFETY: `r` is one of the rows that the verb's check found in bounds; rows of `d_x`
            // do not overlap, and one that shares an input's memory is the same row. The stages
            // (the second is shared by `d_y` and `d_x`) were asked for when a view is not dense.
            unsafe {
                let (y, d_y) = (self.y.read(r, first), self.d_y.read(r, second));
                let d_x = self.d_x.place(r, second);
                if self.log {
                    log_backward_row(s, y, d_y, d_x, n);
                } else {
                    backward_row(s, y, d_y, d_x, n);
                }
                self.d_x.flush(r, second);
            }
        }
    }
}

/// # Safety
/// `n` elements are readable at `y` and `d_y` and writable at `d_x`, which is one of them or apart.
#[inline(always)]
unsafe fn backward_row<S: Simd>(s: S, y: *const f32, d_y: *const f32, d_x: *mut f32, n: usize) {
    let zero = s.lit(0.0);
    let mut dot = 0f64;
    // SAFETY: every block lies in the row.
    unsafe {
        for at in (0..n).step_by(BLOCK) {
            let (y, d_y) = (y.add(at), d_y.add(at));
            let mut sum = [zero; 4];
            sweep!(BLOCK.min(n - at), |i, u, span| {
                sum[u] = s.fma(span.load(s, y.add(i)), span.load(s, d_y.add(i)), sum[u]);
            });
            dot += f64::from(total(s, sum));
        }
        let dot = s.lit(dot);
        sweep!(n, |i, _u, span| {
            let (p, g) = (span.load(s, y.add(i)), span.load(s, d_y.add(i)));
            span.store(s, d_x.add(i), s.mul(p, s.sub(g, dot)));
        });
    }
}

/// # Safety
/// As [`backward_row`].
#[inline(always)]
unsafe fn log_backward_row<S: Simd>(s: S, y: *const f32, d_y: *const f32, d_x: *mut f32, n: usize) {
    let zero = s.lit(0.0);
    let mut whole = 0f64;
    // SAFETY: every block lies in the row.
    unsafe {
        for at in (0..n).step_by(BLOCK) {
            let d_y = d_y.add(at);
            let mut sum = [zero; 4];
            sweep!(BLOCK.min(n - at), |i, u, span| {
                sum[u] = s.add(sum[u], span.load(s, d_y.add(i)));
            });
            whole += f64::from(total(s, sum));
        }
        let minus = s.lit(-whole);
        sweep!(n, |i, _u, span| {
            let (l, g) = (span.load(s, y.add(i)), span.load(s, d_y.add(i)));
            span.store(s, d_x.add(i), s.fma(s.exp(l), minus, g));
        });
    }
}
