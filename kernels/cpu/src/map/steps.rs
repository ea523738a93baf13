//! The block interpreter: each step of a tape is one loop of vectors.

use super::tape::Step;
use crate::isa::Kernel;
use crate::simd::Simd;
use starling_ops::program::Op;
use starling_ops::{Key, philox};

/// A block of one value: numbers, indices, or truth values as words of all ones.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Loc {
    /// Its first element.
    pub at: *mut f32,
    /// 1 for a block; 0 for one vector of equal lanes that stands for every element.
    pub step: usize,
}

impl Loc {
    /// No block yet.
    pub const NONE: Self = Self { at: std::ptr::null_mut(), step: 0 };

    /// # Safety
    /// Vector `i` of the block is inside its memory.
    #[inline(always)]
    pub unsafe fn vector<S: Simd>(self, i: usize) -> *mut f32 {
        // SAFETY: the caller's promise.
        unsafe { self.at.add(i * self.step * S::LANES) }
    }
}

impl Step {
    /// The block of argument `k`.
    #[inline(always)]
    fn arg(&self, locs: &[Loc], k: usize) -> Loc {
        locs[usize::from(self.args[k])]
    }
}

/// Runs the steps of a tape over one block.
pub(crate) struct RunSteps<'a> {
    steps: &'a [Step],
    locs: &'a [Loc],
    vectors: usize,
    /// The first element's index, where indices are consecutive.
    index: Option<u32>,
}

impl<'a> RunSteps<'a> {
    /// `vectors` whole vectors of each step; `index` is the first element's index, given where the
    /// elements' indices are consecutive.
    ///
    /// # Safety
    /// By node, `locs` holds the block of every argument and result. A block with step 1 has
    /// `vectors` whole vectors, a run's result `index % 4` elements before it and 5 vectors behind;
    /// a block with step 0 has one vector. Results share no memory with each other's blocks that
    /// are still needed.
    pub unsafe fn new(
        steps: &'a [Step],
        locs: &'a [Loc],
        vectors: usize,
        index: Option<u32>,
    ) -> Self {
        Self { steps, locs, vectors, index }
    }
}

impl Kernel for RunSteps<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for step in self.steps {
            // SAFETY: `new`'s caller promised that every block is long enough.
            unsafe {
                match self.index {
                    Some(index) if step.run => {
                        uniform_run(s, step, self.locs, self.vectors, index);
                    }
                    _ => run_step(s, step, self.locs, self.vectors),
                }
            }
        }
    }
}

/// Reads vector `$i` of a block as numbers, words or truth values.
macro_rules! read {
    (V $s:ident $p:expr) => {
        $s.load($p)
    };
    (U $s:ident $p:expr) => {
        $s.uload($p.cast())
    };
    (B $s:ident $p:expr) => {
        $s.word_to_mask($s.uload($p.cast()))
    };
}

/// Writes vector `$i` of a block.
macro_rules! write {
    (V $s:ident $p:expr, $x:expr) => {
        $s.store($p, $x)
    };
    (U $s:ident $p:expr, $x:expr) => {
        $s.ustore($p.cast(), $x)
    };
    (B $s:ident $p:expr, $x:expr) => {
        $s.ustore($p.cast(), $s.mask_to_word($x))
    };
}

/// One loop of vectors: `each!(.., method: kinds of the arguments -> kind of the result)`, with
/// what follows the arguments after a semicolon.
macro_rules! each {
    ($s:ident, $step:ident, $locs:ident, $n:ident,
        $method:ident: $($kind:ident)+ -> $out:ident $(; $extra:expr)?) => {{
        let dst = $locs[usize::from($step.node)];
        each!(@loop $s $step $locs $n dst $method $out ($($extra)?) $($kind)+)
    }};
    (@loop $s:ident $step:ident $locs:ident $n:ident $dst:ident $method:ident $out:ident
        ($($extra:expr)?) $k0:ident) => {{
        let a = $step.arg($locs, 0);
        for i in 0..$n {
            let a = read!($k0 $s a.vector::<S>(i));
            write!($out $s $dst.vector::<S>(i), $s.$method(a $(, $extra)?));
        }
    }};
    (@loop $s:ident $step:ident $locs:ident $n:ident $dst:ident $method:ident $out:ident
        () $k0:ident $k1:ident) => {{
        let (a, b) = ($step.arg($locs, 0), $step.arg($locs, 1));
        for i in 0..$n {
            let a = read!($k0 $s a.vector::<S>(i));
            let b = read!($k1 $s b.vector::<S>(i));
            write!($out $s $dst.vector::<S>(i), $s.$method(a, b));
        }
    }};
    (@loop $s:ident $step:ident $locs:ident $n:ident $dst:ident $method:ident $out:ident
        () $k0:ident $k1:ident $k2:ident) => {{
        let (a, b) = ($step.arg($locs, 0), $step.arg($locs, 1));
        let c = $step.arg($locs, 2);
        for i in 0..$n {
            let a = read!($k0 $s a.vector::<S>(i));
            let b = read!($k1 $s b.vector::<S>(i));
            let c = read!($k2 $s c.vector::<S>(i));
            write!($out $s $dst.vector::<S>(i), $s.$method(a, b, c));
        }
    }};
}

/// One step over a block: arithmetic of real numbers here, everything else in [`run_other`].
///
/// # Safety
/// As [`RunSteps::new`].
#[inline(always)]
unsafe fn run_step<S: Simd>(s: S, step: &Step, locs: &[Loc], vectors: usize) {
    // SAFETY: the caller promises that every block holds `vectors` vectors.
    unsafe {
        match step.op {
            Op::Add => each!(s, step, locs, vectors, add: V V -> V),
            Op::Sub => each!(s, step, locs, vectors, sub: V V -> V),
            Op::Mul => each!(s, step, locs, vectors, mul: V V -> V),
            Op::Div => each!(s, step, locs, vectors, div: V V -> V),
            Op::Fma => each!(s, step, locs, vectors, fma: V V V -> V),
            Op::MulAdd => each!(s, step, locs, vectors, mul_add: V V V -> V),
            Op::Hold => each!(s, step, locs, vectors, hold: V -> V),
            Op::Neg => each!(s, step, locs, vectors, neg: V -> V),
            Op::Abs => each!(s, step, locs, vectors, abs: V -> V),
            Op::Min => each!(s, step, locs, vectors, min: V V -> V),
            Op::Max => each!(s, step, locs, vectors, max: V V -> V),
            Op::Floor => each!(s, step, locs, vectors, floor: V -> V),
            Op::Round => each!(s, step, locs, vectors, round: V -> V),
            Op::RoundF16 => each!(s, step, locs, vectors, round_f16: V -> V),
            Op::RoundBf16 => each!(s, step, locs, vectors, round_bf16: V -> V),
            Op::Sqrt => each!(s, step, locs, vectors, sqrt: V -> V),
            Op::Rsqrt => each!(s, step, locs, vectors, rsqrt: V -> V),
            Op::Exp => each!(s, step, locs, vectors, exp: V -> V),
            Op::Expm1 => each!(s, step, locs, vectors, expm1: V -> V),
            Op::Log => each!(s, step, locs, vectors, log: V -> V),
            Op::Log1p => each!(s, step, locs, vectors, log1p: V -> V),
            Op::Sin => each!(s, step, locs, vectors, sin: V -> V),
            Op::Cos => each!(s, step, locs, vectors, cos: V -> V),
            Op::Tanh => each!(s, step, locs, vectors, tanh: V -> V),
            Op::Erf => each!(s, step, locs, vectors, erf: V -> V),
            Op::Sigmoid => each!(s, step, locs, vectors, sigmoid: V -> V),
            Op::Softplus => each!(s, step, locs, vectors, softplus: V -> V),
            Op::Pow => each!(s, step, locs, vectors, pow: V V -> V),
            _ => run_other(s, step, locs, vectors),
        }
    }
}

/// Truth values, integers, selections and conversions over a block.
///
/// # Safety
/// As [`RunSteps::new`].
#[inline(always)]
unsafe fn run_other<S: Simd>(s: S, step: &Step, locs: &[Loc], vectors: usize) {
    // SAFETY: the caller promises that every block holds `vectors` vectors.
    unsafe {
        match step.op {
            Op::Lt => each!(s, step, locs, vectors, lt: V V -> B),
            Op::Le => each!(s, step, locs, vectors, le: V V -> B),
            Op::Eq => each!(s, step, locs, vectors, eq: V V -> B),
            Op::And => each!(s, step, locs, vectors, and: B B -> B),
            Op::Or => each!(s, step, locs, vectors, or: B B -> B),
            Op::Not => each!(s, step, locs, vectors, not: B -> B),
            Op::Select => each!(s, step, locs, vectors, select: B V V -> V),
            Op::UAdd => each!(s, step, locs, vectors, uadd: U U -> U),
            Op::USub => each!(s, step, locs, vectors, usub: U U -> U),
            Op::UMul => each!(s, step, locs, vectors, umul: U U -> U),
            Op::UMulHi => each!(s, step, locs, vectors, umulhi: U U -> U),
            Op::UAnd => each!(s, step, locs, vectors, uand: U U -> U),
            Op::UOr => each!(s, step, locs, vectors, uor: U U -> U),
            Op::UXor => each!(s, step, locs, vectors, uxor: U U -> U),
            Op::UShl(n) => each!(s, step, locs, vectors, ushl: U -> U; n.into()),
            Op::UShr(n) => each!(s, step, locs, vectors, ushr: U -> U; n.into()),
            Op::UEq => each!(s, step, locs, vectors, ueq: U U -> B),
            Op::USelect => each!(s, step, locs, vectors, uselect: B U U -> U),
            Op::ToReal => each!(s, step, locs, vectors, to_real: U -> V),
            Op::ToUint => each!(s, step, locs, vectors, to_uint: V -> U),
            Op::Bits => each!(s, step, locs, vectors, bits: V -> U),
            Op::FromBits => each!(s, step, locs, vectors, from_bits: U -> V),
            Op::Uniform => {
                let (from, dst) = (step.arg(locs, 0), locs[usize::from(step.node)]);
                for i in 0..vectors {
                    let index = s.uload(from.vector::<S>(i).cast());
                    let u = s.uniform(index, key(s, step, locs, i));
                    s.store(dst.vector::<S>(i), u);
                }
            }
            // Leaves have blocks of their own.
            Op::Input(_)
            | Op::Param(_)
            | Op::ParamWord(_)
            | Op::Imm(_)
            | Op::Const(_)
            | Op::ConstWord(_)
            | Op::Index => {}
            // Done by `run_step`; listed so that a new operation does not compile without a loop.
            #[rustfmt::skip]
            Op::Add | Op::Sub | Op::Mul | Op::Div | Op::Fma | Op::MulAdd | Op::Hold | Op::Neg
            | Op::Abs | Op::Min | Op::Max | Op::Floor | Op::Round | Op::RoundF16 | Op::RoundBf16
            | Op::Sqrt | Op::Rsqrt
            | Op::Exp | Op::Expm1 | Op::Log | Op::Log1p | Op::Sin | Op::Cos | Op::Tanh | Op::Erf
            | Op::Sigmoid | Op::Softplus | Op::Pow => {}
        }
    }
}

/// The key of a [`Op::Uniform`] for vector `i`.
///
/// # Safety
/// As [`RunSteps::new`].
#[inline(always)]
unsafe fn key<S: Simd>(s: S, step: &Step, locs: &[Loc], i: usize) -> Key<S::U> {
    let word = |k: usize| step.arg(locs, k);
    // SAFETY: the caller's promise.
    unsafe {
        Key {
            seed_lo: s.uload(word(1).vector::<S>(i).cast()),
            seed_hi: s.uload(word(2).vector::<S>(i).cast()),
            instance: s.uload(word(3).vector::<S>(i).cast()),
            step: s.uload(word(4).vector::<S>(i).cast()),
            node: s.uload(word(5).vector::<S>(i).cast()),
        }
    }
}

/// [`uniforms`] of a step. The result lies `index % 4` elements before the step's block, where
/// whole Philox blocks start.
///
/// # Safety
/// As [`RunSteps::new`].
#[inline(always)]
unsafe fn uniform_run<S: Simd>(s: S, step: &Step, locs: &[Loc], vectors: usize, index: u32) {
    // SAFETY: the caller promises the elements before the block and the 5 vectors behind it.
    unsafe {
        let out = locs[usize::from(step.node)].at.sub((index % 4) as usize);
        uniforms(s, key(s, step, locs, 0), index, vectors * S::LANES, out);
    }
}

/// Uniform numbers of `n` elements from element `index` on: `LANES` Philox blocks at once give
/// `4 * LANES` of them, bit-equal to [`starling_ops::Math::uniform`] of each. They begin with whole
/// Philox blocks: element `index` is `out[index % 4]`.
///
/// # Safety
/// `out` is writable for `index % 4 + n` numbers, rounded up to whole fours, and `4 * LANES` more.
#[inline(always)]
pub(crate) unsafe fn uniforms<S: Simd>(
    s: S,
    key: Key<S::U>,
    index: u32,
    n: usize,
    mut out: *mut f32,
) {
    let quads = ((index % 4) as usize + n).div_ceil(4);
    // SAFETY: the caller promises room; at most `4 * LANES` are written past `quads * 4`.
    unsafe {
        let mut quad = 0;
        while quad < quads {
            let words = philox::quad(s, s.iota((index / 4).wrapping_add(quad as u32)), key);
            let mut rows = [0.0f32; 4 * 16];
            for (k, word) in words.into_iter().enumerate() {
                let row = rows.as_mut_ptr().add(k * S::LANES);
                s.store(row, philox::word_to_uniform(s, word));
            }
            for lane in 0..S::LANES {
                for k in 0..4 {
                    *out.add(4 * lane + k) = rows[k * S::LANES + lane];
                }
            }
            out = out.add(4 * S::LANES);
            quad += S::LANES;
        }
    }
}
