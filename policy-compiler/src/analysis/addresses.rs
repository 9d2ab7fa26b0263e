//! Addresses of a state: whose they are, and those that are nobody's.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::intent::Intent;

/// Who has an address in one state.
#[derive(Clone, Copy)]
pub(super) enum Owner<'a> {
    /// An endpoint: its position and its identity.
    Endpoint(u32, u32),
    /// The node of that name, or a hostNetwork pod there.
    Host(&'a str),
}

/// Owners by address.
pub(super) type Owners<'a> = BTreeMap<IpAddr, Owner<'a>>;

/// Who has which address. Where an endpoint and a node claim one, the endpoint has it, as in the table.
pub(super) fn owners(intent: &Intent) -> Owners<'_> {
    let mut owners = Owners::new();
    for node in &intent.nodes {
        owners.extend(node.addresses.iter().map(|address| (*address, Owner::Host(&node.name))));
    }
    let endpoints = || (0..).zip(&intent.endpoints);
    for (_, host) in endpoints().filter(|(_, endpoint)| endpoint.host_network) {
        for address in &host.addresses {
            owners.entry(*address).or_insert(Owner::Host(&host.node));
        }
    }
    for (position, endpoint) in endpoints().filter(|(_, endpoint)| !endpoint.host_network) {
        let owner = Owner::Endpoint(position, endpoint.identity);
        owners.extend(endpoint.addresses.iter().map(|address| (*address, owner)));
    }
    owners
}

/// What to call the addresses of nodes: the node's name, with the address where it has several of the family.
pub(super) fn host_names(intent: &Intent) -> HashMap<IpAddr, String> {
    let mut names = HashMap::new();
    for node in &intent.nodes {
        for address in &node.addresses {
            let same = node.addresses.iter().filter(|other| other.is_ipv6() == address.is_ipv6());
            let name = match same.count() {
                1 => node.name.clone(),
                _ => format!("{} ({address})", node.name),
            };
            names.insert(*address, name);
        }
    }
    names
}

/// Addresses for examples (RFC 5737, RFC 3849): what people take for outside at first sight.
const EXAMPLES: [&str; 4] = ["192.0.2.1", "198.51.100.1", "203.0.113.1", "2001:db8::1"];

/// An address of the ranges, which are of one family, that nobody has: one for examples, or else not the first of a range where
/// there are others, which would look like a network's.
pub(super) fn free(ranges: &[(u128, u128)], ipv6: bool, known: impl Fn(&IpAddr) -> bool) -> Option<IpAddr> {
    let examples = EXAMPLES.iter().filter_map(|text| text.parse::<IpAddr>().ok());
    let within = |example: &IpAddr| {
        let bits = bits(*example);
        example.is_ipv6() == ipv6 && ranges.iter().any(|(first, last)| (*first..=*last).contains(&bits))
    };
    if let Some(example) = examples.into_iter().find(|example| within(example) && !known(example)) {
        return Some(example);
    }
    let nobodys = |bits: &u128| !known(&address(*bits, ipv6));
    ranges.iter().find_map(|(first, last)| {
        // Each step but the last passes an address that is somebody's, so there are no more than those.
        let later = (first < last).then(|| (first + 1..=*last).find(nobodys)).flatten();
        later.or(Some(*first).filter(nobodys)).map(|bits| address(bits, ipv6))
    })
}

/// Pairs of an endpoint's address and one of its node, in one state.
pub(super) fn own_nodes(intent: &Intent) -> Vec<(IpAddr, IpAddr)> {
    let mut hosts = HashMap::<&str, BTreeSet<IpAddr>>::new();
    for node in &intent.nodes {
        hosts.entry(&node.name).or_default().extend(&node.addresses);
    }
    for host in intent.endpoints.iter().filter(|endpoint| endpoint.host_network) {
        hosts.entry(&host.node).or_default().extend(&host.addresses);
    }
    let mut pairs = Vec::new();
    for endpoint in intent.endpoints.iter().filter(|endpoint| !endpoint.host_network) {
        for host in hosts.get(endpoint.node.as_str()).into_iter().flatten() {
            let same = endpoint.addresses.iter().filter(|address| address.is_ipv6() == host.is_ipv6());
            pairs.extend(same.map(|address| (*address, *host)));
        }
    }
    pairs
}

/// The ranges, both ends included, into which the borders in `lists` cut the addresses of one family; for each its class in
/// every list.
pub(super) fn ranges<const N: usize>(
    lists: &[Vec<(u128, u32)>; N],
    ipv6: bool,
) -> Vec<((u128, u128), [u32; N])> {
    let mut starts: Vec<u128> = lists.iter().flatten().map(|(first, _)| *first).chain([0]).collect();
    starts.sort_unstable();
    starts.dedup();
    let classes = |first: u128| std::array::from_fn(|list| class_at(&lists[list], first));
    let range = |(position, first): (usize, &u128)| {
        let last = starts.get(position + 1).map_or(last_address(ipv6), |next| next - 1);
        ((*first, last), classes(*first))
    };
    starts.iter().enumerate().map(range).collect()
}

fn class_at(list: &[(u128, u32)], first: u128) -> u32 {
    let after = list.partition_point(|(start, _)| *start <= first);
    list.get(after.wrapping_sub(1)).map_or(0, |(_, class)| *class)
}

/// Orders addresses by family and number.
pub(super) fn order(address: IpAddr) -> (bool, u128) {
    (address.is_ipv6(), bits(address))
}

/// An address as a number.
fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => v4.to_bits().into(),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

/// The address that is that number in the family.
pub(super) fn address(bits: u128, ipv6: bool) -> IpAddr {
    if ipv6 {
        Ipv6Addr::from_bits(bits).into()
    } else {
        Ipv4Addr::from_bits(u32::try_from(bits).unwrap_or(u32::MAX)).into()
    }
}

/// The last address of the family as a number.
fn last_address(ipv6: bool) -> u128 {
    if ipv6 { u128::MAX } else { u32::MAX.into() }
}
