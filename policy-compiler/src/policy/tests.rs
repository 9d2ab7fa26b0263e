//! The tiers, row by row: who decides, and what it is called. `properties` has all of it against the oracle.

use std::net::IpAddr;

use serde_json::{Value, json};

use super::{Decision, PolicyTable};
use crate::intent::ObjectName;
use crate::objects::Objects;

const CLIENT: &str = "10.244.0.1";
const SERVER: &str = "10.244.0.2";
/// The node of both, and another.
const NODE: &str = "192.0.2.1";
const OTHER: &str = "192.0.2.2";

fn read<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

/// Pods `shop/client` and `shop/server` on the node `a`; a hostNetwork pod on `b`.
struct Cluster(Objects);

impl Cluster {
    fn new() -> Self {
        let mut objects = Objects::default();
        for (name, address) in [("a", NODE), ("b", OTHER)] {
            let addresses = json!([{"type": "InternalIP", "address": address}]);
            let node = json!({"metadata": {"name": name, "labels": {"name": name}}, "status": {"addresses": addresses}});
            objects.nodes.insert(ObjectName::new("", name), read(node));
        }
        let pods =
            [("client", "a", false, CLIENT), ("server", "a", false, SERVER), ("host", "b", true, OTHER)];
        for (name, node, host, address) in pods {
            let pod = json!({
                "metadata": {"namespace": "shop", "name": name, "labels": {"app": name}},
                "spec": {"nodeName": node, "hostNetwork": host, "containers": []},
                "status": {"phase": "Running", "podIP": address},
            });
            objects.pods.insert(ObjectName::new("shop", name), read(pod));
        }
        Cluster(objects)
    }

    /// With a ClusterNetworkPolicy for all pods.
    fn tier(mut self, name: &str, tier: &str, priority: u16, rules: Value) -> Self {
        let mut spec = json!({"tier": tier, "priority": priority, "subject": {"namespaces": {}}});
        spec.as_object_mut().unwrap().extend(rules.as_object().unwrap().clone());
        let object = json!({"metadata": {"name": name}, "spec": spec});
        self.0.cluster_network_policies.insert(ObjectName::new("", name), read(object));
        self
    }

    /// With a NetworkPolicy that isolates the server for ingress, or for egress the client.
    fn isolate(mut self, name: &str, spec: Value) -> Self {
        let object = json!({"metadata": {"namespace": "shop", "name": name}, "spec": spec});
        self.0.network_policies.insert(ObjectName::new("shop", name), read(object));
        self
    }

    fn table(&self) -> PolicyTable {
        PolicyTable::compile(&self.0.intent("a").unwrap().0).unwrap()
    }

    /// What decides on the way in to the server, by TCP.
    fn ingress(&self, port: u16) -> String {
        let table = self.table();
        said(&table, table.judge(address(CLIENT), address(SERVER), 6, port).ingress)
    }

    /// What decides on the client's way out, by TCP.
    fn egress(&self, to: &str) -> String {
        let table = self.table();
        said(&table, table.judge(address(CLIENT), address(to), 6, 80).egress)
    }
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn said(table: &PolicyTable, decision: Decision) -> String {
    let by = match table.origin(decision.rule) {
        Some(origin) => origin.to_string(),
        None if decision == Decision::NO_RULE => "no rule".into(),
        None => "default".into(),
    };
    format!("{} by {by}", if decision.allowed { "allowed" } else { "denied" })
}

/// A rule about all pods.
fn rule(action: &str) -> Value {
    json!({"action": action, "from": [{"namespaces": {}}]})
}

fn on_port(action: &str, port: u16) -> Value {
    json!({
        "action": action, "from": [{"namespaces": {}}],
        "protocols": [{"tcp": {"destinationPort": {"number": port}}}],
    })
}

fn ingress(rules: &[Value]) -> Value {
    json!({"ingress": rules})
}

fn isolates(rules: Value) -> Value {
    json!({"podSelector": {"matchLabels": {"app": "server"}}, "ingress": rules})
}

#[test]
fn admin_before_network_policy_before_baseline() {
    let admin = |action| Cluster::new().tier("top", "Admin", 5, ingress(&[rule(action)]));
    let closed = || isolates(json!([]));
    let open = || isolates(json!([{}]));
    let base = |cluster: Cluster, action| cluster.tier("base", "Baseline", 5, ingress(&[rule(action)]));
    let rows = [
        (admin("Accept").isolate("np", closed()), "allowed by ClusterNetworkPolicy top ingress[0]"),
        (admin("Deny").isolate("np", open()), "denied by ClusterNetworkPolicy top ingress[0]"),
        (admin("Pass").isolate("np", open()), "allowed by NetworkPolicy shop/np ingress[0]"),
        (admin("Pass").isolate("np", closed()), "denied by no rule"),
        (base(Cluster::new().isolate("np", open()), "Deny"), "allowed by NetworkPolicy shop/np ingress[0]"),
        (base(Cluster::new().isolate("np", closed()), "Accept"), "denied by no rule"),
        (base(Cluster::new(), "Deny"), "denied by ClusterNetworkPolicy base ingress[0]"),
        (base(Cluster::new(), "Accept"), "allowed by ClusterNetworkPolicy base ingress[0]"),
        (base(Cluster::new(), "Pass"), "allowed by default"),
        (base(admin("Pass"), "Deny"), "denied by ClusterNetworkPolicy base ingress[0]"),
        (base(admin("Pass"), "Pass"), "allowed by default"),
        (admin("Pass"), "allowed by default"),
        (Cluster::new(), "allowed by default"),
    ];
    for (number, (cluster, expected)) in rows.into_iter().enumerate() {
        assert_eq!(cluster.ingress(80), expected, "row {number}");
    }
}

#[test]
fn lower_priorities_then_earlier_rules_then_names_come_first() {
    let late = |cluster: Cluster| cluster.tier("a-late", "Admin", 6, ingress(&[rule("Accept")]));
    let early = |cluster: Cluster| {
        cluster.tier(
            "z-early",
            "Admin",
            5,
            ingress(&[on_port("Pass", 80), on_port("Deny", 81), on_port("Accept", 81)]),
        )
    };
    let cluster = early(late(Cluster::new()));
    // A Pass skips what is left of the tier, a-late included.
    assert_eq!(cluster.ingress(80), "allowed by default");
    assert_eq!(cluster.ingress(81), "denied by ClusterNetworkPolicy z-early ingress[1]");
    assert_eq!(cluster.ingress(82), "allowed by ClusterNetworkPolicy a-late ingress[0]");
    let equals = Cluster::new().tier("b", "Admin", 5, ingress(&[rule("Deny")])).tier(
        "a",
        "Admin",
        5,
        ingress(&[on_port("Accept", 80)]),
    );
    assert_eq!(equals.ingress(80), "allowed by ClusterNetworkPolicy a ingress[0]");
    assert_eq!(equals.ingress(81), "denied by ClusterNetworkPolicy b ingress[0]");
}

#[test]
fn both_ends_are_judged_and_a_rule_s_name_is_told() {
    let accept = json!({"egress": [{"action": "Accept", "name": "out", "to": [{"namespaces": {}}]}]});
    let cluster = Cluster::new()
        .tier("egress", "Admin", 1, accept)
        .isolate("np", json!({"podSelector": {"matchLabels": {"app": "client"}}, "policyTypes": ["Egress"]}))
        .isolate("closed", isolates(json!([])));
    assert_eq!(cluster.egress(SERVER), "allowed by ClusterNetworkPolicy egress egress[0] (out)");
    assert_eq!(
        cluster.ingress(80),
        "denied by no rule",
        "an Accept of the source does not speak for the destination"
    );
    assert_eq!(cluster.egress("203.0.113.1"), "denied by no rule");
}

#[test]
fn host_network_is_the_node_on_either_side() {
    let pods = json!({"egress": [{"action": "Deny", "to": [{"namespaces": {}}]}], "ingress": [rule("Deny")]});
    let cluster = Cluster::new().tier("pods", "Admin", 1, pods);
    assert_eq!(cluster.egress(OTHER), "allowed by default", "no pod peer selects a hostNetwork pod");
    let table = cluster.table();
    let judgement = table.judge(address(OTHER), address(SERVER), 6, 80);
    assert_eq!(said(&table, judgement.ingress), "allowed by default");
    assert_eq!(said(&table, judgement.egress), "allowed by default", "it is nobody's subject");
    let nodes = json!({"egress": [{"action": "Deny", "to": [{"nodes": {"matchLabels": {"name": "b"}}}]}]});
    let cluster = Cluster::new().tier("nodes", "Admin", 1, nodes);
    assert_eq!(cluster.egress(OTHER), "denied by ClusterNetworkPolicy nodes egress[0]");
    assert_eq!(cluster.egress(NODE), "allowed by default");
}

/// NetworkPolicy never comes between a pod and its node; a rule that says so does.
#[test]
fn isolation_does_not_hold_for_the_own_node() {
    let isolated = || {
        let egress = json!({"podSelector": {}, "policyTypes": ["Ingress", "Egress"]});
        Cluster::new().isolate("closed", egress)
    };
    let from_node = |cluster: &Cluster| {
        let table = cluster.table();
        said(&table, table.judge(address(NODE), address(SERVER), 6, 80).ingress)
    };
    assert_eq!(
        (isolated().egress(NODE), from_node(&isolated())),
        ("allowed by default".into(), "allowed by default".into())
    );
    assert_eq!(isolated().egress(OTHER), "denied by no rule");
    let everything = json!({"egress": [{"action": "Deny", "to": [{"networks": ["0.0.0.0/0"]}]}], "ingress": [rule("Deny")]});
    let admin = isolated().tier("top", "Admin", 1, everything.clone());
    assert_eq!(admin.egress(NODE), "denied by ClusterNetworkPolicy top egress[0]");
    assert_eq!(from_node(&admin), "allowed by default", "no ingress peer is a node: probes pass");
    let baseline = isolated().tier("base", "Baseline", 1, everything);
    assert_eq!(baseline.egress(NODE), "allowed by default", "decided by NetworkPolicy");
}

/// "A Pod connecting to its own Pod IP is not subject to CNP. A Pod connecting to a Service IP that is load-balanced back to
/// the same Pod is."
#[test]
fn a_pod_reaches_itself_unless_a_cluster_policy_denies_the_way_round() {
    let table = |cluster: Cluster| cluster.table();
    let told = |table: &PolicyTable, by_service: bool| {
        let pod = address(SERVER);
        let judgement =
            if by_service { table.judge_translated(pod, pod, 6, 80) } else { table.judge(pod, pod, 6, 80) };
        (said(table, judgement.egress), said(table, judgement.ingress))
    };
    let default = || ("allowed by default".to_owned(), "allowed by default".to_owned());
    let closed = json!({"podSelector": {}, "policyTypes": ["Ingress", "Egress"]});
    let isolated = table(Cluster::new().isolate("closed", closed));
    assert_eq!((told(&isolated, false), told(&isolated, true)), (default(), default()));
    let denied = table(Cluster::new().tier("top", "Admin", 1, ingress(&[rule("Deny")])));
    assert_eq!(told(&denied, false), default());
    assert_eq!(
        told(&denied, true),
        ("allowed by default".into(), "denied by ClusterNetworkPolicy top ingress[0]".into())
    );
}

#[test]
fn all_policies_that_select_an_endpoint_are_named_in_the_order_of_asking() {
    let cluster = Cluster::new()
        .tier("base", "Baseline", 0, ingress(&[rule("Deny")]))
        .tier("second", "Admin", 2, ingress(&[rule("Pass")]))
        .tier("first", "Admin", 1, ingress(&[rule("Pass")]))
        .tier("egress", "Admin", 1, json!({"egress": [{"action": "Pass", "to": [{"namespaces": {}}]}]}))
        .isolate("np", isolates(json!([])));
    let table = cluster.table();
    let names =
        |ingress| table.selecting(address(SERVER), ingress).map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(
        names(true),
        [
            "ClusterNetworkPolicy first",
            "ClusterNetworkPolicy second",
            "NetworkPolicy shop/np",
            "ClusterNetworkPolicy base"
        ]
    );
    assert_eq!(names(false), ["ClusterNetworkPolicy egress"]);
    assert_eq!(table.isolating(address(SERVER), true), [&ObjectName::new("shop", "np")]);
    assert_eq!(table.selecting(address(OTHER), true).count(), 0);
}
