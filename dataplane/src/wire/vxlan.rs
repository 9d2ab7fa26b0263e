//! The overlay: VXLAN (RFC 7348) over IPv4 and IPv6.
//!
//! ```text
//!   template:  outer Ethernet 14 │ IPv4 20 or IPv6 40 │ UDP 8 │ VXLAN 8 │ inner Ethernet 14   = 64 or 84 bytes
//!   frame:                                                     old Ethernet 14 │ IP packet …
//! ```
//!
//! Everything that is the same for all packets to one node stands in a template, made once for an egress.
//! [`encapsulate_v4`] copies it over the frame's own Ethernet header and patches the rest: lengths, the IPv4 checksum (from
//! the template's by RFC 1624), ECN (RFC 6040, normal mode), the inner EtherType and the UDP source port.
//!
//! The UDP checksum is zero. On IPv4 RFC 7348 wants that. On IPv6 RFC 6935 and RFC 6936 permit it for tunnels: what is
//! inside has its own checksums, a foreign packet that a damaged address brings to a node is refused by the known
//! peers and the VNI, and a full sum over each packet would cost more than all the rest. A kernel peer must be told
//! (`ip link … type vxlan … udp6zerocsumrx`).

use std::net::{Ipv4Addr, Ipv6Addr};

use afxdp_driver::Frame;

use super::checksum;
use super::parse::{FRAGMENT, L4Kind, Parsed};
use super::{
    ETHERNET_LEN, ETHERTYPE_IPV4, ETHERTYPE_IPV6, IPV4_LEN, IPV6_LEN, Mac, OUR_TTL, UDP, be16, be32,
};
use crate::drops::DropReason;

/// UDP port of VXLAN (IANA).
pub const PORT: u16 = 4789;
/// Bytes of a template over IPv4: one cache line.
pub const TEMPLATE_V4_LEN: usize = ETHERNET_LEN + IPV4_LEN + 8 + 8 + ETHERNET_LEN;
/// Bytes of a template over IPv6.
pub const TEMPLATE_V6_LEN: usize = ETHERNET_LEN + IPV6_LEN + 8 + 8 + ETHERNET_LEN;
/// Bytes that the overlay takes of the underlay's MTU, over IPv4: the outer IP header up to the inner Ethernet header.
pub const OVERHEAD_V4: usize = TEMPLATE_V4_LEN - ETHERNET_LEN;
/// Bytes that the overlay takes of the underlay's MTU, over IPv6.
pub const OVERHEAD_V6: usize = TEMPLATE_V6_LEN - ETHERNET_LEN;

/// The headers of all packets of one VNI to one IPv4 tunnel peer. Only the low 24 bits of `vni` count.
pub fn template_v4(
    outer_src_mac: Mac,
    outer_dst_mac: Mac,
    src: Ipv4Addr,
    dst: Ipv4Addr,
    vni: u32,
    inner_src_mac: Mac,
    inner_dst_mac: Mac,
) -> [u8; TEMPLATE_V4_LEN] {
    let mut template = [0; TEMPLATE_V4_LEN];
    template[..14].copy_from_slice(&ethernet(outer_dst_mac, outer_src_mac, ETHERTYPE_IPV4));
    // Version and header length; Don't Fragment (RFC 7348, section 4.3), so the identification may stay 0 (RFC 6864).
    template[14..24].copy_from_slice(&[0x45, 0, 0, 0, 0, 0, 0x40, 0, OUR_TTL, UDP]);
    template[26..30].copy_from_slice(&src.octets());
    template[30..34].copy_from_slice(&dst.octets());
    // The check of the header with a length of zero; `encapsulate` adds the length.
    let check = checksum::check(&template[14..34]);
    template[24..26].copy_from_slice(&check.to_be_bytes());
    template[34..50].copy_from_slice(&udp_and_vxlan(vni));
    template[50..].copy_from_slice(&ethernet(inner_dst_mac, inner_src_mac, 0));
    template
}

/// The headers of all packets of one VNI to one IPv6 tunnel peer. Only the low 24 bits of `vni` count.
pub fn template_v6(
    outer_src_mac: Mac,
    outer_dst_mac: Mac,
    src: Ipv6Addr,
    dst: Ipv6Addr,
    vni: u32,
    inner_src_mac: Mac,
    inner_dst_mac: Mac,
) -> [u8; TEMPLATE_V6_LEN] {
    let mut template = [0; TEMPLATE_V6_LEN];
    template[..14].copy_from_slice(&ethernet(outer_dst_mac, outer_src_mac, ETHERTYPE_IPV6));
    template[14..22].copy_from_slice(&[0x60, 0, 0, 0, 0, 0, UDP, OUR_TTL]);
    template[22..38].copy_from_slice(&src.octets());
    template[38..54].copy_from_slice(&dst.octets());
    template[54..70].copy_from_slice(&udp_and_vxlan(vni));
    template[70..].copy_from_slice(&ethernet(inner_dst_mac, inner_src_mac, 0));
    template
}

/// What an encapsulation takes over from the packet.
#[derive(Debug, Clone, Copy)]
pub struct Inside {
    /// The EtherType.
    pub ethertype: u16,
    /// The ECN bits (RFC 6040, section 4.1: normal mode).
    pub ecn: u8,
    /// Of the flow: it picks the UDP source port, by which the underlay spreads flows over paths while each flow keeps
    /// to its own, and the IPv6 flow label (RFC 6438).
    pub hash: u32,
}

impl Inside {
    /// Of a frame with an IP packet; `None` where it is too short for one.
    #[inline(always)]
    pub fn of(frame: &[u8], hash: u32) -> Option<Self> {
        let head: &[u8; ETHERNET_LEN + 2] = frame.first_chunk()?;
        let ethertype = u16::from_be_bytes([head[12], head[13]]);
        Some(Inside { ethertype, ecn: ecn_of(head[14], head[15]), hash })
    }
}

/// Puts the template in place of the frame's Ethernet header (the IP packet begins at [`ETHERNET_LEN`]) and patches what
/// differs from packet to packet. False, and nothing changed, where the frame has no room in front.
#[inline(always)]
#[must_use]
pub fn encapsulate_v4(frame: &mut Frame, template: &[u8; TEMPLATE_V4_LEN], inside: Inside) -> bool {
    if !frame.push_front(OVERHEAD_V4) {
        return false;
    }
    let ip_len = (frame.len() - ETHERNET_LEN) as u16;
    let Some(head) = frame.first_chunk_mut::<TEMPLATE_V4_LEN>() else { return false };
    head.copy_from_slice(template);
    // The length and the ECN bits add to a sum in which both were zero.
    let check = u16::from_be_bytes([template[24], template[25]]);
    let check = !checksum::add(!check, ip_len + inside.ecn as u16);
    head[15] = inside.ecn;
    head[16..18].copy_from_slice(&ip_len.to_be_bytes());
    head[24..26].copy_from_slice(&check.to_be_bytes());
    head[34..36].copy_from_slice(&source_port(inside.hash).to_be_bytes());
    head[38..40].copy_from_slice(&(ip_len - IPV4_LEN as u16).to_be_bytes());
    head[62..64].copy_from_slice(&inside.ethertype.to_be_bytes());
    true
}

/// As [`encapsulate_v4`], over IPv6.
#[inline]
#[must_use]
pub fn encapsulate_v6(frame: &mut Frame, template: &[u8; TEMPLATE_V6_LEN], inside: Inside) -> bool {
    if !frame.push_front(OVERHEAD_V6) {
        return false;
    }
    let payload = (frame.len() - ETHERNET_LEN - IPV6_LEN) as u16;
    let Some(head) = frame.first_chunk_mut::<TEMPLATE_V6_LEN>() else { return false };
    head.copy_from_slice(template);
    let first = 6 << 28 | (inside.ecn as u32) << 20 | inside.hash & 0x000f_ffff;
    head[14..18].copy_from_slice(&first.to_be_bytes());
    head[18..20].copy_from_slice(&payload.to_be_bytes());
    head[54..56].copy_from_slice(&source_port(inside.hash).to_be_bytes());
    head[58..60].copy_from_slice(&payload.to_be_bytes());
    head[82..84].copy_from_slice(&inside.ethertype.to_be_bytes());
    true
}

/// The UDP source port for a flow: 49152–65535 (RFC 7348, section 5).
#[inline]
pub fn source_port(inner_hash: u32) -> u16 {
    // The high bits are multiplied best and are not those that chose the worker or the bucket.
    0xc000 | (inner_hash >> 18) as u16
}

/// What a tunnelled packet turned out to hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Inner {
    /// VXLAN network identifier (24 bits).
    pub vni: u32,
    /// Offset of the inner Ethernet frame.
    pub offset: usize,
    /// Bytes of the inner frame: what the UDP datagram holds, without the underlay's padding.
    pub len: usize,
    /// Congestion was met on the way (outer ECN is CE): see [`mark_congestion`].
    pub congestion: bool,
}

/// Reads the VXLAN header of a UDP packet to [`PORT`] (the caller has looked at the port). To go on, pull `offset` bytes
/// from the frame's front and cut it to `len`.
///
/// # Errors
/// [`DropReason::BadVxlan`] where the datagram is too short for the header and an inner Ethernet header, or the I flag
/// is not set; [`DropReason::BadFragment`] for a fragment (RFC 7348, section 4.3, permits to discard them).
#[inline]
pub fn decapsulate(frame: &[u8], parsed: &Parsed) -> Result<Inner, DropReason> {
    if parsed.fragment & FRAGMENT != 0 {
        return Err(DropReason::BadFragment);
    }
    let l4 = parsed.l4 as usize;
    let udp_len = be16(frame, l4 + 4).unwrap_or(0) as usize;
    let offset = l4 + 16;
    if parsed.kind != L4Kind::Udp || udp_len < 16 + ETHERNET_LEN || l4 + udp_len > frame.len() {
        return Err(DropReason::BadVxlan);
    }
    let (Some(flags), Some(identifier)) = (be32(frame, l4 + 8), be32(frame, l4 + 12)) else {
        return Err(DropReason::BadVxlan);
    };
    // Of the flags only I counts, the others are ignored on receipt (section 5).
    if flags & 0x0800_0000 == 0 {
        return Err(DropReason::BadVxlan);
    }
    let l3 = parsed.l3 as usize;
    let congestion = frame.get(l3..l3 + 2).is_some_and(|outer| ecn_of(outer[0], outer[1]) == CONGESTION);
    Ok(Inner { vni: identifier >> 8, offset, len: udp_len - 16, congestion })
}

/// Hands congestion that the tunnel met on to the inner packet, an Ethernet frame by now (RFC 6040, section 4.2): its
/// ECN becomes CE. False, and nothing changed, where the sender does not know ECN: such a packet is to be dropped,
/// as the loss is the only signal it understands.
#[must_use]
pub fn mark_congestion(frame: &mut [u8]) -> bool {
    let Some(head) = frame.first_chunk_mut::<{ ETHERNET_LEN + 12 }>() else { return false };
    if ecn_of(head[14], head[15]) == 0 {
        return false;
    }
    let old = [head[14], head[15]];
    if old[0] >> 4 == 6 {
        head[15] |= CONGESTION << 4;
    } else {
        head[15] |= CONGESTION;
        let check = u16::from_be_bytes([head[24], head[25]]);
        let new = checksum::adjust(check, checksum::delta(&old, &[head[14], head[15]]));
        head[24..26].copy_from_slice(&new.to_be_bytes());
    }
    true
}

const CONGESTION: u8 = 3;

/// The ECN bits, from the first two bytes of an IP header of either version.
#[inline(always)]
fn ecn_of(first: u8, second: u8) -> u8 {
    if first >> 4 == 6 { second >> 4 & 3 } else { second & 3 }
}

fn ethernet(dst: Mac, src: Mac, ethertype: u16) -> [u8; ETHERNET_LEN] {
    let mut header = [0; ETHERNET_LEN];
    header[..6].copy_from_slice(&dst);
    header[6..12].copy_from_slice(&src);
    header[12..].copy_from_slice(&ethertype.to_be_bytes());
    header
}

/// UDP (source port, length to be patched, no checksum) and VXLAN (I flag, VNI).
fn udp_and_vxlan(vni: u32) -> [u8; 16] {
    let [_, a, b, c] = vni.to_be_bytes();
    let [high, low] = PORT.to_be_bytes();
    [0, 0, high, low, 0, 0, 0, 0, 0x08, 0, 0, 0, a, b, c, 0]
}

#[cfg(test)]
mod tests;
