//! [`Testpmd`].

use std::path::{Path, PathBuf};
use std::process::ExitStatus;

use afxdp_driver::memif::MemifRole;
use anyhow::{Context, Result, ensure};

use crate::daemon::Daemon;
use crate::netns::Namespace;

/// Megabytes for its packets.
const MEMORY: u32 = 256;

/// How testpmd is to forward.
#[derive(Debug, Clone)]
pub struct Forwarding {
    /// Its role: the other one is ours.
    pub role: MemifRole,
    /// Queue pairs.
    pub queues: u16,
    /// What a client must know; empty: nothing.
    pub secret: String,
    /// The CPU that forwards.
    pub core: usize,
    /// The CPU of its main thread, which waits.
    pub main_core: usize,
}

/// A running `dpdk-testpmd` with one `net_memif` device, which sends back what comes with its MAC addresses swapped.
#[derive(Debug)]
pub struct Testpmd {
    daemon: Daemon,
}

impl Testpmd {
    /// Starts it; its end of the connection comes up by itself. What it says goes to `log`.
    ///
    /// # Errors
    /// When it is not installed.
    pub fn start(
        namespace: &Namespace,
        socket: &Path,
        forwarding: &Forwarding,
        log: PathBuf,
    ) -> Result<Self> {
        let arguments = arguments(socket, forwarding);
        let daemon = Daemon::start_program(namespace, Path::new("dpdk-testpmd"), &arguments, &log)
            .context("(is the package dpdk-dev installed? deploy/deps.sh dpdk)")?;
        Ok(Testpmd { daemon })
    }

    /// That it still runs.
    ///
    /// # Errors
    /// With the end of what it said, when it does not.
    pub fn check(&mut self) -> Result<()> {
        ensure!(self.daemon.is_running()?, "testpmd has ended:\n{}", self.daemon.tail(15));
        Ok(())
    }

    /// Kills it as nothing can be refused.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn kill(self) -> Result<ExitStatus> {
        self.daemon.kill()
    }
}

fn arguments(socket: &Path, forwarding: &Forwarding) -> Vec<String> {
    let Forwarding { role, queues, secret, core, main_core } = forwarding;
    let secret = if secret.is_empty() { String::new() } else { format!(",secret={secret}") };
    let cores =
        if core == main_core { format!("0@{core},1@{core}") } else { format!("0@{main_core},1@{core}") };
    let words = format!(
        "--lcores {cores} --main-lcore 0 --no-huge -m {MEMORY} --no-pci --no-telemetry --file-prefix penstock-memif \
         --vdev net_memif0,role={role},id=0,socket={},socket-abstract=no{secret} \
         -- --forward-mode=macswap --port-topology=loop --auto-start --no-flush-rx --nb-cores=1 --burst=64 --rxq={queues} --txq={queues} \
         --rxd=1024 --txd=1024 --total-num-mbufs=32768 --stats-period=60",
        socket.display()
    );
    words.split_whitespace().map(str::to_owned).collect()
}
