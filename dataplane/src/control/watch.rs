//! [`DropFeed`]: dropped packets for those who watch, at a rate that people and programs can follow.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use agent_api::contract::{DecidedBy, DropEvent};
use futures::StreamExt;
use futures::stream::BoxStream;
use policy_compiler::policy::RuleId;
use tokio::sync::broadcast;
use tokio_stream::wrappers::BroadcastStream;
use tokio_stream::wrappers::errors::BroadcastStreamRecvError;

use super::history::{Judges, decided_by};
use crate::drops::DropReason;
use crate::messages::DropRecord;

/// Events a second, at most.
const RATE: u32 = 2000;
/// Events that a slow reader may be behind.
const BACKLOG: usize = 4096;

/// Dropped packets on their way to watchers.
#[derive(Debug)]
pub(super) struct DropFeed {
    events: broadcast::Sender<DropEvent>,
    /// Events not sent since the last that was.
    missed: u64,
    /// What is left of this second.
    budget: u32,
    second: Instant,
    /// The workers' clocks in Unix time: nanoseconds at their zero.
    epoch_ns: u64,
}

impl DropFeed {
    /// A feed without watchers; `start` is the zero of the workers' clocks.
    pub(super) fn new(start: Instant) -> Self {
        DropFeed {
            events: broadcast::channel(BACKLOG).0,
            missed: 0,
            budget: RATE,
            second: Instant::now(),
            epoch_ns: unix_nanoseconds(start),
        }
    }

    /// One more watcher.
    pub(super) fn watch(&self) -> broadcast::Receiver<DropEvent> {
        self.events.subscribe()
    }

    /// Whether anyone watches.
    pub(super) fn is_watched(&self) -> bool {
        self.events.receiver_count() > 0
    }

    /// Counts events that were lost before they came here.
    pub(super) fn lose(&mut self, count: u64) {
        self.missed += count;
    }

    /// Sends an event on, if this second has room for it.
    pub(super) fn send(&mut self, record: &DropRecord, device: &str, judged_by: Option<&Judges>) {
        if self.second.elapsed() >= Duration::from_secs(1) {
            (self.second, self.budget) = (Instant::now(), RATE);
        }
        if self.budget == 0 {
            self.missed += 1;
            return;
        }
        self.budget -= 1;
        let decided_by = decided_by_of(record, judged_by);
        let event = DropEvent {
            time_ns: self.epoch_ns.saturating_add(record.time_ns),
            reason: record.reason.name().to_owned(),
            device: device.to_owned(),
            src: record.addresses.map(|(src, _)| src),
            src_port: record.src_port,
            dst: record.addresses.map(|(_, dst)| dst),
            dst_port: record.dst_port,
            protocol: record.protocol,
            rule: decided_by.as_ref().map_or_else(String::new, DecidedBy::to_string),
            decided_by,
            generation: judged_by.map_or(0, |judges| judges.generation),
            missed: std::mem::take(&mut self.missed),
        };
        // Without a watcher it is for nobody.
        let _ = self.events.send(event);
    }
}

/// The Unix time of an instant that has been, in nanoseconds.
pub(super) fn unix_nanoseconds(instant: Instant) -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    now.saturating_sub(instant.elapsed()).as_nanos() as u64
}

/// `None` where no policy was asked.
fn decided_by_of(record: &DropRecord, judged_by: Option<&Judges>) -> Option<DecidedBy> {
    let judges = judged_by.filter(|_| record.rule != RuleId::DEFAULT_ALLOW)?;
    // Of an allowed flow the rule is the one for ingress.
    decided_by(&judges.rules, record.rule, record.reason != DropReason::PolicyEgress)
}

/// An event that says how many before it were lost.
pub(super) trait Lossy: Clone + Send + 'static {
    /// Their number.
    fn missed(&mut self) -> &mut u64;
}

impl Lossy for DropEvent {
    fn missed(&mut self) -> &mut u64 {
        &mut self.missed
    }
}

/// The watcher's end: what a slow reader misses is counted in the next event that it gets.
pub(super) fn stream<E: Lossy>(receiver: broadcast::Receiver<E>) -> BoxStream<'static, E> {
    let events = BroadcastStream::new(receiver).scan(0, |behind: &mut u64, event| {
        let event = match event {
            Ok(mut event) => {
                *event.missed() += std::mem::take(behind);
                Some(event)
            }
            Err(BroadcastStreamRecvError::Lagged(count)) => {
                *behind += count;
                None
            }
        };
        futures::future::ready(Some(event))
    });
    events.filter_map(futures::future::ready).boxed()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> DropRecord {
        DropRecord {
            reason: DropReason::NoRoute,
            port: 0,
            addresses: None,
            src_port: 0,
            dst_port: 0,
            protocol: 0,
            rule: RuleId::DEFAULT_ALLOW,
            epoch: 1,
            time_ns: 5,
        }
    }

    #[test]
    fn what_is_lost_is_counted_in_the_next_event() {
        let mut feed = DropFeed::new(Instant::now());
        assert!(!feed.is_watched());
        let mut watcher = feed.watch();
        assert!(feed.is_watched());
        feed.budget = 1;
        feed.lose(3);
        feed.send(&record(), "veth0", None);
        feed.send(&record(), "veth0", None);
        feed.send(&record(), "veth0", None);
        let event = watcher.try_recv().unwrap();
        assert_eq!((event.missed, event.reason.as_str(), event.device.as_str()), (3, "no_route", "veth0"));
        assert!(watcher.try_recv().is_err());
        feed.budget = 1;
        feed.send(&record(), "veth0", None);
        assert_eq!(watcher.try_recv().unwrap().missed, 2);
    }

    #[test]
    fn a_slow_reader_learns_how_much_it_missed() {
        let mut feed = DropFeed::new(Instant::now());
        let mut events = stream(feed.watch());
        feed.budget = u32::MAX;
        for _ in 0..BACKLOG + 10 {
            feed.send(&record(), "veth0", None);
        }
        let first = futures::executor::block_on(events.next()).unwrap();
        assert_eq!(first.missed, 10);
    }
}
