//! [`Intent`]: the whole wanted state of one node, free of Kubernetes types and of transport; [`Update`](update::Update): a part of it
//! that changes.
//!
//! The agent derives it from Kubernetes objects; one `Apply` carries one; [`Tables`](crate::tables::Tables) are
//! compiled from it. Every part names the object it came from, so that each verdict and each refusal can too.

pub mod update;

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// IP protocol numbers that Kubernetes knows (IANA "Assigned Internet Protocol Numbers").
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
#[repr(u8)]
pub enum Protocol {
    /// RFC 9293.
    Tcp = 6,
    /// RFC 768.
    Udp = 17,
    /// RFC 9260. Matched for policy, passed without NAT.
    Sctp = 132,
}

/// The name of an IP protocol number in lower case: those that policies know, and ICMP of both families.
pub fn protocol_name(number: u8) -> Option<&'static str> {
    Some(match number {
        1 => "icmp",
        6 => "tcp",
        17 => "udp",
        58 => "icmpv6",
        132 => "sctp",
        _ => return None,
    })
}

/// A namespaced (or, with an empty namespace, cluster-wide) object. Prints as `namespace/name`.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ObjectName {
    /// Empty for cluster-wide objects.
    pub namespace: String,
    /// The object's name.
    pub name: String,
}

impl ObjectName {
    /// `namespace/name`.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        ObjectName { namespace: namespace.into(), name: name.into() }
    }
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            f.write_str(&self.name)
        } else {
            write!(f, "{}/{}", self.namespace, self.name)
        }
    }
}

/// The whole wanted state of one node.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Intent {
    /// Name of the node this state is for; must be one of `nodes`.
    pub node: String,
    /// VXLAN network identifier of the pod network, 24 bits (RFC 7348, section 5).
    pub vni: u32,
    /// All nodes of the cluster, this one included.
    pub nodes: Vec<Node>,
    /// Equivalence classes of endpoints; `Endpoint::identity` and `Peers::identities` index into it.
    pub identities: Vec<Identity>,
    /// All pods (and virtual machines) of the cluster that have an address, hostNetwork pods included.
    pub endpoints: Vec<Endpoint>,
    /// Compiled-down policies.
    pub policies: Vec<Policy>,
    /// One entry a Service, Service port and address family.
    pub services: Vec<Service>,
    /// Address ranges out of which Services take their cluster addresses, where known: an address in them that
    /// is no Service is unreachable, not external.
    pub service_ranges: Vec<IpNet>,
}

/// A node of the cluster.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Node {
    /// Name of the Node object.
    pub name: String,
    /// Its addresses (InternalIP first); the first of a family is its tunnel endpoint in that family.
    pub addresses: Vec<IpAddr>,
    /// What its pods' addresses are taken from.
    pub pod_cidrs: Vec<IpNet>,
    /// Label `topology.kubernetes.io/zone`; empty where there is none.
    pub zone: String,
}

/// An equivalence class of endpoints: all policies treat its members alike (apart from their addresses' ipBlocks).
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Identity {
    /// The namespace's name where all members share it, else empty.
    pub namespace: String,
    /// For people: the labels that distinguish the class, as `key=value`, sorted.
    pub labels: Vec<String>,
    /// Container ports by name, as policies refer to them: (name, protocol, number). Equal for all members.
    pub named_ports: Vec<(String, Protocol, u16)>,
}

/// A pod or virtual machine with an address.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Endpoint {
    /// The pod.
    pub name: ObjectName,
    /// The node it runs on; empty where that is not known: policy holds, nothing reaches it.
    pub node: String,
    /// Its addresses, one a family at most; for hostNetwork pods the node's.
    pub addresses: Vec<IpAddr>,
    /// True for `hostNetwork` pods: they are the node, to policy and routing.
    pub host_network: bool,
    /// Index into `Intent::identities`.
    pub identity: u32,
}

/// Which API a policy came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum PolicyKind {
    /// networking.k8s.io/v1 NetworkPolicy.
    NetworkPolicy,
    /// policy.networking.k8s.io/v1alpha2 ClusterNetworkPolicy.
    ClusterNetworkPolicy,
}

impl fmt::Display for PolicyKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            PolicyKind::NetworkPolicy => "NetworkPolicy",
            PolicyKind::ClusterNetworkPolicy => "ClusterNetworkPolicy",
        })
    }
}

/// Highest number of a ClusterNetworkPolicy's `spec.priority`.
pub const MAX_PRIORITY: u16 = 1000;

/// When a policy is asked. The order of the values is the order of asking: tier by tier, lower priority numbers first.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Tier {
    /// ClusterNetworkPolicy with `tier: Admin` and that priority, 0 to [`MAX_PRIORITY`].
    Admin(u16),
    /// NetworkPolicy: those that isolate an endpoint are asked together.
    #[default]
    NetworkPolicy,
    /// ClusterNetworkPolicy with `tier: Baseline` and that priority, 0 to [`MAX_PRIORITY`]. Asked only of endpoints that no
    /// NetworkPolicy isolates.
    Baseline(u16),
}

impl Tier {
    /// The API whose policies stand there.
    pub fn kind(self) -> PolicyKind {
        match self {
            Tier::NetworkPolicy => PolicyKind::NetworkPolicy,
            Tier::Admin(_) | Tier::Baseline(_) => PolicyKind::ClusterNetworkPolicy,
        }
    }
}

/// What happens to a live flow that policy does not allow any more: annotation `penstock.io/revocation` of the policy
/// that says so. Ordered from the mildest to the strictest.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Revocation {
    /// It goes on until it ends by itself; only new flows are denied.
    Keep,
    /// Its packets are dropped, silently.
    #[default]
    Drop,
    /// As `Drop`, and both ends of a TCP connection are sent a reset.
    Reset,
}

impl fmt::Display for Revocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Revocation::Keep => "keep",
            Revocation::Drop => "drop",
            Revocation::Reset => "reset",
        })
    }
}

/// One policy object with its selectors resolved to identities.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Policy {
    /// When it is asked, and which API it came from.
    pub tier: Tier,
    /// The object.
    pub name: ObjectName,
    /// The object's resourceVersion; empty where it came from a file.
    pub resource_version: String,
    /// What happens to live flows that it does not allow any more.
    pub revocation: Revocation,
    /// The identities it selects, sorted, indices into `Intent::identities`.
    pub subjects: Vec<u32>,
    /// `None`: it says nothing of ingress. `Some`, of a NetworkPolicy: the subjects are isolated for ingress, and only these
    /// rules allow. Of a ClusterNetworkPolicy: the rules in the order in which they are asked; they isolate nobody.
    pub ingress: Option<Vec<Rule>>,
    /// The same for egress.
    pub egress: Option<Vec<Rule>>,
}

impl Policy {
    /// Which API it came from.
    pub fn kind(&self) -> PolicyKind {
        self.tier.kind()
    }
}

/// What a rule does with what it matches.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Action {
    /// Allows it: the only action of NetworkPolicy.
    #[default]
    Accept,
    /// Denies it.
    Deny,
    /// Leaves it to the next tier: no further rule of this one is asked.
    Pass,
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Action::Accept => "Accept",
            Action::Deny => "Deny",
            Action::Pass => "Pass",
        })
    }
}

/// One element of `spec.ingress` or `spec.egress`: about what comes from any of the peers to any of the ports.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Rule {
    /// Index of the rule in the object's list.
    pub index: u32,
    /// The rule's name; empty where it has none, as in every NetworkPolicy.
    pub name: String,
    /// What it does.
    pub action: Action,
    /// Of a ClusterNetworkPolicy: its peers are, among others, pods by their labels. A pod of which nothing is known yet may be
    /// one of them.
    pub selects_pods: bool,
    /// `None`: everyone (absent or empty `from`/`to`).
    pub peers: Option<Peers>,
    /// `None`: every protocol and port (absent or empty `ports`).
    pub ports: Option<Vec<PortMatch>>,
}

/// Who a rule is about: the union of both lists.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Peers {
    /// Identities that the pod and namespace selectors select, sorted.
    pub identities: Vec<u32>,
    /// Address blocks.
    pub blocks: Vec<IpBlock>,
}

/// `ipBlock`: a prefix without some of its parts.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct IpBlock {
    /// The prefix.
    pub cidr: IpNet,
    /// Parts of it that are not meant.
    pub except: Vec<IpNet>,
}

/// What a rule says of the destination's protocol and port.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PortMatch {
    /// The protocol (TCP where the object leaves it out).
    pub protocol: Protocol,
    /// Which ports of it.
    pub port: PortSelector,
}

/// Which ports.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum PortSelector {
    /// Every port of the protocol.
    Any,
    /// From the first to the last, both included (`port` and `endPort`, or one port).
    Range(u16, u16),
    /// A container port of the destination pod by its name.
    Named(String),
}

/// How far a traffic policy lets backends be from the node.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum TrafficPolicy {
    /// Any ready backend of the cluster.
    #[default]
    Cluster,
    /// Only backends on this node.
    Local,
}

/// One port of one Service in one address family.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Service {
    /// The Service object.
    pub name: ObjectName,
    /// Name of the Service port; empty where there is one without a name.
    pub port_name: String,
    /// Its protocol.
    pub protocol: Option<Protocol>,
    /// Where clients reach it.
    pub frontends: Vec<Frontend>,
    /// `spec.internalTrafficPolicy`: holds for cluster addresses.
    pub internal_policy: TrafficPolicy,
    /// `spec.externalTrafficPolicy`: holds for node ports, external and load-balancer addresses.
    pub external_policy: TrafficPolicy,
    /// `spec.sessionAffinity: ClientIP` with its timeout in seconds.
    pub affinity_seconds: Option<u32>,
    /// `spec.loadBalancerSourceRanges`: who may use the load-balancer addresses; empty for everyone.
    pub source_ranges: Vec<IpNet>,
    /// Every endpoint of its EndpointSlices, ready or not, in the slices' order without duplicates.
    pub backends: Vec<Backend>,
}

/// What sort of address a frontend is: it decides which traffic policy holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum FrontendKind {
    /// `spec.clusterIPs`.
    ClusterIp,
    /// `spec.ports[].nodePort` on the addresses of every node; `Frontend::address` is `None`.
    NodePort,
    /// `spec.externalIPs`.
    ExternalIp,
    /// `status.loadBalancer.ingress[].ip`.
    LoadBalancer,
}

/// One address and port at which a Service is reached.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Frontend {
    /// What sort it is.
    pub kind: FrontendKind,
    /// The address; `None` for node ports: then it is every address of the node in question, in `family` of the service.
    pub address: Option<IpAddr>,
    /// The port clients connect to.
    pub port: u16,
    /// True for IPv6, also where `address` is `None`.
    pub ipv6: bool,
}

/// One endpoint of a Service.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Backend {
    /// Its address.
    pub address: IpAddr,
    /// Its port (from the EndpointSlice).
    pub port: u16,
    /// The node it is on; empty where unknown.
    pub node: String,
    /// Takes new connections.
    pub ready: bool,
    /// Able to serve, though perhaps terminating.
    pub serving: bool,
    /// On its way out.
    pub terminating: bool,
    /// `hints.forZones`.
    pub zone_hints: Vec<String>,
    /// `hints.forNodes`.
    pub node_hints: Vec<String>,
    /// Relative share of new connections; 1 by default, never 0.
    pub weight: u32,
}
