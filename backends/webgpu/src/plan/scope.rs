//! What every plan needs: the device's limits, elementwise kernels, working memory.

use crate::kernel::Kernel;
use crate::limits::Limits;
use crate::template::{Template, template};
use crate::variant::Variant;
use starling_contract::{DType, Error, Layout, Result, Storage, View};
use std::sync::Arc;

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
pub(crate) fn working_memory(
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

/// Invocations of a workgroup of kernels that work element by element.
pub(crate) const LANES: usize = 64;

const MAP4: Template = template!("map4");

/// A kernel that calls `quad(q, count)` for each four of `len` elements, the last of which may have
/// only `count`.
pub(crate) fn in_quads(len: usize, scope: Scope<'_>) -> Kernel {
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
