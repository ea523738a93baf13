//! Models built from the engine's layers, and drawing text from them.

mod generate;
pub mod gpt2;
mod text;

pub use generate::{Choice, generate};
pub use gpt2::{Config, Gpt2};
pub use text::check_byte_tokens;
