//! The conformance suite of the sig-network policy API (18 tests of ClusterNetworkPolicy), recorded.

use serde_json::{Value, json};

use super::{NODE, addresses, node, pod, read, wrong};
use crate::conformance::{data, list, name_of, text};
use crate::evaluate::Probe;
use crate::intent::ObjectName;
use crate::objects::Objects;

/// The cluster as a test finds it.
fn objects(test: &Value) -> Objects {
    let mut objects = Objects::default();
    objects.nodes.insert(ObjectName::new("", NODE), read(node()));
    for (name, labels) in test["namespaces"].as_object().unwrap() {
        set_labels(&mut objects, name, labels);
    }
    for recorded in list(test, "pods") {
        let object = pod(recorded, &recorded["ports"]);
        objects.pods.insert(name_of(&object), read(object));
    }
    list(test, "objects").iter().for_each(|object| apply(&mut objects, object));
    objects
}

fn set_labels(objects: &mut Objects, namespace: &str, labels: &Value) {
    let object = json!({"metadata": {"name": namespace, "labels": labels}});
    objects.namespaces.insert(ObjectName::new("", namespace), read(object));
}

fn apply(objects: &mut Objects, object: &Value) {
    let name = name_of(object);
    match text(object, "kind") {
        "ClusterNetworkPolicy" => {
            objects.cluster_network_policies.insert(name, read(object.clone()));
        }
        "NetworkPolicy" => drop(objects.network_policies.insert(name, read(object.clone()))),
        other => panic!("{other} is not a kind that the file had when this was written"),
    }
}

/// Makes the change that an event says; `Some` where it is a probe instead, with what that should meet.
fn step(objects: &mut Objects, event: &Value) -> Option<(Probe, bool)> {
    match text(event, "op") {
        "apply" => apply(objects, &event["object"]),
        "delete" => {
            let name = ObjectName::new(text(event, "namespace"), text(event, "name"));
            let gone = match text(event, "kind") {
                "ClusterNetworkPolicy" => objects.cluster_network_policies.remove(&name).is_some(),
                _ => objects.network_policies.remove(&name).is_some(),
            };
            assert!(gone, "{event}");
        }
        "set-namespace-labels" => set_labels(objects, text(event, "namespace"), &event["labels"]),
        "probe" => {
            let probe = json!({
                "from": event["from"], "to": event["to"], "protocol": event["protocol"], "port": event["port"],
            });
            return Some((read(probe), event["allowed"].as_bool().unwrap()));
        }
        other => panic!("{other} is not an event that the file had when this was written"),
    }
    None
}

#[test]
#[allow(clippy::print_stdout, reason = "CI reports how many tests and probes ran")]
fn the_probes_of_the_api_s_own_suite_meet_what_they_should() {
    let Some(data) = data("netpol/cluster-network-policy-ipv4.json") else { return };
    let (mut probes, mut failures) = (0_u64, Vec::new());
    for test in list(&data, "tests") {
        let mut objects = objects(test);
        let addresses = addresses(list(test, "pods"));
        for event in list(test, "events") {
            let Some(probe) = step(&mut objects, event) else { continue };
            probes += 1;
            let found = wrong(&objects, &addresses, &[probe]).into_iter();
            failures.extend(found.map(|flow| format!("{}: {flow}", text(event, "subtest"))));
        }
    }
    let tests = list(&data, "tests").len();
    println!("cluster-network-policy-ipv4: {tests} tests, {probes} probes ran, {} failed", failures.len());
    let first: Vec<&String> = failures.iter().take(20).collect();
    assert!(failures.is_empty(), "{} wrong, the first: {first:#?}", failures.len());
    assert_eq!(json!([tests, probes]), json!([data["counts"]["tests"], data["counts"]["probes"]]));
}
