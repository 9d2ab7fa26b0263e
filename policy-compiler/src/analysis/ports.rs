//! Protocols and ports for people: ranges of the line of keys that [`crate::policy::inspect`] speaks of.

use std::fmt;

use serde::Serialize;

use crate::intent::{self, Protocol};
use crate::policy::inspect::OTHER_PROTOCOLS;

/// The protocols with ports, in the order of the line of keys.
const PROTOCOLS: [Protocol; 3] = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp];

/// IP protocol number of ICMP (RFC 792) and ICMPv6 (RFC 4443): examples of protocols without ports.
const ICMP: [u8; 2] = [1, 58];

/// Ports of one protocol, both ends included; or all protocols that have none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct PortRange {
    /// `None`: every protocol other than TCP, UDP and SCTP.
    pub protocol: Option<Protocol>,
    /// First port; 0 without a protocol.
    pub first: u16,
    /// Last port; 0 without a protocol.
    pub last: u16,
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(protocol) = self.protocol else { return f.write_str("protocols without ports") };
        f.write_str(&protocol_name(protocol as u8))?;
        match (self.first, self.last) {
            (0, u16::MAX) => Ok(()),
            (first, last) if first == last => write!(f, " {first}"),
            (first, last) => write!(f, " {first}-{last}"),
        }
    }
}

/// The ranges that keys `first` to `last` are, both included.
pub(super) fn ranges(first: u32, last: u32) -> Vec<PortRange> {
    let mut ranges = Vec::new();
    for (space, protocol) in (0..).zip(PROTOCOLS) {
        let (begin, end) = (space << 16, space << 16 | 0xffff);
        if first <= end && last >= begin {
            let port = |key: u32| (key & 0xffff) as u16;
            let (first, last) = (port(first.max(begin)), port(last.min(end)));
            ranges.push(PortRange { protocol: Some(protocol), first, last });
        }
    }
    if last >= OTHER_PROTOCOLS {
        ranges.push(PortRange { protocol: None, first: 0, last: 0 });
    }
    ranges
}

/// A protocol number and port with that key, between addresses of the family.
pub(super) fn packet_of(key: u32, ipv6: bool) -> (u8, u16) {
    match PROTOCOLS.get((key >> 16) as usize) {
        Some(protocol) => (*protocol as u8, (key & 0xffff) as u16),
        None => (ICMP[usize::from(ipv6)], 0),
    }
}

/// A key of the ranges to make a packet of: not that of port 0 where there is another.
pub(super) fn example(ranges: &[(u32, u32)]) -> Option<u32> {
    let is_odd = |key: u32| key & 0xffff == 0 && key < OTHER_PROTOCOLS;
    let better = |(first, last): &(u32, u32)| {
        let key = if is_odd(*first) { first + 1 } else { *first };
        Some(key).filter(|key| key <= last)
    };
    ranges.iter().find_map(better).or(ranges.first().map(|(first, _)| *first))
}

/// Whether the protocol has ports that policy looks at.
pub(super) fn has_ports(protocol: u8) -> bool {
    PROTOCOLS.iter().any(|known| *known as u8 == protocol)
}

/// A protocol's name in lower case; its number where it has none here.
pub(super) fn protocol_name(number: u8) -> String {
    intent::protocol_name(number).map_or_else(|| format!("protocol {number}"), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_of_keys() {
        let text =
            |first, last| ranges(first, last).iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let rows = [
            (80, 80, "tcp 80"),
            (0, 79, "tcp 0-79"),
            (0, 0xffff, "tcp"),
            (0xffff, 0x1_0000, "tcp 65535, udp 0"),
            (0x1_0035, 0x1_0035, "udp 53"),
            (0, OTHER_PROTOCOLS, "tcp, udp, sctp, protocols without ports"),
            (0x2_ffff, OTHER_PROTOCOLS, "sctp 65535, protocols without ports"),
            (OTHER_PROTOCOLS, OTHER_PROTOCOLS, "protocols without ports"),
        ];
        for (first, last, expected) in rows {
            assert_eq!(text(first, last), expected, "{first:#x} {last:#x}");
        }
    }

    #[test]
    fn examples_avoid_port_0() {
        let rows = [
            (vec![], None),
            (vec![(0, 5)], Some(1)),
            (vec![(0, 0)], Some(0)),
            (vec![(0, 0), (80, 90)], Some(80)),
            (vec![(0x1_0000, 0x1_0000), (OTHER_PROTOCOLS, OTHER_PROTOCOLS)], Some(OTHER_PROTOCOLS)),
            (vec![(80, 0x1_0000)], Some(80)),
        ];
        for (ranges, expected) in rows {
            assert_eq!(example(&ranges), expected, "{ranges:?}");
        }
    }

    #[test]
    fn a_packet_for_each_key() {
        let rows = [(80, (6, 80)), (0x1_0035, (17, 53)), (0x2_0001, (132, 1)), (OTHER_PROTOCOLS, (58, 0))];
        for (key, expected) in rows {
            assert_eq!(packet_of(key, true), expected, "{key:#x}");
        }
        assert_eq!(packet_of(OTHER_PROTOCOLS, false), (1, 0));
    }
}
