//! The tables judge as the oracle does, on arbitrary small clusters.
//!
//! The clusters are dense: few labels, ports and prefixes, so that selectors overlap, policies add up and exceptions
//! of blocks cut through pods.

use std::collections::BTreeSet;
use std::net::IpAddr;

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;
use serde_json::{Value, json};

use super::{Decision, PolicyTable, RuleId};
use crate::intent::ObjectName;
use crate::objects::Objects;
use crate::oracle::Oracle;

const NAMESPACES: [&str; 3] = ["red", "green", "blue"];
const NODES: [&str; 2] = ["a", "b"];

fn labels() -> impl Strategy<Value = Value> {
    let value = || option::of(select(vec!["x", "y"]));
    (value(), value()).prop_map(|(app, tier)| {
        let all = [("app", app), ("tier", tier)];
        all.into_iter()
            .filter_map(|(key, value)| Some((key.to_owned(), json!(value?))))
            .collect::<serde_json::Map<_, _>>()
            .into()
    })
}

fn selector() -> impl Strategy<Value = Value> {
    let key = || select(vec!["app", "tier", "kubernetes.io/metadata.name"]);
    let values = || vec(select(vec!["x", "y", "red", "green"]), 1..3);
    let expression = prop_oneof![
        (key(), select(vec!["In", "NotIn"]), values())
            .prop_map(|(key, operator, values)| json!({"key": key, "operator": operator, "values": values})),
        (key(), select(vec!["Exists", "DoesNotExist"]))
            .prop_map(|(key, operator)| json!({"key": key, "operator": operator})),
    ];
    prop_oneof![
        2 => Just(json!({})),
        3 => labels().prop_map(|labels| json!({"matchLabels": labels})),
        3 => (labels(), vec(expression, 1..3))
            .prop_map(|(labels, expressions)| json!({"matchLabels": labels, "matchExpressions": expressions})),
    ]
}

fn block() -> impl Strategy<Value = Value> {
    select(vec![
        json!({"cidr": "0.0.0.0/0"}),
        json!({"cidr": "0.0.0.0/0", "except": ["10.244.0.0/16"]}),
        json!({"cidr": "10.244.0.0/24", "except": ["10.244.0.2/32", "10.244.0.4/31"]}),
        json!({"cidr": "10.244.1.0/24"}),
        json!({"cidr": "192.0.2.0/24", "except": ["192.0.2.1/32"]}),
        json!({"cidr": "10.244.0.3/32"}),
        json!({"cidr": "::/0", "except": ["fd00:1::/32"]}),
        json!({"cidr": "fd00:1::/64"}),
    ])
}

fn peer() -> impl Strategy<Value = Value> {
    prop_oneof![
        selector().prop_map(|pods| json!({"podSelector": pods})),
        selector().prop_map(|namespaces| json!({"namespaceSelector": namespaces})),
        (selector(), selector())
            .prop_map(|(namespaces, pods)| json!({"namespaceSelector": namespaces, "podSelector": pods})),
        block().prop_map(|block| json!({"ipBlock": block})),
    ]
}

fn port() -> impl Strategy<Value = Value> {
    select(vec![
        json!({"protocol": "TCP"}),
        json!({"port": 80}),
        json!({"protocol": "UDP", "port": 53}),
        json!({"protocol": "TCP", "port": 80, "endPort": 443}),
        json!({"protocol": "SCTP", "port": 1, "endPort": 65535}),
        json!({"port": "http"}),
        json!({"port": "http"}),
        json!({"protocol": "UDP", "port": "http"}),
        json!({"protocol": "UDP", "port": "http"}),
        json!({"protocol": "TCP", "port": "metrics"}),
    ])
}

/// Rules whose peers are in `field`; absent and empty lists mean everything.
fn rules(field: &'static str) -> impl Strategy<Value = Value> {
    let rule =
        (option::of(vec(peer(), 0..3)), option::of(vec(port(), 0..3))).prop_map(move |(peers, ports)| {
            let mut rule = json!({});
            if let Some(peers) = peers {
                rule[field] = peers.into();
            }
            if let Some(ports) = ports {
                rule["ports"] = ports.into();
            }
            rule
        });
    vec(rule, 0..3).prop_map(Value::from)
}

fn policy() -> impl Strategy<Value = (&'static str, Value)> {
    let types =
        select(vec![json!(null), json!(["Ingress"]), json!(["Egress"]), json!(["Ingress", "Egress"])]);
    let parts =
        (select(NAMESPACES.to_vec()), selector(), types, option::of(rules("from")), option::of(rules("to")));
    parts.prop_map(|(namespace, pods, types, ingress, egress)| {
        let spec = json!({"podSelector": pods, "policyTypes": types, "ingress": ingress, "egress": egress});
        (namespace, spec)
    })
}

/// Named container ports: the same names mean other numbers in other pods.
fn named_ports() -> impl Strategy<Value = Value> {
    select(vec![
        json!([]),
        json!([{"name": "http", "containerPort": 80}]),
        json!([{"name": "http", "containerPort": 443}, {"name": "metrics", "containerPort": 80}]),
        json!([{"name": "http", "containerPort": 53, "protocol": "UDP"}]),
    ])
}

/// A pod: namespace, labels, node, ports, whether it is hostNetwork, phase.
type Pod = (&'static str, Value, &'static str, Value, bool, &'static str);

fn pod() -> impl Strategy<Value = Pod> {
    let nodes = select(NODES.to_vec());
    let phase = prop_oneof![9 => Just("Running"), 1 => Just("Succeeded")];
    (select(NAMESPACES.to_vec()), labels(), nodes, named_ports(), prop::bool::weighted(0.1), phase)
}

/// A cluster of few nodes, namespaces, pods and policies.
pub(crate) fn cluster() -> impl Strategy<Value = Objects> {
    let namespaces = vec(option::of(labels()), NAMESPACES.len());
    (namespaces, vec(pod(), 1..8), vec(policy(), 0..7)).prop_map(|(namespaces, pods, policies)| {
        let mut objects = Objects::default();
        for (number, name) in (1..).zip(NODES) {
            let addresses = [format!("192.0.2.{number}"), format!("fd00:2::{number}")];
            let addresses = addresses.map(|address| json!({"type": "InternalIP", "address": address}));
            let node = json!({"metadata": {"name": name}, "status": {"addresses": addresses}});
            objects.nodes.insert(ObjectName::new("", name), read(node));
        }
        for (name, labels) in NAMESPACES.into_iter().zip(namespaces) {
            // One that is not there is taken as one without labels.
            if let Some(labels) = labels {
                let namespace = json!({"metadata": {"name": name, "labels": labels}});
                objects.namespaces.insert(ObjectName::new("", name), read(namespace));
            }
        }
        for (number, (namespace, labels, node, ports, host, phase)) in (2..).zip(pods) {
            let name = format!("pod-{number}");
            let subnet = if node == "a" { 0 } else { 1 };
            let ips = json!([{"ip": format!("10.244.{subnet}.{number}")}, {"ip": format!("fd00:1::{subnet}:{number}")}]);
            let object = json!({
                "metadata": {"namespace": namespace, "name": name, "labels": labels},
                "spec": {"nodeName": node, "hostNetwork": host, "containers": [{"name": "main", "ports": ports}]},
                "status": {"phase": phase, "podIPs": if host { json!([]) } else { ips }},
            });
            objects.pods.insert(ObjectName::new(namespace, name), read(object));
        }
        for (number, (namespace, spec)) in policies.into_iter().enumerate() {
            let name = format!("policy-{number}");
            let object = json!({"metadata": {"namespace": namespace, "name": name}, "spec": spec});
            objects.network_policies.insert(ObjectName::new(namespace, name), read(object));
        }
        objects
    })
}

pub(crate) fn read<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

/// Every address of the cluster, and some of the world.
pub(crate) fn addresses(objects: &Objects) -> Vec<IpAddr> {
    let (intent, _) = objects.intent("a").unwrap();
    let pods = intent.endpoints.iter().flat_map(|endpoint| endpoint.addresses.iter().copied());
    let nodes = intent.nodes.iter().flat_map(|node| node.addresses.iter().copied());
    let world = ["10.244.0.200", "192.0.2.77", "198.51.100.1", "fd00:1::ffff", "2001:db8::1"];
    let all: BTreeSet<IpAddr> = pods.chain(nodes).chain(world.map(|text| text.parse().unwrap())).collect();
    all.into_iter().collect()
}

/// A decision names what it should: a rule of a policy that is there and isolates that way, or one of the constants.
fn names_its_rule(objects: &Objects, table: &PolicyTable, decision: Decision, ingress: bool) -> bool {
    match table.origin(decision.rule) {
        None if decision.rule == RuleId::NO_RULE => !decision.allowed,
        None => decision == Decision::DEFAULT_ALLOW,
        Some(origin) => {
            let spec = objects.network_policies.get(&origin.policy).and_then(|policy| policy.spec.as_ref());
            let rules = spec.map_or(0, |spec| {
                if ingress {
                    spec.ingress.as_ref().map_or(0, Vec::len)
                } else {
                    spec.egress.as_ref().map_or(0, Vec::len)
                }
            });
            decision.allowed && origin.ingress == ingress && (origin.index as usize) < rules
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]

    #[test]
    fn the_tables_judge_as_the_oracle_does(objects in cluster()) {
        let (intent, _) = objects.intent("a").unwrap();
        let table = PolicyTable::compile(&intent).unwrap();
        let oracle = Oracle::new(&objects);
        let addresses = addresses(&objects);
        for (src, dst) in addresses.iter().flat_map(|src| addresses.iter().map(move |dst| (*src, *dst))) {
            if src.is_ipv4() != dst.is_ipv4() {
                continue;
            }
            for (protocol, port) in [(6, 80), (6, 443), (6, 81), (17, 53), (17, 80), (132, 9), (1, 0), (58, 0)] {
                let judgement = table.judge(src, dst, protocol, port);
                let found = (judgement.egress.allowed, judgement.ingress.allowed);
                let wanted = oracle.judge(src, dst, protocol, port);
                prop_assert_eq!(found, wanted, "{} > {}, protocol {}, port {}", src, dst, protocol, port);
                prop_assert!(names_its_rule(&objects, &table, judgement.egress, false), "{:?}", judgement.egress);
                prop_assert!(names_its_rule(&objects, &table, judgement.ingress, true), "{:?}", judgement.ingress);
            }
        }
    }
}
