//! Batches that are made in the background while the device computes.

use crate::data::{Corpus, Sampling};
use starling_engine::{Error, Result};
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread::JoinHandle;

/// The sequences of one step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// The step.
    pub step: u64,
    /// Where each sequence starts in the token stream.
    pub offsets: Vec<usize>,
    /// `[sequences, seq]`: what the model sees.
    pub inputs: Vec<i32>,
    /// `[sequences, seq]`: the token after each.
    pub targets: Vec<i32>,
}

impl Batch {
    /// The sequences of `step`, `seq` tokens each.
    pub fn new(corpus: &[u8], sampling: &Sampling, seq: usize, step: u64) -> Self {
        let offsets = sampling.offsets(step);
        let tokens = |shift: usize| -> Vec<i32> {
            let windows = offsets.iter().map(|o| &corpus[o + shift..o + shift + seq]);
            windows.flatten().map(|&t| i32::from(t)).collect()
        };
        Self { step, inputs: tokens(0), targets: tokens(1), offsets }
    }
}

/// A thread that makes the batches of the steps `first ..= last` in order, a few ahead. Dropping
/// it ends the thread.
pub struct Prefetch {
    batches: Option<Receiver<Batch>>,
    thread: Option<JoinHandle<()>>,
}

impl Prefetch {
    /// How many batches wait at most.
    pub const AHEAD: usize = 4;

    /// Starts the thread.
    ///
    /// # Errors
    /// [`Error::Invalid`] when the system gives no thread.
    pub fn start(
        corpus: Corpus,
        sampling: Sampling,
        seq: usize,
        first: u64,
        last: u64,
    ) -> Result<Self> {
        let (send, batches) = sync_channel(Self::AHEAD);
        let work = move || {
            for step in first..=last {
                // An error says that the receiver is gone: nobody wants more.
                if send.send(Batch::new(&corpus, &sampling, seq, step)).is_err() {
                    return;
                }
            }
        };
        let thread = std::thread::Builder::new()
            .name("prefetch".into())
            .spawn(work)
            .map_err(|e| Error::invalid(format!("no thread for reading batches: {e}")))?;
        Ok(Self { batches: Some(batches), thread: Some(thread) })
    }

    /// The next batch, waiting for it if need be.
    ///
    /// # Errors
    /// [`Error::Invalid`] after the last one.
    pub fn take(&self) -> Result<Batch> {
        let received = self.batches.as_ref().and_then(|b| b.recv().ok());
        received.ok_or_else(|| Error::invalid("there are no more batches in this run"))
    }
}

impl Drop for Prefetch {
    fn drop(&mut self) {
        drop(self.batches.take());
        if let Some(thread) = self.thread.take() {
            // A panic in the thread has been reported by `take` as an end of the batches.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_come_in_order_and_equal_those_made_alone() {
        let corpus = Corpus::from_static("test", b"the quick brown fox jumps over the lazy dog");
        let sampling = Sampling::new(5, corpus.len(), 8, 3).unwrap();
        let prefetch = Prefetch::start(corpus.clone(), sampling, 8, 4, 9).unwrap();
        for step in 4..=9 {
            let batch = prefetch.take().unwrap();
            assert_eq!(batch, Batch::new(&corpus, &sampling, 8, step));
            assert_eq!(batch.inputs[1..8], batch.targets[0..7]);
            assert_eq!(batch.inputs[0], i32::from(corpus[batch.offsets[0]]));
        }
        assert!(prefetch.take().is_err());
    }

    #[test]
    fn dropping_ends_a_thread_that_waits() {
        let corpus = Corpus::from_static("test", b"some text that is long enough");
        let sampling = Sampling::new(5, corpus.len(), 8, 3).unwrap();
        // Returns only when the thread has ended: the test would hang otherwise.
        drop(Prefetch::start(corpus, sampling, 8, 0, u64::MAX).unwrap());
    }
}
