//! Reductions.

use super::Tensor;
use super::autograd::{Backward, Operation, Saved, record};
use crate::error::{Error, Result};
use crate::plan;
use starling_contract::ReduceKind;

struct Reduction {
    kind: ReduceKind,
    input: Saved,
    /// With reduced axes of extent 1.
    output: Saved,
    count: usize,
}

impl Operation for Reduction {
    fn name(&self) -> &'static str {
        "reduction"
    }

    fn backward(&self, upstream: &Tensor, _wanted: &[bool]) -> Result<Backward> {
        let x = self.input.get(self.name())?;
        let y = self.output.get(self.name())?;
        let g = upstream.reshape(y.shape())?;
        let gradient = match self.kind {
            ReduceKind::Sum => g.broadcast_to(x.shape())?,
            ReduceKind::Mean => g.mul_scalar(1.0 / self.count as f64)?.broadcast_to(x.shape())?,
            // Ties share the gradient evenly, as PyTorch's amax and amin do.
            ReduceKind::Max | ReduceKind::Min => {
                // Of narrow values the result is f32, and exact.
                let x = x.to_dtype(y.dtype())?;
                let hit = x.eq(&y)?.to_dtype(x.dtype())?;
                let axes = reduced_axes(x.shape(), y.shape());
                let ties = Tensor::from_node(plan::reduce(hit.node(), ReduceKind::Sum, axes)?);
                hit.mul(&g.div(&ties)?)?
            }
            ReduceKind::Var { correction } => {
                let x = x.to_dtype(y.dtype())?;
                let axes = reduced_axes(x.shape(), y.shape());
                let mean = Tensor::from_node(plan::reduce(x.node(), ReduceKind::Mean, axes)?);
                let scale = 2.0 / (self.count as f64 - f64::from(correction));
                x.sub(&mean)?.mul(&g.mul_scalar(scale)?)?
            }
            ReduceKind::ArgMax | ReduceKind::ArgMin => {
                return Ok(Backward::NotDifferentiable("a position has no slope"));
            }
        };
        Ok(Backward::Gradients(vec![Some(gradient)]))
    }
}

fn reduced_axes(from: &[usize], to: &[usize]) -> u32 {
    let differs = from.iter().zip(to).enumerate().filter(|(_, (a, b))| a != b);
    differs.fold(0, |bits, (i, _)| bits | 1 << i)
}

impl Tensor {
    fn reduction(
        &self,
        op: &'static str,
        kind: ReduceKind,
        axes: &[isize],
        keep: bool,
    ) -> Result<Tensor> {
        if !self.dtype().is_float() {
            let message = format!("it is {}: cast it with to_dtype(DType::F32)", self.dtype());
            return Err(Error::shape(op, message));
        }
        let mut bits = 0u32;
        for &axis in axes {
            bits |= 1 << self.axis(op, axis)?;
        }
        let reduced = |i: usize| bits >> i & 1 == 1;
        let extents = self.shape().iter().enumerate();
        let count = extents.clone().filter(|(i, _)| reduced(*i)).map(|(_, &n)| n).product();
        let kept: Vec<usize> = extents
            .filter(|(i, _)| keep || !reduced(*i))
            .map(|(i, &n)| if reduced(i) { 1 } else { n })
            .collect();
        if self.tape().is_some() && matches!(kind, ReduceKind::Max | ReduceKind::Min) {
            // The gradient looks for the elements that equal the result: both must be of one
            // evaluation, and a backend may fuse an expression with higher precision inside.
            self.view()?;
        }
        let node = plan::reduce(self.node(), kind, bits)?;
        let full = Tensor::from_node(node);
        let shaped = full.reshape(&kept)?;
        Ok(record(shaped.node().clone(), &[self], || Reduction {
            kind,
            input: Saved::new(self),
            output: Saved::new(&full),
            count,
        }))
    }

    fn every_axis(&self) -> Vec<isize> {
        (0..self.rank() as isize).collect()
    }

    /// The sum over `axes`, which stay with extent 1 when `keep` is set.
    ///
    /// # Errors
    /// [`Error::Backend`] when there is no such axis.
    pub fn sum(&self, axes: &[isize], keep: bool) -> Result<Tensor> {
        self.reduction("sum", ReduceKind::Sum, axes, keep)
    }

    /// The mean over `axes`.
    ///
    /// # Errors
    /// As [`Tensor::sum`].
    pub fn mean(&self, axes: &[isize], keep: bool) -> Result<Tensor> {
        self.reduction("mean", ReduceKind::Mean, axes, keep)
    }

    /// The largest over `axes`; NaN when one is NaN.
    ///
    /// # Errors
    /// As [`Tensor::sum`].
    pub fn max(&self, axes: &[isize], keep: bool) -> Result<Tensor> {
        self.reduction("max", ReduceKind::Max, axes, keep)
    }

    /// The smallest over `axes`; NaN when one is NaN.
    ///
    /// # Errors
    /// As [`Tensor::sum`].
    pub fn min(&self, axes: &[isize], keep: bool) -> Result<Tensor> {
        self.reduction("min", ReduceKind::Min, axes, keep)
    }

    /// The variance over `axes`: squared distances over `count - correction`.
    ///
    /// # Errors
    /// As [`Tensor::sum`].
    pub fn var(&self, axes: &[isize], correction: u32, keep: bool) -> Result<Tensor> {
        self.reduction("var", ReduceKind::Var { correction }, axes, keep)
    }

    /// The position of the first largest element along `axis`, as i32.
    ///
    /// # Errors
    /// As [`Tensor::sum`]; an axis without elements.
    pub fn argmax(&self, axis: isize, keep: bool) -> Result<Tensor> {
        self.reduction("argmax", ReduceKind::ArgMax, &[axis], keep)
    }

    /// The position of the first smallest element along `axis`, as i32.
    ///
    /// # Errors
    /// As [`Tensor::argmax`].
    pub fn argmin(&self, axis: isize, keep: bool) -> Result<Tensor> {
        self.reduction("argmin", ReduceKind::ArgMin, &[axis], keep)
    }

    /// The sum of all elements, as a scalar.
    ///
    /// # Errors
    /// As [`Tensor::sum`].
    pub fn sum_all(&self) -> Result<Tensor> {
        self.sum(&self.every_axis(), false)
    }

    /// The mean of all elements, as a scalar.
    ///
    /// # Errors
    /// As [`Tensor::sum`].
    pub fn mean_all(&self) -> Result<Tensor> {
        self.mean(&self.every_axis(), false)
    }
}
