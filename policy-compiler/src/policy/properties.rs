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
use crate::compiler::Compiler;
use crate::intent::update::Update;
use crate::intent::{Intent, ObjectName};
use crate::objects::Objects;
use crate::oracle::{Finding, Oracle, Reason};
use crate::tables::Capacity;

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
        json!({"port": "aside"}),
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

/// A peer of a ClusterNetworkPolicy; of nodes and networks on egress alone.
fn cluster_peer(egress: bool) -> impl Strategy<Value = Value> {
    let networks = select(vec![
        json!(["0.0.0.0/0", "::/0"]),
        json!(["10.244.0.0/24"]),
        json!(["10.244.0.2/31", "fd00:1::/64", "198.51.100.1/32"]),
        json!(["192.0.2.0/24"]),
    ]);
    let pods = (option::of(selector()), selector()).prop_map(|(namespaces, pods)| {
        let mut peer = json!({"podSelector": pods});
        if let Some(namespaces) = namespaces {
            peer["namespaceSelector"] = namespaces;
        }
        json!({"pods": peer})
    });
    let outside = u32::from(egress);
    prop_oneof![
        3 => selector().prop_map(|namespaces| json!({"namespaces": namespaces})),
        3 => pods,
        outside => selector().prop_map(|nodes| json!({"nodes": nodes})),
        2 * outside => networks.prop_map(|networks| json!({"networks": networks})),
    ]
}

fn protocol_match() -> impl Strategy<Value = Value> {
    select(vec![
        json!({"tcp": {"destinationPort": {"number": 80}}}),
        json!({"tcp": {"destinationPort": {"range": {"start": 80, "end": 443}}}}),
        json!({"udp": {"destinationPort": {"number": 53}}}),
        json!({"udp": {"destinationPort": {"range": {"start": 1, "end": 65535}}}}),
        json!({"sctp": {"destinationPort": {"number": 9}}}),
        json!({"destinationNamedPort": "http"}),
        json!({"destinationNamedPort": "http"}),
        json!({"destinationNamedPort": "metrics"}),
        json!({"destinationNamedPort": "aside"}),
    ])
}

fn cluster_rules(egress: bool) -> impl Strategy<Value = Value> {
    let peers = vec(cluster_peer(egress), 1..3);
    let rule = (select(vec!["Accept", "Deny", "Pass"]), peers, option::of(vec(protocol_match(), 1..3)));
    let rule = rule.prop_map(move |(action, peers, protocols)| {
        let outside = peers.iter().any(|peer| peer.get("nodes").or(peer.get("networks")).is_some());
        let mut rule = json!({"action": action});
        rule[if egress { "to" } else { "from" }] = peers.into();
        // Nodes and networks have no named ports.
        let named = |protocol: &Value| protocol.get("destinationNamedPort").is_some();
        if let Some(protocols) = protocols.filter(|protocols| !(outside && protocols.iter().any(named))) {
            rule["protocols"] = protocols.into();
        }
        rule
    });
    vec(rule, 0..3).prop_map(Value::from)
}

fn cluster_policy() -> impl Strategy<Value = Value> {
    let subject = prop_oneof![
        selector().prop_map(|namespaces| json!({"namespaces": namespaces})),
        (selector(), selector()).prop_map(
            |(namespaces, pods)| json!({"pods": {"namespaceSelector": namespaces, "podSelector": pods}})
        ),
    ];
    let tier = select(vec!["Admin", "Baseline"]);
    let rules = (option::of(cluster_rules(false)), option::of(cluster_rules(true)));
    (tier, select(vec![0, 7, 1000]), subject, rules).prop_map(|(tier, priority, subject, (ingress, egress))| {
        json!({"tier": tier, "priority": priority, "subject": subject, "ingress": ingress, "egress": egress})
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

/// A pod: namespace, labels, node, ports, whether it is hostNetwork, phase: one that is pending has no address yet.
type Pod = (&'static str, Value, &'static str, Value, bool, &'static str);

fn pod() -> impl Strategy<Value = Pod> {
    let nodes = select(NODES.to_vec());
    let phase =
        prop_oneof![18 => Just("Running"), 1 => Just("Succeeded"), 1 => Just("Failed"), 1 => Just("Pending")];
    (select(NAMESPACES.to_vec()), labels(), nodes, named_ports(), prop::bool::weighted(0.1), phase)
}

fn cluster() -> impl Strategy<Value = Objects> {
    let namespaces = vec(option::of(labels()), NAMESPACES.len());
    let nodes = vec(labels(), NODES.len());
    let policies = (vec(policy(), 0..5), vec(cluster_policy(), 0..5));
    (namespaces, nodes, vec(pod(), 1..8), policies).prop_map(|(namespaces, nodes, pods, (policies, cluster))| {
        let mut objects = Objects::default();
        for (number, (name, labels)) in (1..).zip(NODES.into_iter().zip(nodes)) {
            let addresses = [format!("192.0.2.{number}"), format!("fd00:2::{number}")];
            let addresses = addresses.map(|address| json!({"type": "InternalIP", "address": address}));
            let node = json!({"metadata": {"name": name, "labels": labels}, "status": {"addresses": addresses}});
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
                "spec": {
                    "nodeName": node,
                    "hostNetwork": host,
                    "containers": [{"name": "main", "ports": ports}],
                    "initContainers": [
                        {"name": "sidecar", "restartPolicy": "Always", "ports": [{"name": "aside", "containerPort": 81}]},
                        {"name": "first", "ports": [{"name": "metrics", "containerPort": 81}]},
                    ],
                },
                "status": {"phase": phase, "podIPs": if host || phase == "Pending" { json!([]) } else { ips }},
            });
            objects.pods.insert(ObjectName::new(namespace, name), read(object));
        }
        for (number, (namespace, spec)) in policies.into_iter().enumerate() {
            let name = format!("policy-{number}");
            let object = json!({"metadata": {"namespace": namespace, "name": name}, "spec": spec});
            objects.network_policies.insert(ObjectName::new(namespace, name), read(object));
        }
        for (number, spec) in cluster.into_iter().enumerate() {
            let name = format!("cluster-{number}");
            let object = json!({"metadata": {"name": name}, "spec": spec});
            objects.cluster_network_policies.insert(ObjectName::new("", name), read(object));
        }
        objects
    })
}

fn read<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

/// Every address of the cluster, and some of the world.
fn addresses(objects: &Objects) -> Vec<IpAddr> {
    let (intent, _) = objects.intent("a").unwrap();
    let pods = intent.endpoints.iter().flat_map(|endpoint| endpoint.addresses.iter().copied());
    let nodes = intent.nodes.iter().flat_map(|node| node.addresses.iter().copied());
    let world = ["10.244.0.200", "192.0.2.77", "198.51.100.1", "fd00:1::ffff", "2001:db8::1"];
    let all: BTreeSet<IpAddr> = pods.chain(nodes).chain(world.map(|text| text.parse().unwrap())).collect();
    all.into_iter().collect()
}

/// A decision in the oracle's words.
fn finding(table: &PolicyTable, decision: Decision) -> Finding {
    let reason = match table.origin(decision.rule) {
        None if decision.rule == RuleId::NO_RULE => Reason::Isolated,
        None => Reason::Default,
        Some(origin) => {
            Reason::Rule { kind: origin.kind, policy: origin.policy.clone(), index: origin.index as usize }
        }
    };
    Finding { allowed: decision.allowed, reason }
}

/// Asks the table and the oracle about every pair of addresses, protocol, port and direction: they agree, and on the rule, too.
fn agree(objects: &Objects, table: &PolicyTable) -> Result<(), TestCaseError> {
    let oracle = Oracle::new(objects);
    let addresses = addresses(objects);
    for (src, dst) in addresses.iter().flat_map(|src| addresses.iter().map(move |dst| (*src, *dst))) {
        if src.is_ipv4() != dst.is_ipv4() {
            continue;
        }
        for (protocol, port) in [(6, 80), (6, 443), (6, 81), (17, 53), (17, 80), (132, 9), (1, 0), (58, 0)] {
            for by_service in [false, true] {
                let judgement = match by_service {
                    false => table.judge(src, dst, protocol, port),
                    true => table.judge_translated(src, dst, protocol, port),
                };
                let found = (finding(table, judgement.egress), finding(table, judgement.ingress));
                let wanted = oracle.findings(src, dst, protocol, port, by_service);
                prop_assert_eq!(found, wanted, "{} > {}, protocol {}, port {}", src, dst, protocol, port);
            }
        }
    }
    Ok(())
}

fn intent(objects: &Objects) -> Intent {
    objects.intent("a").unwrap().0
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]

    #[test]
    fn the_tables_judge_as_the_oracle_does(objects in cluster()) {
        agree(&objects, &PolicyTable::compile(&intent(&objects)).unwrap())?;
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    /// The same of tables that were brought from cluster to cluster by what differs.
    #[test]
    fn updated_tables_judge_as_the_oracle_does(clusters in vec(cluster(), 2..4)) {
        let mut running = intent(&clusters[0]);
        let mut compiler = Compiler::new(running.clone(), 1, &Capacity::default(), None).unwrap();
        for objects in &clusters[1..] {
            let mut wanted = intent(objects);
            let update = Update::between(&running, &mut wanted).unwrap();
            let prepared = compiler.prepare(update, 2).unwrap();
            compiler.commit(prepared);
            agree(objects, &compiler.tables().policy)?;
            running = wanted;
        }
    }
}
