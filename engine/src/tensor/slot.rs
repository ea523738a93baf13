//! Sums of gradients.

use super::Tensor;
use super::arena::{Place, settle};
use super::shape::slice_is_inside;
use crate::error::{Error, Result};
use crate::plan::{self, Node};
use starling_contract::{Copy, DType, Fill};
use starling_ops::defs::{Add, Def};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A gradient that covers a part of a tensor; it is 0 elsewhere.
pub(super) struct Part {
    pub(super) gradient: Tensor,
    pub(super) axis: usize,
    pub(super) start: usize,
    pub(super) step: isize,
}

impl Part {
    fn check(&self, op: &'static str, shape: &[usize]) -> Result<()> {
        let mut found = self.gradient.shape().to_vec();
        let inside = match (found.get_mut(self.axis), shape.get(self.axis)) {
            (Some(len), Some(&n)) => {
                slice_is_inside(n, self.start, *len, self.step) && {
                    *len = n;
                    found == shape
                }
            }
            _ => false,
        };
        if inside {
            return Ok(());
        }
        let (axis, start, step) = (self.axis, self.start, self.step);
        Err(Error::Backward(format!(
            "{op} returned a gradient of shape {:?} from {start} by {step} along axis {axis} of \
             {shape:?}",
            self.gradient.shape()
        )))
    }
}

/// `sum += new`, in the memory of `sum`.
fn add_into(sum: &Arc<Node>, new: &Tensor) -> Result<()> {
    let (sum, new) = (sum.clone(), new.node().clone());
    plan::update(Add::DEFINITION, &[], &[sum.clone(), new], &[sum])
}

/// `old + new`, computed at once: in place where nobody else sees the memory of `old`.
pub(super) fn add_now(old: Tensor, new: &Tensor) -> Result<Tensor> {
    if old.node().is_exclusive() {
        add_into(old.node(), new)?;
        return Ok(old);
    }
    let sum = old.add(new)?;
    sum.node().stored()?;
    Ok(sum)
}

/// Adds a part to `old`, of `dtype` and `shape`, in place: all parts of a tensor share one.
pub(super) fn add_part(
    op: &'static str,
    old: Option<Tensor>,
    part: &Part,
    dtype: DType,
    shape: &[usize],
) -> Result<Tensor> {
    part.check(op, shape)?;
    let device = part.gradient.device();
    let fresh = old.is_none();
    let whole = match old {
        Some(old) if old.node().is_exclusive() => old,
        old => {
            let (whole, dst) = Tensor::output(device, dtype, shape)?;
            match old {
                Some(old) => device.run(Copy { src: old.view()?, dst })?,
                None => device.run(Fill { dst, value: 0.0 })?,
            }
            whole
        }
    };
    let stored = whole.node().stored()?;
    let len = part.gradient.shape()[part.axis];
    let there = stored.with(stored.layout.slice(part.axis, part.start, len, part.step));
    match fresh {
        true => device.run(Copy { src: part.gradient.view()?, dst: there.view(dtype) })?,
        false => add_into(&Node::from_stored(device, dtype, there), &part.gradient)?,
    }
    Ok(whole)
}

#[derive(Default)]
struct State {
    sum: Option<Tensor>,
    /// What other threads brought while one was adding.
    late: Vec<Tensor>,
    adding: bool,
    /// Where the sum should lie.
    place: Option<Place>,
}

/// Where the gradient of a leaf adds up. No lock is held while work is submitted: a thread that
/// arrives while another one adds leaves its gradient to that one.
#[derive(Default)]
pub(super) struct Slot(Mutex<State>);

impl Slot {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Every critical section here leaves its data consistent at each step.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives the sum its place in an arena.
    pub(super) fn settle_at(&self, place: Place) {
        self.lock().place = Some(place);
    }

    pub(super) fn place(&self) -> Option<Place> {
        self.lock().place.clone()
    }

    /// True when nothing has arrived.
    pub(super) fn is_free(&self) -> bool {
        let state = self.lock();
        state.sum.is_none() && !state.adding
    }

    /// The sum so far.
    pub(super) fn get(&self) -> Option<Tensor> {
        let (sum, late) = {
            let state = self.lock();
            (state.sum.clone()?, if state.adding { Vec::new() } else { state.late.clone() })
        };
        // Only what could not be added by the thread that it was left to is still there.
        late.iter().try_fold(sum, |sum, late| sum.add(late)).ok()
    }

    /// Replaces the sum.
    pub(super) fn set(&self, gradient: Option<Tensor>) {
        let (_old, _late) = {
            let mut state = self.lock();
            (std::mem::replace(&mut state.sum, gradient), std::mem::take(&mut state.late))
        };
    }

    /// Adds `gradient` at once. After an error the sum is what it was.
    pub(super) fn add(&self, gradient: Tensor) -> Result<()> {
        let place = if self.is_free() { self.place() } else { None };
        let gradient = match place {
            Some(place) => settle(&place, gradient)?,
            None => gradient,
        };
        gradient.node().stored()?;
        let mut turn = {
            let mut state = self.lock();
            if state.adding {
                state.late.push(gradient);
                return Ok(());
            }
            state.adding = true;
            Turn { slot: self, over: false }
        };
        turn.add(gradient)?;
        while let Some(late) = turn.next() {
            if turn.add(late.clone()).is_err() {
                // Its thread has left; the next one to add or to ask tries again.
                self.lock().late.push(late);
                break;
            }
        }
        Ok(())
    }
}

/// The right of one thread to add.
struct Turn<'a> {
    slot: &'a Slot,
    over: bool,
}

impl Turn<'_> {
    fn add(&mut self, new: Tensor) -> Result<()> {
        let (old, exclusive) = {
            let mut state = self.slot.lock();
            let Some(old) = &state.sum else {
                state.sum = Some(new);
                return Ok(());
            };
            let exclusive = old.node().is_exclusive();
            (old.clone(), exclusive)
        };
        let sum = match exclusive {
            // The second handle is the one above.
            true => add_into(old.node(), &new).map(|()| old.clone())?,
            false => add_now(old.clone(), &new)?,
        };
        let mut state = self.slot.lock();
        // Unless it was replaced meanwhile.
        if state.sum.as_ref().is_some_and(|s| Arc::ptr_eq(s.node(), old.node())) {
            state.sum = Some(sum);
        }
        Ok(())
    }

    /// What another thread left; without any the turn is over.
    fn next(&mut self) -> Option<Tensor> {
        let mut state = self.slot.lock();
        let late = state.late.pop();
        if late.is_none() {
            state.adding = false;
            self.over = true;
        }
        late
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        if !self.over {
            self.slot.lock().adding = false;
        }
    }
}
