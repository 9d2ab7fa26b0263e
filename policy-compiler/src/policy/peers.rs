//! Peer classes: addresses grouped by which rules' peers they are among.
//!
//! ```text
//!   endpoint's address ─► identity ─┐                          ┌─► class ─► which rules of a subject match
//!                                   ├─► set of peer groups ────┤   (equal sets, one class)
//!   any address ─► ipBlocks ────────┘                          └─
//! ```
//!
//! A *stranger* is an address of a pod range that no endpoint has: a pod of which nothing is known here yet.
//!
//! ipBlocks hold for pods' addresses as for any other. The ipBlocks that contain an address follow from its longest
//! match among all their prefixes and excepts, so they are worked out once a prefix, not once an address.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;

use ipnet::IpNet;

use crate::hash::FastMap;
use crate::intent::{IpBlock, Peers};
use crate::prefix::{PrefixMap, bounds};

/// The peers of a rule, or of that part of a rule that has one named port with one number.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(super) struct Group {
    /// Everyone, whatever the lists say.
    pub(super) everyone: bool,
    /// These identities.
    identities: Vec<u32>,
    /// These blocks, by number.
    blocks: Vec<u32>,
    /// Of the blocks' addresses only those of endpoints of these identities.
    blocks_only: Option<Vec<u32>>,
    /// Of the blocks' addresses only those that nobody has.
    strangers_only: bool,
}

/// Who has an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Owner {
    /// Nobody who is known.
    Nobody,
    /// A node.
    Host,
    /// An endpoint of that identity.
    Endpoint(u32),
}

impl Owner {
    fn identity(self) -> Option<u32> {
        match self {
            Owner::Nobody | Owner::Host => None,
            Owner::Endpoint(identity) => Some(identity),
        }
    }
}

/// Collects the groups of all rules; then classes are made of them.
#[derive(Default)]
pub(super) struct Groups {
    groups: Vec<Group>,
    numbers: FastMap<Group, u32>,
    blocks: Vec<IpBlock>,
    block_numbers: HashMap<IpBlock, u32>,
    /// The group of strangers, where a rule has asked for it.
    strangers: Option<u32>,
}

/// The classes. Number 0 is the class of those who are in no group.
#[derive(Default)]
pub(super) struct Classes {
    groups: Vec<Group>,
    /// The groups of each identity, and of each block.
    of_identity: Vec<Vec<u32>>,
    of_block: Vec<Vec<u32>>,
    /// From an address to its set of blocks.
    prefixes: PrefixMap<u32>,
    block_sets: Vec<Vec<u32>>,
    /// Class by owner and set of blocks, and by set of groups.
    known: FastMap<(Owner, Option<u32>), u32>,
    by_groups: FastMap<Vec<u32>, u32>,
    /// The classes of each group, and their count.
    members: Vec<Vec<u32>>,
    count: u32,
}

/// Classes for addresses that come later.
#[derive(Debug, Default)]
pub(super) struct KnownClasses {
    /// From an address to its set of blocks.
    prefixes: PrefixMap<u32>,
    /// By owner and set of blocks.
    known: FastMap<(Owner, Option<u32>), u32>,
}

impl KnownClasses {
    /// The class of an endpoint's address; `None` where no address like it was there.
    pub(super) fn of_address(&self, address: IpAddr, identity: u32) -> Option<u32> {
        self.known.get(&(Owner::Endpoint(identity), self.prefixes.lookup(address))).copied()
    }
}

impl Groups {
    /// The number of the group that `peers` are (`None`: everyone); with `only`, of those of these identities.
    pub(super) fn number(&mut self, peers: Option<&Peers>, only: Option<&[u32]>) -> u32 {
        let wanted = |identity: &u32| only.is_none_or(|only| only.binary_search(identity).is_ok());
        let group = match (peers, only) {
            (None, None) => Group { everyone: true, ..Group::default() },
            (None, Some(only)) => Group { identities: only.to_vec(), ..Group::default() },
            (Some(peers), only) => {
                let blocks: BTreeSet<u32> = peers.blocks.iter().map(|block| self.block(block)).collect();
                let identities: BTreeSet<u32> = peers.identities.iter().copied().filter(wanted).collect();
                Group {
                    identities: identities.into_iter().collect(),
                    blocks_only: only.filter(|_| !blocks.is_empty()).map(<[u32]>::to_vec),
                    blocks: blocks.into_iter().collect(),
                    ..Group::default()
                }
            }
        };
        self.number_of(group)
    }

    /// The number of the group of strangers.
    pub(super) fn strangers(&mut self) -> u32 {
        if let Some(number) = self.strangers {
            return number;
        }
        let number = self.number_of(Group { strangers_only: true, ..Group::default() });
        *self.strangers.insert(number)
    }

    fn number_of(&mut self, group: Group) -> u32 {
        if let Some(number) = self.numbers.get(&group) {
            return *number;
        }
        let number = self.groups.len() as u32;
        self.groups.push(group.clone());
        self.numbers.insert(group, number);
        number
    }

    /// Ready to classify, with `identities` identities. Of the addresses in `pod_ranges` those that nobody has are strangers'.
    pub(super) fn finish(self, identities: usize, pod_ranges: &[IpNet]) -> Classes {
        let mut of_identity = vec![Vec::new(); identities];
        let mut of_block = vec![Vec::new(); self.blocks.len()];
        // All ranges together are one block more: that of the group of strangers, where there is one.
        let ranges = if self.strangers.is_some() { pod_ranges } else { &[] };
        of_block.extend(self.strangers.map(|strangers| vec![strangers]));
        for (number, group) in self.groups.iter().enumerate() {
            let file = |lists: &mut Vec<Vec<u32>>, at: u32| {
                lists.get_mut(at as usize).into_iter().for_each(|list| list.push(number as u32));
            };
            group.identities.iter().for_each(|identity| file(&mut of_identity, *identity));
            group.blocks.iter().for_each(|block| file(&mut of_block, *block));
        }
        let (prefixes, block_sets) = block_sets(&self.blocks, ranges);
        let members = vec![Vec::new(); self.groups.len()];
        let mut classes = Classes {
            groups: self.groups,
            of_identity,
            of_block,
            prefixes,
            block_sets,
            members,
            ..Classes::default()
        };
        classes.class(Owner::Nobody, None);
        // Those whose endpoints all have gone, or are in blocks, may get others: there, or anywhere in a pod range.
        let ranges: BTreeSet<Option<u32>> =
            ranges.iter().map(|range| classes.prefixes.lookup(range.trunc().addr())).chain([None]).collect();
        for identity in 0..identities as u32 {
            for set in &ranges {
                classes.class(Owner::Endpoint(identity), *set);
            }
        }
        classes
    }

    fn block(&mut self, block: &IpBlock) -> u32 {
        if let Some(number) = self.block_numbers.get(block) {
            return *number;
        }
        let number = self.blocks.len() as u32;
        self.blocks.push(block.clone());
        self.block_numbers.insert(block.clone(), number);
        number
    }
}

impl Classes {
    /// The class of an address that `owner` has.
    pub(super) fn of_address(&mut self, address: IpAddr, owner: Owner) -> u32 {
        let blocks = self.prefixes.lookup(address);
        self.class(owner, blocks)
    }

    /// The class of every address that no endpoint has.
    pub(super) fn outside(&mut self) -> PrefixMap<u32> {
        let classes: Vec<u32> =
            (0..self.block_sets.len() as u32).map(|set| self.class(Owner::Nobody, Some(set))).collect();
        self.prefixes.map(|set| classes.get(set as usize).copied().unwrap_or_default())
    }

    /// What classifies addresses from now on.
    pub(super) fn into_known(self) -> KnownClasses {
        KnownClasses { prefixes: self.prefixes, known: self.known }
    }

    /// The group of that number.
    pub(super) fn group(&self, number: u32) -> Option<&Group> {
        self.groups.get(number as usize)
    }

    /// The classes of a group, sorted; of one of everyone, none are listed.
    pub(super) fn members(&self, group: u32) -> &[u32] {
        self.members.get(group as usize).map(Vec::as_slice).unwrap_or_default()
    }

    /// How many classes there are.
    pub(super) fn count(&self) -> u32 {
        self.count
    }

    fn class(&mut self, owner: Owner, blocks: Option<u32>) -> u32 {
        if let Some(class) = self.known.get(&(owner, blocks)) {
            return *class;
        }
        let groups = self.groups_of(owner, blocks);
        let class = match self.by_groups.get(&groups) {
            Some(class) => *class,
            None => {
                let class = self.count;
                self.count += 1;
                for group in &groups {
                    self.members.get_mut(*group as usize).into_iter().for_each(|list| list.push(class));
                }
                self.by_groups.insert(groups, class);
                class
            }
        };
        self.known.insert((owner, blocks), class);
        class
    }

    fn groups_of(&self, owner: Owner, blocks: Option<u32>) -> Vec<u32> {
        let identity = owner.identity();
        let by_identity = identity.and_then(|identity| self.of_identity.get(identity as usize));
        let mut groups: Vec<u32> = by_identity.into_iter().flatten().copied().collect();
        let blocks = blocks.and_then(|set| self.block_sets.get(set as usize)).into_iter().flatten();
        for group in blocks.filter_map(|block| self.of_block.get(*block as usize)).flatten() {
            let Some(about) = self.groups.get(*group as usize) else { continue };
            let meant = |only: &[u32]| identity.is_some_and(|identity| only.binary_search(&identity).is_ok());
            let to_stranger = !about.strangers_only || owner == Owner::Nobody;
            if to_stranger && about.blocks_only.as_deref().is_none_or(meant) {
                groups.push(*group);
            }
        }
        groups.sort_unstable();
        groups.dedup();
        groups
    }
}

/// For each prefix that any block names, the set of blocks which an address with that longest match is in. Such a set
/// is that of the next shorter prefix, without the blocks that except this one, with the blocks that are this one. All of
/// `ranges` together are one block more. Equal sets are one.
fn block_sets(blocks: &[IpBlock], ranges: &[IpNet]) -> (PrefixMap<u32>, Vec<Vec<u32>>) {
    let mut begins = HashMap::<IpNet, Vec<u32>>::new();
    let mut excepts = HashMap::<IpNet, Vec<u32>>::new();
    for (number, block) in blocks.iter().enumerate() {
        begins.entry(block.cidr.trunc()).or_default().push(number as u32);
        block.except.iter().for_each(|part| excepts.entry(part.trunc()).or_default().push(number as u32));
    }
    for range in ranges {
        begins.entry(range.trunc()).or_default().push(blocks.len() as u32);
    }
    let mut prefixes: Vec<IpNet> = begins.keys().chain(excepts.keys()).copied().collect();
    prefixes.sort_by_key(|prefix| (prefix.addr().is_ipv6(), bounds(prefix).0, prefix.prefix_len()));
    prefixes.dedup();
    let mut sets = Vec::<Vec<u32>>::new();
    let mut known = HashMap::<Vec<u32>, u32>::new();
    let mut entries = Vec::new();
    let mut open = Vec::<(IpNet, u32)>::new();
    for prefix in prefixes {
        while open.pop_if(|(around, _)| !around.contains(&prefix)).is_some() {}
        let around = open.last().and_then(|(_, set)| sets.get(*set as usize));
        let mut set: BTreeSet<u32> = around.into_iter().flatten().copied().collect();
        set.extend(begins.get(&prefix).into_iter().flatten());
        for block in excepts.get(&prefix).into_iter().flatten() {
            set.remove(block);
        }
        let number = *known.entry(set.into_iter().collect()).or_insert_with_key(|set| {
            sets.push(set.clone());
            sets.len() as u32 - 1
        });
        entries.push((prefix, number));
        open.push((prefix, number));
    }
    (PrefixMap::new(entries), sets)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_of_addresses() {
        let net = |text: &str| text.parse::<IpNet>().unwrap();
        let block = |cidr: &str, except: &[&str]| IpBlock {
            cidr: net(cidr),
            except: except.iter().map(|part| net(part)).collect(),
        };
        let blocks = [
            block("0.0.0.0/0", &["10.0.0.0/8"]),
            block("10.0.0.0/8", &["10.1.0.0/16", "10.1.2.0/24"]),
            block("10.1.2.3/32", &[]),
            block("::/0", &["fd00::/8"]),
            block("10.0.0.0/8", &[]),
        ];
        let (prefixes, sets) = block_sets(&blocks, &[net("10.1.0.0/16"), net("fd00::/16")]);
        let rows: [(&str, &[u32]); 8] = [
            ("1.2.3.4", &[0]),
            ("10.0.0.1", &[1, 4]),
            ("10.1.0.1", &[4, 5]),
            ("10.1.2.4", &[4, 5]),
            ("10.1.2.3", &[2, 4, 5]),
            ("11.0.0.0", &[0]),
            ("2001:db8::1", &[3]),
            ("fd00::1", &[5]),
        ];
        for (address, expected) in rows {
            let set = prefixes.lookup(address.parse().unwrap()).unwrap();
            assert_eq!(sets[set as usize], expected, "{address}");
        }
    }
}
