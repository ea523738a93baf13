//! Plain arithmetic: the reference (f64) and the scalar instruction-set row (f32).

use crate::math::Math;
use crate::narrow;
use crate::poly;
use std::marker::PhantomData;

/// Evaluates a definition in one number of type `T`.
///
/// `Scalar<f64>` takes its transcendental functions from libm and is the truth of the tests;
/// `Scalar<f32>` takes them from [`crate::poly`], exactly as the vector targets do.
#[derive(Clone, Copy, Debug)]
pub struct Scalar<T>(PhantomData<T>);

impl<T> Scalar<T> {
    /// The target itself; it holds nothing.
    pub const NEW: Self = Self(PhantomData);
}

/// What both widths have in common; `$t` is the real type.
macro_rules! shared {
    ($t:ty) => {
        type V = $t;
        type B = bool;
        type U = u32;
        #[inline(always)]
        fn lit(self, x: f64) -> $t {
            x as $t
        }
        #[inline(always)]
        fn add(self, a: $t, b: $t) -> $t {
            a + b
        }
        #[inline(always)]
        fn sub(self, a: $t, b: $t) -> $t {
            a - b
        }
        #[inline(always)]
        fn mul(self, a: $t, b: $t) -> $t {
            a * b
        }
        #[inline(always)]
        fn div(self, a: $t, b: $t) -> $t {
            a / b
        }
        #[inline(always)]
        fn neg(self, a: $t) -> $t {
            -a
        }
        #[inline(always)]
        fn abs(self, a: $t) -> $t {
            a.abs()
        }
        #[inline(always)]
        fn min(self, a: $t, b: $t) -> $t {
            // `a` wins a tie and a NaN in `a`; a NaN in `b` fails both tests and wins.
            if a <= b || a.is_nan() { a } else { b }
        }
        #[inline(always)]
        fn max(self, a: $t, b: $t) -> $t {
            if a >= b || a.is_nan() { a } else { b }
        }
        #[inline(always)]
        fn floor(self, a: $t) -> $t {
            a.floor()
        }
        #[inline(always)]
        fn round(self, a: $t) -> $t {
            a.round_ties_even()
        }
        #[inline(always)]
        fn sqrt(self, a: $t) -> $t {
            a.sqrt()
        }
        #[inline(always)]
        fn lt(self, a: $t, b: $t) -> bool {
            a < b
        }
        #[inline(always)]
        fn le(self, a: $t, b: $t) -> bool {
            a <= b
        }
        #[inline(always)]
        fn eq(self, a: $t, b: $t) -> bool {
            a == b
        }
        #[inline(always)]
        fn and(self, a: bool, b: bool) -> bool {
            a & b
        }
        #[inline(always)]
        fn or(self, a: bool, b: bool) -> bool {
            a | b
        }
        #[inline(always)]
        fn not(self, a: bool) -> bool {
            !a
        }
        #[inline(always)]
        fn any(self, c: bool) -> bool {
            c
        }
        #[inline(always)]
        fn select(self, c: bool, a: $t, b: $t) -> $t {
            if c { a } else { b }
        }
        #[inline(always)]
        fn ulit(self, x: u32) -> u32 {
            x
        }
        #[inline(always)]
        fn uadd(self, a: u32, b: u32) -> u32 {
            a.wrapping_add(b)
        }
        #[inline(always)]
        fn usub(self, a: u32, b: u32) -> u32 {
            a.wrapping_sub(b)
        }
        #[inline(always)]
        fn umul(self, a: u32, b: u32) -> u32 {
            a.wrapping_mul(b)
        }
        #[inline(always)]
        fn umulhi(self, a: u32, b: u32) -> u32 {
            ((u64::from(a) * u64::from(b)) >> 32) as u32
        }
        #[inline(always)]
        fn uand(self, a: u32, b: u32) -> u32 {
            a & b
        }
        #[inline(always)]
        fn uor(self, a: u32, b: u32) -> u32 {
            a | b
        }
        #[inline(always)]
        fn uxor(self, a: u32, b: u32) -> u32 {
            a ^ b
        }
        #[inline(always)]
        fn ushl(self, a: u32, n: u32) -> u32 {
            a << n
        }
        #[inline(always)]
        fn ushr(self, a: u32, n: u32) -> u32 {
            a >> n
        }
        #[inline(always)]
        fn ueq(self, a: u32, b: u32) -> bool {
            a == b
        }
        #[inline(always)]
        fn uselect(self, c: bool, a: u32, b: u32) -> u32 {
            if c { a } else { b }
        }
        #[inline(always)]
        fn to_real(self, a: u32) -> $t {
            a as $t
        }
        #[inline(always)]
        fn to_uint(self, a: $t) -> u32 {
            a as u32
        }
        #[inline(always)]
        fn bits(self, a: $t) -> u32 {
            (a as f32).to_bits()
        }
        #[inline(always)]
        fn from_bits(self, a: u32) -> $t {
            f32::from_bits(a) as $t
        }
    };
}

impl Math for Scalar<f64> {
    shared!(f64);
    fn fma(self, a: f64, b: f64, c: f64) -> f64 {
        a.mul_add(b, c)
    }
    fn round_f16(self, a: f64) -> f64 {
        half::f16::from_f32(narrow::round_to_odd(a)).to_f64()
    }
    fn round_bf16(self, a: f64) -> f64 {
        half::bf16::from_f32(narrow::round_to_odd(a)).to_f64()
    }
    fn rsqrt(self, a: f64) -> f64 {
        1.0 / a.sqrt()
    }
    fn exp(self, a: f64) -> f64 {
        libm::exp(a)
    }
    fn expm1(self, a: f64) -> f64 {
        libm::expm1(a)
    }
    fn log(self, a: f64) -> f64 {
        libm::log(a)
    }
    fn log1p(self, a: f64) -> f64 {
        libm::log1p(a)
    }
    fn sin(self, a: f64) -> f64 {
        libm::sin(a)
    }
    fn cos(self, a: f64) -> f64 {
        libm::cos(a)
    }
    fn tanh(self, a: f64) -> f64 {
        libm::tanh(a)
    }
    fn erf(self, a: f64) -> f64 {
        libm::erf(a)
    }
    fn sigmoid(self, a: f64) -> f64 {
        let e = libm::exp(-a.abs());
        if a < 0.0 { e / (1.0 + e) } else { 1.0 / (1.0 + e) }
    }
    fn softplus(self, a: f64) -> f64 {
        // The maximum must let NaN through, which f64::max does not.
        self.max(a, 0.0) + libm::log1p(libm::exp(-a.abs()))
    }
    fn pow(self, a: f64, b: f64) -> f64 {
        libm::pow(a, b)
    }
}

impl Math for Scalar<f32> {
    shared!(f32);
    #[inline(always)]
    fn fma(self, a: f32, b: f32, c: f32) -> f32 {
        a.mul_add(b, c)
    }
    poly::transcendentals!();
}
