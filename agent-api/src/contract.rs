//! What a dataplane can be asked, in plain types. The server turns gRPC into calls of [`Dataplane`]; the typed client
//! offers the same types on the other side.

mod rules;

use std::collections::BTreeMap;
use std::future::Future;
use std::net::IpAddr;
use std::sync::Arc;

use futures::stream::BoxStream;
use policy_compiler::check::Checked;
use policy_compiler::intent::Intent;
use policy_compiler::intent::update::Update;
use serde::{Deserialize, Serialize};

mod shadow;

pub use rules::{Basis, DecidedBy, Direction, PolicyDecision, PolicyHits, RuleHits, RuleRef};
pub use shadow::{DEFAULT_SAMPLE, ShadowDifference, ShadowRow, ShadowStatus};

/// Something that forwards packets by tables. Implemented by penstockd, and by a recording double in tests.
pub trait Dataplane: Send + Sync + 'static {
    /// Replaces the whole state by `intent` as one transaction. Answers when every worker has passed the new
    /// generation: from then on no packet is treated the old way.
    ///
    /// `expected` is the generation the caller believes to be running; where it is given and wrong, the call is refused.
    ///
    /// # Errors
    /// [`Refusal`], naming object and field; what was running goes on.
    fn apply(
        &self,
        intent: Intent,
        expected: Option<u64>,
    ) -> impl Future<Output = Result<Applied, Refusal>> + Send;

    /// Changes a part of the state as one transaction. Answers as [`Dataplane::apply`] does.
    ///
    /// `base` is the generation that this is a change of; where another one is running, the call is refused.
    ///
    /// # Errors
    /// [`Refusal`], naming object and field; what was running goes on.
    fn update(&self, update: Update, base: u64) -> impl Future<Output = Result<Applied, Refusal>> + Send;

    /// The running state: what was applied last, with its generation.
    fn state(&self) -> impl Future<Output = State> + Send;

    /// Counters of workers, ports and drops, read without stopping anything.
    fn stats(&self) -> impl Future<Output = Stats> + Send;

    /// Dropped packets as they happen, sampled under load; what the sampling or a slow reader lost is counted in
    /// [`DropEvent::missed`].
    fn watch_drops(&self) -> impl Future<Output = BoxStream<'static, DropEvent>> + Send;

    /// What would happen to a packet, and why. Touches no flow.
    ///
    /// # Errors
    /// [`Refusal`] for an unknown port or a protocol that has no such question.
    fn explain(&self, query: ExplainQuery) -> impl Future<Output = Result<Explanation, Refusal>> + Send;

    /// Attaches a device as a port.
    ///
    /// # Errors
    /// [`Refusal`] for a missing device, a device already attached, an unknown pod or a failed attachment.
    fn add_port(&self, request: AddPort) -> impl Future<Output = Result<PortInfo, Refusal>> + Send;

    /// Detaches a port by its device; the other ports lose nothing.
    ///
    /// # Errors
    /// [`Refusal`] for an unknown port.
    fn remove_port(&self, device: String) -> impl Future<Output = Result<(), Refusal>> + Send;

    /// The attached ports.
    fn ports(&self) -> impl Future<Output = Vec<PortInfo>> + Send;

    /// Live flow entries, at most `limit`.
    fn flows(&self, limit: usize) -> impl Future<Output = Vec<FlowInfo>> + Send;

    /// How often each rule of the running policies has decided, read without stopping anything.
    fn rule_hits(&self) -> impl Future<Output = PolicyHits> + Send;

    /// Sets a candidate beside the running state, in place of any before it: from the answer on flows are judged by both, and what
    /// the candidate says has no effect. Of established flows one in `sample` is compared.
    ///
    /// # Errors
    /// [`Refusal`], naming object and field; what was set stays.
    fn set_shadow(
        &self,
        intent: Intent,
        sample: u32,
    ) -> impl Future<Output = Result<ShadowStatus, Refusal>> + Send;

    /// The candidate, with what has been counted of it; `None` where none is set.
    fn shadow(&self) -> impl Future<Output = Option<ShadowStatus>> + Send;

    /// Flows that differ: the last that the candidate is known by, then each as it is found. What was lost is counted in
    /// [`ShadowDifference::missed`].
    fn watch_shadow(&self) -> impl Future<Output = BoxStream<'static, ShadowDifference>> + Send;

    /// Makes the candidate the running state, as [`Dataplane::apply`] does, and ends the comparison. `force`: also where another
    /// generation is running than the candidate was set beside.
    ///
    /// # Errors
    /// [`Refusal`], naming object and field; what was running goes on, and the candidate stays.
    fn promote_shadow(&self, force: bool) -> impl Future<Output = Result<Applied, Refusal>> + Send;

    /// Ends the comparison; what is running stays.
    ///
    /// # Errors
    /// [`Refusal`] where no candidate is set.
    fn discard_shadow(&self) -> impl Future<Output = Result<(), Refusal>> + Send;
}

/// A dataplane that is shared is one, too.
impl<D: Dataplane> Dataplane for Arc<D> {
    fn apply(
        &self,
        intent: Intent,
        expected: Option<u64>,
    ) -> impl Future<Output = Result<Applied, Refusal>> + Send {
        D::apply(self, intent, expected)
    }

    fn update(&self, update: Update, base: u64) -> impl Future<Output = Result<Applied, Refusal>> + Send {
        D::update(self, update, base)
    }

    fn state(&self) -> impl Future<Output = State> + Send {
        D::state(self)
    }

    fn stats(&self) -> impl Future<Output = Stats> + Send {
        D::stats(self)
    }

    fn watch_drops(&self) -> impl Future<Output = BoxStream<'static, DropEvent>> + Send {
        D::watch_drops(self)
    }

    fn explain(&self, query: ExplainQuery) -> impl Future<Output = Result<Explanation, Refusal>> + Send {
        D::explain(self, query)
    }

    fn add_port(&self, request: AddPort) -> impl Future<Output = Result<PortInfo, Refusal>> + Send {
        D::add_port(self, request)
    }

    fn remove_port(&self, device: String) -> impl Future<Output = Result<(), Refusal>> + Send {
        D::remove_port(self, device)
    }

    fn ports(&self) -> impl Future<Output = Vec<PortInfo>> + Send {
        D::ports(self)
    }

    fn flows(&self, limit: usize) -> impl Future<Output = Vec<FlowInfo>> + Send {
        D::flows(self, limit)
    }

    fn rule_hits(&self) -> impl Future<Output = PolicyHits> + Send {
        D::rule_hits(self)
    }

    fn set_shadow(
        &self,
        intent: Intent,
        sample: u32,
    ) -> impl Future<Output = Result<ShadowStatus, Refusal>> + Send {
        D::set_shadow(self, intent, sample)
    }

    fn shadow(&self) -> impl Future<Output = Option<ShadowStatus>> + Send {
        D::shadow(self)
    }

    fn watch_shadow(&self) -> impl Future<Output = BoxStream<'static, ShadowDifference>> + Send {
        D::watch_shadow(self)
    }

    fn promote_shadow(&self, force: bool) -> impl Future<Output = Result<Applied, Refusal>> + Send {
        D::promote_shadow(self, force)
    }

    fn discard_shadow(&self) -> impl Future<Output = Result<(), Refusal>> + Send {
        D::discard_shadow(self)
    }
}

/// A transaction took effect.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Applied {
    /// Its number: one more than the one before.
    pub generation: u64,
    /// Time from the call to the last worker's passing, in microseconds.
    pub microseconds: u64,
}

/// Why a call was refused. Nothing has changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{object}: {field}: {problem}")]
pub struct Refusal {
    /// The object at fault, such as `Service shop/web` or `port veth0`.
    pub object: String,
    /// The path of the field within it.
    pub field: String,
    /// What is wrong, in words.
    pub problem: String,
    /// Which sort of error, for programs.
    pub kind: RefusalKind,
}

/// Sorts of refusal; each maps to one gRPC status code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RefusalKind {
    /// The request is wrong in itself (INVALID_ARGUMENT).
    Invalid,
    /// It refers to something that is not there (NOT_FOUND).
    NotFound,
    /// It is there already (ALREADY_EXISTS).
    Exists,
    /// It does not fit a capacity (RESOURCE_EXHAUSTED).
    Capacity,
    /// The expected generation is not the running one (ABORTED).
    Conflict,
    /// The tables that were compiled do not say what the policies say (INTERNAL).
    CheckFailed,
    /// The machine would not (INTERNAL).
    System,
}

/// The running state.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// Generation of `intent`; 0 before the first `Apply`.
    pub generation: u64,
    /// What each worker has passed, by worker number.
    pub workers: Vec<u64>,
    /// What was applied last.
    pub intent: Intent,
}

/// Counters since penstockd started. All of packets unless the name says otherwise.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Stats {
    /// Seconds since start.
    pub uptime_seconds: f64,
    /// The running generation.
    pub generation: u64,
    /// A row a worker.
    pub workers: Vec<WorkerStats>,
    /// A row a port.
    pub ports: Vec<PortStats>,
    /// Flow entries in use, by table ("ipv4", "ipv6"), and their capacity.
    pub flows: BTreeMap<String, FlowTableStats>,
    /// What became of checked compilation.
    #[serde(default)]
    pub checks: CheckStats,
}

/// Checked compilation: tables that were held to the policies before they were put in force.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckStats {
    /// Generations that passed.
    pub passed: u64,
    /// Generations that were refused.
    pub refused: u64,
    /// What the last check took, in microseconds.
    pub microseconds: u64,
    /// What was asked of the last generation that passed.
    pub last: Checked,
    /// Of the last generation that was refused.
    pub report: Option<CheckReport>,
}

/// Why a generation was refused.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckReport {
    /// What was asked.
    pub checked: Checked,
    /// How many answers differ.
    pub total: u64,
    /// The first of them, a sentence each: the witness, what the table says of it, and what the policies say.
    pub mismatches: Vec<String>,
}

/// Counters of one worker. The law: `rx + generated = tx + drops + held`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct WorkerStats {
    /// Number of the worker.
    pub worker: u32,
    /// CPU it is pinned to.
    pub core: Option<u32>,
    /// Packets received from ports.
    pub rx: u64,
    /// Packets that the worker made itself (ARP requests, ICMP errors beside a dropped packet, …).
    pub generated: u64,
    /// Packets handed to ports.
    pub tx: u64,
    /// Packets dropped, by the drop reason's name; reasons with zero are left out.
    pub drops: BTreeMap<String, u64>,
    /// Packets it holds at this moment.
    pub held: u64,
    /// Packets that took the fast path (flow table hits).
    pub flow_hits: u64,
    /// Packets that were judged against the tables.
    pub flow_misses: u64,
    /// Turns of the loop with at least one packet.
    pub busy_turns: u64,
    /// TSC cycles spent in those turns.
    pub busy_cycles: u64,
    /// Of those, TSC cycles inside the system calls that make ports send: the kernel's share.
    pub kernel_cycles: u64,
    /// Times it slept in poll(2).
    pub sleeps: u64,
    /// Chunks of packet memory: free, in batches, with the kernel, all.
    pub chunks: [u64; 4],
}

/// Counters of one port.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct PortStats {
    /// Device name.
    pub device: String,
    /// The pod behind it, `namespace/name`; empty for others.
    pub pod: String,
    /// Received packets and bytes.
    pub rx_packets: u64,
    /// Bytes of those.
    pub rx_bytes: u64,
    /// Sent packets.
    pub tx_packets: u64,
    /// Bytes of those.
    pub tx_bytes: u64,
    /// Counters that the driver and the kernel keep, by name (`rx_dropped`, `rx_fill_ring_empty_descs`, `tx_lost`, …).
    pub kernel: BTreeMap<String, u64>,
}

/// How full a flow table is.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct FlowTableStats {
    /// Entries in use (two a flow: one a direction).
    pub entries: u64,
    /// Entries that fit.
    pub capacity: u64,
    /// Entries pushed out before their time, by the state they were in.
    pub evicted: BTreeMap<String, u64>,
    /// What the memory is backed by.
    pub backing: String,
}

/// One dropped packet.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DropEvent {
    /// Unix time in nanoseconds.
    pub time_ns: u64,
    /// The drop reason's name.
    pub reason: String,
    /// Device it came in by.
    pub device: String,
    /// Source address, where it could be parsed.
    pub src: Option<IpAddr>,
    /// Source port.
    pub src_port: u16,
    /// Destination address.
    pub dst: Option<IpAddr>,
    /// Destination port.
    pub dst_port: u16,
    /// IP protocol number.
    pub protocol: u8,
    /// The rule that decided, such as `NetworkPolicy db/mongo ingress[0]`; empty where no policy was asked.
    pub rule: String,
    /// The same, field by field.
    pub decided_by: Option<DecidedBy>,
    /// The generation it was judged under.
    pub generation: u64,
    /// Events lost since the one before (sampling and slow readers).
    pub missed: u64,
}

/// A question about a packet that need not exist.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExplainQuery {
    /// Source address.
    pub src: IpAddr,
    /// Source port, 0 where the protocol has none or it does not matter.
    pub src_port: u16,
    /// Destination address.
    pub dst: IpAddr,
    /// Destination port, 0 where the protocol has none.
    pub dst_port: u16,
    /// IP protocol number.
    pub protocol: u8,
}

/// What would happen, and why.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Explanation {
    /// "forward", or "drop".
    pub verdict: String,
    /// The drop reason's name, where it is dropped.
    pub reason: Option<String>,
    /// Steps in the order they are taken, one sentence each: service, policy at both ends, route, egress.
    pub steps: Vec<String>,
    /// The generation asked.
    pub generation: u64,
    /// Policy for the source, such as `default-allow`, `no-rule` or `NetworkPolicy ns/name egress[0]`.
    pub egress: String,
    /// Policy for the destination.
    pub ingress: String,
    /// Both, field by field, in this order; none where policy was not asked.
    pub decisions: Vec<PolicyDecision>,
    /// The chosen Service backend, where the destination is a Service.
    pub backend: Option<String>,
}

/// What kind of neighbour is at the other end of a port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PortRole {
    /// A pod or virtual machine, `namespace/name`.
    Pod(String),
    /// The underlay: other nodes and the outside.
    Uplink,
    /// The node's own network stack.
    Host,
}

/// A device to attach.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddPort {
    /// Device name in penstockd's network namespace.
    pub device: String,
    /// What is behind it.
    pub role: PortRole,
    /// MAC address of what is behind it, where known (it is learned otherwise).
    pub peer_mac: Option<[u8; 6]>,
}

/// An attached port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortInfo {
    /// Device name.
    pub device: String,
    /// What is behind it.
    pub role: PortRole,
    /// Addresses of the endpoint; empty until the state knows the pod.
    pub addresses: Vec<IpAddr>,
    /// The device's own MAC address: the gateway's, seen from the pod.
    pub mac: [u8; 6],
    /// MAC address of what is behind it, once known.
    pub peer_mac: Option<[u8; 6]>,
    /// Largest IP packet.
    pub mtu: u32,
    /// The worker that serves it.
    pub worker: u32,
    /// How it is attached: "native, copy", …
    pub mode: String,
}

/// One direction of a live flow.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FlowInfo {
    /// Source as the packet comes in.
    pub src: IpAddr,
    /// Source port.
    pub src_port: u16,
    /// Destination as the packet comes in.
    pub dst: IpAddr,
    /// Destination port.
    pub dst_port: u16,
    /// IP protocol number.
    pub protocol: u8,
    /// "forward", or the drop reason's name.
    pub verdict: String,
    /// True for the direction of replies.
    pub reply: bool,
    /// TCP state or "new"/"replied" for the rest.
    pub state: String,
    /// Source and destination as the packet leaves, where they differ: "ip:port".
    pub translated_src: Option<String>,
    /// Destination as the packet leaves, where it differs.
    pub translated_dst: Option<String>,
    /// The rule that decided.
    pub rule: String,
    /// The same, field by field.
    pub decided_by: Option<DecidedBy>,
    /// Seconds since its last packet.
    pub idle_seconds: u32,
    /// Packets in this direction.
    pub packets: u64,
}
