//! Whether a folder's tokens are bytes.

use starling_engine::{Error, Result};
use starling_train::data::ByteTokenizer;
use starling_train::files::read_json;
use std::path::Path;

/// Refuses a folder that comes with another tokenizer than bytes, which is the only one that is
/// read so far. A folder without any tokenizer is taken for a byte model.
///
/// # Errors
/// [`Error::Format`] that names the file; [`Error::File`].
pub fn check_byte_tokens(folder: &Path) -> Result<()> {
    let refuse = |path: &Path| {
        let message = "this is no byte tokenizer, the only kind that is read so far";
        Err(Error::format(path, message))
    };
    let path = folder.join("tokenizer.json");
    if path.symlink_metadata().is_ok() {
        let json = read_json(&path)?;
        return if ByteTokenizer.is_described_by(&json) { Ok(()) } else { refuse(&path) };
    }
    let merges = folder.join("merges.txt");
    if merges.exists() { refuse(&merges) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_bytes_or_nothing_pass() {
        let dir = tempfile::tempdir().unwrap();
        assert!(check_byte_tokens(dir.path()).is_ok());
        let path = dir.path().join("tokenizer.json");
        std::fs::write(&path, ByteTokenizer.to_json().to_string()).unwrap();
        assert!(check_byte_tokens(dir.path()).is_ok());
        std::fs::write(&path, "{\"model\":{\"vocab\":{\"a\":0}}}").unwrap();
        assert!(check_byte_tokens(dir.path()).unwrap_err().to_string().contains("no byte"));
        std::fs::write(&path, "{").unwrap();
        assert!(check_byte_tokens(dir.path()).unwrap_err().to_string().contains("no JSON"));
        std::fs::remove_file(&path).unwrap();
        std::fs::write(dir.path().join("merges.txt"), "").unwrap();
        assert!(check_byte_tokens(dir.path()).is_err());
    }
}
