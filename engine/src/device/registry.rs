//! Which devices there are, and opening one by name.

use super::Device;
use crate::error::{Error, Result};
use starling_contract::{Backend, Capabilities};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, Weak};

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

/// The backends that are open, by name: a device opened twice is one device.
static OPENED: Mutex<Vec<(String, Weak<dyn Backend>)>> = Mutex::new(Vec::new());

fn opened() -> MutexGuard<'static, Vec<(String, Weak<dyn Backend>)>> {
    // The list is consistent between statements.
    OPENED.lock().unwrap_or_else(PoisonError::into_inner)
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
        Provider { family: "cpu", probe: probe_cpu, open: open_cpu },
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
pub struct DeviceChoice {
    /// The name to ask for.
    pub name: String,
    /// One sentence for each device that stands before it and was passed over although it is
    /// available.
    pub passed_over: Vec<String>,
}

impl Device {
    /// Opens a device by name: `cpu`, `cuda:0`, `webgpu:1`, a registered family, or `auto`. One
    /// that is open already is the same device, through a queue of its own.
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
        let key = format!("{family}:{index}");
        let known = opened().iter().find(|o| o.0 == key).and_then(|o| o.1.upgrade());
        if let Some(backend) = known {
            match Self::from_backend(backend) {
                // It is made anew: other devices may have come in its place.
                Err(Error::Backend(starling_contract::Error::DeviceLost(_))) => {}
                other => return other,
            }
        }
        let backend = open(index)?;
        let mut opened = opened();
        opened.retain(|o| o.0 != key && o.1.strong_count() > 0);
        opened.push((key, Arc::downgrade(&backend)));
        drop(opened);
        Self::from_backend(backend)
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
    pub fn choose() -> DeviceChoice {
        let mut passed_over = Vec::new();
        for probe in Self::probe() {
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
}
