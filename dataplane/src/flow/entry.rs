//! What one line of the flow table says, and how it stands in words.

use std::net::IpAddr;

use crate::drops::DropReason;
use crate::wire::Parsed;

/// Which packets a line answers for: the packet as it comes in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Key {
    /// Addresses, as in [`Parsed::addresses`].
    pub addresses: [u64; 4],
    /// Source port, destination port, protocol, in one word; see [`Key::ports_word`].
    pub ports: u64,
}

impl Key {
    /// The key of a packet.
    #[inline]
    pub fn of(parsed: &Parsed) -> Self {
        Key {
            addresses: parsed.addresses,
            ports: Self::ports_word(parsed.src_port, parsed.dst_port, parsed.protocol),
        }
    }

    /// A key from its parts. Both addresses must be of one family; the answer for a mixture matches no packet.
    pub fn new(src: IpAddr, src_port: u16, dst: IpAddr, dst_port: u16, protocol: u8) -> Self {
        Key { addresses: words_of(src, dst), ports: Self::ports_word(src_port, dst_port, protocol) }
    }

    /// Ports and protocol in one word; never zero, so that an empty line matches nothing.
    #[inline]
    pub fn ports_word(src_port: u16, dst_port: u16, protocol: u8) -> u64 {
        (src_port as u64) << 32 | (dst_port as u64) << 16 | (protocol as u64) << 8 | 1
    }

    /// Source port.
    pub fn src_port(&self) -> u16 {
        (self.ports >> 32) as u16
    }

    /// Destination port.
    pub fn dst_port(&self) -> u16 {
        (self.ports >> 16) as u16
    }

    /// IP protocol number.
    pub fn protocol(&self) -> u8 {
        (self.ports >> 8) as u8
    }

    /// Source address.
    pub fn src(&self, v6: bool) -> IpAddr {
        addresses_of(&self.addresses, v6).0
    }

    /// Destination address.
    pub fn dst(&self, v6: bool) -> IpAddr {
        addresses_of(&self.addresses, v6).1
    }

    /// The same packet seen from the other end.
    pub fn reversed(&self, v6: bool) -> Self {
        let (src, dst) = addresses_of(&self.addresses, v6);
        Key::new(dst, self.dst_port(), src, self.src_port(), self.protocol())
    }
}

/// Source and destination in the words of [`Parsed::addresses`].
pub fn words_of(src: IpAddr, dst: IpAddr) -> [u64; 4] {
    match (src, dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            let ([a, b, c, d], [e, f, g, h]) = (src.octets(), dst.octets());
            [u64::from_ne_bytes([a, b, c, d, e, f, g, h]), 0, 0, 0]
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            let ([s0, s1], [d0, d1]) = (halves(src.octets()), halves(dst.octets()));
            [s0, s1, d0, d1]
        }
        _ => [0; 4],
    }
}

/// The inverse of [`words_of`].
pub fn addresses_of(words: &[u64; 4], v6: bool) -> (IpAddr, IpAddr) {
    if v6 {
        (joined(words[0], words[1]), joined(words[2], words[3]))
    } else {
        let [a, b, c, d, e, f, g, h] = words[0].to_ne_bytes();
        (IpAddr::from([a, b, c, d]), IpAddr::from([e, f, g, h]))
    }
}

fn halves(octets: [u8; 16]) -> [u64; 2] {
    let both = u128::from_ne_bytes(octets);
    // The first eight raw bytes are the low half on a little-endian machine, the high half on a big-endian one.
    if cfg!(target_endian = "little") {
        [both as u64, (both >> 64) as u64]
    } else {
        [(both >> 64) as u64, both as u64]
    }
}

fn joined(first: u64, second: u64) -> IpAddr {
    let mut octets = [0; 16];
    octets[..8].copy_from_slice(&first.to_ne_bytes());
    octets[8..].copy_from_slice(&second.to_ne_bytes());
    IpAddr::from(octets)
}

/// Facts about an entry, as bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Flags(pub u16);

impl Flags {
    /// The packets are dropped; the reason's number is in the low byte.
    pub const DROP: Flags = Flags(1 << 8);
    /// Addresses or ports change.
    pub const NAT: Flags = Flags(1 << 9);
    /// The direction of replies.
    pub const REPLY: Flags = Flags(1 << 10);
    /// With [`Flags::DROP`]: each end is sent a reset (of a TCP connection that was revoked that way).
    pub const RESET: Flags = Flags(1 << 11);
    /// The destination is a Service's backend (on the forward direction).
    pub const SERVICE: Flags = Flags(1 << 12);
    /// Packets of this direction come by a tunnel or the uplink, never by the port of an endpoint.
    pub const FROM_UPLINK: Flags = Flags(1 << 13);
    /// They come by a tunnel.
    pub const TUNNELLED: Flags = Flags(1 << 14);
    /// What [`Flags::drop`] sets, and what goes with it.
    const VERDICT: Flags = Flags(Self::DROP.0 | Self::RESET.0 | 0xff);

    /// The flags of an entry that drops.
    pub fn drop(reason: DropReason) -> Self {
        Flags(Self::DROP.0 | reason as u16)
    }

    /// Whether all bits of `other` are set.
    #[inline]
    pub fn has(self, other: Flags) -> bool {
        self.0 & other.0 == other.0
    }

    /// Both.
    #[must_use]
    pub fn with(self, other: Flags) -> Self {
        Flags(self.0 | other.0)
    }

    /// The same, forwarding.
    #[must_use]
    pub fn forwarding(self) -> Self {
        Flags(self.0 & !Self::VERDICT.0)
    }

    /// Why packets are dropped, if they are.
    pub fn drop_reason(self) -> Option<DropReason> {
        if self.has(Self::DROP) { DropReason::from_number(self.0 as u8) } else { None }
    }
}

/// No entry of the other direction.
pub const NO_PARTNER: u32 = u32::MAX;

/// The complete answer for one direction of a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Entry {
    /// Which packets it is for.
    pub key: Key,
    /// The packet as it leaves: addresses and ports (protocol as in `key`).
    pub rewritten: Key,
    /// Epoch of the snapshot it was judged under; 0: never.
    pub epoch: u32,
    /// The way out: index into `Snapshot::egresses` of that epoch.
    pub egress: u16,
    /// What is special.
    pub flags: Flags,
    /// The rule that decided: the one that denied, else the destination's ingress rule.
    pub rule: u32,
    /// The source's egress rule, where it is allowed.
    pub egress_rule: u32,
    /// Slot of the other direction, or [`NO_PARTNER`].
    pub partner: u32,
    /// What to add to the IPv4 header checksum (address changes and the TTL's decrement).
    pub l3_delta: u16,
    /// What to add to the transport checksum.
    pub l4_delta: u16,
}

/// How an [`Entry`] stands in `WORDS` words behind the word of lock and epoch. One implementation a table.
pub(crate) fn encode<const WORDS: usize>(entry: &Entry) -> [u64; WORDS] {
    let mut words = [0; WORDS];
    words[0] = (entry.epoch as u64) << 32;
    words[1] = entry.egress as u64 | (entry.flags.0 as u64) << 16 | (entry.rule as u64) << 32;
    words[2] = entry.partner as u64 | (entry.l3_delta as u64) << 32 | (entry.l4_delta as u64) << 48;
    let addresses = address_words::<WORDS>();
    words[4..4 + addresses].copy_from_slice(&entry.key.addresses[..addresses]);
    words[4 + addresses] = entry.key.ports;
    words[5 + addresses..5 + 2 * addresses].copy_from_slice(&entry.rewritten.addresses[..addresses]);
    words[5 + 2 * addresses] = entry.rewritten.ports >> 16 | (entry.egress_rule as u64) << 32;
    words
}

/// The inverse of [`encode`].
#[inline(always)]
pub(crate) fn decode<const WORDS: usize>(words: &[u64; WORDS]) -> Entry {
    let addresses = address_words::<WORDS>();
    let key = Key { addresses: widened(&words[4..4 + addresses]), ports: words[4 + addresses] };
    let last = words[5 + 2 * addresses];
    Entry {
        key,
        rewritten: Key {
            addresses: widened(&words[5 + addresses..5 + 2 * addresses]),
            ports: (last & 0xffff_ffff) << 16 | key.ports & 0xffff,
        },
        epoch: (words[0] >> 32) as u32,
        egress: words[1] as u16,
        flags: Flags((words[1] >> 16) as u16),
        rule: (words[1] >> 32) as u32,
        egress_rule: (last >> 32) as u32,
        partner: words[2] as u32,
        l3_delta: (words[2] >> 32) as u16,
        l4_delta: (words[2] >> 48) as u16,
    }
}

/// Words that the two addresses take: 1 in lines of 8 words (IPv4), 4 in lines of 16 (IPv6).
#[inline(always)]
pub(crate) const fn address_words<const WORDS: usize>() -> usize {
    if WORDS == 8 { 1 } else { 4 }
}

#[inline(always)]
fn widened(words: &[u64]) -> [u64; 4] {
    let mut all = [0; 4];
    all[..words.len()].copy_from_slice(words);
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn any_entry(v6: bool) -> impl Strategy<Value = Entry> {
        let address = move || {
            any::<u128>().prop_map(move |bits| {
                if v6 { IpAddr::from(bits.to_be_bytes()) } else { IpAddr::from((bits as u32).to_be_bytes()) }
            })
        };
        let key = (address(), any::<u16>(), address(), any::<u16>());
        let new = (address(), any::<u16>(), address(), any::<u16>());
        let numbers = (any::<u32>(), any::<u16>(), any::<u16>(), any::<u32>(), any::<u32>(), any::<u32>());
        (key, new, any::<u8>(), numbers, any::<[u16; 2]>()).prop_map(|(k, n, protocol, numbers, deltas)| {
            Entry {
                key: Key::new(k.0, k.1, k.2, k.3, protocol),
                rewritten: Key::new(n.0, n.1, n.2, n.3, protocol),
                epoch: numbers.0,
                egress: numbers.1,
                flags: Flags(numbers.2),
                rule: numbers.3,
                egress_rule: numbers.4,
                partner: numbers.5,
                l3_delta: deltas[0],
                l4_delta: deltas[1],
            }
        })
    }

    proptest! {
        #[test]
        fn decode_is_the_inverse_of_encode_v4(entry in any_entry(false)) {
            prop_assert_eq!(decode::<8>(&encode(&entry)), entry);
        }

        #[test]
        fn decode_is_the_inverse_of_encode_v6(entry in any_entry(true)) {
            prop_assert_eq!(decode::<16>(&encode(&entry)), entry);
        }

        #[test]
        fn reversing_twice_is_nothing(entry in any_entry(true)) {
            prop_assert_eq!(entry.key.reversed(true).reversed(true), entry.key);
        }
    }
}
