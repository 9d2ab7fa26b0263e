//! [`Handle`]: penstockd as a [`Dataplane`]. Changes go to the control thread; what can be read is read from where the
//! workers write it.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};
use std::time::Instant;

use agent_api::contract::{
    AddPort, Applied, Dataplane, DecidedBy, DropEvent, ExplainQuery, Explanation, FlowInfo, FlowTableStats,
    PolicyHits, PortInfo, PortRole, Refusal, RefusalKind, ShadowDifference, ShadowStatus, State, Stats,
    WorkerStats,
};
use crossbeam::channel::Sender;
use futures::stream::{self, BoxStream, StreamExt};
use policy_compiler::compiler::{Compiler, Touched};
use policy_compiler::intent::Intent;
use policy_compiler::intent::update::Update;
use policy_compiler::policy::RuleId;
use policy_compiler::tables::Tables;
use tokio::sync::{Mutex, oneshot};
use tokio::task::spawn_blocking;

use super::checks::Checks;
use super::explain;
use super::history::{History, decided_by};
use super::hits::{self, Hits};
use super::ports::{self, Attached, PortKind, Reservation};
use super::refusal::{conflict, not_compiled, refuse, stopped};
use super::request::{Answer, Request};
use super::shadow::Kept;
use super::watch;
use crate::counters::WorkerCounters;
use crate::drops::DropReason;
use crate::flow::state::Standing;
use crate::flow::{Flags, FlowTables, FlowView, Usage};
use crate::publish::Publication;

/// Longest list of flows that is answered.
const MAX_FLOWS: usize = 1 << 20;

/// penstockd, seen by gRPC. Cheap to clone.
#[derive(Clone)]
pub struct Handle {
    shared: Arc<Shared>,
}

pub(super) struct Shared {
    pub(super) requests: Sender<Request>,
    pub(super) publication: Arc<Publication>,
    pub(super) flows: Arc<FlowTables>,
    pub(super) history: Arc<History>,
    pub(super) hits: Arc<Hits>,
    /// CPU and counters, by worker.
    pub(super) workers: Vec<(u32, Arc<WorkerCounters>)>,
    pub(super) start: Instant,
    /// One `Apply` or `Update` at a time: each compiles against the generation before.
    pub(super) applying: Mutex<()>,
    /// The state in force, once there is one. Locked for as long as something is compiled or copied, never across an `await`.
    pub(super) compiler: std::sync::Mutex<Option<Compiler>>,
    pub(super) checks: Arc<Checks>,
    /// The candidate beside it, where one is set. Changed under `applying` alone.
    pub(super) candidate: std::sync::Mutex<Kept>,
}

impl Handle {
    pub(super) fn new(shared: Shared) -> Self {
        Handle { shared: Arc::new(shared) }
    }

    pub(super) fn shared(&self) -> &Shared {
        &self.shared
    }

    /// Tells the control thread to end everything.
    pub fn stop(&self) {
        // It may have ended already.
        let _ = self.shared.requests.send(Request::Stop);
    }

    pub(super) async fn ask<T>(&self, request: impl FnOnce(Answer<T>) -> Request) -> Result<T, Refusal> {
        let (sender, receiver) = oneshot::channel();
        self.shared.requests.send(request(sender)).map_err(|_| stopped())?;
        receiver.await.map_err(|_| stopped())
    }

    /// The generation in force.
    pub(super) fn running_generation(&self) -> u64 {
        self.shared.publication.load().tables.generation
    }

    /// Runs `work` with the state in force off the runtime's threads: a large cluster takes a while.
    pub(super) async fn compiling<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Option<Compiler>) -> T + Send + 'static,
    ) -> Result<T, Refusal> {
        let shared = Arc::clone(&self.shared);
        let work = move || work(&mut shared.compiler.lock().unwrap_or_else(PoisonError::into_inner));
        spawn_blocking(work).await.map_err(|_| stopped())
    }

    /// Has `tables` put in force. True beside the answer where they are, also where a worker has not come by.
    pub(super) async fn put_in_force(
        &self,
        tables: Tables,
        touched: Touched,
        began: Instant,
    ) -> (bool, Result<Applied, Refusal>) {
        let generation = tables.generation;
        let answer = self.ask(|answer| Request::Apply { tables, touched, began, answer }).await.flatten();
        let hits = Arc::clone(&self.shared.hits);
        drop(spawn_blocking(move || hits.fold()));
        (self.running_generation() == generation, answer)
    }

    /// Adds a port of whatever kind.
    pub(super) async fn add(&self, request: AddPort, kind: PortKind) -> Result<PortInfo, Refusal> {
        check_request(&request)?;
        let reservation = self.ask(|answer| Request::Reserve { request, kind, answer }).await??;
        let port = reservation.port;
        match self.attach(reservation).await {
            Ok(attached) => {
                self.ask(|answer| Request::Serve { port, attached: Box::new(attached), answer }).await?
            }
            Err(refusal) => {
                // Where the control thread has ended there is no number to give back.
                let _ = self.shared.requests.send(Request::Release(port));
                Err(refusal)
            }
        }
    }

    async fn attach(&self, reservation: Reservation) -> Result<Attached, Refusal> {
        spawn_blocking(move || ports::attach(&reservation)).await.map_err(|_| stopped())?
    }
}

impl Dataplane for Handle {
    async fn apply(&self, intent: Intent, expected: Option<u64>) -> Result<Applied, Refusal> {
        let began = Instant::now();
        let _applying = self.shared.applying.lock().await;
        let running = self.running_generation();
        if let Some(expected) = expected.filter(|expected| *expected != running) {
            return Err(conflict("Apply", "expected_generation", expected, running));
        }
        let checks = Arc::clone(&self.shared.checks);
        let compile =
            move |before: &mut Option<Compiler>| checks.compiled(intent, running + 1, before.as_ref());
        let compiled = self.compiling(compile).await??;
        let (in_force, answer) =
            self.put_in_force(compiled.tables().clone(), Touched::Everything, began).await;
        if in_force {
            self.compiling(move |compiler| drop(compiler.replace(compiled))).await?;
        }
        answer
    }

    async fn update(&self, update: Update, base: u64) -> Result<Applied, Refusal> {
        let began = Instant::now();
        let _applying = self.shared.applying.lock().await;
        let running = self.running_generation();
        let conflict = move || conflict("Update", "base_generation", base, running);
        if base != running {
            return Err(conflict());
        }
        let checks = Arc::clone(&self.shared.checks);
        let prepare = move |compiler: &mut Option<Compiler>| {
            let compiler = compiler.as_mut().ok_or_else(conflict)?;
            let prepared = compiler.prepare(update, running + 1).map_err(not_compiled)?;
            checks.prepared(compiler, &prepared).map(|()| prepared)
        };
        let prepared = self.compiling(prepare).await??;
        let (tables, touched) = (prepared.tables().clone(), prepared.touched().clone());
        let (in_force, answer) = self.put_in_force(tables, touched, began).await;
        if in_force {
            self.compiling(|compiler| {
                if let Some(compiler) = compiler {
                    compiler.commit(prepared);
                }
            })
            .await?;
        }
        answer
    }

    async fn state(&self) -> State {
        let copied = self.compiling(|compiler| {
            compiler.as_ref().map(|compiler| (compiler.tables().generation, compiler.intent()))
        });
        let (generation, intent) = copied.await.ok().flatten().unwrap_or_default();
        let workers = self.ask(Request::Running).await.map(|running| running.workers).unwrap_or_default();
        State { generation, workers, intent }
    }

    async fn stats(&self) -> Stats {
        let shared = &self.shared;
        let numbered = (0..).zip(&shared.workers);
        let [v4, v6] = shared.flows.usage();
        Stats {
            uptime_seconds: shared.start.elapsed().as_secs_f64(),
            generation: self.running_generation(),
            workers: numbered
                .map(|(worker, (core, counters))| worker_stats(worker, *core, counters))
                .collect(),
            ports: self.ask(Request::PortStats).await.unwrap_or_default(),
            flows: BTreeMap::from([("ipv4".into(), table_stats(&v4)), ("ipv6".into(), table_stats(&v6))]),
            checks: shared.checks.stats(),
        }
    }

    async fn watch_drops(&self) -> BoxStream<'static, DropEvent> {
        match self.ask(Request::WatchDrops).await {
            Ok(receiver) => watch::stream(receiver),
            Err(_) => stream::empty().boxed(),
        }
    }

    async fn explain(&self, query: ExplainQuery) -> Result<Explanation, Refusal> {
        if query.src.is_ipv4() != query.dst.is_ipv4() {
            let problem = format!("{} is not of the family of {}", query.dst, query.src);
            return Err(refuse(RefusalKind::Invalid, "Explain", "dst", problem));
        }
        let devices = self.ask(Request::Devices).await?;
        Ok(explain::explain(&self.shared.publication.load(), &devices, &query))
    }

    async fn add_port(&self, request: AddPort) -> Result<PortInfo, Refusal> {
        self.add(request, PortKind::Device).await
    }

    async fn remove_port(&self, device: String) -> Result<(), Refusal> {
        self.ask(|answer| Request::Remove { device, answer }).await?
    }

    async fn ports(&self) -> Vec<PortInfo> {
        self.ask(Request::Ports).await.unwrap_or_default()
    }

    async fn flows(&self, limit: usize) -> Vec<FlowInfo> {
        let shared = Arc::clone(&self.shared);
        let listed = spawn_blocking(move || {
            let now = shared.start.elapsed().as_secs() as u32;
            let views = shared.flows.list(limit.min(MAX_FLOWS));
            views.iter().map(|view| flow_info(view, &shared.history, now)).collect()
        });
        listed.await.unwrap_or_default()
    }

    async fn rule_hits(&self) -> PolicyHits {
        let rules = self.compiling(|compiler| compiler.as_ref().map(hits::running)).await;
        let (generation, rules) = rules.ok().flatten().unwrap_or_default();
        let shared = Arc::clone(&self.shared);
        let counted = spawn_blocking(move || hits::listed(rules, &shared.hits.totals()));
        PolicyHits { generation, hits: counted.await.unwrap_or_default() }
    }

    async fn set_shadow(&self, intent: Intent, sample: u32) -> Result<ShadowStatus, Refusal> {
        self.set_candidate(intent, sample).await
    }

    async fn shadow(&self) -> Option<ShadowStatus> {
        self.candidate().await
    }

    async fn watch_shadow(&self) -> BoxStream<'static, ShadowDifference> {
        self.watch_candidate().await
    }

    async fn promote_shadow(&self, force: bool) -> Result<Applied, Refusal> {
        self.promote_candidate(force).await
    }

    async fn discard_shadow(&self) -> Result<(), Refusal> {
        self.discard_candidate().await
    }
}

fn check_request(request: &AddPort) -> Result<(), Refusal> {
    let invalid = |field, problem: &str| {
        Err(refuse(RefusalKind::Invalid, format!("port {}", request.device), field, problem))
    };
    if request.device.is_empty() || request.device.len() > 15 || request.device.contains(['/', ' ']) {
        return invalid("device", "is no device's name");
    }
    if let PortRole::Pod(pod) = &request.role
        && !pod.split_once('/').is_some_and(|(namespace, name)| !namespace.is_empty() && !name.is_empty())
    {
        return invalid("role", "the pod is not NAMESPACE/NAME");
    }
    if request.peer_mac.is_some_and(|mac| mac[0] & 1 != 0 || mac == [0; 6]) {
        return invalid("peer_mac", "is no single device's address");
    }
    Ok(())
}

fn worker_stats(worker: u32, core: u32, counters: &WorkerCounters) -> WorkerStats {
    let drops = DropReason::ALL
        .iter()
        .zip(&counters.drops)
        .map(|(reason, count)| (reason.name().to_owned(), count.read()));
    WorkerStats {
        worker,
        core: Some(core),
        rx: counters.rx.read(),
        generated: counters.generated.read(),
        tx: counters.tx.read(),
        drops: drops.filter(|(_, count)| *count > 0).collect(),
        held: counters.held.read(),
        flow_hits: counters.flow_hits.read(),
        flow_misses: counters.flow_misses.read(),
        busy_turns: counters.busy_turns.read(),
        busy_cycles: counters.busy_cycles.read(),
        kernel_cycles: counters.kernel_cycles.read(),
        sleeps: counters.sleeps.read(),
        chunks: std::array::from_fn(|index| counters.chunks[index].read()),
    }
}

fn table_stats(usage: &Usage) -> FlowTableStats {
    let standings = [Standing::Closed, Standing::Unreplied, Standing::Established];
    let evicted =
        standings.iter().zip(usage.evicted).map(|(standing, count)| (standing.name().to_owned(), count));
    FlowTableStats {
        entries: usage.entries,
        capacity: usage.capacity,
        evicted: evicted.collect(),
        backing: usage.backing.to_owned(),
    }
}

fn flow_info(view: &FlowView, history: &History, now: u32) -> FlowInfo {
    let FlowView { entry, activity, v6, state } = view;
    let (key, new, v6) = (&entry.key, &entry.rewritten, *v6);
    let socket = |address, port| std::net::SocketAddr::new(address, port);
    let (src, dst) = (socket(key.src(v6), key.src_port()), socket(key.dst(v6), key.dst_port()));
    let (new_src, new_dst) = (socket(new.src(v6), new.src_port()), socket(new.dst(v6), new.dst_port()));
    let dropped = entry.flags.drop_reason();
    let changed = |old, new: std::net::SocketAddr| (dropped.is_none() && old != new).then(|| new.to_string());
    let judged_by = history.judges(entry.epoch);
    let for_ingress = dropped != Some(DropReason::PolicyEgress);
    let decided_by = judged_by.and_then(|by| decided_by(&by.rules, RuleId(entry.rule), for_ingress));
    FlowInfo {
        src: src.ip(),
        src_port: src.port(),
        dst: dst.ip(),
        dst_port: dst.port(),
        protocol: key.protocol(),
        verdict: dropped.map_or("forward", DropReason::name).to_owned(),
        reply: entry.flags.has(Flags::REPLY),
        state: (*state).to_owned(),
        translated_src: changed(src, new_src),
        translated_dst: changed(dst, new_dst),
        rule: decided_by.as_ref().map_or_else(String::new, DecidedBy::to_string),
        decided_by,
        idle_seconds: activity.idle(now),
        packets: u64::from(activity.packets),
    }
}

#[cfg(test)]
pub(super) mod tests;
