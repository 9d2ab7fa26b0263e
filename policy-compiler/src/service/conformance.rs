//! Kubernetes' own expectations of kube-proxy (recorded from its tests, v1.36), where the data are at hand.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use serde_json::{Value, json};

use super::compile::{select, uses_cluster, uses_local};
use super::{NodePortAddresses, Resolution, ServiceOptions, ServiceQuery, ServiceTable};
use crate::conformance::{data, list, name_of, text};
use crate::evaluate::{Probe, ProbeProtocol, Verdict, evaluate_intent};
use crate::intent::{
    Backend, Frontend, FrontendKind, Intent, Node, ObjectName, Protocol, Service, TrafficPolicy,
};
use crate::maglev::Member;
use crate::objects::{IntentOptions, Objects};

/// The objects of a scenario; pods are told by the ranges that its `how_to_read` names.
fn objects(scenario: &Value) -> Objects {
    let mut objects = Objects::default();
    let ranges = if scenario["localDetectorImplemented"] == true {
        json!(["10.0.0.0/8", "fd00:10::/64"])
    } else {
        json!([])
    };
    let addresses = list(scenario, "nodeIPs").iter().map(|ip| json!({"type": "InternalIP", "address": ip}));
    let node = json!({
        "metadata": {"name": scenario["nodeName"], "labels": scenario["nodeLabels"]},
        "spec": {"podCIDRs": ranges},
        "status": {"addresses": addresses.collect::<Vec<_>>()},
    });
    let name = ObjectName::new("", text(scenario, "nodeName"));
    objects.nodes.insert(name, serde_json::from_value(node).unwrap());
    for service in list(scenario, "services") {
        objects.services.insert(name_of(service), serde_json::from_value(service.clone()).unwrap());
    }
    for slice in list(scenario, "endpointSlices") {
        objects.endpoint_slices.insert(name_of(slice), serde_json::from_value(slice.clone()).unwrap());
    }
    objects
}

/// How the recorded proxy was configured: the file has `masqueradeAll`, and the name of the test has the rest
/// (the nftables proxier takes node ports on its primary addresses unless told otherwise).
fn options(scenario: &Value) -> ServiceOptions {
    let node_ports = if text(scenario, "test").contains("multiple_nodeport-addresses") {
        let ranges = ["192.168.0.0/24", "192.168.1.0/24", "2001:db8::/64", "2001:db8:1::/64"];
        NodePortAddresses::Within(ranges.map(|range| range.parse().unwrap()).to_vec())
    } else {
        NodePortAddresses::Primary
    };
    ServiceOptions { node_ports, masquerade_all: scenario["masqueradeAll"] == true }
}

/// What a flow meets: a verdict in the file's words, and the backends with their masquerading.
fn run(table: &ServiceTable, intent: &Intent, flow: &Value) -> (&'static str, BTreeMap<String, bool>) {
    let protocol = match text(flow, "protocol") {
        "TCP" => 6,
        "UDP" => 17,
        _ => 132,
    };
    let query = |src_port| ServiceQuery {
        src: text(flow, "src").parse().unwrap(),
        src_port,
        dst: text(flow, "dst").parse().unwrap(),
        dst_port: flow["port"].as_u64().unwrap() as u16,
        protocol,
    };
    let mut backends = BTreeMap::new();
    for port in 1024..1324 {
        match table.resolve(&query(port)) {
            Resolution::Forward { backend, masquerade, .. } => {
                backends.insert(backend.to_string(), masquerade)
            }
            Resolution::Reject { .. } => return ("reject", backends),
            Resolution::Drop { .. } => return ("drop", backends),
            // An address of the Service range that is no Service is unreachable; see `Intent::service_ranges`.
            Resolution::NotAService
                if intent.service_ranges.iter().any(|range| range.contains(&query(0).dst)) =>
            {
                return ("drop", backends);
            }
            Resolution::NotAService => return ("pass-untranslated", backends),
        };
    }
    ("dnat", backends)
}

/// The same by `evaluate`, which has the default options: nothing to compare where the scenario has others.
fn check_evaluate(scenario: &Value, intent: &Intent, flow: &Value) -> Result<(), String> {
    let expected = &flow["expect"];
    if scenario["masqueradeAll"] == true || expected["verdict"] == "pass-untranslated" {
        return Ok(());
    }
    let probe = Probe {
        from: text(flow, "src").into(),
        to: text(flow, "dst").into(),
        protocol: serde_json::from_value::<ProbeProtocol>(flow["protocol"].clone()).unwrap(),
        port: flow["port"].as_u64().unwrap() as u16,
    };
    let answers = evaluate_intent(intent, &[probe]).map_err(|error| error.to_string())?;
    let verdict = match text(expected, "verdict") {
        "dnat" => Verdict::Allow,
        "reject" => Verdict::Reject,
        _ => Verdict::Drop,
    };
    let backends: Vec<&str> = list(expected, "endpoints").iter().filter_map(Value::as_str).collect();
    match answers.as_slice() {
        [answer]
            if answer.verdict == verdict
                && answer.backends == backends
                && answer.snat == (expected["masquerade"] == true) =>
        {
            Ok(())
        }
        other => Err(format!("evaluate answers {other:?}")),
    }
}

#[test]
#[allow(clippy::print_stdout, reason = "CI reports how many cases ran")]
fn the_flows_of_kube_proxys_tests_go_where_they_should() {
    let Some(data) = data("services/kube-proxy-flows.json") else { return };
    let (mut ran, mut failures) = (0_u64, Vec::new());
    for scenario in list(&data, "scenarios") {
        let ranges = vec![text(scenario, "serviceCIDRs").parse().unwrap()];
        let intent_options = IntentOptions { service_ranges: ranges, ..IntentOptions::default() };
        let (intent, _) = objects(scenario).intent_with(text(scenario, "nodeName"), &intent_options).unwrap();
        let table = ServiceTable::compile_with(&intent, &options(scenario)).unwrap();
        for flow in list(scenario, "flows") {
            ran += 1;
            let expected = &flow["expect"];
            let masquerade = expected["masquerade"] == true;
            let backends: BTreeMap<String, bool> = list(expected, "endpoints")
                .iter()
                .map(|e| (e.as_str().unwrap().to_owned(), masquerade))
                .collect();
            let got = run(&table, &intent, flow);
            let place =
                || format!("{} ({}): {}", text(scenario, "test"), text(scenario, "line"), text(flow, "name"));
            if (got.0, &got.1) != (text(expected, "verdict"), &backends) {
                failures.push(format!("{}: {got:?}, expected {expected}", place()));
            }
            if let Err(problem) = check_evaluate(scenario, &intent, flow) {
                failures.push(format!("{}: {problem}, expected {expected}", place()));
            }
        }
    }
    println!(
        "kube-proxy-flows: {} scenarios, {ran} flows ran, {} failed",
        list(&data, "scenarios").len(),
        failures.len()
    );
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    assert_eq!(ran, data["counts"]["flows"].as_u64().unwrap());
}

/// A Service with the endpoints of a topology case.
fn topology_service(case: &Value, node: &str) -> Service {
    let names = |value: &Value, field: &str| -> Vec<String> {
        list(value, field).iter().filter_map(Value::as_str).map(str::to_owned).collect()
    };
    let backend = |endpoint: &Value| {
        let address: SocketAddr = text(endpoint, "endpoint").parse().unwrap();
        Backend {
            address: address.ip(),
            port: address.port(),
            node: if endpoint["isLocal"] == true { node.into() } else { "elsewhere".into() },
            ready: endpoint["ready"] == true,
            serving: endpoint["serving"] == true,
            terminating: endpoint["terminating"] == true,
            zone_hints: names(endpoint, "zoneHints"),
            node_hints: names(endpoint, "nodeHints"),
            weight: 1,
        }
    };
    let policy = |local: bool| if local { TrafficPolicy::Local } else { TrafficPolicy::Cluster };
    let shape = &case["service"];
    let cluster: IpAddr = "10.96.0.1".parse().unwrap();
    let mut frontends =
        vec![Frontend { kind: FrontendKind::ClusterIp, address: Some(cluster), port: 80, ipv6: false }];
    if shape["externallyAccessible"] == true {
        let port = shape["nodePort"].as_u64().unwrap() as u16;
        frontends.push(Frontend { kind: FrontendKind::NodePort, address: None, port, ipv6: false });
    }
    Service {
        protocol: Some(Protocol::Tcp),
        frontends,
        internal_policy: policy(shape["internalTrafficPolicyLocal"] == true),
        external_policy: policy(shape["externalTrafficPolicyLocal"] == true),
        backends: list(case, "endpoints").iter().map(backend).collect(),
        ..Service::default()
    }
}

#[test]
#[allow(clippy::print_stdout, reason = "CI reports how many cases ran")]
fn kube_proxys_choice_of_endpoints_is_ours() {
    let Some(data) = data("services/kube-proxy-topology.json") else { return };
    let (mut ran, mut failures) = (0_u64, Vec::new());
    for case in list(&data, "cases") {
        ran += 1;
        let name = match text(case, "nodeName") {
            "" => "this",
            name => name,
        };
        let node = Node {
            name: name.into(),
            zone: text(&case["nodeLabels"], "topology.kubernetes.io/zone").into(),
            ..Node::default()
        };
        let service = topology_service(case, name);
        let selection = select(&service, &node);
        let names = |used: bool, members: &[Member]| -> Vec<String> {
            members.iter().filter(|_| used).map(|member| member.address.to_string()).collect()
        };
        let cluster = names(uses_cluster(&service), &selection.cluster);
        let local = names(uses_local(&service), &selection.local);
        let mut reachable = [cluster.clone(), local.clone()].concat();
        reachable.sort();
        reachable.dedup();
        let any = !selection.cluster.is_empty() || !selection.local.is_empty();
        // `null` ("not used") and `[]` ("none") are one to us: no set.
        let wanted = |field: &str| -> Vec<String> {
            list(&case["expect"], field).iter().filter_map(Value::as_str).map(str::to_owned).collect()
        };
        let expected = (wanted("clusterEndpoints"), wanted("localEndpoints"), wanted("allLocallyReachable"));
        let got = (cluster, local, reachable);
        if got != expected || case["expect"]["hasAnyEndpoints"] != any {
            failures.push(format!("{}: {got:?} any {any}, expected {}", text(case, "name"), case["expect"]));
        }
    }
    println!("kube-proxy-topology: {ran} cases ran, {} failed", failures.len());
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    assert_eq!(ran, data["counts"]["cases"].as_u64().unwrap());
}
