//! [`Wanted`]: what of the uplink is ours and not the kernel's, for the XDP program. Pure.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::ops::RangeInclusive;

use afxdp_driver::{SteeringError, SteeringTable};
use ipnet::IpNet;
use policy_compiler::tables::Tables;

use crate::wire::vxlan;
use crate::wire::{ICMP, TCP, UDP};

/// What comes to us.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Wanted {
    /// Destinations all of whose packets are ours: this node's pods and the Services' addresses.
    prefixes: Vec<(IpAddr, u8)>,
    /// This node's own addresses.
    local: Vec<IpAddr>,
    /// Protocols and destination ports of those that are ours: tunnels, node ports, masqueraded flows.
    ports: Vec<(u8, RangeInclusive<u16>)>,
}

impl Wanted {
    /// What the tables make ours. `snat_ports` serve as ICMP identifiers, too.
    pub(super) fn of(tables: &Tables, snat_ports: (u16, u16)) -> Self {
        let Some(node) = tables.routes.this_node() else {
            return Self::default();
        };
        let snat = snat_ports.0..=snat_ports.1;
        let mut ports =
            vec![(UDP, vxlan::PORT..=vxlan::PORT), (UDP, snat.clone()), (TCP, snat.clone()), (ICMP, snat)];
        let mut prefixes: BTreeSet<IpNet> = tables.routes.own_ranges().iter().map(IpNet::trunc).collect();
        let ranges: Vec<IpNet> = prefixes.iter().copied().collect();
        let mut add = |address: IpAddr| {
            if !ranges.iter().any(|range| range.contains(&address)) {
                prefixes.insert(address.into());
            }
        };
        tables
            .routes
            .endpoints()
            .iter()
            .flat_map(|endpoint| &endpoint.addresses)
            .for_each(|address| add(*address));
        for (address, protocol, port, node_port) in tables.services.frontends() {
            // An address of the node itself stays the kernel's but for this port.
            if node_port || node.addresses.contains(&address) {
                ports.push((protocol, port..=port));
            } else {
                add(address);
            }
        }
        // In one order, whatever the tables': what is the same is not set again.
        ports.sort_by_key(|(protocol, ports)| (*protocol, *ports.start(), *ports.end()));
        ports.dedup();
        let prefixes = prefixes.iter().map(|prefix| (prefix.addr(), prefix.prefix_len())).collect();
        Wanted { prefixes, local: node.addresses.clone(), ports }
    }

    /// Tells the program.
    pub(super) fn set(&self, table: &SteeringTable) -> Result<(), SteeringError> {
        table.set_prefixes(&self.prefixes)?;
        table.set_local(&self.local, &self.ports)
    }
}

#[cfg(test)]
mod tests {
    use policy_compiler::intent::{Frontend, FrontendKind, Intent, Node, Protocol, Service};
    use policy_compiler::tables::Capacity;

    use super::*;

    #[test]
    fn pods_services_tunnels_node_ports_and_masqueraded_flows_are_ours() {
        let frontend = |kind, address: Option<&str>, port| Frontend {
            kind,
            address: address.map(|address| address.parse().unwrap()),
            port,
            ipv6: false,
        };
        let intent = Intent {
            node: "a".into(),
            nodes: vec![Node {
                name: "a".into(),
                addresses: vec!["192.0.2.1".parse().unwrap()],
                pod_cidrs: vec!["10.1.0.0/24".parse().unwrap()],
                zone: String::new(),
            }],
            services: vec![Service {
                protocol: Some(Protocol::Tcp),
                frontends: vec![
                    frontend(FrontendKind::ClusterIp, Some("10.96.0.1"), 80),
                    frontend(FrontendKind::LoadBalancer, Some("198.51.100.1"), 80),
                    frontend(FrontendKind::ExternalIp, Some("192.0.2.1"), 443),
                    frontend(FrontendKind::NodePort, None, 30080),
                ],
                ..Service::default()
            }],
            service_ranges: vec!["10.96.0.0/16".parse().unwrap()],
            ..Intent::default()
        };
        let tables = Tables::compile(&intent, 1, &Capacity::default()).unwrap();
        let wanted = Wanted::of(&tables, (61000, 65535));
        let prefixes: Vec<String> =
            wanted.prefixes.iter().map(|(address, length)| format!("{address}/{length}")).collect();
        assert_eq!(prefixes, ["10.1.0.0/24", "10.96.0.0/16", "198.51.100.1/32"]);
        assert_eq!(wanted.local, ["192.0.2.1".parse::<IpAddr>().unwrap()]);
        for expected in [(UDP, 4789..=4789), (TCP, 443..=443), (TCP, 30080..=30080), (ICMP, 61000..=65535)] {
            assert!(wanted.ports.contains(&expected), "{expected:?}");
        }
    }

    #[test]
    fn before_the_first_state_nothing_is_ours() {
        assert_eq!(Wanted::of(&Tables::empty(), (61000, 65535)), Wanted::default());
    }
}
