//! Reuse of device memory: one pool type, one instance per stream.

use crate::backend::Backend;
use crate::error::{Error, Result};
use crate::layout::Storage;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

/// Hands out storages by size class and takes them back when their [`Buffer`] is dropped.
///
/// A freed storage may be handed out again at once although verbs that use it are still queued:
/// the stream runs in order. It must not be used on another stream without an event. One that a
/// [`crate::View`] still refers to is not handed out again, but for what a capture frees within.
pub struct Pool {
    backend: Arc<dyn Backend>,
    limit_bytes: usize,
    state: Mutex<State>,
    weak: Weak<Pool>,
}

#[derive(Default)]
struct State {
    free: HashMap<usize, Vec<Arc<dyn Storage>>>,
    /// While a step is captured, storages freed within it: reusable within the capture only, and
    /// owned by it afterwards.
    private: Option<HashMap<usize, Vec<Arc<dyn Storage>>>>,
    capture: u64,
    stats: PoolStats,
}

/// Counters of a pool.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PoolStats {
    /// Requests answered from freed memory.
    pub hits: u64,
    /// Requests that allocated.
    pub misses: u64,
    /// Bytes handed out now.
    pub in_use_bytes: usize,
    /// The most bytes ever handed out at once since the last reset.
    pub peak_bytes: usize,
    /// Bytes held for reuse.
    pub free_bytes: usize,
    /// Bytes handed out beyond what was asked for (size classes).
    pub slack_bytes: usize,
}

/// A storage on loan from a pool, returned when dropped.
pub struct Buffer {
    storage: Arc<dyn Storage>,
    class: usize,
    asked: usize,
    /// The capture that it was taken in; 0 outside one.
    capture: u64,
    pool: Weak<Pool>,
}

impl Buffer {
    /// The bytes.
    pub fn storage(&self) -> &Arc<dyn Storage> {
        &self.storage
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if let Some(pool) = self.pool.upgrade() {
            pool.take_back(self);
        }
    }
}

/// Sizes are rounded up to a power of two in four steps: at most a fifth is slack.
fn class_of(bytes: usize) -> usize {
    const SMALLEST: usize = 256;
    if bytes <= SMALLEST {
        return SMALLEST;
    }
    let step = (bytes.next_power_of_two() / 8).max(SMALLEST / 4);
    bytes.next_multiple_of(step)
}

impl Pool {
    /// A pool that allocates from `backend` and holds at most `limit_bytes`, in use and free.
    pub fn new(backend: Arc<dyn Backend>, limit_bytes: usize) -> Arc<Self> {
        Arc::new_cyclic(|weak| Self {
            backend,
            limit_bytes,
            state: Mutex::default(),
            weak: weak.clone(),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // The state is consistent between statements, so a panic elsewhere does not spoil it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A buffer of at least `bytes`; its contents are arbitrary.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] when the limit or the device is exhausted, after giving back what
    /// lay free.
    pub fn get(&self, bytes: usize) -> Result<Buffer> {
        let class = class_of(bytes);
        let mut state = self.state();
        let capture = if state.private.is_some() { state.capture } else { 0 };
        let freed = match state.private.as_mut().and_then(|p| p.get_mut(&class)?.pop()) {
            Some(storage) => Some(storage),
            None => {
                let storage = state.free.get_mut(&class).and_then(Vec::pop);
                if storage.is_some() {
                    state.stats.free_bytes -= class;
                }
                storage
            }
        };
        let storage = match freed {
            Some(storage) => {
                state.stats.hits += 1;
                storage
            }
            None => {
                state.stats.misses += 1;
                self.allocate(&mut state, class)?
            }
        };
        let stats = &mut state.stats;
        stats.in_use_bytes += class;
        stats.slack_bytes += class - bytes;
        stats.peak_bytes = stats.peak_bytes.max(stats.in_use_bytes);
        Ok(Buffer { storage, class, asked: bytes, capture, pool: self.weak.clone() })
    }

    fn allocate(&self, state: &mut State, class: usize) -> Result<Arc<dyn Storage>> {
        let fits =
            |s: &State| s.stats.in_use_bytes + s.stats.free_bytes + class <= self.limit_bytes;
        if fits(state)
            && let Ok(storage) = self.backend.alloc(class)
        {
            return Ok(storage);
        }
        state.free.clear();
        state.stats.free_bytes = 0;
        let exhausted = Error::OutOfMemory {
            requested_bytes: class,
            in_use_bytes: state.stats.in_use_bytes,
            device: self.backend.name().to_owned(),
        };
        if !fits(state) {
            return Err(exhausted);
        }
        self.backend.alloc(class).map_err(|e| match e {
            Error::OutOfMemory { .. } => exhausted,
            other => other,
        })
    }

    fn take_back(&self, buffer: &Buffer) {
        let mut state = self.state();
        state.stats.in_use_bytes -= buffer.class;
        state.stats.slack_bytes -= buffer.class - buffer.asked;
        let current = state.capture;
        match &mut state.private {
            // Freed inside the capture that took it: the list may use it again.
            Some(private) if buffer.capture == current => {
                private.entry(buffer.class).or_default().push(buffer.storage.clone());
            }
            // Taken in a capture that has ended: the list owns it now.
            _ if buffer.capture != 0 => {}
            // A view has outlived its tensor, in a captured list or on its way to a stream: the
            // memory stays its own, and goes back to the device with it.
            _ if Arc::strong_count(&buffer.storage) > 1 => {}
            _ => {
                state.free.entry(buffer.class).or_default().push(buffer.storage.clone());
                state.stats.free_bytes += buffer.class;
            }
        }
    }

    /// From now on buffers belong to a list of verbs that will be replayed: what is freed is
    /// reused only within the list and never outside it, also after [`Pool::end_capture`].
    pub fn begin_capture(&self) {
        let mut state = self.state();
        state.capture += 1;
        state.private = Some(HashMap::new());
    }

    /// Ends what [`Pool::begin_capture`] began.
    pub fn end_capture(&self) {
        self.state().private = None;
    }

    /// The counters.
    pub fn stats(&self) -> PoolStats {
        self.state().stats
    }

    /// Starts the peak anew at what is in use.
    pub fn reset_peak(&self) {
        let mut state = self.state();
        state.stats.peak_bytes = state.stats.in_use_bytes;
    }

    /// Gives the memory that lies free back to the device.
    pub fn trim(&self) {
        let mut state = self.state();
        state.free.clear();
        state.stats.free_bytes = 0;
    }
}
