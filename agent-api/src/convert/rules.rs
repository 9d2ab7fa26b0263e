//! What decides, and how often.

use policy_compiler::intent::ObjectName;

use super::intent::{all, object_name};
use super::policies::{policy_kind, said_action};
use super::{FieldError, InField, list, required, unknown, unspecified};
use crate::contract::{Basis, DecidedBy, Direction, PolicyDecision, PolicyHits, RuleHits, RuleRef};
use crate::proto;
use crate::proto::decided_by;

impl From<RuleRef> for proto::RuleOrigin {
    fn from(rule: RuleRef) -> Self {
        proto::RuleOrigin {
            kind: proto::PolicyKind::from(rule.kind).into(),
            name: Some(ObjectName::new(rule.namespace, rule.name).into()),
            resource_version: rule.resource_version,
            index: rule.index,
            rule_name: rule.rule_name,
        }
    }
}

impl TryFrom<proto::RuleOrigin> for RuleRef {
    type Error = FieldError;

    fn try_from(message: proto::RuleOrigin) -> Result<Self, FieldError> {
        let ObjectName { namespace, name } = object_name(message.name)?;
        Ok(RuleRef {
            kind: policy_kind(message.kind).in_field("kind")?,
            namespace,
            name,
            resource_version: message.resource_version,
            index: message.index,
            rule_name: message.rule_name,
        })
    }
}

impl From<DecidedBy> for proto::DecidedBy {
    fn from(decided_by: DecidedBy) -> Self {
        let direction = match decided_by.direction {
            Direction::Ingress => proto::Direction::Ingress,
            Direction::Egress => proto::Direction::Egress,
        };
        let basis = match decided_by.basis {
            Basis::Rule(rule) => decided_by::Basis::Rule(rule.into()),
            Basis::NoRule => decided_by::Basis::NoRule(proto::NoRule {}),
            Basis::DefaultAllow => decided_by::Basis::DefaultAllow(proto::DefaultAllow {}),
        };
        proto::DecidedBy { direction: direction.into(), basis: Some(basis) }
    }
}

impl TryFrom<proto::DecidedBy> for DecidedBy {
    type Error = FieldError;

    fn try_from(message: proto::DecidedBy) -> Result<Self, FieldError> {
        let direction = match proto::Direction::try_from(message.direction) {
            Ok(proto::Direction::Ingress) => Direction::Ingress,
            Ok(proto::Direction::Egress) => Direction::Egress,
            Ok(proto::Direction::Unspecified) => return Err(unspecified().within("direction")),
            Err(_) => return Err(unknown(message.direction).within("direction")),
        };
        let basis = match required(message.basis).in_field("basis")? {
            decided_by::Basis::Rule(rule) => Basis::Rule(RuleRef::try_from(rule).in_field("rule")?),
            decided_by::Basis::NoRule(proto::NoRule {}) => Basis::NoRule,
            decided_by::Basis::DefaultAllow(proto::DefaultAllow {}) => Basis::DefaultAllow,
        };
        Ok(DecidedBy { direction, basis })
    }
}

/// What may be left out.
pub(super) fn optional_decided_by(
    message: Option<proto::DecidedBy>,
) -> Result<Option<DecidedBy>, FieldError> {
    message.map(DecidedBy::try_from).transpose().in_field("decided_by")
}

fn needed_decided_by(message: Option<proto::DecidedBy>) -> Result<DecidedBy, FieldError> {
    required(message).and_then(DecidedBy::try_from).in_field("decided_by")
}

impl From<PolicyDecision> for proto::PolicyDecision {
    fn from(decision: PolicyDecision) -> Self {
        proto::PolicyDecision { allowed: decision.allowed, decided_by: Some(decision.decided_by.into()) }
    }
}

impl TryFrom<proto::PolicyDecision> for PolicyDecision {
    type Error = FieldError;

    fn try_from(message: proto::PolicyDecision) -> Result<Self, FieldError> {
        Ok(PolicyDecision { allowed: message.allowed, decided_by: needed_decided_by(message.decided_by)? })
    }
}

impl From<RuleHits> for proto::RuleHits {
    fn from(hits: RuleHits) -> Self {
        proto::RuleHits {
            decided_by: Some(hits.decided_by.into()),
            action: proto::Action::from(hits.action).into(),
            flows_allowed: hits.flows_allowed,
            flows_denied: hits.flows_denied,
            packets_denied: hits.packets_denied,
        }
    }
}

impl TryFrom<proto::RuleHits> for RuleHits {
    type Error = FieldError;

    fn try_from(message: proto::RuleHits) -> Result<Self, FieldError> {
        let action = said_action(message.action).in_field("action")?;
        Ok(RuleHits {
            decided_by: needed_decided_by(message.decided_by)?,
            action,
            flows_allowed: message.flows_allowed,
            flows_denied: message.flows_denied,
            packets_denied: message.packets_denied,
        })
    }
}

impl From<PolicyHits> for proto::ListRuleHitsResponse {
    fn from(hits: PolicyHits) -> Self {
        proto::ListRuleHitsResponse { generation: hits.generation, hits: all(hits.hits) }
    }
}

impl TryFrom<proto::ListRuleHitsResponse> for PolicyHits {
    type Error = FieldError;

    fn try_from(message: proto::ListRuleHitsResponse) -> Result<Self, FieldError> {
        Ok(PolicyHits {
            generation: message.generation,
            hits: list("hits", message.hits, RuleHits::try_from)?,
        })
    }
}
