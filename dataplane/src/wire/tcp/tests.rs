use super::*;
use crate::wire::build::{self, Spec, Transport, between, frame_of, tcp};
use crate::wire::checksum::transport_ok;
use crate::wire::parse::{Packet, parse};
use proptest::prelude::*;

fn parsed_of(frame: &[u8]) -> Parsed {
    match parse(frame) {
        Ok(Packet::Ip(parsed)) => parsed,
        other => panic!("{other:?}: {frame:02x?}"),
    }
}

/// Segments come from `build` with sequence number 0x01020304 and acknowledgment 0x0a0b0c0d (which counts with ACK only).
#[test]
fn resets_as_rows() {
    let acknowledged = [0x0a, 0x0b, 0x0c, 0x0d, 0, 0, 0, 0];
    type Row = (&'static str, u8, &'static [u8], [u8; 8], u8);
    let rows: [Row; 6] = [
        ("a SYN takes one number", SYN, b"", [0, 0, 0, 0, 1, 2, 3, 5], RST | ACK),
        ("a SYN with data", SYN, b"abc", [0, 0, 0, 0, 1, 2, 3, 8], RST | ACK),
        ("a FIN without ACK takes one", FIN, b"ab", [0, 0, 0, 0, 1, 2, 3, 7], RST | ACK),
        ("an ACK", ACK, b"data", acknowledged, RST),
        ("a SYN-ACK", SYN | ACK, b"", acknowledged, RST),
        ("a FIN-ACK", FIN | ACK, b"", acknowledged, RST),
    ];
    for (name, flags, payload, numbers, expected_flags) in rows {
        for v6 in [false, true] {
            for options in [0, 2] {
                let (bytes, parsed) =
                    Spec { options, padding: 3, ..between(v6, tcp(flags), payload) }.frame();
                let (_pool, mut frame) = frame_of(&bytes);
                assert!(reset_in_place(&mut frame, &parsed), "{name}");
                let answer = parsed_of(&frame);
                assert_eq!((answer.src(), answer.dst()), (parsed.dst(), parsed.src()), "{name}");
                assert_eq!((answer.src_port, answer.dst_port), (80, 40_000), "{name}");
                assert_eq!((answer.tcp_flags, answer.ttl), (expected_flags, 64), "{name}");
                let l4 = answer.l4 as usize;
                assert_eq!(frame[l4 + 4..l4 + 12], numbers, "{name}");
                assert_eq!(frame[..12], [build::SRC_MAC, build::DST_MAC].concat(), "{name}");
                assert_eq!((frame.len(), answer.end()), (l4 + 20, l4 + 20), "{name}");
                assert!(transport_ok(&frame, &answer), "{name}");
            }
        }
    }
}

#[test]
fn an_abort_goes_the_segments_way_with_its_numbers() {
    for (flags, expected) in [(SYN, RST), (ACK, RST | ACK), (FIN | ACK, RST | ACK), (SYN | ACK, RST | ACK)] {
        for v6 in [false, true] {
            for options in [0, 2] {
                let (bytes, parsed) =
                    Spec { options, padding: 3, ..between(v6, tcp(flags), b"data") }.frame();
                let (_pool, mut frame) = frame_of(&bytes);
                assert!(abort_in_place(&mut frame, &parsed));
                let abort = parsed_of(&frame);
                assert_eq!((abort.src(), abort.dst()), (parsed.src(), parsed.dst()));
                assert_eq!((abort.src_port, abort.dst_port), (40_000, 80));
                assert_eq!((abort.tcp_flags, abort.ttl), (expected, parsed.ttl));
                let l4 = abort.l4 as usize;
                assert_eq!(frame[l4 + 4..l4 + 12], [1, 2, 3, 4, 0x0a, 0x0b, 0x0c, 0x0d]);
                assert_eq!(frame[..12], bytes[..12]);
                assert_eq!((frame.len(), abort.end()), (l4 + 20, l4 + 20));
                assert!(transport_ok(&frame, &abort));
            }
        }
    }
    for spec in [between(false, tcp(RST), b""), between(false, build::udp(), b"")] {
        let (bytes, parsed) = spec.frame();
        let (_pool, mut frame) = frame_of(&bytes);
        assert!(!abort_in_place(&mut frame, &parsed));
        assert_eq!(frame[..], bytes);
    }
}

#[test]
fn what_is_never_reset() {
    let (bytes, parsed) = between(false, tcp(RST), b"").frame();
    let (_pool, mut frame) = frame_of(&bytes);
    assert!(!reset_in_place(&mut frame, &parsed), "a reset");
    assert_eq!(frame[..], bytes);
    let (bytes, parsed) = between(false, build::udp(), b"").frame();
    assert!(!reset_in_place(&mut frame_of(&bytes).1, &parsed), "UDP");
    let (bytes, parsed) = Spec::v4([10, 0, 0, 1], [224, 0, 0, 1], tcp(SYN), b"").frame();
    assert!(!reset_in_place(&mut frame_of(&bytes).1, &parsed), "to a group");
    let (mut bytes, parsed) = between(false, tcp(SYN), b"").frame();
    bytes[0] |= 1;
    assert!(!reset_in_place(&mut frame_of(&bytes).1, &parsed), "to a group's MAC address");
}

fn syn_with(options: &[u8], v6: bool) -> (Vec<u8>, Parsed) {
    let transport = Transport::Tcp { ports: [40_000, 80], flags: SYN, options: options.to_vec() };
    between(v6, transport, b"").frame()
}

#[test]
fn the_mss_is_clamped_as_rows() {
    type Row = (&'static str, &'static [u8], Option<&'static [u8]>);
    let rows: [Row; 9] = [
        ("alone", &[2, 4, 5, 180], Some(&[2, 4, 5, 130])),
        ("at an odd place", &[1, 2, 4, 5, 180, 1, 1, 0], Some(&[1, 2, 4, 5, 130, 1, 1, 0])),
        ("behind others", &[3, 3, 7, 4, 2, 2, 4, 35], None),
        (
            "behind others, high",
            &[8, 10, 2, 4, 9, 9, 9, 9, 9, 9, 2, 4, 35, 40],
            Some(&[8, 10, 2, 4, 9, 9, 9, 9, 9, 9, 2, 4, 5, 130]),
        ),
        ("small enough", &[2, 4, 5, 130], None),
        ("behind the end of the list", &[0, 2, 4, 35], None),
        ("an option of length 0", &[3, 0, 2, 4, 35, 40, 1, 1], None),
        ("an option over the end", &[3, 40, 2, 4, 35, 40, 1, 1], None),
        ("an MSS of a wrong length", &[2, 3, 35, 1], None),
    ];
    for (name, options, expected) in rows {
        for v6 in [false, true] {
            let (mut frame, parsed) = syn_with(options, v6);
            let before = frame.clone();
            assert_eq!(clamp_mss(&mut frame, &parsed, 1410), expected.is_some(), "{name}");
            let at = parsed.l4 as usize + 20;
            assert_eq!(frame[at..at + options.len()], *expected.unwrap_or(options), "{name}");
            assert!(transport_ok(&frame, &parsed), "{name}");
            if expected.is_none() {
                assert_eq!(frame, before, "{name}");
            }
        }
    }
}

#[test]
fn data_behind_the_options_is_not_taken_for_an_option() {
    let transport = Transport::Tcp { ports: [1, 2], flags: SYN, options: vec![1, 1, 2, 4] };
    let (mut frame, parsed) = between(false, transport, &[0xff, 0xff]).frame();
    let before = frame.clone();
    assert!(!clamp_mss(&mut frame, &parsed, 1000));
    assert_eq!(frame, before);
}

#[test]
fn only_syns_are_clamped() {
    for flags in [ACK, RST, FIN | ACK] {
        let transport = Transport::Tcp { ports: [1, 2], flags, options: vec![2, 4, 35, 40] };
        let (mut frame, parsed) = between(false, transport, b"").frame();
        assert!(!clamp_mss(&mut frame, &parsed, 1000));
    }
}

proptest! {
    #[test]
    fn any_options_are_walked_without_panic_and_keep_the_checksum(
        words in proptest::collection::vec(any::<[u8; 4]>(), 0..=10), max: u16, v6: bool,
    ) {
        let (mut frame, parsed) = syn_with(&words.concat(), v6);
        let _ = clamp_mss(&mut frame, &parsed, max);
        prop_assert!(transport_ok(&frame, &parsed));
    }
}
