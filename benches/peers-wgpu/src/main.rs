//! Our device API and burn's wgpu backend, timed in turn in one process.
//!
//! Usage: `starling-peers-wgpu [--device webgpu:0] [--secs S] [--peer-only] [FILTER]...`; a case
//! runs when its name, such as `attention 1x8x512x64`, contains a filter, or when there is none.
//! One JSON object a line; README.md says what they mean.

mod peer;

use burn::optim::AdamWConfig;
use burn::tensor::activation::{gelu, softmax};
use rustix::time::{ClockId, clock_gettime};
use serde_json::{Value, json};
use starling_train::data::Batch;
use starling_engine::nn::Module;
use starling_engine::optim::{Optimizer, Rule};
use starling_train::{Settings, TrainStep};
use starling_engine::{AttentionOptions, Device, Tensor};
use starling_models::{Config, Gpt2};
use starling_ops::philox::HostStream;
use std::hint::black_box;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

type Error = Box<dyn std::error::Error>;
type Result<T> = std::result::Result<T, Error>;
type Burn<const D: usize> = burn::tensor::Tensor<D>;

/// The largest difference allowed between the two results, relative to the largest number in ours:
/// far above f32's rounding, far below what tf32 or f16 would give.
const ALLOWED: f64 = 1e-4;
/// How long a sample lasts at least: short calls are repeated before the device is waited for.
const SAMPLE_MS: f64 = 20.0;
/// Before anything is timed: burn's tuner tries its kernels in the first calls.
const WARM_CALLS: usize = 10;
const OURS: &str = "starling";
/// Sequences in a training step.
const BATCH: usize = 8;
const LEARNING_RATE: f64 = 1e-4;

/// One way to ask burn for a result.
type Way<const D: usize> = Box<dyn Fn() -> Burn<D>>;
/// Asks for a number of calls and waits until they are done.
type Call<'a> = Box<dyn FnMut(usize) -> Result<()> + 'a>;

/// One operation on both sides, whose results have been compared.
struct Case<'a> {
    ours: Call<'a>,
    /// burn's ways to do it; the fastest counts.
    theirs: Vec<(&'static str, Call<'a>)>,
    /// The largest difference between the results, relative to the largest number.
    error: f64,
}

/// Where everything runs, fresh random numbers, and what has been found.
struct Bench {
    device: Device,
    peer: burn::tensor::Device,
    stream: HostStream,
    secs: f64,
    peer_only: bool,
    ratios: Vec<f64>,
}

impl Bench {
    /// The same uniform numbers in -1 .. 1 on both sides.
    fn random<const D: usize>(&mut self, shape: [usize; D]) -> Result<(Tensor, Burn<D>)> {
        let n = shape.iter().product();
        let data: Vec<f32> = (0..n).map(|_| 2.0 * self.stream.uniform() - 1.0).collect();
        let ours = Tensor::from_slice(&self.device, &data, &shape)?;
        Ok((ours, peer::upload(&self.peer, &data, shape)))
    }

    /// Compares the results, then times what computes them.
    fn compare<const D: usize>(
        &mut self,
        name: &str,
        ours: impl Fn() -> starling_engine::Result<Tensor>,
        theirs: Vec<(&'static str, Way<D>)>,
    ) -> Result<()> {
        let result = ours()?.to_vec::<f32>()?;
        let mut error = 0f64;
        for (way, call) in &theirs {
            error = error.max(difference(way, &result, &peer::download(call()))?);
        }
        let device = self.device.clone();
        let ours: Call = Box::new(|calls| {
            for _ in 0..calls {
                black_box(ours()?);
            }
            Ok(device.sync()?)
        });
        let peer = self.peer.clone();
        let theirs = theirs.into_iter().map(|(way, call)| {
            let peer = peer.clone();
            let call: Call = Box::new(move |calls| repeat(&peer, calls, &call));
            (way, call)
        });
        self.measure(name, Case { ours, theirs: theirs.collect(), error })
    }

    /// Takes samples of all contenders in turn and prints a line.
    fn measure(&mut self, name: &str, case: Case) -> Result<()> {
        let Case { ours, theirs, error } = case;
        let mut contenders = theirs;
        if !self.peer_only {
            contenders.push((OURS, ours));
        }
        let mut calls = Vec::new();
        for (_, call) in &mut contenders {
            calls.push(repeats(warm(call)?));
        }
        let mut samples: Vec<Vec<Sample>> = contenders.iter().map(|_| Vec::new()).collect();
        let start = Instant::now();
        let mut order: Vec<usize> = (0..contenders.len()).collect();
        while samples[0].len() < 7 || start.elapsed().as_secs_f64() < self.secs {
            for &i in &order {
                samples[i].push(sample(&mut contenders[i].1, calls[i])?);
            }
            order.reverse();
        }
        let names = contenders.iter().map(|(name, _)| *name);
        let (ours, mut theirs): (Vec<_>, Vec<_>) =
            names.zip(&samples).partition(|(name, _)| *name == OURS);
        theirs.sort_by(|a, b| Sample::wall(a.1).total_cmp(&Sample::wall(b.1)));
        let (way, best) = theirs[0];
        for (way, slower) in &theirs[1..] {
            eprintln!("{name}: burn's {way} takes {:.3} ms", Sample::wall(slower));
        }
        let (op, shape) = name.split_once(' ').unwrap_or((name, ""));
        let mut line = json!({
            "op": op, "shape": shape, "dtype": "f32", "device": self.device.name(),
            "peer": peer::NAME, "peer_variant": peer::variant(), "peer_way": way,
            "rounds": best.len(), "error": rounded(error),
        });
        if let [(_, ours)] = ours[..] {
            let pairs = || best.iter().zip(ours);
            let ratio = median(pairs().map(|(peer, ours)| peer.wall / ours.wall));
            self.ratios.push(ratio);
            line["ratio"] = rounded(ratio);
            line["cpu_ratio"] = rounded(median(pairs().map(|(peer, ours)| peer.cpu / ours.cpu)));
            report(&mut line, "", ours);
        }
        report(&mut line, "peer_", best);
        println!("{line}");
        Ok(())
    }
}

/// burn's calls. Each is handed to the device while its result is alive, since what nobody holds
/// need not be computed; the result's memory then serves the next call.
fn repeat<T>(device: &burn::tensor::Device, calls: usize, way: impl Fn() -> T) -> Result<()> {
    for _ in 0..calls {
        let result = way();
        device.flush()?;
        black_box(result);
    }
    Ok(device.sync()?)
}

/// Milliseconds of one call, after others that let tuning finish.
fn warm(call: &mut Call) -> Result<f64> {
    for _ in 0..WARM_CALLS {
        call(1)?;
    }
    (0..3).try_fold(f64::INFINITY, |best, _| Ok(best.min(sample(call, 1)?.wall)))
}

/// Milliseconds of one call.
struct Sample {
    wall: f64,
    /// Of all threads of this process: on a device that is software, what other programs cannot
    /// lengthen.
    cpu: f64,
}

impl Sample {
    /// The median.
    fn wall(samples: &[Sample]) -> f64 {
        median(samples.iter().map(|s| s.wall))
    }
}

/// Milliseconds on processors since the program started.
fn cpu_now() -> f64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    time.tv_sec as f64 * 1e3 + time.tv_nsec as f64 * 1e-6
}

/// The mean of several calls.
fn sample(call: &mut Call, calls: usize) -> Result<Sample> {
    let (start, cpu) = (Instant::now(), cpu_now());
    call(calls)?;
    let (wall, cpu) = (start.elapsed().as_secs_f64() * 1e3, cpu_now() - cpu);
    Ok(Sample { wall: wall / calls as f64, cpu: cpu / calls as f64 })
}

/// Medians and minima.
fn report(line: &mut Value, side: &str, samples: &[Sample]) {
    let wall: Vec<f64> = samples.iter().map(|s| s.wall).collect();
    let cpu: Vec<f64> = samples.iter().map(|s| s.cpu).collect();
    for (clock, times) in [("", wall), ("cpu_", cpu)] {
        let least = times.iter().copied().fold(f64::INFINITY, f64::min);
        line[format!("{side}{clock}median_ms")] = rounded(median(times.into_iter()));
        line[format!("{side}{clock}min_ms")] = rounded(least);
    }
}

/// Calls in a sample.
fn repeats(once_ms: f64) -> usize {
    (SAMPLE_MS / once_ms.max(1e-3)).ceil().clamp(1.0, 1000.0) as usize
}

fn median(x: impl Iterator<Item = f64>) -> f64 {
    let mut x: Vec<f64> = x.collect();
    x.sort_by(f64::total_cmp);
    (x[(x.len() - 1) / 2] + x[x.len() / 2]) * 0.5
}

/// Four digits are more than a clock gives.
fn rounded(x: f64) -> Value {
    if x == 0.0 {
        return json!(0);
    }
    let unit = 10f64.powf(3.0 - x.abs().log10().floor());
    json!((x * unit).round() / unit)
}

/// The largest difference, relative to the largest number of ours; fatal above what is allowed.
fn difference(way: &str, ours: &[f32], theirs: &[f32]) -> Result<f64> {
    if ours.len() != theirs.len() {
        return Err(format!("{way}: {} numbers and {}", ours.len(), theirs.len()).into());
    }
    let scale = ours.iter().fold(1e-30f32, |m, x| m.max(x.abs()));
    let mut worst = 0f64;
    for (i, (a, b)) in ours.iter().zip(theirs).enumerate() {
        let off = f64::from((a - b).abs() / scale);
        if off.is_nan() || off > ALLOWED {
            return Err(format!("{way}: element {i} is {a} with us and {b} with burn").into());
        }
        worst = worst.max(off);
    }
    Ok(worst)
}

fn gemm(bench: &mut Bench, name: &str, n: usize) -> Result<()> {
    let ((a, a2), (b, b2)) = (bench.random([n, n])?, bench.random([n, n])?);
    let theirs = Box::new(move || a2.clone().matmul(b2.clone()));
    bench.compare(name, || a.matmul(&b), vec![("matmul", theirs)])
}

fn attention(bench: &mut Bench, name: &str, shape: [usize; 4]) -> Result<()> {
    let ((q, q2), (k, k2)) = (bench.random(shape)?, bench.random(shape)?);
    let (v, v2) = bench.random(shape)?;
    let ways = peer::ATTENTION.map(|(way, attend)| {
        let (q, k, v) = (q2.clone(), k2.clone(), v2.clone());
        let call: Way<4> = Box::new(move || attend(q.clone(), k.clone(), v.clone(), None));
        (way, call)
    });
    bench.compare(name, || q.attention(&k, &v, &AttentionOptions::default()), ways.into())
}

fn rows(bench: &mut Bench, name: &str, shape: [usize; 2]) -> Result<()> {
    let (x, x2) = bench.random(shape)?;
    let theirs = Box::new(move || softmax(x2.clone(), 1));
    bench.compare(name, || x.softmax(-1), vec![("softmax", theirs)])
}

fn map(bench: &mut Bench, name: &str, n: usize) -> Result<()> {
    let (x, x2) = bench.random([n])?;
    let theirs = Box::new(move || gelu(x2.clone()));
    // Asking for the memory layout computes a lazy result.
    bench.compare(name, || x.gelu()?.contiguous(), vec![("gelu", theirs)])
}

/// Forward, cross-entropy, backward and AdamW of the preset `tiny`, from the same weights and on
/// the same tokens; ours is captured once and replayed.
fn train(bench: &mut Bench, name: &str) -> Result<()> {
    let config = Config::preset("tiny", 0.0)?;
    let mut settings = Settings::new(u64::MAX, BATCH, config.n_positions, LEARNING_RATE);
    // burn clips each tensor by itself, not all by their common norm.
    settings.clip = None;
    let Rule::AdamW { beta1, beta2, eps, weight_decay } = settings.optimizer else {
        return Err("the optimizer is not AdamW".into());
    };
    let adamw = AdamWConfig::new()
        .with_beta_1(beta1 as f32)
        .with_beta_2(beta2 as f32)
        .with_epsilon(eps as f32)
        .with_weight_decay(weight_decay as f32);
    let model = Gpt2::fresh(&bench.device, config.clone(), 1)?;
    let weights = model
        .parameters()
        .into_iter()
        .map(|(name, x)| Ok((name, (x.shape().to_vec(), x.detach().to_vec::<f32>()?))))
        .collect::<Result<peer::Weights>>()?;
    let mut tokens = || -> Vec<i32> {
        let below = config.vocab_size as u32;
        (0..BATCH * settings.seq).map(|_| bench.stream.below(below) as i32).collect()
    };
    let offsets = vec![0; BATCH];
    let batches: Vec<Batch> = (0..16)
        .map(|_| Batch { step: 0, offsets: offsets.clone(), inputs: tokens(), targets: tokens() })
        .collect();
    let optimizer = Optimizer::new(settings.optimizer, model.parameters())?;
    let mut step = TrainStep::new(&model, &optimizer, &settings)?;
    let mut losses = Vec::new();
    for (batch, number) in batches.iter().zip(1..=3) {
        step.run(number, LEARNING_RATE, batch)?;
        losses.push(step.results()?[0]);
    }
    let (mut error, mut theirs) = (0f64, Vec::<(&str, Call)>::new());
    for (way, attend) in peer::ATTENTION {
        let mut step =
            peer::Step::new(&bench.peer, &config, &weights, &adamw, LEARNING_RATE, attend);
        let found: Vec<f32> = batches[..3]
            .iter()
            .map(|batch| peer::download(step.run(&batch.inputs, &batch.targets))[0])
            .collect();
        error = error.max(difference(way, &losses, &found)?);
        let (peer, mut batches) = (bench.peer.clone(), batches.iter().cycle());
        let call: Call = Box::new(move |calls| {
            for batch in batches.by_ref().take(calls) {
                black_box(step.run(&batch.inputs, &batch.targets));
            }
            Ok(peer.sync()?)
        });
        theirs.push((way, call));
    }
    let (device, mut number) = (bench.device.clone(), 3);
    let ours: Call = Box::new(|calls| {
        for _ in 0..calls {
            number += 1;
            step.run(number, LEARNING_RATE, &batches[number as usize % batches.len()])?;
        }
        Ok(device.sync()?)
    });
    bench.measure(name, Case { ours, theirs, error })
}

/// Runs every case whose name contains one of the filters.
fn run(bench: &mut Bench, filters: &[String]) -> Result<()> {
    let wanted = |name: &str| filters.is_empty() || filters.iter().any(|f| name.contains(f));
    for n in [256, 512, 1024] {
        let name = format!("gemm {n}x{n}x{n}");
        if wanted(&name) {
            gemm(bench, &name, n)?;
        }
    }
    for sequence in [512, 1024] {
        let name = format!("attention 1x8x{sequence}x64");
        if wanted(&name) {
            attention(bench, &name, [1, 8, sequence, 64])?;
        }
    }
    if wanted("softmax 4096x1024") {
        rows(bench, "softmax 4096x1024", [4096, 1024])?;
    }
    if wanted("gelu 4194304") {
        map(bench, "gelu 4194304", 4_194_304)?;
    }
    let name = format!("train_step tiny, batch {BATCH}");
    if wanted(&name) {
        train(bench, &name)?;
    }
    Ok(())
}

fn main() -> Result<()> {
    let (mut name, mut secs, mut peer_only, mut filters) = (None, 3.0, false, Vec::new());
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().ok_or(format!("{argument} needs a value"));
        match argument.as_str() {
            "--device" => name = Some(value()?),
            "--secs" => secs = value()?.parse()?,
            "--peer-only" => peer_only = true,
            flag if flag.starts_with("--") => return Err(format!("unknown option {flag}").into()),
            _ => filters.push(argument),
        }
    }
    // Where burn runs alone, our processor's results are those to compare with.
    let usual = if peer_only { "cpu" } else { "webgpu:0" };
    let seed = SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos() as u64;
    let mut bench = Bench {
        device: Device::new(&name.unwrap_or_else(|| usual.into()))?,
        peer: peer::device(),
        stream: HostStream::seeded(seed, 0),
        secs,
        peer_only,
        ratios: Vec::new(),
    };
    run(&mut bench, &filters)?;
    if !bench.ratios.is_empty() {
        let log = bench.ratios.iter().map(|r| r.ln()).sum::<f64>() / bench.ratios.len() as f64;
        let line =
            json!({ "cases": bench.ratios.len(), "geometric_mean_ratio": rounded(log.exp()) });
        println!("{line}");
    }
    Ok(())
}
