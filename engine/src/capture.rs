//! A step recorded once and replayed.

use crate::device::{Compiled, Device};
use crate::error::{Error, Result};
use crate::plan::{Watching, Written};

impl Device {
    /// Runs `step` and records what it submits, so that [`Captured::replay`] can repeat it without
    /// allocation. `step` must take its inputs from tensors made before it, which
    /// [`crate::Tensor::copy_from_slice`] refills; a replay overwrites the tensors that it made or
    /// wrote and that are still alive.
    ///
    /// The capture belongs to this handle's queue and to the calling thread: what other threads do
    /// meanwhile is not part of it. Values that were still expressions when it began are computed
    /// once, not by every replay; values that `step` leaves as expressions are computed at its end.
    ///
    /// # Errors
    /// Those of `step`, and [`Error::Invalid`] within another capture on this queue by this thread;
    /// nothing stays recorded then, nor when `step` panics.
    pub fn capture<T>(&self, step: impl FnOnce() -> Result<T>) -> Result<(Captured, T)> {
        let queue = self.queue();
        let recorder = queue.record()?;
        let watching = Watching::begin(queue);
        let value = step()?;
        watching.compute_results()?;
        let (written, list) = (watching.finish(), recorder.finish());
        let list = queue.compile(list)?;
        Ok((Captured { device: self.clone(), list, written }, value))
    }
}

/// A recorded step.
pub struct Captured {
    device: Device,
    list: Compiled,
    written: Written,
}

impl Captured {
    /// Runs the step again on what its input tensors hold now. As with every write in place, values
    /// that wait to read what it overwrites are computed first, and a graph that saved something of
    /// it fails in backward.
    ///
    /// # Errors
    /// [`Error::Invalid`] while this thread captures another step on the queue; what the device
    /// reports.
    pub fn replay(&self) -> Result<()> {
        if self.device.queue().is_recording() {
            return Err(Error::invalid(
                "a captured step cannot be replayed within another capture: call its function \
                 there instead",
            ));
        }
        self.written.before_write()?;
        self.device.queue().replay(&self.list)
    }

    /// Number of verbs.
    pub fn launches(&self) -> usize {
        self.list.len()
    }
}
