//! Products of small packed blocks that stay in L1 and L2: what flash attention is made of.
//!
//! Everything here is generic over the token and inlined into the caller, so that a whole block of
//! attention runs inside one [`Kernel`](crate::isa::Kernel).

use super::micro::{Tile, micro, tile_shape};
use super::pack::{Strip, pack};
use crate::simd::Simd;

/// Rows of a panel of A: round the rows of A and C up to a multiple of it.
pub(crate) const fn panel_rows<S: Simd>() -> usize {
    tile_shape(S::LANES).0
}

/// Columns of a panel of B: round the columns of B and C up to a multiple of it.
pub(crate) const fn panel_cols<S: Simd>() -> usize {
    tile_shape(S::LANES).1 * S::LANES
}

/// Packs `rows x k` numbers of A, element (i, p) at `src[i * row_stride + p * col_stride]`, into
/// panels of [`panel_rows`], zero-padded: `rows.next_multiple_of(panel_rows) * k` numbers.
///
/// # Safety
/// The source is readable and `dst` writable.
#[inline(always)]
pub(crate) unsafe fn pack_a<S: Simd>(
    s: S,
    src: *const f32,
    (row_stride, col_stride): (isize, isize),
    (rows, k): (usize, usize),
    dst: *mut f32,
) {
    let width = panel_rows::<S>();
    for start in (0..rows).step_by(width) {
        let strip = Strip {
            src: src.wrapping_offset(start as isize * row_stride),
            across: row_stride,
            along: col_stride,
            count: width.min(rows - start),
            width,
            k,
            dst: dst.wrapping_add(start * k),
        };
        // SAFETY: a part of what the caller promises.
        unsafe { pack(s, &strip) }
    }
}

/// Packs `k x cols` numbers of B, element (p, j) at `src[p * row_stride + j * col_stride]`, into
/// panels of [`panel_cols`], zero-padded: `cols.next_multiple_of(panel_cols) * k` numbers.
///
/// # Safety
/// The source is readable and `dst` writable.
#[inline(always)]
pub(crate) unsafe fn pack_b<S: Simd>(
    s: S,
    src: *const f32,
    (row_stride, col_stride): (isize, isize),
    (k, cols): (usize, usize),
    dst: *mut f32,
) {
    let width = panel_cols::<S>();
    for start in (0..cols).step_by(width) {
        let strip = Strip {
            src: src.wrapping_offset(start as isize * col_stride),
            across: col_stride,
            along: row_stride,
            count: width.min(cols - start),
            width,
            k,
            dst: dst.wrapping_add(start * k),
        };
        // SAFETY: a part of what the caller promises.
        unsafe { pack(s, &strip) }
    }
}

/// One product of packed blocks: `C = A B`, or `C += A B` when `accumulate`.
#[derive(Clone, Copy)]
pub(crate) struct Block {
    /// Rows of C, rounded up to [`panel_rows`] by `tile_block`.
    pub rows: usize,
    /// Columns of C, rounded up to [`panel_cols`] by `tile_block`.
    pub cols: usize,
    /// Length of the sums.
    pub k: usize,
    /// From [`pack_a`] with the same `k`.
    pub a: *const f32,
    /// From [`pack_b`] with the same `k`.
    pub b: *const f32,
    /// Contiguous columns; holds the rounded up rows and columns.
    pub c: *mut f32,
    /// Distance of C's rows, at least the rounded up columns.
    pub c_row: usize,
    /// Add to C instead of overwriting it.
    pub accumulate: bool,
}

/// Multiplies packed blocks.
///
/// # Safety
/// The panels are readable and all of C's rounded up block is writable, and readable when
/// `accumulate`.
#[inline(always)]
pub(crate) unsafe fn tile_block<S: Simd>(s: S, block: &Block) {
    // SAFETY: the caller's promise is handed on.
    unsafe {
        match S::LANES {
            16 => tiles::<S, 12, 2>(s, block),
            8 => tiles::<S, 6, 2>(s, block),
            4 => tiles::<S, 8, 3>(s, block),
            _ => tiles::<S, 4, 4>(s, block),
        }
    }
}

/// # Safety
/// As [`tile_block`].
#[inline(always)]
unsafe fn tiles<S: Simd, const MR: usize, const NRV: usize>(s: S, block: &Block) {
    const { assert!(MR <= super::micro::MAX_ROWS && NRV <= super::micro::MAX_REGISTERS) };
    debug_assert_eq!((MR, NRV), tile_shape(S::LANES));
    let nr = NRV * S::LANES;
    for j in (0..block.cols).step_by(nr) {
        for i in (0..block.rows).step_by(MR) {
            let tile = Tile {
                k: block.k,
                a: block.a.wrapping_add(i * block.k),
                a_row: 1,
                a_step: MR as isize,
                b: block.b.wrapping_add(j * block.k),
                b_step: nr as isize,
                c: block.c.wrapping_add(i * block.c_row + j),
                c_row: block.c_row as isize,
                cols: nr,
                alpha: 1.0,
                beta: if block.accumulate { 1.0 } else { 0.0 },
            };
            // SAFETY: the panels and C's block hold this tile by the caller's promise.
            unsafe { micro::<S, MR, NRV, true>(s, &tile) }
        }
    }
}
