//! The ClusterNetworkPolicy API (policy.networking.k8s.io/v1alpha2) as far as it is written in objects: `k8s-openapi` has
//! the built-in APIs alone. The fields are the API's; what may be in them, [`Objects::intent`](super::Objects::intent) checks.
//!
//! A field that must be there is an `Option` all the same: one that is missing is refused by its own path.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use k8s_openapi::{ClusterResourceScope, Metadata, Resource};
use serde::Deserialize;

/// A policy for the whole cluster, above or below all NetworkPolicies.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
pub struct ClusterNetworkPolicy {
    /// Name, resourceVersion, annotations.
    #[serde(default)]
    pub metadata: ObjectMeta,
    /// What it says.
    pub spec: Option<ClusterNetworkPolicySpec>,
}

/// What a policy says.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
pub struct ClusterNetworkPolicySpec {
    /// `Admin` or `Baseline`.
    pub tier: Option<String>,
    /// 0 to 1000; lower ones are asked first.
    pub priority: Option<i32>,
    /// The pods that it is for.
    pub subject: Option<Subject>,
    /// At most 25, in the order in which they are asked.
    pub ingress: Option<Vec<IngressRule>>,
    /// The same for egress.
    pub egress: Option<Vec<EgressRule>>,
}

/// Which pods a policy is for: one of the fields. hostNetwork pods are not among them.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
pub struct Subject {
    /// All pods of namespaces.
    pub namespaces: Option<LabelSelector>,
    /// Some pods of namespaces.
    pub pods: Option<NamespacedPod>,
}

/// Pods of namespaces.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NamespacedPod {
    /// Which namespaces; all where it is left out.
    pub namespace_selector: Option<LabelSelector>,
    /// Which pods of them.
    pub pod_selector: Option<LabelSelector>,
}

/// A rule about what comes to the subjects.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
pub struct IngressRule {
    /// For people, at most 100 characters.
    pub name: Option<String>,
    /// `Accept`, `Deny` or `Pass`.
    pub action: Option<String>,
    /// 1 to 25 peers.
    pub from: Option<Vec<IngressPeer>>,
    /// 1 to 25, or left out: every protocol.
    pub protocols: Option<Vec<ProtocolMatch>>,
}

/// A rule about what comes from the subjects.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
pub struct EgressRule {
    /// For people, at most 100 characters.
    pub name: Option<String>,
    /// `Accept`, `Deny` or `Pass`.
    pub action: Option<String>,
    /// 1 to 25 peers.
    pub to: Option<Vec<EgressPeer>>,
    /// 1 to 25, or left out: every protocol.
    pub protocols: Option<Vec<ProtocolMatch>>,
}

/// Who sends: one of the fields. hostNetwork pods are not among them.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
pub struct IngressPeer {
    /// All pods of namespaces.
    pub namespaces: Option<LabelSelector>,
    /// Some pods of namespaces.
    pub pods: Option<NamespacedPod>,
}

/// Who is sent to: one of the fields.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EgressPeer {
    /// All pods of namespaces, without hostNetwork pods.
    pub namespaces: Option<LabelSelector>,
    /// Some pods of namespaces, without hostNetwork pods.
    pub pods: Option<NamespacedPod>,
    /// Addresses of nodes; an experimental part of the API.
    pub nodes: Option<LabelSelector>,
    /// 1 to 25 prefixes, each once.
    pub networks: Option<Vec<String>>,
    /// An experimental part of the API that is not supported: read so that it can be refused by its name.
    pub domain_names: Option<Vec<String>>,
}

/// Which protocol and port: one of the fields.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProtocolMatch {
    /// RFC 9293.
    pub tcp: Option<PortsOf>,
    /// RFC 768.
    pub udp: Option<PortsOf>,
    /// RFC 9260.
    pub sctp: Option<PortsOf>,
    /// A container port of the destination pod by its name, whatever its protocol; an experimental part of the API.
    pub destination_named_port: Option<String>,
}

/// Ports of one protocol.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PortsOf {
    /// Which; must be there.
    pub destination_port: Option<Port>,
}

/// One port or a range: one of the fields.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
pub struct Port {
    /// 1 to 65535.
    pub number: Option<i32>,
    /// More than one.
    pub range: Option<PortRange>,
}

/// Ports from the first to the last, both included.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
pub struct PortRange {
    /// 1 to 65535.
    pub start: Option<i32>,
    /// More than `start`.
    pub end: Option<i32>,
}

impl Resource for ClusterNetworkPolicy {
    const API_VERSION: &'static str = "policy.networking.k8s.io/v1alpha2";
    const GROUP: &'static str = "policy.networking.k8s.io";
    const KIND: &'static str = "ClusterNetworkPolicy";
    const VERSION: &'static str = "v1alpha2";
    const URL_PATH_SEGMENT: &'static str = "clusternetworkpolicies";
    type Scope = ClusterResourceScope;
}

impl Metadata for ClusterNetworkPolicy {
    type Ty = ObjectMeta;

    fn metadata(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn metadata_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}
