//! Fusion, capture and memory: what is launched, and how many bytes move.

use starling_contract::Backend;
use starling_cpu::{CpuBackend, Isa};
use starling_engine::{DType, Device, Error, Result, Tensor, update};
use std::sync::Arc;

/// A device that fuses; the reference, whose programs are wider than f32, does not.
fn device() -> Device {
    Device::from_backend(backend()).unwrap()
}

fn backend() -> Arc<dyn Backend> {
    CpuBackend::new(Isa::Scalar, Some(1)).unwrap()
}

fn ramp(device: &Device, shape: &[usize]) -> Tensor {
    let n: usize = shape.iter().product();
    let data: Vec<f32> = (0..n).map(|i| 0.1 + (i % 7) as f32 * 0.1).collect();
    Tensor::from_slice(device, &data, shape).unwrap()
}

/// Twelve operations over four inputs of different shapes.
fn chain(t: &[Tensor]) -> Result<Tensor> {
    let [a, b, c, d] = t else { panic!("four inputs") };
    a.mul(b)? // 1
        .add(c)? // 2
        .gelu()? // 3
        .sub(d)? // 4
        .sqr()? // 5
        .add_scalar(1.0)? // 6
        .log()? // 7
        .mul(a)? // 8
        .tanh()? // 9
        .mul(b)? // 10
        .sigmoid()? // 11
        .maximum(c) // 12
}

const M: usize = 48;
const N: usize = 64;

fn inputs(device: &Device) -> Vec<Tensor> {
    [&[M, N][..], &[N], &[M, 1], &[1]].iter().map(|s| ramp(device, s)).collect()
}

/// Launches and bytes of `f`.
fn cost(device: &Device, f: impl FnOnce()) -> (u64, u64) {
    let before = device.counters();
    f();
    let after = device.counters();
    (after.launches - before.launches, after.verb_bytes - before.verb_bytes)
}

#[test]
fn a_chain_of_twelve_operations_is_one_launch_forward() {
    let device = device();
    let t = inputs(&device);
    let mut out = None;
    let (launches, bytes) = cost(&device, || {
        let y = chain(&t).unwrap();
        out = Some(y.to_vec::<f32>().unwrap());
    });
    assert_eq!(launches, 1);
    // Four operands of the iteration space's extent (repeated ones cost no memory) and one result.
    assert_eq!(bytes, 5 * 4 * (M * N) as u64);
    let host = |i: usize| t[i].to_vec::<f32>().unwrap();
    let (a, b, c, d) = (host(0), host(1), host(2), host(3));
    for (i, &y) in out.unwrap().iter().enumerate() {
        let (a, b, c, d) = (a[i], b[i % N], c[i / N], d[0]);
        let (a, b, c, d) = (f64::from(a), f64::from(b), f64::from(c), f64::from(d));
        let g = a * b + c;
        let g = 0.5 * g * (1.0 + libm_erf(g / 2f64.sqrt()));
        let x = (((g - d).powi(2) + 1.0).ln() * a).tanh() * b;
        let expected = (1.0 / (1.0 + (-x).exp())).max(c);
        assert!((f64::from(y) - expected).abs() < 1e-6, "{i}: {y} and not {expected}");
    }
}

/// erf by its Taylor series: an implementation that shares nothing with ours.
fn libm_erf(x: f64) -> f64 {
    let (mut term, mut sum) = (x, x);
    for n in 1..60 {
        term *= -x * x / f64::from(n);
        sum += term / f64::from(2 * n + 1);
    }
    sum * std::f64::consts::FRAC_2_SQRT_PI
}

#[test]
fn backward_of_the_chain_recomputes_instead_of_storing() {
    let device = device();
    let t: Vec<Tensor> = inputs(&device).iter().map(Tensor::requires_grad).collect();
    let y = chain(&t).unwrap();
    let upstream = ramp(&device, &[M, N]);
    device.reset_peak();
    let held = device.pool_stats().peak_bytes;
    let (launches, bytes) = cost(&device, || {
        y.backward_with(&upstream).unwrap();
        for leaf in &t {
            leaf.grad().unwrap().to_vec::<f32>().unwrap();
        }
    });
    // Op by op this is 12 forward and 25 backward launches over whole tensors. Fused, each of the
    // four gradients is one program that recomputes the chain; where a program would grow past the
    // plan's limit an upstream gradient is stored on the way.
    assert!(launches <= 12, "{launches} launches");
    let whole = 4 * (M * N) as u64;
    assert!(bytes <= 60 * whole, "{} tensors moved", bytes / whole);
    // Nothing of the forward chain is in memory: only gradients on their way back.
    let extra = (device.pool_stats().peak_bytes - held) as u64;
    assert!(extra <= 6 * whole + 8192, "{} tensors stored", extra / whole);
}

#[test]
fn a_long_chain_is_cut_and_stays_right() {
    let device = device();
    let x = ramp(&device, &[5]);
    let mut y = x.clone();
    for _ in 0..300 {
        y = y.mul_scalar(1.001).unwrap();
    }
    let expected = 1.001f64.powi(300);
    for (y, x) in y.to_vec::<f32>().unwrap().iter().zip(x.to_vec::<f32>().unwrap()) {
        assert!((f64::from(*y) / (f64::from(x) * expected) - 1.0).abs() < 1e-4);
    }
}

#[test]
fn reductions_fuse_what_they_reduce() {
    let device = device();
    let x = ramp(&device, &[M, N]);
    let mut sum = None;
    let (launches, _) = cost(&device, || {
        sum = Some(x.sub_scalar(0.5).unwrap().sqr().unwrap().sum_all().unwrap());
    });
    assert_eq!(launches, 1);
    let expected: f64 =
        x.to_vec::<f32>().unwrap().iter().map(|&v| (f64::from(v) - 0.5).powi(2)).sum();
    assert!((f64::from(sum.unwrap().item().unwrap()) - expected).abs() < 1e-3);
}

#[test]
fn random_numbers_are_not_repeated_over_a_larger_space() {
    let device = device();
    device.seed(3).unwrap();
    let row = Tensor::ones(&device, starling_engine::DType::F32, &[64]).unwrap();
    let wide = row.dropout(0.5).unwrap().add(&ramp(&device, &[4, 64]).zeros_like().unwrap());
    let wide = wide.unwrap().to_vec::<f32>().unwrap();
    assert!(wide.chunks(64).all(|r| r == &wide[..64]), "each row sees the same dropped elements");
    let again = row.dropout(0.5).unwrap().to_vec::<f32>().unwrap();
    assert_ne!(again, &wide[..64], "another dropout draws other numbers");
    device.seed(3).unwrap();
    assert_eq!(row.dropout(0.5).unwrap().to_vec::<f32>().unwrap(), &wide[..64]);
}

#[test]
fn a_captured_step_repeats_without_allocation() {
    let device = device();
    let x = ramp(&device, &[M, N]);
    let w = ramp(&device, &[N, 8]).requires_grad();
    let step = || {
        w.zero_grad();
        let loss = x.matmul(&w)?.tanh()?.sqr()?.mean_all()?;
        loss.backward()?;
        let g = w.grad().ok_or_else(|| Error::Backward("no gradient".into()))?;
        let out = (loss.detach(), g.mul_scalar(1.0)?);
        out.1.contiguous()?;
        Ok(out)
    };
    let (captured, (loss, gradient)) = device.capture(step).unwrap();
    let first = (loss.item().unwrap(), gradient.to_vec::<f32>().unwrap());
    let outside = ramp(&device, &[M, N]); // would land in the list's memory if it were given back
    let misses = device.pool_stats().misses;
    let changed: Vec<f32> = x.to_vec::<f32>().unwrap().iter().map(|v| v * 0.5).collect();
    x.copy_from_slice(&changed).unwrap();
    captured.replay().unwrap();
    let second = (loss.item().unwrap(), gradient.to_vec::<f32>().unwrap());
    assert_ne!(first.0, second.0);
    w.zero_grad();
    let eager = x.matmul(&w).unwrap().tanh().unwrap().sqr().unwrap().mean_all().unwrap();
    eager.backward().unwrap();
    assert_eq!(eager.item().unwrap(), second.0);
    assert_eq!(w.grad().unwrap().to_vec::<f32>().unwrap(), second.1);
    let before = device.pool_stats().misses;
    for _ in 0..3 {
        captured.replay().unwrap();
    }
    assert_eq!(device.pool_stats().misses, before);
    assert!(before >= misses);
    assert_eq!(outside.to_vec::<f32>().unwrap(), ramp(&device, &[M, N]).to_vec::<f32>().unwrap());
}

#[test]
fn a_captured_step_keeps_the_memory_that_it_reads() {
    let device = device();
    let x = ramp(&device, &[M]);
    let right: Vec<f32> = x.to_vec::<f32>().unwrap().iter().map(|v| v * v).collect();
    let (captured, y) = device.capture(|| x.sqr()?.contiguous()).unwrap();
    drop(x);
    let other = Tensor::from_slice(&device, &[-7f32; M], &[M]).unwrap();
    captured.replay().unwrap();
    assert_eq!(y.to_vec::<f32>().unwrap(), right);
    assert_eq!(other.to_vec::<f32>().unwrap(), [-7.0; M]);
}

#[test]
fn the_host_may_not_interfere_in_a_captured_step() {
    let device = device();
    let upload = device.capture(|| Tensor::from_slice(&device, &[1f32], &[1]).map(|_| ()));
    assert!(matches!(upload, Err(Error::Invalid(_))));
    let x = ramp(&device, &[4]);
    let download = device.capture(|| x.to_vec::<f32>().map(|_| ()));
    assert!(matches!(download, Err(Error::Invalid(_))));
    assert_eq!(x.to_vec::<f32>().unwrap().len(), 4, "the device works on");
}

#[test]
fn a_memory_limit_is_a_typed_error_and_nothing_is_lost() {
    let device = Device::with_memory_limit(backend(), 1 << 20).unwrap();
    let small = ramp(&device, &[1000]);
    let large = Tensor::ones(&device, starling_engine::DType::F32, &[1 << 20]);
    let error = large.and_then(|t| t.to_vec::<f32>());
    let Err(Error::Backend(starling_contract::Error::OutOfMemory { requested_bytes, .. })) = error
    else {
        panic!("{error:?}")
    };
    assert!(requested_bytes >= 4 << 20);
    assert_eq!(small.to_vec::<f32>().unwrap().len(), 1000);
}

#[test]
fn memory_is_flat_over_many_steps() {
    let device = device();
    let w = ramp(&device, &[16, 16]).requires_grad();
    let mut held = None;
    for step in 0..200 {
        w.zero_grad();
        let y = ramp(&device, &[4, 16]).matmul(&w).unwrap().gelu().unwrap();
        y.sum_all().unwrap().backward().unwrap();
        drop(y);
        if step >= 2 {
            let stats = device.pool_stats();
            let now = (stats.in_use_bytes, stats.misses);
            assert_eq!(*held.get_or_insert(now), now, "step {step}");
        }
    }
}

#[test]
fn unknown_and_missing_devices_say_so() {
    for name in ["cuda:0", "webgpu:99", "tpu", "cpu:x", ""] {
        let error = Device::new(name).unwrap_err().to_string();
        assert!(error.contains("available") || error.contains("unknown device"), "{error}");
    }
    let probed = Device::probe();
    assert!(probed.iter().any(|p| p.name == "cpu" && p.status.is_ok()));
    assert!(probed.iter().any(|p| p.name.starts_with("cuda") && p.status.is_err()));
}

#[test]
fn random_numbers_that_are_added_in_place_are_not_repeated_either() -> Result<()> {
    use starling_ops::defs::{Add, Def};
    let run = |look: bool| -> Result<Vec<f32>> {
        let device = device();
        device.seed(3)?;
        let sum = Tensor::zeros(&device, DType::F32, &[4, 8])?;
        let row = Tensor::ones(&device, DType::F32, &[8])?.dropout(0.5)?;
        if look {
            row.to_vec::<f32>()?;
        }
        update(Add::DEFINITION, &[], &[&sum, &row], &[&sum])?;
        sum.to_vec()
    };
    assert_eq!(run(false)?, run(true)?);
    Ok(())
}

#[test]
fn a_number_that_is_repeated_stays_that_number() -> Result<()> {
    let device = device();
    let five = |dtype| Tensor::full(&device, dtype, &[1], 5.0)?.broadcast_to(&[2, 2]);
    assert_eq!(five(DType::U8)?.to_vec::<u8>()?, [5; 4]);
    assert_eq!(five(DType::I8)?.to_vec::<i8>()?, [5; 4]);
    assert_eq!(five(DType::I32)?.to_vec::<i32>()?, [5; 4]);
    assert_eq!(five(DType::U32)?.to_vec::<u32>()?, [5; 4]);
    assert_eq!(five(DType::F32)?.to_vec::<f32>()?, [5.0; 4]);
    Ok(())
}

#[test]
fn chains_of_views_and_casts_may_be_long() -> Result<()> {
    let device = device();
    let start = ramp(&device, &[2, 2]).mul_scalar(2.0)?;
    let (mut turned, mut cast) = (start.clone(), start.clone());
    for _ in 0..50_000 {
        turned = turned.transpose(0, 1)?;
        cast = cast.to_dtype(DType::BF16)?.to_dtype(DType::F32)?;
    }
    assert_eq!(turned.to_vec::<f32>()?, start.to_vec::<f32>()?);
    let rounded = start.to_dtype(DType::BF16)?.to_dtype(DType::F32)?;
    assert_eq!(cast.to_vec::<f32>()?, rounded.to_vec::<f32>()?);
    Ok(())
}

#[test]
fn views_of_sums_of_views_do_not_multiply() -> Result<()> {
    let device = Device::new("cpu")?;
    let x = ramp(&device, &[4, 4]);
    let make = |look: bool| -> Result<Vec<f32>> {
        let mut y = x.mul_scalar(1e-3)?;
        for level in 0..24 {
            if look {
                y.to_vec::<f32>()?;
            }
            let even = level % 2 == 0;
            let view = if even { y.transpose(0, 1)? } else { y.slice(0, 3, 4, -1)? };
            y = y.add(&view)?;
        }
        y.to_vec()
    };
    assert_eq!(make(false)?, make(true)?);
    Ok(())
}

#[test]
fn a_sum_has_the_bits_of_the_sum_of_the_value_that_is_looked_at() -> Result<()> {
    let device = Device::new("cpu")?;
    let numbers = |shape: &[usize], salt: f64| {
        ramp(&device, shape).mul_scalar(1.37 + salt)?.sin()?.contiguous()
    };
    let both = |axes: &[isize], value: &dyn Fn() -> Result<Tensor>| -> Result<()> {
        let (fused, seen) = (value()?, value()?);
        seen.to_vec::<f32>()?;
        let pairs = [
            [fused.sum(axes, false)?, seen.sum(axes, false)?],
            [fused.var(axes, 1, false)?, seen.var(axes, 1, false)?],
        ];
        for [fused, seen] in pairs {
            assert_eq!(
                fused.to_vec::<f32>()?,
                seen.to_vec::<f32>()?,
                "{:?} {axes:?}",
                seen.shape()
            );
        }
        Ok(())
    };
    // Every operand is permuted, and the value is or is not.
    for axes in [&[0][..], &[1], &[0, 1]] {
        let x = numbers(&[50, 70], 0.0)?;
        both(axes, &|| x.transpose(0, 1)?.exp())?;
        both(axes, &|| x.exp()?.transpose(0, 1))?;
    }
    // A program of many values at once.
    for n in [300, 700, 5000, 20_000] {
        let x = (0..6).map(|i| numbers(&[4, n], f64::from(i))).collect::<Result<Vec<_>>>()?;
        both(&[1], &|| {
            let (a, b) = (x[0].mul(&x[1])?, x[2].mul(&x[3])?);
            let (c, e) = (x[4].mul(&x[5])?, x[0].mul(&x[5])?);
            let sum = a.exp()?.add(&b)?.mul(&c.add(&e)?)?;
            sum.add(&a.mul(&b)?)?.add(&c.mul(&e)?)
        })?;
    }
    Ok(())
}
