//! The queue: a verb runs when it is submitted.

use crate::{index, map, matrix, rows};
use starling_contract::{
    Checked, DeviceId, Download, Error, HostStorage, Kind, Pending, Replay, Result, Stream,
    Support, Taken, Verb, View,
};
use starling_kernels_cpu::{Isa, Team, team};
use std::sync::Arc;

/// Runs verbs on the calling thread and on those of its team.
///
/// Only one verb runs at a time, whatever the streams and their threads: memory that the pool hands
/// out anew may still be read by a verb of before, and memory of one stream is used on others.
#[derive(Clone)]
pub(crate) struct CpuStream {
    isa: Isa,
    team: Arc<Team>,
}

impl CpuStream {
    pub fn new(isa: Isa, team: Arc<Team>) -> Self {
        Self { isa, team }
    }

    /// Runs verbs in one turn, up to the first that fails.
    fn run<'a>(&self, verbs: impl IntoIterator<Item = &'a Checked>) -> Result<()> {
        let _turn = turn();
        self.team.install(|| verbs.into_iter().try_for_each(|verb| run(self.isa, verb)))
    }
}

/// Waits until everything that was asked for before is done.
fn turn() -> Taken<'static> {
    assert!(!team::is_task(), "a task waits for a turn that its own verb has");
    HostStorage::turn()
}

/// A captured list. It runs in one turn.
struct CpuReplay {
    stream: CpuStream,
    verbs: Vec<Checked>,
}

impl Replay for CpuReplay {
    fn run(&self, _: &dyn Stream) -> Result<()> {
        self.stream.run(&self.verbs)
    }

    fn len(&self) -> usize {
        self.verbs.len()
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
        self.run([verb])
    }

    fn upload(&self, bytes: &[u8], to: &View) -> Result<()> {
        let at = contiguous_bytes("upload", to, bytes.len())?;
        let _turn = turn();
        // SAFETY: `contiguous_bytes` found as many bytes inside the storage, and this thread has
        // the turn.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), at, bytes.len()) };
        Ok(())
    }

    fn download<'a>(&'a self, from: &'a View, bytes: &'a mut [u8]) -> Download<'a> {
        let copied = contiguous_bytes("download", from, bytes.len()).map(|at| {
            let _turn = turn();
            // SAFETY: as in `upload`.
            unsafe {
                std::ptr::copy_nonoverlapping(at.cast_const(), bytes.as_mut_ptr(), bytes.len())
            };
        });
        Box::pin(std::future::ready(copied))
    }

    fn sync(&self) -> Pending<'_, ()> {
        // Another thread's verb may be at work.
        drop(turn());
        Box::pin(std::future::ready(Ok(())))
    }

    fn compile(&self, verbs: Vec<Checked>) -> Result<Box<dyn Replay>> {
        verbs.iter().try_for_each(|verb| verb.must_be_on(DeviceId::host()))?;
        Ok(Box::new(CpuReplay { stream: self.clone(), verbs }))
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
