//! The two loops of a measurement: [`transmit`] paces a [`Sender`], [`collect`] empties a [`Receiver`]. Everything
//! they share with the outside is in [`Shared`].

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use crate::clock::monotonic_ns;
use crate::engine::{EngineError, Receiver, Sender};
use crate::live_latency::LiveLatencies;
use crate::meter::Meter;
use crate::rate::Pacer;
use crate::traffic::Traffic;

/// A wait longer than this is slept through, up to [`SPIN`] before its end; a shorter one is spun.
const SLEEP_FROM: u64 = 200_000;

/// How long before a packet is due the thread stops sleeping: what a sleep may overshoot.
const SPIN: u64 = 100_000;

/// How long a receiver waits for a packet before it looks at the time again.
const PATIENCE: Duration = Duration::from_millis(10);

/// Once everything has come, how long to look for duplicates.
const AFTERMATH: u64 = 20_000_000;

/// What the threads of a measurement tell each other. Counters are for the progress line; the exact figures are the
/// loops' results.
#[derive(Debug, Default)]
pub struct Shared {
    /// End as soon as possible: interrupted, or the other end has failed.
    stop: AtomicBool,
    /// Ended by a signal.
    interrupted: AtomicBool,
    /// Packets of the measurement sent so far.
    pub sent: AtomicU64,
    /// Distinct packets of the measurement received so far.
    pub received: AtomicU64,
    /// When the sender ended, in ns; 0 while it has not.
    ended: AtomicU64,
    /// Latencies of one packet a batch.
    pub latencies: LiveLatencies,
}

impl Shared {
    /// Asks both ends to stop.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    /// Whether both ends are asked to stop.
    pub fn stopping(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Asks both ends to stop because of a signal.
    pub fn interrupt(&self) {
        self.interrupted.store(true, Ordering::Relaxed);
        self.stop();
    }

    /// Whether a signal ended it.
    pub fn is_interrupted(&self) -> bool {
        self.interrupted.load(Ordering::Relaxed)
    }

    /// Says that nothing more will be sent.
    pub fn end_sending(&self) {
        self.ended.store(monotonic_ns().max(1), Ordering::Release);
    }

    /// Makes ready for another measurement of the same threads: nothing sent, nothing received, not ended.
    pub fn renew(&self) {
        self.sent.store(0, Ordering::Relaxed);
        self.received.store(0, Ordering::Relaxed);
        self.ended.store(0, Ordering::Release);
    }

    /// Whether the drain time after the sender's end is over at `now`, or everything has come and been looked after.
    pub fn is_drained(&self, meter: &Meter, now: u64, drain: Duration) -> bool {
        let ended = self.ended.load(Ordering::Acquire);
        if ended == 0 {
            return false;
        }
        let all_here = meter.received >= self.sent.load(Ordering::Relaxed);
        let quiet = now.saturating_sub(meter.last.unwrap_or(ended).max(ended)) >= AFTERMATH;
        now.saturating_sub(ended) >= drain.as_nanos() as u64 || (all_here && quiet)
    }
}

/// How much is to be sent, and how fast.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Load {
    /// Packets a second; `None` is as fast as the engine can.
    pub rate: Option<f64>,
    /// How long at most.
    pub limit: Option<Duration>,
    /// How many packets at most.
    pub count: Option<u64>,
    /// How long to send first, unmeasured.
    pub warmup: Duration,
    /// How far the sender may be behind and still catch up; `None` is what suits the engine.
    pub catch_up: Option<Duration>,
}

impl Load {
    /// Packets that are asked for; `None` where the engine decides.
    pub fn asked(&self) -> Option<u64> {
        match (self.by_time(), self.count) {
            (Some(by_time), Some(count)) => Some(by_time.min(count)),
            (by_time, count) => by_time.or(count),
        }
    }

    /// Packets of the rate while the time lasts.
    fn by_time(&self) -> Option<u64> {
        let (rate, limit) = self.rate.zip(self.limit)?;
        Some((rate * limit.as_secs_f64()).round() as u64)
    }
}

/// What was sent.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Sent {
    /// Packets of the measurement.
    pub packets: u64,
    /// Their bytes, as whole frames without frame check sequence.
    pub bytes: u64,
    /// When the first of them was begun.
    pub first: Option<u64>,
    /// When the last of them was with the engine.
    pub last: Option<u64>,
    /// Packets of the rate given up.
    pub forfeited: u64,
    /// Packets before the measurement.
    pub warmup: u64,
}

/// Sends `traffic` through `sender` as `load` says, until it is done or [`Shared::stop`] is set.
///
/// # Errors
/// [`EngineError`] where the engine cannot go on.
pub fn transmit(
    sender: &mut dyn Sender,
    traffic: &mut Traffic,
    load: &Load,
    shared: &Shared,
) -> Result<Sent, EngineError> {
    let mut sent = Sent::default();
    if !load.warmup.is_zero() {
        traffic.set_warmup(true);
        let warmup = Load { limit: Some(load.warmup), count: None, ..*load };
        sent.warmup = phase(sender, traffic, &warmup, shared, |_| {})?.packets;
        traffic.set_warmup(false);
    }
    let warmup = sent.warmup;
    let measured =
        phase(sender, traffic, load, shared, |packets| shared.sent.store(packets, Ordering::Relaxed))?;
    Ok(Sent { warmup, ..measured })
}

fn phase(
    sender: &mut dyn Sender,
    traffic: &mut Traffic,
    load: &Load,
    shared: &Shared,
    publish: impl Fn(u64),
) -> Result<Sent, EngineError> {
    let mut sent = Sent::default();
    let start = monotonic_ns();
    let end = load.limit.map_or(u64::MAX, |limit| start.saturating_add(limit.as_nanos() as u64));
    // Time runs out for what is given up as for what is sent; a count is of packets sent.
    let by_time = load.by_time().unwrap_or(u64::MAX);
    let count = load.count.unwrap_or(u64::MAX);
    let catch_up = load.catch_up.map_or(sender.catch_up(), |time| time.as_nanos() as u64);
    let mut pacer = Pacer::new(load.rate, start).catching_up(catch_up);
    while !shared.stopping() {
        let now = monotonic_ns();
        let due = pacer.due(now.min(end)).min(count - sent.packets);
        let due = due.min(by_time.saturating_sub(sent.packets + pacer.forfeited()));
        if now >= end || sent.packets >= count || sent.packets + pacer.forfeited() >= by_time {
            break;
        }
        if due == 0 {
            let left = sender.settle()?;
            wait(pacer.next_at().min(end), left > 0);
            continue;
        }
        let taken = sender.send(traffic, due.min(sender.batch()))?;
        if taken.packets > 0 {
            pacer.take(taken.packets);
            sent.packets += taken.packets;
            sent.bytes += taken.bytes;
            sent.first.get_or_insert(now);
            publish(sent.packets);
        }
    }
    sent.last = sent.first.map(|_| monotonic_ns());
    // What was still owed when the time was up will never be sent.
    let over = !shared.stopping() && sent.packets < count && by_time != u64::MAX;
    sent.forfeited = if over { by_time.saturating_sub(sent.packets) } else { pacer.forfeited() };
    Ok(sent)
}

/// Waits for `until`: asleep while there is time, spinning at the end. While frames are on their way, it only
/// takes short breaks.
fn wait(until: u64, busy: bool) {
    let left = until.saturating_sub(monotonic_ns());
    if left > SLEEP_FROM {
        let nap = if busy { SPIN } else { left - SPIN };
        thread::sleep(Duration::from_nanos(nap.min(50_000_000)));
    } else {
        thread::yield_now();
    }
}

/// Receives from `receiver` into `meter` until `done`, which is asked after every batch with the time.
///
/// # Errors
/// [`EngineError`] where the engine cannot go on.
pub fn collect(
    receiver: &mut dyn Receiver,
    meter: &mut Meter,
    shared: &Shared,
    done: impl Fn(&Meter, u64) -> bool,
) -> Result<(), EngineError> {
    loop {
        receiver.receive(meter, PATIENCE)?;
        shared.received.store(meter.received, Ordering::Relaxed);
        if let Some(latency) = meter.latest.take() {
            shared.latencies.note(latency);
        }
        if done(meter, monotonic_ns()) {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Taken;
    use crate::engine::port::{PortReceiver, PortSender};
    use crate::flow::draw;
    use crate::locate::Look;
    use crate::packet::VXLAN_PORT;
    use crate::packet::tests::HEADERS;
    use crate::report::{Report, RxReport};
    use crate::traffic::TrafficSpec;
    use afxdp_driver::memory::MemoryPort;
    use afxdp_driver::{FramePool, HugePages};

    fn traffic(flows: usize) -> Traffic {
        let sources = ("10.0.0.1".parse().unwrap(), "1000-2000".parse().unwrap());
        let destinations = ("10.0.0.2".parse().unwrap(), "9000".parse().unwrap());
        let spec = TrafficSpec {
            flows: draw(flows, sources, destinations).unwrap(),
            syn_flows: 0,
            popularity: Default::default(),
            streams: flows,
            protocols: "udp,icmp".parse().unwrap(),
            sizes: "64,128".parse().unwrap(),
            headers: HEADERS,
        };
        Traffic::new(&spec, 3).unwrap()
    }

    fn pool(chunks: usize) -> FramePool {
        FramePool::anonymous(chunks, HugePages::Never).unwrap()
    }

    fn load(rate: Option<f64>, count: u64) -> Load {
        Load { rate, limit: None, count: Some(count), warmup: Duration::ZERO, catch_up: None }
    }

    /// Sends `count` packets over a memory wire; drops, repeats and swaps what `mischief` says on the way.
    fn over_the_wire(count: u64, mischief: impl Fn(Vec<Vec<u8>>) -> Vec<Vec<u8>>) -> Report {
        let (port, wire) = MemoryPort::new(32);
        let mut sender: Box<dyn Sender> = Box::new(PortSender::new(port, pool(48)));
        let (mut traffic, shared) = (traffic(2), Shared::default());
        let sent = transmit(&mut *sender, &mut traffic, &load(None, count), &shared).unwrap();
        assert_eq!(sender.close(), 0);
        shared.end_sending();
        let frames = wire.drain();
        assert_eq!((sent.packets, frames.len() as u64), (count, count));
        assert_eq!(sent.bytes, frames.iter().map(|frame| frame.len() as u64).sum::<u64>());
        let (port, wire) = MemoryPort::new(32);
        mischief(frames).into_iter().for_each(|frame| wire.inject(frame));
        let look = Look { verify: true, vxlan_port: VXLAN_PORT };
        let mut receiver = PortReceiver::new(vec![port], pool(100), look, |_| 0);
        let mut meter = Meter::new(Some(3));
        collect(&mut receiver, &mut meter, &shared, |meter, now| {
            shared.is_drained(meter, now, Duration::from_millis(50))
        })
        .unwrap();
        let mut report = Report::new("run", false);
        report.judge(&meter, Some(traffic.tallies()), RxReport::default());
        assert!(report.conservation.as_ref().unwrap().holds);
        report
    }

    #[test]
    fn everything_sent_is_received_in_order() {
        let report = over_the_wire(1001, |frames| frames);
        let loss = report.loss.unwrap();
        assert_eq!((loss.sent, loss.received, loss.lost), (1001, 1001, 0));
        let rx = report.rx.unwrap();
        assert_eq!((rx.duplicates, rx.reordered, rx.corrupt, rx.foreign), (0, 0, 0, 0));
        assert_eq!(report.latency_ns.unwrap().samples, 1001);
    }

    #[test]
    fn loss_repetition_disorder_and_damage_are_each_counted() {
        let report = over_the_wire(100, |mut frames| {
            frames.remove(10);
            frames.push(frames[20].clone());
            frames.swap(30, 32); // the same stream: flows alternate
            frames[50][50] ^= 1; // within the stamp
            frames.push(vec![0; 60]);
            frames
        });
        let (loss, rx) = (report.loss.unwrap(), report.rx.unwrap());
        assert_eq!((loss.sent, loss.received, loss.lost), (100, 98, 2));
        assert_eq!((rx.duplicates, rx.reordered, rx.max_reorder_distance), (1, 1, 1));
        assert_eq!((rx.corrupt, rx.foreign, rx.frames), (1, 1, 101));
    }

    #[test]
    fn a_paced_load_takes_its_time_and_warms_up_apart() {
        let (port, wire) = MemoryPort::new(64);
        let mut sender = PortSender::new(port, pool(128));
        let (mut traffic, shared) = (traffic(1), Shared::default());
        let warmup = Duration::from_millis(20);
        let load =
            Load { limit: Some(Duration::from_millis(100)), count: None, warmup, ..load(Some(10_000.0), 0) };
        let sent = transmit(&mut sender, &mut traffic, &load, &shared).unwrap();
        assert_eq!(load.asked(), Some(1000));
        assert_eq!(sent.packets + sent.forfeited, 1000);
        assert!(sent.packets > 500 && sent.warmup > 0 && sent.warmup <= 200, "{sent:?}");
        let seconds = (sent.last.unwrap() - sent.first.unwrap()) as f64 / 1e9;
        assert!(seconds >= 0.09, "{seconds}");
        assert_eq!(wire.drain().len() as u64, sent.packets + sent.warmup);
        assert_eq!(traffic.tallies()[0].sent, sent.packets);
    }

    #[test]
    fn a_sender_that_may_be_far_behind_gives_nothing_up() {
        /// Takes nothing for the first 20 ms.
        struct Late(u64);
        impl Sender for Late {
            fn send(&mut self, traffic: &mut Traffic, count: u64) -> Result<Taken, EngineError> {
                if monotonic_ns() < self.0 {
                    return Ok(Taken::default());
                }
                let taken = (0..count).filter_map(|_| traffic.plan()).count() as u64;
                Ok(Taken { packets: taken, bytes: taken * 60 })
            }
            fn settle(&mut self) -> Result<usize, EngineError> {
                Ok(0)
            }
            fn lost(&self) -> u64 {
                0
            }
            fn close(self: Box<Self>) -> u64 {
                0
            }
        }
        let sent = |catch_up| {
            let limit = Some(Duration::from_millis(40));
            let load = Load { limit, count: None, catch_up, ..load(Some(100_000.0), 0) };
            let mut late = Late(monotonic_ns() + 20_000_000);
            transmit(&mut late, &mut traffic(1), &load, &Shared::default()).unwrap()
        };
        let (usual, patient) = (sent(None), sent(Some(Duration::from_secs(1))));
        assert!(usual.forfeited >= 1_700, "{usual:?}");
        assert!(patient.forfeited < usual.forfeited, "{patient:?} {usual:?}");
        assert_eq!(patient.packets + patient.forfeited, 4_000);
    }

    #[test]
    fn stop_ends_the_sender_and_a_receiver_that_asks() {
        let (port, _wire) = MemoryPort::new(64);
        let shared = Shared::default();
        shared.stop();
        let mut sender = PortSender::new(port, pool(64));
        assert_eq!(
            transmit(&mut sender, &mut traffic(1), &load(None, u64::MAX), &shared).unwrap(),
            Sent::default()
        );
        let (port, _wire) = MemoryPort::new(64);
        let look = Look { verify: true, vxlan_port: VXLAN_PORT };
        let mut receiver = PortReceiver::new(vec![port], pool(64), look, |_| 0);
        collect(&mut receiver, &mut Meter::new(None), &shared, |_, _| shared.stopping()).unwrap();
    }

    #[test]
    fn a_sender_that_takes_nothing_is_asked_again_and_not_counted() {
        struct Stubborn(u32);
        impl Sender for Stubborn {
            fn send(&mut self, traffic: &mut Traffic, count: u64) -> Result<Taken, EngineError> {
                self.0 += 1;
                if !self.0.is_multiple_of(3) {
                    return Ok(Taken::default());
                }
                let taken = (0..count.min(5)).filter_map(|_| traffic.plan()).count() as u64;
                Ok(Taken { packets: taken, bytes: taken * 60 })
            }
            fn settle(&mut self) -> Result<usize, EngineError> {
                Ok(0)
            }
            fn lost(&self) -> u64 {
                0
            }
            fn close(self: Box<Self>) -> u64 {
                0
            }
        }
        let mut traffic = traffic(1);
        let sent = transmit(&mut Stubborn(0), &mut traffic, &load(None, 17), &Shared::default()).unwrap();
        assert_eq!((sent.packets, sent.bytes, traffic.tallies()[0].sent), (17, 17 * 60, 17));
    }
}
