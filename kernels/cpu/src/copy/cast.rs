//! Conversions between element types.

use super::Transfer;
use crate::simd::Simd;
use half::{bf16, f16};
use starling_contract::DType;

/// An element type.
pub(super) trait Element: Copy {
    /// A floating-point number as an f32, which is exact.
    fn real(self) -> f32;
    /// An integer.
    fn whole(self) -> i64;
    fn from_real(x: f32) -> Self;
    fn from_whole(x: i64) -> Self;
    fn from_f64(x: f64) -> Self;
}

macro_rules! integers {
    ($($t:ty, $largest:literal;)*) => {$(
        impl Element for $t {
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
                // What `as` does, in selects that the compiler turns into vector code.
                let inside = if x > <$t>::MIN as f32 { x } else { <$t>::MIN as f32 };
                let inside = if inside < $largest { inside } else { $largest };
                // SAFETY: the number lies between two that the type has.
                let n = unsafe { inside.to_int_unchecked::<$t>() };
                let n = if x > $largest { <$t>::MAX } else { n };
                if x.is_nan() { 0 } else { n }
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
// With the largest f32 that is not above the type's largest number.
integers! {
    i32, 2147483520.0;
    u32, 4294967040.0;
    u8, 255.0;
    i8, 127.0;
}

macro_rules! halves {
    ($($t:ty)*) => {$(
        impl Element for $t {
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
halves! { f16 bf16 }

impl Element for f32 {
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

/// From one dtype to another, as Rust's `as`: float to integer truncates and saturates, integers
/// wrap, narrow floats round to nearest even.
#[derive(Clone, Copy)]
pub(super) struct Cast {
    pub from: DType,
    pub to: DType,
}

/// Calls a generic function with the type that a dtype names.
macro_rules! with_type {
    ($dtype:expr, $f:ident($($arg:expr),*)) => {
        match $dtype {
            DType::F32 => $f::<f32>($($arg),*),
            DType::F16 => $f::<f16>($($arg),*),
            DType::BF16 => $f::<bf16>($($arg),*),
            DType::I32 => $f::<i32>($($arg),*),
            DType::U32 => $f::<u32>($($arg),*),
            DType::U8 => $f::<u8>($($arg),*),
            DType::I8 => $f::<i8>($($arg),*),
        }
    };
}

/// Numbers that are converted at a time, in two steps: to the widest type of their kind and from
/// it. One loop for each pair of types would be 42 loops for each instruction set.
const STAGE: usize = 256;

impl Transfer for Cast {
    #[inline(always)]
    unsafe fn run<S: Simd>(self, s: S, from: *const u8, to: *mut u8, n: usize, step: [isize; 2]) {
        let sizes = [self.to.size() as isize, self.from.size() as isize];
        // SAFETY: the caller's promise holds for every part of the run.
        unsafe {
            let mut at = if step == sizes { self.dense(s, from, to, n) } else { 0 };
            while at < n {
                let (len, i) = (STAGE.min(n - at), at as isize);
                let (to, to_step) = (to.wrapping_offset(i * step[0]), step[0]);
                let (from, from_step) = (from.wrapping_offset(i * step[1]), step[1]);
                if self.from.is_float() {
                    let mut stage = [0f32; STAGE];
                    let stage = &mut stage[..len];
                    with_type!(self.from, read_reals(from, from_step, stage));
                    with_type!(self.to, write_reals(to, to_step, stage));
                } else {
                    let mut stage = [0i64; STAGE];
                    let stage = &mut stage[..len];
                    with_type!(self.from, read_wholes(from, from_step, stage));
                    with_type!(self.to, write_wholes(to, to_step, stage));
                }
                at += len;
            }
        }
    }
}

impl Cast {
    /// The conversions that programs ask for, between neighbours; the number of elements done.
    ///
    /// # Safety
    /// `n` elements are readable at `from` and writable at `to`, and the two are apart.
    #[inline(always)]
    unsafe fn dense<S: Simd>(self, s: S, from: *const u8, to: *mut u8, n: usize) -> usize {
        /// One loop over registers.
        macro_rules! registers {
            ($load:ident $a:ty, $store:ident $b:ty) => {{
                let mut at = 0;
                while at + S::LANES <= n {
                    // SAFETY: the register at `at` ends at or before `n`.
                    unsafe {
                        s.$store(to.cast::<$b>().add(at), s.$load(from.cast::<$a>().add(at)))
                    };
                    at += S::LANES;
                }
                at
            }};
        }
        /// One loop over elements, which the compiler vectorises.
        macro_rules! elements {
            ($a:ty, $b:ty, $convert:expr) => {{
                let (from, to) = (from.cast::<$a>(), to.cast::<$b>());
                for i in 0..n {
                    // SAFETY: the caller's promise.
                    unsafe { to.add(i).write($convert(from.add(i).read())) };
                }
                n
            }};
        }
        match (self.from, self.to) {
            (DType::F32, DType::F16) => registers!(load f32, store_f16 f16),
            (DType::F32, DType::BF16) => registers!(load f32, store_bf16 bf16),
            (DType::F16, DType::F32) => registers!(load_f16 f16, store f32),
            (DType::F16, DType::BF16) => registers!(load_f16 f16, store_bf16 bf16),
            (DType::BF16, DType::F32) => registers!(load_bf16 bf16, store f32),
            (DType::BF16, DType::F16) => registers!(load_bf16 bf16, store_f16 f16),
            (DType::U8, DType::F32) => registers!(load_u8 u8, store f32),
            (DType::F32, DType::I32) => elements!(f32, i32, i32::from_real),
            (DType::F32, DType::U8) => elements!(f32, u8, u8::from_real),
            (DType::I32, DType::F32) => elements!(i32, f32, |x| x as f32),
            _ => 0,
        }
    }
}

/// One direction of a conversion through a stage.
macro_rules! staged {
    ($read:ident, $write:ident, $wide:ty, $to_wide:ident, $from_wide:ident) => {
        /// # Safety
        /// The stage's number of elements is readable at `from`, `step` bytes apart.
        #[inline(always)]
        unsafe fn $read<T: Element>(from: *const u8, step: isize, stage: &mut [$wide]) {
            let from = from.cast::<T>();
            if step == size_of::<T>() as isize {
                for (i, wide) in stage.iter_mut().enumerate() {
                    // SAFETY: the caller's promise.
                    *wide = unsafe { from.add(i).read() }.$to_wide();
                }
            } else {
                for (i, wide) in stage.iter_mut().enumerate() {
                    let from = from.wrapping_byte_offset(i as isize * step);
                    // SAFETY: the caller's promise.
                    *wide = unsafe { from.read() }.$to_wide();
                }
            }
        }

        /// # Safety
        /// The stage's number of elements is writable at `to`, `step` bytes apart.
        #[inline(always)]
        unsafe fn $write<T: Element>(to: *mut u8, step: isize, stage: &[$wide]) {
            let to = to.cast::<T>();
            if step == size_of::<T>() as isize {
                for (i, &wide) in stage.iter().enumerate() {
                    // SAFETY: the caller's promise.
                    unsafe { to.add(i).write(T::$from_wide(wide)) };
                }
            } else {
                for (i, &wide) in stage.iter().enumerate() {
                    // SAFETY: the caller's promise.
                    unsafe {
                        to.wrapping_byte_offset(i as isize * step).write(T::$from_wide(wide))
                    };
                }
            }
        }
    };
}
staged!(read_reals, write_reals, f32, real, from_real);
staged!(read_wholes, write_wholes, i64, whole, from_whole);
