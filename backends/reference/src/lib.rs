//! The truth that every other backend is compared with: scalar, single-threaded, accumulating in
//! f64, rounding once to the type of the output. Nothing here is clever.
//!
//! [`evaluate`] gives the numbers before that last rounding; [`ReferenceBackend`] stores them.

pub mod attention;
mod index;
mod map;
mod matmul;
pub mod memory;
mod rows;

pub use map::group;

use starling_contract::{
    Backend, Capabilities, Checked, DeviceId, Download, Error, HostStorage, Pending, Result,
    Storage, Stream, Support, Verb, View,
};
use std::sync::Arc;

/// What a verb on host memory yields, in f64 and unrounded: the elements of each of
/// [`Verb::results`] in row-major order. Memory is read and not written.
///
/// # Errors
/// What [`Verb::check`] finds; [`Error::Index`] for an index outside its table.
pub fn evaluate(verb: &Verb) -> Result<Vec<Vec<f64>>> {
    let verb = verb.clone().check()?;
    let _turn = HostStorage::turn();
    results(&verb)
}

/// The results of a verb, for who has the turn of host memory.
fn results(verb: &Checked) -> Result<Vec<Vec<f64>>> {
    match &**verb {
        Verb::Map(v) => map::map(v),
        Verb::Reduce(v) => map::reduce(v),
        Verb::Gemm(v) => matmul::gemm(v),
        Verb::Attention(v) => attention::forward(v),
        Verb::AttentionBackward(v) => attention::backward(v),
        Verb::Softmax(v) => rows::softmax(v),
        Verb::SoftmaxBackward(v) => rows::softmax_backward(v),
        Verb::Norm(v) => rows::norm(v),
        Verb::NormBackward(v) => rows::norm_backward(v),
        Verb::CrossEntropy(v) => rows::cross_entropy(v),
        Verb::CrossEntropyBackward(v) => rows::cross_entropy_backward(v),
        Verb::Gather(v) => index::gather(v),
        Verb::ScatterAdd(v) => index::scatter_add(v),
        Verb::Copy(v) => index::copy(v),
        Verb::Fill(v) => Ok(vec![index::fill(v)]),
    }
}

/// Evaluates a verb and stores its results: what [`ReferenceBackend`]'s stream does.
///
/// # Errors
/// As [`evaluate`].
pub fn execute(verb: &Verb) -> Result<()> {
    run(&verb.clone().check()?)
}

/// Runs a verb in a turn of its own.
fn run(verb: &Checked) -> Result<()> {
    let _turn = HostStorage::turn();
    let results = results(verb)?;
    verb.results().into_iter().zip(&results).try_for_each(|(view, x)| memory::store(view, x))
}

/// The reference as a device.
pub struct ReferenceBackend {
    device: DeviceId,
    capabilities: Capabilities,
}

impl ReferenceBackend {
    /// The device.
    pub fn new() -> Self {
        let capabilities = Capabilities {
            description: "scalar loops in f64".into(),
            variant: "f64".into(),
            memory_bytes: None,
            threads: Some(1),
            special_values: true,
            subnormals: true,
            rounds_every_step: false,
            software: false,
        };
        Self { device: DeviceId::named("reference"), capabilities }
    }
}

impl Default for ReferenceBackend {
    fn default() -> Self {
        Self::new()
    }
}

impl Backend for ReferenceBackend {
    fn name(&self) -> &str {
        "reference"
    }

    fn device(&self) -> DeviceId {
        self.device
    }

    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    fn supports(&self, _: &Verb) -> Support {
        Support::Native
    }

    fn alloc(&self, bytes: usize) -> Result<Arc<dyn Storage>> {
        Ok(HostStorage::on(self.device, bytes)?)
    }

    fn stream(&self) -> Result<Box<dyn Stream>> {
        Ok(Box::new(ReferenceStream(self.device)))
    }
}

/// Runs each verb when it is submitted, one at a time whatever the threads.
struct ReferenceStream(DeviceId);

impl Stream for ReferenceStream {
    fn submit(&self, verb: &Checked) -> Result<()> {
        verb.must_be_on(self.0)?;
        run(verb)
    }

    fn upload(&self, bytes: &[u8], to: &View) -> Result<()> {
        let target = host_bytes(self.0, to, bytes.len())?;
        let _turn = HostStorage::turn();
        // SAFETY: `host_bytes` checked that the view is contiguous, in bounds and as long as
        // `bytes`, which is the caller's own memory; this thread has the turn.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), target, bytes.len()) };
        Ok(())
    }

    fn download<'a>(&'a self, from: &'a View, bytes: &'a mut [u8]) -> Download<'a> {
        let copied = host_bytes(self.0, from, bytes.len()).map(|source| {
            let _turn = HostStorage::turn();
            // SAFETY: as in `upload`.
            unsafe { std::ptr::copy_nonoverlapping(source, bytes.as_mut_ptr(), bytes.len()) };
        });
        Box::pin(std::future::ready(copied))
    }

    fn sync(&self) -> Pending<'_, ()> {
        // Another thread's verb may be at work.
        drop(HostStorage::turn());
        Box::pin(std::future::ready(Ok(())))
    }
}

/// Where the elements of a contiguous view of `len` bytes begin.
fn host_bytes(device: DeviceId, view: &View, len: usize) -> Result<*mut u8> {
    let (op, found) = ("transfer", view.device());
    let start = HostStorage::of(view).filter(|_| found == device);
    let start = start.ok_or(Error::Devices { op, device, found })?;
    Ok(start.wrapping_add(view.contiguous_range(op, len)?.start))
}
