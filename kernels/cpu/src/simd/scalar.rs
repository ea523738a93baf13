//! The scalar row: one lane.

use super::Simd;
use half::{bf16, f16};
use starling_ops::{Math, Scalar};

impl Simd for Scalar<f32> {
    const LANES: usize = 1;

    #[inline(always)]
    unsafe fn load(self, p: *const f32) -> f32 {
        // SAFETY: the caller promises one readable number.
        unsafe { p.read_unaligned() }
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32, v: f32) {
        // SAFETY: the caller promises room for one number.
        unsafe { p.write_unaligned(v) }
    }
    #[inline(always)]
    unsafe fn load_first(self, p: *const f32, n: usize) -> f32 {
        // SAFETY: the caller promises `n` readable numbers.
        if n == 0 { 0.0 } else { unsafe { p.read_unaligned() } }
    }
    #[inline(always)]
    unsafe fn store_first(self, p: *mut f32, n: usize, v: f32) {
        if n > 0 {
            // SAFETY: the caller promises room for `n` numbers.
            unsafe { p.write_unaligned(v) }
        }
    }
    #[inline(always)]
    unsafe fn uload(self, p: *const u32) -> u32 {
        // SAFETY: the caller promises one readable word.
        unsafe { p.read_unaligned() }
    }
    #[inline(always)]
    unsafe fn ustore(self, p: *mut u32, v: u32) {
        // SAFETY: the caller promises room for one word.
        unsafe { p.write_unaligned(v) }
    }
    #[inline(always)]
    fn mask_to_word(self, b: bool) -> u32 {
        if b { u32::MAX } else { 0 }
    }
    #[inline(always)]
    fn word_to_mask(self, u: u32) -> bool {
        u != 0
    }
    #[inline(always)]
    fn iota(self, start: u32) -> u32 {
        start
    }
    #[inline(always)]
    fn sum(self, v: f32) -> f32 {
        v
    }
    #[inline(always)]
    fn max_lane(self, v: f32) -> f32 {
        v
    }
    #[inline(always)]
    fn min_lane(self, v: f32) -> f32 {
        v
    }
    #[inline(always)]
    unsafe fn load_f16(self, p: *const f16) -> f32 {
        // SAFETY: the caller promises one readable number.
        unsafe { p.read_unaligned() }.to_f32()
    }
    #[inline(always)]
    unsafe fn store_f16(self, p: *mut f16, v: f32) {
        // SAFETY: the caller promises room for one number.
        unsafe { p.write_unaligned(f16::from_f32(v)) }
    }
    #[inline(always)]
    unsafe fn load_bf16(self, p: *const bf16) -> f32 {
        // SAFETY: the caller promises one readable number.
        unsafe { p.read_unaligned() }.to_f32()
    }
    #[inline(always)]
    unsafe fn store_bf16(self, p: *mut bf16, v: f32) {
        // SAFETY: the caller promises room for one number.
        unsafe { p.write_unaligned(bf16::from_f32(v)) }
    }
    #[inline(always)]
    fn transpose(self, _square: &mut [f32]) {}
    #[inline(always)]
    unsafe fn load_u8(self, p: *const u8) -> f32 {
        // SAFETY: the caller promises one readable byte.
        self.to_real(u32::from(unsafe { p.read() }))
    }
}
