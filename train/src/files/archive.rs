//! safetensors files.

use crate::files::{FileSystem, replace};
use half::{bf16, f16};
use memmap2::Mmap;
use safetensors::tensor::{Dtype, Metadata, SafeTensorError};
use serde_json::{Map, Value, json};
use starling_engine::{Error, Result};
use std::fs::File;
use std::path::{Path, PathBuf};

/// The metadata entry under which [`write_safetensors`] leaves a checksum of the data.
const CHECKSUM: &str = "starling_checksum";

/// A tensor of a file that is to be written: its name, its shape and how to get at its numbers.
pub struct Named<'a> {
    /// The name in the file.
    pub name: String,
    /// The shape in the file.
    pub shape: Vec<usize>,
    /// Called twice, once for the checksum and once for the file, so that one tensor at a time is
    /// in the host's memory.
    pub read: Box<dyn Fn() -> Result<Vec<f32>> + 'a>,
}

/// FNV-1a over little-endian words of 64 bits, the last one filled with zeros: every step is a
/// bijection of the state, so no change of a single word goes unnoticed.
fn checksum(state: u64, bytes: &[u8]) -> u64 {
    bytes.chunks(8).fold(state, |state, chunk| {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        (state ^ u64::from_le_bytes(word)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

const CHECKSUM_START: u64 = 0xcbf2_9ce4_8422_2325;

fn format_error(path: &Path, e: &SafeTensorError) -> Error {
    let what = match e {
        SafeTensorError::MetadataIncompleteBuffer => {
            "the file is cut short or has bytes that belong to no tensor".to_owned()
        }
        other => other.to_string(),
    };
    corrupt(path, &what)
}

fn corrupt(path: &Path, what: &str) -> Error {
    let message = format!("this is no whole safetensors file ({what}): restore it or train anew");
    Error::format(path, message)
}

/// Writes f32 tensors in the safetensors layout, replacing the file whole or not at all.
///
/// # Errors
/// [`Error::File`] when writing fails; what reading the tensors returns.
pub fn write_safetensors(
    files: &dyn FileSystem,
    path: &Path,
    metadata: &[(&str, String)],
    tensors: &[Named<'_>],
) -> Result<()> {
    // By hand, in the given order: the crate's own metadata has none, and equal models must give
    // equal files.
    let (mut header, mut at, mut sum) = (Map::new(), 0, CHECKSUM_START);
    header.insert("__metadata__".into(), Value::Null);
    for t in tensors {
        let bytes = 4 * t.shape.iter().product::<usize>();
        let data = (t.read)()?;
        if data.len() * 4 != bytes {
            let message = format!("{}: {} numbers for {:?}", t.name, data.len(), t.shape);
            return Err(Error::format(path, message));
        }
        sum = checksum(sum, bytemuck::cast_slice(&data));
        let info = json!({"dtype": "F32", "shape": t.shape, "data_offsets": [at, at + bytes]});
        header.insert(t.name.clone(), info);
        at += bytes;
    }
    let mut notes: Map<String, Value> =
        metadata.iter().map(|(k, v)| ((*k).to_owned(), json!(v))).collect();
    notes.insert(CHECKSUM.into(), json!(format!("{sum:016x}")));
    header.insert("__metadata__".into(), Value::Object(notes));
    let mut header = serde_json::to_vec(&header)
        .map_err(|e| Error::format(path, format!("the header cannot be written: {e}")))?;
    header.resize(header.len().next_multiple_of(8), b' ');
    replace(files, path, |out| {
        let failed = |e| Error::file(path, e);
        out.write_all(&(header.len() as u64).to_le_bytes()).map_err(failed)?;
        out.write_all(&header).map_err(failed)?;
        for t in tensors {
            // x86-64 and AArch64 are little-endian, as the format is.
            out.write_all(bytemuck::cast_slice(&(t.read)()?)).map_err(failed)?;
        }
        Ok(())
    })
}

/// An open safetensors file.
pub struct Archive {
    path: PathBuf,
    map: Mmap,
    metadata: Metadata,
    data_start: usize,
}

impl Archive {
    /// Maps a file and checks that it is whole.
    ///
    /// # Errors
    /// [`Error::File`] when it cannot be read; [`Error::Format`] when it is cut short or broken.
    pub fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(|e| Error::file(path, e))?;
        let length = file.metadata().map_err(|e| Error::file(path, e))?.len();
        if length == 0 {
            return Err(corrupt(path, "it is empty"));
        }
        // SAFETY: the map is read-only, and this crate replaces such files by renaming, which
        // leaves a mapped one as it is; another program that cuts the file short ends the process.
        let map = unsafe { Mmap::map(&file) }.map_err(|e| Error::file(path, e))?;
        let (header_bytes, metadata) =
            safetensors::SafeTensors::read_metadata(&map).map_err(|e| format_error(path, &e))?;
        let archive = Self { path: path.to_owned(), map, metadata, data_start: 8 + header_bytes };
        if let Some(expected) = archive.note(CHECKSUM) {
            let sum = format!("{:016x}", archive.data_checksum());
            if sum != expected {
                return Err(corrupt(path, "the checksum of its data is wrong"));
            }
        }
        Ok(archive)
    }

    /// Tensor by tensor, as the writer made it.
    fn data_checksum(&self) -> u64 {
        let mut ranges: Vec<(usize, usize)> =
            self.metadata.tensors().values().map(|info| info.data_offsets).collect();
        ranges.sort_unstable();
        let data = &self.map[self.data_start..];
        ranges.into_iter().fold(CHECKSUM_START, |sum, (from, to)| checksum(sum, &data[from..to]))
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// An entry of the file's metadata.
    pub fn note(&self, key: &str) -> Option<&str> {
        self.metadata.metadata().as_ref()?.get(key).map(String::as_str)
    }

    /// The names of the tensors, sorted.
    pub fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = self.metadata.tensors().into_keys().collect();
        names.sort_unstable();
        names
    }

    /// The shape of a tensor; `None` when there is no such tensor.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        self.metadata.info(name).map(|info| &info.shape[..])
    }

    /// A tensor of `shape` as f32; f16 and bf16 are widened.
    ///
    /// # Errors
    /// [`Error::Format`] when there is no such tensor or it has another shape or type.
    pub fn read(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        let Some(info) = self.metadata.info(name) else {
            return Err(Error::format(&self.path, format!("the tensor {name:?} is missing")));
        };
        if info.shape != shape {
            let message =
                format!("the tensor {name:?} has shape {:?} and needs {shape:?}", info.shape);
            return Err(Error::format(&self.path, message));
        }
        let (from, to) = info.data_offsets;
        let bytes = &self.map[self.data_start + from..self.data_start + to];
        let narrow = |convert: fn(u16) -> f32| -> Vec<f32> {
            bytes.chunks_exact(2).map(|b| convert(u16::from_le_bytes([b[0], b[1]]))).collect()
        };
        match info.dtype {
            Dtype::F32 => Ok(bytes
                .chunks_exact(4)
                .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
                .collect()),
            Dtype::F16 => Ok(narrow(|x| f16::from_bits(x).to_f32())),
            Dtype::BF16 => Ok(narrow(|x| bf16::from_bits(x).to_f32())),
            other => {
                let message =
                    format!("the tensor {name:?} is {other:?}: f32, f16 and bf16 can be read");
                Err(Error::format(&self.path, message))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::{Disk, LimitedDisk};

    fn named(name: &str, shape: &[usize], data: &[f32]) -> Named<'static> {
        let data = data.to_vec();
        Named { name: name.into(), shape: shape.into(), read: Box::new(move || Ok(data.clone())) }
    }

    fn sample(files: &dyn FileSystem, path: &Path) -> Result<()> {
        let tensors =
            [named("w", &[2, 3], &[1., 2., 3., 4., 5., 6.]), named("b", &[1], &[f32::MIN])];
        write_safetensors(files, path, &[("format", "pt".into())], &tensors)
    }

    #[test]
    fn what_is_written_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.safetensors");
        sample(&Disk, &path).unwrap();
        let archive = Archive::open(&path).unwrap();
        assert_eq!(archive.names(), ["b", "w"]);
        assert_eq!(archive.note("format"), Some("pt"));
        assert_eq!(archive.read("w", &[2, 3]).unwrap(), [1., 2., 3., 4., 5., 6.]);
        assert_eq!(archive.read("b", &[1]).unwrap(), [f32::MIN]);
        assert_eq!(archive.shape("w"), Some(&[2, 3][..]));
        let wrong = archive.read("w", &[3, 2]).unwrap_err().to_string();
        assert!(wrong.contains("[2, 3]") && wrong.contains("[3, 2]"), "{wrong}");
        let none = archive.read("v", &[1]).unwrap_err().to_string();
        assert!(none.contains("\"v\" is missing"), "{none}");
        // The crate's own reader agrees.
        let bytes = std::fs::read(&path).unwrap();
        let other = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        assert_eq!(other.tensor("b").unwrap().data(), f32::MIN.to_le_bytes());
    }

    #[test]
    fn every_cut_and_every_flipped_byte_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.safetensors");
        sample(&Disk, &path).unwrap();
        let whole = std::fs::read(&path).unwrap();
        for keep in 0..whole.len() {
            std::fs::write(&path, &whole[..keep]).unwrap();
            let error = Archive::open(&path).err().unwrap().to_string();
            assert!(error.contains("no whole safetensors file"), "{keep}: {error}");
        }
        for at in whole.len() - 28..whole.len() {
            let mut broken = whole.clone();
            broken[at] ^= 0x10;
            std::fs::write(&path, &broken).unwrap();
            let error = Archive::open(&path).err().unwrap().to_string();
            assert!(error.contains("checksum"), "{error}");
        }
    }

    #[test]
    fn narrow_floats_are_widened() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.safetensors");
        let bytes = [f16::from_f32(1.5).to_le_bytes(), f16::from_f32(-2.0).to_le_bytes()].concat();
        let view = safetensors::tensor::TensorView::new(Dtype::F16, vec![2], &bytes).unwrap();
        let file = safetensors::serialize([("h", view)], None).unwrap();
        std::fs::write(&path, file).unwrap();
        assert_eq!(Archive::open(&path).unwrap().read("h", &[2]).unwrap(), [1.5, -2.0]);
    }

    #[test]
    fn a_full_disk_leaves_the_earlier_checkpoint() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.safetensors");
        sample(&Disk, &path).unwrap();
        let before = std::fs::read(&path).unwrap();
        for room in 0..before.len() as u64 {
            let error = sample(&LimitedDisk::new(room), &path).unwrap_err().to_string();
            assert!(error.contains("space"), "{error}");
        }
        assert_eq!(std::fs::read(&path).unwrap(), before);
    }
}
