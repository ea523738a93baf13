//! Elementwise work.

use super::moves::copy;
use super::scope::{LANES, Scope};
use crate::access::in_fours;
use crate::kernel::Kernel;
use crate::operand::Access;
use crate::storage::GpuStorage;
use crate::template::{Template, template};
use starling_contract::{Copy, Immediates, Layout, Map, Program, Result, View};
use std::fmt::Write;

const MAP: Template = template!("map");

/// A view of which every element is the same one.
fn is_one_element(view: &View) -> bool {
    view.layout.shape().iter().zip(view.layout.strides()).all(|(&n, &s)| n == 1 || s == 0)
}

/// The arguments of a printed program's parameters, read from the operands `p0`, `p1`, ..., and of
/// its immediates, which are parameters of the kernel.
pub(crate) fn parameter_arguments(program: &Program) -> String {
    arguments(program, "p", "c")
}

/// The same from operands that are named `params` and parameters that are named `immediates`, with
/// their numbers.
pub(crate) fn arguments(program: &Program, params: &str, immediates: &str) -> String {
    let mut text = String::new();
    for i in 0..program.param_count() {
        // Writing to a String cannot fail.
        let _ = write!(text, "{params}{i}_bits({params}{i}_at(0u)), ");
    }
    for i in 0..program.immediate_count() {
        let _ = write!(text, "bitcast<f32>(${immediates}{i}), ");
    }
    text
}

/// Adds a program's parameters as operands `p0`, `p1`, ... and its immediates as words `c0`, ...
pub(crate) fn parameters(
    kernel: &mut Kernel,
    program: &Program,
    params: &[View],
    immediates: &Immediates,
) {
    for (i, view) in params.iter().take(program.param_count()).enumerate() {
        kernel.operand(format!("p{i}"), view, Access::Read);
    }
    for (i, &word) in immediates.iter().take(program.immediate_count()).enumerate() {
        kernel.bits(format!("c{i}"), word);
    }
}

/// Adds the kernels of a map: in fours where nothing lies between the elements, else one by one.
pub fn map(v: &Map, scope: Scope<'_>, kernels: &mut Vec<Kernel>) -> Result<()> {
    let len = v.outputs[0].len();
    if len == 0 {
        return Ok(());
    }
    let mut packed = v.clone();
    packed.inputs.truncate(v.program.input_count());
    packed.params.truncate(v.program.param_count());
    let operands = packed.params.iter_mut().chain(&mut packed.inputs).collect();
    pack(&v.outputs, operands, scope, kernels)?;
    let v = &packed;
    let inputs = &v.inputs[..v.program.input_count()];
    // The tail of one output's last four may hold elements of another output: then one by one.
    let apart = len.is_multiple_of(4)
        || v.outputs
            .iter()
            .enumerate()
            .all(|(i, y)| v.outputs[..i].iter().all(|other| !other.same_storage(y)));
    let wide = apart
        && v.outputs.iter().all(in_fours)
        && inputs.iter().all(|x| in_fours(x) || is_one_element(x))
        && len >= 4;
    if wide {
        kernels.push(in_quads(v, inputs, len, scope));
    } else {
        kernels.push(one_by_one(v, inputs, len));
    }
    Ok(())
}

/// Copies operands into one buffer when a dispatch cannot bind them all: as many as must be, the
/// smallest first.
pub(crate) fn pack(
    outputs: &[View],
    mut operands: Vec<&mut View>,
    scope: Scope<'_>,
    kernels: &mut Vec<Kernel>,
) -> Result<()> {
    let mut storages: Vec<View> = Vec::new();
    let mut count = |view: &View| {
        if !storages.iter().any(|s| s.same_storage(view)) {
            storages.push(view.clone());
        }
    };
    outputs.iter().for_each(&mut count);
    operands.iter().for_each(|x| count(x));
    let Some(over) = storages.len().checked_sub(scope.limits.slots + 1) else { return Ok(()) };
    operands.retain(|x| !outputs.iter().any(|y| y.same_storage(x)));
    operands.sort_by_key(|x| x.len() * x.dtype.size());
    // One buffer more replaces those that are packed.
    // What cannot be helped so is refused when the slots are counted.
    let Some(chosen) = operands.get_mut(..over + 2) else { return Ok(()) };
    let step = |x: &View| (x.len() * x.dtype.size()).next_multiple_of(GpuStorage::STEP);
    let storage = (scope.alloc)(chosen.iter().map(|x| step(x)).sum())?;
    let mut first = 0;
    for x in chosen {
        let mut dst = View::contiguous(storage.clone(), x.dtype, x.shape());
        let layout = dst.layout;
        dst.layout = Layout::new(layout.shape(), layout.strides(), first / x.dtype.size());
        first += step(x);
        copy(&Copy { src: x.clone(), dst: dst.clone() }, scope, kernels);
        **x = dst;
    }
    Ok(())
}

fn one_by_one(v: &Map, inputs: &[View], len: usize) -> Kernel {
    let mut k = Kernel::new(MAP);
    k.constant("WG", LANES as u32).word("len", len);
    for (i, x) in inputs.iter().enumerate() {
        k.operand(format!("x{i}"), x, Access::Read);
    }
    parameters(&mut k, &v.program, &v.params, &v.immediates);
    for (o, y) in v.outputs.iter().enumerate() {
        k.operand(format!("y{o}"), y, Access::Write);
    }
    k.program("program", &v.program);
    let loads: String = (0..inputs.len()).map(|i| format!("x{i}_load(x{i}_at(i)), ")).collect();
    let call = format!("program({loads}{}i)", parameter_arguments(&v.program));
    let mut glue = format!("fn element(i: u32) {{\n    let v = {call};\n");
    for o in 0..v.outputs.len() {
        let value = if v.outputs.len() == 1 { "v".to_string() } else { format!("v[{o}]") };
        let _ = writeln!(glue, "    y{o}_store(y{o}_at(i), {value});");
    }
    glue.push_str("}\n");
    k.glue(&glue).groups(len.div_ceil(LANES));
    k
}

fn in_quads(v: &Map, inputs: &[View], len: usize, scope: Scope<'_>) -> Kernel {
    let mut k = super::scope::in_quads(len, scope);
    let mut glue = String::from("fn quad(q: u32, count: u32) {\n");
    for (i, x) in inputs.iter().enumerate() {
        let name = format!("x{i}");
        // The tail of a quad may lie beyond the view, but not beyond the storage.
        if is_one_element(x) {
            k.operand(name, x, Access::Read);
            let _ = writeln!(glue, "    let a{i} = vec4<f32>(x{i}_load(x{i}_at(0u)));");
        } else {
            k.fours(name, x, Access::Read);
            let _ = writeln!(glue, "    let a{i} = x{i}_load4(x{i}_at(0u) / 4u + q);");
        }
    }
    parameters(&mut k, &v.program, &v.params, &v.immediates);
    for (o, y) in v.outputs.iter().enumerate() {
        k.fours(format!("y{o}"), y, Access::Write);
    }
    k.program("program", &v.program);
    let arguments = parameter_arguments(&v.program);
    for lane in 0..4 {
        let loads: String = (0..inputs.len()).map(|i| format!("a{i}[{lane}], ")).collect();
        let _ = writeln!(glue, "    let v{lane} = program({loads}{arguments}4u * q + {lane}u);");
    }
    for o in 0..v.outputs.len() {
        let part = if v.outputs.len() == 1 { String::new() } else { format!("[{o}]") };
        let lanes: Vec<String> = (0..4).map(|l| format!("v{l}{part}")).collect();
        let value = format!("vec4<f32>({})", lanes.join(", "));
        let _ = writeln!(glue, "    y{o}_store4(y{o}_at(0u) / 4u + q, {value}, count);");
    }
    glue.push_str("}\n");
    k.glue(&glue);
    k
}
