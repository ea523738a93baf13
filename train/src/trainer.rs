//! The loop.

use super::folder::{METRICS, PLOT, Progress};
use super::metrics::Metrics;
use super::{LanguageModel, RunFolder, Settings, StepRow, TrainStep, evaluate_some, plot};
use crate::data::{ByteTokenizer, Corpus, Prefetch, Sampling};
use serde_json::{Map, Value, json};
use starling_engine::optim::Optimizer;
use starling_engine::{Error, Result};
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

/// What the trainer reports while it works.
#[derive(Debug)]
pub enum Event<'a> {
    /// A run begins: its folder is made.
    Started,
    /// A run continues after this many steps.
    Resumed(u64),
    /// Something that the user should know.
    Note(String),
    /// A step is done. Told a few steps late, in order.
    Step(&'a StepRow),
    /// The model was validated; `best` when it has never been better and was saved.
    Validated {
        /// After this step.
        step: u64,
        /// Nats per token.
        loss: f64,
        /// Lower than all before.
        best: bool,
    },
    /// The state was saved after this step.
    Saved(u64),
    /// Validation has not improved for this many rounds; the run ends here.
    Stopped(u64),
    /// The best model is evaluated on the whole validation text.
    Evaluating {
        /// Windows done.
        done: usize,
        /// All windows.
        windows: usize,
    },
    /// The run was asked to stop. All that was done up to this step is saved.
    Interrupted(u64),
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Outcome {
    /// Steps done.
    pub steps: u64,
    /// The saved model's loss in nats per token over the whole validation text; over the windows
    /// of a validation when the run was interrupted.
    pub best_loss: f64,
    /// The step that it is from.
    pub best_step: u64,
    /// Verbs that one step submits; `None` when no step ran.
    pub launches: Option<usize>,
    /// The run was asked to stop and can be continued.
    pub interrupted: bool,
}

/// Trains a model on the first nine tenths of a corpus and validates it on the last tenth.
pub struct Trainer<'a> {
    model: &'a dyn LanguageModel,
    settings: Settings,
    corpus: Corpus,
    training: Corpus,
    validation: Corpus,
    sampling: Sampling,
    optimizer: Optimizer,
    asked_to_stop: &'a dyn Fn() -> bool,
}

/// Results are fetched at least so often, so that a slow device's steps are seen as they come: a
/// wait for the device costs nothing beside such a time.
const FETCH_EVERY: Duration = Duration::from_millis(250);

impl<'a> Trainer<'a> {
    /// Checks that the parts fit together.
    ///
    /// # Errors
    /// [`Error::Invalid`] when a setting is impossible, the sequences are longer than the model's
    /// context or the corpus is shorter than a sequence.
    pub fn new(model: &'a dyn LanguageModel, settings: Settings, corpus: Corpus) -> Result<Self> {
        settings.check()?;
        settings.check_memory(model)?;
        if settings.seq > model.context() {
            let (seq, context) = (settings.seq, model.context());
            let message =
                format!("a sequence of {seq} tokens exceeds the model's context {context}");
            return Err(Error::invalid(message));
        }
        if model.vocabulary() < ByteTokenizer::VOCABULARY {
            let known = model.vocabulary();
            let message = format!("the model knows {known} tokens, and bytes need 256");
            return Err(Error::invalid(message));
        }
        let (training, validation) =
            corpus.split_at(corpus.len() / 10 * 9 + corpus.len() % 10 * 9 / 10);
        let sequences = settings.sequences();
        let sampling = Sampling::new(settings.seed, training.len(), settings.seq, sequences)?;
        if validation.len() < 2 {
            let message =
                format!("the corpus of {} tokens leaves none to validate on", corpus.len());
            return Err(Error::invalid(message));
        }
        let optimizer = Optimizer::new(settings.optimizer, model.parameters())?;
        let asked_to_stop = &|| false;
        Ok(Self {
            model,
            settings,
            corpus,
            training,
            validation,
            sampling,
            optimizer,
            asked_to_stop,
        })
    }

    /// Asks `asked` after each step: once it says yes, the run saves its state and ends there.
    pub fn stop_when(mut self, asked: &'a dyn Fn() -> bool) -> Self {
        self.asked_to_stop = asked;
        self
    }

    /// The content of run.json: `about`, every hyper-parameter, the machine and the corpus.
    fn describe(&self, about: &Map<String, Value>) -> Result<Map<String, Value>> {
        let unwritable = |e| Error::invalid(format!("the settings cannot be written: {e}"));
        let mut run = about.clone();
        let settings = serde_json::to_value(&self.settings).map_err(unwritable)?;
        run.extend(settings.as_object().cloned().unwrap_or_default());
        run.insert("lr".into(), json!(self.settings.schedule.peak));
        let (decay, no_decay) = self.optimizer.decay_groups();
        run["optimizer"]["decay"] = json!(decay);
        run["optimizer"]["no_decay"] = json!(no_decay);
        let device = self.model.device();
        run.insert("device".into(), json!(device.name()));
        run.insert("isa".into(), json!(device.capabilities().variant));
        run.insert("threads".into(), json!(device.capabilities().threads));
        run.insert(
            "parameters".into(),
            json!(self.optimizer.parameters().map(|p| p.len()).sum::<usize>()),
        );
        run.insert(
            "corpus".into(),
            json!({
                "name": self.corpus.name(),
                "tokens": self.corpus.len(),
                "training_tokens": self.training.len(),
                "validation_tokens": self.validation.len(),
                "fnv1a64": self.corpus_hash(),
            }),
        );
        run.insert("version".into(), json!(env!("CARGO_PKG_VERSION")));
        Ok(run)
    }

    fn corpus_hash(&self) -> String {
        format!("{:016x}", self.corpus.hash())
    }

    /// Starts a run in an empty folder. `about` goes to run.json beside the settings.
    ///
    /// # Errors
    /// [`Error::File`] when writing fails (what was there stays whole), [`Error::Diverged`], what
    /// the device reports; when that is at the first step, nothing is left in the folder.
    pub fn start(
        &self,
        folder: &RunFolder,
        about: &Map<String, Value>,
        report: &mut dyn FnMut(Event<'_>),
    ) -> Result<Outcome> {
        // First of all the file by which an interrupted run is known.
        folder.write_run(&self.describe(about)?)?;
        let mut stepped = false;
        let result = self.begin(folder, &mut |event| {
            stepped |= matches!(event, Event::Step(_));
            report(event);
        });
        if matches!(result, Err(Error::Backend(_))) && !stepped {
            // The device cannot do it: nothing is there to be continued.
            folder.discard();
        }
        result
    }

    fn begin(&self, folder: &RunFolder, report: &mut dyn FnMut(Event<'_>)) -> Result<Outcome> {
        folder.write_start(self.model)?;
        let progress = Progress::default();
        folder.write_state(self.model, &self.optimizer, &progress)?;
        report(Event::Started);
        self.go_on(folder, progress, report)
    }

    /// Continues a run, from its last state and as if it had never been interrupted. The model
    /// must be the one that the run began with.
    ///
    /// # Errors
    /// As [`Trainer::start`]; [`Error::Invalid`] when the corpus is another one.
    pub fn resume(
        &self,
        folder: &RunFolder,
        run: &Value,
        report: &mut dyn FnMut(Event<'_>),
    ) -> Result<Outcome> {
        if run["corpus"]["fnv1a64"] != json!(self.corpus_hash()) {
            return Err(Error::invalid(format!(
                "{} is not the text that the run in {} began with",
                self.corpus.name(),
                folder.path().display()
            )));
        }
        match folder.read_state(self.model, &self.optimizer)? {
            Some(progress) => {
                self.record_device(folder, run)?;
                report(Event::Resumed(progress.step));
                self.go_on(folder, progress, report)
            }
            // It was interrupted before the first state.
            None => self.begin(folder, report),
        }
    }

    /// Writes down where the run is from now on.
    fn record_device(&self, folder: &RunFolder, run: &Value) -> Result<()> {
        let device = self.model.device();
        let here = [("device", device.name()), ("isa", &device.capabilities().variant)];
        let mut run = run.as_object().cloned().unwrap_or_default();
        if here.iter().all(|(key, value)| run.get(*key) == Some(&json!(value))) {
            return Ok(());
        }
        run.extend(here.map(|(key, value)| (key.to_owned(), json!(value))));
        folder.write_run(&run)
    }

    fn go_on(
        &self,
        folder: &RunFolder,
        mut progress: Progress,
        report: &mut dyn FnMut(Event<'_>),
    ) -> Result<Outcome> {
        self.model.device().seed(self.settings.seed)?;
        let path = folder.file(METRICS);
        let mut metrics = Metrics::open(folder.files(), &path, progress.step, progress.finished)?;
        if metrics.skipped > 0 {
            let (rows, path) = (metrics.skipped, path.display());
            let s = if rows == 1 { "" } else { "s" };
            let text = format!("{path}: {rows} row{s} cannot be read: skipped, and left there");
            report(Event::Note(text));
        }
        let mut launches = None;
        let mut run = Run { folder, progress: &mut progress, metrics: &mut metrics, report };
        let stopped = match self.steps(&mut run, &mut launches)? {
            ControlFlow::Break(()) => true,
            ControlFlow::Continue(()) => self.finish(&mut run)?.is_break(),
        };
        if stopped {
            report(Event::Interrupted(progress.step));
        }
        Ok(Outcome {
            steps: progress.step,
            best_loss: progress.final_loss.or(progress.best_loss).unwrap_or(f64::NAN),
            best_step: progress.best_step,
            launches,
            interrupted: stopped,
        })
    }

    /// The steps that are left; breaks when the run is asked to stop.
    fn steps(&self, run: &mut Run<'_>, launches: &mut Option<usize>) -> Result<ControlFlow<()>> {
        if run.progress.ended {
            return Ok(ControlFlow::Continue(()));
        }
        let (s, first) = (&self.settings, run.progress.step + 1);
        let mut step = TrainStep::new(self.model, &self.optimizer, s)?;
        let batches = Prefetch::start(self.training.clone(), self.sampling, s.seq, first, s.steps)?;
        let (mut pending, mut fetched) = (Vec::new(), Instant::now());
        for number in first..=s.steps {
            let batch = batches.take()?;
            let lr = s.schedule.rate(number, s.steps);
            step.run(number, lr, &batch)?;
            step.keep_results()?;
            *launches = step.launches();
            pending.push(Pending { step: number, lr, offsets: batch.offsets });
            let stop = (self.asked_to_stop)();
            let due = stop || self.is_due(number);
            if due || step.kept() == TrainStep::RING || fetched.elapsed() >= FETCH_EVERY {
                let results = step.take_results()?;
                let done = std::mem::take(&mut pending);
                self.settle(run, done, &results, fetched.elapsed())?;
                fetched = Instant::now();
            }
            if due {
                self.look_after(run, stop)?;
                fetched = Instant::now();
            }
            if run.progress.ended {
                break;
            }
            if stop {
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    /// Whether something is to be done after the step that needs all before it.
    fn is_due(&self, step: u64) -> bool {
        let s = &self.settings;
        step == s.steps
            || step.is_multiple_of(s.validate_every)
            || step.is_multiple_of(s.checkpoint_every)
    }

    /// Writes the rows of steps whose results have come, which took `time` together.
    fn settle(
        &self,
        run: &mut Run<'_>,
        done: Vec<Pending>,
        results: &[[f32; 2]],
        time: Duration,
    ) -> Result<()> {
        let tokens = (results.len() * self.settings.sequences() * self.settings.seq) as f64;
        let tokens_per_s = tokens / time.as_secs_f64().max(1e-9);
        for (Pending { step, lr, offsets }, result) in done.into_iter().zip(results) {
            let [loss, grad_norm] = result.map(f64::from);
            if !loss.is_finite() || !grad_norm.is_finite() {
                let what = format!("its loss is {loss} and its gradients' norm {grad_norm}");
                return Err(diverged(step, &what));
            }
            let row = StepRow { step, loss, lr, grad_norm, tokens_per_s, offsets };
            run.progress.step = step;
            run.metrics.step(&row)?;
            (run.report)(Event::Step(&row));
        }
        Ok(())
    }

    /// Validation, the best model, early stopping and checkpoints, where they are due; a
    /// checkpoint in any case when the run is to `stop`.
    fn look_after(&self, run: &mut Run<'_>, stop: bool) -> Result<()> {
        let (s, step) = (&self.settings, run.progress.step);
        let last = step >= s.steps;
        let validate = last || step.is_multiple_of(s.validate_every);
        if validate {
            self.validate(run)?;
        }
        run.progress.ended |= last;
        // Where all of the text was looked at nothing is left.
        run.progress.finished = run.progress.ended && self.sees_all();
        if stop || run.progress.ended || step.is_multiple_of(s.checkpoint_every) {
            if !validate {
                // A loss of the last step says nothing of the parameters after it.
                self.validation_loss(step, 1)?;
            }
            self.save(run)?;
        }
        Ok(())
    }

    fn validate(&self, run: &mut Run<'_>) -> Result<()> {
        let (s, step) = (&self.settings, run.progress.step);
        let loss = self.validation_loss(step, s.validate_windows)?;
        run.metrics.validation(step, loss)?;
        let progress = &mut *run.progress;
        let best = progress.best_loss.is_none_or(|b| loss < b);
        if best {
            (progress.best_loss, progress.best_step, progress.stale) = (Some(loss), step, 0);
            run.folder.write_model(self.model).map_err(|e| at_step(step, e))?;
        } else {
            progress.stale += 1;
        }
        (run.report)(Event::Validated { step, loss, best });
        if s.patience.is_some_and(|p| progress.stale >= p) && step < s.steps {
            progress.ended = true;
            (run.report)(Event::Stopped(progress.stale));
        }
        Ok(())
    }

    /// The loss after `step` over some windows of the validation text.
    fn validation_loss(&self, step: u64, windows: usize) -> Result<f64> {
        let watch = &mut |_, _| ControlFlow::Continue(());
        let found = evaluate_some(self.model, &self.validation, windows, watch)?;
        let loss = found.map_or(f64::NAN, |e| e.loss);
        if loss.is_finite() {
            return Ok(loss);
        }
        Err(diverged(step, &format!("the validation loss after it is {loss}")))
    }

    /// Whether each validation looks at the whole text.
    fn sees_all(&self) -> bool {
        (self.validation.len() - 1).div_ceil(self.model.context()) <= self.settings.validate_windows
    }

    fn save(&self, run: &mut Run<'_>) -> Result<()> {
        let step = run.progress.step;
        // The rows first: a state must never be ahead of them.
        run.metrics.sync()?;
        plot::save(run.folder.files(), &run.folder.file(PLOT), &run.metrics.curves)?;
        let written = run.folder.write_state(self.model, &self.optimizer, run.progress);
        written.map_err(|e| at_step(step, e))?;
        (run.report)(Event::Saved(step));
        Ok(())
    }

    /// Evaluates the best model on the whole validation text, unless that is done; breaks when the
    /// run is asked to stop meanwhile.
    fn finish(&self, run: &mut Run<'_>) -> Result<ControlFlow<()>> {
        if run.progress.finished {
            return Ok(ControlFlow::Continue(()));
        }
        let report = &mut *run.report;
        let mut watch = |done, windows| {
            report(Event::Evaluating { done, windows });
            if (self.asked_to_stop)() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        let found = run.folder.with_best_model(self.model, || {
            evaluate_some(self.model, &self.validation, usize::MAX, &mut watch)
        })?;
        let Some(found) = found else { return Ok(ControlFlow::Break(())) };
        let (step, best) = (run.progress.step, run.progress.best_step);
        if !found.loss.is_finite() {
            return Err(diverged(best, "its model's loss over the whole text is no number"));
        }
        run.metrics.end(step, best, found.loss)?;
        (run.progress.final_loss, run.progress.finished) = (Some(found.loss), true);
        self.save(run)?;
        Ok(ControlFlow::Continue(()))
    }
}

/// A run under way.
struct Run<'r> {
    folder: &'r RunFolder,
    progress: &'r mut Progress,
    metrics: &'r mut Metrics,
    report: &'r mut dyn FnMut(Event<'_>),
}

/// A step whose results are still on the device.
struct Pending {
    step: u64,
    lr: f64,
    offsets: Vec<usize>,
}

fn diverged(step: u64, what: &str) -> Error {
    Error::Diverged(format!(
        "the run diverged at step {step} ({what}): use a lower learning rate; the last checkpoint \
         is whole"
    ))
}

/// Says at which step a tensor that was to be saved no longer was one of finite numbers.
fn at_step(step: u64, error: Error) -> Error {
    match error {
        Error::Diverged(what) => diverged(step, &format!("{what} after it")),
        other => other,
    }
}
