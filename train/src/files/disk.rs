//! The layer through which everything is written, so that a test can put a full disk there.

use starling_engine::{Error, Result};
use std::ffi::OsString;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// An open file that is written to.
pub trait Sink: Write + Send {
    /// Returns once what was written will survive a power cut.
    ///
    /// # Errors
    /// What the system reports; a full disk may show only here.
    fn sync(&mut self) -> io::Result<()>;
}

/// The writing half of a file system.
pub trait FileSystem: Send + Sync {
    /// A new, empty file, in place of one that may be there; a link of that name is replaced and
    /// not followed.
    ///
    /// # Errors
    /// What the system reports.
    fn create(&self, path: &Path) -> io::Result<Box<dyn Sink>>;
    /// A file to which is appended, cut to `keep_bytes` first; created when it is not there. A link
    /// is not followed.
    ///
    /// # Errors
    /// What the system reports.
    fn append(&self, path: &Path, keep_bytes: u64) -> io::Result<Box<dyn Sink>>;
    /// Gives a file another name, atomically replacing the one that has it.
    ///
    /// # Errors
    /// What the system reports.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Deletes a file.
    ///
    /// # Errors
    /// What the system reports.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Makes a folder and those above it.
    ///
    /// # Errors
    /// What the system reports.
    fn create_folder(&self, path: &Path) -> io::Result<()>;
    /// Returns once the names in a folder will survive a power cut.
    ///
    /// # Errors
    /// What the system reports.
    fn sync_folder(&self, path: &Path) -> io::Result<()>;
}

/// The real file system.
#[derive(Clone, Copy, Debug, Default)]
pub struct Disk;

struct DiskFile(BufWriter<File>);

impl Write for DiskFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

impl Sink for DiskFile {
    fn sync(&mut self) -> io::Result<()> {
        self.0.flush()?;
        self.0.get_ref().sync_all()
    }
}

fn sink(file: File) -> Box<dyn Sink> {
    Box::new(DiskFile(BufWriter::with_capacity(1 << 18, file)))
}

impl FileSystem for Disk {
    fn create(&self, path: &Path) -> io::Result<Box<dyn Sink>> {
        match std::fs::remove_file(path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
            _ => OpenOptions::new().write(true).create_new(true).open(path).map(sink),
        }
    }

    fn append(&self, path: &Path, keep_bytes: u64) -> io::Result<Box<dyn Sink>> {
        if let Some(kind) = odd_kind(path)? {
            return Err(io::Error::other(not_ours(kind)));
        }
        let file = OpenOptions::new().create(true).append(true).open(path)?;
        file.set_len(keep_bytes)?;
        Ok(sink(file))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        std::fs::remove_file(path)
    }

    fn create_folder(&self, path: &Path) -> io::Result<()> {
        std::fs::create_dir_all(path)
    }

    fn sync_folder(&self, path: &Path) -> io::Result<()> {
        // Windows cannot open a folder as a file; its renames are journalled.
        if cfg!(unix) { File::open(path)?.sync_all() } else { Ok(()) }
    }
}

/// What stands under a name that should be free or a regular file's, when it is neither.
fn odd_kind(path: &Path) -> io::Result<Option<&'static str>> {
    let kind = match std::fs::symlink_metadata(path) {
        Ok(found) => found.file_type(),
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e),
    };
    Ok(match (kind.is_file(), kind.is_symlink(), kind.is_dir()) {
        (true, ..) => None,
        (_, true, _) => Some("a link"),
        (.., true) => Some("a folder"),
        _ => Some("a device, pipe or socket"),
    })
}

fn not_ours(kind: &str) -> String {
    format!("this is no regular file but {kind}, which nothing is written to: remove it")
}

/// Refuses a name under which something else than a regular file stands: writing there would
/// replace a device, or change what a link leads to.
///
/// # Errors
/// [`Error::Format`] that says what stands there; [`Error::File`].
pub fn check_writable(path: &Path) -> Result<()> {
    match odd_kind(path).map_err(|e| Error::file(path, e))? {
        Some(kind) => Err(Error::format(path, not_ours(kind))),
        None => Ok(()),
    }
}

/// Replaces a file whole: the new content goes to a temporary file beside it, is synced and takes
/// the name. Whatever fails on the way, the earlier file stays as it was.
///
/// # Errors
/// [`Error::File`] with the file's own path; [`Error::Format`] where no regular file stands; what
/// `content` returns.
pub fn replace(
    files: &dyn FileSystem,
    path: &Path,
    content: impl FnOnce(&mut dyn Write) -> Result<()>,
) -> Result<()> {
    check_writable(path)?;
    let mut name = OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(".tmp");
    let temporary = path.with_file_name(name);
    let failed = |e| Error::file(path, e);
    let written = files.create(&temporary).map_err(failed).and_then(|mut file| {
        content(&mut *file)?;
        file.sync().map_err(failed)
    });
    let done = written.and_then(|()| files.rename(&temporary, path).map_err(failed));
    if done.is_err() {
        // The first error is the one to report; a left-over temporary file harms nobody.
        let _ = files.remove(&temporary);
        return done;
    }
    files.sync_folder(folder_of(path)).map_err(failed)
}

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Makes a folder and those above it.
///
/// # Errors
/// [`Error::File`].
pub fn create_folder(files: &dyn FileSystem, path: &Path) -> Result<()> {
    files.create_folder(path).map_err(|e| Error::file(path, e))
}

/// Holds a folder for one process; released when dropped, also by the process's death.
pub struct FolderLock {
    _file: File,
}

impl FolderLock {
    /// The name of the file that is locked.
    pub const NAME: &str = ".lock";

    /// Takes the folder.
    ///
    /// # Errors
    /// [`Error::Invalid`] when another process holds it; [`Error::File`].
    pub fn take(folder: &Path) -> Result<Self> {
        let path = folder.join(Self::NAME);
        check_writable(&path)?;
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(|e| Error::file(&path, e))?;
        match file.try_lock() {
            Ok(()) => Ok(Self { _file: file }),
            Err(TryLockError::WouldBlock) => Err(Error::invalid(format!(
                "{}: another process is training into this folder: wait for it or name another one",
                folder.display()
            ))),
            Err(TryLockError::Error(e)) => Err(Error::file(&path, e)),
        }
    }
}

/// A disk that is full after some bytes: for tests of everything that writes.
#[derive(Clone, Debug)]
pub struct LimitedDisk {
    left_bytes: Arc<AtomicU64>,
}

impl LimitedDisk {
    /// A disk with room for `bytes`.
    pub fn new(bytes: u64) -> Self {
        Self { left_bytes: Arc::new(AtomicU64::new(bytes)) }
    }

    /// Sets the room that is left.
    pub fn set_room(&self, bytes: u64) {
        self.left_bytes.store(bytes, Ordering::SeqCst);
    }
}

struct LimitedFile {
    inner: Box<dyn Sink>,
    left_bytes: Arc<AtomicU64>,
}

impl Write for LimitedFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let left = self.left_bytes.load(Ordering::SeqCst);
        if left == 0 && !bytes.is_empty() {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let room = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
        let written = self.inner.write(&bytes[..room])?;
        self.left_bytes.store(left - written as u64, Ordering::SeqCst);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

impl Sink for LimitedFile {
    fn sync(&mut self) -> io::Result<()> {
        self.inner.sync()
    }
}

impl LimitedDisk {
    fn limit(&self, inner: Box<dyn Sink>) -> Box<dyn Sink> {
        Box::new(LimitedFile { inner, left_bytes: self.left_bytes.clone() })
    }
}

impl FileSystem for LimitedDisk {
    fn create(&self, path: &Path) -> io::Result<Box<dyn Sink>> {
        Ok(self.limit(Disk.create(path)?))
    }

    fn append(&self, path: &Path, keep_bytes: u64) -> io::Result<Box<dyn Sink>> {
        Ok(self.limit(Disk.append(path, keep_bytes)?))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        Disk.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        Disk.remove(path)
    }

    fn create_folder(&self, path: &Path) -> io::Result<()> {
        Disk.create_folder(path)
    }

    fn sync_folder(&self, path: &Path) -> io::Result<()> {
        Disk.sync_folder(path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(files: &dyn FileSystem, path: &Path, bytes: &[u8]) -> Result<()> {
        replace(files, path, |w| w.write_all(bytes).map_err(|e| Error::file(path, e)))
    }

    #[test]
    fn a_full_disk_leaves_the_earlier_file_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("model.safetensors");
        put(&Disk, &path, b"earlier").unwrap();
        for room in 0..20 {
            let error = put(&LimitedDisk::new(room), &path, &[1; 20]).unwrap_err().to_string();
            assert!(error.contains("model.safetensors: ") && error.contains("space"), "{error}");
            assert_eq!(std::fs::read(&path).unwrap(), b"earlier");
            assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
        }
        put(&LimitedDisk::new(20), &path, &[1; 20]).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), [1; 20]);
    }

    #[test]
    fn a_folder_that_is_missing_is_named() {
        let error = put(&Disk, Path::new("/nowhere/at/all"), b"x").unwrap_err().to_string();
        assert!(error.contains("/nowhere/at/all: No such file"), "{error}");
    }

    #[test]
    fn append_keeps_what_it_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        for (keep, text) in [(0, "abc"), (3, "def"), (4, "X")] {
            let mut file = Disk.append(&path, keep).unwrap();
            file.write_all(text.as_bytes()).unwrap();
            file.sync().unwrap();
        }
        assert_eq!(std::fs::read(&path).unwrap(), b"abcdX");
    }

    #[test]
    fn a_folder_has_one_holder() {
        let dir = tempfile::tempdir().unwrap();
        let lock = FolderLock::take(dir.path()).unwrap();
        let error = FolderLock::take(dir.path()).err().unwrap().to_string();
        assert!(error.contains("another process"), "{error}");
        drop(lock);
        FolderLock::take(dir.path()).unwrap();
    }
}
