//! The compiled table against [`oracle`](super::oracle): random clusters, every frontend, every sort of client.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use serde_json::{Value, json};

use super::oracle::{Expectation, expect};
use super::{Candidates, Resolution, ServiceQuery, ServiceTable};
use crate::intent::ObjectName;
use crate::objects::Objects;

const NODES: usize = 3;

/// Tuples for each query: enough that six backends are all met but for one time in 10^20.
const TUPLES: u16 = 300;

fn nodes() -> impl Strategy<Value = Vec<Value>> {
    let zone = select(vec![None, Some("a"), Some("b")]);
    (proptest::collection::vec(zone, NODES), any::<bool>(), any::<bool>()).prop_map(|(zones, v4, v6)| {
        let node = |(index, zone): (usize, Option<&str>)| {
            let mut addresses = vec![
                json!({"type": "InternalIP", "address": format!("192.168.0.{}", 10 + index)}),
                json!({"type": "InternalIP", "address": format!("fd00:192::{}", 10 + index)}),
            ];
            if index == 0 {
                addresses.push(json!({"type": "InternalIP", "address": "192.168.1.10"}));
            }
            let mut cidrs = Vec::new();
            cidrs.extend(v4.then(|| format!("10.244.{index}.0/24")));
            cidrs.extend(v6.then(|| format!("fd00:244:0:{index}::/64")));
            let labels = zone.map_or(json!({}), |zone| json!({"topology.kubernetes.io/zone": zone}));
            json!({
                "metadata": {"name": format!("n{index}"), "labels": labels},
                "spec": {"podCIDRs": cidrs}, "status": {"addresses": addresses},
            })
        };
        zones.into_iter().enumerate().map(node).collect()
    })
}

/// The Service number `s`: what conflicts with others is derived from the number.
fn service(s: usize) -> impl Strategy<Value = Value> {
    let policy = || select(vec![None, Some("Cluster"), Some("Local")]);
    let families = select(vec![vec![4], vec![6], vec![4, 6], vec![4], vec![6, 4]]);
    let ports = proptest::collection::vec((select(vec!["TCP", "UDP", "SCTP"]), any::<bool>()), 1..4);
    let outside = vec![
        format!("203.0.113.{s}"),
        format!("198.51.100.{s}"),
        format!("2001:db8::{s}"),
        "192.168.0.10".into(),
    ];
    let ranges =
        vec!["172.16.0.0/12", " 192.168.0.0/24", "10.244.0.0/16", "fd00:192::/64", "2001:db8:7::/48"];
    let kind =
        prop_oneof![20 => Just(""), 1 => Just("headless"), 1 => Just("ExternalName"), 1 => Just("elsewhere")];
    let outer =
        (subsequence(outside.clone(), 0..=2), subsequence(outside, 0..=2), subsequence(ranges, 0..=2));
    (families, ports, policy(), policy(), outer, any::<bool>(), kind, any::<bool>()).prop_map(
        move |(families, ports, internal, external, (ips, balancers, ranges), affinity, kind, proxy)| {
            let address =
                |family: &i32| if *family == 4 { format!("10.96.0.{s}") } else { format!("fd00:96::{s}") };
            let ports: Vec<Value> = (0..)
                .zip(&ports)
                .map(|(p, (protocol, node_port))| {
                    json!({
                        "name": format!("p{p}"), "protocol": protocol, "port": 8000 + 10 * s + p,
                        "nodePort": if *node_port { 30000 + 10 * s + p } else { 0 },
                    })
                })
                .collect();
            let mut addresses: Vec<String> = families.iter().map(address).collect();
            if kind == "headless" {
                addresses = vec!["None".into()];
            }
            let labels = if kind == "elsewhere" {
                json!({"service.kubernetes.io/service-proxy-name": "x"})
            } else {
                json!({})
            };
            let ingress: Vec<Value> = balancers.iter().enumerate().map(|(index, ip)| {
                json!({"ip": ip, "ipMode": if proxy && index == 0 { "Proxy" } else { "VIP" }})
            }).collect();
            json!({
                "metadata": {"namespace": "ns", "name": format!("s{s}"), "labels": labels},
                "spec": {
                    "type": if kind == "ExternalName" { "ExternalName" } else { "LoadBalancer" },
                    "clusterIP": addresses.first(), "clusterIPs": addresses, "ports": ports,
                    "externalIPs": ips, "loadBalancerSourceRanges": ranges,
                    "internalTrafficPolicy": internal, "externalTrafficPolicy": external,
                    "sessionAffinity": if affinity { "ClientIP" } else { "None" },
                },
                "status": {"loadBalancer": {"ingress": ingress}},
            })
        },
    )
}

/// One slice of Service number `s`.
fn slice(s: usize) -> impl Strategy<Value = Value> {
    let flag = || select(vec![None, Some(true), Some(false)]);
    let endpoint = (
        0..NODES,
        1..5_u8,
        (flag(), flag(), flag()),
        select(vec![None, Some("n0"), Some("n1"), Some("n2")]),
        subsequence(vec!["a", "b"], 0..=2),
        subsequence(vec!["n0", "n1", "n2"], 0..=2),
    );
    // Often all ready endpoints must have hints for hints to count at all.
    let hinted = select(vec![(false, false), (true, false), (false, true), (true, true)]);
    let ports = proptest::collection::vec(
        (0..4_u8, select(vec!["TCP", "UDP", "SCTP"]), any::<bool>(), 0..2_u16),
        0..4,
    );
    let endpoints = proptest::collection::vec(endpoint, 0..5);
    (any::<bool>(), endpoints, hinted, ports).prop_map(move |(ipv6, endpoints, (zones, nodes), ports)| {
        let endpoint = |(home, host, (ready, serving, terminating), node, zone, near): &(_, _, _, _, Vec<&str>, Vec<&str>)| {
            let (home, host): (&usize, &u8) = (home, host);
            let (ready, serving, terminating): (&Option<bool>, &Option<bool>, &Option<bool>) = (ready, serving, terminating);
            let node: &Option<&str> = node;
            let names = |list: &[&str], wanted: bool| -> Vec<Value> {
                list.iter().filter(|_| wanted).map(|name| json!({"name": name})).collect()
            };
            let address = if ipv6 { format!("fd00:244:0:{home}::{host}") } else { format!("10.244.{home}.{host}") };
            json!({
                "addresses": [address], "nodeName": node,
                "conditions": {"ready": ready, "serving": serving, "terminating": terminating},
                "hints": {"forZones": names(zone, zones), "forNodes": names(near, nodes)},
            })
        };
        let port = |(p, protocol, numbered, shift): &(u8, &str, bool, u16)| {
            json!({"name": format!("p{p}"), "protocol": protocol, "port": numbered.then_some(9000 + u16::from(*p) * 10 + shift)})
        };
        json!({
            "metadata": {"namespace": "ns", "labels": {"kubernetes.io/service-name": format!("s{s}")}},
            "addressType": if ipv6 { "IPv6" } else { "IPv4" },
            "endpoints": endpoints.iter().map(endpoint).collect::<Vec<_>>(),
            "ports": ports.iter().map(port).collect::<Vec<_>>(),
        })
    })
}

fn read<T: serde::de::DeserializeOwned>(value: &Value) -> T {
    serde_json::from_value(value.clone()).unwrap()
}

fn clusters() -> impl Strategy<Value = Objects> {
    let services = (1..4_usize).prop_flat_map(|count| {
        let one = |s: usize| (service(s), proptest::collection::vec(slice(s), 0..4));
        (1..=count).map(one).collect::<Vec<_>>()
    });
    (nodes(), services).prop_map(|(nodes, services)| {
        let mut objects = Objects::default();
        for (index, node) in nodes.iter().enumerate() {
            objects.nodes.insert(ObjectName::new("", format!("n{index}")), read(node));
        }
        for (index, (service, slices)) in services.iter().enumerate() {
            let name = format!("s{}", index + 1);
            objects.services.insert(ObjectName::new("ns", &name), read(service));
            for (position, slice) in slices.iter().enumerate() {
                objects
                    .endpoint_slices
                    .insert(ObjectName::new("ns", format!("{name}-{position}")), read(slice));
            }
        }
        objects
    })
}

const CLIENTS: [&str; 11] = [
    "10.244.0.1",
    "10.244.1.2",
    "10.244.2.77",
    "192.168.0.10",
    "192.168.0.11",
    "172.16.5.5",
    "203.0.113.200",
    "198.51.100.1",
    "fd00:244:0:1::2",
    "fd00:192::10",
    "2001:db8:7::1",
];

/// Every address of the cluster with every port that means something, and some that mean nothing.
fn queries(objects: &Objects) -> Vec<ServiceQuery> {
    let mut addresses: BTreeSet<IpAddr> =
        ["192.168.0.10", "192.168.1.10", "192.168.0.11", "fd00:192::10", "10.96.0.99"]
            .iter()
            .map(|text| text.parse().unwrap())
            .collect();
    for s in 1..4 {
        for text in ["10.96.0.", "203.0.113.", "198.51.100.", "fd00:96::", "2001:db8::"] {
            addresses.insert(format!("{text}{s}").parse().unwrap());
        }
    }
    let ports = (1..=objects.services.len() as u16)
        .flat_map(|s| (0..3).flat_map(move |p| [8000 + 10 * s + p, 30_000 + 10 * s + p]));
    let ports: Vec<u16> = ports.chain([80]).collect();
    let mut queries = Vec::new();
    for src in CLIENTS.map(|text| text.parse::<IpAddr>().unwrap()) {
        for dst in addresses.iter().filter(|dst| dst.is_ipv6() == src.is_ipv6()) {
            for dst_port in &ports {
                for protocol in [6, 17, 132] {
                    queries.push(ServiceQuery {
                        src,
                        src_port: 1024,
                        dst: *dst,
                        dst_port: *dst_port,
                        protocol,
                    });
                }
            }
        }
    }
    queries
}

/// The table's answer in the oracle's words.
fn told(table: &ServiceTable, query: &ServiceQuery) -> Expectation {
    match table.candidates(query) {
        Candidates::NotAService => Expectation::NotAService,
        Candidates::Reject { .. } => Expectation::Reject,
        Candidates::Drop { .. } => Expectation::Drop,
        Candidates::Forward { backends, masquerade, .. } => {
            let hidden = |address: SocketAddr| masquerade || address.ip() == query.src;
            Expectation::Forward(
                backends.iter().map(|member| (member.address, hidden(member.address))).collect(),
            )
        }
    }
}

/// What many flows of one client meet.
fn met(table: &ServiceTable, query: &ServiceQuery) -> BTreeMap<SocketAddr, bool> {
    let resolutions = (0..TUPLES).map(|n| table.resolve(&ServiceQuery { src_port: 1024 + n, ..*query }));
    let forwards = resolutions.map(|resolution| match resolution {
        Resolution::Forward { backend, masquerade, .. } => (backend, masquerade),
        other => panic!("{query:?} has candidates but resolves to {other:?}"),
    });
    forwards.collect()
}

proptest! {
    #![proptest_config(ProptestConfig { max_shrink_iters: 2000, ..ProptestConfig::with_cases(96) })]

    #[test]
    fn the_table_says_what_the_oracle_says(objects in clusters()) {
        for node in ["n0", "n1"] {
            let (intent, _) = objects.intent(node).unwrap();
            let table = ServiceTable::compile(&intent).unwrap();
            let mut walked = 0;
            for query in queries(&objects) {
                let expected = expect(&objects, node, &query);
                prop_assert_eq!(&told(&table, &query), &expected, "{:?} on {}", query, node);
                let Expectation::Forward(backends) = expected else { continue };
                walked += 1;
                let met = if walked % 7 == 0 { met(&table, &query) } else { continue };
                let affine = intent.services.iter().any(|service| {
                    service.affinity_seconds.is_some() && service.frontends.iter().any(|f| f.port == query.dst_port)
                });
                if affine {
                    prop_assert_eq!(met.len(), 1, "{:?} leaves its backend", query);
                    prop_assert!(met.iter().all(|(backend, hidden)| backends.get(backend) == Some(hidden)));
                } else {
                    prop_assert_eq!(met, backends, "{:?}", query);
                }
            }
        }
    }

    #[test]
    fn live_flows_may_stay_where_new_ones_may_go(objects in clusters()) {
        let (intent, _) = objects.intent("n0").unwrap();
        let table = ServiceTable::compile(&intent).unwrap();
        for query in queries(&objects) {
            if let Candidates::Forward { backends, .. } = table.candidates(&query) {
                prop_assert!(backends.iter().all(|backend| table.still_serves(&query, backend.address)));
            }
        }
    }
}
