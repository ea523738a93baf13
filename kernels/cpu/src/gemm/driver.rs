//! The loops around the micro-kernel: jc over columns, pc over k, ic over rows, then panels.
//!
//! Two phases alternate, each a parallel loop: pack B (and A, when several tasks share its
//! blocks), then multiply. B is packed once for all tasks, A once for each block of rows.

use super::micro::{MAX_REGISTERS, MAX_ROWS, Tile, tile_fn};
use super::pack::{Pack, Strip};
use super::table::Blocking;
use super::{Gemm, Operand, OutOperand, TileEpilogue};
use crate::isa::Isa;
use crate::scratch::with_scratch;
use rayon::prelude::*;
use std::ops::Range;

/// Numbers of packed B and A that one pair of parallel phases works through.
const GROUP: usize = 1 << 20;
/// Panels that one task packs.
const PACK_PANELS: usize = 4;

/// One item of a batch, and how it is cut.
struct Item<'a> {
    isa: Isa,
    m: usize,
    n: usize,
    k: usize,
    a: Operand,
    b: Operand,
    c: OutOperand,
    alpha: f32,
    beta: f32,
    epilogue: Option<(&'a dyn TileEpilogue, usize)>,
    plan: Plan,
}

// SAFETY: as `Gemm`.
unsafe impl Sync for Item<'_> {}

/// How an item is cut.
#[derive(Clone, Copy, Debug)]
struct Plan {
    table: Blocking,
    threads: usize,
    /// Height of A's panels.
    panel: usize,
    /// Length of k-blocks.
    kc: usize,
    /// Rows of a task: a multiple of `panel`.
    mc: usize,
    /// Columns of a task: a multiple of the tile's width.
    nc_task: usize,
    /// Columns of the packed B: a multiple of `nc_task`.
    nc: usize,
    pack_a: PackA,
    pack_b: bool,
}

/// Who packs A.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PackA {
    /// Nobody: the micro-kernel reads A where it is.
    Never,
    /// Each task its own block.
    ByTask,
    /// All blocks of a group in the first phase.
    Shared,
}

impl Plan {
    fn new(isa: Isa, g: &Gemm<'_>, threads: usize) -> Plan {
        let table = Blocking::of(isa);
        let (m, n, k) = (g.m, g.n, g.k);
        let panel = table.panel_rows(m);
        let (panels_m, panels_n) = (m.div_ceil(panel), n.div_ceil(table.nr));
        let most = (table.mc / panel).max(1);
        let mut blocks_m = panels_m.div_ceil(most);
        let mut blocks_n = 1;
        let wanted = if threads == 1 { 1 } else { 4 * threads };
        if blocks_m < wanted {
            // Shorter blocks, but at least 4 panels; then narrower ones, at least 2.
            blocks_m = wanted.min(panels_m.div_ceil(4)).max(blocks_m);
            blocks_n = wanted.div_ceil(blocks_m).min(panels_n.div_ceil(2));
        }
        let nc_whole = n.min(table.nc);
        let nc_task = nc_whole.div_ceil(blocks_n).next_multiple_of(table.nr);
        let direct_b = g.b.col_stride == 1
            && n.is_multiple_of(table.lanes)
            && (m <= 2 * table.mr || k * n <= 6 * 1024);
        let direct_a = n <= 2 * table.nr;
        Plan {
            table,
            threads,
            panel,
            kc: table.k_block(k),
            mc: panels_m.div_ceil(blocks_m) * panel,
            nc_task,
            nc: nc_task * nc_whole.div_ceil(nc_task),
            pack_a: match (direct_a, blocks_n) {
                (true, _) => PackA::Never,
                (false, 1) => PackA::ByTask,
                (false, _) => PackA::Shared,
            },
            pack_b: !direct_b,
        }
    }
}

/// Calls `task` for each number below `count`, on the pool when there are threads for it.
fn each(threads: usize, count: usize, task: impl Fn(usize) + Send + Sync) {
    if threads == 1 || count == 1 {
        (0..count).for_each(task);
    } else {
        (0..count).into_par_iter().for_each(task);
    }
}

/// Item `index` of the batch, on so many threads.
///
/// # Safety
/// As [`super::gemm`] for this item; m and n are not 0.
pub(super) unsafe fn item(isa: Isa, g: &Gemm<'_>, index: usize, threads: usize) {
    let mut item = Item {
        isa,
        m: g.m,
        n: g.n,
        k: g.k,
        a: Operand { ptr: g.a.ptr.wrapping_offset(g.a_batch[index]), ..g.a },
        b: Operand { ptr: g.b.ptr.wrapping_offset(g.b_batch[index]), ..g.b },
        c: OutOperand { ptr: g.c.ptr.wrapping_offset(g.c_batch[index]), ..g.c },
        alpha: g.alpha,
        beta: g.beta,
        epilogue: g.epilogue.map(|epilogue| (epilogue, index)),
        plan: Plan::new(isa, g, threads),
    };
    if item.n == 1 {
        item.c.col_stride = 1;
    }
    // SAFETY: the caller's promise is handed on.
    unsafe { item.run() }
}

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

impl Item<'_> {
    /// # Safety
    /// As [`item`].
    unsafe fn run(&self) {
        let plan = &self.plan;
        let pack_b =
            if plan.pack_b { plan.nc.min(self.n.next_multiple_of(plan.table.lanes)) } else { 0 };
        let pack_a = if plan.pack_a == PackA::Shared { self.m } else { 0 };
        let whole = self.k.next_multiple_of(plan.kc);
        let most = (GROUP / (pack_a + pack_b).max(1) / plan.kc).max(1) * plan.kc;
        let group = if plan.threads == 1 { plan.kc } else { most.min(whole) }.max(1);
        with_scratch(group * (pack_a + pack_b), |scratch| {
            let b = scratch.as_mut_ptr();
            let a = b.wrapping_add(group * pack_b);
            for j in (0..self.n).step_by(plan.nc) {
                // One round even when k is 0: beta and the epilogue remain to be done.
                for k in (0..self.k.max(1)).step_by(group) {
                    let packed = Packed {
                        ks: k..self.k.min(k + group),
                        js: j..self.n.min(j + plan.nc),
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
    /// As [`item`]; `packed` has room for the group.
    unsafe fn group(&self, packed: &Packed) {
        let plan = &self.plan;
        let blocks_k = packed.ks.len().div_ceil(plan.kc);
        let chunk_b = if plan.threads == 1 { plan.nc } else { PACK_PANELS * plan.table.nr };
        let chunk_a = PACK_PANELS * plan.panel;
        let chunks_b = if plan.pack_b { packed.js.len().div_ceil(chunk_b) } else { 0 };
        let chunks_a = if plan.pack_a == PackA::Shared { self.m.div_ceil(chunk_a) } else { 0 };
        let chunks = chunks_a + chunks_b;
        each(plan.threads, blocks_k * chunks, |task| {
            let (block, chunk) = (task / chunks, task % chunks);
            let start = packed.ks.start + block * plan.kc;
            let ks = start..packed.ks.end.min(start + plan.kc);
            // SAFETY: each task has a chunk of its own.
            unsafe {
                if chunk < chunks_b {
                    self.pack_b(packed, ks, chunk * chunk_b, chunk_b);
                } else {
                    let first = (chunk - chunks_b) * chunk_a;
                    let rows = first..self.m.min(first + chunk_a);
                    let dst =
                        packed.a.add((ks.start - packed.ks.start) * self.m + first * ks.len());
                    self.pack_a(rows, ks, dst);
                }
            }
        });
        let tasks_n = packed.js.len().div_ceil(plan.nc_task);
        each(plan.threads, self.m.div_ceil(plan.mc) * tasks_n, |task| {
            let (i, j) = (task / tasks_n * plan.mc, task % tasks_n * plan.nc_task);
            let rows = i..self.m.min(i + plan.mc);
            let j = packed.js.start + j;
            let cols = j..packed.js.end.min(j + plan.nc_task);
            // SAFETY: each task has a block of C of its own.
            unsafe { self.task(packed, rows, cols) }
        });
    }

    /// Packs columns `first .. first + count` (from the block's start) of B's rows `ks`.
    ///
    /// # Safety
    /// As [`Item::group`], and nobody else packs them.
    unsafe fn pack_b(&self, packed: &Packed, ks: Range<usize>, first: usize, count: usize) {
        let lanes = self.plan.table.lanes;
        let at = self.b.col_stride * (packed.js.start + first) as isize
            + self.b.row_stride * ks.start as isize;
        let block = (ks.start - packed.ks.start) * packed.padded_cols(lanes);
        self.isa.run(Pack {
            strip: Strip {
                src: self.b.ptr.wrapping_offset(at),
                across: self.b.col_stride,
                along: self.b.row_stride,
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
    /// As [`Item::group`], and `dst` has room.
    unsafe fn pack_a(&self, rows: Range<usize>, ks: Range<usize>, dst: *mut f32) {
        let at = self.a.row_stride * rows.start as isize + self.a.col_stride * ks.start as isize;
        self.isa.run(Pack {
            strip: Strip {
                src: self.a.ptr.wrapping_offset(at),
                across: self.a.row_stride,
                along: self.a.col_stride,
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
    /// As [`Item::group`], after its first phase; nobody else touches this block of C.
    unsafe fn task(&self, packed: &Packed, rows: Range<usize>, cols: Range<usize>) {
        let plan = &self.plan;
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
                    PackA::Shared => {
                        packed.a.wrapping_add(before * self.m + rows.start * ks.len()).cast_const()
                    }
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

impl Item<'_> {
    /// The tiles of a block of C for one k-block; the epilogue after the last.
    ///
    /// # Safety
    /// As [`Item::task`]; `panels` belong to these rows and columns.
    unsafe fn multiply(&self, panels: &Panels, rows: Range<usize>, cols: Range<usize>) {
        let (table, panel) = (&self.plan.table, self.plan.panel);
        let (k, last) = (panels.ks.len(), panels.ks.end == self.k);
        let packed_a = self.plan.pack_a != PackA::Never;
        for j in cols.clone().step_by(table.nr) {
            let width = table.nr.min(cols.end - j);
            let registers = width.div_ceil(table.lanes);
            let whole = tile_fn(panel, registers, packed_a);
            let mut tile = Tile {
                k,
                a: panels.a,
                a_row: self.a.row_stride,
                a_step: self.a.col_stride,
                b: panels.b.wrapping_add((j - cols.start) * k),
                b_step: (registers * table.lanes) as isize,
                c: self.c_at(rows.start, j),
                c_row: self.c.row_stride,
                cols: width,
                alpha: self.alpha,
                beta: if panels.ks.start == 0 { self.beta } else { 1.0 },
            };
            if !self.plan.pack_b {
                let at = self.b.row_stride * panels.ks.start as isize + j as isize;
                tile.b = self.b.ptr.wrapping_offset(at);
                tile.b_step = self.b.row_stride;
            }
            for i in rows.clone().step_by(panel) {
                let height = panel.min(rows.end - i);
                tile.c = self.c_at(i, j);
                tile.a = if packed_a {
                    panels.a.wrapping_add((i - rows.start) * k)
                } else {
                    let at = self.a.col_stride * panels.ks.start as isize;
                    self.a.ptr.wrapping_offset(self.a.row_stride * i as isize + at)
                };
                let run =
                    if height == panel { whole } else { tile_fn(height, registers, packed_a) };
                // SAFETY: the tile lies in this task's block; a packed B is padded to registers,
                // and one that is read where it is has whole registers of columns.
                unsafe {
                    if self.c.col_stride == 1 {
                        run(self.isa, &tile);
                    } else {
                        self.scattered(run, tile, height);
                    }
                }
            }
            if last {
                // SAFETY: these columns of the task's block are finished.
                unsafe { self.finish(rows.clone(), j..j + width) }
            }
        }
    }

    /// C(i, j).
    fn c_at(&self, i: usize, j: usize) -> *mut f32 {
        let at = self.c.row_stride * i as isize + self.c.col_stride * j as isize;
        self.c.ptr.wrapping_offset(at)
    }

    /// A tile of a C whose columns are not adjacent, through a copy.
    ///
    /// # Safety
    /// As [`Item::multiply`]; `run` has `height` rows.
    unsafe fn scattered(&self, run: super::micro::TileFn, tile: Tile, height: usize) {
        const WIDTH: usize = MAX_REGISTERS * 16;
        let mut copy = [0.0f32; MAX_ROWS * WIDTH];
        let own = Tile { c: copy.as_mut_ptr(), c_row: WIDTH as isize, beta: 0.0, ..tile };
        // SAFETY: the copy holds the highest and widest tile; the rest is the caller's promise.
        unsafe { run(self.isa, &own) };
        for i in 0..height {
            for j in 0..tile.cols {
                let at = self.c.row_stride * i as isize + self.c.col_stride * j as isize;
                let p = tile.c.wrapping_offset(at);
                let x = copy[i * WIDTH + j];
                // SAFETY: an element of the tile; C is read only when beta is not 0.
                unsafe { *p = if tile.beta == 0.0 { x } else { tile.beta.mul_add(*p, x) } }
            }
        }
    }

    /// Applies the epilogue to finished elements of C.
    ///
    /// # Safety
    /// As [`Item::task`]; the elements are final.
    unsafe fn finish(&self, rows: Range<usize>, cols: Range<usize>) {
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
