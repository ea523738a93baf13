//! NEON: 4 lanes, truth values as all ones or zeros.

use super::Simd;
use half::{bf16, f16};
use starling_ops::Math;
use std::arch::aarch64::*;

/// Proof that the machine has NEON.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Neon(());

impl Neon {
    /// The token, if the machine has the instructions.
    pub fn detect() -> Option<Self> {
        std::arch::is_aarch64_feature_detected!("neon").then_some(Self(()))
    }

    methods! {
        fn signed(self, n: u32) -> int32x4_t { vdupq_n_s32(n as i32) }
    }

    /// The half-precision bits of `v`, rounded to nearest, halves to even.
    #[inline(always)]
    fn f16_bits(self, v: float32x4_t) -> uint32x4_t {
        let word = self.bits(v);
        let sign = self.uand(word, self.ulit(0x8000_0000));
        let rest = self.uxor(word, sign);
        let size = self.from_bits(rest);
        // Adding 1/2 moves the bits of a subnormal result to the bottom, rounded.
        let half = self.lit(0.5);
        let subnormal = self.usub(self.bits(self.add(size, half)), self.bits(half));
        let odd = self.uand(self.ushr(rest, 13), self.ulit(1));
        let rebiased = self.usub(rest, self.ulit((127 - 15) << 23));
        let normal = self.ushr(self.uadd(self.uadd(rebiased, self.ulit(0xfff)), odd), 13);
        let bits = self.uselect(self.lt(size, self.lit(1.0 / 16384.0)), subnormal, normal);
        let bits = self.uselect(self.ge(size, self.lit(65536.0)), self.ulit(0x7c00), bits);
        let bits = self.uselect(self.eq(v, v), bits, self.ulit(0x7e00));
        self.uor(bits, self.ushr(sign, 16))
    }

    /// The number with these half-precision bits.
    #[inline(always)]
    fn f16_value(self, h: uint32x4_t) -> float32x4_t {
        let sign = self.ushl(self.uand(h, self.ulit(0x8000)), 16);
        let rest = self.ushl(self.uand(h, self.ulit(0x7fff)), 13);
        // 2^112 makes up for the difference of the biases, for subnormal numbers too.
        let value = self.bits(self.mul(self.from_bits(rest), self.from_bits(self.ulit(239 << 23))));
        let special = self.ge(self.from_bits(rest), self.from_bits(self.ulit(31 << 23)));
        let value = self.uselect(special, self.uor(rest, self.ulit(0x7f80_0000)), value);
        self.from_bits(self.uor(value, sign))
    }
}

impl Math for Neon {
    type V = float32x4_t;
    type B = uint32x4_t;
    type U = uint32x4_t;
    shared!();

    methods! {
        fn lit(self, x: f64) -> float32x4_t { vdupq_n_f32(x as f32) }
        fn add(self, a: float32x4_t, b: float32x4_t) -> float32x4_t { vaddq_f32(a, b) }
        fn sub(self, a: float32x4_t, b: float32x4_t) -> float32x4_t { vsubq_f32(a, b) }
        fn mul(self, a: float32x4_t, b: float32x4_t) -> float32x4_t { vmulq_f32(a, b) }
        fn div(self, a: float32x4_t, b: float32x4_t) -> float32x4_t { vdivq_f32(a, b) }
        fn fma(self, a: float32x4_t, b: float32x4_t, c: float32x4_t) -> float32x4_t {
            vfmaq_f32(c, a, b)
        }
        fn neg(self, a: float32x4_t) -> float32x4_t { vnegq_f32(a) }
        fn abs(self, a: float32x4_t) -> float32x4_t { vabsq_f32(a) }
        // `vminq_f32` would order -0 below +0; on a tie `a` is wanted, as everywhere else.
        fn min(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
            let first = vorrq_u32(vcleq_f32(a, b), vmvnq_u32(vceqq_f32(a, a)));
            vbslq_f32(first, a, b)
        }
        fn max(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
            let first = vorrq_u32(vcgeq_f32(a, b), vmvnq_u32(vceqq_f32(a, a)));
            vbslq_f32(first, a, b)
        }
        fn floor(self, a: float32x4_t) -> float32x4_t { vrndmq_f32(a) }
        fn round(self, a: float32x4_t) -> float32x4_t { vrndnq_f32(a) }
        fn sqrt(self, a: float32x4_t) -> float32x4_t { vsqrtq_f32(a) }

        fn lt(self, a: float32x4_t, b: float32x4_t) -> uint32x4_t { vcltq_f32(a, b) }
        fn le(self, a: float32x4_t, b: float32x4_t) -> uint32x4_t { vcleq_f32(a, b) }
        fn eq(self, a: float32x4_t, b: float32x4_t) -> uint32x4_t { vceqq_f32(a, b) }
        fn ne(self, a: float32x4_t, b: float32x4_t) -> uint32x4_t { vmvnq_u32(vceqq_f32(a, b)) }
        fn and(self, a: uint32x4_t, b: uint32x4_t) -> uint32x4_t { vandq_u32(a, b) }
        fn or(self, a: uint32x4_t, b: uint32x4_t) -> uint32x4_t { vorrq_u32(a, b) }
        fn not(self, a: uint32x4_t) -> uint32x4_t { vmvnq_u32(a) }
        fn any(self, c: uint32x4_t) -> bool { vmaxvq_u32(c) != 0 }
        fn select(self, c: uint32x4_t, a: float32x4_t, b: float32x4_t) -> float32x4_t {
            vbslq_f32(c, a, b)
        }

        fn ulit(self, x: u32) -> uint32x4_t { vdupq_n_u32(x) }
        fn uadd(self, a: uint32x4_t, b: uint32x4_t) -> uint32x4_t { vaddq_u32(a, b) }
        fn usub(self, a: uint32x4_t, b: uint32x4_t) -> uint32x4_t { vsubq_u32(a, b) }
        fn umul(self, a: uint32x4_t, b: uint32x4_t) -> uint32x4_t { vmulq_u32(a, b) }
        fn umulhi(self, a: uint32x4_t, b: uint32x4_t) -> uint32x4_t {
            let low = vmull_u32(vget_low_u32(a), vget_low_u32(b));
            let high = vmull_high_u32(a, b);
            vuzp2q_u32(vreinterpretq_u32_u64(low), vreinterpretq_u32_u64(high))
        }
        fn uand(self, a: uint32x4_t, b: uint32x4_t) -> uint32x4_t { vandq_u32(a, b) }
        fn uor(self, a: uint32x4_t, b: uint32x4_t) -> uint32x4_t { vorrq_u32(a, b) }
        fn uxor(self, a: uint32x4_t, b: uint32x4_t) -> uint32x4_t { veorq_u32(a, b) }
        fn ushl(self, a: uint32x4_t, n: u32) -> uint32x4_t { vshlq_u32(a, self.signed(n)) }
        // A negative count shifts to the right.
        fn ushr(self, a: uint32x4_t, n: u32) -> uint32x4_t {
            vshlq_u32(a, self.signed(n.wrapping_neg()))
        }
        fn ueq(self, a: uint32x4_t, b: uint32x4_t) -> uint32x4_t { vceqq_u32(a, b) }
        fn uselect(self, c: uint32x4_t, a: uint32x4_t, b: uint32x4_t) -> uint32x4_t {
            vbslq_u32(c, a, b)
        }
        fn to_real(self, a: uint32x4_t) -> float32x4_t { vcvtq_f32_u32(a) }
        fn to_uint(self, a: float32x4_t) -> uint32x4_t { vcvtq_u32_f32(a) }
        fn bits(self, a: float32x4_t) -> uint32x4_t { vreinterpretq_u32_f32(a) }
        fn from_bits(self, a: uint32x4_t) -> float32x4_t { vreinterpretq_f32_u32(a) }
    }
}

impl Simd for Neon {
    const LANES: usize = 4;

    methods! {
        unsafe fn load(self, p: *const f32) -> float32x4_t { vld1q_f32(p) }
        unsafe fn store(self, p: *mut f32, v: float32x4_t) { vst1q_f32(p, v) }
        unsafe fn load_first(self, p: *const f32, n: usize) -> float32x4_t {
            let mut lanes = [0.0f32; 4];
            p.copy_to_nonoverlapping(lanes.as_mut_ptr(), n.min(4));
            vld1q_f32(lanes.as_ptr())
        }
        unsafe fn store_first(self, p: *mut f32, n: usize, v: float32x4_t) {
            let mut lanes = [0.0f32; 4];
            vst1q_f32(lanes.as_mut_ptr(), v);
            p.copy_from_nonoverlapping(lanes.as_ptr(), n.min(4));
        }
        unsafe fn uload(self, p: *const u32) -> uint32x4_t { vld1q_u32(p) }
        unsafe fn ustore(self, p: *mut u32, v: uint32x4_t) { vst1q_u32(p, v) }
        fn mask_to_word(self, b: uint32x4_t) -> uint32x4_t { b }
        fn word_to_mask(self, u: uint32x4_t) -> uint32x4_t { vtstq_u32(u, u) }
        fn iota(self, start: u32) -> uint32x4_t {
            let lane = [0u32, 1, 2, 3];
            vaddq_u32(vdupq_n_u32(start), vld1q_u32(lane.as_ptr()))
        }
        fn sum(self, v: float32x4_t) -> f32 {
            let v = vadd_f32(vget_low_f32(v), vget_high_f32(v));
            vget_lane_f32::<0>(v) + vget_lane_f32::<1>(v)
        }
        // NaN wins in both instructions.
        fn max_lane(self, v: float32x4_t) -> f32 { vmaxvq_f32(v) }
        fn min_lane(self, v: float32x4_t) -> f32 { vminvq_f32(v) }
        // The conversion intrinsics are not stable in every compiler that builds this.
        unsafe fn load_f16(self, p: *const f16) -> float32x4_t {
            self.f16_value(vmovl_u16(vld1_u16(p.cast())))
        }
        unsafe fn store_f16(self, p: *mut f16, v: float32x4_t) {
            vst1_u16(p.cast(), vmovn_u32(self.f16_bits(v)))
        }
        unsafe fn load_bf16(self, p: *const bf16) -> float32x4_t {
            vreinterpretq_f32_u32(vshll_n_u16::<16>(vld1_u16(p.cast())))
        }
        unsafe fn store_bf16(self, p: *mut bf16, v: float32x4_t) {
            vst1_u16(p.cast(), vmovn_u32(super::bf16_bits(self, v)))
        }
        fn transpose(self, square: &mut [float32x4_t]) {
            let Ok(r) = <&mut [float32x4_t; 4]>::try_from(square) else { return };
            let (a, b) = (vtrn1q_f32(r[0], r[1]), vtrn2q_f32(r[0], r[1]));
            let (c, d) = (vtrn1q_f32(r[2], r[3]), vtrn2q_f32(r[2], r[3]));
            r[0] = vcombine_f32(vget_low_f32(a), vget_low_f32(c));
            r[1] = vcombine_f32(vget_low_f32(b), vget_low_f32(d));
            r[2] = vcombine_f32(vget_high_f32(a), vget_high_f32(c));
            r[3] = vcombine_f32(vget_high_f32(b), vget_high_f32(d));
        }
        unsafe fn load_u8(self, p: *const u8) -> float32x4_t {
            let bytes = vcreate_u8(u64::from(p.cast::<u32>().read_unaligned()));
            vcvtq_f32_u32(vmovl_u16(vget_low_u16(vmovl_u8(bytes))))
        }
    }
}
