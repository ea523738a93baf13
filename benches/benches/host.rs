//! What the host does for an operation: nanoseconds and allocations, on tensors so small that the
//! kernels take next to nothing. On the device that `STARLING_DEVICE` names (`cpu` without it).

use starling_engine::{Device, Passes, Result, Tensor};
use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// The system's allocator, counting how often it is asked.
struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

// SAFETY: every call is handed on to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promise is handed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise is handed on.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Operations between two looks at the clock.
const BATCH: u32 = 2000;
/// Of so many batches the fastest counts: the others were disturbed.
const BATCHES: u32 = 50;

/// Prints what each of `units` units of `f` costs.
fn measure(name: &str, units: usize, mut f: impl FnMut() -> Result<()>) -> Result<()> {
    let calls = BATCH.div_ceil(units as u32);
    let per = f64::from(calls) * units as f64;
    let (mut best, mut allocations) = (f64::INFINITY, 0.0);
    for _ in 0..BATCHES {
        let before = ALLOCATIONS.load(Ordering::Relaxed);
        let start = Instant::now();
        (0..calls).try_for_each(|_| f())?;
        best = best.min(start.elapsed().as_nanos() as f64 / per);
        allocations = (ALLOCATIONS.load(Ordering::Relaxed) - before) as f64 / per;
    }
    println!("{name:<32} {best:>9.0} ns {allocations:>9.2} allocations");
    Ok(())
}

fn main() -> Result<()> {
    let name = std::env::var("STARLING_DEVICE").unwrap_or_else(|_| "cpu".into());
    let device = Device::new(&name)?;
    let x = Tensor::from_slice(&device, &[0.5f32; 16], &[4, 4])?;
    let y = Tensor::from_slice(&device, &[0.25f32; 16], &[4, 4])?;
    measure("eager x + y", 1, || x.add(&y)?.contiguous().map(drop))?;
    measure("eager x + 3", 1, || x.add_scalar(3.0)?.contiguous().map(drop))?;
    measure("eager tanh(x + y) * y", 3, || x.add(&y)?.tanh()?.mul(&y)?.contiguous().map(drop))?;
    measure("eager sum of rows", 1, || x.sum(&[1], false)?.contiguous().map(drop))?;
    measure("eager x y (4x4)", 1, || x.matmul(&y)?.contiguous().map(drop))?;
    let steps = 100;
    let product = || (0..steps).try_fold(x.clone(), |z, _| z.matmul(&y));
    let (captured, _kept) = device.capture_with(Passes::NONE, product)?;
    measure("replayed x y (4x4)", captured.launches(), || captured.replay())?;
    let sums = || (0..steps).try_fold(x.clone(), |z, _| z.add(&y)?.contiguous());
    let (captured, _kept) = device.capture_with(Passes::NONE, sums)?;
    measure("replayed x + y", captured.launches(), || captured.replay())
}
