//! Transcendental functions in f32, each written once from the basic arithmetic of [`Math`].
//!
//! Vector tokens, `Scalar<f32>` and printed shaders all run these same operations in the same
//! order, so they agree bit for bit wherever the arithmetic is IEEE-754's. There is no control
//! flow that depends on data, but for work that no lane needs ([`Math::any`]): special values are
//! put right by selects. Derivatives do not pass through here; `Dual` has a rule for each function.
//!
//! The coefficients are minimax fits of relative error (Remez by Lawson's reweighting), rounded to
//! f32 one after the other with the rest refitted. The schemes are the classic ones: W. J. Cody and
//! W. Waite, "Software Manual for the Elementary Functions" (argument reduction), Cephes and musl
//! (logarithm), and N. Juffa's double-float logarithm for `pow`.

use crate::math::Math;

mod angle;

pub use crate::transcendentals;
pub use angle::{cos, sin};
pub(crate) use angle::{cos_far, cos_near, sin_far, sin_near};

/// The largest error of each function in units in the last place of the exact result, over every
/// finite argument. It takes an `fma` that rounds once: where a target splits it, `sin`, `cos` and
/// `pow` lose more.
/// Measured values, over every seventh f32 and 4e6 pairs, are in brackets.
pub const ULPS: &[(&str, f64)] = &[
    ("rsqrt", 1.5),    // (1.49)
    ("exp", 1.25),     // (1.03)
    ("expm1", 1.75),   // (1.54)
    ("log", 1.0),      // (0.93)
    ("log1p", 1.75),   // (1.53)
    ("sin", 1.75),     // (1.56)
    ("cos", 1.75),     // (1.56)
    ("tanh", 2.75),    // (2.54)
    ("erf", 2.0),      // (1.83)
    ("sigmoid", 2.5),  // (2.35)
    ("softplus", 2.0), // (1.77)
    ("pow", 1.5),      // (0.92)
];

/// Expands to the transcendental methods of [`Math`], taken from this module: for `impl Math` of
/// the targets that compute in f32.
#[macro_export]
macro_rules! transcendentals {
    () => {
        $crate::transcendentals!(
            @unary rsqrt exp expm1 log log1p sin cos tanh erf sigmoid softplus
        );
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

/// ln 2 in two parts; the first has 9 bits, so that its multiples by an exponent are exact.
const LN2: [f64; 2] = [0.693359375, -2.12194440e-4];
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
/// `-log(1 - erf(x)) / x - 1` for `0 <= x <= 3.93`; 4.3e-9 relative to `erf(x)`.
const ERF: [f64; 9] = [
    0.12837916612625122,
    0.6366195678710938,
    0.10277630388736725,
    -0.019147822633385658,
    -0.00016950452118180692,
    0.0016756771365180612,
    -0.0006373641081154346,
    0.00011886157153639942,
    -9.387994396092836e-6,
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
/// `(atanh(s) / s - 1 - s^2/3) / s^4` in `s^2` for `|s| <= 3 - sqrt(8)`; 8.8e-12 relative to
/// `atanh(s)`.
const ATANH: [f64; 3] = [0.20000077784061432, 0.14273390173912048, 0.11713582277297974];
/// `c[0] + c[1] x + c[2] x^2 + ...` by Horner's rule.
#[inline(always)]
fn horner<M: Math, const N: usize>(m: M, x: M::V, c: [f64; N]) -> M::V {
    let mut sum = m.lit(c[N - 1]);
    for i in (0..N - 1).rev() {
        sum = m.mul_add(sum, x, m.lit(c[i]));
    }
    sum
}

/// The same sum of nine terms by Estrin's scheme: pairs, pairs of pairs, and so on. Two operations
/// more than Horner's rule has, in a chain half as long.
#[inline(always)]
fn estrin<M: Math>(m: M, x: M::V, c: [f64; 9]) -> M::V {
    let pair = |i: usize| m.mul_add(m.lit(c[i + 1]), x, m.lit(c[i]));
    let x2 = m.mul(x, x);
    let low = m.mul_add(pair(2), x2, pair(0));
    let high = m.mul_add(pair(6), x2, pair(4));
    let x4 = m.mul(x2, x2);
    let high = m.mul_add(m.lit(c[8]), x4, high);
    m.mul_add(high, x4, low)
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

/// [`Math::scale`]: two factors, so that overflow and subnormal results come out right.
#[inline(always)]
pub fn scale<M: Math>(m: M, p: M::V, n: M::V) -> M::V {
    // Beside 2^23 the last bits are the integer itself: no conversion is needed.
    let k = m.usub(m.bits(m.add(n, m.lit(8_388_608.0 + 254.0))), m.ulit(0x4b00_0000));
    let half = m.ushr(k, 1);
    let first = m.from_bits(m.ushl(half, 23));
    let second = m.from_bits(m.ushl(m.usub(k, half), 23));
    m.mul(m.mul(p, first), second)
}

/// `(n, r)` with `x = n ln 2 + r`, `n` an integer and `|r| <= ln(2) / 2`.
#[inline(always)]
fn reduce_exp<M: Math>(m: M, x: M::V) -> (M::V, M::V) {
    let n = m.round(m.mul(x, m.lit(std::f64::consts::LOG2_E)));
    // The first product is exact, so either rounding gives the same difference.
    let r = m.hold(m.mul_add(n, m.lit(-LN2[0]), x));
    (n, m.mul_add(n, m.lit(-LN2[1]), r))
}

/// `e^r - 1` for `|r| <= ln(2) / 2`, in a shorter chain than Horner's rule and as many operations.
#[inline(always)]
fn exp_near_0<M: Math>(m: M, r: M::V) -> M::V {
    let pair = |i: usize| m.mul_add(m.lit(EXP[i + 1]), r, m.lit(EXP[i]));
    let square = m.mul(r, r);
    let high = m.mul_add(m.lit(EXP[4]), square, pair(2));
    m.mul_add(m.mul_add(high, square, pair(0)), square, r)
}

/// `e^x` for `x <= 89` or NaN.
#[inline(always)]
fn exp_low<M: Math>(m: M, x: M::V) -> M::V {
    // Below -104 the result is 0, and -105 says so itself, however it is rounded.
    let x = m.select(m.lt(x, m.lit(-105.0)), m.lit(-105.0), x);
    let (n, r) = reduce_exp(m, x);
    let p = m.hold(exp_near_0(m, r));
    m.scale(m.add(p, m.lit(1.0)), n)
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

/// `(e^x - 1) / 2` for `-30 <= x <= 89` or NaN, as `2^(n-1) (e^r - 1) + (2^(n-1) - 1/2)`: halves
/// keep `n = 128` in range.
#[inline(always)]
fn half_expm1<M: Math>(m: M, x: M::V) -> M::V {
    let (n, r) = reduce_exp(m, x);
    let e = exp_near_0(m, r);
    // Beside 2^23 the last bits are the integer itself; the shift drops the others.
    let exponent = m.bits(m.add(n, m.lit(8_388_608.0 + 126.0)));
    let half_power = m.from_bits(m.ushl(exponent, 23));
    m.mul_add(half_power, e, m.sub(half_power, m.lit(0.5)))
}

/// `e^x - 1`
#[inline(always)]
pub fn expm1<M: Math>(m: M, x: M::V) -> M::V {
    let y = m.select(m.gt(x, m.lit(89.0)), m.lit(89.0), x);
    let half = half_expm1(m, m.select(m.lt(y, m.lit(-30.0)), m.lit(-30.0), y));
    // The sign of zero and the last bits of subnormals do not survive the sum.
    m.select(m.lt(m.abs(x), m.lit(1e-8)), x, m.add(half, half))
}

/// `(k, biased)` for a normal `x > 0`: `x = 2^k y` with `sqrt(1/2) <= y < sqrt(2)`; `biased` holds
/// `k + 127` in the place of the exponent, and the bits of `y` less those of sqrt(1/2) below it.
#[inline(always)]
fn split<M: Math>(m: M, x: M::V) -> (M::V, M::U) {
    let biased = m.uadd(m.bits(x), m.ulit(0x3f80_0000 - 0x3f35_04f3));
    // An integer below 2^23, put where the bits of 2^23 end: cheaper than a conversion on AVX2.
    let shifted = m.from_bits(m.uor(m.ushr(biased, 23), m.ulit(0x4b00_0000)));
    (m.sub(shifted, m.lit(8_388_608.0 + 127.0)), biased)
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
    let tail = m.mul(m.mul(f, f), m.mul_add(horner(m, f, LOG), f, m.lit(-0.5)));
    m.mul_add(k, m.lit(LN2[0]), m.add(f, m.mul_add(k, m.lit(LN2[1]), tail)))
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
    // Both products are exact.
    let rest = m.hold(m.mul_add(power, m.lit(0.25), m.lit(-1.0)));
    let f = m.mul_add(m.mul(x, m.lit(0.25)), power, rest);
    let y = log_specials(m, log_sum(m, k, f), u, x);
    // The sign of zero and the last bits of subnormals do not survive the sum.
    m.select(m.lt(m.abs(x), m.lit(1e-8)), x, y)
}

/// `x` limited to `-bound ..= bound`; NaN stays.
#[inline(always)]
fn limit<M: Math>(m: M, x: M::V, bound: f64) -> M::V {
    let x = m.select(m.gt(x, m.lit(bound)), m.lit(bound), x);
    m.select(m.lt(x, m.lit(-bound)), m.lit(-bound), x)
}

/// The hyperbolic tangent, never beyond 1: `h / (h + 1)` with `h = (e^2|x| - 1) / 2`, and the sign
/// of `x`. A rational function is a little faster, but has 4.2 ulp near 1.
#[inline(always)]
pub fn tanh<M: Math>(m: M, x: M::V) -> M::V {
    let size = m.abs(x);
    let size = m.select(m.gt(size, m.lit(10.0)), m.lit(10.0), size);
    let h = half_expm1(m, m.add(size, size));
    with_sign(m, m.div(h, m.add(h, m.lit(1.0))), x)
}

/// The error function, never beyond 1: `1 - e^-y` where `y = -log(1 - erf(|x|))`, a smooth function
/// whose error matters the less the larger it is. A rational function has 5.3 ulp near 1.
#[inline(always)]
pub fn erf<M: Math>(m: M, x: M::V) -> M::V {
    let size = m.abs(x);
    let size = m.select(m.gt(size, m.lit(3.93)), m.lit(3.93), size);
    let y = m.mul_add(estrin(m, size, ERF), size, size);
    let half = half_expm1(m, m.neg(y));
    with_sign(m, m.add(half, half), x)
}

/// `x` with the sign of `sign`.
#[inline(always)]
fn with_sign<M: Math>(m: M, x: M::V, sign: M::V) -> M::V {
    let bit = m.ulit(0x8000_0000);
    let size = m.uand(m.bits(x), m.ulit(0x7fff_ffff));
    m.from_bits(m.uor(size, m.uand(m.bits(sign), bit)))
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
    let f = m.select(halve, m.mul_add(e, m.lit(0.5), m.lit(-0.5)), e);
    let y = log_sum(m, m.select(halve, one, zero), f);
    m.add(m.select(m.lt(x, zero), zero, x), y)
}

/// `a + b` and its rounding error, for `|a| >= |b|` or `a = 0`.
#[inline(always)]
fn fast_two_sum<M: Math>(m: M, a: M::V, b: M::V) -> (M::V, M::V) {
    let sum = m.hold(m.add(a, b));
    (sum, m.sub(b, m.hold(m.sub(sum, a))))
}

/// `(ah + al) * (bh + bl)`
#[inline(always)]
fn pair_mul<M: Math>(m: M, (ah, al): (M::V, M::V), (bh, bl): (M::V, M::V)) -> (M::V, M::V) {
    let product = m.mul(ah, bh);
    let error = m.fma(ah, bh, m.neg(product));
    (product, m.mul_add(ah, bl, m.mul_add(al, bh, error)))
}

/// `log2(x)` for `x > 0` as a sum of two numbers: `k + 2/ln(2) * atanh(s)` with `s = f / (2 + f)`.
#[inline(always)]
fn log2_pair<M: Math>(m: M, x: M::V) -> (M::V, M::V) {
    let (y, grown) = normalise(m, x);
    let (k, biased) = split(m, y);
    let (k, f) = (m.sub(k, grown), fraction(m, biased));
    let (dh, dl) = fast_two_sum(m, m.lit(2.0), f);
    let inverse = m.div(m.lit(1.0), dh);
    let sh = m.mul(f, inverse);
    let minus_sh = m.neg(sh);
    let sl = m.mul(m.fma(minus_sh, dl, m.fma(minus_sh, dh, f)), inverse);
    let s = (sh, sl);
    // atanh(s) = s + s * (z * (1/3 + z * rest)), z = s^2; the last product needs one number.
    let z = pair_mul(m, s, s);
    let rest = m.mul(horner(m, z.0, ATANH), z.0);
    let (ch, cl) = fast_two_sum(m, m.lit(0.3333333432674408), rest);
    let tail = pair_mul(m, z, (ch, m.add(cl, m.lit(-9.934107462565105e-9))));
    let linear = pair_mul(m, s, (m.lit(2.885390043258667), m.lit(3.851_925_649e-8)));
    let bent = pair_mul(m, linear, tail);
    let (hi, lo) = fast_two_sum(m, linear.0, bent.0);
    let lo = m.add(lo, m.add(linear.1, bent.1));
    let (hi, rounded) = fast_two_sum(m, k, hi);
    fast_two_sum(m, hi, m.add(rounded, lo))
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
    m.scale(m.mul_add(horner(m, r, EXP2), r, m.lit(1.0)), n)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Scalar;

    const M: Scalar<f32> = Scalar::NEW;
    type F = fn(f32) -> f32;
    type Truth = fn(f64) -> f64;

    fn stated(name: &str) -> f64 {
        ULPS.iter().find(|(n, _)| *n == name).expect(name).1
    }

    /// The distance of f32's neighbours around `x`.
    fn ulp(x: f64) -> f64 {
        let exponent = ((x.to_bits() >> 52) & 0x7ff) as i32 - 1023;
        f64::from_bits(((exponent.clamp(-126, 127) - 23 + 1023) as u64) << 52)
    }

    /// The error of `got` in ulps of `want`.
    fn ulps(got: f32, want: f64) -> f64 {
        let rounded = want as f32;
        if got == rounded || (got.is_nan() && want.is_nan()) {
            return ((f64::from(got) - want) / ulp(want)).abs().min(0.5);
        }
        if got.is_nan() || want.is_nan() {
            return f64::INFINITY;
        }
        // Infinity counts as the number that comes after the largest one.
        let number = |x: f64| x.clamp(-libm::exp2(128.0), libm::exp2(128.0));
        ((number(f64::from(got)) - number(want)) / ulp(want)).abs()
    }

    /// Arguments spread evenly over the bit patterns of `range`'s magnitudes, both signs.
    fn patterns(range: std::ops::Range<f32>, step: usize) -> impl Iterator<Item = f32> {
        let bits = range.start.to_bits()..range.end.to_bits();
        bits.step_by(step).map(f32::from_bits).flat_map(|x| [x, -x])
    }

    fn sweep(name: &str, f: F, truth: Truth, arguments: impl Iterator<Item = f32>) {
        let (mut worst, mut at, mut count) = (0.0, 0.0, 0);
        for x in arguments {
            let error = ulps(f(x), truth(f64::from(x)));
            if error > worst {
                (worst, at) = (error, x);
            }
            count += 1;
        }
        println!("{name:9} {worst:.3} ulp at {at:e} ({count} arguments)");
        assert!(count > 1_000_000);
        assert!(worst <= stated(name), "{name}: {worst} ulp at {at:e}");
    }

    /// Zeros keep their signs, infinities and NaN are the truth's, tiny numbers are right.
    fn specials(name: &str, f: F, truth: Truth) {
        let values = [0.0, 1e-45, 1e-40, 1e-30, 1e-10, 1.0, 100.0, 1e4, f32::INFINITY, f32::NAN];
        for x in values.into_iter().flat_map(|x| [x, -x]) {
            let (got, want) = (f(x), truth(f64::from(x)));
            assert!(ulps(got, want) <= stated(name), "{name}({x:e}) = {got:e}, not {want:e}");
            let same_sign = got.is_sign_negative() == want.is_sign_negative();
            assert!(got.is_nan() || same_sign, "{name}({x:e}) = {got:e}, not {want:e}");
            assert_eq!(got.is_infinite(), (want as f32).is_infinite(), "{name}({x:e})");
        }
    }

    /// A prime step over every bit pattern, and denser where the functions do their work.
    fn everywhere(dense: std::ops::Range<f32>) -> impl Iterator<Item = f32> {
        patterns(0.0..f32::INFINITY, 1999).chain(patterns(dense, 211))
    }

    macro_rules! sweeps {
        ($($test:ident: $f:ident, $truth:expr, $arguments:expr;)*) => {$(
            #[test]
            fn $test() {
                sweep(stringify!($f), |x| $f(M, x), $truth, $arguments);
                specials(stringify!($f), |x| $f(M, x), $truth);
            }
        )*};
    }
    const TRUE: Scalar<f64> = Scalar::NEW;
    sweeps! {
        rsqrt_ulps: rsqrt, |x| 1.0 / x.sqrt(), everywhere(0.5..4.0);
        exp_ulps: exp, libm::exp, everywhere(1e-3..110.0);
        expm1_ulps: expm1, libm::expm1, everywhere(1e-3..110.0);
        log_ulps: log, libm::log, everywhere(0.25..4.0);
        log1p_ulps: log1p, libm::log1p, everywhere(1e-3..10.0);
        sin_ulps: sin, libm::sin, everywhere(0.1..131072.0);
        cos_ulps: cos, libm::cos, everywhere(0.1..131072.0);
        tanh_ulps: tanh, libm::tanh, everywhere(1e-3..10.0);
        erf_ulps: erf, libm::erf, everywhere(1e-3..4.0);
        sigmoid_ulps: sigmoid, |x| TRUE.sigmoid(x), everywhere(1e-3..110.0);
        softplus_ulps: softplus, |x| TRUE.softplus(x), everywhere(1e-3..110.0);
    }

    #[test]
    fn pow_ulps() {
        let (mut worst, mut at) = (0.0, (0.0, 0.0));
        let mut state = 1u64;
        let mut random = || {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 33) as f64 / (1u64 << 31) as f64
        };
        for i in 0..4_000_000 {
            // Bases near 1 with large exponents, any base with any exponent, small whole exponents.
            let a = libm::exp2((random() - 0.5) * [2.0, 250.0, 20.0][i % 3]) as f32;
            let b = match i % 3 {
                2 => libm::floor(random() * 21.0 - 10.0),
                _ => (random() - 0.5) * 300.0 / libm::log2(f64::from(a)).abs().max(1e-3),
            } as f32;
            let error = ulps(pow(M, a, b), libm::pow(f64::from(a), f64::from(b)));
            if error > worst {
                (worst, at) = (error, (a, b));
            }
        }
        println!("pow       {worst:.3} ulp at {at:?}");
        assert!(worst <= stated("pow"), "{worst} ulp at {at:?}");
    }

    #[test]
    fn pow_special_values() {
        let values = [
            0.0,
            1.0,
            0.5,
            2.0,
            3.0,
            2.5,
            1e-3,
            1e30,
            1e-45,
            1e-38,
            3.4e38,
            16777215.0,
            16777216.0,
            8388609.0,
            1.0000001,
            0.99999994,
            f32::INFINITY,
            f32::NAN,
        ];
        let values: Vec<f32> = values.into_iter().flat_map(|x| [x, -x]).collect();
        for &a in &values {
            for &b in &values {
                let (got, want) = (pow(M, a, b), libm::pow(f64::from(a), f64::from(b)));
                assert!(ulps(got, want) <= stated("pow"), "pow({a}, {b}) = {got}, not {want}");
                let same_sign = got.is_sign_negative() == want.is_sign_negative();
                assert!(got.is_nan() || same_sign, "pow({a}, {b}) = {got}, not {want}");
            }
        }
    }

    /// Beyond 1 the derivatives of tanh and erf would change sign.
    #[test]
    fn saturating_functions_stay_within_one() {
        for x in patterns(2.0..16.0, 1) {
            assert!(tanh(M, x).abs() <= 1.0, "tanh({x})");
            assert!(erf(M, x).abs() <= 1.0, "erf({x})");
        }
        assert_eq!((tanh(M, 9.1), erf(M, 4.0)), (1.0, 1.0));
    }
}
