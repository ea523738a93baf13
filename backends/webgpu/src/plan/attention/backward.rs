//! The gradients of attention.

use super::options::{self, Seeing, Slope};
use super::{
    DEEP, Rows, Sizes, Tile, any_quads, check_length, cut, one_by_one, pairs, rows_of_quads, step,
    stride, turns,
};
use crate::kernel::{Kernel, looped};
use crate::operand::Access;
use crate::plan::scope::{LANES, Scope, working_memory};
use crate::template::{Template, template};
use starling_contract::{AttentionBackward, Layout, Result, View};

const D_Q_LANES: Template = template!("attention_lanes_d_q");
const D_KV_LANES: Template = template!("attention_lanes_d_kv");
const DELTA: Template = template!("attention_delta": "attention_sight", "attention_delta");
const D_Q: Template = template!("attention_d_q": "attention_sight", "attention_d_q");
const D_KV: Template = template!("attention_d_kv": "attention_sight", "attention_d_kv");

/// True when the kernels on tiles, and those beside them, do all that is asked for.
fn is_plain(v: &AttentionBackward) -> bool {
    options::is_plain(&v.forward) && pairs::gradients(v).next().is_none()
}

/// Words that are put aside for each query: its log-sum-exp and delta, and with options what it
/// sees.
pub(super) fn words(v: &AttentionBackward) -> usize {
    if is_plain(v) { 2 } else { 6 }
}

/// Bytes of what is put aside for the queries, and of what gradients of pairs need besides.
pub fn workspace_bytes(v: &AttentionBackward) -> usize {
    v.forward.lse.len() * words(v) * 4 + pairs::workspace_bytes(v)
}

/// The words of working memory from `first`, as an array of this shape.
pub(super) fn part(memory: &View, first: usize, shape: &[usize]) -> View {
    let packed = Layout::contiguous(shape);
    memory.with(Layout::new(shape, packed.strides(), memory.layout.offset() + first))
}

pub fn backward(v: &AttentionBackward, scope: Scope<'_>, kernels: &mut Vec<Kernel>) -> Result<()> {
    let sizes = Sizes::of(&v.forward);
    check_length("attention_backward", &v.forward, &sizes)?;
    let memory = working_memory("attention_backward", &v.workspace, workspace_bytes(v))?;
    // No query: nothing is put aside, and nothing is read.
    let memory = memory.unwrap_or_else(|| v.forward.lse.clone());
    let saved = part(&memory, 0, &[sizes.all_rows() * words(v)]);
    let mut v = v.clone();
    if !is_plain(&v) {
        let [q, k, values] = [&v.forward.q, &v.forward.k, &v.forward.v];
        let others = [q, k, values, &v.d_out, &saved, &v.d_k, &v.d_v].map(View::clone);
        v.forward = options::pack(&v.forward, &others, scope, kernels)?;
    }
    let v = &v;
    kernels.push(delta(v, &sizes, &saved));
    for way in ways(v, &sizes, &[&v.d_q], scope) {
        kernels.push(d_q(v, &sizes, &saved, &way, scope));
    }
    for way in ways(v, &sizes, &[&v.d_k, &v.d_v], scope) {
        kernels.push(d_kv(v, &sizes, &saved, &way, scope));
    }
    pairs::gradients_of(v, &sizes, &saved, &memory, scope, kernels)
}

/// One of the kernels that compute a gradient.
struct Way {
    wide: bool,
    tile: Option<Tile>,
    /// Only what a kernel on tiles may have spoiled.
    redo: bool,
}

impl Way {
    /// What it does with its results.
    fn access(&self) -> Access {
        if self.redo { Access::ReadWrite } else { Access::Write }
    }
}

/// On tiles where that pays and one by one elsewhere; one by one also where something hidden,
/// multiplied by 0 on tiles, may have spoiled their results.
fn ways(
    v: &AttentionBackward,
    sizes: &Sizes,
    results: &[&View],
    scope: Scope<'_>,
) -> impl Iterator<Item = Way> {
    let f = &v.forward;
    let hides = f.sight.causal || f.mask.is_some();
    let wide = [&f.q, &f.k, &f.v, &v.d_out].iter().chain(results).all(|x| rows_of_quads(x));
    let tile = Tile::of(sizes.quads(), step(sizes, DEEP[1]), wide, scope).filter(|_| is_plain(v));
    let redo = tile.is_some();
    let alone = (hides || !redo).then_some(Way { wide, tile: None, redo });
    tile.map(|tile| Way { wide, tile: Some(tile), redo: false }).into_iter().chain(alone)
}

/// Scores and weights of pairs as the gradients' kernels compute them.
pub(super) fn weighed(rows: &mut Rows, v: &AttentionBackward, sizes: &Sizes, slope: Slope) {
    rows.scores(&v.forward, sizes);
    rows.kernel.constant("ROW", words(v) as u32).constant("PLAIN", is_plain(v));
    if !is_plain(v) {
        options::sight(&mut rows.kernel, &v.forward, sizes, Seeing::Saved);
        options::weigh(rows, &v.forward, slope);
    }
}

fn delta(v: &AttentionBackward, sizes: &Sizes, saved: &View) -> Kernel {
    let wide = rows_of_quads(&v.forward.out) && rows_of_quads(&v.d_out);
    let mut rows = Rows::new(DELTA, sizes, LANES, any_quads(sizes), wide);
    let k = &mut rows.kernel;
    k.turns(looped(sizes.quads(), 0) + options::turns(&v.forward));
    k.constant("ROW", words(v) as u32);
    if !is_plain(v) {
        k.word("queries", sizes.queries).word("keys", sizes.keys);
        options::sight(k, &v.forward, sizes, Seeing::Put);
    }
    k.word("rows", sizes.all_rows()).bits("out_step", stride(&v.forward.out, 3));
    k.bits("d_out_step", stride(&v.d_out, 3)).groups(sizes.all_rows().div_ceil(LANES));
    rows.operand("out", &v.forward.out, Access::Read, 3);
    rows.operand("d_out", &v.d_out, Access::Read, 3);
    rows.kernel.operand("lse", &v.forward.lse, Access::Read);
    rows.kernel.operand("rows", saved, Access::Write);
    rows.kernel
}

fn d_q(v: &AttentionBackward, sizes: &Sizes, saved: &View, way: &Way, scope: Scope<'_>) -> Kernel {
    let f = &v.forward;
    let (mut rows, block, step) = match &way.tile {
        Some(t) => (t.rows(D_Q_LANES, sizes, "KEYS"), t.lanes * t.rows, t.step),
        None => {
            let (group, step) = cut(sizes, is_plain(v), scope);
            (one_by_one(D_Q, sizes, way.wide, group, ("KEYS", step)), group, step)
        }
    };
    let test = if way.redo { looped(sizes.quads(), 0) } else { 0 };
    rows.kernel.turns(test + turns(sizes, 1, sizes.keys, step, way.tile.is_none()));
    rows.kernel.constant("REDO", way.redo);
    weighed(&mut rows, v, sizes, Slope::By(0));
    let k = &mut rows.kernel;
    let per_head = sizes.rows().div_ceil(block);
    let groups = sizes.batch * sizes.kv_heads * per_head;
    k.word("groups", groups).word("blocks", per_head).word("rows", sizes.rows());
    k.bits("q_step", stride(&f.q, 3)).bits("d_out_step", stride(&v.d_out, 3));
    k.bits("k_row", stride(&f.k, 2)).bits("k_step", stride(&f.k, 3));
    k.bits("v_row", stride(&f.v, 2)).bits("v_step", stride(&f.v, 3));
    k.bits("d_q_step", stride(&v.d_q, 3)).groups(groups);
    rows.operand("q", &f.q, Access::Read, 3);
    rows.operand("k", &f.k, Access::Read, 2);
    rows.operand("v", &f.v, Access::Read, 2);
    rows.operand("d_out", &v.d_out, Access::Read, 3);
    rows.mask(f, 3);
    rows.kernel.operand("rows", saved, Access::Read);
    rows.operand("d_q", &v.d_q, way.access(), 3);
    rows.kernel
}

fn d_kv(v: &AttentionBackward, sizes: &Sizes, saved: &View, way: &Way, scope: Scope<'_>) -> Kernel {
    let f = &v.forward;
    let (mut rows, block, step) = match &way.tile {
        Some(t) => (t.rows(D_KV_LANES, sizes, "QUERIES"), t.lanes, t.step),
        None => {
            let (group, step) = cut(sizes, is_plain(v), scope);
            (one_by_one(D_KV, sizes, way.wide, group, ("QUERIES", step)), group, step)
        }
    };
    let heads = sizes.heads / sizes.kv_heads;
    let test = if way.redo { looped(sizes.quads(), 0) } else { 0 };
    rows.kernel.turns(test + turns(sizes, heads, sizes.queries, step, way.tile.is_none()));
    rows.kernel.constant("REDO", way.redo);
    weighed(&mut rows, v, sizes, Slope::By(0));
    let k = &mut rows.kernel;
    let per_head = sizes.keys.div_ceil(block);
    let groups = sizes.batch * sizes.kv_heads * per_head;
    k.word("groups", groups).word("blocks", per_head);
    k.word("heads_per_kv_head", heads);
    k.bits("q_row", stride(&f.q, 2)).bits("q_step", stride(&f.q, 3));
    k.bits("d_out_row", stride(&v.d_out, 2)).bits("d_out_step", stride(&v.d_out, 3));
    k.bits("k_step", stride(&f.k, 3)).bits("v_step", stride(&f.v, 3));
    k.bits("d_k_step", stride(&v.d_k, 3)).bits("d_v_step", stride(&v.d_v, 3));
    if let Some(mask) = &f.mask {
        k.bits("mask_row", stride(mask, 2));
    }
    k.groups(groups);
    rows.operand("q", &f.q, Access::Read, 2);
    rows.operand("k", &f.k, Access::Read, 3);
    rows.operand("v", &f.v, Access::Read, 3);
    rows.operand("d_out", &v.d_out, Access::Read, 2);
    rows.mask(f, 2);
    rows.kernel.operand("rows", saved, Access::Read);
    rows.operand("d_k", &v.d_k, way.access(), 3);
    rows.operand("d_v", &v.d_v, way.access(), 3);
    rows.kernel
}
