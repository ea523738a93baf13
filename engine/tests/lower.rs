//! Lowering: a backend that has only map, reduce, gemm and copy passes the whole table.

use starling_api::{
    Backend, Capabilities, Download, Error, Result, Storage, Stream, Support, Verb, View,
};
use starling_conformance::{Case, Tier, Verdict, cases, run};
use starling_engine::{Device, Tensor};
use starling_reference::ReferenceBackend;
use std::sync::Arc;

/// A backend reduced to the four verbs that a new one must have.
struct Minimal {
    inner: Arc<dyn Backend>,
    reduces: bool,
}

impl Minimal {
    fn device(inner: Arc<dyn Backend>) -> Device {
        Device::from_backend(Arc::new(Self { inner, reduces: true })).unwrap()
    }
}

fn reference() -> Arc<dyn Backend> {
    Arc::new(ReferenceBackend::new())
}

fn basic(verb: &Verb) -> bool {
    match verb {
        Verb::Map(_) | Verb::Reduce(_) | Verb::Copy(_) => true,
        Verb::Gemm(v) => v.epilogue.is_none(),
        _ => false,
    }
}

impl Backend for Minimal {
    fn name(&self) -> &str {
        "minimal"
    }

    fn capabilities(&self) -> &Capabilities {
        self.inner.capabilities()
    }

    fn supports(&self, verb: &Verb) -> Support {
        match verb {
            Verb::Reduce(_) if !self.reduces => Support::No,
            verb if basic(verb) => Support::Native,
            Verb::Gemm(_) => Support::No,
            _ => Support::Composed,
        }
    }

    fn alloc(&self, bytes: usize) -> Result<Arc<dyn Storage>> {
        self.inner.alloc(bytes)
    }

    fn stream(&self) -> Result<Box<dyn Stream>> {
        let inner = self.inner.stream()?;
        Ok(Box::new(Forwarding {
            inner,
            submit: |stream: &dyn Stream, verb: &Verb| {
                assert!(basic(verb), "{} reached the backend", verb.name());
                stream.submit(verb)
            },
        }))
    }
}

/// A stream with a way of its own to run verbs.
struct Forwarding<F> {
    inner: Box<dyn Stream>,
    submit: F,
}

impl<F: Fn(&dyn Stream, &Verb) -> Result<()> + Send + Sync> Stream for Forwarding<F> {
    fn submit(&self, verb: &Verb) -> Result<()> {
        (self.submit)(self.inner.as_ref(), verb)
    }

    fn upload(&self, bytes: &[u8], to: &View) -> Result<()> {
        self.inner.upload(bytes, to)
    }

    fn download<'a>(&'a self, from: &'a View, bytes: &'a mut [u8]) -> Download<'a> {
        self.inner.download(from, bytes)
    }

    fn sync(&self) -> Result<()> {
        self.inner.sync()
    }
}

/// A device as a backend, so that the table runs through the engine.
struct Engine(Device);

impl Backend for Engine {
    fn name(&self) -> &str {
        "engine"
    }

    fn capabilities(&self) -> &Capabilities {
        self.0.capabilities()
    }

    fn supports(&self, _: &Verb) -> Support {
        Support::Native
    }

    fn alloc(&self, bytes: usize) -> Result<Arc<dyn Storage>> {
        self.0.backend().alloc(bytes)
    }

    fn stream(&self) -> Result<Box<dyn Stream>> {
        let (inner, device) = (self.0.backend().stream()?, self.0.clone());
        Ok(Box::new(Forwarding {
            inner,
            submit: move |_: &dyn Stream, verb: &Verb| {
                device.run(verb.clone()).map_err(|error| match error {
                    starling_engine::Error::Backend(error) => error,
                    other => Error::Driver(other.into()),
                })
            },
        }))
    }
}

/// Cases of verbs that the minimal backend leaves to the engine.
fn composed(tier: Tier) -> Vec<Case> {
    let is_composed = |case: &Case| {
        let problem = case.problem();
        let verb = problem.over(&problem.on_host().unwrap());
        !basic(&verb) && !matches!(verb, Verb::Gemm(_))
    };
    cases(tier).into_iter().filter(is_composed).collect()
}

fn assert_passes(inner: Arc<dyn Backend>, tier: Tier) {
    let backend: Arc<dyn Backend> = Arc::new(Engine(Minimal::device(inner)));
    let mut wrong = Vec::new();
    let summary = run(&backend, &composed(tier), None, &mut |case, verdict| {
        if let Verdict::Failed { message, .. } = verdict {
            wrong.push(format!("{}: {message}", case.title()));
        }
    });
    for line in &summary.ops {
        println!("{:24} {:4} cases, worst {:.3}", line.op, line.cases, line.worst);
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), summary.passed, wrong.join("\n"));
    assert_eq!(summary.skipped, 0, "{:?}", summary.reasons);
    let ops = ["attention", "attention_backward", "softmax", "log_softmax_backward", "layer_norm"];
    let more = ["rms_norm_backward", "cross_entropy_backward", "gather", "scatter_add", "fill"];
    for op in ops.iter().chain(&more) {
        assert!(summary.ops.iter().any(|line| line.op == *op), "no case of {op} was run");
    }
}

#[test]
fn composed_verbs_pass_the_quick_table() {
    assert_passes(reference(), Tier::Quick);
}

/// The same with every step rounded to f32.
#[test]
fn composed_verbs_pass_the_quick_table_on_the_cpu() {
    assert_passes(starling_cpu::CpuBackend::detect().unwrap(), Tier::Quick);
}

#[test]
#[ignore = "minutes: run it when the lowering changes"]
fn composed_verbs_pass_the_full_table_on_the_cpu() {
    assert_passes(starling_cpu::CpuBackend::detect().unwrap(), Tier::Full);
}

#[test]
fn a_missing_part_is_a_typed_error() {
    let backend = Minimal { inner: reference(), reduces: false };
    let device = Device::from_backend(Arc::new(backend)).unwrap();
    let x = Tensor::from_slice(&device, &[1f32, 2.0], &[1, 2]).unwrap();
    let error = x.softmax(-1).err().map(|e| e.to_string()).unwrap();
    assert!(error.contains("minimal cannot run reduce"), "{error}");
    // What the others are made of has nothing to be made of itself.
    let copy =
        Tensor::from_slice(&device, &[1f32, 2.0], &[2]).unwrap().to_dtype(starling_api::DType::U8);
    assert_eq!(copy.unwrap().to_vec::<u8>().unwrap(), [1, 2]);
}

/// An embedding, attention, a norm and a loss, with the gradients of table and weight.
fn step(ids: &Tensor, targets: &Tensor, table: &Tensor, weight: &Tensor) -> Vec<Tensor> {
    let (table, weight) = (table.requires_grad(), weight.requires_grad());
    let x = table.embedding(ids).unwrap();
    let heads = x.reshape(&[1, 6, 2, 4]).unwrap().permute(&[0, 2, 1, 3]).unwrap();
    let options = starling_engine::AttentionOptions { causal: true, ..Default::default() };
    let mixed = heads.attention(&heads, &heads, &options).unwrap();
    let rows = mixed.permute(&[0, 2, 1, 3]).unwrap().reshape(&[6, 8]).unwrap();
    let normal = rows.layer_norm(None, None, 1e-5).unwrap();
    let logits = normal.matmul(&weight).unwrap();
    let loss = logits.cross_entropy(targets, Some(-1)).unwrap();
    loss.backward().unwrap();
    // In memory, so that a replay refreshes them.
    let results = [loss, table.grad().unwrap(), weight.grad().unwrap()];
    results.iter().map(|t| t.detach().contiguous().unwrap()).collect()
}

const IDS: [[i32; 6]; 2] = [[0, 3, 1, 4, 3, 2], [4, 4, 2, 0, 1, 1]];
const TARGETS: [i32; 6] = [1, -1, 4, 0, 2, 3];

fn operands(device: &Device) -> [Tensor; 4] {
    let ramp = |n: usize, shape: &[usize]| {
        let data: Vec<f32> = (0..n).map(|i| ((i * 37 + 11) % 29) as f32 / 14.5 - 1.0).collect();
        Tensor::from_slice(device, &data, shape).unwrap()
    };
    [
        Tensor::from_slice(device, &IDS[0], &[6]).unwrap(),
        Tensor::from_slice(device, &TARGETS, &[6]).unwrap(),
        ramp(40, &[5, 8]),
        ramp(40, &[8, 5]),
    ]
}

fn assert_close(a: &[Tensor], b: &[Tensor]) {
    for (a, b) in a.iter().zip(b) {
        let (a, b) = (a.to_vec::<f32>().unwrap(), b.to_vec::<f32>().unwrap());
        assert!(a.iter().zip(&b).all(|(a, b)| (a - b).abs() < 1e-5), "{a:?}\n{b:?}");
    }
}

#[test]
fn a_captured_training_step_of_composed_verbs_replays() {
    let device = Minimal::device(reference());
    let truth = Device::from_backend(reference()).unwrap();
    let [ids, targets, table, weight] = operands(&device);
    let [true_ids, true_targets, true_table, true_weight] = operands(&truth);
    let (captured, results) = device.capture(|| Ok(step(&ids, &targets, &table, &weight))).unwrap();
    for batch in IDS {
        ids.copy_from_slice(&batch).unwrap();
        true_ids.copy_from_slice(&batch).unwrap();
        let before = device.pool_stats();
        captured.replay().unwrap();
        assert_eq!(device.pool_stats(), before, "a replay allocates nothing");
        assert_close(&results, &step(&true_ids, &true_targets, &true_table, &true_weight));
    }
}

#[test]
fn an_index_outside_its_table_is_never_a_plausible_number() {
    let device = Minimal::device(reference());
    let table = Tensor::from_slice(&device, &[1f32, 2.0], &[2, 1]).unwrap();
    let ids = Tensor::from_slice(&device, &[1, 2, -1], &[3]).unwrap();
    let rows = table.embedding(&ids).unwrap().to_vec::<f32>().unwrap();
    assert_eq!(rows, [2.0, f32::NEG_INFINITY, f32::NEG_INFINITY]);
    let logits = Tensor::from_slice(&device, &[1f32, 2.0], &[1, 2]).unwrap();
    let target = Tensor::from_slice(&device, &[2], &[1]).unwrap();
    assert_eq!(logits.cross_entropy(&target, None).unwrap().item().unwrap(), f32::INFINITY);
}
