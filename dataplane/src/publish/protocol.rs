//! The protocol between the one who publishes and those who read, over any sort of snapshot.
//!
//! Two pairs of stores and loads must not pass each other, and have a fence between them for that:
//!
//! ```text
//!   publisher: store the epoch   ─fence─ load `asleep`         worker: store `asleep` ─fence─ load the epoch
//! ```
//!
//! So either the publisher sees a worker awake, and waits for it, or the worker sees the newer epoch before it takes a packet
//! (or sleeps). This file knows its atomics by `crate::sync` alone: `tests/loom.rs` compiles it again over loom's.

use crate::sync::{Arc, ArcSwap, AtomicBool, AtomicU32, Ordering, fence};

/// What can be published: it bears its epoch.
pub trait Numbered {
    /// The number of its publication; never 0 once published.
    fn epoch(&self) -> u32;
    /// Gives it its number, before anybody else sees it.
    fn set_epoch(&mut self, epoch: u32);
}

/// One worker's side of the acknowledgement: written by the worker, read by the control thread.
#[derive(Debug)]
#[repr(align(64))]
struct Slot {
    /// The epoch of the snapshot that the worker judges by.
    seen: AtomicU32,
    /// True while the worker sleeps (it holds no packets and looks at the epoch before it takes one).
    asleep: AtomicBool,
}

/// What control and workers share.
#[derive(Debug)]
pub struct Publication<S> {
    current: ArcSwap<S>,
    epoch: AtomicU32,
    slots: Vec<Slot>,
}

impl<S: Numbered> Publication<S> {
    /// Starts with `first`, for so many workers.
    pub fn new(first: S, workers: usize) -> Arc<Self> {
        let epoch = AtomicU32::new(first.epoch());
        let slot = |_| Slot { seen: AtomicU32::new(0), asleep: AtomicBool::new(false) };
        let slots = (0..workers).map(slot).collect();
        Arc::new(Publication { current: ArcSwap::from_pointee(first), epoch, slots })
    }

    /// The newest snapshot, for readers that are not workers.
    pub fn load(&self) -> Arc<S> {
        self.current.load_full()
    }

    /// What each worker has passed.
    pub fn seen(&self) -> Vec<u32> {
        self.slots.iter().map(|slot| slot.seen.load(Ordering::SeqCst)).collect()
    }
}

/// A worker's view of the publication.
#[derive(Debug)]
pub struct Reader<S> {
    publication: Arc<Publication<S>>,
    worker: usize,
    snapshot: Arc<S>,
}

impl<S: Numbered> Reader<S> {
    /// The reader of a worker. To be made once for each worker number.
    pub(crate) fn new(publication: &Arc<Publication<S>>, worker: usize) -> Self {
        let snapshot = publication.load();
        let reader = Reader { publication: Arc::clone(publication), worker, snapshot };
        reader.acknowledge();
        reader
    }

    /// Picks up the newest snapshot. Costs one load where nothing changed. True where it did change.
    #[inline]
    pub fn refresh(&mut self) -> bool {
        if self.publication.epoch.load(Ordering::SeqCst) == self.snapshot.epoch() {
            return false;
        }
        // The publisher holds the old one until the acknowledgement: this is never its last reference.
        self.snapshot = self.publication.load();
        self.acknowledge();
        true
    }

    /// What to judge by.
    #[inline]
    pub fn snapshot(&self) -> &Arc<S> {
        &self.snapshot
    }

    /// Says that the worker is about to sleep: it must hold no packet that was judged and not sent. False, and it
    /// must not sleep, where a newer snapshot waits.
    pub fn fall_asleep(&self) -> bool {
        let slot = &self.publication.slots[self.worker];
        slot.asleep.store(true, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        if self.publication.epoch.load(Ordering::SeqCst) != self.snapshot.epoch() {
            slot.asleep.store(false, Ordering::SeqCst);
            return false;
        }
        true
    }

    /// Says that the worker is awake again; it must [`refresh`](Self::refresh) before it takes a packet.
    pub fn wake_up(&self) {
        self.publication.slots[self.worker].asleep.store(false, Ordering::SeqCst);
        fence(Ordering::SeqCst);
    }

    fn acknowledge(&self) {
        self.publication.slots[self.worker].seen.store(self.snapshot.epoch(), Ordering::SeqCst);
    }
}

/// The control thread's side: the only one that publishes, and the one that drops.
#[derive(Debug)]
pub struct Publisher<S> {
    publication: Arc<Publication<S>>,
    retired: Vec<Arc<S>>,
}

impl<S: Numbered> Publisher<S> {
    /// The publisher of `publication`. There must be one only.
    pub fn new(publication: Arc<Publication<S>>) -> Self {
        Publisher { publication, retired: Vec::new() }
    }

    /// What is shared with the workers.
    pub fn publication(&self) -> &Arc<Publication<S>> {
        &self.publication
    }

    /// The number that the next publication gets.
    pub fn next_epoch(&self) -> u32 {
        // 0 marks a flow entry that was never judged, so the count skips it when it wraps.
        self.publication.epoch.load(Ordering::Relaxed).wrapping_add(1).max(1)
    }

    /// Publishes `snapshot` under the next epoch, which is returned. Workers see it at their next batch.
    pub fn publish(&mut self, mut snapshot: S) -> u32 {
        let old = self.publication.load();
        let epoch = self.next_epoch();
        snapshot.set_epoch(epoch);
        self.publication.current.store(Arc::new(snapshot));
        self.publication.epoch.store(epoch, Ordering::SeqCst);
        fence(Ordering::SeqCst);
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

    /// Drops the snapshots that no worker can hold any more. Called by `publish`; worth calling now and then.
    pub fn release(&mut self) {
        let seen = self.publication.seen();
        self.retired.retain(|old| seen.iter().any(|seen| (seen.wrapping_sub(old.epoch()) as i32) <= 0));
    }

    /// Old snapshots still kept.
    pub fn retired(&self) -> usize {
        self.retired.len()
    }
}
