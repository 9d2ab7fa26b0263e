//! [`PacedPort`]: packets arrive by the clock, whether or not somebody takes them, into a ring of a given size.
//!
//! A packet that finds the ring full is lost. The time a packet takes is from its arrival to the end of the turn in which it was taken:
//! it has been judged, rewritten and sent by then.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use afxdp_driver::{Batch, FramePool, PacketIo, PortCounters, PortError, cpu};

use crate::replay::{Packet, swallow};

/// Places in the ring: penstockd's default.
pub const RING: u64 = 2048;
/// Buckets of a power of two: times are known within 1/64.
const STEPS: u32 = 64;
const BUCKETS: usize = 64 * STEPS as usize;

/// What became of the packets; written by the worker, read by the bench.
#[derive(Debug)]
pub struct Tally {
    /// TSC cycles between two packets, times 2^16; 0: no packets arrive.
    interval: AtomicU64,
    taken: AtomicU64,
    lost: AtomicU64,
    /// Packets by the cycles that they took.
    times: Vec<AtomicU64>,
}

/// What became of the packets of some time.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// Packets that were taken, and sent.
    pub taken: u64,
    /// Packets that found the ring full.
    pub lost: u64,
    times: Vec<u64>,
}

impl Default for Tally {
    fn default() -> Self {
        Tally {
            interval: AtomicU64::new(0),
            taken: AtomicU64::new(0),
            lost: AtomicU64::new(0),
            times: (0..BUCKETS).map(|_| AtomicU64::new(0)).collect(),
        }
    }
}

impl Tally {
    /// So many packets a second arrive from now on.
    pub fn set_rate(&self, packets_a_second: f64) {
        let interval =
            if packets_a_second > 0.0 { cycles_a_second() / packets_a_second * 65_536.0 } else { 0.0 };
        self.interval.store(interval as u64, Ordering::Relaxed);
    }

    /// All so far.
    pub fn read(&self) -> Outcome {
        Outcome {
            taken: self.taken.load(Ordering::Relaxed),
            lost: self.lost.load(Ordering::Relaxed),
            times: self.times.iter().map(|count| count.load(Ordering::Relaxed)).collect(),
        }
    }

    /// For the one who writes: no packet is counted by two.
    fn add(&self, count: &AtomicU64, more: u64) {
        count.store(count.load(Ordering::Relaxed) + more, Ordering::Relaxed);
    }
}

impl Outcome {
    /// What came after `earlier`.
    pub fn since(&self, earlier: &Outcome) -> Outcome {
        Outcome {
            taken: self.taken - earlier.taken,
            lost: self.lost - earlier.lost,
            times: self.times.iter().zip(&earlier.times).map(|(now, before)| now - before).collect(),
        }
    }

    /// The time, in microseconds, within which that share of the packets was through.
    pub fn microseconds(&self, share: f64) -> f64 {
        let wanted = (self.times.iter().sum::<u64>() as f64 * share) as u64;
        let mut seen = 0;
        let bucket = self.times.iter().position(|count| {
            seen += count;
            seen > wanted
        });
        upper(bucket.unwrap_or(0)) as f64 / cycles_a_second() * 1e6
    }
}

fn bucket(cycles: u64) -> usize {
    let cycles = cycles.max(u64::from(STEPS));
    let power = cycles.ilog2() - STEPS.ilog2();
    (power * STEPS) as usize + ((cycles >> power) - u64::from(STEPS)) as usize
}

/// The largest value of a bucket.
fn upper(bucket: usize) -> u64 {
    let (power, step) = (bucket as u64 / u64::from(STEPS), bucket as u64 % u64::from(STEPS));
    ((u64::from(STEPS) + step + 1) << power) - 1
}

/// TSC cycles of a second, measured once.
pub fn cycles_a_second() -> f64 {
    static MEASURED: std::sync::OnceLock<f64> = std::sync::OnceLock::new();
    *MEASURED.get_or_init(|| {
        let (start, began) = (Instant::now(), cpu::cycles());
        std::thread::sleep(Duration::from_millis(100));
        cpu::cycles().wrapping_sub(began) as f64 / start.elapsed().as_secs_f64()
    })
}

/// A port without a kernel. With no packets it only sends.
#[derive(Debug)]
pub struct PacedPort {
    packets: Arc<[Packet]>,
    next: usize,
    tally: Arc<Tally>,
    counters: PortCounters,
    /// The interval that the clock below runs by.
    interval: u64,
    /// When the packet after the last one taken or lost arrives, in cycles times 2^16.
    arrival: u128,
    /// Arrival of the first packet of the batch that is under way, and their number.
    under_way: (u128, u64),
}

impl PacedPort {
    /// `packets` arrive in their order, and again from the first, at the rate that `tally` says.
    pub fn new(packets: Arc<[Packet]>, tally: Arc<Tally>) -> Self {
        let counters = PortCounters::default();
        PacedPort { packets, next: 0, tally, counters, interval: 0, arrival: 0, under_way: (0, 0) }
    }

    /// Notes the packets of the turn before: they are out.
    fn note(&mut self, now: u128) {
        let (first, count) = std::mem::take(&mut self.under_way);
        for number in 0..count {
            let took = now.saturating_sub(first + u128::from(number * self.interval)) >> 16;
            if let Some(times) = self.tally.times.get(bucket(took as u64)) {
                self.tally.add(times, 1);
            }
        }
        self.tally.add(&self.tally.taken, count);
    }

    /// How many packets are in the ring; what has no room there is lost.
    fn waiting(&mut self, now: u128) -> u64 {
        let interval = self.tally.interval.load(Ordering::Relaxed);
        if interval != self.interval {
            (self.interval, self.arrival) = (interval, now);
        }
        if interval == 0 || now < self.arrival {
            return 0;
        }
        let arrived = ((now - self.arrival) / u128::from(interval)) as u64 + 1;
        let lost = arrived.saturating_sub(RING);
        self.arrival += u128::from(lost) * u128::from(interval);
        self.tally.add(&self.tally.lost, lost);
        arrived - lost
    }
}

impl PacketIo for PacedPort {
    #[inline]
    fn receive(&mut self, pool: &mut FramePool, batch: &mut Batch, most: usize) -> usize {
        if self.packets.is_empty() {
            return 0;
        }
        let now = u128::from(cpu::cycles()) << 16;
        self.note(now);
        let waiting = self.waiting(now).min(most as u64);
        let mut received = 0;
        while received < waiting && !batch.is_full() {
            let (Some(packet), Some(mut frame)) = (self.packets.get(self.next), pool.alloc()) else { break };
            // A chunk has room for it.
            let filled = frame.fill(&packet.0);
            debug_assert!(filled);
            batch.push(frame);
            received += 1;
            self.next = if self.next + 1 == self.packets.len() { 0 } else { self.next + 1 };
        }
        self.under_way = (self.arrival, received);
        self.arrival += u128::from(received) * u128::from(self.interval);
        self.counters.rx_packets += received;
        received as usize
    }

    #[inline]
    fn send(&mut self, pool: &mut FramePool, batch: &mut Batch) -> usize {
        swallow(&mut self.counters, pool, batch)
    }

    fn flush(&mut self, _pool: &mut FramePool) -> Result<(), PortError> {
        Ok(())
    }

    fn in_flight(&self) -> usize {
        0
    }

    fn counters(&self) -> PortCounters {
        self.counters
    }

    fn close(self, _pool: &mut FramePool) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_holds_what_it_says() {
        for cycles in [64, 65, 127, 128, 129, 1000, 123_456, u64::from(u32::MAX)] {
            let (bucket, most) = (bucket(cycles), upper(bucket(cycles)));
            assert!(most >= cycles && most - cycles <= cycles / 64, "{cycles}: {most}");
            assert!(bucket == 0 || upper(bucket - 1) < cycles, "{cycles}");
        }
    }
}
