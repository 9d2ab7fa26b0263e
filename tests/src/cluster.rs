//! The cluster of `examples/two-nodes`: two nodes with their daemons, three pods, a plain host.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use agent_api::contract::{PortInfo, State, Stats};
use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use serde::de::DeserializeOwned;

use crate::daemon::{Daemon, Ended, checkout, run_binary};
use crate::lab::{Lab, Pod, Site};
use crate::manifests::Manifests;
use crate::wait_for;

/// The VXLAN network identifier of the pod network.
pub const VNI: u32 = 4242;
/// How long a daemon may take to come up or to end.
pub const PATIENCE: Duration = Duration::from_secs(20);
/// `poc/web` in both families.
pub const WEB: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(10, 96, 0, 10)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0x10, 0x96, 0, 0, 0, 0, 0x10)),
];
/// `poc/mongodb` in both families.
pub const MONGODB: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(10, 96, 0, 20)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0x10, 0x96, 0, 0, 0, 0, 0x20)),
];
/// `poc/empty`, which has no endpoint.
pub const EMPTY: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 96, 0, 30));

/// A node with its daemons.
#[derive(Debug)]
pub struct Node {
    agent: Option<Daemon>,
    penstockd: Option<Daemon>,
    /// Where it is.
    pub site: Site,
    /// The CPU its worker runs on.
    pub core: usize,
    /// What its configuration has besides: TOML.
    pub more_config: String,
    socket: PathBuf,
    config: PathBuf,
    logs: PathBuf,
}

/// The whole cluster. Fields are dropped in their order: nodes' daemons, then namespaces, the lab last.
#[derive(Debug)]
pub struct Cluster {
    /// `node-a`, with `web-a` and the database.
    pub node_a: Node,
    /// `node-b`, with `web-b`.
    pub node_b: Node,
    /// `poc/web-a` on `node-a`; may reach the database.
    pub web_a: Pod,
    /// `poc/virt-launcher-mongodb-vm` on `node-a`, which the policy protects.
    pub mongodb: Pod,
    /// `poc/web-b` on `node-b`; may not reach the database.
    pub web_b: Pod,
    /// A plain Linux host beside the nodes.
    pub host: Site,
    /// What the agents read.
    pub manifests: Manifests,
    /// The run.
    pub lab: Lab,
}

impl Cluster {
    /// Makes the namespaces and links of the example; starts nothing yet.
    ///
    /// # Errors
    /// When not root, when another run holds the lock, or when the kernel refuses.
    pub fn make(tag: &str, patient: bool) -> Result<Self> {
        let lab = Lab::open(tag, patient)?;
        let manifests = Manifests::copy("two-nodes", &lab.folder().join("manifests"))?;
        let underlay = |last: u8| (Ipv4Addr::new(172, 30, 0, last), v6([0xfd30, 0, 0, 0, u16::from(last)]));
        let node_a = Node::make(&lab, "node-a", underlay(1), 0)?;
        let node_b = Node::make(&lab, "node-b", underlay(2), 1)?;
        let (host_v4, host_v6) = underlay(100);
        let host = lab.site("host", host_v4, host_v6)?;
        let pod = |node: &Node, name: &str, device: &str, subnet: u8, last: u8| {
            let v4 = Ipv4Addr::new(10, 244, subnet, last);
            // The example numbers pods alike in both families, so 10 and 20 are hexadecimal there.
            let host_part = u16::from(last / 10) << 4;
            lab.pod(&node.site, name, device, v4, v6([0xfd00, 0x10, 0x244, u16::from(subnet), host_part]))
        };
        let web_a = pod(&node_a, "poc/web-a", "pod-web-a", 1, 10)?;
        let mongodb = pod(&node_a, "poc/virt-launcher-mongodb-vm", "pod-mongodb", 1, 20)?;
        let web_b = pod(&node_b, "poc/web-b", "pod-web-b", 2, 10)?;
        Ok(Cluster { node_a, node_b, web_a, mongodb, web_b, host, manifests, lab })
    }

    /// Makes the cluster and brings all of it up: daemons, agents, ports.
    ///
    /// # Errors
    /// When any part does not come up.
    pub fn up(tag: &str, patient: bool) -> Result<Self> {
        let mut cluster = Cluster::make(tag, patient)?;
        cluster.start_daemons()?;
        cluster.start_agents()?;
        cluster.add_ports()?;
        Ok(cluster)
    }

    /// Starts `penstockd` on both nodes.
    ///
    /// # Errors
    /// When one does not come up.
    pub fn start_daemons(&mut self) -> Result<()> {
        self.node_a.start_penstockd()?;
        self.node_b.start_penstockd()
    }

    /// Starts `penstock-agent` on both nodes and waits for the first generation on each.
    ///
    /// # Errors
    /// When one does not come up, or its state is refused.
    pub fn start_agents(&mut self) -> Result<()> {
        let manifests = self.manifests.clone();
        self.node_a.start_agent(&manifests)?;
        self.node_b.start_agent(&manifests)
    }

    /// Adds the pods' ports.
    ///
    /// # Errors
    /// When one is refused.
    pub fn add_ports(&self) -> Result<()> {
        self.node_a.add_port(&self.web_a)?;
        self.node_a.add_port(&self.mongodb)?;
        self.node_b.add_port(&self.web_b)
    }

    /// Makes one edit and waits until both nodes run a later generation than before it.
    ///
    /// # Errors
    /// When the edit fails, or a node does not follow within [`PATIENCE`].
    pub fn edit(&self, edit: impl FnOnce(&Manifests) -> Result<()>) -> Result<()> {
        let before = [self.node_a.generation()?, self.node_b.generation()?];
        edit(&self.manifests)?;
        self.node_a.wait_generation(before[0] + 1, PATIENCE)?;
        self.node_b.wait_generation(before[1] + 1, PATIENCE)
    }
}

impl Node {
    /// Makes the namespace and link of a node on the lab's underlay; starts nothing yet. Its worker is to run on CPU
    /// `core`, of those that there are.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn make(lab: &Lab, name: &str, addresses: (Ipv4Addr, Ipv6Addr), core: usize) -> Result<Self> {
        let site = lab.site(name, addresses.0, addresses.1)?;
        let config = lab.folder().join(format!("{name}.toml"));
        let socket = lab.folder().join(format!("{name}.sock"));
        let logs = checkout().join("target/logs").join(crate::lab::prefix(lab.tag()).trim_end_matches('-'));
        let cores = std::thread::available_parallelism()?.get();
        Ok(Node {
            agent: None,
            penstockd: None,
            site,
            core: core % cores,
            more_config: String::new(),
            socket,
            config,
            logs,
        })
    }

    /// Writes the configuration and starts `penstockd`; ready when it answers on its socket.
    ///
    /// # Errors
    /// With the end of its log, when it does not come up.
    pub fn start_penstockd(&mut self) -> Result<()> {
        std::fs::write(&self.config, self.configuration())?;
        let arguments = ["--config".to_owned(), self.config.display().to_string()];
        let log = self.logs.join(format!("{}-penstockd.log", self.site.name));
        let mut daemon = Daemon::start(&self.site.namespace, "penstockd", &arguments, &log)?;
        daemon.wait_ready(PATIENCE, || self.socket.exists() && self.stats().is_ok())?;
        self.penstockd = Some(daemon);
        Ok(())
    }

    /// Starts `penstock-agent` on the manifests; ready when the node runs a generation of its making.
    ///
    /// # Errors
    /// With the end of its log, when it does not.
    pub fn start_agent(&mut self, manifests: &Manifests) -> Result<()> {
        let before = self.generation()?;
        let arguments = [
            "--socket".to_owned(),
            self.socket.display().to_string(),
            "--node".to_owned(),
            self.site.name.clone(),
            "--manifests".to_owned(),
            manifests.folder().display().to_string(),
            "--vni".to_owned(),
            VNI.to_string(),
        ];
        let log = self.logs.join(format!("{}-penstock-agent.log", self.site.name));
        let mut daemon = Daemon::start(&self.site.namespace, "penstock-agent", &arguments, &log)?;
        daemon.wait_ready(PATIENCE, || self.generation().is_ok_and(|now| now > before))?;
        self.agent = Some(daemon);
        Ok(())
    }

    /// Adds the port of a pod on this node.
    ///
    /// # Errors
    /// With what `penstockctl` said.
    pub fn add_port(&self, pod: &Pod) -> Result<()> {
        self.ctl_ok(&["ports", "add", "--device", &pod.device, "--pod", &pod.name]).map(drop)
    }

    /// Removes the port of a pod on this node.
    ///
    /// # Errors
    /// With what `penstockctl` said.
    pub fn remove_port(&self, pod: &Pod) -> Result<()> {
        self.ctl_ok(&["ports", "remove", "--device", &pod.device]).map(drop)
    }

    /// Runs `penstockctl` against this node.
    ///
    /// # Errors
    /// When it cannot be started; not when it fails.
    pub fn ctl(&self, arguments: &[&str]) -> Result<Ended> {
        let socket = self.socket.display().to_string();
        let mut all = vec!["--socket", socket.as_str()];
        all.extend(arguments);
        run_binary("penstockctl", &all)
    }

    /// Runs `penstockctl` against this node and returns what it printed.
    ///
    /// # Errors
    /// With what it said, when it fails.
    pub fn ctl_ok(&self, arguments: &[&str]) -> Result<String> {
        let ended = self.ctl(arguments)?;
        let line = arguments.join(" ");
        ensure!(
            ended.code == Some(0),
            "penstockctl {line} on {}: exit {:?}: {}",
            self.site.name,
            ended.code,
            ended.err.trim()
        );
        Ok(ended.out)
    }

    /// Runs `penstockctl … -o json` and reads its answer.
    ///
    /// # Errors
    /// When it fails, or its answer is of another shape.
    pub fn ctl_json<T: DeserializeOwned>(&self, arguments: &[&str]) -> Result<T> {
        let mut all = arguments.to_vec();
        all.extend(["-o", "json"]);
        let out = self.ctl_ok(&all)?;
        serde_json::from_str(&out).with_context(|| format!("penstockctl {}: {out}", all.join(" ")))
    }

    /// Counters.
    ///
    /// # Errors
    /// When `penstockctl` fails.
    pub fn stats(&self) -> Result<Stats> {
        self.ctl_json(&["stats"])
    }

    /// The running state.
    ///
    /// # Errors
    /// When `penstockctl` fails.
    pub fn state(&self) -> Result<State> {
        self.ctl_json(&["status"])
    }

    /// The ports.
    ///
    /// # Errors
    /// When `penstockctl` fails.
    pub fn ports(&self) -> Result<Vec<PortInfo>> {
        self.ctl_json(&["ports", "list"])
    }

    /// The running generation, once every worker has passed it; the one before until then.
    ///
    /// # Errors
    /// When `penstockctl` fails.
    pub fn generation(&self) -> Result<u64> {
        let state = self.state()?;
        Ok(state.workers.iter().copied().chain([state.generation]).min().unwrap_or(0))
    }

    /// Waits until every worker has passed generation `wanted`.
    ///
    /// # Errors
    /// When they have not within `patience`, with the end of the agent's log.
    pub fn wait_generation(&self, wanted: u64, patience: Duration) -> Result<()> {
        let what = format!("generation {wanted} on {}", self.site.name);
        wait_for(&what, patience, || Ok((self.generation()? >= wanted).then_some(()))).with_context(|| {
            format!("the agent's last words:\n{}", self.agent.as_ref().map_or(String::new(), |a| a.tail(10)))
        })
    }

    /// Drops of `reason` on this node, over all workers.
    ///
    /// # Errors
    /// When `penstockctl` fails.
    pub fn dropped(&self, reason: &str) -> Result<u64> {
        Ok(self.stats()?.workers.iter().filter_map(|worker| worker.drops.get(reason)).sum())
    }

    /// The Unix socket that its `penstockd` serves on.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Its `penstockd`'s configuration, once that has been started.
    pub fn config(&self) -> &Path {
        &self.config
    }

    /// Where its daemons write what they say.
    pub fn logs(&self) -> &Path {
        &self.logs
    }

    /// `penstockd`, while it runs.
    pub fn penstockd(&mut self) -> Option<&mut Daemon> {
        self.penstockd.as_mut()
    }

    /// `penstock-agent`, while it runs.
    pub fn agent(&mut self) -> Option<&mut Daemon> {
        self.agent.as_mut()
    }

    /// Ends both daemons by SIGTERM; both must exit with 0.
    ///
    /// # Errors
    /// When one does not end in time, or says it failed.
    pub fn stop(&mut self) -> Result<()> {
        for daemon in [self.agent.take(), self.penstockd.take()].into_iter().flatten() {
            let log = daemon.log().to_owned();
            let status = daemon.terminate(PATIENCE)?;
            ensure!(status.success(), "after SIGTERM {} ended with {status}", log.display());
        }
        Ok(())
    }

    /// Kills `penstockd` with `signal` (SIGKILL: at once, nothing is drained) and waits for its end.
    ///
    /// # Errors
    /// When it does not run.
    pub fn kill_penstockd(&mut self, signal: Signal) -> Result<()> {
        let mut daemon = self.penstockd.take().context("penstockd does not run")?;
        daemon.signal(signal)?;
        daemon.wait_end(PATIENCE).map(drop)
    }

    /// penstockd's configuration for this node.
    fn configuration(&self) -> String {
        format!(
            "socket = \"{socket}\"\n\n[workers]\ncores = [{core}]\n\n[uplink]\ndevice = \"uplink\"\n\n{more}",
            more = self.more_config,
            socket = self.socket.display(),
            core = self.core,
        )
    }
}

/// An address whose first three groups, fourth group and last group are given.
fn v6(groups: [u16; 5]) -> Ipv6Addr {
    let [a, b, c, d, last] = groups;
    Ipv6Addr::new(a, b, c, d, 0, 0, 0, last)
}
