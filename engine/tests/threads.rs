//! Threads that share a device: the memory of one never reaches another before it is free.

use starling_engine::{DType, Device, Result, Tensor};
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

/// Downloads of values that are copied on their way, because they do not lie in row-major order.
fn transposed_downloads(device: &Device, number: usize, rounds: usize) -> Result<()> {
    const SIDE: usize = 8;
    let data: Vec<f32> = (0..SIDE * SIDE).map(|i| (number * SIDE * SIDE + i) as f32).collect();
    for round in 0..rounds {
        let t = Tensor::from_slice(device, &data, &[SIDE, SIDE])?;
        let found = t.transpose(0, 1)?.to_vec::<f32>()?;
        for (i, &x) in found.iter().enumerate() {
            let right = data[i % SIDE * SIDE + i / SIDE];
            let name = device.name();
            assert_eq!(x, right, "{name}, thread {number}, round {round}, element {i}");
        }
    }
    Ok(())
}

#[test]
fn downloads_of_two_threads_do_not_mix() {
    for probe in Device::probe().iter().filter(|probe| probe.status.is_ok()) {
        let device = &Device::new(&probe.name).unwrap();
        let rounds = if device.name() == "cpu" { 2000 } else { 200 };
        thread::scope(|scope| {
            for number in 0..4 {
                scope.spawn(move || transposed_downloads(device, number, rounds).unwrap());
            }
        });
    }
}

#[test]
fn an_operand_outlives_every_expression_that_reads_it() {
    const LEN: usize = 64;
    let device = Device::new("cpu").unwrap();
    let three = Tensor::full(&device, DType::F32, &[LEN], 3.0).unwrap();
    for round in 0..4000 {
        let x = round as f32;
        // Only the expression keeps the operand's memory, and only until one thread computes it.
        let shared = Tensor::from_slice(&device, &[x; LEN], &[LEN]).unwrap().mul(&three).unwrap();
        let start = Barrier::new(2);
        thread::scope(|scope| {
            scope.spawn(|| {
                let mut long = shared.clone();
                for _ in 0..12 {
                    long = long.add_scalar(1.0).unwrap();
                }
                start.wait();
                assert_eq!(long.to_vec::<f32>().unwrap(), [3.0 * x + 12.0; LEN], "round {round}");
            });
            start.wait();
            assert_eq!(shared.to_vec::<f32>().unwrap(), [3.0 * x; LEN], "round {round}");
            for _ in 0..4 {
                // Takes the operand's memory if it was given back too early.
                drop(Tensor::from_slice(&device, &[-1.0f32; LEN], &[LEN]).unwrap());
            }
        });
    }
}

/// A tensor that one thread overwrites while others compute with it holds one value at a time.
#[test]
fn what_is_written_in_place_is_read_whole_by_other_threads() {
    const LEN: usize = 1 << 14;
    for probe in Device::probe().iter().filter(|probe| probe.status.is_ok()) {
        let device = &Device::new(&probe.name).unwrap();
        let rounds = if device.name() == "cpu" { 400 } else { 20 };
        let done = &AtomicBool::new(false);
        let shared = &Tensor::full(device, DType::F32, &[LEN], 0.0).unwrap().contiguous().unwrap();
        thread::scope(|scope| {
            scope.spawn(|| {
                for round in 0..rounds {
                    shared.copy_from_slice(&vec![round as f32; LEN]).unwrap();
                    let next = Tensor::full(device, DType::F32, &[LEN], -1.0).unwrap();
                    shared.slice_assign(0, 0, &next).unwrap();
                }
                done.store(true, Ordering::Relaxed);
            });
            for own_queue in [false, true] {
                scope.spawn(move || {
                    let own = device.with_own_queue().unwrap();
                    let queue = if own_queue { &own } else { device };
                    let one = Tensor::full(queue, DType::F32, &[LEN], 1.0).unwrap();
                    let one = one.contiguous().unwrap();
                    while !done.load(Ordering::Relaxed) {
                        let found = one.add(shared).unwrap().to_vec::<f32>().unwrap();
                        assert!(found.iter().all(|x| *x == found[0]), "{}", device.name());
                    }
                });
            }
        });
    }
}
