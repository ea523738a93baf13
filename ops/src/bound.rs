//! How far an f32 evaluation of a definition may be from its true value.

use crate::math::Math;
use crate::poly::ULPS;
use crate::scalar::Scalar;

/// Encloses every result that a correct f32 evaluation of a definition can have.
///
/// Each basic operation may be off by `u = 2^-24` of its result (so a correctly rounded and a more
/// precise one both pass), each transcendental function by its row of [`ULPS`]; errors of arguments
/// pass through monotone functions by evaluating at the ends of the interval, through sums,
/// products and quotients by interval arithmetic. A comparison that the errors leave open makes
/// `select` yield the union of both branches. What may exceed f32 may be infinite.
#[derive(Clone, Copy, Debug, Default)]
pub struct Bound {
    /// Results below 2^-126 may also be 0.
    pub flush: bool,
}

/// The true value, computed in f64, and an interval that holds it and every f32 result.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Enclosure {
    /// The true value.
    pub value: f64,
    /// No result that is a number is below. `lo > hi` when none is a number.
    pub lo: f64,
    /// No result that is a number is above.
    pub hi: f64,
    /// The result may be NaN.
    pub nan: bool,
}

/// A comparison: its true outcome and the outcomes that it may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The true one.
    pub value: bool,
    /// It may hold.
    pub yes: bool,
    /// It may fail.
    pub no: bool,
}

/// An integer; `None` where it depends on a real number's last bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Whole {
    /// The true one.
    pub value: u32,
    /// Every evaluation has it.
    pub certain: bool,
}

/// Unit roundoff of f32.
const U: f64 = DTYPE.unit_roundoff();
const DTYPE: crate::DType = crate::DType::F32;
const LARGEST: f64 = f32::MAX as f64;
/// Half the distance between subnormal numbers: the largest error of rounding one.
const TINY: f64 = f64::from_bits((1023 - 150) << 52);
const SMALLEST_NORMAL: f64 = f32::MIN_POSITIVE as f64;
const F64: Scalar<f64> = Scalar::<f64>::NEW;

/// The row of [`ULPS`] called `name`, looked up when this file is compiled.
const fn ulps(name: &str) -> f64 {
    let mut row = 0;
    while row < ULPS.len() {
        let (a, b) = (ULPS[row].0.as_bytes(), name.as_bytes());
        let (mut i, mut same) = (0, a.len() == b.len());
        while same && i < a.len() {
            same = a[i] == b[i];
            i += 1;
        }
        if same {
            return ULPS[row].1;
        }
        row += 1;
    }
    panic!("a function has no stated error")
}

/// The distance between f32 numbers at `x`.
fn ulp(x: f64) -> f64 {
    let exponent = ((x.abs().max(SMALLEST_NORMAL).to_bits() >> 52) as i64 - 1023).min(127);
    f64::from_bits(((1023 + exponent - 23) as u64) << 52)
}

impl Enclosure {
    /// A number that every evaluation has.
    pub fn exact(x: f64) -> Self {
        Self::hull(x, x, x, false)
    }

    /// `value` to within `error`.
    pub fn around(value: f64, error: f64) -> Self {
        Self::hull(value, value - error, value + error, false)
    }

    /// The interval of two ends of which a NaN says that there may be NaN.
    fn hull(value: f64, lo: f64, hi: f64, nan: bool) -> Self {
        if lo.is_nan() || hi.is_nan() {
            return Self { value, lo: f64::INFINITY, hi: f64::NEG_INFINITY, nan: true };
        }
        Self { value, lo, hi, nan }
    }

    /// Nothing but NaN is possible.
    pub fn is_empty(&self) -> bool {
        self.lo > self.hi
    }

    /// True when `x` is a possible result.
    pub fn contains(&self, x: f64) -> bool {
        if x.is_nan() { self.nan } else { self.lo <= x && x <= self.hi }
    }

    /// The largest distance of a possible result from the true value; infinite where NaN and
    /// numbers are both possible.
    pub fn error(&self) -> f64 {
        if self.is_empty() {
            return 0.0;
        }
        if self.nan {
            return f64::INFINITY;
        }
        let distance = |end: f64| if end == self.value { 0.0 } else { (end - self.value).abs() };
        distance(self.lo).max(distance(self.hi))
    }

    fn is_point(&self) -> bool {
        self.lo == self.hi && !self.nan
    }

    fn holds(&self, x: f64) -> bool {
        self.lo <= x && x <= self.hi
    }

    fn holds_infinity(&self) -> bool {
        self.lo == f64::NEG_INFINITY || self.hi == f64::INFINITY
    }

    fn union(self, other: Self) -> Self {
        Self {
            value: self.value,
            lo: self.lo.min(other.lo),
            hi: self.hi.max(other.hi),
            nan: self.nan || other.nan,
        }
    }
}

impl Bound {
    /// `x` as an f32 operand: exact, but for a subnormal number that the device may flush.
    pub fn input(self, x: f64) -> Enclosure {
        if x.is_nan() {
            return Enclosure::hull(x, x, x, true);
        }
        let flushed = if self.flush && x.abs() < SMALLEST_NORMAL { 0.0 } else { x };
        Enclosure::hull(x, x.min(flushed), x.max(flushed), false)
    }

    /// The smallest result of rounding a number that is not below `x`.
    fn down(self, x: f64, error: f64) -> f64 {
        if x == 0.0 || x.is_infinite() {
            return x;
        }
        let y = x - error.max(TINY);
        if x > 0.0 && self.flush && y < SMALLEST_NORMAL {
            return 0.0;
        }
        // Rounding never changes the sign.
        let y = if x > 0.0 { y.max(0.0) } else { y };
        if y < -LARGEST { f64::NEG_INFINITY } else { y }
    }

    fn up(self, x: f64, error: f64) -> f64 {
        -self.down(-x, error)
    }

    /// One rounding of a result between `lo` and `hi`.
    fn rounded(self, value: f64, lo: f64, hi: f64, nan: bool) -> Enclosure {
        self.inexact(value, lo, hi, nan, |x| x.abs() * U)
    }

    fn inexact(
        self,
        value: f64,
        lo: f64,
        hi: f64,
        nan: bool,
        error: impl Fn(f64) -> f64,
    ) -> Enclosure {
        if lo.is_nan() || hi.is_nan() || lo > hi {
            return Enclosure::hull(value, f64::NAN, f64::NAN, true);
        }
        Enclosure { value, lo: self.down(lo, error(lo)), hi: self.up(hi, error(hi)), nan }
    }

    /// A function that rises, is off by `ulps` and stays in `range`; arguments below `from` give
    /// NaN.
    fn rising(
        self,
        a: Enclosure,
        ulps: f64,
        (from, range): (f64, [f64; 2]),
        f: impl Fn(f64) -> f64,
    ) -> Enclosure {
        let value = f(a.value);
        if a.is_empty() || a.hi < from {
            return Enclosure::hull(value, f64::NAN, f64::NAN, true);
        }
        let nan = a.nan || a.lo < from;
        // Not `max`, which may lose the sign of a zero.
        let (lo, hi) = (f(if a.lo < from { from } else { a.lo }), f(a.hi));
        // At an infinite argument the result is what it is.
        let error = |end: f64| move |x: f64| if end.is_infinite() { 0.0 } else { ulps * ulp(x) };
        let lo = self.inexact(value, lo, lo, nan, error(a.lo)).lo.max(range[0]);
        let hi = self.inexact(value, hi, hi, nan, error(a.hi)).hi.min(range[1]);
        Enclosure { value, lo, hi, nan }
    }

    /// The product before it is rounded, and whether it may be NaN.
    fn product(a: Enclosure, b: Enclosure) -> (f64, f64, bool) {
        if a.is_empty() || b.is_empty() {
            return (f64::NAN, f64::NAN, true);
        }
        let corners = [a.lo * b.lo, a.lo * b.hi, a.hi * b.lo, a.hi * b.hi];
        let invalid = (a.holds(0.0) && b.holds_infinity()) || (b.holds(0.0) && a.holds_infinity());
        let nan = a.nan || b.nan || invalid;
        let (lo, hi) = ends(corners);
        (lo, hi, nan)
    }

    /// The quotient before it is rounded, and whether it may be NaN.
    fn quotient(a: Enclosure, b: Enclosure) -> (f64, f64, bool) {
        if a.is_empty() || b.is_empty() {
            return (f64::NAN, f64::NAN, true);
        }
        let invalid = (a.holds(0.0) && b.holds(0.0)) || (a.holds_infinity() && b.holds_infinity());
        let nan = a.nan || b.nan || invalid;
        // The sign of a zero is known only where nothing but that zero is possible.
        let signed_zero = b.lo == 0.0 && b.hi == 0.0 && same_sign(b.lo, b.hi);
        if b.holds(0.0) && !signed_zero {
            return (f64::NEG_INFINITY, f64::INFINITY, nan);
        }
        let (lo, hi) = ends([a.lo / b.lo, a.lo / b.hi, a.hi / b.lo, a.hi / b.hi]);
        (lo, hi, nan)
    }

    /// Rounding to a narrower type, which keeps the order; what is subnormal may be flushed.
    fn narrowed(self, a: Enclosure, f: impl Fn(f64) -> f64) -> Enclosure {
        let value = f(a.value);
        if a.is_empty() {
            return Enclosure::hull(value, f64::NAN, f64::NAN, true);
        }
        self.inexact(value, f(a.lo), f(a.hi), a.nan, |_| 0.0)
    }

    /// Sine or cosine: both change by at most the change of the argument.
    fn wave(self, a: Enclosure, ulps: f64, f: impl Fn(f64) -> f64) -> Enclosure {
        let value = f(a.value);
        if a.is_empty() || (a.is_point() && a.lo.is_infinite()) {
            return Enclosure::hull(value, f64::NAN, f64::NAN, true);
        }
        let nan = a.nan || a.holds_infinity();
        if a.hi - a.lo > 2.0 {
            return Enclosure { value, lo: -1.0, hi: 1.0, nan };
        }
        let (centre, reach) = (f(0.5 * (a.lo + a.hi)), 0.5 * (a.hi - a.lo));
        let error = |x: f64| ulps * ulp(x);
        let result = self.inexact(value, centre - reach, centre + reach, nan, error);
        Enclosure { lo: result.lo.max(-1.0), hi: result.hi.min(1.0), ..result }
    }

    /// `a^b` for `a >= 0`, which is monotone in each argument: the ends lie at the corners.
    fn power(self, a: Enclosure, b: Enclosure) -> Enclosure {
        let value = F64.pow(a.value, b.value);
        if (b.is_point() && b.lo == 0.0) || (a.is_point() && a.lo == 1.0) {
            return Enclosure::exact(1.0);
        }
        const ERROR: f64 = ulps("pow");
        let error = |x: f64| ERROR * ulp(x);
        if a.is_point() && b.is_point() {
            return self.inexact(value, value, value, value.is_nan(), error);
        }
        let nan = a.nan || b.nan;
        if a.is_empty() || b.is_empty() {
            // Where the other is 1 or 0 there would be a number.
            let other = a.holds(1.0) || b.holds(0.0);
            let end = if other { 1.0 } else { f64::NAN };
            return Enclosure::hull(value, end, end, true);
        }
        if a.lo < 0.0 || (a.lo == 0.0 && b.lo < 0.0) {
            return Enclosure { value, lo: f64::NEG_INFINITY, hi: f64::INFINITY, nan: true };
        }
        let corner = |a: f64, b: f64| F64.pow(a, b);
        let (lo, hi) =
            ends([corner(a.lo, b.lo), corner(a.lo, b.hi), corner(a.hi, b.lo), corner(a.hi, b.hi)]);
        self.inexact(value, lo, hi, nan, error)
    }
}

fn same_sign(a: f64, b: f64) -> bool {
    a.is_sign_negative() == b.is_sign_negative()
}

/// The smallest and the largest of the corners that are numbers.
fn ends(corners: [f64; 4]) -> (f64, f64) {
    let numbers = corners.into_iter().filter(|x| !x.is_nan());
    numbers.fold((f64::NAN, f64::NAN), |(lo, hi), x| {
        (if lo <= x { lo } else { x }, if hi >= x { hi } else { x })
    })
}

impl Outcome {
    fn new(value: bool, yes: bool, no: bool) -> Self {
        Self { value, yes, no }
    }
}

/// The smallest argument, and what the results never leave.
type Domain = (f64, [f64; 2]);
const NOT_NEGATIVE: Domain = (f64::NEG_INFINITY, [0.0, f64::INFINITY]);
const FROM_ZERO: Domain = (0.0, [f64::NEG_INFINITY, f64::INFINITY]);

/// `method [domain and range];` functions that rise.
macro_rules! rising {
    ($($name:ident $domain:expr;)*) => {
        $(fn $name(self, a: Enclosure) -> Enclosure {
            const ERROR: f64 = ulps(stringify!($name));
            self.rising(a, ERROR, $domain, |x| F64.$name(x))
        })*
    };
}

/// Integer arithmetic: the result is certain when the arguments are.
macro_rules! whole {
    ($($name:ident)*) => {
        $(fn $name(self, a: Whole, b: Whole) -> Whole {
            Whole { value: F64.$name(a.value, b.value), certain: a.certain && b.certain }
        })*
    };
}

impl Math for Bound {
    type V = Enclosure;
    type B = Outcome;
    type U = Whole;

    fn lit(self, x: f64) -> Enclosure {
        let y = f64::from(x as f32);
        if x.is_nan() { self.input(x) } else { Enclosure::hull(x, x.min(y), x.max(y), false) }
    }
    fn add(self, a: Enclosure, b: Enclosure) -> Enclosure {
        let value = a.value + b.value;
        if a.is_empty() || b.is_empty() {
            return Enclosure::hull(value, f64::NAN, f64::NAN, true);
        }
        let opposite =
            |a: Enclosure, b: Enclosure| a.hi == f64::INFINITY && b.lo == f64::NEG_INFINITY;
        let nan = a.nan || b.nan || opposite(a, b) || opposite(b, a);
        // An end of opposite infinities: one of them is all that its operand can be.
        let (lo, hi) = (a.lo + b.lo, a.hi + b.hi);
        let lo = if lo.is_nan() { f64::INFINITY } else { lo };
        let hi = if hi.is_nan() { f64::NEG_INFINITY } else { hi };
        self.rounded(value, lo, hi, nan)
    }
    fn sub(self, a: Enclosure, b: Enclosure) -> Enclosure {
        self.add(a, self.neg(b))
    }
    fn mul(self, a: Enclosure, b: Enclosure) -> Enclosure {
        let (lo, hi, nan) = Self::product(a, b);
        self.rounded(a.value * b.value, lo, hi, nan)
    }
    fn div(self, a: Enclosure, b: Enclosure) -> Enclosure {
        let (lo, hi, nan) = Self::quotient(a, b);
        self.rounded(a.value / b.value, lo, hi, nan)
    }
    fn fma(self, a: Enclosure, b: Enclosure, c: Enclosure) -> Enclosure {
        let (lo, hi, nan) = Self::product(a, b);
        let value = a.value.mul_add(b.value, c.value);
        let product = Enclosure::hull(a.value * b.value, lo, hi, nan);
        let sum = self.add(product, c);
        // f64 rounds the product and the sum too, which shows where they cancel.
        let slack = (lo.abs().max(hi.abs()) + c.lo.abs().max(c.hi.abs())) * f64::EPSILON;
        let slack = if slack.is_finite() { slack } else { 0.0 };
        Enclosure { value, lo: sum.lo - slack, hi: sum.hi + slack, nan: sum.nan }
    }
    fn mul_add(self, a: Enclosure, b: Enclosure, c: Enclosure) -> Enclosure {
        let value = a.value.mul_add(b.value, c.value);
        let product = self.mul(a, b);
        // The value that the product is added to may be far smaller than the product's rounding.
        let sum = self.add(Enclosure { value: a.value * b.value, ..product }, c);
        let once = self.fma(a, b, c);
        let (lo, hi) = (sum.lo.min(once.lo), sum.hi.max(once.hi));
        Enclosure { value, lo, hi, nan: sum.nan || once.nan }
    }
    fn neg(self, a: Enclosure) -> Enclosure {
        Enclosure { value: -a.value, lo: -a.hi, hi: -a.lo, nan: a.nan }
    }
    fn abs(self, a: Enclosure) -> Enclosure {
        let (lo, hi) = if a.lo >= 0.0 {
            (a.lo, a.hi)
        } else if a.hi <= 0.0 {
            (-a.hi, -a.lo)
        } else {
            (0.0, a.hi.max(-a.lo))
        };
        // No zero is negative.
        Enclosure { value: a.value.abs(), lo: lo + 0.0, hi: hi + 0.0, nan: a.nan }
    }
    fn min(self, a: Enclosure, b: Enclosure) -> Enclosure {
        let value = F64.min(a.value, b.value);
        if a.is_empty() || b.is_empty() {
            return Enclosure::hull(value, f64::NAN, f64::NAN, true);
        }
        Enclosure { value, lo: a.lo.min(b.lo), hi: a.hi.min(b.hi), nan: a.nan || b.nan }
    }
    fn max(self, a: Enclosure, b: Enclosure) -> Enclosure {
        self.neg(self.min(self.neg(a), self.neg(b)))
    }
    fn floor(self, a: Enclosure) -> Enclosure {
        Enclosure { value: a.value.floor(), lo: a.lo.floor(), hi: a.hi.floor(), nan: a.nan }
    }
    fn round(self, a: Enclosure) -> Enclosure {
        let f = |x| F64.round(x);
        Enclosure { value: f(a.value), lo: f(a.lo), hi: f(a.hi), nan: a.nan }
    }
    fn round_f16(self, a: Enclosure) -> Enclosure {
        self.narrowed(a, |x| F64.round_f16(x))
    }
    fn round_bf16(self, a: Enclosure) -> Enclosure {
        self.narrowed(a, |x| F64.round_bf16(x))
    }
    fn sqrt(self, a: Enclosure) -> Enclosure {
        self.rising(a, 0.5, FROM_ZERO, f64::sqrt)
    }

    fn rsqrt(self, a: Enclosure) -> Enclosure {
        const ERROR: f64 = ulps("rsqrt");
        let value = F64.rsqrt(a.value);
        if a.is_empty() || a.hi < 0.0 {
            return Enclosure::hull(value, f64::NAN, f64::NAN, true);
        }
        let signed_zero = a.lo == 0.0 && a.hi == 0.0 && same_sign(a.lo, a.hi);
        if a.lo <= 0.0 && !signed_zero {
            let nan = a.nan || a.lo < 0.0;
            return Enclosure { value, lo: f64::NEG_INFINITY, hi: f64::INFINITY, nan };
        }
        // It falls.
        self.inexact(value, F64.rsqrt(a.hi), F64.rsqrt(a.lo), a.nan, |x| ERROR * ulp(x))
    }
    rising! {
        exp NOT_NEGATIVE;
        expm1 (f64::NEG_INFINITY, [-1.0, f64::INFINITY]);
        log FROM_ZERO;
        log1p (-1.0, [f64::NEG_INFINITY, f64::INFINITY]);
        tanh (f64::NEG_INFINITY, [-1.0, 1.0]);
        erf (f64::NEG_INFINITY, [-1.0, 1.0]);
        sigmoid (f64::NEG_INFINITY, [0.0, 1.0]);
        softplus NOT_NEGATIVE;
    }
    fn sin(self, a: Enclosure) -> Enclosure {
        self.wave(a, const { ulps("sin") }, |x| F64.sin(x))
    }
    fn cos(self, a: Enclosure) -> Enclosure {
        self.wave(a, const { ulps("cos") }, |x| F64.cos(x))
    }
    fn pow(self, a: Enclosure, b: Enclosure) -> Enclosure {
        self.power(a, b)
    }

    fn lt(self, a: Enclosure, b: Enclosure) -> Outcome {
        let nan = a.nan || b.nan;
        let empty = a.is_empty() || b.is_empty();
        Outcome::new(a.value < b.value, !empty && a.lo < b.hi, nan || a.hi >= b.lo)
    }
    fn le(self, a: Enclosure, b: Enclosure) -> Outcome {
        let nan = a.nan || b.nan;
        let empty = a.is_empty() || b.is_empty();
        Outcome::new(a.value <= b.value, !empty && a.lo <= b.hi, nan || a.hi > b.lo)
    }
    fn eq(self, a: Enclosure, b: Enclosure) -> Outcome {
        let empty = a.is_empty() || b.is_empty();
        let apart = !(a.is_point() && b.is_point() && a.lo == b.lo);
        Outcome::new(a.value == b.value, !empty && a.lo <= b.hi && b.lo <= a.hi, apart)
    }
    fn and(self, a: Outcome, b: Outcome) -> Outcome {
        Outcome::new(a.value && b.value, a.yes && b.yes, a.no || b.no)
    }
    fn or(self, a: Outcome, b: Outcome) -> Outcome {
        Outcome::new(a.value || b.value, a.yes || b.yes, a.no && b.no)
    }
    fn not(self, a: Outcome) -> Outcome {
        Outcome::new(!a.value, a.no, a.yes)
    }
    fn select(self, c: Outcome, a: Enclosure, b: Enclosure) -> Enclosure {
        let value = if c.value { a.value } else { b.value };
        let chosen = match (c.yes, c.no) {
            (true, false) => a,
            (false, true) => b,
            _ => a.union(b),
        };
        Enclosure { value, ..chosen }
    }

    fn ulit(self, x: u32) -> Whole {
        Whole { value: x, certain: true }
    }
    whole! { uadd usub umul umulhi uand uor uxor }
    fn ushl(self, a: Whole, n: u32) -> Whole {
        Whole { value: a.value << n, ..a }
    }
    fn ushr(self, a: Whole, n: u32) -> Whole {
        Whole { value: a.value >> n, ..a }
    }
    fn ueq(self, a: Whole, b: Whole) -> Outcome {
        let (value, open) = (a.value == b.value, !(a.certain && b.certain));
        Outcome::new(value, value || open, !value || open)
    }
    fn uselect(self, c: Outcome, a: Whole, b: Whole) -> Whole {
        let chosen = if c.value { a } else { b };
        let settled = (c.yes != c.no) || (a == b);
        Whole { certain: chosen.certain && settled, ..chosen }
    }
    fn to_real(self, a: Whole) -> Enclosure {
        let x = f64::from(a.value);
        if !a.certain {
            return Enclosure { value: x, lo: 0.0, hi: 4_294_967_296.0, nan: false };
        }
        self.lit(x)
    }
    fn to_uint(self, a: Enclosure) -> Whole {
        Whole { value: a.value as u32, certain: a.is_point() && a.lo == a.value }
    }
    fn bits(self, a: Enclosure) -> Whole {
        Whole { value: F64.bits(a.value), certain: a.is_point() && a.lo == a.value }
    }
    fn from_bits(self, a: Whole) -> Enclosure {
        let value = F64.from_bits(a.value);
        if a.certain {
            return self.input(value);
        }
        Enclosure { value, lo: f64::NEG_INFINITY, hi: f64::INFINITY, nan: true }
    }
}

#[cfg(test)]
mod tests;
