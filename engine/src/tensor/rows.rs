//! Softmax, normalisation and cross-entropy.

use super::Tensor;
use super::autograd::{Backward, Operation, Saved, output, record};
use crate::error::{Error, Result};
use starling_contract::{
    CrossEntropy, CrossEntropyBackward, DType, Norm, NormBackward, NormKind, Softmax,
    SoftmaxBackward,
};

struct SoftmaxOperation {
    y: Saved,
    log: bool,
}

impl Operation for SoftmaxOperation {
    fn name(&self) -> &'static str {
        "softmax"
    }

    fn backward(&self, upstream: &Tensor, _wanted: &[bool]) -> Result<Backward> {
        let y = self.y.get(self.name())?;
        let (out, d_x) = Tensor::output(y.device(), DType::F32, y.shape())?;
        let (y, d_y) = (y.view()?, upstream.view()?);
        upstream.device().run(SoftmaxBackward { y, d_y, d_x, log: self.log })?;
        Ok(Backward::Gradients(vec![Some(out)]))
    }
}

struct NormOperation {
    kind: NormKind,
    x: Saved,
    weight: Option<Saved>,
    bias: bool,
    mean: Option<Saved>,
    rstd: Saved,
}

impl Operation for NormOperation {
    fn name(&self) -> &'static str {
        match self.kind {
            NormKind::Layer => "layer_norm",
            NormKind::Rms => "rms_norm",
        }
    }

    fn backward(&self, upstream: &Tensor, wanted: &[bool]) -> Result<Backward> {
        let op = self.name();
        let x = self.x.get(op)?;
        let device = x.device();
        let n = x.shape()[x.rank() - 1];
        let view = |s: &Saved| s.get(op)?.view();
        let (d_x, d_x_view) = Tensor::output(device, DType::F32, x.shape())?;
        let vector =
            |on: bool, at: usize| on.then(|| output(at, device, DType::F32, &[n])).transpose();
        let has_weight = self.weight.is_some();
        let at_bias = 1 + usize::from(has_weight);
        let d_weight = vector(has_weight && wanted[1], 1)?;
        let d_bias = vector(self.bias && wanted[at_bias], at_bias)?;
        device.run(NormBackward {
            kind: self.kind,
            x: x.view()?,
            weight: self.weight.as_ref().map(view).transpose()?,
            mean: self.mean.as_ref().map(view).transpose()?,
            rstd: view(&self.rstd)?,
            d_y: upstream.view()?,
            d_x: d_x_view,
            d_weight: d_weight.as_ref().map(|d| d.1.clone()),
            d_bias: d_bias.as_ref().map(|d| d.1.clone()),
            workspace: None,
        })?;
        let mut gradients = vec![Some(d_x)];
        if has_weight {
            gradients.push(d_weight.map(|d| d.0));
        }
        if self.bias {
            gradients.push(d_bias.map(|d| d.0));
        }
        Ok(Backward::Gradients(gradients))
    }
}

struct CrossEntropyOperation {
    logits: Saved,
    targets: Saved,
    lse: Saved,
    ignore_index: Option<i64>,
}

impl Operation for CrossEntropyOperation {
    fn name(&self) -> &'static str {
        "cross_entropy"
    }

    fn backward(&self, upstream: &Tensor, _wanted: &[bool]) -> Result<Backward> {
        let op = self.name();
        let logits = self.logits.get(op)?;
        let (out, d_logits) = Tensor::output(logits.device(), DType::F32, logits.shape())?;
        logits.device().run(CrossEntropyBackward {
            logits: logits.view()?,
            targets: self.targets.get(op)?.view()?,
            ignore_index: self.ignore_index,
            lse: self.lse.get(op)?.view()?,
            d_losses: upstream.view()?,
            d_logits,
        })?;
        Ok(Backward::Gradients(vec![Some(out)]))
    }
}

impl Tensor {
    fn softmax_of(&self, axis: isize, log: bool) -> Result<Tensor> {
        let axis = self.axis("softmax", axis)? as isize;
        let last = self.rank() as isize - 1;
        if axis != last {
            return self.transpose(axis, last)?.softmax_of(last, log)?.transpose(axis, last);
        }
        let (out, y) = Tensor::output(self.device(), DType::F32, self.shape())?;
        self.device().run(Softmax { x: self.view()?, y, log })?;
        Ok(record(out.node().clone(), &[self], || SoftmaxOperation { y: Saved::new(&out), log }))
    }

    /// `exp(x - max) / sum(exp(x - max))` along `axis`.
    ///
    /// # Errors
    /// [`Error::Backend`] when there is no such axis or it is not f32.
    pub fn softmax(&self, axis: isize) -> Result<Tensor> {
        self.softmax_of(axis, false)
    }

    /// The logarithm of [`Tensor::softmax`], without its underflow.
    ///
    /// # Errors
    /// As [`Tensor::softmax`].
    pub fn log_softmax(&self, axis: isize) -> Result<Tensor> {
        self.softmax_of(axis, true)
    }

    fn norm(
        &self,
        kind: NormKind,
        weight: Option<&Tensor>,
        bias: Option<&Tensor>,
        eps: f64,
    ) -> Result<Tensor> {
        let Some((_, rows)) = self.shape().split_last() else {
            return Err(Error::shape("norm", "a scalar has no last axis"));
        };
        let (device, rows) = (self.device(), rows.to_vec());
        let (out, y) = Tensor::output(device, DType::F32, self.shape())?;
        let (rstd, rstd_view) = Tensor::output(device, DType::F32, &rows)?;
        let (mean, mean_view) = (kind == NormKind::Layer)
            .then(|| Tensor::output(device, DType::F32, &rows))
            .transpose()?
            .unzip();
        device.run(Norm {
            kind,
            x: self.view()?,
            weight: weight.map(Tensor::view).transpose()?,
            bias: bias.map(Tensor::view).transpose()?,
            eps: eps as f32,
            y,
            mean: mean_view,
            rstd: rstd_view,
        })?;
        let operands: Vec<&Tensor> = [self].into_iter().chain(weight).chain(bias).collect();
        Ok(record(out.node().clone(), &operands, || NormOperation {
            kind,
            x: Saved::new(self),
            weight: weight.map(Saved::new),
            bias: bias.is_some(),
            mean: mean.as_ref().map(Saved::new),
            rstd: Saved::new(&rstd),
        }))
    }

    /// `(x - mean) / sqrt(var + eps) * weight + bias` over the last axis.
    ///
    /// # Errors
    /// [`Error::Backend`] when the shapes do not fit or an operand is not f32.
    pub fn layer_norm(
        &self,
        weight: Option<&Tensor>,
        bias: Option<&Tensor>,
        eps: f64,
    ) -> Result<Tensor> {
        self.norm(NormKind::Layer, weight, bias, eps)
    }

    /// `x / sqrt(mean(x^2) + eps) * weight` over the last axis.
    ///
    /// # Errors
    /// As [`Tensor::layer_norm`].
    pub fn rms_norm(&self, weight: Option<&Tensor>, eps: f64) -> Result<Tensor> {
        self.norm(NormKind::Rms, weight, None, eps)
    }

    /// Each row's cross-entropy `-log softmax(logits)[target]` for logits `[.., classes]` and
    /// targets `[..]` (i32 or u32); 0 where the target is `ignore_index`.
    ///
    /// # Errors
    /// [`Error::Backend`] when the shapes do not fit or a target is no class.
    pub fn cross_entropy_rows(
        &self,
        targets: &Tensor,
        ignore_index: Option<i64>,
    ) -> Result<Tensor> {
        let Some((&classes, rows)) = self.shape().split_last() else {
            return Err(Error::shape("cross_entropy", "logits need a last axis of classes"));
        };
        if targets.shape() != rows {
            let message = format!("targets {:?} for logits {:?}", targets.shape(), self.shape());
            return Err(Error::shape("cross_entropy", message));
        }
        let n = targets.len();
        let flat = self.reshape(&[n, classes])?;
        let targets = targets.detach().reshape(&[n])?;
        let device = self.device();
        let (out, losses) = Tensor::output(device, DType::F32, &[n])?;
        let (lse, lse_view) = Tensor::output(device, DType::F32, &[n])?;
        device.run(CrossEntropy {
            logits: flat.view()?,
            targets: targets.view()?,
            ignore_index,
            losses,
            lse: lse_view,
        })?;
        let out = record(out.node().clone(), &[&flat], || CrossEntropyOperation {
            logits: Saved::new(&flat),
            targets: Saved::new(&targets),
            lse: Saved::new(&lse),
            ignore_index,
        });
        out.reshape(&self.shape()[..self.rank() - 1])
    }

    /// The mean of [`Tensor::cross_entropy_rows`] over the rows that are not ignored; NaN when all
    /// are, as in PyTorch.
    ///
    /// # Errors
    /// As [`Tensor::cross_entropy_rows`]; [`Error::Backend`] for an ignored class above 2^24, since
    /// rows are counted in f32, which does not tell it from the next one.
    pub fn cross_entropy(&self, targets: &Tensor, ignore_index: Option<i64>) -> Result<Tensor> {
        let classes = self.shape().last().copied().unwrap_or(0);
        if let Some(ignored) = ignore_index.filter(|&i| i > 1 << 24 && i as f32 <= classes as f32) {
            let message = format!("{ignored} is above 2^24: ignore an index that is no class");
            return Err(Error::shape("cross_entropy", message));
        }
        let losses = self.cross_entropy_rows(targets, ignore_index)?;
        let Some(ignored) = ignore_index else { return losses.mean_all() };
        let counted = targets.to_dtype(DType::F32)?.ne(&Tensor::full(
            self.device(),
            DType::F32,
            &[],
            ignored as f64,
        )?)?;
        let count = counted.to_dtype(DType::F32)?.sum_all()?;
        losses.sum_all()?.div(&count)
    }
}
