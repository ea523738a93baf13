//! What happens to the sums of a product before they are stored.

use super::Sizes;
use super::sides::{batch, in_fours};
use crate::kernel::Kernel;
use crate::operand::{Access, Width};
use crate::plan::map::{parameter_arguments, parameters};
use starling_contract::{DType, Gemm, View};
use std::fmt::Write;

/// How four neighbours in a row of the result are reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Class {
    /// Together.
    Four,
    /// They are one element.
    Same,
    /// One by one.
    One,
}

/// An operand of the result's shape.
struct Plane {
    name: String,
    class: Class,
    strides: [String; 2],
}

impl Plane {
    /// Adds operand number `at` of those that have the result's shape.
    fn add(
        k: &mut Kernel,
        (name, at): (String, usize),
        view: &View,
        access: Access,
        s: &Sizes,
    ) -> Self {
        let rank = view.layout.rank();
        let (outer, inner) = (view.layout.strides()[rank - 2], view.layout.strides()[rank - 1]);
        let (row, column) = if s.swapped { (inner, outer) } else { (outer, inner) };
        let batch = batch(view);
        let whole = view.dtype != DType::I32 && s.n.is_multiple_of(4);
        let class = if column == 1 && whole && in_fours(&batch, row, s.m) {
            Class::Four
        } else if column == 0 && access == Access::Read {
            Class::Same
        } else {
            Class::One
        };
        let width = if class == Class::Four { Width::Four } else { Width::One };
        k.over(name.clone(), view, access, &batch, width);
        let strides = [format!("s{at}_row"), format!("s{at}_column")];
        let bits = |stride: isize| stride as i32 as u32;
        k.bits(strides[0].clone(), bits(if class == Class::Four { row / 4 } else { row }));
        k.bits(strides[1].clone(), bits(column));
        Self { name, class, strides }
    }

    /// The four elements.
    fn load(&self) -> String {
        let (x, [row, column]) = (&self.name, &self.strides);
        match self.class {
            Class::Four => format!("{x}_load4(({x}_at(z) >> 2u) + row * ${row} + q)"),
            Class::Same => format!("vec4<f32>({x}_load({x}_at(z) + row * ${row}))"),
            Class::One => {
                let one = |i| {
                    let at = format!("min(4u * q + {i}u, $n - 1u) * ${column}");
                    format!("{x}_load({x}_at(z) + row * ${row} + {at})")
                };
                format!("vec4<f32>({}, {}, {}, {})", one(0), one(1), one(2), one(3))
            }
        }
    }

    /// Stores `v`, of which the part within the row counts.
    fn store(&self, v: &str) -> String {
        let (x, [row, column]) = (&self.name, &self.strides);
        if self.class == Class::Four {
            return format!("    {x}_store4(({x}_at(z) >> 2u) + row * ${row} + q, {v}, 4u);\n");
        }
        let mut text = format!("    let {x}_row = {x}_at(z) + row * ${row};\n");
        for i in 0..4 {
            let store = format!("{x}_store({x}_row + (4u * q + {i}u) * ${column}, {v}[{i}]);");
            // The first of four is always there.
            let _ = match i {
                0 => writeln!(text, "    {store}"),
                _ => writeln!(text, "    if 4u * q + {i}u < $n {{\n        {store}\n    }}"),
            };
        }
        text
    }
}

/// Stores whole numbers, one by one; with the old ones where `beta` is 1.
fn integers(c: &Plane, beta: bool) -> String {
    let [row, column] = &c.strides;
    let mut text = format!("    let at = c_at(z) + row * ${row};\n");
    for i in 0..4 {
        let place = format!("at + (4u * q + {i}u) * ${column}");
        let old = if beta { format!(" + c_int({place})") } else { String::new() };
        let put = format!("c_put({place}, bitcast<u32>(sum[{i}]{old}))");
        let _ = writeln!(text, "    if 4u * q + {i}u < $n {{\n        {put};\n    }}");
    }
    text + "}\n"
}

/// Adds `emit(job, z, row, q, sum)`, which scales the sums of elements `4 q ..` of a row of batch
/// item `z`, adds the old c, runs the epilogue and stores. Answers whether it is long.
pub fn finish(k: &mut Kernel, v: &Gemm, s: &Sizes) -> bool {
    let beta = v.beta != 0.0;
    let access = if beta { Access::ReadWrite } else { Access::Write };
    let c = Plane::add(k, ("c".into(), 0), &v.c, access, s);
    k.bits("alpha", v.alpha.to_bits()).bits("beta", v.beta.to_bits());
    let mut classes = (u32::from(beta) + 2 * u32::from(s.swapped)) * 3 + c.class as u32;
    let sums = if s.bytes { "i32" } else { "f32" };
    let mut text = format!("fn emit(job: u32, z: u32, row: u32, q: u32, sum: vec4<{sums}>) {{\n");
    if v.c.dtype == DType::I32 {
        text.push_str(&integers(&c, beta));
        k.constant("FINISH", classes).glue(&text);
        return true;
    }
    text.push_str("    var v = bitcast<f32>($alpha) * vec4<f32>(sum);\n");
    if beta {
        let _ = writeln!(text, "    v += bitcast<f32>($beta) * {};", c.load());
    }
    let Some(e) = &v.epilogue else {
        text.push_str(&c.store("v"));
        text.push_str("}\n");
        k.constant("FINISH", classes).glue(&text);
        return beta || c.class != Class::Four || v.c.dtype != DType::F32;
    };
    let inputs = e.program.input_count().saturating_sub(1);
    let mut names = vec![String::from("v")];
    names.truncate(e.program.input_count());
    for (i, x) in e.inputs.iter().take(inputs).enumerate() {
        let x = Plane::add(k, (format!("e{}", i + 1), i + 1), x, Access::Read, s);
        let _ = writeln!(text, "    let x{} = {};", i + 1, x.load());
        names.push(format!("x{}", i + 1));
        classes = classes * 3 + x.class as u32;
    }
    parameters(k, &e.program, &e.params, &e.immediates);
    k.program("program", &e.program);
    let index = match s.swapped {
        false => "(z * $m + row) * $n + 4u * q + LANEu",
        true => "(z * $n + 4u * q + LANEu) * $m + row",
    };
    for lane in 0..4 {
        let values: String = names.iter().map(|x| format!("{x}[{lane}], ")).collect();
        let index = index.replace("LANE", &lane.to_string());
        let arguments = parameter_arguments(&e.program);
        let _ = writeln!(text, "    let r{lane} = program({values}{arguments}{index});");
    }
    let count = 1 + e.outputs.len();
    for (o, y) in std::iter::once(&v.c).chain(&e.outputs).enumerate() {
        let part = if count == 1 { String::new() } else { format!("[{o}]") };
        let lanes: Vec<String> = (0..4).map(|i| format!("r{i}{part}")).collect();
        let _ = writeln!(text, "    let y{o} = vec4<f32>({});", lanes.join(", "));
        if o == 0 {
            text.push_str(&c.store("y0"));
            continue;
        }
        let y = Plane::add(k, (format!("o{o}"), inputs + o), y, Access::Write, s);
        text.push_str(&y.store(&format!("y{o}")));
        classes = classes * 3 + y.class as u32;
    }
    text.push_str("}\n");
    k.constant("FINISH", classes).glue(&text);
    true
}
