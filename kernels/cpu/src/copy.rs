//! Strided copies between any two element types, and filling.

use crate::isa::{Isa, Kernel};
use crate::simd::Simd;
use crate::walk::{Nest, Shared, pointer, split};
use half::{bf16, f16};
use starling_api::{Copy, DType, Fill, MAX_RANK, Result};
use std::ops::Range;

/// An element type.
trait Element: std::marker::Copy + 'static {
    const DTYPE: DType;
    /// The number as an f32: exact for the floating-point types.
    fn real(self) -> f32;
    /// The number as an integer; the floating-point types have none.
    fn whole(self) -> i64;
    fn from_real(x: f32) -> Self;
    fn from_whole(x: i64) -> Self;
    fn from_f64(x: f64) -> Self;
}

macro_rules! integers {
    ($($t:ty, $dtype:ident;)*) => {$(
        impl Element for $t {
            const DTYPE: DType = DType::$dtype;
            #[inline(always)]
            fn real(self) -> f32 {
                self as f32
            }
            #[inline(always)]
            fn whole(self) -> i64 {
                self.into()
            }
            #[inline(always)]
            fn from_real(x: f32) -> Self {
                x as Self
            }
            #[inline(always)]
            fn from_whole(x: i64) -> Self {
                x as Self
            }
            fn from_f64(x: f64) -> Self {
                x as Self
            }
        }
    )*};
}
integers! { i32, I32; u32, U32; u8, U8; i8, I8; }

macro_rules! halves {
    ($($t:ty, $dtype:ident;)*) => {$(
        impl Element for $t {
            const DTYPE: DType = DType::$dtype;
            #[inline(always)]
            fn real(self) -> f32 {
                self.to_f32()
            }
            #[inline(always)]
            fn whole(self) -> i64 {
                self.to_f32() as i64
            }
            #[inline(always)]
            fn from_real(x: f32) -> Self {
                Self::from_f32(x)
            }
            #[inline(always)]
            fn from_whole(x: i64) -> Self {
                Self::from_f32(sticky(x) as f32)
            }
            fn from_f64(x: f64) -> Self {
                Self::from_f32(round_to_odd(x))
            }
        }
    )*};
}
halves! { f16, F16; bf16, BF16; }

impl Element for f32 {
    const DTYPE: DType = DType::F32;
    #[inline(always)]
    fn real(self) -> f32 {
        self
    }
    #[inline(always)]
    fn whole(self) -> i64 {
        self as i64
    }
    #[inline(always)]
    fn from_real(x: f32) -> Self {
        x
    }
    #[inline(always)]
    fn from_whole(x: i64) -> Self {
        x as f32
    }
    fn from_f64(x: f64) -> Self {
        x as f32
    }
}

/// An integer below 2^33 that is exact in f32 and rounds to the same half-width number as `x`: its
/// low bits are gathered in one. Converting `x` itself would round twice.
#[inline(always)]
fn sticky(x: i64) -> i64 {
    if x.abs() <= 1 << 24 {
        return x;
    }
    let magnitude = x.abs();
    let kept = magnitude & !0x1ff | (i64::from(magnitude & 0x1ff != 0) << 9);
    kept * x.signum()
}

/// `x` as an f32 whose last bit is set when it is inexact: rounding that to a half-width type
/// rounds `x` once (Boldo, Melquiond 2005, "When double rounding is odd").
fn round_to_odd(x: f64) -> f32 {
    let y = x as f32;
    if x.is_nan() || x.is_infinite() || f64::from(y) == x {
        return y;
    }
    let towards_zero = y.to_bits() - u32::from(f64::from(y).abs() > x.abs());
    f32::from_bits(towards_zero | 1)
}

/// As Rust's `as`: float to integer truncates and saturates, integers wrap, narrow floats round to
/// nearest even.
#[inline(always)]
fn convert<A: Element, B: Element>(x: A) -> B {
    if A::DTYPE.is_float() { B::from_real(x.real()) } else { B::from_whole(x.whole()) }
}

/// How elements go from one memory to the other.
trait Transfer: 'static {
    type A: std::marker::Copy;
    type B: std::marker::Copy;
    fn one(x: Self::A) -> Self::B;

    /// Transfers `n` neighbours to neighbours.
    ///
    /// # Safety
    /// `n` elements are readable at `from` and writable at `to`, and the two are apart.
    #[inline(always)]
    unsafe fn run<S: Simd>(_s: S, from: *const Self::A, to: *mut Self::B, n: usize) {
        for i in 0..n {
            // SAFETY: the caller's promise.
            unsafe { to.add(i).write(Self::one(from.add(i).read())) };
        }
    }
}

/// Elements of one dtype, as bits.
struct Move<T>(T);

impl<T: std::marker::Copy + 'static> Transfer for Move<T> {
    type A = T;
    type B = T;
    #[inline(always)]
    fn one(x: T) -> T {
        x
    }
    #[inline(always)]
    unsafe fn run<S: Simd>(_s: S, from: *const T, to: *mut T, n: usize) {
        // SAFETY: the caller's promise.
        unsafe { to.copy_from_nonoverlapping(from, n) };
    }
}

/// From one dtype to another.
struct Cast<A, B>(A, B);

impl<A: Element, B: Element> Transfer for Cast<A, B> {
    type A = A;
    type B = B;
    #[inline(always)]
    fn one(x: A) -> B {
        convert(x)
    }
    #[inline(always)]
    unsafe fn run<S: Simd>(s: S, from: *const A, to: *mut B, n: usize) {
        use DType::{BF16, F16, F32, U8};
        let mut done = 0;
        if matches!((A::DTYPE, B::DTYPE), (F32 | F16 | BF16 | U8, F32 | F16 | BF16)) {
            while done + S::LANES <= n {
                // SAFETY: the register at `done` ends at or before `n`; the casts are to the
                // types that the dtypes name.
                unsafe {
                    let from = from.add(done);
                    let v = match A::DTYPE {
                        F32 => s.load(from.cast()),
                        F16 => s.load_f16(from.cast()),
                        BF16 => s.load_bf16(from.cast()),
                        _ => s.load_u8(from.cast()),
                    };
                    let to = to.add(done);
                    match B::DTYPE {
                        F32 => s.store(to.cast(), v),
                        F16 => s.store_f16(to.cast(), v),
                        _ => s.store_bf16(to.cast(), v),
                    }
                }
                done += S::LANES;
            }
        }
        for i in done..n {
            // SAFETY: the caller's promise.
            unsafe { to.add(i).write(Self::one(from.add(i).read())) };
        }
    }
}

/// `dst = src`, element by element, in any layouts and between any dtypes. Nothing happens when
/// both are the very same view.
///
/// # Errors
/// `Shape` for views outside host memory.
pub fn copy(isa: Isa, v: &Copy) -> Result<()> {
    debug_assert_eq!(v.src.shape(), v.dst.shape());
    let same = v.src.same_storage(&v.dst) && v.src.layout == v.dst.layout;
    if v.dst.is_empty() || (same && v.src.dtype == v.dst.dtype) {
        return Ok(());
    }
    if v.src.dtype == v.dst.dtype {
        return match v.src.dtype.size() {
            4 => transfer::<Move<u32>>(isa, v),
            2 => transfer::<Move<u16>>(isa, v),
            _ => transfer::<Move<u8>>(isa, v),
        };
    }
    match v.src.dtype {
        DType::F32 => copy_from::<f32>(isa, v),
        DType::F16 => copy_from::<f16>(isa, v),
        DType::BF16 => copy_from::<bf16>(isa, v),
        DType::I32 => copy_from::<i32>(isa, v),
        DType::U32 => copy_from::<u32>(isa, v),
        DType::U8 => copy_from::<u8>(isa, v),
        DType::I8 => copy_from::<i8>(isa, v),
    }
}

fn copy_from<A: Element>(isa: Isa, v: &Copy) -> Result<()> {
    match v.dst.dtype {
        DType::F32 => transfer::<Cast<A, f32>>(isa, v),
        DType::F16 => transfer::<Cast<A, f16>>(isa, v),
        DType::BF16 => transfer::<Cast<A, bf16>>(isa, v),
        DType::I32 => transfer::<Cast<A, i32>>(isa, v),
        DType::U32 => transfer::<Cast<A, u32>>(isa, v),
        DType::U8 => transfer::<Cast<A, u8>>(isa, v),
        DType::I8 => transfer::<Cast<A, i8>>(isa, v),
    }
}

/// The loops over a target's elements in the order of its memory, with each operand's offset of
/// the first iteration. Operand 0 is the target.
fn in_memory_order<const K: usize>(
    shape: &[usize],
    strides: [&[isize]; K],
) -> (Nest<K>, [isize; K]) {
    let (mut axes, mut rank) = ([(0, [0; K]); MAX_RANK], 0);
    let mut first = [0; K];
    for (axis, &n) in shape.iter().enumerate().filter(|&(_, &n)| n != 1) {
        let mut steps = strides.map(|s| s[axis]);
        if steps[0] < 0 {
            for k in 0..K {
                first[k] += steps[k] * (n as isize - 1);
                steps[k] = -steps[k];
            }
        }
        axes[rank] = (n, steps);
        rank += 1;
    }
    axes[..rank].sort_unstable_by_key(|&(_, steps)| std::cmp::Reverse(steps[0]));
    let mut nest = Nest::new(&[], strides.map(|_| &[][..]));
    for &(n, steps) in &axes[..rank] {
        nest.push(n, steps);
    }
    (nest, first)
}

fn transfer<T: Transfer>(isa: Isa, v: &Copy) -> Result<()> {
    let (to, from) = (pointer::<T::B>("copy", &v.dst)?, pointer::<T::A>("copy", &v.src)?);
    let strides = [v.dst.layout.strides(), v.src.layout.strides()];
    let (mut nest, first) = in_memory_order(v.dst.shape(), strides);
    let ends = Ends::<T> { to: Shared(to.at(first[0])), from: Shared(from.at(first[1])) };
    let (n, step) = nest.pop();
    let across = (0..nest.rank).rev().find(|&k| nest.strides[k][1] == 1);
    if let Some(k) = across
        && step[0] == 1
        && n.min(nest.shape[k]) >= TILE / 2
    {
        let (rows, row_step) = (nest.shape[k], nest.strides[k][0]);
        (nest.shape[k], nest.strides[k]) = (1, [0; 2]);
        let plane = Plane { rows, row_step, columns: n, column_step: step[1] };
        let bands = rows.div_ceil(BAND);
        split(nest.len() * bands, BAND * n, |range| {
            isa.run(Transpose { ends, nest: &nest, plane, bands, range });
        });
        return Ok(());
    }
    split(nest.len() * n, 1, |range| isa.run(Runs { ends, nest: &nest, n, step, range }));
    Ok(())
}

/// The first element of each side.
struct Ends<T: Transfer> {
    to: Shared<T::B>,
    from: Shared<T::A>,
}

impl<T: Transfer> Clone for Ends<T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T: Transfer> std::marker::Copy for Ends<T> {}

/// Elements `range` in the order of the target's memory, run by run.
struct Runs<'a, T: Transfer> {
    ends: Ends<T>,
    /// The loops around a run.
    nest: &'a Nest<2>,
    /// Length of a run.
    n: usize,
    /// Steps within a run.
    step: [isize; 2],
    range: Range<usize>,
}

impl<T: Transfer> Kernel for Runs<'_, T> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Runs { ends, nest, n, step, range } = self;
        let mut walk = nest.walk(range.start / n);
        let (mut skip, mut left) = (range.start % n, range.len());
        while left > 0 {
            let len = (n - skip).min(left);
            let to = ends.to.at(walk.at[0] + skip as isize * step[0]);
            let from = ends.from.at(walk.at[1] + skip as isize * step[1]);
            // SAFETY: the loops visit the elements of views that the verb's check found in bounds;
            // the target overlaps neither itself nor, but for the very same view, the source.
            unsafe {
                if step == [1, 1] {
                    T::run(s, from, to, len);
                } else {
                    for i in 0..len as isize {
                        let v = T::one(from.wrapping_offset(i * step[1]).read());
                        to.wrapping_offset(i * step[0]).write(v);
                    }
                }
            }
            walk.step();
            (skip, left) = (0, left - len);
        }
    }
}

/// Side of the square that is turned at once: a cache line of f32.
const TILE: usize = 16;
/// Rows of the target that a task turns at a time: enough that every page of the source is used
/// for several lines.
const BAND: usize = 4 * TILE;

/// Rows of the target, neighbours in the source, and columns, neighbours in the target.
#[derive(Clone, Copy)]
struct Plane {
    rows: usize,
    /// From row to row in the target.
    row_step: isize,
    columns: usize,
    /// From column to column in the source.
    column_step: isize,
}

struct Transpose<'a, T: Transfer> {
    ends: Ends<T>,
    nest: &'a Nest<2>,
    plane: Plane,
    /// Bands of a plane.
    bands: usize,
    /// Bands of all planes.
    range: Range<usize>,
}

impl<T: Transfer> Kernel for Transpose<'_, T> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, _s: S) {
        for band in self.range {
            let at = self.nest.walk(band / self.bands).at;
            let row = band % self.bands * BAND;
            let (columns, rows) = (self.plane.columns, self.plane.rows.min(row + BAND));
            for j in (0..columns).step_by(TILE) {
                for i in (row..rows).step_by(TILE) {
                    let (width, height) = (TILE.min(columns - j), TILE.min(rows - i));
                    let (i, j) = (i as isize, j as isize);
                    let to = self.ends.to.at(at[0] + i * self.plane.row_step + j);
                    let from = self.ends.from.at(at[1] + j * self.plane.column_step + i);
                    // SAFETY: the tile lies in the plane, whose elements the verb's check found
                    // in bounds; the target overlaps neither itself nor the source.
                    unsafe { turn::<T>(from, to, self.plane, height, width) };
                }
            }
        }
    }
}

/// Turns one tile through a buffer, so that both sides move whole cache lines.
///
/// # Safety
/// The tile of `height` rows and `width` columns exists on both sides, which are apart.
#[inline(always)]
unsafe fn turn<T: Transfer>(
    from: *const T::A,
    to: *mut T::B,
    plane: Plane,
    height: usize,
    width: usize,
) {
    let mut tile = [[std::mem::MaybeUninit::<T::B>::uninit(); TILE]; TILE];
    // SAFETY: rows below `height` and columns below `width` exist; what is read from the buffer
    // was written to it before.
    unsafe {
        if (height, width) == (TILE, TILE) {
            for (j, column) in tile.iter_mut().enumerate() {
                let from = from.wrapping_offset(j as isize * plane.column_step);
                for (i, v) in column.iter_mut().enumerate() {
                    v.write(T::one(from.add(i).read()));
                }
            }
            for i in 0..TILE {
                let to = to.wrapping_offset(i as isize * plane.row_step);
                for (j, column) in tile.iter().enumerate() {
                    to.add(j).write(column[i].assume_init());
                }
            }
            return;
        }
        for i in 0..height {
            let to = to.wrapping_offset(i as isize * plane.row_step);
            for j in 0..width {
                let from = from.wrapping_offset(j as isize * plane.column_step);
                to.add(j).write(T::one(from.add(i).read()));
            }
        }
    }
}

/// `dst = value` in every element, converted as by [`copy`].
///
/// # Errors
/// `Shape` for views outside host memory.
pub fn fill(v: &Fill) -> Result<()> {
    if v.dst.is_empty() {
        return Ok(());
    }
    match v.dst.dtype {
        DType::F32 => fill_with(v, f32::from_f64(v.value).to_bits()),
        DType::F16 => fill_with(v, <f16 as Element>::from_f64(v.value).to_bits()),
        DType::BF16 => fill_with(v, <bf16 as Element>::from_f64(v.value).to_bits()),
        DType::I32 => fill_with(v, i32::from_f64(v.value)),
        DType::U32 => fill_with(v, u32::from_f64(v.value)),
        DType::U8 => fill_with(v, u8::from_f64(v.value)),
        DType::I8 => fill_with(v, i8::from_f64(v.value)),
    }
}

fn fill_with<T: std::marker::Copy + Send + Sync>(v: &Fill, value: T) -> Result<()> {
    let to = pointer::<T>("fill", &v.dst)?;
    let (mut nest, [first]) = in_memory_order(v.dst.shape(), [v.dst.layout.strides()]);
    let (n, [step]) = nest.pop();
    split(nest.len() * n, 1, |range| {
        let mut walk = nest.walk(range.start / n);
        let (mut skip, mut left) = (range.start % n, range.len());
        while left > 0 {
            let len = (n - skip).min(left);
            let to = to.at(first + walk.at[0] + skip as isize * step);
            // SAFETY: the loops visit the elements of a view that the verb's check found in
            // bounds and not overlapping itself, so each is one task's alone.
            unsafe {
                if step == 1 {
                    std::slice::from_raw_parts_mut(to, len).fill(value);
                } else {
                    for i in 0..len as isize {
                        to.wrapping_offset(i * step).write(value);
                    }
                }
            }
            walk.step();
            (skip, left) = (0, left - len);
        }
    });
    Ok(())
}
