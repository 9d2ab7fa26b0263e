//! [`locate`]: finds the stamp in a received frame, if the frame is one of ours, and checks the frame's checksums
//! on the way (nobody else does: neither AF_XDP nor a veth verifies them).
//!
//! Reads Ethernet (up to two VLAN tags), IPv4 and IPv6 without extension headers or fragments, UDP, TCP and ICMP
//! echo, and looks once into VXLAN. Anything else is foreign.

use etherparse::{IpNumber, NetSlice, SlicedPacket, TransportSlice};

use crate::checksum::{fold, sum};
use crate::stamp::Stamp;

/// What a received frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// One of ours, intact.
    Stamped(Stamp),
    /// Carries our magic, but an IPv4 header or transport checksum is wrong: what it says cannot be trusted.
    Corrupt,
    /// Not of this program.
    Foreign,
}

/// How to look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Look {
    /// Verify the checksums of what carries a stamp.
    pub verify: bool,
    /// UDP destination port by which VXLAN is known.
    pub vxlan_port: u16,
}

/// Looks for a stamp in `frame`.
pub fn locate(frame: &[u8], how: Look) -> Found {
    look(frame, how, true)
}

fn look(frame: &[u8], how: Look, open_envelopes: bool) -> Found {
    let Ok(packet) = SlicedPacket::from_ethernet(frame) else { return Found::Foreign };
    let Some(net) = &packet.net else { return Found::Foreign };
    let payload = match &packet.transport {
        Some(TransportSlice::Udp(udp)) => {
            if open_envelopes && udp.destination_port() == how.vxlan_port {
                return match udp.payload() {
                    [flags, _, _, _, _, _, _, _, inner @ ..] if flags & 0x08 != 0 => look(inner, how, false),
                    _ => Found::Foreign,
                };
            }
            udp.payload()
        }
        Some(TransportSlice::Tcp(tcp)) => tcp.payload(),
        Some(TransportSlice::Icmpv4(icmp)) => icmp.payload(),
        Some(TransportSlice::Icmpv6(icmp)) => icmp.payload(),
        Some(TransportSlice::Igmp(_)) | None => return Found::Foreign,
    };
    match Stamp::from_payload(payload) {
        None => Found::Foreign,
        Some(_) if how.verify && !intact(net) => Found::Corrupt,
        Some(stamp) => Found::Stamped(stamp),
    }
}

/// Whether the IPv4 header's and the transport's checksums are right. A UDP checksum of zero over IPv4 says that
/// there is none.
fn intact(net: &NetSlice<'_>) -> bool {
    let (mut pseudo, payload) = match net {
        NetSlice::Ipv4(ip) => {
            let header = ip.header();
            if fold(sum(header.slice())) != 0xffff {
                return false;
            }
            let payload = ip.payload();
            let addresses = sum(&header.source()) + sum(&header.destination());
            (if payload.ip_number == IpNumber::ICMP { None } else { Some(addresses) }, payload)
        }
        NetSlice::Ipv6(ip) => {
            let header = ip.header();
            (Some(sum(&header.source()) + sum(&header.destination())), ip.payload())
        }
        NetSlice::Arp(_) => return false,
    };
    if let (NetSlice::Ipv4(_), IpNumber::UDP, Some([0, 0])) =
        (net, payload.ip_number, payload.payload.get(6..8))
    {
        return true;
    }
    if let Some(pseudo) = &mut pseudo {
        *pseudo += u64::from(payload.ip_number.0) + payload.payload.len() as u64;
    }
    fold(pseudo.unwrap_or(0) + sum(payload.payload)) == 0xffff
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::{VXLAN_PORT, compose, tests as strategies};
    use proptest::prelude::*;

    const LOOK: Look = Look { verify: true, vxlan_port: VXLAN_PORT };

    proptest! {
        #[test]
        fn what_is_built_is_found(
            headers in strategies::headers(), protocol in strategies::protocols(), flow in strategies::flows(),
            stamp in strategies::stamps(), extra in 0usize..300,
        ) {
            prop_assume!(flow.destination_port != VXLAN_PORT);
            let size = headers.minimum(protocol, flow.source.is_ipv6()) + extra;
            let bytes = compose(&headers, protocol, &flow, &stamp.to_bytes(), 1, size).unwrap();
            prop_assert_eq!(locate(&bytes, LOOK), Found::Stamped(stamp));
        }

        #[test]
        fn a_flipped_bit_is_never_taken_for_the_same_packet(
            protocol in strategies::protocols(), flow in strategies::flows(), stamp in strategies::stamps(), at in 14usize..200, bit in 0u8..8,
        ) {
            prop_assume!(flow.destination_port != VXLAN_PORT);
            let size = strategies::HEADERS.minimum(protocol, flow.source.is_ipv6()) + 40;
            let mut bytes = compose(&strategies::HEADERS, protocol, &flow, &stamp.to_bytes(), 1, size).unwrap();
            let v6 = flow.source.is_ipv6();
            // The IPv6 header has no checksum of its own: traffic class, flow label and hop limit are unprotected.
            let unprotected = v6 && (at < 18 || at == 21);
            // The UDP checksum field itself can be flipped to zero, which says "none" (IPv4).
            if at < bytes.len() && !unprotected {
                bytes[at] ^= 1 << bit;
                let zeroed = !v6 && bytes[40..42] == [0, 0];
                let found = locate(&bytes, LOOK);
                prop_assert!(zeroed || found != Found::Stamped(stamp), "{:?}", found);
            }
        }

        #[test]
        fn no_frame_is_too_strange(bytes in proptest::collection::vec(any::<u8>(), 0..200), verify in any::<bool>()) {
            let _ = locate(&bytes, Look { verify, ..LOOK });
        }

        #[test]
        fn no_truncation_is_too_strange(
            headers in strategies::headers(), protocol in strategies::protocols(), flow in strategies::flows(), cut in 0usize..200,
        ) {
            let stamp = Stamp { run: 1, stream: 2, warmup: false, sequence: 3, sent: 4 };
            let size = headers.minimum(protocol, flow.source.is_ipv6());
            let bytes = compose(&headers, protocol, &flow, &stamp.to_bytes(), 1, size).unwrap();
            let cut = cut % bytes.len();
            // 64 is Ethernet's minimum, so that the shortest frames end with the stamp's last byte.
            prop_assert_ne!(locate(&bytes[..cut], LOOK), Found::Stamped(stamp));
        }
    }
}
