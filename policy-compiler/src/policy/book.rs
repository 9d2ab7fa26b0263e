//! [`Book`]: what is remembered beside a [`PolicyTable`], so that the next one costs what changes.
//!
//! All is compiled as a change of nothing:
//!
//! 1. Identities: those that there are more.
//! 2. Policies: their rules get numbers, their peers are groups (`parts`, `groups`), their subjects are noted.
//! 3. Groups split classes (`classes`).
//! 4. Blocks split addresses (`blocks`).
//! 5. Nodes and endpoints: each address has a profile.
//! 6. Rows take in the classes that are new (`rows`).
//! 7. Subjects of the identities that changed policies select, or have selected (`subjects`).
//! 8. Port lists of the subjects that these policies are in (`ports`).
//! 9. Profiles with another class or other subjects.
//!
//! Numbers of rules, groups, classes, rows and port lists are given once. What nobody uses any more stays, until it is as much again
//! as what there was at first ([`Book::is_worn`]): then all is compiled anew.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use super::classes::{Classes, Owner};
use super::groups::Groups;
use super::parts::{NamedPorts, Part, check, invalid, is_against_strangers};
use super::ports::PortLists;
use super::rows::Rows;
use super::subjects::{Key, Subjects};
use super::{Entry, NOBODY, PolicyOrigin, PolicyTable, Profile, RuleId, RuleOrigin, Rules, Subject};
use crate::hash::FastMap;
use crate::intent::{Endpoint, Identity, IpBlock, Node, ObjectName, Policy, Protocol, Rule, Tier};
use crate::shared_map::SharedMap;
use crate::tables::CompileError;
use crate::view::{Change, View};

/// What nobody uses any more may be so much more than there was at first.
const WORN: usize = 16_384;

/// See the module.
#[derive(Debug)]
pub(crate) struct Book {
    /// By number.
    policies: Vec<Option<Record>>,
    identities: Vec<IdentityRecord>,
    named: NamedPorts,
    groups: Groups,
    classes: Classes,
    rows: Rows,
    ports: PortLists,
    subjects: Subjects,
    nodes: FastMap<String, u32>,
    pod_ranges: Vec<IpNet>,
    /// All that the table knows exactly, once there is a table.
    addresses: BTreeSet<IpAddr>,
    /// Addresses of hostNetwork pods that no node has.
    stray_hosts: BTreeSet<IpAddr>,
    /// Once all has been compiled: how much there was.
    first: Option<usize>,
}

/// What changes for a [`PolicyTable`].
pub(crate) struct Changes<'a> {
    /// Identities more.
    pub(crate) identities: Vec<&'a Identity>,
    pub(crate) policies: Change<'a, Policy>,
    /// The routes have accepted it.
    pub(crate) endpoints: Change<'a, Endpoint>,
}

impl Changes<'_> {
    /// Whether nothing changes.
    pub(crate) fn is_empty(&self) -> bool {
        self.identities.is_empty() && self.policies.is_empty() && self.endpoints.is_empty()
    }
}

/// A table after a change.
pub(crate) struct Updated {
    pub(crate) table: PolicyTable,
    /// The addresses of endpoints that policies which changed select, or have selected.
    pub(crate) touched: Vec<IpAddr>,
}

/// What is remembered of a policy.
#[derive(Debug)]
struct Record {
    /// Policies are asked in this order.
    order: (Tier, ObjectName, u32),
    origin: Arc<PolicyOrigin>,
    subjects: BTreeSet<u32>,
    ingress: Option<Direction>,
    egress: Option<Direction>,
}

/// What a policy says of a direction.
#[derive(Debug, Default)]
struct Direction {
    rules: Vec<RuleId>,
    parts: Vec<Part>,
}

#[derive(Debug, Default)]
struct IdentityRecord {
    named_ports: Vec<(String, Protocol, u16)>,
    /// The policies that select it for ingress and for egress, in the order in which they are asked.
    policies: [Vec<u32>; 2],
    /// The subjects that it is.
    subjects: [u32; 2],
    /// Of its endpoints, those of hostNetwork pods left out.
    addresses: Vec<IpAddr>,
}

/// Ingress and egress, as they stand in pairs.
const DIRECTIONS: [(usize, bool); 2] = [(0, true), (1, false)];

impl Record {
    fn direction(&self, ingress: bool) -> Option<&Direction> {
        if ingress { self.ingress.as_ref() } else { self.egress.as_ref() }
    }
}

impl Book {
    /// Of a cluster with nodes and nothing else.
    fn new(view: &View<'_>) -> Self {
        let groups = Groups::default();
        Book {
            policies: Vec::new(),
            identities: Vec::new(),
            named: NamedPorts::default(),
            classes: Classes::new(&groups),
            groups,
            rows: Rows::default(),
            ports: PortLists::default(),
            subjects: Subjects::default(),
            nodes: view.nodes.iter().map(|node| node.name.clone()).zip(0..).collect(),
            pod_ranges: view.nodes.iter().flat_map(|node| node.pod_cidrs.iter().copied()).collect(),
            addresses: BTreeSet::new(),
            stray_hosts: BTreeSet::new(),
            first: None,
        }
    }

    /// Compiles all of a view.
    pub(super) fn compile(view: &View<'_>) -> Result<(PolicyTable, Self), CompileError> {
        let mut book = Book::new(view);
        let policies = (0..).zip(&view.policies).filter_map(|(number, one)| Some((number, (*one)?)));
        let changes = Changes {
            identities: view.identities.clone(),
            policies: Change { removed: Vec::new(), added: policies.collect() },
            endpoints: Change { removed: Vec::new(), added: view.endpoints().collect() },
        };
        book.check(&changes)?;
        let Updated { table, .. } = Edit::of(&mut book, &PolicyTable::default()).make(&changes, view.nodes);
        book.first = Some(book.amount(&table));
        book.addresses = table.addresses.iter().map(|(address, _)| address).collect();
        Ok((table, book))
    }

    /// The same table after a change. `None` where all must be compiled: the change touches an address that stands for a host as
    /// well, or is the first to ask for strangers. The book is of use no more then; after an error it is as it was.
    pub(crate) fn update(
        &mut self,
        table: &PolicyTable,
        changes: &Changes<'_>,
    ) -> Result<Option<Updated>, CompileError> {
        self.check(changes)?;
        let asks =
            |policy: &Policy| policy.ingress.iter().chain(&policy.egress).flatten().any(is_against_strangers);
        let strangers = changes.policies.added.iter().any(|(_, policy)| asks(policy));
        if strangers && !self.groups.has_strangers() || self.meets_stray_hosts(table, &changes.endpoints) {
            return Ok(None);
        }
        Ok(Some(Edit::of(self, table).make(changes, &[])))
    }

    /// Whether so much is there that nobody uses any more that all should be compiled.
    pub(crate) fn is_worn(&self, table: &PolicyTable) -> bool {
        self.first.is_none_or(|first| self.amount(table) > 2 * first + WORN)
    }

    /// The policies to which identities more make a difference, though they say what they said.
    pub(crate) fn depending(&self, identities: &[Identity]) -> BTreeSet<u32> {
        identities.iter().flat_map(|identity| self.named.policies(identity)).collect()
    }

    fn amount(&self, table: &PolicyTable) -> usize {
        let numbers = table.rules.origins.numbers() as usize;
        let (groups, classes) = (self.groups.len() as usize, self.classes.profiles() as usize);
        numbers + groups + classes + self.rows.len() + self.ports.len()
    }

    fn check(&self, changes: &Changes<'_>) -> Result<(), CompileError> {
        let identities = self.identities.len() + changes.identities.len();
        for (_, policy) in &changes.policies.added {
            check(policy, identities)?;
        }
        for (position, (_, endpoint)) in changes.endpoints.added.iter().enumerate() {
            if endpoint.identity as usize >= identities {
                let problem = format!("there is no identity {}", endpoint.identity);
                let field = format!("endpoints[{position}].identity");
                return Err(invalid(format!("Pod {}", endpoint.name), field, problem));
            }
        }
        Ok(())
    }

    fn meets_stray_hosts(&self, table: &PolicyTable, change: &Change<'_, Endpoint>) -> bool {
        let is_nodes_own = |address: &IpAddr| {
            let entry = table.addresses.get(address);
            entry.is_some_and(|entry| entry.endpoint == NOBODY) && !self.stray_hosts.contains(address)
        };
        let mut hosts = change.added.iter().filter(|(_, endpoint)| endpoint.host_network);
        let mut removed = change.removed.iter().flat_map(|(_, endpoint)| &endpoint.addresses);
        removed.any(|address| self.stray_hosts.contains(address))
            || hosts.any(|(_, endpoint)| !endpoint.addresses.iter().all(is_nodes_own))
    }

    /// What becomes the record of a policy; `before` is the one that it replaces.
    fn record(
        &mut self,
        rules: &mut Rules,
        (number, policy): (u32, &Policy),
        before: Option<&Record>,
    ) -> Record {
        let mut direction = |list: &Option<Vec<Rule>>, ingress: bool| -> Option<Direction> {
            let numbers = before.and_then(|before| before.direction(ingress)).map(|one| one.rules.as_slice());
            let mut numbers = numbers.unwrap_or_default().iter();
            let mut direction = Direction::default();
            for rule in list.as_ref()? {
                let origin = RuleOrigin::of(policy, rule, ingress);
                let same = numbers.next().filter(|number| rules.origins.of(**number) == Some(&origin));
                let id = same.copied().unwrap_or_else(|| rules.origins.add(origin));
                direction.rules.push(id);
                let about = (id, policy.tier, rule);
                direction.parts.extend(Part::of_rule(about, ingress, &self.named, &mut self.groups));
            }
            Some(direction)
        };
        let (ingress, egress) = (direction(&policy.ingress, true), direction(&policy.egress, false));
        let origin =
            PolicyOrigin { kind: policy.kind(), name: policy.name.clone(), revocation: policy.revocation };
        Record {
            order: (policy.tier, policy.name.clone(), number),
            origin: Arc::new(origin),
            subjects: policy.subjects.iter().copied().collect(),
            ingress,
            egress,
        }
    }

    /// The policy does, or does no more, select its subjects.
    fn set_selecting(&mut self, number: u32, record: &Record, selects: bool) {
        for identity in &record.subjects {
            let Some(about) = self.identities.get_mut(*identity as usize) else { continue };
            for (place, ingress) in DIRECTIONS {
                let list = &mut about.policies[place];
                if !selects {
                    list.retain(|other| *other != number);
                } else if record.direction(ingress).is_some() {
                    let order =
                        |other: &u32| self.policies.get(*other as usize)?.as_ref().map(|one| &one.order);
                    let at = list.partition_point(|other| order(other) < Some(&record.order));
                    list.insert(at, number);
                }
            }
        }
    }

    /// All that a subject's policies say, part by part, each with the place of its rule.
    fn parts<'a>(&'a self, key: &'a Key) -> impl Iterator<Item = (u32, &'a Part)> {
        let policies = key.policies.iter().filter_map(|number| self.policies.get(*number as usize)?.as_ref());
        let parts = policies.filter_map(|policy| policy.direction(key.ingress)).flat_map(|one| &one.parts);
        let (mut place, mut last) = (0, None);
        parts.map(move |part| {
            if last != Some(part.rule) {
                (place, last) = (place + 1, Some(part.rule));
            }
            (place, part)
        })
    }
}

/// A change on its way from one table to the next.
struct Edit<'a> {
    book: &'a mut Book,
    addresses: SharedMap<IpAddr, Entry>,
    rules: Rules,
    /// Policies that change.
    changed: BTreeSet<u32>,
    /// Identities that they select, or have selected.
    dirty: BTreeSet<u32>,
    /// Profiles with another class or other subjects.
    moved: BTreeSet<u32>,
    first_class: u32,
    first_profile: u32,
}

impl<'a> Edit<'a> {
    fn of(book: &'a mut Book, table: &PolicyTable) -> Self {
        Edit {
            addresses: table.addresses.clone(),
            rules: Rules::clone(&table.rules),
            changed: BTreeSet::new(),
            dirty: BTreeSet::new(),
            moved: BTreeSet::new(),
            first_class: book.classes.count(),
            first_profile: if book.first.is_some() { book.classes.profiles() } else { 0 },
            book,
        }
    }

    /// The module's steps. Nodes come with everything else.
    fn make(mut self, changes: &Changes<'_>, nodes: &[Node]) -> Updated {
        self.add_identities(&changes.identities); // 1
        self.change_policies(&changes.policies); // 2
        self.moved = self.book.classes.add_groups(&self.book.groups); // 3
        self.add_blocks(); // 4
        self.add_nodes(nodes);
        self.change_endpoints(&changes.endpoints); // 5
        let rows = self.book.rows.add_classes(self.first_class, &self.book.classes); // 6
        let stale = self.change_subjects(); // 7
        self.write_subjects(&stale, &rows); // 8
        self.write_profiles(); // 9
        let book = self.book;
        let touched = self.dirty.iter().filter_map(|identity| book.identities.get(*identity as usize));
        let touched = touched.flat_map(|identity| &identity.addresses).copied().collect();
        self.rules.amounts = super::Amounts { subjects: book.subjects.len(), row_bytes: book.rows.bytes() };
        Updated { table: PolicyTable { addresses: self.addresses, rules: Arc::new(self.rules) }, touched }
    }

    fn add_identities(&mut self, identities: &[&Identity]) {
        let book = &mut *self.book;
        for identity in identities {
            book.named.add_identity(book.identities.len() as u32, identity);
            let named_ports = identity.named_ports.clone();
            book.identities.push(IdentityRecord { named_ports, ..IdentityRecord::default() });
        }
        book.classes.add_identities(identities.len());
    }

    fn change_policies(&mut self, change: &Change<'_, Policy>) {
        let book = &mut *self.book;
        let mut before = BTreeMap::new();
        for (number, policy) in &change.removed {
            let place = book.policies.get_mut(*number as usize);
            let Some(record) = place.and_then(Option::take) else { continue };
            book.named.set_policy(*number, policy, false);
            book.set_selecting(*number, &record, false);
            self.dirty.extend(&record.subjects);
            before.insert(*number, record);
        }
        // In the order in which they are asked, so that lists grow at their ends where all of them come.
        let mut added: Vec<&(u32, &Policy)> = change.added.iter().collect();
        added.sort_by_key(|(number, policy)| (policy.tier, &policy.name, *number));
        for (number, policy) in added {
            let record = book.record(&mut self.rules, (*number, policy), before.get(number));
            book.named.set_policy(*number, policy, true);
            book.set_selecting(*number, &record, true);
            self.dirty.extend(&record.subjects);
            self.changed.insert(*number);
            if book.policies.len() <= *number as usize {
                book.policies.resize_with(*number as usize + 1, || None);
            }
            if let Some(place) = book.policies.get_mut(*number as usize) {
                *place = Some(record);
            }
        }
    }

    /// Blocks that there are more: all that is known within them may be of another profile.
    fn add_blocks(&mut self) {
        let Book { groups, classes, pod_ranges, addresses, .. } = &mut *self.book;
        let Some(added) = classes.add_blocks(groups, pod_ranges) else { return };
        self.rules.outside = Arc::new(classes.outside(groups));
        let within = |block: &IpBlock| addresses.range(block.cidr.network()..=block.cidr.broadcast());
        for address in added.iter().flat_map(within) {
            let Some(entry) = self.addresses.get(address).copied() else { continue };
            let owner = classes.about(entry.profile).0.map_or(Owner::Host, Owner::Endpoint);
            let profile = classes.of_address(groups, *address, owner);
            if profile != entry.profile {
                self.addresses.insert(*address, Entry { profile, ..entry });
            }
        }
    }

    fn add_nodes(&mut self, nodes: &[Node]) {
        for (node, number) in nodes.iter().zip(0..) {
            for address in &node.addresses {
                self.add_host(*address, number);
            }
        }
    }

    fn add_host(&mut self, address: IpAddr, node: u32) {
        let profile = self.book.classes.of_address(&self.book.groups, address, Owner::Host);
        self.addresses.insert(address, Entry { endpoint: NOBODY, node, profile });
    }

    fn change_endpoints(&mut self, change: &Change<'_, Endpoint>) {
        for (_, endpoint) in change.removed.iter().filter(|(_, endpoint)| !endpoint.host_network) {
            for address in &endpoint.addresses {
                self.addresses.remove(address);
                self.book.addresses.remove(address);
                let identity = self.book.identities.get_mut(endpoint.identity as usize);
                let Some(addresses) = identity.map(|identity| &mut identity.addresses) else { continue };
                if let Some(place) = addresses.iter().position(|other| other == address) {
                    addresses.swap_remove(place);
                }
            }
        }
        for (number, endpoint) in &change.added {
            let node = self.book.nodes.get(endpoint.node.as_str()).copied().unwrap_or(NOBODY);
            for address in &endpoint.addresses {
                if endpoint.host_network {
                    self.add_stray_host(*address, node);
                } else {
                    let owner = Owner::Endpoint(endpoint.identity);
                    let profile = self.book.classes.of_address(&self.book.groups, *address, owner);
                    self.addresses.insert(*address, Entry { endpoint: *number, node, profile });
                    if self.book.first.is_some() {
                        self.book.addresses.insert(*address);
                    }
                    let identity = self.book.identities.get_mut(endpoint.identity as usize);
                    identity.into_iter().for_each(|identity| identity.addresses.push(*address));
                }
            }
        }
    }

    /// A hostNetwork pod's address: mostly its node's, which is there. An ordinary endpoint has precedence, wherever it stands.
    fn add_stray_host(&mut self, address: IpAddr, node: u32) {
        let known = self.addresses.get(&address);
        let is_nodes_own = known.is_some_and(|entry| entry.endpoint == NOBODY);
        if is_nodes_own && self.book.first.is_some() {
            return;
        }
        if known.is_none_or(|entry| entry.endpoint != NOBODY) {
            self.book.stray_hosts.insert(address);
            if known.is_none() {
                self.add_host(address, node);
            }
        }
    }

    /// The subjects of identities whose policies change. Returns those that are new or hold such a policy.
    fn change_subjects(&mut self) -> BTreeSet<u32> {
        let Book { identities, subjects, rows, classes, .. } = &mut *self.book;
        let mut stale = BTreeSet::new();
        for number in &self.dirty {
            let Some(identity) = identities.get_mut(*number as usize) else { continue };
            for (place, ingress) in DIRECTIONS {
                let ports = if ingress { identity.named_ports.clone() } else { Vec::new() };
                let key = Key { policies: identity.policies[place].clone(), ports, ingress };
                let changes = key.policies.iter().any(|policy| self.changed.contains(policy));
                let (subject, is_new) = subjects.take(key);
                if is_new || changes {
                    stale.insert(subject);
                }
                let before = std::mem::replace(&mut identity.subjects[place], subject);
                if let Some(gone) = subjects.release(before) {
                    gone.row.into_iter().for_each(|row| rows.set_subject(row, before, false));
                    self.rules.subjects.set(before, Subject::default());
                    stale.remove(&before);
                }
                if before != subject {
                    self.moved.extend(classes.profiles_of(*number));
                }
            }
        }
        stale
    }

    fn write_subjects(&mut self, stale: &BTreeSet<u32>, rows: &BTreeSet<u32>) {
        let rows = rows.iter().filter_map(|row| self.book.rows.get(*row));
        let mut others = Vec::new();
        for row in rows {
            others.extend(
                row.subjects
                    .difference(stale)
                    .map(|subject| (*subject, row.cells.clone(), row.matches.len())),
            );
        }
        let mut longer = BTreeSet::new();
        for (number, cells, matches) in others {
            match self.rules.subjects.get(number).cloned() {
                // Its classes are told apart as before: only where they stand is new.
                Some(subject) if subject.lists.len() == matches => {
                    self.rules.subjects.set(number, Subject { cells, ..subject });
                }
                _ => drop(longer.insert(number)),
            }
        }
        stale.union(&longer).for_each(|subject| self.write_subject(*subject));
    }

    fn write_subject(&mut self, number: u32) {
        let Some(key) = self.book.subjects.get_mut(number).map(|subject| subject.key.clone()) else { return };
        let parts: Vec<(u32, &Part)> = self.book.parts(&key).collect();
        let wanted = parts.iter().map(|(_, part)| part.group).collect();
        let isolated = isolates(&key, &self.book.policies);
        let spans: Vec<_> = parts.iter().map(|(place, part)| part.spans(*place, &key.ports)).collect();
        let Book { rows, ports, groups, classes, subjects, policies, .. } = &mut *self.book;
        let row = rows.number(wanted, groups, classes);
        if let Some(before) = subjects.get_mut(number).and_then(|subject| subject.row.replace(row)) {
            rows.set_subject(before, number, false);
        }
        rows.set_subject(row, number, true);
        let Some(row) = rows.get(row) else { return };
        let lists = row.matches.iter().map(|matching| {
            let spans = matching.iter().filter_map(|position| spans.get(*position as usize)).flatten();
            let list = ports.list(spans.copied().collect(), isolated);
            if list.number() as usize == self.rules.lists.len() {
                self.rules.lists.push(list.clone());
            }
            list
        });
        let lists = lists.collect();
        let origin = |number: &u32| Some(Arc::clone(&policies.get(*number as usize)?.as_ref()?.origin));
        let policies = key.policies.iter().filter_map(origin).collect();
        self.rules.subjects.set(number, Subject { cells: row.cells.clone(), lists, policies });
    }

    fn write_profiles(&mut self) {
        let Book { classes, identities, .. } = &*self.book;
        self.moved.extend(self.first_profile..classes.profiles());
        for profile in &self.moved {
            let (identity, class) = classes.about(*profile);
            let identity = identity.and_then(|identity| identities.get(identity as usize));
            let [ingress, egress] = identity.map_or([0, 0], |identity| identity.subjects);
            self.rules.profiles.set(*profile, Profile { class, ingress, egress });
        }
    }
}

/// Whether a NetworkPolicy is among a subject's policies.
fn isolates(key: &Key, policies: &[Option<Record>]) -> bool {
    let mut tiers = key.policies.iter().filter_map(|number| policies.get(*number as usize)?.as_ref());
    tiers.any(|policy| policy.order.0 == Tier::NetworkPolicy)
}
