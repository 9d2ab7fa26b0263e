//! [`SharedVec`]: values by number, whose clones share what they do not change.
//!
//! Chunks of 128 values behind an `Arc` each. A clone costs a reference a chunk, a change the copy of a chunk the first time.

use std::sync::Arc;

/// Values of a chunk.
const CHUNK: usize = 128;

/// See the module.
#[derive(Debug)]
pub(crate) struct SharedVec<T> {
    /// Behind the last value a chunk is filled with [`Default`] ones.
    chunks: Vec<Arc<[T; CHUNK]>>,
    len: usize,
}

impl<T> Default for SharedVec<T> {
    fn default() -> Self {
        SharedVec { chunks: Vec::new(), len: 0 }
    }
}

impl<T> Clone for SharedVec<T> {
    fn clone(&self) -> Self {
        SharedVec { chunks: self.chunks.clone(), len: self.len }
    }
}

impl<T> SharedVec<T> {
    /// One more than the highest number that was set.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// The value of that number. Between `len` and the end of the last chunk there are default ones.
    #[inline]
    pub(crate) fn get(&self, number: u32) -> Option<&T> {
        let number = number as usize;
        self.chunks.get(number / CHUNK).map(|chunk| &chunk[number % CHUNK])
    }

    /// All values in the order of their numbers.
    #[cfg(test)]
    fn iter(&self) -> impl Iterator<Item = &T> {
        self.chunks.iter().flat_map(|chunk| chunk.iter()).take(self.len)
    }
}

impl<T: Clone + Default> SharedVec<T> {
    /// Sets the value of a number; numbers before it that were never set have default ones.
    pub(crate) fn set(&mut self, number: u32, value: T) {
        let number = number as usize;
        while self.chunks.len() <= number / CHUNK {
            self.chunks.push(Arc::new(std::array::from_fn(|_| T::default())));
        }
        if let Some(chunk) = self.chunks.get_mut(number / CHUNK) {
            Arc::make_mut(chunk)[number % CHUNK] = value;
        }
        self.len = self.len.max(number + 1);
    }

    /// Appends a value; returns its number.
    pub(crate) fn push(&mut self, value: T) -> u32 {
        let number = self.len as u32;
        self.set(number, value);
        number
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Against std's vector; and what was cloned before a change is as it was.
        #[test]
        fn is_a_vector_whose_clones_do_not_see_changes(
            steps in prop::collection::vec((prop::option::of(0..600_u32), any::<u16>()), 1..40),
        ) {
            let (mut vec, mut twin) = (SharedVec::default(), Vec::new());
            let mut before = Vec::new();
            for (number, value) in steps {
                before.push((vec.clone(), twin.clone()));
                match number {
                    Some(number) => {
                        twin.resize(twin.len().max(number as usize + 1), 0);
                        twin[number as usize] = value;
                        vec.set(number, value);
                    }
                    None => {
                        twin.push(value);
                        prop_assert_eq!(vec.push(value) as usize + 1, twin.len());
                    }
                }
                before.push((vec.clone(), twin.clone()));
            }
            for (vec, twin) in before {
                prop_assert_eq!(vec.len(), twin.len());
                prop_assert_eq!(vec.iter().copied().collect::<Vec<u16>>(), twin.clone());
                for (number, value) in (0..).zip(&twin) {
                    prop_assert_eq!(vec.get(number), Some(value));
                }
                prop_assert_eq!(vec.get(2000), None);
            }
        }
    }

    #[test]
    fn a_change_copies_one_chunk() {
        let mut vec = SharedVec::default();
        for value in 0..1000_u32 {
            vec.push(value);
        }
        let before = vec.clone();
        vec.set(500, 0);
        let shared = vec.chunks.iter().zip(&before.chunks).filter(|(ours, theirs)| Arc::ptr_eq(ours, theirs));
        assert_eq!((shared.count(), vec.chunks.len()), (7, 8));
    }
}
