//! Reverse-mode differentiation over the operations that tensors were made by.
//!
//! Operations are recorded as they are called, above the plan: what an operation saves may still
//! be an expression, and backward recomputes it inside its own programs, so that fusion holds in
//! training.

use super::Tensor;
use super::arena;
use super::slot::{Part, add_now, add_part};
use super::tape::{Found, Recorded, Recording, Tape, find, note_found, recording, with_recording};
use crate::device::Device;
use crate::error::{Error, Result};
use crate::plan::{Node, Stored};
use starling_contract::{DType, MaybeSend, MaybeSync, View};
use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// What an operation answers when it is asked for its gradients.
#[non_exhaustive]
pub enum Backward {
    /// One entry per input; `None` for those that were not wanted.
    Gradients(Vec<Option<Tensor>>),
    /// As [`Backward::Gradients`], but `None` also stands for a wanted input that the result does
    /// not depend on.
    Reached(Vec<Option<Tensor>>),
    /// The only input's gradient is this one at `start`, `start + step`, .. of `axis`, and 0
    /// elsewhere. The slices of a tensor add up in one gradient.
    Slice {
        /// The gradient of the slice.
        gradient: Tensor,
        /// The axis that was sliced.
        axis: usize,
        /// The first index.
        start: usize,
        /// From one index to the next; may be negative.
        step: isize,
    },
    /// There are none, for this reason. Backward stops with an error.
    NotDifferentiable(&'static str),
}

/// A differentiable operation, which [`Tensor::custom`] records. There is no default for
/// [`Operation::backward`]: an operation that has no gradient must say
/// [`Backward::NotDifferentiable`].
///
/// ```compile_fail
/// struct Silent;
/// impl starling_engine::Operation for Silent {
///     fn name(&self) -> &'static str {
///         "silent"
///     }
/// }
/// ```
pub trait Operation: MaybeSend + MaybeSync + 'static {
    /// The name in messages.
    fn name(&self) -> &'static str;
    /// The gradients of the inputs for the gradient of the result; `wanted[i]` tells whether input
    /// `i` needs one. A gradient has its input's shape and device; it is converted to its input's
    /// type. It may share memory with `upstream`. Nothing is recorded meanwhile.
    ///
    /// # Errors
    /// [`Error::Modified`] when a saved value was overwritten; what the device reports.
    fn backward(&self, upstream: &Tensor, wanted: &[bool]) -> Result<Backward>;
}

/// Gives `node` its place in the graph if one of its inputs has one. Integers and truth values
/// have none.
pub(super) fn record<O: Operation>(
    node: Arc<Node>,
    inputs: &[&Tensor],
    operation: impl FnOnce() -> O,
) -> Tensor {
    if !node.dtype.is_float() {
        return Tensor::from_node(node);
    }
    let found = |t: &&Tensor| Some(Found::new(t.tape()?, t));
    match recording() {
        Recording::On => {
            record_tapes(node, inputs.iter().map(|t| t.tape().cloned()).collect(), operation)
        }
        Recording::Finding => {
            note_found(inputs.iter().filter_map(found));
            Tensor::from_node(node)
        }
        Recording::Off => Tensor::from_node(node),
    }
}

pub(super) fn record_tapes<O: Operation>(
    node: Arc<Node>,
    inputs: Vec<Option<Arc<Tape>>>,
    operation: impl FnOnce() -> O,
) -> Tensor {
    if inputs.iter().all(Option::is_none) {
        return Tensor::from_node(node);
    }
    let recorded = Recorded { operation: Box::new(operation()), inputs };
    let tape = Tape::result(&node, recorded);
    Tensor::with_tape(node, tape)
}

/// Runs the forward pass of an operation from outside the engine and records it.
pub(super) fn custom<O: Operation>(
    inputs: &[&Tensor],
    forward: impl FnOnce() -> Result<(Tensor, O)>,
) -> Result<Tensor> {
    let (result, found) = find(forward);
    let (output, operation) = result?;
    let is_named = |id| inputs.iter().any(|t| t.tape().is_some_and(|t| t.id == id));
    if recording() != Recording::Off && !found.iter().all(|f| is_named(f.tape.id)) {
        return Err(Error::Backward(format!(
            "{} takes a tensor that requires a gradient and is not among its inputs: name it there \
             or detach() it",
            operation.name()
        )));
    }
    Ok(record(output.node().clone(), inputs, || operation))
}

/// A value kept for backward, and how often its memory had been written then. It is kept as it
/// stands: what is still an expression stays one, and costs no memory of its own.
#[derive(Clone)]
pub struct Saved {
    node: Arc<Node>,
    version: u64,
}

impl Saved {
    /// Keeps the value of `tensor`, without its place in the graph.
    pub fn new(tensor: &Tensor) -> Self {
        let node = tensor.node();
        // An expression is computed into fresh memory, whose version is 0.
        let version = match node.is_stored() {
            true => node.stored().map_or(0, |s| s.version()),
            false => 0,
        };
        Self { node: node.clone(), version }
    }

    /// The value, for the operation `op`.
    ///
    /// # Errors
    /// [`Error::Modified`] when it was overwritten since.
    pub fn get(&self, op: &'static str) -> Result<Tensor> {
        if self.node.is_stored() && self.node.stored()?.version() != self.version {
            return Err(Error::Modified { op });
        }
        Ok(Tensor::from_node(self.node.clone()))
    }
}

/// Sends `upstream` back from `root` and adds what arrives at the leaves to their gradients.
pub(super) fn backward(root: &Tensor, upstream: Tensor) -> Result<()> {
    let Some(tape) = root.tape() else {
        return Err(Error::Backward(
            "the result depends on no tensor that requires a gradient: call requires_grad() on \
             the parameters before using them"
                .into(),
        ));
    };
    propagate(tape, upstream, &mut HashMap::new())
}

/// Sends `upstream` back from `root`. At the places in `ends` it stops and leaves what arrived
/// there; elsewhere it goes on to the leaves.
pub(super) fn propagate(
    root: &Arc<Tape>,
    upstream: Tensor,
    ends: &mut HashMap<u64, Option<Tensor>>,
) -> Result<()> {
    with_recording(Recording::Off, || {
        let mut pending = Pending::default();
        pending.add("backward", root.clone(), Piece::Whole(upstream))?;
        while let Some((tape, gradient)) = pending.pop() {
            match ends.get_mut(&tape.id) {
                Some(end) => *end = Some(gradient),
                None => step(&tape, gradient, &mut pending)?,
            }
        }
        Ok(())
    })
}

thread_local! {
    /// The inputs of the operation whose backward runs.
    static ROOMS: RefCell<Vec<Option<Arc<Tape>>>> = const { RefCell::new(Vec::new()) };
}

fn with_rooms<T>(inputs: Vec<Option<Arc<Tape>>>, backward: impl FnOnce() -> T) -> T {
    struct Restore(Vec<Option<Arc<Tape>>>);
    impl Drop for Restore {
        fn drop(&mut self) {
            ROOMS.set(std::mem::take(&mut self.0));
        }
    }
    let _restore = Restore(ROOMS.replace(inputs));
    backward()
}

/// Memory for what an operation's backward returns as the gradient of its input `input`: where it
/// is to add up, if that can be.
pub(super) fn room(input: usize, device: &Device, dtype: DType, shape: &[usize]) -> Result<Stored> {
    let leaf = ROOMS.with_borrow(|inputs| inputs.get(input).cloned().flatten());
    arena::room(leaf.as_ref(), device, dtype, shape)
}

/// As [`Tensor::output`], in [`room`].
pub(super) fn output(
    input: usize,
    device: &Device,
    dtype: DType,
    shape: &[usize],
) -> Result<(Tensor, View)> {
    let stored = room(input, device, dtype, shape)?;
    let view = stored.view(dtype);
    Ok((Tensor::from_node(Node::from_stored(device, dtype, stored)), view))
}

enum Piece {
    Whole(Tensor),
    Part(Part),
}

/// What has arrived at a tensor so far.
struct Sum {
    tape: Arc<Tape>,
    gradient: Tensor,
    /// Whether more is added in place at once. Otherwise sums stay expressions, which are fused
    /// into the next operation.
    in_place: bool,
}

/// Gradients that wait until all of their tensor have arrived.
#[derive(Default)]
struct Pending(BTreeMap<u64, Sum>);

impl Pending {
    /// Ids grow along the graph, so the largest one has all its gradients.
    fn pop(&mut self) -> Option<(Arc<Tape>, Tensor)> {
        self.0.pop_last().map(|(_, sum)| (sum.tape, sum.gradient))
    }

    fn add(&mut self, op: &'static str, tape: Arc<Tape>, piece: Piece) -> Result<()> {
        let (dtype, leaf) = (tape.dtype, tape.is_leaf());
        let (Piece::Whole(found) | Piece::Part(Part { gradient: found, .. })) = &piece;
        if !found.device().same(&tape.device) {
            let (found, wanted) = (found.device().name(), tape.device.name());
            return Err(Error::Backward(format!(
                "{op} returned a gradient on {found} for an input on {wanted}: move it with \
                 to_device()"
            )));
        }
        let before = self.0.remove(&tape.id);
        let in_place = leaf || before.as_ref().is_some_and(|s| s.in_place);
        let old = before.map(|s| s.gradient);
        let sum = match piece {
            Piece::Whole(new) => {
                if new.shape() != tape.shape() {
                    let message = format!(
                        "{op} returned a gradient of shape {:?} for an input of shape {:?}",
                        new.shape(),
                        tape.shape()
                    );
                    return Err(Error::Backward(message));
                }
                let new = new.to_dtype(dtype)?;
                let gradient = match old {
                    None => new,
                    Some(old) if in_place => add_now(old, &new)?,
                    Some(old) => old.add(&new)?,
                };
                Sum { tape, gradient, in_place }
            }
            Piece::Part(part) => {
                let gradient = add_part(op, old, &part, dtype, tape.shape())?;
                Sum { tape, gradient, in_place: true }
            }
        };
        self.0.insert(sum.tape.id, sum);
        Ok(())
    }
}

fn step(tape: &Arc<Tape>, gradient: Tensor, pending: &mut Pending) -> Result<()> {
    if let Some(slot) = tape.slot() {
        slot.add(gradient.clone())?;
    }
    if tape.is_leaf() {
        return Ok(());
    }
    let Some(recorded) = tape.take() else {
        return Err(Error::Backward("it ran through this graph already: run forward again".into()));
    };
    let wanted: Vec<bool> = recorded.inputs.iter().map(Option::is_some).collect();
    let op = recorded.operation.name();
    if recorded.inputs.iter().flatten().any(|t| !t.dtype.is_float()) {
        return Err(Error::NotDifferentiable { op, reason: "an operand holds integers" });
    }
    let backward = || recorded.operation.backward(&gradient, &wanted);
    let (gradients, all) = match with_rooms(recorded.inputs.clone(), backward)? {
        Backward::Gradients(g) => (g, true),
        Backward::Reached(g) => (g, false),
        Backward::Slice { gradient, axis, start, step } => {
            let mut inputs = recorded.inputs;
            let (Some(Some(input)), true) = (inputs.pop(), inputs.is_empty()) else {
                return Err(Error::Backward(format!("{op} is no slice of one input")));
            };
            return pending.add(op, input, Piece::Part(Part { gradient, axis, start, step }));
        }
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
        match gradient {
            Some(gradient) => pending.add(op, input, Piece::Whole(gradient))?,
            None if all => {
                return Err(Error::Backward(format!("{op} returned no gradient for an input")));
            }
            None => {}
        }
    }
    Ok(())
}
