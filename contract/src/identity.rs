//! Which device memory lies on.

use std::collections::HashMap;
use std::fmt;
use std::sync::{OnceLock, PoisonError, RwLock};

/// The identity of a device: equal exactly where memory of the one is memory of the other.
///
/// It is interned, so that it is compared as a number: however often `cpu` is opened, its memory
/// has one identity, because all of it is the host's. A driver that gives every opening memory of
/// its own, which no other can reach, asks for [`DeviceId::opened`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DeviceId(u32);

/// The names in use, found by number and by name. They are few and never given back.
#[derive(Default)]
struct Names {
    all: Vec<&'static str>,
    known: HashMap<&'static str, DeviceId>,
    /// How often a name has been asked for by [`DeviceId::opened`].
    openings: HashMap<&'static str, usize>,
}

static NAMES: RwLock<Option<Names>> = RwLock::new(None);

impl Names {
    fn intern(&mut self, name: &str) -> DeviceId {
        if let Some(&known) = self.known.get(name) {
            return known;
        }
        let name: &'static str = Box::leak(name.into());
        // There are never as many devices as numbers: a name takes memory for good.
        let id = DeviceId(u32::try_from(self.all.len()).unwrap_or(u32::MAX));
        self.all.push(name);
        self.known.insert(name, id);
        id
    }
}

fn with_names<T>(f: impl FnOnce(&mut Names) -> T) -> T {
    // The names are consistent between statements, so a panic elsewhere does not spoil them.
    let mut names = NAMES.write().unwrap_or_else(PoisonError::into_inner);
    f(names.get_or_insert_default())
}

impl DeviceId {
    /// The one device of this name.
    pub fn named(name: &str) -> Self {
        with_names(|names| names.intern(name))
    }

    /// A device of its own: `webgpu:0`, and `webgpu:0#2` when that has been opened before. For
    /// backends whose openings do not share memory.
    pub fn opened(name: &str) -> Self {
        with_names(|names| {
            let first = names.intern(name);
            let openings = names.openings.entry(names.all[first.0 as usize]).or_default();
            *openings += 1;
            match *openings {
                1 => first,
                count => names.intern(&format!("{name}#{count}")),
            }
        })
    }

    /// The host's memory, where the CPU backend computes.
    pub fn host() -> Self {
        static HOST: OnceLock<DeviceId> = OnceLock::new();
        *HOST.get_or_init(|| Self::named("cpu"))
    }

    /// The name that messages give.
    pub fn name(self) -> &'static str {
        let names = NAMES.read().unwrap_or_else(PoisonError::into_inner);
        names.as_ref().and_then(|names| names.all.get(self.0 as usize)).copied().unwrap_or("?")
    }
}

impl fmt::Display for DeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl fmt::Debug for DeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DeviceId({})", self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_one_device_and_an_opening_is_another() {
        assert_eq!(DeviceId::named("cpu"), DeviceId::host());
        assert_ne!(DeviceId::named("cpu"), DeviceId::named("reference"));
        let openings = [0; 3].map(|_| DeviceId::opened("gpu:7"));
        assert_eq!(openings.map(DeviceId::name), ["gpu:7", "gpu:7#2", "gpu:7#3"]);
        assert_ne!(openings[0], openings[1]);
        assert_eq!(DeviceId::named("gpu:7"), openings[0]);
    }
}
