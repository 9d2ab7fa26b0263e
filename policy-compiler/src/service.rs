//! [`ServiceTable`]: Services and their backends, compiled for one node.
//!
//! ```text
//!   (address, protocol, port) ──► frontend ──► Service ──┬─ cluster set ─┐
//!                                    │                   └─ local set ───┴─ Maglev ──► backend
//!                     which policy holds, who may come
//! ```
//!
//! The answers are kube-proxy's (Kubernetes 1.33 to 1.36, nftables mode), rule by rule:
//!
//! | client | frontend | backends | masqueraded |
//! |---|---|---|---|
//! | pod | cluster address | `internalTrafficPolicy` | no |
//! | other | cluster address | `internalTrafficPolicy` | yes, where pod ranges are known |
//! | any | node port, external, load balancer; policy Cluster | cluster set | yes |
//! | pod | the same; policy Local | cluster set: as if out to a balancer and back | no |
//! | this node | the same; policy Local | cluster set | yes |
//! | other | the same; policy Local | local set | no |
//! | a backend | any, and it is chosen itself (hairpin) | | yes |
//!
//! *Cluster set*: the ready endpoints, narrowed by `hints.forNodes` (all ready endpoints have them and one names
//! this node), else by `hints.forZones` in the same way; where none is ready, those that serve while terminating.
//! *Local set*: the ready endpoints of this node, else those that serve while terminating. No endpoint in either:
//! [`Resolution::Reject`]. Endpoints, but none in the set that holds: [`Resolution::Drop`]. A cluster address on a
//! port it does not have: rejected. A load-balancer address to a client outside of `loadBalancerSourceRanges`:
//! dropped (ranges of the other family do not count, as kube-proxy has it).
//!
//! Differences from kube-proxy, each on purpose: node ports answer on every address of the Node object unless
//! [`ServiceOptions`] says otherwise; backends are chosen by Maglev, so that all nodes choose alike and a flow
//! that loses its entry finds its backend again; `sessionAffinity: ClientIP` is the same table under a hash of the
//! client's address and the Service alone: it needs no state, outlives every timeout, and moves only the few
//! clients that Maglev moves when the backends change.

mod clients;
mod compile;
mod sets;

#[cfg(test)]
#[cfg(feature = "kubernetes")]
mod conformance;
#[cfg(feature = "kubernetes")]
pub mod oracle;
#[cfg(test)]
#[cfg(feature = "kubernetes")]
mod properties;
#[cfg(test)]
mod tests;

use std::hash::{Hash, Hasher};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ipnet::IpNet;

use crate::hash::{FastMap, absorb, absorb_address, finish};
use crate::intent::{Endpoint, FrontendKind, Intent, Node, ObjectName, Service, TrafficPolicy};
use crate::maglev::Member;
use crate::shared_map::{SharedMap, Spread};
use crate::tables::CompileError;
use crate::view::{Change, View};
use clients::Clients;
use sets::BackendSet;

pub(crate) use sets::SetPool;

/// Number of a Service port within one [`ServiceTable`]; what a flow entry carries. Not stable across generations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceId(pub u32);

/// What is asked of the table: the first packet of a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServiceQuery {
    /// The client.
    pub src: IpAddr,
    /// The client's port.
    pub src_port: u16,
    /// What the client connects to.
    pub dst: IpAddr,
    /// The port of it.
    pub dst_port: u16,
    /// IP protocol number.
    pub protocol: u8,
}

/// What the table says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resolution {
    /// The destination is no Service.
    NotAService,
    /// Translate the destination to `backend`; where `masquerade`, the source to an address of this node, too.
    Forward {
        /// The Service port.
        service: ServiceId,
        /// The chosen backend.
        backend: SocketAddr,
        /// True where replies would otherwise miss us: traffic from outside under the Cluster policy, and a client
        /// that is its own backend (hairpin).
        masquerade: bool,
    },
    /// No endpoint at all, or a port that the cluster address does not have: answer with TCP RST or ICMP port
    /// unreachable.
    Reject {
        /// The Service port (of a port that does not exist: the first of the Service's).
        service: ServiceId,
    },
    /// Endpoints, but none that may be used here (Local policy without a local one, source ranges): silence.
    Drop {
        /// The Service port.
        service: ServiceId,
    },
}

/// All that [`ServiceTable::resolve`] may answer for a client's address, whatever its port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Candidates<'a> {
    /// The destination is no Service.
    NotAService,
    /// One of these backends.
    Forward {
        /// The Service port.
        service: ServiceId,
        /// In ascending order; at least one.
        backends: &'a [Member],
        /// Whether the source is translated, too. A backend that is the client's own address always is.
        masquerade: bool,
    },
    /// See [`Resolution::Reject`].
    Reject {
        /// The Service port.
        service: ServiceId,
    },
    /// See [`Resolution::Drop`].
    Drop {
        /// The Service port.
        service: ServiceId,
    },
}

/// On which of its own addresses a node takes node ports.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum NodePortAddresses {
    /// All addresses of its Node object.
    #[default]
    All,
    /// The first of each family (kube-proxy's `--nodeport-addresses=primary`).
    Primary,
    /// Those within the ranges (`--nodeport-addresses=CIDR,…`).
    Within(Vec<IpNet>),
}

/// What an operator may choose about Services.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ServiceOptions {
    /// Where node ports answer.
    pub node_ports: NodePortAddresses,
    /// Masquerades all that goes to cluster addresses (kube-proxy's `--masquerade-all`).
    pub masquerade_all: bool,
}

/// Services of one node.
#[derive(Debug, Default, Clone)]
pub struct ServiceTable {
    frontends: SharedMap<FrontendKey, FrontendEntry>,
    /// Node ports that an address which a Service names keeps from `frontends`.
    shadowed: SharedMap<FrontendKey, Vec<ServiceId>>,
    /// Every cluster address with the Service ports that have it, in the order of their names.
    cluster_addresses: SharedMap<IpAddr, Vec<ServiceId>>,
    /// Indexed by [`ServiceId`]; some numbers may be free.
    services: Vec<Option<Arc<ServiceEntry>>>,
    clients: Clients,
    site: Arc<Site>,
}

/// What is the same for all Services.
#[derive(Debug, Default)]
struct Site {
    node: Node,
    /// Where node ports answer.
    own: Vec<IpAddr>,
    masquerade_all: bool,
}

/// Where a Service is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct FrontendKey {
    address: IpAddr,
    port: u16,
    protocol: u8,
}

impl Hash for FrontendKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let rest = u64::from(self.protocol) << 16 | u64::from(self.port);
        state.write_u64(absorb_address(rest, self.address));
    }
}

impl Spread for FrontendKey {
    fn spread(&self) -> u64 {
        self.address.spread()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct FrontendEntry {
    service: ServiceId,
    kind: FrontendKind,
}

/// One Service port.
#[derive(Debug)]
struct ServiceEntry {
    name: ObjectName,
    port_name: String,
    internal: TrafficPolicy,
    external: TrafficPolicy,
    /// Under `sessionAffinity: ClientIP`, the Service's part of the hash.
    affinity: Option<u64>,
    /// Who may use the load-balancer addresses; empty for everyone.
    source_ranges: Box<[IpNet]>,
    /// For the Cluster policy; `None` where it is empty or no frontend uses it.
    cluster: Option<Arc<BackendSet>>,
    /// For the Local policy; `None` where it is empty or no frontend uses it.
    local: Option<Arc<BackendSet>>,
    /// Every backend that is ready or serving: where live flows may stay.
    serving: Option<Arc<BackendSet>>,
    /// Whether any node has an endpoint to offer.
    any: bool,
}

impl ServiceTable {
    /// Compiles the Services of `intent` for its node, with the options' defaults.
    ///
    /// # Errors
    /// [`CompileError::Invalid`] for a port 0, a backend of the wrong family or two Services at one address and port.
    pub fn compile(intent: &Intent) -> Result<Self, CompileError> {
        Self::compile_with(intent, &ServiceOptions::default())
    }

    /// Compiles the Services of `intent` for its node.
    ///
    /// # Errors
    /// As [`ServiceTable::compile`].
    pub fn compile_with(intent: &Intent, options: &ServiceOptions) -> Result<Self, CompileError> {
        Self::compile_view(&View::of(intent), options, &mut SetPool::default())
    }

    /// As [`ServiceTable::compile_with`]; lists of backends that `pool` knows are shared, not built again.
    pub(crate) fn compile_view(
        view: &View<'_>,
        options: &ServiceOptions,
        pool: &mut SetPool,
    ) -> Result<Self, CompileError> {
        compile::compile(view, options, pool)
    }

    /// Whether a change of endpoints alone changes it.
    pub(crate) fn depends_on(&self, endpoints: &Change<'_, Endpoint>) -> bool {
        self.clients.depend_on(endpoints)
    }

    /// The same table after a change of Services and of endpoints. The positions in errors are the change's.
    ///
    /// # Errors
    /// As [`ServiceTable::compile`].
    pub(crate) fn updated(
        &self,
        services: &Change<'_, Service>,
        endpoints: &Change<'_, Endpoint>,
        pool: &mut SetPool,
    ) -> Result<Self, CompileError> {
        compile::update(self, services, endpoints, pool)
    }

    /// What to do with the first packet of a flow. The choice is the same on every node that has the same backends
    /// to choose from.
    pub fn resolve(&self, query: &ServiceQuery) -> Resolution {
        match self.plan(query) {
            Plan::NotAService => Resolution::NotAService,
            Plan::Reject(service) => Resolution::Reject { service },
            Plan::Drop(service) => Resolution::Drop { service },
            Plan::Forward { service, affinity, set, masquerade } => match set.pick(hash(affinity, query)) {
                Some(backend) => {
                    let masquerade = masquerade || backend.ip() == query.src;
                    Resolution::Forward { service, backend, masquerade }
                }
                None => Resolution::Drop { service },
            },
        }
    }

    /// Every backend that [`ServiceTable::resolve`] may choose for this client.
    pub fn candidates(&self, query: &ServiceQuery) -> Candidates<'_> {
        match self.plan(query) {
            Plan::NotAService => Candidates::NotAService,
            Plan::Reject(service) => Candidates::Reject { service },
            Plan::Drop(service) => Candidates::Drop { service },
            Plan::Forward { service, set, masquerade, .. } => {
                Candidates::Forward { service, backends: set.members(), masquerade }
            }
        }
    }

    /// Whether `backend` is still one to which `service`'s live flows may go (ready, or serving while it terminates).
    /// A traffic policy or a hint that changed does not move live flows; a source range that changed ends them.
    pub fn still_serves(&self, query: &ServiceQuery, backend: SocketAddr) -> bool {
        let Some((frontend, service)) = self.frontend(query) else { return false };
        let admitted = frontend.kind != FrontendKind::LoadBalancer || service.admits(query.src);
        admitted && service.serving.as_ref().is_some_and(|set| set.contains(backend))
    }

    /// Every address, protocol and port that Services are reached at on this node, in no order; true for node ports.
    pub fn frontends(&self) -> impl Iterator<Item = (IpAddr, u8, u16, bool)> {
        let view = |(key, entry): (&FrontendKey, &FrontendEntry)| {
            (key.address, key.protocol, key.port, entry.kind == FrontendKind::NodePort)
        };
        self.frontends.iter().map(view)
    }

    /// The Service object and port name behind a number.
    pub fn name(&self, service: ServiceId) -> Option<(&ObjectName, &str)> {
        self.entry(service).map(|entry| (&entry.name, entry.port_name.as_str()))
    }

    /// Number of Service ports.
    pub fn len(&self) -> usize {
        self.services.iter().flatten().count()
    }

    /// Whether there are no Services.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Heap memory of the backends' lists and lookup tables, in bytes: what grows with the cluster.
    pub fn backend_bytes(&self) -> usize {
        self.sets().values().map(|set| set.bytes()).sum()
    }

    /// Heap memory of frontends and Services in bytes, the backends' apart.
    pub fn frontend_bytes(&self) -> usize {
        let entries = self.services.len() * size_of::<usize>() + self.len() * size_of::<ServiceEntry>();
        self.frontends.bytes() + self.cluster_addresses.bytes() + entries
    }

    /// The distinct lists of backends, by where they stand.
    fn sets(&self) -> FastMap<usize, &Arc<BackendSet>> {
        let entries = self.services.iter().flatten();
        let sets = entries.flat_map(|entry| [&entry.cluster, &entry.local, &entry.serving]).flatten();
        sets.map(|set| (Arc::as_ptr(set).addr(), set)).collect()
    }

    fn entry(&self, service: ServiceId) -> Option<&ServiceEntry> {
        self.services.get(service.0 as usize)?.as_deref()
    }

    fn frontend(&self, query: &ServiceQuery) -> Option<(FrontendEntry, &ServiceEntry)> {
        let key = FrontendKey { address: query.dst, port: query.dst_port, protocol: query.protocol };
        let frontend = *self.frontends.get(&key)?;
        self.entry(frontend.service).map(|service| (frontend, service))
    }

    fn plan(&self, query: &ServiceQuery) -> Plan<'_> {
        let Some((frontend, service)) = self.frontend(query) else {
            return self
                .cluster_addresses
                .get(&query.dst)
                .and_then(|services| services.first())
                .map_or(Plan::NotAService, |service| Plan::Reject(*service));
        };
        if frontend.kind == FrontendKind::LoadBalancer && !service.admits(query.src) {
            return Plan::Drop(frontend.service);
        }
        if !service.any {
            return Plan::Reject(frontend.service);
        }
        let (set, masquerade) = match frontend.kind {
            FrontendKind::ClusterIp => self.internal(service, query.src),
            FrontendKind::NodePort | FrontendKind::ExternalIp | FrontendKind::LoadBalancer => {
                self.external(service, query.src)
            }
        };
        match set {
            Some(set) => {
                Plan::Forward { service: frontend.service, affinity: service.affinity, set, masquerade }
            }
            None => Plan::Drop(frontend.service),
        }
    }

    fn internal<'a>(&self, service: &'a ServiceEntry, client: IpAddr) -> (Option<&'a BackendSet>, bool) {
        let off_cluster = self.clients.knows_pods(client) && !self.clients.is_pod(client);
        let set = match service.internal {
            TrafficPolicy::Cluster => service.cluster.as_deref(),
            TrafficPolicy::Local => service.local.as_deref(),
        };
        (set, self.site.masquerade_all || off_cluster)
    }

    fn external<'a>(&self, service: &'a ServiceEntry, client: IpAddr) -> (Option<&'a BackendSet>, bool) {
        let (cluster, local) = (service.cluster.as_deref(), service.local.as_deref());
        match service.external {
            TrafficPolicy::Cluster => (cluster, true),
            TrafficPolicy::Local if self.clients.knows_pods(client) && self.clients.is_pod(client) => {
                (cluster, false)
            }
            TrafficPolicy::Local if self.clients.is_node(client) => (cluster, true),
            TrafficPolicy::Local => (local, false),
        }
    }
}

/// `affinity` is the Service's part of the hash where clients stay with their backends.
fn hash(affinity: Option<u64>, query: &ServiceQuery) -> u64 {
    let hash = match affinity {
        Some(salt) => absorb_address(salt, query.src),
        None => {
            let ports =
                u64::from(query.protocol) << 32 | u64::from(query.src_port) << 16 | u64::from(query.dst_port);
            absorb(absorb_address(absorb_address(0, query.src), query.dst), ports)
        }
    };
    finish(hash)
}

impl ServiceEntry {
    fn admits(&self, client: IpAddr) -> bool {
        self.source_ranges.is_empty() || self.source_ranges.iter().any(|range| range.contains(&client))
    }
}

/// What is known before a backend is picked.
enum Plan<'a> {
    NotAService,
    Forward { service: ServiceId, affinity: Option<u64>, set: &'a BackendSet, masquerade: bool },
    Reject(ServiceId),
    Drop(ServiceId),
}
