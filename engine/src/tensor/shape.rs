//! Views and rearrangements. Views share memory with the tensor that they are taken from.

use super::Tensor;
use super::autograd::{Backward, Operation, record};
use crate::error::{Error, Result};
use crate::plan::{Lazy, Node, Rearrange, check_shape};
use starling_contract::{Copy, DType, Layout};

/// How a view was taken, and so how its gradient goes back.
enum View {
    Reshape,
    Permute(Vec<usize>),
    Slice { axis: usize, start: usize, step: isize },
    Broadcast,
}

struct ViewOperation {
    kind: View,
    shape: Vec<usize>,
}

impl Operation for ViewOperation {
    fn name(&self) -> &'static str {
        "view"
    }

    fn backward(&self, upstream: &Tensor, _wanted: &[bool]) -> Result<Backward> {
        let gradient = match &self.kind {
            View::Reshape => upstream.reshape(&self.shape)?,
            View::Permute(axes) => {
                let mut inverse = vec![0; axes.len()];
                for (i, &a) in axes.iter().enumerate() {
                    inverse[a] = i;
                }
                upstream.permute(&inverse)?
            }
            &View::Slice { axis, start, step } => {
                return Ok(Backward::Slice { gradient: upstream.clone(), axis, start, step });
            }
            View::Broadcast => super::elementwise::sum_to(upstream, &self.shape)?,
        };
        Ok(Backward::Gradients(vec![Some(gradient)]))
    }
}

/// Whether `len` elements from `start` by `step` exist among `n`.
pub(super) fn slice_is_inside(n: usize, start: usize, len: usize, step: isize) -> bool {
    let last = (len as i128 - 1).checked_mul(step as i128).map(|reach| start as i128 + reach);
    let inside = last.is_some_and(|last| start < n && (0..n as i128).contains(&last));
    step != 0 && (len == 0 || inside)
}

struct Cast(DType);

impl Operation for Cast {
    fn name(&self) -> &'static str {
        "to_dtype"
    }

    fn backward(&self, upstream: &Tensor, _wanted: &[bool]) -> Result<Backward> {
        if !self.0.is_float() || !upstream.dtype().is_float() {
            return Ok(Backward::NotDifferentiable("a cast to or from integers has no slope"));
        }
        Ok(Backward::Gradients(vec![Some(upstream.to_dtype(self.0)?)]))
    }
}

struct Cat {
    axis: usize,
    extents: Vec<usize>,
}

impl Operation for Cat {
    fn name(&self) -> &'static str {
        "cat"
    }

    fn backward(&self, upstream: &Tensor, wanted: &[bool]) -> Result<Backward> {
        let mut start = 0;
        let mut gradients = Vec::new();
        for (&n, &w) in self.extents.iter().zip(wanted) {
            gradients.push(w.then(|| upstream.narrow(self.axis, start, n)).transpose()?);
            start += n;
        }
        Ok(Backward::Gradients(gradients))
    }
}

impl Tensor {
    /// The axis that `axis` names, negative ones counted from the end.
    pub(super) fn axis(&self, op: &'static str, axis: isize) -> Result<usize> {
        let rank = self.rank() as isize;
        let at = if axis < 0 { axis + rank } else { axis };
        if (0..rank).contains(&at) {
            return Ok(at as usize);
        }
        Err(Error::shape(op, format!("there is no axis {axis} in {:?}", self.shape())))
    }

    /// A view of a value that lies in memory; `kind` says which for the way back.
    fn viewed(&self, layout: Layout, kind: View) -> Result<Tensor> {
        let stored = self.node().stored()?.with(layout);
        let node = Node::from_stored(self.device(), self.dtype(), stored);
        Ok(record(node, &[self], || ViewOperation { kind, shape: self.shape().to_vec() }))
    }

    /// A view of an expression is an expression too: what reads it reads the operands through the
    /// view. `None` for what lies in memory, and where an element's place matters.
    fn rearranged(
        &self,
        shape: &[usize],
        rearrange: Rearrange,
        kind: impl FnOnce() -> View,
    ) -> Result<Option<Tensor>> {
        let node = self.node();
        if node.is_stored() || node.positional() || node.is_same_everywhere() {
            return Ok(None);
        }
        let (lazy, args) = (Lazy::View(rearrange), vec![node.clone()]);
        let node = Node::lazy(self.device(), self.dtype(), shape, lazy, args)?;
        let operation = || ViewOperation { kind: kind(), shape: self.shape().to_vec() };
        Ok(Some(record(node, &[self], operation)))
    }

    fn layout(&self) -> Result<Layout> {
        Ok(self.node().stored()?.layout)
    }

    /// The same elements in row-major order under another shape; moves them only when the strides
    /// leave no other way.
    ///
    /// # Errors
    /// [`Error::Backend`] when the number of elements differs.
    pub fn reshape(&self, shape: &[usize]) -> Result<Tensor> {
        if shape == self.shape() {
            return Ok(self.clone());
        }
        if check_shape("reshape", self.dtype(), shape)? != self.len() * self.dtype().size() {
            let message = format!("{:?} has other elements than {shape:?}", self.shape());
            return Err(Error::shape("reshape", message));
        }
        // A view of a view may have strides that no other shape has.
        if !self.node().is_view() {
            let to = Rearrange::Reshape(Layout::contiguous(shape));
            if let Some(view) = self.rearranged(shape, to, || View::Reshape)? {
                return Ok(view);
            }
        }
        let layout = match self.layout()?.reshape(shape) {
            Some(layout) => return self.viewed(layout, View::Reshape),
            None => Layout::contiguous(shape),
        };
        self.contiguous()?.viewed(layout, View::Reshape)
    }

    /// Axes in another order: axis `i` of the result is axis `axes[i]` of this tensor.
    ///
    /// # Errors
    /// [`Error::Backend`] when `axes` is no permutation.
    pub fn permute(&self, axes: &[usize]) -> Result<Tensor> {
        let mut sorted = axes.to_vec();
        sorted.sort_unstable();
        if !sorted.iter().copied().eq(0..self.rank()) {
            let message = format!("{axes:?} is no permutation of {} axes", self.rank());
            return Err(Error::shape("permute", message));
        }
        let kind = || View::Permute(axes.to_vec());
        let shape: Vec<usize> = axes.iter().map(|&a| self.shape()[a]).collect();
        if let Some(view) = self.rearranged(&shape, Rearrange::Permute(axes.to_vec()), kind)? {
            return Ok(view);
        }
        self.viewed(self.layout()?.permute(axes), kind())
    }

    /// Two axes exchanged; negative ones count from the end.
    ///
    /// # Errors
    /// [`Error::Backend`] when there is no such axis.
    pub fn transpose(&self, a: isize, b: isize) -> Result<Tensor> {
        let mut axes: Vec<usize> = (0..self.rank()).collect();
        axes.swap(self.axis("transpose", a)?, self.axis("transpose", b)?);
        self.permute(&axes)
    }

    /// `len` elements of `axis` from `start`.
    ///
    /// # Errors
    /// [`Error::Backend`] when the range is not inside the axis.
    pub fn narrow(&self, axis: usize, start: usize, len: usize) -> Result<Tensor> {
        self.slice(axis, start, len, 1)
    }

    /// `len` elements of `axis`: `start`, `start + step`, ..; `step` may be negative.
    ///
    /// # Errors
    /// [`Error::Backend`] when an element is not inside the axis.
    pub fn slice(&self, axis: usize, start: usize, len: usize, step: isize) -> Result<Tensor> {
        let n = *self.shape().get(axis).ok_or_else(|| {
            Error::shape("slice", format!("there is no axis {axis} in {:?}", self.shape()))
        })?;
        if !slice_is_inside(n, start, len, step) {
            let message = format!("{len} from {start} by {step} is not inside 0..{n}");
            return Err(Error::shape("slice", message));
        }
        let step = if len > 1 { step } else { 1 };
        let kind = || View::Slice { axis, start, step };
        let mut shape = self.shape().to_vec();
        shape[axis] = len;
        let rearrange = Rearrange::Slice { axis, start, len, step };
        if let Some(view) = self.rearranged(&shape, rearrange, kind)? {
            return Ok(view);
        }
        self.viewed(self.layout()?.slice(axis, start, len, step), kind())
    }

    /// Repeats axes of extent 1 and adds leading ones, without copying.
    ///
    /// # Errors
    /// [`Error::Backend`] when the shapes do not allow it.
    pub fn broadcast_to(&self, shape: &[usize]) -> Result<Tensor> {
        check_shape("broadcast_to", self.dtype(), shape)?;
        if Layout::contiguous(self.shape()).broadcast_to(shape).is_none() {
            let message = format!("{:?} does not broadcast to {shape:?}", self.shape());
            return Err(Error::shape("broadcast_to", message));
        }
        // Programs compute on floats and truth values: other numbers are repeated where they lie.
        let number = !self.dtype().is_float() && self.node().is_same_everywhere();
        if self.node().is_stored() || number {
            let layout = self.layout()?.broadcast_to(shape).unwrap_or(Layout::contiguous(shape));
            return self.viewed(layout, View::Broadcast);
        }
        let args = vec![self.node().clone()];
        let node = Node::lazy(self.device(), self.dtype(), shape, Lazy::Repeat, args)?;
        let shape = self.shape().to_vec();
        Ok(record(node, &[self], || ViewOperation { kind: View::Broadcast, shape }))
    }

    /// An axis of extent 1 before `axis`.
    ///
    /// # Errors
    /// [`Error::Backend`] when `axis` is past the end.
    pub fn unsqueeze(&self, axis: usize) -> Result<Tensor> {
        let mut shape = self.shape().to_vec();
        if axis > shape.len() {
            return Err(Error::shape("unsqueeze", format!("axis {axis} of {shape:?}")));
        }
        shape.insert(axis, 1);
        self.reshape(&shape)
    }

    /// Without `axis`, whose extent must be 1.
    ///
    /// # Errors
    /// [`Error::Backend`] when it is not.
    pub fn squeeze(&self, axis: usize) -> Result<Tensor> {
        let mut shape = self.shape().to_vec();
        if shape.get(axis) != Some(&1) {
            return Err(Error::shape("squeeze", format!("axis {axis} of {shape:?} is not 1")));
        }
        shape.remove(axis);
        self.reshape(&shape)
    }

    /// All elements along one axis.
    ///
    /// # Errors
    /// Out of memory.
    pub fn flatten(&self) -> Result<Tensor> {
        self.reshape(&[self.len()])
    }

    /// The same value with its elements in row-major order; itself when they are.
    ///
    /// # Errors
    /// Out of memory.
    pub fn contiguous(&self) -> Result<Tensor> {
        let layout = self.layout()?;
        // Backends copy to the host from the storage's start or any offset, but without gaps.
        if layout.is_contiguous() {
            return Ok(self.clone());
        }
        let (out, dst) = Tensor::output(self.device(), self.dtype(), self.shape())?;
        self.device().run(Copy { src: self.view()?, dst })?;
        let shape = self.shape().to_vec();
        Ok(record(out.node().clone(), &[self], || ViewOperation { kind: View::Reshape, shape }))
    }

    /// The elements converted as by Rust's `as`; to f16 and bf16 rounded to nearest even.
    ///
    /// # Errors
    /// Out of memory.
    pub fn to_dtype(&self, dtype: DType) -> Result<Tensor> {
        if dtype == self.dtype() {
            return Ok(self.clone());
        }
        let elementwise = |d: DType| d.is_float() || d == DType::U8;
        if dtype.is_float() && elementwise(self.dtype()) {
            let args = vec![self.node().clone()];
            let node = Node::lazy(self.device(), dtype, self.shape(), Lazy::Repeat, args)?;
            return Ok(record(node, &[self], || Cast(self.dtype())));
        }
        let (out, dst) = Tensor::output(self.device(), dtype, self.shape())?;
        self.device().run(Copy { src: self.view()?, dst })?;
        Ok(record(out.node().clone(), &[self], || Cast(self.dtype())))
    }

    /// Tensors one after another along `axis`.
    ///
    /// # Errors
    /// [`Error::Backend`] when shapes differ elsewhere or dtypes differ; nothing to join.
    pub fn cat(tensors: &[&Tensor], axis: usize) -> Result<Tensor> {
        let Some(first) = tensors.first() else {
            return Err(Error::shape("cat", "there is nothing to join"));
        };
        let mut shape = first.shape().to_vec();
        let fits = |t: &&Tensor| {
            let others = t.shape().iter().zip(&shape).enumerate();
            t.rank() == shape.len()
                && t.dtype() == first.dtype()
                && others.filter(|(i, _)| *i != axis).all(|(_, (a, b))| a == b)
        };
        if axis >= shape.len() || !tensors.iter().all(fits) {
            let shapes: Vec<_> = tensors.iter().map(|t| t.shape()).collect();
            return Err(Error::shape("cat", format!("{shapes:?} along axis {axis}")));
        }
        let extents: Vec<usize> = tensors.iter().map(|t| t.shape()[axis]).collect();
        let sum = extents.iter().try_fold(0usize, |sum, &n| sum.checked_add(n));
        shape[axis] = sum.ok_or_else(|| Error::shape("cat", "the axis is too long"))?;
        let (out, view) = Tensor::output(first.device(), first.dtype(), &shape)?;
        let mut start = 0;
        for (t, &n) in tensors.iter().zip(&extents) {
            let dst = view.with(view.layout.slice(axis, start, n, 1));
            first.device().run(Copy { src: t.view()?, dst })?;
            start += n;
        }
        Ok(record(out.node().clone(), tensors, || Cat { axis, extents }))
    }

    /// Tensors of one shape side by side along a new axis.
    ///
    /// # Errors
    /// As [`Tensor::cat`].
    pub fn stack(tensors: &[&Tensor], axis: usize) -> Result<Tensor> {
        let wide: Vec<Tensor> = tensors.iter().map(|t| t.unsqueeze(axis)).collect::<Result<_>>()?;
        Self::cat(&wide.iter().collect::<Vec<_>>(), axis)
    }
}
