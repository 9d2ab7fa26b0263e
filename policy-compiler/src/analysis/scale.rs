//! Analysis of a large cluster: that few sentences come out, and (ignored; it measures) how long it takes.
//!
//! `cargo test --release -p policy-compiler --features kubernetes -- --ignored --nocapture scale`

use std::time::Instant;

use serde_json::json;

use super::diff::{Change, diff_tables};
use super::explain::explain;
use super::lint::lint;
use super::reach::who_can_reach;
use super::{Packet, Party};
use crate::intent::{Intent, ObjectName};
use crate::objects::Objects;
use crate::policy::PolicyTable;
use crate::policy::properties::read;

const APPS: usize = 20;
const PODS_AN_APP: usize = 10;

/// So many namespaces of 20 applications of 10 pods, a policy for each application: two others of its namespace may call it, a
/// namespace of monitors may read its metrics, every third has an address block, every fourth is about egress, too. The last of
/// each namespace isolates all of it. Every pod has a label of its own.
fn cluster(namespaces: usize) -> Objects {
    let mut objects = Objects::default();
    let nodes = namespaces * APPS * PODS_AN_APP / 100 + 1;
    for node in 0..nodes {
        let address =
            json!({"type": "InternalIP", "address": format!("172.31.{}.{}", node / 250, node % 250 + 1)});
        let object =
            json!({"metadata": {"name": format!("node-{node}")}, "status": {"addresses": [address]}});
        objects.nodes.insert(ObjectName::new("", format!("node-{node}")), read(object));
    }
    for space in 0..namespaces {
        let namespace = format!("team-{space}");
        objects
            .namespaces
            .insert(ObjectName::new("", &namespace), read(json!({"metadata": {"name": namespace}})));
        for app in 0..APPS {
            for pod in 0..PODS_AN_APP {
                let number = (space * APPS + app) * PODS_AN_APP + pod;
                let name = ObjectName::new(&namespace, format!("app-{app}-{pod}"));
                let address = format!("10.{}.{}.{}", number >> 16, number >> 8 & 0xff, number & 0xff);
                let object = json!({
                    "metadata": {"namespace": namespace, "name": name.name, "labels": {"app": format!("app-{app}"), "pod": name.name}},
                    "spec": {"nodeName": format!("node-{}", number % nodes), "containers": [{"name": "c", "ports": [{"name": "http", "containerPort": 8080}]}]},
                    "status": {"phase": "Running", "podIP": address},
                });
                objects.pods.insert(name, read(object));
            }
            let name = ObjectName::new(&namespace, format!("policy-{app}"));
            let spec = spec(space, app);
            let object = json!({"metadata": {"namespace": namespace, "name": name.name}, "spec": spec});
            objects.network_policies.insert(name, read(object));
        }
    }
    objects
}

fn spec(space: usize, app: usize) -> serde_json::Value {
    let pods = |app: usize| json!({"podSelector": {"matchLabels": {"app": format!("app-{}", app % APPS)}}});
    if app == APPS - 1 {
        return json!({"podSelector": {}, "policyTypes": ["Ingress"]});
    }
    let monitors = format!("team-{}", space - space % 50);
    let monitors = json!({"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": monitors}}});
    let mut ingress = vec![
        json!({"from": [pods(app + 1), pods(app + 2)], "ports": [{"port": "http"}]}),
        json!({"from": [monitors], "ports": [{"port": 9090}]}),
    ];
    if app.is_multiple_of(3) {
        let block = json!({"cidr": format!("203.{}.0.0/16", space % 200), "except": [format!("203.{}.{app}.0/24", space % 200)]});
        ingress.push(json!({"from": [{"ipBlock": block}], "ports": [{"port": 443}]}));
    }
    let mut spec =
        json!({"podSelector": pods(app)["podSelector"], "policyTypes": ["Ingress"], "ingress": ingress});
    if app % 4 == 1 {
        spec["policyTypes"] = json!(["Ingress", "Egress"]);
        spec["egress"] = json!([{"to": [{"podSelector": {}}], "ports": [{"port": 8080}]}]);
    }
    spec
}

/// The same cluster, where the policy of `team-1`'s first application lets one port more in.
fn with_a_port(objects: &Objects) -> Objects {
    let mut changed = objects.clone();
    let name = ObjectName::new("team-1", "policy-0");
    let spec = changed.network_policies.get_mut(&name).and_then(|policy| policy.spec.as_mut()).unwrap();
    spec.ingress.as_mut().unwrap()[0].ports.as_mut().unwrap().push(read(json!({"port": 22})));
    changed
}

/// The same cluster, where nothing is isolated for ingress.
fn opened(objects: &Objects) -> Objects {
    let mut changed = objects.clone();
    changed
        .network_policies
        .retain(|_, policy| policy.spec.as_ref().is_some_and(|spec| spec.egress.is_some()));
    for policy in changed.network_policies.values_mut() {
        let spec = policy.spec.as_mut().unwrap();
        (spec.ingress, spec.policy_types) = (None, Some(vec!["Egress".to_owned()]));
    }
    changed
}

fn compiled(objects: &Objects) -> (Intent, PolicyTable) {
    let intent = objects.intent("").unwrap().0;
    let table = PolicyTable::compile(&intent).unwrap();
    (intent, table)
}

/// What is asked, and how long each takes where `say` wants to know.
fn analyse(namespaces: usize, say: impl Fn(&str, Instant)) {
    let objects = cluster(namespaces);
    let begun = Instant::now();
    let old = compiled(&objects);
    say("objects to table", begun);
    let new = compiled(&with_a_port(&objects));
    let open = compiled(&opened(&objects));

    let begun = Instant::now();
    let same = diff_tables([(&old.0, &old.1), (&old.0, &old.1)]);
    say("diff, nothing changed", begun);
    assert_eq!(same.differences, vec![]);

    let begun = Instant::now();
    let found = diff_tables([(&old.0, &old.1), (&new.0, &new.1)]);
    say("diff, one port of one policy", begun);
    let [row] = found.differences.as_slice() else { panic!("{:?}", found.differences) };
    assert_eq!((row.change, row.ports[0].to_string().as_str()), (Change::Allowed, "tcp 22"));
    // The other caller may itself call port 8080 alone.
    assert_eq!(row.from.parties.len(), 1, "{row:?}");
    assert!(matches!(&row.to.parties[..], [Party::Pods { count: PODS_AN_APP, .. }]), "{row:?}");

    let begun = Instant::now();
    let found = diff_tables([(&old.0, &old.1), (&open.0, &open.1)]);
    say(&format!("diff, everything opened: {} rows", found.differences.len()), begun);
    assert!(
        found.differences.iter().all(|row| row.change == Change::Allowed) && !found.differences.is_empty()
    );

    let begun = Instant::now();
    let target = ObjectName::new("team-1", "app-0-0");
    let reach = who_can_reach(&old.0, &old.1, &target, 6, 8080).unwrap();
    say("who-can-reach", begun);
    let pods = |party: &Party| if let Party::Pods { count, .. } = party { *count } else { 0 };
    let reaching: usize = reach.allowed.iter().flat_map(|access| &access.who).map(pods).sum();
    assert_eq!(reaching, 2 * PODS_AN_APP, "{:?}", reach.allowed);

    let begun = Instant::now();
    let packet = Packet::new("10.0.0.1".parse().unwrap(), reach.addresses[0], 6, 8080);
    let told = explain(&old.0, &old.1, &packet, false);
    say("explain", begun);
    assert_eq!(told.destination.policies.len(), 2);

    let begun = Instant::now();
    let report = lint(&objects);
    say(&format!("lint: {} findings", report.findings.len()), begun);
    assert_eq!(report.findings, vec![], "nothing is wrong with it");
}

#[test]
fn a_change_of_one_policy_is_one_row() {
    analyse(6, |_, _| {});
}

#[test]
#[ignore = "measures: 10,000 policies and 100,000 pods"]
fn ten_thousand_policies_and_a_hundred_thousand_pods() {
    analyse(500, |what, begun| eprintln!("{what}: {:.3} s", begun.elapsed().as_secs_f64()));
}
