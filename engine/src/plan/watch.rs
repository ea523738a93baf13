//! What a capture must know of the values around it.
//!
//! A captured list computes what its step would compute if it ran again. So a value that was still
//! an expression when the capture began is computed outside the list, once: running the step again
//! would not compute it again. A value made within that is still an expression at the end is a
//! result, and is computed as the list's last work. And memory that the list writes is watched, so
//! that a replay can do what every other write does first: see [`Memory::before_write`].

use super::{Memory, Node, lock};
use crate::device::{Device, Queue};
use crate::error::Result;
use std::cell::RefCell;
use std::marker::PhantomData;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::thread::{self, ThreadId};

struct Watch {
    queue: Queue,
    /// Nodes with a smaller number are older than the capture.
    began: u64,
    /// Lives as long as the capture is open.
    open: Arc<ThreadId>,
    made: Vec<Weak<Node>>,
    written: Vec<Weak<Memory>>,
}

thread_local! {
    static OPEN: RefCell<Vec<Watch>> = const { RefCell::new(Vec::new()) };
}

static NODES: AtomicU64 = AtomicU64::new(0);

/// The number of a new node; they grow.
pub(super) fn number() -> u64 {
    NODES.fetch_add(1, Ordering::Relaxed)
}

fn with<T>(device: &Device, f: impl FnOnce(&mut Watch) -> T) -> Option<T> {
    OPEN.with_borrow_mut(|open| {
        let watch = open.iter_mut().find(|w| w.queue.same(device.queue()))?;
        device.queue().is_recording().then(|| f(watch))
    })
}

/// Notes a new expression.
pub(super) fn made(node: &Arc<Node>) {
    with(&node.device, |w| w.made.push(Arc::downgrade(node)));
}

/// Notes memory that is about to be written.
pub(super) fn written(device: &Device, memory: &Arc<Memory>) {
    with(device, |w| w.written.push(Arc::downgrade(memory)));
}

/// The capture that an expression was made in.
pub(super) struct MadeIn(Weak<ThreadId>);

impl MadeIn {
    /// True while a thread other than this one still captures: only that thread's work is recorded.
    pub fn is_open_elsewhere(&self) -> bool {
        self.0.upgrade().is_some_and(|thread| *thread != thread::current().id())
    }
}

/// The capture of this thread that an expression made now belongs to.
pub(super) fn current(device: &Device) -> Option<MadeIn> {
    with(device, |w| MadeIn(Arc::downgrade(&w.open)))
}

/// True when this thread captures a step and the node was made before it.
pub(super) fn is_older(node: &Node) -> bool {
    with(&node.device, |w| node.number < w.began).unwrap_or(false)
}

/// Watches a capture of this thread until it is dropped.
pub(crate) struct Watching {
    queue: Queue,
    _thread: PhantomData<*const ()>,
}

impl Watching {
    /// To be called before the recording begins.
    pub fn begin(queue: &Queue) -> Self {
        let (made, written) = (Vec::new(), Vec::new());
        let open = Arc::new(thread::current().id());
        let watch = Watch { queue: queue.clone(), began: number(), open, made, written };
        OPEN.with_borrow_mut(|open| open.push(watch));
        Self { queue: queue.clone(), _thread: PhantomData }
    }

    /// Computes what the step made and left as an expression: the last work of the list.
    pub fn compute_results(&self) -> Result<()> {
        let made = OPEN.with_borrow_mut(|open| {
            let watch = open.iter_mut().rfind(|w| w.queue.same(&self.queue));
            watch.map(|w| std::mem::take(&mut w.made)).unwrap_or_default()
        });
        // The newest first: an expression within another one goes with it.
        for node in made.into_iter().rev() {
            if let Some(node) = node.upgrade() {
                node.stored()?;
            }
        }
        Ok(())
    }

    /// The memory that the list writes and that somebody can see after it.
    pub fn finish(self) -> Written {
        let watch = self.close();
        let mut all = watch.map(|w| w.written).unwrap_or_default();
        all.retain(|m| m.strong_count() > 0);
        all.sort_unstable_by_key(|m| m.as_ptr() as usize);
        all.dedup_by_key(|m| m.as_ptr() as usize);
        Written(Mutex::new(all))
    }

    fn close(&self) -> Option<Watch> {
        OPEN.with_borrow_mut(|open| {
            let at = open.iter().rposition(|w| w.queue.same(&self.queue))?;
            Some(open.remove(at))
        })
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        drop(self.close());
    }
}

/// Memory that a captured list writes.
pub(crate) struct Written(Mutex<Vec<Weak<Memory>>>);

impl Written {
    /// What must happen before the list runs again: values that wait to read the memory are
    /// computed, and values that were saved from it are known to be gone.
    pub fn before_write(&self) -> Result<()> {
        let alive: Vec<_> = {
            let mut all = lock(&self.0);
            all.retain(|m| m.strong_count() > 0);
            all.iter().filter_map(Weak::upgrade).collect()
        };
        alive.iter().try_for_each(|memory| memory.before_write())
    }
}
