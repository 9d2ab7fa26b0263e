//! [`Plug`]: where the thread that talks to peers hands a queue to the port that a worker has, and takes it away.

use std::io::IoSliceMut;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::event::{EventfdFlags, eventfd};
use rustix::io::{ReadWriteFlags, preadv2};

use super::ring::{Receiver, RingError, Sender};

/// An event descriptor, rung by either side.
#[derive(Debug)]
pub(crate) struct Bell(OwnedFd);

impl Bell {
    pub(crate) fn new() -> std::io::Result<Self> {
        Ok(Bell(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?))
    }

    /// One that came from a peer; `None` where it is no event descriptor.
    pub(crate) fn of(descriptor: OwnedFd) -> Option<Self> {
        let link = format!("/proc/self/fd/{}", descriptor.as_raw_fd());
        let kind = std::fs::read_link(link).ok()?;
        let flags = rustix::fs::fcntl_getfl(&descriptor).ok()?;
        rustix::fs::fcntl_setfl(&descriptor, flags | rustix::fs::OFlags::NONBLOCK).ok()?;
        (kind.as_os_str() == "anon_inode:[eventfd]").then_some(Bell(descriptor))
    }

    /// Wakes whoever polls it. Full means that it is ringing already.
    pub(crate) fn ring(&self) {
        let _ = rustix::io::write(&self.0, &1u64.to_ne_bytes());
    }

    /// Quiet again. It does not block even where a peer has made the descriptor blocking.
    pub(crate) fn clear(&self) {
        let mut count = [0; 8];
        let _ = preadv2(&self.0, &mut [IoSliceMut::new(&mut count)], u64::MAX, ReadWriteFlags::NOWAIT);
    }

    pub(crate) fn fd(&self) -> &OwnedFd {
        &self.0
    }
}

/// Both rings of one queue; a peer may have fewer in one direction.
#[derive(Debug)]
pub(crate) struct Queue {
    pub(crate) receiver: Option<Receiver>,
    pub(crate) sender: Option<Sender>,
    /// Rung by the peer when it has sent.
    pub(crate) received: Arc<Bell>,
    /// Rung by us when we have.
    pub(crate) sent: Option<Bell>,
}

/// One queue's place. The hub puts queues in, the port takes them out at its next turn.
#[derive(Debug)]
pub(crate) struct Plug {
    /// Counts what the hub has put; the port compares.
    generation: AtomicU32,
    slot: Mutex<Slot>,
    /// Something stands in [`Slot::fault`].
    faulty: AtomicBool,
    /// Rung at every change, for a port without a queue.
    changed: Bell,
}

#[derive(Debug, Default)]
struct Slot {
    queue: Option<Queue>,
    /// Wakes the port with the queue that it has.
    received: Option<Arc<Bell>>,
    fault: Option<(u32, RingError)>,
}

impl Plug {
    pub(crate) fn new() -> std::io::Result<Self> {
        Ok(Plug {
            generation: AtomicU32::new(0),
            slot: Mutex::default(),
            faulty: AtomicBool::new(false),
            changed: Bell::new()?,
        })
    }

    // ------------------------------------------------------------------------------------------ the hub's side

    /// Gives the port a queue, or takes away the one that it has. Wakes it.
    pub(crate) fn put(&self, queue: Option<Queue>) {
        let mut slot = self.lock();
        let before = slot.received.take();
        slot.received = queue.as_ref().map(|queue| Arc::clone(&queue.received));
        slot.queue = queue;
        slot.fault = None;
        self.generation.fetch_add(1, Ordering::Release);
        drop(slot);
        self.changed.ring();
        if let Some(bell) = before {
            bell.ring();
        }
    }

    /// What the port has found wrong with the queue that it has.
    pub(crate) fn take_fault(&self) -> Option<RingError> {
        if !self.faulty.swap(false, Ordering::Acquire) {
            return None;
        }
        let mut slot = self.lock();
        let current = self.generation();
        slot.fault.take().filter(|(generation, _)| *generation == current).map(|(_, error)| error)
    }

    // ----------------------------------------------------------------------------------------- the port's side

    /// Changes whenever there is something to take.
    #[inline]
    pub(crate) fn generation(&self) -> u32 {
        self.generation.load(Ordering::Acquire)
    }

    /// The newest queue, if there is one, and its generation.
    pub(crate) fn take(&self) -> (u32, Option<Queue>) {
        self.changed.clear();
        let mut slot = self.lock();
        (self.generation(), slot.queue.take())
    }

    /// Says that the queue of `generation` is of no use any more.
    pub(crate) fn report(&self, generation: u32, error: RingError) {
        self.lock().fault = Some((generation, error));
        self.faulty.store(true, Ordering::Release);
    }

    /// What to poll without a queue.
    pub(crate) fn changed(&self) -> &OwnedFd {
        self.changed.fd()
    }

    fn lock(&self) -> MutexGuard<'_, Slot> {
        self.slot.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use rustix::event::{PollFd, PollFlags, Timespec, poll};

    use super::*;

    fn is_ringing(bell: &Bell) -> bool {
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        poll(&mut [PollFd::new(bell.fd(), PollFlags::IN)], Some(&now)).unwrap() == 1
    }

    #[test]
    fn a_bell_rings_until_it_is_cleared_and_blocks_nobody() {
        let bell = Bell::new().unwrap();
        bell.clear();
        assert!(!is_ringing(&bell));
        bell.ring();
        bell.ring();
        assert!(is_ringing(&bell));
        bell.clear();
        assert!(!is_ringing(&bell));
        // The peer shares the descriptor's flags, and has made it blocking.
        let flags = rustix::fs::fcntl_getfl(bell.fd()).unwrap();
        rustix::fs::fcntl_setfl(bell.fd(), flags - rustix::fs::OFlags::NONBLOCK).unwrap();
        bell.clear();
        assert!(Bell::of(bell.fd().as_fd().try_clone_to_owned().unwrap()).is_some());
        let (pipe, _) = std::io::pipe().unwrap();
        assert!(Bell::of(pipe.into()).is_none());
    }
}
