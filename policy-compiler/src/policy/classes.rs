//! Peer classes: addresses grouped by which rules' peers they are among.
//!
//! ```text
//!   endpoint's address ─► identity ─┐
//!                                   ├─► profile ──► set of peer groups ──► class     (equal sets, one class)
//!   any address ──────► block set ──┘
//! ```
//!
//! A *profile* is an owner and a set of blocks: all that a class depends on. When there are more groups, classes are split where
//! a group has a part of one; no class that no group splits gets another number.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;

use super::blocks::{BlockSets, POD_RANGES};
use super::groups::{Group, Groups};
use crate::hash::FastMap;
use crate::intent::IpBlock;
use crate::prefix::PrefixMap;

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

/// Profiles and classes, by number. Profile 0 is of those whom nobody knows and no block holds.
#[derive(Debug, Default)]
pub(super) struct Classes {
    blocks: BlockSets,
    /// How many blocks are in them.
    known_blocks: usize,
    /// The groups of each identity and of each block, sorted.
    of_identity: Vec<Vec<u32>>,
    of_block: FastMap<u32, Vec<u32>>,
    /// How many groups are filed there.
    filed: u32,
    profiles: Vec<Profile>,
    known: FastMap<(Owner, Option<u32>), u32>,
    profiles_of_identity: Vec<Vec<u32>>,
    profiles_of_set: Vec<Vec<u32>>,
    classes: Vec<Class>,
    by_groups: FastMap<Vec<u32>, u32>,
    /// The classes of each group.
    members: Vec<Vec<u32>>,
}

#[derive(Debug, Clone, Copy)]
struct Profile {
    owner: Owner,
    class: u32,
}

#[derive(Debug)]
struct Class {
    /// Sorted.
    groups: Vec<u32>,
    /// How many profiles are of it.
    profiles: u32,
}

impl Classes {
    /// With no groups yet and that one profile.
    pub(super) fn new(groups: &Groups) -> Self {
        let mut classes = Classes::default();
        classes.profile(groups, Owner::Nobody, None);
        classes
    }

    /// There are identities more.
    pub(super) fn add_identities(&mut self, count: usize) {
        self.of_identity.resize_with(self.of_identity.len() + count, Vec::new);
        self.profiles_of_identity.resize_with(self.of_identity.len(), Vec::new);
    }

    /// There are groups more: splits the classes that they have a part of. Returns the profiles that are of another class now.
    pub(super) fn add_groups(&mut self, groups: &Groups) -> BTreeSet<u32> {
        let mut moved = BTreeSet::new();
        self.members.resize_with(groups.len() as usize, Vec::new);
        for number in self.filed..groups.len() {
            let Some(group) = groups.get(number) else { continue };
            self.file(number, group);
            self.split(number, group, &mut moved);
        }
        self.filed = groups.len();
        moved
    }

    /// Takes in the blocks that there are more, and returns them: addresses in them may be of other profiles now. `None` where there
    /// are none.
    pub(super) fn add_blocks<'a>(
        &mut self,
        groups: &'a Groups,
        pod_ranges: &[IpNet],
    ) -> Option<&'a [IpBlock]> {
        let ranges = if groups.has_strangers() { pod_ranges } else { &[] };
        let added = groups.blocks().get(self.known_blocks..).unwrap_or_default();
        if added.is_empty() && (self.blocks.len() > 0 || ranges.is_empty()) {
            return None;
        }
        self.known_blocks = groups.blocks().len();
        self.blocks.rebuild(groups.blocks(), ranges);
        self.profiles_of_set.resize_with(self.blocks.len() as usize, Vec::new);
        Some(added)
    }

    /// The profile of an address that `owner` has.
    pub(super) fn of_address(&mut self, groups: &Groups, address: IpAddr, owner: Owner) -> u32 {
        self.profile(groups, owner, self.blocks.of_address(address))
    }

    /// The profiles of addresses that nobody has, by prefix.
    pub(super) fn outside(&mut self, groups: &Groups) -> PrefixMap<u32> {
        let sets = 0..self.blocks.len();
        let profiles: Vec<u32> = sets.map(|set| self.profile(groups, Owner::Nobody, Some(set))).collect();
        self.blocks.map(|set| profiles.get(set as usize).copied().unwrap_or_default())
    }

    /// How many profiles there are.
    pub(super) fn profiles(&self) -> u32 {
        self.profiles.len() as u32
    }

    /// The profiles of an identity.
    pub(super) fn profiles_of(&self, identity: u32) -> &[u32] {
        self.profiles_of_identity.get(identity as usize).map(Vec::as_slice).unwrap_or_default()
    }

    /// The identity of a profile that endpoints have, and its class.
    pub(super) fn about(&self, profile: u32) -> (Option<u32>, u32) {
        self.profiles.get(profile as usize).map_or((None, 0), |about| (about.owner.identity(), about.class))
    }

    /// How many classes there are.
    pub(super) fn count(&self) -> u32 {
        self.classes.len() as u32
    }

    /// The groups of a class, sorted; of those of everyone, none are listed.
    pub(super) fn groups(&self, class: u32) -> &[u32] {
        self.classes.get(class as usize).map(|class| class.groups.as_slice()).unwrap_or_default()
    }

    /// The classes of a group; of one of everyone, none are listed.
    pub(super) fn members(&self, group: u32) -> &[u32] {
        self.members.get(group as usize).map(Vec::as_slice).unwrap_or_default()
    }

    fn profile(&mut self, groups: &Groups, owner: Owner, set: Option<u32>) -> u32 {
        if let Some(number) = self.known.get(&(owner, set)) {
            return *number;
        }
        let number = self.profiles.len() as u32;
        let class = self.class(self.groups_of(groups, owner, set));
        self.profiles.push(Profile { owner, class });
        self.known.insert((owner, set), number);
        let by_identity = owner.identity().and_then(|one| self.profiles_of_identity.get_mut(one as usize));
        by_identity.into_iter().for_each(|list| list.push(number));
        let by_set = set.and_then(|set| self.profiles_of_set.get_mut(set as usize));
        by_set.into_iter().for_each(|list| list.push(number));
        number
    }

    /// The class of those groups, for one profile more.
    fn class(&mut self, groups: Vec<u32>) -> u32 {
        let number = match self.by_groups.get(&groups) {
            Some(number) => *number,
            None => self.add(groups),
        };
        self.classes.get_mut(number as usize).into_iter().for_each(|class| class.profiles += 1);
        number
    }

    fn add(&mut self, groups: Vec<u32>) -> u32 {
        let number = self.count();
        for group in &groups {
            self.members.get_mut(*group as usize).into_iter().for_each(|list| list.push(number));
        }
        self.by_groups.insert(groups.clone(), number);
        self.classes.push(Class { groups, profiles: 0 });
        number
    }

    fn groups_of(&self, groups: &Groups, owner: Owner, set: Option<u32>) -> Vec<u32> {
        let identity = owner.identity();
        let by_identity = identity.and_then(|identity| self.of_identity.get(identity as usize));
        let mut found: Vec<u32> = by_identity.into_iter().flatten().copied().collect();
        let blocks = set.map(|set| self.blocks.blocks(set)).unwrap_or_default();
        for number in blocks.iter().filter_map(|block| self.of_block.get(block)).flatten() {
            if groups.get(*number).is_some_and(|group| holds_by_block(group, owner)) {
                found.push(*number);
            }
        }
        found.sort_unstable();
        found.dedup();
        found
    }

    fn file(&mut self, number: u32, group: &Group) {
        for identity in &group.identities {
            self.of_identity.get_mut(*identity as usize).into_iter().for_each(|list| list.push(number));
        }
        for block in blocks_of(group) {
            self.of_block.entry(block).or_default().push(number);
        }
    }

    /// Splits the classes that a new group has a part of.
    fn split(&mut self, number: u32, group: &Group, moved: &mut BTreeSet<u32>) {
        let by_identity = group.identities.iter().flat_map(|identity| self.profiles_of(*identity)).copied();
        let sets = blocks_of(group).flat_map(|block| self.blocks.with(block));
        let in_sets = sets.filter_map(|set| self.profiles_of_set.get(*set as usize)).flatten().copied();
        let holds = |profile: &u32| {
            self.profiles.get(*profile as usize).is_some_and(|about| holds_by_block(group, about.owner))
        };
        let inside: BTreeSet<u32> = by_identity.chain(in_sets.filter(holds)).collect();
        let mut parts = BTreeMap::<u32, Vec<u32>>::new();
        for profile in inside {
            parts.entry(self.about(profile).1).or_default().push(profile);
        }
        for (class, part) in parts {
            let Some(whole) = self.classes.get_mut(class as usize) else { continue };
            if whole.profiles as usize == part.len() {
                // All of it is in the group: it keeps its number.
                self.by_groups.remove(&whole.groups);
                whole.groups.push(number);
                self.by_groups.insert(whole.groups.clone(), class);
                self.members.get_mut(number as usize).into_iter().for_each(|list| list.push(class));
                continue;
            }
            whole.profiles -= part.len() as u32;
            let groups = whole.groups.iter().copied().chain([number]).collect();
            let class = self.add(groups);
            self.classes.get_mut(class as usize).into_iter().for_each(|new| new.profiles = part.len() as u32);
            for profile in part {
                self.profiles.get_mut(profile as usize).into_iter().for_each(|about| about.class = class);
                moved.insert(profile);
            }
        }
    }
}

/// The blocks whose addresses may be in a group.
fn blocks_of(group: &Group) -> impl Iterator<Item = u32> {
    group.blocks.iter().copied().chain(group.strangers_only.then_some(POD_RANGES))
}

/// Whether an address that `owner` has and that is in a block of the group is in the group.
fn holds_by_block(group: &Group, owner: Owner) -> bool {
    let meant = |only: &[u32]| owner.identity().is_some_and(|identity| only.binary_search(&identity).is_ok());
    let to_stranger = !group.strangers_only || owner == Owner::Nobody;
    to_stranger && group.blocks_only.as_deref().is_none_or(meant)
}
