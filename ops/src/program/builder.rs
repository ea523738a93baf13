//! Building programs.

use super::{Immediates, Kind, MAX_IMMEDIATES, Node, NodeId, Op, Program, Slot, apply};
use crate::scalar::Scalar;
use std::collections::HashMap;

/// An immediate while a program is built.
#[derive(Debug)]
struct Number {
    /// Not rounded yet.
    value: f64,
    /// It may be computed with here.
    known: bool,
    /// What it was made of; `None` when it was given.
    made: Option<Node>,
}

#[derive(Clone, Copy, Debug)]
enum Operand {
    Number(u16),
    Constant(f64),
}

/// How the immediates of a program follow from the numbers that [`Builder::immediate`] and
/// [`Builder::element`] were given: what is needed to run the program again with other numbers
/// without building it again.
#[derive(Debug)]
pub struct Recipe {
    /// By number: `None` for one that is given, else how it is made.
    numbers: Vec<Option<(Op, Vec<Operand>)>>,
    /// By immediate of the finished program: its number.
    slots: Vec<u16>,
}

impl Recipe {
    /// The immediates for `given` numbers, one for each that the builder was given.
    pub fn immediates(&self, given: impl IntoIterator<Item = f64>) -> Immediates {
        let mut given = given.into_iter();
        let mut values = [f64::NAN; MAX_IMMEDIATES];
        for (i, number) in self.numbers.iter().enumerate() {
            values[i] = match number {
                None => given.next().unwrap_or(f64::NAN),
                Some((op, operands)) => {
                    let mut slots = [Slot::V(0.0); 6];
                    for (slot, operand) in slots.iter_mut().zip(operands) {
                        *slot = Slot::V(match *operand {
                            Operand::Number(i) => values[usize::from(i)],
                            Operand::Constant(x) => x,
                        });
                    }
                    let ids: [NodeId; 6] = [0, 1, 2, 3, 4, 5];
                    let ids = &ids[..operands.len()];
                    match apply(Scalar::<f64>::NEW, *op, ids, &mut slots) {
                        Slot::V(x) => x,
                        _ => f64::NAN,
                    }
                }
            };
        }
        let mut all = Immediates::default();
        self.slots.iter().for_each(|&slot| {
            all.push(values[usize::from(slot)] as f32);
        });
        all
    }
}

/// Collects nodes: equal nodes are one node, constants are folded, operands of commutative
/// operations are ordered.
#[derive(Debug, Default)]
pub struct Builder {
    nodes: Vec<Node>,
    known: HashMap<Node, NodeId>,
    /// By number of the immediate.
    immediates: Vec<Number>,
    /// What was made of immediates and constants alone, which is an immediate of its own.
    made: HashMap<Node, NodeId>,
}

impl Builder {
    /// An empty program.
    pub fn new() -> Self {
        Self::default()
    }

    /// The node with this operation and these arguments, made if there is none.
    ///
    /// # Panics
    /// When the program would have more than 65,536 nodes; the engine's plan stops far below.
    pub fn put(&mut self, op: Op, args: &[NodeId]) -> NodeId {
        debug_assert_eq!(args.len(), op.arity(), "{op:?}");
        let mut node = Node { op, args: [0; 6] };
        node.args[..args.len()].copy_from_slice(args);
        if op.commuting() && node.args[0] > node.args[1] {
            node.args.swap(0, 1);
        }
        if let Some(id) = self.simplify(node) {
            return id;
        }
        if let Some(&id) = self.known.get(&node) {
            return id;
        }
        let id = self.append(node);
        self.known.insert(node, id);
        id
    }

    /// A constant.
    pub fn constant(&mut self, x: f64) -> NodeId {
        self.put(Op::Const(x.to_bits()), &[])
    }

    /// A number that is not part of the program: an immediate of its own, whatever its value, so
    /// that the program depends on how numbers are used and not on what they are.
    ///
    /// What is computed from immediates and constants alone is computed here, in f64, and is an
    /// immediate too: rounded once, like a constant. A program has at most [`MAX_IMMEDIATES`];
    /// whatever would be one more becomes a constant.
    pub fn immediate(&mut self, x: f64) -> NodeId {
        if self.is_full() {
            return self.constant(x);
        }
        self.number(Number { value: x, known: true, made: None })
    }

    /// An immediate that stands for an element: whatever is computed with it is computed where
    /// elements are, so that the result has the bits that an element in memory would give.
    pub fn element(&mut self, x: f32) -> NodeId {
        if self.is_full() {
            let word = self.put(Op::ConstWord(x.to_bits()), &[]);
            return self.put(Op::FromBits, &[word]);
        }
        self.number(Number { value: x.into(), known: false, made: None })
    }

    /// Puts a finished program's nodes; its outputs. What its inputs and parameters are is said by
    /// `input` and by `param`. Its immediates are elements here, so that every result keeps its
    /// bits.
    pub fn graft(
        &mut self,
        program: &Program,
        immediates: &Immediates,
        input: &mut dyn FnMut(&mut Self, u16) -> NodeId,
        param: &dyn Fn(u16) -> u16,
    ) -> Vec<NodeId> {
        let numbers: Vec<f32> = immediates.values().collect();
        let mut made: Vec<NodeId> = Vec::with_capacity(program.nodes().len());
        for node in program.nodes() {
            let id = match node.op {
                Op::Input(i) => input(self, i),
                Op::Param(i) => self.put(Op::Param(param(i)), &[]),
                Op::ParamWord(i) => self.put(Op::ParamWord(param(i)), &[]),
                // Each stands once in a program.
                Op::Imm(i) => self.element(numbers[usize::from(i)]),
                op => {
                    let args = node.args().iter().map(|&a| made[usize::from(a)]);
                    let args: Vec<NodeId> = args.collect();
                    self.put(op, &args)
                }
            };
            made.push(id);
        }
        program.outputs().iter().map(|&o| made[usize::from(o)]).collect()
    }

    /// True when the node is a number of the program.
    pub fn is_constant(&self, id: NodeId) -> bool {
        self.as_const(id).is_some()
    }

    /// True when a number that is given now becomes a constant.
    ///
    /// Nothing is written here: rustc 1.95 loses a comparison that is stored and decided on
    /// (rust-lang/rust#158206).
    fn is_full(&self) -> bool {
        self.immediates.len() == MAX_IMMEDIATES
    }

    fn number(&mut self, number: Number) -> NodeId {
        self.immediates.push(number);
        self.append(Node { op: Op::Imm(self.immediates.len() as u16 - 1), args: [0; 6] })
    }

    fn append(&mut self, node: Node) -> NodeId {
        let id = NodeId::try_from(self.nodes.len()).expect("a program has at most 65,536 nodes");
        self.nodes.push(node);
        id
    }

    /// The value of a node that is the same for every element and known now.
    fn known_value(&self, id: NodeId) -> Option<f64> {
        match self.nodes[id as usize].op {
            Op::Imm(i) => {
                let number = &self.immediates[usize::from(i)];
                number.known.then_some(number.value)
            }
            _ => self.as_const(id),
        }
    }

    fn as_const(&self, id: NodeId) -> Option<f64> {
        match self.nodes[id as usize].op {
            Op::Const(bits) => Some(f64::from_bits(bits)),
            _ => None,
        }
    }

    /// Rewrites that keep every bit of the result, NaN and signed zeros included; and constants.
    fn simplify(&mut self, node: Node) -> Option<NodeId> {
        let args = node.args();
        let is = |s: &Self, i: usize, x: f64| s.as_const(args[i]) == Some(x);
        match node.op {
            Op::Mul if is(self, 0, 1.0) => return Some(args[1]),
            Op::Mul if is(self, 1, 1.0) => return Some(args[0]),
            Op::Mul if is(self, 0, -1.0) => return Some(self.put(Op::Neg, &[args[1]])),
            Op::Mul if is(self, 1, -1.0) => return Some(self.put(Op::Neg, &[args[0]])),
            Op::Div if is(self, 1, 1.0) => return Some(args[0]),
            Op::Fma | Op::MulAdd if is(self, 0, 1.0) => {
                return Some(self.put(Op::Add, &[args[1], args[2]]));
            }
            Op::Fma | Op::MulAdd if is(self, 1, 1.0) => {
                return Some(self.put(Op::Add, &[args[0], args[2]]));
            }
            Op::Neg => {
                let inner = self.nodes[args[0] as usize];
                if inner.op == Op::Neg {
                    return Some(inner.args[0]);
                }
            }
            // What is rounded already stays as it is.
            Op::RoundF16 | Op::RoundBf16 if self.nodes[args[0] as usize].op == node.op => {
                return Some(args[0]);
            }
            Op::Select if args[1] == args[2] => return Some(args[1]),
            _ => {}
        }
        if node.op.kind() != Kind::Real || args.is_empty() || node.op == Op::Uniform {
            return None;
        }
        let mut slots = [Slot::V(0.0); 6];
        for (slot, &a) in slots.iter_mut().zip(args) {
            *slot = Slot::V(self.known_value(a)?);
        }
        if let Some(&id) = self.made.get(&node) {
            return Some(id);
        }
        let ids: [NodeId; 6] = [0, 1, 2, 3, 4, 5];
        let value = apply(Scalar::<f64>::NEW, node.op, &ids[..args.len()], &mut slots);
        let Slot::V(x) = value else { return None };
        if args.iter().all(|&a| self.as_const(a).is_some()) {
            return Some(self.constant(x));
        }
        let id = match self.is_full() {
            true => self.constant(x),
            false => self.number(Number { value: x, known: true, made: Some(node) }),
        };
        self.made.insert(node, id);
        Some(id)
    }

    /// The finished program without immediates.
    ///
    /// # Panics
    /// When it has some: their values would be lost.
    pub fn finish(&self, outputs: &[NodeId]) -> Program {
        let (program, immediates) = self.finish_with_immediates(outputs);
        assert!(immediates.is_empty(), "the values of the program's immediates are dropped");
        program
    }

    /// The finished program and its immediates: dead nodes dropped, the rest numbered in order of
    /// first use.
    pub fn finish_with_immediates(&self, outputs: &[NodeId]) -> (Program, Immediates) {
        let mut renumbered = vec![None; self.nodes.len()];
        let mut nodes = Vec::new();
        for &root in outputs {
            self.visit(root, &mut renumbered, &mut nodes);
        }
        let outputs: Vec<NodeId> =
            outputs.iter().map(|&o| renumbered[o as usize].unwrap_or_default()).collect();
        let mut immediates = Immediates::default();
        for node in &mut nodes {
            if let Op::Imm(i) = &mut node.op {
                *i = immediates.push(self.immediates[usize::from(*i)].value as f32);
            }
        }
        (Program::from_parts(nodes, outputs), immediates)
    }

    /// How the immediates of this program follow from the numbers that were given, in their order;
    /// `None` when there were so many that some may have become constants.
    pub fn recipe(&self, outputs: &[NodeId]) -> Option<Recipe> {
        if self.is_full() {
            return None;
        }
        let mut renumbered = vec![None; self.nodes.len()];
        let mut nodes = Vec::new();
        outputs.iter().for_each(|&root| self.visit(root, &mut renumbered, &mut nodes));
        let slots = nodes.iter().filter_map(|node| match node.op {
            Op::Imm(i) => Some(i),
            _ => None,
        });
        let operand = |&a: &NodeId| match self.nodes[usize::from(a)].op {
            Op::Imm(i) => Operand::Number(i),
            _ => Operand::Constant(self.as_const(a).unwrap_or(f64::NAN)),
        };
        let step = |number: &Number| {
            let made = number.made.as_ref()?;
            Some((made.op, made.args().iter().map(operand).collect()))
        };
        let numbers = self.immediates.iter().map(step).collect();
        Some(Recipe { numbers, slots: slots.collect() })
    }

    /// Appends what `root` needs, arguments first, without recursion.
    fn visit(&self, root: NodeId, renumbered: &mut [Option<NodeId>], nodes: &mut Vec<Node>) {
        let mut stack = vec![(root, false)];
        while let Some((id, ready)) = stack.pop() {
            if renumbered[id as usize].is_some() {
                continue;
            }
            let mut node = self.nodes[id as usize];
            if ready {
                let arity = node.op.arity();
                for a in &mut node.args[..arity] {
                    *a = renumbered[*a as usize].unwrap_or_default();
                }
                renumbered[id as usize] = Some(nodes.len() as NodeId);
                nodes.push(node);
            } else {
                stack.push((id, true));
                stack.extend(node.args().iter().rev().map(|&a| (a, false)));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `1 / (1 - p) * x`
    fn dropped(p: f64) -> (Program, Immediates) {
        let (b, out) = dropping(p);
        b.finish_with_immediates(&[out])
    }

    fn dropping(p: f64) -> (Builder, NodeId) {
        let mut b = Builder::new();
        let (x, one) = (b.put(Op::Input(0), &[]), b.constant(1.0));
        let p = b.immediate(p);
        let rest = b.put(Op::Sub, &[one, p]);
        let scale = b.put(Op::Div, &[one, rest]);
        let out = b.put(Op::Mul, &[x, scale]);
        (b, out)
    }

    #[test]
    fn a_recipe_makes_the_immediates_of_other_numbers() {
        let (b, out) = dropping(0.25);
        let recipe = b.recipe(&[out]).unwrap();
        for p in [0.0, 0.1, 0.9] {
            assert_eq!(recipe.immediates([p]), dropped(p).1, "{p}");
        }
    }

    #[test]
    fn programs_do_not_depend_on_immediates_and_what_is_made_of_them_is_rounded_once() {
        let (program, immediates) = dropped(0.1);
        // 0, 1 and -1 are no constants that could be left out.
        for p in [0.0, 0.1, 0.5, 1.0, 2.0, f64::NAN] {
            assert_eq!(dropped(p).0, program, "{p}");
        }
        assert_eq!(program.nodes().len(), 3);
        assert_eq!(immediates.values().collect::<Vec<_>>(), [(1.0 / (1.0 - 0.1)) as f32]);
    }

    #[test]
    fn a_grafted_program_computes_the_same_bits() {
        // (x + 0.1) * p0, then 0.2 * that + x: numbers of two programs do not meet.
        let mut first = Builder::new();
        let (x, a, p) = (first.put(Op::Input(0), &[]), first.immediate(0.1), Op::Param(0));
        let sum = first.put(Op::Add, &[x, a]);
        let p = first.put(p, &[]);
        let out = first.put(Op::Mul, &[sum, p]);
        let first = first.finish_with_immediates(&[out]);
        let mut second = Builder::new();
        let (t, x, b) = (Op::Input(0), Op::Input(1), second.immediate(0.2));
        let (t, x) = (second.put(t, &[]), second.put(x, &[]));
        let out = second.put(Op::MulAdd, &[b, t, x]);
        let second = second.finish_with_immediates(&[out]);

        let mut both = Builder::new();
        let inner =
            both.graft(&first.0, &first.1, &mut |b, i| b.put(Op::Input(i), &[]), &|i| i + 3)[0];
        assert!(!both.is_constant(inner));
        let mut input = |b: &mut Builder, i| if i == 0 { inner } else { b.put(Op::Input(0), &[]) };
        let out = both.graft(&second.0, &second.1, &mut input, &|i| i);
        let both = both.finish_with_immediates(&out);
        assert_eq!((both.0.input_count(), both.0.param_count(), both.1.len()), (1, 4, 2));

        let m = Scalar::<f32>::NEW;
        let run = |(program, numbers): &(Program, Immediates), inputs: &[f32], params: &[f32]| {
            let immediates: Vec<f32> = numbers.values().collect();
            let env =
                super::super::Env { inputs, params, words: &[], immediates: &immediates, index: 0 };
            let mut found = f32::NAN;
            program.eval(m, &env, &mut Vec::new(), |_, x| found = x);
            found
        };
        for x in [0.3, -7.25, 1e-30, 3e38] {
            let between = run(&first, &[x], &[1.7]);
            let apart = run(&second, &[between, x], &[]);
            assert_eq!(run(&both, &[x], &[0.0, 0.0, 0.0, 1.7]).to_bits(), apart.to_bits());
        }
    }

    #[test]
    fn elements_are_not_computed_with_here() {
        let mut b = Builder::new();
        let (x, y) = (b.element(0.1), b.element(0.3));
        let product = b.put(Op::Mul, &[x, y]);
        let (program, immediates) = b.finish_with_immediates(&[product]);
        assert_eq!((program.nodes().len(), immediates.len()), (3, 2));
    }

    #[test]
    fn more_immediates_than_a_verb_carries_become_constants() {
        let mut b = Builder::new();
        let mut sum = b.put(Op::Input(0), &[]);
        for i in 0..20 {
            let number = if i % 2 == 0 { b.immediate(i.into()) } else { b.element(i as f32) };
            sum = b.put(Op::Add, &[sum, number]);
        }
        let (program, immediates) = b.finish_with_immediates(&[sum]);
        assert_eq!((program.immediate_count(), immediates.len()), (MAX_IMMEDIATES, MAX_IMMEDIATES));
        let values: Vec<f32> = immediates.values().collect();
        let env = super::super::Env {
            inputs: &[0.5],
            params: &[],
            words: &[],
            immediates: &values,
            index: 0,
        };
        let m = Scalar::<f32>::NEW;
        program.eval(m, &env, &mut Vec::new(), |_, x| assert_eq!(x, 190.5));
    }
}
