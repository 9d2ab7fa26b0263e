//! # agent-api: the contract between the control plane and penstockd
//!
//! ```text
//!   manifests ─► penstock-agent ──┐                          ┌── penstockd (implements Dataplane)
//!   people    ─► penstockctl ─────┤ gRPC: proto/penstock/v1  │
//!   others    ─► any client ──────┴──────────► server ───────┘
//! ```
//!
//! * [`contract`]: the [`Dataplane`](contract::Dataplane) trait and its plain types: what a dataplane can be asked.
//! * `proto`, `server`, `client`: the same over gRPC (`proto/penstock/v1/penstock.proto`).
//!
//! It is not for: packets, tables, compiling. Without the feature `tools` it links no Kubernetes types.

pub mod contract;
