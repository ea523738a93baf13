//! What attention does beyond causal sight and a mask: lengths and windows, blocks, programs of
//! scores, dropout. Kernels with such options are those for any head dimension.

use super::{Rows, Sizes, stride};
use crate::kernel::Kernel;
use crate::operand::{Access, Width};
use crate::plan::map::{self, arguments};
use crate::plan::scope::Scope;
use starling_contract::{
    Attention, DType, Immediates, Layout, Lengths, Program, Result, Score, View,
};
use starling_ops::defs::{Def, Dropout};
use starling_ops::program::Builder;
use starling_ops::{Key, Math, Trace};
use std::cell::RefCell;
use std::fmt::Write;
use std::sync::Arc;

/// Keys and queries that positions and windows count in.
pub(super) const MOST: usize = 1 << 29;

/// What dropout multiplies an element by, of the five words of a key; and its immediates.
fn factor(p: f32) -> (Program, Immediates) {
    let builder = RefCell::new(Builder::new());
    let t = Trace(&builder);
    let word = |i| t.param_word(i);
    let key =
        Key { seed_lo: word(0), seed_hi: word(1), instance: word(2), step: word(3), node: word(4) };
    let u = t.uniform(t.index(), key);
    let mut factor = [u];
    Dropout.eval(t, &[t.lit(1.0), u, t.immediate(p.into())], &mut factor);
    builder.into_inner().finish_with_immediates(&[factor[0].0])
}

/// True when nothing but `causal` and the mask decides what counts, and how much.
pub(super) fn is_plain(v: &Attention) -> bool {
    v.sight.is_plain() && v.score.is_none() && v.dropout.is_none()
}

/// The operands of the options, and the mask.
fn operands(v: &mut Attention) -> Vec<&mut View> {
    let lengths = match &mut v.sight.lengths {
        Lengths::Full => [None, None],
        Lengths::Keys(lengths) => [Some(lengths), None],
        Lengths::Packed { queries, keys } => [Some(queries), Some(keys)],
    };
    let blocks = v.sight.blocks.as_mut().map(|b| &mut b.keep);
    let score = v.score.iter_mut().flat_map(|s| s.params.iter_mut().chain(&mut s.inputs));
    let words = v.dropout.iter_mut().flat_map(|d| {
        let Key { seed_lo, seed_hi, instance, step, node } = &mut d.key;
        [seed_lo, seed_hi, instance, step, node]
    });
    let lengths = lengths.into_iter().flatten();
    v.mask.iter_mut().chain(lengths).chain(blocks).chain(score).chain(words).collect()
}

/// `view` without its repetitions.
fn once(view: &View) -> View {
    let l = &view.layout;
    let extents =
        l.shape().iter().zip(l.strides()).map(|(&n, &s)| if s == 0 { n.min(1) } else { n });
    let extents: Vec<usize> = extents.collect();
    view.with(Layout::new(&extents, l.strides(), l.offset()))
}

/// `packed`, repeated where `like` is.
fn repeated(packed: &View, like: &View) -> View {
    let pairs = packed.layout.strides().iter().zip(like.layout.strides());
    let strides: Vec<isize> = pairs.map(|(&own, &s)| if s == 0 { 0 } else { own }).collect();
    packed.with(Layout::new(like.shape(), &strides, packed.layout.offset()))
}

/// The verb with its options' operands in one buffer, as many as must be, where a kernel that also
/// binds `others` could not bind them all.
pub(super) fn pack(
    v: &Attention,
    others: &[View],
    scope: Scope<'_>,
    kernels: &mut Vec<Kernel>,
) -> Result<Attention> {
    let mut v = v.clone();
    let mut places = operands(&mut v);
    let mut packed: Vec<View> = places.iter().map(|x| once(x)).collect();
    map::pack(others, packed.iter_mut().collect(), scope, kernels)?;
    for (place, packed) in places.iter_mut().zip(&packed) {
        **place = repeated(packed, place);
    }
    Ok(v)
}

/// Which part of the sight a kernel computes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Seeing {
    /// It computes it.
    Computed,
    /// It computes it and puts it aside.
    Put,
    /// It reads what was put aside.
    Saved,
}

/// What all kernels with options know about sight.
pub(super) fn sight(k: &mut Kernel, v: &Attention, sizes: &Sizes, seeing: Seeing) {
    k.constant("SIGHT", true).word("heads", sizes.heads);
    k.constant("SAVED", seeing == Seeing::Saved).constant("SAVES", seeing == Seeing::Put);
    if seeing == Seeing::Saved {
        return;
    }
    let window = v.sight.window.unwrap_or(usize::MAX).min(2 * MOST);
    k.word("window", window).word("causal", usize::from(v.sight.causal));
    match &v.sight.lengths {
        Lengths::Full => {}
        Lengths::Keys(lengths) => {
            k.constant("LENGTHS", true);
            held(k, "lengths", lengths, 1);
        }
        Lengths::Packed { queries, keys } => {
            k.constant("PACKED", true).word("starts", queries.shape()[1]);
            k.bits("q_starts_step", stride(queries, 1)).bits("k_starts_step", stride(keys, 1));
            held(k, "q_starts", queries, 1);
            held(k, "k_starts", keys, 1);
        }
    }
}

/// An integer operand, and `NAME_held(at, most)`: its element, no less than 0 and at most `most`.
fn held(k: &mut Kernel, name: &'static str, view: &View, axes: usize) {
    k.over(name, view, Access::Read, &super::leading(view, axes), Width::One);
    let value = match view.dtype {
        DType::U32 => format!("i32(min({name}_bits(at), most))"),
        _ => format!("clamp({name}_int(at), 0, i32(most))"),
    };
    k.glue(&format!("fn {name}_held(at: u32, most: u32) -> i32 {{\n    return {value};\n}}\n"));
}

/// How the loops that find a query's sequence turn.
pub(super) fn turns(v: &Attention) -> usize {
    match &v.sight.lengths {
        Lengths::Packed { queries, .. } => crate::kernel::looped(queries.shape()[1], 0),
        _ => 0,
    }
}

/// The derivative of the score that a kernel wants: number `output` of the program of derivatives.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Slope {
    None,
    By(usize),
}

/// What weighs a pair of a query and a key: blocks, the score's program and its slope, dropout;
/// `place_of(head)` says where a query head's operands begin.
pub(super) fn weigh(rows: &mut Rows, v: &Attention, slope: Slope) {
    let k = &mut rows.kernel;
    let (mut fields, mut places) = (String::from("    head: u32,\n"), String::from("head"));
    // Writing to a String cannot fail.
    let mut field = |name: &str| {
        let _ = writeln!(fields, "    {name}: u32,");
        let _ = write!(places, ", {name}_at(head)");
    };
    let mut text = String::new();
    if let Some(blocks) = &v.sight.blocks {
        let keep = &blocks.keep;
        k.constant("BLOCKED", true);
        k.word("block_rows", blocks.size[0]).word("block_columns", blocks.size[1]);
        k.bits("block_row", stride(keep, 2)).bits("block_step", stride(keep, 3));
        k.over("blocks", keep, Access::Read, &super::leading(keep, 2), Width::One);
        field("blocks");
        text.push_str(
            "fn in_block(p: Place, query: u32, key: u32) -> bool {\n    \
             let row = query / $block_rows * $block_row;\n    \
             return blocks_bits(p.blocks + row + key / $block_columns * $block_step) != 0u;\n}\n",
        );
    }
    if let Some(score) = &v.score {
        k.constant("SCORED", true);
        let wanted = if slope == Slope::None { 0 } else { score.derivatives.input_count() };
        let most = score.program.input_count().max(wanted);
        let inputs = &score.inputs[..most.saturating_sub(Score::OWN_INPUTS)];
        for (i, x) in inputs.iter().enumerate() {
            k.over(format!("x{i}"), x, Access::Read, &super::leading(x, 2), Width::One);
            k.bits(format!("x{i}_row"), stride(x, 2)).bits(format!("x{i}_step"), stride(x, 3));
            field(&format!("x{i}"));
        }
        scores(k, score, slope, &mut text);
    }
    if let Some(dropout) = &v.dropout {
        let (program, values) = factor(dropout.p);
        let more = arguments(&program, "d", "f");
        immediates(k, "f", &program, &values);
        k.constant("DROPPED", true).program("dropped", &Arc::new(program));
        for (i, word) in dropout.words().into_iter().enumerate() {
            k.operand(format!("d{i}"), word, Access::Read);
        }
        let _ = write!(
            text,
            "fn factor(p: Place, query: u32, key: u32) -> f32 {{\n    \
             return dropped({more}(p.head * $queries + query) * $keys + key);\n}}\n",
        );
    }
    k.glue(&format!("struct Place {{\n{fields}}}\n"));
    k.glue(&format!("fn place_of(head: u32) -> Place {{\n    return Place({places});\n}}\n"));
    k.glue(&text);
}

/// `scored` and, where it is wanted, `slope`, both of the scaled product and the pair.
fn scores(k: &mut Kernel, score: &Score, slope: Slope, text: &mut String) {
    let mut print = |name, (program, inner, immediates): (&Program, _, _), part: &str| {
        let own = ["s", "own", "at_key", "f32(p.head % $heads)", "f32(p.head / $heads)"];
        let leaf = |i: usize| match own.get(i) {
            Some(leaf) => format!("{leaf}, "),
            None => {
                let x = format!("x{}", i - own.len());
                format!("{x}_load(p.{x} + query * ${x}_row + key * ${x}_step), ")
            }
        };
        let inputs: String = (0..program.input_count()).map(leaf).collect();
        let more = arguments(program, "p", immediates);
        let _ = write!(
            text,
            "fn {name}(s: f32, p: Place, query: u32, key: u32, own: f32, at_key: f32) -> f32 \
             {{\n    \
             return {inner}({inputs}{more}0u){part};\n}}\n"
        );
    };
    print("scored", (&score.program, "score", "c"), "");
    immediates(k, "c", &score.program, &score.immediates);
    let mut params = score.program.param_count();
    k.program("score", &score.program);
    if let Slope::By(output) = slope {
        let several = score.derivatives.outputs().len() > 1;
        let part = if several { format!("[{output}]") } else { String::new() };
        print("slope", (&score.derivatives, "slopes", "e"), &part);
        immediates(k, "e", &score.derivatives, &score.derivatives_immediates);
        params = params.max(score.derivatives.param_count());
        k.program("slopes", &score.derivatives);
    }
    for (i, view) in score.params[..params].iter().enumerate() {
        k.operand(format!("p{i}"), view, Access::Read);
    }
}

fn immediates(k: &mut Kernel, prefix: &str, program: &Program, values: &Immediates) {
    for (i, &word) in values.iter().take(program.immediate_count()).enumerate() {
        k.bits(format!("{prefix}{i}"), word);
    }
}
