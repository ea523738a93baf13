//! Tensors that move between devices.

use starling_engine::{DType, Device, Provider, Tensor};
use std::future::Future;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

fn devices() -> Vec<Device> {
    let probed = Device::probe().into_iter().filter(|p| p.status.is_ok());
    let mut all: Vec<Device> = probed.map(|p| Device::new(&p.name).unwrap()).collect();
    let reference = Arc::new(starling_reference::ReferenceBackend::new());
    all.push(Device::from_backend(reference).unwrap());
    // Another queue of the first one.
    all.push(all[0].with_own_queue().unwrap());
    all
}

#[test]
fn a_tensor_moves_between_any_two_devices() {
    for from in devices() {
        for to in devices() {
            let name = format!("{} to {}", from.name(), to.name());
            let data: Vec<f32> = (0..24).map(|i| i as f32 - 11.5).collect();
            let x = Tensor::from_slice(&from, &data, &[4, 6]).unwrap();
            let moved = x.transpose(0, 1).unwrap().to_device(&to).unwrap();
            assert_eq!(moved.shape(), [6, 4]);
            assert!(moved.device().same(&to) && moved.device().queue().same(to.queue()), "{name}");
            let right = x.transpose(0, 1).unwrap().to_vec::<f32>().unwrap();
            assert_eq!(moved.to_vec::<f32>().unwrap(), right, "{name}");
            // It is of that device: it works with what lies there.
            let twice = moved.add(&ones_like(&moved)).unwrap().to_vec::<f32>().unwrap();
            assert_eq!(twice, right.iter().map(|x| x + 1.0).collect::<Vec<_>>(), "{name}");
            let words = Tensor::from_slice(&from, &[1i32, -2, 3], &[3]).unwrap();
            assert_eq!(words.to_device(&to).unwrap().to_vec::<i32>().unwrap(), [1, -2, 3]);
            let bytes = Tensor::from_slice(&from, &[7u8, 0, 255], &[3]).unwrap();
            assert_eq!(bytes.to_device(&to).unwrap().to_vec::<u8>().unwrap(), [7, 0, 255]);
            let scalar = Tensor::from_slice(&from, &[2.5f32], &[]).unwrap();
            assert_eq!(scalar.to_device(&to).unwrap().item().unwrap(), 2.5, "{name}");
            let nothing = Tensor::zeros(&from, DType::F32, &[0, 3]).unwrap();
            assert_eq!(nothing.to_device(&to).unwrap().shape(), [0, 3], "{name}");
        }
    }
}

fn ones_like(x: &Tensor) -> Tensor {
    Tensor::ones(x.device(), x.dtype(), x.shape()).unwrap()
}

#[test]
fn a_moved_tensor_is_a_value_of_its_own() {
    let [a, b] = [(); 2].map(|()| Device::new("cpu").unwrap());
    let x = Tensor::from_slice(&a, &[1f32, 2.0], &[2]).unwrap();
    let moved = x.to_device(&b).unwrap();
    x.copy_from_slice(&[5f32, 6.0]).unwrap();
    assert_eq!(moved.to_vec::<f32>().unwrap(), [1.0, 2.0]);
    let before = a.counters();
    let here = x.to_device(&a).unwrap();
    assert_eq!(a.counters(), before, "on its own queue nothing is copied");
    assert_eq!(here.to_vec::<f32>().unwrap(), [5.0, 6.0]);
}

#[test]
fn the_gradient_comes_back_to_where_the_value_came_from() {
    for from in devices() {
        for to in devices() {
            let w = Tensor::from_slice(&from, &[1f32, -2.0, 3.0], &[3]).unwrap().requires_grad();
            let there = w.mul_scalar(2.0).unwrap().to_device(&to).unwrap();
            there.sqr().unwrap().sum_all().unwrap().backward().unwrap();
            let gradient = w.grad().unwrap();
            assert!(gradient.device().same(&from));
            let right = [8.0, -16.0, 24.0];
            let name = format!("{} to {}", from.name(), to.name());
            assert_eq!(gradient.to_vec::<f32>().unwrap(), right, "{name}");
        }
    }
}

#[test]
fn a_copy_can_be_awaited() {
    let [a, b] = [(); 2].map(|()| Device::new("cpu").unwrap());
    let x = Tensor::from_slice(&a, &[1f32, 2.0], &[2]).unwrap();
    let mut future = std::pin::pin!(x.copy_to(&b));
    // The CPU has the answer at once.
    let Poll::Ready(moved) = future.as_mut().poll(&mut Context::from_waker(Waker::noop())) else {
        panic!("nothing to wait for");
    };
    assert_eq!(moved.unwrap().to_vec::<f32>().unwrap(), [1.0, 2.0]);
}

/// A host that must not block: it counts how often it was asked to look again.
fn awaited<T>(future: impl Future<Output = T>) -> (T, usize) {
    let mut future = std::pin::pin!(future);
    let mut looks = 0;
    loop {
        looks += 1;
        if let Poll::Ready(answer) = future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            return (answer, looks);
        }
        std::thread::yield_now();
    }
}

#[test]
fn devices_are_probed_opened_and_synced_by_futures() {
    let names = |probed: Vec<starling_engine::Probe>| -> Vec<_> {
        probed.into_iter().map(|p| (p.name, p.status.is_ok())).collect()
    };
    assert_eq!(names(awaited(Device::probed()).0), names(Device::probe()));
    for probe in Device::probe().iter().filter(|p| p.status.is_ok()) {
        let device = awaited(Device::open(&probe.name)).0.unwrap();
        assert!(device.same(&Device::new(&probe.name).unwrap()), "{}", probe.name);
        let x = Tensor::from_slice(&device, &[3f32], &[1]).unwrap();
        let y = x.sqr().unwrap().contiguous().unwrap();
        awaited(device.synced()).0.unwrap();
        assert_eq!(awaited(y.download::<f32>()).0.unwrap(), [9.0]);
    }
    assert_eq!(awaited(Device::open("auto")).0.unwrap().name(), Device::choose().name);
    assert!(awaited(Device::open("tpu")).0.is_err());
}

/// Ready when it has been looked at three times, as a browser's answers are.
async fn later<T>(answer: T) -> T {
    let mut left = 2;
    std::future::poll_fn(|context| {
        if left == 0 {
            return Poll::Ready(());
        }
        left -= 1;
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
    answer
}

#[test]
fn a_registered_family_may_take_its_time() {
    use starling_contract::Backend;
    let provider = |family| Provider {
        family,
        probe: || Box::pin(later(Ok(Vec::new()))),
        open: |_| {
            let backend: Arc<dyn Backend> = Arc::new(starling_reference::ReferenceBackend::new());
            Box::pin(later(Ok(backend)))
        },
    };
    Device::register(provider("slow")).unwrap();
    for known in ["slow", "cpu", "webgpu"] {
        let error = Device::register(provider(known)).unwrap_err().to_string();
        assert!(error.contains(known), "{error}");
    }
    let (first, looks) = awaited(Device::open("slow"));
    assert_eq!(looks, 3);
    // Open already: there is nothing to wait for, and it is the same one.
    let (second, looks) = awaited(Device::open("slow:0"));
    assert_eq!(looks, 1);
    assert!(first.unwrap().same(&second.unwrap()));
    assert!(Device::new("slow").is_ok(), "a native thread waits");
}

#[test]
fn a_device_that_nobody_holds_is_opened_anew() {
    for probe in Device::probe().iter().filter(|p| p.status.is_ok()) {
        for _ in 0..2 {
            let device = Device::new(&probe.name).unwrap();
            let x = Tensor::from_slice(&device, &[3f32], &[1]).unwrap();
            assert_eq!(x.sqr().unwrap().item().unwrap(), 9.0);
        }
    }
}
