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
//! * [`PacketIo`]: the one trait of the hot path; implemented by [`xdp::AfXdpPort`], [`memif::MemifPort`],
//!   [`memory::MemoryPort`] and [`pcap::PcapPort`]; [`AnyPort`] is either of the first two.
//! * [`xdp`]: attaching a device, and the XDP program that feeds its socket; [`SteeringTable`]: what of a shared
//!   device is ours.
//! * [`memif`]: another process at the other end instead of a device, and shared memory instead of a kernel.
//!
//! All `unsafe` of Penstock lives in this crate, each block with its argument. It is not for: parsing,
//! deciding, clocks, threads. It knows nothing of what is inside a packet.

mod any;
mod bpf;
pub mod cpu;
pub mod device;
pub mod frame;
mod held;
mod holder;
pub mod live;
pub mod memif;
pub mod memory;
pub mod pcap;
pub mod pool;
pub mod port;
pub mod region;
mod sockopt;
pub mod steering;
mod txring;
pub mod umem;
pub mod xdp;

pub use any::{AnyPort, Ended};
pub use frame::{BATCH_SIZE, Batch, CHUNK_SIZE, Frame, HEADROOM};
pub use live::{LiveError, LiveFrames};
pub use pool::{FramePool, PoolError, PoolLedger};
pub use port::{PacketIo, PortCounters, PortError};
pub use region::{HugePages, Region, RegionError};
pub use steering::{SteeringError, SteeringTable};
pub use umem::UmemHandle;
pub use xdp::{AfXdpPort, AttachConfig, AttachError};
