//! [`serve`]: penstockd from start to end.
//!
//! ```text
//!   socket claimed ─► workers ─► control thread ─► the kernel followed ─► uplink, host ─► gRPC until a signal
//!                                                                    ─► workers end ─► devices as they were found
//! ```

use std::fs::File;
use std::io::Read;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use afxdp_driver::device::{self, DeviceFacts, SetupPlan};
use afxdp_driver::memif::MemifHub;
use afxdp_driver::umem::Anchor;
use afxdp_driver::{AnyPort, FramePool, xdp};
use agent_api::contract::{AddPort, Dataplane, PortRole};
use agent_api::server::{self, ServerError, UnixSocket};
use anyhow::{Context, Result};
use crossbeam::channel;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use super::build::Settings;
use super::checks::{Checking, Checks};
use super::config::{Config, ConfiguredPort, ZeroCopy};
use super::dataplane::{Handle, Shared};
use super::history::History;
use super::hits::Hits;
use super::neighbours::{self, FixedGateways};
use super::ports::{MemifPlan, PortKind, PortSettings};
use super::request::Request;
use super::thread::{Control, ControlParts, WorkerEnd};
use crate::counters::WorkerCounters;
use crate::crossing::{self, Links};
use crate::flow::FlowTables;
use crate::messages::Event;
use crate::publish::{Publication, Publisher};
use crate::snapshot::Snapshot;
use crate::worker::{IdlePolicy, Parts, Worker, WorkerConfig};

/// Packets that wait between two workers, at most.
const CROSSING: usize = 1024;
/// Events that wait for the control thread, at most.
const EVENTS: usize = 8192;
/// How long a socket that another process has is tried again.
const CLAIM: Duration = Duration::from_secs(1);
/// Drivers of devices that are no hardware: zero-copy gains nothing there, or does not exist.
const VIRTUAL: [&str; 6] = ["veth", "virtio_net", "tun", "bridge", "dummy", ""];

/// Runs penstockd until SIGTERM or SIGINT. The configuration has been checked.
///
/// # Errors
/// What kept it from starting, or ended it; devices are left as they were found all the same.
pub async fn serve(config: Config) -> Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("SIGINT")?;
    // Claimed first: a second penstockd must not touch the devices of the first.
    let socket = claim(&config).await?;
    let (stop, stopping) = watch::channel(false);
    let signals = tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => tracing::info!("SIGTERM: stopping"),
            _ = interrupt.recv() => tracing::info!("SIGINT: stopping"),
        }
        stop.send_replace(true);
    });
    restore_left(&config);
    let running = start(&config)?;
    let served = running.serve(&config, socket, stopping).await;
    signals.abort();
    running.end().await;
    served
}

/// Claims the socket. A penstockd that has just been killed may hold it for a moment longer.
async fn claim(config: &Config) -> Result<UnixSocket, ServerError> {
    let began = Instant::now();
    loop {
        match UnixSocket::bind(&config.socket, config.socket_mode) {
            Err(ServerError::Live { .. }) if began.elapsed() < CLAIM => {
                tokio::time::sleep(Duration::from_millis(20)).await
            }
            claimed => return claimed,
        }
    }
}

/// Everything that has been started.
struct Running {
    handle: Handle,
    /// Where ports are memifs: it is needed until the last of them is closed.
    memif: Option<Arc<MemifHub>>,
    control: std::thread::JoinHandle<()>,
}

impl Running {
    async fn serve(
        &self,
        config: &Config,
        socket: UnixSocket,
        stopping: watch::Receiver<bool>,
    ) -> Result<()> {
        let stopped = |mut stopping: watch::Receiver<bool>| async move {
            // An error means that nobody can stop us any more: so we stop.
            let _ = stopping.wait_for(|stopping| *stopping).await;
        };
        tokio::select! {
            attached = self.attach_configured(config) => attached?,
            () = stopped(stopping.clone()) => return Ok(()),
        }
        let unix = socket.serve(self.handle.clone(), stopped(stopping.clone()));
        tracing::info!(socket = %config.socket.display(), "serving");
        match config.listen {
            Some(address) => {
                let tcp = server::serve_tcp(address, self.handle.clone(), stopped(stopping));
                tokio::try_join!(unix, tcp)?;
            }
            None => unix.await?,
        }
        Ok(())
    }

    async fn attach_configured(&self, config: &Config) -> Result<()> {
        let uplink = config.uplink.as_ref().map(|uplink| ("uplink.device", &uplink.device, PortRole::Uplink));
        let host = config.host.as_ref().map(|host| ("host.device", &host.device, PortRole::Host));
        for (field, device, role) in uplink.into_iter().chain(host) {
            let request = AddPort { device: device.clone(), role, peer_mac: None };
            self.handle.add_port(request).await.context(field)?;
        }
        self.open_configured(&config.ports).await
    }

    /// Opens the ports that are no devices.
    async fn open_configured(&self, ports: &[ConfiguredPort]) -> Result<()> {
        let Some(hub) = &self.memif else { return Ok(()) };
        for port in ports {
            let role = PortRole::Pod(port.pod.clone());
            let request = AddPort { device: port.name.clone(), role, peer_mac: port.peer_mac };
            let plan = MemifPlan {
                hub: Arc::clone(hub),
                config: port.memif_config(),
                mac: port.own_mac(),
                mtu: port.mtu,
            };
            self.handle.add(request, PortKind::Memif(Arc::new(plan))).await.context("port")?;
        }
        Ok(())
    }

    async fn end(self) {
        self.handle.stop();
        let ended = tokio::task::spawn_blocking(move || self.control.join()).await;
        if !matches!(ended, Ok(Ok(()))) {
            tracing::error!("the control thread has panicked");
        }
    }
}

/// Starts workers, control thread and the task that follows the kernel.
fn start(config: &Config) -> Result<Running> {
    let start = Instant::now();
    let seed = secret().context("/dev/urandom")?;
    let memif = if config.ports.is_empty() { None } else { Some(Arc::new(MemifHub::start()?)) };
    let flows = FlowTables::new(config.flows.ipv4, config.flows.ipv6, config.memory.huge_pages, seed)
        .context("the flow tables (flows.ipv4, flows.ipv6)")?;
    let flows = Arc::new(flows);
    let settings = Settings {
        gateway_v4: config.gateway.ipv4,
        gateway_v6: config.gateway.ipv6,
        snat_ports: (config.snat.first, config.snat.last),
        inner_mac: config.overlay.mac,
    };
    let first = Snapshot {
        gateway_v4: settings.gateway_v4,
        gateway_v6: settings.gateway_v6,
        snat_ports: settings.snat_ports,
        ..Snapshot::empty()
    };
    let publication = Publication::new(first, config.workers.cores.len());
    let (event_sender, events) = channel::bounded(EVENTS);
    let (own_requests, requests) = channel::unbounded();
    let workers =
        Workers { config, start, seed, flows: &flows, publication: &publication, events: event_sender }
            .start()?;
    let (asks, asked) = tokio::sync::mpsc::unbounded_channel();
    let history = Arc::new(History::default());
    let hits = Arc::new(Hits::new(config.workers.cores.len()));
    let shared = Shared {
        requests: own_requests.clone(),
        publication: Arc::clone(&publication),
        flows: Arc::clone(&flows),
        history: Arc::clone(&history),
        hits: Arc::clone(&hits),
        workers: config
            .workers
            .cores
            .iter()
            .zip(&workers)
            .map(|(core, end)| (*core as u32, Arc::clone(&end.counters)))
            .collect(),
        start,
        applying: tokio::sync::Mutex::default(),
        compiler: std::sync::Mutex::default(),
        checks: Arc::new(Checks::new(config.check.tables.then_some(Checking::ORACLE))),
        candidate: std::sync::Mutex::default(),
    };
    let told = own_requests.clone();
    let parts = ControlParts {
        settings,
        port_settings: port_settings(config),
        publisher: Publisher::new(publication),
        flows,
        history,
        hits,
        workers,
        requests,
        own_requests,
        events,
        asks,
        start,
    };
    let control = Control::new(parts);
    let control = std::thread::Builder::new().name("penstock-control".into()).spawn(move || control.run())?;
    let uplink = config.uplink.as_ref();
    let fixed = FixedGateways {
        v4: uplink.and_then(|uplink| uplink.gateway_v4),
        v6: uplink.and_then(|uplink| uplink.gateway_v6),
    };
    tokio::spawn(async move {
        // The control thread may have ended before this task.
        let tell = move |news| drop(told.send(Request::News(news)));
        if let Err(error) = neighbours::follow(asked, fixed, tell).await {
            tracing::error!(%error, "the kernel's routes and neighbours are not followed: no next hop will be found");
        }
    });
    Ok(Running { handle: Handle::new(shared), memif, control })
}

/// What the workers are made of.
struct Workers<'a> {
    config: &'a Config,
    start: Instant,
    seed: u64,
    flows: &'a Arc<FlowTables>,
    publication: &'a Arc<Publication>,
    events: channel::Sender<Event<AnyPort>>,
}

impl Workers<'_> {
    fn start(self) -> Result<Vec<WorkerEnd>> {
        let cores = &self.config.workers.cores;
        let alone = uplink_alone(self.config);
        // All memory before the first thread: what cannot be had leaves nothing running.
        let pools = (0..cores.len()).map(|number| self.pool(number, alone && number == 0));
        let pools = pools.collect::<Result<Vec<_>>>()?;
        let links = crossing::links(cores.len(), CROSSING).context("event descriptors")?;
        let numbered = pools.into_iter().zip(links).zip(cores).enumerate();
        numbered
            .map(|(number, ((pool, links), core))| self.spawn(number, *core, pool, links, alone))
            .collect()
    }

    fn pool(&self, number: usize, zero_copy: bool) -> Result<FramePool> {
        let anchor = if zero_copy { Anchor::FirstPort } else { Anchor::Private };
        let memory = &self.config.memory;
        let pool = FramePool::umem_anchored(memory.chunks, memory.huge_pages, anchor)
            .with_context(|| format!("worker {number} (memory.chunks, memory.huge_pages)"))?;
        tracing::info!(worker = number, chunks = memory.chunks, backing = pool.backing(), "packet memory");
        Ok(pool)
    }

    fn spawn(
        &self,
        number: usize,
        core: usize,
        pool: FramePool,
        links: Links,
        alone: bool,
    ) -> Result<WorkerEnd> {
        let idle = &self.config.workers.idle;
        let counters = Arc::new(WorkerCounters::default());
        let (commands, commanded) = channel::unbounded();
        let umem = pool.umem_handle().context("a pool without UMEM")?;
        let doorbell = links.doorbell();
        let parts = Parts {
            config: WorkerConfig {
                number,
                batch: self.config.workers.batch,
                idle: IdlePolicy { spin: idle.spin, yields: idle.yields, sleep: idle.sleep() },
                seed: self.seed,
                start: self.start,
            },
            pool,
            flows: Arc::clone(self.flows),
            counters: Arc::clone(&counters),
            reader: self.publication.reader(number),
            commands: commanded,
            events: self.events.clone(),
            links,
        };
        let run = move || {
            if !core_affinity::set_for_current(core_affinity::CoreId { id: core }) {
                tracing::warn!(worker = number, core, "the worker is not pinned to its CPU");
            }
            Worker::<AnyPort>::new(parts).run();
        };
        let thread = std::thread::Builder::new().name(format!("penstock-w{number}")).spawn(run)?;
        Ok(WorkerEnd { commands, doorbell, counters, umem, uplink_only: alone && number == 0, thread })
    }
}

/// Whether the first worker serves the uplink alone, so that it may be zero-copy.
fn uplink_alone(config: &Config) -> bool {
    let Some(uplink) = &config.uplink else { return false };
    let hardware =
        || DeviceFacts::of(&uplink.device).is_ok_and(|facts| !VIRTUAL.contains(&facts.driver.as_str()));
    match uplink.zero_copy {
        ZeroCopy::Require => true,
        ZeroCopy::Never => false,
        ZeroCopy::Auto => config.workers.cores.len() > 1 && hardware(),
    }
}

fn port_settings(config: &Config) -> PortSettings {
    let uplink = config.uplink.as_ref();
    let zero_copy = match uplink.map(|uplink| uplink.zero_copy).unwrap_or_default() {
        ZeroCopy::Require => xdp::ZeroCopy::Require,
        ZeroCopy::Auto if uplink_alone(config) => xdp::ZeroCopy::Auto,
        ZeroCopy::Auto | ZeroCopy::Never => xdp::ZeroCopy::Never,
    };
    PortSettings {
        ring: config.memory.ring,
        mode: uplink.map(|uplink| uplink.mode).unwrap_or_default().into(),
        zero_copy,
        setup: SetupPlan {
            queueing: config.devices.queueing,
            napi_cpus: if config.devices.threaded_napi { cpus_without_worker(config) } else { Vec::new() },
            notes: Some(notes(config)),
        },
    }
}

/// Where it is written down what was changed on devices: beside the socket, which is this penstockd's alone.
fn notes(config: &Config) -> PathBuf {
    config.socket.with_file_name("devices")
}

/// Makes devices what they were before a penstockd that was killed.
fn restore_left(config: &Config) {
    match device::restore_left(&notes(config)) {
        Ok(devices) if devices.is_empty() => {}
        Ok(devices) => tracing::info!(?devices, "restored what a run that was killed has left"),
        Err(error) => {
            tracing::warn!(%error, folder = %notes(config).display(), "reading what killed runs have left")
        }
    }
}

/// The CPUs of this process that no worker has.
fn cpus_without_worker(config: &Config) -> Vec<usize> {
    let all = core_affinity::get_core_ids().unwrap_or_default();
    all.iter().map(|core| core.id).filter(|cpu| !config.workers.cores.contains(cpu)).collect()
}

/// Eight bytes that nobody can guess.
fn secret() -> std::io::Result<u64> {
    let mut bytes = [0; 8];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(u64::from_ne_bytes(bytes))
}
