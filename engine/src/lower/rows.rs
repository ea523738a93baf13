//! Softmax, normalisation and cross-entropy as maps over the results of reductions.

use super::{Lowering, kept};
use crate::error::Result;
use starling_contract::{
    CrossEntropy, CrossEntropyBackward, Norm, NormBackward, ReduceKind, Softmax, SoftmaxBackward,
    View,
};
use starling_ops::Math;
use starling_ops::defs::{Def, Sqr, SquaredError};
use starling_ops::trace::{Real, Trace};

/// The iteration space of a reduction over the last axis.
fn rowwise(x: &View) -> (&[usize], u32) {
    (x.shape(), 1 << (x.shape().len() - 1))
}

/// One number per row of `x`, with the last axis kept.
fn per_row(l: &mut Lowering<'_>, x: &View) -> Result<View> {
    l.temporary(&kept(x.shape(), x.shape().len() - 1))
}

/// A view of one number per row as a column.
fn column(l: &Lowering<'_>, view: &View) -> Result<View> {
    l.inserted(view, view.shape().len(), 1)
}

/// The largest of each row and the sum of exponentials of the distances from it.
fn exponentials(l: &mut Lowering<'_>, x: &View) -> Result<(View, View)> {
    let (largest, sum) = (per_row(l, x)?, per_row(l, x)?);
    l.reduce(ReduceKind::Max, &[x], rowwise(x), &largest, |t| t.input(0))?;
    l.reduce(ReduceKind::Sum, &[x, &largest], rowwise(x), &sum, |t| {
        t.exp(t.sub(t.input(0), t.input(1)))
    })?;
    Ok((largest, sum))
}

pub(super) fn softmax(l: &mut Lowering<'_>, v: &Softmax) -> Result<()> {
    let (largest, sum) = exponentials(l, &v.x)?;
    l.map(&[&v.x, &largest, &sum], &v.y, |t| {
        let (shifted, sum) = (t.sub(t.input(0), t.input(1)), t.input(2));
        if v.log { t.sub(shifted, t.log(sum)) } else { t.div(t.exp(shifted), sum) }
    })
}

pub(super) fn softmax_backward(l: &mut Lowering<'_>, v: &SoftmaxBackward) -> Result<()> {
    let sum = per_row(l, &v.y)?;
    l.reduce(ReduceKind::Sum, &[&v.y, &v.d_y], rowwise(&v.y), &sum, |t| {
        if v.log { t.input(1) } else { t.mul(t.input(0), t.input(1)) }
    })?;
    l.map(&[&v.y, &v.d_y, &sum], &v.d_x, |t| {
        let (y, d_y, sum) = (t.input(0), t.input(1), t.input(2));
        if v.log { t.sub(d_y, t.mul(t.exp(y), sum)) } else { t.mul(y, t.sub(d_y, sum)) }
    })
}

/// Operands of a program, some of them optional.
#[derive(Default)]
struct Inputs<'a>(Vec<&'a View>);

impl<'a> Inputs<'a> {
    /// The number of the view as an input.
    fn add(&mut self, view: Option<&'a View>) -> Option<usize> {
        self.0.push(view?);
        Some(self.0.len() - 1)
    }
}

/// `f(x, input)` where there is that input, else `x`.
fn with(
    t: Trace<'_>,
    x: Real,
    input: Option<usize>,
    f: impl FnOnce(Trace<'_>, Real, Real) -> Real,
) -> Real {
    input.map_or(x, |i| f(t, x, t.input(i)))
}

fn sub(t: Trace<'_>, a: Real, b: Real) -> Real {
    t.sub(a, b)
}

fn mul(t: Trace<'_>, a: Real, b: Real) -> Real {
    t.mul(a, b)
}

pub(super) fn norm(l: &mut Lowering<'_>, v: &Norm) -> Result<()> {
    let mean = v.mean.as_ref().map(|m| column(l, m)).transpose()?;
    let (square, rstd) = (per_row(l, &v.x)?, column(l, &v.rstd)?);
    let mut mean_of = |inputs: &[&View], output: &View, f: fn(Trace<'_>) -> Real| {
        l.reduce(ReduceKind::Mean, inputs, rowwise(&v.x), output, f)
    };
    if let Some(mean) = &mean {
        mean_of(&[&v.x], mean, |t| t.input(0))?;
        mean_of(&[&v.x, mean], &square, |t| apply(t, SquaredError, &[t.input(0), t.input(1)]))?;
    } else {
        mean_of(&[&v.x], &square, |t| apply(t, Sqr, &[t.input(0)]))?;
    }
    l.map(&[&square], &rstd, |t| t.rsqrt(t.add(t.input(0), t.immediate(v.eps.into()))))?;
    let mut inputs = Inputs(vec![&v.x, &rstd]);
    let mean = inputs.add(mean.as_ref());
    let (weight, bias) = (inputs.add(v.weight.as_ref()), inputs.add(v.bias.as_ref()));
    l.map(&inputs.0, &v.y, |t| {
        let normal = t.mul(with(t, t.input(0), mean, sub), t.input(1));
        with(t, with(t, normal, weight, mul), bias, |t, a, b| t.add(a, b))
    })
}

/// One definition over traced operands.
fn apply(t: Trace<'_>, def: impl Def, args: &[Real]) -> Real {
    let mut out = [args[0]];
    def.eval(t, args, &mut out);
    out[0]
}

pub(super) fn norm_backward(l: &mut Lowering<'_>, v: &NormBackward) -> Result<()> {
    let rank = v.x.shape().len();
    let mean = v.mean.as_ref().map(|m| column(l, m)).transpose()?;
    let rstd = column(l, &v.rstd)?;
    let (along, shift) = (per_row(l, &v.x)?, per_row(l, &v.x)?);
    let mut inputs = Inputs(vec![&v.x, &rstd, &v.d_y]);
    let (mean, weight) = (inputs.add(mean.as_ref()), inputs.add(v.weight.as_ref()));
    let normal = |t: Trace<'_>| -> Real {
        let centred = mean.map_or(t.input(0), |m| t.sub(t.input(0), t.input(m)));
        t.mul(centred, t.input(1))
    };
    let scaled = |t: Trace<'_>| -> Real { with(t, t.input(2), weight, mul) };

    // Sums over the rows come first: `d_x` may take the place of `d_y`.
    let rows = (1u32 << (rank - 1)) - 1;
    let vector = |l: &Lowering<'_>, view: &View| {
        let mut layout = vec![1; rank];
        layout[rank - 1] = view.len();
        l.spread(&[view], &layout).map(|mut views| views.swap_remove(0))
    };
    if let Some(d_weight) = &v.d_weight {
        let d_weight = vector(l, d_weight)?;
        l.reduce(ReduceKind::Sum, &inputs.0, (v.x.shape(), rows), &d_weight, |t| {
            t.mul(t.input(2), normal(t))
        })?;
    }
    if let Some(d_bias) = &v.d_bias {
        let d_bias = vector(l, d_bias)?;
        l.reduce(ReduceKind::Sum, &[&v.d_y], (v.x.shape(), rows), &d_bias, |t| t.input(0))?;
    }
    l.reduce(ReduceKind::Mean, &inputs.0, rowwise(&v.x), &along, |t| t.mul(scaled(t), normal(t)))?;
    if mean.is_some() {
        l.reduce(ReduceKind::Mean, &inputs.0, rowwise(&v.x), &shift, scaled)?;
    }
    let along = inputs.add(Some(&along));
    let shift = inputs.add(mean.map(|_| &shift));
    l.map(&inputs.0, &v.d_x, |t| {
        let centred = with(t, scaled(t), shift, sub);
        t.mul(t.input(1), with(t, centred, along, |t, g, a| t.sub(g, t.mul(normal(t), a))))
    })
}

/// What tells a row's class: targets and positions, both f32 and to be compared.
struct Classes {
    /// `[rows, 1]`
    targets: View,
    /// `[classes]`
    positions: View,
}

impl Classes {
    fn new(l: &mut Lowering<'_>, logits: &View, targets: &View) -> Result<Self> {
        let targets = l.real(targets)?;
        Ok(Self { targets: column(l, &targets)?, positions: l.positions(logits.shape()[1])? })
    }
}

/// `x`, or 0 where the target is the ignored one.
fn counted(t: Trace<'_>, target: Real, ignore_index: Option<i64>, x: Real) -> Real {
    let zero = t.lit(0.0);
    ignore_index.map_or(x, |ignored| t.select(t.eq(target, t.immediate(ignored as f64)), zero, x))
}

pub(super) fn cross_entropy(l: &mut Lowering<'_>, v: &CrossEntropy) -> Result<()> {
    let classes = Classes::new(l, &v.logits, &v.targets)?;
    let (largest, sum) = exponentials(l, &v.logits)?;
    let chosen = per_row(l, &v.logits)?;
    let (losses, lse) = (column(l, &v.losses)?, column(l, &v.lse)?);
    let operands = [&v.logits, &classes.targets, &classes.positions];
    // The largest of one logit and -inf is that logit, bit by bit.
    l.reduce(ReduceKind::Max, &operands, rowwise(&v.logits), &chosen, |t| {
        t.select(t.eq(t.input(1), t.input(2)), t.input(0), t.lit(f64::NEG_INFINITY))
    })?;
    l.map(&[&largest, &sum], &lse, |t| t.add(t.input(0), t.log(t.input(1))))?;
    l.map(&[&largest, &sum, &chosen, &classes.targets], &losses, |t| {
        let loss = t.sub(t.log(t.input(1)), t.sub(t.input(2), t.input(0)));
        counted(t, t.input(3), v.ignore_index, loss)
    })
}

pub(super) fn cross_entropy_backward(l: &mut Lowering<'_>, v: &CrossEntropyBackward) -> Result<()> {
    let classes = Classes::new(l, &v.logits, &v.targets)?;
    let (lse, d_losses) = (column(l, &v.lse)?, column(l, &v.d_losses)?);
    let operands = [&v.logits, &lse, &d_losses, &classes.targets, &classes.positions];
    l.map(&operands, &v.d_logits, |t| {
        let p = t.exp(t.sub(t.input(0), t.input(1)));
        let target = t.input(3);
        let hit = t.select(t.eq(target, t.input(4)), t.lit(1.0), t.lit(0.0));
        counted(t, target, v.ignore_index, t.mul(t.input(2), t.sub(p, hit)))
    })
}
