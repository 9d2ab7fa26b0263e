//! [`MemifPort`]: one queue pair of an interface.

use std::cell::Cell;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use super::hub::Lease;
use super::plug::{Plug, Queue};
use super::ring::{Pushed, RingError};
use crate::{Batch, FramePool, PacketIo, PortCounters, PortError};

/// Bytes of an Ethernet header: less is no frame.
const ETHERNET_HEADER: usize = 14;

/// One queue pair of a memif interface, made by [`MemifHub::open`](super::MemifHub::open); for one worker.
///
/// It copies between the peer's memory and chunks of whichever pool it is given, so it holds no frame from one call to
/// the next. While there is no peer it receives nothing, and what is sent is counted in `tx_lost`. It polls; only
/// after [`poll_fd`](PacketIo::poll_fd) has been asked for, until the next `receive`, the peer is to interrupt.
#[derive(Debug)]
pub struct MemifPort {
    name: String,
    queue: u16,
    plug: Arc<Plug>,
    lease: Arc<Lease>,
    generation: u32,
    ends: Option<Queue>,
    counters: PortCounters,
    /// Packets copied to the ring that the peer has not been shown.
    unpublished: usize,
    /// The peer has been asked to interrupt.
    unmasked: Cell<bool>,
}

impl MemifPort {
    pub(crate) fn new(name: String, queue: u16, plug: Arc<Plug>, lease: Arc<Lease>) -> Self {
        MemifPort {
            name,
            queue,
            generation: plug.generation(),
            plug,
            lease,
            ends: None,
            counters: PortCounters::default(),
            unpublished: 0,
            unmasked: Cell::new(false),
        }
    }

    /// The interface's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its number among the interface's queues.
    pub fn queue(&self) -> u16 {
        self.queue
    }

    /// Whether there is a peer, as of the last `receive` or `send`.
    pub fn is_up(&self) -> bool {
        self.ends.is_some()
    }

    /// Ends the port and answers with its counters. The last one of an interface ends its connection: then a server's
    /// socket has gone when this returns. It waits for the hub's thread, so it is not for a worker, which has
    /// [`close`](PacketIo::close).
    pub fn finish(mut self) -> PortCounters {
        self.drop_queue();
        let hub = Arc::clone(self.lease.shared());
        drop(self.lease);
        hub.settle();
        self.counters
    }

    /// Looks for a new queue, or for the end of the one at hand.
    #[inline]
    fn renew(&mut self) {
        if self.plug.generation() != self.generation {
            self.replace();
        }
    }

    #[cold]
    fn replace(&mut self) {
        self.drop_queue();
        (self.generation, self.ends) = self.plug.take();
    }

    /// What was not shown to the peer never will be.
    fn drop_queue(&mut self) {
        self.ends = None;
        self.counters.tx_discarded += std::mem::take(&mut self.unpublished) as u64;
        self.unmasked.set(false);
    }

    /// The ring is of no use any more: the connection is ended, and made anew by the hub.
    #[cold]
    fn fail(&mut self, error: RingError) {
        self.drop_queue();
        self.plug.report(self.generation, error);
        self.lease.shared().wake();
    }
}

impl PacketIo for MemifPort {
    fn receive(&mut self, pool: &mut FramePool, batch: &mut Batch, most: usize) -> usize {
        self.renew();
        let Some(ends) = &mut self.ends else { return 0 };
        let Some(receiver) = &mut ends.receiver else { return 0 };
        if self.unmasked.replace(false) {
            receiver.mask();
            ends.received.clear();
        }
        match receiver.receive(pool, batch, most, &mut self.counters) {
            Ok(received) => received,
            Err(error) => {
                self.fail(error);
                0
            }
        }
    }

    fn send(&mut self, pool: &mut FramePool, batch: &mut Batch) -> usize {
        self.renew();
        let (mut taken, mut failed) = (0, None);
        let mut sender = self.ends.as_mut().and_then(|ends| ends.sender.as_mut());
        for frame in batch.iter() {
            let pushed = match &mut sender {
                Some(sender) if frame.len() >= ETHERNET_HEADER => sender.push(frame),
                _ => Ok(Pushed::Lost),
            };
            match pushed {
                Ok(Pushed::Taken) => {
                    self.unpublished += 1;
                    self.counters.tx_packets += 1;
                    self.counters.tx_bytes += frame.len() as u64;
                }
                Ok(Pushed::Lost) => self.counters.tx_lost += 1,
                Ok(Pushed::Full) => break,
                Err(error) => {
                    (sender, failed) = (None, Some(error));
                    self.counters.tx_lost += 1;
                }
            }
            taken += 1;
        }
        batch.drain(..taken).for_each(|frame| pool.free(frame));
        if let Some(error) = failed {
            self.fail(error);
        }
        taken
    }

    fn flush(&mut self, _pool: &mut FramePool) -> Result<(), PortError> {
        if std::mem::take(&mut self.unpublished) == 0 {
            return Ok(());
        }
        if let Some(Queue { sender: Some(sender), sent, .. }) = &self.ends
            && sender.publish()
            && let Some(bell) = sent
        {
            bell.ring();
        }
        Ok(())
    }

    fn in_flight(&self) -> usize {
        self.unpublished
    }

    fn counters(&self) -> PortCounters {
        self.counters
    }

    fn poll_fd(&self) -> Option<BorrowedFd<'_>> {
        let Some(ends) = self.ends.as_ref().filter(|_| self.plug.generation() == self.generation) else {
            return Some(self.plug.changed().as_fd());
        };
        if let Some(receiver) = &ends.receiver
            && !self.unmasked.replace(true)
            && receiver.unmask()
        {
            // It came before the peer knew: nobody but us will say so.
            ends.received.ring();
        }
        Some(ends.received.fd().as_fd())
    }

    /// At once; the hub closes the interface of the last port when it comes to it.
    fn close(self, _pool: &mut FramePool) {}
}
