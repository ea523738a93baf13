//! The CPU backend: `dyn Stream` -> one file per group of verbs here -> kernels.
//!
//! Verbs run when they are submitted, one after another ([`starling_contract::HostStorage::turn`]):
//! on the calling thread, and the longer ones on a team of threads with it. Results have the same
//! bits whatever the number of threads.

mod backend;
mod host;
mod index;
mod map;
mod matrix;
mod rows;
mod stream;
mod threads;

pub use backend::CpuBackend;
pub use starling_kernels_cpu::Isa;
pub use threads::set_threads;
