//! A device as a backend that runs every verb.

use super::Device;
use crate::error::{Error, Result};
use starling_contract::{
    Backend, Capabilities, Checked, DeviceId, Download, Pending, Storage, Stream, Support, Verb,
    View,
};
use std::sync::Arc;

/// The device as a backend, and as its stream.
pub(super) struct Complete(pub Device);

/// An error of the engine below it.
fn below<T>(result: Result<T>) -> starling_contract::Result<T> {
    result.map_err(|error| match error {
        Error::Backend(error) => error,
        other => starling_contract::Error::Driver(other.into()),
    })
}

impl Backend for Complete {
    fn name(&self) -> &str {
        self.0.name()
    }

    fn device(&self) -> DeviceId {
        self.0.backend().device()
    }

    fn capabilities(&self) -> &Capabilities {
        self.0.capabilities()
    }

    fn supports(&self, verb: &Verb) -> Support {
        match self.0.backend().supports(verb) {
            Support::Native | Support::Composed => Support::Native,
            Support::No => Support::No,
        }
    }

    fn alloc(&self, bytes: usize) -> starling_contract::Result<Arc<dyn Storage>> {
        self.0.backend().alloc(bytes)
    }

    fn stream(&self) -> starling_contract::Result<Box<dyn Stream>> {
        Ok(Box::new(Self(self.0.clone())))
    }
}

impl Stream for Complete {
    fn submit(&self, verb: &Checked) -> starling_contract::Result<()> {
        below(self.0.run(verb.clone().into_verb()))
    }

    fn upload(&self, bytes: &[u8], to: &View) -> starling_contract::Result<()> {
        below(self.0.upload(bytes, to))
    }

    fn download<'a>(&'a self, from: &'a View, bytes: &'a mut [u8]) -> Download<'a> {
        Box::pin(async move { below(self.0.download(from, bytes).await) })
    }

    fn sync(&self) -> Pending<'_, ()> {
        Box::pin(async move { below(self.0.synced().await) })
    }
}
