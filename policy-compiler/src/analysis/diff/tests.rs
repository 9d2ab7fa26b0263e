//! Rows of a diff in words, on clusters that a person can oversee.

use super::super::diff::{Change, PolicyDiff, diff};
use crate::manifest::Manifests;

/// Two namespaces of two pods each, on two nodes.
const PODS: &str = r#"
{apiVersion: v1, kind: Node, metadata: {name: n1}, status: {addresses: [{type: InternalIP, address: 192.0.2.1}]}}
---
{apiVersion: v1, kind: Node, metadata: {name: n2}, status: {addresses: [{type: InternalIP, address: 192.0.2.2}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: web, namespace: shop, labels: {app: web}}, spec: {nodeName: n1, containers: []},
 status: {podIPs: [{ip: 10.0.0.1}, {ip: "fd00::1"}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: db, namespace: shop, labels: {app: db}}, spec: {nodeName: n2, containers: []},
 status: {podIPs: [{ip: 10.0.0.2}, {ip: "fd00::2"}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: probe, namespace: ops, labels: {app: probe}}, spec: {nodeName: n2, containers: []},
 status: {podIPs: [{ip: 10.0.0.3}]}}
"#;

fn policy(spec: &str) -> String {
    format!(
        "{{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {{name: db, namespace: shop}}, spec: {spec}}}"
    )
}

/// What `old` and `new` differ in, each with the pods above.
fn between(old: &[&str], new: &[&str]) -> PolicyDiff {
    let [old, new] = [old, new].map(|texts| {
        let mut manifests = Manifests::default();
        for (number, text) in texts.iter().chain([&PODS]).enumerate() {
            manifests.parse(&number.to_string(), text).unwrap();
        }
        manifests.objects.intent("").unwrap().0
    });
    diff(&old, &new).unwrap()
}

/// Each difference as a sentence.
fn sentences(diff: &PolicyDiff) -> Vec<String> {
    let join = |texts: Vec<String>| texts.join(" + ");
    let sentence = |row: &super::Difference| {
        let change = if row.change == Change::Allowed { "allowed" } else { "denied" };
        let parties =
            |parties: &super::Parties| join(parties.parties.iter().map(ToString::to_string).collect());
        format!(
            "{change} {:?}: {} > {} on {}, e.g. {}: {} becomes {}",
            row.families,
            parties(&row.from),
            parties(&row.to),
            row.ports.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
            row.witness,
            row.old.ingress,
            row.new.ingress,
        )
    };
    diff.differences.iter().map(sentence).collect()
}

#[test]
fn a_new_policy_denies_to_all_but_those_that_it_names() {
    let new = policy(
        "{podSelector: {matchLabels: {app: db}}, ingress: [{from: [{podSelector: {matchLabels: {app: web}}}], ports: [{port: 5432}]}]}",
    );
    let found = between(&[], &[&new]);
    let no_rule = "default-allow becomes no-rule of NetworkPolicy shop/db";
    let all = "tcp, udp, sctp, protocols without ports";
    let db = "pod shop/db (app=db)";
    let wanted = [
        format!(
            "denied [4]: pod ops/probe (app=probe) + 2 nodes (n1, n2) > {db} on {all}, e.g. tcp 10.0.0.3:49152 > 10.0.0.2:1: {no_rule}"
        ),
        format!(
            "denied [4, 6]: pod shop/web (app=web) > {db} on tcp 0-5431, tcp 5433-65535, udp, sctp, protocols without ports, e.g. tcp 10.0.0.1:49152 > 10.0.0.2:1: {no_rule}"
        ),
        format!(
            "denied [4]: outside 0.0.0.0/0 > {db} on {all}, e.g. tcp 198.51.100.1:49152 > 10.0.0.2:1: {no_rule}"
        ),
        format!(
            "denied [6]: outside ::/0 > {db} on {all}, e.g. tcp [2001:db8::1]:49152 > [fd00::2]:1: {no_rule}"
        ),
    ];
    assert_eq!(sentences(&found), wanted);
}

#[test]
fn one_port_more_is_one_sentence() {
    let spec = |last: u16| {
        policy(&format!(
            "{{podSelector: {{matchLabels: {{app: db}}}}, ingress: [{{from: [{{namespaceSelector: {{}}}}], ports: [{{port: 5432, endPort: {last}}}]}}]}}"
        ))
    };
    let found = between(&[&spec(5432)], &[&spec(5433)]);
    let rule = "no-rule of NetworkPolicy shop/db becomes NetworkPolicy shop/db ingress[0]";
    let wanted = [
        format!(
            "allowed [4]: 2 pods (ops/probe, shop/web) > pod shop/db (app=db) on tcp 5433, e.g. tcp 10.0.0.1:49152 > 10.0.0.2:5433: {rule}"
        ),
        format!(
            "allowed [6]: pod shop/web > pod shop/db (app=db) on tcp 5433, e.g. tcp [fd00::1]:49152 > [fd00::2]:5433: {rule}"
        ),
    ];
    assert_eq!(sentences(&found), wanted);
    assert_eq!(between(&[&spec(5440)], &[&spec(5440)]).differences, vec![]);
}

#[test]
fn another_way_to_say_the_same_is_no_difference() {
    let one = policy("{podSelector: {}, ingress: [{ports: [{port: 80, endPort: 90}]}]}");
    let other = policy(
        "{podSelector: {}, ingress: [{ports: [{port: 80, endPort: 84}]}, {ports: [{port: 85, endPort: 90}]}]}",
    );
    assert_eq!(between(&[&one], &[&other]).differences, vec![]);
}

#[test]
fn a_pod_that_moves_is_denied_by_the_node_that_it_left() {
    let closed = policy("{podSelector: {matchLabels: {app: db}}, policyTypes: [Ingress]}");
    let mut moved = Manifests::default();
    for (name, text) in [
        ("pods", PODS.replace("app: db}}, spec: {nodeName: n2", "app: db}}, spec: {nodeName: n1")),
        ("policy", closed.clone()),
    ] {
        moved.parse(name, &text).unwrap();
    }
    let mut old = Manifests::default();
    for (name, text) in [("pods", PODS), ("policy", closed.as_str())] {
        old.parse(name, text).unwrap();
    }
    let found = diff(&old.objects.intent("").unwrap().0, &moved.objects.intent("").unwrap().0).unwrap();
    let rows: Vec<_> =
        found.differences.iter().map(|row| (row.change, row.own_node, row.witness.to_string())).collect();
    let wanted = [
        (Change::Allowed, true, "tcp 192.0.2.1:49152 > 10.0.0.2:1".to_owned()),
        (Change::Denied, true, "tcp 192.0.2.2:49152 > 10.0.0.2:1".to_owned()),
    ];
    assert_eq!(rows, wanted);
}

#[test]
fn what_one_state_alone_has_is_listed() {
    let more = "{apiVersion: v1, kind: Pod, metadata: {name: new, namespace: ops}, spec: {nodeName: n1, containers: []}, status: {podIP: 10.0.0.9}}";
    let found = between(&[], &[more, &policy("{podSelector: {}}")]);
    assert_eq!(
        (found.only_new.addresses, found.only_new.names.as_slice()),
        (1, &["Pod ops/new".to_owned()][..])
    );
    assert_eq!(found.only_old.addresses, 0);
    let names_it = |row: &super::Difference| format!("{row:?}").contains("ops/new");
    assert!(!found.differences.is_empty() && !found.differences.iter().any(names_it));
}
