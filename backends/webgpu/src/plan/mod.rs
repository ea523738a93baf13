//! Verbs become kernels. Nothing here touches a device.

mod attention;
mod gemm;
mod map;
mod moves;
mod norm;
mod reduce;
mod rows;

use crate::kernel::Kernel;
use crate::limits::Limits;
use crate::template::{Template, template};
use crate::variant::Variant;
use starling_contract::{DType, Error, Layout, Result, Storage, Support, Verb, View};
use starling_ops::wgsl::Fma;
use std::sync::Arc;

/// Invocations of a workgroup of kernels that work element by element.
pub(crate) const LANES: usize = 64;

const MAP4: Template = template!("map4");

/// A kernel that calls `quad(q, count)` for each four of `len` elements, the last of which may have
/// only `count`.
fn in_quads(len: usize, scope: Scope<'_>) -> Kernel {
    const WORKGROUPS: usize = 512;
    const SEVERAL: usize = 4;
    // Several fours for each invocation where there are workgroups to spare, because starting one
    // costs as much. The llvmpipe whose loops end early makes slow code of more than one.
    let many = len >= 4 * LANES * SEVERAL * WORKGROUPS && scope.turns == usize::MAX;
    let repeat = if many { SEVERAL } else { 1 };
    let all = 4 * LANES * repeat;
    let mut k = Kernel::new(MAP4);
    k.constant("WG", LANES as u32).constant("REPEAT", repeat as u32);
    k.word("len", len).groups(len.div_ceil(all));
    let exact = len.is_multiple_of(all) && k.folds_evenly();
    k.constant("WHOLE", len.is_multiple_of(4)).constant("EXACT", exact);
    k
}

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
        Verb::AttentionBackward(v) => {
            attention::supports(&v.forward, &[&v.d_out, &v.d_q, &v.d_k, &v.d_v])
        }
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

/// What a plan may use.
#[derive(Clone, Copy)]
pub struct Scope<'a> {
    /// The device's.
    pub limits: &'a Limits,
    /// The shaders' variant.
    pub variant: Variant,
    /// True when a driver plays the device on the processor, which wants other tiles.
    pub software: bool,
    /// Turns that the loops of an invocation may make together.
    pub turns: usize,
    /// Memory for what a plan must put aside.
    pub alloc: &'a dyn Fn(usize) -> Result<Arc<dyn Storage>>,
    /// Four words in which kernels note an index outside its table.
    pub faults: &'a View,
}

/// A verb's working memory as f32, when it wants `bytes` of it.
///
/// # Errors
/// [`Error::Shape`] when it was given less.
fn working_memory(
    op: &'static str,
    workspace: &Option<View>,
    bytes: usize,
) -> Result<Option<View>> {
    if bytes == 0 {
        return Ok(None);
    }
    let words = |w: &View| {
        let (first, len) = (w.layout.offset() * w.dtype.size(), w.len() * w.dtype.size());
        let fits = w.layout.is_contiguous() && first.is_multiple_of(4) && len >= bytes;
        let layout = Layout::new(&[bytes / 4], &[1], first / 4);
        fits.then(|| View { storage: w.storage.clone(), dtype: DType::F32, layout })
    };
    let message = || format!("it needs a contiguous workspace of {bytes} bytes, in whole words");
    workspace.as_ref().and_then(words).map(Some).ok_or_else(|| Error::shape(op, message()))
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
        Verb::Attention(v) => attention::forward(v, scope, &mut kernels),
        Verb::AttentionBackward(v) => attention::backward(v, scope, &mut kernels)?,
    }
    for kernel in &mut kernels {
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
