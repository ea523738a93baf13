//! Random numbers on the device, and what becomes of those that are still needed when others are
//! chosen.

use starling_engine::{AttentionOptions, Device, Error, Result, Tensor};

fn refused<T>(result: Result<T>) {
    match result.map(|_| ()) {
        Err(Error::Invalid(message)) => assert!(message.contains("seed()"), "{message}"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn numbers_that_are_gone_are_an_error_and_never_others() -> Result<()> {
    let device = Device::new("cpu")?;
    let x = Tensor::from_slice(&device, &[1f32; 64], &[64])?.requires_grad();
    let q = Tensor::from_slice(&device, &[0.5f32; 32], &[1, 1, 8, 4])?.requires_grad();
    let options = AttentionOptions { dropout: 0.5, ..Default::default() };
    let changes: [fn(&Device) -> Result<()>; 2] = [|d| d.seed(1), |d| d.set_random_step(1)];
    for change in changes {
        let (unread, read, again) = (x.dropout(0.5)?, x.dropout(0.5)?, x.dropout(0.5)?);
        let attended = q.attention(&q, &q, &options)?;
        let value = read.to_vec::<f32>()?;
        again.sum_all()?.backward()?;
        let gradient = x.grad().map(|g| g.to_vec::<f32>()).transpose()?;
        change(&device)?;
        // What was read stays what it is, and what was sent back too.
        assert_eq!(read.to_vec::<f32>()?, value);
        assert_eq!(x.grad().map(|g| g.to_vec::<f32>()).transpose()?, gradient);
        refused(unread.to_vec::<f32>());
        refused(read.sum_all()?.backward());
        refused(attended.sum_all()?.backward());
        x.zero_grad();
        q.zero_grad();
        let fresh = x.dropout(0.5)?;
        fresh.sum_all()?.backward()?;
        assert_eq!(x.grad().map(|g| g.to_vec::<f32>()).transpose()?, Some(fresh.to_vec()?));
        x.zero_grad();
    }
    Ok(())
}

#[test]
fn numbers_cost_no_memory_for_good() -> Result<()> {
    let device = Device::new("cpu")?;
    device.seed(1)?;
    let x = Tensor::from_slice(&device, &[1f32; 8], &[8])?.requires_grad();
    let first = x.dropout(0.5)?;
    let mut used = 0;
    for draw in 0..40_000 {
        x.detach().dropout(0.5)?.to_vec::<f32>()?;
        if draw == 20_000 {
            used = device.pool_stats().in_use_bytes;
        }
    }
    assert_eq!(device.pool_stats().in_use_bytes, used);
    // An old number is found again.
    first.sum_all()?.backward()?;
    assert_eq!(x.grad().map(|g| g.to_vec::<f32>()).transpose()?, Some(first.to_vec::<f32>()?));
    Ok(())
}

#[test]
fn a_probability_that_leaves_nothing_is_refused() -> Result<()> {
    let device = Device::new("cpu")?;
    let x = Tensor::from_slice(&device, &[1f32; 4], &[1, 1, 2, 2])?;
    // The last one is 1 in f32: nothing would be left to scale.
    for p in [-0.1, 1.0, f64::NAN, 1.0 - 1e-12] {
        let error = x.dropout(p).unwrap_err().to_string();
        assert!(error.contains("0..1"), "{error}");
        let options = AttentionOptions { dropout: p, ..Default::default() };
        assert!(x.attention(&x, &x, &options).is_err());
    }
    x.dropout(0.9999)?.to_vec::<f32>()?;
    Ok(())
}
