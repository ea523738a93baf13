//! The iteration space: axes in the order in which they are walked, merged where strides allow.

use super::few::Few;
use starling_contract::{DType, Error, HostStorage, Layout, MAX_RANK, Result, View};

/// The types that programs read and write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Element {
    /// [`DType::F32`]
    F32,
    /// [`DType::F16`]
    F16,
    /// [`DType::BF16`]
    BF16,
    /// [`DType::U8`]
    U8,
}

impl Element {
    /// The element of a type; `None` for those that programs do not compute on.
    pub fn of(dtype: DType) -> Option<Self> {
        match dtype {
            DType::F32 => Some(Self::F32),
            DType::F16 => Some(Self::F16),
            DType::BF16 => Some(Self::BF16),
            DType::U8 => Some(Self::U8),
            DType::I32 | DType::U32 | DType::I8 => None,
        }
    }

    /// Bytes of one.
    pub fn size(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::BF16 => 2,
            Self::U8 => 1,
        }
    }
}

/// A typed, strided array in host memory.
#[derive(Clone, Copy, Debug)]
pub struct Operand {
    /// Element `(0, 0, ..)`.
    pub first: *mut u8,
    /// The type of an element.
    pub dtype: Element,
    /// Elements to the neighbour along each axis, 0 for the axes beyond the rank.
    pub strides: [isize; MAX_RANK],
}

// SAFETY: an operand is an address; whoever reads or writes through it promises that no one else
// writes there (see `map` and `reduce`).
unsafe impl Send for Operand {}
// SAFETY: as above.
unsafe impl Sync for Operand {}

impl Operand {
    /// The elements of a view.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for types that programs do not compute on, [`Error::Shape`] for a
    /// view outside host memory.
    pub fn of(op: &'static str, view: &View) -> Result<Self> {
        let unsupported = || Error::Unsupported { op, dtype: view.dtype, backend: "cpu".into() };
        let dtype = Element::of(view.dtype).ok_or_else(unsupported)?;
        Ok(Self { first: first_byte(op, view)?, dtype, strides: strides_of(&view.layout) })
    }
}

/// A layout's strides, 0 for the axes beyond the rank.
pub(crate) fn strides_of(layout: &Layout) -> [isize; MAX_RANK] {
    let mut strides = [0; MAX_RANK];
    strides[..layout.rank()].copy_from_slice(layout.strides());
    strides
}

/// Where the first element of a view lies.
///
/// # Errors
/// [`Error::Shape`] for a view outside host memory.
pub(crate) fn first_byte(op: &'static str, view: &View) -> Result<*mut u8> {
    let message = "an operand is not in host memory: copy it there first";
    let start = HostStorage::of(view).ok_or_else(|| Error::shape(op, message))?;
    Ok(start.wrapping_add(view.layout.offset() * view.dtype.size()))
}

/// How one operand moves through a [`Grid`].
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Walk {
    /// Elements to the neighbour along each axis of the grid.
    pub strides: [isize; MAX_RANK],
    /// Elements follow each other in the order of the walk.
    pub contiguous: bool,
    /// Every element of the walk is the same one.
    pub constant: bool,
}

/// The axes of an iteration space in walking order (the last one fastest) and how each operand
/// moves along them. There is at least one axis.
#[derive(Clone, Debug)]
pub(crate) struct Grid {
    rank: usize,
    shape: [usize; MAX_RANK],
    walks: Few<Walk, 16>,
}

impl Grid {
    /// Walks the axes `order` of `shape`; axes of extent 1 vanish, neighbours that every operand
    /// passes with one stride become one axis.
    pub fn new(shape: &[usize], order: &[usize], strides: &[[isize; MAX_RANK]]) -> Self {
        let mut walks = Few::new(Walk::default(), strides.len());
        let mut merged = [1; MAX_RANK];
        let mut rank = 0;
        for &axis in order.iter().filter(|&&axis| shape[axis] != 1) {
            let n = shape[axis];
            let joins = rank > 0
                && walks
                    .iter()
                    .zip(strides)
                    .all(|(w, s)| w.strides[rank - 1] == s[axis] * n as isize);
            if !joins {
                rank += 1;
            }
            merged[rank - 1] *= n;
            for (w, s) in walks.iter_mut().zip(strides) {
                w.strides[rank - 1] = s[axis];
            }
        }
        if rank == 0 {
            rank = 1;
            walks.iter_mut().for_each(|w| w.strides[0] = 1);
        }
        for w in walks.iter_mut() {
            let mut step = 1;
            w.contiguous = true;
            for axis in (0..rank).rev() {
                w.contiguous &= w.strides[axis] == step;
                step *= merged[axis] as isize;
            }
            w.constant = w.strides[..rank].iter().all(|&s| s == 0);
        }
        Self { rank, shape: merged, walks }
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.shape[..self.rank].iter().product()
    }

    /// Number of axes.
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// Extent of the fastest axis.
    pub fn inner(&self) -> usize {
        self.shape[self.rank - 1]
    }

    /// How operand `i` moves.
    pub fn walk(&self, i: usize) -> &Walk {
        &self.walks[i]
    }

    /// Stride of operand `i` along the fastest axis.
    pub fn inner_stride(&self, i: usize) -> isize {
        self.walks[i].strides[self.rank - 1]
    }

    /// True when the neighbours of operand `i` in memory belong to neighbouring rows.
    pub fn is_turned(&self, i: usize) -> bool {
        let strides = &self.walks[i].strides[..self.rank];
        matches!(strides, [.., 1, step] if !matches!(step, 0 | 1))
    }

    /// The distance of the rows of the fastest axis from row `row` on, and for how many it holds.
    pub fn rows_from(&self, i: usize, row: usize) -> (isize, usize) {
        let Some(axis) = self.rank.checked_sub(2) else { return (0, 1) };
        (self.walks[i].strides[axis], self.shape[axis] - row % self.shape[axis])
    }

    /// True when every operand is contiguous or constant: then a block may cross rows freely.
    pub fn is_flat(&self) -> bool {
        self.walks.iter().all(|w| w.contiguous || w.constant)
    }

    /// Where operand `i` has element number `at` of the walk, from its first element.
    pub fn position(&self, i: usize, mut at: usize) -> isize {
        let walk = &self.walks[i];
        if walk.contiguous {
            return at as isize;
        }
        let mut position = 0;
        for axis in (1..self.rank).rev() {
            position += (at % self.shape[axis]) as isize * walk.strides[axis];
            at /= self.shape[axis];
        }
        position + at as isize * walk.strides[0]
    }

    /// Calls `f(done, position, len)` for each stretch of the fastest axis among the `n` elements
    /// from element `start`.
    pub fn stretches(
        &self,
        i: usize,
        start: usize,
        n: usize,
        mut f: impl FnMut(usize, isize, usize),
    ) {
        let walk = &self.walks[i];
        let inner = self.inner();
        let mut at = [0; MAX_RANK];
        let mut rest = start;
        for axis in (0..self.rank).rev() {
            at[axis] = rest % self.shape[axis];
            rest /= self.shape[axis];
        }
        let mut position = self.position(i, start);
        let mut done = 0;
        while done < n {
            let last = self.rank - 1;
            let len = (inner - at[last]).min(n - done);
            f(done, position, len);
            done += len;
            at[last] += len;
            position += len as isize * walk.strides[last];
            let mut axis = last;
            while at[axis] == self.shape[axis] && axis > 0 {
                position += walk.strides[axis - 1] - at[axis] as isize * walk.strides[axis];
                at[axis] = 0;
                axis -= 1;
                at[axis] += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strides(s: &[isize]) -> [isize; MAX_RANK] {
        let mut all = [0; MAX_RANK];
        all[..s.len()].copy_from_slice(s);
        all
    }

    #[test]
    fn axes_merge_where_every_operand_allows() {
        let whole = Grid::new(&[2, 3, 4], &[0, 1, 2], &[strides(&[12, 4, 1])]);
        assert_eq!((whole.inner(), whole.is_flat()), (24, true));
        let bias = [strides(&[12, 4, 1]), strides(&[0, 0, 1])];
        let bias = Grid::new(&[2, 3, 4], &[0, 1, 2], &bias);
        assert_eq!((bias.inner(), bias.rank, bias.is_flat()), (4, 2, false));
        let scalar = Grid::new(&[2, 3], &[0, 1], &[strides(&[3, 1]), strides(&[0, 0])]);
        assert!(scalar.is_flat());
    }

    #[test]
    fn stretches_visit_every_position_in_order() {
        let s = strides(&[1, -40, 7]);
        let grid = Grid::new(&[3, 5, 4], &[0, 1, 2], &[s]);
        for (start, n) in [(0, 60), (3, 50), (17, 2), (59, 1)] {
            let mut seen = Vec::new();
            grid.stretches(0, start, n, |done, position, len| {
                assert_eq!(done, seen.len());
                seen.extend((0..len as isize).map(|k| position + k * grid.inner_stride(0)));
            });
            let expected: Vec<_> = (start..start + n).map(|at| grid.position(0, at)).collect();
            assert_eq!(seen, expected);
        }
    }
}
