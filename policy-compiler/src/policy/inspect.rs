//! Looking into a [`PolicyTable`]: for `analysis` and [`check`](crate::check), which ask of classes what packets ask of addresses.
//!
//! What two addresses look alike in (their [`Look`]) is all that a judgement depends on, apart from an endpoint's
//! exemption for its own node and itself; and what a table says of a pair of looks is one [`ListId`] a direction.

use std::net::IpAddr;

use super::{Decision, End, NOBODY, PolicyTable, ports};

/// What sort of address it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Sort {
    /// Of an endpoint that policies may select.
    Endpoint,
    /// Of a node, or of a hostNetwork pod.
    Host,
    /// Neither.
    Outside,
}

/// What a table knows of an address, in its own numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Look {
    pub(crate) sort: Sort,
    /// Its class as a peer.
    pub(crate) class: u32,
    /// Its subject for ingress; 0 for none.
    pub(crate) ingress: u32,
    /// Its subject for egress; 0 for none.
    pub(crate) egress: u32,
}

/// What a subject's policies say of a class of peers: a list of segments of the line of protocols and ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ListId(u32);

impl ListId {
    /// Of those whom no policy selects.
    const OPEN: ListId = ListId(u32::MAX);
    /// Of a subject and a class that the table does not have.
    const MISSING: ListId = ListId(u32::MAX - 1);

    /// Its place among [`PolicyTable::lists`].
    #[cfg(feature = "kubernetes")]
    pub(crate) fn index(self) -> usize {
        self.0.wrapping_add(2) as usize
    }
}

/// Protocols and ports as one line of keys: TCP, UDP and SCTP ports, then one key for every other protocol.
pub(crate) const OTHER_PROTOCOLS: u32 = ports::OTHER << 16;

impl PolicyTable {
    /// What is known of `address`.
    pub(crate) fn look(&self, address: IpAddr) -> Look {
        self.look_and_node(address).0
    }

    /// The same, with the address's node by its position in the intent, where it is an endpoint's or a node's.
    pub(crate) fn look_and_node(&self, address: IpAddr) -> (Look, Option<u32>) {
        let End { entry, profile } = self.end(address);
        // Only of what is outside is neither known.
        let sort = match (entry.endpoint, self.addresses.get(&address)) {
            (NOBODY, None) => Sort::Outside,
            (NOBODY, Some(_)) => Sort::Host,
            _ => Sort::Endpoint,
        };
        let look = Look { sort, class: profile.class, ingress: profile.ingress, egress: profile.egress };
        (look, Some(entry.node).filter(|node| *node != NOBODY))
    }

    /// The node of an address.
    pub(crate) fn node(&self, address: IpAddr) -> Option<u32> {
        self.look_and_node(address).1
    }

    /// Where the class of the addresses that are not known exactly changes: the first address of each range of one
    /// family, ascending, with the class from there on.
    pub(crate) fn outside(&self, ipv6: bool) -> Vec<(u128, u32)> {
        let class = |profile| self.rules.profiles.get(profile).map_or(0, |profile| profile.class);
        let ranges = self.rules.outside.ranges(ipv6);
        ranges.map(|(first, profile)| (first, class(profile.unwrap_or_default()))).collect()
    }

    /// What `subject` says of `class`.
    pub(crate) fn list(&self, subject: u32, class: u32) -> ListId {
        if subject == 0 {
            return ListId::OPEN;
        }
        self.rules.list(subject, class).map_or(ListId::MISSING, |list| ListId(list.number()))
    }

    /// The addresses that are known exactly, in no order.
    pub(crate) fn known(&self) -> impl Iterator<Item = IpAddr> {
        self.addresses.iter().map(|(address, _)| address)
    }

    /// How many those are.
    pub(crate) fn known_count(&self) -> usize {
        self.addresses.len()
    }

    /// The classes of which `subject` says something else than of most: those that other rules match than the rules about everyone.
    pub(crate) fn exceptions(&self, subject: u32) -> impl Iterator<Item = u32> {
        let subject = self.rules.subjects.get(subject).filter(|_| subject != 0);
        subject.into_iter().flat_map(|subject| subject.cells.exceptions())
    }

    /// Every list, in the order of [`ListId::index`].
    #[cfg(feature = "kubernetes")]
    pub(crate) fn lists(&self) -> impl Iterator<Item = ListId> {
        [ListId::MISSING, ListId::OPEN].into_iter().chain((0..self.rules.lists.len() as u32).map(ListId))
    }

    /// The segments of a list: the first key of each, ascending from 0, with the decision from there on.
    pub(crate) fn segments(&self, list: ListId) -> Vec<(u32, Decision)> {
        match list {
            ListId::OPEN => vec![(0, Decision::DEFAULT_ALLOW)],
            ListId(number) => {
                let list = self.rules.lists.get(number);
                list.map_or_else(|| vec![(0, Decision::NO_RULE)], |list| list.decisions())
            }
        }
    }

    /// Whether the two addresses are of one endpoint, or of an endpoint and its node.
    #[cfg(feature = "kubernetes")]
    pub(crate) fn is_exempt(&self, one: IpAddr, other: IpAddr) -> bool {
        self.end(one).entry.is_exempt_with(&self.end(other).entry)
    }

    /// What becomes of a decision about a pair that is exempt.
    #[cfg(feature = "kubernetes")]
    pub(crate) fn exempted(decision: Decision) -> Decision {
        decision.unisolated()
    }
}
