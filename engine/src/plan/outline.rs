//! What a program is but for operands and numbers, and the programs that were made lately.

use super::fusion::Id;
use smallvec::SmallVec;
use starling_contract::{Cache, Immediates, Program};
use starling_ops::program::{Builder, NodeId, Op, Recipe};
use starling_ops::trace::{Trace, Word};
use starling_ops::{Definition, Key, Math};
use std::cell::RefCell;
use std::collections::HashMap;
use std::hash::{Hash, Hasher};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

/// Programs that are kept: several times what a large model's step has.
const PROGRAMS: usize = 4096;

/// A definition by its identity.
#[derive(Clone, Copy)]
pub(super) struct Def(&'static Definition);

impl From<&'static Definition> for Def {
    fn from(def: &'static Definition) -> Self {
        Self(def)
    }
}

impl PartialEq for Def {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self.0, other.0)
    }
}

impl Eq for Def {}

impl Hash for Def {
    fn hash<H: Hasher>(&self, state: &mut H) {
        std::ptr::from_ref(self.0).hash(state);
    }
}

/// What one step computes of earlier ones.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Step {
    /// An element of an operand.
    Input(u16),
    /// A stored number.
    Param(u16),
    /// The next of the numbers, for every element.
    Element,
    /// A result of a definition, whose scalars are the next numbers.
    Apply(Def, u16),
    /// Another result of the definition just applied.
    Another(u16),
    /// The derivative of a definition by an argument.
    Derivative(Def, u16),
    /// A uniform number, whose key is five parameters.
    Uniform,
    /// To the nearest f16.
    RoundF16,
    /// To the nearest bf16.
    RoundBf16,
}

/// The steps of a program, arguments first. Everything that the program depends on is in it, and
/// nothing else.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub(super) struct Outline {
    steps: SmallVec<[(Step, u16); 8]>,
    args: SmallVec<[Id; 16]>,
    roots: SmallVec<[Id; 4]>,
}

/// A program, and how its immediates follow from the numbers.
struct Made {
    program: Arc<Program>,
    recipe: Recipe,
}

type Programs = Mutex<Cache<Outline, Arc<Made>>>;

/// The programs that were made lately.
fn programs() -> &'static Programs {
    static ALL: OnceLock<Programs> = OnceLock::new();
    ALL.get_or_init(|| Mutex::new(Cache::new(PROGRAMS)))
}

impl Outline {
    /// Adds a step.
    pub fn push(&mut self, step: Step, args: &[Id]) -> Id {
        self.args.extend_from_slice(args);
        self.steps.push((step, args.len() as u16));
        self.steps.len() as Id - 1
    }

    /// The program with these results, and its immediates.
    pub fn program(&mut self, roots: &[Id], numbers: &[f64]) -> (Arc<Program>, Immediates) {
        self.roots.clear();
        self.roots.extend_from_slice(roots);
        // A poisoned lock only means that another thread panicked; the cache is whole.
        let all = || programs().lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(made) = all().get(self).cloned() {
            return (made.program.clone(), made.recipe.immediates(numbers.iter().copied()));
        }
        let builder = RefCell::default();
        let outputs = self.build(&builder, numbers);
        let builder: Builder = builder.into_inner();
        let (program, immediates) = builder.finish_with_immediates(&outputs);
        let program = Arc::new(program);
        if let Some(recipe) = builder.recipe(&outputs) {
            all().insert(self.clone(), Arc::new(Made { program: program.clone(), recipe }));
        }
        (program, immediates)
    }

    fn build(&self, builder: &RefCell<Builder>, numbers: &[f64]) -> Vec<NodeId> {
        let t = Trace(builder);
        let put = |op, args: &[NodeId]| builder.borrow_mut().put(op, args);
        let mut numbers = numbers.iter().copied();
        let mut made: Vec<NodeId> = Vec::with_capacity(self.steps.len());
        let mut results = Vec::new();
        let mut rest = &self.args[..];
        for &(step, count) in &self.steps {
            let (ids, others) = rest.split_at(count.into());
            rest = others;
            let args = || ids.iter().map(|&id| made[usize::from(id)]).collect::<Vec<_>>();
            let node = match step {
                Step::Input(i) => put(Op::Input(i), &[]),
                Step::Param(i) => put(Op::Param(i), &[]),
                Step::Element => {
                    let x = numbers.next().unwrap_or(f64::NAN);
                    builder.borrow_mut().element(x as f32)
                }
                Step::Apply(def, output) => {
                    let scalars = scalars(builder, def.0, &mut numbers);
                    results = def.0.put(builder, &args(), &scalars);
                    results[usize::from(output)]
                }
                Step::Another(output) => results[usize::from(output)],
                Step::Derivative(def, by) => {
                    let scalars = scalars(builder, def.0, &mut numbers);
                    def.0.put_derivative(builder, &args(), &scalars, by.into())[0]
                }
                Step::Uniform => {
                    let word = |i: usize| t.param_word(ids[i].into());
                    let key: Key<Word> = Key {
                        seed_lo: word(0),
                        seed_hi: word(1),
                        instance: word(2),
                        step: word(3),
                        node: word(4),
                    };
                    t.uniform(t.index(), key).0
                }
                Step::RoundF16 => put(Op::RoundF16, &args()),
                Step::RoundBf16 => put(Op::RoundBf16, &args()),
            };
            made.push(node);
        }
        self.roots.iter().map(|&id| made[usize::from(id)]).collect()
    }
}

/// A definition's scalars: the next numbers.
fn scalars(
    builder: &RefCell<Builder>,
    def: &Definition,
    numbers: &mut impl Iterator<Item = f64>,
) -> Vec<NodeId> {
    let given = numbers.take(def.scalars.len());
    given.map(|x| builder.borrow_mut().immediate(x)).collect()
}

/// Whether a definition's derivative by an argument is 1, whatever its operands and scalars are.
pub(crate) fn slope_is_one(def: &'static Definition, by: usize) -> bool {
    static KNOWN: OnceLock<Mutex<HashMap<(usize, usize), bool>>> = OnceLock::new();
    let mut known =
        KNOWN.get_or_init(Mutex::default).lock().unwrap_or_else(PoisonError::into_inner);
    let key = (std::ptr::from_ref(def).addr(), by);
    *known.entry(key).or_insert_with(|| {
        let builder = RefCell::default();
        let t = Trace(&builder);
        let args: Vec<NodeId> = (0..def.tensors.len()).map(|i| t.input(i).0).collect();
        let scalars: Vec<NodeId> = def.scalars.iter().map(|s| t.immediate(s.1).0).collect();
        let slope = def.put_derivative(&builder, &args, &scalars, by);
        let (program, _) = builder.into_inner().finish_with_immediates(&slope);
        matches!(program.nodes(), [only] if only.op == Op::Const(1f64.to_bits()))
    })
}
