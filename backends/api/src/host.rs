//! Host memory, for the backends that compute on the CPU.

use crate::error::{Error, Result};
use crate::layout::{Storage, View};
use std::alloc::Layout as Allocation;
use std::any::Any;
use std::ptr::NonNull;
use std::sync::Arc;

/// Bytes of host memory, aligned to a cache line and to the widest vector.
///
/// The bytes are reached through raw pointers because views of one storage are read and written in
/// turn by verbs that hold only shared handles; the stream's order is what keeps them apart.
#[derive(Debug)]
pub struct HostStorage {
    start: NonNull<u8>,
    bytes: usize,
}

// SAFETY: the storage owns its allocation and hands out only raw pointers; whoever dereferences
// them relies on the stream's order (see `HostStorage::pointer`).
unsafe impl Send for HostStorage {}
// SAFETY: as above.
unsafe impl Sync for HostStorage {}

impl HostStorage {
    const ALIGN: usize = 64;

    /// Zeroed memory.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] when the system has none.
    pub fn new(bytes: usize) -> Result<Arc<Self>> {
        let failed = || Error::OutOfMemory {
            requested_bytes: bytes,
            in_use_bytes: 0,
            device: "host memory".into(),
        };
        let layout = Self::allocation(bytes).ok_or_else(failed)?;
        // SAFETY: the layout's size is never 0 (see `allocation`).
        let start = unsafe { std::alloc::alloc_zeroed(layout) };
        let start = NonNull::new(start).ok_or_else(failed)?;
        Ok(Arc::new(Self { start, bytes }))
    }

    fn allocation(bytes: usize) -> Option<Allocation> {
        let padded = bytes.max(1).checked_next_multiple_of(Self::ALIGN)?;
        Allocation::from_size_align(padded, Self::ALIGN).ok()
    }

    /// The first byte. Whoever writes through it must be the verb that the stream runs now, and
    /// must stay below [`Storage::bytes`].
    pub fn pointer(&self) -> *mut u8 {
        self.start.as_ptr()
    }

    /// The first byte of a view that lies in host memory; `None` for another backend's storage.
    pub fn of(view: &View) -> Option<*mut u8> {
        view.storage.as_any().downcast_ref::<Self>().map(Self::pointer)
    }
}

impl Drop for HostStorage {
    fn drop(&mut self) {
        if let Some(layout) = Self::allocation(self.bytes) {
            // SAFETY: `start` came from `alloc_zeroed` with this same layout.
            unsafe { std::alloc::dealloc(self.start.as_ptr(), layout) };
        }
    }
}

impl Storage for HostStorage {
    fn bytes(&self) -> usize {
        self.bytes
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
