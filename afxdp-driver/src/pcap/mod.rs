//! Classic capture files (libpcap's format 2.4): read, written, and as a port.
//!
//! ```text
//!  file    magic  2.4  zone  sigfigs  snaplen  link type        24 bytes, in the byte order that the magic shows
//!  record  seconds  fraction  captured length  original length  16 bytes, then the captured bytes
//! ```
//!
//! Both byte orders, microseconds and nanoseconds. Not for: pcapng (a clear error), link types other than Ethernet
//! (the reader gives them out, the port refuses them).

mod port;
mod reader;
mod writer;

use std::io;

pub use port::PcapPort;
pub use reader::{PcapReader, Record};
pub use writer::PcapWriter;

/// Link type of Ethernet (`LINKTYPE_ETHERNET`).
pub const ETHERNET: u32 = 1;

/// Bytes of a captured packet at most (libpcap's `MAXIMUM_SNAPLEN`): a length beyond is a lie.
pub const MAX_CAPTURED: u32 = 262_144;

const MAGIC_MICROSECONDS: u32 = 0xa1b2_c3d4;
const MAGIC_NANOSECONDS: u32 = 0xa1b2_3c4d;

/// A capture could not be read or written. Records count from 1, offsets from the file's first byte.
#[derive(Debug, thiserror::Error)]
pub enum PcapError {
    /// The first four bytes are no magic number.
    #[error("not a capture file: it begins with {0:#010x}")]
    Magic(u32),
    /// The file is of a kind that is not read.
    #[error("{0} is not read: convert it, for instance with `editcap -F pcap`")]
    Unsupported(&'static str),
    /// A version other than 2.x.
    #[error("capture format {0}.{1}: only 2.x is known")]
    Version(u16, u16),
    /// The link type is not the one that is needed.
    #[error("link type {0}: only Ethernet (1) can be a port's")]
    LinkType(u32),
    /// The file ends within its header.
    #[error("the file ends within its header, after {0} of 24 bytes")]
    TruncatedHeader(usize),
    /// The file ends within a record.
    #[error("record {record} at byte {offset}: the file ends after {present} of its {needed} bytes")]
    Truncated {
        /// Which record.
        record: u64,
        /// Where it begins.
        offset: u64,
        /// Its bytes that are there, its own header included.
        present: u64,
        /// Bytes it says it has, its own header included.
        needed: u64,
    },
    /// A record says that it holds more than any may.
    #[error("record {record} at byte {offset}: a captured length of {len} bytes is over {MAX_CAPTURED}")]
    Length {
        /// Which record.
        record: u64,
        /// Where it begins.
        offset: u64,
        /// What it says.
        len: u32,
    },
    /// A record has a fraction of a second of a second or more.
    #[error("record {record} at byte {offset}: a time of {fraction} {unit} past a second")]
    Time {
        /// Which record.
        record: u64,
        /// Where it begins.
        offset: u64,
        /// What it says.
        fraction: u32,
        /// "microseconds" or "nanoseconds".
        unit: &'static str,
    },
    /// A packet cannot be written: it is too long, or its time is after 2106.
    #[error("packet {record} cannot be written: {reason}")]
    Unwritable {
        /// Which record it would be.
        record: u64,
        /// Why.
        reason: &'static str,
    },
    /// The file could not be read or written.
    #[error("capture file, record {record}: {source}")]
    Io {
        /// Which record.
        record: u64,
        /// What the system said.
        source: io::Error,
    },
}
