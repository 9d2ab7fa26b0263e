//! The worker: one thread, one loop, one screen.

use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use afxdp_driver::{FramePool, PacketIo};
use crossbeam::channel::{Receiver, Sender};
use crossbeam::queue::ArrayQueue;
use nix::sys::eventfd::EventFd;

use crate::counters::WorkerCounters;
use crate::flow::FlowTables;
use crate::messages::{Command, Event};
use crate::publish::Reader;

/// When a worker with nothing to do rests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IdlePolicy {
    /// Empty turns that only spin.
    pub spin: u32,
    /// Empty turns after those that yield the CPU.
    pub yields: u32,
    /// Longest sleep in `poll(2)` after those; zero: never sleep.
    pub sleep: Duration,
}

impl Default for IdlePolicy {
    fn default() -> Self {
        IdlePolicy { spin: 64, yields: 64, sleep: Duration::from_millis(50) }
    }
}

/// What a worker is made of.
#[derive(Debug)]
pub struct WorkerConfig {
    /// Its number, from 0.
    pub number: usize,
    /// Packets a turn takes at most, 1 to 64.
    pub batch: usize,
    /// When it rests.
    pub idle: IdlePolicy,
    /// Secret of the flow hash, the same for all workers.
    pub seed: u64,
}
