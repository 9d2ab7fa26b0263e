//! A cluster to be judged by: a client and a neighbour on this node, Services whose backends are on four others.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use agent_api::contract::PortRole;
use dataplane::control::build::{self, PortFacts, Settings, Surroundings, World};
use dataplane::rule_hits::HitTable;
use dataplane::snapshot::{Mac, PortIndex, Snapshot};
use dataplane::validity::Validity;
use etherparse::{IpHeaders, PacketBuilder, PacketBuilderStep, TcpHeader};
use policy_compiler::intent::{
    Backend, Endpoint, Frontend, FrontendKind, Identity, Intent, Node, ObjectName, Peers, Policy, PortMatch,
    PortSelector, Protocol, Rule, Service,
};
use policy_compiler::tables::{Capacity, Tables};

use crate::replay::{LONG_LEN, LongPacket, PACKET_LEN, Packet, Packets};

/// The client's port.
pub const CLIENT_PORT: PortIndex = 0;
/// Its neighbour's port, on the same node.
pub const NEIGHBOUR_PORT: PortIndex = 1;
/// The underlay's port.
pub const UPLINK_PORT: PortIndex = 2;
/// Ports there are.
pub const PORTS: usize = 3;

/// The client: its egress is isolated, with one rule for the backends.
pub const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 10);
/// Its neighbour, whom no policy selects.
pub const NEIGHBOUR: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 11);
/// The client's other address.
pub const CLIENT_V6: Ipv6Addr = pod_v6(1, 0, 10);
/// Its neighbour's.
pub const NEIGHBOUR_V6: Ipv6Addr = pod_v6(1, 0, 11);

/// How large the cluster is.
#[derive(Debug, Clone, Copy)]
pub struct Scale {
    /// Services, in each family.
    pub services: u16,
    /// Policies beside the two that count, each of four rules.
    pub policies: u32,
}

/// Small enough for its tables to stay in the caches.
pub const SMALL: Scale = Scale { services: SERVICES, policies: 0 };
/// As many Services as four million flows take.
pub const WIDE: Scale = Scale { services: 128, policies: 0 };
/// 5,000 Services with 40,000 backends, 10,000 rules.
pub const LARGE: Scale = Scale { services: 5000, policies: 2500 };

/// Services of the small cluster.
pub const SERVICES: u16 = 32;
/// Backends of each; no two Services share one.
pub const BACKENDS: u16 = 8;
/// Port of each Service.
pub const SERVICE_PORT: u16 = 80;
/// Port of each backend.
pub const BACKEND_PORT: u16 = 8080;

const MAC: Mac = [2, 0, 0, 0, 0, 1];
const PEER_MAC: Mac = [2, 0, 0, 0, 0, 2];
const NODES: u8 = 5;
const CLIENTS: u32 = 0;
const SERVERS: u32 = 1;
const OTHERS: u32 = 2;

/// The address of a Service.
pub fn service_address(service: u16) -> Ipv4Addr {
    Ipv4Addr::new(10, 96, (service >> 8) as u8, service as u8)
}

/// The address of a backend, and the node it is on.
pub fn backend_address(service: u16, backend: u16) -> (Ipv4Addr, u8) {
    let node = 2 + ((service + backend) % (NODES as u16 - 1)) as u8;
    // Two of the eight backends are on each of the four nodes.
    let host = 256 + service * 2 + backend / (NODES as u16 - 1);
    (Ipv4Addr::new(10, node, (host >> 8) as u8, host as u8), node)
}

/// The address of a Service's other family.
pub fn service_address_v6(service: u16) -> Ipv6Addr {
    Ipv6Addr::new(0xfd00, 0x96, 0, 0, 0, 0, 1, service)
}

/// The other address of a backend.
pub fn backend_address_v6(service: u16, backend: u16) -> Ipv6Addr {
    let (_, node) = backend_address(service, backend);
    pod_v6(node, service, 10 + backend)
}

const fn pod_v6(node: u8, number: u16, host: u16) -> Ipv6Addr {
    Ipv6Addr::new(0xfd00, 0x10, node as u16, 0, 0, 0, number, host)
}

/// The wanted state of the small cluster, with so many policies beside the two that count.
pub fn intent(other_policies: u32) -> Intent {
    intent_of(&Scale { policies: other_policies, ..SMALL })
}

/// The wanted state.
pub fn intent_of(scale: &Scale) -> Intent {
    let other_policies = scale.policies;
    let name = |name: String| ObjectName::new("bench", name);
    let node = |number: u8| Node {
        name: format!("node-{number}"),
        addresses: vec![IpAddr::from([172, 30, 0, number])],
        pod_cidrs: [format!("10.{number}.0.0/16"), format!("fd00:10:{number}::/48")]
            .map(|prefix| prefix.parse().expect("a prefix"))
            .to_vec(),
        zone: String::new(),
    };
    let endpoint = |pod: String, node: u8, v4: Ipv4Addr, v6: Ipv6Addr, identity| Endpoint {
        name: name(pod),
        node: format!("node-{node}"),
        addresses: vec![v4.into(), v6.into()],
        host_network: false,
        identity,
    };
    let pairs =
        || (0..scale.services).flat_map(|service| (0..BACKENDS).map(move |backend| (service, backend)));
    let mut endpoints = vec![
        endpoint("client".into(), 1, CLIENT, CLIENT_V6, CLIENTS),
        endpoint("neighbour".into(), 1, NEIGHBOUR, NEIGHBOUR_V6, OTHERS),
    ];
    endpoints.extend(pairs().map(|(service, backend)| {
        let (address, node) = backend_address(service, backend);
        let other = backend_address_v6(service, backend);
        endpoint(format!("server-{service}-{backend}"), node, address, other, SERVERS)
    }));
    let identity =
        |label: String| Identity { namespace: "bench".into(), labels: vec![label], named_ports: vec![] };
    let mut identities: Vec<_> =
        ["app=client", "app=server", "app=other"].into_iter().map(|label| identity(label.into())).collect();
    identities.extend((0..other_policies).map(|number| identity(format!("group={number}"))));
    let mut policies = vec![
        policy(name("servers".into()), SERVERS, Some(vec![rule(CLIENTS, BACKEND_PORT)]), None),
        policy(
            name("clients".into()),
            CLIENTS,
            None,
            Some(vec![rule(SERVERS, BACKEND_PORT), rule(OTHERS, BACKEND_PORT)]),
        ),
    ];
    policies.extend((0..other_policies).map(|number| {
        let rules =
            (0..4).map(|port| rule(3 + (number + port) % other_policies, 9000 + port as u16)).collect();
        policy(name(format!("group-{number}")), 3 + number, Some(rules), None)
    }));
    Intent {
        node: "node-1".into(),
        vni: 7,
        nodes: (1..=NODES).map(node).collect(),
        identities,
        endpoints,
        policies,
        services: (0..scale.services)
            .flat_map(|number| [service(number, false), service(number, true)])
            .collect(),
        service_ranges: ["10.96.0.0/12", "fd00:96::/64"]
            .map(|range| range.parse().expect("a prefix"))
            .to_vec(),
    }
}

fn policy(name: ObjectName, subject: u32, ingress: Option<Vec<Rule>>, egress: Option<Vec<Rule>>) -> Policy {
    Policy { name, subjects: vec![subject], ingress, egress, ..Policy::default() }
}

fn rule(identity: u32, port: u16) -> Rule {
    let port = PortMatch { protocol: Protocol::Tcp, port: PortSelector::Range(port, port) };
    Rule {
        peers: Some(Peers { identities: vec![identity], blocks: vec![] }),
        ports: Some(vec![port]),
        ..Rule::default()
    }
}

fn service(number: u16, ipv6: bool) -> Service {
    let address: IpAddr =
        if ipv6 { service_address_v6(number).into() } else { service_address(number).into() };
    let backend = |backend| {
        let (address, node) = backend_address(number, backend);
        Backend {
            address: if ipv6 { backend_address_v6(number, backend).into() } else { address.into() },
            port: BACKEND_PORT,
            node: format!("node-{node}"),
            ready: true,
            serving: true,
            terminating: false,
            zone_hints: vec![],
            node_hints: vec![],
            weight: 1,
        }
    };
    Service {
        name: ObjectName::new("bench", format!("service-{number}")),
        protocol: Some(Protocol::Tcp),
        frontends: vec![Frontend {
            kind: FrontendKind::ClusterIp,
            address: Some(address),
            port: SERVICE_PORT,
            ipv6,
        }],
        backends: (0..BACKENDS).map(backend).collect(),
        ..Service::default()
    }
}

/// The tables of [`intent`].
pub fn tables(other_policies: u32) -> Tables {
    tables_of(&Scale { policies: other_policies, ..SMALL })
}

fn tables_of(scale: &Scale) -> Tables {
    Tables::compile(&intent_of(scale), 1, &Capacity::default()).expect("the intent is right")
}

/// What a worker of the small cluster that serves the three ports judges by, every neighbour known.
pub fn snapshot() -> Snapshot {
    snapshot_of(&SMALL)
}

/// What a worker that serves the three ports judges by, every neighbour known.
pub fn snapshot_of(scale: &Scale) -> Snapshot {
    snapshot_by(&tables_of(scale))
}

/// What it judges by with any tables that have its node. Nodes that are not on the link are behind a gateway.
pub fn snapshot_by(tables: &Tables) -> Snapshot {
    let pod = |pod: &str| PortRole::Pod(format!("bench/{pod}"));
    let roles = [pod("client"), pod("neighbour"), PortRole::Uplink];
    let port = |role| Some(PortFacts { role, mac: MAC, mtu: 1500, worker: 0, peer_mac: Some(PEER_MAC) });
    let gateway = IpAddr::from([172, 30, 0, 254]);
    let on_link = (2..=NODES).map(|node| IpAddr::from([172, 30, 0, node])).chain([gateway]);
    let surroundings = Surroundings {
        on_link: vec!["172.30.0.0/24".parse().expect("a prefix")],
        macs: on_link.map(|address| (address, PEER_MAC)).collect::<BTreeMap<IpAddr, Mac>>(),
        gateway_v4: Some(gateway),
        ..Surroundings::default()
    };
    let settings = Settings {
        gateway_v4: Ipv4Addr::new(169, 254, 1, 1),
        gateway_v6: Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1),
        snat_ports: (61_000, 65_535),
        inner_mac: [2, 0, 0, 0, 0, 9],
    };
    let world = World {
        tables,
        ports: &roles.map(port),
        surroundings: &surroundings,
        settings: &settings,
        watch_drops: false,
    };
    let rule_hits = Arc::new(HitTable::new(1, 1, &tables.policy.origins()));
    Snapshot { validity: Validity::only(1), rule_hits, ..build::snapshot(&world) }
}

/// A TCP segment of the client.
pub fn packet(src_port: u16, dst: Ipv4Addr, dst_port: u16) -> Packet {
    finished(ipv4(dst).tcp(src_port, dst_port, 1, 1024).ack(1))
}

/// The client opens a connection.
pub fn syn(src_port: u16, dst: Ipv4Addr, dst_port: u16) -> Packet {
    finished(ipv4(dst).tcp(src_port, dst_port, 1, 1024).syn())
}

fn ipv4(dst: Ipv4Addr) -> PacketBuilderStep<IpHeaders> {
    PacketBuilder::ethernet2(PEER_MAC, MAC).ipv4(CLIENT.octets(), dst.octets(), 64)
}

fn finished(builder: PacketBuilderStep<TcpHeader>) -> Packet {
    let mut bytes = Vec::with_capacity(PACKET_LEN);
    builder.write(&mut bytes, b"ten bytes!").expect("a vector takes everything");
    Packet(bytes.try_into().expect("64 bytes"))
}

/// As [`packet`], of the other family.
pub fn packet_v6(src_port: u16, dst: Ipv6Addr, dst_port: u16) -> LongPacket {
    let builder = PacketBuilder::ethernet2(PEER_MAC, MAC)
        .ipv6(CLIENT_V6.octets(), dst.octets(), 64)
        .tcp(src_port, dst_port, 1, 1024)
        .ack(1);
    let mut bytes = Vec::with_capacity(LONG_LEN);
    builder.write(&mut bytes, b"bytes!").expect("a vector takes everything");
    LongPacket(bytes.try_into().expect("80 bytes"))
}

/// So many flows of the client to the small cluster's Services, a packet each, in no order of memory.
pub fn to_services(flows: usize) -> Arc<[Packet]> {
    to_services_of(&SMALL, flows)
}

/// So many flows of the client to the Services, a packet each, in no order of memory.
pub fn to_services_of(scale: &Scale, flows: usize) -> Arc<[Packet]> {
    let flow = |number: usize| {
        let (service, port) = flow_of(scale, number);
        packet(port, service_address(service), SERVICE_PORT)
    };
    shuffled(flows).into_iter().map(flow).collect()
}

/// As [`to_services_of`], of the other family.
pub fn to_services_v6(scale: &Scale, flows: usize) -> Packets {
    let flow = |number: usize| {
        let (service, port) = flow_of(scale, number);
        packet_v6(port, service_address_v6(service), SERVICE_PORT)
    };
    Packets::Long(shuffled(flows).into_iter().map(flow).collect())
}

/// So many flows of the client to its neighbour, a packet each: routed, nothing translated, no tunnel.
pub fn to_neighbour(flows: usize) -> Arc<[Packet]> {
    shuffled(flows).into_iter().map(|number| packet(1024 + number as u16, NEIGHBOUR, BACKEND_PORT)).collect()
}

/// As [`to_neighbour`], of the other family.
pub fn to_neighbour_v6(flows: usize) -> Packets {
    let flow = |number: usize| packet_v6(1024 + number as u16, NEIGHBOUR_V6, BACKEND_PORT);
    Packets::Long(shuffled(flows).into_iter().map(flow).collect())
}

/// The Service and the client's port of a flow. There are at most 64,511 flows a Service.
pub fn flow_of(scale: &Scale, number: usize) -> (u16, u16) {
    let services = scale.services as usize;
    ((number % services) as u16, 1024 + (number / services) as u16)
}

/// The numbers up to `count` in an order that is the same in each run.
pub fn shuffled(count: usize) -> Vec<usize> {
    let mut numbers: Vec<usize> = (0..count).collect();
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    for place in (1..count).rev() {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        numbers.swap(place, (state >> 33) as usize % (place + 1));
    }
    numbers
}
