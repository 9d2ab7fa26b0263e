//! The express way: what almost every packet is, a whole TCP or UDP packet of a flow that has been judged, in few
//! instructions.
//!
//! It accepts and never refuses: a packet that is not plain, or whose line says anything but "forward", takes the general
//! way (the rest of this module), which is complete by itself and knows nothing of this one. A property test holds
//! the two against each other, packet by packet. What no flow of the table can be is not looked for here: an address that
//! may not send, for example, has no line.
//!
//! ```text
//!   Lane   what all packets of a batch have in common          once a batch
//!   Head   what is remembered of a packet between the passes   24 bytes
//! ```

use afxdp_driver::Frame;

use super::{Fate, Item, Pipeline, Turn, first_half, rewrite};
use crate::flow::entry::words_of;
use crate::flow::{Flags, FlowTables, Hit, Key};
use crate::snapshot::{Egress, PortView, Role, Snapshot};
use crate::wire::checksum::{adjust, adjust_udp};
use crate::wire::hash::{hash_v4, hash_v6};
use crate::wire::parse::{FRAGMENT, PLAIN_V4_LEN, PLAIN_V6_LEN, PlainV4, PlainV6, chunk};
use crate::wire::vxlan::{self, Inside};
use crate::wire::{ETHERNET_LEN, ETHERTYPE_IPV4, ETHERTYPE_IPV6, IPV4_LEN, IPV6_LEN, L4Kind, TCP, UDP, tcp};

/// What is remembered of a packet while the lines of its batch are on their way.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Head {
    /// The ports' word of its key; 0, which no key has, where the packet takes the general way.
    ports: u64,
    /// The hash of its key.
    hash: u64,
    /// Where its line is expected.
    slot: u32,
    ip_len: u16,
    /// [`Head::IPV6`], [`Head::IS_READ`].
    kind: u8,
}

impl Head {
    const IPV6: u8 = 1;
    const IS_READ: u8 = 2;

    /// Of a packet that has been read in the general way, and that the rest of the express way may be good for.
    pub(super) fn note(&mut self, item: &Item, flows: &FlowTables) {
        let parsed = &item.parsed;
        let plain_l4 = ETHERNET_LEN + if parsed.v6 { IPV6_LEN } else { IPV4_LEN };
        let is_plain = item.fate == Fate::Flow
            && parsed.fragment & FRAGMENT == 0
            && parsed.l4 as usize == plain_l4
            && matches!(parsed.kind, L4Kind::Tcp | L4Kind::Udp)
            && is_in_midstream(parsed.protocol, parsed.tcp_flags, parsed.ttl);
        *self = Head {
            ports: if is_plain { item.key().ports } else { 0 },
            hash: item.hash,
            slot: if parsed.v6 { flows.v6.expect_new(item.hash) } else { flows.v4.expect_new(item.hash) },
            ip_len: parsed.ip_len,
            kind: Head::IS_READ | if parsed.v6 { Head::IPV6 } else { 0 },
        };
    }

    #[cfg(test)]
    pub(super) fn refuse(&mut self) {
        self.ports = 0;
    }

    #[inline(always)]
    pub(super) fn is_v6(&self) -> bool {
        self.kind & Head::IPV6 != 0
    }

    /// The hash of its key.
    #[inline(always)]
    pub(super) fn hash(&self) -> u64 {
        self.hash
    }

    /// The key of a plain packet, which has not been read in the general way.
    pub(super) fn key(&self, frame: &Frame) -> Option<Key> {
        let mut addresses = [0; 4];
        if self.ports == 0 {
            return None;
        } else if self.is_v6() {
            let bytes = frame.first_chunk::<PLAIN_V6_LEN>()?;
            addresses = std::array::from_fn(|word| u64::from_ne_bytes(chunk(bytes, 22 + 8 * word)));
        } else {
            addresses[0] = u64::from_ne_bytes(chunk(frame.first_chunk::<PLAIN_V4_LEN>()?, 26));
        }
        Some(Key { addresses, ports: self.ports })
    }

    /// Whether the packet's [`Item`] has been filled in.
    #[inline(always)]
    pub(super) fn is_read(&self) -> bool {
        self.kind & Head::IS_READ != 0
    }

    /// Notes that the [`Item`] has been filled in.
    pub(super) fn set_read(&mut self) {
        self.kind |= Head::IS_READ;
    }

    /// Whether the line that is expected seems to be the flow's. Of no meaning for a packet of the general way.
    #[inline(always)]
    fn is_expected(&self, flows: &FlowTables) -> bool {
        match self.is_v6() {
            false => flows.v4.bears(self.slot, self.ports),
            true => flows.v6.bears(self.slot, self.ports),
        }
    }

    /// Whether its flow is likely not in the table.
    pub(super) fn is_strange(&self, flows: &FlowTables) -> bool {
        self.ports == 0 || !self.is_expected(flows)
    }
}

/// What all packets of a batch have in common.
#[derive(Debug, Clone, Copy)]
pub(super) struct Lane {
    /// The first 16 bytes of a frame as two words, and which of their bits must be so: the port's MAC address and,
    /// where one machine is behind the port, that one's.
    expected: [u64; 2],
    mask: [u64; 2],
    /// The second of each as it is for IPv4 without options.
    ipv4: (u64, u64),
    /// Behind an endpoint's port: its first address of each family as it stands in packets, or zero, which no plain
    /// packet comes from.
    sources: Option<(u64, [u64; 2])>,
    /// The flags of an entry that forwards packets of this lane, among [`Lane::JUDGED`].
    flags: u16,
}

impl Lane {
    /// The bytes 8 to 15 of a frame of IPv4 without options, behind the MAC addresses, and which of them are judged.
    const IPV4: (u64, u64) = (
        u64::from_ne_bytes([0, 0, 0, 0, 0x08, 0x00, 0x45, 0]),
        u64::from_ne_bytes([0, 0, 0, 0, 0xff, 0xff, 0xff, 0]),
    );
    /// Of a frame of IPv6: EtherType and version.
    const IPV6: (u64, u64) = (
        u64::from_ne_bytes([0, 0, 0, 0, 0x86, 0xdd, 0x60, 0]),
        u64::from_ne_bytes([0, 0, 0, 0, 0xff, 0xff, 0xf0, 0]),
    );
    /// What an entry is refused by.
    const JUDGED: u16 = Flags::DROP.0 | Flags::FROM_UPLINK.0;

    /// The lane of a port.
    pub(super) fn of(view: &PortView) -> Self {
        let mut expected = [0; 16];
        let mut mask = [0; 16];
        expected[..6].copy_from_slice(&view.mac);
        mask[..6].fill(0xff);
        let is_uplink = view.role == Role::Uplink;
        if !is_uplink {
            // Nobody is there until it has been heard: no source address is zero.
            expected[6..12].copy_from_slice(&view.peer_mac.unwrap_or_default());
            mask[6..12].fill(0xff);
        }
        let halves = |bytes: [u8; 16]| {
            let (words, _) = bytes.as_chunks::<8>();
            [u64::from_ne_bytes(words[0]), u64::from_ne_bytes(words[1])]
        };
        let source = |v4: bool| {
            let address = view.addresses.iter().find(|address| address.is_ipv4() == v4);
            address.map_or([0; 4], |address| words_of(*address, *address))
        };
        let sources = || (source(true)[0] & first_half(), [source(false)[0], source(false)[1]]);
        let (expected, mask) = (halves(expected), halves(mask));
        Lane {
            expected,
            mask,
            ipv4: (expected[1] | Self::IPV4.0, mask[1] | Self::IPV4.1),
            sources: matches!(view.role, Role::Endpoint(_)).then(sources),
            flags: if is_uplink { Flags::FROM_UPLINK.0 } else { 0 },
        }
    }

    /// Reads a frame into `head` that is plain in every way; false for the others.
    #[inline(always)]
    pub(super) fn read(&self, flows: &FlowTables, frame: &Frame, head: &mut Head) -> bool {
        let Some(bytes) = frame.first_chunk::<PLAIN_V4_LEN>() else { return false };
        if !self.admits(bytes, self.ipv4) {
            return self.read_v6(flows, frame, head);
        }
        let Some(plain) = PlainV4::read(bytes, frame.len()) else { return false };
        let addresses = u64::from_ne_bytes(chunk(bytes, 26));
        let ports = u32::from_be_bytes(chunk(bytes, PlainV4::L4));
        let may_send = match &self.sources {
            Some((source, _)) => addresses & first_half() == *source,
            None => is_no_tunnel(plain.protocol, ports as u16),
        };
        if !may_send || !is_in_midstream(plain.protocol, plain.tcp_flags, plain.ttl) {
            return false;
        }
        let ports = Key::ports_word((ports >> 16) as u16, ports as u16, plain.protocol);
        let hash = hash_v4(addresses, ports, flows.v4.seed());
        let slot = flows.v4.expect(hash);
        *head = Head { ports, hash, slot, ip_len: plain.ip_len, kind: 0 };
        true
    }

    #[inline(always)]
    fn read_v6(&self, flows: &FlowTables, frame: &Frame, head: &mut Head) -> bool {
        let Some(bytes) = frame.first_chunk::<PLAIN_V6_LEN>() else { return false };
        let family = (self.expected[1] | Self::IPV6.0, self.mask[1] | Self::IPV6.1);
        if !bytes.first_chunk().is_some_and(|first| self.admits(first, family)) {
            return false;
        }
        let Some(plain) = PlainV6::read(bytes, frame.len()) else { return false };
        let addresses: [u64; 4] = std::array::from_fn(|word| u64::from_ne_bytes(chunk(bytes, 22 + 8 * word)));
        let ports = u32::from_be_bytes(chunk(bytes, PlainV6::L4));
        let may_send = match &self.sources {
            Some((_, source)) => (addresses[0] ^ source[0]) | (addresses[1] ^ source[1]) == 0,
            None => is_no_tunnel(plain.protocol, ports as u16),
        };
        if !may_send || !is_in_midstream(plain.protocol, plain.tcp_flags, plain.hop_limit) {
            return false;
        }
        let ports = Key::ports_word((ports >> 16) as u16, ports as u16, plain.protocol);
        let hash = hash_v6(&addresses, ports, flows.v6.seed());
        let slot = flows.v6.expect(hash);
        *head = Head { ports, hash, slot, ip_len: plain.ip_len, kind: Head::IPV6 };
        true
    }

    /// Whether the frame is for the port, by whom it is expected from, and its second eight bytes are as they should be.
    #[inline(always)]
    fn admits(&self, first: &[u8; PLAIN_V4_LEN], (expected, mask): (u64, u64)) -> bool {
        let [low, high] = [u64::from_ne_bytes(chunk(first, 0)), u64::from_ne_bytes(chunk(first, 8))];
        (low ^ self.expected[0]) & self.mask[0] | (high ^ expected) & mask == 0
    }

    /// The way out that an entry says, where it says no more than that.
    #[inline(always)]
    fn egress<'a, const A: usize>(
        &self,
        snapshot: &'a Snapshot,
        hit: &Hit<'_, A>,
        ip_len: u16,
    ) -> Option<&'a Egress> {
        if (hit.flags().0 ^ self.flags) & Self::JUDGED != 0 {
            return None;
        }
        snapshot.egresses.get(hit.egress() as usize).filter(|egress| ip_len <= egress.mtu)
    }
}

/// Neither the beginning nor the end of a connection, and not at the end of its way.
#[inline(always)]
fn is_in_midstream(protocol: u8, tcp_flags: u8, ttl: u8) -> bool {
    const JUDGED: u8 = tcp::SYN | tcp::FIN | tcp::RST | tcp::ACK;
    (protocol != TCP || tcp_flags & JUDGED == tcp::ACK) && ttl > 1
}

/// Whether a packet from the underlay is to be taken as it is.
#[inline(always)]
fn is_no_tunnel(protocol: u8, dst_port: u16) -> bool {
    protocol != UDP || dst_port != vxlan::PORT
}

impl Pipeline {
    /// Where a line at home is another flow's, the one beside it is expected, and is on its way then.
    #[inline(always)]
    pub(super) fn look_beside(&mut self, heads: &mut [Head]) {
        for head in heads {
            if !head.is_expected(&self.flows) && head.ports != 0 {
                self.expect_beside(head);
            }
        }
    }

    #[inline(never)]
    fn expect_beside(&mut self, head: &mut Head) {
        self.strangers += 1;
        head.slot = if head.is_v6() {
            self.flows.v6.expect_beside(head.slot, head.hash)
        } else {
            self.flows.v4.expect_beside(head.slot, head.hash)
        };
    }

    /// Sends a packet the way that its line says; gives it back untouched where the line does not say so.
    #[inline(always)]
    pub(super) fn express(
        &mut self,
        turn: &mut Turn<'_>,
        lane: &Lane,
        head: &Head,
        mut frame: Frame,
    ) -> Result<(), Frame> {
        let egress = match head.is_v6() {
            false => self.rewritten_v4(turn, lane, head, &mut frame),
            true => self.rewritten_v6(turn, lane, head, &mut frame),
        };
        let Some(egress) = egress else { return Err(frame) };
        self.emit(turn, egress.port, egress.worker, frame);
        Ok(())
    }

    #[inline(always)]
    fn rewritten_v4<'a>(
        &self,
        turn: &Turn<'a>,
        lane: &Lane,
        head: &Head,
        frame: &mut Frame,
    ) -> Option<&'a Egress> {
        let bytes = frame.first_chunk_mut::<PLAIN_V4_LEN>()?;
        let addresses = [u64::from_ne_bytes(chunk(bytes, 26))];
        let hit = self.flows.v4.hit(head.slot, &addresses, head.ports, &turn.snapshot.validity)?;
        let egress = lane.egress(turn.snapshot, &hit, head.ip_len)?;
        hit.touch(turn.now.seconds);
        let check = u16::from_be_bytes(chunk(bytes, 24));
        bytes[22] = bytes[22].wrapping_sub(1);
        bytes[24..26].copy_from_slice(&adjust(check, hit.l3_delta()).to_be_bytes());
        if hit.flags().has(Flags::NAT) {
            bytes[26..34].copy_from_slice(&hit.addresses[0].to_ne_bytes());
            bytes[34..38].copy_from_slice(&hit.ports().to_be_bytes());
            adjust_transport::<{ ETHERNET_LEN + IPV4_LEN }, _>(bytes, head.ports, hit.l4_delta());
        }
        let inside = Inside { ethertype: ETHERTYPE_IPV4, ecn: bytes[15] & 3, hash: head.hash as u32 };
        finish(frame, head, egress, inside)
    }

    #[inline(always)]
    fn rewritten_v6<'a>(
        &self,
        turn: &Turn<'a>,
        lane: &Lane,
        head: &Head,
        frame: &mut Frame,
    ) -> Option<&'a Egress> {
        let bytes = frame.first_chunk_mut::<PLAIN_V6_LEN>()?;
        let addresses = std::array::from_fn(|word| u64::from_ne_bytes(chunk(bytes, 22 + 8 * word)));
        let hit = self.flows.v6.hit::<4>(head.slot, &addresses, head.ports, &turn.snapshot.validity)?;
        let egress = lane.egress(turn.snapshot, &hit, head.ip_len)?;
        hit.touch(turn.now.seconds);
        bytes[21] = bytes[21].wrapping_sub(1);
        if hit.flags().has(Flags::NAT) {
            for (word, place) in hit.addresses.iter().zip(bytes[22..54].as_chunks_mut::<8>().0) {
                *place = word.to_ne_bytes();
            }
            bytes[54..58].copy_from_slice(&hit.ports().to_be_bytes());
            adjust_transport::<{ ETHERNET_LEN + IPV6_LEN }, _>(bytes, head.ports, hit.l4_delta());
        }
        let inside = Inside { ethertype: ETHERTYPE_IPV6, ecn: bytes[15] >> 4 & 3, hash: head.hash as u32 };
        finish(frame, head, egress, inside)
    }
}

/// The transport's checksum after a change of `delta`. Its place depends on the protocol alone.
#[inline(always)]
fn adjust_transport<const L4: usize, const LEN: usize>(bytes: &mut [u8; LEN], ports: u64, delta: u16) {
    let is_tcp = (ports >> 8) as u8 == TCP;
    let at = L4 + if is_tcp { 16 } else { 6 };
    let check = u16::from_be_bytes([bytes[at], bytes[at + 1]]);
    let check = if is_tcp { adjust(check, delta) } else { adjust_udp(check, delta) };
    bytes[at..at + 2].copy_from_slice(&check.to_be_bytes());
}

/// The packet alone, without padding, behind what its way out puts in front.
#[inline(always)]
fn finish<'a>(frame: &mut Frame, head: &Head, egress: &'a Egress, inside: Inside) -> Option<&'a Egress> {
    // Neither is refused: the bytes are there, and a chunk has room in front.
    let done =
        frame.resize(ETHERNET_LEN + head.ip_len as usize) && rewrite::header_around(frame, egress, inside);
    done.then_some(egress)
}
