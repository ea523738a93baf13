//! Tensors.

mod arena;
mod attention;
mod autograd;
mod checkpoint;
mod downloads;
mod elementwise;
mod index;
mod matmul;
mod reduce;
mod rows;
mod shape;
mod slot;
mod split;
mod tape;
mod transfer;

pub(crate) use arena::{Arena, Run, by_place, can_move, place_of, runs};
pub use attention::{
    AttentionBlocks, AttentionOptions, AttentionScore, ScoreTerms, SequenceLengths,
};
pub use autograd::{Backward, Operation, Saved};
pub use checkpoint::checkpoint;
pub use downloads::Downloads;
pub use matmul::WeightLayout;
pub use tape::no_grad;

use crate::device::Device;
use crate::error::{Error, Result};
use crate::plan::{self, Lazy, Node, Stored};
use crate::wait::wait;
use starling_contract::{Copy, DType, View};
use starling_ops::Definition;
use starling_ops::philox::HostStream;
use std::fmt;
use std::sync::Arc;
use tape::Tape;
use transfer::host_memory;

/// A Rust type that a tensor can hold.
pub trait Element: bytemuck::Pod {
    /// The tensor's element type.
    const DTYPE: DType;
}

macro_rules! elements {
    ($($t:ty: $d:ident)*) => {
        $(impl Element for $t {
            const DTYPE: DType = DType::$d;
        })*
    };
}

elements! { f32: F32 half::f16: F16 half::bf16: BF16 i32: I32 u32: U32 u8: U8 i8: I8 }

/// An array of numbers on a device, with its place in the graph of operations that made it.
/// Cloning gives another handle to the same value.
#[derive(Clone)]
pub struct Tensor {
    node: Arc<Node>,
    tape: Option<Arc<Tape>>,
}

/// True when what this thread calls is recorded for backward.
pub(crate) fn is_recording_operations() -> bool {
    tape::enabled()
}

impl Tensor {
    pub(crate) fn from_node(node: Arc<Node>) -> Self {
        Self { node, tape: None }
    }

    pub(crate) fn with_tape(node: Arc<Node>, tape: Arc<Tape>) -> Self {
        Self { node, tape: Some(tape) }
    }

    pub(crate) fn node(&self) -> &Arc<Node> {
        &self.node
    }

    pub(crate) fn tape(&self) -> Option<&Arc<Tape>> {
        self.tape.as_ref()
    }

    /// The operand that backends see; computes the value if it is still an expression. The tensor
    /// must live until the verb is submitted: within a capture its memory is used again at once.
    pub(crate) fn view(&self) -> Result<View> {
        self.node.view()
    }

    /// A tensor around fresh memory, and the view through which a verb fills it.
    pub(crate) fn output(device: &Device, dtype: DType, shape: &[usize]) -> Result<(Self, View)> {
        let stored = Stored::new(device, dtype, shape)?;
        let view = stored.view(dtype);
        Ok((Self::from_node(Node::from_stored(device, dtype, stored)), view))
    }

    /// A tensor with these elements in row-major order.
    ///
    /// # Errors
    /// [`Error::Backend`] when `data` does not have the shape's number of elements; out of memory.
    pub fn from_slice<T: Element>(device: &Device, data: &[T], shape: &[usize]) -> Result<Self> {
        let wanted = shape.iter().try_fold(1usize, |a, &b| a.checked_mul(b));
        if wanted != Some(data.len()) {
            let message = format!("{} elements do not fill the shape {shape:?}", data.len());
            return Err(Error::shape("from_slice", message));
        }
        let (tensor, view) = Self::output(device, T::DTYPE, shape)?;
        device.upload(bytemuck::cast_slice(data), &view)?;
        Ok(tensor)
    }

    /// A tensor of numbers made on the host, in row-major order.
    pub(crate) fn generate(
        device: &Device,
        shape: &[usize],
        mut next: impl FnMut() -> f32,
    ) -> Result<Self> {
        let n = plan::check_shape("tensor", DType::F32, shape)? / DType::F32.size();
        let mut data = Vec::new();
        if data.try_reserve_exact(n).is_err() {
            return Err(Error::shape("tensor", format!("{shape:?} does not fit in memory")));
        }
        data.extend((0..n).map(|_| next()));
        Self::from_slice(device, &data, shape)
    }

    /// One number everywhere.
    ///
    /// # Errors
    /// Out of memory, when the value is needed.
    pub fn full(device: &Device, dtype: DType, shape: &[usize], value: f64) -> Result<Self> {
        let node = Node::lazy(device, dtype, shape, Lazy::Literal(value), Vec::new())?;
        Ok(Self::from_node(node))
    }

    /// Zeros.
    ///
    /// # Errors
    /// As [`Tensor::full`].
    pub fn zeros(device: &Device, dtype: DType, shape: &[usize]) -> Result<Self> {
        Self::full(device, dtype, shape, 0.0)
    }

    /// Ones.
    ///
    /// # Errors
    /// As [`Tensor::full`].
    pub fn ones(device: &Device, dtype: DType, shape: &[usize]) -> Result<Self> {
        Self::full(device, dtype, shape, 1.0)
    }

    /// Zeros of this tensor's shape, type and device.
    ///
    /// # Errors
    /// As [`Tensor::full`].
    pub fn zeros_like(&self) -> Result<Self> {
        Self::zeros(self.device(), self.dtype(), self.shape())
    }

    /// `0, 1, 2, ..` as f32 up to `n`, exact below 2^24.
    ///
    /// # Errors
    /// Out of memory.
    pub fn arange(device: &Device, n: usize) -> Result<Self> {
        let mut numbers = (0..n).map(|i| i as f32);
        Self::generate(device, &[n], || numbers.next().unwrap_or_default())
    }

    /// Normal numbers drawn on the host, the same on every device.
    ///
    /// # Errors
    /// Out of memory.
    pub fn randn(
        device: &Device,
        stream: &mut HostStream,
        shape: &[usize],
        mean: f32,
        deviation: f32,
    ) -> Result<Self> {
        Self::generate(device, shape, || mean + deviation * stream.normal())
    }

    /// Uniform numbers in [0, 1) drawn on the host, the same on every device.
    ///
    /// # Errors
    /// Out of memory.
    pub fn rand(device: &Device, stream: &mut HostStream, shape: &[usize]) -> Result<Self> {
        Self::generate(device, shape, || stream.uniform())
    }

    /// Extent of each axis.
    pub fn shape(&self) -> &[usize] {
        self.node.shape()
    }

    /// Number of axes.
    pub fn rank(&self) -> usize {
        self.shape().len()
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.node.len()
    }

    /// True when there is no element.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The element type.
    pub fn dtype(&self) -> DType {
        self.node.dtype
    }

    /// Where it lies.
    pub fn device(&self) -> &Device {
        &self.node.device
    }

    /// The elements in row-major order, awaited: for hosts that cannot block.
    ///
    /// # Errors
    /// [`Error::Invalid`] when `T` is not the element type; what the device reports.
    pub async fn download<T: Element>(&self) -> Result<Vec<T>> {
        if T::DTYPE != self.dtype() {
            let message = format!("the tensor holds {}, not {}", self.dtype(), T::DTYPE);
            return Err(Error::invalid(message));
        }
        // Held until the bytes are here: a view that outlives its tensor costs the pool its memory.
        let source = self.contiguous()?;
        let mut data = host_memory::<T>(source.len())?;
        self.device().download(&source.view()?, bytemuck::cast_slice_mut(&mut data)).await?;
        Ok(data)
    }

    /// The elements in row-major order.
    ///
    /// # Errors
    /// As [`Tensor::download`].
    pub fn to_vec<T: Element>(&self) -> Result<Vec<T>> {
        wait(self.download())
    }

    /// The only element of an f32 tensor.
    ///
    /// # Errors
    /// [`Error::Invalid`] when there are more or it is no f32.
    pub fn item(&self) -> Result<f32> {
        match self.to_vec::<f32>()?.as_slice() {
            [x] => Ok(*x),
            more => Err(Error::invalid(format!("item() of a tensor with {} elements", more.len()))),
        }
    }

    /// Refuses to overwrite the result of an operation: its value would not follow from its
    /// operands any more, and so its gradient would be wrong. A leaf's value is free.
    fn check_writable(&self, op: &'static str) -> Result<()> {
        match &self.tape {
            Some(tape) if !tape.is_leaf() => Err(Error::Backward(format!(
                "{op} would overwrite a result of the graph: call detach() on it first"
            ))),
            _ => Ok(()),
        }
    }

    /// Refuses to write a tensor of the graph to where its gradient could not come back from.
    fn check_source(&self, op: &'static str) -> Result<()> {
        if self.tape.is_some() && tape::enabled() {
            return Err(Error::Backward(format!(
                "{op} writes in place and so loses the gradient of its source: call it within \
                 no_grad() or detach() the source"
            )));
        }
        Ok(())
    }

    /// Overwrites all elements in place. Views and captured steps see the new ones. What backward
    /// saved of the old ones is noticed there.
    ///
    /// # Errors
    /// [`Error::Backend`] when the number or type of the elements differs or they do not lie in
    /// row-major order; [`Error::Backward`] for a result of the graph.
    pub fn copy_from_slice<T: Element>(&self, data: &[T]) -> Result<()> {
        if T::DTYPE != self.dtype() || data.len() != self.len() {
            let message = format!(
                "{} {} do not fill {:?} of {}",
                data.len(),
                T::DTYPE,
                self.shape(),
                self.dtype()
            );
            return Err(Error::shape("copy_from_slice", message));
        }
        self.check_writable("copy_from_slice")?;
        self.device().queue().may_upload()?;
        let stored = self.node.stored()?;
        stored.before_write(self.device())?;
        self.device().upload(bytemuck::cast_slice(data), &stored.view(self.dtype()))
    }

    /// Overwrites `len` elements of `axis` from `start` with `source`, in place: what a key/value
    /// cache does with each new token.
    ///
    /// # Errors
    /// [`Error::Backend`] when the shapes do not fit; [`Error::Backward`] for a result of the graph
    /// and, but within [`no_grad`], for a source in the graph.
    pub fn slice_assign(&self, axis: usize, start: usize, source: &Tensor) -> Result<()> {
        self.check_writable("slice_assign")?;
        source.check_source("slice_assign")?;
        let part =
            self.detach().narrow(axis, start, source.shape().get(axis).copied().unwrap_or(0))?;
        if part.shape() != source.shape() {
            let message = format!("{:?} into {:?}", source.shape(), part.shape());
            return Err(Error::shape("slice_assign", message));
        }
        let (src, stored) = (source.view()?, part.node.stored()?);
        stored.before_write(self.device())?;
        self.device().run(Copy { src, dst: stored.view(self.dtype()) })
    }

    /// The same value with a place for its gradient, which backward leaves in [`Tensor::grad`]: a
    /// leaf of the graph, such as a parameter. The result of an operation stays where it is in the
    /// graph and keeps its gradient too, as PyTorch's `retain_grad`.
    pub fn requires_grad(&self) -> Self {
        if let Some(tape) = &self.tape {
            tape.retain();
            return self.clone();
        }
        Self::with_tape(self.node.clone(), Tape::leaf(&self.node))
    }

    /// The same value outside the graph.
    pub fn detach(&self) -> Self {
        Self::from_node(self.node.clone())
    }

    /// The gradient that backward has added up here. It does not change when more is added, unless
    /// another thread's backward is adding at this moment.
    pub fn grad(&self) -> Option<Tensor> {
        self.tape.as_ref()?.slot()?.get()
    }

    /// Replaces the gradient, or clears it.
    ///
    /// # Errors
    /// [`Error::Backward`] when there is no place for it: only after [`Tensor::requires_grad`];
    /// [`Error::Backend`] when its shape, type or device is not this tensor's.
    pub fn set_grad(&self, gradient: Option<Tensor>) -> Result<()> {
        let Some(slot) = self.tape.as_ref().and_then(|t| t.slot()) else {
            return Err(Error::Backward(
                "this tensor has no place for a gradient: call requires_grad() on it first".into(),
            ));
        };
        if let Some(g) = &gradient {
            self.check_gradient("set_grad", g)?;
        }
        slot.set(gradient.map(|g| g.detach()));
        Ok(())
    }

    fn check_gradient(&self, op: &'static str, gradient: &Tensor) -> Result<()> {
        let here = (self.dtype(), self.shape());
        if (gradient.dtype(), gradient.shape()) != here || !gradient.device().same(self.device()) {
            let message = format!("{gradient:?} as the gradient of {self:?}: they must agree");
            return Err(Error::shape(op, message));
        }
        Ok(())
    }

    /// Clears the gradient where there is one.
    pub fn zero_grad(&self) {
        if let Some(slot) = self.tape.as_ref().and_then(|t| t.slot()) {
            slot.set(None);
        }
    }

    /// The result of an operation of your own. `forward` computes it from `inputs` by any methods,
    /// which are not recorded, and makes what backward will ask for the gradients of `inputs`; a
    /// [`Saved`] keeps a value that it needs. `starling/examples/own_operation.rs` is a whole one.
    ///
    /// # Errors
    /// Those of `forward`; [`Error::Backward`] when it takes a tensor of the graph that `inputs` do
    /// not name, whose gradient would be lost.
    pub fn custom<O: Operation>(
        inputs: &[&Tensor],
        forward: impl FnOnce() -> Result<(Tensor, O)>,
    ) -> Result<Self> {
        autograd::custom(inputs, forward)
    }

    /// Sends a gradient of 1 back from this one-element result; leaves add up what arrives. The
    /// graph is used up.
    ///
    /// # Errors
    /// [`Error::NotDifferentiable`], [`Error::Modified`], [`Error::Backward`]; what the device
    /// reports.
    pub fn backward(&self) -> Result<()> {
        if self.len() != 1 {
            let message = format!(
                "a result of shape {:?} needs a gradient of its own: use backward_with",
                self.shape()
            );
            return Err(Error::Backward(message));
        }
        self.backward_with(&Self::ones(self.device(), self.dtype(), self.shape())?)
    }

    /// Sends `upstream` back from this result.
    ///
    /// # Errors
    /// As [`Tensor::backward`]; [`Error::Backend`] when the shape, type or device of `upstream` is
    /// not this tensor's.
    pub fn backward_with(&self, upstream: &Tensor) -> Result<()> {
        self.check_gradient("backward", upstream)?;
        autograd::backward(self, upstream.detach())
    }
}

/// Runs a definition in place: result `i` replaces the elements of `outputs[i]`. Inputs of one
/// element are read as parameters when the verb runs, so a captured step sees their new values.
///
/// # Errors
/// [`Error::Invalid`] when the numbers of inputs or outputs differ from the definition's;
/// [`Error::Backward`] when an output is a result of the graph and, but within [`no_grad`], when an
/// input is in the graph.
pub fn update(
    def: &'static Definition,
    scalars: &[f64],
    inputs: &[&Tensor],
    outputs: &[&Tensor],
) -> Result<()> {
    inputs.iter().try_for_each(|t| t.check_source(def.name))?;
    outputs.iter().try_for_each(|t| t.check_writable(def.name))?;
    let nodes = |tensors: &[&Tensor]| tensors.iter().map(|t| t.node.clone()).collect::<Vec<_>>();
    plan::update(def, scalars, &nodes(inputs), &nodes(outputs))
}

impl fmt::Debug for Tensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tensor({} {:?} on {})", self.dtype(), self.shape(), self.device().name())
    }
}
