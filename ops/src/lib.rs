//! Elementwise formulas, each written once.
//!
//! [`Math`] is the vocabulary; a definition in [`defs`] is a function generic over it. The same
//! definition is evaluated as plain arithmetic ([`Scalar`]), by vector registers (the kernels'
//! tokens), as a [`Program`] ([`Trace`]) that backends interpret or print, as its own derivative
//! ([`Dual`]) and as a bound of its rounding error ([`Bound`]).

pub mod bound;
pub mod defs;
pub mod dtype;
pub mod dual;
pub mod math;
pub mod narrow;
pub mod philox;
pub mod poly;
pub mod program;
pub mod scalar;
pub mod trace;
pub mod wgsl;

pub use bound::Bound;
pub use defs::{Definition, Gradient};
pub use dtype::DType;
pub use dual::Dual;
pub use math::{Key, Math};
pub use program::Program;
pub use scalar::Scalar;
pub use trace::Trace;
