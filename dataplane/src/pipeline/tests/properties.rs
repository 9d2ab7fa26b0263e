//! Laws over random traffic; the fast path beside the slow one; a reply undoes what was done to its packet.

use std::net::IpAddr;

use proptest::prelude::*;

use super::cluster::*;
use super::fixture::{Outcome, Rig, SIZES, Sizes};
use super::packets::*;
use super::seen::{Seen, inside};
use crate::snapshot::PortIndex;
use crate::wire::build::{self, Spec};
use crate::wire::tcp::{ACK, FIN, RST, SYN};

/// What happens to a worker.
#[derive(Debug, Clone)]
pub(super) enum Event {
    Packet(PortIndex, Vec<u8>),
    Turn,
    Second,
    Publish,
    Isolate(bool),
    Known(bool),
    Watch(bool),
    Silent(PortIndex, bool),
    Detach(PortIndex),
    Attach(PortIndex),
    Absent(PortIndex, bool),
}

/// Everyone who may be spoken to.
const HOSTS: [Host; 20] = [
    P1, P2, P3, P4, R1, R2, R3, R4, NOBODY, NODE_A, NODE_B, L, X, GATEWAY, WEB, DNS, EMPTY, SELF, SOLO, AFAR,
];
/// Ports at which somebody may listen.
const LISTENERS: [u16; 6] = [80, 53, 8080, 5353, 27017, NODE_PORT];

/// The way in of whoever sends: by their port, or by a tunnel.
fn enter(src: Host, packet: &Spec) -> (PortIndex, Vec<u8>) {
    match src {
        P1 => (POD1, packet.entering(POD1)),
        P2 => (POD2, packet.entering(POD2)),
        P3 => (POD3, packet.entering(POD3)),
        NODE_A => (HOST, packet.entering(HOST)),
        R1 | R2 => (UPLINK, packet.tunnelled_by(NODE_B)),
        R3 => (UPLINK, packet.tunnelled_by(NODE_C)),
        R4 => (UPLINK, tunnelled(NODE_D, NODE_D.at(true), VNI, &packet.framed(INNER_DST, INNER_SRC))),
        _ => (UPLINK, packet.entering(UPLINK)),
    }
}

fn any_flags() -> impl Strategy<Value = u8> {
    prop::sample::select(vec![SYN, ACK, SYN | ACK, FIN | ACK, RST, RST | ACK])
}

/// A packet of the cluster, right in every way, from its own place.
pub(super) fn any_traffic() -> impl Strategy<Value = (PortIndex, Vec<u8>)> {
    let ends = (prop::sample::select(HOSTS.to_vec()), prop::sample::select(HOSTS.to_vec()));
    let ports = (40_000..40_004u16, prop::sample::select(LISTENERS.to_vec()), any::<bool>());
    let shape =
        (0..4u8, any_flags(), prop::sample::select(vec![0usize, 1, 99, 1390, 1430]), 0..3usize, 0..3u8);
    (any::<bool>(), ends, ports, shape).prop_filter_map(
        "one address twice",
        |(v6, (src, dst), ports, shape)| {
            let (kind, flags, length, piece, padding) = shape;
            if src == dst {
                return None;
            }
            let mut ends = ((src.at(v6), ports.0), (dst.at(v6), ports.1));
            if ports.2 {
                (ends.0.1, ends.1.1) = (ends.1.1, ends.0.1);
            }
            let mut packet = match kind {
                0 | 1 => tcp(ends.0, ends.1, flags),
                2 => udp(ends.0, ends.1),
                _ => echo(ends.0.0, ends.1.0, ports.0, ports.2),
            };
            packet.payload = vec![0x42; length];
            (packet.padding, packet.ttl) = (usize::from(padding) * 40, if padding == 2 { 1 } else { 64 });
            if length > 99 {
                packet.fragment = [build::Piece::Whole, build::Piece::First, build::Piece::Later][piece];
            }
            Some(enter(src, &packet))
        },
    )
}

/// The same with some bytes overwritten, cut or grown, by any port.
fn any_mutant() -> impl Strategy<Value = (PortIndex, Vec<u8>)> {
    let changes = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4);
    let cut = prop::option::of(any::<prop::sample::Index>());
    (any_traffic(), changes, cut, prop::option::of(0..PORTS as PortIndex)).prop_map(
        |((port, mut packet), changes, cut, other)| {
            for (at, value) in changes {
                let at = at.index(packet.len().min(100));
                packet[at] = value;
            }
            if let Some(cut) = cut {
                packet.truncate(cut.index(packet.len() + 1));
            }
            (other.unwrap_or(port), packet)
        },
    )
}

fn any_packet() -> impl Strategy<Value = (PortIndex, Vec<u8>)> {
    let foreign = (0..PORTS as PortIndex, build::any_packet()).prop_map(|(port, (mut frame, _))| {
        frame[..6].copy_from_slice(&mac(port));
        (port, frame)
    });
    let noise = (0..PORTS as PortIndex, prop::collection::vec(any::<u8>(), 0..200));
    // Longer than a chunk: such a packet never comes to a batch.
    let giant = (0..PORTS as PortIndex).prop_map(|port| (port, vec![0x45; 1800]));
    let errors = (any::<bool>(), 0..4u16, any::<bool>()).prop_map(|(v6, port, back)| {
        let quote = udp((P1.at(v6), 40_000 + port), (DNS.at(v6), 53))
            .between((P1.at(v6), 40_000 + port), (P2.at(v6), 5353));
        let (src, dst) = if back { (P2, P1) } else { (P1, P2) };
        enter(src, &error(src.at(v6), dst.at(v6), PORT_UNREACHABLE, &quote.packet()))
    });
    let asks = prop::sample::select(vec![
        (POD1, super::rows::arp(1, P1, GATEWAY, POD1)),
        (POD1, super::rows::solicit(GATEWAY, 255).entering(POD1)),
    ]);
    prop_oneof![
        12 => any_traffic(),
        6 => any_mutant(),
        2 => foreign,
        1 => noise,
        1 => giant,
        2 => errors,
        1 => asks,
    ]
}

pub(super) fn any_event() -> impl Strategy<Value = Event> {
    let port = || 0..PORTS as PortIndex;
    prop_oneof![
        40 => any_packet().prop_map(|(port, packet)| Event::Packet(port, packet)),
        6 => Just(Event::Turn),
        1 => Just(Event::Second),
        2 => Just(Event::Publish),
        1 => any::<bool>().prop_map(Event::Isolate),
        1 => any::<bool>().prop_map(Event::Known),
        1 => any::<bool>().prop_map(Event::Watch),
        1 => (port(), any::<bool>()).prop_map(|(port, silent)| Event::Silent(port, silent)),
        1 => port().prop_map(Event::Detach),
        2 => port().prop_map(Event::Attach),
        1 => (port(), any::<bool>()).prop_map(|(port, absent)| Event::Absent(port, absent)),
    ]
}

/// Packets in the middle of a few flows, over and over: what the express way is for. Some in the other direction, some
/// too long for their way out, some in their last hop, some without a checksum, some hurt, some by somebody else's port.
pub(super) fn any_midstream() -> impl Strategy<Value = Event> {
    let pairs = vec![(P1, P2, 80), (P2, R1, 80), (R2, P2, 80), (P1, WEB, 80), (P1, X, 443), (P3, DNS, 53)];
    let length = prop_oneof![6 => 0..60usize, 1 => 1390..1480usize];
    let shape =
        (any::<bool>(), any::<bool>(), prop::sample::select(vec![64u8, 64, 64, 2, 1]), 0..3usize, length);
    let ends = (prop::sample::select(pairs), 40_000..40_002u16, any::<bool>());
    let hurt = prop::option::weighted(0.1, (any::<prop::sample::Index>(), any::<u8>()));
    let other = prop::option::weighted(0.1, 0..PORTS as PortIndex);
    (ends, shape, hurt, other, 0..8u8).prop_map(
        |(((from, to, port), client_port, back), shape, hurt, other, check)| {
            let (v6, is_tcp, ttl, padding, length) = shape;
            let (mut src, mut dst) = ((from.at(v6), client_port), (to.at(v6), port));
            if back {
                (src, dst) = (dst, src);
            }
            let packet = if is_tcp { tcp(src, dst, ACK) } else { udp(src, dst) };
            let packet = Spec { ttl, padding: padding * 20, payload: vec![0x37; length], ..packet };
            let (mut port, mut frame) = enter(if back { to } else { from }, &packet);
            if let Some(other) = other {
                (port, frame) = (other, packet.entering(other));
            }
            let check_at = if v6 { 60 } else { 40 };
            match check {
                // No checksum at all, and one that becomes zero by some translation: any may.
                0 if !is_tcp => frame[check_at..check_at + 2].fill(0),
                1 if !is_tcp => frame[check_at..check_at + 2].fill(0xff),
                _ => {}
            }
            if let Some((at, value)) = hurt {
                let at = at.index(frame.len().min(60));
                frame[at] = value;
            }
            Event::Packet(port, frame)
        },
    )
}

/// Whatever came in, what goes out is a frame that its port can send and a receiver can read.
fn assert_sendable(outcome: &Outcome) {
    for (port, frame) in &outcome.out {
        assert!((14..=1514).contains(&frame.len()), "{} bytes out of port {port}", frame.len());
        assert_eq!(frame[6..12], mac(*port), "sent by the port itself");
        if frame[12..14] == [8, 0] {
            let length = u16::from_be_bytes([frame[16], frame[17]]) as usize;
            assert_eq!(length, frame.len() - 14, "the IPv4 packet and nothing more: {frame:02x?}");
            let header = &frame[14..14 + (frame[14] & 15) as usize * 4];
            let sum: u32 = header.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum();
            assert_eq!(sum % 0xffff, 0, "the IPv4 header's checksum: {frame:02x?}");
        }
    }
}

/// Has it happen.
pub(super) fn apply(rig: &mut Rig, event: &Event) -> Outcome {
    let listed = |list: &mut Vec<PortIndex>, port: PortIndex, yes: bool| {
        list.retain(|listed| *listed != port);
        if yes {
            list.push(port);
        }
    };
    match event {
        Event::Packet(port, packet) => {
            rig.inject(*port, packet);
        }
        Event::Turn => {
            let outcome = rig.turn();
            assert_sendable(&outcome);
            return outcome;
        }
        Event::Second => rig.wait(1),
        Event::Publish => {
            rig.publish();
        }
        Event::Isolate(yes) => {
            rig.cluster.release();
            if *yes {
                rig.cluster.isolate(SERVER);
            }
        }
        Event::Known(yes) => rig.cluster.known = if *yes { vec![NODE_C, L] } else { vec![] },
        Event::Watch(yes) => rig.cluster.watch_drops = *yes,
        Event::Silent(port, yes) => listed(&mut rig.cluster.silent, *port, *yes),
        Event::Detach(port) => rig.detach(*port),
        Event::Attach(port) if !rig.has(*port) => rig.attach(*port),
        Event::Attach(_) => {}
        Event::Absent(port, yes) => listed(&mut rig.cluster.absent, *port, *yes),
    }
    Outcome::default()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    /// Every turn of the rig asserts the laws, and its end that all frames have come home.
    #[test]
    fn nothing_is_lost_and_nothing_appears(
        batch in prop::sample::select(vec![1usize, 4, 16, 64]),
        chunks in prop::sample::select(vec![8usize, 80, 512]),
        flows in prop::sample::select(vec![16usize, 1024]),
        ring in prop::sample::select(vec![1usize, 16, 256]),
        events in prop::collection::vec(any_event(), 1..250),
    ) {
        let mut rig = Rig::with(Cluster::new(), Sizes { batch, chunks, flows, ring });
        let (mut taken, mut injected, mut detached) = (0, 0, false);
        for event in &events {
            detached |= matches!(event, Event::Detach(_));
            // An oversize packet is thrown away by the port, and counted there.
            let is_taken = matches!(event, Event::Packet(port, packet)
                if rig.has(*port) && packet.len() <= 1792);
            injected += usize::from(is_taken);
            taken += apply(&mut rig, event).taken;
        }
        // In the end every port is there, and every neighbour known or given up.
        rig.cluster.absent.clear();
        rig.publish();
        for _ in 0..64 {
            let outcome = rig.run();
            assert_sendable(&outcome);
            taken += outcome.taken;
            rig.wait(1);
        }
        prop_assert_eq!(rig.held(), 0);
        prop_assert!(taken <= injected);
        if !detached {
            prop_assert_eq!(taken, injected, "all that came was taken");
        }
    }

    /// The express way does what the general way does: to every packet, every counter and every flow.
    #[test]
    fn the_express_way_is_the_general_way(
        batch in prop::sample::select(vec![1usize, 5, 64]),
        flows in prop::sample::select(vec![16usize, 64, 1024]),
        events in prop::collection::vec(prop_oneof![4 => any_event(), 6 => any_midstream()], 1..200),
    ) {
        let sizes = Sizes { batch, flows, ..SIZES };
        let (mut express, mut general) = (Rig::with(Cluster::new(), sizes), Rig::general(Cluster::new(), sizes));
        for event in events.iter().chain([&Event::Turn]) {
            prop_assert_eq!(apply(&mut express, event), apply(&mut general, event));
        }
        let counters = |rig: &Rig| (rig.counters.flow_hits.read(), rig.counters.flow_misses.read());
        prop_assert_eq!(counters(&express), counters(&general));
        let listed = |rig: &Rig| {
            let views = rig.flows.list(usize::MAX).into_iter();
            views.map(|view| (view.entry, view.activity, view.state)).collect::<Vec<_>>()
        };
        prop_assert_eq!(listed(&express), listed(&general));
    }

    /// An entry replayed gives the bytes that judging the packet afresh gives.
    #[test]
    fn a_replay_is_a_judgement(packets in prop::collection::vec(any_first_packet(), 1..60)) {
        let (mut fast, mut slow) = (Rig::new(), Rig::new());
        for (number, (port, packet)) in packets.iter().chain(&packets).enumerate() {
            if number % 7 == 6 {
                // A generation without news.
                fast.publish();
            }
            slow.forget();
            let fresh = slow.send(*port, packet);
            prop_assert_eq!(fast.send(*port, packet), fresh);
        }
        prop_assert!(fast.counters.flow_misses.read() <= slow.counters.flow_misses.read());
    }

    /// What the far end answers comes back as the answer of whom the near end had asked.
    #[test]
    fn a_reply_comes_from_whom_was_asked(
        exchanges in prop::collection::vec(any_exchange(), 1..40),
        publish in any::<bool>(),
    ) {
        let mut rig = Rig::new();
        for (v6, from, to, port, kind) in exchanges {
            let (client, server) = ((from.at(v6), port), (to.0.at(v6), if kind == 2 { port } else { to.1 }));
            let make = |src: End, dst: End, reply: bool| match kind {
                0 => segment(src, dst),
                1 => udp(src, dst),
                _ => echo(src.0, dst.0, if reply { dst.1 } else { src.1 }, reply),
            };
            let (enters_by, frame) = enter(from, &make(client, server, false));
            let Outcome { mut out, drops, .. } = rig.send(enters_by, frame);
            prop_assert_eq!((out.len(), drops), (1, vec![]));
            let (port, frame) = out.remove(0);
            // The far end sees somebody, and answers just that.
            let tunnel = port == UPLINK && !to_outside(&frame);
            let there = Seen::of(&if tunnel { inside(&frame, NODE_B) } else { frame });
            let ports = if kind == 2 { (there.identifier(), there.identifier()) } else { there.ports() };
            let answer = make((there.dst, ports.1), (there.src, ports.0), true);
            let frame = if tunnel { answer.tunnelled_by(NODE_B) } else { answer.entering(port) };
            if publish {
                rig.publish();
            }
            let Outcome { mut out, drops, .. } = rig.send(port, frame);
            prop_assert_eq!((out.len(), drops), (1, vec![]));
            let (port, frame) = out.remove(0);
            prop_assert_eq!(port, enters_by);
            let expected = make(server, client, true).hop();
            if from == R2 {
                prop_assert_eq!(inside(&frame, NODE_B), expected.framed(INNER_DST, INNER_SRC));
            } else {
                prop_assert_eq!(frame, expected.out_of(port));
            }
        }
    }
}

/// Whether a frame of the uplink goes to the gateway as it is.
fn to_outside(frame: &[u8]) -> bool {
    frame[..6] == ROUTER_MAC
}

/// The first packet of a flow that is not masqueraded, or what looks like one: no packet is the reply to another.
fn any_first_packet() -> impl Strategy<Value = (PortIndex, Vec<u8>)> {
    let pods = [P1, P2, P3, R1, R2];
    let others = [P1, P2, P3, P4, R1, R2, R4, NOBODY, NO_SERVICE, WEB, DNS, EMPTY, SOLO, AFAR, GATEWAY];
    let ends = (prop::sample::select(pods.to_vec()), prop::sample::select(others.to_vec()));
    let ports = (40_000..40_003u16, prop::sample::select(LISTENERS.to_vec()));
    let shape = (
        any::<bool>(),
        prop::sample::select(vec![0usize, 23, 1400, 1430]),
        prop::sample::select(vec![64u8, 2, 1, 0]),
    );
    (any::<bool>(), ends, ports, shape).prop_filter_map(
        "not between itself",
        |(v6, (src, dst), ports, shape)| {
            // A backend that asks its own Service is masqueraded.
            let masqueraded = matches!((src, dst), (P2, WEB | DNS | SOLO) | (R1, WEB));
            if src == dst || masqueraded {
                return None;
            }
            let (client, server): ((IpAddr, u16), (IpAddr, u16)) =
                ((src.at(v6), ports.0), (dst.at(v6), ports.1));
            let (is_tcp, length, ttl) = shape;
            let packet = if is_tcp { segment(client, server) } else { udp(client, server) };
            Some(enter(src, &Spec { payload: vec![0x37; length], ttl, ..packet }))
        },
    )
}

/// Family, who asks, whom and where, from which port, and how: TCP, UDP, echo.
fn any_exchange() -> impl Strategy<Value = (bool, Host, (Host, u16), u16, u8)> {
    let of = |from: Host, to: Host, port: u16, kinds: Vec<u8>| (from, (to, port), kinds);
    let pairs = vec![
        of(P1, P2, 80, vec![0, 1, 2]),
        of(P2, R1, 80, vec![0, 1, 2]),
        of(R2, P2, 80, vec![0, 1, 2]),
        of(P1, P3, 27017, vec![0]),
        of(P1, WEB, 80, vec![0]),
        of(P2, WEB, 80, vec![0]),
        of(P1, DNS, 53, vec![1]),
        of(P2, DNS, 53, vec![1]),
        of(P1, SELF, 80, vec![0]),
        of(P2, SELF, 80, vec![0]),
        of(P1, SOLO, 80, vec![0]),
        of(R2, SOLO, 80, vec![0]),
        of(P1, X, 443, vec![0, 1, 2]),
        of(P2, X, 443, vec![0, 1, 2]),
        of(NODE_A, X, 443, vec![0, 1, 2]),
        of(NODE_A, P2, 80, vec![0, 1, 2]),
        of(P1, NODE_A, 10_250, vec![0, 1, 2]),
        of(X, NODE_A, NODE_PORT, vec![0]),
        of(P1, NODE_A, NODE_PORT, vec![0]),
    ];
    let pair = prop::sample::select(pairs)
        .prop_flat_map(|(from, to, kinds)| (Just(from), Just(to), prop::sample::select(kinds)));
    (any::<bool>(), pair, 40_000..40_008u16)
        .prop_map(|(v6, (from, to, kind), port)| (v6, from, to, port, kind))
}
