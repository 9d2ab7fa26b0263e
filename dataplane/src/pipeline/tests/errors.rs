//! ICMP errors go with the flow they quote, and read as if there were no translation.

use super::cluster::*;
use super::fixture::Rig;
use super::packets::*;
use super::seen::{Seen, inside};
use crate::drops::DropReason::*;
use crate::wire::build::Spec;

const FAMILIES: [bool; 2] = [false, true];

/// What a packet looks like to the router where it ends.
fn expired(packet: &Spec) -> Spec {
    Spec { ttl: 1, ..packet.clone() }
}

#[test]
fn a_router_outside_speaks_of_a_masqueraded_packet() {
    for v6 in FAMILIES {
        let server = (X.at(v6), 33_434);
        for packet in [udp((P1.at(v6), 40_000), server), segment((P1.at(v6), 40_000), server)] {
            let mut rig = Rig::new();
            let frame = rig.send(POD1, packet.entering(POD1)).one(UPLINK);
            let seen = Seen::of(&frame);
            let own = (seen.src, seen.ports().0);
            let quote = |packet: &Spec| expired(packet).packet();
            let message = error(ROUTER.at(v6), own.0, TIME_EXCEEDED, &quote(&packet.between(own, server)));
            let expected = error(ROUTER.at(v6), P1.at(v6), TIME_EXCEEDED, &quote(&packet)).hop();
            assert_eq!(rig.send(UPLINK, message.entering(UPLINK)).one(POD1), expected.out_of(POD1));
            // Eight bytes of the transport are enough (RFC 792); what is cut off is not made up.
            let cut = if v6 { 48 } else { 28 };
            let short =
                error(ROUTER.at(v6), own.0, TIME_EXCEEDED, &quote(&packet.between(own, server))[..cut]);
            let answer = rig.send(UPLINK, short.entering(UPLINK)).one(POD1);
            let quoted = Seen::of(&answer).quoted();
            assert_eq!((quoted.src, quoted.ports()), (P1.at(v6), (40_000, 33_434)));
            assert_eq!(quoted.transport.len(), 8);
        }
    }
}

#[test]
fn a_router_outside_speaks_of_a_masqueraded_echo() {
    for v6 in FAMILIES {
        let mut rig = Rig::new();
        let packet = echo(P1.at(v6), X.at(v6), 77, false);
        let frame = rig.send(POD1, packet.entering(POD1)).one(UPLINK);
        let own = (NODE_A.at(v6), Seen::of(&frame).identifier());
        let quote = expired(&packet.between(own, (X.at(v6), 0))).packet();
        let message = error(ROUTER.at(v6), own.0, TIME_EXCEEDED, &quote);
        let expected = error(ROUTER.at(v6), P1.at(v6), TIME_EXCEEDED, &expired(&packet).packet()).hop();
        assert_eq!(rig.send(UPLINK, message.entering(UPLINK)).one(POD1), expected.out_of(POD1));
    }
}

#[test]
fn a_backend_refuses_in_the_name_of_its_service() {
    for v6 in FAMILIES {
        let (client, service, backend) = ((P1.at(v6), 40_000), (DNS.at(v6), 53), (P2.at(v6), 5353));
        let mut rig = Rig::new();
        let packet = udp(client, service);
        let there = packet.between(client, backend).hop();
        assert_eq!(rig.send(POD1, packet.entering(POD1)).one(POD2), there.out_of(POD2));
        let message = error(backend.0, client.0, PORT_UNREACHABLE, &there.packet());
        let expected = error(service.0, client.0, PORT_UNREACHABLE, &packet.hop().packet()).hop();
        assert_eq!(rig.send(POD2, message.entering(POD2)).one(POD1), expected.out_of(POD1));
    }
}

#[test]
fn a_backend_on_another_node_refuses_through_the_tunnel() {
    for v6 in FAMILIES {
        let mut rig = Rig::new();
        rig.cluster
            .service("dns")
            .for_each(|service| service.backends = vec![backend(R1.at(service.frontends[0].ipv6), 5353)]);
        rig.publish();
        let (client, service, backend) = ((P1.at(v6), 40_000), (DNS.at(v6), 53), (R1.at(v6), 5353));
        let packet = udp(client, service);
        let there = packet.between(client, backend).hop();
        let outer = rig.send(POD1, packet.entering(POD1)).one(UPLINK);
        assert_eq!(inside(&outer, NODE_B), there.framed(INNER_DST, INNER_SRC));
        let message = error(backend.0, client.0, PORT_UNREACHABLE, &there.packet());
        let expected = error(service.0, client.0, PORT_UNREACHABLE, &packet.hop().packet()).hop();
        assert_eq!(rig.send(UPLINK, message.tunnelled_by(NODE_B)).one(POD1), expected.out_of(POD1));
    }
}

#[test]
fn a_pod_refuses_what_came_from_outside() {
    for v6 in FAMILIES {
        let (client, server) = ((P1.at(v6), 40_000), (X.at(v6), 53));
        let mut rig = Rig::new();
        let frame = rig.send(POD1, udp(client, server).entering(POD1)).one(UPLINK);
        let own = (NODE_A.at(v6), Seen::of(&frame).ports().0);
        let reply = udp(server, own);
        let here = reply.between(server, client).hop();
        assert_eq!(rig.send(UPLINK, reply.entering(UPLINK)).one(POD1), here.out_of(POD1));
        // The pod has closed its socket meanwhile: nobody outside may learn its address by that.
        let message = error(client.0, server.0, PORT_UNREACHABLE, &here.packet());
        let expected = error(own.0, server.0, PORT_UNREACHABLE, &reply.hop().packet()).hop();
        assert_eq!(rig.send(POD1, message.entering(POD1)).one(UPLINK), expected.out_of(UPLINK));
    }
}

#[test]
fn an_error_between_pods_passes_as_it_is() {
    for v6 in FAMILIES {
        let mut rig = Rig::new();
        let packet = udp((P1.at(v6), 40_000), (P2.at(v6), 53)).hop();
        rig.send(POD1, Spec { ttl: 64, ..packet.clone() }.entering(POD1)).one(POD2);
        let message = error(P2.at(v6), P1.at(v6), PORT_UNREACHABLE, &packet.packet());
        assert_eq!(rig.send(POD2, message.entering(POD2)).one(POD1), message.hop().out_of(POD1));
    }
}

#[test]
fn nobody_speaks_of_the_flows_of_others() {
    for v6 in FAMILIES {
        let mut rig = Rig::new();
        let packet = udp((P1.at(v6), 40_000), (P2.at(v6), 53));
        rig.send(POD1, packet.entering(POD1)).one(POD2);
        let about = |src: Host, dst: Host| error(src.at(v6), dst.at(v6), PORT_UNREACHABLE, &packet.packet());
        // A third pod, which policy keeps from the client; the outside; a wrong receiver; in another's name.
        rig.send(POD3, about(P3, P1).entering(POD3)).ended(IcmpUnrelated);
        rig.send(UPLINK, about(X, P1).entering(UPLINK)).ended(IcmpUnrelated);
        rig.send(UPLINK, about(R1, P1).tunnelled_by(NODE_B)).ended(IcmpUnrelated);
        rig.send(POD2, about(P2, P3).entering(POD2)).ended(IcmpUnrelated);
        rig.send(POD3, about(P2, P1).entering(POD3)).ended(SpoofedSource);
    }
}

#[test]
fn an_error_of_a_denied_flow_is_denied() {
    for v6 in FAMILIES {
        let mut rig = Rig::new();
        let packet = udp((P1.at(v6), 40_000), (P2.at(v6), 53));
        rig.send(POD1, packet.entering(POD1)).one(POD2);
        rig.cluster.isolate(SERVER);
        rig.publish();
        let message = error(P2.at(v6), P1.at(v6), PORT_UNREACHABLE, &packet.packet());
        rig.send(POD2, message.entering(POD2)).ended(PolicyIngress);
    }
}
