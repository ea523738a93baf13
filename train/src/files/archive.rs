//! safetensors files.

use crate::files::read::open_regular;
use crate::files::{FileSystem, replace};
use half::{bf16, f16};
use safetensors::tensor::{Dtype, Metadata, TensorInfo};
use serde_json::{Map, Value, json};
use starling_engine::{Error, Result};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// The metadata entry under which [`write_safetensors`] leaves a digest of all that is read back.
const DIGEST: &str = "starling_digest";
/// Says who wrote the file, so that a digest whose name is damaged is missed. Its value is the
/// version of the digest.
const WRITER: &str = "starling";
const VERSION: &str = "1";
/// The longest header that is parsed: a model of a hundred thousand tensors has a tenth of it.
const HEADER_BYTES: u64 = 32 << 20;
/// How much of the data is read at once to be hashed.
const PIECE_BYTES: usize = 1 << 20;

/// A tensor of a file that is to be written: its name, its shape and how to get at its numbers.
pub struct Named<'a> {
    /// The name in the file.
    pub name: String,
    /// The shape in the file.
    pub shape: Vec<usize>,
    /// Called twice, once for the digest and once for the file, so that not all tensors are in the
    /// host's memory at a time.
    pub read: Box<dyn Fn() -> Result<Vec<f32>> + 'a>,
}

/// BLAKE3 over the metadata but the digest itself, sorted by key, and over each tensor's name,
/// type, shape and data, sorted by name: over what a file says and not over how it is laid out, so
/// that other programs may write it anew. Every text and list goes in behind its length.
struct Digest(blake3::Hasher);

impl Digest {
    fn new<'m>(metadata: impl Iterator<Item = (&'m str, &'m str)>) -> Self {
        let mut digest = Self(blake3::Hasher::new());
        let sorted: BTreeMap<&str, &str> = metadata.filter(|(key, _)| *key != DIGEST).collect();
        digest.number(sorted.len());
        for (key, value) in sorted {
            digest.text(key);
            digest.text(value);
        }
        digest
    }

    fn number(&mut self, x: usize) {
        self.0.update(&(x as u64).to_le_bytes());
    }

    fn text(&mut self, text: &str) {
        self.number(text.len());
        self.0.update(text.as_bytes());
    }

    /// What stands before a tensor's data.
    fn tensor(&mut self, name: &str, dtype: Dtype, shape: &[usize], bytes: usize) {
        self.text(name);
        self.text(&format!("{dtype:?}"));
        self.number(shape.len());
        shape.iter().for_each(|&size| self.number(size));
        self.number(bytes);
    }

    fn data(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    fn finish(&self) -> String {
        self.0.finalize().to_hex().to_string()
    }
}

fn corrupt(path: &Path, what: &str) -> Error {
    let message = format!("this is no whole safetensors file ({what}): restore it or train anew");
    Error::format(path, message)
}

/// The numbers of a tensor that is to be written.
fn numbers(path: &Path, tensor: &Named<'_>) -> Result<Vec<f32>> {
    let data = (tensor.read)()?;
    if data.len() != tensor.shape.iter().product::<usize>() {
        let message = format!("{}: {} numbers for {:?}", tensor.name, data.len(), tensor.shape);
        return Err(Error::format(path, message));
    }
    Ok(data)
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
    let header = header(path, metadata, tensors)?;
    replace(files, path, |out| {
        let failed = |e| Error::file(path, e);
        out.write_all(&(header.len() as u64).to_le_bytes()).map_err(failed)?;
        out.write_all(&header).map_err(failed)?;
        for t in tensors {
            // x86-64 and AArch64 are little-endian, as the format is.
            out.write_all(bytemuck::cast_slice(&numbers(path, t)?)).map_err(failed)?;
        }
        Ok(())
    })
}

/// The header, by hand and in the given order: the crate's own metadata has none, and equal models
/// must give equal files.
fn header(path: &Path, metadata: &[(&str, String)], tensors: &[Named<'_>]) -> Result<Vec<u8>> {
    let own = [(WRITER, VERSION)];
    let notes = || metadata.iter().map(|(k, v)| (*k, v.as_str())).chain(own);
    let mut digest = Digest::new(notes());
    let mut sorted: Vec<&Named<'_>> = tensors.iter().collect();
    sorted.sort_by(|a, b| a.name.cmp(&b.name));
    for t in sorted {
        let data = numbers(path, t)?;
        digest.tensor(&t.name, Dtype::F32, &t.shape, 4 * data.len());
        digest.data(bytemuck::cast_slice(&data));
    }
    let mut notes: Map<String, Value> = notes().map(|(k, v)| (k.to_owned(), json!(v))).collect();
    notes.insert(DIGEST.into(), json!(digest.finish()));
    let mut header = Map::from_iter([("__metadata__".to_owned(), Value::Object(notes))]);
    let mut at = 0;
    for t in tensors {
        let end = at + 4 * t.shape.iter().product::<usize>();
        let info = json!({"dtype": "F32", "shape": t.shape, "data_offsets": [at, end]});
        header.insert(t.name.clone(), info);
        at = end;
    }
    let mut header = serde_json::to_vec(&header)
        .map_err(|e| Error::format(path, format!("the header cannot be written: {e}")))?;
    header.resize(header.len().next_multiple_of(8), b' ');
    Ok(header)
}

/// An open safetensors file. It is read and not mapped: a file that another program cuts short
/// meanwhile is an error and not the end of the process.
pub struct Archive {
    path: PathBuf,
    file: Mutex<File>,
    metadata: Metadata,
    data_start: u64,
}

impl Archive {
    /// Opens a file and checks that it is whole: everything in it is read once where it carries a
    /// digest.
    ///
    /// # Errors
    /// [`Error::File`] when it cannot be read; [`Error::Format`] when it is cut short or broken.
    pub fn open(path: &Path) -> Result<Self> {
        let (mut file, length) = open_regular(path)?;
        let (metadata, data_start) = read_header(path, &mut file, length)?;
        let archive = Self { path: path.to_owned(), file: Mutex::new(file), metadata, data_start };
        let expected = archive.note(DIGEST);
        if expected.is_none() && archive.note(WRITER).is_none() {
            // Of another program.
            return Ok(archive);
        }
        if expected != Some(archive.digest()?.as_str()) {
            return Err(corrupt(path, "its checksum is wrong"));
        }
        Ok(archive)
    }

    /// As [`Archive::open`] of a file that [`write_safetensors`] wrote.
    ///
    /// # Errors
    /// Those, and [`Error::Format`] for a file without a digest.
    pub fn open_own(path: &Path) -> Result<Self> {
        let archive = Self::open(path)?;
        if archive.note(DIGEST).is_none() {
            let message = "this file has no checksum over all of it, as this version writes it: \
                           restore it or train anew";
            return Err(Error::format(path, message));
        }
        Ok(archive)
    }

    fn digest(&self) -> Result<String> {
        let notes = self.metadata.metadata().iter().flatten();
        let mut digest = Digest::new(notes.map(|(k, v)| (k.as_str(), v.as_str())));
        let mut piece = vec![0; PIECE_BYTES];
        for (name, info) in self.metadata.tensors().into_iter().collect::<BTreeMap<_, _>>() {
            let (from, to) = info.data_offsets;
            digest.tensor(&name, info.dtype, &info.shape, to - from);
            for at in (from..to).step_by(PIECE_BYTES) {
                let piece = &mut piece[..PIECE_BYTES.min(to - at)];
                self.bytes(at, piece)?;
                digest.data(piece);
            }
        }
        Ok(digest.finish())
    }

    /// Bytes of the data from `at` on.
    fn bytes(&self, at: usize, into: &mut [u8]) -> Result<()> {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let read = file
            .seek(SeekFrom::Start(self.data_start + at as u64))
            .and_then(|_| file.read_exact(into));
        read.map_err(|e| cut_or_failed(&self.path, e))
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
    /// [`Error::Format`] when there is no such tensor, it has another shape or type, or one of its
    /// numbers is infinite or none; [`Error::File`].
    pub fn read(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        let Some(info) = self.metadata.info(name) else {
            return Err(Error::format(&self.path, format!("the tensor {name:?} is missing")));
        };
        if info.shape != shape {
            let message =
                format!("the tensor {name:?} has shape {:?} and needs {shape:?}", info.shape);
            return Err(Error::format(&self.path, message));
        }
        let numbers = self.numbers(name, info)?;
        if let Some(x) = numbers.iter().find(|x| !x.is_finite()) {
            let message = format!(
                "the tensor {name:?} holds {x}, and only finite numbers can be computed with: \
                 restore the file or train anew"
            );
            return Err(Error::format(&self.path, message));
        }
        Ok(numbers)
    }

    fn numbers(&self, name: &str, info: &TensorInfo) -> Result<Vec<f32>> {
        let (from, to) = info.data_offsets;
        let mut bytes = vec![0; to - from];
        self.bytes(from, &mut bytes)?;
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

fn cut_or_failed(path: &Path, error: std::io::Error) -> Error {
    if error.kind() == ErrorKind::UnexpectedEof {
        return corrupt(path, "it is cut short");
    }
    Error::file(path, error)
}

/// The header of a file of `length` bytes, and where the data begin.
fn read_header(path: &Path, file: &mut File, length: u64) -> Result<(Metadata, u64)> {
    if length == 0 {
        return Err(corrupt(path, "it is empty"));
    }
    let mut size = [0; 8];
    file.read_exact(&mut size).map_err(|e| cut_or_failed(path, e))?;
    let size = u64::from_le_bytes(size);
    if size > HEADER_BYTES {
        let what = format!("its header has {size} bytes where {HEADER_BYTES} are the most");
        return Err(corrupt(path, &what));
    }
    let data_start = 8 + size;
    if data_start > length {
        return Err(corrupt(path, "it is cut short"));
    }
    let mut text = vec![0; size as usize];
    file.read_exact(&mut text).map_err(|e| cut_or_failed(path, e))?;
    // The format asks for it, and JSON would let white space stand before.
    if text.first() != Some(&b'{') {
        return Err(corrupt(path, "its header is no JSON object"));
    }
    let metadata: Metadata = serde_json::from_slice(&text)
        .map_err(|e| corrupt(path, &format!("its header cannot be read: {e}")))?;
    if data_start + metadata.data_len() as u64 != length {
        let what = "it is cut short or has bytes that belong to no tensor";
        return Err(corrupt(path, what));
    }
    Ok((metadata, data_start))
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
        for at in 0..whole.len() {
            for bit in 0..8 {
                let mut broken = whole.clone();
                broken[at] ^= 1 << bit;
                std::fs::write(&path, &broken).unwrap();
                let error = Archive::open(&path).err().map(|e| e.to_string());
                let error = error.unwrap_or_else(|| panic!("byte {at}, bit {bit} passed"));
                assert!(error.contains("no whole safetensors file"), "{error}");
            }
        }
    }

    #[test]
    fn what_is_swapped_or_left_out_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.safetensors");
        let tensors = [named("first", &[2], &[1., 2.]), named("other", &[2], &[3., -4.])];
        write_safetensors(&Disk, &path, &[("note", "12".into())], &tensors).unwrap();
        let whole = std::fs::read(&path).unwrap();
        let refused = |bytes: &[u8]| {
            std::fs::write(&path, bytes).unwrap();
            let error = Archive::open_own(&path).err().unwrap().to_string();
            assert!(error.contains("checksum"), "{error}");
        };
        let replaced = |from: &str, to: &str| {
            let (from, to) = (from.as_bytes(), to.as_bytes());
            let at = whole.windows(from.len()).position(|w| w == from).unwrap();
            [&whole[..at], to, &whole[at + from.len()..]].concat()
        };
        refused(&replaced("\"note\":\"12\"", "\"note\":\"21\""));
        // Two names, each at the other's data.
        let mut swapped = replaced("\"first\":", "\"xxxxx\":");
        let at = swapped.windows(8).position(|w| w == b"\"other\":").unwrap();
        swapped[at + 1..at + 6].copy_from_slice(b"first");
        let at = swapped.windows(8).position(|w| w == b"\"xxxxx\":").unwrap();
        swapped[at + 1..at + 6].copy_from_slice(b"other");
        refused(&swapped);
        // Two signs: the highest bits of two words, which sums and products let cancel.
        let mut signs = whole.clone();
        let n = signs.len();
        signs[n - 1] ^= 0x80;
        signs[n - 9] ^= 0x80;
        refused(&signs);
        // No digest at all: good for a foreign file, not for one of ours.
        let header = u64::from_le_bytes(whole[..8].try_into().unwrap()) as usize;
        let text = std::str::from_utf8(&whole[8..8 + header]).unwrap();
        let (from, to) = (text.find("\"__metadata__\"").unwrap(), text.find("\"first\"").unwrap());
        let text = format!("{}{}", &text[..from], &text[to..]);
        let size = (text.len() as u64).to_le_bytes();
        let foreign = [&size[..], text.as_bytes(), &whole[8 + header..]].concat();
        refused(&foreign);
        assert_eq!(Archive::open(&path).unwrap().read("other", &[2]).unwrap(), [3., -4.]);
        // Written anew by another program, the same content is still ours.
        std::fs::write(&path, &whole).unwrap();
        let tensors = safetensors::SafeTensors::deserialize(&whole).unwrap();
        let (_, metadata) = safetensors::SafeTensors::read_metadata(&whole).unwrap();
        let again = safetensors::serialize(tensors.iter(), metadata.metadata().clone()).unwrap();
        std::fs::write(&path, &again).unwrap();
        assert_eq!(Archive::open_own(&path).unwrap().read("other", &[2]).unwrap(), [3., -4.]);
    }

    #[test]
    fn a_file_that_is_cut_short_while_open_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.safetensors");
        sample(&Disk, &path).unwrap();
        let archive = Archive::open(&path).unwrap();
        File::options().write(true).open(&path).unwrap().set_len(20).unwrap();
        let error = archive.read("w", &[2, 3]).unwrap_err().to_string();
        assert!(error.contains("cut short"), "{error}");
    }

    #[test]
    fn a_long_header_is_not_parsed_and_numbers_that_are_none_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.safetensors");
        for size in [94_000_000u64, u64::MAX, i64::MAX as u64] {
            std::fs::write(&path, [&size.to_le_bytes()[..], b"{}"].concat()).unwrap();
            let error = Archive::open(&path).err().unwrap().to_string();
            assert!(error.contains("header has"), "{error}");
        }
        for x in [f32::NAN, f32::INFINITY] {
            let tensors = [named("w", &[2], &[1.0, x])];
            write_safetensors(&Disk, &path, &[], &tensors).unwrap();
            let error = Archive::open(&path).unwrap().read("w", &[2]).unwrap_err().to_string();
            assert!(error.contains("\"w\" holds") && error.contains("finite"), "{error}");
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
