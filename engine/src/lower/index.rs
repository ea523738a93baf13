//! Gather, scatter_add and fill: indices compared with positions, bytes written one by one.

use super::{Lowering, kept};
use crate::error::Result;
use starling_contract::{DType, Fill, Gather, Layout, ReduceKind, ScatterAdd, View};
use starling_ops::Math;

/// The view's bytes, one view for each byte of an element.
fn planes(view: &View) -> impl Iterator<Item = View> {
    let size = view.dtype.size();
    let strides: Vec<isize> = view.layout.strides().iter().map(|s| s * size as isize).collect();
    (0..size).map(move |byte| View {
        storage: view.storage.clone(),
        dtype: DType::U8,
        layout: Layout::new(view.shape(), &strides, view.layout.offset() * size + byte),
    })
}

/// `n` positions along `axis` of an array with `rank` axes.
fn positions(l: &mut Lowering<'_>, n: usize, axis: usize, rank: usize) -> Result<View> {
    let mut shape = vec![1; rank];
    shape[axis] = n;
    Ok(l.positions(n)?.with(Layout::contiguous(&shape)))
}

/// Over `[.., index, table, ..]`: the largest of the element whose position is the index and -inf,
/// which is that element bit by bit.
pub(super) fn gather(l: &mut Lowering<'_>, v: &Gather) -> Result<()> {
    // Integers do not fit f32; their bytes do.
    if !v.out.dtype.is_float() {
        return planes(&v.x).zip(planes(&v.out)).try_for_each(|(x, out)| pick(l, v, &x, &out));
    }
    pick(l, v, &v.x, &v.out)
}

fn pick(l: &mut Lowering<'_>, v: &Gather, x: &View, out: &View) -> Result<()> {
    let (table, axis) = (x.shape()[v.axis], v.axis + 1);
    let index = l.real(&v.index)?;
    let index = l.inserted(&index, axis, table)?;
    let x = l.inserted(x, v.axis, out.shape()[v.axis])?;
    let positions = positions(l, table, axis, x.shape().len())?;
    let space = (x.shape(), 1 << axis);
    let out = l.inserted(out, axis, 1)?;
    let direct = out.dtype == DType::F32;
    let picked = if direct { out.clone() } else { l.temporary(&kept(x.shape(), axis))? };
    l.reduce(ReduceKind::Max, &[&x, &index, &positions], space, &picked, |t| {
        t.select(t.eq(t.input(1), t.input(2)), t.input(0), t.lit(f64::NEG_INFINITY))
    })?;
    if !direct {
        l.copy(&picked, &out);
    }
    Ok(())
}

/// Over `[.., table, index, ..]`: the sum of the elements whose index is the position.
pub(super) fn scatter_add(l: &mut Lowering<'_>, v: &ScatterAdd) -> Result<()> {
    let table = v.out.shape()[v.axis];
    let index = l.real(&v.index)?;
    let index = l.inserted(&index, v.axis, table)?;
    let x = l.inserted(&v.x, v.axis, table)?;
    let positions = positions(l, table, v.axis, x.shape().len())?;
    let sums = l.temporary(&kept(x.shape(), v.axis + 1))?;
    let space = (x.shape(), 1 << (v.axis + 1));
    l.reduce(ReduceKind::Sum, &[&x, &index, &positions], space, &sums, |t| {
        t.select(t.eq(t.input(1), t.input(2)), t.input(0), t.lit(0.0))
    })?;
    let sums = sums.with(Layout::contiguous(v.out.shape()));
    l.map(&[&v.out, &sums], &v.out, |t| t.add(t.input(0), t.input(1)))
}

/// A constant map; for integers, whose maps hold truth values or do not exist, byte by byte.
pub(super) fn fill(l: &mut Lowering<'_>, v: &Fill) -> Result<()> {
    if v.dst.dtype.is_float() {
        return l.map(&[], &v.dst, |t| t.immediate(v.value));
    }
    let bytes = match v.dst.dtype {
        DType::I32 => (v.value as i32).to_ne_bytes(),
        DType::U32 => (v.value as u32).to_ne_bytes(),
        DType::I8 => [v.value as i8 as u8; 4],
        _ => [v.value as u8; 4],
    };
    for (plane, byte) in planes(&v.dst).zip(bytes) {
        let number = l.temporary(&[])?;
        l.map(&[], &number, |t| t.immediate(byte.into()))?;
        let repeated = l.spread(&[&number], plane.shape())?;
        l.copy(&repeated[0], &plane);
    }
    Ok(())
}
