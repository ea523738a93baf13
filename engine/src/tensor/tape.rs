//! A tensor's place in the graph, and what a thread does with the operations that it calls.

use super::Tensor;
use super::autograd::{Operation, Saved};
use super::slot::Slot;
use crate::device::{Device, Random};
use crate::error::{Error, Result};
use crate::plan::Node;
use starling_contract::{DType, Layout};
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::mem;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

pub(super) struct Recorded {
    pub(super) operation: Box<dyn Operation>,
    pub(super) inputs: Vec<Option<Arc<Tape>>>,
}

enum Kind {
    Leaf,
    /// `None` after backward went through it.
    Result(Mutex<Option<Recorded>>),
}

/// A tensor's place in the graph.
pub(crate) struct Tape {
    /// Grows along the graph.
    pub(super) id: u64,
    pub(super) dtype: DType,
    pub(super) device: Device,
    shape: Layout,
    kind: Kind,
    /// Whether a result keeps its gradient as a leaf does.
    retained: AtomicBool,
    slot: Slot,
}

pub(super) fn next_id() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

impl Tape {
    fn new(value: &Node, kind: Kind) -> Arc<Self> {
        Arc::new(Self {
            id: next_id(),
            dtype: value.dtype,
            device: value.device.clone(),
            shape: Layout::contiguous(value.shape()),
            kind,
            retained: AtomicBool::new(false),
            slot: Slot::default(),
        })
    }

    pub(super) fn leaf(value: &Node) -> Arc<Self> {
        Self::new(value, Kind::Leaf)
    }

    pub(super) fn result(value: &Node, recorded: Recorded) -> Arc<Self> {
        Self::new(value, Kind::Result(Mutex::new(Some(recorded))))
    }

    pub(crate) fn is_leaf(&self) -> bool {
        matches!(self.kind, Kind::Leaf)
    }

    pub(super) fn shape(&self) -> &[usize] {
        self.shape.shape()
    }

    /// Gives a result the place for its gradient that leaves have.
    pub(super) fn retain(&self) {
        self.retained.store(true, Ordering::Relaxed);
    }

    /// Where the gradient adds up: of a leaf, and of a result that was asked to keep it.
    pub(super) fn slot(&self) -> Option<&Slot> {
        (self.is_leaf() || self.retained.load(Ordering::Relaxed)).then_some(&self.slot)
    }

    pub(super) fn take(&self) -> Option<Recorded> {
        match &self.kind {
            Kind::Leaf => None,
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

/// What becomes of the operations that a thread calls.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Recording {
    /// They are recorded.
    On,
    /// They are not.
    Off,
    /// They are not, but the tensors of the graph that they take are noted.
    Finding,
}

/// A tensor of the graph that an operation took: its place and its value.
#[derive(Clone)]
pub(super) struct Found {
    pub(super) tape: Arc<Tape>,
    pub(super) value: Saved,
}

impl Found {
    pub(super) fn new(tape: &Arc<Tape>, tensor: &Tensor) -> Self {
        Self { tape: tape.clone(), value: Saved::new(tensor) }
    }
}

/// Random numbers that an operation drew: the table and the instance.
pub(super) type Draw = (Random, u32);

/// The random numbers drawn on a thread.
#[derive(Default)]
pub(super) struct Draws {
    /// Those to be drawn again, in this order, instead of fresh ones.
    pub(super) again: Option<VecDeque<Draw>>,
    /// Where draws are noted.
    pub(super) noted: Option<Vec<Draw>>,
}

thread_local! {
    static RECORDING: Cell<Recording> = const { Cell::new(Recording::On) };
    static FOUND: RefCell<Vec<Found>> = const { RefCell::new(Vec::new()) };
    static DRAWS: RefCell<Draws> = const { RefCell::new(Draws { again: None, noted: None }) };
}

/// Puts a thread's state back when it goes, also when the work between panics.
struct Restore<F: FnMut()>(F);

impl<F: FnMut()> Drop for Restore<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

pub(super) fn recording() -> Recording {
    RECORDING.get()
}

/// True when what an operation takes must not leave the graph unnoticed.
pub(super) fn enabled() -> bool {
    recording() != Recording::Off
}

pub(super) fn with_recording<T>(mode: Recording, f: impl FnOnce() -> T) -> T {
    let before = RECORDING.replace(mode);
    let _restore = Restore(|| RECORDING.set(before));
    f()
}

/// Runs `f` without recording operations.
pub fn no_grad<T>(f: impl FnOnce() -> T) -> T {
    with_recording(Recording::Off, f)
}

/// Runs `f` without recording, and lists the tensors of the graph that its operations took and
/// that were there before, each once.
pub(super) fn find<T>(f: impl FnOnce() -> T) -> (T, Vec<Found>) {
    let first_inner = next_id();
    let mut before = FOUND.take();
    let result = {
        let _restore = Restore(|| before = FOUND.replace(mem::take(&mut before)));
        with_recording(Recording::Finding, f)
    };
    // The guard has exchanged the two lists.
    let mut found = before;
    found.retain(|f| f.tape.id < first_inner);
    found.sort_by_key(|f| f.tape.id);
    found.dedup_by_key(|f| f.tape.id);
    (result, found)
}

/// Notes tensors of the graph that an operation takes.
pub(super) fn note_found(found: impl IntoIterator<Item = Found>) {
    FOUND.with_borrow_mut(|list| list.extend(found));
}

/// Runs `f` with other random numbers to draw; what is left of them is returned.
pub(super) fn with_draws<T>(draws: Draws, f: impl FnOnce() -> T) -> (T, Draws) {
    let mut other = DRAWS.replace(draws);
    let result = {
        let _restore = Restore(|| other = DRAWS.replace(mem::take(&mut other)));
        f()
    };
    (result, other)
}

/// Runs `f` and lists the random numbers that it drew.
pub(super) fn note_draws<T>(f: impl FnOnce() -> T) -> (T, Vec<Draw>) {
    // What an outer run draws again, this one draws too.
    let (again, outer) = DRAWS.with_borrow_mut(|d| (d.again.take(), d.noted.is_some()));
    let (result, after) = with_draws(Draws { again, noted: Some(Vec::new()) }, f);
    let drawn = after.noted.unwrap_or_default();
    DRAWS.with_borrow_mut(|d| {
        d.again = after.again;
        if let Some(noted) = d.noted.as_mut().filter(|_| outer) {
            noted.extend(drawn.iter().cloned());
        }
    });
    (result, drawn)
}

/// The random numbers for an operation on `tensor`: those of the first run when a checkpoint runs
/// again, else fresh ones.
pub(super) fn draw(tensor: &Tensor) -> Result<Draw> {
    let again = DRAWS.with_borrow_mut(|d| d.again.as_mut().map(VecDeque::pop_front));
    let draw = match again {
        Some(Some(draw)) => draw,
        Some(None) => {
            return Err(Error::Backward(
                "a checkpointed function drew more random numbers when it ran again: it must do \
                 the same both times"
                    .into(),
            ));
        }
        None => {
            let random = tensor.device().random()?;
            let instance = random.next_instance();
            (random, instance)
        }
    };
    DRAWS.with_borrow_mut(|d| d.noted.as_mut().map(|noted| noted.push(draw.clone())));
    Ok(draw)
}
