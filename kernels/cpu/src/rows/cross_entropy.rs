//! Cross-entropy of class logits, fused: the probabilities are never stored.

use super::softmax::exp_sum;
use super::{BLOCK, First, Rows, Span, Whole, for_rows, lane, max_of, splat};
use crate::isa::{Isa, Kernel};
use crate::simd::Simd;
use crate::walk::{Integers, Shared};
use starling_contract::{CheckedRef, CrossEntropy, CrossEntropyBackward, Error, Result, View};
use std::ops::Range;

/// The wanted class of each row; `None` where the row counts nothing.
#[derive(Clone, Copy)]
struct Targets {
    start: Integers,
    step: isize,
    ignore: Option<i64>,
}

impl Targets {
    /// Looks at every target before anything is written.
    fn new(op: &'static str, view: &View, ignore: Option<i64>, classes: usize) -> Result<Self> {
        let step = view.layout.strides().first().copied().unwrap_or(0);
        let targets = Self { start: Integers::new(op, view)?, step, ignore };
        for row in 0..view.len() {
            // SAFETY: the verb's check found the view's elements in bounds.
            let index = unsafe { targets.start.get(row as isize * step) };
            let inside = usize::try_from(index).is_ok_and(|i| i < classes);
            if !inside && Some(index) != ignore {
                return Err(Error::Index { op, index, bound: classes });
            }
        }
        Ok(targets)
    }

    /// # Safety
    /// The row exists.
    #[inline(always)]
    unsafe fn class(&self, row: usize) -> Option<usize> {
        // SAFETY: the caller's promise.
        let index = unsafe { self.start.get(row as isize * self.step) };
        if Some(index) == self.ignore { None } else { Some(index as usize) }
    }
}

/// `lse = m + log(sum(exp(logits - m)))` with `m = max(logits)`, and
/// `loss = lse - logits[target]`, 0 where the target is ignored.
///
/// # Errors
/// `Index` for a target outside the classes that is not ignored; `Unsupported` for logits that are
/// not f32; `Shape` for views outside host memory.
pub fn cross_entropy(isa: Isa, v: CheckedRef<'_, CrossEntropy>) -> Result<()> {
    let v = v.get();
    let op = "cross_entropy";
    let logits = Rows::new(op, &v.logits)?;
    let (losses, lse) = (Rows::single(op, &v.losses)?, Rows::single(op, &v.lse)?);
    let targets = Targets::new(op, &v.targets, v.ignore_index, logits.n)?;
    debug_assert!(losses.count == logits.count && lse.count == logits.count);
    for_rows(&[&logits], 1, |rows, stage| {
        let (logits, losses, lse) = (&logits, &losses, &lse);
        isa.run(Forward { logits, losses, lse, targets, rows, stage: Shared(stage) });
    });
    Ok(())
}

struct Forward<'a> {
    logits: &'a Rows,
    losses: &'a Rows,
    lse: &'a Rows,
    targets: Targets,
    rows: Range<usize>,
    stage: Shared<f32>,
}

impl Kernel for Forward<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { logits, targets, rows, .. } = self;
        for first in rows.clone().step_by(GROUP) {
            let count = GROUP.min(rows.end - first);
            let (mut tops, mut sums, mut wanted) = ([0f32; GROUP], [1f32; GROUP], [0f32; GROUP]);
            // SAFETY: each `r` is one of the rows that the verb's check found in bounds, its
            // target is a class (see `Targets::new`), and no other task writes this row's
            // results. The stage was asked for when the logits are not dense.
            unsafe {
                for i in 0..count {
                    let x = logits.read(first + i, self.stage.0);
                    (tops[i], sums[i]) = exponentials(s, x, logits.n);
                    wanted[i] = targets.class(first + i).map_or(0.0, |t| x.add(t).read());
                }
                let logs = sums.as_mut_ptr();
                sweep!(count, |i, _u, span| {
                    let p = logs.add(i);
                    span.store(s, p, s.log(span.load(s, p)));
                });
                for i in 0..count {
                    let (r, top, log) = (first + i, tops[i], sums[i]);
                    self.lse.row(r).write(if top.is_infinite() { top } else { top + log });
                    // Summed in this order, the loss keeps its digits when the logits are large.
                    let loss = (top - wanted[i]) + log;
                    self.losses.row(r).write(if targets.class(r).is_some() { loss } else { 0.0 });
                }
            }
        }
    }
}

/// Rows whose logarithms are taken together.
const GROUP: usize = 16;

/// `(m, sum(exp(x - m)))` with `m = max(x)`, block by block, so that memory is read once. An
/// infinite `m` is the log-sum-exp itself.
///
/// # Safety
/// `x .. x + n` is readable.
#[inline(always)]
unsafe fn exponentials<S: Simd>(s: S, x: *const f32, n: usize) -> (f32, f32) {
    let (mut top, mut sum) = (f32::NEG_INFINITY, 0f64);
    for at in (0..n).step_by(BLOCK) {
        let len = BLOCK.min(n - at);
        // SAFETY: the block lies in the row.
        let (x, new) = unsafe { (x.add(at), max_of(s, x.add(at), len)) };
        if new == f32::NEG_INFINITY {
            continue;
        }
        if new > top || new.is_nan() {
            if at > 0 {
                sum *= f64::from(lane(s, s.exp(splat(s, top - new))));
            }
            top = new;
        }
        // SAFETY: the block lies in the row.
        sum += f64::from(unsafe { exp_sum(s, x, len, top) });
    }
    (top, sum as f32)
}

/// `d_logits = d_loss * (exp(logits - lse) - (class == target))`, 0 where the target is ignored.
///
/// # Errors
/// As [`cross_entropy`].
pub fn cross_entropy_backward(isa: Isa, v: CheckedRef<'_, CrossEntropyBackward>) -> Result<()> {
    let v = v.get();
    let op = "cross_entropy_backward";
    let (logits, d_logits) = (Rows::new(op, &v.logits)?, Rows::new(op, &v.d_logits)?);
    let (lse, d_losses) = (Rows::single(op, &v.lse)?, Rows::single(op, &v.d_losses)?);
    let targets = Targets::new(op, &v.targets, v.ignore_index, logits.n)?;
    debug_assert!(lse.count == logits.count && d_losses.count == logits.count);
    for_rows(&[&logits, &d_logits], 1, |rows, stage| {
        let (logits, d_logits, lse, d_losses) = (&logits, &d_logits, &lse, &d_losses);
        let stage = Shared(stage);
        isa.run(Backward { logits, d_logits, lse, d_losses, targets, rows, stage });
    });
    Ok(())
}

struct Backward<'a> {
    logits: &'a Rows,
    d_logits: &'a Rows,
    lse: &'a Rows,
    d_losses: &'a Rows,
    targets: Targets,
    rows: Range<usize>,
    stage: Shared<f32>,
}

impl Kernel for Backward<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let n = self.logits.n;
        for r in self.rows {
            // SAFETY: `r` is one of the rows that the verb's check found in bounds, its target is
            // a class (see `Targets::new`); rows of `d_logits` do not overlap, and one that shares
            // the logits' memory is the same row. The stage, which both may share, was asked for
            // when a view is not dense.
            unsafe {
                let x = self.logits.read(r, self.stage.0);
                let y = self.d_logits.place(r, self.stage.0);
                let (lse, scale) = (self.lse.row(r).read(), self.d_losses.row(r).read());
                match self.targets.class(r) {
                    Some(target) => backward_row(s, x, y, n, target, lse, scale),
                    None => y.write_bytes(0, n),
                }
                self.d_logits.flush(r, self.stage.0);
            }
        }
    }
}

/// # Safety
/// `n` elements are readable at `x` and writable at `y`, which is `x` or apart; `target < n`.
#[inline(always)]
unsafe fn backward_row<S: Simd>(
    s: S,
    x: *const f32,
    y: *mut f32,
    n: usize,
    target: usize,
    lse: f32,
    scale: f32,
) {
    // SAFETY: the target and the sweep stay below `n`.
    unsafe {
        let (lse, scales) = (splat(s, lse), splat(s, scale));
        sweep!(n, |i, _u, span| {
            let p = s.exp(s.sub(span.load(s, x.add(i)), lse));
            span.store(s, y.add(i), s.mul(p, scales));
        });
        let wanted = y.add(target);
        wanted.write(wanted.read() - scale);
    }
}
