use policy_compiler::intent::{Endpoint, Intent, Node, ObjectName};
use policy_compiler::tables::Capacity;

use super::*;

const SETTINGS: Settings = Settings {
    gateway_v4: Ipv4Addr::new(169, 254, 1, 1),
    gateway_v6: Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1),
    snat_ports: (61000, 65535),
    inner_mac: [2, 0, 0, 0, 0, 9],
};
const POD_MAC: Mac = [2, 0, 0, 0, 1, 1];
const PEER_MAC: Mac = [2, 0, 0, 0, 2, 2];

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn node(name: &str, addresses: &[&str], cidr: &str) -> Node {
    Node {
        name: name.into(),
        addresses: addresses.iter().map(|address| ip(address)).collect(),
        pod_cidrs: vec![cidr.parse().unwrap()],
        zone: String::new(),
    }
}

/// `a` is this node, `b` has both families, `c` IPv6 alone, `d` is far away.
fn tables() -> Tables {
    let endpoint = |name: &str, address: &str| Endpoint {
        name: ObjectName::new("ns", name),
        node: "a".into(),
        addresses: vec![ip(address)],
        host_network: false,
        identity: 0,
    };
    let intent = Intent {
        node: "a".into(),
        vni: 7,
        nodes: vec![
            node("a", &["172.30.0.1", "fd30::1"], "10.1.0.0/24"),
            node("b", &["172.30.0.2", "fd30::2"], "10.2.0.0/24"),
            node("c", &["fd30::3"], "10.3.0.0/24"),
            node("d", &["192.0.2.1"], "10.4.0.0/24"),
        ],
        identities: vec![Default::default()],
        endpoints: vec![
            endpoint("one", "10.1.0.1"),
            endpoint("two", "10.1.0.2"),
            endpoint("three", "10.1.0.3"),
        ],
        ..Intent::default()
    };
    Tables::compile(&intent, 5, &Capacity::default()).unwrap()
}

fn port(role: PortRole, mtu: u16, peer_mac: Option<Mac>) -> Option<PortFacts> {
    Some(PortFacts { role, mac: [2, 0, 0, 0, 0, 1], mtu, worker: 3, peer_mac })
}

fn surroundings() -> Surroundings {
    Surroundings {
        on_link: vec!["172.30.0.0/24".parse().unwrap(), "fd30::/64".parse().unwrap()],
        gateway_v4: Some(ip("172.30.0.254")),
        gateway_v6: None,
        macs: BTreeMap::from([(ip("172.30.0.2"), PEER_MAC), (ip("fd30::3"), PEER_MAC)]),
    }
}

fn build(ports: &[Option<PortFacts>]) -> Snapshot {
    let world = World {
        tables: &tables(),
        ports,
        surroundings: &surroundings(),
        settings: &SETTINGS,
        watch_drops: false,
    };
    snapshot(&world)
}

fn egress(snapshot: &Snapshot, way: Way) -> &Egress {
    let Way::Ready(index) = way else { panic!("{way:?}") };
    &snapshot.egresses[index as usize]
}

#[test]
fn endpoints_are_bound_to_ports_by_name() {
    let pod = |name: &str| PortRole::Pod(format!("ns/{name}"));
    let snapshot = build(&[
        None,
        port(pod("two"), 1500, Some(POD_MAC)),
        port(pod("one"), 1500, None),
        port(pod("x"), 1500, None),
    ]);
    assert_eq!(snapshot.endpoints[0], Way::Unresolved);
    assert_eq!(snapshot.endpoints[2], Way::NoPort);
    let way = egress(&snapshot, snapshot.endpoints[1]);
    assert_eq!((way.port, way.worker, way.mtu, way.clamp_mss, way.header_len), (1, 3, 1500, 0, 14));
    assert_eq!((&way.header[..6], &way.header[6..12]), (&POD_MAC[..], &[2, 0, 0, 0, 0, 1][..]));
    let view = snapshot.port(1).unwrap();
    assert_eq!((view.role, &view.addresses[..]), (Role::Endpoint(Some(1)), &[ip("10.1.0.2")][..]));
    let unknown = snapshot.port(3).unwrap();
    assert_eq!((unknown.role, unknown.addresses.len()), (Role::Endpoint(None), 0));
    assert!(snapshot.port(0).is_none());
}

#[test]
fn tunnels_prefer_ipv4_and_fall_back_to_ipv6() {
    let snapshot = build(&[port(PortRole::Uplink, 1400, None)]);
    let [a, b, c, d] = snapshot.tunnels[..] else { panic!("{:?}", snapshot.tunnels) };
    assert_eq!((a, d), (Way::NoPort, Way::Unresolved));
    let v4 = egress(&snapshot, b);
    assert_eq!((v4.header_len, v4.mtu, v4.clamp_mss), (64, 1350, 1310));
    assert_eq!(v4.header[26..34], [172, 30, 0, 1, 172, 30, 0, 2]);
    assert_eq!((&v4.header[..6], &v4.header[50..56]), (&PEER_MAC[..], &SETTINGS.inner_mac[..]));
    assert_eq!(v4.header[46..49], [0, 0, 7]);
    let v6 = egress(&snapshot, c);
    assert_eq!((v6.header_len, v6.mtu, v6.clamp_mss), (84, 1330, 1290));
    assert_eq!(snapshot.tunnel_peers.get(&ip("fd30::2")), Some(&1));
    assert!(!snapshot.tunnel_peers.contains_key(&ip("172.30.0.1")));
    assert_eq!((snapshot.node_v4, snapshot.node_v6), ("172.30.0.1".parse().ok(), "fd30::1".parse().ok()));
}

#[test]
fn the_underlay_is_known_as_far_as_the_kernel_knows_it() {
    let snapshot = build(&[port(PortRole::Uplink, 1500, None)]);
    assert_eq!(snapshot.underlay.next_hop(ip("172.30.0.9")), Some(ip("172.30.0.9")));
    assert_eq!(snapshot.underlay.next_hop(ip("8.8.8.8")), Some(ip("172.30.0.254")));
    assert_eq!(snapshot.underlay.next_hop(ip("2001:db8::1")), None);
    let known = snapshot.underlay.neighbours[&ip("172.30.0.2")];
    assert_eq!(egress(&snapshot, Way::Ready(known)).header[..6], PEER_MAC);
}

#[test]
fn without_an_uplink_nothing_leads_out() {
    let snapshot = build(&[]);
    assert!(snapshot.tunnels.iter().all(|way| *way == Way::NoPort));
    assert_eq!(snapshot.underlay.next_hop(ip("172.30.0.2")), None);
    assert_eq!(snapshot.host, Way::NoPort);
}

#[test]
fn tcp_is_clamped_towards_the_smaller_link() {
    let host = port(PortRole::Host, 1500, Some(POD_MAC));
    let snapshot = build(&[port(PortRole::Uplink, 1400, None), host]);
    let known = snapshot.underlay.neighbours[&ip("172.30.0.2")];
    assert_eq!(egress(&snapshot, Way::Ready(known)).clamp_mss, 1360);
    assert_eq!(egress(&snapshot, snapshot.host).clamp_mss, 0);
}

#[test]
fn peers_to_resolve_are_those_that_tunnels_use() {
    assert_eq!(tunnel_addresses(&tables()), [ip("172.30.0.2"), ip("fd30::3"), ip("192.0.2.1")]);
}
