//! Later fragments have no ports: [`FragmentTable`] keeps those of the first fragment, so that the others of its packet
//! follow it through the flow table.
//!
//! One table a worker, of fixed size, in sets of eight: no allocation after construction, no scan longer than a set.
//! A full set gives up its oldest entry. Nothing is reassembled. A later fragment that comes before its first, or after
//! the time-out, is dropped; one that would overwrite bytes of the first is refused (RFC 1858, RFC 3128, RFC 5722), for
//! it is by those bytes that the packet was judged.

use super::be16;
use super::extension;
use super::hash::hash_v6;
use super::parse::{FRAGMENT, FRAGMENT_LATER, Parsed};
use super::{IPV6_LEN, be32};
use crate::drops::DropReason;

/// Seconds after which the fragments of a packet are forgotten (Linux: `net.ipv4.ipfrag_time`).
pub const TIMEOUT_SECONDS: u32 = 30;

/// Entries of a set: what one look-up looks at.
const WAYS: usize = 8;

/// The packet that a fragment is of (RFC 791, section 3.2; RFC 8200, section 4.5), and the fragment's place in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    addresses: [u64; 4],
    /// Identification, and for IPv4 the protocol, in which identifications count by themselves.
    packet: u64,
    /// Payload bytes before this fragment.
    offset: u32,
    /// Payload bytes before and in this fragment.
    end: u32,
}

impl Piece {
    /// Reads which packet a fragment is of. `None` for what is no fragment.
    pub fn of(frame: &[u8], parsed: &Parsed) -> Option<Self> {
        if parsed.fragment & FRAGMENT == 0 {
            return None;
        }
        let l3 = parsed.l3 as usize;
        let (packet, offset, payload) = if parsed.v6 {
            let packet = frame.get(..parsed.end())?;
            let fragment = extension::walk(packet, *frame.get(l3 + 6)?, l3 + IPV6_LEN).ok()?.fragment?;
            (1 << 40 | fragment.identification as u64, fragment.field.offset as u32, fragment.payload)
        } else {
            let identification = be16(frame, l3 + 4)? as u64;
            let offset = (be32(frame, l3 + 4)? & 0x1fff) * 8;
            (identification << 8 | parsed.protocol as u64, offset, parsed.l4 as usize)
        };
        let length = parsed.end().checked_sub(payload)? as u32;
        Some(Piece { addresses: parsed.addresses, packet, offset, end: offset + length })
    }
}

/// The ports of a fragmented packet, as its first fragment showed them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ports {
    /// Source port.
    pub src: u16,
    /// Destination port.
    pub dst: u16,
    /// Protocol of the transport: in IPv6, later fragments may name another header.
    pub protocol: u8,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    addresses: [u64; 4],
    packet: u64,
    first_end: u32,
    seen: u32,
    ports: Ports,
    used: bool,
}

const UNUSED: Entry = Entry {
    addresses: [0; 4],
    packet: 0,
    first_end: 0,
    seen: 0,
    ports: Ports { src: 0, dst: 0, protocol: 0 },
    used: false,
};

/// First fragments of packets of which more is to come.
#[derive(Debug)]
pub struct FragmentTable {
    sets: Vec<[Entry; WAYS]>,
    seed: u64,
}

impl FragmentTable {
    /// A table for at least `capacity` packets (rounded up to a power of two, at least one set of eight). `seed` keys the
    /// hash: a secret.
    pub fn new(capacity: usize, seed: u64) -> Self {
        let sets = capacity.div_ceil(WAYS).max(1).next_power_of_two();
        FragmentTable { sets: vec![[UNUSED; WAYS]; sets], seed }
    }

    /// Packets that it has place for.
    pub fn capacity(&self) -> usize {
        self.sets.len() * WAYS
    }

    /// Notes a first fragment. A repeated one renews its entry. Does nothing for what is no first fragment.
    pub fn insert(&mut self, frame: &[u8], parsed: &Parsed, now_seconds: u32) {
        let Some(piece) = Piece::of(frame, parsed) else { return };
        if parsed.fragment & FRAGMENT_LATER != 0 {
            return;
        }
        let entry = Entry {
            addresses: piece.addresses,
            packet: piece.packet,
            first_end: piece.end,
            seen: now_seconds,
            ports: Ports { src: parsed.src_port, dst: parsed.dst_port, protocol: parsed.protocol },
            used: true,
        };
        let Some(set) = self.set(&piece) else { return };
        let known = set.iter().position(|other| other.is_of(&piece));
        // An unused entry counts as older than any.
        let oldest = || {
            let ages = set
                .iter()
                .map(|other| if other.used { now_seconds.wrapping_sub(other.seen) } else { u32::MAX });
            ages.enumerate().max_by_key(|&(_, age)| age).map(|(index, _)| index)
        };
        if let Some(place) = known.or_else(oldest).and_then(|index| set.get_mut(index)) {
            *place = entry;
        }
    }

    /// The ports of the packet that a later fragment is of.
    ///
    /// # Errors
    /// [`DropReason::FragmentUnknown`] where its first fragment has not been seen in the last [`TIMEOUT_SECONDS`], or has
    /// been pushed out; [`DropReason::BadFragment`] where it begins inside of the first.
    pub fn lookup(&mut self, frame: &[u8], parsed: &Parsed, now_seconds: u32) -> Result<Ports, DropReason> {
        let piece = Piece::of(frame, parsed).ok_or(DropReason::BadFragment)?;
        let found = self.set(&piece).and_then(|set| set.iter().find(|entry| entry.is_of(&piece)));
        match found {
            Some(entry) if now_seconds.wrapping_sub(entry.seen) > TIMEOUT_SECONDS => {
                Err(DropReason::FragmentUnknown)
            }
            Some(entry) if piece.offset < entry.first_end => Err(DropReason::BadFragment),
            Some(entry) => Ok(entry.ports),
            None => Err(DropReason::FragmentUnknown),
        }
    }

    fn set(&mut self, piece: &Piece) -> Option<&mut [Entry; WAYS]> {
        let hash = hash_v6(&piece.addresses, piece.packet, self.seed);
        let mask = self.sets.len() - 1;
        self.sets.get_mut(hash as usize & mask)
    }
}

impl Entry {
    fn is_of(&self, piece: &Piece) -> bool {
        self.used && self.packet == piece.packet && self.addresses == piece.addresses
    }
}

#[cfg(test)]
mod tests;
