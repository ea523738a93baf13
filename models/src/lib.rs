//! Models built from the engine's layers, and drawing text from them.

mod generate;
pub mod gpt2;

pub use generate::{Choice, generate};
pub use gpt2::{Config, Gpt2};
