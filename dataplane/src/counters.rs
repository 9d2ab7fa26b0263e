//! Counters that one worker owns alone and anyone may read.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::drops::DropReason;

/// A number that one thread writes and many read: a plain load and store, no locked instruction.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds. Only for the owner.
    #[inline]
    pub fn add(&self, count: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(count), Ordering::Relaxed);
    }

    /// Replaces. Only for the owner.
    #[inline]
    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// Reads.
    pub fn read(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What one worker has done. The law: `rx + generated = tx + drops + held`.
#[derive(Debug)]
#[repr(align(64))]
pub struct WorkerCounters {
    /// Packets received from ports, and from the rings of other workers.
    pub rx: Counter,
    /// Packets the worker made itself.
    pub generated: Counter,
    /// Packets handed to ports, and to the rings of other workers.
    pub tx: Counter,
    /// Packets held at the end of the last turn.
    pub held: Counter,
    /// Flow table hits.
    pub flow_hits: Counter,
    /// Packets judged against the tables.
    pub flow_misses: Counter,
    /// Turns with at least one packet.
    pub busy_turns: Counter,
    /// TSC cycles in those turns.
    pub busy_cycles: Counter,
    /// TSC cycles inside the system calls that make ports send: the kernel's share of them.
    pub kernel_cycles: Counter,
    /// Times the worker slept.
    pub sleeps: Counter,
    /// Drop events that found the queue to the control thread full.
    pub events_lost: Counter,
    /// Chunks of packet memory: free, out, kernel, total.
    pub chunks: [Counter; 4],
    /// By number of [`DropReason`].
    pub drops: [Counter; DropReason::COUNT],
}

impl Default for WorkerCounters {
    fn default() -> Self {
        WorkerCounters {
            rx: Counter::default(),
            generated: Counter::default(),
            tx: Counter::default(),
            held: Counter::default(),
            flow_hits: Counter::default(),
            flow_misses: Counter::default(),
            busy_turns: Counter::default(),
            busy_cycles: Counter::default(),
            kernel_cycles: Counter::default(),
            sleeps: Counter::default(),
            events_lost: Counter::default(),
            chunks: std::array::from_fn(|_| Counter::default()),
            drops: std::array::from_fn(|_| Counter::default()),
        }
    }
}

impl WorkerCounters {
    /// All drops together.
    pub fn dropped(&self) -> u64 {
        self.drops.iter().map(Counter::read).sum()
    }
}
