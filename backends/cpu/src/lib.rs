//! The CPU backend: `dyn Stream` -> one file per group of verbs here -> kernels.
//!
//! Verbs run when they are submitted, on the threads of a rayon pool. Results have the same bits
//! whatever the number of threads.

mod backend;
mod host;
mod index;
mod map;
mod matrix;
mod rows;
mod stream;

pub use backend::CpuBackend;
pub use starling_kernels_cpu::Isa;
