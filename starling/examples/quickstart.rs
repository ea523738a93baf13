//! Picks a backend at start-up, runs a product and trains a layer.

use starling::prelude::*;

fn main() -> starling::Result<()> {
    // Pick a backend at start-up.
    let device = Device::auto()?;
    println!("{} ({})", device.name(), device.capabilities().variant);

    // A product.
    let mut random = HostStream::seeded(7, 0);
    let x = Tensor::randn(&device, &mut random, &[64, 16], 0.0, 1.0)?;
    let teacher = Tensor::randn(&device, &mut random, &[16, 1], 0.0, 1.0)?;
    let y = x.matmul(&teacher)?;

    // A layer, trained.
    let w = Tensor::zeros(&device, DType::F32, &[16, 1])?.requires_grad();
    let rule = Rule::AdamW { beta1: 0.9, beta2: 0.99, eps: 1e-8, weight_decay: 0.0 };
    let optimizer = Optimizer::new(rule, vec![("w".into(), w.clone())])?;
    for step in 1..=200 {
        let loss = x.linear(&w, None, WeightLayout::InOut, None)?.squared_error(&y)?.mean_all()?;
        optimizer.zero_grad();
        loss.backward()?;
        optimizer.step(0.05, None)?;
        if step % 50 == 0 {
            println!("step {step}: loss {:.6}", loss.item()?);
        }
    }
    Ok(())
}
