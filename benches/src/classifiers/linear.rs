//! [`Linear`]: every line is tried in order; the first that matches decides.
//!
//! What nearly every line fails by, the subject, stands apart: sixteen of them are compared at once, four bytes a line.

use std::net::IpAddr;

use ipnet::IpNet;
use policy_compiler::intent::{Action, Intent};
use policy_compiler::policy::{Decision, Judgement, RuleId};

use super::addresses::Addresses;
use super::lines::{Line, Lines, Peer, Ports, TIERS, Tiers, prefixes};
use super::{Classifier, Direction, Who, judge_ends};
use crate::rulesets::Flow;

/// See the module.
#[derive(Debug)]
pub struct Linear {
    addresses: Addresses,
    ingress: List,
    egress: List,
}

/// The lines of a direction, in order.
#[derive(Debug)]
struct List {
    subjects: Vec<u32>,
    /// In the order of `subjects`.
    rests: Vec<Rest>,
    /// Where each tier ends.
    ends: [usize; TIERS],
}

/// A line but for its subject.
#[derive(Debug, Clone, Copy)]
struct Rest {
    peer: Match,
    ports: Ports,
    action: Action,
    rule: RuleId,
}

/// The other end.
#[derive(Debug, Clone, Copy)]
enum Match {
    Any,
    Identity(u32),
    V4 { bits: u32, mask: u32 },
    V6 { bits: u128, mask: u128 },
}

/// Subjects that are compared at once.
const ABREAST: usize = 16;

impl Linear {
    /// Of these rules.
    pub fn new(intent: &Intent, lines: &Lines) -> Self {
        let list = |tiers: &Tiers| List::of(tiers, lines);
        Linear {
            addresses: Addresses::of(intent),
            ingress: list(&lines.ingress),
            egress: list(&lines.egress),
        }
    }

    /// Lines there are, of a block one for each prefix.
    pub fn lines(&self) -> usize {
        self.ingress.subjects.len() + self.egress.subjects.len()
    }

    /// Heap memory of the rules in bytes.
    pub fn bytes(&self) -> usize {
        self.ingress.bytes() + self.egress.bytes()
    }
}

impl Classifier for Linear {
    const NAME: &'static str = "linear";

    #[inline]
    fn judge(&self, flow: &Flow) -> Judgement {
        let (from, to) = (self.addresses.who(flow.src), self.addresses.who(flow.dst));
        judge_ends(&from, &to, |direction, subject, peer| match direction {
            Direction::Ingress => self.ingress.decide(subject, peer, flow.src, flow),
            Direction::Egress => self.egress.decide(subject, peer, flow.dst, flow),
        })
    }
}

impl List {
    fn of(tiers: &Tiers, lines: &Lines) -> Self {
        let mut list = List { subjects: Vec::new(), rests: Vec::new(), ends: [0; TIERS] };
        for (tier, end) in tiers.iter().zip(0..) {
            for line in tier {
                for peer in matches(line, lines) {
                    list.subjects.push(line.subject);
                    list.rests.push(Rest { peer, ports: line.ports, action: line.action, rule: line.rule });
                }
            }
            list.ends[end] = list.subjects.len();
        }
        list
    }

    fn bytes(&self) -> usize {
        size_of_val(self.subjects.as_slice()) + size_of_val(self.rests.as_slice())
    }

    fn decide(&self, subject: &Who, peer: &Who, address: IpAddr, flow: &Flow) -> Decision {
        let mut at = 0;
        while let Some(place) = self.next(at, subject.identity) {
            at = place + 1;
            let rest = &self.rests[place];
            if rest.peer.is(peer, address) && rest.ports.contains(flow.protocol, flow.port) {
                match rest.action {
                    Action::Accept => return Decision { allowed: true, rule: rest.rule },
                    Action::Deny => return Decision { allowed: false, rule: rest.rule },
                    Action::Pass => {
                        at =
                            self.ends.iter().copied().find(|end| *end > place).unwrap_or(self.subjects.len());
                    }
                }
            }
        }
        Decision::DEFAULT_ALLOW
    }

    /// The first line of the subject from `at` on.
    #[inline]
    fn next(&self, at: usize, subject: u32) -> Option<usize> {
        let rest = self.subjects.get(at..)?;
        let (chunks, tail) = rest.as_chunks::<ABREAST>();
        for (number, chunk) in chunks.iter().enumerate() {
            // All of them, without a way out in between: the compiler makes vectors of it.
            if chunk.iter().fold(false, |any, line| any | (*line == subject)) {
                let place = chunk.iter().position(|line| *line == subject)?;
                return Some(at + number * ABREAST + place);
            }
        }
        let place = tail.iter().position(|line| *line == subject)?;
        Some(at + chunks.len() * ABREAST + place)
    }
}

impl Match {
    #[inline]
    fn is(&self, peer: &Who, address: IpAddr) -> bool {
        match (*self, address) {
            (Match::Any, _) => true,
            (Match::Identity(identity), _) => identity == peer.identity,
            (Match::V4 { bits, mask }, IpAddr::V4(v4)) => v4.to_bits() & mask == bits,
            (Match::V6 { bits, mask }, IpAddr::V6(v6)) => v6.to_bits() & mask == bits,
            _ => false,
        }
    }
}

fn matches(line: &Line, lines: &Lines) -> Vec<Match> {
    match line.peer {
        Peer::Any => vec![Match::Any],
        Peer::Identity(identity) => vec![Match::Identity(identity)],
        Peer::Block(block) => prefixes(&lines.blocks[block as usize]).iter().map(prefix).collect(),
    }
}

fn prefix(prefix: &IpNet) -> Match {
    match prefix {
        IpNet::V4(v4) => Match::V4 { bits: v4.network().to_bits(), mask: v4.netmask().to_bits() },
        IpNet::V6(v6) => Match::V6 { bits: v6.network().to_bits(), mask: v6.netmask().to_bits() },
    }
}
