//! The functions through which templates reach their operands.
//!
//! For an operand `x`: `x_at(index)` is the position of an element of its index space, `x_load`
//! reads a position as f32, `x_bits` as the element's own bits, `x_int` as an integer; `x_store`
//! and `x_put` write. In fours there are `x_load4` and `x_store4`. Elements of 8 and 16 bits lie
//! packed in words: one by one they are written through atomics, because a neighbour in the same
//! word may be written at the same time.

use crate::operand::{Axis, Binding, Operand, Width, parameter};
use starling_contract::{DType, View};
use std::fmt::Write;

/// True when a view's elements can be moved in fours: they follow each other, and the first one
/// begins a group of four.
pub fn in_fours(view: &View) -> bool {
    view.layout.is_contiguous() && view.layout.offset().is_multiple_of(4)
}

/// Appends the declarations of a kernel's bindings and the accessors of its operands.
pub(crate) fn print(operands: &[Operand], bindings: &[Binding], text: &mut String) {
    if operands.iter().any(|o| matches!(o.dtype, DType::F16 | DType::BF16)) {
        text.push_str(include_str!("../../../shaders/narrow.wgsl"));
    }
    for (at, b) in bindings.iter().enumerate() {
        binding(at, b, text);
    }
    for o in operands {
        position(o, text);
        let b = &bindings[o.binding];
        match o.width {
            Width::One => one(o, b, text),
            Width::Four => four(o, b, text),
        }
    }
}

/// The type of one element of a binding's array.
fn element(b: &Binding) -> &'static str {
    match b.wide {
        _ if b.atomic => "atomic<u32>",
        Some(DType::F32) => "vec4<f32>",
        Some(d) if d.size() == 4 => "vec4<u32>",
        Some(d) if d.size() == 2 => "vec2<u32>",
        _ => "u32",
    }
}

/// Bytes of one element of a binding's array.
fn element_bytes(b: &Binding) -> usize {
    match element(b) {
        "vec4<f32>" | "vec4<u32>" => 16,
        "vec2<u32>" => 8,
        _ => 4,
    }
}

/// The arrays of binding `at`, and `get{at}` and `set{at}` over all its shards.
fn binding(at: usize, b: &Binding, text: &mut String) {
    // Writing to a String cannot fail.
    let mode = if b.writes { "read_write" } else { "read" };
    let kind = element(b);
    let value = if b.atomic { "u32" } else { kind };
    let shards = b.shards();
    for shard in 0..shards {
        let slot = b.slot + shard as u32;
        let _ = writeln!(
            text,
            "@group(0) @binding({slot}) var<storage, {mode}> b{at}_{shard}: array<{kind}>;"
        );
    }
    let per_shard = b.shard_bytes / element_bytes(b);
    let mut access = |head: &str, act: &dyn Fn(&str) -> String| {
        let _ = writeln!(text, "{head} {{");
        for shard in 0..shards {
            let place = match shard {
                0 => format!("b{at}_0[i]"),
                n => format!("b{at}_{n}[i - {}u]", n * per_shard),
            };
            if shard + 1 < shards {
                let end = (shard + 1) * per_shard;
                let _ = writeln!(text, "    if i < {end}u {{\n        {}\n    }}", act(&place));
            } else {
                let _ = writeln!(text, "    {}", act(&place));
            }
        }
        text.push_str("}\n");
    };
    access(&format!("fn get{at}(i: u32) -> {value}"), &|place| match b.atomic {
        true => format!("return atomicLoad(&{place});"),
        false => format!("return {place};"),
    });
    if b.writes {
        access(&format!("fn set{at}(i: u32, v: {value})"), &|place| match b.atomic {
            true => format!("atomicStore(&{place}, v); return;"),
            false => format!("{place} = v; return;"),
        });
    }
    if b.atomic {
        access(&format!("fn flip{at}(i: u32, v: u32)"), &|place| {
            format!("atomicXor(&{place}, v); return;")
        });
    }
}

/// `NAME_at(index)`: the element's position, counted from the start of its binding.
fn position(o: &Operand, text: &mut String) {
    let (name, base) = (&o.name, parameter(o.words));
    let word = |at: usize| parameter(o.words + 1 + at);
    let step = |axis: usize, (_, stride): Axis| match stride {
        1 => String::new(),
        _ => format!(" * {}", word(2 * axis + 1)),
    };
    let _ = writeln!(text, "fn {name}_at(index: u32) -> u32 {{");
    match o.axes[..] {
        [] => {
            let _ = writeln!(text, "    return {base};\n}}");
        }
        [only] => {
            let _ = writeln!(text, "    return {base} + index{};\n}}", step(0, only));
        }
        _ => {
            // Wrapping arithmetic: a negative stride is added as its two's complement.
            let _ = writeln!(text, "    var rest = index;\n    var at = {base};");
            let last = o.axes.len() - 1;
            for (axis, &pair) in o.axes.iter().enumerate() {
                // A unit stride is part of the key only innermost.
                let step =
                    if axis == 0 { step(0, pair) } else { format!(" * {}", word(2 * axis + 1)) };
                let extent = word(2 * axis);
                if axis < last {
                    let _ = writeln!(text, "    let q{axis} = rest / {extent};");
                    let _ = writeln!(text, "    at += (rest - q{axis} * {extent}){step};");
                    let _ = writeln!(text, "    rest = q{axis};");
                } else {
                    let _ = writeln!(text, "    at += rest{step};");
                }
            }
            text.push_str("    return at;\n}\n");
        }
    }
}

/// The bits of a value as an element of `dtype`, and the value of an element's bits, as text.
fn encode(dtype: DType, value: &str) -> String {
    match dtype {
        DType::F32 => format!("bitcast<u32>({value})"),
        DType::F16 => format!("sl_to_f16({value})"),
        DType::BF16 => format!("sl_to_bf16({value})"),
        // Truth values: what a program yields for a byte is whether it is not 0.
        DType::U8 => format!("select(0u, 1u, {value} != 0.0)"),
        DType::I8 => format!("bitcast<u32>(i32({value})) & 0xffu"),
        DType::I32 => format!("bitcast<u32>(i32({value}))"),
        DType::U32 => format!("u32({value})"),
    }
}

fn decode(dtype: DType, bits: &str) -> String {
    match dtype {
        DType::F32 => format!("bitcast<f32>({bits})"),
        DType::F16 => format!("sl_from_f16({bits})"),
        DType::BF16 => format!("bitcast<f32>({bits} << 16u)"),
        DType::U8 | DType::U32 => format!("f32({bits})"),
        DType::I8 => format!("f32(bitcast<i32>({bits} << 24u) >> 24u)"),
        DType::I32 => format!("f32(bitcast<i32>({bits}))"),
    }
}

fn one(o: &Operand, b: &Binding, text: &mut String) {
    let (name, at) = (&o.name, o.binding);
    let per_word = 4 / o.dtype.size();
    let (shift, mask, width) = match per_word {
        4 => (2, 3, 8),
        2 => (1, 1, 16),
        _ => (0, 0, 32),
    };
    let _ = writeln!(text, "fn {name}_bits(i: u32) -> u32 {{");
    let word = match b.wide {
        // The operand is in ones, so the binding is not wide.
        Some(_) => unreachable!("a binding of fours holds an operand in ones"),
        None if per_word == 1 => format!("get{at}(i)"),
        None => {
            let low = (1u64 << width) - 1;
            format!("(get{at}(i >> {shift}u) >> ((i & {mask}u) * {width}u)) & {low}u")
        }
    };
    let _ = writeln!(text, "    return {word};\n}}");
    let _ = writeln!(text, "fn {name}_load(i: u32) -> f32 {{");
    let _ = writeln!(text, "    return {};\n}}", decode(o.dtype, &format!("{name}_bits(i)")));
    let _ = writeln!(text, "fn {name}_int(i: u32) -> i32 {{");
    let int = match o.dtype {
        DType::I8 => format!("bitcast<i32>({name}_bits(i) << 24u) >> 24u"),
        _ => format!("bitcast<i32>({name}_bits(i))"),
    };
    let _ = writeln!(text, "    return {int};\n}}");
    if !o.access.writes() {
        return;
    }
    let _ = writeln!(text, "fn {name}_put(i: u32, bits: u32) {{");
    if per_word == 1 {
        let _ = writeln!(text, "    set{at}(i, bits);\n}}");
    } else {
        // Only this invocation changes these bits, and the others of the word stay.
        let _ = writeln!(
            text,
            "    let change = (bits ^ {name}_bits(i)) << ((i & {mask}u) * {width}u);\n    \
             flip{at}(i >> {shift}u, change);\n}}"
        );
    }
    let _ = writeln!(text, "fn {name}_store(i: u32, v: f32) {{");
    let _ = writeln!(text, "    {name}_put(i, {});\n}}", encode(o.dtype, "v"));
}

/// The accessors of an operand in fours; the parts of a quad beyond `count` keep their old values.
fn four(o: &Operand, b: &Binding, text: &mut String) {
    let (name, at) = (&o.name, o.binding);
    // In a binding of fours a quad is one element, else as many words as it has.
    let words = o.dtype.size();
    let whole = b.wide.is_some();
    let quad = |first: &str| match (words, whole, o.dtype) {
        (4, true, DType::F32) => format!("bitcast<vec4<u32>>(get{at}({first}))"),
        (_, true, _) => format!("get{at}({first})"),
        (1, false, _) => format!("get{at}({first})"),
        (n, false, _) => {
            let parts: Vec<String> =
                (0..n).map(|w| format!("get{at}({n}u * {first} + {w}u)")).collect();
            format!("vec{n}<u32>({})", parts.join(", "))
        }
    };
    let kind = if words == 1 { "u32".to_string() } else { format!("vec{words}<u32>") };
    let _ = writeln!(text, "fn {name}_quad(q: u32) -> {kind} {{\n    return {};\n}}", quad("q"));
    let part = |lane: usize| match words {
        4 => format!("w[{lane}]"),
        2 => format!("(w[{}] >> {}u) & 0xffffu", lane / 2, lane % 2 * 16),
        _ => format!("(w >> {}u) & 0xffu", lane * 8),
    };
    let _ = writeln!(text, "fn {name}_load4(q: u32) -> vec4<f32> {{");
    if o.dtype == DType::F32 && whole {
        let _ = writeln!(text, "    return get{at}(q);\n}}");
    } else {
        let lanes: Vec<String> =
            (0..4).map(|l| decode(o.dtype, &format!("({})", part(l)))).collect();
        let _ = writeln!(text, "    let w = {name}_quad(q);");
        let _ = writeln!(text, "    return vec4<f32>({});\n}}", lanes.join(", "));
    }
    if !o.access.writes() {
        return;
    }
    let set = |value: &str| match (words, whole, o.dtype) {
        (4, true, DType::F32) => format!("set{at}(q, bitcast<vec4<f32>>({value}));"),
        (_, true, _) | (1, false, _) => format!("set{at}(q, {value});"),
        (n, false, _) => {
            let puts: Vec<String> =
                (0..n).map(|w| format!("set{at}({n}u * q + {w}u, {value}[{w}]);")).collect();
            puts.join(" ")
        }
    };
    let lanes: Vec<String> =
        ["x", "y", "z", "w"].iter().map(|c| encode(o.dtype, &format!("v.{c}"))).collect();
    let (packed, keep) = match words {
        4 => (
            format!("vec4<u32>({})", lanes.join(", ")),
            "select(old, fresh, vec4<u32>(0u, 1u, 2u, 3u) < vec4<u32>(count))".to_string(),
        ),
        2 => (
            format!(
                "vec2<u32>(({}) | (({}) << 16u), ({}) | (({}) << 16u))",
                lanes[0], lanes[1], lanes[2], lanes[3]
            ),
            "old ^ ((old ^ fresh) & vec2<u32>(select(0xffffu, 0xffffffffu, count > 1u), \
             select(0u, 0xffffu, count > 2u)))"
                .to_string(),
        ),
        _ => (
            format!(
                "({}) | (({}) << 8u) | (({}) << 16u) | (({}) << 24u)",
                lanes[0], lanes[1], lanes[2], lanes[3]
            ),
            "old ^ ((old ^ fresh) & ((1u << (8u * count)) - 1u))".to_string(),
        ),
    };
    let _ = writeln!(text, "fn {name}_put4(q: u32, fresh: {kind}, count: u32) {{");
    let _ =
        writeln!(text, "    if count >= 4u {{\n        {}\n        return;\n    }}", set("fresh"));
    let _ = writeln!(text, "    let old = {name}_quad(q);");
    let _ = writeln!(text, "    let kept = {keep};\n    {}\n}}", set("kept"));
    let _ = writeln!(text, "fn {name}_store4(q: u32, v: vec4<f32>, count: u32) {{");
    let _ = writeln!(text, "    {name}_put4(q, {packed}, count);\n}}");
}
