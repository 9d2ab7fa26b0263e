//! [`Held`]: the chunks that a port has given to the kernel, one bit each.

/// A set of chunk numbers below a fixed limit. It is what makes a chunk come out of a ring as a frame at most once,
/// whatever the rings say, and what brings all of them home when the port closes.
#[derive(Debug)]
pub(crate) struct Held {
    words: Box<[u64]>,
    count: usize,
}

impl Held {
    pub(crate) fn new(chunks: usize) -> Self {
        Held { words: vec![0; chunks.div_ceil(64)].into_boxed_slice(), count: 0 }
    }

    /// Notes a chunk as the kernel's. The number is below the limit.
    #[inline]
    pub(crate) fn insert(&mut self, chunk: u32) {
        let word = &mut self.words[chunk as usize / 64];
        let bit = 1 << (chunk % 64);
        self.count += usize::from(*word & bit == 0);
        *word |= bit;
    }

    /// Notes a chunk as no longer the kernel's. False where it was not.
    #[inline]
    #[must_use]
    pub(crate) fn remove(&mut self, chunk: u32) -> bool {
        let Some(word) = self.words.get_mut(chunk as usize / 64) else { return false };
        let bit = 1 << (chunk % 64);
        let was = *word & bit != 0;
        *word &= !bit;
        self.count -= usize::from(was);
        was
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.count
    }

    /// Takes all of them out, lowest first.
    pub(crate) fn take_all(&mut self) -> Vec<u32> {
        let mut all = Vec::with_capacity(self.count);
        for (index, word) in self.words.iter_mut().enumerate() {
            let mut bits = std::mem::take(word);
            while bits != 0 {
                all.push(index as u32 * 64 + bits.trailing_zeros());
                bits &= bits - 1;
            }
        }
        self.count = 0;
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn agrees_with_a_tree(changes in proptest::collection::vec((any::<bool>(), 0u32..200), 0..400)) {
            let mut held = Held::new(200);
            let mut tree = BTreeSet::new();
            for (add, chunk) in changes {
                if add {
                    held.insert(chunk);
                    tree.insert(chunk);
                } else {
                    prop_assert_eq!(held.remove(chunk), tree.remove(&chunk));
                }
                prop_assert_eq!(held.count(), tree.len());
            }
            prop_assert_eq!(held.take_all(), tree.into_iter().collect::<Vec<_>>());
            prop_assert_eq!(held.count(), 0);
        }
    }

    #[test]
    fn a_number_beyond_the_limit_is_not_held() {
        assert!(!Held::new(64).remove(u32::MAX));
    }
}
