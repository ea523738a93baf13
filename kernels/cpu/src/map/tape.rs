//! A program made ready for the block interpreter: where each value lives, and in what order steps
//! run.

use super::fixed::{self, Fixed};
use starling_contract::Cache;
use starling_ops::Program;
use starling_ops::program::{Node, NodeId, Op};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

/// Where a node's value lives while a block is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// In an input.
    Input(u16),
    /// The same for every element: a vector of equal lanes in this slot.
    Splat(u16),
    /// The elements' indices.
    Index,
    /// A block in this register.
    Register(u16),
}

/// One operation over a block.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Step {
    /// What is computed.
    pub op: Op,
    /// Its node, which names the result.
    pub node: NodeId,
    /// The nodes of its arguments.
    pub args: [NodeId; 6],
    /// A [`Op::Uniform`] of the element's own index: consecutive counters share Philox blocks.
    pub run: bool,
}

/// A program ready to be interpreted.
#[derive(Debug)]
pub(crate) struct Tape {
    program: Program,
    /// Steps whose arguments are constants, immediates and parameters: done once, on one vector.
    pub prologue: Vec<Step>,
    /// The other steps.
    pub steps: Vec<Step>,
    /// By node.
    pub places: Vec<Place>,
    /// Blocks needed at the same time.
    pub registers: usize,
    /// Slots of equal lanes; slot 0 holds zeros and belongs to no node.
    pub splats: usize,
    /// The node of [`Op::Index`].
    pub index: Option<NodeId>,
    /// Some step needs the indices as a block even where they are consecutive.
    pub index_is_read: bool,
    /// The nodes of [`Op::Input`] and the inputs that they read.
    pub inputs: Vec<(NodeId, u16)>,
    /// The nodes of the steps that are runs.
    pub runs: Vec<NodeId>,
    /// By input: number of the step after which it is not read any more.
    pub last_read: Vec<usize>,
    /// The same program as a monomorphised kernel.
    pub fixed: Option<Fixed>,
}

/// Elements of a block in registers of which `registers` are alive at once: together they should
/// stay in the first-level cache.
pub(crate) fn block_len(registers: usize) -> usize {
    match registers {
        0..=6 => 1024,
        7..=14 => 512,
        _ => 256,
    }
}

/// Tapes that are kept: several times what a large model's step has.
pub(crate) const TAPES: usize = 1024;

/// The tapes of programs that ran lately.
pub(crate) fn tapes() -> &'static RwLock<Cache<Program, Arc<Tape>>> {
    static ALL: OnceLock<RwLock<Cache<Program, Arc<Tape>>>> = OnceLock::new();
    ALL.get_or_init(|| RwLock::new(Cache::new(TAPES)))
}

impl Tape {
    /// The tape of a program: made once, then found again.
    pub fn of(program: &Program) -> Arc<Tape> {
        let tapes = tapes();
        // A poisoned lock only means that another thread panicked; the cache is whole.
        let known = tapes.read().unwrap_or_else(PoisonError::into_inner).get(program).cloned();
        known.unwrap_or_else(|| {
            let tape = Arc::new(Tape::new(program, fixed::find(program)));
            let mut tapes = tapes.write().unwrap_or_else(PoisonError::into_inner);
            tapes.insert(program.clone(), tape.clone());
            tape
        })
    }

    /// Lays out a program; `fixed` is its monomorphised kernel.
    pub fn new(program: &Program, fixed: Option<Fixed>) -> Self {
        let nodes = program.nodes();
        let mut tape = Self {
            program: program.clone(),
            prologue: Vec::new(),
            steps: Vec::new(),
            places: Vec::with_capacity(nodes.len()),
            registers: 0,
            splats: 1,
            index: None,
            index_is_read: false,
            inputs: Vec::new(),
            runs: Vec::new(),
            last_read: vec![0; program.input_count()],
            fixed,
        };
        let last_use = last_uses(program);
        let mut free: Vec<u16> = Vec::new();
        for (id, node) in nodes.iter().enumerate() {
            let place = tape.place(id as NodeId, node, &last_use, &mut free);
            tape.places.push(place);
        }
        for &output in program.outputs() {
            match tape.places[usize::from(output)] {
                Place::Input(i) => tape.last_read[usize::from(i)] = tape.steps.len(),
                Place::Index => tape.index_is_read = true,
                _ => {}
            }
        }
        tape
    }

    /// The program.
    pub fn program(&self) -> &Program {
        &self.program
    }

    fn place(&mut self, id: NodeId, node: &Node, last_use: &[usize], free: &mut Vec<u16>) -> Place {
        let mut splat = || {
            self.splats += 1;
            Place::Splat(self.splats as u16 - 1)
        };
        match node.op {
            Op::Input(i) => {
                self.inputs.push((id, i));
                return Place::Input(i);
            }
            Op::Index => {
                self.index = Some(id);
                return Place::Index;
            }
            Op::Param(_) | Op::ParamWord(_) | Op::Imm(_) | Op::Const(_) | Op::ConstWord(_) => {
                return splat();
            }
            _ => {}
        }
        let mut args = [0; 6];
        args[..node.args().len()].copy_from_slice(node.args());
        let place = |a: &NodeId| self.places[usize::from(*a)];
        let mut step = Step { op: node.op, node: id, args, run: false };
        if node.args().iter().all(|a| matches!(place(a), Place::Splat(_))) {
            self.prologue.push(step);
            self.splats += 1;
            return Place::Splat(self.splats as u16 - 1);
        }
        let fixed_key = node.args().iter().skip(1).all(|a| matches!(place(a), Place::Splat(_)));
        step.run = node.op == Op::Uniform && place(&args[0]) == Place::Index && fixed_key;
        for (k, a) in node.args().iter().enumerate() {
            match place(a) {
                Place::Input(i) => self.last_read[usize::from(i)] = self.steps.len(),
                Place::Index if !(step.run && k == 0) => self.index_is_read = true,
                // A dying argument's register may take the result: steps go forward, vector by
                // vector, and read before they write.
                Place::Register(r)
                    if last_use[usize::from(*a)] == usize::from(id) && !free.contains(&r) =>
                {
                    free.push(r);
                }
                _ => {}
            }
        }
        if step.run {
            self.runs.push(id);
        }
        self.steps.push(step);
        let register = free.pop().unwrap_or_else(|| {
            self.registers += 1;
            self.registers as u16 - 1
        });
        Place::Register(register)
    }
}

/// By node: the last node that reads it; outputs live to the end.
fn last_uses(program: &Program) -> Vec<usize> {
    let mut last = vec![0; program.nodes().len()];
    for (id, node) in program.nodes().iter().enumerate() {
        for &a in node.args() {
            last[usize::from(a)] = id;
        }
    }
    for &output in program.outputs() {
        last[usize::from(output)] = usize::MAX;
    }
    last
}
