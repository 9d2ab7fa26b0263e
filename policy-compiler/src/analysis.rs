//! What people ask of policy: what a change changes, who reaches whom, why, and what is wrong with the objects.
//!
//! ```text
//!   two Intents ──► diff     newly allowed, newly denied: who, whom, ports, one witness packet each
//!   Intent ───────► reach    who can reach an endpoint's port, and by which rules
//!   Intent ───────► explain  a packet: what selects each end, which rule decides, what each other rule fails on
//!   Objects ──────► lint     findings, each with object, field, reason and suggestion
//! ```
//!
//! All but `lint` ask the compiled [`PolicyTable`], the very one that packets are judged by. They ask it for classes of
//! addresses that it cannot tell apart, so that a hundred thousand pods cost what their classes cost; nothing is sampled.
//! Plain data comes out; printing is the caller's. It is not for packets: see [`crate::policy`].

mod addresses;
pub mod diff;
pub mod explain;
pub mod lint;
mod parties;
mod ports;
pub mod reach;

#[cfg(test)]
mod properties;
#[cfg(test)]
mod scale;

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use serde::Serialize;

pub use self::parties::Party;
pub use self::ports::PortRange;
use crate::policy::{Decision, Judgement, PolicyTable, RuleId};

/// The first packet of a flow, as policy sees it: after address translation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Packet {
    /// Source address.
    pub src: IpAddr,
    /// Source port; 0 for protocols without one. Policy does not look at it.
    pub src_port: u16,
    /// Destination address.
    pub dst: IpAddr,
    /// Destination port; 0 for protocols without one.
    pub dst_port: u16,
    /// IP protocol number.
    pub protocol: u8,
}

/// A source port for packets that need one: the first of the dynamic range (RFC 6335, section 6).
const SOURCE_PORT: u16 = 49152;

impl Packet {
    /// One from `src` to `dst`; with a source port where the protocol has ports.
    pub fn new(src: IpAddr, dst: IpAddr, protocol: u8, dst_port: u16) -> Self {
        let src_port = if ports::has_ports(protocol) { SOURCE_PORT } else { 0 };
        Packet { src, src_port, dst, dst_port, protocol }
    }
}

impl fmt::Display for Packet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let protocol = ports::protocol_name(self.protocol);
        if !ports::has_ports(self.protocol) {
            return write!(f, "{protocol} {} > {}", self.src, self.dst);
        }
        let (src, dst) = (SocketAddr::new(self.src, self.src_port), SocketAddr::new(self.dst, self.dst_port));
        write!(f, "{protocol} {src} > {dst}")
    }
}

/// What policy says in one direction, and by what.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct Ruling {
    /// Whether it lets the flow pass.
    pub allowed: bool,
    /// `NetworkPolicy ns/name ingress[0]`, `default-allow` (no rule decides and nothing isolates that end from its peer) or
    /// `no-rule` (policies isolate it, and no rule of theirs matches).
    pub rule: String,
    /// The resourceVersion of the rule's object; empty where there is none, or it came from a file.
    pub resource_version: String,
    /// With `no-rule`: the policies that isolate that end.
    pub isolated_by: Vec<String>,
}

impl Ruling {
    /// `decision` of `policy` about the end at `address`, which is the destination where `ingress`.
    fn new(policy: &PolicyTable, decision: Decision, address: IpAddr, ingress: bool) -> Self {
        let mut ruling = Ruling {
            allowed: decision.allowed,
            rule: policy.origins().text(decision.rule),
            resource_version: String::new(),
            isolated_by: Vec::new(),
        };
        if let Some(origin) = policy.origin(decision.rule) {
            ruling.resource_version.clone_from(&origin.resource_version);
        } else if decision.rule == RuleId::NO_RULE {
            let isolating = policy.isolating(address, ingress).into_iter();
            ruling.isolated_by = isolating.map(|name| format!("NetworkPolicy {name}")).collect();
        }
        ruling
    }
}

impl fmt::Display for Ruling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.rule)?;
        if !self.resource_version.is_empty() {
            write!(f, " (resourceVersion {})", self.resource_version)?;
        }
        if !self.isolated_by.is_empty() {
            write!(f, " of {}", self.isolated_by.join(", "))?;
        }
        Ok(())
    }
}

/// What policy says of a flow, at both ends.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct Verdict {
    /// Whether both ends allow it.
    pub allowed: bool,
    /// By the policies of the source.
    pub egress: Ruling,
    /// By the policies of the destination.
    pub ingress: Ruling,
}

impl Verdict {
    /// What `policy` says of `packet`.
    pub fn of(policy: &PolicyTable, packet: &Packet) -> Self {
        let judgement = policy.judge(packet.src, packet.dst, packet.protocol, packet.dst_port);
        Self::new(policy, judgement, packet)
    }

    /// The same of a packet whose destination a Service has chosen.
    pub fn of_translated(policy: &PolicyTable, packet: &Packet) -> Self {
        let judgement = policy.judge_translated(packet.src, packet.dst, packet.protocol, packet.dst_port);
        Self::new(policy, judgement, packet)
    }

    fn new(policy: &PolicyTable, judgement: Judgement, packet: &Packet) -> Self {
        Verdict {
            allowed: judgement.allowed(),
            egress: Ruling::new(policy, judgement.egress, packet.src, false),
            ingress: Ruling::new(policy, judgement.ingress, packet.dst, true),
        }
    }
}
