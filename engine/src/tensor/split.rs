//! Cutting a tensor along an axis into views, which share one gradient.

use super::Tensor;
use crate::error::{Error, Result};

impl Tensor {
    /// Views of `lengths` elements of `axis`, one after another.
    ///
    /// # Errors
    /// [`Error::Backend`] when there is no such axis or the lengths do not add up to its extent.
    pub fn split(&self, axis: usize, lengths: &[usize]) -> Result<Vec<Tensor>> {
        let sum = lengths.iter().try_fold(0usize, |sum, &n| sum.checked_add(n));
        if sum.is_none() || sum != self.shape().get(axis).copied() {
            let message = format!("{lengths:?} do not add up to axis {axis} of {:?}", self.shape());
            return Err(Error::shape("split", message));
        }
        let mut start = 0;
        let mut next = |&n: &usize| {
            start += n;
            self.narrow(axis, start - n, n)
        };
        lengths.iter().map(&mut next).collect()
    }

    /// At most `parts` views along `axis`, all of one length but for the last one, as PyTorch's
    /// `chunk`.
    ///
    /// # Errors
    /// [`Error::Backend`] when there is no such axis or `parts` is 0.
    pub fn chunk(&self, axis: usize, parts: usize) -> Result<Vec<Tensor>> {
        let n = self.extent("chunk", axis)?;
        if parts == 0 {
            return Err(Error::shape("chunk", "a tensor cannot be cut into 0 parts"));
        }
        let len = n.div_ceil(parts).max(1);
        let mut out = room("chunk", n.div_ceil(len))?;
        for start in (0..n).step_by(len) {
            out.push(self.narrow(axis, start, len.min(n - start))?);
        }
        Ok(out)
    }

    /// The tensors that lie side by side along `axis`, without it.
    ///
    /// # Errors
    /// [`Error::Backend`] when there is no such axis.
    pub fn unbind(&self, axis: usize) -> Result<Vec<Tensor>> {
        let n = self.extent("unbind", axis)?;
        let mut out = room("unbind", n)?;
        for i in 0..n {
            out.push(self.narrow(axis, i, 1)?.squeeze(axis)?);
        }
        Ok(out)
    }

    fn extent(&self, op: &'static str, axis: usize) -> Result<usize> {
        self.shape().get(axis).copied().ok_or_else(|| {
            Error::shape(op, format!("there is no axis {axis} in {:?}", self.shape()))
        })
    }
}

/// A list with room for `n` tensors. A repeated axis may be longer than memory.
fn room(op: &'static str, n: usize) -> Result<Vec<Tensor>> {
    let mut list = Vec::new();
    match list.try_reserve_exact(n) {
        Ok(()) => Ok(list),
        Err(_) => Err(Error::shape(op, format!("{n} tensors do not fit in memory"))),
    }
}
