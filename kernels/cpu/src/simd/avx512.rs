//! AVX-512: 16 lanes, truth values in mask registers.

use super::Simd;
use half::{bf16, f16};
use starling_ops::Math;
use std::arch::x86_64::*;

/// Proof that the machine has AVX-512 F, BW, DQ and VL, and AVX2, FMA and F16C.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Avx512(());

impl Avx512 {
    /// The token, if the machine has the instructions.
    pub fn detect() -> Option<Self> {
        let found = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("f16c");
        found.then_some(Self(()))
    }

    methods! {
        fn has_nan(self, v: __m512) -> bool { _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(v, v) != 0 }
        fn first(self, n: usize) -> __mmask16 { ((1u32 << n) - 1) as __mmask16 }
        fn shift(self, n: u32) -> __m128i { _mm_cvtsi32_si128(n as i32) }
    }
}

impl Math for Avx512 {
    type V = __m512;
    type B = __mmask16;
    type U = __m512i;
    shared!();

    methods! {
        fn lit(self, x: f64) -> __m512 { _mm512_set1_ps(x as f32) }
        fn add(self, a: __m512, b: __m512) -> __m512 { _mm512_add_ps(a, b) }
        fn sub(self, a: __m512, b: __m512) -> __m512 { _mm512_sub_ps(a, b) }
        fn mul(self, a: __m512, b: __m512) -> __m512 { _mm512_mul_ps(a, b) }
        fn div(self, a: __m512, b: __m512) -> __m512 { _mm512_div_ps(a, b) }
        fn fma(self, a: __m512, b: __m512, c: __m512) -> __m512 { _mm512_fmadd_ps(a, b, c) }
        fn neg(self, a: __m512) -> __m512 { _mm512_xor_ps(a, _mm512_set1_ps(-0.0)) }
        fn abs(self, a: __m512) -> __m512 { _mm512_abs_ps(a) }
        // The instruction returns its second operand on a tie and for NaN: `a` there, so that only
        // a NaN in `b` has to be put right.
        fn min(self, a: __m512, b: __m512) -> __m512 {
            let nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(b, b);
            _mm512_mask_mov_ps(_mm512_min_ps(b, a), nan, b)
        }
        fn max(self, a: __m512, b: __m512) -> __m512 {
            let nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(b, b);
            _mm512_mask_mov_ps(_mm512_max_ps(b, a), nan, b)
        }
        fn floor(self, a: __m512) -> __m512 {
            _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC }>(a)
        }
        fn round(self, a: __m512) -> __m512 {
            _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a)
        }
        fn sqrt(self, a: __m512) -> __m512 { _mm512_sqrt_ps(a) }
        fn scale(self, p: __m512, n: __m512) -> __m512 { _mm512_scalef_ps(p, n) }

        fn lt(self, a: __m512, b: __m512) -> __mmask16 { _mm512_cmp_ps_mask::<_CMP_LT_OQ>(a, b) }
        fn le(self, a: __m512, b: __m512) -> __mmask16 { _mm512_cmp_ps_mask::<_CMP_LE_OQ>(a, b) }
        fn eq(self, a: __m512, b: __m512) -> __mmask16 { _mm512_cmp_ps_mask::<_CMP_EQ_OQ>(a, b) }
        fn ne(self, a: __m512, b: __m512) -> __mmask16 { _mm512_cmp_ps_mask::<_CMP_NEQ_UQ>(a, b) }
        fn and(self, a: __mmask16, b: __mmask16) -> __mmask16 { a & b }
        fn or(self, a: __mmask16, b: __mmask16) -> __mmask16 { a | b }
        fn not(self, a: __mmask16) -> __mmask16 { !a }
        fn any(self, c: __mmask16) -> bool { c != 0 }
        fn select(self, c: __mmask16, a: __m512, b: __m512) -> __m512 {
            _mm512_mask_blend_ps(c, b, a)
        }

        fn ulit(self, x: u32) -> __m512i { _mm512_set1_epi32(x as i32) }
        fn uadd(self, a: __m512i, b: __m512i) -> __m512i { _mm512_add_epi32(a, b) }
        fn usub(self, a: __m512i, b: __m512i) -> __m512i { _mm512_sub_epi32(a, b) }
        fn umul(self, a: __m512i, b: __m512i) -> __m512i { _mm512_mullo_epi32(a, b) }
        fn umulhi(self, a: __m512i, b: __m512i) -> __m512i {
            let even = _mm512_srli_epi64::<32>(_mm512_mul_epu32(a, b));
            let (a, b) = (_mm512_srli_epi64::<32>(a), _mm512_srli_epi64::<32>(b));
            _mm512_mask_mov_epi32(even, 0xaaaa, _mm512_mul_epu32(a, b))
        }
        fn uand(self, a: __m512i, b: __m512i) -> __m512i { _mm512_and_si512(a, b) }
        fn uor(self, a: __m512i, b: __m512i) -> __m512i { _mm512_or_si512(a, b) }
        fn uxor(self, a: __m512i, b: __m512i) -> __m512i { _mm512_xor_si512(a, b) }
        fn ushl(self, a: __m512i, n: u32) -> __m512i { _mm512_sll_epi32(a, self.shift(n)) }
        fn ushr(self, a: __m512i, n: u32) -> __m512i { _mm512_srl_epi32(a, self.shift(n)) }
        fn ueq(self, a: __m512i, b: __m512i) -> __mmask16 { _mm512_cmpeq_epi32_mask(a, b) }
        fn uselect(self, c: __mmask16, a: __m512i, b: __m512i) -> __m512i {
            _mm512_mask_blend_epi32(c, b, a)
        }
        fn to_real(self, a: __m512i) -> __m512 { _mm512_cvtepu32_ps(a) }
        fn to_uint(self, a: __m512) -> __m512i { _mm512_cvttps_epi32(a) }
        fn bits(self, a: __m512) -> __m512i { _mm512_castps_si512(a) }
        fn from_bits(self, a: __m512i) -> __m512 { _mm512_castsi512_ps(a) }
    }
}

impl Simd for Avx512 {
    const LANES: usize = 16;

    methods! {
        unsafe fn load(self, p: *const f32) -> __m512 { _mm512_loadu_ps(p) }
        unsafe fn store(self, p: *mut f32, v: __m512) { _mm512_storeu_ps(p, v) }
        unsafe fn load_first(self, p: *const f32, n: usize) -> __m512 {
            _mm512_maskz_loadu_ps(self.first(n), p)
        }
        unsafe fn store_first(self, p: *mut f32, n: usize, v: __m512) {
            _mm512_mask_storeu_ps(p, self.first(n), v)
        }
        unsafe fn uload(self, p: *const u32) -> __m512i { _mm512_loadu_si512(p.cast()) }
        unsafe fn ustore(self, p: *mut u32, v: __m512i) { _mm512_storeu_si512(p.cast(), v) }
        fn mask_to_word(self, b: __mmask16) -> __m512i { _mm512_movm_epi32(b) }
        fn word_to_mask(self, u: __m512i) -> __mmask16 { _mm512_test_epi32_mask(u, u) }
        fn iota(self, start: u32) -> __m512i {
            let lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
            _mm512_add_epi32(_mm512_set1_epi32(start as i32), lane)
        }
        fn sum(self, v: __m512) -> f32 {
            let v = _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps::<1>(v));
            let v = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
            let v = _mm_add_ps(v, _mm_movehl_ps(v, v));
            _mm_cvtss_f32(_mm_add_ss(v, _mm_movehdup_ps(v)))
        }
        fn max_lane(self, v: __m512) -> f32 {
            if self.has_nan(v) { f32::NAN } else { _mm512_reduce_max_ps(v) }
        }
        fn min_lane(self, v: __m512) -> f32 {
            if self.has_nan(v) { f32::NAN } else { _mm512_reduce_min_ps(v) }
        }
        unsafe fn load_f16(self, p: *const f16) -> __m512 {
            _mm512_cvtph_ps(_mm256_loadu_si256(p.cast()))
        }
        unsafe fn store_f16(self, p: *mut f16, v: __m512) {
            let h = _mm512_cvtps_ph::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(v);
            _mm256_storeu_si256(p.cast(), h)
        }
        unsafe fn load_bf16(self, p: *const bf16) -> __m512 {
            let word = _mm512_cvtepu16_epi32(_mm256_loadu_si256(p.cast()));
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(word))
        }
        unsafe fn store_bf16(self, p: *mut bf16, v: __m512) {
            let word = _mm512_cvtepi32_epi16(super::bf16_bits(self, v));
            _mm256_storeu_si256(p.cast(), word)
        }
        fn transpose(self, square: &mut [__m512]) {
            let Ok(r) = <&mut [__m512; 16]>::try_from(square) else { return };
            // Pairs of rows, then fours: 4 x 4 squares inside each 128-bit lane.
            for i in (0..16).step_by(4) {
                let a = _mm512_unpacklo_ps(r[i], r[i + 1]);
                let b = _mm512_unpackhi_ps(r[i], r[i + 1]);
                let c = _mm512_unpacklo_ps(r[i + 2], r[i + 3]);
                let d = _mm512_unpackhi_ps(r[i + 2], r[i + 3]);
                r[i] = _mm512_shuffle_ps::<0x44>(a, c);
                r[i + 1] = _mm512_shuffle_ps::<0xee>(a, c);
                r[i + 2] = _mm512_shuffle_ps::<0x44>(b, d);
                r[i + 3] = _mm512_shuffle_ps::<0xee>(b, d);
            }
            // Then the 4 x 4 square of the lanes themselves.
            for i in 0..4 {
                let (a, b) = (r[i], r[i + 4]);
                let (c, d) = (r[i + 8], r[i + 12]);
                let (ab, cd) =
                    (_mm512_shuffle_f32x4::<0x88>(a, b), _mm512_shuffle_f32x4::<0x88>(c, d));
                let (ef, gh) =
                    (_mm512_shuffle_f32x4::<0xdd>(a, b), _mm512_shuffle_f32x4::<0xdd>(c, d));
                r[i] = _mm512_shuffle_f32x4::<0x88>(ab, cd);
                r[i + 8] = _mm512_shuffle_f32x4::<0xdd>(ab, cd);
                r[i + 4] = _mm512_shuffle_f32x4::<0x88>(ef, gh);
                r[i + 12] = _mm512_shuffle_f32x4::<0xdd>(ef, gh);
            }
        }
        unsafe fn load_u8(self, p: *const u8) -> __m512 {
            _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128(p.cast())))
        }
    }
}
