//! Scaled dot-product attention.

use super::Tensor;
use super::autograd::{Backward, Operation, Saved, record};
use super::tape::enabled;
use crate::device::Device;
use crate::error::{Error, Result};
use starling_contract::{Attention, AttentionBackward, DType, Layout, View};

/// What attention may look at.
#[derive(Clone, Debug, Default)]
pub struct AttentionOptions {
    /// Query `i` sees keys `0 ..= i + keys - queries` only.
    pub causal: bool,
    /// Factor of the scores; `1 / sqrt(head_dim)` when `None`.
    pub scale: Option<f32>,
    /// Broadcasts to `[batch, heads, queries, keys]`: f32 is added to the scores, u8 keeps a score
    /// where it is not 0. One that requires a gradient is refused.
    pub mask: Option<Tensor>,
}

/// Everything of the forward verb but the operands.
struct Terms {
    mask: Option<Saved>,
    causal: bool,
    scale: f32,
    lse: Saved,
    out: Saved,
}

impl Terms {
    fn verb(&self, [q, k, v]: [View; 3], out: View) -> Result<Attention> {
        let mask = match &self.mask {
            Some(mask) => Some(repeat_mask(&mask.get("attention")?, &q, &k)?),
            None => None,
        };
        let lse = self.lse.get("attention")?.view()?;
        Ok(Attention { q, k, v, mask, causal: self.causal, scale: self.scale, out, lse })
    }
}

/// A mask is no input of the recorded operation: one that wants a gradient is refused.
fn refuse_trained_mask(mask: &Option<Tensor>) -> Result<()> {
    if enabled() && mask.as_ref().is_some_and(|m| m.tape().is_some()) {
        return Err(Error::NotDifferentiable {
            op: "attention",
            reason: "its mask requires a gradient and gets none",
        });
    }
    Ok(())
}

fn repeat_mask(mask: &Tensor, q: &View, k: &View) -> Result<View> {
    let shape = [q.shape()[0], q.shape()[1], q.shape()[2], k.shape()[2]];
    let view = mask.view()?;
    let layout = view.layout.broadcast_to(&shape).ok_or_else(|| {
        let message = format!("the mask {:?} does not broadcast to {shape:?}", mask.shape());
        Error::shape("attention", message)
    })?;
    Ok(view.with(layout))
}

/// Runs the backward verb.
fn submit_backward(
    device: &Device,
    forward: Attention,
    d_out: View,
    [d_q, d_k, d_v]: [View; 3],
) -> Result<()> {
    device.run(AttentionBackward { forward, d_out, d_q, d_k, d_v, workspace: None })
}

struct Separate {
    q: Saved,
    k: Saved,
    v: Saved,
    terms: Terms,
}

impl Operation for Separate {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn backward(&self, upstream: &Tensor, _wanted: &[bool]) -> Result<Backward> {
        let op = self.name();
        let [q, k, v] = [self.q.get(op)?, self.k.get(op)?, self.v.get(op)?];
        let device = q.device();
        let gradient = |t: &Tensor| Tensor::output(device, DType::F32, t.shape());
        let (d_q, d_k, d_v) = (gradient(&q)?, gradient(&k)?, gradient(&v)?);
        let out = self.terms.out.get(op)?.view()?;
        let forward = self.terms.verb([q.view()?, k.view()?, v.view()?], out)?;
        submit_backward(device, forward, upstream.view()?, [d_q.1, d_k.1, d_v.1])?;
        Ok(Backward::Gradients(vec![Some(d_q.0), Some(d_k.0), Some(d_v.0)]))
    }
}

/// Query, key and value heads side by side in one row.
#[derive(Clone, Copy)]
struct Packing {
    heads: usize,
    kv_heads: usize,
    dim: usize,
}

impl Packing {
    /// `[batch, heads, sequence, dim]` views of a `[batch, sequence, packed]` tensor.
    fn views(&self, packed: &View) -> [View; 3] {
        let part = |first: usize, heads: usize| {
            let (shape, strides) = (packed.shape(), packed.layout.strides());
            let head = self.dim as isize * strides[2];
            let layout = Layout::new(
                &[shape[0], heads, shape[1], self.dim],
                &[strides[0], head, strides[1], strides[2]],
                (packed.layout.offset() as isize + first as isize * head) as usize,
            );
            packed.with(layout)
        };
        let Packing { heads, kv_heads, .. } = *self;
        [part(0, heads), part(heads, kv_heads), part(heads + kv_heads, kv_heads)]
    }

    /// The `[batch, heads, sequence, dim]` view of a `[batch, sequence, heads * dim]` tensor.
    fn joined(&self, out: &View) -> View {
        Packing { kv_heads: 0, ..*self }.views(out)[0].clone()
    }
}

struct Packed {
    packed: Saved,
    packing: Packing,
    terms: Terms,
}

impl Operation for Packed {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn backward(&self, upstream: &Tensor, _wanted: &[bool]) -> Result<Backward> {
        let packed = self.packed.get(self.name())?;
        let (gradient, d_packed) = Tensor::output(packed.device(), DType::F32, packed.shape())?;
        let out = self.packing.joined(&self.terms.out.get(self.name())?.view()?);
        let forward = self.terms.verb(self.packing.views(&packed.view()?), out)?;
        let d_out = self.packing.joined(&upstream.view()?);
        submit_backward(packed.device(), forward, d_out, self.packing.views(&d_packed))?;
        Ok(Backward::Gradients(vec![Some(gradient)]))
    }
}

impl Tensor {
    /// `softmax(scale * q k^T + mask) v` for a query `[batch, heads, queries, head_dim]` and keys
    /// and values `[batch, kv_heads, keys, head_dim]`; `kv_heads` divides `heads`. Memory is
    /// linear in the sequence lengths.
    ///
    /// # Errors
    /// [`Error::Backend`] when the shapes do not fit or an operand is not f32.
    pub fn attention(
        &self,
        key: &Tensor,
        value: &Tensor,
        options: &AttentionOptions,
    ) -> Result<Tensor> {
        let &[batch, heads, queries, dim] = self.shape() else {
            return Err(Error::shape("attention", "the query needs four axes"));
        };
        if key.rank() != 4 {
            return Err(Error::shape("attention", "the key needs four axes"));
        }
        refuse_trained_mask(&options.mask)?;
        let (out, out_view) = Tensor::output(self.device(), DType::F32, self.shape())?;
        let (lse, _) = Tensor::output(self.device(), DType::F32, &[batch, heads, queries])?;
        let terms = Terms {
            mask: options.mask.as_ref().map(Saved::new),
            causal: options.causal,
            scale: options.scale.unwrap_or(1.0 / (dim as f32).sqrt()),
            lse: Saved::new(&lse),
            out: Saved::new(&out),
        };
        let views = [self.view()?, key.view()?, value.view()?];
        self.device().run(terms.verb(views, out_view)?)?;
        Ok(record(out.node().clone(), &[self, key, value], || Separate {
            q: Saved::new(self),
            k: Saved::new(key),
            v: Saved::new(value),
            terms,
        }))
    }

    /// Attention of a sequence to itself, from one tensor that holds queries, keys and values side
    /// by side: `[batch, sequence, (heads + 2 * kv_heads) * head_dim]` gives
    /// `[batch, sequence, heads * head_dim]`. Nothing is moved: the heads are strided views, and
    /// the gradients are written into one tensor.
    ///
    /// # Errors
    /// As [`Tensor::attention`].
    pub fn attention_packed(
        &self,
        heads: usize,
        kv_heads: usize,
        options: &AttentionOptions,
    ) -> Result<Tensor> {
        let parts = heads + 2 * kv_heads;
        let &[batch, sequence, width] = self.shape() else {
            return Err(Error::shape("attention", "a packed operand needs three axes"));
        };
        if parts == 0 || width % parts != 0 {
            let message = format!("{width} columns are no {parts} heads of one size");
            return Err(Error::shape("attention", message));
        }
        refuse_trained_mask(&options.mask)?;
        let packing = Packing { heads, kv_heads, dim: width / parts };
        let device = self.device();
        let shape = [batch, sequence, heads * packing.dim];
        let (out, out_view) = Tensor::output(device, DType::F32, &shape)?;
        let (lse, _) = Tensor::output(device, DType::F32, &[batch, heads, sequence])?;
        let terms = Terms {
            mask: options.mask.as_ref().map(Saved::new),
            causal: options.causal,
            scale: options.scale.unwrap_or(1.0 / (packing.dim as f32).sqrt()),
            lse: Saved::new(&lse),
            out: Saved::new(&out),
        };
        let verb = terms.verb(packing.views(&self.view()?), packing.joined(&out_view))?;
        device.run(verb)?;
        Ok(record(out.node().clone(), &[self], || Packed {
            packed: Saved::new(self),
            packing,
            terms,
        }))
    }
}
