//! Any GPU through WebGPU: Vulkan, Metal and Direct3D 12. For a browser the crate compiles (opening
//! a device and downloads are futures, the baseline is its own); it has not run in one yet.
//!
//! A verb becomes one or a few kernels ([`plan`]): a template of `shaders/`, the printed programs,
//! and the operands' bindings. Kernels become pipelines, made once; launches are gathered into few
//! submissions ([`WebGpuStream`]).

mod access;
mod adapter;
mod answer;
mod backend;
mod cache;
mod error;
mod gpu;
mod kernel;
mod limits;
mod operand;
mod pipeline;
pub mod plan;
mod probe;
mod storage;
mod stream;
mod template;
mod variant;
mod wait;

#[cfg(not(target_arch = "wasm32"))]
pub use adapter::adapters;
pub use adapter::{Listed, NO_ADAPTER, request_adapters};
pub use backend::WebGpuBackend;
pub use kernel::Kernel;
pub use limits::Limits;
pub use storage::GpuStorage;
pub use stream::WebGpuStream;
pub use variant::{Options, Variant};
