//! Layers, and where their parameters come from.

mod attention;
mod layers;
mod source;

pub use attention::{CausalSelfAttention, KvCache};
pub use layers::{Dropout, Embedding, LayerNorm, Linear, Mlp, RmsNorm};
pub use source::{Fresh, Init, Source};

use crate::tensor::Tensor;

/// Whether dropout is at work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// It is.
    Train,
    /// It is not.
    Eval,
}

/// Something with named parameters.
pub trait Module {
    /// Calls `f` once with every parameter; `prefix` goes before the names.
    fn visit(&self, prefix: &str, f: &mut dyn FnMut(&str, &Tensor));

    /// Every parameter with its name.
    fn parameters(&self) -> Vec<(String, Tensor)> {
        let mut all = Vec::new();
        self.visit("", &mut |name, tensor| all.push((name.to_owned(), tensor.clone())));
        all
    }
}

/// `prefix.name`, or `name` alone.
pub fn join(prefix: &str, name: &str) -> String {
    if prefix.is_empty() { name.to_owned() } else { format!("{prefix}.{name}") }
}

#[cfg(test)]
mod tests;
