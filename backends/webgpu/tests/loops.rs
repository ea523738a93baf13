//! Loops about as long as some drivers let them be (llvmpipe of Mesa 22.3: 65,535 turns): what is
//! not refused is right.

use starling_conformance::{Case, Place, Problem, Verdict, run};
use starling_contract::{
    Attention, AttentionBackward, DType, ScatterAdd, Sight, Softmax, SoftmaxBackward, View,
};
use starling_webgpu::{Options, WebGpuBackend};

/// Three times along rows that one invocation has alone.
fn softmax(n: usize) -> Case {
    Case::new("softmax", format!("[64, {n}]"), move |title| {
        let mut p = Problem::new(title);
        p.uniform(&[64, n], Place::Contiguous);
        p.output(DType::F32, &[64, n], Place::Contiguous);
        p.verb(|v: &[View]| Softmax { x: v[0].clone(), y: v[1].clone(), log: false }.into())
    })
}

/// Twice along them.
fn softmax_backward(n: usize) -> Case {
    Case::new("softmax_backward", format!("[64, {n}]"), move |title| {
        let mut p = Problem::new(title);
        p.uniform(&[64, n], Place::Contiguous);
        p.uniform(&[64, n], Place::Contiguous);
        p.output(DType::F32, &[64, n], Place::Contiguous);
        p.verb(|v: &[View]| {
            let [y, d_y, d_x] = [v[0].clone(), v[1].clone(), v[2].clone()];
            SoftmaxBackward { y, d_y, d_x, log: false }.into()
        })
    })
}

/// Loops over quads in loops over keys, and over queries in the gradient of keys.
fn attention(heads: usize, queries: usize, keys: usize, backward: bool) -> Case {
    let op = if backward { "attention_backward" } else { "attention" };
    Case::new(op, format!("{heads}x{queries}x{keys}x64"), move |title| {
        let mut p = Problem::new(title);
        let (q, k) = ([1, heads, queries, 64], [1, 1, keys, 64]);
        p.uniform(&q, Place::Contiguous);
        p.uniform(&k, Place::Contiguous);
        p.uniform(&k, Place::Contiguous);
        p.output(DType::F32, &q, Place::Contiguous);
        p.output(DType::F32, &q[..3], Place::Contiguous);
        let forward = |v: &[View]| {
            let [q, k, out, lse] = [0, 1, 3, 4].map(|i| v[i].clone());
            let v = v[2].clone();
            Attention {
                q,
                k,
                v,
                mask: None,
                sight: Sight::default(),
                scale: 0.125,
                score: None,
                dropout: None,
                out,
                lse,
            }
        };
        if !backward {
            return p.verb(move |v: &[View]| forward(v).into());
        }
        p.forward(|v| forward(v).into());
        p.uniform(&q, Place::Contiguous);
        for shape in [q, k, k] {
            p.output(DType::F32, &shape, Place::Contiguous);
        }
        p.verb(move |v: &[View]| {
            let [d_out, d_q, d_k, d_v] = [5, 6, 7, 8].map(|i| v[i].clone());
            let forward = forward(v);
            AttentionBackward {
                forward,
                d_out,
                d_q,
                d_k,
                d_v,
                d_mask: None,
                d_inputs: vec![],
                workspace: None,
            }
            .into()
        })
    })
}

/// A line that takes several kernels, one after the other.
fn scatter_add(len: usize) -> Case {
    Case::new("scatter_add", format!("{len}"), move |title| {
        let mut p = Problem::new(title);
        p.uniform(&[len], Place::Step);
        p.drawn(DType::I32, &[len], Place::Offset, |r| f64::from(r.below(5)));
        p.uniform(&[5], Place::Contiguous);
        p.verb(|v: &[View]| {
            let [x, index, out] = [v[0].clone(), v[1].clone(), v[2].clone()];
            ScatterAdd { x, index, axis: 0, out, workspace: None }.into()
        })
    })
}

#[test]
fn are_run_to_their_ends_or_refused() {
    let mut table = Vec::new();
    table.extend([21_001, 21_401, 21_601, 21_801, 23_001].map(softmax));
    table.extend([32_001, 32_201, 32_401, 33_001].map(softmax_backward));
    for backward in [false, true] {
        table.extend([3_501, 3_701, 3_721, 3_741, 4_097].map(|k| attention(1, 3, k, backward)));
    }
    table.extend([3_701, 3_741, 4_097].map(|q| attention(1, q, 3, true)));
    table.extend([1_851, 1_871, 2_049].map(|q| attention(2, q, 3, true)));
    table.extend([65_533, 65_534, 65_535, 200_003].map(scatter_add));
    for options in ["plain", "plain+hardware", "subgroup"] {
        let options: Options = options.parse().unwrap();
        let backend = WebGpuBackend::with(0, options).unwrap();
        let (mut right, mut refused) = (0, 0);
        run(&(backend as _), &table, None, &mut |case, verdict| match verdict {
            Verdict::Passed { .. } => right += 1,
            Verdict::Failed { message, .. } if message.contains("its loops make up to") => {
                println!("{}: {message}", case.title());
                refused += 1;
            }
            Verdict::Failed { message, .. } => panic!("{}: {message}", case.title()),
            Verdict::Skipped { reason, .. } => panic!("{}: {reason}", case.title()),
        });
        assert!(right > refused, "{right} cases were right and {refused} refused");
    }
}
