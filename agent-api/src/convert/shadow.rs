//! What is told of a shadow.

use policy_compiler::intent::Intent;

use super::calls::applied_intent;
use super::{FieldError, InField, address, address_bytes, port, protocol_number, required};
use crate::contract::{Applied, DEFAULT_SAMPLE, ShadowDifference, ShadowRow, ShadowStatus};
use crate::proto;

/// The candidate of a `SetShadow`, and its sample. What the sample may be is the dataplane's to say.
pub(crate) fn candidate(message: proto::SetShadowRequest) -> Result<(Intent, u32), FieldError> {
    let proto::SetShadowRequest { intent, sample } = message;
    let sample = if sample == 0 { DEFAULT_SAMPLE } else { sample };
    Ok((applied_intent(intent)?, sample))
}

/// The answer to `SetShadow`.
pub(crate) fn set_shadow(message: proto::SetShadowResponse) -> Result<ShadowStatus, FieldError> {
    required(message.shadow).in_field("shadow").map(Into::into)
}

impl From<Applied> for proto::PromoteShadowResponse {
    fn from(applied: Applied) -> Self {
        proto::PromoteShadowResponse { generation: applied.generation, microseconds: applied.microseconds }
    }
}

impl From<proto::PromoteShadowResponse> for Applied {
    fn from(message: proto::PromoteShadowResponse) -> Self {
        Applied { generation: message.generation, microseconds: message.microseconds }
    }
}

impl From<ShadowStatus> for proto::Shadow {
    fn from(status: ShadowStatus) -> Self {
        proto::Shadow {
            number: status.number,
            base_generation: status.base_generation,
            generation: status.generation,
            since_ns: status.since_ns,
            sample: status.sample,
            judged: status.judged,
            sampled: status.sampled,
            newly_allowed: status.newly_allowed,
            newly_denied: status.newly_denied,
            unplaced: status.unplaced,
            lost: status.lost,
            rows: status.rows.into_iter().map(Into::into).collect(),
        }
    }
}

impl From<proto::Shadow> for ShadowStatus {
    fn from(message: proto::Shadow) -> Self {
        ShadowStatus {
            number: message.number,
            base_generation: message.base_generation,
            generation: message.generation,
            since_ns: message.since_ns,
            sample: message.sample,
            judged: message.judged,
            sampled: message.sampled,
            newly_allowed: message.newly_allowed,
            newly_denied: message.newly_denied,
            unplaced: message.unplaced,
            lost: message.lost,
            rows: message.rows.into_iter().map(Into::into).collect(),
        }
    }
}

impl From<ShadowRow> for proto::ShadowRow {
    fn from(row: ShadowRow) -> Self {
        let ShadowRow { allowed, ingress, active, candidate, flows } = row;
        proto::ShadowRow { allowed, ingress, active, candidate, flows }
    }
}

impl From<proto::ShadowRow> for ShadowRow {
    fn from(message: proto::ShadowRow) -> Self {
        let proto::ShadowRow { allowed, ingress, active, candidate, flows } = message;
        ShadowRow { allowed, ingress, active, candidate, flows }
    }
}

impl From<ShadowDifference> for proto::ShadowDifference {
    fn from(event: ShadowDifference) -> Self {
        proto::ShadowDifference {
            time_ns: event.time_ns,
            shadow: event.shadow,
            src: address_bytes(event.src),
            src_port: event.src_port.into(),
            src_name: event.src_name,
            dst: address_bytes(event.dst),
            dst_port: event.dst_port.into(),
            protocol: event.protocol.into(),
            backend: event.backend,
            dst_name: event.dst_name,
            established: event.established,
            allowed: event.allowed,
            ingress: event.ingress,
            active: event.active,
            candidate: event.candidate,
            generation: event.generation,
            stale: event.stale,
            missed: event.missed,
        }
    }
}

impl TryFrom<proto::ShadowDifference> for ShadowDifference {
    type Error = FieldError;

    fn try_from(message: proto::ShadowDifference) -> Result<Self, FieldError> {
        Ok(ShadowDifference {
            time_ns: message.time_ns,
            shadow: message.shadow,
            src: address(message.src).in_field("src")?,
            src_port: port(message.src_port).in_field("src_port")?,
            src_name: message.src_name,
            dst: address(message.dst).in_field("dst")?,
            dst_port: port(message.dst_port).in_field("dst_port")?,
            protocol: protocol_number(message.protocol).in_field("protocol")?,
            backend: message.backend,
            dst_name: message.dst_name,
            established: message.established,
            allowed: message.allowed,
            ingress: message.ingress,
            active: message.active,
            candidate: message.candidate,
            generation: message.generation,
            stale: message.stale,
            missed: message.missed,
        })
    }
}
