//! [`Case`]: states of a cluster, one after the other, and what flows must meet in each.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use anyhow::{Result, bail, ensure};
use policy_compiler::evaluate::ProbeProtocol;
use policy_compiler::intent::Intent;
use policy_compiler::manifest::Manifests;
use policy_compiler::objects::Objects;

/// What the reader of manifests says of a kind that Penstock does not know (yet).
const UNUSED_KIND: &str = "is not a kind that is used";

/// A case, wherever it was read.
#[derive(Debug, Clone)]
pub struct Case {
    /// Its folder's name, or the name that others gave it.
    pub name: String,
    /// What it is about, in a sentence.
    pub about: String,
    /// Features it shows, by others' names for them; empty for the project's own.
    pub tags: Vec<String>,
    /// Plain hosts outside of the cluster.
    pub outside: Vec<Outside>,
    /// States of the cluster, in their order.
    pub steps: Vec<Step>,
    /// Why it cannot be run yet: a kind of object that is not used.
    pub pending: Option<String>,
    /// What is to be known about it: what was changed to be able to run it.
    pub notes: Vec<String>,
}

/// A plain host beside the nodes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outside {
    /// What the case calls it.
    pub name: String,
    /// One address a family at most.
    pub addresses: Vec<IpAddr>,
}

/// One state of the cluster.
#[derive(Debug, Clone)]
pub struct Step {
    /// What it is called in messages.
    pub name: String,
    /// The manifests: all of the state, not what differs.
    pub documents: Vec<Document>,
    /// The same, read; or why it cannot be.
    pub objects: Result<Objects, String>,
    /// What must come of it.
    pub wanted: Wanted,
}

/// A manifest file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    /// What messages call it.
    pub name: String,
    /// YAML or JSON.
    pub text: String,
}

/// What must come of a step.
#[derive(Debug, Clone)]
pub enum Wanted {
    /// The objects are taken, and these flows meet these verdicts.
    Flows(Vec<Flow>),
    /// The objects are refused whole, by a message with each of these parts.
    Refused(Vec<String>),
}

/// A flow that begins, and what must become of it.
#[derive(Debug, Clone)]
pub struct Flow {
    /// Who begins it.
    pub from: Arc<End>,
    /// Whom it goes to.
    pub to: Arc<End>,
    /// The client's address.
    pub src: IpAddr,
    /// The server's.
    pub dst: IpAddr,
    /// What carries it.
    pub protocol: ProbeProtocol,
    /// The server's port; 0 for ICMP.
    pub port: u16,
    /// Whether it must pass.
    pub allowed: bool,
}

/// Somebody who can send and be sent to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct End {
    /// `namespace/pod`, a node's name, or an outside host's.
    pub name: String,
    /// Where its sockets are.
    pub place: Place,
    /// The node it is on, or is; `None` outside.
    pub node: Option<String>,
    /// One a family at most.
    pub addresses: Vec<IpAddr>,
}

/// A network stack.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Place {
    /// Of a pod, `namespace/name`.
    Pod(String),
    /// Of a node, and of its hostNetwork pods.
    Node(String),
    /// Of a host outside of the cluster.
    Outside(String),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Place::Pod(name) | Place::Node(name) | Place::Outside(name)) = self;
        f.write_str(name)
    }
}

impl fmt::Display for Flow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Flow { from, to, src, dst, .. } = self;
        write!(f, "{} -> {} {} ({src} -> {dst})", from.name, to.name, on(self.protocol, self.port))
    }
}

impl Flow {
    /// The IP protocol's number.
    pub fn number(&self) -> u8 {
        match self.protocol {
            ProbeProtocol::Tcp => 6,
            ProbeProtocol::Udp => 17,
            ProbeProtocol::Sctp => 132,
            ProbeProtocol::Icmp if self.dst.is_ipv6() => 58,
            ProbeProtocol::Icmp => 1,
        }
    }
}

/// `tcp/80`, as cases write it; `icmp` has no port.
pub fn on(protocol: ProbeProtocol, port: u16) -> String {
    match protocol {
        ProbeProtocol::Tcp => format!("tcp/{port}"),
        ProbeProtocol::Udp => format!("udp/{port}"),
        ProbeProtocol::Sctp => format!("sctp/{port}"),
        ProbeProtocol::Icmp => "icmp".to_owned(),
    }
}

/// A step's manifests, read.
#[derive(Debug, Clone)]
pub struct Reading {
    /// The objects, or why there are none.
    pub objects: Result<Objects, String>,
    /// Objects of a kind that is not used: what the case needs is not there yet.
    pub unused: Option<String>,
}

/// Reads manifests as the agent does.
///
/// # Errors
/// For a field that the API does not know: a case must not say what nobody reads.
pub fn read(documents: &[Document]) -> Result<Reading> {
    let mut manifests = Manifests::default();
    let mut refused = None;
    for document in documents {
        if let Err(error) = manifests.parse(&document.name, &document.text) {
            refused = Some(error.to_string());
            break;
        }
    }
    let (unused, odd): (Vec<_>, Vec<_>) =
        manifests.warnings.iter().partition(|warning| warning.problem.ends_with(UNUSED_KIND));
    if let Some(warning) = odd.first() {
        bail!("{warning}");
    }
    let objects = refused.map_or(Ok(manifests.objects), Err);
    Ok(Reading { objects, unused: unused.first().map(|warning| warning.to_string()) })
}

/// Everybody a flow of a state can be of, by name.
#[derive(Debug, Clone, Default)]
pub struct Ends(BTreeMap<String, Arc<End>>);

impl Ends {
    /// The running pods and the nodes of `objects`, and the outside hosts.
    ///
    /// # Errors
    /// Where the objects are refused, or a name is taken.
    pub fn of(objects: &Objects, outside: &[Outside]) -> Result<Self> {
        Ends::of_intent(&objects.intent("")?.0, outside)
    }

    fn of_intent(intent: &Intent, outside: &[Outside]) -> Result<Self> {
        let nodes = intent.nodes.iter().map(|node| End {
            name: node.name.clone(),
            place: Place::Node(node.name.clone()),
            node: Some(node.name.clone()),
            addresses: first_of_each_family(&node.addresses),
        });
        let pods = intent.endpoints.iter().map(|pod| {
            let name = pod.name.to_string();
            let place =
                if pod.host_network { Place::Node(pod.node.clone()) } else { Place::Pod(name.clone()) };
            End { name, place, node: Some(pod.node.clone()), addresses: pod.addresses.clone() }
        });
        let hosts = outside.iter().map(|host| End {
            name: host.name.clone(),
            place: Place::Outside(host.name.clone()),
            node: None,
            addresses: host.addresses.clone(),
        });
        let mut ends = BTreeMap::new();
        for end in nodes.chain(pods).chain(hosts) {
            let name = end.name.clone();
            ensure!(ends.insert(name.clone(), Arc::new(end)).is_none(), "two are called {name}");
        }
        Ok(Ends(ends))
    }

    /// Who is called that.
    ///
    /// # Errors
    /// With the names there are.
    pub fn named(&self, name: &str) -> Result<&Arc<End>> {
        let Some(end) = self.0.get(name) else {
            let known: Vec<&str> = self.0.keys().map(String::as_str).collect();
            bail!("{name:?} is no running pod, node or outside host ({})", known.join(", "));
        };
        Ok(end)
    }

    /// The flows between two, one a family that both have.
    ///
    /// # Errors
    /// Where they have none in common.
    pub fn flows(
        &self,
        from: &str,
        to: &str,
        (protocol, port): (ProbeProtocol, u16),
        allowed: bool,
    ) -> Result<Vec<Flow>> {
        let (from, to) = (self.named(from)?, self.named(to)?);
        let pairs = from.addresses.iter().filter_map(|src| {
            let dst = to.addresses.iter().find(|dst| dst.is_ipv4() == src.is_ipv4())?;
            Some((*src, *dst))
        });
        let flow = |(src, dst)| Flow {
            from: Arc::clone(from),
            to: Arc::clone(to),
            src,
            dst,
            protocol,
            port,
            allowed,
        };
        let flows: Vec<Flow> = pairs.map(flow).collect();
        ensure!(!flows.is_empty(), "{} and {} have no address of one family", from.name, to.name);
        Ok(flows)
    }
}

fn first_of_each_family(addresses: &[IpAddr]) -> Vec<IpAddr> {
    let first = |v4: bool| addresses.iter().copied().find(|address| address.is_ipv4() == v4);
    first(true).into_iter().chain(first(false)).collect()
}
