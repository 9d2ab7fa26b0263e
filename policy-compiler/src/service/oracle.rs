//! The slow, obvious twin of [`ServiceTable`](super::ServiceTable): one query answered straight from Kubernetes
//! objects, every object looked at every time. Shares no code with the compiler; written from kube-proxy's
//! documented behaviour, not from ours. For tests, and for whoever doubts a verdict.
//!
//! It expects objects that [`Objects::intent`](crate::objects::Objects::intent) accepts.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use k8s_openapi::api::core::v1::{Node, Service, ServicePort, ServiceSpec};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};

use super::ServiceQuery;
use crate::objects::Objects;

/// What a node does with the first packet of a flow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expectation {
    /// It is no Service's.
    NotAService,
    /// Refused with an answer.
    Reject,
    /// Dropped in silence.
    Drop,
    /// Sent to one of these backends; true where the source is translated on the way to that one.
    Forward(BTreeMap<SocketAddr, bool>),
}

/// What the node called `node` does with `query`; node ports answer on every address of the Node object.
pub fn expect(objects: &Objects, node: &str, query: &ServiceQuery) -> Expectation {
    let cluster = Cluster { objects, node };
    // 1. Addresses that Services name come before node ports.
    for way in [Way::Cluster, Way::Balancer, Way::External, Way::NodePort] {
        for service in cluster.services(query.dst.is_ipv6()) {
            for port in service.spec.as_ref().and_then(|spec| spec.ports.as_deref()).unwrap_or_default() {
                if cluster.hits(way, service, port, query) {
                    return cluster.serve(way, service, port, query);
                }
            }
        }
    }
    // 2. A cluster address on a port that it does not have.
    let mut services = cluster.services(query.dst.is_ipv6());
    if services.any(|service| cluster_addresses(service).contains(&query.dst)) {
        return Expectation::Reject;
    }
    Expectation::NotAService
}

/// How a client came to a Service.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Cluster,
    External,
    Balancer,
    NodePort,
}

/// The objects, seen from one node.
struct Cluster<'a> {
    objects: &'a Objects,
    node: &'a str,
}

impl<'a> Cluster<'a> {
    /// Services that a proxy serves in the family.
    fn services(&self, ipv6: bool) -> impl Iterator<Item = &'a Service> {
        self.objects.services.values().filter(move |service| {
            let labels = service.metadata.labels.iter().flatten();
            let elsewhere = labels.filter(|(key, _)| {
                *key == "service.kubernetes.io/service-proxy-name" || *key == "service.kubernetes.io/headless"
            });
            let external_name = text(service, |spec| spec.type_.as_deref()) == "ExternalName";
            let has_address = cluster_addresses(service).iter().any(|address| address.is_ipv6() == ipv6);
            elsewhere.count() == 0 && !external_name && has_address
        })
    }

    fn hits(&self, way: Way, service: &Service, port: &ServicePort, query: &ServiceQuery) -> bool {
        let protocol = match port.protocol.as_deref() {
            Some("UDP") => 17,
            Some("SCTP") => 132,
            _ => 6,
        };
        let number = if way == Way::NodePort { port.node_port.unwrap_or(0) } else { port.port };
        let addresses = match way {
            Way::Cluster => cluster_addresses(service),
            Way::External => external_addresses(service),
            Way::Balancer => balancer_addresses(service),
            Way::NodePort => self.node_addresses(),
        };
        query.protocol == protocol && number == i32::from(query.dst_port) && addresses.contains(&query.dst)
    }

    fn serve(&self, way: Way, service: &Service, port: &ServicePort, query: &ServiceQuery) -> Expectation {
        // 1. Who may come.
        if way == Way::Balancer && !self.admits(service, query.src) {
            return Expectation::Drop;
        }
        // 2. Whether there is anybody to serve.
        let endpoints = self.endpoints(service, port, query.dst.is_ipv6());
        let ready: Vec<_> = endpoints.iter().filter(|(_, endpoint)| is_ready(endpoint)).collect();
        let leaving: Vec<_> = endpoints.iter().filter(|(_, endpoint)| is_leaving(endpoint)).collect();
        if ready.is_empty() && leaving.is_empty() {
            return Expectation::Reject;
        }
        // 3. Which policy holds, and whether the source must be hidden.
        let internal_local = text(service, |spec| spec.internal_traffic_policy.as_deref()) == "Local";
        let external_local = text(service, |spec| spec.external_traffic_policy.as_deref()) == "Local";
        let ranges_known = !self.pod_ranges(query.src.is_ipv6()).is_empty();
        let from_pod = ranges_known && self.is_pod(query.src);
        let from_node = self.node_addresses().contains(&query.src);
        let (local, masquerade) = match way {
            Way::Cluster => (internal_local, ranges_known && !from_pod),
            _ if !external_local => (false, true),
            _ if from_pod => (false, false),
            _ if from_node => (false, true),
            _ => (true, false),
        };
        // 4. Who serves under it.
        let here = |found: &&&(SocketAddr, &Endpoint)| found.1.node_name.as_deref() == Some(self.node);
        let chosen: Vec<SocketAddr> = if local {
            let ready_here: Vec<_> = ready.iter().filter(here).map(|found| found.0).collect();
            let leaving_here = leaving.iter().filter(here).map(|found| found.0).collect();
            if ready_here.is_empty() { leaving_here } else { ready_here }
        } else if ready.is_empty() {
            leaving.iter().map(|found| found.0).collect()
        } else {
            self.near(&ready)
        };
        if chosen.is_empty() {
            return Expectation::Drop;
        }
        let hidden = |backend: &SocketAddr| masquerade || backend.ip() == query.src;
        Expectation::Forward(chosen.iter().map(|backend| (*backend, hidden(backend))).collect())
    }

    /// The endpoints of a port by address, each in its best condition.
    fn endpoints(
        &self,
        service: &Service,
        port: &ServicePort,
        ipv6: bool,
    ) -> Vec<(SocketAddr, &'a Endpoint)> {
        let mut found: Vec<(SocketAddr, &'a Endpoint)> = Vec::new();
        for slice in self.objects.endpoint_slices.values().filter(|slice| belongs(slice, service, ipv6)) {
            for endpoint in &slice.endpoints {
                for number in slice_ports(slice, port) {
                    let Some(address) = endpoint.addresses.first().and_then(|text| text.parse().ok()) else {
                        continue;
                    };
                    let address = SocketAddr::new(address, number);
                    let rank = |endpoint: &Endpoint| (is_ready(endpoint), is_serving(endpoint));
                    match found.iter().position(|(other, _)| *other == address) {
                        None => found.push((address, endpoint)),
                        Some(index) if rank(endpoint) > rank(found[index].1) => found[index].1 = endpoint,
                        Some(_) => {}
                    }
                }
            }
        }
        found
    }

    /// Of the ready endpoints those that hints want: by node if possible, else by zone, else all.
    fn near(&self, ready: &[&(SocketAddr, &Endpoint)]) -> Vec<SocketAddr> {
        let zone = self.zone();
        let by_node: Vec<_> = ready.iter().filter(|found| node_hints(found.1).contains(&self.node)).collect();
        let by_zone: Vec<_> = ready
            .iter()
            .filter(|found| zone.is_some_and(|zone| zone_hints(found.1).contains(&zone)))
            .collect();
        let all_name_nodes = ready.iter().all(|found| !node_hints(found.1).is_empty());
        let all_name_zones = ready.iter().all(|found| !zone_hints(found.1).is_empty());
        if all_name_nodes && !by_node.is_empty() {
            by_node.iter().map(|found| found.0).collect()
        } else if all_name_zones && !by_zone.is_empty() {
            by_zone.iter().map(|found| found.0).collect()
        } else {
            ready.iter().map(|found| found.0).collect()
        }
    }

    fn admits(&self, service: &Service, client: IpAddr) -> bool {
        let written = service.spec.iter().flat_map(|spec| spec.load_balancer_source_ranges.iter().flatten());
        let ranges: Vec<ipnet::IpNet> = written.filter_map(|range| range.trim().parse().ok()).collect();
        let ranges: Vec<_> =
            ranges.iter().filter(|range| range.addr().is_ipv6() == client.is_ipv6()).collect();
        let within = |address: &IpAddr| ranges.iter().any(|range| range.contains(address));
        let primary = self.node_addresses().into_iter().find(|address| address.is_ipv6() == client.is_ipv6());
        let own_balancer_address = balancer_addresses(service).contains(&client);
        ranges.is_empty() || within(&client) || (own_balancer_address && primary.as_ref().is_some_and(within))
    }

    fn this(&self) -> Option<&'a Node> {
        self.objects.nodes.values().find(|node| node.metadata.name.as_deref() == Some(self.node))
    }

    fn zone(&self) -> Option<&'a str> {
        let zone = self.this()?.metadata.labels.as_ref()?.get("topology.kubernetes.io/zone")?;
        (!zone.is_empty()).then_some(zone)
    }

    fn node_addresses(&self) -> Vec<IpAddr> {
        let status = self.this().and_then(|node| node.status.as_ref());
        let addresses = status.and_then(|status| status.addresses.as_deref()).unwrap_or_default();
        addresses.iter().filter_map(|address| address.address.parse().ok()).collect()
    }

    fn pod_ranges(&self, ipv6: bool) -> Vec<ipnet::IpNet> {
        let specs = self.objects.nodes.values().filter_map(|node| node.spec.as_ref());
        let written = specs.flat_map(|spec| spec.pod_cidrs.iter().flatten().chain(&spec.pod_cidr));
        let ranges = written.filter_map(|range| range.parse().ok());
        ranges.filter(|range: &ipnet::IpNet| range.addr().is_ipv6() == ipv6).collect()
    }

    fn is_pod(&self, address: IpAddr) -> bool {
        let in_range = self.pod_ranges(address.is_ipv6()).iter().any(|range| range.contains(&address));
        in_range
            || self.objects.pods.values().any(|pod| {
                let host = pod.spec.as_ref().and_then(|spec| spec.host_network).unwrap_or(false);
                let ips = pod.status.iter().flat_map(|status| status.pod_ips.iter().flatten());
                !host && ips.filter_map(|ip| ip.ip.parse::<IpAddr>().ok()).any(|ip| ip == address)
            })
    }
}

fn text<'a>(service: &'a Service, field: impl Fn(&'a ServiceSpec) -> Option<&'a str>) -> &'a str {
    service.spec.as_ref().and_then(field).unwrap_or_default()
}

fn parsed<'a>(texts: impl Iterator<Item = &'a String>) -> Vec<IpAddr> {
    texts.filter_map(|text| text.parse().ok()).collect()
}

fn cluster_addresses(service: &Service) -> Vec<IpAddr> {
    parsed(service.spec.iter().flat_map(|spec| spec.cluster_ips.iter().flatten().chain(&spec.cluster_ip)))
}

fn external_addresses(service: &Service) -> Vec<IpAddr> {
    parsed(service.spec.iter().flat_map(|spec| spec.external_ips.iter().flatten()))
}

fn balancer_addresses(service: &Service) -> Vec<IpAddr> {
    let balancer = service.status.iter().filter_map(|status| status.load_balancer.as_ref());
    let points = balancer.flat_map(|balancer| balancer.ingress.iter().flatten());
    parsed(
        points
            .filter(|point| point.ip_mode.as_deref() != Some("Proxy"))
            .filter_map(|point| point.ip.as_ref()),
    )
}

fn belongs(slice: &EndpointSlice, service: &Service, ipv6: bool) -> bool {
    let label = slice.metadata.labels.iter().flatten().find(|(key, _)| *key == "kubernetes.io/service-name");
    let family = if ipv6 { "IPv6" } else { "IPv4" };
    slice.metadata.namespace == service.metadata.namespace
        && label.map(|(_, name)| name) == service.metadata.name.as_ref()
        && slice.address_type == family
}

/// The numbers that a slice gives for a Service port: the same name and protocol.
fn slice_ports(slice: &EndpointSlice, port: &ServicePort) -> Vec<u16> {
    let name = |name: &Option<String>| name.clone().unwrap_or_default();
    let protocol = |protocol: &Option<String>| protocol.clone().unwrap_or_else(|| "TCP".into());
    let ports = slice.ports.iter().flatten();
    let same = ports.filter(|other| name(&other.name) == name(&port.name));
    let same = same.filter(|other| protocol(&other.protocol) == protocol(&port.protocol));
    same.filter_map(|other| u16::try_from(other.port?).ok()).collect()
}

fn is_ready(endpoint: &Endpoint) -> bool {
    endpoint.conditions.as_ref().and_then(|conditions| conditions.ready) != Some(false)
}

fn is_serving(endpoint: &Endpoint) -> bool {
    let serving = endpoint.conditions.as_ref().and_then(|conditions| conditions.serving);
    serving.unwrap_or_else(|| is_ready(endpoint))
}

fn is_leaving(endpoint: &Endpoint) -> bool {
    let terminating = endpoint.conditions.as_ref().and_then(|conditions| conditions.terminating);
    is_serving(endpoint) && terminating == Some(true)
}

fn node_hints(endpoint: &Endpoint) -> Vec<&str> {
    let hints = endpoint.hints.iter().flat_map(|hints| hints.for_nodes.iter().flatten());
    hints.map(|hint| hint.name.as_str()).collect()
}

fn zone_hints(endpoint: &Endpoint) -> Vec<&str> {
    let hints = endpoint.hints.iter().flat_map(|hints| hints.for_zones.iter().flatten());
    hints.map(|hint| hint.name.as_str()).collect()
}
