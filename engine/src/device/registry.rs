//! Which devices there are, and opening one by name.

use super::Device;
use super::global::global;
use crate::error::{Error, Result};
use crate::wait::wait;
use starling_contract::{Backend, Capabilities, MaybeSend, Pending};
use std::sync::{Arc, PoisonError, RwLock, Weak};

/// One line of [`Device::probe`].
#[derive(Clone, Debug)]
pub struct Probe {
    /// How to ask for it: `cpu`, `cuda:0`, `webgpu:1`.
    pub name: String,
    /// Its properties, or in words why it is not to be had.
    pub status: std::result::Result<Capabilities, String>,
}

/// Lists a family's devices.
type List = fn() -> Pending<'static, Vec<Probe>>;

/// A family of devices that can be asked for by name.
pub struct Provider {
    /// The part of the name before the colon.
    pub family: &'static str,
    /// Lists the family's devices, or one line that says why there are none.
    pub probe: List,
    /// Opens device number `index`.
    pub open: fn(index: usize) -> Pending<'static, Arc<dyn Backend>>,
}

global! {
    /// The backends that are open, by name: a device opened twice is one device.
    opened: Vec<(String, Weak<dyn Backend>)>
}

/// The built-in families, in the order in which `auto` prefers them; then the registered ones.
static PROVIDERS: RwLock<Vec<Provider>> = RwLock::new(Vec::new());

fn absent(family: &'static str, reason: &str) -> starling_contract::Error {
    starling_contract::Error::Unavailable { backend: family.into(), reason: reason.into() }
}

/// An answer that is there.
fn now<T: MaybeSend + 'static>(answer: starling_contract::Result<T>) -> Pending<'static, T> {
    Box::pin(std::future::ready(answer))
}

const NO_CUDA: &str = "this version has no CUDA backend; use cpu";

fn built_in() -> [Provider; 3] {
    [
        Provider {
            family: "cuda",
            probe: || now(Ok(vec![Probe { name: "cuda:0".into(), status: Err(NO_CUDA.into()) }])),
            open: |_| now(Err(absent("cuda", NO_CUDA))),
        },
        Provider { family: "webgpu", probe: webgpu::probe, open: webgpu::open },
        Provider { family: "cpu", probe: || now(Ok(probe_cpu())), open: |i| now(open_cpu(i)) },
    ]
}

fn open_cpu(index: usize) -> starling_contract::Result<Arc<dyn Backend>> {
    if index > 0 {
        let reason = "all processors are one device; use cpu".into();
        return Err(starling_contract::Error::Unavailable {
            backend: format!("cpu:{index}"),
            reason,
        });
    }
    starling_cpu::CpuBackend::detect().map(|b| b as Arc<dyn Backend>)
}

fn probe_cpu() -> Vec<Probe> {
    let status = open_cpu(0).map(|b| b.capabilities().clone()).map_err(|e| e.to_string());
    vec![Probe { name: "cpu".into(), status }]
}

#[cfg(feature = "webgpu")]
mod webgpu {
    use super::Probe;
    use starling_contract::{Backend, Pending, Result};
    use starling_webgpu::{NO_ADAPTER, Options, WebGpuBackend, request_adapters};
    use std::sync::Arc;

    pub fn probe() -> Pending<'static, Vec<Probe>> {
        Box::pin(async { Ok(listed().await) })
    }

    async fn listed() -> Vec<Probe> {
        let named = |(i, adapter)| Probe { name: format!("webgpu:{i}"), status: Ok(adapter) };
        let all: Vec<Probe> = request_adapters()
            .await
            .into_iter()
            .map(|a| a.capabilities)
            .enumerate()
            .map(named)
            .collect();
        if all.is_empty() {
            return vec![Probe { name: "webgpu:0".into(), status: Err(NO_ADAPTER.into()) }];
        }
        all
    }

    pub fn open(index: usize) -> Pending<'static, Arc<dyn Backend>> {
        Box::pin(request(index))
    }

    async fn request(index: usize) -> Result<Arc<dyn Backend>> {
        let backend = WebGpuBackend::request(index, Options::from_env()?).await?;
        Ok(backend)
    }
}

#[cfg(not(feature = "webgpu"))]
mod webgpu {
    use super::{Probe, absent, now};
    use starling_contract::{Backend, Pending};
    use std::sync::Arc;

    const LEFT_OUT: &str = "this build leaves WebGPU out; build with the feature `webgpu`";

    pub fn probe() -> Pending<'static, Vec<Probe>> {
        now(Ok(vec![Probe { name: "webgpu:0".into(), status: Err(LEFT_OUT.into()) }]))
    }

    pub fn open(_: usize) -> Pending<'static, Arc<dyn Backend>> {
        now(Err(absent("webgpu", LEFT_OUT)))
    }
}

/// Which device `auto` takes, and why not the ones before it.
#[derive(Clone, Debug)]
pub struct DeviceChoice {
    /// The name to ask for.
    pub name: String,
    /// One sentence for each device that stands before it and was passed over although it is
    /// available.
    pub passed_over: Vec<String>,
}

/// An answer of the contract as one of the engine.
async fn as_ours<T>(answer: Pending<'_, T>) -> Result<T> {
    Ok(answer.await?)
}

/// A family's devices, or the line that says why they are not known.
fn or_why(family: &str, found: Result<Vec<Probe>>) -> Vec<Probe> {
    found.unwrap_or_else(|why| vec![Probe { name: family.into(), status: Err(why.to_string()) }])
}

impl Device {
    /// Opens a device by name: `cpu`, `cuda:0`, `webgpu:1`, a registered family, or `auto`. One
    /// that is open already is the same device, through a queue of its own.
    ///
    /// # Errors
    /// The backend's reason when the device is not to be had; [`Error::Invalid`] for a name that
    /// no family has.
    pub fn new(name: &str) -> Result<Self> {
        wait(Self::open(name))
    }

    /// As [`Device::new`], awaited: for hosts that cannot block.
    ///
    /// # Errors
    /// As [`Device::new`].
    pub async fn open(name: &str) -> Result<Self> {
        let chosen;
        let name = match name {
            "auto" => {
                chosen = Self::choose_among(Self::probed().await).name;
                &chosen
            }
            name => name,
        };
        let (family, index) = name.split_once(':').unwrap_or((name, "0"));
        let bad = || {
            Error::invalid(format!(
                "unknown device {name:?}: use cpu, cuda:N, webgpu:N or auto (`starling devices` \
                 lists them)"
            ))
        };
        let index: usize = index.parse().map_err(|_| bad())?;
        let open = Self::provider(family, |p| p.open).ok_or_else(bad)?;
        let key = format!("{family}:{index}");
        let known = opened(|all| all.iter().find(|o| o.0 == key).and_then(|o| o.1.upgrade()));
        if let Some(backend) = known {
            match Self::from_backend(backend) {
                // It is made anew: other devices may have come in its place.
                Err(Error::Backend(starling_contract::Error::DeviceLost(_))) => {}
                other => return other,
            }
        }
        Self::from_backend(Self::share(key, open(index).await?))
    }

    /// The backend that the name stands for from now on: another thread may have opened it while
    /// this one did.
    fn share(key: String, backend: Arc<dyn Backend>) -> Arc<dyn Backend> {
        opened(|all| {
            let other = all.iter().find(|o| o.0 == key).and_then(|o| o.1.upgrade());
            if let Some(other) = other.filter(|other| other.stream().is_ok()) {
                return other;
            }
            all.retain(|o| o.0 != key && o.1.strong_count() > 0);
            all.push((key, Arc::downgrade(&backend)));
            backend
        })
    }

    /// The device that [`Device::choose`] names.
    ///
    /// # Errors
    /// That device's reason when it cannot be opened after all: `STARLING_ISA` or
    /// `STARLING_WEBGPU` names what is missing, or the driver refuses.
    pub fn auto() -> Result<Self> {
        Self::new("auto")
    }

    /// The first available device in the order CUDA, WebGPU, CPU, but for drivers that play a GPU
    /// on the processor: the CPU backend does that faster.
    pub fn choose() -> DeviceChoice {
        Self::choose_among(Self::probe())
    }

    fn choose_among(probed: Vec<Probe>) -> DeviceChoice {
        let mut passed_over = Vec::new();
        for probe in probed {
            match probe.status {
                Ok(c) if c.software => passed_over.push(format!(
                    "{} computes on the processor too, which cpu does faster",
                    probe.name
                )),
                Ok(_) => return DeviceChoice { name: probe.name, passed_over },
                Err(_) => {}
            }
        }
        DeviceChoice { name: "cpu".to_owned(), passed_over }
    }

    /// Every known backend, available with its properties or unavailable with the reason.
    pub fn probe() -> Vec<Probe> {
        let families = Self::families();
        families
            .into_iter()
            .flat_map(|(name, probe)| or_why(name, wait(as_ours(probe()))))
            .collect()
    }

    /// As [`Device::probe`], awaited: for hosts that cannot block.
    pub async fn probed() -> Vec<Probe> {
        let mut all = Vec::new();
        for (name, probe) in Self::families() {
            all.extend(or_why(name, as_ours(probe()).await));
        }
        all
    }

    /// What lists the devices of each family.
    fn families() -> Vec<(&'static str, List)> {
        let registered = PROVIDERS.read().unwrap_or_else(PoisonError::into_inner);
        built_in().iter().chain(&*registered).map(|p| (p.family, p.probe)).collect()
    }

    /// How many threads the device `cpu` computes on, from its next opening on: `STARLING_THREADS`,
    /// or one for each core, until this is called. While a handle of it is held it is open, and
    /// computes on those that it has. Results do not depend on it.
    ///
    /// # Errors
    /// The backend's reason when they are not to be had: 0, more than 4096, or the system refuses.
    pub fn set_cpu_threads(threads: usize) -> Result<()> {
        Ok(starling_cpu::set_threads(threads)?)
    }

    /// Adds a family of devices to those that [`Device::new`] and [`Device::probe`] know.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a family that is known already.
    pub fn register(provider: Provider) -> Result<()> {
        let mut registered = PROVIDERS.write().unwrap_or_else(PoisonError::into_inner);
        let family = provider.family;
        if built_in().iter().chain(&*registered).any(|p| p.family == family) {
            let message = format!("there are devices {family:?} already: name yours otherwise");
            return Err(Error::invalid(message));
        }
        registered.push(provider);
        Ok(())
    }

    fn provider<T>(family: &str, f: impl Fn(&Provider) -> T) -> Option<T> {
        if let Some(p) = built_in().iter().find(|p| p.family == family) {
            return Some(f(p));
        }
        let registered = PROVIDERS.read().unwrap_or_else(PoisonError::into_inner);
        registered.iter().find(|p| p.family == family).map(f)
    }
}
