//! Attention over infinite operands, in narrow types, twice, and what its options take.

use starling_contract::{
    Attention, AttentionBackward, Backend, BlockMask, DType, HostStorage, Layout, Lengths, Score,
    Sight, Storage, Stream, Support, Verb, View, WeightDropout,
};
use starling_ops::program::Builder;
use starling_ops::wgsl::Fma;
use starling_ops::{Key, Math, Trace};
use starling_webgpu::plan::{Scope, shaders, workspace_bytes};
use starling_webgpu::{Limits, Options, Variant, WebGpuBackend};
use std::cell::{Cell, RefCell};
use std::sync::Arc;

const VARIANTS: [&str; 4] = ["plain", "subgroup", "subgroup+f16", "plain+hardware"];

fn open(variant: &str, checked: bool) -> Arc<dyn Backend> {
    let options: Options = variant.parse().unwrap();
    WebGpuBackend::with(0, Options { checked, ..options }).unwrap()
}

/// Host values as a view of a device; `values` is what lies in the storage.
fn upload(
    backend: &dyn Backend,
    stream: &dyn Stream,
    dtype: DType,
    shape: &[usize],
    values: &[f32],
) -> View {
    let encode = |&x: &f32| match dtype {
        DType::F16 => half::f16::from_f32(x).to_bits().to_le_bytes().to_vec(),
        DType::BF16 => half::bf16::from_f32(x).to_bits().to_le_bytes().to_vec(),
        DType::U8 => vec![x as u8],
        _ => x.to_le_bytes().to_vec(),
    };
    let bytes: Vec<u8> = values.iter().flat_map(encode).collect();
    let view = View::contiguous(backend.alloc(bytes.len()).unwrap(), dtype, shape);
    stream.upload(&bytes, &view).unwrap();
    view
}

fn download(stream: &dyn Stream, view: &View) -> Vec<f32> {
    let mut bytes = vec![0; view.len() * view.dtype.size()];
    pollster::block_on(stream.download(view, &mut bytes)).unwrap();
    let decode = |b: &[u8]| match view.dtype {
        DType::F16 => half::f16::from_le_bytes([b[0], b[1]]).to_f32(),
        DType::BF16 => half::bf16::from_le_bytes([b[0], b[1]]).to_f32(),
        _ => f32::from_le_bytes([b[0], b[1], b[2], b[3]]),
    };
    bytes.chunks(view.dtype.size()).map(decode).collect()
}

fn numbers(n: usize, seed: u32) -> Vec<f32> {
    let mut state = seed.wrapping_mul(2_654_435_761).wrapping_add(12345);
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..n).map(|_| next()).collect()
}

/// The results of forward and backward: out, lse, d_q, d_k, d_v.
fn both(
    backend: &Arc<dyn Backend>,
    dtype: DType,
    sizes: [usize; 6],
    causal: bool,
    inputs: &[Vec<f32>; 4],
    mask: Option<&[f32]>,
) -> [Vec<f32>; 5] {
    let [batch, heads, kv_heads, queries, keys, dim] = sizes;
    let (q, kv) = ([batch, heads, queries, dim], [batch, kv_heads, keys, dim]);
    let stream = backend.stream().unwrap();
    let (b, s) = (backend.as_ref(), stream.as_ref());
    let put = |shape: &[usize], values: &[f32]| upload(b, s, dtype, shape, values);
    let empty =
        |shape: &[usize], dtype| upload(b, s, dtype, shape, &vec![7.0; shape.iter().product()]);
    let forward = Attention {
        q: put(&q, &inputs[0]),
        k: put(&kv, &inputs[1]),
        v: put(&kv, &inputs[2]),
        mask: mask.map(|m| {
            let view = upload(b, s, DType::U8, &[keys], m);
            view.with(Layout::new(&[batch, heads, queries, keys], &[0, 0, 0, 1], 0))
        }),
        sight: Sight { causal, ..Sight::default() },
        score: None,
        dropout: None,
        scale: 1.0 / (dim as f32).sqrt(),
        out: empty(&q, dtype),
        lse: empty(&q[..3], DType::F32),
    };
    let (out, lse) = (forward.out.clone(), forward.lse.clone());
    let mut verb = AttentionBackward {
        forward: forward.clone(),
        d_out: put(&q, &inputs[3]),
        d_q: empty(&q, dtype),
        d_k: empty(&kv, dtype),
        d_v: empty(&kv, dtype),
        d_mask: None,
        d_inputs: vec![],
        workspace: None,
    };
    let (d_q, d_k, d_v) = (verb.d_q.clone(), verb.d_k.clone(), verb.d_v.clone());
    let bytes = backend.workspace_bytes(&verb.clone().into());
    assert!(bytes <= batch * heads * queries * 16, "{bytes} bytes are no row sums");
    verb.workspace = Some(empty(&[bytes / 4], DType::F32));
    for verb in [Verb::from(forward), verb.into()] {
        let verb = verb.check().unwrap();
        assert_eq!(backend.supports(&verb), Support::Native);
        stream.submit(&verb).unwrap();
    }
    pollster::block_on(stream.sync()).unwrap();
    [out, lse, d_q, d_k, d_v].map(|v| download(s, &v))
}

fn inputs(sizes: [usize; 6]) -> [Vec<f32>; 4] {
    let [batch, heads, kv_heads, queries, keys, dim] = sizes;
    let (q, kv) = (batch * heads * queries * dim, batch * kv_heads * keys * dim);
    [numbers(q, 1), numbers(kv, 2), numbers(kv, 3), numbers(q, 4)]
}

#[test]
fn narrow_types_are_f32_rounded_at_the_ends() {
    let sizes = [1, 4, 2, 9, 13, 12];
    for variant in VARIANTS {
        let backend = open(variant, false);
        for (dtype, unit) in [(DType::F16, 2f32.powi(-11)), (DType::BF16, 2f32.powi(-8))] {
            // The same numbers in both types.
            let round = |x: f32| match dtype {
                DType::F16 => half::f16::from_f32(x).to_f32(),
                _ => half::bf16::from_f32(x).to_f32(),
            };
            let all = inputs(sizes).map(|v| v.into_iter().map(round).collect::<Vec<f32>>());
            let narrow = both(&backend, dtype, sizes, true, &all, None);
            let wide = both(&backend, DType::F32, sizes, true, &all, None);
            assert_eq!(narrow[1], wide[1], "{variant} {dtype}: log-sum-exp");
            for (name, i) in [("out", 0), ("d_q", 2), ("d_k", 3), ("d_v", 4)] {
                let scale = wide[i].iter().fold(0f32, |m, x| m.max(x.abs()));
                for (a, b) in narrow[i].iter().zip(&wide[i]) {
                    // delta uses the rounded result, so gradients are not only rounded once.
                    assert!((a - b).abs() <= 4.0 * unit * scale, "{variant} {name}: {a} {b}");
                }
            }
        }
    }
}

#[test]
fn hidden_keys_do_not_contribute_even_when_infinite() {
    let sizes = [1, 2, 1, 20, 20, 8];
    let mut keep = vec![1.0; 20];
    keep[3] = 0.0;
    keep[17] = 0.0;
    for variant in VARIANTS {
        for causal in [false, true] {
            let backend = open(variant, false);
            let clean = inputs(sizes);
            let mut spoiled = clean.clone();
            for (key, value) in [(3, f32::INFINITY), (17, f32::NAN)] {
                spoiled[1][key * 8..][..8].fill(f32::NAN);
                spoiled[2][key * 8..][..8].fill(value);
            }
            let right = both(&backend, DType::F32, sizes, causal, &clean, Some(&keep));
            let got = both(&backend, DType::F32, sizes, causal, &spoiled, Some(&keep));
            assert_eq!(right[0], got[0], "{variant} {causal}");
            assert_eq!(right[1], got[1], "{variant} {causal}");
            // A causal query does not see an infinite value that comes later; those that do get it.
            let mut late = clean.clone();
            late[2][12 * 8 + 5] = f32::INFINITY;
            let got = both(&backend, DType::F32, sizes, true, &late, None);
            let right = both(&backend, DType::F32, sizes, true, &clean, None);
            for (i, (got, right)) in got[0].iter().zip(&right[0]).enumerate() {
                let (query, column) = (i / 8 % 20, i % 8);
                let infinite = query >= 12 && column == 5;
                let expected = if infinite { f32::INFINITY } else { *right };
                assert_eq!(*got, expected, "{variant} query {query} column {column}");
            }
        }
    }
}

#[test]
fn the_same_bits_every_time() {
    let sizes = [2, 4, 2, 70, 90, 32];
    for variant in VARIANTS {
        let backend = open(variant, false);
        let first = both(&backend, DType::F32, sizes, true, &inputs(sizes), None);
        assert!(
            first == both(&backend, DType::F32, sizes, true, &inputs(sizes), None),
            "{variant}"
        );
    }
}

#[test]
fn larger_head_dimensions_are_left_to_the_engine() {
    let backend = open("plain", false);
    let view = |shape: &[usize]| {
        View::contiguous(
            backend.alloc(4 * shape.iter().product::<usize>()).unwrap(),
            DType::F32,
            shape,
        )
    };
    for (dim, support) in [(256, Support::Native), (257, Support::Composed)] {
        let x = || view(&[1, 1, 2, dim]);
        let verb = Attention {
            q: x(),
            k: x(),
            v: x(),
            mask: None,
            sight: Sight { window: Some(1), ..Sight::default() },
            scale: 1.0,
            score: None,
            dropout: None,
            out: x(),
            lse: view(&[1, 1, 2]),
        };
        assert_eq!(backend.supports(&verb.into()), support);
    }
}

/// An attention of `n` queries and keys with every option, whose gradients of mask and score are
/// sums; its operands lie in `memory`.
fn everything(n: usize, memory: &Arc<dyn Storage>) -> AttentionBackward {
    let (heads, dim) = (4, 8);
    // Views of one element, for nothing is run.
    let view = |dtype, shape: &[usize]| View {
        storage: memory.clone(),
        dtype,
        layout: Layout::new(shape, &vec![0; shape.len()], 0),
    };
    let f32s = |shape: &[usize]| view(DType::F32, shape);
    let (row, pairs) = ([1, heads, n, dim], [1, heads, n, n]);
    let builder = RefCell::new(Builder::new());
    let t = Trace(&builder);
    let biased = t.add(t.input(0), t.mul(t.input(5), t.sub(t.input(2), t.input(1)))).0;
    let program = (Arc::new(builder.borrow().finish(&[biased])), Default::default());
    let word = || view(DType::U32, &[]);
    let key =
        Key { seed_lo: word(), seed_hi: word(), instance: word(), step: word(), node: word() };
    let starts = || view(DType::I32, &[1, 5]);
    let forward = Attention {
        q: f32s(&row),
        k: f32s(&row),
        v: f32s(&row),
        mask: Some(f32s(&pairs)),
        sight: Sight {
            causal: true,
            window: Some(64),
            lengths: Lengths::Packed { queries: starts(), keys: starts() },
            blocks: Some(BlockMask {
                keep: view(DType::U8, &[1, heads, n.div_ceil(16), n.div_ceil(16)]),
                size: [16, 16],
            }),
        },
        score: Some(Score::new(program, vec![], vec![f32s(&pairs)])),
        dropout: Some(WeightDropout { p: 0.1, key }),
        scale: 1.0,
        out: f32s(&row),
        lse: f32s(&row[..3]),
    };
    AttentionBackward {
        forward,
        d_out: f32s(&row),
        d_q: f32s(&row),
        d_k: f32s(&row),
        d_v: f32s(&row),
        d_mask: Some(f32s(&[1, 1, n, 1])),
        d_inputs: vec![Some(f32s(&[1, heads, 1, 1]))],
        workspace: None,
    }
}

/// All memory that a verb's plan takes: what it asks for and what it puts aside.
fn memory_of(mut verb: Verb) -> usize {
    let limits = Limits {
        slots: 8,
        binding_bytes: 128 << 20,
        buffer_bytes: 256 << 20,
        workgroup_bytes: 16 << 10,
        invocations: 256,
        lanes: 1,
        matrix: 0,
    };
    let host = |bytes| Ok(HostStorage::new(bytes)? as Arc<dyn Storage>);
    let taken = Cell::new(workspace_bytes(&verb));
    if let (bytes @ 1.., Some(slot)) = (taken.get(), verb.workspace_mut()) {
        *slot = Some(View::contiguous(host(bytes).unwrap(), DType::U8, &[bytes]));
    }
    let alloc = |bytes| {
        taken.set(taken.get() + bytes);
        host(bytes)
    };
    let faults = View::contiguous(host(16).unwrap(), DType::U32, &[4]);
    let scope = Scope {
        limits: &limits,
        variant: Variant::default(),
        software: false,
        turns: usize::MAX,
        alloc: &alloc,
        faults: &faults,
    };
    assert!(!shaders(&verb, scope, Fma::Fused).unwrap().is_empty());
    taken.get()
}

#[test]
fn options_take_memory_linear_in_the_sequence() {
    let memory: Arc<dyn Storage> = HostStorage::new(64).unwrap();
    let both = |n| {
        let backward = everything(n, &memory);
        memory_of(backward.forward.clone().into()) + memory_of(backward.into())
    };
    let (short, long) = (both(1 << 10), both(1 << 14));
    assert!(long <= 17 * short, "{short} bytes for 2^10 positions, {long} for 2^14");
}
