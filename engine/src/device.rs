//! Devices: which there are, which one to take, and the queue that work goes to.

use crate::error::{Error, Result};
use crate::lower;
use crate::random::Random;
use starling_contract::{
    Backend, Buffer, Capabilities, DType, Pool, PoolStats, Replay, Stream, Support, Verb, View,
};
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

/// One line of [`Device::probe`].
#[derive(Clone, Debug)]
pub struct Probe {
    /// How to ask for it: `cpu`, `cuda:0`, `webgpu:1`.
    pub name: String,
    /// Its properties, or in words why it is not to be had.
    pub status: std::result::Result<Capabilities, String>,
}

/// A family of devices that can be asked for by name.
pub struct Provider {
    /// The part of the name before the colon.
    pub family: &'static str,
    /// Lists the family's devices, or one line that says why there are none.
    pub probe: fn() -> Vec<Probe>,
    /// Opens device number `index`.
    pub open: fn(index: usize) -> starling_contract::Result<Arc<dyn Backend>>,
}

/// The built-in families, in the order in which `auto` prefers them; then the registered ones.
static PROVIDERS: RwLock<Vec<Provider>> = RwLock::new(Vec::new());

fn absent(family: &'static str, reason: &str) -> starling_contract::Error {
    starling_contract::Error::Unavailable { backend: family.into(), reason: reason.into() }
}

const NO_CUDA: &str = "this version has no CUDA backend; use cpu";

fn built_in() -> [Provider; 3] {
    [
        Provider {
            family: "cuda",
            probe: || vec![Probe { name: "cuda:0".into(), status: Err(NO_CUDA.into()) }],
            open: |_| Err(absent("cuda", NO_CUDA)),
        },
        Provider { family: "webgpu", probe: webgpu::probe, open: webgpu::open },
        Provider { family: "cpu", probe: probe_cpu, open: |_| open_cpu() },
    ]
}

fn open_cpu() -> starling_contract::Result<Arc<dyn Backend>> {
    starling_cpu::CpuBackend::detect().map(|b| b as Arc<dyn Backend>)
}

fn probe_cpu() -> Vec<Probe> {
    let status = open_cpu().map(|b| b.capabilities().clone()).map_err(|e| e.to_string());
    vec![Probe { name: "cpu".into(), status }]
}

#[cfg(feature = "webgpu")]
mod webgpu {
    use super::Probe;
    use starling_contract::Backend;
    use starling_webgpu::{NO_ADAPTER, WebGpuBackend, adapters};
    use std::sync::Arc;

    pub fn probe() -> Vec<Probe> {
        let named = |(i, adapter)| Probe { name: format!("webgpu:{i}"), status: Ok(adapter) };
        let all: Vec<Probe> =
            adapters().into_iter().map(|a| a.capabilities).enumerate().map(named).collect();
        if all.is_empty() {
            return vec![Probe { name: "webgpu:0".into(), status: Err(NO_ADAPTER.into()) }];
        }
        all
    }

    pub fn open(index: usize) -> starling_contract::Result<Arc<dyn Backend>> {
        WebGpuBackend::open(index).map(|b| b as Arc<dyn Backend>)
    }
}

#[cfg(not(feature = "webgpu"))]
mod webgpu {
    use super::{Probe, absent};
    use starling_contract::Backend;
    use std::sync::Arc;

    const LEFT_OUT: &str = "this build leaves WebGPU out; build with the feature `webgpu`";

    pub fn probe() -> Vec<Probe> {
        vec![Probe { name: "webgpu:0".into(), status: Err(LEFT_OUT.into()) }]
    }

    pub fn open(_: usize) -> starling_contract::Result<Arc<dyn Backend>> {
        Err(absent("webgpu", LEFT_OUT))
    }
}

/// Which device `auto` takes, and why not the ones before it.
#[derive(Clone, Debug)]
pub struct Choice {
    /// The name to ask for.
    pub name: String,
    /// One sentence for each device that stands before it and was passed over although it is
    /// available.
    pub passed_over: Vec<String>,
}

/// Verbs and bytes that a device has been asked for since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Verbs submitted, one by one or as part of a replayed list.
    pub launches: u64,
    /// Bytes that the submitted verbs read and wrote, counting every operand once.
    pub verb_bytes: u64,
    /// Bytes copied to the device.
    pub uploaded_bytes: u64,
    /// Bytes copied to the host.
    pub downloaded_bytes: u64,
    /// Lists of commands handed to the driver.
    pub submissions: u64,
    /// Kernels in them.
    pub dispatches: u64,
    /// Shaders compiled.
    pub compilations: u64,
}

#[derive(Default)]
struct Counting {
    launches: AtomicU64,
    verb_bytes: AtomicU64,
    uploaded_bytes: AtomicU64,
    downloaded_bytes: AtomicU64,
}

struct Inner {
    backend: Arc<dyn Backend>,
    stream: Box<dyn Stream>,
    pool: Arc<Pool>,
    counting: Counting,
    recording: Mutex<Option<Vec<Verb>>>,
    random: Mutex<Option<Arc<Random>>>,
}

/// A device with one in-order queue and one pool of memory. Cloning gives another handle.
#[derive(Clone)]
pub struct Device(Arc<Inner>);

impl Device {
    /// Opens a device by name: `cpu`, `cuda:0`, `webgpu:1`, a registered family, or `auto`.
    ///
    /// # Errors
    /// The backend's reason when the device is not to be had; [`Error::Invalid`] for a name that
    /// no family has.
    pub fn new(name: &str) -> Result<Self> {
        if name == "auto" {
            return Self::auto();
        }
        let (family, index) = name.split_once(':').unwrap_or((name, "0"));
        let bad = || {
            Error::invalid(format!(
                "unknown device {name:?}: use cpu, cuda:N, webgpu:N or auto (`starling devices` \
                 lists them)"
            ))
        };
        let index: usize = index.parse().map_err(|_| bad())?;
        let open = Self::provider(family, |p| p.open).ok_or_else(bad)?;
        Self::from_backend(open(index)?)
    }

    /// The device that [`Device::choose`] names.
    ///
    /// # Errors
    /// That device's reason when it cannot be opened after all: `STARLING_ISA` or
    /// `STARLING_WEBGPU` names what is missing, or the driver refuses.
    pub fn auto() -> Result<Self> {
        Self::new(&Self::choose().name)
    }

    /// The first available device in the order CUDA, WebGPU, CPU, but for drivers that play a GPU
    /// on the processor: the CPU backend does that faster.
    pub fn choose() -> Choice {
        let mut passed_over = Vec::new();
        for probe in Self::probe() {
            match probe.status {
                Ok(c) if c.software => passed_over.push(format!(
                    "{} computes on the processor too, which cpu does faster",
                    probe.name
                )),
                Ok(_) => return Choice { name: probe.name, passed_over },
                Err(_) => {}
            }
        }
        Choice { name: "cpu".to_owned(), passed_over }
    }

    /// Every known backend, available with its properties or unavailable with the reason.
    pub fn probe() -> Vec<Probe> {
        let mut all: Vec<Probe> = built_in().iter().flat_map(|p| (p.probe)()).collect();
        let registered = PROVIDERS.read().unwrap_or_else(PoisonError::into_inner);
        all.extend(registered.iter().flat_map(|p| (p.probe)()));
        all
    }

    /// Adds a family of devices to those that [`Device::new`] and [`Device::probe`] know.
    pub fn register(provider: Provider) {
        PROVIDERS.write().unwrap_or_else(PoisonError::into_inner).push(provider);
    }

    fn provider<T>(family: &str, f: impl Fn(&Provider) -> T) -> Option<T> {
        if let Some(p) = built_in().iter().find(|p| p.family == family) {
            return Some(f(p));
        }
        let registered = PROVIDERS.read().unwrap_or_else(PoisonError::into_inner);
        registered.iter().find(|p| p.family == family).map(f)
    }

    /// A device of any backend, without a limit on its memory.
    ///
    /// # Errors
    /// What the backend reports when the queue is made.
    pub fn from_backend(backend: Arc<dyn Backend>) -> Result<Self> {
        Self::with_memory_limit(backend, usize::MAX)
    }

    /// A device that hands out at most `limit_bytes`.
    ///
    /// # Errors
    /// What the backend reports when the queue is made.
    pub fn with_memory_limit(backend: Arc<dyn Backend>, limit_bytes: usize) -> Result<Self> {
        let stream = backend.stream()?;
        Ok(Self(Arc::new(Inner {
            pool: Pool::new(backend.clone(), limit_bytes),
            backend,
            stream,
            counting: Counting::default(),
            recording: Mutex::new(None),
            random: Mutex::new(None),
        })))
    }

    /// How to ask for it.
    pub fn name(&self) -> &str {
        self.0.backend.name()
    }

    /// What it is and can do.
    pub fn capabilities(&self) -> &Capabilities {
        self.0.backend.capabilities()
    }

    /// The backend, for those who drive it directly.
    pub fn backend(&self) -> &Arc<dyn Backend> {
        &self.0.backend
    }

    /// The device seen as a backend on which every verb is native that its own backend runs or
    /// that is lowered to what it runs. The table of operation cases, run on it, judges a backend
    /// together with the engine's lowering.
    ///
    /// Its streams are the device's one queue.
    pub fn as_backend(&self) -> Arc<dyn Backend> {
        Arc::new(lower::Complete(self.clone()))
    }

    /// True when both handles are of one device.
    pub fn same(&self, other: &Device) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Counters of the memory pool.
    pub fn pool_stats(&self) -> PoolStats {
        self.0.pool.stats()
    }

    /// Starts the pool's peak anew.
    pub fn reset_peak(&self) {
        self.0.pool.reset_peak();
    }

    /// Verbs and bytes so far.
    pub fn counters(&self) -> Counters {
        let c = &self.0.counting;
        let get = |x: &AtomicU64| x.load(Ordering::Relaxed);
        let stream = self.0.stream.counters();
        Counters {
            submissions: stream.submissions,
            dispatches: stream.dispatches,
            compilations: stream.compilations,
            launches: get(&c.launches),
            verb_bytes: get(&c.verb_bytes),
            uploaded_bytes: get(&c.uploaded_bytes),
            downloaded_bytes: get(&c.downloaded_bytes),
        }
    }

    /// Waits until everything asked for is done.
    ///
    /// # Errors
    /// What the device reports.
    pub fn sync(&self) -> Result<()> {
        Ok(self.0.stream.sync()?)
    }

    /// Seeds the device's random numbers (dropout) and starts at step 0.
    ///
    /// # Errors
    /// What the device reports.
    pub fn seed(&self, seed: u64) -> Result<()> {
        let random = Random::new(self, seed, 0)?;
        *self.random_slot() = Some(Arc::new(random));
        Ok(())
    }

    /// Overwrites the step that random numbers depend on, and starts its operations anew: what a
    /// training loop does before each step, captured or not. No graph with dropout may be alive.
    ///
    /// # Errors
    /// What the device reports.
    pub fn set_random_step(&self, step: u64) -> Result<()> {
        self.random()?.set_step(self, step)
    }

    /// The device's random numbers; seeded with 0 when [`Device::seed`] was never called.
    pub(crate) fn random(&self) -> Result<Arc<Random>> {
        let mut slot = self.random_slot();
        if let Some(random) = &*slot
            && random.has_instances()
        {
            return Ok(random.clone());
        }
        // All instances of the step are used up: a new table for the next step. The old one lives
        // on in the gradients that still refer to it.
        let (seed, step) = slot.as_ref().map_or((0, 0), |r| (r.seed(), r.step() + 1));
        let fresh = Arc::new(Random::new(self, seed, step)?);
        *slot = Some(fresh.clone());
        Ok(fresh)
    }

    fn random_slot(&self) -> MutexGuard<'_, Option<Arc<Random>>> {
        self.0.random.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn recording(&self) -> MutexGuard<'_, Option<Vec<Verb>>> {
        self.0.recording.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Memory for `bytes`.
    pub(crate) fn allocate(&self, bytes: usize) -> Result<Buffer> {
        Ok(self.0.pool.get(bytes)?)
    }

    /// Checks a verb, lowers it to simpler ones where the backend wants that, gives it working
    /// memory where it came without, and enqueues it: how the engine runs everything, and how
    /// others run a verb on views of their own.
    ///
    /// # Errors
    /// What [`Verb::check`] finds; [`starling_contract::Error::Unsupported`] for what the backend
    /// can
    /// neither run nor have composed; what the device reports.
    pub fn run(&self, verb: impl Into<Verb>) -> Result<()> {
        let mut verb = verb.into();
        verb.check()?;
        match self.0.backend.supports(&verb) {
            Support::Native => {
                // Held until the verb is enqueued: the stream's order guards it from then on.
                let _workspace = self.give_workspace(&mut verb)?;
                self.enqueue(verb)
            }
            Support::Composed => lower::submit(self, verb),
            Support::No => Err(self.unsupported(&verb)),
        }
    }

    /// What a verb that cannot be run is answered with.
    pub(crate) fn unsupported(&self, verb: &Verb) -> Error {
        let (op, dtype, backend) = (verb.name(), verb.dtype(), self.name().to_owned());
        starling_contract::Error::Unsupported { op, dtype, backend }.into()
    }

    fn enqueue(&self, verb: Verb) -> Result<()> {
        let operands = verb.reads().into_iter().chain(verb.writes());
        let bytes: usize = operands.map(|v| v.len() * v.dtype.size()).sum();
        self.0.counting.launches.fetch_add(1, Ordering::Relaxed);
        self.0.counting.verb_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        self.0.stream.submit(&verb)?;
        if let Some(list) = &mut *self.recording() {
            list.push(verb);
        }
        Ok(())
    }

    /// Fills an empty `workspace` with what the backend wants for the verb.
    fn give_workspace(&self, verb: &mut Verb) -> Result<Option<Buffer>> {
        if verb.workspace().is_some() {
            return Ok(None);
        }
        let elements = self.0.backend.workspace_bytes(verb).div_ceil(DType::F32.size());
        let Some(slot) = verb.workspace_mut().filter(|_| elements > 0) else { return Ok(None) };
        let buffer = self.allocate(elements * DType::F32.size())?;
        *slot = Some(View::contiguous(buffer.storage().clone(), DType::F32, &[elements]));
        Ok(Some(buffer))
    }

    /// Host bytes to a contiguous view. Not part of a captured list, hence refused inside one:
    /// there a constant would be overwritten when its memory is used again.
    pub(crate) fn upload(&self, bytes: &[u8], to: &View) -> Result<()> {
        if self.recording().is_some() {
            return Err(Error::invalid(
                "a captured step cannot take data from the host: upload its inputs before it",
            ));
        }
        self.0.counting.uploaded_bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        Ok(self.0.stream.upload(bytes, to)?)
    }

    /// A contiguous view to host bytes.
    pub(crate) async fn download(&self, from: &View, bytes: &mut [u8]) -> Result<()> {
        if self.recording().is_some() {
            return Err(Error::invalid(
                "a captured step cannot read data back: download its results after it",
            ));
        }
        self.0.counting.downloaded_bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        Ok(self.0.stream.download(from, bytes).await?)
    }

    /// Runs `step` and records what it submits, so that [`Captured::replay`] can repeat it without
    /// allocation or bookkeeping. `step` must take its inputs from tensors made before it, which
    /// [`crate::Tensor::copy_from_slice`] refills, and must leave its results in tensors that its
    /// value keeps.
    ///
    /// # Errors
    /// Those of `step`; nothing stays recorded then.
    pub fn capture<T>(&self, step: impl FnOnce() -> Result<T>) -> Result<(Captured, T)> {
        {
            let mut recording = self.recording();
            if recording.is_some() {
                return Err(Error::invalid("a step is being captured on this device already"));
            }
            *recording = Some(Vec::new());
        }
        self.0.pool.begin_capture();
        let result = step();
        self.0.pool.end_capture();
        let verbs = self.recording().take().unwrap_or_default();
        let value = result?;
        let bytes = verbs
            .iter()
            .flat_map(|v| v.reads().into_iter().chain(v.writes()))
            .map(|v| (v.len() * v.dtype.size()) as u64)
            .sum();
        let replay = self.0.stream.compile(verbs)?;
        Ok((Captured { device: self.clone(), replay, bytes }, value))
    }
}

impl fmt::Debug for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Device({})", self.name())
    }
}

/// A recorded step.
pub struct Captured {
    device: Device,
    replay: Box<dyn Replay>,
    bytes: u64,
}

impl Captured {
    /// Runs the step again on what its input tensors hold now.
    ///
    /// # Errors
    /// What the device reports.
    pub fn replay(&self) -> Result<()> {
        let c = &self.device.0.counting;
        c.launches.fetch_add(self.replay.len() as u64, Ordering::Relaxed);
        c.verb_bytes.fetch_add(self.bytes, Ordering::Relaxed);
        Ok(self.replay.run(&*self.device.0.stream)?)
    }

    /// Number of verbs.
    pub fn launches(&self) -> usize {
        self.replay.len()
    }
}
