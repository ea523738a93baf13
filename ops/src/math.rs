//! The vocabulary in which every elementwise operation is written.

/// Arithmetic over some target: scalars, vector registers, a trace, dual numbers, error bounds.
///
/// A definition is a function generic over `M: Math`; the target decides what evaluating it means.
/// `V` is a real number, `B` a truth value and `U` a 32-bit unsigned integer of that target.
///
/// Contract for every target that computes: `add`, `sub`, `mul`, `div`, `sqrt` and `fma` are
/// correctly rounded; `fma` rounds once and nothing else is contracted; `min` and `max` return NaN
/// when either argument is NaN; `round` rounds half to even; comparisons with NaN are false
/// except [`Math::ne`].
pub trait Math: Copy {
    /// A real number.
    type V: Copy;
    /// A truth value.
    type B: Copy;
    /// A 32-bit unsigned integer with wrapping arithmetic.
    type U: Copy;

    /// The constant `x`, rounded once to the target's type.
    fn lit(self, x: f64) -> Self::V;
    /// `a + b`
    fn add(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a - b`
    fn sub(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a * b`
    fn mul(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a / b`
    fn div(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a * b + c`, rounded once.
    fn fma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// `a * b + c`, rounded once or twice: where either will do and speed matters. Targets that
    /// compute on the host round once.
    #[inline(always)]
    fn mul_add(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        self.fma(a, b, c)
    }
    /// `a`, computed as it is written: compilers of shaders may rearrange sums and cancel what is
    /// added and taken away again, but not across this.
    #[inline(always)]
    fn hold(self, a: Self::V) -> Self::V {
        a
    }
    /// `-a`
    fn neg(self, a: Self::V) -> Self::V;
    /// `|a|`
    fn abs(self, a: Self::V) -> Self::V;
    /// The smaller of two; NaN when either is NaN.
    fn min(self, a: Self::V, b: Self::V) -> Self::V;
    /// The larger of two; NaN when either is NaN.
    fn max(self, a: Self::V, b: Self::V) -> Self::V;
    /// The largest integer not above `a`.
    fn floor(self, a: Self::V) -> Self::V;
    /// The nearest integer, halves to even.
    fn round(self, a: Self::V) -> Self::V;
    /// The nearest f16, halves to even; infinity beyond the largest.
    #[inline(always)]
    fn round_f16(self, a: Self::V) -> Self::V {
        crate::narrow::round_f16(self, a)
    }
    /// The nearest bf16, halves to even; infinity beyond the largest.
    #[inline(always)]
    fn round_bf16(self, a: Self::V) -> Self::V {
        crate::narrow::round_bf16(self, a)
    }
    /// The square root.
    fn sqrt(self, a: Self::V) -> Self::V;

    /// `p * 2^n` for integers `-254 <= n <= 254`, rounded once: an instruction where there is one.
    fn scale(self, p: Self::V, n: Self::V) -> Self::V {
        crate::poly::scale(self, p, n)
    }
    /// `1 / sqrt(a)`
    fn rsqrt(self, a: Self::V) -> Self::V;
    /// `e^a`
    fn exp(self, a: Self::V) -> Self::V;
    /// `e^a - 1`, accurate near 0.
    fn expm1(self, a: Self::V) -> Self::V;
    /// The natural logarithm.
    fn log(self, a: Self::V) -> Self::V;
    /// `log(1 + a)`, accurate near 0.
    fn log1p(self, a: Self::V) -> Self::V;
    /// The sine of `a` radians.
    fn sin(self, a: Self::V) -> Self::V;
    /// The cosine of `a` radians.
    fn cos(self, a: Self::V) -> Self::V;
    /// The hyperbolic tangent.
    fn tanh(self, a: Self::V) -> Self::V;
    /// The error function `2/sqrt(pi) * integral_0^a exp(-t^2) dt`.
    fn erf(self, a: Self::V) -> Self::V;
    /// `1 / (1 + exp(-a))`, with a derivative rule of its own: composed from `exp` and `div`, the
    /// derivative would be inf / inf for large negative arguments.
    fn sigmoid(self, a: Self::V) -> Self::V;
    /// `log(1 + exp(a))`, finite for every finite `a`.
    fn softplus(self, a: Self::V) -> Self::V;
    /// `a^b` as C's `pow`.
    fn pow(self, a: Self::V, b: Self::V) -> Self::V;

    /// `a < b`
    fn lt(self, a: Self::V, b: Self::V) -> Self::B;
    /// `a <= b`
    fn le(self, a: Self::V, b: Self::V) -> Self::B;
    /// `a == b`
    fn eq(self, a: Self::V, b: Self::V) -> Self::B;
    /// `a > b`
    #[inline(always)]
    fn gt(self, a: Self::V, b: Self::V) -> Self::B {
        self.lt(b, a)
    }
    /// `a >= b`
    #[inline(always)]
    fn ge(self, a: Self::V, b: Self::V) -> Self::B {
        self.le(b, a)
    }
    /// `a != b`
    #[inline(always)]
    fn ne(self, a: Self::V, b: Self::V) -> Self::B {
        self.not(self.eq(a, b))
    }
    /// Both.
    fn and(self, a: Self::B, b: Self::B) -> Self::B;
    /// Either.
    fn or(self, a: Self::B, b: Self::B) -> Self::B;
    /// The other truth value.
    fn not(self, a: Self::B) -> Self::B;
    /// False when `c` holds for no element: what only those need may then be left out. A target
    /// that evaluates no elements says true.
    #[inline(always)]
    fn any(self, c: Self::B) -> bool {
        let _ = c;
        true
    }
    /// `a` where `c` holds, else `b`.
    fn select(self, c: Self::B, a: Self::V, b: Self::V) -> Self::V;

    /// The integer constant `x`.
    fn ulit(self, x: u32) -> Self::U;
    /// Wrapping `a + b`.
    fn uadd(self, a: Self::U, b: Self::U) -> Self::U;
    /// Wrapping `a - b`.
    fn usub(self, a: Self::U, b: Self::U) -> Self::U;
    /// The low 32 bits of `a * b`.
    fn umul(self, a: Self::U, b: Self::U) -> Self::U;
    /// The high 32 bits of `a * b`.
    fn umulhi(self, a: Self::U, b: Self::U) -> Self::U;
    /// Bitwise and.
    fn uand(self, a: Self::U, b: Self::U) -> Self::U;
    /// Bitwise or.
    fn uor(self, a: Self::U, b: Self::U) -> Self::U;
    /// Bitwise exclusive or.
    fn uxor(self, a: Self::U, b: Self::U) -> Self::U;
    /// `a << n`, `n < 32`.
    fn ushl(self, a: Self::U, n: u32) -> Self::U;
    /// Logical `a >> n`, `n < 32`.
    fn ushr(self, a: Self::U, n: u32) -> Self::U;
    /// `a == b`
    fn ueq(self, a: Self::U, b: Self::U) -> Self::B;
    /// `a` where `c` holds, else `b`.
    fn uselect(self, c: Self::B, a: Self::U, b: Self::U) -> Self::U;
    /// The nearest real number (`a` below 2^24 is exact).
    fn to_real(self, a: Self::U) -> Self::V;
    /// `a` truncated towards zero; unspecified outside `0 <= a < 2^31`.
    fn to_uint(self, a: Self::V) -> Self::U;
    /// The IEEE-754 single-precision bits of `a`.
    fn bits(self, a: Self::V) -> Self::U;
    /// The single-precision number with these bits.
    #[allow(clippy::wrong_self_convention, reason = "`self` is the target, not the number")]
    fn from_bits(self, a: Self::U) -> Self::V;

    /// A uniform number in [0, 1) for element `index`, bit-equal on every backend: see
    /// [`crate::philox::uniform`], which is the default and the definition.
    #[inline(always)]
    fn uniform(self, index: Self::U, key: Key<Self::U>) -> Self::V {
        crate::philox::uniform(self, index, key)
    }
}

/// What besides the element's index selects a random number.
///
/// Philox4x32-10 with key = (`seed_lo`, `seed_hi`) and counter = (index / 4, `instance`, `step`,
/// `node`); see [`crate::philox`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key<U> {
    /// Low word of the seed.
    pub seed_lo: U,
    /// High word of the seed.
    pub seed_hi: U,
    /// Which random operation of the step this is.
    pub instance: U,
    /// The training step.
    pub step: U,
    /// The node of the cluster; 0 when there is one.
    pub node: U,
}

impl<U> Key<U> {
    /// Applies `f` to each word.
    pub fn map<T>(self, mut f: impl FnMut(U) -> T) -> Key<T> {
        Key {
            seed_lo: f(self.seed_lo),
            seed_hi: f(self.seed_hi),
            instance: f(self.instance),
            step: f(self.step),
            node: f(self.node),
        }
    }
}
