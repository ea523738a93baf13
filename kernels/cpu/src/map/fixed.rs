//! Monomorphised kernels: one loop for a whole program, found by its hash.
//!
//! They are made from the definitions themselves, so no formula is written again, and have the same
//! bits as the interpreter: a test asserts it. Each costs compile time on every instruction set, so
//! there is one for what networks spend their time in; all else is interpreted.

use super::fold::{Fold, Folded};
use super::steps::Loc;
use crate::isa::{Isa, Kernel};
use crate::simd::Simd;
use starling_ops::defs::{self, Def, Definition};
use starling_ops::program::{Builder, NodeId, Op};
use starling_ops::{Dual, Math, Program};
use std::cell::RefCell;
use std::collections::HashMap;
use std::marker::PhantomData;
use std::sync::OnceLock;

/// The most arguments of a kernel.
const ARGS: usize = 8;
/// The most results of a kernel.
const OUTS: usize = 3;

/// What one element of each argument yields.
trait Formula: 'static {
    /// Number of arguments.
    const ARGS: usize;
    /// Number of results.
    const OUTS: usize;
    /// Reads the first `ARGS` of `args`, writes the first `OUTS` of `out`.
    fn eval<S: Simd>(s: S, args: &[S::V; ARGS], out: &mut [S::V; OUTS]);
}

/// A definition with the default values of its scalars.
struct Plain<D>(PhantomData<D>);
/// `g * f'(x)` of a definition with one tensor: arguments g, x.
struct Slope<D>(PhantomData<D>);
/// `f(x + b)`: arguments x, b.
struct Biased<D>(PhantomData<D>);
/// `f(x + b)` and `x + b`.
struct BiasedSaved<D>(PhantomData<D>);

/// The value of a definition's type.
trait Unit: Def {
    const UNIT: Self;
}

/// Evaluates a definition on its tensors and the default values of its scalars.
#[inline(always)]
fn with_defaults<M: Math, D: Unit>(m: M, tensors: &[M::V], out: &mut [M::V]) {
    let mut args = [m.lit(0.0); ARGS + 4];
    let (n, scalars) = (D::DEFINITION.tensors.len(), D::DEFINITION.scalars);
    args[..n].copy_from_slice(&tensors[..n]);
    for (slot, scalar) in args[n..].iter_mut().zip(scalars) {
        *slot = m.lit(scalar.1);
    }
    D::UNIT.eval(m, &args[..n + scalars.len()], &mut out[..D::DEFINITION.outputs]);
}

impl<D: Unit> Formula for Plain<D> {
    const ARGS: usize = D::DEFINITION.tensors.len();
    const OUTS: usize = D::DEFINITION.outputs;
    #[inline(always)]
    fn eval<S: Simd>(s: S, args: &[S::V; ARGS], out: &mut [S::V; OUTS]) {
        let m = Fold(s);
        let (mut tensors, mut results) = ([m.lit(0.0); ARGS], [m.lit(0.0); OUTS]);
        for (tensor, &arg) in tensors.iter_mut().zip(args) {
            *tensor = Folded::Value(arg);
        }
        with_defaults::<_, D>(m, &tensors, &mut results);
        for (slot, &result) in out.iter_mut().zip(&results) {
            *slot = m.value(result);
        }
    }
}

impl<D: Unit> Formula for Slope<D> {
    const ARGS: usize = 2;
    const OUTS: usize = 1;
    #[inline(always)]
    fn eval<S: Simd>(s: S, args: &[S::V; ARGS], out: &mut [S::V; OUTS]) {
        let m = Fold(s);
        let dual = Dual(m);
        let mut result = [dual.lit(0.0)];
        with_defaults::<_, D>(dual, &[dual.variable(Folded::Value(args[1]))], &mut result);
        out[0] = m.value(m.mul(Folded::Value(args[0]), dual.derivative(result[0])));
    }
}

impl<D: Unit> Formula for Biased<D> {
    const ARGS: usize = 2;
    const OUTS: usize = 1;
    #[inline(always)]
    fn eval<S: Simd>(s: S, args: &[S::V; ARGS], out: &mut [S::V; OUTS]) {
        let m = Fold(s);
        let mut result = [m.lit(0.0)];
        let sum = s.add(args[0], args[1]);
        with_defaults::<_, D>(m, &[Folded::Value(sum)], &mut result);
        out[0] = m.value(result[0]);
    }
}

impl<D: Unit> Formula for BiasedSaved<D> {
    const ARGS: usize = 2;
    const OUTS: usize = 2;
    #[inline(always)]
    fn eval<S: Simd>(s: S, args: &[S::V; ARGS], out: &mut [S::V; OUTS]) {
        Biased::<D>::eval(s, args, out);
        out[1] = s.add(args[0], args[1]);
    }
}

/// The blocks that a kernel reads and writes.
pub(crate) struct Blocks {
    /// By argument.
    pub args: [Loc; ARGS],
    /// By result.
    pub outs: [*mut f32; OUTS],
    /// Whole vectors of each.
    pub vectors: usize,
}

struct RunFixed<F> {
    blocks: Blocks,
    formula: PhantomData<F>,
}

impl<F: Formula> Kernel for RunFixed<F> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        // The scalar row leaves them to the interpreter: half the code, hardly slower.
        if S::LANES == 1 {
            return;
        }
        let Blocks { args, outs, vectors } = self.blocks;
        for i in 0..vectors {
            let mut values = [s.lit(0.0); ARGS];
            let mut results = [s.lit(0.0); OUTS];
            // SAFETY: `Fixed::run`'s caller promised `vectors` vectors in every block.
            unsafe {
                for k in 0..F::ARGS {
                    values[k] = s.load(args[k].vector::<S>(i));
                }
                F::eval(s, &values, &mut results);
                for k in 0..F::OUTS {
                    s.store(outs[k].add(i * S::LANES), results[k]);
                }
            }
        }
    }
}

type RunFn = fn(Isa, Blocks);

fn run<F: Formula>(isa: Isa, blocks: Blocks) {
    isa.run(RunFixed::<F> { blocks, formula: PhantomData });
}

/// A kernel for one program.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fixed {
    run: RunFn,
    /// The program's node for each argument; `None` where the program does not read it.
    pub args: [Option<NodeId>; ARGS],
}

impl Fixed {
    /// Computes one block, on an instruction set with vectors.
    ///
    /// # Safety
    /// Every argument's block with step 1 and every result's holds `blocks.vectors` whole vectors,
    /// one with step 0 holds one; results share memory with arguments only element by element.
    pub unsafe fn run(&self, isa: Isa, blocks: Blocks) {
        (self.run)(isa, blocks);
    }
}

/// The kernel of a program, if there is one.
pub(crate) fn find(program: &Program) -> Option<Fixed> {
    static TABLE: OnceLock<Table> = OnceLock::new();
    let table = TABLE.get_or_init(Table::new);
    let (known, fixed) = table.0.get(&program.hash())?;
    (known == program).then_some(*fixed)
}

/// Programs that have a kernel.
pub(crate) struct Table(HashMap<u64, (Program, Fixed)>);

impl Table {
    fn new() -> Self {
        let mut table = Self(HashMap::new());
        table.activation::<defs::Relu>();
        table.activation::<defs::Gelu>();
        table.activation::<defs::GeluTanh>();
        table.activation::<defs::Silu>();
        table.activation::<defs::Sigmoid>();
        table.activation::<defs::Tanh>();
        table.plain::<defs::Add>();
        table.plain::<defs::Sub>();
        table.plain::<defs::Mul>();
        table.plain::<defs::Div>();
        table.update::<defs::Sgd>(3);
        table.update::<defs::Adam>(4);
        table.update::<defs::Adamw>(4);
        table
    }

    fn put<F: Formula>(&mut self, program: Program, leaves: &[Op]) {
        let node = |leaf: &Op| program.nodes().iter().position(|n| n.op == *leaf);
        let mut args = [None; ARGS];
        for (arg, leaf) in args.iter_mut().zip(leaves) {
            *arg = node(leaf).map(|id| id as NodeId);
        }
        self.0.insert(program.hash(), (program, Fixed { run: run::<F>, args }));
    }

    fn plain<D: Unit>(&mut self) {
        let d = D::DEFINITION;
        let leaves: Vec<Op> = (0..d.tensors.len()).map(|i| Op::Input(i as u16)).collect();
        self.put::<Plain<D>>(d.program(&d.default_scalars()), &leaves);
    }

    /// What layers do with an activation: apply it, alone or after a bias, and go back through it.
    fn activation<D: Unit>(&mut self) {
        self.plain::<D>();
        self.slope::<D>();
        self.biased::<D>();
    }

    /// `g * f'(x)` for either order of the inputs and of their appearance.
    fn slope<D: Unit>(&mut self) {
        for (g, x) in [(0, 1), (1, 0)] {
            let (g, x) = (Op::Input(g), Op::Input(x));
            for first in [g, x] {
                let program = standalone(|b| {
                    put(b, first, &[]);
                    let at = put(b, x, &[]);
                    let d = D::DEFINITION;
                    let slope = d.put_derivative(b, &[at], &d.default_scalars(), 0)[0];
                    let upstream = put(b, g, &[]);
                    vec![put(b, Op::Mul, &[upstream, slope])]
                });
                self.put::<Slope<D>>(program, &[g, x]);
            }
        }
    }

    fn biased<D: Unit>(&mut self) {
        let (x, bias) = (Op::Input(0), Op::Input(1));
        let d: &Definition = D::DEFINITION;
        let build = |saved: bool, first: Op| {
            standalone(|b| {
                put(b, first, &[]);
                let leaves = [put(b, x, &[]), put(b, bias, &[])];
                let sum = put(b, Op::Add, &leaves);
                let mut out = d.put(b, &[sum], &d.default_scalars());
                if saved {
                    out.push(sum);
                }
                out
            })
        };
        for first in [x, bias] {
            self.put::<Biased<D>>(build(false, first), &[x, bias]);
            self.put::<BiasedSaved<D>>(build(true, first), &[x, bias]);
        }
    }

    /// An optimizer's update: the first `inputs` tensors are inputs, the others parameters.
    fn update<D: Unit>(&mut self, inputs: usize) {
        let d = D::DEFINITION;
        let leaves: Vec<Op> = (0..d.tensors.len())
            .map(|i| if i < inputs { Op::Input(i as u16) } else { Op::Param((i - inputs) as u16) })
            .collect();
        let program = standalone(|b| {
            let args: Vec<NodeId> = leaves.iter().map(|&l| put(b, l, &[])).collect();
            d.put(b, &args, &d.default_scalars())
        });
        self.put::<Plain<D>>(program, &leaves);
    }
}

fn put(b: &RefCell<Builder>, op: Op, args: &[NodeId]) -> NodeId {
    b.borrow_mut().put(op, args)
}

fn standalone(f: impl FnOnce(&RefCell<Builder>) -> Vec<NodeId>) -> Program {
    let builder = RefCell::new(Builder::new());
    let outputs = f(&builder);
    builder.into_inner().finish(&outputs)
}

macro_rules! units {
    ($($ty:ident)*) => {
        $(impl Unit for defs::$ty {
            const UNIT: Self = defs::$ty;
        })*
    };
}
units! { Relu Gelu GeluTanh Silu Sigmoid Tanh Add Sub Mul Div Sgd Adam Adamw }

#[cfg(test)]
impl Table {
    /// Every program with its kernel.
    pub(crate) fn all() -> Vec<(Program, Fixed)> {
        Table::new().0.into_values().collect()
    }
}
