//! Reads `cyclonus-ipv4.json`: truth tables of NetworkPolicy, recorded from mattfenwick/cyclonus. Read, never edited.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use anyhow::{Context, Result, ensure};
use policy_compiler::evaluate::ProbeProtocol;
use serde::Deserialize;
use serde_json::{Value, json};

use super::case::{self, Case, Document, Ends, Flow, Step, Wanted};

/// What the file leaves out: two nodes, with the pods' addresses divided between them.
const NODES: [(&str, &str, [&str; 2]); 2] = [
    ("node-a", "172.30.0.1", ["10.244.1.0/24", "10.244.3.0/24"]),
    ("node-b", "172.30.0.2", ["10.244.0.0/24", "10.244.2.0/24"]),
];
/// For the second of two pods with one address, which no cluster has; no ipBlock of theirs tells the two apart.
const FREE: Ipv4Addr = Ipv4Addr::new(10, 244, 2, 199);

#[derive(Debug, Deserialize)]
struct File {
    pod_ports: Vec<Value>,
    cases: Vec<Recorded>,
}

#[derive(Debug, Deserialize)]
struct Recorded {
    id: u64,
    description: String,
    tags: Vec<String>,
    steps: Vec<RecordedStep>,
}

#[derive(Debug, Deserialize)]
struct RecordedStep {
    namespaces: BTreeMap<String, BTreeMap<String, String>>,
    pods: Vec<Pod>,
    policies: Vec<Value>,
    expect: BTreeMap<String, Vec<String>>,
}

#[derive(Debug, Clone, Deserialize)]
struct Pod {
    name: String,
    namespace: String,
    ip: Ipv4Addr,
    labels: BTreeMap<String, String>,
}

/// Reads the file's text.
///
/// # Errors
/// Where it is of another shape.
pub fn load(text: &str) -> Result<Vec<Case>> {
    let file: File = serde_json::from_str(text)?;
    file.cases.iter().map(|recorded| read(recorded, &file.pod_ports)).collect()
}

fn read(recorded: &Recorded, ports: &[Value]) -> Result<Case> {
    let name = format!("cyclonus-{}", recorded.id);
    let mut case = Case {
        about: recorded.description.clone(),
        tags: recorded.tags.clone(),
        outside: Vec::new(),
        steps: Vec::new(),
        pending: None,
        notes: Vec::new(),
        name: name.clone(),
    };
    for (index, step) in recorded.steps.iter().enumerate() {
        let mut pods = step.pods.clone();
        for moved in part_shared_addresses(&mut pods) {
            case.notes.push(format!("step {index}: {moved}"));
        }
        let step = read_step(step, &pods, ports, index);
        case.steps.push(step.with_context(|| format!("{name}, step {index}"))?);
    }
    Ok(case)
}

/// Gives the second pod of two with one address another one, and says so.
fn part_shared_addresses(pods: &mut [Pod]) -> Vec<String> {
    let mut owners = BTreeMap::<Ipv4Addr, String>::new();
    let mut moved = Vec::new();
    for pod in pods {
        let name = format!("{}/{}", pod.namespace, pod.name);
        if let Some(other) = owners.insert(pod.ip, name.clone()) {
            moved.push(format!("{name} has {FREE}, because {} is also {other}'s", pod.ip));
            pod.ip = FREE;
        }
    }
    moved
}

fn read_step(step: &RecordedStep, pods: &[Pod], ports: &[Value], index: usize) -> Result<Step> {
    let mut items = step.policies.clone();
    items.extend(NODES.iter().map(|(name, address, cidrs)| {
        json!({
            "apiVersion": "v1", "kind": "Node", "metadata": {"name": name}, "spec": {"podCIDRs": cidrs},
            "status": {"addresses": [{"type": "InternalIP", "address": address}]},
        })
    }));
    items.extend(step.namespaces.iter().map(|(name, labels)| {
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}})
    }));
    let ports: Vec<Value> = ports
        .iter()
        .map(
            |port| json!({"name": port["name"], "containerPort": port["port"], "protocol": port["protocol"]}),
        )
        .collect();
    for pod in pods {
        let (name, ..) = NODES
            .iter()
            .find(|(_, _, cidrs)| cidrs.iter().any(|cidr| within(pod.ip, cidr)))
            .with_context(|| format!("{}/{}: {} is no node's", pod.namespace, pod.name, pod.ip))?;
        items.push(json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": pod.name, "namespace": pod.namespace, "labels": pod.labels},
            "spec": {"nodeName": name, "containers": [{"name": "agnhost", "ports": ports}]},
            "status": {"phase": "Running", "podIP": pod.ip},
        }));
    }
    let text = json!({"apiVersion": "v1", "kind": "List", "items": items}).to_string();
    let documents = vec![Document { name: "recorded.json".to_owned(), text }];
    let objects = case::read(&documents)?.objects;
    let ends = Ends::of(objects.as_ref().map_err(|error| anyhow::anyhow!("{error}"))?, &[])?;
    let wanted = Wanted::Flows(flows(&ends, pods, &step.expect)?);
    Ok(Step { name: format!("step {index}"), documents, objects, wanted })
}

/// All of `CIDR`s here are of 24 bits.
fn within(address: Ipv4Addr, cidr: &str) -> bool {
    let network = cidr.trim_end_matches("/24").parse::<Ipv4Addr>();
    network.is_ok_and(|network| network.octets()[..3] == address.octets()[..3])
}

fn flows(ends: &Ends, pods: &[Pod], expect: &BTreeMap<String, Vec<String>>) -> Result<Vec<Flow>> {
    let mut flows = Vec::new();
    for (key, rows) in expect {
        let on = read_key(key).with_context(|| key.clone())?;
        ensure!(rows.len() == pods.len(), "{key}: {} rows for {} pods", rows.len(), pods.len());
        for (from, row) in pods.iter().zip(rows) {
            ensure!(row.len() == pods.len(), "{key}: a row of {} for {} pods", row.len(), pods.len());
            for (to, cell) in pods.iter().zip(row.chars()) {
                let name = |pod: &Pod| format!("{}/{}", pod.namespace, pod.name);
                ensure!(matches!(cell, '0' | '1'), "{key}: {cell:?} is neither 0 nor 1");
                flows.extend(ends.flows(&name(from), &name(to), on, cell == '1')?);
            }
        }
    }
    Ok(flows)
}

/// `TCP/80`.
fn read_key(key: &str) -> Result<(ProbeProtocol, u16)> {
    let (protocol, port) = key.split_once('/').context("is not PROTOCOL/PORT")?;
    Ok((serde_json::from_value(json!(protocol))?, port.parse()?))
}
