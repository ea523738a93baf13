//! `starling train`

use crate::args::{ModelArg, Preset, TrainArgs};
use crate::generate;
use crate::output;
use crate::signals::Signals;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Map, Value, json};
use starling_engine::nn::Module;
use starling_engine::{Device, Error, Result};
use starling_models::{Choice, Config, Gpt2};
use starling_train::data::Corpus;
use starling_train::files::Disk;
use starling_train::{Event, LanguageModel, Outcome, RunFolder, Settings, Trainer};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

const NOVEL: &[u8] = include_bytes!("../../data/pride_and_prejudice.txt");
const NOVEL_NAME: &str = "Pride and Prejudice (in the program)";
/// Where runs without a name go.
const RUNS: &str = "runs";

pub fn run(args: &TrainArgs) -> Result<ExitCode> {
    if args.resume { resume(args) } else { start(args) }
}

fn start(args: &TrainArgs) -> Result<ExitCode> {
    let device = &Device::new(args.device.as_deref().unwrap_or("auto"))?;
    let settings = settings(args);
    settings.check()?;
    let corpus = corpus(args.text.as_deref())?;
    let config = config(args, &settings)?;
    settings.plan_memory(device, |blank| Gpt2::new(config.clone(), blank))?;
    let model = Gpt2::fresh(device, config.clone(), settings.seed)?;
    let signals = Signals::listen()?;
    let stop = || signals.received();
    let trainer = Trainer::new(&model, settings.clone(), corpus)?.stop_when(&stop);
    let out = args.out.clone().map_or_else(|| free_folder(args.preset()), Ok)?;
    let folder = RunFolder::create(Arc::new(Disk), &out)?;
    let text = match &args.text {
        Some(path) => json!(std::path::absolute(path).unwrap_or(path.clone())),
        None => Value::Null,
    };
    let mut about = Map::new();
    about.insert("model".into(), json!(model_name(args.model)));
    about.insert("preset".into(), json!(preset_name(args.preset())));
    about.insert("text".into(), text);
    about.insert("dropout".into(), json!(config.resid_pdrop));
    about.insert("config".into(), json!(config));
    watched(&model, &settings, &folder, &signals, |report| trainer.start(&folder, &about, report))
}

fn resume(args: &TrainArgs) -> Result<ExitCode> {
    let out = args.out.clone().map_or_else(|| latest_folder(args.preset()), Ok)?;
    let (folder, run) = RunFolder::resume(Arc::new(Disk), &out)?;
    let path = folder.path().join("run.json");
    let broken = |e| Error::format(&path, format!("this does not describe a run: {e}"));
    let settings: Settings = serde_json::from_value(run.clone()).map_err(broken)?;
    let config: Config = serde_json::from_value(run["config"].clone()).map_err(broken)?;
    check_unchanged(args, &settings, &config, &run)?;
    let text = args.text.clone().or_else(|| run["text"].as_str().map(PathBuf::from));
    let corpus = corpus(text.as_deref())?;
    let device = device_of(args, &run)?;
    let model = Gpt2::fresh(&device, config, settings.seed)?;
    let signals = Signals::listen()?;
    let stop = || signals.received();
    let trainer = Trainer::new(&model, settings.clone(), corpus)?.stop_when(&stop);
    watched(&model, &settings, &folder, &signals, |report| trainer.resume(&folder, &run, report))
}

/// The device that was named, or the one that the run is on. Says so when the run moves.
fn device_of(args: &TrainArgs, run: &Value) -> Result<Device> {
    let home = run["device"].as_str().unwrap_or("auto");
    let device = match &args.device {
        Some(name) => Device::new(name)?,
        None => Device::new(home).map_err(|e| {
            Error::Invalid(format!(
                "the run is on {home}, which cannot be opened ({e}): name another device with \
                 --device to move it there"
            ))
        })?,
    };
    let (name, isa) = (device.name(), &device.capabilities().variant);
    if name != home {
        output::note(format!(
            "note: the run moves from {home} to {name}: the same bits are not promised"
        ));
    } else if run["isa"] != json!(isa) {
        output::note(format!(
            "note: the run was with {} and goes on with {isa}: the same bits are not promised",
            run["isa"]
        ));
    }
    Ok(device)
}

/// A run goes on as it began: options that say otherwise are refused.
fn check_unchanged(
    args: &TrainArgs,
    settings: &Settings,
    config: &Config,
    run: &Value,
) -> Result<()> {
    let preset = args.preset.map(|p| run["preset"] == json!(preset_name(p)));
    let differs = [
        ("--preset", preset),
        ("--steps", args.steps.map(|x| x == settings.steps)),
        ("--batch", args.batch.map(|x| x == settings.batch)),
        ("--seq", args.seq.map(|x| x == settings.seq)),
        ("--accumulate", args.accumulate.map(|x| x == settings.accumulate)),
        ("--lr", args.lr.map(|x| x == settings.schedule.peak)),
        ("--dropout", args.dropout.map(|x| x == config.resid_pdrop)),
        ("--seed", args.seed.map(|x| x == settings.seed)),
        ("--validate-every", args.validate_every.map(|x| x == settings.validate_every)),
        ("--checkpoint-every", args.checkpoint_every.map(|x| x == settings.checkpoint_every)),
        ("--patience", args.patience.map(|x| Some(x) == settings.patience)),
    ];
    match differs.into_iter().find(|(_, same)| *same == Some(false)) {
        Some((option, _)) => Err(Error::Invalid(format!(
            "{option} differs from what the run began with: leave it out, or start another run"
        ))),
        None => Ok(()),
    }
}

impl TrainArgs {
    fn preset(&self) -> Preset {
        self.preset.unwrap_or(Preset::Tiny)
    }
}

fn preset_name(preset: Preset) -> &'static str {
    match preset {
        Preset::Tiny => "tiny",
        Preset::Small => "small",
        Preset::Base => "base",
    }
}

fn model_name(model: ModelArg) -> &'static str {
    match model {
        ModelArg::Gpt2 => "gpt2",
    }
}

fn settings(args: &TrainArgs) -> Settings {
    let (steps, batch, seq, rate) = match args.preset() {
        Preset::Tiny => (2000, 32, 128, 2e-3),
        Preset::Small => (4000, 32, 256, 1e-3),
        Preset::Base => (10_000, 8, 1024, 6e-4),
    };
    let mut settings = Settings::new(
        args.steps.unwrap_or(steps),
        args.batch.unwrap_or(batch),
        args.seq.unwrap_or(seq),
        args.lr.unwrap_or(rate),
    );
    settings.accumulate = args.accumulate.unwrap_or(settings.accumulate);
    settings.seed = args.seed.unwrap_or(settings.seed);
    settings.validate_every = args.validate_every.unwrap_or(settings.validate_every);
    settings.checkpoint_every = args.checkpoint_every.unwrap_or(settings.checkpoint_every);
    settings.patience = args.patience.or(settings.patience);
    settings
}

/// The preset's model with the sequence length as its context.
fn config(args: &TrainArgs, settings: &Settings) -> Result<Config> {
    let dropout = args.dropout.unwrap_or(0.0);
    let mut config = Config::preset(preset_name(args.preset()), dropout)?;
    config.n_positions = settings.seq;
    config.check()?;
    Ok(config)
}

fn corpus(text: Option<&Path>) -> Result<Corpus> {
    match text {
        Some(path) => Corpus::open(path),
        None => Ok(Corpus::from_static(NOVEL_NAME, NOVEL)),
    }
}

fn numbered(preset: Preset, number: usize) -> PathBuf {
    let name = preset_name(preset);
    let name = if number == 1 { name.to_owned() } else { format!("{name}-{number}") };
    Path::new(RUNS).join(name)
}

/// The first of runs/PRESET, runs/PRESET-2, .. that is not there yet.
fn free_folder(preset: Preset) -> Result<PathBuf> {
    let mut folders = (1..=9999).map(|n| numbered(preset, n));
    folders
        .find(|f| f.symlink_metadata().is_err())
        .ok_or_else(|| Error::Invalid("runs/ is full: name a folder with --out".into()))
}

/// The last of them that is there.
fn latest_folder(preset: Preset) -> Result<PathBuf> {
    let folders = (1..=9999).map(|n| numbered(preset, n)).take_while(|f| f.exists());
    folders.last().ok_or_else(|| {
        let first = numbered(preset, 1);
        Error::Invalid(format!(
            "there is no run in {}: name its folder with --out",
            first.display()
        ))
    })
}

/// Runs the training with a progress bar, then reports and prints a sample.
fn watched(
    model: &Gpt2,
    settings: &Settings,
    folder: &RunFolder,
    signals: &Signals,
    train: impl FnOnce(&mut dyn FnMut(Event<'_>)) -> Result<Outcome>,
) -> Result<ExitCode> {
    let device = model.device();
    let title = format!(
        "training {} parameters on {} ({}){}, into {}",
        model.parameters().iter().map(|p| p.1.len()).sum::<usize>(),
        device.name(),
        device.capabilities().variant,
        device.capabilities().threads.map_or_else(String::new, |n| format!(", {n} threads")),
        folder.path().display()
    );
    let started = Instant::now();
    let mut view = View::new(settings.steps, title);
    let outcome = train(&mut |event| view.show(&event));
    view.bar.finish_and_clear();
    let outcome = outcome?;
    if outcome.interrupted {
        output::note(format!(
            "stopped after step {}, which is saved: go on with starling train --resume --out {}",
            outcome.steps,
            folder.path().display()
        ));
        return Ok(ExitCode::from(signals.exit_code()));
    }
    signals.end_at_once();
    output::line(format!(
        "{} steps in {}: the best model is from step {}, with a validation loss of {:.4} nats per \
         token; it lies in {}",
        outcome.steps,
        clock(started.elapsed()),
        outcome.best_step,
        outcome.best_loss,
        folder.path().display()
    ))?;
    sample(device, folder.path(), settings.seed)?;
    Ok(ExitCode::SUCCESS)
}

/// Prints what the saved model writes.
fn sample(device: &Device, folder: &Path, seed: u64) -> Result<()> {
    let model = Gpt2::open(device, folder)?;
    let choice = Choice { temperature: 0.8, top_k: None, top_p: Some(0.95), seed };
    output::line("a sample:")?;
    generate::stream(&model, "\n", 400, &choice)
}

fn clock(time: Duration) -> String {
    let seconds = time.as_secs_f64();
    if seconds < 100.0 {
        format!("{seconds:.1} s")
    } else {
        format!("{} min {:02} s", time.as_secs() / 60, time.as_secs() % 60)
    }
}

/// The progress bar, and a line for what happens.
struct View {
    bar: ProgressBar,
    /// Said when the run is under way: one that is refused gets an error only.
    title: Option<String>,
    loss: f64,
    evaluating: bool,
}

impl View {
    fn new(steps: u64, title: String) -> Self {
        let template = "{bar:30} {pos}/{len} steps, {eta} left, {msg}";
        let style = ProgressStyle::with_template(template).unwrap_or(ProgressStyle::default_bar());
        let bar = ProgressBar::new(steps).with_style(style);
        Self { bar, title: Some(title), loss: f64::NAN, evaluating: false }
    }

    fn show(&mut self, event: &Event<'_>) {
        if let Some(title) = self.title.take() {
            self.say(title);
        }
        match event {
            Event::Resumed(step) => {
                self.bar.set_position(*step);
                self.bar.reset_eta();
                self.say(format!("going on after step {step}"));
            }
            Event::Step(row) => {
                // A running mean over about twenty steps: single batches jump.
                let old = if self.loss.is_finite() { self.loss } else { row.loss };
                self.loss = old + (row.loss - old) * 0.1;
                self.bar.set_position(row.step);
                self.bar.set_message(format!(
                    "loss {:.3}, {:.0} tokens/s",
                    self.loss, row.tokens_per_s
                ));
            }
            Event::Validated { step, loss, best } => {
                let best = if *best { " (best so far)" } else { "" };
                self.say(format!(
                    "step {step}: training loss {:.4}, validation loss {loss:.4}{best}",
                    self.loss
                ));
            }
            Event::Note(text) => self.say(format!("note: {text}")),
            Event::Evaluating { done, windows } => {
                if !self.evaluating {
                    self.evaluating = true;
                    self.say(format!("evaluating the best model on all {windows} windows"));
                }
                self.bar.set_message(format!("evaluating, {done}/{windows} windows"));
            }
            Event::Started | Event::Saved(_) | Event::Interrupted(_) => {}
            Event::Stopped(rounds) => {
                self.say(format!("stopped: no improvement in {rounds} validations"));
            }
        }
    }

    fn say(&self, text: String) {
        if self.bar.is_hidden() { output::note(text) } else { self.bar.println(text) }
    }
}
