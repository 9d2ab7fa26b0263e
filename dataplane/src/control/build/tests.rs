use policy_compiler::intent::{Endpoint, Identity, Intent, Node, ObjectName, Policy};
use policy_compiler::tables::Capacity;

use super::*;
use crate::drops::DropReason;
use crate::flow::Key;
use crate::judge::{self, Origin, Past};

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
fn intent() -> Intent {
    let endpoint = |name: &str, address: &str| Endpoint {
        name: ObjectName::new("ns", name),
        node: "a".into(),
        addresses: vec![ip(address)],
        host_network: false,
        identity: 0,
    };
    Intent {
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
    }
}

fn tables() -> Tables {
    Tables::compile(&intent(), 5, &Capacity::default()).unwrap()
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

/// Nothing passes to or from a pod before the tables know it: with them come its policies, in one generation.
#[test]
fn a_pod_that_is_not_compiled_yet_is_closed() {
    let late = ip("10.1.0.9");
    let ports = [
        port(PortRole::Pod("ns/one".into()), 1500, Some(POD_MAC)),
        port(PortRole::Pod("ns/late".into()), 1500, Some(POD_MAC)),
        port(PortRole::Uplink, 1500, None),
    ];
    let (one, its_own, tunnel) =
        (Origin::Endpoint(0), Origin::Endpoint(1), Origin::Tunnel { port: 2, node: 1 });
    let ask = |snapshot: &Snapshot, src: &str, dst: &str, origin| {
        let key = Key::new(ip(src), 40_000, ip(dst), 80, 6);
        judge::decide(snapshot, &key, false, origin, Past::default()).verdict
    };
    let before = build(&ports);
    for dst in ["10.1.0.1", "10.2.0.1", "198.51.100.1", "172.30.0.1"] {
        assert_eq!(ask(&before, "10.1.0.9", dst, its_own), Err(DropReason::SpoofedSource), "{dst}");
        assert_eq!(ask(&before, "10.1.0.1", dst, its_own), Err(DropReason::SpoofedSource), "{dst}");
    }
    assert_eq!(ask(&before, "10.1.0.1", "10.1.0.9", one), Err(DropReason::NoRoute));
    assert_eq!(ask(&before, "10.2.0.1", "10.1.0.9", tunnel), Err(DropReason::NoRoute));

    let mut intent = intent();
    let endpoint = Endpoint {
        name: ObjectName::new("ns", "late"),
        addresses: vec![late],
        ..intent.endpoints[0].clone()
    };
    intent.identities.push(Identity { labels: vec!["app=late".into()], ..Identity::default() });
    intent.endpoints.push(Endpoint { identity: 1, ..endpoint.clone() });
    intent.policies.push(Policy {
        name: ObjectName::new("ns", "late"),
        subjects: vec![1],
        ingress: Some(vec![]),
        ..Policy::default()
    });
    let tables = Tables::compile(&intent, 6, &Capacity::default()).unwrap();
    let after = snapshot(&World {
        tables: &tables,
        ports: &ports,
        surroundings: &surroundings(),
        settings: &SETTINGS,
        watch_drops: false,
    });
    assert_eq!(ask(&after, "10.1.0.9", "10.1.0.1", its_own), Ok(()));
    assert_eq!(ask(&after, "10.1.0.1", "10.1.0.9", one), Err(DropReason::PolicyIngress));
    assert_eq!(ask(&after, "10.2.0.1", "10.1.0.9", tunnel), Err(DropReason::PolicyIngress));

    // One whose identity is not there is no state at all.
    intent.endpoints.push(Endpoint {
        name: ObjectName::new("ns", "x"),
        addresses: vec![ip("10.1.0.10")],
        identity: 2,
        ..endpoint
    });
    let refused = Tables::compile(&intent, 7, &Capacity::default()).unwrap_err().to_string();
    assert_eq!(refused, "Pod ns/x: endpoints[4].identity: there is no identity 2");
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
