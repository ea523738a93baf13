//! A stream of tokens that lies in a file or in the program.

use crate::files::read_whole;
use starling_engine::{Error, Result};
use std::ops::{Deref, Range};
use std::path::Path;
use std::sync::Arc;

#[derive(Clone)]
enum Bytes {
    Read(Arc<Vec<u8>>),
    Static(&'static [u8]),
}

/// Byte tokens, in memory. Cloning gives another handle.
#[derive(Clone)]
pub struct Corpus {
    bytes: Bytes,
    range: Range<usize>,
    name: String,
}

impl Corpus {
    /// Reads a file. A copy and not a map: a run must not change or end because another program
    /// writes to its text.
    ///
    /// # Errors
    /// [`Error::File`] when the system refuses; [`Error::Format`] when it is empty or no file;
    /// [`Error::Invalid`] when it does not fit into memory.
    pub fn open(path: &Path) -> Result<Self> {
        let bytes = read_whole(path)?;
        if bytes.is_empty() {
            return Err(Error::format(path, "the file is empty: name a text file with some text"));
        }
        let range = 0..bytes.len();
        Ok(Self { bytes: Bytes::Read(Arc::new(bytes)), range, name: path.display().to_string() })
    }

    /// Tokens that are part of the program.
    pub fn from_static(name: &str, bytes: &'static [u8]) -> Self {
        Self { bytes: Bytes::Static(bytes), range: 0..bytes.len(), name: name.to_owned() }
    }

    /// Where the tokens come from.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Cuts the stream in two; `at` is held to the stream's length.
    pub fn split_at(&self, at: usize) -> (Self, Self) {
        let middle = self.range.start + at.min(self.len());
        let part = |range: Range<usize>| Self { range, ..self.clone() };
        (part(self.range.start..middle), part(middle..self.range.end))
    }

    /// A 64-bit FNV-1a hash, to notice that a corpus has changed since a run began.
    pub fn hash(&self) -> u64 {
        self.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
        })
    }
}

impl Deref for Corpus {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        let all: &[u8] = match &self.bytes {
            Bytes::Read(bytes) => bytes,
            Bytes::Static(bytes) => bytes,
        };
        &all[self.range.clone()]
    }
}

impl std::fmt::Debug for Corpus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Corpus({}, {} tokens)", self.name, self.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_its_bytes_and_splits() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("text");
        std::fs::write(&path, b"hello world").unwrap();
        let corpus = Corpus::open(&path).unwrap();
        assert_eq!(&*corpus, b"hello world");
        let (head, tail) = corpus.split_at(5);
        assert_eq!((&*head, &*tail), (&b"hello"[..], &b" world"[..]));
        assert_eq!(&*tail.split_at(1).1, b"world");
        assert_ne!(head.hash(), tail.hash());
        assert_eq!(corpus.hash(), Corpus::from_static("same", b"hello world").hash());
        // The published value of FNV-1a for "a".
        assert_eq!(Corpus::from_static("a", b"a").hash(), 0xaf63_dc4c_8601_ec8c);
    }

    #[test]
    fn a_text_that_is_cut_short_while_in_use_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("text");
        std::fs::write(&path, vec![b'x'; 1 << 20]).unwrap();
        let corpus = Corpus::open(&path).unwrap();
        std::fs::File::options().write(true).open(&path).unwrap().set_len(0).unwrap();
        assert!(corpus.iter().all(|&b| b == b'x'));
    }

    #[test]
    fn what_cannot_be_read_is_said_in_a_sentence() {
        let dir = tempfile::tempdir().unwrap();
        let missing = Corpus::open(&dir.path().join("none")).unwrap_err().to_string();
        assert!(missing.contains("none: No such file"), "{missing}");
        let path = dir.path().join("empty");
        std::fs::write(&path, b"").unwrap();
        assert!(Corpus::open(&path).unwrap_err().to_string().contains("empty"));
        assert!(Corpus::open(dir.path()).unwrap_err().to_string().contains("no regular file"));
    }
}
