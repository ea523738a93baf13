//! Where parameters come from: fresh random numbers or a file.

use crate::checkpoint::Archive;
use crate::device::Device;
use crate::error::{Error, Result};
use crate::tensor::Tensor;
use starling_ops::philox::HostStream;
use std::collections::BTreeSet;

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
    /// [`Error::Format`] when a file lacks it or has it in another shape; out of memory.
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
        let n: usize = shape.iter().product();
        let stream = &mut self.stream;
        let data: Vec<f32> = match init {
            Init::Zeros => vec![0.0; n],
            Init::Ones => vec![1.0; n],
            Init::Normal(deviation) => (0..n).map(|_| deviation * stream.normal()).collect(),
            Init::Uniform(bound) => {
                (0..n).map(|_| bound * (2.0 * stream.uniform() - 1.0)).collect()
            }
        };
        Ok(Tensor::from_slice(&self.device, &data, shape)?.requires_grad())
    }
}

/// Parameters out of a safetensors file.
pub struct Stored {
    device: Device,
    archive: Archive,
    /// What the file's names have before the model's, or lack.
    optional_prefix: &'static str,
    used: BTreeSet<String>,
}

impl Stored {
    /// The tensors of `archive` on `device`. A name that the file lacks is looked up once more
    /// without `optional_prefix`: Hugging Face files exist with and without one.
    pub fn new(device: &Device, archive: Archive, optional_prefix: &'static str) -> Self {
        Self { device: device.clone(), archive, optional_prefix, used: BTreeSet::new() }
    }

    /// The names in the file that nobody has asked for.
    pub fn unused(&self) -> Vec<String> {
        self.archive.names().into_iter().filter(|n| !self.used.contains(n)).collect()
    }

    /// The file.
    pub fn archive(&self) -> &Archive {
        &self.archive
    }

    /// The name that `name` has in the file; `None` when it is not there.
    pub fn find(&self, name: &str) -> Option<String> {
        let short = name.strip_prefix(self.optional_prefix);
        let names = [Some(name), short].into_iter().flatten();
        names.filter(|n| self.archive.shape(n).is_some()).map(str::to_owned).next()
    }
}

impl Source for Stored {
    fn device(&self) -> &Device {
        &self.device
    }

    fn parameter(&mut self, name: &str, shape: &[usize], _init: Init) -> Result<Tensor> {
        let Some(found) = self.find(name) else {
            let message = format!("the tensor {name:?} is missing");
            return Err(Error::format(self.archive.path(), message));
        };
        let data = self.archive.read(&found, shape)?;
        self.used.insert(found);
        Ok(Tensor::from_slice(&self.device, &data, shape)?.requires_grad())
    }
}
