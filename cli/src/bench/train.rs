//! `bench train`

use super::Bench;
use serde_json::{Map, Value, json};
use starling_engine::nn::Module;
use starling_engine::optim::Optimizer;
use starling_engine::{Error, Result};
use starling_models::{Config, Gpt2};
use starling_train::data::Batch;
use starling_train::{Settings, TrainStep};

pub fn run(
    mut bench: Bench,
    [layers, dim, heads, seq, batch, vocab]: [usize; 6],
) -> Result<Map<String, Value>> {
    Bench::check_tokens("--vocab", vocab)?;
    let config = Config { vocab_size: vocab, ..Config::bytes(layers, dim, heads, seq, 0.0) };
    let model = Gpt2::fresh(&bench.device, config, 1)?;
    let mut settings = Settings::new(1, batch, seq, 1e-4);
    settings.check()?;
    settings.check_memory(&model)?;
    settings.steps = u64::MAX;
    let optimizer = Optimizer::new(settings.optimizer, model.parameters())?;
    let mut step = TrainStep::new(&model, &optimizer, &settings)?;
    let mut tokens = || (0..batch * seq).map(|_| bench.stream.below(vocab as u32) as i32).collect();
    let data = Batch { step: 1, offsets: vec![0; batch], inputs: tokens(), targets: tokens() };
    bench.device.seed(1)?;
    step.run(1, 1e-4, &data)?;
    // Nothing is learnt yet, so every token is about as likely as any other.
    let [loss, norm] = step.results()?;
    let expected = (vocab as f32).ln();
    if (loss - expected).abs() > 0.1 * expected + 0.1 || !norm.is_finite() {
        let message =
            format!("the first loss is {loss} and not about {expected}: nothing was timed");
        return Err(Error::Invalid(message));
    }
    step.run(2, 1e-4, &data)?;
    bench.device.sync()?;
    let (before, mut number) = (bench.device.pool_stats(), 2);
    let counted = bench.device.counters();
    let times = bench.time(|| {
        number += 1;
        step.run(number, 1e-4, &data)?;
        step.results().map(drop)
    })?;
    let (after, steps) = (bench.device.pool_stats(), number - 2);
    let now = bench.device.counters();
    let misses = after.misses - before.misses;
    let allocations = misses + after.hits - before.hits;
    let shape = format!("{layers}x{dim}x{heads}x{seq}x{batch}x{vocab}");
    let mut report = bench.report("train", &shape, &times, None);
    let tokens_per_s = (batch * seq) as f64 / (times.median_ms() * 1e-3);
    report.insert("tokens_per_s".into(), json!(tokens_per_s));
    report.insert("launches".into(), json!(step.launches()));
    report.insert("allocations".into(), json!(allocations as f64 / steps as f64));
    report.insert("pool_misses".into(), json!(misses));
    let per_step = |from: u64, to: u64| json!((to - from) as f64 / steps as f64);
    report.insert("submissions".into(), per_step(counted.submissions, now.submissions));
    report.insert("dispatches".into(), per_step(counted.dispatches, now.dispatches));
    report.insert("compilations".into(), json!(now.compilations - counted.compilations));
    report.insert("uploaded_bytes".into(), per_step(counted.uploaded_bytes, now.uploaded_bytes));
    report.insert(
        "downloaded_bytes".into(),
        per_step(counted.downloaded_bytes, now.downloaded_bytes),
    );
    report
        .insert("parameters".into(), json!(optimizer.parameters().map(|p| p.len()).sum::<usize>()));
    Ok(report)
}
