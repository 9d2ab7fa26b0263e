//! [`LiveLatencies`]: a coarse histogram that one thread writes while another one reads, for the progress line. What is
//! reported in the end comes from the meter's own histograms.

use std::sync::atomic::{AtomicU64, Ordering};

/// Buckets to each doubling: a figure is off by at most 1/8.
const STEPS: u64 = 8;
/// Doublings from 8 ns up.
const DOUBLINGS: usize = 36;

/// Counts of latencies by size. Written by one thread alone.
#[derive(Debug)]
pub struct LiveLatencies {
    counts: [AtomicU64; DOUBLINGS * STEPS as usize],
}

impl Default for LiveLatencies {
    fn default() -> Self {
        LiveLatencies { counts: [const { AtomicU64::new(0) }; DOUBLINGS * STEPS as usize] }
    }
}

impl LiveLatencies {
    /// Enters a latency in nanoseconds.
    #[inline]
    pub fn note(&self, latency: u64) {
        if let Some(count) = self.counts.get(bucket(latency)) {
            // One writer: no lost update.
            count.store(count.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        }
    }

    /// All counts so far, to be taken off later ones.
    pub fn counts(&self) -> Vec<u64> {
        self.counts.iter().map(|count| count.load(Ordering::Relaxed)).collect()
    }

    /// The latency that `share` of those since `before` do not exceed, in nanoseconds; `None` where there was none.
    pub fn quantile(&self, before: &[u64], share: f64) -> Option<u64> {
        let now = self.counts();
        let since = |index: usize| {
            now.get(index).copied().unwrap_or(0).saturating_sub(before.get(index).copied().unwrap_or(0))
        };
        let total: u64 = (0..now.len()).map(since).sum();
        let wanted = ((total as f64 * share).ceil() as u64).max(1);
        let mut seen = 0;
        (0..now.len()).find_map(|index| {
            seen += since(index);
            (seen >= wanted && total > 0).then(|| upper_end(index))
        })
    }
}

/// Where a latency is counted: the position of its highest bit, and the three bits below.
fn bucket(latency: u64) -> usize {
    let latency = latency.max(STEPS);
    let doubling = u64::from(latency.ilog2()) - 3;
    let step = (latency >> doubling) - STEPS;
    ((doubling * STEPS + step) as usize).min(DOUBLINGS * STEPS as usize - 1)
}

/// The largest latency that is counted in a bucket.
fn upper_end(index: usize) -> u64 {
    let (doubling, step) = (index as u64 / STEPS, index as u64 % STEPS);
    ((STEPS + step + 1) << doubling) - 1
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn quantiles_are_of_what_came_since() {
        let live = LiveLatencies::default();
        (0..100).for_each(|_| live.note(5));
        let before = live.counts();
        assert_eq!(live.quantile(&before, 0.5), None);
        (1..=100).for_each(|n| live.note(n * 1000));
        let (p50, p99) = (live.quantile(&before, 0.5).unwrap(), live.quantile(&before, 0.99).unwrap());
        assert!((50_000..=56_250).contains(&p50) && (99_000..=112_000).contains(&p99), "{p50} {p99}");
    }

    proptest! {
        #[test]
        fn a_bucket_holds_what_is_counted_in_it_to_an_eighth(latency in 8u64..1 << 38) {
            let end = upper_end(bucket(latency));
            prop_assert!(end >= latency && end - latency <= latency / 8);
        }

        #[test]
        fn no_latency_is_too_long(latency in any::<u64>()) {
            let live = LiveLatencies::default();
            live.note(latency);
            prop_assert_eq!(live.counts().iter().sum::<u64>(), 1);
        }
    }
}
