//! Bytes and their meaning: parse, rewrite and answer. Parse and build are inverses.
//!
//! ```text
//!   frame ─► parse ─► Parsed ─► checksum   icmp      tcp     vxlan   fragment
//!                │              (verify,  (errors,  (reset,  (outer  (later fragments
//!                └► arp, ndp     adjust)   echo)     clamp)  header)  find their first)
//! ```
//!
//! * [`parse`](mod@parse): what a frame is, every length checked; [`extension`]: the IPv6 header chain.
//! * [`checksum`]: RFC 1071 sums, RFC 1624 updates.   * [`hash`]: the flow hash.
//! * [`arp`], [`ndp`]: neighbours asked and answered.  * [`icmp`]: errors made, read and translated; echo.
//! * [`tcp`]: resets and the MSS clamp.               * [`vxlan`]: the overlay's header.
//! * [`fragment`]: ports of later fragments.
//!
//! Nothing here knows a table, a clock or a socket: bytes and arguments in, bytes and results out. A function that
//! changes a frame "in place" returns `false`, with the frame unusable for anything but freeing, only where said so;
//! otherwise `false` means that nothing was changed.

pub mod arp;
pub mod checksum;
pub mod extension;
pub mod fragment;
pub mod hash;
mod header;
pub mod icmp;
pub mod ndp;
pub mod parse;
pub mod tcp;
pub mod vxlan;

#[cfg(test)]
pub(crate) mod build;
#[cfg(test)]
mod fuzz;
#[cfg(test)]
mod twin;

pub use parse::{L4Kind, Packet, Parsed};

/// A MAC address, as on the wire.
pub type Mac = [u8; 6];

/// Bytes of an Ethernet header without tags: where the IP header begins.
pub const ETHERNET_LEN: usize = 14;
/// Bytes of an IPv4 header without options.
pub const IPV4_LEN: usize = 20;
/// Bytes of the fixed IPv6 header.
pub const IPV6_LEN: usize = 40;

/// EtherType of IPv4.
pub const ETHERTYPE_IPV4: u16 = 0x0800;
/// EtherType of ARP.
pub const ETHERTYPE_ARP: u16 = 0x0806;
/// EtherType of IPv6.
pub const ETHERTYPE_IPV6: u16 = 0x86dd;

/// IP protocol number of ICMP.
pub const ICMP: u8 = 1;
/// IP protocol number of TCP.
pub const TCP: u8 = 6;
/// IP protocol number of UDP.
pub const UDP: u8 = 17;
/// IP protocol number of ICMPv6.
pub const ICMPV6: u8 = 58;
/// IP protocol number of SCTP.
pub const SCTP: u8 = 132;

/// Hop limit and TTL of the packets that we make.
pub(crate) const OUR_TTL: u8 = 64;

/// The big-endian 16-bit field at `at`, if it is there.
#[inline]
pub(crate) fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// The big-endian 32-bit field at `at`, if it is there.
#[inline]
pub(crate) fn be32(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// Writes `value` at `at`. False, and nothing written, where the bytes end before.
#[inline]
#[must_use]
pub(crate) fn put(bytes: &mut [u8], at: usize, value: &[u8]) -> bool {
    match bytes.get_mut(at..at + value.len()) {
        Some(place) => {
            place.copy_from_slice(value);
            true
        }
        None => false,
    }
}

/// Exchanges destination and source MAC address: the packet goes back to whoever handed it over.
pub(crate) fn swap_macs(frame: &mut [u8]) -> bool {
    let Some(head) = frame.first_chunk_mut::<12>() else { return false };
    head.rotate_left(6);
    true
}
