//! The slow twin of [`PolicyTable`](crate::policy::PolicyTable): judges flows on the Kubernetes objects themselves, one
//! after the other, in the order in which the NetworkPolicy API documentation words it.
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

use crate::intent::ObjectName;
use crate::objects::Objects;

/// Judges by reading the objects.
#[derive(Debug, Clone, Copy)]
pub struct Oracle<'a> {
    objects: &'a Objects,
}

impl<'a> Oracle<'a> {
    /// For `objects`.
    pub fn new(objects: &'a Objects) -> Self {
        Oracle { objects }
    }

    /// Whether the policies of the source allow the flow, and whether those of the destination do.
    /// `protocol` is the IP protocol number, `port` the destination's.
    pub fn judge(&self, src: IpAddr, dst: IpAddr, protocol: u8, port: u16) -> (bool, bool) {
        let from = self.pod_at(src);
        let to = self.pod_at(dst);
        // "A Pod cannot block access to itself."
        if let (Some((from, _)), Some((to, _))) = (from, to)
            && from == to
        {
            return (true, true);
        }
        // "Traffic to and from the node where a Pod is running is always allowed."
        let to_own_node = from.is_some_and(|(_, pod)| to.is_none() && self.is_node_of(dst, pod));
        let from_own_node = to.is_some_and(|(_, pod)| from.is_none() && self.is_node_of(src, pod));
        if to_own_node || from_own_node {
            return (true, true);
        }
        let packet = Packet { protocol, port, destination: to.map(|(_, pod)| pod) };
        let egress = from.is_none_or(|(name, pod)| self.allows(name, pod, false, dst, &packet));
        let ingress = to.is_none_or(|(name, pod)| self.allows(name, pod, true, src, &packet));
        (egress, ingress)
    }

    /// "By default, a pod is non-isolated. It is isolated if there is any NetworkPolicy that both selects the pod and
    /// has the direction in its policyTypes; then the only allowed connections are those allowed by some rule of such a
    /// policy. The effects are additive."
    fn allows(&self, name: &ObjectName, pod: &Pod, ingress: bool, peer: IpAddr, packet: &Packet<'_>) -> bool {
        let mut isolated = false;
        let mut allowed = false;
        for (policy_name, policy) in &self.objects.network_policies {
            let Some(spec) = spec_for(policy, ingress) else { continue };
            if policy_name.namespace != name.namespace
                || !selects(spec.pod_selector.as_ref(), &pod_labels(pod))
            {
                continue;
            }
            isolated = true;
            allowed |= if ingress {
                spec.ingress.iter().flatten().any(|rule| {
                    self.peers_match(policy_name, rule.from.as_deref(), peer)
                        && ports_match(rule.ports.as_deref(), packet)
                })
            } else {
                spec.egress.iter().flatten().any(|rule| {
                    self.peers_match(policy_name, rule.to.as_deref(), peer)
                        && ports_match(rule.ports.as_deref(), packet)
                })
            };
        }
        !isolated || allowed
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
