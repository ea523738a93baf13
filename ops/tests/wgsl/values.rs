//! Printed functions, run, give the very bits of the program they were printed from.

use crate::interpreter::{Value, call};
use crate::{functions, module, parse};
use starling_ops::defs::ALL;
use starling_ops::philox::HostStream;
use starling_ops::program::{Env, Op};
use starling_ops::wgsl::Fma;
use starling_ops::{Program, Scalar};

const SPECIAL: [f32; 21] = [
    0.0,
    -0.0,
    1e-30,
    -1e-30,
    1e-40,
    0.5,
    -0.5,
    1.0,
    -1.0,
    1.5,
    -2.5,
    3.0,
    -20.0,
    100.0,
    -100.0,
    1e4,
    -1e4,
    3e38,
    f32::INFINITY,
    f32::NEG_INFINITY,
    f32::NAN,
];

/// The outputs of the program itself.
fn expected(program: &Program, inputs: &[f32], words: &[u32], index: u32) -> Vec<f32> {
    let params: Vec<f32> = words.iter().map(|&w| f32::from_bits(w)).collect();
    let env = Env { inputs, params: &params, words, immediates: &[], index };
    let mut out = vec![0.0; program.outputs().len()];
    program.eval(Scalar::<f32>::NEW, &env, &mut Vec::new(), |i, v| out[i] = v);
    out
}

fn compare(
    module: &naga::Module,
    (name, program): &(String, Program),
    inputs: &[f32],
    words: &[u32],
    index: u32,
) {
    let inputs = &inputs[..program.input_count()];
    let reals = inputs.iter().map(|&x| Value::F(x));
    let integers = words[..program.param_count()].iter().chain([&index]).map(|&w| Value::U(w));
    let args: Vec<Value> = reals.chain(integers).collect();
    let got = match call(module, name, &args) {
        Value::F(x) => vec![x],
        Value::A(all) => all,
        other => panic!("{name} gives {other:?}"),
    };
    let want = expected(program, inputs, words, index);
    assert_eq!(got.len(), want.len(), "{name}");
    for (g, w) in got.iter().zip(&want) {
        let same = g.to_bits() == w.to_bits() || (g.is_nan() && w.is_nan());
        assert!(same, "{name}({inputs:?}, {words:?}, {index}) = {g:e} and not {w:e}");
    }
}

/// Special values in every pair of positions, then random ones of every size.
fn rows(arity: usize, random: &mut HostStream) -> Vec<Vec<f32>> {
    let mut rows = Vec::new();
    for (i, &a) in SPECIAL.iter().enumerate() {
        let n = if arity > 1 { SPECIAL.len() } else { 1 };
        rows.extend((0..n).map(|j| {
            (0..arity).map(|k| if k == 0 { a } else { SPECIAL[(i * k + j) % 21] }).collect()
        }));
    }
    for i in 0..350 {
        let size = [1.0, 8.0, 100.0, 1e-3, 1e6, 1e20, 1e38][i % 7];
        rows.push((0..arity).map(|_| size * (2.0 * random.uniform() - 1.0)).collect());
    }
    rows
}

#[test]
fn printed_definitions_give_the_bits_of_their_programs() {
    let mut random = HostStream::seeded(2, 0);
    for d in ALL {
        let functions = functions(d);
        let module = parse(d.name, &module(&functions, Fma::Fused));
        for row in rows(d.tensors.len(), &mut random) {
            for function in &functions {
                compare(&module, function, &row, &[], 0);
            }
        }
    }
}

#[test]
fn printed_random_numbers_and_parameters_give_the_bits_of_their_programs() {
    let uniform = Program::build(|b| {
        let index = b.put(Op::Index, &[]);
        let words: Vec<_> = (0..5).map(|i| b.put(Op::ParamWord(i), &[])).collect();
        let u = b.put(Op::Uniform, &[index, words[0], words[1], words[2], words[3], words[4]]);
        let scaled = b.put(Op::Param(5), &[]);
        vec![u, b.put(Op::Mul, &[u, scaled])]
    });
    // A key of constants: WGSL would evaluate its wrapping additions and call them errors.
    let constant = Program::build(|b| {
        let index = b.put(Op::Index, &[]);
        let word = b.put(Op::ConstWord(u32::MAX), &[]);
        let sum = b.put(Op::UAdd, &[word, word]);
        let high = b.put(Op::UMulHi, &[word, word]);
        let shifted = b.put(Op::UShl(7), &[high]);
        let infinity = b.constant(f64::INFINITY);
        let minus_zero = b.constant(-0.0);
        let tiny = b.constant(1e-42);
        let u = b.put(Op::Uniform, &[index, word, word, sum, word, shifted]);
        vec![u, infinity, minus_zero, tiny, b.put(Op::ToReal, &[high])]
    });
    let narrow = Program::build(|b| {
        let x = b.put(Op::ParamWord(0), &[]);
        let x = b.put(Op::FromBits, &[x]);
        vec![b.put(Op::RoundF16, &[x]), b.put(Op::RoundBf16, &[x])]
    });
    let functions = [("uniform", uniform), ("constant", constant), ("narrow", narrow)];
    let functions = functions.map(|(name, program)| (name.to_string(), program));
    let module = parse("uniform", &module(&functions, Fma::Fused));
    let mut random = HostStream::seeded(3, 0);
    for _ in 0..300 {
        let words: Vec<u32> = (0..6).map(|_| random.word()).collect();
        let index = random.word();
        functions.iter().for_each(|f| compare(&module, f, &[], &words, index));
    }
}

#[test]
fn a_fused_sum_made_of_parts_is_within_a_unit_in_the_last_place() {
    let definition = starling_ops::Definition::find("fma").unwrap();
    let functions = functions(definition);
    let module = parse("fma", &module(&functions, Fma::Separate));
    let fma = |[a, b, c]: [f32; 3]| {
        call(&module, "def_fma", &[Value::F(a), Value::F(b), Value::F(c), Value::U(0)])
    };
    let mut random = HostStream::seeded(4, 0);
    for i in 0..3000 {
        let [a, b, c] = [(); 3].map(|()| 2.0 * random.uniform() - 1.0);
        // Every other sum cancels: what is left is the product's rounding error.
        let c = if i % 2 == 0 { -(a * b) } else { c };
        let Value::F(got) = fma([a, b, c]) else { panic!("def_fma gives no number") };
        let want = a.mul_add(b, c);
        let unit = (want.abs() * f32::EPSILON).max(f32::MIN_POSITIVE);
        assert!((got - want).abs() <= unit, "fma({a:e}, {b:e}, {c:e}) = {got:e} and not {want:e}");
    }
    assert_eq!(fma([f32::INFINITY, 1.0, 2.0]), Value::F(f32::INFINITY));
    assert_eq!(fma([1e30, 1e30, -1.0]), Value::F(f32::INFINITY));
}
