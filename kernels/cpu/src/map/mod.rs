//! Elementwise programs over strided arrays.
//!
//! [`map`] -> `block::Worker` (one block: inputs to blocks of f32 in the first-level cache) ->
//! `steps` (the interpreter: one loop of vectors a node) or `fixed` (one loop for the whole
//! program, where it is a well-known one). Lanes never mix, so how the space is cut into blocks and
//! tasks does not change a bit.

pub(crate) mod block;
mod epilogue;
pub(crate) mod few;
mod fixed;
mod fold;
pub(crate) mod grid;
pub(crate) mod part;
mod stage;
pub(crate) mod steps;
pub(crate) mod tape;

#[cfg(test)]
mod tests;

pub use epilogue::ProgramEpilogue;

use crate::isa::Isa;
use crate::scratch::with_scratch;
use crate::team;
use block::{Job, Worker};
use few::Few;
use grid::{Element, Grid, Operand};
use starling_contract::{CheckedRef, Immediates, Layout, MAX_RANK, Map, Program, Result, View};
use starling_ops::program::Op;
use std::ops::Range;
use tape::Tape;

/// Operands whose list needs no allocation.
pub(crate) const OPERANDS: usize = 8;
/// Elements of a block of a monomorphised kernel, which needs no registers in memory.
const FIXED_BLOCK: usize = 8192;
/// Work below which a task is not worth handing to another thread, in nanoseconds.
const TASK_NS: usize = 20_000;

/// Parameters, operands and walks of a program over one iteration space.
pub(crate) struct Operands {
    /// The parameters' bits.
    pub words: Few<u32, 8>,
    /// The immediates' bits.
    pub immediates: Immediates,
    /// The inputs.
    pub inputs: Few<Operand, OPERANDS>,
    /// The outputs.
    pub outputs: Few<Operand, OPERANDS>,
    /// Strides of the inputs, the outputs and, for a program that uses it, the element's index.
    pub strides: Few<[isize; MAX_RANK], { 2 * OPERANDS }>,
}

impl Operands {
    /// Resolves the views of `op` over `shape`.
    ///
    /// # Errors
    /// [`starling_contract::Error::Shape`] for views outside host memory,
    /// [`starling_contract::Error::Unsupported`] for integers.
    pub fn new(
        op: &'static str,
        shape: &[usize],
        tape: &Tape,
        (params, immediates): (&[View], &Immediates),
        inputs: &[View],
        outputs: &[View],
    ) -> Result<Self> {
        let none =
            Operand { first: std::ptr::null_mut(), dtype: Element::F32, strides: [0; MAX_RANK] };
        let resolve = |views: &[View]| -> Result<Few<Operand, OPERANDS>> {
            let mut list = Few::new(none, views.len());
            for (slot, view) in list.iter_mut().zip(views) {
                *slot = Operand::of(op, view)?;
            }
            Ok(list)
        };
        let (inputs, outputs) = (resolve(inputs)?, resolve(outputs)?);
        let mut words = Few::new(0, params.len());
        for (word, view) in words.iter_mut().zip(params) {
            *word = single_word(op, view)?;
        }
        let index = usize::from(tape.index.is_some());
        let count = inputs.len() + outputs.len();
        let mut strides = Few::new([0; MAX_RANK], count + index);
        for (s, x) in strides.iter_mut().zip(inputs.iter().chain(outputs.iter())) {
            *s = x.strides;
        }
        if index == 1 {
            let row_major = Layout::contiguous(shape);
            strides[count][..shape.len()].copy_from_slice(row_major.strides());
        }
        Ok(Self { words, immediates: *immediates, inputs, outputs, strides })
    }
}

/// The bits of a checked verb's view of one f32 or u32.
///
/// # Errors
/// [`starling_contract::Error::Shape`] for a view outside host memory.
pub(crate) fn single_word(op: &'static str, view: &View) -> Result<u32> {
    let at = grid::first_byte(op, view)?.cast::<u32>();
    // SAFETY: the verb's check found the one f32 or u32 inside its storage.
    Ok(unsafe { at.read_unaligned() })
}

/// True when the program has a loop of its own where there are vectors: all others are interpreted.
pub fn has_loop(program: &Program) -> bool {
    fixed::find(program).is_some()
}

/// Runs a map that [`starling_contract::Verb::check`] accepted.
///
/// # Errors
/// [`starling_contract::Error::Shape`] for views outside host memory,
/// [`starling_contract::Error::Unsupported`] for integer operands.
pub fn map(isa: Isa, verb: CheckedRef<'_, Map>) -> Result<()> {
    let verb = verb.get();
    map_with(isa, verb, &Tape::of(&verb.program))
}

fn map_with(isa: Isa, verb: &Map, tape: &Tape) -> Result<()> {
    let Some(first) = verb.outputs.first() else { return Ok(()) };
    let shape = first.shape();
    if first.is_empty() {
        return Ok(());
    }
    let leaves = (&verb.params[..], &verb.immediates);
    let operands = Operands::new("map", shape, tape, leaves, &verb.inputs, &verb.outputs)?;
    let (order, rank) = order_of(first);
    let grid = Grid::new(shape, &order[..rank], &operands.strides);
    let block = tape::block_len(tape.registers + tape.inputs.len());
    let job = Job {
        isa,
        tape,
        grid: &grid,
        inputs: &operands.inputs,
        outputs: &operands.outputs,
        words: &operands.words,
        immediates: &operands.immediates,
        block,
        index_base: 0,
    };
    let blocks = Blocks::new(&job);
    let tasks = (blocks.count * blocks.block * cost_ns_per_1024(tape) / 1024).div_ceil(TASK_NS);
    let tasks = tasks.clamp(1, blocks.count);
    let task = |t: usize| {
        let range = t * blocks.count / tasks..(t + 1) * blocks.count / tasks;
        with_scratch(job.scratch_len(), |scratch| {
            // SAFETY: the verb's check found every view inside its storage, outputs apart from each
            // other and from inputs unless they are the same elements; blocks are disjoint.
            let mut worker = unsafe { Worker::new(&job, scratch) };
            blocks.run(&mut worker, isa.lanes(), range);
        });
    };
    team::for_each(tasks, task);
    Ok(())
}

/// Every block of a job, on this thread.
pub(crate) fn write_blocks(job: &Job<'_>, worker: &mut Worker<'_>) {
    let blocks = Blocks::new(job);
    blocks.run(worker, job.isa.lanes(), 0..blocks.count);
}

/// The axes by falling stride of the first output: memory is written front to back.
fn order_of(output: &View) -> ([usize; MAX_RANK], usize) {
    let (rank, strides) = (output.layout.rank(), output.layout.strides());
    let mut order = [0, 1, 2, 3, 4, 5, 6, 7];
    let key = |&axis: &usize| std::cmp::Reverse(strides[axis].unsigned_abs());
    // Ties are axes of extent 1, whose place does not matter; a stable sort would allocate.
    order[..rank].sort_unstable_by_key(|axis| (key(axis), *axis));
    (order, rank)
}

/// A rough price of 1024 elements, to decide what is worth a task.
fn cost_ns_per_1024(tape: &Tape) -> usize {
    let step = |op: Op| match op {
        Op::Exp | Op::Expm1 | Op::Log | Op::Log1p | Op::Tanh | Op::Erf | Op::Sigmoid => 300,
        Op::Sin | Op::Cos | Op::Softplus | Op::Uniform => 400,
        Op::Pow => 1000,
        Op::Div | Op::Sqrt | Op::Rsqrt => 100,
        _ => 25,
    };
    100 + tape.steps.iter().map(|s| step(s.op)).sum::<usize>()
}

/// How the walk is cut: into stretches of rows, or of the whole walk where rows do not matter; or
/// into groups of rows, for kernels that take several.
struct Blocks {
    count: usize,
    /// Elements of a block.
    block: usize,
    /// Blocks of one row.
    per_row: usize,
    /// Elements of one row.
    row: usize,
    /// Rows of a block; 0 when it is part of one.
    rows: usize,
}

impl Blocks {
    fn new(job: &Job<'_>) -> Self {
        let (grid, flat) = (job.grid, job.grid.is_flat());
        let inner = grid.inner();
        if !flat && inner <= FIXED_BLOCK / 2 && job.is_direct_by_row() {
            let rows = FIXED_BLOCK / inner;
            let count = (grid.len() / inner).div_ceil(rows);
            return Self { count, block: rows * inner, per_row: 1, row: inner, rows };
        }
        // Short rows share blocks, whose parts are copied together.
        let by_row = !flat && inner >= job.block / 4;
        let row = if by_row { inner } else { grid.len() };
        let direct = (by_row || flat) && job.is_direct();
        let block = if direct { FIXED_BLOCK } else { job.block };
        let per_row = row.div_ceil(block);
        Self { count: grid.len() / row * per_row, block, per_row, row, rows: 0 }
    }

    /// Writes some of the blocks.
    fn run(&self, worker: &mut Worker<'_>, lanes: usize, range: Range<usize>) {
        if self.rows > 0 {
            let last = worker.rows().min(range.end * self.rows);
            let first = range.start * self.rows;
            // SAFETY: `new` asked whether the job is direct by row.
            unsafe { worker.write_rows(first, last - first) };
            return;
        }
        for b in range {
            let at = b % self.per_row * self.block;
            let start = b / self.per_row * self.row + at;
            let n = self.block.min(self.row - at);
            let whole = n - n % lanes;
            // SAFETY: blocks are no longer than the job's, or read and written in place; the rest
            // of a last vector is copied, which takes one vector.
            unsafe {
                if whole > 0 {
                    worker.write(start, whole);
                }
                if whole < n {
                    worker.write(start + whole, n - whole);
                }
            }
        }
    }
}
