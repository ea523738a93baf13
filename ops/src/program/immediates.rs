//! Numbers that travel with a verb instead of being part of its program.

use std::ops::Deref;

/// The most immediates of a verb.
pub const MAX_IMMEDIATES: usize = 16;

/// The values of a program's [`Op::Imm`](super::Op::Imm): what users passed as numbers, each the
/// bits of an f32. Programs that differ only in them are one program, compiled once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Immediates {
    words: [u32; MAX_IMMEDIATES],
    len: u8,
}

impl Immediates {
    /// These numbers; `None` when they are more than [`MAX_IMMEDIATES`].
    pub fn new(values: &[f32]) -> Option<Self> {
        let mut all = Self::default();
        if values.len() > MAX_IMMEDIATES {
            return None;
        }
        values.iter().for_each(|&x| {
            all.push(x);
        });
        Some(all)
    }

    /// Adds a number; its place. [`super::Builder::immediate`] keeps within the limit.
    pub(super) fn push(&mut self, x: f32) -> u16 {
        let at = self.len;
        self.words[usize::from(at)] = x.to_bits();
        self.len += 1;
        at.into()
    }

    /// The numbers.
    pub fn values(&self) -> impl ExactSizeIterator<Item = f32> {
        self.iter().map(|&word| f32::from_bits(word))
    }
}

impl Deref for Immediates {
    type Target = [u32];
    fn deref(&self) -> &[u32] {
        &self.words[..usize::from(self.len)]
    }
}
