//! Verbs that have been checked.

use super::{
    Attention, AttentionBackward, Copy, CrossEntropy, CrossEntropyBackward, Fill, Gather, Gemm,
    Map, Norm, NormBackward, Reduce, ScatterAdd, Softmax, SoftmaxBackward, Verb,
};
use crate::error::{Error, Result};
use crate::identity::DeviceId;
use crate::layout::View;
use std::ops::Deref;

/// A verb that [`Verb::check`] accepted: shapes, dtypes, bounds and aliasing hold, and all operands
/// lie on one device.
///
/// Nothing else makes one and nothing changes what is in it, so that a stream may rely on it where
/// it reads and writes through pointers.
#[derive(Clone, Debug)]
pub struct Checked {
    verb: Verb,
    device: DeviceId,
}

impl Verb {
    /// Checks shapes, dtypes, bounds, aliasing and that all operands lie on one device: what every
    /// backend relies on.
    ///
    /// # Errors
    /// [`Error::Shape`] that says what does not fit; [`Error::Devices`].
    pub fn check(self) -> Result<Checked> {
        let device = self.fits()?;
        Ok(Checked { verb: self, device })
    }
}

impl Checked {
    /// The device whose memory all operands are of.
    pub fn device(&self) -> DeviceId {
        self.device
    }

    /// That the operands are of this device's memory: what a stream asks first.
    ///
    /// # Errors
    /// [`Error::Devices`].
    pub fn must_be_on(&self, device: DeviceId) -> Result<()> {
        let (op, found) = (self.name(), self.device);
        if found == device { Ok(()) } else { Err(Error::Devices { op, device, found }) }
    }

    /// The verb with this working memory, which is checked as every operand is.
    ///
    /// # Errors
    /// [`Error::Shape`] for a view that does not fit and for a verb that takes none;
    /// [`Error::Devices`].
    pub fn with_workspace(self, workspace: View) -> Result<Self> {
        let mut verb = self.verb;
        let op = verb.name();
        let Some(slot) = verb.workspace_mut() else {
            return Err(Error::shape(op, "it takes no working memory"));
        };
        *slot = Some(workspace);
        verb.check()
    }

    /// The verb itself, to be changed and checked anew.
    pub fn into_verb(self) -> Verb {
        self.verb
    }
}

impl Deref for Checked {
    type Target = Verb;

    fn deref(&self) -> &Verb {
        &self.verb
    }
}

impl AsRef<Verb> for Checked {
    fn as_ref(&self) -> &Verb {
        &self.verb
    }
}

/// One verb's struct out of a [`Checked`]: what kernels take.
#[derive(Debug)]
pub struct CheckedRef<'a, T>(&'a T);

impl<T> Clone for CheckedRef<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> std::marker::Copy for CheckedRef<'_, T> {}

impl<'a, T> CheckedRef<'a, T> {
    /// The struct, for as long as the verb lives.
    pub fn get(self) -> &'a T {
        self.0
    }
}

impl<T> Deref for CheckedRef<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.0
    }
}

macro_rules! kinds {
    ($($name:ident)*) => {
        /// A [`Checked`] verb, taken apart.
        #[derive(Clone, Copy, Debug)]
        #[allow(missing_docs, reason = "each variant is documented at its struct")]
        pub enum Kind<'a> {
            $($name(CheckedRef<'a, $name>),)*
        }

        impl Checked {
            /// The verb's struct, still known to be checked.
            pub fn kind(&self) -> Kind<'_> {
                match &self.verb {
                    $(Verb::$name(verb) => Kind::$name(CheckedRef(verb)),)*
                }
            }
        }
    };
}

kinds! {
    Map Reduce Gemm Attention AttentionBackward Softmax SoftmaxBackward Norm NormBackward
    CrossEntropy CrossEntropyBackward Gather ScatterAdd Copy Fill
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{DType, HostStorage, NormKind};

    fn memory(shape: &[usize]) -> View {
        let bytes = shape.iter().product::<usize>() * 4;
        View::contiguous(HostStorage::new(bytes).unwrap(), DType::F32, shape)
    }

    #[test]
    fn working_memory_is_checked_like_any_operand() {
        let (kind, x) = (NormKind::Rms, memory(&[2, 4]));
        let (d_y, d_x, rstd) = (memory(&[2, 4]), memory(&[2, 4]), memory(&[2]));
        let (weight, mean, d_weight, d_bias) = (None, None, None, None);
        let workspace = None;
        let verb = NormBackward {
            kind,
            x: x.clone(),
            weight,
            mean,
            rstd,
            d_y,
            d_x,
            d_weight,
            d_bias,
            workspace,
        };
        let verb = Verb::from(verb).check().unwrap();
        assert!(verb.clone().with_workspace(memory(&[8])).is_ok());
        // Another operand's memory, more than there is, another device's.
        assert!(verb.clone().with_workspace(x).is_err());
        let mut long = memory(&[8]);
        long.layout = crate::Layout::contiguous(&[9]);
        assert!(verb.clone().with_workspace(long).is_err());
        let other = HostStorage::on(DeviceId::named("other"), 32).unwrap();
        let other = View::contiguous(other, DType::F32, &[8]);
        assert!(matches!(verb.with_workspace(other), Err(Error::Devices { .. })));
        let copy = Verb::from(Copy { src: memory(&[1]), dst: memory(&[1]) }).check().unwrap();
        assert!(copy.with_workspace(memory(&[8])).is_err());
    }
}
