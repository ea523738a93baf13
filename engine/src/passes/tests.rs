//! Lists made at random: whatever the passes make of one leaves the same bits where somebody looks.

use super::{Passes, World, run};
use starling_contract::{
    Backend, Checked, Copy, DType, Fill, Gemm, HostStorage, Immediates, Layout, Map, Reduce,
    ReduceKind, Softmax, Storage, Stream, Support, Verb, View,
};
use starling_cpu::CpuBackend;
use starling_ops::Program;
use starling_ops::program::Op;
use std::sync::Arc;

/// Bytes of each storage: 4 x 6 numbers and as many again.
const BYTES: usize = 2 * 24 * 4;

struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) as usize % n
    }

    fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }
}

/// Half of the storages are nobody's after the list.
struct Memory(Vec<Arc<dyn Storage>>);

impl Memory {
    fn new() -> Self {
        Self((0..8).map(|_| HostStorage::new(BYTES).unwrap() as Arc<dyn Storage>).collect())
    }

    fn is_temporary(&self, view: &View) -> bool {
        self.0[4..].iter().any(|s| Arc::ptr_eq(s, &view.storage))
    }

    /// A part of a storage that holds 24 elements of `shape`.
    fn view(&self, r: &mut Random, shape: &[usize], output: bool) -> View {
        let storage = self.0[r.below(8)].clone();
        let dtype = match r.below(6) {
            0 => DType::BF16,
            1 => DType::F16,
            _ => DType::F32,
        };
        let offset = [0, 24, 6, 12][if r.one_in(4) { r.below(4) } else { 0 }];
        let mut layout = Layout::contiguous(shape);
        let mut strides = layout.strides().to_vec();
        match r.below(8) {
            0 if !output && shape.len() > 1 => strides[0] = 0,
            1 if shape.len() == 2 => strides = vec![1, shape[0] as isize],
            _ => {}
        }
        layout = Layout::new(shape, &strides, offset);
        View { storage, dtype, layout }
    }
}

fn program(r: &mut Random, inputs: usize, outputs: usize) -> (Arc<Program>, Immediates) {
    let mut b = starling_ops::program::Builder::new();
    let mut values: Vec<_> = (0..inputs).map(|i| b.put(Op::Input(i as u16), &[])).collect();
    if r.one_in(4) {
        let i = b.put(Op::Index, &[]);
        values.push(b.put(Op::ToReal, &[i]));
    }
    if r.one_in(3) || values.is_empty() {
        values.push(b.element(r.below(9) as f32 * 0.3 - 1.1));
    }
    for _ in 0..1 + r.below(4) {
        let mut any = || values[r.below(values.len())];
        let (x, y) = (any(), any());
        let op = [Op::Add, Op::Mul, Op::Sub, Op::Max][r.below(4)];
        values.push(b.put(op, &[x, y]));
        if r.one_in(4) {
            values.push(b.put(Op::Tanh, &[x]));
        }
    }
    let roots: Vec<_> = values.iter().rev().take(outputs).copied().collect();
    let (program, immediates) = b.finish_with_immediates(&roots);
    (Arc::new(program), immediates)
}

fn verb(r: &mut Random, m: &Memory) -> Verb {
    let shape: &[usize] = [&[4usize, 6][..], &[24], &[2, 12]][r.below(3)];
    match r.below(12) {
        0 => Fill { dst: m.view(r, shape, true), value: r.below(5) as f64 }.into(),
        1 => Copy { src: m.view(r, shape, false), dst: m.view(r, shape, true) }.into(),
        2 => {
            let mut view = |output| View { dtype: DType::F32, ..m.view(r, shape, output) };
            Softmax { x: view(false), y: view(true), log: false }.into()
        }
        3 => {
            let (program, immediates) = program(r, 1, 1);
            let inputs = vec![m.view(r, &[4, 6], false)];
            let output = View { dtype: DType::F32, ..m.view(r, &[4, 1], true) };
            let (kind, params, axes, workspace) = (ReduceKind::Sum, Vec::new(), 2, None);
            Reduce { kind, program, params, immediates, inputs, axes, output, workspace }.into()
        }
        4..=5 => {
            let mut view =
                |shape: &[usize], output| View { dtype: DType::F32, ..m.view(r, shape, output) };
            let (a, b, c) = (view(&[4, 3], false), view(&[3, 6], false), view(&[4, 6], true));
            let (alpha, beta) = (1.0, 0.0);
            Gemm { a, b, c, alpha, beta, epilogue: None, workspace: None }.into()
        }
        _ => {
            let count = 1 + r.below(3);
            let inputs: Vec<View> = (0..count).map(|_| m.view(r, shape, false)).collect();
            let outputs = (0..1 + r.below(2)).map(|_| m.view(r, shape, true)).collect::<Vec<_>>();
            let (program, immediates) = program(r, count, outputs.len());
            let params = if r.one_in(5) { vec![m.view(r, &[], false)] } else { Vec::new() };
            let params = params.into_iter().map(|v| View { dtype: DType::F32, ..v }).collect();
            Map { program, params, immediates, inputs, outputs }.into()
        }
    }
}

fn fill(memory: &Memory, stream: &dyn Stream) {
    for (i, storage) in memory.0.iter().enumerate() {
        let data: Vec<f32> = (0..48).map(|j| ((i * 48 + j) as f32 * 0.37).sin()).collect();
        let view = View::contiguous(storage.clone(), DType::F32, &[48]);
        stream.upload(bytemuck::cast_slice(&data), &view).unwrap();
    }
}

/// What somebody sees once the list has run.
fn seen(memory: &Memory, stream: &dyn Stream, list: &[Checked]) -> Vec<Vec<u8>> {
    fill(memory, stream);
    list.iter().for_each(|verb| stream.submit(verb).unwrap());
    let download = |storage: &Arc<dyn Storage>| {
        let mut bytes = vec![0; BYTES];
        let view = View::contiguous(storage.clone(), DType::F32, &[48]);
        pollster::block_on(stream.download(&view, &mut bytes)).unwrap();
        bytes
    };
    memory.0[..4].iter().map(download).collect()
}

/// Lists on which each pass had something to do.
fn try_lists(passes: Passes, seeds: std::ops::Range<u64>) -> usize {
    let backend = CpuBackend::detect().unwrap();
    let (stream, memory) = (backend.stream().unwrap(), Memory::new());
    let world = World {
        is_temporary: &|view| memory.is_temporary(view),
        is_native: &|verb| backend.supports(verb) == Support::Native,
        workspace_bytes: &|verb| backend.workspace_bytes(verb),
        joins_programs: true,
    };
    let mut shorter = 0;
    for seed in seeds {
        let mut r = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 7);
        let mut list = Vec::new();
        while list.len() < 12 {
            let Ok(checked) = verb(&mut r, &memory).check() else { continue };
            if backend.supports(&checked) == Support::Native
                && backend.workspace_bytes(&checked) == 0
            {
                list.push(checked);
            }
        }
        let right = seen(&memory, &*stream, &list);
        let made = run(list.clone(), passes, &world);
        shorter += usize::from(made.len() < list.len());
        let found = seen(&memory, &*stream, &made);
        assert!(found == right, "seed {seed}: {list:#?} became {made:#?}");
    }
    shorter
}

#[test]
fn each_pass_keeps_every_bit_that_is_seen() {
    let lists = if cfg!(miri) { 5 } else { 4000 };
    let only = |change: fn(&mut Passes)| {
        let mut passes = Passes::NONE;
        change(&mut passes);
        try_lists(passes, 0..lists)
    };
    let found = [
        only(|p| p.dead_verbs = true),
        only(|p| p.merged_maps = true),
        only(|p| p.epilogues = true),
        try_lists(Passes::ALL, lists..2 * lists),
    ];
    assert!(found.iter().all(|&n| n > lists as usize / 50), "passes that do nothing: {found:?}");
    assert_eq!(try_lists(Passes::NONE, 0..20), 0);
}
