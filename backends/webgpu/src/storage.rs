//! Device memory.

use starling_contract::{DeviceId, Storage, View};

/// A buffer of the device, a multiple of 16 bytes long, so that shaders may read its end in fours.
pub struct GpuStorage {
    buffer: wgpu::Buffer,
    bytes: usize,
    device: DeviceId,
}

impl GpuStorage {
    /// The granularity of buffers.
    pub const STEP: usize = 16;

    pub(crate) fn new(buffer: wgpu::Buffer, bytes: usize, device: DeviceId) -> Self {
        Self { buffer, bytes, device }
    }

    /// The device's handle.
    pub(crate) fn buffer(&self) -> &wgpu::Buffer {
        &self.buffer
    }

    /// The storage of a view; `None` for another backend's.
    pub(crate) fn of(view: &View) -> Option<&Self> {
        view.storage.downcast_ref()
    }
}

impl Storage for GpuStorage {
    fn bytes(&self) -> usize {
        self.bytes
    }

    fn device(&self) -> DeviceId {
        self.device
    }
}
