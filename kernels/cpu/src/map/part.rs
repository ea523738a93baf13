//! Programs over parts of matrices: epilogues of products, scores of attention.

use super::block::{Job, Worker};
use super::few::Few;
use super::grid::{Element, Grid, Operand};
use super::tape::{Tape, block_len};
use super::{OPERANDS, Operands, write_blocks};
use crate::isa::Isa;
use crate::scratch::with_scratch;
use starling_contract::{Immediates, Layout, MAX_RANK, Program, Result, View};
use std::sync::Arc;

/// A program whose first inputs and outputs are given with each part of a matrix; the others are
/// views of all matrices.
pub(crate) struct PartProgram {
    isa: Isa,
    tape: Arc<Tape>,
    operands: Operands,
    /// `[.., rows, columns]`
    shape: Layout,
}

/// A part of one matrix.
#[derive(Clone, Copy)]
pub(crate) struct Part {
    /// Row-major number of the matrix.
    pub matrix: usize,
    /// Its first row.
    pub row: usize,
    /// Its first column.
    pub col: usize,
    /// Rows and columns.
    pub extent: [usize; 2],
}

impl Part {
    /// f32 numbers of the part, or such that repeat with a stride of 0.
    pub fn operand(at: *mut f32, strides: [isize; 2]) -> Operand {
        Operand { first: at.cast(), dtype: Element::F32, strides: of_a_matrix(strides) }
    }
}

/// The strides of a matrix, as an operand has them.
fn of_a_matrix([row, col]: [isize; 2]) -> [isize; MAX_RANK] {
    let mut strides = [0; MAX_RANK];
    strides[..2].copy_from_slice(&[row, col]);
    strides
}

impl PartProgram {
    /// A program over matrices of `shape`, with parameters and immediates, inputs and outputs.
    ///
    /// # Errors
    /// [`starling_contract::Error::Shape`] for views outside host memory,
    /// [`starling_contract::Error::Unsupported`] for integers.
    pub fn new(
        (op, isa): (&'static str, Isa),
        program: &Program,
        leaves: (&[View], &Immediates),
        [inputs, outputs]: [&[View]; 2],
        shape: &[usize],
    ) -> Result<Self> {
        let tape = Tape::of(program);
        let operands = Operands::new(op, shape, &tape, leaves, inputs, outputs)?;
        Ok(Self { isa, tape, operands, shape: Layout::contiguous(shape) })
    }

    /// The distance in elements from an operand's first element to the part.
    fn offset(&self, strides: &[isize; MAX_RANK], part: &Part) -> isize {
        let rank = self.shape.rank();
        let (row, col) = (part.row as isize, part.col as isize);
        let mut offset = row * strides[rank - 2] + col * strides[rank - 1];
        let mut matrix = part.matrix;
        for axis in (0..rank - 2).rev() {
            let n = self.shape.shape()[axis];
            offset += (matrix % n) as isize * strides[axis];
            matrix /= n;
        }
        offset
    }

    /// Runs the program over a part that is not empty; `inputs` and `outputs` come before the
    /// views'.
    ///
    /// # Safety
    /// The part lies inside the matrices. `inputs` are readable and `outputs` writable for its
    /// extent, by the caller alone; so are the views that `new` took, outputs apart from
    /// everything.
    pub unsafe fn run(&self, part: &Part, inputs: &[Operand], outputs: &[Operand]) {
        let (views, rank) = (&self.operands, self.shape.rank());
        let shift = |x: &Operand| {
            let s = x.strides;
            let bytes = self.offset(&s, part) * x.dtype.size() as isize;
            let strides = of_a_matrix([s[rank - 2], s[rank - 1]]);
            Operand { first: x.first.wrapping_offset(bytes), dtype: x.dtype, strides }
        };
        let joined = |own: &[Operand], list: &Few<Operand, OPERANDS>| -> Few<Operand, OPERANDS> {
            let none = Part::operand(std::ptr::null_mut(), [0, 0]);
            let mut all = Few::new(none, own.len() + list.len());
            all[..own.len()].copy_from_slice(own);
            all[own.len()..].iter_mut().zip(list.iter()).for_each(|(slot, x)| *slot = shift(x));
            all
        };
        let (inputs, outputs) = (joined(inputs, &views.inputs), joined(outputs, &views.outputs));
        let index = usize::from(self.tape.index.is_some());
        let count = inputs.len() + outputs.len();
        let mut strides: Few<_, { 2 * OPERANDS }> = Few::new([0; MAX_RANK], count + index);
        for (s, x) in strides.iter_mut().zip(inputs.iter().chain(outputs.iter())) {
            *s = x.strides;
        }
        let mut row_major = [0; MAX_RANK];
        row_major[..rank].copy_from_slice(self.shape.strides());
        if index == 1 {
            strides[count][..2].copy_from_slice(&row_major[rank - 2..rank]);
        }
        let grid = Grid::new(&part.extent, &[0, 1], &strides);
        let job = Job {
            isa: self.isa,
            tape: &self.tape,
            grid: &grid,
            inputs: &inputs,
            outputs: &outputs,
            words: &views.words,
            immediates: &views.immediates,
            block: block_len(self.tape.registers + self.tape.inputs.len()),
            index_base: self.offset(&row_major, part) as usize,
        };
        with_scratch(job.scratch_len(), |scratch| {
            // SAFETY: the caller promises that the operands may be read and written over the part.
            let mut worker = unsafe { Worker::new(&job, scratch) };
            write_blocks(&job, &mut worker);
        });
    }
}
