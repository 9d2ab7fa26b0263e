//! The slow twin of [`super::parse`]: `etherparse` reads the headers, rules are written down one by one.

use etherparse::{
    Ethernet2HeaderSlice, Ipv4HeaderSlice, Ipv6FragmentHeaderSlice, Ipv6HeaderSlice, Ipv6RawExtHeaderSlice,
    TcpHeaderSlice, UdpHeaderSlice,
};
use std::net::{IpAddr, Ipv6Addr};

use super::parse::{DONT_FRAGMENT, FRAGMENT, FRAGMENT_LATER, L4Kind};

/// What the twin says of a packet, in its own words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct View {
    pub(crate) src: IpAddr,
    pub(crate) dst: IpAddr,
    pub(crate) ports: (u16, u16),
    pub(crate) ip_len: usize,
    pub(crate) l4: usize,
    pub(crate) protocol: u8,
    pub(crate) kind: L4Kind,
    pub(crate) ttl: u8,
    pub(crate) tcp_flags: u8,
    pub(crate) fragment: u8,
}

/// What the twin makes of a frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    Ip(View),
    Arp,
    Refused,
}

pub(crate) fn read(frame: &[u8]) -> Outcome {
    let view = match Ethernet2HeaderSlice::from_slice(frame) {
        Ok(ethernet) if ethernet.ether_type().0 == 0x0806 => return Outcome::Arp,
        Ok(ethernet) if ethernet.ether_type().0 == 0x0800 => read_ipv4(&frame[14..]),
        Ok(ethernet) if ethernet.ether_type().0 == 0x86dd => read_ipv6(&frame[14..]),
        _ => None,
    };
    view.map_or(Outcome::Refused, Outcome::Ip)
}

fn read_ipv4(bytes: &[u8]) -> Option<View> {
    let header = Ipv4HeaderSlice::from_slice(bytes).ok()?;
    let total = header.total_len() as usize;
    let length = header.slice().len();
    let packet = bytes.get(..total)?;
    let payload = packet.get(length..)?;
    let words = header.slice().chunks(2).map(|pair| u32::from(pair[0]) * 256 + u32::from(pair[1]));
    require(words.sum::<u32>() % 0xffff == 0)?;
    let (src, dst) = (header.source_addr(), header.destination_addr());
    let this_network = src.octets()[0] == 0;
    require(!src.is_multicast() && !src.is_broadcast() && !src.is_loopback() && !this_network && src != dst)?;
    let offset = header.fragments_offset().value() as usize * 8;
    let fragment = fragment_of(offset, header.more_fragments(), payload.len())?;
    let dont = if header.dont_fragment() { DONT_FRAGMENT } else { 0 };
    let protocol = header.protocol().0;
    require(!(protocol == 6 && offset > 0 && offset < 20))?;
    let view = View {
        src: IpAddr::V4(src),
        dst: IpAddr::V4(dst),
        ports: (0, 0),
        ip_len: total,
        l4: 14 + length,
        protocol,
        kind: L4Kind::Other,
        ttl: header.ttl(),
        tcp_flags: 0,
        fragment: fragment | dont,
    };
    read_transport(payload, view, false)
}

fn read_ipv6(bytes: &[u8]) -> Option<View> {
    let header = Ipv6HeaderSlice::from_slice(bytes).ok()?;
    let length = header.payload_length() as usize;
    let packet = bytes.get(..40 + length)?;
    require(length > 0 || header.next_header().0 == 59)?;
    require(40 + length <= 65_535)?;
    let (mut at, mut next, mut fragment) = (40, header.next_header().0, 0);
    let mut kinds = Vec::new();
    while [0, 43, 44, 60].contains(&next) && fragment & FRAGMENT_LATER == 0 {
        require(kinds.len() < 5 && (next != 0 || kinds.is_empty()) && (next != 44 || !kinds.contains(&44)))?;
        kinds.push(next);
        let rest = &packet[at..];
        if next == 44 {
            let header = Ipv6FragmentHeaderSlice::from_slice(rest).ok()?;
            let offset = header.fragment_offset().value() as usize * 8;
            fragment = fragment_of(offset, header.more_fragments(), rest.len() - 8)?;
            require(!(header.next_header().0 == 6 && offset > 0 && offset < 20))?;
            (next, at) = (header.next_header().0, at + 8);
        } else {
            let header = Ipv6RawExtHeaderSlice::from_slice(rest).ok()?;
            let segments_left = if next == 43 { rest[3] } else { 0 };
            require(segments_left == 0)?;
            (next, at) = (header.next_header().0, at + header.slice().len());
        }
    }
    require(14 + at <= 255)?;
    let (src, dst) = (header.source_addr(), header.destination_addr());
    let view = View {
        src: IpAddr::V6(src),
        dst: IpAddr::V6(dst),
        ports: (0, 0),
        ip_len: 40 + length,
        l4: 14 + at,
        protocol: next,
        kind: L4Kind::Other,
        ttl: header.hop_limit(),
        tcp_flags: 0,
        fragment: fragment | DONT_FRAGMENT,
    };
    let view = read_transport(&packet[at..], view, true)?;
    require(!src.is_multicast() && !src.is_loopback() && src.to_ipv4_mapped().is_none() && src != dst)?;
    require(src != Ipv6Addr::UNSPECIFIED || view.kind == L4Kind::Icmp)?;
    Some(view)
}

/// Bits for a fragment with this place; `None` for one that cannot be.
fn fragment_of(offset: usize, more: bool, length: usize) -> Option<u8> {
    if offset == 0 && !more {
        return Some(0);
    }
    require(length > 0 && (!more || length.is_multiple_of(8)) && offset + length <= 65_535)?;
    Some(if offset > 0 { FRAGMENT | FRAGMENT_LATER } else { FRAGMENT })
}

fn read_transport(payload: &[u8], view: View, v6: bool) -> Option<View> {
    if view.fragment & FRAGMENT_LATER != 0 {
        return Some(view);
    }
    match view.protocol {
        6 => {
            let header = TcpHeaderSlice::from_slice(payload).ok()?;
            require(!(header.syn() && (header.fin() || header.rst())))?;
            require(header.syn() || header.fin() || header.rst() || header.ack())?;
            let ports = (header.source_port(), header.destination_port());
            Some(View { kind: L4Kind::Tcp, ports, tcp_flags: payload[13], ..view })
        }
        17 => {
            let header = UdpHeaderSlice::from_slice(payload).ok()?;
            let length = header.length() as usize;
            require(length >= 8 && (length <= payload.len() || view.fragment & FRAGMENT != 0))?;
            Some(View { kind: L4Kind::Udp, ports: (header.source_port(), header.destination_port()), ..view })
        }
        1 if !v6 => read_icmp(payload, view, &[0, 8], &[3, 11, 12]),
        58 if v6 => read_icmp(payload, view, &[128, 129], &[1, 2, 3, 4]),
        132 => {
            require(payload.len() >= 12)?;
            let port = |at: usize| u16::from_be_bytes([payload[at], payload[at + 1]]);
            Some(View { ports: (port(0), port(2)), ..view })
        }
        _ => Some(view),
    }
}

fn read_icmp(payload: &[u8], view: View, echoes: &[u8], errors: &[u8]) -> Option<View> {
    require(payload.len() >= 8)?;
    let identifier = u16::from_be_bytes([payload[4], payload[5]]);
    Some(match payload[0] {
        kind if echoes.contains(&kind) => {
            View { kind: L4Kind::Echo, ports: (identifier, identifier), ..view }
        }
        kind if errors.contains(&kind) => View { kind: L4Kind::IcmpError, ..view },
        _ => View { kind: L4Kind::Icmp, ..view },
    })
}

fn require(condition: bool) -> Option<()> {
    condition.then_some(())
}
