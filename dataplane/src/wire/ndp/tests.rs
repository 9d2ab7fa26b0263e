use super::*;
use crate::wire::build::frame_of;
use crate::wire::parse::{Packet, parse as parse_frame};
use proptest::prelude::*;

const ASKER: Mac = [2, 0, 0, 0, 0, 0x0a];
const US: Mac = [2, 0, 0, 0, 0, 0x01];
const ASKER_IP: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 0x0a);
const OUR_IP: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1);

/// fd00::a (02:00:00:00:00:0a) asks for fd00::1.
#[rustfmt::skip]
const QUESTION: [u8; 86] = [
    0x33, 0x33, 0xff, 0, 0, 1, 2, 0, 0, 0, 0, 0x0a, 0x86, 0xdd,
    0x60, 0, 0, 0, 0, 32, 58, 255,
    0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x0a,
    0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, 0, 0, 1,
    135, 0, 0x7d, 0x87, 0, 0, 0, 0, 0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1,
    1, 1, 2, 0, 0, 0, 0, 0x0a,
];

fn parsed_of(frame: &[u8]) -> Parsed {
    match parse_frame(frame) {
        Ok(Packet::Ip(parsed)) => parsed,
        other => panic!("{other:?}: {frame:02x?}"),
    }
}

fn read(frame: &[u8]) -> Result<Option<Message>, DropReason> {
    parse(frame, &parsed_of(frame))
}

/// The checksum put right after a change.
fn repaired(mut frame: Vec<u8>) -> Vec<u8> {
    frame[56..58].fill(0);
    let check = checksum::transport_check(&frame, &parsed_of(&frame)).unwrap();
    frame[56..58].copy_from_slice(&check.to_be_bytes());
    frame
}

#[test]
fn a_solicitation_is_built_read_and_answered_on_literal_bytes() {
    let (_pool, mut frame) = frame_of(&[]);
    assert!(solicit(&mut frame, ASKER, ASKER_IP, OUR_IP));
    assert_eq!(frame[..], QUESTION);
    let question = Solicitation { target: OUR_IP, src: ASKER_IP, source_link: Some(ASKER) };
    assert_eq!(read(&frame), Ok(Some(Message::Solicitation(question))));

    let parsed = parsed_of(&frame);
    assert!(advertise_in_place(&mut frame, &parsed, US, true));
    assert_eq!(frame[..14], [2, 0, 0, 0, 0, 0x0a, 2, 0, 0, 0, 0, 1, 0x86, 0xdd]);
    let answer = parsed_of(&frame);
    assert_eq!((answer.src(), answer.dst(), answer.ttl), (OUR_IP.into(), ASKER_IP.into(), 255));
    let expected =
        Advertisement { target: OUR_IP, target_link: Some(US), router: true, solicited: true, replace: true };
    assert_eq!(read(&frame), Ok(Some(Message::Advertisement(expected))));
    let parsed = parsed_of(&frame);
    assert!(!advertise_in_place(&mut frame, &parsed, US, true), "an answer is not answered");
}

#[test]
fn a_probe_is_answered_to_all_nodes() {
    let (_pool, mut frame) = frame_of(&[]);
    assert!(solicit(&mut frame, ASKER, Ipv6Addr::UNSPECIFIED, OUR_IP));
    let Ok(Some(Message::Solicitation(probe))) = read(&frame) else { panic!("{frame:02x?}") };
    assert!(probe.is_probe() && probe.source_link.is_none());
    let parsed = parsed_of(&frame);
    assert!(advertise_in_place(&mut frame, &parsed, US, false));
    assert_eq!(frame[..6], [0x33, 0x33, 0, 0, 0, 1]);
    assert_eq!(parsed_of(&frame).dst(), IpAddr::V6(ALL_NODES));
    let expected = Advertisement {
        target: OUR_IP,
        target_link: Some(US),
        router: false,
        solicited: false,
        replace: true,
    };
    assert_eq!(read(&frame), Ok(Some(Message::Advertisement(expected))));
}

#[test]
fn confirmations_and_announcements_are_valid() {
    let (_pool, mut frame) = frame_of(&[]);
    assert!(confirm(&mut frame, US, OUR_IP, ASKER_IP, ASKER));
    assert_eq!(frame[..6], ASKER);
    assert!(matches!(read(&frame), Ok(Some(Message::Solicitation(_)))));
    assert!(announcement(&mut frame, US, OUR_IP, true));
    let expected = Advertisement {
        target: OUR_IP,
        target_link: Some(US),
        router: true,
        solicited: false,
        replace: true,
    };
    assert_eq!(read(&frame), Ok(Some(Message::Advertisement(expected))));
}

type Change = fn(&mut Vec<u8>);

#[test]
fn broken_rules_as_rows() {
    let rows: [(&str, Change); 9] = [
        ("hop limit 254: from beyond the link", |f| f[21] = 254),
        ("code 1", |f| f[55] = 1),
        ("target a group", |f| f[62] = 0xff),
        ("no target", |f| f[62..78].fill(0)),
        ("option of length 0", |f| f[79] = 0),
        ("option over the end", |f| f[79] = 2),
        ("half an option", |f| {
            f.truncate(79);
            f[19] = 25;
        }),
        ("no whole message", |f| {
            f.truncate(77);
            f[19] = 23;
        }),
        ("probe with a link-layer address", |f| f[22..38].fill(0)),
    ];
    for (name, change) in rows {
        let mut frame = QUESTION.to_vec();
        change(&mut frame);
        assert_eq!(read(&repaired(frame)), Err(DropReason::NeighbourDiscovery), "{name}");
    }
    let mut frame = QUESTION.to_vec();
    frame[85] ^= 1;
    assert_eq!(read(&frame), Err(DropReason::BadL4Checksum));
}

#[test]
fn broken_rules_of_probes_and_advertisements() {
    // A probe to its target's own address instead of the group.
    let (_pool, mut frame) = frame_of(&[]);
    assert!(solicit(&mut frame, ASKER, Ipv6Addr::UNSPECIFIED, OUR_IP));
    let mut bytes = frame.to_vec();
    bytes[38..54].copy_from_slice(&OUR_IP.octets());
    assert_eq!(read(&repaired(bytes)), Err(DropReason::NeighbourDiscovery));
    // An answer to all that claims to have been asked for.
    assert!(announcement(&mut frame, US, OUR_IP, false));
    let mut bytes = frame.to_vec();
    bytes[58] |= SOLICITED;
    assert_eq!(read(&repaired(bytes)), Err(DropReason::NeighbourDiscovery));
}

#[test]
fn other_icmpv6_is_none_of_ours() {
    for kind in [133, 134, 137, 143] {
        let mut frame = QUESTION.to_vec();
        frame[54] = kind;
        assert_eq!(read(&repaired(frame)), Ok(None), "type {kind}");
    }
}

#[test]
fn unknown_options_are_stepped_over() {
    let (head, option) = QUESTION.split_at(78);
    let mut frame = [head, &[14, 2], &[0; 14], option].concat();
    frame[19] = 48;
    let Ok(Some(Message::Solicitation(question))) = read(&repaired(frame)) else { panic!() };
    assert_eq!(question.source_link, Some(ASKER));
}

proptest! {
    #[test]
    fn any_options_are_read_without_panic(options in proptest::collection::vec(any::<u8>(), 0..64)) {
        let mut frame = [&QUESTION[..78], &options].concat();
        frame[19] = 24 + options.len() as u8;
        let _ = read(&repaired(frame));
    }

    #[test]
    fn what_is_asked_is_understood(src: [u8; 15], target: [u8; 15], mac: [u8; 5]) {
        let address = |low: [u8; 15]| Ipv6Addr::from(u128::from_be_bytes(std::array::from_fn(|i| if i == 0 { 0x20 } else { low[i - 1] })));
        let (src, target) = (address(src), address(target));
        let mac = [2, mac[0], mac[1], mac[2], mac[3], mac[4]];
        let (_pool, mut frame) = frame_of(&[]);
        prop_assert!(solicit(&mut frame, mac, src, target));
        let expected = Solicitation { target, src, source_link: Some(mac) };
        prop_assert_eq!(read(&frame), Ok(Some(Message::Solicitation(expected))));
    }
}
