//! A worker between ports in memory, and what it judges by: the benches' cluster.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Instant;

use afxdp_driver::{Batch, Frame, FramePool, HugePages, PacketIo, PortCounters, PortError};
use agent_api::contract::PortRole;
use allocation_counter::AllocationInfo;
use benches::cluster::{self, PORTS};
use benches::replay::swallow;
use crossbeam::channel::{Receiver, Sender};
use dataplane::control::build::{self, PortFacts, Settings, Surroundings, World};
use dataplane::counters::WorkerCounters;
use dataplane::crossing;
use dataplane::flow::FlowTables;
use dataplane::messages::{Command, Event, PortCells};
use dataplane::publish::{Publication, Publisher};
use dataplane::rule_hits::HitTable;
use dataplane::snapshot::{Mac, Snapshot};
use dataplane::validity::Validity;
use dataplane::worker::{IdlePolicy, Now, Parts, Worker, WorkerConfig};
use policy_compiler::intent::{Frontend, Intent, ObjectName, Service};
use policy_compiler::tables::{Capacity, Tables};

use crate::kinds::Kind;

pub(crate) const PORT_MAC: Mac = [2, 0, 0, 0, 0, 1];
pub(crate) const PEER_MAC: Mac = [2, 0, 0, 0, 0, 2];
pub(crate) const INNER_MAC: Mac = [2, 0, 0, 0, 0, 9];
pub(crate) const VNI: u32 = 7;
/// This node and another on the underlay, and one there who never answers.
pub(crate) const NODE: Ipv4Addr = Ipv4Addr::new(172, 30, 0, 1);
pub(crate) const OTHER_NODE: Ipv4Addr = Ipv4Addr::new(172, 30, 0, 2);
pub(crate) const SILENT: Ipv4Addr = Ipv4Addr::new(172, 30, 0, 77);
pub(crate) const GATEWAY: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);
pub(crate) const GATEWAY_V6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
/// A Service without a backend, and an address of this node's pods that no pod has.
pub(crate) const EMPTY: Ipv4Addr = Ipv4Addr::new(10, 96, 9, 9);
pub(crate) const NOBODY: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 99);

/// Lines of each flow table.
pub(crate) const ENTRIES: usize = 2048;
const CHUNKS: usize = 1024;
const BATCH: usize = 64;
const SEED: u64 = 0x5eed;

/// The worker and its surroundings.
pub(crate) struct Lab {
    worker: Worker<Feed>,
    counters: Arc<WorkerCounters>,
    flows: Arc<FlowTables>,
    publisher: Publisher,
    tables: Tables,
    second: u32,
    events: Receiver<Event<Feed>>,
    _commands: Sender<Command<Feed>>,
}

impl Lab {
    pub(crate) fn new() -> Self {
        let tables = Tables::compile(&intent(), 1, &Capacity::default()).unwrap();
        let publication = Publication::new(Snapshot { validity: Validity::only(1), ..snapshot(&tables) }, 1);
        let flows = Arc::new(FlowTables::new(ENTRIES, ENTRIES, HugePages::Never, SEED).unwrap());
        let counters = Arc::<WorkerCounters>::default();
        let (commands, obeyed) = crossbeam::channel::bounded(PORTS);
        let (told, events) = crossbeam::channel::bounded(1024);
        for port in 0..PORTS as u16 {
            let cells = Arc::<PortCells>::default();
            commands.send(Command::Attach { port, io: Box::default(), cells }).unwrap();
        }
        let idle = IdlePolicy::default();
        let worker = Worker::new(Parts {
            config: WorkerConfig { number: 0, batch: BATCH, idle, seed: SEED, start: Instant::now() },
            pool: FramePool::anonymous(CHUNKS, HugePages::Never).unwrap(),
            flows: Arc::clone(&flows),
            counters: Arc::clone(&counters),
            reader: publication.reader(0),
            commands: obeyed,
            events: told,
            links: crossing::links(1, 1).unwrap().remove(0),
        });
        let publisher = Publisher::new(publication);
        let mut lab =
            Lab { worker, counters, flows, publisher, tables, second: 1, events, _commands: commands };
        // The ports are attached in a turn.
        lab.worker.turn(lab.now());
        lab
    }

    /// Sends the packets of a kind through the worker. Answers with what its turns have allocated and freed.
    pub(crate) fn send(&mut self, kind: &Kind) -> AllocationInfo {
        if kind.strangers {
            self.forget();
        }
        // Whoever may send so many answers a second may do it again; who is waited for has not answered.
        self.second += 2;
        let now = self.now();
        self.worker.port_mut(kind.port).unwrap().feed(&kind.frames);
        let (worker, mut taken) = (&mut self.worker, 0);
        let allocated = allocation_counter::measure(|| {
            while taken < kind.frames.len() {
                taken += worker.turn(now);
            }
        });
        self.check();
        allocated
    }

    /// Publishes tables that say the same.
    pub(crate) fn publish(&mut self) {
        self.publisher.publish(snapshot(&self.tables));
    }

    pub(crate) fn counters(&self) -> &WorkerCounters {
        &self.counters
    }

    /// Flows pushed out before their time.
    pub(crate) fn evicted(&self) -> u64 {
        self.flows.usage().iter().flat_map(|usage| usage.evicted).sum()
    }

    fn forget(&mut self) {
        (0..self.flows.v4.capacity() as u32).for_each(|slot| self.flows.v4.remove(slot));
        (0..self.flows.v6.capacity() as u32).for_each(|slot| self.flows.v6.remove(slot));
    }

    /// The law of every worker; and the events are taken, or there would be room for no more.
    fn check(&self) {
        let counters = &self.counters;
        let entered = counters.rx.read() + counters.generated.read();
        assert_eq!(entered, counters.tx.read() + counters.dropped() + counters.held.read(), "{counters:?}");
        self.events.try_iter().for_each(drop);
    }

    fn now(&self) -> Now {
        Now { seconds: self.second, nanos: u64::from(self.second) * 1_000_000_000 }
    }
}

// --------------------------------------------------------------------------------------------------- tables

/// The benches' cluster, and a Service without a backend.
fn intent() -> Intent {
    let mut intent = cluster::intent(0);
    let model = intent.services[0].clone();
    let frontend = Frontend { address: Some(EMPTY.into()), ..model.frontends[0].clone() };
    let name = ObjectName::new("bench", "empty");
    intent.services.push(Service { name, frontends: vec![frontend], backends: vec![], ..model });
    intent
}

fn snapshot(tables: &Tables) -> Snapshot {
    let pod = |pod: &str| PortRole::Pod(format!("bench/{pod}"));
    let facts =
        |role| Some(PortFacts { role, mac: PORT_MAC, mtu: 1500, worker: 0, peer_mac: Some(PEER_MAC) });
    let ports = [pod("client"), pod("neighbour"), PortRole::Uplink].map(facts);
    let macs = (2..=5).map(|node| (IpAddr::from([172, 30, 0, node]), PEER_MAC)).collect();
    let surroundings =
        Surroundings { on_link: vec!["172.30.0.0/24".parse().unwrap()], macs, ..Surroundings::default() };
    let settings = Settings {
        gateway_v4: GATEWAY,
        gateway_v6: GATEWAY_V6,
        snat_ports: (61_000, 65_535),
        inner_mac: INNER_MAC,
    };
    let world =
        World { tables, ports: &ports, surroundings: &surroundings, settings: &settings, watch_drops: true };
    let rule_hits = Arc::new(HitTable::new(1, 1, &tables.policy.origins()));
    Snapshot { rule_hits, ..build::snapshot(&world) }
}

// ----------------------------------------------------------------------------------------------------- port

/// A port that receives what it is fed with, once, and sends into nothing.
#[derive(Debug, Default)]
pub(crate) struct Feed {
    frames: Option<Arc<[Vec<u8>]>>,
    next: usize,
    counters: PortCounters,
}

impl Feed {
    fn feed(&mut self, frames: &Arc<[Vec<u8>]>) {
        self.frames = Some(Arc::clone(frames));
        self.next = 0;
    }

    fn receive_one(&mut self, pool: &mut FramePool) -> Option<Frame> {
        let bytes = self.frames.as_ref()?.get(self.next)?;
        let mut frame = pool.alloc()?;
        assert!(frame.fill(bytes), "a packet fits into a chunk");
        self.next += 1;
        self.counters.rx_packets += 1;
        Some(frame)
    }
}

impl PacketIo for Feed {
    fn receive(&mut self, pool: &mut FramePool, batch: &mut Batch, most: usize) -> usize {
        let mut received = 0;
        while received < most && !batch.is_full() {
            let Some(frame) = self.receive_one(pool) else { break };
            batch.push(frame);
            received += 1;
        }
        received
    }

    fn send(&mut self, pool: &mut FramePool, batch: &mut Batch) -> usize {
        swallow(&mut self.counters, pool, batch)
    }

    fn flush(&mut self, _pool: &mut FramePool) -> Result<(), PortError> {
        Ok(())
    }

    fn in_flight(&self) -> usize {
        0
    }

    fn counters(&self) -> PortCounters {
        self.counters
    }

    fn close(self, _pool: &mut FramePool) {}
}
