//! Matrix products `C = epilogue(alpha A B + beta C)`: packed, cache-blocked, batched, for any
//! strides (the GotoBLAS scheme; Goto and van de Geijn 2008, Van Zee and van de Geijn 2015).
//!
//! [`gemm`] picks a path by shape: `thin` streams a B that few rows of A meet, `driver` packs
//! panels for the one micro-kernel of `micro`. Every path adds in an order that depends on the
//! shape, the strides and the instruction set alone, so that the number of threads changes no bit.

mod driver;
mod item;
pub(crate) mod micro;
pub(crate) mod pack;
mod plan;
mod table;
mod thin;

use crate::isa::Isa;
use crate::team;
use item::Items;
use starling_contract::Result;

/// A matrix that is read: element (i, j) at `ptr[i * row_stride + j * col_stride]`.
#[derive(Clone, Copy, Debug)]
pub struct Operand {
    /// Element (0, 0) of batch item 0, before the item's offset.
    pub ptr: *const f32,
    /// Distance of rows in numbers; 0 and negative are fine.
    pub row_stride: isize,
    /// Distance of columns in numbers; 0 and negative are fine.
    pub col_stride: isize,
}

/// The matrix that is written: element (i, j) at `ptr[i * row_stride + j * col_stride]`.
#[derive(Clone, Copy, Debug)]
pub struct OutOperand {
    /// Element (0, 0) of batch item 0, before the item's offset.
    pub ptr: *mut f32,
    /// Distance of rows in numbers.
    pub row_stride: isize,
    /// Distance of columns in numbers; 1 is fast.
    pub col_stride: isize,
}

/// What is done to finished blocks of C while they are in a cache.
pub trait TileEpilogue: Sync {
    /// Replaces the block of item `batch` whose corner is C(`row`, `col`): element (i, j) lies at
    /// `tile[i * row_stride + j]`. Every element of C is in exactly one block; blocks come in any
    /// order, from any thread.
    ///
    /// # Safety
    /// `rows` rows of `cols` numbers are readable and writable, and nobody else touches them.
    #[allow(clippy::too_many_arguments, reason = "called by one driver, written by few")]
    unsafe fn apply(
        &self,
        batch: usize,
        row: usize,
        col: usize,
        rows: usize,
        cols: usize,
        tile: *mut f32,
        row_stride: usize,
    );
}

/// `C = epilogue(alpha A B + beta C)` for each item of a batch; A is m x k, B k x n, C m x n.
#[derive(Clone, Copy)]
pub struct Gemm<'a> {
    /// Rows of A and C.
    pub m: usize,
    /// Columns of B and C.
    pub n: usize,
    /// Columns of A, rows of B. With `k == 0` the product is 0.
    pub k: usize,
    /// Number of items.
    pub batch: usize,
    /// A of item 0, offset by `a_batch[item]` numbers.
    pub a: Operand,
    /// B of item 0, offset by `b_batch[item]` numbers.
    pub b: Operand,
    /// C of item 0, offset by `c_batch[item]` numbers.
    pub c: OutOperand,
    /// One offset for each item.
    pub a_batch: &'a [isize],
    /// One offset for each item.
    pub b_batch: &'a [isize],
    /// One offset for each item.
    pub c_batch: &'a [isize],
    /// Factor of the product.
    pub alpha: f32,
    /// Factor of the old C, which is not read when this is 0.
    pub beta: f32,
    /// Applied last.
    pub epilogue: Option<&'a dyn TileEpilogue>,
}

// SAFETY: the pointers are only used by `gemm`, whose caller promises that they may be read (A, B)
// and written (C) from the team's threads while it runs.
unsafe impl Sync for Gemm<'_> {}

/// Runs a product on the current team; a small one on the calling thread alone.
///
/// # Errors
/// [`starling_contract::Error::Shape`] where the instruction set has no kernel for a tile.
///
/// # Safety
/// Every element of A and B is readable, every element of C writable (and, unless `beta` is 0,
/// readable), for every item; the elements of C are distinct and overlap neither A nor B; the
/// three lists of offsets hold `batch` entries.
pub unsafe fn gemm(isa: Isa, g: &Gemm<'_>) -> Result<()> {
    debug_assert!([g.a_batch, g.b_batch, g.c_batch].iter().all(|list| list.len() == g.batch));
    if g.m == 0 || g.n == 0 || g.batch == 0 {
        return Ok(());
    }
    let item_work = table::work(g.m, g.n, g.k);
    let threads = team::threads();
    let spread = threads > 1 && item_work * g.batch as f64 > table::PARALLEL_WORK;
    let by_item = g.batch >= 4 * threads || item_work < 2.0 * table::PARALLEL_WORK;
    if spread && g.batch > 1 && by_item {
        let items = Items::new(isa, g, 1)?;
        let each = ((table::TASK_WORK / item_work).ceil() as usize).clamp(1, g.batch);
        team::for_each(g.batch.div_ceil(each), |task| {
            for i in task * each..g.batch.min((task + 1) * each) {
                // SAFETY: item `i` of what the caller promises.
                unsafe { items.run(i) }
            }
        });
        return Ok(());
    }
    let items = Items::new(isa, g, if spread { threads } else { 1 })?;
    for i in 0..g.batch {
        // SAFETY: item `i` of what the caller promises.
        unsafe { items.run(i) }
    }
    Ok(())
}
