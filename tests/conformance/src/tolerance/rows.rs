//! Softmax, normalisation, cross-entropy and scatter_add.

use super::program::squares_error;
use super::{TINY, U, sum_factor};
use starling_contract::{
    CrossEntropy, CrossEntropyBackward, Norm, NormBackward, NormKind, Result, ScatterAdd, Softmax,
    SoftmaxBackward, View,
};
use starling_reference::evaluate;
use starling_reference::memory::read;

fn width(x: &View) -> usize {
    x.shape().last().copied().unwrap_or(1).max(1)
}

/// What the errors of a row's exponentials come from.
struct Exponentials {
    largest: f64,
    log_sum: f64,
    /// Relative error of the sum of exponentials.
    sum_error: f64,
}

impl Exponentials {
    fn of(x: &[f64]) -> Self {
        let largest = x.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let sum: f64 = x.iter().map(|x| (x - largest).exp()).sum();
        let shifts = |x: &f64| {
            let shift = (x - largest).exp() / sum * (largest - x);
            if shift.is_nan() { 0.0 } else { shift }
        };
        let mean_shift: f64 = x.iter().map(shifts).sum();
        let sum_error = U * (mean_shift + 3.0 + sum_factor(x.len()));
        Self { largest, log_sum: sum.ln(), sum_error }
    }

    /// Error of the logarithm of the sum: a relative error becomes an absolute one.
    fn log_error(&self) -> f64 {
        self.sum_error + 3.0 * U * self.log_sum.abs()
    }
}

/// `y = exp(x - max) / sum` and its logarithm `(x - max) - log(sum)`.
pub fn softmax(v: &Softmax) -> Result<Vec<Vec<f64>>> {
    let x = read(&v.x)?;
    let mut errors = Vec::with_capacity(x.len());
    for row in x.chunks_exact(width(&v.x)) {
        let e = Exponentials::of(row);
        errors.extend(row.iter().map(|x| {
            let shift = e.largest - x;
            let y = -shift - e.log_sum;
            if v.log {
                return U * (shift + 2.0 * y.abs()) + e.log_error();
            }
            let relative = U * (shift + 6.0) + e.sum_error;
            if y == f64::NEG_INFINITY { 0.0 } else { y.exp() * relative + TINY }
        }));
    }
    Ok(vec![errors])
}

pub fn softmax_backward(v: &SoftmaxBackward) -> Result<Vec<Vec<f64>>> {
    let (y, d_y, n) = (read(&v.y)?, read(&v.d_y)?, width(&v.y));
    let factor = U * (sum_factor(n) + 1.0);
    let mut errors = Vec::with_capacity(y.len());
    for (y, d_y) in y.chunks_exact(n).zip(d_y.chunks_exact(n)) {
        let terms = |(y, d): (&f64, &f64)| if v.log { *d } else { y * d };
        let sum: f64 = y.iter().zip(d_y).map(terms).sum();
        let sum_error = factor * y.iter().zip(d_y).map(terms).map(f64::abs).sum::<f64>();
        errors.extend(y.iter().zip(d_y).map(|(y, d)| {
            let tiny = if sum_error > 0.0 { TINY } else { 0.0 };
            if v.log {
                let p = y.exp();
                return p * (sum_error + 5.0 * U * sum.abs()) + 2.0 * U * d.abs() + tiny;
            }
            y.abs() * (sum_error + 2.0 * U * (d.abs() + sum.abs())) + tiny
        }));
    }
    Ok(vec![errors])
}

/// The error of a mean: that of the sum, and its own rounding.
fn mean_error(x: &[f64], mean: f64) -> f64 {
    let sum: f64 = x.iter().map(|x| x.abs()).sum();
    U * (sum_factor(x.len()) * sum / x.len() as f64 + 2.0 * mean.abs())
}

/// The error of the mean passes into every difference; half the relative error of the variance
/// into the reciprocal standard deviation.
pub fn norm(v: &Norm) -> Result<Vec<Vec<f64>>> {
    let (x, n) = (read(&v.x)?, width(&v.x));
    let weight = v.weight.as_ref().map(read).transpose()?;
    let truth = evaluate(&v.clone().into())?;
    let (mut y_error, mut shifts, mut rstd_error) = (Vec::new(), Vec::new(), Vec::new());
    for (row, x) in x.chunks_exact(n).enumerate() {
        let rstd = truth[1][row];
        let (mean, shift) = match v.kind {
            NormKind::Rms => (0.0, 0.0),
            NormKind::Layer => {
                let mean = x.iter().sum::<f64>() / n as f64;
                (mean, mean_error(x, mean))
            }
        };
        let square_error = squares_error(x, mean, shift) / n as f64;
        let relative = 0.5 * square_error * rstd * rstd + 4.0 * U;
        shifts.push(shift);
        rstd_error.push(rstd * relative);
        for (i, x) in x.iter().enumerate() {
            let w = weight.as_ref().map_or(1.0, |w| w[i].abs());
            let normal = (x - mean).abs() * rstd;
            let y = truth[0][row * n + i].abs();
            let own = shift * rstd + normal * (relative + 4.0 * U);
            y_error.push(w * own + U * (w * normal + 2.0 * y));
        }
    }
    let mut errors = vec![y_error, rstd_error];
    if v.mean.is_some() {
        errors.push(shifts);
    }
    let lens = truth.iter().map(Vec::len);
    errors.iter_mut().zip(lens).for_each(|(e, len)| e.resize(len, 0.0));
    Ok(errors)
}

/// `d_x = rstd (g - mean(g) - normal mean(g normal))` with `g = d_y weight`; gradients of the
/// parameters are sums over the rows. The saved mean is off by what the forward may be off; a
/// backend may use it as it is or find a better one.
pub fn norm_backward(v: &NormBackward) -> Result<Vec<Vec<f64>>> {
    let (x, d_y, n) = (read(&v.x)?, read(&v.d_y)?, width(&v.x));
    let weight = v.weight.as_ref().map(read).transpose()?;
    let rstd = read(&v.rstd)?;
    let mean = v.mean.as_ref().map(read).transpose()?;
    let rows = rstd.len();
    let truth = evaluate(&v.clone().into())?;
    let mut d_x = Vec::with_capacity(x.len());
    let (mut along_weight, mut along_bias) = (vec![0.0; n], vec![0.0; n]);
    // The sums over the rows, and what is rounded before them.
    let over_rows = U * (sum_factor(rows) + 5.0);
    for (row, (x, d_y)) in x.chunks_exact(n).zip(d_y.chunks_exact(n)).enumerate() {
        let mean = mean.as_ref().map_or(0.0, |m| m[row]);
        let normal: Vec<f64> = x.iter().map(|x| (x - mean) * rstd[row]).collect();
        let g: Vec<f64> = (0..n).map(|i| d_y[i] * weight.as_ref().map_or(1.0, |w| w[i])).collect();
        let average = |x: &mut dyn Iterator<Item = f64>| x.sum::<f64>() / n as f64;
        let shift = average(&mut g.iter().copied());
        let shift_size = average(&mut g.iter().map(|g| g.abs()));
        let along = average(&mut g.iter().zip(&normal).map(|(g, x)| g * x));
        let along_size = average(&mut g.iter().zip(&normal).map(|(g, x)| (g * x).abs()));
        let (shift, shift_size) = match v.kind {
            NormKind::Layer => (shift.abs(), shift_size),
            NormKind::Rms => (0.0, 0.0),
        };
        let factor = U * (sum_factor(n) + 5.0);
        let saved = match v.kind {
            NormKind::Layer => mean_error(x, mean) * rstd[row],
            NormKind::Rms => 0.0,
        };
        for i in 0..n {
            let back = normal[i].abs() * along.abs();
            let error = factor * (shift_size + normal[i].abs() * along_size)
                + U * (4.0 * g[i].abs() + 2.0 * shift + 8.0 * back)
                + saved * (along.abs() + normal[i].abs() * shift);
            d_x.push(rstd[row] * error + 3.0 * U * truth[0][row * n + i].abs() + TINY);
            along_weight[i] += (d_y[i] * normal[i]).abs() + d_y[i].abs() * saved / over_rows;
            along_bias[i] += d_y[i].abs();
        }
    }
    let scaled = |sums: &[f64]| sums.iter().map(|s| over_rows * s).collect::<Vec<f64>>();
    let mut errors = vec![d_x];
    errors.extend(v.d_weight.as_ref().map(|_| scaled(&along_weight)));
    errors.extend(v.d_bias.as_ref().map(|_| scaled(&along_bias)));
    Ok(errors)
}

pub fn cross_entropy(v: &CrossEntropy) -> Result<Vec<Vec<f64>>> {
    let truth = evaluate(&v.clone().into())?;
    let (logits, targets) = (read(&v.logits)?, read(&v.targets)?);
    let classes = v.logits.shape()[1];
    let (mut losses, mut lses) = (Vec::new(), Vec::new());
    for (row, (loss, lse)) in truth[0].iter().zip(&truth[1]).enumerate() {
        let e = Exponentials::of(&logits[row * classes..][..classes]);
        let error = e.log_error() + U * (e.largest.abs() + 2.0 * lse.abs());
        let ignored = v.ignore_index == Some(targets[row] as i64);
        losses.push(if ignored { 0.0 } else { error + U * loss.abs() });
        lses.push(error);
    }
    Ok(vec![losses, lses])
}

pub fn cross_entropy_backward(v: &CrossEntropyBackward) -> Result<Vec<Vec<f64>>> {
    let (logits, targets) = (read(&v.logits)?, read(&v.targets)?);
    let (lse, d_losses) = (read(&v.lse)?, read(&v.d_losses)?);
    let classes = v.logits.shape()[1];
    let mut errors = Vec::with_capacity(logits.len());
    for (row, &target) in targets.iter().enumerate() {
        let ignored = v.ignore_index == Some(target as i64);
        for (j, x) in logits[row * classes..][..classes].iter().enumerate() {
            if ignored {
                errors.push(0.0);
                continue;
            }
            let shift = x - lse[row];
            let (p, is_target) = (shift.exp(), f64::from(u8::from(j as f64 == target)));
            let error = p * U * (shift.abs() + 4.0) + 3.0 * U * (p - is_target).abs();
            errors.push(d_losses[row].abs() * error + TINY);
        }
    }
    Ok(vec![errors])
}

/// Additions in order: each of the `hits` of an element rounds the sum so far.
pub fn scatter_add(v: &ScatterAdd) -> Result<Vec<Vec<f64>>> {
    // The same scatter over magnitudes and over ones gives each element's sizes and hits.
    let (x, index, start) = (read(&v.x)?, read(&v.index)?, read(&v.out)?);
    let shape = v.out.shape();
    let inner: usize = shape[v.axis + 1..].iter().product();
    let part = v.x.shape()[v.axis];
    let mut sizes: Vec<f64> = start.iter().map(|x| x.abs()).collect();
    let mut hits = vec![0.0; sizes.len()];
    for (i, x) in x.iter().enumerate() {
        let (outer, column) = (i / (part * inner), i % inner);
        let at = (outer * shape[v.axis] + index[i] as usize) * inner + column;
        sizes[at] += x.abs();
        hits[at] += 1.0;
    }
    Ok(vec![sizes.iter().zip(hits).map(|(size, hits)| hits * U * size).collect()])
}
