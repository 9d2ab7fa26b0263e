//! Who has an address: the identity that rules are about. Pods and nodes by hash, unknown pods by their nodes' ranges.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hash, Hasher};
use std::net::IpAddr;

use ipnet::IpNet;
use policy_compiler::intent::Intent;

/// Which end is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// The destination.
    Ingress,
    /// The source.
    Egress,
}

/// Who has an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Who {
    /// The pod's identity, [`STRANGER`] or [`NO_IDENTITY`].
    pub identity: u32,
    /// The pod's number, or [`NOBODY`].
    pub pod: u32,
    /// The node's number, its own or the pod's, or [`NOBODY`].
    pub node: u32,
}

/// In place of a pod or node: none.
pub const NOBODY: u32 = u32::MAX;
/// A node, or somebody outside.
pub const NO_IDENTITY: u32 = u32::MAX;
/// An address of a node's pod range that no pod has: a pod that nobody knows yet.
pub const STRANGER: u32 = u32::MAX - 1;

impl Who {
    /// Somebody outside of the cluster.
    pub const OUTSIDE: Who = Who { identity: NO_IDENTITY, pod: NOBODY, node: NOBODY };

    /// Whether policies may select it.
    #[inline]
    pub fn is_pod(&self) -> bool {
        self.pod != NOBODY
    }

    /// Whether both are one pod.
    #[inline]
    pub fn is_same_pod(&self, other: &Who) -> bool {
        self.pod == other.pod && self.is_pod()
    }

    /// Whether both are on, or are, one node.
    #[inline]
    pub fn is_on_node_of(&self, other: &Who) -> bool {
        self.node == other.node && self.node != NOBODY
    }
}

/// Every address that is known, with who has it.
pub fn known(intent: &Intent) -> impl Iterator<Item = (IpAddr, Who)> {
    let numbers: HashMap<&str, u32> = intent.nodes.iter().map(|node| node.name.as_str()).zip(0..).collect();
    let nodes = (0..).zip(&intent.nodes).flat_map(|(node, it)| {
        it.addresses.iter().map(move |address| (*address, Who { node, ..Who::OUTSIDE }))
    });
    let pods = (0..).zip(&intent.endpoints).flat_map(move |(pod, it)| {
        let node = numbers.get(it.node.as_str()).copied().unwrap_or(NOBODY);
        it.addresses.iter().map(move |address| (*address, Who { identity: it.identity, pod, node }))
    });
    nodes.chain(pods)
}

/// From an address to who has it.
#[derive(Debug)]
pub struct Addresses {
    v4: FoldMap<u32, Who>,
    v6: FoldMap<u128, Who>,
    /// First and last address of each range of pods, ascending.
    pods_v4: Vec<(u32, u32)>,
    pods_v6: Vec<(u128, u128)>,
}

impl Addresses {
    /// Those of an intent.
    pub fn of(intent: &Intent) -> Self {
        let mut addresses = Addresses {
            v4: FoldMap::default(),
            v6: FoldMap::default(),
            pods_v4: Vec::new(),
            pods_v6: Vec::new(),
        };
        for (address, who) in known(intent) {
            match address {
                IpAddr::V4(v4) => addresses.v4.insert(v4.to_bits(), who),
                IpAddr::V6(v6) => addresses.v6.insert(v6.to_bits(), who),
            };
        }
        for range in intent.nodes.iter().flat_map(|node| &node.pod_cidrs) {
            match range {
                IpNet::V4(v4) => addresses.pods_v4.push((v4.network().to_bits(), v4.broadcast().to_bits())),
                IpNet::V6(v6) => addresses.pods_v6.push((v6.network().to_bits(), v6.broadcast().to_bits())),
            }
        }
        addresses.pods_v4.sort_unstable();
        addresses.pods_v6.sort_unstable();
        addresses
    }

    /// Who has `address`.
    #[inline]
    pub fn who(&self, address: IpAddr) -> Who {
        match address {
            IpAddr::V4(v4) => who(&self.v4, &self.pods_v4, v4.to_bits()),
            IpAddr::V6(v6) => who(&self.v6, &self.pods_v6, v6.to_bits()),
        }
    }
}

#[inline]
fn who<K: Ord + Copy + Hash>(known: &FoldMap<K, Who>, pods: &[(K, K)], key: K) -> Who {
    known.get(&key).copied().unwrap_or_else(|| unknown(pods, key))
}

/// A stranger where one of the ranges, which are disjoint, has it.
fn unknown<K: Ord + Copy>(pods: &[(K, K)], key: K) -> Who {
    let after = pods.partition_point(|(first, _)| *first <= key);
    let range = after.checked_sub(1).and_then(|before| pods.get(before));
    let identity = if range.is_some_and(|(_, last)| key <= *last) { STRANGER } else { NO_IDENTITY };
    Who { identity, ..Who::OUTSIDE }
}

/// A hash map with a hash of a few instructions, as the tables have it: std's own is made against adversaries.
pub type FoldMap<K, V> = HashMap<K, V, BuildHasherDefault<Fold>>;

/// One folded multiplication a word.
#[derive(Debug, Default, Clone, Copy)]
pub struct Fold(u64);

impl Fold {
    #[inline]
    fn take(&mut self, word: u64) {
        let product = u128::from(self.0 ^ word ^ 0x9e37_79b9_7f4a_7c15) * 0xd6e8_feb8_6659_fd93_u128;
        self.0 = (product as u64) ^ ((product >> 64) as u64);
    }
}

impl Hasher for Fold {
    #[inline]
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.take((*byte).into()));
    }

    #[inline]
    fn write_u32(&mut self, word: u32) {
        self.take(word.into());
    }

    #[inline]
    fn write_u64(&mut self, word: u64) {
        self.take(word);
    }

    #[inline]
    fn write_u128(&mut self, word: u128) {
        self.take(word as u64 ^ ((word >> 64) as u64).rotate_left(29));
    }
}

/// What a map of so many entries takes, as std's has it: a byte and a place each, seven of eight taken at most, a power of two.
pub fn map_bytes<K: Hash, V>(map: &FoldMap<K, V>) -> usize {
    let places = if map.capacity() == 0 { 0 } else { (map.capacity() * 8 / 7).next_power_of_two() };
    places * (size_of::<(K, V)>() + 1)
}
