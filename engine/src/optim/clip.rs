//! Clipping gradients by their common norm.

use crate::error::{Error, Result};
use crate::tensor::{Tensor, by_place, runs};
use starling_contract::DType;

/// The norm of all gradients together and the factor that it leads to, both on the device.
pub struct Clip {
    /// The square root of the sum of all squares.
    pub norm: Tensor,
    /// `min(1, max_norm / (norm + 1e-6))`, as PyTorch defines it; 1 without a limit. 0 or no number
    /// when the norm is not finite, which makes [`crate::optim::Optimizer::step`] skip the step.
    pub factor: Tensor,
}

/// Above every norm that is a sensible number, and finite when it is divided by 1e-6.
const NO_LIMIT: f64 = 1e30;

/// The norm over the gradients of `parameters`, and the factor that brings it to at most
/// `max_norm`. Nothing is read back: the factor goes into the optimizer's update. Gradients that
/// lie side by side are summed as one, so that the last bits depend on where they lie.
///
/// # Errors
/// [`Error::Invalid`] when no parameter has a gradient or `max_norm` is no number above 0; what the
/// device reports.
pub fn clip_grad_norm<'a>(
    parameters: impl Iterator<Item = &'a Tensor>,
    max_norm: Option<f64>,
) -> Result<Clip> {
    if let Some(norm) = max_norm.filter(|norm| !norm.is_finite() || *norm <= 0.0) {
        return Err(Error::invalid(format!("the clipping norm is {norm} and must be above 0")));
    }
    let gradients = runs(&by_place(parameters)).into_iter();
    // In f32: the square of a small or large f16 is none.
    let squares = gradients.map(|run| run.gradient.to_dtype(DType::F32)?.sqr()?.sum_all());
    let squares = squares.collect::<Result<Vec<Tensor>>>()?;
    let sum = sum_pairwise(squares)?;
    let norm = sum.sqrt()?;
    let one = Tensor::ones(norm.device(), DType::F32, &[])?;
    let max = Tensor::full(norm.device(), DType::F32, &[], max_norm.unwrap_or(NO_LIMIT))?;
    let factor = one.minimum(&max.div(&norm.add_scalar(1e-6)?)?)?;
    Ok(Clip { norm, factor })
}

/// One number out of many, in an order that depends on how many there are.
fn sum_pairwise(mut numbers: Vec<Tensor>) -> Result<Tensor> {
    while numbers.len() > 1 {
        let pairs = numbers.chunks(2).map(|pair| match pair {
            [a, b] => a.add(b),
            rest => Ok(rest[0].clone()),
        });
        numbers = pairs.collect::<Result<_>>()?;
    }
    numbers.pop().ok_or_else(|| Error::invalid("no parameter has a gradient: call backward first"))
}
