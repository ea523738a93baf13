//! Attention's memory is linear in the sequence length: counted, not argued.

use starling_contract::Layout;
use starling_kernels_cpu::Isa;
use starling_kernels_cpu::attention::{
    Backward, Forward, Tensor, backward, backward_workspace_bytes, forward,
};
use std::alloc::{GlobalAlloc, Layout as Bytes, System};
use std::sync::atomic::{AtomicUsize, Ordering};

/// The system's allocator, counting what is held.
struct Counting;

static HELD: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call is handed on to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Bytes) -> *mut u8 {
        let held = HELD.fetch_add(layout.size(), Ordering::SeqCst) + layout.size();
        PEAK.fetch_max(held, Ordering::SeqCst);
        // SAFETY: the caller's promise is handed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Bytes) {
        HELD.fetch_sub(layout.size(), Ordering::SeqCst);
        // SAFETY: the caller's promise is handed on.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Bytes that `f` holds at its worst, above what was held before.
fn peak(f: impl FnOnce()) -> usize {
    let before = HELD.load(Ordering::SeqCst);
    PEAK.store(before, Ordering::SeqCst);
    f();
    PEAK.load(Ordering::SeqCst) - before
}

/// Peak bytes of forward and of backward with its workspace, inputs and outputs not counted.
fn peaks(heads: usize, length: usize, dim: usize, threads: usize) -> [usize; 2] {
    let shape = [1, heads, length, dim];
    let layout = Layout::contiguous(&shape);
    let mut data: Vec<Vec<f32>> = (0..8).map(|i| vec![0.01 * i as f32; layout.len()]).collect();
    let mut lse = vec![0.0f32; heads * length];
    let mut t = data.iter_mut().map(|x| Tensor { at: x.as_mut_ptr(), layout });
    let mut next = || t.next().expect("eight tensors");
    let call = Forward {
        q: next(),
        k: next(),
        v: next(),
        mask: None,
        causal: true,
        spans: std::ptr::null(),
        scale: 0.125,
        out: next(),
        lse: Tensor { at: lse.as_mut_ptr(), layout: Layout::contiguous(&shape[..3]) },
    };
    let (d_out, d_q, d_k, d_v) = (next(), next(), next(), next());
    // Threads of its own start without working memory; kept, so that none is freed meanwhile.
    let run = |f: &(dyn Fn() + Sync)| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
        let pool = pool.expect("a thread pool");
        pool.install(f);
        std::mem::forget(pool);
    };
    // SAFETY: each tensor has its own memory and the shape that the call needs.
    let ahead = peak(|| run(&|| unsafe { forward(Isa::from_env().unwrap(), &call) }));
    let back = peak(|| {
        run(&|| {
            let mut workspace = vec![0.0f32; backward_workspace_bytes(&layout, &layout) / 4];
            let workspace = workspace.as_mut_ptr();
            let call = Backward { forward: call, d_out, d_q, d_k, d_v, workspace };
            // SAFETY: as above; the workspace has the bytes that were asked for.
            unsafe { backward(Isa::from_env().unwrap(), &call) }
        });
    });
    [ahead, back]
}

#[test]
fn twice_the_length_takes_twice_the_memory() {
    const LENGTHS: [usize; 3] = [2048, 4096, 8192];
    // Working memory is handed out in whole huge pages.
    let slack = 4 << 20;
    // One head takes two passes, eight take one.
    for heads in [1, 8] {
        // One thread: how many of several would find work is left to chance.
        let all = LENGTHS.map(|length| peaks(heads, length, 64, 1));
        let several = peaks(heads, LENGTHS[2], 64, 2);
        for (i, name) in ["forward", "backward"].into_iter().enumerate() {
            let [a, b, c] = [0, 1, 2].map(|length| all[length][i]);
            println!("{name}, {heads} heads: {a}, {b}, {c} bytes at {LENGTHS:?}");
            let linear = b <= 2 * a + slack && c <= 2 * b + slack;
            assert!(linear, "{name} holds {a}, {b}, {c} bytes at {LENGTHS:?}");
            let (held, scores) = (c.max(several[i]), 4 * LENGTHS[2] * LENGTHS[2]);
            assert!(held < scores / 4, "{name} holds {held} bytes, one head's scores {scores}");
        }
    }
}
