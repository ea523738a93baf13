//! Reuse of device memory: one pool type, one instance per stream.

use crate::backend::Backend;
use crate::error::{Error, Result};
use crate::layout::Storage;
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

/// Storages by size class.
type Classes = HashMap<usize, Vec<Arc<dyn Storage>>>;

/// Hands out storages by size class and takes them back when their [`Buffer`] is dropped.
///
/// A freed storage may be handed out again at once although verbs that use it are still queued:
/// the stream runs in order. It must not be used on another stream without an event. One that a
/// [`crate::View`] still refers to, in a captured list or on its way to a stream, is not handed out
/// again before that view is gone, but for what a capture frees within; it stays on the books.
pub struct Pool {
    backend: Arc<dyn Backend>,
    limit_bytes: usize,
    state: Mutex<State>,
    weak: Weak<Pool>,
}

#[derive(Default)]
struct State {
    free: Classes,
    /// For each capture under way the storages freed within it: reusable within it only.
    captures: HashMap<Capture, Classes>,
    last_capture: u64,
    /// Storages that no buffer has but that a view may refer to still.
    held: Vec<(usize, Arc<dyn Storage>)>,
    /// The addresses of all storages of the pool.
    own: HashSet<usize>,
    stats: PoolStats,
}

/// Names a capture: see [`Pool::begin_capture`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Capture(u64);

/// Counters of a pool.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PoolStats {
    /// Requests answered from freed memory.
    pub hits: u64,
    /// Requests that allocated.
    pub misses: u64,
    /// Bytes handed out now.
    pub in_use_bytes: usize,
    /// The most bytes ever in use and held at once since the last reset.
    pub peak_bytes: usize,
    /// Bytes that no buffer has but a captured list, or a verb on its way, refers to.
    pub held_bytes: usize,
    /// Bytes that lie free for reuse.
    pub free_bytes: usize,
    /// Bytes handed out beyond what was asked for (size classes).
    pub slack_bytes: usize,
}

fn address(storage: &Arc<dyn Storage>) -> usize {
    Arc::as_ptr(storage).cast::<()>() as usize
}

impl PoolStats {
    fn took(&mut self, class: usize, asked: usize) {
        self.in_use_bytes += class;
        self.slack_bytes += class - asked;
        self.peak_bytes = self.peak_bytes.max(self.in_use_bytes + self.held_bytes);
    }
}

impl State {
    /// Moves what no view refers to any more to the free storages.
    fn reclaim(&mut self) {
        for (class, storage) in std::mem::take(&mut self.held) {
            if Arc::strong_count(&storage) > 1 {
                self.held.push((class, storage));
                continue;
            }
            self.stats.held_bytes -= class;
            self.stats.free_bytes += class;
            self.free.entry(class).or_default().push(storage);
        }
    }

    fn take_free(&mut self, class: usize) -> Option<Arc<dyn Storage>> {
        let storage = self.free.get_mut(&class).and_then(Vec::pop)?;
        self.stats.free_bytes -= class;
        Some(storage)
    }

    fn take_captured(&mut self, capture: Capture, class: usize) -> Option<Arc<dyn Storage>> {
        let storage = self.captures.get_mut(&capture)?.get_mut(&class)?.pop()?;
        self.stats.held_bytes -= class;
        Some(storage)
    }

    fn clear_free(&mut self) {
        for (_, storages) in self.free.drain() {
            storages.iter().for_each(|s| {
                self.own.remove(&address(s));
            });
        }
        self.stats.free_bytes = 0;
    }
}

/// A storage on loan from a pool, returned when dropped.
pub struct Buffer {
    storage: Arc<dyn Storage>,
    class: usize,
    asked: usize,
    /// The capture that it was taken in.
    capture: Option<Capture>,
    pool: Weak<Pool>,
}

impl Buffer {
    /// The bytes.
    pub fn storage(&self) -> &Arc<dyn Storage> {
        &self.storage
    }

    /// How many bytes were asked for.
    pub fn bytes(&self) -> usize {
        self.asked
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
    // Beyond all memory: refused as it is.
    const BEYOND: usize = 1 << (usize::BITS - 2);
    if bytes <= SMALLEST {
        return SMALLEST;
    }
    if bytes > BEYOND {
        return bytes;
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
        self.take(bytes, None)
    }

    /// A buffer for a verb of the list that `capture` records. When it is dropped before
    /// [`Pool::end_capture`] its memory serves that list again.
    ///
    /// # Errors
    /// As [`Pool::get`].
    pub fn get_captured(&self, bytes: usize, capture: Capture) -> Result<Buffer> {
        self.take(bytes, Some(capture))
    }

    fn take(&self, bytes: usize, capture: Option<Capture>) -> Result<Buffer> {
        let class = class_of(bytes);
        let mut state = self.state();
        let again = capture.and_then(|c| state.take_captured(c, class));
        let again = again.or_else(|| state.take_free(class)).or_else(|| {
            state.reclaim();
            state.take_free(class)
        });
        let storage = match again {
            Some(storage) => {
                state.stats.hits += 1;
                storage
            }
            None => {
                state.stats.misses += 1;
                let storage = self.allocate(&mut state, class)?;
                state.own.insert(address(&storage));
                storage
            }
        };
        state.stats.took(class, bytes);
        Ok(Buffer { storage, class, asked: bytes, capture, pool: self.weak.clone() })
    }

    fn allocate(&self, state: &mut State, class: usize) -> Result<Arc<dyn Storage>> {
        let fits = |s: &PoolStats| {
            let all = (s.in_use_bytes + s.held_bytes + s.free_bytes).checked_add(class);
            all.is_some_and(|all| all <= self.limit_bytes)
        };
        if fits(&state.stats)
            && let Ok(storage) = self.backend.alloc(class)
        {
            return Ok(storage);
        }
        state.clear_free();
        let exhausted = Error::OutOfMemory {
            requested_bytes: class,
            in_use_bytes: state.stats.in_use_bytes + state.stats.held_bytes,
            device: self.backend.name().to_owned(),
        };
        if !fits(&state.stats) {
            return Err(exhausted);
        }
        self.backend.alloc(class).map_err(|e| match e {
            Error::OutOfMemory { .. } => exhausted,
            other => other,
        })
    }

    fn take_back(&self, buffer: &Buffer) {
        let mut state = self.state();
        let (class, storage) = (buffer.class, buffer.storage.clone());
        state.stats.in_use_bytes -= class;
        state.stats.slack_bytes -= class - buffer.asked;
        // Freed inside the capture that took it: the list may use it again.
        if let Some(own) = buffer.capture.and_then(|c| state.captures.get_mut(&c)) {
            own.entry(class).or_default().push(storage);
            state.stats.held_bytes += class;
            return;
        }
        // The buffer's and the clone here; more are views that have outlived it.
        if Arc::strong_count(&storage) > 2 {
            state.held.push((class, storage));
            state.stats.held_bytes += class;
            return;
        }
        state.free.entry(class).or_default().push(storage);
        state.stats.free_bytes += class;
    }

    /// Begins a capture: what [`Pool::get_captured`] hands out belongs to a list of verbs that will
    /// be replayed. What is freed meanwhile is reused only within the list, also after
    /// [`Pool::end_capture`], until the last view of the list is gone.
    pub fn begin_capture(&self) -> Capture {
        let mut state = self.state();
        state.last_capture += 1;
        let capture = Capture(state.last_capture);
        state.captures.insert(capture, Classes::new());
        capture
    }

    /// Ends what [`Pool::begin_capture`] began. The storages of the list that nobody holds: what
    /// they contain is seen by the list alone.
    pub fn end_capture(&self, capture: Capture) -> Vec<Arc<dyn Storage>> {
        let mut state = self.state();
        let mut freed = Vec::new();
        for (class, storages) in state.captures.remove(&capture).unwrap_or_default() {
            freed.extend(storages.iter().cloned());
            state.held.extend(storages.into_iter().map(|storage| (class, storage)));
        }
        freed
    }

    /// True when the storage came from this pool, in use or not.
    pub fn owns(&self, storage: &Arc<dyn Storage>) -> bool {
        self.state().own.contains(&address(storage))
    }

    /// The counters.
    pub fn stats(&self) -> PoolStats {
        let mut state = self.state();
        state.reclaim();
        state.stats
    }

    /// Starts the peak anew at what is in use and held.
    pub fn reset_peak(&self) {
        let mut state = self.state();
        state.reclaim();
        state.stats.peak_bytes = state.stats.in_use_bytes + state.stats.held_bytes;
    }

    /// Gives the memory that lies free back to the device.
    pub fn trim(&self) {
        let mut state = self.state();
        state.reclaim();
        state.clear_free();
    }
}
