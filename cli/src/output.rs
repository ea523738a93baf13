//! Standard output, whose reader may go away, and the error output, which may be lost.

use starling_engine::{Error, Result};
use std::io::{ErrorKind, Write};
use std::path::Path;

const NAME: &str = "standard output";

/// Prints text at once.
pub fn print(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(failed)
}

/// Prints a line at once.
pub fn line(text: impl std::fmt::Display) -> Result<()> {
    print(&format!("{text}\n"))
}

/// Says something beside the results. Whether anyone can hear it must not matter: a run goes on
/// when its terminal is gone.
pub fn note(text: impl std::fmt::Display) {
    // In one piece, so that no other process's words come between.
    let _ = std::io::stderr().write_all(format!("{text}\n").as_bytes());
}

/// An error of writing to standard output.
pub fn failed(source: std::io::Error) -> Error {
    Error::File { path: Path::new(NAME).to_owned(), source }
}

/// True when the error says that nobody reads on, as after `| head`.
pub fn is_closed(error: &Error) -> bool {
    matches!(error, Error::File { path, source }
        if path == Path::new(NAME) && source.kind() == ErrorKind::BrokenPipe)
}
