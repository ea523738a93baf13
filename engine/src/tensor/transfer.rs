//! Tensors on their way from one device to another.

use super::Tensor;
use super::autograd::{Backward, Operation, record};
use crate::device::Device;
use crate::error::{Error, Result};
use crate::plan::{Lazy, Node};
use crate::wait::wait;
use starling_contract::Copy;

/// The gradient goes back to where the value came from.
struct Moved {
    from: Device,
}

impl Operation for Moved {
    fn name(&self) -> &'static str {
        "to_device"
    }

    fn backward(&self, upstream: &Tensor, _: &[bool]) -> Result<Backward> {
        Ok(Backward::Gradients(vec![Some(upstream.to_device(&self.from)?)]))
    }
}

/// Room for `len` elements on the host, all 0.
pub(super) fn host_memory<T: bytemuck::Pod>(len: usize) -> Result<Vec<T>> {
    // Asked for and given back, so that the room itself can be had untouched.
    if Vec::<T>::new().try_reserve_exact(len).is_err() {
        let message = format!("{len} elements do not fit in the host's memory");
        return Err(Error::shape("download", message));
    }
    Ok(vec![T::zeroed(); len])
}

impl Tensor {
    /// The same elements on another device, awaited: for hosts that cannot block. Between two
    /// queues of one device they are copied there; between two devices they pass through the host,
    /// in row-major order. On the queue where they lie already nothing is copied.
    ///
    /// # Errors
    /// Out of memory; what the devices report.
    pub async fn copy_to(&self, device: &Device) -> Result<Tensor> {
        if self.device().queue().same(device.queue()) {
            return Ok(self.clone());
        }
        let (copy, dst) = Self::output(device, self.dtype(), self.shape())?;
        if self.device().same(device) {
            device.run(Copy { src: self.view()?, dst })?;
        } else {
            // Held until the bytes are here.
            let source = self.detach().contiguous()?;
            let mut bytes = host_memory::<u8>(self.len() * self.dtype().size())?;
            source.device().download(&source.view()?, &mut bytes).await?;
            device.upload(&bytes, &dst)?;
        }
        let from = self.device().clone();
        Ok(record(copy.node().clone(), &[self], || Moved { from }))
    }

    /// As [`Tensor::copy_to`], and waits for it.
    ///
    /// # Errors
    /// As [`Tensor::copy_to`].
    pub fn to_device(&self, device: &Device) -> Result<Tensor> {
        wait(self.copy_to(device))
    }

    /// Overwrites all elements with those of a tensor of the same shape and type, in place.
    pub(crate) fn overwrite(&self, source: &Tensor) -> Result<()> {
        let src = source.view()?;
        let stored = self.node().stored()?;
        stored.before_write(self.device())?;
        self.device().run(Copy { src, dst: stored.view(self.dtype()) })
    }

    /// The same value, which stays what it is when the memory of this one is written: a copy that
    /// is made then, if somebody still wants it.
    pub(crate) fn copied_when_overwritten(&self) -> Result<Tensor> {
        let (device, dtype, shape) = (self.device(), self.dtype(), self.shape());
        if dtype.is_float() {
            let args = vec![self.node().clone()];
            return Ok(Tensor::from_node(Node::lazy(device, dtype, shape, Lazy::Repeat, args)?));
        }
        let (copy, dst) = Self::output(device, dtype, shape)?;
        device.run(Copy { src: self.view()?, dst })?;
        Ok(copy)
    }
}
