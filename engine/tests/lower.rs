//! Lowering: a backend that has only map, reduce, gemm and copy passes the whole table.

use starling_conformance::{Case, Tier, Verdict, cases, run};
use starling_contract::{
    Backend, Capabilities, Checked, DType, DeviceId, Download, Epilogue, Gemm, Layout, Pending,
    Program, Result, Storage, Stream, Support, Verb, View,
};
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
        Verb::Gemm(v) => {
            v.epilogue.is_none() && [&v.a, &v.b, &v.c].iter().all(|x| x.dtype == DType::F32)
        }
        _ => false,
    }
}

impl Backend for Minimal {
    fn name(&self) -> &str {
        "minimal"
    }

    fn device(&self) -> DeviceId {
        self.inner.device()
    }

    fn capabilities(&self) -> &Capabilities {
        self.inner.capabilities()
    }

    fn supports(&self, verb: &Verb) -> Support {
        match verb {
            Verb::Reduce(_) if !self.reduces => Support::No,
            verb if basic(verb) => Support::Native,
            _ => Support::Composed,
        }
    }

    fn alloc(&self, bytes: usize) -> Result<Arc<dyn Storage>> {
        self.inner.alloc(bytes)
    }

    fn stream(&self) -> Result<Box<dyn Stream>> {
        Ok(Box::new(BasicStream(self.inner.stream()?)))
    }
}

struct BasicStream(Box<dyn Stream>);

impl Stream for BasicStream {
    fn submit(&self, verb: &Checked) -> Result<()> {
        assert!(basic(verb), "{} reached the backend", verb.name());
        self.0.submit(verb)
    }

    fn upload(&self, bytes: &[u8], to: &View) -> Result<()> {
        self.0.upload(bytes, to)
    }

    fn download<'a>(&'a self, from: &'a View, bytes: &'a mut [u8]) -> Download<'a> {
        self.0.download(from, bytes)
    }

    fn sync(&self) -> Pending<'_, ()> {
        self.0.sync()
    }
}

/// Cases of verbs that the minimal backend leaves to the engine.
fn composed(tier: Tier) -> Vec<Case> {
    let is_composed = |case: &Case| {
        let problem = case.problem();
        let verb = problem.over(&problem.on_host().unwrap());
        // Of products of integers nothing simpler can be made.
        let integers = matches!(&verb, Verb::Gemm(v) if !v.a.dtype.is_float());
        !basic(&verb) && !integers
    };
    cases(tier).into_iter().filter(is_composed).collect()
}

fn assert_passes(inner: Arc<dyn Backend>, tier: Tier) {
    let backend = Minimal::device(inner).as_backend();
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
    for op in ops.iter().chain(&more).chain(&["gemm"]) {
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
#[ignore = "ten seconds: run it when the lowering changes"]
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
    let copy = Tensor::from_slice(&device, &[1f32, 2.0], &[2]).unwrap().to_dtype(DType::U8);
    assert_eq!(copy.unwrap().to_vec::<u8>().unwrap(), [1, 2]);
    // Integers have no product in f32 that theirs could be made of.
    let backend = device.backend();
    let view = |dtype| View::contiguous(backend.alloc(16).unwrap(), dtype, &[2, 2]);
    let [a, b, c] = [view(DType::I8), view(DType::I8), view(DType::I32)];
    let product = Gemm { a, b, c, alpha: 1.0, beta: 0.0, epilogue: None, workspace: None };
    let error = device.run(product).err().map(|e| e.to_string()).unwrap();
    assert!(error.contains("minimal cannot run gemm on i8"), "{error}");
}

/// A view of numbers that are all eighths, in the reference's memory.
fn eighths(dtype: DType, shape: &[usize]) -> View {
    let len = shape.iter().product::<usize>();
    let view = View::contiguous(reference().alloc(len * dtype.size()).unwrap(), dtype, shape);
    let values: Vec<f64> = (0..len).map(|i| ((i * 7 + 3) % 17) as f64 / 8.0 - 1.0).collect();
    starling_reference::memory::write(&view, &values).unwrap();
    view
}

/// Products of eighths are exact: composed or not, the bits are the same.
#[test]
fn narrow_products_are_added_to_and_have_epilogues() {
    use DType::{BF16, F16, F32};
    use starling_ops::program::Op;
    let device = Minimal::device(reference());
    let program = Program::build(|b| {
        let (x, bias) = (b.put(Op::Input(0), &[]), b.put(Op::Input(1), &[]));
        let factor = b.put(Op::Param(0), &[]);
        let sum = b.put(Op::Add, &[x, bias]);
        vec![b.put(Op::Mul, &[sum, factor]), x]
    });
    let program = Arc::new(program);
    let dtypes = [[F16, F16, F16], [BF16, BF16, F32], [F32, F16, BF16], [F32, F32, F32]];
    let ways = [(0.0, false), (2.0, false), (0.0, true), (2.0, true)];
    for ([a, b, c], (beta, fused)) in dtypes.into_iter().flat_map(|d| ways.map(|way| (d, way))) {
        let results = [true, false].map(|composed| {
            // One b for both matrices of the batch.
            let (a, b, c) = (eighths(a, &[2, 3, 4]), eighths(b, &[4, 5]), eighths(c, &[2, 3, 5]));
            let b = b.with(Layout::new(&[2, 4, 5], &[0, 5, 1], 0));
            let saved = eighths(F16, &[2, 3, 5]);
            let epilogue = fused.then(|| Epilogue {
                program: program.clone(),
                params: vec![eighths(F32, &[])],
                immediates: Default::default(),
                inputs: vec![eighths(BF16, &[5]).with(Layout::new(&[2, 3, 5], &[0, 0, 1], 0))],
                outputs: vec![saved.clone()],
            });
            let gemm = Gemm { a, b, c: c.clone(), alpha: 0.5, beta, epilogue, workspace: None };
            if composed {
                device.run(gemm).unwrap();
            } else {
                starling_reference::execute(&gemm.into()).unwrap();
            }
            [c, saved].map(|view| starling_reference::memory::read(&view).unwrap())
        });
        assert_eq!(results[0], results[1], "{a} {b} {c} beta {beta} epilogue {fused}");
    }
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
