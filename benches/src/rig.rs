//! A worker between replaying ports; and the ports alone.

use std::sync::Arc;
use std::time::{Duration, Instant};

use afxdp_driver::{Batch, FramePool, HugePages, PacketIo, cpu};
use dataplane::counters::WorkerCounters;
use dataplane::crossing;
use dataplane::flow::{FlowTables, Table};
use dataplane::messages::{Command, Event, PortCells};
use dataplane::publish::{Publication, Publisher};
use dataplane::snapshot::Snapshot;
use dataplane::worker::{IdlePolicy, Now, Parts, Worker, WorkerConfig};
use policy_compiler::compiler::Touched;

use crate::cluster::{self, CLIENT_PORT, PORTS};
use crate::replay::{Packets, ReplayPort};

/// Chunks of packet memory: as many as a port's rings hold.
const CHUNKS: usize = 4096;
/// Secret of the hashes: any.
const SEED: u64 = 0x5eed_5eed_5eed_5eed;

/// What a number of packets has cost.
#[derive(Debug, Clone, Copy)]
pub struct Cost {
    /// Packets.
    pub packets: usize,
    /// TSC cycles.
    pub cycles: u64,
    /// Wall time.
    pub time: Duration,
}

impl Cost {
    /// Measures `work`, which answers with its packets.
    pub fn of(work: impl FnOnce() -> usize) -> Self {
        let start = Instant::now();
        let began = cpu::cycles();
        let packets = work();
        let cycles = cpu::cycles().wrapping_sub(began);
        Cost { packets, cycles, time: start.elapsed() }
    }

    /// TSC cycles a packet.
    pub fn cycles_a_packet(&self) -> f64 {
        self.cycles as f64 / self.packets as f64
    }

    /// Nanoseconds a packet.
    pub fn ns_a_packet(&self) -> f64 {
        self.time.as_nanos() as f64 / self.packets as f64
    }
}

/// A whole worker: the client's port replays packets, the others swallow them.
#[derive(Debug)]
pub struct Rig {
    worker: Worker<ReplayPort>,
    flows: Arc<FlowTables>,
    counters: Arc<WorkerCounters>,
    publisher: Publisher,
    packets: usize,
    now: Now,
    _control:
        (crossbeam::channel::Sender<Command<ReplayPort>>, crossbeam::channel::Receiver<Event<ReplayPort>>),
}

impl Rig {
    /// A worker of the small cluster with batches of `batch`, which knows no flow yet.
    pub fn new(packets: impl Into<Packets>, batch: usize) -> Self {
        Rig::of(cluster::snapshot(), packets, batch)
    }

    /// A worker that judges by `snapshot`, with batches of `batch`, which knows no flow yet.
    pub fn of(snapshot: Snapshot, packets: impl Into<Packets>, batch: usize) -> Self {
        let packets = packets.into();
        // Two entries a flow: a quarter full.
        let entries = packets.count() * 8;
        Rig::with_room(snapshot, packets, batch, entries)
    }

    /// As [`of`](Self::of), with so many entries in the flow table of the packets' family.
    pub fn with_room(snapshot: Snapshot, packets: Packets, batch: usize, entries: usize) -> Self {
        let publication = Publication::new(snapshot, 1);
        let (v4, v6) = if matches!(packets, Packets::Short(_)) { (entries, 16) } else { (16, entries) };
        let flows = FlowTables::new(v4, v6, HugePages::Prefer, SEED).expect("memory for flows");
        let (flows, counters) = (Arc::new(flows), Arc::<WorkerCounters>::default());
        let (commands, obeyed) = crossbeam::channel::bounded(PORTS);
        let (events, told) = crossbeam::channel::bounded(1024);
        let mut links = crossing::links(1, 1).expect("an event descriptor");
        for port in 0..PORTS as u16 {
            let own = if port == CLIENT_PORT { packets.clone() } else { Packets::Short(Arc::new([])) };
            let attach = Command::Attach {
                port,
                io: Box::new(ReplayPort::new(own)),
                cells: Arc::<PortCells>::default(),
            };
            commands.send(attach).expect("room for a command a port");
        }
        let start = Instant::now();
        let worker = Worker::new(Parts {
            config: WorkerConfig { number: 0, batch, idle: IdlePolicy::default(), seed: SEED, start },
            pool: FramePool::anonymous(CHUNKS, HugePages::Prefer).expect("packet memory"),
            flows: Arc::clone(&flows),
            counters: Arc::clone(&counters),
            reader: publication.reader(0),
            commands: obeyed,
            events,
            links: links.remove(0),
        });
        Rig {
            worker,
            flows,
            counters,
            publisher: Publisher::new(publication),
            packets: packets.count(),
            now: Now { seconds: 1, nanos: 0 },
            _control: (commands, told),
        }
    }

    /// Publishes what is published once more; it touches no flow.
    pub fn publish(&mut self) {
        let snapshot = Snapshot::clone(&self.publisher.publication().load());
        self.publisher.publish_touching(snapshot, &Touched::Addresses(Vec::new()));
    }

    /// Every packet once.
    pub fn pass(&mut self) -> Cost {
        self.take(self.packets)
    }

    /// The next packets, whole batches of them.
    pub fn take(&mut self, packets: usize) -> Cost {
        let (worker, now) = (&mut self.worker, self.now);
        Cost::of(|| {
            let mut taken = 0;
            while taken < packets {
                taken += worker.turn(now);
            }
            taken
        })
    }

    /// The flow tables.
    pub fn flows(&self) -> &FlowTables {
        &self.flows
    }

    /// The second that the flows are touched in.
    pub fn second(&self) -> u32 {
        self.now.seconds
    }

    /// Forgets all flows.
    pub fn forget(&mut self) {
        forget(&self.flows.v4);
        forget(&self.flows.v6);
    }

    /// Packets that were found in the table, and that were judged. Panics where any packet did not leave.
    pub fn hits_and_misses(&self) -> (u64, u64) {
        let counters = &self.counters;
        assert_eq!(counters.rx.read(), counters.tx.read(), "a packet did not leave: {counters:?}");
        (counters.flow_hits.read(), counters.flow_misses.read())
    }
}

fn forget<const WORDS: usize>(table: &Table<WORDS>) {
    (0..table.capacity() as u32).for_each(|slot| table.remove(slot));
}

/// The same ports without a worker: receive, free.
#[derive(Debug)]
pub struct Bare {
    port: ReplayPort,
    pool: FramePool,
    batch: Batch,
    most: usize,
    packets: usize,
}

impl Bare {
    /// Batches of `batch`.
    pub fn new(packets: impl Into<Packets>, batch: usize) -> Self {
        let packets = packets.into();
        Bare {
            packets: packets.count(),
            port: ReplayPort::new(packets),
            pool: FramePool::anonymous(CHUNKS, HugePages::Prefer).expect("packet memory"),
            batch: Batch::new(),
            most: batch,
        }
    }

    /// Every packet once.
    pub fn pass(&mut self) -> Cost {
        let Bare { port, pool, batch, most, packets } = self;
        Cost::of(|| {
            let mut taken = 0;
            while taken < *packets {
                taken += port.receive(pool, batch, *most);
                port.send(pool, batch);
            }
            taken
        })
    }
}
