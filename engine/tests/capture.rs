//! Captured steps: what is recorded, what a replay does to the values around it, and whose memory
//! is whose.

use starling_engine::{Device, Error, Passes, Result, Tensor, no_grad};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc;
use std::thread;

fn cpu() -> Device {
    Device::new("cpu").unwrap()
}

fn devices() -> Vec<Device> {
    let probed = Device::probe().into_iter().filter(|p| p.status.is_ok());
    probed.map(|p| Device::new(&p.name).unwrap()).collect()
}

fn ramp(device: &Device, n: usize) -> Tensor {
    let data: Vec<f32> = (0..n).map(|i| i as f32 * 0.125 - 1.0).collect();
    Tensor::from_slice(device, &data, &[n]).unwrap()
}

fn bits(t: &Tensor) -> Vec<u32> {
    t.to_vec::<f32>().unwrap().iter().map(|x| x.to_bits()).collect()
}

/// `target += by`, in place.
fn add_to(target: &Tensor, by: &Tensor) -> Result<()> {
    target.slice_assign(0, 0, &target.add(by)?)
}

#[test]
fn what_other_threads_do_runs_and_is_not_recorded() {
    for device in devices() {
        let (x, other) = (ramp(&device, 64), ramp(&device, 64));
        let alone = device.capture(|| x.sqr()?.contiguous()).unwrap().0.launches();
        let (captured, y) = device
            .capture_with(Passes::NONE, || {
                let half = x.mul_scalar(0.5)?.contiguous()?;
                thread::scope(|scope| {
                    let work = || {
                        // Neither a verb nor an upload nor a download is the list's.
                        add_to(&other, &ramp(&device, 64)).unwrap();
                        let held: Vec<Tensor> = (0..8).map(|_| ramp(&device, 64)).collect();
                        held.iter().for_each(|t| assert_eq!(bits(t), bits(&ramp(&device, 64))));
                    };
                    scope.spawn(work).join().unwrap();
                });
                half.add(&x)?.contiguous()
            })
            .unwrap();
        assert_eq!(captured.launches(), 2 * alone, "{}", device.name());
        let (before, right) = (bits(&other), bits(&y));
        captured.replay().unwrap();
        assert_eq!(bits(&other), before, "{}: a replay did another thread's work", device.name());
        assert_eq!(bits(&y), right);
    }
}

#[test]
fn memory_of_another_thread_never_becomes_the_lists() {
    let device = cpu();
    let x = ramp(&device, 1024);
    let (send, receive) = mpsc::channel();
    let (captured, y) = device
        .capture(|| {
            // Freed at once: the list may use it again, and nobody else.
            drop(x.add_scalar(1.0)?.contiguous()?);
            thread::scope(|scope| {
                scope.spawn(|| send.send(x.mul_scalar(3.0).unwrap().contiguous().unwrap()));
            });
            x.sqr()?.contiguous()
        })
        .unwrap();
    let kept: Tensor = receive.recv().unwrap();
    let (right, square) = (bits(&kept), bits(&y));
    for _ in 0..3 {
        captured.replay().unwrap();
        assert_eq!(bits(&kept), right);
        assert_eq!(bits(&y), square);
    }
}

#[test]
fn two_threads_capture_on_one_queue_at_once() {
    let device = &cpu();
    thread::scope(|scope| {
        for number in 1..4 {
            scope.spawn(move || {
                for round in 0..50 {
                    let x = ramp(device, 64 * number);
                    let step = || x.mul_scalar(number as f64)?.contiguous()?.sqr()?.contiguous();
                    let (captured, y) = device.capture_with(Passes::NONE, step).unwrap();
                    let right = bits(&y);
                    captured.replay().unwrap();
                    assert_eq!(captured.launches(), 2, "round {round}");
                    assert_eq!(bits(&y), right, "round {round}");
                }
            });
        }
    });
}

#[test]
fn a_capture_ends_when_its_step_panics_or_fails() {
    let device = cpu();
    let x = ramp(&device, 8);
    let caught = catch_unwind(AssertUnwindSafe(|| {
        let _ = device.capture(|| -> Result<()> {
            x.sqr()?.contiguous()?;
            panic!("in the middle of a step");
        });
    }));
    assert!(caught.is_err());
    // Uploads and downloads are refused within a capture.
    assert_eq!(bits(&ramp(&device, 8)), bits(&x));
    let failed = device.capture(|| -> Result<()> { Err(Error::Invalid("no".into())) });
    assert!(matches!(failed, Err(Error::Invalid(_))));
    let (captured, y) = device.capture(|| x.sqr()).unwrap();
    captured.replay().unwrap();
    assert_eq!(bits(&y), bits(&x.sqr().unwrap()));
}

#[test]
fn a_capture_within_a_capture_is_refused_and_so_is_a_replay() {
    let device = cpu();
    let x = ramp(&device, 8);
    let (inner, _) = device.capture(|| x.sqr()).unwrap();
    let nested = device.capture(|| device.capture(|| x.sqr()).map(|_| ()));
    assert!(matches!(nested, Err(Error::Invalid(m)) if m.contains("already")));
    let replayed = device.capture(|| inner.replay());
    assert!(matches!(replayed, Err(Error::Invalid(m)) if m.contains("within another")));
    inner.replay().unwrap();
}

#[test]
fn a_lazy_value_of_before_is_computed_once_and_not_by_the_list() {
    for device in devices() {
        let name = device.name().to_owned();
        let (x, total) = (ramp(&device, 16), ramp(&device, 16).zeros_like().unwrap());
        let total = total.contiguous().unwrap();
        let start = bits(&x);
        let doubled = x.mul_scalar(2.0).unwrap();
        let step = || {
            // Overwrites what the lazy value reads, and then reads the lazy value.
            x.slice_assign(0, 0, &x.mul_scalar(-1.0)?)?;
            add_to(&total, &doubled)
        };
        let (captured, ()) = device.capture(step).unwrap();
        captured.replay().unwrap();
        captured.replay().unwrap();
        let right: Vec<u32> =
            start.iter().map(|&b| (f32::from_bits(b) * 2.0 * 3.0).to_bits()).collect();
        assert_eq!(bits(&total), right, "{name}: three steps add the same value three times");
        assert_eq!(captured.launches(), 4, "{name}: two sums, two copies");
        // Not overwritten either: a replay would have computed it from the new x.
        let once: Vec<u32> = start.iter().map(|&b| (f32::from_bits(b) * 2.0).to_bits()).collect();
        assert_eq!(bits(&doubled), once, "{name}");
    }
}

#[test]
fn zeros_of_before_are_not_a_constant_of_the_list() {
    let device = cpu();
    let (x, zeros) = (ramp(&device, 4), ramp(&device, 4).zeros_like().unwrap());
    let (captured, y) = device.capture(|| x.add(&zeros)).unwrap();
    zeros.copy_from_slice(&[1f32; 4]).unwrap();
    captured.replay().unwrap();
    assert_eq!(bits(&y), bits(&x.add_scalar(1.0).unwrap()));
}

#[test]
fn a_value_that_the_step_leaves_lazy_is_computed_by_every_replay() {
    let device = cpu();
    let x = ramp(&device, 4);
    let (captured, (a, b)) =
        device.capture(|| x.sqr().and_then(|a| Ok((a.clone(), a.mul_scalar(2.0)?)))).unwrap();
    x.copy_from_slice(&[1f32, 2.0, 3.0, 4.0]).unwrap();
    captured.replay().unwrap();
    assert_eq!(a.to_vec::<f32>().unwrap(), [1.0, 4.0, 9.0, 16.0]);
    assert_eq!(b.to_vec::<f32>().unwrap(), [2.0, 8.0, 18.0, 32.0]);
}

#[test]
fn a_lazy_average_between_replays_reads_what_was_there() {
    for device in devices() {
        let run = |captured: bool| -> Vec<u32> {
            let (w, g) = (ramp(&device, 32), ramp(&device, 32));
            let step = || add_to(&w, &g.mul_scalar(0.25)?);
            let mut list = None;
            let mut average = w.mul_scalar(1.0).unwrap();
            for _ in 0..6 {
                match &list {
                    None if captured => list = Some(device.capture(step).unwrap().0),
                    None => step().unwrap(),
                    Some(list) => list.replay().unwrap(),
                }
                // Never looked at: still an expression over w when w is overwritten.
                let new = w.mul_scalar(0.1).unwrap();
                average = average.mul_scalar(0.9).unwrap().add(&new).unwrap();
            }
            bits(&average)
        };
        assert_eq!(run(true), run(false), "{}", device.name());
    }
}

#[test]
fn backward_after_a_replay_sees_that_a_saved_value_is_gone() {
    let device = cpu();
    let (w, g) = (ramp(&device, 8).requires_grad(), ramp(&device, 8));
    let (captured, ()) = device.capture(|| no_grad(|| add_to(&w.detach(), &g))).unwrap();
    let loss = w.sqr().unwrap().sum_all().unwrap();
    captured.replay().unwrap();
    assert!(matches!(loss.backward(), Err(Error::Modified { .. })), "{:?}", loss.backward());
}

#[test]
fn captured_memory_stays_on_the_books() {
    let device = cpu();
    let n = 1 << 16;
    let x = ramp(&device, n);
    let before = device.pool_stats();
    assert_eq!(before.held_bytes, 0);
    let step = || {
        let a = x.exp()?.contiguous()?;
        let b = a.sqr()?.contiguous()?;
        b.sum_all()
    };
    let (captured, y) = device.capture_with(Passes::NONE, step).unwrap();
    let during = device.pool_stats();
    assert!(during.held_bytes >= 2 * 4 * n, "the list's intermediate values: {during:?}");
    assert!(during.peak_bytes >= during.held_bytes + during.in_use_bytes);
    drop(x);
    assert!(device.pool_stats().held_bytes >= 3 * 4 * n, "and its input");
    captured.replay().unwrap();
    drop((captured, y));
    let after = device.pool_stats();
    assert_eq!((after.held_bytes, after.in_use_bytes), (0, 0));
    assert_eq!(after.free_bytes, during.held_bytes + during.in_use_bytes + before.free_bytes);
}

#[test]
fn a_memory_limit_counts_captured_memory() {
    let backend = Device::new("cpu").unwrap().backend().clone();
    let device = Device::with_memory_limit(backend, 1 << 20).unwrap();
    let n = 1 << 16;
    let x = ramp(&device, n);
    let (captured, y) = device.capture(|| x.exp()?.contiguous()?.sqr()?.sum_all()).unwrap();
    let held: Vec<_> = (0..3).map(|_| Tensor::from_slice(&device, &vec![0f32; n], &[n])).collect();
    assert!(held.iter().any(Result::is_err), "1 MiB holds no five times 256 KiB");
    drop((held, captured, y));
    assert!((0..3).all(|_| Tensor::from_slice(&device, &vec![0f32; n], &[n]).is_ok()));
}

#[test]
fn a_step_may_have_more_than_a_thousand_dropouts() {
    const MANY: usize = 2500;
    let device = cpu();
    let x = Tensor::from_slice(&device, &[1f32; 64], &[64]).unwrap();
    let step = || (0..MANY).map(|_| x.dropout(0.5)?.contiguous()).collect::<Result<Vec<_>>>();
    let run = |number: u64| {
        device.set_random_step(number).unwrap();
        step().unwrap().iter().map(bits).collect::<Vec<_>>()
    };
    device.seed(5).unwrap();
    let (first, second) = (run(1), run(2));
    let mut distinct = first.clone();
    distinct.sort();
    distinct.dedup();
    assert_eq!(distinct.len(), MANY, "no two dropouts of a step draw the same numbers");
    device.set_random_step(1).unwrap();
    let (captured, masks) = device.capture(step).unwrap();
    assert_eq!(masks.iter().map(bits).collect::<Vec<_>>(), first);
    device.set_random_step(2).unwrap();
    captured.replay().unwrap();
    assert_eq!(masks.iter().map(bits).collect::<Vec<_>>(), second);
}

#[test]
fn replays_draw_the_numbers_that_running_again_would_draw() {
    for device in devices() {
        let x = Tensor::from_slice(&device, &[1f32; 64], &[64]).unwrap();
        let step = || x.dropout(0.5)?.add(&x.dropout(0.25)?)?.contiguous();
        let between = || bits(&x.dropout(0.5).unwrap());
        device.seed(9).unwrap();
        let eager: Vec<_> = (0..4).map(|_| (bits(&step().unwrap()), between())).collect();
        assert!(eager.windows(2).all(|w| w[0] != w[1]));
        device.seed(9).unwrap();
        let (captured, y) = device.capture(step).unwrap();
        let mut found = vec![(bits(&y), between())];
        for _ in 1..4 {
            captured.replay().unwrap();
            found.push((bits(&y), between()));
        }
        assert_eq!(found, eager, "{}", device.name());
        // Seeded anew the list draws anew.
        device.seed(10).unwrap();
        captured.replay().unwrap();
        let other = bits(&y);
        device.seed(10).unwrap();
        assert_eq!(bits(&step().unwrap()), other, "{}", device.name());
    }
}

#[test]
fn a_capture_may_be_the_first_to_need_random_numbers() {
    let device = cpu();
    let x = Tensor::from_slice(&device, &[1f32; 64], &[64]).unwrap();
    let (captured, y) = device.capture(|| x.dropout(0.5)).unwrap();
    let first = bits(&y);
    captured.replay().unwrap();
    assert_ne!(bits(&y), first);
}

#[test]
fn an_expression_of_a_capture_is_not_computed_by_another_thread() {
    let device = cpu();
    let x = ramp(&device, 8);
    let (captured, y) = device
        .capture(|| {
            let y = x.sqr()?;
            let refused = thread::scope(|s| s.spawn(|| y.to_vec::<f32>()).join().unwrap());
            assert!(matches!(&refused, Err(Error::Invalid(m)) if m.contains("another thread")));
            Ok(y)
        })
        .unwrap();
    let squares = |x: &Tensor| bits(&x.sqr().unwrap());
    assert_eq!(bits(&y), squares(&x));
    x.copy_from_slice(&[3f32; 8]).unwrap();
    captured.replay().unwrap();
    // Now that the capture has ended every thread may.
    thread::scope(|s| s.spawn(|| assert_eq!(bits(&y), squares(&x))).join().unwrap());
}

#[test]
fn a_write_that_a_capture_refuses_leaves_graphs_valid() -> Result<()> {
    let device = cpu();
    let x = ramp(&device, 4).requires_grad();
    let one = x.detach().zeros_like()?.add_scalar(1.0)?;
    let (captured, ()) = device.capture(|| add_to(&x.detach(), &one))?;
    let y = x.sqr()?.sum_all()?;
    assert!(device.capture(|| x.copy_from_slice(&[0f32; 4])).is_err());
    assert!(device.capture(|| captured.replay()).is_err());
    y.backward()
}

#[test]
fn a_random_step_that_is_refused_changes_nothing() {
    let device = cpu();
    let x = Tensor::ones(&device, starling_engine::DType::F32, &[64]).unwrap();
    device.seed(1).unwrap();
    let first = bits(&x.dropout(0.5).unwrap());
    assert!(device.capture(|| device.set_random_step(3)).is_err());
    assert_ne!(bits(&x.dropout(0.5).unwrap()), first, "the next dropout draws the next numbers");
}
