//! Views as kernels see them.

use starling_contract::{DType, Layout, Storage};
use std::sync::Arc;

/// What a kernel does with an operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    Read,
    Write,
    ReadWrite,
}

impl Access {
    pub(crate) fn writes(self) -> bool {
        self != Access::Read
    }
}

/// How many elements an accessor moves at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Width {
    /// `load(position)` and `store(position, value)` at any position.
    One,
    /// `load4(quad)` and `store4(quad, values, count)`: four elements from position `4 * quad`.
    Four,
}

/// One axis of an operand: extent and stride, in elements.
pub type Axis = (usize, isize);

/// A view that a kernel reads or writes, with the index space in which it is addressed.
#[derive(Clone)]
pub(crate) struct Operand {
    pub name: String,
    pub dtype: DType,
    pub access: Access,
    pub width: Width,
    pub storage: Arc<dyn Storage>,
    /// Position of the first element, in elements of the storage.
    pub offset: usize,
    /// The axes of its index space, innermost first, merged where strides allow.
    pub axes: Vec<Axis>,
    /// First and last byte that may be touched.
    pub span: (usize, usize),
    /// The binding that it lies in, and the first byte that this binding sees.
    pub binding: usize,
    /// Where its words begin in the parameters: offset, then extent and stride of each axis.
    pub words: usize,
}

/// A storage, or the part of it that is needed, as a kernel sees it.
#[derive(Clone)]
pub(crate) struct Binding {
    pub storage: Arc<dyn Storage>,
    pub writes: bool,
    /// Narrow elements are stored one by one, through atomics.
    pub atomic: bool,
    /// Every operand in it moves four elements of this type at once.
    pub wide: Option<DType>,
    /// The bytes bound: from, length, and the length of one shard.
    pub from: usize,
    pub bytes: usize,
    pub shard_bytes: usize,
    /// Its first slot in the bind group.
    pub slot: u32,
}

impl Binding {
    pub(crate) fn shards(&self) -> usize {
        self.bytes.div_ceil(self.shard_bytes).max(1)
    }
}

/// The axes of a layout, innermost first: those of one element dropped, those that continue each
/// other merged.
pub fn axes(layout: &Layout) -> Vec<Axis> {
    let mut out: Vec<Axis> = Vec::new();
    let pairs = layout.shape().iter().zip(layout.strides()).rev();
    for (&n, &stride) in pairs.filter(|&(&n, _)| n != 1) {
        match out.last_mut() {
            Some((extent, inner)) if *inner * *extent as isize == stride => *extent *= n,
            _ => out.push((n, stride)),
        }
    }
    out
}

/// Word `at` of the parameters as text.
pub(crate) fn parameter(at: usize) -> String {
    format!("parameters[{}].{}", at / 4, ["x", "y", "z", "w"][at % 4])
}
