//! The smallest complete backend: four verbs in safe Rust, to be read and copied by whoever
//! brings Starling to a new device.
//!
//! A backend is three things, each in a file of its own:
//!
//! - `memory`: what a [`Storage`] is on this device, and how a [`View`](starling_contract::View) of
//!   its bytes is read and written;
//! - `stream`: the queue, which takes verbs and moves bytes to and from the host;
//! - this file: the [`Backend`], which says what the device is and what it can do.
//!
//! The work itself is in `map` (elementwise programs and reductions) and `product` (matrix
//! products and copies). Every verb reads its operands, computes and writes: slow, and right.
//! Nothing else is needed. Whatever [`Backend::supports`] calls [`Support::Composed`] (softmax,
//! norms, losses, attention, gather, scatter, fill, and products with an epilogue or of narrow
//! types) is lowered by the engine to these four verbs, so that models train on the first day.
//! Then answer [`Support::Native`] for one verb after another, the ones that cost most first.
//!
//! A stream takes [`Checked`](starling_contract::Checked) verbs only, which nothing but
//! `Verb::check` makes: it has found that shapes and dtypes fit, that every view lies inside its
//! storage, and that outputs overlap neither themselves nor, but where a verb says so, an input.
//! A backend does not look again, also where it is unsafe code that relies on it.
//!
//! ```
//! use starling_engine::{Device, Tensor};
//! use starling_example_backend::MinimalBackend;
//! use std::sync::Arc;
//!
//! # fn main() -> starling_engine::Result<()> {
//! let device = Device::from_backend(Arc::new(MinimalBackend::new()))?;
//! let x = Tensor::from_slice(&device, &[0f32, 0.0], &[1, 2])?;
//! assert_eq!(x.softmax(-1)?.to_vec::<f32>()?, [0.5, 0.5]);
//! # Ok(())
//! # }
//! ```
//!
//! `examples/train.rs` registers it under a name, and `tests/table.rs` holds it to the whole table
//! of operation cases.

mod map;
mod memory;
mod product;
mod stream;

use starling_contract::{
    Backend, Capabilities, DType, DeviceId, Result, Storage, Stream, Support, Verb,
};
use std::sync::Arc;

/// The name by which users ask for the device and that errors give.
pub(crate) const NAME: &str = "minimal";

/// Whose memory its storages are. Every opening of this device has the same; one whose openings
/// have memory of their own keeps in its backend what [`DeviceId::opened`] gave it.
pub(crate) fn device() -> DeviceId {
    DeviceId::named(NAME)
}

/// The device. Everything that its streams share (a driver's handle, compiled programs) would be
/// a field here.
pub struct MinimalBackend {
    capabilities: Capabilities,
}

impl MinimalBackend {
    /// Opens the device. One that may be missing returns `Result<Self>` and says why in
    /// [`starling_contract::Error::Unavailable`]: a missing library must never be a panic.
    pub fn new() -> Self {
        let capabilities = Capabilities {
            description: "scalar loops over host memory".into(),
            variant: "scalar".into(),
            memory_bytes: None,
            threads: Some(1),
            // A device that loses infinities or NaN says false; the table then skips those rows
            // and counts them.
            special_values: true,
            // False where numbers below 2^-126 become 0; the table then allows that.
            subnormals: true,
            rounds_every_step: true,
            software: false,
        };
        Self { capabilities }
    }
}

impl Default for MinimalBackend {
    fn default() -> Self {
        Self::new()
    }
}

impl Backend for MinimalBackend {
    fn name(&self) -> &str {
        NAME
    }

    fn device(&self) -> DeviceId {
        device()
    }

    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    /// The answer is about this very verb: its views hold the dtypes and sizes, and a limit of
    /// the device (a largest tile, a largest buffer) is checked here. Buffers are not looked at.
    fn supports(&self, verb: &Verb) -> Support {
        match verb {
            Verb::Map(_) | Verb::Reduce(_) | Verb::Copy(_) => Support::Native,
            Verb::Gemm(v) => {
                let dtypes = [v.a.dtype, v.b.dtype, v.c.dtype];
                match v.epilogue {
                    None if dtypes == [DType::F32; 3] => Support::Native,
                    // Casts, this product, and a map for the epilogue.
                    _ if dtypes.iter().all(|d| d.is_float()) => Support::Composed,
                    // Sums of integers do not fit f32, so there is nothing to compose them of:
                    // an honest no, which users get as a typed error.
                    _ => Support::No,
                }
            }
            _ => Support::Composed,
        }
    }

    // `workspace_bytes` keeps its default, 0: the four verbs have no workspace.

    /// The engine's pool asks for sizes rounded up to classes and keeps what is freed, so this is
    /// rare and may be slow. Contents are arbitrary: nobody relies on zeros.
    fn alloc(&self, bytes: usize) -> Result<Arc<dyn Storage>> {
        Ok(Arc::new(memory::Memory::new(bytes)?))
    }

    /// Each engine device has one stream and one pool; two streams never share memory that has
    /// not been waited for.
    fn stream(&self) -> Result<Box<dyn Stream>> {
        Ok(Box::new(stream::MinimalStream))
    }
}
