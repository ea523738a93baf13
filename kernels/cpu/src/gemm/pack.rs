//! Packing: a strip of A's rows or B's columns becomes a panel that the micro-kernel reads from
//! front to back.

use super::micro::prefetch;
use crate::isa::Kernel;
use crate::simd::Simd;

/// Lanes of the widest register.
const MAX_LANES: usize = 16;
/// Rows between the one that is copied and the one that is prefetched.
const AHEAD: isize = 16;
/// Most panels that are packed together.
const TOGETHER: usize = 4;

/// A strip of `count` rows of A (or columns of B) and its panel:
/// `dst[p * width + i] = src[i * across + p * along]`, zero for `count <= i < width`.
#[derive(Clone, Copy)]
pub(crate) struct Strip {
    /// Element (0, 0).
    pub src: *const f32,
    /// Distance of neighbours across the strip: of A's rows, of B's columns.
    pub across: isize,
    /// Distance of neighbours along k.
    pub along: isize,
    /// Rows of A, columns of B.
    pub count: usize,
    /// The panel's width.
    pub width: usize,
    /// Length along k.
    pub k: usize,
    /// The panel: `k * width` numbers.
    pub dst: *mut f32,
}

/// Packs a strip.
///
/// # Safety
/// The strip's source is readable and its panel writable, as [`Strip`] says.
#[inline(always)]
pub(crate) unsafe fn pack<S: Simd>(s: S, strip: &Strip) {
    // SAFETY: the caller's promise is handed on.
    unsafe {
        if strip.across == 1 {
            rows_of_panels(s, strip, 1);
        } else if strip.along == 1 && S::LANES > 1 {
            transposed(s, strip);
        } else {
            gathered(strip, 0, 0);
        }
        if strip.count < strip.width {
            zero_tail(strip);
        }
    }
}

/// The strip's rows are rows of the panel: copies. `panels` strips that lie beside each other are
/// packed together, because longer runs of the source are read faster.
///
/// # Safety
/// As [`pack`], for each of the strips.
#[inline(always)]
unsafe fn rows_of_panels<S: Simd>(s: S, strip: &Strip, panels: usize) {
    let whole = strip.count - strip.count % S::LANES;
    for p in 0..strip.k {
        let src = strip.src.wrapping_offset(p as isize * strip.along);
        // The hardware does not follow rows that lie pages apart.
        let ahead = src.wrapping_offset(AHEAD * strip.along);
        for i in (0..strip.count * panels).step_by(MAX_LANES) {
            prefetch(ahead.wrapping_add(i));
        }
        for panel in 0..panels {
            let src = src.wrapping_add(panel * strip.count);
            let dst = strip.dst.wrapping_add((panel * strip.k + p) * strip.width);
            // SAFETY: the row holds `count` numbers in the source and at least that in the panel.
            unsafe {
                for i in (0..whole).step_by(S::LANES) {
                    s.store(dst.add(i), s.load(src.add(i)));
                }
                if whole < strip.count {
                    let rest = strip.count - whole;
                    let v = s.load_first(src.add(whole), rest);
                    s.store_first(dst.add(whole), rest, v);
                }
            }
        }
    }
}

/// k is adjacent in the source: squares of one register are transposed.
///
/// # Safety
/// As [`pack`], with `along == 1`.
#[inline(always)]
unsafe fn transposed<S: Simd>(s: S, strip: &Strip) {
    let whole = strip.k - strip.k % S::LANES;
    for i in (0..strip.count).step_by(S::LANES) {
        let rows = S::LANES.min(strip.count - i);
        let src = strip.src.wrapping_offset(i as isize * strip.across);
        for p in (0..whole).step_by(S::LANES) {
            let mut square = [s.lit(0.0); MAX_LANES];
            for (r, row) in square[..S::LANES].iter_mut().enumerate() {
                // Rows that are not there repeat the last one; they are not stored.
                let at = src.wrapping_offset(r.min(rows - 1) as isize * strip.across);
                // SAFETY: the row is one of the strip's and p + LANES <= k.
                *row = unsafe { s.load(at.wrapping_add(p)) };
            }
            s.transpose(&mut square[..S::LANES]);
            let dst = strip.dst.wrapping_add(p * strip.width + i);
            for (r, &row) in square[..S::LANES].iter().enumerate() {
                // SAFETY: columns i .. i + rows of the panel's row p + r.
                unsafe {
                    if rows == S::LANES {
                        s.store(dst.wrapping_add(r * strip.width), row);
                    } else {
                        s.store_first(dst.wrapping_add(r * strip.width), rows, row);
                    }
                }
            }
        }
    }
    // SAFETY: the caller's promise is handed on.
    unsafe { gathered(strip, 0, whole) }
}

/// Any strides, one number at a time, from row `i0` and position `p0` on.
///
/// # Safety
/// As [`pack`].
#[inline(always)]
unsafe fn gathered(strip: &Strip, i0: usize, p0: usize) {
    for i in i0..strip.count {
        let src = strip.src.wrapping_offset(i as isize * strip.across);
        for p in p0..strip.k {
            // SAFETY: element (i, p) of the strip.
            unsafe {
                let x = *src.wrapping_offset(p as isize * strip.along);
                *strip.dst.add(p * strip.width + i) = x;
            }
        }
    }
}

/// Zeros in the columns of the panel that the strip does not fill.
///
/// # Safety
/// As [`pack`].
unsafe fn zero_tail(strip: &Strip) {
    for p in 0..strip.k {
        for i in strip.count..strip.width {
            // SAFETY: inside the panel.
            unsafe { *strip.dst.add(p * strip.width + i) = 0.0 };
        }
    }
}

/// Packing as work for an instruction set: a strip of `count` rows or columns, cut into panels of
/// `width`; panel `i` starts `i * width * k` numbers behind the first.
pub(super) struct Pack {
    /// The whole strip; `width` is the widest panel.
    pub strip: Strip,
    /// The last panel is padded to a multiple of this.
    pub pad: usize,
}

impl Kernel for Pack {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Strip { count, width, .. } = self.strip;
        let mut start = 0;
        while start < count {
            let beside = ((count - start) / width).min(TOGETHER);
            if self.strip.across == 1 && beside > 1 {
                let strips = Strip {
                    src: self.strip.src.wrapping_add(start),
                    count: width,
                    dst: self.strip.dst.wrapping_add(start * self.strip.k),
                    ..self.strip
                };
                // SAFETY: the one who makes a `Pack` promises the whole strip.
                unsafe { rows_of_panels(s, &strips, beside) }
                start += beside * width;
                continue;
            }
            let count = width.min(count - start);
            let panel = Strip {
                src: self.strip.src.wrapping_offset(start as isize * self.strip.across),
                count,
                width: count.next_multiple_of(self.pad),
                dst: self.strip.dst.wrapping_add(start * self.strip.k),
                ..self.strip
            };
            // SAFETY: the one who makes a `Pack` promises the whole strip.
            unsafe { pack(s, &panel) }
            start += width;
        }
    }
}
