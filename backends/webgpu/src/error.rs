//! Errors in the contract's words.

use starling_contract::Error;

/// An error of the driver in words.
#[derive(Debug)]
struct Message(String);

impl std::fmt::Display for Message {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Message {}

pub(crate) fn driver(message: impl std::fmt::Display) -> Error {
    Error::Driver(Box::new(Message(message.to_string())))
}

pub(crate) fn unavailable(name: &str, reason: impl Into<String>) -> Error {
    Error::Unavailable { backend: name.into(), reason: reason.into() }
}
