//! [`Hit`]: what a packet of a known flow needs of its line, word by word as it stands there.

use std::sync::atomic::{AtomicU64, Ordering};

use super::Flags;
use super::state::Activity;

/// The answer of a line to a packet. `A` words of addresses: 1 for IPv4, 4 for IPv6.
#[derive(Debug)]
pub(crate) struct Hit<'a, const A: usize> {
    pub(super) activity: &'a AtomicU64,
    pub(super) answer: u64,
    pub(super) partner_and_deltas: u64,
    /// The addresses that it leaves with.
    pub(crate) addresses: [u64; A],
    pub(super) ports: u32,
}

impl<const A: usize> Hit<'_, A> {
    /// What is special.
    #[inline(always)]
    pub(crate) fn flags(&self) -> Flags {
        Flags((self.answer >> 16) as u16)
    }

    /// The way out.
    #[inline(always)]
    pub(crate) fn egress(&self) -> u16 {
        self.answer as u16
    }

    /// What to add to the IPv4 header's checksum.
    #[inline(always)]
    pub(crate) fn l3_delta(&self) -> u16 {
        (self.partner_and_deltas >> 32) as u16
    }

    /// What to add to the transport's checksum.
    #[inline(always)]
    pub(crate) fn l4_delta(&self) -> u16 {
        (self.partner_and_deltas >> 48) as u16
    }

    /// The ports that it leaves with, the source's in the high half.
    #[inline(always)]
    pub(crate) fn ports(&self) -> u32 {
        self.ports
    }

    /// Notes the packet, one in the middle of its connection.
    #[inline(always)]
    pub(crate) fn touch(&self, now_seconds: u32) {
        let activity = Activity::decode(self.activity.load(Ordering::Relaxed));
        let packets = activity.packets.wrapping_add(1);
        let noted = Activity { last_seen: now_seconds, packets, ..activity };
        self.activity.store(noted.encode(), Ordering::Relaxed);
    }
}
