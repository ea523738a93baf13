//! How one packed product is cut into blocks and tasks.

use super::item::Item;
use super::micro::holds;
use super::table::{Blocking, FINISH, FINISH_COLS};
use starling_contract::{Error, Result};

/// Panels of A that a task has at least: fewer would read B's panels too often.
const LEAST_PANELS: usize = 4;
/// Most numbers of A that are packed for all tasks together.
const SHARED: usize = 1 << 22;

/// How an item is cut.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    pub table: Blocking,
    /// Height of A's panels.
    pub panel: usize,
    /// Length of k-blocks.
    pub kc: usize,
    /// Rows of a task: a multiple of `panel`.
    pub mc: usize,
    /// Columns of a task: a multiple of the tile's width.
    pub nc_task: usize,
    /// Columns of the packed B: a multiple of `nc_task`.
    pub nc: usize,
    /// Columns that are finished before the epilogue gets them: a multiple of the tile's width.
    pub finish: usize,
    pub pack_a: PackA,
    pub pack_b: bool,
}

/// Who packs A.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PackA {
    /// Nobody: the micro-kernel reads A where it is.
    Never,
    /// Each task its own block.
    ByTask,
    /// All blocks of a group in the first phase.
    Shared,
}

impl Plan {
    /// The plan of an item.
    ///
    /// # Errors
    /// [`Error::Shape`] for tiles that have no kernel: nothing is left to the loops to find out.
    pub(super) fn new(item: &Item<'_>) -> Result<Plan> {
        Plan::of(Blocking::of(item.isa), item)
    }

    fn of(table: Blocking, item: &Item<'_>) -> Result<Plan> {
        let (m, n, threads) = (item.m, item.n, item.threads);
        let panel = table.panel_rows(m);
        let registers = table.nr / table.lanes;
        if !holds(table.lanes, panel, registers) {
            let isa = item.isa;
            let message = format!(
                "{isa} has no kernel for tiles of {panel} rows and {registers} registers: take \
                 another row of STARLING_ISA"
            );
            return Err(Error::shape("gemm", message));
        }
        let (panels_m, panels_n) = (m.div_ceil(panel), n.div_ceil(table.nr));
        let nc_whole = n.min(table.nc);
        let finish = FINISH_COLS / table.nr * table.nr;
        let most = match item.has_epilogue() {
            true => (FINISH / nc_whole.min(finish)).clamp(LEAST_PANELS * panel, table.mc),
            false => table.mc,
        };
        let mut blocks_m = panels_m.div_ceil((most / panel).max(1));
        let mut blocks_n = 1;
        let wanted = if threads == 1 { 1 } else { 4 * threads };
        if blocks_m < wanted {
            // Shorter blocks first, then narrower ones of at least 2 panels.
            blocks_m = wanted.min(panels_m.div_ceil(LEAST_PANELS)).max(blocks_m);
            blocks_n = wanted.div_ceil(blocks_m).min(panels_n.div_ceil(2));
        }
        let nc_task = nc_whole.div_ceil(blocks_n).next_multiple_of(table.nr);
        let (direct_a, direct_b) = direct(&table, item);
        let kc = table.k_block(item.k);
        Ok(Plan {
            table,
            panel,
            kc,
            mc: panels_m.div_ceil(blocks_m) * panel,
            nc_task,
            nc: nc_task * nc_whole.div_ceil(nc_task),
            finish,
            pack_a: match (direct_a, blocks_n) {
                (true, _) => PackA::Never,
                (false, blocks) if blocks > 1 && m * kc <= SHARED => PackA::Shared,
                (false, _) => PackA::ByTask,
            },
            pack_b: !direct_b,
        })
    }
}

/// Whether the micro-kernel reads A and B where they are. Packing pays when a panel is used often,
/// or when its lines would fall into few sets of L1: distances that are multiples of 4096 bytes.
fn direct(table: &Blocking, g: &Item<'_>) -> (bool, bool) {
    let crowded = |stride: isize| stride != 0 && stride % 1024 == 0;
    let few_uses = if crowded(g.a.row_stride) { g.n <= 128 } else { g.n <= 512 };
    let direct_a = few_uses && (g.a.row_stride == 1 || g.a.col_stride == 1 || g.n <= 2 * table.nr);
    let few_uses = if crowded(g.b.row_stride) { g.m <= 2 * table.mr } else { g.m <= 256 };
    // Whole registers are read, so the last columns must fill one.
    let direct_b = few_uses && g.b.col_stride == 1 && g.n.is_multiple_of(table.lanes);
    (direct_a, direct_b)
}

#[cfg(test)]
mod tests {
    use super::super::{Gemm, Operand, OutOperand};
    use super::*;
    use crate::isa::Isa;

    #[test]
    fn tiles_without_a_kernel_are_an_error() {
        let (mut c, offsets) = ([0.0f32; 4], [0]);
        let operand = Operand { ptr: c.as_ptr(), row_stride: 2, col_stride: 1 };
        let g = Gemm {
            m: 100,
            n: 100,
            k: 8,
            batch: 1,
            a: operand,
            b: operand,
            c: OutOperand { ptr: c.as_mut_ptr(), row_stride: 2, col_stride: 1 },
            a_batch: &offsets,
            b_batch: &offsets,
            c_batch: &offsets,
            alpha: 1.0,
            beta: 0.0,
            epilogue: None,
        };
        for isa in Isa::under_test().unwrap() {
            let item = Item::new(isa, &g, 1);
            let table = Blocking::of(isa);
            assert!(Plan::of(table, &item).is_ok());
            for broken in [
                Blocking { mr: 100, ..table },
                Blocking { nr: 100 * table.lanes, ..table },
                Blocking { nr: 0, ..table },
            ] {
                let refused = Plan::of(broken, &item).map(|_| ());
                let message = refused.unwrap_err().to_string();
                assert!(message.contains("has no kernel for tiles"), "{message}");
            }
        }
    }
}
