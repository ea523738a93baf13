//! Flash attention and its gradients.
//!
//! The forward is one kernel. Backward is three: delta of each query into the workspace, then
//! `d_q` by queries and `d_k`, `d_v` by keys, so that every sum has one owner and one order; and
//! one more for each gradient of the mask or of what scores are computed from.

mod backward;
mod options;
mod pairs;

use super::rows::{EXP, LOG};
use super::scope::{LANES, Scope};
use crate::kernel::{Kernel, looped};
use crate::operand::{Access, Width};
use crate::template::{Template, template};
pub use backward::{backward, workspace_bytes};
use options::Seeing;
use starling_contract::{
    Attention, AttentionBackward, DType, Error, Layout, Result, Support, View,
};
use std::fmt::Write;

const FORWARD: Template = template!("attention": "attention_sight", "attention");
const FORWARD_LANES: Template = template!("attention_lanes");

/// The largest head dimension: a row of it lies in an invocation's registers.
const MAX_DIM: usize = 256;

/// Sizes of the operands.
struct Sizes {
    batch: usize,
    heads: usize,
    kv_heads: usize,
    queries: usize,
    keys: usize,
    dim: usize,
    /// Query `i` sees keys `0 .. i + diagonal`.
    diagonal: usize,
}

impl Sizes {
    fn of(v: &Attention) -> Self {
        let (q, k) = (v.q.shape(), v.k.shape());
        let (queries, keys) = (q[2], k[2]);
        // More queries than keys have lengths, and then this is not used.
        let diagonal = if v.sight.causal { (keys + 1).saturating_sub(queries) } else { keys };
        Self { batch: q[0], heads: q[1], kv_heads: k[1], queries, keys, dim: q[3], diagonal }
    }

    /// Queries of all heads that use one key head.
    fn rows(&self) -> usize {
        self.heads / self.kv_heads * self.queries
    }

    fn all_rows(&self) -> usize {
        self.batch * self.heads * self.queries
    }

    fn quads(&self) -> usize {
        self.dim.div_ceil(4)
    }
}

/// How the gradients of an attention are computed.
pub fn supports_backward(v: &AttentionBackward) -> Support {
    supports(&v.forward, &[&v.d_out, &v.d_q, &v.d_k, &v.d_v])
}

/// How an attention is run; `gradients` are the further operands of its backward.
pub fn supports(v: &Attention, gradients: &[&View]) -> Support {
    let operands = [&v.q, &v.k, &v.v, &v.out, &v.lse];
    if !operands.iter().chain(gradients).all(|o| o.dtype.is_float()) {
        return Support::No;
    }
    match v.q.shape()[3] {
        0..=MAX_DIM => Support::Native,
        _ => Support::Composed,
    }
}

/// Positions are counted in 30 bits.
///
/// # Errors
/// [`Error::Shape`] for more.
fn check_length(op: &'static str, v: &Attention, sizes: &Sizes) -> Result<()> {
    if options::is_plain(v) || sizes.queries.max(sizes.keys) <= options::MOST {
        return Ok(());
    }
    let message = format!("positions are counted to {}: split the sequences", options::MOST);
    Err(Error::shape(op, message))
}

/// True when each row of `view` is whole quads that begin where quads do.
fn rows_of_quads(view: &View) -> bool {
    let (shape, strides) = (view.layout.shape(), view.layout.strides());
    let last = shape.len() - 1;
    let steps = shape[..last].iter().zip(&strides[..last]);
    shape[last].is_multiple_of(4)
        && strides[last] == 1
        && view.layout.offset().is_multiple_of(4)
        && steps.into_iter().all(|(&n, &stride)| n <= 1 || stride % 4 == 0)
}

/// The layout of the first `axes` axes: where the rows over the others begin.
fn leading(view: &View, axes: usize) -> Layout {
    let l = &view.layout;
    Layout::new(&l.shape()[..axes], &l.strides()[..axes], l.offset())
}

fn stride(view: &View, axis: usize) -> u32 {
    view.layout.strides()[axis] as i32 as u32
}

/// A kernel over rows of head dimensions.
struct Rows {
    kernel: Kernel,
    wide: bool,
}

impl Rows {
    fn new(template: Template, sizes: &Sizes, lanes: usize, quads: usize, wide: bool) -> Self {
        let mut kernel = Kernel::new(template);
        kernel.word("dim", sizes.dim).word("quads", sizes.quads());
        kernel.constant("WG", lanes as u32);
        kernel.constant("QUADS", quads as u32);
        Self { kernel, wide }
    }

    /// An operand whose index space is its first `axes` axes and whose last axis is a row:
    /// `NAME_part(at, c, step)` is its quad `c`, with zeros beyond the row, and `NAME_fill` sets
    /// it.
    fn operand(&mut self, name: &'static str, view: &View, access: Access, axes: usize) {
        let width = if self.wide { Width::Four } else { Width::One };
        self.kernel.over(name, view, access, &leading(view, axes), width);
        let load = |i: usize| format!("{name}_load(at + (4u * c + {i}u) * step)");
        let store = |i: usize| format!("{name}_store(at + (4u * c + {i}u) * step, v[{i}])");
        let within = |i: usize, act: String| {
            format!("    if 4u * c + {i}u < $dim {{\n        {act};\n    }}\n")
        };
        let mut text = format!("fn {name}_part(at: u32, c: u32, step: u32) -> vec4<f32> {{\n");
        if self.wide {
            text += &format!("    return {name}_load4((at >> 2u) + c);\n}}\n");
        } else {
            text += "    var v = vec4<f32>();\n";
            (0..4).for_each(|i| text += &within(i, format!("v[{i}] = {}", load(i))));
            text += "    return v;\n}\n";
        }
        if access.writes() {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "fn {name}_fill(at: u32, c: u32, step: u32, v: vec4<f32>) {{");
            if self.wide {
                text += &format!("    {name}_store4((at >> 2u) + c, v, 4u);\n}}\n");
            } else {
                (0..4).for_each(|i| text += &within(i, store(i)));
                text += "}\n";
            }
        }
        self.kernel.glue(&text);
    }

    /// The words that say which keys a query sees, and by what scores are multiplied.
    fn scores(&mut self, v: &Attention, sizes: &Sizes) {
        let k = &mut self.kernel;
        k.word("queries", sizes.queries).word("keys", sizes.keys);
        k.bits("nothing", f32::NEG_INFINITY.to_bits())
            .word("diagonal", sizes.diagonal)
            .bits("scale", v.scale.to_bits());
        k.program("exp1", &EXP);
        let Some(mask) = &v.mask else { return };
        k.constant("MASKED", 1u32).bits("mask_step", stride(mask, 3));
        // Whether a score counts, and what is added to it.
        k.glue(match mask.dtype {
            DType::U8 => {
                "fn keeps(at: u32) -> bool {\n    return mask_bits(at) != 0u;\n}\n\
                 fn added(at: u32) -> f32 {\n    return 0.0;\n}\n"
            }
            _ => {
                "fn keeps(at: u32) -> bool {\n    return mask_bits(at) != 0xff800000u;\n}\n\
                 fn added(at: u32) -> f32 {\n    return mask_load(at);\n}\n"
            }
        });
    }

    /// The mask, with its first `axes` axes as index space.
    fn mask(&mut self, v: &Attention, axes: usize) {
        if let Some(mask) = &v.mask {
            self.kernel.over("mask", mask, Access::Read, &leading(mask, axes), Width::One);
        }
    }
}

/// Quads of the arrays of kernels for any head dimension. Not fewer: a software driver's compiler
/// unrolls loops over arrays of up to 32 elements by itself, whatever the loops' bounds, and then
/// takes many seconds.
fn any_quads(sizes: &Sizes) -> usize {
    if sizes.quads() <= 33 { 33 } else { MAX_DIM / 4 }
}

/// Invocations of a workgroup of such a kernel, and rows of the other operand that each meets at a
/// time. With options both are the same on every device, and a row is met alone: what is printed
/// for each pair is long, and a compiler's time grows with it.
fn cut(sizes: &Sizes, plain: bool, scope: Scope<'_>) -> (usize, usize) {
    match plain {
        true => (if scope.software { 8 } else { LANES }, step(sizes, DEEP[0])),
        false => (LANES, 1),
    }
}

/// Rows of the other operand that an invocation meets at a time: up to `deep` quads of them, since
/// unrolled text grows with that number and a compiler's time faster than the text. The order of
/// the forward's additions follows from it, so there it is the same for every kernel.
fn step(sizes: &Sizes, deep: usize) -> usize {
    (deep / sizes.quads().max(1)).clamp(1, 2)
}

/// Quads of a step: of the forward and of the backward for any head dimension, and of the backward
/// on tiles, which unrolls twice as much.
const DEEP: [usize; 2] = [32, 16];

/// Turns of a kernel's loops that holds a row of quads and meets `n` others of `heads` heads, by
/// steps; for any head dimension (`general`) it loops over the quads of each step.
fn turns(sizes: &Sizes, heads: usize, n: usize, step: usize, general: bool) -> usize {
    let quads = looped(sizes.quads(), 0);
    let others = looped(n.div_ceil(step), if general { 2 * quads } else { 0 });
    2 * quads + looped(heads, others)
}

/// The bits, those of a NaN, that mark a row as one to be computed again.
const AGAIN: u32 = 0x7fc0_a6a1;

/// Lanes that load tiles together: L of them, with R rows each against STEP rows of the other side.
struct Tile {
    lanes: usize,
    rows: usize,
    step: usize,
}

impl Tile {
    /// How rows of `quads` are cut for a driver on the processor; `None` where that does not pay.
    fn of(quads: usize, step: usize, wide: bool, scope: Scope<'_>) -> Option<Self> {
        let lanes = scope.limits.lanes;
        let pays = scope.software && scope.variant.subgroups && matches!(lanes, 8 | 16);
        if !pays || !wide || !(1..=32).contains(&quads) {
            return None;
        }
        let rows = if quads > 16 { 1 } else { 2 };
        Some(Self { lanes, rows, step })
    }

    /// A kernel whose tiles are `step` rows, which the template calls by `name`.
    fn rows(&self, template: Template, sizes: &Sizes, name: &'static str) -> Rows {
        let quads = sizes.quads();
        let mut rows = Rows::new(template, sizes, self.lanes, quads, true);
        let k = &mut rows.kernel;
        k.constant("L", self.lanes as u32).constant("R", self.rows as u32);
        k.constant(name, self.step as u32);
        k.constant("LOADS", (self.step * quads).div_ceil(self.lanes) as u32);
        rows
    }
}

/// A kernel for any head dimension and any strides.
fn one_by_one(
    template: Template,
    sizes: &Sizes,
    wide: bool,
    group: usize,
    (name, step): (&'static str, usize),
) -> Rows {
    let mut rows = Rows::new(template, sizes, group, any_quads(sizes), wide);
    rows.kernel.constant(name, step as u32);
    rows
}

pub fn forward(v: &Attention, scope: Scope<'_>, kernels: &mut Vec<Kernel>) -> Result<()> {
    let sizes = Sizes::of(v);
    if v.lse.is_empty() {
        return Ok(());
    }
    check_length("attention", v, &sizes)?;
    if !options::is_plain(v) {
        let others = [&v.q, &v.k, &v.v, &v.out, &v.lse].map(View::clone);
        let v = options::pack(v, &others, scope, kernels)?;
        kernels.push(with_options(&v, &sizes, scope));
        return Ok(());
    }
    let (quads, step) = (sizes.quads(), step(&sizes, DEEP[0]));
    let wide = [&v.q, &v.k, &v.v, &v.out].into_iter().all(rows_of_quads);
    let some_hidden = v.sight.causal || v.mask.is_some();
    let tile = Tile::of(quads, step, wide && (v.lse.dtype == DType::F32 || !some_hidden), scope);
    if let Some(tile) = &tile {
        let mut rows = tile.rows(FORWARD_LANES, &sizes, "KEYS");
        rows.kernel.constant("MAY_REDO", some_hidden).constant("AGAIN", AGAIN);
        rows.kernel.constant("ENDS", !sizes.keys.is_multiple_of(tile.step) || v.sight.causal);
        rows.kernel.turns(turns(&sizes, 1, sizes.keys, step, false));
        kernels.push(by_queries(v, &sizes, rows, tile.lanes * tile.rows));
        if !some_hidden {
            return Ok(());
        }
    }
    let (group, step) = cut(&sizes, true, scope);
    let mut rows = one_by_one(FORWARD, &sizes, wide, group, ("KEYS", step));
    rows.kernel.constant("REDO", tile.is_some()).constant("AGAIN", AGAIN).constant("PLAIN", true);
    rows.kernel.turns(turns(&sizes, 1, sizes.keys, step, true));
    kernels.push(by_queries(v, &sizes, rows, group));
    Ok(())
}

/// The kernel of an attention with options.
fn with_options(v: &Attention, sizes: &Sizes, scope: Scope<'_>) -> Kernel {
    let (group, step) = cut(sizes, false, scope);
    let wide = [&v.q, &v.k, &v.v, &v.out].into_iter().all(rows_of_quads);
    let mut rows = one_by_one(FORWARD, sizes, wide, group, ("KEYS", step));
    rows.kernel.turns(options::turns(v) + turns(sizes, 1, sizes.keys, step, true));
    options::sight(&mut rows.kernel, v, sizes, Seeing::Computed);
    options::weigh(&mut rows, v, options::Slope::None);
    by_queries(v, sizes, rows, group)
}

/// Gives the kernel its operands; a workgroup computes `block` rows.
fn by_queries(v: &Attention, sizes: &Sizes, mut rows: Rows, block: usize) -> Kernel {
    rows.scores(v, sizes);
    let k = &mut rows.kernel;
    let per_head = sizes.rows().div_ceil(block);
    let groups = sizes.batch * sizes.kv_heads * per_head;
    k.word("groups", groups).word("blocks", per_head).word("rows", sizes.rows());
    k.bits("q_step", stride(&v.q, 3)).bits("out_step", stride(&v.out, 3));
    k.bits("k_row", stride(&v.k, 2)).bits("k_step", stride(&v.k, 3));
    k.bits("v_row", stride(&v.v, 2)).bits("v_step", stride(&v.v, 3));
    k.program("log1", &LOG).groups(groups);
    rows.operand("q", &v.q, Access::Read, 3);
    rows.operand("k", &v.k, Access::Read, 2);
    rows.operand("v", &v.v, Access::Read, 2);
    rows.mask(v, 3);
    rows.operand("out", &v.out, Access::Write, 3);
    rows.kernel.operand("lse", &v.lse, Access::ReadWrite);
    rows.kernel
}
