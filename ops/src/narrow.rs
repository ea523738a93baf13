//! Rounding to the 16-bit types, by the bits: every target gives the same number.

use crate::math::Math;

/// The smallest normal f16.
const F16_NORMAL: f64 = 1.0 / 16_384.0;
/// What a finite f16 stays below.
const F16_END: f64 = 65_536.0;

/// `x` where it is a number, else `nan`.
#[inline(always)]
fn number<M: Math>(m: M, x: M::V, nan: M::V) -> M::V {
    m.select(m.eq(nan, nan), x, nan)
}

/// The bits without the last `n`, rounded to nearest, halves to even. The carry may run into the
/// exponent, which is what rounding up to a power of two means.
#[inline(always)]
fn without<M: Math>(m: M, bits: M::U, n: u32) -> M::U {
    let odd = m.uand(m.ushr(bits, n), m.ulit(1));
    let half = m.ulit((1 << (n - 1)) - 1);
    m.uand(m.uadd(m.uadd(bits, half), odd), m.ulit(u32::MAX << n))
}

/// The nearest bf16: the upper half of an f32.
#[inline(always)]
pub fn round_bf16<M: Math>(m: M, a: M::V) -> M::V {
    number(m, m.from_bits(without(m, m.bits(a), 16)), a)
}

/// The nearest f16: 11 significant bits, subnormal below 2^-14, infinite from 65,520 on.
#[inline(always)]
pub fn round_f16<M: Math>(m: M, a: M::V) -> M::V {
    let bits = m.bits(a);
    let sign = m.uand(bits, m.ulit(0x8000_0000));
    let magnitude = m.uand(bits, m.ulit(0x7fff_ffff));
    let size = m.from_bits(magnitude);
    let normal = m.from_bits(without(m, magnitude, 13));
    let bounded = m.select(m.lt(normal, m.lit(F16_END)), normal, m.lit(f64::INFINITY));
    // The spacing of f32 from 0.5 to 1 is that of subnormal f16: the addition rounds.
    let small = m.sub(m.hold(m.add(size, m.lit(0.5))), m.lit(0.5));
    let rounded = m.select(m.lt(size, m.lit(F16_NORMAL)), small, bounded);
    number(m, m.from_bits(m.uor(m.bits(rounded), sign)), a)
}

/// `x` as an f32 whose last bit is 1 when it is inexact: rounding that once more, to a type with
/// two bits less or fewer, is rounding `x` once (Boldo, Melquiond 2005: "When double rounding is
/// odd").
pub fn round_to_odd(x: f64) -> f32 {
    let y = x as f32;
    if x.is_nan() || f64::from(y) == x || y.to_bits() & 1 == 1 {
        return y;
    }
    if y.is_infinite() {
        return if x.is_infinite() { y } else { f32::MAX.copysign(y) };
    }
    // The neighbour on the other side of `x` is odd.
    let away = x.abs() > f64::from(y.abs());
    f32::from_bits(if away { y.to_bits() + 1 } else { y.to_bits() - 1 })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Scalar;
    use crate::philox::HostStream;
    use half::{bf16, f16};

    fn same(got: f32, want: f32, what: &str, x: f32) {
        let same = got.to_bits() == want.to_bits() || (got.is_nan() && want.is_nan());
        assert!(same, "{what} of {x:e} is {got:e} and not {want:e}");
    }

    #[test]
    fn every_f16_and_bf16_and_what_lies_between_rounds_as_it_is_stored() {
        let m = Scalar::<f32>::NEW;
        let check = |x: f32| {
            same(m.round_f16(x), f16::from_f32(x).to_f32(), "f16", x);
            same(m.round_bf16(x), bf16::from_f32(x).to_f32(), "bf16", x);
        };
        for short in 0..=u16::MAX {
            for x in [f16::from_bits(short).to_f32(), bf16::from_bits(short).to_f32()] {
                // The number itself, ties, and both sides of them.
                for apart in [0, 1, 0xfff, 0x1000, 0x1001, 0x7fff, 0x8000, 0x8001] {
                    check(f32::from_bits(x.to_bits().wrapping_add(apart)));
                }
            }
        }
        let mut random = HostStream::seeded(5, 0);
        (0..200_000).for_each(|_| check(f32::from_bits(random.word())));
    }

    #[test]
    fn an_f64_is_rounded_once() {
        let m = Scalar::<f64>::NEW;
        // Just above a tie: rounding to f32 first would lose what decides.
        assert_eq!(m.round_f16(1.0 + 1.0 / 2048.0 + 1e-12), 1.0 + 1.0 / 1024.0);
        assert_eq!(m.round_bf16(1.0 + 1.0 / 256.0 + 1e-12), 1.0 + 1.0 / 128.0);
        assert_eq!(m.round_f16(65_520.0), f64::INFINITY);
        assert!(m.round_bf16(f64::NAN).is_nan());
    }
}
