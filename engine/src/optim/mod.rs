//! Optimizers whose whole step is work on the device.

mod clip;
mod schedule;

pub use clip::{Clip, clip_grad_norm};
pub use schedule::{Decline, Schedule};

use crate::error::{Error, Result};
use crate::tensor::{Tensor, update};
use serde::{Deserialize, Serialize};
use starling_ops::Definition;
use starling_ops::defs::{Adam, Adamw, Def, Sgd};

/// Which update, with its constants. Weight decay applies to matrices only: biases and the weights
/// of norms, whose size means nothing by itself, do not decay.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "name", rename_all = "lowercase")]
pub enum Rule {
    /// Stochastic gradient descent with momentum; the decay is added to the gradient.
    Sgd {
        /// Factor of the old direction.
        momentum: f64,
        /// Decay of matrices.
        weight_decay: f64,
    },
    /// Adam (Kingma, Ba 2014); the decay is added to the gradient.
    Adam {
        /// Memory of the mean.
        beta1: f64,
        /// Memory of the mean square.
        beta2: f64,
        /// Added to the root.
        eps: f64,
        /// Decay of matrices.
        weight_decay: f64,
    },
    /// AdamW (Loshchilov, Hutter 2017): the decay is apart from the gradient.
    AdamW {
        /// Memory of the mean.
        beta1: f64,
        /// Memory of the mean square.
        beta2: f64,
        /// Added to the root.
        eps: f64,
        /// Decay of matrices.
        weight_decay: f64,
    },
}

impl Rule {
    fn definition(&self) -> &'static Definition {
        match self {
            Rule::Sgd { .. } => Sgd::DEFINITION,
            Rule::Adam { .. } => Adam::DEFINITION,
            Rule::AdamW { .. } => Adamw::DEFINITION,
        }
    }

    /// The definition's scalars.
    fn scalars(&self, decays: bool) -> Vec<f64> {
        let decay = |x: f64| if decays { x } else { 0.0 };
        match *self {
            Rule::Sgd { momentum, weight_decay } => vec![momentum, decay(weight_decay)],
            Rule::Adam { beta1, beta2, eps, weight_decay }
            | Rule::AdamW { beta1, beta2, eps, weight_decay } => {
                vec![beta1, beta2, eps, decay(weight_decay)]
            }
        }
    }

    /// The names of what is remembered for every parameter.
    fn memories(&self) -> &'static [&'static str] {
        match self {
            Rule::Sgd { .. } => &["momentum"],
            Rule::Adam { .. } | Rule::AdamW { .. } => &["mean", "var"],
        }
    }

    /// `1 / (1 - beta^step)` for both betas: what undoes the pull of the zeros at the start.
    fn corrections(&self, step: u64) -> [f64; 2] {
        match *self {
            Rule::Sgd { .. } => [1.0; 2],
            Rule::Adam { beta1, beta2, .. } | Rule::AdamW { beta1, beta2, .. } => {
                [beta1, beta2].map(|b| 1.0 / (1.0 - b.powf(step as f64)))
            }
        }
    }

    fn check(&self) -> Result<()> {
        let unit = |name: &str, x: f64| {
            if (0.0..1.0).contains(&x) {
                return Ok(());
            }
            Err(Error::invalid(format!("{name} is {x} and must be in 0..1")))
        };
        let positive = |name: &str, x: f64| {
            if x.is_finite() && x >= 0.0 {
                return Ok(());
            }
            Err(Error::invalid(format!("{name} is {x} and must be a number of at least 0")))
        };
        match *self {
            Rule::Sgd { momentum, weight_decay } => {
                unit("the momentum", momentum)?;
                positive("the weight decay", weight_decay)
            }
            Rule::Adam { beta1, beta2, eps, weight_decay }
            | Rule::AdamW { beta1, beta2, eps, weight_decay } => {
                unit("beta1", beta1)?;
                unit("beta2", beta2)?;
                positive("eps", eps)?;
                positive("the weight decay", weight_decay)
            }
        }
    }
}

struct Slot {
    name: String,
    parameter: Tensor,
    memory: Vec<Tensor>,
}

impl Slot {
    fn decays(&self) -> bool {
        self.parameter.rank() >= 2
    }
}

/// Parameters, what is remembered for each, and the numbers that change at every step.
pub struct Optimizer {
    rule: Rule,
    slots: Vec<Slot>,
    learning_rate: Tensor,
    corrections: [Tensor; 2],
    no_clip: Tensor,
}

impl Optimizer {
    /// Takes charge of named parameters, all on one device. Nothing is remembered yet.
    ///
    /// # Errors
    /// [`Error::Invalid`] for no parameter or impossible constants; out of memory.
    pub fn new(rule: Rule, parameters: Vec<(String, Tensor)>) -> Result<Self> {
        rule.check()?;
        let Some(device) = parameters.first().map(|(_, p)| p.device().clone()) else {
            return Err(Error::invalid("an optimizer needs parameters"));
        };
        // Uploaded, not lazy: whatever a captured step first touches would be part of it.
        let number = || Tensor::from_slice(&device, &[1f32], &[]);
        let slots = parameters.into_iter().map(|(name, parameter)| {
            let zeros = vec![0f32; parameter.len()];
            let memory = rule
                .memories()
                .iter()
                .map(|_| Tensor::from_slice(&device, &zeros, parameter.shape()))
                .collect::<Result<_>>()?;
            Ok(Slot { name, parameter, memory })
        });
        Ok(Self {
            rule,
            slots: slots.collect::<Result<_>>()?,
            learning_rate: number()?,
            corrections: [number()?, number()?],
            no_clip: number()?,
        })
    }

    /// The update and its constants.
    pub fn rule(&self) -> Rule {
        self.rule
    }

    /// The names of the parameters that decay, and of those that do not.
    pub fn decay_groups(&self) -> (Vec<String>, Vec<String>) {
        let names = |decays: bool| {
            let slots = self.slots.iter().filter(|s| s.decays() == decays);
            slots.map(|s| s.name.clone()).collect()
        };
        (names(true), names(false))
    }

    /// The parameters.
    pub fn parameters(&self) -> impl Iterator<Item = &Tensor> {
        self.slots.iter().map(|s| &s.parameter)
    }

    /// What is remembered, by name, to be saved and overwritten when a run resumes.
    pub fn memory(&self) -> Vec<(String, Tensor)> {
        let names = self.rule.memories();
        let of = |slot: &Slot| {
            let named = names.iter().zip(slot.memory.clone());
            named.map(|(n, t)| (format!("{n}.{}", slot.name), t)).collect::<Vec<_>>()
        };
        self.slots.iter().flat_map(of).collect()
    }

    /// Clears the gradients.
    pub fn zero_grad(&self) {
        self.slots.iter().for_each(|s| s.parameter.zero_grad());
    }

    /// Tells the device which step (from 1) comes and at which learning rate. Before each
    /// [`Optimizer::step`], also before each replay of a captured one.
    ///
    /// # Errors
    /// What the device reports.
    pub fn prepare(&self, step: u64, learning_rate: f64) -> Result<()> {
        self.learning_rate.copy_from_slice(&[learning_rate as f32])?;
        for (tensor, value) in self.corrections.iter().zip(self.rule.corrections(step)) {
            tensor.copy_from_slice(&[value as f32])?;
        }
        Ok(())
    }

    /// Updates every parameter that has a gradient, times `clip`'s factor, in place.
    ///
    /// # Errors
    /// What the device reports.
    pub fn step(&self, clip: Option<&Clip>) -> Result<()> {
        let clip = clip.map_or(&self.no_clip, |c| &c.factor);
        let (lr, [c1, c2]) = (&self.learning_rate, &self.corrections);
        for slot in &self.slots {
            let Some(gradient) = slot.parameter.grad() else { continue };
            let parameter = slot.parameter.detach();
            let mut inputs = vec![&parameter, &gradient];
            inputs.extend(&slot.memory);
            inputs.extend([lr, clip]);
            if slot.memory.len() == 2 {
                inputs.extend([c1, c2]);
            }
            let mut outputs = vec![&parameter];
            outputs.extend(&slot.memory);
            update(self.rule.definition(), &self.rule.scalars(slot.decays()), &inputs, &outputs)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
