//! Adapters: which there are, what each can do, and how one is opened.

use crate::error::unavailable;
use crate::gpu::Gpu;
use crate::probe::{arithmetic, matrices_agree};
use crate::variant::{Options, Variant};
use starling_contract::{Capabilities, Result};
use std::sync::Arc;

/// One adapter as [`adapters`] lists it.
pub struct Listed {
    /// The best variant that it can run.
    pub variant: Variant,
    /// Its properties.
    pub capabilities: Capabilities,
}

/// The adapters in a fixed order.
async fn enumerate() -> Vec<wgpu::Adapter> {
    let mut description = wgpu::InstanceDescriptor::new_without_display_handle();
    description.backends = wgpu::Backends::PRIMARY;
    description.flags = wgpu::InstanceFlags::empty();
    let instance = wgpu::Instance::new(description);
    let mut all = instance.enumerate_adapters(wgpu::Backends::all()).await;
    // Real devices first, the fastest kind first; the drivers' order within a kind.
    all.sort_by_key(|a| match a.get_info().device_type {
        wgpu::DeviceType::DiscreteGpu => 0,
        wgpu::DeviceType::IntegratedGpu => 1,
        wgpu::DeviceType::VirtualGpu => 2,
        wgpu::DeviceType::Other => 3,
        wgpu::DeviceType::Cpu => 4,
    });
    all
}

/// [`enumerate`], once in a process.
#[cfg(not(target_arch = "wasm32"))]
async fn found() -> Vec<wgpu::Adapter> {
    static FOUND: std::sync::OnceLock<Vec<wgpu::Adapter>> = std::sync::OnceLock::new();
    FOUND.get_or_init(|| crate::wait::block_on(enumerate())).clone()
}

#[cfg(target_arch = "wasm32")]
use enumerate as found;

/// Why [`adapters`] may be empty.
pub const NO_ADAPTER: &str = "no Vulkan, Metal or Direct3D 12 driver was found: install your GPU's \
     driver, or on Linux a software one (mesa-vulkan-drivers)";

/// Every adapter of this machine.
pub async fn request_adapters() -> Vec<Listed> {
    let list = |a: &wgpu::Adapter| {
        let variant = best(a);
        Listed { variant, capabilities: capabilities(a, variant) }
    };
    found().await.iter().map(list).collect()
}

/// [`request_adapters`], awaited.
#[cfg(not(target_arch = "wasm32"))]
pub fn adapters() -> Vec<Listed> {
    crate::wait::block_on(request_adapters())
}

/// The best variant of an adapter.
fn best(adapter: &wgpu::Adapter) -> Variant {
    let features = adapter.features();
    Variant {
        subgroups: features.contains(wgpu::Features::SUBGROUP)
            && adapter.get_info().subgroup_min_size >= 4,
        f16: features.contains(wgpu::Features::SHADER_F16),
        matrix: matrix_size(adapter) > 0,
    }
}

/// Drivers whose cooperative matrices are not used, by a part of their name, and why.
const WITHOUT_MATRICES: [(&str, &str); 1] =
    [("llvmpipe", "it computes them on the processor, slower than other products")];

/// Rows and columns of the adapter's cooperative matrices of f16 in and f32 out; 0 when it has
/// none that the kernels can use.
fn matrix_size(adapter: &wgpu::Adapter) -> usize {
    use wgpu::CooperativeScalarType::{F16, F32};
    let (info, features) = (adapter.get_info(), adapter.features());
    let needs = wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX
        | wgpu::Features::SHADER_F16
        | wgpu::Features::SUBGROUP;
    let denied = WITHOUT_MATRICES.iter().any(|(driver, _)| {
        [&info.driver, &info.driver_info].iter().any(|text| text.contains(driver))
    });
    // The kernels divide 128 invocations among four subgroups.
    let four = info.subgroup_min_size == 32 && info.subgroup_max_size == 32;
    if !features.contains(needs) || !four || denied {
        return 0;
    }
    let fits = |size: u32| {
        adapter.cooperative_matrix_properties().iter().any(|p| {
            [p.m_size, p.n_size, p.k_size] == [size; 3] && (p.ab_type, p.cr_type) == (F16, F32)
        })
    };
    [16, 8].into_iter().find(|&size| fits(size)).unwrap_or(0) as usize
}

/// The permission that cooperative matrices need.
#[allow(unsafe_code, reason = "wgpu asks for it where its own checks are not finished")]
fn experiments(variant: Variant) -> wgpu::ExperimentalFeatures {
    if !variant.matrix {
        return wgpu::ExperimentalFeatures::disabled();
    }
    // SAFETY: what the unfinished checks would catch does not occur: matrices are loaded from and
    // stored to workgroup memory at places inside its arrays, in uniform control flow, with the
    // sizes that `matrix_size` found among the adapter's.
    unsafe { wgpu::ExperimentalFeatures::enabled() }
}

pub(crate) fn capabilities(adapter: &wgpu::Adapter, variant: Variant) -> Capabilities {
    let info = adapter.get_info();
    let driver = match (info.driver.as_str(), info.driver_info.as_str()) {
        ("", "") => String::new(),
        (driver, detail) => format!(", {}", format!("{driver} {detail}").trim()),
    };
    Capabilities {
        description: format!("{} ({}{driver})", info.name, info.backend),
        variant: variant.to_string(),
        memory_bytes: None,
        threads: None,
        software: info.device_type == wgpu::DeviceType::Cpu,
        special_values: false,
        subnormals: false,
        rounds_every_step: true,
    }
}

/// Opens adapter number `index`.
///
/// # Errors
/// [`Error::Unavailable`] when there is no such adapter, it lacks what a forced variant needs, or
/// its driver refuses.
pub(crate) async fn open(index: usize, options: Options) -> Result<Arc<Gpu>> {
    let name = format!("webgpu:{index}");
    let all = found().await;
    let Some(adapter) = all.get(index) else {
        let reason = match all.len() {
            0 => NO_ADAPTER.to_string(),
            n => format!("this machine has {n} adapters; `starling devices` lists them"),
        };
        return Err(unavailable(&name, reason));
    };
    let best = best(adapter);
    let variant = options.variant.unwrap_or(best);
    if !variant.within(best) {
        let reason = format!("the variant {variant} was asked for and the adapter has {best}");
        return Err(unavailable(&name, reason));
    }
    let gpu = opened(&name, adapter, variant, options).await?;
    if !variant.matrix || matrices_agree(&gpu).await? {
        return Ok(gpu);
    }
    if options.variant.is_some() {
        return Err(unavailable(&name, "its cooperative matrices multiply wrongly"));
    }
    // What the device's variant says is what it uses.
    opened(&name, adapter, Variant { matrix: false, ..variant }, options).await
}

/// The adapter's device in a variant that the adapter has.
async fn opened(
    name: &str,
    adapter: &wgpu::Adapter,
    variant: Variant,
    options: Options,
) -> Result<Arc<Gpu>> {
    let mut features = wgpu::Features::empty();
    features.set(wgpu::Features::SUBGROUP, variant.subgroups);
    features.set(wgpu::Features::SHADER_F16, variant.f16);
    features.set(wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX, variant.matrix);
    features.set(
        wgpu::Features::PIPELINE_CACHE,
        adapter.features().contains(wgpu::Features::PIPELINE_CACHE),
    );
    let request = wgpu::DeviceDescriptor {
        label: Some("starling"),
        required_features: features,
        required_limits: limits(adapter, variant),
        experimental_features: experiments(variant),
        memory_hints: wgpu::MemoryHints::Performance,
        ..Default::default()
    };
    let requested = adapter.request_device(&request).await;
    let (device, queue) = requested.map_err(|e| unavailable(name, e.to_string()))?;
    let about = capabilities(adapter, variant);
    let size = matrix_size(adapter);
    let gpu = Gpu::new(name.to_owned(), device, queue, about, variant, size, options)?;
    gpu.learn(arithmetic(&gpu).await?);
    Ok(gpu)
}

/// The browser's baseline, but for the sizes of buffers, which are the adapter's.
fn limits(adapter: &wgpu::Adapter, variant: Variant) -> wgpu::Limits {
    let has = adapter.limits();
    let mut limits = wgpu::Limits {
        max_buffer_size: has.max_buffer_size,
        max_storage_buffer_binding_size: has.max_storage_buffer_binding_size,
        ..Default::default()
    };
    if variant != Variant::default() {
        limits.max_storage_buffers_per_shader_stage = has.max_storage_buffers_per_shader_stage;
        limits.max_compute_workgroup_storage_size = has.max_compute_workgroup_storage_size;
    }
    limits.or_worse_values_from(&has)
}
