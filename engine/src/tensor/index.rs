//! Picking and scattering by index.

use super::Tensor;
use super::autograd::{Backward, Operation, Saved, output, record};
use crate::error::{Error, Result};
use starling_contract::{DType, Fill, Gather, ScatterAdd, View};

/// Adds `x` into zeros, an f32 tensor that nothing was written to, at `index` along `axis`.
fn scatter(x: &Tensor, index: View, axis: usize, zeros: (Tensor, View)) -> Result<Tensor> {
    let (device, x) = (x.device(), x.to_dtype(DType::F32)?);
    let (out, view) = zeros;
    device.run(Fill { dst: view.clone(), value: 0.0 })?;
    device.run(ScatterAdd { x: x.view()?, index, axis, out: view, workspace: None })?;
    Ok(out)
}

struct Pick {
    index: Saved,
    /// The index's layout as the verb saw it.
    repeated: starling_contract::Layout,
    axis: usize,
    shape: Vec<usize>,
    /// The shape of what the verb wrote, before its axes were split.
    picked: Vec<usize>,
}

impl Operation for Pick {
    fn name(&self) -> &'static str {
        "gather"
    }

    fn backward(&self, upstream: &Tensor, _wanted: &[bool]) -> Result<Backward> {
        let index = self.index.get(self.name())?.view()?.with(self.repeated);
        let upstream = upstream.reshape(&self.picked)?;
        let zeros = output(0, upstream.device(), DType::F32, &self.shape)?;
        let gradient = scatter(&upstream, index, self.axis, zeros)?;
        Ok(Backward::Gradients(vec![Some(gradient)]))
    }
}

struct Scatter {
    index: Saved,
    axis: usize,
}

impl Operation for Scatter {
    fn name(&self) -> &'static str {
        "scatter_add"
    }

    fn backward(&self, upstream: &Tensor, wanted: &[bool]) -> Result<Backward> {
        let index = self.index.get(self.name())?;
        let d_x = wanted[1].then(|| upstream.gather(self.axis, &index)).transpose()?;
        Ok(Backward::Gradients(vec![Some(upstream.clone()), d_x]))
    }
}

impl Tensor {
    fn pick(&self, index: &Tensor, view: View, axis: usize, shape: &[usize]) -> Result<Tensor> {
        let (out, out_view) = Tensor::output(self.device(), self.dtype(), view.shape())?;
        let (repeated, picked) = (view.layout, view.shape().to_vec());
        self.device().run(Gather { x: self.view()?, index: view, axis, out: out_view })?;
        let out = out.reshape(shape)?;
        Ok(record(out.node().clone(), &[self], || Pick {
            index: Saved::new(index),
            repeated,
            axis,
            shape: self.shape().to_vec(),
            picked,
        }))
    }

    /// `out[.., i, ..] = self[.., index[.., i, ..], ..]` along `axis`, as PyTorch's gather; `index`
    /// (i32 or u32) has the result's shape and may be shorter than `self` along the other axes.
    ///
    /// # Errors
    /// [`Error::Backend`] when the shapes do not fit or an index is outside.
    pub fn gather(&self, axis: usize, index: &Tensor) -> Result<Tensor> {
        let mut part = self.clone();
        if index.shape().len() == self.shape().len() {
            for (other, (&n, &all)) in index.shape().iter().zip(self.shape()).enumerate() {
                if other != axis && n < all {
                    part = part.narrow(other, 0, n)?;
                }
            }
        }
        part.pick(index, index.view()?, axis, index.shape())
    }

    /// Adds `source` in place at `index`, `[n]`, along `axis`: elsewhere it has this tensor's
    /// extents, there `n`.
    pub(crate) fn add_at(&self, axis: usize, index: &Tensor, source: &Tensor) -> Result<()> {
        self.check_writable("add_at")?;
        source.check_source("add_at")?;
        let view = index.view()?;
        let mut column = vec![1; self.rank()];
        column[axis] = index.len();
        let layout = view.layout.reshape(&column);
        let layout = layout.and_then(|l| l.broadcast_to(source.shape())).ok_or_else(|| {
            Error::shape("add_at", format!("indices {:?} of {:?}", index.shape(), source.shape()))
        })?;
        let (x, stored) = (source.view()?, self.node().stored()?);
        stored.before_write(self.device())?;
        let out = stored.view(self.dtype());
        let index = view.with(layout);
        self.device().run(ScatterAdd { x, index, axis, out, workspace: None })
    }

    /// The rows (along the first axis) that `index` names: `[n, ..]` and indices `[i..]` give
    /// `[i.., ..]`. The lookup of an embedding; its gradient adds equal rows in their order.
    ///
    /// # Errors
    /// As [`Tensor::gather`].
    pub fn embedding(&self, index: &Tensor) -> Result<Tensor> {
        let Some((_, row)) = self.shape().split_first() else {
            return Err(Error::shape("embedding", "a scalar has no rows"));
        };
        let result = [index.shape(), row].concat();
        let index = index.detach().flatten()?;
        let view = index.view()?;
        let shape = [&[index.len()], row].concat();
        let column = [&[index.len()][..], &vec![1; row.len()]].concat();
        let layout = view.layout.reshape(&column).and_then(|l| l.broadcast_to(&shape));
        let Some(layout) = layout else {
            return Err(Error::shape("embedding", format!("indices {:?}", index.shape())));
        };
        self.pick(&index, view.with(layout), 0, &result)
    }

    /// A copy of this tensor with `source` added at `index` along `axis`; equal places are added
    /// in their order, on every backend.
    ///
    /// # Errors
    /// As [`Tensor::gather`], and where `index` is shorter than this tensor along another axis.
    pub fn scatter_add(&self, axis: usize, index: &Tensor, source: &Tensor) -> Result<Tensor> {
        let zeros = Tensor::output(self.device(), DType::F32, self.shape())?;
        let sum = scatter(source, index.view()?, axis, zeros)?;
        let out = self.detach().add(&sum)?;
        Ok(record(out.node().clone(), &[self, source], || Scatter {
            index: Saved::new(index),
            axis,
        }))
    }
}
