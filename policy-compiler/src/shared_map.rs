//! [`SharedMap`]: a hash map whose clones share what they do not change.
//!
//! ```text
//!   key ── a few bits ──► one of 256 parts, each a hash map behind an Arc ──► value
//! ```
//!
//! A clone costs a reference a part. A change costs a copy of the part it is in, the first time: of 200,000 entries about 800. So a
//! new generation of a table costs what has changed, and a look-up one load more than in a plain map.

use std::hash::Hash;
use std::net::IpAddr;
use std::sync::Arc;

use crate::hash::FastMap;

/// Parts of a map.
const PARTS: usize = 256;

/// See the module.
#[derive(Debug, Clone)]
pub(crate) struct SharedMap<K, V> {
    parts: Box<[Arc<FastMap<K, V>>]>,
    len: usize,
}

/// A key that says which part it is in; cheaper than its hash, which the part needs anyway.
pub(crate) trait Spread {
    /// A number whose high bits differ for keys that differ little.
    fn spread(&self) -> u64;
}

impl Spread for IpAddr {
    fn spread(&self) -> u64 {
        const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;
        match self {
            IpAddr::V4(v4) => u64::from(v4.to_bits()).wrapping_mul(GOLDEN),
            IpAddr::V6(v6) => ((v6.to_bits() >> 64) as u64 ^ v6.to_bits() as u64).wrapping_mul(GOLDEN),
        }
    }
}

impl<K, V> Default for SharedMap<K, V> {
    fn default() -> Self {
        let empty = Arc::new(FastMap::default());
        SharedMap { parts: vec![empty; PARTS].into(), len: 0 }
    }
}

impl<K: Eq + Hash + Spread + Clone, V: Clone> SharedMap<K, V> {
    /// The value of `key`.
    pub(crate) fn get(&self, key: &K) -> Option<&V> {
        self.parts.get(part_of(key))?.get(key)
    }

    /// Puts a value in; answers with the one before.
    pub(crate) fn insert(&mut self, key: K, value: V) -> Option<V> {
        let before = Arc::make_mut(self.parts.get_mut(part_of(&key))?).insert(key, value);
        self.len += usize::from(before.is_none());
        before
    }

    /// Takes a value out. Copies nothing where there is none.
    pub(crate) fn remove(&mut self, key: &K) -> Option<V> {
        let part = self.parts.get_mut(part_of(key))?;
        if !part.contains_key(key) {
            return None;
        }
        self.len -= 1;
        Arc::make_mut(part).remove(key)
    }

    /// The entries, in no order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.parts.iter().flat_map(|part| part.iter())
    }

    /// How many entries there are.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Whether there is none.
    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Heap memory in bytes: places of the parts' tables, used or not.
    pub(crate) fn bytes(&self) -> usize {
        // One byte a place beside the entry, and a place in eight free (std's table).
        self.parts.iter().map(|part| part.capacity() * 8 / 7 * (size_of::<(K, V)>() + 1)).sum()
    }

    /// How many parts are the very same in both.
    #[cfg(test)]
    pub(crate) fn shared_with(&self, other: &Self) -> usize {
        self.parts.iter().zip(&other.parts).filter(|(ours, theirs)| Arc::ptr_eq(ours, theirs)).count()
    }
}

/// The high bits: the parts' own tables use the low ones of another hash.
fn part_of<K: Spread>(key: &K) -> usize {
    (key.spread() >> 56) as usize
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Against std's map; and what was cloned before a change is as it was.
        #[test]
        fn is_a_map_whose_clones_do_not_see_changes(
            steps in prop::collection::vec((any::<u8>(), any::<bool>(), any::<u16>()), 1..60),
        ) {
            let (mut map, mut twin) = (SharedMap::default(), HashMap::new());
            let mut before = Vec::new();
            for (key, put, value) in steps {
                let key = if key % 2 == 0 { IpAddr::from([10, 0, 0, key]) } else { IpAddr::from([0, 0, 0, 0, 0, 0, 0, key.into()]) };
                before.push((map.clone(), twin.clone()));
                if put {
                    prop_assert_eq!(map.insert(key, value), twin.insert(key, value));
                } else {
                    prop_assert_eq!(map.remove(&key), twin.remove(&key));
                }
                before.push((map.clone(), twin.clone()));
            }
            for (map, twin) in before {
                prop_assert_eq!(map.len(), twin.len());
                prop_assert_eq!(map.is_empty(), twin.is_empty());
                for (key, value) in &twin {
                    prop_assert_eq!(map.get(key), Some(value));
                }
            }
        }
    }

    #[test]
    fn a_change_copies_one_part() {
        let mut map = SharedMap::default();
        for low in 0..=255 {
            map.insert(IpAddr::from([10, 0, 0, low]), low);
        }
        let before = map.clone();
        map.insert(IpAddr::from([10, 0, 0, 7]), 0);
        assert_eq!(map.shared_with(&before), PARTS - 1);
        map.remove(&IpAddr::from([10, 0, 1, 7]));
        assert_eq!(map.shared_with(&before), PARTS - 1, "nothing was there");
        let used = map.parts.iter().filter(|part| !part.is_empty()).count();
        assert!(used > PARTS / 3, "256 neighbours are in {used} parts");
    }
}
