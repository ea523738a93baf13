//! Moving elements: copy, fill, gather, scatter_add.

use super::scope::{LANES, Scope};
use crate::access::in_fours;
use crate::kernel::{Kernel, looped};
use crate::operand::{Access, Width};
use crate::template::{Template, template};
use starling_contract::{Copy, DType, Fill, Gather, Layout, ScatterAdd, View};

const COPY: Template = template!("copy");
const FILL: Template = template!("fill");
const GATHER: Template = template!("gather");
const SCATTER_ADD: Template = template!("scatter_add");

/// The same bytes as 32-bit words, when they are whole words that begin a group of four.
fn as_words(view: &View) -> Option<View> {
    let size = view.dtype.size();
    let (first, bytes) = (view.layout.offset() * size, view.len() * size);
    if !view.layout.is_contiguous() || !first.is_multiple_of(16) || !bytes.is_multiple_of(4) {
        return None;
    }
    let layout = Layout::new(&[bytes / 4], &[1], first / 4);
    Some(View { storage: view.storage.clone(), dtype: DType::U32, layout })
}

pub fn copy(v: &Copy, scope: Scope<'_>, kernels: &mut Vec<Kernel>) {
    let len = v.src.len();
    if len == 0 {
        return;
    }
    if v.src.dtype == v.dst.dtype
        && let (Some(src), Some(dst)) = (as_words(&v.src), as_words(&v.dst))
    {
        kernels.push(in_quads(
            &src,
            &dst,
            "y_put4(y_at(0u) / 4u + q, x_quad(x_at(0u) / 4u + q), count);",
            scope,
        ));
        return;
    }
    let floats = v.src.dtype.is_float() && v.dst.dtype.is_float();
    if floats && in_fours(&v.src) && in_fours(&v.dst) {
        kernels.push(in_quads(
            &v.src,
            &v.dst,
            "y_store4(y_at(0u) / 4u + q, x_load4(x_at(0u) / 4u + q), count);",
            scope,
        ));
        return;
    }
    let mut k = Kernel::new(COPY);
    k.constant("WG", LANES as u32).word("len", len);
    k.operand("x", &v.src, Access::Read).operand("y", &v.dst, Access::Write);
    k.glue(&format!(
        "fn converted(i: u32) -> u32 {{\n    return {};\n}}\n",
        conversion(v.src.dtype, v.dst.dtype)
    ));
    k.groups(len.div_ceil(LANES));
    kernels.push(k);
}

fn in_quads(src: &View, dst: &View, act: &str, scope: Scope<'_>) -> Kernel {
    let mut k = super::scope::in_quads(src.len(), scope);
    k.fours("x", src, Access::Read).fours("y", dst, Access::Write);
    k.glue(&format!("fn quad(q: u32, count: u32) {{\n    {act}\n}}\n"));
    k
}

/// The bits of element `i` of `x` as an element of `to`: Rust's `as`.
fn conversion(from: DType, to: DType) -> String {
    let (bits, value, int) = ("x_bits(i)", "x_load(i)", "x_int(i)");
    if from == to {
        return bits.to_string();
    }
    if from.is_float() {
        return match to {
            DType::F32 => format!("bitcast<u32>({value})"),
            DType::F16 => format!("sl_to_f16({value})"),
            DType::BF16 => format!("sl_to_bf16({value})"),
            DType::I32 => format!("bitcast<u32>(to_int({value}, -2147483648.0, 2147483520.0))"),
            DType::U32 => format!("to_word({value})"),
            DType::U8 => format!("bitcast<u32>(to_int({value}, 0.0, 255.0))"),
            DType::I8 => format!("bitcast<u32>(to_int({value}, -128.0, 127.0)) & 0xffu"),
        };
    }
    let real = match from {
        DType::U32 => format!("select_real({bits}, false)"),
        _ => format!("select_real(bitcast<u32>({int}), true)"),
    };
    match to {
        DType::F32 => value.to_string().replace("x_load", "bitcast<u32>(x_load") + ")",
        DType::F16 => format!("sl_to_f16({real})"),
        DType::BF16 => format!("sl_to_bf16({real})"),
        DType::I32 | DType::U32 => format!("bitcast<u32>({int})"),
        DType::U8 | DType::I8 => format!("{bits} & 0xffu"),
    }
}

pub fn fill(v: &Fill, kernels: &mut Vec<Kernel>) {
    let len = v.dst.len();
    if len == 0 {
        return;
    }
    let size = v.dst.dtype.size();
    let bits = element_bits(v.dst.dtype, v.value);
    let (dst, word) = match as_words(&v.dst) {
        Some(words) => {
            (words, if size == 4 { bits } else { bits * (u32::MAX / ((1 << (8 * size)) - 1)) })
        }
        None => (v.dst.clone(), bits),
    };
    let mut k = Kernel::new(FILL);
    k.constant("WG", LANES as u32).word("len", dst.len()).bits("value", word);
    k.operand("y", &dst, Access::Write).groups(dst.len().div_ceil(LANES));
    kernels.push(k);
}

/// The bits of `value` as an element: what a copy of it would give.
fn element_bits(dtype: DType, value: f64) -> u32 {
    match dtype {
        DType::F32 => (value as f32).to_bits(),
        DType::F16 => half::f16::from_f64(value).to_bits().into(),
        DType::BF16 => half::bf16::from_f64(value).to_bits().into(),
        DType::I32 => value as i32 as u32,
        DType::U32 => value as u32,
        DType::U8 => (value as u8).into(),
        DType::I8 => (value as i8 as u8).into(),
    }
}

/// `layout` with `axis` removed.
fn without(layout: &Layout, axis: usize) -> Layout {
    let keep: Vec<usize> = (0..layout.rank()).filter(|&a| a != axis).collect();
    layout.permute(&keep)
}

/// `layout` with the elements along `axis` all at its first one.
fn held(layout: &Layout, axis: usize) -> Layout {
    let mut strides = layout.strides().to_vec();
    strides[axis] = 0;
    Layout::new(layout.shape(), &strides, layout.offset())
}

pub fn gather(v: &Gather, scope: Scope<'_>, kernels: &mut Vec<Kernel>) {
    let len = v.out.len();
    if len == 0 {
        return;
    }
    let bound = v.x.shape()[v.axis];
    let mut k = Kernel::new(GATHER);
    k.constant("WG", LANES as u32).word("len", len).word("bound", bound);
    k.bits("step", v.x.layout.strides()[v.axis] as i32 as u32);
    // The picked element's position but for the axis, in the iteration space of the output.
    let mut shape = v.out.shape().to_vec();
    shape[v.axis] = v.out.shape()[v.axis];
    let strides = held(&v.x.layout, v.axis);
    let space = Layout::new(&shape, strides.strides(), v.x.layout.offset());
    k.over("x", &v.x, Access::Read, &space, Width::One);
    k.operand("index", &v.index, Access::Read).operand("y", &v.out, Access::Write);
    k.reports(scope.faults, 0).groups(len.div_ceil(LANES));
    kernels.push(k);
}

/// One invocation for each line along the axis and each part of the table: it walks the line in
/// order and adds what falls into its part, so every element has one writer and one order.
pub fn scatter_add(v: &ScatterAdd, scope: Scope<'_>, kernels: &mut Vec<Kernel>) {
    const WANTED: usize = 1024;
    let (len, bound) = (v.x.shape()[v.axis], v.out.shape()[v.axis]);
    // One kernel after the other where loops cannot be as long as the line.
    let most = scope.turns.saturating_sub(1).max(1);
    if len > most {
        for first in (0..len).step_by(most) {
            let part =
                |view: &View| view.with(view.layout.slice(v.axis, first, most.min(len - first), 1));
            let v = ScatterAdd { x: part(&v.x), index: part(&v.index), ..v.clone() };
            scatter_add(&v, scope, kernels);
        }
        return;
    }
    let lines: usize = without(&v.x.layout, v.axis).len();
    if len == 0 || lines == 0 {
        return;
    }
    let parts = (WANTED / lines).clamp(1, 16).min(bound.max(1));
    let mut k = Kernel::new(SCATTER_ADD);
    k.constant("WG", LANES as u32).word("lines", lines).word("len", len).turns(looped(len, 0));
    k.word("bound", bound).word("parts", parts).word("rows", bound.div_ceil(parts));
    for (name, view) in [("x_step", &v.x), ("index_step", &v.index), ("y_step", &v.out)] {
        k.bits(name, view.layout.strides()[v.axis] as i32 as u32);
    }
    for (name, view, access) in [
        ("x", &v.x, Access::Read),
        ("index", &v.index, Access::Read),
        ("y", &v.out, Access::ReadWrite),
    ] {
        k.over(name, view, access, &without(&view.layout, v.axis), Width::One);
    }
    k.reports(scope.faults, 1).groups((lines * parts).div_ceil(LANES));
    kernels.push(k);
}
