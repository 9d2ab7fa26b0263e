//! [`Forest`]: binary tries with path compression in one array: the longest prefix of a key by one walk, as the kernel's `BPF_MAP_TYPE_LPM_TRIE`
//! does it.
//!
//! ```text
//!   10.0.0.0/8 ─1─► 10.128.0.0/9 ─► …        a node: a prefix, and its children by the bit behind it
//!        └─────0──► 10.1.0.0/16              nodes without a value are there where two prefixes part
//! ```

use std::ops::BitXor;

/// What can be looked up: a number, its highest bit first.
pub trait Bits: Copy + Eq + BitXor<Output = Self> {
    /// How many bits it has.
    const COUNT: u8;

    /// How many of its highest bits are 0.
    fn zeros(self) -> u8;

    /// The bit at a place, 0 being the highest.
    fn bit(self, place: u8) -> usize;
}

macro_rules! bits {
    ($($number:ty)*) => {$(
        impl Bits for $number {
            const COUNT: u8 = <$number>::BITS as u8;

            #[inline]
            fn zeros(self) -> u8 {
                self.leading_zeros() as u8
            }

            #[inline]
            fn bit(self, place: u8) -> usize {
                (self >> (Self::COUNT - 1 - place)) as usize & 1
            }
        }
    )*};
}

bits!(u32 u64 u128);

/// The root of a trie; [`EMPTY`] of one without entries.
pub type Root = u32;

/// See [`Root`].
pub const EMPTY: Root = u32::MAX;

/// See the module.
#[derive(Debug)]
pub struct Forest<K, V> {
    nodes: Vec<Node<K, V>>,
}

#[derive(Debug, Clone, Copy)]
struct Node<K, V> {
    /// Bits behind `length` are of some key below.
    key: K,
    children: [Root; 2],
    value: Option<V>,
    length: u8,
}

impl<K, V> Default for Forest<K, V> {
    fn default() -> Self {
        Forest { nodes: Vec::new() }
    }
}

impl<K: Bits, V: Copy> Forest<K, V> {
    /// The value of the longest prefix of `key`.
    #[inline]
    pub fn lookup(&self, root: Root, key: K) -> Option<V> {
        let (mut at, mut best) = (root, None);
        while let Some(node) = self.nodes.get(at as usize) {
            if (node.key ^ key).zeros() < node.length {
                break;
            }
            best = node.value.or(best);
            if node.length == K::COUNT {
                break;
            }
            at = node.children[key.bit(node.length)];
        }
        best
    }

    /// Whether an entry contains that prefix, or is it.
    pub fn covers(&self, root: Root, key: K, length: u8) -> bool {
        let mut at = root;
        while let Some(node) = self.nodes.get(at as usize) {
            if node.length > length || (node.key ^ key).zeros() < node.length {
                return false;
            }
            if node.value.is_some() {
                return true;
            }
            if node.length == K::COUNT {
                return false;
            }
            at = node.children[key.bit(node.length)];
        }
        false
    }

    /// Puts a prefix in; answers with the new root. A value that was there is replaced.
    #[must_use]
    pub fn insert(&mut self, root: Root, key: K, length: u8, value: V) -> Root {
        let Some(node) = self.nodes.get(root as usize).copied() else {
            return self.push(Node { key, children: [EMPTY; 2], value: Some(value), length });
        };
        let common = (node.key ^ key).zeros().min(node.length).min(length);
        if common < node.length {
            // It parts from the node, or contains it.
            let is_between = common == length;
            let mut parent =
                Node { key, children: [EMPTY; 2], value: is_between.then_some(value), length: common };
            parent.children[node.key.bit(common)] = root;
            if !is_between {
                parent.children[key.bit(common)] = self.insert(EMPTY, key, length, value);
            }
            return self.push(parent);
        }
        if length == node.length {
            self.nodes[root as usize].value = Some(value);
        } else {
            let side = key.bit(node.length);
            let child = self.insert(node.children[side], key, length, value);
            self.nodes[root as usize].children[side] = child;
        }
        root
    }

    /// Heap memory in bytes.
    pub fn bytes(&self) -> usize {
        size_of_val(self.nodes.as_slice())
    }

    fn push(&mut self, node: Node<K, V>) -> Root {
        self.nodes.push(node);
        self.nodes.len() as Root - 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn has(prefix: u32, length: u8, key: u32) -> bool {
        (prefix ^ key).zeros() >= length
    }

    #[test]
    fn the_longest_prefix_is_that_of_trying_all() {
        let mut state = 1_u32;
        let mut draw = |limit: u32| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 16) % limit
        };
        for _ in 0..300 {
            // Few distinct bits, so that prefixes nest, part and repeat.
            let mut key = || (draw(4) << 30) | (draw(4) << 14) | draw(4);
            let keys: Vec<u32> = (0..30).map(|_| key()).collect();
            let mut forest = Forest::<u32, usize>::default();
            let (mut root, mut entries) = (EMPTY, Vec::<(u32, u8)>::new());
            for (number, key) in keys.iter().take(15).enumerate() {
                let length = draw(33) as u8;
                let covering =
                    entries.iter().any(|(prefix, long)| *long <= length && has(*prefix, *long, *key));
                assert_eq!(forest.covers(root, *key, length), covering);
                root = forest.insert(root, *key, length, number);
                entries.push((*key, length));
            }
            for key in keys {
                let matching =
                    entries.iter().enumerate().filter(|(_, (prefix, length))| has(*prefix, *length, key));
                let longest = matching.max_by_key(|(number, (_, length))| (*length, *number));
                assert_eq!(
                    forest.lookup(root, key),
                    longest.map(|(number, _)| number),
                    "{key:x} {entries:x?}"
                );
            }
        }
    }

    #[test]
    fn an_empty_trie_has_nothing() {
        let forest = Forest::<u64, ()>::default();
        assert_eq!(forest.lookup(EMPTY, 7), None);
        assert!(!forest.covers(EMPTY, 7, 64));
    }
}
