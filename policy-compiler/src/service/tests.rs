//! What the table promises beyond kube-proxy's rules, as sentences.

use std::net::{IpAddr, SocketAddr};

use super::*;
use crate::intent::{Backend, Endpoint, Frontend, Node, Protocol, Service};

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn backend(text: &str) -> Backend {
    let address: SocketAddr = text.parse().unwrap();
    Backend {
        address: address.ip(),
        port: address.port(),
        node: "a".into(),
        ready: true,
        serving: true,
        terminating: false,
        zone_hints: Vec::new(),
        node_hints: Vec::new(),
        weight: 1,
    }
}

fn frontend(kind: FrontendKind, address: &str, port: u16) -> Frontend {
    let address = (!address.is_empty()).then(|| ip(address));
    Frontend { kind, address, port, ipv6: address.is_some_and(|address| address.is_ipv6()) }
}

fn service(name: &str, address: &str, backends: &[&str]) -> Service {
    Service {
        name: ObjectName::new("ns", name),
        port_name: "http".into(),
        protocol: Some(Protocol::Tcp),
        frontends: vec![frontend(FrontendKind::ClusterIp, address, 80)],
        backends: backends.iter().map(|text| backend(text)).collect(),
        ..Service::default()
    }
}

fn intent(services: Vec<Service>) -> Intent {
    let node = |name: &str, addresses: &[&str], cidr: &str| Node {
        name: name.into(),
        addresses: addresses.iter().map(|text| ip(text)).collect(),
        pod_cidrs: vec![cidr.parse().unwrap()],
        zone: String::new(),
    };
    let nodes = vec![
        node("a", &["192.0.2.1", "192.0.2.101", "2001:db8::1"], "10.244.0.0/24"),
        node("b", &["192.0.2.2"], "10.244.1.0/24"),
    ];
    Intent { node: "a".into(), nodes, services, ..Intent::default() }
}

fn compile(services: Vec<Service>) -> ServiceTable {
    ServiceTable::compile(&intent(services)).unwrap()
}

fn query(src: &str, src_port: u16, dst: &str, dst_port: u16) -> ServiceQuery {
    ServiceQuery { src: ip(src), src_port, dst: ip(dst), dst_port, protocol: 6 }
}

fn chosen(table: &ServiceTable, query: &ServiceQuery) -> SocketAddr {
    match table.resolve(query) {
        Resolution::Forward { backend, .. } => backend,
        other => panic!("{query:?} resolves to {other:?}"),
    }
}

const WEB: [&str; 3] = ["10.244.0.5:8080", "10.244.0.6:8080", "10.244.1.7:8080"];

#[test]
fn the_empty_table_knows_no_service() {
    let table = ServiceTable::default();
    assert_eq!(table.resolve(&query("10.244.0.9", 1, "10.96.0.1", 80)), Resolution::NotAService);
    assert_eq!(table.name(ServiceId(0)), None);
    assert!(
        table.is_empty()
            && !table.still_serves(&query("10.244.0.9", 1, "10.96.0.1", 80), "10.0.0.1:1".parse().unwrap())
    );
}

#[test]
fn flows_of_one_client_spread_evenly_over_the_backends() {
    let table = compile(vec![service("web", "10.96.0.1", &WEB)]);
    let mut counts = std::collections::BTreeMap::<SocketAddr, u32>::new();
    for port in 1024..31_024 {
        *counts.entry(chosen(&table, &query("10.244.0.9", port, "10.96.0.1", 80))).or_default() += 1;
    }
    assert_eq!(counts.len(), 3);
    assert!(counts.values().all(|count| (9_500..10_500).contains(count)), "{counts:?}");
}

#[test]
fn every_node_chooses_alike_whatever_the_order_of_its_lists() {
    let services = |order: [&str; 3]| {
        vec![service("other", "10.96.0.9", &["10.244.0.8:1"]), service("web", "10.96.0.1", &order)]
    };
    let here = compile(services(WEB));
    let mut there = intent(services([WEB[2], WEB[0], WEB[1]]));
    there.node = "b".into();
    there.services.rotate_left(1);
    let there = ServiceTable::compile(&there).unwrap();
    for port in 1..2000 {
        let query = query("10.244.1.9", port, "10.96.0.1", 80);
        assert_eq!(chosen(&here, &query), chosen(&there, &query));
    }
}

#[test]
fn the_choice_is_the_same_in_every_run() {
    let table = compile(vec![service("web", "10.96.0.1", &WEB)]);
    let picks: Vec<u16> = (1..=8)
        .map(|port| match chosen(&table, &query("10.244.0.9", port, "10.96.0.1", 80)).ip() {
            IpAddr::V4(v4) => u16::from(v4.octets()[3]),
            IpAddr::V6(_) => 0,
        })
        .collect();
    assert_eq!(
        picks,
        [6, 7, 6, 6, 5, 7, 7, 7],
        "written down once; a change here moves every live flow that loses its entry"
    );
}

#[test]
fn weights_are_shares_of_new_flows() {
    let mut web = service("web", "10.96.0.1", &WEB);
    web.backends[1].weight = 8;
    let table = compile(vec![web]);
    let heavy: SocketAddr = WEB[1].parse().unwrap();
    let hits =
        (1..10_001).filter(|port| chosen(&table, &query("10.244.0.9", *port, "10.96.0.1", 80)) == heavy);
    let hits = hits.count();
    assert!((7_700..8_300).contains(&hits), "{hits} of 10000");
}

#[test]
fn client_affinity_keeps_all_flows_of_a_client_on_one_backend_and_spreads_clients() {
    let mut web = service("web", "10.96.0.1", &WEB);
    web.affinity_seconds = Some(10_800);
    let table = compile(vec![web]);
    let mut met = std::collections::BTreeSet::new();
    for host in 1..100 {
        let client = format!("10.244.0.{host}");
        let backend = chosen(&table, &query(&client, 1, "10.96.0.1", 80));
        assert!((2..50).all(|port| chosen(&table, &query(&client, port, "10.96.0.1", 80)) == backend));
        met.insert(backend);
    }
    assert_eq!(met.len(), 3);
}

#[test]
fn a_backend_is_found_again_when_another_leaves() {
    let before = compile(vec![service("web", "10.96.0.1", &WEB)]);
    let after = compile(vec![service("web", "10.96.0.1", &WEB[..2])]);
    let gone: SocketAddr = WEB[2].parse().unwrap();
    let flows = (1..10_001).map(|port| query("10.244.0.9", port, "10.96.0.1", 80));
    let stayed = flows.filter(|query| chosen(&before, query) != gone);
    let (mut all, mut moved) = (0, 0);
    for query in stayed {
        all += 1;
        moved += u32::from(chosen(&before, &query) != chosen(&after, &query));
    }
    assert!(moved * 20 < all, "{moved} of {all} moved");
}

#[test]
fn live_flows_stay_while_their_backend_serves_and_no_longer() {
    let mut web = service("web", "10.96.0.1", &WEB);
    (web.backends[1].ready, web.backends[1].terminating) = (false, true);
    (web.backends[2].ready, web.backends[2].serving) = (false, false);
    let table = compile(vec![web]);
    let query = query("10.244.0.9", 7, "10.96.0.1", 80);
    let rows =
        [(WEB[0], true), (WEB[1], true), (WEB[2], false), ("10.244.0.5:81", false), ("10.9.9.9:8080", false)];
    for (backend, stays) in rows {
        assert_eq!(table.still_serves(&query, backend.parse().unwrap()), stays, "{backend}");
    }
    let elsewhere = ServiceQuery { dst: ip("10.96.0.2"), ..query };
    assert!(!table.still_serves(&elsewhere, WEB[0].parse().unwrap()));
}

#[test]
fn a_source_range_that_changed_ends_live_flows() {
    let mut web = service("web", "10.96.0.1", &WEB);
    web.frontends.push(frontend(FrontendKind::LoadBalancer, "198.51.100.1", 80));
    web.source_ranges = vec!["203.0.113.0/24".parse().unwrap()];
    let table = compile(vec![web]);
    let backend = WEB[0].parse().unwrap();
    assert!(table.still_serves(&query("203.0.113.5", 1, "198.51.100.1", 80), backend));
    assert!(!table.still_serves(&query("203.0.112.5", 1, "198.51.100.1", 80), backend));
    assert!(
        table.still_serves(&query("203.0.112.5", 1, "10.96.0.1", 80), backend),
        "ranges are the balancer's"
    );
}

#[test]
fn node_ports_answer_where_the_options_say() {
    let mut web = service("web", "10.96.0.1", &WEB);
    web.frontends.push(frontend(FrontendKind::NodePort, "", 30_080));
    let intent = intent(vec![web]);
    let within = NodePortAddresses::Within(vec!["192.0.2.96/28".parse().unwrap()]);
    let rows = [
        (NodePortAddresses::All, [true, true, false, false]),
        (NodePortAddresses::Primary, [true, false, false, false]),
        (within, [false, true, false, false]),
    ];
    for (node_ports, answers) in rows {
        let options = ServiceOptions { node_ports, ..ServiceOptions::default() };
        let table = ServiceTable::compile_with(&intent, &options).unwrap();
        for (dst, answers) in ["192.0.2.1", "192.0.2.101", "192.0.2.2", "127.0.0.1"].into_iter().zip(answers)
        {
            let resolution = table.resolve(&query("203.0.113.5", 1, dst, 30_080));
            assert_eq!(
                resolution != Resolution::NotAService,
                answers,
                "{dst} under {:?}",
                options.node_ports
            );
        }
    }
}

#[test]
fn an_address_that_a_service_names_comes_before_a_node_port() {
    let mut by_port = service("by-port", "10.96.0.1", &WEB[..1]);
    by_port.frontends.push(frontend(FrontendKind::NodePort, "", 30_080));
    let mut by_address = service("by-address", "10.96.0.2", &WEB[1..2]);
    by_address.frontends.push(frontend(FrontendKind::ExternalIp, "192.0.2.1", 30_080));
    let table = compile(vec![by_port, by_address]);
    assert_eq!(chosen(&table, &query("203.0.113.5", 1, "192.0.2.1", 30_080)).to_string(), WEB[1]);
    assert_eq!(chosen(&table, &query("203.0.113.5", 1, "192.0.2.101", 30_080)).to_string(), WEB[0]);
}

#[test]
fn source_ranges_hold_for_a_balancers_address_that_is_an_external_one_too() {
    let mut web = service("web", "10.96.0.1", &WEB);
    web.frontends.push(frontend(FrontendKind::ExternalIp, "198.51.100.1", 80));
    web.frontends.push(frontend(FrontendKind::LoadBalancer, "198.51.100.1", 80));
    web.source_ranges = vec!["203.0.113.0/24".parse().unwrap()];
    let table = compile(vec![web]);
    let resolution = table.resolve(&query("203.0.112.5", 1, "198.51.100.1", 80));
    assert_eq!(resolution, Resolution::Drop { service: ServiceId(0) });
}

#[test]
fn pods_outside_of_every_pod_range_are_pods_and_host_network_pods_are_not() {
    let mut intent = intent(vec![service("web", "10.96.0.1", &WEB)]);
    let endpoint = |address: &str, host_network| Endpoint {
        name: ObjectName::new("ns", address),
        node: "a".into(),
        addresses: vec![ip(address)],
        host_network,
        identity: 0,
    };
    intent.endpoints = vec![endpoint("172.20.0.9", false), endpoint("192.0.2.1", true)];
    let table = ServiceTable::compile(&intent).unwrap();
    for (client, hidden) in
        [("172.20.0.9", false), ("192.0.2.1", true), ("172.20.0.10", true), ("10.244.1.200", false)]
    {
        let resolution = table.resolve(&query(client, 1, "10.96.0.1", 80));
        assert!(
            matches!(resolution, Resolution::Forward { masquerade, .. } if masquerade == hidden),
            "{client}: {resolution:?}"
        );
    }
}

#[test]
fn equal_lists_share_a_table_and_a_new_generation_keeps_those_that_stay() {
    let services = |third: &str| -> Vec<Service> {
        vec![
            service("a", "10.96.0.1", &WEB),
            service("b", "10.96.0.2", &[WEB[1], WEB[2], WEB[0]]),
            service("c", "10.96.0.3", &[WEB[0], third]),
        ]
    };
    let mut pool = SetPool::default();
    let mut with_pool = |third: &str| {
        let intent = intent(services(third));
        ServiceTable::compile_view(&View::of(&intent), &ServiceOptions::default(), &mut pool).unwrap()
    };
    let first = with_pool("10.244.0.77:1");
    assert_eq!(first.sets().len(), 2);
    let next = with_pool("10.244.0.78:1");
    let (before, after) = (first.sets(), next.sets());
    assert_eq!((after.len(), after.keys().filter(|set| before.contains_key(set)).count()), (2, 1));
    drop((first, next));
    assert_eq!(pool.len(), 3, "as long as nobody looks");
    for port in 1..3000 {
        pool.intern(vec![Member { address: SocketAddr::from(([10, 0, 0, 1], port)), weight: 1 }]);
    }
    assert!(pool.len() < 2500, "lists that nobody uses are forgotten: {}", pool.len());
}

#[test]
fn what_cannot_be_is_refused_by_object_and_field() {
    let good = || service("web", "10.96.0.1", &WEB);
    let with = |change: fn(&mut Service)| {
        let mut bad = good();
        change(&mut bad);
        vec![bad]
    };
    let rows: [(Vec<Service>, &str); 11] = [
        (with(|s| s.protocol = None), "services[0].protocol: is missing"),
        (with(|s| s.frontends[0].port = 0), "services[0].frontends[0].port: is 0"),
        (
            with(|s| s.frontends[0].address = None),
            "services[0].frontends[0].address: is missing for ClusterIp",
        ),
        (
            with(|s| s.frontends[0].address = Some(ip("fd00::1"))),
            "services[0].frontends[0].address: fd00::1 is of the other family",
        ),
        (
            with(|s| s.frontends[0].kind = FrontendKind::NodePort),
            "services[0].frontends[0].address: is 10.96.0.1, but a node port has none",
        ),
        (
            with(|s| s.frontends.push(frontend(FrontendKind::ExternalIp, "fd00::1", 80))),
            "services[0].frontends[1].ipv6: differs from the Service's other frontends",
        ),
        (with(|s| s.backends[1].port = 0), "services[0].backends[1].port: is 0"),
        (with(|s| s.backends[1].weight = 0), "services[0].backends[1].weight: is 0"),
        (
            with(|s| s.backends[1].address = ip("fd00::1")),
            "services[0].backends[1].address: fd00::1 is not of the frontends' family",
        ),
        (
            with(|s| s.backends.push(backend(WEB[0]))),
            "services[0].backends[3]: 10.244.0.5 port 8080 is listed twice",
        ),
        (
            vec![good(), service("twin", "10.96.0.1", &[])],
            "services[1].frontends[0]: 10.96.0.1 port 80 is Service ns/web already",
        ),
    ];
    for (services, problem) in rows {
        let name = services.last().unwrap().name.clone();
        let error = ServiceTable::compile(&intent(services)).unwrap_err();
        assert_eq!(error.to_string(), format!("Service {name}: {problem}"));
    }
}

#[test]
fn two_services_at_one_node_port_are_refused() {
    let with_port = |name, address| {
        let mut service = service(name, address, &WEB);
        service.frontends.push(frontend(FrontendKind::NodePort, "", 30_080));
        service
    };
    let error =
        ServiceTable::compile(&intent(vec![with_port("a", "10.96.0.1"), with_port("b", "10.96.0.2")]));
    let error = error.unwrap_err().to_string();
    assert_eq!(error, "Service ns/b: services[1].frontends[1]: 192.0.2.1 port 30080 is Service ns/a already");
}

#[test]
fn a_number_has_its_name() {
    let table = compile(vec![service("web", "10.96.0.1", &WEB)]);
    let Resolution::Forward { service, .. } = table.resolve(&query("10.244.0.9", 1, "10.96.0.1", 80)) else {
        panic!("no forward");
    };
    assert_eq!(table.name(service), Some((&ObjectName::new("ns", "web"), "http")));
    assert_eq!((table.len(), table.name(ServiceId(1))), (1, None));
}

/// Prints what a cluster costs; run with `--release -- --ignored --nocapture`.
#[test]
#[ignore = "a measurement, not a check"]
#[allow(clippy::print_stdout, reason = "its output is the figures")]
fn what_five_thousand_services_cost() {
    let backend_of = |s: u32, b: u32| {
        let mut backend = backend("10.0.0.1:8080");
        backend.address = IpAddr::V4((0x0a00_0000 + s * 50 + b).into());
        backend
    };
    let services: Vec<Service> = (0..5000)
        .map(|s| {
            let mut service = service(&format!("s{s}"), "10.96.0.1", &[]);
            service.frontends[0].address = Some(IpAddr::V4((0x0a60_0000 + s).into()));
            service.backends = (0..50).map(|b| backend_of(s, b)).collect();
            service
        })
        .collect();
    let intent = intent(services);
    let start = std::time::Instant::now();
    let table = ServiceTable::compile(&intent).unwrap();
    println!("5000 Services x 50 backends: {:?}, {} KB", start.elapsed(), table.backend_bytes() / 1024);
    let start = std::time::Instant::now();
    let next = ServiceTable::compile(&intent).unwrap();
    println!("again: {:?}", start.elapsed());
    for reached in [5000, 10] {
        let start = std::time::Instant::now();
        let mut forwarded = 0_u32;
        let flow = query("10.244.0.9", 0, "10.96.0.1", 80);
        for n in 0..1_000_000_u32 {
            let dst = IpAddr::V4((0x0a60_0000 + n.wrapping_mul(2_654_435_761) % reached).into());
            let query = ServiceQuery { src_port: n as u16, dst, ..flow };
            forwarded += u32::from(matches!(next.resolve(&query), Resolution::Forward { .. }));
        }
        println!(
            "resolve over {reached} Services: {:?} each ({forwarded} forwarded)",
            start.elapsed() / 1_000_000
        );
    }
}
