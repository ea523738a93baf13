//! Devices: which there are, which one to take, and the queue that work goes to.
//!
//! Arrows run downwards: [`registry`] opens devices by name, a [`Device`] is the handle that users
//! hold, the [`queue`] below it runs verbs and owns memory, counters and random numbers. The plan,
//! capture and tensors stand above this folder.

mod complete;
mod counters;
mod global;
mod planned;
mod queue;
mod random;
mod recording;
mod registry;
mod siblings;

pub use counters::Counters;
pub(crate) use queue::Compiled;
pub use queue::Queue;
pub(crate) use random::Random;
pub(crate) use recording::Temporary;
pub use registry::{DeviceChoice, Probe, Provider};

use crate::error::Result;
use starling_contract::{Backend, Buffer, Capabilities, PoolStats, Verb, View};
use std::fmt;
use std::sync::Arc;

/// A device, and the queue that its tensors' work goes to. Cloning gives another handle with the
/// same queue.
///
/// A device is what memory lies on: opened twice it is one device ([`Device::same`]), and tensors
/// of both handles may be operands of one operation. Every opening brings a queue of its own, so
/// that those who know nothing of each other do not share random numbers, counters, a memory limit
/// or a capture.
#[derive(Clone)]
pub struct Device(Queue);

impl Device {
    /// A device of any backend, without a limit on its memory.
    ///
    /// # Errors
    /// What the backend reports when the queue is made.
    pub fn from_backend(backend: Arc<dyn Backend>) -> Result<Self> {
        Self::with_memory_limit(backend, usize::MAX)
    }

    /// A device that hands out at most `limit_bytes`.
    ///
    /// # Errors
    /// What the backend reports when the queue is made.
    pub fn with_memory_limit(backend: Arc<dyn Backend>, limit_bytes: usize) -> Result<Self> {
        Ok(Self(Queue::new(backend, limit_bytes)?))
    }

    /// How to ask for it.
    pub fn name(&self) -> &str {
        self.backend().name()
    }

    /// What it is and can do.
    pub fn capabilities(&self) -> &Capabilities {
        self.backend().capabilities()
    }

    /// The backend, for those who drive it directly.
    pub fn backend(&self) -> &Arc<dyn Backend> {
        self.0.backend()
    }

    /// The device seen as a backend on which every verb is native that its own backend runs or
    /// that is lowered to what it runs. The table of operation cases, run on it, judges a backend
    /// together with the engine's lowering.
    ///
    /// Its streams are the device's one queue.
    pub fn as_backend(&self) -> Arc<dyn Backend> {
        Arc::new(complete::Complete(self.clone()))
    }

    /// True when both handles are of one device, whatever their queues.
    pub fn same(&self, other: &Device) -> bool {
        self.backend().device() == other.backend().device()
    }

    /// A handle of the same device whose work goes to a queue of its own.
    ///
    /// # Errors
    /// What the backend reports when the queue is made.
    pub fn with_own_queue(&self) -> Result<Self> {
        Self::from_backend(self.backend().clone())
    }

    /// A device that takes the same work as this one, in the same verbs, and has no memory and
    /// computes nothing: what a model and a step need is known before anything runs. Its pool says
    /// how much memory ([`PoolStats::peak_bytes`]), [`Device::counters`] how many launches.
    ///
    /// Tensors on it have shapes and no values: reading one is an error.
    ///
    /// ```
    /// use starling_engine::{DType, Device, Tensor};
    /// # fn main() -> starling_engine::Result<()> {
    /// let plan = Device::new("cpu")?.planned()?;
    /// let x = Tensor::zeros(&plan, DType::F32, &[1 << 16, 1 << 16])?;
    /// x.matmul(&x)?;
    /// assert!(plan.pool_stats().peak_bytes >= 32 << 30, "two matrices of 16 GiB");
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// None but those of making a queue.
    pub fn planned(&self) -> Result<Self> {
        Self::from_backend(Arc::new(planned::Planned::of(self.backend())))
    }

    /// The queue that this handle's work goes to.
    pub fn queue(&self) -> &Queue {
        &self.0
    }

    /// Counters of the memory pool.
    pub fn pool_stats(&self) -> PoolStats {
        self.0.pool_stats()
    }

    /// Starts the pool's peak anew.
    pub fn reset_peak(&self) {
        self.0.reset_peak();
    }

    /// Verbs and bytes so far.
    pub fn counters(&self) -> Counters {
        self.0.counters()
    }

    /// Waits until everything asked for is done.
    ///
    /// # Errors
    /// What the device reports.
    pub fn sync(&self) -> Result<()> {
        self.0.sync()
    }

    /// Done when everything asked for until this call is done: for hosts that cannot block.
    ///
    /// # Errors
    /// What the device reports.
    pub async fn synced(&self) -> Result<()> {
        self.0.synced().await
    }

    /// Seeds the device's random numbers (dropout) and starts at step 0. What was dropped before
    /// and is still needed, by a result that nobody has read or by backward, is then an error.
    ///
    /// # Errors
    /// What the device reports.
    pub fn seed(&self, seed: u64) -> Result<()> {
        self.0.seed(seed)
    }

    /// Overwrites the step that random numbers depend on, and starts its operations anew: what a
    /// training loop does before each step, captured or not. As with [`Device::seed`], what was
    /// dropped before must not be needed any more.
    ///
    /// # Errors
    /// What the device reports.
    pub fn set_random_step(&self, step: u64) -> Result<()> {
        self.random()?.set_step(step)
    }

    /// The device's random numbers; seeded with 0 when [`Device::seed`] was never called.
    pub(crate) fn random(&self) -> Result<Random> {
        self.0.random()
    }

    /// Memory for `bytes`.
    pub(crate) fn allocate(&self, bytes: usize) -> Result<Buffer> {
        self.0.allocate(bytes)
    }

    /// Checks a verb, lowers it to simpler ones where the backend wants that, gives it working
    /// memory where it came without, and enqueues it: how the engine runs everything, and how
    /// others run a verb on views of their own.
    ///
    /// # Errors
    /// What [`Verb::check`] finds; [`starling_contract::Error::Unsupported`] for what the backend
    /// can neither run nor have composed; what the device reports.
    pub fn run(&self, verb: impl Into<Verb>) -> Result<()> {
        self.0.run(verb.into())
    }

    /// Host bytes to a contiguous view. Not part of a captured list, hence refused inside one.
    pub(crate) fn upload(&self, bytes: &[u8], to: &View) -> Result<()> {
        self.0.upload(bytes, to)
    }

    /// A contiguous view to host bytes.
    pub(crate) async fn download(&self, from: &View, bytes: &mut [u8]) -> Result<()> {
        self.0.download(from, bytes).await
    }
}

impl fmt::Debug for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Device({})", self.name())
    }
}
