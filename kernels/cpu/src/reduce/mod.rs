//! Reductions of a program's values over any axes.
//!
//! The iteration space is walked in row-major order of the kept and of the reduced axes. When the
//! last of the walk is reduced, neighbours are (`runs`); else whole rows are reduced onto each
//! other, a vector of columns at a time (`columns`). Either way the elements of one result are cut
//! into parts by the shape alone and the parts merged in order (`partial`).
//!
//! **The order of additions is a function of shape, axes and kind alone**: neither threads, nor
//! strides, nor the program change a bit, so that an expression has the sum of its values, whether
//! these were written out first or not. Strides only steer how a block is brought together.

mod columns;
mod partial;
mod runs;
#[cfg(test)]
mod tests;

use crate::isa::Isa;
use crate::map::Operands;
use crate::map::block::{Job, Worker};
use crate::map::few::Few;
use crate::map::grid::{Element, Grid, first_byte, strides_of};
use crate::map::tape::{Tape, block_len};
use crate::scratch::with_scratch;
use crate::team;
use crate::walk::Shared;
use columns::Columns;
use partial::Partial;
use runs::{Runs, STRETCH};
use starling_contract::{CheckedRef, DType, Error, MAX_RANK, Reduce, ReduceKind, Result};
use std::ops::Range;

/// Elements of one part of a long reduction: what one task does. Fixes the order of additions.
const PART: usize = 1 << 16;
/// Fewest rows of one part of a reduction of rows.
const PART_ROWS: usize = 256;
/// Elements of a block that is read where it lies, or turned on its way.
const LONG_BLOCK: usize = 1 << 14;
/// Columns of a block where neighbours lie apart: a cache line of each fits into L2.
const APART: usize = 1 << 10;
/// Fewest columns for which rows are reduced onto each other.
const COLUMNS: usize = 8;
/// Elements below which a task is not worth handing to another thread.
const TASK: usize = 1 << 15;

/// The order in which the axes are walked: kept ones, reduced ones, kept ones.
struct Order {
    axes: [usize; MAX_RANK],
    /// Number of axes before the reduced ones.
    outer: usize,
    /// Number of reduced axes.
    reduced: usize,
    rank: usize,
}

impl Order {
    /// The order for a shape of which the axes in `axes` (a bit each) are reduced.
    fn new(shape: &[usize], axes: u32) -> Self {
        let rank = shape.len();
        let is_reduced = |axis: usize| axes >> axis & 1 == 1;
        // The kept axes behind the last reduced one are the columns, if there are enough of them.
        let last = (0..rank).rev().find(|&axis| is_reduced(axis) && shape[axis] > 1);
        let inner = last.map_or(0, |axis| axis + 1);
        let kept = |range: Range<usize>| range.filter(|&axis| !is_reduced(axis));
        let columns: usize = kept(inner..rank).map(|axis| shape[axis]).product();
        let tail = if columns >= COLUMNS && inner > 0 { inner } else { rank };
        let mut order = Self { axes: [0; MAX_RANK], outer: 0, reduced: 0, rank };
        order.outer = kept(0..tail).count();
        order.reduced = (0..rank).filter(|&axis| is_reduced(axis)).count();
        let reduced = (0..rank).filter(|&axis| is_reduced(axis));
        let walk = kept(0..tail).chain(reduced).chain(kept(tail..rank));
        order.axes.iter_mut().zip(walk).for_each(|(slot, axis)| *slot = axis);
        order
    }

    /// The product of the extents of the axes at these places of the order.
    fn extent(&self, shape: &[usize], places: Range<usize>) -> usize {
        self.axes[places].iter().map(|&a| shape[a]).product()
    }
}

/// One reduction, laid out. The walk is `outer x reduced x columns` elements.
struct Plan<'a> {
    kind: ReduceKind,
    /// Elements that are reduced at a time: whole stretches of [`runs`], whatever the program needs
    /// for blocks of its own.
    block: usize,
    /// The blocks are part of the operand.
    in_place: bool,
    job: Job<'a>,
    outer: usize,
    reduced: usize,
    columns: usize,
    /// Its first element, f32 or, for positions, i32.
    output: Shared<u8>,
    positions: bool,
    /// Walks the output in the order `outer x columns`.
    output_grid: Grid,
}

/// Runs a reduction that [`starling_contract::Verb::check`] accepted.
///
/// # Errors
/// [`Error::Shape`] for views outside host memory or the position of an extremum of nothing,
/// [`Error::Unsupported`] for integer inputs.
pub fn reduce(isa: Isa, verb: CheckedRef<'_, Reduce>) -> Result<()> {
    let verb = verb.get();
    let Some(first) = verb.inputs.first() else {
        return Err(Error::shape("reduce", "there is no input"));
    };
    if verb.output.is_empty() {
        return Ok(());
    }
    let shape = first.shape();
    let tape = Tape::of(&verb.program);
    let leaves = (&verb.params[..], &verb.immediates);
    let operands = Operands::new("reduce", shape, &tape, leaves, &verb.inputs, &[])?;
    let positions = matches!(verb.kind, ReduceKind::ArgMax | ReduceKind::ArgMin);
    let wanted = if positions { DType::I32 } else { DType::F32 };
    if verb.output.dtype != wanted {
        return Err(Error::Unsupported {
            op: "reduce",
            dtype: verb.output.dtype,
            backend: "cpu".into(),
        });
    }
    let order = Order::new(shape, verb.axes);
    let (head, tail) = (order.outer, order.outer + order.reduced);
    let reduced = order.extent(shape, head..tail);
    if reduced == 0 && positions {
        return Err(Error::shape("reduce", "nothing has no largest element"));
    }
    let grid = Grid::new(shape, &order.axes[..order.rank], &operands.strides);
    let mut kept: Few<usize, MAX_RANK> = Few::new(0, order.rank - order.reduced);
    kept[..head].copy_from_slice(&order.axes[..head]);
    kept[head..].copy_from_slice(&order.axes[tail..order.rank]);
    let plain = tape.program().is_identity() && operands.inputs[0].dtype == Element::F32;
    // Blocks that are read where they lie may be longer than what is computed in the cache; and
    // the longer one that is turned, the more is used of each line.
    let in_place = plain && (grid.walk(0).contiguous || grid.inner_stride(0) == 1);
    let is_long = in_place || (plain && grid.is_turned(0));
    let live = tape.registers + tape.inputs.len();
    let block = if is_long { LONG_BLOCK } else { block_len(live) };
    let plan = Plan {
        block: block.max(STRETCH),
        in_place,
        kind: verb.kind,
        job: Job {
            isa,
            tape: &tape,
            grid: &grid,
            inputs: &operands.inputs,
            outputs: &[],
            words: &operands.words,
            immediates: &operands.immediates,
            block,
            index_base: 0,
        },
        outer: order.extent(shape, 0..head),
        reduced,
        columns: order.extent(shape, tail..order.rank),
        output: Shared(first_byte("reduce", &verb.output)?),
        positions,
        output_grid: Grid::new(verb.output.shape(), &kept, &[strides_of(&verb.output.layout)]),
    };
    plan.run();
    Ok(())
}

impl Plan<'_> {
    fn run(&self) {
        if self.reduced == 0 {
            (0..self.outer * self.columns).for_each(|o| self.emit(o, &Partial::NOTHING));
        } else if self.columns == 1 {
            self.run_runs();
        } else {
            self.run_columns();
        }
    }

    /// Calls `task` with each number below `count`, each worth `elements`, and working memory of
    /// `extra` more floats than a worker needs.
    fn each(
        &self,
        count: usize,
        elements: usize,
        extra: usize,
        task: impl Fn(usize, &mut Worker<'_>, *mut f32) + Send + Sync,
    ) {
        let together = (TASK / elements.max(1)).clamp(1, count);
        let tasks = count.div_ceil(together);
        let run = |t: usize| {
            let len = self.job.scratch_len().next_multiple_of(16);
            with_scratch(len + extra, |scratch| {
                let (own, rest) = scratch.split_at_mut(len);
                // SAFETY: the verb's check found the inputs inside their storages.
                let mut worker = unsafe { Worker::new(&self.job, own) };
                for i in t * together..count.min((t + 1) * together) {
                    task(i, &mut worker, rest.as_mut_ptr());
                }
            });
        };
        team::for_each(tasks, run);
    }

    /// Writes result `o` of the order `outer x columns`.
    fn emit(&self, o: usize, all: &Partial) {
        let at = self.output_grid.position(0, o);
        // SAFETY: the verb's check found the output inside its storage, which is aligned.
        unsafe {
            if self.positions {
                *self.output.at(0).cast::<i32>().offset(at) = all.at as i32;
            } else {
                *self.output.at(0).cast::<f32>().offset(at) = all.finish(self.kind);
            }
        }
    }

    /// A dense block of values: where they lie, or in `spare`.
    ///
    /// # Safety
    /// `n` is at most the plan's block, for which `spare` has room.
    unsafe fn dense(
        &self,
        worker: &mut Worker<'_>,
        start: usize,
        n: usize,
        spare: *mut f32,
    ) -> *const f32 {
        let block = self.job.block;
        for done in (0..n).step_by(block) {
            let len = block.min(n - done);
            let to = spare.wrapping_add(done);
            // SAFETY: the caller's promise; a value that is not one for all is `len` numbers long.
            unsafe {
                let loc = worker.value(start + done, len);
                match loc.step {
                    1 if n <= block => return loc.at,
                    1 => to.copy_from_nonoverlapping(loc.at, len),
                    _ => std::slice::from_raw_parts_mut(to, len).fill(*loc.at),
                }
            }
        }
        spare
    }

    /// The last axis of the walk is reduced.
    fn run_runs(&self) {
        let (r, block) = (self.reduced, self.block);
        if r <= block / 2 {
            return self.run_short_runs();
        }
        let parts = r.div_ceil(PART);
        let tasks = self.outer * parts;
        with_scratch(tasks * PARTIAL_FLOATS, |memory| {
            let all = Shared(memory.as_mut_ptr().cast::<Partial>());
            self.each(tasks, r.min(PART), block, |t, worker, spare| {
                let (from, to) = (t % parts * PART, (t % parts * PART + PART).min(r));
                let mut part = Partial::NOTHING;
                for at in (from..to).step_by(block) {
                    let n = block.min(to - at);
                    // SAFETY: blocks are no longer than the plan's; `part` is one part.
                    unsafe {
                        let p = self.dense(worker, t / parts * r + at, n, spare);
                        self.job.isa.run(Runs::new(self.kind, p, 1, n, at, &mut part));
                    }
                }
                // SAFETY: the memory holds a part for each task.
                unsafe { *all.at(t as isize) = part };
            });
            for o in 0..self.outer {
                let mut part = Partial::NOTHING;
                for p in 0..parts {
                    // SAFETY: every task wrote its part.
                    part.merge(self.kind, unsafe { &*all.at((o * parts + p) as isize) });
                }
                self.emit(o, &part);
            }
        });
    }

    /// Several runs to a block.
    fn run_short_runs(&self) {
        let (r, block) = (self.reduced, self.block);
        let together = block / r;
        let groups = self.outer.div_ceil(together);
        let extra = block + together * PARTIAL_FLOATS;
        self.each(groups, together * r, extra, |g, worker, spare| {
            // Blocks are multiples of 16 floats long, so the parts behind are aligned.
            let parts: *mut Partial = spare.wrapping_add(block).cast();
            let first = g * together;
            let runs = together.min(self.outer - first);
            // SAFETY: the runs fill at most a block; there is room for a part of each.
            unsafe {
                std::slice::from_raw_parts_mut(parts, runs).fill(Partial::NOTHING);
                let p = self.dense(worker, first * r, runs * r, spare);
                self.job.isa.run(Runs::new(self.kind, p, runs, r, 0, parts));
                for run in 0..runs {
                    self.emit(first + run, &*parts.add(run));
                }
            }
        });
    }

    /// Rows of kept columns are reduced onto each other.
    fn run_columns(&self) {
        let (r, w, block) = (self.reduced, self.columns, self.block);
        let width = w.min(if self.in_place || w <= block { block } else { APART });
        let chunks = w.div_ceil(width);
        let part_rows = (PART / w).max(PART_ROWS).min(r);
        let parts = r.div_ceil(part_rows);
        let tasks = self.outer * chunks * parts;
        // Parts of one result meet when all are done; a part that is all of it is written at once.
        let shared = if parts == 1 { 0 } else { tasks * width * PARTIAL_FLOATS };
        with_scratch(shared, |memory| {
            let all = Shared(memory.as_mut_ptr().cast::<Partial>());
            let extra = block + Columns::scratch_len(width);
            self.each(tasks, width * part_rows, extra, |t, worker, spare| {
                let (part, chunk, o) = (t % parts, t / parts % chunks, t / parts / chunks);
                let c = chunk * width;
                let n = width.min(w - c);
                let rows = part * part_rows..r.min((part + 1) * part_rows);
                // SAFETY: there is room for a block and, behind it and so aligned, the columns.
                let columns = unsafe {
                    let mut columns = Columns::new(self.kind, n, spare.add(block));
                    self.rows(worker, o, c, n, rows, spare, &mut columns);
                    columns
                };
                for i in 0..n {
                    let partial = columns.partial(i);
                    if parts == 1 {
                        self.emit(o * w + c + i, &partial);
                    } else {
                        // SAFETY: the memory holds `width` parts for each task.
                        unsafe { *all.at((t * width + i) as isize) = partial };
                    }
                }
            });
            if parts == 1 {
                return;
            }
            for (o, c) in (0..self.outer).flat_map(|o| (0..w).map(move |c| (o, c))) {
                let mut whole = Partial::NOTHING;
                for p in 0..parts {
                    let t = (o * chunks + c / width) * parts + p;
                    // SAFETY: every task wrote its parts.
                    let next = unsafe { &*all.at((t * width + c % width) as isize) };
                    whole.merge(self.kind, next);
                }
                self.emit(o * w + c, &whole);
            }
        });
    }

    /// Adds some rows of the columns `c .. c + n` of outer element `o` to `columns`.
    ///
    /// # Safety
    /// The columns are at most the plan's block, and `spare` holds one.
    #[allow(clippy::too_many_arguments, reason = "one caller")]
    unsafe fn rows(
        &self,
        worker: &mut Worker<'_>,
        o: usize,
        c: usize,
        n: usize,
        rows: Range<usize>,
        spare: *mut f32,
        columns: &mut Columns,
    ) {
        let (isa, grid) = (self.job.isa, self.job.grid);
        // Whole rows may share a block; the rows of a chunk are apart.
        let together = if n == self.columns { self.block / n } else { 1 };
        let in_place = self.in_place && grid.inner() == self.columns;
        let mut row = rows.start;
        while row < rows.end {
            let number = o * self.reduced + row;
            let start = number * self.columns + c;
            let (stride, beside) =
                if in_place { grid.rows_from(0, number) } else { (n as isize, together) };
            let count = beside.min(rows.end - row);
            // SAFETY: the caller's promise; the rows lie `stride` apart in the operand, or fill at
            // most a block.
            unsafe {
                let first = if in_place { n } else { count * n };
                let p = self.dense(worker, start, first, spare);
                columns.add(isa, p, stride, count, row);
            }
            row += count;
        }
        columns.settle(isa);
    }
}

/// Floats that a part takes in working memory.
const PARTIAL_FLOATS: usize = size_of::<Partial>() / size_of::<f32>();
