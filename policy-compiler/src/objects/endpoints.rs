//! Nodes and pods: their addresses, and what policy needs of them.

use std::collections::HashMap;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{self, Pod};

use super::{ObjectError, Objects, Warning, address};
use crate::intent::{Endpoint, Node, ObjectName, Protocol};

/// The label with a node's zone.
const ZONE_LABEL: &str = "topology.kubernetes.io/zone";

/// A pod that has an address, as far as it matters here.
pub(super) struct PodRecord<'a> {
    /// The pod.
    pub(super) name: &'a ObjectName,
    /// Its node; empty where there is no such Node object.
    pub(super) node: &'a str,
    /// One a family at most.
    pub(super) addresses: Vec<IpAddr>,
    /// Shares the node's network.
    pub(super) host_network: bool,
    /// The object.
    pub(super) pod: &'a Pod,
}

/// The nodes, with a warning for each that the overlay cannot reach.
pub(super) fn nodes(objects: &Objects, warnings: &mut Vec<Warning>) -> Result<Vec<Node>, ObjectError> {
    let mut owners = HashMap::new();
    let mut nodes = Vec::with_capacity(objects.nodes.len());
    for (name, object) in &objects.nodes {
        let node = read_node(name, object)?;
        let claims = node.addresses.iter().map(|address| (address.to_string(), "status.addresses"));
        for (claim, field) in
            claims.chain(node.pod_cidrs.iter().map(|cidr| (cidr.to_string(), "spec.podCIDRs")))
        {
            if let Some(other) = owners.insert(claim.clone(), name) {
                let problem = format!("{claim} belongs to Node {other} already");
                return Err(ObjectError::new("Node", name, field, problem));
            }
        }
        if node.addresses.is_empty() {
            warnings.push(Warning::new(
                "Node",
                name,
                "has no InternalIP: its pods cannot be reached over the overlay",
            ));
        }
        nodes.push(node);
    }
    Ok(nodes)
}

/// The pods that have an address and have not run to their end.
pub(super) fn pods<'a>(
    objects: &'a Objects,
    nodes: &[Node],
    warnings: &mut Vec<Warning>,
) -> Result<Vec<PodRecord<'a>>, ObjectError> {
    let by_name: HashMap<&str, &Node> = nodes.iter().map(|node| (node.name.as_str(), node)).collect();
    let mut owners = HashMap::<IpAddr, String>::new();
    for node in nodes {
        owners.extend(node.addresses.iter().map(|address| (*address, format!("Node {}", node.name))));
    }
    let mut records = Vec::with_capacity(objects.pods.len());
    for (name, pod) in &objects.pods {
        let Some(mut record) = read_pod(name, pod, &by_name)? else { continue };
        if !by_name.contains_key(record.node) {
            let problem = match record.node {
                "" => "has an address but no spec.nodeName: unreachable".to_owned(),
                node => format!("there is no Node {node}: unreachable"),
            };
            warnings.push(Warning::new("Pod", name, problem));
            record.node = "";
        }
        for address in record.addresses.iter().filter(|_| !record.host_network) {
            if let Some(other) = owners.insert(*address, format!("Pod {name}")) {
                let problem = format!("{address} belongs to {other} already");
                return Err(ObjectError::new("Pod", name, "status.podIPs", problem));
            }
        }
        records.push(record);
    }
    Ok(records)
}

/// The intent's endpoints: `records` with their identities, which are in the same order.
pub(super) fn with_identities(records: &[PodRecord<'_>], identities: &[u32]) -> Vec<Endpoint> {
    let endpoint = |(record, identity): (&PodRecord<'_>, &u32)| Endpoint {
        name: record.name.clone(),
        node: record.node.to_owned(),
        addresses: record.addresses.clone(),
        host_network: record.host_network,
        identity: *identity,
    };
    records.iter().zip(identities).map(endpoint).collect()
}

impl PodRecord<'_> {
    /// Its named container ports, those of sidecars (restartable init containers) included.
    pub(super) fn named_ports(&self) -> Result<Vec<(&str, Protocol, u16)>, ObjectError> {
        let mut named = Vec::new();
        let Some(spec) = &self.pod.spec else { return Ok(named) };
        let sidecars = spec.init_containers.iter().flatten().enumerate();
        let sidecars =
            sidecars.filter(|(_, container)| container.restart_policy.as_deref() == Some("Always"));
        let lists =
            spec.containers.iter().enumerate().map(|(index, container)| ("containers", index, container));
        for (list, index, container) in lists.chain(sidecars.map(|(index, c)| ("initContainers", index, c))) {
            for (position, port) in container.ports.iter().flatten().enumerate() {
                let Some(name) = port.name.as_deref() else { continue };
                let invalid = |field: &str, problem: String| {
                    let field = format!("spec.{list}[{index}].ports[{position}].{field}");
                    ObjectError::new("Pod", self.name, field, problem)
                };
                let number = address::port(port.container_port).map_err(|p| invalid("containerPort", p))?;
                let protocol = protocol(port.protocol.as_deref()).map_err(|p| invalid("protocol", p))?;
                named.push((name, protocol, number));
            }
        }
        Ok(named)
    }
}

/// A protocol by its name in the API; TCP where there is none.
pub(super) fn protocol(name: Option<&str>) -> Result<Protocol, String> {
    match name {
        None | Some("TCP") => Ok(Protocol::Tcp),
        Some("UDP") => Ok(Protocol::Udp),
        Some("SCTP") => Ok(Protocol::Sctp),
        Some(other) => Err(format!("{other:?} is not a protocol (TCP, UDP, SCTP)")),
    }
}

fn read_node(name: &ObjectName, object: &v1::Node) -> Result<Node, ObjectError> {
    let invalid = |field: String, problem| ObjectError::new("Node", name, field, problem);
    let listed = object.status.iter().flat_map(|status| status.addresses.iter().flatten());
    let mut addresses = Vec::new();
    for wanted in ["InternalIP", "ExternalIP"] {
        for (index, entry) in listed.clone().enumerate().filter(|(_, entry)| entry.type_ == wanted) {
            let field = || format!("status.addresses[{index}].address");
            let address = address::address(&entry.address).map_err(|problem| invalid(field(), problem))?;
            if !addresses.contains(&address) {
                addresses.push(address);
            }
        }
    }
    let mut pod_cidrs = Vec::new();
    let spec = object.spec.as_ref();
    let many = spec.and_then(|spec| spec.pod_cidrs.as_deref()).unwrap_or_default();
    let one = spec.and_then(|spec| spec.pod_cidr.as_ref()).filter(|_| many.is_empty());
    for (index, text) in many.iter().chain(one).enumerate() {
        let field =
            || if many.is_empty() { "spec.podCIDR".into() } else { format!("spec.podCIDRs[{index}]") };
        let (cidr, _) = address::prefix(text).map_err(|problem| invalid(field(), problem))?;
        if !pod_cidrs.contains(&cidr) {
            pod_cidrs.push(cidr);
        }
    }
    let zone = object.metadata.labels.as_ref().and_then(|labels| labels.get(ZONE_LABEL));
    Ok(Node { name: name.name.clone(), addresses, pod_cidrs, zone: zone.cloned().unwrap_or_default() })
}

/// `None` for a pod without an address and for one that has run to its end: its address may be another's already.
fn read_pod<'a>(
    name: &'a ObjectName,
    pod: &'a Pod,
    nodes: &HashMap<&str, &Node>,
) -> Result<Option<PodRecord<'a>>, ObjectError> {
    let status = pod.status.as_ref();
    if status.is_some_and(|status| matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"))) {
        return Ok(None);
    }
    let spec = pod.spec.as_ref();
    let host_network = spec.is_some_and(|spec| spec.host_network == Some(true));
    let node = spec.and_then(|spec| spec.node_name.as_deref()).unwrap_or_default();
    let mut addresses = Vec::<IpAddr>::new();
    for (field, text) in status.map(pod_addresses).unwrap_or_default() {
        let invalid = |problem| ObjectError::new("Pod", name, field.clone(), problem);
        let address = address::address(text).map_err(invalid)?;
        if addresses.iter().any(|other| other.is_ipv4() == address.is_ipv4()) {
            return Err(invalid(format!("{address} is a second address of its family")));
        }
        addresses.push(address);
    }
    if host_network && addresses.is_empty() {
        addresses
            .extend(nodes.get(node).map(|node| first_of_each_family(&node.addresses)).unwrap_or_default());
    }
    let record = PodRecord { name, node, addresses, host_network, pod };
    Ok(Some(record).filter(|record| !record.addresses.is_empty()))
}

/// `podIPs`, or `podIP` where there are none, with the paths they stand at.
fn pod_addresses(status: &v1::PodStatus) -> Vec<(String, &str)> {
    let many = status.pod_ips.as_deref().unwrap_or_default().iter().enumerate();
    let many: Vec<_> =
        many.map(|(index, ip)| (format!("status.podIPs[{index}].ip"), ip.ip.as_str())).collect();
    let one = status.pod_ip.as_deref().filter(|ip| many.is_empty() && !ip.is_empty());
    many.into_iter().chain(one.map(|ip| ("status.podIP".to_owned(), ip))).collect()
}

fn first_of_each_family(addresses: &[IpAddr]) -> Vec<IpAddr> {
    let first = |v4: bool| addresses.iter().find(move |address| address.is_ipv4() == v4).copied();
    first(true).into_iter().chain(first(false)).collect()
}
