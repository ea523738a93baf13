//! Attention's memory is linear in the sequence length: counted, not argued.

use starling_contract::{
    Attention, AttentionBackward, BlockMask, DType, HostStorage, Kind, Layout, Score, Sight, Verb,
    View, WeightDropout,
};
use starling_kernels_cpu::attention::{
    Backward, Forward, Options, PairGradient, PairOperand, Standing, Tensor, backward,
    backward_workspace_bytes, forward,
};
use starling_kernels_cpu::{Isa, Team};
use starling_ops::program::Builder;
use starling_ops::{Key, Math, Trace};
use std::alloc::{GlobalAlloc, Layout as Bytes, System};
use std::cell::RefCell;
use std::sync::Arc;
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

/// Calls `f` on so many threads, the caller among them, which start without working memory.
fn fresh(threads: usize, f: &(dyn Fn() + Sync)) {
    std::thread::scope(|scope| {
        scope.spawn(|| Team::new(threads).expect("threads").install(f));
    });
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
        options: None,
        out: next(),
        lse: Tensor { at: lse.as_mut_ptr(), layout: Layout::contiguous(&shape[..3]) },
    };
    let (d_out, d_q, d_k, d_v) = (next(), next(), next(), next());
    // SAFETY: each tensor has its own memory and the shape that the call needs.
    let ahead = peak(|| fresh(threads, &|| unsafe { forward(Isa::from_env().unwrap(), &call) }));
    let back = peak(|| {
        fresh(threads, &|| {
            let mut workspace = vec![0.0f32; backward_workspace_bytes(&layout, &layout, []) / 4];
            let workspace = workspace.as_mut_ptr();
            let call = Backward { forward: call, d_out, d_q, d_k, d_v, pairs: &[], workspace };
            // SAFETY: as above; the workspace has the bytes that were asked for.
            unsafe { backward(Isa::from_env().unwrap(), &call) }
        });
    });
    [ahead, back]
}

/// `[batch, heads, queries, keys]` numbers from memory of `shape`, repeated.
fn repeated(shape: &[usize], pairs: &[usize], dtype: DType) -> View {
    let bytes = shape.iter().product::<usize>() * dtype.size();
    let view = View::contiguous(HostStorage::new(bytes).unwrap(), dtype, shape);
    let layout = view.layout.broadcast_to(pairs).unwrap();
    view.with(layout)
}

/// Attention with every option that is neither a mask nor a mask's gradient.
fn with_options(heads: usize, length: usize, dim: usize) -> AttentionBackward {
    let f32 = |shape: &[usize]| repeated(shape, shape, DType::F32);
    let (shape, pairs) = ([1, heads, length, dim], [1, heads, length, length]);
    let builder = RefCell::new(Builder::new());
    let t = Trace(&builder);
    let distance = t.sub(t.input(2), t.input(1));
    let value = t.add(t.input(0), t.mul(t.input(Score::OWN_INPUTS), distance));
    let (program, immediates) = builder.borrow().finish_with_immediates(&[value.0]);
    let slopes = repeated(&[1, heads, 1, 1], &pairs, DType::F32);
    let score = Score::new((Arc::new(program), immediates), vec![], vec![slopes]);
    let word = || repeated(&[], &[], DType::U32);
    let key =
        Key { seed_lo: word(), seed_hi: word(), instance: word(), step: word(), node: word() };
    let blocks = [1, 1, length.div_ceil(100), length.div_ceil(100)];
    let keep = repeated(&blocks, &[1, heads, blocks[2], blocks[3]], DType::U8);
    let kept = HostStorage::of(&keep).expect("host memory");
    // SAFETY: the memory holds a byte for each block.
    unsafe { kept.write_bytes(1, blocks[2] * blocks[3]) };
    let sight = Sight { causal: true, ..Sight::default() };
    let sight = Sight { blocks: Some(BlockMask { keep, size: [100, 100] }), ..sight };
    let forward = Attention {
        q: f32(&shape),
        k: f32(&shape),
        v: f32(&shape),
        mask: None,
        sight,
        scale: 0.125,
        score: Some(score),
        dropout: Some(WeightDropout { p: 0.1, key }),
        out: f32(&shape),
        lse: f32(&shape[..3]),
    };
    AttentionBackward {
        d_out: f32(&shape),
        d_q: f32(&shape),
        d_k: f32(&shape),
        d_v: f32(&shape),
        d_mask: None,
        d_inputs: vec![Some(f32(&[1, heads, 1, 1]))],
        forward,
        workspace: None,
    }
}

/// As [`peaks`], with the options' own memory.
fn peaks_with_options(heads: usize, length: usize, dim: usize) -> [usize; 2] {
    let verb = with_options(heads, length, dim);
    let standing = |i| Standing { position: i as f32, origin: 0 };
    let standings: Vec<_> = (0..length).map(standing).collect();
    let isa = Isa::from_env().unwrap();
    let tensor = |view: &View| Tensor {
        at: HostStorage::of(view).expect("host memory").cast(),
        layout: view.layout,
    };
    let (f, d_input) = (&verb.forward, verb.d_inputs[0].as_ref().expect("a gradient"));
    let checked = [Verb::from(f.clone()), Verb::from(verb.clone())].map(|v| v.check().unwrap());
    let [ahead, back] = checked.each_ref().map(|verb| match verb.kind() {
        Kind::Attention(v) => Options::of_forward(isa, v, &standings).unwrap(),
        Kind::AttentionBackward(v) => Options::of_backward(isa, v, &standings).unwrap(),
        other => panic!("{other:?}"),
    });
    let call = Forward {
        q: tensor(&f.q),
        k: tensor(&f.k),
        v: tensor(&f.v),
        mask: None,
        causal: true,
        spans: std::ptr::null(),
        scale: f.scale,
        options: ahead.as_ref(),
        out: tensor(&f.out),
        lse: tensor(&f.lse),
    };
    // SAFETY: each tensor has its own memory and the shape that the call needs.
    let forward_peak = peak(|| fresh(1, &|| unsafe { forward(isa, &call) }));
    let again = Forward { options: back.as_ref(), ..call };
    let pairs = [PairGradient { of: PairOperand::Input(0), to: tensor(d_input) }];
    let backward_peak = peak(|| {
        fresh(1, &|| {
            let bytes = backward_workspace_bytes(&f.q.layout, &f.k.layout, [&d_input.layout]);
            let mut workspace = vec![0.0f32; bytes / 4];
            let call = Backward {
                forward: again,
                d_out: tensor(&verb.d_out),
                d_q: tensor(&verb.d_q),
                d_k: tensor(&verb.d_k),
                d_v: tensor(&verb.d_v),
                pairs: &pairs,
                workspace: workspace.as_mut_ptr(),
            };
            // SAFETY: as above; the workspace has the bytes that were asked for.
            unsafe { backward(isa, &call) }
        });
    });
    [forward_peak, backward_peak]
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
    let all = LENGTHS.map(|length| peaks_with_options(1, length, 64));
    for (i, name) in ["forward", "backward"].into_iter().enumerate() {
        let [a, b, c] = [0, 1, 2].map(|length| all[length][i]);
        println!("{name} with options: {a}, {b}, {c} bytes at {LENGTHS:?}");
        assert!(b <= 2 * a + slack && c <= 2 * b + slack, "{name} with options: {a}, {b}, {c}");
    }
}
