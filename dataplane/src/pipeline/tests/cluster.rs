//! The cluster of these tests: four nodes, seen from `node-a`.
//!
//! ```text
//!   P1 client ─0─┐                      ┌─ node-b 192.168.0.2 ── R1 server, R2 other
//!   P2 server ─1─┤                      ├─ node-c 192.168.0.3 ── R3 other   (its MAC address is not known)
//!   P3 db     ─2─┼─ node-a ─3─ underlay ┼─ node-d fd00:c0a8::4 ─ R4 other   (tunnelled over IPv6)
//!   node      ─4─┤  192.168.0.1         ├─ L on the link                    (its MAC address is not known)
//!   nobody    ─5─┘                      └─ gateway ── X
//! ```
//!
//! The db takes only TCP 27017 from the client, and sends only UDP 53. P4 is on node-a without a port.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use arrayvec::ArrayVec;
use policy_compiler::intent::{
    Backend, Endpoint, Frontend, FrontendKind, Identity, Intent, Node, ObjectName, Peers, Policy, PortMatch,
    PortSelector, Protocol, Rule, Service, TrafficPolicy,
};
use policy_compiler::tables::{Capacity, Tables};

use crate::rule_hits::HitTable;
use crate::shadow::Shadow;
use crate::snapshot::{Egress, MAX_HEADER, Mac, PortIndex, PortView, Role, Snapshot, Underlay, Way};
use crate::wire::vxlan;

/// Both addresses of somebody.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Host {
    v4: [u8; 4],
    v6: [u16; 8],
}

impl Host {
    pub(super) fn at(self, v6: bool) -> IpAddr {
        if v6 { Ipv6Addr::from(self.v6).into() } else { Ipv4Addr::from(self.v4).into() }
    }

    pub(super) fn packed_v4(self) -> [u8; 4] {
        self.v4
    }

    pub(super) fn packed_v6(self) -> [u8; 16] {
        Ipv6Addr::from(self.v6).octets()
    }

    fn addresses(self) -> Vec<IpAddr> {
        vec![self.at(false), self.at(true)]
    }
}

const fn pod(node: u8, number: u8) -> Host {
    Host { v4: [10, node, 0, number], v6: [0xfd01, node as u16, 0, 0, 0, 0, 0, number as u16] }
}

const fn node(number: u8) -> Host {
    Host { v4: [192, 168, 0, number], v6: [0xfd00, 0xc0a8, 0, 0, 0, 0, 0, number as u16] }
}

const fn service(number: u8) -> Host {
    Host { v4: [10, 96, 0, number], v6: [0xfd01, 0x96, 0, 0, 0, 0, 0, number as u16] }
}

pub(super) const P1: Host = pod(1, 11);
pub(super) const P2: Host = pod(1, 12);
pub(super) const P3: Host = pod(1, 13);
pub(super) const P4: Host = pod(1, 14);
pub(super) const R1: Host = pod(2, 21);
pub(super) const R2: Host = pod(2, 22);
pub(super) const R3: Host = pod(3, 31);
pub(super) const R4: Host = pod(4, 41);
/// An address of node-a's range that nobody has.
pub(super) const NOBODY: Host = pod(1, 99);
pub(super) const NODE_A: Host = node(1);
pub(super) const NODE_B: Host = node(2);
pub(super) const NODE_C: Host = node(3);
pub(super) const NODE_D: Host = node(4);
pub(super) const ROUTER: Host = node(254);
/// On the link of the underlay, and no node.
pub(super) const L: Host = node(77);
/// Far away.
pub(super) const X: Host = Host { v4: [203, 0, 113, 9], v6: [0x2001, 0xdb8, 9, 0, 0, 0, 0, 9] };
/// The pods' gateway.
pub(super) const GATEWAY: Host = Host { v4: [169, 254, 1, 1], v6: [0xfe80, 0, 0, 0, 0, 0, 0, 1] };

/// TCP 80 → P2 or R1, 8080.
pub(super) const WEB: Host = service(10);
/// UDP 53 → P2 5353.
pub(super) const DNS: Host = service(53);
/// TCP 80 → nobody.
pub(super) const EMPTY: Host = service(20);
/// TCP 80 → P1 8080.
pub(super) const SELF: Host = service(30);
/// TCP 80 and node port 30080 → P2 8080.
pub(super) const SOLO: Host = service(40);
/// TCP 80 and node port 30081 → R1 8080, both for local backends alone.
pub(super) const AFAR: Host = service(50);
/// SCTP 80 → P2 8080.
pub(super) const SCTP_SERVICE: Host = service(60);
/// An address of the Services' range that is none.
pub(super) const NO_SERVICE: Host = service(99);

pub(super) const NODE_PORT: u16 = 30080;
pub(super) const LOCAL_NODE_PORT: u16 = 30081;

pub(super) const POD1: PortIndex = 0;
pub(super) const POD2: PortIndex = 1;
pub(super) const POD3: PortIndex = 2;
pub(super) const UPLINK: PortIndex = 3;
pub(super) const HOST: PortIndex = 4;
/// A port whose pod the state does not know.
pub(super) const UNBOUND: PortIndex = 5;
pub(super) const PORTS: usize = 6;

pub(super) const VNI: u32 = 0x00_4711;
pub(super) const ROUTER_MAC: Mac = [2, 0, 0, 0xcc, 0, 254];
pub(super) const INNER_SRC: Mac = [2, 0, 0, 0xdd, 0, 1];
pub(super) const INNER_DST: Mac = [2, 0, 0, 0xdd, 0, 2];

/// A port's own MAC address.
pub(super) fn mac(port: PortIndex) -> Mac {
    [2, 0, 0, 0xaa, 0, port as u8]
}

/// The MAC address behind an endpoint's or the host's port.
pub(super) fn peer_mac(port: PortIndex) -> Mac {
    [2, 0, 0, 0xbb, 0, port as u8]
}

/// The MAC address of a node on the underlay.
pub(super) fn node_mac(host: Host) -> Mac {
    [2, 0, 0, 0xcc, 0, host.v4[3]]
}

/// Index of node-b in the intent.
const B: usize = 1;

/// The state that a test changes before it publishes it.
#[derive(Debug, Clone)]
pub(super) struct Cluster {
    pub(super) intent: Intent,
    pub(super) snat_ports: (u16, u16),
    /// Hosts of the underlay whose MAC address is known, beside node-b, node-d and the router.
    pub(super) known: Vec<Host>,
    /// Ports that the snapshot does not have.
    pub(super) absent: Vec<PortIndex>,
    /// Ports behind which no MAC address is known.
    pub(super) silent: Vec<PortIndex>,
    /// The worker of each port.
    pub(super) workers: [u16; PORTS],
    pub(super) watch_drops: bool,
    pub(super) shadow: Option<Arc<Shadow>>,
    pub(super) mtu: [u16; PORTS],
    /// Where hits of rules are counted; by default nowhere.
    pub(super) rule_hits: Arc<HitTable>,
}

impl Cluster {
    pub(super) fn new() -> Self {
        Cluster {
            intent: intent(),
            snat_ports: (61_000, 65_535),
            known: vec![],
            absent: vec![],
            silent: vec![],
            workers: [0; PORTS],
            watch_drops: false,
            shadow: None,
            mtu: [1500; PORTS],
            rule_hits: Arc::default(),
        }
    }

    /// The entries of a Service, one a family.
    pub(super) fn service(&mut self, name: &str) -> impl Iterator<Item = &mut Service> {
        self.intent.services.iter_mut().filter(move |service| service.name.name == name)
    }

    /// Lets nobody into the pods of an identity.
    pub(super) fn isolate(&mut self, identity: u32) {
        self.intent.policies.push(policy("isolated", identity, Some(vec![]), None));
    }

    /// Takes back [`isolate`](Self::isolate).
    pub(super) fn release(&mut self) {
        self.intent.policies.retain(|policy| policy.name.name != "isolated");
    }

    /// What the control thread would make of it, made by hand.
    pub(super) fn snapshot(&self) -> Snapshot {
        self.snapshot_by(Tables::compile(&self.intent, 1, &Capacity::default()).unwrap())
    }

    /// The same by tables that are compiled already.
    pub(super) fn snapshot_by(&self, tables: Tables) -> Snapshot {
        let mut egresses = Vec::new();
        let mut ports: Vec<_> =
            (0..PORTS as PortIndex).map(|port| Some(self.view(&tables, port, &mut egresses))).collect();
        for port in &self.absent {
            ports[*port as usize] = None;
        }
        let way = |port: PortIndex| ports[port as usize].as_ref().map_or(Way::NoPort, |view| view.way);
        let at_home = tables.routes.endpoints().iter().map(|endpoint| match endpoint.name.name.as_str() {
            "p1" => way(POD1),
            "p2" => way(POD2),
            "p3" => way(POD3),
            _ => Way::NoPort,
        });
        let (endpoints, host) = (at_home.collect(), way(HOST));
        let mut underlay = Underlay {
            on_link: vec!["192.168.0.0/24".parse().unwrap(), "fd00:c0a8::/64".parse().unwrap()],
            gateway_v4: Some(ROUTER.at(false)),
            gateway_v6: Some(ROUTER.at(true)),
            ..Underlay::default()
        };
        for host in [NODE_B, NODE_D, ROUTER].iter().chain(&self.known) {
            let index = self.add(&mut egresses, UPLINK, 0, 0, &ethernet(node_mac(*host), mac(UPLINK)));
            underlay.neighbours.extend(host.addresses().into_iter().map(|address| (address, index)));
        }
        let tunnel = |egresses: &mut _, header: &[u8]| {
            let overhead = header.len() as u16 - 14;
            Way::Ready(self.add(
                egresses,
                UPLINK,
                overhead,
                self.mtu[UPLINK as usize] - overhead - 40,
                header,
            ))
        };
        let over_v4 = |peer: Host| {
            let (src, dst) = (NODE_A.v4.into(), peer.v4.into());
            vxlan::template_v4(mac(UPLINK), node_mac(peer), src, dst, VNI, INNER_SRC, INNER_DST)
        };
        let (src, dst) = (NODE_A.v6.into(), NODE_D.v6.into());
        let over_v6 = vxlan::template_v6(mac(UPLINK), node_mac(NODE_D), src, dst, VNI, INNER_SRC, INNER_DST);
        let mut tunnels = vec![Way::NoPort, Way::Unresolved, Way::Unresolved, Way::Unresolved];
        tunnels[B] = tunnel(&mut egresses, &over_v4(NODE_B));
        if self.known.contains(&NODE_C) {
            tunnels[2] = tunnel(&mut egresses, &over_v4(NODE_C));
        }
        tunnels[3] = tunnel(&mut egresses, &over_v6);
        let peers = [(NODE_B, 1), (NODE_C, 2), (NODE_D, 3)];
        let tunnel_peers = peers
            .iter()
            .flat_map(|(node, index)| node.addresses().into_iter().map(|address| (address, *index)));
        Snapshot {
            tables,
            ports,
            egresses,
            endpoints,
            tunnels,
            tunnel_peers: tunnel_peers.collect(),
            host,
            underlay,
            node_v4: Some(NODE_A.v4.into()),
            node_v6: Some(NODE_A.v6.into()),
            gateway_v4: GATEWAY.v4.into(),
            gateway_v6: GATEWAY.v6.into(),
            snat_ports: self.snat_ports,
            watch_drops: self.watch_drops,
            rule_hits: Arc::clone(&self.rule_hits),
            shadow: self.shadow.clone(),
            ..Snapshot::empty()
        }
    }

    fn view(&self, tables: &Tables, port: PortIndex, egresses: &mut Vec<Egress>) -> PortView {
        let pod = |name: &str| {
            let known = tables.routes.endpoints().iter().zip(0..).find(|(pod, _)| pod.name.name == name);
            let addresses = known.iter().flat_map(|(pod, _)| pod.addresses.iter().copied());
            (Role::Endpoint(known.map(|(_, index)| index)), addresses.collect())
        };
        let (role, addresses) = match port {
            POD1 => pod("p1"),
            POD2 => pod("p2"),
            POD3 => pod("p3"),
            UPLINK => (Role::Uplink, ArrayVec::new()),
            HOST => (Role::Host, ArrayVec::new()),
            _ => (Role::Endpoint(None), ArrayVec::new()),
        };
        let silent = self.silent.contains(&port);
        let way = match role {
            Role::Uplink => Way::NoPort,
            _ if silent => Way::Unresolved,
            _ => Way::Ready(self.add(egresses, port, 0, 0, &ethernet(peer_mac(port), mac(port)))),
        };
        PortView {
            role,
            mac: mac(port),
            mtu: self.mtu[port as usize],
            worker: self.workers[port as usize],
            addresses,
            peer_mac: (!silent && role != Role::Uplink).then(|| peer_mac(port)),
            way,
        }
    }

    fn add(
        &self,
        egresses: &mut Vec<Egress>,
        port: PortIndex,
        overhead: u16,
        clamp_mss: u16,
        bytes: &[u8],
    ) -> u16 {
        let mut header = [0; MAX_HEADER];
        header[..bytes.len()].copy_from_slice(bytes);
        let (worker, mtu) = (self.workers[port as usize], self.mtu[port as usize] - overhead);
        egresses.push(Egress { port, worker, mtu, clamp_mss, header, header_len: bytes.len() as u8 });
        egresses.len() as u16 - 1
    }
}

fn ethernet(dst: Mac, src: Mac) -> [u8; 14] {
    let mut header = [0; 14];
    header[..6].copy_from_slice(&dst);
    header[6..12].copy_from_slice(&src);
    header
}

pub(super) const CLIENT: u32 = 0;
pub(super) const SERVER: u32 = 1;
pub(super) const DB: u32 = 2;
pub(super) const OTHER: u32 = 3;

fn intent() -> Intent {
    let node = |name: &str, host: Host, addresses, number| Node {
        name: name.into(),
        addresses,
        pod_cidrs: vec![
            format!("10.{number}.0.0/24").parse().unwrap(),
            format!("fd01:{number}::/64").parse().unwrap(),
        ],
        zone: format!("zone-{}", host.v4[3]),
    };
    let endpoint = |name: &str, host: Host, node: &str, identity| Endpoint {
        name: ObjectName::new("test", name),
        node: node.into(),
        addresses: host.addresses(),
        host_network: false,
        identity,
    };
    let identity =
        |label: &str| Identity { namespace: "test".into(), labels: vec![label.into()], named_ports: vec![] };
    let (to_db, from_db) = (rule(Some(CLIENT), Protocol::Tcp, 27017), rule(None, Protocol::Udp, 53));
    Intent {
        node: "node-a".into(),
        vni: VNI,
        nodes: vec![
            node("node-a", NODE_A, NODE_A.addresses(), 1),
            node("node-b", NODE_B, NODE_B.addresses(), 2),
            node("node-c", NODE_C, NODE_C.addresses(), 3),
            node("node-d", NODE_D, vec![NODE_D.at(true)], 4),
        ],
        identities: ["app=client", "app=server", "app=db", "app=other"].map(identity).into(),
        endpoints: vec![
            endpoint("p1", P1, "node-a", CLIENT),
            endpoint("p2", P2, "node-a", SERVER),
            endpoint("p3", P3, "node-a", DB),
            endpoint("p4", P4, "node-a", OTHER),
            endpoint("r1", R1, "node-b", SERVER),
            endpoint("r2", R2, "node-b", OTHER),
            endpoint("r3", R3, "node-c", OTHER),
            endpoint("r4", R4, "node-d", OTHER),
        ],
        policies: vec![policy("db", DB, Some(vec![to_db]), Some(vec![from_db]))],
        services: [false, true].into_iter().flat_map(services).collect(),
        service_ranges: vec!["10.96.0.0/16".parse().unwrap(), "fd01:96::/64".parse().unwrap()],
    }
}

pub(super) fn policy(
    name: &str,
    subject: u32,
    ingress: Option<Vec<Rule>>,
    egress: Option<Vec<Rule>>,
) -> Policy {
    Policy {
        name: ObjectName::new("test", name),
        subjects: vec![subject],
        ingress,
        egress,
        ..Policy::default()
    }
}

pub(super) fn rule(identity: Option<u32>, protocol: Protocol, port: u16) -> Rule {
    let peers = identity.map(|identity| Peers { identities: vec![identity], blocks: vec![] });
    let ports = Some(vec![PortMatch { protocol, port: PortSelector::Range(port, port) }]);
    Rule { peers, ports, ..Rule::default() }
}

fn services(v6: bool) -> Vec<Service> {
    let make = |name: &str, protocol, address: Host, port, backends: &[(Host, u16)]| Service {
        name: ObjectName::new("test", name),
        protocol: Some(protocol),
        frontends: vec![Frontend {
            kind: FrontendKind::ClusterIp,
            address: Some(address.at(v6)),
            port,
            ipv6: v6,
        }],
        backends: backends.iter().map(|(host, port)| backend(host.at(v6), *port)).collect(),
        ..Service::default()
    };
    let node_port = |port| Frontend { kind: FrontendKind::NodePort, address: None, port, ipv6: v6 };
    let mut solo = make("solo", Protocol::Tcp, SOLO, 80, &[(P2, 8080)]);
    solo.frontends.push(node_port(NODE_PORT));
    let mut afar = make("afar", Protocol::Tcp, AFAR, 80, &[(R1, 8080)]);
    afar.frontends.push(node_port(LOCAL_NODE_PORT));
    (afar.internal_policy, afar.external_policy) = (TrafficPolicy::Local, TrafficPolicy::Local);
    vec![
        make("web", Protocol::Tcp, WEB, 80, &[(P2, 8080), (R1, 8080)]),
        make("dns", Protocol::Udp, DNS, 53, &[(P2, 5353)]),
        make("empty", Protocol::Tcp, EMPTY, 80, &[]),
        make("self", Protocol::Tcp, SELF, 80, &[(P1, 8080)]),
        make("sctp", Protocol::Sctp, SCTP_SERVICE, 80, &[(P2, 8080)]),
        solo,
        afar,
    ]
}

/// A ready backend; on node-a or node-b by its address.
pub(super) fn backend(address: IpAddr, port: u16) -> Backend {
    let here = [P1, P2, P3, P4].iter().any(|pod| pod.addresses().contains(&address));
    Backend {
        address,
        port,
        node: if here { "node-a" } else { "node-b" }.into(),
        ready: true,
        serving: true,
        terminating: false,
        zone_hints: vec![],
        node_hints: vec![],
        weight: 1,
    }
}
