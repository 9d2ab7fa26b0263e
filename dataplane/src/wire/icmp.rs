//! ICMP (RFC 792) and ICMPv6 (RFC 4443): errors made, errors read and translated (RFC 5508), echo answered.

use std::net::IpAddr;

use afxdp_driver::Frame;

use super::checksum::{self, add, adjust, delta16};
use super::extension;
use super::header::{Header, sum_of};
use super::parse::{self, FRAGMENT, FRAGMENT_LATER, L4Kind, Parsed};
use super::{ETHERNET_LEN, ICMP, ICMPV6, IPV6_LEN, OUR_TTL, SCTP, TCP, UDP, be16, put, swap_macs};

/// What went wrong with a packet, to be told to its source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// No route to the destination.
    NetUnreachable,
    /// The destination does not answer.
    HostUnreachable,
    /// Nobody listens on the port.
    PortUnreachable,
    /// Forbidden by policy.
    AdminProhibited,
    /// TTL or hop limit used up.
    TimeExceeded,
    /// Longer than the way out takes.
    TooBig {
        /// What it takes: bytes of an IP packet.
        mtu: u16,
    },
}

impl ErrorKind {
    /// Type, code and the four bytes behind the checksum.
    fn header(self, v6: bool) -> (u8, u8, u32) {
        match (self, v6) {
            (ErrorKind::NetUnreachable, false) => (3, 0, 0),
            (ErrorKind::HostUnreachable, false) => (3, 1, 0),
            (ErrorKind::PortUnreachable, false) => (3, 3, 0),
            (ErrorKind::AdminProhibited, false) => (3, 13, 0),
            (ErrorKind::TimeExceeded, false) => (11, 0, 0),
            (ErrorKind::TooBig { mtu }, false) => (3, 4, mtu.max(68) as u32),
            (ErrorKind::NetUnreachable, true) => (1, 0, 0),
            (ErrorKind::HostUnreachable, true) => (1, 3, 0),
            (ErrorKind::PortUnreachable, true) => (1, 4, 0),
            (ErrorKind::AdminProhibited, true) => (1, 1, 0),
            (ErrorKind::TimeExceeded, true) => (3, 0, 0),
            (ErrorKind::TooBig { mtu }, true) => (2, 0, mtu.max(1280) as u32),
        }
    }
}

/// Whether a packet may be answered by an error (RFC 1122, section 3.2.2; RFC 4443, section 2.4(e)): not an error, a
/// redirect, a later fragment, or what was sent to many, to nobody or from nobody.
pub fn may_answer(parsed: &Parsed, frame: &[u8]) -> bool {
    if parsed.fragment & FRAGMENT_LATER != 0 || frame.first().is_none_or(|first| first & 1 != 0) {
        return false;
    }
    // An answer may come from what the packet was sent to: that must be somebody's address, too.
    parse::may_be_hosts(parsed.dst()) && parse::may_be_hosts(parsed.src()) && !is_error(parsed, frame)
}

/// Any ICMP error or redirect, those that we make nothing of as well.
fn is_error(parsed: &Parsed, frame: &[u8]) -> bool {
    match (parsed.kind, frame.get(parsed.l4 as usize)) {
        (L4Kind::IcmpError, _) => true,
        (L4Kind::Icmp, Some(&kind)) if parsed.v6 => kind < 128 || kind == 137,
        (L4Kind::Icmp, Some(&kind)) => kind == 4 || kind == 5,
        _ => false,
    }
}

/// Turns the offending frame into the error that goes back to its source, from the address `from`, MAC addresses
/// exchanged. It quotes as much as may be: 576 bytes in all on IPv4 (RFC 1812, section 4.3.2.3), 1,280 on IPv6
/// (RFC 4443, section 3). False, and nothing changed, where the packet must not be answered ([`may_answer`]), `from` is
/// of the other family, or the frame has no room in front.
#[must_use]
pub fn error_in_place(frame: &mut Frame, parsed: &Parsed, kind: ErrorKind, from: IpAddr) -> bool {
    let protocol = if parsed.v6 { ICMPV6 } else { ICMP };
    let class = if parsed.v6 { 0 } else { INTERNETWORK_CONTROL };
    let ip = Header { src: from, dst: parsed.src(), protocol, ttl: OUR_TTL, class };
    let Some(l4) = ip.len().map(|length| ETHERNET_LEN + length) else { return false };
    let in_front = l4 - ETHERNET_LEN + ICMP_LEN;
    let most = if parsed.v6 { 1280 } else { 576 } - in_front;
    let quote = (parsed.ip_len as usize).min(most);
    let fits = parsed.l3 as usize == ETHERNET_LEN && frame.len() >= ETHERNET_LEN + quote;
    if !fits || !may_answer(parsed, frame) || !frame.push_front(in_front) {
        return false;
    }
    frame.copy_within(in_front..in_front + 12, 0);
    if !frame.resize(l4 + ICMP_LEN + quote) || !swap_macs(frame) {
        return false;
    }
    let (message, code, rest) = kind.header(parsed.v6);
    let [a, b, c, d] = rest.to_be_bytes();
    let written = put(frame, l4, &[message, code, 0, 0, a, b, c, d]) && ip.write(frame, ICMP_LEN + quote);
    let check = ip.transport_check(frame.get(l4..).unwrap_or_default());
    written && put(frame, l4 + 2, &check.to_be_bytes())
}

/// Bytes of an ICMP header with the field behind the checksum.
const ICMP_LEN: usize = 8;
/// Type of service of IPv4 errors (RFC 1812, section 4.3.2.5).
const INTERNETWORK_CONTROL: u8 = 0xc0;

/// Turns an echo request into its reply, with a fresh TTL, MAC addresses exchanged. False, and nothing changed, for
/// anything else, for a fragment, for IPv4 options (which a reply must not repeat blindly), for a group's address
/// (RFC 1122, section 3.2.2.6 permits silence) and for a wrong checksum.
#[must_use]
pub fn echo_reply_in_place(frame: &mut [u8], parsed: &Parsed) -> bool {
    let (l3, l4) = (parsed.l3 as usize, parsed.l4 as usize);
    let request = if parsed.v6 { ECHO_REQUEST_V6 } else { ECHO_REQUEST_V4 };
    let reply = if parsed.v6 { ECHO_REPLY_V6 } else { ECHO_REPLY_V4 };
    let is_request = parsed.kind == L4Kind::Echo && frame.get(l4) == Some(&request);
    let plain = parsed.fragment & FRAGMENT == 0 && (parsed.v6 || l4 - l3 == 20);
    if !is_request || !plain || !may_answer(parsed, frame) || !checksum::transport_ok(frame, parsed) {
        return false;
    }
    let (addresses, width, ttl) = if parsed.v6 { (l3 + 8, 16, l3 + 7) } else { (l3 + 12, 4, l3 + 8) };
    let Some(ends) = frame.get_mut(addresses..addresses + 2 * width) else { return false };
    ends.rotate_left(width);
    let Some(check) = be16(frame, l4 + 2) else { return false };
    // The code is zero or whatever it was; the type is the high half of its word.
    let check = adjust(check, delta16((request as u16) << 8, (reply as u16) << 8));
    let ttl_delta = delta16((parsed.ttl as u16) << 8, (OUR_TTL as u16) << 8);
    swap_macs(frame)
        && put(frame, l4, &[reply])
        && put(frame, l4 + 2, &check.to_be_bytes())
        && put(frame, ttl, &[OUR_TTL])
        && checksum::apply_l3(frame, parsed, ttl_delta)
}

const ECHO_REPLY_V4: u8 = 0;
const ECHO_REQUEST_V4: u8 = 8;
const ECHO_REQUEST_V6: u8 = 128;
const ECHO_REPLY_V6: u8 = 129;

/// The packet that an error quotes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quoted {
    /// As [`parse`](fn@super::parse::parse) would say of it, with offsets from the start of the outer frame. `ip_len` is what the quoted header
    /// says: the quote may end earlier. At least the first eight bytes of the transport are there, unless it is a
    /// later fragment.
    pub parsed: Parsed,
    /// Offset of the first byte behind the quote.
    pub end: usize,
}

/// Reads the packet that an ICMP error quotes. `None` for what is no error, and where nothing can be said of the quoted
/// packet: cut off before its ports, malformed, an error itself, or with a wrong IPv4 header checksum (RFC 5508,
/// REQ-3). Its transport checksum is not looked at (same place): the quote is cut.
pub fn quoted(frame: &[u8], parsed: &Parsed) -> Option<Quoted> {
    if parsed.kind != L4Kind::IcmpError || parsed.fragment & FRAGMENT != 0 {
        return None;
    }
    let l3 = parsed.l4 as usize + ICMP_LEN;
    let frame = frame.get(..parsed.end())?;
    let quote = if parsed.v6 { quoted_ipv6(frame, l3)? } else { quoted_ipv4(frame, l3)? };
    Some(Quoted { parsed: quoted_transport(frame, quote)?, end: parsed.end() })
}

fn quoted_ipv4(frame: &[u8], l3: usize) -> Option<Parsed> {
    let header = parse::ipv4_header(frame, l3).ok()?;
    if checksum::sum(header) != 0xffff {
        return None;
    }
    let word = be16(header, 6)?;
    let later = word & 0x1fff != 0;
    let fragmented = later || word & 0x2000 != 0;
    Some(Parsed {
        addresses: [u64::from_ne_bytes(*header.get(12..)?.first_chunk()?), 0, 0, 0],
        src_port: 0,
        dst_port: 0,
        ip_len: be16(header, 2)?,
        l3: u8::try_from(l3).ok()?,
        l4: u8::try_from(l3 + header.len()).ok()?,
        protocol: *header.get(9)?,
        kind: L4Kind::Other,
        v6: false,
        ttl: *header.get(8)?,
        tcp_flags: 0,
        fragment: fragment_bits(fragmented, later)
            | if word & 0x4000 != 0 { parse::DONT_FRAGMENT } else { 0 },
    })
}

fn quoted_ipv6(frame: &[u8], l3: usize) -> Option<Parsed> {
    let header: &[u8; IPV6_LEN] = frame.get(l3..)?.first_chunk()?;
    if header[0] >> 4 != 6 {
        return None;
    }
    let chain = extension::walk(frame, header[6], l3 + IPV6_LEN).ok()?;
    let later = chain.fragment.is_some_and(|fragment| fragment.field.offset > 0);
    Some(Parsed {
        addresses: parse::ipv6_addresses(header),
        src_port: 0,
        dst_port: 0,
        ip_len: u16::from_be_bytes([header[4], header[5]]).checked_add(IPV6_LEN as u16)?,
        l3: u8::try_from(l3).ok()?,
        l4: u8::try_from(chain.l4).ok()?,
        protocol: chain.protocol,
        kind: L4Kind::Other,
        v6: true,
        ttl: header[7],
        tcp_flags: 0,
        fragment: fragment_bits(chain.fragment.is_some(), later) | parse::DONT_FRAGMENT,
    })
}

fn fragment_bits(fragmented: bool, later: bool) -> u8 {
    if later { FRAGMENT | FRAGMENT_LATER } else { fragmented as u8 * FRAGMENT }
}

fn quoted_transport(frame: &[u8], quote: Parsed) -> Option<Parsed> {
    if quote.fragment & FRAGMENT_LATER != 0 {
        return Some(quote);
    }
    let l4 = quote.l4 as usize;
    let first: &[u8; 8] = frame.get(l4..)?.first_chunk()?;
    let port = |at: usize| u16::from_be_bytes([first[at], first[at + 1]]);
    let ports = |kind| Parsed { kind, src_port: port(0), dst_port: port(2), ..quote };
    match (quote.protocol, quote.v6) {
        (TCP, _) => {
            Some(Parsed { tcp_flags: frame.get(l4 + 13).copied().unwrap_or(0), ..ports(L4Kind::Tcp) })
        }
        (UDP, _) => Some(ports(L4Kind::Udp)),
        (SCTP, _) => Some(ports(L4Kind::Other)),
        (ICMP, false) | (ICMPV6, true) => match parse::icmp_kind(first[0], quote.v6) {
            L4Kind::Echo => {
                Some(Parsed { kind: L4Kind::Echo, src_port: port(4), dst_port: port(4), ..quote })
            }
            L4Kind::Icmp => Some(Parsed { kind: L4Kind::Icmp, ..quote }),
            _ => None,
        },
        _ => Some(quote),
    }
}

/// How an error reads on the other side of a translation (RFC 5508, REQ-4 and REQ-5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Translation {
    /// Source of the quoted packet, as its sender knows it. The port is the identifier for an echo, and not used for
    /// protocols without ports.
    pub quoted_src: (IpAddr, u16),
    /// Destination of the quoted packet, as its sender knows it (the identifier again for an echo).
    pub quoted_dst: (IpAddr, u16),
    /// Source of the error: the router, or the address that its own is translated to.
    pub outer_src: IpAddr,
    /// Destination of the error: the sender of the quoted packet.
    pub outer_dst: IpAddr,
}

/// Rewrites an ICMP error, outer addresses and quoted packet, with every checksum that stands in it and is not cut off: the outer IPv4
/// header's, the ICMP message's, the quoted IPv4 header's and the quoted transport's. False, and nothing changed, where
/// `to` is of another family than the packet, or `parsed` or `quoted` are not the frame's own.
#[must_use]
pub fn translate_quoted(frame: &mut [u8], parsed: &Parsed, quoted: &Quoted, to: &Translation) -> bool {
    let v6 = [to.quoted_src.0, to.quoted_dst.0, to.outer_src, to.outer_dst].map(|address| address.is_ipv6());
    let inner = &quoted.parsed;
    if v6 != [parsed.v6; 4]
        || inner.v6 != parsed.v6
        || parsed.end() > frame.len()
        || quoted.end > parsed.end()
    {
        return false;
    }
    let l4 = parsed.l4 as usize;
    let Some(before) = frame.get(l4..quoted.end).map(checksum::sum) else { return false };
    let outer_delta = addresses_delta(parsed, to.outer_src, to.outer_dst);
    if !rewrite_quote(frame, quoted, to) {
        return false;
    }
    let after = frame.get(l4..quoted.end).map_or(0, checksum::sum);
    let body_delta = add(!before, after);
    let message_delta = if parsed.v6 { add(body_delta, outer_delta) } else { body_delta };
    write_addresses(frame, parsed, to.outer_src, to.outer_dst)
        && checksum::apply_l3(frame, parsed, outer_delta)
        && checksum::apply_l4(frame, parsed, message_delta)
}

/// Rewrites the quoted packet alone.
fn rewrite_quote(frame: &mut [u8], quoted: &Quoted, to: &Translation) -> bool {
    let inner = &quoted.parsed;
    let l4 = inner.l4 as usize;
    let address_delta = addresses_delta(inner, to.quoted_src.0, to.quoted_dst.0);
    let mut transport_delta = if inner.protocol == ICMP { 0 } else { address_delta };
    if !write_addresses(frame, inner, to.quoted_src.0, to.quoted_dst.0)
        || !checksum::apply_l3(frame, inner, address_delta)
    {
        return false;
    }
    let (old, new) = ([inner.src_port, inner.dst_port], [to.quoted_src.1, to.quoted_dst.1]);
    let (at, ports) = match inner.kind {
        L4Kind::Tcp | L4Kind::Udp => (l4, 2),
        L4Kind::Echo => (l4 + 4, 1),
        L4Kind::Icmp | L4Kind::IcmpError => (l4, 0),
        L4Kind::Other => return true,
    };
    for index in 0..ports {
        transport_delta = add(transport_delta, delta16(old[index], new[index]));
        if !put(frame, at + 2 * index, &new[index].to_be_bytes()) {
            return false;
        }
    }
    // A quote of eight bytes has no TCP checksum in it: nothing to adjust then.
    let checksum_at = if inner.kind == L4Kind::Tcp { 16 } else { 6 };
    let cut_off = l4 + checksum_at + 2 > quoted.end;
    cut_off || checksum::apply_l4(frame, inner, transport_delta)
}

fn addresses_delta(parsed: &Parsed, src: IpAddr, dst: IpAddr) -> u16 {
    let old = add(sum_of(parsed.src()), sum_of(parsed.dst()));
    add(!old, add(sum_of(src), sum_of(dst)))
}

fn write_addresses(frame: &mut [u8], parsed: &Parsed, src: IpAddr, dst: IpAddr) -> bool {
    let l3 = parsed.l3 as usize;
    match (src, dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            put(frame, l3 + 12, &src.octets()) && put(frame, l3 + 16, &dst.octets())
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            put(frame, l3 + 8, &src.octets()) && put(frame, l3 + 24, &dst.octets())
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests;
