//! Kubernetes objects to [`Intent`]: reads, checks and resolves them; the first impossible field refuses the whole.
//!
//! ```text
//!   Objects ──► nodes, endpoints ──► selectors ──► identities ──► policies ──┐
//!      └──────► services and their EndpointSlices ───────────────────────────┴──► Intent, warnings
//! ```
//!
//! * `address`: addresses, prefixes and names as the Kubernetes API writes them.
//! * `selectors`: label selectors, checked, and the combinations of them that policies really use.
//! * `identities`: endpoints grouped by what those combinations can tell apart.
//! * [`cluster_policy`]: the types of ClusterNetworkPolicy.
//! * `policies`: NetworkPolicy v1 in full, and ClusterNetworkPolicy.
//! * `services`: Services with their EndpointSlices.
//!
//! An *error* is what no cluster could mean (a bad prefix, a selector that the API server refuses, two pods with one
//! address). A *warning* is what can be carried on with (a namespace or node that is not there yet). Pure: neither a
//! client nor a watch lives here; the agent fills [`Objects`].

mod address;
pub mod cluster_policy;
mod endpoints;
mod identities;
mod policies;
mod selectors;
pub mod services;

use std::collections::BTreeMap;
use std::fmt;

use ipnet::IpNet;
use k8s_openapi::api::core::v1::{Namespace, Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use serde::Serialize;

use self::cluster_policy::ClusterNetworkPolicy;
use crate::intent::{Intent, ObjectName};

/// VXLAN network identifier of the pod network where nothing else is configured.
pub const DEFAULT_VNI: u32 = 4096;

/// The label that the API server sets on every namespace: its name.
pub(crate) const NAMESPACE_NAME_LABEL: &str = "kubernetes.io/metadata.name";

/// The objects of a cluster that Penstock uses. Nodes, namespaces and cluster policies have an empty [`ObjectName::namespace`].
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Objects {
    /// core/v1 Node.
    pub nodes: BTreeMap<ObjectName, Node>,
    /// core/v1 Namespace.
    pub namespaces: BTreeMap<ObjectName, Namespace>,
    /// core/v1 Pod.
    pub pods: BTreeMap<ObjectName, Pod>,
    /// core/v1 Service.
    pub services: BTreeMap<ObjectName, Service>,
    /// discovery.k8s.io/v1 EndpointSlice.
    pub endpoint_slices: BTreeMap<ObjectName, EndpointSlice>,
    /// networking.k8s.io/v1 NetworkPolicy.
    pub network_policies: BTreeMap<ObjectName, NetworkPolicy>,
    /// policy.networking.k8s.io/v1alpha2 ClusterNetworkPolicy.
    pub cluster_network_policies: BTreeMap<ObjectName, ClusterNetworkPolicy>,
}

/// What objects do not say about the cluster.
#[derive(Debug, Clone, PartialEq)]
pub struct IntentOptions {
    /// VXLAN network identifier of the pod network, 24 bits (RFC 7348, section 5).
    pub vni: u32,
    /// `--service-cluster-ip-range` of the API server, where known.
    pub service_ranges: Vec<IpNet>,
}

impl Default for IntentOptions {
    fn default() -> Self {
        IntentOptions { vni: DEFAULT_VNI, service_ranges: Vec::new() }
    }
}

/// A field of an object that cannot be. Prints as `NetworkPolicy db/mongo: spec.ingress[0].from[1].ipBlock.cidr: …`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{object}: {field}: {problem}")]
pub struct ObjectError {
    /// Kind and name, such as `NetworkPolicy db/mongo`.
    pub object: String,
    /// Path of the field within the object.
    pub field: String,
    /// What is wrong with it, the value included.
    pub problem: String,
}

impl ObjectError {
    /// An error at `field` of the object of `kind` called `name`.
    pub fn new(kind: &str, name: &ObjectName, field: impl Into<String>, problem: impl Into<String>) -> Self {
        ObjectError { object: format!("{kind} {name}"), field: field.into(), problem: problem.into() }
    }
}

/// Something odd that could be carried on with.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Warning {
    /// Kind and name, such as `Pod shop/web-1`; with the file in front where it came from one.
    pub object: String,
    /// What is odd, and what was done about it.
    pub problem: String,
}

impl Warning {
    /// A warning about the object of `kind` called `name`.
    pub fn new(kind: &str, name: &ObjectName, problem: impl Into<String>) -> Self {
        Warning { object: format!("{kind} {name}"), problem: problem.into() }
    }
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.object, self.problem)
    }
}

impl Objects {
    /// The wanted state of the node called `node`, with the default options.
    ///
    /// # Errors
    /// See [`Objects::intent_with`].
    pub fn intent(&self, node: &str) -> Result<(Intent, Vec<Warning>), ObjectError> {
        self.intent_with(node, &IntentOptions::default())
    }

    /// The wanted state of the node called `node`. An empty name makes an intent that is nobody's: its policies
    /// compile and can be judged, its routes cannot.
    ///
    /// # Errors
    /// [`ObjectError`] naming object and field, for what the API server would refuse, for addresses that two pods or
    /// two nodes claim, and for a node that is not there.
    pub fn intent_with(
        &self,
        node: &str,
        options: &IntentOptions,
    ) -> Result<(Intent, Vec<Warning>), ObjectError> {
        let mut warnings = Vec::new();
        let nodes = endpoints::nodes(self, &mut warnings)?;
        if !node.is_empty() && !nodes.iter().any(|known| known.name == node) {
            let name = ObjectName::new("", node);
            return Err(ObjectError::new("Node", &name, "metadata.name", "there is no such Node object"));
        }
        let pods = endpoints::pods(self, &nodes, &mut warnings)?;
        let policies = policies::read(self, &nodes, &mut warnings)?;
        let classes = identities::classify(self, &pods, &policies, &mut warnings)?;
        let services = services::services(self, &mut warnings)?;
        let intent = Intent {
            node: node.to_owned(),
            vni: options.vni,
            nodes,
            endpoints: endpoints::with_identities(&pods, &classes.of_pod),
            policies: policies::resolve(&policies, &classes.members),
            identities: classes.identities,
            services,
            service_ranges: options.service_ranges.clone(),
        };
        Ok((intent, warnings))
    }
}
