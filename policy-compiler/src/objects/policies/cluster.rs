//! ClusterNetworkPolicy v1alpha2, checked as its CustomResourceDefinition has the API server check it.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use super::{Draft, DraftPeers, DraftRule, Problem, Reader, revocation};
use crate::intent::{Action, IpBlock, MAX_PRIORITY, Node, PortMatch, PortSelector, Protocol, Tier};
use crate::objects::cluster_policy::{
    ClusterNetworkPolicy, EgressPeer, EgressRule, IngressPeer, IngressRule, NamespacedPod, Port, PortsOf,
    ProtocolMatch, Subject,
};
use crate::objects::selectors::{Namespaces, Selector};
use crate::objects::{Objects, address};

/// Most items of a list of rules, peers, protocols or networks.
const MAX_ITEMS: usize = 25;
/// Longest name of a rule, in characters.
const MAX_NAME: usize = 100;
/// Longest prefix, in characters.
const MAX_CIDR: usize = 43;

/// The nodes' labels and addresses.
pub(super) struct LabelledNodes<'a>(Vec<(BTreeMap<&'a str, &'a str>, &'a [IpAddr])>);

impl<'a> LabelledNodes<'a> {
    /// Of `objects`, whose nodes are `nodes`.
    pub(super) fn new(objects: &'a Objects, nodes: &'a [Node]) -> Self {
        let labels = objects.nodes.values().map(|object| {
            let labels = object.metadata.labels.iter().flatten();
            labels.map(|(key, value)| (key.as_str(), value.as_str())).collect()
        });
        LabelledNodes(labels.zip(nodes).map(|(labels, node)| (labels, node.addresses.as_slice())).collect())
    }

    /// The addresses of the nodes that `selector` selects, as blocks.
    fn selected(&self, selector: &Selector) -> impl Iterator<Item = IpBlock> {
        let nodes = self.0.iter().filter(|(labels, _)| selector.matches(labels));
        let addresses = nodes.flat_map(|(_, addresses)| addresses.iter().copied());
        addresses.map(|address| IpBlock { cidr: IpNet::from(address), except: Vec::new() })
    }
}

/// A rule of either direction.
struct RuleText<'o> {
    name: Option<&'o str>,
    action: Option<&'o str>,
    peers: Option<Vec<PeerText<'o>>>,
    protocols: Option<&'o [ProtocolMatch]>,
}

/// A peer of either direction.
#[derive(Default)]
struct PeerText<'o> {
    namespaces: Option<&'o LabelSelector>,
    pods: Option<&'o NamespacedPod>,
    nodes: Option<&'o LabelSelector>,
    networks: Option<&'o [String]>,
    domain_names: Option<&'o [String]>,
}

impl<'o> From<&'o IngressRule> for RuleText<'o> {
    fn from(rule: &'o IngressRule) -> Self {
        let peer = |peer: &'o IngressPeer| PeerText {
            namespaces: peer.namespaces.as_ref(),
            pods: peer.pods.as_ref(),
            ..PeerText::default()
        };
        RuleText {
            name: rule.name.as_deref(),
            action: rule.action.as_deref(),
            peers: rule.from.as_ref().map(|peers| peers.iter().map(peer).collect()),
            protocols: rule.protocols.as_deref(),
        }
    }
}

impl<'o> From<&'o EgressRule> for RuleText<'o> {
    fn from(rule: &'o EgressRule) -> Self {
        let peer = |peer: &'o EgressPeer| PeerText {
            namespaces: peer.namespaces.as_ref(),
            pods: peer.pods.as_ref(),
            nodes: peer.nodes.as_ref(),
            networks: peer.networks.as_deref(),
            domain_names: peer.domain_names.as_deref(),
        };
        RuleText {
            name: rule.name.as_deref(),
            action: rule.action.as_deref(),
            peers: rule.to.as_ref().map(|peers| peers.iter().map(peer).collect()),
            protocols: rule.protocols.as_deref(),
        }
    }
}

impl<'a> Reader<'_, 'a> {
    /// Reads and checks a policy.
    pub(super) fn cluster_policy(
        &mut self,
        object: &ClusterNetworkPolicy,
        nodes: &LabelledNodes<'_>,
    ) -> Result<Draft<'a>, Problem> {
        let revocation = revocation(&object.metadata)?;
        let spec = required(object.spec.as_ref(), "spec")?;
        let tier = tier(spec.tier.as_deref(), spec.priority)?;
        let subjects = self.subject(required(spec.subject.as_ref(), "spec.subject")?)?;
        let ingress = spec.ingress.iter().flatten().map(RuleText::from);
        let ingress = self.cluster_rules("spec.ingress", "from", ingress.collect(), nodes)?;
        let egress = spec.egress.iter().flatten().map(RuleText::from);
        let egress = self.cluster_rules("spec.egress", "to", egress.collect(), nodes)?;
        if ingress.is_none() && egress.is_none() {
            self.warn("has no rules: it does nothing".into());
        }
        let resource_version = object.metadata.resource_version.clone().unwrap_or_default();
        Ok(Draft { tier, name: self.name, resource_version, revocation, subjects, ingress, egress })
    }

    fn subject(&mut self, subject: &Subject) -> Result<u32, Problem> {
        let at = "spec.subject";
        match (&subject.namespaces, &subject.pods) {
            (Some(namespaces), None) => self.namespaces(&format!("{at}.namespaces"), namespaces),
            (None, Some(pods)) => self.pods(&format!("{at}.pods"), pods),
            (None, None) => Err(one_of(at, &["namespaces", "pods"])),
            (Some(_), Some(_)) => Err(only_one(at, &["namespaces", "pods"])),
        }
    }

    /// `None` where there are none: then the policy says nothing of that direction.
    fn cluster_rules(
        &mut self,
        at: &str,
        list: &str,
        texts: Vec<RuleText<'_>>,
        nodes: &LabelledNodes<'_>,
    ) -> Result<Option<Vec<DraftRule>>, Problem> {
        check_length(at, texts.len())?;
        let mut rules = Vec::with_capacity(texts.len());
        for (index, text) in texts.iter().enumerate() {
            rules.push(self.cluster_rule(&format!("{at}[{index}]"), list, text, nodes)?);
        }
        Ok(Some(rules).filter(|rules| !rules.is_empty()))
    }

    fn cluster_rule(
        &mut self,
        at: &str,
        list: &str,
        text: &RuleText<'_>,
        nodes: &LabelledNodes<'_>,
    ) -> Result<DraftRule, Problem> {
        let name = text.name.unwrap_or_default().to_owned();
        let length = name.chars().count();
        if length > MAX_NAME {
            return Err((format!("{at}.name"), format!("has {length} characters, more than {MAX_NAME}")));
        }
        let action = action(text.action, format!("{at}.action"))?;
        let list = format!("{at}.{list}");
        let mut peers = DraftPeers::default();
        for (index, peer) in filled(text.peers.as_deref(), &list)?.iter().enumerate() {
            self.cluster_peer(&format!("{list}[{index}]"), peer, nodes, &mut peers)?;
        }
        let ports = self.protocols(&format!("{at}.protocols"), text.protocols)?;
        let is_named = |port: &PortMatch| matches!(port.port, PortSelector::Named(_));
        let has_no_names = |peer: &PeerText<'_>| peer.nodes.is_some() || peer.networks.is_some();
        if text.peers.iter().flatten().any(has_no_names) && ports.iter().flatten().any(is_named) {
            let problem =
                "nodes and networks have no named ports: destinationNamedPort cannot stand with them";
            return Err((at.to_owned(), problem.into()));
        }
        Ok(DraftRule { name, action, peers: Some(peers), ports })
    }

    fn cluster_peer(
        &mut self,
        at: &str,
        peer: &PeerText<'_>,
        nodes: &LabelledNodes<'_>,
        known: &mut DraftPeers,
    ) -> Result<(), Problem> {
        const FIELDS: [&str; 4] = ["namespaces", "pods", "nodes", "networks"];
        let fields = if at.starts_with("spec.ingress") { &FIELDS[..2] } else { &FIELDS[..] };
        match peer {
            PeerText { domain_names: Some(_), .. } => {
                let problem = "domain names as peers, an experimental part of the API, are not supported";
                return Err((format!("{at}.domainNames"), problem.into()));
            }
            PeerText { namespaces: Some(namespaces), pods: None, nodes: None, networks: None, .. } => {
                known.selections.push(self.namespaces(&format!("{at}.namespaces"), namespaces)?);
            }
            PeerText { namespaces: None, pods: Some(pods), nodes: None, networks: None, .. } => {
                known.selections.push(self.pods(&format!("{at}.pods"), pods)?);
            }
            PeerText { namespaces: None, pods: None, nodes: Some(selector), networks: None, .. } => {
                let selector = Selector::read(Some(selector), &format!("{at}.nodes"))?;
                known.blocks.extend(nodes.selected(&selector));
            }
            PeerText { namespaces: None, pods: None, nodes: None, networks: Some(networks), .. } => {
                self.networks(&format!("{at}.networks"), networks, known)?;
            }
            PeerText { namespaces: None, pods: None, nodes: None, networks: None, .. } => {
                return Err(one_of(at, fields));
            }
            _ => return Err(only_one(at, fields)),
        }
        Ok(())
    }

    fn networks(&mut self, at: &str, networks: &[String], known: &mut DraftPeers) -> Result<(), Problem> {
        for (index, text) in filled(Some(networks), at)?.iter().enumerate() {
            let field = format!("{at}[{index}]");
            if networks.iter().take(index).any(|other| other == text) {
                return Err((field, format!("{text:?} is there twice")));
            }
            if text.len() > MAX_CIDR {
                return Err((field, format!("has {} characters, more than {MAX_CIDR}", text.len())));
            }
            known.blocks.push(IpBlock { cidr: self.prefix(field, text)?, except: Vec::new() });
        }
        Ok(())
    }

    fn namespaces(&mut self, at: &str, selector: &LabelSelector) -> Result<u32, Problem> {
        let namespaces = Namespaces::Selected(Selector::read(Some(selector), at)?);
        Ok(self.drafts.selections.number(namespaces, Selector::default()))
    }

    fn pods(&mut self, at: &str, pods: &NamespacedPod) -> Result<u32, Problem> {
        let (of_namespaces, of_pods) = (format!("{at}.namespaceSelector"), format!("{at}.podSelector"));
        let namespaces = Selector::read(pods.namespace_selector.as_ref(), &of_namespaces)?;
        let pods = required(pods.pod_selector.as_ref(), &of_pods)?;
        let pods = Selector::read(Some(pods), &of_pods)?;
        Ok(self.drafts.selections.number(Namespaces::Selected(namespaces), pods))
    }

    /// `None` where there are none: then the rule is about every protocol.
    fn protocols(
        &mut self,
        at: &str,
        protocols: Option<&[ProtocolMatch]>,
    ) -> Result<Option<Vec<PortMatch>>, Problem> {
        if protocols.is_none() {
            return Ok(None);
        }
        let mut ports = Vec::new();
        for (index, protocol) in filled(protocols, at)?.iter().enumerate() {
            let at = format!("{at}[{index}]");
            match protocol {
                ProtocolMatch { tcp: Some(tcp), udp: None, sctp: None, destination_named_port: None } => {
                    ports.push(port_match(&format!("{at}.tcp"), Protocol::Tcp, tcp)?);
                }
                ProtocolMatch { tcp: None, udp: Some(udp), sctp: None, destination_named_port: None } => {
                    ports.push(port_match(&format!("{at}.udp"), Protocol::Udp, udp)?);
                }
                ProtocolMatch { tcp: None, udp: None, sctp: Some(sctp), destination_named_port: None } => {
                    ports.push(port_match(&format!("{at}.sctp"), Protocol::Sctp, sctp)?);
                }
                ProtocolMatch { tcp: None, udp: None, sctp: None, destination_named_port: Some(name) } => {
                    let field = || format!("{at}.destinationNamedPort");
                    address::port_name(name).map_err(|problem| (field(), problem))?;
                    ports.extend(self.named_port(name));
                }
                ProtocolMatch { tcp: None, udp: None, sctp: None, destination_named_port: None } => {
                    return Err(one_of(&at, &PROTOCOL_FIELDS));
                }
                _ => return Err(only_one(&at, &PROTOCOL_FIELDS)),
            }
        }
        Ok(Some(ports))
    }

    /// The name stands for the container port that is called so, whatever its protocol.
    fn named_port(&mut self, name: &str) -> [PortMatch; 3] {
        [Protocol::Tcp, Protocol::Udp, Protocol::Sctp].map(|protocol| {
            self.drafts.port_names.insert((name.to_owned(), protocol));
            PortMatch { protocol, port: PortSelector::Named(name.to_owned()) }
        })
    }
}

const PROTOCOL_FIELDS: [&str; 4] = ["tcp", "udp", "sctp", "destinationNamedPort"];

fn tier(tier: Option<&str>, priority: Option<i32>) -> Result<Tier, Problem> {
    let make = match required(tier, "spec.tier")? {
        "Admin" => Tier::Admin,
        "Baseline" => Tier::Baseline,
        other => return Err(("spec.tier".into(), format!("{other:?} is not a tier (Admin, Baseline)"))),
    };
    let number = required(priority, "spec.priority")?;
    let priority = u16::try_from(number).ok().filter(|priority| *priority <= MAX_PRIORITY);
    let range = || format!("{number} is not a priority (0-{MAX_PRIORITY})");
    Ok(make(priority.ok_or_else(|| ("spec.priority".to_owned(), range()))?))
}

fn action(action: Option<&str>, at: String) -> Result<Action, Problem> {
    match required(action, &at)? {
        "Accept" => Ok(Action::Accept),
        "Deny" => Ok(Action::Deny),
        "Pass" => Ok(Action::Pass),
        other => Err((at, format!("{other:?} is not an action (Accept, Deny, Pass)"))),
    }
}

fn port_match(at: &str, protocol: Protocol, ports: &PortsOf) -> Result<PortMatch, Problem> {
    let at = format!("{at}.destinationPort");
    let number = |field: String, number: i32| address::port(number).map_err(|problem| (field, problem));
    let port = match required(ports.destination_port.as_ref(), &at)? {
        Port { number: Some(port), range: None } => {
            let port = number(format!("{at}.number"), *port)?;
            PortSelector::Range(port, port)
        }
        Port { number: None, range: Some(range) } => {
            let (start, end) = (format!("{at}.range.start"), format!("{at}.range.end"));
            let first = number(start.clone(), required(range.start, &start)?)?;
            let last = number(end.clone(), required(range.end, &end)?)?;
            if last <= first {
                return Err((end, format!("{last} is not more than start, {first}")));
            }
            PortSelector::Range(first, last)
        }
        Port { number: None, range: None } => return Err(one_of(&at, &["number", "range"])),
        Port { number: Some(_), range: Some(_) } => return Err(only_one(&at, &["number", "range"])),
    };
    Ok(PortMatch { protocol, port })
}

fn required<T>(value: Option<T>, at: &str) -> Result<T, Problem> {
    value.ok_or_else(|| (at.to_owned(), "is missing".to_owned()))
}

/// A list that must be there, with 1 to 25 items.
fn filled<'l, T>(list: Option<&'l [T]>, at: &str) -> Result<&'l [T], Problem> {
    let list = required(list, at)?;
    if list.is_empty() {
        return Err((at.to_owned(), "is empty, at least one item is needed".to_owned()));
    }
    check_length(at, list.len())?;
    Ok(list)
}

fn check_length(at: &str, items: usize) -> Result<(), Problem> {
    if items <= MAX_ITEMS {
        return Ok(());
    }
    Err((at.to_owned(), format!("has {items} items, more than {MAX_ITEMS}")))
}

fn one_of(at: &str, fields: &[&str]) -> Problem {
    (at.to_owned(), format!("needs one of {}", fields.join(", ")))
}

fn only_one(at: &str, fields: &[&str]) -> Problem {
    (at.to_owned(), format!("takes only one of {}", fields.join(", ")))
}

#[cfg(test)]
mod tests;
