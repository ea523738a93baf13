//! Compiled pipelines on disk, where the driver lets them be kept (Vulkan).
//!
//! One file for each adapter and driver, in `STARLING_CACHE`, else `starling` in the user's cache
//! folder. A file that is missing, damaged or another driver's is no error: shaders are compiled
//! again.

use std::fs;
use std::path::PathBuf;

/// What a file begins with: a mark and the checksum of the rest.
const MARK: [u8; 8] = *b"starlpc1";
const HEADER: usize = MARK.len() + 8;

/// The driver's cache and the file behind it.
pub(crate) struct Cache {
    pub cache: wgpu::PipelineCache,
    file: Option<PathBuf>,
}

/// FNV-1a: against damage, not against malice; the folder is the user's own.
fn checksum(data: &[u8]) -> [u8; 8] {
    let step = |hash: u64, &byte: &u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    data.iter().fold(0xcbf2_9ce4_8422_2325, step).to_le_bytes()
}

fn folder() -> Option<PathBuf> {
    let variable = |name| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    variable("STARLING_CACHE")
        .or_else(|| variable("XDG_CACHE_HOME").map(|d| d.join("starling")))
        .or_else(|| variable("HOME").map(|d| d.join(".cache").join("starling")))
        .or_else(|| variable("LOCALAPPDATA").map(|d| d.join("starling")))
}

/// What an earlier process saved, if the file is whole.
fn saved(file: &PathBuf) -> Option<Vec<u8>> {
    let bytes = fs::read(file).ok()?;
    let (header, data) = bytes.split_at_checked(HEADER)?;
    let whole = header[..MARK.len()] == MARK && header[MARK.len()..] == checksum(data);
    whole.then(|| data.to_vec())
}

impl Cache {
    /// The cache of a device; `None` where the driver has none.
    #[allow(unsafe_code, reason = "the driver is given back its own data")]
    pub fn open(device: &wgpu::Device) -> Option<Self> {
        if !device.features().contains(wgpu::Features::PIPELINE_CACHE) {
            return None;
        }
        let info = device.adapter_info();
        let key = wgpu::util::pipeline_cache_key(&info)?;
        // wgpu's key knows the adapter alone.
        let driver = checksum(format!("{} {}", info.driver, info.driver_info).as_bytes());
        let name = format!("{key}-{:016x}.pipelines", u64::from_le_bytes(driver));
        let file = folder().map(|folder| folder.join(name));
        let data = file.as_ref().and_then(saved);
        let description = wgpu::PipelineCacheDescriptor {
            label: Some("starling"),
            data: data.as_deref(),
            fallback: true,
        };
        // SAFETY: the data is what `get_data` returned for this adapter and driver: the file's name
        // holds wgpu's key of the one and the other's name and version, `saved` has checked mark
        // and checksum; wgpu and the driver look at headers of their own besides.
        let cache = unsafe { device.create_pipeline_cache(&description) };
        Some(Self { cache, file })
    }

    /// Writes the file anew; a failure costs the next process some compilations and nothing else.
    pub fn save(&self) {
        let (Some(file), Some(data)) = (&self.file, self.cache.get_data()) else { return };
        let Some(folder) = file.parent() else { return };
        let bytes = [&MARK[..], &checksum(&data), &data].concat();
        let temporary = file.with_extension(format!("{}.tmp", std::process::id()));
        let written = fs::create_dir_all(folder).and_then(|()| fs::write(&temporary, bytes));
        if written.and_then(|()| fs::rename(&temporary, file)).is_err() {
            // Whatever was written is of no use.
            let _ = fs::remove_file(&temporary);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_files_are_read() {
        let file = std::env::temp_dir().join(format!("starling-{}.pipelines", std::process::id()));
        let data = b"what the driver gave";
        let whole = [&MARK[..], &checksum(data), data].concat();
        fs::write(&file, &whole).unwrap();
        assert_eq!(saved(&file).as_deref(), Some(&data[..]));
        for damage in [0, 9, HEADER, whole.len() - 1] {
            let mut bytes = whole.clone();
            bytes[damage] ^= 1;
            fs::write(&file, &bytes).unwrap();
            assert_eq!(saved(&file), None, "byte {damage}");
        }
        fs::write(&file, &whole[..HEADER - 1]).unwrap();
        assert_eq!(saved(&file), None);
        fs::remove_file(&file).unwrap();
        assert_eq!(saved(&file), None);
    }
}
