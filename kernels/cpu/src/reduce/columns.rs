//! Columns of a matrix whose rows are reduced onto each other, a vector of columns at a time.

use super::partial::Partial;
use crate::isa::{Isa, Kernel};
use crate::simd::Simd;
use starling_contract::ReduceKind;

/// Rows that are added in f32 before f64 takes over.
const ROWS: usize = 32;
/// Vectors of columns that are walked down together.
const WIDE: usize = 4;

/// Reduces rows onto each other: up to [`ROWS`] of them in f32, groups of rows in f64.
pub(crate) struct Columns {
    kind: ReduceKind,
    n: usize,
    /// Rows that are in f64.
    settled: usize,
    /// Rows that are in f32.
    pending: usize,
    /// By column, of the pending rows: their sum or extremum; for the variance the sum of distances
    /// from `first`.
    values: *mut f32,
    /// By column: the squares of those distances, or as bits the extremum's position.
    others: *mut f32,
    /// By column, for the variance: the first pending row.
    first: *mut f32,
    /// By column, of the settled rows: [`Partial::value`].
    totals: *mut f64,
    /// By column, of the settled rows: [`Partial::squares`].
    squares: *mut f64,
}

impl Columns {
    /// Floats of working memory for `n` columns.
    pub fn scratch_len(n: usize) -> usize {
        7 * n.next_multiple_of(16)
    }

    /// Nothing yet, of `n` columns.
    ///
    /// # Safety
    /// While the value is used, `memory` is [`Columns::scratch_len`] floats of its own, aligned
    /// for f64.
    pub unsafe fn new(kind: ReduceKind, n: usize, memory: *mut f32) -> Self {
        let pitch = n.next_multiple_of(16);
        let part = |i: usize| memory.wrapping_add(i * pitch);
        Self {
            kind,
            n,
            settled: 0,
            pending: 0,
            values: part(4),
            others: part(5),
            first: part(6),
            totals: part(0).cast(),
            squares: part(2).cast(),
        }
    }

    /// Adds `rows` rows, `stride` floats apart; the first one has position `at`.
    ///
    /// # Safety
    /// Each row holds `n` numbers.
    pub unsafe fn add(
        &mut self,
        isa: Isa,
        mut from: *const f32,
        stride: isize,
        mut rows: usize,
        mut at: usize,
    ) {
        let extremum =
            !matches!(self.kind, ReduceKind::Sum | ReduceKind::Mean | ReduceKind::Var { .. });
        while rows > 0 {
            let count = if extremum { rows } else { rows.min(ROWS - self.pending) };
            isa.run(Rows { to: self, from, stride, rows: count, at: at as u32 });
            self.pending += count;
            if !extremum && self.pending == ROWS {
                self.settle(isa);
            }
            from = from.wrapping_offset(count as isize * stride);
            (rows, at) = (rows - count, at + count);
        }
    }

    /// What the rows so far yield for column `c`; all are settled.
    pub fn partial(&self, c: usize) -> Partial {
        assert!(c < self.n && self.pending == 0, "a settled column");
        // SAFETY: the column is one of those that the memory was made for.
        unsafe {
            let (value, second) = (*self.totals.add(c), *self.squares.add(c));
            let position = matches!(self.kind, ReduceKind::ArgMax | ReduceKind::ArgMin);
            let (squares, at) = if position { (0.0, second as usize) } else { (second, 0) };
            Partial { count: self.settled as f64, value, squares, at }
        }
    }

    /// Moves the pending rows to f64.
    pub fn settle(&mut self, isa: Isa) {
        if self.pending > 0 {
            isa.run(Settle(self));
            self.settled += self.pending;
            self.pending = 0;
        }
    }
}

/// Adds rows to the pending ones.
struct Rows<'a> {
    to: &'a Columns,
    from: *const f32,
    stride: isize,
    rows: usize,
    at: u32,
}

impl Kernel for Rows<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let n = self.to.n;
        let mut column = 0;
        // SAFETY: `Columns::add`'s caller promised the rows, `Columns::new`'s the memory.
        unsafe {
            while column + WIDE * S::LANES <= n {
                self.group::<S, WIDE>(s, column, S::LANES);
                column += WIDE * S::LANES;
            }
            while column < n {
                let lanes = S::LANES.min(n - column);
                self.group::<S, 1>(s, column, lanes);
                column += lanes;
            }
        }
    }
}

impl Rows<'_> {
    /// One vector of a row; of a last one, `lanes` columns.
    ///
    /// # Safety
    /// The row and the columns are among those of [`Columns::add`].
    #[inline(always)]
    unsafe fn read<S: Simd>(&self, s: S, row: usize, column: usize, lanes: usize) -> S::V {
        // SAFETY: the caller's promise.
        unsafe {
            let p = self.from.offset(row as isize * self.stride).add(column);
            if lanes == S::LANES { s.load(p) } else { s.load_first(p, lanes) }
        }
    }

    /// Adds the rows to `V` vectors of columns; of the last one, `lanes` columns.
    ///
    /// # Safety
    /// As [`Rows::read`].
    #[inline(always)]
    unsafe fn group<S: Simd, const V: usize>(&self, s: S, column: usize, lanes: usize) {
        let to = self.to;
        let (mut a, mut b, mut first) = ([s.lit(0.0); V], [s.lit(0.0); V], [s.lit(0.0); V]);
        let is_var = matches!(to.kind, ReduceKind::Var { .. });
        let fresh = to.pending == 0;
        // SAFETY: the caller's promise; the arrays of `to` are as long as whole vectors.
        unsafe {
            for v in 0..V {
                let at = column + v * S::LANES;
                if fresh {
                    first[v] = self.read(s, 0, at, lanes);
                    a[v] = if is_var { a[v] } else { first[v] };
                    b[v] = if is_var { b[v] } else { s.from_bits(s.ulit(self.at)) };
                } else {
                    a[v] = s.load(to.values.add(at));
                    b[v] = s.load(to.others.add(at));
                    first[v] = s.load(to.first.add(at));
                }
            }
            // The variance counts the first row as well: its distance is 0, or NaN if infinite.
            let start = usize::from(fresh && !is_var);
            for row in start..self.rows {
                for v in 0..V {
                    let x = self.read(s, row, column + v * S::LANES, lanes);
                    (a[v], b[v]) =
                        step(s, to.kind, [a[v], b[v], first[v]], x, self.at + row as u32);
                }
            }
            for v in 0..V {
                let at = column + v * S::LANES;
                s.store(to.values.add(at), a[v]);
                s.store(to.others.add(at), b[v]);
                s.store(to.first.add(at), first[v]);
            }
        }
    }
}

/// One more row for one vector of columns.
#[inline(always)]
fn step<S: Simd>(
    s: S,
    kind: ReduceKind,
    [a, b, first]: [S::V; 3],
    x: S::V,
    at: u32,
) -> (S::V, S::V) {
    match kind {
        ReduceKind::Sum | ReduceKind::Mean => (s.add(a, x), b),
        ReduceKind::Max => (s.max(a, x), b),
        ReduceKind::Min => (s.min(a, x), b),
        ReduceKind::ArgMax | ReduceKind::ArgMin => {
            let beats = if kind == ReduceKind::ArgMax { s.lt(a, x) } else { s.lt(x, a) };
            let beats = s.or(beats, s.and(s.ne(x, x), s.eq(a, a)));
            (s.select(beats, x, a), s.select(beats, s.from_bits(s.ulit(at)), b))
        }
        ReduceKind::Var { .. } => {
            let d = s.sub(x, first);
            (s.add(a, d), s.fma(d, d, b))
        }
    }
}

/// Merges the pending rows of every column into the settled ones. Plain loops: the compiler makes
/// vectors of them.
struct Settle<'a>(&'a Columns);

impl Kernel for Settle<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let Columns { kind, n, settled, pending, .. } = *self.0;
        let (old, new) = (settled as f64, pending as f64);
        let (count, fresh) = (old + new, settled == 0);
        // SAFETY: `Columns::new`'s caller promised that these arrays of `n` lie in its memory; they
        // do not overlap.
        let (values, others, first, totals, squares) = unsafe {
            (
                std::slice::from_raw_parts(self.0.values, n),
                std::slice::from_raw_parts(self.0.others, n),
                std::slice::from_raw_parts(self.0.first, n),
                std::slice::from_raw_parts_mut(self.0.totals, n),
                std::slice::from_raw_parts_mut(self.0.squares, n),
            )
        };
        match kind {
            ReduceKind::Sum | ReduceKind::Mean => {
                for (total, &value) in totals.iter_mut().zip(values) {
                    let before = if fresh { 0.0 } else { *total };
                    *total = before + f64::from(value);
                }
            }
            // The extremum of all rows is pending until the end: there is nothing to merge with.
            ReduceKind::Max | ReduceKind::Min | ReduceKind::ArgMax | ReduceKind::ArgMin => {
                for c in 0..n {
                    totals[c] = f64::from(values[c]);
                    squares[c] = f64::from(others[c].to_bits());
                }
            }
            ReduceKind::Var { .. } => {
                for c in 0..n {
                    let (sum, about) = (f64::from(values[c]), f64::from(others[c]));
                    let distances = about - sum * sum / new;
                    let distances = if distances < 0.0 { 0.0 } else { distances };
                    let mean = f64::from(first[c]) + sum / new;
                    if fresh {
                        (totals[c], squares[c]) = (mean, distances);
                    } else {
                        // As `Partial::merge`.
                        let apart = mean - totals[c];
                        totals[c] += apart * (new / count);
                        squares[c] += distances + apart * apart * (old * new / count);
                    }
                }
            }
        }
    }
}
