//! penstockd on one node with one worker; the other node is its kernel alone, which answers for its address.

use agent_api::contract::WorkerStats;
use anyhow::{Context, Result, ensure};

use super::links::{ask_service, is_tunnelled_to};
use super::party::{Cycles, Load, Party, Path, Round, Trial};
use crate::cluster::{Cluster, WEB};
use crate::daemon::run_binary;
use crate::demo::services;
use crate::law;
use crate::stage::PATIENCE;
use crate::traffic::raw;

/// A policy that the load is judged by: without one, `web-b` would take anything.
const POLICY: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: bench, namespace: poc}
spec:
  podSelector: {matchLabels: {app: another-application}}
  policyTypes: [Ingress]
  ingress:
    - from: [{podSelector: {matchLabels: {app: kubevirt-networking-poc}}}]
      ports: [{protocol: UDP, port: 7007}]
";

/// The node, its pod, and where the uplink leads.
pub(super) struct Rig {
    cluster: Cluster,
}

impl Rig {
    /// Brings it up and lets a few packets through.
    pub(super) fn up(tag: &str, patient: bool) -> Result<Self> {
        let mut cluster = Cluster::make(tag, patient)?;
        services::only_web_b(&cluster.manifests)?;
        cluster.manifests.write("bench.yaml", POLICY)?;
        let manifests = cluster.manifests.clone();
        cluster.node_a.more_config = "[devices]\nthreaded_napi = true\n".to_owned();
        cluster.node_a.start_penstockd()?;
        cluster.node_a.start_agent(&manifests)?;
        cluster.node_a.add_port(&cluster.web_a)?;
        // The far end of the uplink leaves the bridge, so that nobody spends time on what arrives there: frames for
        // another host, which its kernel drops first thing, as it does with the peers'. So the neighbour is fixed.
        let [a, b, c, d, e, f] = raw::mac(&cluster.node_b.site.namespace, "uplink")?;
        let mac = format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}");
        let peer = cluster.node_b.site.v4;
        let inside = &cluster.node_a.site.namespace;
        inside.ip(&format!("neigh replace {peer} lladdr {mac} dev uplink nud permanent"))?;
        let rig = Rig { cluster };
        rig.prove()?;
        rig.cluster.lab.underlay().ip("link set dev node-a nomaster")?;
        Ok(rig)
    }

    /// What the load will be is really taken by the Service, leaves in a tunnel, and is judged by the policy.
    fn prove(&self) -> Result<()> {
        let cluster = &self.cluster;
        let ask = || ask_service(&cluster.web_a.namespace);
        let tunnelled = |frame: &[u8]| is_tunnelled_to(frame, cluster.web_b.v4);
        let frame = raw::expect(cluster.lab.underlay(), PATIENCE, ask, tunnelled)?;
        frame.context("no packet of the pod to the Service has left in a tunnel to the backend")?;
        let question = ["explain", "udp", "poc/web-a:10000", "10.96.0.10:7", "-o", "json"];
        let told = cluster.node_a.ctl_ok(&question)?;
        ensure!(told.contains("poc/bench"), "the policy does not take part: {told}");
        Ok(())
    }

    fn path(&self) -> Path<'_> {
        let cluster = &self.cluster;
        Path {
            from: &cluster.web_a.namespace,
            device: "eth0",
            addresses: format!("--src-ip {} --dst-ip {}", cluster.web_a.v4, WEB[0]),
            sink: (cluster.lab.underlay(), "node-a"),
            log: cluster.node_a.logs().join("penstockd-pktgen.json"),
        }
    }

    fn worker(&self) -> Result<WorkerStats> {
        let stats = law::at_rest(&self.cluster.node_a)?;
        stats.workers.into_iter().next().context("penstockd has no worker")
    }
}

impl Party for Rig {
    fn name(&self) -> &'static str {
        "penstockd"
    }

    fn does(&self) -> &'static str {
        "policy, Service, VXLAN"
    }

    fn version(&self) -> Result<String> {
        Ok(run_binary("penstockd", &["--version"])?.out.trim().to_owned())
    }

    fn setup(&self) -> String {
        let text = std::fs::read_to_string(self.cluster.node_a.config()).unwrap_or_default();
        text.split_whitespace().collect::<Vec<_>>().join(" ")
    }

    fn round(&mut self, load: &Load) -> Result<Round> {
        let before = self.worker()?;
        let round = self.path().count(load)?;
        let after = self.worker()?;
        let packets = after.rx - before.rx;
        ensure!(after.flow_hits - before.flow_hits > packets / 2, "most packets have missed the flow table");
        let cycles = |after: u64, before: u64| (after - before) as f64 / packets.max(1) as f64;
        let kernel = cycles(after.kernel_cycles, before.kernel_cycles);
        let own = cycles(after.busy_cycles, before.busy_cycles) - kernel;
        Ok(Round { cycles: Some(Cycles { own, kernel }), ..round })
    }

    fn trial(&mut self, load: &Load, pps: f64) -> Result<Trial> {
        self.path().trial(load, pps)
    }
}
