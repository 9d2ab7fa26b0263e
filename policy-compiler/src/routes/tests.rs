use proptest::prelude::*;

use super::*;

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn node(name: &str, addresses: &[&str], pod_cidrs: &[&str]) -> Node {
    Node {
        name: name.into(),
        addresses: addresses.iter().map(|address| ip(address)).collect(),
        pod_cidrs: pod_cidrs.iter().map(|cidr| net(cidr)).collect(),
        zone: String::new(),
    }
}

fn pod(name: &str, node: &str, address: &str, host_network: bool) -> Endpoint {
    let name = ObjectName::new("default", name);
    Endpoint { name, node: node.into(), addresses: vec![ip(address)], host_network, identity: 0 }
}

fn cluster() -> Intent {
    Intent {
        node: "a".into(),
        nodes: vec![
            node("a", &["192.168.0.1", "fd00::1"], &["10.1.0.0/24", "fd01::/64"]),
            node("b", &["192.168.0.2", "fd00::2"], &["10.1.1.0/24", "fd01:0:0:1::/64"]),
        ],
        endpoints: vec![
            pod("here", "a", "10.1.0.5", false),
            pod("there", "b", "10.1.1.5", false),
            pod("strayed", "b", "10.1.0.6", false),
            pod("lost", "", "10.1.1.9", false),
            pod("host", "a", "192.168.0.1", true),
        ],
        service_ranges: vec![net("10.96.0.0/12")],
        ..Intent::default()
    }
}

#[test]
fn addresses_of_every_sort() {
    let table = RouteTable::compile(&cluster()).unwrap();
    let rows = [
        ("10.1.0.5", Route::Endpoint(0), "a pod here"),
        ("10.1.1.5", Route::Tunnel(1), "a pod there"),
        ("10.1.0.6", Route::Tunnel(1), "a pod there with an address of our range"),
        ("10.1.1.9", Route::Unreachable, "a pod of no node"),
        ("10.1.0.7", Route::Unreachable, "a free address of our range"),
        ("10.1.1.7", Route::Tunnel(1), "a free address of their range"),
        ("fd01::7", Route::Unreachable, "the same in IPv6"),
        ("fd01:0:0:1::7", Route::Tunnel(1), "the same in IPv6"),
        ("192.168.0.1", Route::Node, "this node"),
        ("fd00::2", Route::External, "the other node"),
        ("10.97.0.1", Route::Unreachable, "a Service address"),
        ("8.8.8.8", Route::External, "the world"),
        ("2001:db8::1", Route::External, "the world"),
    ];
    for (address, expected, what) in rows {
        assert_eq!(table.lookup(ip(address)), expected, "{what}: {address}");
    }
    assert_eq!(table.this_node().map(|node| node.name.as_str()), Some("a"));
    assert_eq!(table.endpoints().len(), 1);
}

#[test]
fn what_cannot_be_is_refused_by_name() {
    type Spoil = fn(&mut Intent);
    let rows: [(&str, Spoil); 6] = [
        ("intent: node: node \"x\" is not among the nodes", |i| i.node = "x".into()),
        ("intent: node: node \"\" is not among the nodes", |i| i.node.clear()),
        ("Pod default/here: endpoints[0].node: no node is called \"x\"", |i| {
            i.endpoints[0].node = "x".into()
        }),
        (
            "Pod default/there: endpoints[1].addresses[0]: 10.1.0.5 belongs to another endpoint or node already",
            |i| {
                i.endpoints[1].addresses = i.endpoints[0].addresses.clone();
            },
        ),
        ("Node b: nodes[1].addresses: 192.168.0.1/32 belongs to node a already", |i| {
            i.nodes[1].addresses = i.nodes[0].addresses.clone();
        }),
        ("Node b: nodes[1].pod_cidrs: 10.1.0.0/24 belongs to node a already", |i| {
            i.nodes[1].pod_cidrs = i.nodes[0].pod_cidrs.clone();
        }),
    ];
    for (expected, spoil) in rows {
        let mut intent = cluster();
        spoil(&mut intent);
        assert_eq!(RouteTable::compile(&intent).unwrap_err().to_string(), expected);
    }
}

/// The slow twin: the intent itself is asked, most specific first.
fn route_of(intent: &Intent, address: IpAddr) -> Route {
    let is_local = |e: &Endpoint| !e.host_network && e.node == intent.node;
    let pods: Vec<&Endpoint> = intent.endpoints.iter().filter(|e| !e.host_network).collect();
    if let Some(pod) = pods.iter().find(|pod| pod.addresses.contains(&address)) {
        if is_local(pod) {
            let position = pods.iter().filter(|e| is_local(e)).position(|e| e.addresses.contains(&address));
            return Route::Endpoint(position.unwrap() as u32);
        }
        let node = intent.nodes.iter().position(|node| node.name == pod.node);
        return node.map_or(Route::Unreachable, |node| Route::Tunnel(node as u32));
    }
    if let Some(node) = intent.nodes.iter().find(|node| node.addresses.contains(&address)) {
        return if node.name == intent.node { Route::Node } else { Route::External };
    }
    let mut best = None;
    for (index, node) in intent.nodes.iter().enumerate() {
        let route = if node.name == intent.node { Route::Unreachable } else { Route::Tunnel(index as u32) };
        for cidr in node.pod_cidrs.iter().filter(|cidr| cidr.contains(&address)) {
            if best.is_none_or(|(length, _)| cidr.prefix_len() > length) {
                best = Some((cidr.prefix_len(), route));
            }
        }
    }
    for range in intent.service_ranges.iter().filter(|range| range.contains(&address)) {
        if best.is_none_or(|(length, _)| range.prefix_len() > length) {
            best = Some((range.prefix_len(), Route::Unreachable));
        }
    }
    best.map_or(Route::External, |(_, route)| route)
}

/// Sixty-four addresses, so that ranges nest and everything meets.
fn addresses() -> impl Strategy<Value = IpAddr> {
    (0..32_u8, any::<bool>()).prop_map(|(low, v6)| {
        if v6 {
            IpAddr::from([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, low])
        } else {
            IpAddr::from([10, 0, 0, low])
        }
    })
}

fn ranges() -> impl Strategy<Value = IpNet> {
    (addresses(), 0..6_u8).prop_map(|(address, short)| {
        IpNet::new(address, if address.is_ipv4() { 32 } else { 128 } - short).unwrap().trunc()
    })
}

fn clusters() -> impl Strategy<Value = Intent> {
    let node = (prop::collection::vec(addresses(), 0..3), prop::collection::vec(ranges(), 0..3));
    let pod = (0..4_usize, prop::collection::vec(addresses(), 0..2), any::<bool>());
    let nodes = prop::collection::vec(node, 1..4);
    let pods = prop::collection::vec(pod, 0..8);
    (nodes, pods, prop::collection::vec(ranges(), 0..2)).prop_map(|(nodes, pods, service_ranges)| {
        let name = |index: usize| format!("node-{index}");
        let count = nodes.len();
        let nodes = nodes.into_iter().enumerate().map(|(index, (addresses, pod_cidrs))| Node {
            name: name(index),
            addresses,
            pod_cidrs,
            zone: String::new(),
        });
        let endpoints =
            pods.into_iter().enumerate().map(|(index, (node, addresses, host_network))| Endpoint {
                name: ObjectName::new("default", format!("pod-{index}")),
                node: if node < count { name(node) } else { String::new() },
                addresses,
                host_network,
                identity: 0,
            });
        Intent {
            node: name(0),
            nodes: nodes.collect(),
            endpoints: endpoints.collect(),
            service_ranges,
            ..Intent::default()
        }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2048))]
    #[test]
    fn routes_are_those_of_the_slow_twin(intent in clusters()) {
        // What is refused for two owners of one thing has no routes to compare.
        if let Ok(table) = RouteTable::compile(&intent) {
            for low in 0..=40_u8 {
                for address in
                    [IpAddr::from([10, 0, 0, low]), IpAddr::from([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, low])]
                {
                    prop_assert_eq!(table.lookup(address), route_of(&intent, address), "{}", address);
                }
            }
        }
    }
}
