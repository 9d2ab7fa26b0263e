//! [`Penstock`] and [`Testpmd`]: who stands between the two memifs.

use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Instant;

use afxdp_driver::memif::{MemifConfig, MemifHub, MemifPort, MemifRole};
use afxdp_driver::{FramePool, HugePages};
use anyhow::{Context, Result, anyhow, bail};
use crossbeam::channel::{Receiver, Sender};
use dataplane::counters::WorkerCounters;
use dataplane::crossing;
use dataplane::flow::FlowTables;
use dataplane::messages::{Command as ToWorker, Event, PortCells};
use dataplane::publish::Publication;
use dataplane::worker::{IdlePolicy, Parts, Worker, WorkerConfig};

use crate::cluster::{self, CLIENT_PORT, UPLINK_PORT};

/// Chunks of packet memory.
const CHUNKS: usize = 4096;
/// Flow entries.
const ENTRIES: usize = 1 << 16;
/// Secret of the hashes: any.
const SEED: u64 = 0x5eed_5eed_5eed_5eed;

/// A worker in a thread of its own: the client's port is the way in, the uplink the way out.
pub(super) struct Penstock {
    commands: Sender<ToWorker<MemifPort>>,
    counters: Arc<WorkerCounters>,
    thread: JoinHandle<()>,
    _events: Receiver<Event<MemifPort>>,
    _hub: MemifHub,
}

impl Penstock {
    /// Listens on both sockets; the worker polls all the time, as testpmd does.
    pub(super) fn start(sockets: &[String; 2], core: usize) -> Result<Self> {
        let hub = MemifHub::start()?;
        let (commands, obeyed) = crossbeam::channel::bounded(8);
        let (events, told) = crossbeam::channel::bounded(1024);
        for (socket, port) in sockets.iter().zip([CLIENT_PORT, UPLINK_PORT]) {
            let (mut ports, _) = hub.open(MemifConfig::new(socket.clone(), MemifRole::Server, 0))?;
            let io = Box::new(ports.pop().context("an interface without queues")?);
            let attach = ToWorker::Attach { port, io, cells: Arc::<PortCells>::default() };
            commands.send(attach).map_err(|_| anyhow!("no room for a command"))?;
        }
        let publication = Publication::new(cluster::snapshot(), 1);
        let counters = Arc::<WorkerCounters>::default();
        let idle = IdlePolicy { spin: u32::MAX, ..IdlePolicy::default() };
        let parts = Parts {
            config: WorkerConfig { number: 0, batch: 64, idle, seed: SEED, start: Instant::now() },
            pool: FramePool::anonymous(CHUNKS, HugePages::Prefer)?,
            flows: Arc::new(FlowTables::new(ENTRIES, 16, HugePages::Prefer, SEED)?),
            counters: Arc::clone(&counters),
            reader: publication.reader(0),
            commands: obeyed,
            events,
            links: crossing::links(1, 1)?.remove(0),
        };
        let run = move || {
            core_affinity::set_for_current(core_affinity::CoreId { id: core });
            Worker::new(parts).run();
        };
        let thread = std::thread::Builder::new().name("bench-worker".into()).spawn(run)?;
        Ok(Penstock { commands, counters, thread, _events: told, _hub: hub })
    }

    /// TSC cycles of turns that took packets, and packets.
    pub(super) fn busy(&self) -> (u64, u64) {
        (self.counters.busy_cycles.read(), self.counters.rx.read())
    }

    /// Ends the worker.
    pub(super) fn stop(self) -> Result<()> {
        self.commands.send(ToWorker::Stop).map_err(|_| anyhow!("the worker has ended"))?;
        if self.thread.join().is_err() {
            bail!("the worker has panicked");
        }
        Ok(())
    }
}

/// `dpdk-testpmd` with two `net_memif` devices.
pub(super) struct Testpmd {
    child: Child,
}

impl Testpmd {
    /// Starts it; `cores` are those of its forwarding thread and of its main one, which waits.
    pub(super) fn start(sockets: &[String; 2], cores: [usize; 2]) -> Result<Self> {
        let [way_in, way_out] = sockets.each_ref().map(|socket| socket.trim_start_matches('@'));
        let words = format!(
            "--lcores 0@{},1@{} --main-lcore 0 --no-huge -m 256 --no-pci --no-telemetry --file-prefix penstock-bench-memif \
             --vdev net_memif0,role=server,id=0,socket-abstract=yes,socket={way_in} \
             --vdev net_memif1,role=server,id=0,socket-abstract=yes,socket={way_out} \
             -- --forward-mode=macswap --auto-start --no-flush-rx --nb-cores=1 --burst=64 --rxd=1024 --txd=1024 \
             --total-num-mbufs=16384 --stats-period=60",
            cores[1], cores[0]
        );
        let child = Command::new("dpdk-testpmd")
            .args(words.split_whitespace())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("dpdk-testpmd (deploy/deps.sh dpdk installs it)")?;
        Ok(Testpmd { child })
    }

    /// That it still runs.
    pub(super) fn check(&mut self) -> Result<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => bail!("testpmd has ended: {status}"),
        }
    }
}

impl Drop for Testpmd {
    fn drop(&mut self) {
        // It may have ended already: then there is nothing to kill and the wait returns at once.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
