//! Elements of host memory as numbers.

use half::{bf16, f16};
use starling_contract::{DType, Error, HostStorage, Result, View};
use starling_ops::narrow::round_to_odd;

/// An element as `Copy` of the contract sees it: conversions between integers wrap, those from real
/// numbers saturate, so the two must be told apart.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Element {
    /// Of an integer type.
    Whole(i64),
    /// Of a floating-point type.
    Real(f64),
}

impl Element {
    /// The number itself; every element of every type is exact in f64.
    pub fn value(self) -> f64 {
        match self {
            Element::Whole(x) => x as f64,
            Element::Real(x) => x,
        }
    }

    /// What the element is after a conversion to `dtype`; for the floating-point types before
    /// it is rounded.
    pub fn convert(self, dtype: DType) -> f64 {
        match (self, dtype) {
            (Element::Whole(x), DType::I32) => f64::from(x as i32),
            (Element::Whole(x), DType::U32) => f64::from(x as u32),
            (Element::Whole(x), DType::U8) => f64::from(x as u8),
            (Element::Whole(x), DType::I8) => f64::from(x as i8),
            (Element::Real(x), DType::I32) => f64::from(x as i32),
            (Element::Real(x), DType::U32) => f64::from(x as u32),
            (Element::Real(x), DType::U8) => f64::from(x as u8),
            (Element::Real(x), DType::I8) => f64::from(x as i8),
            (element, _) => element.value(),
        }
    }
}

/// `x` rounded once, to nearest even, to `dtype`; integers as by Rust's `as`.
pub fn round_to(dtype: DType, x: f64) -> f64 {
    match dtype {
        DType::F32 => f64::from(x as f32),
        DType::F16 => f16::from_f32(round_to_odd(x)).to_f64(),
        DType::BF16 => bf16::from_f32(round_to_odd(x)).to_f64(),
        _ => Element::Real(x).convert(dtype),
    }
}

/// The elements of a checked view in row-major order, for who has the turn of host memory.
///
/// # Errors
/// [`Error::Shape`] when the view reaches outside its storage or lies in another backend's memory.
pub(crate) fn elements(view: &View) -> Result<Vec<Element>> {
    let start = pointer(view)?;
    let size = view.dtype.size();
    let load = |at: usize| {
        let mut bytes = [0u8; 4];
        // SAFETY: `pointer` checked that the extent of the view lies inside the storage, and the
        // caller has the turn; `size` is at most 4.
        unsafe {
            std::ptr::copy_nonoverlapping(start.add(at * size), bytes.as_mut_ptr(), size);
        }
        decode(view.dtype, bytes)
    };
    Ok(view.layout.positions().map(load).collect())
}

/// The elements of a view as f64 in row-major order, after every verb and transfer of before.
///
/// # Errors
/// [`Error::Shape`] when the view reaches outside its storage or lies in another backend's memory.
pub fn read(view: &View) -> Result<Vec<f64>> {
    let _turn = HostStorage::turn();
    load(view)
}

/// Rounds each number once to the view's type and stores it, after every verb and transfer of
/// before.
///
/// # Errors
/// As [`read`]; [`Error::Shape`] when there are not as many numbers as elements.
pub fn write(view: &View, values: &[f64]) -> Result<()> {
    let _turn = HostStorage::turn();
    store(view, values)
}

/// As [`read`], for who has the turn.
pub(crate) fn load(view: &View) -> Result<Vec<f64>> {
    Ok(elements(view)?.into_iter().map(Element::value).collect())
}

/// As [`write`], for who has the turn.
pub(crate) fn store(view: &View, values: &[f64]) -> Result<()> {
    let start = pointer(view)?;
    if values.len() != view.len() {
        let message = format!("{} numbers for {view:?}", values.len());
        return Err(Error::shape("write", message));
    }
    let size = view.dtype.size();
    for (at, &x) in view.layout.positions().zip(values) {
        let bytes = encode(view.dtype, x);
        // SAFETY: as in `elements`.
        unsafe {
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), start.add(at * size), size);
        }
    }
    Ok(())
}

/// The first byte of the view's storage, after checking that every element lies inside it.
fn pointer(view: &View) -> Result<*mut u8> {
    let start = HostStorage::of(view)
        .ok_or_else(|| Error::shape("reference", "a view lies in another backend's memory"))?;
    if let Some((low, high)) = view.layout.extent() {
        let end = (high as usize).checked_add(1).and_then(|n| n.checked_mul(view.dtype.size()));
        if low < 0 || end.is_none_or(|end| end > view.storage.bytes()) {
            return Err(Error::shape("reference", format!("{view:?} is outside its storage")));
        }
    }
    Ok(start)
}

/// An element from its bytes, of which the first `dtype.size()` count.
pub fn decode(dtype: DType, bytes: [u8; 4]) -> Element {
    let short = [bytes[0], bytes[1]];
    match dtype {
        DType::F32 => Element::Real(f32::from_ne_bytes(bytes).into()),
        DType::F16 => Element::Real(f16::from_ne_bytes(short).to_f64()),
        DType::BF16 => Element::Real(bf16::from_ne_bytes(short).to_f64()),
        DType::I32 => Element::Whole(i32::from_ne_bytes(bytes).into()),
        DType::U32 => Element::Whole(u32::from_ne_bytes(bytes).into()),
        DType::U8 => Element::Whole(bytes[0].into()),
        DType::I8 => Element::Whole((bytes[0] as i8).into()),
    }
}

/// The bytes of `x` rounded to `dtype`, of which the first `dtype.size()` count.
pub fn encode(dtype: DType, x: f64) -> [u8; 4] {
    let short = |b: [u8; 2]| [b[0], b[1], 0, 0];
    match dtype {
        DType::F32 => (x as f32).to_ne_bytes(),
        DType::F16 => short(f16::from_f32(round_to_odd(x)).to_ne_bytes()),
        DType::BF16 => short(bf16::from_f32(round_to_odd(x)).to_ne_bytes()),
        DType::I32 => (x as i32).to_ne_bytes(),
        DType::U32 => (x as u32).to_ne_bytes(),
        DType::U8 => [x as u8, 0, 0, 0],
        DType::I8 => [x as i8 as u8, 0, 0, 0],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn narrow_types_round_once() {
        // Just above the middle of 1 and the next f16: through f32 it would fall on the middle
        // and then to 1.
        let x = 1.0 + 1.0 / 2048.0 + 1e-12;
        assert_eq!(round_to(DType::F16, x), 1.0 + 1.0 / 1024.0);
        let x = 1.0 + 1.0 / 256.0 + 1e-12;
        assert_eq!(round_to(DType::BF16, x), 1.0 + 1.0 / 128.0);
        assert_eq!(round_to(DType::F16, 65520.0), f64::INFINITY);
        assert_eq!(round_to(DType::F16, 65519.0), 65504.0);
        assert_eq!(round_to(DType::F16, 1e-8), 0.0);
        assert!(round_to(DType::BF16, f64::NAN).is_nan());
    }

    #[test]
    fn integers_wrap_and_reals_saturate() {
        assert_eq!(Element::Whole(300).convert(DType::U8), 44.0);
        assert_eq!(Element::Whole(-1).convert(DType::U32), 4294967295.0);
        assert_eq!(Element::Real(300.7).convert(DType::U8), 255.0);
        assert_eq!(Element::Real(-1.5).convert(DType::I8), -1.0);
        assert_eq!(Element::Real(f64::NAN).convert(DType::I32), 0.0);
    }
}
