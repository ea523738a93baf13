//! Elementwise programs and reductions: f32, f16, bf16 and u8 in, computed in f32.

use starling_contract::{DType, Map, Reduce, View};

pub(crate) use starling_kernels_cpu::map::map;
pub(crate) use starling_kernels_cpu::reduce::reduce;

/// True for what programs read and write.
pub(crate) fn is_elementwise(view: &View) -> bool {
    matches!(view.dtype, DType::F32 | DType::F16 | DType::BF16 | DType::U8)
}

pub(crate) fn runs_map(v: &Map) -> bool {
    v.inputs.iter().chain(&v.outputs).all(is_elementwise)
}

pub(crate) fn runs_reduce(v: &Reduce) -> bool {
    v.inputs.iter().all(is_elementwise)
}
