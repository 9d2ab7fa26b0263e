//! Why policy judges a packet as it does: what selects each end, which rule decides, and what every other rule fails on.
//!
//! The verdict is the table's; the rest is read off the state, policy by policy, in the order in which they are asked.

use std::fmt;
use std::net::IpAddr;

use serde::Serialize;

use super::{Packet, Verdict, ports};
use crate::intent::{
    Action, Endpoint, Identity, Intent, IpBlock, Peers, Policy, PortMatch, PortSelector, Rule, Tier,
};
use crate::policy::PolicyTable;

/// Most classes, blocks or ports that are named of a rule.
const NAMED: usize = 4;

/// The story of a packet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Explanation {
    /// The packet.
    pub packet: Packet,
    /// What policy says.
    pub verdict: Verdict,
    /// The source, by its policies for egress.
    pub source: End,
    /// The destination, by its policies for ingress.
    pub destination: End,
}

/// One end of a packet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct End {
    /// The pod, the node, or the address alone, with the labels that policies look at.
    pub who: String,
    /// Why NetworkPolicies do not isolate it from the other end, where they do not.
    pub exempt: Option<Exempt>,
    /// The policies that are asked of it in this direction, in the order in which they are.
    pub policies: Vec<Selected>,
}

/// Why an end is not isolated from the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Exempt {
    /// The other end is the same endpoint.
    Itself,
    /// A Service sends it back to the endpoint that it is from.
    Hairpin,
    /// The other end is its node, or the node's pod.
    OwnNode,
    /// It is a node or a hostNetwork pod: policies select pods.
    Host,
    /// It is outside of the cluster.
    Outside,
}

/// A policy that selects an end, and what its rules say of the packet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Selected {
    /// `NetworkPolicy ns/name`.
    pub policy: String,
    /// When it is asked.
    pub tier: Tier,
    /// The object's resourceVersion; empty where it came from a file.
    pub resource_version: String,
    /// Its rules in their order.
    pub rules: Vec<Asked>,
}

/// A rule, asked of a packet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Asked {
    /// `ingress[0]`, the index in the object's list, with the rule's name where it has one.
    pub rule: String,
    /// What it does with what it matches.
    pub action: Action,
    /// Its peers are pods, and the packet's is an address of a pod range that nobody is known to have: whether it is one of those
    /// cannot be told, so a rule that denies or passes denies it, as the API has it ("fail closed").
    pub unknown_peer: bool,
    /// What does not match first; `None`: all of it matches.
    pub mismatch: Option<Mismatch>,
}

/// What of a rule does not match.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Mismatch {
    /// Which part.
    pub part: Part,
    /// What the packet has.
    pub found: String,
    /// What the rule wants.
    pub wanted: String,
}

/// A part of a rule, in the order in which they are looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Part {
    /// `from` or `to`.
    Peer,
    /// `ports[].protocol`.
    Protocol,
    /// `ports[].port`.
    Port,
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let part = match self.part {
            Part::Peer => "peer",
            Part::Protocol => "protocol",
            Part::Port => "port",
        };
        write!(f, "{part}: {}; the rule is about {}", self.found, self.wanted)
    }
}

impl fmt::Display for Exempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Exempt::Itself => "no policy keeps a pod from itself",
            Exempt::Hairpin => "a Service sends it back: no NetworkPolicy isolates a pod from itself",
            Exempt::OwnNode => "no NetworkPolicy isolates a pod from its own node",
            Exempt::Host => "a node, and what shares its network, is selected by no policy",
            Exempt::Outside => "outside of the cluster: no policy selects it",
        })
    }
}

/// Explains what `policy`, compiled from `intent`, says of `packet`, whose destination a Service has chosen where `translated`.
pub fn explain(intent: &Intent, policy: &PolicyTable, packet: &Packet, translated: bool) -> Explanation {
    let ends = [packet.src, packet.dst].map(|address| Whose::of(intent, address));
    let known = Known { intent, policy, packet, translated, ends };
    let verdict =
        if translated { Verdict::of_translated(policy, packet) } else { Verdict::of(policy, packet) };
    Explanation { packet: *packet, verdict, source: known.end(false), destination: known.end(true) }
}

struct Known<'a> {
    intent: &'a Intent,
    policy: &'a PolicyTable,
    packet: &'a Packet,
    translated: bool,
    /// The source and the destination.
    ends: [Whose<'a>; 2],
}

/// An end's address, and whose it is.
struct Whose<'a> {
    address: IpAddr,
    /// The endpoint that policies may select.
    endpoint: Option<&'a Endpoint>,
    /// The node whose address it is, or that of a hostNetwork pod.
    host: Option<&'a str>,
    /// Nobody is known to have it, and a node's pods may.
    is_stranger: bool,
}

impl<'a> Whose<'a> {
    fn of(intent: &'a Intent, address: IpAddr) -> Self {
        let (hosts, pods): (Vec<&Endpoint>, Vec<&Endpoint>) = intent
            .endpoints
            .iter()
            .filter(|endpoint| endpoint.addresses.contains(&address))
            .partition(|endpoint| endpoint.host_network);
        let endpoint = pods.first().copied();
        let node = intent.nodes.iter().find(|node| node.addresses.contains(&address));
        let host = node.map(|node| &node.name).or(hosts.first().map(|host| &host.node)).map(String::as_str);
        let mut ranges = intent.nodes.iter().flat_map(|node| &node.pod_cidrs);
        let is_stranger =
            endpoint.is_none() && host.is_none() && ranges.any(|range| range.contains(&address));
        Whose { address, endpoint, host, is_stranger }
    }
}

impl<'a> Known<'a> {
    fn end(&self, ingress: bool) -> End {
        let [source, destination] = &self.ends;
        let (own, peer) = if ingress { (destination, source) } else { (source, destination) };
        let exempt = self.exempt(own, peer);
        let endpoint = own.endpoint;
        // An end that is not isolated from the other one is still asked its rules.
        let asked = !matches!(exempt, Some(Exempt::Itself | Exempt::Host | Exempt::Outside));
        let policies =
            endpoint.filter(|_| asked).into_iter().flat_map(|endpoint| self.selecting(endpoint, ingress));
        let selected = |policy: &'a Policy| {
            let rules = rules(policy, ingress).into_iter().flatten();
            Selected {
                policy: format!("{} {}", policy.kind(), policy.name),
                tier: policy.tier,
                resource_version: policy.resource_version.clone(),
                rules: rules.map(|rule| self.asked(rule, peer, ingress)).collect(),
            }
        };
        End { who: self.who(own), exempt, policies: policies.map(selected).collect() }
    }

    fn exempt(&self, own: &Whose<'_>, peer: &Whose<'_>) -> Option<Exempt> {
        match own.endpoint {
            Some(endpoint) if endpoint.addresses.contains(&peer.address) => {
                Some(if self.translated { Exempt::Hairpin } else { Exempt::Itself })
            }
            Some(_) if self.policy.is_exempt(own.address, peer.address) => Some(Exempt::OwnNode),
            Some(_) => None,
            None if own.host.is_some() => Some(Exempt::Host),
            None => Some(Exempt::Outside),
        }
    }

    /// The policies that select the endpoint, in the order in which they are asked.
    fn selecting(&self, endpoint: &Endpoint, ingress: bool) -> Vec<&'a Policy> {
        let selects = |policy: &&Policy| {
            rules(policy, ingress).is_some() && policy.subjects.binary_search(&endpoint.identity).is_ok()
        };
        let mut policies: Vec<&Policy> = self.intent.policies.iter().filter(selects).collect();
        policies.sort_by_key(|policy| (policy.tier, &policy.name));
        policies
    }

    fn asked(&self, rule: &Rule, peer: &Whose<'_>, ingress: bool) -> Asked {
        let direction = if ingress { "ingress" } else { "egress" };
        let name = if rule.name.is_empty() { String::new() } else { format!(" ({})", rule.name) };
        let name = format!("{direction}[{}]{name}", rule.index);
        if self.closes_to_stranger(rule, peer, ingress) {
            return Asked { rule: name, action: Action::Deny, unknown_peer: true, mismatch: None };
        }
        let mismatch = self.peer_mismatch(rule, peer).or_else(|| self.port_mismatch(rule));
        Asked { rule: name, action: rule.action, unknown_peer: false, mismatch }
    }

    /// Whether the rule denies the peer because it may be a pod that is not known yet. Such a pod may give its ports any name.
    fn closes_to_stranger(&self, rule: &Rule, peer: &Whose<'_>, ingress: bool) -> bool {
        let is_named = |port: &PortMatch| !ingress && matches!(port.port, PortSelector::Named(_));
        let may_match = |port: &PortMatch| {
            port.protocol as u8 == self.packet.protocol && (is_named(port) || self.port_matches(port))
        };
        rule.selects_pods
            && rule.action != Action::Accept
            && rule.ports.as_ref().is_none_or(|ports| ports.iter().any(may_match))
            && peer.is_stranger
    }

    fn peer_mismatch(&self, rule: &Rule, peer: &Whose<'_>) -> Option<Mismatch> {
        let peers = rule.peers.as_ref()?;
        let identity = peer.endpoint.map(|endpoint| endpoint.identity);
        let among = identity.is_some_and(|identity| peers.identities.binary_search(&identity).is_ok());
        if among || peers.blocks.iter().any(|block| contains(block, peer.address)) {
            return None;
        }
        Some(Mismatch { part: Part::Peer, found: self.who(peer), wanted: self.peers(peers) })
    }

    fn port_mismatch(&self, rule: &Rule) -> Option<Mismatch> {
        let wanted = rule.ports.as_ref()?;
        let Packet { protocol, dst_port, .. } = *self.packet;
        let of_protocol = || wanted.iter().filter(|port| port.protocol as u8 == protocol);
        if of_protocol().any(|port| self.port_matches(port)) {
            return None;
        }
        let ports = |ports: &mut dyn Iterator<Item = &PortMatch>| few(ports.map(|port| self.port(port)));
        let name = ports::protocol_name(protocol);
        Some(if of_protocol().next().is_none() {
            Mismatch { part: Part::Protocol, found: name, wanted: ports(&mut wanted.iter()) }
        } else {
            let found = format!("{name} {dst_port}");
            Mismatch { part: Part::Port, found, wanted: ports(&mut of_protocol()) }
        })
    }

    fn port_matches(&self, port: &PortMatch) -> bool {
        match &port.port {
            PortSelector::Any => true,
            PortSelector::Range(first, last) => (*first..=*last).contains(&self.packet.dst_port),
            PortSelector::Named(name) => self.named(port, name).any(|number| number == self.packet.dst_port),
        }
    }

    /// What a port's name means to the destination.
    fn named(&self, port: &'a PortMatch, name: &'a str) -> impl Iterator<Item = u16> {
        let [_, destination] = &self.ends;
        let identity = destination.endpoint.and_then(|endpoint| self.identity(endpoint));
        let named = identity.into_iter().flat_map(|identity| &identity.named_ports);
        let meant = named.filter(move |(known, protocol, _)| known == name && *protocol == port.protocol);
        meant.map(|(_, _, number)| *number)
    }

    fn port(&self, port: &'a PortMatch) -> String {
        let protocol = ports::protocol_name(port.protocol as u8);
        match &port.port {
            PortSelector::Any => protocol,
            PortSelector::Range(first, last) if first == last => format!("{protocol} {first}"),
            PortSelector::Range(first, last) => format!("{protocol} {first}-{last}"),
            PortSelector::Named(name) => {
                let numbers: Vec<String> = self.named(port, name).map(|number| number.to_string()).collect();
                match numbers.is_empty() {
                    true => format!("{protocol} {name:?} (which the destination does not have)"),
                    false => format!("{protocol} {name:?} ({} of the destination)", numbers.join(", ")),
                }
            }
        }
    }

    /// A rule's peers in words.
    fn peers(&self, peers: &Peers) -> String {
        let class = |identity: &u32| {
            let identity = self.intent.identities.get(*identity as usize)?;
            let of = if identity.namespace.is_empty() {
                String::new()
            } else {
                format!(" of {}", identity.namespace)
            };
            let with = if identity.labels.is_empty() {
                String::new()
            } else {
                format!(" with {}", identity.labels.join(", "))
            };
            Some(format!("pods{of}{with}"))
        };
        let mut classes: Vec<String> = peers.identities.iter().filter_map(class).collect();
        classes.dedup();
        let block = |block: &IpBlock| {
            let except: Vec<String> = block.except.iter().map(ToString::to_string).collect();
            if except.is_empty() {
                block.cidr.to_string()
            } else {
                format!("{} except {}", block.cidr, except.join(", "))
            }
        };
        if classes.is_empty() && peers.blocks.is_empty() {
            return "pods of which there are none".to_owned();
        }
        few(classes.into_iter().chain(peers.blocks.iter().map(block)))
    }

    /// An address with whose it is.
    fn who(&self, Whose { address, endpoint, host, .. }: &Whose<'_>) -> String {
        if let Some(endpoint) = endpoint {
            let labels =
                self.identity(endpoint).map(|identity| identity.labels.join(", ")).unwrap_or_default();
            let labels = if labels.is_empty() { labels } else { format!(", {labels}") };
            return format!("pod {} ({address}{labels})", endpoint.name);
        }
        match host {
            Some(node) => format!("node {node} ({address})"),
            None => address.to_string(),
        }
    }

    fn identity(&self, endpoint: &Endpoint) -> Option<&'a Identity> {
        self.intent.identities.get(endpoint.identity as usize)
    }
}

fn rules(policy: &Policy, ingress: bool) -> Option<&[Rule]> {
    if ingress { policy.ingress.as_deref() } else { policy.egress.as_deref() }
}

fn contains(block: &IpBlock, address: IpAddr) -> bool {
    block.cidr.contains(&address) && !block.except.iter().any(|part| part.contains(&address))
}

/// The first few, and how many more there are.
fn few(texts: impl Iterator<Item = String>) -> String {
    let texts: Vec<String> = texts.collect();
    let shown = texts.iter().take(NAMED).map(String::as_str).collect::<Vec<_>>().join(", ");
    match texts.len().saturating_sub(NAMED) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::intent::{Node, ObjectName};

    /// Found by the property of `properties.rs`: the table closes a pod to what may be a pod that is not known yet, and the story said
    /// that the rule was about others.
    #[test]
    fn a_rule_that_closes_to_a_peer_whom_nobody_knows_is_told_as_such() {
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        let (server, stranger, outside) = (address("10.1.0.1"), address("10.1.0.77"), address("203.0.113.1"));
        let rule = |index, action, port| Rule {
            index,
            action,
            selects_pods: true,
            peers: Some(Peers { identities: vec![1], blocks: vec![] }),
            ports: Some(vec![port]),
            ..Rule::default()
        };
        let port = |port| PortMatch { protocol: crate::intent::Protocol::Tcp, port };
        let tcp = |number| port(PortSelector::Range(number, number));
        let policy = Policy {
            tier: Tier::Admin(1),
            name: ObjectName::new("", "top"),
            subjects: vec![0],
            ingress: Some(vec![
                rule(0, Action::Accept, tcp(80)),
                rule(1, Action::Pass, tcp(80)),
                rule(2, Action::Deny, tcp(81)),
            ]),
            egress: Some(vec![rule(0, Action::Deny, port(PortSelector::Named("db".into())))]),
            ..Policy::default()
        };
        let identity = |label: &str| Identity { labels: vec![label.into()], ..Identity::default() };
        let intent = Intent {
            nodes: vec![Node {
                name: "a".into(),
                addresses: vec![],
                pod_cidrs: vec!["10.1.0.0/24".parse().unwrap()],
                zone: String::new(),
            }],
            identities: vec![identity("app=server"), identity("app=other")],
            endpoints: vec![Endpoint {
                name: ObjectName::new("ns", "server"),
                node: "a".into(),
                addresses: vec![server],
                host_network: false,
                identity: 0,
            }],
            policies: vec![policy],
            ..Intent::default()
        };
        let table = PolicyTable::compile(&intent).unwrap();
        let told = |src, dst, port, ingress| {
            let story = explain(&intent, &table, &Packet::new(src, dst, 6, port), false);
            let (end, ruling) = if ingress {
                (story.destination, story.verdict.ingress)
            } else {
                (story.source, story.verdict.egress)
            };
            let rules = end.policies.into_iter().flat_map(|policy| policy.rules);
            let closed: Vec<bool> =
                rules.map(|rule| rule.unknown_peer && rule.action == Action::Deny).collect();
            (closed, ruling.allowed)
        };
        assert_eq!(told(stranger, server, 80, true), (vec![false, true, false], false));
        assert_eq!(told(stranger, server, 81, true), (vec![false, false, true], false));
        assert_eq!(told(stranger, server, 82, true), (vec![false; 3], true));
        assert_eq!(told(outside, server, 80, true), (vec![false; 3], true));
        assert_eq!(told(server, stranger, 9, false), (vec![true], false), "by whatever name");
        assert_eq!(told(server, outside, 9, false), (vec![false], true));
    }
}
