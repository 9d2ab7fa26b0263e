//! The rules of an intent, resolved: whom each is about, by one identity, one peer and one range of ports a line.

use std::collections::{BTreeSet, HashMap};

use ipnet::IpNet;
use policy_compiler::intent::{Action, Intent, IpBlock, ObjectName, Policy, PortSelector, Rule, Tier};
use policy_compiler::policy::RuleId;

use super::addresses::STRANGER;

/// Tiers: Admin, NetworkPolicy, Baseline.
pub const TIERS: usize = 3;

/// All of both directions.
#[derive(Debug, Default)]
pub struct Lines {
    /// Asked of a flow's destination.
    pub ingress: Tiers,
    /// Asked of its source.
    pub egress: Tiers,
    /// What [`Peer::Block`] is a number of.
    pub blocks: Vec<IpBlock>,
    /// Where each rule comes from, from [`RuleId::FIRST`] on.
    pub origins: Vec<Origin>,
}

/// The lines of a direction, tier by tier, in the order in which they are asked. Behind the rules of NetworkPolicies stands a line for each
/// identity that they isolate, which denies all.
pub type Tiers = [Vec<Line>; TIERS];

/// The policy, whether the rule is one of ingress, and its index.
pub type Origin = (ObjectName, bool, u32);

/// What the first line that matches says, goes.
#[derive(Debug, Clone, Copy)]
pub struct Line {
    /// Identity of the pod that is asked.
    pub subject: u32,
    /// The other end.
    pub peer: Peer,
    /// The destination's protocol and ports.
    pub ports: Ports,
    /// What it does.
    pub action: Action,
    /// The rule; [`RuleId::NO_RULE`] for the lines that isolate.
    pub rule: RuleId,
}

/// The other end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    /// Everyone.
    Any,
    /// Pods of an identity, or strangers.
    Identity(u32),
    /// Addresses of a block, by its number.
    Block(u32),
}

/// Protocol and ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ports {
    /// `None`: every protocol, and every port.
    pub protocol: Option<u8>,
    /// The first port.
    pub first: u16,
    /// The last one.
    pub last: u16,
}

impl Ports {
    /// Every protocol and port.
    pub const ALL: Ports = Ports { protocol: None, first: 0, last: u16::MAX };

    /// Whether they have that one.
    #[inline]
    pub fn contains(&self, protocol: u8, port: u16) -> bool {
        self.protocol.is_none_or(|own| own == protocol && (self.first..=self.last).contains(&port))
    }

    /// What both have.
    pub fn and(&self, other: &Ports) -> Option<Ports> {
        match (self.protocol, other.protocol) {
            (None, _) => Some(*other),
            (_, None) => Some(*self),
            (own, others) => {
                let (first, last) = (self.first.max(other.first), self.last.min(other.last));
                (own == others && first <= last).then_some(Ports { protocol: own, first, last })
            }
        }
    }

    /// The ports as prefixes: the bits, and how many of them count.
    pub fn prefixes(&self) -> Vec<(u16, u8)> {
        let (mut first, last) = (u32::from(self.first), u32::from(self.last));
        let mut prefixes = Vec::new();
        while first <= last {
            let aligned = if first == 0 { 16 } else { first.trailing_zeros().min(16) };
            let size = aligned.min((last - first + 1).ilog2());
            prefixes.push((first as u16, 16 - size as u8));
            first += 1 << size;
        }
        prefixes
    }
}

impl Lines {
    /// Those of an intent, whose policies name no port by its name.
    pub fn of(intent: &Intent) -> Self {
        let mut policies: Vec<&Policy> = intent.policies.iter().collect();
        policies.sort_by_key(|policy| (policy.tier, &policy.name));
        let mut lines = Lines::default();
        let mut blocks = HashMap::new();
        for policy in &policies {
            for (rules, is_ingress) in [(&policy.ingress, true), (&policy.egress, false)] {
                for rule in rules.iter().flatten() {
                    lines.add(policy, rule, is_ingress, &mut blocks);
                }
            }
        }
        lines.isolate(&policies);
        lines
    }

    fn add<'a>(
        &mut self,
        policy: &Policy,
        rule: &'a Rule,
        is_ingress: bool,
        blocks: &mut HashMap<&'a IpBlock, u32>,
    ) {
        let number = RuleId(RuleId::FIRST + self.origins.len() as u32);
        self.origins.push((policy.name.clone(), is_ingress, rule.index));
        let mut peers = Vec::new();
        if rule.selects_pods && rule.action != Action::Accept && policy.tier != Tier::NetworkPolicy {
            peers.push((Peer::Identity(STRANGER), Action::Deny));
        }
        match &rule.peers {
            None => peers.push((Peer::Any, rule.action)),
            Some(all) => {
                peers.extend(all.identities.iter().map(|number| (Peer::Identity(*number), rule.action)));
                for block in &all.blocks {
                    let number = *blocks.entry(block).or_insert_with(|| {
                        self.blocks.push(block.clone());
                        self.blocks.len() as u32 - 1
                    });
                    peers.push((Peer::Block(number), rule.action));
                }
            }
        }
        let tiers = if is_ingress { &mut self.ingress } else { &mut self.egress };
        let ports = ports_of(rule);
        for subject in &policy.subjects {
            for (peer, action) in &peers {
                tiers[place(policy.tier)].extend(ports.iter().map(|ports| Line {
                    subject: *subject,
                    peer: *peer,
                    ports: *ports,
                    action: *action,
                    rule: number,
                }));
            }
        }
    }

    fn isolate(&mut self, policies: &[&Policy]) {
        let network = place(Tier::NetworkPolicy);
        self.ingress[network].extend(isolating(policies, |policy| policy.ingress.is_some()));
        self.egress[network].extend(isolating(policies, |policy| policy.egress.is_some()));
    }
}

/// A line for each identity that NetworkPolicies isolate in the direction that `speaks` asks of.
fn isolating(policies: &[&Policy], speaks: impl Fn(&Policy) -> bool) -> impl Iterator<Item = Line> {
    let network = policies.iter().filter(|policy| policy.tier == Tier::NetworkPolicy && speaks(policy));
    let subjects: BTreeSet<u32> = network.flat_map(|policy| policy.subjects.iter().copied()).collect();
    let (peer, ports, action, rule) = (Peer::Any, Ports::ALL, Action::Deny, RuleId::NO_RULE);
    subjects.into_iter().map(move |subject| Line { subject, peer, ports, action, rule })
}

fn place(tier: Tier) -> usize {
    match tier {
        Tier::Admin(_) => 0,
        Tier::NetworkPolicy => 1,
        Tier::Baseline(_) => 2,
    }
}

fn ports_of(rule: &Rule) -> Vec<Ports> {
    let Some(ports) = &rule.ports else { return vec![Ports::ALL] };
    let resolved = ports.iter().filter_map(|port| {
        let (first, last) = match port.port {
            PortSelector::Any => (0, u16::MAX),
            PortSelector::Range(first, last) => (first, last),
            PortSelector::Named(_) => return None,
        };
        Some(Ports { protocol: Some(port.protocol as u8), first, last })
    });
    resolved.collect()
}

/// A block as prefixes alone: what is left of it without its excepts.
pub fn prefixes(block: &IpBlock) -> Vec<IpNet> {
    let mut prefixes = Vec::new();
    let mut open = vec![block.cidr.trunc()];
    while let Some(prefix) = open.pop() {
        if block.except.iter().any(|part| part.contains(&prefix)) {
            continue;
        }
        if !block.except.iter().any(|part| prefix.contains(part)) {
            prefixes.push(prefix);
            continue;
        }
        // A part of it is excepted, so it can be halved.
        open.extend(prefix.subnets(prefix.prefix_len() + 1).into_iter().flatten());
    }
    prefixes
}
