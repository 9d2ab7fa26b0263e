//! # dataplane: packets by tables
//!
//! ```text
//!   receive ─► parse ─► flow look-up ─► (miss: judge) ─► rewrite ─► emit ─► close
//!      │         │            │               │             │         │
//!      └─────────┴── a packet that ends anywhere is one line: its DropReason is named and counted ──┘
//! ```
//!
//! * [`worker`]: the loop, one screen.            * [`pipeline`]: the stages, in the packet's order.
//! * [`flow`]: the flow table and its entries.    * [`judge`]: the slow path, once a flow.
//! * [`wire`]: bytes to [`wire::Parsed`] and back; ARP, ND, ICMP errors.
//! * [`snapshot`]: what a worker judges by: tables, ports, egress templates; how it is published.
//! * [`validity`]: which judgements of earlier generations still hold.
//! * [`rule_hits`]: how often each rule of a policy has decided.
//! * [`shadow`]: a candidate that flows are judged by as well, without effect.
//! * [`simulate`]: a capture through the same pipeline, offline.
//! * `control`: penstockd around the workers: ports, neighbours, gRPC, configuration.
//!
//! It is not for: Kubernetes (see `policy-compiler`), sockets and rings (see `afxdp-driver`).

pub mod control;
pub mod counters;
pub mod crossing;
pub mod drops;
pub mod flow;
pub mod judge;
pub mod messages;
pub mod pipeline;
pub mod publish;
pub mod rule_hits;
pub mod shadow;
pub mod simulate;
pub mod snapshot;
mod sync;
pub mod validity;
pub mod wire;
pub mod worker;
