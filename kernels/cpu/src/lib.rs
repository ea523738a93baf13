//! Vector kernels for the CPU: AVX-512, AVX2 with FMA, NEON and scalar, picked at run time.
//!
//! This crate is the only user of `std::arch`.

pub mod attention;
pub mod copy;
pub mod gemm;
pub mod index;
pub mod isa;
pub mod map;
pub mod reduce;
pub mod rows;
pub mod scratch;
pub mod simd;
pub mod team;
mod walk;

pub use isa::{Isa, Kernel};
pub use simd::Simd;
pub use team::Team;
