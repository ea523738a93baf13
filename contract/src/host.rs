//! Host memory, for the backends that compute on the CPU.

use crate::error::{Error, Result};
use crate::identity::DeviceId;
use crate::layout::{Storage, View};
use crate::turn::{Taken, Turn};
use std::alloc::Layout as Allocation;
use std::ptr::NonNull;
use std::sync::Arc;

/// Bytes of host memory, aligned to a cache line and to the widest vector; large ones ask the
/// system for huge pages, which spare the kernels most of their address translation.
///
/// The bytes are reached through raw pointers because views of one storage are read and written in
/// turn by verbs that hold only shared handles; [`HostStorage::turn`] is what keeps them apart.
#[derive(Debug)]
pub struct HostStorage {
    start: NonNull<u8>,
    bytes: usize,
    device: DeviceId,
    source: Source,
}

/// Where the bytes came from, and so how they are given back.
#[derive(Debug)]
enum Source {
    Heap(Allocation),
    #[cfg(target_os = "linux")]
    Pages {
        _owner: memmap2::MmapMut,
    },
}

// SAFETY: the storage owns its allocation and hands out only raw pointers; whoever dereferences
// them has the turn (see `HostStorage::pointer`).
unsafe impl Send for HostStorage {}
// SAFETY: as above.
unsafe impl Sync for HostStorage {}

impl HostStorage {
    const ALIGN: usize = 64;

    /// Zeroed memory of the device `cpu`.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] when the system has none.
    pub fn new(bytes: usize) -> Result<Arc<Self>> {
        Self::on(DeviceId::host(), bytes)
    }

    /// Zeroed memory of another device that keeps its bytes on the host.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] when the system has none.
    pub fn on(device: DeviceId, bytes: usize) -> Result<Arc<Self>> {
        let (start, source) = Self::allocate(bytes).ok_or_else(|| Error::OutOfMemory {
            requested_bytes: bytes,
            in_use_bytes: 0,
            device: device.name().into(),
        })?;
        Ok(Arc::new(Self { start, bytes, device, source }))
    }

    fn allocate(bytes: usize) -> Option<(NonNull<u8>, Source)> {
        #[cfg(target_os = "linux")]
        if bytes >= 4 << 20 {
            return Self::pages(bytes);
        }
        let padded = bytes.max(1).checked_next_multiple_of(Self::ALIGN)?;
        let layout = Allocation::from_size_align(padded, Self::ALIGN).ok()?;
        // SAFETY: the layout's size is at least ALIGN.
        let start = unsafe { std::alloc::alloc_zeroed(layout) };
        Some((NonNull::new(start)?, Source::Heap(layout)))
    }

    #[cfg(target_os = "linux")]
    fn pages(bytes: usize) -> Option<(NonNull<u8>, Source)> {
        let mut owner = memmap2::MmapOptions::new().len(bytes).map_anon().ok()?;
        // Advice only: a kernel without huge pages serves small ones.
        let _ = owner.advise(memmap2::Advice::HugePage);
        Some((NonNull::new(owner.as_mut_ptr())?, Source::Pages { _owner: owner }))
    }

    /// The turn of whoever reads or writes host memory: verbs, transfers and whole replayed lists
    /// take it one after another, whatever their threads, streams and devices. So each stream
    /// runs in order, and what one stream of a device is given after another has answered sees what
    /// that one wrote.
    ///
    /// It must not be asked for by a thread that has it, nor by one that such a thread waits for.
    pub fn turn() -> Taken<'static> {
        static TURN: Turn = Turn::new();
        TURN.take()
    }

    /// The first byte. Whoever reads or writes through it must have the turn
    /// ([`HostStorage::turn`]), and must stay below [`Storage::bytes`].
    pub fn pointer(&self) -> *mut u8 {
        self.start.as_ptr()
    }

    /// The first byte of a view that lies in host memory; `None` for another backend's storage.
    pub fn of(view: &View) -> Option<*mut u8> {
        view.storage.downcast_ref::<Self>().map(Self::pointer)
    }
}

impl Drop for HostStorage {
    fn drop(&mut self) {
        match &self.source {
            // SAFETY: `start` came from `alloc_zeroed` with this same layout.
            Source::Heap(layout) => unsafe {
                std::alloc::dealloc(self.start.as_ptr(), *layout);
            },
            #[cfg(target_os = "linux")]
            Source::Pages { .. } => {}
        }
    }
}

impl Storage for HostStorage {
    fn bytes(&self) -> usize {
        self.bytes
    }

    fn device(&self) -> DeviceId {
        self.device
    }
}
