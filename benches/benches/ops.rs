//! Products, attention, rows, elementwise work and a whole training step, through the engine on the
//! device that `STARLING_DEVICE` names (`cpu` without it).

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use starling_engine::nn::Module;
use starling_engine::optim::Optimizer;
use starling_engine::{AttentionOptions, Device, Result, Tensor};
use starling_models::gpt2::{Config, Gpt2};
use starling_ops::philox::HostStream;
use starling_train::data::Batch;
use starling_train::{Settings, TrainStep};
use std::time::Duration;

fn device() -> Device {
    let name = std::env::var("STARLING_DEVICE").unwrap_or_else(|_| "cpu".into());
    Device::new(&name).unwrap_or_else(|error| panic!("STARLING_DEVICE: {error}"))
}

fn random(device: &Device, shape: &[usize]) -> Tensor {
    let mut stream = HostStream::seeded(7, shape.iter().product::<usize>() as u32);
    Tensor::randn(device, &mut stream, shape, 0.0, 1.0).unwrap()
}

/// Runs `f`, whose result is computed and waited for.
fn run(c: &mut Criterion, id: BenchmarkId, work: Throughput, f: impl Fn() -> Result<Tensor>) {
    let mut group = c.benchmark_group("ops");
    group.throughput(work);
    group.bench_function(id, |b| {
        b.iter(|| {
            let result = f().unwrap().contiguous().unwrap();
            result.device().sync().unwrap();
            result
        });
    });
    group.finish();
}

fn gemm(c: &mut Criterion) {
    let device = device();
    for [m, n, k] in [[256; 3], [1024; 3], [1, 4096, 4096], [32, 3072, 768]] {
        let (a, b) = (random(&device, &[m, k]), random(&device, &[k, n]));
        let id = BenchmarkId::new("gemm", format!("{m}x{n}x{k}"));
        let work = Throughput::Elements(2 * (m * n * k) as u64);
        run(c, id, work, || a.matmul(&b));
    }
}

fn attention(c: &mut Criterion) {
    let device = device();
    let shape = [1, 8, 512, 64];
    let [q, k, v] = [(); 3].map(|()| random(&device, &shape));
    let options = AttentionOptions { causal: true, ..Default::default() };
    let id = BenchmarkId::new("attention", "1x8x512x64 causal");
    // Two products of which causality halves each; backward has five.
    let half = 8 * 512 * 512 * 64;
    run(c, id, Throughput::Elements(2 * half), || q.attention(&k, &v, &options));
    let id = BenchmarkId::new("attention with gradients", "1x8x512x64 causal");
    run(c, id, Throughput::Elements(7 * half), || {
        let [q, k, v] = [&q, &k, &v].map(Tensor::requires_grad);
        let out = q.attention(&k, &v, &options)?;
        out.backward_with(&out.detach())?;
        q.grad().map_or(Ok(out), |g| g.contiguous())
    });
}

fn rows(c: &mut Criterion) {
    let device = device();
    let x = random(&device, &[1024, 1024]);
    // Read once, written once.
    let bytes = || Throughput::Bytes(8 << 20);
    run(c, BenchmarkId::new("softmax", "1024x1024"), bytes(), || x.softmax(-1));
    let id = BenchmarkId::new("layer_norm", "1024x1024");
    run(c, id, bytes(), || x.layer_norm(None, None, 1e-5));
    run(c, BenchmarkId::new("gelu", "1048576"), bytes(), || x.gelu());
}

/// The smallest preset on random tokens.
fn train(c: &mut Criterion) {
    let device = device();
    let (batch, seq) = (16, 128);
    let model = Gpt2::fresh(&device, Config::preset("tiny", 0.0).unwrap(), 0).unwrap();
    let settings = Settings::new(1000, batch, seq, 1e-3);
    let optimizer = Optimizer::new(settings.optimizer, model.parameters()).unwrap();
    let mut step = TrainStep::new(&model, &optimizer, &settings).unwrap();
    let mut stream = HostStream::seeded(7, 0);
    let mut tokens = || (0..batch * seq).map(|_| stream.below(256) as i32).collect();
    let (inputs, targets) = (tokens(), tokens());
    let data = Batch { step: 0, offsets: vec![0; batch], inputs, targets };
    let mut at = 0;
    let mut group = c.benchmark_group("train");
    group.throughput(Throughput::Elements((batch * seq) as u64));
    group.sample_size(10).measurement_time(Duration::from_secs(10));
    group.bench_function(BenchmarkId::new("step", "tiny, batch 16, sequence 128"), |b| {
        b.iter(|| {
            at += 1;
            step.run(at, 1e-3, &data).unwrap();
            step.results().unwrap()
        });
    });
    group.finish();
}

criterion_group!(benches, gemm, attention, rows, train);
criterion_main!(benches);
