//! The device as the contract sees it.

use crate::adapter::{Options, open};
use crate::gpu::Gpu;
use crate::plan::{supports, workspace_bytes};
use crate::stream::WebGpuStream;
use starling_api::{Backend, Capabilities, Result, Storage, Stream, Support, Verb};
use std::sync::Arc;

/// A GPU, or a driver that plays one.
pub struct WebGpuBackend(Arc<Gpu>);

impl WebGpuBackend {
    /// Opens adapter number `index` of [`crate::adapters`], as `STARLING_WEBGPU` says.
    ///
    /// # Errors
    /// [`starling_api::Error::Unavailable`] when there is no such adapter or it lacks what is
    /// forced.
    pub fn open(index: usize) -> Result<Arc<Self>> {
        Self::with(index, Options::from_env()?)
    }

    /// Opens adapter number `index` with `options`.
    ///
    /// # Errors
    /// As [`WebGpuBackend::open`].
    pub fn with(index: usize, options: Options) -> Result<Arc<Self>> {
        Ok(Arc::new(Self(open(index, options)?)))
    }

    /// Gives the device back: whatever is asked of it afterwards is answered by
    /// [`starling_api::Error::DeviceLost`], as when a driver resets it.
    pub fn destroy(&self) {
        self.0.device.destroy();
        // The loss is reported when the driver is next asked.
        let _ = self.0.device.poll(wgpu::PollType::Poll);
    }
}

impl Backend for WebGpuBackend {
    fn name(&self) -> &str {
        &self.0.name
    }

    fn capabilities(&self) -> &Capabilities {
        &self.0.capabilities
    }

    fn supports(&self, verb: &Verb) -> Support {
        supports(verb, &self.0.limits)
    }

    fn workspace_bytes(&self, verb: &Verb) -> usize {
        workspace_bytes(verb, &self.0.limits)
    }

    fn alloc(&self, bytes: usize) -> Result<Arc<dyn Storage>> {
        Ok(Arc::new(self.0.alloc(bytes)?))
    }

    fn stream(&self) -> Result<Box<dyn Stream>> {
        Ok(Box::new(WebGpuStream::new(&self.0)?))
    }
}
