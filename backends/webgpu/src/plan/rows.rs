//! Work along the last axis: softmax, cross-entropy, and what normalisation shares with them.

use super::scope::Scope;
use crate::kernel::{Kernel, looped};
use crate::operand::{Access, Width};
use crate::template::{Template, template};
use starling_contract::{
    CrossEntropy, CrossEntropyBackward, DType, Layout, Program, Softmax, SoftmaxBackward, View,
};
use starling_ops::Math;
use starling_ops::program::Builder;
use starling_ops::trace::{Real, Trace};
use std::cell::RefCell;
use std::sync::{Arc, LazyLock};

const SOFTMAX: Template = template!("softmax": "lanes", "exponentials", "softmax", "row_main");
const SOFTMAX_BACKWARD: Template =
    template!("softmax_backward": "lanes", "softmax_backward", "row_main");
const CROSS_ENTROPY: Template =
    template!("cross_entropy": "lanes", "exponentials", "cross_entropy", "row_main");
const CROSS_ENTROPY_BACKWARD: Template =
    template!("cross_entropy_backward": "lanes", "cross_entropy_backward", "row_main");

/// A program of one input.
fn program(f: fn(Trace<'_>, Real) -> Real) -> Arc<Program> {
    let builder = RefCell::new(Builder::new());
    let trace = Trace(&builder);
    let out = f(trace, trace.input(0)).0;
    Arc::new(builder.into_inner().finish(&[out]))
}

pub(super) static EXP: LazyLock<Arc<Program>> = LazyLock::new(|| program(|t, x| t.exp(x)));
pub(super) static LOG: LazyLock<Arc<Program>> = LazyLock::new(|| program(|t, x| t.log(x)));

/// Gives the template `exps`.
pub(super) fn exponential(k: &mut Kernel) {
    k.constant("EXPS", true).program("ex", &EXP);
}

fn logarithm(k: &mut Kernel) {
    k.program("ln", &LOG);
}

/// How rows are spread over invocations.
#[derive(Clone, Copy, Debug)]
pub(super) struct Spread {
    /// Rows.
    pub count: usize,
    /// Elements of a row.
    n: usize,
    /// Steps along a row: elements, or fours of them.
    pub items: usize,
    /// Four elements are moved at once.
    pub four: bool,
    /// Invocations of a row.
    lanes: usize,
    /// Invocations of a workgroup.
    size: usize,
    /// Steps of each invocation.
    steps: usize,
    /// Steps of all its invocations after which a sum begins anew.
    block: usize,
}

/// True when each row, without gaps, begins at a multiple of four and ends there.
fn begins_in_fours(view: &View) -> bool {
    let Some((&n, lead)) = view.shape().split_last() else { return false };
    let Some((&step, strides)) = view.layout.strides().split_last() else { return false };
    let whole = |(&n, &s): (&usize, &isize)| n == 1 || s % 4 == 0;
    n.is_multiple_of(4)
        && step == 1
        && view.layout.offset().is_multiple_of(4)
        && lead.iter().zip(strides).all(whole)
}

/// The length of blocks in which `n` numbers are added, so that no chain of additions is long.
pub(super) fn block(n: usize) -> usize {
    n.isqrt().next_power_of_two().max(16)
}

/// Turns of two loops, one in the other, over `n` steps in blocks of `block`.
pub(super) fn blocked(n: usize, block: usize) -> usize {
    looped(n.div_ceil(block), looped(block.min(n), 0))
}

/// Invocations of a workgroup, at least, where it is free to choose.
const GROUP: usize = 64;
/// Invocations of a workgroup, at most.
const MOST: usize = 256;

impl Spread {
    /// For `count` rows of `n` elements, of which `reach` are taken together: all, or a part.
    pub fn new(scope: Scope<'_>, count: usize, n: usize, reach: usize, four: bool) -> Self {
        let in_steps = |n: usize| if four { n.div_ceil(4) } else { n };
        let (items, steps) = (in_steps(n), in_steps(reach));
        let (lanes, size) = if scope.software {
            Self::on_a_processor(scope, count, steps)
        } else {
            let most = scope.limits.invocations.min(MOST);
            let lanes = if steps <= 2 { 1 } else { steps.div_ceil(4).next_power_of_two().max(4) };
            (lanes.min(most), lanes.clamp(GROUP, most))
        };
        let steps = steps.div_ceil(lanes);
        let block = lanes * block(steps);
        Self { count, n, items, four, lanes, size, steps, block }
    }

    /// Invocations of a row and of a workgroup where a subgroup has eight lanes, barriers cost more
    /// than scattered loads, and a workgroup as much as a hundred elements.
    fn on_a_processor(scope: Scope<'_>, count: usize, steps: usize) -> (usize, usize) {
        const LONG: usize = 64;
        match count {
            _ if steps >= LONG && scope.variant.subgroups => (8, 8),
            2048.. => (1, 64),
            64.. => (1, 8),
            _ if steps <= 1 => (1, 8),
            _ => (8, 8),
        }
    }

    /// For views of the shape of `x`, the last axis along the rows, and vectors of a row's length.
    pub fn of(scope: Scope<'_>, x: &View) -> Self {
        let shape = x.shape();
        let n = shape.last().copied().unwrap_or(1);
        let count = shape[..shape.len().saturating_sub(1)].iter().product();
        // By shape alone, since it fixes the order in which a row is added.
        let four = n > 0 && n.is_multiple_of(4);
        Self::new(scope, count, n, n, four)
    }

    /// A kernel over the rows, which goes through each of them at most `passes` times.
    pub fn kernel(&self, scope: Scope<'_>, template: Template, passes: usize) -> Kernel {
        let mut k = Kernel::new(template);
        // After a pass the lanes of a row add up what each of them found.
        let pass = blocked(self.steps, self.block / self.lanes) + looped(self.size, 0);
        k.turns(passes * pass);
        let (lanes, size) = (self.lanes, self.size);
        let subgroups = scope.variant.subgroups && lanes == size;
        let alone = subgroups && size <= scope.limits.lanes;
        k.constant("WG", size as u32).constant("L", lanes as u32);
        k.constant("ROWS", (size / lanes) as u32).constant("CELLS", lanes.min(16) as u32);
        k.constant("FOUR", self.four).constant("SEVERAL", size > lanes);
        k.constant("MANY", lanes > 1)
            .constant("TREE", lanes > 1 && !subgroups)
            .constant("WIDE", lanes > 16);
        k.constant("SUB", lanes > 1 && subgroups).constant("ALONE", alone);
        k.constant("WHO", lanes > 1 && subgroups && !alone);
        k.word("rows", self.count).word("items", self.items);
        k.word("n", self.n).word("block", self.block);
        k.groups(self.count.div_ceil(size / lanes));
        k
    }

    /// An operand of `[rows.., n]`: `NAME_row`, `NAME_get`, `NAME_set`, `NAME_pick`.
    pub fn operand(&self, k: &mut Kernel, name: &str, view: &View, access: Access) {
        let lead = view.shape().len() - 1;
        let (shape, strides) = (view.shape(), view.layout.strides());
        let space = Layout::new(&shape[..lead], &strides[..lead], view.layout.offset());
        let whole = self.four && begins_in_fours(view);
        k.over(name, view, access, &space, if whole { Width::Four } else { Width::One });
        k.bits(format!("{name}_step"), strides[lead] as i32 as u32);
        let mut glue = if whole {
            format!(
                "fn {name}_row(r: u32) -> u32 {{\n    return {name}_at(r) / 4u;\n}}\n\
                 fn {name}_get(row: u32, j: u32) -> T {{\n    return {name}_load4(row + j);\n}}\n\
                 fn {name}_pick(row: u32, i: u32) -> f32 {{\n    \
                 return {name}_load4(row + i / 4u)[i % 4u];\n}}\n"
            )
        } else {
            let get = match self.four {
                true => "T(_p(row, 4u * j), _p(row, 4u * j + 1u), _p(row, 4u * j + 2u), \
                         _p(row, 4u * j + 3u))"
                    .replace("_p", &format!("{name}_pick")),
                false => format!("{name}_pick(row, j)"),
            };
            format!(
                "fn {name}_row(r: u32) -> u32 {{\n    return {name}_at(r);\n}}\n\
                 fn {name}_pick(row: u32, i: u32) -> f32 {{\n    \
                 return {name}_load(row + i * ${name}_step);\n}}\n\
                 fn {name}_get(row: u32, j: u32) -> T {{\n    return {get};\n}}\n"
            )
        };
        if access.writes() {
            glue.push_str(&format!("fn {name}_set(row: u32, j: u32, v: T) {{\n"));
            glue.push_str(&match (whole, self.four) {
                (true, _) => format!("    {name}_store4(row + j, v, 4u);\n"),
                (_, true) => (0..4)
                    .map(|i| {
                        format!("    {name}_store(row + (4u * j + {i}u) * ${name}_step, v[{i}]);\n")
                    })
                    .collect(),
                _ => format!("    {name}_store(row + j * ${name}_step, v);\n"),
            });
            glue.push_str("}\n");
        }
        k.glue(&glue);
    }
}

pub fn softmax(v: &Softmax, scope: Scope<'_>, kernels: &mut Vec<Kernel>) {
    if v.x.is_empty() {
        return;
    }
    let s = Spread::of(scope, &v.x);
    let mut k = s.kernel(scope, SOFTMAX, 3);
    k.constant("LOG", v.log).bits("lowest", f32::NEG_INFINITY.to_bits());
    k.constant("KEEP", scope.software && !v.log && v.y.dtype == DType::F32);
    s.operand(&mut k, "x", &v.x, Access::Read);
    s.operand(&mut k, "y", &v.y, Access::Write);
    exponential(&mut k);
    if v.log {
        logarithm(&mut k);
    }
    kernels.push(k);
}

pub fn softmax_backward(v: &SoftmaxBackward, scope: Scope<'_>, kernels: &mut Vec<Kernel>) {
    if v.y.is_empty() {
        return;
    }
    let s = Spread::of(scope, &v.y);
    let mut k = s.kernel(scope, SOFTMAX_BACKWARD, 2);
    k.constant("LOG", v.log);
    s.operand(&mut k, "y", &v.y, Access::Read);
    s.operand(&mut k, "dy", &v.d_y, Access::Read);
    s.operand(&mut k, "dx", &v.d_x, Access::Write);
    if v.log {
        exponential(&mut k);
    }
    kernels.push(k);
}

/// The target that is ignored, as the targets' bits, where their type has it.
fn ignored(k: &mut Kernel, targets: &View, ignore_index: Option<i64>) {
    let bits = ignore_index.and_then(|i| match targets.dtype {
        DType::U32 => u32::try_from(i).ok(),
        _ => i32::try_from(i).ok().map(|i| i as u32),
    });
    k.word("ignores", usize::from(bits.is_some())).bits("ignored", bits.unwrap_or(0));
}

pub fn cross_entropy(v: &CrossEntropy, scope: Scope<'_>, kernels: &mut Vec<Kernel>) {
    let s = Spread::of(scope, &v.logits);
    if s.count == 0 {
        return;
    }
    let mut k = s.kernel(scope, CROSS_ENTROPY, 2);
    k.bits("lowest", f32::NEG_INFINITY.to_bits());
    s.operand(&mut k, "x", &v.logits, Access::Read);
    k.operand("targets", &v.targets, Access::Read);
    k.operand("losses", &v.losses, Access::Write).operand("lse", &v.lse, Access::Write);
    ignored(&mut k, &v.targets, v.ignore_index);
    exponential(&mut k);
    logarithm(&mut k);
    k.reports(scope.faults, 2);
    kernels.push(k);
}

pub fn cross_entropy_backward(
    v: &CrossEntropyBackward,
    scope: Scope<'_>,
    kernels: &mut Vec<Kernel>,
) {
    let s = Spread::of(scope, &v.logits);
    if s.count == 0 {
        return;
    }
    let mut k = s.kernel(scope, CROSS_ENTROPY_BACKWARD, 2);
    s.operand(&mut k, "x", &v.logits, Access::Read);
    k.operand("targets", &v.targets, Access::Read).operand("lse", &v.lse, Access::Read);
    k.operand("dlosses", &v.d_losses, Access::Read);
    s.operand(&mut k, "dx", &v.d_logits, Access::Write);
    ignored(&mut k, &v.targets, v.ignore_index);
    exponential(&mut k);
    k.reports(scope.faults, 3);
    kernels.push(k);
}
