//! AF_XDP: one queue of a device as a [`PacketIo`](crate::PacketIo), and the XDP program that feeds it.
//!
//! ```text
//!  control thread                                   worker
//!  pool.umem_handle() ◄──────────────────────────── FramePool::umem
//!  AfXdpPort::attach(&config, &umem)  ── port ────► receive, send, flush
//!  port.finish()                      ◄── port ───  (or PacketIo::close at once)
//!        └─ ClosedPort ───────────────────────────► pool.take_home(closed)
//! ```
//!
//! * [`AfXdpPort::attach`] does all that can fail or take time: load, bind, attach. On any thread.
//! * [`DeviceProgram`] is the program of a device; queues of one device share it ([`AfXdpPort::join`]).
//! * [`SteeringTable`](crate::SteeringTable) says what of a shared device is ours.
//!
//! One queue, one socket: a device with more receive queues than sockets loses what arrives on the others
//! (`ip link add … numrxqueues 1`, or `ethtool -L … rx 1 tx 1` beforehand, or a port for each queue).

mod config;
mod port;
mod program;

pub use config::{AttachConfig, AttachError, AttachMode, Steering, XdpMode, ZeroCopy};
pub use port::{AfXdpPort, ClosedPort, StatsReader, XdpStats};
pub use program::{DeviceProgram, Verdicts};
