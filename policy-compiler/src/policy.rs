//! [`PolicyTable`]: who may talk to whom, compiled.

use std::net::IpAddr;

use crate::intent::{Intent, ObjectName, PolicyKind};
use crate::tables::CompileError;

/// Number of a rule within one [`PolicyTable`]; what a flow entry carries. Not stable across generations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct RuleId(pub u32);

impl RuleId {
    /// No policy selects the endpoint in this direction: allowed by default.
    pub const DEFAULT_ALLOW: RuleId = RuleId(0);
    /// Policies isolate the endpoint and none of their rules matches: denied.
    pub const NO_RULE: RuleId = RuleId(1);
    /// The first number that stands for a rule of a policy.
    pub const FIRST: u32 = 2;
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
    /// Allowed because nothing isolates the endpoint.
    pub const DEFAULT_ALLOW: Decision = Decision { allowed: true, rule: RuleId::DEFAULT_ALLOW };
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

/// Who may talk to whom.
#[derive(Debug, Default)]
pub struct PolicyTable {}

impl PolicyTable {
    /// Compiles the policies of `intent`.
    ///
    /// # Errors
    /// [`CompileError::Invalid`] for an identity that is not there or a block with an except outside of it.
    pub fn compile(_intent: &Intent) -> Result<Self, CompileError> {
        Ok(PolicyTable {})
    }

    /// Judges a flow from `src` to `dst` (both after address translation), `dst_port` being the destination's port,
    /// 0 for protocols without one. Traffic of an endpoint to itself is always allowed.
    pub fn judge(&self, _src: IpAddr, _dst: IpAddr, _protocol: u8, _dst_port: u16) -> Judgement {
        Judgement { egress: Decision::DEFAULT_ALLOW, ingress: Decision::DEFAULT_ALLOW }
    }

    /// Where a rule comes from; `None` for the two constants of [`RuleId`] and for numbers of other tables.
    pub fn origin(&self, _rule: RuleId) -> Option<&RuleOrigin> {
        None
    }

    /// The policies that isolate the endpoint at `address` in the direction, for people who ask why nothing matched.
    pub fn isolating(&self, _address: IpAddr, _ingress: bool) -> Vec<&ObjectName> {
        Vec::new()
    }
}
