//! Generated sets of policies, 10 rules to 100,000, over a cluster that grows with them; the same in every run.
//!
//! ```text
//!   namespace 0 … 3, 5 … 8, …   10 applications of 4 pods; policies select eight of them, Admin and Baseline tiers some namespaces
//!   namespace 4, 9, …           no policy selects them; monitors and name servers are in the first
//!   outside                     64 partners' blocks, the Internet but for private addresses, the metadata service
//! ```
//!
//! An application is one identity. A rule is one element of an object's `ingress` or `egress`. The blocks are such that no
//! pod's address is in any: other classifiers than ours know a pod by its identity alone.

mod flows;
mod rules;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::Range;

use policy_compiler::intent::{Endpoint, Identity, Intent, Node, ObjectName};

pub use self::flows::{Flow, Kind};
use self::rules::Author;

/// Applications of a namespace.
const APPS: u32 = 10;
/// Applications of a namespace whose pods NetworkPolicies select, where any select pods of it.
const SELECTED_APPS: u32 = 8;
/// Pods of an application.
const PODS: u32 = 4;
/// Pods of a node.
const PODS_A_NODE: u32 = 100;
/// Of so many namespaces one, the last, has no policies.
const CYCLE: u32 = 5;
/// What a namespace comes to on average, the cycle's last counted in.
const RULES_A_NAMESPACE: u32 = 24;

/// A set of rules and the cluster that it is for.
#[derive(Debug)]
pub struct RuleSet {
    /// All of it.
    pub intent: Intent,
}

impl RuleSet {
    /// So many rules; another `seed` makes another set.
    pub fn new(rules: usize, seed: u64) -> Self {
        let namespaces = (rules as u32 / RULES_A_NAMESPACE + 1).next_multiple_of(CYCLE);
        let (identities, pods) = (namespaces * APPS, namespaces * APPS * PODS);
        let nodes = pods.div_ceil(PODS_A_NODE);
        let intent = Intent {
            node: node_name(0),
            vni: 7,
            nodes: (0..nodes).map(node).collect(),
            identities: (0..identities).map(identity).collect(),
            endpoints: (0..pods).map(|pod| endpoint(pod, nodes)).collect(),
            policies: Author::new(namespaces, seed).policies(rules),
            ..Intent::default()
        };
        RuleSet { intent }
    }

    /// How many rules there are.
    pub fn rules(&self) -> usize {
        let count = |rules: &Option<Vec<_>>| rules.as_ref().map_or(0, Vec::len);
        self.intent.policies.iter().map(|policy| count(&policy.ingress) + count(&policy.egress)).sum()
    }
}

/// Numbers that look random and are the same in every run: SplitMix64 (Steele, Lea, Flood, OOPSLA 2014).
#[derive(Debug)]
struct Dice(u64);

impl Dice {
    fn throw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Less than `limit`, which is not 0.
    fn below(&mut self, limit: u32) -> u32 {
        ((u128::from(self.throw()) * u128::from(limit)) >> 64) as u32
    }

    fn within(&mut self, range: Range<u32>) -> u32 {
        range.start + self.below(range.end - range.start)
    }

    fn one_of<'a, T>(&mut self, list: &'a [T]) -> Option<&'a T> {
        if list.is_empty() { None } else { list.get(self.below(list.len() as u32) as usize) }
    }
}

/// Whether policies select pods of the namespace.
fn is_managed(namespace: u32) -> bool {
    namespace % CYCLE != CYCLE - 1
}

/// The identities of a namespace's applications.
fn identities_of(namespace: u32) -> Range<u32> {
    namespace * APPS..(namespace + 1) * APPS
}

/// The pods of an application, by their places in the intent.
fn pods_of(identity: u32) -> Range<u32> {
    identity * PODS..(identity + 1) * PODS
}

fn namespace_name(namespace: u32) -> String {
    format!("space-{namespace}")
}

fn node_name(node: u32) -> String {
    format!("node-{node}")
}

fn identity(number: u32) -> Identity {
    Identity {
        namespace: namespace_name(number / APPS),
        labels: vec![format!("app=app-{}", number % APPS)],
        named_ports: vec![],
    }
}

fn node(number: u32) -> Node {
    let (v4, v6) = addresses(number << 8);
    Node {
        name: node_name(number),
        addresses: vec![Ipv4Addr::from_bits(Ipv4Addr::new(172, 16, 0, 1).to_bits() + number).into()],
        pod_cidrs: [format!("{v4}/24"), format!("{v6}/120")]
            .map(|range| range.parse().expect("a prefix"))
            .to_vec(),
        zone: String::new(),
    }
}

/// Pods go round the nodes; each fourth, one of each application, has both families.
fn endpoint(pod: u32, nodes: u32) -> Endpoint {
    let (node, place) = (pod % nodes, pod / nodes);
    let (v4, v6) = addresses((node << 8) + 10 + place);
    let identity = pod / PODS;
    Endpoint {
        name: ObjectName::new(namespace_name(identity / APPS), format!("pod-{pod}")),
        node: node_name(node),
        addresses: if pod.is_multiple_of(PODS) { vec![v4, v6] } else { vec![v4] },
        host_network: false,
        identity,
    }
}

/// A place in the pod network, in both families.
fn addresses(place: u32) -> (IpAddr, IpAddr) {
    let v4 = Ipv4Addr::new(10, 0, 0, 0).to_bits() + place;
    (Ipv4Addr::from_bits(v4).into(), Ipv6Addr::from_bits((0xfd00 << 112) | u128::from(v4)).into())
}
