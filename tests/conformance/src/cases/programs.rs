//! Programs beyond single definitions: parameters, indices, random numbers, fused chains.

use super::Tier;
use super::map::ordinary;
use crate::data::{Case, Place, Problem};
use starling_contract::{DType, Immediates, Map, Program, View};
use starling_ops::defs::{Definition, Domain};
use starling_ops::program::{Builder, NodeId};
use starling_ops::trace::{Real, Trace, Word};
use starling_ops::{Key, Math};
use std::cell::RefCell;
use std::sync::Arc;

/// A program and the numbers that travel beside it.
#[derive(Clone)]
pub struct Traced {
    pub program: Arc<Program>,
    pub immediates: Immediates,
}

/// A program written against the tracing target.
pub fn traced(f: impl FnOnce(Trace<'_>) -> Vec<Real>) -> Traced {
    let builder = RefCell::new(Builder::new());
    let outputs: Vec<NodeId> = f(Trace(&builder)).into_iter().map(|r| r.0).collect();
    let (program, immediates) = builder.into_inner().finish_with_immediates(&outputs);
    Traced { program: Arc::new(program), immediates }
}

/// The scalars of a definition's cases, as numbers that a user passed.
pub fn scalars(t: Trace<'_>, definition: &Definition) -> Vec<NodeId> {
    definition.scalars.iter().map(|s| t.immediate(s.1).0).collect()
}

/// Applies a definition within a program.
pub fn apply(t: Trace<'_>, name: &str, args: &[Real]) -> Vec<Real> {
    let definition = Definition::find(name).expect("a definition of the registry");
    let args: Vec<NodeId> = args.iter().map(|a| a.0).collect();
    let nodes = definition.put(t.0, &args, &scalars(t, definition));
    nodes.into_iter().map(Real).collect()
}

/// Inputs, then parameters, then outputs: how the arrays of a case are laid out.
fn verb(p: Problem, traced: &Traced, inputs: usize, params: usize) -> Problem {
    let Traced { program, immediates } = traced.clone();
    p.verb(move |v: &[View]| {
        let (inputs, rest) = v.split_at(inputs);
        let (params, outputs) = rest.split_at(params);
        let (inputs, params, outputs) = (inputs.to_vec(), params.to_vec(), outputs.to_vec());
        Map { program: program.clone(), params, immediates, inputs, outputs }.into()
    })
}

pub fn cases(tier: Tier, all: &mut Vec<Case>) {
    parameters(all);
    immediates(all);
    random(tier, all);
    fused(tier, all);
    optimizer(all);
    shapes(all);
}

fn parameters(all: &mut Vec<Case>) {
    let program = traced(|t| {
        let factor = t.param(0);
        let offset = t.to_real(t.param_word(1));
        vec![t.fma(t.input(0), factor, offset), t.mul(factor, factor)]
    });
    all.push(Case::new("param", "f32 and u32, two outputs [7, 3]", move |title| {
        let mut p = Problem::new(title);
        p.uniform(&[7, 3], Place::Reversed);
        p.values(DType::F32, &[], Place::Offset, |_| 0.3);
        p.values(DType::U32, &[1], Place::Contiguous, |_| 70_001.0);
        p.output(DType::F32, &[7, 3], Place::Transposed);
        p.output(DType::F32, &[7, 3], Place::Gaps);
        verb(p, &program, 1, 2)
    }));
    let program = traced(|t| {
        let index = t.to_real(t.index());
        vec![t.fma(t.input(0), t.lit(0.25), index)]
    });
    for (shape, place) in [(&[67][..], Place::Contiguous), (&[5, 7, 2], Place::Transposed)] {
        let program = program.clone();
        all.push(Case::new("index", format!("{shape:?} {place:?}"), move |title| {
            let mut p = Problem::new(title);
            p.uniform(shape, place);
            p.output(DType::F32, shape, place);
            verb(p, &program, 1, 0)
        }));
    }
}

/// Numbers that travel with the verb, with what is made of them alone, up to sixteen.
fn immediates(all: &mut Vec<Case>) {
    let all_of_them = traced(|t| {
        let terms = (0..16).map(|i| t.immediate(0.3 + 0.1 * f64::from(i)));
        let sum = terms.fold(t.input(0), |sum, c| t.mul(t.add(sum, c), c));
        vec![sum]
    });
    let made = traced(|t| {
        let (a, b) = (t.immediate(0.1), t.immediate(-2.5));
        let scale = t.div(t.lit(1.0), t.sub(t.lit(1.0), a));
        let alone = t.mul(a, b);
        vec![t.select(t.lt(t.input(0), b), alone, t.mul(t.input(0), scale)), alone, b]
    });
    let neutral = traced(|t| {
        let (zero, one) = (t.immediate(0.0), t.immediate(1.0));
        vec![t.mul(t.input(0), one), t.add(t.input(0), zero), t.mul(t.input(0), zero)]
    });
    let programs = [("of sixteen", all_of_them), ("made of others", made), ("0 and 1", neutral)];
    for (label, program) in programs {
        for place in [Place::Contiguous, Place::Gaps] {
            let program = program.clone();
            let name = format!("{label} [67] {place:?}");
            all.push(Case::new("immediate", name, move |title| {
                let mut p = Problem::new(title);
                p.uniform(&[67], place);
                for _ in program.program.outputs() {
                    p.output(DType::F32, &[67], place);
                }
                verb(p, &program, 1, 0)
            }));
        }
    }
}

fn key(t: Trace<'_>) -> Key<Word> {
    Key {
        seed_lo: t.ulit(0x9E37_79B9),
        seed_hi: t.ulit(7),
        instance: t.ulit(3),
        step: t.param_word(0),
        node: t.param_word(1),
    }
}

/// Random numbers: uniforms bit for bit, what is made of them within its allowance.
fn random(tier: Tier, all: &mut Vec<Case>) {
    let uniform = traced(|t| vec![t.uniform(t.index(), key(t))]);
    let mut shapes = vec![vec![1], vec![67], vec![3, 5, 7], vec![0]];
    if tier == Tier::Full {
        shapes.push(vec![1_000_003]);
    }
    for (i, shape) in shapes.into_iter().enumerate() {
        let place = Place::OUTPUTS[i * 4 % Place::OUTPUTS.len()];
        let program = uniform.clone();
        let name = format!("{shape:?} {place:?}");
        let case = Case::new("uniform", name, move |title| {
            let mut p = Problem::new(title);
            p.values(DType::U32, &[], Place::Contiguous, |_| 11.0);
            p.values(DType::U32, &[], Place::Contiguous, |_| 2.0);
            p.output(DType::F32, &shape, place);
            verb(p, &program, 0, 2)
        });
        all.push(case.exact());
    }
    let dropout = traced(|t| {
        let u = t.uniform(t.index(), key(t));
        apply(t, "dropout", &[t.input(0), u])
    });
    let normal = traced(|t| {
        let (two, one) = (t.lit(2.0), t.lit(1.0));
        let pair = t.ushl(t.index(), 1);
        let u = t.sub(one, t.uniform(pair, key(t)));
        let v = t.uniform(t.uadd(pair, t.ulit(1)), key(t));
        let radius = t.sqrt(t.neg(t.mul(two, t.log(u))));
        let wave = t.cos(t.mul(v, t.lit(std::f64::consts::TAU)));
        vec![t.fma(radius, wave, t.input(0))]
    });
    let len = if tier == Tier::Full { 100_003 } else { 131 };
    for (op, program) in [("dropout", dropout), ("normal", normal)] {
        all.push(Case::new(op, format!("from Philox [{len}]"), move |title| {
            let mut p = Problem::new(title);
            p.uniform(&[len], Place::Contiguous);
            p.values(DType::U32, &[], Place::Contiguous, |_| 11.0);
            p.values(DType::U32, &[], Place::Contiguous, |_| 2.0);
            p.output(DType::F32, &[len], Place::Contiguous);
            verb(p, &program, 1, 2)
        }));
    }
}

/// A chain of twelve operations over four inputs that repeat along different axes.
fn fused(tier: Tier, all: &mut Vec<Case>) {
    let chain = traced(|t| {
        let [x, row, column, one] = [0, 1, 2, 3].map(|i| t.input(i));
        let h = t.fma(x, row, column);
        let h = apply(t, "gelu", &[h])[0];
        let h = t.add(h, one);
        let h = apply(t, "silu", &[h])[0];
        let h = t.mul(h, row);
        let h = t.tanh(h);
        let h = t.sub(h, column);
        let h = t.exp(t.mul(h, t.lit(0.3)));
        let h = t.log1p(h);
        let h = t.max(h, t.mul(x, t.lit(0.1)));
        vec![t.div(h, t.add(t.abs(column), t.lit(1.5)))]
    });
    let mut shapes = vec![vec![5, 7], vec![3, 33]];
    if tier == Tier::Full {
        shapes.push(vec![301, 513]);
    }
    for shape in shapes {
        let program = chain.clone();
        all.push(Case::new("chain", format!("of 12 over 4 broadcast inputs {shape:?}"), {
            move |title| {
                let mut p = Problem::new(title);
                p.uniform(&shape, Place::Contiguous);
                p.uniform(&shape, Place::Repeat(0b01));
                p.uniform(&shape, Place::Repeat(0b10));
                p.uniform(&shape, Place::Repeat(0b11));
                p.output(DType::F32, &shape, Place::Contiguous);
                verb(p, &program, 4, 0)
            }
        }));
    }
}

/// Updates as the trainer runs them: in place, with what changes every step as parameters.
fn optimizer(all: &mut Vec<Case>) {
    let updates: [(&'static str, usize, usize); 3] =
        [("sgd", 3, 2), ("adam", 4, 4), ("adamw", 4, 4)];
    for (op, state, params) in updates {
        let program = traced(|t| {
            let inputs = (0..state).map(|i| t.input(i));
            let args: Vec<Real> = inputs.chain((0..params).map(|i| t.param(i))).collect();
            apply(t, op, &args)
        });
        all.push(Case::new(op, "in place, factors as parameters [67]", move |title| {
            let mut p = Problem::new(title);
            for i in 0..state {
                let domain = if i == 3 { Domain::Positive } else { Domain::Real };
                p.drawn(DType::F32, &[67], Place::Contiguous, |r| ordinary(r, domain));
            }
            for factor in [0.01, 0.5, 3.5, 10.0].into_iter().take(params) {
                p.values(DType::F32, &[1], Place::Contiguous, move |_| factor);
            }
            let Traced { program, immediates } = program.clone();
            p.verb(move |v: &[View]| {
                // The parameter and its state are written, the gradient is not.
                let outputs = [0, 2, 3].into_iter().filter(|&i| i < state);
                let outputs = outputs.map(|i| v[i].clone()).collect();
                let (inputs, params) = (v[..state].to_vec(), v[state..].to_vec());
                Map { program: program.clone(), params, immediates, inputs, outputs }.into()
            })
        }));
    }
}

fn shapes(all: &mut Vec<Case>) {
    let constant = traced(|t| vec![t.lit(3.5)]);
    all.push(Case::new("constant", "without inputs [3, 5]", move |title| {
        let mut p = Problem::new(title);
        p.output(DType::F32, &[3, 5], Place::Transposed);
        verb(p, &constant, 0, 0)
    }));
    let many = traced(|t| {
        let sum = (1..12).fold(t.input(0), |sum, i| t.add(sum, t.input(i)));
        vec![sum]
    });
    all.push(Case::new("add", "of 12 inputs [37]", move |title| {
        let mut p = Problem::new(title);
        for i in 0..12 {
            let place = if i % 2 == 0 { Place::Contiguous } else { Place::Step };
            p.drawn(DType::F32, &[37], place, |r| f64::from(r.uniform()));
        }
        p.output(DType::F32, &[37], Place::Contiguous);
        verb(p, &many, 12, 0)
    }));
    let square = traced(|t| vec![t.mul(t.input(0), t.input(0))]);
    for place in Place::OUTPUTS {
        let program = square.clone();
        let shape = [2, 1, 3, 1, 2, 2, 1, 2];
        all.push(Case::new("sqr", format!("of eight axes {place:?}"), move |title| {
            let mut p = Problem::new(title);
            p.uniform(&shape, place);
            p.output(DType::F32, &shape, place);
            verb(p, &program, 1, 0)
        }));
    }
}
