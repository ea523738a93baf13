//! Memory within other memory: parameters that are updated together, and their gradients.
//!
//! A part has a version and readers of its own: writing it leaves what was saved of its neighbours
//! valid. Writing the whole is writing every part that it overlaps.

use super::node::{Memory, Node, State, Stored, lock, remember};
use super::watch;
use crate::device::Device;
use crate::error::Result;
use starling_contract::{Buffer, Copy, Layout};
use std::sync::{Arc, Weak};

/// Where the bytes of a memory are.
pub(super) enum Bytes {
    Own(Buffer),
    Part(Arc<Memory>),
}

/// The positions of a whole, in elements, that another memory names too.
pub(super) struct Part {
    from: usize,
    to: usize,
    memory: Weak<Memory>,
}

impl Memory {
    pub(super) fn buffer(&self) -> &Buffer {
        match &self.bytes {
            Bytes::Own(buffer) => buffer,
            Bytes::Part(whole) => whole.buffer(),
        }
    }
}

impl Stored {
    /// What lies in memory that is alive.
    pub(crate) fn of(memory: Arc<Memory>, layout: Layout) -> Self {
        Self { memory, layout }
    }

    pub(crate) fn memory(&self) -> &Arc<Memory> {
        &self.memory
    }

    /// The memory that this is a part of.
    pub(crate) fn whole(&self) -> Option<&Arc<Memory>> {
        match &self.memory.bytes {
            Bytes::Own(_) => None,
            Bytes::Part(whole) => Some(whole),
        }
    }

    /// The elements from `start` as a row-major tensor whose memory is a part of this one, written
    /// `version` times.
    pub(crate) fn part(
        &self,
        device: &Device,
        start: usize,
        shape: &[usize],
        version: u64,
    ) -> Self {
        let memory = Arc::new(Memory::new(Bytes::Part(self.memory.clone()), version));
        let layout = shifted(&Layout::contiguous(shape), start);
        let part = Part { from: start, to: start + layout.len(), memory: Arc::downgrade(&memory) };
        let mut parts = lock(&self.memory.parts);
        if parts.len() >= 16 && parts.len().is_power_of_two() {
            parts.retain(|p| p.memory.strong_count() > 0);
        }
        parts.push(part);
        drop(parts);
        watch::written(device, &memory);
        Self { memory, layout }
    }

    /// Every memory that changes when this is written: its own, that which it is a part of, and
    /// the parts of it that this overlaps.
    pub(super) fn overlapping(&self) -> Vec<Arc<Memory>> {
        let mut all = vec![self.memory.clone()];
        all.extend(self.whole().cloned());
        if let Some((low, high)) = self.layout.extent() {
            let parts = lock(&self.memory.parts);
            let overlaps = |p: &&Part| p.from as isize <= high && p.to as isize > low;
            all.extend(parts.iter().filter(overlaps).filter_map(|p| p.memory.upgrade()));
        }
        all
    }
}

impl Node {
    /// True when the value fills memory of its own, which nothing but tensors refers to: no list of
    /// a captured step, say.
    pub(crate) fn may_move(&self) -> bool {
        match &*lock(&self.state) {
            State::Stored(Stored { memory, layout }) => match &memory.bytes {
                Bytes::Own(buffer) => {
                    let bytes = layout.len() * self.dtype.size();
                    let fills = layout.is_contiguous() && layout.offset() == 0;
                    let fills = fills && bytes > 0 && bytes == buffer.bytes();
                    fills && Arc::strong_count(buffer.storage()) == 1
                }
                Bytes::Part(_) => false,
            },
            State::Lazy(_) => false,
        }
    }

    /// Gives the value, and everything that is a view of it, a place from `start` of `whole`. It
    /// [`Node::may_move`].
    pub(crate) fn move_into(self: &Arc<Self>, whole: &Stored, start: usize) -> Result<()> {
        let old = self.stored()?;
        let to = whole.part(&self.device, start, self.shape(), old.version());
        self.device.run(Copy { src: old.view(self.dtype), dst: to.view(self.dtype) })?;
        let nodes: Vec<_> = lock(&old.memory.nodes).drain(..).collect();
        for node in nodes.iter().filter_map(Weak::upgrade) {
            let mut state = lock(&node.state);
            if let State::Stored(s) = &mut *state
                && Arc::ptr_eq(&s.memory, &old.memory)
            {
                *s = to.with(shifted(&s.layout, start));
                drop(state);
                remember(&to.memory.nodes, &node);
            }
        }
        Ok(())
    }
}

/// The same elements `start` positions further.
fn shifted(layout: &Layout, start: usize) -> Layout {
    Layout::new(layout.shape(), layout.strides(), layout.offset() + start)
}
