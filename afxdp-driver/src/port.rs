//! [`PacketIo`]: what a worker asks of a port, and nothing else.

use std::os::fd::BorrowedFd;

use crate::{Batch, FramePool};

/// A source and sink of frames: the one trait on the hot path, always statically dispatched.
///
/// Conservation: every frame that `receive` hands out was counted in `rx_packets`; every frame that `send` takes
/// was counted in `tx_packets` or, where the kernel consumed and lost it, in `tx_lost`.
pub trait PacketIo {
    /// Appends at most `most` received frames to `batch`, until it is full or nothing waits; gives the kernel new
    /// chunks of `pool` to receive into. Returns how many were appended.
    fn receive(&mut self, pool: &mut FramePool, batch: &mut Batch, most: usize) -> usize;

    /// Takes frames from the front of `batch` as far as there is room; what did not fit stays, in order, and is
    /// still the caller's. Returns how many were taken. They leave at the next [`flush`](Self::flush).
    fn send(&mut self, pool: &mut FramePool, batch: &mut Batch) -> usize;

    /// Makes the kernel send what `send` took and brings completed frames home to `pool`. To be called once a
    /// turn while [`in_flight`](Self::in_flight) is not zero.
    ///
    /// # Errors
    /// [`PortError::Gone`] where the device has been removed or taken down.
    fn flush(&mut self, pool: &mut FramePool) -> Result<(), PortError>;

    /// Frames taken by `send` that have not come home.
    fn in_flight(&self) -> usize;

    /// What has passed since the port was made.
    fn counters(&self) -> PortCounters;

    /// What `poll(2)` can wait on for reception, if anything.
    fn poll_fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    /// Ends the port: everything it still holds goes home to `pool`.
    fn close(self, pool: &mut FramePool);
}

/// Counters of one port, in packets and bytes (Ethernet header included, FCS not) unless they say otherwise.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct PortCounters {
    /// Frames handed to the caller of `receive`.
    pub rx_packets: u64,
    /// Bytes of those.
    pub rx_bytes: u64,
    /// Received packets thrown away because they were longer than a chunk (of AF_XDP: several fragments).
    pub rx_oversize: u64,
    /// Received descriptors thrown away because they were not of this port's memory or ran over their chunk: of
    /// AF_XDP a kernel bug if it ever counts, of memif garbage from the peer.
    pub rx_invalid: u64,
    /// Frames taken by `send` and not lost.
    pub tx_packets: u64,
    /// Bytes of those.
    pub tx_bytes: u64,
    /// Frames taken by `send` which the kernel consumed and lost (`EBUSY`), for which a memif had no peer or the peer
    /// no buffer, or which are shorter than an Ethernet header and so none.
    pub tx_lost: u64,
    /// TSC cycles inside the system calls that make the kernel send (see [`crate::cpu::cycles`]): the kernel's share of
    /// the time. On a veth without threaded NAPI the receiver's work is in it.
    pub kernel_cycles: u64,
    /// Frames that were in the transmit ring when the port was closed, or a memif's peer had gone, and never left.
    pub tx_discarded: u64,
}

/// Why a port cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum PortError {
    /// The device has been removed, renamed away or taken down.
    #[error("port {device}: the device is gone or down: {source}")]
    Gone {
        /// The device's name.
        device: String,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// Any other failure of a system call on the port.
    #[error("port {device}: {operation}: {source}")]
    Io {
        /// The device's name.
        device: String,
        /// What was tried.
        operation: &'static str,
        /// What the kernel said.
        source: std::io::Error,
    },
}
