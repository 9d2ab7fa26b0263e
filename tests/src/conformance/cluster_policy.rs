//! Reads `cluster-network-policy-ipv4.json`: what the conformance suite of kubernetes-sigs/network-policy-api does to a
//! cluster and asks of it, recorded. Read, never edited.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use anyhow::{Context, Result, bail, ensure};
use policy_compiler::evaluate::ProbeProtocol;
use serde::Deserialize;
use serde_json::{Value, json};

use super::case::{self, Case, Document, Ends, Flow, Step, Wanted};

#[derive(Debug, Deserialize)]
struct File {
    tests: Vec<Recorded>,
}

#[derive(Debug, Deserialize)]
struct Recorded {
    name: String,
    description: String,
    namespaces: BTreeMap<String, BTreeMap<String, String>>,
    pods: Vec<Pod>,
    objects: Vec<Value>,
    events: Vec<Event>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Pod {
    name: String,
    namespace: String,
    ip: Ipv4Addr,
    host_network: bool,
    labels: BTreeMap<String, String>,
    ports: Vec<Value>,
}

#[derive(Debug, Deserialize)]
#[serde(tag = "op", rename_all = "kebab-case")]
enum Event {
    Probe {
        subtest: String,
        from: String,
        to: String,
        to_ip: Ipv4Addr,
        protocol: ProbeProtocol,
        port: u16,
        allowed: bool,
    },
    Apply {
        object: Value,
    },
    Delete {
        kind: String,
        #[serde(default)]
        namespace: String,
        name: String,
    },
    SetNamespaceLabels {
        namespace: String,
        labels: BTreeMap<String, String>,
    },
}

/// Reads the file's text.
///
/// # Errors
/// Where it is of another shape.
pub fn load(text: &str) -> Result<Vec<Case>> {
    let file: File = serde_json::from_str(text)?;
    file.tests.iter().map(|recorded| read(recorded).with_context(|| recorded.name.clone())).collect()
}

fn read(recorded: &Recorded) -> Result<Case> {
    let mut state = State { namespaces: recorded.namespaces.clone(), policies: recorded.objects.clone() };
    let mut case = Case {
        name: recorded.name.clone(),
        about: recorded.description.clone(),
        tags: Vec::new(),
        outside: Vec::new(),
        steps: Vec::new(),
        pending: None,
        notes: Vec::new(),
    };
    let mut probes: Vec<&Event> = Vec::new();
    for event in &recorded.events {
        if matches!(event, Event::Probe { .. }) {
            probes.push(event);
        } else {
            close(&mut case, &state, &recorded.pods, &mut probes)?;
            state.change(event)?;
        }
    }
    close(&mut case, &state, &recorded.pods, &mut probes)?;
    Ok(case)
}

/// What the events change.
struct State {
    namespaces: BTreeMap<String, BTreeMap<String, String>>,
    policies: Vec<Value>,
}

impl State {
    fn change(&mut self, event: &Event) -> Result<()> {
        match event {
            Event::Probe { .. } => {}
            Event::Apply { object } => {
                self.policies.retain(|policy| identity(policy) != identity(object));
                self.policies.push(object.clone());
            }
            Event::Delete { kind, namespace, name } => {
                let before = self.policies.len();
                self.policies.retain(|policy| identity(policy) != [kind, namespace, name]);
                ensure!(
                    self.policies.len() + 1 == before,
                    "delete: there is no one {kind} {namespace}/{name}"
                );
            }
            Event::SetNamespaceLabels { namespace, labels } => {
                let Some(known) = self.namespaces.get_mut(namespace) else {
                    bail!("set-namespace-labels: there is no namespace {namespace}");
                };
                known.extend(labels.clone());
            }
        }
        Ok(())
    }

    fn document(&self, pods: &[Pod]) -> Document {
        let mut items = self.policies.clone();
        items.extend(nodes(pods));
        items.extend(self.namespaces.iter().map(|(name, labels)| {
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}})
        }));
        items.extend(pods.iter().map(pod));
        let text = json!({"apiVersion": "v1", "kind": "List", "items": items}).to_string();
        Document { name: "recorded.json".to_owned(), text }
    }
}

/// The state so far makes a step with the probes that were asked of it.
fn close(case: &mut Case, state: &State, pods: &[Pod], probes: &mut Vec<&Event>) -> Result<()> {
    let Some(Event::Probe { subtest, .. }) = probes.first() else { return Ok(()) };
    let name = subtest.split_once('/').map_or(subtest.as_str(), |(_, name)| name).to_owned();
    let documents = vec![state.document(pods)];
    let reading = case::read(&documents)?;
    if let Some(unused) = reading.unused {
        case.pending.get_or_insert(unused);
    }
    let ends = Ends::of(reading.objects.as_ref().map_err(|error| anyhow::anyhow!("{error}"))?, &[])?;
    let mut flows = Vec::new();
    for probe in probes.drain(..) {
        flows.extend(flow(&ends, probe)?);
    }
    case.steps.push(Step { name, documents, objects: reading.objects, wanted: Wanted::Flows(flows) });
    Ok(())
}

fn flow(ends: &Ends, probe: &Event) -> Result<Vec<Flow>> {
    let Event::Probe { from, to, to_ip, protocol, port, allowed, .. } = probe else { return Ok(Vec::new()) };
    let flows = ends.flows(from, to, (*protocol, *port), *allowed)?;
    ensure!(flows.iter().all(|flow| flow.dst == *to_ip), "{to} has another address than {to_ip}");
    Ok(flows)
}

fn pod(pod: &Pod) -> Value {
    let ports: Vec<Value> = pod
        .ports
        .iter()
        .map(
            |port| json!({"name": port["name"], "containerPort": port["port"], "protocol": port["protocol"]}),
        )
        .collect();
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": pod.name, "namespace": pod.namespace, "labels": pod.labels},
        "spec": {
            "nodeName": node_of(pod), "hostNetwork": pod.host_network,
            "containers": [{"name": "agnhost", "ports": ports}],
        },
        "status": {"phase": "Running", "podIP": pod.ip},
    })
}

/// What the file leaves out: the nodes. Each has a hostNetwork pod at its own address.
fn nodes(pods: &[Pod]) -> Vec<Value> {
    let hosts: Vec<Ipv4Addr> = pods.iter().filter(|pod| pod.host_network).map(|pod| pod.ip).collect();
    hosts
        .iter()
        .enumerate()
        .map(|(index, address)| {
            let number = u8::try_from(index + 1).unwrap_or(u8::MAX);
            json!({
                "apiVersion": "v1", "kind": "Node", "metadata": {"name": format!("node-{number}")},
                "spec": {"podCIDRs": [format!("10.244.{number}.0/24")]},
                "status": {"addresses": [{"type": "InternalIP", "address": address}]},
            })
        })
        .collect()
}

/// By the recorded cluster's numbering: `172.18.0.2` is the first node, `10.244.1.x` are its pods.
fn node_of(pod: &Pod) -> String {
    let [_, _, network, host] = pod.ip.octets();
    let number = if pod.host_network { host.saturating_sub(1) } else { network };
    format!("node-{number}")
}

/// Kind, namespace and name.
fn identity(object: &Value) -> [&str; 3] {
    [
        object["kind"].as_str().unwrap_or_default(),
        object["metadata"]["namespace"].as_str().unwrap_or_default(),
        object["metadata"]["name"].as_str().unwrap_or_default(),
    ]
}
