//! Evaluating a definition into a [`Program`](crate::Program).

use crate::math::{Key, Math};
use crate::program::{Builder, NodeId, Op};
use std::cell::RefCell;

/// Records what a definition does as nodes of a [`Builder`].
#[derive(Clone, Copy, Debug)]
pub struct Trace<'a>(pub &'a RefCell<Builder>);

/// A node that yields a real number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Real(pub NodeId);
/// A node that yields a truth value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mask(pub NodeId);
/// A node that yields an integer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Word(pub NodeId);

impl Trace<'_> {
    fn put(self, op: Op, args: &[NodeId]) -> NodeId {
        self.0.borrow_mut().put(op, args)
    }

    /// Input `i`.
    pub fn input(self, i: usize) -> Real {
        Real(self.put(Op::Input(i as u16), &[]))
    }

    /// Parameter `i` as a real number.
    pub fn param(self, i: usize) -> Real {
        Real(self.put(Op::Param(i as u16), &[]))
    }

    /// Parameter `i` as an integer.
    pub fn param_word(self, i: usize) -> Word {
        Word(self.put(Op::ParamWord(i as u16), &[]))
    }

    /// A number that is no part of the program; see [`Builder::immediate`].
    pub fn immediate(self, x: f64) -> Real {
        Real(self.0.borrow_mut().immediate(x))
    }

    /// The element's index.
    pub fn index(self) -> Word {
        Word(self.put(Op::Index, &[]))
    }
}

/// One method a line: `method Node: argument types -> result type`.
macro_rules! nodes {
    ($($method:ident $op:ident($($arg:ident: $ty:ident),*) -> $out:ident;)*) => {
        $(fn $method(self, $($arg: $ty),*) -> $out {
            $out(self.put(Op::$op, &[$($arg.0),*]))
        })*
    };
}

impl Math for Trace<'_> {
    type V = Real;
    type B = Mask;
    type U = Word;

    fn lit(self, x: f64) -> Real {
        Real(self.0.borrow_mut().constant(x))
    }
    fn ulit(self, x: u32) -> Word {
        Word(self.put(Op::ConstWord(x), &[]))
    }
    fn ushl(self, a: Word, n: u32) -> Word {
        Word(self.put(Op::UShl(n as u8), &[a.0]))
    }
    fn ushr(self, a: Word, n: u32) -> Word {
        Word(self.put(Op::UShr(n as u8), &[a.0]))
    }
    fn uniform(self, i: Word, k: Key<Word>) -> Real {
        let args = [i, k.seed_lo, k.seed_hi, k.instance, k.step, k.node].map(|w| w.0);
        Real(self.put(Op::Uniform, &args))
    }
    nodes! {
        add Add(a: Real, b: Real) -> Real;
        sub Sub(a: Real, b: Real) -> Real;
        mul Mul(a: Real, b: Real) -> Real;
        div Div(a: Real, b: Real) -> Real;
        fma Fma(a: Real, b: Real, c: Real) -> Real;
        mul_add MulAdd(a: Real, b: Real, c: Real) -> Real;
        hold Hold(a: Real) -> Real;
        neg Neg(a: Real) -> Real;
        abs Abs(a: Real) -> Real;
        min Min(a: Real, b: Real) -> Real;
        max Max(a: Real, b: Real) -> Real;
        floor Floor(a: Real) -> Real;
        round Round(a: Real) -> Real;
        round_f16 RoundF16(a: Real) -> Real;
        round_bf16 RoundBf16(a: Real) -> Real;
        sqrt Sqrt(a: Real) -> Real;
        rsqrt Rsqrt(a: Real) -> Real;
        exp Exp(a: Real) -> Real;
        expm1 Expm1(a: Real) -> Real;
        log Log(a: Real) -> Real;
        log1p Log1p(a: Real) -> Real;
        sin Sin(a: Real) -> Real;
        cos Cos(a: Real) -> Real;
        tanh Tanh(a: Real) -> Real;
        erf Erf(a: Real) -> Real;
        sigmoid Sigmoid(a: Real) -> Real;
        softplus Softplus(a: Real) -> Real;
        pow Pow(a: Real, b: Real) -> Real;
        lt Lt(a: Real, b: Real) -> Mask;
        le Le(a: Real, b: Real) -> Mask;
        eq Eq(a: Real, b: Real) -> Mask;
        and And(a: Mask, b: Mask) -> Mask;
        or Or(a: Mask, b: Mask) -> Mask;
        not Not(a: Mask) -> Mask;
        select Select(c: Mask, a: Real, b: Real) -> Real;
        uadd UAdd(a: Word, b: Word) -> Word;
        usub USub(a: Word, b: Word) -> Word;
        umul UMul(a: Word, b: Word) -> Word;
        umulhi UMulHi(a: Word, b: Word) -> Word;
        uand UAnd(a: Word, b: Word) -> Word;
        uor UOr(a: Word, b: Word) -> Word;
        uxor UXor(a: Word, b: Word) -> Word;
        ueq UEq(a: Word, b: Word) -> Mask;
        uselect USelect(c: Mask, a: Word, b: Word) -> Word;
        to_real ToReal(a: Word) -> Real;
        to_uint ToUint(a: Real) -> Word;
        bits Bits(a: Real) -> Word;
        from_bits FromBits(a: Word) -> Real;
    }
}
