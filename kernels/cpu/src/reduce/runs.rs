//! Runs of neighbouring numbers, each reduced to one part.

use super::partial::Partial;
use crate::isa::Kernel;
use crate::simd::Simd;
use starling_contract::ReduceKind;
use starling_ops::{Math, Scalar};

/// The most numbers that are summed in f32 before f64 takes over: few enough that the error of a
/// sum does not grow with its length, and that a second pass finds them in the first-level cache.
/// A multiple of the stretches of every instruction set.
pub(super) const STRETCH: usize = 1024;

/// Adds `runs` runs of `n` numbers, one behind the other, to a part each, stretch by stretch.
pub(crate) struct Runs {
    kind: ReduceKind,
    from: *const f32,
    runs: usize,
    n: usize,
    /// Position of each run's first number.
    at: usize,
    to: *mut Partial,
}

impl Runs {
    /// `at` is the position of the runs' first numbers among those that are reduced together.
    ///
    /// # Safety
    /// `from` holds `runs * n` numbers and `to` `runs` parts.
    pub unsafe fn new(
        kind: ReduceKind,
        from: *const f32,
        runs: usize,
        n: usize,
        at: usize,
        to: *mut Partial,
    ) -> Self {
        Self { kind, from, runs, n, at, to }
    }
}

impl Kernel for Runs {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        // SAFETY: `new`'s caller promised the numbers and the parts.
        unsafe {
            for run in 0..self.runs {
                let from = self.from.add(run * self.n);
                one_run(s, self.kind, from, self.n, self.at, &mut *self.to.add(run));
            }
        }
    }
}

/// # Safety
/// `p` holds `n` numbers.
#[inline(always)]
unsafe fn one_run<S: Simd>(
    s: S,
    kind: ReduceKind,
    p: *const f32,
    n: usize,
    at: usize,
    all: &mut Partial,
) {
    // No chain of additions is longer than 64, whatever the width of a vector.
    let stretch = STRETCH.min(128 * S::LANES);
    let mut done = 0;
    while done < n {
        let len = stretch.min(n - done);
        // SAFETY: the stretch lies inside the run.
        let part = unsafe {
            let p = p.add(done);
            match kind {
                ReduceKind::Sum | ReduceKind::Mean => Partial::of(len, sum(s, p, len), 0),
                ReduceKind::Max => Partial::of(len, extremum(s, p, len, true), 0),
                ReduceKind::Min => Partial::of(len, extremum(s, p, len, false), 0),
                ReduceKind::ArgMax | ReduceKind::ArgMin => {
                    position(s, p, len, kind == ReduceKind::ArgMax, all, at + done)
                }
                ReduceKind::Var { .. } => variance(s, p, len),
            }
        };
        all.merge(kind, &part);
        done += len;
    }
}

/// Reads `n` numbers into four chains of vectors, one `$step` each; `$rest` is a vector with what
/// is left behind the whole ones.
macro_rules! chains {
    (
        $s:ident, $p:ident, $n:ident, $chain:ident,
        |$acc:ident, $x:ident| $step:expr, |$i:ident| $rest:expr
    ) => {{
        let mut i = 0;
        while i + 4 * S::LANES <= $n {
            for k in 0..4 {
                let $x = $s.load($p.add(i + k * S::LANES));
                let $acc = $chain[k];
                $chain[k] = $step;
            }
            i += 4 * S::LANES;
        }
        while i + S::LANES <= $n {
            let $x = $s.load($p.add(i));
            let $acc = $chain[0];
            $chain[0] = $step;
            i += S::LANES;
        }
        if i < $n {
            let $i = i;
            let $x = $rest;
            let $acc = $chain[1];
            $chain[1] = $step;
        }
    }};
}

/// # Safety
/// `p` holds `n` numbers.
#[inline(always)]
unsafe fn sum<S: Simd>(s: S, p: *const f32, n: usize) -> f32 {
    let mut sums = [s.lit(0.0); 4];
    // SAFETY: the caller's promise.
    unsafe {
        chains!(s, p, n, sums, |acc, x| s.add(acc, x), |i| s.load_first(p.add(i), n - i));
    }
    s.sum(s.add(s.add(sums[0], sums[1]), s.add(sums[2], sums[3])))
}

/// The largest or the smallest of at least one number.
///
/// # Safety
/// `p` holds `n` numbers.
#[inline(always)]
unsafe fn extremum<S: Simd>(s: S, p: *const f32, n: usize, largest: bool) -> f32 {
    let scalar = Scalar::<f32>::NEW;
    let nothing = if largest { f32::NEG_INFINITY } else { f32::INFINITY };
    let mut best = [s.lit(nothing.into()); 4];
    // SAFETY: the caller's promise; a last vector that overlaps earlier ones changes nothing.
    unsafe {
        if n < S::LANES {
            let mut one = nothing;
            for i in 0..n {
                let x = *p.add(i);
                one = if largest { scalar.max(one, x) } else { scalar.min(one, x) };
            }
            return one;
        }
        if largest {
            chains!(s, p, n, best, |acc, x| s.max(acc, x), |_i| s.load(p.add(n - S::LANES)));
            s.max_lane(s.max(s.max(best[0], best[1]), s.max(best[2], best[3])))
        } else {
            chains!(s, p, n, best, |acc, x| s.min(acc, x), |_i| s.load(p.add(n - S::LANES)));
            s.min_lane(s.min(s.min(best[0], best[1]), s.min(best[2], best[3])))
        }
    }
}

/// The extremum and, when it beats `so_far`, its first position.
///
/// # Safety
/// `p` holds `n` numbers.
#[inline(always)]
unsafe fn position<S: Simd>(
    s: S,
    p: *const f32,
    n: usize,
    largest: bool,
    so_far: &Partial,
    at: usize,
) -> Partial {
    // SAFETY: the caller's promise.
    unsafe {
        let best = extremum(s, p, n, largest);
        let old = so_far.value as f32;
        let beaten = if largest { best > old } else { best < old };
        let mut first = 0;
        if so_far.count == 0.0 || beaten || (best.is_nan() && !old.is_nan()) {
            let found = |x: f32| if best.is_nan() { x.is_nan() } else { x == best };
            while first + 1 < n && !found(*p.add(first)) {
                first += 1;
            }
        }
        Partial::of(n, best, at + first)
    }
}

/// Distances from the stretch's own rounded mean, so that nothing cancels.
///
/// # Safety
/// `p` holds `n` numbers.
#[inline(always)]
unsafe fn variance<S: Simd>(s: S, p: *const f32, n: usize) -> Partial {
    // SAFETY: the caller's promise.
    unsafe {
        let shift = sum(s, p, n) / n as f32;
        let center = s.lit(shift.into());
        let (mut sums, mut squares) = ([s.lit(0.0); 2], [s.lit(0.0); 2]);
        let mut i = 0;
        while i + 2 * S::LANES <= n {
            for k in 0..2 {
                let d = s.sub(s.load(p.add(i + k * S::LANES)), center);
                sums[k] = s.add(sums[k], d);
                squares[k] = s.fma(d, d, squares[k]);
            }
            i += 2 * S::LANES;
        }
        let mut first = s.sum(s.add(sums[0], sums[1]));
        let mut second = s.sum(s.add(squares[0], squares[1]));
        while i < n {
            let d = *p.add(i) - shift;
            first += d;
            second = d.mul_add(d, second);
            i += 1;
        }
        Partial::shifted(n, shift, first, second)
    }
}
