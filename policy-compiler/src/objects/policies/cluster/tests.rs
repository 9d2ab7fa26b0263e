//! What a ClusterNetworkPolicy becomes, and what of it is refused.

use serde_json::{Value, json};

use super::*;
use crate::intent::{Intent, ObjectName, Policy, Revocation};
use crate::objects::{ObjectError, Warning};

fn read<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

/// Two nodes; a pod of its own and a hostNetwork pod, both of the namespace `shop`.
fn cluster() -> Objects {
    let mut objects = Objects::default();
    for (name, pool, number) in [("a", "front", 1), ("b", "back", 2)] {
        let addresses = [
            json!({"type": "InternalIP", "address": format!("192.0.2.{number}")}),
            json!({"type": "InternalIP", "address": format!("fd00:2::{number}")}),
            json!({"type": "Hostname", "address": name}),
            json!({"type": "ExternalIP", "address": format!("198.51.100.{number}")}),
        ];
        let node =
            json!({"metadata": {"name": name, "labels": {"pool": pool}}, "status": {"addresses": addresses}});
        objects.nodes.insert(ObjectName::new("", name), read(node));
    }
    objects.namespaces.insert(ObjectName::new("", "shop"), read(json!({"metadata": {"name": "shop"}})));
    let ports = json!([{"name": "http", "containerPort": 8080}, {"name": "http", "containerPort": 53, "protocol": "UDP"}]);
    for (name, host, address) in [("web", false, "10.244.0.2"), ("host", true, "192.0.2.1")] {
        let pod = json!({
            "metadata": {"namespace": "shop", "name": name, "labels": {"app": name}},
            "spec": {"nodeName": "a", "hostNetwork": host, "containers": [{"name": "main", "ports": ports}]},
            "status": {"phase": "Running", "podIP": address},
        });
        objects.pods.insert(ObjectName::new("shop", name), read(pod));
    }
    objects
}

fn intent(spec: Value) -> Result<(Intent, Vec<Warning>), ObjectError> {
    let mut objects = cluster();
    let policy = json!({"metadata": {"name": "strict", "resourceVersion": "77"}, "spec": spec});
    objects.cluster_network_policies.insert(ObjectName::new("", "strict"), read(policy));
    objects.intent("a")
}

/// One of everything.
fn good() -> Value {
    json!({
        "tier": "Admin", "priority": 7,
        "subject": {"namespaces": {}},
        "ingress": [{
            "name": "front", "action": "Accept",
            "from": [{"pods": {"namespaceSelector": {}, "podSelector": {"matchLabels": {"app": "web"}}}}],
            "protocols": [{"tcp": {"destinationPort": {"number": 80}}}, {"destinationNamedPort": "http"}],
        }],
        "egress": [
            {"action": "Pass", "to": [{"nodes": {"matchLabels": {"pool": "back"}}}]},
            {
                "name": "world", "action": "Deny",
                "to": [{"networks": ["203.0.113.0/24", "2001:db8::/32"]}],
                "protocols": [{"sctp": {"destinationPort": {"range": {"start": 1, "end": 65535}}}}],
            },
        ],
    })
}

fn policy(spec: Value) -> Policy {
    let (intent, warnings) = intent(spec).unwrap();
    assert_eq!(warnings, []);
    intent.policies[0].clone()
}

#[test]
fn every_field_arrives() {
    let policy = policy(good());
    assert_eq!((policy.tier, &policy.name), (Tier::Admin(7), &ObjectName::new("", "strict")));
    assert_eq!((policy.resource_version.as_str(), policy.revocation), ("77", Revocation::Drop));
    let pod = intent(good()).unwrap().0.endpoints.iter().find(|pod| !pod.host_network).unwrap().identity;
    assert_eq!(policy.subjects, [pod], "hostNetwork pods are nobody's subject");
    let ingress = &policy.ingress.as_ref().unwrap()[0];
    assert_eq!((ingress.index, ingress.name.as_str(), ingress.action), (0, "front", Action::Accept));
    assert_eq!(ingress.peers.as_ref().unwrap().identities, [pod]);
    let port = |protocol, port| PortMatch { protocol, port };
    let named = |protocol| port(protocol, PortSelector::Named("http".into()));
    assert_eq!(
        ingress.ports.as_deref().unwrap(),
        [
            port(Protocol::Tcp, PortSelector::Range(80, 80)),
            named(Protocol::Tcp),
            named(Protocol::Udp),
            named(Protocol::Sctp)
        ]
    );
    let egress = policy.egress.as_ref().unwrap();
    let blocks = |rule: usize| -> Vec<String> {
        egress[rule].peers.as_ref().unwrap().blocks.iter().map(|block| block.cidr.to_string()).collect()
    };
    assert_eq!((egress[0].action, &egress[0].ports), (Action::Pass, &None));
    assert_eq!(blocks(0), ["192.0.2.2/32", "fd00:2::2/128", "198.51.100.2/32"]);
    assert_eq!((egress[1].index, egress[1].action), (1, Action::Deny));
    assert_eq!(blocks(1), ["203.0.113.0/24", "2001:db8::/32"]);
    assert_eq!(egress[1].ports.as_deref().unwrap(), [port(Protocol::Sctp, PortSelector::Range(1, 65535))]);
}

#[test]
fn what_may_be_left_out() {
    let without = |field: &str| {
        let mut spec = good();
        spec.as_object_mut().unwrap().remove(field);
        policy(spec)
    };
    assert_eq!(without("ingress").ingress, None);
    assert_eq!(without("egress").egress, None);
    let mut spec = good();
    spec["ingress"] = json!([]);
    assert_eq!(policy(spec).ingress, None, "no rules affect nothing");
    let mut spec = good();
    spec["ingress"][0]["from"][0]["pods"].as_object_mut().unwrap().remove("namespaceSelector");
    assert_eq!(policy(spec), policy(good()), "all namespaces");
    let nothing = json!({"tier": "Baseline", "priority": 0, "subject": {"namespaces": {}}});
    let (_, warnings) = intent(nothing).unwrap();
    assert_eq!(warnings[0].to_string(), "ClusterNetworkPolicy strict: has no rules: it does nothing");
}

#[test]
fn what_the_api_server_refuses_is_refused_with_its_path() {
    let long = "x".repeat(101);
    let many = |item: Value| Value::from(vec![item; 26]);
    let rule = json!({"action": "Deny", "from": [{"namespaces": {}}]});
    let range =
        |start: i64, end: i64| json!([{"udp": {"destinationPort": {"range": {"start": start, "end": end}}}}]);
    let tcp = |port: Value| json!([{"tcp": {"destinationPort": port}}]);
    let networks: Vec<String> = (0..26).map(|number| format!("10.{number}.0.0/16")).collect();
    let rows = [
        ("/tier", json!("admin"), "tier", "\"admin\" is not a tier (Admin, Baseline)"),
        ("/tier", json!(null), "tier", "is missing"),
        ("/priority", json!(null), "priority", "is missing"),
        ("/priority", json!(-1), "priority", "-1 is not a priority (0-1000)"),
        ("/priority", json!(1001), "priority", "1001 is not a priority (0-1000)"),
        ("/subject", json!(null), "subject", "is missing"),
        ("/subject", json!({}), "subject", "needs one of namespaces, pods"),
        (
            "/subject",
            json!({"namespaces": {}, "pods": {"podSelector": {}}}),
            "subject",
            "takes only one of namespaces, pods",
        ),
        ("/subject", json!({"pods": {"namespaceSelector": {}}}), "subject.pods.podSelector", "is missing"),
        (
            "/subject",
            json!({"namespaces": {"matchExpressions": [{"key": "a", "operator": "In"}]}}),
            "subject.namespaces.matchExpressions[0].values",
            "In needs at least one value",
        ),
        (
            "/subject",
            json!({"pods": {"podSelector": {"matchLabels": {"a b": "c"}}}}),
            "subject.pods.podSelector.matchLabels[\"a b\"]",
            "\"a b\" is not a label key ([subdomain/]name)",
        ),
        ("/ingress", many(rule), "ingress", "has 26 items, more than 25"),
        ("/ingress/0/name", json!(long), "ingress[0].name", "has 101 characters, more than 100"),
        (
            "/ingress/0/action",
            json!("Allow"),
            "ingress[0].action",
            "\"Allow\" is not an action (Accept, Deny, Pass)",
        ),
        ("/ingress/0/action", json!(null), "ingress[0].action", "is missing"),
        ("/ingress/0/from", json!(null), "ingress[0].from", "is missing"),
        ("/ingress/0/from", json!([]), "ingress[0].from", "is empty, at least one item is needed"),
        ("/ingress/0/from", many(json!({"namespaces": {}})), "ingress[0].from", "has 26 items, more than 25"),
        ("/ingress/0/from/0", json!({}), "ingress[0].from[0]", "needs one of namespaces, pods"),
        (
            "/ingress/0/from/0",
            json!({"namespaces": {}, "pods": {"podSelector": {}}}),
            "ingress[0].from[0]",
            "takes only one of namespaces, pods",
        ),
        ("/egress/0/to/0", json!({}), "egress[0].to[0]", "needs one of namespaces, pods, nodes, networks"),
        (
            "/egress/0/to/0",
            json!({"nodes": {}, "networks": ["10.0.0.0/8"]}),
            "egress[0].to[0]",
            "takes only one of namespaces, pods, nodes, networks",
        ),
        (
            "/egress/0/to/0",
            json!({"domainNames": ["*.example.org"]}),
            "egress[0].to[0].domainNames",
            "domain names as peers, an experimental part of the API, are not supported",
        ),
        (
            "/egress/1/to/0/networks",
            json!([]),
            "egress[1].to[0].networks",
            "is empty, at least one item is needed",
        ),
        (
            "/egress/1/to/0/networks",
            json!(networks),
            "egress[1].to[0].networks",
            "has 26 items, more than 25",
        ),
        (
            "/egress/1/to/0/networks",
            json!(["10.0.0.0/8", "::/0", "10.0.0.0/8"]),
            "egress[1].to[0].networks[2]",
            "\"10.0.0.0/8\" is there twice",
        ),
        (
            "/egress/1/to/0/networks/1",
            json!("fd00::/129"),
            "egress[1].to[0].networks[1]",
            "\"fd00::/129\" is not a prefix",
        ),
        (
            "/egress/1/to/0/networks/0",
            json!("10.0.0.1"),
            "egress[1].to[0].networks[0]",
            "\"10.0.0.1\" is not a prefix",
        ),
        (
            "/egress/1/to/0/networks/0",
            json!("0".repeat(44)),
            "egress[1].to[0].networks[0]",
            "has 44 characters, more than 43",
        ),
        ("/ingress/0/protocols", json!([]), "ingress[0].protocols", "is empty, at least one item is needed"),
        (
            "/ingress/0/protocols",
            many(json!({"destinationNamedPort": "http"})),
            "ingress[0].protocols",
            "has 26 items, more than 25",
        ),
        (
            "/ingress/0/protocols",
            json!([{}]),
            "ingress[0].protocols[0]",
            "needs one of tcp, udp, sctp, destinationNamedPort",
        ),
        (
            "/ingress/0/protocols/0/udp",
            json!({"destinationPort": {"number": 1}}),
            "ingress[0].protocols[0]",
            "takes only one of tcp, udp, sctp, destinationNamedPort",
        ),
        (
            "/ingress/0/protocols",
            json!([{"tcp": {}}]),
            "ingress[0].protocols[0].tcp.destinationPort",
            "is missing",
        ),
        (
            "/ingress/0/protocols",
            tcp(json!({})),
            "ingress[0].protocols[0].tcp.destinationPort",
            "needs one of number, range",
        ),
        (
            "/ingress/0/protocols",
            tcp(json!({"number": 1, "range": {"start": 1, "end": 2}})),
            "ingress[0].protocols[0].tcp.destinationPort",
            "takes only one of number, range",
        ),
        (
            "/ingress/0/protocols",
            tcp(json!({"number": 0})),
            "ingress[0].protocols[0].tcp.destinationPort.number",
            "0 is not a port (1-65535)",
        ),
        (
            "/ingress/0/protocols",
            tcp(json!({"range": {"end": 2}})),
            "ingress[0].protocols[0].tcp.destinationPort.range.start",
            "is missing",
        ),
        (
            "/ingress/0/protocols",
            range(80, 80),
            "ingress[0].protocols[0].udp.destinationPort.range.end",
            "80 is not more than start, 80",
        ),
        (
            "/ingress/0/protocols",
            range(80, 65536),
            "ingress[0].protocols[0].udp.destinationPort.range.end",
            "65536 is not a port (1-65535)",
        ),
        (
            "/ingress/0/protocols",
            json!([{"destinationNamedPort": "8080"}]),
            "ingress[0].protocols[0].destinationNamedPort",
            "\"8080\" is not a port name (RFC 6335: 1-15 of a-z, 0-9 and -)",
        ),
        (
            "/egress/1/protocols",
            json!([{"destinationNamedPort": "http"}]),
            "egress[1]",
            "nodes and networks have no named ports: destinationNamedPort cannot stand with them",
        ),
    ];
    for (place, value, field, problem) in rows {
        let mut spec = good();
        let (parent, key) = place.rsplit_once('/').unwrap();
        match spec.pointer_mut(parent).unwrap() {
            Value::Array(items) => items[key.parse::<usize>().unwrap()] = value,
            object => object[key] = value,
        }
        let error = intent(spec).unwrap_err().to_string();
        assert_eq!(error, format!("ClusterNetworkPolicy strict: spec.{field}: {problem}"));
    }
    let mut objects = cluster();
    objects.cluster_network_policies.insert(ObjectName::new("", "strict"), read(json!({})));
    assert_eq!(objects.intent("a").unwrap_err().to_string(), "ClusterNetworkPolicy strict: spec: is missing");
}

#[test]
fn host_bits_of_a_network_are_said() {
    let mut spec = good();
    spec["egress"][1]["to"][0]["networks"][0] = json!("203.0.113.9/24");
    let (intent, warnings) = intent(spec).unwrap();
    let block = &intent.policies[0].egress.as_ref().unwrap()[1].peers.as_ref().unwrap().blocks[0];
    assert_eq!(block.cidr.to_string(), "203.0.113.0/24");
    assert_eq!(
        warnings[0].to_string(),
        "ClusterNetworkPolicy strict: spec.egress[1].to[0].networks[0]: \"203.0.113.9/24\" has host bits; \
         read as 203.0.113.0/24"
    );
}
