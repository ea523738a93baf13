//! What can go wrong in the engine.

use std::path::{Path, PathBuf};

/// The engine's error. Each message is one sentence that says what is wrong and what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A backend or the contract's checks refused.
    #[error(transparent)]
    Backend(#[from] starling_contract::Error),
    /// Backward reached an operation that has no derivative.
    #[error("{op} has no gradient: {reason}; call detach() before it if none is wanted")]
    NotDifferentiable {
        /// The operation.
        op: &'static str,
        /// Why.
        reason: &'static str,
    },
    /// A value that backward needs was overwritten after forward.
    #[error(
        "{op} needs a value for its gradient that was overwritten since: call backward() before \
         the in-place update"
    )]
    Modified {
        /// The operation.
        op: &'static str,
    },
    /// Autograd was used out of order.
    #[error("backward: {0}")]
    Backward(String),
    /// An argument is outside what is possible.
    #[error("{0}")]
    Invalid(String),
    /// A file could not be read or written.
    #[error("{}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file does not hold what it should.
    #[error("{}: {message}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong with it and what to do.
        message: String,
    },
    /// A number became infinite or NaN in training.
    #[error("{0}")]
    Diverged(String),
}

impl Error {
    /// An [`Error::Invalid`].
    pub fn invalid(message: impl Into<String>) -> Self {
        Error::Invalid(message.into())
    }

    /// An [`Error::File`].
    pub fn file(path: &Path, source: std::io::Error) -> Self {
        Error::File { path: path.to_owned(), source }
    }

    /// An [`Error::Format`].
    pub fn format(path: &Path, message: impl Into<String>) -> Self {
        Error::Format { path: path.to_owned(), message: message.into() }
    }

    /// Shapes that do not fit.
    pub(crate) fn shape(op: &'static str, message: impl Into<String>) -> Self {
        Error::Backend(starling_contract::Error::shape(op, message))
    }
}

/// Results of the engine.
pub type Result<T> = std::result::Result<T, Error>;
