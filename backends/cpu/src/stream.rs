//! The queue: a verb runs when it is submitted.

use crate::{index, map, matrix, rows};
use rayon::ThreadPool;
use starling_contract::{
    Checked, DeviceId, Download, Error, HostStorage, Kind, Pending, Result, Stream, Support, Verb,
    View,
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

/// Everything is native, or an error for a dtype that is not computed on.
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
    if native { Support::Native } else { Support::No }
}

pub(crate) fn workspace_bytes(verb: &Verb) -> usize {
    match verb {
        Verb::AttentionBackward(v) => matrix::attention_workspace_bytes(v),
        Verb::NormBackward(v) => rows::norm_workspace_bytes(v),
        _ => 0,
    }
}

/// Hands the verb to its kernels, which turn away what [`supports`] calls no.
fn run(isa: Isa, verb: &Checked) -> Result<()> {
    match verb.kind() {
        Kind::Map(v) => map::map(isa, v),
        Kind::Reduce(v) => map::reduce(isa, v),
        Kind::Gemm(v) => matrix::gemm(isa, v),
        Kind::Attention(v) => matrix::attention(isa, v),
        Kind::AttentionBackward(v) => matrix::attention_backward(isa, v),
        Kind::Softmax(v) => rows::softmax(isa, v),
        Kind::SoftmaxBackward(v) => rows::softmax_backward(isa, v),
        Kind::Norm(v) => rows::norm(isa, v),
        Kind::NormBackward(v) => rows::norm_backward(isa, v),
        Kind::CrossEntropy(v) => rows::cross_entropy(isa, v),
        Kind::CrossEntropyBackward(v) => rows::cross_entropy_backward(isa, v),
        Kind::Gather(v) => index::gather(isa, v),
        Kind::ScatterAdd(v) => index::scatter_add(isa, v),
        Kind::Copy(v) => index::copy(isa, v),
        Kind::Fill(v) => index::fill(isa, v),
    }
}

impl Stream for CpuStream {
    fn submit(&self, verb: &Checked) -> Result<()> {
        verb.must_be_on(DeviceId::host())?;
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
    let (device, found) = (DeviceId::host(), view.device());
    let storage = view.storage.downcast_ref::<HostStorage>().filter(|_| found == device);
    let storage = storage.ok_or(Error::Devices { op, device, found })?;
    let range = view.contiguous_range(op, len)?;
    Ok(storage.pointer().wrapping_add(range.start))
}
