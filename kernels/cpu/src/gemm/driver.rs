//! The loops around the micro-kernel: jc over columns, pc over k, ic over rows, then panels.
//!
//! Two phases alternate, each a parallel loop: pack B (and A, when several tasks share its
//! blocks), then multiply. B is packed once for all tasks, A once for each block of rows.

use super::item::{Item, each};
use super::micro::{MAX_REGISTERS, MAX_ROWS, Tile, TileFn, tile_fn};
use super::pack::{Pack, Strip};
use super::plan::{PackA, Plan};
use crate::scratch::with_scratch;
use std::ops::Range;

/// Numbers of packed B and A that one pair of parallel phases works through.
const GROUP: usize = 1 << 20;
/// Panels that one task packs.
const PACK_PANELS: usize = 4;

/// What the first phase packs and the second reads.
struct Packed {
    /// The k-blocks of the group.
    ks: Range<usize>,
    /// The columns.
    js: Range<usize>,
    a: *mut f32,
    b: *mut f32,
}

// SAFETY: the first phase writes disjoint panels, the second one only reads.
unsafe impl Sync for Packed {}

impl Packed {
    /// The columns, with room for the last panel's padding.
    fn padded_cols(&self, lanes: usize) -> usize {
        self.js.len().next_multiple_of(lanes)
    }
}

/// A product through packed panels.
pub(super) struct Packing<'a> {
    pub item: &'a Item<'a>,
    pub plan: &'a Plan,
}

impl Packing<'_> {
    /// # Safety
    /// As [`Item::run`].
    pub(super) unsafe fn run(&self) {
        let plan = self.plan;
        let pack_b = if plan.pack_b {
            plan.nc.min(self.item.n.next_multiple_of(plan.table.lanes))
        } else {
            0
        };
        let pack_a = if plan.pack_a == PackA::Shared { self.item.m } else { 0 };
        let whole = self.item.k.next_multiple_of(plan.kc);
        let most = (GROUP / (pack_a + pack_b).max(1) / plan.kc).max(1) * plan.kc;
        let group = if self.item.threads == 1 { plan.kc } else { most.min(whole) }.max(1);
        with_scratch(group * (pack_a + pack_b), |scratch| {
            let b = scratch.as_mut_ptr();
            let a = b.wrapping_add(group * pack_b);
            for j in (0..self.item.n).step_by(plan.nc) {
                // One round even when k is 0: beta and the epilogue remain to be done.
                for k in (0..self.item.k.max(1)).step_by(group) {
                    let packed = Packed {
                        ks: k..self.item.k.min(k + group),
                        js: j..self.item.n.min(j + plan.nc),
                        a,
                        b,
                    };
                    // SAFETY: the scratch holds the group; the rest is the caller's promise.
                    unsafe { self.group(&packed) }
                }
            }
        });
    }

    /// Packs, then multiplies, some k-blocks of some columns.
    ///
    /// # Safety
    /// As [`Item::run`]; `packed` has room for the group.
    unsafe fn group(&self, packed: &Packed) {
        let plan = self.plan;
        let blocks_k = packed.ks.len().div_ceil(plan.kc);
        let chunk_b = if self.item.threads == 1 { plan.nc } else { PACK_PANELS * plan.table.nr };
        let chunk_a = PACK_PANELS * plan.panel;
        let chunks_b = if plan.pack_b { packed.js.len().div_ceil(chunk_b) } else { 0 };
        let chunks_a = if plan.pack_a == PackA::Shared { self.item.m.div_ceil(chunk_a) } else { 0 };
        let chunks = chunks_a + chunks_b;
        each(self.item.threads, blocks_k * chunks, |task| {
            let (block, chunk) = (task / chunks, task % chunks);
            let start = packed.ks.start + block * plan.kc;
            let ks = start..packed.ks.end.min(start + plan.kc);
            // SAFETY: each task has a chunk of its own.
            unsafe {
                if chunk < chunks_b {
                    self.pack_b(packed, ks, chunk * chunk_b, chunk_b);
                } else {
                    let first = (chunk - chunks_b) * chunk_a;
                    let rows = first..self.item.m.min(first + chunk_a);
                    let dst =
                        packed.a.add((ks.start - packed.ks.start) * self.item.m + first * ks.len());
                    self.pack_a(rows, ks, dst);
                }
            }
        });
        let tasks_n = packed.js.len().div_ceil(plan.nc_task);
        each(self.item.threads, self.item.m.div_ceil(plan.mc) * tasks_n, |task| {
            let (i, j) = (task / tasks_n * plan.mc, task % tasks_n * plan.nc_task);
            let rows = i..self.item.m.min(i + plan.mc);
            let j = packed.js.start + j;
            let cols = j..packed.js.end.min(j + plan.nc_task);
            // SAFETY: each task has a block of C of its own.
            unsafe { self.task(packed, rows, cols) }
        });
    }

    /// Packs columns `first .. first + count` (from the block's start) of B's rows `ks`.
    ///
    /// # Safety
    /// As [`Packing::group`], and nobody else packs them.
    unsafe fn pack_b(&self, packed: &Packed, ks: Range<usize>, first: usize, count: usize) {
        let lanes = self.plan.table.lanes;
        let at = self.item.b.col_stride * (packed.js.start + first) as isize
            + self.item.b.row_stride * ks.start as isize;
        let block = (ks.start - packed.ks.start) * packed.padded_cols(lanes);
        self.item.isa.run(Pack {
            strip: Strip {
                src: self.item.b.ptr.wrapping_offset(at),
                across: self.item.b.col_stride,
                along: self.item.b.row_stride,
                count: count.min(packed.js.len() - first),
                width: self.plan.table.nr,
                k: ks.len(),
                dst: packed.b.wrapping_add(block + first * ks.len()),
            },
            pad: lanes,
        });
    }

    /// Packs `rows` x `ks` of A into `dst`.
    ///
    /// # Safety
    /// As [`Packing::group`], and `dst` has room.
    unsafe fn pack_a(&self, rows: Range<usize>, ks: Range<usize>, dst: *mut f32) {
        let at = self.item.a.row_stride * rows.start as isize
            + self.item.a.col_stride * ks.start as isize;
        self.item.isa.run(Pack {
            strip: Strip {
                src: self.item.a.ptr.wrapping_offset(at),
                across: self.item.a.row_stride,
                along: self.item.a.col_stride,
                count: rows.len(),
                width: self.plan.panel,
                k: ks.len(),
                dst,
            },
            pad: 1,
        });
    }

    /// All k-blocks of a group for one block of C.
    ///
    /// # Safety
    /// As [`Packing::group`], after its first phase; nobody else touches this block of C.
    unsafe fn task(&self, packed: &Packed, rows: Range<usize>, cols: Range<usize>) {
        let plan = self.plan;
        let own = if plan.pack_a == PackA::ByTask { rows.len() * plan.kc } else { 0 };
        with_scratch(own, |scratch| {
            let own = scratch.as_mut_ptr();
            for k in (packed.ks.start..packed.ks.end.max(packed.ks.start + 1)).step_by(plan.kc) {
                let ks = k..packed.ks.end.min(k + plan.kc);
                let before = ks.start - packed.ks.start;
                let a = match plan.pack_a {
                    PackA::Never => std::ptr::null(),
                    PackA::ByTask => {
                        // SAFETY: `own` holds rows x kc numbers.
                        unsafe { self.pack_a(rows.clone(), ks.clone(), own) };
                        own.cast_const()
                    }
                    PackA::Shared => packed
                        .a
                        .wrapping_add(before * self.item.m + rows.start * ks.len())
                        .cast_const(),
                };
                let first = cols.start - packed.js.start;
                let b = before * packed.padded_cols(plan.table.lanes) + first * ks.len();
                let panels = Panels { a, b: packed.b.wrapping_add(b).cast_const(), ks };
                // SAFETY: the panels were packed above and in the first phase.
                unsafe { self.multiply(&panels, rows.clone(), cols.clone()) }
            }
        });
    }
}

/// One k-block of a task's packed operands.
struct Panels {
    a: *const f32,
    b: *const f32,
    ks: Range<usize>,
}

impl Packing<'_> {
    /// The tiles of a block of C for one k-block; the epilogue after the last.
    ///
    /// # Safety
    /// As [`Packing::task`]; `panels` belong to these rows and columns.
    unsafe fn multiply(&self, panels: &Panels, rows: Range<usize>, cols: Range<usize>) {
        let (table, panel) = (&self.plan.table, self.plan.panel);
        let (k, last) = (panels.ks.len(), panels.ks.end == self.item.k);
        let packed_a = self.plan.pack_a != PackA::Never;
        let mut finished = cols.start;
        for j in cols.clone().step_by(table.nr) {
            let width = table.nr.min(cols.end - j);
            let registers = width.div_ceil(table.lanes);
            let whole = tile_fn(panel, registers, packed_a);
            let mut tile = Tile {
                k,
                a: panels.a,
                a_row: self.item.a.row_stride,
                a_step: self.item.a.col_stride,
                b: panels.b.wrapping_add((j - cols.start) * k),
                b_step: (registers * table.lanes) as isize,
                c: self.item.c_at(rows.start, j),
                c_row: self.item.c.row_stride,
                cols: width,
                alpha: self.item.alpha,
                beta: if panels.ks.start == 0 { self.item.beta } else { 1.0 },
            };
            if !self.plan.pack_b {
                let at = self.item.b.row_stride * panels.ks.start as isize + j as isize;
                tile.b = self.item.b.ptr.wrapping_offset(at);
                tile.b_step = self.item.b.row_stride;
            }
            for i in rows.clone().step_by(panel) {
                let height = panel.min(rows.end - i);
                tile.c = self.item.c_at(i, j);
                tile.a = if packed_a {
                    panels.a.wrapping_add((i - rows.start) * k)
                } else {
                    let at = self.item.a.col_stride * panels.ks.start as isize;
                    self.item.a.ptr.wrapping_offset(self.item.a.row_stride * i as isize + at)
                };
                let run =
                    if height == panel { whole } else { tile_fn(height, registers, packed_a) };
                // SAFETY: the tile lies in this task's block; a packed B is padded to registers,
                // and one that is read where it is has whole registers of columns.
                unsafe {
                    if self.item.c.col_stride == 1 {
                        run(self.item.isa, &tile);
                    } else {
                        self.scattered(run, tile, height);
                    }
                }
            }
            let end = j + width;
            if last && ((end - cols.start).is_multiple_of(self.plan.finish) || end == cols.end) {
                // SAFETY: these columns of the task's block are finished.
                unsafe { self.item.finish(rows.clone(), finished..end) }
                finished = end;
            }
        }
    }

    /// A tile of a C whose columns are not adjacent, through a copy.
    ///
    /// # Safety
    /// As [`Packing::multiply`]; `run` has `height` rows.
    unsafe fn scattered(&self, run: TileFn, tile: Tile, height: usize) {
        const WIDTH: usize = MAX_REGISTERS * 16;
        let mut copy = [0.0f32; MAX_ROWS * WIDTH];
        let own = Tile { c: copy.as_mut_ptr(), c_row: WIDTH as isize, beta: 0.0, ..tile };
        // SAFETY: the copy holds the highest and widest tile; the rest is the caller's promise.
        unsafe { run(self.item.isa, &own) };
        for i in 0..height {
            for j in 0..tile.cols {
                let at = self.item.c.row_stride * i as isize + self.item.c.col_stride * j as isize;
                let p = tile.c.wrapping_offset(at);
                let x = copy[i * WIDTH + j];
                // SAFETY: an element of the tile; C is read only when beta is not 0.
                unsafe { *p = if tile.beta == 0.0 { x } else { tile.beta.mul_add(*p, x) } }
            }
        }
    }
}
