//! A step recorded once and replayed.

use crate::device::{Device, Recorded};
use crate::error::Result;

impl Device {
    /// Runs `step` and records what it submits, so that [`Captured::replay`] can repeat it without
    /// allocation or bookkeeping. `step` must take its inputs from tensors made before it, which
    /// [`crate::Tensor::copy_from_slice`] refills, and must leave its results in tensors that its
    /// value keeps.
    ///
    /// # Errors
    /// Those of `step`; nothing stays recorded then.
    pub fn capture<T>(&self, step: impl FnOnce() -> Result<T>) -> Result<(Captured, T)> {
        self.queue().begin_recording()?;
        let result = step();
        let verbs = self.queue().end_recording();
        let value = result?;
        let list = self.queue().compile(verbs)?;
        Ok((Captured { device: self.clone(), list }, value))
    }
}

/// A recorded step.
pub struct Captured {
    device: Device,
    list: Recorded,
}

impl Captured {
    /// Runs the step again on what its input tensors hold now.
    ///
    /// # Errors
    /// What the device reports.
    pub fn replay(&self) -> Result<()> {
        self.device.queue().replay(&self.list)
    }

    /// Number of verbs.
    pub fn launches(&self) -> usize {
        self.list.len()
    }
}
