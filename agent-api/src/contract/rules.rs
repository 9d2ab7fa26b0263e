//! What decides, field by field, and how often.

use std::fmt;

use policy_compiler::intent::{Action, PolicyKind};
use policy_compiler::policy::{RuleId, RuleOrigin};
use serde::{Deserialize, Serialize};

/// Which end's policies judge.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// Those that select the destination.
    Ingress,
    /// Those that select the source.
    Egress,
}

impl Direction {
    /// The one or the other.
    pub fn of(ingress: bool) -> Self {
        if ingress { Direction::Ingress } else { Direction::Egress }
    }
}

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Direction::Ingress => "ingress",
            Direction::Egress => "egress",
        })
    }
}

/// A rule of a policy object.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct RuleRef {
    /// Which API.
    pub kind: PolicyKind,
    /// The policy's namespace; empty where it is cluster-wide.
    pub namespace: String,
    /// The policy's name.
    pub name: String,
    /// The object's resourceVersion; empty where it came from a file.
    pub resource_version: String,
    /// Index of the rule in the object's list of that direction.
    pub index: u32,
    /// The rule's name; empty where it has none.
    pub rule_name: String,
}

impl From<&RuleOrigin> for RuleRef {
    fn from(origin: &RuleOrigin) -> Self {
        RuleRef {
            kind: origin.kind,
            namespace: origin.policy.namespace.clone(),
            name: origin.policy.name.clone(),
            resource_version: origin.resource_version.clone(),
            index: origin.index,
            rule_name: origin.name.clone(),
        }
    }
}

/// What a decision rests on.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(tag = "basis", rename_all = "snake_case")]
pub enum Basis {
    /// A rule of a policy.
    Rule(RuleRef),
    /// NetworkPolicies isolate that end, and none of their rules matches: denied.
    NoRule,
    /// Nothing says otherwise: allowed.
    DefaultAllow,
}

/// What decides in a direction. Prints as verdicts are told: `NetworkPolicy db/mongo ingress[0]`, `no-rule`, `default-allow`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct DecidedBy {
    /// Whose policies.
    pub direction: Direction,
    /// What of them.
    #[serde(flatten)]
    pub basis: Basis,
}

impl DecidedBy {
    /// The rule, where it is one.
    pub fn rule(&self) -> Option<&RuleRef> {
        match &self.basis {
            Basis::Rule(rule) => Some(rule),
            Basis::NoRule | Basis::DefaultAllow => None,
        }
    }
}

impl fmt::Display for DecidedBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rule = match &self.basis {
            Basis::Rule(rule) => rule,
            Basis::NoRule => return f.write_str(RuleId::NO_RULE.absence().unwrap_or_default()),
            Basis::DefaultAllow => return f.write_str(RuleId::DEFAULT_ALLOW.absence().unwrap_or_default()),
        };
        let separator = if rule.namespace.is_empty() { "" } else { "/" };
        let RuleRef { kind, namespace, name, index, rule_name, .. } = rule;
        write!(f, "{kind} {namespace}{separator}{name} {}[{index}]", self.direction)?;
        if rule_name.is_empty() { Ok(()) } else { write!(f, " ({rule_name})") }
    }
}

/// What policy says in a direction, and by what.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyDecision {
    /// Whether it lets the flow pass.
    pub allowed: bool,
    /// By what.
    #[serde(flatten)]
    pub decided_by: DecidedBy,
}

/// How often a rule has decided, or the absence of any.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleHits {
    /// The rule.
    #[serde(flatten)]
    pub decided_by: DecidedBy,
    /// What it does; [`Action::Accept`] of [`Basis::DefaultAllow`], [`Action::Deny`] of [`Basis::NoRule`].
    pub action: Action,
    /// Flows that it let pass. Each passes by two: a rule for ingress, and one for egress.
    pub flows_allowed: u64,
    /// Flows that it denied.
    pub flows_denied: u64,
    /// Packets of denied flows, the first of each included.
    pub packets_denied: u64,
}

impl RuleHits {
    /// Whether it has never decided.
    pub fn is_unused(&self) -> bool {
        (self.flows_allowed, self.flows_denied, self.packets_denied) == (0, 0, 0)
    }
}

/// The hits of all rules of the running policies, on this node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyHits {
    /// The generation whose rules these are.
    pub generation: u64,
    /// Every rule, those never hit included, and both directions of [`Basis::NoRule`] and [`Basis::DefaultAllow`].
    pub hits: Vec<RuleHits>,
}
