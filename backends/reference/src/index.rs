//! Moving elements: gather, scatter_add, copy, fill.

use crate::memory::{Element, elements, load};
use starling_contract::{Copy, Error, Fill, Gather, Layout, Result, ScatterAdd, View};

/// For each element of `index` in row-major order, the element of a `shape`d array that it names:
/// its own position but for `axis`, where the index stands.
fn named(op: &'static str, index: &View, axis: usize, shape: &[usize]) -> Result<Vec<usize>> {
    let whole = Layout::contiguous(shape);
    let mut part = Layout::contiguous(index.shape());
    // Along the axis only the index moves.
    let mut strides = whole.strides().to_vec();
    strides[axis] = 0;
    part = Layout::new(part.shape(), &strides, 0);
    let step = whole.strides()[axis] as usize;
    let bound = shape[axis];
    part.positions()
        .zip(load(index)?)
        .map(|(at, i)| {
            let index = i as i64;
            let inside = usize::try_from(index).ok().filter(|&i| i < bound);
            inside.map(|i| at + i * step).ok_or(Error::Index { op, index, bound })
        })
        .collect()
}

pub fn gather(v: &Gather) -> Result<Vec<Vec<f64>>> {
    let x = load(&v.x)?;
    let from = named("gather", &v.index, v.axis, v.x.shape())?;
    Ok(vec![from.into_iter().map(|at| x[at]).collect()])
}

pub fn scatter_add(v: &ScatterAdd) -> Result<Vec<Vec<f64>>> {
    let (x, mut out) = (load(&v.x)?, load(&v.out)?);
    let to = named("scatter_add", &v.index, v.axis, v.out.shape())?;
    to.into_iter().zip(x).for_each(|(at, x)| out[at] += x);
    Ok(vec![out])
}

pub fn copy(v: &Copy) -> Result<Vec<Vec<f64>>> {
    Ok(vec![elements(&v.src)?.into_iter().map(|e| e.convert(v.dst.dtype)).collect()])
}

pub fn fill(v: &Fill) -> Vec<f64> {
    vec![Element::Real(v.value).convert(v.dst.dtype); v.dst.len()]
}
