//! Matrix products.

use super::Tensor;
use super::autograd::{Backward, Operation, Saved, record};
use super::elementwise::{broadcast, sum_to};
use crate::error::{Error, Result};
use crate::plan::{self, Lazy, Node};
use starling_contract::{DType, Epilogue, Gemm, Immediates, Program, ReduceKind, View};
use starling_ops::Definition;
use starling_ops::program::{Builder, Op};
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
    let batch = broadcast("matmul", &[&a.shape()[..ra - 2], &b.shape()[..rb - 2]])?;
    let operand = |t: &Tensor, rows: usize, cols: usize| -> Result<View> {
        let view = t.view()?;
        let shape = [&batch[..], &[rows, cols]].concat();
        Ok(view.with(view.layout.broadcast_to(&shape).ok_or_else(mismatch)?))
    };
    let shape = [&batch[..], &[m, n]].concat();
    let (out, c) = Tensor::output(a.device(), DType::F32, &shape)?;
    let (a, b) = (operand(a, m, k)?, operand(b, k, n)?);
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
        let (a, b) = (self.a.get(self.name())?, self.b.get(self.name())?);
        let d_a = || sum_to(&gemm(upstream, &b.transpose(-1, -2)?)?, a.shape());
        let d_b = || sum_to(&gemm(&a.transpose(-1, -2)?, upstream)?, b.shape());
        let d_a = wanted[0].then(d_a).transpose()?;
        let d_b = wanted[1].then(d_b).transpose()?;
        Ok(Backward::Gradients(vec![d_a, d_b]))
    }
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
        let lazy = Lazy::Derivative { def, scalars: def.default_scalars(), by: 0 };
        let args = vec![saved.get(self.name())?.node().clone()];
        let slope = Node::lazy(upstream.device(), upstream.dtype(), upstream.shape(), lazy, args)?;
        upstream.mul(&Tensor::from_node(slope))
    }
}

impl Operation for Linear {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn backward(&self, upstream: &Tensor, wanted: &[bool]) -> Result<Backward> {
        let (x, w) = (self.x.get(self.name())?, self.weight.get(self.name())?);
        let (inputs, outputs) = (w.shape()[0], w.shape()[1]);
        let g = self.before_activation(upstream)?;
        let g = g.reshape(&[g.len() / outputs.max(1), outputs])?;
        let rows = x.reshape(&[g.shape()[0], inputs])?;
        let d_x =
            wanted[0].then(|| gemm(&g, &w.transpose(0, 1)?)?.reshape(x.shape())).transpose()?;
        // The product is written in the weight's own layout, so that nothing is transposed later.
        let d_w = wanted[1]
            .then(|| match self.layout {
                WeightLayout::InOut => gemm(&rows.transpose(0, 1)?, &g),
                WeightLayout::OutIn => gemm(&g.transpose(0, 1)?, &rows),
            })
            .transpose()?;
        let mut gradients = vec![d_x, d_w];
        if self.bias {
            let sum = || {
                let sum = plan::reduce(g.node(), ReduceKind::Sum, 1)?;
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
                let out = gemm(self, other)?;
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
        if weight.rank() != 2 || activation.is_some_and(|d| d.tensors.len() != 1) {
            return Err(Error::shape("linear", "a weight has two axes, an activation one operand"));
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
