//! Optimizers whose whole step is work on the device.

mod clip;
mod runs;
mod schedule;

pub use clip::{Clip, clip_grad_norm};
pub use schedule::{Decline, Schedule};

use crate::error::{Error, Result};
use crate::tensor::{Tensor, is_recording_operations, update};
use runs::Run;
use serde::{Deserialize, Serialize};
use starling_contract::DType;
use starling_ops::Definition;
use starling_ops::defs::{Adam, Adamw, Advance, Def, Sgd};
use std::collections::HashSet;
use std::ops::Range;
use std::sync::Arc;

/// Which update, with its constants.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "name", rename_all = "lowercase")]
pub enum Rule {
    /// Stochastic gradient descent with momentum; the decay is added to the gradient.
    Sgd {
        /// Factor of the old direction.
        momentum: f64,
        /// Decay of the parameters of a group that names no other.
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
        /// Decay of the parameters of a group that names no other.
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
        /// Decay of the parameters of a group that names no other.
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
    fn scalars(&self) -> Vec<f64> {
        match *self {
            Rule::Sgd { momentum, weight_decay } => vec![momentum, weight_decay],
            Rule::Adam { beta1, beta2, eps, weight_decay }
            | Rule::AdamW { beta1, beta2, eps, weight_decay } => {
                vec![beta1, beta2, eps, weight_decay]
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

    /// The logarithms of both betas, from which the device makes the corrections of a step.
    fn log_betas(&self) -> Vec<f64> {
        match *self {
            Rule::Sgd { .. } => vec![-1.0; 2],
            // A beta of 0 needs no correction, and shaders have no infinities.
            Rule::Adam { beta1, beta2, .. } | Rule::AdamW { beta1, beta2, .. } => {
                [beta1, beta2].map(|b| b.ln().max(-1e3)).to_vec()
            }
        }
    }

    /// The rule with another decay.
    fn with_decay(mut self, decay: f64) -> Self {
        match &mut self {
            Rule::Sgd { weight_decay, .. }
            | Rule::Adam { weight_decay, .. }
            | Rule::AdamW { weight_decay, .. } => *weight_decay = decay,
        }
        self
    }

    /// True when an update leaves a 0 without a gradient what it is: those between parameters.
    fn keeps_zeros(&self) -> bool {
        match *self {
            Rule::Sgd { .. } => true,
            // Otherwise it would be 0 / 0.
            Rule::Adam { eps, .. } | Rule::AdamW { eps, .. } => eps as f32 > 0.0,
        }
    }

    fn decay(&self) -> f64 {
        match *self {
            Rule::Sgd { weight_decay, .. }
            | Rule::Adam { weight_decay, .. }
            | Rule::AdamW { weight_decay, .. } => weight_decay,
        }
    }

    fn check(&self) -> Result<()> {
        let unit = |name: &str, x: f64| {
            if (0.0..1.0).contains(&x) {
                return Ok(());
            }
            Err(Error::invalid(format!("{name} is {x} and must be in 0..1")))
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

/// Parameters that share a learning rate and a decay.
pub struct Group {
    /// Each with the name that files and messages know it by.
    pub parameters: Vec<(String, Tensor)>,
    /// Factor of the learning rate that [`Optimizer::step`] is given.
    pub rate: f64,
    /// Takes the place of the rule's.
    pub weight_decay: f64,
}

/// The learning rate of a step.
pub enum Rate {
    /// This number, also in every replay of a captured step.
    Constant(f64),
    /// An f32 tensor of one element, read when the step runs: what a captured step takes.
    Device(Tensor),
}

impl From<f64> for Rate {
    fn from(rate: f64) -> Self {
        Rate::Constant(rate)
    }
}

impl From<&Tensor> for Rate {
    fn from(rate: &Tensor) -> Self {
        Rate::Device(rate.clone())
    }
}

#[derive(Clone)]
struct Slot {
    name: String,
    parameter: Tensor,
    /// Views of what its run remembers.
    memory: Vec<Tensor>,
    group: usize,
    may_lack_gradient: bool,
}

/// Parameters of a group that lie side by side in one buffer.
pub struct Arena {
    /// All their elements, along one axis; a parameter that lies by itself has its own shape.
    /// What is written here is written to the parameters. Elements between parameters are 0.
    pub parameters: Tensor,
    /// The name of each parameter and where its elements are, in row-major order.
    pub ranges: Vec<(String, Range<usize>)>,
}

/// The rule and the factor of the rate of a group.
struct Terms {
    rule: Rule,
    rate: f64,
}

/// Parameters, what is remembered for each, and the count of steps. The count lies on the device,
/// so that a captured step counts when it is replayed.
///
/// The parameters of a group and a type are moved into one buffer, and their gradients come to lie
/// in another one, so that one launch updates them all. Tensors and views of them notice nothing,
/// but no other thread may compute with them meanwhile. A parameter stays where it is, and is
/// updated by a launch of its own, if it is a view of a larger tensor or if a captured step reads
/// it already.
pub struct Optimizer {
    rule: Rule,
    groups: Vec<Terms>,
    slots: Vec<Slot>,
    runs: Vec<Run>,
    /// Steps taken, and steps left out because the gradients were not finite.
    counts: [Tensor; 2],
    corrections: [Tensor; 2],
    no_clip: Tensor,
}

impl Optimizer {
    /// Takes charge of named parameters, all on one device: matrices decay as the rule says, and
    /// biases and the weights of norms, whose size means nothing by itself, do not.
    ///
    /// # Errors
    /// As [`Optimizer::with_groups`].
    pub fn new(rule: Rule, parameters: Vec<(String, Tensor)>) -> Result<Self> {
        let (matrices, others) = parameters.into_iter().partition(|(_, p)| p.rank() >= 2);
        let group = |parameters, weight_decay| Group { parameters, rate: 1.0, weight_decay };
        Self::with_groups(rule, vec![group(matrices, rule.decay()), group(others, 0.0)])
    }

    /// Takes charge of groups of parameters, all on one device. Nothing is remembered yet.
    ///
    /// # Errors
    /// [`Error::Invalid`] for no parameter, one that requires no gradient or repeats elements, two
    /// of one name, two that share memory or lie on two devices, one in two groups or impossible
    /// constants; out of memory.
    pub fn with_groups(rule: Rule, groups: Vec<Group>) -> Result<Self> {
        rule.check()?;
        let (mut terms, mut slots) = (Vec::new(), Vec::new());
        for (at, group) in groups.into_iter().enumerate() {
            let own = rule.with_decay(group.weight_decay);
            own.check()?;
            positive("the factor of the learning rate", group.rate)?;
            terms.push(Terms { rule: own, rate: group.rate });
            for (name, parameter) in group.parameters {
                let slot = Slot::new(name, parameter, at)?;
                if !slot.is_among(&slots)? {
                    slots.push(slot);
                }
            }
        }
        let Some(device) = slots.first().map(|s| s.parameter.device().clone()) else {
            return Err(Error::invalid("an optimizer needs parameters"));
        };
        if let Some(other) = slots.iter().find(|s| !s.parameter.device().same(&device)) {
            return Err(Error::invalid(format!(
                "the parameters {:?} on {} and {:?} on {} need an optimizer each",
                slots[0].name,
                device.name(),
                other.name,
                other.parameter.device().name()
            )));
        }
        let mut names = HashSet::new();
        if let Some(twice) = slots.iter().find(|s| !names.insert(&s.name)) {
            let message = format!("two parameters are named {:?}: give each its own", twice.name);
            return Err(Error::invalid(message));
        }
        runs::gather(&mut slots)?;
        let runs = runs::find(&slots, rule.memories().len(), !rule.keeps_zeros())?;
        for run in &runs {
            for (at, slot) in slots[run.slots.clone()].iter_mut().enumerate() {
                slot.memory = run.remembered(at, slot.parameter.shape())?;
            }
        }
        // Uploaded, not lazy: whatever a captured step first touches would be part of it.
        let number = |x: f32| Tensor::from_slice(&device, &[x], &[]);
        let counts = [number(0.0)?, number(0.0)?];
        let corrections = [number(1.0)?, number(1.0)?];
        let no_clip = number(1.0)?;
        Ok(Self { rule, groups: terms, slots, runs, counts, corrections, no_clip })
    }

    /// Declares parameters that a step may leave without a gradient, and so unchanged: experts
    /// that no token chose, say. A parameter that never moves is better left out.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a name that no parameter has.
    pub fn may_lack_gradient(&mut self, names: &[&str]) -> Result<()> {
        for name in names {
            let Some(slot) = self.slots.iter_mut().find(|s| s.name == *name) else {
                return Err(Error::invalid(format!("the optimizer has no parameter {name:?}")));
            };
            slot.may_lack_gradient = true;
        }
        Ok(())
    }

    /// The update and its constants.
    pub fn rule(&self) -> Rule {
        self.rule
    }

    /// The names of the parameters that decay, and of those that do not.
    pub fn decay_groups(&self) -> (Vec<String>, Vec<String>) {
        let decays = |s: &&Slot| self.groups[s.group].rule.decay() > 0.0;
        let (with, without): (Vec<&Slot>, Vec<&Slot>) = self.slots.iter().partition(decays);
        let names = |slots: Vec<&Slot>| slots.into_iter().map(|s| s.name.clone()).collect();
        (names(with), names(without))
    }

    /// The parameters.
    pub fn parameters(&self) -> impl Iterator<Item = &Tensor> {
        self.slots.iter().map(|s| &s.parameter)
    }

    /// The parameters in as few pieces as they lie in memory, each one in one of them: what is
    /// averaged or saved goes by these.
    pub fn arenas(&self) -> Vec<Arena> {
        let arena = |run: &Run| Arena {
            parameters: run.parameters.clone(),
            ranges: run.ranges(&self.slots),
        };
        self.runs.iter().map(arena).collect()
    }

    /// What is remembered, by name, to be saved and overwritten when a run resumes: the means of
    /// each parameter's gradients, and the count of steps.
    pub fn memory(&self) -> Vec<(String, Tensor)> {
        let names = self.rule.memories();
        let of = |slot: &Slot| {
            let named = names.iter().zip(slot.memory.clone());
            named.map(|(n, t)| (format!("{n}.{}", slot.name), t)).collect::<Vec<_>>()
        };
        let counts = ["steps", "skipped"].into_iter().zip(self.counts.clone());
        let counts = counts.map(|(name, t)| (format!("optimizer.{name}"), t));
        self.slots.iter().flat_map(of).chain(counts).collect()
    }

    /// Steps taken, and steps left out because the gradients were not finite.
    ///
    /// # Errors
    /// What the device reports.
    pub fn counts(&self) -> Result<[u64; 2]> {
        let [steps, skipped] = &self.counts;
        Ok([steps.item()? as u64, skipped.item()? as u64])
    }

    /// Clears the gradients.
    pub fn zero_grad(&self) {
        self.slots.iter().for_each(|s| s.parameter.zero_grad());
    }

    /// Updates every parameter in place at a learning rate, its gradient times `clip`'s factor. A
    /// step whose gradients are not finite, as `clip` finds, changes nothing but the count of
    /// those.
    ///
    /// # Errors
    /// [`Error::Invalid`] that names a parameter without a gradient, or for a rate or factor that
    /// is no single f32 of this device outside the graph, before anything is changed; what the
    /// device reports.
    pub fn step(&self, rate: impl Into<Rate>, clip: Option<&Clip>) -> Result<()> {
        let gradients = self.slots.iter().map(|s| Ok((&s.parameter, s.gradient()?)));
        let gradients: Vec<_> = gradients.collect::<Result<_>>()?;
        if let Some(clip) = clip {
            self.check_number("the clipping factor", &clip.factor)?;
        }
        let rate = match rate.into() {
            Rate::Device(tensor) => {
                self.check_number("the learning rate", &tensor)?;
                tensor
            }
            Rate::Constant(rate) if !(rate as f32).is_finite() => {
                let message = format!("the learning rate is {rate} and must be a finite number");
                return Err(Error::invalid(message));
            }
            Rate::Constant(rate) => Tensor::full(self.no_clip.device(), DType::F32, &[], rate)?,
        };
        let clip = clip.map_or(&self.no_clip, |c| &c.factor);
        let ([steps, skipped], [c1, c2]) = (&self.counts, &self.corrections);
        let (inputs, outputs) = ([steps, skipped, clip], [steps, skipped, c1, c2]);
        update(Advance::DEFINITION, &self.rule.log_betas(), &inputs, &outputs)?;
        let own =
            |g: &Terms| if g.rate == 1.0 { Ok(rate.clone()) } else { rate.mul_scalar(g.rate) };
        let rates: Vec<Tensor> = self.groups.iter().map(own).collect::<Result<_>>()?;
        for run in &self.runs {
            for piece in run.pieces(&gradients)? {
                let mut inputs = vec![&piece.parameters, &piece.gradient];
                inputs.extend(&piece.memory);
                inputs.extend([&rates[run.group], clip]);
                if piece.memory.len() == 2 {
                    inputs.extend([c1, c2]);
                }
                let outputs: Vec<&Tensor> =
                    [&piece.parameters].into_iter().chain(&piece.memory).collect();
                let rule = &self.groups[run.group].rule;
                update(rule.definition(), &rule.scalars(), &inputs, &outputs)?;
            }
        }
        Ok(())
    }
}

impl Optimizer {
    /// Refuses what could not be read as one number when the step runs.
    fn check_number(&self, what: &str, x: &Tensor) -> Result<()> {
        let one = x.dtype() == DType::F32 && x.len() == 1;
        let free = x.tape().is_none() || !is_recording_operations();
        if one && free && x.device().same(self.no_clip.device()) {
            return Ok(());
        }
        Err(Error::invalid(format!(
            "{what} is {x:?} and must be one f32 on the parameters' device, outside the graph"
        )))
    }
}

impl Slot {
    fn new(name: String, parameter: Tensor, group: usize) -> Result<Self> {
        let refused = |why: &str| Err(Error::invalid(format!("the parameter {name:?} {why}")));
        match parameter.tape() {
            None => {
                return refused(
                    "requires no gradient, so it would never change: call requires_grad() on \
                     it, or leave it out if it is frozen",
                );
            }
            Some(tape) if !tape.is_leaf() => {
                return refused(
                    "is the result of an operation, which cannot be overwritten: call \
                     detach().requires_grad() on it before it is used",
                );
            }
            Some(_) => {}
        }
        Ok(Self { name, parameter, memory: Vec::new(), group, may_lack_gradient: false })
    }

    /// True when an earlier slot has the same parameter, under another name: a tied weight.
    fn is_among(&self, slots: &[Slot]) -> Result<bool> {
        let same = |other: &&Slot| match (other.parameter.tape(), self.parameter.tape()) {
            (Some(a), Some(b)) => Arc::ptr_eq(a, b),
            _ => false,
        };
        let Some(found) = slots.iter().find(same) else { return Ok(false) };
        if found.group == self.group && found.name != self.name {
            return Ok(true);
        }
        Err(Error::invalid(format!(
            "the parameter {:?} is given once more, as {:?}: name it once, in one group",
            found.name, self.name
        )))
    }

    /// The gradient; `None` for a parameter that may lack it.
    fn gradient(&self) -> Result<Option<Tensor>> {
        match self.parameter.grad() {
            None if !self.may_lack_gradient => Err(Error::invalid(format!(
                "the parameter {:?} has no gradient: call backward() on a loss that depends on it, \
                 leave it out of the optimizer, or declare it with may_lack_gradient",
                self.name
            ))),
            gradient => Ok(gradient),
        }
    }
}

/// Refuses negative numbers and what is no number.
fn positive(name: &str, x: f64) -> Result<()> {
    if x.is_finite() && x >= 0.0 {
        return Ok(());
    }
    Err(Error::invalid(format!("{name} is {x} and must be a number of at least 0")))
}

#[cfg(test)]
mod tests;
