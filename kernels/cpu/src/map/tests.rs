//! Every path against the scalar evaluation of the same program, bit for bit.

use super::fixed::Table;
use super::*;
use crate::Team;
use starling_contract::{DType, HostStorage, Immediates, Kind, Storage, Verb};
use starling_ops::defs::ALL;
use starling_ops::program::{Builder, Env, NodeId};
use starling_ops::{Definition, Key, Math, Program, Scalar, Trace};
use std::cell::RefCell;
use std::sync::Arc;
use tape::{TAPES, tapes};

/// A small reproducible stream of numbers with every special value among them.
fn numbers(n: usize, seed: u32) -> Vec<f32> {
    let special = [0.0, -0.0, 1e-30, -1e-30, 1e-40, 100.0, -100.0, 1e4, -1e4, 88.9, -104.5];
    let infinite = [f32::INFINITY, f32::NEG_INFINITY, f32::NAN, f32::MAX, f32::MIN_POSITIVE];
    let mut stream = starling_ops::philox::HostStream::seeded(seed.into(), 0);
    let mut draw = |_| match stream.below(12) {
        0 => special[stream.below(special.len() as u32) as usize],
        1 => infinite[stream.below(infinite.len() as u32) as usize],
        _ => stream.normal() * 2.0,
    };
    (0..n).map(&mut draw).collect()
}

fn view(dtype: DType, bytes: &[u8], shape: &[usize], strides: &[isize], offset: usize) -> View {
    let storage = HostStorage::new(bytes.len()).unwrap();
    // SAFETY: the storage is as long as the bytes and nobody else has it.
    unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), storage.pointer(), bytes.len()) };
    View { storage, dtype, layout: Layout::new(shape, strides, offset) }
}

fn dense(x: &[f32], shape: &[usize]) -> View {
    let bytes: Vec<u8> = x.iter().flat_map(|v| v.to_ne_bytes()).collect();
    view(DType::F32, &bytes, shape, Layout::contiguous(shape).strides(), 0)
}

fn word(bits: u32) -> View {
    view(DType::U32, &bits.to_ne_bytes(), &[], &[], 0)
}

fn empty(shape: &[usize]) -> View {
    dense(&vec![7.0; shape.iter().product()], shape)
}

fn element(v: &View, at: usize) -> f32 {
    let position = v.layout.position(at);
    let storage = v.storage.downcast_ref::<HostStorage>().unwrap();
    assert!((position + 1) * v.dtype.size() <= storage.bytes());
    let p = storage.pointer();
    // SAFETY: the position is inside the storage.
    unsafe {
        match v.dtype {
            DType::F32 | DType::U32 => *p.cast::<f32>().add(position),
            DType::F16 => (*p.cast::<half::f16>().add(position)).to_f32(),
            DType::BF16 => (*p.cast::<half::bf16>().add(position)).to_f32(),
            _ => (*p.add(position)).into(),
        }
    }
}

/// The program's results element by element, by scalar evaluation.
fn expected(verb: &Map) -> Vec<Vec<f32>> {
    let m = Scalar::<f32>::NEW;
    let words: Vec<u32> = verb.params.iter().map(|p| element(p, 0).to_bits()).collect();
    let params: Vec<f32> = words.iter().map(|&w| f32::from_bits(w)).collect();
    let n = verb.outputs[0].len();
    let mut out = vec![Vec::new(); verb.outputs.len()];
    for at in 0..n {
        let inputs: Vec<f32> = verb.inputs.iter().map(|v| element(v, at)).collect();
        let immediates: Vec<f32> = verb.immediates.values().collect();
        let env = Env {
            inputs: &inputs,
            params: &params,
            words: &words,
            immediates: &immediates,
            index: at as u32,
        };
        verb.program.eval(m, &env, &mut Vec::new(), |o, v| out[o].push(v));
    }
    out
}

fn bits(x: f32) -> u32 {
    if x.is_nan() { f32::NAN.to_bits() } else { x.to_bits() }
}

fn rounded(x: f32, dtype: DType) -> f32 {
    match dtype {
        DType::F16 => half::f16::from_f32(x).to_f32(),
        DType::BF16 => half::bf16::from_f32(x).to_f32(),
        DType::U8 => f32::from(u8::from(x != 0.0)),
        _ => x,
    }
}

/// Interpreter and monomorphised kernel, every instruction set, 1 to 3 threads.
fn check(verb: &Map, what: &str) {
    let expected = expected(verb);
    let before: Vec<Vec<f32>> =
        verb.outputs.iter().map(|v| (0..v.len()).map(|i| element(v, i)).collect()).collect();
    let tapes =
        [Tape::new(&verb.program, None), Tape::new(&verb.program, fixed::find(&verb.program))];
    for isa in Isa::under_test().unwrap() {
        for tape in &tapes {
            for threads in [1, 2, 3] {
                // In-place outputs start each time from what they were.
                for (v, old) in verb.outputs.iter().zip(&before) {
                    restore(v, old);
                }
                let team = Team::new(threads).unwrap();
                team.install(|| map_with(isa, verb, tape)).unwrap();
                for (o, (v, expected)) in verb.outputs.iter().zip(&expected).enumerate() {
                    for (i, &e) in expected.iter().enumerate() {
                        let (got, e) = (element(v, i), rounded(e, v.dtype));
                        assert_eq!(
                            bits(got),
                            bits(e),
                            "{what} on {isa}, {threads} threads, output {o} element {i}: {got} \
                             and not {e}\n{:?}",
                            verb.program
                        );
                    }
                }
            }
        }
    }
}

fn restore(v: &View, old: &[f32]) {
    if v.dtype != DType::F32 {
        return;
    }
    let p: *mut f32 = HostStorage::of(v).unwrap().cast();
    for (i, &x) in old.iter().enumerate() {
        // SAFETY: the position is inside the storage.
        unsafe { *p.add(v.layout.position(i)) = x };
    }
}

fn run(isa: Isa, verb: &Map) -> Result<()> {
    let checked = Verb::from(verb.clone()).check()?;
    let Kind::Map(verb) = checked.kind() else { unreachable!("a map stays one") };
    map(isa, verb)
}

fn verb_of(program: Program, inputs: Vec<View>, params: Vec<View>) -> Map {
    let shape = inputs.first().map_or(vec![100], |v| v.shape().to_vec());
    let outputs = program.outputs().iter().map(|_| empty(&shape)).collect();
    let numbers: Vec<f32> = (0..program.immediate_count()).map(|i| 0.9 + 0.01 * i as f32).collect();
    let immediates = Immediates::new(&numbers).unwrap();
    let verb = Map { program: Arc::new(program), params, immediates, inputs, outputs };
    Verb::from(verb.clone()).check().unwrap();
    verb
}

#[test]
fn every_definition_and_derivative_is_bit_equal_to_its_scalar_evaluation() {
    for d in ALL {
        let scalars = d.default_scalars();
        let mut programs = vec![d.program(&scalars)];
        if d.gradient.is_derived() {
            programs.extend((0..d.tensors.len()).map(|by| d.derivative_program(&scalars, by)));
        }
        for program in programs {
            let inputs = (0..d.tensors.len()).map(|i| dense(&numbers(1061, i as u32), &[1061]));
            check(&verb_of(program, inputs.collect(), vec![]), d.name);
        }
    }
}

/// What the engine makes of a layer finds its kernel.
#[test]
fn no_definition_has_lost_its_kernel() {
    let of = |name: &str| Definition::find(name).unwrap();
    let found = |program: &Program| fixed::find(program).is_some();
    for name in ["relu", "gelu", "gelu_tanh", "silu", "sigmoid", "tanh"] {
        let d = of(name);
        let biased = |saved: bool| {
            built(|t| {
                let sum = t.add(t.input(0), t.input(1)).0;
                let out = d.put(t.0, &[sum], &[])[0];
                if saved { vec![out, sum] } else { vec![out] }
            })
        };
        let slope = built(|t| {
            let (g, x) = (t.input(0).0, t.input(1).0);
            let slope = d.put_derivative(t.0, &[x], &[], 0)[0];
            vec![t.0.borrow_mut().put(Op::Mul, &[g, slope])]
        });
        let forms = [d.program(&[]), biased(false), biased(true), slope];
        assert_eq!(forms.each_ref().map(found), [true; 4], "{name}");
    }
    for name in ["add", "sub", "mul", "div"] {
        assert!(found(&of(name).program(&[])), "{name}");
    }
}

#[test]
fn every_monomorphised_kernel_has_the_interpreters_bits() {
    let all = Table::all();
    // Six activations, alone, after a bias with and without the sum kept, and backward, in every
    // order of operands; four of arithmetic, three updates. One that is lost is seen here.
    assert_eq!(all.len(), 6 * 9 + 4 + 3);
    for program in all {
        assert!(fixed::find(&program).is_some(), "{program:?}");
        let inputs: Vec<_> =
            (0..program.input_count()).map(|i| dense(&numbers(541, i as u32), &[541])).collect();
        let params = [1e-3f32, 0.7, 1.5, 1.1].map(|x| word(x.to_bits()));
        check(&verb_of(program, inputs, params.to_vec()), "kernel");
    }
}

fn built(f: impl FnOnce(Trace<'_>) -> Vec<NodeId>) -> Program {
    let builder = RefCell::new(Builder::new());
    let outputs = f(Trace(&builder));
    builder.into_inner().finish(&outputs)
}

/// `(x0 * x1 + x2, x0 < x1)`
fn mixed() -> Program {
    built(|t| {
        let [a, b, c] = [0, 1, 2].map(|i| t.input(i));
        let truth = t.select(t.lt(a, b), t.lit(1.0), t.lit(0.0));
        vec![t.fma(a, b, c).0, truth.0]
    })
}

#[test]
fn layouts_broadcast_run_backwards_and_mix_types() {
    let x: Vec<u8> = numbers(6000, 1).iter().flat_map(|v| v.to_ne_bytes()).collect();
    let halves: Vec<u8> =
        numbers(6000, 2).iter().flat_map(|&v| half::f16::from_f32(v).to_ne_bytes()).collect();
    let brains: Vec<u8> =
        numbers(6000, 3).iter().flat_map(|&v| half::bf16::from_f32(v).to_ne_bytes()).collect();
    let flags: Vec<u8> = (0..6000u32).map(|i| (i % 3) as u8).collect();
    for shape in [[3, 1300], [130, 29], [1, 1], [4, 512], [40, 1]] {
        let [m, n] = shape.map(|n| n as isize);
        let layouts: [([isize; 2], usize); 6] = [
            ([n, 1], 0),
            ([0, 1], 3),
            ([1, 0], 0),
            ([1, m], 5),
            ([-n, -1], (m * n - 1) as usize),
            ([0, 0], 9),
        ];
        for (k, (strides, offset)) in layouts.into_iter().enumerate() {
            let a = view(DType::F32, &x, &shape, &strides, offset);
            let b =
                view(DType::F16, &halves, &shape, &layouts[(k + 1) % 6].0, layouts[(k + 1) % 6].1);
            let c =
                view(DType::BF16, &brains, &shape, &layouts[(k + 2) % 6].0, layouts[(k + 2) % 6].1);
            let mut verb = verb_of(mixed(), vec![a.clone(), b, c], vec![]);
            check(&verb, "mixed");
            let flags =
                view(DType::U8, &flags, &shape, &layouts[(k + 3) % 6].0, layouts[(k + 3) % 6].1);
            verb.inputs[2] = flags;
            verb.outputs[0] = view(DType::BF16, &brains, &shape, &[1, m], 0);
            verb.outputs[1] = view(DType::U8, &brains, &shape, &[2 * n, 2], 1);
            check(&verb, "narrow outputs");
            let bias = verb_of(
                Definition::find("add").unwrap().program(&[]),
                vec![dense(&numbers((m * n) as usize, 4), &shape), a],
                vec![],
            );
            check(&bias, "bias");
        }
    }
}

#[test]
fn in_place_outputs_do_not_overwrite_what_is_still_read() {
    // The first result is ready before the second reads both inputs again.
    let program = built(|t| {
        let (a, b) = (t.input(0), t.input(1));
        let sum = t.add(a, b);
        let late = t.mul(t.exp(t.sub(a, b)), a);
        vec![sum.0, late.0, a.0]
    });
    let (a, b) = (dense(&numbers(3000, 1), &[3000]), dense(&numbers(3000, 2), &[3000]));
    let mut verb = verb_of(program, vec![a.clone(), b.clone()], vec![]);
    let expected = expected(&verb);
    for isa in Isa::under_test().unwrap() {
        restore(&a, &numbers(3000, 1));
        restore(&b, &numbers(3000, 2));
        verb.outputs[0] = a.clone();
        verb.outputs[1] = b.clone();
        run(isa, &verb).unwrap();
        for (v, e) in verb.outputs.iter().zip(&expected) {
            assert!((0..3000).all(|i| bits(element(v, i)) == bits(e[i])), "{isa}");
        }
    }
}

#[test]
fn uniform_numbers_index_and_parameters_follow_the_element() {
    let program = built(|t| {
        let index = t.index();
        let seed = t.param_word(0);
        let key = Key {
            seed_lo: seed,
            seed_hi: t.ulit(5),
            instance: t.ulit(1),
            step: t.param_word(1),
            node: t.ulit(0),
        };
        let u = t.uniform(index, key);
        let far = t.uniform(t.umul(index, t.ulit(3)), key);
        let x = t.mul(t.input(0), t.param(2));
        vec![u.0, far.0, t.add(x, u).0, t.to_real(index).0, t.lit(2.5).0, t.param(2).0]
    });
    let params = || vec![word(77), word(u32::MAX), word(1.5f32.to_bits())];
    for (shape, strides) in [
        (vec![5003], vec![1]),
        (vec![7, 300], vec![300, 1]),
        (vec![9, 301], vec![0, 1]),
        (vec![50, 3], vec![1, 50]),
        (vec![3, 4, 5], vec![0, 1, 0]),
    ] {
        let x: Vec<u8> = numbers(6000, 8).iter().flat_map(|v| v.to_ne_bytes()).collect();
        let x = view(DType::F32, &x, &shape, &strides, 0);
        let mut verb = verb_of(program.clone(), vec![x], params());
        check(&verb, "uniform");
        // Outputs in another order of axes: the index is still the row-major one.
        let rank = shape.len();
        let reversed: Vec<usize> = (0..rank).rev().collect();
        let flipped: Vec<usize> = reversed.iter().map(|&a| shape[a]).collect();
        for v in &mut verb.outputs {
            let layout = Layout::contiguous(&flipped).permute(&reversed);
            *v = v.with(layout);
        }
        check(&verb, "uniform, permuted");
    }
}

#[test]
fn programs_larger_than_any_inline_list_run() {
    let program = built(|t| {
        let mut sum = t.lit(0.0);
        let mut all = Vec::new();
        for i in 0..40 {
            sum = t.fma(t.input(i), t.sin(sum), t.param(i % 9));
            all.push(t.exp(sum).0);
        }
        all
    });
    let inputs = (0..40).map(|i| dense(&numbers(700, i), &[700])).collect();
    let params = (0..9).map(|i| word((i as f32).to_bits())).collect();
    check(&verb_of(program, inputs, params), "large");
}

#[test]
fn nothing_is_done_for_no_elements() {
    let verb =
        verb_of(Definition::find("exp").unwrap().program(&[]), vec![dense(&[], &[3, 0])], vec![]);
    run(Isa::from_env().unwrap(), &verb).unwrap();
}

#[test]
fn tapes_of_programs_that_nobody_runs_any_more_are_dropped() {
    for i in 0..3 * TAPES {
        let program = built(|t| vec![t.mul(t.input(0), t.lit(2.0 + i as f64)).0]);
        Tape::of(&program);
    }
    let kept = tapes().read().unwrap().len();
    assert!(kept <= TAPES, "{kept} tapes");
}
