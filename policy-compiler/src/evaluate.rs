//! Judges a list of probes by the compiled tables of one node: what `penstockctl evaluate` prints.
//!
//! ```text
//!   [{"from": "shop/web-0", "to": "10.96.0.10", "protocol": "tcp", "port": 80}, …]
//!     ──► Service: none, reject, drop, or every backend it may choose ──► policy to each ──► one answer a probe
//! ```
//!
//! A probe is the first packet of a flow, seen by the node in question. `from` and `to` are pods (`namespace/name`)
//! or addresses; `to` may also be a Service (`namespace/name` that is no pod), and is then its cluster address.
//! Where pods have an address in each family, the client's first that the destination has, too, is taken.
//!
//! Policy is judged after the Service's translation of the destination, for the client's own address, once for each
//! backend that may be chosen. The verdict is `allow` as soon as one backend is allowed: `backends` lists all that
//! may be chosen, `denied` those of them that policy forbids, and `ingress` and `egress` tell of the first that is
//! allowed, or of the first if none is. `snat` is true where the source is translated whichever is chosen.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use crate::intent::{FrontendKind, Intent};
use crate::objects::{ObjectError, Objects};
use crate::policy::{Decision, Judgement, PolicyTable};
use crate::service::{Candidates, ServiceId, ServiceQuery};
use crate::tables::{Capacity, CompileError, Tables};

/// A question: may this flow begin?
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Probe {
    /// The client: `namespace/pod` or an address.
    pub from: String,
    /// The destination: `namespace/pod`, `namespace/service` or an address.
    pub to: String,
    /// The protocol; TCP where left out.
    #[serde(default)]
    pub protocol: ProbeProtocol,
    /// The destination's port, 1 to 65535; left out (or 0) for ICMP alone.
    #[serde(default)]
    pub port: u16,
}

/// What a probe is carried by.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProbeProtocol {
    /// RFC 9293.
    #[default]
    #[serde(alias = "TCP")]
    Tcp,
    /// RFC 768.
    #[serde(alias = "UDP")]
    Udp,
    /// RFC 9260.
    #[serde(alias = "SCTP")]
    Sctp,
    /// ICMP (RFC 792) or ICMPv6 (RFC 4443), by the family of the addresses.
    #[serde(alias = "ICMP")]
    Icmp,
}

/// What becomes of a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// It passes, to one backend at least.
    Allow,
    /// Policy forbids it, to every backend.
    Deny,
    /// A Service without endpoints, or without that port: answered with TCP RST or ICMP unreachable.
    Reject,
    /// A Service with endpoints none of which may be used here, a client outside of its source ranges, or a free
    /// address of the Service range: silence.
    Drop,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Verdict::Allow => "allow",
            Verdict::Deny => "deny",
            Verdict::Reject => "reject",
            Verdict::Drop => "drop",
        })
    }
}

/// What policy says in one direction, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DirectionAnswer {
    /// Whether it lets the flow pass.
    pub allowed: bool,
    /// `NetworkPolicy ns/name ingress[0]`, `default-allow` (nothing isolates that end) or `no-rule` (isolated, and
    /// no rule matches).
    pub rule: String,
}

/// The answer to one probe.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// What becomes of the flow.
    pub verdict: Verdict,
    /// By the policies of the destination; `None` where a Service ended the flow before any policy was asked.
    pub ingress: Option<DirectionAnswer>,
    /// By the policies of the client; `None` likewise.
    pub egress: Option<DirectionAnswer>,
    /// `namespace/name:port` of the Service port (its name, or its number where it has none); `None` without one.
    pub service: Option<String>,
    /// `address:port` of every backend that may be chosen, ascending; empty without a Service.
    pub backends: Vec<String>,
    /// Those of `backends` that policy forbids.
    pub denied: Vec<String>,
    /// Whether the source is translated to an address of this node.
    pub snat: bool,
}

/// Why probes cannot be answered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EvaluateError {
    /// The objects do not make an intent.
    #[error(transparent)]
    Objects(#[from] ObjectError),
    /// The intent does not compile.
    #[error(transparent)]
    Compile(#[from] CompileError),
    /// The list of probes is not what it should be.
    #[error("probes{path}: {problem}")]
    Syntax {
        /// Index and field, such as `[3].port`; empty where the text as a whole is no JSON list.
        path: String,
        /// What is wrong.
        problem: String,
    },
    /// A probe asks for something that is not there.
    #[error("probes[{index}].{field}: {problem}")]
    Probe {
        /// Index in the list.
        index: usize,
        /// The field at fault.
        field: &'static str,
        /// What is wrong.
        problem: String,
    },
}

/// Reads a JSON list of probes.
///
/// # Errors
/// [`EvaluateError::Syntax`] with the index and the field, for JSON that is none, an unknown or missing field, or a
/// value out of range.
pub fn parse_probes(text: &str) -> Result<Vec<Probe>, EvaluateError> {
    let mut json = serde_json::Deserializer::from_str(text);
    let probes = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let path = if error.path().iter().len() == 0 { String::new() } else { error.path().to_string() };
        EvaluateError::Syntax { path, problem: error.inner().to_string() }
    })?;
    let rest =
        |error: serde_json::Error| EvaluateError::Syntax { path: String::new(), problem: error.to_string() };
    json.end().map_err(rest)?;
    Ok(probes)
}

/// Answers `probes`, in their order, by the tables that `objects` compile to on the node called `node`.
///
/// # Errors
/// [`EvaluateError`] where the objects do not compile, or a probe names a pod that is not there, a port 0, or
/// addresses of two families.
pub fn evaluate(objects: &Objects, node: &str, probes: &[Probe]) -> Result<Vec<Answer>, EvaluateError> {
    let (intent, _) = objects.intent(node)?;
    evaluate_intent(&intent, probes)
}

/// Answers `probes`, in their order, by the tables that `intent` compiles to.
///
/// # Errors
/// As [`evaluate`].
pub fn evaluate_intent(intent: &Intent, probes: &[Probe]) -> Result<Vec<Answer>, EvaluateError> {
    let tables = Tables::compile(intent, 1, &Capacity::default())?;
    let asked = probes.iter().enumerate();
    asked.map(|(index, probe)| Ok(answer(intent, &tables, &query(intent, index, probe)?))).collect()
}

/// Resolves a probe's names to a query.
fn query(intent: &Intent, index: usize, probe: &Probe) -> Result<ServiceQuery, EvaluateError> {
    let fail = |field, problem: String| EvaluateError::Probe { index, field, problem };
    let sources = pods(intent, &probe.from).map_err(|problem| fail("from", problem))?;
    let destinations = match pods(intent, &probe.to) {
        Ok(addresses) => addresses,
        Err(problem) => cluster_addresses(intent, &probe.to).ok_or_else(|| fail("to", problem))?,
    };
    let pair = sources.iter().find_map(|src| {
        let dst = destinations.iter().find(|dst| dst.is_ipv6() == src.is_ipv6())?;
        Some((*src, *dst))
    });
    let Some((src, dst)) = pair else {
        return Err(fail("to", format!("{:?} has no address in a family of {:?}", probe.to, probe.from)));
    };
    let protocol = match probe.protocol {
        ProbeProtocol::Tcp => 6,
        ProbeProtocol::Udp => 17,
        ProbeProtocol::Sctp => 132,
        ProbeProtocol::Icmp if dst.is_ipv6() => 58,
        ProbeProtocol::Icmp => 1,
    };
    match (probe.protocol, probe.port) {
        (ProbeProtocol::Icmp, 0) => {}
        (ProbeProtocol::Icmp, port) => return Err(fail("port", format!("is {port}, but ICMP has no ports"))),
        (_, 0) => return Err(fail("port", "is missing or 0".into())),
        _ => {}
    }
    // The candidates do not depend on the client's port.
    Ok(ServiceQuery { src, src_port: 0, dst, dst_port: probe.port, protocol })
}

/// The addresses of `namespace/pod`, or the address that the text is.
fn pods(intent: &Intent, text: &str) -> Result<Vec<IpAddr>, String> {
    if let Ok(address) = text.parse() {
        return Ok(vec![address]);
    }
    let Some((namespace, name)) = text.split_once('/') else {
        return Err(format!("{text:?} is neither an address nor namespace/name"));
    };
    let named = |pod: &&crate::intent::Endpoint| pod.name.namespace == namespace && pod.name.name == name;
    let pod = intent.endpoints.iter().find(named);
    pod.map(|pod| pod.addresses.clone()).ok_or_else(|| format!("no pod with an address is called {text:?}"))
}

/// The cluster addresses of `namespace/service`; `None` where there are none.
fn cluster_addresses(intent: &Intent, text: &str) -> Option<Vec<IpAddr>> {
    let (namespace, name) = text.split_once('/')?;
    let named = intent.services.iter().filter(|s| s.name.namespace == namespace && s.name.name == name);
    let frontends =
        named.flat_map(|service| &service.frontends).filter(|f| f.kind == FrontendKind::ClusterIp);
    let addresses: Vec<IpAddr> = frontends.filter_map(|frontend| frontend.address).collect();
    (!addresses.is_empty()).then_some(addresses)
}

fn answer(intent: &Intent, tables: &Tables, query: &ServiceQuery) -> Answer {
    let name = |service: ServiceId| {
        tables.services.name(service).map(|(name, port)| match port {
            "" => format!("{name}:{}", query.dst_port),
            port => format!("{name}:{port}"),
        })
    };
    let policy = &*tables.policy;
    match tables.services.candidates(query) {
        Candidates::NotAService if intent.service_ranges.iter().any(|range| range.contains(&query.dst)) => {
            Answer::ended(Verdict::Drop, None)
        }
        Candidates::NotAService => {
            let target = SocketAddr::new(query.dst, query.dst_port);
            let direct =
                |target: &SocketAddr| policy.judge(query.src, target.ip(), query.protocol, target.port());
            Answer { backends: Vec::new(), denied: Vec::new(), ..judged(policy, &[target], direct) }
        }
        Candidates::Reject { service } => Answer::ended(Verdict::Reject, name(service)),
        Candidates::Drop { service } => Answer::ended(Verdict::Drop, name(service)),
        Candidates::Forward { service, backends, masquerade } => {
            let targets: Vec<SocketAddr> = backends.iter().map(|backend| backend.address).collect();
            let snat = masquerade || targets.iter().all(|target| target.ip() == query.src);
            let translated = |target: &SocketAddr| {
                policy.judge_translated(query.src, target.ip(), query.protocol, target.port())
            };
            Answer { service: name(service), snat, ..judged(policy, &targets, translated) }
        }
    }
}

impl Answer {
    /// An answer that a Service gives without asking policy.
    fn ended(verdict: Verdict, service: Option<String>) -> Self {
        Answer {
            verdict,
            ingress: None,
            egress: None,
            service,
            backends: Vec::new(),
            denied: Vec::new(),
            snat: false,
        }
    }
}

/// Policy's part of an answer: a flow that may go to any of `targets`.
fn judged(policy: &PolicyTable, targets: &[SocketAddr], judge: impl Fn(&SocketAddr) -> Judgement) -> Answer {
    let judgements: Vec<(SocketAddr, Judgement)> =
        targets.iter().map(|target| (*target, judge(target))).collect();
    let shown = judgements.iter().find(|(_, judgement)| judgement.allowed()).or(judgements.first());
    let denied = judgements.iter().filter(|(_, judgement)| !judgement.allowed());
    let direction =
        |decision: Decision| DirectionAnswer { allowed: decision.allowed, rule: rule(policy, decision) };
    Answer {
        verdict: if shown.is_some_and(|(_, j)| j.allowed()) { Verdict::Allow } else { Verdict::Deny },
        ingress: shown.map(|(_, judgement)| direction(judgement.ingress)),
        egress: shown.map(|(_, judgement)| direction(judgement.egress)),
        service: None,
        backends: targets.iter().map(SocketAddr::to_string).collect(),
        denied: denied.map(|(target, _)| target.to_string()).collect(),
        snat: false,
    }
}

/// A rule in words.
fn rule(policy: &PolicyTable, decision: Decision) -> String {
    policy.origins().text(decision.rule)
}

#[cfg(test)]
mod tests;
