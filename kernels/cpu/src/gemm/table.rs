//! The sizes that the paths are cut into: data, a row for each instruction set.

use super::micro::tile_shape;
use crate::isa::Isa;

/// Work below which a product stays on the calling thread: about 30 us of one core.
pub(super) const PARALLEL_WORK: f64 = 6e6;
/// Work that a task of a batch should have.
pub(super) const TASK_WORK: f64 = 5e5;

/// Most rows of a product whose B has adjacent columns that `thin` takes.
pub(super) const THIN_ROWS: usize = 4;
/// Most rows of a product whose B has adjacent rows that `thin` takes: packing B would transpose
/// it.
pub(super) const THIN_DOTS: usize = 32;
/// Sums of one task of `thin`: 16 KiB, half of a small L1.
pub(super) const THIN_SUMS: usize = 4096;
/// Columns of a task of `thin` are a multiple of this.
pub(super) const THIN_COLS: usize = 48;

/// Most columns of a block that an epilogue gets: rows are its vectors, long ones cost it less.
pub(super) const FINISH_COLS: usize = 1024;
/// Numbers of a block that an epilogue gets, unless its rows are very long: 128 KiB, a part of L2.
pub(super) const FINISH: usize = 32 * 1024;

/// Multiply-adds of a product, and what its memory costs in that unit: a number that is read or
/// written takes about as long as 8 multiply-adds of AVX-512.
pub(super) fn work(m: usize, n: usize, k: usize) -> f64 {
    let (m, n, k) = (m as f64, n as f64, k as f64);
    m * n * k + 8.0 * (m * k + k * n + m * n)
}

/// The blocking of one instruction set.
#[derive(Clone, Copy, Debug)]
pub(super) struct Blocking {
    /// f32 lanes of a register.
    pub lanes: usize,
    /// Rows of a tile.
    pub mr: usize,
    /// Columns of a tile.
    pub nr: usize,
    /// Longest k-block: a panel of A and one of B share L1. It fixes the order of additions, so it
    /// must depend on nothing but the instruction set and k.
    pub kc: usize,
    /// Most rows of a block of A, which stays in L2.
    pub mc: usize,
    /// Most columns of a block of B, which stays in L3.
    pub nc: usize,
}

impl Blocking {
    /// The row of an instruction set.
    pub(super) fn of(isa: Isa) -> Blocking {
        let lanes = isa.lanes();
        let (mr, registers) = tile_shape(lanes);
        let (kc, mc, nc) = match lanes {
            16 => (512, 192, 2048),
            8 => (512, 96, 2048),
            4 => (256, 128, 2040),
            _ => (256, 64, 1024),
        };
        Blocking { lanes, mr, nr: registers * lanes, kc, mc, nc }
    }

    /// The length of k-blocks: equal ones, but for the last.
    pub(super) fn k_block(&self, k: usize) -> usize {
        let blocks = k.div_ceil(self.kc).max(1);
        k.div_ceil(blocks).next_multiple_of(4).max(1)
    }

    /// The height of A's panels: equal ones, but for the last.
    pub(super) fn panel_rows(&self, m: usize) -> usize {
        m.div_ceil(m.div_ceil(self.mr))
    }
}
