//! A change of the state: [`Update`].

use policy_compiler::intent::update::{PolicyName, Update};
use policy_compiler::intent::{Endpoint, Identity, Policy, Service};

use super::intent::{all, object_name};
use super::policies::policy_kind;
use super::{FieldError, InField, list};
use crate::proto;

/// The message of a change of generation `base`.
pub(crate) fn request(update: Update, base: u64) -> proto::UpdateRequest {
    proto::UpdateRequest {
        base_generation: base,
        identities: all(update.identities),
        removed_endpoints: all(update.removed_endpoints),
        endpoints: all(update.endpoints),
        removed_policies: all(update.removed_policies),
        policies: all(update.policies),
        removed_services: all(update.removed_services),
        services: all(update.services),
    }
}

impl TryFrom<proto::UpdateRequest> for Update {
    type Error = FieldError;

    fn try_from(message: proto::UpdateRequest) -> Result<Self, FieldError> {
        let name = |name: proto::ObjectName| object_name(Some(name));
        Ok(Update {
            identities: list("identities", message.identities, Identity::try_from)?,
            removed_endpoints: list("removed_endpoints", message.removed_endpoints, name)?,
            endpoints: list("endpoints", message.endpoints, Endpoint::try_from)?,
            removed_policies: list("removed_policies", message.removed_policies, PolicyName::try_from)?,
            policies: list("policies", message.policies, Policy::try_from)?,
            removed_services: list("removed_services", message.removed_services, name)?,
            services: list("services", message.services, Service::try_from)?,
        })
    }
}

impl From<PolicyName> for proto::PolicyName {
    fn from(name: PolicyName) -> Self {
        proto::PolicyName { kind: proto::PolicyKind::from(name.kind).into(), name: Some(name.name.into()) }
    }
}

impl TryFrom<proto::PolicyName> for PolicyName {
    type Error = FieldError;

    fn try_from(message: proto::PolicyName) -> Result<Self, FieldError> {
        let name = object_name(message.name)?;
        let kind = policy_kind(message.kind).in_field("kind")?;
        Ok(PolicyName { kind, name })
    }
}
