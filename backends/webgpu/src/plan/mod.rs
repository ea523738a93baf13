//! Verbs become kernels. Nothing here touches a device.

mod attention;
mod map;
mod moves;

use crate::gpu::Limits;
use crate::kernel::Kernel;
use crate::variant::Variant;
use starling_api::{Error, Result, Support, Verb, View};

/// Invocations of a workgroup of kernels that work element by element.
pub(crate) const LANES: usize = 64;

/// How a verb is run.
pub fn supports(verb: &Verb, limits: &Limits) -> Support {
    let _ = limits;
    match verb {
        Verb::Map(_) | Verb::Copy(_) | Verb::Fill(_) | Verb::Gather(_) | Verb::ScatterAdd(_) => {
            Support::Native
        }
        Verb::Attention(v) => attention::supports(v, &[]),
        Verb::AttentionBackward(v) => {
            attention::supports(&v.forward, &[&v.d_out, &v.d_q, &v.d_k, &v.d_v])
        }
        _ => Support::No,
    }
}

/// Working memory that a verb wants.
pub fn workspace_bytes(verb: &Verb, limits: &Limits) -> usize {
    let _ = limits;
    match verb {
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
    /// Four words in which kernels note an index outside its table.
    pub faults: &'a View,
}

/// The operations that note such an index, by their numbers.
pub(crate) const REPORTING: [&str; 4] =
    ["gather", "scatter_add", "cross_entropy", "cross_entropy_backward"];

/// The kernels that do what a verb says, in order.
///
/// # Errors
/// [`Error::Unsupported`] for what [`supports`] does not call native; [`Error::Shape`] when it
/// needs more buffers than the device binds at once.
pub fn plan(verb: &Verb, scope: Scope<'_>) -> Result<Vec<Kernel>> {
    let mut kernels = Vec::new();
    match verb {
        Verb::Map(v) => map::map(v, &mut kernels),
        Verb::Copy(v) => moves::copy(v, &mut kernels),
        Verb::Fill(v) => moves::fill(v, &mut kernels),
        Verb::Gather(v) => moves::gather(v, scope, &mut kernels),
        Verb::ScatterAdd(v) => moves::scatter_add(v, scope, &mut kernels),
        Verb::Attention(v) => attention::forward(v, scope, &mut kernels),
        Verb::AttentionBackward(v) => attention::backward(v, scope, &mut kernels)?,
        other => {
            return Err(Error::Unsupported {
                op: other.name(),
                dtype: other.dtype(),
                backend: "webgpu".into(),
            });
        }
    }
    for kernel in &mut kernels {
        kernel.bind(scope.limits.binding_bytes);
        if kernel.slots() > scope.limits.slots {
            let message = format!(
                "the operands take {} buffers and the device binds {} at once: split the \
                 expression or use smaller tensors",
                kernel.slots(),
                scope.limits.slots
            );
            return Err(Error::shape(verb.name(), message));
        }
    }
    Ok(kernels)
}
