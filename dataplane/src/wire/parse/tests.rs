use super::*;
use crate::wire::build::{self, Piece, Spec, Transport, between, tcp, udp};
use crate::wire::checksum;

/// 10.0.0.10:40000 → 10.1.0.20:80, SYN, DF, TTL 64, padded to 60 bytes.
#[rustfmt::skip]
const SYN: [u8; 60] = [
    0x02, 0x00, 0x00, 0x00, 0x00, 0x01, 0x02, 0x00, 0x00, 0x00, 0x00, 0x0a, 0x08, 0x00,
    0x45, 0x00, 0x00, 0x28, 0x1d, 0x1d, 0x40, 0x00, 0x40, 0x06, 0x09, 0x95,
    0x0a, 0x00, 0x00, 0x0a, 0x0a, 0x01, 0x00, 0x14,
    0x9c, 0x40, 0x00, 0x50, 0x00, 0x00, 0x00, 0x01, 0x00, 0x00, 0x00, 0x00,
    0x50, 0x02, 0xff, 0xff, 0x00, 0x00, 0x00, 0x00,
    0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
];

#[test]
fn a_tcp_syn_on_literal_bytes() {
    let Ok(Packet::Ip(parsed)) = parse(&SYN) else { panic!("{:?}", parse(&SYN)) };
    assert_eq!(parsed.src(), "10.0.0.10".parse::<IpAddr>().unwrap());
    assert_eq!(parsed.dst(), "10.1.0.20".parse::<IpAddr>().unwrap());
    let expected = Parsed {
        addresses: [u64::from_ne_bytes([10, 0, 0, 10, 10, 1, 0, 20]), 0, 0, 0],
        src_port: 40_000,
        dst_port: 80,
        ip_len: 40,
        l3: 14,
        l4: 34,
        protocol: 6,
        kind: L4Kind::Tcp,
        v6: false,
        ttl: 64,
        tcp_flags: 2,
        fragment: DONT_FRAGMENT,
    };
    assert_eq!(parsed, expected);
    assert_eq!(parsed.end(), 54);
    assert!(
        parse_plain_v4(SYN.first_chunk().unwrap(), SYN.len()).is_some(),
        "the common case takes the fast way"
    );
}

#[test]
fn the_common_case_of_ipv6_takes_the_fast_way() {
    for transport in [tcp(16), udp()] {
        let (frame, parsed) = between(true, transport, &[7; 20]).frame();
        assert_eq!(parse_plain_v6(frame.first_chunk().unwrap(), frame.len()), Some(parsed));
    }
}

#[test]
fn a_header_sum_of_two_full_halves_is_ones() {
    // Each pair of 32-bit halves adds up to 0xffffffff before the last fold.
    let (first, second) = ([0x45, 0, 0, 0, 0xba, 0xff, 0xff, 0xff], [0; 8]);
    assert!(header_sum_is_ones(first, second, [0; 4]));
    assert!(!header_sum_is_ones(first, second, [0, 0, 0, 1]));
}

#[test]
fn a_parsed_packet_stays_small() {
    assert!(size_of::<Parsed>() <= 48, "{}", size_of::<Parsed>());
}

type Change = fn(&mut Vec<u8>);

fn assert_rows(frame: &[u8], rows: &[(&str, DropReason, Change)]) {
    for (name, reason, change) in rows {
        let mut bytes = frame.to_vec();
        change(&mut bytes);
        if bytes.get(12..14) == Some(&[8, 0]) && *reason != DropReason::BadIpChecksum && bytes.len() > 34 {
            bytes[24..26].fill(0);
            let length = ((bytes[14] & 15) as usize * 4).clamp(20, bytes.len() - 14);
            let check = checksum::check(&bytes[14..14 + length]);
            bytes[24..26].copy_from_slice(&check.to_be_bytes());
        }
        assert_eq!(parse(&bytes), Err(*reason), "{name}");
    }
}

#[test]
fn lies_of_ipv4_and_tcp() {
    assert_rows(
        &SYN,
        &[
            ("no Ethernet header", DropReason::Truncated, |f| f.truncate(13)),
            ("no IP header", DropReason::Truncated, |f| f.truncate(14)),
            ("half an IP header", DropReason::Truncated, |f| f.truncate(30)),
            ("half a TCP header", DropReason::Truncated, |f| f.truncate(50)),
            ("VLAN", DropReason::VlanTagged, |f| f[12..14].copy_from_slice(&[0x81, 0x00])),
            ("QinQ", DropReason::VlanTagged, |f| f[12..14].copy_from_slice(&[0x88, 0xa8])),
            ("802.3 length", DropReason::EtherType, |f| f[12..14].copy_from_slice(&[0x00, 0x2e])),
            ("LLDP", DropReason::EtherType, |f| f[12..14].copy_from_slice(&[0x88, 0xcc])),
            ("version 6", DropReason::BadIpHeader, |f| f[14] = 0x65),
            ("header of 16 bytes", DropReason::BadIpHeader, |f| f[14] = 0x44),
            ("header longer than the packet", DropReason::BadLength, |f| f[14] = 0x4b),
            ("header over the end", DropReason::Truncated, |f| f[14] = 0x4f),
            ("total length below the header", DropReason::BadLength, |f| f[17] = 19),
            ("total length beyond the frame", DropReason::Truncated, |f| f[17] = 47),
            ("total length inside of TCP", DropReason::Truncated, |f| f[17] = 39),
            ("checksum", DropReason::BadIpChecksum, |f| f[25] ^= 1),
            ("another TTL under the same checksum", DropReason::BadIpChecksum, |f| f[22] = 63),
            ("from multicast", DropReason::BadSource, |f| f[26] = 224),
            ("from broadcast", DropReason::BadSource, |f| f[26..30].fill(255)),
            ("from loopback", DropReason::BadSource, |f| f[26] = 127),
            ("from nobody", DropReason::BadSource, |f| f[26..30].fill(0)),
            ("land", DropReason::BadSource, |f| f.copy_within(26..30, 30)),
            ("data offset 4", DropReason::BadTcpHeader, |f| f[46] = 0x40),
            ("data offset over the end", DropReason::BadTcpHeader, |f| f[46] = 0x60),
            ("SYN and FIN", DropReason::BadTcpHeader, |f| f[47] = 3),
            ("SYN and RST", DropReason::BadTcpHeader, |f| f[47] = 6),
            ("null scan", DropReason::BadTcpHeader, |f| f[47] = 0),
            ("only PSH and URG", DropReason::BadTcpHeader, |f| f[47] = 0x28),
            ("tiny first fragment", DropReason::BadFragment, |f| {
                f[17] = 28;
                f[20] = 0x20;
            }),
            ("second fragment in the TCP header", DropReason::BadFragment, |f| {
                f[20..22].copy_from_slice(&[0, 1])
            }),
            ("uneven fragment with more to come", DropReason::BadFragment, |f| {
                f[17] = 41;
                f[20] = 0x20;
            }),
            ("fragment beyond 64 KiB", DropReason::BadFragment, |f| f[20..22].copy_from_slice(&[0x1f, 0xff])),
            ("empty fragment", DropReason::BadFragment, |f| {
                f[17] = 20;
                f[20..22].copy_from_slice(&[0x20, 0x10]);
            }),
        ],
    );
}

#[test]
fn lies_of_udp() {
    let (frame, _) = between(false, udp(), b"12345678").frame();
    assert_rows(
        &frame,
        &[
            ("UDP length 0", DropReason::BadLength, |f| f[39] = 0),
            ("UDP length below its header", DropReason::BadLength, |f| f[39] = 7),
            ("UDP length beyond the packet", DropReason::BadLength, |f| f[39] = 17),
            ("half a UDP header", DropReason::Truncated, |f| f[17] = 26),
        ],
    );
    let mut shorter = frame.clone();
    shorter[39] = 12;
    assert!(parse(&shorter).is_ok(), "bytes behind the datagram are allowed");
}

#[test]
fn lies_of_ipv6() {
    // The shorter takes the general way from the start.
    for payload in [&b"12345678"[..], &[7; 40]] {
        lies_about(&between(true, udp(), payload).frame().0);
    }
}

fn lies_about(frame: &[u8]) {
    assert_rows(
        frame,
        &[
            ("half an IP header", DropReason::Truncated, |f| f.truncate(50)),
            ("version 4", DropReason::BadIpHeader, |f| f[14] = 0x45),
            ("payload length beyond the frame", DropReason::Truncated, |f| f[19] += 1),
            ("payload length 0: a jumbogram or a lie", DropReason::BadLength, |f| f[19] = 0),
            ("payload length inside of UDP", DropReason::Truncated, |f| f[19] = 7),
            ("UDP length 0, as in a jumbogram", DropReason::BadLength, |f| f[59] = 0),
            ("UDP length beyond the packet", DropReason::BadLength, |f| f[59] += 1),
            ("from multicast", DropReason::BadSource, |f| f[22] = 0xff),
            ("from nobody", DropReason::BadSource, |f| f[22..38].fill(0)),
            ("from loopback", DropReason::BadSource, |f| {
                f[22..38].fill(0);
                f[37] = 1;
            }),
            ("from an IPv4-mapped address", DropReason::BadSource, |f| {
                f[22..32].fill(0);
                f[32..34].fill(0xff);
            }),
            ("land", DropReason::BadSource, |f| f.copy_within(22..38, 38)),
            ("routing header with a segment left", DropReason::Ipv6Extension, |f| {
                f[20] = 43;
                f[54..62].copy_from_slice(&[17, 0, 0, 1, 0, 0, 0, 0]);
            }),
            ("hop-by-hop header behind another", DropReason::Ipv6Extension, |f| {
                f[20] = 60;
                f[54..62].copy_from_slice(&[0, 0, 1, 4, 0, 0, 0, 0]);
            }),
            ("extension over the end", DropReason::BadLength, |f| {
                f[20] = 60;
                f[54..56].copy_from_slice(&[17, 9]);
            }),
            ("first fragment without its transport", DropReason::BadFragment, |f| {
                f[20] = 44;
                f[54..62].copy_from_slice(&[6, 0, 0, 1, 0, 0, 0, 1]);
            }),
        ],
    );
}

#[test]
fn duplicate_address_detection_passes_as_icmp_and_echo_from_nobody_does_not() {
    let mut group = [0; 16];
    (group[0], group[1], group[15]) = (0xff, 2, 1);
    for (kind, expected) in [(135, true), (143, true), (128, false), (1, false)] {
        let transport = Transport::Icmp { kind, code: 0, rest: [0; 4] };
        let (frame, parsed) = Spec::v6([0; 16], group, transport, &[0; 16]).frame();
        let result = parse(&frame);
        assert_eq!(
            result,
            if expected { Ok(Packet::Ip(parsed)) } else { Err(DropReason::BadSource) },
            "type {kind}"
        );
    }
}

#[test]
fn arp_comes_out_as_arp() {
    let mut frame = SYN;
    frame[13] = 6;
    assert_eq!(parse(&frame), Ok(Packet::Arp));
}

#[test]
fn options_extensions_and_fragments_are_read_in_both_families() {
    for v6 in [false, true] {
        for (options, fragment) in
            [(0, Piece::Whole), (3, Piece::Whole), (2, Piece::First), (0, Piece::Later)]
        {
            let (frame, parsed) = Spec { options, fragment, ..between(v6, tcp(16), &[7; 100]) }.frame();
            assert_eq!(parse(&frame), Ok(Packet::Ip(parsed)), "IPv6 {v6}, options {options}, {fragment:?}");
        }
    }
}

#[test]
fn every_truncation_of_every_packet_is_refused() {
    for frame in build::one_of_each() {
        for length in 0..frame.len() {
            assert_eq!(parse(&frame[..length]), Err(DropReason::Truncated), "{length} of {frame:02x?}");
        }
    }
}
