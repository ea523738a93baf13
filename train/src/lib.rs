//! Training a language model: one captured step, replayed; validation, checkpoints, resuming.

pub mod data;
mod evaluate;
pub mod files;
mod folder;
pub mod memory;
mod metrics;
mod plot;
mod step;
mod trainer;

pub use evaluate::{Evaluation, evaluate, evaluate_some};
pub use folder::{RunFolder, save_model};
pub use metrics::StepRow;
pub use step::TrainStep;
pub use trainer::{Event, Outcome, Trainer};

use data::{Batch, Prefetch};
use memory::{Bytes, product};
use serde::{Deserialize, Serialize};
use starling_engine::nn::{Init, Mode, Module, Source};
use starling_engine::optim::{Decline, Optimizer, Rule, Schedule};
use starling_engine::{DType, Device, Error, Result, Tensor};

/// What the trainer needs to know of a model that predicts the next token.
pub trait LanguageModel: Module {
    /// Where its parameters lie.
    fn device(&self) -> &Device;
    /// The most tokens that it can look back on.
    fn context(&self) -> usize;
    /// Number of tokens that it knows.
    fn vocabulary(&self) -> usize;
    /// The content of `config.json`.
    fn config_json(&self) -> serde_json::Value;
    /// Tokens `[batch, sequence]` (i32) to logits `[batch, sequence, vocabulary]`.
    ///
    /// # Errors
    /// [`Error::Backend`] when the shape does not fit or a token is unknown.
    fn logits(&self, tokens: &Tensor, mode: Mode) -> Result<Tensor>;
    /// The bytes that forward and backward over `[batch, sequence]` tokens take at least: here the
    /// logits and their gradient.
    fn step_bytes(&self, batch: usize, sequence: usize) -> Bytes {
        2 * product(&[size_of::<f32>(), batch, sequence, self.vocabulary()])
    }
}

/// Parameters that hold nothing.
struct Blank(Device);

impl Source for Blank {
    fn device(&self) -> &Device {
        &self.0
    }

    fn parameter(&mut self, _name: &str, shape: &[usize], _init: Init) -> Result<Tensor> {
        Ok(Tensor::zeros(&self.0, DType::F32, shape)?.requires_grad())
    }
}

/// Every number that decides what a run computes, apart from the model's own.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    /// Optimizer steps.
    pub steps: u64,
    /// Sequences that go through the model at once.
    pub batch: usize,
    /// Tokens of a sequence.
    pub seq: usize,
    /// Batches whose gradients are added up for one step.
    pub accumulate: usize,
    /// The learning rate of each step.
    pub schedule: Schedule,
    /// The largest norm of the gradients; larger ones are scaled down to it.
    pub clip: Option<f64>,
    /// The update.
    pub optimizer: Rule,
    /// Decides the initial weights, the sequences and the dropout.
    pub seed: u64,
    /// Steps between validations.
    pub validate_every: u64,
    /// Windows of the validation text that a validation looks at, spread over all of it. All of
    /// them count once, at the end of the run, for the best model.
    pub validate_windows: usize,
    /// Steps between checkpoints.
    pub checkpoint_every: u64,
    /// Validations without a new best after which the run ends.
    pub patience: Option<u64>,
}

impl Settings {
    /// AdamW at `rate` with a cosine and 5% warm-up, clipped at 1.
    pub fn new(steps: u64, batch: usize, seq: usize, rate: f64) -> Self {
        Self {
            steps,
            batch,
            seq,
            accumulate: 1,
            schedule: Schedule {
                name: Decline::Cosine,
                peak: rate,
                warmup: (steps / 20).min(100),
                last: rate * 0.05,
            },
            clip: Some(1.0),
            optimizer: Rule::AdamW { beta1: 0.9, beta2: 0.99, eps: 1e-8, weight_decay: 0.1 },
            seed: 0,
            validate_every: 100,
            validate_windows: 256,
            checkpoint_every: 50,
            patience: Some(10),
        }
    }

    /// Refuses what cannot be trained with.
    ///
    /// # Errors
    /// [`Error::Invalid`] that names the number.
    pub fn check(&self) -> Result<()> {
        let counts = [
            ("the number of steps", self.steps),
            ("the batch", self.batch as u64),
            ("the sequence length", self.seq as u64),
            ("the number of accumulated batches", self.accumulate as u64),
            ("the steps between validations", self.validate_every),
            ("the steps between checkpoints", self.checkpoint_every),
            ("the number of validation windows", self.validate_windows as u64),
            ("the patience", self.patience.unwrap_or(1)),
        ];
        for (name, count) in counts {
            if count == 0 {
                return Err(Error::invalid(format!("{name} is 0 and must be at least 1")));
            }
        }
        if let Some(clip) = self.clip.filter(|c| !c.is_finite() || *c <= 0.0) {
            return Err(Error::invalid(format!("the clipping norm is {clip} and must be above 0")));
        }
        let sizes = [self.batch, self.accumulate, self.seq];
        if product(&sizes) > i64::MAX as Bytes {
            let [batch, accumulate, seq] = sizes;
            return Err(Error::invalid(format!(
                "a step of {accumulate} batches of {batch} sequences of {seq} tokens is beyond \
                 counting: choose smaller sizes"
            )));
        }
        self.schedule.check()
    }

    /// Sequences of one step.
    pub fn sequences(&self) -> usize {
        self.batch.saturating_mul(self.accumulate)
    }

    /// As [`Settings::check_memory`], and exactly: a step on a device that has no memory and
    /// computes nothing says what a step needs. `model` makes the model there, and no weights are
    /// drawn.
    ///
    /// # Errors
    /// [`Error::Invalid`] with both numbers; those of `model` and of the step.
    pub fn plan_memory<M: LanguageModel>(
        &self,
        device: &Device,
        model: impl FnOnce(&mut dyn Source) -> Result<M>,
    ) -> Result<()> {
        let plan = device.planned()?;
        let model = model(&mut Blank(plan.clone()))?;
        self.check_memory(&model)?;
        let optimizer = Optimizer::new(self.optimizer, model.parameters())?;
        let sequences = self.sequences();
        let inputs = vec![0; sequences * self.seq];
        let (offsets, targets) = (vec![0; sequences], inputs.clone());
        let batch = Batch { step: 1, offsets, inputs, targets };
        TrainStep::new(&model, &optimizer, self)?.run(1, 0.0, &batch)?;
        let needs = plan.pool_stats().peak_bytes as Bytes;
        memory::check(&plan, &self.step_in_words(), needs)
    }

    fn step_in_words(&self) -> String {
        let (batch, accumulate, seq) = (self.batch, self.accumulate, self.seq);
        let batches = if accumulate > 1 { format!("{accumulate} x ") } else { String::new() };
        format!("a step of {batches}{batch} x {seq} tokens")
    }

    /// Refuses sizes whose step needs more memory than there is, before any is taken.
    ///
    /// # Errors
    /// [`Error::Invalid`] with both numbers.
    pub fn check_memory(&self, model: &dyn LanguageModel) -> Result<()> {
        let (batch, accumulate, seq) = (self.batch, self.accumulate, self.seq);
        let what = self.step_in_words();
        // Inputs and targets.
        let tokens = 2 * product(&[size_of::<i32>(), batch, accumulate, seq]);
        let waiting = (Prefetch::AHEAD as Bytes + 2).saturating_mul(tokens);
        memory::check_host(&what, waiting)?;
        // A gradient and two moments for each parameter.
        let parameters: usize = model.parameters().iter().map(|p| p.1.len()).sum();
        let kept = 3 * product(&[size_of::<f32>(), parameters]);
        let needs = [tokens, kept, model.step_bytes(batch, seq)];
        let needs = needs.into_iter().fold(waiting, Bytes::saturating_add);
        memory::check(model.device(), &what, needs)
    }
}

#[cfg(test)]
mod tests;
