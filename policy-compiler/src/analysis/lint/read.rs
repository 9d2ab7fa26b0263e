//! Policies as the checks want them: selectors with their fields, blocks, ports; the dead direction left out.

use std::net::IpAddr;

use ipnet::IpNet;
use k8s_openapi::api::networking::v1::{NetworkPolicy, NetworkPolicyPeer, NetworkPolicySpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use super::{Code, Findings};
use crate::intent::{IpBlock, ObjectName, PortMatch, Protocol, Rule};
use crate::objects::Objects;
use crate::objects::selectors::{Requirement, Selector};

/// A policy that the API takes.
pub(super) struct ReadPolicy<'a> {
    name: &'a ObjectName,
    pub(super) subjects: Selection<'a>,
    /// Of the directions that it isolates in.
    pub(super) rules: Vec<ReadRule<'a>>,
    /// "ingress", "egress": rules that `policyTypes` leaves out.
    pub(super) dead: Vec<&'static str>,
}

/// One rule.
pub(super) struct ReadRule<'a> {
    pub(super) ingress: bool,
    /// `spec.ingress[0]`.
    pub(super) field: String,
    /// `None`: everyone.
    pub(super) peers: Option<Vec<Peer<'a>>>,
    /// `None`: every protocol and port.
    pub(super) ports: Option<Vec<PortMatch>>,
}

/// One peer.
pub(super) struct Peer<'a> {
    /// `spec.ingress[0].from[1]`.
    pub(super) field: String,
    pub(super) who: Who<'a>,
}

/// Who a peer is.
pub(super) enum Who<'a> {
    /// Pods; `namespaces` is `None` for the policy's own.
    Pods {
        namespaces: Option<Selection<'a>>,
        pods: Selection<'a>,
    },
    Block(IpBlock),
}

/// A selector as it is written, and as it is meant.
pub(super) struct Selection<'a> {
    pub(super) written: Option<&'a LabelSelector>,
    pub(super) selector: Selector,
}

/// Reads a policy by itself. What the API refuses becomes a finding.
pub(super) fn read<'a>(
    name: &'a ObjectName,
    object: &'a NetworkPolicy,
    findings: &mut Findings,
) -> Option<ReadPolicy<'a>> {
    let alone = Objects { network_policies: [(name.clone(), object.clone())].into(), ..Objects::default() };
    let outside = excepts_outside(name, object, findings);
    let (intent, _) = match alone.intent("") {
        Ok(read) => read,
        Err(error) => {
            if !outside.contains(&error.field) {
                findings.add(error.object, Code::Refused, error.field, error.problem, "correct the field");
            }
            return None;
        }
    };
    let policy = intent.policies.into_iter().next()?;
    let spec = object.spec.as_ref();
    let subjects = Selection::read(spec.and_then(|spec| spec.pod_selector.as_ref()))?;
    let mut read = ReadPolicy { name, subjects, rules: Vec::new(), dead: Vec::new() };
    for (ingress, rules) in [(true, policy.ingress), (false, policy.egress)] {
        let direction = if ingress { "ingress" } else { "egress" };
        let written = spec.map(|spec| peer_lists(spec, ingress)).unwrap_or_default();
        match rules {
            None if written.is_empty() => {}
            None => read.dead.push(direction),
            Some(rules) => {
                for (rule, peers) in rules.into_iter().zip(written) {
                    read.rules.push(ReadRule::read(ingress, rule, peers)?);
                }
            }
        }
    }
    Some(read)
}

/// The peers of each rule.
fn peer_lists(spec: &NetworkPolicySpec, ingress: bool) -> Vec<&[NetworkPolicyPeer]> {
    if ingress {
        spec.ingress.iter().flatten().map(|rule| rule.from.as_deref().unwrap_or_default()).collect()
    } else {
        spec.egress.iter().flatten().map(|rule| rule.to.as_deref().unwrap_or_default()).collect()
    }
}

/// Finds the excepts that are no strict part of their block; their fields.
fn excepts_outside(name: &ObjectName, object: &NetworkPolicy, findings: &mut Findings) -> Vec<String> {
    let mut fields = Vec::new();
    let Some(spec) = &object.spec else { return fields };
    for (ingress, at, list) in [(true, "spec.ingress", "from"), (false, "spec.egress", "to")] {
        for (rule, peers) in peer_lists(spec, ingress).into_iter().enumerate() {
            for (peer, block) in
                peers.iter().enumerate().filter_map(|(peer, known)| Some((peer, known.ip_block.as_ref()?)))
            {
                let Ok(cidr) = block.cidr.parse::<IpNet>() else { continue };
                for (index, text) in block.except.iter().flatten().enumerate() {
                    let Ok(part) = text.parse::<IpNet>() else { continue };
                    if cidr.contains(&part) && part.prefix_len() > cidr.prefix_len() {
                        continue;
                    }
                    let field = format!("{at}[{rule}].{list}[{peer}].ipBlock.except[{index}]");
                    let same_family = matches!(
                        (cidr.addr(), part.addr()),
                        (IpAddr::V4(_), IpAddr::V4(_)) | (IpAddr::V6(_), IpAddr::V6(_))
                    );
                    let suggestion = match (same_family, part.contains(&cidr)) {
                        (false, _) => "an IPv4 block has IPv4 exceptions, an IPv6 block IPv6 ones",
                        (true, true) => "nothing would be left of the block: take the peer away",
                        (true, false) => "take the exception away: it takes nothing from the block",
                    };
                    let reason = format!("{part} is not a strict part of {cidr}: the API refuses the policy");
                    findings.add(
                        format!("NetworkPolicy {name}"),
                        Code::ExceptOutside,
                        &field,
                        reason,
                        suggestion,
                    );
                    fields.push(field);
                }
            }
        }
    }
    fields
}

impl ReadPolicy<'_> {
    /// `NetworkPolicy ns/name`.
    pub(super) fn object(&self) -> String {
        format!("NetworkPolicy {}", self.name)
    }

    pub(super) fn namespace(&self) -> &str {
        &self.name.namespace
    }
}

impl<'a> ReadRule<'a> {
    fn read(ingress: bool, rule: Rule, written: &'a [NetworkPolicyPeer]) -> Option<Self> {
        let (direction, list) = if ingress { ("ingress", "from") } else { ("egress", "to") };
        let field = format!("spec.{direction}[{}]", rule.index);
        let peers = match rule.peers {
            None => None,
            Some(resolved) => {
                let mut blocks = resolved.blocks.into_iter();
                let mut peers = Vec::with_capacity(written.len());
                for (index, peer) in written.iter().enumerate() {
                    let who = match &peer.ip_block {
                        Some(_) => Who::Block(blocks.next()?),
                        None => Who::Pods {
                            namespaces: match &peer.namespace_selector {
                                None => None,
                                selector => Some(Selection::read(selector.as_ref())?),
                            },
                            pods: Selection::read(peer.pod_selector.as_ref())?,
                        },
                    };
                    peers.push(Peer { field: format!("{field}.{list}[{index}]"), who });
                }
                Some(peers)
            }
        };
        Some(ReadRule { ingress, field, peers, ports: rule.ports })
    }
}

impl Peer<'_> {
    pub(super) fn block(&self) -> Option<&IpBlock> {
        match &self.who {
            Who::Block(block) => Some(block),
            Who::Pods { .. } => None,
        }
    }

    /// Its selectors with their fields.
    pub(super) fn selectors(&self) -> Vec<(String, &Selection<'_>)> {
        let Who::Pods { namespaces, pods } = &self.who else { return Vec::new() };
        let namespaces = namespaces.iter().map(|it| (format!("{}.namespaceSelector", self.field), it));
        namespaces.chain([(format!("{}.podSelector", self.field), pods)]).collect()
    }
}

impl<'a> Selection<'a> {
    fn read(written: Option<&'a LabelSelector>) -> Option<Self> {
        let selector = Selector::read(written, "").ok()?;
        Some(Selection { written, selector })
    }

    /// Two requirements that no label fulfils together, in words.
    pub(super) fn contradiction(&self) -> Option<String> {
        let all = self.selector.requirements();
        all.iter().enumerate().find_map(|(position, one)| {
            let rest = all.get(position + 1..).unwrap_or_default();
            rest.iter()
                .find(|other| contradict(one, other))
                .map(|other| format!("{} and {}", text(one), text(other)))
        })
    }
}

/// Whether no label set fulfils both.
fn contradict(one: &Requirement, other: &Requirement) -> bool {
    use Requirement::{DoesNotExist, Exists, In, NotIn};
    match (one, other) {
        (In(a, v), In(b, w)) => a == b && !v.iter().any(|value| w.contains(value)),
        (In(a, v), NotIn(b, w)) | (NotIn(b, w), In(a, v)) => {
            a == b && v.iter().all(|value| w.contains(value))
        }
        (In(a, _) | Exists(a), DoesNotExist(b)) | (DoesNotExist(b), In(a, _) | Exists(a)) => a == b,
        _ => false,
    }
}

/// A requirement in words.
pub(super) fn text(requirement: &Requirement) -> String {
    match requirement {
        Requirement::In(key, values) => match values.as_slice() {
            [value] => format!("{key}={value}"),
            values => format!("{key} in ({})", values.join(", ")),
        },
        Requirement::NotIn(key, values) => format!("{key} not in ({})", values.join(", ")),
        Requirement::Exists(key) => format!("{key} is there"),
        Requirement::DoesNotExist(key) => format!("{key} is not there"),
    }
}

/// A protocol as the API writes it.
pub(super) fn protocol_text(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "TCP",
        Protocol::Udp => "UDP",
        Protocol::Sctp => "SCTP",
    }
}
