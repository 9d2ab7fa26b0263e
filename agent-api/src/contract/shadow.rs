//! What is told of a shadow.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// Of established flows one in so many is compared, where nothing else is asked for.
pub const DEFAULT_SAMPLE: u32 = 16;

/// A candidate state beside the running one, and what has been counted of it. Flows are those of all workers; one that is forgotten and
/// seen again is counted again.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShadowStatus {
    /// Its number: one more than that of the candidate before.
    pub number: u64,
    /// The generation that was running when it was set.
    pub base_generation: u64,
    /// The running generation.
    pub generation: u64,
    /// Unix time in nanoseconds.
    pub since_ns: u64,
    /// Of established flows, one in so many is compared.
    pub sample: u32,
    /// Flows that were compared when they were judged.
    pub judged: u64,
    /// Flows that were compared in the midst of their life.
    pub sampled: u64,
    /// Flows that the candidate allows and the running state denies.
    pub newly_allowed: u64,
    /// Flows that the candidate denies and the running state allows.
    pub newly_denied: u64,
    /// Flows that differ and are in no row: there were too many rows.
    pub unplaced: u64,
    /// Differences that were counted and not streamed.
    pub lost: u64,
    /// By rules, the most flows first.
    pub rows: Vec<ShadowRow>,
}

/// Flows that differ in the same way by the same rules.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShadowRow {
    /// Newly allowed; else newly denied.
    pub allowed: bool,
    /// Ingress is what the denying side denies; else egress.
    pub ingress: bool,
    /// The rule of the running state in that direction, such as `default-allow`, `no-rule of NetworkPolicy ns/name` or
    /// `NetworkPolicy ns/name ingress[0]`.
    pub active: String,
    /// The candidate's.
    pub candidate: String,
    /// How many.
    pub flows: u64,
}

/// A flow about which the candidate's policies say something else than the running state's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShadowDifference {
    /// Unix time in nanoseconds.
    pub time_ns: u64,
    /// The candidate's number.
    pub shadow: u64,
    /// Source address.
    pub src: IpAddr,
    /// Source port.
    pub src_port: u16,
    /// Who has that address: a pod's `namespace/name`, a node's name; empty where nobody of the cluster has.
    pub src_name: String,
    /// Destination as packets come in: it may be a Service's.
    pub dst: IpAddr,
    /// Destination port.
    pub dst_port: u16,
    /// IP protocol number.
    pub protocol: u8,
    /// Where a Service sends it, "ip:port"; `None` where the destination is no Service.
    pub backend: Option<String>,
    /// Who has the address that policy was asked of: the destination's or the backend's.
    pub dst_name: String,
    /// Found in the midst of its life; else when it was judged.
    pub established: bool,
    /// Newly allowed; else newly denied.
    pub allowed: bool,
    /// Ingress is what the denying side denies; else egress.
    pub ingress: bool,
    /// The rule of the running state in that direction.
    pub active: String,
    /// The candidate's.
    pub candidate: String,
    /// The generation it was compared with.
    pub generation: u64,
    /// An end is a pod's now, and the candidate knows of no pod there: what it says may be for want of that alone.
    pub stale: bool,
    /// Differences lost since the one before (sampling and slow readers).
    pub missed: u64,
}
