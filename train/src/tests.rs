use super::*;
use crate::data::Corpus;
use crate::files::{Archive, Disk, FileSystem, LimitedDisk};
use serde_json::{Map, Value, json};
use starling_engine::WeightLayout;
use starling_engine::nn::{Dropout, Embedding, Fresh, Init, Linear, Source};
use std::path::Path;
use std::sync::Arc;

const TEXT: &[u8] = b"she sells sea shells by the sea shore, and the shells she sells are sea \
    shells for sure. she sells sea shells by the sea shore, and the shells she sells are sea \
    shells for sure. she sells sea shells by the sea shore, and the shells she sells are shells.";

/// Predicts each byte from the one before it.
struct Bigram {
    device: Device,
    table: Embedding,
    dropout: Dropout,
    out: Linear,
}

impl Bigram {
    fn new(seed: u64, dropout: f64) -> Self {
        let device = Device::new("cpu").unwrap();
        let source: &mut dyn Source = &mut Fresh::new(&device, seed);
        let table = Embedding::new(source, "table", [256, 16], Init::Normal(0.3)).unwrap();
        let out =
            Linear::new(source, "out", [16, 256], WeightLayout::OutIn, Init::Uniform(0.1), true);
        let dropout = Dropout::new(dropout).unwrap();
        Self { device, table, dropout, out: out.unwrap() }
    }
}

impl Module for Bigram {
    fn visit(&self, _: &str, f: &mut dyn FnMut(&str, &Tensor)) {
        self.table.visit("table", f);
        self.out.visit("out", f);
    }
}

impl LanguageModel for Bigram {
    fn device(&self) -> &Device {
        &self.device
    }

    fn context(&self) -> usize {
        16
    }

    fn vocabulary(&self) -> usize {
        256
    }

    fn config_json(&self) -> Value {
        json!({"model_type": "bigram"})
    }

    fn logits(&self, tokens: &Tensor, mode: Mode) -> Result<Tensor> {
        self.out.forward(&self.dropout.forward(&self.table.forward(tokens)?, mode)?)
    }
}

fn settings(steps: u64) -> Settings {
    let mut s = Settings::new(steps, 4, 16, 0.02);
    (s.validate_every, s.checkpoint_every, s.seed) = (5, 5, 3);
    s
}

fn corpus() -> Corpus {
    Corpus::from_static("shells", TEXT)
}

/// Trains and returns how it went.
fn start(files: Arc<dyn FileSystem>, dir: &Path, settings: Settings) -> Result<Outcome> {
    let model = Bigram::new(settings.seed, 0.1);
    let trainer = Trainer::new(&model, settings, corpus())?;
    let folder = RunFolder::create(files, dir)?;
    trainer.start(&folder, &Map::new(), &mut |_| ())
}

fn resume(dir: &Path, settings: Settings) -> Result<Outcome> {
    let model = Bigram::new(settings.seed, 0.1);
    let (folder, run) = RunFolder::resume(Arc::new(Disk), dir)?;
    assert_eq!(serde_json::from_value::<Settings>(run.clone()).unwrap(), settings);
    Trainer::new(&model, settings, corpus())?.resume(&folder, &run, &mut |_| ())
}

fn weights(dir: &Path) -> Vec<u8> {
    std::fs::read(dir.join("model.safetensors")).unwrap()
}

/// The rows without the times.
fn rows(dir: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(dir.join("metrics.jsonl")).unwrap();
    let parse = |line: &str| {
        let mut row: Value = serde_json::from_str(line).unwrap();
        if let Some(row) = row.as_object_mut() {
            row.remove("tokens_per_s");
        }
        row
    };
    text.lines().map(parse).collect()
}

#[test]
fn the_loss_falls_and_the_folder_holds_what_is_promised() {
    let dir = tempfile::tempdir().unwrap();
    let outcome = start(Arc::new(Disk), dir.path(), settings(60)).unwrap();
    assert_eq!(outcome.steps, 60);
    let rows = rows(dir.path());
    let losses: Vec<f64> = rows.iter().filter_map(|r| r["loss"].as_f64()).collect();
    assert_eq!(losses.len(), 60);
    assert!(losses[59] < 0.6 * losses[0], "{} to {}", losses[0], losses[59]);
    let val: Vec<f64> = rows.iter().filter_map(|r| r["val_loss"].as_f64()).collect();
    assert_eq!(val.len(), 12);
    let lowest = val.iter().copied().fold(f64::INFINITY, f64::min);
    assert_eq!(outcome.best_loss, lowest);
    for file in [
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "initial/config.json",
        "initial/model.safetensors",
        "run.json",
        "loss.svg",
        "state.safetensors",
    ] {
        assert!(dir.path().join(file).exists(), "{file}");
    }
    let run: Value =
        serde_json::from_slice(&std::fs::read(dir.path().join("run.json")).unwrap()).unwrap();
    assert_eq!(run["optimizer"]["decay"], json!(["table.weight", "out.weight"]));
    assert_eq!(run["optimizer"]["no_decay"], json!(["out.bias"]));
    assert_eq!((run["batch"].as_u64(), run["seq"].as_u64()), (Some(4), Some(16)));
    assert_eq!(run["clip"], json!(1.0));
    assert_eq!(run["optimizer"]["name"], "adamw");
    // The saved model is the one that the best validation was of.
    let model = Bigram::new(99, 0.0);
    let archive = Archive::open(&dir.path().join("model.safetensors")).unwrap();
    for (name, tensor) in model.parameters() {
        tensor.copy_from_slice(&archive.read(&name, tensor.shape()).unwrap()).unwrap();
    }
    let validation = corpus().split_at(TEXT.len() * 9 / 10).1;
    assert!((evaluate(&model, &validation).unwrap().loss - lowest).abs() < 1e-6);
}

#[test]
fn an_interrupted_run_ends_as_the_uninterrupted_one() {
    let whole = tempfile::tempdir().unwrap();
    start(Arc::new(Disk), whole.path(), settings(23)).unwrap();
    let size = |name: &str| std::fs::metadata(whole.path().join(name)).unwrap().len();
    let state = size("state.safetensors");
    // The disk fills up at several places: before the first state, between two, while writing one.
    for room in [10_000, state + 60_000, state * 2 + 90_000, state * 3 + 110_000, state * 4] {
        let dir = tempfile::tempdir().unwrap();
        let error = start(Arc::new(LimitedDisk::new(room)), dir.path(), settings(23));
        assert!(error.unwrap_err().to_string().contains("space"), "{room}");
        let outcome = resume(dir.path(), settings(23)).unwrap();
        assert_eq!(outcome.steps, 23);
        assert!(weights(dir.path()) == weights(whole.path()), "{room}");
        assert_eq!(rows(dir.path()), rows(whole.path()), "{room}");
        let state = |d: &Path| std::fs::read(d.join("state.safetensors")).unwrap();
        assert!(state(dir.path()) == state(whole.path()), "{room}");
    }
}

#[test]
fn the_same_seed_gives_the_same_bits_and_another_one_does_not() {
    let run = |seed: u64| {
        let dir = tempfile::tempdir().unwrap();
        start(Arc::new(Disk), dir.path(), Settings { seed, ..settings(7) }).unwrap();
        weights(dir.path())
    };
    assert!(run(3) == run(3));
    assert!(run(3) != run(4));
}

#[test]
fn accumulated_batches_are_one_large_batch() {
    let losses = |batch: usize, accumulate: usize| -> Vec<f64> {
        let dir = tempfile::tempdir().unwrap();
        let settings = Settings { batch, accumulate, ..settings(6) };
        let model = Bigram::new(3, 0.0);
        let trainer = Trainer::new(&model, settings, corpus()).unwrap();
        let folder = RunFolder::create(Arc::new(Disk), dir.path()).unwrap();
        trainer.start(&folder, &Map::new(), &mut |_| ()).unwrap();
        rows(dir.path()).iter().filter_map(|r| r["loss"].as_f64()).collect()
    };
    for (one, four) in losses(8, 1).iter().zip(losses(2, 4)) {
        assert!((one - four).abs() < 1e-4 * one, "{one} and {four}");
    }
}

#[test]
fn a_run_that_no_longer_improves_stops() {
    let dir = tempfile::tempdir().unwrap();
    let settings = Settings {
        patience: Some(2),
        schedule: starling_engine::optim::Schedule::constant(1.0),
        validate_every: 1,
        ..settings(500)
    };
    let outcome = start(Arc::new(Disk), dir.path(), settings.clone()).unwrap();
    assert!(outcome.steps < 500);
    // It is finished: resuming has nothing to do.
    assert_eq!(resume(dir.path(), settings).unwrap().steps, outcome.steps);
}

#[test]
fn a_loss_that_is_no_number_ends_the_run_and_keeps_the_files() {
    let dir = tempfile::tempdir().unwrap();
    let settings = Settings {
        schedule: starling_engine::optim::Schedule::constant(1e38),
        clip: None,
        ..settings(50)
    };
    let error = start(Arc::new(Disk), dir.path(), settings).unwrap_err();
    assert!(matches!(error, Error::Diverged(_)), "{error}");
    assert!(error.to_string().contains("learning rate"), "{error}");
    Archive::open(&dir.path().join("state.safetensors")).unwrap();
}

#[test]
fn what_cannot_be_trained_is_refused_before_anything_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("run");
    let refused = |change: &dyn Fn(&mut Settings)| {
        let mut s = settings(5);
        change(&mut s);
        let message = start(Arc::new(Disk), &path, s).unwrap_err().to_string();
        assert!(!path.exists());
        message
    };
    assert!(refused(&|s| s.batch = 0).contains("batch is 0"));
    assert!(refused(&|s| s.schedule.peak = f64::NAN).contains("learning rate is NaN"));
    assert!(refused(&|s| s.seq = 17).contains("context 16"));
    assert!(refused(&|s| s.clip = Some(-1.0)).contains("clipping"));
    assert!(refused(&|s| s.steps = 0).contains("steps is 0"));
    let short = Corpus::from_static("short", b"too short");
    let model = Bigram::new(1, 0.0);
    let error = Trainer::new(&model, settings(5), short).err().unwrap().to_string();
    assert!(error.contains("window needs 17"), "{error}");
}

#[test]
fn folders_with_a_run_or_another_text_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    start(Arc::new(Disk), dir.path(), settings(3)).unwrap();
    let before = weights(dir.path());
    let error = start(Arc::new(Disk), dir.path(), settings(3)).unwrap_err().to_string();
    assert!(error.contains("--resume"), "{error}");
    assert!(weights(dir.path()) == before);
    let model = Bigram::new(3, 0.1);
    let other = Corpus::from_static("other", &TEXT[1..]);
    let (folder, run) = RunFolder::resume(Arc::new(Disk), dir.path()).unwrap();
    let trainer = Trainer::new(&model, settings(3), other).unwrap();
    let error = trainer.resume(&folder, &run, &mut |_| ()).unwrap_err().to_string();
    assert!(error.contains("not the text"), "{error}");
    let none = RunFolder::resume(Arc::new(Disk), &dir.path().join("none")).err().unwrap();
    assert!(none.to_string().contains("no run to resume"), "{none}");
}

#[test]
fn a_broken_state_is_named() {
    let dir = tempfile::tempdir().unwrap();
    start(Arc::new(Disk), dir.path(), settings(3)).unwrap();
    let path = dir.path().join("state.safetensors");
    let bytes = std::fs::read(&path).unwrap();
    std::fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
    let error = resume(dir.path(), settings(3)).unwrap_err().to_string();
    assert!(error.contains("state.safetensors") && error.contains("whole"), "{error}");
}

#[test]
fn every_token_but_the_first_is_predicted_once() {
    let model = Bigram::new(5, 0.0);
    // A bigram's loss does not depend on the windows: one long window is the truth.
    let text = &TEXT[..100];
    let all: Vec<i32> = text[..99].iter().map(|&t| i32::from(t)).collect();
    let targets: Vec<i32> = text[1..].iter().map(|&t| i32::from(t)).collect();
    let tensor = |ids: &[i32]| Tensor::from_slice(&model.device, ids, &[1, 99]).unwrap();
    let logits = model.logits(&tensor(&all), Mode::Eval).unwrap();
    let loss = logits.cross_entropy(&tensor(&targets), None).unwrap().item().unwrap();
    let found = evaluate(&model, text).unwrap();
    assert_eq!(found.tokens, 99);
    assert!((found.loss - f64::from(loss)).abs() < 1e-5);
    assert!(evaluate(&model, b"x").is_err());
    assert_eq!(evaluate(&model, b"xy").unwrap().tokens, 1);
}

#[test]
fn a_validation_is_bounded_and_the_end_looks_at_everything() {
    let dir = tempfile::tempdir().unwrap();
    let bounded = Settings { validate_windows: 1, ..settings(12) };
    let outcome = start(Arc::new(Disk), dir.path(), bounded.clone()).unwrap();
    let text = std::fs::read_to_string(dir.path().join("metrics.jsonl")).unwrap();
    let last: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    assert_eq!(last["final_val_loss"].as_f64(), Some(outcome.best_loss));
    assert_eq!(last["best_step"].as_u64(), Some(outcome.best_step));
    // That is what the saved model has on the whole text, whatever the training looked at.
    let model = Bigram::new(99, 0.0);
    let archive = Archive::open(&dir.path().join("model.safetensors")).unwrap();
    for (name, tensor) in model.parameters() {
        tensor.copy_from_slice(&archive.read(&name, tensor.shape()).unwrap()).unwrap();
    }
    let validation = corpus().split_at(TEXT.len() * 9 / 10).1;
    let all = evaluate(&model, &validation).unwrap();
    assert!((all.loss - outcome.best_loss).abs() < 1e-6);
    let watch = &mut |done, windows| {
        assert_eq!((done, windows), (1, 1));
        std::ops::ControlFlow::Continue(())
    };
    let one = evaluate_some(&model, &validation, 1, watch).unwrap().unwrap();
    assert_eq!((one.tokens, all.tokens), (16, validation.len() - 1));
    // The state holds the last parameters, not the best ones: it ends as one that looked at all.
    let whole = tempfile::tempdir().unwrap();
    start(Arc::new(Disk), whole.path(), settings(12)).unwrap();
    let own = |dir: &Path| {
        let archive = Archive::open(&dir.join("state.safetensors")).unwrap();
        archive.read("model.table.weight", &[256, 16]).unwrap()
    };
    assert!(own(dir.path()) == own(whole.path()));
    // Resumed, it has nothing left to do and keeps its last row.
    assert_eq!(resume(dir.path(), bounded).unwrap().best_loss, outcome.best_loss);
    assert_eq!(std::fs::read_to_string(dir.path().join("metrics.jsonl")).unwrap(), text);
}

#[test]
fn a_run_that_is_asked_to_stop_goes_on_to_the_same_end_from_any_step() {
    let whole = tempfile::tempdir().unwrap();
    let settings = Settings { validate_windows: 1, ..settings(13) };
    start(Arc::new(Disk), whole.path(), settings.clone()).unwrap();
    for asked_at in 1..=15 {
        let dir = tempfile::tempdir().unwrap();
        let model = Bigram::new(settings.seed, 0.1);
        let asked = std::cell::Cell::new(0);
        let stop = || {
            asked.set(asked.get() + 1);
            asked.get() >= asked_at
        };
        let trainer = Trainer::new(&model, settings.clone(), corpus()).unwrap().stop_when(&stop);
        let folder = RunFolder::create(Arc::new(Disk), dir.path()).unwrap();
        let mut events = Vec::new();
        let outcome = trainer.start(&folder, &Map::new(), &mut |e| events.push(format!("{e:?}")));
        drop(folder);
        let outcome = outcome.unwrap();
        // The end is asked once more for each pass over the whole text.
        assert_eq!(outcome.interrupted, asked_at <= 14, "{asked_at}");
        assert_eq!(outcome.steps, asked_at.min(13), "{asked_at}");
        if outcome.interrupted {
            assert_eq!(events.last().unwrap(), &format!("Interrupted({})", outcome.steps));
            assert_eq!(
                rows(dir.path()).iter().filter(|r| r["loss"].is_number()).count() as u64,
                outcome.steps
            );
        }
        assert_eq!(resume(dir.path(), settings.clone()).unwrap().steps, 13);
        assert_eq!(rows(dir.path()), rows(whole.path()), "{asked_at}");
        for name in ["model.safetensors", "state.safetensors"] {
            let bytes = |d: &Path| std::fs::read(d.join(name)).unwrap();
            assert!(bytes(dir.path()) == bytes(whole.path()), "{asked_at}: {name}");
        }
    }
}

#[test]
fn losses_are_fetched_late_but_every_row_is_exact_and_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let settings = Settings { validate_every: 100, checkpoint_every: 100, ..settings(19) };
    let (mut seen, model) = (Vec::new(), Bigram::new(3, 0.0));
    let trainer = Trainer::new(&model, settings.clone(), corpus()).unwrap();
    let folder = RunFolder::create(Arc::new(Disk), dir.path()).unwrap();
    let before = model.device.counters().downloaded_bytes;
    let mut fetches = std::collections::BTreeSet::new();
    let report = &mut |event: Event<'_>| {
        if let Event::Step(row) = event {
            fetches.insert(model.device.counters().downloaded_bytes - before);
            seen.push((row.step, row.loss, row.grad_norm));
        }
    };
    trainer.start(&folder, &Map::new(), report).unwrap();
    // One step after the other, each looked at as soon as it is done.
    let model = Bigram::new(3, 0.0);
    let optimizer = starling_engine::optim::Optimizer::new(settings.optimizer, model.parameters());
    let optimizer = optimizer.unwrap();
    let mut step = TrainStep::new(&model, &optimizer, &settings).unwrap();
    let training = corpus().split_at(TEXT.len() * 9 / 10).0;
    let sampling = crate::data::Sampling::new(3, training.len(), 16, 4).unwrap();
    let expected: Vec<(u64, f64, f64)> = (1..=19)
        .map(|number| {
            let batch = crate::data::Batch::new(&training, &sampling, 16, number);
            step.run(number, settings.schedule.rate(number, 19), &batch).unwrap();
            let [loss, norm] = step.results().unwrap().map(f64::from);
            (number, loss, norm)
        })
        .collect();
    assert_eq!(seen, expected);
    // Fewer waits than steps: how many depends on the machine's speed, but a ring holds eight.
    assert!(fetches.len() >= 3, "{fetches:?}");
    let mut ring = TrainStep::new(&model, &optimizer, &settings).unwrap();
    (0..TrainStep::RING).for_each(|_| ring.keep_results().unwrap());
    assert!(ring.keep_results().unwrap_err().to_string().contains("full"));
    assert_eq!(ring.take_results().unwrap().len(), TrainStep::RING);
    assert_eq!(ring.kept(), 0);
}

#[test]
fn a_state_that_computes_no_loss_is_not_saved() {
    for every in [1, 4] {
        let dir = tempfile::tempdir().unwrap();
        let mut s = Settings { checkpoint_every: every, validate_every: 100, ..settings(30) };
        s.schedule = starling_engine::optim::Schedule::constant(1e30);
        let error = start(Arc::new(Disk), dir.path(), s.clone()).unwrap_err();
        assert!(matches!(error, Error::Diverged(_)), "{error}");
        assert!(error.to_string().contains("diverged at step "), "{error}");
        let archive = Archive::open_own(&dir.path().join("state.safetensors")).unwrap();
        let table = archive.read("model.table.weight", &[256, 16]).unwrap();
        let first = Archive::open(&dir.path().join("initial/model.safetensors")).unwrap();
        let first = first.read("table.weight", &[256, 16]).unwrap();
        assert!(table == first, "the last state that was good is the first one");
        // What was refused once is refused again, at the same step.
        assert_eq!(resume(dir.path(), s).unwrap_err().to_string(), error.to_string());
    }
}

#[test]
fn a_device_that_cannot_do_the_first_step_leaves_no_folder() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("run");
    let mut model = Bigram::new(3, 0.0);
    let backend = model.device.backend().clone();
    // Room for the model and the optimizer, not for a step of so many sequences.
    model.device = Device::with_memory_limit(backend, 400_000).unwrap();
    let source: &mut dyn Source = &mut Fresh::new(&model.device, 3);
    model.table = Embedding::new(source, "table", [256, 16], Init::Normal(0.3)).unwrap();
    let (uniform, layout) = (Init::Uniform(0.1), WeightLayout::OutIn);
    model.out = Linear::new(source, "out", [16, 256], layout, uniform, true).unwrap();
    let s = Settings { batch: 64, ..settings(5) };
    let trainer = Trainer::new(&model, s, corpus()).unwrap();
    let folder = RunFolder::create(Arc::new(Disk), &path).unwrap();
    let error = trainer.start(&folder, &Map::new(), &mut |_| ()).unwrap_err();
    assert!(error.to_string().contains("out of memory"), "{error}");
    assert!(!path.exists(), "{:?}", std::fs::read_dir(&path).map(|d| d.count()));
}
