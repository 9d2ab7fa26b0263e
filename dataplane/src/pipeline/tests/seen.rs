//! Packets out, read the slow way: two bytes at a time, every checksum added up.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::cluster::{Host, INNER_DST, INNER_SRC, NODE_A, UPLINK, VNI, mac, node_mac};

/// An IP packet whose checksums are right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) src: IpAddr,
    pub(super) dst: IpAddr,
    pub(super) ttl: u8,
    pub(super) protocol: u8,
    /// Transport header and payload.
    pub(super) transport: Vec<u8>,
    /// What the IP header says of its length.
    pub(super) length: usize,
}

impl Seen {
    /// Reads a frame that leaves by `port`, which must say so by its MAC addresses.
    #[track_caller]
    pub(super) fn of(frame: &[u8]) -> Self {
        let ethertype = u16::from_be_bytes([frame[12], frame[13]]);
        assert_eq!(ethertype, if frame[14] >> 4 == 6 { 0x86dd } else { 0x0800 });
        let seen = Seen::packet(&frame[14..]);
        assert_eq!(seen.length, frame.len() - 14, "no byte too many");
        seen.check_transport();
        seen
    }

    /// Reads the packet that an ICMP error quotes; its transport's checksum is right where all of it is there.
    #[track_caller]
    pub(super) fn quoted(&self) -> Self {
        let seen = Seen::packet(&self.transport[8..]);
        let header = if seen.src.is_ipv6() { 40 } else { 20 };
        if seen.length == header + seen.transport.len() {
            seen.check_transport();
        }
        seen
    }

    #[track_caller]
    fn packet(bytes: &[u8]) -> Self {
        let word = |at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
        if bytes[0] >> 4 == 6 {
            let address =
                |at: usize| Ipv6Addr::from(<[u8; 16]>::try_from(&bytes[at..at + 16]).unwrap()).into();
            let (src, dst) = (address(8), address(24));
            let transport = bytes[40..].to_vec();
            return Seen {
                src,
                dst,
                ttl: bytes[7],
                protocol: bytes[6],
                transport,
                length: 40 + word(4) as usize,
            };
        }
        let header = (bytes[0] & 15) as usize * 4;
        assert_eq!(slow_sum(&bytes[..header]), 0xffff, "the IPv4 header's checksum: {bytes:02x?}");
        let address =
            |at: usize| Ipv4Addr::new(bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]).into();
        let transport = bytes[header..].to_vec();
        Seen {
            src: address(12),
            dst: address(16),
            ttl: bytes[8],
            protocol: bytes[9],
            transport,
            length: word(2) as usize,
        }
    }

    /// The transport's checksum, over the pseudo-header where there is one.
    #[track_caller]
    fn check_transport(&self) {
        let mut bytes = Vec::new();
        for address in [self.src, self.dst] {
            match address {
                IpAddr::V4(address) => bytes.extend(address.octets()),
                IpAddr::V6(address) => bytes.extend(address.octets()),
            }
        }
        bytes.extend((self.transport.len() as u32).to_be_bytes());
        bytes.extend([0, 0, 0, self.protocol]);
        if self.protocol == 1 {
            bytes.clear();
        }
        bytes.extend(&self.transport);
        if matches!(self.protocol, 1 | 6 | 17 | 58) {
            assert_eq!(slow_sum(&bytes), 0xffff, "the transport's checksum: {self:?}");
        }
    }

    pub(super) fn ports(&self) -> (u16, u16) {
        (self.word(0), self.word(2))
    }

    /// The identifier of an echo.
    pub(super) fn identifier(&self) -> u16 {
        self.word(4)
    }

    pub(super) fn tcp_flags(&self) -> u8 {
        self.transport[13]
    }

    /// Sequence and acknowledgment number.
    pub(super) fn tcp_numbers(&self) -> (u32, u32) {
        let number = |at: usize| u32::from(self.word(at)) << 16 | u32::from(self.word(at + 2));
        (number(4), number(8))
    }

    /// Type, code, and the word at the end of the header.
    pub(super) fn icmp(&self) -> (u8, u8, u16) {
        (self.transport[0], self.transport[1], self.word(6))
    }

    pub(super) fn word(&self, at: usize) -> u16 {
        u16::from_be_bytes([self.transport[at], self.transport[at + 1]])
    }
}

/// The frame inside of a tunnel to a node, after every byte of the outer header was looked at.
#[track_caller]
pub(super) fn inside(frame: &[u8], node: Host) -> Vec<u8> {
    let v6 = frame[12..14] == [0x86, 0xdd];
    assert_eq!(frame[..6], node_mac(node));
    assert_eq!(frame[6..12], mac(UPLINK));
    let outer = Seen::packet(&frame[14..]);
    assert_eq!(outer.length, frame.len() - 14);
    assert_eq!((outer.src, outer.dst, outer.ttl, outer.protocol), (NODE_A.at(v6), node.at(v6), 64, 17));
    if !v6 {
        assert_eq!(frame[15], 0, "no ECN in, none out");
        assert_eq!(frame[18..22], [0, 0, 0x40, 0], "never fragmented");
    }
    let (from, to) = outer.ports();
    assert!(from >= 49_152, "RFC 7348, section 5: {from}");
    assert_eq!(
        (to, outer.word(4) as usize, outer.word(6)),
        (4789, outer.transport.len(), 0),
        "port, length, check"
    );
    let [_, a, b, c] = VNI.to_be_bytes();
    assert_eq!(outer.transport[8..16], [8, 0, 0, 0, a, b, c, 0]);
    let inner = outer.transport[16..].to_vec();
    assert_eq!(inner[..12], [INNER_DST, INNER_SRC].concat());
    inner
}

/// RFC 1071 as it is written.
fn slow_sum(bytes: &[u8]) -> u16 {
    let mut total = 0u32;
    for pair in bytes.chunks(2) {
        total += u32::from(pair[0]) * 256 + pair.get(1).map_or(0, |&low| u32::from(low));
        total = (total & 0xffff) + (total >> 16);
    }
    total as u16
}
