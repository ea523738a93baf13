//! A list that lives on the stack while it is short.

use std::ops::{Deref, DerefMut};

/// Up to `N` items without an allocation, any number with one: verbs rarely have many operands,
/// and a step of training must not allocate for those that do not.
#[derive(Clone, Debug)]
pub(crate) struct Few<T, const N: usize> {
    len: usize,
    inline: [T; N],
    /// Holds every item once there are more than `N`.
    spilled: Vec<T>,
}

impl<T: Copy, const N: usize> Few<T, N> {
    /// `len` times `item`.
    pub fn new(item: T, len: usize) -> Self {
        let spilled = if len > N { vec![item; len] } else { Vec::new() };
        Self { len, inline: [item; N], spilled }
    }

    /// One item for each of `from`, which must know its length; `filler` is any item.
    pub fn collect(filler: T, from: impl ExactSizeIterator<Item = T>) -> Self {
        let mut list = Self::new(filler, from.len());
        for (slot, item) in list.iter_mut().zip(from) {
            *slot = item;
        }
        list
    }
}

impl<T, const N: usize> Deref for Few<T, N> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        if self.len > N { &self.spilled } else { &self.inline[..self.len] }
    }
}

impl<T, const N: usize> DerefMut for Few<T, N> {
    fn deref_mut(&mut self) -> &mut [T] {
        if self.len > N { &mut self.spilled } else { &mut self.inline[..self.len] }
    }
}

#[cfg(test)]
mod tests {
    use super::Few;

    #[test]
    fn short_and_long_lists_hold_the_same() {
        for n in [0, 1, 3, 4, 5, 40] {
            let list: Few<usize, 4> = Few::collect(9, 0..n);
            assert!(list.iter().copied().eq(0..n));
        }
    }
}
