//! Peer groups: who the rules are about, each content once.
//!
//! A group is what the peers of one rule are or, on egress with a named port, those of them that name one number so. A
//! *stranger* is an address of a pod range that no endpoint has: a pod of which nothing is known here yet.

use std::collections::{BTreeSet, HashMap};

use crate::hash::FastMap;
use crate::intent::{IpBlock, Peers};

/// The peers of a rule, or of that part of a rule that has one named port with one number.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(super) struct Group {
    /// Everyone, whatever the lists say.
    pub(super) everyone: bool,
    /// These identities, sorted.
    pub(super) identities: Vec<u32>,
    /// These blocks, by number.
    pub(super) blocks: Vec<u32>,
    /// Of the blocks' addresses only those of endpoints of these identities.
    pub(super) blocks_only: Option<Vec<u32>>,
    /// All pod ranges, and of their addresses only those that nobody has.
    pub(super) strangers_only: bool,
}

/// All groups and blocks, by number. There are only more of them, until all is compiled anew.
#[derive(Debug, Default)]
pub(super) struct Groups {
    groups: Vec<Group>,
    numbers: FastMap<Group, u32>,
    blocks: Vec<IpBlock>,
    block_numbers: HashMap<IpBlock, u32>,
    /// The group of strangers, where a rule has asked for it.
    strangers: Option<u32>,
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
    pub(super) fn number_strangers(&mut self) -> u32 {
        if let Some(number) = self.strangers {
            return number;
        }
        let number = self.number_of(Group { strangers_only: true, ..Group::default() });
        *self.strangers.insert(number)
    }

    /// Whether any rule has asked for strangers.
    pub(super) fn has_strangers(&self) -> bool {
        self.strangers.is_some()
    }

    /// The group of that number.
    pub(super) fn get(&self, number: u32) -> Option<&Group> {
        self.groups.get(number as usize)
    }

    /// Whether that group is everyone.
    pub(super) fn is_everyone(&self, number: u32) -> bool {
        self.get(number).is_some_and(|group| group.everyone)
    }

    /// How many there are.
    pub(super) fn len(&self) -> u32 {
        self.groups.len() as u32
    }

    /// All blocks, by number.
    pub(super) fn blocks(&self) -> &[IpBlock] {
        &self.blocks
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
