//! Monomorphised kernels: one loop for a whole program, found by the program's hash.
//!
//! They are made from the definitions themselves, so no formula is written again, and have the same
//! bits as the interpreter: a test asserts it. Each costs compile time on every instruction set, so
//! there is one for what networks spend their time in; all else is interpreted.

use super::fold::{Fold, Folded, Host, Record, Replay};
use super::steps::Loc;
use crate::isa::{Isa, Kernel};
use crate::simd::Simd;
use starling_ops::defs::{self, Def};
use starling_ops::program::{Builder, NodeId, Op};
use starling_ops::{Dual, Math, Program, Scalar};
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::marker::PhantomData;
use std::sync::OnceLock;

/// The most arguments of a kernel.
const ARGS: usize = 8;
/// The most results of a kernel.
const OUTS: usize = 3;
/// The most scalars of a definition.
const SCALARS: usize = 4;
/// The most immediates of a kernel: scalars, and what is made of them alone.
const NUMBERS: usize = 8;
/// Values that stand for a definition's scalars while it is found out which immediate is which.
const MARKERS: [f64; SCALARS] = [0.300_000_1, 0.700_000_2, 0.110_000_3, 0.130_000_4];

/// What one element of each argument yields.
trait Formula: 'static {
    /// Number of arguments.
    const ARGS: usize;
    /// Number of results.
    const OUTS: usize;
    /// Reads the first `ARGS` of `args`, writes the first `OUTS` of `out`.
    fn eval<M: Math, H: Host>(
        m: Fold<M, H>,
        scalars: &[f64],
        args: &[M::V; ARGS],
        out: &mut [M::V; OUTS],
    );
}

/// A definition.
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

/// Evaluates a definition with scalars that `number` makes of their values.
#[inline(always)]
fn apply<M: Math, D: Unit>(
    m: M,
    scalars: &[f64],
    number: impl Fn(f64) -> M::V,
    tensors: &[M::V],
    out: &mut [M::V],
) {
    let mut args = [m.lit(0.0); ARGS + SCALARS];
    let (n, count) = (D::DEFINITION.tensors.len(), D::DEFINITION.scalars.len());
    args[..n].copy_from_slice(&tensors[..n]);
    for (slot, &scalar) in args[n..n + count].iter_mut().zip(scalars) {
        *slot = number(scalar);
    }
    D::UNIT.eval(m, &args[..n + count], &mut out[..D::DEFINITION.outputs]);
}

impl<D: Unit> Formula for Plain<D> {
    const ARGS: usize = D::DEFINITION.tensors.len();
    const OUTS: usize = D::DEFINITION.outputs;
    #[inline(always)]
    fn eval<M: Math, H: Host>(
        m: Fold<M, H>,
        scalars: &[f64],
        args: &[M::V; ARGS],
        out: &mut [M::V; OUTS],
    ) {
        let (mut tensors, mut results) = ([m.lit(0.0); ARGS], [m.lit(0.0); OUTS]);
        for (tensor, &arg) in tensors.iter_mut().zip(args) {
            *tensor = Folded::Value(arg);
        }
        apply::<_, D>(m, scalars, Folded::Imm, &tensors, &mut results);
        for (slot, &result) in out.iter_mut().zip(&results) {
            *slot = m.value(result);
        }
    }
}

impl<D: Unit> Formula for Slope<D> {
    const ARGS: usize = 2;
    const OUTS: usize = 1;
    #[inline(always)]
    fn eval<M: Math, H: Host>(
        m: Fold<M, H>,
        scalars: &[f64],
        args: &[M::V; ARGS],
        out: &mut [M::V; OUTS],
    ) {
        let dual = Dual(m);
        let mut result = [dual.lit(0.0)];
        let number = |x| Dual::<Fold<M, H>>::constant(Folded::Imm(x));
        apply::<_, D>(dual, scalars, number, &[dual.variable(Folded::Value(args[1]))], &mut result);
        out[0] = m.value(m.mul(Folded::Value(args[0]), dual.derivative(result[0])));
    }
}

impl<D: Unit> Formula for Biased<D> {
    const ARGS: usize = 2;
    const OUTS: usize = 1;
    #[inline(always)]
    fn eval<M: Math, H: Host>(
        m: Fold<M, H>,
        scalars: &[f64],
        args: &[M::V; ARGS],
        out: &mut [M::V; OUTS],
    ) {
        let mut result = [m.lit(0.0)];
        let sum = m.0.add(args[0], args[1]);
        apply::<_, D>(m, scalars, Folded::Imm, &[Folded::Value(sum)], &mut result);
        out[0] = m.value(result[0]);
    }
}

impl<D: Unit> Formula for BiasedSaved<D> {
    const ARGS: usize = 2;
    const OUTS: usize = 2;
    #[inline(always)]
    fn eval<M: Math, H: Host>(
        m: Fold<M, H>,
        scalars: &[f64],
        args: &[M::V; ARGS],
        out: &mut [M::V; OUTS],
    ) {
        Biased::<D>::eval(m, scalars, args, out);
        out[1] = m.0.add(args[0], args[1]);
    }
}

/// The blocks that a kernel reads and writes: `rows` rows of `vectors` whole vectors each.
pub(crate) struct Blocks {
    /// By argument: its first row.
    pub args: [Loc; ARGS],
    /// By argument: floats from one row to the next.
    pub arg_pitches: [isize; ARGS],
    /// By result: its first row.
    pub outs: [*mut f32; OUTS],
    /// By result: floats from one row to the next.
    pub out_pitches: [isize; OUTS],
    /// Number of rows.
    pub rows: usize,
    /// Whole vectors of a row.
    pub vectors: usize,
}

struct RunFixed<'a, F> {
    blocks: Blocks,
    /// Scalars, then what is made of them.
    numbers: &'a [f64; NUMBERS],
    /// How many of them are scalars.
    scalars: usize,
    formula: PhantomData<F>,
}

impl<F: Formula> Kernel for RunFixed<'_, F> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        // The scalar row leaves them to the interpreter: half the code, hardly slower.
        if S::LANES == 1 {
            unreachable!("`Vectors` has more lanes than one");
        }
        let Blocks { mut args, arg_pitches, mut outs, out_pitches, rows, vectors } = self.blocks;
        let (numbers, count) = (*self.numbers, self.scalars);
        let (scalars, made) = numbers.split_at(count);
        for _ in 0..rows {
            for i in 0..vectors {
                let mut values = [s.lit(0.0); ARGS];
                let mut results = [s.lit(0.0); OUTS];
                // SAFETY: `Fixed::run`'s caller promised the vectors of every row.
                unsafe {
                    for k in 0..F::ARGS {
                        values[k] = s.load(args[k].vector::<S>(i));
                    }
                    let m = Fold(s, Replay { made, next: &Cell::new(0) });
                    F::eval(m, scalars, &values, &mut results);
                    for k in 0..F::OUTS {
                        s.store(outs[k].add(i * S::LANES), results[k]);
                    }
                }
            }
            for k in 0..F::ARGS {
                args[k].at = args[k].at.wrapping_offset(arg_pitches[k]);
            }
            for k in 0..F::OUTS {
                outs[k] = outs[k].wrapping_offset(out_pitches[k]);
            }
        }
    }
}

type RunFn = fn(Isa, Blocks, &[f64; NUMBERS], usize);

fn run<F: Formula>(isa: Isa, blocks: Blocks, numbers: &[f64; NUMBERS], scalars: usize) {
    isa.run(RunFixed::<F> { blocks, numbers, scalars, formula: PhantomData });
}

/// An instruction set with registers of several lanes: what monomorphised kernels exist for.
#[derive(Clone, Copy)]
pub(crate) struct Vectors(Isa);

impl Vectors {
    /// `None` for one lane, whose programs are interpreted.
    pub fn of(isa: Isa) -> Option<Self> {
        (isa.lanes() > 1).then_some(Self(isa))
    }
}

/// A kernel for one program.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fixed {
    run: RunFn,
    /// How many scalars the formula has.
    scalars: usize,
    /// The immediate of each scalar and then of each number made of them; `None` where the program
    /// does not read it.
    numbers: [Option<u8>; NUMBERS],
    /// The program's node for each argument; `None` where the program does not read it.
    pub args: [Option<NodeId>; ARGS],
}

impl Fixed {
    /// Computes rows of blocks with the immediates' bits, on an instruction set with vectors.
    ///
    /// # Safety
    /// Of every row, each argument's block with step 1 and each result's holds `blocks.vectors`
    /// whole vectors, one with step 0 holds one; results share memory with arguments only element
    /// by element.
    pub unsafe fn run(&self, isa: Vectors, blocks: Blocks, immediates: &[u32]) {
        let number = |at: u8| f64::from(f32::from_bits(immediates[usize::from(at)]));
        let numbers = self.numbers.map(|at| at.map_or(0.0, number));
        (self.run)(isa.0, blocks, &numbers, self.scalars);
    }
}

/// The kernel of a program, if there is one.
pub(crate) fn find(program: &Program) -> Option<Fixed> {
    static TABLE: OnceLock<Table> = OnceLock::new();
    let table = TABLE.get_or_init(Table::new);
    let known = table.0.get(&program.hash())?;
    known.iter().find(|(template, _)| template == program).map(|found| found.1)
}

/// Programs that have a kernel, by their hash.
pub(crate) struct Table(HashMap<u64, Vec<(Program, Fixed)>>);

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

    fn put<F: Formula>(
        &mut self,
        scalars: usize,
        leaves: &[Op],
        build: impl FnOnce(&RefCell<Builder>, &dyn Fn() -> Vec<NodeId>) -> Vec<NodeId>,
    ) {
        let builder = RefCell::new(Builder::new());
        let immediate = |&x: &f64| builder.borrow_mut().immediate(x);
        // After the operands, as plans have them: the order of nodes is that of a commutative
        // operation's operands.
        let nodes = || MARKERS[..scalars].iter().map(immediate).collect();
        let outputs = build(&builder, &nodes);
        let (program, immediates) = builder.into_inner().finish_with_immediates(&outputs);
        // What the formula makes of the markers alone, in the order in which it does.
        let made = RefCell::new(Vec::new());
        let m = Fold(Scalar::<f32>::NEW, Record(&made));
        F::eval(m, &MARKERS[..scalars], &[0.5; ARGS], &mut [0.0; OUTS]);
        assert!(scalars + made.borrow().len() <= NUMBERS, "numbers of {program:?}");
        let mut numbers = [None; NUMBERS];
        let all =
            MARKERS[..scalars].iter().chain(made.borrow().iter()).copied().collect::<Vec<_>>();
        for (number, x) in numbers.iter_mut().zip(all) {
            let same = |&word: &u32| word == (x as f32).to_bits();
            *number = immediates.iter().position(same).map(|at| at as u8);
        }
        let mut args = [None; ARGS];
        for (arg, leaf) in args.iter_mut().zip(leaves) {
            let node = program.nodes().iter().position(|n| n.op == *leaf);
            *arg = node.map(|id| id as NodeId);
        }
        let known = self.0.entry(program.hash()).or_default();
        if known.iter().all(|(template, _)| *template != program) {
            known.push((program, Fixed { run: run::<F>, scalars, numbers, args }));
        }
    }

    /// What layers do with an activation: apply it, alone or after a bias, and go back through it.
    fn activation<D: Unit>(&mut self) {
        self.plain::<D>();
        self.slope::<D>();
        self.biased::<D>();
    }

    fn plain<D: Unit>(&mut self) {
        let d = D::DEFINITION;
        let leaves: Vec<Op> = (0..d.tensors.len()).map(|i| Op::Input(i as u16)).collect();
        self.put::<Plain<D>>(d.scalars.len(), &leaves, |b, scalars| {
            let args: Vec<NodeId> = leaves.iter().map(|&leaf| put(b, leaf, &[])).collect();
            d.put(b, &args, &scalars())
        });
    }

    /// `g * f'(x)` for either order of the inputs and of their appearance.
    fn slope<D: Unit>(&mut self) {
        for (g, x) in [(0, 1), (1, 0)] {
            let (g, x) = (Op::Input(g), Op::Input(x));
            for first in [g, x] {
                self.put::<Slope<D>>(D::DEFINITION.scalars.len(), &[g, x], |b, scalars| {
                    put(b, first, &[]);
                    let at = put(b, x, &[]);
                    let slope = D::DEFINITION.put_derivative(b, &[at], &scalars(), 0)[0];
                    let upstream = put(b, g, &[]);
                    vec![put(b, Op::Mul, &[upstream, slope])]
                });
            }
        }
    }

    fn biased<D: Unit>(&mut self) {
        let (x, bias) = (Op::Input(0), Op::Input(1));
        let build = |saved: bool, first: Op| {
            move |b: &RefCell<Builder>, scalars: &dyn Fn() -> Vec<NodeId>| {
                put(b, first, &[]);
                let leaves = [put(b, x, &[]), put(b, bias, &[])];
                let sum = put(b, Op::Add, &leaves);
                let mut out = D::DEFINITION.put(b, &[sum], &scalars());
                if saved {
                    out.push(sum);
                }
                out
            }
        };
        for first in [x, bias] {
            self.put::<Biased<D>>(D::DEFINITION.scalars.len(), &[x, bias], build(false, first));
            self.put::<BiasedSaved<D>>(D::DEFINITION.scalars.len(), &[x, bias], build(true, first));
        }
    }

    /// An optimizer's update: the first `inputs` tensors are inputs, the others parameters.
    fn update<D: Unit>(&mut self, inputs: usize) {
        let d = D::DEFINITION;
        let leaf = move |i: usize| {
            if i < inputs { Op::Input(i as u16) } else { Op::Param((i - inputs) as u16) }
        };
        let leaves: Vec<Op> = (0..d.tensors.len()).map(leaf).collect();
        self.put::<Plain<D>>(d.scalars.len(), &leaves, |b, scalars| {
            let args: Vec<NodeId> = leaves.iter().map(|&leaf| put(b, leaf, &[])).collect();
            d.put(b, &args, &scalars())
        });
    }
}

fn put(b: &RefCell<Builder>, op: Op, args: &[NodeId]) -> NodeId {
    b.borrow_mut().put(op, args)
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
    /// Every program that has a kernel.
    pub(crate) fn all() -> Vec<Program> {
        Table::new().0.into_values().flatten().map(|(program, _)| program).collect()
    }
}
