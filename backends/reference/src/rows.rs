//! Softmax, normalisation and cross-entropy: work along the last axis.

use crate::memory::load;
use starling_contract::{
    CrossEntropy, CrossEntropyBackward, Error, Norm, NormBackward, NormKind, Result, Softmax,
    SoftmaxBackward, View,
};

/// The length of the last axis, at least 1 so that it can cut an empty array into no rows.
fn width(x: &View) -> usize {
    x.shape().last().copied().unwrap_or(1).max(1)
}

/// The largest, NaN when one is NaN, and the logarithm of the sum of exponentials less it.
fn log_sum_exp(x: &[f64]) -> (f64, f64) {
    let largest = x.iter().fold(f64::NEG_INFINITY, |m, &x| if x > m || x.is_nan() { x } else { m });
    (largest, x.iter().map(|x| (x - largest).exp()).sum::<f64>().ln())
}

pub fn softmax(v: &Softmax) -> Result<Vec<Vec<f64>>> {
    let x = load(&v.x)?;
    let mut y = Vec::with_capacity(x.len());
    for row in x.chunks_exact(width(&v.x)) {
        let (largest, log_sum) = log_sum_exp(row);
        let log = row.iter().map(|x| (x - largest) - log_sum);
        y.extend(log.map(|l| if v.log { l } else { l.exp() }));
    }
    Ok(vec![y])
}

pub fn softmax_backward(v: &SoftmaxBackward) -> Result<Vec<Vec<f64>>> {
    let (y, d_y, n) = (load(&v.y)?, load(&v.d_y)?, width(&v.y));
    let mut d_x = Vec::with_capacity(y.len());
    for (y, d_y) in y.chunks_exact(n).zip(d_y.chunks_exact(n)) {
        if v.log {
            let sum: f64 = d_y.iter().sum();
            d_x.extend(y.iter().zip(d_y).map(|(y, d)| d - y.exp() * sum));
        } else {
            let sum: f64 = y.iter().zip(d_y).map(|(y, d)| y * d).sum();
            d_x.extend(y.iter().zip(d_y).map(|(y, d)| y * (d - sum)));
        }
    }
    Ok(vec![d_x])
}

/// An optional vector, `default` where there is none.
fn vector(view: &Option<View>, n: usize, default: f64) -> Result<Vec<f64>> {
    view.as_ref().map_or_else(|| Ok(vec![default; n]), load)
}

pub fn norm(v: &Norm) -> Result<Vec<Vec<f64>>> {
    let (x, n) = (load(&v.x)?, width(&v.x));
    let (weight, bias) = (vector(&v.weight, n, 1.0)?, vector(&v.bias, n, 0.0)?);
    let mut y = Vec::with_capacity(x.len());
    let (mut means, mut rstds) = (Vec::new(), Vec::new());
    for row in x.chunks_exact(n) {
        let mean = match v.kind {
            NormKind::Layer => row.iter().sum::<f64>() / n as f64,
            NormKind::Rms => 0.0,
        };
        let square = row.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>() / n as f64;
        let rstd = 1.0 / (square + f64::from(v.eps)).sqrt();
        y.extend((0..n).map(|i| (row[i] - mean) * rstd * weight[i] + bias[i]));
        means.push(mean);
        rstds.push(rstd);
    }
    // Rows of no elements still have statistics, of nothing.
    rstds.resize(v.rstd.len(), f64::NAN);
    means.resize(v.rstd.len(), f64::NAN);
    let mut results = vec![y, rstds];
    if v.mean.is_some() {
        results.push(means);
    }
    Ok(results)
}

pub fn norm_backward(v: &NormBackward) -> Result<Vec<Vec<f64>>> {
    let (x, d_y, n) = (load(&v.x)?, load(&v.d_y)?, width(&v.x));
    let weight = vector(&v.weight, n, 1.0)?;
    let rstd = load(&v.rstd)?;
    let mean = v.mean.as_ref().map_or_else(|| Ok(vec![0.0; rstd.len()]), load)?;
    let mut d_x = Vec::with_capacity(x.len());
    // An empty row has no gradients of its weights.
    let vector_len = if v.x.is_empty() { v.x.shape().last().copied().unwrap_or(0) } else { n };
    let (mut d_weight, mut d_bias) = (vec![0.0; vector_len], vec![0.0; vector_len]);
    for (row, (x, d_y)) in x.chunks_exact(n).zip(d_y.chunks_exact(n)).enumerate() {
        let normal: Vec<f64> = x.iter().map(|x| (x - mean[row]) * rstd[row]).collect();
        let g: Vec<f64> = d_y.iter().zip(&weight).map(|(d, w)| d * w).collect();
        let along: f64 = g.iter().zip(&normal).map(|(g, x)| g * x).sum::<f64>() / n as f64;
        let shift = match v.kind {
            NormKind::Layer => g.iter().sum::<f64>() / n as f64,
            NormKind::Rms => 0.0,
        };
        d_x.extend((0..n).map(|i| rstd[row] * (g[i] - shift - normal[i] * along)));
        for i in 0..n {
            d_weight[i] += d_y[i] * normal[i];
            d_bias[i] += d_y[i];
        }
    }
    let mut results = vec![d_x];
    results.extend(v.d_weight.as_ref().map(|_| d_weight));
    results.extend(v.d_bias.as_ref().map(|_| d_bias));
    Ok(results)
}

/// The class of a row; `None` when it is ignored.
fn class(
    op: &'static str,
    target: f64,
    ignore_index: Option<i64>,
    classes: usize,
) -> Result<Option<usize>> {
    let index = target as i64;
    if ignore_index == Some(index) {
        return Ok(None);
    }
    let inside = usize::try_from(index).ok().filter(|&i| i < classes);
    inside.map(Some).ok_or(Error::Index { op, index, bound: classes })
}

pub fn cross_entropy(v: &CrossEntropy) -> Result<Vec<Vec<f64>>> {
    let (logits, targets) = (load(&v.logits)?, load(&v.targets)?);
    let classes = v.logits.shape()[1];
    let (mut losses, mut lses) = (Vec::new(), Vec::new());
    for (row, &target) in targets.iter().enumerate() {
        let x = &logits[row * classes..][..classes];
        let (largest, log_sum) = log_sum_exp(x);
        let class = class("cross_entropy", target, v.ignore_index, classes)?;
        losses.push(class.map_or(0.0, |c| log_sum - (x[c] - largest)));
        lses.push(largest + log_sum);
    }
    Ok(vec![losses, lses])
}

pub fn cross_entropy_backward(v: &CrossEntropyBackward) -> Result<Vec<Vec<f64>>> {
    let (logits, targets) = (load(&v.logits)?, load(&v.targets)?);
    let (lse, d_losses) = (load(&v.lse)?, load(&v.d_losses)?);
    let classes = v.logits.shape()[1];
    let mut d_logits = Vec::with_capacity(logits.len());
    for (row, &target) in targets.iter().enumerate() {
        let x = &logits[row * classes..][..classes];
        match class("cross_entropy_backward", target, v.ignore_index, classes)? {
            None => d_logits.extend(std::iter::repeat_n(0.0, classes)),
            Some(class) => d_logits.extend(x.iter().enumerate().map(|(j, x)| {
                d_losses[row] * ((x - lse[row]).exp() - f64::from(u8::from(j == class)))
            })),
        }
    }
    Ok(vec![d_logits])
}
