//! The device.

use crate::host::{self, NAME};
use crate::stream::{self, CpuStream};
use crate::threads::{self, unavailable};
use starling_contract::{
    Backend, Capabilities, DeviceId, HostStorage, Result, Storage, Stream, Support, Verb,
};
use starling_kernels_cpu::{Isa, Team};
use std::sync::Arc;

/// The processor's vector units, through one instruction set.
pub struct CpuBackend {
    isa: Isa,
    team: Arc<Team>,
    capabilities: Capabilities,
}

impl CpuBackend {
    /// A backend on `threads` threads, the caller's included, or on those that all backends without
    /// a number share ([`crate::set_threads`]).
    ///
    /// # Errors
    /// [`starling_contract::Error::Unavailable`] for 0 threads or more than 4096, and when the
    /// system refuses them.
    pub fn new(isa: Isa, threads: Option<usize>) -> Result<Arc<Self>> {
        let team = threads.map_or_else(threads::shared, threads::team_of)?;
        let capabilities = Capabilities {
            description: host::processor(),
            variant: isa.name().into(),
            memory_bytes: host::memory_bytes(),
            threads: Some(team.threads()),
            special_values: true,
            subnormals: true,
            rounds_every_step: true,
            software: false,
        };
        Ok(Arc::new(Self { isa, team, capabilities }))
    }

    /// The fastest instruction set of this machine, or the one that `STARLING_ISA` names, on the
    /// threads that all such backends share.
    ///
    /// # Errors
    /// [`starling_contract::Error::Unavailable`] when `STARLING_ISA` names what this machine lacks,
    /// or `STARLING_THREADS` no number of threads.
    pub fn detect() -> Result<Arc<Self>> {
        let isa = Isa::from_env().map_err(|e| unavailable(e.to_string()))?;
        Self::new(isa, None)
    }

    /// The instruction set.
    pub fn isa(&self) -> Isa {
        self.isa
    }
}

impl Backend for CpuBackend {
    fn name(&self) -> &str {
        NAME
    }

    fn device(&self) -> DeviceId {
        DeviceId::host()
    }

    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    fn supports(&self, verb: &Verb) -> Support {
        stream::supports(verb)
    }

    fn workspace_bytes(&self, verb: &Verb) -> usize {
        stream::workspace_bytes(verb)
    }

    fn alloc(&self, bytes: usize) -> Result<Arc<dyn Storage>> {
        Ok(HostStorage::new(bytes)?)
    }

    fn stream(&self) -> Result<Box<dyn Stream>> {
        Ok(Box::new(CpuStream::new(self.isa, self.team.clone())))
    }
}
