//! [`Meter`]: what became of the packets: received, lost, twice, out of order, and how long they took.
//!
//! Definitions, per stream, over sequence numbers 0, 1, 2, …:
//! * received: distinct numbers seen. A number seen again is a duplicate and counts nowhere else.
//! * reordered (RFC 4737, type-P-reordered, singleton): on its first arrival the number is smaller than one
//!   received before it. The distance is the difference to the highest number seen so far.
//! * a number more than [`WINDOW`] below the highest can no longer be told from a duplicate: it is counted as
//!   beyond the window, and not as received.
//! * lost: what was sent and is not received. Where the sender is another process, what was sent is taken to be
//!   0 … the highest number seen, so that a loss at the very end stays unseen.
//! * latency: the receiver's `CLOCK_MONOTONIC` less the stamp, in nanoseconds, of distinct packets. Both clocks
//!   are read once a batch: right before the sender writes a batch, right after the receiver got one. None is
//!   taken of a packet that carries no send time.

use hdrhistogram::Histogram;

use crate::locate::Found;
use crate::stamp::{MAX_STREAMS, Stamp, UNTIMED};

/// Sequence numbers below the highest within which duplicates are recognised.
pub const WINDOW: u64 = 1 << 17;

/// Longest latency told apart; longer ones count as this: 100 s in nanoseconds.
pub const MAX_LATENCY: u64 = 100_000_000_000;

/// Everything a receiver has seen. Law: frames = measured + warm-up + foreign + other runs + corrupt, where
/// measured = received + duplicates + beyond the window over all streams.
#[derive(Debug)]
pub struct Meter {
    run: Option<u16>,
    streams: Vec<Option<Box<StreamMeter>>>,
    /// What was seen of no stream.
    pub apart: Apart,
    /// Frames of any kind.
    pub frames: u64,
    /// Bytes of distinct measured packets: as the engine sees them, whole frames or UDP payloads.
    pub bytes: u64,
    /// Distinct packets of all streams.
    pub received: u64,
    /// When the first measured packet came.
    pub first: Option<u64>,
    /// When the last measured packet came.
    pub last: Option<u64>,
    /// The latency of the latest packet that had one, for whoever watches.
    pub latest: Option<u64>,
}

/// Frames that are not measured.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Apart {
    /// Without our magic.
    pub foreign: u64,
    /// Of another run, or of a stream number out of range.
    pub other_run: u64,
    /// With a wrong checksum.
    pub corrupt: u64,
    /// Sent before the measurement.
    pub warmup: u64,
}

impl Meter {
    /// A meter for packets of `run`; `None` takes the first run it sees.
    pub fn new(run: Option<u16>) -> Self {
        Meter {
            run,
            streams: std::iter::repeat_with(|| None).take(MAX_STREAMS).collect(),
            apart: Apart::default(),
            frames: 0,
            bytes: 0,
            received: 0,
            first: None,
            last: None,
            latest: None,
        }
    }

    /// Makes room for the first `streams` streams, so that none is made in the middle of a measurement.
    pub fn prepare(&mut self, streams: usize) {
        for stream in self.streams.iter_mut().take(streams) {
            stream.get_or_insert_with(Default::default);
        }
    }

    /// Enters one frame of `len` bytes that arrived at `now`.
    #[inline]
    pub fn observe(&mut self, found: Found, now: u64, len: usize) {
        self.frames += 1;
        let stamp = match found {
            Found::Stamped(stamp) => stamp,
            Found::Corrupt => return self.apart.corrupt += 1,
            Found::Foreign => return self.apart.foreign += 1,
        };
        let run = *self.run.get_or_insert(stamp.run);
        let stream = self.streams.get_mut(usize::from(stamp.stream)).filter(|_| stamp.run == run);
        let Some(stream) = stream else { return self.apart.other_run += 1 };
        if stamp.warmup {
            self.apart.warmup += 1;
            return;
        }
        if stream.get_or_insert_with(Default::default).observe(&stamp, now, &mut self.latest) {
            self.bytes += len as u64;
            self.received += 1;
        }
        self.first.get_or_insert(now);
        self.last = Some(now);
    }

    /// The streams that were seen, with their numbers.
    pub fn streams(&self) -> impl Iterator<Item = (u16, &StreamMeter)> {
        self.streams
            .iter()
            .enumerate()
            .filter_map(|(number, stream)| Some((number as u16, &**stream.as_ref()?)))
    }

    /// The stream of that number, if it was seen.
    pub fn stream(&self, number: u16) -> Option<&StreamMeter> {
        self.streams.get(usize::from(number))?.as_deref()
    }

    /// The run that is measured, once known.
    pub fn run(&self) -> Option<u16> {
        self.run
    }

    /// Whether the law above holds.
    pub fn is_conserved(&self) -> bool {
        let measured: u64 = self.streams().map(|(_, s)| s.received + s.duplicates + s.beyond_window).sum();
        let Apart { foreign, other_run, corrupt, warmup } = self.apart;
        self.frames == measured + foreign + other_run + corrupt + warmup
    }
}

/// What was seen of one stream.
#[derive(Debug)]
pub struct StreamMeter {
    /// Distinct packets.
    pub received: u64,
    /// Packets seen again.
    pub duplicates: u64,
    /// Distinct packets that came after one with a higher number (RFC 4737).
    pub reordered: u64,
    /// The largest distance of a reordered packet to the highest number before it.
    pub max_distance: u64,
    /// Packets too far behind to be told from duplicates.
    pub beyond_window: u64,
    /// Packets whose stamp lies in the receiver's future: no latency is taken of them.
    pub from_future: u64,
    /// Latencies in nanoseconds.
    pub latency: Histogram<u64>,
    window: SequenceWindow,
}

impl Default for StreamMeter {
    fn default() -> Self {
        StreamMeter {
            received: 0,
            duplicates: 0,
            reordered: 0,
            max_distance: 0,
            beyond_window: 0,
            from_future: 0,
            latency: latency_histogram(),
            window: SequenceWindow::default(),
        }
    }
}

impl StreamMeter {
    /// One more than the highest sequence number seen; 0 where none was.
    pub fn expected(&self) -> u64 {
        self.window.next
    }

    /// True where the packet is distinct.
    #[inline]
    fn observe(&mut self, stamp: &Stamp, now: u64, latest: &mut Option<u64>) -> bool {
        match self.window.enter(stamp.sequence) {
            Arrival::Duplicate => {
                self.duplicates += 1;
                return false;
            }
            Arrival::BeyondWindow => {
                self.beyond_window += 1;
                return false;
            }
            Arrival::InOrder => {}
            Arrival::Reordered(distance) => {
                self.reordered += 1;
                self.max_distance = self.max_distance.max(distance);
            }
        }
        self.received += 1;
        match stamp.latency(now) {
            _ if stamp.sent == UNTIMED => {}
            Some(latency) => {
                *latest = Some(latency);
                self.latency.saturating_record(latency.min(MAX_LATENCY));
            }
            None => self.from_future += 1,
        }
        true
    }
}

/// An empty histogram of nanoseconds, from 1 to [`MAX_LATENCY`], to three significant digits.
#[expect(clippy::expect_used, reason = "all arguments are constants, and a test makes one")]
pub fn latency_histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, MAX_LATENCY, 3)
        .expect("1 ≤ 2·1 ≤ MAX_LATENCY and 3 ≤ 5, as hdrhistogram asks")
}

/// How a sequence number came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Arrival {
    /// Higher than every one before it.
    InOrder,
    /// For the first time, this far below the highest.
    Reordered(u64),
    /// Again.
    Duplicate,
    /// Too far below the highest to know.
    BeyondWindow,
}

/// Which of the last [`WINDOW`] sequence numbers have come: one bit each, in a ring.
#[derive(Debug, Default)]
struct SequenceWindow {
    bits: Vec<u64>,
    /// One more than the highest number seen.
    next: u64,
}

impl SequenceWindow {
    #[inline]
    fn enter(&mut self, sequence: u64) -> Arrival {
        if sequence >= self.next {
            self.advance(sequence);
            return Arrival::InOrder;
        }
        let distance = self.next - 1 - sequence;
        if distance >= WINDOW {
            return Arrival::BeyondWindow;
        }
        match self.set(sequence) {
            true => Arrival::Reordered(distance),
            false => Arrival::Duplicate,
        }
    }

    /// Makes `sequence` the highest: forgets the numbers that the skipped ones share their bits with.
    #[inline]
    fn advance(&mut self, sequence: u64) {
        if self.bits.is_empty() {
            self.bits = vec![0; (WINDOW / 64) as usize];
        }
        let skipped = sequence - self.next;
        if skipped >= WINDOW {
            self.bits.fill(0);
        } else {
            for number in self.next..sequence {
                self.clear(number);
            }
        }
        self.clear(sequence);
        self.set(sequence);
        self.next = sequence + 1;
    }

    /// True where the bit was clear.
    #[inline]
    fn set(&mut self, sequence: u64) -> bool {
        let Some(word) = self.bits.get_mut((sequence % WINDOW / 64) as usize) else { return false };
        let bit = 1 << (sequence % 64);
        let fresh = *word & bit == 0;
        *word |= bit;
        fresh
    }

    #[inline]
    fn clear(&mut self, sequence: u64) {
        if let Some(word) = self.bits.get_mut((sequence % WINDOW / 64) as usize) {
            *word &= !(1 << (sequence % 64));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn stamp(sequence: u64, sent: u64) -> Stamp {
        Stamp { run: 5, stream: 3, warmup: false, sequence, sent }
    }

    /// The slow twin: keeps every number and every latency.
    #[derive(Debug, Default, PartialEq)]
    struct Slow {
        seen: BTreeSet<u64>,
        latencies: Vec<u64>,
        duplicates: u64,
        reordered: u64,
        max_distance: u64,
        beyond_window: u64,
    }

    impl Slow {
        fn observe(&mut self, sequence: u64, latency: u64) {
            match self.seen.last().copied() {
                Some(highest) if sequence + WINDOW <= highest => return self.beyond_window += 1,
                _ if self.seen.contains(&sequence) => return self.duplicates += 1,
                Some(highest) if sequence < highest => {
                    self.reordered += 1;
                    self.max_distance = self.max_distance.max(highest - sequence);
                }
                _ => {}
            }
            self.seen.insert(sequence);
            self.latencies.push(latency);
        }

        fn quantile(&self, q: f64) -> u64 {
            let mut sorted = self.latencies.clone();
            sorted.sort_unstable();
            sorted[((q * sorted.len() as f64).ceil() as usize).max(1) - 1]
        }
    }

    /// Mostly forward, sometimes back, sometimes a leap, sometimes one beyond the window.
    fn arrivals() -> impl Strategy<Value = Vec<(u64, u64)>> {
        let step = prop_oneof![8 => 1i64..3, 3 => -6i64..=0, 1 => 100i64..1000, 1 => -2000i64..0,
            1 => (WINDOW as i64 - 3)..(WINDOW as i64 + 3), 1 => (-(WINDOW as i64) - 3)..(-(WINDOW as i64) + 3)];
        proptest::collection::vec((step, 1u64..1_000_000_000), 1..400).prop_map(|steps| {
            let mut at = 0i64;
            steps
                .into_iter()
                .map(|(step, latency)| {
                    at = (at + step).max(0);
                    (at as u64, latency)
                })
                .collect()
        })
    }

    proptest! {
        #[test]
        fn agrees_with_remembering_everything(arrivals in arrivals()) {
            let (mut meter, mut slow) = (Meter::new(Some(5)), Slow::default());
            for (sequence, latency) in &arrivals {
                meter.observe(Found::Stamped(stamp(*sequence, 1000)), 1000 + latency, 60);
                slow.observe(*sequence, *latency);
            }
            let stream = meter.stream(3).unwrap();
            prop_assert_eq!(stream.received, slow.seen.len() as u64);
            prop_assert_eq!(meter.bytes, 60 * stream.received);
            prop_assert_eq!(
                (stream.duplicates, stream.reordered, stream.max_distance, stream.beyond_window),
                (slow.duplicates, slow.reordered, slow.max_distance, slow.beyond_window)
            );
            prop_assert_eq!(stream.expected(), slow.seen.last().unwrap() + 1);
            for q in [0.5, 0.9, 0.99, 0.999, 1.0] {
                let (fast, exact) = (stream.latency.value_at_quantile(q) as f64, slow.quantile(q) as f64);
                prop_assert!((fast - exact).abs() <= exact / 1000.0 + 1.0, "{} {} {}", q, fast, exact);
            }
            prop_assert_eq!(meter.received, stream.received);
            prop_assert!(meter.is_conserved());
        }
    }

    #[test]
    fn what_is_not_measured_is_counted_apart() {
        let mut meter = Meter::new(Some(5));
        let ours = stamp(0, 0);
        meter.observe(Found::Foreign, 1, 60);
        meter.observe(Found::Corrupt, 1, 60);
        meter.observe(Found::Stamped(Stamp { run: 6, ..ours }), 1, 60);
        meter.observe(Found::Stamped(Stamp { stream: MAX_STREAMS as u16, ..ours }), 1, 60);
        meter.observe(Found::Stamped(Stamp { warmup: true, ..ours }), 1, 60);
        assert_eq!(meter.apart, Apart { foreign: 1, other_run: 2, corrupt: 1, warmup: 1 });
        assert_eq!((meter.received, meter.first, meter.bytes), (0, None, 0));
        assert!(meter.is_conserved());
    }

    #[test]
    fn without_a_run_the_first_one_seen_is_taken() {
        let mut meter = Meter::new(None);
        meter.observe(Found::Stamped(stamp(0, 0)), 1, 60);
        meter.observe(Found::Stamped(Stamp { run: 6, ..stamp(1, 0) }), 1, 60);
        assert_eq!((meter.run(), meter.received, meter.apart.other_run), (Some(5), 1, 1));
    }

    #[test]
    fn a_stamp_from_the_future_has_no_latency() {
        let mut meter = Meter::new(Some(5));
        meter.observe(Found::Stamped(stamp(0, 2000)), 1000, 60);
        let stream = meter.stream(3).unwrap();
        assert_eq!((stream.received, stream.from_future, stream.latency.len()), (1, 1, 0));
    }

    #[test]
    fn a_stamp_without_a_time_has_no_latency_either() {
        let mut meter = Meter::new(Some(5));
        meter.observe(Found::Stamped(stamp(0, UNTIMED)), 1000, 60);
        let stream = meter.stream(3).unwrap();
        assert_eq!((stream.received, stream.from_future, stream.latency.len()), (1, 0, 0));
    }
}
