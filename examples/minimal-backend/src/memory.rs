//! Memory: untyped bytes, and the views that give them dtype, shape and strides.

use crate::{NAME, device};
use half::{bf16, f16};
use starling_contract::{DType, DeviceId, Error, Result, Storage, View};
use std::sync::atomic::{AtomicU8, Ordering};

/// A storage: here a vector of bytes, on a device the driver's handle of a buffer.
///
/// Storages have no dtype, because the pool hands one out for f32 now and for bytes next, and the
/// engine views the bytes of an i32 as u8. They are shared (`Arc<dyn Storage>`) and written
/// through shared handles; the stream's turns are what keeps verbs apart. Atomic bytes say that
/// in safe Rust. Dropping the last handle frees the memory: a device whose work may still be
/// running must put that off until it is done.
pub(crate) struct Memory(Vec<AtomicU8>);

impl Memory {
    /// # Errors
    /// [`Error::OutOfMemory`]: the pool then gives back what lies free and asks once more.
    pub fn new(len: usize) -> Result<Self> {
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(len).map_err(|_| Error::OutOfMemory {
            requested_bytes: len,
            in_use_bytes: 0,
            device: NAME.into(),
        })?;
        bytes.resize_with(len, AtomicU8::default);
        Ok(Self(bytes))
    }

    /// The memory behind a view.
    ///
    /// # Errors
    /// [`Error::Devices`] for another backend's storage: users may mix devices by mistake.
    fn of<'a>(op: &'static str, view: &'a View) -> Result<&'a Self> {
        let (device, found) = (device(), view.device());
        view.storage.downcast_ref().ok_or(Error::Devices { op, device, found })
    }
}

impl Storage for Memory {
    fn bytes(&self) -> usize {
        self.0.len()
    }

    fn device(&self) -> DeviceId {
        device()
    }
}

/// The bytes of a contiguous view, which are `len`. Uploads and downloads take no other views and
/// do not pass `Verb::check`: `contiguous_range` looks in its place.
///
/// # Errors
/// [`Error::Shape`], [`Error::Devices`].
pub(crate) fn contiguous<'a>(
    op: &'static str,
    view: &'a View,
    len: usize,
) -> Result<&'a [AtomicU8]> {
    let memory = Memory::of(op, view)?;
    Ok(&memory.0[view.contiguous_range(op, len)?])
}

/// The elements of a view in row-major order, each read when the iterator comes to it. f64 holds
/// every element of every dtype exactly.
///
/// `positions` does what a kernel does with strides: in an input they may be 0 (repeated),
/// negative (backwards) or overlap, and a view may have no element at all or, of rank 0, one.
pub(crate) fn load<'a>(
    op: &'static str,
    view: &'a View,
) -> Result<impl Iterator<Item = f64> + use<'a>> {
    let (memory, dtype, size) = (Memory::of(op, view)?, view.dtype, view.dtype.size());
    Ok(view.layout.positions().map(move |at| {
        let mut element = [0; 4];
        let bytes = &memory.0[at * size..][..size];
        element.iter_mut().zip(bytes).for_each(|(to, byte)| *to = byte.load(Ordering::Relaxed));
        decode(dtype, element)
    }))
}

/// A place for the elements of an output, one after another in row-major order: each call stores
/// a number, rounded to the view's dtype. Bytes between the elements are not touched.
pub(crate) fn storer<'a>(op: &'static str, view: &'a View) -> Result<impl FnMut(f64) + use<'a>> {
    let (memory, dtype, size) = (Memory::of(op, view)?, view.dtype, view.dtype.size());
    let mut positions = view.layout.positions();
    Ok(move |x| {
        let Some(at) = positions.next() else { return };
        let bytes = &memory.0[at * size..][..size];
        bytes.iter().zip(encode(dtype, x)).for_each(|(to, byte)| to.store(byte, Ordering::Relaxed));
    })
}

/// An element from its bytes, of which the first `dtype.size()` count.
fn decode(dtype: DType, bytes: [u8; 4]) -> f64 {
    let short = [bytes[0], bytes[1]];
    match dtype {
        DType::F32 => f32::from_ne_bytes(bytes).into(),
        DType::F16 => f16::from_ne_bytes(short).into(),
        DType::BF16 => bf16::from_ne_bytes(short).into(),
        DType::I32 => i32::from_ne_bytes(bytes).into(),
        DType::U32 => u32::from_ne_bytes(bytes).into(),
        DType::U8 => bytes[0].into(),
        DType::I8 => i8::from_ne_bytes([bytes[0]]).into(),
    }
}

/// The bytes of a number. Reals become integers as by Rust's `as`: cut off, saturated, NaN to 0.
/// Narrow floats round to nearest even.
fn encode(dtype: DType, x: f64) -> [u8; 4] {
    let short = |[low, high]: [u8; 2]| [low, high, 0, 0];
    match dtype {
        DType::F32 => (x as f32).to_ne_bytes(),
        DType::F16 => short(f16::from_f32(x as f32).to_ne_bytes()),
        DType::BF16 => short(bf16::from_f32(x as f32).to_ne_bytes()),
        DType::I32 => (x as i32).to_ne_bytes(),
        DType::U32 => (x as u32).to_ne_bytes(),
        DType::U8 => [x as u8, 0, 0, 0],
        DType::I8 => [(x as i8) as u8, 0, 0, 0],
    }
}
