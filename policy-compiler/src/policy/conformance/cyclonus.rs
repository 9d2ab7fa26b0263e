//! Cyclonus' truth tables of NetworkPolicy (230 cases).

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{NODE, addresses, node, pod, read, wrong};
use crate::conformance::{data, list, name_of, text};
use crate::evaluate::{Probe, ProbeProtocol, evaluate};
use crate::intent::ObjectName;
use crate::objects::Objects;

/// Steps that give two pods one address, which no cluster does, by case and number: those objects are refused. Their
/// flows are judged with another address for the second pod; no ipBlock of theirs tells the two apart.
const SHARED_ADDRESS: [(u64, usize); 1] = [(196, 1)];
/// That other address.
const FREE_ADDRESS: &str = "10.244.2.199";

/// The cluster of a step: what its file leaves out is one node for all pods, and that they run.
fn objects(step: &Value, pod_ports: &Value) -> Objects {
    let mut objects = Objects::default();
    objects.nodes.insert(ObjectName::new("", NODE), read(node()));
    for (name, labels) in step["namespaces"].as_object().unwrap() {
        let namespace = json!({"metadata": {"name": name, "labels": labels}});
        objects.namespaces.insert(ObjectName::new("", name), read(namespace));
    }
    for recorded in list(step, "pods") {
        let object = pod(recorded, pod_ports);
        objects.pods.insert(name_of(&object), read(object));
    }
    for policy in list(step, "policies") {
        objects.network_policies.insert(name_of(policy), read(policy.clone()));
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
            failures.extend(
                wrong(&objects, &addresses(list(&step, "pods")), &probes)
                    .into_iter()
                    .map(|flow| format!("{place}: {flow}")),
            );
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
