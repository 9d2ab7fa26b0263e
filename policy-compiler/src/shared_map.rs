//! [`SharedMap`]: a hash map whose clones share what they do not change, and whose look-ups read one place in memory.
//!
//! ```text
//!   key ── hash ──┬─ low bits ──► one of 256 parts: places behind an Arc
//!                 └─ high bits ─► home place ─► the next one ─► … until it is free     place = key and value, side by side
//! ```
//!
//! A clone costs a reference a part. A change costs a copy of the part it is in, the first time: of 200,000 entries about 800. So a
//! new generation of a table costs what has changed. Keys of the two families stand apart, each as short as it can be: an
//! IPv4 address is four bytes. A look-up in a large map is one read of memory that is not near (std's map takes two: tags, entry).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use crate::hash::absorb;

/// Parts of a map.
const PARTS: usize = 256;

/// See the module.
#[derive(Debug, Clone)]
pub(crate) struct SharedMap<K: Key, V> {
    v4: Places<K::V4, V>,
    v6: Places<K::V6, V>,
}

/// A key as it stands in a map.
pub(crate) trait Key: Copy {
    /// What it is for IPv4.
    type V4: Words;
    /// What it is for IPv6.
    type V6: Words;

    /// The short form.
    fn split(self) -> Split<Self::V4, Self::V6>;

    /// The inverse of [`Key::split`].
    fn join(split: Split<Self::V4, Self::V6>) -> Self;
}

/// A key of one family.
pub(crate) enum Split<V4, V6> {
    /// IPv4.
    V4(V4),
    /// IPv6.
    V6(V6),
}

/// What can be hashed in a few instructions.
pub(crate) trait Words: Copy + Eq {
    /// All bits depend on all bits.
    fn hash(self) -> u64;
}

/// A part: at most five places of eight are taken.
type Part<K, V> = Arc<[Option<(K, V)>]>;

/// The entries of one family.
#[derive(Debug, Clone)]
struct Places<K, V> {
    /// [`PARTS`] of them, or none as long as there was never an entry; each with the number of its entries.
    parts: Box<[(Part<K, V>, u32)]>,
    len: usize,
}

impl Key for IpAddr {
    type V4 = u32;
    type V6 = [u64; 2];

    #[inline]
    fn split(self) -> Split<u32, [u64; 2]> {
        match self {
            IpAddr::V4(v4) => Split::V4(v4.to_bits()),
            IpAddr::V6(v6) => Split::V6(halves(v6)),
        }
    }

    fn join(split: Split<u32, [u64; 2]>) -> Self {
        match split {
            Split::V4(bits) => Ipv4Addr::from_bits(bits).into(),
            Split::V6(halves) => joined(halves).into(),
        }
    }
}

/// An address in two words.
#[inline]
pub(crate) fn halves(address: Ipv6Addr) -> [u64; 2] {
    [(address.to_bits() >> 64) as u64, address.to_bits() as u64]
}

/// The inverse of [`halves`].
#[inline]
pub(crate) fn joined([high, low]: [u64; 2]) -> Ipv6Addr {
    Ipv6Addr::from_bits(u128::from(high) << 64 | u128::from(low))
}

impl Words for u32 {
    #[inline]
    fn hash(self) -> u64 {
        u64::from(self).hash()
    }
}

impl Words for u64 {
    #[inline]
    fn hash(self) -> u64 {
        absorb(0, self)
    }
}

impl<const N: usize> Words for [u64; N] {
    #[inline]
    fn hash(self) -> u64 {
        self.into_iter().fold(0, absorb)
    }
}

impl<K: Key, V> Default for SharedMap<K, V> {
    fn default() -> Self {
        SharedMap { v4: Places::default(), v6: Places::default() }
    }
}

impl<K: Key, V: Clone> SharedMap<K, V> {
    /// The value of `key`.
    #[inline]
    pub(crate) fn get(&self, key: &K) -> Option<&V> {
        match key.split() {
            Split::V4(key) => self.v4.get(key),
            Split::V6(key) => self.v6.get(key),
        }
    }

    /// Where a look-up of `key` begins to read, for those who know of it before.
    #[inline]
    pub(crate) fn first_read(&self, key: &K) -> Option<*const u8> {
        match key.split() {
            Split::V4(key) => self.v4.first_read(key),
            Split::V6(key) => self.v6.first_read(key),
        }
    }

    /// Puts a value in; answers with the one before.
    pub(crate) fn insert(&mut self, key: K, value: V) -> Option<V> {
        match key.split() {
            Split::V4(key) => self.v4.insert(key, value),
            Split::V6(key) => self.v6.insert(key, value),
        }
    }

    /// Takes a value out. Copies nothing where there is none.
    pub(crate) fn remove(&mut self, key: &K) -> Option<V> {
        match key.split() {
            Split::V4(key) => self.v4.remove(key),
            Split::V6(key) => self.v6.remove(key),
        }
    }

    /// The entries, in no order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (K, &V)> {
        let v4 = self.v4.iter().map(|(key, value)| (K::join(Split::V4(*key)), value));
        v4.chain(self.v6.iter().map(|(key, value)| (K::join(Split::V6(*key)), value)))
    }

    /// How many entries there are.
    pub(crate) fn len(&self) -> usize {
        self.v4.len + self.v6.len
    }

    /// Whether there is none.
    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Heap memory in bytes: all places, taken or not.
    pub(crate) fn bytes(&self) -> usize {
        self.v4.bytes() + self.v6.bytes()
    }

    /// How many parts are the very same in both, of those that either family has.
    #[cfg(test)]
    pub(crate) fn shared_with(&self, other: &Self) -> usize {
        self.v4.shared_with(&other.v4) + self.v6.shared_with(&other.v6)
    }
}

impl<K, V> Default for Places<K, V> {
    fn default() -> Self {
        Places { parts: Box::default(), len: 0 }
    }
}

impl<K: Words, V: Clone> Places<K, V> {
    #[inline]
    fn get(&self, key: K) -> Option<&V> {
        let hash = key.hash();
        let (part, _) = self.parts.get(part_of(hash))?;
        find(part, key, hash).1
    }

    #[inline]
    fn first_read(&self, key: K) -> Option<*const u8> {
        let hash = key.hash();
        let (part, _) = self.parts.get(part_of(hash))?;
        part.get(home(hash, part.len())).map(|place| std::ptr::from_ref(place).cast())
    }

    fn insert(&mut self, key: K, value: V) -> Option<V> {
        if self.parts.is_empty() {
            self.parts = vec![(Part::default(), 0); PARTS].into();
        }
        let hash = key.hash();
        let (part, used) = self.parts.get_mut(part_of(hash))?;
        let (index, known) = find(part, key, hash);
        if known.is_some() {
            let place = Arc::make_mut(part).get_mut(index)?;
            return place.replace((key, value)).map(|(_, before)| before);
        }
        *used += 1;
        self.len += 1;
        if *used as usize * 8 > part.len() * 5 {
            *part = grown(part, *used as usize);
        }
        put(Arc::make_mut(part), key, value);
        None
    }

    fn remove(&mut self, key: K) -> Option<V> {
        let hash = key.hash();
        let (part, used) = self.parts.get_mut(part_of(hash))?;
        let (mut index, known) = find(part, key, hash);
        known?;
        *used -= 1;
        self.len -= 1;
        let places = Arc::make_mut(part);
        let (_, value) = places.get_mut(index)?.take()?;
        // What stands behind it may have wanted to stand here.
        loop {
            index = next(index, places.len());
            let Some((key, value)) = places.get_mut(index).and_then(Option::take) else { break };
            put(places, key, value);
        }
        Some(value)
    }

    fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        let places = self.parts.iter().flat_map(|(part, _)| part.iter());
        places.flatten().map(|(key, value)| (key, value))
    }

    fn bytes(&self) -> usize {
        let places = self.parts.iter().map(|(part, _)| size_of_val::<[Option<(K, V)>]>(part));
        places.sum::<usize>() + size_of_val::<[(Part<K, V>, u32)]>(&self.parts)
    }

    #[cfg(test)]
    fn shared_with(&self, other: &Self) -> usize {
        let pairs = self.parts.iter().zip(&other.parts);
        pairs.filter(|((ours, _), (theirs, _))| Arc::ptr_eq(ours, theirs)).count()
    }
}

/// The place of a key with its value, or the free place where the search ended.
#[inline]
fn find<K: Words, V>(places: &[Option<(K, V)>], key: K, hash: u64) -> (usize, Option<&V>) {
    let mut index = home(hash, places.len());
    // Places are free, so it ends; only a part without any has none to begin with.
    while let Some(Some((known, value))) = places.get(index) {
        if *known == key {
            return (index, Some(value));
        }
        index = next(index, places.len());
    }
    (index, None)
}

/// Puts in a key that is not there. There is a free place.
fn put<K: Words, V>(places: &mut [Option<(K, V)>], key: K, value: V) {
    let mut index = home(key.hash(), places.len());
    while places.get(index).is_some_and(Option::is_some) {
        index = next(index, places.len());
    }
    if let Some(place) = places.get_mut(index) {
        *place = Some((key, value));
    }
}

/// The entries of a part, and room for `used` of them at half of it.
fn grown<K: Words, V: Clone>(part: &[Option<(K, V)>], used: usize) -> Part<K, V> {
    let mut places = vec![None; used * 2 + 2];
    for (key, value) in part.iter().flatten() {
        put(&mut places, *key, value.clone());
    }
    places.into()
}

/// The low bits: the high ones say where in the part.
#[inline]
fn part_of(hash: u64) -> usize {
    hash as usize % PARTS
}

#[inline]
fn home(hash: u64, places: usize) -> usize {
    ((u128::from(hash) * places as u128) >> 64) as usize
}

#[inline]
fn next(index: usize, places: usize) -> usize {
    if index + 1 == places { 0 } else { index + 1 }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Many keys and few: parts grow, wrap around their end and are emptied.
        #[test]
        fn is_a_map_of_many(steps in prop::collection::vec((0..6000_u32, any::<bool>(), any::<u16>()), 1..4000)) {
            let (mut map, mut twin) = (SharedMap::default(), HashMap::new());
            for (number, put, value) in steps {
                let key = IpAddr::from(Ipv4Addr::from_bits(0x0a00_0000 + number * 4));
                if put {
                    prop_assert_eq!(map.insert(key, value), twin.insert(key, value));
                } else {
                    prop_assert_eq!(map.remove(&key), twin.remove(&key));
                }
            }
            prop_assert_eq!(map.len(), twin.len());
            for number in 0..6000 {
                let key = IpAddr::from(Ipv4Addr::from_bits(0x0a00_0000 + number * 4));
                prop_assert_eq!(map.get(&key), twin.get(&key));
            }
            for (part, used) in &map.v4.parts {
                prop_assert_eq!(part.iter().flatten().count(), *used as usize);
                prop_assert!(part.is_empty() || part.iter().any(Option::is_none), "a search ends");
            }
        }

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
                prop_assert_eq!(map.iter().map(|(key, value)| (key, *value)).collect::<HashMap<_, _>>(), twin);
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
        let used = map.v4.parts.iter().filter(|(_, used)| *used > 0).count();
        assert!(used > PARTS / 3, "256 neighbours are in {used} parts");
    }
}
