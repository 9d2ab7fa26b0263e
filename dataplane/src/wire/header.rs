//! The IP header of the packets that we make ourselves: no options, no fragments, Don't Fragment.

use std::net::IpAddr;

use super::checksum::{self, add, fold};
use super::{ETHERNET_LEN, ETHERTYPE_IPV4, ETHERTYPE_IPV6, ICMP, IPV4_LEN, IPV6_LEN, put};

/// What differs between the headers that we make.
#[derive(Debug, Clone, Copy)]
pub(super) struct Header {
    pub(super) src: IpAddr,
    pub(super) dst: IpAddr,
    pub(super) protocol: u8,
    pub(super) ttl: u8,
    /// Type of service or traffic class.
    pub(super) class: u8,
}

impl Header {
    /// Bytes of the header; `None` for two families.
    pub(super) fn len(&self) -> Option<usize> {
        match (self.src, self.dst) {
            (IpAddr::V4(_), IpAddr::V4(_)) => Some(IPV4_LEN),
            (IpAddr::V6(_), IpAddr::V6(_)) => Some(IPV6_LEN),
            _ => None,
        }
    }

    /// Writes EtherType and header for a transport of `length` bytes. False where the frame is shorter, the length
    /// cannot be said or the addresses are of two families.
    #[must_use]
    pub(super) fn write(&self, frame: &mut [u8], length: usize) -> bool {
        match (self.src, self.dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                let Ok(total) = u16::try_from(IPV4_LEN + length) else { return false };
                let mut header = [0; IPV4_LEN];
                header[..2].copy_from_slice(&[0x45, self.class]);
                header[2..4].copy_from_slice(&total.to_be_bytes());
                header[6..10].copy_from_slice(&[0x40, 0, self.ttl, self.protocol]);
                header[12..16].copy_from_slice(&src.octets());
                header[16..].copy_from_slice(&dst.octets());
                let check = checksum::check(&header);
                header[10..12].copy_from_slice(&check.to_be_bytes());
                put(frame, 12, &ETHERTYPE_IPV4.to_be_bytes()) && put(frame, ETHERNET_LEN, &header)
            }
            (IpAddr::V6(src), IpAddr::V6(dst)) => {
                let Ok(payload) = u16::try_from(length) else { return false };
                let mut header = [0; IPV6_LEN];
                header[..2].copy_from_slice(&[0x60 | self.class >> 4, self.class << 4]);
                header[4..6].copy_from_slice(&payload.to_be_bytes());
                header[6..8].copy_from_slice(&[self.protocol, self.ttl]);
                header[8..24].copy_from_slice(&src.octets());
                header[24..].copy_from_slice(&dst.octets());
                put(frame, 12, &ETHERTYPE_IPV6.to_be_bytes()) && put(frame, ETHERNET_LEN, &header)
            }
            _ => false,
        }
    }

    /// The check of a transport whose own checksum field is zero.
    pub(super) fn transport_check(&self, transport: &[u8]) -> u16 {
        let pseudo = match (self.src, self.dst) {
            (IpAddr::V4(_), _) if self.protocol == ICMP => 0,
            (src, dst) => {
                let ends = add(sum_of(src), sum_of(dst));
                add(ends, fold(self.protocol as u64 + transport.len() as u64))
            }
        };
        !add(pseudo, checksum::sum(transport))
    }
}

/// What an address adds to a sum.
pub(super) fn sum_of(address: IpAddr) -> u16 {
    match address {
        IpAddr::V4(address) => checksum::sum(&address.octets()),
        IpAddr::V6(address) => checksum::sum(&address.octets()),
    }
}
