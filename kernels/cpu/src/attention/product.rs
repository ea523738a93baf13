//! Products of blocks that lie in the L1 and L2 caches: `C (+)= A B` with a band of `A` or `C` left
//! out.
//!
//! Attention multiplies small blocks that are used once or twice, so nothing is packed twice: `A`
//! is read by broadcasts, which may have any strides (a transposed `A` costs nothing), and `B` by
//! vectors along its rows.

use crate::gemm::micro::step;
use crate::isa::Kernel;
use crate::simd::Simd;

/// Most vectors of one tile's row.
const MAX_VECTORS: usize = 4;

/// Vectors of a tile's row: what leaves registers for `B` and a broadcast.
pub const fn tile_vectors(lanes: usize) -> usize {
    // AVX2 is the set with only 16 registers.
    if lanes == 8 { 2 } else { MAX_VECTORS }
}

/// Columns of the panels that the transposed keys and values are packed in.
pub const fn panel_columns(lanes: usize) -> usize {
    tile_vectors(lanes) * lanes
}

/// What a tile of `C` starts from.
#[derive(Clone, Copy)]
pub enum Start {
    /// Zeros.
    Zero,
    /// The old value.
    Old,
    /// The old value times a factor per row.
    Scaled(*const f32),
}

/// Which part of the product is needed. Row `i` of the scores counts `i + o` keys.
#[derive(Clone, Copy)]
pub enum Band {
    /// All of it.
    Full,
    /// Row `i` of `C` needs the columns below `i + o`; the others are not written.
    Columns(isize),
    /// Row `i` of `A` is zero from column `i + o`.
    DepthEnd(isize),
    /// Row `j` of `A`, whose columns are the scores' rows, is zero before the first column `i` with
    /// `i + o > j`.
    DepthBegin(isize),
}

/// `C (+)= A B`; strides in elements, `n` rounded up to whole vectors.
#[derive(Clone, Copy)]
pub struct Product {
    pub m: usize,
    pub n: usize,
    pub k: usize,
    pub a: *const f32,
    pub a_row: usize,
    pub a_col: usize,
    pub b: *const f32,
    pub b_row: usize,
    /// Distance of `B`'s panels of [`panel_columns`]; `None` for plain rows.
    pub b_panel: Option<usize>,
    pub c: *mut f32,
    pub c_row: usize,
    pub start: Start,
    pub band: Band,
}

/// Runs a [`Product`].
pub struct Run(Product);

impl Product {
    /// The product as a kernel.
    ///
    /// # Safety
    /// While it runs, `A` and `B` are readable and `C` is readable and writable for the whole
    /// vectors of its rows.
    pub unsafe fn kernel(self) -> Run {
        Run(self)
    }
}

/// Runs a [`Product`] row by row.
pub struct RunOfSeen(Product);

impl Product {
    /// The product as a kernel in which an element of `A` that is 0 counts nothing, even where what
    /// it multiplies is infinite or NaN. Several times slower than [`Product::kernel`].
    ///
    /// # Safety
    /// As [`Product::kernel`]; `B` has no panels.
    pub unsafe fn kernel_of_seen(self) -> RunOfSeen {
        RunOfSeen(self)
    }
}

impl Kernel for RunOfSeen {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let p = &self.0;
        debug_assert!(p.b_panel.is_none(), "kernel_of_seen");
        for i in 0..p.m {
            let (mut from, mut to) = (0, p.k);
            match p.band {
                Band::Full | Band::Columns(_) => {}
                Band::DepthEnd(o) => to = to.min((i as isize + o).max(0) as usize),
                Band::DepthBegin(o) => from = to.min((i as isize + 1 - o).max(0) as usize),
            }
            // SAFETY: `Product::kernel_of_seen` made its caller promise that the blocks are valid.
            unsafe { seen_row(s, p, i, from..to) }
        }
    }
}

/// Row `i` of `C`, from the elements `depth` of the row of `A` that are not 0.
///
/// # Safety
/// As [`Product::kernel_of_seen`].
#[inline(always)]
unsafe fn seen_row<S: Simd>(s: S, p: &Product, i: usize, depth: std::ops::Range<usize>) {
    // SAFETY: as the caller promises.
    unsafe {
        let row = p.c.add(i * p.c_row);
        for c in (0..p.n).step_by(S::LANES) {
            let at = row.add(c);
            match p.start {
                Start::Zero => s.store(at, s.lit(0.0)),
                Start::Old => {}
                Start::Scaled(f) => s.store(at, s.mul(s.load(at), splat(s, *f.add(i)))),
            }
        }
        for k in depth {
            let a = *p.a.add(i * p.a_row + k * p.a_col);
            if a == 0.0 {
                continue;
            }
            let (a, b) = (splat(s, a), p.b.add(k * p.b_row));
            for c in (0..p.n).step_by(S::LANES) {
                let at = row.add(c);
                s.store(at, s.fma(a, s.load(b.add(c)), s.load(at)));
            }
        }
    }
}

/// Whether some of `rows` rows, `width` numbers apart and as long, is infinite or NaN.
pub struct AnyNotFinite {
    pub at: *const f32,
    pub rows: usize,
    /// A whole number of vectors.
    pub width: usize,
}

/// Runs [`AnyNotFinite`].
pub struct Search(AnyNotFinite);

impl AnyNotFinite {
    /// The search as a kernel.
    ///
    /// # Safety
    /// While it runs, `rows * width` numbers are readable.
    pub unsafe fn kernel(self) -> Search {
        Search(self)
    }
}

impl Kernel for Search {
    type Out = bool;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> bool {
        let AnyNotFinite { at, rows, width } = self.0;
        let (zero, mut sum) = (s.lit(0.0), s.lit(0.0));
        for i in (0..rows * width).step_by(S::LANES) {
            // 0 times what is finite is 0, and NaN else.
            // SAFETY: `AnyNotFinite::kernel` made its caller promise so many numbers.
            sum = unsafe { s.fma(s.load(at.add(i)), zero, sum) };
        }
        s.sum(sum).is_nan()
    }
}

impl Kernel for Run {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        // SAFETY: `Product::kernel` made its caller promise that the blocks are valid.
        unsafe { panels(s, &self.0) }
    }
}

/// Rows of a tile of `vectors` vectors a row: as many accumulators as leave registers for a row of
/// `B` and one broadcast.
#[inline(always)]
const fn tile_rows(lanes: usize, vectors: usize) -> usize {
    match (lanes, vectors) {
        (8, 2) => 6,
        (_, 4) => 6,
        _ => 8,
    }
}

// Every tile that registers hold has a kernel: an arm in `place_tile` and in `Tile::rows`.
const _: () = {
    let (mut i, all) = (0, [1, 4, 8, 16]);
    while i < all.len() {
        let mut vectors = 1;
        while vectors <= tile_vectors(all[i]) {
            assert!(vectors <= MAX_VECTORS && tile_rows(all[i], vectors) <= 8);
            vectors += 1;
        }
        i += 1;
    }
};

/// The product panel by panel, each from the first row to the last.
///
/// # Safety
/// As [`Product::kernel`].
#[inline(always)]
unsafe fn panels<S: Simd>(s: S, p: &Product) {
    let vectors = p.n.div_ceil(S::LANES);
    let widest = tile_vectors(S::LANES);
    // Panels of equal width: 3 + 2 vectors keep more accumulators busy than 4 + 1.
    let plain = vectors.div_ceil(vectors.div_ceil(widest).max(1));
    let plain = plain * S::LANES;
    let (columns, step) = p.b_panel.map_or((plain, plain), |step| (panel_columns(S::LANES), step));
    let mut col = 0;
    let mut b = p.b;
    while col < p.n {
        let nv = (vectors - col / S::LANES).min(columns / S::LANES);
        let most = tile_rows(S::LANES, nv);
        for i in (0..p.m).step_by(most) {
            // SAFETY: the panel starts below `n` and the rows end at `m`: inside the blocks.
            unsafe { place_tile(s, p, b, (i, col), (most.min(p.m - i), nv)) }
        }
        b = b.wrapping_add(step);
        col += columns;
    }
}

/// The tile of `mr` rows and at most `nv` vectors at row `i` and column `col`, less what the band
/// leaves out.
///
/// # Safety
/// As [`Product::kernel`]; the tile lies inside the blocks.
#[inline(always)]
unsafe fn place_tile<S: Simd>(
    s: S,
    p: &Product,
    b: *const f32,
    (i, col): (usize, usize),
    (mr, nv): (usize, usize),
) {
    let reach = |o: isize| (i as isize + mr as isize - 1 + o).max(0) as usize;
    let (mut nv, mut from, mut to) = (nv, 0, p.k);
    match p.band {
        Band::Full => {}
        Band::Columns(o) if reach(o) <= col => return,
        Band::Columns(o) => nv = nv.min((reach(o) - col).div_ceil(S::LANES)),
        Band::DepthEnd(o) => to = to.min(reach(o)),
        Band::DepthBegin(o) => from = to.min((i as isize + 1 - o).max(0) as usize),
    }
    // SAFETY: rows `i .. i + mr`, `nv` vectors from `col` and the depth `from .. to` lie inside
    // the blocks.
    unsafe {
        let tile = Tile {
            a: p.a.add(i * p.a_row + from * p.a_col),
            a_row: p.a_row,
            a_col: p.a_col,
            b: b.add(from * p.b_row),
            b_row: p.b_row,
            c: p.c.add(i * p.c_row + col),
            c_row: p.c_row,
            k: to - from,
            start: match p.start {
                Start::Scaled(f) => Start::Scaled(f.add(i)),
                other => other,
            },
        };
        match nv {
            1 => tile.rows::<S, 1>(s, mr),
            2 => tile.rows::<S, 2>(s, mr),
            3 => tile.rows::<S, 3>(s, mr),
            _ => tile.rows::<S, 4>(s, mr),
        }
    }
}

struct Tile {
    a: *const f32,
    a_row: usize,
    a_col: usize,
    b: *const f32,
    b_row: usize,
    c: *mut f32,
    c_row: usize,
    k: usize,
    start: Start,
}

impl Tile {
    /// # Safety
    /// As [`Tile::run`]; `mr` and `NV` are not above what the instruction set's registers hold.
    #[inline(always)]
    unsafe fn rows<S: Simd, const NV: usize>(self, s: S, mr: usize) {
        // SAFETY: as the caller promises.
        unsafe {
            match mr {
                1 => self.run::<S, 1, NV>(s),
                2 => self.run::<S, 2, NV>(s),
                3 => self.run::<S, 3, NV>(s),
                4 => self.run::<S, 4, NV>(s),
                5 => self.run::<S, 5, NV>(s),
                6 => self.run::<S, 6, NV>(s),
                7 => self.run::<S, 7, NV>(s),
                _ => self.run::<S, 8, NV>(s),
            }
        }
    }

    /// The micro-kernel: `MR` rows by `NV` vectors of accumulators.
    ///
    /// # Safety
    /// `MR` rows and `NV` vectors of `C`, `MR` rows of `A` and `NV` vectors of `B` are valid over
    /// the depth `k`.
    #[inline(always)]
    unsafe fn run<S: Simd, const MR: usize, const NV: usize>(self, s: S) {
        // Tiles that are never asked for cost no code: `panels` cuts by these two.
        if NV > tile_vectors(S::LANES) || MR > tile_rows(S::LANES, NV) {
            unreachable!("a tile of {MR} rows and {NV} vectors of {} lanes", S::LANES);
        }
        let mut acc = [[s.lit(0.0); NV]; MR];
        // SAFETY: the caller promises `MR` rows and `NV` vectors of `C`, `MR` rows of `A` and
        // `NV` vectors of `B` over the depth `k`.
        unsafe {
            if !matches!(self.start, Start::Zero) {
                for (r, row) in acc.iter_mut().enumerate() {
                    for (v, x) in row.iter_mut().enumerate() {
                        *x = s.load(self.c.add(r * self.c_row + v * S::LANES));
                    }
                }
            }
            if let Start::Scaled(factors) = self.start {
                for (r, row) in acc.iter_mut().enumerate() {
                    let f = splat(s, *factors.add(r));
                    for x in row.iter_mut() {
                        *x = s.mul(*x, f);
                    }
                }
            }
            let (mut a, mut b) = (self.a, self.b);
            let a_row = self.a_row as isize;
            for _ in 0..self.k {
                step::<S, MR, NV>(s, a, a_row, b, &mut acc);
                a = a.wrapping_add(self.a_col);
                b = b.wrapping_add(self.b_row);
            }
            for (r, row) in acc.iter().enumerate() {
                for (v, x) in row.iter().enumerate() {
                    s.store(self.c.add(r * self.c_row + v * S::LANES), *x);
                }
            }
        }
    }
}

/// `x` in every lane.
#[inline(always)]
pub fn splat<S: Simd>(s: S, x: f32) -> S::V {
    s.lit(x.into())
}
