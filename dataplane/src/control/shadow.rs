//! The shadow: a candidate state evaluated beside the active one (see [`crate::shadow`]), from `SetShadow` to its promotion or end.
//!
//! ```text
//!   Handle   compiles the candidate, keeps it to be promoted          ──Ask──►  Shadows   on the control thread: what is published,
//!            (its state, and the generation that it was set beside)             what was counted (counts), who watches (feed)
//! ```
//!
//! Setting and discarding publish a snapshot that touches nothing: no flow is judged again for it.

mod counts;
mod feed;

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, PoisonError};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use agent_api::contract::{Applied, Refusal, RefusalKind, ShadowDifference, ShadowStatus};
use futures::stream::{self, BoxStream, StreamExt};
use policy_compiler::compiler::{Compiler, Touched};
use policy_compiler::intent::Intent;
use policy_compiler::policy::{PolicyTable, RuleId};
use policy_compiler::tables::Tables;

use self::counts::Counted;
use self::feed::Feed;
pub(super) use self::feed::Watcher;
use super::dataplane::Handle;
use super::history::History;
use super::refusal::{conflict, refuse};
use super::request::{Answer, Request};
use super::thread::{Control, Then};
use crate::messages::DifferenceRecord;
use crate::shadow::{MAX_SAMPLE, Shadow};

/// What is asked of the control thread about shadows.
pub(super) enum Ask {
    /// Compare with this one from now on; answered when every worker does.
    Set(Box<Candidate>, Answer<Result<(), Refusal>>),
    /// Compare no more; answered when no worker does.
    End(Answer<Result<(), Refusal>>),
    /// What has been counted.
    Status(Answer<Option<ShadowStatus>>),
    /// Tell one more watcher.
    Watch(Answer<Watcher>),
}

/// A candidate, as the control thread has it.
pub(super) struct Candidate {
    pub(super) number: u64,
    /// The generation that it was set beside.
    pub(super) base: u64,
    pub(super) since: SystemTime,
    pub(super) sample: u32,
    pub(super) policy: Arc<PolicyTable>,
    /// The pods and nodes that it knows.
    pub(super) names: HashMap<IpAddr, String>,
}

/// A candidate, as it is kept to be promoted.
#[derive(Default)]
pub(super) struct Kept {
    /// The number of the last that was set.
    last: u64,
    candidate: Option<(u64, Compiler)>,
}

// ----------------------------------------------------------------------------------------------------------- the handle

impl Handle {
    /// See [`Dataplane::set_shadow`](agent_api::contract::Dataplane::set_shadow).
    pub(super) async fn set_candidate(&self, intent: Intent, sample: u32) -> Result<ShadowStatus, Refusal> {
        if !sample.is_power_of_two() || sample > MAX_SAMPLE {
            let problem = format!("{sample} is no power of two from 1 to {MAX_SAMPLE}");
            return Err(refuse(RefusalKind::Invalid, "SetShadow", "sample", problem));
        }
        let _applying = self.shared().applying.lock().await;
        let base = self.running_generation();
        let checks = Arc::clone(&self.shared().checks);
        let compile = move |running: &mut Option<Compiler>| {
            let names = names_of(&intent);
            // What it is promoted as, where nothing comes between; so it is checked as that.
            checks.compiled(intent, base + 1, running.as_ref()).map(|compiled| (compiled, names))
        };
        let (compiled, names) = self.compiling(compile).await??;
        let number = self.kept(|kept| kept.last) + 1;
        let candidate = Candidate {
            number,
            base,
            since: SystemTime::now(),
            sample,
            policy: Arc::clone(&compiled.tables().policy),
            names,
        };
        let answer = self.ask(|answer| Request::Shadow(Ask::Set(Box::new(candidate), answer))).await?;
        // Where a worker has not come by, it is set all the same.
        let before = self.kept(|kept| {
            kept.last = number;
            kept.candidate.replace((base, compiled))
        });
        self.compiling(move |_| drop(before)).await?;
        answer?;
        self.candidate().await.ok_or_else(none_is_set)
    }

    /// See [`Dataplane::shadow`](agent_api::contract::Dataplane::shadow).
    pub(super) async fn candidate(&self) -> Option<ShadowStatus> {
        self.ask(|answer| Request::Shadow(Ask::Status(answer))).await.ok().flatten()
    }

    /// See [`Dataplane::watch_shadow`](agent_api::contract::Dataplane::watch_shadow).
    pub(super) async fn watch_candidate(&self) -> BoxStream<'static, ShadowDifference> {
        match self.ask(|answer| Request::Shadow(Ask::Watch(answer))).await {
            Ok(watcher) => watcher.stream(),
            Err(_) => stream::empty().boxed(),
        }
    }

    /// See [`Dataplane::promote_shadow`](agent_api::contract::Dataplane::promote_shadow).
    pub(super) async fn promote_candidate(&self, force: bool) -> Result<Applied, Refusal> {
        let began = Instant::now();
        let _applying = self.shared().applying.lock().await;
        let running = self.running_generation();
        let (base, compiled) = self.kept(|kept| kept.candidate.take()).ok_or_else(none_is_set)?;
        let (kept, promoted) = match (base == running, force) {
            (true, _) => (None, Ok(compiled)),
            (false, false) => {
                let conflict = conflict("PromoteShadow", "base_generation", base, running);
                (Some(compiled), Err(conflict))
            }
            (false, true) => self.compiled_again(compiled, running + 1).await?,
        };
        let promoted = match promoted {
            Ok(promoted) => promoted,
            Err(refusal) => {
                self.kept(|shadow| shadow.candidate = kept.map(|kept| (base, kept)));
                return Err(refusal);
            }
        };
        let (in_force, answer) =
            self.put_in_force(promoted.tables().clone(), Touched::Everything, began).await;
        if !in_force {
            self.kept(|shadow| shadow.candidate = Some((base, kept.unwrap_or(promoted))));
            return answer;
        }
        self.compiling(move |compiler| drop((compiler.replace(promoted), kept))).await?;
        // A worker that does not come by has been told of by now.
        let _ = self.ask(|answer| Request::Shadow(Ask::End(answer))).await?;
        answer
    }

    /// The same state as another generation; with it the candidate as it was, in case that is refused.
    async fn compiled_again(
        &self,
        candidate: Compiler,
        generation: u64,
    ) -> Result<(Option<Compiler>, Result<Compiler, Refusal>), Refusal> {
        let checks = Arc::clone(&self.shared().checks);
        self.compiling(move |running| {
            let again = checks.compiled(candidate.intent(), generation, running.as_ref());
            (Some(candidate), again)
        })
        .await
    }

    /// See [`Dataplane::discard_shadow`](agent_api::contract::Dataplane::discard_shadow).
    pub(super) async fn discard_candidate(&self) -> Result<(), Refusal> {
        let _applying = self.shared().applying.lock().await;
        let discarded = self.kept(|kept| kept.candidate.take()).ok_or_else(none_is_set)?;
        self.compiling(move |_| drop(discarded)).await?;
        self.ask(|answer| Request::Shadow(Ask::End(answer))).await.flatten()
    }

    fn kept<T>(&self, look: impl FnOnce(&mut Kept) -> T) -> T {
        look(&mut self.shared().candidate.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn none_is_set() -> Refusal {
    refuse(RefusalKind::NotFound, "shadow", "candidate", "none is set")
}

/// Who has which address. Those of hostNetwork pods are their node's.
fn names_of(intent: &Intent) -> HashMap<IpAddr, String> {
    let pods = intent.endpoints.iter().filter(|endpoint| !endpoint.host_network);
    let pods = pods.map(|endpoint| (endpoint.name.to_string(), &endpoint.addresses));
    let nodes = intent.nodes.iter().map(|node| (node.name.clone(), &node.addresses));
    let named = |(name, addresses): (String, &Vec<IpAddr>)| {
        let addresses = addresses.clone();
        addresses.into_iter().map(move |address| (address, name.clone()))
    };
    nodes.chain(pods).flat_map(named).collect()
}

// --------------------------------------------------------------------------------------------------- the control thread

/// The shadow on the control thread.
pub(super) struct Shadows {
    current: Option<Current>,
    feed: Feed,
}

struct Current {
    candidate: Candidate,
    counted: Counted,
}

impl Shadows {
    /// None is set; `start` is the zero of the workers' clocks.
    pub(super) fn new(start: Instant) -> Self {
        Shadows { current: None, feed: Feed::new(start) }
    }

    /// What is to be published beside `tables`.
    pub(super) fn beside(&mut self, tables: &Tables) -> Option<Arc<Shadow>> {
        self.current.as_mut().map(|current| current.counted.beside(tables))
    }

    /// What [`beside`](Self::beside) said last is published in this epoch.
    pub(super) fn published(&mut self, epoch: u32) {
        if let Some(current) = &mut self.current {
            current.counted.published(epoch);
        }
    }

    /// Puts away counts under rules that are in force no more, where `passed` says of their last epoch that all workers are past it.
    pub(super) fn sweep(&mut self, tables: &Tables, passed: impl Fn(u32) -> bool) {
        if let Some(Current { candidate, counted }) = &mut self.current {
            counted.fold(&candidate.policy, tables, passed);
        }
    }

    fn status(&self, tables: &Tables) -> Option<ShadowStatus> {
        let Current { candidate, counted } = self.current.as_ref()?;
        let since = candidate.since.duration_since(UNIX_EPOCH).unwrap_or_default();
        Some(ShadowStatus {
            number: candidate.number,
            base_generation: candidate.base,
            generation: tables.generation,
            since_ns: since.as_nanos() as u64,
            sample: candidate.sample,
            ..counted.status(&candidate.policy, tables)
        })
    }

    /// A worker has found a difference.
    pub(super) fn hear(&mut self, record: &DifferenceRecord, tables: &Tables, history: &History) {
        let Some(Current { candidate, counted }) = &mut self.current else { return };
        // Of a candidate that is gone.
        if record.shadow != candidate.number {
            return;
        }
        let difference = told(record, candidate, tables, history);
        self.feed.send(difference, counted.lost());
    }
}

/// A difference by names.
fn told(
    record: &DifferenceRecord,
    candidate: &Candidate,
    tables: &Tables,
    history: &History,
) -> ShadowDifference {
    let (src, dst) = record.addresses;
    let (difference, judged) = (&record.difference, record.judged_dst);
    let judges = history.judges(record.epoch).unwrap_or_default();
    let ends = (src, judged.ip());
    let rule = |rule, policy: &PolicyTable, text: String| {
        if rule == RuleId::NO_RULE && rule == difference.denial() {
            counts::isolated_by(policy, difference, ends, text)
        } else {
            text
        }
    };
    let active = judges.rules.text(difference.active);
    let would = candidate.policy.origins().text(difference.candidate);
    let names = [src, judged.ip()].map(|address| candidate.name(tables, address));
    let [(src_name, src_stale), (dst_name, dst_stale)] = names;
    ShadowDifference {
        // The feed knows the workers' clocks.
        time_ns: record.time_ns,
        shadow: record.shadow,
        src,
        src_port: record.src_port,
        src_name,
        dst,
        dst_port: record.dst_port,
        protocol: record.protocol,
        backend: (judged.ip() != dst || judged.port() != record.dst_port).then(|| judged.to_string()),
        dst_name,
        established: record.established,
        allowed: difference.allowed,
        ingress: difference.ingress,
        active: rule(difference.active, &tables.policy, active),
        candidate: rule(difference.candidate, &candidate.policy, would),
        generation: judges.generation,
        stale: src_stale || dst_stale,
        missed: 0,
    }
}

impl Candidate {
    /// Who has an address, and whether that is a pod which the candidate does not know.
    fn name(&self, tables: &Tables, address: IpAddr) -> (String, bool) {
        use policy_compiler::routes::Route;
        if let Some(name) = self.names.get(&address) {
            return (name.clone(), false);
        }
        match tables.routes.lookup(address) {
            Route::Endpoint(index) => {
                let endpoint = tables.routes.endpoints().get(index as usize);
                (endpoint.map_or_else(String::new, |endpoint| endpoint.name.to_string()), true)
            }
            // An address of another node's pods: which pod's, this node's tables do not say.
            Route::Tunnel(_) => (String::new(), true),
            Route::Node | Route::External | Route::Unreachable => (String::new(), false),
        }
    }
}

impl Control {
    /// Does what is asked.
    pub(super) fn shadow(&mut self, ask: Ask) {
        // Whoever has stopped waiting for an answer does not need it.
        match ask {
            Ask::Set(candidate, answer) => {
                self.shadows.feed.begin();
                let flows = self.parts.flows.v4.capacity() + self.parts.flows.v6.capacity();
                let (number, policy) = (candidate.number, Arc::clone(&candidate.policy));
                let workers = self.parts.workers.len();
                let shadow = Shadow::new(number, policy, candidate.sample, flows, workers);
                let counted = Counted::new(shadow, &self.tables);
                self.shadows.current = Some(Current { candidate: *candidate, counted });
                self.publish_shadow(answer);
            }
            Ask::End(answer) => {
                self.shadows.feed.begin();
                // A large table: freed here, beside the workers.
                self.shadows.current = None;
                self.publish_shadow(answer);
            }
            Ask::Status(answer) => drop(answer.send(self.shadows.status(&self.tables))),
            Ask::Watch(answer) => drop(answer.send(self.shadows.feed.watch())),
        }
    }

    fn publish_shadow(&mut self, answer: Answer<Result<(), Refusal>>) {
        let epoch = self.publish_touching(&Touched::Addresses(Vec::new()));
        self.wait(epoch, Then::Shadowed(answer));
    }
}

#[cfg(test)]
mod tests;
