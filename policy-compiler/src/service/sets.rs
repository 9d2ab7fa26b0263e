//! [`BackendSet`]: a list of backends with what is picked from it; [`SetPool`]: each distinct list once, over all generations.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock, Weak};

use super::picks::Picks;
use crate::hash::FastMap;
use crate::maglev::Member;

/// A list of backends. Shared by all Services and generations that have the same.
#[derive(Debug)]
pub(super) struct BackendSet {
    /// Ascending, distinct, at least one.
    members: Box<[Member]>,
    /// Not there for lists that are only looked into, never picked from. Filled by who compiles, before anybody picks.
    picks: OnceLock<Picks>,
}

/// The lists in use, by their members' hash.
#[derive(Debug, Default, Clone)]
pub(crate) struct SetPool {
    sets: FastMap<u64, Vec<Weak<BackendSet>>>,
    /// Lists that were put in since those nobody uses were taken out, and how many were left then.
    added: usize,
    left: usize,
}

impl SetPool {
    /// The list of these members, in any order; `None` for no members.
    pub(super) fn intern(&mut self, mut members: Vec<Member>) -> Option<Arc<BackendSet>> {
        if members.is_empty() {
            return None;
        }
        members.sort_unstable();
        let alike = self.sets.entry(hash(&members)).or_default();
        let known = alike.iter().filter_map(Weak::upgrade).find(|set| *set.members == *members);
        if known.is_some() {
            return known;
        }
        let set = Arc::new(BackendSet { members: members.into(), picks: OnceLock::new() });
        alike.push(Arc::downgrade(&set));
        self.added += 1;
        if self.added > 1024 + self.left {
            self.forget_unused();
        }
        Some(set)
    }

    fn forget_unused(&mut self) {
        self.sets.retain(|_, alike| {
            alike.retain(|set| set.strong_count() > 0);
            !alike.is_empty()
        });
        (self.added, self.left) = (0, self.sets.len());
    }

    /// How many lists it knows, used or not.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.sets.values().map(Vec::len).sum()
    }
}

impl BackendSet {
    /// Makes sure that it can be picked from.
    pub(super) fn prepare(&self) {
        self.picks.get_or_init(|| Picks::of(&self.members));
    }

    /// What is picked from; `None` where it was not prepared.
    pub(super) fn picks(&self) -> Option<&Picks> {
        self.picks.get()
    }

    /// The members in ascending order.
    pub(super) fn members(&self) -> &[Member] {
        &self.members
    }

    /// Whether a member listens there.
    pub(super) fn contains(&self, address: SocketAddr) -> bool {
        self.members.binary_search_by(|member| member.address.cmp(&address)).is_ok()
    }

    /// Heap memory in bytes.
    pub(super) fn bytes(&self) -> usize {
        size_of_val::<[Member]>(&self.members) + self.picks.get().map_or(0, Picks::bytes)
    }
}

fn hash(members: &[Member]) -> u64 {
    use std::hash::{BuildHasher, BuildHasherDefault};
    BuildHasherDefault::<crate::hash::FastHasher>::default().hash_one(members)
}
