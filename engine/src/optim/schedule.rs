//! Learning rates over a run.

use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};

/// What the rate does after the warm-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Decline {
    /// It stays.
    Constant,
    /// It falls along half a cosine to the final rate at the last step (Loshchilov, Hutter 2016).
    Cosine,
}

/// A learning rate for every step: a linear warm-up, then constant or cosine.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Schedule {
    /// What comes after the warm-up.
    pub name: Decline,
    /// The highest rate.
    pub peak: f64,
    /// Steps until it is reached.
    pub warmup: u64,
    /// The rate of the last step of a cosine.
    pub last: f64,
}

impl Schedule {
    /// Always `rate`.
    pub fn constant(rate: f64) -> Self {
        Self { name: Decline::Constant, peak: rate, warmup: 0, last: rate }
    }

    /// The rate of `step` of `steps`. The first step is 1; 0 is before it.
    pub fn rate(&self, step: u64, steps: u64) -> f64 {
        if step <= self.warmup && self.warmup > 0 {
            return self.peak * step as f64 / self.warmup as f64;
        }
        if self.name == Decline::Constant || steps <= self.warmup {
            return self.peak;
        }
        let done = (step - self.warmup) as f64 / (steps - self.warmup) as f64;
        let cosine = (std::f64::consts::PI * done.min(1.0)).cos();
        self.last + (self.peak - self.last) * 0.5 * (1.0 + cosine)
    }

    /// Refuses rates that are no finite numbers of f32, a peak of 0 and a negative last rate.
    ///
    /// # Errors
    /// [`Error::Invalid`].
    pub fn check(&self) -> Result<()> {
        let peak = self.peak;
        if !(peak as f32).is_finite() || peak as f32 <= 0.0 {
            let message =
                format!("the learning rate is {peak} and must be a number above 0 in f32");
            return Err(Error::invalid(message));
        }
        if !(self.last as f32).is_finite() || self.last < 0.0 {
            let message = format!("the last learning rate is {} and must be at least 0", self.last);
            return Err(Error::invalid(message));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cosine_rises_to_the_peak_and_falls_to_the_last_rate() {
        let s = Schedule { name: Decline::Cosine, peak: 2.0, warmup: 10, last: 0.2 };
        assert_eq!(s.rate(1, 110), 0.2);
        assert_eq!(s.rate(10, 110), 2.0);
        assert!((s.rate(60, 110) - 1.1).abs() < 1e-12);
        assert!((s.rate(110, 110) - 0.2).abs() < 1e-12);
        assert!((11..110).all(|t| s.rate(t, 110) > s.rate(t + 1, 110)));
        assert_eq!(Schedule { warmup: 200, ..s }.rate(100, 110), 1.0);
        assert_eq!(Schedule::constant(0.5).rate(77, 100), 0.5);
        assert_eq!(Schedule::constant(0.5).rate(0, 100), 0.5);
        assert_eq!(Schedule { warmup: 0, ..s }.rate(0, 110), 2.0);
    }

    #[test]
    fn rates_that_are_no_numbers_are_refused() {
        assert!(Schedule::constant(f64::NAN).check().is_err());
        assert!(Schedule::constant(-1.0).check().is_err());
        assert!(Schedule::constant(0.0).check().is_err());
        // As the device holds it: 0, and infinite.
        assert!(Schedule::constant(1e-60).check().is_err());
        assert!(Schedule::constant(1e60).check().is_err());
        assert!(Schedule::constant(f64::INFINITY).check().is_err());
        assert!(Schedule::constant(1e-3).check().is_ok());
    }
}
