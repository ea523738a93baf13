//! Monomorphised kernels: one loop for a whole program, found by a hash of its outline.
//!
//! They are made from the definitions themselves, so no formula is written again, and have the same
//! bits as the interpreter: a test asserts it. Each costs compile time on every instruction set, so
//! there is one for what networks spend their time in; all else is interpreted.

use super::fold::{Fold, Folded};
use super::steps::Loc;
use crate::isa::{Isa, Kernel};
use crate::simd::Simd;
use starling_ops::defs::{self, Def};
use starling_ops::program::{Builder, NodeId, Op};
use starling_ops::{Dual, Math, Program};
use std::cell::RefCell;
use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::marker::PhantomData;
use std::sync::OnceLock;

/// The most arguments of a kernel.
const ARGS: usize = 8;
/// The most results of a kernel.
const OUTS: usize = 3;
/// The most scalars of a definition.
const SCALARS: usize = 4;
/// Values that stand for a definition's scalars while its program is recognised: no constant of a
/// definition.
const MARKERS: [f64; SCALARS] = [0.300_000_1, 0.700_000_2, 0.110_000_3, 0.130_000_4];

/// What one element of each argument yields.
trait Formula: 'static {
    /// Number of arguments.
    const ARGS: usize;
    /// Number of results.
    const OUTS: usize;
    /// Reads the first `ARGS` of `args`, writes the first `OUTS` of `out`.
    fn eval<S: Simd>(s: S, scalars: &[f64; SCALARS], args: &[S::V; ARGS], out: &mut [S::V; OUTS]);
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

/// Evaluates a definition. Its scalars stay f64 until they meet a tensor, as in a program; what
/// they make among themselves is the same for every element and leaves the loop.
#[inline(always)]
fn apply<M: Math, D: Unit>(m: M, scalars: &[f64; SCALARS], tensors: &[M::V], out: &mut [M::V]) {
    let mut args = [m.lit(0.0); ARGS + SCALARS];
    let (n, count) = (D::DEFINITION.tensors.len(), D::DEFINITION.scalars.len());
    args[..n].copy_from_slice(&tensors[..n]);
    for (slot, &scalar) in args[n..n + count].iter_mut().zip(scalars) {
        *slot = m.lit(scalar);
    }
    D::UNIT.eval(m, &args[..n + count], &mut out[..D::DEFINITION.outputs]);
}

impl<D: Unit> Formula for Plain<D> {
    const ARGS: usize = D::DEFINITION.tensors.len();
    const OUTS: usize = D::DEFINITION.outputs;
    #[inline(always)]
    fn eval<S: Simd>(s: S, scalars: &[f64; SCALARS], args: &[S::V; ARGS], out: &mut [S::V; OUTS]) {
        let m = Fold(s);
        let (mut tensors, mut results) = ([m.lit(0.0); ARGS], [m.lit(0.0); OUTS]);
        for (tensor, &arg) in tensors.iter_mut().zip(args) {
            *tensor = Folded::Value(arg);
        }
        apply::<_, D>(m, scalars, &tensors, &mut results);
        for (slot, &result) in out.iter_mut().zip(&results) {
            *slot = m.value(result);
        }
    }
}

impl<D: Unit> Formula for Slope<D> {
    const ARGS: usize = 2;
    const OUTS: usize = 1;
    #[inline(always)]
    fn eval<S: Simd>(s: S, scalars: &[f64; SCALARS], args: &[S::V; ARGS], out: &mut [S::V; OUTS]) {
        let m = Fold(s);
        let dual = Dual(m);
        let mut result = [dual.lit(0.0)];
        apply::<_, D>(dual, scalars, &[dual.variable(Folded::Value(args[1]))], &mut result);
        out[0] = m.value(m.mul(Folded::Value(args[0]), dual.derivative(result[0])));
    }
}

impl<D: Unit> Formula for Biased<D> {
    const ARGS: usize = 2;
    const OUTS: usize = 1;
    #[inline(always)]
    fn eval<S: Simd>(s: S, scalars: &[f64; SCALARS], args: &[S::V; ARGS], out: &mut [S::V; OUTS]) {
        let m = Fold(s);
        let mut result = [m.lit(0.0)];
        let sum = s.add(args[0], args[1]);
        apply::<_, D>(m, scalars, &[Folded::Value(sum)], &mut result);
        out[0] = m.value(result[0]);
    }
}

impl<D: Unit> Formula for BiasedSaved<D> {
    const ARGS: usize = 2;
    const OUTS: usize = 2;
    #[inline(always)]
    fn eval<S: Simd>(s: S, scalars: &[f64; SCALARS], args: &[S::V; ARGS], out: &mut [S::V; OUTS]) {
        Biased::<D>::eval(s, scalars, args, out);
        out[1] = s.add(args[0], args[1]);
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
    scalars: &'a [f64; SCALARS],
    formula: PhantomData<F>,
}

impl<F: Formula> Kernel for RunFixed<'_, F> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        // The scalar row leaves them to the interpreter: half the code, hardly slower.
        if S::LANES == 1 {
            return;
        }
        let Blocks { mut args, arg_pitches, mut outs, out_pitches, rows, vectors } = self.blocks;
        let scalars = *self.scalars;
        for _ in 0..rows {
            for i in 0..vectors {
                let mut values = [s.lit(0.0); ARGS];
                let mut results = [s.lit(0.0); OUTS];
                // SAFETY: `Fixed::run`'s caller promised the vectors of every row.
                unsafe {
                    for k in 0..F::ARGS {
                        values[k] = s.load(args[k].vector::<S>(i));
                    }
                    F::eval(s, &scalars, &values, &mut results);
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

/// Makes a program with these scalars.
type Build = Box<dyn Fn(&[f64]) -> Program + Send + Sync>;
type RunFn = fn(Isa, Blocks, &[f64; SCALARS]);

fn run<F: Formula>(isa: Isa, blocks: Blocks, scalars: &[f64; SCALARS]) {
    isa.run(RunFixed::<F> { blocks, scalars, formula: PhantomData });
}

/// A kernel for one program.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fixed {
    run: RunFn,
    scalars: [f64; SCALARS],
    /// The program's node for each argument; `None` where the program does not read it.
    pub args: [Option<NodeId>; ARGS],
}

impl Fixed {
    /// Computes rows of blocks, on an instruction set with vectors.
    ///
    /// # Safety
    /// Of every row, each argument's block with step 1 and each result's holds `blocks.vectors`
    /// whole vectors, one with step 0 holds one; results share memory with arguments only element
    /// by element.
    pub unsafe fn run(&self, isa: Isa, blocks: Blocks) {
        (self.run)(isa, blocks, &self.scalars);
    }
}

/// The kernel of a program, if there is one.
pub(crate) fn find(program: &Program) -> Option<Fixed> {
    static TABLE: OnceLock<Table> = OnceLock::new();
    let table = TABLE.get_or_init(Table::new);
    table.0.get(&outline(program))?.iter().find_map(|template| template.matches(program))
}

/// A program with markers for its scalars, and its kernel.
struct Template {
    program: Program,
    leaves: Vec<Op>,
    run: RunFn,
    /// The node that holds each scalar.
    scalars: Vec<usize>,
    /// The program with other scalars.
    build: Build,
}

impl Template {
    /// The kernel with the scalars of `program`, if it is this one but for scalars.
    fn matches(&self, program: &Program) -> Option<Fixed> {
        let value = |&node: &usize| match program.nodes().get(node)?.op {
            Op::Const(bits) => Some(f64::from_bits(bits)),
            _ => None,
        };
        let found: Option<Vec<f64>> = self.scalars.iter().map(value).collect();
        let found = found?;
        if (self.build)(&found) != *program {
            return None;
        }
        let mut scalars = [0.0; SCALARS];
        scalars[..found.len()].copy_from_slice(&found);
        let mut args = [None; ARGS];
        for (arg, leaf) in args.iter_mut().zip(&self.leaves) {
            let node = program.nodes().iter().position(|n| n.op == *leaf);
            *arg = node.map(|id| id as NodeId);
        }
        Some(Fixed { run: self.run, scalars, args })
    }
}

/// A hash of a program that does not depend on its constants.
fn outline(program: &Program) -> u64 {
    let mut hash = DefaultHasher::new();
    for node in program.nodes() {
        match node.op {
            Op::Const(_) => Op::Const(0).hash(&mut hash),
            op => op.hash(&mut hash),
        }
        node.args().hash(&mut hash);
    }
    program.outputs().hash(&mut hash);
    hash.finish()
}

/// Programs that have a kernel, by [`outline`].
pub(crate) struct Table(HashMap<u64, Vec<Template>>);

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
        build: impl Fn(&[f64]) -> Program + Send + Sync + 'static,
    ) {
        let program = build(&MARKERS[..scalars]);
        let node_of =
            |marker: &f64| program.nodes().iter().position(|n| n.op == Op::Const(marker.to_bits()));
        let found: Option<Vec<usize>> = MARKERS[..scalars].iter().map(node_of).collect();
        // A program that does not hold every scalar as it is would be left to the interpreter.
        let Some(scalars) = found else { return };
        let known = self.0.entry(outline(&program)).or_default();
        if known.iter().all(|t| t.program != program) {
            let (leaves, build) = (leaves.to_vec(), Box::new(build));
            known.push(Template { program, leaves, run: run::<F>, scalars, build });
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
        self.put::<Plain<D>>(d.scalars.len(), &leaves, |scalars| d.program(scalars));
    }

    /// `g * f'(x)` for either order of the inputs and of their appearance.
    fn slope<D: Unit>(&mut self) {
        for (g, x) in [(0, 1), (1, 0)] {
            let (g, x) = (Op::Input(g), Op::Input(x));
            for first in [g, x] {
                self.put::<Slope<D>>(D::DEFINITION.scalars.len(), &[g, x], move |scalars| {
                    standalone(|b| {
                        put(b, first, &[]);
                        let at = put(b, x, &[]);
                        let slope = D::DEFINITION.put_derivative(b, &[at], scalars, 0)[0];
                        let upstream = put(b, g, &[]);
                        vec![put(b, Op::Mul, &[upstream, slope])]
                    })
                });
            }
        }
    }

    fn biased<D: Unit>(&mut self) {
        let (x, bias) = (Op::Input(0), Op::Input(1));
        let build = |saved: bool, first: Op| {
            move |scalars: &[f64]| {
                standalone(|b| {
                    put(b, first, &[]);
                    let leaves = [put(b, x, &[]), put(b, bias, &[])];
                    let sum = put(b, Op::Add, &leaves);
                    let mut out = D::DEFINITION.put(b, &[sum], scalars);
                    if saved {
                        out.push(sum);
                    }
                    out
                })
            }
        };
        for first in [x, bias] {
            self.put::<Biased<D>>(0, &[x, bias], build(false, first));
            self.put::<BiasedSaved<D>>(0, &[x, bias], build(true, first));
        }
    }

    /// An optimizer's update: the first `inputs` tensors are inputs, the others parameters.
    fn update<D: Unit>(&mut self, inputs: usize) {
        let d = D::DEFINITION;
        let leaf = move |i: usize| {
            if i < inputs { Op::Input(i as u16) } else { Op::Param((i - inputs) as u16) }
        };
        let leaves: Vec<Op> = (0..d.tensors.len()).map(leaf).collect();
        self.put::<Plain<D>>(d.scalars.len(), &leaves, move |scalars| {
            standalone(|b| {
                let args: Vec<NodeId> =
                    (0..d.tensors.len()).map(|i| put(b, leaf(i), &[])).collect();
                d.put(b, &args, scalars)
            })
        });
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
    /// Every program that has a kernel, with the markers for scalars and with other ones.
    pub(crate) fn all() -> Vec<Program> {
        let table = Table::new();
        let both = |t: &Template| {
            let other: Vec<f64> = t.scalars.iter().map(|&i| 0.9 + 0.01 * i as f64).collect();
            [t.program.clone(), (t.build)(&other)]
        };
        table.0.values().flatten().flat_map(both).collect()
    }
}
