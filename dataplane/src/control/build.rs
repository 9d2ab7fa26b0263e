//! From what is known to what workers judge by: [`snapshot`]. Pure.
//!
//! ```text
//!   tables ─────────────┐
//!   ports, their MACs ──┼──► ways: endpoint → egress, node → tunnel egress, next hop → egress
//!   surroundings ───────┘
//! ```

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use agent_api::contract::PortRole;
use arrayvec::ArrayVec;
use ipnet::IpNet;
use policy_compiler::routes::RemoteNode;
use policy_compiler::tables::Tables;

use crate::snapshot::{
    Egress, EgressIndex, MAX_HEADER, Mac, PortIndex, PortView, Role, Snapshot, Underlay, Way,
};
use crate::validity::Validity;
use crate::wire::ETHERNET_LEN;
use crate::wire::vxlan::{self, OVERHEAD_V4, OVERHEAD_V6};

/// Source address of the inner Ethernet headers of tunnels: locally administered, looked at by nobody.
const INNER_SRC: Mac = [0x02, 0x50, 0x53, 0, 0, 1];
/// Bytes of an IPv4 and a TCP header without options.
const TCP_HEADERS: u16 = 40;

/// What stays the same as long as penstockd runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The gateway of all pods, IPv4.
    pub gateway_v4: Ipv4Addr,
    /// The same, IPv6.
    pub gateway_v6: Ipv6Addr,
    /// Source ports for masquerading: first and last.
    pub snat_ports: (u16, u16),
    /// Destination address of the inner Ethernet headers of tunnels.
    pub inner_mac: Mac,
}

/// What a port is, as far as ways depend on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortFacts {
    /// What is behind it.
    pub role: PortRole,
    /// The device's own MAC address.
    pub mac: Mac,
    /// Largest IP packet.
    pub mtu: u16,
    /// The worker that serves it.
    pub worker: u16,
    /// MAC address behind it, once known.
    pub peer_mac: Option<Mac>,
}

/// What the kernel knows of the uplink's link.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Surroundings {
    /// Prefixes that are on the link.
    pub on_link: Vec<IpNet>,
    /// Next hop for the rest, IPv4.
    pub gateway_v4: Option<IpAddr>,
    /// Next hop for the rest, IPv6.
    pub gateway_v6: Option<IpAddr>,
    /// MAC addresses of those on the link.
    pub macs: BTreeMap<IpAddr, Mac>,
}

impl Surroundings {
    /// The next hop towards `address`: itself on the link, else the gateway.
    pub fn next_hop(&self, address: IpAddr) -> Option<IpAddr> {
        if self.on_link.iter().any(|prefix| prefix.contains(&address)) {
            return Some(address);
        }
        if address.is_ipv4() { self.gateway_v4 } else { self.gateway_v6 }
    }
}

/// All that a snapshot is made of.
#[derive(Debug, Clone, Copy)]
pub struct World<'a> {
    /// Policy, services, routes.
    pub tables: &'a Tables,
    /// By port number.
    pub ports: &'a [Option<PortFacts>],
    /// The uplink's link.
    pub surroundings: &'a Surroundings,
    /// What does not change.
    pub settings: &'a Settings,
    /// Whether someone watches drops.
    pub watch_drops: bool,
}

/// Builds the snapshot. Its epoch, and which judgements hold in it, are the publisher's to say; it counts no hits of rules.
pub fn snapshot(world: &World) -> Snapshot {
    let World { tables, ports, surroundings, settings, watch_drops } = *world;
    let mut egresses = Egresses { list: Vec::new(), largest: largest_mtu(ports) };
    // 1. The ports, each with the way to the one thing behind it.
    let names: HashMap<String, u32> = tables
        .routes
        .endpoints()
        .iter()
        .zip(0..)
        .map(|(endpoint, index)| (endpoint.name.to_string(), index))
        .collect();
    let views: Vec<Option<PortView>> = (0..)
        .zip(ports)
        .map(|(index, facts)| facts.as_ref().map(|facts| view(&mut egresses, tables, &names, index, facts)))
        .collect();
    // 2. Endpoints and host by their ports.
    let mut endpoints = vec![Way::NoPort; tables.routes.endpoints().len()];
    let mut host = Way::NoPort;
    for view in views.iter().flatten() {
        match view.role {
            Role::Host => host = view.way,
            Role::Endpoint(Some(index)) => endpoints[index as usize] = view.way,
            Role::Endpoint(None) | Role::Uplink => {}
        }
    }
    // 3. Next hops and tunnels by the uplink.
    let this = tables.routes.this_node();
    let (node_v4, node_v6) = (first_v4(this), first_v6(this));
    let uplink = (0..).zip(ports).find_map(|(index, facts)| {
        facts.as_ref().filter(|facts| facts.role == PortRole::Uplink).map(|facts| (index, facts))
    });
    let mut underlay = Underlay {
        on_link: surroundings.on_link.clone(),
        gateway_v4: surroundings.gateway_v4,
        gateway_v6: surroundings.gateway_v6,
        neighbours: HashMap::new(),
    };
    let mut tunnels = vec![Way::NoPort; tables.routes.nodes().len()];
    if let Some((index, facts)) = uplink {
        for (address, mac) in &surroundings.macs {
            if let Way::Ready(way) = egresses.plain(index, facts, *mac) {
                underlay.neighbours.insert(*address, way);
            }
        }
        let ends = Ends { index, facts, node_v4, node_v6, vni: tables.vni, inner_mac: settings.inner_mac };
        for (way, node) in tunnels.iter_mut().zip(tables.routes.nodes()).filter(|(_, node)| !node.this) {
            *way = ends.tunnel(&mut egresses, surroundings, node);
        }
    } else {
        // Nothing leaves by a port that is not there.
        underlay = Underlay::default();
    }
    let peers = tables.routes.nodes().iter().zip(0..).filter(|(node, _)| !node.this);
    let tunnel_peers =
        peers.flat_map(|(node, index)| node.addresses.iter().map(move |peer| (*peer, index))).collect();
    Snapshot {
        validity: Validity::only(0),
        tables: tables.clone(),
        ports: views,
        egresses: egresses.list,
        endpoints,
        tunnels,
        tunnel_peers,
        host,
        underlay,
        node_v4,
        node_v6,
        gateway_v4: settings.gateway_v4,
        gateway_v6: settings.gateway_v6,
        snat_ports: settings.snat_ports,
        watch_drops,
        rule_hits: Arc::default(),
        shadow: None,
    }
}

/// The addresses by which tunnels reach the other nodes: IPv4 where both ends have one, else IPv6.
pub fn tunnel_addresses(tables: &Tables) -> Vec<IpAddr> {
    let this = tables.routes.this_node();
    let peer = |node: &RemoteNode| {
        let v4 = first_v4(this).and(first_v4(Some(node))).map(IpAddr::V4);
        v4.or_else(|| first_v6(this).and(first_v6(Some(node))).map(IpAddr::V6))
    };
    tables.routes.nodes().iter().filter(|node| !node.this).filter_map(peer).collect()
}

fn view(
    egresses: &mut Egresses,
    tables: &Tables,
    names: &HashMap<String, u32>,
    index: PortIndex,
    facts: &PortFacts,
) -> PortView {
    let mut addresses = ArrayVec::new();
    let role = match &facts.role {
        PortRole::Uplink => Role::Uplink,
        PortRole::Host => Role::Host,
        PortRole::Pod(pod) => {
            let endpoint = names.get(pod).copied();
            let known = endpoint.and_then(|endpoint| tables.routes.endpoints().get(endpoint as usize));
            addresses.extend(known.into_iter().flat_map(|known| known.addresses.iter().copied()).take(4));
            Role::Endpoint(endpoint)
        }
    };
    let way = match (role, facts.peer_mac) {
        (Role::Uplink, _) => Way::NoPort,
        (_, Some(mac)) => egresses.plain(index, facts, mac),
        (_, None) => Way::Unresolved,
    };
    let PortFacts { mac, mtu, worker, peer_mac, .. } = *facts;
    PortView { role, mac, mtu, worker, addresses, peer_mac, way }
}

/// The ways out, as they come.
struct Egresses {
    list: Vec<Egress>,
    /// The largest MTU of all ports.
    largest: u16,
}

impl Egresses {
    /// By a port, as it is. TCP is clamped where another port takes more.
    fn plain(&mut self, index: PortIndex, facts: &PortFacts, dst: Mac) -> Way {
        let mut header = [0; ETHERNET_LEN];
        header[..6].copy_from_slice(&dst);
        header[6..12].copy_from_slice(&facts.mac);
        let clamp = if facts.mtu < self.largest { facts.mtu.saturating_sub(TCP_HEADERS) } else { 0 };
        self.add(index, facts, facts.mtu, clamp, &header)
    }

    fn tunnel(&mut self, index: PortIndex, facts: &PortFacts, overhead: usize, header: &[u8]) -> Way {
        let mtu = facts.mtu.saturating_sub(overhead as u16);
        self.add(index, facts, mtu, mtu.saturating_sub(TCP_HEADERS), header)
    }

    /// There are fewer numbers than addresses: what finds none is as good as unresolved.
    fn add(&mut self, port: PortIndex, facts: &PortFacts, mtu: u16, clamp_mss: u16, bytes: &[u8]) -> Way {
        let Ok(number) = EgressIndex::try_from(self.list.len()) else { return Way::Unresolved };
        let mut header = [0; MAX_HEADER];
        header[..bytes.len()].copy_from_slice(bytes);
        let header_len = bytes.len() as u8;
        self.list.push(Egress { port, worker: facts.worker, mtu, clamp_mss, header, header_len });
        Way::Ready(number)
    }
}

/// This node's end of all tunnels.
struct Ends<'a> {
    index: PortIndex,
    facts: &'a PortFacts,
    node_v4: Option<Ipv4Addr>,
    node_v6: Option<Ipv6Addr>,
    vni: u32,
    inner_mac: Mac,
}

impl Ends<'_> {
    /// IPv4 where both ends have it, else IPv6.
    fn tunnel(&self, egresses: &mut Egresses, surroundings: &Surroundings, node: &RemoteNode) -> Way {
        let mac_of = |peer: IpAddr| match surroundings.next_hop(peer) {
            Some(hop) => surroundings.macs.get(&hop).copied().ok_or(Way::Unresolved),
            None => Err(Way::NoPort),
        };
        let (index, facts, vni) = (self.index, self.facts, self.vni);
        if let (Some(src), Some(dst)) = (self.node_v4, first_v4(Some(node))) {
            return match mac_of(dst.into()) {
                Ok(mac) => {
                    let header = vxlan::template_v4(facts.mac, mac, src, dst, vni, INNER_SRC, self.inner_mac);
                    egresses.tunnel(index, facts, OVERHEAD_V4, &header)
                }
                Err(way) => way,
            };
        }
        if let (Some(src), Some(dst)) = (self.node_v6, first_v6(Some(node))) {
            return match mac_of(dst.into()) {
                Ok(mac) => {
                    let header = vxlan::template_v6(facts.mac, mac, src, dst, vni, INNER_SRC, self.inner_mac);
                    egresses.tunnel(index, facts, OVERHEAD_V6, &header)
                }
                Err(way) => way,
            };
        }
        Way::NoPort
    }
}

fn largest_mtu(ports: &[Option<PortFacts>]) -> u16 {
    ports.iter().flatten().map(|facts| facts.mtu).max().unwrap_or(0)
}

fn first_v4(node: Option<&RemoteNode>) -> Option<Ipv4Addr> {
    let mut addresses = node.into_iter().flat_map(|node| &node.addresses);
    addresses.find_map(|address| if let IpAddr::V4(address) = address { Some(*address) } else { None })
}

fn first_v6(node: Option<&RemoteNode>) -> Option<Ipv6Addr> {
    let mut addresses = node.into_iter().flat_map(|node| &node.addresses);
    addresses.find_map(|address| if let IpAddr::V6(address) = address { Some(*address) } else { None })
}

#[cfg(test)]
mod tests;
