//! [`Tables`]: one immutable snapshot of policy, services and routes: what the workers judge by.
//!
//! ```text
//!   Tables ── generation
//!     ├─ policy    (src, dst, protocol, port) ──► egress and ingress decision, each with its rule
//!     ├─ services  (dst, protocol, port)      ──► backend, reject, drop; masquerade or not
//!     └─ routes    (address)                  ──► endpoint here, tunnel, this node, external, unreachable
//! ```
//!
//! Sub-tables sit behind `Arc`s: [`Tables::compile`] keeps those whose part of the intent has not changed.
//! Tables know neither ports nor MAC addresses: those are the dataplane's.

use std::sync::Arc;

use crate::intent::{Intent, ObjectName};
use crate::policy::PolicyTable;
use crate::routes::RouteTable;
use crate::service::ServiceTable;

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
        check_capacity(intent, capacity)?;
        Ok(Tables {
            generation,
            vni: intent.vni,
            node: intent.node.clone(),
            routes: Arc::new(RouteTable::compile(intent)?),
            policy: Arc::new(PolicyTable::compile(intent)?),
            services: Arc::new(ServiceTable::compile(intent)?),
        })
    }
}

fn check_capacity(intent: &Intent, capacity: &Capacity) -> Result<(), CompileError> {
    let rules = |p: &crate::intent::Policy| {
        p.ingress.as_ref().map_or(0, Vec::len) + p.egress.as_ref().map_or(0, Vec::len)
    };
    let most = |counts: &mut dyn Iterator<Item = (&ObjectName, usize)>| {
        counts
            .max_by_key(|(_, count)| *count)
            .map_or(String::new(), |(name, count)| format!("{name} ({count})"))
    };
    let policies = &intent.policies;
    let services = &intent.services;
    let over = |resource, wanted, limit, culprit: String| {
        if wanted > limit { Err(CompileError::Capacity { resource, wanted, limit, culprit }) } else { Ok(()) }
    };
    over("nodes", intent.nodes.len(), capacity.nodes, "the cluster".into())?;
    over("identities", intent.identities.len(), capacity.identities, "the policies' selectors".into())?;
    over("endpoints", intent.endpoints.len(), capacity.endpoints, busiest_namespace(intent))?;
    over(
        "rules",
        policies.iter().map(rules).sum(),
        capacity.rules,
        most(&mut policies.iter().map(|p| (&p.name, rules(p)))),
    )?;
    over(
        "services",
        services.len(),
        capacity.services,
        most(&mut services.iter().map(|s| (&s.name, s.frontends.len()))),
    )?;
    over(
        "backends",
        services.iter().map(|s| s.backends.len()).sum(),
        capacity.backends,
        most(&mut services.iter().map(|s| (&s.name, s.backends.len()))),
    )
}

fn busiest_namespace(intent: &Intent) -> String {
    let mut counts = std::collections::BTreeMap::<&str, usize>::new();
    for endpoint in &intent.endpoints {
        *counts.entry(&endpoint.name.namespace).or_default() += 1;
    }
    let busiest = counts.into_iter().max_by_key(|(_, count)| *count);
    busiest.map_or(String::new(), |(namespace, count)| format!("namespace {namespace} ({count})"))
}
