//! Verbs along the last axis: softmax, norms, cross-entropy and their gradients.
//!
//! A row is swept two or three times while it lies in the L1 cache, so memory is read once. Rows
//! are independent and are split among threads; what is summed over rows is summed in parts that
//! depend on the shape alone, so the bits do not depend on the number of threads.

/// Runs `$body` for each register of `0..$n`: `$i` is the first element's index, `$u` an
/// accumulator's number (always a constant after unrolling) and `$span` a [`Span`].
macro_rules! sweep {
    ($n:expr, |$i:ident, $u:ident, $span:ident| $body:block) => {{
        let (n, lanes) = ($n, S::LANES);
        let mut at = 0usize;
        while at + 4 * lanes <= n {
            for $u in 0..4usize {
                let $i = at + $u * lanes;
                let $span = Whole;
                $body
            }
            at += 4 * lanes;
        }
        for $u in 0..3usize {
            if at + lanes <= n {
                let $i = at;
                let $span = Whole;
                $body
                at += lanes;
            }
        }
        if at < n {
            let ($i, $u) = (at, 3usize);
            let $span = First(n - at);
            $body
        }
    }};
}

mod cross_entropy;
mod norm;
mod softmax;

pub use cross_entropy::{cross_entropy, cross_entropy_backward};
pub use norm::{norm, norm_backward, norm_backward_workspace_bytes};
pub use softmax::{softmax, softmax_backward};

use crate::scratch::with_scratch;
use crate::simd::Simd;
use crate::walk::{GRAIN, Nest, Shared, f32s, split};
use starling_contract::{Result, View};
use std::ops::Range;

/// Sums run over blocks of this many elements, whose totals are added in f64: the error does not
/// grow with the length of the row.
const BLOCK: usize = 4096;

/// The rows of an f32 view, or its single elements.
#[derive(Clone, Copy)]
struct Rows {
    start: Shared<f32>,
    nest: Nest<1>,
    count: usize,
    /// Step within a row.
    step: isize,
    /// Length of a row.
    n: usize,
}

impl Rows {
    /// Rows along the last axis. The verb's check saw that there is one.
    fn new(op: &'static str, view: &View) -> Result<Self> {
        Self::along(op, view, view.shape().len().saturating_sub(1))
    }

    /// Every element is a row of its own.
    fn single(op: &'static str, view: &View) -> Result<Self> {
        Self::along(op, view, view.shape().len())
    }

    fn along(op: &'static str, view: &View, leading: usize) -> Result<Self> {
        let (shape, strides) = (view.shape(), view.layout.strides());
        let n = shape.get(leading).copied().unwrap_or(1);
        let step = if n > 1 { strides[leading] } else { 1 };
        let nest = Nest::new(&shape[..leading], [&strides[..leading]]);
        Ok(Self { start: f32s(op, view)?, nest, count: nest.len(), step, n })
    }

    /// The first element of row `r`.
    #[inline(always)]
    fn row(&self, r: usize) -> *mut f32 {
        if self.nest.rank <= 1 {
            return self.start.at(r as isize * self.nest.strides[0][0]);
        }
        self.start.at(self.nest.walk(r).at[0])
    }

    #[inline(always)]
    fn is_dense(&self) -> bool {
        self.step == 1
    }

    /// Row `r` without gaps: itself, or its copy in `stage`.
    ///
    /// # Safety
    /// The row exists and `stage` has room for it unless the rows are dense.
    #[inline(always)]
    unsafe fn read(&self, r: usize, stage: *mut f32) -> *const f32 {
        let row = self.row(r);
        if self.is_dense() {
            return row;
        }
        for i in 0..self.n {
            // SAFETY: `i` is below the row's length, for which `stage` has room.
            unsafe { stage.add(i).write(row.wrapping_offset(i as isize * self.step).read()) };
        }
        stage
    }

    /// Where row `r` is to be written: in place, or in `stage` until [`Rows::flush`].
    #[inline(always)]
    fn place(&self, r: usize, stage: *mut f32) -> *mut f32 {
        if self.is_dense() { self.row(r) } else { stage }
    }

    /// Brings what was written to `stage` home.
    ///
    /// # Safety
    /// As for [`Rows::read`]; nobody else uses the row.
    #[inline(always)]
    unsafe fn flush(&self, r: usize, stage: *const f32) {
        if self.is_dense() {
            return;
        }
        let row = self.row(r);
        for i in 0..self.n {
            // SAFETY: `i` is below the row's length, which `stage` holds.
            unsafe { row.wrapping_offset(i as isize * self.step).write(stage.add(i).read()) };
        }
    }
}

/// Splits the rows of `views` (all of one shape) among threads. `f` gets its rows and `slots`
/// consecutive stages of a row each, for views that are not dense.
fn for_rows(views: &[&Rows], slots: usize, f: impl Fn(Range<usize>, *mut f32) + Sync) {
    let (count, n) = (views[0].count, views[0].n);
    let staged = if views.iter().all(|v| v.is_dense()) { 0 } else { slots * n };
    split(count, n, GRAIN, |rows| {
        if staged == 0 {
            return f(rows, std::ptr::null_mut());
        }
        with_scratch(staged, |stage| f(rows, stage.as_mut_ptr()))
    });
}

/// Access to one register's worth of a row: all lanes, or the last few elements.
trait Span: Copy {
    /// # Safety
    /// The span's elements at `p` are readable.
    unsafe fn load<S: Simd>(self, s: S, p: *const f32) -> S::V;
    /// # Safety
    /// The span's elements at `p` are writable.
    unsafe fn store<S: Simd>(self, s: S, p: *mut f32, v: S::V);
    /// `v` in the span's lanes, `other` in those behind.
    fn keep<S: Simd>(self, s: S, v: S::V, other: S::V) -> S::V;
}

/// Every lane.
#[derive(Clone, Copy)]
struct Whole;

/// The first lanes.
#[derive(Clone, Copy)]
struct First(usize);

impl Span for Whole {
    #[inline(always)]
    unsafe fn load<S: Simd>(self, s: S, p: *const f32) -> S::V {
        // SAFETY: the caller's promise.
        unsafe { s.load(p) }
    }
    #[inline(always)]
    unsafe fn store<S: Simd>(self, s: S, p: *mut f32, v: S::V) {
        // SAFETY: the caller's promise.
        unsafe { s.store(p, v) }
    }
    #[inline(always)]
    fn keep<S: Simd>(self, _: S, v: S::V, _: S::V) -> S::V {
        v
    }
}

impl Span for First {
    #[inline(always)]
    unsafe fn load<S: Simd>(self, s: S, p: *const f32) -> S::V {
        // SAFETY: the caller's promise.
        unsafe { s.load_first(p, self.0) }
    }
    #[inline(always)]
    unsafe fn store<S: Simd>(self, s: S, p: *mut f32, v: S::V) {
        // SAFETY: the caller's promise.
        unsafe { s.store_first(p, self.0, v) }
    }
    #[inline(always)]
    fn keep<S: Simd>(self, s: S, v: S::V, other: S::V) -> S::V {
        let lane = s.to_real(s.iota(0));
        s.select(s.lt(lane, s.lit(self.0 as f64)), v, other)
    }
}

/// The same number in every lane.
#[inline(always)]
fn splat<S: Simd>(s: S, x: f32) -> S::V {
    s.lit(x.into())
}

/// The number that every lane holds.
#[inline(always)]
fn lane<S: Simd>(s: S, v: S::V) -> f32 {
    s.max_lane(v)
}

/// The sum of four accumulators.
#[inline(always)]
fn total<S: Simd>(s: S, [a, b, c, d]: [S::V; 4]) -> f32 {
    s.sum(s.add(s.add(a, b), s.add(c, d)))
}

/// The largest of `n` numbers; NaN when one is NaN; -inf of nothing.
///
/// # Safety
/// `x .. x + n` is readable.
#[inline(always)]
unsafe fn max_of<S: Simd>(s: S, x: *const f32, n: usize) -> f32 {
    let low = splat(s, f32::NEG_INFINITY);
    let mut top = [low; 4];
    sweep!(n, |i, u, span| {
        // SAFETY: the sweep stays below `n`.
        let v = unsafe { span.load(s, x.add(i)) };
        top[u] = s.max(top[u], span.keep(s, v, low));
    });
    s.max_lane(s.max(s.max(top[0], top[1]), s.max(top[2], top[3])))
}
