//! What becomes of live flows that policy does not allow any more: `penstock.io/revocation`.

use policy_compiler::intent::Revocation;

use super::cluster::*;
use super::fixture::{Outcome, Rig};
use super::packets::*;
use super::seen::inside;
use crate::drops::DropReason::*;
use crate::snapshot::PortIndex;
use crate::wire::build::Spec;
use crate::wire::checksum::transport_ok;
use crate::wire::parse::{Packet, parse};
use crate::wire::tcp::{ACK, FIN, RST, SYN};

const FAMILIES: [bool; 2] = [false, true];

impl Rig {
    /// From now on nobody may come to the servers, as of a policy with that annotation.
    fn revoke(&mut self, revocation: Revocation) {
        self.cluster.isolate(SERVER);
        self.cluster.intent.policies.last_mut().unwrap().revocation = revocation;
        self.publish();
    }

    fn restore(&mut self) {
        self.cluster.release();
        self.publish();
    }
}

/// A connection: who asks and by which port, the packets there and back, and by which port these come.
struct Connection {
    forth: Spec,
    enters: (PortIndex, Vec<u8>),
    back: Spec,
    /// The packets forth as they leave, and by which port they do.
    there: Spec,
}

/// From P1 to P2, plainly or by the Service.
fn connection(v6: bool, port: u16, by_service: bool, payload: &[u8]) -> Connection {
    let client = (P1.at(v6), port);
    let server = if by_service { (P2.at(v6), 8080) } else { (P2.at(v6), 80) };
    let asked = if by_service { (SOLO.at(v6), 80) } else { server };
    let forth = Spec { payload: payload.to_vec(), ..segment(client, asked) };
    let there = forth.between(client, server).hop();
    Connection { enters: (POD1, forth.entering(POD1)), back: segment(server, client), forth, there }
}

/// The same segment with other flags.
fn flagged(of: &Spec, flags: u8) -> Spec {
    let [src, dst] = ends(of);
    tcp(src, dst, flags)
}

fn ends(of: &Spec) -> [End; 2] {
    let parsed = of.frame().1;
    [(parsed.src(), parsed.src_port), (parsed.dst(), parsed.dst_port)]
}

/// What all segments of these tests have: sequence number and acknowledgment.
const NUMBERS: [u8; 8] = [1, 2, 3, 4, 0x0a, 0x0b, 0x0c, 0x0d];

/// The one frame of two that left by a port.
#[track_caller]
fn out_of(out: &[(PortIndex, Vec<u8>)], port: PortIndex) -> &[u8] {
    assert_eq!(out.len(), 2);
    &out.iter().find(|(by, _)| *by == port).unwrap().1
}

/// That a frame is the reset that goes on the segment's way, or the one that answers it.
#[track_caller]
fn assert_reset(frame: &[u8], of: &Spec, answers: bool) {
    let Ok(Packet::Ip(parsed)) = parse(frame) else { panic!("no packet: {frame:02x?}") };
    let [src, dst] = ends(of);
    let (expected, flags) = if answers { ([dst, src], RST) } else { ([src, dst], RST | ACK) };
    assert_eq!([(parsed.src(), parsed.src_port), (parsed.dst(), parsed.dst_port)], expected);
    assert_eq!((parsed.tcp_flags, parsed.end(), frame.len()), (flags, frame.len(), parsed.l4 as usize + 20));
    assert!(transport_ok(frame, &parsed));
    let at = parsed.l4 as usize + 4;
    let (sequence, acknowledgment) = if answers { (&NUMBERS[4..], &[0; 4][..]) } else { NUMBERS.split_at(4) };
    assert_eq!((&frame[at..at + 4], &frame[at + 4..at + 8]), (sequence, acknowledgment));
    assert_eq!(parsed.ttl, if answers { 64 } else { of.ttl });
}

#[test]
fn kept_flows_go_on_and_new_ones_are_denied() {
    for v6 in FAMILIES {
        for by_service in [false, true] {
            let mut rig = Rig::new();
            let live = connection(v6, 40_000, by_service, b"x");
            rig.send(POD1, &live.enters.1).one(POD2);
            rig.send(POD2, live.back.entering(POD2)).one(POD1);
            rig.revoke(Revocation::Keep);
            let later = connection(v6, 40_001, by_service, b"x");
            for _ in 0..3 {
                assert_eq!(rig.send(POD1, &live.enters.1).one(POD2), live.there.out_of(POD2));
                rig.send(POD2, live.back.entering(POD2)).one(POD1);
                rig.send(POD1, &later.enters.1).ended(PolicyIngress);
                // It is still live, and that policy still says so.
                rig.publish();
            }
            // Another connection between the same ends is new.
            for (port, end) in [(POD1, live.forth.clone()), (POD2, live.back.clone())] {
                assert_eq!(rig.send(port, flagged(&end, FIN | ACK).entering(port)).drops, []);
            }
            rig.send(POD1, flagged(&live.forth, SYN).entering(POD1)).ended(PolicyIngress);
            // What was denied is no live flow, whatever the next policy says.
            rig.send(POD1, &later.enters.1).ended(PolicyIngress);
        }
    }
}

#[test]
fn a_drop_is_silent() {
    for v6 in FAMILIES {
        let mut rig = Rig::new();
        let live = connection(v6, 40_000, false, b"x");
        rig.send(POD1, &live.enters.1).one(POD2);
        rig.revoke(Revocation::Drop);
        for _ in 0..2 {
            rig.send(POD1, &live.enters.1).ended(PolicyIngress);
            rig.send(POD2, live.back.entering(POD2)).ended(PolicyIngress);
        }
    }
}

#[test]
fn a_reset_is_sent_to_both_ends_by_the_next_segment_of_either() {
    for v6 in FAMILIES {
        for by_service in [false, true] {
            for by_reply in [false, true] {
                let mut rig = Rig::new();
                let live = connection(v6, 40_000, by_service, b"data");
                rig.send(POD1, &live.enters.1).one(POD2);
                rig.send(POD2, live.back.entering(POD2)).one(POD1);
                rig.revoke(Revocation::Reset);
                let Outcome { out, drops, generated, .. } = if by_reply {
                    rig.send(POD2, live.back.entering(POD2))
                } else {
                    rig.send(POD1, &live.enters.1)
                };
                assert_eq!((drops, generated), (vec![PolicyIngress], 2));
                let [client, service] = ends(&live.forth);
                let back = live.back.between(service, client);
                let (near, far) = if by_reply { (POD2, POD1) } else { (POD1, POD2) };
                let passed = if by_reply { back.hop() } else { live.there.clone() };
                let asked = if by_reply { &live.back } else { &live.forth };
                assert_reset(out_of(&out, far), &passed, false);
                assert_reset(out_of(&out, near), asked, true);
                // Whoever has not heard it is told again; nobody else is.
                let again = rig.send(near, asked.entering(near)).answer(near, PolicyIngress);
                assert_reset(&again, asked, true);
                let other = if by_reply { &live.forth } else { &live.back };
                rig.send(far, other.entering(far)).answer(far, PolicyIngress);
                rig.send(near, flagged(asked, RST).entering(near)).ended(PolicyIngress);
                // Under another generation that denies it, too; and no longer once it is allowed.
                rig.publish();
                rig.send(near, asked.entering(near)).answer(near, PolicyIngress);
                rig.restore();
                rig.send(near, asked.entering(near)).one(far);
            }
        }
    }
}

#[test]
fn a_reset_goes_into_the_tunnel() {
    for v6 in FAMILIES {
        let mut rig = Rig::new();
        let (client, server) = ((R2.at(v6), 40_000), (P2.at(v6), 80));
        let (forth, back) = (segment(client, server), segment(server, client));
        rig.send(UPLINK, forth.tunnelled_by(NODE_B)).one(POD2);
        rig.send(POD2, back.entering(POD2)).one(UPLINK);
        rig.revoke(Revocation::Reset);
        let Outcome { out, drops, .. } = rig.send(UPLINK, forth.tunnelled_by(NODE_B));
        assert_eq!(drops, [PolicyIngress]);
        assert_reset(out_of(&out, POD2), &forth.hop(), false);
        assert_reset(&inside(out_of(&out, UPLINK), NODE_B), &forth, true);
    }
}

#[test]
fn what_is_no_connection_is_dropped_and_what_never_passed_gets_no_reset() {
    for v6 in FAMILIES {
        let mut rig = Rig::new();
        let packet = udp((P1.at(v6), 40_000), (P2.at(v6), 53));
        rig.send(POD1, packet.entering(POD1)).one(POD2);
        rig.revoke(Revocation::Reset);
        rig.send(POD1, packet.entering(POD1)).ended(PolicyIngress);
        let never = connection(v6, 40_001, false, b"x");
        for _ in 0..2 {
            rig.send(POD1, &never.enters.1).ended(PolicyIngress);
            rig.publish();
        }
    }
}
