//! The device as the contract sees it.

use crate::adapter::open;
use crate::gpu::Gpu;
use crate::plan::{launches, supports, workspace_bytes};
use crate::storage::GpuStorage;
use crate::stream::WebGpuStream;
use crate::variant::Options;
use starling_contract::{
    Backend, Capabilities, DType, DeviceId, HostStorage, Result, Storage, Stream, Support, Verb,
    View,
};
use std::sync::Arc;

/// A GPU, or a driver that plays one.
pub struct WebGpuBackend {
    gpu: Arc<Gpu>,
    capabilities: Capabilities,
}

impl WebGpuBackend {
    /// Opens adapter number `index` of [`crate::request_adapters`] with `options`.
    ///
    /// # Errors
    /// [`starling_contract::Error::Unavailable`] when there is no such adapter or it lacks what is
    /// forced.
    pub async fn request(index: usize, options: Options) -> Result<Arc<Self>> {
        let gpu = open(index, options).await?;
        let arithmetic = gpu.arithmetic();
        let capabilities = Capabilities {
            special_values: arithmetic.special_values,
            subnormals: arithmetic.subnormals,
            rounds_every_step: true,
            ..gpu.capabilities.clone()
        };
        Ok(Arc::new(Self { gpu, capabilities }))
    }

    /// Opens adapter number `index` as `STARLING_WEBGPU` says.
    ///
    /// # Errors
    /// As [`WebGpuBackend::request`].
    #[cfg(not(target_arch = "wasm32"))]
    pub fn open(index: usize) -> Result<Arc<Self>> {
        Self::with(index, Options::from_env()?)
    }

    /// [`WebGpuBackend::request`], awaited.
    ///
    /// # Errors
    /// As [`WebGpuBackend::request`].
    #[cfg(not(target_arch = "wasm32"))]
    pub fn with(index: usize, options: Options) -> Result<Arc<Self>> {
        crate::wait::block_on(Self::request(index, options))
    }

    /// What a verb would run: of each kernel its text, parameters and grid. Two variants of one
    /// adapter that answer the same compute the same. Nothing runs; the operands may lie anywhere.
    ///
    /// # Errors
    /// As submitting the verb.
    pub fn planned(&self, verb: &Verb) -> Result<Vec<String>> {
        let host = |bytes| Ok(HostStorage::new(bytes)? as Arc<dyn Storage>);
        let faults = View::contiguous(host(GpuStorage::STEP)?, DType::U32, &[4]);
        launches(verb, self.gpu.scope(&host, &faults), self.gpu.arithmetic().fma)
    }

    /// Gives the device back: whatever is asked of it afterwards is answered by
    /// [`starling_contract::Error::DeviceLost`], as when a driver resets it.
    pub fn destroy(&self) {
        self.gpu.device.destroy();
        // The loss is reported when the driver is next asked.
        let _ = self.gpu.device.poll(wgpu::PollType::Poll);
    }
}

impl Backend for WebGpuBackend {
    fn name(&self) -> &str {
        &self.gpu.name
    }

    fn device(&self) -> DeviceId {
        self.gpu.id
    }

    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    fn supports(&self, verb: &Verb) -> Support {
        supports(verb)
    }

    fn workspace_bytes(&self, verb: &Verb) -> usize {
        workspace_bytes(verb)
    }

    fn alloc(&self, bytes: usize) -> Result<Arc<dyn Storage>> {
        Ok(Arc::new(self.gpu.alloc(bytes)?))
    }

    fn stream(&self) -> Result<Box<dyn Stream>> {
        Ok(Box::new(WebGpuStream::new(&self.gpu)?))
    }
}
