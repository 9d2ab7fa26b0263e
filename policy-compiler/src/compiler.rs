//! [`Compiler`]: the state in force and its tables; makes the next ones from what changes.
//!
//! ```text
//!   Intent ──► Compiler::new ──► Tables                                 all of it
//!   Update ──► prepare ──► Prepared { Tables } ──► commit               what it names; the rest is shared
//!                 └ refused: nothing has changed        └ only once the tables are in force
//! ```
//!
//! | changed | compiled again |
//! |---|---|
//! | a Service | its entry, its frontends; its backends' look-up table where no Service had those before |
//! | an endpoint | its addresses in routes, policy and clients |
//! | a policy, an identity more | what follows for the endpoints that it selects, and the classes that its peers split |
//! | a hostNetwork pod that is at no known node, the first rule that may deny an unknown pod | the policy table |
//! | nodes, ranges | everything (no update says that) |
//!
//! The slow twin is [`Update::apply_to`] with [`Tables::compile`]: the answers are the same, numbers of Services, endpoints and
//! rules need not be.

mod checked;

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use crate::check::Checker;
use crate::intent::update::Update;
use crate::intent::{Endpoint, Identity, Intent, Node, Policy, Service};
use crate::policy::{Book, Changes, PolicyTable, Updated};
use crate::service::SetPool;
use crate::slots::{Plan, Slots};
use crate::tables::{Amounts, Capacity, CompileError, Tables};
use crate::view::{Change, View};

/// Addresses that are told apart at most, where an update touches many: more are everything.
const MOST_TOUCHED: usize = 4096;

/// The state in force, with its tables.
#[derive(Debug)]
pub struct Compiler {
    capacity: Capacity,
    node: String,
    vni: u32,
    nodes: Vec<Node>,
    service_ranges: Vec<IpNet>,
    identities: Vec<Identity>,
    endpoints: Slots<Endpoint>,
    policies: Slots<Policy>,
    services: Slots<Service>,
    amounts: Amounts,
    pool: SetPool,
    tables: Tables,
    /// What the next policy table is made from; gone where an update was prepared and not made.
    book: Option<Book>,
    /// There from the first check on.
    checker: Option<Checker>,
}

/// Addresses of which tables may say something else than those before them: as a flow's source or destination, before translation
/// or after it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Touched {
    /// Whatever there is.
    Everything,
    /// These; what the tables say of flows between others is as it was.
    Addresses(Vec<IpAddr>),
}

impl Touched {
    /// Those, unless they are too many to be told apart.
    fn those(mut addresses: Vec<IpAddr>) -> Self {
        addresses.sort_unstable();
        addresses.dedup();
        if addresses.len() > MOST_TOUCHED { Touched::Everything } else { Touched::Addresses(addresses) }
    }

    /// Both.
    fn and(self, other: Touched) -> Self {
        match (self, other) {
            (Touched::Addresses(ours), Touched::Addresses(theirs)) => {
                Touched::those(ours.into_iter().chain(theirs).collect())
            }
            _ => Touched::Everything,
        }
    }
}

/// The tables of an update that is not made yet.
#[derive(Debug)]
pub struct Prepared {
    tables: Tables,
    touched: Touched,
    update: Update,
    amounts: Amounts,
    /// Where the policy table is another: what the next one is made from.
    book: Option<Book>,
    endpoints: Plan,
    policies: Plan,
    services: Plan,
}

impl Prepared {
    /// The tables.
    pub fn tables(&self) -> &Tables {
        &self.tables
    }

    /// What they say something else of.
    pub fn touched(&self) -> &Touched {
        &self.touched
    }
}

impl Compiler {
    /// Compiles all of `intent` as generation `generation`. Look-up tables over backends that `before` has are taken from it.
    ///
    /// # Errors
    /// As [`Tables::compile`].
    pub fn new(
        intent: Intent,
        generation: u64,
        capacity: &Capacity,
        before: Option<&Compiler>,
    ) -> Result<Self, CompileError> {
        let mut pool = before.map(|before| before.pool.clone()).unwrap_or_default();
        let view = View::of(&intent);
        let (tables, amounts, book) =
            Tables::compile_view(&view, intent.vni, generation, capacity, &mut pool)?;
        Ok(Compiler {
            capacity: *capacity,
            node: intent.node,
            vni: intent.vni,
            nodes: intent.nodes,
            service_ranges: intent.service_ranges,
            identities: intent.identities,
            endpoints: Slots::new(intent.endpoints),
            policies: Slots::new(intent.policies),
            services: Slots::new(intent.services),
            amounts,
            pool,
            tables,
            book: Some(book),
            checker: None,
        })
    }

    /// The tables in force.
    pub fn tables(&self) -> &Tables {
        &self.tables
    }

    /// The state in force. Parts that came by updates may stand in another order than they were sent in.
    pub fn intent(&self) -> Intent {
        Intent {
            node: self.node.clone(),
            vni: self.vni,
            nodes: self.nodes.clone(),
            identities: self.identities.clone(),
            endpoints: self.endpoints.iter().cloned().collect(),
            policies: self.policies.iter().cloned().collect(),
            services: self.services.iter().cloned().collect(),
            service_ranges: self.service_ranges.clone(),
        }
    }

    /// This node, where it is among the nodes.
    pub fn node(&self) -> Option<&Node> {
        self.nodes.iter().find(|node| node.name == self.node)
    }

    /// The policies in force.
    pub fn policies(&self) -> impl Iterator<Item = &Policy> {
        self.policies.iter()
    }

    /// Address ranges of Services.
    pub fn service_ranges(&self) -> &[IpNet] {
        &self.service_ranges
    }

    /// Compiles what an update changes, as generation `generation`. Nothing is changed yet.
    ///
    /// # Errors
    /// [`CompileError`] as for the whole state; positions in it are the update's. [`CompileError::Missing`] for what
    /// should go but is not there.
    pub fn prepare(&mut self, update: Update, generation: u64) -> Result<Prepared, CompileError> {
        let missing = |object: String| CompileError::Missing { object };
        let endpoints = self.endpoints.plan(&update.removed_endpoints, &update.endpoints);
        let endpoints = endpoints.map_err(|name| missing(format!("Pod {name}")))?;
        let policies = self.policies.plan(&update.removed_policies, &update.policies);
        let policies = policies.map_err(|name| missing(name.to_string()))?;
        let services = self.services.plan(&update.removed_services, &update.services);
        let services = services.map_err(|name| missing(format!("Service {name}")))?;
        let changed_endpoints = self.endpoints.change(&endpoints, &update.endpoints);
        let changed_policies = self.policies.change(&policies, &update.policies);
        let changed_services = self.services.change(&services, &update.services);
        let amounts = self
            .amounts
            .less(&changed_endpoints.removed, &changed_policies.removed, &changed_services.removed)
            .more(&changed_endpoints.added, &changed_policies.added, &changed_services.added)
            .with_identities(self.identities.len() + update.identities.len());
        let view = || View {
            node: &self.node,
            nodes: &self.nodes,
            identities: self.identities.iter().chain(&update.identities).collect(),
            endpoints: self.endpoints.view(&endpoints, &update.endpoints),
            policies: self.policies.view(&policies, &update.policies),
            services: self.services.view(&services, &update.services),
            service_ranges: &self.service_ranges,
        };
        if !amounts.fit(&self.capacity) {
            amounts.check(&view(), &self.capacity)?;
        }
        let mut tables = Tables { generation, ..self.tables.clone() };
        if !changed_endpoints.is_empty() {
            tables.routes = Arc::new(tables.routes.updated(&changed_endpoints)?);
        }
        if !changed_services.is_empty() || tables.services.depends_on(&changed_endpoints) {
            let services = tables.services.updated(&changed_services, &changed_endpoints, &mut self.pool)?;
            tables.services = Arc::new(services);
        }
        let mut touched = self.touched(&changed_endpoints, &changed_services);
        let changes = Changes {
            identities: update.identities.iter().collect(),
            policies: with_depending(
                changed_policies,
                &self.policies,
                self.book.as_ref(),
                &update.identities,
            ),
            endpoints: changed_endpoints,
        };
        let mut book = None;
        if !changes.is_empty() {
            let (made, policy, selected) = match updated(&mut self.book, &tables.policy, &changes)? {
                Some((book, updated)) => (book, updated.table, Touched::those(updated.touched)),
                None => {
                    let (policy, book) = PolicyTable::compile_view(&view())?;
                    (book, policy, Touched::Everything)
                }
            };
            tables.policy = Arc::new(policy);
            touched = touched.and(selected);
            book = Some(made);
        }
        Ok(Prepared { tables, touched, update, amounts, book, endpoints, policies, services })
    }

    /// What is said of an endpoint depends on its addresses, and what is said of a Service on its frontends': a flow has the
    /// one or the other at one of its ends, before translation or after it.
    fn touched(&self, endpoints: &Change<'_, Endpoint>, services: &Change<'_, Service>) -> Touched {
        let mut touched = Vec::new();
        for (_, endpoint) in endpoints.removed.iter().chain(&endpoints.added) {
            touched.extend_from_slice(&endpoint.addresses);
        }
        let changed = || services.removed.iter().chain(&services.added);
        for frontend in changed().flat_map(|(_, service)| &service.frontends) {
            match frontend.address {
                Some(address) => touched.push(address),
                // A node port, which this node has on addresses of its own.
                None => touched.extend(self.node().into_iter().flat_map(|node| &node.addresses)),
            }
        }
        Touched::those(touched)
    }

    /// Makes the update that was prepared last: its tables are in force.
    pub fn commit(&mut self, prepared: Prepared) {
        self.commit_checker(&prepared);
        let Prepared { tables, update, amounts, book, endpoints, policies, services, .. } = prepared;
        self.identities.extend(update.identities);
        self.endpoints.commit(&endpoints, update.endpoints);
        self.policies.commit(&policies, update.policies);
        self.services.commit(&services, update.services);
        (self.tables, self.amounts) = (tables, amounts);
        if book.is_some() {
            self.book = book;
        }
    }
}

/// With the policies to which identities more make a difference, as if they changed.
fn with_depending<'a>(
    mut change: Change<'a, Policy>,
    policies: &'a Slots<Policy>,
    book: Option<&Book>,
    more: &[Identity],
) -> Change<'a, Policy> {
    for number in book.map(|book| book.depending(more)).unwrap_or_default() {
        let changes = change.removed.iter().any(|(changed, _)| *changed == number);
        if let Some(policy) = policies.get(number).filter(|_| !changes) {
            change.removed.push((number, policy));
            change.added.push((number, policy));
        }
    }
    change
}

/// The policy table after a change, made from the one before, with the book for the next. `None` where all must be compiled.
fn updated(
    book: &mut Option<Book>,
    table: &PolicyTable,
    changes: &Changes<'_>,
) -> Result<Option<(Book, Updated)>, CompileError> {
    let Some(mut ours) = book.take().filter(|book| !book.is_worn(table)) else { return Ok(None) };
    match ours.update(table, changes) {
        Ok(updated) => Ok(updated.map(|updated| (ours, updated))),
        Err(refused) => {
            *book = Some(ours);
            Err(refused)
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
