//! What is known of some of the elements that are reduced to one, and how two such parts combine.

use starling_contract::ReduceKind;

/// A part's result, in f64: parts are combined in a fixed order, and their errors do not add up.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Partial {
    /// Number of elements.
    pub count: f64,
    /// The sum, the extremum, or the mean (for the variance).
    pub value: f64,
    /// The sum of squared distances from the mean.
    pub squares: f64,
    /// The position of the extremum.
    pub at: usize,
}

impl Partial {
    /// Of nothing.
    pub const NOTHING: Self = Self { count: 0.0, value: 0.0, squares: 0.0, at: 0 };

    /// Of `count` elements with this sum or extremum.
    #[inline(always)]
    pub fn of(count: usize, value: f32, at: usize) -> Self {
        Self { count: count as f64, value: value.into(), squares: 0.0, at }
    }

    /// Of `count` elements from `sum` and `squares` of their distances from `shift`.
    #[inline(always)]
    pub fn shifted(count: usize, shift: f32, sum: f32, squares: f32) -> Self {
        let (n, sum) = (count as f64, f64::from(sum));
        let squares = f64::from(squares) - sum * sum / n;
        // Rounding must not make it negative; NaN stays.
        let squares = if squares < 0.0 { 0.0 } else { squares };
        Self { count: n, value: f64::from(shift) + sum / n, squares, at: 0 }
    }

    /// Adds the part `next`, whose elements come after those of `self`.
    #[inline(always)]
    pub fn merge(&mut self, kind: ReduceKind, next: &Self) {
        if self.count == 0.0 {
            *self = *next;
            return;
        }
        if next.count == 0.0 {
            return;
        }
        let (count, a, b) = (self.count + next.count, self.value, next.value);
        match kind {
            ReduceKind::Sum | ReduceKind::Mean => self.value = a + b,
            ReduceKind::Max | ReduceKind::ArgMax => self.extremum(next, b > a),
            ReduceKind::Min | ReduceKind::ArgMin => self.extremum(next, b < a),
            // Chan, Golub, LeVeque 1979.
            ReduceKind::Var { .. } => {
                let distance = b - a;
                self.value = a + distance * (next.count / count);
                let weight = self.count * next.count / count;
                self.squares += next.squares + distance * distance * weight;
            }
        }
        self.count = count;
    }

    /// The earlier of two equal extrema stays; the first NaN beats everything.
    #[inline(always)]
    fn extremum(&mut self, next: &Self, better: bool) {
        if better || (next.value.is_nan() && !self.value.is_nan()) {
            (self.value, self.at) = (next.value, next.at);
        }
    }

    /// The result of reducing all `self.count` elements, but for positions.
    pub fn finish(&self, kind: ReduceKind) -> f32 {
        let value = match kind {
            ReduceKind::Max if self.count == 0.0 => f64::NEG_INFINITY,
            ReduceKind::Min if self.count == 0.0 => f64::INFINITY,
            ReduceKind::Mean => self.value / self.count,
            ReduceKind::Var { correction } => {
                self.squares / (self.count - f64::from(correction)).max(0.0)
            }
            _ => self.value,
        };
        value as f32
    }
}
