//! Trains and runs neural networks on whatever a machine has.
//!
//! One dependency, one `use`:
//!
//! ```
//! use starling::prelude::*;
//!
//! # fn main() -> starling::Result<()> {
//! let device = Device::auto()?;
//! let x = Tensor::from_slice(&device, &[1f32, 2.0, 3.0, 4.0], &[2, 2])?;
//! let w = Tensor::from_slice(&device, &[0.5f32, -0.5], &[2, 1])?.requires_grad();
//! let loss = x.matmul(&w)?.gelu()?.sum_all()?;
//! loss.backward()?;
//! assert_eq!(w.grad().map(|g| g.shape().to_vec()), Some(vec![2, 1]));
//! # Ok(())
//! # }
//! ```
//!
//! The parts, each a crate of its own: [`engine`](starling_engine) (devices, tensors, autograd,
//! layers, optimizers), [`train`] (trainer, data, files), [`models`], [`ops`] (formulas) and
//! [`contract`] (what a backend implements).

pub use starling_contract as contract;
pub use starling_engine::*;
pub use starling_models as models;
pub use starling_ops as ops;
pub use starling_train as train;

/// What most programs use.
pub mod prelude {
    pub use starling_engine::nn::{Mode, Module, Source};
    pub use starling_engine::optim::{Optimizer, Rule, Schedule};
    pub use starling_engine::{
        AttentionOptions, DType, Device, Tensor, WeightLayout, checkpoint, no_grad,
    };
    pub use starling_ops::philox::HostStream;
}
