//! Each kind of finding: what has it, and what is close to it and has not.

use super::{Code, Finding, Report, lint};
use crate::manifest::Manifests;

/// Pods of two namespaces.
const PODS: &str = r#"
{apiVersion: v1, kind: Namespace, metadata: {name: shop, labels: {team: blue}}}
---
{apiVersion: v1, kind: Namespace, metadata: {name: ops, labels: {team: green}}}
---
{apiVersion: v1, kind: Namespace, metadata: {name: bare}}
---
{apiVersion: v1, kind: Pod, metadata: {name: web, namespace: shop, labels: {app: frontend, tier: web, version: v1}},
 spec: {containers: [{name: c, ports: [{name: http, containerPort: 80}, {name: metrics, containerPort: 9, protocol: UDP}]}]},
 status: {podIP: 10.0.0.1}}
---
{apiVersion: v1, kind: Pod, metadata: {name: db, namespace: shop, labels: {app: database}}, spec: {containers: []},
 status: {podIP: 10.0.0.2}}
---
{apiVersion: v1, kind: Pod, metadata: {name: probe, namespace: ops, labels: {app: probe}}, spec: {containers: []},
 status: {podIP: 10.0.0.3}}
---
{apiVersion: v1, kind: Pod, metadata: {name: agent, namespace: ops, labels: {app: agent}},
 spec: {hostNetwork: true, containers: []}, status: {podIP: 192.0.2.1}}
"#;

fn report(texts: &[&str]) -> Report {
    let mut manifests = Manifests::default();
    for (number, text) in texts.iter().enumerate() {
        manifests.parse(&number.to_string(), text).unwrap();
    }
    lint(&manifests.objects)
}

fn policy_in(namespace: &str, name: &str, spec: &str) -> String {
    format!(
        "{{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {{name: {name}, namespace: {namespace}}}, spec: {spec}}}"
    )
}

/// Codes and fields of what is found in a policy of namespace `shop` with this spec, beside the pods.
#[track_caller]
fn check(spec: &str, wanted: &[(&str, &str)]) {
    let found = report(&[PODS, &policy_in("shop", "p", spec)]).findings;
    let short: Vec<(String, String)> =
        found.iter().map(|finding| (finding.code.name(), finding.field.clone())).collect();
    let wanted: Vec<(String, String)> =
        wanted.iter().map(|(code, field)| ((*code).to_owned(), (*field).to_owned())).collect();
    assert_eq!(short, wanted, "{spec}: {found:?}");
}

#[test]
fn codes_have_names_that_serialize_alike() {
    for code in Code::ALL {
        assert_eq!(serde_json::to_value(code).unwrap(), code.name());
    }
}

#[test]
fn np001_what_the_api_refuses_is_told_of_every_policy() {
    let bad = [
        policy_in("shop", "a", "{podSelector: {}, policyTypes: [Sideways]}"),
        policy_in("shop", "b", "{podSelector: {}, ingress: [{ports: [{port: 90, endPort: 80}]}]}"),
    ];
    let found = report(&[PODS, &bad[0], &bad[1]]).findings;
    let short: Vec<_> = found.iter().map(|f| (f.object.as_str(), f.code, f.field.as_str())).collect();
    let wanted = [
        ("NetworkPolicy shop/a", Code::Refused, "spec.policyTypes[0]"),
        ("NetworkPolicy shop/b", Code::Refused, "spec.ingress[0].ports[0].endPort"),
    ];
    assert_eq!(short, wanted);
    let pod = "{apiVersion: v1, kind: Pod, metadata: {name: x, namespace: shop}, status: {podIP: nowhere}}";
    let found = report(&[PODS, pod]).findings;
    assert_eq!(found.iter().map(|f| f.field.as_str()).collect::<Vec<_>>(), ["status.podIP"]);
    check("{podSelector: {}, ingress: [{ports: [{port: 80, endPort: 80}]}]}", &[]);
}

#[test]
fn np002_and_np003_exceptions() {
    let from = |block: &str| format!("{{podSelector: {{}}, ingress: [{{from: [{{ipBlock: {block}}}]}}]}}");
    let at = "spec.ingress[0].from[0].ipBlock.except";
    let first = format!("{at}[0]");
    let second = format!("{at}[1]");
    check(&from("{cidr: 10.0.0.0/8, except: [11.0.0.0/16]}"), &[("NP002", &first)]);
    check(&from("{cidr: 10.0.0.0/8, except: [10.1.0.0/16, 10.0.0.0/8]}"), &[("NP002", &second)]);
    check(&from("{cidr: 10.0.0.0/8, except: ['fd00::/8']}"), &[("NP002", &first)]);
    check(&from("{cidr: 10.0.0.0/8, except: [10.0.0.0/9, 10.128.0.0/9]}"), &[("NP003", at)]);
    check(&from("{cidr: 10.0.0.0/8, except: [10.0.0.0/9, 10.128.0.0/10]}"), &[]);
    check(&from("{cidr: 10.0.0.0/8, except: [10.0.0.0/9]}"), &[]);
}

#[test]
fn np004_selects_nothing() {
    check("{podSelector: {matchLabels: {app: nothing-like-it}}}", &[("NP004", "spec.podSelector")]);
    check("{podSelector: {matchLabels: {app: frontend, tier: db}}}", &[("NP004", "spec.podSelector")]);
    check(
        "{podSelector: {matchExpressions: [{key: app, operator: NotIn, values: [frontend, database]}]}}",
        &[("NP004", "spec.podSelector")],
    );
    check("{podSelector: {matchLabels: {app: frontend}}}", &[]);
    check("{podSelector: {}}", &[]);
    // Of hostNetwork pods alone: policies do not select them.
    let found =
        report(&[PODS, &policy_in("ops", "p", "{podSelector: {matchLabels: {app: agent}}}")]).findings;
    assert_eq!(found.iter().map(|f| f.code).collect::<Vec<_>>(), [Code::SelectsNothing]);
    // Nothing is known of pods where there are none.
    let alone = report(&[&policy_in("shop", "p", "{podSelector: {matchLabels: {app: any}}}")]);
    assert_eq!((alone.findings.len(), alone.pods, alone.policies), (0, 0, 1));
    // A namespace that is there and has no pods.
    let found = report(&[PODS, &policy_in("bare", "p", "{podSelector: {}}")]).findings;
    assert_eq!(found.iter().map(|f| f.code).collect::<Vec<_>>(), [Code::SelectsNothing]);
}

#[test]
fn np005_peers_that_are_nobody() {
    let from = |peers: &str| format!("{{podSelector: {{}}, ingress: [{{from: [{peers}]}}]}}");
    let (first, second) = ("spec.ingress[0].from[0]", "spec.ingress[0].from[1]");
    check(&from("{podSelector: {matchLabels: {app: probe}}}"), &[("NP005", first)]);
    check(&from("{podSelector: {matchLabels: {app: probe}}, namespaceSelector: {}}"), &[]);
    check(
        &from("{podSelector: {}}, {namespaceSelector: {matchLabels: {team: violet}}}"),
        &[("NP005", second)],
    );
    check(&from("{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: ops}}}"), &[]);
    check(
        &from("{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: bare}}}"),
        &[("NP005", first)],
    );
    check(&from("{ipBlock: {cidr: 198.51.100.0/24}}"), &[]);
    check(
        "{podSelector: {}, egress: [{to: [{podSelector: {matchLabels: {app: probe}}}]}]}",
        &[("NP005", "spec.egress[0].to[0]")],
    );
}

#[test]
fn np006_namespaces_that_are_not_there() {
    let in_namespace = |namespace: &str| {
        let found =
            report(&[PODS, &policy_in(namespace, "p", "{podSelector: {matchLabels: {a: b}}}")]).findings;
        found.into_iter().map(|f| (f.code, f.suggestion)).collect::<Vec<_>>()
    };
    assert_eq!(in_namespace("shopp"), [(Code::NoSuchNamespace, "is shop meant?".to_owned())]);
    assert_eq!(in_namespace("elsewhere").len(), 1);
    assert_eq!(in_namespace("kube-system")[0].0, Code::SelectsNothing, "every cluster has it");
    assert_eq!(in_namespace("shop")[0].0, Code::SelectsNothing);
    // Where no Namespace is given, nothing is known of them.
    let pod = "{apiVersion: v1, kind: Pod, metadata: {name: x, namespace: shop}, status: {podIP: 10.0.0.1}}";
    let found = report(&[pod, &policy_in("other", "p", "{podSelector: {}}")]).findings;
    assert_eq!(found.iter().map(|f| f.code).collect::<Vec<_>>(), [Code::SelectsNothing]);
}

#[test]
fn np007_names_of_ports() {
    let ingress = |ports: &str| format!("{{podSelector: {{}}, ingress: [{{ports: [{ports}]}}]}}");
    let at = "spec.ingress[0].ports[0].port";
    check(&ingress("{port: http}"), &[]);
    check(&ingress("{port: metrics, protocol: UDP}"), &[]);
    check(&ingress("{port: metrics}"), &[("NP007", at)]);
    check(&ingress("{port: https}"), &[("NP007", at)]);
    check(&ingress("{port: 4}"), &[]);
    check(
        "{podSelector: {matchLabels: {app: database}}, ingress: [{ports: [{port: http}]}]}",
        &[("NP007", at)],
    );
    let egress =
        |to: &str| format!("{{podSelector: {{}}, egress: [{{to: [{to}], ports: [{{port: http}}]}}]}}");
    let at = "spec.egress[0].ports[0].port";
    check(&egress("{podSelector: {}}"), &[]);
    check(&egress("{namespaceSelector: {matchLabels: {team: green}}}"), &[("NP007", at)]);
    check(&egress("{namespaceSelector: {matchLabels: {team: green}}}, {podSelector: {}}"), &[]);
    check(&egress("{namespaceSelector: {matchLabels: {team: green}}}, {ipBlock: {cidr: 10.0.0.0/8}}"), &[]);
    let found = report(&[PODS, &policy_in("shop", "p", &ingress("{port: metrics}"))]).findings;
    assert_eq!(found[0].suggestion, "there it is a port of UDP");
}

#[test]
fn np008_nearly_labels() {
    let select = |selector: &str| format!("{{podSelector: {selector}}}");
    let nothing = ("NP004", "spec.podSelector");
    let at = "spec.podSelector.matchLabels[\"app\"]";
    check(&select("{matchLabels: {app: fronted}}"), &[nothing, ("NP008", at)]);
    check(&select("{matchLabels: {app: Frontend}}"), &[nothing, ("NP008", at)]);
    check(
        &select("{matchLabels: {teir: web}}"),
        &[nothing, ("NP008", "spec.podSelector.matchLabels[\"teir\"]")],
    );
    // It would not select what else is asked for.
    check(&select("{matchLabels: {app: databse, tier: web}}"), &[nothing]);
    check(&select("{matchLabels: {teir: api}}"), &[nothing]);
    // A series is no mistake.
    check(&select("{matchLabels: {version: v2}}"), &[nothing]);
    let values = "spec.podSelector.matchExpressions[0].values[1]";
    let expression = |operator: &str, values: &str| {
        select(&format!("{{matchExpressions: [{{key: app, operator: {operator}, values: [{values}]}}]}}"))
    };
    check(&expression("In", "frontend, databse"), &[("NP008", values)]);
    check(&expression("NotIn", "frontend, databse"), &[("NP008", values)]);
    check(&expression("In", "frontend, database"), &[]);
    check(&expression("In", "database, databse"), &[]);
    let key = "spec.podSelector.matchExpressions[0].key";
    check(&select("{matchExpressions: [{key: teir, operator: Exists}]}"), &[nothing, ("NP008", key)]);
    check(&select("{matchExpressions: [{key: teir, operator: DoesNotExist}]}"), &[("NP008", key)]);
    check(&select("{matchExpressions: [{key: team, operator: DoesNotExist}]}"), &[]);
    let peer = "{podSelector: {}, ingress: [{from: [{namespaceSelector: {matchLabels: {team: greem}}}]}]}";
    let at = "spec.ingress[0].from[0]";
    let label = format!("{at}.namespaceSelector.matchLabels[\"team\"]");
    check(peer, &[("NP005", at), ("NP008", &label)]);
}

#[test]
fn np009_directions_left_out() {
    let spec =
        |types: &str| format!("{{podSelector: {{}}, policyTypes: {types}, ingress: [{{}}], egress: [{{}}]}}");
    check(&spec("[Ingress]"), &[("NP009", "spec.egress")]);
    check(&spec("[Egress]"), &[("NP009", "spec.ingress")]);
    check(&spec("[Ingress, Egress]"), &[]);
    check(&spec("[]"), &[]);
    check("{podSelector: {}, policyTypes: [Ingress]}", &[]);
}

#[test]
fn np010_rules_that_add_nothing() {
    let rules = |rules: &str| format!("{{podSelector: {{}}, ingress: [{rules}]}}");
    let second = &[("NP010", "spec.ingress[1]")][..];
    let first = &[("NP010", "spec.ingress[0]")][..];
    let web = "from: [{podSelector: {matchLabels: {app: frontend}}}]";
    check(&rules("{}, {}"), second);
    check(&rules(&format!("{{}}, {{{web}}}")), second);
    check(&rules(&format!("{{{web}}}, {{}}")), first);
    check(
        &rules(&format!("{{{web}, ports: [{{port: 80}}]}}, {{{web}, ports: [{{port: 80, endPort: 90}}]}}")),
        first,
    );
    check(&rules(&format!("{{{web}, ports: [{{port: 80}}]}}, {{{web}, ports: [{{port: 81}}]}}")), &[]);
    check(
        &rules(
            "{ports: [{port: 80, endPort: 84}]}, {ports: [{port: 85, endPort: 90}]}, {ports: [{port: 82, endPort: 88}]}",
        ),
        &[("NP010", "spec.ingress[2]")],
    );
    check(
        &rules(
            "{ports: [{port: 80, endPort: 84}]}, {ports: [{port: 86, endPort: 90}]}, {ports: [{port: 82, endPort: 88}]}",
        ),
        &[],
    );
    check(&rules("{ports: [{protocol: UDP}]}, {ports: [{port: 80}]}"), &[]);
    check(&rules("{ports: [{protocol: TCP}]}, {ports: [{port: http}]}"), second);
    check(&rules("{ports: [{port: 80}]}, {ports: [{port: http}]}"), &[]);
    // Every protocol is more than those three.
    check(&rules("{}, {ports: [{protocol: TCP}, {protocol: UDP}, {protocol: SCTP}]}"), second);
    check(
        &rules(
            "{ports: [{protocol: TCP}, {protocol: UDP}, {protocol: SCTP}]}, {from: [{ipBlock: {cidr: 1.0.0.0/8}}]}",
        ),
        &[],
    );
    let both = "from: [{podSelector: {matchLabels: {app: frontend, tier: web}}}]";
    check(&rules(&format!("{{{web}}}, {{{both}}}")), second);
    check(&rules(&format!("{{{both}}}, {{{web}}}")), first);
    check(
        &rules("{from: [{ipBlock: {cidr: 10.0.0.0/8}}]}, {from: [{ipBlock: {cidr: 10.1.0.0/16}}]}"),
        second,
    );
    check(
        &rules(
            "{from: [{ipBlock: {cidr: 10.0.0.0/8, except: [10.1.1.0/24]}}]}, {from: [{ipBlock: {cidr: 10.1.0.0/16}}]}",
        ),
        &[],
    );
    check(&rules("{from: [{namespaceSelector: {}}]}, {from: [{podSelector: {}}]}"), second);
    check(&rules("{from: [{podSelector: {}}]}, {from: [{namespaceSelector: {}}]}"), first);
    // Blocks are no pods, even if these pods lie in them.
    check(&rules("{from: [{ipBlock: {cidr: 10.0.0.0/8}}]}, {from: [{podSelector: {}}]}"), &[]);
}

#[test]
fn np010_across_policies() {
    let found = |one: &str, other: &str| {
        let policies = [policy_in("shop", "a", one), policy_in("shop", "b", other)];
        let found = report(&[PODS, &policies[0], &policies[1]]).findings;
        found
            .into_iter()
            .map(|Finding { object, code, field, .. }| format!("{} {object} {field}", code.name()))
            .collect::<Vec<_>>()
    };
    let web = "{podSelector: {matchLabels: {app: frontend}}, ingress: [{ports: [{port: 80}]}]}";
    let all = "{podSelector: {}, ingress: [{ports: [{port: 80}, {port: 443}]}]}";
    assert_eq!(found(web, all), ["NP010 NetworkPolicy shop/a spec.ingress[0]"]);
    assert_eq!(found(all, web), ["NP010 NetworkPolicy shop/b spec.ingress[0]"]);
    assert_eq!(
        found(web, web),
        ["NP010 NetworkPolicy shop/b spec.ingress[0]"],
        "of two that are equal one stays"
    );
    let some = "{podSelector: {matchLabels: {app: frontend}}, ingress: [{ports: [{port: 80}, {port: 443}]}]}";
    let all_80 = "{podSelector: {}, ingress: [{ports: [{port: 80}]}]}";
    assert_eq!(found(some, all_80), Vec::<String>::new(), "neither has all of the other");
    let policies = [policy_in("shop", "a", all), policy_in("ops", "b", all)];
    assert_eq!(report(&[PODS, &policies[0], &policies[1]]).findings.len(), 0, "of two namespaces");
}

#[test]
fn np011_selectors_that_contradict_themselves() {
    let expressions = |text: &str| format!("{{podSelector: {{matchExpressions: [{text}]}}}}");
    let expression =
        |operator: &str, values: &str| format!("{{key: app, operator: {operator}, values: {values}}}");
    let found = &[("NP011", "spec.podSelector")][..];
    let pair = |one: (&str, &str), other: (&str, &str)| {
        expressions(&format!("{}, {}", expression(one.0, one.1), expression(other.0, other.1)))
    };
    check(&pair(("In", "[frontend]"), ("In", "[database]")), found);
    check(&pair(("In", "[frontend]"), ("NotIn", "[frontend, x]")), found);
    check(&pair(("Exists", "[]"), ("DoesNotExist", "[]")), found);
    check(&pair(("In", "[frontend]"), ("DoesNotExist", "[]")), found);
    check(&pair(("In", "[frontend, database]"), ("NotIn", "[frontend]")), &[]);
    check(&pair(("In", "[frontend]"), ("Exists", "[]")), &[]);
    check(&pair(("NotIn", "[frontend]"), ("NotIn", "[x]")), &[]);
    check(
        "{podSelector: {}, ingress: [{from: [{podSelector: {matchLabels: {app: probe}, matchExpressions: [{key: app, operator: DoesNotExist}]}}]}]}",
        &[("NP011", "spec.ingress[0].from[0].podSelector")],
    );
}
