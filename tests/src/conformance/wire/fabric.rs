//! [`Fabric`]: nodes, pods and outside hosts of a case in namespaces, and what of them the next step can keep.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use ipnet::IpNet;
use policy_compiler::objects::Objects;

use crate::cluster::{Node, VNI};
use crate::conformance::case::{Document, Outside, Place};
use crate::daemon::Ended;
use crate::lab::{Lab, Pod, Site};
use crate::netns::Namespace;

/// The node's end of the link to its own network stack, penstockd's `[host] device`.
const HOST_DEVICE: &str = "host0";
/// Its other end, with the kernel's routes to the pods.
const TO_PODS: &str = "to-pods";
/// Smaller rings than penstockd's own, for more ports a worker.
const MORE_CONFIG: &str = "[memory]\nring = 512\n\n[host]\ndevice = \"host0\"\n";

/// What a step wants to stand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Plan {
    nodes: Vec<PlannedNode>,
    outside: Vec<Outside>,
    /// By name: node and addresses.
    pods: BTreeMap<String, (String, Vec<IpAddr>)>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct PlannedNode {
    name: String,
    addresses: Vec<IpAddr>,
    pod_cidrs: Vec<IpNet>,
}

impl Plan {
    /// What `objects` and hosts beside them need.
    ///
    /// # Errors
    /// Where the objects are refused.
    pub(super) fn of(objects: &Objects, outside: &[Outside]) -> Result<Self> {
        let (intent, _) = objects.intent("")?;
        let nodes = intent.nodes.into_iter().map(|node| PlannedNode {
            name: node.name,
            addresses: node.addresses,
            pod_cidrs: node.pod_cidrs,
        });
        let pods = intent.endpoints.into_iter().filter(|pod| !pod.host_network);
        let pods = pods.map(|pod| (pod.name.to_string(), (pod.node, pod.addresses)));
        Ok(Plan { nodes: nodes.collect(), outside: outside.to_vec(), pods: pods.collect() })
    }
}

/// What stands. Fields are dropped in their order: daemons and namespaces before the lab.
#[derive(Debug)]
pub(super) struct Fabric {
    nodes: BTreeMap<String, Node>,
    pods: BTreeMap<String, Pod>,
    outside: BTreeMap<String, Site>,
    plan: Plan,
    /// For the devices of pods to come.
    next_device: usize,
    manifests: PathBuf,
    lab: Lab,
}

impl Fabric {
    /// Raises nodes with their daemons, and outside hosts. Pods come with [`Fabric::settle`].
    ///
    /// # Errors
    /// Where a part does not come up.
    pub(super) fn raise(tag: &str, plan: &Plan) -> Result<Self> {
        let lab = Lab::open(tag, true)?;
        let mut fabric = Fabric {
            nodes: BTreeMap::new(),
            pods: BTreeMap::new(),
            outside: BTreeMap::new(),
            plan: Plan { pods: BTreeMap::new(), ..plan.clone() },
            next_device: 0,
            manifests: lab.folder().join("manifests"),
            lab,
        };
        for (index, planned) in plan.nodes.iter().enumerate() {
            let node = fabric.node(index, planned).with_context(|| format!("node {}", planned.name))?;
            fabric.nodes.insert(planned.name.clone(), node);
        }
        for host in &plan.outside {
            let site = fabric.host(host).with_context(|| format!("outside host {}", host.name))?;
            fabric.outside.insert(host.name.clone(), site);
        }
        Ok(fabric)
    }

    /// Whether the step can go on with what stands: pods may differ, nodes and outside hosts may not.
    pub(super) fn suits(&self, plan: &Plan) -> bool {
        self.plan.nodes == plan.nodes && self.plan.outside == plan.outside
    }

    /// Pods go and come as planned, and every node runs these manifests. Returns who has gone.
    ///
    /// # Errors
    /// Where a node refuses the manifests, or a port.
    pub(super) fn settle(&mut self, plan: &Plan, documents: &[Document]) -> Result<Vec<Place>> {
        let kept = |name: &String| plan.pods.get(name) == self.plan.pods.get(name);
        let gone: Vec<String> = self.pods.keys().filter(|name| !kept(name)).cloned().collect();
        for name in &gone {
            let Some(pod) = self.pods.remove(name) else { continue };
            let (node, _) = self.plan.pods.get(name).context("a pod that was never planned")?;
            self.nodes.get(node).context("a pod on no node")?.remove_port(&pod)?;
        }
        self.write(documents)?;
        let come: Vec<&String> = plan.pods.keys().filter(|name| !self.pods.contains_key(*name)).collect();
        let mut fresh = Vec::new();
        for name in come {
            let (node, addresses) = &plan.pods[name];
            let pod = self.pod(name, node, addresses).with_context(|| format!("pod {name}"))?;
            fresh.push((node.clone(), pod));
        }
        for node in self.nodes.values() {
            let ended = self.apply(node)?;
            ensure!(ended.code == Some(0), "{} refuses the objects: {}", node.site.name, ended.err.trim());
        }
        for (node, pod) in fresh {
            self.nodes.get(&node).context("a pod on no node")?.add_port(&pod)?;
            self.pods.insert(pod.name.clone(), pod);
        }
        self.plan = plan.clone();
        Ok(gone.into_iter().map(Place::Pod).collect())
    }

    /// What `penstockctl apply` says in refusing these manifests, on every node; `None` where one takes them.
    ///
    /// # Errors
    /// Where a refusal changes the running generation.
    pub(super) fn refused(&mut self, documents: &[Document]) -> Result<Option<String>> {
        self.write(documents)?;
        let mut said = String::new();
        for node in self.nodes.values() {
            let before = node.generation()?;
            let ended = self.apply(node)?;
            if ended.code == Some(0) {
                return Ok(None);
            }
            ensure!(node.generation()? == before, "{}: a refusal made a generation", node.site.name);
            said = ended.err;
        }
        Ok(Some(said))
    }

    /// The namespace with somebody's sockets.
    ///
    /// # Errors
    /// Where there is none.
    pub(super) fn namespace(&self, place: &Place) -> Result<&Namespace> {
        let found = match place {
            Place::Pod(name) => self.pods.get(name).map(|pod| &pod.namespace),
            Place::Node(name) => self.nodes.get(name).map(|node| &node.site.namespace),
            Place::Outside(name) => self.outside.get(name).map(|site| &site.namespace),
        };
        found.with_context(|| format!("{place} is not there"))
    }

    /// The nodes.
    pub(super) fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.nodes.values()
    }

    /// The same, to be ended.
    pub(super) fn nodes_mut(&mut self) -> impl Iterator<Item = &mut Node> {
        self.nodes.values_mut()
    }

    fn node(&self, index: usize, planned: &PlannedNode) -> Result<Node> {
        let addresses = both(&planned.addresses, index);
        let mut node = Node::make(&self.lab, &planned.name, addresses, index)?;
        MORE_CONFIG.clone_into(&mut node.more_config);
        let inside = &node.site.namespace;
        inside.ip(&format!(
            "link add {HOST_DEVICE} numrxqueues 1 numtxqueues 1 type veth \
             peer name {TO_PODS} numrxqueues 1 numtxqueues 1"
        ))?;
        inside.sysctl(&format!("ipv6/conf/{HOST_DEVICE}/disable_ipv6"), "1")?;
        inside.ip(&format!("link set {HOST_DEVICE} up"))?;
        inside.ip(&format!("link set {TO_PODS} up"))?;
        // A kernel answers neighbour solicitations on a link only for addresses that are on it.
        inside.ip(&format!("addr add {}/128 dev {TO_PODS} nodad", node.site.v6))?;
        for cidr in self.plan.nodes.iter().flat_map(|other| &other.pod_cidrs) {
            let source: IpAddr = if cidr.addr().is_ipv4() { addresses.0.into() } else { addresses.1.into() };
            inside.ip(&format!("{} route add {cidr} dev {TO_PODS} src {source}", family(cidr)))?;
        }
        node.start_penstockd()?;
        Ok(node)
    }

    /// An outside host, with routes to the pods by their nodes.
    fn host(&self, host: &Outside) -> Result<Site> {
        let (v4, v6) = both(&host.addresses, 100 + self.outside.len());
        let site = self.lab.site(&host.name, v4, v6)?;
        for planned in &self.plan.nodes {
            let node = &self.nodes.get(&planned.name).context("a node that does not stand")?.site;
            for cidr in &planned.pod_cidrs {
                let via: IpAddr = if cidr.addr().is_ipv4() { node.v4.into() } else { node.v6.into() };
                site.namespace.ip(&format!("{} route add {cidr} via {via}", family(cidr)))?;
            }
        }
        Ok(site)
    }

    fn pod(&mut self, name: &str, node: &str, addresses: &[IpAddr]) -> Result<Pod> {
        let node = self.nodes.get(node).with_context(|| format!("there is no node {node:?}"))?;
        let device = format!("pod-{}", self.next_device);
        let (v4, v6) = both(addresses, self.next_device);
        self.next_device += 1;
        self.lab.pod(&node.site, name, &device, v4, v6)
    }

    /// Answers once every worker has passed the generation.
    fn apply(&self, node: &Node) -> Result<Ended> {
        let (manifests, vni) = (self.manifests.display().to_string(), VNI.to_string());
        node.ctl(&["apply", "--manifests", &manifests, "--node", &node.site.name, "--vni", &vni])
    }

    /// The folder has these manifests and no others.
    fn write(&self, documents: &[Document]) -> Result<()> {
        let folder = &self.manifests;
        if folder.exists() {
            std::fs::remove_dir_all(folder).with_context(|| folder.display().to_string())?;
        }
        std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
        let mut names = BTreeSet::new();
        for (index, document) in documents.iter().enumerate() {
            let base = document.name.rsplit('/').next().unwrap_or_default();
            let name = format!("{index}-{base}");
            std::fs::write(folder.join(&name), &document.text).with_context(|| name.clone())?;
            names.insert(name);
        }
        ensure!(!names.is_empty(), "no manifests");
        Ok(())
    }
}

fn family(cidr: &IpNet) -> &'static str {
    if cidr.addr().is_ipv4() { "-4" } else { "-6" }
}

/// An address of each family, as the lab's links have. Whoever is of one family alone has another in name only: no
/// object knows it, nothing is routed to it.
fn both(addresses: &[IpAddr], number: usize) -> (Ipv4Addr, Ipv6Addr) {
    let low = u16::try_from(number).unwrap_or(u16::MAX);
    let [high_octet, low_octet] = low.to_be_bytes();
    let mut both = (
        Ipv4Addr::new(100, 64, high_octet, low_octet),
        Ipv6Addr::new(0xfd99, 0, 0, 0, 0, 0, 0, low.saturating_add(1)),
    );
    for address in addresses {
        match address {
            IpAddr::V4(address) => both.0 = *address,
            IpAddr::V6(address) => both.1 = *address,
        }
    }
    both
}
