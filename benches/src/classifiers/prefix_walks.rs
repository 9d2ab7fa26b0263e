//! [`PrefixWalks`]: policy as Cilium's maps hold it.
//!
//! ```text
//!   address ──longest prefix──► identity: of a pod, or of the block that it is in        (the ipcache)
//!
//!   subject's trie ◄── identity | protocol | port, longest prefix ──► precedence, verdict
//!                  ◄── any      | protocol | port, longest prefix ──► precedence, verdict    the better one holds
//! ```
//!
//! Every prefix that a block or an except names has an identity of its own. What the tiers come to is worked out before: of `Pass` it is what the
//! tiers behind say, and an entry that one before it covers is left out, so that of each walk the longest prefix is also the best.
//! Cilium has a map for each pod of the node; here there is a trie for each identity and direction, all in one array.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;
use policy_compiler::intent::{Action, Intent, IpBlock};
use policy_compiler::policy::{Decision, Judgement, RuleId};

use super::addresses::{STRANGER, Who, known};
use super::lines::{Line, Lines, Peer, Ports, TIERS, Tiers};
use super::trie::{EMPTY, Forest, Root};
use super::{Classifier, Direction, judge_ends};
use crate::rulesets::Flow;

/// See the module.
#[derive(Debug)]
pub struct PrefixWalks {
    cache: IpCache,
    entries: Forest<u64, Entry>,
    ingress: Vec<Root>,
    egress: Vec<Root>,
    count: usize,
}

/// From an address to who has it.
#[derive(Debug)]
struct IpCache {
    v4: Forest<u32, Who>,
    v6: Forest<u128, Who>,
    v4_root: Root,
    v6_root: Root,
}

/// What a trie says.
#[derive(Debug, Clone, Copy)]
struct Entry {
    /// The less, the better.
    precedence: u32,
    /// The rule, and in the lowest bit whether it allows.
    ruling: u32,
}

/// What the tiers come to, in the order of asking.
type Rulings = Vec<(Whom, Ports, Decision)>;

/// The other end: `None` for everyone, or an identity.
type Whom = Option<u32>;

/// Bits of a key behind the identity's: protocol, port.
const IDENTITY_BITS: u8 = 40;
const PROTOCOL_BITS: u8 = IDENTITY_BITS + 8;

impl PrefixWalks {
    /// Of these rules.
    pub fn new(intent: &Intent, lines: &Lines) -> Self {
        let blocks = BlockIdentities::of(&lines.blocks, intent.identities.len() as u32);
        let mut walks = PrefixWalks {
            cache: IpCache::of(intent, &blocks),
            entries: Forest::default(),
            ingress: Vec::new(),
            egress: Vec::new(),
            count: 0,
        };
        walks.ingress = walks.write(&lines.ingress, intent.identities.len(), &blocks);
        walks.egress = walks.write(&lines.egress, intent.identities.len(), &blocks);
        walks
    }

    /// Entries in all tries.
    pub fn entries(&self) -> usize {
        self.count
    }

    /// Heap memory of the rules in bytes.
    pub fn bytes(&self) -> usize {
        self.entries.bytes()
    }

    fn write(&mut self, tiers: &Tiers, identities: usize, blocks: &BlockIdentities) -> Vec<Root> {
        let mut of_subject = vec![<[Vec<Line>; TIERS]>::default(); identities];
        for (tier, lines) in tiers.iter().enumerate() {
            lines.iter().for_each(|line| of_subject[line.subject as usize][tier].push(*line));
        }
        of_subject.into_iter().map(|lines| self.trie(&rulings(&lines, blocks))).collect()
    }

    fn trie(&mut self, rulings: &Rulings) -> Root {
        let mut root = EMPTY;
        for ((whom, ports, decision), precedence) in rulings.iter().zip(0..) {
            let entry = Entry { precedence, ruling: decision.rule.0 << 1 | u32::from(decision.allowed) };
            for (key, length) in prefixes(*whom, ports) {
                if !self.entries.covers(root, key, length) {
                    root = self.entries.insert(root, key, length, entry);
                    self.count += 1;
                }
            }
        }
        root
    }

    #[inline]
    fn decide(&self, root: Root, peer: &Who, flow: &Flow) -> Decision {
        let exact = self.entries.lookup(root, key(Some(peer.identity), flow.protocol, flow.port));
        let any = self.entries.lookup(root, key(None, flow.protocol, flow.port));
        let best = match (exact, any) {
            (Some(exact), Some(any)) => Some(if exact.precedence < any.precedence { exact } else { any }),
            (exact, any) => exact.or(any),
        };
        best.map_or(Decision::DEFAULT_ALLOW, |entry| Decision {
            allowed: entry.ruling & 1 == 1,
            rule: RuleId(entry.ruling >> 1),
        })
    }
}

impl Classifier for PrefixWalks {
    const NAME: &'static str = "prefix_walks";

    #[inline]
    fn judge(&self, flow: &Flow) -> Judgement {
        let (from, to) = (self.cache.who(flow.src), self.cache.who(flow.dst));
        judge_ends(&from, &to, |direction, subject, peer| {
            let roots = if direction == Direction::Ingress { &self.ingress } else { &self.egress };
            self.decide(roots[subject.identity as usize], peer, flow)
        })
    }
}

impl IpCache {
    fn of(intent: &Intent, blocks: &BlockIdentities) -> Self {
        let mut cache =
            IpCache { v4: Forest::default(), v6: Forest::default(), v4_root: EMPTY, v6_root: EMPTY };
        for (prefix, identity) in &blocks.prefixes {
            cache.insert(prefix, Who { identity: *identity, ..Who::OUTSIDE });
        }
        for range in intent.nodes.iter().flat_map(|node| &node.pod_cidrs) {
            cache.insert(range, Who { identity: STRANGER, ..Who::OUTSIDE });
        }
        for (address, who) in known(intent) {
            cache.insert(&address.into(), who);
        }
        cache
    }

    fn insert(&mut self, prefix: &IpNet, who: Who) {
        let length = prefix.prefix_len();
        match prefix.network() {
            IpAddr::V4(v4) => self.v4_root = self.v4.insert(self.v4_root, v4.to_bits(), length, who),
            IpAddr::V6(v6) => self.v6_root = self.v6.insert(self.v6_root, v6.to_bits(), length, who),
        }
    }

    #[inline]
    fn who(&self, address: IpAddr) -> Who {
        let who = match address {
            IpAddr::V4(v4) => self.v4.lookup(self.v4_root, v4.to_bits()),
            IpAddr::V6(v6) => self.v6.lookup(self.v6_root, v6.to_bits()),
        };
        who.unwrap_or(Who::OUTSIDE)
    }
}

/// The identities of prefixes, and those of each block.
struct BlockIdentities {
    prefixes: Vec<(IpNet, u32)>,
    within: Vec<Vec<u32>>,
}

impl BlockIdentities {
    /// Numbers from `first` on.
    fn of(blocks: &[IpBlock], first: u32) -> Self {
        let parts = blocks.iter().flat_map(|block| block.except.iter().chain([&block.cidr]));
        let prefixes: BTreeSet<IpNet> = parts.map(IpNet::trunc).collect();
        let prefixes: Vec<(IpNet, u32)> = prefixes.into_iter().zip(first..).collect();
        let has = |block: &IpBlock, prefix: &IpNet| {
            block.cidr.contains(prefix) && !block.except.iter().any(|part| part.contains(prefix))
        };
        let within = |block: &IpBlock| {
            prefixes.iter().filter(|(prefix, _)| has(block, prefix)).map(|(_, identity)| *identity).collect()
        };
        BlockIdentities { within: blocks.iter().map(within).collect(), prefixes }
    }
}

/// What the tiers of a subject come to.
fn rulings(tiers: &[Vec<Line>; TIERS], blocks: &BlockIdentities) -> Rulings {
    let mut behind = Rulings::new();
    for tier in tiers.iter().rev() {
        let mut rulings = Rulings::new();
        for line in tier {
            for whom in peers(line.peer, blocks) {
                match line.action {
                    Action::Accept => {
                        rulings.push((whom, line.ports, Decision { allowed: true, rule: line.rule }))
                    }
                    Action::Deny => {
                        rulings.push((whom, line.ports, Decision { allowed: false, rule: line.rule }))
                    }
                    Action::Pass => {
                        let both = behind.iter().filter_map(|(other, ports, decision)| {
                            Some((common(whom, *other)?, line.ports.and(ports)?, *decision))
                        });
                        rulings.extend(both);
                        rulings.push((whom, line.ports, Decision::DEFAULT_ALLOW));
                    }
                }
            }
        }
        rulings.append(&mut behind);
        behind = rulings;
    }
    behind
}

fn peers(peer: Peer, blocks: &BlockIdentities) -> Vec<Whom> {
    match peer {
        Peer::Any => vec![None],
        Peer::Identity(identity) => vec![Some(identity)],
        Peer::Block(block) => blocks.within[block as usize].iter().copied().map(Some).collect(),
    }
}

/// Who is both.
fn common(one: Whom, other: Whom) -> Option<Whom> {
    match (one, other) {
        (None, whom) | (whom, None) => Some(whom),
        (one, other) => (one == other).then_some(one),
    }
}

/// Identity, protocol and port in one word. Everyone is 0, so identities begin at 1.
#[inline]
fn key(whom: Whom, protocol: u8, port: u16) -> u64 {
    let whom = whom.map_or(0, |identity| u64::from(identity) + 1);
    whom << 24 | u64::from(protocol) << 16 | u64::from(port)
}

fn prefixes(whom: Whom, ports: &Ports) -> Vec<(u64, u8)> {
    let Some(protocol) = ports.protocol else { return vec![(key(whom, 0, 0), IDENTITY_BITS)] };
    let prefix = |(port, bits): (u16, u8)| (key(whom, protocol, port), PROTOCOL_BITS + bits);
    ports.prefixes().into_iter().map(prefix).collect()
}
