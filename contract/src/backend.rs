//! The two traits that a backend implements.

use crate::error::Result;
use crate::identity::DeviceId;
use crate::layout::{Storage, View};
use crate::maybe::{MaybeSend, MaybeSync};
use crate::verb::{Checked, Verb};
use std::any::Any;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

/// How a backend answers for a verb.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Support {
    /// The stream runs it.
    Native,
    /// The engine lowers it to simpler verbs that are native.
    Composed,
    /// It is a typed error.
    No,
}

/// What a device is and can do.
#[derive(Clone, Debug)]
pub struct Capabilities {
    /// The device in words: the processor's or adapter's name.
    pub description: String,
    /// What picks the kernels: `avx512`, `scalar`, a shader variant.
    pub variant: String,
    /// Memory of the device, where known.
    pub memory_bytes: Option<u64>,
    /// Worker threads, for host backends.
    pub threads: Option<usize>,
    /// True when a driver plays the device on the processor: right, and slower than the CPU
    /// backend.
    pub software: bool,
    /// False where infinities and NaN may be lost (shaders): special-value cases are then skipped
    /// and counted.
    pub special_values: bool,
    /// False where numbers below 2^-126 may become 0.
    pub subnormals: bool,
    /// True when every operation of a program is rounded to f32, so that results do not depend on
    /// how work is cut into programs; false for the reference, which computes a program in f64.
    pub rounds_every_step: bool,
}

/// The bytes of one buffer that every GPU's driver binds at once: WebGPU's default.
pub const LEAST_BINDING_BYTES: usize = 128 << 20;
/// The buffers that every GPU's driver binds at once: WebGPU's default.
pub const LEAST_BINDINGS: usize = 8;

/// A device. Held as `Arc<dyn Backend>`.
pub trait Backend: MaybeSend + MaybeSync {
    /// `cpu`, `webgpu:0`, `cuda:1`: how users ask for it.
    fn name(&self) -> &str;
    /// Whose memory [`Backend::alloc`] gives and streams take.
    fn device(&self) -> DeviceId;
    /// What it is and can do.
    fn capabilities(&self) -> &Capabilities;
    /// How this very verb, with these dtypes and sizes, would be run. Buffers are not looked at.
    fn supports(&self, verb: &Verb) -> Support;
    /// Bytes of working memory that the verb wants as its `workspace`.
    fn workspace_bytes(&self, verb: &Verb) -> usize {
        let _ = verb;
        0
    }
    /// Memory with arbitrary contents.
    ///
    /// # Errors
    /// [`crate::Error::OutOfMemory`], [`crate::Error::DeviceLost`].
    fn alloc(&self, bytes: usize) -> Result<Arc<dyn Storage>>;
    /// A new queue.
    ///
    /// # Errors
    /// [`crate::Error::DeviceLost`].
    fn stream(&self) -> Result<Box<dyn Stream>>;
}

/// An answer on its way. A browser cannot block: native callers may wait with `pollster`.
#[cfg(not(target_arch = "wasm32"))]
pub type Pending<'a, T> = Pin<Box<dyn Future<Output = Result<T>> + Send + 'a>>;
/// An answer on its way. A browser cannot block, and its answers stay on their thread.
#[cfg(target_arch = "wasm32")]
pub type Pending<'a, T> = Pin<Box<dyn Future<Output = Result<T>> + 'a>>;

/// Bytes on their way to the host.
pub type Download<'a> = Pending<'a, ()>;

/// What a stream's device has been asked for, since it was opened; zeros where a backend runs
/// verbs itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StreamCounters {
    /// Lists of commands handed to the driver.
    pub submissions: u64,
    /// Kernels in them.
    pub dispatches: u64,
    /// Shaders compiled.
    pub compilations: u64,
}

/// A point in the order of a stream: see [`Stream::event`].
pub trait Event: Any + MaybeSend + MaybeSync {}

/// The event of streams that need none: it has passed when it is made, or one queue of the driver
/// keeps the order of all streams.
pub struct Passed;

impl Event for Passed {}

/// An in-order queue of verbs.
pub trait Stream: MaybeSend + MaybeSync {
    /// Enqueues a verb that [`Backend::supports`] calls native.
    ///
    /// # Errors
    /// [`crate::Error::Unsupported`] for a verb that is not native; [`crate::Error::Devices`] for
    /// operands on another device; what the device reports.
    fn submit(&self, verb: &Checked) -> Result<()>;
    /// Copies host bytes to the elements of a contiguous view.
    ///
    /// # Errors
    /// [`crate::Error::Shape`] when the sizes differ.
    fn upload(&self, bytes: &[u8], to: &View) -> Result<()>;
    /// Copies the elements of a contiguous view to the host.
    fn download<'a>(&'a self, from: &'a View, bytes: &'a mut [u8]) -> Download<'a>;
    /// Done when everything enqueued until this call is done; what the device reports.
    fn sync(&self) -> Pending<'_, ()>;
    /// The point after everything enqueued so far, for other streams of the device to wait for. The
    /// default is for streams whose verbs have run when `submit` returns.
    ///
    /// # Errors
    /// What the device reports.
    fn event(&self) -> Result<Box<dyn Event>> {
        Ok(Box::new(Passed))
    }
    /// Whatever is enqueued from now on runs after `event`, which another stream of the device
    /// gave. The host does not wait.
    ///
    /// # Errors
    /// What the device reports.
    fn wait_for(&self, event: &dyn Event) -> Result<()> {
        let _ = event;
        Ok(())
    }
    /// What the device has been asked for so far.
    fn counters(&self) -> StreamCounters {
        StreamCounters::default()
    }
    /// Turns a list of verbs into one replayable piece of work. Its buffers must stay what they
    /// are; what may change between runs is their contents.
    ///
    /// # Errors
    /// What the device reports.
    fn compile(&self, verbs: Vec<Checked>) -> Result<Box<dyn Replay>> {
        Ok(Box::new(ListReplay(verbs)))
    }
}

/// A list of verbs ready to run again and again.
pub trait Replay: MaybeSend + MaybeSync {
    /// Enqueues the whole list on the stream that compiled it.
    ///
    /// # Errors
    /// What the device reports.
    fn run(&self, stream: &dyn Stream) -> Result<()>;
    /// Number of verbs.
    fn len(&self) -> usize;
    /// True when there is nothing to run.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// The replay of backends that have nothing better: the verbs one after another.
pub struct ListReplay(pub Vec<Checked>);

impl Replay for ListReplay {
    fn run(&self, stream: &dyn Stream) -> Result<()> {
        self.0.iter().try_for_each(|verb| stream.submit(verb))
    }

    fn len(&self) -> usize {
        self.0.len()
    }
}
