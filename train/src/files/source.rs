//! A model's parameters out of a file.

use crate::files::Archive;
use starling_engine::nn::{Init, Source};
use starling_engine::{Device, Error, Result, Tensor};
use std::collections::BTreeSet;

/// Parameters out of a safetensors file.
pub struct FromFile {
    device: Device,
    archive: Archive,
    /// What the file's names have before the model's, or lack.
    optional_prefix: &'static str,
    used: BTreeSet<String>,
}

impl FromFile {
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

impl Source for FromFile {
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
