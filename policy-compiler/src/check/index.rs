//! [`Index`]: what the oracle finds without asking every policy and every endpoint. It holds numbers only; what they stand for stays
//! where it is, in the state ([`State`]).

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::hash::FastMap;
use crate::intent::{Endpoint, Identity, IpBlock, Node, Policy, Rule};
use crate::slots::Slots;
use crate::view::Change;

/// Parts by number, with a change that is not made yet laid over them.
pub(crate) struct Laid<'a, T> {
    /// The parts that there are.
    pub(crate) slots: &'a Slots<T>,
    /// Those that come or are replaced.
    pub(crate) added: &'a [(u32, &'a T)],
}

/// A state as it will be.
#[derive(Clone, Copy)]
pub(crate) struct State<'a> {
    pub(crate) nodes: &'a [Node],
    /// Those that there are, and those that come.
    pub(crate) identities: [&'a [Identity]; 2],
    pub(crate) endpoints: Laid<'a, Endpoint>,
    pub(crate) policies: Laid<'a, Policy>,
}

impl<T> Clone for Laid<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Laid<'_, T> {}

/// Who has an address.
#[derive(Clone, Copy)]
pub(super) enum Party<'a> {
    /// An endpoint that policies may select, with its number.
    Pod(u32, &'a Endpoint),
    /// The node of that name, or a hostNetwork pod there; with the node's number, where there is such a node.
    Host(Option<u32>, &'a str),
    /// Nobody who is known, in a range of pods.
    Stranger,
    /// Nobody who is known.
    World,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Index {
    /// Endpoints by address, hostNetwork pods apart.
    pods: FastMap<IpAddr, u32>,
    /// Nodes by address, and by name.
    nodes: FastMap<IpAddr, u32>,
    node_names: FastMap<String, u32>,
    /// Ranges of pods: first and last addresses, ascending, none within another.
    ranges: Vec<((bool, u128), u128)>,
    /// hostNetwork pods by an address that is no node's, ascending.
    hosts: FastMap<IpAddr, Vec<u32>>,
    /// By identity: its endpoints, hostNetwork pods apart.
    members: Vec<Vec<u32>>,
    /// By identity: the policies that select it, in the order in which they are asked.
    selecting: Vec<Vec<u32>>,
    /// By identity: the policies with a rule about it.
    naming: Vec<Vec<u32>>,
    /// The policies with a rule about address blocks.
    with_blocks: Vec<u32>,
    /// Where the blocks and their excepts begin, and the first addresses behind them: by how many. All addresses from one
    /// of those to the next are in the same blocks.
    borders: BTreeMap<(bool, u128), u32>,
}

impl<'a, T: crate::intent::update::Part> Laid<'a, T> {
    /// The part of that number.
    pub(super) fn get(&self, number: u32) -> Option<&'a T> {
        let added = self.added.iter().find(|(added, _)| *added == number);
        added.map(|(_, part)| *part).or_else(|| self.slots.get(number))
    }
}

impl<'a> State<'a> {
    /// The identity of that number.
    pub(super) fn identity(&self, number: u32) -> Option<&'a Identity> {
        let [old, new] = self.identities;
        let number = number as usize;
        old.get(number).or_else(|| new.get(number.checked_sub(old.len())?))
    }

    /// How many identities there are.
    pub(super) fn identities(&self) -> usize {
        self.identities.iter().map(|list| list.len()).sum()
    }
}

impl Index {
    /// Of a state without a change.
    pub(super) fn of(state: &State<'_>) -> Self {
        let mut index = Index::default();
        for (node, number) in state.nodes.iter().zip(0..) {
            index.nodes.extend(node.addresses.iter().map(|address| (*address, number)));
            index.node_names.insert(node.name.clone(), number);
        }
        index.ranges = ranges(state.nodes);
        index.grow(state.identities());
        index.pods.reserve(state.endpoints.slots.numbered().count());
        for (number, endpoint) in state.endpoints.slots.numbered() {
            index.add_endpoint(number, endpoint);
        }
        let mut policies: Vec<(u32, &Policy)> = state.policies.slots.numbered().collect();
        policies.sort_by_key(|(number, policy)| order(*number, policy));
        for (number, policy) in policies {
            // Asked last of all so far.
            index.add_policy(number, policy, |list| list.len());
        }
        index
    }

    /// Takes a change in, or with `undo` back. `state` is the one with it.
    pub(super) fn change(
        &mut self,
        state: &State<'_>,
        endpoints: &Change<'_, Endpoint>,
        policies: &Change<'_, Policy>,
        undo: bool,
    ) {
        self.grow(state.identities());
        let (out, into) = match undo {
            false => (&endpoints.removed, &endpoints.added),
            true => (&endpoints.added, &endpoints.removed),
        };
        out.iter().for_each(|(number, endpoint)| self.remove_endpoint(*number, endpoint));
        into.iter().for_each(|(number, endpoint)| self.add_endpoint(*number, endpoint));
        let (out, into) = match undo {
            false => (&policies.removed, &policies.added),
            true => (&policies.added, &policies.removed),
        };
        out.iter().for_each(|(number, policy)| self.remove_policy(*number, policy));
        for (number, policy) in into {
            let (own, mut others) = (order(*number, policy), state.policies);
            if undo {
                others.added = &[];
            }
            self.add_policy(*number, policy, |list| {
                // Those of the change that are not in yet are in no list.
                list.partition_point(|other| {
                    others.get(*other).is_some_and(|policy| order(*other, policy) < own)
                })
            });
        }
    }

    /// Who has an address.
    pub(super) fn party<'a>(&self, state: &State<'a>, address: IpAddr) -> Party<'a> {
        let pod = |number: &u32| state.endpoints.get(*number).map(|endpoint| (*number, endpoint));
        if let Some((number, endpoint)) = self.pods.get(&address).and_then(pod) {
            return Party::Pod(number, endpoint);
        }
        if let Some(number) = self.nodes.get(&address)
            && let Some(node) = state.nodes.get(*number as usize)
        {
            return Party::Host(Some(*number), &node.name);
        }
        let hosts = self.hosts.get(&address).and_then(|hosts| hosts.first());
        if let Some((_, host)) = hosts.and_then(pod) {
            return Party::Host(self.node_names.get(&host.node).copied(), &host.node);
        }
        let (key, bits) = ((address.is_ipv6(), bits(address)), bits(address));
        let after = self.ranges.partition_point(|(first, _)| *first <= key);
        let range = self.ranges.get(after.wrapping_sub(1));
        match range.is_some_and(|((ipv6, _), last)| *ipv6 == key.0 && bits <= *last) {
            true => Party::Stranger,
            false => Party::World,
        }
    }

    /// Whether an endpoint runs on that node.
    pub(super) fn is_own_node(&self, endpoint: &Endpoint, node: Option<u32>) -> bool {
        node.is_some() && self.node_names.get(&endpoint.node).copied() == node
    }

    /// The node of that name.
    pub(super) fn node<'a>(&self, state: &State<'a>, name: &str) -> Option<&'a Node> {
        state.nodes.get(*self.node_names.get(name)? as usize)
    }

    /// How many addresses somebody has.
    pub(super) fn addresses(&self) -> usize {
        self.pods.len()
            + self.nodes.len()
            + self.hosts.keys().filter(|at| !self.pods.contains_key(*at)).count()
    }

    /// The addresses of hostNetwork pods that are no node's.
    pub(super) fn hosts(&self) -> impl Iterator<Item = IpAddr> {
        self.hosts.keys().copied()
    }

    /// The endpoints of an identity.
    pub(super) fn members(&self, identity: u32) -> &[u32] {
        list(&self.members, identity)
    }

    /// The policies that select an identity, in the order in which they are asked.
    pub(super) fn selecting(&self, identity: u32) -> &[u32] {
        list(&self.selecting, identity)
    }

    /// The policies with a rule about an identity.
    pub(super) fn naming(&self, identity: u32) -> &[u32] {
        list(&self.naming, identity)
    }

    /// The policies with a rule about address blocks.
    pub(super) fn with_blocks(&self) -> &[u32] {
        &self.with_blocks
    }

    /// A number that is the same for all addresses that are in the same blocks, and perhaps not for those alone.
    pub(super) fn region(&self, address: IpAddr) -> (bool, u128) {
        let key = (address.is_ipv6(), bits(address));
        let first = self.borders.range(..=key).next_back();
        first.map(|(first, _)| *first).filter(|(ipv6, _)| *ipv6 == key.0).unwrap_or((key.0, 0))
    }

    fn grow(&mut self, identities: usize) {
        for lists in [&mut self.members, &mut self.selecting, &mut self.naming] {
            if lists.len() < identities {
                lists.resize(identities, Vec::new());
            }
        }
    }

    fn add_endpoint(&mut self, number: u32, endpoint: &Endpoint) {
        if endpoint.host_network {
            let strays = endpoint.addresses.iter().filter(|address| !self.nodes.contains_key(*address));
            for address in strays.copied().collect::<Vec<_>>() {
                insert(self.hosts.entry(address).or_default(), number);
            }
            return;
        }
        self.pods.extend(endpoint.addresses.iter().map(|address| (*address, number)));
        if let Some(members) = self.members.get_mut(endpoint.identity as usize) {
            insert(members, number);
        }
    }

    fn remove_endpoint(&mut self, number: u32, endpoint: &Endpoint) {
        for address in &endpoint.addresses {
            if endpoint.host_network {
                remove(&mut self.hosts, address, number);
            } else {
                self.pods.remove(address);
            }
        }
        if !endpoint.host_network
            && let Some(members) = self.members.get_mut(endpoint.identity as usize)
        {
            members.retain(|other| *other != number);
        }
    }

    /// `place` says where among the policies that select an identity.
    fn add_policy(&mut self, number: u32, policy: &Policy, place: impl Fn(&[u32]) -> usize) {
        for identity in distinct(policy.subjects.iter().copied()) {
            if let Some(list) = self.selecting.get_mut(identity as usize) {
                list.insert(place(list), number);
            }
        }
        for identity in named(policy) {
            self.naming.get_mut(identity as usize).into_iter().for_each(|list| list.push(number));
        }
        let mut any = false;
        for block in blocks(policy) {
            any = true;
            edges(block).for_each(|edge| *self.borders.entry(edge).or_default() += 1);
        }
        if any {
            self.with_blocks.push(number);
        }
    }

    fn remove_policy(&mut self, number: u32, policy: &Policy) {
        let out = |list: &mut Vec<u32>| list.retain(|other| *other != number);
        for identity in distinct(policy.subjects.iter().copied()) {
            self.selecting.get_mut(identity as usize).into_iter().for_each(out);
        }
        for identity in named(policy) {
            self.naming.get_mut(identity as usize).into_iter().for_each(out);
        }
        out(&mut self.with_blocks);
        for edge in blocks(policy).flat_map(edges) {
            if let Some(count) = self.borders.get_mut(&edge) {
                *count -= 1;
                if *count == 0 {
                    self.borders.remove(&edge);
                }
            }
        }
    }
}

/// The pod ranges of all nodes, ascending; those within others are part of them.
fn ranges(nodes: &[Node]) -> Vec<((bool, u128), u128)> {
    let all = nodes.iter().flat_map(|node| &node.pod_cidrs);
    let mut all: Vec<_> = all
        .map(|range| ((matches!(range, IpNet::V6(_)), bits(range.network())), bits(range.broadcast())))
        .collect();
    all.sort_unstable_by_key(|(first, last)| (*first, std::cmp::Reverse(*last)));
    // Prefixes lie within each other or apart.
    all.dedup_by(|(first, _), (before, last)| first.0 == before.0 && first.1 <= *last);
    all
}

/// When a policy is asked, among others.
fn order(number: u32, policy: &Policy) -> (crate::intent::Tier, &crate::intent::ObjectName, u32) {
    (policy.tier, &policy.name, number)
}

/// The rules of a policy, of both directions.
pub(super) fn rules(policy: &Policy) -> impl Iterator<Item = &Rule> {
    policy.ingress.iter().chain(&policy.egress).flatten()
}

/// The identities that rules of a policy are about, each once.
pub(super) fn named(policy: &Policy) -> Vec<u32> {
    distinct(
        rules(policy)
            .filter_map(|rule| rule.peers.as_ref())
            .flat_map(|peers| peers.identities.iter().copied()),
    )
}

/// The address blocks that rules of a policy are about.
pub(super) fn blocks(policy: &Policy) -> impl Iterator<Item = &IpBlock> {
    rules(policy).filter_map(|rule| rule.peers.as_ref()).flat_map(|peers| &peers.blocks)
}

/// Where an address block and its excepts begin, and the first addresses behind them.
pub(super) fn edges(block: &IpBlock) -> impl Iterator<Item = (bool, u128)> {
    let prefixes = std::iter::once(&block.cidr).chain(&block.except);
    prefixes.flat_map(|prefix| {
        let ipv6 = matches!(prefix, IpNet::V6(_));
        let behind = bits(prefix.broadcast()).checked_add(1).filter(|behind| *behind <= last(ipv6));
        [Some((ipv6, bits(prefix.network()))), behind.map(|behind| (ipv6, behind))].into_iter().flatten()
    })
}

/// An address as a number.
pub(super) fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => v4.to_bits().into(),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

/// The address that is that number in the family.
pub(super) fn address(ipv6: bool, bits: u128) -> IpAddr {
    match u32::try_from(bits) {
        Ok(bits) if !ipv6 => std::net::Ipv4Addr::from_bits(bits).into(),
        _ => std::net::Ipv6Addr::from_bits(bits).into(),
    }
}

/// The last address of the family as a number.
pub(super) fn last(ipv6: bool) -> u128 {
    if ipv6 { u128::MAX } else { u32::MAX.into() }
}

/// Each once, ascending.
pub(super) fn distinct(identities: impl Iterator<Item = u32>) -> Vec<u32> {
    let mut identities: Vec<u32> = identities.collect();
    identities.sort_unstable();
    identities.dedup();
    identities
}

fn list(lists: &[Vec<u32>], identity: u32) -> &[u32] {
    lists.get(identity as usize).map(Vec::as_slice).unwrap_or_default()
}

fn insert(list: &mut Vec<u32>, number: u32) {
    let at = list.partition_point(|other| *other < number);
    list.insert(at, number);
}

fn remove(lists: &mut FastMap<IpAddr, Vec<u32>>, address: &IpAddr, number: u32) {
    let Some(list) = lists.get_mut(address) else { return };
    list.retain(|other| *other != number);
    if list.is_empty() {
        lists.remove(address);
    }
}
