//! The queue.

use crate::memory::contiguous;
use crate::{NAME, device, map, product};
use starling_contract::{Checked, Download, Error, Pending, Result, Stream, Turn, Verb, View};
use std::sync::atomic::Ordering;

/// An in-order queue: each verb sees what the ones before it wrote. The simplest way is to be
/// done with a verb before `submit` returns, as here. A real device enqueues, and its queue's
/// order gives the same; errors that it finds later may be returned by a later call.
pub(crate) struct MinimalStream;

/// Threads that submit at the same time take turns: the pool hands memory out again as soon as a
/// verb that uses it is submitted. One turn serves all streams, so that their default events, which
/// have passed when they are made, say the truth.
static TURN: Turn = Turn::new();

impl Stream for MinimalStream {
    /// Outputs are in the verb: the caller allocated them, and they hold anything. A verb that
    /// `supports` does not call native comes only from a caller's mistake: a typed error.
    ///
    /// A `Checked` verb fits together and lies inside its storages, whoever made it; that these are
    /// this device's is for the stream to see.
    fn submit(&self, verb: &Checked) -> Result<()> {
        verb.must_be_on(device())?;
        let _turn = TURN.take();
        match &**verb {
            Verb::Map(v) => map::map(v),
            Verb::Reduce(v) => map::reduce(v),
            Verb::Gemm(v) if product::is_native(v) => product::gemm(v),
            Verb::Copy(v) => product::copy(v),
            _ => {
                let (op, dtype) = (verb.name(), verb.dtype());
                Err(Error::Unsupported { op, dtype, backend: NAME.into() })
            }
        }
    }

    /// In order with the verbs: those submitted before still read the old bytes. The host's bytes
    /// may change once this returns, so a device that copies later keeps its own.
    fn upload(&self, bytes: &[u8], to: &View) -> Result<()> {
        let to = contiguous("upload", to, bytes.len())?;
        let _turn = TURN.take();
        to.iter().zip(bytes).for_each(|(to, &byte)| to.store(byte, Ordering::Relaxed));
        Ok(())
    }

    /// A future, because a browser may not block. It yields what the verbs submitted before it
    /// wrote: here that is known at once, and a device completes it when its queue has come so far.
    fn download<'a>(&'a self, from: &'a View, bytes: &'a mut [u8]) -> Download<'a> {
        let from = contiguous("download", from, bytes.len());
        let copied = from.map(|from| {
            let _turn = TURN.take();
            bytes.iter_mut().zip(from).for_each(|(to, byte)| *to = byte.load(Ordering::Relaxed));
        });
        Box::pin(std::future::ready(copied))
    }

    /// Done when what other threads submitted before is done, too.
    fn sync(&self) -> Pending<'_, ()> {
        drop(TURN.take());
        Box::pin(std::future::ready(Ok(())))
    }

    // `compile` keeps its default: a captured step is submitted again verb by verb.
}
