//! From [`Intent::services`] to a [`ServiceTable`]: checks, endpoint selection, frontends.

use std::collections::hash_map::Entry;
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

use super::clients::Clients;
use super::sets::{BackendSets, SetId};
use super::{
    FrontendEntry, FrontendKey, NodePortAddresses, ServiceEntry, ServiceId, ServiceOptions, ServiceTable,
};
use crate::hash::{absorb, absorb_text};
use crate::intent::{Backend, Frontend, FrontendKind, Intent, Node, Service, TrafficPolicy};
use crate::maglev::Member;
use crate::tables::CompileError;

/// Compiles in three steps: check all, number and fill the Services, then place their frontends.
pub(super) fn compile(
    intent: &Intent,
    options: &ServiceOptions,
    previous: Option<&ServiceTable>,
) -> Result<ServiceTable, CompileError> {
    let nowhere = Node::default();
    let node = intent.nodes.iter().find(|node| node.name == intent.node).unwrap_or(&nowhere);
    for (index, service) in intent.services.iter().enumerate() {
        check(index, service)?;
    }
    let previous = previous.map(|table| &table.sets);
    let mut sets = BackendSets::default();
    let services = intent.services.iter().map(|service| entry(service, node, &mut sets, previous)).collect();
    let mut table = ServiceTable {
        services,
        names: intent
            .services
            .iter()
            .map(|service| (service.name.clone(), service.port_name.clone()))
            .collect(),
        sets,
        clients: Clients::compile(intent),
        masquerade_all: options.masquerade_all,
        ..ServiceTable::default()
    };
    let addressed = |frontend: &Frontend| frontend.kind != FrontendKind::NodePort;
    place(&mut table, intent, addressed, |frontend| frontend.address.into_iter().collect())?;
    // Last, so that an address that a Service names has precedence over a node port at the same place.
    let own = node_port_addresses(node, &options.node_ports);
    place(
        &mut table,
        intent,
        |frontend| !addressed(frontend),
        |frontend| own.iter().copied().filter(|address| address.is_ipv6() == frontend.ipv6).collect(),
    )?;
    Ok(table)
}

fn invalid(index: usize, service: &Service, field: &str, problem: impl Into<String>) -> CompileError {
    CompileError::Invalid {
        object: format!("Service {}", service.name),
        field: format!("services[{index}].{field}"),
        problem: problem.into(),
    }
}

/// Checks what types leave open: ports, families, distinct backends.
fn check(index: usize, service: &Service) -> Result<(), CompileError> {
    if service.protocol.is_none() {
        return Err(invalid(index, service, "protocol", "is missing"));
    }
    let families = service.frontends.iter().map(|frontend| frontend.ipv6);
    let mut families = families.chain(service.backends.iter().map(|backend| backend.address.is_ipv6()));
    let Some(ipv6) = families.next() else { return Ok(()) };
    for (position, frontend) in service.frontends.iter().enumerate() {
        check_frontend(frontend, ipv6).map_err(|(field, problem)| {
            invalid(index, service, &format!("frontends[{position}].{field}"), problem)
        })?;
    }
    for (position, backend) in service.backends.iter().enumerate() {
        check_backend(backend, ipv6).map_err(|(field, problem)| {
            invalid(index, service, &format!("backends[{position}].{field}"), problem)
        })?;
    }
    check_distinct(index, service)
}

fn check_frontend(frontend: &Frontend, ipv6: bool) -> Result<(), (&'static str, String)> {
    match (frontend.kind, frontend.address) {
        _ if frontend.port == 0 => Err(("port", "is 0".into())),
        _ if frontend.ipv6 != ipv6 => Err(("ipv6", "differs from the Service's other frontends".into())),
        (FrontendKind::NodePort, Some(address)) => {
            Err(("address", format!("is {address}, but a node port has none")))
        }
        (FrontendKind::NodePort, None) => Ok(()),
        (kind, None) => Err(("address", format!("is missing for {kind:?}"))),
        (_, Some(address)) if address.is_ipv6() != ipv6 => {
            Err(("address", format!("{address} is of the other family")))
        }
        (_, Some(_)) => Ok(()),
    }
}

fn check_backend(backend: &Backend, ipv6: bool) -> Result<(), (&'static str, String)> {
    if backend.port == 0 {
        return Err(("port", "is 0".into()));
    }
    if backend.weight == 0 {
        return Err(("weight", "is 0".into()));
    }
    if backend.address.is_ipv6() != ipv6 {
        return Err(("address", format!("{} is not of the frontends' family", backend.address)));
    }
    Ok(())
}

fn check_distinct(index: usize, service: &Service) -> Result<(), CompileError> {
    let mut order: Vec<(IpAddr, u16, usize)> =
        service.backends.iter().enumerate().map(|(position, b)| (b.address, b.port, position)).collect();
    order.sort_unstable();
    for pair in order.windows(2) {
        if let [(address, port, _), (next, next_port, position)] = pair
            && (address, port) == (next, next_port)
        {
            let problem = format!("{address} port {port} is listed twice");
            return Err(invalid(index, service, &format!("backends[{position}]"), problem));
        }
    }
    Ok(())
}

fn entry(
    service: &Service,
    node: &Node,
    sets: &mut BackendSets,
    previous: Option<&BackendSets>,
) -> ServiceEntry {
    let selection = select(service, node);
    let any = !selection.cluster.is_empty() || !selection.local.is_empty();
    let mut prepared = |used: bool, members: Vec<Member>| -> Option<SetId> {
        let set = if used { sets.intern(members) } else { None }?;
        sets.prepare(set, previous);
        Some(set)
    };
    let cluster = prepared(uses_cluster(service), selection.cluster);
    let local = prepared(uses_local(service), selection.local);
    let serving =
        service.backends.iter().filter(|backend| backend.ready || backend.serving).map(member).collect();
    let affinity = service.affinity_seconds.map(|_| {
        let salt = absorb_text(absorb_text(0, &service.name.namespace), &service.name.name);
        absorb(absorb_text(salt, &service.port_name), service.protocol.map_or(0, |protocol| protocol as u64))
    });
    ServiceEntry {
        internal: service.internal_policy,
        external: service.external_policy,
        affinity,
        source_ranges: source_ranges(service, node),
        cluster,
        local,
        serving: sets.intern(serving),
        any,
    }
}

/// The source ranges of the Service's family. Where they admit this node, a client whose address is one of the
/// balancer's is this node, too: a node reaches a balancer address that it holds itself under that address.
fn source_ranges(service: &Service, node: &Node) -> Box<[IpNet]> {
    let ipv6 = service.frontends.first().is_some_and(|frontend| frontend.ipv6);
    let of_family = |range: &&IpNet| matches!(range, IpNet::V6(_)) == ipv6;
    let mut ranges: Vec<IpNet> = service.source_ranges.iter().filter(of_family).copied().collect();
    let primary = node.addresses.iter().find(|address| address.is_ipv6() == ipv6);
    if primary.is_some_and(|primary| ranges.iter().any(|range| range.contains(primary))) {
        let balancers =
            service.frontends.iter().filter(|frontend| frontend.kind == FrontendKind::LoadBalancer);
        ranges.extend(balancers.filter_map(|frontend| frontend.address).map(IpNet::from));
    }
    ranges.into()
}

/// Backends by policy, before it is asked which policy holds.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Selection {
    pub(super) cluster: Vec<Member>,
    pub(super) local: Vec<Member>,
}

/// Which endpoints a node may use, as kube-proxy's `CategorizeEndpoints` has it: readiness, topology hints, and
/// terminating endpoints where nothing better is left.
pub(super) fn select(service: &Service, node: &Node) -> Selection {
    let backends = service.backends.as_slice();
    let near = nearness(backends, node);
    let here = |backend: &Backend| !node.name.is_empty() && backend.node == node.name;
    Selection {
        cluster: ready_or_leaving(backends, |backend| near.admits(backend, node), |_| true),
        local: ready_or_leaving(backends, here, here),
    }
}

/// The ready backends that `ready` lets through; if there are none, those that serve while they terminate and
/// that `leaving` lets through.
fn ready_or_leaving(
    backends: &[Backend],
    ready: impl Fn(&Backend) -> bool,
    leaving: impl Fn(&Backend) -> bool,
) -> Vec<Member> {
    let chosen: Vec<Member> = backends.iter().filter(|b| b.ready && ready(b)).map(member).collect();
    if !chosen.is_empty() {
        return chosen;
    }
    backends.iter().filter(|b| b.serving && b.terminating && leaving(b)).map(member).collect()
}

/// How near the hints let a backend be.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Nearness {
    Node,
    Zone,
    Anywhere,
}

impl Nearness {
    fn admits(self, backend: &Backend, node: &Node) -> bool {
        match self {
            Nearness::Node => backend.node_hints.contains(&node.name),
            Nearness::Zone => backend.zone_hints.contains(&node.zone),
            Nearness::Anywhere => true,
        }
    }
}

/// Hints count only where every ready backend has them and one of them is for us.
fn nearness(backends: &[Backend], node: &Node) -> Nearness {
    let ready = || backends.iter().filter(|backend| backend.ready);
    let hold = |near: Nearness, hinted: fn(&Backend) -> bool| {
        ready().all(hinted) && ready().any(|backend| near.admits(backend, node))
    };
    if hold(Nearness::Node, |backend| !backend.node_hints.is_empty()) {
        Nearness::Node
    } else if !node.zone.is_empty() && hold(Nearness::Zone, |backend| !backend.zone_hints.is_empty()) {
        Nearness::Zone
    } else {
        Nearness::Anywhere
    }
}

fn member(backend: &Backend) -> Member {
    Member { address: SocketAddr::new(backend.address, backend.port), weight: backend.weight }
}

fn has(service: &Service, internal: bool) -> bool {
    service.frontends.iter().any(|frontend| (frontend.kind == FrontendKind::ClusterIp) == internal)
}

/// Even under the external Local policy: pods and the node itself then go to the cluster set.
pub(super) fn uses_cluster(service: &Service) -> bool {
    has(service, false) || (has(service, true) && service.internal_policy == TrafficPolicy::Cluster)
}

pub(super) fn uses_local(service: &Service) -> bool {
    (has(service, false) && service.external_policy == TrafficPolicy::Local)
        || (has(service, true) && service.internal_policy == TrafficPolicy::Local)
}

fn node_port_addresses(node: &Node, wanted: &NodePortAddresses) -> Vec<IpAddr> {
    let addresses = || node.addresses.iter().copied();
    match wanted {
        NodePortAddresses::All => addresses().collect(),
        NodePortAddresses::Primary => {
            let first = |ipv6: bool| addresses().find(|address| address.is_ipv6() == ipv6);
            first(false).into_iter().chain(first(true)).collect()
        }
        NodePortAddresses::Within(ranges) => {
            addresses().filter(|address| ranges.iter().any(|range| range.contains(address))).collect()
        }
    }
}

/// Places the frontends that `wanted` chooses at the addresses that `at` gives.
fn place(
    table: &mut ServiceTable,
    intent: &Intent,
    wanted: impl Fn(&Frontend) -> bool,
    at: impl Fn(&Frontend) -> Vec<IpAddr>,
) -> Result<(), CompileError> {
    for (index, service) in intent.services.iter().enumerate() {
        let protocol = service.protocol.map_or(0, |protocol| protocol as u8);
        let chosen = service.frontends.iter().enumerate().filter(|(_, frontend)| wanted(frontend));
        for (position, frontend) in chosen {
            let entry = FrontendEntry { service: ServiceId(index as u32), kind: frontend.kind };
            for address in at(frontend) {
                let key = FrontendKey { address, port: frontend.port, protocol };
                place_one(table, key, entry).map_err(|other| {
                    let other = table.name(other).map_or(String::new(), |(name, _)| name.to_string());
                    let problem = format!("{address} port {} is Service {other} already", key.port);
                    invalid(index, service, &format!("frontends[{position}]"), problem)
                })?;
            }
        }
    }
    Ok(())
}

/// `Err` names the Service that is there already.
fn place_one(table: &mut ServiceTable, key: FrontendKey, entry: FrontendEntry) -> Result<(), ServiceId> {
    if entry.kind == FrontendKind::ClusterIp {
        table.cluster_addresses.entry(key.address).or_insert(entry.service);
    }
    match table.frontends.entry(key) {
        Entry::Vacant(vacant) => {
            vacant.insert(entry);
            Ok(())
        }
        Entry::Occupied(mut taken) => {
            let there = *taken.get();
            if entry.kind == FrontendKind::NodePort && there.kind != FrontendKind::NodePort {
                return Ok(());
            }
            if there.service != entry.service {
                return Err(there.service);
            }
            // One Service names one address as two sorts: source ranges hold wherever they may.
            if entry.kind == FrontendKind::LoadBalancer && there.kind == FrontendKind::ExternalIp {
                taken.insert(entry);
            }
            Ok(())
        }
    }
}
