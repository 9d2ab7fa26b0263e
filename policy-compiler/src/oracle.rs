//! The slow twin of [`PolicyTable`](crate::policy::PolicyTable): judges flows on the Kubernetes objects themselves, one
//! after the other, in the order in which the documentation of NetworkPolicy and ClusterNetworkPolicy words it.
//!
//! It shares no code with the compiler (selectors, prefixes, ports, identities) and takes no short cut; it is for tests
//! and for answering doubts, not for packets. It takes the objects to be valid, as
//! [`Objects::intent`](crate::objects::Objects::intent) has found them: what does not parse matches nothing.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::api::networking::v1::{
    IPBlock, NetworkPolicy, NetworkPolicyPeer, NetworkPolicyPort, NetworkPolicySpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::intent::{ObjectName, PolicyKind};
use crate::objects::Objects;
use crate::objects::cluster_policy::{
    EgressPeer, EgressRule, IngressPeer, IngressRule, NamespacedPod, Port, PortsOf, ProtocolMatch, Subject,
};

/// Judges by reading the objects.
#[derive(Debug, Clone, Copy)]
pub struct Oracle<'a> {
    objects: &'a Objects,
}

/// What the objects say of a flow in one direction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Whether it may pass.
    pub allowed: bool,
    /// Why.
    pub reason: Reason,
}

/// Why a flow may pass, or not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    /// Nothing says otherwise.
    Default,
    /// NetworkPolicies isolate the pod and no rule of theirs allows it.
    Isolated,
    /// A rule: the first of a ClusterNetworkPolicy that matches and does not pass or, of the NetworkPolicies that allow,
    /// the first by name.
    Rule {
        /// Which API.
        kind: PolicyKind,
        /// The policy.
        policy: ObjectName,
        /// Index in its list.
        index: usize,
    },
}

impl Finding {
    const DEFAULT: Finding = Finding { allowed: true, reason: Reason::Default };
}

impl<'a> Oracle<'a> {
    /// For `objects`.
    pub fn new(objects: &'a Objects) -> Self {
        Oracle { objects }
    }

    /// Whether the policies of the source allow the flow, and whether those of the destination do.
    /// `protocol` is the IP protocol number, `port` the destination's.
    pub fn judge(&self, src: IpAddr, dst: IpAddr, protocol: u8, port: u16) -> (bool, bool) {
        let (egress, ingress) = self.findings(src, dst, protocol, port, false);
        (egress.allowed, ingress.allowed)
    }

    /// The same with reasons. `by_service`: a Service has chosen the destination.
    pub fn findings(
        &self,
        src: IpAddr,
        dst: IpAddr,
        protocol: u8,
        port: u16,
        by_service: bool,
    ) -> (Finding, Finding) {
        let from = self.pod_at(src);
        let to = self.pod_at(dst);
        let to_itself = matches!((from, to), (Some((from, _)), Some((to, _))) if from == to);
        // "A Pod connecting to its own Pod IP is not subject to CNP. A Pod connecting to a Service IP that the service
        // proxy load-balances back to the same Pod is subject to ClusterNetworkPolicy."
        if to_itself && !by_service {
            return (Finding::DEFAULT, Finding::DEFAULT);
        }
        let to_own_node = from.is_some_and(|(_, pod)| to.is_none() && self.is_node_of(dst, pod));
        let from_own_node = to.is_some_and(|(_, pod)| from.is_none() && self.is_node_of(src, pod));
        // Of NetworkPolicy: "A Pod cannot block access to itself", and "traffic to and from the node where a Pod is running
        // is always allowed".
        let unisolated = to_itself || to_own_node || from_own_node;
        let packet = Packet { protocol, port, destination: to.map(|(_, pod)| pod) };
        let finding = |pod: Option<(&ObjectName, &Pod)>, ingress, peer| {
            let subject = pod.map(|(name, pod)| Side { name, pod, ingress, peer, unisolated });
            subject.map_or(Finding::DEFAULT, |side| self.tiers(&side, &packet))
        };
        (finding(from, false, dst), finding(to, true, src))
    }

    /// "Policy tiers are evaluated in the following order: Admin tier, NetworkPolicy tier, Baseline tier. If a given
    /// connection wasn't allowed or denied by any of the tiers, the default kubernetes policy is applied, which says that
    /// all pods can communicate with each other."
    fn tiers(&self, side: &Side<'_>, packet: &Packet<'_>) -> Finding {
        let admin = self.cluster_tier("Admin", side, packet);
        let network_policy = || self.network_policies(side, packet);
        let baseline = || self.cluster_tier("Baseline", side, packet);
        admin.or_else(network_policy).or_else(baseline).unwrap_or(Finding::DEFAULT)
    }

    /// "Policies with lower priority values have higher precedence. A rule that appears at the top would take the highest
    /// precedence." Of equal priorities the API leaves open which is first; here it is the name.
    fn cluster_tier(&self, tier: &str, side: &Side<'_>, packet: &Packet<'_>) -> Option<Finding> {
        let mut policies: Vec<_> = self.objects.cluster_network_policies.iter().collect();
        policies.sort_by_key(|(name, policy)| {
            (policy.spec.clone().unwrap_or_default().priority, (*name).clone())
        });
        for (name, policy) in policies {
            let spec = policy.spec.clone().unwrap_or_default();
            if spec.tier.as_deref() != Some(tier) || !self.is_subject(&spec.subject.unwrap_or_default(), side)
            {
                continue;
            }
            let rules: Vec<(Option<String>, bool)> = if side.ingress {
                let matches = |rule: &IngressRule| {
                    let from = rule.from.iter().flatten();
                    from.clone().any(|peer| self.is_ingress_peer(peer, side.peer))
                        && protocols_match(rule.protocols.as_deref(), packet)
                };
                spec.ingress.iter().flatten().map(|rule| (rule.action.clone(), matches(rule))).collect()
            } else {
                let matches = |rule: &EgressRule| {
                    rule.to.iter().flatten().any(|peer| self.is_egress_peer(peer, side.peer))
                        && protocols_match(rule.protocols.as_deref(), packet)
                };
                spec.egress.iter().flatten().map(|rule| (rule.action.clone(), matches(rule))).collect()
            };
            let Some(index) = rules.iter().position(|(_, matches)| *matches) else { continue };
            let kind = PolicyKind::ClusterNetworkPolicy;
            let reason = Reason::Rule { kind, policy: name.clone(), index };
            return match rules[index].0.as_deref() {
                Some("Accept") => Some(Finding { allowed: true, reason }),
                Some("Deny") => Some(Finding { allowed: false, reason }),
                // "Pass: skips all further rules in the current tier, and passes evaluation to the next tier."
                _ => None,
            };
        }
        None
    }

    /// "v1.NetworkPolicy always makes a final decision for selected pods." And: "By default, a pod is non-isolated. It is
    /// isolated if there is any NetworkPolicy that both selects the pod and has the direction in its policyTypes; then the
    /// only allowed connections are those allowed by some rule of such a policy. The effects are additive."
    fn network_policies(&self, side: &Side<'_>, packet: &Packet<'_>) -> Option<Finding> {
        let mut isolated = false;
        let mut allowed = None;
        for (name, policy) in &self.objects.network_policies {
            let Some(spec) = spec_for(policy, side.ingress) else { continue };
            if name.namespace != side.name.namespace
                || !selects(spec.pod_selector.as_ref(), &pod_labels(side.pod))
            {
                continue;
            }
            isolated = true;
            let index = if side.ingress {
                spec.ingress.iter().flatten().position(|rule| {
                    self.peers_match(name, rule.from.as_deref(), side.peer)
                        && ports_match(rule.ports.as_deref(), packet)
                })
            } else {
                spec.egress.iter().flatten().position(|rule| {
                    self.peers_match(name, rule.to.as_deref(), side.peer)
                        && ports_match(rule.ports.as_deref(), packet)
                })
            };
            if let Some(index) = index.filter(|_| allowed.is_none()) {
                let (kind, policy) = (PolicyKind::NetworkPolicy, name.clone());
                allowed = Some(Finding { allowed: true, reason: Reason::Rule { kind, policy, index } });
            }
        }
        let denied = || match side.unisolated {
            true => Finding::DEFAULT,
            false => Finding { allowed: false, reason: Reason::Isolated },
        };
        isolated.then(|| allowed.unwrap_or_else(denied))
    }

    /// "Note that host-networked pods are not included in subject selection."
    fn is_subject(&self, subject: &Subject, side: &Side<'_>) -> bool {
        match subject {
            Subject { namespaces: Some(namespaces), .. } => {
                selects(Some(namespaces), &self.namespace_labels(&side.name.namespace))
            }
            Subject { pods: Some(pods), .. } => self.is_among(pods, side.name, side.pod),
            _ => false,
        }
    }

    fn is_ingress_peer(&self, peer: &IngressPeer, address: IpAddr) -> bool {
        let IngressPeer { namespaces, pods } = peer.clone();
        self.is_egress_peer(&EgressPeer { namespaces, pods, ..EgressPeer::default() }, address)
    }

    fn is_egress_peer(&self, peer: &EgressPeer, address: IpAddr) -> bool {
        match peer {
            EgressPeer { namespaces: Some(namespaces), .. } => self
                .pod_at(address)
                .is_some_and(|(name, _)| selects(Some(namespaces), &self.namespace_labels(&name.namespace))),
            EgressPeer { pods: Some(pods), .. } => {
                self.pod_at(address).is_some_and(|(name, pod)| self.is_among(pods, name, pod))
            }
            // "It selects the nodeIPs by matching on the IPs present in the node.Status.Addresses field."
            EgressPeer { nodes: Some(nodes), .. } => self.objects.nodes.values().any(|node| {
                selects(Some(nodes), &node.metadata.labels.clone().unwrap_or_default())
                    && node_addresses(node).contains(&address)
            }),
            // "Cluster-internal traffic will be checked against the rule as well."
            EgressPeer { networks: Some(networks), .. } => networks
                .iter()
                .any(|text| text.parse::<IpNet>().is_ok_and(|prefix| prefix.contains(&address))),
            _ => false,
        }
    }

    fn is_among(&self, pods: &NamespacedPod, name: &ObjectName, pod: &Pod) -> bool {
        selects(pods.namespace_selector.as_ref(), &self.namespace_labels(&name.namespace))
            && selects(pods.pod_selector.as_ref(), &pod_labels(pod))
    }

    /// "If this field is empty or missing, this rule matches all sources (destinations)."
    fn peers_match(&self, policy: &ObjectName, peers: Option<&[NetworkPolicyPeer]>, address: IpAddr) -> bool {
        let peers = peers.unwrap_or_default();
        peers.is_empty() || peers.iter().any(|peer| self.peer_matches(policy, peer, address))
    }

    fn peer_matches(&self, policy: &ObjectName, peer: &NetworkPolicyPeer, address: IpAddr) -> bool {
        if let Some(block) = &peer.ip_block {
            return block_contains(block, address);
        }
        let Some((name, pod)) = self.pod_at(address) else { return false };
        let namespace_matches = match &peer.namespace_selector {
            Some(selector) => selects(Some(selector), &self.namespace_labels(&name.namespace)),
            None => name.namespace == policy.namespace,
        };
        namespace_matches && selects(peer.pod_selector.as_ref(), &pod_labels(pod))
    }

    /// The running pod with that address; hostNetwork pods are their node.
    fn pod_at(&self, address: IpAddr) -> Option<(&'a ObjectName, &'a Pod)> {
        let mut pods = self.objects.pods.iter();
        pods.find(|(_, pod)| {
            is_running(pod) && !is_host_network(pod) && pod_addresses(pod).contains(&address)
        })
    }

    /// Whether the address is of the node where the pod runs, or of a hostNetwork pod there.
    fn is_node_of(&self, address: IpAddr, pod: &Pod) -> bool {
        let Some(node) = node_name(pod) else { return false };
        let Some(object) = self.objects.nodes.get(&ObjectName::new("", node)) else { return false };
        let is_mate = |mate: &Pod| is_running(mate) && is_host_network(mate) && node_name(mate) == Some(node);
        let mut mates = self.objects.pods.values().filter(|mate| is_mate(mate));
        node_addresses(object).contains(&address) || mates.any(|mate| pod_addresses(mate).contains(&address))
    }

    fn namespace_labels(&self, namespace: &str) -> BTreeMap<String, String> {
        let object = self.objects.namespaces.get(&ObjectName::new("", namespace));
        let mut labels = object.and_then(|object| object.metadata.labels.clone()).unwrap_or_default();
        labels.insert("kubernetes.io/metadata.name".to_owned(), namespace.to_owned());
        labels
    }
}

/// A pod whose policies are asked, and who is at the other end.
struct Side<'a> {
    name: &'a ObjectName,
    pod: &'a Pod,
    ingress: bool,
    peer: IpAddr,
    /// That NetworkPolicies isolate the pod does not hold for this peer.
    unisolated: bool,
}

struct Packet<'a> {
    protocol: u8,
    port: u16,
    destination: Option<&'a Pod>,
}

/// The policy's spec if it isolates in the direction. "If policyTypes is not specified, Ingress will always be set and
/// Egress will be set if the NetworkPolicy has any egress rules."
fn spec_for(policy: &NetworkPolicy, ingress: bool) -> Option<NetworkPolicySpec> {
    let spec = policy.spec.clone().unwrap_or_default();
    let types = spec.policy_types.clone().unwrap_or_default();
    let isolates = match (types.is_empty(), ingress) {
        (true, true) => true,
        (true, false) => !spec.egress.clone().unwrap_or_default().is_empty(),
        (false, true) => types.contains(&"Ingress".to_owned()),
        (false, false) => types.contains(&"Egress".to_owned()),
    };
    isolates.then_some(spec)
}

/// "An empty label selector matches all objects."
fn selects(selector: Option<&LabelSelector>, labels: &BTreeMap<String, String>) -> bool {
    let Some(selector) = selector else { return true };
    let pairs = selector.match_labels.clone().unwrap_or_default();
    let expressions = selector.match_expressions.clone().unwrap_or_default();
    pairs.iter().all(|(key, value)| labels.get(key) == Some(value))
        && expressions.iter().all(|expression| {
            let values = expression.values.clone().unwrap_or_default();
            let label = labels.get(&expression.key);
            match expression.operator.as_str() {
                "In" => label.is_some_and(|label| values.contains(label)),
                "NotIn" => !label.is_some_and(|label| values.contains(label)),
                "Exists" => label.is_some(),
                "DoesNotExist" => label.is_none(),
                _ => false,
            }
        })
}

fn block_contains(block: &IPBlock, address: IpAddr) -> bool {
    let within = |text: &str| text.parse::<IpNet>().is_ok_and(|prefix| prefix.contains(&address));
    within(&block.cidr) && !block.except.iter().flatten().any(|part| within(part))
}

/// "If this field is empty or missing, this rule matches all ports."
fn ports_match(ports: Option<&[NetworkPolicyPort]>, packet: &Packet<'_>) -> bool {
    let ports = ports.unwrap_or_default();
    ports.is_empty() || ports.iter().any(|port| port_matches(port, packet))
}

fn port_matches(port: &NetworkPolicyPort, packet: &Packet<'_>) -> bool {
    let wanted = port.protocol.as_deref().unwrap_or("TCP");
    if protocol_number(wanted) != Some(packet.protocol) {
        return false;
    }
    match &port.port {
        None => true,
        Some(IntOrString::Int(first)) => {
            (*first..=port.end_port.unwrap_or(*first)).contains(&i32::from(packet.port))
        }
        Some(IntOrString::String(name)) => packet.destination.is_some_and(|pod| {
            container_ports(pod).iter().any(|(known, protocol, number)| {
                known == name && protocol == wanted && *number == i32::from(packet.port)
            })
        }),
    }
}

/// "If unspecified, protocol-specific attributes will not be used to match traffic."
fn protocols_match(protocols: Option<&[ProtocolMatch]>, packet: &Packet<'_>) -> bool {
    let Some(protocols) = protocols else { return true };
    protocols.iter().any(|wanted| {
        let of = |number: u8, ports: &Option<PortsOf>| {
            let port = ports.as_ref().and_then(|ports| ports.destination_port.as_ref());
            packet.protocol == number && port.is_some_and(|port| is_port(port, packet.port))
        };
        let named = |name: &String| {
            packet.destination.is_some_and(|pod| {
                container_ports(pod).iter().any(|(known, protocol, number)| {
                    known == name
                        && protocol_number(protocol) == Some(packet.protocol)
                        && *number == i32::from(packet.port)
                })
            })
        };
        of(6, &wanted.tcp)
            || of(17, &wanted.udp)
            || of(132, &wanted.sctp)
            || wanted.destination_named_port.as_ref().is_some_and(named)
    })
}

fn is_port(wanted: &Port, port: u16) -> bool {
    let port = i32::from(port);
    let range = wanted.range.clone().unwrap_or_default();
    let within = range.start.is_some_and(|first| first <= port) && range.end.is_some_and(|last| port <= last);
    wanted.number == Some(port) || within
}

fn protocol_number(name: &str) -> Option<u8> {
    match name {
        "TCP" => Some(6),
        "UDP" => Some(17),
        "SCTP" => Some(132),
        _ => None,
    }
}

fn container_ports(pod: &Pod) -> Vec<(String, String, i32)> {
    let Some(spec) = &pod.spec else { return Vec::new() };
    let sidecars =
        spec.init_containers.iter().flatten().filter(|c| c.restart_policy.as_deref() == Some("Always"));
    let ports = spec.containers.iter().chain(sidecars).flat_map(|container| container.ports.iter().flatten());
    let named = ports.filter_map(|port| {
        let protocol = port.protocol.clone().unwrap_or_else(|| "TCP".to_owned());
        Some((port.name.clone()?, protocol, port.container_port))
    });
    named.collect()
}

fn pod_labels(pod: &Pod) -> BTreeMap<String, String> {
    pod.metadata.labels.clone().unwrap_or_default()
}

fn is_running(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    !matches!(phase, Some("Succeeded" | "Failed"))
}

fn is_host_network(pod: &Pod) -> bool {
    pod.spec.as_ref().and_then(|spec| spec.host_network).unwrap_or(false)
}

fn node_name(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref()?.node_name.as_deref()
}

fn pod_addresses(pod: &Pod) -> Vec<IpAddr> {
    let Some(status) = &pod.status else { return Vec::new() };
    let many: Vec<&String> = status.pod_ips.iter().flatten().map(|ip| &ip.ip).collect();
    let texts = if many.is_empty() { status.pod_ip.iter().collect() } else { many };
    texts.iter().filter_map(|text| text.parse().ok()).collect()
}

fn node_addresses(node: &Node) -> Vec<IpAddr> {
    let listed = node.status.iter().flat_map(|status| status.addresses.iter().flatten());
    let real = listed.filter(|entry| entry.type_ == "InternalIP" || entry.type_ == "ExternalIP");
    real.filter_map(|entry| entry.address.parse().ok()).collect()
}
