//! [`Feed`]: differences for those who watch, the last ones for those who come later. The workers hold the rate (see
//! [`crate::shadow::tally::TOLD_A_SECOND`]).

use std::collections::VecDeque;
use std::time::Instant;

use agent_api::contract::ShadowDifference;
use futures::stream::{self, BoxStream, StreamExt};
use tokio::sync::broadcast;

use super::super::watch::{self, Lossy};

/// Differences that a slow reader may be behind.
const BACKLOG: usize = 4096;
/// Differences that are kept for those who come later.
const RECENT: usize = 1024;

/// Differences on their way to watchers.
pub(super) struct Feed {
    events: broadcast::Sender<ShadowDifference>,
    recent: VecDeque<ShadowDifference>,
    /// What workers lost of this candidate, as far as it is accounted for.
    lost: u64,
    /// The workers' clocks in Unix time: nanoseconds at their zero.
    epoch_ns: u64,
}

/// One who watches.
pub(in super::super) struct Watcher {
    recent: Vec<ShadowDifference>,
    events: broadcast::Receiver<ShadowDifference>,
}

impl Feed {
    /// A feed without watchers; `start` is the zero of the workers' clocks.
    pub(super) fn new(start: Instant) -> Self {
        let epoch_ns = watch::unix_nanoseconds(start);
        Feed { events: broadcast::channel(BACKLOG).0, recent: VecDeque::new(), lost: 0, epoch_ns }
    }

    /// Another candidate begins: what was found of the one before is of no more use.
    pub(super) fn begin(&mut self) {
        self.recent.clear();
        self.lost = 0;
    }

    /// Sends a difference on; `lost` are all that workers have lost of its candidate.
    pub(super) fn send(&mut self, mut difference: ShadowDifference, lost: u64) {
        difference.time_ns = self.epoch_ns.saturating_add(difference.time_ns);
        difference.missed = lost.saturating_sub(self.lost);
        self.lost = lost;
        if self.recent.len() == RECENT {
            self.recent.pop_front();
        }
        self.recent.push_back(difference.clone());
        // Without a watcher it is for nobody yet.
        let _ = self.events.send(difference);
    }

    /// One more watcher.
    pub(super) fn watch(&self) -> Watcher {
        Watcher { recent: self.recent.iter().cloned().collect(), events: self.events.subscribe() }
    }
}

impl Watcher {
    /// The last differences, then each as it comes. What a slow reader misses is counted in the next one that it gets.
    pub(in super::super) fn stream(self) -> BoxStream<'static, ShadowDifference> {
        stream::iter(self.recent).chain(watch::stream(self.events)).boxed()
    }
}

impl Lossy for ShadowDifference {
    fn missed(&mut self) -> &mut u64 {
        &mut self.missed
    }
}
