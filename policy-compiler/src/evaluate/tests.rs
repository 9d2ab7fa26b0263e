//! Probes in, answers or a complaint out, over one small cluster.

use serde_json::{Value, json};

use super::*;
use crate::intent::ObjectName;

fn read<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

fn pod(objects: &mut Objects, name: &str, node: &str, ips: &[&str]) {
    let ips: Vec<Value> = ips.iter().map(|ip| json!({"ip": ip})).collect();
    let (namespace, short) = name.split_once('/').unwrap();
    let pod = json!({
        "metadata": {"namespace": namespace, "name": short, "labels": {"app": short}},
        "spec": {"nodeName": node, "containers": []},
        "status": {"phase": "Running", "podIP": ips[0]["ip"], "podIPs": ips},
    });
    objects.pods.insert(ObjectName::new(namespace, short), read(pod));
}

/// Two nodes; a client, two web pods and a database that only `shop/web-0` may reach on 27017.
fn cluster() -> Objects {
    let mut objects = Objects::default();
    for (index, name) in ["a", "b"].into_iter().enumerate() {
        let node = json!({
            "metadata": {"name": name}, "spec": {"podCIDRs": [format!("10.244.{index}.0/24"), format!("fd00:244:0:{index}::/64")]},
            "status": {"addresses": [{"type": "InternalIP", "address": format!("192.0.2.{}", index + 1)}]},
        });
        objects.nodes.insert(ObjectName::new("", name), read(node));
    }
    let namespace = json!({"metadata": {"name": "shop"}});
    objects.namespaces.insert(ObjectName::new("", "shop"), read(namespace));
    pod(&mut objects, "shop/client", "a", &["10.244.0.2", "fd00:244::2"]);
    pod(&mut objects, "shop/web-0", "a", &["10.244.0.3"]);
    pod(&mut objects, "shop/web-1", "b", &["10.244.1.3"]);
    pod(&mut objects, "shop/db", "b", &["10.244.1.9"]);
    let service = |name: &str, address: &str, ports: Value, more: Value| {
        let mut spec = json!({"clusterIP": address, "ports": ports});
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        json!({"metadata": {"namespace": "shop", "name": name}, "spec": spec})
    };
    let services = [
        service(
            "web",
            "10.96.0.10",
            json!([{"name": "http", "port": 80}]),
            json!({"externalIPs": ["203.0.113.10"]}),
        ),
        service("mixed", "10.96.0.11", json!([{"port": 27017}]), json!({})),
        service("none", "10.96.0.12", json!([{"port": 80}]), json!({})),
        service("local", "10.96.0.13", json!([{"port": 80}]), json!({"internalTrafficPolicy": "Local"})),
    ];
    for service in services {
        let name = service["metadata"]["name"].as_str().unwrap().to_owned();
        objects.services.insert(ObjectName::new("shop", name), read(service));
    }
    let slices = [
        ("web", json!([{"name": "http", "port": 8080}]), vec![("10.244.0.3", "a"), ("10.244.1.3", "b")]),
        ("mixed", json!([{"name": "", "port": 27017}]), vec![("10.244.0.3", "a"), ("10.244.1.9", "b")]),
        ("local", json!([{"name": "", "port": 8080}]), vec![("10.244.1.3", "b")]),
    ];
    for (name, ports, endpoints) in slices {
        let endpoint = |(address, node): &(&str, &str)| json!({"addresses": [address], "nodeName": node});
        let slice = json!({
            "metadata": {"namespace": "shop", "name": name, "labels": {"kubernetes.io/service-name": name}},
            "addressType": "IPv4", "ports": ports, "endpoints": endpoints.iter().map(endpoint).collect::<Vec<_>>(),
        });
        objects.endpoint_slices.insert(ObjectName::new("shop", name), read(slice));
    }
    let policy = json!({
        "metadata": {"namespace": "shop", "name": "db"},
        "spec": {
            "podSelector": {"matchLabels": {"app": "db"}}, "policyTypes": ["Ingress"],
            "ingress": [{"from": [{"podSelector": {"matchLabels": {"app": "web-0"}}}], "ports": [{"port": 27017}]}],
        },
    });
    objects.network_policies.insert(ObjectName::new("shop", "db"), read(policy));
    objects
}

fn ask(from: &str, to: &str, protocol: &str, port: u16) -> Answer {
    let probes = json!([{"from": from, "to": to, "protocol": protocol, "port": port}]).to_string();
    let mut answers = evaluate(&cluster(), "a", &parse_probes(&probes).unwrap()).unwrap();
    assert_eq!(answers.len(), 1);
    answers.remove(0)
}

/// `verdict service backends denied snat`, as few words as tell all.
fn told(answer: &Answer) -> String {
    let service = answer.service.as_deref().unwrap_or("-");
    format!("{} {service} {:?} {:?} {}", answer.verdict, answer.backends, answer.denied, answer.snat)
}

#[test]
fn services_are_answered_with_every_backend_that_may_be_chosen() {
    let both = r#"["10.244.0.3:8080", "10.244.1.3:8080"]"#;
    let rows = [
        ("shop/client", "10.96.0.10", 80, format!("allow shop/web:http {both} [] false")),
        ("shop/client", "shop/web", 80, format!("allow shop/web:http {both} [] false")),
        ("192.0.2.1", "10.96.0.10", 80, format!("allow shop/web:http {both} [] true")),
        ("203.0.113.77", "203.0.113.10", 80, format!("allow shop/web:http {both} [] true")),
        ("shop/client", "10.96.0.10", 81, "reject shop/web:http [] [] false".into()),
        ("shop/client", "10.96.0.12", 80, "reject shop/none:80 [] [] false".into()),
        ("shop/client", "10.96.0.13", 80, "drop shop/local:80 [] [] false".into()),
    ];
    for (from, to, port, expected) in rows {
        assert_eq!(told(&ask(from, to, "tcp", port)), expected, "{from} to {to} port {port}");
    }
}

#[test]
fn policy_is_judged_after_the_translation_and_for_each_backend() {
    let answer = ask("shop/client", "10.96.0.11", "tcp", 27017);
    let both = r#"["10.244.0.3:27017", "10.244.1.9:27017"]"#;
    assert_eq!(told(&answer), format!(r#"allow shop/mixed:27017 {both} ["10.244.1.9:27017"] false"#));
    let answer = ask("shop/web-0", "10.96.0.11", "tcp", 27017);
    assert_eq!(told(&answer), format!("allow shop/mixed:27017 {both} [] false"));
}

#[test]
fn pods_are_answered_by_policy_with_its_rule() {
    let direction = |allowed, rule: &str| Some(DirectionAnswer { allowed, rule: rule.into() });
    let rows = [
        ("shop/web-0", 27017, Verdict::Allow, direction(true, "NetworkPolicy shop/db ingress[0]")),
        ("shop/web-0", 27018, Verdict::Deny, direction(false, "no-rule")),
        ("shop/client", 27017, Verdict::Deny, direction(false, "no-rule")),
        ("10.244.0.3", 27017, Verdict::Allow, direction(true, "NetworkPolicy shop/db ingress[0]")),
    ];
    for (from, port, verdict, ingress) in rows {
        let answer = ask(from, "shop/db", "tcp", port);
        assert_eq!((answer.verdict, &answer.ingress), (verdict, &ingress), "{from} port {port}");
        assert_eq!(
            (answer.egress, answer.service, answer.backends),
            (direction(true, "default-allow"), None, vec![])
        );
    }
    let open = ask("shop/db", "shop/client", "udp", 53);
    assert_eq!((open.verdict, open.ingress), (Verdict::Allow, direction(true, "default-allow")));
    assert_eq!(ask("shop/client", "shop/db", "icmp", 0).verdict, Verdict::Deny);
}

#[test]
fn a_free_address_of_the_service_range_is_dropped() {
    let options = crate::objects::IntentOptions {
        service_ranges: vec!["10.96.0.0/16".parse().unwrap()],
        ..crate::objects::IntentOptions::default()
    };
    let (intent, _) = cluster().intent_with("a", &options).unwrap();
    let probes = parse_probes(r#"[{"from": "shop/client", "to": "10.96.7.7", "port": 80}]"#).unwrap();
    let answers = evaluate_intent(&intent, &probes).unwrap();
    assert_eq!(answers[0].verdict, Verdict::Drop);
}

#[test]
fn a_lone_backend_that_calls_itself_is_translated() {
    let mut objects = cluster();
    let slices = &mut objects.endpoint_slices;
    let web = slices.get_mut(&ObjectName::new("shop", "web")).unwrap();
    web.endpoints.truncate(1);
    let probes = parse_probes(r#"[{"from": "shop/web-0", "to": "shop/web", "port": 80}]"#).unwrap();
    let answers = evaluate(&objects, "a", &probes).unwrap();
    assert_eq!(told(&answers[0]), r#"allow shop/web:http ["10.244.0.3:8080"] [] true"#);
}

#[test]
fn the_answer_has_the_documented_shape() {
    let answer = serde_json::to_value(ask("shop/client", "10.96.0.12", "TCP", 80)).unwrap();
    let expected = json!({
        "verdict": "reject", "ingress": null, "egress": null, "service": "shop/none:80", "backends": [], "denied": [], "snat": false,
    });
    assert_eq!(answer, expected);
    let answer = serde_json::to_value(ask("shop/client", "shop/web-0", "tcp", 80)).unwrap();
    assert_eq!(answer["egress"], json!({"allowed": true, "rule": "default-allow"}));
}

#[test]
fn probes_that_cannot_be_are_refused_by_index_and_field() {
    let rows = [
        (
            r#"[{"from": "shop/client", "to": "nowhere", "port": 80}]"#,
            "probes[0].to: \"nowhere\" is neither an address nor namespace/name",
        ),
        (
            r#"[{"from": "shop/client", "to": "shop/db", "port": 80}, {"from": "shop/x", "to": "shop/db", "port": 80}]"#,
            "probes[1].from: no pod with an address is called \"shop/x\"",
        ),
        (
            r#"[{"from": "shop/client", "to": "shop/x", "port": 80}]"#,
            "probes[0].to: no pod with an address is called \"shop/x\"",
        ),
        (
            r#"[{"from": "fd00::1", "to": "shop/db", "port": 80}]"#,
            "probes[0].to: \"shop/db\" has no address in a family of \"fd00::1\"",
        ),
        (r#"[{"from": "shop/client", "to": "shop/db"}]"#, "probes[0].port: is missing or 0"),
        (
            r#"[{"from": "shop/client", "to": "shop/db", "protocol": "icmp", "port": 8}]"#,
            "probes[0].port: is 8, but ICMP has no ports",
        ),
    ];
    for (text, expected) in rows {
        let error = evaluate(&cluster(), "a", &parse_probes(text).unwrap()).unwrap_err();
        assert_eq!(error.to_string(), expected);
    }
}

#[test]
fn lists_that_are_none_are_refused_by_index_and_field() {
    let rows = [
        ("", "probes: EOF while parsing"),
        ("{}", "probes: invalid type: map, expected a sequence"),
        (r#"[{"from": "a/b", "to": "c/d", "port": 80}] x"#, "probes: trailing characters"),
        (r#"[{"from": "a/b", "port": 80}]"#, "probes[0]: missing field `to`"),
        (
            r#"[{"from": "a/b", "to": "c/d", "port": 65536}]"#,
            "probes[0].port: invalid value: integer `65536`, expected u16",
        ),
        (r#"[{"from": "a/b", "to": "c/d", "prot": "tcp"}]"#, "probes[0].prot: unknown field `prot`"),
        (r#"[{"from": "a/b", "to": "c/d", "protocol": "Tcp"}]"#, "probes[0].protocol: unknown variant `Tcp`"),
    ];
    for (text, expected) in rows {
        let error = parse_probes(text).unwrap_err().to_string();
        assert!(error.starts_with(expected), "{text}: {error}");
    }
}

#[test]
fn a_node_that_is_not_there_is_refused() {
    let error = evaluate(&cluster(), "z", &[]).unwrap_err().to_string();
    assert_eq!(error, "Node z: metadata.name: there is no such Node object");
}

proptest::proptest! {
    #[test]
    fn no_text_makes_the_reader_panic(text in r#"[\[\]\{\}",:a-z0-9/ .]{0,60}"#) {
        let _ = parse_probes(&text);
    }
}
