//! [`Ends`]: the addresses of two states, grouped by what neither table can tell apart.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

use super::super::addresses::{Owner, free, owners, ranges};
use super::Uncompared;
use crate::intent::Intent;
use crate::policy::PolicyTable;
use crate::policy::inspect::{Look, Sort};

/// Most names of what is not compared.
const NAMES: usize = 100;

/// Addresses that are alike to both tables.
pub(super) struct End {
    pub(super) ipv6: bool,
    /// What the old table and the new one know of each.
    pub(super) looks: [Look; 2],
    pub(super) members: Members,
}

/// The addresses of an end.
pub(super) enum Members {
    /// Of endpoints, with their positions in the new state.
    Endpoints(Vec<(IpAddr, u32)>),
    /// Of nodes.
    Hosts(Vec<IpAddr>),
    /// Of nobody: ranges, both ends included, and one address in them that is nobody's.
    Outside(Vec<(u128, u128)>, IpAddr),
}

/// All ends.
#[derive(Default)]
pub(super) struct Ends {
    pub(super) ends: Vec<End>,
    /// The end of each address of an endpoint or a node.
    pub(super) of_address: HashMap<IpAddr, u32>,
    pub(super) uncompared: [Uncompared; 2],
}

/// What makes an end: addresses of different identities are kept apart for people's sake.
type Key = (bool, [Look; 2], [u32; 2]);

impl Ends {
    /// The ends of two states with their tables.
    pub(super) fn of(sides: [(&Intent, &PolicyTable); 2]) -> Self {
        let owners = sides.map(|(intent, _)| owners(intent));
        let mut ends = Ends::default();
        let mut by_key = HashMap::<Key, u32>::new();
        let mut names = [BTreeSet::new(), BTreeSet::new()];
        let all: BTreeSet<IpAddr> = owners.iter().flat_map(|owners| owners.keys().copied()).collect();
        for address in &all {
            let looks = sides.map(|(_, table)| table.look(*address));
            let had = [0, 1].map(|side: usize| owners[side].get(address).copied());
            match had {
                [Some(old), Some(new)] if looks[0].sort == looks[1].sort => {
                    ends.add(*address, looks, [old, new], &mut by_key);
                }
                _ => {
                    for side in [0, 1] {
                        let Some(owner) = had[side] else { continue };
                        ends.uncompared[side].addresses += 1;
                        names[side].insert(name(sides[side].0, owner));
                    }
                }
            }
        }
        for ipv6 in [false, true] {
            ends.outside(sides.map(|(_, table)| table), ipv6, &all);
        }
        for (uncompared, names) in ends.uncompared.iter_mut().zip(names) {
            uncompared.names = names.into_iter().take(NAMES).collect();
        }
        ends
    }

    fn add(
        &mut self,
        address: IpAddr,
        looks: [Look; 2],
        owners: [Owner<'_>; 2],
        by_key: &mut HashMap<Key, u32>,
    ) {
        let identity = |owner: Owner<'_>| match owner {
            Owner::Endpoint(_, identity) => identity,
            Owner::Host(_) => u32::MAX,
        };
        let ipv6 = address.is_ipv6();
        let ends = &mut self.ends;
        let number = *by_key.entry((ipv6, looks, owners.map(identity))).or_insert_with(|| {
            let members = match looks[0].sort {
                Sort::Endpoint => Members::Endpoints(Vec::new()),
                _ => Members::Hosts(Vec::new()),
            };
            ends.push(End { ipv6, looks, members });
            ends.len() as u32 - 1
        });
        self.of_address.insert(address, number);
        match (self.ends.get_mut(number as usize).map(|end| &mut end.members), owners[1]) {
            (Some(Members::Endpoints(members)), Owner::Endpoint(position, _)) => {
                members.push((address, position));
            }
            (Some(Members::Hosts(members)), _) => members.push(address),
            _ => {}
        }
    }

    /// Adds the addresses of one family that nobody has in either state.
    fn outside(&mut self, tables: [&PolicyTable; 2], ipv6: bool, known: &BTreeSet<IpAddr>) {
        let lists = tables.map(|table| table.outside(ipv6));
        let mut by_class = BTreeMap::<[u32; 2], Vec<(u128, u128)>>::new();
        for (range, classes) in ranges(&lists, ipv6) {
            by_class.entry(classes).or_default().push(range);
        }
        for (classes, ranges) in by_class {
            let Some(free) = free(&ranges, ipv6, |address| known.contains(address)) else { continue };
            let looks = classes.map(|class| Look { sort: Sort::Outside, class, ingress: 0, egress: 0 });
            self.ends.push(End { ipv6, looks, members: Members::Outside(ranges, free) });
        }
    }
}

impl End {
    /// Its addresses; of those that are nobody's, one.
    pub(super) fn addresses(&self) -> Box<dyn Iterator<Item = IpAddr> + '_> {
        match &self.members {
            Members::Endpoints(members) => Box::new(members.iter().map(|(address, _)| *address)),
            Members::Hosts(members) => Box::new(members.iter().copied()),
            Members::Outside(_, free) => Box::new(std::iter::once(*free)),
        }
    }

    pub(super) fn is_outside(&self) -> bool {
        matches!(self.members, Members::Outside(..))
    }
}

fn name(intent: &Intent, owner: Owner<'_>) -> String {
    match owner {
        Owner::Endpoint(position, _) => intent
            .endpoints
            .get(position as usize)
            .map_or_else(String::new, |endpoint| format!("Pod {}", endpoint.name)),
        Owner::Host(node) => format!("Node {node}"),
    }
}

impl Members {
    /// The ranges of what is outside.
    pub(super) fn ranges(&self) -> &[(u128, u128)] {
        match self {
            Members::Outside(ranges, _) => ranges,
            _ => &[],
        }
    }
}
