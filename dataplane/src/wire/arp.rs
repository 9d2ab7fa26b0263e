//! ARP (RFC 826) over Ethernet and IPv4, with the rules of RFC 5227: requests, replies, probes, announcements.

use std::net::Ipv4Addr;

use afxdp_driver::Frame;

use super::{ETHERNET_LEN, ETHERTYPE_ARP, Mac};
use crate::drops::DropReason;

/// Bytes of an ARP frame without padding.
pub const ARP_FRAME_LEN: usize = ETHERNET_LEN + 28;

/// What an ARP packet asks or says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// Who has the target's address?
    Request,
    /// The sender has the sender's address.
    Reply,
}

/// An ARP packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ArpPacket {
    /// Request or reply.
    pub op: Operation,
    /// MAC address of the sender.
    pub sender_mac: Mac,
    /// IPv4 address of the sender; unspecified in a probe.
    pub sender_ip: Ipv4Addr,
    /// MAC address of the target; means nothing in a request.
    pub target_mac: Mac,
    /// IPv4 address of the target.
    pub target_ip: Ipv4Addr,
}

impl ArpPacket {
    /// A probe (RFC 5227, section 1.1): does anyone use the target address? It teaches nobody the sender's address.
    pub fn is_probe(&self) -> bool {
        self.op == Operation::Request && self.sender_ip.is_unspecified()
    }

    /// An announcement, or "gratuitous" ARP, request or reply: the sender says that the address is its own.
    pub fn is_announcement(&self) -> bool {
        !self.sender_ip.is_unspecified() && self.sender_ip == self.target_ip
    }
}

/// Reads the ARP packet of a frame that `wire::parse` took for one.
///
/// # Errors
/// [`DropReason::Truncated`] for a frame that ends before the packet does; [`DropReason::Arp`] for other hardware, other
/// protocols or operations, and for a sender that cannot be: a MAC address that is zero or a group's, an IP address
/// that is multicast, broadcast or loopback.
pub fn parse(frame: &[u8]) -> Result<ArpPacket, DropReason> {
    let bytes: &[u8; 28] =
        frame.get(ETHERNET_LEN..).and_then(|rest| rest.first_chunk()).ok_or(DropReason::Truncated)?;
    if bytes[..6] != ETHERNET_AND_IPV4 {
        return Err(DropReason::Arp);
    }
    let op = match bytes[6..8] {
        [0, 1] => Operation::Request,
        [0, 2] => Operation::Reply,
        _ => return Err(DropReason::Arp),
    };
    let packet = ArpPacket {
        op,
        sender_mac: std::array::from_fn(|i| bytes[8 + i]),
        sender_ip: Ipv4Addr::from(std::array::from_fn(|i| bytes[14 + i])),
        target_mac: std::array::from_fn(|i| bytes[18 + i]),
        target_ip: Ipv4Addr::from(std::array::from_fn(|i| bytes[24 + i])),
    };
    let no_host = packet.sender_mac[0] & 1 != 0 || packet.sender_mac == [0; 6];
    let ip = packet.sender_ip;
    let no_address = ip.is_multicast() || ip.is_broadcast() || ip.is_loopback();
    // A reply that says "nobody" has the address teaches nothing.
    let empty_reply = op == Operation::Reply && ip.is_unspecified();
    if no_host || no_address || empty_reply { Err(DropReason::Arp) } else { Ok(packet) }
}

/// Turns a request into the answer of the owner of its target address, from `our_mac` straight to who asked.
/// False, and nothing changed, where the frame is no request.
#[must_use]
pub fn reply_in_place(frame: &mut Frame, our_mac: Mac) -> bool {
    let Ok(request) = parse(frame) else { return false };
    if request.op != Operation::Request {
        return false;
    }
    let reply = ArpPacket {
        op: Operation::Reply,
        sender_mac: our_mac,
        sender_ip: request.target_ip,
        target_mac: request.sender_mac,
        target_ip: request.sender_ip,
    };
    if !frame.resize(ARP_FRAME_LEN) {
        return false;
    }
    frame.copy_from_slice(&bytes_of(&reply, request.sender_mac));
    true
}

/// Fills the frame with a broadcast question: who has `target`? With an unspecified `src_ip` it is a probe.
/// False where the frame's chunk is too small, which it never is.
#[must_use]
pub fn request(frame: &mut Frame, src_mac: Mac, src_ip: Ipv4Addr, target: Ipv4Addr) -> bool {
    confirm(frame, src_mac, src_ip, target, BROADCAST)
}

/// As [`request`], straight to the MAC address that was known last: is it still right (RFC 1122, section 2.3.2.1)?
#[must_use]
pub fn confirm(frame: &mut Frame, src_mac: Mac, src_ip: Ipv4Addr, target: Ipv4Addr, target_mac: Mac) -> bool {
    let packet = ArpPacket {
        op: Operation::Request,
        sender_mac: src_mac,
        sender_ip: src_ip,
        target_mac: [0; 6],
        target_ip: target,
    };
    frame.fill(&bytes_of(&packet, target_mac))
}

/// Fills the frame with an announcement (RFC 5227, section 2.3): `ip` is at `mac`, everyone take note.
#[must_use]
pub fn announcement(frame: &mut Frame, mac: Mac, ip: Ipv4Addr) -> bool {
    request(frame, mac, ip, ip)
}

const BROADCAST: Mac = [0xff; 6];
const ETHERNET_AND_IPV4: [u8; 6] = [0, 1, 8, 0, 6, 4];

fn bytes_of(packet: &ArpPacket, to: Mac) -> [u8; ARP_FRAME_LEN] {
    let mut bytes = [0; ARP_FRAME_LEN];
    bytes[..6].copy_from_slice(&to);
    bytes[6..12].copy_from_slice(&packet.sender_mac);
    bytes[12..14].copy_from_slice(&ETHERTYPE_ARP.to_be_bytes());
    bytes[14..20].copy_from_slice(&ETHERNET_AND_IPV4);
    bytes[21] = match packet.op {
        Operation::Request => 1,
        Operation::Reply => 2,
    };
    bytes[22..28].copy_from_slice(&packet.sender_mac);
    bytes[28..32].copy_from_slice(&packet.sender_ip.octets());
    bytes[32..38].copy_from_slice(&packet.target_mac);
    bytes[38..].copy_from_slice(&packet.target_ip.octets());
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::build::frame_of;
    use crate::wire::parse::{Packet, parse as parse_frame};
    use proptest::prelude::*;

    const ASKER: Mac = [2, 0, 0, 0, 0, 0x0a];
    const US: Mac = [2, 0, 0, 0, 0, 0x01];

    /// 10.0.0.10 asks for 10.0.0.1, padded to 60 bytes as real NICs do.
    fn question() -> Vec<u8> {
        let mut bytes = vec![
            0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 0x0a, 0x08, 0x06, // Ethernet
            0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 0x0a, 10, 0, 0, 10, 0, 0, 0, 0, 0, 0, 10, 0, 0, 1,
        ];
        bytes.resize(60, 0xee);
        bytes
    }

    #[test]
    fn a_request_is_read_and_answered() {
        let (_pool, mut frame) = frame_of(&question());
        assert_eq!(parse_frame(&frame), Ok(Packet::Arp));
        let request = parse(&frame).unwrap();
        assert_eq!(request.target_ip, Ipv4Addr::new(10, 0, 0, 1));
        assert!(!request.is_probe() && !request.is_announcement());
        assert!(reply_in_place(&mut frame, US));
        #[rustfmt::skip]
        assert_eq!(frame[..], [
            2, 0, 0, 0, 0, 0x0a, 2, 0, 0, 0, 0, 1, 0x08, 0x06,
            0, 1, 8, 0, 6, 4, 0, 2, 2, 0, 0, 0, 0, 1, 10, 0, 0, 1, 2, 0, 0, 0, 0, 0x0a, 10, 0, 0, 10,
        ]);
        assert!(!reply_in_place(&mut frame, US), "a reply is not answered");
    }

    #[test]
    fn a_probe_is_answered_without_learning_from_it() {
        let (_pool, mut frame) = frame_of(&[]);
        assert!(request(&mut frame, ASKER, Ipv4Addr::UNSPECIFIED, Ipv4Addr::new(10, 0, 0, 1)));
        assert!(parse(&frame).unwrap().is_probe());
        assert!(reply_in_place(&mut frame, US));
        let reply = parse(&frame).unwrap();
        assert_eq!((reply.sender_mac, reply.target_mac), (US, ASKER));
        assert_eq!(reply.target_ip, Ipv4Addr::UNSPECIFIED);
    }

    #[test]
    fn an_announcement_is_recognised() {
        let (_pool, mut frame) = frame_of(&[]);
        assert!(announcement(&mut frame, US, Ipv4Addr::new(10, 0, 0, 1)));
        assert_eq!(frame[..6], BROADCAST);
        assert!(parse(&frame).unwrap().is_announcement());
    }

    #[test]
    fn a_confirmation_goes_straight_to_its_neighbour() {
        let (_pool, mut frame) = frame_of(&[]);
        let (ours, theirs) = (Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 10));
        assert!(confirm(&mut frame, US, ours, theirs, ASKER));
        assert_eq!(frame[..6], ASKER);
        assert_eq!(parse(&frame).unwrap().target_ip, theirs);
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let rows: [(&str, usize, &[u8]); 9] = [
            ("hardware", 15, &[6]),
            ("protocol", 16, &[0x86, 0xdd]),
            ("hardware length", 18, &[8]),
            ("protocol length", 19, &[16]),
            ("operation 3", 21, &[3]),
            ("operation 0", 21, &[0]),
            ("group sender", 22, &[3]),
            ("no sender", 22, &[0, 0, 0, 0, 0, 0]),
            ("multicast sender", 28, &[224]),
        ];
        for (name, at, bytes) in rows {
            let mut packet = question();
            packet[at..at + bytes.len()].copy_from_slice(bytes);
            assert_eq!(parse(&packet), Err(DropReason::Arp), "{name}");
        }
        for length in 0..ARP_FRAME_LEN {
            assert_eq!(parse(&question()[..length]), Err(DropReason::Truncated));
        }
        let mut nobody = question();
        nobody[21] = 2;
        nobody[28..32].fill(0);
        assert_eq!(parse(&nobody), Err(DropReason::Arp), "a reply without an address");
    }

    proptest! {
        #[test]
        fn parse_is_the_inverse_of_build(
            op: bool, sender: [u8; 5], target: [u8; 6], sender_ip in 0x0a00_0000u32..0x0aff_ffff, target_ip: u32,
        ) {
            let packet = ArpPacket {
                op: if op { Operation::Request } else { Operation::Reply },
                sender_mac: [2, sender[0], sender[1], sender[2], sender[3], sender[4]],
                sender_ip: Ipv4Addr::from(sender_ip),
                target_mac: target,
                target_ip: Ipv4Addr::from(target_ip),
            };
            prop_assert_eq!(parse(&bytes_of(&packet, BROADCAST)), Ok(packet));
        }

        #[test]
        fn any_bytes_are_read_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            let _ = parse(&bytes);
        }
    }
}
