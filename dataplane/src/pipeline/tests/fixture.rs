//! The worker under test, between in-memory ports. After each turn its laws are asserted.

use std::sync::Arc;
use std::time::{Duration, Instant};

use afxdp_driver::memory::{MemoryPort, MemoryWire};
use afxdp_driver::{FramePool, HugePages, PoolLedger};
use crossbeam::channel::{Receiver, Sender, bounded};

use policy_compiler::compiler::Touched;
use policy_compiler::tables::Tables;

use super::cluster::{Cluster, PORTS};
use crate::counters::{Counter, WorkerCounters};
use crate::crossing::{self, Links};
use crate::drops::DropReason;
use crate::flow::FlowTables;
use crate::messages::{Command, Event, PortCells};
use crate::publish::{Publication, Publisher, Reader};
use crate::snapshot::PortIndex;
use crate::worker::{IdlePolicy, Now, Parts, Worker, WorkerConfig};

/// Sizes of a rig.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sizes {
    pub(super) batch: usize,
    pub(super) chunks: usize,
    pub(super) flows: usize,
    /// Frames that a port's transmit ring holds.
    pub(super) ring: usize,
}

pub(super) const SIZES: Sizes = Sizes { batch: 64, chunks: 512, flows: 1024, ring: 256 };

/// A worker and everything around it but the ports.
pub(super) struct Bench {
    pub(super) worker: Worker<MemoryPort>,
    pub(super) counters: Arc<WorkerCounters>,
    pub(super) commands: Sender<Command<MemoryPort>>,
    pub(super) events: Receiver<Event<MemoryPort>>,
}

impl Bench {
    pub(super) fn new(
        number: usize,
        sizes: Sizes,
        flows: &Arc<FlowTables>,
        reader: Reader,
        links: Links,
    ) -> Self {
        let counters = Arc::<WorkerCounters>::default();
        let (commands, obeyed) = bounded(64);
        let (told, events) = bounded(1024);
        // Sleeps are short: no port here has a descriptor to wake up by.
        let idle = IdlePolicy { spin: 16, yields: 16, sleep: Duration::from_millis(1) };
        let worker = Worker::new(Parts {
            config: WorkerConfig { number, batch: sizes.batch, idle, seed: SEED, start: Instant::now() },
            pool: FramePool::anonymous(sizes.chunks, HugePages::Never).unwrap(),
            flows: Arc::clone(flows),
            counters: Arc::clone(&counters),
            reader,
            commands: obeyed,
            events: told,
            links,
        });
        Bench { worker, counters, commands, events }
    }

    /// Has the worker serve a new port from its next turn on.
    pub(super) fn attach(&self, port: PortIndex, ring: usize) -> MemoryWire {
        let (io, wire) = MemoryPort::new(ring);
        let cells = Arc::<PortCells>::default();
        self.commands.send(Command::Attach { port, io: Box::new(io), cells }).unwrap();
        wire
    }
}

pub(super) const SEED: u64 = 0x0005_eedf_0000_d5e7;

pub(super) fn flow_tables(capacity: usize) -> Arc<FlowTables> {
    Arc::new(FlowTables::new(capacity, capacity, HugePages::Never, SEED).unwrap())
}

/// One worker with all ports of the cluster.
pub(super) struct Rig {
    pub(super) cluster: Cluster,
    pub(super) flows: Arc<FlowTables>,
    pub(super) counters: Arc<WorkerCounters>,
    pub(super) now: Now,
    /// What the worker has told the control thread.
    pub(super) told: Vec<Event<MemoryPort>>,
    bench: Option<Bench>,
    publisher: Publisher,
    wires: Vec<Option<MemoryWire>>,
    sizes: Sizes,
}

/// What a turn, or several, have done.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Outcome {
    /// Packets received from ports.
    pub(super) taken: usize,
    /// Packets out, by port, in order.
    pub(super) out: Vec<(PortIndex, Vec<u8>)>,
    /// A reason for each packet that ended, in the order of their numbers.
    pub(super) drops: Vec<DropReason>,
    /// Packets that the worker made.
    pub(super) generated: u64,
}

impl Outcome {
    /// The one packet that left, and nothing else happened.
    #[track_caller]
    pub(super) fn one(self, port: PortIndex) -> Vec<u8> {
        assert_eq!(self.drops, [], "nothing ends");
        self.only(port)
    }

    /// The one packet that was sent back; the one that asked ended for `reason`.
    #[track_caller]
    pub(super) fn answer(self, port: PortIndex, reason: DropReason) -> Vec<u8> {
        assert_eq!((&self.drops[..], self.generated), (&[reason][..], 1));
        self.only(port)
    }

    /// Nothing left: all ended for `reason`.
    #[track_caller]
    pub(super) fn ended(self, reason: DropReason) {
        assert_eq!(self.drops, [reason]);
        assert_eq!(self.out, []);
    }

    #[track_caller]
    fn only(mut self, port: PortIndex) -> Vec<u8> {
        assert_eq!(self.out.iter().map(|(port, _)| *port).collect::<Vec<_>>(), [port], "one packet leaves");
        self.out.remove(0).1
    }

    fn add(&mut self, other: Outcome) {
        self.taken += other.taken;
        self.out.extend(other.out);
        self.drops.extend(other.drops);
        self.generated += other.generated;
    }
}

/// The counters that the laws speak of.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Counts {
    rx: u64,
    generated: u64,
    tx: u64,
    held: u64,
    drops: Vec<u64>,
}

impl Counts {
    fn of(counters: &WorkerCounters) -> Self {
        Counts {
            rx: counters.rx.read(),
            generated: counters.generated.read(),
            tx: counters.tx.read(),
            held: counters.held.read(),
            drops: counters.drops.iter().map(Counter::read).collect(),
        }
    }
}

/// rx + generated = tx + drops + held.
#[track_caller]
pub(super) fn assert_conserved(counters: &WorkerCounters) {
    let Counts { rx, generated, tx, held, .. } = Counts::of(counters);
    assert_eq!(rx + generated, tx + counters.dropped() + held, "packets in = packets out: {counters:?}");
}

/// Where the worker says that its chunks are.
pub(super) fn ledger(counters: &WorkerCounters) -> PoolLedger {
    let [free, out, kernel, total] = [0, 1, 2, 3].map(|index| counters.chunks[index].read() as usize);
    PoolLedger { free, out, kernel, total }
}

impl Rig {
    pub(super) fn new() -> Self {
        Rig::with(Cluster::new(), SIZES)
    }

    pub(super) fn with(cluster: Cluster, sizes: Sizes) -> Self {
        let publication = Publication::new(cluster.snapshot(), 1);
        let flows = flow_tables(sizes.flows);
        let links = crossing::links(1, 1).unwrap().remove(0);
        let bench = Bench::new(0, sizes, &flows, publication.reader(0), links);
        let mut rig = Rig {
            cluster,
            flows,
            counters: Arc::clone(&bench.counters),
            now: Now { seconds: 100, nanos: 100_000_000_000 },
            told: Vec::new(),
            bench: Some(bench),
            publisher: Publisher::new(publication),
            wires: vec![None; PORTS],
            sizes,
        };
        (0..PORTS as PortIndex).for_each(|port| rig.attach(port));
        assert_eq!(rig.turn(), Outcome::default());
        rig
    }

    /// As [`with`](Self::with), where no packet takes the express way.
    pub(super) fn general(cluster: Cluster, sizes: Sizes) -> Self {
        let mut rig = Rig::with(cluster, sizes);
        rig.bench.as_mut().unwrap().worker.pipeline_mut().general_only = true;
        rig
    }

    /// Whether the port is there.
    pub(super) fn has(&self, port: PortIndex) -> bool {
        self.wires[port as usize].is_some()
    }

    pub(super) fn attach(&mut self, port: PortIndex) {
        let wire = self.bench.as_ref().unwrap().attach(port, self.sizes.ring);
        self.wires[port as usize] = Some(wire);
    }

    pub(super) fn detach(&mut self, port: PortIndex) {
        self.bench.as_ref().unwrap().commands.send(Command::Detach { port }).unwrap();
        self.wires[port as usize] = None;
    }

    /// Publishes the cluster as it is now.
    pub(super) fn publish(&mut self) -> u32 {
        self.publisher.publish(self.cluster.snapshot())
    }

    /// Publishes tables that say something else of what is touched.
    pub(super) fn publish_touching(&mut self, tables: Tables, touched: &Touched) {
        self.publisher.publish_touching(self.cluster.snapshot_by(tables), touched);
    }

    /// The number that the next publication gets.
    pub(super) fn next_epoch(&self) -> u32 {
        self.publisher.next_epoch()
    }

    /// Lets time pass.
    pub(super) fn wait(&mut self, seconds: u32) {
        self.now.seconds += seconds;
        self.now.nanos += u64::from(seconds) * 1_000_000_000;
    }

    /// Puts a packet where a port will receive it. False where there is no such port.
    pub(super) fn inject(&mut self, port: PortIndex, packet: &[u8]) -> bool {
        let wire = self.wires[port as usize].as_ref();
        wire.is_some_and(|wire| {
            wire.inject(packet);
            true
        })
    }

    /// One packet in, and all that comes of it.
    pub(super) fn send(&mut self, port: PortIndex, packet: impl AsRef<[u8]>) -> Outcome {
        assert!(self.inject(port, packet.as_ref()));
        self.run()
    }

    /// Turns until one takes nothing.
    pub(super) fn run(&mut self) -> Outcome {
        let mut all = Outcome::default();
        loop {
            let outcome = self.turn();
            let idle = outcome.taken == 0;
            all.add(outcome);
            if idle {
                return all;
            }
        }
    }

    /// One turn of the worker, held to its laws.
    pub(super) fn turn(&mut self) -> Outcome {
        let bench = self.bench.as_mut().unwrap();
        let before = Counts::of(&self.counters);
        let taken = bench.worker.turn(self.now);
        let after = Counts::of(&self.counters);
        self.told.extend(bench.events.try_iter());
        let mut out = Vec::new();
        for (port, wire) in self.wires.iter().enumerate() {
            let packets = wire.as_ref().map(MemoryWire::drain).unwrap_or_default();
            out.extend(packets.into_iter().map(|packet| (port as PortIndex, packet)));
        }
        // What the counters say happened, outside and inside.
        assert_conserved(&self.counters);
        assert_eq!(after.rx - before.rx, taken as u64, "received = counted");
        assert_eq!(after.tx - before.tx, out.len() as u64, "sent = counted");
        let chunks = ledger(&self.counters);
        assert_eq!(chunks.free + chunks.out + chunks.kernel, chunks.total);
        assert_eq!((chunks.total, chunks.kernel), (self.sizes.chunks, 0));
        // A memory port has nothing in flight after its flush.
        assert_eq!(chunks.out as u64, after.held, "frames out = packets held");
        let drops = DropReason::ALL.iter().zip(before.drops.iter().zip(&after.drops));
        let drops = drops.flat_map(|(reason, (was, is))| std::iter::repeat_n(*reason, (is - was) as usize));
        Outcome { taken, out, drops: drops.collect(), generated: after.generated - before.generated }
    }

    /// Packets held for want of a neighbour.
    pub(super) fn held(&self) -> u64 {
        self.counters.held.read()
    }

    /// Forgets every flow.
    pub(super) fn forget(&self) {
        (0..self.flows.v4.capacity() as u32).for_each(|slot| self.flows.v4.remove(slot));
        (0..self.flows.v6.capacity() as u32).for_each(|slot| self.flows.v6.remove(slot));
    }

    /// Closes the worker, which must leave nothing behind.
    fn close(&mut self) {
        let Some(bench) = self.bench.take() else { return };
        let pool = bench.worker.into_pool();
        let total = self.sizes.chunks;
        assert_eq!(
            pool.ledger(),
            PoolLedger { free: total, out: 0, kernel: 0, total },
            "all frames come home"
        );
        assert_conserved(&self.counters);
        assert_eq!(self.counters.held.read(), 0);
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.close();
        }
    }
}
