//! Where the elements of operands lie in host memory, and how the work over them is split.

use crate::simd::Simd;
use crate::team;
use starling_contract::{DType, Error, HostStorage, MAX_RANK, Result, View};
use std::ops::Range;

/// A pointer that parallel tasks share. Each task touches elements of its own, or only reads.
#[derive(Debug)]
pub(crate) struct Shared<T>(pub *mut T);

impl<T> Clone for Shared<T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for Shared<T> {}
// SAFETY: a pointer is only an address; whoever dereferences it keeps the tasks apart.
unsafe impl<T> Send for Shared<T> {}
// SAFETY: as above.
unsafe impl<T> Sync for Shared<T> {}

impl<T> Shared<T> {
    /// The address `offset` elements on, which need not exist.
    #[inline(always)]
    pub(crate) fn at(self, offset: isize) -> *mut T {
        self.0.wrapping_offset(offset)
    }
}

/// The first byte of the first element of a view in host memory.
pub(crate) fn first_byte(op: &'static str, view: &View) -> Result<Shared<u8>> {
    let Some(start) = HostStorage::of(view) else {
        return Err(Error::shape(op, "an operand is not in host memory: copy it there first"));
    };
    Ok(Shared(start.wrapping_add(view.layout.offset() * view.dtype.size())))
}

/// The first element of a view in host memory.
pub(crate) fn pointer<T>(op: &'static str, view: &View) -> Result<Shared<T>> {
    debug_assert_eq!(size_of::<T>(), view.dtype.size());
    Ok(Shared(first_byte(op, view)?.0.cast()))
}

/// The first element of an f32 view.
pub(crate) fn f32s(op: &'static str, view: &View) -> Result<Shared<f32>> {
    if view.dtype == DType::F32 {
        return pointer(op, view);
    }
    Err(Error::Unsupported { op, dtype: view.dtype, backend: "cpu".into() })
}

/// Working memory of at least `bytes` bytes, aligned to f32; null when nothing is needed.
pub(crate) fn workspace(
    op: &'static str,
    view: Option<&View>,
    bytes: usize,
) -> Result<Shared<f32>> {
    if bytes == 0 {
        return Ok(Shared(std::ptr::null_mut()));
    }
    let fits = |w: &&View| w.layout.is_contiguous() && w.len() * w.dtype.size() >= bytes;
    let start = view.filter(fits).and_then(|w| first_byte(op, w).ok());
    let start = start.map(|start| start.0.cast::<f32>()).filter(|p| p.is_aligned());
    let message = || format!("the workspace must be {bytes} aligned bytes of host memory");
    start.map(Shared).ok_or_else(|| Error::shape(op, message()))
}

/// Integer elements of either sign convention.
#[derive(Clone, Copy)]
pub(crate) struct Integers {
    start: Shared<u32>,
    signed: bool,
}

impl Integers {
    /// An i32 or u32 view.
    pub(crate) fn new(op: &'static str, view: &View) -> Result<Self> {
        if !matches!(view.dtype, DType::I32 | DType::U32) {
            return Err(Error::Unsupported { op, dtype: view.dtype, backend: "cpu".into() });
        }
        Ok(Self { start: pointer(op, view)?, signed: view.dtype == DType::I32 })
    }

    /// The element `offset` elements behind the first.
    ///
    /// # Safety
    /// There is such an element.
    #[inline(always)]
    pub(crate) unsafe fn get(self, offset: isize) -> i64 {
        // SAFETY: the caller promises that the element exists.
        let word = unsafe { self.start.at(offset).read() };
        if self.signed { (word as i32).into() } else { word.into() }
    }
}

/// True when all of `n` indices, `step` apart, lie in `0..bound`.
///
/// # Safety
/// There are such elements behind `offset`.
pub(crate) unsafe fn all_below(
    indices: Integers,
    offset: isize,
    [n, bound]: [usize; 2],
    step: isize,
) -> bool {
    // As words, negative numbers lie above every bound.
    let bound = bound.min(if indices.signed { 1 << 31 } else { 1 << 32 }) as u64;
    let start = indices.start.at(offset);
    if step == 1 {
        // SAFETY: the caller's promise.
        let words = unsafe { std::slice::from_raw_parts(start, n) };
        return u64::from(words.iter().fold(0, |top, &w| w.max(top))) < bound || n == 0;
    }
    // SAFETY: the caller's promise.
    let word = |i| unsafe { start.wrapping_offset(i * step).read() };
    (0..n as isize).all(|i| u64::from(word(i)) < bound)
}

/// Copies bytes with a few vector moves, or by the C library where that call pays.
///
/// # Safety
/// `bytes` bytes are readable at `from` and writable at `to`, and the two are apart.
#[inline(always)]
pub(crate) unsafe fn copy_bytes<S: Simd>(s: S, from: *const u8, to: *mut u8, bytes: usize) {
    let (n, lanes) = (bytes / 4, S::LANES);
    if !bytes.is_multiple_of(4) || n < lanes || bytes > 2048 {
        // SAFETY: the caller's promise.
        unsafe { to.copy_from_nonoverlapping(from, bytes) };
        return;
    }
    let (from, to) = (from.cast::<u32>(), to.cast::<u32>());
    let mut i = 0;
    // SAFETY: every register ends at or before the last word.
    unsafe {
        while i + 4 * lanes <= n {
            let (from, to) = (from.add(i), to.add(i));
            let (a, b) = (s.uload(from), s.uload(from.add(lanes)));
            let (c, d) = (s.uload(from.add(2 * lanes)), s.uload(from.add(3 * lanes)));
            s.ustore(to, a);
            s.ustore(to.add(lanes), b);
            s.ustore(to.add(2 * lanes), c);
            s.ustore(to.add(3 * lanes), d);
            i += 4 * lanes;
        }
        while i + lanes <= n {
            s.ustore(to.add(i), s.uload(from.add(i)));
            i += lanes;
        }
        // The last register overlaps the one before.
        if i < n {
            s.ustore(to.add(n - lanes), s.uload(from.add(n - lanes)));
        }
    }
}

/// Nested loops over `K` operands of one shape, with axes of extent 1 left out and neighbouring
/// axes merged where every operand's strides allow it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Nest<const K: usize> {
    /// Number of loops.
    pub rank: usize,
    /// Extent of each loop, the outermost first.
    pub shape: [usize; MAX_RANK],
    /// Each operand's step along each loop.
    pub strides: [[isize; K]; MAX_RANK],
}

impl<const K: usize> Nest<K> {
    /// The loops over `shape`, in the order of its axes.
    pub(crate) fn new(shape: &[usize], strides: [&[isize]; K]) -> Self {
        let mut nest = Self { rank: 0, shape: [1; MAX_RANK], strides: [[0; K]; MAX_RANK] };
        for (axis, &n) in shape.iter().enumerate() {
            if n != 1 {
                nest.push(n, strides.map(|s| s[axis]));
            }
        }
        nest
    }

    /// Adds an innermost loop, merged into the last one when possible.
    pub(crate) fn push(&mut self, n: usize, step: [isize; K]) {
        if let Some(last) = self.rank.checked_sub(1)
            && (0..K).all(|k| self.strides[last][k] == step[k] * n as isize)
        {
            self.shape[last] *= n;
            self.strides[last] = step;
            return;
        }
        self.shape[self.rank] = n;
        self.strides[self.rank] = step;
        self.rank += 1;
    }

    /// Takes the innermost loop off: its extent and steps; one pass over nothing when there is no
    /// loop.
    pub(crate) fn pop(&mut self) -> (usize, [isize; K]) {
        let Some(last) = self.rank.checked_sub(1) else { return (1, [0; K]) };
        self.rank = last;
        let inner = (self.shape[last], self.strides[last]);
        (self.shape[last], self.strides[last]) = (1, [0; K]);
        inner
    }

    /// Number of iterations.
    pub(crate) fn len(&self) -> usize {
        self.shape[..self.rank].iter().product()
    }

    /// The walk that starts at iteration `index`.
    #[inline(always)]
    pub(crate) fn walk(&self, index: usize) -> Walk<'_, K> {
        let mut walk = Walk { nest: self, counters: [0; MAX_RANK], at: [0; K] };
        let mut left = index;
        for axis in (0..self.rank).rev() {
            let n = self.shape[axis].max(1);
            walk.counters[axis] = left % n;
            left /= n;
            for k in 0..K {
                walk.at[k] += walk.counters[axis] as isize * self.strides[axis][k];
            }
        }
        walk
    }
}

/// A position in a [`Nest`].
pub(crate) struct Walk<'a, const K: usize> {
    nest: &'a Nest<K>,
    counters: [usize; MAX_RANK],
    /// Each operand's offset from its first element.
    pub at: [isize; K],
}

impl<const K: usize> Walk<'_, K> {
    /// Goes to the next iteration; after the last one to the first.
    #[inline(always)]
    pub(crate) fn step(&mut self) {
        for axis in (0..self.nest.rank).rev() {
            let (n, step) = (self.nest.shape[axis], &self.nest.strides[axis]);
            self.counters[axis] += 1;
            let wrapped = self.counters[axis] == n;
            let back = if wrapped { n as isize - 1 } else { -1 };
            for (at, step) in self.at.iter_mut().zip(step) {
                *at -= back * step;
            }
            if !wrapped {
                return;
            }
            self.counters[axis] = 0;
        }
    }
}

/// Elements of arithmetic below which another task does not pay: 10 to 20 microseconds.
pub(crate) const GRAIN: usize = 1 << 16;
/// The same for elements that are only moved.
pub(crate) const MOVE_GRAIN: usize = 1 << 18;

/// Calls `f` for consecutive parts of `0..count`, on several threads when that pays: a task gets
/// about `grain` elements, of which one item touches `cost`.
pub(crate) fn split(count: usize, cost: usize, grain: usize, f: impl Fn(Range<usize>) + Sync) {
    let each = (grain / cost.max(1)).clamp(1, count.max(1));
    let parts = count.div_ceil(each);
    if parts > 1 && team::threads() > 1 {
        team::for_each(parts, |p| f(p * each..count.min((p + 1) * each)));
    } else if count > 0 {
        f(0..count);
    }
}
