//! penstockd around the workers.
//!
//! ```text
//!   gRPC ──► Handle ──requests──► control thread ──snapshots, commands──► workers
//!               │                    ▲     ▲  └──────── events ─────────────┘
//!               │                    │     └─ neighbours: routes, MAC addresses (route netlink)
//!               └─ blocking work: compiling, attaching devices
//! ```
//!
//! * [`config`]: the configuration file.           * [`daemon`]: from start to end.
//! * [`dataplane`]: the contract of gRPC.          * `explain`: what would happen, in sentences.
//! * `thread`: the one that owns the state.        * `attach`, `ports`: devices come and go.
//! * [`build`]: from the state to a snapshot.      * `steer`: what of the uplink is ours.
//! * [`neighbours`]: what the kernel knows.        * `watch`, `history`, `hits`: drops and rules by name.
//! * `shadow`: a candidate beside the state.
//!
//! It is not for: packets. Nothing here is on their way.

mod attach;
pub mod build;
mod checks;
pub mod config;
pub mod daemon;
pub mod dataplane;
mod explain;
pub(crate) mod history;
mod hits;
pub mod neighbours;
mod ports;
mod refusal;
mod request;
mod shadow;
mod steer;
mod thread;
mod watch;
