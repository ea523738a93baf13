//! How kernels read the two matrices of a product.

use crate::kernel::Kernel;
use crate::operand::{Access, Width};
use starling_contract::{DType, Layout, View};

/// The axis along which four elements lie together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lies {
    /// Along k.
    AlongK,
    /// Along the rows of a or the columns of b.
    Across,
}

/// One of the two matrices.
#[derive(Clone, Debug)]
pub struct Side {
    view: View,
    batch: Layout,
    pub lies: Lies,
    /// Four elements are read at once.
    pub fours: bool,
    /// The stride from line to line, and within a line.
    step: isize,
    inner: isize,
}

/// The layout of the batch axes.
pub fn batch(view: &View) -> Layout {
    let lead = view.layout.rank() - 2;
    let (shape, strides) = (&view.shape()[..lead], &view.layout.strides()[..lead]);
    Layout::new(shape, strides, view.layout.offset())
}

/// True when fours that begin at each batch item and at each line are fours of the storage.
pub fn in_fours(batch: &Layout, step: isize, lines: usize) -> bool {
    let axes = batch.shape().iter().zip(batch.strides());
    batch.offset().is_multiple_of(4)
        && axes.filter(|a| *a.0 > 1).all(|a| a.1 % 4 == 0)
        && (lines <= 1 || step % 4 == 0)
}

impl Side {
    /// A matrix whose axis of k is the last one or the one before. What cannot be read in fours is
    /// read one by one, `else_lies`.
    pub fn new(view: &View, k_is_last: bool, else_lies: Lies) -> Self {
        let last = view.layout.rank() - 1;
        let (at_k, at_x) = if k_is_last { (last, last - 1) } else { (last - 1, last) };
        let (k, lines) = (view.shape()[at_k], view.shape()[at_x]);
        let (along_k, across) = (view.layout.strides()[at_k], view.layout.strides()[at_x]);
        let batch = batch(view);
        let whole = k % 4 == 0;
        let beside_k = whole && along_k == 1 && in_fours(&batch, across, lines);
        let beside_x = whole && lines > 1 && across == 1 && in_fours(&batch, along_k, k);
        let lies = match (beside_k, beside_x) {
            (true, _) => Lies::AlongK,
            (_, true) => Lies::Across,
            _ => else_lies,
        };
        let (step, inner) =
            if lies == Lies::AlongK { (across, along_k) } else { (along_k, across) };
        Self { view: view.clone(), batch, lies, fours: beside_k || beside_x, step, inner }
    }

    pub fn dtype(&self) -> DType {
        self.view.dtype
    }

    /// Adds the operand `name`, and `name_four(base, line, q)`: four elements from the `4 q`th of a
    /// line. One by one, elements beyond k are 0 and those beyond the edge repeat the last.
    pub fn reads(&self, kernel: &mut Kernel, name: &'static str, [step, inner]: [&'static str; 2]) {
        let width = if self.fours { Width::Four } else { Width::One };
        kernel.over(name, &self.view, Access::Read, &self.batch, width);
        let bits = |stride: isize| stride as i32 as u32;
        let head = format!("fn {name}_four(base: u32, line: u32, q: u32) -> Quad {{\n");
        if self.fours {
            kernel.bits(step, bits(self.step / 4));
            // Packed bytes are read as they are.
            let load = if self.view.dtype == DType::U32 { "quad" } else { "load4" };
            let body =
                format!("    return {name}_{load}((base >> 2u) + line * ${step} + q);\n}}\n");
            kernel.glue(&(head + &body));
            return;
        }
        kernel.bits(step, bits(self.step)).bits(inner, bits(self.inner));
        let one = |at: String| format!("{name}_load(at + {at} * ${inner})");
        let body = match self.lies {
            Lies::AlongK => {
                let lanes: Vec<String> = (0..4)
                    .map(|i| {
                        let load = one(format!("min(4u * q + {i}u, $k - 1u)"));
                        format!("        select(0.0, {load}, 4u * q + {i}u < $k),\n")
                    })
                    .collect();
                format!(
                    "    let at = base + line * ${step};\n    return vec4<f32>(\n{}    );\n}}\n",
                    lanes.concat()
                )
            }
            Lies::Across => {
                let lanes: Vec<String> =
                    (0..4).map(|i| one(format!("min(4u * q + {i}u, $n - 1u)"))).collect();
                format!(
                    "    let at = base + min(line, $k - 1u) * ${step};\n    \
                     let all = vec4<f32>({});\n    \
                     return select(vec4<f32>(), all, line < $k);\n}}\n",
                    lanes.join(", ")
                )
            }
        };
        kernel.glue(&(head + &body));
    }
}
