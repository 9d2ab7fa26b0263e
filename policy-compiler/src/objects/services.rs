//! Services with their EndpointSlices to [`Service`]s: one a Service, port and family.
//!
//! Left out without a word: headless Services (`clusterIP: None`), `ExternalName`, and what carries the label
//! `service.kubernetes.io/service-proxy-name` or `service.kubernetes.io/headless`: they are not a proxy's to serve.
//! An address counts in a family only where the Service has a cluster address in it, and a load balancer's only
//! where its `ipMode` is not `Proxy`, as kube-proxy has it.

mod slices;

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use k8s_openapi::api::core::v1 as core;

use super::address::{address, port, prefix};
use super::{ObjectError, Objects, Warning};
use crate::intent::{Frontend, FrontendKind, ObjectName, Protocol, Service, TrafficPolicy};
use slices::Slices;

/// `spec.sessionAffinityConfig.clientIP.timeoutSeconds` where the object leaves it out: three hours.
const DEFAULT_AFFINITY_SECONDS: i32 = 10_800;
/// The longest affinity that the API allows: a day.
const MAX_AFFINITY_SECONDS: i32 = 86_400;
/// Labels that take an object away from the cluster's default proxy.
const NOT_OURS: [&str; 2] = ["service.kubernetes.io/service-proxy-name", "service.kubernetes.io/headless"];

/// The Service ports of `objects`.
///
/// # Errors
/// [`ObjectError`] naming the Service or EndpointSlice and the field, for what the API server would refuse.
pub(crate) fn services(objects: &Objects, warnings: &mut Vec<Warning>) -> Result<Vec<Service>, ObjectError> {
    let slices = Slices::read(objects)?;
    let mut read = Vec::new();
    for (name, object) in &objects.services {
        if let Some(spec) = spec_of(name, object)? {
            read.push(read_service(name, object, spec)?);
        }
    }
    let mut claims = Claims::default();
    read.iter().try_for_each(|service| claims.claim_own(service))?;
    let mut services = Vec::new();
    for service in &read {
        if service.cluster_addresses.is_empty() {
            warnings.push(Warning::new(
                "Service",
                service.name,
                "has no cluster address yet; it is left out",
            ));
        }
        for ipv6 in [false, true] {
            if service.cluster_addresses.iter().any(|address| address.is_ipv6() == ipv6) {
                let ports = service.ports.iter();
                services
                    .extend(ports.map(|port| compose(service, port, ipv6, &slices, &mut claims, warnings)));
            }
        }
    }
    Ok(services)
}

/// A Service object, checked.
struct Read<'a> {
    name: &'a ObjectName,
    ports: Vec<ReadPort<'a>>,
    cluster_addresses: Vec<IpAddr>,
    external_addresses: Vec<IpAddr>,
    balancer_addresses: Vec<IpAddr>,
    source_ranges: Vec<IpNet>,
    internal: TrafficPolicy,
    external: TrafficPolicy,
    affinity_seconds: Option<u32>,
}

struct ReadPort<'a> {
    name: &'a str,
    protocol: Protocol,
    port: u16,
    node_port: Option<u16>,
}

/// Who holds what, over all Services.
#[derive(Default)]
struct Claims<'a> {
    frontends: BTreeMap<(IpAddr, u16, Protocol), &'a ObjectName>,
    addresses: BTreeMap<IpAddr, &'a ObjectName>,
    node_ports: BTreeMap<(u16, Protocol), &'a ObjectName>,
}

impl<'a> Claims<'a> {
    /// Claims what the API server allots to one Service alone: cluster addresses and node ports.
    fn claim_own(&mut self, service: &Read<'a>) -> Result<(), ObjectError> {
        for (index, address) in service.cluster_addresses.iter().enumerate() {
            if let Some(other) = self.addresses.insert(*address, service.name) {
                let field = format!("spec.clusterIPs[{index}]");
                let problem = format!("{address} is an address of Service {other} already");
                return Err(service.error(field, problem));
            }
            for port in &service.ports {
                self.frontends.insert((*address, port.port, port.protocol), service.name);
            }
        }
        for (index, port) in service.ports.iter().enumerate() {
            let Some(number) = port.node_port else { continue };
            if let Some(other) = self.node_ports.insert((number, port.protocol), service.name) {
                let field = format!("spec.ports[{index}].nodePort");
                return Err(
                    service.error(field, format!("{number} is a node port of Service {other} already"))
                );
            }
        }
        Ok(())
    }

    /// Claims what anybody may write into a Service; `Err` names the Service that was first.
    fn claim(&mut self, key: (IpAddr, u16, Protocol), name: &'a ObjectName) -> Result<(), &'a ObjectName> {
        let first = *self.frontends.entry(key).or_insert(name);
        if first == name { Ok(()) } else { Err(first) }
    }
}

impl Read<'_> {
    fn error(&self, field: impl Into<String>, problem: impl Into<String>) -> ObjectError {
        ObjectError::new("Service", self.name, field, problem)
    }
}

/// The specification of a Service that is ours to serve.
fn spec_of<'a>(
    name: &ObjectName,
    object: &'a core::Service,
) -> Result<Option<&'a core::ServiceSpec>, ObjectError> {
    let Some(spec) = &object.spec else {
        return Err(ObjectError::new("Service", name, "spec", "is missing"));
    };
    let kind = spec.type_.as_deref().unwrap_or("ClusterIP");
    if !["ClusterIP", "NodePort", "LoadBalancer", "ExternalName"].contains(&kind) {
        return Err(ObjectError::new(
            "Service",
            name,
            "spec.type",
            format!("{kind:?} is no type of Service"),
        ));
    }
    let labels = object.metadata.labels.iter().flatten();
    let elsewhere = labels.into_iter().any(|(key, _)| NOT_OURS.contains(&key.as_str()));
    let headless = spec.cluster_ip.as_deref() == Some("None")
        || spec.cluster_ips.iter().flatten().any(|address| address == "None");
    Ok((!elsewhere && !headless && kind != "ExternalName").then_some(spec))
}

fn read_service<'a>(
    name: &'a ObjectName,
    object: &'a core::Service,
    spec: &'a core::ServiceSpec,
) -> Result<Read<'a>, ObjectError> {
    let fail = |field: String, problem: String| ObjectError::new("Service", name, field, problem);
    let source_ranges =
        spec.load_balancer_source_ranges.iter().flatten().enumerate().map(|(index, range)| {
            // The API server accepts blanks around these, and only these.
            let parsed = prefix(range.trim()).map(|(range, _)| range);
            parsed.map_err(|problem| fail(format!("spec.loadBalancerSourceRanges[{index}]"), problem))
        });
    let external = spec.external_ips.iter().flatten().enumerate().map(|(index, text)| {
        address(text).map_err(|problem| fail(format!("spec.externalIPs[{index}]"), problem))
    });
    Ok(Read {
        name,
        ports: read_ports(name, spec)?,
        cluster_addresses: read_cluster_addresses(name, spec)?,
        external_addresses: external.collect::<Result<_, _>>()?,
        balancer_addresses: read_balancer_addresses(name, object)?,
        source_ranges: source_ranges.collect::<Result<_, _>>()?,
        internal: read_policy(name, "spec.internalTrafficPolicy", spec.internal_traffic_policy.as_deref())?,
        external: read_policy(name, "spec.externalTrafficPolicy", spec.external_traffic_policy.as_deref())?,
        affinity_seconds: read_affinity(name, spec)?,
    })
}

fn read_ports<'a>(name: &ObjectName, spec: &'a core::ServiceSpec) -> Result<Vec<ReadPort<'a>>, ObjectError> {
    let fail = |field: String, problem: String| Err(ObjectError::new("Service", name, field, problem));
    let ports = spec.ports.as_deref().unwrap_or_default();
    if ports.is_empty() {
        return fail("spec.ports".into(), "is empty".into());
    }
    let mut read: Vec<ReadPort<'a>> = Vec::with_capacity(ports.len());
    for (index, object) in ports.iter().enumerate() {
        let field = |field: &str| format!("spec.ports[{index}].{field}");
        let at = |name: &str, problem: String| fail(field(name), problem);
        let next = ReadPort {
            name: object.name.as_deref().unwrap_or_default(),
            protocol: match protocol(object.protocol.as_deref()) {
                Ok(protocol) => protocol,
                Err(problem) => return at("protocol", problem),
            },
            port: match port(object.port) {
                Ok(port) => port,
                Err(problem) => return at("port", problem),
            },
            node_port: match object.node_port.filter(|number| *number != 0).map(port).transpose() {
                Ok(port) => port,
                Err(problem) => return at("nodePort", problem),
            },
        };
        if next.name.is_empty() && ports.len() > 1 {
            return at("name", "is missing: a Service with several ports names each".into());
        }
        if read.iter().any(|other| other.name == next.name) {
            return at("name", format!("{:?} is the name of another port, too", next.name));
        }
        if read.iter().any(|other| (other.port, other.protocol) == (next.port, next.protocol)) {
            return at("port", format!("{} is listed twice for its protocol", next.port));
        }
        read.push(next);
    }
    Ok(read)
}

fn read_cluster_addresses(name: &ObjectName, spec: &core::ServiceSpec) -> Result<Vec<IpAddr>, ObjectError> {
    let fail = |field: String, problem: String| ObjectError::new("Service", name, field, problem);
    let first = spec.cluster_ip.as_deref().filter(|text| !text.is_empty());
    let all = spec.cluster_ips.as_deref().unwrap_or_default();
    if let (Some(first), Some(listed)) = (first, all.first())
        && first != listed
    {
        let problem = format!("{first:?} is not the first of spec.clusterIPs ({listed:?})");
        return Err(fail("spec.clusterIP".into(), problem));
    }
    if all.is_empty() {
        let one = first.map(|text| address(text).map_err(|problem| fail("spec.clusterIP".into(), problem)));
        return one.into_iter().collect();
    }
    let mut addresses: Vec<IpAddr> = Vec::with_capacity(all.len());
    for (index, text) in all.iter().enumerate() {
        let field = || format!("spec.clusterIPs[{index}]");
        let parsed = address(text).map_err(|problem| fail(field(), problem))?;
        if addresses.iter().any(|other| other.is_ipv6() == parsed.is_ipv6()) {
            return Err(fail(field(), format!("{parsed} is a second address of its family")));
        }
        addresses.push(parsed);
    }
    Ok(addresses)
}

fn read_balancer_addresses(name: &ObjectName, object: &core::Service) -> Result<Vec<IpAddr>, ObjectError> {
    let balancer = object.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    let ingress = balancer.and_then(|balancer| balancer.ingress.as_deref()).unwrap_or_default();
    let mut addresses = Vec::new();
    for (index, point) in ingress.iter().enumerate() {
        let field = |field: &str| format!("status.loadBalancer.ingress[{index}].{field}");
        let mode = point.ip_mode.as_deref().unwrap_or("VIP");
        if !["VIP", "Proxy"].contains(&mode) {
            let problem = format!("{mode:?} is neither VIP nor Proxy");
            return Err(ObjectError::new("Service", name, field("ipMode"), problem));
        }
        if let Some(text) = point.ip.as_deref().filter(|text| !text.is_empty()) {
            let parsed =
                address(text).map_err(|problem| ObjectError::new("Service", name, field("ip"), problem))?;
            addresses.extend((mode == "VIP").then_some(parsed));
        }
    }
    Ok(addresses)
}

fn read_policy(name: &ObjectName, field: &str, text: Option<&str>) -> Result<TrafficPolicy, ObjectError> {
    match text {
        None | Some("" | "Cluster") => Ok(TrafficPolicy::Cluster),
        Some("Local") => Ok(TrafficPolicy::Local),
        Some(other) => {
            Err(ObjectError::new("Service", name, field, format!("{other:?} is neither Cluster nor Local")))
        }
    }
}

fn read_affinity(name: &ObjectName, spec: &core::ServiceSpec) -> Result<Option<u32>, ObjectError> {
    match spec.session_affinity.as_deref() {
        None | Some("" | "None") => return Ok(None),
        Some("ClientIP") => {}
        Some(other) => {
            let problem = format!("{other:?} is neither None nor ClientIP");
            return Err(ObjectError::new("Service", name, "spec.sessionAffinity", problem));
        }
    }
    let client_ip = spec.session_affinity_config.as_ref().and_then(|config| config.client_ip.as_ref());
    let seconds = client_ip.and_then(|config| config.timeout_seconds).unwrap_or(DEFAULT_AFFINITY_SECONDS);
    match u32::try_from(seconds) {
        Ok(checked) if (1..=MAX_AFFINITY_SECONDS).contains(&seconds) => Ok(Some(checked)),
        _ => {
            let field = "spec.sessionAffinityConfig.clientIP.timeoutSeconds";
            let problem = format!("{seconds} is not within 1 to {MAX_AFFINITY_SECONDS}");
            Err(ObjectError::new("Service", name, field, problem))
        }
    }
}

/// A protocol as Services and EndpointSlices write it; TCP where left out.
fn protocol(text: Option<&str>) -> Result<Protocol, String> {
    match text {
        None | Some("" | "TCP") => Ok(Protocol::Tcp),
        Some("UDP") => Ok(Protocol::Udp),
        Some("SCTP") => Ok(Protocol::Sctp),
        Some(other) => Err(format!("{other:?} is none of TCP, UDP, SCTP")),
    }
}

fn compose<'a>(
    service: &Read<'a>,
    port: &ReadPort<'_>,
    ipv6: bool,
    slices: &Slices,
    claims: &mut Claims<'a>,
    warnings: &mut Vec<Warning>,
) -> Service {
    let of_family = |address: &&IpAddr| address.is_ipv6() == ipv6;
    let frontend = |kind, address| Frontend { kind, address: Some(address), port: port.port, ipv6 };
    let cluster = service.cluster_addresses.iter().filter(of_family);
    let mut frontends: Vec<Frontend> =
        cluster.map(|address| frontend(FrontendKind::ClusterIp, *address)).collect();
    if let Some(number) = port.node_port {
        frontends.push(Frontend { kind: FrontendKind::NodePort, address: None, port: number, ipv6 });
    }
    let outer = [
        (FrontendKind::ExternalIp, &service.external_addresses),
        (FrontendKind::LoadBalancer, &service.balancer_addresses),
    ];
    for (kind, addresses) in outer {
        for address in addresses.iter().filter(of_family) {
            match claims.claim((*address, port.port, port.protocol), service.name) {
                Ok(()) => frontends.push(frontend(kind, *address)),
                Err(first) => {
                    let number = port.port;
                    let problem = format!("{address} port {number} is Service {first}'s already; left to it");
                    warnings.push(Warning::new("Service", service.name, problem));
                }
            }
        }
    }
    let family = |range: &&IpNet| matches!(range, IpNet::V6(_)) == ipv6;
    Service {
        name: service.name.clone(),
        port_name: port.name.to_owned(),
        protocol: Some(port.protocol),
        frontends,
        internal_policy: service.internal,
        external_policy: service.external,
        affinity_seconds: service.affinity_seconds,
        source_ranges: service.source_ranges.iter().filter(family).copied().collect(),
        backends: slices.backends(service.name, port.name, port.protocol, ipv6),
    }
}

#[cfg(test)]
mod tests;
