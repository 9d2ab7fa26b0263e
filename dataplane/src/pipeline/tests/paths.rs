//! A packet and what leaves instead, byte by byte: what is expected is built anew, never rewritten.

use super::cluster::*;
use super::fixture::{Outcome, Rig};
use super::packets::*;
use super::seen::{Seen, inside};
use crate::drops::DropReason;
use crate::wire::build::{Piece, Spec, Transport};
use crate::wire::tcp::{ACK, SYN};

const FAMILIES: [bool; 2] = [false, true];

/// Where a masqueraded packet came out: the end that replies must go to.
#[track_caller]
fn masqueraded(frame: &[u8]) -> End {
    let seen = Seen::of(frame);
    let port = if matches!(seen.protocol, 1 | 58) { seen.identifier() } else { seen.ports().0 };
    assert_eq!(seen.src, NODE_A.at(seen.src.is_ipv6()));
    assert!(port >= 61_000, "one of the ports for it: {port}");
    (seen.src, port)
}

#[test]
fn pods_of_one_node_talk() {
    for v6 in FAMILIES {
        let (a, b) = ((P1.at(v6), 40_000), (P2.at(v6), 80));
        let sctp = [&[0x9c, 0x40, 0, 80][..], &[9; 20]].concat();
        let other = |protocol, payload: &[u8]| spec(a.0, b.0, Transport::Other { protocol }, payload);
        let rows = [
            ("SYN", syn(a, b)),
            ("TCP", segment(a, b)),
            ("UDP", udp(a, b)),
            ("echo", echo(a.0, b.0, 7, false)),
            ("SCTP", other(132, &sctp)),
            ("GRE", other(47, DATA)),
            ("options", Spec { options: 2, ..udp(a, b) }),
            ("the last hop but one", Spec { ttl: 2, ..udp(a, b) }),
            ("as much as fits", Spec { payload: vec![3; 1500 - 40 - 8], ..udp(a, b) }),
        ];
        for (name, packet) in rows {
            let mut rig = Rig::new();
            for _ in 0..2 {
                assert_eq!(
                    rig.send(POD1, packet.entering(POD1)).one(POD2),
                    packet.hop().out_of(POD2),
                    "{name}"
                );
            }
            assert_eq!(rig.counters.flow_misses.read(), 1, "{name}: judged once");
            assert_eq!(rig.counters.flow_hits.read(), 1, "{name}: replayed once");
        }
    }
}

#[test]
fn what_is_not_translated_is_not_verified() {
    for v6 in FAMILIES {
        let packet = udp((P1.at(v6), 40_000), (P2.at(v6), 80));
        let damage = |mut frame: Vec<u8>| {
            *frame.last_mut().unwrap() ^= 1;
            frame
        };
        let mut rig = Rig::new();
        assert_eq!(
            rig.send(POD1, damage(packet.entering(POD1))).one(POD2),
            damage(packet.hop().out_of(POD2))
        );
    }
}

#[test]
fn padding_ends_here() {
    // Where a frame is longer than its packet, only the packet was measured against the MTU.
    for v6 in FAMILIES {
        let mut rig = Rig::new();
        let to = |host: Host| udp((P1.at(v6), 40_000), (host.at(v6), 80));
        let padded = |host| Spec { padding: 1400, ..to(host) }.entering(POD1);
        assert_eq!(rig.send(POD1, padded(P2)).one(POD2), to(P2).hop().out_of(POD2));
        let inner = inside(&rig.send(POD1, padded(R1)).one(UPLINK), NODE_B);
        assert_eq!(inner, to(R1).hop().framed(INNER_DST, INNER_SRC));
        // So in what is said back.
        let request = Spec { padding: 40, ..echo(P1.at(v6), GATEWAY.at(v6), 7, false) };
        let reply = echo(GATEWAY.at(v6), P1.at(v6), 7, true);
        let answer = rig.send(POD1, request.entering(POD1)).answer(POD1, DropReason::Answered);
        assert_eq!(answer, reply.out_of(POD1));
    }
}

#[test]
fn a_pod_and_its_node_talk_whoever_begins() {
    for v6 in FAMILIES {
        for (pod, host) in [(40_000, 10_250), (8080, 40_000)] {
            let forth = segment((P3.at(v6), pod), (NODE_A.at(v6), host));
            let back = segment((NODE_A.at(v6), host), (P3.at(v6), pod));
            // No policy stands between a pod and its own node.
            let mut rig = Rig::new();
            assert_eq!(rig.send(POD3, forth.entering(POD3)).one(HOST), forth.hop().out_of(HOST));
            assert_eq!(rig.send(HOST, back.entering(HOST)).one(POD3), back.hop().out_of(POD3));
            let mut rig = Rig::new();
            assert_eq!(rig.send(HOST, back.entering(HOST)).one(POD3), back.hop().out_of(POD3));
            assert_eq!(rig.send(POD3, forth.entering(POD3)).one(HOST), forth.hop().out_of(HOST));
        }
    }
}

#[test]
fn pods_of_two_nodes_talk_through_a_tunnel() {
    for v6 in FAMILIES {
        let forth = segment((P1.at(v6), 40_000), (R1.at(v6), 80));
        let back = segment((R1.at(v6), 80), (P1.at(v6), 40_000));
        let mut rig = Rig::new();
        let outer = rig.send(POD1, forth.entering(POD1)).one(UPLINK);
        assert_eq!(outer.len(), forth.packet().len() + 64);
        assert_eq!(inside(&outer, NODE_B), forth.hop().framed(INNER_DST, INNER_SRC));
        assert_eq!(rig.send(POD1, forth.entering(POD1)).one(UPLINK), outer, "a flow keeps its outer port");
        assert_eq!(rig.send(UPLINK, back.tunnelled_by(NODE_B)).one(POD1), back.hop().out_of(POD1));
        // The other end begins, from its other address too.
        let first = udp((R2.at(v6), 40_000), (P2.at(v6), 53));
        let tunnel = tunnelled(NODE_B, NODE_B.at(true), VNI, &first.framed(INNER_DST, INNER_SRC));
        assert_eq!(rig.send(UPLINK, tunnel).one(POD2), first.hop().out_of(POD2));
    }
}

#[test]
fn a_tunnel_over_ipv6() {
    for v6 in FAMILIES {
        let forth = udp((P1.at(v6), 40_000), (R4.at(v6), 53));
        let mut rig = Rig::new();
        let outer = rig.send(POD1, forth.entering(POD1)).one(UPLINK);
        assert_eq!(outer.len(), forth.packet().len() + 84);
        assert_eq!(inside(&outer, NODE_D), forth.hop().framed(INNER_DST, INNER_SRC));
        let back = udp((R4.at(v6), 53), (P1.at(v6), 40_000));
        let tunnel = tunnelled(NODE_D, NODE_D.at(true), VNI, &back.framed(INNER_DST, INNER_SRC));
        assert_eq!(rig.send(UPLINK, tunnel).one(POD1), back.hop().out_of(POD1));
    }
}

#[test]
fn flows_spread_over_outer_ports() {
    let mut rig = Rig::new();
    let mut outer_port = |port| {
        let packet = udp((P1.at(false), port), (R1.at(false), 53));
        let frame = rig.send(POD1, packet.entering(POD1)).one(UPLINK);
        u16::from_be_bytes([frame[34], frame[35]])
    };
    let ports: std::collections::BTreeSet<_> = (1000..1064).map(&mut outer_port).collect();
    assert!(ports.len() > 56, "{} outer ports for 64 flows", ports.len());
}

#[test]
fn congestion_in_the_tunnel_is_handed_on() {
    let packet = segment((R1.at(true), 80), (P1.at(true), 40_000));
    let marked = |spec: &Spec, inner_ecn: u8| {
        let mut inner = spec.framed(INNER_DST, INNER_SRC);
        inner[15] |= inner_ecn << 4;
        let mut frame = tunnelled(NODE_B, NODE_B.at(true), VNI, &inner);
        frame[15] |= 3 << 4;
        frame
    };
    let mut expected = packet.hop().out_of(POD1);
    expected[15] |= 3 << 4;
    let mut rig = Rig::new();
    assert_eq!(rig.send(UPLINK, marked(&packet, 2)).one(POD1), expected);
    rig.send(UPLINK, marked(&packet, 0)).ended(DropReason::BadVxlan);
}

#[test]
fn a_service_is_one_of_its_backends_and_replies_come_from_the_service() {
    for v6 in FAMILIES {
        let mut rig = Rig::new();
        let web = (WEB.at(v6), 80);
        let mut chosen = [0, 0];
        for port in 40_000..40_032 {
            let client = (P1.at(v6), port);
            let forth = segment(client, web);
            let reply = segment(web, client).hop().out_of(POD1);
            let outcome = rig.send(POD1, forth.entering(POD1));
            let local = outcome.out.first().is_some_and(|(port, _)| *port == POD2);
            let backend = (if local { P2 } else { R1 }.at(v6), 8080);
            let there = forth.between(client, backend).hop();
            let back = segment(backend, client);
            if local {
                assert_eq!(outcome.one(POD2), there.out_of(POD2));
                assert_eq!(rig.send(POD2, back.entering(POD2)).one(POD1), reply);
            } else {
                assert_eq!(inside(&outcome.one(UPLINK), NODE_B), there.framed(INNER_DST, INNER_SRC));
                assert_eq!(rig.send(UPLINK, back.tunnelled_by(NODE_B)).one(POD1), reply);
            }
            chosen[usize::from(local)] += 1;
        }
        assert!(chosen.iter().all(|count| *count > 4), "both backends have their share: {chosen:?}");
    }
}

#[test]
fn a_udp_service_and_a_datagram_without_a_checksum() {
    for v6 in FAMILIES {
        let (client, service, backend) = ((P1.at(v6), 40_000), (DNS.at(v6), 53), (P2.at(v6), 5353));
        let forth = udp(client, service);
        let mut rig = Rig::new();
        let there = forth.between(client, backend).hop().out_of(POD2);
        assert_eq!(rig.send(POD1, forth.entering(POD1)).one(POD2), there);
        let back = udp(backend, client);
        let reply = udp(service, client).hop().out_of(POD1);
        assert_eq!(rig.send(POD2, back.entering(POD2)).one(POD1), reply);
        if !v6 {
            let unsummed = |mut frame: Vec<u8>| {
                frame[40..42].fill(0);
                frame
            };
            assert_eq!(rig.send(POD1, unsummed(forth.entering(POD1))).one(POD2), unsummed(there));
        }
    }
}

#[test]
fn a_pod_is_its_node_to_the_outside() {
    for v6 in FAMILIES {
        let (client, server) = ((P1.at(v6), 40_000), (X.at(v6), 443));
        for (forth, back) in [(segment as fn(_, _) -> _, segment as fn(_, _) -> _), (udp, udp)] {
            let mut rig = Rig::new();
            let first: Spec = forth(client, server);
            let frame = rig.send(POD1, first.entering(POD1)).one(UPLINK);
            let own = masqueraded(&frame);
            assert_eq!(frame, first.between(own, server).hop().out_of(UPLINK));
            let reply: Spec = back(server, own);
            let expected = reply.between(server, client).hop().out_of(POD1);
            assert_eq!(rig.send(UPLINK, reply.entering(UPLINK)).one(POD1), expected);
            // Another flow gets another port, the same flow its own again.
            let second: Spec = forth((P2.at(v6), 40_000), server);
            assert_ne!(masqueraded(&rig.send(POD2, second.entering(POD2)).one(UPLINK)), own);
            assert_eq!(masqueraded(&rig.send(POD1, first.entering(POD1)).one(UPLINK)), own);
        }
    }
}

#[test]
fn a_masqueraded_reply_is_taken_from_the_uplink_alone() {
    for v6 in FAMILIES {
        let (client, server) = ((P1.at(v6), 40_000), (X.at(v6), 443));
        let mut rig = Rig::new();
        let own = masqueraded(&rig.send(POD1, segment(client, server).entering(POD1)).one(UPLINK));
        rig.send(HOST, segment(server, own).entering(HOST)).ended(DropReason::SpoofedSource);
        rig.send(POD2, segment(server, own).entering(POD2)).ended(DropReason::SpoofedSource);
    }
}

#[test]
fn the_node_itself_goes_out_as_it_is() {
    for v6 in FAMILIES {
        let out = udp((NODE_A.at(v6), 40_000), (X.at(v6), 123));
        let back = udp((X.at(v6), 123), (NODE_A.at(v6), 40_000));
        let mut rig = Rig::new();
        assert_eq!(rig.send(HOST, out.entering(HOST)).one(UPLINK), out.hop().out_of(UPLINK));
        assert_eq!(rig.send(UPLINK, back.entering(UPLINK)).one(HOST), back.hop().out_of(HOST));
    }
}

#[test]
fn an_echo_is_masqueraded_by_its_identifier() {
    for v6 in FAMILIES {
        let mut rig = Rig::new();
        let mut identifiers = vec![];
        // Two pods happen to use the same identifier.
        for (pod, port) in [(P1, POD1), (P2, POD2)] {
            let request = echo(pod.at(v6), X.at(v6), 77, false);
            let frame = rig.send(port, request.entering(port)).one(UPLINK);
            let own = masqueraded(&frame);
            assert_eq!(frame, request.between(own, (X.at(v6), 0)).hop().out_of(UPLINK));
            identifiers.push((port, pod, own));
        }
        assert_ne!(identifiers[0].2, identifiers[1].2);
        for (port, pod, own) in identifiers {
            let reply = echo(X.at(v6), own.0, own.1, true);
            let expected = echo(X.at(v6), pod.at(v6), 77, true).hop().out_of(port);
            assert_eq!(rig.send(UPLINK, reply.entering(UPLINK)).one(port), expected);
        }
    }
}

#[test]
fn a_pod_reaches_itself_through_its_service() {
    for v6 in FAMILIES {
        let (client, service, itself) = ((P1.at(v6), 40_000), (SELF.at(v6), 80), (P1.at(v6), 8080));
        let mut rig = Rig::new();
        let forth = segment(client, service);
        let frame = rig.send(POD1, forth.entering(POD1)).one(POD1);
        let own = masqueraded(&frame);
        assert_eq!(frame, forth.between(own, itself).hop().out_of(POD1));
        let back = segment(itself, own);
        let expected = back.between(service, client).hop().out_of(POD1);
        assert_eq!(rig.send(POD1, back.entering(POD1)).one(POD1), expected);
    }
}

#[test]
fn a_node_port_from_outside() {
    for v6 in FAMILIES {
        let (client, service, backend) = ((X.at(v6), 40_000), (NODE_A.at(v6), NODE_PORT), (P2.at(v6), 8080));
        let mut rig = Rig::new();
        let forth = segment(client, service);
        let frame = rig.send(UPLINK, forth.entering(UPLINK)).one(POD2);
        let own = masqueraded(&frame);
        assert_eq!(frame, forth.between(own, backend).hop().out_of(POD2));
        let back = segment(backend, own);
        let expected = back.between(service, client).hop().out_of(UPLINK);
        assert_eq!(rig.send(POD2, back.entering(POD2)).one(UPLINK), expected);
    }
}

#[test]
fn fragments_follow_their_first_through_a_translation() {
    for v6 in FAMILIES {
        let client = (P1.at(v6), 40_000);
        for (service, backend) in [((DNS.at(v6), 53), (P2.at(v6), 5353)), ((P2.at(v6), 53), (P2.at(v6), 53))]
        {
            let mut rig = Rig::new();
            let whole = Spec { payload: (0..200).collect(), ..udp(client, service) };
            for fragment in [Piece::First, Piece::Later] {
                let piece = Spec { fragment, ..whole.clone() };
                let expected = piece.between(client, backend).hop().out_of(POD2);
                assert_eq!(rig.send(POD1, piece.entering(POD1)).one(POD2), expected, "{fragment:?}");
            }
        }
    }
}

#[test]
fn a_syn_says_no_more_than_the_tunnel_takes() {
    for v6 in FAMILIES {
        let offer = |dst: End, mss: u16| {
            let [high, low] = mss.to_be_bytes();
            // A no-operation first puts the option at an odd offset.
            let options = vec![1, 2, 4, high, low, 1, 1, 0];
            let transport = Transport::Tcp { ports: [40_000, dst.1], flags: SYN, options };
            spec(P1.at(v6), dst.0, transport, &[])
        };
        let most = if v6 { 1390 } else { 1410 };
        for (mss, expected) in [(1460, most), (most + 1, most), (most, most), (536, 536)] {
            let mut rig = Rig::new();
            let frame = rig.send(POD1, offer((R1.at(v6), 80), mss).entering(POD1)).one(UPLINK);
            let there = offer((R1.at(v6), 80), expected).hop();
            assert_eq!(inside(&frame, NODE_B), there.framed(INNER_DST, INNER_SRC), "{mss}");
        }
        let mut rig = Rig::new();
        let local = offer((P2.at(v6), 80), 1460);
        assert_eq!(rig.send(POD1, local.entering(POD1)).one(POD2), local.hop().out_of(POD2));
        // The answer to a SYN is clamped, too.
        let first = syn((R2.at(v6), 9), (P1.at(v6), 80));
        rig.send(UPLINK, first.tunnelled_by(NODE_B)).one(POD1);
        let answer = |mss: u16| {
            let [high, low] = mss.to_be_bytes();
            let options = vec![2, 4, high, low];
            let transport = Transport::Tcp { ports: [80, 9], flags: SYN | ACK, options };
            spec(P1.at(v6), R2.at(v6), transport, &[])
        };
        let frame = rig.send(POD1, answer(1460).entering(POD1)).one(UPLINK);
        assert_eq!(inside(&frame, NODE_B), answer(most).hop().framed(INNER_DST, INNER_SRC));
    }
}

#[test]
fn what_policy_allows_passes_and_its_replies_with_it() {
    for v6 in FAMILIES {
        let (client, db) = ((P1.at(v6), 40_000), (P3.at(v6), 27017));
        let mut rig = Rig::new();
        let (forth, back) = (segment(client, db), segment(db, client));
        // The db may not begin to talk …
        rig.send(POD3, back.entering(POD3)).ended(DropReason::PolicyEgress);
        // … but it may answer, and what was denied before is no obstacle.
        assert_eq!(rig.send(POD1, forth.entering(POD1)).one(POD3), forth.hop().out_of(POD3));
        assert_eq!(rig.send(POD3, back.entering(POD3)).one(POD1), back.hop().out_of(POD1));
    }
}

#[test]
fn a_batch_keeps_its_order() {
    let mut rig = Rig::new();
    let packet = |number: u16| match number % 3 {
        0 => segment((P1.at(false), 1000), (P2.at(false), number)),
        1 => udp((P1.at(true), 1000), (P2.at(true), number)),
        _ => segment((P1.at(false), 1000), (SOLO.at(false), 80)),
    };
    for number in 0..200u16 {
        rig.inject(POD1, &Spec { payload: number.to_be_bytes().into(), ..packet(number) }.entering(POD1));
    }
    let Outcome { out, drops, .. } = rig.run();
    assert_eq!(drops, []);
    let numbers: Vec<_> = out
        .iter()
        .map(|(_, frame)| u16::from_be_bytes([frame[frame.len() - 2], frame[frame.len() - 1]]))
        .collect();
    assert_eq!(numbers, (0..200).collect::<Vec<_>>());
}
