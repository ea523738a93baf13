//! Attention where special values occur, in narrow types, and twice.

use starling_conformance::{Tier, Verdict, cases, run};
use starling_contract::{
    Attention, AttentionBackward, Backend, Capabilities, DType, DeviceId, Layout, Result, Sight,
    Storage, Stream, Support, Verb, View,
};
use starling_webgpu::{Options, WebGpuBackend};
use std::sync::Arc;

const VARIANTS: [&str; 4] = ["plain", "subgroup", "subgroup+f16", "plain+hardware"];

fn open(variant: &str, checked: bool) -> Arc<dyn Backend> {
    let options: Options = variant.parse().unwrap();
    WebGpuBackend::with(0, Options { checked, ..options }).unwrap()
}

/// A backend that says that it keeps special values: attention must treat hidden keys right
/// whether or not the device promises that for arithmetic.
struct Special(Arc<dyn Backend>, Capabilities);

impl Backend for Special {
    fn name(&self) -> &str {
        self.0.name()
    }
    fn device(&self) -> DeviceId {
        self.0.device()
    }
    fn capabilities(&self) -> &Capabilities {
        &self.1
    }
    fn supports(&self, verb: &Verb) -> Support {
        self.0.supports(verb)
    }
    fn workspace_bytes(&self, verb: &Verb) -> usize {
        self.0.workspace_bytes(verb)
    }
    fn alloc(&self, bytes: usize) -> Result<Arc<dyn Storage>> {
        self.0.alloc(bytes)
    }
    fn stream(&self) -> Result<Box<dyn Stream>> {
        self.0.stream()
    }
}

#[test]
fn the_table_with_special_values() {
    for variant in VARIANTS {
        for checked in [false, true] {
            let backend = open(variant, checked);
            let says = Capabilities { special_values: true, ..backend.capabilities().clone() };
            let special: Arc<dyn Backend> = Arc::new(Special(backend, says));
            let mut failures = Vec::new();
            // The others run with every verb's, in variants.rs.
            let mut table = cases(Tier::Quick);
            table.retain(|case| case.special);
            let summary = run(&special, &table, Some("attention"), &mut |case, verdict| {
                if let Verdict::Failed { message, .. } = verdict {
                    failures.push(format!("{}: {message}", case.title()));
                }
            });
            assert!(failures.is_empty(), "{variant} {checked}:\n{}", failures.join("\n"));
            assert!(summary.passed >= 30, "{variant}: {} cases", summary.passed);
            let composed = |r: &String| r.contains("leaves it to the engine to compose attention");
            assert!(summary.reasons.keys().all(composed), "{variant}: {:?}", summary.reasons);
        }
    }
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
fn larger_head_dimensions_and_windows_are_left_to_the_engine() {
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
            sight: Sight::default(),
            scale: 1.0,
            score: None,
            dropout: None,
            out: x(),
            lse: view(&[1, 1, 2]),
        };
        assert_eq!(backend.supports(&verb.clone().into()), support);
        let sight = Sight { window: Some(1), ..Sight::default() };
        assert_eq!(backend.supports(&Attention { sight, ..verb }.into()), Support::Composed);
    }
}
