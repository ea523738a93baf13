//! The queues of one device.

use super::global::global;
use super::queue::Inner;
use starling_contract::{DeviceId, Storage};
use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

/// The queues of a device that are open: whose memory an operand is, is asked of them.
#[derive(Default)]
pub(super) struct Siblings {
    count: AtomicUsize,
    queues: Mutex<Vec<Weak<Inner>>>,
}

global! {
    /// Devices are few and never given back.
    devices: HashMap<DeviceId, Arc<Siblings>>
}

impl Siblings {
    /// Those of a device.
    pub fn of(device: DeviceId) -> Arc<Self> {
        devices(|all| all.entry(device).or_default().clone())
    }

    fn queues(&self) -> MutexGuard<'_, Vec<Weak<Inner>>> {
        // The list is consistent between statements.
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn add(&self, queue: &Arc<Inner>) {
        self.queues().push(Arc::downgrade(queue));
        self.count.fetch_add(1, Ordering::Release);
    }

    /// One of them is gone.
    pub fn remove(&self) {
        self.queues().retain(|q| q.strong_count() > 0);
        self.count.fetch_sub(1, Ordering::Release);
    }

    /// True when the device has one queue only, whose all memory is.
    pub fn is_alone(&self) -> bool {
        self.count.load(Ordering::Acquire) <= 1
    }

    /// The queue whose pool the storage came from; `None` for memory of no pool.
    pub fn owner(&self, storage: &Arc<dyn Storage>) -> Option<Arc<Inner>> {
        let open: Vec<Arc<Inner>> = self.queues().iter().filter_map(Weak::upgrade).collect();
        open.into_iter().find(|q| q.owns(storage))
    }
}
