//! memif: packets between two processes by shared memory, without a kernel on their way. Protocol version 2.0, as
//! libmemif, VPP, DPDK (`net_memif`) and Network Service Mesh speak it.
//!
//! ```text
//!   hub thread                                               workers
//!   MemifHub::open(config) ──────────── ports, one a queue ──► MemifPort: receive, send, flush
//!     listens or connects ◄─ control socket ─► peer                │ │
//!     HELLO … CONNECTED ── Plug: a queue, or none ────────────────►│ │
//!     DISCONNECT, HUP   ── Plug: none; then anew                   ▼ ▼
//!                                          shared memory: a ring each way and its buffers
//! ```
//!
//! * [`MemifConfig`]: socket, role, id, secret, queues, sizes. [`MemifHub`]: the thread that talks to peers.
//! * [`MemifPort`]: the [`PacketIo`](crate::PacketIo). A copy each way, as DPDK does: our chunks lie elsewhere.
//! * `message`, `layout`, `talk`: bytes, places and turns, without socket or clock. `session`, `channel`: with them.
//! * `shm`: all `unsafe`. `ring`: what is read from shared memory is checked, and checked only as a copy.
//!
//! The manual is `docs/memif.md`; the layout of all that is shared is that of `memif.h` (libmemif; DPDK
//! `drivers/net/memif/memif.h`). It is not for: zero-copy, IP and punt modes.

mod channel;
mod config;
mod hub;
mod layout;
mod message;
mod plug;
mod port;
mod refusal;
mod ring;
mod session;
mod shm;
mod talk;

pub use config::{
    MAX_BUFFER, MAX_LOG2_RING, MAX_QUEUES, MIN_BUFFER, MIN_LOG2_RING, MemifConfig, MemifError, MemifRole,
};
pub use hub::{MemifHub, MemifStatus};
pub use message::SECRET_LEN;
pub use port::MemifPort;

#[cfg(test)]
mod tests;
