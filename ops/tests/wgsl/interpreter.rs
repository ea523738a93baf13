//! Runs printed functions on the CPU: an interpreter of naga's form of WGSL without loops.
//!
//! It does what WGSL says with IEEE-754 arithmetic, so the text is judged apart from any driver.

use naga::{
    BinaryOperator, Block, Expression, Function, Handle, Literal, MathFunction, Module, ScalarKind,
    Statement, UnaryOperator,
};

#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    F(f32),
    U(u32),
    B(bool),
    A(Vec<f32>),
}

use Value::{A, B, F, U};

/// Calls the function called `name`.
pub fn call(module: &Module, name: &str, args: &[Value]) -> Value {
    let found = module.functions.iter().find(|(_, f)| f.name.as_deref() == Some(name));
    let (_, function) = found.unwrap_or_else(|| panic!("no function {name}"));
    Frame::new(module, function, args).run()
}

struct Frame<'a> {
    module: &'a Module,
    function: &'a Function,
    args: &'a [Value],
    /// Results of calls and of expressions whose time has come.
    known: Vec<Option<Value>>,
    locals: Vec<Option<Value>>,
}

impl<'a> Frame<'a> {
    fn new(module: &'a Module, function: &'a Function, args: &'a [Value]) -> Self {
        assert_eq!(args.len(), function.arguments.len(), "{:?}", function.name);
        let known = vec![None; function.expressions.len()];
        let locals = vec![None; function.local_variables.len()];
        Self { module, function, args, known, locals }
    }

    fn run(mut self) -> Value {
        let function = self.function;
        self.block(&function.body).expect("a result")
    }

    /// What the block returns, if it does.
    fn block(&mut self, block: &Block) -> Option<Value> {
        for statement in block.iter() {
            match statement {
                Statement::Emit(range) => {
                    for handle in range.clone() {
                        self.known[handle.index()] = Some(self.evaluate(handle));
                    }
                }
                Statement::Call { function, arguments, result: Some(result) } => {
                    let args: Vec<Value> = arguments.iter().map(|&a| self.value(a)).collect();
                    let callee = &self.module.functions[*function];
                    let value = Frame::new(self.module, callee, &args).run();
                    self.known[result.index()] = Some(value);
                }
                Statement::Store { pointer, value } => {
                    let value = self.value(*value);
                    let local = self.local(*pointer);
                    self.locals[local] = Some(value);
                }
                Statement::If { condition, accept, reject } => {
                    let taken = if self.value(*condition) == B(true) { accept } else { reject };
                    if let Some(value) = self.block(taken) {
                        return Some(value);
                    }
                }
                Statement::Return { value: Some(value) } => return Some(self.value(*value)),
                other => panic!("{other:?} is not of the printer's words"),
            }
        }
        None
    }

    fn local(&self, pointer: Handle<Expression>) -> usize {
        match self.function.expressions[pointer] {
            Expression::LocalVariable(local) => local.index(),
            ref other => panic!("{other:?} is not a local variable"),
        }
    }

    fn value(&self, handle: Handle<Expression>) -> Value {
        self.known[handle.index()].clone().unwrap_or_else(|| self.evaluate(handle))
    }

    fn evaluate(&self, handle: Handle<Expression>) -> Value {
        match self.function.expressions[handle] {
            Expression::Literal(Literal::F32(x)) => F(x),
            Expression::Literal(Literal::U32(x)) => U(x),
            Expression::Literal(Literal::Bool(x)) => B(x),
            Expression::FunctionArgument(i) => self.args[i as usize].clone(),
            Expression::Load { pointer } => self.locals[self.local(pointer)].clone().unwrap(),
            Expression::Unary { op, expr } => match (op, self.value(expr)) {
                (UnaryOperator::Negate, F(x)) => F(-x),
                (UnaryOperator::LogicalNot, B(x)) => B(!x),
                other => panic!("{other:?}"),
            },
            Expression::Binary { op, left, right } => {
                binary(op, self.value(left), self.value(right))
            }
            Expression::Select { condition, accept, reject } => {
                let condition = self.value(condition) == B(true);
                self.value(if condition { accept } else { reject })
            }
            Expression::As { expr, kind, convert } => match (self.value(expr), kind, convert) {
                (F(x), ScalarKind::Uint, None) => U(x.to_bits()),
                (U(x), ScalarKind::Float, None) => F(f32::from_bits(x)),
                (F(x), ScalarKind::Uint, Some(4)) => U(x as u32),
                (U(x), ScalarKind::Float, Some(4)) => F(x as f32),
                other => panic!("{other:?}"),
            },
            Expression::Math { fun, arg, arg1, arg2, .. } => {
                let real = |h: Option<Handle<Expression>>| match h.map(|h| self.value(h)) {
                    Some(F(x)) => x,
                    other => panic!("{fun:?} of {other:?}"),
                };
                F(math(fun, real(Some(arg)), || real(arg1), || real(arg2)))
            }
            Expression::Compose { ref components, .. } => A(components
                .iter()
                .map(|&c| match self.value(c) {
                    F(x) => x,
                    other => panic!("{other:?}"),
                })
                .collect()),
            ref other => panic!("{other:?}"),
        }
    }
}

fn math(fun: MathFunction, x: f32, y: impl FnOnce() -> f32, z: impl FnOnce() -> f32) -> f32 {
    match fun {
        MathFunction::Abs => x.abs(),
        MathFunction::Floor => x.floor(),
        MathFunction::Round => x.round_ties_even(),
        MathFunction::Sqrt => x.sqrt(),
        MathFunction::Fma => x.mul_add(y(), z()),
        other => panic!("{other:?} is not of the vocabulary"),
    }
}

fn binary(op: BinaryOperator, left: Value, right: Value) -> Value {
    use BinaryOperator::*;
    match (left, right) {
        (F(x), F(y)) => match op {
            Add => F(x + y),
            Subtract => F(x - y),
            Multiply => F(x * y),
            Divide => F(x / y),
            Less => B(x < y),
            LessEqual => B(x <= y),
            Greater => B(x > y),
            GreaterEqual => B(x >= y),
            Equal => B(x == y),
            _ => panic!("{op:?} of reals"),
        },
        (U(x), U(y)) => match op {
            Add => U(x.wrapping_add(y)),
            Subtract => U(x.wrapping_sub(y)),
            Multiply => U(x.wrapping_mul(y)),
            And => U(x & y),
            InclusiveOr => U(x | y),
            ExclusiveOr => U(x ^ y),
            ShiftLeft => U(x << y),
            ShiftRight => U(x >> y),
            Equal => B(x == y),
            Greater => B(x > y),
            LessEqual => B(x <= y),
            _ => panic!("{op:?} of words"),
        },
        (B(x), B(y)) => match op {
            And => B(x & y),
            InclusiveOr => B(x | y),
            _ => panic!("{op:?} of truth values"),
        },
        other => panic!("{op:?} of {other:?}"),
    }
}
