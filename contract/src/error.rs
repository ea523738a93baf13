//! The one error type of the contract.

use crate::identity::DeviceId;
use starling_ops::DType;

/// What can go wrong below the engine. Every message says what to do next.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The backend can neither run the operation nor have it composed from simpler ones.
    #[error("{backend} cannot run {op} on {dtype}: cast the operands to f32 or use another device")]
    Unsupported {
        /// The verb.
        op: &'static str,
        /// The element type that it was asked for.
        dtype: DType,
        /// The backend's name.
        backend: String,
    },
    /// Shapes, dtypes or layouts do not fit together.
    #[error("{op}: {message}")]
    Shape {
        /// The operation.
        op: &'static str,
        /// What does not fit and what would.
        message: String,
    },
    /// The operands of one operation lie in memory of different devices.
    #[error("{op}: an operand lies on {found} and {device} is needed: copy it there first")]
    Devices {
        /// The operation.
        op: &'static str,
        /// The device of the operands before it, or the one that was asked to run the operation.
        device: DeviceId,
        /// Where the operand lies instead.
        found: DeviceId,
    },
    /// An index lies outside the table.
    #[error("{op}: index {index} is outside 0..{bound}: check the tokens against the table's rows")]
    Index {
        /// The operation.
        op: &'static str,
        /// The offending index.
        index: i64,
        /// The number of rows.
        bound: usize,
    },
    /// An allocation failed.
    #[error(
        "out of memory on {device}: {requested_bytes} bytes asked for with {in_use_bytes} in use; \
         use a smaller batch or sequence, or recompute activations"
    )]
    OutOfMemory {
        /// Bytes of the allocation that failed.
        requested_bytes: usize,
        /// Bytes that the pool had handed out.
        in_use_bytes: usize,
        /// The device.
        device: String,
    },
    /// The device stopped answering; its buffers are gone, other devices work on.
    #[error("the device {0} was lost: make it anew with Device::new and load the last checkpoint")]
    DeviceLost(String),
    /// There is no such device here.
    #[error("{backend} is not available: {reason}")]
    Unavailable {
        /// What was asked for.
        backend: String,
        /// Why it is not to be had, and what would help.
        reason: String,
    },
    /// The driver or a library below it failed.
    #[error("the driver reported: {0}")]
    Driver(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl Error {
    /// A [`Error::Shape`].
    pub fn shape(op: &'static str, message: impl Into<String>) -> Self {
        Error::Shape { op, message: message.into() }
    }
}

/// Results of the contract.
pub type Result<T> = std::result::Result<T, Error>;
