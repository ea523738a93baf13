//! One item of a batch: its operands, its threads and its epilogue.

use super::driver::Packing;
use super::plan::Plan;
use super::thin::Thin;
use super::{Gemm, Operand, OutOperand, TileEpilogue};
use crate::isa::Isa;
use crate::scratch::with_scratch;
use crate::team;
use starling_contract::Result;
use std::ops::Range;

/// One item of a batch.
#[derive(Clone, Copy)]
pub(super) struct Item<'a> {
    pub isa: Isa,
    pub m: usize,
    pub n: usize,
    pub k: usize,
    pub a: Operand,
    pub b: Operand,
    pub c: OutOperand,
    pub alpha: f32,
    pub beta: f32,
    /// 1: everything on the calling thread.
    pub threads: usize,
    /// With the item's index.
    epilogue: Option<(&'a dyn TileEpilogue, usize)>,
}

// SAFETY: as `Gemm`.
unsafe impl Sync for Item<'_> {}

/// Calls `task` for each number below `count`, on the team when there are threads for it.
pub(super) fn each(threads: usize, count: usize, task: impl Fn(usize) + Sync) {
    if threads == 1 {
        (0..count).for_each(task);
    } else {
        team::for_each(count, task);
    }
}

/// All items of a batch, in parallel or one after the other.
pub(super) struct Items<'a> {
    g: &'a Gemm<'a>,
    first: Item<'a>,
    route: Route,
}

impl<'a> Items<'a> {
    /// So many threads work on each item.
    ///
    /// # Errors
    /// As [`Plan::new`].
    pub(super) fn new(isa: Isa, g: &'a Gemm<'a>, threads: usize) -> Result<Items<'a>> {
        let first = Item::new(isa, g, threads);
        Ok(Items { g, first, route: first.route()? })
    }

    /// Computes item `index`.
    ///
    /// # Safety
    /// As [`super::gemm`] for this item; m and n are not 0.
    pub(super) unsafe fn run(&self, index: usize) {
        // SAFETY: the caller's promise is handed on.
        unsafe { self.first.at(self.g, index).run(&self.route) }
    }
}

/// How an item is computed; the same for all items of a batch.
#[derive(Clone, Copy, Debug)]
enum Route {
    Thin { transposed: bool },
    Packed { transposed: bool, plan: Plan },
}

impl<'a> Item<'a> {
    /// A batch's items, on so many threads each; [`Item::run`] takes the index.
    pub(super) fn new(isa: Isa, g: &'a Gemm<'a>, threads: usize) -> Item<'a> {
        let mut item = Item {
            isa,
            m: g.m,
            n: g.n,
            k: g.k,
            a: g.a,
            b: g.b,
            c: g.c,
            alpha: g.alpha,
            beta: g.beta,
            threads,
            epilogue: g.epilogue.map(|epilogue| (epilogue, 0)),
        };
        if item.n == 1 {
            item.c.col_stride = 1;
        }
        item
    }

    /// Item `index` of the batch.
    fn at(&self, g: &Gemm<'_>, index: usize) -> Item<'a> {
        let a = Operand { ptr: g.a.ptr.wrapping_offset(g.a_batch[index]), ..self.a };
        let b = Operand { ptr: g.b.ptr.wrapping_offset(g.b_batch[index]), ..self.b };
        let c = OutOperand { ptr: g.c.ptr.wrapping_offset(g.c_batch[index]), ..self.c };
        Item { a, b, c, epilogue: self.epilogue.map(|(epilogue, _)| (epilogue, index)), ..*self }
    }

    /// `C^T = B^T A^T`.
    fn transposed(&self) -> Item<'a> {
        let turn = |x: Operand| Operand { row_stride: x.col_stride, col_stride: x.row_stride, ..x };
        let (row_stride, col_stride) = (self.c.col_stride, self.c.row_stride);
        Item {
            m: self.n,
            n: self.m,
            a: turn(self.b),
            b: turn(self.a),
            c: OutOperand { row_stride, col_stride, ..self.c },
            ..*self
        }
    }

    pub(super) fn has_epilogue(&self) -> bool {
        self.epilogue.is_some()
    }

    fn route(&self) -> Result<Route> {
        let turned = self.transposed();
        if Thin::takes(self) {
            return Ok(Route::Thin { transposed: false });
        }
        if Thin::takes(&turned) {
            return Ok(Route::Thin { transposed: true });
        }
        // The micro-kernel wants adjacent columns; an epilogue wants rows as they are.
        let transposed =
            self.c.col_stride != 1 && self.c.row_stride == 1 && self.epilogue.is_none();
        let plan = Plan::new(if transposed { &turned } else { self })?;
        Ok(Route::Packed { transposed, plan })
    }

    /// Computes the item.
    ///
    /// # Safety
    /// As [`super::gemm`] for this item; m and n are not 0.
    unsafe fn run(&self, route: &Route) {
        // SAFETY: the caller's promise is handed on.
        unsafe {
            match *route {
                Route::Thin { transposed: false } => Thin::new(self, None).run(),
                Route::Thin { transposed: true } => {
                    Thin::new(&self.transposed(), Some(self)).run();
                }
                Route::Packed { transposed: false, ref plan } => {
                    Packing { item: self, plan }.run();
                }
                Route::Packed { transposed: true, ref plan } => {
                    Packing { item: &self.transposed(), plan }.run();
                }
            }
        }
    }

    /// C(i, j).
    pub(super) fn c_at(&self, i: usize, j: usize) -> *mut f32 {
        let at = self.c.row_stride * i as isize + self.c.col_stride * j as isize;
        self.c.ptr.wrapping_offset(at)
    }

    /// Applies the epilogue to finished elements of C.
    ///
    /// # Safety
    /// The elements are final, and nobody else touches them.
    pub(super) unsafe fn finish(&self, rows: Range<usize>, cols: Range<usize>) {
        let Some((epilogue, batch)) = self.epilogue else { return };
        let (i, j, height, width) = (rows.start, cols.start, rows.len(), cols.len());
        let adjacent = self.c.col_stride == 1 && (self.c.row_stride >= 0 || height == 1);
        if adjacent {
            let row_stride = if height == 1 { width } else { self.c.row_stride as usize };
            // SAFETY: this block of C belongs to the caller.
            unsafe { epilogue.apply(batch, i, j, height, width, self.c_at(i, j), row_stride) };
            return;
        }
        with_scratch(height * width, |copy| {
            let at = |e: usize| self.c_at(i + e / width, j + e % width);
            for (e, x) in copy.iter_mut().enumerate() {
                // SAFETY: an element of the caller's block.
                *x = unsafe { *at(e) };
            }
            // SAFETY: the copy is `height` rows of `width` numbers.
            unsafe { epilogue.apply(batch, i, j, height, width, copy.as_mut_ptr(), width) };
            for (e, x) in copy.iter().enumerate() {
                // SAFETY: an element of the caller's block.
                unsafe { *at(e) = *x };
            }
        });
    }
}
