//! GPT-2: the cache against the whole pass, files in every form, what training leaves behind.

use starling_engine::nn::{Mode, Module};
use starling_engine::optim::{Optimizer, clip_grad_norm};
use starling_engine::{DType, Device, Passes, Result, Tensor, no_grad};
use starling_models::{Choice, Config, Gpt2, generate};
use starling_train::data::Batch;
use starling_train::files::{Archive, Disk, Named, write_safetensors};
use starling_train::{LanguageModel, Settings, TrainStep, save_model};
use std::path::Path;

fn config() -> Config {
    Config::bytes(2, 32, 4, 24, 0.0)
}

/// A model every tensor of which matters: biases and norms too are random.
fn model(config: Config) -> Gpt2 {
    let device = Device::new("cpu").unwrap();
    let model = Gpt2::fresh(&device, config, 5).unwrap();
    let mut random = starling_ops::philox::HostStream::seeded(1, 77);
    for (name, tensor) in model.parameters() {
        let center = if name.contains(".ln_") && name.ends_with("weight") { 1.0 } else { 0.0 };
        let data: Vec<f32> = (0..tensor.len()).map(|_| center + 0.2 * random.normal()).collect();
        tensor.copy_from_slice(&data).unwrap();
    }
    model
}

fn tokens(n: usize) -> Vec<i32> {
    (0..n).map(|i| (i * i * 31 + 7) as i32 % 256).collect()
}

/// The logits of every position, from one pass.
fn whole(model: &Gpt2, tokens: &[i32]) -> Vec<f32> {
    let ids = Tensor::from_slice(model.device(), tokens, &[1, tokens.len()]).unwrap();
    no_grad(|| model.logits(&ids, Mode::Eval)).unwrap().to_vec().unwrap()
}

fn close(a: &[f32], b: &[f32]) {
    assert_eq!(a.len(), b.len());
    for (a, b) in a.iter().zip(b) {
        assert!((a - b).abs() < 2e-5 * (1.0 + b.abs()), "{a} and {b}");
    }
}

#[test]
fn the_cache_gives_the_logits_of_the_whole_pass() {
    let model = model(config());
    let tokens = tokens(24);
    let logits = whole(&model, &tokens);
    let mut cache = model.cache().unwrap();
    let mut done = 0;
    // A prompt, single tokens, a few at once.
    for count in [5, 1, 1, 1, 4, 12] {
        let next = model.next_logits(&tokens[done..done + count], &mut cache).unwrap();
        done += count;
        close(&next, &logits[(done - 1) * 256..done * 256]);
    }
    let full = model.next_logits(&[1], &mut cache).unwrap_err().to_string();
    assert!(full.contains("at most 24"), "{full}");
    cache.clear();
    close(&model.next_logits(&tokens[..1], &mut cache).unwrap(), &logits[..256]);
}

#[test]
fn what_a_token_costs_grows_by_what_attention_reads_and_no_more() {
    let (config, device) = (Config::bytes(2, 32, 4, 200, 0.0), Device::new("cpu").unwrap());
    let model = Gpt2::fresh(&device, config, 1).unwrap();
    let mut cache = model.cache().unwrap();
    let mut step = || {
        let before = (device.counters(), device.pool_stats().misses);
        model.next_logits(&[65], &mut cache).unwrap();
        let after = (device.counters(), device.pool_stats().misses);
        (
            after.0.verb_bytes - before.0.verb_bytes,
            after.0.launches - before.0.launches,
            after.1 - before.1,
        )
    };
    let early: Vec<_> = (0..10).map(|_| step()).collect();
    for _ in 0..180 {
        step();
    }
    let late = step();
    // Each block reads one key and one value row of 32 numbers more for each token before.
    let rows = 2 * 2 * 32 * 4;
    assert_eq!(late.0 - early[5].0, rows * (190 - 5));
    assert_eq!(late.1, early[5].1);
    assert_eq!(late.2, 0, "nothing is allocated");
}

#[test]
fn generation_goes_on_beyond_the_context() {
    let model = model(config());
    let choice = Choice { temperature: 1.0, top_k: Some(50), top_p: None, seed: 3 };
    let draw = |prompt: &[i32]| {
        let mut drawn = Vec::new();
        let mut take = |t| -> Result<()> {
            drawn.push(t);
            Ok(())
        };
        generate(&model, prompt, 80, &choice, &mut take).unwrap();
        drawn
    };
    assert_eq!(draw(&tokens(3)).len(), 80);
    assert_eq!(draw(&tokens(3)), draw(&tokens(3)));
    assert_eq!(draw(&tokens(100)).len(), 80, "a prompt longer than the context");
    assert_eq!(draw(&tokens(24)).len(), 80, "a prompt as long as the context");
}

/// Writes the model's tensors under other names, and others with them.
fn write_renamed(
    model: &Gpt2,
    dir: &Path,
    rename: impl Fn(&str) -> Option<String>,
    extra: &[(&str, &[usize])],
) {
    save_model(&Disk, dir, model).unwrap();
    let mut all: Vec<Named<'_>> = model
        .parameters()
        .into_iter()
        .filter_map(|(name, t)| {
            let shape = t.shape().to_vec();
            Some(Named { name: rename(&name)?, shape, read: Box::new(move || t.to_vec()) })
        })
        .collect();
    for (name, shape) in extra {
        let n = shape.iter().product();
        let read = Box::new(move || Ok(vec![9.0; n]));
        all.push(Named { name: (*name).into(), shape: shape.to_vec(), read });
    }
    write_safetensors(&Disk, &dir.join("model.safetensors"), &[], &all).unwrap();
}

#[test]
fn files_with_and_without_prefix_and_with_old_buffers_open() {
    let (model, dir) = (model(config()), tempfile::tempdir().unwrap());
    let logits = whole(&model, &tokens(9));
    let same = |dir: &Path| {
        let opened = Gpt2::open(model.device(), dir).unwrap();
        assert_eq!(whole(&opened, &tokens(9)), logits);
    };
    save_model(&Disk, dir.path(), &model).unwrap();
    same(dir.path());
    let archive = Archive::open(&dir.path().join("model.safetensors")).unwrap();
    assert!(archive.names().contains(&"transformer.h.1.attn.c_attn.weight".to_owned()));
    assert_eq!(archive.shape("transformer.h.0.mlp.c_fc.weight"), Some(&[32, 128][..]));
    let short = |name: &str| Some(name.trim_start_matches("transformer.").to_owned());
    let extra: &[(&str, &[usize])] = &[
        ("h.0.attn.bias", &[1, 1, 24, 24]),
        ("h.1.attn.masked_bias", &[1]),
        ("lm_head.weight", &[256, 32]),
    ];
    write_renamed(&model, dir.path(), short, extra);
    same(dir.path());
}

#[test]
fn an_output_layer_of_its_own_is_used() {
    let untied = Config { tie_word_embeddings: false, ..config() };
    let (model, dir) = (model(untied), tempfile::tempdir().unwrap());
    save_model(&Disk, dir.path(), &model).unwrap();
    let opened = Gpt2::open(model.device(), dir.path()).unwrap();
    assert_eq!(whole(&opened, &tokens(9)), whole(&model, &tokens(9)));
    assert!(model.parameters().iter().any(|(name, _)| name == "lm_head.weight"));
}

#[test]
fn files_of_another_model_are_refused_by_name() {
    let (model, dir) = (model(config()), tempfile::tempdir().unwrap());
    let refused = || Gpt2::open(model.device(), dir.path()).err().unwrap().to_string();
    assert!(refused().contains("config.json"));
    let without = |name: &str| (!name.contains("ln_f.bias")).then(|| name.to_owned());
    write_renamed(&model, dir.path(), without, &[]);
    assert!(refused().contains("\"transformer.ln_f.bias\" is missing"), "{}", refused());
    write_renamed(&model, dir.path(), |n| Some(n.into()), &[("transformer.h.2.ln_1.bias", &[32])]);
    assert!(refused().contains("h.2.ln_1.bias"), "{}", refused());
    std::fs::remove_file(dir.path().join("model.safetensors")).unwrap();
    assert!(refused().contains("model.safetensors"));
    std::fs::write(dir.path().join("pytorch_model.bin"), b"x").unwrap();
    assert!(refused().contains("pytorch_model.bin"));
}

/// The likeliest of the last axis.
fn likeliest(logits: &[f32]) -> i32 {
    let best = |best: usize, i: usize| if logits[i] > logits[best] { i } else { best };
    (0..logits.len()).fold(0, best) as i32
}

#[test]
fn decoding_256_tokens_is_one_captured_list_replayed() {
    const TOKENS: usize = 256;
    let model = model(Config::bytes(2, 32, 4, TOKENS, 0.0));
    let device = model.device().clone();
    let mut cache = model.cache().unwrap();
    let token = Tensor::from_slice(&device, &[0i32], &[1, 1]).unwrap();
    let position = Tensor::from_slice(&device, &[0i32], &[1]).unwrap();
    let f32 = starling_engine::DType::F32;
    let (captured, logits) = device
        .capture(|| {
            let logits = model.logits_at(&token, &position, &cache)?;
            token.slice_assign(1, 0, &logits.argmax(-1, false)?)?;
            let next = position.to_dtype(f32)?.add_scalar(1.0)?;
            position.slice_assign(0, 0, &next.to_dtype(position.dtype())?)?;
            Ok(logits)
        })
        .unwrap();
    cache.wipe().unwrap();
    token.copy_from_slice(&[7i32]).unwrap();
    position.copy_from_slice(&[0i32]).unwrap();
    let (mut ids, mut last) = (vec![7], Vec::new());
    for _ in 0..TOKENS {
        captured.replay().unwrap();
        ids.push(token.to_vec::<i32>().unwrap()[0]);
        last = logits.to_vec::<f32>().unwrap();
    }
    // One pass over all tokens gives the same logits, and each token is the likeliest one.
    let all = whole(&model, &ids[..TOKENS]);
    let vocabulary = all.len() / TOKENS;
    for (i, logits) in all.chunks(vocabulary).enumerate() {
        let (next, best) = (ids[i + 1] as usize, likeliest(logits) as usize);
        let close = logits[best] - logits[next] < 1e-4;
        assert!(close, "token {i}: {next} and not {best}");
    }
    close(&last, &all[(TOKENS - 1) * vocabulary..]);
}

#[test]
fn attention_drops_weights_in_training_as_the_config_says() {
    let logits = |attn_pdrop: f64, mode: Mode| {
        let model = model(Config { attn_pdrop, ..config() });
        let ids = Tensor::from_slice(model.device(), &tokens(16), &[1, 16]).unwrap();
        model.device().seed(4).unwrap();
        no_grad(|| model.logits(&ids, mode)).unwrap().to_vec::<f32>().unwrap()
    };
    let plain = logits(0.0, Mode::Eval);
    assert_eq!(logits(0.0, Mode::Train), plain);
    assert_eq!(logits(0.5, Mode::Eval), plain);
    let dropped = logits(0.5, Mode::Train);
    assert!(dropped != plain, "no weight was dropped");
    assert_eq!(logits(0.5, Mode::Train), dropped);
}

/// The bits of all parameters after some steps of a captured training step, and its launches.
fn trained(device: &Device, passes: Passes) -> (Vec<Vec<u32>>, usize) {
    let device = &device.with_own_queue().unwrap();
    let config = Config { attn_pdrop: 0.2, ..Config::bytes(2, 32, 4, 24, 0.1) };
    let model = Gpt2::fresh(device, config, 5).unwrap();
    let settings = Settings::new(1, 2, 24, 3e-3).optimizer;
    let optimizer = Optimizer::new(settings, model.parameters()).unwrap();
    let ids = |from: usize| {
        let ids: Vec<i32> = (from..from + 48).map(|i| (i * 7 % 256) as i32).collect();
        Tensor::from_slice(device, &ids, &[2, 24]).unwrap()
    };
    let (inputs, targets) = (ids(0), ids(1));
    let rate = Tensor::from_slice(device, &[3e-3f32], &[]).unwrap();
    let step = || {
        optimizer.zero_grad();
        let loss = model.logits(&inputs, Mode::Train)?.cross_entropy(&targets, None)?;
        loss.backward()?;
        let clip = clip_grad_norm(optimizer.parameters(), Some(1.0))?;
        optimizer.step(&rate, Some(&clip))?;
        Ok(loss.detach())
    };
    device.seed(3).unwrap();
    let (captured, loss) = device.capture_with(passes, step).unwrap();
    (0..3).for_each(|_| captured.replay().unwrap());
    let tensors = model.parameters().into_iter().map(|(_, t)| t.detach()).chain([loss]);
    let bits = |t: Tensor| t.to_vec::<f32>().unwrap().iter().map(|x| x.to_bits()).collect();
    (tensors.map(bits).collect(), captured.launches())
}

#[test]
fn the_passes_over_a_training_step_keep_every_bit_and_leave_fewer_launches() {
    let each = [
        Passes { dead_verbs: true, ..Passes::NONE },
        Passes { merged_maps: true, ..Passes::NONE },
        Passes { epilogues: true, ..Passes::NONE },
        Passes::ALL,
    ];
    for probe in Device::probe().into_iter().filter(|p| p.status.is_ok()) {
        let device = Device::new(&probe.name).unwrap();
        let (right, launches) = trained(&device, Passes::NONE);
        let fewer = each.map(|passes| {
            let (found, fewer) = trained(&device, passes);
            assert!(found == right, "{}: {passes:?}", probe.name);
            fewer
        });
        println!("{}: {launches} launches, with passes {fewer:?}", probe.name);
        assert!(fewer[3] < launches && fewer[..3].iter().all(|&n| n <= launches));
    }
}

#[test]
fn a_planned_step_says_what_the_step_needs() {
    for (batch, accumulate) in [(2, 1), (1, 3)] {
        let mut settings = Settings::new(1, batch, 24, 3e-3);
        settings.accumulate = accumulate;
        let needs = |device: &Device| {
            let model = Gpt2::fresh(device, Config::bytes(2, 32, 4, 24, 0.1), 5).unwrap();
            let optimizer = Optimizer::new(settings.optimizer, model.parameters()).unwrap();
            let n = settings.sequences() * 24;
            let (inputs, targets) = (vec![1; n], vec![2; n]);
            let batch = Batch { step: 1, offsets: vec![0; n / 24], inputs, targets };
            let mut step = TrainStep::new(&model, &optimizer, &settings).unwrap();
            step.run(1, 1e-3, &batch).unwrap();
            (device.pool_stats().peak_bytes, device.counters().launches)
        };
        for probe in Device::probe().into_iter().filter(|p| p.status.is_ok()) {
            let device = Device::new(&probe.name).unwrap();
            let plan = device.planned().unwrap();
            assert_eq!(needs(&plan), needs(&device), "{}", probe.name);
            // It has no numbers, and its tensors are not the device's.
            let (there, here) = [&plan, &device].map(|d| Tensor::ones(d, DType::F32, &[2])).into();
            let (there, here) = (there.unwrap(), here.unwrap());
            assert!(there.to_vec::<f32>().is_err());
            assert!(there.matmul(&here).is_err() && there.add(&here).is_err());
        }
    }
}
