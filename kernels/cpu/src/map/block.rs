//! One block of a program: inputs resolved to blocks of f32, steps run, results written.

use super::few::Few;
use super::fixed::{Blocks, Fixed, Vectors};
use super::grid::{Element, Grid, Operand};
use super::stage::{Load, Store, Turn};
use super::steps::{Loc, RunSteps};
use super::tape::{Place, Tape};
use crate::isa::Isa;
use starling_ops::program::{NodeId, Op};

/// Floats between the starts of neighbouring blocks beyond their length: room for the vectors that
/// a run of uniform numbers writes behind its block, and never a multiple of 4 KiB.
const SLACK: usize = 96;
/// Floats of the widest vector.
const WIDEST: usize = 16;

/// What all blocks of one verb have in common.
pub(crate) struct Job<'a> {
    /// The instruction set.
    pub isa: Isa,
    /// The program.
    pub tape: &'a Tape,
    /// Walks of the inputs, then of the outputs, then of the elements' index if that is used.
    pub grid: &'a Grid,
    /// At least [`starling_ops::Program::input_count`].
    pub inputs: &'a [Operand],
    /// One for each result that is written.
    pub outputs: &'a [Operand],
    /// The parameters' bits.
    pub words: &'a [u32],
    /// The immediates' bits.
    pub immediates: &'a [u32],
    /// The most elements of a block.
    pub block: usize,
    /// Index of the walk's first element.
    pub index_base: usize,
}

impl Job<'_> {
    /// The program's monomorphised kernel, if it has one for this instruction set.
    fn fixed(&self) -> Option<(&Fixed, Vectors)> {
        self.tape.fixed.as_ref().zip(Vectors::of(self.isa))
    }

    fn pitch(&self) -> usize {
        self.block + SLACK
    }

    /// True when blocks of any length that are whole vectors can be computed without a copy.
    pub fn is_direct(&self) -> bool {
        let (job, inputs) = (self, self.inputs.len());
        let plain = |x: &Operand, w: usize| {
            x.dtype == Element::F32
                && (job.grid.walk(w).contiguous || job.grid.inner_stride(w) == 1)
        };
        (job.fixed().is_some() || job.tape.program().is_identity())
            && job.tape.index.is_none()
            && !job.tape.inputs.iter().any(|x| must_be_copied(job, x))
            && job.tape.inputs.iter().all(|&(_, i)| {
                let w = usize::from(i);
                plain(&job.inputs[w], w) || job.grid.inner_stride(w) == 0
            })
            && job.outputs.iter().enumerate().all(|(o, x)| plain(x, inputs + o))
    }

    /// True when [`Worker::write_rows`] can compute many rows at once.
    pub fn is_direct_by_row(&self) -> bool {
        let repeats = |&(_, i): &(NodeId, u16)| {
            let i = usize::from(i);
            self.grid.inner_stride(i) == 0 && !self.grid.walk(i).constant
        };
        let nodes = self.tape.program().outputs();
        self.fixed().is_some()
            && self.is_direct()
            && self.grid.rank() == 2
            && self.grid.inner().is_multiple_of(self.isa.lanes())
            && !self.tape.inputs.iter().any(repeats)
            && (0..nodes.len()).all(|o| !nodes[..o].contains(&nodes[o]))
    }

    /// Floats of working memory that a [`Worker`] needs.
    pub fn scratch_len(&self) -> usize {
        let splats = (self.tape.splats + self.tape.inputs.len()) * WIDEST;
        let staged = self.tape.inputs.len() + usize::from(self.tape.index.is_some());
        splats + (staged + self.tape.registers) * self.pitch()
    }
}

/// Evaluates blocks of a [`Job`] in working memory of its own.
pub(crate) struct Worker<'a> {
    job: &'a Job<'a>,
    /// By node.
    locs: Few<Loc, 64>,
    /// By output: its node's block may be the output itself.
    direct: Few<bool, 8>,
    /// By entry of [`Tape::inputs`]: the block must be a copy.
    copied: Few<bool, 12>,
    /// The slots of equal lanes of the program, then of the inputs.
    splats: *mut f32,
    /// Blocks of converted inputs, then of the index.
    staged: *mut f32,
    registers: *mut f32,
}

impl<'a> Worker<'a> {
    /// A worker in `scratch` of at least [`Job::scratch_len`] floats.
    ///
    /// # Safety
    /// While the worker is used, `scratch` is touched by nothing else, and operands and walks of
    /// the job stay inside memory that may be read, or for outputs written, by it alone.
    pub unsafe fn new(job: &'a Job<'a>, scratch: &mut [f32]) -> Self {
        assert!(scratch.len() >= job.scratch_len(), "working memory of a block");
        let tape = job.tape;
        let splats = scratch.as_mut_ptr();
        let inputs = tape.inputs.len();
        let staged = splats.wrapping_add((tape.splats + inputs) * WIDEST);
        let blocks = inputs + usize::from(tape.index.is_some());
        let registers = staged.wrapping_add(blocks * job.pitch());
        let locs = Few::new(Loc::NONE, tape.places.len());
        let direct = Few::collect(false, (0..job.outputs.len()).map(|o| may_be_direct(job, o)));
        let copied = Few::collect(false, tape.inputs.iter().map(|x| must_be_copied(job, x)));
        let mut worker = Self { job, locs, direct, copied, splats, staged, registers };
        worker.place();
        worker
    }

    /// Gives every node its block, fills those of constants and parameters and runs the prologue.
    fn place(&mut self) {
        let (tape, job) = (self.job.tape, self.job);
        self.fill(0, 0);
        for (id, (node, place)) in tape.program().nodes().iter().zip(&tape.places).enumerate() {
            self.locs[id] = match *place {
                Place::Splat(slot) => {
                    let slot = usize::from(slot);
                    match node.op {
                        Op::Const(bits) => self.fill(slot, (f64::from_bits(bits) as f32).to_bits()),
                        Op::ConstWord(x) => self.fill(slot, x),
                        Op::Imm(i) => self.fill(slot, job.immediates[usize::from(i)]),
                        Op::Param(i) | Op::ParamWord(i) => {
                            self.fill(slot, job.words[usize::from(i)])
                        }
                        _ => {}
                    }
                    self.splat(slot)
                }
                Place::Register(_) => self.register(id as NodeId),
                Place::Index => Loc { at: self.staged_block(tape.inputs.len()), step: 1 },
                Place::Input(_) => Loc::NONE,
            };
        }
        // SAFETY: the prologue's arguments and results are slots of one vector each.
        job.isa.run(unsafe { RunSteps::new(&tape.prologue, &self.locs, 1, None) });
    }

    fn splat(&self, slot: usize) -> Loc {
        Loc { at: self.splats.wrapping_add(slot * WIDEST), step: 0 }
    }

    fn fill(&self, slot: usize, bits: u32) {
        let at = self.splat(slot).at;
        for lane in 0..WIDEST {
            // SAFETY: `new` checked that the slots lie in the working memory.
            unsafe { *at.add(lane) = f32::from_bits(bits) };
        }
    }

    fn staged_block(&self, i: usize) -> *mut f32 {
        self.staged.wrapping_add(i * self.job.pitch())
    }

    fn register(&self, node: NodeId) -> Loc {
        match self.job.tape.places[usize::from(node)] {
            Place::Register(r) => {
                let at = self.registers.wrapping_add(usize::from(r) * self.job.pitch());
                Loc { at, step: 1 }
            }
            _ => self.locs[usize::from(node)],
        }
    }

    /// Evaluates elements `start .. start + n` of the walk and writes the outputs.
    ///
    /// # Safety
    /// `n` is at most the job's block, unless [`Job::is_direct`] and they are whole vectors of one
    /// row.
    pub unsafe fn write(&mut self, start: usize, n: usize) {
        // SAFETY: the caller's promise.
        unsafe { self.eval(start, n) };
        for o in 0..self.job.outputs.len() {
            if self.direct_output(o, start, n).is_none() {
                self.store(o, start, n);
            }
        }
    }

    /// Evaluates elements `start .. start + n` of the walk; the program's first result.
    ///
    /// # Safety
    /// `n` is at most the job's block.
    pub unsafe fn value(&mut self, start: usize, n: usize) -> Loc {
        let tape = self.job.tape;
        if tape.program().is_identity() {
            return self.input_at(0, 0, start, n, true);
        }
        // SAFETY: the caller's promise.
        unsafe { self.eval(start, n) };
        self.locs[usize::from(tape.program().outputs()[0])]
    }

    /// # Safety
    /// As [`Worker::write`].
    unsafe fn eval(&mut self, start: usize, n: usize) {
        let job = self.job;
        let (tape, lanes) = (job.tape, job.isa.lanes());
        for (k, &(node, i)) in tape.inputs.iter().enumerate() {
            self.locs[usize::from(node)] = self.input_at(k, i.into(), start, n, false);
        }
        let index = self.index(start, n);
        for &node in &tape.runs {
            let skipped = index.map_or(0, |i| i as usize % 4);
            let at = self.register(node).at.wrapping_add(skipped);
            self.locs[usize::from(node)] = Loc { at, step: 1 };
        }
        for (o, &node) in tape.program().outputs().iter().enumerate().take(job.outputs.len()) {
            if self.direct[o] {
                let register = self.register(node);
                let output = self.direct_output(o, start, n);
                self.locs[usize::from(node)] = output.unwrap_or(register);
            }
        }
        let vectors = n.div_ceil(lanes);
        // SAFETY: registers and staged blocks have room for `n` elements and SLACK more, which is
        // the rest of the last vector or what a run writes behind; blocks inside operands hold `n`
        // elements, and are taken only where `n` is whole vectors.
        unsafe {
            match self.job.fixed() {
                Some((fixed, isa)) => {
                    fixed.run(isa, self.blocks(&fixed.args, vectors), job.immediates)
                }
                None => job.isa.run(RunSteps::new(&tape.steps, &self.locs, vectors, index)),
            }
        }
    }

    fn blocks(&self, args: &[Option<NodeId>; 8], vectors: usize) -> Blocks {
        let arg = |a: &Option<NodeId>| a.map_or(self.splat(0), |n| self.locs[usize::from(n)]);
        let mut outs = [std::ptr::null_mut(); 3];
        for (out, &node) in outs.iter_mut().zip(self.job.tape.program().outputs()) {
            *out = self.locs[usize::from(node)].at;
        }
        Blocks {
            args: args.each_ref().map(arg),
            arg_pitches: [0; 8],
            outs,
            out_pitches: [0; 3],
            rows: 1,
            vectors,
        }
    }

    /// Rows of the fastest axis in the whole walk.
    pub fn rows(&self) -> usize {
        self.job.grid.len() / self.job.grid.inner()
    }

    /// Evaluates `rows` rows from row `first` and writes the outputs.
    ///
    /// # Safety
    /// The job is [`Job::is_direct_by_row`], and the rows are among those of its grid.
    pub unsafe fn write_rows(&mut self, first: usize, rows: usize) {
        let job = self.job;
        let (grid, tape) = (job.grid, job.tape);
        let Some((fixed, isa)) = job.fixed() else { return };
        let start = first * grid.inner();
        let vectors = grid.inner() / job.isa.lanes();
        for (k, &(node, i)) in tape.inputs.iter().enumerate() {
            self.locs[usize::from(node)] = self.input_at(k, i.into(), start, grid.inner(), false);
        }
        let mut blocks = self.blocks(&fixed.args, vectors);
        blocks.rows = rows;
        for (pitch, arg) in blocks.arg_pitches.iter_mut().zip(&fixed.args) {
            if let Some(Place::Input(i)) = arg.map(|node| tape.places[usize::from(node)]) {
                *pitch = grid.walk(usize::from(i)).strides[0];
            }
        }
        for o in 0..job.outputs.len() {
            let w = job.inputs.len() + o;
            let first: *mut f32 = job.outputs[o].first.cast();
            blocks.outs[o] = first.wrapping_offset(grid.position(w, start));
            blocks.out_pitches[o] = grid.walk(w).strides[0];
        }
        // SAFETY: every operand's rows are whole vectors of neighbours, or one element for all.
        unsafe { fixed.run(isa, blocks, job.immediates) };
    }

    /// True when the elements are neighbours in memory for walk `w`.
    fn adjacent(&self, w: usize, start: usize, n: usize) -> bool {
        let grid = self.job.grid;
        let inner = grid.inner();
        grid.walk(w).contiguous || (grid.inner_stride(w) == 1 && start % inner + n <= inner)
    }

    /// The first of consecutive indices; fills the block of indices where they are not, or where a
    /// step reads them.
    fn index(&self, start: usize, n: usize) -> Option<u32> {
        let (job, tape) = (self.job, self.job.tape);
        tape.index?;
        let w = job.inputs.len() + job.outputs.len();
        let adjacent = self.adjacent(w, start, n);
        if tape.index_is_read || !adjacent {
            let block: *mut u32 = self.staged_block(tape.inputs.len()).cast();
            let stride = job.grid.inner_stride(w);
            let base = job.index_base as isize;
            job.grid.stretches(w, start, n, |done, position, len| {
                for k in 0..len {
                    // SAFETY: the block has room for `n` elements.
                    unsafe {
                        *block.add(done + k) = (base + position + k as isize * stride) as u32
                    };
                }
            });
        }
        adjacent.then(|| (job.index_base as isize + job.grid.position(w, start)) as u32)
    }

    /// The block of input `i`, in place if possible, else in the `k`-th staged block; `any` accepts
    /// a block inside the operand that is not whole vectors.
    fn input_at(&self, k: usize, i: usize, start: usize, n: usize, any: bool) -> Loc {
        let (job, x) = (self.job, &self.job.inputs[i]);
        let (grid, stride) = (job.grid, job.grid.inner_stride(i));
        let in_row = start % grid.inner() + n <= grid.inner();
        if grid.walk(i).constant || (in_row && stride == 0) {
            let slot = self.splat(job.tape.splats + k);
            let position = grid.position(i, start);
            // SAFETY: the walk stays inside the operand and the slot holds a vector.
            unsafe {
                job.isa.run(Load::new(x, position, 0, slot.at, 1));
                self.fill(job.tape.splats + k, (*slot.at).to_bits());
            }
            return slot;
        }
        let whole = !self.copied[k] && (any || n.is_multiple_of(job.isa.lanes()));
        if x.dtype == Element::F32 && whole && self.adjacent(i, start, n) {
            let first: *mut f32 = x.first.cast();
            return Loc { at: first.wrapping_offset(grid.position(i, start)), step: 1 };
        }
        let to = self.staged_block(k);
        // Whole rows that are neighbours in memory, element by element, are turned together.
        let (turned, inner) = (grid.is_turned(i), grid.inner());
        let mut rows = Square { done: 0, position: 0, rows: 0 };
        let turn = |rows: &Square| {
            if rows.rows == 0 {
                return;
            }
            // SAFETY: the walk stays inside the operand and the block has room for `n` elements.
            job.isa.run(unsafe {
                let to = to.add(rows.done);
                Turn::new(x, rows.position, stride, to, [rows.rows, inner])
            });
        };
        grid.stretches(i, start, n, |done, position, len| {
            if !turned || len < inner {
                // SAFETY: as above.
                job.isa.run(unsafe { Load::new(x, position, stride, to.add(done), len) });
                return;
            }
            if rows.rows > 0 && position == rows.position + rows.rows as isize {
                rows.rows += 1;
                return;
            }
            turn(&rows);
            rows = Square { done, position, rows: 1 };
        });
        turn(&rows);
        Loc { at: to, step: 1 }
    }

    /// Where result `o` may be computed in place.
    fn direct_output(&self, o: usize, start: usize, n: usize) -> Option<Loc> {
        let job = self.job;
        let w = job.inputs.len() + o;
        let whole = n.is_multiple_of(job.isa.lanes());
        if !(self.direct[o] && whole && self.adjacent(w, start, n)) {
            return None;
        }
        let first: *mut f32 = job.outputs[o].first.cast();
        Some(Loc { at: first.wrapping_offset(job.grid.position(w, start)), step: 1 })
    }

    fn store(&self, o: usize, start: usize, n: usize) {
        let job = self.job;
        let from = self.locs[usize::from(job.tape.program().outputs()[o])];
        let w = job.inputs.len() + o;
        let stride = job.grid.inner_stride(w);
        job.grid.stretches(w, start, n, |done, position, len| {
            let from = Loc { at: from.at.wrapping_add(done * from.step), step: from.step };
            // SAFETY: `from` holds the `n` elements and the walk stays inside the output.
            job.isa.run(unsafe { Store::new(from, &job.outputs[o], position, stride, len) });
        });
    }
}

/// Whole rows of a block that are to be turned.
struct Square {
    /// Elements of the block before them.
    done: usize,
    /// Where the first one begins in the operand.
    position: isize,
    rows: usize,
}

/// Whether the node of output `o` may be computed in the output's memory: it must be a step's
/// result, this output the first that it goes to, and no input that is still read, or written out,
/// afterwards may be the same memory.
fn may_be_direct(job: &Job<'_>, o: usize) -> bool {
    let (tape, output) = (job.tape, &job.outputs[o]);
    let nodes = tape.program().outputs();
    let node = nodes[o];
    let Some(made) = tape.steps.iter().position(|s| s.node == node) else { return false };
    let overwritten = |&(_, i): &(NodeId, u16)| {
        let i = usize::from(i);
        job.inputs[i].first == output.first && tape.last_read[i] > made
    };
    let safe = job.fixed().is_some() || !tape.inputs.iter().any(overwritten);
    output.dtype == Element::F32 && !tape.steps[made].run && !nodes[..o].contains(&node) && safe
}

/// Whether an input must be copied because it is written out after its memory may have been.
fn must_be_copied(job: &Job<'_>, &(node, i): &(NodeId, u16)) -> bool {
    let x = job.inputs[usize::from(i)].first;
    let leaves = job.tape.program().outputs().contains(&node);
    leaves && job.outputs.iter().any(|output| output.first == x)
}
