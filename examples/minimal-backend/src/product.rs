//! Matrix products and copies.

use crate::memory::{load, storer};
use starling_contract::{Copy, DType, Gemm, Result};

/// True for the products that run here: of f32, and without an epilogue.
pub(crate) fn is_native(v: &Gemm) -> bool {
    v.epilogue.is_none() && [&v.a, &v.b, &v.c].iter().all(|view| view.dtype == DType::F32)
}

/// `c = alpha * a b + beta * c` for each matrix of the batch. Axes before the last two are the
/// batch; a repeated one has stride 0, which [`load`] follows like any other.
///
/// f32 means f32: operands are not rounded to anything narrower, and sums are f32 at least.
pub(crate) fn gemm(v: &Gemm) -> Result<()> {
    let (a, b): (Vec<f64>, Vec<f64>) =
        (load("gemm", &v.a)?.collect(), load("gemm", &v.b)?.collect());
    let rank = v.c.shape().len();
    let (m, n, k) = (v.c.shape()[rank - 2], v.c.shape()[rank - 1], v.a.shape()[rank - 1]);
    let (alpha, beta) = (f64::from(v.alpha), f64::from(v.beta));
    let mut store = storer("gemm", &v.c)?;
    // The old `c` is not read where beta is 0: it may hold NaN.
    let mut old = if beta == 0.0 { None } else { Some(load("gemm", &v.c)?) };
    let mut sums = vec![0.0; n];
    for row in 0..v.c.len() / n.max(1) {
        let batch = row / m;
        sums.fill(0.0);
        for l in 0..k {
            let x = a[row * k + l];
            let b = &b[(batch * k + l) * n..][..n];
            sums.iter_mut().zip(b).for_each(|(sum, y)| *sum += x * y);
        }
        for sum in &sums {
            let old = old.as_mut().and_then(Iterator::next);
            store(alpha * sum + old.map_or(0.0, |old| beta * old));
        }
    }
    Ok(())
}

/// Moves between any two layouts and any two dtypes; the source may be the target.
pub(crate) fn copy(v: &Copy) -> Result<()> {
    let mut store = storer("copy", &v.dst)?;
    let whole = !v.src.dtype.is_float();
    let converted = |x| if whole { wrapped(x, v.dst.dtype) } else { x };
    load("copy", &v.src)?.for_each(|x| store(converted(x)));
    Ok(())
}

/// Integers that do not fit another integer type wrap, as by `as`; reals saturate instead.
fn wrapped(x: f64, dtype: DType) -> f64 {
    let whole = x as i64;
    match dtype {
        DType::I32 => (whole as i32).into(),
        DType::U32 => (whole as u32).into(),
        DType::U8 => (whole as u8).into(),
        DType::I8 => (whole as i8).into(),
        DType::F32 | DType::F16 | DType::BF16 => x,
    }
}
