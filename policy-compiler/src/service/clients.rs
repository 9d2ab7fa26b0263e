//! Who a client is, seen from this node: a pod of the cluster, this node itself, or somebody else.

use std::collections::HashSet;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::intent::Intent;

/// What the masquerade rules ask of a client's address.
#[derive(Debug, Default)]
pub(super) struct Clients {
    /// Pod ranges of all nodes: first and last address, ascending and disjoint.
    pods_v4: Vec<(u32, u32)>,
    pods_v6: Vec<(u128, u128)>,
    /// Pods with addresses outside of every pod range.
    strays: HashSet<IpAddr>,
    /// Addresses of this node.
    node: Vec<IpAddr>,
}

impl Clients {
    pub(super) fn compile(intent: &Intent) -> Self {
        let ranges: Vec<IpNet> =
            intent.nodes.iter().flat_map(|node| node.pod_cidrs.iter().copied()).collect();
        let mut clients = Clients::default();
        for range in IpNet::aggregate(&ranges) {
            match range {
                IpNet::V4(v4) => clients.pods_v4.push((v4.network().to_bits(), v4.broadcast().to_bits())),
                IpNet::V6(v6) => clients.pods_v6.push((v6.network().to_bits(), v6.broadcast().to_bits())),
            }
        }
        clients.pods_v4.sort_unstable();
        clients.pods_v6.sort_unstable();
        let pods = intent.endpoints.iter().filter(|endpoint| !endpoint.host_network);
        let strays = pods.flat_map(|pod| &pod.addresses).filter(|address| !clients.is_pod(**address));
        clients.strays = strays.copied().collect();
        let this = intent.nodes.iter().filter(|node| node.name == intent.node);
        clients.node = this.flat_map(|node| node.addresses.iter().copied()).collect();
        clients
    }

    /// Whether pods can be told from others at all in the address's family: without pod ranges nobody is called
    /// off-cluster (kube-proxy without `--cluster-cidr`).
    pub(super) fn knows_pods(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(_) => !self.pods_v4.is_empty(),
            IpAddr::V6(_) => !self.pods_v6.is_empty(),
        }
    }

    pub(super) fn is_pod(&self, address: IpAddr) -> bool {
        let in_range = match address {
            IpAddr::V4(v4) => within(&self.pods_v4, v4.to_bits()),
            IpAddr::V6(v6) => within(&self.pods_v6, v6.to_bits()),
        };
        in_range || (!self.strays.is_empty() && self.strays.contains(&address))
    }

    pub(super) fn is_node(&self, address: IpAddr) -> bool {
        self.node.contains(&address)
    }
}

/// Whether one of the ascending, disjoint ranges holds the value.
fn within<T: Ord + Copy>(ranges: &[(T, T)], value: T) -> bool {
    let after = ranges.partition_point(|(first, _)| *first <= value);
    after.checked_sub(1).and_then(|index| ranges.get(index)).is_some_and(|(_, last)| value <= *last)
}
