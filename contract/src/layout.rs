//! Where the elements of a tensor lie.

use crate::error::{Error, Result};
use crate::identity::DeviceId;
use crate::maybe::{MaybeSend, MaybeSync};
use starling_ops::DType;
use std::any::Any;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

/// The most axes that a view can have.
pub const MAX_RANK: usize = 8;

/// A size as a distance, the largest there is where it has none.
fn signed(n: usize) -> isize {
    isize::try_from(n).unwrap_or(isize::MAX)
}

/// The elements of a shape, `usize::MAX` where there are more.
fn count(shape: &[usize]) -> usize {
    if shape.contains(&0) {
        return 0;
    }
    shape.iter().fold(1, |all: usize, &n| all.saturating_mul(n))
}

/// Shape, strides and offset, all in elements. Element `(i0, i1, ..)` lies at
/// `offset + i0 * strides[0] + i1 * strides[1] + ..`; a stride of 0 repeats, a negative one runs
/// backwards.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Layout {
    rank: u8,
    shape: [usize; MAX_RANK],
    strides: [isize; MAX_RANK],
    offset: usize,
}

impl Layout {
    /// Row-major without gaps, from offset 0.
    ///
    /// # Panics
    /// When `shape` has more than [`MAX_RANK`] axes; the engine rejects such shapes first.
    pub fn contiguous(shape: &[usize]) -> Self {
        let mut strides = [0; MAX_RANK];
        let mut step = 1isize;
        for (s, &n) in strides[..shape.len()].iter_mut().zip(shape).rev() {
            *s = step;
            step = step.saturating_mul(signed(n.max(1)));
        }
        Self::new(shape, &strides[..shape.len()], 0)
    }

    /// Any layout.
    ///
    /// # Panics
    /// When `shape` and `strides` differ in length or have more than [`MAX_RANK`] axes.
    pub fn new(shape: &[usize], strides: &[isize], offset: usize) -> Self {
        assert!(shape.len() == strides.len() && shape.len() <= MAX_RANK, "a layout's rank");
        let mut layout =
            Self { rank: shape.len() as u8, shape: [1; MAX_RANK], strides: [0; MAX_RANK], offset };
        layout.shape[..shape.len()].copy_from_slice(shape);
        layout.strides[..shape.len()].copy_from_slice(strides);
        layout
    }

    /// Number of axes.
    pub fn rank(&self) -> usize {
        self.rank.into()
    }

    /// Extent of each axis.
    pub fn shape(&self) -> &[usize] {
        &self.shape[..self.rank()]
    }

    /// Distance between neighbours along each axis, in elements.
    pub fn strides(&self) -> &[isize] {
        &self.strides[..self.rank()]
    }

    /// Position of the first element.
    pub fn offset(&self) -> usize {
        self.offset
    }

    /// Number of elements; 1 for rank 0. `usize::MAX` when there are more, which no check lets
    /// pass.
    pub fn len(&self) -> usize {
        count(self.shape())
    }

    /// True when there is no element.
    pub fn is_empty(&self) -> bool {
        self.shape().contains(&0)
    }

    /// True when the elements follow each other in row-major order without gaps.
    pub fn is_contiguous(&self) -> bool {
        let mut step = 1isize;
        for (&n, &s) in self.shape().iter().zip(self.strides()).rev() {
            if n != 1 && s != step {
                return self.is_empty();
            }
            step = step.saturating_mul(signed(n));
        }
        true
    }

    /// The layout with extents of 0 counted as 1: what loops around an empty axis step over.
    pub(crate) fn without_empty_axes(&self) -> Self {
        Self { shape: self.shape.map(|n| n.max(1)), ..*self }
    }

    /// The lowest and the highest position that an element has; `None` when there is no element.
    /// What lies beyond `isize` is held near its ends, on its own side of every storage.
    pub fn extent(&self) -> Option<(isize, isize)> {
        if self.is_empty() {
            return None;
        }
        let (mut low, mut high) = (signed(self.offset), signed(self.offset));
        for (&n, &s) in self.shape().iter().zip(self.strides()) {
            let reach = signed(n - 1).saturating_mul(s);
            if reach < 0 {
                low = low.saturating_add(reach);
            } else {
                high = high.saturating_add(reach);
            }
        }
        Some((low, high))
    }

    /// True when two elements may share a position (a stride of 0 or axes that overlap).
    pub fn may_overlap_itself(&self) -> bool {
        let mut axes = [(0, 1); MAX_RANK];
        for (axis, (&n, &s)) in axes.iter_mut().zip(self.shape().iter().zip(self.strides())) {
            *axis = (s.unsigned_abs(), n);
        }
        axes.sort_unstable();
        let mut reach = 0usize;
        for (stride, n) in axes.into_iter().filter(|&(_, n)| n > 1) {
            if stride <= reach {
                return true;
            }
            reach = reach.saturating_add(stride.saturating_mul(n - 1));
        }
        false
    }

    /// The positions modulo `period`, as a range, when every axis either steps by multiples of
    /// `period` or stays within one: columns of a matrix whose rows are `period` apart.
    fn columns(&self, period: usize) -> Option<(usize, usize)> {
        let (mut low, mut reach) = (signed(self.offset), 0usize);
        for (&n, &s) in self.shape().iter().zip(self.strides()).filter(|&(&n, _)| n > 1) {
            if s.unsigned_abs() >= period {
                if !s.unsigned_abs().is_multiple_of(period) {
                    return None;
                }
            } else {
                reach = reach.saturating_add((n - 1).saturating_mul(s.unsigned_abs()));
                low = low.saturating_add(s.min(0).saturating_mul(signed(n - 1)));
            }
        }
        let first = low.rem_euclid(signed(period)) as usize;
        let last = first.saturating_add(reach);
        (last < period).then_some((first, last))
    }

    /// True when the two layouts of one storage are columns side by side, as the parts of a packed
    /// projection are.
    fn side_by_side(&self, other: &Layout) -> bool {
        let periods = self.strides().iter().chain(other.strides());
        periods.map(|s| s.unsigned_abs()).filter(|&p| p > 1).any(|period| {
            let (a, b) = (self.columns(period), other.columns(period));
            a.zip(b).is_some_and(|(a, b)| a.1 < b.0 || b.1 < a.0)
        })
    }

    /// Repeats axes of extent 1 and adds leading ones, as NumPy does; `None` where that is not
    /// possible.
    pub fn broadcast_to(&self, shape: &[usize]) -> Option<Self> {
        if shape.len() < self.rank() || shape.len() > MAX_RANK {
            return None;
        }
        let lead = shape.len() - self.rank();
        let mut strides = [0; MAX_RANK];
        for axis in 0..self.rank() {
            let (from, to) = (self.shape[axis], shape[lead + axis]);
            if from == to {
                strides[lead + axis] = self.strides[axis];
            } else if from != 1 {
                return None;
            }
        }
        Some(Self::new(shape, &strides[..shape.len()], self.offset))
    }

    /// Axes in another order.
    pub fn permute(&self, axes: &[usize]) -> Self {
        let mut out = Self { rank: axes.len() as u8, ..Self::new(&[], &[], self.offset) };
        for (to, &from) in axes.iter().enumerate() {
            out.shape[to] = self.shape[from];
            out.strides[to] = self.strides[from];
        }
        out
    }

    /// The same elements under another shape without moving them; `None` where the strides do not
    /// allow it.
    pub fn reshape(&self, shape: &[usize]) -> Option<Self> {
        if shape.len() > MAX_RANK || count(shape) != self.len() {
            return None;
        }
        if self.is_empty() {
            return Some(Self::contiguous(shape));
        }
        // Merge the old axes into runs of one stride each, then cut the runs anew.
        let mut runs: Vec<(usize, isize)> = Vec::new();
        for (&n, &s) in self.shape().iter().zip(self.strides()).filter(|&(&n, _)| n != 1) {
            match runs.last_mut() {
                Some((len, stride)) if *stride == s.saturating_mul(signed(n)) => {
                    (*len, *stride) = (len.saturating_mul(n), s);
                }
                _ => runs.push((n, s)),
            }
        }
        let mut strides = [0isize; MAX_RANK];
        let mut run = runs.pop();
        for (axis, &n) in shape.iter().enumerate().rev() {
            if n == 1 {
                continue;
            }
            let (left, stride) = run?;
            if left % n != 0 {
                return None;
            }
            strides[axis] = stride;
            run = if left == n {
                runs.pop()
            } else {
                Some((left / n, stride.saturating_mul(signed(n))))
            };
        }
        Some(Self::new(shape, &strides[..shape.len()], self.offset))
    }

    /// `len` elements of `axis` from `start`, every `step`-th; `step` may be negative, `start` is
    /// then the first (highest) one. The caller checks the range.
    pub fn slice(&self, axis: usize, start: usize, len: usize, step: isize) -> Self {
        let mut out = *self;
        out.shape[axis] = len;
        if len > 0 {
            let by = signed(start).saturating_mul(self.strides[axis]);
            out.offset = self.offset.saturating_add_signed(by);
        }
        out.strides[axis] = self.strides[axis].saturating_mul(step);
        out
    }

    /// The position of element number `index` in row-major order.
    pub fn position(&self, mut index: usize) -> usize {
        let mut at = self.offset as isize;
        for (&n, &s) in self.shape().iter().zip(self.strides()).rev() {
            at = at.wrapping_add(((index % n) as isize).wrapping_mul(s));
            index /= n;
        }
        at as usize
    }

    /// The positions of all elements in row-major order, without a division for each.
    pub fn positions(&self) -> impl Iterator<Item = usize> + use<> {
        let layout = *self;
        let mut index = [0usize; MAX_RANK];
        let mut at = layout.offset as isize;
        (0..layout.len()).map(move |_| {
            let here = at as usize;
            for axis in (0..layout.rank()).rev() {
                index[axis] += 1;
                at = at.wrapping_add(layout.strides[axis]);
                if index[axis] < layout.shape[axis] {
                    break;
                }
                at = at.wrapping_sub((index[axis] as isize).wrapping_mul(layout.strides[axis]));
                index[axis] = 0;
            }
            here
        })
    }
}

impl fmt::Debug for Layout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} strides {:?} offset {}", self.shape(), self.strides(), self.offset)
    }
}

/// Bytes on a device. What they are, only the backend that made them knows: it finds its own type
/// again by `downcast_ref`.
pub trait Storage: Any + MaybeSend + MaybeSync {
    /// Size in bytes.
    fn bytes(&self) -> usize;
    /// The device whose memory it is.
    fn device(&self) -> DeviceId;
}

impl dyn Storage {
    /// The storage as what a backend makes; `None` for anything else, also for a storage that
    /// merely holds such a one.
    pub fn downcast_ref<S: Storage>(&self) -> Option<&S> {
        let storage: &dyn Any = self;
        storage.downcast_ref()
    }
}

/// Typed, strided access to a storage.
#[derive(Clone)]
pub struct View {
    /// The bytes.
    pub storage: Arc<dyn Storage>,
    /// The type of an element.
    pub dtype: DType,
    /// Where the elements lie.
    pub layout: Layout,
}

impl View {
    /// A row-major view of the start of `storage`.
    pub fn contiguous(storage: Arc<dyn Storage>, dtype: DType, shape: &[usize]) -> Self {
        Self { storage, dtype, layout: Layout::contiguous(shape) }
    }

    /// The same storage through another layout.
    pub fn with(&self, layout: Layout) -> Self {
        Self { layout, ..self.clone() }
    }

    /// The device whose memory the view is of.
    pub fn device(&self) -> DeviceId {
        self.storage.device()
    }

    /// Extent of each axis.
    pub fn shape(&self) -> &[usize] {
        self.layout.shape()
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.layout.len()
    }

    /// True when there is no element.
    pub fn is_empty(&self) -> bool {
        self.layout.is_empty()
    }

    /// Bytes of its elements, each counted once for every time that it repeats; `usize::MAX` when
    /// there are more.
    pub fn bytes(&self) -> usize {
        self.len().saturating_mul(self.dtype.size())
    }

    /// Where a transfer of `len` bytes finds them in the storage.
    ///
    /// # Errors
    /// [`Error::Shape`] unless the view is contiguous, of that many bytes, and within its storage.
    pub fn contiguous_range(&self, op: &'static str, len: usize) -> Result<Range<usize>> {
        if !self.layout.is_contiguous() || self.bytes() != len {
            let message = format!(
                "{len} bytes for {self:?}: it must be contiguous and of that size, and has {}",
                self.bytes()
            );
            return Err(Error::shape(op, message));
        }
        // A view without elements may begin anywhere, also behind the end.
        if len == 0 {
            return Ok(0..0);
        }
        let start = self.layout.offset().checked_mul(self.dtype.size());
        let range = start.and_then(|start| Some(start..start.checked_add(len)?));
        let whole = self.storage.bytes();
        range.filter(|range| range.end <= whole).ok_or_else(|| {
            Error::shape(op, format!("{self:?} reaches outside its storage of {whole} bytes"))
        })
    }

    /// True when both views are of one storage object.
    pub fn same_storage(&self, other: &View) -> bool {
        std::ptr::addr_eq(Arc::as_ptr(&self.storage), Arc::as_ptr(&other.storage))
    }

    /// True when a write to `self` may change what `other` reads: one storage, overlapping
    /// extents, and not merely columns side by side.
    pub fn may_overlap(&self, other: &View) -> bool {
        let (Some(a), Some(b)) = (self.layout.extent(), other.layout.extent()) else {
            return false;
        };
        // Wide enough for any extent in bytes.
        let bytes = |(low, high): (isize, isize), dtype: DType| {
            let size = dtype.size() as i128;
            (low as i128 * size, (high as i128 + 1) * size)
        };
        let (a, b) = (bytes(a, self.dtype), bytes(b, other.dtype));
        let overlap = self.same_storage(other) && a.0 < b.1 && b.0 < a.1;
        let one_size = self.dtype.size() == other.dtype.size();
        overlap && !(one_size && self.layout.side_by_side(&other.layout))
    }
}

impl fmt::Debug for View {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?}", self.dtype, self.layout)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reshape_keeps_positions_or_says_no() {
        let base = Layout::contiguous(&[4, 6]);
        let r = base.reshape(&[2, 2, 3, 2]).unwrap();
        assert!((0..24).all(|i| r.position(i) == i));
        let t = base.permute(&[1, 0]);
        assert!(t.reshape(&[24]).is_none());
        let split = t.reshape(&[2, 3, 4]).unwrap();
        assert!((0..24).all(|i| split.position(i) == t.position(i)));
        assert_eq!(Layout::contiguous(&[0, 3]).reshape(&[3, 0]).unwrap().len(), 0);
        let b = Layout::contiguous(&[1]).broadcast_to(&[3, 4]).unwrap();
        assert!(b.reshape(&[12]).is_some_and(|r| r.strides() == [0]));
    }

    #[test]
    fn positions_follow_the_strides() {
        for layout in [
            Layout::contiguous(&[2, 3, 4]),
            Layout::new(&[3, 2], &[-2, 1], 4),
            Layout::new(&[2, 3], &[0, 1], 5),
            Layout::new(&[], &[], 7),
            Layout::new(&[2, 0, 3], &[3, 3, 1], 0),
        ] {
            let expected: Vec<usize> = (0..layout.len()).map(|i| layout.position(i)).collect();
            assert_eq!(layout.positions().collect::<Vec<_>>(), expected, "{layout:?}");
        }
    }

    #[test]
    fn slices_may_run_backwards() {
        let l = Layout::contiguous(&[5]).slice(0, 4, 3, -2);
        assert_eq!((0..3).map(|i| l.position(i)).collect::<Vec<_>>(), [4, 2, 0]);
        assert_eq!(l.extent(), Some((0, 4)));
    }

    #[test]
    fn overlap_is_seen() {
        assert!(!Layout::contiguous(&[3, 4]).may_overlap_itself());
        assert!(Layout::contiguous(&[1]).broadcast_to(&[3]).unwrap().may_overlap_itself());
        assert!(Layout::new(&[3, 3], &[1, 1], 0).may_overlap_itself());
        assert!(!Layout::new(&[3, 2], &[2, 1], 0).may_overlap_itself());
        let part = |offset| Layout::new(&[2, 4, 8, 4], &[96, 4, 12, 1], offset);
        let columns = |offset| Layout::new(&[8, 4], &[12, 1], offset);
        assert!(columns(0).side_by_side(&columns(4)) && columns(8).side_by_side(&columns(4)));
        assert!(!columns(0).side_by_side(&columns(3)) && !part(0).side_by_side(&part(8)));
    }
}
