//! Programs on the finished blocks of a matrix product.

use super::part::{Part, PartProgram};
use crate::gemm::TileEpilogue;
use crate::isa::Isa;
use starling_contract::{CheckedRef, Gemm, Result};

/// The epilogue of a [`Gemm`] verb: input 0 and output 0 of the program are the block, the others
/// parts of views of C's shape.
pub struct ProgramEpilogue(PartProgram);

impl ProgramEpilogue {
    /// The epilogue of `verb`; `None` when it has none.
    ///
    /// # Errors
    /// [`starling_contract::Error::Shape`] for views outside host memory,
    /// [`starling_contract::Error::Unsupported`] for integers.
    pub fn new(isa: Isa, verb: CheckedRef<'_, Gemm>) -> Result<Option<Self>> {
        let Some(e) = &verb.epilogue else { return Ok(None) };
        let (leaves, views) = ((&e.params[..], &e.immediates), [&e.inputs[..], &e.outputs[..]]);
        let program = PartProgram::new(("gemm", isa), &e.program, leaves, views, verb.c.shape())?;
        Ok(Some(Self(program)))
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
        let part = Part { matrix: batch, row, col, extent: [rows, cols] };
        let block = [Part::operand(tile, [row_stride as isize, 1])];
        // SAFETY: the tile is the caller's alone; the verb's check found the views inside their
        // storages and apart from each other, and blocks of C are disjoint.
        unsafe { self.0.run(&part, &block, &block) }
    }
}
