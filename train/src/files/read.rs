//! Reading what others may have put there: regular files only, and never more than is sensible.

use crate::memory;
use starling_engine::{Error, Result};
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// The largest JSON file that is read: the tokenizers of large models
/// have about 10 MB.
const JSON_BYTES: u64 = 32 << 20;

/// Opens a regular file for reading; its length beside it.
///
/// The kind is asked for before the file is opened, because opening a pipe waits for its writer.
///
/// # Errors
/// [`Error::File`]; [`Error::Format`] for folders, devices, pipes and sockets.
pub fn open_regular(path: &Path) -> Result<(File, u64)> {
    let failed = |e| Error::file(path, e);
    let refused = || Err(Error::format(path, "this is no regular file: name one"));
    if !std::fs::metadata(path).map_err(failed)?.is_file() {
        return refused();
    }
    let file = File::open(path).map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    // Another file may have taken the name in between.
    if metadata.is_file() { Ok((file, metadata.len())) } else { refused() }
}

/// The content of a regular file of at most `most_bytes`.
///
/// # Errors
/// As [`open_regular`]; [`Error::Format`] for a larger file.
pub fn read_at_most(path: &Path, most_bytes: u64) -> Result<Vec<u8>> {
    let (file, length) = open_regular(path)?;
    let larger = || {
        let message = format!("the file is larger than the {most_bytes} bytes that it may have");
        Err(Error::format(path, message))
    };
    if length > most_bytes {
        return larger();
    }
    let mut bytes = Vec::with_capacity(usize::try_from(length).unwrap_or(0));
    file.take(most_bytes + 1).read_to_end(&mut bytes).map_err(|e| Error::file(path, e))?;
    // Some files grow while they are read, some say that they are empty.
    if bytes.len() as u64 > most_bytes { larger() } else { Ok(bytes) }
}

/// The content of a regular file that fits into memory.
///
/// # Errors
/// As [`open_regular`]; [`Error::Invalid`] for one that does not fit.
pub fn read_whole(path: &Path) -> Result<Vec<u8>> {
    let (_, length) = open_regular(path)?;
    memory::check_host(&format!("reading {}", path.display()), length.into())?;
    read_at_most(path, length)
}

/// The content of a JSON file.
///
/// # Errors
/// As [`read_at_most`]; [`Error::Format`] when it is no JSON.
pub fn read_json(path: &Path) -> Result<serde_json::Value> {
    let text = read_at_most(path, JSON_BYTES)?;
    serde_json::from_slice(&text).map_err(|e| Error::format(path, format!("this is no JSON: {e}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_too_large_or_no_file_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        std::fs::write(&path, b"12345").unwrap();
        assert_eq!(read_at_most(&path, 5).unwrap(), b"12345");
        assert_eq!(read_whole(&path).unwrap(), b"12345");
        let error = read_at_most(&path, 4).unwrap_err().to_string();
        assert!(error.contains("larger than the 4 bytes"), "{error}");
        let error = read_at_most(dir.path(), 4).unwrap_err().to_string();
        assert!(error.contains("no regular file"), "{error}");
        File::create(&path).unwrap().set_len(1 << 42).unwrap();
        let error = read_whole(&path).unwrap_err().to_string();
        assert!(error.contains("4096.0 GiB"), "{error}");
    }

    #[test]
    #[cfg(unix)]
    fn devices_and_pipes_are_refused_without_waiting() {
        let dir = tempfile::tempdir().unwrap();
        let pipe = dir.path().join("pipe");
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        for path in [Path::new("/dev/zero"), &pipe] {
            let error = read_json(path).unwrap_err().to_string();
            assert!(error.contains("no regular file"), "{error}");
        }
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_file_that_says_it_is_empty_is_read_to_its_end_or_the_limit() {
        let path = Path::new("/proc/self/status");
        assert!(!read_at_most(path, 1 << 20).unwrap().is_empty());
        assert!(read_at_most(path, 10).unwrap_err().to_string().contains("larger"));
    }
}
