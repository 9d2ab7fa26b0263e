//! From the bytes of a frame to [`Parsed`].
//!
//! [`parse`] looks at what almost every frame is (TCP or UDP, whole, over IP without options or extension headers) with one
//! bounds check and few branches; it accepts there and never refuses. Everything else, and everything wrong, takes the general way,
//! which is complete by itself: a property test holds the two against each other, and both against a slow twin.

use std::net::IpAddr;

use super::extension::{self, FragmentField};
use super::{
    ETHERNET_LEN, ETHERTYPE_ARP, ETHERTYPE_IPV4, ETHERTYPE_IPV6, ICMP, ICMPV6, IPV4_LEN, IPV6_LEN, SCTP, TCP,
    UDP, be16,
};
use crate::drops::DropReason;

/// What follows the IP header, as far as the pipeline treats it differently.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum L4Kind {
    /// A whole TCP header is there.
    Tcp,
    /// A whole UDP header is there.
    Udp,
    /// An ICMP or ICMPv6 echo request or reply: the identifier stands for both ports (RFC 5508, REQ-1).
    Echo,
    /// An ICMP or ICMPv6 error that quotes a packet.
    IcmpError,
    /// Another ICMP or ICMPv6 message.
    Icmp,
    /// Any other protocol, or a fragment that is not the first: no ports. SCTP is one of them, but its ports are
    /// read, for policy; they are never rewritten (its checksum is not of our kind).
    Other,
}

/// Where things are in a frame, and what makes the flow's key. Plain data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parsed {
    /// The addresses as they stand in the packet, in words of eight raw bytes (`u64::from_ne_bytes`): IPv4 source and
    /// destination together in the first word, the rest zero; IPv6 source in the first two, destination in the
    /// last two. Read them by [`Parsed::src`] and [`Parsed::dst`].
    pub addresses: [u64; 4],
    /// Source port (host order); the echo identifier; 0 without ports.
    pub src_port: u16,
    /// Destination port (host order); the echo identifier; 0 without ports.
    pub dst_port: u16,
    /// Bytes of the IP packet, header included; trailing Ethernet padding is not of it.
    pub ip_len: u16,
    /// Offset of the IP header from the frame's first byte (14: ports are untagged).
    pub l3: u8,
    /// Offset of the transport header.
    pub l4: u8,
    /// IP protocol number of the transport (after IPv6 extension headers).
    pub protocol: u8,
    /// What follows the IP header.
    pub kind: L4Kind,
    /// True for IPv6.
    pub v6: bool,
    /// TTL or hop limit.
    pub ttl: u8,
    /// TCP flags (RFC 9293, section 3.1: CWR ECE URG ACK PSH RST SYN FIN from the top); 0 for the rest.
    pub tcp_flags: u8,
    /// `FRAGMENT*` and [`DONT_FRAGMENT`] bits.
    pub fragment: u8,
}

impl Parsed {
    /// Source address.
    pub fn src(&self) -> IpAddr {
        self.address(0)
    }

    /// Destination address.
    pub fn dst(&self) -> IpAddr {
        self.address(1)
    }

    /// Offset of the first byte behind the IP packet.
    #[inline]
    pub fn end(&self) -> usize {
        self.l3 as usize + self.ip_len as usize
    }

    fn address(&self, which: usize) -> IpAddr {
        let raw: [[u8; 8]; 4] = self.addresses.map(u64::to_ne_bytes);
        if self.v6 {
            let (high, low) = (raw[2 * which], raw[2 * which + 1]);
            IpAddr::from(u128::to_be_bytes(
                (u64::from_be_bytes(high) as u128) << 64 | u64::from_be_bytes(low) as u128,
            ))
        } else {
            let [a, b, c, d, e, f, g, h] = raw[0];
            IpAddr::from(if which == 0 { [a, b, c, d] } else { [e, f, g, h] })
        }
    }
}

/// A fragment, the first or a later one.
pub const FRAGMENT: u8 = 1;
/// A fragment that is not the first: it has no transport header.
pub const FRAGMENT_LATER: u8 = 2;
/// IPv4 with Don't Fragment set (always so for IPv6).
pub const DONT_FRAGMENT: u8 = 4;

/// What a frame turned out to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Packet {
    /// An IP packet.
    Ip(Parsed),
    /// An ARP packet (RFC 826), to be read by `wire::arp`.
    Arp,
}

/// Parses an Ethernet frame. Checks every length field against the bytes there are, and the IPv4 header checksum.
/// Neighbour discovery comes out as [`L4Kind::Icmp`]. A multicast or broadcast destination is not an error here.
///
/// # Errors
/// The reason to drop it.
#[inline]
pub fn parse(frame: &[u8]) -> Result<Packet, DropReason> {
    match parse_plain(frame) {
        Some(parsed) => Ok(Packet::Ip(parsed)),
        None => parse_any(frame),
    }
}

/// The common case alone; `None` where [`parse`] is to be asked. For where its result must stay in registers.
#[inline(always)]
pub fn parse_plain(frame: &[u8]) -> Option<Parsed> {
    let head = frame.first_chunk::<PLAIN_V4_LEN>()?;
    match head[12..14] {
        [0x86, 0xdd] => parse_plain_v6(frame.first_chunk::<PLAIN_V6_LEN>()?, frame.len()),
        _ => parse_plain_v4(head, frame.len()),
    }
}

/// Ethernet, IPv4 without options, TCP without options. A shorter UDP packet takes the general way.
pub(crate) const PLAIN_V4_LEN: usize = 54;
/// Ethernet, IPv6 without extension headers, TCP without options. A shorter UDP packet takes the general way.
pub(crate) const PLAIN_V6_LEN: usize = 74;

/// What the header of a plain IPv4 packet says, as far as it is not in the same place in all of them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PlainV4 {
    pub(crate) ip_len: u16,
    pub(crate) ttl: u8,
    pub(crate) protocol: u8,
    /// Not looked at; 0 for UDP.
    pub(crate) tcp_flags: u8,
    /// The word of flags and offset.
    fragment: u16,
}

impl PlainV4 {
    /// Where its transport header is.
    pub(crate) const L4: usize = ETHERNET_LEN + IPV4_LEN;

    /// Of a frame whose EtherType, version and header length are those of IPv4 without options; `None` where anything
    /// else is not plain, or wrong. Not looked at: the addresses, and whether TCP flags make sense.
    #[inline(always)]
    pub(crate) fn read(head: &[u8; PLAIN_V4_LEN], frame_len: usize) -> Option<Self> {
        // Length, identification, fragment, TTL, protocol.
        let second = u64::from_be_bytes(chunk(head, 16));
        let (ip_len, fragment) = ((second >> 48) as u16, (second >> 16) as u16);
        let (ttl, protocol) = ((second >> 8) as u8, second as u8);
        if fragment & (MORE_FRAGMENTS | FRAGMENT_OFFSET) != 0
            || ip_len as usize > frame_len - ETHERNET_LEN
            || !header_sum_is_ones(chunk(head, 14), chunk(head, 22), chunk(head, 30))
        {
            return None;
        }
        let tcp_flags = plain_transport::<{ Self::L4 }, _>(head, protocol, ip_len as u32)?;
        Some(PlainV4 { ip_len, ttl, protocol, tcp_flags, fragment })
    }
}

/// The common case of IPv4, or `None` for anything else, right or wrong.
#[inline(always)]
fn parse_plain_v4(head: &[u8; PLAIN_V4_LEN], frame_len: usize) -> Option<Parsed> {
    // EtherType, version and header length; the type of service is anything.
    if u32::from_be_bytes(chunk(head, 12)) >> 8 != 0x08_0045 {
        return None;
    }
    let PlainV4 { ip_len, ttl, protocol, tcp_flags, fragment } = PlainV4::read(head, frame_len)?;
    let (src, dst): ([u8; 4], [u8; 4]) = (chunk(head, 26), chunk(head, 30));
    if !PLAIN_SOURCES[src[0] as usize] || src == dst || protocol == TCP && !flags_can_be(tcp_flags) {
        return None;
    }
    let ports = u32::from_be_bytes(chunk(head, PlainV4::L4));
    Some(Parsed {
        addresses: [u64::from_ne_bytes(chunk(head, 26)), 0, 0, 0],
        src_port: (ports >> 16) as u16,
        dst_port: ports as u16,
        ip_len,
        l3: ETHERNET_LEN as u8,
        l4: PlainV4::L4 as u8,
        protocol,
        kind: if protocol == TCP { L4Kind::Tcp } else { L4Kind::Udp },
        v6: false,
        ttl,
        tcp_flags,
        fragment: if fragment & DONT_FRAGMENT_BIT != 0 { DONT_FRAGMENT } else { 0 },
    })
}

/// What the header of a plain IPv6 packet says, as far as it is not in the same place in all of them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PlainV6 {
    pub(crate) ip_len: u16,
    pub(crate) hop_limit: u8,
    pub(crate) protocol: u8,
    /// Not looked at; 0 for UDP.
    pub(crate) tcp_flags: u8,
}

impl PlainV6 {
    /// Where its transport header is.
    pub(crate) const L4: usize = ETHERNET_LEN + IPV6_LEN;

    /// Of a frame whose EtherType and version are those of IPv6; `None` where anything else is not plain, or wrong. Not
    /// looked at: the addresses, and whether TCP flags make sense.
    #[inline(always)]
    pub(crate) fn read(head: &[u8; PLAIN_V6_LEN], frame_len: usize) -> Option<Self> {
        // Payload length, next header, hop limit.
        let second = u32::from_be_bytes(chunk(head, 18));
        let (payload, protocol, hop_limit) = ((second >> 16) as u16, (second >> 8) as u8, second as u8);
        if payload as usize > frame_len - Self::L4 {
            return None;
        }
        let tcp_flags = plain_transport::<{ Self::L4 }, _>(head, protocol, payload as u32 + IPV6_LEN as u32)?;
        Some(PlainV6 { ip_len: payload.checked_add(IPV6_LEN as u16)?, hop_limit, protocol, tcp_flags })
    }
}

/// The common case of IPv6, or `None` for anything else, right or wrong.
#[inline(always)]
fn parse_plain_v6(head: &[u8; PLAIN_V6_LEN], frame_len: usize) -> Option<Parsed> {
    // EtherType and version; the traffic class is anything. A first octet of zero may be no host's address.
    if u32::from_be_bytes(chunk(head, 12)) >> 12 != 0x8_6dd6
        || matches!(head[22], 0 | 0xff)
        || chunk::<16, _>(head, 22) == chunk(head, 38)
    {
        return None;
    }
    let PlainV6 { ip_len, hop_limit, protocol, tcp_flags } = PlainV6::read(head, frame_len)?;
    if protocol == TCP && !flags_can_be(tcp_flags) {
        return None;
    }
    let ports = u32::from_be_bytes(chunk(head, PlainV6::L4));
    Some(Parsed {
        addresses: std::array::from_fn(|word| u64::from_ne_bytes(chunk(head, 22 + 8 * word))),
        src_port: (ports >> 16) as u16,
        dst_port: ports as u16,
        ip_len,
        l3: ETHERNET_LEN as u8,
        l4: PlainV6::L4 as u8,
        protocol,
        kind: if protocol == TCP { L4Kind::Tcp } else { L4Kind::Udp },
        v6: true,
        ttl: hop_limit,
        tcp_flags,
        fragment: DONT_FRAGMENT,
    })
}

/// The flags of a TCP header, or 0 of a UDP header, at `L4`, where it fits into an IP packet of `ip_len` bytes.
#[inline(always)]
fn plain_transport<const L4: usize, const LEN: usize>(
    head: &[u8; LEN],
    protocol: u8,
    ip_len: u32,
) -> Option<u8> {
    let fits = |length: u32| (L4 - ETHERNET_LEN) as u32 + length <= ip_len;
    if protocol == TCP {
        let length = (head[L4 + 12] >> 4) as u32 * 4;
        (length >= 20 && fits(length)).then_some(head[L4 + 13])
    } else {
        let length = word16(head, L4 + 4) as u32;
        (protocol == UDP && length >= 8 && fits(length)).then_some(0)
    }
}

/// `N` bytes at `at`, which is a constant: the check vanishes, and the bytes are one load.
#[inline(always)]
pub(crate) fn chunk<const N: usize, const LEN: usize>(head: &[u8; LEN], at: usize) -> [u8; N] {
    head[at..].first_chunk().copied().unwrap_or([0; N])
}

#[inline(always)]
fn word16<const LEN: usize>(head: &[u8; LEN], at: usize) -> u16 {
    u16::from_be_bytes(chunk(head, at))
}

/// Whether an IPv4 header of 20 bytes, no fragment, sums up to ones (RFC 1071): whether it is, as a number of 160 bits, a
/// multiple of 0xffff. As 2^64 is one more than such a multiple, words of 64 bits are added up with their carries.
#[inline(always)]
fn header_sum_is_ones(first: [u8; 8], second: [u8; 8], third: [u8; 4]) -> bool {
    // No carry here: the first word ends in the fragment field, of which at most the upper byte is not zero.
    let total = u64::from_le_bytes(first).wrapping_add(u64::from(u32::from_le_bytes(third)));
    let (total, carry) = total.overflowing_add(u64::from_le_bytes(second));
    // Not zero: the version is not.
    total.wrapping_add(carry as u64).is_multiple_of(0xffff)
}

/// Sources of the common case, by the first octet: [`source_may_send`], and not what may be broadcast.
static PLAIN_SOURCES: [bool; 256] = {
    let mut sources = [false; 256];
    let mut octet = 0;
    while octet < 255 {
        sources[octet] = source_may_send(octet as u8);
        octet += 1;
    }
    sources
};

const MORE_FRAGMENTS: u16 = 0x2000;
const DONT_FRAGMENT_BIT: u16 = 0x4000;
const FRAGMENT_OFFSET: u16 = 0x1fff;

/// Whether packets may come from an IPv4 address that begins with this octet: not "this network" (RFC 1122, section
/// 3.2.1.3), loopback or multicast. (The last class, 240/4, is used by some clouds for pods.)
const fn source_may_send(first_octet: u8) -> bool {
    !matches!(first_octet, 0 | 127 | 224..=239)
}

/// Whether a host may have the address, and so send from it and be sent to: what [`parse`] holds sources against.
pub fn may_be_hosts(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => source_may_send(v4.octets()[0]) && !v4.is_broadcast(),
        IpAddr::V6(v6) => {
            !v6.is_multicast() && !v6.is_unspecified() && !v6.is_loopback() && v6.to_ipv4_mapped().is_none()
        }
    }
}

/// Whether TCP flags make sense: a SYN neither ends nor resets, and something must be said.
#[inline(always)]
fn flags_can_be(flags: u8) -> bool {
    const FIN: u8 = 1;
    const SYN: u8 = 2;
    const RST: u8 = 4;
    const ACK: u8 = 16;
    const BAD: u64 = {
        let (mut bad, mut flags) = (0, 0u8);
        while flags < 64 {
            let torn = flags & SYN != 0 && flags & (FIN | RST) != 0;
            let silent = flags & (FIN | SYN | RST | ACK) == 0;
            bad |= ((torn || silent) as u64) << flags;
            flags += 1;
        }
        bad
    };
    BAD >> (flags & 63) & 1 == 0
}

/// The general way, for every frame. Out of line, so that the common case stays small where it is inlined.
#[inline(never)]
pub(super) fn parse_any(frame: &[u8]) -> Result<Packet, DropReason> {
    match be16(frame, 12).ok_or(DropReason::Truncated)? {
        ETHERTYPE_IPV4 => parse_ipv4(frame, ETHERNET_LEN).map(Packet::Ip),
        ETHERTYPE_IPV6 => parse_ipv6(frame, ETHERNET_LEN).map(Packet::Ip),
        ETHERTYPE_ARP => Ok(Packet::Arp),
        0x8100 | 0x88a8 | 0x9100 => Err(DropReason::VlanTagged),
        _ => Err(DropReason::EtherType),
    }
}

fn parse_ipv4(frame: &[u8], l3: usize) -> Result<Parsed, DropReason> {
    let header = ipv4_header(frame, l3)?;
    let fixed: &[u8; IPV4_LEN] = header.first_chunk().ok_or(DropReason::Truncated)?;
    let ip_len = u16::from_be_bytes([fixed[2], fixed[3]]);
    let (l4, end) = (l3 + header.len(), l3 + ip_len as usize);
    if (ip_len as usize) < header.len() {
        return Err(DropReason::BadLength);
    }
    let packet = frame.get(..end).ok_or(DropReason::Truncated)?;
    if super::checksum::sum(header) != 0xffff {
        return Err(DropReason::BadIpChecksum);
    }
    let (src, dst) = (&fixed[12..16], &fixed[16..20]);
    if !source_may_send(src[0]) || src == [0xff; 4] || src == dst {
        return Err(DropReason::BadSource);
    }
    let word = u16::from_be_bytes([fixed[6], fixed[7]]);
    let mut parsed = Parsed {
        addresses: [u64::from_ne_bytes(std::array::from_fn(|i| fixed[12 + i])), 0, 0, 0],
        ip_len,
        protocol: fixed[9],
        ttl: fixed[8],
        fragment: if word & DONT_FRAGMENT_BIT != 0 { DONT_FRAGMENT } else { 0 },
        ..blank(l3, l4, false)?
    };
    if word & (MORE_FRAGMENTS | FRAGMENT_OFFSET) != 0 {
        let field = FragmentField { offset: (word & FRAGMENT_OFFSET) * 8, more: word & MORE_FRAGMENTS != 0 };
        parsed.fragment |= fragment_bits(field, fixed[9], end - l4)?;
    }
    read_transport(packet, parsed)
}

/// The header with its options: version and length fields checked, the checksum not.
pub(super) fn ipv4_header(frame: &[u8], l3: usize) -> Result<&[u8], DropReason> {
    let rest = frame.get(l3..).unwrap_or_default();
    let first = *rest.first().ok_or(DropReason::Truncated)?;
    let length = (first & 0x0f) as usize * 4;
    if first >> 4 != 4 || length < IPV4_LEN {
        return Err(DropReason::BadIpHeader);
    }
    rest.get(..length).ok_or(DropReason::Truncated)
}

fn parse_ipv6(frame: &[u8], l3: usize) -> Result<Parsed, DropReason> {
    let rest = frame.get(l3..).unwrap_or_default();
    if rest.first().ok_or(DropReason::Truncated)? >> 4 != 6 {
        return Err(DropReason::BadIpHeader);
    }
    let header: &[u8; IPV6_LEN] = rest.first_chunk().ok_or(DropReason::Truncated)?;
    let payload = u16::from_be_bytes([header[4], header[5]]);
    let end = l3 + IPV6_LEN + payload as usize;
    let packet = frame.get(..end).ok_or(DropReason::Truncated)?;
    if payload == 0 && header[6] != NO_NEXT_HEADER {
        // Either a lie or a jumbogram (RFC 2675), which no port here can carry.
        return Err(DropReason::BadLength);
    }
    let ip_len = u16::try_from(IPV6_LEN + payload as usize).map_err(|_| DropReason::BadLength)?;
    let chain = extension::walk(packet, header[6], l3 + IPV6_LEN)?;
    let mut parsed = Parsed {
        addresses: ipv6_addresses(header),
        ip_len,
        protocol: chain.protocol,
        ttl: header[7],
        fragment: DONT_FRAGMENT,
        ..blank(l3, chain.l4, true)?
    };
    if let Some(fragment) = chain.fragment {
        parsed.fragment |= fragment_bits(fragment.field, chain.protocol, end - fragment.payload)?;
    }
    let parsed = read_transport(packet, parsed)?;
    check_ipv6_source(header, &parsed)?;
    Ok(parsed)
}

const NO_NEXT_HEADER: u8 = 59;

pub(super) fn ipv6_addresses(header: &[u8; IPV6_LEN]) -> [u64; 4] {
    std::array::from_fn(|word| u64::from_ne_bytes(std::array::from_fn(|i| header[8 + word * 8 + i])))
}

/// No packet comes from multicast, loopback or IPv4-mapped (RFC 4942, section 2.2) addresses. The unspecified
/// address sends only what a node sends before it has an address: neighbour discovery and multicast listening.
fn check_ipv6_source(header: &[u8; IPV6_LEN], parsed: &Parsed) -> Result<(), DropReason> {
    let (src, dst) = (&header[8..24], &header[24..40]);
    let low_zero = src[..10].iter().all(|&byte| byte == 0);
    let mapped = low_zero && src[10..12] == [0xff, 0xff];
    let none_or_loopback = low_zero && src[10..15].iter().all(|&byte| byte == 0) && src[15] <= 1;
    let before_address = src[15] == 0 && parsed.kind == L4Kind::Icmp;
    if src[0] == 0xff || mapped || src == dst || none_or_loopback && !before_address {
        return Err(DropReason::BadSource);
    }
    Ok(())
}

/// Checks a fragment and says which it is. `length`: bytes of the fragment's part of the payload.
fn fragment_bits(field: FragmentField, protocol: u8, length: usize) -> Result<u8, DropReason> {
    let uneven = field.more && !length.is_multiple_of(8);
    let beyond = field.offset as usize + length > u16::MAX as usize;
    // RFC 1858, section 3.2.1: a second fragment inside the TCP header would rewrite what the first was judged by.
    let in_tcp_header = protocol == TCP && (1..20).contains(&field.offset);
    if length == 0 || uneven || beyond || in_tcp_header {
        return Err(DropReason::BadFragment);
    }
    Ok(FRAGMENT | if field.offset == 0 { 0 } else { FRAGMENT_LATER })
}

fn blank(l3: usize, l4: usize, v6: bool) -> Result<Parsed, DropReason> {
    let offset = |at: usize| u8::try_from(at).map_err(|_| DropReason::Ipv6Extension);
    Ok(Parsed {
        addresses: [0; 4],
        src_port: 0,
        dst_port: 0,
        ip_len: 0,
        l3: offset(l3)?,
        l4: offset(l4)?,
        protocol: 0,
        kind: L4Kind::Other,
        v6,
        ttl: 0,
        tcp_flags: 0,
        fragment: 0,
    })
}

/// Fills in what the transport header says. `packet` ends where the IP packet does.
fn read_transport(packet: &[u8], parsed: Parsed) -> Result<Parsed, DropReason> {
    if parsed.fragment & FRAGMENT_LATER != 0 {
        return Ok(parsed);
    }
    let transport = packet.get(parsed.l4 as usize..).unwrap_or_default();
    let read = match (parsed.protocol, parsed.v6) {
        (TCP, _) => read_tcp(transport, parsed),
        (UDP, _) => read_udp(transport, parsed),
        (ICMP, false) | (ICMPV6, true) => read_icmp(transport, parsed),
        (SCTP, _) => read_sctp(transport, parsed),
        _ => Ok(parsed),
    };
    match read {
        // RFC 1858, section 3.1; RFC 7112: a first fragment holds all headers, or it hides them.
        Err(_) if parsed.fragment & FRAGMENT != 0 => Err(DropReason::BadFragment),
        read => read,
    }
}

fn read_tcp(transport: &[u8], parsed: Parsed) -> Result<Parsed, DropReason> {
    let header: &[u8; 20] = transport.first_chunk().ok_or(DropReason::Truncated)?;
    let length = (header[12] >> 4) as usize * 4;
    if length < 20 || length > transport.len() || !flags_can_be(header[13]) {
        return Err(DropReason::BadTcpHeader);
    }
    Ok(Parsed { kind: L4Kind::Tcp, tcp_flags: header[13], ..with_ports(parsed, header) })
}

fn read_udp(transport: &[u8], parsed: Parsed) -> Result<Parsed, DropReason> {
    let header: &[u8; 8] = transport.first_chunk().ok_or(DropReason::Truncated)?;
    let length = u16::from_be_bytes([header[4], header[5]]) as usize;
    // A first fragment's length is the whole datagram's.
    if length < 8 || length > transport.len() && parsed.fragment & FRAGMENT == 0 {
        return Err(DropReason::BadLength);
    }
    Ok(Parsed { kind: L4Kind::Udp, ..with_ports(parsed, header) })
}

fn read_icmp(transport: &[u8], parsed: Parsed) -> Result<Parsed, DropReason> {
    let header: &[u8; 8] = transport.first_chunk().ok_or(DropReason::Truncated)?;
    let kind = icmp_kind(header[0], parsed.v6);
    let identifier = if kind == L4Kind::Echo { u16::from_be_bytes([header[4], header[5]]) } else { 0 };
    Ok(Parsed { kind, src_port: identifier, dst_port: identifier, ..parsed })
}

/// What a message of this type is: echo, an error that quotes a packet, or another.
pub(super) fn icmp_kind(message_type: u8, v6: bool) -> L4Kind {
    match (v6, message_type) {
        (false, 0 | 8) | (true, 128 | 129) => L4Kind::Echo,
        (false, 3 | 11 | 12) | (true, 1..=4) => L4Kind::IcmpError,
        _ => L4Kind::Icmp,
    }
}

fn read_sctp(transport: &[u8], parsed: Parsed) -> Result<Parsed, DropReason> {
    let header: &[u8; 12] = transport.first_chunk().ok_or(DropReason::Truncated)?;
    Ok(with_ports(parsed, header))
}

fn with_ports<const N: usize>(parsed: Parsed, header: &[u8; N]) -> Parsed {
    let port = |at: usize| be16(header, at).unwrap_or(0);
    Parsed { src_port: port(0), dst_port: port(2), ..parsed }
}

#[cfg(test)]
mod tests;
