//! Counters of hits a rule, and the deny log: real connections, and what `penstockctl` says of them. Needs root.

// Helpers of tests fail as tests do: clippy knows only functions that are tests themselves.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::Duration;

use agent_api::client::Client;
use agent_api::contract::{DropEvent, PolicyHits, RuleHits};
use futures::StreamExt;
use serde_json::json;
use tests::cluster::Node;
use tests::lab::Pod;
use tests::stage::{DATABASE, OTHER, PATIENCE, Stage, tcp_silent};

const POLICY: &str = "networkpolicy.yaml";
const NAME: &str = "  name: mongodb-vm\n";
const RULE: &str = "NetworkPolicy poc/mongodb-vm ingress[0]";
const STRICT: &str = "ClusterNetworkPolicy strict egress[0] (no-other)";
/// Keeps `web-a` from the database's other port, by a rule with a name.
const STRICT_POLICY: &str = r#"
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {name: strict, resourceVersion: "4711"}
spec:
  tier: Admin
  priority: 10
  subject: {pods: {namespaceSelector: {}, podSelector: {matchLabels: {app: kubevirt-networking-poc}}}}
  egress:
    - name: no-other
      action: Deny
      to: [{namespaces: {}}]
      protocols: [{tcp: {destinationPort: {number: 27018}}}]
"#;

/// The hits that a node has counted, by rule and direction.
struct Hits(Vec<RuleHits>);

impl Hits {
    fn of(node: &Node, arguments: &[&str]) -> Self {
        let hits: PolicyHits = node.ctl_json(&[&["policy", "hits"], arguments].concat()).unwrap();
        Hits(hits.hits)
    }

    /// Flows allowed, flows denied, packets denied.
    fn at(&self, rule: &str, direction: &str) -> [u64; 3] {
        let is = |hits: &&RuleHits| {
            (hits.decided_by.to_string(), hits.decided_by.direction.to_string())
                == (rule.to_owned(), direction.to_owned())
        };
        let hits = self.0.iter().find(is).unwrap_or_else(|| panic!("{rule} ({direction}) is not listed"));
        [hits.flows_allowed, hits.flows_denied, hits.packets_denied]
    }

    fn names(&self) -> Vec<String> {
        self.0.iter().map(|hits| hits.decided_by.to_string()).collect()
    }
}

/// So many connections to each address.
fn connect(from: &Pod, addresses: &[IpAddr], times: usize) {
    for to in addresses.iter().flat_map(|address| std::iter::repeat_n(*address, times)) {
        let to = SocketAddr::new(to, DATABASE);
        from.namespace.run(move || TcpStream::connect_timeout(&to, PATIENCE)).unwrap().unwrap();
    }
}

#[test]
fn hits_are_what_was_sent_across_edits_and_denials_name_their_rule() {
    let stage = Stage::up("rh", true).unwrap();
    let cluster = &stage.cluster;
    let (node_a, node_b) = (&cluster.node_a, &cluster.node_b);
    let addresses: Vec<IpAddr> = cluster.mongodb.addresses().into_iter().collect();
    assert_eq!(Hits::of(node_a, &["--unused"]).names(), [RULE]);
    // 1. Allowed flows, each once, whatever it sends.
    let before = Hits::of(node_a, &[]);
    connect(&cluster.web_a, &addresses, 5);
    let hits = Hits::of(node_a, &[]);
    assert_eq!(hits.at(RULE, "ingress"), [10, 0, 0]);
    assert_eq!(hits.at("default-allow", "egress")[0] - before.at("default-allow", "egress")[0], 10);
    assert_eq!(Hits::of(node_a, &["--unused"]).names(), [""; 0]);
    assert_eq!(Hits::of(node_b, &["--unused", "--namespace", "poc"]).names(), [RULE], "not its flows");
    // 2. Denied ones, where they are judged: at the sender's node.
    assert_eq!(Hits::of(node_b, &[]).at("no-rule", "ingress"), [0, 0, 0]);
    tcp_silent(&cluster.web_b.namespace, (addresses[0], DATABASE).into()).unwrap();
    let [allowed, flows, packets] = Hits::of(node_b, &[]).at("no-rule", "ingress");
    assert!((allowed, flows) == (0, 1) && packets >= 1, "{flows} {packets}");
    assert_eq!(Hits::of(node_a, &[]).at("no-rule", "ingress"), before.at("no-rule", "ingress"));
    // 3. A policy that is replaced goes on, and so it does where the whole state comes anew.
    let annotated = format!("{NAME}  annotations: {{penstock.io/revocation: keep}}\n");
    cluster.edit(|manifests| manifests.edit(POLICY, NAME, &annotated).map(drop)).unwrap();
    connect(&cluster.web_a, &addresses, 1);
    let state = cluster.lab.folder().join("state.json");
    std::fs::write(&state, node_a.ctl_ok(&["status", "-o", "json"]).unwrap()).unwrap();
    node_a.ctl_ok(&["apply", "--file", &state.display().to_string()]).unwrap();
    connect(&cluster.web_a, &addresses, 1);
    assert_eq!(Hits::of(node_a, &["--policy", "mongodb-vm"]).at(RULE, "ingress"), [14, 0, 0]);
    // 4. Another tier's rule denies by name; the deny log has its fields.
    cluster.edit(|manifests| manifests.write("strict.yaml", STRICT_POLICY)).unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let socket = node_a.socket().display().to_string();
    let mut events =
        runtime.block_on(async { Client::connect(&socket).await.unwrap().watch_drops().await.unwrap() });
    tcp_silent(&cluster.web_a.namespace, (addresses[0], OTHER).into()).unwrap();
    let denial = async {
        loop {
            let event: DropEvent = events.next().await.unwrap().unwrap();
            // Neighbours are asked for and answered meanwhile.
            if event.reason.starts_with("policy") {
                return event;
            }
        }
    };
    let event =
        runtime.block_on(async { tokio::time::timeout(Duration::from_secs(5), denial).await }).unwrap();
    assert_eq!((event.reason.as_str(), event.rule.as_str()), ("policy_egress", STRICT));
    let decided_by = json!({
        "direction": "egress",
        "basis": "rule",
        "kind": "ClusterNetworkPolicy",
        "namespace": "",
        "name": "strict",
        "resource_version": "4711",
        "index": 0,
        "rule_name": "no-other",
    });
    assert_eq!(serde_json::to_value(&event.decided_by).unwrap(), decided_by);
    let hits = Hits::of(node_a, &[]);
    let [allowed, flows, packets] = hits.at(STRICT, "egress");
    assert!((allowed, flows) == (0, 1) && packets >= 1, "{flows} {packets}");
    assert_eq!(hits.at(RULE, "ingress"), [14, 0, 0]);
    // 5. What is gone is not listed.
    cluster.edit(|manifests| manifests.remove("strict.yaml")).unwrap();
    assert!(!Hits::of(node_a, &[]).names().contains(&STRICT.to_owned()));
}
