//! [`Load`]: a worker thread under a paced load; the caller's thread replaces its tables, as penstockd's control thread does.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use afxdp_driver::{FramePool, HugePages};
use crossbeam::channel::{Receiver, Sender};
use dataplane::counters::WorkerCounters;
use dataplane::crossing;
use dataplane::flow::FlowTables;
use dataplane::messages::{Command, Event, PortCells};
use dataplane::publish::{Publication, Publisher};
use dataplane::worker::{IdlePolicy, Parts, Worker, WorkerConfig};
use policy_compiler::compiler::Compiler;
use policy_compiler::intent::Intent;
use policy_compiler::intent::update::Update;
use policy_compiler::tables::Capacity;

use crate::cluster::{self, CLIENT_PORT, PORTS};
use crate::paced::{PacedPort, Tally};
use crate::replay::Packet;

/// Chunks of packet memory: twice as many as the port's ring.
const CHUNKS: usize = 4096;
/// Secret of the hashes: any.
const SEED: u64 = 0x5eed_5eed_5eed_5eed;
/// How long a worker may take to pass an epoch.
const PATIENCE: Duration = Duration::from_secs(5);

/// A worker under load.
#[derive(Debug)]
pub struct Load {
    /// What became of its packets.
    pub tally: Arc<Tally>,
    /// The worker's own counters.
    pub counters: Arc<WorkerCounters>,
    compiler: Compiler,
    publisher: Publisher,
    commands: Sender<Command<PacedPort>>,
    worker: Option<JoinHandle<()>>,
    _told: Receiver<Event<PacedPort>>,
}

impl Load {
    /// A worker on `core` that judges by the tables of `intent`; no packets yet.
    pub fn new(intent: Intent, packets: &Arc<[Packet]>, core: Option<core_affinity::CoreId>) -> Self {
        let compiler = Compiler::new(intent, 1, &Capacity::default(), None).expect("the intent is right");
        let first = cluster::snapshot_by(compiler.tables());
        let publication = Publication::new(first, 1);
        let flows =
            FlowTables::new(packets.len() * 8, 16, HugePages::Prefer, SEED).expect("memory for flows");
        let (tally, counters) = (Arc::<Tally>::default(), Arc::<WorkerCounters>::default());
        let (commands, obeyed) = crossbeam::channel::bounded(PORTS + 1);
        let (events, told) = crossbeam::channel::bounded(1024);
        let mut links = crossing::links(1, 1).expect("an event descriptor");
        for port in 0..PORTS as u16 {
            let own = if port == CLIENT_PORT { Arc::clone(packets) } else { Arc::new([]) };
            let io = Box::new(PacedPort::new(own, Arc::clone(&tally)));
            let attach = Command::Attach { port, io, cells: Arc::<PortCells>::default() };
            commands.send(attach).expect("room for a command a port");
        }
        // It never sleeps: what a sleeping worker costs is another question.
        let idle = IdlePolicy { sleep: Duration::ZERO, yields: 0, ..IdlePolicy::default() };
        let worker = Worker::new(Parts {
            config: WorkerConfig { number: 0, batch: 64, idle, seed: SEED, start: Instant::now() },
            pool: FramePool::anonymous(CHUNKS, HugePages::Prefer).expect("packet memory"),
            flows: Arc::new(flows),
            counters: Arc::clone(&counters),
            reader: publication.reader(0),
            commands: obeyed,
            events,
            links: links.remove(0),
        });
        let run = move || {
            if let Some(core) = core {
                core_affinity::set_for_current(core);
            }
            worker.run();
        };
        Load {
            tally,
            counters,
            compiler,
            publisher: Publisher::new(publication),
            commands,
            worker: Some(std::thread::spawn(run)),
            _told: told,
        }
    }

    /// The state in force.
    pub fn compiler(&self) -> &Compiler {
        &self.compiler
    }

    /// Makes an update; answers with the time from the call until the worker has begun its first turn by the new tables: its last packet by the
    /// old ones has left before that.
    pub fn update(&mut self, update: Update) -> Duration {
        let began = Instant::now();
        let generation = self.compiler.tables().generation + 1;
        let prepared = self.compiler.prepare(update, generation).expect("the update is right");
        let epoch =
            self.publisher.publish_touching(cluster::snapshot_by(prepared.tables()), prepared.touched());
        self.wait(epoch);
        let took = began.elapsed();
        self.compiler.commit(prepared);
        self.publisher.release();
        took
    }

    /// Compiles an update as [`update`](Self::update) does, and publishes nothing: what sharing the machine with the compiler costs the packets.
    pub fn rehearse(&mut self, update: Update) {
        let generation = self.compiler.tables().generation + 1;
        let prepared = self.compiler.prepare(update, generation).expect("the update is right");
        drop(cluster::snapshot_by(prepared.tables()));
        self.compiler.commit(prepared);
    }

    /// Replaces the whole state; answers with the time until the worker has passed it.
    pub fn apply(&mut self, intent: Intent) -> Duration {
        let began = Instant::now();
        let generation = self.compiler.tables().generation + 1;
        let compiled = Compiler::new(intent, generation, &Capacity::default(), Some(&self.compiler));
        let compiled = compiled.expect("the intent is right");
        let epoch = self.publisher.publish(cluster::snapshot_by(compiled.tables()));
        self.wait(epoch);
        let took = began.elapsed();
        self.compiler = compiled;
        self.publisher.release();
        took
    }

    fn wait(&self, epoch: u32) {
        let began = Instant::now();
        while let Err(worker) = self.publisher.passed(epoch) {
            assert!(began.elapsed() < PATIENCE, "worker {worker} does not come by");
            std::hint::spin_loop();
        }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        // The worker may have ended by a panic, which is then said.
        let _ = self.commands.send(Command::Stop);
        if let Some(Err(_)) = self.worker.take().map(JoinHandle::join) {
            eprintln!("the worker has panicked");
        }
    }
}
