//! Products of i8: four numbers along k to a word, for `dot4I8Packed`.

use super::sides::{Lies, Side, batch};
use super::{LANES, Sizes, workspace};
use crate::kernel::{Kernel, looped};
use crate::operand::{Access, Width};
use crate::template::{Template, template};
use starling_contract::{DType, Gemm, Layout, Result, View};

const GEMM_PACK: Template = template!("gemm_pack");

/// Deeper sums of products of two i8 may leave i32: 2^17 * 2^14 = 2^31.
const MAX_K: usize = (1 << 17) - 1;

/// True for what the kernels below compute: an i32 result takes sums as they are, or adds them to
/// the old ones; any other is scaled and finished like a product of floats.
pub fn supports(v: &Gemm) -> bool {
    let k = v.a.shape()[v.a.layout.rank() - 1];
    let sums = v.alpha == 1.0 && (v.beta == 0.0 || v.beta == 1.0) && v.epilogue.is_none();
    k <= MAX_K && (v.c.dtype.is_float() || (v.c.dtype == DType::I32 && sums))
}

/// A matrix as lines of bytes along k.
struct Lines<'a> {
    view: &'a View,
    /// The axes of the lines and of k.
    axes: [usize; 2],
}

impl Lines<'_> {
    fn stride(&self, axis: usize) -> isize {
        self.view.layout.strides()[self.axes[axis]]
    }

    fn extent(&self, axis: usize) -> usize {
        self.view.shape()[self.axes[axis]]
    }

    /// The view in words, when its lines are whole fours of words.
    fn as_words(&self) -> Option<View> {
        let batch = batch(self.view);
        let (step, k) = (self.stride(0), self.extent(1));
        let wide = |x: isize| x % 16 == 0;
        let together = self.stride(1) == 1
            && k.is_multiple_of(16)
            && batch.offset().is_multiple_of(16)
            && batch.shape().iter().zip(batch.strides()).all(|(&n, &s)| n <= 1 || wide(s))
            && (self.extent(0) <= 1 || wide(step));
        // Nothing is read of lines without elements.
        if !together && k > 0 {
            return None;
        }
        let (mut shape, mut strides) =
            (self.view.shape().to_vec(), self.view.layout.strides().to_vec());
        strides.iter_mut().for_each(|s| *s = if k == 0 { 0 } else { *s / 4 });
        shape[self.axes[1]] = k / 4;
        strides[self.axes[1]] = 1;
        let offset = if k == 0 { 0 } else { self.view.layout.offset() / 4 };
        let layout = Layout::new(&shape, &strides, offset);
        Some(View { storage: self.view.storage.clone(), dtype: DType::U32, layout })
    }

    /// Bytes of the packed copy; 0 when the view serves as it lies.
    fn packed_bytes(&self, batches: usize) -> usize {
        match self.as_words() {
            Some(_) => 0,
            None => batches * self.extent(0) * self.extent(1).next_multiple_of(16),
        }
    }

    /// The packed copy, lines of k at byte `at` of `space`, and the kernel that makes it.
    fn packed(&self, s: &Sizes, space: &View, at: usize) -> (Kernel, View) {
        let (lines, k) = (self.extent(0), self.extent(1));
        let words = k.div_ceil(16) * 4;
        let rank = self.view.layout.rank();
        let mut shape = self.view.shape().to_vec();
        (shape[rank - 2], shape[rank - 1]) = (lines, words);
        let mut layout = Layout::contiguous(&shape);
        layout = Layout::new(&shape, layout.strides(), at / 4);
        let y = View { storage: space.storage.clone(), dtype: DType::U32, layout };
        let mut kernel = Kernel::new(GEMM_PACK);
        let bits = |stride: isize| stride as i32 as u32;
        kernel.turns(looped(4, 0));
        kernel.constant("WG", LANES as u32).word("words", words).word("lines", lines);
        kernel.word("batches", s.batches).word("k", k);
        kernel.bits("step", bits(self.stride(0))).bits("inner", bits(self.stride(1)));
        kernel.over("x", self.view, Access::Read, &batch(self.view), Width::One);
        kernel.operand("y", &y, Access::Write);
        kernel.groups((s.batches * lines * words).div_ceil(LANES));
        (kernel, y)
    }
}

fn lines<'a>(v: &'a Gemm, s: &Sizes) -> [Lines<'a>; 2] {
    let last = v.c.layout.rank() - 1;
    let a = Lines { view: &v.a, axes: [last - 1, last] };
    let b = Lines { view: &v.b, axes: [last, last - 1] };
    if s.swapped { [b, a] } else { [a, b] }
}

/// Bytes for the packed copies.
pub fn workspace_bytes(v: &Gemm, s: &Sizes) -> usize {
    lines(v, s).iter().map(|x| x.packed_bytes(s.batches)).sum()
}

/// The matrices on the left and on the right in words, and the kernels that pack them.
///
/// # Errors
/// As [`workspace`].
pub fn sides(v: &Gemm, s: &Sizes, kernels: &mut Vec<Kernel>) -> Result<(Side, Side)> {
    let mut at = 0;
    let both = lines(v, s);
    let bytes = workspace_bytes(v, s);
    let mut side = |x: &Lines<'_>| -> Result<Side> {
        if let Some(view) = x.as_words() {
            let k_is_last = x.axes[1] > x.axes[0];
            return Ok(Side::new(&view, k_is_last, Lies::AlongK));
        }
        let (kernel, view) = x.packed(s, workspace(v, bytes)?, at);
        at += x.packed_bytes(s.batches);
        kernels.push(kernel);
        Ok(Side::new(&view, true, Lies::AlongK))
    };
    Ok((side(&both[0])?, side(&both[1])?))
}
