//! Engines: ways to send and to receive. Each is a [`Sender`] or a [`Receiver`]; what paces them and counts what
//! they bring is in [`drive`](crate::drive).
//!
//! | engine | sends | receives |
//! |---|---|---|
//! | [`port`] | whole frames through any `PacketIo`: AF_XDP, memory | whole frames through any `PacketIo` |
//! | [`xdp`] | opens AF_XDP ports for [`port`] | the same |
//! | [`live`] | the XDP live-frame mode of the kernel | |
//! | [`socket`] | UDP sockets, `sendmmsg` | UDP sockets, `recvmmsg` |

use std::io;
use std::time::Duration;

use afxdp_driver::{PoolError, PortError};

use crate::meter::Meter;
use crate::options::OptionsError;
use crate::place::PlaceError;
use crate::rate::CATCH_UP_NS;
use crate::traffic::Traffic;

pub mod live;
pub mod port;
pub mod socket;
pub mod xdp;

/// What one call to [`Sender::send`] took from the traffic.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Taken {
    /// Packets entered in the ledger as sent.
    pub packets: u64,
    /// Their bytes as whole frames, frame check sequence not included.
    pub bytes: u64,
}

/// A way to send.
pub trait Sender {
    /// Packets that one call to [`send`](Self::send) takes at most.
    fn batch(&self) -> u64 {
        afxdp_driver::BATCH_SIZE as u64
    }

    /// Nanoseconds that the sender may be behind its rate and still catch up.
    fn catch_up(&self) -> u64 {
        CATCH_UP_NS
    }

    /// Takes up to `count` packets from `traffic` and sends them, as many as there is room for now.
    ///
    /// # Errors
    /// [`EngineError`] where the engine cannot go on.
    fn send(&mut self, traffic: &mut Traffic, count: u64) -> Result<Taken, EngineError>;

    /// Moves on what was taken and has not left yet; to be called when there is nothing new to send. Returns how
    /// many packets are still not known to have left.
    ///
    /// # Errors
    /// [`EngineError`] where the engine cannot go on.
    fn settle(&mut self) -> Result<usize, EngineError>;

    /// Packets taken that the kernel has refused or dropped before they left, so far.
    fn lost(&self) -> u64;

    /// Ends it: gives back what it holds, and says how many packets that were taken never left.
    fn close(self: Box<Self>) -> u64;
}

/// A way to receive.
pub trait Receiver {
    /// Enters what has arrived into `meter`; where nothing has, waits up to `patience` for it. Returns how many
    /// frames there were.
    ///
    /// # Errors
    /// [`EngineError`] where the engine cannot go on.
    fn receive(&mut self, meter: &mut Meter, patience: Duration) -> Result<usize, EngineError>;

    /// Frames that there was no room for at the receiving end itself, so far.
    fn overflow(&self) -> u64;

    /// Ends it.
    fn close(self: Box<Self>);
}

/// Why an engine cannot start or go on.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// Two flags cannot be kept together.
    #[error(transparent)]
    Options(#[from] OptionsError),
    /// The thread cannot work where it should.
    #[error(transparent)]
    Place(#[from] PlaceError),
    /// Packet memory cannot be had.
    #[error(transparent)]
    Pool(#[from] PoolError),
    /// The port failed while running.
    #[error(transparent)]
    Port(#[from] PortError),
    /// The driver refused.
    #[error("{operation}: {reason}")]
    Driver {
        /// What was tried.
        operation: &'static str,
        /// What it said, with the device's name.
        reason: String,
    },
    /// A system call on a UDP socket failed.
    #[error("UDP socket {local}: {operation}: {source}")]
    Socket {
        /// The local address.
        local: String,
        /// What was tried.
        operation: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// Waiting for packets failed.
    #[error("waiting for packets: {0}")]
    Poll(io::Error),
}
