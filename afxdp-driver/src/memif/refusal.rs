//! [`Refusal`]: why a connection does not come about, or ends. Its text is what the peer is told.

use super::message::{Direction, MessageError, Mode};
use super::ring::RingError;
use super::shm::MemoryError;

/// Why a memif connection does not come about, or ends.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refusal {
    /// The peer closed the socket: it ended, or was killed.
    #[error("the peer is gone")]
    Hangup,
    /// The peer said why it ends.
    #[error("the peer ended it: {reason} (code {code})")]
    Disconnected {
        /// Its code.
        code: u32,
        /// Its reason.
        reason: String,
    },
    /// The control socket failed.
    #[error("control socket: {operation}: {source}")]
    Socket {
        /// What was tried.
        operation: &'static str,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// The peer said nothing for too long.
    #[error("no {awaited} within {seconds} s")]
    Silence {
        /// What it should have said.
        awaited: &'static str,
        /// How long it had.
        seconds: u64,
    },
    /// Bytes that are no message.
    #[error("{0}")]
    Message(#[from] MessageError),
    /// A message out of turn.
    #[error("{message} where {awaited} was due")]
    Unexpected {
        /// What it said.
        message: &'static str,
        /// What it should have said.
        awaited: &'static str,
    },
    /// No common version.
    #[error("protocol version {}.{} to {}.{}: only 2.0 is spoken here", .min >> 8, .min & 0xff, .max >> 8, .max & 0xff)]
    Version {
        /// Its lowest.
        min: u16,
        /// Its highest.
        max: u16,
    },
    /// The server allows rings too small to be rings.
    #[error("rings of at most 2^{0} descriptors: from 2^1 to 2^14 can be used")]
    MaxRingSize(u8),
    /// No such interface on this socket.
    #[error("no interface with id {0}")]
    UnknownId(u32),
    /// Another client has the interface.
    #[error("interface {0} is connected already")]
    Busy(u32),
    /// The interface needs a secret.
    #[error("interface {0} needs a secret")]
    SecretRequired(u32),
    /// It is another secret.
    #[error("wrong secret for interface {0}")]
    SecretWrong(u32),
    /// Only Ethernet.
    #[error("mode {0}: only ethernet can be used")]
    Mode(Mode),
    /// A message that comes with a descriptor came without, or with several, or one came that takes none.
    #[error("{message} with {count} file descriptors")]
    Descriptors {
        /// The message.
        message: &'static str,
        /// How many came.
        count: usize,
    },
    /// Regions are numbered from 0 without gaps.
    #[error("region {index} where region {expected} was due (at most {max})")]
    RegionIndex {
        /// Its number.
        index: u16,
        /// What it should have been.
        expected: usize,
        /// How many there may be.
        max: usize,
    },
    /// A region cannot be mapped.
    #[error("region {index}: {source}")]
    Region {
        /// Its number.
        index: usize,
        /// Why not.
        source: MemoryError,
    },
    /// A ring beyond what there are queues for.
    #[error("{direction} ring {index}: there are {queues} queues")]
    RingIndex {
        /// Which way.
        direction: Direction,
        /// Its number.
        index: u16,
        /// How many there may be.
        queues: u16,
    },
    /// A ring that came twice.
    #[error("{direction} ring {index} comes twice")]
    RingTwice {
        /// Which way.
        direction: Direction,
        /// Its number.
        index: u16,
    },
    /// A ring's size is out of range.
    #[error("{direction} ring {index} of 2^{log2_size} descriptors: from 2^1 to 2^14 can be used")]
    RingSize {
        /// Which way.
        direction: Direction,
        /// Its number.
        index: u16,
        /// Its size.
        log2_size: u8,
    },
    /// A ring in a region that was not announced.
    #[error("{direction} ring {index} in region {region}, which does not exist")]
    RingRegion {
        /// Which way.
        direction: Direction,
        /// Its number.
        index: u16,
        /// The region.
        region: u16,
    },
    /// Ring numbers with gaps, or none in one direction.
    #[error("{count} {direction} rings whose numbers are not 0 to {}", .count.saturating_sub(1))]
    RingGap {
        /// Which way.
        direction: Direction,
        /// How many there are.
        count: usize,
    },
    /// A ring does not lie in its region, or has no cookie.
    #[error("{direction} ring {index}: {problem}")]
    RingPlace {
        /// Which way.
        direction: Direction,
        /// Its number.
        index: u16,
        /// What is wrong.
        problem: String,
    },
    /// What came as an interrupt is something else.
    #[error("{direction} ring {index}: its interrupt is no eventfd")]
    Interrupt {
        /// Which way.
        direction: Direction,
        /// Its number.
        index: u16,
    },
    /// A ring's indices cannot be, while packets passed.
    #[error("queue {queue}: {source}")]
    Ring {
        /// The queue.
        queue: u16,
        /// What is wrong.
        source: RingError,
    },
    /// This end closes the port.
    #[error("the port was closed")]
    Closed,
}
