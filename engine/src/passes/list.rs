//! Who reads what in a list of verbs.

use super::World;
use starling_contract::{Checked, LEAST_BINDING_BYTES, LEAST_BINDINGS, Layout, Verb, View};
use std::ops::Range;

/// What becomes of a value after it was written.
pub(super) struct Uses {
    /// The verbs that read some of it, in order.
    pub readers: Vec<usize>,
    /// Nobody sees it once these have run.
    pub dies: bool,
}

/// The bytes of a view whose elements lie side by side.
fn range(view: &View) -> Option<Range<usize>> {
    let (size, at) = (view.dtype.size(), view.layout.offset());
    view.layout.is_contiguous().then(|| at * size..(at + view.len()) * size)
}

/// True when whatever `view` holds is gone after a write to `by`.
fn covers(by: &View, view: &View) -> bool {
    let ranges = range(by).zip(range(view));
    by.same_storage(view) && ranges.is_some_and(|(by, of)| by.start <= of.start && of.end <= by.end)
}

fn reads(verb: &Verb, view: &View) -> bool {
    verb.reads().iter().any(|r| view.may_overlap(r))
}

fn writes(verb: &Verb, view: &View) -> bool {
    verb.writes().iter().any(|w| w.may_overlap(view))
}

/// The uses of what verb `at` writes to `view`.
pub(super) fn uses(list: &[Checked], at: usize, view: &View, world: &World<'_>) -> Uses {
    let mut readers = Vec::new();
    for (i, verb) in list.iter().enumerate().skip(at + 1) {
        if reads(verb, view) {
            readers.push(i);
        }
        if verb.writes().iter().any(|w| covers(w, view)) {
            return Uses { readers, dies: true };
        }
    }
    Uses { readers, dies: (world.is_temporary)(view) }
}

/// True when `verb` may run before or after `other` alike.
pub(super) fn commute(verb: &Verb, other: &Verb) -> bool {
    !verb.writes().iter().any(|w| reads(other, w) || writes(other, w))
        && !other.writes().iter().any(|w| reads(verb, w))
}

/// True when the verb at `from` may run right before the one at `to`, which stands behind it.
pub(super) fn may_move_down(list: &[Checked], from: usize, to: usize) -> bool {
    list[from + 1..to].iter().all(|other| commute(&list[from], other))
}

/// True when the verb at `from` may run right after the one at `to`, which stands before it.
pub(super) fn may_move_up(list: &[Checked], from: usize, to: usize) -> bool {
    list[to + 1..from].iter().all(|other| commute(&list[from], other))
}

/// True for verbs that tell of indices outside their table: their errors are wanted even where
/// their results are not.
fn may_report(verb: &Verb) -> bool {
    matches!(
        verb,
        Verb::Gather(_)
            | Verb::ScatterAdd(_)
            | Verb::CrossEntropy(_)
            | Verb::CrossEntropyBackward(_)
    )
}

/// Leaves out verbs whose results nobody reads and nobody sees afterwards.
pub(super) fn drop_dead(list: &mut Vec<Checked>, world: &World<'_>) {
    for at in (0..list.len()).rev() {
        let verb = &list[at];
        let is_dead = |view: &View| {
            let uses = uses(list, at, view, world);
            uses.dies && uses.readers.is_empty()
        };
        if !may_report(verb) && verb.results().into_iter().all(is_dead) {
            list.remove(at);
        }
    }
}

/// The view under another shape with the same elements in the same order.
pub(super) fn reshaped(view: &View, shape: &[usize]) -> Option<View> {
    if view.shape() == shape {
        return Some(view.clone());
    }
    Some(view.with(view.layout.reshape(shape)?))
}

/// True when the two views are of the same elements in the same order.
pub(super) fn same_elements(a: &View, b: &View) -> bool {
    let same_memory = a.same_storage(b) && a.dtype == b.dtype;
    let layout = |v: &View| if v.layout.is_contiguous() { flat(v) } else { v.layout };
    same_memory && layout(a) == layout(b)
}

fn flat(view: &View) -> Layout {
    Layout::new(&[view.len()], &[1], view.layout.offset())
}

/// True when a verb of these operands can be bound on the least device.
pub(super) fn can_be_bound<'a>(operands: impl IntoIterator<Item = &'a View>) -> bool {
    let mut distinct: Vec<&View> = Vec::new();
    for view in operands {
        if !distinct.iter().any(|d| d.same_storage(view)) {
            distinct.push(view);
        }
    }
    let slots = distinct.iter().map(|v| v.storage.bytes().div_ceil(LEAST_BINDING_BYTES).max(1));
    slots.sum::<usize>() <= LEAST_BINDINGS
}
