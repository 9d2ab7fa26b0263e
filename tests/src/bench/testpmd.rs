//! DPDK's testpmd with `net_af_xdp`, forwarding from one veth to another and changing MAC addresses.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use super::links::Links;
use super::party::{Load, Party, Round, Trial};
use crate::daemon::Daemon;
use crate::wait_for;

/// How long testpmd may take to attach to both devices, and to end.
const PATIENCE: Duration = Duration::from_secs(30);
/// Its program.
const PROGRAM: &str = "dpdk-testpmd";
/// Megabytes for its packets.
const MEMORY: u64 = 512;

/// The links. testpmd itself only runs during its rounds: it never rests.
pub(super) struct Rig {
    links: Links,
    arguments: Vec<String>,
}

impl Rig {
    /// Makes the links.
    pub(super) fn up(tag: &str) -> Result<Self> {
        let links = Links::make(tag, "testpmd")?;
        links.receive_far()?;
        let rig = Rig { links, arguments: arguments(super::last_core()?) };
        // Where it forwards to unless told otherwise: a made-up peer of its second port.
        rig.running(|links| {
            links.prove("with other MAC addresses", |frame| frame.get(..6) == Some(&[2, 0, 0, 0, 0, 1]))
        })?;
        Ok(rig)
    }

    /// Does something while testpmd forwards.
    fn running<T>(&self, work: impl FnOnce(&Links) -> Result<T>) -> Result<T> {
        let links = &self.links;
        let mut testpmd = Daemon::start_program(
            &links.inside,
            Path::new(PROGRAM),
            &self.arguments,
            &links.log("testpmd.log"),
        )?;
        wait_attached(links, &mut testpmd)?;
        let done = work(links);
        ensure!(testpmd.is_running()?, "testpmd has ended:\n{}", testpmd.tail(15));
        testpmd.terminate(PATIENCE)?;
        done
    }
}

impl Party for Rig {
    fn name(&self) -> &'static str {
        "testpmd"
    }

    fn does(&self) -> &'static str {
        "MAC addresses"
    }

    fn version(&self) -> Result<String> {
        // It says so only when it starts.
        let log = std::fs::read_to_string(self.links.log("testpmd.log"))?;
        let line = log.lines().find(|line| line.contains("RTE Version"));
        Ok(line.and_then(|line| line.split('\'').nth(1)).unwrap_or("DPDK of unknown version").to_owned())
    }

    fn setup(&self) -> String {
        format!("{PROGRAM} {}", self.arguments.join(" "))
    }

    fn round(&mut self, load: &Load) -> Result<Round> {
        self.running(|links| links.path()?.count(load))
    }

    fn trial(&mut self, load: &Load, pps: f64) -> Result<Trial> {
        self.running(|links| links.path()?.trial(load, pps))
    }
}

fn wait_attached(links: &Links, testpmd: &mut Daemon) -> Result<()> {
    wait_for("testpmd on both devices", PATIENCE, || {
        if !testpmd.is_running()? {
            bail!("testpmd has ended");
        }
        for device in ["in0", "out0"] {
            if !links.inside.ip(&format!("-d -o link show dev {device}"))?.contains("xdp") {
                return Ok(None);
            }
        }
        Ok(Some(()))
    })
    .with_context(|| format!("(is DPDK installed? deploy/deps.sh dpdk)\n{}", testpmd.tail(15)))?;
    // Between attaching and forwarding it reads the links' state.
    std::thread::sleep(Duration::from_secs(1));
    Ok(())
}

/// One core forwards: the one that penstockd's worker has. The main one only waits; it shares the generator's.
fn arguments(main_core: usize) -> Vec<String> {
    let memory =
        if huge_pages() { format!("--in-memory -m {MEMORY}") } else { format!("--no-huge -m {MEMORY}") };
    let words = format!(
        "-l 0,{main_core} --main-lcore {main_core} {memory} --no-pci --no-telemetry --file-prefix penstock-bench \
         -v --vdev net_af_xdp0,iface=in0 --vdev net_af_xdp1,iface=out0 \
         -- --forward-mode=mac --auto-start --nb-cores=1 --burst=64 --rxd=2048 --txd=2048 --total-num-mbufs=65536 \
         --stats-period=60",
    );
    words.split_whitespace().map(str::to_owned).collect()
}

/// Whether there are enough of them free.
fn huge_pages() -> bool {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let value = |key: &str| -> u64 {
        let line = text.lines().find(|line| line.starts_with(key));
        line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok()).unwrap_or(0)
    };
    value("HugePages_Free:") * value("Hugepagesize:") >= MEMORY * 1024
}
