//! A packet and the reason it ends by: a row for every reason, in both families where both make sense.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::cluster::*;
use super::fixture::{Outcome, Rig, SIZES, Sizes};
use super::packets::*;
use crate::drops::DropReason::{self, *};
use crate::snapshot::PortIndex;
use crate::wire::build::{Piece, Spec, Transport};
use crate::wire::tcp::{FIN, RST, SYN};

/// A packet, and how it ends.
struct Row {
    name: &'static str,
    reason: DropReason,
    port: PortIndex,
    packet: Vec<u8>,
    /// What happens before.
    prepare: fn(&mut Rig),
    /// Whether something is sent back by the port it came from.
    answered: bool,
}

fn row(reason: DropReason, name: &'static str, port: PortIndex, packet: Vec<u8>) -> Row {
    Row { name, reason, port, packet, prepare: |_| {}, answered: false }
}

fn answered(reason: DropReason, name: &'static str, port: PortIndex, packet: Vec<u8>) -> Row {
    Row { answered: true, ..row(reason, name, port, packet) }
}

/// Reasons that need more than one packet on an ordinary rig, and the tests of this folder that have them.
const ELSEWHERE: [(DropReason, &str); 5] = [
    (NeighbourUnresolved, "a_neighbour_that_never_answers_costs_the_packet_after_a_second"),
    (TxRingFull, "a_full_transmit_ring_is_kicked_once_and_loses_the_rest"),
    (FlowTableFull, "a_table_full_of_live_flows_takes_no_more"),
    (WorkerRingFull, "a_full_ring_between_workers_is_a_named_drop"),
    (NoMemory, "a_worker_without_memory_cannot_take_what_crosses"),
];

#[test]
fn every_row_ends_by_its_reason() {
    for row in all_rows() {
        let mut rig = Rig::new();
        (row.prepare)(&mut rig);
        let outcome = rig.send(row.port, &row.packet);
        let Outcome { taken, out, drops, generated } = &outcome;
        assert_eq!((*taken, &drops[..]), (1, &[row.reason][..]), "{}: {outcome:?}", row.name);
        let ports: Vec<_> = out.iter().map(|(port, _)| *port).collect();
        let expected = if row.answered { vec![row.port] } else { vec![] };
        assert_eq!((ports, *generated), (expected, u64::from(row.answered)), "{}: {outcome:?}", row.name);
    }
}

#[test]
fn every_reason_has_a_row() {
    let mut covered: BTreeSet<_> = all_rows().iter().map(|row| row.reason).collect();
    for (reason, test) in ELSEWHERE {
        assert!(covered.insert(reason), "{} has a row: {test} need not be named", reason.name());
    }
    let all: BTreeSet<_> = DropReason::ALL.iter().copied().collect();
    assert_eq!(covered, all);
}

fn all_rows() -> Vec<Row> {
    let mut rows = link_rows();
    rows.extend([false, true].into_iter().flat_map(packet_rows));
    rows.extend([false, true].into_iter().flat_map(tunnel_rows));
    rows.extend([false, true].into_iter().flat_map(judged_rows));
    rows
}

/// A frame with some of its bytes overwritten.
fn with(mut frame: Vec<u8>, at: usize, bytes: &[u8]) -> Vec<u8> {
    frame[at..at + bytes.len()].copy_from_slice(bytes);
    frame
}

/// An IPv4 header whose checksum is right again.
fn summed(frame: Vec<u8>) -> Vec<u8> {
    let words = frame[14..34].chunks(2).zip(0..).filter(|(_, word)| *word != 5);
    let total: u32 = words.map(|(pair, _)| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum();
    let check = !((total & 0xffff) + (total >> 16)) as u16;
    with(frame, 24, &check.to_be_bytes())
}

/// Ethernet, ARP and the IPv4 header.
fn link_rows() -> Vec<Row> {
    let good = || segment((P1.at(false), 40_000), (P2.at(false), 80)).entering(POD1);
    let tag = |ethertype: [u8; 2]| {
        let frame = good();
        [&frame[..12], &ethertype, &[0, 5], &frame[12..]].concat()
    };
    vec![
        row(Truncated, "half an Ethernet header", POD1, good()[..10].to_vec()),
        row(Truncated, "nothing", POD1, vec![]),
        row(Truncated, "half an IPv4 header", POD1, good()[..24].to_vec()),
        row(Truncated, "total length beyond the frame", POD1, summed(with(good(), 16, &[0x05, 0xdc]))),
        row(EtherType, "MPLS", POD1, with(good(), 12, &[0x88, 0x47])),
        row(EtherType, "a length (802.3)", POD1, with(good(), 12, &[0, 46])),
        row(VlanTagged, "802.1Q", POD1, tag([0x81, 0])),
        row(VlanTagged, "802.1ad", UPLINK, with(tag([0x88, 0xa8]), 0, &mac(UPLINK))),
        row(NotOurMac, "another's MAC address", POD1, with(good(), 0, &mac(POD2))),
        row(NotOurMac, "another's, at the uplink", UPLINK, with(good(), 0, &ROUTER_MAC)),
        row(BadIpHeader, "version 5", POD1, with(good(), 14, &[0x55])),
        row(BadIpHeader, "version 4 in the EtherType of IPv6", POD1, with(good(), 12, &[0x86, 0xdd])),
        row(BadIpHeader, "a header of 16 bytes", POD1, with(good(), 14, &[0x44])),
        row(BadIpChecksum, "a wrong header checksum", POD1, with(good(), 24, &[0xde, 0xad])),
        row(BadLength, "total length below the header", POD1, summed(with(good(), 16, &[0, 19]))),
        row(Truncated, "total length cuts the TCP header", POD1, summed(with(good(), 16, &[0, 39]))),
        row(BadSource, "from loopback", POD1, summed(with(good(), 26, &[127, 0, 0, 1]))),
        row(BadSource, "from a group", POD1, summed(with(good(), 26, &[224, 0, 0, 1]))),
        row(Arp, "a request at the uplink", UPLINK, arp(1, P1, GATEWAY, UPLINK)),
        row(Arp, "for the pod's own address", POD1, arp(1, P2, P1, POD1)),
        row(Arp, "a reply teaches nobody", POD1, arp(2, P1, GATEWAY, POD1)),
        row(Arp, "the node asks for what is no pod", HOST, arp(1, NODE_A, X, HOST)),
        row(Arp, "half of it", POD1, arp(1, P1, GATEWAY, POD1)[..40].to_vec()).but(Truncated),
        answered(Answered, "ARP for the gateway", POD1, arp(1, P1, GATEWAY, POD1)),
        answered(Answered, "ARP for another pod: by proxy", POD1, arp(1, P1, P2, POD1)),
        answered(Answered, "ARP of the node for a pod", HOST, arp(1, NODE_A, P1, HOST)),
        row(NeighbourDiscovery, "a hop limit of 64", POD1, solicit(GATEWAY, 64).entering(POD1)),
        row(NeighbourDiscovery, "for the pod's own address", POD1, solicit(P1, 255).entering(POD1)),
        row(NeighbourDiscovery, "at the uplink", UPLINK, solicit(GATEWAY, 255).entering(UPLINK)),
        row(BadL4Checksum, "a solicitation that is damaged", POD1, {
            with(solicit(GATEWAY, 255).entering(POD1), 60, &[0xee])
        }),
        answered(Answered, "a solicitation for the gateway", POD1, solicit(GATEWAY, 255).entering(POD1)),
        answered(Answered, "a solicitation for another pod", POD1, solicit(P2, 255).entering(POD1)),
    ]
}

impl Row {
    fn but(self, reason: DropReason) -> Self {
        Row { reason, ..self }
    }

    fn after(self, prepare: fn(&mut Rig)) -> Self {
        Row { prepare, ..self }
    }
}

/// An ARP packet from whoever is behind a port.
pub(super) fn arp(operation: u8, sender: Host, target: Host, port: PortIndex) -> Vec<u8> {
    let octets = |host: Host| host.packed_v4();
    let src = if port == UPLINK { ROUTER_MAC } else { peer_mac(port) };
    let head = [&[0xff; 6][..], &src, &[8, 6, 0, 1, 8, 0, 6, 4, 0, operation], &src].concat();
    [&head[..], &octets(sender), &[0; 6], &octets(target)].concat()
}

/// P1 asks for a neighbour.
pub(super) fn solicit(target: Host, ttl: u8) -> Spec {
    let target = target.packed_v6();
    let mut group = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, 0, 0, 0];
    group[13..].copy_from_slice(&target[13..]);
    let payload = [&target[..], &[1, 1], &peer_mac(POD1)].concat();
    let transport = Transport::Icmp { kind: 135, code: 0, rest: [0; 4] };
    Spec { ttl, dst: group, ..spec(P1.at(true), P2.at(true), transport, &payload) }
}

/// What is wrong in an IP packet by itself.
fn packet_rows(v6: bool) -> Vec<Row> {
    let ends = ((P1.at(v6), 40_000), (P2.at(v6), 80));
    let l4 = if v6 { 54 } else { 34 };
    let tcp_frame = || segment(ends.0, ends.1).entering(POD1);
    let udp_frame = || udp(ends.0, ends.1).entering(POD1);
    let long = || Spec { payload: vec![7; 200], ..udp(ends.0, ends.1) };
    let part = |fragment| Spec { fragment, ..long() };
    let mut rows = vec![
        row(BadTcpHeader, "a TCP header of 16 bytes", POD1, with(tcp_frame(), l4 + 12, &[0x40])),
        row(BadTcpHeader, "SYN and FIN", POD1, tcp(ends.0, ends.1, SYN | FIN).entering(POD1)),
        row(BadTcpHeader, "options beyond the packet", POD1, with(tcp_frame(), l4 + 12, &[0xf0])),
        row(BadLength, "a UDP length beyond the packet", POD1, with(udp_frame(), l4 + 4, &[0, 200])),
        row(BadLength, "a UDP length below its header", POD1, with(udp_frame(), l4 + 4, &[0, 7])),
        row(
            BadSource,
            "from itself to itself",
            POD1,
            tcp((P1.at(v6), 1), (P1.at(v6), 1), SYN).entering(POD1),
        ),
        row(FragmentUnknown, "a later fragment alone", POD1, part(Piece::Later).entering(POD1)),
        row(BadFragment, "a later fragment over its first", POD1, {
            let mut later = part(Piece::Later).entering(POD1);
            // It says that it begins at byte 56; the first ended at 64.
            let at = if v6 { 56 } else { 20 };
            later[at..at + 2].copy_from_slice(&if v6 { [0, 56] } else { [0, 7] });
            if v6 { later } else { summed(later) }
        })
        .after(if v6 { |rig| first_fragment(rig, true) } else { |rig| first_fragment(rig, false) }),
        row(FragmentUnknown, "a later fragment too late", POD1, part(Piece::Later).entering(POD1)).after(
            if v6 {
                |rig| {
                    first_fragment(rig, true);
                    rig.wait(31);
                }
            } else {
                |rig| {
                    first_fragment(rig, false);
                    rig.wait(31);
                }
            },
        ),
        row(
            SpoofedSource,
            "from another pod's address",
            POD1,
            segment((P2.at(v6), 1), (R1.at(v6), 80)).entering(POD1),
        ),
        row(
            SpoofedSource,
            "the node as a pod",
            HOST,
            segment((P2.at(v6), 1), (P1.at(v6), 80)).entering(HOST),
        ),
        row(SpoofedSource, "a pod without its tunnel", UPLINK, {
            segment((R1.at(v6), 1), (P1.at(v6), 80)).entering(UPLINK)
        }),
        row(
            PortUnbound,
            "a port without a pod",
            UNBOUND,
            segment((P4.at(v6), 1), (P2.at(v6), 80)).entering(UNBOUND),
        ),
        row(Multicast, "to a group", POD1, udp((P1.at(v6), 1), (group(v6), 5353)).entering(POD1)),
        row(Multicast, "in a broadcast frame", POD1, with(udp_frame(), 0, &[0xff; 6])),
    ];
    if v6 {
        rows.extend([
            row(Truncated, "half an IPv6 header", POD1, tcp_frame()[..40].to_vec()),
            row(Truncated, "payload beyond the frame", POD1, with(tcp_frame(), 18, &[4, 0])),
            row(BadLength, "no payload, but a next header", POD1, with(tcp_frame(), 18, &[0, 0])),
            row(Ipv6Extension, "a routing header with a stop left", POD1, {
                let mut frame = Spec { options: 1, ..segment(ends.0, ends.1) }.entering(POD1);
                frame[20] = 43;
                with(frame, 56, &[0, 1])
            }),
        ]);
    }
    rows
}

fn group(v6: bool) -> std::net::IpAddr {
    if v6 { "ff02::fb".parse().unwrap() } else { "224.0.0.251".parse().unwrap() }
}

fn first_fragment(rig: &mut Rig, v6: bool) {
    let long = Spec { payload: vec![7; 200], ..udp((P1.at(v6), 40_000), (P2.at(v6), 80)) };
    let first = Spec { fragment: Piece::First, ..long };
    assert_eq!(rig.send(POD1, first.entering(POD1)).one(POD2), first.hop().out_of(POD2));
}

/// What is wrong with a tunnel, or with what comes out of it. The family is that of the packet inside.
fn tunnel_rows(v6: bool) -> Vec<Row> {
    let inner = || segment((R2.at(v6), 40_000), (P2.at(v6), 80)).framed(INNER_DST, INNER_SRC);
    let from_b = |vni, inner: &[u8]| tunnelled(NODE_B, NODE_B.at(false), vni, inner);
    vec![
        row(BadVxlan, "without the I flag", UPLINK, with(from_b(VNI, &inner()), 42, &[0])),
        row(BadVxlan, "too short for an inner frame", UPLINK, from_b(VNI, &inner()[..13])),
        row(ForeignVni, "of another network", UPLINK, from_b(VNI + 1, &inner())),
        row(UnknownTunnelPeer, "from no node", UPLINK, tunnelled(L, L.at(v6), VNI, &inner())),
        row(
            UnknownTunnelPeer,
            "from no node, after one that is",
            UPLINK,
            tunnelled(X, X.at(false), VNI, &inner()),
        )
        .after(|rig| {
            let known = segment((R2.at(false), 1), (P2.at(false), 80));
            assert_eq!(rig.send(UPLINK, known.tunnelled_by(NODE_B)).one(POD2), known.hop().out_of(POD2));
        }),
        row(Truncated, "half a packet inside", UPLINK, from_b(VNI, &inner()[..40])),
        row(VlanTagged, "a VLAN tag inside", UPLINK, from_b(VNI, &with(inner(), 12, &[0x81, 0]))),
        row(Arp, "ARP inside", UPLINK, from_b(VNI, &arp(1, R2, P1, POD1))),
        row(SpoofedSource, "another node's pod", UPLINK, {
            segment((R3.at(v6), 40_000), (P2.at(v6), 80)).tunnelled_by(NODE_B)
        }),
        row(SpoofedSource, "a host outside of the cluster", UPLINK, {
            segment((X.at(v6), 40_000), (P2.at(v6), 80)).tunnelled_by(NODE_B)
        }),
        row(Loop, "out of one tunnel into another", UPLINK, {
            segment((R2.at(v6), 40_000), (R4.at(v6), 80)).tunnelled_by(NODE_B)
        }),
        answered(
            NoRoute,
            "to nobody here",
            UPLINK,
            segment((R2.at(v6), 4), (NOBODY.at(v6), 80)).tunnelled_by(NODE_B),
        ),
        row(BadFragment, "a tunnel in pieces", UPLINK, {
            let payload = [&[8, 0, 0, 0, 0, 0x47, 0x11, 0], &inner()[..], &[0; 64]].concat();
            let transport = Transport::Udp { ports: [50_000, 4789] };
            let whole = spec(NODE_B.at(false), NODE_A.at(false), transport, &payload);
            Spec { fragment: Piece::First, ..whole }.entering(UPLINK)
        }),
    ]
}

/// What the tables say.
fn judged_rows(v6: bool) -> Vec<Row> {
    let to = |dst: Host, port| segment((P1.at(v6), 40_000), (dst.at(v6), port)).entering(POD1);
    let loopback: IpAddr = if v6 { Ipv6Addr::LOCALHOST.into() } else { Ipv4Addr::LOCALHOST.into() };
    let damaged = |mut frame: Vec<u8>| {
        *frame.last_mut().unwrap() ^= 1;
        frame
    };
    let flags = |flags| tcp((P1.at(v6), 40_000), (P2.at(v6), 80), flags).entering(POD1);
    let quote = segment((P1.at(v6), 40_000), (X.at(v6), 80)).packet();
    let big = |dst: Host, length| {
        Spec { payload: vec![1; length], ..udp((P1.at(v6), 40_000), (dst.at(v6), 80)) }.entering(POD1)
    };
    let last_hop = |dst: Host, ttl| Spec { ttl, ..udp((P1.at(v6), 4), (dst.at(v6), 80)) }.entering(POD1);
    let node_port = |port| segment((X.at(v6), 40_000), (NODE_A.at(v6), port)).entering(UPLINK);
    vec![
        row(
            PolicyEgress,
            "what the db may not send",
            POD3,
            segment((P3.at(v6), 4), (P2.at(v6), 80)).entering(POD3),
        ),
        row(PolicyIngress, "what the db does not take", POD1, to(P3, 80)),
        row(PolicyIngress, "whom the db does not take it from", POD2, {
            segment((P2.at(v6), 4), (P3.at(v6), 27017)).entering(POD2)
        }),
        row(PolicyIngress, "the same by a tunnel", UPLINK, {
            segment((R2.at(v6), 4), (P3.at(v6), 27017)).tunnelled_by(NODE_B)
        }),
        answered(ServiceReject, "a Service without endpoints", POD1, to(EMPTY, 80)),
        answered(ServiceReject, "a port that a Service has not", POD1, to(WEB, 81)),
        row(
            ServiceReject,
            "a reset is not answered",
            POD1,
            tcp((P1.at(v6), 4), (EMPTY.at(v6), 80), RST).entering(POD1),
        )
        .but(TcpInvalid),
        row(ServiceDrop, "a Service for its own node alone", POD1, to(AFAR, 80)),
        row(ServiceDrop, "a node port for local backends alone", UPLINK, node_port(LOCAL_NODE_PORT)),
        row(ServiceDrop, "SCTP to a Service", POD1, {
            let payload = [&[0x9c, 0x40, 0, 80][..], &[0; 20]].concat();
            spec(P1.at(v6), SCTP_SERVICE.at(v6), Transport::Other { protocol: 132 }, &payload).entering(POD1)
        }),
        row(BadL4Checksum, "TCP to a Service", POD1, damaged(to(WEB, 80))),
        row(
            BadL4Checksum,
            "UDP to a Service",
            POD1,
            damaged(udp((P1.at(v6), 4), (DNS.at(v6), 53)).entering(POD1)),
        ),
        row(BadL4Checksum, "TCP to be masqueraded", POD1, damaged(to(X, 80))),
        row(BadL4Checksum, "an echo to be masqueraded", POD1, {
            damaged(echo(P1.at(v6), X.at(v6), 77, false).entering(POD1))
        }),
        row(SnatExhausted, "the second flow for one port", POD1, to(X, 80)).after(if v6 {
            |rig| one_masqueraded_flow(rig, true)
        } else {
            |rig| one_masqueraded_flow(rig, false)
        }),
        row(NoRoute, "to loopback", POD1, segment((P1.at(v6), 40_000), (loopback, 80)).entering(POD1)),
        answered(NoRoute, "a free address of this node", POD1, to(NOBODY, 80)),
        answered(NoRoute, "a Service address that is none", POD1, to(NO_SERVICE, 80)),
        answered(
            NoRoute,
            "TCP to the gateway",
            POD1,
            segment((P1.at(v6), 4), (GATEWAY.at(v6), 80)).entering(POD1),
        ),
        row(
            NoRoute,
            "an echo reply to the gateway",
            POD1,
            echo(P1.at(v6), GATEWAY.at(v6), 1, true).entering(POD1),
        ),
        answered(NoRoute, "through this node to the outside", UPLINK, {
            segment((X.at(v6), 4), (L.at(v6), 80)).entering(UPLINK)
        }),
        answered(
            Answered,
            "an echo to the gateway",
            POD1,
            echo(P1.at(v6), GATEWAY.at(v6), 1, false).entering(POD1),
        ),
        row(NoPort, "a pod without a port", POD1, to(P4, 80)),
        answered(TtlExceeded, "the last hop", POD1, last_hop(P2, 1)),
        answered(TtlExceeded, "beyond the last hop", POD1, last_hop(P2, 0)),
        answered(TtlExceeded, "the last hop before a tunnel", POD1, last_hop(R1, 1)),
        answered(TtlExceeded, "the last hop of a Service", POD1, {
            Spec { ttl: 1, ..segment((P1.at(v6), 40_000), (SOLO.at(v6), 80)) }.entering(POD1)
        }),
        answered(TooBig, "a byte too many for a tunnel", POD1, big(R1, 1451 - headers(v6))),
        row(PortGone, "the port has just gone", POD1, to(P2, 80)).after(|rig| rig.detach(POD2)),
        row(IcmpUnrelated, "an error that quotes no flow", UPLINK, {
            error(X.at(v6), NODE_A.at(v6), PORT_UNREACHABLE, &quote).entering(UPLINK)
        }),
        row(IcmpUnrelated, "an error that quotes nothing", POD1, {
            error(P1.at(v6), X.at(v6), PORT_UNREACHABLE, &[]).entering(POD1)
        }),
        row(TcpInvalid, "a reset of nothing", POD1, flags(RST)),
        row(TcpInvalid, "the end of nothing", POD1, flags(FIN)),
    ]
}

fn headers(v6: bool) -> usize {
    if v6 { 48 } else { 28 }
}

fn one_masqueraded_flow(rig: &mut Rig, v6: bool) {
    rig.cluster.snat_ports = (61_000, 61_000);
    rig.publish();
    let first = segment((P1.at(v6), 39_999), (X.at(v6), 80));
    let out = first.between((NODE_A.at(v6), 61_000), (X.at(v6), 80)).hop();
    assert_eq!(rig.send(POD1, first.entering(POD1)).one(UPLINK), out.out_of(UPLINK));
}

// ---------------------------------------------------------------- reasons that take more than one packet

#[test]
fn a_neighbour_that_never_answers_costs_the_packet_after_a_second() {
    for (v6, dst) in [false, true].into_iter().flat_map(|v6| [R3, L].map(|dst| (v6, dst))) {
        let mut rig = Rig::new();
        let packet = segment((P1.at(v6), 40_000), (dst.at(v6), 80)).entering(POD1);
        let outcome = rig.send(POD1, packet);
        assert_eq!(outcome, Outcome { taken: 1, ..Outcome::default() }, "held");
        assert_eq!(rig.held(), 1);
        rig.wait(1);
        rig.run().ended(NeighbourUnresolved);
        assert_eq!(rig.held(), 0);
    }
}

#[test]
fn a_full_transmit_ring_is_kicked_once_and_loses_the_rest() {
    let mut rig = Rig::with(Cluster::new(), Sizes { ring: 3, ..SIZES });
    let packet = |port| udp((P1.at(false), port), (P2.at(false), 80));
    for port in 0..10 {
        rig.inject(POD1, &packet(1000 + port).entering(POD1));
    }
    let Outcome { out, drops, .. } = rig.run();
    let expected: Vec<_> = (0..6).map(|port| (POD2, packet(1000 + port).hop().out_of(POD2))).collect();
    assert_eq!(out, expected, "what fits twice, in order");
    assert_eq!(drops, [TxRingFull; 4]);
}

#[test]
fn a_table_full_of_live_flows_takes_no_more() {
    for v6 in [false, true] {
        // One bucket: sixteen lines, two a flow.
        let mut rig = Rig::with(Cluster::new(), Sizes { flows: 16, ..SIZES });
        let packet = |port| udp((P1.at(v6), port), (P2.at(v6), 80));
        let reply = |port| udp((P2.at(v6), 80), (P1.at(v6), port));
        for port in 1..=8 {
            assert_eq!(
                rig.send(POD1, packet(port).entering(POD1)).one(POD2),
                packet(port).hop().out_of(POD2)
            );
            assert_eq!(rig.send(POD2, reply(port).entering(POD2)).one(POD1), reply(port).hop().out_of(POD1));
        }
        rig.send(POD1, packet(9).entering(POD1)).ended(FlowTableFull);
        // Live flows go on, and one that has timed out makes room.
        assert_eq!(rig.send(POD1, packet(1).entering(POD1)).one(POD2), packet(1).hop().out_of(POD2));
        rig.wait(121);
        assert_eq!(rig.send(POD1, packet(9).entering(POD1)).one(POD2), packet(9).hop().out_of(POD2));
    }
}
