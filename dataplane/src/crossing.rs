//! Between workers: a packet that must leave by a port of another worker crosses one bounded ring.
//!
//! Packet memory is a worker's own. So the receiving worker copies the packet into a chunk of its own and sends the
//! frame home by the ring of returns. A sender never has more frames under way than the rings hold, so a return
//! always finds room.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use afxdp_driver::Frame;
use crossbeam::queue::ArrayQueue;
use nix::sys::eventfd::{EfdFlags, EventFd};

use crate::snapshot::PortIndex;

/// Wakes one worker from its sleep.
#[derive(Debug)]
pub struct Doorbell {
    asleep: AtomicBool,
    event: EventFd,
}

impl Doorbell {
    fn new() -> io::Result<Arc<Self>> {
        let event = EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)?;
        Ok(Arc::new(Doorbell { asleep: AtomicBool::new(false), event }))
    }

    /// Wakes the worker if it sleeps. To be called after what it shall find is in place.
    pub fn ring(&self) {
        if self.asleep.swap(false, Ordering::SeqCst) {
            // It fails only where 2^64 rings wait already: the worker wakes all the same.
            let _ = self.event.write(1);
        }
    }

    /// The worker is about to sleep. It must look once more for work after this, before it waits on the descriptor.
    pub(crate) fn fall_asleep(&self) {
        self.asleep.store(true, Ordering::SeqCst);
    }

    /// The worker is awake.
    pub(crate) fn wake_up(&self) {
        self.asleep.store(false, Ordering::SeqCst);
        // Nothing to read is no error here.
        let _ = self.event.read();
    }

    pub(crate) fn as_fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }
}

/// One direction between two workers.
#[derive(Debug)]
struct Ring {
    packets: ArrayQueue<(PortIndex, Frame)>,
    returns: ArrayQueue<Frame>,
}

impl Ring {
    fn new(capacity: usize) -> Arc<Self> {
        Arc::new(Ring { packets: ArrayQueue::new(capacity), returns: ArrayQueue::new(capacity) })
    }
}

/// What one worker has to do with the others.
#[derive(Debug)]
pub struct Links {
    doorbell: Arc<Doorbell>,
    /// By worker number; its own place is empty.
    to: Vec<Option<Outgoing>>,
    from: Vec<Arc<Ring>>,
}

#[derive(Debug)]
struct Outgoing {
    ring: Arc<Ring>,
    doorbell: Arc<Doorbell>,
    under_way: usize,
    rung: bool,
}

/// The links of all workers, by worker number, with rings of `capacity` packets.
///
/// # Errors
/// Where the system gives no event descriptors.
pub fn links(workers: usize, capacity: usize) -> io::Result<Vec<Links>> {
    let doorbells = (0..workers).map(|_| Doorbell::new()).collect::<io::Result<Vec<_>>>()?;
    let rings: Vec<Vec<_>> =
        (0..workers).map(|_| (0..workers).map(|_| Ring::new(capacity)).collect()).collect();
    let of = |worker: usize| Links {
        doorbell: Arc::clone(&doorbells[worker]),
        to: (0..workers)
            .map(|other| {
                (other != worker).then(|| Outgoing {
                    ring: Arc::clone(&rings[worker][other]),
                    doorbell: Arc::clone(&doorbells[other]),
                    under_way: 0,
                    rung: true,
                })
            })
            .collect(),
        from: (0..workers)
            .filter(|other| *other != worker)
            .map(|other| Arc::clone(&rings[other][worker]))
            .collect(),
    };
    Ok((0..workers).map(of).collect())
}

impl Links {
    /// What wakes this worker.
    pub fn doorbell(&self) -> Arc<Doorbell> {
        Arc::clone(&self.doorbell)
    }

    /// Hands a packet to another worker, to leave by `port`. Given back where the ring is full or there is no such
    /// worker.
    pub(crate) fn send(&mut self, worker: u16, port: PortIndex, frame: Frame) -> Result<(), Frame> {
        let Some(Some(outgoing)) = self.to.get_mut(worker as usize) else { return Err(frame) };
        if outgoing.under_way >= outgoing.ring.packets.capacity() {
            return Err(frame);
        }
        outgoing.ring.packets.push((port, frame)).map_err(|(_, frame)| frame)?;
        outgoing.under_way += 1;
        outgoing.rung = false;
        Ok(())
    }

    /// Wakes those who were sent something.
    pub(crate) fn ring(&mut self) {
        for outgoing in self.to.iter_mut().flatten().filter(|outgoing| !outgoing.rung) {
            outgoing.doorbell.ring();
            outgoing.rung = true;
        }
    }

    /// Frames of this worker that others have sent home.
    pub(crate) fn returned(&mut self) -> Option<Frame> {
        self.to.iter_mut().flatten().find_map(|outgoing| {
            let frame = outgoing.ring.returns.pop()?;
            outgoing.under_way -= 1;
            Some(frame)
        })
    }

    /// Whether frames of this worker are with others.
    pub(crate) fn has_under_way(&self) -> bool {
        self.to.iter().flatten().any(|outgoing| outgoing.under_way > 0)
    }

    /// Whether packets of others, or own frames, wait here.
    pub(crate) fn is_waiting(&self) -> bool {
        self.from.iter().any(|ring| !ring.packets.is_empty())
            || self.to.iter().flatten().any(|outgoing| !outgoing.ring.returns.is_empty())
    }

    /// The next packet of another worker and the port it is to leave by; `home` takes its frame back.
    pub(crate) fn next(&mut self) -> Option<(usize, PortIndex, Frame)> {
        self.from.iter().enumerate().find_map(|(ring, from)| {
            let (port, frame) = from.packets.pop()?;
            Some((ring, port, frame))
        })
    }

    /// Sends a frame from [`next`](Self::next) home.
    pub(crate) fn home(&mut self, ring: usize, frame: Frame) {
        if let Some(ring) = self.from.get(ring) {
            // There is room by the sender's own count; a frame that found none would be leaked, and the ledger says so.
            let _ = ring.returns.push(frame);
        }
    }
}
