//! An elementwise definition of one's own: written once, it runs on every backend, fused with what
//! stands around it, and is differentiated like the built-in ones.

use starling::ops::defs::Def;
use starling::ops::{Gradient, definition};
use starling::prelude::*;

definition! {
    /// `gain * x * e^(-x^2)`, a wavelet.
    wavelet Wavelet(x: Real) [gain = 1.0] Gradient::Derived,
        |m| m.mul(m.mul(gain, x), m.exp(m.neg(m.mul(x, x))))
}

const GAIN: f64 = 1.5;

/// The largest distance from the value and from the slope that a person would work out.
fn errors(device: &Device) -> starling::Result<[f64; 2]> {
    let points: Vec<f32> = (0..1000).map(|i| i as f32 * 0.006 - 3.0).collect();
    let x = Tensor::from_slice(device, &points, &[10, 100])?.requires_grad();
    let y = Tensor::apply(Wavelet::DEFINITION, &[&x], &[GAIN])?;
    // One kernel: the definition, the product and its sum.
    y.mul_scalar(2.0)?.sum_all()?.backward()?;
    let slope = x.grad().ok_or_else(|| starling::Error::invalid("there is no gradient"))?;
    let value = |x: f64| GAIN * x * (-x * x).exp();
    let derivative = |x: f64| 2.0 * GAIN * (1.0 - 2.0 * x * x) * (-x * x).exp();
    let worst = |found: Vec<f32>, f: &dyn Fn(f64) -> f64| {
        let pairs = found.iter().zip(&points);
        pairs.map(|(&y, &x)| (f64::from(y) - f(x.into())).abs()).fold(0.0, f64::max)
    };
    Ok([worst(y.to_vec()?, &value), worst(slope.to_vec()?, &derivative)])
}

fn main() -> starling::Result<()> {
    for probe in Device::probe().iter().filter(|p| p.status.is_ok()) {
        let [value, slope] = errors(&Device::new(&probe.name)?)?;
        println!("{}: value within {value:.1e}, derivative within {slope:.1e}", probe.name);
        if value.max(slope) > 2e-6 {
            return Err(starling::Error::invalid("the definition is computed wrongly"));
        }
    }
    Ok(())
}

#[test]
fn it_runs_on_every_device() {
    main().unwrap();
}
