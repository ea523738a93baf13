//! Holding a result to the reference before it is timed.

use starling_engine::{Device, Error, Result, Tensor};
use starling_reference::ReferenceBackend;
use std::sync::Arc;

/// The largest error allowed, relative to the largest number of the truth.
const ALLOWED: f32 = 2e-4;

/// The slow device whose results are the truth.
pub fn reference() -> Result<Device> {
    Device::from_backend(Arc::new(ReferenceBackend::new()))
}

/// A tensor's value on the reference.
pub fn moved(to: &Device, x: &Tensor) -> Result<Tensor> {
    Tensor::from_slice(to, &x.detach().to_vec::<f32>()?, x.shape())
}

/// Refuses a result that is not the truth: then there is nothing to time.
pub fn same(op: &str, got: &Tensor, truth: &Tensor) -> Result<()> {
    let (got, truth) = (got.detach().to_vec::<f32>()?, truth.detach().to_vec::<f32>()?);
    let scale = truth.iter().fold(1e-30f32, |m, x| m.max(x.abs()));
    let mut pairs = got.iter().zip(&truth).enumerate();
    let wrong =
        pairs.find(|(_, (g, t))| (*g - *t).abs() > ALLOWED * scale || g.is_nan() != t.is_nan());
    match wrong {
        Some((i, (got, truth))) => Err(Error::Invalid(format!(
            "{op} gives {got} where {truth} is right (element {i} of those checked): nothing was \
             timed; `starling verify` says more"
        ))),
        None => Ok(()),
    }
}
