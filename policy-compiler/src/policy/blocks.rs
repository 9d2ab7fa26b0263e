//! Block sets: which ipBlocks an address is in.
//!
//! ipBlocks hold for pods' addresses as for any other. The ipBlocks that contain an address follow from its longest
//! match among all their prefixes and excepts, so they are worked out once a prefix, not once an address.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;

use ipnet::IpNet;

use crate::intent::IpBlock;
use crate::prefix::{PrefixMap, bounds};

/// Stands for all pod ranges together, as one block.
pub(super) const POD_RANGES: u32 = u32::MAX;

/// The sets of blocks, each content under a number that stays.
#[derive(Debug, Default)]
pub(super) struct BlockSets {
    /// From an address to the number of its set.
    prefixes: PrefixMap<u32>,
    sets: Vec<Vec<u32>>,
    numbers: HashMap<Vec<u32>, u32>,
    /// The sets that a block is in.
    with: HashMap<u32, Vec<u32>>,
}

impl BlockSets {
    /// Works all prefixes out anew, after there are more blocks. All of `pod_ranges` together are [`POD_RANGES`].
    pub(super) fn rebuild(&mut self, blocks: &[IpBlock], pod_ranges: &[IpNet]) {
        let entries: Vec<(IpNet, Vec<u32>)> = sets_by_prefix(blocks, pod_ranges);
        let numbered = entries.into_iter().map(|(prefix, set)| (prefix, self.number(set)));
        self.prefixes = PrefixMap::new(numbered.collect::<Vec<_>>());
    }

    /// The number of the set of blocks that an address is in.
    pub(super) fn of_address(&self, address: IpAddr) -> Option<u32> {
        self.prefixes.lookup(address)
    }

    /// The blocks of a set, sorted.
    pub(super) fn blocks(&self, set: u32) -> &[u32] {
        self.sets.get(set as usize).map(Vec::as_slice).unwrap_or_default()
    }

    /// The sets that hold a block.
    pub(super) fn with(&self, block: u32) -> &[u32] {
        self.with.get(&block).map(Vec::as_slice).unwrap_or_default()
    }

    /// How many sets there are.
    pub(super) fn len(&self) -> u32 {
        self.sets.len() as u32
    }

    /// The prefixes with something else for each set.
    pub(super) fn map<T: Copy>(&self, value: impl Fn(u32) -> T) -> PrefixMap<T> {
        self.prefixes.map(value)
    }

    fn number(&mut self, set: Vec<u32>) -> u32 {
        if let Some(number) = self.numbers.get(&set) {
            return *number;
        }
        let number = self.sets.len() as u32;
        for block in &set {
            self.with.entry(*block).or_default().push(number);
        }
        self.sets.push(set.clone());
        self.numbers.insert(set, number);
        number
    }
}

/// For each prefix that any block names, the set of blocks which an address with that longest match is in. Such a set
/// is that of the next shorter prefix, without the blocks that except this one, with the blocks that are this one.
fn sets_by_prefix(blocks: &[IpBlock], pod_ranges: &[IpNet]) -> Vec<(IpNet, Vec<u32>)> {
    let mut begins = HashMap::<IpNet, Vec<u32>>::new();
    let mut excepts = HashMap::<IpNet, Vec<u32>>::new();
    for (number, block) in (0..).zip(blocks) {
        begins.entry(block.cidr.trunc()).or_default().push(number);
        block.except.iter().for_each(|part| excepts.entry(part.trunc()).or_default().push(number));
    }
    for range in pod_ranges {
        begins.entry(range.trunc()).or_default().push(POD_RANGES);
    }
    let mut prefixes: Vec<IpNet> = begins.keys().chain(excepts.keys()).copied().collect();
    prefixes.sort_by_key(|prefix| (prefix.addr().is_ipv6(), bounds(prefix).0, prefix.prefix_len()));
    prefixes.dedup();
    let mut entries = Vec::<(IpNet, Vec<u32>)>::new();
    let mut open = Vec::<usize>::new();
    for prefix in prefixes {
        let is_around =
            |entry: &usize| entries.get(*entry).is_some_and(|(around, _)| around.contains(&prefix));
        while open.pop_if(|entry| !is_around(entry)).is_some() {}
        let around = open.last().and_then(|entry| entries.get(*entry));
        let mut set: BTreeSet<u32> = around.into_iter().flat_map(|(_, set)| set).copied().collect();
        set.extend(begins.get(&prefix).into_iter().flatten());
        for block in excepts.get(&prefix).into_iter().flatten() {
            set.remove(block);
        }
        open.push(entries.len());
        entries.push((prefix, set.into_iter().collect()));
    }
    entries
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    fn block(cidr: &str, except: &[&str]) -> IpBlock {
        IpBlock { cidr: net(cidr), except: except.iter().map(|part| net(part)).collect() }
    }

    #[test]
    fn blocks_of_addresses() {
        let mut blocks = vec![
            block("0.0.0.0/0", &["10.0.0.0/8"]),
            block("10.0.0.0/8", &["10.1.0.0/16", "10.1.2.0/24"]),
            block("10.1.2.3/32", &[]),
            block("::/0", &["fd00::/8"]),
            block("10.0.0.0/8", &[]),
        ];
        let pods = [net("10.1.0.0/16"), net("fd00::/16")];
        let mut sets = BlockSets::default();
        let check = |sets: &BlockSets, rows: &[(&str, &[u32])]| {
            for (address, expected) in rows {
                let set = sets.of_address(address.parse().unwrap()).unwrap();
                assert_eq!(sets.blocks(set), *expected, "{address}");
            }
        };
        sets.rebuild(&blocks, &pods);
        check(
            &sets,
            &[
                ("1.2.3.4", &[0]),
                ("10.0.0.1", &[1, 4]),
                ("10.1.0.1", &[4, POD_RANGES]),
                ("10.1.2.4", &[4, POD_RANGES]),
                ("10.1.2.3", &[2, 4, POD_RANGES]),
                ("11.0.0.0", &[0]),
                ("2001:db8::1", &[3]),
                ("fd00::1", &[POD_RANGES]),
            ],
        );
        let before = sets.of_address("1.2.3.4".parse().unwrap());
        blocks.push(block("10.1.2.0/24", &["10.1.2.3/32"]));
        sets.rebuild(&blocks, &pods);
        check(
            &sets,
            &[("10.1.2.4", &[4, 5, POD_RANGES]), ("10.1.2.3", &[2, 4, POD_RANGES]), ("10.0.0.1", &[1, 4])],
        );
        assert_eq!(sets.of_address("1.2.3.4".parse().unwrap()), before, "a set keeps its number");
        let with: Vec<&[u32]> = sets.with(5).iter().map(|set| sets.blocks(*set)).collect();
        assert_eq!(with, [[4, 5, POD_RANGES]]);
    }
}
