//! A worker between replaying ports; and the ports alone.

use std::sync::Arc;
use std::time::{Duration, Instant};

use afxdp_driver::{Batch, FramePool, HugePages, PacketIo, cpu};
use dataplane::counters::WorkerCounters;
use dataplane::crossing;
use dataplane::flow::FlowTables;
use dataplane::messages::{Command, Event, PortCells};
use dataplane::publish::Publication;
use dataplane::worker::{IdlePolicy, Now, Parts, Worker, WorkerConfig};

use crate::cluster::{self, CLIENT_PORT, PORTS};
use crate::replay::{Packet, ReplayPort};

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
    packets: usize,
    now: Now,
    _control:
        (crossbeam::channel::Sender<Command<ReplayPort>>, crossbeam::channel::Receiver<Event<ReplayPort>>),
}

impl Rig {
    /// A worker with batches of `batch`, which knows no flow yet.
    pub fn new(packets: &Arc<[Packet]>, batch: usize) -> Self {
        let publication = Publication::new(cluster::snapshot(), 1);
        // Two entries a flow: a quarter full.
        let entries = packets.len() * 8;
        let flows = FlowTables::new(entries, 16, HugePages::Prefer, SEED).expect("memory for flows");
        let (flows, counters) = (Arc::new(flows), Arc::<WorkerCounters>::default());
        let (commands, obeyed) = crossbeam::channel::bounded(PORTS);
        let (events, told) = crossbeam::channel::bounded(1024);
        let mut links = crossing::links(1, 1).expect("an event descriptor");
        for port in 0..PORTS as u16 {
            let own = if port == CLIENT_PORT { Arc::clone(packets) } else { Arc::new([]) };
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
            packets: packets.len(),
            now: Now { seconds: 1, nanos: 0 },
            _control: (commands, told),
        }
    }

    /// Every packet once.
    pub fn pass(&mut self) -> Cost {
        let (worker, packets, now) = (&mut self.worker, self.packets, self.now);
        Cost::of(|| {
            let mut taken = 0;
            while taken < packets {
                taken += worker.turn(now);
            }
            taken
        })
    }

    /// Forgets all flows.
    pub fn forget(&mut self) {
        for slot in 0..self.flows.v4.capacity() as u32 {
            self.flows.v4.remove(slot);
        }
    }

    /// Packets that were found in the table, and that were judged. Panics where any packet did not leave.
    pub fn hits_and_misses(&self) -> (u64, u64) {
        let counters = &self.counters;
        assert_eq!(counters.rx.read(), counters.tx.read(), "a packet did not leave: {counters:?}");
        (counters.flow_hits.read(), counters.flow_misses.read())
    }
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
    pub fn new(packets: &Arc<[Packet]>, batch: usize) -> Self {
        Bare {
            port: ReplayPort::new(Arc::clone(packets)),
            pool: FramePool::anonymous(CHUNKS, HugePages::Prefer).expect("packet memory"),
            batch: Batch::new(),
            most: batch,
            packets: packets.len(),
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
