//! The loop.

use super::folder::Progress;
use super::metrics::Metrics;
use super::{LanguageModel, RunFolder, Settings, StepRow, TrainStep, evaluate, plot};
use crate::data::{ByteTokenizer, Corpus, Prefetch, Sampling};
use serde_json::{Map, Value, json};
use starling_engine::optim::Optimizer;
use starling_engine::{Error, Result};
use std::time::Instant;

/// What the trainer reports while it works.
#[derive(Debug)]
pub enum Event<'a> {
    /// A run begins: its folder is made.
    Started,
    /// A run continues after this many steps.
    Resumed(u64),
    /// A step is done.
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
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Outcome {
    /// Steps done.
    pub steps: u64,
    /// The saved model's validation loss in nats per token.
    pub best_loss: f64,
    /// The step that it is from.
    pub best_step: u64,
    /// Verbs that one step submits; `None` when no step ran.
    pub launches: Option<usize>,
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
}

impl<'a> Trainer<'a> {
    /// Checks that the parts fit together.
    ///
    /// # Errors
    /// [`Error::Invalid`] when a setting is impossible, the sequences are longer than the model's
    /// context or the corpus is shorter than a sequence.
    pub fn new(model: &'a dyn LanguageModel, settings: Settings, corpus: Corpus) -> Result<Self> {
        settings.check()?;
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
        Ok(Self { model, settings, corpus, training, validation, sampling, optimizer })
    }

    /// The content of run.json: `about`, every hyper-parameter, the machine and the corpus.
    fn describe(&self, about: &Map<String, Value>) -> Result<Value> {
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
        run.insert("threads".into(), json!(rayon::current_num_threads()));
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
        Ok(Value::Object(run))
    }

    fn corpus_hash(&self) -> String {
        format!("{:016x}", self.corpus.hash())
    }

    /// Starts a run in an empty folder. `about` goes to run.json beside the settings.
    ///
    /// # Errors
    /// [`Error::File`] when writing fails (what was there stays whole), [`Error::Diverged`], what
    /// the device reports.
    pub fn start(
        &self,
        folder: &RunFolder,
        about: &Map<String, Value>,
        report: &mut dyn FnMut(Event<'_>),
    ) -> Result<Outcome> {
        // First of all the file by which an interrupted run is known.
        folder.write_run(&self.describe(about)?)?;
        self.begin(folder, report)
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
                report(Event::Resumed(progress.step));
                self.go_on(folder, progress, report)
            }
            // It was interrupted before the first state.
            None => self.begin(folder, report),
        }
    }

    fn go_on(
        &self,
        folder: &RunFolder,
        mut progress: Progress,
        report: &mut dyn FnMut(Event<'_>),
    ) -> Result<Outcome> {
        let s = &self.settings;
        self.model.device().seed(s.seed)?;
        let path = folder.file("metrics.jsonl");
        let mut metrics = Metrics::open(folder.files(), &path, progress.step)?;
        let mut step = TrainStep::new(self.model, &self.optimizer, s)?;
        if !progress.finished {
            let (corpus, first) = (self.training.clone(), progress.step + 1);
            let batches = Prefetch::start(corpus, self.sampling, s.seq, first, s.steps)?;
            while !progress.finished {
                let row = self.one_step(progress.step + 1, &mut step, &batches)?;
                progress.step = row.step;
                metrics.step(&row)?;
                report(Event::Step(&row));
                self.look_after(folder, &mut progress, &mut metrics, report)?;
            }
        }
        Ok(Outcome {
            steps: progress.step,
            best_loss: progress.best_loss.unwrap_or(f64::NAN),
            best_step: progress.best_step,
            launches: step.launches(),
        })
    }

    fn one_step(
        &self,
        number: u64,
        step: &mut TrainStep<'_>,
        batches: &Prefetch,
    ) -> Result<StepRow> {
        let (batch, start) = (batches.take()?, Instant::now());
        let lr = self.settings.schedule.rate(number, self.settings.steps);
        step.run(number, lr, &batch)?;
        let [loss, grad_norm] = step.results()?.map(f64::from);
        if !loss.is_finite() || !grad_norm.is_finite() {
            return Err(Error::Diverged(format!(
                "the run diverged at step {number} (loss {loss}, gradient norm {grad_norm}): \
                 use a lower learning rate; the last checkpoint is whole"
            )));
        }
        let tokens = batch.inputs.len() as f64;
        let tokens_per_s = tokens / start.elapsed().as_secs_f64().max(1e-9);
        Ok(StepRow { step: number, loss, lr, grad_norm, tokens_per_s, offsets: batch.offsets })
    }

    /// Validation, the best model, early stopping and checkpoints, where they are due.
    fn look_after(
        &self,
        folder: &RunFolder,
        progress: &mut Progress,
        metrics: &mut Metrics,
        report: &mut dyn FnMut(Event<'_>),
    ) -> Result<()> {
        let (s, step) = (&self.settings, progress.step);
        progress.finished = step >= s.steps;
        if step.is_multiple_of(s.validate_every) || progress.finished {
            let loss = evaluate(self.model, &self.validation)?.loss;
            metrics.validation(step, loss)?;
            let best = progress.best_loss.is_none_or(|b| loss < b);
            if best {
                (progress.best_loss, progress.best_step, progress.stale) = (Some(loss), step, 0);
                folder.write_model(self.model)?;
            } else {
                progress.stale += 1;
            }
            report(Event::Validated { step, loss, best });
            if s.patience.is_some_and(|p| progress.stale >= p) && !progress.finished {
                progress.finished = true;
                report(Event::Stopped(progress.stale));
            }
        }
        if step.is_multiple_of(s.checkpoint_every) || progress.finished {
            // The rows first: a state must never be ahead of them.
            metrics.sync()?;
            plot::save(folder.files(), &folder.file("loss.svg"), &metrics.curves)?;
            folder.write_state(self.model, &self.optimizer, progress)?;
            report(Event::Saved(step));
        }
        Ok(())
    }
}
