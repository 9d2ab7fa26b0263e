//! [`Control`]: the thread that owns the state. The only one that publishes; it waits for nobody.
//!
//! ```text
//!   requests ──┐                     ┌──► publish (at most once a millisecond) ──► workers
//!   events  ───┼──► change the state ┤
//!   time    ───┘                     └──► commands to workers, asks to the kernel
//!   what must be seen by all workers first stands in `waiting` until their last has passed the epoch
//! ```

use std::sync::Arc;
use std::time::{Duration, Instant};

use afxdp_driver::{AnyPort, UmemHandle};
use agent_api::contract::{Applied, PortRole, Refusal, RefusalKind};
use crossbeam::channel::{Receiver, Sender, select};
use policy_compiler::compiler::Touched;
use policy_compiler::tables::Tables;
use tokio::sync::mpsc::UnboundedSender;

use super::build::{self, PortFacts, Settings, Surroundings, World};
use super::history::History;
use super::hits::Hits;
use super::neighbours::{Ask, News};
use super::ports::{Phase, Port, PortSettings};
use super::refusal::refuse;
use super::request::{Answer, Request, Running};
use super::shadow::Shadows;
use super::steer::Wanted;
use super::watch::DropFeed;
use crate::counters::WorkerCounters;
use crate::crossing::Doorbell;
use crate::flow::FlowTables;
use crate::messages::{Command, DropRecord, Event};
use crate::publish::Publisher;
use crate::rule_hits::HitTable;
use crate::snapshot::{Mac, PortIndex, Snapshot};

/// Shortest time between two publications that nobody waits for: each re-judges every flow once.
const PAUSE: Duration = Duration::from_millis(1);
/// How often a wait for workers is looked at.
const LOOK: Duration = Duration::from_micros(50);
/// How long a worker may take to pass an epoch.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often a part of the flow tables is swept; all of it in 64 times as long.
const SWEEP: Duration = Duration::from_millis(125);
/// How often the MAC address behind a port may change.
const LEARN_PAUSE: Duration = Duration::from_secs(1);

/// A worker, seen from here.
#[derive(Debug)]
pub(super) struct WorkerEnd {
    pub(super) commands: Sender<Command<AnyPort>>,
    pub(super) doorbell: Arc<Doorbell>,
    pub(super) counters: Arc<WorkerCounters>,
    /// What ports are attached to.
    pub(super) umem: UmemHandle,
    /// Serves the uplink alone.
    pub(super) uplink_only: bool,
    pub(super) thread: std::thread::JoinHandle<()>,
}

/// What the thread is made of.
pub(super) struct ControlParts {
    pub(super) settings: Settings,
    pub(super) port_settings: PortSettings,
    pub(super) publisher: Publisher,
    pub(super) flows: Arc<FlowTables>,
    pub(super) history: Arc<History>,
    pub(super) hits: Arc<Hits>,
    pub(super) workers: Vec<WorkerEnd>,
    pub(super) requests: Receiver<Request>,
    /// For its own helpers' answers.
    pub(super) own_requests: Sender<Request>,
    pub(super) events: Receiver<Event<AnyPort>>,
    pub(super) asks: UnboundedSender<Ask>,
    pub(super) start: Instant,
}

/// The state and its thread.
pub(super) struct Control {
    pub(super) parts: ControlParts,
    pub(super) tables: Tables,
    /// Where workers count the hits of their rules.
    rule_hits: Arc<HitTable>,
    /// By port number.
    pub(super) ports: Vec<Option<Port>>,
    surroundings: Surroundings,
    /// What the uplink's program was told last.
    pub(super) steered: Option<Wanted>,
    drops: DropFeed,
    pub(super) shadows: Shadows,
    watched: bool,
    /// Events that workers lost, as far as they are accounted for.
    lost: u64,
    /// Something has changed since the last publication.
    changed: bool,
    published: Instant,
    waiting: Vec<Waiting>,
    stopping: bool,
}

/// What happens when every worker has passed an epoch.
struct Waiting {
    epoch: u32,
    since: Instant,
    then: Then,
}

pub(super) enum Then {
    /// Answer an `Apply`.
    Applied { generation: u64, began: Instant, answer: Answer<Result<Applied, Refusal>> },
    /// Answer an `AddPort`.
    Added { port: PortIndex, answer: Answer<Result<agent_api::contract::PortInfo, Refusal>> },
    /// Answer that every worker compares with the shadow that there is, or with none.
    Shadowed(Answer<Result<(), Refusal>>),
    /// No worker sends to the port any more: take it from its own.
    Detach(PortIndex),
}

impl Control {
    pub(super) fn new(parts: ControlParts) -> Self {
        let snapshot = parts.publisher.publication().load();
        parts.history.record(snapshot.epoch(), &snapshot.tables);
        let rule_hits = parts.hits.table_for(&snapshot.tables.policy.origins(), parts.publisher.next_epoch());
        Control {
            tables: snapshot.tables.clone(),
            rule_hits,
            steered: None,
            ports: Vec::new(),
            surroundings: Surroundings::default(),
            drops: DropFeed::new(parts.start),
            shadows: Shadows::new(parts.start),
            watched: false,
            lost: 0,
            changed: false,
            published: Instant::now(),
            waiting: Vec::new(),
            stopping: false,
            parts,
        }
    }

    /// Runs until it is told to stop; then ends the workers and leaves the devices as they were found.
    pub(super) fn run(mut self) {
        let mut swept = Instant::now();
        while !self.stopping {
            let timeout = self.timeout(swept);
            select! {
                recv(self.parts.requests) -> request => match request {
                    Ok(request) => self.answer(request),
                    Err(_) => self.stopping = true,
                },
                recv(self.parts.events) -> event => {
                    if let Ok(event) = event {
                        self.hear(event);
                    }
                },
                default(timeout) => {}
            }
            while let Ok(event) = self.parts.events.try_recv() {
                self.hear(event);
            }
            if self.changed && self.published.elapsed() >= PAUSE {
                self.publish();
            }
            self.look_at_waiting();
            if swept.elapsed() >= SWEEP {
                swept = Instant::now();
                self.sweep();
            }
        }
        self.stop();
    }

    fn timeout(&self, swept: Instant) -> Duration {
        let mut timeout = SWEEP.saturating_sub(swept.elapsed());
        if self.changed {
            timeout = timeout.min(PAUSE.saturating_sub(self.published.elapsed()));
        }
        if self.waiting.is_empty() { timeout } else { timeout.min(LOOK) }
    }

    fn answer(&mut self, request: Request) {
        // Whoever has stopped waiting for an answer does not need it.
        match request {
            Request::Apply { tables, touched, began, answer } => self.apply(tables, &touched, began, answer),
            Request::Running(answer) => drop(answer.send(self.running())),
            Request::Reserve { request, kind, answer } => drop(answer.send(self.reserve(request, kind))),
            Request::Release(port) => self.free(port),
            Request::Serve { port, attached, answer } => self.serve(port, *attached, answer),
            Request::Remove { device, answer } => self.remove(&device, answer),
            Request::Closed { port, ended } => self.closed(port, ended),
            Request::Devices(answer) => drop(answer.send(self.devices())),
            Request::Ports(answer) => drop(answer.send(self.port_infos())),
            Request::PortStats(answer) => {
                let served =
                    self.ports.iter().flatten().filter(|port| !matches!(port.phase, Phase::Reserved));
                drop(answer.send(served.map(Port::stats).collect()));
            }
            Request::News(News::Surroundings(surroundings)) => {
                self.surroundings = surroundings;
                self.changed = true;
            }
            Request::News(News::Removed(ifindex)) => self.removed(ifindex),
            Request::WatchDrops(answer) => {
                drop(answer.send(self.drops.watch()));
                if !self.watched {
                    self.watched = true;
                    self.lost = self.events_lost();
                    self.publish();
                }
            }
            Request::Shadow(ask) => self.shadow(ask),
            Request::Stop => self.stopping = true,
        }
    }

    fn hear(&mut self, event: Event<AnyPort>) {
        match event {
            Event::Detached { port, io } => self.close(port, io),
            Event::PeerMac { port, mac } => self.learn(port, mac),
            Event::Unresolved { address } => self.ask(Ask::Resolve(address)),
            // The worker has asked on the port itself; the answer is a packet.
            Event::UnresolvedPort { port } => {
                tracing::trace!(port, "a packet waits for the MAC address behind a port")
            }
            Event::PortGone { port, error } => {
                tracing::warn!(error, "a port is gone: detaching it");
                self.leave(port, None);
            }
            Event::Drop(record) => self.report(&record),
            Event::Difference(record) => self.shadows.hear(&record, &self.tables, &self.parts.history),
        }
    }

    fn apply(
        &mut self,
        tables: Tables,
        touched: &Touched,
        began: Instant,
        answer: Answer<Result<Applied, Refusal>>,
    ) {
        let generation = tables.generation;
        if let Err(refusal) = self.steer(&tables) {
            drop(answer.send(Err(refusal)));
            return;
        }
        let before = std::mem::replace(&mut self.tables, tables);
        let next_epoch = self.parts.publisher.next_epoch();
        self.rule_hits = self.parts.hits.table_for(&self.tables.policy.origins(), next_epoch);
        let epoch = self.publish_touching(touched);
        self.parts.history.record(epoch, &self.tables);
        if !self.tables.routes.has_nodes_of(&before.routes) {
            self.ask(Ask::Peers(build::tunnel_addresses(&self.tables)));
        }
        self.wait(epoch, Then::Applied { generation, began, answer });
    }

    /// Tells the uplink's program what `tables` make ours. Where it is refused, what was in force is so again.
    pub(super) fn steer(&mut self, tables: &Tables) -> Result<(), Refusal> {
        let Some(table) = self.ports.iter().flatten().find_map(|port| port.steering.as_ref()) else {
            self.steered = None;
            return Ok(());
        };
        let wanted = Wanted::of(tables, self.parts.settings.snat_ports);
        if self.steered.as_ref() == Some(&wanted) {
            return Ok(());
        }
        if let Err(error) = wanted.set(table) {
            if let Err(error) = Wanted::of(&self.tables, self.parts.settings.snat_ports).set(table) {
                tracing::error!(%error, "the uplink's steering is between two states");
            }
            self.steered = None;
            return Err(refuse(RefusalKind::Capacity, "uplink", "steering", error.to_string()));
        }
        self.steered = Some(wanted);
        Ok(())
    }

    /// Publishes what is known, and wakes everyone. Every flow is judged again.
    pub(super) fn publish(&mut self) -> u32 {
        self.publish_touching(&Touched::Everything)
    }

    /// The same where all that has changed is what the tables say of what is `touched`, and perhaps the ways out.
    pub(super) fn publish_touching(&mut self, touched: &Touched) -> u32 {
        let facts: Vec<Option<PortFacts>> =
            self.ports.iter().map(|port| port.as_ref().and_then(Port::view)).collect();
        let world = World {
            tables: &self.tables,
            ports: &facts,
            surroundings: &self.surroundings,
            settings: &self.parts.settings,
            watch_drops: self.watched,
        };
        let rule_hits = Arc::clone(&self.rule_hits);
        let shadow = self.shadows.beside(&self.tables);
        let snapshot = Snapshot { rule_hits, shadow, ..build::snapshot(&world) };
        let epoch = self.parts.publisher.publish_touching(snapshot, touched);
        self.shadows.published(epoch);
        self.parts.workers.iter().for_each(|worker| worker.doorbell.ring());
        (self.changed, self.published) = (false, Instant::now());
        epoch
    }

    pub(super) fn wait(&mut self, epoch: u32, then: Then) {
        self.waiting.push(Waiting { epoch, since: Instant::now(), then });
    }

    fn look_at_waiting(&mut self) {
        let mut index = 0;
        while let Some(waiting) = self.waiting.get(index) {
            let passed = self.parts.publisher.passed(waiting.epoch);
            if passed.is_err() && waiting.since.elapsed() < PATIENCE {
                index += 1;
                continue;
            }
            let waiting = self.waiting.remove(index);
            self.proceed(waiting.then, passed);
        }
    }

    fn proceed(&mut self, then: Then, passed: Result<(), usize>) {
        let stuck = passed.map_err(|worker| {
            let problem = format!("is in force, but worker {worker} has not come by within {PATIENCE:?}");
            tracing::error!(worker, "a worker does not come by");
            move |object: &str| refuse(RefusalKind::System, object, "workers", problem)
        });
        match then {
            Then::Applied { generation, began, answer } => {
                let microseconds = began.elapsed().as_micros() as u64;
                let applied =
                    stuck.map(|()| Applied { generation, microseconds }).map_err(|stuck| stuck("Apply"));
                tracing::debug!(generation, microseconds, "applied");
                drop(answer.send(applied));
            }
            Then::Added { port, answer } => {
                let info = stuck.map_err(|stuck| stuck("AddPort")).and_then(|()| self.info(port));
                drop(answer.send(info));
            }
            Then::Shadowed(answer) => drop(answer.send(stuck.map_err(|stuck| stuck("shadow")))),
            // A worker that is stuck sends nothing either.
            Then::Detach(port) => self.command_of(port, Command::Detach { port }),
        }
    }

    fn running(&self) -> Running {
        let generation = self.tables.generation;
        let current = self.parts.publisher.publication().load().epoch();
        let all = self.parts.publisher.passed(current).is_ok();
        let passed = |epoch: u32| self.parts.history.judges(epoch).map_or(0, |judges| judges.generation);
        let seen = self.parts.publisher.publication().seen();
        let workers = seen.into_iter().map(|epoch| if all { generation } else { passed(epoch) }).collect();
        Running { workers }
    }

    /// Learns the MAC address behind a port. One that was given is not changed; another is, but not all the time.
    fn learn(&mut self, port: PortIndex, mac: Mac) {
        let Some(port) = self.port_mut(port) else { return };
        let fixed = port.request.peer_mac.is_some() || port.request.role == PortRole::Uplink;
        let soon = port.learned.is_some_and(|learned| learned.elapsed() < LEARN_PAUSE);
        if fixed || soon || port.peer_mac == Some(mac) || mac[0] & 1 != 0 || mac == [0; 6] {
            return;
        }
        (port.peer_mac, port.learned) = (Some(mac), Some(Instant::now()));
        self.changed = true;
    }

    fn report(&mut self, record: &DropRecord) {
        let lost = self.events_lost();
        self.drops.lose(lost.wrapping_sub(self.lost));
        self.lost = lost;
        let port = self.ports.get(record.port as usize).and_then(Option::as_ref);
        let device = port.map_or("", |port| port.request.device.as_str());
        self.drops.send(record, device, self.parts.history.judges(record.epoch).as_ref());
    }

    fn events_lost(&self) -> u64 {
        self.parts.workers.iter().map(|worker| worker.counters.events_lost.read()).sum()
    }

    fn sweep(&mut self) {
        self.parts.flows.sweep(self.parts.start.elapsed().as_secs() as u32);
        self.parts.publisher.release();
        let publisher = &self.parts.publisher;
        self.shadows.sweep(&self.tables, |epoch| publisher.passed(epoch).is_ok());
        if self.watched && !self.drops.is_watched() {
            self.watched = false;
            self.changed = true;
        }
    }

    pub(super) fn ask(&self, ask: Ask) {
        // The task that follows the kernel ends with penstockd; then nobody needs an answer.
        let _ = self.parts.asks.send(ask);
    }

    /// Sends a command to the worker that serves a port.
    pub(super) fn command_of(&self, port: PortIndex, command: Command<AnyPort>) {
        let worker = self.ports.get(port as usize).and_then(Option::as_ref).map(|port| port.worker);
        if let Some(worker) = worker.and_then(|worker| self.parts.workers.get(worker)) {
            // A worker that has ended serves no port.
            let _ = worker.commands.send(command);
            worker.doorbell.ring();
        }
    }

    pub(super) fn port_mut(&mut self, port: PortIndex) -> Option<&mut Port> {
        self.ports.get_mut(port as usize)?.as_mut()
    }

    /// Ends the workers, which close their ports; then everything switched off on devices is switched on again.
    fn stop(mut self) {
        for port in self.ports.iter_mut().flatten() {
            // They would keep program and queue.
            port.gauges = None;
        }
        for worker in &self.parts.workers {
            let _ = worker.commands.send(Command::Stop);
            worker.doorbell.ring();
        }
        for (number, worker) in self.parts.workers.drain(..).enumerate() {
            if worker.thread.join().is_err() {
                tracing::error!(number, "a worker has panicked");
            }
        }
        for port in self.ports.drain(..).flatten() {
            let device = port.request.device;
            if let Some(Err(error)) = port.setup.map(afxdp_driver::device::DeviceSetup::restore) {
                tracing::warn!(device, %error, "the device is not what it was");
            }
        }
    }
}
