//! # agent-api: the contract between the control plane and penstockd
//!
//! ```text
//!   manifests ─► penstock-agent ──┐                          ┌── penstockd (implements Dataplane)
//!   people    ─► penstockctl ─────┤ gRPC: proto/penstock/v1  │
//!   others    ─► any client ──────┴──────────► server ───────┘
//! ```
//!
//! * [`contract`]: the [`Dataplane`](contract::Dataplane) trait and its plain types: what a dataplane can be asked.
//! * [`server`], [`client`]: the same over gRPC; [`address`]: where they meet.
//! * [`proto`]: the messages; [`convert`]: to the plain types and back, with checks; [`status`]: refusals on the wire.
//! * `tools` (feature `tools`): manifests read from a folder and watched, the agent's loop.
//!
//! It is not for: packets, tables, compiling. Without the feature `tools` it links no Kubernetes types.

pub mod address;
pub mod client;
pub mod contract;
pub mod convert;
pub mod proto;
pub mod server;
pub mod status;
#[cfg(feature = "tools")]
pub mod tools;
