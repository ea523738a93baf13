//! Many tensors on their way to the host.

use super::{Element, Tensor};
use crate::error::{Error, Result};
use crate::plan::{Memory, Node, Stored};
use starling_contract::Layout;
use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

/// Tensors that are read one by one, those that fill a buffer together in one transfer: the
/// parameters of an optimizer's arena, say.
///
/// What comes with a transfer is kept until every tensor in it has been read, then let go; reading
/// one again transfers again. So the host holds few buffers at a time where tensors are read in
/// the order of their buffers, and each transfer sees what is in the buffer then.
pub struct Downloads<T> {
    tensors: Vec<Tensor>,
    /// The buffer of each tensor that shares one, and its elements there.
    places: Vec<Option<(usize, Range<usize>)>>,
    buffers: Vec<Shared<T>>,
}

/// Elements that several tensors lie in.
struct Shared<T> {
    all: Tensor,
    kept: Mutex<Kept<T>>,
}

/// What was transferred, and which tensors have not been read since.
struct Kept<T> {
    data: Vec<T>,
    unread: Vec<usize>,
}

/// Elements that come along unasked for less than another transfer costs. Beyond, at most half of
/// what is transferred may be such.
const SMALL: usize = 1 << 14;

/// The memory whose elements its layout counts.
fn buffer_of(stored: &Stored) -> &Arc<Memory> {
    stored.whole().unwrap_or_else(|| stored.memory())
}

impl<T: Element> Downloads<T> {
    /// Looks where `tensors` lie; computes those that are still expressions.
    ///
    /// # Errors
    /// What the device reports.
    pub fn new(tensors: impl IntoIterator<Item = Tensor>) -> Result<Self> {
        let tensors: Vec<Tensor> = tensors.into_iter().map(|t| t.detach()).collect();
        let mut groups: HashMap<_, Vec<(usize, Range<usize>)>> = HashMap::new();
        for (at, tensor) in tensors.iter().enumerate() {
            let stored = tensor.node().stored()?;
            if tensor.dtype() == T::DTYPE && !tensor.is_empty() && stored.layout.is_contiguous() {
                let start = stored.layout.offset();
                let place = (at, start..start + tensor.len());
                groups.entry(Arc::as_ptr(buffer_of(&stored))).or_default().push(place);
            }
        }
        let mut places = vec![None; tensors.len()];
        let mut buffers = Vec::new();
        for group in groups.into_values() {
            let first = group.iter().map(|(_, range)| range.start).min().unwrap_or(0);
            let end = group.iter().map(|(_, range)| range.end).max().unwrap_or(0);
            let wanted: usize = group.iter().map(|(_, range)| range.len()).sum();
            if group.len() < 2 || end - first > wanted + wanted.max(SMALL) {
                continue;
            }
            let tensor = &tensors[group[0].0];
            let stored = tensor.node().stored()?;
            let all =
                Stored::of(buffer_of(&stored).clone(), Layout::new(&[end - first], &[1], first));
            let all = Tensor::from_node(Node::from_stored(tensor.device(), T::DTYPE, all));
            for (at, range) in group {
                places[at] = Some((buffers.len(), range.start - first..range.end - first));
            }
            let kept = Mutex::new(Kept { data: Vec::new(), unread: Vec::new() });
            buffers.push(Shared { all, kept });
        }
        Ok(Self { tensors, places, buffers })
    }

    /// The elements of tensor `at`, in row-major order.
    ///
    /// # Errors
    /// [`Error::Invalid`] when there are not so many tensors; those of [`Tensor::to_vec`].
    pub fn read(&self, at: usize) -> Result<Vec<T>> {
        let (Some(tensor), Some(place)) = (self.tensors.get(at), self.places.get(at)) else {
            let message = format!("tensor {at} of {} cannot be read", self.tensors.len());
            return Err(Error::invalid(message));
        };
        let Some((buffer, range)) = place else { return tensor.to_vec() };
        let shared = &self.buffers[*buffer];
        let mut kept = shared.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if !kept.unread.contains(&at) {
            kept.data = shared.all.to_vec()?;
            let within = |i: &usize| self.places[*i].as_ref().is_some_and(|p| p.0 == *buffer);
            kept.unread = (0..self.places.len()).filter(within).collect();
        }
        let elements = kept.data[range.clone()].to_vec();
        kept.unread.retain(|&i| i != at);
        if kept.unread.is_empty() {
            kept.data = Vec::new();
        }
        Ok(elements)
    }
}
