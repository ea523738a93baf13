//! Picking by index: gather and scatter_add.

use crate::isa::{Isa, Kernel};
use crate::simd::Simd;
use crate::team;
use crate::walk::{
    GRAIN, Integers, MOVE_GRAIN, Nest, Shared, all_below, copy_bytes, f32s, pointer, split,
};
use starling_contract::{CheckedRef, Error, Gather, MAX_RANK, Result, ScatterAdd, View};
use std::ops::Range;

/// A view's strides with one of them set to 0: the loop does not move along that axis, the index
/// does.
fn held(strides: &[isize], axis: usize) -> [isize; MAX_RANK] {
    let mut held = [0; MAX_RANK];
    held[..strides.len()].copy_from_slice(strides);
    held[axis] = 0;
    held
}

/// True when the indices do not depend on the axes behind `axis`: whole slices are picked.
fn picks_slices(index: &View, axis: usize) -> bool {
    let mut behind = index.shape().iter().zip(index.layout.strides()).skip(axis + 1);
    behind.all(|(&n, &s)| n == 1 || s == 0)
}

/// Looks at every index before anything is written.
fn check(op: &'static str, view: &View, bound: usize) -> Result<Integers> {
    let indices = Integers::new(op, view)?;
    let (rank, strides) = (view.shape().len(), view.layout.strides());
    let mut shape = [1; MAX_RANK];
    shape[..rank].copy_from_slice(view.shape());
    // A repeated index is looked at once.
    for (n, _) in shape.iter_mut().zip(strides).filter(|&(_, &s)| s == 0) {
        *n = (*n).min(1);
    }
    let mut nest = Nest::new(&shape[..rank], [strides]);
    let (n, [step]) = nest.pop();
    let mut walk = nest.walk(0);
    for _ in 0..nest.len() {
        // SAFETY: the verb's check found the view's elements in bounds.
        unsafe {
            if !all_below(indices, walk.at[0], [n, bound], step) {
                let mut all = (0..n as isize).map(|i| indices.get(walk.at[0] + i * step));
                let index = all.find(|&i| !usize::try_from(i).is_ok_and(|i| i < bound));
                return Err(Error::Index { op, index: index.unwrap_or(-1), bound });
            }
        }
        walk.step();
    }
    Ok(indices)
}

/// `out[.., i, ..] = x[.., index[.., i, ..], ..]` along an axis, for any dtype.
///
/// # Errors
/// `Index` for an index outside the axis, before anything is written; `Shape` for views outside
/// host memory.
pub fn gather(isa: Isa, v: CheckedRef<'_, Gather>) -> Result<()> {
    let v = v.get();
    debug_assert_eq!(v.x.dtype, v.out.dtype);
    if v.out.is_empty() {
        return Ok(());
    }
    match v.out.dtype.size() {
        4 => gather_as::<u32>(isa, v),
        2 => gather_as::<u16>(isa, v),
        _ => gather_as::<u8>(isa, v),
    }
}

fn gather_as<T: Copy>(isa: Isa, v: &Gather) -> Result<()> {
    let (x, out) = (pointer::<T>("gather", &v.x)?, pointer::<T>("gather", &v.out)?);
    let index = check("gather", &v.index, v.x.shape()[v.axis])?;
    let (shape, x_strides) = (v.out.shape(), v.x.layout.strides());
    let (along, fixed) = (x_strides[v.axis], held(x_strides, v.axis));
    let strides = [v.out.layout.strides(), v.index.layout.strides(), &fixed];
    let cut = if picks_slices(&v.index, v.axis) { v.axis + 1 } else { shape.len() };
    let mut outer = Nest::new(&shape[..cut], strides.map(|s| &s[..cut]));
    let (rows, row_step) = outer.pop();
    let mut slices = Nest::new(&shape[cut..], [strides[0], strides[2]].map(|s| &s[cut..]));
    let slice_len = slices.len();
    let (n, step) = slices.pop();
    split(outer.len() * rows, slice_len, MOVE_GRAIN, |range| {
        let (outer, slices) = (&outer, &slices);
        isa.run(Pick { x, index, out, along, outer, rows, row_step, slices, n, step, range });
    });
    Ok(())
}

struct Pick<'a, T> {
    x: Shared<T>,
    index: Integers,
    out: Shared<T>,
    /// Step of `x` along the axis.
    along: isize,
    /// The loops over `out`, the index and the part of `x` that is not picked.
    outer: &'a Nest<3>,
    /// The innermost of them.
    rows: usize,
    row_step: [isize; 3],
    /// The loops around a run of a slice, over `out` and `x`.
    slices: &'a Nest<2>,
    /// Length of a run.
    n: usize,
    /// Steps of `out` and `x` within a run.
    step: [isize; 2],
    range: Range<usize>,
}

impl<T: Copy> Kernel for Pick<'_, T> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let mut walk = self.outer.walk(self.range.start / self.rows);
        let (mut row, mut left) = (self.range.start % self.rows, self.range.len());
        while left > 0 {
            let mut at = walk.at;
            for (at, step) in at.iter_mut().zip(self.row_step) {
                *at += row as isize * step;
            }
            while row < self.rows && left > 0 {
                // SAFETY: the loops visit elements of views that the verb's check found in bounds.
                unsafe { self.slice(s, at) };
                for (at, step) in at.iter_mut().zip(self.row_step) {
                    *at += step;
                }
                (row, left) = (row + 1, left - 1);
            }
            row = 0;
            walk.step();
        }
    }
}

impl<T: Copy> Pick<'_, T> {
    /// Copies the slice that the index at `at` names.
    ///
    /// # Safety
    /// The offsets (of `out`, the index and the part of `x` that is not picked) are of elements
    /// that exist.
    #[inline(always)]
    unsafe fn slice<S: Simd>(&self, s: S, [to, at, from]: [isize; 3]) {
        let Self { x, out, n, step, slices, .. } = self;
        // SAFETY: `check` found the index inside the axis, so that both slices lie in views that
        // the verb's check found in bounds; `out` overlaps neither itself nor an input.
        unsafe {
            let from = from + self.index.get(at) as isize * self.along;
            if slices.rank == 0 {
                return copy_run(s, x.at(from), out.at(to), *n, *step);
            }
            let mut inner = slices.walk(0);
            for _ in 0..slices.len() {
                let [i, j] = inner.at;
                copy_run(s, x.at(from + j), out.at(to + i), *n, *step);
                inner.step();
            }
        }
    }
}

/// Copies `n` elements; `step` is that of the target and of the source.
///
/// # Safety
/// All elements exist, and those of `to` are apart from those of `from`.
#[inline(always)]
unsafe fn copy_run<S: Simd, T: Copy>(s: S, from: *const T, to: *mut T, n: usize, step: [isize; 2]) {
    // SAFETY: the caller's promise.
    unsafe {
        if n == 1 {
            to.write(from.read());
        } else if step == [1, 1] {
            copy_bytes(s, from.cast(), to.cast(), n * size_of::<T>());
        } else {
            for i in 0..n as isize {
                let v = from.wrapping_offset(i * step[1]).read();
                to.wrapping_offset(i * step[0]).write(v);
            }
        }
    }
}

/// `out[.., index[.., i, ..], ..] += x[.., i, ..]` along an axis, in the order of `i`.
///
/// Tasks own parts of `out` and each reads all indices, so that nothing is added atomically.
///
/// # Errors
/// `Index` for an index outside the axis, before anything is written; `Unsupported` for another
/// dtype than f32; `Shape` for views outside host memory.
pub fn scatter_add(isa: Isa, v: CheckedRef<'_, ScatterAdd>) -> Result<()> {
    let v = v.get();
    let op = "scatter_add";
    let (x, out) = (f32s(op, &v.x)?, f32s(op, &v.out)?);
    if v.x.is_empty() {
        return Ok(());
    }
    let rows = v.out.shape()[v.axis];
    let index = check(op, &v.index, rows)?;
    let (shape, strides) = (v.x.shape(), v.out.layout.strides());
    let (along, fixed) = (strides[v.axis], held(strides, v.axis));
    let strides = [v.x.layout.strides(), v.index.layout.strides(), &fixed];
    let operands = Operands { x, index, out, along };
    let cut = v.axis + 1;
    let behind = Nest::new(&shape[cut..], [strides[0], strides[2]].map(|s| &s[cut..]));
    let dense = behind.rank == 0 || (behind.rank == 1 && behind.strides[0] == [1, 1]);
    if picks_slices(&v.index, v.axis) && dense {
        let outer = Nest::new(&shape[..cut], strides.map(|s| &s[..cut]));
        scatter_slices(isa, operands, &outer, behind.len(), rows);
    } else {
        scatter_elements(operands, shape, v.axis, strides);
    }
    Ok(())
}

#[derive(Clone, Copy)]
struct Operands {
    x: Shared<f32>,
    index: Integers,
    out: Shared<f32>,
    /// Step of `out` along the axis.
    along: isize,
}

/// The least columns of a task: four cache lines of each slice.
const MIN_COLUMNS: usize = 64;
/// The most tasks, each of which reads all indices.
const MAX_TASKS: usize = 8;

/// Adds whole slices of `n` numbers. Tasks own columns of the slices, or rows of the axis when the
/// slices are short.
fn scatter_slices(isa: Isa, operands: Operands, outer: &Nest<3>, n: usize, rows: usize) {
    let work = (outer.len() * n).div_ceil(GRAIN).min(MAX_TASKS);
    let tasks = if team::threads() > 1 { work } else { 1 };
    let by_columns = n >= 2 * MIN_COLUMNS;
    let owned = if by_columns { n } else { rows };
    let least = if by_columns { MIN_COLUMNS } else { 1 };
    let each = owned.div_ceil(tasks.max(1)).next_multiple_of(least);
    split(owned.div_ceil(each), outer.len() * each, GRAIN, |range| {
        for task in range {
            let own = task * each..owned.min((task + 1) * each);
            let all = if by_columns { 0..rows } else { 0..n };
            let (columns, rows) = if by_columns { (own, all) } else { (all, own) };
            isa.run(AddSlices { operands, outer, columns, rows });
        }
    });
}

struct AddSlices<'a> {
    operands: Operands,
    outer: &'a Nest<3>,
    columns: Range<usize>,
    rows: Range<usize>,
}

impl Kernel for AddSlices<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Operands { x, index, out, along } = self.operands;
        let (first, n) = (self.columns.start as isize, self.columns.len());
        let mut walk = self.outer.walk(0);
        for _ in 0..self.outer.len() {
            let [from, at, to] = walk.at;
            // SAFETY: `check` found the index inside the axis, so both slices lie in views that
            // the verb's check found in bounds; these columns of these rows are this task's alone.
            unsafe {
                let row = index.get(at) as usize;
                if self.rows.contains(&row) {
                    let to = to + row as isize * along;
                    add_slice(s, x.at(from + first), out.at(to + first), n);
                }
            }
            walk.step();
        }
    }
}

/// `to += from`
///
/// # Safety
/// `n` numbers are readable at `from` and writable at `to`.
#[inline(always)]
unsafe fn add_slice<S: Simd>(s: S, from: *const f32, to: *mut f32, n: usize) {
    let mut i = 0;
    // SAFETY: the register at `i` ends at or before `n`.
    unsafe {
        while i + S::LANES <= n {
            s.store(to.add(i), s.add(s.load(to.add(i)), s.load(from.add(i))));
            i += S::LANES;
        }
        if i < n {
            let (to, left) = (to.add(i), n - i);
            let sum = s.add(s.load_first(to, left), s.load_first(from.add(i), left));
            s.store_first(to, left, sum);
        }
    }
}

/// Adds element by element; tasks own positions across the axis.
fn scatter_elements(operands: Operands, shape: &[usize], axis: usize, strides: [&[isize]; 3]) {
    let Operands { x, index, out, along } = operands;
    let mut across = [1; MAX_RANK];
    across[..shape.len()].copy_from_slice(shape);
    let count = std::mem::replace(&mut across[axis], 1);
    let columns = Nest::new(&across[..shape.len()], strides);
    let (x_step, index_step) = (strides[0][axis], strides[1][axis]);
    split(columns.len(), count, GRAIN, |range| {
        for i in 0..count as isize {
            let mut walk = columns.walk(range.start);
            for _ in range.clone() {
                let [from, at, to] = walk.at;
                // SAFETY: `check` found the index inside the axis, so all elements lie in views
                // that the verb's check found in bounds; this column of `out` is this task's.
                unsafe {
                    let to = out.at(to + index.get(at + i * index_step) as isize * along);
                    to.write(to.read() + x.at(from + i * x_step).read());
                }
                walk.step();
            }
        }
    });
}
