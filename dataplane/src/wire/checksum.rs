//! The Internet checksum: RFC 1071 sums, RFC 1624 incremental updates, and the rules of UDP.
//!
//! Values are numbers in host order, as read from the packet with `u16::from_be_bytes`. A *sum* is the ones'
//! complement sum of 16-bit words; a *check* is its complement, as it stands in the packet; a *delta* is what a
//! rewrite adds to a sum: it can be computed once for a flow and applied to each of its packets.

use super::parse::{FRAGMENT, L4Kind, Parsed};
use super::{ICMP, ICMPV6, TCP, UDP, be16, put};

/// Ones' complement sum of the bytes as big-endian words; an odd last byte counts as the high half of a word.
#[inline]
pub fn sum(bytes: &[u8]) -> u16 {
    let (blocks, rest) = bytes.as_chunks::<32>();
    let mut lanes = [0u64; 8];
    for block in blocks {
        let (words, _) = block.as_chunks::<4>();
        for (lane, word) in lanes.iter_mut().zip(words) {
            *lane += u32::from_ne_bytes(*word) as u64;
        }
    }
    let mut total: u64 = lanes.iter().sum();
    let (words, rest) = rest.as_chunks::<4>();
    for word in words {
        total += u32::from_ne_bytes(*word) as u64;
    }
    let (pairs, rest) = rest.as_chunks::<2>();
    for pair in pairs {
        total += u16::from_ne_bytes(*pair) as u64;
    }
    if let [last] = rest {
        total += u16::from_ne_bytes([*last, 0]) as u64;
    }
    // RFC 1071, section 2(B): the sum of words in the other byte order is the sum in the other byte order.
    u16::from_be(fold(total))
}

/// Folds carries until 16 bits are left.
#[inline]
pub fn fold(total: u64) -> u16 {
    let total = (total & 0xffff_ffff) + (total >> 32);
    let total = (total & 0xffff) + (total >> 16 & 0xffff) + (total >> 32);
    let total = (total & 0xffff) + (total >> 16);
    ((total & 0xffff) + (total >> 16)) as u16
}

/// Ones' complement addition.
#[inline]
pub fn add(a: u16, b: u16) -> u16 {
    let (total, carry) = a.overflowing_add(b);
    total + carry as u16
}

/// The check of the bytes, whose own checksum field must be zero.
#[inline]
pub fn check(bytes: &[u8]) -> u16 {
    !sum(bytes)
}

/// What replacing `old` by `new` adds to a sum: ~old + new. Both begin at an even offset of the summed bytes.
/// Deltas of several changes are put together by [`add`].
#[inline]
pub fn delta(old: &[u8], new: &[u8]) -> u16 {
    add(!sum(old), sum(new))
}

/// As [`delta`], for one 16-bit field.
#[inline]
pub fn delta16(old: u16, new: u16) -> u16 {
    add(!old, new)
}

/// The check after a change of `delta` (RFC 1624, equation 3: HC' = ~(~HC + ~m + m')).
#[inline]
pub fn adjust(check: u16, delta: u16) -> u16 {
    !add(!check, delta)
}

/// As [`adjust`] under UDP's rules (RFC 768; RFC 8200, section 8.1): a check of zero means none and stays, a computed
/// zero is sent as 0xffff.
#[inline]
pub fn adjust_udp(check: u16, delta: u16) -> u16 {
    if check == 0 { 0 } else { nonzero(adjust(check, delta)) }
}

/// A computed UDP check as it is sent: never zero.
#[inline]
pub fn nonzero(check: u16) -> u16 {
    if check == 0 { 0xffff } else { check }
}

/// Adjusts the IPv4 header checksum by `delta`; nothing to do for IPv6. False where the frame is shorter.
#[inline]
#[must_use]
pub fn apply_l3(frame: &mut [u8], parsed: &Parsed, delta: u16) -> bool {
    parsed.v6 || apply(frame, parsed.l3 as usize + 10, |check| adjust(check, delta))
}

/// Adjusts the transport checksum by `delta`; nothing to do for a transport without one that we know and for
/// fragments without a transport header. For ICMP on IPv4, which covers no addresses, `delta` must not either.
/// False where the frame is shorter.
#[inline]
#[must_use]
pub fn apply_l4(frame: &mut [u8], parsed: &Parsed, delta: u16) -> bool {
    let l4 = parsed.l4 as usize;
    match parsed.kind {
        L4Kind::Tcp => apply(frame, l4 + 16, |check| adjust(check, delta)),
        L4Kind::Udp => apply(frame, l4 + 6, |check| adjust_udp(check, delta)),
        L4Kind::Echo | L4Kind::IcmpError | L4Kind::Icmp => apply(frame, l4 + 2, |check| adjust(check, delta)),
        L4Kind::Other => true,
    }
}

#[inline]
fn apply(frame: &mut [u8], at: usize, change: impl Fn(u16) -> u16) -> bool {
    match be16(frame, at) {
        Some(check) => put(frame, at, &change(check).to_be_bytes()),
        None => false,
    }
}

/// Sum of the pseudo-header (RFC 9293, section 3.1; RFC 8200, section 8.1) over the addresses of `parsed`, for a
/// transport of `length` bytes.
#[inline]
pub fn pseudo_header_sum(parsed: &Parsed, protocol: u8, length: u32) -> u16 {
    let halves = |word: u64| (word >> 32) + (word & 0xffff_ffff);
    let addresses: u64 = parsed.addresses.iter().map(|&word| halves(word)).sum();
    let rest = protocol as u64 + (length >> 16) as u64 + (length & 0xffff) as u64;
    add(u16::from_be(fold(addresses)), fold(rest))
}

/// The transport check that a packet should carry, from all its bytes: the slow way. `None` for protocols whose
/// checksum we do not know, and where the frame is shorter than `parsed` says. The field itself is skipped.
pub fn transport_check(frame: &[u8], parsed: &Parsed) -> Option<u16> {
    let (bytes, at) = transport(frame, parsed)?;
    let check = be16(bytes, at)?;
    let full = add(add(sum(bytes), !check), pseudo_sum_of(parsed, bytes.len()));
    Some(if parsed.protocol == UDP { nonzero(!full) } else { !full })
}

/// Whether the transport checksum is right. True for what cannot be judged: fragments, and protocols whose checksum we
/// do not know. A UDP check of zero is right on IPv4 and wrong on IPv6 (RFC 8200, section 8.1; tunnels, which may
/// send it, are not to be verified).
pub fn transport_ok(frame: &[u8], parsed: &Parsed) -> bool {
    if parsed.fragment & FRAGMENT != 0 || !has_checksum(parsed) {
        return true;
    }
    let Some((bytes, at)) = transport(frame, parsed) else { return false };
    if parsed.protocol == UDP && be16(bytes, at) == Some(0) {
        return !parsed.v6;
    }
    add(sum(bytes), pseudo_sum_of(parsed, bytes.len())) == 0xffff
}

fn has_checksum(parsed: &Parsed) -> bool {
    parsed.kind != L4Kind::Other
}

/// ICMP on IPv4 has no pseudo-header.
fn pseudo_sum_of(parsed: &Parsed, length: usize) -> u16 {
    if parsed.protocol == ICMP { 0 } else { pseudo_header_sum(parsed, parsed.protocol, length as u32) }
}

/// The bytes that the transport checksum covers, and where in them it stands.
fn transport<'a>(frame: &'a [u8], parsed: &Parsed) -> Option<(&'a [u8], usize)> {
    if !has_checksum(parsed) {
        return None;
    }
    let bytes = frame.get(parsed.l4 as usize..parsed.end())?;
    match parsed.protocol {
        TCP => Some((bytes, 16)),
        // Bytes behind the datagram's own length are not UDP's (RFC 768).
        UDP => Some((bytes.get(..be16(bytes, 4)? as usize)?, 6)),
        ICMP | ICMPV6 => Some((bytes, 2)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::build;
    use crate::wire::parse::{Packet, parse};
    use proptest::prelude::*;

    /// The obvious way: two bytes at a time.
    fn slow_sum(bytes: &[u8]) -> u16 {
        let mut total = 0u32;
        for pair in bytes.chunks(2) {
            total += u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |&low| u32::from(low));
            total = (total & 0xffff) + (total >> 16);
        }
        total as u16
    }

    #[test]
    fn the_example_of_rfc_1071() {
        let bytes = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!(sum(&bytes), 0xddf2);
        assert_eq!(sum(&bytes[..7]), slow_sum(&bytes[..7]));
    }

    #[test]
    fn the_example_of_rfc_1624() {
        // Section 4: HC = 0xDD2F, m = 0x5555, m' = 0x3285 gives 0x0000, where equation 2 gave 0xFFFF.
        assert_eq!(adjust(0xdd2f, delta16(0x5555, 0x3285)), 0x0000);
        assert_eq!(adjust(0xdd2f, delta(&[0x55, 0x55], &[0x32, 0x85])), 0x0000);
    }

    #[test]
    fn udp_without_a_checksum_keeps_none_and_a_computed_zero_is_sent_as_ones() {
        assert_eq!(adjust_udp(0, delta16(1, 2)), 0);
        assert_eq!(adjust(0xdd2f, delta16(0x5555, 0x3285)), 0);
        assert_eq!(adjust_udp(0xdd2f, delta16(0x5555, 0x3285)), 0xffff);
    }

    #[test]
    fn an_ipv4_header_seen_in_the_wild() {
        let mut header = [
            0x45, 0x00, 0x00, 0x73, 0x00, 0x00, 0x40, 0x00, 0x40, 0x11, 0xb8, 0x61, 0xc0, 0xa8, 0x00, 0x01,
            0xc0, 0xa8, 0x00, 0xc7,
        ];
        assert_eq!(sum(&header), 0xffff);
        header[10..12].fill(0);
        assert_eq!(check(&header), 0xb861);
    }

    #[test]
    fn a_flipped_bit_in_any_byte_of_the_transport_is_found() {
        for frame in build::one_of_each() {
            let Ok(Packet::Ip(parsed)) = parse(&frame) else { panic!("{frame:02x?}") };
            assert!(transport_ok(&frame, &parsed), "{parsed:?}");
            for at in parsed.l4 as usize..parsed.end() {
                let mut broken = frame.clone();
                broken[at] ^= 0x10;
                assert!(!transport_ok(&broken, &parsed), "{parsed:?}, byte {at}");
            }
        }
    }

    #[test]
    fn udp_without_a_checksum_is_right_on_ipv4_alone() {
        for v6 in [false, true] {
            let (mut frame, parsed) = build::between(v6, build::udp(), b"data").frame();
            let at = parsed.l4 as usize + 6;
            frame[at..at + 2].fill(0);
            assert_eq!(transport_ok(&frame, &parsed), !v6);
        }
    }

    #[test]
    fn bytes_behind_a_udp_datagram_are_not_summed() {
        let (mut frame, parsed) = build::between(true, build::udp(), b"data").frame();
        frame.extend([0x12, 0x34]);
        frame[19] += 2;
        let longer = Parsed { ip_len: parsed.ip_len + 2, ..parsed };
        assert_eq!(parse(&frame), Ok(Packet::Ip(longer)));
        assert!(transport_ok(&frame, &longer));
    }

    proptest! {
        #[test]
        fn the_fast_sum_is_the_slow_sum(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
            prop_assert_eq!(sum(&bytes), slow_sum(&bytes));
        }

        #[test]
        fn sums_of_even_parts_add_up(bytes in proptest::collection::vec(any::<u8>(), 0..200), cut in 0usize..100) {
            let (front, back) = bytes.split_at((cut * 2).min(bytes.len() & !1));
            prop_assert_eq!(add(sum(front), sum(back)), sum(&bytes));
        }

        #[test]
        fn folding_is_modulo_65535(total: u64) {
            prop_assert_eq!(u64::from(fold(total)) % 0xffff, total % 0xffff);
            prop_assert_eq!(fold(total) == 0, total == 0);
        }

        /// Any even-aligned rewrite of any bytes: the update is the recomputation.
        #[test]
        fn the_increment_is_the_recomputation(
            mut bytes in proptest::collection::vec(any::<u8>(), 80..200),
            new in proptest::collection::vec(any::<u8>(), 2..40),
            at in 0usize..16,
        ) {
            // A header is never all zero (the version is not): that is RFC 1624's one condition.
            bytes[79] = 0x45;
            let (at, new) = (at * 2, &new[..new.len() & !1]);
            let before = check(&bytes);
            let change = delta(&bytes[at..at + new.len()], new);
            bytes[at..at + new.len()].copy_from_slice(new);
            prop_assert_eq!(adjust(before, change), check(&bytes));
        }

        /// Rewriting addresses and ports of a packet as NAT does, against the check computed anew.
        #[test]
        fn nat_by_increment_is_nat_by_recomputation(
            (mut frame, _) in build::any_packet(), src: [u8; 16], dst: [u8; 16], ports: [u8; 4],
        ) {
            let Ok(Packet::Ip(parsed)) = parse(&frame) else { return Err(TestCaseError::fail("valid packet refused")) };
            if build::is_later_fragment(&parsed) {
                return Ok(());
            }
            let (l3, l4) = (parsed.l3 as usize, parsed.l4 as usize);
            let new = if parsed.v6 { [src, dst].concat() } else { [&src[..4], &dst[..4]].concat() };
            let at = l3 + if parsed.v6 { 8 } else { 12 };
            let addresses = delta(&frame[at..at + new.len()], &new);
            let mut l4_delta = if parsed.protocol == ICMP { delta16(0, 0) } else { addresses };
            if matches!(parsed.kind, L4Kind::Tcp | L4Kind::Udp) {
                l4_delta = add(l4_delta, delta(&frame[l4..l4 + 4], &ports));
                frame[l4..l4 + 4].copy_from_slice(&ports);
            }
            frame[at..at + new.len()].copy_from_slice(&new);
            prop_assert!(apply_l3(&mut frame, &parsed, addresses));
            prop_assert!(apply_l4(&mut frame, &parsed, l4_delta));
            // Addresses may have become such as `parse` refuses: keep the offsets, take the new addresses.
            let renewed = build::with_addresses_of(&frame, &parsed);
            if !parsed.v6 {
                prop_assert_eq!(sum(&frame[l3..l4]), 0xffff);
            }
            prop_assert!(transport_ok(&frame, &renewed));
            if parsed.fragment & FRAGMENT == 0 && parsed.kind != L4Kind::Other {
                let found = transport(&frame, &renewed).and_then(|(bytes, at)| be16(bytes, at));
                prop_assert!(found == transport_check(&frame, &renewed) || found == Some(0));
            }
        }
    }
}
