//! Gather, scatter, copy and fill.

use starling_contract::{DType, Verb};
use starling_kernels_cpu::{copy, index};

pub(crate) use copy::{copy, fill};
pub(crate) use index::{gather, scatter_add};

/// Gather, copy and fill take any element type; what is added is f32.
pub(crate) fn runs(verb: &Verb) -> bool {
    let integers = |dtype| matches!(dtype, DType::I32 | DType::U32);
    match verb {
        Verb::Gather(v) => integers(v.index.dtype),
        Verb::ScatterAdd(v) => {
            integers(v.index.dtype) && (v.x.dtype, v.out.dtype) == (DType::F32, DType::F32)
        }
        _ => true,
    }
}
