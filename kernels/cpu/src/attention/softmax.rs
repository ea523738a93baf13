//! What happens to a block of scores between the products: masks, the online softmax (Milakov and
//! Gimelshein 2018) and its gradient.

use super::product::splat;
use crate::isa::Kernel;
use crate::simd::Simd;

/// The most queries of a block.
pub const MAX_QUERIES: usize = 64;
/// The most keys of a block.
pub const MAX_KEYS: usize = 256;
/// The most lanes of a register.
pub const MAX_LANES: usize = 16;

/// A mask from the block's first row and column on; strides in elements.
#[derive(Clone, Copy)]
pub struct MaskBlock {
    pub at: MaskPointer,
    pub row: isize,
    pub col: isize,
}

/// What a mask holds.
#[derive(Clone, Copy)]
pub enum MaskPointer {
    /// Added to the scores.
    Add(*const f32),
    /// A score stays where this is not 0.
    Keep(*const u8),
}

/// A block of scores, rows `row` apart, whole vectors readable and writable.
#[derive(Clone, Copy)]
pub struct Scores {
    pub at: *mut f32,
    pub row: usize,
    pub rows: usize,
    pub cols: usize,
    /// Row `i` sees `i + o` columns.
    pub causal: Option<isize>,
    /// For each row the first key that it sees and the one behind the last; column 0 is key
    /// `first_col`.
    pub spans: Option<*const [u32; 2]>,
    pub first_col: usize,
    pub mask: Option<MaskBlock>,
    /// Something else makes scores of -inf or weights of 0.
    pub may_hide: bool,
}

impl Scores {
    /// How many columns row `i` sees.
    #[inline(always)]
    fn len(&self, i: usize) -> usize {
        match self.causal {
            None => self.cols,
            Some(o) => (i as isize + o).clamp(0, self.cols as isize) as usize,
        }
    }
}

/// One block's step of the online softmax: scores become `exp(score - max)`.
pub struct OnlineSoftmax {
    pub scores: Scores,
    /// No block came before.
    pub first: bool,
    /// Each row's largest score so far; `rows` rounded up to whole vectors.
    pub max: *mut f32,
    /// Each row's sum so far, one vector per row.
    pub sum: *mut f32,
    /// What the earlier blocks' result must be multiplied by; as `max`.
    pub rescale: *mut f32,
}

/// A description whose maker promised that its pointers are valid.
struct Checked<T>(T);

impl OnlineSoftmax {
    /// The step as a kernel.
    ///
    /// # Safety
    /// While it runs, every pointer is good for what its field says.
    pub unsafe fn kernel(self) -> impl Kernel<Out = ()> {
        Checked(self)
    }
}

impl Kernel for Checked<OnlineSoftmax> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let mut bias = [0.0f32; MAX_KEYS + MAX_LANES];
        for first_row in (0..self.0.scores.rows).step_by(S::LANES) {
            // SAFETY: `OnlineSoftmax::kernel`'s caller promised that the pointers are good for
            // `rows` rows, rounded up to whole vectors.
            unsafe { online_rows(s, &self.0, first_row, &mut bias) }
        }
    }
}

/// As many rows as there are lanes, so that their rescaling factors are one vector.
///
/// # Safety
/// The pointers are good for what [`OnlineSoftmax`] says.
#[inline(always)]
unsafe fn online_rows<S: Simd>(
    s: S,
    p: &OnlineSoftmax,
    first_row: usize,
    bias: &mut [f32; MAX_KEYS + MAX_LANES],
) {
    let scores = &p.scores;
    let end = scores.rows.min(first_row + S::LANES);
    let low = f32::NEG_INFINITY;
    let mut top = [low; MAX_LANES];
    // SAFETY: as the caller promises; `top` has room for a vector.
    unsafe {
        for i in first_row..end {
            apply_mask(s, scores, i, bias);
            top[i - first_row] = row_max(s, scores.at.add(i * scores.row), scores.len(i));
        }
        let top = s.load(top.as_ptr());
        let old = if p.first { splat(s, low) } else { s.load(p.max.add(first_row)) };
        let new = s.select(s.lt(old, top), top, old);
        s.store(p.max.add(first_row), new);
        // A row that sees nothing yet subtracts 0: its exponentials are then 0, not NaN.
        let shift = s.select(s.eq(new, splat(s, low)), s.lit(0.0), new);
        let rescale = s.exp(s.sub(old, shift));
        s.store(p.rescale.add(first_row), rescale);
        let mut shifts = [0.0f32; MAX_LANES];
        s.store(shifts.as_mut_ptr(), shift);
        let fill = scores.len(scores.rows - 1);
        for i in first_row..end {
            let sum = p.sum.add(i * S::LANES);
            let before =
                if p.first { s.lit(0.0) } else { s.mul(s.load(sum), splat(s, *p.rescale.add(i))) };
            let row = scores.at.add(i * scores.row);
            let here = exp_row(s, row, scores.len(i), fill, shifts[i - first_row]);
            s.store(sum, s.add(before, here));
        }
    }
}

/// The largest of `n` numbers; a NaN among them may be passed over, `exp_row` keeps it.
///
/// # Safety
/// `n` numbers, rounded up to whole vectors, are readable.
#[inline(always)]
unsafe fn row_max<S: Simd>(s: S, row: *const f32, n: usize) -> f32 {
    let low = splat(s, f32::NEG_INFINITY);
    let (mut a, mut b) = (low, low);
    // SAFETY: the caller promises `n` numbers, rounded up to whole vectors.
    unsafe {
        let mut j = 0;
        while j + 2 * S::LANES <= n {
            let (x, y) = (s.load(row.add(j)), s.load(row.add(j + S::LANES)));
            a = s.select(s.lt(a, x), x, a);
            b = s.select(s.lt(b, y), y, b);
            j += 2 * S::LANES;
        }
        while j < n {
            let x = first_lanes(s, s.load(row.add(j)), n - j, low);
            a = s.select(s.lt(a, x), x, a);
            j += S::LANES;
        }
    }
    s.max_lane(s.select(s.lt(a, b), b, a))
}

/// `row[j] = exp(row[j] - shift)` for `j < n`, zeros up to `fill`, rounded up to whole vectors;
/// their sum by lane.
///
/// # Safety
/// `fill >= n` numbers, rounded up to whole vectors, are readable and writable.
#[inline(always)]
unsafe fn exp_row<S: Simd>(s: S, row: *mut f32, n: usize, fill: usize, shift: f32) -> S::V {
    let (zero, shift) = (s.lit(0.0), splat(s, shift));
    let mut sum = zero;
    let mut j = 0;
    // SAFETY: the caller promises `fill >= n` numbers, rounded up to whole vectors.
    unsafe {
        while j + S::LANES <= n {
            let e = s.exp(s.sub(s.load(row.add(j)), shift));
            s.store(row.add(j), e);
            sum = s.add(sum, e);
            j += S::LANES;
        }
        if j < n {
            let e = s.exp(s.sub(s.load(row.add(j)), shift));
            let e = first_lanes(s, e, n - j, zero);
            s.store(row.add(j), e);
            sum = s.add(sum, e);
            j += S::LANES;
        }
        while j < fill {
            s.store(row.add(j), zero);
            j += S::LANES;
        }
    }
    sum
}

/// The first `n` lanes of `v`, the others from `other`.
#[inline(always)]
fn first_lanes<S: Simd>(s: S, v: S::V, n: usize, other: S::V) -> S::V {
    if n >= S::LANES {
        return v;
    }
    s.select(s.lt(s.to_real(s.iota(0)), splat(s, n as f32)), v, other)
}

/// Puts -inf where row `i` may not see a key, and adds its mask.
///
/// # Safety
/// The scores are good for what [`Scores`] says, and the mask is readable.
#[inline(always)]
unsafe fn apply_mask<S: Simd>(
    s: S,
    scores: &Scores,
    i: usize,
    bias: &mut [f32; MAX_KEYS + MAX_LANES],
) {
    let n = scores.len(i);
    if let Some(spans) = scores.spans {
        // SAFETY: the caller promises a span for each row, and rows of `cols` scores.
        unsafe {
            let [begin, end] = *spans.add(i);
            let row = std::slice::from_raw_parts_mut(scores.at.add(i * scores.row), n);
            let begin = (begin as usize).saturating_sub(scores.first_col).min(n);
            let end = (end as usize).saturating_sub(scores.first_col).clamp(begin, n);
            row[..begin].fill(f32::NEG_INFINITY);
            row[end..].fill(f32::NEG_INFINITY);
        }
    }
    let Some(mask) = scores.mask else { return };
    let skip = i as isize * mask.row;
    let row = scores.at.wrapping_add(i * scores.row);
    // SAFETY: the caller promises that the mask is readable for `rows` by `cols` elements, and the
    // scores for whole vectors; `n <= cols <= MAX_KEYS`.
    unsafe {
        match mask.at {
            MaskPointer::Add(at) => {
                for (j, b) in bias[..n].iter_mut().enumerate() {
                    *b = *at.wrapping_offset(skip + j as isize * mask.col);
                }
                let low = splat(s, f32::NEG_INFINITY);
                for j in (0..n).step_by(S::LANES) {
                    let (at, bias) = (row.add(j), s.load(bias.as_ptr().add(j)));
                    let sum = s.add(s.load(at), bias);
                    // Not NaN, whatever the key holds.
                    s.store(at, s.select(s.eq(bias, low), low, sum));
                }
            }
            MaskPointer::Keep(at) => {
                for (j, b) in bias[..n].iter_mut().enumerate() {
                    *b = (*at.wrapping_offset(skip + j as isize * mask.col)).into();
                }
                let (zero, low) = (s.lit(0.0), splat(s, f32::NEG_INFINITY));
                for j in (0..n).step_by(S::LANES) {
                    let (at, keep) = (row.add(j), s.load(bias.as_ptr().add(j)));
                    s.store(at, s.select(s.ne(keep, zero), s.load(at), low));
                }
            }
        }
    }
}

/// What is left after the last block.
pub struct Finish {
    pub rows: usize,
    /// As [`OnlineSoftmax::max`]; becomes the log-sum-exp.
    pub max: *mut f32,
    /// As [`OnlineSoftmax::sum`].
    pub sum: *const f32,
    /// Becomes the factor of each row of the result: one over its sum.
    pub factor: *mut f32,
}

impl Finish {
    /// The last step as a kernel.
    ///
    /// # Safety
    /// While it runs, every pointer is good for what its field says.
    pub unsafe fn kernel(self) -> impl Kernel<Out = ()> {
        Checked(self)
    }
}

impl Kernel for Checked<Finish> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let p = self.0;
        for first_row in (0..p.rows).step_by(S::LANES) {
            let mut sums = [0.0f32; MAX_LANES];
            // SAFETY: `Finish::kernel`'s caller promised the pointers for `rows`, rounded up to
            // whole vectors; the sums are read for `rows` only.
            unsafe {
                for i in first_row..p.rows.min(first_row + S::LANES) {
                    sums[i - first_row] = s.sum(s.load(p.sum.add(i * S::LANES)));
                }
                let sum = s.load(sums.as_ptr());
                let (zero, max) = (s.lit(0.0), p.max.add(first_row));
                s.store(max, s.add(s.load(max), s.log(sum)));
                let factor = s.select(s.eq(sum, zero), zero, s.div(s.lit(1.0), sum));
                s.store(p.factor.add(first_row), factor);
            }
        }
    }
}

/// The softmax of a block again, and its gradient: scores become `p = exp(score - lse)` and
/// `d_p` becomes `p (d_p - delta)`.
pub struct Gradient {
    pub scores: Scores,
    /// Laid out as the scores.
    pub d_p: *mut f32,
    /// Log-sum-exp by row.
    pub lse: *const f32,
    /// `sum of d_out * out` by row.
    pub delta: *const f32,
}

impl Gradient {
    /// The step as a kernel.
    ///
    /// # Safety
    /// While it runs, every pointer is good for what its field says.
    pub unsafe fn kernel(self) -> impl Kernel<Out = ()> {
        Checked(self)
    }
}

impl Kernel for Checked<Gradient> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let p = self.0;
        let mut bias = [0.0f32; MAX_KEYS + MAX_LANES];
        let fill = p.scores.len(p.scores.rows.saturating_sub(1));
        for i in 0..p.scores.rows {
            // SAFETY: `Gradient::kernel`'s caller promised the pointers for `rows` rows.
            unsafe {
                apply_mask(s, &p.scores, i, &mut bias);
                let (lse, delta) = (*p.lse.add(i), *p.delta.add(i));
                // A row that saw nothing has no gradient.
                let n = if lse == f32::NEG_INFINITY { 0 } else { p.scores.len(i) };
                let at = i * p.scores.row;
                gradient_row(s, p.scores.at.add(at), p.d_p.add(at), n, fill, lse, delta);
            }
        }
    }
}

/// `row[j] = p = exp(row[j] - lse)` and `d_row[j] = p (d_row[j] - delta)` for `j < n`, zeros up to
/// `fill`, rounded up to whole vectors.
///
/// # Safety
/// `fill >= n` numbers of both rows, rounded up to whole vectors, are readable and writable.
#[inline(always)]
unsafe fn gradient_row<S: Simd>(
    s: S,
    row: *mut f32,
    d_row: *mut f32,
    n: usize,
    fill: usize,
    lse: f32,
    delta: f32,
) {
    let (zero, lse, delta) = (s.lit(0.0), splat(s, lse), splat(s, delta));
    let low = splat(s, f32::NEG_INFINITY);
    let mut j = 0;
    // SAFETY: the caller promises `fill >= n` numbers in both rows, rounded up to whole vectors.
    unsafe {
        while j < n {
            let score = s.load(row.add(j));
            // What is hidden counts nothing, whatever its key, its value and its query hold.
            let hidden = s.eq(score, low);
            let p = s.select(hidden, zero, s.exp(s.sub(score, lse)));
            let d = s.mul(p, s.sub(s.load(d_row.add(j)), delta));
            let d = s.select(hidden, zero, d);
            s.store(row.add(j), first_lanes(s, p, n - j, zero));
            s.store(d_row.add(j), first_lanes(s, d, n - j, zero));
            j += S::LANES;
        }
        while j < fill {
            s.store(row.add(j), zero);
            s.store(d_row.add(j), zero);
            j += S::LANES;
        }
    }
}
