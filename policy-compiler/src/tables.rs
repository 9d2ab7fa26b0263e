//! [`Tables`]: one immutable snapshot of policy, services and routes: what the workers judge by.
//!
//! ```text
//!   Tables ── generation
//!     ├─ policy    (src, dst, protocol, port) ──► egress and ingress decision, each with its rule
//!     ├─ services  (dst, protocol, port)      ──► backend, reject, drop; masquerade or not
//!     └─ routes    (address)                  ──► endpoint here, tunnel, this node, external, unreachable
//! ```
//!
//! Sub-tables sit behind `Arc`s, and are made of parts that are shared: [`Compiler`](crate::compiler::Compiler) keeps what has not changed.
//! Tables know neither ports nor MAC addresses: those are the dataplane's.

use std::sync::Arc;

use crate::intent::{Endpoint, Intent, ObjectName, Policy, Service};
use crate::policy::{Book, PolicyTable};
use crate::routes::RouteTable;
use crate::service::{ServiceOptions, ServiceTable, SetPool};
use crate::view::View;

/// What an intent may not exceed. A generation that does is refused whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capacity {
    /// Endpoints of the cluster.
    pub endpoints: usize,
    /// Identities.
    pub identities: usize,
    /// Rules over all policies.
    pub rules: usize,
    /// Service ports (entries of `Intent::services`).
    pub services: usize,
    /// Backends over all Services.
    pub backends: usize,
    /// Nodes of the cluster.
    pub nodes: usize,
}

impl Default for Capacity {
    fn default() -> Self {
        Capacity {
            endpoints: 200_000,
            identities: 65_536,
            rules: 200_000,
            services: 20_000,
            backends: 500_000,
            nodes: 16_384,
        }
    }
}

/// Why an intent cannot become tables. Nothing of it takes effect.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CompileError {
    /// A part refers to something that is not there, or holds an impossible value.
    #[error("{object}: {field}: {problem}")]
    Invalid {
        /// The object at fault: "NetworkPolicy ns/name", "Service ns/name", "node", …
        object: String,
        /// The path of the field within the intent's part, such as `ingress[2].peers.identities[0]`.
        field: String,
        /// What is wrong.
        problem: String,
    },
    /// An update takes away what is not there.
    #[error("{object}: name: is to be removed, but is not there")]
    Missing {
        /// The object.
        object: String,
    },
    /// More than the capacity allows.
    #[error("{resource}: {wanted} exceed the capacity of {limit}; most are from {culprit}")]
    Capacity {
        /// Which budget: "rules", "backends", …
        resource: &'static str,
        /// How many the intent has.
        wanted: usize,
        /// How many fit.
        limit: usize,
        /// The object (or namespace) that uses most of it, with its count.
        culprit: String,
    },
}

/// One immutable snapshot of everything the workers judge by.
#[derive(Debug, Clone)]
pub struct Tables {
    /// Number of the transaction that brought it; 0 for the empty tables before the first.
    pub generation: u64,
    /// VXLAN network identifier of the pod network.
    pub vni: u32,
    /// Name of this node.
    pub node: String,
    /// Who may talk to whom.
    pub policy: Arc<PolicyTable>,
    /// Services and their backends.
    pub services: Arc<ServiceTable>,
    /// Where addresses are.
    pub routes: Arc<RouteTable>,
}

impl Tables {
    /// The tables before the first generation: no endpoints, no services, everything unreachable.
    pub fn empty() -> Self {
        Tables {
            generation: 0,
            vni: 0,
            node: String::new(),
            policy: Arc::new(PolicyTable::default()),
            services: Arc::new(ServiceTable::default()),
            routes: Arc::new(RouteTable::default()),
        }
    }

    /// Compiles `intent` as generation `generation`. Checks all of it first.
    ///
    /// # Errors
    /// [`CompileError`], naming object and field, where a reference does not resolve, a value is impossible or a
    /// capacity is exceeded.
    pub fn compile(intent: &Intent, generation: u64, capacity: &Capacity) -> Result<Self, CompileError> {
        let view = View::of(intent);
        let compiled = Self::compile_view(&view, intent.vni, generation, capacity, &mut SetPool::default());
        compiled.map(|(tables, ..)| tables)
    }

    /// As [`Tables::compile`], with what it counted on the way and what the next policy table is made from.
    pub(crate) fn compile_view(
        view: &View<'_>,
        vni: u32,
        generation: u64,
        capacity: &Capacity,
        pool: &mut SetPool,
    ) -> Result<(Self, Amounts, Book), CompileError> {
        let amounts = Amounts::of(view);
        amounts.check(view, capacity)?;
        let routes = Arc::new(RouteTable::compile_view(view)?);
        let (policy, book) = PolicyTable::compile_view(view)?;
        let tables = Tables {
            generation,
            vni,
            node: view.node.to_owned(),
            routes,
            policy: Arc::new(policy),
            services: Arc::new(ServiceTable::compile_view(view, &ServiceOptions::default(), pool)?),
        };
        Ok((tables, amounts, book))
    }
}

/// How much of each an intent holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Amounts {
    nodes: usize,
    identities: usize,
    endpoints: usize,
    rules: usize,
    services: usize,
    backends: usize,
}

impl Amounts {
    fn of(view: &View<'_>) -> Self {
        let none =
            Amounts { nodes: view.nodes.len(), identities: view.identities.len(), ..Amounts::default() };
        let endpoints: Vec<_> = view.endpoints().collect();
        let policies: Vec<_> = view.policies().map(|policy| (0, policy)).collect();
        none.more(&endpoints, &policies, &view.services().collect::<Vec<_>>())
    }

    /// With those, too.
    pub(crate) fn more(
        self,
        endpoints: &[(u32, &Endpoint)],
        policies: &[(u32, &Policy)],
        services: &[(u32, &Service)],
    ) -> Self {
        Amounts {
            endpoints: self.endpoints + endpoints.len(),
            rules: self.rules + policies.iter().map(|(_, policy)| rules(policy)).sum::<usize>(),
            services: self.services + services.len(),
            backends: self.backends + backends(services),
            ..self
        }
    }

    /// Without those, which are among them.
    pub(crate) fn less(
        self,
        endpoints: &[(u32, &Endpoint)],
        policies: &[(u32, &Policy)],
        services: &[(u32, &Service)],
    ) -> Self {
        let gone = Amounts::default().more(endpoints, policies, services);
        Amounts {
            endpoints: self.endpoints.saturating_sub(gone.endpoints),
            rules: self.rules.saturating_sub(gone.rules),
            services: self.services.saturating_sub(gone.services),
            backends: self.backends.saturating_sub(gone.backends),
            ..self
        }
    }

    /// With so many identities.
    pub(crate) fn with_identities(self, identities: usize) -> Self {
        Amounts { identities, ..self }
    }

    /// Whether all fit.
    pub(crate) fn fit(&self, capacity: &Capacity) -> bool {
        self.nodes <= capacity.nodes
            && self.identities <= capacity.identities
            && self.endpoints <= capacity.endpoints
            && self.rules <= capacity.rules
            && self.services <= capacity.services
            && self.backends <= capacity.backends
    }

    /// Refuses the first that does not fit; `view` is what was counted, to name a culprit.
    pub(crate) fn check(&self, view: &View<'_>, capacity: &Capacity) -> Result<(), CompileError> {
        if self.fit(capacity) {
            return Ok(());
        }
        let over = |resource, wanted, limit, culprit: &dyn Fn() -> String| {
            if wanted <= limit {
                return Ok(());
            }
            Err(CompileError::Capacity { resource, wanted, limit, culprit: culprit() })
        };
        let services = || view.services().map(|(_, service)| service);
        over("nodes", self.nodes, capacity.nodes, &|| "the cluster".into())?;
        over("identities", self.identities, capacity.identities, &|| "the policies' selectors".into())?;
        over("endpoints", self.endpoints, capacity.endpoints, &|| busiest_namespace(view))?;
        over("rules", self.rules, capacity.rules, &|| {
            most(view.policies().map(|policy| (&policy.name, rules(policy))))
        })?;
        over("services", self.services, capacity.services, &|| {
            most(services().map(|service| (&service.name, service.frontends.len())))
        })?;
        over("backends", self.backends, capacity.backends, &|| {
            most(services().map(|service| (&service.name, service.backends.len())))
        })
    }
}

fn rules(policy: &Policy) -> usize {
    policy.ingress.as_ref().map_or(0, Vec::len) + policy.egress.as_ref().map_or(0, Vec::len)
}

fn backends(services: &[(u32, &Service)]) -> usize {
    services.iter().map(|(_, service)| service.backends.len()).sum()
}

fn most<'a>(counts: impl Iterator<Item = (&'a ObjectName, usize)>) -> String {
    let most = counts.max_by_key(|(_, count)| *count);
    most.map_or(String::new(), |(name, count)| format!("{name} ({count})"))
}

fn busiest_namespace(view: &View<'_>) -> String {
    let mut counts = std::collections::BTreeMap::<&str, usize>::new();
    for (_, endpoint) in view.endpoints() {
        *counts.entry(&endpoint.name.namespace).or_default() += 1;
    }
    let busiest = counts.into_iter().max_by_key(|(_, count)| *count);
    busiest.map_or(String::new(), |(namespace, count)| format!("namespace {namespace} ({count})"))
}
