//! What is said back: neighbours, echo, errors, resets; and what the control thread is told.

use super::cluster::*;
use super::fixture::{Outcome, Rig};
use super::packets::*;
use super::rows::{arp, solicit};
use super::seen::{Seen, inside};
use crate::drops::DropReason::*;
use crate::messages::Event;
use crate::wire::build::{Piece, Spec, Transport};
use crate::wire::tcp::{ACK, RST, SYN};

const FAMILIES: [bool; 2] = [false, true];

#[test]
fn arp_is_answered_by_the_port() {
    for (port, asker, target) in [(POD1, P1, GATEWAY), (POD1, P1, P2), (POD1, P1, X), (HOST, NODE_A, P1)] {
        let mut rig = Rig::new();
        let reply = rig.send(port, arp(1, asker, target, port)).answer(port, Answered);
        let head = [&peer_mac(port)[..], &mac(port), &[8, 6, 0, 1, 8, 0, 6, 4, 0, 2], &mac(port)].concat();
        let ends = [&target.packed_v4()[..], &peer_mac(port), &asker.packed_v4()].concat();
        assert_eq!(reply, [head, ends].concat());
    }
}

#[test]
fn a_solicitation_is_answered_by_the_port() {
    for target in [GATEWAY, P2, X] {
        let mut rig = Rig::new();
        let reply = rig.send(POD1, solicit(target, 255).entering(POD1)).answer(POD1, Answered);
        let payload = [&target.packed_v6()[..], &[2, 1], &mac(POD1)].concat();
        // Router, solicited, override.
        let transport = Transport::Icmp { kind: 136, code: 0, rest: [0xe0, 0, 0, 0] };
        let expected = Spec { ttl: 255, ..spec(target.at(true), P1.at(true), transport, &payload) };
        assert_eq!(reply, expected.out_of(POD1));
    }
}

#[test]
fn duplicate_address_detection_finds_nobody() {
    // A pod asks, from nobody, whether anyone has its address, and its neighbour's.
    for target in [P1, P2] {
        let mut probe = solicit(target, 255);
        (probe.src, probe.payload) = ([0; 16], target.packed_v6().into());
        Rig::new().send(POD1, probe.entering(POD1)).ended(NeighbourDiscovery);
    }
    let mut probe = arp(1, P1, P2, POD1);
    probe[28..32].fill(0);
    Rig::new().send(POD1, probe).ended(Arp);
    Rig::new().send(POD1, arp(1, P1, P1, POD1)).ended(Arp);
}

#[test]
fn the_gateway_answers_an_echo() {
    for v6 in FAMILIES {
        let request = echo(P1.at(v6), GATEWAY.at(v6), 7, false);
        let reply = echo(GATEWAY.at(v6), P1.at(v6), 7, true);
        assert_eq!(Rig::new().send(POD1, request.entering(POD1)).answer(POD1, Answered), reply.out_of(POD1));
    }
}

/// An ICMP error from `src` to `dst`: its type, code and last word by family; what it quotes is `offending`.
#[track_caller]
fn assert_error(frame: &[u8], src: std::net::IpAddr, icmp: [(u8, u8, u16); 2], offending: &Spec) {
    let seen = Seen::of(frame);
    let original = offending.packet();
    let v6 = src.is_ipv6();
    let (_, parsed) = offending.frame();
    assert_eq!((seen.src, seen.dst, seen.ttl), (src, parsed.src(), 64));
    assert_eq!(seen.protocol, if v6 { 58 } else { 1 });
    assert_eq!(seen.icmp(), icmp[usize::from(v6)]);
    let most = if v6 { 1280 - 48 } else { 576 - 28 };
    assert_eq!(seen.transport[8..], original[..original.len().min(most)], "quoted as it came");
}

const EXPIRED: [(u8, u8, u16); 2] = [(11, 0, 0), (3, 0, 0)];
const NO_HOST: [(u8, u8, u16); 2] = [(3, 1, 0), (1, 3, 0)];
const NO_LISTENER: [(u8, u8, u16); 2] = [(3, 3, 0), (1, 4, 0)];

#[test]
fn the_last_hop_is_told_to_the_sender() {
    for v6 in FAMILIES {
        let rows = [(P2, POD1), (R1, POD1), (SOLO, POD1), (X, POD1)];
        for (dst, port) in rows {
            let packet = Spec { ttl: 1, ..segment((P1.at(v6), 40_000), (dst.at(v6), 80)) };
            let mut rig = Rig::new();
            let answer = rig.send(port, packet.entering(port)).answer(port, TtlExceeded);
            assert_eq!(answer[..12], [peer_mac(port), mac(port)].concat());
            assert_error(&answer, GATEWAY.at(v6), EXPIRED, &packet);
        }
        // To the outside in this node's own name; to another node's pod through its tunnel.
        let packet = Spec { ttl: 1, ..segment((X.at(v6), 40_000), (NODE_A.at(v6), NODE_PORT)) };
        let answer = Rig::new().send(UPLINK, packet.entering(UPLINK)).answer(UPLINK, TtlExceeded);
        assert_error(&answer, NODE_A.at(v6), EXPIRED, &packet);
        let packet = Spec { ttl: 1, ..segment((R1.at(v6), 40_000), (P2.at(v6), 80)) };
        let answer = Rig::new().send(UPLINK, packet.tunnelled_by(NODE_B)).answer(UPLINK, TtlExceeded);
        assert_error(&inside(&answer, NODE_B), NODE_A.at(v6), EXPIRED, &packet);
    }
}

#[test]
fn too_big_says_what_fits() {
    for v6 in FAMILIES {
        let headers = if v6 { 48 } else { 28 };
        let of = |dst: Host, length: usize| Spec {
            payload: vec![5; length - headers],
            ..udp((P1.at(v6), 4), (dst.at(v6), 80))
        };
        // Through the tunnel 1450, through the one over IPv6 1430, to a port of its own size.
        let mut cluster = Cluster::new();
        cluster.mtu[POD2 as usize] = 1300;
        for (dst, mtu) in [(R1, 1450), (R4, 1430), (P2, 1300)] {
            let mut rig = Rig::with(cluster.clone(), super::fixture::SIZES);
            let packet = of(dst, mtu + 1);
            let answer = rig.send(POD1, packet.entering(POD1)).answer(POD1, TooBig);
            assert_error(&answer, GATEWAY.at(v6), [(3, 4, mtu as u16), (2, 0, mtu as u16)], &packet);
            let fits = rig.send(POD1, of(dst, mtu).entering(POD1));
            assert_eq!((fits.out.len(), &fits.drops[..]), (1, &[][..]), "a byte less fits");
        }
    }
}

#[test]
fn nobody_there_is_told_to_the_sender() {
    for v6 in FAMILIES {
        for dst in [NOBODY, NO_SERVICE] {
            let packet = udp((P1.at(v6), 40_000), (dst.at(v6), 80));
            let answer = Rig::new().send(POD1, packet.entering(POD1)).answer(POD1, NoRoute);
            assert_error(&answer, GATEWAY.at(v6), NO_HOST, &packet);
        }
    }
}

#[test]
fn a_service_without_endpoints_refuses_in_its_own_name() {
    for v6 in FAMILIES {
        let (client, service) = ((P1.at(v6), 40_000), (EMPTY.at(v6), 80));
        let reset = |packet: &Spec| {
            let frame = Rig::new().send(POD1, packet.entering(POD1)).answer(POD1, ServiceReject);
            let seen = Seen::of(&frame);
            assert_eq!((seen.src, seen.dst, seen.ports(), seen.ttl), (service.0, client.0, (80, 40_000), 64));
            assert_eq!(seen.transport.len(), 20);
            (seen.tcp_flags(), seen.tcp_numbers())
        };
        // RFC 9293, section 3.10.7.1: a SYN is acknowledged, an acknowledged number is taken over.
        assert_eq!(reset(&syn(client, service)), (RST | ACK, (0, 0x0102_0304 + 1)));
        assert_eq!(reset(&tcp(client, service, SYN)), (RST | ACK, (0, 0x0102_0304 + 1 + DATA.len() as u32)));
        assert_eq!(reset(&segment(client, service)), (RST, (0x0a0b_0c0d, 0)));
        let packet = udp(client, service);
        let answer = Rig::new().send(POD1, packet.entering(POD1)).answer(POD1, ServiceReject);
        assert_error(&answer, service.0, NO_LISTENER, &packet);
    }
}

#[test]
fn errors_are_not_answered_nor_groups_nor_later_fragments() {
    for v6 in FAMILIES {
        let whole = Spec { payload: vec![7; 200], ..udp((P1.at(v6), 40_000), (NOBODY.at(v6), 80)) };
        let mut rig = Rig::new();
        let first = Spec { fragment: Piece::First, ..whole.clone() };
        let answer = rig.send(POD1, first.entering(POD1)).answer(POD1, NoRoute);
        assert_eq!(Seen::of(&answer).dst, P1.at(v6));
        rig.send(POD1, Spec { fragment: Piece::Later, ..whole }.entering(POD1)).ended(NoRoute);
        let quote = udp((NOBODY.at(v6), 80), (P1.at(v6), 40_000)).packet();
        let error = Spec { ttl: 1, ..error(P1.at(v6), NOBODY.at(v6), PORT_UNREACHABLE, &quote) };
        rig.send(POD1, error.entering(POD1)).ended(IcmpUnrelated);
    }
}

#[test]
fn a_thousand_errors_a_second() {
    let mut rig = Rig::new();
    let packet = udp((P1.at(false), 40_000), (NOBODY.at(false), 80)).entering(POD1);
    let answers = |rig: &mut Rig, count| {
        (0..count).for_each(|_| assert!(rig.inject(POD1, &packet)));
        let Outcome { out, drops, .. } = rig.run();
        assert_eq!(drops, vec![NoRoute; count]);
        out.len()
    };
    assert_eq!(answers(&mut rig, 1200), 1000);
    assert_eq!(answers(&mut rig, 10), 0);
    rig.wait(1);
    assert_eq!(answers(&mut rig, 10), 10);
}

#[test]
fn a_silent_pod_is_asked_once_a_second_and_its_packet_waits() {
    for v6 in FAMILIES {
        let mut rig = Rig::new();
        rig.cluster.silent = vec![POD2];
        rig.publish();
        // With the snapshot itself comes the first question, for its first address.
        let Outcome { out, generated, .. } = rig.run();
        let question = [&[0xff; 6][..], &mac(POD2), &[8, 6, 0, 1, 8, 0, 6, 4, 0, 1], &mac(POD2)].concat();
        let ends = [&GATEWAY.packed_v4()[..], &[0; 6], &P2.packed_v4()].concat();
        assert_eq!((out, generated), (vec![(POD2, [question, ends].concat())], 1));
        rig.told.clear();
        let packet = segment((P1.at(v6), 40_000), (P2.at(v6), 80));
        assert_eq!(rig.send(POD1, packet.entering(POD1)).out, [], "asked a moment ago");
        assert!(matches!(rig.told[..], [Event::UnresolvedPort { port: POD2 }]), "{:?}", rig.told);
        assert_eq!(rig.held(), 1);
        rig.cluster.silent.clear();
        rig.publish();
        assert_eq!(rig.run().one(POD2), packet.hop().out_of(POD2), "held until the address was known");
        assert_eq!(rig.held(), 0);
    }
}

#[test]
fn whoever_speaks_from_a_new_address_is_reported() {
    let mut rig = Rig::new();
    let mut frame = udp((P1.at(false), 1), (P2.at(false), 2)).entering(POD1);
    frame[6..12].copy_from_slice(&[2, 0, 0, 0xee, 0, 1]);
    assert_eq!(rig.send(POD1, &frame).out.len(), 1);
    assert!(
        matches!(rig.told[..], [Event::PeerMac { port: POD1, mac: [2, 0, 0, 0xee, 0, 1] }]),
        "{:?}",
        rig.told
    );
}

#[test]
fn next_hops_are_asked_for() {
    for v6 in FAMILIES {
        // R3 is behind node-c, tunnelled over IPv4 whatever is inside.
        for (dst, hop) in [(R3, NODE_C.at(false)), (L, L.at(v6))] {
            let mut rig = Rig::new();
            rig.send(POD1, udp((P1.at(v6), 1), (dst.at(v6), 2)).entering(POD1));
            assert!(
                matches!(rig.told[..], [Event::Unresolved { address }] if address == hop),
                "{:?}",
                rig.told
            );
        }
    }
}

#[test]
fn drops_are_reported_while_someone_watches() {
    for v6 in FAMILIES {
        let mut rig = Rig::new();
        let denied = segment((P1.at(v6), 40_000), (P3.at(v6), 80)).entering(POD1);
        rig.send(POD1, &denied).ended(PolicyIngress);
        assert!(rig.told.is_empty());
        rig.cluster.watch_drops = true;
        let epoch = rig.publish();
        rig.send(POD1, &denied).ended(PolicyIngress);
        let [Event::Drop(record)] = &rig.told[..] else { panic!("{:?}", rig.told) };
        assert_eq!((record.reason, record.port, record.epoch), (PolicyIngress, POD1, epoch));
        assert_eq!(record.addresses, Some((P1.at(v6), P3.at(v6))));
        assert_eq!((record.src_port, record.dst_port, record.protocol), (40_000, 80, 6));
        assert_eq!(record.time_ns, rig.now.nanos);
        assert_eq!(record.rule, policy_compiler::policy::RuleId::NO_RULE);
    }
}
