//! Layers without state of their own.

use super::{Init, Mode, Module, Source, join};
use crate::error::{Error, Result};
use crate::tensor::{Tensor, WeightLayout};
use starling_ops::Definition;

/// `y = activation(x W + b)`, one product with bias and activation in its epilogue.
#[derive(Clone, Debug)]
pub struct Linear {
    weight: Tensor,
    bias: Option<Tensor>,
    layout: WeightLayout,
}

impl Linear {
    /// A layer of `inputs` to `outputs`, named `name.weight` and `name.bias`.
    ///
    /// # Errors
    /// Those of the source.
    pub fn new(
        source: &mut dyn Source,
        name: &str,
        [inputs, outputs]: [usize; 2],
        layout: WeightLayout,
        init: Init,
        bias: bool,
    ) -> Result<Self> {
        let shape = match layout {
            WeightLayout::InOut => [inputs, outputs],
            WeightLayout::OutIn => [outputs, inputs],
        };
        let weight = source.parameter(&join(name, "weight"), &shape, init)?;
        let bias = bias
            .then(|| source.parameter(&join(name, "bias"), &[outputs], Init::Zeros))
            .transpose()?;
        Ok(Self { weight, bias, layout })
    }

    /// `[.., inputs]` to `[.., outputs]`.
    ///
    /// # Errors
    /// [`Error::Backend`] when the last axis does not fit.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        x.linear(&self.weight, self.bias.as_ref(), self.layout, None)
    }

    /// As [`Linear::forward`], then an elementwise definition.
    ///
    /// # Errors
    /// As [`Linear::forward`].
    pub fn forward_then(&self, x: &Tensor, activation: &'static Definition) -> Result<Tensor> {
        x.linear(&self.weight, self.bias.as_ref(), self.layout, Some(activation))
    }
}

impl Module for Linear {
    fn visit(&self, prefix: &str, f: &mut dyn FnMut(&str, &Tensor)) {
        f(&join(prefix, "weight"), &self.weight);
        if let Some(bias) = &self.bias {
            f(&join(prefix, "bias"), bias);
        }
    }
}

/// A table of vectors.
#[derive(Clone, Debug)]
pub struct Embedding {
    weight: Tensor,
}

impl Embedding {
    /// `rows` vectors of `dim` numbers, named `name.weight`.
    ///
    /// # Errors
    /// Those of the source.
    pub fn new(
        source: &mut dyn Source,
        name: &str,
        [rows, dim]: [usize; 2],
        init: Init,
    ) -> Result<Self> {
        Ok(Self { weight: source.parameter(&join(name, "weight"), &[rows, dim], init)? })
    }

    /// Indices `[..]` (i32 or u32) to vectors `[.., dim]`.
    ///
    /// # Errors
    /// [`Error::Backend`] when an index is outside the table.
    pub fn forward(&self, index: &Tensor) -> Result<Tensor> {
        self.weight.embedding(index)
    }

    /// Rows `start .. start + len`, without indices.
    ///
    /// # Errors
    /// [`Error::Backend`] when they are not there.
    pub fn rows(&self, start: usize, len: usize) -> Result<Tensor> {
        self.weight.narrow(0, start, len)
    }

    /// `x [.., dim]` times the transposed table: the output layer of a model with tied weights.
    ///
    /// # Errors
    /// [`Error::Backend`] when the last axis does not fit.
    pub fn logits(&self, x: &Tensor) -> Result<Tensor> {
        x.linear(&self.weight, None, WeightLayout::OutIn, None)
    }
}

impl Module for Embedding {
    fn visit(&self, prefix: &str, f: &mut dyn FnMut(&str, &Tensor)) {
        f(&join(prefix, "weight"), &self.weight);
    }
}

/// `(x - mean) / sqrt(var + eps) * weight + bias` over the last axis (Ba, Kiros, Hinton 2016).
#[derive(Clone, Debug)]
pub struct LayerNorm {
    weight: Tensor,
    bias: Tensor,
    eps: f64,
}

impl LayerNorm {
    /// A norm of `dim` numbers, named `name.weight` and `name.bias`.
    ///
    /// # Errors
    /// Those of the source.
    pub fn new(source: &mut dyn Source, name: &str, dim: usize, eps: f64) -> Result<Self> {
        let weight = source.parameter(&join(name, "weight"), &[dim], Init::Ones)?;
        let bias = source.parameter(&join(name, "bias"), &[dim], Init::Zeros)?;
        Ok(Self { weight, bias, eps })
    }

    /// `[.., dim]` to the same shape.
    ///
    /// # Errors
    /// [`Error::Backend`] when the last axis does not fit.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        x.layer_norm(Some(&self.weight), Some(&self.bias), self.eps)
    }
}

impl Module for LayerNorm {
    fn visit(&self, prefix: &str, f: &mut dyn FnMut(&str, &Tensor)) {
        f(&join(prefix, "weight"), &self.weight);
        f(&join(prefix, "bias"), &self.bias);
    }
}

/// `x / sqrt(mean(x^2) + eps) * weight` over the last axis (Zhang, Sennrich 2019).
#[derive(Clone, Debug)]
pub struct RmsNorm {
    weight: Tensor,
    eps: f64,
}

impl RmsNorm {
    /// A norm of `dim` numbers, named `name.weight`.
    ///
    /// # Errors
    /// Those of the source.
    pub fn new(source: &mut dyn Source, name: &str, dim: usize, eps: f64) -> Result<Self> {
        Ok(Self { weight: source.parameter(&join(name, "weight"), &[dim], Init::Ones)?, eps })
    }

    /// `[.., dim]` to the same shape.
    ///
    /// # Errors
    /// [`Error::Backend`] when the last axis does not fit.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        x.rms_norm(Some(&self.weight), self.eps)
    }
}

impl Module for RmsNorm {
    fn visit(&self, prefix: &str, f: &mut dyn FnMut(&str, &Tensor)) {
        f(&join(prefix, "weight"), &self.weight);
    }
}

/// Zeroes elements at random while training (Srivastava et al. 2014).
#[derive(Clone, Copy, Debug)]
pub struct Dropout {
    p: f64,
}

impl Dropout {
    /// Zeroes each element with probability `p`.
    ///
    /// # Errors
    /// [`Error::Invalid`] when `p` is not in [0, 1).
    pub fn new(p: f64) -> Result<Self> {
        if !(0.0..1.0).contains(&p) {
            return Err(Error::invalid(format!("the dropout probability {p} is not in 0..1")));
        }
        Ok(Self { p })
    }

    /// `x`, with zeros in [`Mode::Train`].
    ///
    /// # Errors
    /// Out of memory.
    pub fn forward(&self, x: &Tensor, mode: Mode) -> Result<Tensor> {
        if mode == Mode::Eval { Ok(x.clone()) } else { x.dropout(self.p) }
    }
}

/// Two linear layers with an activation between: the feed-forward part of a transformer block.
#[derive(Clone, Debug)]
pub struct Mlp {
    up: Linear,
    down: Linear,
    activation: &'static Definition,
    names: [&'static str; 2],
}

impl Mlp {
    /// Joins two layers; `names` are theirs among the parameters.
    pub fn new(
        up: Linear,
        down: Linear,
        activation: &'static Definition,
        names: [&'static str; 2],
    ) -> Self {
        Self { up, down, activation, names }
    }

    /// `[.., inputs]` to `[.., outputs]`.
    ///
    /// # Errors
    /// As [`Linear::forward`].
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.down.forward(&self.up.forward_then(x, self.activation)?)
    }
}

impl Module for Mlp {
    fn visit(&self, prefix: &str, f: &mut dyn FnMut(&str, &Tensor)) {
        self.up.visit(&join(prefix, self.names[0]), f);
        self.down.visit(&join(prefix, self.names[1]), f);
    }
}
