//! Matrix products and their epilogues.

use super::program::{enclose, inputs, truths};
use super::{TINY, U, dot_error, norm};
use starling_contract::{Gemm, Result};
use starling_ops::Bound;
use starling_ops::bound::Enclosure;
use starling_reference::evaluate;
use starling_reference::memory::read;

pub fn gemm(v: &Gemm, bound: Bound) -> Result<Vec<Vec<Enclosure>>> {
    let product = product(v)?;
    let Some(e) = &v.epilogue else { return Ok(vec![product]) };
    let len = product.len();
    let mut operands = inputs(bound, &e.inputs)?;
    operands.insert(0, product);
    let all = enclose(bound, &e.program, &operands, (&e.params, &e.immediates), len)?;
    let dtypes = std::iter::once(v.c.dtype).chain(e.outputs.iter().map(|o| o.dtype));
    Ok(all.into_iter().zip(dtypes).map(|(e, dtype)| truths(dtype, e)).collect())
}

/// `alpha * a b + beta * c`: the dot product's error, and a rounding of each term and of the sum.
fn product(v: &Gemm) -> Result<Vec<Enclosure>> {
    let values = evaluate(&Gemm { epilogue: None, ..v.clone() }.into())?.swap_remove(0);
    let (a, b) = (read(&v.a)?, read(&v.b)?);
    let c = if v.beta == 0.0 { Vec::new() } else { read(&v.c)? };
    let (alpha, beta) = (f64::from(v.alpha).abs(), f64::from(v.beta));
    let rank = v.c.shape().len();
    let (m, n, k) = (v.c.shape()[rank - 2], v.c.shape()[rank - 1], v.a.shape()[rank - 1]);
    let rows: Vec<f64> = a.chunks_exact(k.max(1)).map(norm).collect();
    let columns: Vec<f64> = (0..b.len() / (k * n).max(1))
        .flat_map(|batch| (0..n).map(move |j| (batch, j)))
        .map(|(batch, j)| norm(b[batch * k * n..][..k * n].iter().skip(j).step_by(n)))
        .collect();
    let error = |(i, &value): (usize, &f64)| {
        if !value.is_finite() {
            return Enclosure::exact(value);
        }
        let old = c.get(i).map_or(0.0, |c| (beta * c).abs());
        let (row, column) = (i / n, i / (m * n) * n + i % n);
        let dot = if k == 0 { 0.0 } else { dot_error(k, rows[row], columns[column]) };
        // A zero factor of either leaves nothing to round.
        let tiny = if dot > 0.0 { TINY } else { 0.0 };
        Enclosure::around(value, alpha * dot + tiny + 2.0 * U * (old + value.abs()))
    };
    Ok(values.iter().enumerate().map(error).collect())
}
