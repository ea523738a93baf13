//! Sizes, the blocks that work is cut into, and where a block lies.

use super::pack::Matrix;
use super::product::{Band, panel_columns};
use super::softmax::{MAX_LANES, MaskBlock, MaskPointer, Scores};
use super::{Forward, Mask, Tensor};
use crate::isa::Isa;
use crate::team;
use starling_contract::Layout;
use std::ops::Range;

/// From how many (batch, key head) pairs on each one is a single piece of work. A function of the
/// shape only: the threads must not change the order of additions.
const MANY_UNITS: usize = 8;
/// Less than this many multiply-adds stay on the calling thread.
const SMALL_WORK: usize = 1 << 17;

/// The extents of one call.
#[derive(Clone, Copy)]
pub struct Shape {
    pub batch: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub queries: usize,
    pub keys: usize,
    pub dim: usize,
}

impl Shape {
    /// From `q`'s and `k`'s layouts.
    pub fn new(q: &Layout, k: &Layout) -> Self {
        debug_assert!(q.rank() == 4 && k.rank() == 4, "Verb::check");
        let (q, k) = (q.shape(), k.shape());
        Self { batch: q[0], heads: q[1], kv_heads: k[1], queries: q[2], keys: k[2], dim: q[3] }
    }

    /// Query heads that share a key head.
    pub fn group(&self) -> usize {
        self.heads / self.kv_heads.max(1)
    }

    /// Pairs of a batch element and a key head.
    pub fn units(&self) -> usize {
        self.batch * self.kv_heads
    }

    /// True when the units alone keep the machine busy.
    pub fn many_units(&self) -> bool {
        self.units() >= MANY_UNITS
    }

    /// The distance of packed rows: whole vectors of every instruction set.
    pub fn width(&self) -> usize {
        self.dim.next_multiple_of(MAX_LANES)
    }

    /// The batch element and the key head of a unit.
    pub fn unit(&self, unit: usize) -> (usize, usize) {
        (unit / self.kv_heads, unit % self.kv_heads)
    }

    /// The query heads of a key head.
    pub fn heads_of(&self, kv_head: usize) -> Range<usize> {
        kv_head * self.group()..(kv_head + 1) * self.group()
    }

    /// Keys rounded up to whole panels.
    pub fn padded_keys(&self, isa: Isa) -> usize {
        self.keys.next_multiple_of(panel_columns(isa.lanes()))
    }

    /// Multiply-adds of one product over all pairs of a query and a key.
    pub fn work(&self) -> usize {
        self.batch * self.heads * self.queries * self.keys * self.dim
    }
}

/// What every function of one call needs.
#[derive(Clone, Copy)]
pub struct Pass<'a, C> {
    pub isa: Isa,
    pub call: &'a C,
    pub shape: Shape,
}

/// Runs `f(0) .. f(n - 1)` in parallel unless there is little work.
pub fn for_each(n: usize, work: usize, f: impl Fn(usize) + Sync + Send) {
    if work < SMALL_WORK {
        (0..n).for_each(f);
    } else {
        team::for_each(n, f);
    }
}

impl Tensor {
    /// The matrix of one head.
    pub(super) fn matrix(&self, batch: usize, head: usize) -> Matrix {
        let strides = self.layout.strides();
        let offset = self.layout.offset() as isize
            + batch as isize * strides[0]
            + head as isize * strides[1];
        Matrix { at: self.at.wrapping_offset(offset), row: strides[2], col: strides[3] }
    }

    /// Element `row` of a tensor `[batch, heads, queries]`.
    pub(super) fn scalar(&self, batch: usize, head: usize, row: usize) -> *mut f32 {
        let strides = self.layout.strides();
        let offset = self.layout.offset() as isize
            + batch as isize * strides[0]
            + head as isize * strides[1]
            + row as isize * strides[2];
        self.at.wrapping_offset(offset)
    }
}

impl Mask {
    fn block(&self, batch: usize, head: usize, row: usize, col: usize) -> MaskBlock {
        let (Mask::Additive { layout, .. } | Mask::Keep { layout, .. }) = self;
        let strides = layout.strides();
        let index = [batch, head, row, col];
        let steps = index.iter().zip(strides).map(|(&i, &s)| i as isize * s);
        let offset = layout.offset() as isize + steps.sum::<isize>();
        let at = match self {
            Mask::Additive { at, .. } => MaskPointer::Add(at.wrapping_offset(offset)),
            Mask::Keep { at, .. } => MaskPointer::Keep(at.wrapping_offset(offset)),
        };
        MaskBlock { at, row: strides[2], col: strides[3] }
    }
}

/// Queries `rows` against keys `cols` of one head.
#[derive(Clone)]
pub struct Block {
    pub batch: usize,
    pub head: usize,
    pub rows: Range<usize>,
    pub cols: Range<usize>,
}

impl Block {
    /// Row `i` of the block sees its first `i + o` columns; `None` when all see all.
    fn causal(&self, call: &Forward<'_>, shape: &Shape) -> Option<isize> {
        let shift = shape.keys as isize - shape.queries as isize;
        let o = self.rows.start as isize + shift + 1 - self.cols.start as isize;
        (call.causal && o < self.cols.len() as isize).then_some(o)
    }

    /// The spans of its rows; `None` when all rows see all its columns.
    ///
    /// # Safety
    /// The call's spans are as many as its queries.
    unsafe fn spans(&self, call: &Forward<'_>, shape: &Shape) -> Option<*const [u32; 2]> {
        if call.spans.is_null() {
            return None;
        }
        let rows = self.batch * shape.queries + self.rows.start;
        // SAFETY: as the caller promises.
        let own = unsafe { std::slice::from_raw_parts(call.spans.add(rows), self.rows.len()) };
        let all = |&[begin, end]: &[u32; 2]| {
            begin as usize <= self.cols.start && end as usize >= self.cols.end
        };
        (!own.iter().all(all)).then_some(own.as_ptr())
    }

    /// What its scores are, lying at `at` in rows `row` apart.
    ///
    /// # Safety
    /// The call's spans are as many as its queries.
    pub unsafe fn scores(
        &self,
        call: &Forward<'_>,
        shape: &Shape,
        at: *mut f32,
        row: usize,
    ) -> Scores {
        let (i, j) = (self.rows.start, self.cols.start);
        Scores {
            at,
            row,
            rows: self.rows.len(),
            cols: self.cols.len(),
            causal: self.causal(call, shape),
            // SAFETY: as the caller promises.
            spans: unsafe { self.spans(call, shape) },
            first_col: j,
            mask: call.mask.as_ref().map(|m| m.block(self.batch, self.head, i, j)),
            may_hide: call.options.is_some(),
        }
    }
}

impl Scores {
    /// The columns that some row sees.
    pub fn visible(&self) -> usize {
        match self.causal {
            None => self.cols,
            Some(o) => (self.rows as isize - 1 + o).clamp(0, self.cols as isize) as usize,
        }
    }

    /// True when some row may not see some column.
    pub fn hides(&self) -> bool {
        self.causal.is_some() || self.spans.is_some() || self.mask.is_some() || self.may_hide
    }

    /// The band of a product that is made from or with the scores.
    pub fn band(&self, kind: impl Fn(isize) -> Band) -> Band {
        self.causal.map_or(Band::Full, kind)
    }
}

/// The keys that some of a batch element's queries `rows` see, from a multiple of `step` on.
///
/// # Safety
/// The call's spans are as many as its queries.
pub unsafe fn visible_keys(
    call: &Forward<'_>,
    shape: &Shape,
    batch: usize,
    rows: &Range<usize>,
    step: usize,
) -> Range<usize> {
    if !call.spans.is_null() {
        let first = batch * shape.queries + rows.start;
        // SAFETY: as the caller promises.
        let own = unsafe { std::slice::from_raw_parts(call.spans.add(first), rows.len()) };
        let some = || own.iter().filter(|[begin, end]| begin < end);
        let begin = some().map(|s| s[0]).min().unwrap_or(0) as usize;
        let end = some().map(|s| s[1]).max().unwrap_or(0) as usize;
        return begin / step * step..end;
    }
    if !call.causal {
        return 0..shape.keys;
    }
    0..(rows.end + shape.keys).saturating_sub(shape.queries).min(shape.keys)
}

/// Consecutive ranges of at most `step`.
pub fn blocks(n: usize, step: usize) -> impl Iterator<Item = Range<usize>> {
    blocks_of(0..n, step)
}

/// Consecutive ranges of at most `step` that make up `all`.
pub fn blocks_of(all: Range<usize>, step: usize) -> impl Iterator<Item = Range<usize>> {
    all.clone().step_by(step).map(move |start| start..all.end.min(start + step))
}

/// Cuts working memory into named pieces, each a whole number of cache lines.
pub struct Pieces<'a>(pub &'a mut [f32]);

impl Pieces<'_> {
    /// Numbers in a cache line.
    const LINE: usize = 16;

    /// Room for `len` numbers, rounded up.
    pub const fn size(len: usize) -> usize {
        len.next_multiple_of(Self::LINE)
    }

    /// The next piece.
    pub fn take(&mut self, len: usize) -> *mut f32 {
        let rest = std::mem::take(&mut self.0);
        let (piece, rest) = rest.split_at_mut(Self::size(len));
        self.0 = rest;
        piece.as_mut_ptr()
    }
}

/// Memory that several threads write, each its own part.
#[derive(Clone, Copy)]
pub struct Shared(*mut f32);

// SAFETY: whoever follows the pointer promises that parts written at the same time are disjoint.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

impl Shared {
    /// Working memory for several threads.
    pub fn new(at: *mut f32) -> Self {
        Self(at)
    }

    /// The memory from element `i` on.
    pub fn offset(self, i: usize) -> *mut f32 {
        self.0.wrapping_add(i)
    }
}
