//! Publication: how workers come to a new [`Snapshot`], and how the control thread knows that they have.
//!
//! ```text
//!   control: swap the snapshot ─► store the epoch ─► wake sleepers ─► wait: every worker has passed it or sleeps
//!   worker:  load the epoch (once a batch) ─ newer? ─► load the snapshot ─► note the epoch in its own slot
//! ```
//!
//! The control thread keeps a reference to each old snapshot until every worker has passed it, so the last
//! reference is always dropped here, never on a worker.
//!
//! * [`protocol`]: who stores and loads what in which order, over any sort of snapshot; model-checked (`tests/loom.rs`).

pub mod protocol;

use std::sync::Arc;
use std::time::{Duration, Instant};

use policy_compiler::compiler::Touched;

use self::protocol::Numbered;
use crate::snapshot::Snapshot;
use crate::validity::Validity;

/// What control and workers share.
pub type Publication = protocol::Publication<Snapshot>;

/// A worker's view of the publication.
pub type Reader = protocol::Reader<Snapshot>;

/// The control thread's side: the only one that publishes, and the one that drops.
pub type Publisher = protocol::Publisher<Snapshot>;

impl Numbered for Snapshot {
    fn epoch(&self) -> u32 {
        self.validity.epoch()
    }

    fn set_epoch(&mut self, epoch: u32) {
        if self.validity.epoch() != epoch {
            self.validity = Validity::only(epoch);
        }
    }
}

impl Publication {
    /// A worker's reader. To be made once for each worker number.
    pub fn reader(self: &Arc<Self>, worker: usize) -> Reader {
        Reader::new(self, worker)
    }
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
    /// Publishes `snapshot`, whose tables differ from the last ones' in what `touched` says; judgements of other flows hold. Where
    /// the ways out differ, too, or numbers of rules stand for others, none does.
    pub fn publish_touching(&mut self, mut snapshot: Snapshot, touched: &Touched) -> u32 {
        let last = self.publication().load();
        let rules_continue = snapshot.rule_hits.continues(&last.rule_hits);
        if *touched != Touched::Everything && rules_continue && snapshot.has_ways_of(&last) {
            snapshot.validity = last.validity.after(self.next_epoch(), touched);
        }
        self.publish(snapshot)
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
