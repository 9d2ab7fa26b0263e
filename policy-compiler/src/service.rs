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
mod picks;
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

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use ipnet::IpNet;

use crate::hash::{FastMap, absorb, absorb_address, finish};
use crate::intent::{Endpoint, FrontendKind, Intent, Node, ObjectName, Service, TrafficPolicy};
use crate::maglev::Member;
use crate::shared_map::{Key, SharedMap, Split, halves, joined};
use crate::tables::CompileError;
use crate::view::{Change, View};
use clients::Clients;
use picks::Picks;
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

/// An answer of which a part stands in memory that has not been read yet: [`Choice::resolution`].
#[derive(Debug, Clone, Copy)]
pub struct Choice<'a>(Chosen<'a>);

#[derive(Debug, Clone, Copy)]
enum Chosen<'a> {
    /// Nothing is to be read any more.
    Made(Resolution),
    /// The backend of a slot, for that client; the source is translated in any case, or only where the two are one.
    Slot { service: ServiceId, picks: &'a Picks, slot: usize, v6: bool, masquerade: bool, client: IpAddr },
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

impl Key for FrontendKey {
    type V4 = u64;
    type V6 = [u64; 3];

    #[inline]
    fn split(self) -> Split<u64, [u64; 3]> {
        let rest = u64::from(self.port) << 8 | u64::from(self.protocol);
        match self.address {
            IpAddr::V4(v4) => Split::V4(u64::from(v4.to_bits()) << 24 | rest),
            IpAddr::V6(v6) => {
                let [high, low] = halves(v6);
                Split::V6([high, low, rest])
            }
        }
    }

    fn join(split: Split<u64, [u64; 3]>) -> Self {
        let (address, rest) = match split {
            Split::V4(word) => (Ipv4Addr::from_bits((word >> 24) as u32).into(), word),
            Split::V6([high, low, rest]) => (joined([high, low]).into(), rest),
        };
        FrontendKey { address, port: (rest >> 8) as u16, protocol: rest as u8 }
    }
}

/// All that the common first packet asks of its Service: one cache line with its key (IPv4).
#[derive(Debug, Clone)]
struct FrontendEntry {
    service: ServiceId,
    kind: FrontendKind,
    /// The traffic policy of this kind.
    policy: TrafficPolicy,
    /// Whether any node has an endpoint to offer.
    any: bool,
    /// Under `sessionAffinity: ClientIP`, the Service's part of the hash.
    affinity: Option<u64>,
    /// What is picked from under the Cluster policy; `None` where it is empty or no frontend uses it.
    cluster: Option<Picks>,
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
        self.choose(query).resolution()
    }

    /// The first half of [`ServiceTable::resolve`]: all but reading which backend it is.
    #[inline]
    pub fn choose(&self, query: &ServiceQuery) -> Choice<'_> {
        let (service, affinity, set, masquerade) = match self.plan(query) {
            Plan::NotAService => return Choice(Chosen::Made(Resolution::NotAService)),
            Plan::Reject(service) => return Choice(Chosen::Made(Resolution::Reject { service })),
            Plan::Drop(service) => return Choice(Chosen::Made(Resolution::Drop { service })),
            Plan::Forward { service, affinity, set, masquerade } => (service, affinity, set, masquerade),
        };
        let picks = match set {
            Set::Cluster(picks) => Some(picks),
            Set::Local => self.local(service).and_then(BackendSet::picks),
        };
        Choice(match picks {
            Some(picks) => {
                let (slot, v6) = (picks.slot(hash(affinity, query)), query.dst.is_ipv6());
                Chosen::Slot { service, picks, slot, v6, masquerade, client: query.src }
            }
            None => Chosen::Made(Resolution::Drop { service }),
        })
    }

    /// Every backend that [`ServiceTable::resolve`] may choose for this client.
    pub fn candidates(&self, query: &ServiceQuery) -> Candidates<'_> {
        match self.plan(query) {
            Plan::NotAService => Candidates::NotAService,
            Plan::Reject(service) => Candidates::Reject { service },
            Plan::Drop(service) => Candidates::Drop { service },
            Plan::Forward { service, set, masquerade, .. } => {
                let set = match set {
                    Set::Cluster(_) => self.entry(service).and_then(|entry| entry.cluster.as_deref()),
                    Set::Local => self.local(service),
                };
                match set {
                    Some(set) => Candidates::Forward { service, backends: set.members(), masquerade },
                    None => Candidates::Drop { service },
                }
            }
        }
    }

    /// Where [`ServiceTable::choose`] begins to read, for those who know of the packet before. `None` where there is nothing to read.
    #[inline]
    pub fn first_read(&self, dst: IpAddr, dst_port: u16, protocol: u8) -> Option<*const u8> {
        self.frontends.first_read(&FrontendKey { address: dst, port: dst_port, protocol })
    }

    /// Whether `backend` is still one to which `service`'s live flows may go (ready, or serving while it terminates).
    /// A traffic policy or a hint that changed does not move live flows; a source range that changed ends them.
    pub fn still_serves(&self, query: &ServiceQuery, backend: SocketAddr) -> bool {
        let Some(frontend) = self.frontend(query) else { return false };
        let Some(service) = self.entry(frontend.service) else { return false };
        let admitted = frontend.kind != FrontendKind::LoadBalancer || service.admits(query.src);
        admitted && service.serving.as_ref().is_some_and(|set| set.contains(backend))
    }

    /// Every address, protocol and port that Services are reached at on this node, in no order; true for node ports.
    pub fn frontends(&self) -> impl Iterator<Item = (IpAddr, u8, u16, bool)> {
        let view = |(key, entry): (FrontendKey, &FrontendEntry)| {
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

    fn local(&self, service: ServiceId) -> Option<&BackendSet> {
        self.entry(service)?.local.as_deref()
    }

    #[inline]
    fn frontend(&self, query: &ServiceQuery) -> Option<&FrontendEntry> {
        self.frontends.get(&FrontendKey {
            address: query.dst,
            port: query.dst_port,
            protocol: query.protocol,
        })
    }

    #[inline]
    fn plan(&self, query: &ServiceQuery) -> Plan<'_> {
        let Some(frontend) = self.frontend(query) else { return self.without_frontend(query) };
        let service = frontend.service;
        if frontend.kind == FrontendKind::LoadBalancer
            && !self.entry(service).is_some_and(|entry| entry.admits(query.src))
        {
            return Plan::Drop(service);
        }
        if !frontend.any {
            return Plan::Reject(service);
        }
        let (policy, masquerade) = match frontend.kind {
            FrontendKind::ClusterIp => (frontend.policy, self.is_masqueraded(query.src)),
            FrontendKind::NodePort | FrontendKind::ExternalIp | FrontendKind::LoadBalancer => {
                self.external(frontend.policy, query.src)
            }
        };
        let set = match (policy, &frontend.cluster) {
            (TrafficPolicy::Local, _) => Set::Local,
            (TrafficPolicy::Cluster, Some(picks)) => Set::Cluster(picks),
            (TrafficPolicy::Cluster, None) => return Plan::Drop(service),
        };
        Plan::Forward { service, affinity: frontend.affinity, set, masquerade }
    }

    /// A cluster address on a port that it has not, or no Service at all.
    fn without_frontend(&self, query: &ServiceQuery) -> Plan<'_> {
        let services = self.cluster_addresses.get(&query.dst);
        services
            .and_then(|services| services.first())
            .map_or(Plan::NotAService, |service| Plan::Reject(*service))
    }

    /// Whether traffic of a client to cluster addresses is.
    fn is_masqueraded(&self, client: IpAddr) -> bool {
        let off_cluster = || self.clients.knows_pods(client) && !self.clients.is_pod(client);
        self.site.masquerade_all || off_cluster()
    }

    /// The policy that holds for a client that comes by an external address, and whether it is masqueraded.
    fn external(&self, policy: TrafficPolicy, client: IpAddr) -> (TrafficPolicy, bool) {
        match policy {
            TrafficPolicy::Cluster => (TrafficPolicy::Cluster, true),
            TrafficPolicy::Local if self.clients.knows_pods(client) && self.clients.is_pod(client) => {
                (TrafficPolicy::Cluster, false)
            }
            TrafficPolicy::Local if self.clients.is_node(client) => (TrafficPolicy::Cluster, true),
            TrafficPolicy::Local => (TrafficPolicy::Local, false),
        }
    }
}

impl Choice<'_> {
    /// What the table says in the end.
    #[inline]
    pub fn resolution(&self) -> Resolution {
        match self.0 {
            Chosen::Made(resolution) => resolution,
            Chosen::Slot { service, picks, slot, v6, masquerade, client } => match picks.backend(slot, v6) {
                Some(backend) => {
                    let masquerade = masquerade || backend.ip() == client;
                    Resolution::Forward { service, backend, masquerade }
                }
                None => Resolution::Drop { service },
            },
        }
    }

    /// Where [`Choice::resolution`] is going to read, for those who ask for it later.
    #[inline]
    pub fn reads(&self) -> Option<[*const u8; 2]> {
        match self.0 {
            Chosen::Made(_) => None,
            Chosen::Slot { picks, slot, v6, .. } => picks.reads(slot, v6),
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
    Forward { service: ServiceId, affinity: Option<u64>, set: Set<'a>, masquerade: bool },
    Reject(ServiceId),
    Drop(ServiceId),
}

/// Which backends are picked from.
enum Set<'a> {
    Cluster(&'a Picks),
    /// Those on this node, which the Service's entry has.
    Local,
}
