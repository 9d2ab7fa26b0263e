//! # afxdp-driver: a NIC queue as batches of owned frames
//!
//! ```text
//!             fill ring ◄── FramePool ──► tx ring ──► completion ring ──► FramePool
//!                 │         (one UMEM a worker, shared by all its ports)
//!    kernel ──► rx ring ──► Frame (move-only) ──► Batch ──► PacketIo::send ──► kernel
//! ```
//!
//! * [`Frame`]: one packet, owned; the only way to its bytes.
//! * [`FramePool`]: the UMEM and its free chunks; one a worker.
//! * [`PacketIo`]: the one trait of the hot path; implemented by the AF_XDP port, [`memory::MemoryPort`]
//!   and the pcap port.
//!
//! All `unsafe` of Penstock lives in this crate, each block with its argument. It is not for: parsing,
//! deciding, clocks, threads. It knows nothing of what is inside a packet.

pub mod cpu;
pub mod frame;
pub mod memory;
pub mod pool;
pub mod port;
pub mod region;

pub use frame::{Batch, BATCH_SIZE, CHUNK_SIZE, Frame, HEADROOM};
pub use pool::{FramePool, PoolError, PoolLedger};
pub use port::{PacketIo, PortCounters, PortError};
pub use region::{HugePages, Region, RegionError};
