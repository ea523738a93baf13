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

/// One step over a block.
///
/// # Safety
/// As [`RunSteps::new`].
#[inline(always)]
unsafe fn run_step<S: Simd>(s: S, step: &Step, locs: &[Loc], vectors: usize) {
    let arg = |k: usize| locs[usize::from(step.args[k])];
    let dst = locs[usize::from(step.node)];
    /// `each!(method: kinds of the arguments -> kind of the result; trailing arguments)`
    macro_rules! each {
        ($method:ident: $k0:ident -> $out:ident $(; $extra:expr)?) => {{
            let a = arg(0);
            for i in 0..vectors {
                let a = read!($k0 s a.vector::<S>(i));
                write!($out s dst.vector::<S>(i), s.$method(a $(, $extra)?));
            }
        }};
        ($method:ident: $k0:ident $k1:ident -> $out:ident) => {{
            let (a, b) = (arg(0), arg(1));
            for i in 0..vectors {
                let a = read!($k0 s a.vector::<S>(i));
                let b = read!($k1 s b.vector::<S>(i));
                write!($out s dst.vector::<S>(i), s.$method(a, b));
            }
        }};
        ($method:ident: $k0:ident $k1:ident $k2:ident -> $out:ident) => {{
            let (a, b, c) = (arg(0), arg(1), arg(2));
            for i in 0..vectors {
                let a = read!($k0 s a.vector::<S>(i));
                let b = read!($k1 s b.vector::<S>(i));
                let c = read!($k2 s c.vector::<S>(i));
                write!($out s dst.vector::<S>(i), s.$method(a, b, c));
            }
        }};
    }
    // SAFETY: the caller promises that every block holds `vectors` vectors.
    unsafe {
        match step.op {
            Op::Add => each!(add: V V -> V),
            Op::Sub => each!(sub: V V -> V),
            Op::Mul => each!(mul: V V -> V),
            Op::Div => each!(div: V V -> V),
            Op::Fma => each!(fma: V V V -> V),
            Op::Neg => each!(neg: V -> V),
            Op::Abs => each!(abs: V -> V),
            Op::Min => each!(min: V V -> V),
            Op::Max => each!(max: V V -> V),
            Op::Floor => each!(floor: V -> V),
            Op::Round => each!(round: V -> V),
            Op::Sqrt => each!(sqrt: V -> V),
            Op::Rsqrt => each!(rsqrt: V -> V),
            Op::Exp => each!(exp: V -> V),
            Op::Expm1 => each!(expm1: V -> V),
            Op::Log => each!(log: V -> V),
            Op::Log1p => each!(log1p: V -> V),
            Op::Sin => each!(sin: V -> V),
            Op::Cos => each!(cos: V -> V),
            Op::Tanh => each!(tanh: V -> V),
            Op::Erf => each!(erf: V -> V),
            Op::Sigmoid => each!(sigmoid: V -> V),
            Op::Softplus => each!(softplus: V -> V),
            Op::Pow => each!(pow: V V -> V),
            Op::Lt => each!(lt: V V -> B),
            Op::Le => each!(le: V V -> B),
            Op::Eq => each!(eq: V V -> B),
            Op::And => each!(and: B B -> B),
            Op::Or => each!(or: B B -> B),
            Op::Not => each!(not: B -> B),
            Op::Select => each!(select: B V V -> V),
            Op::UAdd => each!(uadd: U U -> U),
            Op::USub => each!(usub: U U -> U),
            Op::UMul => each!(umul: U U -> U),
            Op::UMulHi => each!(umulhi: U U -> U),
            Op::UAnd => each!(uand: U U -> U),
            Op::UOr => each!(uor: U U -> U),
            Op::UXor => each!(uxor: U U -> U),
            Op::UShl(n) => each!(ushl: U -> U; n.into()),
            Op::UShr(n) => each!(ushr: U -> U; n.into()),
            Op::UEq => each!(ueq: U U -> B),
            Op::USelect => each!(uselect: B U U -> U),
            Op::ToReal => each!(to_real: U -> V),
            Op::ToUint => each!(to_uint: V -> U),
            Op::Bits => each!(bits: V -> U),
            Op::FromBits => each!(from_bits: U -> V),
            Op::Uniform => {
                for i in 0..vectors {
                    let index = s.uload(arg(0).vector::<S>(i).cast());
                    let u = s.uniform(index, key(s, step, locs, i));
                    s.store(dst.vector::<S>(i), u);
                }
            }
            // Leaves have blocks of their own and are no steps.
            Op::Input(_)
            | Op::Param(_)
            | Op::ParamWord(_)
            | Op::Const(_)
            | Op::ConstWord(_)
            | Op::Index => {}
        }
    }
}

/// The key of a [`Op::Uniform`] for vector `i`.
///
/// # Safety
/// As [`RunSteps::new`].
#[inline(always)]
unsafe fn key<S: Simd>(s: S, step: &Step, locs: &[Loc], i: usize) -> Key<S::U> {
    let word = |k: usize| locs[usize::from(step.args[k])];
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

/// Uniform numbers of consecutive elements: `LANES` Philox blocks at once give `4 * LANES` of them,
/// bit-equal to [`starling_ops::Math::uniform`] of each.
///
/// The result lies `index % 4` elements before the step's block, where whole Philox blocks start.
///
/// # Safety
/// As [`RunSteps::new`].
#[inline(always)]
unsafe fn uniform_run<S: Simd>(s: S, step: &Step, locs: &[Loc], vectors: usize, index: u32) {
    let skipped = (index % 4) as usize;
    let quads = (skipped + vectors * S::LANES).div_ceil(4);
    // SAFETY: the caller promises the elements before the block and the 5 vectors behind it: at
    // most `4 * LANES` are written past `quads * 4`, less what was skipped.
    unsafe {
        let key = key(s, step, locs, 0);
        let mut out = locs[usize::from(step.node)].at.sub(skipped);
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
