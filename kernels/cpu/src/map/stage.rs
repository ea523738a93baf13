//! Elements of any type and stride to blocks of f32 and back.

use super::grid::{Element, Operand};
use super::steps::Loc;
use crate::isa::Kernel;
use crate::simd::Simd;
use half::{bf16, f16};

/// Lanes of the widest vector.
const WIDEST: usize = 16;

/// Reads `n` elements, converted to f32.
pub(crate) struct Load {
    from: *const u8,
    dtype: Element,
    stride: isize,
    to: *mut f32,
    n: usize,
}

impl Load {
    /// Elements `position, position + stride, ..` of an operand.
    ///
    /// # Safety
    /// Those `n` elements are readable and `to` has room for them.
    pub unsafe fn new(x: &Operand, position: isize, stride: isize, to: *mut f32, n: usize) -> Self {
        let from = x.first.wrapping_offset(position * x.dtype.size() as isize);
        Self { from, dtype: x.dtype, stride, to, n }
    }
}

/// One whole vector after the other, then element by element.
macro_rules! load {
    ($self:ident, $s:ident, $t:ty, $vector:ident, |$x:ident| $convert:expr) => {{
        let from: *const $t = $self.from.cast();
        let mut i = 0;
        if $self.stride == 1 {
            while i + S::LANES <= $self.n {
                $s.store($self.to.add(i), $s.$vector(from.add(i)));
                i += S::LANES;
            }
        }
        while i < $self.n {
            let $x = *from.offset(i as isize * $self.stride);
            *$self.to.add(i) = $convert;
            i += 1;
        }
    }};
}

impl Kernel for Load {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        // SAFETY: `new`'s caller promised readable elements and room for the results.
        unsafe {
            match self.dtype {
                Element::F32 => load!(self, s, f32, load, |x| x),
                Element::F16 => load!(self, s, f16, load_f16, |x| x.to_f32()),
                Element::BF16 => load!(self, s, bf16, load_bf16, |x| x.to_f32()),
                Element::U8 => load!(self, s, u8, load_u8, |x| x.into()),
            }
        }
    }
}

/// Reads rows whose elements lie apart and which are neighbours of each other, converted to f32.
pub(crate) struct Turn {
    from: *const u8,
    dtype: Element,
    stride: isize,
    to: *mut f32,
    rows: usize,
    n: usize,
}

impl Turn {
    /// `rows` rows of `n` elements, row `i` as [`Load`] would read it from `position + i` on, one
    /// behind the other.
    ///
    /// # Safety
    /// Those elements are readable and `to` has room for them.
    pub unsafe fn new(
        x: &Operand,
        position: isize,
        stride: isize,
        to: *mut f32,
        [rows, n]: [usize; 2],
    ) -> Self {
        let from = x.first.wrapping_offset(position * x.dtype.size() as isize);
        Self { from, dtype: x.dtype, stride, to, rows, n }
    }
}

/// Whole squares of vectors, then element by element.
macro_rules! turn {
    ($self:ident, $s:ident, $t:ty, $vector:ident, |$x:ident| $convert:expr) => {{
        let from: *const $t = $self.from.cast();
        let at = |row: usize, i: usize| from.offset(row as isize + i as isize * $self.stride);
        let (rows, n) = ($self.rows - $self.rows % S::LANES, $self.n - $self.n % S::LANES);
        for i in (0..n).step_by(S::LANES) {
            for row in (0..rows).step_by(S::LANES) {
                let mut square = [$s.lit(0.0); WIDEST];
                for (k, v) in square[..S::LANES].iter_mut().enumerate() {
                    *v = $s.$vector(at(row, i + k));
                }
                $s.transpose(&mut square[..S::LANES]);
                for (k, v) in square[..S::LANES].iter().enumerate() {
                    $s.store($self.to.add((row + k) * $self.n + i), *v);
                }
            }
        }
        for row in 0..$self.rows {
            for i in (if row < rows { n } else { 0 })..$self.n {
                let $x = *at(row, i);
                *$self.to.add(row * $self.n + i) = $convert;
            }
        }
    }};
}

impl Kernel for Turn {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        // SAFETY: `new`'s caller promised readable elements and room for the results.
        unsafe {
            match self.dtype {
                Element::F32 => turn!(self, s, f32, load, |x| x),
                Element::F16 => turn!(self, s, f16, load_f16, |x| x.to_f32()),
                Element::BF16 => turn!(self, s, bf16, load_bf16, |x| x.to_f32()),
                Element::U8 => turn!(self, s, u8, load_u8, |x| x.into()),
            }
        }
    }
}

/// Writes `n` numbers, converted to the operand's type.
pub(crate) struct Store {
    from: Loc,
    to: *mut u8,
    dtype: Element,
    stride: isize,
    n: usize,
}

impl Store {
    /// Elements `position, position + stride, ..` of an operand.
    ///
    /// # Safety
    /// `from` holds `n` numbers and those `n` elements are writable.
    pub unsafe fn new(from: Loc, x: &Operand, position: isize, stride: isize, n: usize) -> Self {
        let to = x.first.wrapping_offset(position * x.dtype.size() as isize);
        Self { from, to, dtype: x.dtype, stride, n }
    }
}

macro_rules! store {
    ($self:ident, $s:ident, $t:ty, $vector:ident, |$x:ident| $convert:expr) => {{
        let to: *mut $t = $self.to.cast();
        let mut i = 0;
        if $self.stride == 1 {
            while i + S::LANES <= $self.n {
                $s.$vector(to.add(i), $s.load($self.from.at.add(i * $self.from.step)));
                i += S::LANES;
            }
        }
        while i < $self.n {
            let $x: f32 = *$self.from.at.add(i * $self.from.step);
            *to.offset(i as isize * $self.stride) = $convert;
            i += 1;
        }
    }};
}

impl Kernel for Store {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        // SAFETY: `new`'s caller promised readable numbers and writable elements.
        unsafe {
            match self.dtype {
                Element::F32 => store!(self, s, f32, store, |x| x),
                Element::F16 => store!(self, s, f16, store_f16, |x| f16::from_f32(x)),
                Element::BF16 => store!(self, s, bf16, store_bf16, |x| bf16::from_f32(x)),
                Element::U8 => {
                    for i in 0..self.n {
                        let truth = *self.from.at.add(i * self.from.step) != 0.0;
                        *self.to.offset(i as isize * self.stride) = u8::from(truth);
                    }
                }
            }
        }
    }
}
