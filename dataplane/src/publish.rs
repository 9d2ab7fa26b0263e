//! Publication: how workers come to a new [`Snapshot`], and how the control thread knows that they have.
//!
//! ```text
//!   control: swap the snapshot ─► store the epoch ─► wake sleepers ─► wait: every worker has passed it or sleeps
//!   worker:  load the epoch (once a batch) ─ newer? ─► load the snapshot ─► note the epoch in its own slot
//! ```
//!
//! The control thread keeps a reference to each old snapshot until every worker has passed it, so the last
//! reference is always dropped here, never on a worker.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;

use crate::snapshot::Snapshot;

/// One worker's side of the acknowledgement: written by the worker, read by the control thread.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Slot {
    /// The epoch of the snapshot that the worker judges by.
    seen: AtomicU32,
    /// True while the worker sleeps (it holds no packets and looks at the epoch before it takes one).
    asleep: AtomicBool,
}

/// What control and workers share.
#[derive(Debug)]
pub struct Publication {
    current: ArcSwap<Snapshot>,
    epoch: AtomicU32,
    slots: Vec<Slot>,
}

impl Publication {
    /// Starts with `first`, for so many workers.
    pub fn new(first: Snapshot, workers: usize) -> Arc<Self> {
        let epoch = AtomicU32::new(first.epoch);
        let slots = (0..workers).map(|_| Slot::default()).collect();
        Arc::new(Publication { current: ArcSwap::from_pointee(first), epoch, slots })
    }

    /// The newest snapshot, for readers that are not workers.
    pub fn load(&self) -> Arc<Snapshot> {
        self.current.load_full()
    }

    /// A worker's reader. To be made once for each worker number.
    pub fn reader(self: &Arc<Self>, worker: usize) -> Reader {
        let snapshot = self.load();
        let reader = Reader { publication: Arc::clone(self), worker, snapshot };
        reader.acknowledge();
        reader
    }

    /// What each worker has passed.
    pub fn seen(&self) -> Vec<u32> {
        self.slots.iter().map(|slot| slot.seen.load(Ordering::SeqCst)).collect()
    }
}

/// A worker's view of the publication.
#[derive(Debug)]
pub struct Reader {
    publication: Arc<Publication>,
    worker: usize,
    snapshot: Arc<Snapshot>,
}

impl Reader {
    /// Picks up the newest snapshot. Costs one load where nothing changed. True where it did change.
    #[inline]
    pub fn refresh(&mut self) -> bool {
        if self.publication.epoch.load(Ordering::SeqCst) == self.snapshot.epoch {
            return false;
        }
        self.snapshot = self.publication.load();
        self.acknowledge();
        true
    }

    /// What to judge by.
    #[inline]
    pub fn snapshot(&self) -> &Arc<Snapshot> {
        &self.snapshot
    }

    /// Says that the worker is about to sleep: it must hold no packet that was judged and not sent. False, and it
    /// must not sleep, where a newer snapshot waits.
    pub fn fall_asleep(&self) -> bool {
        let slot = &self.publication.slots[self.worker];
        slot.asleep.store(true, Ordering::SeqCst);
        if self.publication.epoch.load(Ordering::SeqCst) != self.snapshot.epoch {
            slot.asleep.store(false, Ordering::SeqCst);
            return false;
        }
        true
    }

    /// Says that the worker is awake again; it must [`refresh`](Self::refresh) before it takes a packet.
    pub fn wake_up(&self) {
        self.publication.slots[self.worker].asleep.store(false, Ordering::SeqCst);
    }

    fn acknowledge(&self) {
        self.publication.slots[self.worker].seen.store(self.snapshot.epoch, Ordering::SeqCst);
    }
}

/// The control thread's side: the only one that publishes, and the one that drops.
#[derive(Debug)]
pub struct Publisher {
    publication: Arc<Publication>,
    retired: Vec<Arc<Snapshot>>,
}

/// A worker did not come by in time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("worker {worker} has not passed epoch {epoch} within {waited:?}")]
pub struct Stuck {
    /// Its number.
    pub worker: usize,
    /// What it should have passed.
    pub epoch: u32,
    /// How long was waited.
    pub waited: Duration,
}

impl Publisher {
    /// The publisher of `publication`. There must be one only.
    pub fn new(publication: Arc<Publication>) -> Self {
        Publisher { publication, retired: Vec::new() }
    }

    /// What is shared with the workers.
    pub fn publication(&self) -> &Arc<Publication> {
        &self.publication
    }

    /// Publishes `snapshot` under the next epoch, which is returned. Workers see it at their next batch.
    pub fn publish(&mut self, mut snapshot: Snapshot) -> u32 {
        let old = self.publication.load();
        // 0 marks a flow entry that was never judged, so the count skips it when it wraps.
        let epoch = old.epoch.wrapping_add(1).max(1);
        snapshot.epoch = epoch;
        self.publication.current.store(Arc::new(snapshot));
        self.publication.epoch.store(epoch, Ordering::SeqCst);
        self.retired.push(old);
        self.release();
        epoch
    }

    /// Whether every worker has passed `epoch` or sleeps; the first that has not, otherwise.
    pub fn passed(&self, epoch: u32) -> Result<(), usize> {
        let behind = self.publication.slots.iter().position(|slot| {
            let seen = slot.seen.load(Ordering::SeqCst);
            (seen.wrapping_sub(epoch) as i32) < 0 && !slot.asleep.load(Ordering::SeqCst)
        });
        behind.map_or(Ok(()), Err)
    }

    /// Waits until every worker has passed `epoch`.
    ///
    /// # Errors
    /// [`Stuck`] after `limit`.
    pub fn wait(&self, epoch: u32, limit: Duration) -> Result<(), Stuck> {
        let start = Instant::now();
        loop {
            match self.passed(epoch) {
                Ok(()) => return Ok(()),
                Err(worker) if start.elapsed() >= limit => {
                    return Err(Stuck { worker, epoch, waited: start.elapsed() });
                }
                Err(_) if start.elapsed() < Duration::from_micros(200) => std::thread::yield_now(),
                Err(_) => std::thread::sleep(Duration::from_micros(50)),
            }
        }
    }

    /// Drops the snapshots that no worker can hold any more. Called by `publish`; worth calling now and then.
    pub fn release(&mut self) {
        let seen = self.publication.seen();
        self.retired.retain(|old| seen.iter().any(|seen| (seen.wrapping_sub(old.epoch) as i32) <= 0));
    }

    /// Old snapshots still kept.
    pub fn retired(&self) -> usize {
        self.retired.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_passes_a_generation_at_its_next_batch() {
        let publication = Publication::new(Snapshot::empty(), 1);
        let mut publisher = Publisher::new(Arc::clone(&publication));
        let mut reader = publication.reader(0);
        let epoch = publisher.publish(Snapshot::empty());
        assert_eq!(publisher.passed(epoch), Err(0));
        assert!(reader.refresh());
        assert_eq!(publisher.passed(epoch), Ok(()));
        assert!(!reader.refresh());
    }

    #[test]
    fn a_sleeping_worker_counts_as_passed_and_may_not_fall_asleep_behind() {
        let publication = Publication::new(Snapshot::empty(), 1);
        let mut publisher = Publisher::new(Arc::clone(&publication));
        let mut reader = publication.reader(0);
        assert!(reader.fall_asleep());
        let epoch = publisher.publish(Snapshot::empty());
        assert_eq!(publisher.passed(epoch), Ok(()));
        reader.wake_up();
        assert!(!reader.fall_asleep());
        assert!(reader.refresh());
        assert!(reader.fall_asleep());
    }

    #[test]
    fn the_control_thread_holds_the_last_reference() {
        let publication = Publication::new(Snapshot::empty(), 1);
        let mut publisher = Publisher::new(Arc::clone(&publication));
        let mut reader = publication.reader(0);
        let first = Arc::downgrade(reader.snapshot());
        publisher.publish(Snapshot::empty());
        assert_eq!(publisher.retired(), 1);
        reader.refresh();
        assert!(first.upgrade().is_some(), "not freed by the worker");
        publisher.release();
        assert_eq!(publisher.retired(), 0);
        assert!(first.upgrade().is_none(), "freed by the control thread");
    }
}
