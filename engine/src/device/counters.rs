//! What a queue has been asked for.

use starling_contract::{StreamCounters, Verb};
use std::sync::atomic::{AtomicU64, Ordering};

/// Verbs and bytes that a queue has been asked for since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Verbs submitted, one by one or as part of a replayed list.
    pub launches: u64,
    /// Bytes that the submitted verbs read and wrote, counting every operand once.
    pub verb_bytes: u64,
    /// Bytes copied to the device.
    pub uploaded_bytes: u64,
    /// Transfers to the host.
    pub downloads: u64,
    /// Bytes copied to the host.
    pub downloaded_bytes: u64,
    /// Lists of commands handed to the driver.
    pub submissions: u64,
    /// Kernels in them.
    pub dispatches: u64,
    /// Shaders compiled.
    pub compilations: u64,
}

#[derive(Default)]
pub(super) struct Counting {
    launches: AtomicU64,
    verb_bytes: AtomicU64,
    uploaded_bytes: AtomicU64,
    downloads: AtomicU64,
    downloaded_bytes: AtomicU64,
}

/// Bytes that a verb reads and writes, counting every operand once.
pub(super) fn verb_bytes(verb: &Verb) -> u64 {
    let operands = verb.reads().into_iter().chain(verb.writes());
    operands.map(|v| v.bytes() as u64).fold(0, u64::saturating_add)
}

impl Counting {
    /// `verbs` verbs that move `bytes`.
    pub fn launched(&self, verbs: usize, bytes: u64) {
        self.launches.fetch_add(verbs as u64, Ordering::Relaxed);
        self.verb_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub fn uploaded(&self, bytes: usize) {
        self.uploaded_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub fn downloaded(&self, bytes: usize) {
        self.downloads.fetch_add(1, Ordering::Relaxed);
        self.downloaded_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub fn read(&self, stream: StreamCounters) -> Counters {
        let get = |x: &AtomicU64| x.load(Ordering::Relaxed);
        Counters {
            submissions: stream.submissions,
            dispatches: stream.dispatches,
            compilations: stream.compilations,
            launches: get(&self.launches),
            verb_bytes: get(&self.verb_bytes),
            uploaded_bytes: get(&self.uploaded_bytes),
            downloads: get(&self.downloads),
            downloaded_bytes: get(&self.downloaded_bytes),
        }
    }
}
