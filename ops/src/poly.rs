//! Transcendental functions in f32, each written once from the basic arithmetic of [`Math`].
//!
//! Vector tokens, `Scalar<f32>` and printed shaders all run these same operations in the same
//! order, so they agree bit for bit wherever the arithmetic is IEEE-754's. There is no control
//! flow that depends on data: special values are put right by selects. Derivatives do not pass
//! through here; `Dual` has a rule for each function.
//!
//! The coefficients are minimax fits of relative error (Remez by Lawson's reweighting), rounded to
//! f32 one after the other with the rest refitted. The schemes are the classic ones: W. J. Cody and
//! W. Waite, "Software Manual for the Elementary Functions" (argument reduction), Cephes and musl
//! (logarithm), and N. Juffa's double-float logarithm for `pow`.

use crate::math::Math;

pub use crate::transcendentals;

/// The largest error of each function in units in the last place of the exact result, over every
/// finite argument unless the function's documentation says otherwise. Measured values, found by
/// the sweeps of this module's tests, are lower.
pub const ULPS: &[(&str, f64)] = &[
    ("rsqrt", 1.5),
    ("exp", 1.5),
    ("expm1", 2.0),
    ("log", 1.5),
    ("log1p", 2.0),
    ("sin", 2.0),
    ("cos", 2.0),
    ("tanh", 3.0),
    ("erf", 4.0),
    ("sigmoid", 2.5),
    ("softplus", 2.5),
    ("pow", 4.0),
];

/// Expands to the transcendental methods of [`Math`], taken from this module: for `impl Math` of
/// the targets that compute in f32.
#[macro_export]
macro_rules! transcendentals {
    () => {
        $crate::transcendentals!(@unary rsqrt exp expm1 log log1p sin cos tanh erf sigmoid softplus);
        #[inline(always)]
        fn pow(self, a: Self::V, b: Self::V) -> Self::V {
            $crate::poly::pow(self, a, b)
        }
    };
    (@unary $($name:ident)*) => {$(
        #[inline(always)]
        fn $name(self, a: Self::V) -> Self::V {
            $crate::poly::$name(self, a)
        }
    )*};
}

/// ln 2 in two parts; the first has 9 trailing zero bits, so that its multiples by an exponent are
/// exact.
const LN2: [f64; 2] = [0.693359375, -2.12194440e-4];
/// The largest argument that `sin` and `cos` reduce.
const SIN_LIMIT: f64 = 4194304.0;

/// `(e^r - 1 - r) / r^2` for `|r| <= ln(2) / 2`; 1.4e-8 relative to `e^r - 1`.
const EXP: [f64; 5] = [
    0.4999999701976776,
    0.1666654497385025,
    0.04166744649410248,
    0.008366446942090988,
    0.0013869854155927896,
];
/// `(log(1 + f) - f + f^2/2) / f^3` for `sqrt(1/2) <= 1 + f <= sqrt(2)`; 5.9e-9.
const LOG: [f64; 8] = [
    0.3333333134651184,
    -0.250008225440979,
    0.20001250505447388,
    -0.1662331521511078,
    0.14201268553733826,
    -0.13160181045532227,
    0.1276482790708542,
    -0.07638335227966309,
];
/// `(sin(r) - r) / r^3` in `r^2` for `|r| <= 0.81`; 4.9e-9.
const SIN: [f64; 3] = [-0.16666652262210846, 0.00833201128989458, -0.0001949505094671622];
/// `(cos(r) - 1 + r^2/2) / r^4` in `r^2` for `|r| <= 0.81`; 1.6e-10.
const COS: [f64; 3] = [0.04166664183139801, -0.001388712553307414, 2.4411221602349542e-5];
/// `tanh(x) / x = P / Q` in `x^2` for `|x| <= 9.02`; 2.4e-8.
const TANH_P: [f64; 5] =
    [1.0, 0.13382673263549805, 0.003497401485219598, 2.063327883661259e-5, 1.3377659868751834e-8];
const TANH_Q: [f64; 5] =
    [1.0, 0.4671599566936493, 0.025884250178933144, 0.0003288355947006494, 7.788195830471523e-7];
/// `erf(x) / x = P / Q` in `x^2` for `|x| <= 3.93`; 2.8e-8. The common factor makes the quotient of
/// the first coefficients, rounded, 2/sqrt(pi) to 40 bits.
const ERF_P: [f64; 6] = [
    1.8345286846160889,
    0.3092993199825287,
    0.08570843935012817,
    0.006106143351644278,
    0.00046198355266824365,
    3.32442482431361e-6,
];
const ERF_Q: [f64; 6] = [
    1.6258087158203125,
    0.8160449862480164,
    0.18539531528949738,
    0.0243061613291502,
    0.001884617144241929,
    6.177859177114442e-5,
];
/// `(2^r - 1) / r` for `|r| <= 0.502`; 3.1e-9 relative to `2^r`.
const EXP2: [f64; 6] = [
    0.6931471824645996,
    0.24022647738456726,
    0.055503591895103455,
    0.009618504904210567,
    0.001339124166406691,
    0.00015327500295825303,
];
/// `(atanh(s) / s - 1) / s^2` in `s^2` for `|s| <= 3 - sqrt(8)`; 2.5e-11.
const ATANH: [f64; 4] =
    [0.3333333134651184, 0.20000486075878143, 0.14249414205551147, 0.121385857462883];

/// `c[0] + c[1] x + c[2] x^2 + ...` by Horner's rule.
#[inline(always)]
fn horner<M: Math, const N: usize>(m: M, x: M::V, c: [f64; N]) -> M::V {
    let mut sum = m.lit(c[N - 1]);
    for i in (0..N - 1).rev() {
        sum = m.fma(sum, x, m.lit(c[i]));
    }
    sum
}

/// Infinity, made from its bits because not every printer has a literal for it.
#[inline(always)]
fn infinity<M: Math>(m: M) -> M::V {
    m.from_bits(m.ulit(0x7f80_0000))
}

#[inline(always)]
fn nan<M: Math>(m: M) -> M::V {
    m.from_bits(m.ulit(0x7fc0_0000))
}

/// `p * 2^n` for integers `-254 <= n <= 254`, rounded once: two factors, so that overflow and
/// subnormal results come out right.
#[inline(always)]
fn scale<M: Math>(m: M, p: M::V, n: M::V) -> M::V {
    let k = m.to_uint(m.add(n, m.lit(254.0)));
    let half = m.ushr(k, 1);
    let first = m.from_bits(m.ushl(half, 23));
    let second = m.from_bits(m.ushl(m.usub(k, half), 23));
    m.mul(m.mul(p, first), second)
}

/// `(n, r)` with `x = n ln 2 + r`, `n` an integer and `|r| <= ln(2) / 2`.
#[inline(always)]
fn reduce_exp<M: Math>(m: M, x: M::V) -> (M::V, M::V) {
    let n = m.round(m.mul(x, m.lit(std::f64::consts::LOG2_E)));
    let r = m.fma(n, m.lit(-LN2[0]), x);
    (n, m.fma(n, m.lit(-LN2[1]), r))
}

/// `e^x` for `x <= 89` or NaN.
#[inline(always)]
fn exp_low<M: Math>(m: M, x: M::V) -> M::V {
    // Below -104 the result is 0, and -104 says so itself.
    let x = m.select(m.lt(x, m.lit(-104.0)), m.lit(-104.0), x);
    let (n, r) = reduce_exp(m, x);
    let p = m.fma(horner(m, r, EXP), m.mul(r, r), r);
    scale(m, m.add(p, m.lit(1.0)), n)
}

/// `1 / sqrt(x)`
#[inline(always)]
pub fn rsqrt<M: Math>(m: M, x: M::V) -> M::V {
    m.div(m.lit(1.0), m.sqrt(x))
}

/// `e^x`: infinity above 88.72, subnormal below -87.33, 0 below -103.97.
#[inline(always)]
pub fn exp<M: Math>(m: M, x: M::V) -> M::V {
    exp_low(m, m.select(m.gt(x, m.lit(89.0)), m.lit(89.0), x))
}

/// `e^x - 1`, as `2 (2^(n-1) (e^r - 1) + (2^(n-1) - 1/2))`: halves keep `n = 128` in range.
#[inline(always)]
pub fn expm1<M: Math>(m: M, x: M::V) -> M::V {
    let y = m.select(m.gt(x, m.lit(89.0)), m.lit(89.0), x);
    let y = m.select(m.lt(y, m.lit(-30.0)), m.lit(-30.0), y);
    let (n, r) = reduce_exp(m, y);
    let e = m.fma(horner(m, r, EXP), m.mul(r, r), r);
    let half_power = m.from_bits(m.ushl(m.to_uint(m.add(n, m.lit(126.0))), 23));
    let half = m.fma(half_power, e, m.sub(half_power, m.lit(0.5)));
    // The sign of zero and the last bits of subnormals do not survive the sum.
    m.select(m.lt(m.abs(x), m.lit(1e-8)), x, m.add(half, half))
}

/// `(k, biased)` for a normal `x > 0`: `x = 2^k y` with `sqrt(1/2) <= y < sqrt(2)`; `biased` holds
/// `k + 127` in the place of the exponent, and the bits of `y` less those of sqrt(1/2) below it.
#[inline(always)]
fn split<M: Math>(m: M, x: M::V) -> (M::V, M::U) {
    let biased = m.uadd(m.bits(x), m.ulit(0x3f80_0000 - 0x3f35_04f3));
    (m.sub(m.to_real(m.ushr(biased, 23)), m.lit(127.0)), biased)
}

/// `y - 1` of [`split`].
#[inline(always)]
fn fraction<M: Math>(m: M, biased: M::U) -> M::V {
    let y = m.uadd(m.uand(biased, m.ulit(0x007f_ffff)), m.ulit(0x3f35_04f3));
    m.sub(m.from_bits(y), m.lit(1.0))
}

/// `k ln 2 + log(1 + f)`
#[inline(always)]
fn log_sum<M: Math>(m: M, k: M::V, f: M::V) -> M::V {
    let tail = m.mul(m.mul(f, f), m.fma(horner(m, f, LOG), f, m.lit(-0.5)));
    m.fma(k, m.lit(LN2[0]), m.add(f, m.fma(k, m.lit(LN2[1]), tail)))
}

/// `x` made normal, and what its logarithm to base 2 grew by.
#[inline(always)]
fn normalise<M: Math>(m: M, x: M::V) -> (M::V, M::V) {
    let tiny = m.lt(x, m.lit(1.1754943508222875e-38));
    let grown = m.mul(x, m.lit(8388608.0));
    (m.select(tiny, grown, x), m.select(tiny, m.lit(23.0), m.lit(0.0)))
}

/// `y` with the special values of a logarithm whose argument is `u` (`x` returned if infinite or
/// NaN).
#[inline(always)]
fn log_specials<M: Math>(m: M, y: M::V, u: M::V, x: M::V) -> M::V {
    let (zero, inf) = (m.lit(0.0), infinity(m));
    let y = m.select(m.lt(u, inf), y, x);
    let y = m.select(m.lt(u, zero), nan(m), y);
    m.select(m.eq(u, zero), m.neg(inf), y)
}

/// The natural logarithm; subnormal arguments are right too.
#[inline(always)]
pub fn log<M: Math>(m: M, x: M::V) -> M::V {
    let (y, grown) = normalise(m, x);
    let (k, biased) = split(m, y);
    log_specials(m, log_sum(m, m.sub(k, grown), fraction(m, biased)), x, x)
}

/// `log(1 + x)`. With `1 + x = 2^k y` the fraction `y - 1` is `2^-k x + (2^-k - 1)`, rounded once.
#[inline(always)]
pub fn log1p<M: Math>(m: M, x: M::V) -> M::V {
    let u = m.add(x, m.lit(1.0));
    let (k, biased) = split(m, u);
    // 4 * 2^-k, because 2^-k itself is not normal for k > 126.
    let exponent = m.uand(biased, m.ulit(0xff80_0000));
    let power = m.from_bits(m.usub(m.ulit(0x8000_0000), exponent));
    let rest = m.fma(power, m.lit(0.25), m.lit(-1.0));
    let f = m.fma(m.mul(x, m.lit(0.25)), power, rest);
    let y = log_specials(m, log_sum(m, k, f), u, x);
    // The sign of zero and the last bits of subnormals do not survive the sum.
    m.select(m.lt(m.abs(x), m.lit(1e-8)), x, y)
}

/// `(r, quadrant)` with `|x| = quadrant * pi/2 + r` for `0 <= x <= SIN_LIMIT`, pi/2 in three parts:
/// the first difference is exact, so `r` has two roundings even next to a multiple of pi/2.
#[inline(always)]
fn reduce_sin<M: Math>(m: M, x: M::V) -> (M::V, M::U) {
    let x = m.abs(x);
    let x = m.select(m.le(x, m.lit(SIN_LIMIT)), x, m.sub(x, x));
    let n = m.round(m.mul(x, m.lit(std::f64::consts::FRAC_2_PI)));
    let mut r = x;
    for part in [-1.570796251296997, -7.549789415861596e-8, -5.390302529957765e-15] {
        r = m.fma(n, m.lit(part), r);
    }
    (r, m.to_uint(n))
}

/// The sine of `r` in even, its cosine in odd quadrants; `flip` holds the sign in bit 31.
#[inline(always)]
fn sin_or_cos<M: Math>(m: M, r: M::V, quadrant: M::U, flip: M::U) -> M::V {
    let z = m.mul(r, r);
    let sin = m.fma(m.mul(horner(m, z, SIN), z), r, r);
    let cos = m.fma(m.mul(horner(m, z, COS), z), z, m.fma(z, m.lit(-0.5), m.lit(1.0)));
    let even = m.ueq(m.uand(quadrant, m.ulit(1)), m.ulit(0));
    m.from_bits(m.uxor(m.bits(m.select(even, sin, cos)), flip))
}

/// The sine. Within the stated ulps for `|x| <= 2^17`; from there the reduced argument leaves the
/// interval of the polynomials and the error grows to 1e-5 absolute at 2^22, beyond which the
/// argument counts as 0. The sine of an infinity is NaN.
#[inline(always)]
pub fn sin<M: Math>(m: M, x: M::V) -> M::V {
    let (r, quadrant) = reduce_sin(m, x);
    let sign = m.uxor(m.bits(x), m.ushl(quadrant, 30));
    sin_or_cos(m, r, quadrant, m.uand(sign, m.ulit(0x8000_0000)))
}

/// The cosine; see [`sin`].
#[inline(always)]
pub fn cos<M: Math>(m: M, x: M::V) -> M::V {
    let (r, quadrant) = reduce_sin(m, x);
    let quadrant = m.uadd(quadrant, m.ulit(1));
    sin_or_cos(m, r, quadrant, m.uand(m.ushl(quadrant, 30), m.ulit(0x8000_0000)))
}

/// `x` limited to `-bound ..= bound`; NaN stays.
#[inline(always)]
fn limit<M: Math>(m: M, x: M::V, bound: f64) -> M::V {
    let x = m.select(m.gt(x, m.lit(bound)), m.lit(bound), x);
    m.select(m.lt(x, m.lit(-bound)), m.lit(-bound), x)
}

/// The hyperbolic tangent, never beyond 1.
#[inline(always)]
pub fn tanh<M: Math>(m: M, x: M::V) -> M::V {
    let x = limit(m, x, 9.02);
    let z = m.mul(x, x);
    m.div(m.mul(x, horner(m, z, TANH_P)), horner(m, z, TANH_Q))
}

/// The error function, never beyond 1.
#[inline(always)]
pub fn erf<M: Math>(m: M, x: M::V) -> M::V {
    let x = limit(m, x, 3.92);
    let z = m.mul(x, x);
    m.div(m.mul(x, horner(m, z, ERF_P)), horner(m, z, ERF_Q))
}

/// `1 / (1 + e^-x)`, with `e^x / (1 + e^x)` for negative `x`.
#[inline(always)]
pub fn sigmoid<M: Math>(m: M, x: M::V) -> M::V {
    let one = m.lit(1.0);
    let e = exp_low(m, m.neg(m.abs(x)));
    m.div(m.select(m.lt(x, m.lit(0.0)), e, one), m.add(e, one))
}

/// `log(1 + e^x)` as `max(x, 0) + log(1 + e^-|x|)`.
#[inline(always)]
pub fn softplus<M: Math>(m: M, x: M::V) -> M::V {
    let (zero, one) = (m.lit(0.0), m.lit(1.0));
    let e = exp_low(m, m.neg(m.abs(x)));
    // log1p for 0 <= e <= 1: 1 + e is 2^k y with k = 0 or 1.
    let halve = m.ge(e, m.lit(std::f64::consts::SQRT_2 - 1.0));
    let f = m.select(halve, m.fma(e, m.lit(0.5), m.lit(-0.5)), e);
    let y = log_sum(m, m.select(halve, one, zero), f);
    m.add(m.select(m.lt(x, zero), zero, x), y)
}

/// `log2(x)` for a normal `x > 0` as a sum of two numbers, to about 2^-31 of itself:
/// `k + 2/ln(2) * atanh(s)` with `s = f / (2 + f)`.
#[inline(always)]
fn log2_pair<M: Math>(m: M, x: M::V) -> (M::V, M::V) {
    let (y, grown) = normalise(m, x);
    let (k, biased) = split(m, y);
    let (k, f) = (m.sub(k, grown), fraction(m, biased));
    // s = sh + sl
    let two = m.lit(2.0);
    let dh = m.add(two, f);
    let dl = m.sub(f, m.sub(dh, two));
    let inverse = m.div(m.lit(1.0), dh);
    let sh = m.mul(f, inverse);
    let minus_sh = m.neg(sh);
    let sl = m.mul(m.fma(minus_sh, dl, m.fma(minus_sh, dh, f)), inverse);
    // 2/ln(2) = ch + cl
    let (ch, cl) = (m.lit(2.885390043258667), m.lit(3.8519256490144016e-8));
    let z = m.mul(sh, sh);
    let ph = m.mul(ch, sh);
    let pl = m.fma(cl, sh, m.fma(ch, sh, m.neg(ph)));
    let pl = m.fma(ch, sl, pl);
    let pl = m.fma(ph, m.mul(horner(m, z, ATANH), z), pl);
    // |k| >= |ph| or k = 0: the sum's error is exact either way.
    let hi = m.add(k, ph);
    let lo = m.add(m.sub(ph, m.sub(hi, k)), pl);
    let sum = m.add(hi, lo);
    (sum, m.sub(lo, m.sub(sum, hi)))
}

/// `|a|^b` without the sign, for finite `b`.
#[inline(always)]
fn pow_magnitude<M: Math>(m: M, a: M::V, b: M::V) -> M::V {
    let inf = infinity(m);
    let (hi, lo) = log2_pair(m, a);
    let hi = m.select(m.eq(a, inf), inf, hi);
    let hi = m.select(m.eq(a, m.lit(0.0)), m.neg(inf), hi);
    let product = m.mul(b, hi);
    let rest = m.fma(b, lo, m.fma(b, hi, m.neg(product)));
    let product = limit(m, product, 200.0);
    let inside = m.lt(m.abs(product), m.lit(200.0));
    let n = m.round(product);
    let r = m.add(m.sub(product, n), m.select(inside, rest, m.lit(0.0)));
    scale(m, m.fma(horner(m, r, EXP2), r, m.lit(1.0)), n)
}

/// `a^b` as C's `pow`: `2^(b log2(|a|))` with the logarithm and the product to twice the precision.
/// NaN for a negative `a` with a fractional `b`; `a^0` and `1^b` are 1 even for NaN.
#[inline(always)]
pub fn pow<M: Math>(m: M, a: M::V, b: M::V) -> M::V {
    let (zero, one, half) = (m.lit(0.0), m.lit(1.0), m.lit(0.5));
    let magnitude = m.abs(a);
    // A finite exponent this large acts as infinity, and times log2(1) it is 0.
    let y = pow_magnitude(m, magnitude, limit(m, b, 1e30));
    let whole = m.eq(m.floor(b), b);
    let b_half = m.mul(b, half);
    let odd = m.and(whole, m.ne(m.floor(b_half), b_half));
    let sign = m.uand(m.bits(a), m.uselect(odd, m.ulit(0x8000_0000), m.ulit(0)));
    let y = m.from_bits(m.uor(m.bits(y), sign));
    let finite = m.lt(magnitude, infinity(m));
    let undefined = m.and(m.and(m.lt(a, zero), finite), m.not(whole));
    let y = m.select(m.or(undefined, m.ne(a, a)), nan(m), y);
    m.select(m.or(m.eq(b, zero), m.eq(a, one)), one, y)
}
