//! The verbs: what a stream can be asked to do, as data.
//!
//! Shapes are written `[batch.., m, k]`. Inputs may have any strides, 0 and negative ones included;
//! outputs must not overlap themselves. Unless a verb says otherwise an output must not overlap an
//! input.

mod attention;
mod check;
mod checked;

pub use checked::{Checked, CheckedRef, Kind};

pub use attention::{
    Attention, AttentionBackward, BlockMask, Lengths, Score, Sequence, Sight, WeightDropout,
};

use crate::layout::View;
use smallvec::SmallVec;
use starling_ops::program::Immediates;
use starling_ops::{DType, Program};
use std::sync::Arc;

/// Elementwise work: every output element is the program's value for its input elements.
#[derive(Clone, Debug)]
pub struct Map {
    /// Output `i` of the program goes to `outputs[i]`.
    pub program: Arc<Program>,
    /// One-element views (f32 or u32), read when the verb runs: parameter `i` of the program.
    pub params: Vec<View>,
    /// The program's immediates: numbers that users passed.
    pub immediates: Immediates,
    /// Each of the outputs' shape (repeat with stride 0); f32, f16, bf16 or u8.
    pub inputs: Vec<View>,
    /// All of one shape. An output may be the very same view as an input. A u8 output is 1 where
    /// the value is not 0.
    pub outputs: Vec<View>,
}

/// How elements are combined.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ReduceKind {
    /// The sum; 0 of nothing.
    Sum,
    /// The sum over the count; NaN of nothing.
    Mean,
    /// The largest; NaN when one is NaN; -inf of nothing.
    Max,
    /// The smallest; NaN when one is NaN; inf of nothing.
    Min,
    /// The row-major position, within the reduced axes, of the first largest (the first NaN when
    /// there is one). The output is i32. Nothing is an error.
    ArgMax,
    /// The position of the first smallest.
    ArgMin,
    /// The sum of squared distances from the mean over `count - correction`.
    Var {
        /// 1 for the unbiased estimate.
        correction: u32,
    },
}

/// `output = kind over axes of program(inputs)`.
#[derive(Clone, Debug)]
pub struct Reduce {
    /// How elements are combined.
    pub kind: ReduceKind,
    /// One output: the value that is reduced.
    pub program: Arc<Program>,
    /// As in [`Map::params`].
    pub params: Vec<View>,
    /// As in [`Map::immediates`].
    pub immediates: Immediates,
    /// All of the iteration space's shape.
    pub inputs: Vec<View>,
    /// Bit `i` is set when axis `i` is reduced.
    pub axes: u32,
    /// The iteration space's shape with reduced axes of extent 1; f32, or i32 for positions.
    pub output: View,
    /// Working memory of [`crate::Backend::workspace_bytes`].
    pub workspace: Option<View>,
}

/// What is applied to a product's tile while it is still in the cache.
#[derive(Clone, Debug)]
pub struct Epilogue {
    /// Input 0 is `alpha * a b + beta * c`; inputs 1.. are `inputs`. Output 0 goes to the
    /// product's `c`, outputs 1.. to `outputs`.
    pub program: Arc<Program>,
    /// As in [`Map::params`].
    pub params: Vec<View>,
    /// As in [`Map::immediates`].
    pub immediates: Immediates,
    /// Each of `c`'s shape (repeat with stride 0).
    pub inputs: Vec<View>,
    /// Each of `c`'s shape.
    pub outputs: Vec<View>,
}

/// `c = epilogue(alpha * a b + beta * c)`, batched; `c` is not read when `beta` is 0.
#[derive(Clone, Debug)]
pub struct Gemm {
    /// `[batch.., m, k]`; a repeated batch axis has stride 0.
    pub a: View,
    /// `[batch.., k, n]`
    pub b: View,
    /// `[batch.., m, n]`
    pub c: View,
    /// Factor of the product.
    pub alpha: f32,
    /// Factor of the old `c`.
    pub beta: f32,
    /// Applied last.
    pub epilogue: Option<Epilogue>,
    /// Working memory of [`crate::Backend::workspace_bytes`].
    pub workspace: Option<View>,
}

/// `y = softmax(x)` or its logarithm, over the last axis.
#[derive(Clone, Debug)]
pub struct Softmax {
    /// `[rows.., n]`
    pub x: View,
    /// Of `x`'s shape; may be the same view.
    pub y: View,
    /// The logarithm is wanted.
    pub log: bool,
}

/// `dx = y * (dy - sum(dy * y))`, or `dx = dy - exp(y) * sum(dy)` for the logarithm.
#[derive(Clone, Debug)]
pub struct SoftmaxBackward {
    /// The forward result.
    pub y: View,
    /// The upstream gradient.
    pub d_y: View,
    /// The gradient; may be the same view as `d_y`.
    pub d_x: View,
    /// As in the forward.
    pub log: bool,
}

/// Which normalisation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NormKind {
    /// `(x - mean) / sqrt(var + eps)` (Ba, Kiros, Hinton 2016).
    Layer,
    /// `x / sqrt(mean(x^2) + eps)` (Zhang, Sennrich 2019).
    Rms,
}

/// `y = normalise(x) * weight + bias` over the last axis.
#[derive(Clone, Debug)]
pub struct Norm {
    /// Which one.
    pub kind: NormKind,
    /// `[rows.., n]`
    pub x: View,
    /// `[n]`
    pub weight: Option<View>,
    /// `[n]`
    pub bias: Option<View>,
    /// Added to the variance.
    pub eps: f32,
    /// Of `x`'s shape.
    pub y: View,
    /// `[rows..]`, for [`NormKind::Layer`] only.
    pub mean: Option<View>,
    /// `[rows..]`: the reciprocal standard deviation.
    pub rstd: View,
}

/// Gradients of [`Norm`].
#[derive(Clone, Debug)]
pub struct NormBackward {
    /// Which one.
    pub kind: NormKind,
    /// `[rows.., n]`
    pub x: View,
    /// `[n]`
    pub weight: Option<View>,
    /// As the forward wrote it.
    pub mean: Option<View>,
    /// As the forward wrote it.
    pub rstd: View,
    /// Of `x`'s shape.
    pub d_y: View,
    /// Of `x`'s shape; may be the same view as `d_y`.
    pub d_x: View,
    /// `[n]`
    pub d_weight: Option<View>,
    /// `[n]`
    pub d_bias: Option<View>,
    /// Working memory of [`crate::Backend::workspace_bytes`].
    pub workspace: Option<View>,
}

/// `losses[i] = lse[i] - logits[i, targets[i]]`, 0 where the target is ignored.
#[derive(Clone, Debug)]
pub struct CrossEntropy {
    /// `[rows, classes]`
    pub logits: View,
    /// `[rows]`, i32 or u32.
    pub targets: View,
    /// Rows with this target count nothing.
    pub ignore_index: Option<i64>,
    /// `[rows]`
    pub losses: View,
    /// `[rows]`: log-sum-exp.
    pub lse: View,
}

/// `d_logits[i, j] = d_losses[i] * (exp(logits[i, j] - lse[i]) - (j == targets[i]))`, 0 where the
/// target is ignored.
#[derive(Clone, Debug)]
pub struct CrossEntropyBackward {
    /// `[rows, classes]`
    pub logits: View,
    /// `[rows]`
    pub targets: View,
    /// As in the forward.
    pub ignore_index: Option<i64>,
    /// As the forward wrote it.
    pub lse: View,
    /// `[rows]` (stride 0 repeats).
    pub d_losses: View,
    /// `[rows, classes]`; may be the same view as `logits`.
    pub d_logits: View,
}

/// `out[.., i, ..] = x[.., index[.., i, ..], ..]` along `axis`: rows of an embedding when `index`
/// repeats along the others.
#[derive(Clone, Debug)]
pub struct Gather {
    /// Any shape.
    pub x: View,
    /// Of `out`'s shape (repeat with stride 0), i32 or u32.
    pub index: View,
    /// The axis along which is picked.
    pub axis: usize,
    /// Of `x`'s shape but for `axis`, and of its dtype.
    pub out: View,
}

/// `out[.., index[.., i, ..], ..] += x[.., i, ..]` along `axis`, always added in the order of `i`.
#[derive(Clone, Debug)]
pub struct ScatterAdd {
    /// Any shape; f32.
    pub x: View,
    /// Of `x`'s shape (repeat with stride 0), i32 or u32.
    pub index: View,
    /// The axis along which is scattered.
    pub axis: usize,
    /// Of `x`'s shape but for `axis`; f32; read and written.
    pub out: View,
    /// Working memory of [`crate::Backend::workspace_bytes`].
    pub workspace: Option<View>,
}

/// `dst = src`, element by element, converted as Rust's `as` does: float to integer truncates and
/// saturates, NaN becomes 0; integers wrap; to f16 and bf16 rounds to nearest even, and an integer
/// may pass through f32 on its way there.
#[derive(Clone, Debug)]
pub struct Copy {
    /// Any layout.
    pub src: View,
    /// Of `src`'s shape.
    pub dst: View,
}

/// `dst = value` in every element, converted as by [`struct@Copy`].
#[derive(Clone, Debug)]
pub struct Fill {
    /// Any layout that does not overlap itself.
    pub dst: View,
    /// The value.
    pub value: f64,
}

/// A request to a stream.
#[derive(Clone, Debug)]
#[allow(missing_docs, reason = "each variant is documented at its struct")]
pub enum Verb {
    Map(Map),
    Reduce(Reduce),
    Gemm(Gemm),
    Attention(Box<Attention>),
    AttentionBackward(Box<AttentionBackward>),
    Softmax(Softmax),
    SoftmaxBackward(SoftmaxBackward),
    Norm(Norm),
    NormBackward(Box<NormBackward>),
    CrossEntropy(CrossEntropy),
    CrossEntropyBackward(CrossEntropyBackward),
    Gather(Gather),
    ScatterAdd(ScatterAdd),
    Copy(Copy),
    Fill(Fill),
}

macro_rules! from_structs {
    ($($name:ident)*) => {
        $(impl From<$name> for Verb {
            fn from(verb: $name) -> Self {
                Verb::$name(verb.into())
            }
        })*
    };
}

from_structs! {
    Map Reduce Gemm Attention AttentionBackward Softmax SoftmaxBackward Norm NormBackward
    CrossEntropy CrossEntropyBackward Gather ScatterAdd Copy Fill
}

/// Operands of a verb: a list that needs no allocation while it is as short as most are.
pub type Views<'a> = SmallVec<[&'a View; 8]>;

impl Verb {
    /// The verb's name in messages and reports.
    pub fn name(&self) -> &'static str {
        match self {
            Verb::Map(_) => "map",
            Verb::Reduce(_) => "reduce",
            Verb::Gemm(_) => "gemm",
            Verb::Attention(_) => "attention",
            Verb::AttentionBackward(_) => "attention_backward",
            Verb::Softmax(_) => "softmax",
            Verb::SoftmaxBackward(_) => "softmax_backward",
            Verb::Norm(_) => "norm",
            Verb::NormBackward(_) => "norm_backward",
            Verb::CrossEntropy(_) => "cross_entropy",
            Verb::CrossEntropyBackward(_) => "cross_entropy_backward",
            Verb::Gather(_) => "gather",
            Verb::ScatterAdd(_) => "scatter_add",
            Verb::Copy(_) => "copy",
            Verb::Fill(_) => "fill",
        }
    }

    /// Every view that is read.
    pub fn reads(&self) -> Views<'_> {
        let mut all = Views::new();
        match self {
            Verb::Map(v) => all.extend(v.inputs.iter().chain(&v.params)),
            Verb::Reduce(v) => all.extend(v.inputs.iter().chain(&v.params)),
            Verb::Gemm(v) => {
                all.extend([&v.a, &v.b]);
                if v.beta != 0.0 {
                    all.push(&v.c);
                }
                if let Some(e) = &v.epilogue {
                    all.extend(e.inputs.iter().chain(&e.params));
                }
            }
            Verb::Attention(v) => all.extend(v.reads()),
            Verb::AttentionBackward(v) => all.extend(v.reads()),
            Verb::Softmax(v) => all.push(&v.x),
            Verb::SoftmaxBackward(v) => all.extend([&v.y, &v.d_y]),
            Verb::Norm(v) => all.extend([&v.x].into_iter().chain(&v.weight).chain(&v.bias)),
            Verb::NormBackward(v) => {
                all.extend([&v.x, &v.rstd, &v.d_y].into_iter().chain(&v.weight).chain(&v.mean));
            }
            Verb::CrossEntropy(v) => all.extend([&v.logits, &v.targets]),
            Verb::CrossEntropyBackward(v) => {
                all.extend([&v.logits, &v.targets, &v.lse, &v.d_losses]);
            }
            Verb::Gather(v) => all.extend([&v.x, &v.index]),
            Verb::ScatterAdd(v) => all.extend([&v.x, &v.index, &v.out]),
            Verb::Copy(v) => all.push(&v.src),
            Verb::Fill(_) => {}
        }
        all
    }

    /// Where the verb takes its working memory; `None` for verbs that never want any. Whoever runs
    /// a verb fills it with [`crate::Backend::workspace_bytes`].
    pub fn workspace_mut(&mut self) -> Option<&mut Option<View>> {
        match self {
            Verb::Reduce(v) => Some(&mut v.workspace),
            Verb::Gemm(v) => Some(&mut v.workspace),
            Verb::AttentionBackward(v) => Some(&mut v.workspace),
            Verb::NormBackward(v) => Some(&mut v.workspace),
            Verb::ScatterAdd(v) => Some(&mut v.workspace),
            _ => None,
        }
    }

    /// The working memory that the verb was given.
    pub fn workspace(&self) -> Option<&View> {
        match self {
            Verb::Reduce(v) => v.workspace.as_ref(),
            Verb::Gemm(v) => v.workspace.as_ref(),
            Verb::AttentionBackward(v) => v.workspace.as_ref(),
            Verb::NormBackward(v) => v.workspace.as_ref(),
            Verb::ScatterAdd(v) => v.workspace.as_ref(),
            _ => None,
        }
    }

    /// Every view that is written; working memory, where there is some, last.
    pub fn writes(&self) -> Views<'_> {
        let mut all = Views::new();
        match self {
            Verb::Map(v) => all.extend(&v.outputs),
            Verb::Reduce(v) => all.extend([&v.output].into_iter().chain(&v.workspace)),
            Verb::Gemm(v) => {
                all.push(&v.c);
                all.extend(v.epilogue.iter().flat_map(|e| &e.outputs).chain(&v.workspace));
            }
            Verb::Attention(v) => all.extend([&v.out, &v.lse]),
            Verb::AttentionBackward(v) => all.extend(v.writes()),
            Verb::Softmax(v) => all.push(&v.y),
            Verb::SoftmaxBackward(v) => all.push(&v.d_x),
            Verb::Norm(v) => all.extend([&v.y, &v.rstd].into_iter().chain(&v.mean)),
            Verb::NormBackward(v) => {
                let params = v.d_weight.iter().chain(&v.d_bias).chain(&v.workspace);
                all.extend([&v.d_x].into_iter().chain(params));
            }
            Verb::CrossEntropy(v) => all.extend([&v.losses, &v.lse]),
            Verb::CrossEntropyBackward(v) => all.push(&v.d_logits),
            Verb::Gather(v) => all.push(&v.out),
            Verb::ScatterAdd(v) => all.extend([&v.out].into_iter().chain(&v.workspace)),
            Verb::Copy(v) => all.push(&v.dst),
            Verb::Fill(v) => all.push(&v.dst),
        }
        all
    }

    /// The views of [`Verb::writes`] but for working memory.
    pub fn results(&self) -> Views<'_> {
        let mut all = self.writes();
        if self.workspace().is_some() {
            // It comes last there.
            all.pop();
        }
        all
    }

    /// The element type that decides whether a backend can run the verb: the first narrow or
    /// integer one among its operands, else f32.
    pub fn dtype(&self) -> DType {
        let operands = self.reads().into_iter().chain(self.writes());
        operands.map(|v| v.dtype).find(|&d| d != DType::F32).unwrap_or(DType::F32)
    }
}
