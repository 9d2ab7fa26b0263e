//! Maglev consistent hashing (Eisenbud et al., "Maglev: A Fast and Reliable Software Network Load Balancer",
//! NSDI 2016, section 3.4).
//!
//! ```text
//!   backend ── offset, skip ──► its permutation of the slots       turn by turn, each backend takes the first
//!                                                                  free slot of its own permutation
//!   hash of a flow ── × size ──► slot ──► backend
//! ```
//!
//! * **Alike everywhere.** A table follows from the set of (address, port, weight) alone, not from the order in
//!   which backends were listed nor from a seed: every node, and every restart, picks the same.
//! * **Even.** Backends of one weight hold equally many slots, give or take one.
//! * **Steady.** A backend that leaves gives its slots away; few others move.
//! * **Weights** set how often a backend has its turn; every backend has at least one slot as long as there are
//!   as many slots as backends.
//!
//! # Sizes
//! The size is prime, so that every skip visits every slot. [`size_for`] takes the smallest listed prime that
//! has 32 slots for each unit of weight (weights reduced by their greatest common divisor, the sum held between 1
//! and 8 units a backend): shares are then even within 1/32. One backend needs no choice and has one slot.
//!
//! # Speed
//! Filling follows the permutations by adding the skip, never writing them down, over a bitmap of free slots that
//! stays in the first-level cache. Near the end free slots are rare and following takes `size / free` steps a turn;
//! from then on the turn computes for each free slot its position in the backend's permutation instead (the skip's
//! inverse modulo the size) and takes the first.

use std::net::SocketAddr;
use std::sync::Arc;

use crate::hash::{absorb, absorb_address, finish};

/// The sizes, primes near powers of two.
pub const SIZES: [u32; 15] =
    [61, 127, 251, 509, 1021, 2039, 4093, 8191, 16_381, 32_749, 65_537, 131_071, 262_139, 524_287, 1_048_573];

/// Slots for each unit of weight.
const SLOTS_PER_UNIT: u64 = 32;
/// How many units of weight a backend may cost on average, lest odd weights make tables huge.
const UNITS_PER_MEMBER: u64 = 8;

/// A backend as a table knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Member {
    /// Where it listens: its identity.
    pub address: SocketAddr,
    /// Relative share; 0 counts as 1.
    pub weight: u32,
}

/// A lookup table over a list of members. `Default` is the table of no members. A clone shares the slots.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Maglev {
    slots: Slots,
}

/// Indices into the list of members, as narrow as its length allows.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Slots {
    Narrow(Arc<[u16]>),
    Wide(Arc<[u32]>),
}

impl Default for Slots {
    fn default() -> Self {
        Slots::Narrow(Arc::default())
    }
}

impl Maglev {
    /// The table of `members`, which are distinct, with the size that [`size_for`] says.
    pub fn build(members: &[Member]) -> Self {
        Self::with_size(members, size_for(members))
    }

    /// The table of `members` with `size` slots, a prime or 1. Members beyond the number of slots get none.
    pub fn with_size(members: &[Member], size: u32) -> Self {
        if members.is_empty() || size == 0 {
            return Maglev::default();
        }
        if members.len() == 1 || size == 1 {
            return Maglev { slots: Slots::Narrow(vec![0; size as usize].into()) };
        }
        let slots = match u16::try_from(members.len()) {
            Ok(_) => {
                let mut slots = vec![0_u16; size as usize];
                // The count fits 16 bits, so every index does.
                fill(members, size, |slot, member| set(&mut slots, slot, member as u16));
                Slots::Narrow(slots.into())
            }
            Err(_) => {
                let mut slots = vec![0_u32; size as usize];
                fill(members, size, |slot, member| set(&mut slots, slot, member));
                Slots::Wide(slots.into())
            }
        };
        Maglev { slots }
    }

    /// Index of the member that a flow of this hash goes to; `None` where there are no members. The hash's high
    /// bits choose the slot.
    pub fn pick(&self, hash: u64) -> Option<usize> {
        self.member(slot_of(hash, self.size()))
    }

    /// Index of the member that holds a slot.
    pub(crate) fn member(&self, slot: usize) -> Option<usize> {
        match &self.slots {
            Slots::Narrow(slots) => slots.get(slot).map(|member| usize::from(*member)),
            Slots::Wide(slots) => slots.get(slot).map(|member| *member as usize),
        }
    }

    /// Number of slots.
    pub fn size(&self) -> usize {
        match &self.slots {
            Slots::Narrow(slots) => slots.len(),
            Slots::Wide(slots) => slots.len(),
        }
    }

    /// Whether the two are one table, not two equal ones.
    pub fn is_same(&self, other: &Maglev) -> bool {
        match (&self.slots, &other.slots) {
            (Slots::Narrow(ours), Slots::Narrow(theirs)) => Arc::ptr_eq(ours, theirs),
            (Slots::Wide(ours), Slots::Wide(theirs)) => Arc::ptr_eq(ours, theirs),
            _ => false,
        }
    }

    /// Heap memory in bytes.
    pub fn bytes(&self) -> usize {
        match &self.slots {
            Slots::Narrow(slots) => size_of_val::<[u16]>(slots),
            Slots::Wide(slots) => size_of_val::<[u32]>(slots),
        }
    }
}

/// The slot of a hash, among `size`.
#[inline]
pub(crate) fn slot_of(hash: u64, size: usize) -> usize {
    ((u128::from(hash) * size as u128) >> 64) as usize
}

/// How many slots a table over `members` gets: see "Sizes" above.
pub fn size_for(members: &[Member]) -> u32 {
    let count = members.len() as u64;
    if count <= 1 {
        return count as u32;
    }
    let divisor = members.iter().fold(0, |divisor, member| gcd(divisor, weight(member)));
    let sum: u64 = members.iter().map(|member| weight(member) / divisor).sum();
    let wanted = sum.clamp(count, UNITS_PER_MEMBER * count).saturating_mul(SLOTS_PER_UNIT);
    let largest = SIZES[SIZES.len() - 1];
    SIZES.into_iter().find(|size| u64::from(*size) >= wanted).unwrap_or(largest)
}

fn weight(member: &Member) -> u64 {
    u64::from(member.weight.max(1))
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

fn set<T>(slots: &mut [T], slot: u32, member: T) {
    if let Some(place) = slots.get_mut(slot as usize) {
        *place = member;
    }
}

/// A member's way through the slots. Small: all of them stay in the first-level cache.
struct Walk {
    /// Index of the member in the caller's list.
    member: u32,
    /// First slot of its permutation.
    offset: u32,
    /// Distance between neighbours of its permutation, 1 to size - 1.
    skip: u32,
    /// Slot to try next.
    next: u32,
}

/// The members' walks, in `order`.
fn walks(order: &[(u32, &Member)], size: u32) -> Vec<Walk> {
    let walk = |(index, member): &(u32, &Member)| {
        let identity = absorb(absorb_address(0, member.address.ip()), member.address.port().into());
        // Both remainders are below the size.
        let offset = (finish(identity) % u64::from(size)) as u32;
        let skip = (finish(absorb(identity, 1)) % u64::from(size - 1)) as u32 + 1;
        Walk { member: *index, offset, skip, next: offset }
    };
    order.iter().map(walk).collect()
}

/// Who has a turn in which round.
struct Turns {
    heaviest: u64,
    /// For each walk its weight, and the heaviest weight times the turns it has had. Empty where all weights are
    /// equal: then everyone has a turn in every round.
    shares: Vec<(u64, u64)>,
}

impl Turns {
    fn new(order: &[(u32, &Member)]) -> Self {
        let weights = || order.iter().map(|(_, member)| weight(member));
        let heaviest = weights().max().unwrap_or(1);
        let equal = weights().all(|weight| weight == heaviest);
        Turns {
            heaviest,
            shares: if equal { Vec::new() } else { weights().map(|weight| (weight, 0)).collect() },
        }
    }

    /// Whether the walk has a turn now: once round times weight has come up to what it has had.
    fn take(&mut self, walk: usize, round: u64) -> bool {
        match self.shares.get_mut(walk) {
            None => true,
            Some((weight, due)) if round * *weight >= *due => {
                *due += self.heaviest;
                true
            }
            Some(_) => false,
        }
    }
}

/// Gives every slot to a member: `assign(slot, member)`. `size` is a prime.
fn fill(members: &[Member], size: u32, mut assign: impl FnMut(u32, u32)) {
    // Who goes first must not depend on the caller's order, but on who it is.
    let mut order: Vec<(u32, &Member)> = (0..).zip(members).collect();
    order.sort_by_key(|(_, member)| **member);
    let mut walks = walks(&order, size);
    let mut turns = Turns::new(&order);
    let mut free = Free::new(size);
    for round in 0.. {
        for (index, walk) in walks.iter_mut().enumerate() {
            if turns.take(index, round) {
                let Some(slot) = free.take(walk, size) else { return };
                assign(slot, walk.member);
            }
        }
    }
}

/// The free slots: a bitmap while there are many, a list once there are few.
struct Free {
    /// One bit a slot, set while it is free.
    bits: Vec<u64>,
    left: u32,
    /// The last free slots, once [`Free::few`] holds.
    list: Vec<u32>,
}

impl Free {
    fn new(size: u32) -> Self {
        let mut bits = vec![u64::MAX; size.div_ceil(64) as usize];
        if let (Some(last), tail @ 1..) = (bits.last_mut(), size % 64) {
            *last = (1 << tail) - 1;
        }
        Free { bits, left: size, list: Vec::new() }
    }

    /// Takes the first free slot of the member's permutation.
    fn take(&mut self, walk: &mut Walk, size: u32) -> Option<u32> {
        if self.left == 0 {
            return None;
        }
        let slot = if self.few(size) { self.take_listed(walk, size) } else { self.take_walking(walk, size) };
        self.left -= 1;
        slot
    }

    /// Whether looking at all that is left is cheaper than the `size / left` steps of walking.
    fn few(&self, size: u32) -> bool {
        u64::from(self.left) * u64::from(self.left) * 3 < u64::from(size)
    }

    fn take_walking(&mut self, walk: &mut Walk, size: u32) -> Option<u32> {
        // The skip is coprime to the size and a slot is free, so that at most `size` steps find it.
        for _ in 0..size {
            let slot = walk.next;
            let stepped = slot + walk.skip;
            walk.next = if stepped >= size { stepped - size } else { stepped };
            let word = self.bits.get_mut(slot as usize / 64)?;
            let bit = 1 << (slot % 64);
            if *word & bit != 0 {
                *word &= !bit;
                return Some(slot);
            }
        }
        None
    }

    fn take_listed(&mut self, walk: &Walk, size: u32) -> Option<u32> {
        if self.list.is_empty() {
            let bits = &self.bits;
            let is_free =
                |slot: &u32| bits.get(*slot as usize / 64).is_some_and(|word| word >> (slot % 64) & 1 == 1);
            self.list = (0..size).filter(is_free).collect();
        }
        let inverse = u64::from(inverse(walk.skip, size));
        let position = |slot: u32| {
            let distance = if slot >= walk.offset { slot - walk.offset } else { slot + (size - walk.offset) };
            u64::from(distance) * inverse % u64::from(size)
        };
        let first =
            (0..self.list.len()).min_by_key(|index| self.list.get(*index).map(|slot| position(*slot)))?;
        Some(self.list.swap_remove(first))
    }
}

/// The inverse of `value` modulo the prime `size`, by the extended Euclidean algorithm. `value` is in 1..size.
fn inverse(value: u32, size: u32) -> u32 {
    let (mut remainder, mut next_remainder) = (i64::from(size), i64::from(value));
    let (mut factor, mut next_factor) = (0_i64, 1_i64);
    while next_remainder != 0 {
        let quotient = remainder / next_remainder;
        (remainder, next_remainder) = (next_remainder, remainder - quotient * next_remainder);
        (factor, next_factor) = (next_factor, factor - quotient * next_factor);
    }
    // A factor is smaller in magnitude than the size.
    factor.rem_euclid(i64::from(size)) as u32
}

#[cfg(test)]
mod tests;
