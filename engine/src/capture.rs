//! A step recorded once and replayed.

use crate::device::{Compiled, Device, Temporary};
use crate::error::Result;
use crate::passes::{self, Explanation, Names, Passes, World};
use crate::plan::{Watching, Written};
use crate::tensor::Tensor;
use starling_contract::{Backend, Support, Verb, View};

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
    /// Those of `step`, and [`crate::Error::Invalid`] within another capture on this queue by this
    /// thread; nothing stays recorded then, nor when `step` panics.
    pub fn capture<T>(&self, step: impl FnOnce() -> Result<T>) -> Result<(Captured, T)> {
        self.capture_with(Passes::that_pay_on(self.capabilities()), step)
    }

    /// As [`Device::capture`], with these passes over the recorded list instead of those of
    /// [`Passes::that_pay_on`] the device. The step itself runs as it is; replays run the list that
    /// the passes make of it, with the same bits.
    ///
    /// # Errors
    /// As [`Device::capture`].
    pub fn capture_with<T>(
        &self,
        passes: Passes,
        step: impl FnOnce() -> Result<T>,
    ) -> Result<(Captured, T)> {
        let queue = self.queue();
        let recorder = queue.record()?;
        let watching = Watching::begin(queue);
        let value = step()?;
        watching.compute_results()?;
        let (written, mut list) = (watching.finish(), recorder.finish());
        list.verbs = with_world(self.backend().as_ref(), &list.temporary, |w| {
            passes::run(list.verbs, passes, w)
        });
        let list = queue.compile(list)?;
        Ok((Captured { device: self.clone(), list, written }, value))
    }
}

/// What the passes must know of a backend and a list.
fn with_world<T>(
    backend: &dyn Backend,
    temporary: &Temporary,
    f: impl FnOnce(&World<'_>) -> T,
) -> T {
    f(&World {
        is_temporary: &|view: &View| temporary.has(view),
        is_native: &|verb: &Verb| backend.supports(verb) == Support::Native,
        workspace_bytes: &|verb: &Verb| backend.workspace_bytes(verb),
        joins_programs: backend.capabilities().rounds_every_step,
    })
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
    /// [`crate::Error::Invalid`] while this thread captures another step on a queue of the device;
    /// what the device reports.
    pub fn replay(&self) -> Result<()> {
        self.device.queue().may_replay()?;
        self.written.before_write()?;
        self.device.queue().replay(&self.list)
    }

    /// What a replay launches, in words; memory of these tensors is called by their names.
    ///
    /// # Errors
    /// What computing a tensor that is still an expression reports.
    pub fn explain<'a>(
        &self,
        names: impl IntoIterator<Item = (&'a str, &'a Tensor)>,
    ) -> Result<Explanation> {
        let named = |(name, tensor): (&str, &Tensor)| Ok((name.to_owned(), tensor.view()?));
        let names: Names = names.into_iter().map(named).collect::<Result<_>>()?;
        Ok(with_world(self.device.backend().as_ref(), self.list.temporary(), |world| {
            passes::explain(self.list.verbs(), &names, world)
        }))
    }

    #[cfg(test)]
    pub(crate) fn verbs(&self) -> &[starling_contract::Checked] {
        self.list.verbs()
    }

    /// Number of verbs.
    pub fn launches(&self) -> usize {
        self.list.len()
    }
}
