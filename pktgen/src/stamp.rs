//! [`Stamp`]: the 18 bytes at the front of every payload by which a packet is known again.
//!
//! ```text
//!  byte  0       2       4        6                 12                18
//!        ┌───────┬───────┬────────┬─────────────────┬─────────────────┐   all fields big-endian
//!        │ magic │ run   │ stream │ sequence number │ send time       │
//!        │ 0x504b│ u16   │ u16    │ u64, low 48 bits│ ns, low 48 bits │
//!        └───────┴───────┴────────┴─────────────────┴─────────────────┘
//!  stream word: bit 15 warm-up, bits 0–14 the stream's number
//! ```
//!
//! Eighteen bytes are what a 64-byte Ethernet frame has to give: 64 − 4 (FCS) − 14 − 20 (IPv4) − 8 (UDP or ICMP).
//! Hence the 48-bit fields. A sequence number reaches 2^48 after 32 days at 100 million packets a second; the
//! sender stops there, so that no number ever wraps. A send time is the low 48 bits of `CLOCK_MONOTONIC` in
//! nanoseconds; a latency is therefore right up to 39 hours, and anything beyond counts as "from the future". A send
//! time of 0 ([`UNTIMED`]) says that there is none: packets of a capture are sent whenever it is replayed.

/// Bytes of a stamp.
pub const STAMP_LEN: usize = 18;

/// Streams of one run at most; a stamp that names another is not of this program.
pub const MAX_STREAMS: usize = 1024;

/// Sequence numbers are smaller than this.
pub const MAX_SEQUENCE: u64 = 1 << 48;

/// The send time of a packet that carries none.
pub const UNTIMED: u64 = 0;

const MAGIC: u16 = 0x504b;
const LOW_48: u64 = (1 << 48) - 1;
const WARMUP: u16 = 1 << 15;

/// What a packet says about itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// The run that it belongs to, so that packets left over from another are told apart.
    pub run: u16,
    /// The stream, below 2^15.
    pub stream: u16,
    /// Sent before the measurement begins: not to be counted in it.
    pub warmup: bool,
    /// Number within the stream, from 0; below [`MAX_SEQUENCE`].
    pub sequence: u64,
    /// Low 48 bits of the send time in nanoseconds.
    pub sent: u64,
}

impl Stamp {
    /// The stamp's bytes. Of `sequence` and `sent` only the low 48 bits, of `stream` the low 15 are carried.
    #[inline]
    pub fn to_bytes(self) -> [u8; STAMP_LEN] {
        let mut bytes = [0; STAMP_LEN];
        let mut word = self.stream & !WARMUP;
        if self.warmup {
            word |= WARMUP;
        }
        bytes[..2].copy_from_slice(&MAGIC.to_be_bytes());
        bytes[2..4].copy_from_slice(&self.run.to_be_bytes());
        bytes[4..6].copy_from_slice(&word.to_be_bytes());
        bytes[6..12].copy_from_slice(&self.sequence.to_be_bytes()[2..]);
        bytes[12..].copy_from_slice(&self.sent.to_be_bytes()[2..]);
        bytes
    }

    /// The stamp at the front of a payload; `None` where the payload is too short or the magic is not there.
    #[inline]
    pub fn from_payload(payload: &[u8]) -> Option<Stamp> {
        let bytes: &[u8; STAMP_LEN] = payload.first_chunk()?;
        let short = |at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
        let long = |at: usize| {
            u64::from(short(at)) << 32 | u64::from(short(at + 2)) << 16 | u64::from(short(at + 4))
        };
        if short(0) != MAGIC {
            return None;
        }
        let word = short(4);
        Some(Stamp {
            run: short(2),
            stream: word & !WARMUP,
            warmup: word & WARMUP != 0,
            sequence: long(6),
            sent: long(12),
        })
    }

    /// Nanoseconds from the stamp to `now` (full [`monotonic_ns`](crate::clock::monotonic_ns)); `None` where the
    /// stamp lies in the future, or more than 39 hours back.
    #[inline]
    pub fn latency(&self, now: u64) -> Option<u64> {
        let elapsed = now.wrapping_sub(self.sent) & LOW_48;
        (elapsed < 1 << 47).then_some(elapsed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const STAMP: Stamp = Stamp {
        run: 0x1122,
        stream: 0x0304,
        warmup: true,
        sequence: 0x0102_0304_0506,
        sent: 0x0a0b_0c0d_0e0f,
    };

    #[test]
    fn the_layout_is_as_drawn() {
        let bytes = [0x50, 0x4b, 0x11, 0x22, 0x83, 0x04, 1, 2, 3, 4, 5, 6, 10, 11, 12, 13, 14, 15];
        assert_eq!(STAMP.to_bytes(), bytes);
    }

    #[test]
    fn latency_survives_the_wrap_of_48_bits_and_refuses_the_future() {
        let stamp = Stamp { sent: (1 << 48) - 10, ..STAMP };
        assert_eq!(stamp.latency((1 << 48) + 5), Some(15));
        assert_eq!(stamp.latency((7 << 48) - 10), Some(0));
        assert_eq!(stamp.latency((1 << 48) - 11), None);
    }

    proptest! {
        #[test]
        fn reading_is_the_inverse_of_writing(
            run in any::<u16>(), stream in 0u16..1 << 15, warmup in any::<bool>(),
            sequence in 0..MAX_SEQUENCE, sent in 0..=LOW_48,
        ) {
            let stamp = Stamp { run, stream, warmup, sequence, sent };
            prop_assert_eq!(Stamp::from_payload(&stamp.to_bytes()), Some(stamp));
        }

        #[test]
        fn no_payload_is_too_strange(payload in proptest::collection::vec(any::<u8>(), 0..40)) {
            let read = Stamp::from_payload(&payload);
            prop_assert_eq!(read.is_some(), payload.len() >= STAMP_LEN && payload[..2] == [0x50, 0x4b]);
        }
    }
}
