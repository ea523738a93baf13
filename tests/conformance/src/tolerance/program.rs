//! Elementwise programs and reductions of them.

use super::{U, sum_factor};
use starling_contract::{DType, Immediates, Map, Program, Reduce, ReduceKind, Result, View};
use starling_ops::Bound;
use starling_ops::bound::{Enclosure, Whole};
use starling_ops::program::{Env, Slot};
use starling_reference::evaluate;
use starling_reference::memory::read;

/// What a program over enclosed inputs may yield, per output.
pub fn enclose(
    bound: Bound,
    program: &Program,
    inputs: &[Vec<Enclosure>],
    (params, immediates): (&[View], &Immediates),
    len: usize,
) -> Result<Vec<Vec<Enclosure>>> {
    let mut words = Vec::new();
    for p in params {
        let x = read(p)?[0];
        words.push(if p.dtype == DType::U32 { x as u32 } else { (x as f32).to_bits() });
    }
    let reals: Vec<Enclosure> =
        words.iter().map(|&w| bound.input(f64::from(f32::from_bits(w)))).collect();
    let words: Vec<Whole> = words.iter().map(|&value| Whole { value, certain: true }).collect();
    let immediates: Vec<Enclosure> =
        immediates.values().map(|x| bound.input(f64::from(x))).collect();
    let mut outputs = vec![Vec::with_capacity(len); program.outputs().len()];
    let mut slots: Vec<Slot<Bound>> = Vec::new();
    let mut element = vec![Enclosure::exact(0.0); inputs.len()];
    for i in 0..len {
        for (e, input) in element.iter_mut().zip(inputs) {
            *e = input[i];
        }
        let index = Whole { value: i as u32, certain: true };
        let env =
            Env { inputs: &element, params: &reals, words: &words, immediates: &immediates, index };
        program.eval(bound, &env, &mut slots, |o, e| outputs[o].push(e));
    }
    Ok(outputs)
}

/// The inputs of a program as enclosures.
pub fn inputs(bound: Bound, views: &[View]) -> Result<Vec<Vec<Enclosure>>> {
    let one = |view: &View| Ok(read(view)?.into_iter().map(|x| bound.input(x)).collect());
    views.iter().map(one).collect()
}

/// A byte holds 1 where the value is not 0.
pub fn truths(dtype: DType, values: Vec<Enclosure>) -> Vec<Enclosure> {
    if dtype != DType::U8 {
        return values;
    }
    let truth = |e: Enclosure| {
        let zero = e.contains(0.0);
        let other = e.nan || e.lo < 0.0 || e.hi > 0.0;
        let number = |b: bool| f64::from(u8::from(b));
        Enclosure {
            value: number(e.value != 0.0),
            lo: number(!zero),
            hi: number(other),
            nan: false,
        }
    };
    values.into_iter().map(truth).collect()
}

pub fn map(v: &Map, bound: Bound) -> Result<Vec<Vec<Enclosure>>> {
    let len = v.outputs.first().map_or(0, View::len);
    let leaves = (&v.params[..], &v.immediates);
    let all = enclose(bound, &v.program, &inputs(bound, &v.inputs)?, leaves, len)?;
    Ok(all.into_iter().zip(&v.outputs).map(|(e, view)| truths(view.dtype, e)).collect())
}

pub fn reduce(v: &Reduce, bound: Bound) -> Result<Vec<Vec<Enclosure>>> {
    let shape = v.inputs[0].shape();
    let len = v.inputs[0].len();
    let leaves = (&v.params[..], &v.immediates);
    let values = enclose(bound, &v.program, &inputs(bound, &v.inputs)?, leaves, len)?;
    let mut groups = vec![Vec::new(); v.output.len()];
    for (i, e) in values[0].iter().enumerate() {
        groups[starling_reference::group(shape, v.axes, i)].push(*e);
    }
    let truth = evaluate(&v.clone().into())?.swap_remove(0);
    let combined = groups.iter().zip(truth).map(|(group, value)| combine(v.kind, group, value));
    Ok(vec![combined.collect()])
}

fn combine(kind: ReduceKind, x: &[Enclosure], value: f64) -> Enclosure {
    let nan = x.iter().any(|e| e.nan);
    let empty = x.iter().any(Enclosure::is_empty);
    match kind {
        // Where the first of equals stands is no matter of rounding.
        ReduceKind::ArgMax | ReduceKind::ArgMin => Enclosure::exact(value),
        _ if x.is_empty() || empty || !value.is_finite() => Enclosure::exact(value),
        ReduceKind::Max => {
            let largest =
                |end: fn(&Enclosure) -> f64| x.iter().map(end).fold(f64::NEG_INFINITY, f64::max);
            Enclosure { value, lo: largest(|e| e.lo), hi: largest(|e| e.hi), nan }
        }
        ReduceKind::Min => {
            let smallest =
                |end: fn(&Enclosure) -> f64| x.iter().map(end).fold(f64::INFINITY, f64::min);
            Enclosure { value, lo: smallest(|e| e.lo), hi: smallest(|e| e.hi), nan }
        }
        ReduceKind::Sum => Enclosure::around(value, sum_error(x)),
        ReduceKind::Mean => {
            Enclosure::around(value, sum_error(x) / x.len() as f64 + 2.0 * U * value.abs())
        }
        ReduceKind::Var { correction } => {
            let n = x.len() as f64;
            let mean = x.iter().map(|e| e.value).sum::<f64>() / n;
            let values: Vec<f64> = x.iter().map(|e| e.value).collect();
            let own = x.iter().map(Enclosure::error).fold(0.0, f64::max);
            let error = squares_error(&values, mean, sum_error(x) / n + own + U * mean.abs());
            let divisor = (n - f64::from(correction)).max(0.0);
            Enclosure::around(value, error / divisor + 2.0 * U * value)
        }
    }
}

/// The error of the sum: the elements' own and that of adding.
fn sum_error(x: &[Enclosure]) -> f64 {
    let own: f64 = x.iter().map(Enclosure::error).sum();
    own + sum_factor(x.len()) * U * x.iter().map(|e| e.value.abs()).sum::<f64>()
}

/// The error of `sum (x - mean)^2` when the mean is off by `shift`: every difference is off by
/// `shift` and its rounding, every square and the sum are rounded.
pub fn squares_error(x: &[f64], mean: f64, shift: f64) -> f64 {
    let (mut distances, mut squares) = (0.0, 0.0);
    for x in x {
        let d = (x - mean).abs();
        distances += d;
        squares += d * d;
    }
    let n = x.len();
    (sum_factor(n) + 3.0) * U * squares + 2.0 * shift * distances + n as f64 * shift * shift
}
