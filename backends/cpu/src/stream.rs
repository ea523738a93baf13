//! The queue: a verb runs when it is submitted.

use crate::{index, map, matrix, rows};
use rayon::ThreadPool;
use starling_contract::{
    Download, Error, HostStorage, Pending, Result, Storage, Stream, Support, Verb, View,
};
use starling_kernels_cpu::Isa;
use std::sync::Arc;

/// Runs verbs on the calling thread and on those of its pool.
pub(crate) struct CpuStream {
    isa: Isa,
    pool: Option<Arc<ThreadPool>>,
}

impl CpuStream {
    pub fn new(isa: Isa, pool: Option<Arc<ThreadPool>>) -> Self {
        Self { isa, pool }
    }
}

/// Everything is native but for options of attention, or an error for a dtype that is not computed
/// on.
pub(crate) fn supports(verb: &Verb) -> Support {
    let native = match verb {
        Verb::Map(v) => map::runs_map(v),
        Verb::Reduce(v) => map::runs_reduce(v),
        Verb::Gemm(v) => matrix::runs_gemm(v),
        Verb::Attention(v) => matrix::runs_attention(v),
        Verb::AttentionBackward(v) => matrix::runs_attention_backward(v),
        Verb::Softmax(_)
        | Verb::SoftmaxBackward(_)
        | Verb::Norm(_)
        | Verb::NormBackward(_)
        | Verb::CrossEntropy(_)
        | Verb::CrossEntropyBackward(_) => rows::runs(verb),
        Verb::Gather(_) | Verb::ScatterAdd(_) | Verb::Copy(_) | Verb::Fill(_) => index::runs(verb),
    };
    let composed = match verb {
        Verb::Attention(v) => matrix::composes_attention(v),
        Verb::AttentionBackward(v) => matrix::composes_attention_backward(v),
        _ => false,
    };
    match (native, composed) {
        (true, false) => Support::Native,
        (true, true) => Support::Composed,
        (false, _) => Support::No,
    }
}

pub(crate) fn workspace_bytes(verb: &Verb) -> usize {
    match verb {
        Verb::AttentionBackward(v) => matrix::attention_workspace_bytes(v),
        Verb::NormBackward(v) => rows::norm_workspace_bytes(v),
        _ => 0,
    }
}

/// Hands the verb to its kernels, which turn away what [`supports`] calls no.
fn run(isa: Isa, verb: &Verb) -> Result<()> {
    match verb {
        Verb::Map(v) => map::map(isa, v),
        Verb::Reduce(v) => map::reduce(isa, v),
        Verb::Gemm(v) => matrix::gemm(isa, v),
        Verb::Attention(v) => matrix::attention(isa, v),
        Verb::AttentionBackward(v) => matrix::attention_backward(isa, v),
        Verb::Softmax(v) => rows::softmax(isa, v),
        Verb::SoftmaxBackward(v) => rows::softmax_backward(isa, v),
        Verb::Norm(v) => rows::norm(isa, v),
        Verb::NormBackward(v) => rows::norm_backward(isa, v),
        Verb::CrossEntropy(v) => rows::cross_entropy(isa, v),
        Verb::CrossEntropyBackward(v) => rows::cross_entropy_backward(isa, v),
        Verb::Gather(v) => index::gather(isa, v),
        Verb::ScatterAdd(v) => index::scatter_add(isa, v),
        Verb::Copy(v) => index::copy(isa, v),
        Verb::Fill(v) => index::fill(isa, v),
    }
}

impl Stream for CpuStream {
    fn submit(&self, verb: &Verb) -> Result<()> {
        debug_assert!(verb.check().is_ok(), "{:?}", verb.check());
        match &self.pool {
            Some(pool) => pool.install(|| run(self.isa, verb)),
            None => run(self.isa, verb),
        }
    }

    fn upload(&self, bytes: &[u8], to: &View) -> Result<()> {
        let at = contiguous_bytes("upload", to, bytes.len())?;
        // SAFETY: `contiguous_bytes` found as many bytes inside the storage; the stream's order
        // keeps other users of them apart.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), at, bytes.len()) };
        Ok(())
    }

    fn download<'a>(&'a self, from: &'a View, bytes: &'a mut [u8]) -> Download<'a> {
        let copied = contiguous_bytes("download", from, bytes.len()).map(|at| {
            // SAFETY: as in `upload`.
            unsafe {
                std::ptr::copy_nonoverlapping(at.cast_const(), bytes.as_mut_ptr(), bytes.len())
            };
        });
        Box::pin(std::future::ready(copied))
    }

    fn sync(&self) -> Pending<'_, ()> {
        Box::pin(std::future::ready(Ok(())))
    }
}

/// The first byte of a contiguous view that has `len` bytes and lies inside its storage.
fn contiguous_bytes(op: &'static str, view: &View, len: usize) -> Result<*mut u8> {
    let size = view.dtype.size();
    let bytes = view.len() * size;
    let start = view.layout.offset() * size;
    if bytes != len || !view.layout.is_contiguous() {
        return Err(Error::shape(op, format!("{len} bytes for {view:?}, a view of {bytes} bytes")));
    }
    let Some(storage) = view.storage.downcast_ref::<HostStorage>() else {
        return Err(Error::shape(op, "the view is not in this device's memory"));
    };
    if start + bytes > storage.bytes() && bytes > 0 {
        let message = format!("{view:?} reaches outside its storage of {} bytes", storage.bytes());
        return Err(Error::shape(op, message));
    }
    Ok(storage.pointer().wrapping_add(start))
}
