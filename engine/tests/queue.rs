//! Several queues of one device: whose memory is whose, and in which order things happen.

use starling_engine::{Device, Error, Result, Tensor};
use std::thread;

fn pairs() -> Vec<[Device; 2]> {
    let probed = Device::probe().into_iter().filter(|p| p.status.is_ok());
    probed.map(|p| [Device::new(&p.name).unwrap(), Device::new(&p.name).unwrap()]).collect()
}

fn ramp(device: &Device, n: usize) -> Tensor {
    let data: Vec<f32> = (0..n).map(|i| i as f32 * 0.125 - 1.0).collect();
    Tensor::from_slice(device, &data, &[n]).unwrap()
}

fn bits(t: &Tensor) -> Vec<u32> {
    t.to_vec::<f32>().unwrap().iter().map(|x| x.to_bits()).collect()
}

#[test]
fn a_device_opened_twice_is_one_device_with_two_queues() {
    for [a, b] in pairs() {
        assert!(a.same(&b) && !a.queue().same(b.queue()), "{}", a.name());
        assert!(a.same(&a.clone()) && a.queue().same(a.clone().queue()));
        let own = a.with_own_queue().unwrap();
        assert!(own.same(&a) && !own.queue().same(a.queue()));
        // Tensors of both mix, whichever comes first and whatever runs.
        let (x, y) = (ramp(&a, 16), ramp(&b, 16));
        let right = bits(&ramp(&a, 16).add(&ramp(&a, 16)).unwrap());
        assert_eq!(bits(&x.add(&y).unwrap()), right);
        assert_eq!(bits(&y.add(&x).unwrap()), right);
        let square = x.reshape(&[4, 4]).unwrap().matmul(&y.reshape(&[4, 4]).unwrap()).unwrap();
        let same = ramp(&a, 16).reshape(&[4, 4]).unwrap();
        assert_eq!(bits(&square), bits(&same.matmul(&same).unwrap()));
        // Counters, seeds and limits do not.
        let before = b.counters().launches;
        ramp(&a, 8).sqr().unwrap().to_vec::<f32>().unwrap();
        assert_eq!(b.counters().launches, before, "{}", a.name());
    }
}

#[test]
fn gradients_cross_queues() {
    for [a, b] in pairs() {
        let (x, w) = (ramp(&a, 8), ramp(&b, 8).requires_grad());
        x.mul(&w).unwrap().sum_all().unwrap().backward().unwrap();
        assert_eq!(bits(&w.grad().unwrap()), bits(&x), "{}", a.name());
    }
}

/// A value made on one queue, changed there, read on the other, and its memory taken back: no read
/// may see what comes later, no write may come before a read.
#[test]
fn an_order_holds_between_queues_that_share_tensors() {
    for [a, b] in pairs() {
        let rounds = if a.name() == "cpu" { 300 } else { 40 };
        let total = ramp(&b, 256).zeros_like().unwrap().contiguous().unwrap();
        let mut right = 0.0f32;
        for round in 0..rounds {
            let x = Tensor::full(&a, total.dtype(), &[256], round as f64).unwrap();
            let x = x.contiguous().unwrap();
            // Runs on queue b and reads the memory of queue a.
            total.slice_assign(0, 0, &total.add(&x).unwrap()).unwrap();
            right += round as f32;
            // Taken from the pool of queue a: that is the memory of x, which b may not have read.
            drop(x);
            let next = Tensor::full(&a, total.dtype(), &[256], -1.0).unwrap();
            next.contiguous().unwrap();
            a.sync().unwrap();
        }
        assert_eq!(total.to_vec::<f32>().unwrap(), [right; 256], "{}", a.name());
    }
}

#[test]
fn threads_with_queues_of_their_own_share_a_tensor() {
    for [a, _] in pairs() {
        let shared = &ramp(&a, 128);
        let right = &bits(&shared.sqr().unwrap());
        thread::scope(|scope| {
            for _ in 0..4 {
                let own = a.with_own_queue().unwrap();
                scope.spawn(move || {
                    for round in 0..20 {
                        let zeros = ramp(&own, 128).mul_scalar(0.0).unwrap();
                        let found = zeros.add(&shared.sqr().unwrap()).unwrap();
                        assert_eq!(&bits(&found), right, "{}, round {round}", own.name());
                    }
                });
            }
        });
    }
}

#[test]
fn random_numbers_belong_to_a_queue() {
    let [a, b] = [(); 2].map(|()| Device::new("cpu").unwrap());
    let draw = |d: &Device| bits(&ramp(d, 64).dropout(0.5).unwrap());
    a.seed(1).unwrap();
    b.seed(1).unwrap();
    let first = draw(&a);
    draw(&a);
    assert_eq!(draw(&b), first, "what one queue drew the other has not");
}

#[test]
fn a_captured_step_may_read_what_lies_on_another_queue() {
    for [a, b] in pairs() {
        let (x, y) = (ramp(&a, 64), ramp(&b, 64));
        let (captured, sum) = a.capture(|| x.add(&y)).unwrap();
        for round in 1..6 {
            y.copy_from_slice(&[round as f32; 64]).unwrap();
            captured.replay().unwrap();
            // Must come after the replay has read it.
            y.copy_from_slice(&[-7f32; 64]).unwrap();
            let right = bits(&x.add_scalar(round as f64).unwrap());
            assert_eq!(bits(&sum), right, "{}, round {round}", a.name());
        }
    }
}

#[test]
fn a_captured_step_may_not_work_on_another_queue() {
    let [a, b] = [(); 2].map(|()| Device::new("cpu").unwrap());
    let (x, y) = (ramp(&a, 8), ramp(&b, 8));
    // The first operand decides where it runs: on b, where nothing is recorded.
    let refused: Result<_> = a.capture(|| y.add(&x)?.contiguous());
    assert!(matches!(&refused, Err(Error::Invalid(m)) if m.contains("another queue")));
    assert_eq!(bits(&y.add(&x).unwrap()), bits(&x.add(&y).unwrap()), "outside it may");
}

#[test]
fn a_captured_step_may_not_work_on_another_device() {
    let cpu = Device::new("cpu").unwrap();
    let other = std::sync::Arc::new(starling_reference::ReferenceBackend::new());
    let other = Device::from_backend(other).unwrap();
    let (x, y) = (ramp(&cpu, 8), ramp(&other, 8));
    let step = || {
        x.slice_assign(0, 0, &x.add_scalar(1.0)?)?;
        y.slice_assign(0, 0, &y.add_scalar(1.0)?)
    };
    let refused = cpu.capture(step).map(drop);
    assert!(matches!(&refused, Err(Error::Invalid(m)) if m.contains("another queue")));
    assert_eq!(bits(&y), bits(&ramp(&other, 8)));
}

#[test]
fn a_queue_waits_for_queues_of_its_own_device_only() {
    let [a, b] = [(); 2].map(|()| Device::new("cpu").unwrap());
    a.queue().wait_for(b.queue()).unwrap();
    a.queue().wait_for(a.queue()).unwrap();
    let other = std::sync::Arc::new(starling_reference::ReferenceBackend::new());
    let other = Device::from_backend(other).unwrap();
    let refused = a.queue().wait_for(other.queue());
    assert!(matches!(&refused, Err(Error::Invalid(m)) if m.contains("reference")), "{refused:?}");
}

#[test]
fn tensors_of_two_devices_are_a_typed_error_that_names_both() {
    let cpu = Device::new("cpu").unwrap();
    let other = std::sync::Arc::new(starling_reference::ReferenceBackend::new());
    let other = Device::from_backend(other).unwrap();
    let error = ramp(&cpu, 4).add(&ramp(&other, 4)).unwrap_err().to_string();
    assert!(error.contains("cpu") && error.contains("reference"), "{error}");
}

#[test]
fn a_captured_step_refuses_replays_and_uploads_of_another_queue() {
    for [a, b] in pairs() {
        let x = ramp(&b, 4);
        let (other, ()) = b.capture(|| x.slice_assign(0, 0, &x.add_scalar(1.0)?)).unwrap();
        let before = bits(&x);
        let steps: [&dyn Fn() -> Result<()>; 3] =
            [&|| other.replay(), &|| x.copy_from_slice(&[0f32; 4]), &|| b.set_random_step(7)];
        for step in steps {
            let error = a.capture(step).err().unwrap().to_string();
            assert!(error.contains("another queue"), "{error}");
        }
        assert_eq!(bits(&x), before);
        other.replay().unwrap();
    }
}
