//! Layer and root-mean-square normalisation.

use super::{BLOCK, First, Rows, Span, Whole, for_rows, splat, total};
use crate::isa::{Isa, Kernel};
use crate::scratch::with_scratch;
use crate::simd::Simd;
use crate::walk::{GRAIN, Shared, split, workspace};
use starling_contract::{CheckedRef, Norm, NormBackward, NormKind, Result, View};
use std::ops::Range;

/// Rows per part of the weight's gradient are chosen so that there are at most this many parts.
const MAX_PARTS: usize = 64;

/// `y = (x - mean) * rstd * weight + bias` (`mean` is 0 for [`NormKind::Rms`]) with
/// `rstd = 1 / sqrt(mean((x - mean)^2) + eps)`, over the last axis.
///
/// The variance is taken from the distances to the rounded mean, corrected by their own mean
/// (Chan, Golub, LeVeque 1983), so nothing cancels when the mean is large.
///
/// # Errors
/// `Unsupported` for another dtype than f32; `Shape` for views outside host memory.
pub fn norm(isa: Isa, v: CheckedRef<'_, Norm>) -> Result<()> {
    let v = v.get();
    let op = "norm";
    let (x, y) = (Rows::new(op, &v.x)?, Rows::new(op, &v.y)?);
    let mean = v.mean.as_ref().map(|m| Rows::single(op, m)).transpose()?;
    let rstd = Rows::single(op, &v.rstd)?;
    debug_assert!(x.count == y.count && x.n == y.n && x.count == rstd.count);
    with_vectors(op, [&v.weight, &v.bias], |[weight, bias]| {
        let (kind, eps) = (v.kind, v.eps);
        for_rows(&[&x, &y], 1, |rows, stage| {
            let (x, y, mean, rstd, stage) = (&x, &y, mean.as_ref(), &rstd, Shared(stage));
            isa.run(Forward { kind, eps, x, y, mean, rstd, weight, bias, rows, stage });
        });
    })
}

/// A vector of the row's length, if there is one.
type Vector = Option<Shared<f32>>;

/// Calls `f` with the vectors without gaps.
fn with_vectors(
    op: &'static str,
    views: [&Option<View>; 2],
    f: impl FnOnce([Vector; 2]),
) -> Result<()> {
    let mut rows = [None, None];
    for (row, view) in rows.iter_mut().zip(views) {
        *row = view.as_ref().map(|view| Rows::new(op, view)).transpose()?;
    }
    let gaps = rows.iter().flatten().filter(|r| !r.is_dense());
    let n = gaps.map(|r| r.n).max().unwrap_or(0);
    with_scratch(2 * n, |stage| {
        let stage = Shared(stage.as_mut_ptr());
        let mut vectors = [None, None];
        for (i, row) in rows.iter().enumerate() {
            // SAFETY: the verb's check found the vector in bounds; the stage has room for both.
            let dense = row.map(|r| unsafe { r.read(0, stage.at((i * n) as isize)) });
            vectors[i] = dense.map(|p| Shared(p.cast_mut()));
        }
        f(vectors);
    });
    Ok(())
}

/// The register at `i` of a vector; `absent` when there is none.
///
/// # Safety
/// The span's elements at `i` lie in the vector.
#[inline(always)]
unsafe fn at<S: Simd, P: Span>(s: S, span: P, v: Vector, i: usize, absent: f64) -> S::V {
    match v {
        // SAFETY: the caller's promise.
        Some(v) => unsafe { span.load(s, v.0.add(i)) },
        None => s.lit(absent),
    }
}

struct Forward<'a> {
    kind: NormKind,
    eps: f32,
    x: &'a Rows,
    y: &'a Rows,
    mean: Option<&'a Rows>,
    rstd: &'a Rows,
    weight: Vector,
    bias: Vector,
    rows: Range<usize>,
    stage: Shared<f32>,
}

impl Kernel for Forward<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let n = self.x.n;
        for r in self.rows.clone() {
            // SAFETY: `r` is one of the rows that the verb's check found in bounds, and no other
            // task writes this row's results. The stage, which `x` and `y` may share, was asked
            // for when a view is not dense.
            unsafe {
                let x = self.x.read(r, self.stage.0);
                let y = self.y.place(r, self.stage.0);
                let m = match self.kind {
                    NormKind::Layer => moments(s, x, n, self.eps),
                    NormKind::Rms => root_mean_square(s, x, n, self.eps),
                };
                if let Some(mean) = self.mean {
                    mean.row(r).write(m.mean);
                }
                self.rstd.row(r).write(m.rstd);
                self.normalise(s, x, y, m);
                self.y.flush(r, self.stage.0);
            }
        }
    }
}

/// What a row is normalised by: `(x - near - rest) * rstd`.
#[derive(Clone, Copy)]
struct Moments {
    /// An f32 near the mean.
    near: f32,
    /// The mean of what is left, times `rstd`.
    rest: f32,
    /// The mean, rounded.
    mean: f32,
    rstd: f32,
}

/// # Safety
/// `x .. x + n` is readable.
#[inline(always)]
unsafe fn moments<S: Simd>(s: S, x: *const f32, n: usize, eps: f32) -> Moments {
    let (zero, count) = (s.lit(0.0), n as f64);
    let mut whole = 0f64;
    // SAFETY: every block lies in the row.
    unsafe {
        for at in (0..n).step_by(BLOCK) {
            let x = x.add(at);
            let mut sum = [zero; 4];
            sweep!(BLOCK.min(n - at), |i, u, span| {
                sum[u] = s.add(sum[u], span.load(s, x.add(i)));
            });
            whole += f64::from(total(s, sum));
        }
        let near = (whole / count) as f32;
        let shift = splat(s, near);
        let (mut left, mut squares) = (0f64, 0f64);
        for at in (0..n).step_by(BLOCK) {
            let x = x.add(at);
            let (mut sum, mut square) = ([zero; 4], [zero; 4]);
            sweep!(BLOCK.min(n - at), |i, u, span| {
                let d = span.keep(s, s.sub(span.load(s, x.add(i)), shift), zero);
                sum[u] = s.add(sum[u], d);
                square[u] = s.fma(d, d, square[u]);
            });
            left += f64::from(total(s, sum));
            squares += f64::from(total(s, square));
        }
        let rest = left / count;
        let var = squares / count - rest * rest;
        let var = if var < 0.0 { 0.0 } else { var };
        let rstd = 1.0 / (var + f64::from(eps)).sqrt();
        let mean = (f64::from(near) + rest) as f32;
        Moments { near, rest: (rest * rstd) as f32, mean, rstd: rstd as f32 }
    }
}

/// # Safety
/// `x .. x + n` is readable.
#[inline(always)]
unsafe fn root_mean_square<S: Simd>(s: S, x: *const f32, n: usize, eps: f32) -> Moments {
    let mut squares = 0f64;
    for at in (0..n).step_by(BLOCK) {
        let mut square = [s.lit(0.0); 4];
        // SAFETY: the block lies in the row.
        unsafe {
            let x = x.add(at);
            sweep!(BLOCK.min(n - at), |i, u, span| {
                let v = span.load(s, x.add(i));
                square[u] = s.fma(v, v, square[u]);
            });
        }
        squares += f64::from(total(s, square));
    }
    let rstd = 1.0 / (squares / n as f64 + f64::from(eps)).sqrt();
    Moments { near: 0.0, rest: 0.0, mean: 0.0, rstd: rstd as f32 }
}

impl Forward<'_> {
    /// # Safety
    /// A row is readable at `x` and writable at `y`, which is `x` or apart.
    #[inline(always)]
    unsafe fn normalise<S: Simd>(&self, s: S, x: *const f32, y: *mut f32, m: Moments) {
        let (near, minus) = (splat(s, m.near), splat(s, -m.rest));
        let rstd = splat(s, m.rstd);
        // SAFETY: the sweep stays in the row.
        unsafe {
            sweep!(self.x.n, |i, _u, span| {
                let d = s.sub(span.load(s, x.add(i)), near);
                let hat = s.fma(d, rstd, minus);
                let (w, b) = (at(s, span, self.weight, i, 1.0), at(s, span, self.bias, i, 0.0));
                span.store(s, y.add(i), s.fma(hat, w, b));
            });
        }
    }
}

/// In how many parts the rows are summed for the weight's gradient: a function of the shape.
fn parts_of(rows: usize, n: usize) -> usize {
    (rows * n).div_ceil(GRAIN).min(MAX_PARTS).min(rows).max(1)
}

/// Bytes of the workspace that [`norm_backward`] needs: one weight and one bias gradient per part.
pub fn norm_backward_workspace_bytes(v: &NormBackward) -> usize {
    let n = v.x.shape().last().copied().unwrap_or(0);
    let rows = v.rstd.len();
    let sums = usize::from(v.d_weight.is_some()) + usize::from(v.d_bias.is_some());
    parts_of(rows, n) * sums * n * size_of::<f32>()
}

/// With `g = d_y * weight`, `h = (x - mean) * rstd` and means over the last axis:
/// `d_x = rstd * (g - mean(g) - h * mean(g * h))` (without `mean(g)` for [`NormKind::Rms`]);
/// `d_weight = sum(d_y * h)` and `d_bias = sum(d_y)` over the rows.
///
/// # Errors
/// `Unsupported` for another dtype than f32; `Shape` for views outside host memory and for a
/// workspace below [`norm_backward_workspace_bytes`].
pub fn norm_backward(isa: Isa, v: CheckedRef<'_, NormBackward>) -> Result<()> {
    let v = v.get();
    let op = "norm_backward";
    let (x, d_y, d_x) = (Rows::new(op, &v.x)?, Rows::new(op, &v.d_y)?, Rows::new(op, &v.d_x)?);
    let mean = v.mean.as_ref().map(|m| Rows::single(op, m)).transpose()?;
    let rstd = Rows::single(op, &v.rstd)?;
    debug_assert!(x.count == rstd.count && x.n == d_y.n && x.n == d_x.n);
    let parts = parts_of(x.count, x.n);
    let partial = Partials::new(op, v, x.n)?;
    with_vectors(op, [&v.weight, &None], |[weight, _]| {
        let each = x.count.div_ceil(parts);
        let (rows, kind) = (x.count, v.kind);
        let staged = if x.is_dense() && d_y.is_dense() && d_x.is_dense() { 0 } else { 2 * x.n };
        split(parts, each * x.n, GRAIN, |range| {
            with_scratch(staged, |stage| {
                let stage = Shared(stage.as_mut_ptr());
                for part in range {
                    let rows = rows.min(part * each)..rows.min((part + 1) * each);
                    let [d_weight, d_bias] = partial.of(part);
                    let (x, d_y, d_x, mean, rstd) = (&x, &d_y, &d_x, mean.as_ref(), &rstd);
                    let io = Operands { x, d_y, d_x, mean, rstd, weight, d_weight, d_bias };
                    isa.run(Backward { kind, io, rows, stage });
                }
            });
        });
    })?;
    partial.finish(isa, parts, [&v.d_weight, &v.d_bias])
}

/// The sums over rows of each part, one after the other in the workspace.
struct Partials {
    op: &'static str,
    start: Shared<f32>,
    /// Offset of the weight's and of the bias's sums within a part.
    sums: [Option<usize>; 2],
    /// Numbers of a part.
    stride: usize,
    n: usize,
}

impl Partials {
    fn new(op: &'static str, v: &NormBackward, n: usize) -> Result<Self> {
        let weight = v.d_weight.as_ref().map(|_| 0);
        let bias = v.d_bias.as_ref().map(|_| if weight.is_some() { n } else { 0 });
        let stride = n * (usize::from(weight.is_some()) + usize::from(bias.is_some()));
        let bytes = norm_backward_workspace_bytes(v);
        let start = workspace(op, v.workspace.as_ref(), bytes)?;
        Ok(Self { op, start, sums: [weight, bias], stride, n })
    }

    /// Where part `part` sums the gradients of weight and bias.
    fn of(&self, part: usize) -> [Vector; 2] {
        self.sums.map(|sum| sum.map(|o| Shared(self.start.at((part * self.stride + o) as isize))))
    }

    /// Adds the parts up in their order and writes the sums home.
    fn finish(&self, isa: Isa, parts: usize, outputs: [&Option<View>; 2]) -> Result<()> {
        for (sum, view) in self.of(0).into_iter().zip(outputs) {
            let (Some(sum), Some(view)) = (sum, view) else { continue };
            let out = Rows::new(self.op, view)?;
            split(self.n, parts, GRAIN, |columns| {
                isa.run(AddParts { sum, parts, stride: self.stride, columns });
            });
            // SAFETY: the verb's check found the output in bounds; its row is apart from the
            // workspace, which holds `n` numbers at `sum`.
            unsafe {
                if out.is_dense() {
                    out.row(0).copy_from_nonoverlapping(sum.0, self.n);
                }
                out.flush(0, sum.0);
            }
        }
        Ok(())
    }
}

struct AddParts {
    sum: Shared<f32>,
    parts: usize,
    stride: usize,
    columns: Range<usize>,
}

impl Kernel for AddParts {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let start = self.sum.0.wrapping_add(self.columns.start);
        // SAFETY: the columns lie in the parts that `Partials::new` found room for, and no other
        // task adds these columns.
        unsafe {
            sweep!(self.columns.len(), |i, _u, span| {
                let p = start.add(i);
                let mut sum = span.load(s, p);
                for part in 1..self.parts {
                    sum = s.add(sum, span.load(s, p.add(part * self.stride)));
                }
                span.store(s, p, sum);
            });
        }
    }
}

#[derive(Clone, Copy)]
struct Operands<'a> {
    x: &'a Rows,
    d_y: &'a Rows,
    d_x: &'a Rows,
    mean: Option<&'a Rows>,
    rstd: &'a Rows,
    weight: Vector,
    d_weight: Vector,
    d_bias: Vector,
}

struct Backward<'a> {
    kind: NormKind,
    io: Operands<'a>,
    rows: Range<usize>,
    stage: Shared<f32>,
}

impl Kernel for Backward<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (n, io) = (self.io.x.n, self.io);
        let (first, second) = (self.stage.0, self.stage.at(n as isize));
        // SAFETY: `r` is one of the rows that the verb's check found in bounds; rows of `d_x` do
        // not overlap, and one that shares `d_y`'s memory is the same row. The stages (the second
        // is shared by `d_y` and `d_x`) were asked for when a view is not dense. The sums of this
        // part are no other task's.
        unsafe {
            for sum in [io.d_weight, io.d_bias].into_iter().flatten() {
                sum.0.write_bytes(0, n);
            }
            for r in self.rows {
                let (x, d_y) = (io.x.read(r, first), io.d_y.read(r, second));
                let d_x = io.d_x.place(r, second);
                let mean = io.mean.map_or(0.0, |m| m.row(r).read());
                let rstd = io.rstd.row(r).read();
                let sums = row_sums(s, x, d_y, io.weight, n, mean);
                let k = coefficients(self.kind, sums, n, mean, rstd);
                row_gradient(s, &io, [x, d_y], d_x, k);
                io.d_x.flush(r, second);
            }
        }
    }
}

/// `[sum(d), sum(g), sum(g * d)]` with `d = x - mean` and `g = d_y * weight`.
///
/// # Safety
/// `n` elements are readable at each pointer.
#[inline(always)]
unsafe fn row_sums<S: Simd>(
    s: S,
    x: *const f32,
    d_y: *const f32,
    weight: Vector,
    n: usize,
    mean: f32,
) -> [f64; 3] {
    let (zero, mean) = (s.lit(0.0), splat(s, mean));
    let mut sums = [0f64; 3];
    for from in (0..n).step_by(BLOCK) {
        let mut block = [[zero; 4]; 3];
        // SAFETY: the block lies in the row.
        unsafe {
            sweep!(BLOCK.min(n - from), |i, u, span| {
                let i = from + i;
                let d = span.keep(s, s.sub(span.load(s, x.add(i)), mean), zero);
                let g = s.mul(span.load(s, d_y.add(i)), at(s, span, weight, i, 1.0));
                block[0][u] = s.add(block[0][u], d);
                block[1][u] = s.add(block[1][u], g);
                block[2][u] = s.fma(g, d, block[2][u]);
            });
        }
        for (sum, block) in sums.iter_mut().zip(block) {
            *sum += f64::from(total(s, block));
        }
    }
    sums
}

/// `h = (x - mean) * rstd - rest` and `d_x = rstd * g - shift - h * slope`.
#[derive(Clone, Copy)]
struct Coefficients {
    mean: f32,
    rstd: f32,
    rest: f32,
    shift: f32,
    slope: f32,
}

/// The saved mean is rounded: `rest` is what the distances from it still have in common.
#[inline(always)]
fn coefficients(kind: NormKind, sums: [f64; 3], n: usize, mean: f32, rstd: f32) -> Coefficients {
    let ([d, g, gd], r) = (sums.map(|sum| sum / n as f64), f64::from(rstd));
    let (rest, shift) = match kind {
        NormKind::Layer => (d, g),
        NormKind::Rms => (0.0, 0.0),
    };
    let gh = (gd - rest * g) * r;
    Coefficients {
        mean,
        rstd,
        rest: (rest * r) as f32,
        shift: (shift * r) as f32,
        slope: (gh * r) as f32,
    }
}

/// # Safety
/// A row is readable at `x` and `d_y` and writable at `d_x`, which is `d_y` or apart, and at the
/// sums.
#[inline(always)]
unsafe fn row_gradient<S: Simd>(
    s: S,
    io: &Operands<'_>,
    [x, d_y]: [*const f32; 2],
    d_x: *mut f32,
    k: Coefficients,
) {
    let (mean, rstd, minus_rest) = (splat(s, k.mean), splat(s, k.rstd), splat(s, -k.rest));
    let (minus_shift, minus_slope) = (splat(s, -k.shift), splat(s, -k.slope));
    // SAFETY: the sweep stays in the row.
    unsafe {
        sweep!(io.x.n, |i, _u, span| {
            let (v, dy) = (span.load(s, x.add(i)), span.load(s, d_y.add(i)));
            let h = s.fma(s.sub(v, mean), rstd, minus_rest);
            let g = s.mul(dy, at(s, span, io.weight, i, 1.0));
            span.store(s, d_x.add(i), s.fma(h, minus_slope, s.fma(g, rstd, minus_shift)));
            if let Some(sum) = io.d_weight {
                let p = sum.0.add(i);
                span.store(s, p, s.fma(dy, h, span.load(s, p)));
            }
            if let Some(sum) = io.d_bias {
                let p = sum.0.add(i);
                span.store(s, p, s.add(span.load(s, p), dy));
            }
        });
    }
}
