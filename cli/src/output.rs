//! Standard output, whose reader may go away.

use starling_engine::{Error, Result};
use std::io::{ErrorKind, Write};
use std::path::Path;

const NAME: &str = "standard output";

/// Prints text at once.
pub fn print(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .map_err(|source| Error::File { path: Path::new(NAME).to_owned(), source })
}

/// Prints a line at once.
pub fn line(text: impl std::fmt::Display) -> Result<()> {
    print(&format!("{text}\n"))
}

/// True when the error says that nobody reads on, as after `| head`.
pub fn is_closed(error: &Error) -> bool {
    matches!(error, Error::File { path, source }
        if path == Path::new(NAME) && source.kind() == ErrorKind::BrokenPipe)
}
