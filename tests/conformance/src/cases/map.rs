//! Every elementwise definition and every derivative.

use super::Tier;
use super::programs::{Traced, scalars, traced};
use crate::data::{Case, Place, Problem};
use starling_contract::{DType, Map, View};
use starling_ops::defs::{ALL, Definition, Domain};
use starling_ops::philox::HostStream;
use starling_ops::program::NodeId;
use starling_ops::trace::{Real, Trace};

/// What every case list must hold.
const SPECIAL: [f64; 12] = [
    0.0,
    -0.0,
    1e-30,
    -1e-30,
    100.0,
    -100.0,
    1e4,
    -1e4,
    f64::INFINITY,
    f64::NEG_INFINITY,
    f64::NAN,
    1.0,
];

/// Where inputs may lie.
const INPUTS: [Place; 9] = [
    Place::Transposed,
    Place::Repeat(0b01),
    Place::Gaps,
    Place::Reversed,
    Place::Overlap,
    Place::Offset,
    Place::Repeat(0b10),
    Place::Step,
    Place::Repeat(0b11),
];

/// A definition or one of its derivatives.
#[derive(Clone)]
struct Subject {
    op: String,
    by: String,
    program: Traced,
    definition: &'static Definition,
}

impl Subject {
    fn domains(&self) -> impl Iterator<Item = Domain> + use<> {
        self.definition.tensors.iter().map(|t| t.1)
    }

    fn case(
        &self,
        name: String,
        build: impl Fn(&Subject, Problem) -> Problem + Send + Sync + 'static,
    ) -> Case {
        let subject = self.clone();
        let name = format!("{}{name}", self.by);
        Case::new(self.op.clone(), name, move |title| build(&subject, Problem::new(title)))
    }

    fn outputs(&self) -> usize {
        self.program.program.outputs().len()
    }
}

/// The program over the first `inputs` arrays, its results in the following ones.
pub fn map_verb(p: Problem, traced: &Traced, inputs: usize) -> Problem {
    let Traced { program, immediates } = traced.clone();
    p.verb(move |v: &[View]| {
        let (inputs, outputs) = (v[..inputs].to_vec(), v[inputs..].to_vec());
        Map { program: program.clone(), params: Vec::new(), immediates, inputs, outputs }.into()
    })
}

/// The program that `f` puts behind its inputs and the scalars of its cases.
fn standalone(
    definition: &Definition,
    f: impl FnOnce(Trace<'_>, &[NodeId], &[NodeId]) -> Vec<NodeId>,
) -> Traced {
    traced(|t| {
        let inputs: Vec<_> = (0..definition.tensors.len()).map(|i| t.input(i).0).collect();
        let scalars = scalars(t, definition);
        f(t, &inputs, &scalars).into_iter().map(Real).collect()
    })
}

fn subjects() -> Vec<Subject> {
    let mut all = Vec::new();
    for &definition in ALL {
        let program = standalone(definition, |t, args, scalars| definition.put(t.0, args, scalars));
        let op = definition.name.to_string();
        all.push(Subject { op, by: String::new(), program, definition });
        let tensors = definition.tensors.iter().enumerate();
        for (i, (tensor, _)) in tensors.filter(|_| definition.gradient.is_derived()) {
            let program = standalone(definition, |t, args, scalars| {
                definition.put_derivative(t.0, args, scalars, i)
            });
            let op = format!("{}'", definition.name);
            all.push(Subject { op, by: format!("by {tensor} "), program, definition });
        }
    }
    all
}

/// An ordinary number of a domain; now and then a multiple of a half, so that there are ties.
pub fn ordinary(r: &mut HostStream, domain: Domain) -> f64 {
    let u = f64::from(r.uniform());
    let coarse = |x: f64| if r.clone().below(4) == 0 { (2.0 * x).round() / 2.0 } else { x };
    match domain {
        Domain::Real => coarse(8.0 * u - 4.0),
        Domain::Positive => coarse(0.3 + 4.0 * u),
        Domain::AboveMinusOne => 4.0 * u - 0.99,
        Domain::NonZero => coarse(0.3 + 4.0 * u) * if r.below(2) == 0 { 1.0 } else { -1.0 },
        Domain::Truth => f64::from(r.below(2)),
        Domain::Unit => u,
    }
}

pub fn cases(tier: Tier, all: &mut Vec<Case>) {
    for (i, subject) in subjects().iter().enumerate() {
        shapes(subject, tier, all);
        layouts(subject, i, all);
        types(subject, all);
        all.push(special(subject));
        all.push(wide(subject));
    }
    pairs_of_layouts(all);
}

fn contiguous(subject: &Subject, shape: &[usize], place: Place) -> Case {
    let shape = shape.to_vec();
    subject.case(format!("f32 {shape:?} {place:?}"), move |s, mut p| {
        for domain in s.domains() {
            p.drawn(DType::F32, &shape, place, |r| ordinary(r, domain));
        }
        for _ in 0..s.outputs() {
            p.output(DType::F32, &shape, place);
        }
        map_verb(p, &s.program, s.definition.tensors.len())
    })
}

fn shapes(subject: &Subject, tier: Tier, all: &mut Vec<Case>) {
    for shape in [&[][..], &[1], &[0, 3], &[67], &[2, 3, 1, 5]] {
        all.push(contiguous(subject, shape, Place::Contiguous));
    }
    all.push(contiguous(subject, &[33], Place::Offset));
    if tier == Tier::Full {
        let large = subject.by.is_empty() && subject.definition.tensors.len() <= 2;
        let len = if large { 1_000_003 } else { 100_003 };
        all.push(contiguous(subject, &[len], Place::Contiguous));
        all.push(contiguous(subject, &[129, 65], Place::Transposed));
    }
}

/// Inputs and outputs in different layouts, others for each definition; and in place.
fn layouts(subject: &Subject, number: usize, all: &mut Vec<Case>) {
    for (round, shape) in [&[5, 7][..], &[3, 4, 6]].into_iter().enumerate() {
        let shape = shape.to_vec();
        let turn = number + 4 * round;
        let input = move |i: usize| INPUTS[(turn + i) % INPUTS.len()];
        let output = move |o: usize| Place::OUTPUTS[(turn + o + 1) % Place::OUTPUTS.len()];
        let name = format!("f32 {shape:?} {:?}.. to {:?}..", input(0), output(0));
        all.push(subject.case(name, move |s, mut p| {
            for (i, domain) in s.domains().enumerate() {
                p.drawn(DType::F32, &shape, input(i), |r| ordinary(r, domain));
            }
            for o in 0..s.outputs() {
                p.output(DType::F32, &shape, output(o));
            }
            map_verb(p, &s.program, s.definition.tensors.len())
        }));
    }
    all.push(subject.case("f32 [9, 5] in place".into(), |s, mut p| {
        let n = s.definition.tensors.len();
        for domain in s.domains() {
            p.drawn(DType::F32, &[9, 5], Place::Gaps, |r| ordinary(r, domain));
        }
        for _ in 1..s.outputs() {
            p.output(DType::F32, &[9, 5], Place::Contiguous);
        }
        let Traced { program, immediates } = s.program.clone();
        p.verb(move |v: &[View]| {
            let outputs = std::iter::once(&v[0]).chain(&v[n..]).cloned().collect();
            let inputs = v[..n].to_vec();
            Map { program: program.clone(), params: Vec::new(), immediates, inputs, outputs }.into()
        })
    }));
}

/// The types that elementwise verbs take, in turns.
fn types(subject: &Subject, all: &mut Vec<Case>) {
    let inputs = [DType::F16, DType::BF16, DType::U8];
    for (turn, output) in [DType::F16, DType::BF16, DType::U8, DType::F32].into_iter().enumerate() {
        let input = move |i: usize| inputs[(turn + i) % 3];
        let name = format!("{}.. to {output} [3, 11]", input(0));
        all.push(subject.case(name, move |s, mut p| {
            for (i, domain) in s.domains().enumerate() {
                let dtype = input(i);
                // A byte holds small numbers, and 0 only where the domain does.
                p.drawn(dtype, &[3, 11], Place::Contiguous, |r| match (dtype, domain) {
                    (DType::U8, Domain::Truth | Domain::Unit) => f64::from(r.below(2)),
                    (DType::U8, Domain::Real) => f64::from(r.below(4)),
                    (DType::U8, _) => f64::from(1 + r.below(3)),
                    _ => ordinary(r, domain),
                });
            }
            for _ in 0..s.outputs() {
                p.output(output, &[3, 11], Place::Offset);
            }
            map_verb(p, &s.program, s.definition.tensors.len())
        }));
    }
}

/// Every special value, and every pair for two arguments and every triple for three.
fn special(subject: &Subject) -> Case {
    let name = "f32 special values".into();
    let case = subject.case(name, |s, mut p| {
        let n = s.definition.tensors.len();
        let crossed = n.min(3);
        let len = SPECIAL.len().pow(crossed as u32);
        for i in 0..n {
            let value = |at: usize| {
                let digit = at / SPECIAL.len().pow(i.min(crossed - 1) as u32) % SPECIAL.len();
                if i < crossed { SPECIAL[digit] } else { 0.5 }
            };
            p.values(DType::F32, &[len], Place::Contiguous, value);
        }
        for _ in 0..s.outputs() {
            p.output(DType::F32, &[len], Place::Contiguous);
        }
        map_verb(p, &s.program, n)
    });
    case.special()
}

/// Magnitudes from 1e-10 to 1e10.
fn wide(subject: &Subject) -> Case {
    let case = subject.case("f32 [131] far and near".into(), |s, mut p| {
        for domain in s.domains() {
            p.drawn(DType::F32, &[131], Place::Contiguous, |r| {
                let x = ordinary(r, domain);
                let bounded = matches!(domain, Domain::Truth | Domain::Unit);
                let power = if bounded { 0 } else { r.below(21) as i32 - 10 };
                // Beyond the lower end of a domain is no number, which is covered elsewhere.
                let low = if domain == Domain::AboveMinusOne { -0.999 } else { f64::NEG_INFINITY };
                (x * 10f64.powi(power)).max(low)
            });
        }
        for _ in 0..s.outputs() {
            p.output(DType::F32, &[131], Place::Contiguous);
        }
        map_verb(p, &s.program, s.definition.tensors.len())
    });
    case.special()
}

/// One definition in every layout of two inputs, and to every layout of the output.
fn pairs_of_layouts(all: &mut Vec<Case>) {
    let everything = subjects();
    let Some(add) = everything.iter().find(|s| s.op == "sub") else { return };
    let shape = [2, 3, 5];
    for a in INPUTS {
        for b in INPUTS {
            let output = Place::OUTPUTS[all.len() % Place::OUTPUTS.len()];
            let name = format!("f32 {shape:?} {a:?} and {b:?} to {output:?}");
            all.push(add.case(name, move |s, mut p| {
                p.uniform(&shape, a);
                p.uniform(&shape, b);
                p.output(DType::F32, &shape, output);
                map_verb(p, &s.program, 2)
            }));
        }
    }
}
