//! The order of additions is a function of the shape: random programs over operands that lie in
//! any way are reduced to the same bits as their values in row-major order.

use super::*;
use crate::map::map;
use half::{bf16, f16};
use starling_contract::Map;

/// A drawn shape: short axes, some of them long or next to what the kernels cut at.
fn shape(draw: &mut HostStream) -> Vec<usize> {
    const LONG: [u32; 8] = [15, 16, 17, 300, 1030, 2100, 17_000, 70_000];
    let rank = 1 + draw.below(4) as usize;
    let mut shape: Vec<usize> = (0..rank).map(|_| 1 + draw.below(7) as usize).collect();
    for _ in 0..draw.below(3) {
        let axis = draw.below(rank as u32) as usize;
        let n = LONG[draw.below(8) as usize] as usize + draw.below(3) as usize;
        let others: usize = shape.iter().product::<usize>() / shape[axis];
        if others * n <= 150_000 {
            shape[axis] = n;
        }
    }
    shape
}

/// An operand of `shape` whose axes lie in any order, of which some are passed backwards, in steps,
/// or are repeated.
fn operand(draw: &mut HostStream, shape: &[usize]) -> View {
    let rank = shape.len();
    let mut order: Vec<usize> = (0..rank).collect();
    (1..rank).rev().for_each(|i| order.swap(i, draw.below(i as u32 + 1) as usize));
    let (mut strides, mut step, mut offset) = (vec![0; rank], 1, 0);
    for &axis in &order {
        match draw.below(8) {
            0 => continue,
            1 => {
                strides[axis] = -step;
                offset += (shape[axis] - 1) * step as usize;
            }
            2 => {
                step *= 2;
                strides[axis] = step;
            }
            _ => strides[axis] = step,
        }
        step *= shape[axis] as isize;
    }
    let dtype = [DType::F32, DType::F32, DType::F16, DType::BF16][draw.below(4) as usize];
    let storage = HostStorage::new(step as usize * dtype.size()).unwrap();
    for i in 0..step as usize {
        let x = draw.normal();
        // SAFETY: the storage is as long as the numbers and nobody else has it.
        unsafe {
            match dtype {
                DType::F16 => *storage.pointer().cast::<f16>().add(i) = f16::from_f32(x),
                DType::BF16 => *storage.pointer().cast::<bf16>().add(i) = bf16::from_f32(x),
                _ => *storage.pointer().cast::<f32>().add(i) = x,
            }
        }
    }
    View { storage, dtype, layout: Layout::new(shape, &strides, offset) }
}

/// `live` values that are all alive at once; the only input's value when there are none.
fn program(inputs: usize, live: usize) -> Program {
    Program::build(|b| {
        let x: Vec<_> = (0..inputs).map(|i| b.put(Op::Input(i as u16), &[])).collect();
        let values: Vec<_> = (0..live)
            .map(|i| {
                let product = b.put(Op::Mul, &[x[i % inputs], x[(i + 1) % inputs]]);
                let apart = b.constant(0.1 * i as f64);
                b.put(Op::Add, &[product, apart])
            })
            .collect();
        let Some(&first) = values.first() else { return vec![x[0]] };
        let sum = values.iter().skip(1).fold(first, |sum, &v| b.put(Op::Add, &[sum, v]));
        vec![values.iter().fold(sum, |y, &v| b.put(Op::Mul, &[y, v]))]
    })
}

/// A program's values in row-major order.
fn values(isa: Isa, program: &Arc<Program>, inputs: &[View]) -> View {
    let shape = inputs[0].shape();
    let output = dense(&vec![f32::NAN; shape.iter().product()], shape);
    let verb = Verb::from(Map {
        program: program.clone(),
        params: vec![],
        immediates: Default::default(),
        inputs: inputs.to_vec(),
        outputs: vec![output.clone()],
    });
    let checked = verb.check().unwrap();
    let Kind::Map(verb) = checked.kind() else { unreachable!("a map stays one") };
    map(isa, verb).unwrap();
    output
}

#[test]
fn strides_and_programs_do_not_change_the_order_of_additions() {
    for seed in 0..400 {
        let draw = &mut HostStream::seeded(seed, 0);
        let shape = shape(draw);
        let inputs = 1 + draw.below(6) as usize;
        let live = if inputs == 1 { draw.below(2) * 12 } else { 1 + draw.below(12) } as usize;
        let inputs: Vec<View> = (0..inputs).map(|_| operand(draw, &shape)).collect();
        let program = Arc::new(program(inputs.len(), live));
        let axes = 1 + draw.below((1 << shape.len()) - 1);
        let kind = KINDS[draw.below(KINDS.len() as u32) as usize];
        for isa in Isa::under_test().unwrap() {
            let looked_at = verb(kind, values(isa, &program, &inputs), axes);
            let mut fused = verb(kind, inputs[0].clone(), axes);
            (fused.program, fused.inputs) = (program.clone(), inputs.clone());
            assert!(
                run(isa, &fused) == run(isa, &looked_at),
                "seed {seed}: {kind:?} of {shape:?} over {axes:b}, {live} values, on {isa}, {:?}",
                inputs.iter().map(|x| x.layout.strides()).collect::<Vec<_>>()
            );
        }
    }
}
