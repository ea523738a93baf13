//! Functions that are captured once for each shape.

use starling_engine::{Device, Error, Jit, Result, Tensor, no_grad};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

fn devices() -> Vec<Device> {
    let probed = Device::probe().into_iter().filter(|p| p.status.is_ok());
    probed.map(|p| Device::new(&p.name).unwrap()).collect()
}

fn numbers(device: &Device, shape: &[usize], seed: usize) -> Tensor {
    let n = shape.iter().product();
    let data: Vec<f32> = (0..n).map(|i| ((i * 37 + seed * 101) % 64) as f32 / 32.0 - 1.0).collect();
    Tensor::from_slice(device, &data, shape).unwrap()
}

fn bits(t: &Tensor) -> Vec<u32> {
    t.to_vec::<f32>().unwrap().iter().map(|x| x.to_bits()).collect()
}

struct Model {
    w: Tensor,
    momentum: Tensor,
}

impl Model {
    fn new(device: &Device) -> Self {
        let w = numbers(device, &[8, 4], 5).requires_grad();
        Self { w, momentum: numbers(device, &[8, 4], 6).mul_scalar(0.0).unwrap() }
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        x.matmul(&self.w)?.gelu()?.dropout(0.25)
    }

    /// A step with a graph, a backward pass and two writes in place.
    fn train(&self, x: &Tensor) -> Result<Vec<Tensor>> {
        self.w.zero_grad();
        let loss = self.forward(x)?.sqr()?.mean_all()?;
        loss.backward()?;
        let g = self.w.grad().ok_or_else(|| Error::Backward("no gradient".into()))?;
        let w = self.w.detach();
        let momentum = self.momentum.mul_scalar(0.9)?.add(&g)?;
        self.momentum.slice_assign(0, 0, &momentum)?;
        w.slice_assign(0, 0, &w.sub(&self.momentum.mul_scalar(0.05)?)?)?;
        Ok(vec![loss.detach(), g])
    }
}

/// Losses, gradients, evaluations and the moving average of a short run over changing shapes.
fn run(device: &Device, captured: bool, second: bool) -> Vec<Vec<u32>> {
    let device = &device.with_own_queue().unwrap();
    device.seed(11).unwrap();
    let model = Model::new(device);
    let train = Jit::new(device, |x: &[Tensor]| model.train(&x[0]));
    let evaluate = Jit::new(device, |x: &[Tensor]| no_grad(|| Ok(vec![model.forward(&x[0])?])));
    let mut average = model.w.detach().mul_scalar(1.0).unwrap();
    let (mut found, mut kept) = (Vec::new(), Vec::new());
    for step in 0..9 {
        let x = numbers(device, &[2 + step % 3, 8], step);
        let results = match captured {
            true => train.call(&[&x]).unwrap(),
            false => model.train(&x).unwrap(),
        };
        kept.extend(results);
        let half = model.w.detach().mul_scalar(0.5).unwrap();
        average = average.mul_scalar(0.5).unwrap().add(&half).unwrap();
        if step % 2 == 1 {
            let y = numbers(device, &[3, 8], 50 + step);
            kept.push(match captured {
                true => evaluate.call(&[&y]).unwrap().remove(0),
                false => no_grad(|| model.forward(&y)).unwrap(),
            });
        }
        if second {
            thread::scope(|scope| {
                scope.spawn(|| found.push(bits(&model.w.detach().sqr().unwrap())));
            });
        }
    }
    if captured {
        assert_eq!((train.captured(), evaluate.captured()), (3, 1), "{}", device.name());
    }
    // Looked at last: no replay may have overwritten what an earlier one gave.
    found.extend(kept.iter().map(bits));
    found.push(bits(&average));
    found.push(bits(&model.w));
    found
}

#[test]
fn captured_and_eager_runs_agree_bit_for_bit() {
    for device in devices() {
        for second in [false, true] {
            let (eager, replayed) = (run(&device, false, second), run(&device, true, second));
            assert_eq!(eager.len(), replayed.len());
            for (at, (a, b)) in eager.iter().zip(&replayed).enumerate() {
                assert_eq!(a, b, "{}, value {at}, second thread {second}", device.name());
            }
        }
    }
}

#[test]
fn the_function_runs_once_a_shape_and_the_cache_is_bounded() {
    let device = Device::new("cpu").unwrap();
    let runs = AtomicUsize::new(0);
    let jit = Jit::new(&device, |x: &[Tensor]| {
        runs.fetch_add(1, Ordering::Relaxed);
        Ok(vec![x[0].sqr()?])
    });
    for n in [3, 4, 3, 4, 3] {
        let x = numbers(&device, &[n], n);
        assert_eq!(bits(&jit.call(&[&x]).unwrap()[0]), bits(&x.sqr().unwrap()));
    }
    assert_eq!((runs.load(Ordering::Relaxed), jit.captured()), (2, 2));
    // The same shape of another type is another one.
    let narrow = [1f32, 2.0, 3.0].map(half::bf16::from_f32);
    jit.call(&[&Tensor::from_slice(&device, &narrow, &[3]).unwrap()]).unwrap();
    assert_eq!(jit.captured(), 3);
    for n in 0..100 {
        jit.call(&[&numbers(&device, &[10 + n], n)]).unwrap();
    }
    assert_eq!(jit.captured(), 16);
}

#[test]
fn results_stay_what_they_were_and_may_be_inputs() {
    let device = Device::new("cpu").unwrap();
    let jit = Jit::new(&device, |x: &[Tensor]| Ok(vec![x[0].add_scalar(1.0)?, x[0].clone()]));
    let mut x = numbers(&device, &[4], 1);
    let (mut all, mut right) = (Vec::new(), Vec::new());
    for _ in 0..5 {
        right.push((bits(&x.add_scalar(1.0).unwrap()), bits(&x)));
        let mut results = jit.call(&[&x]).unwrap();
        all.push((results[0].clone(), results[1].clone()));
        x = results.remove(0);
    }
    let found: Vec<_> = all.iter().map(|(a, b)| (bits(a), bits(b))).collect();
    assert_eq!(found, right);
    let whole = Jit::new(&device, |x: &[Tensor]| Ok(vec![x[0].clone()]));
    let words = |k: i32| Tensor::from_slice(&device, &[k, 2 * k], &[2]).unwrap();
    let both = [1, 5].map(|k| whole.call(&[&words(k)]).unwrap().remove(0));
    assert_eq!(both.map(|t| t.to_vec::<i32>().unwrap()), [[1, 2], [5, 10]]);
}

#[test]
fn threads_may_call_one_function() {
    let device = &Device::new("cpu").unwrap();
    let jit = &Jit::new(device, |x: &[Tensor]| Ok(vec![x[0].gelu()?.contiguous()?.sqr()?]));
    thread::scope(|scope| {
        for number in 0..4 {
            scope.spawn(move || {
                for round in 0..40 {
                    let x = numbers(device, &[8 + number % 2], number * 100 + round);
                    let right = bits(&x.gelu().unwrap().contiguous().unwrap().sqr().unwrap());
                    assert_eq!(bits(&jit.call(&[&x]).unwrap()[0]), right);
                }
            });
        }
    });
    assert_eq!(jit.captured(), 2);
}

#[test]
fn within_a_capture_and_within_another_function_it_is_part_of_that() {
    let device = Device::new("cpu").unwrap();
    let inner = Jit::new(&device, |x: &[Tensor]| Ok(vec![x[0].sqr()?]));
    let outer = Jit::new(&device, |x: &[Tensor]| inner.call(&[&x[0].add_scalar(1.0)?]));
    for seed in 0..3 {
        let x = numbers(&device, &[5], seed);
        let right = bits(&x.add_scalar(1.0).unwrap().sqr().unwrap());
        assert_eq!(bits(&outer.call(&[&x]).unwrap()[0]), right);
    }
    assert_eq!((outer.captured(), inner.captured()), (1, 0));
}

#[test]
fn errors_are_the_functions_and_leave_nothing_behind() {
    let device = Device::new("cpu").unwrap();
    let jit = Jit::new(&device, |x: &[Tensor]| {
        x[0].sqr()?.contiguous()?;
        match x[0].len() {
            3 => Err(Error::Invalid("three".into())),
            _ => Ok(vec![x[0].sqr()?]),
        }
    });
    let three = jit.call(&[&numbers(&device, &[3], 0)]);
    assert!(matches!(three, Err(Error::Invalid(m)) if m == "three"));
    assert_eq!(jit.captured(), 0);
    assert_eq!(jit.call(&[&numbers(&device, &[4], 0)]).unwrap()[0].shape(), [4]);
    let parameter = numbers(&device, &[4], 0).requires_grad();
    let refused = jit.call(&[&parameter]);
    assert!(matches!(refused, Err(Error::Invalid(m)) if m.contains("detach")));
    assert!(no_grad(|| jit.call(&[&parameter])).is_ok());
}
