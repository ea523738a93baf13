//! The micro-kernel: one body for every instruction set, tile and way of reading A and B.

use crate::isa::{Isa, Kernel};
use crate::simd::Simd;

/// Rows of the tallest tile of any instruction set.
pub(super) const MAX_ROWS: usize = 14;
/// Registers of the widest tile of any instruction set.
pub(super) const MAX_REGISTERS: usize = 4;

/// The tallest and widest tile for registers of so many lanes: as many accumulators as leave room
/// for a row of B and one broadcast of A.
pub(super) const fn tile_shape(lanes: usize) -> (usize, usize) {
    match lanes {
        16 => (12, 2),
        8 => (6, 2),
        4 => (8, 3),
        _ => (4, 4),
    }
}

/// `C = alpha * A B + beta * C` for one tile of C.
#[derive(Clone, Copy)]
pub(crate) struct Tile {
    /// Length of the sums.
    pub k: usize,
    /// A(0, 0).
    pub a: *const f32,
    /// Distance of A's rows; not used by the packed form, where it is 1.
    pub a_row: isize,
    /// Distance of A's columns; not used by the packed form, where it is the tile's height.
    pub a_step: isize,
    /// B(0, 0); B's columns are adjacent.
    pub b: *const f32,
    /// Distance of B's rows.
    pub b_step: isize,
    /// C(0, 0); C's columns are adjacent.
    pub c: *mut f32,
    /// Distance of C's rows.
    pub c_row: isize,
    /// Columns to write: all but less than one register of the tile's width.
    pub cols: usize,
    /// Factor of the product.
    pub alpha: f32,
    /// Factor of the old C, which is not read when this is 0.
    pub beta: f32,
}

/// Asks for the cache line of `p`; any address will do.
#[inline(always)]
pub(crate) fn prefetch(p: *const f32) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: SSE is part of x86-64 and a prefetch of any address has no effect but on caches.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(p.cast())
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = p;
}

/// One step of the sums: `acc += A(.., p) B(p, ..)`.
///
/// # Safety
/// `MR` numbers at distances `a_row` from `a` and `NRV` registers from `b` are readable.
#[inline(always)]
pub(crate) unsafe fn step<S: Simd, const MR: usize, const NRV: usize>(
    s: S,
    a: *const f32,
    a_row: isize,
    b: *const f32,
    acc: &mut [[S::V; NRV]; MR],
) {
    let mut row = [s.lit(0.0); NRV];
    for (j, b_j) in row.iter_mut().enumerate() {
        // SAFETY: the caller promises `NRV` registers.
        *b_j = unsafe { s.load(b.add(j * S::LANES)) };
    }
    for (i, acc) in acc.iter_mut().enumerate() {
        // SAFETY: the caller promises `MR` numbers.
        let a_i = s.lit(f64::from(unsafe { *a.offset(i as isize * a_row) }));
        for (acc, b_j) in acc.iter_mut().zip(row) {
            *acc = s.fma(a_i, b_j, *acc);
        }
    }
}

/// The tile `t` of `MR` rows and `NRV` registers; `PACKED` when A is a panel.
///
/// Every element is one chain of fused multiply-adds in the order of k, whatever the tile's
/// shape: the blocking of m and n cannot change a bit of the result.
///
/// # Safety
/// A, B (rounded up to `NRV` registers a row) and C are readable, and C writable, as [`Tile`]
/// says; C overlaps neither A nor B.
#[inline(always)]
pub(crate) unsafe fn micro<S: Simd, const MR: usize, const NRV: usize, const PACKED: bool>(
    s: S,
    t: &Tile,
) {
    let (a_row, a_step) = if PACKED { (1, MR as isize) } else { (t.a_row, t.a_step) };
    let (b_step, mut a, mut b) = (t.b_step, t.a, t.b);
    let mut acc = [[s.lit(0.0); NRV]; MR];
    for i in 0..MR {
        for j in 0..NRV {
            prefetch(t.c.wrapping_offset(i as isize * t.c_row).wrapping_add(j * S::LANES));
        }
    }
    for _ in 0..t.k / 4 {
        for _ in 0..4 {
            // SAFETY: the caller promises `k` steps of A and B.
            unsafe { step::<S, MR, NRV>(s, a, a_row, b, &mut acc) };
            a = a.wrapping_offset(a_step);
            b = b.wrapping_offset(b_step);
        }
    }
    for _ in 0..t.k % 4 {
        // SAFETY: the caller promises `k` steps of A and B.
        unsafe { step::<S, MR, NRV>(s, a, a_row, b, &mut acc) };
        a = a.wrapping_offset(a_step);
        b = b.wrapping_offset(b_step);
    }
    // SAFETY: the caller promises C.
    unsafe { store::<S, MR, NRV>(s, t, acc) }
}

/// `C = alpha * acc + beta * C`.
///
/// # Safety
/// As [`micro`] of C.
#[allow(clippy::needless_range_loop, reason = "tiles are indexed, registers are fixed")]
#[inline(always)]
unsafe fn store<S: Simd, const MR: usize, const NRV: usize>(
    s: S,
    t: &Tile,
    mut acc: [[S::V; NRV]; MR],
) {
    let last = t.cols - (NRV - 1) * S::LANES;
    let whole = |j: usize| j + 1 < NRV || last == S::LANES;
    let at =
        |i: usize, j: usize| t.c.wrapping_offset(i as isize * t.c_row).wrapping_add(j * S::LANES);
    let (alpha, beta) = (s.lit(f64::from(t.alpha)), s.lit(f64::from(t.beta)));
    for i in 0..MR {
        for j in 0..NRV {
            acc[i][j] = s.mul(alpha, acc[i][j]);
        }
    }
    // All loads before the first store: rows of C whose distance is a multiple of 4096 bytes look
    // the same to the memory pipeline, and a load would wait for the store of the row before.
    if t.beta != 0.0 {
        for i in 0..MR {
            for j in 0..NRV {
                let p = at(i, j);
                // SAFETY: the caller promises this register of C, or its first `last` numbers.
                let old = unsafe { if whole(j) { s.load(p) } else { s.load_first(p, last) } };
                acc[i][j] = s.fma(beta, old, acc[i][j]);
            }
        }
    }
    for i in 0..MR {
        for j in 0..NRV {
            let (p, out) = (at(i, j), acc[i][j]);
            // SAFETY: the caller promises this register of C, or its first `last` numbers.
            unsafe { if whole(j) { s.store(p, out) } else { s.store_first(p, last, out) } }
        }
    }
}

/// A tile of fixed shape as work for an instruction set.
struct Call<'a, const MR: usize, const NRV: usize, const PACKED: bool>(&'a Tile);

impl<const MR: usize, const NRV: usize, const PACKED: bool> Kernel for Call<'_, MR, NRV, PACKED> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (rows, registers) = tile_shape(S::LANES);
        // Shapes beyond the instruction set's cost no code: `Plan::new` refuses them.
        if MR > rows || NRV > registers {
            unreachable!("a tile of {MR} rows and {NRV} registers of {} lanes", S::LANES);
        }
        // SAFETY: `TileFn`'s caller promises it.
        unsafe { micro::<S, MR, NRV, PACKED>(s, self.0) }
    }
}

/// Runs a tile.
///
/// # Safety
/// As [`micro`].
pub(super) type TileFn = unsafe fn(Isa, &Tile);

/// # Safety
/// As [`micro`].
unsafe fn call<const MR: usize, const NRV: usize, const PACKED: bool>(isa: Isa, tile: &Tile) {
    isa.run(Call::<MR, NRV, PACKED>(tile));
}

macro_rules! row {
    ($mr:literal, $packed:literal) => {
        [
            call::<$mr, 1, $packed>,
            call::<$mr, 2, $packed>,
            call::<$mr, 3, $packed>,
            call::<$mr, 4, $packed>,
        ]
    };
    ($($mr:literal)*) => {
        [$([row!($mr, false), row!($mr, true)]),*]
    };
}

/// By rows - 1, packed or not, registers - 1.
static TILES: [[[TileFn; MAX_REGISTERS]; 2]; MAX_ROWS] = row!(1 2 3 4 5 6 7 8 9 10 11 12 13 14);

/// Whether registers of so many lanes hold a tile.
pub(super) fn holds(lanes: usize, rows: usize, registers: usize) -> bool {
    let (most, widest) = tile_shape(lanes);
    (1..=most).contains(&rows) && (1..=widest).contains(&registers)
}

// Every tile that registers hold has a kernel.
const _: () = {
    let (mut i, all) = (0, [1, 4, 8, 16]);
    while i < all.len() {
        let (rows, registers) = tile_shape(all[i]);
        assert!(rows <= MAX_ROWS && registers <= MAX_REGISTERS);
        i += 1;
    }
};

/// The micro-kernel for tiles of `rows` x `registers`, with A packed or read where it is.
pub(super) fn tile_fn(rows: usize, registers: usize, packed: bool) -> TileFn {
    TILES[rows - 1][usize::from(packed)][registers - 1]
}
