//! Registers the backend under a name and trains a layer on it.
//!
//! `cargo run --release -p starling-example-backend --example train`

use starling_engine::optim::{Optimizer, Rule};
use starling_engine::{Definition, Device, Probe, Provider, Result, Tensor, WeightLayout};
use starling_example_backend::MinimalBackend;
use starling_ops::philox::HostStream;
use std::sync::Arc;

fn main() -> Result<()> {
    register()?;
    for probe in Device::probe() {
        let status = probe.status.map_or_else(|reason| reason, |c| c.description);
        println!("{:10} {status}", probe.name);
    }
    for name in ["minimal", "cpu"] {
        let losses = train(&Device::new(name)?, 100)?;
        println!("{name}: loss {:.6} at step 1, {:.6} at step 100", losses[0], losses[99]);
    }
    Ok(())
}

/// From here on `Device::new("minimal")` and `Device::probe` know the backend; `auto` takes it
/// where nothing before it is available.
pub fn register() -> Result<()> {
    use starling_contract::{Backend, Error};
    Device::register(Provider {
        family: "minimal",
        probe: || {
            let capabilities = MinimalBackend::new().capabilities().clone();
            let listed = vec![Probe { name: "minimal".into(), status: Ok(capabilities) }];
            Box::pin(async { Ok(listed) })
        },
        open: |index| {
            Box::pin(async move {
                match index {
                    0 => Ok(Arc::new(MinimalBackend::new()) as Arc<dyn Backend>),
                    _ => Err(Error::Unavailable {
                        backend: format!("minimal:{index}"),
                        reason: "there is one minimal device; ask for minimal".into(),
                    }),
                }
            })
        },
    })
}

/// Trains a layer with bias and GELU, a norm and a classifier on three clouds of points; returns
/// each step's loss. Products with an epilogue, the norm, the loss and all their gradients are
/// composed by the engine where the backend does not have them.
pub fn train(device: &Device, steps: u32) -> Result<Vec<f32>> {
    let mut random = HostStream::seeded(7, 0);
    let classes: Vec<i32> = (0..96).map(|i| i % 3).collect();
    let mut points = Vec::new();
    for &class in &classes {
        for axis in 0..4 {
            let centre = if axis == class { 2.0 } else { 0.0 };
            points.push(centre + random.normal());
        }
    }
    let x = Tensor::from_slice(device, &points, &[96, 4])?;
    let targets = Tensor::from_slice(device, &classes, &[96])?;
    let mut weight = |shape: &[usize]| -> Result<Tensor> {
        Ok(Tensor::randn(device, &mut random, shape, 0.0, 0.5)?.requires_grad())
    };
    let (hidden, bias, output) = (weight(&[4, 16])?, weight(&[16])?, weight(&[16, 3])?);
    let named = [("hidden", &hidden), ("bias", &bias), ("output", &output)];
    let rule = Rule::AdamW { beta1: 0.9, beta2: 0.99, eps: 1e-8, weight_decay: 0.01 };
    let named = named.map(|(name, tensor)| (name.to_owned(), tensor.clone()));
    let optimizer = Optimizer::new(rule, named.into())?;
    let gelu = Definition::find("gelu");
    let mut losses = Vec::new();
    for _ in 0..steps {
        let features = x.linear(&hidden, Some(&bias), WeightLayout::InOut, gelu)?;
        let logits = features.layer_norm(None, None, 1e-5)?.matmul(&output)?;
        let loss = logits.cross_entropy(&targets, None)?;
        optimizer.zero_grad();
        loss.backward()?;
        optimizer.step(0.02, None)?;
        losses.push(loss.item()?);
    }
    Ok(losses)
}
