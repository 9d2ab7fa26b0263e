//! Rewrite: an entry's answer applied to a packet: addresses, ports, TTL, checksums by their deltas, MSS, headers.

use afxdp_driver::Frame;

use crate::flow::{Entry, Flags, Key};
use crate::snapshot::Egress;
use crate::wire::checksum::{add, adjust, apply_l4, delta, delta16};
use crate::wire::parse::{FRAGMENT_LATER, Parsed};
use crate::wire::vxlan::{self, Inside};
use crate::wire::{ETHERNET_LEN, ICMP, L4Kind, put, tcp};

/// What a TTL one lower adds to the sum of an IPv4 header: the TTL is the high byte of its word.
pub(super) const TTL_DELTA: u16 = !0x0100;

/// Makes the packet what leaves by `egress`. False where the frame is not what `parsed` says; it is to be freed then.
#[inline(always)]
pub(super) fn forward(frame: &mut Frame, parsed: &Parsed, entry: &Entry, egress: &Egress, hash: u32) -> bool {
    // 1. The packet alone: padding was not measured against the MTU.
    if !frame.resize(parsed.end()) {
        return false;
    }
    // 2. Addresses, TTL, checksums.
    let done = if entry.flags.has(Flags::NAT) {
        translate(frame, parsed, entry)
    } else {
        decrement_ttl(frame, parsed, TTL_DELTA)
    };
    // 3. A SYN says no more than what fits.
    if parsed.tcp_flags & tcp::SYN != 0 && egress.clamp_mss > 0 {
        let headers = if parsed.v6 { 20 } else { 0 };
        // A SYN that says less already, or nothing, is as good.
        let _ = tcp::clamp_mss(frame, parsed, egress.clamp_mss.saturating_sub(headers));
    }
    // 4. What goes in front.
    done && header(frame, egress, hash)
}

/// Puts the egress's header in front of an IP packet whose flow has this hash.
pub(super) fn header(frame: &mut Frame, egress: &Egress, hash: u32) -> bool {
    Inside::of(frame, hash).is_some_and(|inside| header_around(frame, egress, inside))
}

/// As [`header`], of a packet that has been looked at.
#[inline(always)]
pub(super) fn header_around(frame: &mut Frame, egress: &Egress, inside: Inside) -> bool {
    if let Some(template) = egress.template_v4() {
        return vxlan::encapsulate_v4(frame, template, inside);
    }
    if egress.is_tunnel() {
        return vxlan::encapsulate_v6(frame, egress.template_v6(), inside);
    }
    let (Some(head), Some(macs)) = (frame.first_chunk_mut::<12>(), egress.header.first_chunk::<12>()) else {
        return false;
    };
    *head = *macs;
    true
}

/// One hop less, with the IPv4 header checksum adjusted by `delta`, which includes it.
#[inline(always)]
pub(super) fn decrement_ttl(frame: &mut [u8], parsed: &Parsed, delta: u16) -> bool {
    if parsed.v6 {
        return put(frame, ETHERNET_LEN + 7, &[parsed.ttl.wrapping_sub(1)]);
    }
    let Some(header) = frame.get_mut(ETHERNET_LEN..).and_then(|bytes| bytes.first_chunk_mut::<20>()) else {
        return false;
    };
    header[8] = parsed.ttl.wrapping_sub(1);
    let check = adjust(u16::from_be_bytes([header[10], header[11]]), delta);
    header[10..12].copy_from_slice(&check.to_be_bytes());
    true
}

/// Writes the entry's addresses and ports, with all checksums.
#[inline(always)]
fn translate(frame: &mut [u8], parsed: &Parsed, entry: &Entry) -> bool {
    let new = &entry.rewritten;
    let l4 = parsed.l4 as usize;
    let written = if parsed.v6 {
        let mut octets = [0; 32];
        for (place, word) in octets.as_chunks_mut::<8>().0.iter_mut().zip(new.addresses) {
            *place = word.to_ne_bytes();
        }
        put(frame, ETHERNET_LEN + 8, &octets)
    } else {
        put(frame, ETHERNET_LEN + 12, &new.addresses[0].to_ne_bytes())
    };
    if !written || !decrement_ttl(frame, parsed, entry.l3_delta) {
        return false;
    }
    if parsed.fragment & FRAGMENT_LATER != 0 {
        return true;
    }
    let ports = match parsed.kind {
        L4Kind::Tcp | L4Kind::Udp => {
            let [a, b] = new.src_port().to_be_bytes();
            let [c, d] = new.dst_port().to_be_bytes();
            put(frame, l4, &[a, b, c, d])
        }
        L4Kind::Echo => put(frame, l4 + 4, &new.src_port().to_be_bytes()),
        _ => true,
    };
    ports && apply_l4(frame, parsed, entry.l4_delta)
}

/// What a translation adds to the IPv4 header's sum (with the TTL's decrement) and to the transport's.
pub(super) fn deltas(old: &Key, new: &Key, kind: L4Kind) -> (u16, u16) {
    let bytes = |key: &Key| {
        let mut octets = [0; 32];
        for (place, word) in octets.as_chunks_mut::<8>().0.iter_mut().zip(key.addresses) {
            *place = word.to_ne_bytes();
        }
        octets
    };
    let addresses = delta(&bytes(old), &bytes(new));
    let src_port = delta16(old.src_port(), new.src_port());
    let dst_port = delta16(old.dst_port(), new.dst_port());
    let transport = match kind {
        L4Kind::Tcp | L4Kind::Udp => add(addresses, add(src_port, dst_port)),
        L4Kind::Echo if old.protocol() == ICMP => src_port,
        L4Kind::Echo => add(addresses, src_port),
        _ if old.protocol() == ICMP => 0,
        _ => addresses,
    };
    (add(addresses, TTL_DELTA), transport)
}
