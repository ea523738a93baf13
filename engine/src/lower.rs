//! Lowering: verbs that a backend has not written, made of simpler ones.

use crate::device::Device;
use crate::error::Result;
use starling_api::Verb;

/// Runs a verb that the backend calls composed.
///
/// # Errors
/// Unsupported when no lowering exists.
pub(crate) fn submit(device: &Device, verb: Verb) -> Result<()> {
    Err(starling_api::Error::Unsupported {
        op: verb.name(),
        dtype: verb.dtype(),
        backend: device.name().to_owned(),
    }
    .into())
}
