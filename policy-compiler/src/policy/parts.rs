//! Parts: a policy's rules as the tables know them.
//!
//! On egress a named port is the peer's, so such a rule is one part for each number that the name stands for, about those of its peers
//! that name that number so; the rest of its ports are one part more.

use std::collections::{BTreeMap, BTreeSet};

use super::RuleId;
use super::groups::Groups;
use super::ports::{Asked, Span};
use crate::intent::{
    Action, Identity, MAX_PRIORITY, Policy, PolicyKind, PortMatch, PortSelector, Protocol, Rule, Tier,
};
use crate::tables::CompileError;

/// What a rule, or its part with one named port's number, matches.
#[derive(Debug, Clone)]
pub(super) struct Part {
    pub(super) rule: RuleId,
    pub(super) tier: Tier,
    pub(super) action: Action,
    pub(super) group: u32,
    /// `None`: every protocol and port.
    ports: Option<Vec<PortMatch>>,
}

/// Which identities name a port of their own, and which policies refer to it on egress.
#[derive(Debug, Default)]
pub(super) struct NamedPorts {
    ports: BTreeMap<(String, Protocol), NamedPort>,
}

#[derive(Debug, Default)]
struct NamedPort {
    /// Identities by the number that they mean, ascending.
    numbers: BTreeMap<u16, Vec<u32>>,
    /// Numbers of policies.
    policies: BTreeSet<u32>,
}

impl NamedPorts {
    /// There is an identity more.
    pub(super) fn add_identity(&mut self, number: u32, identity: &Identity) {
        for (name, protocol, port) in &identity.named_ports {
            let named = self.ports.entry((name.clone(), *protocol)).or_default();
            named.numbers.entry(*port).or_default().push(number);
        }
    }

    /// A policy is there, or not any more.
    pub(super) fn set_policy(&mut self, number: u32, policy: &Policy, is_there: bool) {
        let ports = policy.egress.iter().flatten().flat_map(|rule| rule.ports.iter().flatten());
        for port in ports {
            let PortSelector::Named(name) = &port.port else { continue };
            let named = self.ports.entry((name.clone(), port.protocol)).or_default();
            if is_there {
                named.policies.insert(number)
            } else {
                named.policies.remove(&number)
            };
        }
    }

    /// The policies to which identities with such named ports make a difference.
    pub(super) fn policies(&self, identity: &Identity) -> impl Iterator<Item = u32> {
        let named = identity.named_ports.iter().filter_map(|(name, protocol, _)| {
            self.ports.get(&(name.clone(), *protocol)).map(|named| &named.policies)
        });
        named.flatten().copied()
    }

    fn numbers(&self, name: &str, protocol: Protocol) -> impl Iterator<Item = (u16, &[u32])> {
        let named = self.ports.get(&(name.to_owned(), protocol));
        let numbers = named.into_iter().flat_map(|named| &named.numbers);
        numbers.map(|(number, identities)| (*number, identities.as_slice()))
    }
}

impl Part {
    /// The parts of a rule.
    pub(super) fn of_rule(
        (id, tier, rule): (RuleId, Tier, &Rule),
        ingress: bool,
        named: &NamedPorts,
        groups: &mut Groups,
    ) -> Vec<Part> {
        let part = |group, ports| Part { rule: id, tier, action: rule.action, group, ports };
        let mut parts = Vec::new();
        if is_against_strangers(rule) {
            parts.push(against_strangers((id, tier, rule), ingress, groups));
        }
        let is_peers_own = |port: &&PortMatch| !ingress && matches!(port.port, PortSelector::Named(_));
        let (peers_own, plain): (Vec<&PortMatch>, Vec<&PortMatch>) =
            rule.ports.iter().flatten().partition(is_peers_own);
        if rule.ports.is_none() || !plain.is_empty() {
            let ports = rule.ports.as_ref().map(|_| plain.into_iter().cloned().collect());
            parts.push(part(groups.number(rule.peers.as_ref(), None), ports));
        }
        for port in peers_own {
            let PortSelector::Named(name) = &port.port else { continue };
            for (number, identities) in named.numbers(name, port.protocol) {
                let group = groups.number(rule.peers.as_ref(), Some(identities));
                let port = PortMatch { protocol: port.protocol, port: PortSelector::Range(number, number) };
                parts.push(part(group, Some(vec![port])));
            }
        }
        parts
    }

    /// What it matches of a subject whose own ports have those names; `place` is the rule's among the subject's.
    pub(super) fn spans(&self, place: u32, named: &[(String, Protocol, u16)]) -> Vec<Span> {
        let asked = Asked { rule: self.rule, place, tier: self.tier, action: self.action };
        let Some(ports) = &self.ports else { return vec![Span::everything(asked)] };
        let mut spans = Vec::new();
        for PortMatch { protocol, port } in ports {
            match port {
                PortSelector::Any => spans.push(Span::ports(*protocol, 0, u16::MAX, asked)),
                PortSelector::Range(first, last) => spans.push(Span::ports(*protocol, *first, *last, asked)),
                PortSelector::Named(wanted) => {
                    let meant = named.iter().filter(|(name, of, _)| name == wanted && of == protocol);
                    spans.extend(meant.map(|(_, _, port)| Span::ports(*protocol, *port, *port, asked)));
                }
            }
        }
        spans
    }
}

/// Whether a rule may deny pods of which nothing is known yet.
pub(super) fn is_against_strangers(rule: &Rule) -> bool {
    rule.selects_pods && rule.action != Action::Accept
}

/// A pod of which nothing is known yet may be a peer that a rule denies, or leaves to others that would deny it: it is closed,
/// as the API has it closed where an implementation does not know who a peer is. What ports it names nobody knows: any.
fn against_strangers((rule, tier, about): (RuleId, Tier, &Rule), ingress: bool, groups: &mut Groups) -> Part {
    let known = |port: &PortMatch| match &port.port {
        PortSelector::Named(_) if !ingress => PortMatch { protocol: port.protocol, port: PortSelector::Any },
        _ => port.clone(),
    };
    let ports = about.ports.as_ref().map(|ports| ports.iter().map(known).collect());
    Part { rule, tier, action: Action::Deny, group: groups.number_strangers(), ports }
}

/// Refuses what no API could have said.
pub(super) fn check(policy: &Policy, identities: usize) -> Result<(), CompileError> {
    let refuse = |field: String, problem: String| {
        Err(invalid(format!("{} {}", policy.kind(), policy.name), field, problem))
    };
    if let Tier::Admin(priority) | Tier::Baseline(priority) = policy.tier
        && priority > MAX_PRIORITY
    {
        return refuse("tier".into(), format!("priority {priority} is above {MAX_PRIORITY}"));
    }
    let missing = |list: &[u32]| list.iter().position(|identity| *identity as usize >= identities);
    if let Some(position) = missing(&policy.subjects) {
        return refuse(format!("subjects[{position}]"), format!("there are {identities} identities"));
    }
    let ingress = policy.ingress.iter().flatten().map(|rule| ("ingress", rule));
    for (direction, rule) in ingress.chain(policy.egress.iter().flatten().map(|rule| ("egress", rule))) {
        let at = format!("{direction}[{}]", rule.index);
        if policy.kind() == PolicyKind::NetworkPolicy && rule.action != Action::Accept {
            return refuse(format!("{at}.action"), format!("a NetworkPolicy cannot {}", rule.action));
        }
        if let Some(peers) = &rule.peers {
            if let Some(position) = missing(&peers.identities) {
                let field = format!("{at}.peers.identities[{position}]");
                return refuse(field, format!("there are {identities} identities"));
            }
            for (position, block) in peers.blocks.iter().enumerate() {
                if let Some(part) = block.except.iter().find(|part| !block.cidr.contains(*part)) {
                    let problem = format!("{part} is not within {}", block.cidr);
                    return refuse(format!("{at}.peers.blocks[{position}].except"), problem);
                }
            }
        }
        for (position, port) in rule.ports.iter().flatten().enumerate() {
            if let PortSelector::Range(first, last) = port.port
                && last < first
            {
                return refuse(
                    format!("{at}.ports[{position}]"),
                    format!("the range {first}-{last} is empty"),
                );
            }
        }
    }
    Ok(())
}

pub(super) fn invalid(object: String, field: String, problem: String) -> CompileError {
    CompileError::Invalid { object, field, problem }
}
