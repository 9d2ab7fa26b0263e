//! [`Picks`]: what a backend is picked from: the Maglev table and where its members listen, in one piece of memory.
//!
//! ```text
//!   [ member 0 │ member 1 │ … │ slots, eight, four or two a word ]      member: one word (IPv4) or three (IPv6)
//! ```
//!
//! Where each part begins follows from the numbers of members and slots, which stand beside the reference: a pick reads the
//! slot and the member, and nothing to find them by. Both are mostly on one page of memory, so that one entry of the TLB does.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use crate::maglev::{Maglev, Member, slot_of};
use crate::shared_map::{halves, joined};

/// See the module. A clone shares the memory.
#[derive(Debug, Clone)]
pub(super) struct Picks {
    words: Arc<[u64]>,
    members: u32,
    slots: u32,
}

impl Picks {
    /// Of members of one family.
    pub(super) fn of(members: &[Member]) -> Self {
        let maglev = Maglev::build(members);
        let mut words: Vec<u64> = members.iter().flat_map(|member| written(member.address)).collect();
        let (first, bits) = (words.len(), slot_bits(members.len()));
        words.resize(first + (maglev.size() * bits).div_ceil(64), 0);
        for slot in 0..maglev.size() {
            let (word, shift) = place(slot, bits);
            if let (Some(word), Some(member)) = (words.get_mut(first + word), maglev.member(slot)) {
                *word |= (member as u64) << shift;
            }
        }
        // Neither number has more than 32 bits: slots are 2^20 at most, and members what an intent may hold.
        Picks { words: words.into(), members: members.len() as u32, slots: maglev.size() as u32 }
    }

    /// The slot of a hash.
    #[inline]
    pub(super) fn slot(&self, hash: u64) -> usize {
        slot_of(hash, self.slots as usize)
    }

    /// The member that holds a slot; `None` where there are no members, or they are of the other family.
    #[inline]
    pub(super) fn backend(&self, slot: usize, v6: bool) -> Option<SocketAddr> {
        let (word, shift) = self.place(slot, v6);
        let mask = u64::MAX >> (64 - slot_bits(self.members as usize));
        let first = (self.words.get(word)? >> shift & mask) as usize * words_of(v6);
        let [word, rest @ ..] = self.words.get(first..first + words_of(v6))? else { return None };
        Some(match rest {
            [low, port] => SocketAddr::new(joined([*word, *low]).into(), *port as u16),
            _ => SocketAddr::new(Ipv4Addr::from_bits((*word >> 16) as u32).into(), *word as u16),
        })
    }

    /// What reading a slot touches: the slot, and the members where they are few.
    #[inline]
    pub(super) fn reads(&self, slot: usize, v6: bool) -> Option<[*const u8; 2]> {
        let address = |index: usize| self.words.get(index).map(|word| std::ptr::from_ref(word).cast());
        Some([address(self.place(slot, v6).0)?, address(0)?])
    }

    /// The word that a slot stands in, and its lowest bit there.
    #[inline]
    fn place(&self, slot: usize, v6: bool) -> (usize, usize) {
        let (word, shift) = place(slot, slot_bits(self.members as usize));
        (self.members as usize * words_of(v6) + word, shift)
    }

    /// Heap memory in bytes.
    pub(super) fn bytes(&self) -> usize {
        size_of_val::<[u64]>(&self.words)
    }
}

/// An address in words.
fn written(address: SocketAddr) -> impl Iterator<Item = u64> {
    let words = match address {
        SocketAddr::V4(v4) => [u64::from(v4.ip().to_bits()) << 16 | u64::from(v4.port()), 0, 0],
        SocketAddr::V6(v6) => {
            let [high, low] = halves(*v6.ip());
            [high, low, u64::from(v6.port())]
        }
    };
    words.into_iter().take(words_of(address.is_ipv6()))
}

/// Words of a member.
#[inline]
fn words_of(v6: bool) -> usize {
    if v6 { 3 } else { 1 }
}

/// Bits that a member's number takes.
#[inline]
fn slot_bits(members: usize) -> usize {
    match members {
        0..=0x100 => 8,
        0x101..=0x1_0000 => 16,
        _ => 32,
    }
}

/// Where a slot stands: its word behind the members, and its lowest bit there.
#[inline]
fn place(slot: usize, bits: usize) -> (usize, usize) {
    (slot * bits / 64, slot * bits % 64)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn members(v6: bool, count: usize, weights: &[u32]) -> Vec<Member> {
        let member = |number: usize| {
            let low = number as u32 * 7 + 1;
            let ip = if v6 {
                joined([0xfd00 << 48, low.into()]).into()
            } else {
                Ipv4Addr::from_bits(0x0a00_0000 | low).into()
            };
            Member {
                address: SocketAddr::new(ip, 1 + (number % 60_000) as u16),
                weight: weights[number % weights.len()],
            }
        };
        (0..count).map(member).collect()
    }

    fn is_its_maglev(members: &[Member], hash: u64) {
        let picks = Picks::of(members);
        let expected = Maglev::build(members).pick(hash).map(|index| members[index].address);
        let v6 = members.first().is_some_and(|member| member.address.is_ipv6());
        assert_eq!(picks.backend(picks.slot(hash), v6), expected);
    }

    proptest! {
        /// Against the table and the list that it is made of.
        #[test]
        fn picks_what_its_maglev_table_picks(
            v6: bool,
            count in 0..600_usize,
            weights in prop::collection::vec(1..9_u32, 1..5),
            hashes in prop::collection::vec(any::<u64>(), 1..20),
        ) {
            let members = members(v6, count, &weights);
            for hash in hashes.into_iter().chain([0, u64::MAX]) {
                is_its_maglev(&members, hash);
            }
        }
    }

    #[test]
    fn the_widths_of_numbers_begin_and_end_where_they_should() {
        for count in [255, 256, 257, 65_535, 65_536, 65_537] {
            for hash in [0, 1 << 40, u64::MAX / 3, u64::MAX] {
                is_its_maglev(&members(false, count, &[1]), hash);
            }
        }
    }

    #[test]
    fn memory_is_a_byte_a_slot_and_a_word_a_member() {
        assert_eq!(Picks::of(&members(false, 50, &[1])).bytes(), 50 * 8 + 2040);
    }
}
