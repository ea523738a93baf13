//! The device.

use crate::host::{self, NAME};
use crate::stream::{self, CpuStream};
use rayon::{ThreadPool, ThreadPoolBuilder};
use starling_contract::{
    Backend, Capabilities, DeviceId, Error, HostStorage, Result, Storage, Stream, Support, Verb,
};
use starling_kernels_cpu::Isa;
use std::sync::Arc;

/// The processor's vector units, through one instruction set.
pub struct CpuBackend {
    isa: Isa,
    /// `None` for rayon's global pool.
    pool: Option<Arc<ThreadPool>>,
    capabilities: Capabilities,
}

impl CpuBackend {
    /// A backend on `threads` threads of its own, or on rayon's global pool, whose size follows
    /// `RAYON_NUM_THREADS`.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when the system refuses the threads, or for 0 threads.
    pub fn new(isa: Isa, threads: Option<usize>) -> Result<Arc<Self>> {
        let pool = match threads {
            None => None,
            Some(0) => return Err(unavailable("it needs at least one thread".into())),
            Some(n) => {
                let pool = ThreadPoolBuilder::new().num_threads(n).build();
                let refused = |e| unavailable(format!("{n} threads could not be started: {e}"));
                Some(Arc::new(pool.map_err(refused)?))
            }
        };
        let count =
            pool.as_ref().map_or_else(rayon::current_num_threads, |p| p.current_num_threads());
        let capabilities = Capabilities {
            description: host::processor(),
            variant: isa.name().into(),
            memory_bytes: host::memory_bytes(),
            threads: Some(count),
            special_values: true,
            subnormals: true,
            rounds_every_step: true,
            software: false,
        };
        Ok(Arc::new(Self { isa, pool, capabilities }))
    }

    /// The fastest instruction set of this machine, or the one that `STARLING_ISA` names, on
    /// rayon's global pool.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when `STARLING_ISA` names what this machine lacks.
    pub fn detect() -> Result<Arc<Self>> {
        let isa = Isa::from_env().map_err(|e| unavailable(e.to_string()))?;
        Self::new(isa, None)
    }

    /// The instruction set.
    pub fn isa(&self) -> Isa {
        self.isa
    }
}

fn unavailable(reason: String) -> Error {
    Error::Unavailable { backend: NAME.into(), reason }
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
        Ok(Box::new(CpuStream::new(self.isa, self.pool.clone())))
    }
}
