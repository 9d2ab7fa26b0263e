//! [`Run`]: one check. Finds witnesses, asks the table and the oracle about each, and keeps where they differ.
//!
//! ```text
//!   subject (an endpoint, a direction)                                              [`Run::subject`]
//!     × peer: an address that its rules, or the table's row for it, tell apart      (`plan`)
//!         = class: the rules that match the peer, and the table's port list         one pair of addresses a class
//!             × segment of ports, of the list or of the rules                       [`Run::pair`]
//!                 = witness: judged by both
//! ```

use std::net::IpAddr;

use super::index::Party;
use super::oracle::{Finding, Match, Oracle, Packet, Reason, Subject};
use super::{Checked, MISMATCHES, Mismatch, Said};
use crate::hash::{absorb, finish};
use crate::intent::{Endpoint, Protocol};
use crate::policy::inspect::{ListId, OTHER_PROTOCOLS};
use crate::policy::{Decision, Judgement, PolicyTable, RuleId, RuleOrigin};

/// One check.
pub(super) struct Run<'a> {
    pub(super) oracle: Oracle<'a>,
    pub(super) table: &'a PolicyTable,
    /// Numbers for choices among many, another row of them each generation.
    dice: u64,
    /// How many rules may still be asked.
    budget: u64,
    pub(super) checked: Checked,
    /// The first of them, and how many there are.
    pub(super) mismatches: Vec<Mismatch>,
    pub(super) failed: u64,
}

/// An endpoint at one of its addresses.
#[derive(Clone, Copy)]
pub(super) struct Place<'a> {
    pub(super) at: IpAddr,
    pub(super) number: u32,
    pub(super) endpoint: &'a Endpoint,
}

/// An address at the other end.
#[derive(Clone, Copy)]
pub(super) struct Peer<'a> {
    pub(super) at: IpAddr,
    pub(super) party: Party<'a>,
    /// The table's class of it.
    pub(super) class: u32,
}

/// A class of a subject's.
pub(super) struct Class<'a> {
    /// The rules that match.
    matching: Vec<Match>,
    /// What the table says of it.
    list: ListId,
    /// The names of the destination's ports.
    named: &'a [(String, Protocol, u16)],
    nearness: Nearness,
}

/// One packet.
struct Witness {
    src: IpAddr,
    dst: IpAddr,
    protocol: u8,
    port: u16,
    by_service: bool,
}

/// What isolation depends on beside rules.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Nearness {
    /// It is the subject.
    Itself,
    /// It is the subject's node.
    Node,
    /// It is the subject's node, or the table takes it for that, but not both.
    Disputed,
    /// Neither.
    Far,
}

impl<'a> Run<'a> {
    /// Of a table against an oracle. At most about so many rules are asked.
    pub(super) fn new(oracle: Oracle<'a>, table: &'a PolicyTable, generation: u64, budget: u64) -> Self {
        Run {
            oracle,
            table,
            dice: finish(generation),
            budget,
            checked: Checked { generation, ..Checked::default() },
            mismatches: Vec::new(),
            failed: 0,
        }
    }

    /// A number below `count`, or 0.
    pub(super) fn roll(&mut self, count: usize) -> usize {
        self.dice = absorb(self.dice, 1);
        finish(self.dice).checked_rem(count as u64).unwrap_or_default() as usize
    }

    /// Whether something may still be asked.
    pub(super) fn is_over(&self) -> bool {
        self.budget == 0
    }

    /// Checks what an endpoint's policies say of each class that is among `peers` and that is not `known` yet.
    pub(super) fn subject(
        &mut self,
        place: Place<'a>,
        subject: &Subject<'a>,
        row: u32,
        peers: &[Peer<'a>],
        known: &mut Vec<Class<'a>>,
    ) {
        let cost = 8 + subject.rules().count() as u64;
        let own_ports = self.oracle.named_ports(Party::Pod(place.number, place.endpoint));
        let mut matching = Vec::new();
        self.checked.subjects += 1;
        let first = self.roll(peers.len());
        let (last, before) = peers.split_at(first.min(peers.len()));
        for peer in before.iter().chain(last).filter(|peer| peer.at.is_ipv4() == place.at.is_ipv4()) {
            if self.is_over() {
                self.checked.left_out += 1;
                continue;
            }
            self.budget = self.budget.saturating_sub(cost + known.len() as u64 / 8);
            self.oracle.matching(subject, peer.party, peer.at, &mut matching);
            let list = self.table.list(row, peer.class);
            let named = if subject.ingress { own_ports } else { self.oracle.named_ports(peer.party) };
            let nearness = self.nearness(place, peer);
            let class = known.iter().any(|class| {
                class.list == list
                    && class.nearness == nearness
                    && class.matching == matching
                    && class.named == named
            });
            if class {
                continue;
            }
            let class = Class { matching: matching.clone(), list, named, nearness };
            self.checked.classes += 1;
            self.pair(place, subject, peer, &class);
            known.push(class);
        }
    }

    /// Who has an address, and what the table takes it for.
    pub(super) fn peer_at(&self, at: IpAddr) -> Peer<'a> {
        Peer { at, party: self.oracle.party(at), class: self.table.look(at).class }
    }

    fn nearness(&self, place: Place<'a>, peer: &Peer<'a>) -> Nearness {
        match peer.party {
            Party::Pod(number, _) if number == place.number => Nearness::Itself,
            Party::Host(node, _) => {
                let is_own = self.oracle.index.is_own_node(place.endpoint, node);
                let by_table =
                    self.table.node(place.at).filter(|node| self.table.node(peer.at) == Some(*node));
                match (is_own, by_table.is_some()) {
                    (true, true) => Nearness::Node,
                    (false, false) => Nearness::Far,
                    _ => Nearness::Disputed,
                }
            }
            _ => Nearness::Far,
        }
    }

    /// Asks about one packet in each segment of ports. What the other end's policies say is another class.
    fn pair(&mut self, place: Place<'a>, subject: &Subject<'a>, peer: &Peer<'a>, class: &Class<'a>) {
        let mut borders = subject.borders(&class.matching, class.named);
        let segments = self.table.segments(class.list);
        borders.extend(segments.iter().map(|(first, _)| *first).filter(|first| *first <= OTHER_PROTOCOLS));
        borders.sort_unstable();
        borders.dedup();
        let exempt = self.oracle.is_exempt(Party::Pod(place.number, place.endpoint), peer.party);
        let is_itself = class.nearness == Nearness::Itself;
        let (src, dst) = if subject.ingress { (peer.at, place.at) } else { (place.at, peer.at) };
        for (position, first) in borders.iter().enumerate() {
            let last = borders.get(position + 1).map_or(OTHER_PROTOCOLS, |next| next - 1);
            let (protocol, port) = packet_of(self.one_of(*first, last), place.at.is_ipv6());
            let packet = Packet { protocol, port, named: class.named };
            let finding = subject.finding(&class.matching, &packet, exempt);
            self.budget = self.budget.saturating_sub(8);
            self.checked.witnesses += 1;
            let witness = Witness { src, dst, protocol, port, by_service: is_itself };
            let judgement = self.judge(&witness);
            let decision = if subject.ingress { judgement.ingress } else { judgement.egress };
            self.compare(&witness, subject.ingress, decision, &finding);
            if is_itself {
                // Not by a Service: no policy holds.
                self.ask(src, dst, protocol, port);
            }
        }
    }

    fn judge(&self, witness: &Witness) -> Judgement {
        let Witness { src, dst, protocol, port, by_service } = *witness;
        match by_service {
            true => self.table.judge_translated(src, dst, protocol, port),
            false => self.table.judge(src, dst, protocol, port),
        }
    }

    fn compare(&mut self, witness: &Witness, ingress: bool, decision: Decision, finding: &Finding<'a>) {
        if agree(self.table, decision, finding, ingress) {
            return;
        }
        self.failed += 1;
        if self.mismatches.len() < MISMATCHES {
            let Witness { src, dst, protocol, port, by_service } = *witness;
            self.mismatches.push(Mismatch {
                src,
                dst,
                protocol,
                port,
                by_service,
                src_name: self.name(src),
                dst_name: self.name(dst),
                ingress,
                table: said(self.table, decision),
                oracle: expected(finding, ingress),
            });
        }
    }

    /// Asks about an address that is no endpoint's, where the table says something of it as a subject: each segment of its list.
    pub(super) fn outsider(&mut self, at: IpAddr, peer: IpAddr, row: u32, ingress: bool) {
        if self.is_over() {
            self.checked.left_out += 1;
            return;
        }
        let (src, dst) = if ingress { (peer, at) } else { (at, peer) };
        for (first, _) in self.table.segments(self.table.list(row, self.table.look(peer).class)) {
            let (protocol, port) = packet_of(first, at.is_ipv6());
            self.ask(src, dst, protocol, port);
        }
    }

    /// Asks about one packet, whoever its ends are, in both directions.
    pub(super) fn ask(&mut self, src: IpAddr, dst: IpAddr, protocol: u8, port: u16) {
        self.budget = self.budget.saturating_sub(16);
        self.checked.witnesses += 1;
        let witness = Witness { src, dst, protocol, port, by_service: false };
        let [egress, ingress] = self.oracle.judge(src, dst, protocol, port, false);
        let judgement = self.judge(&witness);
        self.compare(&witness, false, judgement.egress, &egress);
        self.compare(&witness, true, judgement.ingress, &ingress);
    }

    /// One key of a segment: an end of it, or one between.
    fn one_of(&mut self, first: u32, last: u32) -> u32 {
        match self.roll(4) {
            0 => first,
            1 => last,
            _ => first + self.roll((last - first) as usize + 1) as u32,
        }
    }

    fn name(&self, address: IpAddr) -> String {
        match self.oracle.party(address) {
            Party::Pod(_, endpoint) => format!("Pod {}", endpoint.name),
            Party::Host(_, node) => format!("Node {node}"),
            Party::Stranger | Party::World => String::new(),
        }
    }
}

/// Whether a decision is the one that was found, by the same rule of the same object.
pub(super) fn agree(table: &PolicyTable, decision: Decision, finding: &Finding<'_>, ingress: bool) -> bool {
    let same = match (finding.reason, table.origin(decision.rule)) {
        (Reason::Default, None) => decision.rule == RuleId::DEFAULT_ALLOW,
        (Reason::Isolated, None) => decision.rule == RuleId::NO_RULE,
        (Reason::Rule(policy, rule), Some(origin)) => {
            origin.kind == policy.kind()
                && origin.policy == policy.name
                && origin.resource_version == policy.resource_version
                && origin.revocation == policy.revocation
                && origin.ingress == ingress
                && origin.index == rule.index
                && origin.name == rule.name
        }
        _ => false,
    };
    same && decision.allowed == finding.allowed
}

fn said(table: &PolicyTable, decision: Decision) -> Said {
    let by = match (decision.rule, table.origin(decision.rule)) {
        (_, Some(origin)) => versioned(origin.to_string(), &origin.resource_version),
        (rule, None) => match rule.absence() {
            Some(absence) => absence.to_owned(),
            None => format!("rule {}, which there is not", rule.0),
        },
    };
    Said { allowed: decision.allowed, by }
}

fn expected(finding: &Finding<'_>, ingress: bool) -> Said {
    let by = match finding.reason {
        Reason::Default => RuleId::DEFAULT_ALLOW.absence().unwrap_or_default().to_owned(),
        Reason::Isolated => RuleId::NO_RULE.absence().unwrap_or_default().to_owned(),
        Reason::Rule(policy, rule) => {
            versioned(RuleOrigin::of(policy, rule, ingress).to_string(), &policy.resource_version)
        }
    };
    Said { allowed: finding.allowed, by }
}

fn versioned(text: String, version: &str) -> String {
    if version.is_empty() { text } else { format!("{text} of resourceVersion {version}") }
}

/// A protocol number and port with that key.
fn packet_of(key: u32, ipv6: bool) -> (u8, u16) {
    let protocols = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp];
    match protocols.get((key >> 16) as usize) {
        Some(protocol) => (*protocol as u8, (key & 0xffff) as u16),
        None => (if ipv6 { 58 } else { 1 }, 0),
    }
}
