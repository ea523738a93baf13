//! Blocks copied to and from the layouts that the products read.

use super::product::splat;
use crate::gemm::micro::prefetch;
use crate::gemm::pack::{Strip, pack};
use crate::isa::Kernel;
use crate::simd::Simd;

/// A matrix `[rows, dim]` inside a tensor; strides in elements.
#[derive(Clone, Copy)]
pub struct Matrix {
    pub at: *mut f32,
    pub row: isize,
    pub col: isize,
}

impl Matrix {
    /// The matrix from row `i` on.
    pub fn skip_rows(self, i: usize) -> Self {
        Self { at: self.at.wrapping_offset(i as isize * self.row), ..self }
    }
}

impl Matrix {
    /// Asks for the cache lines of `rows` rows of `dim` numbers. Heads are often narrower than the
    /// distance of their rows, which the hardware does not foresee.
    pub fn prefetch(self, rows: usize, dim: usize) {
        if self.col != 1 {
            return;
        }
        for i in 0..rows {
            let row = self.skip_rows(i).at;
            for d in (0..dim).step_by(LINE) {
                prefetch(row.wrapping_add(d));
            }
        }
    }
}

/// f32 numbers in a cache line.
const LINE: usize = 16;

/// `dst[i, ..dim] = factor * src[i, ..]`, with zeros up to `width`, a whole number of vectors.
pub struct PackRows {
    pub src: Matrix,
    pub dst: *mut f32,
    pub rows: usize,
    pub dim: usize,
    pub width: usize,
    pub factor: f32,
}

impl PackRows {
    /// The copy as a kernel.
    ///
    /// # Safety
    /// While it runs, `src` is readable and `dst` is writable for `rows * width` numbers.
    pub unsafe fn kernel(self) -> impl Kernel<Out = ()> {
        Checked(self)
    }
}

/// `dst[i, ..] = factor[i] * src[i, ..dim]`, rows of `src` being `width` apart.
pub struct UnpackRows {
    pub src: *const f32,
    pub width: usize,
    pub dst: Matrix,
    pub rows: usize,
    pub dim: usize,
    /// One factor for all rows, or one for each.
    pub factor: Factor,
}

/// What rows are multiplied by.
#[derive(Clone, Copy)]
pub enum Factor {
    One(f32),
    PerRow(*const f32),
}

impl UnpackRows {
    /// The copy as a kernel.
    ///
    /// # Safety
    /// While it runs, `src` is readable for whole vectors, `dst` writable, and the factors are
    /// readable.
    pub unsafe fn kernel(self) -> impl Kernel<Out = ()> {
        Checked(self)
    }
}

/// Keys become columns: `dst[panel][d][key]`, each panel `columns` keys wide, the last one filled
/// up with zeros.
pub struct PackTransposed {
    pub src: Matrix,
    pub dst: *mut f32,
    pub rows: usize,
    pub dim: usize,
    pub columns: usize,
}

impl PackTransposed {
    /// The copy as a kernel.
    ///
    /// # Safety
    /// While it runs, `src` is readable and `dst` is writable for `rows`, rounded up to whole
    /// panels, times `dim` numbers.
    pub unsafe fn kernel(self) -> impl Kernel<Out = ()> {
        Checked(self)
    }
}

/// `out[i] = sum over d of a[i, d] * b[i, d]`, rows `width` apart and zero beyond their end.
pub struct RowDots {
    pub a: *const f32,
    pub b: *const f32,
    pub out: *mut f32,
    pub rows: usize,
    pub width: usize,
}

impl RowDots {
    /// The sums as a kernel.
    ///
    /// # Safety
    /// While it runs, `a` and `b` are readable for `rows * width` numbers and `out` is writable
    /// for `rows`.
    pub unsafe fn kernel(self) -> impl Kernel<Out = ()> {
        Checked(self)
    }
}

/// A description whose maker promised that its pointers are valid.
struct Checked<T>(T);

impl Kernel for Checked<PackRows> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let p = self.0;
        for i in 0..p.rows {
            let src = p.src.skip_rows(i);
            // SAFETY: `PackRows::kernel`'s caller promised `rows` rows in both blocks.
            unsafe { pack_row(s, src, p.dst.add(i * p.width), p.dim, p.width, p.factor) }
        }
    }
}

/// `dst[d] = factor * src[d]` for `d < dim`, zeros up to `width`.
///
/// # Safety
/// `dim` numbers are readable and `width`, a whole number of vectors, are writable.
#[inline(always)]
unsafe fn pack_row<S: Simd>(
    s: S,
    src: Matrix,
    dst: *mut f32,
    dim: usize,
    width: usize,
    factor: f32,
) {
    // SAFETY: the caller promises `dim` numbers to read and `width` to write.
    unsafe {
        if src.col != 1 {
            for d in 0..width {
                let at = src.at.wrapping_offset(d as isize * src.col);
                *dst.add(d) = if d < dim { factor * *at } else { 0.0 };
            }
            return;
        }
        let f = splat(s, factor);
        let mut d = 0;
        while d + S::LANES <= dim {
            s.store(dst.add(d), s.mul(f, s.load(src.at.add(d))));
            d += S::LANES;
        }
        if d < dim {
            s.store(dst.add(d), s.mul(f, s.load_first(src.at.add(d), dim - d)));
            d += S::LANES;
        }
        while d < width {
            s.store(dst.add(d), s.lit(0.0));
            d += S::LANES;
        }
    }
}

impl Kernel for Checked<UnpackRows> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let p = self.0;
        for i in 0..p.rows {
            let dst = p.dst.skip_rows(i);
            // SAFETY: `UnpackRows::kernel`'s caller promised `rows` rows in both blocks and as many
            // factors.
            unsafe {
                let factor = match p.factor {
                    Factor::One(f) => f,
                    Factor::PerRow(f) => *f.add(i),
                };
                unpack_row(s, p.src.add(i * p.width), dst, p.dim, factor);
            }
        }
    }
}

/// `dst[d] = factor * src[d]` for `d < dim`.
///
/// # Safety
/// `dim` numbers, rounded up to whole vectors, are readable and `dim` are writable.
#[inline(always)]
unsafe fn unpack_row<S: Simd>(s: S, src: *const f32, dst: Matrix, dim: usize, factor: f32) {
    // SAFETY: the caller promises `dim` numbers, rounded up to whole vectors, to read and `dim`
    // to write.
    unsafe {
        if dst.col != 1 {
            for d in 0..dim {
                *dst.at.wrapping_offset(d as isize * dst.col) = factor * *src.add(d);
            }
            return;
        }
        let f = splat(s, factor);
        let mut d = 0;
        while d + S::LANES <= dim {
            s.store(dst.at.add(d), s.mul(f, s.load(src.add(d))));
            d += S::LANES;
        }
        if d < dim {
            s.store_first(dst.at.add(d), dim - d, s.mul(f, s.load(src.add(d))));
        }
    }
}

impl Kernel for Checked<PackTransposed> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let p = self.0;
        for first in (0..p.rows).step_by(p.columns) {
            let src = p.src.skip_rows(first);
            let strip = Strip {
                src: src.at,
                across: src.row,
                along: src.col,
                count: p.columns.min(p.rows - first),
                width: p.columns,
                k: p.dim,
                dst: p.dst.wrapping_add(first * p.dim),
            };
            // SAFETY: `PackTransposed::kernel`'s caller promised whole panels.
            unsafe { pack(s, &strip) }
        }
    }
}

impl Kernel for Checked<RowDots> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let p = self.0;
        for i in 0..p.rows {
            // SAFETY: `RowDots::kernel`'s caller promised `rows` rows of `width` numbers.
            unsafe {
                let (a, b) = (p.a.add(i * p.width), p.b.add(i * p.width));
                let mut sum = s.lit(0.0);
                for d in (0..p.width).step_by(S::LANES) {
                    sum = s.fma(s.load(a.add(d)), s.load(b.add(d)), sum);
                }
                *p.out.add(i) = s.sum(sum);
            }
        }
    }
}
