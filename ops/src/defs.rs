//! Every elementwise definition, once.
//!
//! Adding one is adding an entry to `definitions!` below (and its golden row, which
//! `cargo xtask tidy` asks for): the registry, the tensor method, the derivative, the error bound,
//! the shader text and the table of cases follow from it.

use crate::dual::Dual;
use crate::math::Math;
use crate::program::{Builder, NodeId, Program};
use crate::trace::{Real, Trace};
use std::cell::RefCell;

/// A definition as a type, for kernels that are monomorphised over it.
pub trait Def: Copy + Send + Sync + 'static {
    /// The entry of the registry.
    const DEFINITION: &'static Definition;
    /// Evaluates; `args` holds the tensors and then the scalars.
    fn eval<M: Math>(self, m: M, args: &[M::V], out: &mut [M::V]);
}

/// Whether a definition has a derivative.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gradient {
    /// It is derived from the definition by [`Dual`].
    Derived,
    /// As derived, 0 wherever there is one: a result is outside the graph of gradients.
    Step,
    /// The result is a truth value, kept as u8 and outside the graph of gradients.
    Truth,
    /// There is none, for this reason; asking for it is an error and never a silent zero.
    NotDifferentiable(&'static str),
}

impl Gradient {
    /// Whether there is a derivative.
    pub fn is_derived(self) -> bool {
        matches!(self, Gradient::Derived | Gradient::Step)
    }
}

/// From which numbers the random cases of a definition are drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Domain {
    /// Any real number.
    Real,
    /// Positive numbers.
    Positive,
    /// Numbers above -1.
    AboveMinusOne,
    /// Numbers away from 0.
    NonZero,
    /// 0 or 1.
    Truth,
    /// In [0, 1).
    Unit,
}

type TraceFn = fn(Trace<'_>, &[Real], &mut [Real]);
type DualFn = fn(Trace<'_>, &[Real], usize, &mut [Real]);

/// An elementwise formula: an entry of the registry, or one that [`definition!`](crate::definition)
/// declares in another crate.
pub struct Definition {
    /// The name on the command line, in reports and of the tensor method.
    pub name: &'static str,
    /// Tensor arguments and the domain of each.
    pub tensors: &'static [(&'static str, Domain)],
    /// Scalar arguments, the same for every element, with the value that cases use.
    pub scalars: &'static [(&'static str, f64)],
    /// The number of results.
    pub outputs: usize,
    /// Whether there is a derivative.
    pub gradient: Gradient,
    trace: TraceFn,
    trace_dual: DualFn,
}

impl std::fmt::Debug for Definition {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "definition {}", self.name)
    }
}

impl Definition {
    /// What [`definition!`](crate::definition) makes.
    #[doc(hidden)]
    pub const fn new(
        name: &'static str,
        tensors: &'static [(&'static str, Domain)],
        scalars: &'static [(&'static str, f64)],
        outputs: usize,
        gradient: Gradient,
        trace: TraceFn,
        trace_dual: DualFn,
    ) -> Self {
        Self { name, tensors, scalars, outputs, gradient, trace, trace_dual }
    }

    /// The definition called `name`.
    pub fn find(name: &str) -> Option<&'static Definition> {
        ALL.iter().copied().find(|d| d.name == name)
    }

    /// The scalars that the cases use.
    pub fn default_scalars(&self) -> Vec<f64> {
        self.scalars.iter().map(|s| s.1).collect()
    }

    fn arguments(&self, args: &[NodeId], scalars: &[NodeId]) -> Vec<Real> {
        debug_assert_eq!((args.len(), scalars.len()), (self.tensors.len(), self.scalars.len()));
        args.iter().chain(scalars).map(|&a| Real(a)).collect()
    }

    /// Appends the definition to a program; returns the nodes of its results. Scalars are
    /// [immediates](Builder::immediate) where a user may choose them, else constants.
    pub fn put(
        &self,
        builder: &RefCell<Builder>,
        args: &[NodeId],
        scalars: &[NodeId],
    ) -> Vec<NodeId> {
        let t = Trace(builder);
        let args = self.arguments(args, scalars);
        let mut out = vec![Real(0); self.outputs];
        (self.trace)(t, &args, &mut out);
        out.into_iter().map(|r| r.0).collect()
    }

    /// Appends the derivative of every result by tensor argument `by`.
    pub fn put_derivative(
        &self,
        builder: &RefCell<Builder>,
        args: &[NodeId],
        scalars: &[NodeId],
        by: usize,
    ) -> Vec<NodeId> {
        let t = Trace(builder);
        let args = self.arguments(args, scalars);
        let mut out = vec![Real(0); self.outputs];
        (self.trace_dual)(t, &args, by, &mut out);
        out.into_iter().map(|r| r.0).collect()
    }

    /// The definition on its own with constants for scalars: input `i` is tensor `i`.
    pub fn program(&self, scalars: &[f64]) -> Program {
        self.standalone(|b, args| self.put(b, args, &constants(b, scalars)))
    }

    /// The derivative by tensor `by` on its own with constants for scalars.
    pub fn derivative_program(&self, scalars: &[f64], by: usize) -> Program {
        self.standalone(|b, args| self.put_derivative(b, args, &constants(b, scalars), by))
    }

    fn standalone(&self, f: impl FnOnce(&RefCell<Builder>, &[NodeId]) -> Vec<NodeId>) -> Program {
        let builder = RefCell::new(Builder::new());
        let t = Trace(&builder);
        let args: Vec<NodeId> = (0..self.tensors.len()).map(|i| t.input(i).0).collect();
        let out = f(&builder, &args);
        builder.into_inner().finish(&out)
    }
}

fn constants(builder: &RefCell<Builder>, scalars: &[f64]) -> Vec<NodeId> {
    scalars.iter().map(|&s| builder.borrow_mut().constant(s)).collect()
}

/// A definition as a program.
#[doc(hidden)]
pub fn trace<D: Def>(d: D, t: Trace<'_>, args: &[Real], out: &mut [Real]) {
    d.eval(t, args, out);
}

/// A definition's derivative as a program.
#[doc(hidden)]
pub fn trace_dual<D: Def>(d: D, t: Trace<'_>, args: &[Real], by: usize, out: &mut [Real]) {
    let dual = Dual(t);
    let args: Vec<_> = args
        .iter()
        .enumerate()
        .map(|(i, &a)| if i == by { dual.variable(a) } else { Dual::<Trace<'_>>::constant(a) })
        .collect();
    let mut results = vec![Dual::<Trace<'_>>::constant(Real(0)); out.len()];
    d.eval(dual, &args, &mut results);
    for (o, r) in out.iter_mut().zip(results) {
        *o = dual.derivative(r);
    }
}

/// Declares a definition: a type of the given name, whose [`Def::DEFINITION`] goes wherever the
/// engine takes one. It runs on every backend, with its derivative.
///
/// An entry reads `name Type (tensor: Domain, ..) [scalar = default, ..] Gradient, |m| result`;
/// with several results their number stands before the function, which gives an array then.
///
/// ```
/// use starling_ops::defs::Def;
/// use starling_ops::{Gradient, definition};
///
/// definition! {
///     /// `gain * x * e^(-x^2)`, a wavelet.
///     wavelet Wavelet(x: Real) [gain = 1.0] Gradient::Derived,
///         |m| m.mul(m.mul(gain, x), m.exp(m.neg(m.mul(x, x))))
/// }
///
/// let slope = Wavelet::DEFINITION.derivative_program(&[2.0], 0).eval_f64(&[0.0], &[], 0)[0];
/// assert_eq!(slope, 2.0);
/// ```
#[macro_export]
macro_rules! definition {
    ($(#[doc = $doc:literal])* $name:ident $ty:ident ($($x:ident: $dom:ident),* $(,)?)
        [$($s:ident = $default:expr),* $(,)?] $grad:expr, |$m:ident| $body:expr $(;)?) => {
        $crate::definition!($(#[doc = $doc])* $name $ty ($($x: $dom),*) [$($s = $default),*]
            $grad, 1, |$m| [$body]);
    };
    ($(#[doc = $doc:literal])* $name:ident $ty:ident ($($x:ident: $dom:ident),* $(,)?)
        [$($s:ident = $default:expr),* $(,)?] $grad:expr, $outputs:literal,
        |$m:ident| $body:expr $(;)?) => {
        $(#[doc = $doc])*
        #[derive(Clone, Copy, Debug)]
        pub struct $ty;
        impl $crate::defs::Def for $ty {
            const DEFINITION: &'static $crate::Definition = &$crate::Definition::new(
                stringify!($name),
                &[$((stringify!($x), $crate::defs::Domain::$dom)),*],
                &[$((stringify!($s), $default)),*],
                $outputs,
                $grad,
                |t, args, out| $crate::defs::trace($ty, t, args, out),
                |t, args, by, out| $crate::defs::trace_dual($ty, t, args, by, out),
            );
            #[inline(always)]
            fn eval<M: $crate::Math>(self, $m: M, args: &[M::V], out: &mut [M::V]) {
                let [$($x,)* $($s),*] = *args else {
                    unreachable!("{} arguments for {}", args.len(), stringify!($name))
                };
                out.copy_from_slice(&$body);
            }
        }
    };
}

/// Declares the definitions of this crate, with [`definition!`] each. Those that get no tensor
/// method of their own stand in the second section, with the number of their results.
macro_rules! definitions {
    (($d:tt)
     methods { $($(#[doc = $doc:literal])* $name:ident $ty:ident ($($x:ident: $dom:ident),*)
        [$($s:ident = $default:expr),*] $grad:expr, |$m:ident| $body:expr;)* }
     others { $($(#[doc = $odoc:literal])* $oname:ident $oty:ident
        ($($ox:ident: $odom:ident),*) [$($os:ident = $odefault:expr),*] $ograd:expr, $on:literal,
        |$om:ident| $obody:expr;)* }
    ) => {
        $(definition!($(#[doc = $doc])* $name $ty ($($x: $dom),*) [$($s = $default),*]
            $grad, |$m| $body);)*
        $(definition!($(#[doc = $odoc])* $oname $oty ($($ox: $odom),*) [$($os = $odefault),*]
            $ograd, $on, |$om| $obody);)*

        /// Every definition.
        pub static ALL: &[&Definition] =
            &[$($ty::DEFINITION,)* $($oty::DEFINITION,)*];

        /// Calls `$callback!` once with every definition that has a tensor method:
        /// `{ [doc] name Type (tensor, ...) (scalar, ...) }` each.
        #[macro_export]
        macro_rules! for_each_method {
            ($d callback:ident) => {
                $d callback! { $({ [$($doc)*] $name $ty ($($x),*) ($($s),*) })* }
            };
        }
    };
}

const UPDATE: Gradient = Gradient::NotDifferentiable("it is an optimizer's update");

/// A truth value as 1 or 0.
#[inline(always)]
fn truth<M: Math>(m: M, b: M::B) -> M::V {
    m.select(b, m.lit(1.0), m.lit(0.0))
}

/// `x` held in `lo ..= hi`, `hi` where `lo` is larger, as PyTorch has it; the slope at the bounds
/// is 1 and NaN passes.
#[inline(always)]
fn hold<M: Math>(m: M, x: M::V, lo: M::V, hi: M::V) -> M::V {
    let x = m.select(m.lt(x, lo), lo, x);
    m.select(m.gt(x, hi), hi, x)
}

definitions! { ($)
methods {
    /// `-x`
    neg Neg(x: Real) [] Gradient::Derived, |m| m.neg(x);
    /// `|x|`; the slope at 0 is 0.
    abs Abs(x: Real) [] Gradient::Derived, |m| m.abs(x);
    /// `x * x`
    sqr Sqr(x: Real) [] Gradient::Derived, |m| m.mul(x, x);
    /// `1 / x`
    reciprocal Reciprocal(x: NonZero) [] Gradient::Derived, |m| m.div(m.lit(1.0), x);
    /// The square root.
    sqrt Sqrt(x: Positive) [] Gradient::Derived, |m| m.sqrt(x);
    /// `1 / sqrt(x)`
    rsqrt Rsqrt(x: Positive) [] Gradient::Derived, |m| m.rsqrt(x);
    /// `e^x`
    exp Exp(x: Real) [] Gradient::Derived, |m| m.exp(x);
    /// `e^x - 1`, accurate near 0.
    expm1 Expm1(x: Real) [] Gradient::Derived, |m| m.expm1(x);
    /// The natural logarithm.
    log Log(x: Positive) [] Gradient::Derived, |m| m.log(x);
    /// `log(1 + x)`, accurate near 0.
    log1p Log1p(x: AboveMinusOne) [] Gradient::Derived, |m| m.log1p(x);
    /// The sine of `x` radians.
    sin Sin(x: Real) [] Gradient::Derived, |m| m.sin(x);
    /// The cosine of `x` radians.
    cos Cos(x: Real) [] Gradient::Derived, |m| m.cos(x);
    /// The hyperbolic tangent.
    tanh Tanh(x: Real) [] Gradient::Derived, |m| m.tanh(x);
    /// The error function.
    erf Erf(x: Real) [] Gradient::Derived, |m| m.erf(x);
    /// `1 / (1 + exp(-x))`
    sigmoid Sigmoid(x: Real) [] Gradient::Derived, |m| m.sigmoid(x);
    /// `log(1 + exp(x))`
    softplus Softplus(x: Real) [] Gradient::Derived, |m| m.softplus(x);
    /// The largest integer not above `x`; the slope is 0.
    floor Floor(x: Real) [] Gradient::Step, |m| m.floor(x);
    /// The nearest integer, halves to even; the slope is 0.
    round Round(x: Real) [] Gradient::Step, |m| m.round(x);
    /// `max(x, 0)`; the slope at 0 is 0.
    relu Relu(x: Real) [] Gradient::Derived,
        |m| m.select(m.le(x, m.lit(0.0)), m.lit(0.0), x);
    /// `x` above 0, else `slope * x`.
    leaky_relu LeakyRelu(x: Real) [slope = 0.01] Gradient::Derived,
        |m| m.select(m.gt(x, m.lit(0.0)), x, m.mul(slope, x));
    /// `x` above 0, else `alpha * (e^x - 1)` (Clevert, Unterthiner, Hochreiter 2015).
    elu Elu(x: Real) [alpha = 1.0] Gradient::Derived,
        |m| m.select(m.gt(x, m.lit(0.0)), x, m.mul(alpha, m.expm1(x)));
    /// `x * Phi(x)` with the normal distribution function by `erf` (Hendrycks, Gimpel 2016).
    gelu Gelu(x: Real) [] Gradient::Derived, |m| {
        let phi = m.erf(m.mul(x, m.lit(std::f64::consts::FRAC_1_SQRT_2)));
        m.mul(x, m.mul_add(phi, m.lit(0.5), m.lit(0.5)))
    };
    /// GELU with `Phi(x)` approximated by `tanh(sqrt(2/pi) * (x + 0.044715 x^3))`, GPT-2's.
    gelu_tanh GeluTanh(x: Real) [] Gradient::Derived, |m| {
        // Beyond 16 tanh is 1 in f64 already; held there, x^3 cannot overflow in the derivative.
        let h = hold(m, x, m.lit(-16.0), m.lit(16.0));
        let sqrt_2_over_pi = std::f64::consts::FRAC_2_SQRT_PI * std::f64::consts::FRAC_1_SQRT_2;
        let cubic = m.mul_add(m.mul(h, h), m.lit(0.044715 * sqrt_2_over_pi), m.lit(sqrt_2_over_pi));
        m.mul(x, m.mul_add(m.tanh(m.mul(h, cubic)), m.lit(0.5), m.lit(0.5)))
    };
    /// `x * sigmoid(x)`
    silu Silu(x: Real) [] Gradient::Derived, |m| m.mul(x, m.sigmoid(x));
    /// `x * tanh(softplus(x))` (Misra 2019).
    mish Mish(x: Real) [] Gradient::Derived, |m| m.mul(x, m.tanh(m.softplus(x)));
    /// `x * clamp(x + 3, 0, 6) / 6` (Howard et al. 2019).
    hardswish Hardswish(x: Real) [] Gradient::Derived, |m| {
        let gate = hold(m, m.add(x, m.lit(3.0)), m.lit(0.0), m.lit(6.0));
        m.mul(x, m.mul(gate, m.lit(1.0 / 6.0)))
    };
    /// `x` held in `lo ..= hi`, `hi` where `lo` is larger; the slope at the bounds is 1.
    clamp Clamp(x: Real) [lo = -1.0, hi = 1.0] Gradient::Derived, |m| hold(m, x, lo, hi);

    /// `a + b`
    add Add(a: Real, b: Real) [] Gradient::Derived, |m| m.add(a, b);
    /// `a - b`
    sub Sub(a: Real, b: Real) [] Gradient::Derived, |m| m.sub(a, b);
    /// `a * b`
    mul Mul(a: Real, b: Real) [] Gradient::Derived, |m| m.mul(a, b);
    /// `a / b`
    div Div(a: Real, b: NonZero) [] Gradient::Derived, |m| m.div(a, b);
    /// `a^b`
    pow Pow(a: Positive, b: Real) [] Gradient::Derived, |m| m.pow(a, b);
    /// The smaller of two; NaN when either is NaN; a tie splits the gradient in half.
    minimum Minimum(a: Real, b: Real) [] Gradient::Derived, |m| m.min(a, b);
    /// The larger of two; NaN when either is NaN; a tie splits the gradient in half.
    maximum Maximum(a: Real, b: Real) [] Gradient::Derived, |m| m.max(a, b);
    /// 1 where `a < b`, else 0.
    lt Lt(a: Real, b: Real) [] Gradient::Truth, |m| truth(m, m.lt(a, b));
    /// 1 where `a <= b`, else 0.
    le Le(a: Real, b: Real) [] Gradient::Truth, |m| truth(m, m.le(a, b));
    /// 1 where `a == b`, else 0.
    eq Eq(a: Real, b: Real) [] Gradient::Truth, |m| truth(m, m.eq(a, b));
    /// 1 where `a > b`, else 0.
    gt Gt(a: Real, b: Real) [] Gradient::Truth, |m| truth(m, m.gt(a, b));
    /// 1 where `a >= b`, else 0.
    ge Ge(a: Real, b: Real) [] Gradient::Truth, |m| truth(m, m.ge(a, b));
    /// 1 where `a != b`, else 0.
    ne Ne(a: Real, b: Real) [] Gradient::Truth, |m| truth(m, m.ne(a, b));
    /// `silu(gate) * up` (Shazeer 2020).
    swiglu Swiglu(gate: Real, up: Real) [] Gradient::Derived,
        |m| m.mul(m.mul(gate, m.sigmoid(gate)), up);
    /// `(a - b)^2`
    squared_error SquaredError(a: Real, b: Real) [] Gradient::Derived, |m| {
        let d = m.sub(a, b);
        m.mul(d, d)
    };
    /// `|a - b|`
    absolute_error AbsoluteError(a: Real, b: Real) [] Gradient::Derived,
        |m| m.abs(m.sub(a, b));
    /// With `d = |a - b|`: `d^2 / 2` up to `delta`, else `delta * (d - delta / 2)` (Huber 1964).
    huber_error HuberError(a: Real, b: Real) [delta = 1.0] Gradient::Derived, |m| {
        let d = m.abs(m.sub(a, b));
        let half = m.lit(0.5);
        let near = m.mul(m.mul(d, d), half);
        let far = m.mul(delta, m.sub(d, m.mul(delta, half)));
        m.select(m.le(d, delta), near, far)
    };
    /// `a * b + c`, rounded once.
    fma Fma(a: Real, b: Real, c: Real) [] Gradient::Derived, |m| m.fma(a, b, c);
    /// `a` where `cond` is not 0, else `b`.
    select Select(cond: Truth, a: Real, b: Real) [] Gradient::Derived,
        |m| m.select(m.ne(cond, m.lit(0.0)), a, b);
}
others {
    /// `x / (1 - p)` where the uniform number `u` is at least `p`, else 0 (Srivastava et al. 2014).
    dropout Dropout(x: Real, u: Unit) [p = 0.25] Gradient::Derived, 1, |m| {
        let scale = m.div(m.lit(1.0), m.sub(m.lit(1.0), p));
        [m.select(m.ge(u, p), m.mul(x, scale), m.lit(0.0))]
    };
    /// Counts a step of an optimizer, on the device: a factor `clip` of 0 (the gradients were not
    /// finite) makes it one that is skipped. Results `steps'`, `skipped'` and Adam's corrections
    /// `1 / (1 - beta^steps')` of both betas, whose logarithms are the scalars.
    advance Advance(steps: Positive, skipped: Positive, clip: Positive)
        [log_beta1 = -0.125, log_beta2 = -0.0078125] UPDATE, 4, |m| {
        let one = m.lit(1.0);
        let taken = m.select(m.gt(clip, m.lit(0.0)), one, m.lit(0.0));
        let steps = m.add(steps, taken);
        // At least the first step: a first one that is skipped must not divide by 0.
        let at = m.max(steps, one);
        let correction = |log: M::V| m.div(m.lit(-1.0), m.expm1(m.mul(at, log)));
        let skipped = m.add(skipped, m.sub(one, taken));
        [steps, skipped, correction(log_beta1), correction(log_beta2)]
    };
    /// Stochastic gradient descent with momentum and L2 decay: `g' = clip * g + weight_decay * p`,
    /// `buf' = momentum * buf + g'`, `p' = p - lr * buf'`; results `p'`, `buf'`. A `clip` of 0
    /// skips the step, here and below: everything stays what it is.
    sgd Sgd(p: Real, g: Real, buf: Real, lr: Positive, clip: Positive)
        [momentum = 0.9, weight_decay = 0.01] UPDATE, 2, |m| {
        let go = m.gt(clip, m.lit(0.0));
        let g = m.mul_add(p, weight_decay, m.mul(g, clip));
        let next = m.mul_add(momentum, buf, g);
        [m.select(go, m.mul_add(m.neg(lr), next, p), p), m.select(go, next, buf)]
    };
    /// Adam (Kingma, Ba 2014) with L2 decay; `correction1 = 1 / (1 - beta1^t)`, `correction2 =
    /// 1 / (1 - beta2^t)` come from the device; results `p'`, `m'`, `v'`.
    adam Adam(p: Real, g: Real, mean: Real, var: Positive, lr: Positive, clip: Positive,
        correction1: Positive, correction2: Positive)
        [beta1 = 0.9, beta2 = 0.999, eps = 1e-8, weight_decay = 0.01] UPDATE, 3, |m| {
        let g = m.mul_add(p, weight_decay, m.mul(g, clip));
        let constants = [beta1, beta2, eps];
        let next = adam_step(m, [p, g, mean, var], [lr, correction1, correction2], constants);
        unless_skipped(m, clip, next, [p, mean, var])
    };
    /// AdamW (Loshchilov, Hutter 2017): Adam with `p` decayed by `1 - lr * weight_decay` first.
    adamw Adamw(p: Real, g: Real, mean: Real, var: Positive, lr: Positive, clip: Positive,
        correction1: Positive, correction2: Positive)
        [beta1 = 0.9, beta2 = 0.999, eps = 1e-8, weight_decay = 0.01] UPDATE, 3, |m| {
        let g = m.mul(g, clip);
        let decayed = m.mul_add(m.neg(m.mul(lr, weight_decay)), p, p);
        let constants = [beta1, beta2, eps];
        let next = adam_step(m, [decayed, g, mean, var], [lr, correction1, correction2], constants);
        unless_skipped(m, clip, next, [p, mean, var])
    };
}
}

/// `next`, or `old` where the factor of the gradients is 0 or no number.
#[inline(always)]
fn unless_skipped<M: Math>(m: M, clip: M::V, next: [M::V; 3], old: [M::V; 3]) -> [M::V; 3] {
    let go = m.gt(clip, m.lit(0.0));
    std::array::from_fn(|i| m.select(go, next[i], old[i]))
}

/// What Adam and AdamW share: `p - lr * c1 * m' / (sqrt(c2 * v') + eps)`.
#[inline(always)]
fn adam_step<M: Math>(
    m: M,
    [p, g, mean, var]: [M::V; 4],
    [lr, correction1, correction2]: [M::V; 3],
    [beta1, beta2, eps]: [M::V; 3],
) -> [M::V; 3] {
    let one = m.lit(1.0);
    let mean = m.mul_add(beta1, mean, m.mul(m.sub(one, beta1), g));
    let var = m.mul_add(beta2, var, m.mul(m.sub(one, beta2), m.mul(g, g)));
    let denominator = m.add(m.sqrt(m.mul(var, correction2)), eps);
    let step = m.div(m.mul(m.mul(lr, correction1), mean), denominator);
    [m.sub(p, step), mean, var]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_expressions_have_equal_hashes_and_parameters_do_not_matter() {
        let a = Definition::find("gelu").unwrap().program(&[]);
        assert_eq!(a.hash(), Definition::find("gelu").unwrap().program(&[]).hash());
        assert_ne!(a.hash(), Definition::find("gelu_tanh").unwrap().program(&[]).hash());
        let clamp = Definition::find("clamp").unwrap();
        assert_ne!(clamp.program(&[0.0, 1.0]).hash(), clamp.program(&[0.0, 2.0]).hash());
    }

    #[test]
    fn bounds_in_the_wrong_order_hold_at_the_upper_one_as_in_pytorch() {
        let clamp = Definition::find("clamp").unwrap();
        for x in [-5.0, 0.0, 0.5, 1.0, 5.0] {
            assert_eq!(clamp.program(&[1.0, 0.0]).eval_f64(&[x], &[], 0), [0.0]);
            assert_eq!(clamp.derivative_program(&[1.0, 0.0], 0).eval_f64(&[x], &[], 0), [0.0]);
        }
    }

    #[test]
    fn derivatives_are_finite_wherever_the_true_value_is() {
        for d in ALL.iter().filter(|d| d.gradient.is_derived() && d.tensors.len() == 1) {
            let overflows = ["exp", "expm1", "sqr", "reciprocal", "rsqrt", "sqrt", "log", "log1p"];
            if overflows.contains(&d.name) {
                continue;
            }
            let derivative = d.derivative_program(&d.default_scalars(), 0);
            for x in [0.0, 1e-30, 1.0, 20.0, 100.0, 1e4, 1e30] {
                for x in [x, -x] {
                    let y = derivative.eval_f64(&[x], &[], 0)[0];
                    assert!(y.is_finite(), "{}'({x}) = {y}", d.name);
                }
            }
        }
    }

    #[test]
    fn derivatives_agree_with_central_differences() {
        for d in ALL.iter().filter(|d| d.gradient.is_derived()) {
            let (scalars, n) = (d.default_scalars(), d.tensors.len());
            let f = d.program(&scalars);
            for by in 0..n {
                let df = d.derivative_program(&scalars, by);
                for i in 0..40 {
                    let args: Vec<f64> = (0..n)
                        .map(|k| {
                            let x = 0.37 + 0.0531 * i as f64 + 0.217 * k as f64;
                            if d.tensors[k].1 == Domain::Real { x - 1.2 } else { x }
                        })
                        .collect();
                    if d.tensors.iter().any(|t| matches!(t.1, Domain::Truth | Domain::Unit)) {
                        continue;
                    }
                    let shifted = |h: f64| {
                        let mut a = args.clone();
                        a[by] += h;
                        f.eval_f64(&a, &[], 0)[0]
                    };
                    let numeric = (shifted(1e-6) - shifted(-1e-6)) / 2e-6;
                    let exact = df.eval_f64(&args, &[], 0)[0];
                    let jump = (shifted(1e-5) - 2.0 * shifted(0.0) + shifted(-1e-5)).abs() > 1e-6;
                    if !jump {
                        assert!(
                            (numeric - exact).abs() <= 1e-6 * (1.0 + exact.abs()),
                            "{} by {by} at {args:?}: {exact} and not {numeric}",
                            d.name
                        );
                    }
                }
            }
        }
    }
}
