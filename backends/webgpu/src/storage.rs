//! Device memory.

use starling_contract::{Storage, View};
use std::any::Any;

/// A buffer of the device, a multiple of 16 bytes long, so that shaders may read its end in fours.
pub struct GpuStorage {
    buffer: wgpu::Buffer,
    bytes: usize,
}

impl GpuStorage {
    /// The granularity of buffers.
    pub const STEP: usize = 16;

    pub(crate) fn new(buffer: wgpu::Buffer, bytes: usize) -> Self {
        Self { buffer, bytes }
    }

    /// The device's handle.
    pub(crate) fn buffer(&self) -> &wgpu::Buffer {
        &self.buffer
    }

    /// The storage of a view; `None` for another backend's.
    pub(crate) fn of(view: &View) -> Option<&Self> {
        view.storage.as_any().downcast_ref()
    }
}

impl Storage for GpuStorage {
    fn bytes(&self) -> usize {
        self.bytes
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
