//! How far each element of a verb's output may be from the true value.
//!
//! Every allowance follows from the verb and its operands; nothing is tuned to a backend. With
//! `u = 2^-24`:
//!
//! - elementwise programs: [`Bound`];
//! - a sum of `n` numbers added in blocks or as a tree: `(4 + log2 n) u * sum |x|`;
//! - a dot product of random numbers: `3 u sqrt(k) |a| |b|` with the vectors' norms (the sum of
//!   `k` independent roundings of partial sums that grow like `sqrt(i)`);
//! - an exponential: 3 u of itself and u of its argument, because arguments are rounded
//!   differences;
//! - outputs of narrow types: one more rounding, which is monotone, so the ends of the interval
//!   are rounded.

mod attention;
mod matmul;
mod program;
mod rows;

use starling_contract::{DType, Result, Verb};
use starling_ops::Bound;
use starling_ops::bound::Enclosure;
use starling_reference::evaluate;
use starling_reference::memory::round_to;

/// Unit roundoff of f32.
pub(crate) const U: f64 = DType::F32.unit_roundoff();
/// What a device that flushes subnormal numbers may lose.
pub(crate) const TINY: f64 = f32::MIN_POSITIVE as f64;

/// The values that the elements of each output of a verb on host memory may have, in the order of
/// [`Verb::results`] and row-major order. `exact` allows only the true value, rounded once; `flush`
/// says that the device may turn subnormal numbers into 0.
///
/// # Errors
/// What [`evaluate`] reports.
pub fn allowed(verb: &Verb, exact: bool, flush: bool) -> Result<Vec<Vec<Enclosure>>> {
    let bound = Bound { flush };
    let mut all = match verb {
        _ if exact => points(verb)?,
        Verb::Map(v) => program::map(v, bound)?,
        Verb::Reduce(v) => program::reduce(v, bound)?,
        Verb::Gemm(v) => matmul::gemm(v, bound)?,
        Verb::Attention(v) => around(verb, attention::forward(v, bound)?)?,
        Verb::AttentionBackward(v) => around(verb, attention::backward(v, bound)?)?,
        Verb::Softmax(v) => around(verb, rows::softmax(v)?)?,
        Verb::SoftmaxBackward(v) => around(verb, rows::softmax_backward(v)?)?,
        Verb::Norm(v) => around(verb, rows::norm(v)?)?,
        Verb::NormBackward(v) => around(verb, rows::norm_backward(v)?)?,
        Verb::CrossEntropy(v) => around(verb, rows::cross_entropy(v)?)?,
        Verb::CrossEntropyBackward(v) => around(verb, rows::cross_entropy_backward(v)?)?,
        Verb::ScatterAdd(v) => around(verb, rows::scatter_add(v)?)?,
        Verb::Copy(v) if !v.src.dtype.is_float() && v.dst.dtype.is_float() => {
            // An integer may pass through f32 on its way to a narrower type.
            let values = points(verb)?;
            let error = |e: &Enclosure| Enclosure::around(e.value, U * e.value.abs());
            values.iter().map(|values| values.iter().map(error).collect()).collect()
        }
        Verb::Gather(_) | Verb::Copy(_) | Verb::Fill(_) => points(verb)?,
    };
    for (view, values) in verb.results().into_iter().zip(&mut all) {
        values.iter_mut().for_each(|e| *e = stored(view.dtype, *e, flush));
    }
    Ok(all)
}

/// The true values and nothing else.
fn points(verb: &Verb) -> Result<Vec<Vec<Enclosure>>> {
    let values = evaluate(verb)?;
    Ok(values.into_iter().map(|v| v.into_iter().map(Enclosure::exact).collect()).collect())
}

/// The true values to within the given errors.
fn around(verb: &Verb, errors: Vec<Vec<f64>>) -> Result<Vec<Vec<Enclosure>>> {
    let pair = |(value, error): (f64, f64)| {
        // A true value that is no number leaves no room for an error.
        if value.is_finite() { Enclosure::around(value, error) } else { Enclosure::exact(value) }
    };
    let values = evaluate(verb)?.into_iter().zip(errors);
    Ok(values.map(|(values, errors)| values.into_iter().zip(errors).map(pair).collect()).collect())
}

/// The interval after its elements are stored as `dtype`.
fn stored(dtype: DType, e: Enclosure, flush: bool) -> Enclosure {
    let (lo, hi) = match dtype {
        // The rounding to f32 is part of the allowance, but for overflow.
        DType::F32 if e.lo != e.hi => (overflown(e.lo), overflown(e.hi)),
        _ => (round_to(dtype, e.lo), round_to(dtype, e.hi)),
    };
    if e.is_empty() {
        return e;
    }
    let lost = flush && lo < TINY && hi > -TINY;
    let (lo, hi) = if lost { (lo.min(0.0), hi.max(0.0)) } else { (lo, hi) };
    Enclosure { value: round_to(dtype, e.value), lo, hi, nan: e.nan }
}

/// Infinity for what f32 cannot hold.
fn overflown(x: f64) -> f64 {
    if x.abs() > f64::from(f32::MAX) { f64::from(x as f32) } else { x }
}

/// The factor of the error of a sum of `n` numbers.
pub(crate) fn sum_factor(n: usize) -> f64 {
    4.0 + (n.max(1) as f64).log2()
}

/// The error of a dot product of `k` random pairs whose vectors have these norms.
pub(crate) fn dot_error(k: usize, a: f64, b: f64) -> f64 {
    3.0 * U * (k as f64).sqrt() * a * b
}

/// The Euclidean norm.
pub(crate) fn norm<'a>(x: impl IntoIterator<Item = &'a f64>) -> f64 {
    x.into_iter().map(|x| x * x).sum::<f64>().sqrt()
}
