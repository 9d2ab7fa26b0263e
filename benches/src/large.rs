//! A large cluster around the small one of [`crate::cluster`]: the same in every run, and made so that everything a table
//! can share or must keep apart is there: applications that policies tell apart, backends that Services share, address blocks, pods of both
//! families, empty policies that isolate whole namespaces.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use policy_compiler::intent::{
    Backend, Endpoint, Frontend, FrontendKind, Identity, Intent, IpBlock, Node, ObjectName, Peers, Policy,
    PortMatch, PortSelector, Protocol, Rule, Service,
};

use crate::cluster;

/// Applications of a namespace: what its policies and Services select.
const APPS: usize = 20;
/// Pods of an application.
const PODS_AN_APP: usize = 10;
const PODS_A_NAMESPACE: usize = APPS * PODS_AN_APP;
const POLICIES_A_NAMESPACE: usize = APPS;
const SERVICES_A_NAMESPACE: usize = 10;
/// Backends of a Service.
pub const BACKENDS: usize = 50;
/// Pods of a node.
const PODS_A_NODE: usize = 100;

/// A cluster of so many namespaces beside the small one: 200 pods, 20 policies and 10 Services of 50 backends in each. 500 make the 100,000
/// pods, 10,000 policies, 5,000 Services and 250,000 backends of the targets.
#[derive(Debug, Clone, Copy)]
pub struct Large {
    /// Namespaces.
    pub namespaces: usize,
}

impl Large {
    /// The state, seen from the small cluster's `node-1`.
    pub fn intent(&self) -> Intent {
        let mut intent = cluster::intent(0);
        let first_identity = intent.identities.len();
        intent.nodes.extend((1..self.nodes()).map(node));
        intent.identities.extend((0..self.namespaces * APPS).map(identity));
        intent.endpoints.extend((0..self.pods()).map(|pod| self.endpoint(pod, first_identity)));
        intent.policies.extend(
            (0..self.namespaces * POLICIES_A_NAMESPACE).map(|number| self.policy(number, first_identity)),
        );
        intent
            .services
            .extend((0..self.namespaces * SERVICES_A_NAMESPACE).map(|number| self.service(number)));
        intent
    }

    /// Pods beside the small cluster's.
    pub fn pods(&self) -> usize {
        self.namespaces * PODS_A_NAMESPACE
    }

    fn nodes(&self) -> usize {
        self.pods().div_ceil(PODS_A_NODE)
    }

    /// Pods go round the nodes.
    fn place(&self, pod: usize) -> (usize, Ipv4Addr) {
        let (node, place) = (pod % self.nodes(), pod / self.nodes());
        (node, address_on(node, 10 + place as u32))
    }

    fn endpoint(&self, pod: usize, first_identity: usize) -> Endpoint {
        let (node, address) = self.place(pod);
        let mut addresses = vec![IpAddr::from(address)];
        if pod.is_multiple_of(10) {
            addresses.push(Ipv6Addr::from_bits((0xfd00_u128 << 112) | u128::from(address.to_bits())).into());
        }
        Endpoint {
            name: ObjectName::new(namespace(pod / PODS_A_NAMESPACE), format!("pod-{pod}")),
            node: node_name(node),
            addresses,
            host_network: false,
            identity: (first_identity + pod / PODS_AN_APP) as u32,
        }
    }

    /// Two applications of its namespace may call the policy's own; a namespace of monitors its metrics; some have address blocks, some
    /// are about egress, some let nothing pass to the whole namespace.
    fn policy(&self, number: usize, first_identity: usize) -> Policy {
        let (space, app) = (number / POLICIES_A_NAMESPACE, number % POLICIES_A_NAMESPACE);
        let identity = |space: usize, app: usize| (first_identity + space * APPS + app % APPS) as u32;
        let all_of = |space| (0..APPS).map(move |app| identity(space, app)).collect::<Vec<u32>>();
        let mut callers = vec![identity(space, app + 1), identity(space, app + 2)];
        callers.sort_unstable();
        let monitors = space - space % 50;
        let mut ingress = vec![rule(0, callers, vec![], 8080), rule(1, all_of(monitors), vec![], 9090)];
        if app % 10 == 3 {
            let block = |text: String| text.parse().expect("a prefix");
            let cidr = block(format!("203.{}.0.0/16", space % 200));
            let except = vec![block(format!("203.{}.{app}.0/24", space % 200))];
            ingress.push(rule(2, vec![], vec![IpBlock { cidr, except }], 443));
        }
        let egress = (app % 4 == 1).then(|| vec![rule(0, all_of(space), vec![], 8080)]);
        let empty = app == APPS - 1;
        Policy {
            name: ObjectName::new(namespace(space), format!("policy-{app}")),
            subjects: if empty { all_of(space) } else { vec![identity(space, app)] },
            ingress: Some(if empty { vec![] } else { ingress }),
            egress,
            ..Policy::default()
        }
    }

    fn service(&self, number: usize) -> Service {
        let (space, first) = (
            number / SERVICES_A_NAMESPACE,
            number % SERVICES_A_NAMESPACE * (PODS_A_NAMESPACE / SERVICES_A_NAMESPACE),
        );
        let backend = |place: usize| {
            let pod = space * PODS_A_NAMESPACE + (first + place) % PODS_A_NAMESPACE;
            let (node, address) = self.place(pod);
            Backend {
                address: address.into(),
                port: 8080,
                node: node_name(node),
                ready: true,
                serving: true,
                terminating: false,
                zone_hints: vec![],
                node_hints: vec![],
                weight: 1,
            }
        };
        let address = Ipv4Addr::from_bits(Ipv4Addr::new(10, 97, 0, 0).to_bits() + number as u32);
        Service {
            name: ObjectName::new(namespace(space), format!("service-{number}")),
            protocol: Some(Protocol::Tcp),
            frontends: vec![Frontend {
                kind: FrontendKind::ClusterIp,
                address: Some(address.into()),
                port: 80,
                ipv6: false,
            }],
            backends: (0..BACKENDS).map(backend).collect(),
            ..Service::default()
        }
    }
}

fn namespace(number: usize) -> String {
    format!("team-{number}")
}

/// Node 0 is the one of the small cluster that the state is for.
fn node_name(number: usize) -> String {
    if number == 0 { "node-1".to_owned() } else { format!("large-{number}") }
}

fn node(number: usize) -> Node {
    Node {
        name: node_name(number),
        addresses: vec![IpAddr::from(Ipv4Addr::from_bits(
            Ipv4Addr::new(172, 31, 0, 0).to_bits() + number as u32,
        ))],
        pod_cidrs: vec![format!("{}/24", address_on(number, 0)).parse().expect("a prefix")],
        zone: format!("zone-{}", number % 3),
    }
}

fn address_on(node: usize, place: u32) -> Ipv4Addr {
    let first = if node == 0 { Ipv4Addr::new(10, 1, 1, 0) } else { Ipv4Addr::new(100, 64, 0, 0) };
    Ipv4Addr::from_bits(first.to_bits() + ((node as u32) << 8) + place)
}

fn identity(number: usize) -> Identity {
    Identity {
        namespace: namespace(number / APPS),
        labels: vec![format!("app=app-{}", number % APPS)],
        named_ports: vec![],
    }
}

fn rule(index: u32, identities: Vec<u32>, blocks: Vec<IpBlock>, port: u16) -> Rule {
    let port = PortMatch { protocol: Protocol::Tcp, port: PortSelector::Range(port, port) };
    Rule { index, peers: Some(Peers { identities, blocks }), ports: Some(vec![port]), ..Rule::default() }
}
