//! Reverse-mode differentiation over the operations that tensors were made by.
//!
//! Operations are recorded as they are called, above the plan: what an operation saves may still
//! be an expression, and backward recomputes it inside its own programs, so that fusion holds in
//! training.

use crate::error::{Error, Result};
use crate::plan::Node;
use crate::tensor::Tensor;
use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// What an operation answers when it is asked for its gradients.
pub enum Backward {
    /// One entry per input; `None` for those that were not wanted.
    Gradients(Vec<Option<Tensor>>),
    /// There are none, for this reason. Backward stops with an error.
    NotDifferentiable(&'static str),
}

/// A differentiable operation. There is no default for [`Operation::backward`]: an operation that
/// has no gradient must say [`Backward::NotDifferentiable`].
///
/// ```compile_fail
/// struct Silent;
/// impl starling_engine::Operation for Silent {
///     fn name(&self) -> &'static str {
///         "silent"
///     }
/// }
/// ```
pub trait Operation: Send + Sync + 'static {
    /// The name in messages.
    fn name(&self) -> &'static str;
    /// The gradients of the inputs for the gradient of the result; `wanted[i]` tells whether input
    /// `i` needs one.
    ///
    /// # Errors
    /// [`Error::Modified`] when a saved value was overwritten; what the device reports.
    fn backward(&self, upstream: &Tensor, wanted: &[bool]) -> Result<Backward>;
}

struct Recorded {
    operation: Box<dyn Operation>,
    inputs: Vec<Option<Arc<Tape>>>,
}

enum Kind {
    /// A parameter: gradients add up here.
    Leaf(Mutex<Option<Tensor>>),
    /// A result; `None` after backward went through it.
    Result(Mutex<Option<Recorded>>),
}

/// A tensor's place in the graph.
pub(crate) struct Tape {
    id: u64,
    kind: Kind,
}

fn next_id() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

impl Tape {
    pub(crate) fn leaf() -> Arc<Self> {
        Arc::new(Self { id: next_id(), kind: Kind::Leaf(Mutex::default()) })
    }

    /// The gradient slot of a leaf.
    pub(crate) fn slot(&self) -> Option<&Mutex<Option<Tensor>>> {
        match &self.kind {
            Kind::Leaf(slot) => Some(slot),
            Kind::Result(_) => None,
        }
    }

    fn take(&self) -> Option<Recorded> {
        match &self.kind {
            Kind::Leaf(_) => None,
            Kind::Result(r) => r.lock().unwrap_or_else(PoisonError::into_inner).take(),
        }
    }
}

impl Drop for Tape {
    /// Takes a long graph apart step by step: dropped recursively it would overflow the stack.
    fn drop(&mut self) {
        let mut pending: Vec<Arc<Tape>> = Vec::new();
        let mut recorded = self.take();
        loop {
            if let Some(r) = recorded.take() {
                pending.extend(r.inputs.into_iter().flatten());
            }
            let Some(next) = pending.pop() else { return };
            if let Ok(tape) = Arc::try_unwrap(next) {
                recorded = tape.take();
            }
        }
    }
}

thread_local! {
    static ENABLED: Cell<bool> = const { Cell::new(true) };
}

/// True when operations are being recorded on this thread.
pub(crate) fn enabled() -> bool {
    ENABLED.get()
}

struct Restore(bool);

impl Drop for Restore {
    fn drop(&mut self) {
        ENABLED.set(self.0);
    }
}

fn with_recording<T>(on: bool, f: impl FnOnce() -> T) -> T {
    let _restore = Restore(ENABLED.replace(on));
    f()
}

/// Runs `f` without recording operations.
pub fn no_grad<T>(f: impl FnOnce() -> T) -> T {
    with_recording(false, f)
}

/// Gives `node` its place in the graph if one of its inputs has one.
pub(crate) fn record<O: Operation>(
    node: Arc<Node>,
    inputs: &[&Tensor],
    operation: impl FnOnce() -> O,
) -> Tensor {
    if !enabled() || inputs.iter().all(|t| t.tape().is_none()) {
        return Tensor::from_node(node);
    }
    let recorded = Recorded {
        operation: Box::new(operation()),
        inputs: inputs.iter().map(|t| t.tape().cloned()).collect(),
    };
    let kind = Kind::Result(Mutex::new(Some(recorded)));
    Tensor::with_tape(node, Arc::new(Tape { id: next_id(), kind }))
}

/// A value kept for backward, and how often its memory had been written then.
pub(crate) struct Saved {
    node: Arc<Node>,
    version: u64,
}

impl Saved {
    pub(crate) fn new(tensor: &Tensor) -> Self {
        Self::of(tensor.node())
    }

    pub(crate) fn of(node: &Arc<Node>) -> Self {
        // An expression is computed into fresh memory, whose version is 0.
        let version = match node.is_stored() {
            true => node.stored().map_or(0, |s| s.version()),
            false => 0,
        };
        Self { node: node.clone(), version }
    }

    /// The value, unless it was overwritten since.
    pub(crate) fn get(&self, op: &'static str) -> Result<Tensor> {
        if self.node.is_stored() && self.node.stored()?.version() != self.version {
            return Err(Error::Modified { op });
        }
        Ok(Tensor::from_node(self.node.clone()))
    }
}

/// Sends `upstream` back from `root` and adds what arrives at the leaves to their gradients.
pub(crate) fn backward(root: &Tensor, upstream: Tensor) -> Result<()> {
    let Some(tape) = root.tape() else {
        return Err(Error::Backward(
            "the result depends on no tensor that requires a gradient: call requires_grad() on \
             the parameters before using them"
                .into(),
        ));
    };
    with_recording(false, || {
        // Ids grow along the graph, so the largest pending one has all its gradients.
        let mut pending: BTreeMap<u64, (Arc<Tape>, Tensor)> = BTreeMap::new();
        pending.insert(tape.id, (tape.clone(), upstream));
        while let Some((_, (tape, gradient))) = pending.pop_last() {
            step(&tape, gradient, &mut pending)?;
        }
        Ok(())
    })
}

fn step(
    tape: &Arc<Tape>,
    gradient: Tensor,
    pending: &mut BTreeMap<u64, (Arc<Tape>, Tensor)>,
) -> Result<()> {
    if let Some(slot) = tape.slot() {
        let mut slot = slot.lock().unwrap_or_else(PoisonError::into_inner);
        *slot = Some(match slot.take() {
            Some(sum) => sum.add(&gradient)?,
            None => gradient,
        });
        return Ok(());
    }
    let Some(recorded) = tape.take() else {
        return Err(Error::Backward("it ran through this graph already: run forward again".into()));
    };
    let wanted: Vec<bool> = recorded.inputs.iter().map(Option::is_some).collect();
    let op = recorded.operation.name();
    let gradients = match recorded.operation.backward(&gradient, &wanted)? {
        Backward::Gradients(g) => g,
        Backward::NotDifferentiable(reason) => {
            return Err(Error::NotDifferentiable { op, reason });
        }
    };
    // What the operation saved is not needed any more; its memory serves the next ones.
    drop((recorded.operation, gradient));
    if gradients.len() != wanted.len() {
        let message = format!("{op} returned {} of {} gradients", gradients.len(), wanted.len());
        return Err(Error::Backward(message));
    }
    for (input, gradient) in recorded.inputs.into_iter().zip(gradients) {
        let Some(input) = input else { continue };
        let Some(gradient) = gradient else {
            return Err(Error::Backward(format!("{op} returned no gradient for an input")));
        };
        let sum = match pending.remove(&input.id) {
            Some((_, sum)) => sum.add(&gradient)?,
            None => gradient,
        };
        pending.insert(input.id, (input, sum));
    }
    Ok(())
}

/// An operation that was not saved but will be run again in backward.
struct Recompute<F> {
    f: F,
    inputs: Vec<Saved>,
    /// Where the device's random numbers stood, so that dropout draws the same ones.
    random: Option<(Arc<crate::device::Random>, u32)>,
}

impl<F: Fn(&[Tensor]) -> Result<Tensor> + Send + Sync + 'static> Operation for Recompute<F> {
    fn name(&self) -> &'static str {
        "checkpoint"
    }

    fn backward(&self, upstream: &Tensor, wanted: &[bool]) -> Result<Backward> {
        let inputs: Vec<Tensor> = self
            .inputs
            .iter()
            .zip(wanted)
            .map(|(saved, &wanted)| {
                let tensor = saved.get("checkpoint")?;
                Ok(if wanted { tensor.requires_grad() } else { tensor })
            })
            .collect::<Result<_>>()?;
        let now = self.random.as_ref().map(|(random, instance)| {
            let now = random.position();
            random.rewind(*instance);
            (random, now)
        });
        let output = with_recording(true, || (self.f)(&inputs));
        if let Some((random, now)) = now {
            random.rewind(now);
        }
        backward(&output?, upstream.clone())?;
        let gradient = |(t, &w): (&Tensor, &bool)| {
            w.then(|| t.grad().map_or_else(|| t.zeros_like(), Ok)).transpose()
        };
        let gradients = inputs.iter().zip(wanted).map(gradient).collect::<Result<_>>()?;
        Ok(Backward::Gradients(gradients))
    }
}

/// Runs `f(inputs)` and keeps only the inputs: backward runs `f` again, which trades time for the
/// memory of everything inside (Chen et al. 2016, "Training deep nets with sublinear memory cost").
/// Parameters that `f` captures receive their gradients too, provided that one of `inputs` requires
/// a gradient.
///
/// # Errors
/// Those of `f`.
pub fn checkpoint<F>(f: F, inputs: &[Tensor]) -> Result<Tensor>
where
    F: Fn(&[Tensor]) -> Result<Tensor> + Send + Sync + 'static,
{
    let random = match inputs.first() {
        Some(t) => {
            let random = t.device().random()?;
            let at = random.position();
            Some((random, at))
        }
        None => None,
    };
    let detached: Vec<Tensor> = inputs.iter().map(Tensor::detach).collect();
    let output = no_grad(|| f(&detached))?;
    let all: Vec<&Tensor> = inputs.iter().collect();
    let saved = inputs.iter().map(Saved::new).collect();
    Ok(record(output.node().clone(), &all, || Recompute { f, inputs: saved, random }))
}
