//! Who a client is, seen from this node: a pod of the cluster, this node itself, or somebody else.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use crate::intent::Endpoint;
use crate::shared_map::SharedMap;
use crate::view::{Change, View};

/// What the masquerade rules ask of a client's address.
#[derive(Debug, Default, Clone)]
pub(super) struct Clients {
    ranges: Arc<Ranges>,
    /// Pods with addresses outside of every pod range, and how many have it.
    strays: SharedMap<IpAddr, u32>,
}

/// What follows from the nodes alone.
#[derive(Debug, Default)]
struct Ranges {
    /// Pod ranges of all nodes: first and last address, ascending and disjoint.
    pods_v4: Vec<(u32, u32)>,
    pods_v6: Vec<(u128, u128)>,
    /// Addresses of this node.
    node: Vec<IpAddr>,
}

impl Clients {
    pub(super) fn compile(view: &View<'_>) -> Self {
        let cidrs: Vec<IpNet> = view.nodes.iter().flat_map(|node| node.pod_cidrs.iter().copied()).collect();
        let mut ranges = Ranges::default();
        for range in IpNet::aggregate(&cidrs) {
            match range {
                IpNet::V4(v4) => ranges.pods_v4.push((v4.network().to_bits(), v4.broadcast().to_bits())),
                IpNet::V6(v6) => ranges.pods_v6.push((v6.network().to_bits(), v6.broadcast().to_bits())),
            }
        }
        ranges.pods_v4.sort_unstable();
        ranges.pods_v6.sort_unstable();
        let this = view.nodes.iter().filter(|node| node.name == view.node);
        ranges.node = this.flat_map(|node| node.addresses.iter().copied()).collect();
        let mut clients = Clients { ranges: Arc::new(ranges), strays: SharedMap::default() };
        view.endpoints().for_each(|(_, endpoint)| clients.add(endpoint));
        clients
    }

    /// Whether a change of endpoints touches any that are known one by one.
    pub(super) fn depend_on(&self, change: &Change<'_, Endpoint>) -> bool {
        let mut pods = change.removed.iter().chain(&change.added).filter(|(_, pod)| !pod.host_network);
        pods.any(|(_, pod)| pod.addresses.iter().any(|address| !self.ranges.holds(*address)))
    }

    /// Takes a change of endpoints in.
    pub(super) fn update(&mut self, change: &Change<'_, Endpoint>) {
        for (_, pod) in change.removed.iter().filter(|(_, endpoint)| !endpoint.host_network) {
            for address in &pod.addresses {
                match self.strays.get(address).copied() {
                    Some(count) if count > 1 => self.strays.insert(*address, count - 1),
                    _ => self.strays.remove(address),
                };
            }
        }
        change.added.iter().for_each(|(_, endpoint)| self.add(endpoint));
    }

    fn add(&mut self, endpoint: &Endpoint) {
        if !endpoint.host_network {
            for address in endpoint.addresses.iter().filter(|address| !self.ranges.holds(**address)) {
                let count = self.strays.get(address).map_or(1, |count| count + 1);
                self.strays.insert(*address, count);
            }
        }
    }

    /// Whether pods can be told from others at all in the address's family: without pod ranges nobody is called
    /// off-cluster (kube-proxy without `--cluster-cidr`).
    pub(super) fn knows_pods(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(_) => !self.ranges.pods_v4.is_empty(),
            IpAddr::V6(_) => !self.ranges.pods_v6.is_empty(),
        }
    }

    pub(super) fn is_pod(&self, address: IpAddr) -> bool {
        self.ranges.holds(address) || (!self.strays.is_empty() && self.strays.get(&address).is_some())
    }

    pub(super) fn is_node(&self, address: IpAddr) -> bool {
        self.ranges.node.contains(&address)
    }
}

impl Ranges {
    fn holds(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(v4) => within(&self.pods_v4, v4.to_bits()),
            IpAddr::V6(v6) => within(&self.pods_v6, v6.to_bits()),
        }
    }
}

/// Whether one of the ascending, disjoint ranges holds the value.
fn within<T: Ord + Copy>(ranges: &[(T, T)], value: T) -> bool {
    let after = ranges.partition_point(|(first, _)| *first <= value);
    after.checked_sub(1).and_then(|index| ranges.get(index)).is_some_and(|(_, last)| value <= *last)
}
