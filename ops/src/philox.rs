//! Philox4x32-10 (Salmon, Moraes, Dror, Shaw: "Parallel random numbers: as easy as 1, 2, 3",
//! SC 2011), written once over [`Math`].

use crate::math::{Key, Math};

const MULTIPLIER: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
const WEYL: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];

/// One Philox4x32-10 block: four random words for a counter and a key.
#[inline(always)]
pub fn block<M: Math>(m: M, mut counter: [M::U; 4], mut key: [M::U; 2]) -> [M::U; 4] {
    let (m0, m1) = (m.ulit(MULTIPLIER[0]), m.ulit(MULTIPLIER[1]));
    let (w0, w1) = (m.ulit(WEYL[0]), m.ulit(WEYL[1]));
    for round in 0..10 {
        if round > 0 {
            key = [m.uadd(key[0], w0), m.uadd(key[1], w1)];
        }
        let (hi0, lo0) = (m.umulhi(m0, counter[0]), m.umul(m0, counter[0]));
        let (hi1, lo1) = (m.umulhi(m1, counter[2]), m.umul(m1, counter[2]));
        counter = [
            m.uxor(m.uxor(hi1, counter[1]), key[0]),
            lo1,
            m.uxor(m.uxor(hi0, counter[3]), key[1]),
            lo0,
        ];
    }
    counter
}

/// The four random words that elements `4 * quad .. 4 * quad + 4` use.
#[inline(always)]
pub fn quad<M: Math>(m: M, quad: M::U, key: Key<M::U>) -> [M::U; 4] {
    block(m, [quad, key.instance, key.step, key.node], [key.seed_lo, key.seed_hi])
}

/// A random word as a uniform number: the 24 high bits over 2^24, so in [0, 1) and exact in f32.
#[inline(always)]
pub fn word_to_uniform<M: Math>(m: M, word: M::U) -> M::V {
    m.mul(m.to_real(m.ushr(word, 8)), m.lit(1.0 / 16_777_216.0))
}

/// The uniform number of element `index`: word `index % 4` of block `index / 4`.
#[inline(always)]
pub fn uniform<M: Math>(m: M, index: M::U, key: Key<M::U>) -> M::V {
    let words = quad(m, m.ushr(index, 2), key);
    let lane = m.uand(index, m.ulit(3));
    let mut word = words[3];
    for (i, w) in words.into_iter().enumerate().take(3) {
        word = m.uselect(m.ueq(lane, m.ulit(i as u32)), w, word);
    }
    word_to_uniform(m, word)
}

/// Words of a counter-based stream on the host: word `i` is word `i % 4` of block `i / 4`.
#[derive(Clone, Debug)]
pub struct HostStream {
    key: Key<u32>,
    next: u32,
    words: [u32; 4],
}

impl HostStream {
    /// A stream at its start.
    pub fn new(key: Key<u32>) -> Self {
        Self { key, next: 0, words: [0; 4] }
    }

    /// The stream of `seed` for host-side use `instance` (initialisation, sampling, shuffling).
    pub fn seeded(seed: u64, instance: u32) -> Self {
        let (seed_lo, seed_hi) = (seed as u32, (seed >> 32) as u32);
        Self::new(Key { seed_lo, seed_hi, instance, step: 0, node: 0 })
    }

    /// The next word.
    pub fn word(&mut self) -> u32 {
        if self.next.is_multiple_of(4) {
            self.words = quad(crate::Scalar::<f32>::NEW, self.next >> 2, self.key);
        }
        self.next = self.next.wrapping_add(1);
        self.words[(self.next.wrapping_sub(1) & 3) as usize]
    }

    /// A uniform number in [0, 1) with 24 random bits.
    pub fn uniform(&mut self) -> f32 {
        word_to_uniform(crate::Scalar::<f32>::NEW, self.word())
    }

    /// A uniform integer below `bound` (Lemire's multiply-shift with rejection: unbiased).
    ///
    /// `bound` must not be 0.
    pub fn below(&mut self, bound: u32) -> u32 {
        debug_assert!(bound > 0);
        let threshold = bound.wrapping_neg() % bound;
        loop {
            let product = u64::from(self.word()) * u64::from(bound);
            if product as u32 >= threshold {
                return (product >> 32) as u32;
            }
        }
    }

    /// A standard normal number (Box and Muller's transform, in f64).
    pub fn normal(&mut self) -> f32 {
        let u = 1.0 - f64::from(self.uniform());
        let v = f64::from(self.uniform());
        (libm::sqrt(-2.0 * libm::log(u)) * libm::cos(std::f64::consts::TAU * v)) as f32
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Scalar;

    #[test]
    fn known_answers() {
        // Random123's kat_vectors for philox4x32 10.
        let m = Scalar::<f32>::NEW;
        let kat = |c, k| block(m, c, k);
        assert_eq!(kat([0; 4], [0; 2]), [0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8]);
        assert_eq!(
            kat([u32::MAX; 4], [u32::MAX; 2]),
            [0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd]
        );
        assert_eq!(
            kat([0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344], [0xa4093822, 0x299f31d0]),
            [0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1]
        );
    }

    #[test]
    fn host_stream_is_the_elementwise_stream() {
        let key = Key { seed_lo: 7, seed_hi: 9, instance: 3, step: 5, node: 1 };
        let m = Scalar::<f32>::NEW;
        let mut host = HostStream::new(key);
        for i in 0..1000 {
            assert_eq!(host.uniform(), m.uniform(i, key));
        }
    }

    #[test]
    fn below_stays_below_and_reaches_both_ends() {
        let mut s = HostStream::seeded(1, 0);
        let mut seen = [0u32; 7];
        for _ in 0..7000 {
            seen[s.below(7) as usize] += 1;
        }
        assert!(seen.iter().all(|&n| (800..1200).contains(&n)), "{seen:?}");
    }
}
