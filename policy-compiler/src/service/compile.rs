//! From [`Intent::services`](crate::intent::Intent::services) to a [`ServiceTable`]: checks, endpoint selection, frontends.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ipnet::IpNet;

use super::clients::Clients;
use super::sets::{BackendSet, SetPool};
use super::{
    FrontendEntry, FrontendKey, NodePortAddresses, ServiceEntry, ServiceId, ServiceOptions, ServiceTable,
    Site,
};
use crate::hash::{absorb, absorb_text};
use crate::intent::{Backend, Endpoint, Frontend, FrontendKind, Node, ObjectName, Service, TrafficPolicy};
use crate::maglev::Member;
use crate::shared_map::{Key, SharedMap};
use crate::tables::CompileError;
use crate::view::{Change, View};

/// Compiles in three steps: check all, number and fill the Services, then place their frontends.
pub(super) fn compile(
    view: &View<'_>,
    options: &ServiceOptions,
    pool: &mut SetPool,
) -> Result<ServiceTable, CompileError> {
    let node = view.nodes.iter().find(|node| node.name == view.node).cloned().unwrap_or_default();
    let own = node_port_addresses(&node, &options.node_ports);
    let site = Site { own, masquerade_all: options.masquerade_all, node };
    let mut table =
        ServiceTable { clients: Clients::compile(view), site: Arc::new(site), ..ServiceTable::default() };
    let services: Vec<(u32, &Service)> = view.services().collect();
    add(
        &mut table,
        &services,
        |position| services.get(position).map_or(0, |(number, _)| *number as usize),
        pool,
    )?;
    Ok(table)
}

/// Takes out what is removed, and goes through the same steps for what is added; then for the node ports that have come to light.
pub(super) fn update(
    table: &ServiceTable,
    services: &Change<'_, Service>,
    endpoints: &Change<'_, Endpoint>,
    pool: &mut SetPool,
) -> Result<ServiceTable, CompileError> {
    let mut table = table.clone();
    table.clients.update(endpoints);
    let site = Arc::clone(&table.site);
    let mut bared = Vec::new();
    for (number, service) in &services.removed {
        take_out(&mut table, ServiceId(*number), service, &site.own, &mut bared);
    }
    add(&mut table, &services.added, |position| position, pool)?;
    for key in bared {
        for service in table.shadowed.remove(&key).unwrap_or_default() {
            place_one(&mut table, key, service, FrontendKind::NodePort).map_err(|other| {
                let name = |service| table.name(service).map_or(String::new(), |(name, _)| name.to_string());
                CompileError::Invalid {
                    object: format!("Service {}", name(service)),
                    field: "frontends".into(),
                    problem: format!("{} port {} is Service {} already", key.address, key.port, name(other)),
                }
            })?;
        }
    }
    Ok(table)
}

/// Adds Services. `at` says where an error says that one stands.
fn add(
    table: &mut ServiceTable,
    services: &[(u32, &Service)],
    at: impl Fn(usize) -> usize,
    pool: &mut SetPool,
) -> Result<(), CompileError> {
    for (position, (_, service)) in services.iter().enumerate() {
        check(at(position), service)?;
    }
    let site = Arc::clone(&table.site);
    for (number, service) in services {
        let place = *number as usize;
        if table.services.len() <= place {
            table.services.resize(place + 1, None);
        }
        let entry = Arc::new(entry(service, &site.node, pool));
        table.services.get_mut(place).into_iter().for_each(|slot| *slot = Some(Arc::clone(&entry)));
    }
    place(table, services, &at, is_addressed, |frontend| frontend.address.into_iter().collect())?;
    // Last, so that an address that a Service names has precedence over a node port at the same place.
    place(
        table,
        services,
        &at,
        |frontend| !is_addressed(frontend),
        |frontend| own_addresses(frontend, &site.own),
    )
}

fn is_addressed(frontend: &Frontend) -> bool {
    frontend.kind != FrontendKind::NodePort
}

fn own_addresses(frontend: &Frontend, own: &[IpAddr]) -> Vec<IpAddr> {
    own.iter().copied().filter(|address| address.is_ipv6() == frontend.ipv6).collect()
}

/// Takes a Service out. `bared` are the places that are free now.
fn take_out(
    table: &mut ServiceTable,
    id: ServiceId,
    service: &Service,
    own: &[IpAddr],
    bared: &mut Vec<FrontendKey>,
) {
    let protocol = service.protocol.map_or(0, |protocol| protocol as u8);
    for frontend in &service.frontends {
        let addresses = match frontend.address {
            Some(address) => vec![address],
            None => own_addresses(frontend, own),
        };
        for address in addresses {
            let key = FrontendKey { address, port: frontend.port, protocol };
            if table.frontends.get(&key).is_some_and(|entry| entry.service == id) {
                table.frontends.remove(&key);
                bared.push(key);
            }
            take_out_of(&mut table.shadowed, &key, id);
            take_out_of(&mut table.cluster_addresses, &address, id);
        }
    }
    table.services.get_mut(id.0 as usize).into_iter().for_each(|slot| *slot = None);
}

fn take_out_of<K: Key>(map: &mut SharedMap<K, Vec<ServiceId>>, key: &K, id: ServiceId) {
    if let Some(list) = map.get(key).filter(|list| list.contains(&id)) {
        let rest: Vec<ServiceId> = list.iter().copied().filter(|other| *other != id).collect();
        if rest.is_empty() {
            map.remove(key);
        } else {
            map.insert(*key, rest);
        }
    }
}

/// Adds to a list that stays in the order of names, whatever the order in which Services come.
fn put_into<K: Key>(
    map: &mut SharedMap<K, Vec<ServiceId>>,
    key: K,
    id: ServiceId,
    name: impl Fn(ServiceId) -> Option<(ObjectName, String)>,
) {
    let mut list = map.get(&key).cloned().unwrap_or_default();
    if !list.contains(&id) {
        list.push(id);
        list.sort_by_cached_key(|id| (name(*id), *id));
        map.insert(key, list);
    }
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

fn entry(service: &Service, node: &Node, pool: &mut SetPool) -> ServiceEntry {
    let selection = select(service, node);
    let any = !selection.cluster.is_empty() || !selection.local.is_empty();
    let mut prepared = |used: bool, members: Vec<Member>| -> Option<Arc<BackendSet>> {
        let set = if used { pool.intern(members) } else { None }?;
        set.prepare();
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
        name: service.name.clone(),
        port_name: service.port_name.clone(),
        internal: service.internal_policy,
        external: service.external_policy,
        affinity,
        source_ranges: source_ranges(service, node),
        cluster,
        local,
        serving: pool.intern(serving),
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

/// Places the frontends that `wanted` chooses at the addresses that `addresses` gives.
fn place(
    table: &mut ServiceTable,
    services: &[(u32, &Service)],
    at: impl Fn(usize) -> usize,
    wanted: impl Fn(&Frontend) -> bool,
    addresses: impl Fn(&Frontend) -> Vec<IpAddr>,
) -> Result<(), CompileError> {
    for (position, (number, service)) in services.iter().enumerate() {
        let protocol = service.protocol.map_or(0, |protocol| protocol as u8);
        let chosen = service.frontends.iter().enumerate().filter(|(_, frontend)| wanted(frontend));
        for (index, frontend) in chosen {
            for address in addresses(frontend) {
                let key = FrontendKey { address, port: frontend.port, protocol };
                place_one(table, key, ServiceId(*number), frontend.kind).map_err(|other| {
                    let other = table.name(other).map_or(String::new(), |(name, _)| name.to_string());
                    let problem = format!("{address} port {} is Service {other} already", key.port);
                    invalid(at(position), service, &format!("frontends[{index}]"), problem)
                })?;
            }
        }
    }
    Ok(())
}

/// `Err` names the Service that is there already.
fn place_one(
    table: &mut ServiceTable,
    key: FrontendKey,
    service: ServiceId,
    kind: FrontendKind,
) -> Result<(), ServiceId> {
    let services = &table.services;
    let name = |id: ServiceId| {
        let entry = services.get(id.0 as usize)?.as_ref()?;
        Some((entry.name.clone(), entry.port_name.clone()))
    };
    if kind == FrontendKind::ClusterIp {
        put_into(&mut table.cluster_addresses, key.address, service, name);
    }
    let frontend =
        services.get(service.0 as usize).and_then(|entry| Some(frontend(service, kind, entry.as_deref()?)));
    // It is there: its entry is made before its frontends are placed.
    let Some(frontend) = frontend else { return Ok(()) };
    let is_node_port = |kind: FrontendKind| kind == FrontendKind::NodePort;
    match table.frontends.get(&key).map(|there| (there.service, there.kind)) {
        None => {
            table.frontends.insert(key, frontend);
        }
        Some((_, there)) if is_node_port(kind) && !is_node_port(there) => {
            put_into(&mut table.shadowed, key, service, name);
        }
        // Only where a node port was there before: all at once, addresses are placed first.
        Some((other, there)) if is_node_port(there) && !is_node_port(kind) => {
            table.frontends.insert(key, frontend);
            put_into(&mut table.shadowed, key, other, name);
        }
        Some((other, _)) if other != service => return Err(other),
        // One Service names one address as two sorts: source ranges hold wherever they may.
        Some((_, FrontendKind::ExternalIp)) if kind == FrontendKind::LoadBalancer => {
            table.frontends.insert(key, frontend);
        }
        Some(_) => {}
    }
    Ok(())
}

fn frontend(service: ServiceId, kind: FrontendKind, entry: &ServiceEntry) -> FrontendEntry {
    FrontendEntry {
        service,
        kind,
        policy: if kind == FrontendKind::ClusterIp { entry.internal } else { entry.external },
        any: entry.any,
        affinity: entry.affinity,
        cluster: entry.cluster.as_ref().and_then(|set| set.picks().cloned()),
    }
}
