//! Parameters that one launch updates.

use super::Slot;
use crate::error::{Error, Result};
use crate::tensor::{Arena, Tensor, can_move, place_of, runs};
use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

/// Parameters of one group side by side, with what is remembered for them.
pub(super) struct Run {
    pub(super) group: usize,
    /// Of the optimizer's slots.
    pub(super) slots: Range<usize>,
    /// All their elements; one axis, or the shape of the only one.
    pub(super) parameters: Tensor,
    /// As `parameters`, each.
    pub(super) memory: Vec<Tensor>,
    /// The elements of each slot.
    places: Vec<Range<usize>>,
}

/// What one launch takes.
pub(super) struct Piece {
    pub(super) parameters: Tensor,
    pub(super) gradient: Tensor,
    pub(super) memory: Vec<Tensor>,
}

impl Run {
    /// Names the elements of the parameters.
    pub(super) fn ranges(&self, slots: &[Slot]) -> Vec<(String, Range<usize>)> {
        let names = slots[self.slots.clone()].iter().map(|s| s.name.clone());
        names.zip(self.places.iter().cloned()).collect()
    }

    /// Elements `range` of what has the shape of `parameters`.
    fn narrow(&self, all: &Tensor, range: &Range<usize>) -> Result<Tensor> {
        if range.len() == self.parameters.len() {
            return Ok(all.clone());
        }
        all.narrow(0, range.start, range.len())
    }

    /// Views of what is remembered, in the shape of a parameter.
    pub(super) fn remembered(&self, at: usize, shape: &[usize]) -> Result<Vec<Tensor>> {
        let view = |all: &Tensor| self.narrow(all, &self.places[at])?.reshape(shape);
        self.memory.iter().map(view).collect()
    }

    /// The launches that update what has a gradient: one, unless gradients are missing or do not
    /// lie side by side.
    pub(super) fn pieces(&self, gradients: &[(&Tensor, Option<Tensor>)]) -> Result<Vec<Piece>> {
        let piece = |found: crate::tensor::Run| {
            let range = self.places[found.first].start..self.places[found.last].end;
            let parameters = self.narrow(&self.parameters, &range)?;
            let gradient = found.gradient.reshape(parameters.shape())?;
            let memory = self.memory.iter().map(|m| self.narrow(m, &range));
            Ok(Piece { gradient, memory: memory.collect::<Result<_>>()?, parameters })
        };
        runs(&gradients[self.slots.clone()]).into_iter().map(piece).collect()
    }
}

/// Moves parameters into arenas, those of a group and a type each, and sorts the slots so that
/// what lies side by side stands side by side.
pub(super) fn gather(slots: &mut [Slot]) -> Result<()> {
    check_apart(slots)?;
    let mut left: Vec<&Slot> = slots.iter().filter(|s| can_move(&s.parameter)).collect();
    while let Some(first) = left.first().copied() {
        let together = |s: &&Slot| {
            let (a, b) = (&s.parameter, &first.parameter);
            let same_queue = a.device().queue().same(b.device().queue());
            s.group == first.group && same_queue && a.dtype() == b.dtype()
        };
        let (now, later) = left.into_iter().partition::<Vec<_>, _>(together);
        Arena::gather(&now.iter().map(|s| &s.parameter).collect::<Vec<_>>())?;
        left = later;
    }
    let mut seen: HashMap<*const Arena, usize> = HashMap::new();
    let place = |(at, slot): (usize, &Slot)| match place_of(&slot.parameter) {
        Some(place) => {
            let first = *seen.entry(Arc::as_ptr(&place.arena)).or_insert(at);
            (slot.group, first, place.index)
        }
        None => (slot.group, at, 0),
    };
    let mut order: Vec<_> = slots.iter().enumerate().map(place).zip(0..).collect();
    order.sort_unstable();
    let sorted: Vec<Slot> = order.iter().map(|&(_, at): &(_, usize)| slots[at].clone()).collect();
    slots.clone_from_slice(&sorted);
    Ok(())
}

/// Refuses parameters that share memory, with each other or within: each element would be updated
/// by its own gradient alone.
fn check_apart(slots: &[Slot]) -> Result<()> {
    let mut seen: HashMap<_, Vec<(&str, (isize, isize))>> = HashMap::new();
    for slot in slots {
        let stored = slot.parameter.node().stored()?;
        let Some(extent) = stored.layout.extent() else { continue };
        if stored.layout.may_overlap_itself() {
            return Err(Error::invalid(format!(
                "the parameter {:?} repeats elements of its memory: name the tensor that was \
                 repeated",
                slot.name
            )));
        }
        let here = seen.entry(Arc::as_ptr(stored.memory())).or_default();
        let overlaps =
            |other: &&(&str, (isize, isize))| extent.0 <= other.1.1 && other.1.0 <= extent.1;
        if let Some((other, _)) = here.iter().find(overlaps) {
            return Err(Error::invalid(format!(
                "the parameters {other:?} and {:?} share memory: name their tensor once, and give \
                 clones of it to those who use it",
                slot.name
            )));
        }
        here.push((&slot.name, extent));
    }
    Ok(())
}

/// The runs of sorted slots; `memories` is how much is remembered. Within a run no element lies
/// between parameters when `close` is set.
pub(super) fn find(slots: &[Slot], memories: usize, close: bool) -> Result<Vec<Run>> {
    let mut all = Vec::new();
    let mut start = 0;
    while let Some(first) = slots.get(start) {
        let place = place_of(&first.parameter);
        let follows = |(i, slot): &(usize, &Slot)| {
            let (Some(from), Some(place)) = (&place, place_of(&slot.parameter)) else {
                return false;
            };
            let near = slot.group == first.group && Arc::ptr_eq(&from.arena, &place.arena);
            let index = from.index + i + 1;
            let touches = || place.arena.place(index - 1)[1] == place.arena.place(index)[0];
            near && place.index == index && (!close || touches())
        };
        let more = slots[start + 1..].iter().enumerate().take_while(follows).count();
        let slots = start..start + 1 + more;
        let (parameters, places) = match &place {
            Some(place) => {
                let base = place.arena.place(place.index)[0];
                let range = |i| {
                    let [start, end] = place.arena.place(i);
                    start - base..end - base
                };
                let last = place.index + more;
                let places = (place.index..=last).map(range).collect();
                (place.arena.parameters(place.index, last), places)
            }
            None => (first.parameter.detach(), std::iter::once(0..first.parameter.len()).collect()),
        };
        let zeros = vec![0f32; parameters.len()];
        let room = |_| Tensor::from_slice(parameters.device(), &zeros, parameters.shape());
        let memory = (0..memories).map(room).collect::<Result<_>>()?;
        all.push(Run { group: first.group, slots: slots.clone(), parameters, memory, places });
        start = slots.end;
    }
    Ok(all)
}
