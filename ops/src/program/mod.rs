//! Programs: elementwise expressions as data, the form in which backends receive them.

mod builder;
mod immediates;

pub use builder::{Builder, Recipe};
pub use immediates::{Immediates, MAX_IMMEDIATES};

use crate::math::{Key, Math};
use crate::scalar::Scalar;
use std::fmt;
use std::hash::{Hash, Hasher};

/// What a node computes. The kind of its result is [`Op::kind`], of its arguments fixed by the
/// method of [`Math`] that it stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Op {
    /// Element of input `i`, converted to a real number.
    Input(u16),
    /// Word `i` of the verb's parameters as a real number: a value that changes every step.
    Param(u16),
    /// Word `i` of the verb's parameters as an integer.
    ParamWord(u16),
    /// Word `i` of the verb's [`Immediates`] as a real number: what a user gave as a number.
    Imm(u16),
    /// A constant of a definition: the bits of an f64, rounded once to the target's type.
    Const(u64),
    /// An integer constant.
    ConstWord(u32),
    /// The row-major index of the element in the iteration space.
    Index,
    /// [`Math::add`]
    Add,
    /// [`Math::sub`]
    Sub,
    /// [`Math::mul`]
    Mul,
    /// [`Math::div`]
    Div,
    /// [`Math::fma`]
    Fma,
    /// [`Math::mul_add`]
    MulAdd,
    /// [`Math::hold`]
    Hold,
    /// [`Math::neg`]
    Neg,
    /// [`Math::abs`]
    Abs,
    /// [`Math::min`]
    Min,
    /// [`Math::max`]
    Max,
    /// [`Math::floor`]
    Floor,
    /// [`Math::round`]
    Round,
    /// [`Math::round_f16`]
    RoundF16,
    /// [`Math::round_bf16`]
    RoundBf16,
    /// [`Math::sqrt`]
    Sqrt,
    /// [`Math::rsqrt`]
    Rsqrt,
    /// [`Math::exp`]
    Exp,
    /// [`Math::expm1`]
    Expm1,
    /// [`Math::log`]
    Log,
    /// [`Math::log1p`]
    Log1p,
    /// [`Math::sin`]
    Sin,
    /// [`Math::cos`]
    Cos,
    /// [`Math::tanh`]
    Tanh,
    /// [`Math::erf`]
    Erf,
    /// [`Math::sigmoid`]
    Sigmoid,
    /// [`Math::softplus`]
    Softplus,
    /// [`Math::pow`]
    Pow,
    /// [`Math::lt`]
    Lt,
    /// [`Math::le`]
    Le,
    /// [`Math::eq`]
    Eq,
    /// [`Math::and`]
    And,
    /// [`Math::or`]
    Or,
    /// [`Math::not`]
    Not,
    /// [`Math::select`]
    Select,
    /// [`Math::uadd`]
    UAdd,
    /// [`Math::usub`]
    USub,
    /// [`Math::umul`]
    UMul,
    /// [`Math::umulhi`]
    UMulHi,
    /// [`Math::uand`]
    UAnd,
    /// [`Math::uor`]
    UOr,
    /// [`Math::uxor`]
    UXor,
    /// [`Math::ushl`]
    UShl(u8),
    /// [`Math::ushr`]
    UShr(u8),
    /// [`Math::ueq`]
    UEq,
    /// [`Math::uselect`]
    USelect,
    /// [`Math::to_real`]
    ToReal,
    /// [`Math::to_uint`]
    ToUint,
    /// [`Math::bits`]
    Bits,
    /// [`Math::from_bits`]
    FromBits,
    /// [`Math::uniform`]; arguments: index, seed_lo, seed_hi, instance, step, node.
    Uniform,
}

/// The kind of value that a node yields; each is 4 bytes wide on every backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A real number.
    Real,
    /// A truth value.
    Mask,
    /// An unsigned integer.
    Word,
}

impl Op {
    /// The kind of the result.
    pub fn kind(self) -> Kind {
        use Op::*;
        match self {
            Lt | Le | Eq | And | Or | Not | UEq => Kind::Mask,
            ParamWord(_) | ConstWord(_) | Index | UAdd | USub | UMul | UMulHi | UAnd | UOr
            | UXor | UShl(_) | UShr(_) | USelect | ToUint | Bits => Kind::Word,
            _ => Kind::Real,
        }
    }

    /// The number of arguments.
    pub fn arity(self) -> usize {
        use Op::*;
        match self {
            Input(_) | Param(_) | ParamWord(_) | Imm(_) | Const(_) | ConstWord(_) | Index => 0,
            Hold | Neg | Abs | Floor | Round | RoundF16 | RoundBf16 | Sqrt | Rsqrt | Exp
            | Expm1 | Log | Log1p | Sin | Cos | Tanh | Erf | Sigmoid | Softplus | Not | UShl(_)
            | UShr(_) | ToReal | ToUint | Bits | FromBits => 1,
            Fma | MulAdd | Select | USelect => 3,
            Uniform => 6,
            _ => 2,
        }
    }

    /// How many leading arguments may change places without changing a bit of the result.
    ///
    /// `min` and `max` are not among them: they tell +0 from -0 by position.
    pub(crate) fn commuting(self) -> bool {
        use Op::*;
        matches!(
            self,
            Add | Mul
                | Fma
                | MulAdd
                | Eq
                | And
                | Or
                | UAdd
                | UMul
                | UMulHi
                | UAnd
                | UOr
                | UXor
                | UEq
        )
    }
}

/// The position of a node in [`Program::nodes`].
pub type NodeId = u16;

/// One step of a program; its arguments stand before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Node {
    /// What is computed.
    pub op: Op,
    pub(crate) args: [NodeId; 6],
}

impl Node {
    /// The arguments, in the order of the [`Math`] method.
    pub fn args(&self) -> &[NodeId] {
        &self.args[..self.op.arity()]
    }
}

/// The value of a node over the target `M`.
#[derive(Clone, Copy, Debug)]
pub enum Slot<M: Math> {
    /// A real number.
    V(M::V),
    /// A truth value.
    B(M::B),
    /// An integer.
    U(M::U),
}

/// Evaluates one operation other than a leaf on earlier values.
///
/// # Panics
/// When `op` is a leaf or an argument has the wrong kind; [`Builder`] makes neither.
#[inline(always)]
pub fn apply<M: Math>(m: M, op: Op, args: &[NodeId], slots: &mut [Slot<M>]) -> Slot<M> {
    let v = |i: usize| match slots[args[i] as usize] {
        Slot::V(v) => v,
        _ => unreachable!("argument {i} of {op:?} is a real number"),
    };
    let b = |i: usize| match slots[args[i] as usize] {
        Slot::B(b) => b,
        _ => unreachable!("argument {i} of {op:?} is a truth value"),
    };
    let u = |i: usize| match slots[args[i] as usize] {
        Slot::U(u) => u,
        _ => unreachable!("argument {i} of {op:?} is an integer"),
    };
    match op {
        Op::Add => Slot::V(m.add(v(0), v(1))),
        Op::Sub => Slot::V(m.sub(v(0), v(1))),
        Op::Mul => Slot::V(m.mul(v(0), v(1))),
        Op::Div => Slot::V(m.div(v(0), v(1))),
        Op::Fma => Slot::V(m.fma(v(0), v(1), v(2))),
        Op::MulAdd => Slot::V(m.mul_add(v(0), v(1), v(2))),
        Op::Hold => Slot::V(m.hold(v(0))),
        Op::Neg => Slot::V(m.neg(v(0))),
        Op::Abs => Slot::V(m.abs(v(0))),
        Op::Min => Slot::V(m.min(v(0), v(1))),
        Op::Max => Slot::V(m.max(v(0), v(1))),
        Op::Floor => Slot::V(m.floor(v(0))),
        Op::Round => Slot::V(m.round(v(0))),
        Op::RoundF16 => Slot::V(m.round_f16(v(0))),
        Op::RoundBf16 => Slot::V(m.round_bf16(v(0))),
        Op::Sqrt => Slot::V(m.sqrt(v(0))),
        Op::Rsqrt => Slot::V(m.rsqrt(v(0))),
        Op::Exp => Slot::V(m.exp(v(0))),
        Op::Expm1 => Slot::V(m.expm1(v(0))),
        Op::Log => Slot::V(m.log(v(0))),
        Op::Log1p => Slot::V(m.log1p(v(0))),
        Op::Sin => Slot::V(m.sin(v(0))),
        Op::Cos => Slot::V(m.cos(v(0))),
        Op::Tanh => Slot::V(m.tanh(v(0))),
        Op::Erf => Slot::V(m.erf(v(0))),
        Op::Sigmoid => Slot::V(m.sigmoid(v(0))),
        Op::Softplus => Slot::V(m.softplus(v(0))),
        Op::Pow => Slot::V(m.pow(v(0), v(1))),
        Op::Lt => Slot::B(m.lt(v(0), v(1))),
        Op::Le => Slot::B(m.le(v(0), v(1))),
        Op::Eq => Slot::B(m.eq(v(0), v(1))),
        Op::And => Slot::B(m.and(b(0), b(1))),
        Op::Or => Slot::B(m.or(b(0), b(1))),
        Op::Not => Slot::B(m.not(b(0))),
        Op::Select => Slot::V(m.select(b(0), v(1), v(2))),
        Op::UAdd => Slot::U(m.uadd(u(0), u(1))),
        Op::USub => Slot::U(m.usub(u(0), u(1))),
        Op::UMul => Slot::U(m.umul(u(0), u(1))),
        Op::UMulHi => Slot::U(m.umulhi(u(0), u(1))),
        Op::UAnd => Slot::U(m.uand(u(0), u(1))),
        Op::UOr => Slot::U(m.uor(u(0), u(1))),
        Op::UXor => Slot::U(m.uxor(u(0), u(1))),
        Op::UShl(n) => Slot::U(m.ushl(u(0), n.into())),
        Op::UShr(n) => Slot::U(m.ushr(u(0), n.into())),
        Op::UEq => Slot::B(m.ueq(u(0), u(1))),
        Op::USelect => Slot::U(m.uselect(b(0), u(1), u(2))),
        Op::ToReal => Slot::V(m.to_real(u(0))),
        Op::ToUint => Slot::U(m.to_uint(v(0))),
        Op::Bits => Slot::U(m.bits(v(0))),
        Op::FromBits => Slot::V(m.from_bits(u(0))),
        Op::Uniform => Slot::V(m.uniform(
            u(0),
            Key { seed_lo: u(1), seed_hi: u(2), instance: u(3), step: u(4), node: u(5) },
        )),
        Op::Input(_)
        | Op::Param(_)
        | Op::ParamWord(_)
        | Op::Imm(_)
        | Op::Const(_)
        | Op::ConstWord(_)
        | Op::Index => unreachable!("{op:?} is a leaf"),
    }
}

/// What the leaves of a program stand for in one evaluation.
pub struct Env<'a, M: Math> {
    /// Element of each input.
    pub inputs: &'a [M::V],
    /// Each parameter as a real number.
    pub params: &'a [M::V],
    /// Each parameter as a word.
    pub words: &'a [M::U],
    /// Each immediate.
    pub immediates: &'a [M::V],
    /// The element's index.
    pub index: M::U,
}

/// An elementwise expression with any number of outputs, in an order in which it can be evaluated.
///
/// Equal expressions give equal programs with equal [`Program::hash`]: a backend caches what it
/// compiles under it. Values of parameters and immediates are not part of a program.
#[derive(Clone, PartialEq, Eq)]
pub struct Program {
    nodes: Vec<Node>,
    outputs: Vec<NodeId>,
    inputs: usize,
    params: usize,
    immediates: usize,
    hash: u64,
}

impl Program {
    fn from_parts(nodes: Vec<Node>, outputs: Vec<NodeId>) -> Self {
        let (mut inputs, mut params, mut immediates) = (0, 0, 0);
        for node in &nodes {
            match node.op {
                Op::Input(i) => inputs = inputs.max(usize::from(i) + 1),
                Op::Param(i) | Op::ParamWord(i) => params = params.max(usize::from(i) + 1),
                Op::Imm(i) => immediates = immediates.max(usize::from(i) + 1),
                _ => {}
            }
        }
        let hash = fingerprint(&nodes, &outputs);
        Self { nodes, outputs, inputs, params, immediates, hash }
    }

    /// A program made by `f`, which puts nodes and names the outputs.
    pub fn build(f: impl FnOnce(&mut Builder) -> Vec<NodeId>) -> Self {
        let mut builder = Builder::new();
        let outputs = f(&mut builder);
        builder.finish(&outputs)
    }

    /// The program whose only output is its only input.
    pub fn identity() -> Self {
        Self::build(|b| vec![b.put(Op::Input(0), &[])])
    }

    /// The steps, arguments before their users.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The nodes whose values are the outputs.
    pub fn outputs(&self) -> &[NodeId] {
        &self.outputs
    }

    /// One more than the largest input that is read.
    pub fn input_count(&self) -> usize {
        self.inputs
    }

    /// One more than the largest parameter that is read.
    pub fn param_count(&self) -> usize {
        self.params
    }

    /// One more than the largest immediate that is read.
    pub fn immediate_count(&self) -> usize {
        self.immediates
    }

    /// The same on every machine and in every version that builds the same nodes.
    pub fn hash(&self) -> u64 {
        self.hash
    }

    /// True when the value depends on the element's position, so that the program may only run in
    /// an iteration space of its own shape.
    pub fn uses_index(&self) -> bool {
        self.nodes.iter().any(|n| n.op == Op::Index)
    }

    /// True when the program hands its input through unchanged.
    pub fn is_identity(&self) -> bool {
        self.outputs == [0] && self.nodes.len() == 1 && self.nodes[0].op == Op::Input(0)
    }

    /// Evaluates over any target; `slots` is working memory that may be reused between calls.
    ///
    /// # Panics
    /// When `env` has fewer inputs, parameters or immediates than the program reads.
    pub fn eval<M: Math>(
        &self,
        m: M,
        env: &Env<'_, M>,
        slots: &mut Vec<Slot<M>>,
        mut output: impl FnMut(usize, M::V),
    ) {
        slots.clear();
        for node in &self.nodes {
            let value = match node.op {
                Op::Input(i) => Slot::V(env.inputs[usize::from(i)]),
                Op::Param(i) => Slot::V(env.params[usize::from(i)]),
                Op::ParamWord(i) => Slot::U(env.words[usize::from(i)]),
                Op::Imm(i) => Slot::V(env.immediates[usize::from(i)]),
                Op::Const(bits) => Slot::V(m.lit(f64::from_bits(bits))),
                Op::ConstWord(x) => Slot::U(m.ulit(x)),
                Op::Index => Slot::U(env.index),
                op => apply(m, op, node.args(), slots),
            };
            slots.push(value);
        }
        for (i, &o) in self.outputs.iter().enumerate() {
            if let Slot::V(v) = slots[usize::from(o)] {
                output(i, v);
            }
        }
    }

    /// Evaluates a program without immediates in f64 on plain numbers; the convenience of tests.
    pub fn eval_f64(&self, inputs: &[f64], params: &[u32], index: u32) -> Vec<f64> {
        let reals: Vec<f64> = params.iter().map(|&w| f64::from(f32::from_bits(w))).collect();
        let env = Env { inputs, params: &reals, words: params, immediates: &[], index };
        let mut out = vec![f64::NAN; self.outputs.len()];
        self.eval(Scalar::<f64>::NEW, &env, &mut Vec::new(), |i, v| out[i] = v);
        out
    }
}

impl Hash for Program {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.hash);
    }
}

impl fmt::Debug for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "program {:016x}", self.hash)?;
        for (i, node) in self.nodes.iter().enumerate() {
            match node.op {
                Op::Const(bits) => writeln!(f, "  v{i} = {:?}", f64::from_bits(bits))?,
                op => writeln!(f, "  v{i} = {op:?} {:?}", node.args())?,
            }
        }
        write!(f, "  -> {:?}", self.outputs)
    }
}

/// FNV-1a over an explicit encoding, so that it does not depend on a hasher's or compiler's mood.
fn fingerprint(nodes: &[Node], outputs: &[NodeId]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let mut eat = |bytes: &[u8]| {
        for &b in bytes {
            hash = (hash ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3);
        }
    };
    for node in nodes {
        eat(format!("{:?}", node.op).as_bytes());
        for a in node.args() {
            eat(&a.to_le_bytes());
        }
    }
    eat(b"->");
    for o in outputs {
        eat(&o.to_le_bytes());
    }
    hash
}
