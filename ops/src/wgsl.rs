//! Programs as WGSL text.
//!
//! [`print()`] gives one function for a program, [`prelude`] the helpers that printed functions
//! call. A helper for a transcendental function is [`crate::poly`]'s own definition, traced and
//! printed like any program: the built-in functions of GPUs differ from it by up to 1e-3, and WGSL
//! has no `erf`, `expm1` or `log1p` at all. The text is a function of the program alone.
//!
//! What WGSL leaves open remains open here: `/` and `sqrt` may be 2.5 units in the last place off,
//! subnormals may be flushed, and an implementation may assume that
//! infinities and NaNs do not occur. So NaN is recognised by its bits, non-finite constants are
//! made from theirs at run time (a constant expression that yields one is an error in WGSL), and
//! rows of special values are a capability of a backend and not a promise of the text.

use crate::math::Key;
use crate::program::{Builder, Node, NodeId, Op, Program};
use crate::trace::{Real, Trace};
use crate::{narrow, philox, poly};
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fmt::Write;

/// A function that printed text may call.
struct Helper {
    name: &'static str,
    body: Body,
}

enum Body {
    /// What WGSL lacks a built-in for, with the helpers that it calls.
    Text(&'static str, &'static [&'static str]),
    /// A definition over [`crate::Math`].
    Traced(fn(Trace<'_>) -> Real),
    /// `sl_fma`, by what the device's `fma` does.
    Fma,
}

const fn traced(name: &'static str, f: fn(Trace<'_>) -> Real) -> Helper {
    Helper { name, body: Body::Traced(f) }
}

/// An exclusive or with a zero that no compiler knows.
const HOLD: &str = "// x; no compiler rearranges sums across the bits.
fn sl_hold(x: f32) -> f32 {
    return bitcast<f32>(bitcast<u32>(x) ^ sl_zero());
}
";

/// An angle beyond 2^17, whose reduction is long, is rare.
const SIN: &str = "fn sl_sin(x: f32) -> f32 {
    if (abs(x) <= 131072.0f) {
        return sl_sin_near(x);
    }
    return sl_sin_far(x);
}
";

const COS: &str = "fn sl_cos(x: f32) -> f32 {
    if (abs(x) <= 131072.0f) {
        return sl_cos_near(x);
    }
    return sl_cos_far(x);
}
";

/// Where the built-in function rounds once, it serves.
const FMA_BUILT_IN: &str = "// a * b + c, rounded once.
fn sl_fma(a: f32, b: f32, c: f32) -> f32 {
    return sl_hold(fma(a, b, c));
}
";

/// Elsewhere the product's and the sum's rounding errors are found (Dekker 1971, Knuth's two-sum)
/// and added last: within one unit in the last place of the single rounding, and exact where the
/// sum cancels.
const FMA_BY_PARTS: &str = "// a * b + c with the rounding errors of the product and the sum.
fn sl_fma(a: f32, b: f32, c: f32) -> f32 {
    let ah = bitcast<f32>(bitcast<u32>(a) & 0xfffff000u);
    let bh = bitcast<f32>(bitcast<u32>(b) & 0xfffff000u);
    let al = a - ah;
    let bl = b - bh;
    let p = sl_hold(a * b);
    let e = sl_hold(sl_hold(sl_hold(ah * bh) - p) + sl_hold(ah * bl)) + al * bh;
    let s = sl_hold(p + c);
    let t = sl_hold(s - p);
    let d = sl_hold(p - sl_hold(s - t)) + sl_hold(c - t);
    let sum = s + (d + (e + al * bl));
    // An infinite product has no error.
    return select(s, sum, (bitcast<u32>(sum) & 0x7fffffffu) <= 0x7f800000u);
}
";

/// Every helper, in the order in which a prelude lists them.
static HELPERS: &[Helper] = &[
    Helper {
        name: "sl_word",
        body: Body::Text(
            "// A word that the compiler does not take for a constant.
fn sl_word(word: u32) -> u32 {
    var hidden = word;
    return hidden;
}
",
            &[],
        ),
    },
    Helper {
        name: "sl_is_nan",
        body: Body::Text(
            "// By the bits: a compiler may take x != x to be false.
fn sl_is_nan(x: f32) -> bool {
    return (bitcast<u32>(x) & 0x7fffffffu) > 0x7f800000u;
}
",
            &[],
        ),
    },
    Helper {
        name: "sl_min",
        body: Body::Text(
            "// NaN when either is NaN, unlike min(); the first of two equal arguments.
fn sl_min(a: f32, b: f32) -> f32 {
    return select(b, a, sl_is_nan(a) | ((a <= b) & !sl_is_nan(b)));
}
",
            &["sl_is_nan"],
        ),
    },
    Helper {
        name: "sl_max",
        body: Body::Text(
            "// NaN when either is NaN, unlike max(); the first of two equal arguments.
fn sl_max(a: f32, b: f32) -> f32 {
    return select(b, a, sl_is_nan(a) | ((a >= b) & !sl_is_nan(b)));
}
",
            &["sl_is_nan"],
        ),
    },
    Helper {
        name: "sl_umulhi",
        body: Body::Text(
            "// The high word of a * b, from 16-bit halves.
fn sl_umulhi(a: u32, b: u32) -> u32 {
    let al = a & 0xffffu;
    let ah = a >> 16u;
    let bl = b & 0xffffu;
    let bh = b >> 16u;
    let middle = ah * bl + ((al * bl) >> 16u);
    let carry = ((middle & 0xffffu) + al * bh) >> 16u;
    return ah * bh + (middle >> 16u) + carry;
}
",
            &[],
        ),
    },
    Helper { name: "sl_hold", body: Body::Text(HOLD, &[]) },
    Helper { name: "sl_fma", body: Body::Fma },
    traced("sl_round_f16", |t| narrow::round_f16(t, t.input(0))),
    traced("sl_round_bf16", |t| narrow::round_bf16(t, t.input(0))),
    traced("sl_rsqrt", |t| poly::rsqrt(t, t.input(0))),
    traced("sl_exp", |t| poly::exp(t, t.input(0))),
    traced("sl_expm1", |t| poly::expm1(t, t.input(0))),
    traced("sl_log", |t| poly::log(t, t.input(0))),
    traced("sl_log1p", |t| poly::log1p(t, t.input(0))),
    traced("sl_sin_near", |t| poly::sin_near(t, t.input(0))),
    traced("sl_sin_far", |t| poly::sin_far(t, t.input(0))),
    Helper { name: "sl_sin", body: Body::Text(SIN, &["sl_sin_near", "sl_sin_far"]) },
    traced("sl_cos_near", |t| poly::cos_near(t, t.input(0))),
    traced("sl_cos_far", |t| poly::cos_far(t, t.input(0))),
    Helper { name: "sl_cos", body: Body::Text(COS, &["sl_cos_near", "sl_cos_far"]) },
    traced("sl_tanh", |t| poly::tanh(t, t.input(0))),
    traced("sl_erf", |t| poly::erf(t, t.input(0))),
    traced("sl_sigmoid", |t| poly::sigmoid(t, t.input(0))),
    traced("sl_softplus", |t| poly::softplus(t, t.input(0))),
    traced("sl_pow", |t| poly::pow(t, t.input(0), t.input(1))),
    // Arguments: index, seed_lo, seed_hi, instance, step, node.
    traced("sl_uniform", |t| {
        let w = |i| t.param_word(i);
        let key = Key { seed_lo: w(1), seed_hi: w(2), instance: w(3), step: w(4), node: w(5) };
        philox::uniform(t, w(0), key)
    }),
];

/// The helper that stands for the operation of `node`.
fn function_of(node: &Node) -> Option<&'static str> {
    Some(match node.op {
        Op::Eq if node.args()[0] == node.args()[1] => "sl_is_nan",
        Op::Min => "sl_min",
        Op::Max => "sl_max",
        Op::UMulHi => "sl_umulhi",
        Op::Fma => "sl_fma",
        Op::Hold => "sl_hold",
        Op::RoundF16 => "sl_round_f16",
        Op::RoundBf16 => "sl_round_bf16",
        Op::Rsqrt => "sl_rsqrt",
        Op::Exp => "sl_exp",
        Op::Expm1 => "sl_expm1",
        Op::Log => "sl_log",
        Op::Log1p => "sl_log1p",
        Op::Sin => "sl_sin",
        Op::Cos => "sl_cos",
        Op::Tanh => "sl_tanh",
        Op::Erf => "sl_erf",
        Op::Sigmoid => "sl_sigmoid",
        Op::Softplus => "sl_softplus",
        Op::Pow => "sl_pow",
        Op::Uniform => "sl_uniform",
        _ => return None,
    })
}

/// True when every argument is an integer literal: WGSL would evaluate the expression itself, and
/// calls a wrap-around or the bits of an infinity an error.
fn only_literal_words(program: &Program, node: &Node) -> bool {
    let literal = |&a: &NodeId| matches!(program.nodes()[usize::from(a)].op, Op::ConstWord(_));
    node.op.arity() > 0 && node.args().iter().all(literal)
}

/// True when `node` is printed with a word that must not be a constant expression.
fn hides_word(program: &Program, node: &Node) -> bool {
    matches!(node.op, Op::Const(bits) if literal(bits).is_err())
        || only_literal_words(program, node)
}

/// True for `x - x` and `x * 0`: NaN for infinities and NaN, where a compiler would say 0.
fn yields_nan(program: &Program, node: &Node) -> bool {
    let zero = |&a: &NodeId| match program.nodes()[usize::from(a)].op {
        Op::Const(bits) => f64::from_bits(bits) == 0.0,
        _ => false,
    };
    match node.op {
        Op::Sub => node.args()[0] == node.args()[1],
        Op::Mul => node.args().iter().any(zero),
        _ => false,
    }
}

/// The program of a traced helper.
fn traced_program(f: fn(Trace<'_>) -> Real) -> Program {
    let builder = RefCell::new(Builder::new());
    let out = f(Trace(&builder)).0;
    builder.into_inner().finish(&[out])
}

fn collect(program: &Program, needed: &mut BTreeSet<&'static str>) {
    for node in program.nodes() {
        if let Some(name) = function_of(node) {
            need(name, needed);
        }
        if hides_word(program, node) {
            need("sl_word", needed);
        }
        if yields_nan(program, node) {
            need("sl_hold", needed);
        }
    }
}

fn need(name: &'static str, needed: &mut BTreeSet<&'static str>) {
    if !needed.insert(name) {
        return;
    }
    match HELPERS.iter().find(|h| h.name == name).map(|h| &h.body) {
        Some(Body::Text(_, uses)) => uses.iter().for_each(|u| need(u, needed)),
        Some(Body::Traced(f)) => collect(&traced_program(*f), needed),
        Some(Body::Fma) => need("sl_hold", needed),
        None => unreachable!("{name} is listed in HELPERS"),
    }
}

/// What a device's `fma` does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fma {
    /// It rounds once.
    Fused,
    /// It multiplies, rounds, adds and rounds: WGSL allows both.
    Separate,
}

/// The helper functions that the printed `programs` call, each once. The module must also define
/// `fn sl_zero() -> u32`, a zero that the compiler cannot know.
pub fn prelude<'a>(programs: impl IntoIterator<Item = &'a Program>, fma: Fma) -> String {
    let mut needed = BTreeSet::new();
    programs.into_iter().for_each(|p| collect(p, &mut needed));
    let mut text = String::new();
    for helper in HELPERS.iter().filter(|h| needed.contains(h.name)) {
        match helper.body {
            Body::Text(body, _) => text.push_str(body),
            Body::Traced(f) => text.push_str(&function(&traced_program(f), helper.name, false)),
            Body::Fma if fma == Fma::Fused => text.push_str(FMA_BUILT_IN),
            Body::Fma => text.push_str(FMA_BY_PARTS),
        }
        text.push('\n');
    }
    text
}

/// `program` as a function called `name`.
///
/// Its arguments are `x0, x1, ..: f32`, the element of each input ([`Program::input_count`] of
/// them); `p0, p1, ..: u32`, the parameters as words ([`Program::param_count`]); `c0, c1, ..:
/// f32`, the immediates ([`Program::immediate_count`]); and `index: u32`. It returns an `f32`, or
/// `array<f32, n>` when there are `n > 1` outputs. The module must also hold the [`prelude`] of the
/// program, whose names start with `sl_`.
pub fn print(program: &Program, name: &str) -> String {
    function(program, name, true)
}

fn function(program: &Program, name: &str, index: bool) -> String {
    let inputs = (0..program.input_count()).map(|i| format!("x{i}: f32"));
    let params = (0..program.param_count()).map(|i| format!("p{i}: u32"));
    let index = index.then(|| "index: u32".to_string());
    let immediates = (0..program.immediate_count()).map(|i| format!("c{i}: f32"));
    let arguments: Vec<String> = inputs.chain(params).chain(immediates).chain(index).collect();
    let result = match program.outputs().len() {
        1 => "f32".to_string(),
        n => format!("array<f32, {n}>"),
    };
    let mut text = format!("fn {name}({}) -> {result} {{\n", arguments.join(", "));
    let mut names: Vec<String> = Vec::with_capacity(program.nodes().len());
    for (i, node) in program.nodes().iter().enumerate() {
        let value = expression(program, node, &names);
        if node.op.arity() == 0 {
            names.push(value);
        } else {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "    let v{i} = {value};");
            names.push(format!("v{i}"));
        }
    }
    let outputs: Vec<&str> =
        program.outputs().iter().map(|&o| names[usize::from(o)].as_str()).collect();
    let _ = match outputs[..] {
        [one] => writeln!(text, "    return {one};\n}}"),
        _ => writeln!(text, "    return {result}({});\n}}", outputs.join(", ")),
    };
    text
}

/// The shortest decimal that reads back as the f32 nearest to the f64 with these bits; its own bits
/// when WGSL cannot write it: infinities, NaN, and -0, whose sign a compiler may drop.
fn literal(bits: u64) -> Result<String, u32> {
    let x = f64::from_bits(bits) as f32;
    let writable = x.is_finite() && x.to_bits() != (-0.0_f32).to_bits();
    if writable { Ok(format!("{x:?}f")) } else { Err(x.to_bits()) }
}

/// The value of `node`; `names` holds the text of every earlier node.
fn expression(program: &Program, node: &Node, names: &[String]) -> String {
    let mut args: Vec<String> =
        node.args().iter().map(|&a| names[usize::from(a)].clone()).collect();
    if only_literal_words(program, node) {
        args[0] = format!("sl_word({})", args[0]);
    }
    let a = |i: usize| args[i].as_str();
    let infix = |operator: &str| format!("{} {operator} {}", a(0), a(1));
    let call = |function: &str| format!("{function}({})", args.join(", "));
    if let Some(name) = function_of(node) {
        return match node.op {
            Op::Eq => format!("!{name}({})", a(0)),
            _ => call(name),
        };
    }
    match node.op {
        Op::Input(i) => format!("x{i}"),
        Op::Param(i) => format!("bitcast<f32>(p{i})"),
        Op::ParamWord(i) => format!("p{i}"),
        Op::Imm(i) => format!("c{i}"),
        Op::Const(bits) => {
            literal(bits).unwrap_or_else(|word| format!("bitcast<f32>(sl_word(0x{word:08x}u))"))
        }
        Op::ConstWord(word) => format!("0x{word:x}u"),
        Op::Index => "index".to_string(),
        Op::Add | Op::UAdd => infix("+"),
        Op::Sub if yields_nan(program, node) => format!("sl_hold({}) - {}", a(0), a(1)),
        Op::Mul if yields_nan(program, node) => format!("sl_hold({}) * sl_hold({})", a(0), a(1)),
        Op::Sub | Op::USub => infix("-"),
        Op::Mul | Op::UMul => infix("*"),
        Op::Div => infix("/"),
        Op::Neg => format!("-{}", a(0)),
        Op::Lt => infix("<"),
        Op::Le => infix("<="),
        Op::Eq | Op::UEq => infix("=="),
        // On truth values too: && and || would branch.
        Op::And | Op::UAnd => infix("&"),
        Op::Or | Op::UOr => infix("|"),
        Op::Not => format!("!{}", a(0)),
        Op::UXor => infix("^"),
        Op::UShl(n) => format!("{} << {n}u", a(0)),
        Op::UShr(n) => format!("{} >> {n}u", a(0)),
        // select(where false, where true, condition)
        Op::Select | Op::USelect => format!("select({}, {}, {})", a(2), a(1), a(0)),
        // It may round once or twice, as MulAdd may.
        Op::MulAdd => call("fma"),
        Op::Abs => call("abs"),
        Op::Floor => call("floor"),
        // Halves to even, as in Math.
        Op::Round => call("round"),
        Op::Sqrt => call("sqrt"),
        Op::ToReal => call("f32"),
        Op::ToUint => call("u32"),
        Op::Bits => call("bitcast<u32>"),
        Op::FromBits => call("bitcast<f32>"),
        op => unreachable!("{op:?} has a helper"),
    }
}
