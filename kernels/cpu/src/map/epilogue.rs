//! Programs on the finished blocks of a matrix product.

use super::block::{Job, Worker};
use super::few::Few;
use super::grid::{Grid, Operand};
use super::tape::{Tape, block_len};
use super::{OPERANDS, Operands, write_blocks};
use crate::gemm::TileEpilogue;
use crate::isa::Isa;
use crate::scratch::with_scratch;
use starling_contract::{CheckedRef, DType, Gemm, Layout, MAX_RANK, Result};
use std::sync::Arc;

/// The epilogue of a [`Gemm`] verb: input 0 and output 0 of the program are the block, the others
/// parts of views of C's shape.
pub struct ProgramEpilogue {
    isa: Isa,
    tape: Arc<Tape>,
    operands: Operands,
    /// C's shape.
    shape: Layout,
}

impl ProgramEpilogue {
    /// The epilogue of `verb`; `None` when it has none.
    ///
    /// # Errors
    /// [`starling_contract::Error::Shape`] for views outside host memory,
    /// [`starling_contract::Error::Unsupported`] for integers.
    pub fn new(isa: Isa, verb: CheckedRef<'_, Gemm>) -> Result<Option<Self>> {
        let Some(e) = &verb.epilogue else { return Ok(None) };
        let shape = Layout::contiguous(verb.c.shape());
        let tape = Tape::of(&e.program);
        let leaves = (&e.params[..], &e.immediates);
        let operands = Operands::new("gemm", shape.shape(), &tape, leaves, &e.inputs, &e.outputs)?;
        Ok(Some(Self { isa, tape, operands, shape }))
    }

    /// The distance in elements from an operand's first element to (batch, row, col).
    fn offset(
        &self,
        strides: &[isize; MAX_RANK],
        mut batch: usize,
        row: usize,
        col: usize,
    ) -> isize {
        let rank = self.shape.rank();
        let mut offset = row as isize * strides[rank - 2] + col as isize * strides[rank - 1];
        for axis in (0..rank - 2).rev() {
            let n = self.shape.shape()[axis];
            offset += (batch % n) as isize * strides[axis];
            batch /= n;
        }
        offset
    }
}

impl TileEpilogue for ProgramEpilogue {
    unsafe fn apply(
        &self,
        batch: usize,
        row: usize,
        col: usize,
        rows: usize,
        cols: usize,
        tile: *mut f32,
        row_stride: usize,
    ) {
        let (views, rank) = (&self.operands, self.shape.rank());
        let extent = [rows, cols];
        let block = Operand {
            first: tile.cast(),
            dtype: DType::F32,
            layout: Layout::new(&extent, &[row_stride as isize, 1], 0),
        };
        let shift = |x: &Operand| {
            let s = x.strides();
            let bytes = self.offset(&s, batch, row, col) * x.dtype.size() as isize;
            let layout = Layout::new(&extent, &s[rank - 2..rank], 0);
            Operand { first: x.first.wrapping_offset(bytes), dtype: x.dtype, layout }
        };
        let with_tile = |list: &Few<Operand, OPERANDS>| -> Few<Operand, OPERANDS> {
            let mut all = Few::new(block, list.len() + 1);
            all[1..].iter_mut().zip(list.iter()).for_each(|(slot, x)| *slot = shift(x));
            all
        };
        let (inputs, outputs) = (with_tile(&views.inputs), with_tile(&views.outputs));
        let index = usize::from(self.tape.index.is_some());
        let count = inputs.len() + outputs.len();
        let mut strides: Few<_, { 2 * OPERANDS }> = Few::new([0; MAX_RANK], count + index);
        for (s, x) in strides.iter_mut().zip(inputs.iter().chain(outputs.iter())) {
            *s = x.strides();
        }
        let mut row_major = [0; MAX_RANK];
        row_major[..rank].copy_from_slice(self.shape.strides());
        if index == 1 {
            strides[count][..2].copy_from_slice(&row_major[rank - 2..rank]);
        }
        let grid = Grid::new(&extent, &[0, 1], &strides);
        let job = Job {
            isa: self.isa,
            tape: &self.tape,
            grid: &grid,
            inputs: &inputs,
            outputs: &outputs,
            words: &views.words,
            immediates: &views.immediates,
            block: block_len(self.tape.registers + self.tape.inputs.len()),
            index_base: self.offset(&row_major, batch, row, col) as usize,
        };
        with_scratch(job.scratch_len(), |scratch| {
            // SAFETY: the tile is the caller's alone; the verb's check found the views inside their
            // storages and apart from each other, and blocks of C are disjoint.
            let mut worker = unsafe { Worker::new(&job, scratch) };
            write_blocks(&job, &mut worker);
        });
    }
}
