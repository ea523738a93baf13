//! One program out of expressions: finding its operands and its outline.

use super::node::{Expression, Lazy, Node, Rearrange};
use super::outline::{Outline, Step};
use super::watch;
use crate::error::{Error, Result};
use smallvec::SmallVec;
use starling_contract::{DType, Layout, Map, View};
use starling_ops::{Definition, Math, Scalar};
use std::mem;
use std::sync::Arc;

/// A step of an outline.
pub(super) type Id = u16;

/// Views, each counted for every one around it, that a program sees through. Beyond, a view's base
/// is computed: `y + y^T` of `y + y^T` of ... has twice as many at every level.
const MOST_LENSES: usize = 32;

/// A view through which a part of the program is seen: its operands are rearranged instead of its
/// result.
struct Lens {
    /// The view around this one; 0 for none.
    outer: usize,
    view: Arc<Node>,
    expression: Arc<Expression>,
}

impl Lens {
    fn parts(&self) -> Option<(&Rearrange, &Arc<Node>)> {
        match (&self.expression.lazy, &self.expression.args[..]) {
            (Lazy::View(rearrange), [base]) => Some((rearrange, base)),
            _ => None,
        }
    }
}

/// Collects what one program is made of.
pub(super) struct Fusion {
    shape: Layout,
    outline: Outline,
    /// In the order in which the outline asks for them.
    numbers: SmallVec<[f64; 8]>,
    inputs: Vec<View>,
    params: Vec<View>,
    lenses: Vec<Lens>,
    /// What is in the program already, by node and lens.
    done: SmallVec<[(*const Node, usize, Id); 8]>,
    /// The expressions in the program. Another thread may compute one meanwhile, which then lets
    /// its operands go: their memory must not be used again before the verb is submitted.
    held: SmallVec<[Arc<Expression>; 8]>,
}

impl Fusion {
    pub fn new(shape: &[usize]) -> Self {
        Self {
            shape: Layout::contiguous(shape),
            outline: Outline::default(),
            numbers: SmallVec::new(),
            inputs: Vec::new(),
            params: Vec::new(),
            lenses: Vec::new(),
            done: SmallVec::new(),
            held: SmallVec::new(),
        }
    }

    /// The node's value, as it would be read if it had been stored.
    pub fn visit(&mut self, node: &Arc<Node>) -> Result<Id> {
        self.stored_value(node, 0)
    }

    /// The node's value before it is rounded to its type, which storing it does.
    pub fn unrounded(&mut self, node: &Arc<Node>) -> Result<Id> {
        match node.expression() {
            Some(e) if !watch::is_older(node) => self.expression(node, e, 0),
            _ => self.visit(node),
        }
    }

    fn stored_value(&mut self, node: &Arc<Node>, lens: usize) -> Result<Id> {
        let known = self.done.iter().find(|d| std::ptr::eq(d.0, Arc::as_ptr(node)) && d.1 == lens);
        if let Some(&(_, _, id)) = known {
            return Ok(id);
        }
        let id = match node.expression() {
            Some(e) if is_fused(node, &e) => {
                let rounds = !matches!(e.lazy, Lazy::View(_) | Lazy::Literal(_));
                let value = self.expression(node, e, lens)?;
                match node.dtype {
                    DType::F16 if rounds => self.outline.push(Step::RoundF16, &[value]),
                    DType::BF16 if rounds => self.outline.push(Step::RoundBf16, &[value]),
                    _ => value,
                }
            }
            _ => self.input(node.view()?, lens)?,
        };
        self.done.push((Arc::as_ptr(node), lens, id));
        Ok(id)
    }

    fn expression(&mut self, node: &Arc<Node>, e: Arc<Expression>, lens: usize) -> Result<Id> {
        if let (Lazy::View(_), [base]) = (&e.lazy, &e.args[..]) {
            let inner = self.through(node, e.clone(), lens);
            if self.lenses.len() >= MOST_LENSES || !self.reaches(base, inner) {
                base.stored()?;
            }
            let id = self.stored_value(base, inner)?;
            self.held.push(e);
            return Ok(id);
        }
        let mut args = [0; MOST_ARGS];
        let args = args.get_mut(..e.args.len()).ok_or_else(|| {
            Error::invalid(format!("an operation of more than {MOST_ARGS} operands"))
        })?;
        for (id, arg) in args.iter_mut().zip(&e.args) {
            *id = self.stored_value(arg, lens)?;
        }
        let id = match &e.lazy {
            Lazy::Literal(x) => {
                self.numbers.push(rounded(*x, node.dtype));
                self.outline.push(Step::Element, &[])
            }
            Lazy::Apply { def, scalars, output } => {
                let step = Step::Apply((*def).into(), *output as u16);
                self.definition(step, args, scalars)
            }
            Lazy::Derivative { def, scalars, by } => {
                let step = Step::Derivative((*def).into(), *by as u16);
                self.definition(step, args, scalars)
            }
            Lazy::Uniform { random, instance } => {
                let key = random.key(*instance)?.map(|view| self.param(view));
                let params = [key.seed_lo, key.seed_hi, key.instance, key.step, key.node];
                self.outline.push(Step::Uniform, &params)
            }
            Lazy::Repeat | Lazy::View(_) => args[0],
        };
        self.held.push(e);
        Ok(id)
    }

    fn definition(&mut self, step: Step, args: &[Id], scalars: &[f64]) -> Id {
        self.numbers.extend_from_slice(scalars);
        self.outline.push(step, args)
    }

    /// Every result of a definition over these values.
    pub fn apply(&mut self, def: &'static Definition, args: &[Id], scalars: &[f64]) -> Vec<Id> {
        let first = self.definition(Step::Apply(def.into(), 0), args, scalars);
        let others = 1..def.outputs as u16;
        let others: Vec<Id> = others.map(|o| self.outline.push(Step::Another(o), &[])).collect();
        [&[first], &others[..]].concat()
    }

    /// The lens of a view that is seen through another one.
    fn through(&mut self, view: &Arc<Node>, expression: Arc<Expression>, outer: usize) -> usize {
        let same = |l: &Lens| l.outer == outer && Arc::ptr_eq(&l.view, view);
        let known = self.lenses.iter().position(same);
        let at = known.unwrap_or_else(|| {
            self.lenses.push(Lens { outer, view: view.clone(), expression });
            self.lenses.len() - 1
        });
        at + 1
    }

    /// Where the elements of an operand lie for the program; `None` where strides cannot say it.
    fn seen(&self, mut layout: Layout, mut lens: usize) -> Option<Layout> {
        while lens > 0 {
            let at = &self.lenses[lens - 1];
            let (rearrange, base) = at.parts()?;
            layout = rearrange.of(&layout.broadcast_to(base.shape())?)?;
            lens = at.outer;
        }
        layout.broadcast_to(self.shape.shape())
    }

    /// Whether every operand of an expression can be rearranged instead of its result.
    fn reaches(&mut self, node: &Arc<Node>, lens: usize) -> bool {
        match node.expression() {
            Some(e) if is_fused(node, &e) => match (&e.lazy, &e.args[..]) {
                (Lazy::Literal(_), _) => true,
                (Lazy::Uniform { .. }, _) => false,
                (Lazy::View(_), [base]) => {
                    let inner = self.through(node, e.clone(), lens);
                    self.lenses.len() < MOST_LENSES && self.reaches(base, inner)
                }
                _ => e.args.iter().all(|arg| self.reaches(arg, lens)),
            },
            _ => node.stored().is_ok_and(|s| self.seen(s.layout, lens).is_some()),
        }
    }

    /// A stored operand; equal operands are one input.
    fn input(&mut self, view: View, lens: usize) -> Result<Id> {
        let layout = self.seen(view.layout, lens).ok_or_else(|| {
            let shape = self.shape.shape();
            Error::shape("map", format!("{view:?} cannot be seen as a part of {shape:?}"))
        })?;
        let view = view.with(layout);
        let known = self.inputs.iter().position(|v| same_view(v, &view));
        let at = known.unwrap_or_else(|| {
            self.inputs.push(view);
            self.inputs.len() - 1
        });
        Ok(self.outline.push(Step::Input(at as u16), &[]))
    }

    /// A stored number that is read when the verb runs.
    pub fn parameter(&mut self, view: View) -> Id {
        let at = self.param(view);
        self.outline.push(Step::Param(at), &[])
    }

    fn param(&mut self, view: View) -> u16 {
        let known = self.params.iter().position(|v| same_view(v, &view));
        let at = known.unwrap_or_else(|| {
            self.params.push(view);
            self.params.len() - 1
        });
        at as u16
    }

    /// The program as a map, whose operands are alive as long as `self` is.
    pub fn map(&mut self, roots: &[Id], outputs: Vec<View>) -> Map {
        let (program, immediates) = self.outline.program(roots, &self.numbers);
        let (params, inputs) = (mem::take(&mut self.params), mem::take(&mut self.inputs));
        Map { program, params, immediates, inputs, outputs }
    }
}

/// Operands of one operation.
const MOST_ARGS: usize = 16;

/// Whether an expression becomes part of the program that needs it. One that is older than the
/// capture is computed once, not again by every replay: see `watch`. Where a program's values are
/// wider than f32, each operation is one of its own: what it stores is rounded in any case, so that
/// looking at it changes no bit.
fn is_fused(node: &Node, e: &Expression) -> bool {
    let computes = matches!(e.lazy, Lazy::Apply { .. } | Lazy::Derivative { .. });
    let rounds = !computes || node.device.capabilities().rounds_every_step;
    rounds && !watch::is_older(node)
}

fn same_view(a: &View, b: &View) -> bool {
    a.same_storage(b) && a.layout == b.layout && a.dtype == b.dtype
}

/// A number as a tensor of this type would hold it.
fn rounded(x: f64, dtype: DType) -> f64 {
    let m = Scalar::<f64>::NEW;
    match dtype {
        DType::F16 => m.round_f16(x),
        DType::BF16 => m.round_bf16(x),
        DType::U8 => f64::from(x as u8),
        _ => f64::from(x as f32),
    }
}
