//! The worker, and what one packet did to it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use afxdp_driver::memory::{MemoryPort, MemoryWire};
use afxdp_driver::{FramePool, HugePages, PoolError, RegionError};
use crossbeam::channel::{Receiver, Sender, bounded};
use policy_compiler::policy::RuleId;
use policy_compiler::service::{Resolution, ServiceQuery};
use policy_compiler::tables::CompileError;

use super::Topology;
use super::topology::Ingress;
use crate::counters::{Counter, WorkerCounters};
use crate::crossing;
use crate::drops::DropReason;
use crate::flow::{Entry, Flags, FlowTables, Key};
use crate::messages::{Command, Event, PortCells};
use crate::pipeline::is_tunnelled;
use crate::publish::Publication;
use crate::snapshot::{PortIndex, Role};
use crate::wire::{L4Kind, Packet, Parsed, SCTP, parse, vxlan};
use crate::worker::{IdlePolicy, Now, Parts, Worker, WorkerConfig};

/// Entries of the flow tables.
const FLOWS: (usize, usize) = (1 << 16, 1 << 14);
/// Chunks of packet memory: a packet, and what may be made out of it.
const CHUNKS: usize = 64;
/// Secret of the hashes. A constant, so that two runs are the same.
const SEED: u64 = 0x7065_6e73_746f_636b;
/// What a packet longer than a chunk ends by: the port's reason, not the pipeline's.
const OVERSIZE: &str = "oversize";

/// Why there is no simulation, or why its result cannot be trusted.
#[derive(Debug, thiserror::Error)]
pub enum StageError {
    /// The intent is refused.
    #[error("the intent is refused: {0}")]
    Intent(#[from] CompileError),
    /// More ports than numbers.
    #[error("{0} ports are more than 65535")]
    Ports(usize),
    /// A port that the node does not have.
    #[error("no port is called {name}; there are {known}")]
    UnknownPort {
        /// What was asked for.
        name: String,
        /// What there is.
        known: String,
    },
    /// No memory for flows.
    #[error("flow tables: {0}")]
    Flows(#[from] RegionError),
    /// No memory for packets.
    #[error(transparent)]
    Pool(#[from] PoolError),
    /// No event descriptors.
    #[error("the worker's doorbell: {0}")]
    Doorbell(#[from] std::io::Error),
    /// The worker's books do not balance: a bug of ours.
    #[error("packets are missing: {0}")]
    Law(String),
}

impl StageError {
    /// Not the user's fault.
    pub fn is_ours(&self) -> bool {
        !matches!(self, StageError::Intent(_) | StageError::Ports(_) | StageError::UnknownPort { .. })
    }
}

/// What became of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It left.
    Forward,
    /// It ended here, for the reason.
    Drop,
    /// It ended here, and an answer of ours went back.
    Answered,
}

impl Verdict {
    /// The word for it.
    pub fn name(self) -> &'static str {
        match self {
            Verdict::Forward => "forward",
            Verdict::Drop => "drop",
            Verdict::Answered => "answered",
        }
    }
}

/// What one packet did.
#[derive(Debug, Clone)]
pub struct Step {
    /// Its number in the capture, from 1.
    pub number: u64,
    /// When it was captured, in nanoseconds since 1970.
    pub time_ns: u64,
    /// Its bytes.
    pub length: usize,
    /// The port by which it came in.
    pub ingress: String,
    /// What it was, out of its tunnel; `None` where it could not be read.
    pub packet: Option<Parsed>,
    /// It came in a tunnel.
    pub tunnelled: bool,
    /// What became of it.
    pub verdict: Verdict,
    /// Why it did not leave.
    pub reason: Option<&'static str>,
    /// The ports by which something left.
    pub egress: Vec<String>,
    /// What left, by port number.
    pub sent: Vec<(PortIndex, Vec<u8>)>,
    /// The flow that it is of, where one was asked for.
    pub flow: Option<FlowStep>,
}

/// What its flow says of a packet.
#[derive(Debug, Clone, Default)]
pub struct FlowStep {
    /// It was in the table already.
    pub hit: bool,
    /// The Service, where the flow's destination is one.
    pub service: Option<String>,
    /// The backend, where one was chosen.
    pub backend: Option<SocketAddr>,
    /// The source's rule.
    pub egress_rule: Option<String>,
    /// The destination's rule.
    pub ingress_rule: Option<String>,
}

/// What a whole capture did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Totals {
    /// Packets of the capture.
    pub packets: u64,
    /// By verdict: forwarded, dropped, answered.
    pub verdicts: [u64; 3],
    /// Packets that did not leave, by reason.
    pub reasons: Vec<(&'static str, u64)>,
    /// Packets that left, by port.
    pub sent: Vec<(String, u64)>,
    /// Packets of known flows, and judged ones.
    pub flows: (u64, u64),
}

/// A worker that takes packets one by one.
#[derive(Debug)]
pub struct Simulation {
    topology: Topology,
    ingress: Ingress,
    strict_mac: bool,
    worker: Worker<MemoryPort>,
    flows: Arc<FlowTables>,
    counters: Arc<WorkerCounters>,
    wires: Vec<MemoryWire>,
    /// The first packet's time; the latest since.
    clock: Option<(u64, u64)>,
    swept: u32,
    totals: Totals,
    _control: (Sender<Command<MemoryPort>>, Receiver<Event<MemoryPort>>),
}

impl Simulation {
    /// A worker that serves all ports of a node.
    ///
    /// # Errors
    /// [`StageError`] where the system has no memory for it.
    pub fn new(topology: Topology, ingress: Ingress, strict_mac: bool) -> Result<Self, StageError> {
        let flows = Arc::new(FlowTables::new(FLOWS.0, FLOWS.1, HugePages::Never, SEED)?);
        let counters = Arc::<WorkerCounters>::default();
        let publication = Publication::new(topology.snapshot().clone(), 1);
        let ports = topology.ports().len();
        let (commands, obeyed) = bounded(ports);
        // Nobody listens: neighbours are known, and drops are read from the counters.
        let (told, events) = bounded(1);
        let mut links = crossing::links(1, 1)?;
        let mut wires = Vec::with_capacity(ports);
        for port in 0..ports {
            let (io, wire) = MemoryPort::new(CHUNKS);
            // There is room for a command a port.
            let _ = commands.send(Command::Attach {
                port: port as PortIndex,
                io: Box::new(io),
                cells: Arc::<PortCells>::default(),
            });
            wires.push(wire);
        }
        let idle = IdlePolicy { sleep: Duration::ZERO, ..IdlePolicy::default() };
        let worker = Worker::new(Parts {
            config: WorkerConfig { number: 0, batch: 1, idle, seed: SEED, start: Instant::now() },
            pool: FramePool::anonymous(CHUNKS, HugePages::Never)?,
            flows: Arc::clone(&flows),
            counters: Arc::clone(&counters),
            reader: publication.reader(0),
            commands: obeyed,
            events: told,
            links: links.remove(0),
        });
        Ok(Simulation {
            topology,
            ingress,
            strict_mac,
            worker,
            flows,
            counters,
            wires,
            clock: None,
            swept: 0,
            totals: Totals::default(),
            _control: (commands, events),
        })
    }

    /// The node.
    pub fn topology(&self) -> &Topology {
        &self.topology
    }

    /// Passes a packet, captured at `time_ns` (nanoseconds since 1970).
    pub fn pass(&mut self, time_ns: u64, captured: &[u8]) -> Step {
        let port = self.ingress.port(self.topology.snapshot(), captured);
        let frame = self.addressed(port, captured);
        let now = self.time(time_ns);
        let before = Seen::of(&self.counters);
        if let Some(wire) = self.wires.get(port as usize) {
            wire.inject(frame.clone());
        }
        self.worker.turn(now);
        let sent = self.sent();
        let after = Seen::of(&self.counters);
        let reason = match before.reason(&after) {
            None if after.rx == before.rx => Some(OVERSIZE),
            reason => reason.map(DropReason::name),
        };
        let verdict = match reason {
            None => Verdict::Forward,
            Some(_) if after.generated > before.generated => Verdict::Answered,
            Some(_) => Verdict::Drop,
        };
        let (packet, tunnelled) = self.read(port, &frame);
        let judged = after.hits + after.misses > before.hits + before.misses;
        let flow = packet.filter(|_| judged).map(|packet| self.flow(&packet, after.hits > before.hits));
        let mut egress: Vec<String> =
            sent.iter().map(|(port, _)| self.topology.name(*port).to_owned()).collect();
        egress.dedup();
        self.count(verdict, reason, &sent);
        Step {
            number: self.totals.packets,
            time_ns,
            length: captured.len(),
            ingress: self.topology.name(port).to_owned(),
            packet,
            tunnelled,
            verdict,
            reason,
            egress,
            sent,
            flow,
        }
    }

    /// Ends the simulation, and looks whether every packet is accounted for.
    ///
    /// # Errors
    /// [`StageError::Law`] where one is not.
    pub fn finish(self) -> Result<Totals, StageError> {
        let ledger = self.worker.into_pool().ledger();
        let seen = Seen::of(&self.counters);
        let (within, without) = (seen.rx + seen.generated, seen.tx + self.counters.dropped());
        let law = |holds: bool, text: String| if holds { Ok(()) } else { Err(StageError::Law(text)) };
        law(within == without, format!("{within} received and made, {without} sent and dropped"))?;
        law(ledger.free == ledger.total, format!("packet memory does not come home: {ledger:?}"))?;
        Ok(Totals { flows: (seen.hits, seen.misses), ..self.totals })
    }

    /// To the port itself, as the sender would have addressed it had it known the port.
    fn addressed(&self, port: PortIndex, captured: &[u8]) -> Vec<u8> {
        let mut frame = captured.to_vec();
        let own = self.topology.ports().get(port as usize).map(|port| port.mac);
        if let (false, Some(own), Some(dst)) = (self.strict_mac, own, frame.first_chunk_mut::<6>())
            && dst[0] & 1 == 0
        {
            *dst = own;
        }
        frame
    }

    /// The worker's time; on the way there, what has been idle for too long is forgotten.
    fn time(&mut self, time_ns: u64) -> Now {
        let (first, latest) = self.clock.unwrap_or((time_ns, time_ns));
        let latest = latest.max(time_ns);
        self.clock = Some((first, latest));
        let nanos = latest - first;
        let seconds = (nanos / 1_000_000_000) as u32;
        if std::mem::replace(&mut self.swept, seconds) != seconds {
            for _ in 0..64 {
                self.flows.sweep(seconds);
            }
        }
        Now { seconds, nanos }
    }

    fn sent(&self) -> Vec<(PortIndex, Vec<u8>)> {
        let ports = (0..).zip(&self.wires);
        ports.flat_map(|(port, wire)| wire.drain().into_iter().map(move |packet| (port, packet))).collect()
    }

    fn count(&mut self, verdict: Verdict, reason: Option<&'static str>, sent: &[(PortIndex, Vec<u8>)]) {
        let totals = &mut self.totals;
        totals.packets += 1;
        totals.verdicts[verdict as usize] += 1;
        if let Some(reason) = reason {
            add(&mut totals.reasons, &reason);
        }
        for (port, _) in sent {
            add(&mut totals.sent, &self.topology.name(*port).to_owned());
        }
    }

    /// What a frame is, as the pipeline reads it; out of its tunnel.
    fn read(&self, port: PortIndex, frame: &[u8]) -> (Option<Parsed>, bool) {
        let snapshot = self.topology.snapshot();
        let Ok(Packet::Ip(outer)) = parse::parse(frame) else { return (None, false) };
        let from_uplink = snapshot.port(port).is_some_and(|view| view.role == Role::Uplink);
        if !from_uplink || !is_tunnelled(snapshot, &outer) {
            return (Some(outer), false);
        }
        let inner = vxlan::decapsulate(frame, &outer).ok().and_then(|inner| {
            let bytes = frame.get(inner.offset..inner.offset + inner.len)?;
            if let Ok(Packet::Ip(inner)) = parse::parse(bytes) { Some(inner) } else { None }
        });
        (Some(inner.unwrap_or(outer)), true)
    }

    /// What the flow table says now of the packet that has just passed.
    fn flow(&self, packet: &Parsed, hit: bool) -> FlowStep {
        let tables = &self.topology.snapshot().tables;
        let (v6, key) = (packet.v6, Key::of(packet));
        let entry = self.entry(v6, &key);
        let is_reply = entry.is_some_and(|entry| entry.flags.has(Flags::REPLY));
        let forward = if is_reply { entry.and_then(|entry| self.partner(v6, &entry)) } else { entry };
        let first = forward.map_or(key, |forward| forward.key);
        let query = ServiceQuery {
            src: first.src(v6),
            src_port: first.src_port(),
            dst: first.dst(v6),
            dst_port: first.dst_port(),
            protocol: first.protocol(),
        };
        let service = match tables.services.resolve(&query) {
            Resolution::NotAService => None,
            Resolution::Forward { service, .. }
            | Resolution::Reject { service }
            | Resolution::Drop { service } => tables.services.name(service),
        };
        let service = service.map(|(name, port)| match port {
            "" => name.to_string(),
            port => format!("{name}:{port}"),
        });
        let chosen = forward.filter(|forward| forward.flags.has(Flags::SERVICE));
        let backend =
            chosen.map(|entry| SocketAddr::new(entry.rewritten.dst(v6), entry.rewritten.dst_port()));
        let text = |rule: u32| Some(tables.policy.origins().text(RuleId(rule)));
        let (egress_rule, ingress_rule) = match forward.map(|entry| (entry, entry.flags.drop_reason())) {
            None => (None, None),
            Some((entry, Some(DropReason::PolicyEgress))) => (text(entry.rule), None),
            Some((entry, Some(_))) => (None, text(entry.rule)),
            Some((entry, None)) => (text(entry.egress_rule), text(entry.rule)),
        };
        FlowStep { hit, service, backend, egress_rule, ingress_rule }
    }

    fn entry(&self, v6: bool, key: &Key) -> Option<Entry> {
        let found = if v6 {
            self.flows.v6.lookup(key, self.flows.v6.hash(key))
        } else {
            self.flows.v4.lookup(key, self.flows.v4.hash(key))
        };
        found.map(|found| found.entry)
    }

    fn partner(&self, v6: bool, entry: &Entry) -> Option<Entry> {
        if v6 { self.flows.v6.entry(entry.partner) } else { self.flows.v4.entry(entry.partner) }
    }
}

/// The ports of a packet, where its transport has any.
pub(super) fn ports_of(packet: &Parsed) -> Option<(u16, u16)> {
    let has_ports = matches!(packet.kind, L4Kind::Tcp | L4Kind::Udp) || packet.protocol == SCTP;
    has_ports.then_some((packet.src_port, packet.dst_port))
}

fn add<K: PartialEq + Clone>(counts: &mut Vec<(K, u64)>, key: &K) {
    match counts.iter_mut().find(|(known, _)| known == key) {
        Some((_, count)) => *count += 1,
        None => counts.push((key.clone(), 1)),
    }
}

/// The counters at one moment.
struct Seen {
    rx: u64,
    tx: u64,
    generated: u64,
    hits: u64,
    misses: u64,
    drops: [u64; DropReason::COUNT],
}

impl Seen {
    fn of(counters: &WorkerCounters) -> Self {
        Seen {
            rx: counters.rx.read(),
            tx: counters.tx.read(),
            generated: counters.generated.read(),
            hits: counters.flow_hits.read(),
            misses: counters.flow_misses.read(),
            drops: counters.drops.each_ref().map(Counter::read),
        }
    }

    /// Why a packet between the two did not leave.
    fn reason(&self, after: &Seen) -> Option<DropReason> {
        let more = self.drops.iter().zip(&after.drops).position(|(before, after)| after > before);
        more.and_then(|number| DropReason::from_number(number as u8))
    }
}
