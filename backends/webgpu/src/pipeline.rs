//! Compiled shaders, each made once.

use crate::cache::Cache as DiskCache;
use crate::error::driver;
use crate::kernel::Kernel;
use crate::wait::caught;
use starling_contract::{Cache, Result};
use starling_ops::wgsl::Fma;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// A shader ready to run.
pub(crate) struct Pipeline {
    pub pipeline: wgpu::ComputePipeline,
    pub layout: wgpu::BindGroupLayout,
}

/// Pipelines that are kept: several times what a large model's step has.
const PIPELINES: usize = 2048;

/// The pipelines of a device that were used lately, by [`Kernel::key`], and the driver's own cache
/// on disk.
pub(crate) struct Pipelines {
    device: wgpu::Device,
    /// The shader compiler's checks are kept.
    checked: bool,
    made: Mutex<Cache<String, Arc<Pipeline>>>,
    compiled: AtomicBool,
    cache: Option<DiskCache>,
}

impl Drop for Pipelines {
    fn drop(&mut self) {
        if let Some(cache) = &self.cache
            && self.compiled.load(Ordering::Relaxed)
        {
            cache.save();
        }
    }
}

impl Pipelines {
    pub fn new(device: &wgpu::Device, checked: bool) -> Self {
        let (device, cache) = (device.clone(), DiskCache::open(device));
        let (made, compiled) = (Mutex::new(Cache::new(PIPELINES)), AtomicBool::new(false));
        Self { device, checked, made, compiled, cache }
    }

    /// The pipeline of a kernel, and whether it is new and was compiled now.
    ///
    /// # Errors
    /// What the compiler reports.
    pub fn get(&self, kernel: &Kernel, fma: Fma) -> Result<(Arc<Pipeline>, bool)> {
        let key = kernel.key();
        let lock = || self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = lock().get(&key) {
            return Ok((found.clone(), false));
        }
        let made = Arc::new(self.compile(kernel, fma)?);
        self.compiled.store(true, Ordering::Relaxed);
        lock().insert(key, made.clone());
        Ok((made, true))
    }

    fn compile(&self, kernel: &Kernel, fma: Fma) -> Result<Pipeline> {
        // A pipeline that failed in any way must not be kept.
        let filters = [
            wgpu::ErrorFilter::Internal,
            wgpu::ErrorFilter::OutOfMemory,
            wgpu::ErrorFilter::Validation,
        ];
        let (made, failed) = caught(&self.device, &filters, || self.make(kernel, fma));
        match failed {
            Some(error) => Err(driver(format!("shader {}: {error}", kernel.name()))),
            None => Ok(made),
        }
    }

    fn make(&self, kernel: &Kernel, fma: Fma) -> Pipeline {
        let text = kernel.text(fma);
        let module = self.module(kernel.name(), &text);
        let mut entries = vec![entry(0, wgpu::BufferBindingType::Uniform)];
        for b in &kernel.bindings {
            let kind = wgpu::BufferBindingType::Storage { read_only: !b.writes };
            entries.extend((0..b.shards()).map(|shard| entry(b.slot + shard as u32, kind)));
        }
        let layout = self.device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor {
            label: Some(kernel.name()),
            entries: &entries,
        });
        let whole = self.device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
            label: Some(kernel.name()),
            bind_group_layouts: &[Some(&layout)],
            immediate_size: 0,
        });
        let pipeline = self.device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: Some(kernel.name()),
            layout: Some(&whole),
            module: &module,
            entry_point: Some("main"),
            compilation_options: wgpu::PipelineCompilationOptions {
                zero_initialize_workgroup_memory: self.checked,
                ..Default::default()
            },
            cache: self.cache.as_ref().map(|c| &c.cache),
        });
        Pipeline { pipeline, layout }
    }

    /// The one place where shaders are compiled without the compiler's own checks.
    ///
    /// Those checks clamp every index and bound every loop, at up to a hundred times the cost. What
    /// they would catch cannot happen here: `Verb::check` has proved that every element of every
    /// view lies in its storage, storages are padded so that fours never reach beyond, templates
    /// guard their invocations by the sizes in the parameters, and indices read from memory are
    /// compared with the table before use. Every loop of a template counts up to a parameter. Tests
    /// run the whole table both ways and compare the results.
    #[allow(unsafe_code, reason = "the one audited call")]
    fn module(&self, label: &str, text: &str) -> wgpu::ShaderModule {
        let description = wgpu::ShaderModuleDescriptor {
            label: Some(label),
            source: wgpu::ShaderSource::Wgsl(text.into()),
        };
        if self.checked {
            return self.device.create_shader_module(description);
        }
        // SAFETY: no access out of bounds and no endless loop, see above: `Verb::check`, the
        // padding of `Gpu::alloc` and the templates' guards.
        unsafe {
            let checks = wgpu::ShaderRuntimeChecks::unchecked();
            self.device.create_shader_module_trusted(description, checks)
        }
    }
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
