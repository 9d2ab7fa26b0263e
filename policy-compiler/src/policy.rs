//! [`PolicyTable`]: who may talk to whom, compiled.
//!
//! ```text
//!   address ──exact──────────────────────────┬─► profile: subject for ingress, subject for egress, class as a peer
//!       └───longest prefix of the ipBlocks───┘
//!
//!   subject ──► row ──class of the peer──► port list ──protocol, port──► rule
//! ```
//!
//! * A *subject* is a set of policies that select an endpoint in one direction; 0 is the empty set: allowed.
//! * A *class* is a set of peer groups that an address is in; addresses in the same groups are one class (`groups`, `classes`).
//! * A *profile* is what addresses have in common that are of one identity and in the same ipBlocks: all that follows from policies.
//! * A *row* says which of a subject's rules match which class; equal rows and equal pages of them are one (`rows`).
//! * A *port list* cuts protocols and ports into segments, each with the rule that decides there (`ports`).
//!
//! A judgement is two hash look-ups and, for each end that a policy selects, a few dependent loads and one short binary
//! search. Nothing in it depends on the number of policies, rules, tiers or pods: which tier decides is worked out when a
//! port list is written.
//!
//! What follows from an address is apart from what follows from policies, and both stand in parts that tables share: the next
//! table costs what changes (`book`), not what there is.
//!
//! As the NetworkPolicy API words it: policies isolate pods, so an address that is no pod's is never judged as a
//! subject; hostNetwork pods are their node; that a pod is isolated keeps it neither from its own node nor from itself;
//! ipBlocks hold for the addresses of pods too. Protocols without ports are matched by rules without ports.
//!
//! As the ClusterNetworkPolicy API words it: Admin tier, then NetworkPolicy, then Baseline tier, and allowed where none
//! decides. Its rules are read as they stand: they isolate nobody, and a pod's own node is to them a node as any other.

mod blocks;
mod book;
mod cells;
mod classes;
mod groups;
pub(crate) mod inspect;
mod parts;
mod ports;
pub mod report;
mod revocation;
mod rows;
mod subjects;

#[cfg(test)]
#[cfg(feature = "kubernetes")]
mod conformance;
#[cfg(test)]
#[cfg(feature = "kubernetes")]
pub(crate) mod properties;
#[cfg(test)]
#[cfg(feature = "kubernetes")]
mod tests;

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

pub(crate) use self::book::{Book, Changes, Updated};
use self::cells::Cells;
use self::ports::PortList;
use crate::intent::{Intent, ObjectName, Policy, PolicyKind, Revocation, Rule};
use crate::prefix::PrefixMap;
use crate::shared_map::SharedMap;
use crate::shared_vec::SharedVec;
use crate::tables::CompileError;
use crate::view::View;

/// Number of a rule within one [`PolicyTable`]; what a flow entry carries. It stands for the same rule in every table whose [`Origins`]
/// continue this one's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct RuleId(pub u32);

impl RuleId {
    /// No rule of a ClusterNetworkPolicy decides and no NetworkPolicy isolates the endpoint in this direction, or not from
    /// this peer, which is itself or its own node: allowed by default.
    pub const DEFAULT_ALLOW: RuleId = RuleId(0);
    /// No rule of a ClusterNetworkPolicy of the Admin tier decides, NetworkPolicies isolate the endpoint and none of their
    /// rules matches: denied.
    pub const NO_RULE: RuleId = RuleId(1);
    /// The first number that stands for a rule of a policy.
    pub const FIRST: u32 = 2;

    /// What the absence of a rule is called: `default-allow` or `no-rule`; `None` for a rule.
    pub fn absence(self) -> Option<&'static str> {
        match self {
            RuleId::DEFAULT_ALLOW => Some("default-allow"),
            RuleId::NO_RULE => Some("no-rule"),
            _ => None,
        }
    }
}

/// Where a rule comes from: the provenance of a verdict.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuleOrigin {
    /// Which API.
    pub kind: PolicyKind,
    /// The policy object.
    pub policy: ObjectName,
    /// Its resourceVersion; empty where it came from a file.
    pub resource_version: String,
    /// True for an ingress rule.
    pub ingress: bool,
    /// Index in the object's list of rules.
    pub index: u32,
    /// The rule's name; empty where it has none.
    pub name: String,
    /// What happens to live flows that the policy does not allow any more.
    pub revocation: Revocation,
}

impl RuleOrigin {
    /// That of a rule of a policy.
    pub fn of(policy: &Policy, rule: &Rule, ingress: bool) -> Self {
        RuleOrigin {
            kind: policy.kind(),
            policy: policy.name.clone(),
            resource_version: policy.resource_version.clone(),
            ingress,
            index: rule.index,
            name: rule.name.clone(),
            revocation: policy.revocation,
        }
    }
}

impl fmt::Display for RuleOrigin {
    /// Such as `NetworkPolicy db/mongo ingress[0]` or, of a rule with a name, `ClusterNetworkPolicy strict egress[2] (no-dns)`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let direction = if self.ingress { "ingress" } else { "egress" };
        write!(f, "{} {} {direction}[{}]", self.kind, self.policy, self.index)?;
        if self.name.is_empty() { Ok(()) } else { write!(f, " ({})", self.name) }
    }
}

/// A policy that selects endpoints, as a table remembers it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyOrigin {
    /// Which API.
    pub kind: PolicyKind,
    /// The object.
    pub name: ObjectName,
    /// What happens to live flows that it does not allow any more.
    pub revocation: Revocation,
}

impl fmt::Display for PolicyOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind, self.name)
    }
}

/// What policy says in one direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decision {
    /// Whether it lets the flow pass.
    pub allowed: bool,
    /// The rule that decided, or one of the constants of [`RuleId`].
    pub rule: RuleId,
}

impl Decision {
    /// Allowed because nothing denies it.
    pub const DEFAULT_ALLOW: Decision = Decision { allowed: true, rule: RuleId::DEFAULT_ALLOW };
    /// Denied because NetworkPolicies isolate the endpoint and none of their rules matches.
    pub const NO_RULE: Decision = Decision { allowed: false, rule: RuleId::NO_RULE };

    /// The same without isolation: a denial for want of a rule is lifted, one by a rule stands.
    fn unisolated(self) -> Self {
        if self.rule == RuleId::NO_RULE { Decision::DEFAULT_ALLOW } else { self }
    }
}

/// What policy says of a flow: both directions are judged, each end by its own policies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Judgement {
    /// By the policies that select the source.
    pub egress: Decision,
    /// By the policies that select the destination.
    pub ingress: Decision,
}

impl Judgement {
    /// Whether both directions allow it.
    pub fn allowed(&self) -> bool {
        self.egress.allowed && self.ingress.allowed
    }
}

/// In place of an endpoint or node number: none.
const NOBODY: u32 = u32::MAX;

/// What a table says of an exact address.
#[derive(Debug, Clone, Copy)]
struct Entry {
    /// Index into `Intent::endpoints`; [`NOBODY`] for the address of a node.
    endpoint: u32,
    /// Index into `Intent::nodes`; [`NOBODY`] where unknown.
    node: u32,
    profile: u32,
}

/// What follows from policies for addresses of one identity that are in the same ipBlocks.
#[derive(Debug, Clone, Copy, Default)]
struct Profile {
    /// As a peer.
    class: u32,
    /// Subject for ingress.
    ingress: u32,
    /// Subject for egress.
    egress: u32,
}

/// All that is known of an address.
#[derive(Debug, Clone, Copy)]
struct End {
    entry: Entry,
    profile: Profile,
}

/// A set of policies that select in one direction, and what they say. A clone is three references.
#[derive(Debug, Default, Clone)]
struct Subject {
    /// From a class of peers to a number.
    cells: Cells,
    /// By those numbers.
    lists: Arc<[PortList]>,
    policies: Arc<[Arc<PolicyOrigin>]>,
}

/// Who may talk to whom. A clone shares what does not change.
#[derive(Debug, Default, Clone)]
pub struct PolicyTable {
    addresses: SharedMap<IpAddr, Entry>,
    rules: Arc<Rules>,
}

/// What follows from policies and identities. A clone shares what does not change.
#[derive(Debug, Default, Clone)]
struct Rules {
    /// Profiles of all addresses that are not known exactly; where there is none, 0.
    outside: Arc<PrefixMap<u32>>,
    profiles: SharedVec<Profile>,
    /// Number 0 is of those whom no policy selects.
    subjects: SharedVec<Subject>,
    /// All port lists, by number.
    lists: SharedVec<PortList>,
    origins: Origins,
    amounts: Amounts,
}

/// What the table cannot count by itself.
#[derive(Debug, Default, Clone, Copy)]
struct Amounts {
    subjects: usize,
    row_bytes: usize,
}

/// Where the rules of one table come from; outlives the table where somebody still names its rules. A clone is a reference.
#[derive(Debug, Clone, Default)]
pub struct Origins(Arc<Numbered>);

/// Rules by number.
#[derive(Debug, Clone, Default)]
struct Numbered {
    rules: SharedVec<Option<Arc<RuleOrigin>>>,
    /// One for all tables in which these numbers stand for these rules.
    line: Arc<()>,
}

impl Origins {
    /// Where a rule comes from; `None` for the two constants of [`RuleId`] and for numbers of other tables.
    pub fn of(&self, rule: RuleId) -> Option<&RuleOrigin> {
        self.0.rules.get(rule.0.checked_sub(RuleId::FIRST)?)?.as_deref()
    }

    /// A rule by name: `default-allow`, `no-rule` or such as `NetworkPolicy db/mongo ingress[0]`; empty for numbers of other tables.
    pub fn text(&self, rule: RuleId) -> String {
        let absence = || rule.absence().unwrap_or_default().to_owned();
        self.of(rule).map_or_else(absence, ToString::to_string)
    }

    /// The first number that stands for no rule, nor ever did in the tables that this one continues: rules that are gone keep theirs.
    pub fn numbers(&self) -> u32 {
        RuleId::FIRST + self.0.rules.len() as u32
    }

    /// Whether every number that stands for a rule in `older` stands for the same one here.
    pub fn continues(&self, older: &Origins) -> bool {
        Arc::ptr_eq(&self.0.line, &older.0.line) && self.numbers() >= older.numbers()
    }

    /// Whether both are of the same rules under the same numbers.
    pub fn is(&self, other: &Origins) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Gives a rule the next number.
    fn add(&mut self, origin: RuleOrigin) -> RuleId {
        RuleId(RuleId::FIRST + Arc::make_mut(&mut self.0).rules.push(Some(Arc::new(origin))))
    }
}

/// How large a table is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct PolicyTableSize {
    /// Addresses known exactly: of nodes and endpoints.
    pub addresses: usize,
    /// Distinct sets of isolating policies.
    pub subjects: usize,
    /// Distinct port lists, with those that no subject has any more.
    pub port_lists: usize,
    /// Rules with a number, with those that are gone.
    pub rules: usize,
    /// Bytes of the rows from subject and class to port list.
    pub row_bytes: usize,
    /// Bytes of the table of addresses.
    pub address_bytes: usize,
}

impl PolicyTable {
    /// Compiles the policies of `intent`.
    ///
    /// # Errors
    /// [`CompileError::Invalid`] for an identity that is not there, a block with an except outside of it or an empty
    /// range of ports.
    pub fn compile(intent: &Intent) -> Result<Self, CompileError> {
        Self::compile_view(&View::of(intent)).map(|(table, _)| table)
    }

    /// As [`PolicyTable::compile`], with what the next table is made from.
    pub(crate) fn compile_view(view: &View<'_>) -> Result<(Self, Book), CompileError> {
        Book::compile(view)
    }

    /// Where its rules come from.
    pub fn origins(&self) -> Origins {
        self.rules.origins.clone()
    }

    /// Judges a flow from `src` to `dst` (both after address translation), `dst_port` being the destination's port,
    /// 0 for protocols without one. Isolation keeps no endpoint from its node, and no policy an endpoint from itself.
    pub fn judge(&self, src: IpAddr, dst: IpAddr, protocol: u8, dst_port: u16) -> Judgement {
        let (from, to) = (self.end(src), self.end(dst));
        if from.entry.is_same_endpoint(&to.entry) {
            return Judgement { egress: Decision::DEFAULT_ALLOW, ingress: Decision::DEFAULT_ALLOW };
        }
        self.judge_ends(&from, &to, ports::key(protocol, dst_port))
    }

    /// The same of a flow whose destination a Service has chosen. It differs where that is the source itself: such a flow
    /// leaves the pod and comes back, and ClusterNetworkPolicy, but not isolation, holds for it.
    pub fn judge_translated(&self, src: IpAddr, dst: IpAddr, protocol: u8, dst_port: u16) -> Judgement {
        self.judge_ends(&self.end(src), &self.end(dst), ports::key(protocol, dst_port))
    }

    fn judge_ends(&self, from: &End, to: &End, key: u32) -> Judgement {
        let egress = self.decide(from.profile.egress, to.profile.class, key);
        let ingress = self.decide(to.profile.ingress, from.profile.class, key);
        if from.entry.is_exempt_with(&to.entry) {
            return Judgement { egress: egress.unisolated(), ingress: ingress.unisolated() };
        }
        Judgement { egress, ingress }
    }

    /// Where [`PolicyTable::judge`] begins to read of an address, for those who know of it before.
    #[inline]
    pub fn first_read(&self, address: IpAddr) -> Option<*const u8> {
        self.addresses.first_read(&address)
    }

    /// Where a rule comes from; `None` for the two constants of [`RuleId`] and for numbers of other tables.
    pub fn origin(&self, rule: RuleId) -> Option<&RuleOrigin> {
        self.rules.origins.of(rule)
    }

    /// The NetworkPolicies that isolate the endpoint at `address` in the direction, for people who ask why nothing matched.
    pub fn isolating(&self, address: IpAddr, ingress: bool) -> Vec<&ObjectName> {
        let isolates = |policy: &&PolicyOrigin| policy.kind == PolicyKind::NetworkPolicy;
        self.selecting(address, ingress).filter(isolates).map(|policy| &policy.name).collect()
    }

    /// The policies of all tiers that select the endpoint at `address` in the direction, in the order in which they are
    /// asked. Those that are of one tier and priority are asked in the order of their names, which the API leaves open.
    pub fn selecting(&self, address: IpAddr, ingress: bool) -> impl Iterator<Item = &PolicyOrigin> {
        let profile = self.end(address).profile;
        let subject = self.rules.subjects.get(if ingress { profile.ingress } else { profile.egress });
        subject.into_iter().flat_map(|subject| subject.policies.iter()).map(|policy| &**policy)
    }

    /// How large the table is.
    pub fn size(&self) -> PolicyTableSize {
        PolicyTableSize {
            addresses: self.addresses.len(),
            subjects: self.rules.amounts.subjects,
            port_lists: self.rules.lists.len(),
            rules: (self.rules.origins.numbers() - RuleId::FIRST) as usize,
            row_bytes: self.rules.amounts.row_bytes,
            address_bytes: self.addresses.bytes(),
        }
    }

    #[inline]
    fn end(&self, address: IpAddr) -> End {
        let entry = self.addresses.get(&address).copied().unwrap_or_else(|| Entry {
            endpoint: NOBODY,
            node: NOBODY,
            profile: self.rules.outside.lookup(address).unwrap_or_default(),
        });
        End { entry, profile: self.rules.profiles.get(entry.profile).copied().unwrap_or_default() }
    }

    #[inline]
    fn decide(&self, subject: u32, class: u32, key: u32) -> Decision {
        if subject == 0 {
            return Decision::DEFAULT_ALLOW;
        }
        self.rules.list(subject, class).map_or(Decision::NO_RULE, |list| list.decision(key))
    }
}

impl Rules {
    /// The port list by which a subject's policies judge a class of peers.
    #[inline]
    fn list(&self, subject: u32, class: u32) -> Option<&PortList> {
        let subject = self.subjects.get(subject)?;
        subject.lists.get(subject.cells.number(class) as usize)
    }
}

impl Entry {
    fn is_same_endpoint(&self, other: &Entry) -> bool {
        self.endpoint == other.endpoint && self.endpoint != NOBODY
    }

    /// The same endpoint, or an endpoint and its own node: isolation does not hold.
    fn is_exempt_with(&self, other: &Entry) -> bool {
        let one_endpoint = (self.endpoint == NOBODY) != (other.endpoint == NOBODY);
        if one_endpoint {
            self.node == other.node && self.node != NOBODY
        } else {
            self.is_same_endpoint(other)
        }
    }
}
