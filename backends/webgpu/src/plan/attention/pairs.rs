//! The gradients of what belongs to pairs of a query and a key: the mask, the inputs of the score's
//! program. What is summed over keys is summed for each query first, into working memory.

use super::backward::{part, weighed, words};
use super::options::Slope;
use super::{Rows, Sizes, any_quads, rows_of_quads, stride};
use crate::kernel::{Kernel, looped};
use crate::operand::Access;
use crate::plan::reduce;
use crate::plan::scope::{LANES, Scope};
use crate::template::{Template, template};
use starling_contract::{AttentionBackward, Layout, Program, Reduce, ReduceKind, Result, View};
use std::sync::Arc;

const D_PAIRS: Template = template!("attention_d_pairs": "attention_sight", "attention_d_pairs");

/// The gradients that are wanted, and the derivative of the score that each is multiplied by.
pub(super) fn gradients(v: &AttentionBackward) -> impl Iterator<Item = (&View, Slope)> {
    let inputs = v.d_inputs.iter().enumerate();
    let inputs = inputs.filter_map(|(i, d)| d.as_ref().map(|d| (d, Slope::By(1 + i))));
    v.d_mask.iter().map(|d| (d, Slope::None)).chain(inputs)
}

/// True when it is summed over keys, and first into a number for each query.
fn by_queries(v: &AttentionBackward, d: &View) -> bool {
    let keys = v.forward.pairs()[3];
    d.shape()[3] == 1 && keys > 1
}

/// The sum of `[batch, heads, queries]` numbers in `rows` over the axes along which `d` has extent
/// 1; `None` where there is none.
fn over_rows(v: &AttentionBackward, rows: View, d: &View) -> Option<Reduce> {
    let [batch, heads, queries, _] = v.forward.pairs();
    let shape = [batch, heads, queries];
    let axes = (0..3).filter(|&axis| d.shape()[axis] != shape[axis]).map(|axis| 1 << axis).sum();
    if axes == 0 {
        return None;
    }
    Some(Reduce {
        kind: ReduceKind::Sum,
        program: Arc::new(Program::identity()),
        params: vec![],
        immediates: Default::default(),
        inputs: vec![part(&rows, 0, &shape)],
        axes,
        output: without_keys(d),
        workspace: None,
    })
}

fn without_keys(d: &View) -> View {
    let l = &d.layout;
    d.with(Layout::new(&l.shape()[..3], &l.strides()[..3], l.offset()))
}

/// Bytes for the sums of queries, and for summing those: the most that one gradient needs.
pub(super) fn workspace_bytes(v: &AttentionBackward) -> usize {
    let rows = &v.forward.lse;
    let bytes = |d: &View| {
        let reduce = over_rows(v, rows.clone(), d);
        rows.len() * 4 + reduce.map_or(0, |r| reduce::workspace_bytes(&r))
    };
    gradients(v).filter(|(d, _)| by_queries(v, d)).map(|(d, _)| bytes(d)).max().unwrap_or(0)
}

/// Adds the kernels of these gradients.
pub(super) fn gradients_of(
    v: &AttentionBackward,
    sizes: &Sizes,
    saved: &View,
    memory: &View,
    scope: Scope<'_>,
    kernels: &mut Vec<Kernel>,
) -> Result<()> {
    let free = sizes.all_rows() * words(v);
    for (d, slope) in gradients(v) {
        if d.is_empty() {
            continue;
        }
        if !by_queries(v, d) {
            kernels.push(kernel(v, sizes, saved, d, slope));
            continue;
        }
        let [batch, heads, queries, _] = v.forward.pairs();
        let rows = part(memory, free, &[batch, heads, queries, 1]);
        match over_rows(v, rows.clone(), d) {
            Some(mut reduce) => {
                if !rows.is_empty() {
                    kernels.push(kernel(v, sizes, saved, &rows, slope));
                }
                let bytes = reduce::workspace_bytes(&reduce);
                reduce.workspace = Some(part(memory, free + rows.len(), &[bytes / 4]));
                reduce::reduce(&reduce, scope, kernels)?;
            }
            None => kernels.push(kernel(v, sizes, saved, d, slope)),
        }
    }
    Ok(())
}

fn kernel(v: &AttentionBackward, sizes: &Sizes, saved: &View, d: &View, slope: Slope) -> Kernel {
    let f = &v.forward;
    let wide = [&f.q, &f.k, &f.v, &v.d_out].into_iter().all(rows_of_quads);
    let mut rows = Rows::new(D_PAIRS, sizes, LANES, any_quads(sizes), wide);
    weighed(&mut rows, v, sizes, slope);
    let k = &mut rows.kernel;
    k.constant("OF_INPUT", slope != Slope::None);
    k.word("len", d.len()).word("batches", sizes.batch).word("kv_heads", sizes.kv_heads);
    k.word("heads_per_kv_head", sizes.heads / sizes.kv_heads);
    let names = ["d_batches", "d_heads", "d_queries", "d_keys"];
    for (name, &n) in names.into_iter().zip(d.shape()) {
        k.word(name, n);
    }
    // A loop turns once where the result has the axis.
    let turns = f
        .pairs()
        .into_iter()
        .zip(d.shape())
        .rev()
        .fold(looped(sizes.quads(), 0), |within, (n, &own)| {
            looped(if own == n { 1 } else { n }, within)
        });
    k.turns(turns).groups(d.len().div_ceil(LANES));
    k.bits("q_row", stride(&f.q, 2)).bits("q_step", stride(&f.q, 3));
    k.bits("k_row", stride(&f.k, 2)).bits("k_step", stride(&f.k, 3));
    k.bits("v_row", stride(&f.v, 2)).bits("v_step", stride(&f.v, 3));
    k.bits("d_out_row", stride(&v.d_out, 2)).bits("d_out_step", stride(&v.d_out, 3));
    if let Some(mask) = &f.mask {
        k.bits("mask_row", stride(mask, 2));
    }
    rows.operand("q", &f.q, Access::Read, 2);
    rows.operand("k", &f.k, Access::Read, 2);
    rows.operand("v", &f.v, Access::Read, 2);
    rows.operand("d_out", &v.d_out, Access::Read, 2);
    rows.mask(f, 2);
    rows.kernel.operand("rows", saved, Access::Read);
    rows.kernel.operand("d", d, Access::Write);
    rows.kernel
}
