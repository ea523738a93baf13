//! Building programs.

use super::{Immediates, Kind, MAX_IMMEDIATES, Node, NodeId, Op, Program, Slot, apply};
use crate::scalar::Scalar;
use std::collections::HashMap;

/// Collects nodes: equal nodes are one node, constants are folded, operands of commutative
/// operations are ordered.
#[derive(Debug, Default)]
pub struct Builder {
    nodes: Vec<Node>,
    known: HashMap<Node, NodeId>,
    /// By number of the immediate: its value, not rounded yet.
    immediates: Vec<f64>,
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
        if self.immediates.len() == MAX_IMMEDIATES {
            return self.constant(x);
        }
        self.immediates.push(x);
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
            Op::Imm(i) => Some(self.immediates[usize::from(i)]),
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
        let id = self.immediate(x);
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
                *i = immediates.push(self.immediates[usize::from(*i)] as f32);
            }
        }
        (Program::from_parts(nodes, outputs), immediates)
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
