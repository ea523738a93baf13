//! Strided copies between any two element types, and filling.
//!
//! Offsets and steps are in bytes here, so that the loops are shared by all types.

mod cast;

use crate::isa::{Isa, Kernel};
use crate::simd::Simd;
use crate::walk::{MOVE_GRAIN, Nest, Shared, copy_bytes, first_byte, pointer, split};
use cast::{Cast, Element};
use half::{bf16, f16};
use starling_contract::{CheckedRef, Copy, DType, Fill, MAX_RANK, Result};
use std::marker::PhantomData;
use std::ops::Range;

/// How elements go from one memory to the other.
trait Transfer: std::marker::Copy + Send + Sync {
    /// Transfers `n` elements, `step` bytes apart in the target and in the source.
    ///
    /// # Safety
    /// They exist on both sides, which are apart.
    unsafe fn run<S: Simd>(self, s: S, from: *const u8, to: *mut u8, n: usize, step: [isize; 2]);
}

/// Elements of one dtype, as bits of the type `T`.
struct Move<T>(PhantomData<fn() -> T>);

impl<T> Clone for Move<T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> std::marker::Copy for Move<T> {}

impl<T: std::marker::Copy> Transfer for Move<T> {
    #[inline(always)]
    unsafe fn run<S: Simd>(self, s: S, from: *const u8, to: *mut u8, n: usize, step: [isize; 2]) {
        // SAFETY: the caller's promise.
        unsafe {
            if step == [size_of::<T>() as isize; 2] {
                return copy_bytes(s, from, to, n * size_of::<T>());
            }
            for i in 0..n as isize {
                let v = from.wrapping_offset(i * step[1]).cast::<T>().read();
                to.wrapping_offset(i * step[0]).cast::<T>().write(v);
            }
        }
    }
}

/// `dst = src`, element by element, in any layouts and between any dtypes. Nothing happens when
/// both are the very same view.
///
/// # Errors
/// `Shape` for views outside host memory.
pub fn copy(isa: Isa, v: CheckedRef<'_, Copy>) -> Result<()> {
    let v = v.get();
    debug_assert_eq!(v.src.shape(), v.dst.shape());
    let same = v.src.same_storage(&v.dst) && v.src.layout == v.dst.layout;
    if v.dst.is_empty() || (same && v.src.dtype == v.dst.dtype) {
        return Ok(());
    }
    let plan = Plan::new(v)?;
    if v.src.dtype != v.dst.dtype {
        plan.runs(isa, Cast { from: v.src.dtype, to: v.dst.dtype });
        return Ok(());
    }
    match v.src.dtype.size() {
        4 => plan.moves::<u32>(isa),
        2 => plan.moves::<u16>(isa),
        _ => plan.moves::<u8>(isa),
    }
    Ok(())
}

/// The loops over a target's elements in the order of its memory, with each operand's offset of
/// the first iteration. Operand 0 is the target; its element has `sizes[0]` bytes.
fn in_memory_order<const K: usize>(
    shape: &[usize],
    strides: [&[isize]; K],
    sizes: [usize; K],
) -> (Nest<K>, [isize; K]) {
    let (mut axes, mut rank) = ([(0, [0; K]); MAX_RANK], 0);
    let mut first = [0; K];
    for (axis, &n) in shape.iter().enumerate().filter(|&(_, &n)| n != 1) {
        let mut steps: [isize; K] = std::array::from_fn(|k| strides[k][axis] * sizes[k] as isize);
        if steps[0] < 0 {
            for (first, step) in first.iter_mut().zip(&mut steps) {
                *first += *step * (n as isize - 1);
                *step = -*step;
            }
        }
        axes[rank] = (n, steps);
        rank += 1;
    }
    axes[..rank].sort_unstable_by_key(|&(_, steps)| std::cmp::Reverse(steps[0]));
    let mut nest = Nest::new(&[], [&[]; K]);
    for &(n, steps) in &axes[..rank] {
        nest.push(n, steps);
    }
    (nest, first)
}

/// A copy as loops over bytes: operand 0 is the target.
struct Plan {
    to: Shared<u8>,
    from: Shared<u8>,
    /// The loops around the innermost one.
    nest: Nest<2>,
    /// The innermost loop.
    n: usize,
    step: [isize; 2],
}

impl Plan {
    fn new(v: &Copy) -> Result<Self> {
        let (to, from) = (first_byte("copy", &v.dst)?, first_byte("copy", &v.src)?);
        let strides = [v.dst.layout.strides(), v.src.layout.strides()];
        let sizes = [v.dst.dtype.size(), v.src.dtype.size()];
        let (mut nest, first) = in_memory_order(v.dst.shape(), strides, sizes);
        let (to, from) = (Shared(to.at(first[0])), Shared(from.at(first[1])));
        let (n, step) = nest.pop();
        Ok(Self { to, from, nest, n, step })
    }

    /// Copies run by run.
    fn runs<T: Transfer>(mut self, isa: Isa, transfer: T) {
        let (rows, row_step) = self.nest.pop();
        let plan = &self;
        split(plan.nest.len() * rows * plan.n, 1, MOVE_GRAIN, |range| {
            isa.run(Runs { plan, transfer, rows, row_step, range });
        });
    }

    /// Copies elements of the type `T`: as tiles where the neighbours of one side are not those of
    /// the other.
    fn moves<T: std::marker::Copy>(mut self, isa: Isa) {
        let size = size_of::<T>() as isize;
        let mut outer = (0..self.nest.rank).rev();
        let across = outer.find(|&k| self.nest.strides[k][1] == size);
        let across = across.filter(|&k| self.n.min(self.nest.shape[k]) >= TILE / 2);
        let (Some(k), true) = (across, self.step[0] == size) else {
            return self.runs(isa, Move::<T>(PhantomData));
        };
        let (rows, row_step) = (self.nest.shape[k], self.nest.strides[k][0]);
        (self.nest.shape[k], self.nest.strides[k]) = (1, [0; 2]);
        let plane = Plane { rows, row_step, columns: self.n, column_step: self.step[1] };
        let (plan, bands, element) = (&self, rows.div_ceil(BAND), PhantomData::<fn() -> T>);
        split(plan.nest.len() * bands, BAND * plan.n, MOVE_GRAIN / 4, |range| {
            isa.run(Transpose { plan, plane, bands, range, element });
        });
    }
}

/// Elements `range` in the order of the target's memory, run by run.
struct Runs<'a, T: Transfer> {
    plan: &'a Plan,
    transfer: T,
    /// The loop around a run.
    rows: usize,
    row_step: [isize; 2],
    range: Range<usize>,
}

impl<T: Transfer> Kernel for Runs<'_, T> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Runs { plan, transfer, rows, row_step, range } = self;
        let &Plan { n, step, .. } = plan;
        let mut walk = plan.nest.walk(range.start / n / rows);
        let (mut row, mut skip) = (range.start / n % rows, range.start % n);
        let mut left = range.len();
        while left > 0 {
            let first =
                |k: usize| walk.at[k] + row as isize * row_step[k] + skip as isize * step[k];
            let (mut to, mut from) = (plan.to.at(first(0)), plan.from.at(first(1)));
            while row < rows && left > 0 {
                // Whole runs, whose length does not change from one to the next, then a part.
                let whole = if skip == 0 { (rows - row).min(left / n) } else { 0 };
                let (count, len) = if whole > 0 { (whole, n) } else { (1, (n - skip).min(left)) };
                for _ in 0..count {
                    // SAFETY: the loops visit the elements of views that the verb's check found
                    // in bounds; the target overlaps neither itself nor the source.
                    unsafe { transfer.run(s, from, to, len, step) };
                    to = to.wrapping_offset(row_step[0]);
                    from = from.wrapping_offset(row_step[1]);
                }
                to = to.wrapping_offset(-(skip as isize) * step[0]);
                from = from.wrapping_offset(-(skip as isize) * step[1]);
                (row, skip, left) = (row + count, 0, left - count * len);
            }
            row = 0;
            walk.step();
        }
    }
}

/// Side of the square that is turned at once: a cache line of f32.
const TILE: usize = 16;
/// Rows of the target that a task turns at a time: enough that every page of the source is used
/// for several lines.
const BAND: usize = 4 * TILE;

/// Rows of the target, neighbours in the source, and columns, neighbours in the target.
#[derive(Clone, Copy)]
struct Plane {
    rows: usize,
    /// From row to row in the target.
    row_step: isize,
    columns: usize,
    /// From column to column in the source.
    column_step: isize,
}

struct Transpose<'a, T> {
    plan: &'a Plan,
    plane: Plane,
    /// Bands of a plane.
    bands: usize,
    /// Bands of all planes.
    range: Range<usize>,
    element: PhantomData<fn() -> T>,
}

impl<T: std::marker::Copy> Kernel for Transpose<'_, T> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, _s: S) {
        let (columns, size) = (self.plane.columns, size_of::<T>() as isize);
        for band in self.range {
            let at = self.plan.nest.walk(band / self.bands).at;
            let row = band % self.bands * BAND;
            let rows = self.plane.rows.min(row + BAND);
            for j in (0..columns).step_by(TILE) {
                for i in (row..rows).step_by(TILE) {
                    let (width, height) = (TILE.min(columns - j), TILE.min(rows - i));
                    let (i, j) = (i as isize, j as isize);
                    let to = self.plan.to.at(at[0] + i * self.plane.row_step + j * size);
                    let from = self.plan.from.at(at[1] + j * self.plane.column_step + i * size);
                    // SAFETY: the tile lies in the plane, whose elements the verb's check found
                    // in bounds; the target overlaps neither itself nor the source.
                    unsafe { turn::<T>(from.cast(), to.cast(), self.plane, height, width) };
                }
            }
        }
    }
}

/// Turns one tile through a buffer, so that both sides move whole cache lines.
///
/// # Safety
/// The tile of `height` rows and `width` columns exists on both sides, which are apart.
#[inline(always)]
unsafe fn turn<T: std::marker::Copy>(
    from: *const T,
    to: *mut T,
    plane: Plane,
    height: usize,
    width: usize,
) {
    let mut tile = [[std::mem::MaybeUninit::<T>::uninit(); TILE]; TILE];
    let column = |j: usize| from.wrapping_byte_offset(j as isize * plane.column_step);
    let row = |i: usize| to.wrapping_byte_offset(i as isize * plane.row_step);
    // SAFETY: rows below `height` and columns below `width` exist; what is read from the buffer
    // was written to it before.
    unsafe {
        if (height, width) == (TILE, TILE) {
            for (j, values) in tile.iter_mut().enumerate() {
                values.as_mut_ptr().cast::<T>().copy_from_nonoverlapping(column(j), TILE);
            }
            for i in 0..TILE {
                for (j, values) in tile.iter().enumerate() {
                    row(i).add(j).write(values[i].assume_init());
                }
            }
            return;
        }
        for i in 0..height {
            for j in 0..width {
                row(i).add(j).write(column(j).add(i).read());
            }
        }
    }
}

/// `dst = value` in every element, converted as by [`copy`].
///
/// # Errors
/// `Shape` for views outside host memory.
pub fn fill(_: Isa, v: CheckedRef<'_, Fill>) -> Result<()> {
    let v = v.get();
    if v.dst.is_empty() {
        return Ok(());
    }
    match v.dst.dtype {
        DType::F32 => fill_with(v, f32::from_f64(v.value).to_bits()),
        DType::F16 => fill_with(v, <f16 as Element>::from_f64(v.value).to_bits()),
        DType::BF16 => fill_with(v, <bf16 as Element>::from_f64(v.value).to_bits()),
        DType::I32 => fill_with(v, i32::from_f64(v.value)),
        DType::U32 => fill_with(v, u32::from_f64(v.value)),
        DType::U8 => fill_with(v, u8::from_f64(v.value)),
        DType::I8 => fill_with(v, i8::from_f64(v.value)),
    }
}

fn fill_with<T: std::marker::Copy + Send + Sync>(v: &Fill, value: T) -> Result<()> {
    let to = pointer::<T>("fill", &v.dst)?;
    let (mut nest, [first]) = in_memory_order(v.dst.shape(), [v.dst.layout.strides()], [1]);
    let (n, [step]) = nest.pop();
    split(nest.len() * n, 1, MOVE_GRAIN, |range| {
        let mut walk = nest.walk(range.start / n);
        let (mut skip, mut left) = (range.start % n, range.len());
        while left > 0 {
            let len = (n - skip).min(left);
            let to = to.at(first + walk.at[0] + skip as isize * step);
            // SAFETY: the loops visit the elements of a view that the verb's check found in
            // bounds and not overlapping itself, so each is one task's alone.
            unsafe {
                if step == 1 {
                    std::slice::from_raw_parts_mut(to, len).fill(value);
                } else {
                    for i in 0..len as isize {
                        to.wrapping_offset(i * step).write(value);
                    }
                }
            }
            walk.step();
            (skip, left) = (0, left - len);
        }
    });
    Ok(())
}
