//! The matrix of verb, dtype and backend in ARCHITECTURE.md is what the backends say.
//!
//! `UPDATE_GOLDEN=1 cargo test -p starling-engine --test matrix` rewrites it.

use starling_contract::{
    Attention, AttentionBackward, Backend, Copy, CrossEntropy, CrossEntropyBackward, DType, Fill,
    Gather, Gemm, HostStorage, Map, Norm, NormBackward, NormKind, Program, Reduce, ReduceKind,
    ScatterAdd, Sight, Softmax, SoftmaxBackward, Support, Verb, View,
};
use std::fmt::Write;
use std::path::Path;
use std::sync::Arc;

fn view(dtype: DType, shape: &[usize]) -> View {
    let bytes = dtype.size() * shape.iter().product::<usize>();
    View::contiguous(HostStorage::new(bytes).unwrap(), dtype, shape)
}

/// One verb of each kind whose data has this type; statistics are f32 and indices i32.
fn verbs(dtype: DType) -> Vec<(&'static str, Verb)> {
    use DType::{F32, I32};
    let of = |shape: &[usize]| view(dtype, shape);
    let (square, row) = (|| of(&[2, 2]), || of(&[2]));
    let (stats, index) = (|| view(F32, &[2]), || view(I32, &[2]));
    let heads = || of(&[1, 1, 2, 2]);
    let attention = || Attention {
        q: heads(),
        k: heads(),
        v: heads(),
        mask: None,
        sight: Sight::causal(),
        scale: 1.0,
        score: None,
        dropout: None,
        out: heads(),
        lse: view(F32, &[1, 1, 2]),
    };
    let program = Arc::new(Program::identity());
    let params = Vec::new;
    let (x, y, d_y, d_x) = (square, square, square, square);
    let (kind, ignore_index, workspace) = (NormKind::Layer, None, None);
    let indices = || view(I32, &[2, 2]);
    let all: [Verb; 16] = [
        Map {
            program: program.clone(),
            params: params(),
            immediates: Default::default(),
            inputs: vec![x()],
            outputs: vec![y()],
        }
        .into(),
        Reduce {
            kind: ReduceKind::Sum,
            program,
            params: params(),
            immediates: Default::default(),
            inputs: vec![x()],
            axes: 2,
            output: view(F32, &[2, 1]),
            workspace: None,
        }
        .into(),
        Gemm { a: x(), b: x(), c: y(), alpha: 1.0, beta: 0.0, epilogue: None, workspace: None }
            .into(),
        attention().into(),
        AttentionBackward {
            forward: attention(),
            d_out: heads(),
            d_q: heads(),
            d_k: heads(),
            d_v: heads(),
            d_mask: None,
            d_inputs: vec![],
            workspace: None,
        }
        .into(),
        Softmax { x: x(), y: y(), log: false }.into(),
        SoftmaxBackward { y: y(), d_y: d_y(), d_x: d_x(), log: false }.into(),
        Norm {
            kind,
            x: x(),
            weight: Some(row()),
            bias: Some(row()),
            eps: 1e-5,
            y: y(),
            mean: Some(stats()),
            rstd: stats(),
        }
        .into(),
        NormBackward {
            kind,
            x: x(),
            weight: Some(row()),
            mean: Some(stats()),
            rstd: stats(),
            d_y: d_y(),
            d_x: d_x(),
            d_weight: Some(stats()),
            d_bias: Some(stats()),
            workspace,
        }
        .into(),
        CrossEntropy { logits: x(), targets: index(), ignore_index, losses: stats(), lse: stats() }
            .into(),
        CrossEntropyBackward {
            logits: x(),
            targets: index(),
            ignore_index,
            lse: stats(),
            d_losses: stats(),
            d_logits: d_x(),
        }
        .into(),
        Gather { x: x(), index: indices(), axis: 0, out: y() }.into(),
        ScatterAdd { x: x(), index: indices(), axis: 0, out: y(), workspace: None }.into(),
        Copy { src: x(), dst: view(F32, &[2, 2]) }.into(),
        Copy { src: view(F32, &[2, 2]), dst: y() }.into(),
        Fill { dst: y(), value: 1.0 }.into(),
    ];
    let names = all.iter().map(Verb::name).enumerate().map(|(i, name)| match i {
        13 => "copy to f32",
        14 => "copy from f32",
        _ => name,
    });
    names.collect::<Vec<_>>().into_iter().zip(all).collect()
}

/// A row per verb, a column per type; empty where the contract has no such verb.
fn table(backend: &dyn Backend) -> String {
    let columns: Vec<Vec<(&str, Verb)>> = DType::ALL.into_iter().map(verbs).collect();
    let mut text = format!("\n| {} |", backend.name());
    DType::ALL.iter().for_each(|d| write!(text, " {d} |").unwrap());
    text.push_str(&format!("\n|---|{}\n", "---|".repeat(DType::ALL.len())));
    for (row, (name, _)) in columns[0].iter().enumerate() {
        write!(text, "| {name} |").unwrap();
        for column in &columns {
            let verb = &column[row].1;
            let word = match backend.supports(verb) {
                _ if verb.clone().check().is_err() => "",
                Support::Native => "native",
                Support::Composed => "composed",
                Support::No => "no",
            };
            write!(text, " {word} |").unwrap();
        }
        text.push('\n');
    }
    text
}

#[test]
fn the_verb_matrix_is_up_to_date() {
    let reference = starling_reference::ReferenceBackend::new();
    let cpu = starling_cpu::CpuBackend::detect().unwrap();
    let webgpu = starling_engine::Device::new("webgpu:0").unwrap();
    let tables =
        format!("{}{}{}\n", table(&reference), table(cpu.as_ref()), table(&**webgpu.backend()));

    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../ARCHITECTURE.md");
    let text = std::fs::read_to_string(&path).unwrap();
    let (before, rest) = text.split_once("<!-- verb matrix -->\n").expect("the first marker");
    let (_, after) = rest.split_once("<!-- /verb matrix -->").expect("the last marker");
    let current = format!("{before}<!-- verb matrix -->\n{tables}<!-- /verb matrix -->{after}");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, current).unwrap();
    } else {
        assert!(text == current, "run UPDATE_GOLDEN=1 cargo test -p starling-engine --test matrix");
    }
}
