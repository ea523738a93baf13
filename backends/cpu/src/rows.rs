//! Softmax, norms and cross-entropy: f32 only.

use starling_contract::{DType, NormBackward, Verb, View};
use starling_kernels_cpu::rows;

pub(crate) use rows::{
    cross_entropy, cross_entropy_backward, norm, norm_backward, softmax, softmax_backward,
};

/// f32 everywhere but in the targets of the cross-entropy.
pub(crate) fn runs(verb: &Verb) -> bool {
    let targets = match verb {
        Verb::CrossEntropy(v) => Some(&v.targets),
        Verb::CrossEntropyBackward(v) => Some(&v.targets),
        _ => None,
    };
    let is_targets = |v: &View| targets.is_some_and(|t| std::ptr::eq(t, v));
    let index = |v: &View| matches!(v.dtype, DType::I32 | DType::U32);
    let good = |v: &&View| if is_targets(v) { index(v) } else { v.dtype == DType::F32 };
    verb.reads().iter().chain(&verb.writes()).all(good)
}

pub(crate) fn norm_workspace_bytes(v: &NormBackward) -> usize {
    rows::norm_backward_workspace_bytes(v)
}
