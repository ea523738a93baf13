//! Parameters that lie side by side in one buffer, and room for their gradients side by side in
//! another one.
//!
//! Backward writes a gradient into its place where it can, so that nothing is copied. A gradient
//! may also lie elsewhere: one that was given by `set_grad`, or one whose place is still seen by
//! whoever holds the last step's gradient. What works on gradients asks where they are ([`runs`]).

use super::Tensor;
use super::tape::Tape;
use crate::device::Device;
use crate::error::Result;
use crate::plan::{self, Memory, Node, Stored};
use starling_contract::{Capture, DType, Fill, LEAST_BINDING_BYTES, Layout};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

/// Where parameters begin, in elements: whole cache lines, and the fours that shaders move.
const ALIGN: usize = 64;

/// Parameters of one type side by side.
pub(crate) struct Arena {
    device: Device,
    dtype: DType,
    parameters: Stored,
    /// The first element and the end of each parameter.
    places: Vec<[usize; 2]>,
    /// Elements, those between parameters included.
    len: usize,
    gradients: Mutex<Gradients>,
}

/// The buffer of the gradients that are being added up now.
#[derive(Default)]
struct Gradients {
    whole: Weak<Memory>,
    /// The capture whose list writes it: what is computed outside must not lie in its memory.
    capture: Option<Capture>,
    /// The gradients that have their place; one that nobody sees any more is free.
    taken: Vec<Weak<Memory>>,
}

/// A parameter's place in an arena.
#[derive(Clone)]
pub(crate) struct Place {
    pub(crate) arena: Arc<Arena>,
    pub(crate) index: usize,
}

impl Arena {
    /// Moves the parameters that [`can_move`] into arenas of as much as is bound at once, or of one
    /// parameter that is larger. They stay what they are, and so do views of them.
    pub(crate) fn gather(parameters: &[&Tensor]) -> Result<()> {
        let (mut rest, mut bytes) = (parameters, 0);
        while let Some(first) = rest.first() {
            let fits = |t: &&&Tensor| {
                bytes += t.len().next_multiple_of(ALIGN) * t.dtype().size();
                bytes <= LEAST_BINDING_BYTES
            };
            let count = rest.iter().take_while(fits).count().max(1);
            let (now, later) = rest.split_at(count);
            Self::fill(first, now)?;
            (rest, bytes) = (later, 0);
        }
        Ok(())
    }

    fn fill(first: &Tensor, parameters: &[&Tensor]) -> Result<()> {
        let (mut len, mut places) = (0usize, Vec::new());
        for parameter in parameters {
            let start = len.next_multiple_of(ALIGN);
            len = start + parameter.len();
            places.push([start, len]);
        }
        let (device, dtype) = (first.device().clone(), first.dtype());
        let whole = Stored::new(&device, dtype, &[len])?;
        if has_gaps(&places) {
            device.run(Fill { dst: whole.view(dtype), value: 0.0 })?;
        }
        let gradients = Mutex::default();
        let arena = Self { device, dtype, parameters: whole, places, len, gradients };
        let arena = Arc::new(arena);
        for (index, parameter) in parameters.iter().enumerate() {
            parameter.node().move_into(&arena.parameters, arena.places[index][0])?;
            if let Some(slot) = parameter.tape().and_then(|t| t.slot()) {
                slot.settle_at(Place { arena: arena.clone(), index });
            }
        }
        Ok(())
    }

    fn gradients(&self) -> MutexGuard<'_, Gradients> {
        // Every critical section here leaves its data consistent at each step.
        self.gradients.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The place of a gradient, unless somebody sees what lies there.
    fn take(&self, index: usize, shape: &[usize]) -> Result<Option<Stored>> {
        let capture = self.device.queue().capture();
        let known = |state: &Gradients| {
            let whole = state.whole.upgrade();
            whole.filter(|_| state.capture == capture)
        };
        let found = known(&self.gradients());
        let whole = match found {
            Some(whole) => whole,
            None => {
                // Made without the lock, which another thread's work may wait for meanwhile.
                let fresh = Stored::new(&self.device, self.dtype, &[self.len])?;
                if has_gaps(&self.places) {
                    self.device.run(Fill { dst: fresh.view(self.dtype), value: 0.0 })?;
                }
                let mut state = self.gradients();
                known(&state).unwrap_or_else(|| {
                    let (whole, taken) = (Arc::downgrade(fresh.memory()), Vec::new());
                    *state = Gradients { whole, capture, taken };
                    fresh.memory().clone()
                })
            }
        };
        let mut state = self.gradients();
        // Another thread may have begun another buffer meanwhile.
        if !std::ptr::eq(state.whole.as_ptr(), Arc::as_ptr(&whole)) {
            return Ok(None);
        }
        state.taken.resize(self.places.len(), Weak::new());
        if state.taken[index].strong_count() > 0 {
            return Ok(None);
        }
        let flat = Stored::of(whole, Layout::contiguous(&[self.len]));
        let part = flat.part(&self.device, self.places[index][0], shape, 0);
        state.taken[index] = Arc::downgrade(part.memory());
        Ok(Some(part))
    }

    /// The elements of parameters `first` to `last`, with what lies between them.
    pub(crate) fn parameters(&self, first: usize, last: usize) -> Tensor {
        self.stretch(self.parameters.memory().clone(), first, last)
    }

    fn stretch(&self, memory: Arc<Memory>, first: usize, last: usize) -> Tensor {
        let [start, end] = [self.places[first][0], self.places[last][1]];
        let stored = Stored::of(memory, Layout::new(&[end - start], &[1], start));
        Tensor::from_node(Node::from_stored(&self.device, self.dtype, stored))
    }

    /// The first element of a parameter, and its end.
    pub(crate) fn place(&self, index: usize) -> [usize; 2] {
        self.places[index]
    }
}

/// True when elements lie between parameters that belong to none. They are 0.
fn has_gaps(places: &[[usize; 2]]) -> bool {
    places.windows(2).any(|pair| pair[0][1] != pair[1][0])
}

impl Place {
    /// Memory for a gradient of `shape` in its place; `None` where it must lie elsewhere.
    pub(super) fn take(&self, dtype: DType, shape: &[usize]) -> Result<Option<Stored>> {
        let [start, end] = self.arena.places[self.index];
        if dtype != self.arena.dtype || shape.iter().product::<usize>() != end - start {
            return Ok(None);
        }
        self.arena.take(self.index, shape)
    }

    /// The buffer of gradients in which this one has its place; `None` when it lies elsewhere.
    fn holds(&self, gradient: &Tensor) -> Option<Arc<Memory>> {
        if !gradient.node().is_stored() {
            return None;
        }
        let stored = gradient.node().stored().ok()?;
        let is_here = stored.layout.is_contiguous()
            && stored.layout.offset() == self.arena.places[self.index][0]
            && gradient.dtype() == self.arena.dtype;
        let state = self.arena.gradients();
        let ours = state.taken.get(self.index)?.as_ptr() == Arc::as_ptr(stored.memory());
        stored.whole().filter(|_| is_here && ours).cloned()
    }
}

/// True when an arena may take the parameter in.
pub(crate) fn can_move(parameter: &Tensor) -> bool {
    let slot = parameter.tape().filter(|t| t.is_leaf()).and_then(|t| t.slot());
    slot.is_some_and(|slot| slot.place().is_none()) && parameter.node().may_move()
}

/// Where a parameter lies, if that is in an arena.
pub(crate) fn place_of(parameter: &Tensor) -> Option<Place> {
    parameter.tape().and_then(|t| t.slot())?.place()
}

/// Gradients that lie side by side in the order of their parameters.
pub(crate) struct Run {
    /// Which of the list that was asked about.
    pub(crate) first: usize,
    pub(crate) last: usize,
    pub(crate) gradient: Tensor,
}

/// The gradients of `parameters` in as few pieces as they lie in memory; those that are missing
/// are left out. What lies between the gradients of a piece is 0.
pub(crate) fn runs(gradients: &[(&Tensor, Option<Tensor>)]) -> Vec<Run> {
    struct Open {
        first: usize,
        last: usize,
        from: Place,
        to: usize,
        memory: Arc<Memory>,
    }
    let (mut all, mut open) = (Vec::new(), None::<Open>);
    let finish = |open: Option<Open>, all: &mut Vec<Run>| {
        if let Some(o) = open {
            let gradient = o.from.arena.stretch(o.memory, o.from.index, o.to);
            all.push(Run { first: o.first, last: o.last, gradient });
        }
    };
    for (i, (parameter, gradient)) in gradients.iter().enumerate() {
        let Some(gradient) = gradient else { continue };
        let place = place_of(parameter);
        let memory = place.as_ref().and_then(|p| p.holds(gradient));
        let (Some(place), Some(memory)) = (place, memory) else {
            finish(open.take(), &mut all);
            all.push(Run { first: i, last: i, gradient: gradient.clone() });
            continue;
        };
        let continues = |o: &Open| {
            let follows = o.last + 1 == i && o.to + 1 == place.index;
            let near = Arc::ptr_eq(&o.from.arena, &place.arena) && Arc::ptr_eq(&o.memory, &memory);
            follows && near
        };
        match &mut open {
            Some(o) if continues(o) => (o.last, o.to) = (i, place.index),
            _ => {
                finish(open.take(), &mut all);
                let to = place.index;
                open = Some(Open { first: i, last: i, from: place, to, memory });
            }
        }
    }
    finish(open, &mut all);
    all
}

/// The parameters that have a gradient, and these, in the order of their places: every arena where
/// its first parameter stands.
pub(crate) fn by_place<'a>(
    parameters: impl Iterator<Item = &'a Tensor>,
) -> Vec<(&'a Tensor, Option<Tensor>)> {
    let mut firsts: HashMap<*const Arena, usize> = HashMap::new();
    let mut all: Vec<_> = parameters
        .filter_map(|t| Some((t, Some(t.grad()?))))
        .enumerate()
        .map(|(at, pair)| match place_of(pair.0) {
            Some(p) => ((*firsts.entry(Arc::as_ptr(&p.arena)).or_insert(at), p.index), pair),
            None => ((at, 0), pair),
        })
        .collect();
    all.sort_by_key(|(key, _)| *key);
    all.into_iter().map(|(_, pair)| pair).collect()
}

/// Memory for the gradient of a leaf: its place in an arena if it has one that is free.
pub(super) fn room(
    leaf: Option<&Arc<Tape>>,
    device: &Device,
    dtype: DType,
    shape: &[usize],
) -> Result<Stored> {
    let slot = leaf.filter(|t| t.is_leaf()).and_then(|t| t.slot());
    let place = slot.filter(|s| s.is_free()).and_then(|s| s.place());
    let place = place.filter(|p| p.arena.device.queue().same(device.queue()));
    match place.map(|p| p.take(dtype, shape)).transpose()?.flatten() {
        Some(stored) => Ok(stored),
        None => Stored::new(device, dtype, shape),
    }
}

/// Puts the first gradient of a leaf into its place, unless it is there or the place is not free.
pub(super) fn settle(place: &Place, gradient: Tensor) -> Result<Tensor> {
    let same = gradient.device().queue().same(place.arena.device.queue());
    if !same || place.holds(&gradient).is_some() {
        return Ok(gradient);
    }
    let Some(stored) = place.take(gradient.dtype(), gradient.shape())? else { return Ok(gradient) };
    plan::write(gradient.node(), &stored)?;
    Ok(Tensor::from_node(Node::from_stored(gradient.device(), gradient.dtype(), stored)))
}
