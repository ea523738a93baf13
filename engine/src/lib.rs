//! One engine that trains and runs neural networks on whatever a machine has.
//!
//! Pick a device at start-up, make tensors on it, call methods:
//!
//! ```
//! use starling_engine::{Device, Tensor};
//! # fn main() -> starling_engine::Result<()> {
//! let device = Device::auto()?;
//! let a = Tensor::from_slice(&device, &[1f32, 2.0, 3.0, 4.0], &[2, 2])?;
//! let w = Tensor::from_slice(&device, &[0.5f32, -0.5], &[2, 1])?.requires_grad();
//! let loss = a.matmul(&w)?.gelu()?.sum_all()?;
//! loss.backward()?;
//! assert_eq!(w.grad().map(|g| g.shape().to_vec()), Some(vec![2, 1]));
//! # Ok(())
//! # }
//! ```

mod capture;
mod device;
mod error;
mod jit;
mod lower;
pub mod nn;
pub mod optim;
mod passes;
mod plan;
mod tensor;
mod wait;

pub use capture::Captured;
pub use device::{Counters, Device, DeviceChoice, Probe, Provider, Queue};
pub use error::{Error, Result};
pub use jit::Jit;
pub use passes::{Explanation, Passes};
pub use starling_contract::{Capabilities, DType};
pub use starling_ops::{Definition, Math};
pub use tensor::{
    AttentionBlocks, AttentionOptions, AttentionScore, Backward, Downloads, Element, Operation,
    Saved, ScoreTerms, SequenceLengths, Tensor, WeightLayout, checkpoint, no_grad, update,
};
