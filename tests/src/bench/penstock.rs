//! Party A: penstockd on one node with one worker; the other node is its kernel alone, which answers for its address.

use std::time::Duration;

use agent_api::contract::WorkerStats;
use anyhow::{Context, Result, ensure};

use super::{Options, Path, Round, TAG, count};
use crate::cluster::{Cluster, WEB};
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
    /// Brings it up and lets one flow through.
    pub(super) fn up() -> Result<Self> {
        let mut cluster = Cluster::make(TAG, false)?;
        services::only_web_b(&cluster.manifests)?;
        cluster.manifests.write("bench.yaml", POLICY)?;
        let manifests = cluster.manifests.clone();
        cluster.node_a.start_penstockd()?;
        cluster.node_a.start_agent(&manifests)?;
        cluster.node_a.add_port(&cluster.web_a)?;
        // The far end of the uplink leaves the bridge, so that nobody spends time on what arrives there: frames for
        // another host, which its kernel drops first thing, as it does with testpmd's. So the neighbour is fixed.
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
        let ask = || {
            let how = crate::traffic::udp::Ask { patience: Duration::from_millis(200), ..Default::default() };
            for _ in 0..5 {
                // Nobody answers: what counts is what is seen on the underlay.
                drop(crate::traffic::udp::ask(&cluster.web_a.namespace, (WEB[0], 7).into(), how));
            }
            Ok(())
        };
        let backend = cluster.web_b.v4.octets();
        // Ethernet, IPv4, UDP, VXLAN, Ethernet: then the inner IPv4 header, whose destination is the backend.
        let tunnelled = |frame: &[u8]| {
            frame.get(36..38) == Some(&4789_u16.to_be_bytes()) && frame.get(80..84) == Some(&backend)
        };
        let frame = raw::expect(cluster.lab.underlay(), PATIENCE, ask, tunnelled)?;
        frame.context("no packet of the pod to the Service has left in a tunnel to the backend")?;
        let question = ["explain", "udp", "poc/web-a:10000", "10.96.0.10:7", "-o", "json"];
        let told = cluster.node_a.ctl_ok(&question)?;
        ensure!(told.contains("poc/bench"), "the policy does not take part: {told}");
        Ok(())
    }

    pub(super) fn round(&self, options: &Options, core: usize) -> Result<Round> {
        let cluster = &self.cluster;
        let path = Path {
            from: &cluster.web_a.namespace,
            device: "eth0",
            addresses: format!("--src-ip {} --dst-ip {}", cluster.web_a.v4, WEB[0]),
            sink: (cluster.lab.underlay(), "node-a"),
            log: cluster.node_a.logs().join("pktgen.json"),
        };
        let before = self.worker()?;
        let (pps, offered_pps) = count(&path, options, core)?;
        let after = self.worker()?;
        let packets = after.rx - before.rx;
        ensure!(after.flow_hits - before.flow_hits > packets / 2, "most packets have missed the flow table");
        let cycles = (packets > 0).then(|| (after.busy_cycles - before.busy_cycles) as f64 / packets as f64);
        Ok(Round { pps, offered_pps, cycles })
    }

    fn worker(&self) -> Result<WorkerStats> {
        let stats = law::at_rest(&self.cluster.node_a)?;
        stats.workers.into_iter().next().context("penstockd has no worker")
    }
}
