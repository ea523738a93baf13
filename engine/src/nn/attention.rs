//! Causal self-attention and its key/value cache.

use super::{Linear, Mode, Module, join};
use crate::device::Device;
use crate::error::{Error, Result};
use crate::tensor::{AttentionOptions, SequenceLengths, Tensor};
use starling_contract::DType;

/// Keys and values of the tokens so far, in memory that is taken once: a new token's are written
/// into place, and nothing is copied when the sequence grows.
#[derive(Debug)]
pub struct KvCache {
    /// `[batch, heads, capacity, head_dim]`
    keys: Tensor,
    /// `[batch, heads, capacity, head_dim]`
    values: Tensor,
}

impl KvCache {
    /// Room for `capacity` tokens of `batch` sequences.
    ///
    /// # Errors
    /// Out of memory.
    pub fn new(
        device: &Device,
        batch: usize,
        heads: usize,
        capacity: usize,
        head_dim: usize,
    ) -> Result<Self> {
        let shape = [batch, heads, capacity, head_dim];
        let room = || Tensor::zeros(device, DType::F32, &shape)?.contiguous();
        Ok(Self { keys: room()?, values: room()? })
    }

    /// Makes every token's place empty, as [`CausalSelfAttention::forward_next`] needs them.
    ///
    /// # Errors
    /// What the device reports.
    pub fn clear(&self) -> Result<()> {
        for part in [&self.keys, &self.values] {
            part.slice_assign(2, 0, &part.zeros_like()?)?;
        }
        Ok(())
    }

    /// Number of tokens that fit.
    pub fn capacity(&self) -> usize {
        self.keys.shape()[2]
    }
}

/// Attention of a sequence to itself and its past, with one product for queries, keys and values
/// and one for the result (Vaswani et al. 2017).
#[derive(Clone, Debug)]
pub struct CausalSelfAttention {
    qkv: Linear,
    out: Linear,
    heads: usize,
    scale: Option<f32>,
    dropout: f64,
    names: [&'static str; 2],
}

impl CausalSelfAttention {
    /// Joins the layers `[dim] -> [3 * dim]` and `[dim] -> [dim]`; `names` are theirs among the
    /// parameters. The scores' factor is `1 / sqrt(head_dim)` unless `scale` is given.
    pub fn new(
        qkv: Linear,
        out: Linear,
        heads: usize,
        scale: Option<f32>,
        names: [&'static str; 2],
    ) -> Self {
        Self { qkv, out, heads, scale, dropout: 0.0, names }
    }

    /// The same, whose weights become 0 with probability `p` in [`Mode::Train`].
    ///
    /// # Errors
    /// [`Error::Invalid`] when `p` is not in [0, 1).
    pub fn with_dropout(self, p: f64) -> Result<Self> {
        if !(0.0..1.0).contains(&p) {
            return Err(Error::invalid(format!("the dropout probability {p} is not in 0..1")));
        }
        Ok(Self { dropout: p, ..self })
    }

    fn options(&self) -> AttentionOptions {
        AttentionOptions { causal: true, scale: self.scale, ..Default::default() }
    }

    /// `[batch, sequence, dim]` to the same shape.
    ///
    /// # Errors
    /// [`Error::Backend`] when the shape does not fit.
    pub fn forward(&self, x: &Tensor, mode: Mode) -> Result<Tensor> {
        let packed = self.qkv.forward(x)?;
        let dropout = if mode == Mode::Train { self.dropout } else { 0.0 };
        let options = AttentionOptions { dropout, ..self.options() };
        self.out.forward(&packed.attention_packed(self.heads, self.heads, &options)?)
    }

    /// As [`CausalSelfAttention::forward`] in [`Mode::Eval`] for tokens that follow `past` earlier
    /// ones, whose keys and values lie in `cache`; those of the new ones are added.
    ///
    /// # Errors
    /// [`Error::Invalid`] when the cache is full.
    pub fn forward_cached(&self, x: &Tensor, cache: &KvCache, past: usize) -> Result<Tensor> {
        let &[batch, sequence, dim] = x.shape() else {
            return Err(Error::invalid(format!("{:?} is not [batch, sequence, dim]", x.shape())));
        };
        let total = past.saturating_add(sequence);
        if total > cache.capacity() {
            let capacity = cache.capacity();
            let message = format!("{total} tokens do not fit a key/value cache of {capacity}");
            return Err(Error::invalid(message));
        }
        let packed = self.qkv.forward(x)?;
        let heads = |part: usize| -> Result<Tensor> {
            let split = [batch, sequence, self.heads, dim / self.heads.max(1)];
            packed.narrow(2, part * dim, dim)?.reshape(&split)?.transpose(1, 2)
        };
        cache.keys.slice_assign(2, past, &heads(1)?)?;
        cache.values.slice_assign(2, past, &heads(2)?)?;
        let keys = cache.keys.narrow(2, 0, total)?;
        let values = cache.values.narrow(2, 0, total)?;
        let mixed = heads(0)?.attention(&keys, &values, &self.options())?;
        self.out.forward(&mixed.transpose(1, 2)?.reshape(&[batch, sequence, dim])?)
    }
}

impl CausalSelfAttention {
    /// As [`CausalSelfAttention::forward_cached`] for one more token of each sequence, `x`
    /// `[batch, 1, dim]`, whose place `position`, `[1]` i32, is read on the device: a captured step
    /// decodes token after token. The place must be empty, see [`KvCache::clear`].
    ///
    /// # Errors
    /// [`Error::Invalid`] for more tokens than one. A position outside the cache is the device's
    /// error for an index outside its table.
    pub fn forward_next(&self, x: &Tensor, cache: &KvCache, position: &Tensor) -> Result<Tensor> {
        let &[batch, 1, dim] = x.shape() else {
            return Err(Error::invalid(format!("{:?} is not [batch, 1, dim]", x.shape())));
        };
        let packed = self.qkv.forward(x)?;
        let heads = |part: usize| -> Result<Tensor> {
            let split = [batch, 1, self.heads, dim / self.heads.max(1)];
            packed.narrow(2, part * dim, dim)?.reshape(&split)?.transpose(1, 2)
        };
        cache.keys.add_at(2, position, &heads(1)?)?;
        cache.values.add_at(2, position, &heads(2)?)?;
        let tokens = position.to_dtype(DType::F32)?.add_scalar(1.0)?.to_dtype(DType::I32)?;
        let lengths = SequenceLengths::Keys(tokens.broadcast_to(&[batch])?);
        let options = AttentionOptions { lengths, ..self.options() };
        let mixed = heads(0)?.attention(&cache.keys, &cache.values, &options)?;
        self.out.forward(&mixed.transpose(1, 2)?.reshape(&[batch, 1, dim])?)
    }
}

impl Module for CausalSelfAttention {
    fn visit(&self, prefix: &str, f: &mut dyn FnMut(&str, &Tensor)) {
        self.qkv.visit(&join(prefix, self.names[0]), f);
        self.out.visit(&join(prefix, self.names[1]), f);
    }
}
