//! Verbs become kernels. Nothing here touches a device.

mod attention;
mod gemm;
mod map;
mod moves;
mod norm;
mod reduce;
mod rows;
mod scope;
mod work;

pub use scope::Scope;

use crate::kernel::Kernel;
use starling_contract::{Error, Result, Support, Verb, View};
use starling_ops::wgsl::Fma;

/// How a verb is run.
pub fn supports(verb: &Verb) -> Support {
    match verb {
        Verb::Map(_) | Verb::Copy(_) | Verb::Fill(_) | Verb::Gather(_) | Verb::ScatterAdd(_) => {
            Support::Native
        }
        Verb::Gemm(v) => gemm::supports(v),
        Verb::Reduce(_) => Support::Native,
        Verb::Softmax(_) | Verb::SoftmaxBackward(_) => of_floats(verb, None),
        Verb::Norm(_) | Verb::NormBackward(_) => of_floats(verb, None),
        Verb::CrossEntropy(v) => of_floats(verb, Some(&v.targets)),
        Verb::CrossEntropyBackward(v) => of_floats(verb, Some(&v.targets)),
        Verb::Attention(v) => attention::supports(v, &[]),
        Verb::AttentionBackward(v) => attention::supports_backward(v),
    }
}

/// Native when every operand but `targets` and working memory is of a float type.
fn of_floats(verb: &Verb, targets: Option<&View>) -> Support {
    let other = |v: &View| [targets, verb.workspace()].into_iter().flatten().any(|o| same(o, v));
    let same_type = |v: &View| v.dtype.is_float() || other(v);
    let all = verb.reads().into_iter().chain(verb.writes()).all(same_type);
    if all { Support::Native } else { Support::No }
}

fn same(a: &View, b: &View) -> bool {
    a.same_storage(b) && a.layout == b.layout && a.dtype == b.dtype
}

/// Working memory that a verb wants.
pub fn workspace_bytes(verb: &Verb) -> usize {
    match verb {
        Verb::Gemm(v) => gemm::workspace_bytes(v),
        Verb::Reduce(v) => reduce::workspace_bytes(v),
        Verb::NormBackward(v) => norm::workspace_bytes(v),
        Verb::AttentionBackward(v) => attention::workspace_bytes(v),
        _ => 0,
    }
}

/// The texts of the shaders that a verb runs, each with what tells it from the others: what tests
/// validate without a device.
///
/// # Errors
/// As [`plan`].
pub fn shaders(verb: &Verb, scope: Scope<'_>, fma: Fma) -> Result<Vec<(String, String)>> {
    let kernels = plan(verb, scope)?;
    Ok(kernels.iter().map(|k| (k.key(), k.text(fma))).collect())
}

/// All that decides the results of what a verb runs, for each kernel: its text, parameters, grid.
///
/// # Errors
/// As [`plan`].
pub fn launches(verb: &Verb, scope: Scope<'_>, fma: Fma) -> Result<Vec<String>> {
    let whole = |k: &Kernel| format!("{}{:?} {:?}", k.text(fma), k.parameters(), k.dispatch());
    Ok(plan(verb, scope)?.iter().map(whole).collect())
}

/// The kernels that do what a verb says, in order.
///
/// # Errors
/// [`Error::Unsupported`] for what [`supports`] does not call native; [`Error::Shape`] when it
/// needs more buffers than the device binds at once.
pub fn plan(verb: &Verb, scope: Scope<'_>) -> Result<Vec<Kernel>> {
    if supports(verb) != Support::Native {
        let (op, dtype) = (verb.name(), verb.dtype());
        return Err(Error::Unsupported { op, dtype, backend: "webgpu".into() });
    }
    let mut kernels = Vec::new();
    match verb {
        Verb::Map(v) => map::map(v, scope, &mut kernels)?,
        Verb::Gemm(v) => gemm::gemm(v, scope, &mut kernels)?,
        Verb::Copy(v) => moves::copy(v, scope, &mut kernels),
        Verb::Fill(v) => moves::fill(v, &mut kernels),
        Verb::Gather(v) => moves::gather(v, scope, &mut kernels),
        Verb::ScatterAdd(v) => moves::scatter_add(v, scope, &mut kernels),
        Verb::Reduce(v) => reduce::reduce(v, scope, &mut kernels)?,
        Verb::Norm(v) => norm::norm(v, scope, &mut kernels),
        Verb::NormBackward(v) => norm::norm_backward(v, scope, &mut kernels)?,
        Verb::Softmax(v) => rows::softmax(v, scope, &mut kernels),
        Verb::SoftmaxBackward(v) => rows::softmax_backward(v, scope, &mut kernels),
        Verb::CrossEntropy(v) => rows::cross_entropy(v, scope, &mut kernels),
        Verb::CrossEntropyBackward(v) => rows::cross_entropy_backward(v, scope, &mut kernels),
        Verb::Attention(v) => attention::forward(v, scope, &mut kernels)?,
        Verb::AttentionBackward(v) => attention::backward(v, scope, &mut kernels)?,
    }
    let work = work::work(verb) / kernels.len().max(1) as u64;
    for kernel in &mut kernels {
        kernel.works(work);
        kernel.bind(scope.limits.binding_bytes);
        if !kernel.counts_in_words() {
            let message = "it has 2^32 elements or more, and shaders count in 32 bits: split it";
            return Err(Error::shape(verb.name(), message));
        }
        if kernel.slots() > scope.limits.slots {
            let message = format!(
                "the operands take {} buffers and the device binds {} at once: split the \
                 expression or use smaller tensors",
                kernel.slots(),
                scope.limits.slots
            );
            return Err(Error::shape(verb.name(), message));
        }
        if kernel.most_turns() > scope.turns {
            let message = format!(
                "its loops make up to {} turns and the device's driver ends them after {}: use \
                 smaller tensors or a newer driver",
                kernel.most_turns(),
                scope.turns
            );
            return Err(Error::shape(verb.name(), message));
        }
    }
    Ok(kernels)
}
