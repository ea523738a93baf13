//! Vector registers behind one small trait, one file per instruction set.

use starling_ops::Math;

/// Methods that are sound because the token exists. Those marked `unsafe` rely on their caller's
/// promise about the pointer as well.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
macro_rules! methods {
    () => {};
    (
        fn $name:ident($self:ident $(, $arg:ident: $t:ty)*) $(-> $r:ty)? $body:block
        $($rest:tt)*
    ) => {
        #[inline(always)]
        #[allow(unused_unsafe, reason = "which intrinsics are unsafe depends on the target")]
        fn $name($self $(, $arg: $t)*) $(-> $r)? {
            // SAFETY: the token exists, so `detect` found the features that the body uses.
            unsafe { $body }
        }
        methods! { $($rest)* }
    };
    (
        unsafe fn $name:ident($self:ident $(, $arg:ident: $t:ty)*) $(-> $r:ty)? $body:block
        $($rest:tt)*
    ) => {
        #[inline(always)]
        unsafe fn $name($self $(, $arg: $t)*) $(-> $r)? {
            // SAFETY: the token exists, so `detect` found the features that the body uses; the
            // caller promises that the pointer is good for what is read or written.
            unsafe { $body }
        }
        methods! { $($rest)* }
    };
}

/// What is the same for every vector register.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
macro_rules! shared {
    () => {
        #[inline(always)]
        fn gt(self, a: Self::V, b: Self::V) -> Self::B {
            self.lt(b, a)
        }
        #[inline(always)]
        fn ge(self, a: Self::V, b: Self::V) -> Self::B {
            self.le(b, a)
        }
        #[inline(always)]
        fn uniform(self, index: Self::U, key: starling_ops::Key<Self::U>) -> Self::V {
            starling_ops::philox::uniform(self, index, key)
        }
        starling_ops::poly::transcendentals!();
    };
}

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "aarch64")]
mod neon;
mod scalar;

#[cfg(target_arch = "x86_64")]
pub use avx2::Avx2;
#[cfg(target_arch = "x86_64")]
pub use avx512::Avx512;
#[cfg(target_arch = "aarch64")]
pub use neon::Neon;

/// The token of an instruction set of another architecture: it has no values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Absent {}

impl Absent {
    /// Always `None`.
    pub fn detect() -> Option<Self> {
        None
    }
}

/// Not on this architecture.
#[cfg(not(target_arch = "x86_64"))]
pub type Avx2 = Absent;
/// Not on this architecture.
#[cfg(not(target_arch = "x86_64"))]
pub type Avx512 = Absent;
/// Not on this architecture.
#[cfg(not(target_arch = "aarch64"))]
pub type Neon = Absent;

/// A token that proves that the machine has an instruction set; [`Math`] over its f32 lanes.
///
/// A token can only be made by its `detect`, which is what makes its methods sound to call. The
/// methods must be inlined into a function compiled with the token's features: write kernels as
/// [`Kernel`]s with `#[inline(always)]` bodies and start them through [`Isa::run`].
///
/// [`Kernel`]: crate::isa::Kernel
/// [`Isa::run`]: crate::isa::Isa::run
pub trait Simd: Math + Send + Sync + 'static {
    /// f32 lanes of one register.
    const LANES: usize;

    /// Reads `LANES` numbers.
    ///
    /// # Safety
    /// `p .. p + LANES` is readable; no alignment is needed.
    unsafe fn load(self, p: *const f32) -> Self::V;
    /// Writes `LANES` numbers.
    ///
    /// # Safety
    /// `p .. p + LANES` is writable; no alignment is needed.
    unsafe fn store(self, p: *mut f32, v: Self::V);
    /// Reads `n <= LANES` numbers; the other lanes are 0.
    ///
    /// # Safety
    /// `p .. p + n` is readable.
    unsafe fn load_first(self, p: *const f32, n: usize) -> Self::V;
    /// Writes the first `n <= LANES` numbers.
    ///
    /// # Safety
    /// `p .. p + n` is writable.
    unsafe fn store_first(self, p: *mut f32, n: usize, v: Self::V);
    /// Reads `LANES` words.
    ///
    /// # Safety
    /// `p .. p + LANES` is readable; no alignment is needed.
    unsafe fn uload(self, p: *const u32) -> Self::U;
    /// Writes `LANES` words.
    ///
    /// # Safety
    /// `p .. p + LANES` is writable; no alignment is needed.
    unsafe fn ustore(self, p: *mut u32, v: Self::U);
    /// All ones where the truth value holds, else 0.
    fn mask_to_word(self, b: Self::B) -> Self::U;
    /// True where the word is not 0.
    fn word_to_mask(self, u: Self::U) -> Self::B;
    /// `start, start + 1, ...` by lane.
    fn iota(self, start: u32) -> Self::U;
    /// The sum of the lanes, always added in the same order: halves folded onto each other.
    fn sum(self, v: Self::V) -> f32;
    /// The largest lane; NaN when one is NaN.
    fn max_lane(self, v: Self::V) -> f32;
    /// The smallest lane; NaN when one is NaN.
    fn min_lane(self, v: Self::V) -> f32;
    /// Reads `LANES` half-precision numbers, exactly.
    ///
    /// # Safety
    /// `p .. p + LANES` is readable; no alignment is needed.
    unsafe fn load_f16(self, p: *const half::f16) -> Self::V;
    /// Writes `LANES` half-precision numbers, rounded to nearest, halves to even.
    ///
    /// # Safety
    /// `p .. p + LANES` is writable; no alignment is needed.
    unsafe fn store_f16(self, p: *mut half::f16, v: Self::V);
    /// Reads `LANES` bfloat16 numbers, exactly.
    ///
    /// # Safety
    /// `p .. p + LANES` is readable; no alignment is needed.
    unsafe fn load_bf16(self, p: *const half::bf16) -> Self::V;
    /// Writes `LANES` bfloat16 numbers, rounded to nearest, halves to even; NaN stays NaN.
    ///
    /// # Safety
    /// `p .. p + LANES` is writable; no alignment is needed.
    unsafe fn store_bf16(self, p: *mut half::bf16, v: Self::V);
    /// Transposes a square of `LANES` registers in place: lane `j` of register `i` and lane `i` of
    /// register `j` change places.
    fn transpose(self, square: &mut [Self::V]);
    /// Reads `LANES` bytes as numbers.
    ///
    /// # Safety
    /// `p .. p + LANES` is readable.
    unsafe fn load_u8(self, p: *const u8) -> Self::V;
}

/// The bfloat16 bits of `v` in the low half of a word: rounded to nearest, halves to even. The
/// sum would carry some NaNs into infinity, so NaN is made quiet instead.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
#[inline(always)]
fn bf16_bits<S: Simd>(s: S, v: S::V) -> S::U {
    let word = s.bits(v);
    let odd = s.uand(s.ushr(word, 16), s.ulit(1));
    let rounded = s.uadd(s.uadd(word, s.ulit(0x7fff)), odd);
    let word = s.uselect(s.eq(v, v), rounded, s.uor(word, s.ulit(0x0040_0000)));
    s.ushr(word, 16)
}
