//! [`Layout`]: where rings and buffers lie in the one region that a client makes. Pure.

use super::message::Direction;

/// Bytes in front of a ring's descriptors: `memif_ring_t` of `memif.h`, two cache lines.
pub(crate) const RING_HEADER: usize = 128;
/// Bytes of a descriptor.
pub(crate) const DESCRIPTOR_LEN: usize = 16;
/// Rings begin on a cache line.
const LINE: usize = 64;

/// Rings of both directions, then a buffer for every descriptor of theirs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Layout {
    /// Rings of each direction.
    pub(crate) queues: u16,
    pub(crate) log2_size: u8,
    /// Bytes of a buffer: a multiple of 64.
    pub(crate) buffer: u32,
}

impl Layout {
    /// Bytes of a ring.
    pub(crate) fn ring_len(log2_size: u8) -> usize {
        RING_HEADER + DESCRIPTOR_LEN * (1 << log2_size)
    }

    /// Bytes of the region, or more than an offset can say.
    pub(crate) fn size(&self) -> u64 {
        let buffers = (2 * u64::from(self.queues)) << self.log2_size;
        self.buffers_at() as u64 + buffers * u64::from(self.buffer)
    }

    /// Where a ring begins.
    pub(crate) fn ring(&self, direction: Direction, index: u16) -> u32 {
        (self.number(direction, index) * self.stride()) as u32
    }

    /// Where the buffers of a ring begin, one behind the other.
    pub(crate) fn buffers(&self, direction: Direction, index: u16) -> u32 {
        let each = (self.buffer as usize) << self.log2_size;
        (self.buffers_at() + self.number(direction, index) * each) as u32
    }

    fn number(&self, direction: Direction, index: u16) -> usize {
        match direction {
            Direction::ClientToServer => index as usize,
            Direction::ServerToClient => self.queues as usize + index as usize,
        }
    }

    fn stride(&self) -> usize {
        Layout::ring_len(self.log2_size).next_multiple_of(LINE)
    }

    fn buffers_at(&self) -> usize {
        2 * self.queues as usize * self.stride()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn nothing_overlaps_and_all_is_inside(queues in 1u16..9, log2_size in 1u8..=8, lines in 1u32..40) {
            let layout = Layout { queues, log2_size, buffer: lines * 64 };
            let mut parts = Vec::new();
            for direction in [Direction::ClientToServer, Direction::ServerToClient] {
                for index in 0..queues {
                    let ring = u64::from(layout.ring(direction, index));
                    prop_assert_eq!(ring % 64, 0);
                    parts.push((ring, ring + Layout::ring_len(log2_size) as u64));
                    let buffers = u64::from(layout.buffers(direction, index));
                    parts.push((buffers, buffers + (u64::from(layout.buffer) << log2_size)));
                }
            }
            parts.sort_unstable();
            for pair in parts.windows(2) {
                prop_assert!(pair[0].1 <= pair[1].0);
            }
            prop_assert_eq!(parts.last().map(|part| part.1), Some(layout.size()));
        }
    }
}
