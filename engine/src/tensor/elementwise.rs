//! Elementwise methods, one for each definition in `starling_ops::defs`.

use super::Tensor;
use super::autograd::{Backward, Operation, Saved, record};
use super::tape;
use crate::error::{Error, Result};
use crate::plan::{self, Lazy, Node};
use smallvec::SmallVec;
use starling_contract::{DType, MAX_RANK, ReduceKind};
use starling_ops::defs::{self, Def};
use starling_ops::{Definition, Gradient};
use std::sync::Arc;

/// Extents, in place while they are as many as a tensor's.
pub(super) type Shape = SmallVec<[usize; MAX_RANK]>;

/// The shape that all of `shapes` broadcast to, as NumPy defines it.
pub(super) fn broadcast(op: &'static str, shapes: &[&[usize]]) -> Result<Shape> {
    let rank = shapes.iter().map(|s| s.len()).max().unwrap_or(0);
    let mut out = Shape::from_elem(1, rank);
    for shape in shapes {
        for (o, &n) in out.iter_mut().rev().zip(shape.iter().rev()) {
            if *o != n && n != 1 {
                if *o != 1 {
                    return Err(Error::shape(op, format!("{shapes:?} do not broadcast")));
                }
                *o = n;
            }
        }
    }
    Ok(out)
}

/// Sums what broadcasting repeated: a gradient of the result's shape to one of an operand's.
pub(super) fn sum_to(gradient: &Tensor, shape: &[usize]) -> Result<Tensor> {
    if gradient.shape() == shape {
        return Ok(gradient.clone());
    }
    let lead = gradient.rank() - shape.len();
    let axes = (0..gradient.rank())
        .filter(|&i| i < lead || (shape[i - lead] == 1 && gradient.shape()[i] != 1))
        .fold(0u32, |bits, i| bits | 1 << i);
    let sum = Tensor::from_node(plan::reduce(gradient.node(), ReduceKind::Sum, axes)?);
    sum.reshape(shape)
}

/// `upstream` times the derivative of a definition, which is not rounded in between.
pub(super) fn times_slope(
    upstream: &Tensor,
    (def, by): (&'static Definition, usize),
    scalars: &[f64],
    args: Vec<Arc<Node>>,
) -> Result<Tensor> {
    let (device, shape) = (upstream.device(), upstream.shape());
    let lazy = Lazy::Derivative { def, scalars: scalars.to_vec(), by };
    let slope = Node::lazy(device, DType::F32, shape, lazy, args)?;
    let product = Lazy::Apply { def: defs::Mul::DEFINITION, scalars: Vec::new(), output: 0 };
    let args = vec![upstream.node().clone(), slope];
    Ok(Tensor::from_node(Node::lazy(device, upstream.dtype(), shape, product, args)?))
}

struct Elementwise {
    def: &'static Definition,
    scalars: Vec<f64>,
    inputs: Vec<Saved>,
}

impl Elementwise {
    /// `upstream * d result / d input[by]`, summed to the input's shape.
    fn gradient(&self, upstream: &Tensor, inputs: &[Tensor], by: usize) -> Result<Tensor> {
        let gradient = if plan::slope_is_one(self.def, by) {
            upstream.clone()
        } else {
            let args = inputs.iter().map(|t| t.node().clone()).collect();
            times_slope(upstream, (self.def, by), &self.scalars, args)?
        };
        sum_to(&gradient, inputs[by].shape())
    }
}

impl Operation for Elementwise {
    fn name(&self) -> &'static str {
        self.def.name
    }

    fn backward(&self, upstream: &Tensor, wanted: &[bool]) -> Result<Backward> {
        if let Gradient::NotDifferentiable(reason) = self.def.gradient {
            return Ok(Backward::NotDifferentiable(reason));
        }
        let inputs: Vec<Tensor> =
            self.inputs.iter().map(|s| s.get(self.def.name)).collect::<Result<_>>()?;
        let gradients = wanted
            .iter()
            .enumerate()
            .map(|(by, &w)| w.then(|| self.gradient(upstream, &inputs, by)).transpose())
            .collect::<Result<_>>()?;
        Ok(Backward::Gradients(gradients))
    }
}

/// The result's type: that of the floating-point operands, which must agree.
fn result_dtype(def: &'static Definition, inputs: &[&Tensor]) -> Result<DType> {
    let mut found = None;
    let comparison = def.gradient == Gradient::Truth;
    for (t, (name, domain)) in inputs.iter().zip(def.tensors) {
        let mask = *domain == defs::Domain::Truth || comparison;
        let uniform = *domain == defs::Domain::Unit && t.dtype() == DType::F32;
        if uniform || (mask && t.dtype() == DType::U8) {
            continue;
        }
        if !t.dtype().is_float() {
            let message = format!("{name} is {}: cast it with to_dtype(DType::F32)", t.dtype());
            return Err(Error::shape(def.name, message));
        }
        if *found.get_or_insert(t.dtype()) != t.dtype() {
            let message = format!("{name} is {}, another operand is not: cast one", t.dtype());
            return Err(Error::shape(def.name, message));
        }
    }
    Ok(if comparison { DType::U8 } else { found.unwrap_or(DType::F32) })
}

impl Tensor {
    /// Applies a definition of one result; operands broadcast as in NumPy.
    ///
    /// # Errors
    /// [`Error::Backend`] when shapes do not broadcast, dtypes differ or the definition has no
    /// operand or several results, which [`crate::update`] is for.
    pub fn apply(def: &'static Definition, inputs: &[&Tensor], scalars: &[f64]) -> Result<Tensor> {
        if inputs.len() != def.tensors.len() || scalars.len() != def.scalars.len() {
            return Err(Error::shape(def.name, "the number of operands differs"));
        }
        if def.outputs != 1 {
            let message = format!("it has {} results: write them with update()", def.outputs);
            return Err(Error::shape(def.name, message));
        }
        let Some(first) = inputs.first() else {
            return Err(Error::shape(
                def.name,
                "without an operand nothing says the result's shape",
            ));
        };
        let device = first.device();
        if let Some(other) = inputs.iter().find(|t| !t.device().same(device)) {
            let message = format!("operands on {} and {}", device.name(), other.device().name());
            return Err(Error::shape(def.name, message));
        }
        let shapes: SmallVec<[&[usize]; 4]> = inputs.iter().map(|t| t.shape()).collect();
        let shape = broadcast(def.name, &shapes)?;
        let dtype = result_dtype(def, inputs)?;
        let lazy = Lazy::Apply { def, scalars: scalars.to_vec(), output: 0 };
        let args: Vec<Arc<Node>> = inputs.iter().map(|t| t.node().clone()).collect();
        let node = Node::lazy(device, dtype, &shape, lazy, args)?;
        if def.gradient == Gradient::Step {
            return Ok(Tensor::from_node(node));
        }
        Ok(record(node, inputs, || Elementwise {
            def,
            scalars: scalars.to_vec(),
            inputs: inputs.iter().map(|t| Saved::new(t)).collect(),
        }))
    }

    /// A number as a tensor that broadcasts against this one.
    fn literal(&self, value: f64) -> Result<Tensor> {
        let dtype = if self.dtype().is_float() { self.dtype() } else { DType::F32 };
        Tensor::full(self.device(), dtype, &[], value)
    }

    /// `self + value`
    ///
    /// # Errors
    /// As [`Tensor::apply`].
    pub fn add_scalar(&self, value: f64) -> Result<Tensor> {
        self.add(&self.literal(value)?)
    }

    /// `self - value`
    ///
    /// # Errors
    /// As [`Tensor::apply`].
    pub fn sub_scalar(&self, value: f64) -> Result<Tensor> {
        self.sub(&self.literal(value)?)
    }

    /// `self * value`
    ///
    /// # Errors
    /// As [`Tensor::apply`].
    pub fn mul_scalar(&self, value: f64) -> Result<Tensor> {
        self.mul(&self.literal(value)?)
    }

    /// `self / value`
    ///
    /// # Errors
    /// As [`Tensor::apply`].
    pub fn div_scalar(&self, value: f64) -> Result<Tensor> {
        self.div(&self.literal(value)?)
    }

    /// `self^value`
    ///
    /// # Errors
    /// As [`Tensor::apply`].
    pub fn pow_scalar(&self, value: f64) -> Result<Tensor> {
        self.pow(&self.literal(value)?)
    }

    /// `self` where `mask` is 0, else `value`.
    ///
    /// # Errors
    /// As [`Tensor::apply`].
    pub fn masked_fill(&self, mask: &Tensor, value: f64) -> Result<Tensor> {
        mask.select(&self.literal(value)?, self)
    }

    /// Zeroes each element with probability `p` and scales the others by `1 / (1 - p)`. The
    /// numbers come from the device's seed ([`crate::Device::seed`]) and are the same on every
    /// backend.
    ///
    /// # Errors
    /// [`Error::Invalid`] when `p` is not in [0, 1), or is 1 in f32.
    pub fn dropout(&self, p: f64) -> Result<Tensor> {
        if !(0.0..1.0).contains(&p) || p as f32 >= 1.0 {
            return Err(Error::invalid(format!("dropout probability {p} is not in 0..1")));
        }
        if p == 0.0 {
            return Ok(self.clone());
        }
        let (random, instance) = tape::draw(self)?;
        let lazy = Lazy::Uniform { random, instance };
        // Not of this tensor's type: rounding would change how often a number is below p.
        let u = Node::lazy(self.device(), DType::F32, self.shape(), lazy, Vec::new())?;
        Self::apply(defs::Dropout::DEFINITION, &[self, &Tensor::from_node(u)], &[p])
    }
}

macro_rules! methods {
    ($({
        [$($doc:literal)*] $name:ident $ty:ident ($first:ident $(, $x:ident)*) ($($s:ident),*)
    })*) => {
        impl Tensor {
            $(
                $(#[doc = $doc])*
                ///
                /// # Errors
                /// [`Error::Backend`] when shapes do not broadcast or dtypes differ.
                pub fn $name(&self $(, $x: &Tensor)* $(, $s: f64)*) -> Result<Tensor> {
                    Tensor::apply(defs::$ty::DEFINITION, &[self $(, $x)*], &[$($s),*])
                }
            )*
        }
    };
}

starling_ops::for_each_method!(methods);
