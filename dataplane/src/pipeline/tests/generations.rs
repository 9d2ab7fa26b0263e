//! What changes under a live flow: policies, backends, neighbours; and flows that begin again.

use super::cluster::*;
use super::fixture::{Outcome, Rig};
use super::packets::*;
use super::seen::inside;
use crate::drops::DropReason::*;
use crate::wire::build::Spec;
use crate::wire::tcp::{ACK, FIN, RST, SYN};

const FAMILIES: [bool; 2] = [false, true];

#[test]
fn a_revoked_policy_stops_the_next_packet_and_a_restored_one_lets_it_pass() {
    for v6 in FAMILIES {
        let (client, server) = ((P1.at(v6), 40_000), (P2.at(v6), 80));
        let (forth, back) = (segment(client, server), segment(server, client));
        let mut rig = Rig::new();
        for _ in 0..3 {
            assert_eq!(rig.send(POD1, forth.entering(POD1)).one(POD2), forth.hop().out_of(POD2));
            assert_eq!(rig.send(POD2, back.entering(POD2)).one(POD1), back.hop().out_of(POD1));
            rig.cluster.isolate(SERVER);
            rig.publish();
            // The reply is of the same flow, whichever comes first.
            rig.send(POD2, back.entering(POD2)).ended(PolicyIngress);
            rig.send(POD1, forth.entering(POD1)).ended(PolicyIngress);
            rig.cluster.release();
            rig.publish();
        }
    }
}

#[test]
fn a_revoked_policy_stops_tunnels_and_services() {
    for v6 in FAMILIES {
        let mut rig = Rig::new();
        let tunnelled = segment((R2.at(v6), 40_000), (P2.at(v6), 80));
        let (client, service, backend) = ((P1.at(v6), 40_000), (SOLO.at(v6), 80), (P2.at(v6), 8080));
        let served = segment(client, service);
        for _ in 0..2 {
            assert_eq!(
                rig.send(UPLINK, tunnelled.tunnelled_by(NODE_B)).one(POD2),
                tunnelled.hop().out_of(POD2)
            );
            let there = served.between(client, backend).hop();
            assert_eq!(rig.send(POD1, served.entering(POD1)).one(POD2), there.out_of(POD2));
            rig.cluster.isolate(SERVER);
            rig.publish();
            rig.send(UPLINK, tunnelled.tunnelled_by(NODE_B)).ended(PolicyIngress);
            rig.send(POD1, served.entering(POD1)).ended(PolicyIngress);
            rig.send(POD2, segment(backend, client).entering(POD2)).ended(PolicyIngress);
            rig.cluster.release();
            rig.publish();
        }
    }
}

#[test]
fn a_denial_is_replayed_and_ends_with_its_generation() {
    for v6 in FAMILIES {
        let mut rig = Rig::new();
        let packet = segment((P2.at(v6), 40_000), (P3.at(v6), 27017));
        for _ in 0..3 {
            rig.send(POD2, packet.entering(POD2)).ended(PolicyIngress);
        }
        assert_eq!((rig.counters.flow_misses.read(), rig.counters.flow_hits.read()), (1, 2));
        rig.cluster.intent.policies.clear();
        rig.publish();
        assert_eq!(rig.send(POD2, packet.entering(POD2)).one(POD3), packet.hop().out_of(POD3));
    }
}

#[test]
fn every_flow_is_judged_once_a_generation() {
    let mut rig = Rig::new();
    let packet = segment((P1.at(false), 40_000), (SOLO.at(false), 80)).entering(POD1);
    for generation in 1..=3 {
        for _ in 0..4 {
            rig.send(POD1, &packet).one(POD2);
        }
        assert_eq!(rig.counters.flow_misses.read(), generation);
        assert_eq!(rig.counters.flow_hits.read(), 3 * generation);
        rig.publish();
    }
}

/// Sends a segment of P1 to WEB; answers with the backend that it came to.
#[track_caller]
fn backend_of(rig: &mut Rig, client: End, flags: u8) -> Host {
    let web = (WEB.at(client.0.is_ipv6()), 80);
    let packet = tcp(client, web, flags);
    let mut outcome = rig.send(POD1, packet.entering(POD1));
    assert_eq!((outcome.out.len(), &outcome.drops[..]), (1, &[][..]));
    let (port, frame) = outcome.out.remove(0);
    let host = match port {
        POD2 => P2,
        POD3 => P3,
        _ => R1,
    };
    let there = packet.between(client, (host.at(client.0.is_ipv6()), 8080)).hop();
    if port == UPLINK {
        assert_eq!(inside(&frame, NODE_B), there.framed(INNER_DST, INNER_SRC));
    } else {
        assert_eq!(frame, there.out_of(port));
    }
    host
}

/// A client of WEB whose backend is P2.
fn client_of_p2(rig: &mut Rig, v6: bool) -> End {
    let clients = (40_000..40_100).map(|port| (P1.at(v6), port));
    let mut found = clients.filter(|client| backend_of(rig, *client, ACK) == P2);
    found.next().expect("one in two")
}

fn set_backends(rig: &mut Rig, hosts: &[Host]) {
    rig.cluster.service("web").for_each(|service| {
        service.backends =
            hosts.iter().map(|host| backend(host.at(service.frontends[0].ipv6), 8080)).collect();
    });
    rig.publish();
}

#[test]
fn a_live_flow_keeps_its_backend_when_others_come() {
    for v6 in FAMILIES {
        let mut rig = Rig::new();
        set_backends(&mut rig, &[P2]);
        let clients: Vec<_> = (40_000..40_032).map(|port| (P1.at(v6), port)).collect();
        for client in &clients {
            assert_eq!(backend_of(&mut rig, *client, ACK), P2);
        }
        set_backends(&mut rig, &[P2, R1]);
        for client in &clients {
            assert_eq!(backend_of(&mut rig, *client, ACK), P2, "a live flow stays");
        }
        rig.forget();
        let moved = clients.iter().filter(|client| backend_of(&mut rig, **client, ACK) == R1).count();
        assert!(moved > 4, "new flows would have gone to both: {moved}");
    }
}

#[test]
fn a_flow_whose_backend_is_gone_moves_and_the_old_backend_is_not_heard() {
    for v6 in FAMILIES {
        let mut rig = Rig::new();
        let client = client_of_p2(&mut rig, v6);
        set_backends(&mut rig, &[R1]);
        let stale = segment((P2.at(v6), 8080), client).entering(POD2);
        assert_eq!(backend_of(&mut rig, client, ACK), R1);
        // What the old backend sends is a flow of its own now, to the client as such.
        let own = segment((P2.at(v6), 8080), client);
        assert_eq!(rig.send(POD2, &stale).one(POD1), own.hop().out_of(POD1));
        let mut rig = Rig::new();
        let client = client_of_p2(&mut rig, v6);
        set_backends(&mut rig, &[R1]);
        rig.send(POD2, segment((P2.at(v6), 8080), client).entering(POD2)).ended(ServiceDrop);
    }
}

#[test]
fn a_flow_whose_backend_changes_its_port_moves() {
    for v6 in FAMILIES {
        let (client, service) = ((P1.at(v6), 40_000), (SOLO.at(v6), 80));
        let packet = segment(client, service);
        let mut rig = Rig::new();
        for port in [8080, 9090] {
            rig.cluster.service("solo").for_each(|service| service.backends[0].port = port);
            rig.publish();
            let there = packet.between(client, (P2.at(v6), port)).hop();
            assert_eq!(rig.send(POD1, packet.entering(POD1)).one(POD2), there.out_of(POD2));
        }
    }
}

#[test]
fn a_flow_whose_service_is_gone_is_refused() {
    for v6 in FAMILIES {
        let mut rig = Rig::new();
        let client = client_of_p2(&mut rig, v6);
        set_backends(&mut rig, &[]);
        let packet = segment(client, (WEB.at(v6), 80)).entering(POD1);
        rig.send(POD1, packet).answer(POD1, ServiceReject);
    }
}

#[test]
fn a_terminating_backend_keeps_its_live_flows_and_gets_no_others() {
    for v6 in FAMILIES {
        let mut rig = Rig::new();
        let client = client_of_p2(&mut rig, v6);
        rig.cluster.service("web").for_each(|service| {
            let backend = &mut service.backends[0];
            (backend.ready, backend.terminating) = (false, true);
        });
        rig.publish();
        assert_eq!(backend_of(&mut rig, client, ACK), P2);
        // A repeated SYN is of the live flow; after both have ended it, it opens another.
        assert_eq!(backend_of(&mut rig, client, SYN), P2);
        assert_eq!(backend_of(&mut rig, client, FIN | ACK), P2);
        assert_eq!(backend_of(&mut rig, client, SYN), P2, "closed from one end only");
        let end = tcp((P2.at(v6), 8080), client, FIN | ACK);
        rig.send(POD2, end.entering(POD2)).one(POD1);
        assert_eq!(backend_of(&mut rig, client, SYN), R1);
    }
}

#[test]
fn a_syn_begins_anew_where_a_flow_was_reset() {
    for v6 in FAMILIES {
        let (client, server) = ((P1.at(v6), 40_000), (P2.at(v6), 80));
        let mut rig = Rig::new();
        let mut judged = |from, to, packet: Spec| {
            let before = rig.counters.flow_misses.read();
            assert_eq!(rig.send(from, packet.entering(from)).one(to), packet.hop().out_of(to));
            rig.counters.flow_misses.read() - before
        };
        assert_eq!(judged(POD1, POD2, syn(client, server)), 1);
        assert_eq!(judged(POD1, POD2, syn(client, server)), 0, "sent again");
        assert_eq!(judged(POD2, POD1, tcp(server, client, RST | ACK)), 0);
        assert_eq!(judged(POD1, POD2, syn(client, server)), 1, "a new connection");
        assert_eq!(judged(POD2, POD1, segment(server, client)), 0, "and its replies");
    }
}

#[test]
fn a_held_packet_leaves_with_the_snapshot_that_knows_its_neighbour() {
    for v6 in FAMILIES {
        let mut rig = Rig::new();
        let packets: Vec<_> = (0..3).map(|port| udp((P1.at(v6), 1000 + port), (R3.at(v6), 53))).collect();
        for packet in &packets {
            rig.send(POD1, packet.entering(POD1));
        }
        assert_eq!(rig.held(), 3);
        // A snapshot without news holds them on, and does not begin their second anew.
        rig.publish();
        assert_eq!(rig.run(), Outcome::default());
        assert_eq!(rig.held(), 3);
        rig.cluster.known.push(NODE_C);
        rig.publish();
        let Outcome { out, drops, .. } = rig.run();
        assert_eq!(drops, []);
        let inner: Vec<_> = out.iter().map(|(_, frame)| inside(frame, NODE_C)).collect();
        let expected: Vec<_> =
            packets.iter().map(|packet| packet.hop().framed(INNER_DST, INNER_SRC)).collect();
        assert_eq!(inner, expected, "in their order");
        assert_eq!(rig.held(), 0);
    }
}

#[test]
fn no_more_than_sixty_four_packets_are_held() {
    let mut rig = Rig::new();
    for port in 0..70 {
        rig.inject(POD1, &udp((P1.at(false), port), (R3.at(false), 53)).entering(POD1));
    }
    assert_eq!(rig.run().drops, [NeighbourUnresolved; 6]);
    assert_eq!(rig.held(), 64);
    rig.wait(1);
    assert_eq!(rig.run().drops, [NeighbourUnresolved; 64]);
}

#[test]
fn a_port_comes_and_goes() {
    for v6 in FAMILIES {
        let packet = segment((P1.at(v6), 40_000), (P2.at(v6), 80));
        let mut rig = Rig::new();
        rig.send(POD1, packet.entering(POD1)).one(POD2);
        rig.detach(POD2);
        rig.send(POD1, packet.entering(POD1)).ended(PortGone);
        rig.cluster.absent = vec![POD2];
        rig.publish();
        rig.send(POD1, packet.entering(POD1)).ended(NoPort);
        rig.attach(POD2);
        rig.send(POD1, packet.entering(POD1)).ended(NoPort);
        rig.cluster.absent.clear();
        rig.publish();
        assert_eq!(rig.send(POD1, packet.entering(POD1)).one(POD2), packet.hop().out_of(POD2));
    }
}
