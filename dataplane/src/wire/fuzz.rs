//! Bytes that nobody meant well: arbitrary, mutated, captured, and those of past crashes. Everything that reads a frame
//! reads each of them, and the parser must agree with its slow twin on all.

use std::fs;
use std::path::{Path, PathBuf};

use proptest::prelude::*;

use super::build::{any_packet, frame_of};
use super::fragment::FragmentTable;
use super::icmp::{self, ErrorKind, Translation};
use super::parse::{Packet, Parsed, parse, parse_any};
use super::twin::{self, Outcome};
use super::{arp, checksum, ndp, tcp, vxlan};

/// Holds the parser against its twin, and its fast way against the general one; then lets everything else read the frame.
pub(crate) fn exercise(bytes: &[u8]) {
    let outcome = parse(bytes);
    assert_eq!(outcome, parse_any(bytes), "the fast way and the general way differ on {bytes:02x?}");
    match (outcome, twin::read(bytes)) {
        (Ok(Packet::Ip(parsed)), Outcome::Ip(view)) => {
            assert_eq!(view_of(&parsed), view, "{bytes:02x?}");
            // The longest frame that fits in a chunk; longer ones never reach a worker in one piece.
            if bytes.len() <= 1600 {
                exercise_ip(bytes, &parsed);
            }
        }
        (Ok(Packet::Arp), Outcome::Arp) => {
            let _ = arp::parse(bytes);
        }
        (Err(_), Outcome::Refused) => {}
        (ours, twins) => panic!("{ours:?} but the twin says {twins:?}: {bytes:02x?}"),
    }
}

fn view_of(parsed: &Parsed) -> twin::View {
    twin::View {
        src: parsed.src(),
        dst: parsed.dst(),
        ports: (parsed.src_port, parsed.dst_port),
        ip_len: parsed.ip_len as usize,
        l4: parsed.l4 as usize,
        protocol: parsed.protocol,
        kind: parsed.kind,
        ttl: parsed.ttl,
        tcp_flags: parsed.tcp_flags,
        fragment: parsed.fragment,
    }
}

/// Every reader and every rewrite. What they make of a valid packet must be a valid packet again.
fn exercise_ip(bytes: &[u8], parsed: &Parsed) {
    let _ = vxlan::decapsulate(bytes, parsed);
    let right = checksum::transport_ok(bytes, parsed);
    let mut table = FragmentTable::new(8, 1);
    table.insert(bytes, parsed, 0);
    let _ = table.lookup(bytes, parsed, 0);
    if let Some(quoted) = icmp::quoted(bytes, parsed) {
        assert!(quoted.parsed.l4 as usize <= quoted.end && quoted.end <= bytes.len());
        let ends = [parsed.src(), parsed.dst()];
        let to = Translation {
            quoted_src: (ends[1], 1),
            quoted_dst: (ends[0], 2),
            outer_src: ends[0],
            outer_dst: ends[1],
        };
        let mut copy = bytes.to_vec();
        if icmp::translate_quoted(&mut copy, parsed, &quoted, &to) {
            assert_eq!(checksum::transport_ok(&copy, parsed), right, "{bytes:02x?}");
        }
    }
    let (_pool, mut frame) = frame_of(bytes);
    let _ = tcp::clamp_mss(&mut frame, parsed, 1360);
    assert_eq!(checksum::transport_ok(&frame, parsed), right, "clamped: {bytes:02x?}");
    if icmp::echo_reply_in_place(&mut frame, parsed) {
        assert_valid(&frame);
    }
    let (_pool, mut frame) = frame_of(bytes);
    if ndp::advertise_in_place(&mut frame, parsed, [2, 0, 0, 0, 0, 1], true) {
        assert!(matches!(parse(&frame), Ok(Packet::Ip(answer)) if checksum::transport_ok(&frame, &answer)));
    }
    let (_pool, mut frame) = frame_of(bytes);
    if tcp::reset_in_place(&mut frame, parsed) {
        assert_valid(&frame);
    }
    let (_pool, mut frame) = frame_of(bytes);
    let router = if parsed.v6 { "fd00::fe".parse().unwrap() } else { "10.9.9.9".parse().unwrap() };
    if icmp::error_in_place(&mut frame, parsed, ErrorKind::TooBig { mtu: 1300 }, router) {
        assert_valid(&frame);
    }
}

fn assert_valid(frame: &[u8]) {
    match parse(frame) {
        Ok(Packet::Ip(parsed)) => assert!(checksum::transport_ok(frame, &parsed), "{frame:02x?}"),
        other => panic!("{other:?}: {frame:02x?}"),
    }
}

/// The IPv4 header checksum put right, so that mutations reach what lies behind it.
fn repair(frame: &mut [u8]) {
    let length = frame.get(14).map_or(0, |first| (first & 15) as usize * 4);
    if frame.get(12..14) == Some(&[8, 0]) && length >= 20 && frame.len() >= 14 + length {
        frame[24..26].fill(0);
        let check = checksum::check(&frame[14..14 + length]);
        frame[24..26].copy_from_slice(&check.to_be_bytes());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn a_valid_packet_is_read_as_it_was_made((frame, expected) in any_packet()) {
        prop_assert_eq!(parse(&frame), Ok(Packet::Ip(expected)));
        exercise(&frame);
    }

    #[test]
    fn a_mutated_packet_is_read_as_its_twin_reads_it(
        (mut frame, _) in any_packet(), changes in proptest::collection::vec((0usize..120, any::<u8>()), 1..5),
        cut in 0usize..200, repaired: bool,
    ) {
        for (at, byte) in changes {
            if let Some(place) = frame.get_mut(at) {
                *place = byte;
            }
        }
        if cut < 40 {
            frame.truncate(frame.len().saturating_sub(cut));
        }
        if repaired {
            repair(&mut frame);
        }
        exercise(&frame);
    }

    /// Headers whose every field is arbitrary but for those that would end the parsing at once.
    #[test]
    fn arbitrary_headers_are_read_as_the_twin_reads_them(
        mut frame in proptest::collection::vec(any::<u8>(), 34..200), v6: bool, protocol in 0usize..8, short: bool,
    ) {
        let protocol = [6, 17, if v6 { 58 } else { 1 }, 44, 60, 43, 0, 132][protocol];
        let length = (frame.len() - 14) as u16;
        if v6 {
            frame[12..15].copy_from_slice(&[0x86, 0xdd, 0x60]);
            frame[18..20].copy_from_slice(&length.saturating_sub(40).to_be_bytes());
            frame[20] = protocol;
            if frame.len() > 64 && frame[63] % 2 == 0 {
                let next = [6, 17, 58, 60][frame[60] as usize % 4];
                let extension = [next, frame[61] % 3, 0, frame[62] & 9];
                frame[54..58].copy_from_slice(&extension);
            }
        } else {
            frame[12..15].copy_from_slice(&[0x08, 0x00, if short { 0x45 } else { 0x47 }]);
            frame[16..18].copy_from_slice(&length.to_be_bytes());
            frame[20] &= 0x60;
            frame[23] = protocol;
            repair(&mut frame);
        }
        exercise(&frame);
    }

    #[test]
    fn arbitrary_bytes_are_read_without_panic(frame in proptest::collection::vec(any::<u8>(), 0..300)) {
        exercise(&frame);
    }
}

/// Frames of past crashes: see `tests/regressions/README.md`.
#[test]
fn past_crashes_stay_past() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/regressions");
    let files: Vec<PathBuf> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    let frames: Vec<_> =
        files.iter().filter(|path| path.extension().is_some_and(|kind| kind == "hex")).collect();
    assert!(!frames.is_empty(), "{} is empty", folder.display());
    for path in frames {
        let text = fs::read_to_string(path).unwrap();
        let (description, digits): (Vec<_>, Vec<_>) = text.lines().partition(|line| line.starts_with('#'));
        assert!(!description.is_empty(), "{}: says nothing of what it is", path.display());
        let digits: String = digits.concat().split_whitespace().collect();
        let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
        exercise(&digits.as_bytes().chunks(2).map(byte).collect::<Vec<_>>());
    }
}

/// The public captures, where they are (`PENSTOCK_CONFORMANCE`, or beside the repository).
#[test]
fn captured_frames_are_read_as_the_twin_reads_them() {
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/conformance");
    let folder = std::env::var_os("PENSTOCK_CONFORMANCE").map_or(beside, PathBuf::from).join("captures");
    let Ok(entries) = fs::read_dir(&folder) else { return };
    let mut frames = 0;
    for path in entries.map(|entry| entry.unwrap().path()) {
        for frame in ethernet_frames(&fs::read(&path).unwrap()) {
            exercise(&frame);
            frames += 1;
        }
    }
    eprintln!("{frames} captured frames");
    assert!(frames > 1000, "{} holds {frames} Ethernet frames", folder.display());
}

/// Frames of a classic pcap file of link type Ethernet; none for other files.
fn ethernet_frames(file: &[u8]) -> Vec<Vec<u8>> {
    let little = match file.first_chunk() {
        Some([0xd4, 0xc3, 0xb2, 0xa1] | [0x4d, 0x3c, 0xb2, 0xa1]) => true,
        Some([0xa1, 0xb2, 0xc3, 0xd4] | [0xa1, 0xb2, 0x3c, 0x4d]) => false,
        _ => return Vec::new(),
    };
    let word = |at: usize| {
        let bytes = *file.get(at..)?.first_chunk()?;
        Some(if little { u32::from_le_bytes(bytes) } else { u32::from_be_bytes(bytes) } as usize)
    };
    let (mut frames, mut at) = (Vec::new(), 24);
    while word(20).map(|link| link & 0xffff) == Some(1)
        && let Some(length) = word(at + 8)
        && let Some(frame) = file.get(at + 16..(at + 16).saturating_add(length))
    {
        frames.push(frame.to_vec());
        at += 16 + length;
    }
    frames
}
