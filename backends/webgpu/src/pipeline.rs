//! Compiled shaders, each made once.

use crate::cache::Cache;
use crate::gpu::Gpu;
use crate::kernel::Kernel;
use starling_api::Result;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// A shader ready to run.
pub(crate) struct Pipeline {
    pub pipeline: wgpu::ComputePipeline,
    pub layout: wgpu::BindGroupLayout,
}

/// Every pipeline of a device, by [`Kernel::key`], and the driver's own cache on disk.
pub(crate) struct Pipelines {
    made: Mutex<HashMap<String, Arc<Pipeline>>>,
    compilations: AtomicU64,
    cache: Option<Cache>,
}

impl Drop for Pipelines {
    fn drop(&mut self) {
        if let Some(cache) = &self.cache
            && self.compilations() > 0
        {
            cache.save();
        }
    }
}

impl Pipelines {
    pub fn new(device: &wgpu::Device) -> Self {
        let cache = Cache::open(device);
        Self { made: Mutex::default(), compilations: AtomicU64::new(0), cache }
    }

    pub fn compilations(&self) -> u64 {
        self.compilations.load(Ordering::Relaxed)
    }

    /// The pipeline of a kernel, compiled now when it is new.
    ///
    /// # Errors
    /// What the compiler reports.
    pub fn get(&self, gpu: &Gpu, kernel: &Kernel) -> Result<Arc<Pipeline>> {
        let key = kernel.key();
        let lock = || self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = lock().get(&key) {
            return Ok(found.clone());
        }
        let made = Arc::new(compile(gpu, kernel)?);
        self.compilations.fetch_add(1, Ordering::Relaxed);
        lock().insert(key, made.clone());
        Ok(made)
    }
}

fn compile(gpu: &Gpu, kernel: &Kernel) -> Result<Pipeline> {
    let text = kernel.text(gpu.arithmetic().fma);
    let scope = gpu.device.push_error_scope(wgpu::ErrorFilter::Validation);
    let module = module(gpu, kernel.name(), &text);
    let mut entries = vec![entry(0, wgpu::BufferBindingType::Uniform)];
    for b in &kernel.bindings {
        let kind = wgpu::BufferBindingType::Storage { read_only: !b.writes };
        entries.extend((0..b.shards()).map(|shard| entry(b.slot + shard as u32, kind)));
    }
    let layout = gpu.device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor {
        label: Some(kernel.name()),
        entries: &entries,
    });
    let whole = gpu.device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
        label: Some(kernel.name()),
        bind_group_layouts: &[Some(&layout)],
        immediate_size: 0,
    });
    let pipeline = gpu.device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
        label: Some(kernel.name()),
        layout: Some(&whole),
        module: &module,
        entry_point: Some("main"),
        compilation_options: wgpu::PipelineCompilationOptions {
            zero_initialize_workgroup_memory: gpu.checked,
            ..Default::default()
        },
        cache: gpu.pipelines.cache.as_ref().map(|c| &c.cache),
    });
    let popped = scope.pop();
    #[cfg(not(target_arch = "wasm32"))]
    if let Some(error) = pollster::block_on(popped) {
        return Err(crate::gpu::driver(format!("shader {}: {error}", kernel.name())));
    }
    #[cfg(target_arch = "wasm32")]
    drop(popped);
    gpu.check()?;
    Ok(Pipeline { pipeline, layout })
}

fn entry(binding: u32, kind: wgpu::BufferBindingType) -> wgpu::BindGroupLayoutEntry {
    wgpu::BindGroupLayoutEntry {
        binding,
        visibility: wgpu::ShaderStages::COMPUTE,
        ty: wgpu::BindingType::Buffer {
            ty: kind,
            has_dynamic_offset: false,
            min_binding_size: None,
        },
        count: None,
    }
}

/// The one place where shaders are compiled without the compiler's own checks.
///
/// Those checks clamp every index and bound every loop, at up to a hundred times the cost. What
/// they would catch cannot happen here: `Verb::check` has proved that every element of every view
/// lies in its storage, storages are padded so that fours never reach beyond, templates guard
/// their invocations by the sizes in the parameters, and indices read from memory are compared
/// with the table before use. Every loop of a template counts up to a parameter. Tests run the
/// whole table both ways and compare the results.
#[allow(unsafe_code, reason = "the one audited call")]
fn module(gpu: &Gpu, label: &str, text: &str) -> wgpu::ShaderModule {
    let description = wgpu::ShaderModuleDescriptor {
        label: Some(label),
        source: wgpu::ShaderSource::Wgsl(text.into()),
    };
    if gpu.checked {
        return gpu.device.create_shader_module(description);
    }
    // SAFETY: no access out of bounds and no endless loop, see above: `Verb::check`, the padding
    // of `Gpu::alloc` and the templates' guards.
    unsafe {
        let checks = wgpu::ShaderRuntimeChecks::unchecked();
        gpu.device.create_shader_module_trusted(description, checks)
    }
}
