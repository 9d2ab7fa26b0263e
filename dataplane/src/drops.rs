//! [`DropReason`]: every way in which a packet ends here. The name is the metric label and the word in the manual.

macro_rules! drop_reasons {
    ($($(#[doc = $doc:literal])+ $variant:ident = $name:literal,)+) => {
        /// Why a packet was dropped. The law: received + generated = sent + dropped + held, for every worker.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum DropReason {
            $($(#[doc = $doc])+ $variant,)+
        }

        impl DropReason {
            /// All reasons, in the order of their numbers.
            pub const ALL: &[DropReason] = &[$(DropReason::$variant,)+];
            /// How many there are.
            pub const COUNT: usize = Self::ALL.len();

            /// The name: metric label, log word and manual entry.
            pub const fn name(self) -> &'static str {
                match self { $(DropReason::$variant => $name,)+ }
            }

            /// One sentence for people, from the documentation of the variant.
            pub const fn description(self) -> &'static str {
                match self { $(DropReason::$variant => concat!($($doc),+),)+ }
            }

            /// The reason with this number.
            pub fn from_number(number: u8) -> Option<Self> {
                Self::ALL.get(number as usize).copied()
            }
        }
    };
}

drop_reasons! {
    /// Shorter than its headers say, or than an Ethernet header.
    Truncated = "truncated",
    /// An EtherType that is not forwarded.
    EtherType = "ethertype_unknown",
    /// A VLAN tag (802.1Q, 802.1ad): ports are untagged.
    VlanTagged = "vlan_tagged",
    /// Destination MAC address is neither the port's nor one that the port answers for.
    NotOurMac = "not_our_mac",
    /// Version or header length field that cannot be.
    BadIpHeader = "bad_ip_header",
    /// IPv4 header checksum does not match.
    BadIpChecksum = "bad_ip_checksum",
    /// A total, payload or datagram length that disagrees with the packet.
    BadLength = "bad_length",
    /// TCP data offset or flags that cannot be.
    BadTcpHeader = "bad_tcp_header",
    /// Transport checksum does not match, found where a rewrite depends on it.
    BadL4Checksum = "bad_l4_checksum",
    /// Source address that no host may send from (multicast, loopback, unspecified), or a land packet.
    BadSource = "bad_source",
    /// An IPv6 extension header that is not passed, or a chain too long.
    Ipv6Extension = "ipv6_extension",
    /// A fragment whose first fragment was not seen.
    FragmentUnknown = "fragment_unknown",
    /// A fragment that overlaps the transport header or is otherwise impossible (RFC 1858, RFC 5722).
    BadFragment = "bad_fragment",
    /// Malformed ARP, or ARP for what we do not answer.
    Arp = "arp_ignored",
    /// Neighbour discovery that breaks a rule of RFC 4861, or for what we do not answer.
    NeighbourDiscovery = "neighbour_discovery_ignored",
    /// Answered by us: the request ends here (ARP, neighbour solicitation, echo to the gateway).
    Answered = "answered",
    /// Multicast or broadcast: not forwarded.
    Multicast = "multicast",
    /// The port has no endpoint yet: closed until the state knows its pod.
    PortUnbound = "port_unbound",
    /// Source address that is not the port's own (anti-spoofing).
    SpoofedSource = "spoofed_source",
    /// VXLAN header without the I flag, or too short.
    BadVxlan = "bad_vxlan",
    /// VXLAN of another network.
    ForeignVni = "foreign_vni",
    /// VXLAN from an address that is no node of the cluster.
    UnknownTunnelPeer = "unknown_tunnel_peer",
    /// Denied by the source's policies.
    PolicyEgress = "policy_egress",
    /// Denied by the destination's policies.
    PolicyIngress = "policy_ingress",
    /// A Service without any endpoint (answered by TCP RST or ICMP unreachable).
    ServiceReject = "service_no_endpoint",
    /// A Service whose endpoints may not be used here, or not by this source.
    ServiceDrop = "service_not_usable",
    /// No source port left for masquerading towards this destination.
    SnatExhausted = "snat_exhausted",
    /// No such address (answered by ICMP unreachable).
    NoRoute = "no_route",
    /// The endpoint is known but no port is attached for it.
    NoPort = "no_port",
    /// Next hop's MAC address is not known yet; it has been asked for.
    NeighbourUnresolved = "neighbour_unresolved",
    /// TTL or hop limit used up (answered by ICMP time exceeded).
    TtlExceeded = "ttl_exceeded",
    /// Longer than the way out takes (answered by ICMP packet too big).
    TooBig = "too_big",
    /// The flow table has no place that may be taken.
    FlowTableFull = "flow_table_full",
    /// An ICMP error that quotes no flow of ours.
    IcmpUnrelated = "icmp_unrelated",
    /// A TCP segment that opens nothing and belongs to nothing (a lone FIN or RST).
    TcpInvalid = "tcp_invalid",
    /// The transmit ring was full.
    TxRingFull = "tx_ring_full",
    /// The ring to the other worker was full.
    WorkerRingFull = "worker_ring_full",
    /// The port went away while the packet was on its way to it.
    PortGone = "port_gone",
    /// No free chunk of packet memory for a packet that had to be made.
    NoMemory = "no_memory",
    /// Would leave by the port of the same endpoint it came from, and is no hairpin.
    Loop = "loop",
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn names_are_unique_and_numbers_are_indices() {
        let names: HashSet<_> = DropReason::ALL.iter().map(|reason| reason.name()).collect();
        assert_eq!(names.len(), DropReason::COUNT);
        for (number, reason) in DropReason::ALL.iter().enumerate() {
            assert_eq!(DropReason::from_number(number as u8), Some(*reason));
        }
        assert_eq!(DropReason::from_number(DropReason::COUNT as u8), None);
    }
}
