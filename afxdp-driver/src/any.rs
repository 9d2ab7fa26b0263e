//! [`AnyPort`]: a port of either real kind, for a program whose configuration decides. One comparison a call, which
//! is one a batch.

use std::fmt;
use std::os::fd::BorrowedFd;

use crate::memif::MemifPort;
use crate::xdp::{AfXdpPort, ClosedPort};
use crate::{Batch, FramePool, PacketIo, PortCounters, PortError};

/// A port of either real kind.
pub enum AnyPort {
    /// A queue of a device.
    Xdp(AfXdpPort),
    /// A queue of a memif interface.
    Memif(MemifPort),
}

/// What a port leaves at its end.
#[derive(Debug)]
pub struct Ended {
    /// Its counters.
    pub counters: PortCounters,
    /// Chunks that the kernel held, for the pool's thread to [take home](FramePool::take_home). A memif port holds none.
    pub chunks: Option<ClosedPort>,
}

impl AnyPort {
    /// Ends the port on whatever thread but a worker's: it waits until all of it is closed, which takes a device tens of
    /// milliseconds (see [`AfXdpPort::finish`] and [`MemifPort::finish`]).
    pub fn finish(self) -> Ended {
        match self {
            AnyPort::Xdp(port) => {
                let closed = port.finish();
                Ended { counters: closed.counters, chunks: Some(closed) }
            }
            AnyPort::Memif(port) => Ended { counters: port.finish(), chunks: None },
        }
    }
}

impl PacketIo for AnyPort {
    #[inline]
    fn receive(&mut self, pool: &mut FramePool, batch: &mut Batch, most: usize) -> usize {
        match self {
            AnyPort::Xdp(port) => port.receive(pool, batch, most),
            AnyPort::Memif(port) => port.receive(pool, batch, most),
        }
    }

    #[inline]
    fn send(&mut self, pool: &mut FramePool, batch: &mut Batch) -> usize {
        match self {
            AnyPort::Xdp(port) => port.send(pool, batch),
            AnyPort::Memif(port) => port.send(pool, batch),
        }
    }

    #[inline]
    fn flush(&mut self, pool: &mut FramePool) -> Result<(), PortError> {
        match self {
            AnyPort::Xdp(port) => port.flush(pool),
            AnyPort::Memif(port) => port.flush(pool),
        }
    }

    #[inline]
    fn in_flight(&self) -> usize {
        match self {
            AnyPort::Xdp(port) => port.in_flight(),
            AnyPort::Memif(port) => port.in_flight(),
        }
    }

    fn counters(&self) -> PortCounters {
        match self {
            AnyPort::Xdp(port) => port.counters(),
            AnyPort::Memif(port) => port.counters(),
        }
    }

    fn poll_fd(&self) -> Option<BorrowedFd<'_>> {
        match self {
            AnyPort::Xdp(port) => port.poll_fd(),
            AnyPort::Memif(port) => port.poll_fd(),
        }
    }

    fn close(self, pool: &mut FramePool) {
        match self {
            AnyPort::Xdp(port) => port.close(pool),
            AnyPort::Memif(port) => port.close(pool),
        }
    }
}

impl fmt::Debug for AnyPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AnyPort::Xdp(port) => f.debug_tuple("Xdp").field(&port.device()).finish(),
            AnyPort::Memif(port) => f.debug_tuple("Memif").field(port).finish(),
        }
    }
}
