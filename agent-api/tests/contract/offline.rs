//! policy and evaluate: folders judged offline.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::stage::{Ran, editable, penstockctl, two_nodes};

fn run(command: &[&str], manifests: &Path, more: &[&str]) -> Ran {
    Ran::of(penstockctl().args(command).arg("--manifests").arg(manifests).args(more))
}

#[test]
fn check_says_who_is_isolated_by_what() {
    let wanted = "\
warning: other.yaml: ConfigMap poc/web-settings: v1 ConfigMap is not a kind that is used
ok: 2 nodes, 3 endpoints (0 of them hostNetwork), 3 identities, 1 policy with 1 rule, 7 service ports
 ISOLATED ENDPOINT             INGRESS BY      EGRESS BY
 poc/virt-launcher-mongodb-vm  poc/mongodb-vm  -
";
    for node in [&[][..], &["--node", "node-b"]] {
        assert_eq!(run(&["policy", "check"], &two_nodes(), node).text(0), wanted);
    }
    let answer = run(&["policy", "check"], &two_nodes(), &["-o", "json"]).json(0);
    assert_eq!((&answer["ok"], &answer["summary"]["services"]), (&json!(true), &json!(7)));
    assert_eq!(
        answer["summary"]["isolated"][0]["ingress"],
        json!([{"namespace": "poc", "name": "mongodb-vm"}])
    );
    assert_eq!(answer["warnings"].as_array().map(Vec::len), Some(1));

    let empty = tempfile::tempdir().unwrap();
    let text = run(&["policy", "check"], empty.path(), &[]).text(0);
    assert!(text.ends_with("no endpoint is isolated: everyone may reach everyone\n"), "{text}");
}

/// A ClusterNetworkPolicy of the Admin tier for all pods, with these rules.
fn cluster_policy(rules: &str) -> String {
    format!(
        "apiVersion: policy.networking.k8s.io/v1alpha2\nkind: ClusterNetworkPolicy\nmetadata: {{name: strict}}\n\
         spec: {{tier: Admin, priority: 3, subject: {{namespaces: {{}}}}, {rules}}}\n"
    )
}

/// Nobody sends to the web's pods on port 80.
const NO_WEB: &str = "egress: [{name: no-web, action: Deny, protocols: [{tcp: {destinationPort: {number: 8080}}}], \
                      to: [{pods: {podSelector: {matchLabels: {tier: web}}}}]}]";

#[test]
fn cluster_policies_are_checked_and_judged() {
    let folder = with(&cluster_policy(NO_WEB));
    let text = run(&["policy", "check"], folder.path(), &[]).text(0);
    let wanted = "\
 ISOLATED ENDPOINT             INGRESS BY      EGRESS BY
 poc/virt-launcher-mongodb-vm  poc/mongodb-vm  -
 ENDPOINT                      CLUSTER POLICIES ON INGRESS  CLUSTER POLICIES ON EGRESS
 poc/virt-launcher-mongodb-vm  -                            strict
 poc/web-a                     -                            strict
 poc/web-b                     -                            strict
";
    assert!(text.ends_with(wanted), "{text}");
    let answer = run(&["policy", "check"], folder.path(), &["-o", "json"]).json(0);
    assert_eq!(
        answer["summary"]["ruled"][1],
        json!({
            "endpoint": {"namespace": "poc", "name": "web-a"},
            "ingress": [],
            "egress": [{"namespace": "", "name": "strict"}],
        })
    );
    let probes = folder.path().join("probes");
    fs::write(&probes, r#"[{"from": "poc/web-a", "to": "poc/web-b", "port": 8080}]"#).unwrap();
    let more = ["--node", "node-a", "--probes", probes.to_str().unwrap(), "-o", "json"];
    let answer = run(&["evaluate"], folder.path(), &more).json(0);
    let egress = json!({"allowed": false, "rule": "ClusterNetworkPolicy strict egress[0] (no-web)"});
    assert_eq!(
        (&answer["answers"][0]["verdict"], &answer["answers"][0]["egress"]),
        (&json!("deny"), &egress)
    );
}

#[test]
fn the_matrix_says_who_reaches_whom() {
    let wanted = "\
tcp 27017
 FROM \\ TO                     poc/virt-launcher-mongodb-vm  poc/web-a  poc/web-b
 poc/virt-launcher-mongodb-vm  allow                         allow      allow
 poc/web-a                     allow                         allow      allow
 poc/web-b                     deny (ingress)                allow      allow
";
    assert_eq!(run(&["policy", "matrix"], &two_nodes(), &["--port", "27017"]).text(0), wanted);
    // Nobody but the machine itself reaches it on another port or protocol.
    for more in [
        &["--port", "22"][..],
        &["--port", "27017", "--protocol", "udp"],
        &["--protocol", "icmp", "--port", "0"],
    ] {
        let answer = run(&["policy", "matrix"], &two_nodes(), &[more, &["-o", "json"]].concat()).json(0);
        let denied = json!(["deny-ingress", "allow", "allow"]);
        assert_eq!(answer["cells"], json!([["allow", "allow", "allow"], denied, denied]), "{more:?}");
    }
}

fn evaluate(manifests: &Path, probes: &str, more: &[&str]) -> Ran {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("probes.json");
    fs::write(&file, probes).unwrap();
    let probes = file.to_str().unwrap().to_owned();
    run(&["evaluate"], manifests, &[&["--node", "node-a", "--probes", &probes], more].concat())
}

#[test]
fn probes_are_answered_in_their_order() {
    let probe = |from: &str, to: &str, protocol: &str, port: u16| json!({"from": from, "to": to, "protocol": protocol, "port": port});
    let mongo = ["10.244.1.20:27017"];
    let web = ["10.244.1.10:8080", "10.244.2.10:8080"];
    let rule = "NetworkPolicy poc/mongodb-vm ingress[0]";
    type Row<'a> = (Value, &'a str, Option<&'a str>, Option<&'a str>, &'a [&'a str], bool);
    let rows: [Row<'_>; 8] = [
        (
            probe("poc/web-a", "poc/mongodb", "tcp", 27017),
            "allow",
            Some(rule),
            Some("poc/mongodb:mongodb"),
            &mongo,
            false,
        ),
        (
            probe("poc/web-b", "10.96.0.20", "tcp", 27017),
            "deny",
            Some("no-rule"),
            Some("poc/mongodb:mongodb"),
            &mongo,
            false,
        ),
        (probe("poc/web-a", "10.244.1.20", "tcp", 22), "deny", Some("no-rule"), None, &[], false),
        (
            probe("poc/web-a", "poc/web", "tcp", 80),
            "allow",
            Some("default-allow"),
            Some("poc/web:http"),
            &web,
            false,
        ),
        // From outside, at a node port: any backend, and the source is translated so that replies come back.
        (
            probe("198.51.100.7", "172.30.0.1", "tcp", 30080),
            "allow",
            Some("default-allow"),
            Some("poc/web:http"),
            &web,
            true,
        ),
        (probe("poc/web-a", "10.96.0.30", "tcp", 80), "reject", None, Some("poc/empty:http"), &[], false),
        (probe("poc/web-a", "10.96.0.99", "tcp", 80), "drop", None, None, &[], false),
        (
            probe("fd00:10:244:2::10", "poc/virt-launcher-mongodb-vm", "tcp", 27017),
            "deny",
            Some("no-rule"),
            None,
            &[],
            false,
        ),
    ];
    let probes: Vec<&Value> = rows.iter().map(|row| &row.0).collect();
    let probes = serde_json::to_string(&probes).unwrap();
    let more = ["--service-range", "10.96.0.0/16"];
    let answers = evaluate(&two_nodes(), &probes, &[&more[..], &["-o", "json"]].concat()).json(0);
    let answers = answers["answers"].as_array().unwrap();
    assert_eq!(answers.len(), rows.len());
    for ((probe, verdict, ingress, service, backends, snat), answer) in rows.iter().zip(answers) {
        let found = json!([
            answer["verdict"],
            answer["ingress"]["rule"],
            answer["service"],
            answer["backends"],
            answer["snat"]
        ]);
        assert_eq!(found, json!([verdict, ingress, service, backends, snat]), "{probe}");
    }
    let table = evaluate(&two_nodes(), &probes, &more).text(0);
    assert_eq!(table.lines().count(), rows.len() + 1);
    assert!(table.contains("reject"), "{table}");
}

#[test]
fn probes_that_cannot_be_are_named() {
    let rows = [
        ("{}", "probes", "", "invalid type: map"),
        ("[", "probes", "", "EOF"),
        (r#"[{"from": "a/b"}]"#, "probes", "[0]", "missing field `to`"),
        (r#"[{"from": "a/b", "to": "c/d", "port": 70000}]"#, "probes", "[0].port", "70000"),
        (r#"[{"from": "a/b", "to": "c/d", "prot": "tcp"}]"#, "probes", "[0].prot", "unknown field"),
        (
            r#"[{"from": "10.0.0.1", "to": "10.0.0.2", "port": 1}, {"from": "poc/nobody", "to": "poc/web", "port": 80}]"#,
            "probes[1]",
            "from",
            "poc/nobody",
        ),
        (r#"[{"from": "poc/web-a", "to": "poc/web"}]"#, "probes[0]", "port", "is missing or 0"),
        (r#"[{"from": "10.0.0.1", "to": "fd00::1", "port": 1}]"#, "probes[0]", "to", "family"),
    ];
    for (probes, object, field, problem) in rows {
        let error = evaluate(&two_nodes(), probes, &["-o", "json"]).error(1);
        assert_eq!(
            [error[0].as_str(), &error[1], &error[3]],
            [object, field, "invalid"],
            "{probes}: {error:?}"
        );
        assert!(error[2].contains(problem), "{probes}: {error:?}");
    }
    let missing = ["--node", "node-a", "--probes", "/nowhere.json", "-o", "json"];
    assert_eq!(run(&["evaluate"], &two_nodes(), &missing).error(2)[0], "/nowhere.json");
}

/// The manifests of the demo and one more file.
fn with(manifest: &str) -> TempDir {
    let folder = editable();
    fs::write(folder.path().join("zz.yaml"), manifest).unwrap();
    folder
}

/// A NetworkPolicy with this spec.
fn policy(spec: &str) -> String {
    format!(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: bad, namespace: poc}}\nspec: {spec}\n"
    )
}

#[test]
fn a_bad_manifest_is_named_by_object_and_field() {
    let bad = "NetworkPolicy poc/bad";
    let pod =
        |more: &str| format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: bad, namespace: poc}}\n{more}\n");
    let rows = [
        (
            policy("{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/33}}]}]}"),
            bad,
            "spec.ingress[0].from[0].ipBlock.cidr",
            "10.0.0.0/33",
        ),
        (
            policy(
                "{podSelector: {}, egress: [{to: [{ipBlock: {cidr: 10.0.0.0/8, except: [11.0.0.0/16]}}]}]}",
            ),
            bad,
            "spec.egress[0].to[0].ipBlock.except[0]",
            "11.0.0.0/16",
        ),
        (
            policy("{podSelector: {matchExpressions: [{key: app, operator: Near, values: [x]}]}}"),
            bad,
            "spec.podSelector.matchExpressions[0].operator",
            "Near",
        ),
        (
            policy("{podSelector: {matchLabels: {\"a b\": x}}}"),
            bad,
            "spec.podSelector.matchLabels[\"a b\"]",
            "a b",
        ),
        (
            policy("{podSelector: {}, ingress: [{ports: [{port: 90, endPort: 80}]}]}"),
            bad,
            "spec.ingress[0].ports[0].endPort",
            "80",
        ),
        (
            policy("{podSelector: {}, ingress: [{ports: [{protocol: ICMP}]}]}"),
            bad,
            "spec.ingress[0].ports[0].protocol",
            "ICMP",
        ),
        (policy("{podSelector: {}, policyTypes: [Sideways]}"), bad, "spec.policyTypes[0]", "Sideways"),
        (policy("{podSelector: {}, ingress: everything}"), bad, "spec.ingress", "invalid type"),
        (policy("{podselector: {}}"), bad, "spec.podselector", "is not a field of the API"),
        (
            policy("{podSelector: {}}").replace("namespace: poc", "namespace: poc, annotations: {penstock.io/revocation: stop}"),
            bad,
            "metadata.annotations[penstock.io/revocation]",
            "\"stop\" is not a revocation",
        ),
        (
            cluster_policy("ingress: [{action: Deny, from: [{namespaces: {}}], protocols: [{tcp: {destinationPort: {range: {start: 9, end: 8}}}}]}]"),
            "ClusterNetworkPolicy strict",
            "spec.ingress[0].protocols[0].tcp.destinationPort.range.end",
            "8 is not more than start, 9",
        ),
        (
            cluster_policy("egress: [{action: Accept, to: [{domainNames: [example.org]}]}]"),
            "ClusterNetworkPolicy strict",
            "spec.egress[0].to[0].domainNames",
            "not supported",
        ),
        (
            "apiVersion: policy.networking.k8s.io/v1alpha1\nkind: AdminNetworkPolicy\nmetadata: {name: old}\n".into(),
            "AdminNetworkPolicy old",
            "kind",
            "ClusterNetworkPolicy of policy.networking.k8s.io/v1alpha2",
        ),
        (
            pod("status: {podIP: 10.244.1.10}"),
            "Pod poc/web-a",
            "status.podIPs",
            "belongs to Pod poc/bad already",
        ),
        (pod("status: {podIP: nowhere}"), "Pod poc/bad", "status.podIP", "nowhere"),
        ("kind: Pod\nmetadata: {name: bad}\n".into(), "Pod bad", "apiVersion", "is missing"),
        (
            "apiVersion: v1\nkind: Namespace\nmetadata: {name: poc}\n".into(),
            "Namespace poc",
            "metadata.name",
            "is in",
        ),
        ("kind: [".into(), "zz.yaml, document 1", "", ""),
    ];
    for (manifest, object, field, problem) in rows {
        let folder = with(&manifest);
        let probes = folder.path().join("probes");
        fs::write(&probes, "[]").unwrap();
        let probes = probes.to_str().unwrap().to_owned();
        let commands: [(&[&str], &[&str]); 4] = [
            (&["policy", "check"], &[]),
            (&["policy", "matrix"], &[]),
            (&["evaluate"], &["--node", "node-a", "--probes", &probes]),
            (&["apply"], &["--node", "node-a"]),
        ];
        for (command, more) in commands {
            let error = run(command, folder.path(), &[more, &["-o", "json"]].concat()).error(1);
            assert_eq!(
                [error[0].as_str(), &error[1], &error[3]],
                [object, field, "invalid"],
                "{command:?}: {error:?}"
            );
            assert!(error[2].contains(problem), "{command:?}: {error:?}");
        }
        let ran = run(&["policy", "check"], folder.path(), &[]);
        assert_eq!((ran.code, ran.out.as_str()), (Some(1), ""));
        let begin = if field.is_empty() {
            format!("penstockctl: {object}: ")
        } else {
            format!("penstockctl: {object}: {field}: ")
        };
        assert!(ran.err.starts_with(&begin), "{}", ran.err);
    }
}

#[test]
fn a_node_that_is_not_there_is_named() {
    let error = run(&["policy", "check"], &two_nodes(), &["--node", "node-z", "-o", "json"]).error(1);
    assert_eq!([error[0].as_str(), &error[1]], ["Node node-z", "metadata.name"]);
}
