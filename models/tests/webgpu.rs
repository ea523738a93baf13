//! Training on the first WebGPU adapter: the CPU's losses, and memory that stays what it is.

use starling_engine::Device;
use starling_engine::nn::Module;
use starling_engine::optim::Optimizer;
use starling_models::{Config, Gpt2};
use starling_ops::philox::HostStream;
use starling_train::data::Batch;
use starling_train::{Settings, TrainStep};

const SEQ: usize = 16;
const SEQUENCES: usize = 2;
const VOCABULARY: usize = 64;

/// Runs `steps` captured steps of a toy GPT with dropout and calls `after` with each one's number
/// and loss.
fn train(device: &Device, steps: u64, mut after: impl FnMut(u64, f32)) {
    let mut config = Config::bytes(2, 32, 2, SEQ, 0.1);
    config.vocab_size = VOCABULARY;
    let model = Gpt2::fresh(device, config, 1).unwrap();
    let mut settings = Settings::new(1, SEQUENCES, SEQ, 3e-3);
    settings.check().unwrap();
    settings.steps = u64::MAX;
    let optimizer = Optimizer::new(settings.optimizer, model.parameters()).unwrap();
    let mut step = TrainStep::new(&model, &optimizer, &settings).unwrap();
    device.seed(1).unwrap();
    let mut random = HostStream::seeded(7, 0);
    for number in 1..=steps {
        // Sequences that count up from somewhere: something to learn.
        let starts: Vec<u32> = (0..SEQUENCES).map(|_| random.below(VOCABULARY as u32)).collect();
        let token = |shift: usize| {
            let at = move |(s, i): (u32, usize)| ((s as usize + i + shift) % VOCABULARY) as i32;
            starts.iter().flat_map(|&s| (0..SEQ).map(move |i| (s, i))).map(at).collect()
        };
        let (inputs, targets) = (token(0), token(1));
        let batch = Batch { step: number, offsets: vec![0; SEQUENCES], inputs, targets };
        step.run(number, 3e-3, &batch).unwrap();
        after(number, step.results().unwrap()[0]);
    }
}

#[test]
fn losses_follow_the_cpu() {
    let mut truth = Vec::new();
    train(&Device::new("cpu").unwrap(), 100, |_, loss| truth.push(loss));
    assert!(truth[99] < 0.7 * truth[0], "the toy learns: {} to {}", truth[0], truth[99]);
    train(&Device::new("webgpu:0").unwrap(), 100, |step, loss| {
        let want = truth[step as usize - 1];
        assert!((loss - want).abs() <= 1e-3 * want, "step {step}: {loss} and not {want}");
    });
}

/// Bytes of the process that lie in memory.
fn resident_bytes() -> Option<usize> {
    let text = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: usize = text.split_whitespace().nth(1)?.parse().ok()?;
    Some(pages * 4096)
}

#[test]
fn two_thousand_steps_leave_memory_as_it_was_and_compile_nothing() {
    let device = Device::new("webgpu:0").unwrap();
    let mut samples = Vec::new();
    train(&device, 2000, |step, _| {
        if step == 200 || step == 2000 {
            samples.push((device.pool_stats(), device.counters(), resident_bytes()));
        }
    });
    let [(pool, counters, resident), (now, counted, resident_now)] = samples[..] else {
        panic!("two samples were taken");
    };
    assert_eq!(pool.misses, now.misses, "the pool allocated");
    assert_eq!(
        (pool.in_use_bytes, pool.free_bytes),
        (now.in_use_bytes, now.free_bytes),
        "device memory"
    );
    assert_eq!(counters.compilations, counted.compilations, "shaders were compiled");
    let submissions = counted.submissions - counters.submissions;
    assert!(submissions <= 4 * 1800, "{submissions} submissions in 1800 steps");
    if let (Some(before), Some(after)) = (resident, resident_now) {
        let grown = after.saturating_sub(before);
        assert!(grown < 16 << 20, "host memory grew by {grown} bytes in 1800 steps");
    }
}
