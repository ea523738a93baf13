//! Recording what a thread gives to a queue.
//!
//! A recording belongs to one queue and one thread: what other threads do meanwhile runs but is
//! not recorded, and their memory is not the list's. It ends with its guard, however the step ends.

use super::queue::Queue;
use super::random::Instances;
use crate::error::{Error, Result};
use starling_contract::{Capture, Checked, Storage, View};
use std::cell::RefCell;
use std::collections::HashSet;
use std::marker::PhantomData;
use std::sync::Arc;

struct Recording {
    queue: Queue,
    capture: Capture,
    verbs: Vec<Checked>,
    /// Other queues whose memory the verbs take.
    strangers: Vec<Queue>,
    /// The numbers of the list's random operations; `None` while they are lent.
    instances: Option<Instances>,
    suspended: bool,
}

thread_local! {
    /// This thread's recordings, one a queue at most.
    static OPEN: RefCell<Vec<Recording>> = const { RefCell::new(Vec::new()) };
}

/// Looks at the recording of `queue` on this thread; `None` where there is none or it is suspended.
fn with<T>(queue: &Queue, f: impl FnOnce(&mut Recording) -> T) -> Option<T> {
    OPEN.with_borrow_mut(|open| {
        let recording = open.iter_mut().find(|r| r.queue.same(queue))?;
        (!recording.suspended).then(|| f(recording))
    })
}

/// The capture that memory is taken for now.
pub(super) fn capture(queue: &Queue) -> Option<Capture> {
    with(queue, |r| r.capture)
}

/// True while this thread's work on `queue` is recorded.
pub(super) fn is_on(queue: &Queue) -> bool {
    with(queue, |_| ()).is_some()
}

/// Appends a verb that was submitted, where this thread records.
pub(super) fn push(queue: &Queue, verb: &Checked, strangers: Vec<Queue>) {
    with(queue, |r| {
        r.verbs.push(verb.clone());
        let known = |q: &Queue, all: &[Queue]| all.iter().any(|other| other.same(q));
        for stranger in strangers {
            if !known(&stranger, &r.strangers) {
                r.strangers.push(stranger);
            }
        }
    });
}

/// Refuses work on another queue, of whatever device, while this thread captures on one: it would
/// run now and be missing in every replay.
pub(super) fn check_queue(queue: &Queue) -> Result<()> {
    OPEN.with_borrow(|open| {
        let other = |r: &Recording| !r.suspended && !r.queue.same(queue);
        match open.iter().any(other) && !open.iter().any(|r| r.queue.same(queue)) {
            true => Err(Error::invalid(
                "a captured step gave work to another queue: make the tensors that it works on \
                 with the device handle that captures",
            )),
            false => Ok(()),
        }
    })
}

/// Lends the numbers of the random operations of the list that is recorded.
pub(super) fn with_instances<T>(queue: &Queue, f: impl FnOnce(&mut Instances) -> T) -> Option<T> {
    let mut instances = with(queue, |r| r.instances.take())??;
    let result = f(&mut instances);
    with(queue, |r| r.instances = Some(instances));
    Some(result)
}

/// The storages that only a list sees.
#[derive(Default)]
pub(crate) struct Temporary {
    /// Their addresses: a view of the list keeps its storage, and so the address is no other's.
    addresses: HashSet<usize>,
}

impl Temporary {
    fn of(storages: Vec<Arc<dyn Storage>>) -> Self {
        Self { addresses: storages.iter().map(address).collect() }
    }

    /// True when a view of the list is of such memory.
    pub fn has(&self, view: &View) -> bool {
        self.addresses.contains(&address(&view.storage))
    }
}

fn address(storage: &Arc<dyn Storage>) -> usize {
    Arc::as_ptr(storage).cast::<()>().addr()
}

/// What a recording has gathered.
#[derive(Default)]
pub(crate) struct List {
    pub verbs: Vec<Checked>,
    pub temporary: Temporary,
    pub(super) strangers: Vec<Queue>,
    pub(super) instances: Option<Instances>,
}

/// Ends a recording when it is dropped, also by a panic.
pub(crate) struct Recorder {
    queue: Queue,
    /// It belongs to its thread.
    _thread: PhantomData<*const ()>,
}

impl Recorder {
    pub(super) fn begin(
        queue: &Queue,
        instances: Instances,
        capture: impl FnOnce() -> Capture,
    ) -> Result<Self> {
        OPEN.with_borrow_mut(|open| {
            if open.iter().any(|r| r.queue.same(queue)) {
                return Err(Error::invalid(
                    "a step is being captured on this queue already: finish it, or capture on \
                     another queue",
                ));
            }
            let capture = capture();
            open.push(Recording {
                queue: queue.clone(),
                capture,
                verbs: Vec::new(),
                strangers: Vec::new(),
                instances: Some(instances),
                suspended: false,
            });
            Ok(())
        })?;
        Ok(Self { queue: queue.clone(), _thread: PhantomData })
    }

    /// Ends the recording.
    pub fn finish(self) -> List {
        let gathered = self.close();
        gathered.map_or_else(List::default, |(r, temporary)| List {
            verbs: r.verbs,
            temporary,
            strangers: r.strangers,
            instances: r.instances,
        })
    }

    fn close(&self) -> Option<(Recording, Temporary)> {
        let recording = OPEN.with_borrow_mut(|open| {
            let at = open.iter().position(|r| r.queue.same(&self.queue))?;
            Some(open.swap_remove(at))
        })?;
        let temporary = Temporary::of(self.queue.end_capture(recording.capture));
        Some((recording, temporary))
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        // The verbs' memory goes after the borrow has ended.
        drop(self.close());
    }
}

/// Runs `f` outside the recording of `queue` on this thread, if there is one: its verbs run now
/// and only now, in memory that is not the list's.
pub(super) fn outside<T>(queue: &Queue, f: impl FnOnce() -> T) -> T {
    struct Resume<'a>(&'a Queue);
    impl Drop for Resume<'_> {
        fn drop(&mut self) {
            suspend(self.0, false);
        }
    }
    if with(queue, |r| r.suspended = true).is_none() {
        return f();
    }
    let _resume = Resume(queue);
    f()
}

fn suspend(queue: &Queue, on: bool) {
    OPEN.with_borrow_mut(|open| {
        if let Some(r) = open.iter_mut().find(|r| r.queue.same(queue)) {
            r.suspended = on;
        }
    });
}
