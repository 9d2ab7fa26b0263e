//! Requests and answers other than the state and the counters.

use policy_compiler::intent::Intent;

use super::intent::all;
use super::rules::optional_decided_by;
use super::{
    FieldError, InField, address, address_bytes, list, mac, optional_address, optional_address_bytes,
    optional_mac, optional_mac_bytes, port, protocol_number, required, unknown, unspecified,
};
use crate::contract::{
    AddPort, Applied, DropEvent, ExplainQuery, Explanation, FlowInfo, PolicyDecision, PortInfo, PortRole,
    Refusal, RefusalKind, State,
};
use crate::proto;

impl From<Applied> for proto::ApplyResponse {
    fn from(applied: Applied) -> Self {
        proto::ApplyResponse { generation: applied.generation, microseconds: applied.microseconds }
    }
}

impl From<proto::ApplyResponse> for Applied {
    fn from(message: proto::ApplyResponse) -> Self {
        Applied { generation: message.generation, microseconds: message.microseconds }
    }
}

impl From<Applied> for proto::UpdateResponse {
    fn from(applied: Applied) -> Self {
        proto::UpdateResponse { generation: applied.generation, microseconds: applied.microseconds }
    }
}

impl From<proto::UpdateResponse> for Applied {
    fn from(message: proto::UpdateResponse) -> Self {
        Applied { generation: message.generation, microseconds: message.microseconds }
    }
}

impl From<State> for proto::GetStateResponse {
    fn from(state: State) -> Self {
        proto::GetStateResponse {
            generation: state.generation,
            workers: state.workers,
            intent: Some(state.intent.into()),
        }
    }
}

impl TryFrom<proto::GetStateResponse> for State {
    type Error = FieldError;

    fn try_from(message: proto::GetStateResponse) -> Result<Self, FieldError> {
        Ok(State {
            generation: message.generation,
            workers: message.workers,
            intent: required(message.intent).and_then(Intent::try_from).in_field("intent")?,
        })
    }
}

impl From<Refusal> for proto::Refusal {
    fn from(refusal: Refusal) -> Self {
        let kind = match refusal.kind {
            RefusalKind::Invalid => proto::RefusalKind::Invalid,
            RefusalKind::NotFound => proto::RefusalKind::NotFound,
            RefusalKind::Exists => proto::RefusalKind::Exists,
            RefusalKind::Capacity => proto::RefusalKind::Capacity,
            RefusalKind::Conflict => proto::RefusalKind::Conflict,
            RefusalKind::System => proto::RefusalKind::System,
            RefusalKind::CheckFailed => proto::RefusalKind::CheckFailed,
        };
        proto::Refusal {
            object: refusal.object,
            field: refusal.field,
            problem: refusal.problem,
            kind: kind.into(),
        }
    }
}

impl TryFrom<proto::Refusal> for Refusal {
    type Error = FieldError;

    fn try_from(message: proto::Refusal) -> Result<Self, FieldError> {
        let kind = match proto::RefusalKind::try_from(message.kind) {
            Ok(proto::RefusalKind::Invalid) => RefusalKind::Invalid,
            Ok(proto::RefusalKind::NotFound) => RefusalKind::NotFound,
            Ok(proto::RefusalKind::Exists) => RefusalKind::Exists,
            Ok(proto::RefusalKind::Capacity) => RefusalKind::Capacity,
            Ok(proto::RefusalKind::Conflict) => RefusalKind::Conflict,
            Ok(proto::RefusalKind::System) => RefusalKind::System,
            Ok(proto::RefusalKind::CheckFailed) => RefusalKind::CheckFailed,
            Ok(proto::RefusalKind::Unspecified) => return Err(unspecified().within("kind")),
            Err(_) => return Err(unknown(message.kind).within("kind")),
        };
        Ok(Refusal { object: message.object, field: message.field, problem: message.problem, kind })
    }
}

impl From<DropEvent> for proto::DropEvent {
    fn from(event: DropEvent) -> Self {
        proto::DropEvent {
            time_ns: event.time_ns,
            reason: event.reason,
            device: event.device,
            src: optional_address_bytes(event.src),
            src_port: event.src_port.into(),
            dst: optional_address_bytes(event.dst),
            dst_port: event.dst_port.into(),
            protocol: event.protocol.into(),
            rule: event.rule,
            decided_by: event.decided_by.map(Into::into),
            generation: event.generation,
            missed: event.missed,
        }
    }
}

impl TryFrom<proto::DropEvent> for DropEvent {
    type Error = FieldError;

    fn try_from(message: proto::DropEvent) -> Result<Self, FieldError> {
        Ok(DropEvent {
            time_ns: message.time_ns,
            reason: message.reason,
            device: message.device,
            src: optional_address(message.src).in_field("src")?,
            src_port: port(message.src_port).in_field("src_port")?,
            dst: optional_address(message.dst).in_field("dst")?,
            dst_port: port(message.dst_port).in_field("dst_port")?,
            protocol: protocol_number(message.protocol).in_field("protocol")?,
            rule: message.rule,
            decided_by: optional_decided_by(message.decided_by)?,
            generation: message.generation,
            missed: message.missed,
        })
    }
}

impl From<ExplainQuery> for proto::ExplainRequest {
    fn from(query: ExplainQuery) -> Self {
        proto::ExplainRequest {
            src: address_bytes(query.src),
            src_port: query.src_port.into(),
            dst: address_bytes(query.dst),
            dst_port: query.dst_port.into(),
            protocol: query.protocol.into(),
        }
    }
}

impl TryFrom<proto::ExplainRequest> for ExplainQuery {
    type Error = FieldError;

    fn try_from(message: proto::ExplainRequest) -> Result<Self, FieldError> {
        Ok(ExplainQuery {
            src: address(message.src).in_field("src")?,
            src_port: port(message.src_port).in_field("src_port")?,
            dst: address(message.dst).in_field("dst")?,
            dst_port: port(message.dst_port).in_field("dst_port")?,
            protocol: protocol_number(message.protocol).in_field("protocol")?,
        })
    }
}

impl From<Explanation> for proto::ExplainResponse {
    fn from(explanation: Explanation) -> Self {
        proto::ExplainResponse {
            verdict: explanation.verdict,
            reason: explanation.reason,
            steps: explanation.steps,
            generation: explanation.generation,
            egress: explanation.egress,
            ingress: explanation.ingress,
            backend: explanation.backend,
            decisions: all(explanation.decisions),
        }
    }
}

impl TryFrom<proto::ExplainResponse> for Explanation {
    type Error = FieldError;

    fn try_from(message: proto::ExplainResponse) -> Result<Self, FieldError> {
        Ok(Explanation {
            verdict: message.verdict,
            reason: message.reason,
            steps: message.steps,
            generation: message.generation,
            egress: message.egress,
            ingress: message.ingress,
            decisions: list("decisions", message.decisions, PolicyDecision::try_from)?,
            backend: message.backend,
        })
    }
}

impl From<PortRole> for proto::PortRole {
    fn from(role: PortRole) -> Self {
        use proto::port_role::Role;
        let role = match role {
            PortRole::Pod(name) => Role::Pod(name),
            PortRole::Uplink => Role::Uplink(proto::Uplink {}),
            PortRole::Host => Role::Host(proto::Host {}),
        };
        proto::PortRole { role: Some(role) }
    }
}

fn role(message: Option<proto::PortRole>) -> Result<PortRole, FieldError> {
    use proto::port_role::Role;
    match message.and_then(|message| message.role) {
        Some(Role::Pod(name)) => Ok(PortRole::Pod(name)),
        Some(Role::Uplink(proto::Uplink {})) => Ok(PortRole::Uplink),
        Some(Role::Host(proto::Host {})) => Ok(PortRole::Host),
        None => Err(FieldError::new("is missing").within("role")),
    }
}

impl From<AddPort> for proto::AddPortRequest {
    fn from(request: AddPort) -> Self {
        proto::AddPortRequest {
            device: request.device,
            role: Some(request.role.into()),
            peer_mac: optional_mac_bytes(request.peer_mac),
        }
    }
}

impl TryFrom<proto::AddPortRequest> for AddPort {
    type Error = FieldError;

    fn try_from(message: proto::AddPortRequest) -> Result<Self, FieldError> {
        let proto::AddPortRequest { device, role: port_role, peer_mac } = message;
        if device.is_empty() {
            return Err(FieldError::new("is empty").within("device"));
        }
        let of = |error: FieldError| error.of(|| format!("port {device}"));
        let role = role(port_role).map_err(of)?;
        let peer_mac = optional_mac(peer_mac).in_field("peer_mac").map_err(of)?;
        Ok(AddPort { device, role, peer_mac })
    }
}

impl From<PortInfo> for proto::Port {
    fn from(info: PortInfo) -> Self {
        proto::Port {
            device: info.device,
            role: Some(info.role.into()),
            addresses: info.addresses.into_iter().map(address_bytes).collect(),
            mac: info.mac.to_vec(),
            peer_mac: optional_mac_bytes(info.peer_mac),
            mtu: info.mtu,
            worker: info.worker,
            mode: info.mode,
        }
    }
}

impl TryFrom<proto::Port> for PortInfo {
    type Error = FieldError;

    fn try_from(message: proto::Port) -> Result<Self, FieldError> {
        Ok(PortInfo {
            device: message.device,
            role: role(message.role)?,
            addresses: list("addresses", message.addresses, address)?,
            mac: mac(message.mac).in_field("mac")?,
            peer_mac: optional_mac(message.peer_mac).in_field("peer_mac")?,
            mtu: message.mtu,
            worker: message.worker,
            mode: message.mode,
        })
    }
}

impl From<FlowInfo> for proto::Flow {
    fn from(flow: FlowInfo) -> Self {
        proto::Flow {
            src: address_bytes(flow.src),
            src_port: flow.src_port.into(),
            dst: address_bytes(flow.dst),
            dst_port: flow.dst_port.into(),
            protocol: flow.protocol.into(),
            verdict: flow.verdict,
            reply: flow.reply,
            state: flow.state,
            translated_src: flow.translated_src,
            translated_dst: flow.translated_dst,
            rule: flow.rule,
            decided_by: flow.decided_by.map(Into::into),
            idle_seconds: flow.idle_seconds,
            packets: flow.packets,
        }
    }
}

impl TryFrom<proto::Flow> for FlowInfo {
    type Error = FieldError;

    fn try_from(message: proto::Flow) -> Result<Self, FieldError> {
        Ok(FlowInfo {
            src: address(message.src).in_field("src")?,
            src_port: port(message.src_port).in_field("src_port")?,
            dst: address(message.dst).in_field("dst")?,
            dst_port: port(message.dst_port).in_field("dst_port")?,
            protocol: protocol_number(message.protocol).in_field("protocol")?,
            verdict: message.verdict,
            reply: message.reply,
            state: message.state,
            translated_src: message.translated_src,
            translated_dst: message.translated_dst,
            rule: message.rule,
            decided_by: optional_decided_by(message.decided_by)?,
            idle_seconds: message.idle_seconds,
            packets: message.packets,
        })
    }
}

/// The answer to `ListPorts`.
pub(crate) fn port_list(message: proto::ListPortsResponse) -> Result<Vec<PortInfo>, FieldError> {
    list("ports", message.ports, PortInfo::try_from)
}

/// The answer to `ListFlows`.
pub(crate) fn flow_list(message: proto::ListFlowsResponse) -> Result<Vec<FlowInfo>, FieldError> {
    list("flows", message.flows, FlowInfo::try_from)
}

/// The answer to `AddPort`.
pub(crate) fn added_port(message: proto::AddPortResponse) -> Result<PortInfo, FieldError> {
    required(message.port).and_then(PortInfo::try_from).in_field("port")
}

/// The intent of an `Apply`.
pub(crate) fn applied_intent(message: Option<proto::Intent>) -> Result<Intent, FieldError> {
    required(message).in_field("intent").and_then(Intent::try_from)
}
