//! Forward-mode derivatives over any target. No backward formula is written by hand.
#![allow(
    clippy::manual_map,
    reason = "a closure would be a function of its own, compiled without the vector features"
)]

use crate::math::{Key, Math};

/// Evaluates a definition together with its derivative along one direction, over the target `M`.
#[derive(Clone, Copy, Debug)]
pub struct Dual<M>(pub M);

/// A value and its derivative. `None` is the structural zero: an operand that does not depend on
/// the direction costs nothing, and never turns an infinite partial derivative into NaN.
#[derive(Clone, Copy, Debug)]
pub struct Tangent<V> {
    /// The value.
    pub v: V,
    /// The derivative.
    pub d: Option<V>,
}

impl<M: Math> Dual<M> {
    /// A value that does not move.
    #[inline(always)]
    pub fn constant(v: M::V) -> Tangent<M::V> {
        Tangent { v, d: None }
    }

    /// The variable that the derivative is taken by.
    #[inline(always)]
    pub fn variable(self, v: M::V) -> Tangent<M::V> {
        Tangent { v, d: Some(self.0.lit(1.0)) }
    }

    /// The derivative as a number.
    #[inline(always)]
    pub fn derivative(self, t: Tangent<M::V>) -> M::V {
        match t.d {
            Some(d) => d,
            None => self.0.lit(0.0),
        }
    }

    #[inline(always)]
    fn plus(self, a: Option<M::V>, b: Option<M::V>) -> Option<M::V> {
        match (a, b) {
            (Some(a), Some(b)) => Some(self.0.add(a, b)),
            (a, b) => a.or(b),
        }
    }

    /// `a * b`
    #[inline(always)]
    fn scaled(self, a: Option<M::V>, b: M::V) -> Option<M::V> {
        match a {
            Some(a) => Some(self.0.mul(a, b)),
            None => None,
        }
    }

    /// The chain rule: `slope` is `f'(a)`, asked for only when `a` moves.
    #[inline(always)]
    fn chain(self, v: M::V, d: Option<M::V>, slope: impl FnOnce(M) -> M::V) -> Tangent<M::V> {
        let d = match d {
            Some(d) => Some(self.0.mul(d, slope(self.0))),
            None => None,
        };
        Tangent { v, d }
    }

    /// Half of each tangent on a tie, else the tangent of the argument that `first` names.
    #[inline(always)]
    fn extremum(self, v: M::V, a: Tangent<M::V>, b: Tangent<M::V>, first: M::B) -> Tangent<M::V> {
        let m = self.0;
        if a.d.is_none() && b.d.is_none() {
            return Tangent { v, d: None };
        }
        let (da, db) = (self.derivative(a), self.derivative(b));
        let half = m.mul(m.add(da, db), m.lit(0.5));
        let d = m.select(m.eq(a.v, b.v), half, m.select(first, da, db));
        Tangent { v, d: Some(d) }
    }
}

impl<M: Math> Math for Dual<M> {
    type V = Tangent<M::V>;
    type B = M::B;
    type U = M::U;

    #[inline(always)]
    fn lit(self, x: f64) -> Self::V {
        Self::constant(self.0.lit(x))
    }
    #[inline(always)]
    fn add(self, a: Self::V, b: Self::V) -> Self::V {
        Tangent { v: self.0.add(a.v, b.v), d: self.plus(a.d, b.d) }
    }
    #[inline(always)]
    fn sub(self, a: Self::V, b: Self::V) -> Self::V {
        let m = self.0;
        let d = match (a.d, b.d) {
            (Some(a), Some(b)) => Some(m.sub(a, b)),
            (None, Some(b)) => Some(m.neg(b)),
            (a, None) => a,
        };
        Tangent { v: m.sub(a.v, b.v), d }
    }
    #[inline(always)]
    fn mul(self, a: Self::V, b: Self::V) -> Self::V {
        let m = self.0;
        let d = match (a.d, b.d) {
            (Some(da), Some(db)) => Some(m.mul_add(a.v, db, m.mul(da, b.v))),
            (Some(da), None) => Some(m.mul(da, b.v)),
            (None, Some(db)) => Some(m.mul(a.v, db)),
            (None, None) => None,
        };
        Tangent { v: m.mul(a.v, b.v), d }
    }
    #[inline(always)]
    fn div(self, a: Self::V, b: Self::V) -> Self::V {
        let m = self.0;
        let q = m.div(a.v, b.v);
        let d = match (a.d, b.d) {
            (Some(da), Some(db)) => Some(m.div(m.sub(da, m.mul(q, db)), b.v)),
            (Some(da), None) => Some(m.div(da, b.v)),
            (None, Some(db)) => Some(m.neg(m.div(m.mul(q, db), b.v))),
            (None, None) => None,
        };
        Tangent { v: q, d }
    }
    #[inline(always)]
    fn fma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        let m = self.0;
        let product = self.plus(self.scaled(a.d, b.v), self.scaled(b.d, a.v));
        Tangent { v: m.fma(a.v, b.v, c.v), d: self.plus(product, c.d) }
    }
    #[inline(always)]
    fn mul_add(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        let v = self.0.mul_add(a.v, b.v, c.v);
        Tangent { v, ..self.fma(a, b, c) }
    }
    #[inline(always)]
    fn hold(self, a: Self::V) -> Self::V {
        Tangent { v: self.0.hold(a.v), d: a.d }
    }
    #[inline(always)]
    fn neg(self, a: Self::V) -> Self::V {
        let d = match a.d {
            Some(d) => Some(self.0.neg(d)),
            None => None,
        };
        Tangent { v: self.0.neg(a.v), d }
    }
    /// The slope at 0 is 0 and at NaN is NaN.
    #[inline(always)]
    fn abs(self, a: Self::V) -> Self::V {
        self.chain(self.0.abs(a.v), a.d, |m| {
            let zero = m.lit(0.0);
            let rest = m.mul(a.v, zero);
            m.select(m.lt(a.v, zero), m.lit(-1.0), m.select(m.gt(a.v, zero), m.lit(1.0), rest))
        })
    }
    #[inline(always)]
    fn min(self, a: Self::V, b: Self::V) -> Self::V {
        self.extremum(self.0.min(a.v, b.v), a, b, self.0.lt(a.v, b.v))
    }
    #[inline(always)]
    fn max(self, a: Self::V, b: Self::V) -> Self::V {
        self.extremum(self.0.max(a.v, b.v), a, b, self.0.gt(a.v, b.v))
    }
    /// floor' is 0 everywhere, as in PyTorch.
    #[inline(always)]
    fn floor(self, a: Self::V) -> Self::V {
        Self::constant(self.0.floor(a.v))
    }
    /// round' is 0 everywhere, as in PyTorch.
    #[inline(always)]
    fn round(self, a: Self::V) -> Self::V {
        Self::constant(self.0.round(a.v))
    }
    /// What is stored in a narrower type moves with the value that it stands for.
    #[inline(always)]
    fn round_f16(self, a: Self::V) -> Self::V {
        Tangent { v: self.0.round_f16(a.v), d: a.d }
    }
    #[inline(always)]
    fn round_bf16(self, a: Self::V) -> Self::V {
        Tangent { v: self.0.round_bf16(a.v), d: a.d }
    }
    #[inline(always)]
    fn sqrt(self, a: Self::V) -> Self::V {
        let s = self.0.sqrt(a.v);
        self.chain(s, a.d, |m| m.div(m.lit(0.5), s))
    }
    /// `-1/2 * (r / a)` with `r = 1 / sqrt(a)`.
    #[inline(always)]
    fn rsqrt(self, a: Self::V) -> Self::V {
        let r = self.0.rsqrt(a.v);
        self.chain(r, a.d, |m| m.mul(m.lit(-0.5), m.div(r, a.v)))
    }
    #[inline(always)]
    fn exp(self, a: Self::V) -> Self::V {
        let e = self.0.exp(a.v);
        self.chain(e, a.d, |_| e)
    }
    #[inline(always)]
    fn expm1(self, a: Self::V) -> Self::V {
        self.chain(self.0.expm1(a.v), a.d, |m| m.exp(a.v))
    }
    #[inline(always)]
    fn log(self, a: Self::V) -> Self::V {
        self.chain(self.0.log(a.v), a.d, |m| m.div(m.lit(1.0), a.v))
    }
    #[inline(always)]
    fn log1p(self, a: Self::V) -> Self::V {
        self.chain(self.0.log1p(a.v), a.d, |m| m.div(m.lit(1.0), m.add(a.v, m.lit(1.0))))
    }
    #[inline(always)]
    fn sin(self, a: Self::V) -> Self::V {
        self.chain(self.0.sin(a.v), a.d, |m| m.cos(a.v))
    }
    #[inline(always)]
    fn cos(self, a: Self::V) -> Self::V {
        self.chain(self.0.cos(a.v), a.d, |m| m.neg(m.sin(a.v)))
    }
    /// `1 - tanh(a)^2`
    #[inline(always)]
    fn tanh(self, a: Self::V) -> Self::V {
        let t = self.0.tanh(a.v);
        self.chain(t, a.d, |m| m.mul_add(m.neg(t), t, m.lit(1.0)))
    }
    /// `2/sqrt(pi) * exp(-a^2)`
    #[inline(always)]
    fn erf(self, a: Self::V) -> Self::V {
        self.chain(self.0.erf(a.v), a.d, |m| {
            let two_over_sqrt_pi = m.lit(std::f64::consts::FRAC_2_SQRT_PI);
            m.mul(two_over_sqrt_pi, m.exp(m.neg(m.mul(a.v, a.v))))
        })
    }
    /// `s * (1 - s)`
    #[inline(always)]
    fn sigmoid(self, a: Self::V) -> Self::V {
        let s = self.0.sigmoid(a.v);
        self.chain(s, a.d, |m| m.mul(s, m.sub(m.lit(1.0), s)))
    }
    #[inline(always)]
    fn softplus(self, a: Self::V) -> Self::V {
        self.chain(self.0.softplus(a.v), a.d, |m| m.sigmoid(a.v))
    }
    /// `b * a^(b-1)` and `a^b * log(a)`; as in PyTorch the first is 0 where `b` is 0 and the
    /// second is 0 where `a` is 0 and `b` is not negative.
    #[inline(always)]
    fn pow(self, a: Self::V, b: Self::V) -> Self::V {
        let m = self.0;
        let (zero, p) = (m.lit(0.0), m.pow(a.v, b.v));
        let by_base = self.chain(p, a.d, |m| {
            let slope = m.mul(b.v, m.pow(a.v, m.sub(b.v, m.lit(1.0))));
            m.select(m.eq(b.v, zero), zero, slope)
        });
        let by_exponent = self.chain(p, b.d, |m| {
            let still = m.and(m.eq(a.v, zero), m.ge(b.v, zero));
            m.select(still, zero, m.mul(p, m.log(a.v)))
        });
        Tangent { v: p, d: self.plus(by_base.d, by_exponent.d) }
    }

    #[inline(always)]
    fn lt(self, a: Self::V, b: Self::V) -> M::B {
        self.0.lt(a.v, b.v)
    }
    #[inline(always)]
    fn le(self, a: Self::V, b: Self::V) -> M::B {
        self.0.le(a.v, b.v)
    }
    #[inline(always)]
    fn eq(self, a: Self::V, b: Self::V) -> M::B {
        self.0.eq(a.v, b.v)
    }
    #[inline(always)]
    fn and(self, a: M::B, b: M::B) -> M::B {
        self.0.and(a, b)
    }
    #[inline(always)]
    fn or(self, a: M::B, b: M::B) -> M::B {
        self.0.or(a, b)
    }
    #[inline(always)]
    fn not(self, a: M::B) -> M::B {
        self.0.not(a)
    }
    #[inline(always)]
    fn any(self, c: M::B) -> bool {
        self.0.any(c)
    }
    #[inline(always)]
    fn select(self, c: M::B, a: Self::V, b: Self::V) -> Self::V {
        let m = self.0;
        let d = if a.d.is_none() && b.d.is_none() {
            None
        } else {
            Some(m.select(c, self.derivative(a), self.derivative(b)))
        };
        Tangent { v: m.select(c, a.v, b.v), d }
    }

    #[inline(always)]
    fn ulit(self, x: u32) -> M::U {
        self.0.ulit(x)
    }
    #[inline(always)]
    fn uadd(self, a: M::U, b: M::U) -> M::U {
        self.0.uadd(a, b)
    }
    #[inline(always)]
    fn usub(self, a: M::U, b: M::U) -> M::U {
        self.0.usub(a, b)
    }
    #[inline(always)]
    fn umul(self, a: M::U, b: M::U) -> M::U {
        self.0.umul(a, b)
    }
    #[inline(always)]
    fn umulhi(self, a: M::U, b: M::U) -> M::U {
        self.0.umulhi(a, b)
    }
    #[inline(always)]
    fn uand(self, a: M::U, b: M::U) -> M::U {
        self.0.uand(a, b)
    }
    #[inline(always)]
    fn uor(self, a: M::U, b: M::U) -> M::U {
        self.0.uor(a, b)
    }
    #[inline(always)]
    fn uxor(self, a: M::U, b: M::U) -> M::U {
        self.0.uxor(a, b)
    }
    #[inline(always)]
    fn ushl(self, a: M::U, n: u32) -> M::U {
        self.0.ushl(a, n)
    }
    #[inline(always)]
    fn ushr(self, a: M::U, n: u32) -> M::U {
        self.0.ushr(a, n)
    }
    #[inline(always)]
    fn ueq(self, a: M::U, b: M::U) -> M::B {
        self.0.ueq(a, b)
    }
    #[inline(always)]
    fn uselect(self, c: M::B, a: M::U, b: M::U) -> M::U {
        self.0.uselect(c, a, b)
    }
    #[inline(always)]
    fn to_real(self, a: M::U) -> Self::V {
        Self::constant(self.0.to_real(a))
    }
    #[inline(always)]
    fn to_uint(self, a: Self::V) -> M::U {
        self.0.to_uint(a.v)
    }
    #[inline(always)]
    fn bits(self, a: Self::V) -> M::U {
        self.0.bits(a.v)
    }
    #[inline(always)]
    fn from_bits(self, a: M::U) -> Self::V {
        Self::constant(self.0.from_bits(a))
    }
    #[inline(always)]
    fn uniform(self, index: M::U, key: Key<M::U>) -> Self::V {
        Self::constant(self.0.uniform(index, key))
    }
}
