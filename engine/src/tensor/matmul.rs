//! Matrix products.

use super::Tensor;
use super::autograd::{Backward, Operation, Saved, output, record, room};
use super::elementwise::{broadcast, times_slope};
use crate::error::{Error, Result};
use crate::plan::{self, check_shape};
use starling_contract::{DType, Epilogue, Gemm, Immediates, Program, ReduceKind, View};
use starling_ops::program::{Builder, Op};
use starling_ops::{Definition, Gradient};
use std::cell::RefCell;
use std::sync::Arc;

/// How a layer's weight lies in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WeightLayout {
    /// `[out, in]`, as PyTorch's Linear.
    OutIn,
    /// `[in, out]`, as GPT-2's Conv1D.
    InOut,
}

/// `a [.., m, k] * b [.., k, n]` with equal ranks; batch axes broadcast.
fn gemm(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    let (ra, rb) = (a.rank(), b.rank());
    let mismatch =
        || Error::shape("matmul", format!("{:?} times {:?} do not fit", a.shape(), b.shape()));
    if ra < 2 || rb < 2 || a.shape()[ra - 1] != b.shape()[rb - 2] {
        return Err(mismatch());
    }
    let (m, k, n) = (a.shape()[ra - 2], a.shape()[ra - 1], b.shape()[rb - 1]);
    if rb == 2 && ra > 2 && k > 0 {
        // One product of all rows, where they lie evenly.
        let view = a.view()?;
        if view.layout.reshape(&[a.len() / k, k]).is_some() {
            let shape = [&a.shape()[..ra - 1], &[n]].concat();
            return gemm(&a.reshape(&[a.len() / k, k])?, b)?.reshape(&shape);
        }
    }
    let batch = broadcast("matmul", &[&a.shape()[..ra - 2], &b.shape()[..rb - 2]])?;
    let operand = |t: &Tensor, rows: usize, cols: usize| -> Result<View> {
        let view = t.view()?;
        let shape = [&batch[..], &[rows, cols]].concat();
        check_shape("matmul", t.dtype(), &shape)?;
        Ok(view.with(view.layout.broadcast_to(&shape).ok_or_else(mismatch)?))
    };
    let shape = [&batch[..], &[m, n]].concat();
    let (out, c) = Tensor::output(a.device(), DType::F32, &shape)?;
    let (a, b) = (operand(a, m, k)?, operand(b, k, n)?);
    out.device().run(Gemm { a, b, c, alpha: 1.0, beta: 0.0, epilogue: None, workspace: None })?;
    Ok(out)
}

/// `a b` for matrices, the gradient of input `input` of the operation whose backward runs.
fn gradient(input: usize, a: &Tensor, b: &Tensor) -> Result<Tensor> {
    let (out, c) = output(input, a.device(), DType::F32, &[a.shape()[0], b.shape()[1]])?;
    let (a, b) = (a.view()?, b.view()?);
    out.device().run(Gemm { a, b, c, alpha: 1.0, beta: 0.0, epilogue: None, workspace: None })?;
    Ok(out)
}

struct Matmul {
    a: Saved,
    b: Saved,
}

impl Operation for Matmul {
    fn name(&self) -> &'static str {
        "matmul"
    }

    fn backward(&self, upstream: &Tensor, wanted: &[bool]) -> Result<Backward> {
        let [a, b] = operands([&self.a, &self.b], upstream, self.name())?;
        let (g_t, b_t) = (upstream.transpose(-1, -2)?, b.transpose(-1, -2)?);
        let d_a = wanted[0].then(|| contract(&g_t, &b_t, a.shape())).transpose()?;
        let d_b = wanted[1].then(|| contract(&a, upstream, b.shape())).transpose()?;
        Ok(Backward::Gradients(vec![d_a, d_b]))
    }
}

/// Saved operands in the type of the gradient that they are multiplied with.
fn operands(saved: [&Saved; 2], upstream: &Tensor, op: &'static str) -> Result<[Tensor; 2]> {
    let of = |saved: &Saved| saved.get(op)?.to_dtype(upstream.dtype());
    Ok([of(saved[0])?, of(saved[1])?])
}

/// `p^T q` for `p [.., r, i]` and `q [.., r, j]`, to `shape = [.., i, j]`. Batch axes that `shape`
/// lacks, because its operand was repeated along them, are summed in the product together with `r`:
/// nothing larger than the result is formed.
fn contract(p: &Tensor, q: &Tensor, shape: &[usize]) -> Result<Tensor> {
    let lead = |t: &Tensor| t.shape()[..t.rank() - 2].to_vec();
    let batch = broadcast("matmul", &[&lead(p), &lead(q)])?;
    let missing = batch.len() - (shape.len() - 2);
    let is_summed = |&i: &usize| i < missing || (shape[i - missing] == 1 && batch[i] != 1);
    let (summed, kept): (Vec<usize>, Vec<usize>) = (0..batch.len()).partition(is_summed);
    if summed.is_empty() {
        return gemm(&p.transpose(-1, -2)?, q);
    }
    let axes = [&kept[..], &summed, &[batch.len(), batch.len() + 1]].concat();
    let rows = summed.iter().map(|&i| batch[i]).product::<usize>() * p.shape()[p.rank() - 2];
    let fold = |t: &Tensor| {
        let [.., r, c] = *t.shape() else { return Ok(t.clone()) };
        let folded: Vec<usize> = kept.iter().map(|&i| batch[i]).chain([rows, c]).collect();
        t.broadcast_to(&[&batch[..], &[r, c]].concat())?.permute(&axes)?.reshape(&folded)
    };
    gemm(&fold(p)?.transpose(-1, -2)?, &fold(q)?)?.reshape(shape)
}

struct Linear {
    x: Saved,
    /// As a `[in, out]` view.
    weight: Saved,
    layout: WeightLayout,
    bias: bool,
    activation: Option<(&'static Definition, Saved)>,
}

impl Linear {
    /// The gradient of what the activation was applied to.
    fn before_activation(&self, upstream: &Tensor) -> Result<Tensor> {
        let Some((def, saved)) = &self.activation else { return Ok(upstream.clone()) };
        let args = vec![saved.get(self.name())?.node().clone()];
        times_slope(upstream, (def, 0), &def.default_scalars(), args)
    }
}

impl Operation for Linear {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn backward(&self, upstream: &Tensor, wanted: &[bool]) -> Result<Backward> {
        if let Some((def, _)) = &self.activation
            && let Gradient::NotDifferentiable(reason) = def.gradient
        {
            return Ok(Backward::NotDifferentiable(reason));
        }
        let [x, w] = operands([&self.x, &self.weight], upstream, self.name())?;
        let (inputs, outputs) = (w.shape()[0], w.shape()[1]);
        let g = self.before_activation(upstream)?;
        let rows = g.shape()[..g.rank() - 1].iter().product();
        let g = g.reshape(&[rows, outputs])?;
        let rows = x.reshape(&[rows, inputs])?;
        let d_x =
            wanted[0].then(|| gemm(&g, &w.transpose(0, 1)?)?.reshape(x.shape())).transpose()?;
        // The product is written in the weight's own layout, so that nothing is transposed later.
        let d_w = wanted[1]
            .then(|| match self.layout {
                WeightLayout::InOut => gradient(1, &rows.transpose(0, 1)?, &g),
                WeightLayout::OutIn => gradient(1, &g.transpose(0, 1)?, &rows),
            })
            .transpose()?;
        let mut gradients = vec![d_x, d_w];
        if self.bias {
            let sum = || {
                let place = |dtype, shape: &[usize]| room(2, g.device(), dtype, shape);
                let sum = plan::reduce_into(g.node(), ReduceKind::Sum, 1, place)?;
                Tensor::from_node(sum).reshape(&[outputs])
            };
            gradients.push(wanted[2].then(sum).transpose()?);
        }
        Ok(Backward::Gradients(gradients))
    }
}

/// The epilogue `c + bias`, then the activation; with one, the value before it is the second
/// result.
fn epilogue_program(bias: bool, activation: Option<&'static Definition>) -> Arc<Program> {
    let builder = RefCell::new(Builder::new());
    let mut value = builder.borrow_mut().put(Op::Input(0), &[]);
    if bias {
        let b = builder.borrow_mut().put(Op::Input(1), &[]);
        value = builder.borrow_mut().put(Op::Add, &[value, b]);
    }
    let outputs = match activation {
        Some(def) => {
            let constant = |&s: &f64| builder.borrow_mut().constant(s);
            let scalars: Vec<_> = def.default_scalars().iter().map(constant).collect();
            vec![def.put(&builder, &[value], &scalars)[0], value]
        }
        None => vec![value],
    };
    Arc::new(builder.into_inner().finish(&outputs))
}

impl Tensor {
    /// The matrix product over the last two axes; the others broadcast. A vector stands for a row
    /// on the left and for a column on the right, as in NumPy.
    ///
    /// # Errors
    /// [`Error::Backend`] when the shapes do not fit or an operand is not f32.
    pub fn matmul(&self, other: &Tensor) -> Result<Tensor> {
        match (self.rank(), other.rank()) {
            (1, 1) => self.unsqueeze(0)?.matmul(&other.unsqueeze(1)?)?.reshape(&[]),
            (1, _) => {
                let out = self.unsqueeze(0)?.matmul(other)?;
                out.squeeze(out.rank() - 2)
            }
            (_, 1) => {
                let out = self.matmul(&other.unsqueeze(1)?)?;
                out.squeeze(out.rank() - 1)
            }
            _ => {
                let out = gemm(&self.detach(), &other.detach())?;
                Ok(record(out.node().clone(), &[self, other], || Matmul {
                    a: Saved::new(self),
                    b: Saved::new(other),
                }))
            }
        }
    }

    /// `activation(x W + bias)` over the last axis in one product: bias and activation run on each
    /// tile while it is in the cache.
    ///
    /// # Errors
    /// [`Error::Backend`] when the shapes do not fit or an operand is not f32.
    pub fn linear(
        &self,
        weight: &Tensor,
        bias: Option<&Tensor>,
        layout: WeightLayout,
        activation: Option<&'static Definition>,
    ) -> Result<Tensor> {
        let is_number_to_number = |d: &Definition| {
            (d.tensors.len(), d.outputs) == (1, 1) && d.gradient != Gradient::Truth
        };
        if weight.rank() != 2 || !activation.is_none_or(is_number_to_number) {
            let message = "a weight has two axes, an activation one operand and one number for it";
            return Err(Error::shape("linear", message));
        }
        let w = match layout {
            WeightLayout::InOut => weight.detach(),
            WeightLayout::OutIn => weight.detach().transpose(0, 1)?,
        };
        let (inputs, outputs) = (w.shape()[0], w.shape()[1]);
        if self.shape().last() != Some(&inputs) || bias.is_some_and(|b| b.shape() != [outputs]) {
            let message = format!("{:?} through a layer of {inputs} to {outputs}", self.shape());
            return Err(Error::shape("linear", message));
        }
        let lead = &self.shape()[..self.rank() - 1];
        let rows: usize = lead.iter().product();
        let x = self.detach().reshape(&[rows, inputs])?;
        let (out, c) = Tensor::output(self.device(), DType::F32, &[rows, outputs])?;
        let mut saved = None;
        let mut epilogue = None;
        if bias.is_some() || activation.is_some() {
            let mut extra = Vec::new();
            if let Some(def) = activation {
                let (before, view) = Tensor::output(self.device(), DType::F32, &[rows, outputs])?;
                extra.push(view);
                saved = Some((def, before));
            }
            let bias = bias.map(|b| b.view()).transpose()?;
            epilogue = Some(Epilogue {
                program: epilogue_program(bias.is_some(), activation),
                params: Vec::new(),
                immediates: Immediates::default(),
                inputs: bias
                    .iter()
                    .filter_map(|b| Some(b.with(b.layout.broadcast_to(&[rows, outputs])?)))
                    .collect(),
                outputs: extra,
            });
        }
        let gemm = Gemm {
            a: x.view()?,
            b: w.view()?,
            c,
            alpha: 1.0,
            beta: 0.0,
            epilogue,
            workspace: None,
        };
        self.device().run(gemm)?;
        let out = out.reshape(&[lead, &[outputs]].concat())?;
        let activation = saved
            .map(|(def, before)| -> Result<_> {
                Ok((def, Saved::new(&before.reshape(out.shape())?)))
            })
            .transpose()?;
        let operands: Vec<&Tensor> = [self, weight].into_iter().chain(bias).collect();
        Ok(record(out.node().clone(), &operands, || Linear {
            x: Saved::new(self),
            weight: Saved::new(&w),
            layout,
            bias: bias.is_some(),
            activation,
        }))
    }
}
