use super::*;
use crate::wire::build::{Piece as Part, Spec, between, tcp, udp};
use crate::wire::parse::{L4Kind, Packet, parse};

fn fragments(v6: bool) -> [(Vec<u8>, Parsed); 2] {
    let spec = Spec { options: 1, ..between(v6, udp(), &[7; 200]) };
    [Part::First, Part::Later].map(|fragment| Spec { fragment, ..spec.clone() }.frame())
}

const PORTS: Ports = Ports { src: 40_000, dst: 53, protocol: 17 };

#[test]
fn later_fragments_follow_their_first_in_both_families() {
    let mut table = FragmentTable::new(64, 7);
    for v6 in [false, true] {
        let [(first, first_parsed), (later, later_parsed)] = fragments(v6);
        assert_eq!(
            table.lookup(&later, &later_parsed, 100),
            Err(DropReason::FragmentUnknown),
            "it came too early"
        );
        table.insert(&first, &first_parsed, 100);
        assert_eq!(table.lookup(&later, &later_parsed, 100), Ok(PORTS));
        assert_eq!(table.lookup(&later, &later_parsed, 130), Ok(PORTS));
        assert_eq!(
            table.lookup(&later, &later_parsed, 131),
            Err(DropReason::FragmentUnknown),
            "it came too late"
        );
        table.insert(&first, &first_parsed, 131);
        assert_eq!(table.lookup(&later, &later_parsed, 131), Ok(PORTS), "renewed");
    }
}

#[test]
fn fragments_of_other_packets_do_not_follow() {
    let mut table = FragmentTable::new(64, 7);
    let [(first, parsed), (later, later_parsed)] = fragments(false);
    table.insert(&first, &parsed, 0);
    let mut other_id = later.clone();
    other_id[19] ^= 1;
    assert_eq!(table.lookup(&other_id, &later_parsed, 0), Err(DropReason::FragmentUnknown));
    let other_protocol = Parsed { protocol: 6, ..later_parsed };
    assert_eq!(table.lookup(&later, &other_protocol, 0), Err(DropReason::FragmentUnknown));
    let other_source = Parsed { addresses: [1, 0, 0, 0], ..later_parsed };
    assert_eq!(table.lookup(&later, &other_source, 0), Err(DropReason::FragmentUnknown));
}

#[test]
fn a_later_fragment_inside_of_the_first_is_refused() {
    let mut table = FragmentTable::new(64, 7);
    for v6 in [false, true] {
        let [(first, parsed), (mut later, later_parsed)] = fragments(v6);
        table.insert(&first, &parsed, 0);
        // The first ends at 64: 56 is the last place inside of it.
        if v6 {
            later[64..66].copy_from_slice(&56u16.to_be_bytes());
        } else {
            later[20..22].copy_from_slice(&7u16.to_be_bytes());
        }
        assert_eq!(table.lookup(&later, &later_parsed, 0), Err(DropReason::BadFragment), "IPv6 {v6}");
    }
}

#[test]
fn whole_packets_and_later_fragments_are_not_noted() {
    let mut table = FragmentTable::new(1, 7);
    let (whole, parsed) = between(false, tcp(16), b"").frame();
    assert_eq!(Piece::of(&whole, &parsed), None);
    table.insert(&whole, &parsed, 0);
    let [_, (later, later_parsed)] = fragments(false);
    table.insert(&later, &later_parsed, 0);
    assert!(table.sets.iter().flatten().all(|entry| !entry.used));
    assert_eq!(table.lookup(&whole, &parsed, 0), Err(DropReason::BadFragment));
}

#[test]
fn a_full_table_gives_up_its_oldest() {
    let mut table = FragmentTable::new(1, 7);
    assert_eq!(table.capacity(), WAYS);
    let [(first, parsed), (later, later_parsed)] = fragments(false);
    let numbered = |bytes: &[u8], number: usize| {
        let mut bytes = bytes.to_vec();
        bytes[18..20].copy_from_slice(&(number as u16).to_be_bytes());
        bytes
    };
    for number in 0..=WAYS {
        table.insert(&numbered(&first, number), &parsed, number as u32);
    }
    for number in 0..=WAYS {
        let found = table.lookup(&numbered(&later, number), &later_parsed, 9);
        assert_eq!(found.is_ok(), number > 0, "packet {number}");
    }
}

#[test]
fn in_ipv6_a_header_behind_the_fragment_header_does_not_part_them() {
    // First: fragment header, destination options, UDP. Later: fragment header that names the options, then payload.
    let (plain, _) = between(true, udp(), &[7; 200]).frame();
    let fragment = |place: [u8; 2], payload: &[u8]| {
        let mut bytes = [&plain[..54], &[60, 0, place[0], place[1], 0, 0, 0, 9], payload].concat();
        bytes[20] = 44;
        let length = bytes.len() as u16 - 54;
        bytes[18..20].copy_from_slice(&length.to_be_bytes());
        let Ok(Packet::Ip(parsed)) = parse(&bytes) else { panic!("{:?}", parse(&bytes)) };
        (bytes, parsed)
    };
    let options = [17, 0, 1, 4, 0, 0, 0, 0];
    let (first, first_parsed) = fragment([0, 1], &[&options, &plain[54..110]].concat());
    let (later, later_parsed) = fragment([0, 64], &plain[110..]);
    assert_eq!((first_parsed.kind, first_parsed.protocol), (L4Kind::Udp, 17));
    assert_eq!((later_parsed.kind, later_parsed.protocol), (L4Kind::Other, 60));
    let mut table = FragmentTable::new(64, 7);
    table.insert(&first, &first_parsed, 0);
    assert_eq!(table.lookup(&later, &later_parsed, 0), Ok(PORTS));
}
