//! A device that takes work and neither has memory nor computes.

use starling_contract::{
    Backend, Capabilities, Checked, DeviceId, Download, Error, Pending, Result, Storage, Stream,
    Support, Verb, View,
};
use std::sync::Arc;

/// What another backend would be asked for.
pub(super) struct Planned {
    of: Arc<dyn Backend>,
    device: DeviceId,
}

impl Planned {
    pub fn of(backend: &Arc<dyn Backend>) -> Self {
        let device = DeviceId::named(&format!("{} (planned)", backend.device()));
        Self { of: backend.clone(), device }
    }
}

struct Nothing {
    bytes: usize,
    device: DeviceId,
}

impl Storage for Nothing {
    fn bytes(&self) -> usize {
        self.bytes
    }

    fn device(&self) -> DeviceId {
        self.device
    }
}

impl Backend for Planned {
    fn name(&self) -> &str {
        self.device.name()
    }

    fn device(&self) -> DeviceId {
        self.device
    }

    fn capabilities(&self) -> &Capabilities {
        self.of.capabilities()
    }

    fn supports(&self, verb: &Verb) -> Support {
        self.of.supports(verb)
    }

    fn workspace_bytes(&self, verb: &Verb) -> usize {
        self.of.workspace_bytes(verb)
    }

    fn alloc(&self, bytes: usize) -> Result<Arc<dyn Storage>> {
        Ok(Arc::new(Nothing { bytes, device: self.device }))
    }

    fn stream(&self) -> Result<Box<dyn Stream>> {
        Ok(Box::new(Unheard { device: self.device }))
    }
}

/// Takes what it is given and does nothing.
struct Unheard {
    device: DeviceId,
}

impl Stream for Unheard {
    fn submit(&self, verb: &Checked) -> Result<()> {
        verb.must_be_on(self.device)
    }

    fn upload(&self, bytes: &[u8], to: &View) -> Result<()> {
        to.contiguous_range("upload", bytes.len()).map(drop)
    }

    fn download<'a>(&'a self, _: &'a View, _: &'a mut [u8]) -> Download<'a> {
        let message = format!("{} computes nothing: there is no value to read", self.device);
        Box::pin(async move { Err(Error::Driver(message.into())) })
    }

    fn sync(&self) -> Pending<'_, ()> {
        Box::pin(async { Ok(()) })
    }
}
