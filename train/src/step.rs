//! One optimizer step, captured once and replayed.

use super::{LanguageModel, Settings};
use crate::data::Batch;
use starling_engine::Captured;
use starling_engine::Tensor;
use starling_engine::nn::Mode;
use starling_engine::optim::{Optimizer, clip_grad_norm};
use starling_engine::{Error, Result};

/// Forward, backward, clipping and update over the accumulated batches of a step, as one list of
/// verbs. What changes from step to step lies in tensors that are refilled: tokens, learning rate,
/// the dropout's step. Nothing is read back inside; the loss and the gradients' norm
/// are fetched together afterwards.
pub struct TrainStep<'a> {
    model: &'a dyn LanguageModel,
    optimizer: &'a Optimizer,
    accumulate: usize,
    clip: Option<f64>,
    inputs: Tensor,
    targets: Tensor,
    rate: Tensor,
    /// The mean loss, and the norm of the gradients before clipping.
    results: Tensor,
    /// `[RING, 2]`: the results of the last steps that were kept.
    ring: Tensor,
    kept: usize,
    captured: Option<Captured>,
}

impl<'a> TrainStep<'a> {
    /// The most results that can be kept on the device.
    pub const RING: usize = 8;

    /// Makes room for the batches of a step.
    ///
    /// # Errors
    /// Out of memory.
    pub fn new(
        model: &'a dyn LanguageModel,
        optimizer: &'a Optimizer,
        settings: &Settings,
    ) -> Result<Self> {
        let shape = [settings.sequences(), settings.seq];
        let room = || Tensor::from_slice(model.device(), &vec![0i32; shape[0] * shape[1]], &shape);
        Ok(Self {
            model,
            optimizer,
            accumulate: settings.accumulate,
            clip: settings.clip,
            inputs: room()?,
            targets: room()?,
            rate: Tensor::from_slice(model.device(), &[0f32], &[])?,
            results: Tensor::from_slice(model.device(), &[0f32; 2], &[2])?,
            ring: Tensor::from_slice(model.device(), &[0f32; 2 * Self::RING], &[Self::RING, 2])?,
            kept: 0,
            captured: None,
        })
    }

    /// Runs `step` (from 1), whose number decides the dropout, on a batch.
    /// The device may still be at work when this returns.
    ///
    /// # Errors
    /// What the device reports.
    pub fn run(&mut self, step: u64, learning_rate: f64, batch: &Batch) -> Result<()> {
        self.inputs.copy_from_slice(&batch.inputs)?;
        self.targets.copy_from_slice(&batch.targets)?;
        self.model.device().set_random_step(step)?;
        self.rate.copy_from_slice(&[learning_rate as f32])?;
        match &self.captured {
            Some(captured) => captured.replay(),
            None => {
                let (captured, ()) = self.model.device().capture(|| self.compute())?;
                self.captured = Some(captured);
                Ok(())
            }
        }
    }

    /// The mean loss and the norm of the gradients of the last step.
    ///
    /// # Errors
    /// What the device reports.
    pub fn results(&self) -> Result<[f32; 2]> {
        let both = self.results.to_vec::<f32>()?;
        <[f32; 2]>::try_from(both).map_err(|_| Error::invalid("a step has two results"))
    }

    /// Keeps the results of the last step on the device, without waiting for them.
    ///
    /// # Errors
    /// [`Error::Invalid`] when [`TrainStep::RING`] are kept already; what the device reports.
    pub fn keep_results(&mut self) -> Result<()> {
        if self.kept == Self::RING {
            return Err(Error::invalid("the ring of results is full: take them first"));
        }
        self.ring.slice_assign(0, self.kept, &self.results.reshape(&[1, 2])?)?;
        self.kept += 1;
        Ok(())
    }

    /// How many results are kept.
    pub fn kept(&self) -> usize {
        self.kept
    }

    /// The kept results, each as in [`TrainStep::results`], in the order of their steps: waits for
    /// the device once. None is kept afterwards.
    ///
    /// # Errors
    /// What the device reports.
    pub fn take_results(&mut self) -> Result<Vec<[f32; 2]>> {
        let kept = std::mem::take(&mut self.kept);
        let all = self.ring.to_vec::<f32>()?;
        Ok(all.chunks_exact(2).take(kept).map(|pair| [pair[0], pair[1]]).collect())
    }

    /// Verbs of a step, once one has run.
    pub fn launches(&self) -> Option<usize> {
        self.captured.as_ref().map(Captured::launches)
    }

    fn compute(&self) -> Result<()> {
        self.optimizer.zero_grad();
        let batch = self.inputs.shape()[0] / self.accumulate;
        let share = 1.0 / self.accumulate as f64;
        let mut total: Option<Tensor> = None;
        for i in 0..self.accumulate {
            let inputs = self.inputs.narrow(0, i * batch, batch)?;
            let targets = self.targets.narrow(0, i * batch, batch)?;
            let logits = self.model.logits(&inputs, Mode::Train)?;
            let mut loss = logits.cross_entropy(&targets, None)?;
            if self.accumulate > 1 {
                loss = loss.mul_scalar(share)?;
            }
            loss.backward()?;
            let loss = loss.detach();
            total = Some(match total {
                Some(sum) => sum.add(&loss)?,
                None => loss,
            });
        }
        let clip = clip_grad_norm(self.optimizer.parameters(), self.clip)?;
        self.optimizer.step(&self.rate, Some(&clip))?;
        if let Some(loss) = total {
            self.results.slice_assign(0, 0, &loss.reshape(&[1])?)?;
        }
        self.results.slice_assign(0, 1, &clip.norm.reshape(&[1])?)
    }
}
