//! What others recorded of policies, where the data are at hand.

mod cluster;
mod cyclonus;

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde_json::{Value, json};

use crate::conformance::text;
use crate::evaluate::{Probe, ProbeProtocol, Verdict, evaluate};
use crate::objects::Objects;
use crate::oracle::Oracle;

/// The node that everything runs on: the recordings tell of none.
const NODE: &str = "node";

/// The flows that meet something else than they should, in words: through `evaluate`, and through the oracle beside it.
/// `addresses` are those of the pods, by `namespace/name`.
fn wrong(objects: &Objects, addresses: &BTreeMap<String, IpAddr>, probes: &[(Probe, bool)]) -> Vec<String> {
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
        let twin = oracle.judge(addresses[&probe.from], addresses[&probe.to], number, probe.port);
        if (answer.verdict == Verdict::Allow) != *expected || (twin == (true, true)) != *expected {
            wrong.push(format!("{probe:?}: {answer:?}, oracle {twin:?}, expected {expected}"));
        }
    }
    wrong
}

/// The one node.
fn node() -> Value {
    json!({
        "metadata": {"name": NODE},
        "spec": {"podCIDRs": ["10.244.0.0/16"]},
        "status": {"addresses": [{"type": "InternalIP", "address": "192.0.2.1"}]},
    })
}

/// A running pod as both recordings write it, with the container ports given.
fn pod(pod: &Value, ports: &Value) -> Value {
    let ports = ports.as_array().unwrap().iter();
    let ports: Vec<Value> = ports
        .map(
            |port| json!({"name": port["name"], "containerPort": port["port"], "protocol": port["protocol"]}),
        )
        .collect();
    json!({
        "metadata": {"name": pod["name"], "namespace": pod["namespace"], "labels": pod["labels"]},
        "spec": {
            "nodeName": NODE,
            "hostNetwork": pod["hostNetwork"],
            "containers": [{"name": "agnhost", "ports": ports}],
        },
        "status": {"phase": "Running", "podIP": pod["ip"]},
    })
}

/// The address of each pod of a list, by `namespace/name`.
fn addresses(pods: &[Value]) -> BTreeMap<String, IpAddr> {
    let name = |pod: &Value| format!("{}/{}", text(pod, "namespace"), text(pod, "name"));
    pods.iter().map(|pod| (name(pod), text(pod, "ip").parse().unwrap())).collect()
}

fn read<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}
