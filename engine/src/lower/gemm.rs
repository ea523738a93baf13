//! Products with an epilogue or of narrow types, by way of a plain product of f32.

use super::Lowering;
use crate::error::Result;
use starling_contract::{DType, Gemm, Map, View};

/// True when there is something simpler to make the product of. f32 holds the product of two
/// narrow floats exactly; sums of integers it does not.
pub(super) fn is_composable(v: &Gemm) -> bool {
    let dtypes = [&v.a, &v.b, &v.c].map(|view| view.dtype);
    let plain = v.epilogue.is_none() && dtypes == [DType::F32; 3];
    !plain && dtypes.iter().all(|d| d.is_float())
}

pub(super) fn gemm(l: &mut Lowering<'_>, v: &Gemm) -> Result<()> {
    let (a, b) = (l.real(&v.a)?, l.real(&v.b)?);
    let c = match v.c.dtype {
        DType::F32 => v.c.clone(),
        _ if v.beta == 0.0 => l.temporary(v.c.shape())?,
        _ => l.real(&v.c)?,
    };
    let (alpha, beta) = (v.alpha, v.beta);
    l.push(Gemm { a, b, c: c.clone(), alpha, beta, epilogue: None, workspace: None });
    let Some(e) = &v.epilogue else {
        if v.c.dtype != DType::F32 {
            l.copy(&c, &v.c);
        }
        return Ok(());
    };
    let inputs: Vec<View> = [&c].into_iter().chain(&e.inputs).cloned().collect();
    let outputs: Vec<View> = [&v.c].into_iter().chain(&e.outputs).cloned().collect();
    let (program, params, immediates) = (e.program.clone(), e.params.clone(), e.immediates);
    l.push(Map { program, params, immediates, inputs, outputs });
    Ok(())
}
