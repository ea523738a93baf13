//! Sine and cosine, with the reduction of any angle to `-pi/4 ..= pi/4`.

use super::{horner, infinity};
use crate::math::Math;

/// The largest angle that [`reduce_near`] reduces.
const NEAR: f64 = 131_072.0;
/// pi/2 in two parts, each rounded to f32.
const HALF_PI: [f64; 2] = [1.5707963705062866, -4.371139000186241e-8];
/// The bits of 2/pi from that of weight 2^7 on: enough for the largest f32.
const TWO_OVER_PI: [u32; 7] =
    [0x00a2_f983, 0x6e4e_4415, 0x29fc_2757, 0xd1f5_34dd, 0xc0db_6295, 0x993c_4390, 0x41fe_5163];

/// `(sin(r) - r) / r^3` in `r^2` for `|r| <= 0.81`; 4.9e-9.
const SIN: [f64; 3] = [-0.16666652262210846, 0.00833201128989458, -0.0001949505094671622];
/// `(cos(r) - 1 + r^2/2) / r^4` in `r^2` for `|r| <= 0.81`; 1.6e-10.
const COS: [f64; 3] = [0.04166664183139801, -0.001388712553307414, 2.4411221602349542e-5];

/// `(r, quadrant)` with `x = quadrant * pi/2 + r` for `0 <= x <= NEAR`, pi/2 in three parts: the
/// first difference is exact, so `r` has two roundings even next to a multiple of pi/2.
#[inline(always)]
fn reduce_near<M: Math>(m: M, x: M::V) -> (M::V, M::U) {
    let n = m.round(m.mul(x, m.lit(std::f64::consts::FRAC_2_PI)));
    let mut r = x;
    for part in [-1.570796251296997, -7.549789415861596e-8, -5.390302529957765e-15] {
        r = m.fma(n, m.lit(part), r);
    }
    (r, m.to_uint(n))
}

/// The same for `x > NEAR`; `r` is NaN where `x` is infinite or NaN. `x = whole * 2^(shift - 6)`
/// with `whole < 2^31` and `shift` a multiple of 8, so only 96 bits of `2^(shift - 6) * 2/pi`
/// matter: those above make whole turns, those below less than 2^-61 of a quadrant, and no f32 is
/// nearer than 2^-30 to a multiple of pi/2.
#[inline(always)]
fn reduce_far<M: Math>(m: M, x: M::V) -> (M::V, M::U) {
    let shift = m.usub(m.ushr(m.bits(x), 23), m.ulit(127 + 17));
    let fraction = m.uor(m.uand(m.bits(x), m.ulit(0x007f_ffff)), m.ulit(0x0080_0000));
    let whole = m.umul(fraction, power_of_two(m, m.uand(shift, m.ulit(7))));
    let (start, power) = (m.ushr(shift, 5), power_of_two(m, m.uand(shift, m.ulit(24))));
    let word = |i: usize| {
        let mut word = m.ulit(TWO_OVER_PI[i]);
        for k in 1..4 {
            let here = m.ueq(start, m.ulit(k as u32));
            word = m.uselect(here, m.ulit(TWO_OVER_PI[i + k]), word);
        }
        word
    };
    let words = [word(0), word(1), word(2), word(3)];
    let part = |i: usize| m.uor(m.umul(words[i], power), m.umulhi(words[i + 1], power));
    let (middle, high) = (part(1), m.umul(whole, part(0)));
    let (sum, carry) = add_words(m, m.umul(whole, middle), m.umulhi(whole, part(2)));
    let high = m.uadd(m.uadd(high, m.umulhi(whole, middle)), carry);
    // Two bits of quadrants, rounded to the nearest; the rest is a signed part of one.
    let quadrant = m.ushr(m.uadd(high, m.ulit(0x2000_0000)), 30);
    let (high, low) = (m.uor(m.ushl(high, 2), m.ushr(sum, 30)), m.ushl(sum, 2));
    let sign = m.uand(high, m.ulit(0x8000_0000));
    let flip = m.uselect(m.ueq(sign, m.ulit(0)), m.ulit(0), m.ulit(u32::MAX));
    let r = quarter_turns(m, m.uxor(high, flip), m.uxor(low, flip));
    let r = m.from_bits(m.uxor(m.bits(r), sign));
    (m.select(m.lt(x, infinity(m)), r, m.sub(x, x)), quadrant)
}

/// `2^n` for `n < 31`.
#[inline(always)]
fn power_of_two<M: Math>(m: M, n: M::U) -> M::U {
    m.to_uint(m.from_bits(m.ushl(m.uadd(n, m.ulit(127)), 23)))
}

/// `a + b` and the bit that is carried out of it.
#[inline(always)]
fn add_words<M: Math>(m: M, a: M::U, b: M::U) -> (M::U, M::U) {
    let sum = m.uadd(a, b);
    let either = m.uand(m.uor(a, b), m.uxor(sum, m.ulit(u32::MAX)));
    (sum, m.ushr(m.uor(m.uand(a, b), either), 31))
}

/// `(high + low / 2^32) / 2^32` quadrants in radians, for `high < 2^31`.
#[inline(always)]
fn quarter_turns<M: Math>(m: M, high: M::U, low: M::U) -> M::V {
    // 23, 24 and 16 bits, each a number without rounding.
    let first = m.mul(m.to_real(m.ushr(high, 8)), m.lit(1.0 / 16_777_216.0));
    let second = m.uor(m.ushl(m.uand(high, m.ulit(0xff)), 16), m.ushr(low, 16));
    let second = m.mul(m.to_real(second), m.lit(1.0 / 281_474_976_710_656.0));
    let third = m.to_real(m.uand(low, m.ulit(0xffff)));
    let rest = m.mul_add(third, m.lit(1.0 / 18_446_744_073_709_551_616.0), second);
    let rest = m.mul_add(rest, m.lit(HALF_PI[0]), m.mul(first, m.lit(HALF_PI[1])));
    m.mul_add(first, m.lit(HALF_PI[0]), rest)
}

/// `(r, quadrant)` of any `|x|`: far angles only where there are some.
#[inline(always)]
fn reduce_sin<M: Math>(m: M, x: M::V) -> (M::V, M::U) {
    let x = m.abs(x);
    let (r, quadrant) = reduce_near(m, x);
    let far = m.not(m.le(x, m.lit(NEAR)));
    if !m.any(far) {
        return (r, quadrant);
    }
    let (far_r, far_quadrant) = reduce_far(m, x);
    (m.select(far, far_r, r), m.uselect(far, far_quadrant, quadrant))
}

/// The sine of `r` in even, its cosine in odd quadrants; `flip` holds the sign in bit 31.
#[inline(always)]
fn sin_or_cos<M: Math>(m: M, r: M::V, quadrant: M::U, flip: M::U) -> M::V {
    let z = m.mul(r, r);
    let sin = m.mul_add(m.mul(horner(m, z, SIN), z), r, r);
    let cos = m.mul_add(m.mul(horner(m, z, COS), z), z, m.mul_add(z, m.lit(-0.5), m.lit(1.0)));
    let even = m.ueq(m.uand(quadrant, m.ulit(1)), m.ulit(0));
    m.from_bits(m.uxor(m.bits(m.select(even, sin, cos)), flip))
}

/// The sine of `x = sign(x) * (quadrant * pi/2 + r)`.
#[inline(always)]
fn sin_of<M: Math>(m: M, x: M::V, (r, quadrant): (M::V, M::U)) -> M::V {
    let sign = m.uxor(m.bits(x), m.ushl(quadrant, 30));
    sin_or_cos(m, r, quadrant, m.uand(sign, m.ulit(0x8000_0000)))
}

/// The cosine of `quadrant * pi/2 + r`.
#[inline(always)]
fn cos_of<M: Math>(m: M, (r, quadrant): (M::V, M::U)) -> M::V {
    let quadrant = m.uadd(quadrant, m.ulit(1));
    sin_or_cos(m, r, quadrant, m.uand(m.ushl(quadrant, 30), m.ulit(0x8000_0000)))
}

/// The sine; of an infinity it is NaN.
#[inline(always)]
pub fn sin<M: Math>(m: M, x: M::V) -> M::V {
    sin_of(m, x, reduce_sin(m, x))
}

/// The cosine; of an infinity it is NaN.
#[inline(always)]
pub fn cos<M: Math>(m: M, x: M::V) -> M::V {
    cos_of(m, reduce_sin(m, x))
}

/// [`sin`] for `|x| <= 2^17`, for printers of targets that branch by element.
pub(crate) fn sin_near<M: Math>(m: M, x: M::V) -> M::V {
    sin_of(m, x, reduce_near(m, m.abs(x)))
}

/// [`sin`] for all other `x`.
pub(crate) fn sin_far<M: Math>(m: M, x: M::V) -> M::V {
    sin_of(m, x, reduce_far(m, m.abs(x)))
}

/// [`cos`] for `|x| <= 2^17`.
pub(crate) fn cos_near<M: Math>(m: M, x: M::V) -> M::V {
    cos_of(m, reduce_near(m, m.abs(x)))
}

/// [`cos`] for all other `x`.
pub(crate) fn cos_far<M: Math>(m: M, x: M::V) -> M::V {
    cos_of(m, reduce_far(m, m.abs(x)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Scalar;

    const M: Scalar<f32> = Scalar::NEW;

    /// 2/pi from 64-bit words: another table than the one above, and twice as long as needed.
    /// The bits of weight 2^-1 to 2^-256.
    const EXACT: [u64; 4] = [
        0xa2f9_836e_4e44_1529,
        0xfc27_57d1_f534_ddc0,
        0xdb62_9599_3c43_9041,
        0xfe51_63ab_debb_c561,
    ];

    /// `(r, quadrant)` in whole numbers of any width and one f64 at the end.
    fn exact(x: f32) -> (f64, u32) {
        let (bits, mut product) = (x.to_bits(), [0u64; 5]);
        let whole = u64::from(bits & 0x007f_ffff | 0x0080_0000);
        // product = whole * 2/pi * 2^256; its last word is the lowest.
        let mut carry = 0u128;
        for i in (0..4).rev() {
            let term = u128::from(whole) * u128::from(EXACT[i]) + carry;
            product[i + 1] = term as u64;
            carry = term >> 64;
        }
        product[0] = carry as u64;
        // x = whole * 2^shift, so the quadrants' units are bit 256 - shift of the product.
        let shift = (bits >> 23) as i32 - 150;
        let bit = |at: i32| {
            let at = (319 - at) as usize;
            product[at / 64] >> (63 - at % 64) & 1
        };
        let unit = 256 - shift;
        let quadrant = (bit(unit + 1) << 1 | bit(unit)) as u32;
        let part = |from: i32| (0..64).fold(0u64, |sum, i| sum << 1 | bit(from - i));
        let part = u128::from(part(unit - 1)) << 64 | u128::from(part(unit - 65));
        let turn = 340_282_366_920_938_463_463_374_607_431_768_211_456.0;
        let up = part >> 127 == 1;
        let size = if up { part.wrapping_neg() } else { part } as f64 / turn;
        let r = size * std::f64::consts::FRAC_PI_2;
        (if up { -r } else { r }, (quadrant + u32::from(up)) % 4)
    }

    fn far_angles(step: usize) -> impl Iterator<Item = f32> {
        let bits = (NEAR as f32).to_bits() + 1..f32::INFINITY.to_bits();
        bits.step_by(step).map(f32::from_bits)
    }

    #[test]
    fn far_angles_are_reduced_exactly() {
        let mut worst = 0f64;
        // 16367173 * 2^72 is the f32 that is nearest to a multiple of pi/2.
        let near = [16_367_173.0 * 4.722_366_5e21, f32::MAX];
        for x in far_angles(211).chain(near) {
            let (r, quadrant) = reduce_far(M, x);
            let (want, want_quadrant) = exact(x);
            assert_eq!(quadrant, want_quadrant, "{x:e}");
            worst = worst.max(((f64::from(r) - want) / want).abs());
        }
        println!("reduced   {worst:.2e} relative");
        assert!(worst <= 1.3e-7, "{worst:e}");
    }

    /// The largest numbers by name, as PyTorch has them in float64.
    #[test]
    fn angles_of_any_size_have_a_sine() {
        for (x, sine, cosine) in [
            (1e10f32, -0.487506025087491, 0.873119622683156),
            (1e22, -0.7340815352961015, 0.679061337095051),
            (1e38, 0.9891644599607083, 0.14681168601524971),
            (f32::MAX, -0.5218765233336585, 0.8530210398303042),
        ] {
            assert!((f64::from(sin(M, x)) - sine).abs() < 1e-7, "sin({x:e}) = {}", sin(M, x));
            assert!((f64::from(cos(M, x)) - cosine).abs() < 1e-7, "cos({x:e}) = {}", cos(M, x));
            assert_eq!((sin(M, -x), cos(M, -x)), (-sin(M, x), cos(M, x)));
        }
        for x in [f32::INFINITY, f32::NEG_INFINITY, f32::NAN] {
            assert!(sin(M, x).is_nan() && cos(M, x).is_nan());
        }
    }

    /// What printers take for one element is what all others compute with a test of the vector.
    #[test]
    fn near_and_far_formulas_are_the_whole() {
        let same = |a: f32, b: f32| a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan());
        for x in (0..u32::MAX).step_by(40_009).map(f32::from_bits) {
            let near = x.abs() <= NEAR as f32;
            let (s, c) = match near {
                true => (sin_near(M, x), cos_near(M, x)),
                false => (sin_far(M, x), cos_far(M, x)),
            };
            assert!(same(s, sin(M, x)) && same(c, cos(M, x)), "{x:e}");
        }
    }
}
