//! Arithmetic that folds constants as programs do.

use starling_ops::{Key, Math, Scalar};
use std::cell::{Cell, RefCell};

/// A constant that is still an f64, an immediate, or a value of the target.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Folded<V> {
    /// A constant, not rounded yet.
    Lit(f64),
    /// A number that a user passed, or what was made of some and constants alone.
    Imm(f64),
    /// Anything else.
    Value(V),
}

/// What arithmetic of immediates and constants alone yields.
pub(crate) trait Host: Copy {
    /// The next such result; `compute` is its value while the operands are not rounded yet.
    fn made(self, compute: impl FnOnce() -> f64) -> f64;
}

/// Computes each result in f64 and writes it down: how a program's immediates come about.
#[derive(Clone, Copy)]
pub(crate) struct Record<'a>(pub &'a RefCell<Vec<f64>>);

impl Host for Record<'_> {
    fn made(self, compute: impl FnOnce() -> f64) -> f64 {
        let made = compute();
        self.0.borrow_mut().push(made);
        made
    }
}

/// Reads what came with the verb: the results in the order in which [`Record`] found them.
#[derive(Clone, Copy)]
pub(crate) struct Replay<'a> {
    /// The results.
    pub made: &'a [f64],
    /// The next one.
    pub next: &'a Cell<usize>,
}

impl Host for Replay<'_> {
    #[inline(always)]
    fn made(self, _: impl FnOnce() -> f64) -> f64 {
        let at = self.next.get();
        self.next.set(at + 1);
        self.made[at]
    }
}

/// Evaluates a definition over `M` with the arithmetic of constants done in f64 and rounded once,
/// and that of immediates taken from the verb, as [`starling_ops::program::Builder`] folds them: so
/// a monomorphised kernel has the same bits as the interpreted program. Which operands are what is
/// known when it is compiled.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fold<M, H>(pub M, pub H);

impl<M: Math, H: Host> Fold<M, H> {
    /// The value over the target.
    #[inline(always)]
    pub fn value(self, x: Folded<M::V>) -> M::V {
        match x {
            Folded::Lit(x) | Folded::Imm(x) => self.0.lit(x),
            Folded::Value(v) => v,
        }
    }
}

/// Methods whose arguments and result are real numbers.
macro_rules! folded {
    ($($name:ident($($x:ident),*);)*) => {$(
        #[inline(always)]
        #[allow(unreachable_patterns, reason = "a single operand that is a constant came before")]
        fn $name(self, $($x: Self::V),*) -> Self::V {
            match ($($x,)*) {
                ($(Folded::Lit($x),)*) => Folded::Lit(Scalar::<f64>::NEW.$name($($x),*)),
                ($(Folded::Lit($x) | Folded::Imm($x),)*) => {
                    Folded::Imm(self.1.made(|| Scalar::<f64>::NEW.$name($($x),*)))
                }
                ($($x,)*) => Folded::Value(self.0.$name($(self.value($x)),*)),
            }
        }
    )*};
}

/// Methods that hand over to the target.
macro_rules! forwarded {
    ($($name:ident($($x:ident: $t:ty),*) -> $r:ty;)*) => {$(
        #[inline(always)]
        fn $name(self, $($x: $t),*) -> $r {
            self.0.$name($($x),*)
        }
    )*};
}

/// True for the constant `x`.
#[inline(always)]
fn is<V>(a: Folded<V>, x: f64) -> bool {
    matches!(a, Folded::Lit(l) if l == x)
}

impl<M: Math, H: Host> Math for Fold<M, H> {
    type V = Folded<M::V>;
    type B = M::B;
    type U = M::U;

    #[inline(always)]
    fn lit(self, x: f64) -> Self::V {
        Folded::Lit(x)
    }
    folded! {
        add(a, b); sub(a, b); div(a, b); fma(a, b, c); mul_add(a, b, c); hold(a); neg(a); abs(a);
        min(a, b); max(a, b); floor(a); round(a); round_f16(a);
        round_bf16(a); sqrt(a); rsqrt(a); exp(a); expm1(a); log(a);
        log1p(a); sin(a); cos(a); tanh(a); erf(a); sigmoid(a); softplus(a); pow(a, b);
    }
    #[inline(always)]
    fn mul(self, a: Self::V, b: Self::V) -> Self::V {
        match (a, b) {
            (Folded::Lit(a), Folded::Lit(b)) => Folded::Lit(a * b),
            _ if is(a, 1.0) => b,
            _ if is(b, 1.0) => a,
            _ if is(a, -1.0) => self.neg(b),
            _ if is(b, -1.0) => self.neg(a),
            (Folded::Lit(a) | Folded::Imm(a), Folded::Lit(b) | Folded::Imm(b)) => {
                Folded::Imm(self.1.made(|| a * b))
            }
            _ => Folded::Value(self.0.mul(self.value(a), self.value(b))),
        }
    }
    #[inline(always)]
    fn select(self, c: M::B, a: Self::V, b: Self::V) -> Self::V {
        match (a, b) {
            (Folded::Lit(x), Folded::Lit(y)) if x.to_bits() == y.to_bits() => a,
            _ => Folded::Value(self.0.select(c, self.value(a), self.value(b))),
        }
    }
    #[inline(always)]
    fn lt(self, a: Self::V, b: Self::V) -> M::B {
        self.0.lt(self.value(a), self.value(b))
    }
    #[inline(always)]
    fn le(self, a: Self::V, b: Self::V) -> M::B {
        self.0.le(self.value(a), self.value(b))
    }
    #[inline(always)]
    fn eq(self, a: Self::V, b: Self::V) -> M::B {
        self.0.eq(self.value(a), self.value(b))
    }
    forwarded! {
        and(a: M::B, b: M::B) -> M::B;
        or(a: M::B, b: M::B) -> M::B;
        not(a: M::B) -> M::B;
        ulit(x: u32) -> M::U;
        uadd(a: M::U, b: M::U) -> M::U;
        usub(a: M::U, b: M::U) -> M::U;
        umul(a: M::U, b: M::U) -> M::U;
        umulhi(a: M::U, b: M::U) -> M::U;
        uand(a: M::U, b: M::U) -> M::U;
        uor(a: M::U, b: M::U) -> M::U;
        uxor(a: M::U, b: M::U) -> M::U;
        ushl(a: M::U, n: u32) -> M::U;
        ushr(a: M::U, n: u32) -> M::U;
        ueq(a: M::U, b: M::U) -> M::B;
        uselect(c: M::B, a: M::U, b: M::U) -> M::U;
    }
    #[inline(always)]
    fn to_real(self, a: M::U) -> Self::V {
        Folded::Value(self.0.to_real(a))
    }
    #[inline(always)]
    fn to_uint(self, a: Self::V) -> M::U {
        self.0.to_uint(self.value(a))
    }
    #[inline(always)]
    fn bits(self, a: Self::V) -> M::U {
        self.0.bits(self.value(a))
    }
    #[inline(always)]
    fn from_bits(self, a: M::U) -> Self::V {
        Folded::Value(self.0.from_bits(a))
    }
    #[inline(always)]
    fn uniform(self, index: M::U, key: Key<M::U>) -> Self::V {
        Folded::Value(self.0.uniform(index, key))
    }
}
