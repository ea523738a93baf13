//! An operation of one's own with its own gradient: rounding to a few levels, as weights are for
//! int8 inference. Its slope is 0 almost everywhere, so that nothing could be learned through it;
//! the straight-through estimator (Bengio, Léonard, Courville 2013) takes it as 1 inside the range.

use starling::prelude::*;
use starling::{Backward, Operation, Saved};

struct Quantize {
    x: Saved,
    range: f64,
}

impl Operation for Quantize {
    fn name(&self) -> &'static str {
        "quantize"
    }

    fn backward(&self, upstream: &Tensor, _wanted: &[bool]) -> starling::Result<Backward> {
        // What was overwritten since forward is noticed here.
        let x = self.x.get(self.name())?;
        let outside = x.abs()?.gt(&Tensor::full(x.device(), x.dtype(), &[], self.range)?)?;
        Ok(Backward::Gradients(vec![Some(upstream.masked_fill(&outside, 0.0)?)]))
    }
}

/// `x` held in `-range ..= range` and rounded to multiples of `range / levels`.
fn quantize(x: &Tensor, range: f64, levels: f64) -> starling::Result<Tensor> {
    Tensor::custom(&[x], || {
        let step = range / levels;
        let y = x.clamp(-range, range)?.div_scalar(step)?.round()?.mul_scalar(step)?;
        Ok((y, Quantize { x: Saved::new(x), range }))
    })
}

/// Trains weights that are quantised in every forward pass; returns the first and the last loss.
fn train(device: &Device) -> starling::Result<[f32; 2]> {
    let mut random = HostStream::seeded(7, 0);
    let x = Tensor::randn(device, &mut random, &[256, 16], 0.0, 1.0)?;
    let teacher = Tensor::randn(device, &mut random, &[16, 1], 0.0, 0.3)?;
    let y = x.matmul(&teacher)?;
    let w = Tensor::from_slice(device, &[0f32; 16], &[16, 1])?.requires_grad();
    let mut losses = Vec::new();
    for _ in 0..60 {
        let loss = x.matmul(&quantize(&w, 1.0, 127.0)?)?.squared_error(&y)?.mean_all()?;
        w.zero_grad();
        loss.backward()?;
        losses.push(loss.item()?);
        let step = w.grad().map(|g| g.mul_scalar(0.1)).transpose()?;
        let step = step.ok_or_else(|| starling::Error::invalid("there is no gradient"))?;
        let next = w.detach().sub(&step)?;
        w.copy_from_slice(&next.to_vec::<f32>()?)?;
    }
    Ok([losses[0], losses[losses.len() - 1]])
}

fn main() -> starling::Result<()> {
    for probe in Device::probe().iter().filter(|p| p.status.is_ok()) {
        let [first, last] = train(&Device::new(&probe.name)?)?;
        println!("{}: loss {first:.4}, then {last:.6}", probe.name);
        if last > 0.01 * first {
            return Err(starling::Error::invalid("the quantised weights did not learn"));
        }
    }
    Ok(())
}

#[test]
fn it_learns_on_every_device() {
    main().unwrap();
}
