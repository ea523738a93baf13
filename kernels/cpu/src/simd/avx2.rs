//! AVX2 with FMA and F16C: 8 lanes, truth values as all ones or zeros.

use super::Simd;
use half::{bf16, f16};
use starling_ops::Math;
use std::arch::x86_64::*;

/// Proof that the machine has AVX2, FMA and F16C.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Avx2(());

impl Avx2 {
    /// The token, if the machine has the instructions.
    pub fn detect() -> Option<Self> {
        let found = is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("f16c");
        found.then_some(Self(()))
    }

    methods! {
        fn nan(self, v: __m256) -> __m256 { _mm256_cmp_ps::<_CMP_UNORD_Q>(v, v) }
        fn has_nan(self, v: __m256) -> bool { _mm256_movemask_ps(self.nan(v)) != 0 }
        fn first(self, n: usize) -> __m256i {
            _mm256_cmpgt_epi32(_mm256_set1_epi32(n as i32), self.iota(0))
        }
        fn shift(self, n: u32) -> __m128i { _mm_cvtsi32_si128(n as i32) }
    }
}

impl Math for Avx2 {
    type V = __m256;
    type B = __m256;
    type U = __m256i;
    shared!();

    methods! {
        fn lit(self, x: f64) -> __m256 { _mm256_set1_ps(x as f32) }
        fn add(self, a: __m256, b: __m256) -> __m256 { _mm256_add_ps(a, b) }
        fn sub(self, a: __m256, b: __m256) -> __m256 { _mm256_sub_ps(a, b) }
        fn mul(self, a: __m256, b: __m256) -> __m256 { _mm256_mul_ps(a, b) }
        fn div(self, a: __m256, b: __m256) -> __m256 { _mm256_div_ps(a, b) }
        fn fma(self, a: __m256, b: __m256, c: __m256) -> __m256 { _mm256_fmadd_ps(a, b, c) }
        fn neg(self, a: __m256) -> __m256 { _mm256_xor_ps(a, _mm256_set1_ps(-0.0)) }
        fn abs(self, a: __m256) -> __m256 { _mm256_andnot_ps(_mm256_set1_ps(-0.0), a) }
        // The instruction returns its second operand on a tie and for NaN: `a` there, so that only
        // a NaN in `b` has to be put right.
        fn min(self, a: __m256, b: __m256) -> __m256 {
            _mm256_blendv_ps(_mm256_min_ps(b, a), b, self.nan(b))
        }
        fn max(self, a: __m256, b: __m256) -> __m256 {
            _mm256_blendv_ps(_mm256_max_ps(b, a), b, self.nan(b))
        }
        fn floor(self, a: __m256) -> __m256 {
            _mm256_round_ps::<{ _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC }>(a)
        }
        fn round(self, a: __m256) -> __m256 {
            _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a)
        }
        fn sqrt(self, a: __m256) -> __m256 { _mm256_sqrt_ps(a) }

        fn lt(self, a: __m256, b: __m256) -> __m256 { _mm256_cmp_ps::<_CMP_LT_OQ>(a, b) }
        fn le(self, a: __m256, b: __m256) -> __m256 { _mm256_cmp_ps::<_CMP_LE_OQ>(a, b) }
        fn eq(self, a: __m256, b: __m256) -> __m256 { _mm256_cmp_ps::<_CMP_EQ_OQ>(a, b) }
        fn ne(self, a: __m256, b: __m256) -> __m256 { _mm256_cmp_ps::<_CMP_NEQ_UQ>(a, b) }
        fn and(self, a: __m256, b: __m256) -> __m256 { _mm256_and_ps(a, b) }
        fn or(self, a: __m256, b: __m256) -> __m256 { _mm256_or_ps(a, b) }
        fn not(self, a: __m256) -> __m256 {
            _mm256_xor_ps(a, _mm256_castsi256_ps(_mm256_set1_epi32(-1)))
        }
        fn any(self, c: __m256) -> bool { _mm256_movemask_ps(c) != 0 }
        fn select(self, c: __m256, a: __m256, b: __m256) -> __m256 { _mm256_blendv_ps(b, a, c) }

        fn ulit(self, x: u32) -> __m256i { _mm256_set1_epi32(x as i32) }
        fn uadd(self, a: __m256i, b: __m256i) -> __m256i { _mm256_add_epi32(a, b) }
        fn usub(self, a: __m256i, b: __m256i) -> __m256i { _mm256_sub_epi32(a, b) }
        fn umul(self, a: __m256i, b: __m256i) -> __m256i { _mm256_mullo_epi32(a, b) }
        fn umulhi(self, a: __m256i, b: __m256i) -> __m256i {
            let even = _mm256_srli_epi64::<32>(_mm256_mul_epu32(a, b));
            let (a, b) = (_mm256_srli_epi64::<32>(a), _mm256_srli_epi64::<32>(b));
            _mm256_blend_epi32::<0xaa>(even, _mm256_mul_epu32(a, b))
        }
        fn uand(self, a: __m256i, b: __m256i) -> __m256i { _mm256_and_si256(a, b) }
        fn uor(self, a: __m256i, b: __m256i) -> __m256i { _mm256_or_si256(a, b) }
        fn uxor(self, a: __m256i, b: __m256i) -> __m256i { _mm256_xor_si256(a, b) }
        fn ushl(self, a: __m256i, n: u32) -> __m256i { _mm256_sll_epi32(a, self.shift(n)) }
        fn ushr(self, a: __m256i, n: u32) -> __m256i { _mm256_srl_epi32(a, self.shift(n)) }
        fn ueq(self, a: __m256i, b: __m256i) -> __m256 {
            _mm256_castsi256_ps(_mm256_cmpeq_epi32(a, b))
        }
        fn uselect(self, c: __m256, a: __m256i, b: __m256i) -> __m256i {
            _mm256_blendv_epi8(b, a, _mm256_castps_si256(c))
        }
        // There is no unsigned conversion: both halves are exact, their sum rounds once.
        fn to_real(self, a: __m256i) -> __m256 {
            let high = _mm256_cvtepi32_ps(_mm256_srli_epi32::<16>(a));
            let low = _mm256_cvtepi32_ps(_mm256_and_si256(a, _mm256_set1_epi32(0xffff)));
            _mm256_fmadd_ps(high, _mm256_set1_ps(65536.0), low)
        }
        fn to_uint(self, a: __m256) -> __m256i { _mm256_cvttps_epi32(a) }
        fn bits(self, a: __m256) -> __m256i { _mm256_castps_si256(a) }
        fn from_bits(self, a: __m256i) -> __m256 { _mm256_castsi256_ps(a) }
    }
}

impl Simd for Avx2 {
    const LANES: usize = 8;

    methods! {
        unsafe fn load(self, p: *const f32) -> __m256 { _mm256_loadu_ps(p) }
        unsafe fn store(self, p: *mut f32, v: __m256) { _mm256_storeu_ps(p, v) }
        unsafe fn load_first(self, p: *const f32, n: usize) -> __m256 {
            _mm256_maskload_ps(p, self.first(n))
        }
        unsafe fn store_first(self, p: *mut f32, n: usize, v: __m256) {
            _mm256_maskstore_ps(p, self.first(n), v)
        }
        unsafe fn uload(self, p: *const u32) -> __m256i { _mm256_loadu_si256(p.cast()) }
        unsafe fn ustore(self, p: *mut u32, v: __m256i) { _mm256_storeu_si256(p.cast(), v) }
        fn mask_to_word(self, b: __m256) -> __m256i { _mm256_castps_si256(b) }
        fn word_to_mask(self, u: __m256i) -> __m256 {
            self.not(self.ueq(u, _mm256_setzero_si256()))
        }
        fn iota(self, start: u32) -> __m256i {
            let lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
            _mm256_add_epi32(_mm256_set1_epi32(start as i32), lane)
        }
        fn sum(self, v: __m256) -> f32 {
            let v = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
            let v = _mm_add_ps(v, _mm_movehl_ps(v, v));
            _mm_cvtss_f32(_mm_add_ss(v, _mm_movehdup_ps(v)))
        }
        fn max_lane(self, v: __m256) -> f32 {
            if self.has_nan(v) {
                return f32::NAN;
            }
            let v = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
            let v = _mm_max_ps(v, _mm_movehl_ps(v, v));
            _mm_cvtss_f32(_mm_max_ss(v, _mm_movehdup_ps(v)))
        }
        fn min_lane(self, v: __m256) -> f32 {
            if self.has_nan(v) {
                return f32::NAN;
            }
            let v = _mm_min_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
            let v = _mm_min_ps(v, _mm_movehl_ps(v, v));
            _mm_cvtss_f32(_mm_min_ss(v, _mm_movehdup_ps(v)))
        }
        unsafe fn load_f16(self, p: *const f16) -> __m256 {
            _mm256_cvtph_ps(_mm_loadu_si128(p.cast()))
        }
        unsafe fn store_f16(self, p: *mut f16, v: __m256) {
            _mm_storeu_si128(p.cast(), _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(v))
        }
        unsafe fn load_bf16(self, p: *const bf16) -> __m256 {
            let word = _mm256_cvtepu16_epi32(_mm_loadu_si128(p.cast()));
            _mm256_castsi256_ps(_mm256_slli_epi32::<16>(word))
        }
        unsafe fn store_bf16(self, p: *mut bf16, v: __m256) {
            let word = super::bf16_bits(self, v);
            let low = _mm256_castsi256_si128(word);
            let packed = _mm_packus_epi32(low, _mm256_extracti128_si256::<1>(word));
            _mm_storeu_si128(p.cast(), packed)
        }
        fn transpose(self, square: &mut [__m256]) {
            let Ok(r) = <&mut [__m256; 8]>::try_from(square) else { return };
            // 4 x 4 squares inside each 128-bit lane, then the lanes.
            for i in [0, 4] {
                let a = _mm256_unpacklo_ps(r[i], r[i + 1]);
                let b = _mm256_unpackhi_ps(r[i], r[i + 1]);
                let c = _mm256_unpacklo_ps(r[i + 2], r[i + 3]);
                let d = _mm256_unpackhi_ps(r[i + 2], r[i + 3]);
                r[i] = _mm256_shuffle_ps::<0x44>(a, c);
                r[i + 1] = _mm256_shuffle_ps::<0xee>(a, c);
                r[i + 2] = _mm256_shuffle_ps::<0x44>(b, d);
                r[i + 3] = _mm256_shuffle_ps::<0xee>(b, d);
            }
            for i in 0..4 {
                let (a, b) = (r[i], r[i + 4]);
                r[i] = _mm256_permute2f128_ps::<0x20>(a, b);
                r[i + 4] = _mm256_permute2f128_ps::<0x31>(a, b);
            }
        }
        unsafe fn load_u8(self, p: *const u8) -> __m256 {
            _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64(p.cast())))
        }
    }
}
