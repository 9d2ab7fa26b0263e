//! The agent: keeps a penstockd running what a folder of manifests says.
//!
//! ```text
//!   folder changed ──► read, Intent ──► wanted ──┐
//!                         │ bad: said, the one before stays wanted
//!   every 250 ms ──► is what we applied still running? ──► no: apply wanted ──► refused: said, until the folder changes
//!                                                                        └────► nobody there: again, 50 ms … 1 s
//! ```
//!
//! Where penstockd runs what this agent applied last, only what differs from that is sent; else, and where penstockd finds that it
//! runs something else, the whole state.
//!
//! A penstockd that was restarted begins at generation 0 and is brought up to date. A later generation that somebody
//! else applied (`penstockctl apply`) is left until the folder changes; it is said.

use std::collections::BTreeSet;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use policy_compiler::intent::Intent;
use policy_compiler::intent::update::Update;
use policy_compiler::objects::{IntentOptions, ObjectError, Warning};
use serde::Serialize;
use tokio::time::{sleep, timeout};

use super::folder::{self, LoadError};
use super::watch::Watch;
use crate::address::Address;
use crate::client::{Client, ClientError, ConnectOptions};
use crate::contract::{Applied, Refusal, RefusalKind, Stats};

/// Between two looks at a penstockd that runs what is wanted.
const LOOK: Duration = Duration::from_millis(250);
/// How long such a look may take.
const LOOK_TIMEOUT: Duration = Duration::from_secs(5);
/// First and longest pause between two attempts to reach a penstockd.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// What an agent is told.
#[derive(Debug, Clone)]
pub struct AgentOptions {
    /// The folder.
    pub manifests: PathBuf,
    /// The node whose state it makes.
    pub node: String,
    /// Where penstockd is.
    pub address: Address,
    /// What the manifests do not say.
    pub intent: IntentOptions,
    /// Where it writes how it stands, as JSON, whenever that changes.
    pub status_file: Option<PathBuf>,
}

/// Why one round failed.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The folder cannot be read.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// Its objects do not make a state.
    #[error(transparent)]
    Objects(#[from] ObjectError),
    /// penstockd refused, or is not there.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// Reading ended unexpectedly.
    #[error("reading the folder: {0}")]
    Reading(String),
}

/// How an agent stands: what the status file says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Status {
    /// The node.
    pub node: String,
    /// What was applied last by this agent; `None` before the first.
    pub applied: Option<Applied>,
    /// Whether penstockd runs what the folder says.
    pub in_sync: bool,
    /// What is in the way, where something is.
    pub problem: Option<String>,
}

/// A state with what was odd about it.
type Prepared = (Intent, Vec<Warning>);

/// Reads the folder at `path` and makes the state of `node`.
///
/// # Errors
/// [`AgentError::Load`] and [`AgentError::Objects`], naming file, object and field.
pub fn prepare(path: &Path, node: &str, options: &IntentOptions) -> Result<Prepared, AgentError> {
    let loaded = folder::load(path)?;
    let (intent, more) = loaded.objects.intent_with(node, options)?;
    Ok((intent, loaded.warnings.into_iter().chain(more).collect()))
}

/// Applies the folder once; tries to connect while `patience` lasts.
///
/// # Errors
/// [`AgentError`]; what was running goes on.
pub async fn once(options: &AgentOptions, patience: Duration) -> Result<Applied, AgentError> {
    let mut agent = Agent::new(options.clone());
    let result = agent.only_round(patience).await;
    let problem = result.as_ref().err().map(ToString::to_string);
    agent.say_status(problem);
    result
}

/// Runs until `shutdown` is ready. Never ends by itself: whatever goes wrong is said and tried again.
pub async fn run(options: AgentOptions, shutdown: impl Future<Output = ()>) {
    let mut watch = Watch::new(&options.manifests);
    let mut agent = Agent::new(options);
    let work = async {
        agent.reload().await;
        loop {
            let pause = agent.reconcile().await;
            tokio::select! {
                () = watch.changed() => agent.reload().await,
                () = sleep(pause) => {}
            }
        }
    };
    tokio::select! {
        () = work => {}
        () = shutdown => tracing::info!("stopping; penstockd goes on with what it has"),
    }
}

struct Agent {
    options: AgentOptions,
    client: Option<Client>,
    /// What the folder said when it was last good.
    wanted: Option<Arc<Intent>>,
    /// What penstockd runs.
    running: Option<Running>,
    /// penstockd refused `wanted`: it is not asked again until either changes.
    refused: bool,
    /// Seconds that penstockd had been up when it was last looked at.
    uptime: f64,
    /// Somebody else's generation that has been said.
    foreign: Option<u64>,
    /// Pause before the next attempt; `None` while penstockd is there.
    back_off: Option<Duration>,
    /// Warnings of the last reading: each is said once.
    warned: BTreeSet<String>,
    /// What is wrong with the folder, and with penstockd.
    problems: [Option<String>; 2],
    last_applied: Option<Applied>,
    last_status: Option<Status>,
}

/// What an agent has applied.
struct Running {
    /// As the folder said.
    wanted: Arc<Intent>,
    /// The same as penstockd has it: with the identities' numbers there.
    sent: Arc<Intent>,
    /// The transaction that brought it.
    applied: Applied,
}

impl Agent {
    fn new(options: AgentOptions) -> Self {
        Agent {
            options,
            client: None,
            wanted: None,
            running: None,
            refused: false,
            uptime: 0.0,
            foreign: None,
            back_off: None,
            warned: BTreeSet::new(),
            problems: [None, None],
            last_applied: None,
            last_status: None,
        }
    }

    async fn only_round(&mut self, patience: Duration) -> Result<Applied, AgentError> {
        let intent = self.read().await?;
        let connect = ConnectOptions { patience, ..ConnectOptions::default() };
        let client = Client::connect_with(&self.options.address, &connect).await?;
        let applied = client.apply(intent.clone(), None).await?;
        let intent = Arc::new(intent);
        self.note_applied(Running { wanted: Arc::clone(&intent), sent: intent, applied: applied.clone() });
        Ok(applied)
    }

    /// Reads the folder. A bad one is said, and what was wanted before stays wanted.
    async fn reload(&mut self) {
        let mut said = None;
        match self.read().await {
            Ok(intent) => {
                if self.problems[0].take().is_some() {
                    tracing::info!("the manifests are good again");
                }
                if self.wanted.as_deref() != Some(&intent) {
                    self.wanted = Some(Arc::new(intent));
                    self.refused = false;
                    self.foreign = None;
                }
            }
            Err(error) => {
                let goes_on = match &self.running {
                    Some(running) => format!("generation {} goes on", running.applied.generation),
                    None => "nothing has been applied".to_owned(),
                };
                said = Some(format!("{error}; {goes_on}"));
                self.problems[0] = Some(error.to_string());
            }
        }
        self.say_status(None);
        // Whoever reads it finds the status that goes with it.
        if let Some(problem) = said {
            tracing::error!("{problem}");
        }
    }

    /// Reads the folder and says its new warnings.
    async fn read(&mut self) -> Result<Intent, AgentError> {
        let AgentOptions { manifests, node, intent, .. } = self.options.clone();
        let reading = tokio::task::spawn_blocking(move || prepare(&manifests, &node, &intent));
        let (intent, warnings) =
            reading.await.map_err(|error| AgentError::Reading(error.to_string())).flatten()?;
        let warnings: BTreeSet<String> = warnings.iter().map(ToString::to_string).collect();
        for warning in warnings.difference(&self.warned) {
            tracing::warn!("{warning}");
        }
        self.warned = warnings;
        Ok(intent)
    }

    /// Brings penstockd to what is wanted, or looks whether it is still there. Returns the pause until the next time.
    async fn reconcile(&mut self) -> Duration {
        let Some(wanted) = self.wanted.clone() else { return LOOK };
        match self.try_reconcile(wanted).await {
            Ok(()) => {
                self.back_off = None;
                // A refusal stands until it is asked again.
                if !self.refused {
                    self.problems[1] = None;
                }
            }
            Err(ClientError::Refused(refusal)) => {
                tracing::error!("penstockd refuses: {refusal}; what it runs goes on");
                self.refused = true;
                self.problems[1] = Some(refusal.to_string());
            }
            Err(error) => {
                if self.back_off.is_none() {
                    tracing::warn!("{error}; trying again");
                }
                self.client = None;
                self.back_off = Some(self.back_off.map_or(BACK_OFF.0, |pause| (pause * 2).min(BACK_OFF.1)));
                self.problems[1] = Some(error.to_string());
            }
        }
        self.say_status(None);
        self.back_off.unwrap_or(LOOK)
    }

    async fn try_reconcile(&mut self, wanted: Arc<Intent>) -> Result<(), ClientError> {
        let client = match &self.client {
            Some(client) => client.clone(),
            None => {
                let client = Client::connect_with(&self.options.address, &ConnectOptions::default()).await?;
                self.client.insert(client).clone()
            }
        };
        self.look(&client).await?;
        if self.refused || self.running.as_ref().is_some_and(|running| running.wanted == wanted) {
            return Ok(());
        }
        if let Some(running) = self.update(&client, &wanted).await? {
            self.note_applied(running);
            return Ok(());
        }
        let applied = client.apply(Intent::clone(&wanted), None).await?;
        self.note_applied(Running { sent: Arc::clone(&wanted), wanted, applied });
        Ok(())
    }

    /// Sends what differs from what we applied last; `None` where only the whole state will do.
    async fn update(&self, client: &Client, wanted: &Arc<Intent>) -> Result<Option<Running>, ClientError> {
        let Some(running) = self.running.as_ref().filter(|_| self.foreign.is_none()) else { return Ok(None) };
        let (old, mut new) = (Arc::clone(&running.sent), Intent::clone(wanted));
        let comparing = tokio::task::spawn_blocking(move || {
            let update = Update::between(&old, &mut new);
            (update, new)
        });
        let Ok((Some(update), sent)) = comparing.await else { return Ok(None) };
        match client.update(update, running.applied.generation).await {
            Ok(applied) => Ok(Some(Running { wanted: Arc::clone(wanted), sent: Arc::new(sent), applied })),
            Err(ClientError::Refused(Refusal { kind: RefusalKind::Conflict, .. })) => Ok(None),
            // What went wrong in compiling a part may go well with the whole.
            Err(ClientError::Refused(refusal)) if refusal.kind == RefusalKind::CheckFailed => {
                tracing::error!("penstockd refuses: {refusal}; sending the whole state");
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Looks at the generation that penstockd runs: less than ours, or less time up than before, is a restart.
    async fn look(&mut self, client: &Client) -> Result<(), ClientError> {
        let stats: Stats = timeout(LOOK_TIMEOUT, client.stats()).await.unwrap_or_else(|_| {
            let problem = format!("no answer within {} s", LOOK_TIMEOUT.as_secs());
            Err(ClientError::Unreachable { address: client.address().clone(), problem })
        })?;
        let ours = self.running.as_ref().map_or(0, |running| running.applied.generation);
        if stats.uptime_seconds < self.uptime || stats.generation < ours {
            tracing::warn!(generation = stats.generation, "penstockd was restarted");
            self.running = None;
            self.refused = false;
        } else if ours > 0 && stats.generation > ours && self.foreign != Some(stats.generation) {
            let generation = stats.generation;
            tracing::warn!("generation {generation} is not of this agent; left until the manifests change");
            self.foreign = Some(generation);
        }
        self.uptime = stats.uptime_seconds;
        Ok(())
    }

    fn note_applied(&mut self, running: Running) {
        let Applied { generation, microseconds } = running.applied;
        let intent = &running.wanted;
        tracing::info!(
            generation,
            microseconds,
            nodes = intent.nodes.len(),
            endpoints = intent.endpoints.len(),
            policies = intent.policies.len(),
            services = intent.services.len(),
            "applied"
        );
        self.last_applied = Some(running.applied.clone());
        self.running = Some(running);
    }

    /// Writes the status file where what it says has changed.
    fn say_status(&mut self, problem: Option<String>) {
        let problem = problem.or_else(|| self.problems.iter().flatten().next().cloned());
        let wanted = self.wanted.as_ref().or(self.running.as_ref().map(|running| &running.wanted));
        let in_sync = match (&self.running, wanted) {
            (Some(running), Some(wanted)) => running.wanted == *wanted && problem.is_none(),
            _ => false,
        };
        let status =
            Status { node: self.options.node.clone(), applied: self.last_applied.clone(), in_sync, problem };
        if self.last_status.as_ref() == Some(&status) {
            return;
        }
        if let Some(path) = &self.options.status_file
            && let Err(error) = write_status(path, &status)
        {
            tracing::warn!("status file {}: {error}", path.display());
        }
        self.last_status = Some(status);
    }
}

/// Replaces the status file as a whole: no reader sees half of it.
fn write_status(path: &Path, status: &Status) -> std::io::Result<()> {
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    std::fs::write(&new, serde_json::to_vec_pretty(status)?)?;
    std::fs::rename(&new, path)
}
