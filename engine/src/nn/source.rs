//! Where parameters come from.

use crate::device::Device;
use crate::error::Result;
use crate::tensor::Tensor;
use starling_ops::philox::HostStream;

/// How a fresh parameter starts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Init {
    /// All 0.
    Zeros,
    /// All 1.
    Ones,
    /// Normal numbers around 0 with this standard deviation.
    Normal(f32),
    /// Uniform numbers in `-x .. x`.
    Uniform(f32),
}

/// Gives a layer its parameters, as leaves that require a gradient.
pub trait Source {
    /// The device that they lie on.
    fn device(&self) -> &Device;
    /// The parameter `name` of `shape`; a fresh one starts as `init` says.
    ///
    /// # Errors
    /// [`crate::Error::Format`] when a file lacks it or has it in another shape; out of memory.
    fn parameter(&mut self, name: &str, shape: &[usize], init: Init) -> Result<Tensor>;
}

/// Fresh parameters, drawn on the host from a seed: the same on every device.
pub struct Fresh {
    device: Device,
    stream: HostStream,
}

impl Fresh {
    /// The random stream's instance; others are sampling and generation.
    const INSTANCE: u32 = 0x1417;

    /// Parameters for `device` from `seed`, in the order in which they are asked for.
    pub fn new(device: &Device, seed: u64) -> Self {
        Self { device: device.clone(), stream: HostStream::seeded(seed, Self::INSTANCE) }
    }
}

impl Source for Fresh {
    fn device(&self) -> &Device {
        &self.device
    }

    fn parameter(&mut self, _name: &str, shape: &[usize], init: Init) -> Result<Tensor> {
        let stream = &mut self.stream;
        let number = || match init {
            Init::Zeros => 0.0,
            Init::Ones => 1.0,
            Init::Normal(deviation) => deviation * stream.normal(),
            Init::Uniform(bound) => bound * (2.0 * stream.uniform() - 1.0),
        };
        Ok(Tensor::generate(&self.device, shape, number)?.requires_grad())
    }
}
