//! Cyclonus' truth tables of NetworkPolicy (230 cases), where the data are at hand: through `evaluate`, and through
//! the oracle beside it.

use std::collections::BTreeSet;
use std::net::IpAddr;

use serde_json::{Value, json};

use crate::conformance::{data, list, name_of, text};
use crate::evaluate::{Probe, ProbeProtocol, Verdict, evaluate};
use crate::intent::ObjectName;
use crate::objects::Objects;
use crate::oracle::Oracle;

const NODE: &str = "node";

/// Steps that give two pods one address, which no cluster does, by case and number: those objects are refused. Their
/// flows are judged with another address for the second pod; no ipBlock of theirs tells the two apart.
const SHARED_ADDRESS: [(u64, usize); 1] = [(196, 1)];
/// That other address.
const FREE_ADDRESS: &str = "10.244.2.199";

/// The cluster of a step: what its file leaves out is one node for all pods, and that they run.
fn objects(step: &Value, pod_ports: &Value) -> Objects {
    let mut objects = Objects::default();
    let node = json!({
        "metadata": {"name": NODE},
        "spec": {"podCIDRs": ["10.244.0.0/16"]},
        "status": {"addresses": [{"type": "InternalIP", "address": "192.0.2.1"}]},
    });
    objects.nodes.insert(ObjectName::new("", NODE), serde_json::from_value(node).unwrap());
    for (name, labels) in step["namespaces"].as_object().unwrap() {
        let namespace = json!({"metadata": {"name": name, "labels": labels}});
        objects.namespaces.insert(ObjectName::new("", name), serde_json::from_value(namespace).unwrap());
    }
    let ports = pod_ports.as_array().unwrap().iter();
    let ports: Vec<Value> = ports
        .map(
            |port| json!({"name": port["name"], "containerPort": port["port"], "protocol": port["protocol"]}),
        )
        .collect();
    for pod in list(step, "pods") {
        let object = json!({
            "metadata": {"name": pod["name"], "namespace": pod["namespace"], "labels": pod["labels"]},
            "spec": {"nodeName": NODE, "containers": [{"name": "agnhost", "ports": ports}]},
            "status": {"phase": "Running", "podIP": pod["ip"]},
        });
        objects.pods.insert(name_of(&object), serde_json::from_value(object).unwrap());
    }
    for policy in list(step, "policies") {
        objects.network_policies.insert(name_of(policy), serde_json::from_value(policy.clone()).unwrap());
    }
    objects
}

/// Every probe of a step with what it should meet.
fn probes(step: &Value) -> Vec<(Probe, bool)> {
    let pods = list(step, "pods");
    let name = |pod: &Value| format!("{}/{}", text(pod, "namespace"), text(pod, "name"));
    let mut probes = Vec::new();
    for (key, rows) in step["expect"].as_object().unwrap() {
        let (protocol, port) = key.split_once('/').unwrap();
        let protocol: ProbeProtocol = serde_json::from_value(json!(protocol)).unwrap();
        for (from, row) in pods.iter().zip(rows.as_array().unwrap()) {
            for (to, cell) in pods.iter().zip(row.as_str().unwrap().chars()) {
                let probe = Probe { from: name(from), to: name(to), protocol, port: port.parse().unwrap() };
                probes.push((probe, cell == '1'));
            }
        }
    }
    probes
}

/// Gives the second pod of two with one address another one; whether there were two.
fn part_shared_addresses(step: &mut Value) -> bool {
    let mut seen = BTreeSet::new();
    let mut shared = false;
    for pod in step["pods"].as_array_mut().unwrap() {
        if !seen.insert(text(pod, "ip").to_owned()) {
            pod["ip"] = FREE_ADDRESS.into();
            shared = true;
        }
    }
    shared
}

fn address(step: &Value, name: &str) -> IpAddr {
    let pod = list(step, "pods")
        .iter()
        .find(|pod| format!("{}/{}", text(pod, "namespace"), text(pod, "name")) == name);
    text(pod.unwrap(), "ip").parse().unwrap()
}

/// The flows of a step that meet something else than they should, in words.
fn wrong(step: &Value, objects: &Objects, probes: &[(Probe, bool)]) -> Vec<String> {
    let asked: Vec<Probe> = probes.iter().map(|(probe, _)| probe.clone()).collect();
    let answers = match evaluate(objects, NODE, &asked) {
        Ok(answers) => answers,
        Err(error) => return vec![format!("refused: {error}")],
    };
    let oracle = Oracle::new(objects);
    let mut wrong = Vec::new();
    for ((probe, expected), answer) in probes.iter().zip(answers) {
        let number = match probe.protocol {
            ProbeProtocol::Tcp => 6,
            ProbeProtocol::Udp => 17,
            ProbeProtocol::Sctp => 132,
            ProbeProtocol::Icmp => 1,
        };
        let (src, dst) = (address(step, &probe.from), address(step, &probe.to));
        let twin = oracle.judge(src, dst, number, probe.port);
        if (answer.verdict == Verdict::Allow) != *expected || (twin == (true, true)) != *expected {
            wrong.push(format!("{probe:?}: {answer:?}, oracle {twin:?}, expected {expected}"));
        }
    }
    wrong
}

/// All of NetworkPolicy v1 is there: no case is left out.
#[test]
#[allow(clippy::print_stdout, reason = "CI reports how many cases ran")]
fn the_flows_of_cyclonus_meet_what_they_should() {
    let Some(data) = data("netpol/cyclonus-ipv4.json") else { return };
    let (mut steps, mut flows, mut failures) = (0_u64, 0_u64, Vec::new());
    let (mut failed_cases, mut shared) = (0, Vec::new());
    for case in list(&data, "cases") {
        let before = failures.len();
        for (number, step) in list(case, "steps").iter().enumerate() {
            let mut step = step.clone();
            let as_recorded = objects(&step, &data["pod_ports"]);
            if part_shared_addresses(&mut step) {
                let error = evaluate(&as_recorded, NODE, &[]).unwrap_err().to_string();
                assert!(error.contains("status.podIP") && error.contains("belongs to Pod"), "{error}");
                shared.push((case["id"].as_u64().unwrap(), number));
            }
            let objects = objects(&step, &data["pod_ports"]);
            let probes = probes(&step);
            (steps, flows) = (steps + 1, flows + probes.len() as u64);
            let place = format!("case {} ({}), step {number}", case["id"], text(case, "description"));
            failures
                .extend(wrong(&step, &objects, &probes).into_iter().map(|flow| format!("{place}: {flow}")));
        }
        failed_cases += usize::from(failures.len() > before);
    }
    let cases = list(&data, "cases").len();
    println!("cyclonus-ipv4: {cases} cases, {steps} steps, {flows} flows ran, {failed_cases} cases failed");
    let first: Vec<&String> = failures.iter().take(20).collect();
    assert_eq!(shared, SHARED_ADDRESS);
    assert!(failures.is_empty(), "{} wrong, the first: {first:#?}", failures.len());
    let counts = &data["counts"];
    assert_eq!(json!([cases, steps, flows]), json!([counts["cases"], counts["steps"], counts["flows"]]));
}
