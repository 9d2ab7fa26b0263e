//! Party B: DPDK's testpmd with `net_af_xdp`, forwarding from one veth to another and changing MAC addresses.

use std::path::{Path as File, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use super::{Options, Path, Round, TAG, count};
use crate::cluster::WEB;
use crate::daemon::{Daemon, checkout};
use crate::lab;
use crate::netns::Namespace;
use crate::wait_for;

/// How long testpmd may take to attach to both devices.
const PATIENCE: Duration = Duration::from_secs(30);
/// The device frames come in by, and the one they leave by.
const DEVICES: [&str; 2] = ["in0", "out0"];
/// Megabytes for its packets.
const MEMORY: u64 = 512;

/// Two veth pairs: testpmd's ends in one namespace, the others in another.
pub(super) struct Rig {
    inside: Namespace,
    outside: Namespace,
    arguments: Vec<String>,
    logs: PathBuf,
}

impl Rig {
    /// Makes the links. testpmd itself only runs during its rounds: it never rests.
    pub(super) fn up(main_core: usize) -> Result<Self> {
        let inside = Namespace::create(&format!("{}dpdk", lab::prefix(TAG)))?;
        let outside = Namespace::create(&format!("{}ends", lab::prefix(TAG)))?;
        for (device, far) in DEVICES.into_iter().zip(["gen", "sink"]) {
            inside.ip(&format!(
                "link add {device} numrxqueues 1 numtxqueues 1 type veth \
                 peer name {far} netns {} numrxqueues 1 numtxqueues 1",
                outside.name()
            ))?;
            for (namespace, end) in [(&inside, device), (&outside, far)] {
                namespace.sysctl(&format!("ipv6/conf/{end}/disable_ipv6"), "1")?;
                namespace.ip(&format!("link set dev {end} up"))?;
            }
        }
        let logs = checkout().join("target/logs/penstock-bench");
        Ok(Rig { inside, outside, arguments: arguments(main_core), logs })
    }

    /// The command line.
    pub(super) fn command(&self) -> String {
        format!("dpdk-testpmd {}", self.arguments.join(" "))
    }

    pub(super) fn round(&self, options: &Options, core: usize) -> Result<Round> {
        let log = self.logs.join("testpmd.log");
        let mut testpmd =
            Daemon::start_program(&self.inside, File::new("dpdk-testpmd"), &self.arguments, &log)?;
        self.wait_attached(&mut testpmd)?;
        let mac = self.inside.ip("-j link show dev in0")?;
        let links: serde_json::Value = serde_json::from_str(&mac)?;
        let mac = links
            .pointer("/0/address")
            .and_then(serde_json::Value::as_str)
            .context("in0 has no MAC address")?;
        let path = Path {
            from: &self.outside,
            device: "gen",
            addresses: format!("--src-ip 10.244.1.10 --dst-ip {} --dst-mac {mac}", WEB[0]),
            sink: (&self.outside, "sink"),
            log: self.logs.join("pktgen-testpmd.json"),
        };
        let counted = count(&path, options, core);
        ensure!(testpmd.is_running()?, "testpmd has ended:\n{}", testpmd.tail(15));
        testpmd.terminate(PATIENCE)?;
        let (pps, offered_pps) = counted?;
        Ok(Round { pps, offered_pps, cycles: None })
    }

    fn wait_attached(&self, testpmd: &mut Daemon) -> Result<()> {
        wait_for("testpmd on both devices", PATIENCE, || {
            if !testpmd.is_running()? {
                bail!("testpmd has ended");
            }
            for device in DEVICES {
                if !self.inside.ip(&format!("-d -o link show dev {device}"))?.contains("xdp") {
                    return Ok(None);
                }
            }
            Ok(Some(()))
        })
        .with_context(|| {
            format!("(is the package dpdk installed? deploy/deps.sh dpdk)\n{}", testpmd.tail(15))
        })?;
        // Between attaching and forwarding it reads the links' state.
        std::thread::sleep(Duration::from_secs(1));
        Ok(())
    }
}

/// One core forwards: the one that penstockd's worker has. The main one only waits; it shares the generator's.
fn arguments(main_core: usize) -> Vec<String> {
    let memory =
        if huge_pages() { format!("--in-memory -m {MEMORY}") } else { format!("--no-huge -m {MEMORY}") };
    let words = format!(
        "-l 0,{main_core} --main-lcore {main_core} {memory} --no-pci --no-telemetry --file-prefix penstock-bench \
         --vdev net_af_xdp0,iface={} --vdev net_af_xdp1,iface={} \
         -- --forward-mode=mac --auto-start --nb-cores=1 --burst=64 --rxd=2048 --txd=2048 --total-num-mbufs=65536 \
         --stats-period=60",
        DEVICES[0], DEVICES[1]
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
