//! What a worker counts between two publications.

use crate::counters::WorkerCounters;
use crate::drops::DropReason;

/// Counts of the batches since the last [`publish`](Tally::publish).
#[derive(Debug)]
pub(super) struct Tally {
    pub(super) rx: u64,
    pub(super) tx: u64,
    pub(super) generated: u64,
    /// Packets held more than at the last publication.
    pub(super) held: i64,
    pub(super) hits: u64,
    pub(super) misses: u64,
    dropped: u64,
    drops: [u32; DropReason::COUNT],
}

impl Default for Tally {
    fn default() -> Self {
        Tally {
            rx: 0,
            tx: 0,
            generated: 0,
            held: 0,
            hits: 0,
            misses: 0,
            dropped: 0,
            drops: [0; DropReason::COUNT],
        }
    }
}

impl Tally {
    #[inline(always)]
    pub(super) fn drop(&mut self, reason: DropReason) {
        self.dropped += 1;
        self.drops[reason as usize] += 1;
    }

    pub(super) fn publish(&mut self, counters: &WorkerCounters) {
        let (within, without) = (self.rx + self.generated, self.tx + self.dropped);
        debug_assert_eq!(within as i64, without as i64 + self.held, "packets in = packets out");
        if within + without == 0 {
            return;
        }
        counters.rx.add(self.rx);
        counters.generated.add(self.generated);
        counters.tx.add(self.tx);
        counters.flow_hits.add(self.hits);
        counters.flow_misses.add(self.misses);
        if self.dropped > 0 {
            for (total, count) in counters.drops.iter().zip(&mut self.drops).filter(|(_, count)| **count > 0)
            {
                total.add(std::mem::take(count).into());
            }
        }
        (self.rx, self.tx, self.generated) = (0, 0, 0);
        (self.hits, self.misses, self.dropped, self.held) = (0, 0, 0, 0);
    }
}
