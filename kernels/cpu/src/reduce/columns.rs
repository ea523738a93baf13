//! Columns of a matrix whose rows are reduced onto each other, a vector of columns at a time.

use super::partial::Partial;
use crate::isa::Kernel;
use crate::simd::Simd;
use starling_api::ReduceKind;

/// Rows that are added in f32 before f64 takes over.
const ROWS: usize = 32;
/// Vectors of columns that are walked down together.
const WIDE: usize = 4;

/// Merges `rows` rows of `n` numbers, `stride` apart, into the parts of `n` columns.
pub(crate) struct Columns {
    kind: ReduceKind,
    from: *const f32,
    stride: usize,
    rows: usize,
    n: usize,
    /// Position of the first row.
    at: usize,
    to: *mut Partial,
}

impl Columns {
    /// `at` is the position of the first row among those that are reduced together.
    ///
    /// # Safety
    /// Each row is readable and `to` holds `n` parts.
    pub unsafe fn new(
        kind: ReduceKind,
        from: *const f32,
        stride: usize,
        [rows, n]: [usize; 2],
        at: usize,
        to: *mut Partial,
    ) -> Self {
        Self { kind, from, stride, rows, n, at, to }
    }
}

impl Kernel for Columns {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for first in (0..self.rows).step_by(ROWS) {
            let rows = ROWS.min(self.rows - first);
            let mut column = 0;
            // SAFETY: `new`'s caller promised the rows and the parts.
            unsafe {
                while column + WIDE * S::LANES <= self.n {
                    self.group::<S, WIDE>(s, [first, rows], column, S::LANES);
                    column += WIDE * S::LANES;
                }
                while column < self.n {
                    let lanes = S::LANES.min(self.n - column);
                    self.group::<S, 1>(s, [first, rows], column, lanes);
                    column += lanes;
                }
            }
        }
    }
}

impl Columns {
    /// One vector of a row; of a last one, `lanes` columns.
    ///
    /// # Safety
    /// The row and the columns are among those of [`Columns::new`].
    #[inline(always)]
    unsafe fn read<S: Simd>(&self, s: S, row: usize, column: usize, lanes: usize) -> S::V {
        // SAFETY: the caller's promise.
        unsafe {
            let p = self.from.add(row * self.stride + column);
            if lanes == S::LANES { s.load(p) } else { s.load_first(p, lanes) }
        }
    }

    /// Reduces some rows of `V` vectors of columns; of the last one, `lanes` columns.
    ///
    /// # Safety
    /// The rows and columns are among those of [`Columns::new`].
    #[inline(always)]
    unsafe fn group<S: Simd, const V: usize>(
        &self,
        s: S,
        [first, rows]: [usize; 2],
        column: usize,
        lanes: usize,
    ) {
        let mut values = [0.0f32; WIDE * 16];
        let mut others = [0.0f32; WIDE * 16];
        let mut shifts = [0.0f32; WIDE * 16];
        let mut a = [s.lit(0.0); V];
        for v in 0..V {
            // SAFETY: the caller's promise.
            a[v] = unsafe { self.read(s, first, column + v * S::LANES, lanes) };
        }
        let mut b = [s.lit(0.0); V];
        let mut sums = [s.lit(0.0); V];
        let start = a;
        for row in 1..rows {
            for v in 0..V {
                // SAFETY: the caller's promise.
                let x = unsafe { self.read(s, first + row, column + v * S::LANES, lanes) };
                match self.kind {
                    ReduceKind::Sum | ReduceKind::Mean => a[v] = s.add(a[v], x),
                    ReduceKind::Max => a[v] = s.max(a[v], x),
                    ReduceKind::Min => a[v] = s.min(a[v], x),
                    ReduceKind::ArgMax | ReduceKind::ArgMin => {
                        let beats = if self.kind == ReduceKind::ArgMax {
                            s.lt(a[v], x)
                        } else {
                            s.lt(x, a[v])
                        };
                        let beats = s.or(beats, s.and(s.ne(x, x), s.eq(a[v], a[v])));
                        a[v] = s.select(beats, x, a[v]);
                        b[v] = s.select(beats, s.from_bits(s.ulit(row as u32)), b[v]);
                    }
                    // Until the end `a` holds the first row, by which the others are shifted.
                    ReduceKind::Var { .. } => {
                        let d = s.sub(x, start[v]);
                        sums[v] = s.add(sums[v], d);
                        b[v] = s.fma(d, d, b[v]);
                    }
                }
            }
        }
        if matches!(self.kind, ReduceKind::Var { .. }) {
            for v in 0..V {
                // An infinite first number must show: its distance from itself is NaN.
                a[v] = s.add(sums[v], s.sub(start[v], start[v]));
            }
        }
        for v in 0..V {
            // SAFETY: the arrays hold `WIDE` vectors of the widest kind.
            unsafe {
                s.store(values.as_mut_ptr().add(v * S::LANES), a[v]);
                s.store(others.as_mut_ptr().add(v * S::LANES), b[v]);
                s.store(shifts.as_mut_ptr().add(v * S::LANES), start[v]);
            }
        }
        let columns = (V - 1) * S::LANES + lanes;
        for c in 0..columns {
            let part = match self.kind {
                ReduceKind::Var { .. } => Partial::shifted(rows, shifts[c], values[c], others[c]),
                ReduceKind::ArgMax | ReduceKind::ArgMin => {
                    let at = self.at + first + others[c].to_bits() as usize;
                    Partial::of(rows, values[c], at)
                }
                _ => Partial::of(rows, values[c], 0),
            };
            // SAFETY: the caller promised a part for each column.
            unsafe { (*self.to.add(column + c)).merge(self.kind, &part) };
        }
    }
}
