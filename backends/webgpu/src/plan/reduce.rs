//! Reductions. Where the last axis is reduced, invocations work along the reduced axes (rows), four
//! elements at a time; else each takes a column, or four. Long reductions to few results take two
//! stages, with the results of parts in working memory between them. The order of additions depends
//! on the shape alone, not on strides: the sum of an expression has the bits of its value's sum.

use super::map::{pack, parameter_arguments, parameters};
use super::rows::{Spread, block, blocked};
use super::scope::{LANES, Scope, working_memory};
use crate::kernel::{Kernel, looped};
use crate::operand::{Access, Axis, Width, axes};
use crate::template::{Template, template};
use crate::variant::Variant;
use starling_contract::{DType, Layout, Reduce, ReduceKind, Result, View};
use starling_ops::program::Op;
use std::fmt::Write;

const REDUCE_ROWS: Template =
    template!("reduce_rows": "lanes", "reduce", "reduce_rows", "row_main");
const REDUCE_COLUMNS: Template = template!("reduce_columns": "lanes", "reduce", "reduce_columns");

/// Invocations that keep a device busy.
const WANTED: usize = 32_768;

/// Parts of `n` rows that are reduced side by side when there are `columns` columns (or fours of
/// them), and the rows of each.
pub(super) fn split(n: usize, columns: usize) -> (usize, usize) {
    const ROWS: usize = 32;
    if n <= 2 * ROWS || n * columns <= WANTED / 4 {
        return (1, n.max(1));
    }
    let parts = (WANTED / columns.max(1)).clamp(1, 1024).min(n / ROWS);
    let chunk = n.div_ceil(parts);
    (n.div_ceil(chunk), chunk)
}

/// As [`split`], for parts of `rows` rows of `n` elements that a workgroup reduces.
fn split_rows(n: usize, rows: usize) -> (usize, usize) {
    const ELEMENTS: usize = 8192;
    let parts = (WANTED / 64 / rows.max(1)).clamp(1, 1024).min(n / ELEMENTS).max(1);
    let chunk = n.div_ceil(parts).next_multiple_of(4).max(4);
    (n.div_ceil(chunk).max(1), chunk)
}

/// How a reduction is cut. A function of the shape alone.
#[derive(Clone, Copy, Debug)]
struct Cut {
    /// Elements of a result, and results.
    n: usize,
    results: usize,
    /// Invocations work along the reduced axes.
    by_rows: bool,
    parts: usize,
    /// Elements of a result that are in a part, except the last.
    chunk: usize,
}

/// The axes of `layout` whose bits are set in `axes` (`reduced`), or the others.
fn keep(layout: &Layout, axes: u32, reduced: bool) -> Layout {
    let all = 0..layout.rank();
    let chosen: Vec<usize> = all.filter(|&a| (axes >> a & 1 == 1) == reduced).collect();
    layout.permute(&chosen)
}

/// True when every axis of more than one element steps by whole fours.
fn in_steps_of_four(axes: &[Axis]) -> bool {
    axes.iter().all(|&(_, s)| s % 4 == 0)
}

fn is_still(axes: &[Axis]) -> bool {
    axes.iter().all(|&(_, s)| s == 0)
}

impl Cut {
    fn of(v: &Reduce) -> Self {
        let layout = &v.inputs[0].layout;
        let (n, results) = (keep(layout, v.axes, true).len(), keep(layout, v.axes, false).len());
        let last = (0..layout.rank()).rev().find(|&axis| layout.shape()[axis] > 1);
        let by_rows = results == 1 || last.is_some_and(|axis| v.axes >> axis & 1 == 1);
        let (parts, chunk) =
            if by_rows { split_rows(n, results) } else { split(n, results.div_ceil(4)) };
        Self { n, results, by_rows, parts, chunk }
    }

    /// True when four elements are taken at once: of a row always, which fixes the order in which
    /// it is added, and columns where they can be loaded so, each of which is added by itself.
    fn in_fours(&self, v: &Reduce) -> bool {
        if self.by_rows {
            return self.n >= 4;
        }
        let inputs = &v.inputs[..v.program.input_count()];
        self.results.is_multiple_of(4) && inputs.iter().all(|x| columns_in_fours(x, v.axes))
    }

    /// Words that a part leaves in memory.
    fn planes(kind: ReduceKind) -> usize {
        match kind {
            ReduceKind::ArgMax | ReduceKind::ArgMin | ReduceKind::Var { .. } => 2,
            _ => 1,
        }
    }

    fn workspace_bytes(&self, kind: ReduceKind) -> usize {
        if self.parts > 1 { Self::planes(kind) * self.parts * self.results * 4 } else { 0 }
    }
}

/// True when the reduced elements of a view follow each other from a multiple of four on.
fn rows_in_fours(x: &View, reduced: u32) -> bool {
    let along = axes(&keep(&x.layout, reduced, true));
    let across = axes(&keep(&x.layout, reduced, false));
    let runs = matches!(along[..], [(_, 1)]);
    runs && x.layout.offset().is_multiple_of(4) && in_steps_of_four(&across)
}

/// True when the kept elements of a view can be taken in fours: each four follow each other from a
/// multiple of four on, or are the same one.
fn columns_in_fours(x: &View, reduced: u32) -> bool {
    let along = axes(&keep(&x.layout, reduced, true));
    match axes(&keep(&x.layout, reduced, false))[..] {
        [(m, 0), ..] => m.is_multiple_of(4),
        [(m, 1), ref rest @ ..] => {
            m.is_multiple_of(4)
                && x.layout.offset().is_multiple_of(4)
                && in_steps_of_four(rest)
                && in_steps_of_four(&along)
        }
        _ => false,
    }
}

/// Working memory of [`reduce`].
pub fn workspace_bytes(v: &Reduce) -> usize {
    Cut::of(v).workspace_bytes(v.kind)
}

/// What the templates are told of the kind.
fn kind_constants(k: &mut Kernel, kind: ReduceKind, all: usize) {
    use ReduceKind::{ArgMax, ArgMin, Max, Mean, Min, Sum, Var};
    let top = matches!(kind, Max | Min);
    let arg = matches!(kind, ArgMax | ArgMin);
    let least = matches!(kind, Min | ArgMin);
    k.constant("ADD", matches!(kind, Sum | Mean)).constant("MEAN", kind == Mean);
    k.constant("TOP", top).constant("ARG", arg).constant("LEAST", least);
    k.constant("ORDER", top || arg).constant("VAR", matches!(kind, Var { .. }));
    let worst = if least { f32::INFINITY } else { f32::NEG_INFINITY };
    let correction = if let Var { correction } = kind { correction } else { 0 };
    k.bits("worst", worst.to_bits()).bits("correction", correction).word("all", all);
}

/// Adds the function `name(r)`: how far element `r` of a space with these axes is from its first.
fn distance(k: &mut Kernel, name: &str, axes: &[Axis]) {
    let mut text = format!("fn {name}(r: u32) -> u32 {{\n    var rest = r;\n    var at = 0u;\n");
    for (i, &(extent, stride)) in axes.iter().enumerate() {
        k.word(format!("{name}_n{i}"), extent).bits(format!("{name}_s{i}"), stride as i32 as u32);
        // Writing to a String cannot fail.
        let _ = if i + 1 == axes.len() {
            writeln!(text, "    at += rest * ${name}_s{i};")
        } else {
            writeln!(
                text,
                "    let q{i} = rest / ${name}_n{i};\n    \
                 at += (rest - q{i} * ${name}_n{i}) * ${name}_s{i};\n    rest = q{i};"
            )
        };
    }
    text.push_str("    return at;\n}\n");
    k.glue(&text);
}

/// Adds the inputs and `begin` and `value` over them.
fn values(k: &mut Kernel, v: &Reduce, cut: &Cut, four: bool) {
    let inputs = &v.inputs[..v.program.input_count()];
    let mut begin = String::from("fn begin(o: u32) {\n");
    let mut value = String::from("fn value(j: u32) -> T {\n");
    for (i, x) in inputs.iter().enumerate() {
        let (kept, reduced) = (keep(&x.layout, v.axes, false), keep(&x.layout, v.axes, true));
        let still = is_still(&if cut.by_rows { axes(&reduced) } else { inner(&kept) });
        let whole = four && (!cut.by_rows || rows_in_fours(x, v.axes));
        let width = if whole && !still { Width::Four } else { Width::One };
        k.over(format!("x{i}"), x, Access::Read, &kept, width);
        k.glue(&format!("var<private> at{i}: u32;\n"));
        let _ = writeln!(begin, "    at{i} = x{i}_at(o);");
        if width == Width::Four && cut.by_rows {
            let _ = writeln!(value, "    let a{i} = x{i}_load4(at{i} / 4u + j);");
            continue;
        }
        distance(k, &format!("along{i}"), &axes(&reduced));
        if four && !still && cut.by_rows {
            // What lies apart is gathered; those behind the row repeat its last one.
            let one = |lane: usize| {
                format!("x{i}_load(at{i} + along{i}(min(4u * j + {lane}u, $n - 1u)))")
            };
            let all = (0..4).map(one).collect::<Vec<_>>().join(", ");
            let _ = writeln!(value, "    let a{i} = T({all});");
            continue;
        }
        let place = if four && cut.by_rows { "0u".into() } else { format!("along{i}(j)") };
        let _ = match width {
            Width::Four => writeln!(value, "    let a{i} = x{i}_load4((at{i} + {place}) / 4u);"),
            Width::One => writeln!(value, "    let a{i} = T(x{i}_load(at{i} + {place}));"),
        };
    }
    let indexed = v.program.nodes().iter().any(|node| node.op == Op::Index);
    if indexed {
        let space = Layout::contiguous(v.inputs[0].shape());
        distance(k, "index_kept", &axes(&keep(&space, v.axes, false)));
        distance(k, "index_along", &axes(&keep(&space, v.axes, true)));
        k.glue("var<private> chosen: u32;\n");
        begin.push_str("    chosen = o;\n");
    }
    let index = |lane: usize| match (indexed, four, cut.by_rows) {
        (false, _, _) => "0u".to_string(),
        (_, false, _) => "index_kept(chosen) + index_along(j)".to_string(),
        (_, true, true) => format!("index_kept(chosen) + index_along(4u * j + {lane}u)"),
        (_, true, false) => format!("index_kept(chosen + {lane}u) + index_along(j)"),
    };
    parameters(k, &v.program, &v.params, &v.immediates);
    k.program("program", &v.program);
    let arguments = parameter_arguments(&v.program);
    let call = |part: &str, lane: usize| {
        let loads: String = (0..inputs.len()).map(|i| format!("a{i}{part}, ")).collect();
        format!("program({loads}{arguments}{})", index(lane))
    };
    let result = match four {
        true => (0..4).map(|l| call(&format!("[{l}]"), l)).collect::<Vec<_>>().join(", "),
        false => call("", 0),
    };
    let _ = writeln!(value, "    return T({result});");
    begin.push_str("}\n");
    value.push_str("}\n");
    k.glue(&begin).glue(&value);
}

/// The innermost axis alone.
fn inner(layout: &Layout) -> Vec<Axis> {
    axes(layout).into_iter().take(1).collect()
}

/// What parts leave: `[results, parts]` in working memory, once or twice.
fn states(workspace: &View, cut: &Cut, kind: ReduceKind) -> Vec<View> {
    let (results, parts) = (cut.results, cut.parts);
    let strides = if cut.by_rows { [parts as isize, 1] } else { [1, results as isize] };
    let plane = |i: usize| {
        let first = workspace.layout.offset() + i * results * parts;
        let dtype = match kind {
            ReduceKind::ArgMax | ReduceKind::ArgMin if i == 1 => DType::U32,
            _ => DType::F32,
        };
        let layout = Layout::new(&[results, parts], &strides, first);
        View { storage: workspace.storage.clone(), dtype, layout }
    };
    (0..Cut::planes(kind)).map(plane).collect()
}

pub fn reduce(v: &Reduce, scope: Scope<'_>, kernels: &mut Vec<Kernel>) -> Result<()> {
    let cut = Cut::of(v);
    if cut.results == 0 {
        return Ok(());
    }
    let workspace = working_memory("reduce", &v.workspace, cut.workspace_bytes(v.kind))?;
    let states = workspace.as_ref().map_or_else(Vec::new, |w| states(w, &cut, v.kind));
    let mut v = v.clone();
    v.inputs.truncate(v.program.input_count().max(1));
    let written = if states.is_empty() { &v.output } else { &states[0] };
    let operands = v.params.iter_mut().chain(&mut v.inputs).collect();
    pack(std::slice::from_ref(written), operands, scope, kernels)?;
    let four = cut.in_fours(&v);
    let plain = Scope { variant: Variant { subgroups: false, ..scope.variant }, ..scope };
    // Comparisons go through workgroup memory in every variant: subgroups do not know NaN's order.
    let sums = matches!(v.kind, ReduceKind::Sum | ReduceKind::Mean | ReduceKind::Var { .. });
    let wanted = if sums { scope } else { plain };
    let mut k = if cut.by_rows { by_rows(wanted, &cut, four) } else { by_columns(&cut, four) };
    kind_constants(&mut k, v.kind, cut.n);
    k.constant("PARTS", cut.parts > 1).constant("STEP", if four { 4u32 } else { 1 });
    values(&mut k, &v, &cut, four);
    if states.is_empty() {
        k.operand("y", &v.output, Access::Write);
        kernels.push(k);
        return Ok(());
    }
    for (name, state) in ["a", "b"].into_iter().zip(&states) {
        let first = Layout::new(&[], &[], state.layout.offset());
        let space = if cut.by_rows { state.layout } else { first };
        k.over(name, state, Access::Write, &space, Width::One);
    }
    kernels.push(k);
    combine(v.kind, &states, (cut.n, cut.chunk), &v.output, scope, kernels);
    Ok(())
}

fn by_rows(scope: Scope<'_>, cut: &Cut, four: bool) -> Kernel {
    let s = Spread::new(scope, cut.results * cut.parts, cut.n, cut.chunk.min(cut.n), four);
    let mut k = s.kernel(scope, REDUCE_ROWS, 2);
    k.constant("TAIL", four && !cut.n.is_multiple_of(4));
    k.word("parts", cut.parts).word("chunk", cut.chunk / if four { 4 } else { 1 });
    k
}

fn by_columns(cut: &Cut, four: bool) -> Kernel {
    let mut k = Kernel::new(REDUCE_COLUMNS);
    let items = if four { cut.results / 4 } else { cut.results };
    k.constant("WG", LANES as u32).constant("FOUR", four);
    k.turns(2 * blocked(cut.chunk, block(cut.chunk)) + 2 * looped(4, 0));
    k.word("n", cut.n).word("items", items).word("columns", cut.results);
    k.word("parts", cut.parts).word("chunk", cut.chunk).word("block", block(cut.chunk));
    k.groups((items * cut.parts).div_ceil(LANES));
    k
}

/// The second stage: `output` from the `states` (`[results, parts]`) of parts of `part` elements of
/// `all`.
pub(super) fn combine(
    kind: ReduceKind,
    states: &[View],
    (all, part): (usize, usize),
    output: &View,
    scope: Scope<'_>,
    kernels: &mut Vec<Kernel>,
) {
    let [results, parts] = *states[0].shape() else { return };
    let s = Spread::new(scope, results, parts, parts, false);
    let mut k = s.kernel(scope, REDUCE_ROWS, 2);
    kind_constants(&mut k, kind, all);
    k.constant("STATES", true).constant("STEP", 1u32);
    k.word("parts", 1).word("chunk", parts).word("part", part);
    let mut begin = String::from("var<private> row: u32;\nfn begin(o: u32) {\n    row = o;\n}\n");
    for (name, state) in ["a", "b"].into_iter().zip(states) {
        k.over(name, state, Access::Read, &keep(&state.layout, 0b10, false), Width::One);
        k.bits(format!("{name}_step"), state.layout.strides()[1] as i32 as u32);
    }
    begin.push_str("fn value(j: u32) -> T {\n    return a_load(a_at(row) + j * $a_step);\n}\n");
    begin.push_str(match kind {
        ReduceKind::ArgMax | ReduceKind::ArgMin => {
            "fn place(j: u32) -> TU {\n    return b_bits(b_at(row) + j * $b_step);\n}\n"
        }
        ReduceKind::Var { .. } => {
            "fn spread(j: u32) -> T {\n    return b_load(b_at(row) + j * $b_step);\n}\n\
             fn weight(j: u32) -> T {\n    return f32(min($part, $all - j * $part));\n}\n"
        }
        _ => "",
    });
    k.glue(&begin).operand("y", output, Access::Write);
    kernels.push(k);
}
