use super::*;
use crate::wire::build::{V6, any_packet, between, frame_of, udp};
use crate::wire::parse::{Packet, parse};
use proptest::prelude::*;

const OUTER: (Mac, Mac) = ([2, 1, 0, 0, 0, 1], [2, 1, 0, 0, 0, 2]);
const INNER: (Mac, Mac) = ([2, 2, 0, 0, 0, 1], [2, 2, 0, 0, 0, 2]);

fn v4() -> [u8; TEMPLATE_V4_LEN] {
    let (src, dst) = (Ipv4Addr::new(192, 168, 0, 1), Ipv4Addr::new(192, 168, 0, 199));
    template_v4(OUTER.0, OUTER.1, src, dst, 0x12_3456, INNER.0, INNER.1)
}

fn v6() -> [u8; TEMPLATE_V6_LEN] {
    template_v6(OUTER.0, OUTER.1, V6.0.into(), V6.1.into(), 0x12_3456, INNER.0, INNER.1)
}

fn parsed_of(frame: &[u8]) -> Parsed {
    match parse(frame) {
        Ok(Packet::Ip(parsed)) => parsed,
        other => panic!("{other:?}: {frame:02x?}"),
    }
}

fn put_in(frame: &mut Frame, over_v6: bool, hash: u32) -> bool {
    let Some(inside) = Inside::of(frame, hash) else { return false };
    if over_v6 { encapsulate_v6(frame, &v6(), inside) } else { encapsulate_v4(frame, &v4(), inside) }
}

#[test]
fn a_packet_in_its_tunnel_on_literal_bytes() {
    let (inner, _) = between(false, udp(), b"hello").frame();
    let (_pool, mut frame) = frame_of(&inner);
    assert!(put_in(&mut frame, false, 0xffff_ffff));
    #[rustfmt::skip]
    assert_eq!(frame[..64], [
        2, 1, 0, 0, 0, 2, 2, 1, 0, 0, 0, 1, 0x08, 0x00,
        0x45, 0x00, 0x00, 0x53, 0x00, 0x00, 0x40, 0x00, 0x40, 0x11, 0xb8, 0x81, 192, 168, 0, 1, 192, 168, 0, 199,
        0xff, 0xff, 0x12, 0xb5, 0x00, 0x3f, 0x00, 0x00,
        0x08, 0, 0, 0, 0x12, 0x34, 0x56, 0,
        2, 2, 0, 0, 0, 2, 2, 2, 0, 0, 0, 1, 0x08, 0x00,
    ]);
    assert_eq!(frame[64..], inner[14..]);
    assert_eq!(checksum::sum(&frame[14..34]), 0xffff);
}

#[test]
fn over_ipv6_the_flow_label_carries_the_hash() {
    let (inner, _) = between(true, udp(), b"hello").frame();
    let (_pool, mut frame) = frame_of(&inner);
    assert!(put_in(&mut frame, true, 0xabc0_1234));
    assert_eq!(frame[14..22], [0x60, 0x00, 0x12, 0x34, 0, 83, 17, 64]);
    assert_eq!(frame[54..70], [0xea, 0xf0, 0x12, 0xb5, 0, 83, 0, 0, 8, 0, 0, 0, 0x12, 0x34, 0x56, 0]);
    assert_eq!(frame[82..84], [0x86, 0xdd]);
    assert_eq!(frame[84..], inner[14..]);
}

#[test]
fn source_ports_stay_in_the_dynamic_range_and_use_all_of_it() {
    let ports: std::collections::HashSet<u16> = (0..1u32 << 16).map(|high| source_port(high << 16)).collect();
    assert_eq!(ports.len(), 1 << 14);
    assert!(ports.iter().all(|&port| port >= 49_152));
}

#[test]
fn what_has_no_room_is_refused_unchanged() {
    let (inner, _) = between(false, udp(), b"hello").frame();
    let (_pool, mut frame) = frame_of(&inner);
    assert!(frame.push_front(afxdp_driver::HEADROOM - 49) && frame.pull_front(0));
    let length = frame.len();
    assert!(!put_in(&mut frame, false, 1));
    assert_eq!(frame.len(), length);
    let (_pool, mut short) = frame_of(&inner[..15]);
    assert!(!put_in(&mut short, false, 1));
}

#[test]
fn bad_tunnel_packets_as_rows() {
    let (inner, _) = between(false, udp(), b"hello").frame();
    let (_pool, mut frame) = frame_of(&inner);
    assert!(put_in(&mut frame, false, 7));
    let good = parsed_of(&frame);
    let inside = Inner { vni: 0x12_3456, offset: 50, len: 47, congestion: false };
    assert_eq!(decapsulate(&frame, &good), Ok(inside));

    let mut other_bits = frame.to_vec();
    other_bits[42..46].fill(0xff);
    other_bits[49] = 0xff;
    assert_eq!(decapsulate(&other_bits, &good), Ok(inside), "reserved bits are ignored");
    let mut no_flag = frame.to_vec();
    no_flag[42] = 0xf7;
    assert_eq!(decapsulate(&no_flag, &good), Err(DropReason::BadVxlan), "no I flag");
    let mut short = frame.to_vec();
    short[39] = 29;
    assert_eq!(decapsulate(&short, &good), Err(DropReason::BadVxlan), "no inner Ethernet header");
    assert_eq!(decapsulate(&frame[..60], &good), Err(DropReason::BadVxlan), "cut off");
    let tcp = Parsed { kind: L4Kind::Tcp, ..good };
    assert_eq!(decapsulate(&frame, &tcp), Err(DropReason::BadVxlan), "not UDP");
    let fragment = Parsed { fragment: FRAGMENT, ..good };
    assert_eq!(decapsulate(&frame, &fragment), Err(DropReason::BadFragment));
}

#[test]
fn congestion_comes_out_where_it_is_understood() {
    for v6 in [false, true] {
        for (inner_ecn, marked) in [(0u8, false), (1, true), (2, true), (3, true)] {
            let (mut inner, _) = between(v6, udp(), b"hello").frame();
            if v6 {
                inner[15] |= inner_ecn << 4;
            } else {
                inner[15] = inner_ecn;
                let check = u16::from_be_bytes([inner[24], inner[25]]);
                let check = checksum::adjust(check, inner_ecn as u16);
                inner[24..26].copy_from_slice(&check.to_be_bytes());
            }
            let (_pool, mut frame) = frame_of(&inner);
            assert!(put_in(&mut frame, false, 7));
            assert_eq!(frame[15], inner_ecn, "ECN goes out with the tunnel");
            assert_eq!(checksum::sum(&frame[14..34]), 0xffff);
            assert_eq!(decapsulate(&frame, &parsed_of(&frame)).unwrap().congestion, inner_ecn == 3);
            assert_eq!(mark_congestion(&mut inner), marked);
            let ecn = if v6 { inner[15] >> 4 & 3 } else { inner[15] & 3 };
            assert_eq!(ecn, if marked { 3 } else { 0 });
            parsed_of(&inner);
        }
    }
    assert!(!mark_congestion(&mut []));
}

proptest! {
    #[test]
    fn what_goes_in_comes_out((inner, _) in any_packet(), hash: u32, over_v6: bool) {
        let (_pool, mut frame) = frame_of(&inner);
        prop_assert!(put_in(&mut frame, over_v6, hash));
        let outer = parsed_of(&frame);
        prop_assert_eq!((outer.src_port, outer.dst_port), (source_port(hash), PORT));
        prop_assert_eq!(outer.end(), frame.len());
        if !over_v6 {
            prop_assert!(checksum::transport_ok(&frame, &outer));
        }
        let inside = decapsulate(&frame, &outer).unwrap();
        prop_assert_eq!((inside.vni, inside.len), (0x12_3456, inner.len()));
        prop_assert!(frame.pull_front(inside.offset));
        prop_assert_eq!(&frame[..6], &INNER.1);
        prop_assert_eq!(&frame[6..12], &INNER.0);
        prop_assert_eq!(&frame[12..], &inner[12..]);
    }
}
