//! [`TupleSpace`]: a hash table for each combination of prefix lengths that lines have, as Srinivasan, Suri and Varghese
//! ("Packet Classification using Tuple Space Search", SIGCOMM 1999) have it, and Open vSwitch.
//!
//! A tuple is: how the peer is known (not at all, by identity, by so many bits of its address), whether the protocol counts, and how many
//! bits of the port do; ranges of ports are cut into prefixes. The subject counts in each. A look-up masks the flow by each tuple and
//! asks its table; tuples are in the order of the best line in them, so the search ends where none can be better. Tiers are
//! asked one after the other: `Pass` needs to know no line behind it.

use std::hash::{Hash, Hasher};
use std::net::IpAddr;

use ipnet::IpNet;
use policy_compiler::intent::{Action, Intent};
use policy_compiler::policy::{Decision, Judgement, RuleId};

use super::addresses::{Addresses, FoldMap, map_bytes};
use super::lines::{Line, Lines, Peer, TIERS, Tiers, prefixes};
use super::{Classifier, Direction, Who, judge_ends};
use crate::rulesets::Flow;

/// See the module.
#[derive(Debug)]
pub struct TupleSpace {
    addresses: Addresses,
    ingress: [Space; TIERS],
    egress: [Space; TIERS],
}

/// The tuples of a tier, that of the first line first.
#[derive(Debug, Default)]
struct Space(Vec<Tuple>);

#[derive(Debug)]
struct Tuple {
    mask: Mask,
    /// The place of the first line in it.
    first: u32,
    entries: FoldMap<Key, Entry>,
}

/// What of a flow counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Mask {
    peer: PeerMask,
    protocol: bool,
    port_bits: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum PeerMask {
    Any,
    Identity,
    V4(u8),
    V6(u8),
}

/// What counts of a flow: subject, protocol and port in one word, the peer in the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Key {
    own: u64,
    peer: u128,
}

impl Hash for Key {
    #[inline]
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.own);
        state.write_u128(self.peer);
    }
}

/// A line: its place among those of its tier, what it does.
#[derive(Debug, Clone, Copy)]
struct Entry {
    place: u32,
    action: Action,
    rule: RuleId,
}

impl TupleSpace {
    /// Of these rules.
    pub fn new(intent: &Intent, lines: &Lines) -> Self {
        let spaces = |tiers: &Tiers| std::array::from_fn(|tier| Space::of(&tiers[tier], lines));
        TupleSpace {
            addresses: Addresses::of(intent),
            ingress: spaces(&lines.ingress),
            egress: spaces(&lines.egress),
        }
    }

    /// Tuples there are.
    pub fn tuples(&self) -> usize {
        self.spaces().map(|space| space.0.len()).sum()
    }

    /// Entries in their tables.
    pub fn entries(&self) -> usize {
        self.spaces().flat_map(|space| &space.0).map(|tuple| tuple.entries.len()).sum()
    }

    /// Heap memory of the rules in bytes.
    pub fn bytes(&self) -> usize {
        self.spaces().flat_map(|space| &space.0).map(|tuple| map_bytes(&tuple.entries)).sum()
    }

    fn spaces(&self) -> impl Iterator<Item = &Space> {
        self.ingress.iter().chain(&self.egress)
    }
}

impl Classifier for TupleSpace {
    const NAME: &'static str = "tuple_space";

    #[inline]
    fn judge(&self, flow: &Flow) -> Judgement {
        let (from, to) = (self.addresses.who(flow.src), self.addresses.who(flow.dst));
        judge_ends(&from, &to, |direction, subject, peer| match direction {
            Direction::Ingress => decide(&self.ingress, subject, peer, flow.src, flow),
            Direction::Egress => decide(&self.egress, subject, peer, flow.dst, flow),
        })
    }
}

fn decide(spaces: &[Space; TIERS], subject: &Who, peer: &Who, address: IpAddr, flow: &Flow) -> Decision {
    for space in spaces {
        match space.first(subject, peer, address, flow) {
            Some(Entry { action: Action::Accept, rule, .. }) => return Decision { allowed: true, rule },
            Some(Entry { action: Action::Deny, rule, .. }) => return Decision { allowed: false, rule },
            Some(Entry { action: Action::Pass, .. }) | None => {}
        }
    }
    Decision::DEFAULT_ALLOW
}

impl Space {
    fn of(lines: &[Line], all: &Lines) -> Self {
        let mut numbers = FoldMap::<Mask, usize>::default();
        let mut tuples: Vec<Tuple> = Vec::new();
        for (line, place) in lines.iter().zip(0..) {
            let entry = Entry { place, action: line.action, rule: line.rule };
            let ports = if line.ports.protocol.is_some() { line.ports.prefixes() } else { vec![(0, 0)] };
            for (mask, peer) in peers(line.peer, all) {
                for (port, port_bits) in &ports {
                    let mask =
                        Mask { peer: mask, protocol: line.ports.protocol.is_some(), port_bits: *port_bits };
                    let number = *numbers.entry(mask).or_insert_with(|| {
                        tuples.push(Tuple { mask, first: place, entries: FoldMap::default() });
                        tuples.len() - 1
                    });
                    let key =
                        Key { own: own(line.subject, line.ports.protocol.unwrap_or_default(), *port), peer };
                    // Of equal ones the first is asked first.
                    tuples[number].entries.entry(key).or_insert(entry);
                }
            }
        }
        tuples.sort_by_key(|tuple| tuple.first);
        Space(tuples)
    }

    /// The first line that matches.
    #[inline]
    fn first(&self, subject: &Who, peer: &Who, address: IpAddr, flow: &Flow) -> Option<Entry> {
        let mut best: Option<Entry> = None;
        for tuple in &self.0 {
            if best.is_some_and(|best| best.place < tuple.first) {
                break;
            }
            let Some(peer) = tuple.mask.peer.of(peer, address) else { continue };
            let protocol = if tuple.mask.protocol { flow.protocol } else { 0 };
            let key = Key { own: own(subject.identity, protocol, tuple.mask.port(flow.port)), peer };
            if let Some(entry) = tuple.entries.get(&key)
                && best.is_none_or(|best| entry.place < best.place)
            {
                best = Some(*entry);
            }
        }
        best
    }
}

impl Mask {
    #[inline]
    fn port(&self, port: u16) -> u16 {
        port & u16::MAX.checked_shl(16 - u32::from(self.port_bits)).unwrap_or_default()
    }
}

impl PeerMask {
    /// The peer as the tuple knows it; `None` for an address of the other family.
    #[inline]
    fn of(self, peer: &Who, address: IpAddr) -> Option<u128> {
        match (self, address) {
            (PeerMask::Any, _) => Some(0),
            (PeerMask::Identity, _) => Some(peer.identity.into()),
            (PeerMask::V4(bits), IpAddr::V4(v4)) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(bits)).unwrap_or_default();
                Some((v4.to_bits() & mask).into())
            }
            (PeerMask::V6(bits), IpAddr::V6(v6)) => {
                Some(v6.to_bits() & u128::MAX.checked_shl(128 - u32::from(bits)).unwrap_or_default())
            }
            _ => None,
        }
    }
}

#[inline]
fn own(subject: u32, protocol: u8, port: u16) -> u64 {
    u64::from(subject) << 32 | u64::from(protocol) << 16 | u64::from(port)
}

/// A line's peer by the tuples that know it.
fn peers(peer: Peer, lines: &Lines) -> Vec<(PeerMask, u128)> {
    match peer {
        Peer::Any => vec![(PeerMask::Any, 0)],
        Peer::Identity(identity) => vec![(PeerMask::Identity, identity.into())],
        Peer::Block(block) => {
            let prefix = |prefix: &IpNet| match prefix.network() {
                IpAddr::V4(v4) => (PeerMask::V4(prefix.prefix_len()), v4.to_bits().into()),
                IpAddr::V6(v6) => (PeerMask::V6(prefix.prefix_len()), v6.to_bits()),
            };
            prefixes(&lines.blocks[block as usize]).iter().map(prefix).collect()
        }
    }
}
