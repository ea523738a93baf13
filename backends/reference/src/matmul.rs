//! Matrix products.

use crate::map::{Operands, store};
use crate::memory::load;
use starling_contract::{Gemm, Result, View};

/// `alpha * a b + beta * c` before the epilogue.
pub fn product(v: &Gemm) -> Result<Vec<f64>> {
    let (a, b) = (load(&v.a)?, load(&v.b)?);
    let rank = v.c.shape().len();
    let (m, n, k) = (v.c.shape()[rank - 2], v.c.shape()[rank - 1], v.a.shape()[rank - 1]);
    let (alpha, beta) = (f64::from(v.alpha), f64::from(v.beta));
    let mut out = vec![0.0; v.c.len()];
    for (row, sums) in out.chunks_exact_mut(n.max(1)).enumerate() {
        let batch = row / m;
        for l in 0..k {
            let x = a[row * k + l];
            let b = &b[(batch * k + l) * n..][..n];
            sums.iter_mut().zip(b).for_each(|(sum, y)| *sum += x * y);
        }
        sums.iter_mut().for_each(|sum| *sum *= alpha);
    }
    if beta != 0.0 {
        out.iter_mut().zip(load(&v.c)?).for_each(|(x, c)| *x += beta * c);
    }
    Ok(out)
}

pub fn gemm(v: &Gemm) -> Result<Vec<Vec<f64>>> {
    let product = product(v)?;
    let Some(e) = &v.epilogue else { return Ok(vec![product]) };
    let len = product.len();
    let operands = Operands::load(&e.inputs, &e.params, &e.immediates)?.with_first(product);
    let views: Vec<&View> = [&v.c].into_iter().chain(&e.outputs).collect();
    Ok(store(&views, operands.eval(&e.program, len)))
}
