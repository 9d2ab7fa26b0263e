//! The state: [`Intent`] and its parts.

use ipnet::IpNet;
use policy_compiler::intent::{
    Backend, Endpoint, Frontend, FrontendKind, Identity, Intent, Node, ObjectName, Policy, Protocol, Service,
    TrafficPolicy,
};

use super::{
    FieldError, InField, address, address_bytes, list, optional_address, optional_address_bytes, port,
    required, unknown, unspecified,
};
use crate::proto;

impl From<Intent> for proto::Intent {
    fn from(intent: Intent) -> Self {
        proto::Intent {
            node: intent.node,
            vni: intent.vni,
            nodes: all(intent.nodes),
            identities: all(intent.identities),
            endpoints: all(intent.endpoints),
            policies: all(intent.policies),
            services: all(intent.services),
            service_ranges: all(intent.service_ranges),
        }
    }
}

impl TryFrom<proto::Intent> for Intent {
    type Error = FieldError;

    fn try_from(message: proto::Intent) -> Result<Self, FieldError> {
        Ok(Intent {
            node: message.node,
            vni: message.vni,
            nodes: list("nodes", message.nodes, Node::try_from)?,
            identities: list("identities", message.identities, Identity::try_from)?,
            endpoints: list("endpoints", message.endpoints, Endpoint::try_from)?,
            policies: list("policies", message.policies, Policy::try_from)?,
            services: list("services", message.services, Service::try_from)?,
            service_ranges: list("service_ranges", message.service_ranges, prefix)?,
        })
    }
}

/// Every item as its message.
pub(super) fn all<T, U: From<T>>(items: Vec<T>) -> Vec<U> {
    items.into_iter().map(U::from).collect()
}

impl From<IpNet> for proto::Prefix {
    fn from(prefix: IpNet) -> Self {
        proto::Prefix { address: address_bytes(prefix.addr()), length: prefix.prefix_len().into() }
    }
}

pub(super) fn prefix(message: proto::Prefix) -> Result<IpNet, FieldError> {
    let address = address(message.address).in_field("address")?;
    let length = u8::try_from(message.length).ok();
    let most = if address.is_ipv4() { 32 } else { 128 };
    length.and_then(|length| IpNet::new(address, length).ok()).ok_or_else(|| {
        FieldError::new(format!("is at most {most} here, this is {}", message.length)).within("length")
    })
}

impl From<ObjectName> for proto::ObjectName {
    fn from(name: ObjectName) -> Self {
        proto::ObjectName { namespace: name.namespace, name: name.name }
    }
}

/// The name of the object that a message is about, and how to call it in an error.
pub(super) fn object_name(message: Option<proto::ObjectName>) -> Result<ObjectName, FieldError> {
    let message = required(message).in_field("name")?;
    if message.name.is_empty() {
        return Err(FieldError::new("is empty").within("name.name"));
    }
    Ok(ObjectName::new(message.namespace, message.name))
}

impl From<Node> for proto::Node {
    fn from(node: Node) -> Self {
        proto::Node {
            name: node.name,
            addresses: node.addresses.into_iter().map(address_bytes).collect(),
            pod_cidrs: all(node.pod_cidrs),
            zone: node.zone,
        }
    }
}

impl TryFrom<proto::Node> for Node {
    type Error = FieldError;

    fn try_from(message: proto::Node) -> Result<Self, FieldError> {
        let proto::Node { name, addresses, pod_cidrs, zone } = message;
        let of = |error: FieldError| error.of(|| format!("Node {name}"));
        let addresses = list("addresses", addresses, address).map_err(of)?;
        let pod_cidrs = list("pod_cidrs", pod_cidrs, prefix).map_err(of)?;
        Ok(Node { name, addresses, pod_cidrs, zone })
    }
}

impl From<Identity> for proto::Identity {
    fn from(identity: Identity) -> Self {
        let named = identity.named_ports.into_iter().map(|(name, protocol, port)| proto::NamedPort {
            name,
            protocol: proto::Protocol::from(protocol).into(),
            port: port.into(),
        });
        proto::Identity {
            namespace: identity.namespace,
            labels: identity.labels,
            named_ports: named.collect(),
        }
    }
}

impl TryFrom<proto::Identity> for Identity {
    type Error = FieldError;

    fn try_from(message: proto::Identity) -> Result<Self, FieldError> {
        let named = |message: proto::NamedPort| {
            let protocol = protocol(message.protocol).in_field("protocol")?;
            Ok((message.name, protocol, port(message.port).in_field("port")?))
        };
        Ok(Identity {
            namespace: message.namespace,
            labels: message.labels,
            named_ports: list("named_ports", message.named_ports, named)?,
        })
    }
}

impl From<Endpoint> for proto::Endpoint {
    fn from(endpoint: Endpoint) -> Self {
        proto::Endpoint {
            name: Some(endpoint.name.into()),
            node: endpoint.node,
            addresses: endpoint.addresses.into_iter().map(address_bytes).collect(),
            host_network: endpoint.host_network,
            identity: endpoint.identity,
        }
    }
}

impl TryFrom<proto::Endpoint> for Endpoint {
    type Error = FieldError;

    fn try_from(message: proto::Endpoint) -> Result<Self, FieldError> {
        let name = object_name(message.name)?;
        let addresses = list("addresses", message.addresses, address)
            .map_err(|error| error.of(|| format!("Pod {name}")))?;
        Ok(Endpoint {
            name,
            node: message.node,
            addresses,
            host_network: message.host_network,
            identity: message.identity,
        })
    }
}

impl From<Protocol> for proto::Protocol {
    fn from(protocol: Protocol) -> Self {
        match protocol {
            Protocol::Tcp => proto::Protocol::Tcp,
            Protocol::Udp => proto::Protocol::Udp,
            Protocol::Sctp => proto::Protocol::Sctp,
        }
    }
}

fn optional_protocol(number: i32) -> Result<Option<Protocol>, FieldError> {
    match proto::Protocol::try_from(number) {
        Ok(proto::Protocol::Unspecified) => Ok(None),
        Ok(proto::Protocol::Tcp) => Ok(Some(Protocol::Tcp)),
        Ok(proto::Protocol::Udp) => Ok(Some(Protocol::Udp)),
        Ok(proto::Protocol::Sctp) => Ok(Some(Protocol::Sctp)),
        Err(_) => Err(unknown(number)),
    }
}

pub(super) fn protocol(number: i32) -> Result<Protocol, FieldError> {
    optional_protocol(number)?.ok_or_else(unspecified)
}

impl From<TrafficPolicy> for proto::TrafficPolicy {
    fn from(policy: TrafficPolicy) -> Self {
        match policy {
            TrafficPolicy::Cluster => proto::TrafficPolicy::Cluster,
            TrafficPolicy::Local => proto::TrafficPolicy::Local,
        }
    }
}

fn traffic_policy(number: i32) -> Result<TrafficPolicy, FieldError> {
    match proto::TrafficPolicy::try_from(number) {
        Ok(proto::TrafficPolicy::Unspecified | proto::TrafficPolicy::Cluster) => Ok(TrafficPolicy::Cluster),
        Ok(proto::TrafficPolicy::Local) => Ok(TrafficPolicy::Local),
        Err(_) => Err(unknown(number)),
    }
}

impl From<Service> for proto::Service {
    fn from(service: Service) -> Self {
        let protocol = service.protocol.map_or(proto::Protocol::Unspecified, proto::Protocol::from);
        proto::Service {
            name: Some(service.name.into()),
            port_name: service.port_name,
            protocol: protocol.into(),
            frontends: all(service.frontends),
            internal_policy: proto::TrafficPolicy::from(service.internal_policy).into(),
            external_policy: proto::TrafficPolicy::from(service.external_policy).into(),
            affinity_seconds: service.affinity_seconds,
            source_ranges: all(service.source_ranges),
            backends: all(service.backends),
        }
    }
}

impl TryFrom<proto::Service> for Service {
    type Error = FieldError;

    fn try_from(mut message: proto::Service) -> Result<Self, FieldError> {
        let name = object_name(message.name.take())?;
        let object = name.clone();
        service(name, message).map_err(|error| error.of(|| format!("Service {object}")))
    }
}

fn service(name: ObjectName, message: proto::Service) -> Result<Service, FieldError> {
    Ok(Service {
        name,
        port_name: message.port_name,
        protocol: optional_protocol(message.protocol).in_field("protocol")?,
        frontends: list("frontends", message.frontends, Frontend::try_from)?,
        internal_policy: traffic_policy(message.internal_policy).in_field("internal_policy")?,
        external_policy: traffic_policy(message.external_policy).in_field("external_policy")?,
        affinity_seconds: message.affinity_seconds,
        source_ranges: list("source_ranges", message.source_ranges, prefix)?,
        backends: list("backends", message.backends, Backend::try_from)?,
    })
}

impl From<Frontend> for proto::Frontend {
    fn from(frontend: Frontend) -> Self {
        let kind = match frontend.kind {
            FrontendKind::ClusterIp => proto::FrontendKind::ClusterIp,
            FrontendKind::NodePort => proto::FrontendKind::NodePort,
            FrontendKind::ExternalIp => proto::FrontendKind::ExternalIp,
            FrontendKind::LoadBalancer => proto::FrontendKind::LoadBalancer,
        };
        proto::Frontend {
            kind: kind.into(),
            address: optional_address_bytes(frontend.address),
            port: frontend.port.into(),
            ipv6: frontend.ipv6,
        }
    }
}

impl TryFrom<proto::Frontend> for Frontend {
    type Error = FieldError;

    fn try_from(message: proto::Frontend) -> Result<Self, FieldError> {
        let kind = match proto::FrontendKind::try_from(message.kind) {
            Ok(proto::FrontendKind::ClusterIp) => FrontendKind::ClusterIp,
            Ok(proto::FrontendKind::NodePort) => FrontendKind::NodePort,
            Ok(proto::FrontendKind::ExternalIp) => FrontendKind::ExternalIp,
            Ok(proto::FrontendKind::LoadBalancer) => FrontendKind::LoadBalancer,
            Ok(proto::FrontendKind::Unspecified) => return Err(unspecified().within("kind")),
            Err(_) => return Err(unknown(message.kind).within("kind")),
        };
        Ok(Frontend {
            kind,
            address: optional_address(message.address).in_field("address")?,
            port: port(message.port).in_field("port")?,
            ipv6: message.ipv6,
        })
    }
}

impl From<Backend> for proto::Backend {
    fn from(backend: Backend) -> Self {
        proto::Backend {
            address: address_bytes(backend.address),
            port: backend.port.into(),
            node: backend.node,
            ready: backend.ready,
            serving: backend.serving,
            terminating: backend.terminating,
            zone_hints: backend.zone_hints,
            node_hints: backend.node_hints,
            weight: backend.weight,
        }
    }
}

impl TryFrom<proto::Backend> for Backend {
    type Error = FieldError;

    fn try_from(message: proto::Backend) -> Result<Self, FieldError> {
        Ok(Backend {
            address: address(message.address).in_field("address")?,
            port: port(message.port).in_field("port")?,
            node: message.node,
            ready: message.ready,
            serving: message.serving,
            terminating: message.terminating,
            zone_hints: message.zone_hints,
            node_hints: message.node_hints,
            weight: message.weight,
        })
    }
}
