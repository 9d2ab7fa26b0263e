//! [`BackendSets`]: lists of backends with their Maglev tables, each distinct list once.

use std::net::SocketAddr;
use std::sync::Arc;

use crate::hash::FastMap;
use crate::maglev::{Maglev, Member};

/// Number of a list within one [`BackendSets`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SetId(u32);

/// Every distinct list of backends of one table.
#[derive(Debug, Default)]
pub(super) struct BackendSets {
    sets: Vec<BackendSet>,
    numbers: FastMap<Arc<[Member]>, SetId>,
}

#[derive(Debug)]
struct BackendSet {
    /// Ascending, distinct, at least one.
    members: Arc<[Member]>,
    /// `None` for lists that are only looked into, never picked from.
    maglev: Option<Maglev>,
}

impl BackendSets {
    /// The list of these members, in any order; `None` for no members.
    pub(super) fn intern(&mut self, mut members: Vec<Member>) -> Option<SetId> {
        if members.is_empty() {
            return None;
        }
        members.sort_unstable();
        if let Some(number) = self.numbers.get(members.as_slice()) {
            return Some(*number);
        }
        // The capacity on Services keeps their number far below 2^32.
        let number = SetId(self.sets.len() as u32);
        let members: Arc<[Member]> = members.into();
        self.numbers.insert(Arc::clone(&members), number);
        self.sets.push(BackendSet { members, maglev: None });
        Some(number)
    }

    /// Makes sure that `set` can be picked from: by the table of `previous` for the same members, or by a new one.
    pub(super) fn prepare(&mut self, set: SetId, previous: Option<&BackendSets>) {
        if let Some(set) = self.sets.get_mut(set.0 as usize)
            && set.maglev.is_none()
        {
            let known = previous.and_then(|previous| previous.table(&set.members));
            set.maglev = Some(known.unwrap_or_else(|| Maglev::build(&set.members)));
        }
    }

    /// The member that a flow of this hash goes to.
    pub(super) fn pick(&self, set: SetId, hash: u64) -> Option<SocketAddr> {
        let set = self.sets.get(set.0 as usize)?;
        let index = set.maglev.as_ref()?.pick(hash)?;
        set.members.get(index).map(|member| member.address)
    }

    /// The members in ascending order.
    pub(super) fn members(&self, set: SetId) -> &[Member] {
        self.sets.get(set.0 as usize).map_or(&[], |set| &set.members)
    }

    /// Whether a member listens there.
    pub(super) fn contains(&self, set: SetId, address: SocketAddr) -> bool {
        self.members(set).binary_search_by(|member| member.address.cmp(&address)).is_ok()
    }

    /// Heap memory in bytes.
    pub(super) fn bytes(&self) -> usize {
        let bytes = |set: &BackendSet| {
            size_of_val::<[Member]>(&set.members) + set.maglev.as_ref().map_or(0, Maglev::bytes)
        };
        self.sets.iter().map(bytes).sum()
    }

    /// How many distinct lists there are.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.sets.len()
    }

    /// For how many lists both hold the very same table, not an equal one.
    #[cfg(test)]
    pub(super) fn shares_tables_with(&self, other: &BackendSets) -> usize {
        let shared = |set: &&BackendSet| match (&set.maglev, other.table(&set.members)) {
            (Some(ours), Some(theirs)) => ours.is_same(&theirs),
            _ => false,
        };
        self.sets.iter().filter(shared).count()
    }

    fn table(&self, members: &[Member]) -> Option<Maglev> {
        let number = self.numbers.get(members)?;
        self.sets.get(number.0 as usize)?.maglev.clone()
    }
}
