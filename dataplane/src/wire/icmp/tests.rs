use super::*;
use crate::wire::build::{self, DST_MAC, Piece, SRC_MAC, Spec, Transport, between, frame_of, tcp, udp};
use crate::wire::checksum::{sum, transport_ok};
use crate::wire::parse::{Packet, parse};
use proptest::prelude::*;

fn parsed_of(frame: &[u8]) -> Parsed {
    match parse(frame) {
        Ok(Packet::Ip(parsed)) => parsed,
        other => panic!("{other:?}: {frame:02x?}"),
    }
}

fn icmp(kind: u8) -> Transport {
    Transport::Icmp { kind, code: 0, rest: [0x12, 0x34, 0, 1] }
}

fn router(v6: bool) -> IpAddr {
    if v6 { "fd00::fe".parse().unwrap() } else { "10.0.0.254".parse().unwrap() }
}

/// An error about the packet, as a router makes it.
fn error_about(spec: &Spec, kind: ErrorKind) -> Vec<u8> {
    let (bytes, parsed) = spec.frame();
    let (_pool, mut frame) = frame_of(&bytes);
    assert!(error_in_place(&mut frame, &parsed, kind, router(spec.v6)));
    frame.to_vec()
}

#[test]
fn errors_as_rows() {
    let rows = [
        (ErrorKind::NetUnreachable, [3, 0, 0, 0, 0, 0], [1, 0, 0, 0, 0, 0]),
        (ErrorKind::HostUnreachable, [3, 1, 0, 0, 0, 0], [1, 3, 0, 0, 0, 0]),
        (ErrorKind::PortUnreachable, [3, 3, 0, 0, 0, 0], [1, 4, 0, 0, 0, 0]),
        (ErrorKind::AdminProhibited, [3, 13, 0, 0, 0, 0], [1, 1, 0, 0, 0, 0]),
        (ErrorKind::TimeExceeded, [11, 0, 0, 0, 0, 0], [3, 0, 0, 0, 0, 0]),
        (ErrorKind::TooBig { mtu: 1450 }, [3, 4, 0, 0, 0x05, 0xaa], [2, 0, 0, 0, 0x05, 0xaa]),
        (ErrorKind::TooBig { mtu: 60 }, [3, 4, 0, 0, 0, 68], [2, 0, 0, 0, 0x05, 0x00]),
    ];
    for (kind, in_v4, in_v6) in rows {
        for (v6, expected) in [(false, in_v4), (true, in_v6)] {
            let spec = Spec { padding: 5, ..between(v6, udp(), b"hello") };
            let (offending, before) = spec.frame();
            let frame = error_about(&spec, kind);
            let answer = parsed_of(&frame);
            assert_eq!((answer.src(), answer.dst()), (router(v6), before.src()), "{kind:?}");
            assert_eq!((answer.kind, answer.ttl), (L4Kind::IcmpError, 64), "{kind:?}");
            assert!(transport_ok(&frame, &answer), "{kind:?}");
            let l4 = answer.l4 as usize;
            let [message, code, rest @ ..] = expected;
            assert_eq!(
                (frame[l4], frame[l4 + 1], &frame[l4 + 4..l4 + 8]),
                (message, code, &rest[..]),
                "{kind:?}"
            );
            assert_eq!(
                frame[l4 + 8..],
                offending[14..before.end()],
                "{kind:?}: all of it is quoted, the padding is not"
            );
            assert_eq!(frame[..12], [SRC_MAC, DST_MAC].concat(), "{kind:?}");
        }
    }
}

#[test]
fn a_port_unreachable_on_literal_bytes() {
    #[rustfmt::skip]
    let offending = [
        2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 0x0a, 0x08, 0x00,
        0x45, 0, 0, 0x1c, 0, 0, 0x40, 0, 0x40, 0x11, 0x26, 0xb3, 10, 0, 0, 10, 10, 1, 0, 20,
        0x9c, 0x40, 0, 53, 0, 8, 0, 0,
    ];
    let (_pool, mut frame) = frame_of(&offending);
    let parsed = parsed_of(&offending);
    assert!(error_in_place(&mut frame, &parsed, ErrorKind::PortUnreachable, "10.0.0.254".parse().unwrap()));
    #[rustfmt::skip]
    assert_eq!(frame[..42], [
        2, 0, 0, 0, 0, 0x0a, 2, 0, 0, 0, 0, 1, 0x08, 0x00,
        0x45, 0xc0, 0, 0x38, 0, 0, 0x40, 0, 0x40, 0x01, 0x24, 0xfe, 10, 0, 0, 254, 10, 0, 0, 10,
        3, 3, 0x60, 0x7f, 0, 0, 0, 0,
    ]);
    assert_eq!(frame[42..], offending[14..]);
}

#[test]
fn a_long_packet_is_quoted_as_far_as_the_rfcs_allow() {
    for (v6, most) in [(false, 576), (true, 1280)] {
        let frame = error_about(&between(v6, udp(), &[7; 1400]), ErrorKind::TimeExceeded);
        assert_eq!(frame.len() - 14, most);
        assert_eq!(parsed_of(&frame).ip_len as usize, most);
        assert!(transport_ok(&frame, &parsed_of(&frame)));
    }
}

#[test]
fn what_is_not_answered() {
    let group6 = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
    let rows = [
        ("an error", between(false, icmp(3), &[0; 28])),
        ("an error of IPv6", between(true, icmp(1), &[0; 48])),
        ("a redirect", between(false, icmp(5), &[0; 28])),
        ("a source quench", between(false, icmp(4), &[0; 28])),
        ("a redirect of IPv6", between(true, icmp(137), &[0; 40])),
        ("an unknown error of IPv6", between(true, icmp(100), &[0; 40])),
        ("a later fragment", Spec { fragment: Piece::Later, ..between(false, udp(), &[0; 100]) }),
        ("to a group", Spec::v4([10, 0, 0, 1], [224, 0, 0, 251], udp(), b"")),
        ("to all", Spec::v4([10, 0, 0, 1], [255; 4], udp(), b"")),
        ("to a group of IPv6", Spec::v6(build::V6.0, group6, udp(), b"")),
        ("from nobody", Spec::v6([0; 16], group6, icmp(135), &[0; 16])),
    ];
    for (name, spec) in rows {
        let (bytes, parsed) = spec.frame();
        let (_pool, mut frame) = frame_of(&bytes);
        assert!(!may_answer(&parsed, &frame), "{name}");
        assert!(!error_in_place(&mut frame, &parsed, ErrorKind::TimeExceeded, router(spec.v6)), "{name}");
        assert_eq!(frame[..], bytes, "{name}: unchanged");
    }
    let (mut bytes, parsed) = between(false, udp(), b"").frame();
    assert!(may_answer(&parsed, &bytes));
    assert!(
        !error_in_place(&mut frame_of(&bytes).1, &parsed, ErrorKind::TimeExceeded, router(true)),
        "two families"
    );
    bytes[0] |= 1;
    assert!(!may_answer(&parsed, &bytes), "to a group's MAC address");
    for answered in [icmp(8), icmp(9)] {
        let (bytes, parsed) = between(false, answered, &[]).frame();
        assert!(may_answer(&parsed, &bytes), "queries are answered");
    }
}

#[test]
fn without_room_in_front_there_is_no_error() {
    let (bytes, parsed) = between(false, udp(), b"").frame();
    let (_pool, mut frame) = frame_of(&bytes);
    let room = frame.headroom() - 27;
    assert!(frame.push_front(room));
    frame.copy_within(room.., 0);
    assert!(frame.resize(bytes.len()));
    assert!(!error_in_place(&mut frame, &parsed, ErrorKind::TimeExceeded, router(false)));
    assert_eq!(frame[..], bytes);
}

#[test]
fn an_echo_is_answered_in_both_families() {
    for (v6, request, reply) in [(false, 8, 0), (true, 128, 129)] {
        let spec = Spec { ttl: 3, padding: 4, ..between(v6, icmp(request), b"an odd number of bytes!") };
        let (mut frame, parsed) = spec.frame();
        assert!(echo_reply_in_place(&mut frame, &parsed));
        let answer = parsed_of(&frame);
        assert_eq!((answer.src(), answer.dst()), (parsed.dst(), parsed.src()));
        assert_eq!((answer.ttl, answer.src_port, frame[answer.l4 as usize]), (64, 0x1234, reply));
        assert!(transport_ok(&frame, &answer));
        assert_eq!(frame[..12], [SRC_MAC, DST_MAC].concat());
        assert!(!echo_reply_in_place(&mut frame, &answer), "a reply is not answered");
    }
}

#[test]
fn echoes_that_stay_unanswered() {
    let (mut bytes, parsed) = between(false, icmp(8), b"abc").frame();
    bytes[40] ^= 1;
    assert!(!echo_reply_in_place(&mut bytes, &parsed), "wrong checksum");
    let (mut bytes, parsed) = Spec { options: 2, ..between(false, icmp(8), b"abc") }.frame();
    assert!(!echo_reply_in_place(&mut bytes, &parsed), "IPv4 options");
    let (mut bytes, parsed) = Spec { fragment: Piece::First, ..between(false, icmp(8), &[1; 100]) }.frame();
    assert!(!echo_reply_in_place(&mut bytes, &parsed), "a fragment");
    let (mut bytes, parsed) = Spec::v4([10, 0, 0, 1], [224, 0, 0, 1], icmp(8), b"").frame();
    assert!(!echo_reply_in_place(&mut bytes, &parsed), "a group");
}

#[test]
fn what_an_error_quotes_is_read_with_offsets_in_the_frame() {
    for v6 in [false, true] {
        for transport in [tcp(16), udp(), icmp(if v6 { 128 } else { 8 }), Transport::Other { protocol: 132 }]
        {
            for options in [0, 2] {
                let spec = Spec { options, ..between(v6, transport.clone(), &[0x55; 40]) };
                let (_, inner) = spec.frame();
                let frame = error_about(&spec, ErrorKind::TimeExceeded);
                let outer = parsed_of(&frame);
                let quoted = quoted(&frame, &outer).unwrap();
                let shift = outer.l4 + 8 - 14;
                assert_eq!(quoted.parsed, Parsed { l3: inner.l3 + shift, l4: inner.l4 + shift, ..inner });
                assert_eq!(quoted.end, frame.len());
            }
        }
    }
}

/// Cuts an error's quote to `length` bytes behind the quoted IP header and puts the outer header and checksum right.
fn cut(mut frame: Vec<u8>, length: usize) -> Vec<u8> {
    let outer = parsed_of(&frame);
    let inner = quoted(&frame, &outer).unwrap().parsed;
    frame.truncate(inner.l4 as usize + length);
    let (l3, l4) = (outer.l3 as usize, outer.l4 as usize);
    if outer.v6 {
        let payload = (frame.len() - l3 - 40) as u16;
        frame[l3 + 4..l3 + 6].copy_from_slice(&payload.to_be_bytes());
    } else {
        let total = (frame.len() - l3) as u16;
        frame[l3 + 2..l3 + 4].copy_from_slice(&total.to_be_bytes());
        frame[l3 + 10..l3 + 12].fill(0);
        let check = checksum::check(&frame[l3..l3 + 20]);
        frame[l3 + 10..l3 + 12].copy_from_slice(&check.to_be_bytes());
    }
    let check = checksum::transport_check(&frame, &parsed_of(&frame)).unwrap();
    frame[l4 + 2..l4 + 4].copy_from_slice(&check.to_be_bytes());
    frame
}

#[test]
fn eight_quoted_bytes_suffice_and_seven_do_not() {
    for v6 in [false, true] {
        let frame = cut(error_about(&between(v6, tcp(16), b"data"), ErrorKind::TimeExceeded), 8);
        let inner = quoted(&frame, &parsed_of(&frame)).unwrap().parsed;
        assert_eq!(
            (inner.kind, inner.src_port, inner.dst_port, inner.tcp_flags),
            (L4Kind::Tcp, 40_000, 80, 0)
        );
        let frame = cut(frame, 7);
        assert_eq!(quoted(&frame, &parsed_of(&frame)), None);
    }
}

#[test]
fn quotes_of_which_nothing_can_be_said() {
    let good = error_about(&between(false, udp(), b"data"), ErrorKind::TimeExceeded);
    let outer = parsed_of(&good);
    type Change = fn(&mut Vec<u8>);
    let rows: [(&str, Change); 4] = [
        ("version", |f| f[42] = 0x65),
        ("header length", |f| f[42] = 0x44),
        ("header checksum", |f| f[53] ^= 1),
        ("addresses under the same checksum", |f| f[54] ^= 1),
    ];
    for (name, change) in rows {
        let mut frame = good.clone();
        change(&mut frame);
        assert_eq!(quoted(&frame, &outer), None, "{name}");
    }
    let (not_error, parsed) = between(false, icmp(8), &good[42..]).frame();
    assert_eq!(quoted(&not_error, &parsed), None, "no error");
    let (inner_error, _) = between(false, icmp(3), &good[42..]).frame();
    let (frame, parsed) = between(false, icmp(11), &inner_error[14..]).frame();
    assert_eq!(quoted(&frame, &parsed), None, "an error about an error");
}

#[test]
fn a_quoted_later_fragment_has_no_ports() {
    for v6 in [false, true] {
        let (bytes, inner) = Spec { fragment: Piece::Later, ..between(v6, udp(), &[7; 100]) }.frame();
        let (frame, outer) = between(v6, icmp(if v6 { 3 } else { 11 }), &bytes[14..]).frame();
        let quoted = quoted(&frame, &outer).unwrap();
        assert_eq!(
            (quoted.parsed.kind, quoted.parsed.fragment & FRAGMENT_LATER),
            (L4Kind::Other, FRAGMENT_LATER)
        );
        assert_eq!(quoted.parsed.addresses, inner.addresses);
    }
}

/// The packet to a backend, as its client sent it (to the Service) and as it left (masqueraded, to the backend).
fn before_and_after(v6: bool, which: usize, payload: &[u8]) -> (Spec, Spec) {
    let echo = |identifier: u16| Transport::Icmp {
        kind: if v6 { 128 } else { 8 },
        code: 0,
        rest: [(identifier >> 8) as u8, identifier as u8, 0, 1],
    };
    let (sent, left) = match which {
        0 => (
            Transport::Tcp { ports: [40_000, 80], flags: 16, options: vec![] },
            Transport::Tcp { ports: [61_000, 8080], flags: 16, options: vec![] },
        ),
        1 => (Transport::Udp { ports: [40_000, 53] }, Transport::Udp { ports: [61_000, 5353] }),
        _ => (echo(77), echo(61_000)),
    };
    let address = |low: u8| if v6 { [&[0xfd, 0][..], &[low; 14]].concat() } else { vec![10, low, low, low] };
    let spec = |src: u8, dst: u8, transport| {
        let wide = |low: u8| std::array::from_fn(|i| address(low).get(i).copied().unwrap_or(0));
        Spec { v6, ..Spec::v6(wide(src), wide(dst), transport, payload) }
    };
    (spec(1, 2, sent), spec(3, 4, left))
}

/// What a client must see of an error is the error about the very packet that it sent: byte for byte.
#[test]
fn a_translated_error_is_the_error_about_the_original_packet() {
    for v6 in [false, true] {
        for which in 0..3 {
            for quote in [None, Some(8), Some(12), Some(18)] {
                let (sent, left) = before_and_after(v6, which, b"payload of odd length");
                let error = |spec: &Spec| {
                    let frame = error_about(spec, ErrorKind::TooBig { mtu: 1400 });
                    quote.map_or(frame.clone(), |length| cut(frame, length))
                };
                let (mut frame, expected) = (error(&left), error(&sent));
                let outer = parsed_of(&frame);
                let quoted = quoted(&frame, &outer).unwrap();
                let (_, original) = sent.frame();
                let to = Translation {
                    quoted_src: (original.src(), original.src_port),
                    quoted_dst: (original.dst(), original.dst_port),
                    outer_src: router(v6),
                    outer_dst: original.src(),
                };
                assert!(translate_quoted(&mut frame, &outer, &quoted, &to));
                assert_eq!(frame, expected, "IPv6 {v6}, transport {which}, quote {quote:?}");
            }
        }
    }
}

#[test]
fn a_translation_into_the_other_family_is_refused_unchanged() {
    let mut frame = error_about(&between(false, udp(), b""), ErrorKind::TimeExceeded);
    let before = frame.clone();
    let outer = parsed_of(&frame);
    let quoted = quoted(&frame, &outer).unwrap();
    let to = Translation {
        quoted_src: (router(true), 1),
        quoted_dst: (router(false), 2),
        outer_src: router(false),
        outer_dst: router(false),
    };
    assert!(!translate_quoted(&mut frame, &outer, &quoted, &to));
    assert_eq!(frame, before);
}

proptest! {
    /// Any translation of any quoted packet keeps every checksum that was right.
    #[test]
    fn translated_checksums_are_those_recomputed(
        spec in build::any_spec(), src: [u8; 16], dst: [u8; 16], ports: [u16; 2], outer_src: [u8; 16],
    ) {
        let v6 = spec.v6;
        let address = |bytes: [u8; 16], first: u8| if v6 {
            let mut bytes = bytes;
            bytes[0] = 0x20;
            bytes[15] = first;
            IpAddr::from(bytes)
        } else {
            IpAddr::from([first, bytes[1], bytes[2], bytes[3]])
        };
        let (bytes, inner) = spec.frame();
        if !may_answer(&inner, &bytes) {
            return Ok(());
        }
        let mut frame = error_about(&spec, ErrorKind::TimeExceeded);
        let outer = parsed_of(&frame);
        let Some(quote) = quoted(&frame, &outer) else { return Err(TestCaseError::fail("a valid quote is not read")) };
        let to = Translation {
            quoted_src: (address(src, 10), ports[0]),
            quoted_dst: (address(dst, 11), ports[1]),
            outer_src: address(outer_src, 12),
            outer_dst: address(src, 10),
        };
        prop_assert!(translate_quoted(&mut frame, &outer, &quote, &to));
        let renewed = parsed_of(&frame);
        prop_assert!(transport_ok(&frame, &renewed));
        let again = quoted(&frame, &renewed);
        let Some(again) = again else { return Err(TestCaseError::fail("the translated quote is not read")) };
        prop_assert_eq!((again.parsed.src(), again.parsed.dst()), (to.quoted_src.0, to.quoted_dst.0));
        if matches!(again.parsed.kind, L4Kind::Tcp | L4Kind::Udp) {
            prop_assert_eq!([again.parsed.src_port, again.parsed.dst_port], ports);
        }
        if !v6 {
            prop_assert_eq!(sum(&frame[again.parsed.l3 as usize..again.parsed.l4 as usize]), 0xffff);
        }
        // Whole quotes of unfragmented packets: their transport must still add up.
        if again.parsed.end() == again.end {
            prop_assert!(transport_ok(&frame, &again.parsed));
        }
    }
}
