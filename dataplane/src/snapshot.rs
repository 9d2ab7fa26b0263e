//! [`Snapshot`]: everything a worker judges by, immutable: tables, ports, egress templates, neighbours.
//!
//! The control thread builds one for every change (`control::build`), publishes it ([`crate::publish`]), and is the one that drops it.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use arrayvec::ArrayVec;
use ipnet::IpNet;
use policy_compiler::tables::Tables;

use crate::flow::Entry;
use crate::rule_hits::HitTable;
use crate::shadow::Shadow;
use crate::validity::Validity;
use crate::wire::ETHERNET_LEN;
use crate::wire::vxlan::{TEMPLATE_V4_LEN, TEMPLATE_V6_LEN};

/// Number of a port within one penstockd: stable while the port is attached, reused afterwards.
pub type PortIndex = u16;

/// Index into [`Snapshot::egresses`]; what a flow entry carries.
pub type EgressIndex = u16;

/// An Ethernet address.
pub type Mac = [u8; 6];

/// Everything a worker judges by.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// The number of its publication, and which judgements of earlier ones hold in it. A flow entry carries the epoch that it was
    /// judged under; where that holds no more, it is judged again on its next packet.
    pub validity: Validity,
    /// Policy, services and routes, with the generation of the `Apply` that brought them.
    pub tables: Tables,
    /// The ports by [`PortIndex`]; `None` where a number is free.
    pub ports: Vec<Option<PortView>>,
    /// The ready ways out.
    pub egresses: Vec<Egress>,
    /// By index of `tables.routes.endpoints()`: the way to that endpoint; `None` where no port is attached or its
    /// MAC address is not known yet.
    pub endpoints: Vec<Way>,
    /// By index of `tables.routes.nodes()`: the tunnel to that node.
    pub tunnels: Vec<Way>,
    /// From a tunnel peer's address to its index in `tables.routes.nodes()`.
    pub tunnel_peers: HashMap<IpAddr, u32>,
    /// The way to this node's own network stack.
    pub host: Way,
    /// The world outside the cluster.
    pub underlay: Underlay,
    /// This node's address for masquerading and as the source of tunnels, IPv4.
    pub node_v4: Option<Ipv4Addr>,
    /// The same, IPv6.
    pub node_v6: Option<Ipv6Addr>,
    /// The gateway's addresses: what we answer to and what our ICMP errors come from.
    pub gateway_v4: Ipv4Addr,
    /// The same, IPv6.
    pub gateway_v6: Ipv6Addr,
    /// Source ports for masquerading: first and last.
    pub snat_ports: (u16, u16),
    /// Whether workers are to report drops one by one (someone watches).
    pub watch_drops: bool,
    /// Where workers count the hits of `tables.policy`'s rules.
    pub rule_hits: Arc<HitTable>,
    /// The candidate that flows are judged by as well, without effect; its numbers are of no flow's entry.
    pub shadow: Option<Arc<Shadow>>,
}

/// Whether there is a way, and if not, why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// By this egress.
    Ready(EgressIndex),
    /// There would be, but the next hop's MAC address is not known yet.
    Unresolved,
    /// No port leads there.
    NoPort,
}

/// A port, as the packet path sees it.
#[derive(Debug, Clone)]
pub struct PortView {
    /// What is behind it.
    pub role: Role,
    /// The device's own MAC address: the gateway's, seen from behind the port.
    pub mac: Mac,
    /// Largest IP packet.
    pub mtu: u16,
    /// The worker that serves it.
    pub worker: u16,
    /// For an endpoint's port: the addresses that may send from it. Empty until the state knows the pod.
    pub addresses: ArrayVec<IpAddr, 4>,
    /// MAC address behind it, once known; a packet from another one is worth a message to the control thread.
    pub peer_mac: Option<Mac>,
    /// The way back to what is behind it, where that is one thing (endpoint, host).
    pub way: Way,
}

/// What is behind a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// A pod or virtual machine; index into `tables.routes.endpoints()`, `None` while the state does not know it.
    Endpoint(Option<u32>),
    /// The underlay.
    Uplink,
    /// This node's network stack.
    Host,
}

/// The world outside the cluster, by the uplink.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Underlay {
    /// Prefixes that are on the link.
    pub on_link: Vec<IpNet>,
    /// Next hop for the rest, IPv4.
    pub gateway_v4: Option<IpAddr>,
    /// Next hop for the rest, IPv6.
    pub gateway_v6: Option<IpAddr>,
    /// Next hops whose MAC address is known.
    pub neighbours: HashMap<IpAddr, EgressIndex>,
}

impl Underlay {
    /// The next hop towards `address`: itself on the link, else the gateway; `None` where there is no gateway.
    pub fn next_hop(&self, address: IpAddr) -> Option<IpAddr> {
        if self.on_link.iter().any(|prefix| prefix.contains(&address)) {
            return Some(address);
        }
        if address.is_ipv4() { self.gateway_v4 } else { self.gateway_v6 }
    }
}

/// Longest header an egress puts in front: outer Ethernet 14 + IPv6 40 + UDP 8 + VXLAN 8 + inner Ethernet 14.
pub const MAX_HEADER: usize = TEMPLATE_V6_LEN;

/// A ready way out: the header that goes in front of the IP packet, and the port. Two cache lines; the first holds a whole
/// header of VXLAN over IPv4.
#[derive(Debug, Clone, PartialEq, Eq)]
#[repr(C, align(64))]
pub struct Egress {
    /// What goes in front of the IP packet; the EtherType at its end is patched to the packet's family.
    pub header: [u8; MAX_HEADER],
    /// Bytes of it: 14 plain, 64 VXLAN over IPv4, 84 VXLAN over IPv6.
    pub header_len: u8,
    /// The port it leaves by.
    pub port: PortIndex,
    /// The worker that serves that port.
    pub worker: u16,
    /// Largest IP packet that may take this way (for a tunnel: the underlay's less the encapsulation).
    pub mtu: u16,
    /// Largest TCP segment that fits, to clamp SYNs to; 0: no clamping. IPv4 headers assumed; 20 less for IPv6.
    pub clamp_mss: u16,
}

impl Egress {
    /// Whether it encapsulates.
    #[inline(always)]
    pub fn is_tunnel(&self) -> bool {
        self.header_len as usize > ETHERNET_LEN
    }

    /// The headers of VXLAN over IPv4, where it is that.
    #[inline(always)]
    pub fn template_v4(&self) -> Option<&[u8; TEMPLATE_V4_LEN]> {
        if self.header_len as usize == TEMPLATE_V4_LEN { self.header.first_chunk() } else { None }
    }

    /// The headers of VXLAN over IPv6, where it is that; else no headers of anything.
    #[inline(always)]
    pub fn template_v6(&self) -> &[u8; TEMPLATE_V6_LEN] {
        &self.header
    }
}

impl Snapshot {
    /// The snapshot before the first generation: no ports, nothing reachable.
    pub fn empty() -> Self {
        Snapshot {
            validity: Validity::only(1),
            tables: Tables::empty(),
            ports: Vec::new(),
            egresses: Vec::new(),
            endpoints: Vec::new(),
            tunnels: Vec::new(),
            tunnel_peers: HashMap::new(),
            host: Way::NoPort,
            underlay: Underlay::default(),
            node_v4: None,
            node_v6: None,
            gateway_v4: Ipv4Addr::new(169, 254, 1, 1),
            gateway_v6: Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1),
            snat_ports: (61000, 65535),
            watch_drops: false,
            rule_hits: Arc::default(),
            shadow: None,
        }
    }

    /// The number of its publication.
    #[inline(always)]
    pub fn epoch(&self) -> u32 {
        self.validity.epoch()
    }

    /// Whether what an entry says holds.
    #[inline(always)]
    pub fn upholds(&self, v6: bool, entry: &Entry) -> bool {
        entry.epoch == self.epoch() || self.upholds_older(v6, entry)
    }

    #[inline(never)]
    fn upholds_older(&self, v6: bool, entry: &Entry) -> bool {
        let (key, rewritten) = (&entry.key.addresses, &entry.rewritten.addresses);
        if v6 {
            self.validity.holds(entry.epoch, [key, rewritten])
        } else {
            self.validity.holds(entry.epoch, [&[key[0]], &[rewritten[0]]])
        }
    }

    /// Whether flows leave by the same ways as by `other`: the same numbers of egresses stand for the same.
    pub fn has_ways_of(&self, other: &Snapshot) -> bool {
        self.egresses == other.egresses
            && self.tunnels == other.tunnels
            && self.underlay == other.underlay
            && self.host == other.host
            && (self.node_v4, self.node_v6) == (other.node_v4, other.node_v6)
            && ways_back(self).eq(ways_back(other))
    }

    /// The port with this number.
    #[inline]
    pub fn port(&self, index: PortIndex) -> Option<&PortView> {
        self.ports.get(index as usize).and_then(Option::as_ref)
    }
}

/// The way back to what is behind each port.
fn ways_back(snapshot: &Snapshot) -> impl Iterator<Item = Option<Way>> {
    snapshot.ports.iter().map(|port| port.as_ref().map(|port| port.way))
}
