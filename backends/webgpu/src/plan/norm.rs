//! Normalisation over the last axis, and its gradients.

use super::reduce;
use super::rows::{Spread, block, blocked};
use super::scope::{LANES, Scope, working_memory};
use crate::kernel::Kernel;
use crate::operand::Access;
use crate::template::{Template, template};
use starling_contract::{DType, Layout, Norm, NormBackward, NormKind, ReduceKind, Result, View};

const NORM: Template = template!("norm": "lanes", "norm", "row_main");
const NORM_BACKWARD: Template = template!("norm_backward": "lanes", "norm_backward", "row_main");
const NORM_WEIGHTS: Template = template!("norm_weights");

/// A vector of a row's length as an operand of one row.
fn vector(s: &Spread, k: &mut Kernel, name: &str, view: &View, access: Access) {
    let (n, step) = (view.shape()[0], view.layout.strides()[0]);
    let row = view.with(Layout::new(&[1, n], &[0, step], view.layout.offset()));
    s.operand(k, name, &row, access);
}

pub fn norm(v: &Norm, scope: Scope<'_>, kernels: &mut Vec<Kernel>) {
    let s = Spread::of(scope, &v.x);
    if s.count == 0 {
        return;
    }
    let mut k = s.kernel(scope, NORM, 3);
    k.constant("LAYER", v.kind == NormKind::Layer).bits("eps", v.eps.to_bits());
    k.constant("WEIGHT", v.weight.is_some()).constant("BIAS", v.bias.is_some());
    s.operand(&mut k, "x", &v.x, Access::Read);
    s.operand(&mut k, "y", &v.y, Access::Write);
    for (name, view) in [("weight", &v.weight), ("bias", &v.bias)] {
        view.iter().for_each(|view| vector(&s, &mut k, name, view, Access::Read));
    }
    k.operand("rstd", &v.rstd, Access::Write);
    v.mean.iter().for_each(|mean| {
        k.operand("mean", mean, Access::Write);
    });
    kernels.push(k);
}

/// Parts of the rows whose sums are taken side by side, and the rows of each.
fn parts(v: &NormBackward) -> (usize, usize) {
    let n = v.x.shape().last().copied().unwrap_or(0);
    let rows = v.rstd.len();
    reduce::split(rows, n.div_ceil(4))
}

/// Working memory of [`norm_backward`]: the sums of each part.
pub fn workspace_bytes(v: &NormBackward) -> usize {
    let (parts, _) = parts(v);
    let vectors = [&v.d_weight, &v.d_bias].into_iter().flatten().count();
    let n = v.x.shape().last().copied().unwrap_or(0);
    if parts > 1 { vectors * parts * n * 4 } else { 0 }
}

pub fn norm_backward(v: &NormBackward, scope: Scope<'_>, kernels: &mut Vec<Kernel>) -> Result<()> {
    // First, because the gradient of x may be written over what the others are sums of.
    weights(v, scope, kernels)?;
    if v.x.is_empty() {
        return Ok(());
    }
    let s = Spread::of(scope, &v.x);
    let mut k = s.kernel(scope, NORM_BACKWARD, 2);
    k.constant("LAYER", v.kind == NormKind::Layer).constant("WEIGHT", v.weight.is_some());
    s.operand(&mut k, "x", &v.x, Access::Read);
    s.operand(&mut k, "dy", &v.d_y, Access::Read);
    s.operand(&mut k, "dx", &v.d_x, Access::Write);
    v.weight.iter().for_each(|w| vector(&s, &mut k, "weight", w, Access::Read));
    statistics(v, &mut k);
    kernels.push(k);
    Ok(())
}

/// What the forward wrote for each row.
fn statistics(v: &NormBackward, k: &mut Kernel) {
    k.operand("rstd", &v.rstd, Access::Read);
    v.mean.iter().for_each(|mean| {
        k.operand("mean", mean, Access::Read);
    });
}

/// The sums over the rows: of parts of them into memory, then of the parts.
fn weights(v: &NormBackward, scope: Scope<'_>, kernels: &mut Vec<Kernel>) -> Result<()> {
    let (parts, chunk) = parts(v);
    let n = v.x.shape().last().copied().unwrap_or(0);
    if n == 0 || (v.d_weight.is_none() && v.d_bias.is_none()) {
        return Ok(());
    }
    let workspace = working_memory("norm_backward", &v.workspace, workspace_bytes(v))?;
    // The sums of part p are row p of a matrix, in memory of their own when there are several.
    let mut sums = [None, None];
    let mut first = 0;
    for (sum, vector) in sums.iter_mut().zip([&v.d_weight, &v.d_bias]) {
        *sum = vector.as_ref().map(|vector| match &workspace {
            Some(w) => {
                let layout = Layout::new(&[parts, n], &[n as isize, 1], w.layout.offset() + first);
                first += parts * n;
                View { storage: w.storage.clone(), dtype: DType::F32, layout }
            }
            None => {
                let step = vector.layout.strides()[0];
                vector.with(Layout::new(&[1, n], &[0, step], vector.layout.offset()))
            }
        });
    }
    let s = Spread::of(scope, &v.x);
    let mut k = Kernel::new(NORM_WEIGHTS);
    let (weight, bias) = (v.d_weight.is_some(), v.d_bias.is_some());
    k.constant("WG", LANES as u32).constant("FOUR", s.four).turns(blocked(chunk, block(chunk)));
    k.constant("LAYER", v.kind == NormKind::Layer);
    k.constant("WEIGHT", weight).constant("BIAS", bias);
    k.word("rows", v.rstd.len())
        .word("items", s.items)
        .word("parts", parts)
        .word("chunk", chunk)
        .word("block", block(chunk));
    s.operand(&mut k, "dy", &v.d_y, Access::Read);
    if weight {
        s.operand(&mut k, "x", &v.x, Access::Read);
        statistics(v, &mut k);
    }
    for (name, sum) in ["dw", "db"].into_iter().zip(&sums) {
        sum.iter().for_each(|sum| s.operand(&mut k, name, sum, Access::Write));
    }
    k.groups((s.items * parts).div_ceil(LANES));
    kernels.push(k);
    for (sum, vector) in sums.iter().zip([&v.d_weight, &v.d_bias]).filter(|_| parts > 1) {
        if let (Some(sum), Some(vector)) = (sum, vector) {
            let sum = sum.with(sum.layout.permute(&[1, 0]));
            let rows = (v.rstd.len(), chunk);
            reduce::combine(ReduceKind::Sum, &[sum], rows, vector, scope, kernels);
        }
    }
    Ok(())
}
