//! Which sequences a training step sees.

use starling_engine::{Error, Result};
use starling_ops::Key;
use starling_ops::philox::HostStream;

/// The random stream's instance; others are initialisation and generation.
const INSTANCE: u32 = 0xda7a;

/// Draws the sequences of each step. The draw of a step depends on the seed and the step alone, so
/// that a resumed run continues without any state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sampling {
    seed: u64,
    starts: usize,
    count: usize,
}

impl Sampling {
    /// `count` sequences a step, each of `seq` tokens and the one after them, out of `tokens`.
    ///
    /// # Errors
    /// [`Error::Invalid`] when there is nothing to draw or the corpus is shorter than a sequence.
    pub fn new(seed: u64, tokens: usize, seq: usize, count: usize) -> Result<Self> {
        if seq == 0 || count == 0 {
            return Err(Error::invalid(format!(
                "a batch of {count} sequences of {seq} tokens is empty: both must be at least 1"
            )));
        }
        let Some(starts) = tokens.checked_sub(seq).filter(|&n| n > 0) else {
            return Err(Error::invalid(format!(
                "the corpus has {tokens} tokens to train on, and a window needs {}: use a longer \
                 text or a smaller --seq",
                seq + 1
            )));
        };
        Ok(Self { seed, starts, count })
    }

    /// Where each sequence of a step starts in the token stream.
    pub fn offsets(&self, step: u64) -> Vec<usize> {
        let key = Key {
            seed_lo: self.seed as u32,
            seed_hi: (self.seed >> 32) as u32,
            instance: INSTANCE,
            step: step as u32,
            node: (step >> 32) as u32,
        };
        let mut stream = HostStream::new(key);
        (0..self.count).map(|_| self.draw(&mut stream)).collect()
    }

    fn draw(&self, stream: &mut HostStream) -> usize {
        match u32::try_from(self.starts) {
            Ok(bound) => stream.below(bound) as usize,
            // Multiply-shift over 64 bits; the bias of at most starts / 2^64 is out of sight.
            Err(_) => {
                let word = u64::from(stream.word()) << 32 | u64::from(stream.word());
                ((u128::from(word) * self.starts as u128) >> 64) as usize
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_is_a_pure_function_of_seed_and_step() {
        let a = Sampling::new(7, 1000, 10, 64).unwrap();
        assert_eq!(a.offsets(3), Sampling::new(7, 1000, 10, 64).unwrap().offsets(3));
        assert_ne!(a.offsets(3), a.offsets(4));
        assert_ne!(a.offsets(3), Sampling::new(8, 1000, 10, 64).unwrap().offsets(3));
    }

    #[test]
    fn every_start_is_reached_and_none_beyond() {
        let s = Sampling::new(1, 12, 10, 50).unwrap();
        let mut seen = [0; 3];
        (0..20).flat_map(|step| s.offsets(step)).for_each(|o| seen[o] += 1);
        assert!(seen[0] > 300 && seen[1] > 300 && seen[2] == 0, "{seen:?}");
        let large = Sampling::new(1, 1 << 40, 10, 50).unwrap();
        assert!(large.offsets(0).iter().any(|&o| o > 1 << 39));
    }

    #[test]
    fn a_short_corpus_and_an_empty_batch_are_refused() {
        assert!(Sampling::new(1, 11, 10, 1).is_ok());
        let short = Sampling::new(1, 10, 10, 1).unwrap_err().to_string();
        assert!(short.contains("10 tokens") && short.contains("11"), "{short}");
        assert!(Sampling::new(1, 100, 10, 0).is_err());
        assert!(Sampling::new(1, 100, 0, 1).is_err());
    }
}
