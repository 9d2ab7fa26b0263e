//! What would happen to a packet, in sentences. Asks [`crate::judge`], as the packet path does. Pure.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use agent_api::contract::{ExplainQuery, Explanation, PolicyDecision};
use policy_compiler::policy::{Decision as Ruling, Judgement, RuleId};
use policy_compiler::routes::Route;

use super::history::decided_by;
use crate::drops::DropReason;
use crate::flow::Key;
use crate::judge::{self, Decision, Known, Origin};
use crate::snapshot::{PortIndex, Snapshot, Way};

/// Explains a packet. `devices` are the names of the ports.
pub(super) fn explain(
    snapshot: &Snapshot,
    devices: &BTreeMap<PortIndex, String>,
    query: &ExplainQuery,
) -> Explanation {
    let voice = Voice { snapshot, devices };
    let Some(origin) = judge::origin_of(snapshot, query.src) else { return voice.unheard(query) };
    let v6 = query.src.is_ipv6();
    let key = Key::new(query.src, query.src_port, query.dst, query.dst_port, query.protocol);
    let decision = judge::decide(snapshot, &key, v6, origin, Known::default());
    let mut steps = vec![voice.origin(query.src, origin)];
    steps.extend(voice.service(query, &decision));
    let (mut egress, mut ingress) = (String::new(), String::new());
    if let Some(judgement) = decision.judgement {
        egress = voice.rule(judgement.egress);
        ingress = voice.rule(judgement.ingress);
        steps.push(voice.policy("egress", query.src, judgement.egress));
        steps.push(voice.policy("ingress", decision.dst.ip(), judgement.ingress));
    }
    let reason = outcome(&decision);
    if let Some(route) = decision.route {
        steps.push(voice.route(decision.dst.ip(), route));
    }
    if decision.verdict.is_ok() {
        if let Some(address) = decision.masquerade {
            steps.push(format!("the source becomes {address}, this node's"));
        }
        steps.push(voice.way(decision.way));
    }
    if let Some(reason) = reason {
        steps.push(format!("dropped as {}: {}", reason.name(), sentence(reason)));
    }
    let backend = decision.service.filter(|_| decision.dst != SocketAddr::new(query.dst, query.dst_port));
    Explanation {
        verdict: if reason.is_none() { "forward" } else { "drop" }.to_owned(),
        reason: reason.map(|reason| reason.name().to_owned()),
        steps,
        generation: snapshot.tables.generation,
        egress,
        ingress,
        decisions: decision.judgement.map_or_else(Vec::new, |judgement| voice.decisions(&judgement)),
        backend: backend.map(|_| decision.dst.to_string()),
    }
}

/// What is decided is done only where there is a way.
fn outcome(decision: &Decision) -> Option<DropReason> {
    match (decision.verdict, decision.way) {
        (Err(reason), _) => Some(reason),
        (Ok(()), Way::Ready(_)) => None,
        (Ok(()), Way::Unresolved) => Some(DropReason::NeighbourUnresolved),
        (Ok(()), Way::NoPort) => Some(DropReason::NoPort),
    }
}

fn sentence(reason: DropReason) -> String {
    let text = reason.description().trim().trim_end_matches('.');
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_lowercase().chain(letters).collect())
}

/// Puts numbers into words.
struct Voice<'a> {
    snapshot: &'a Snapshot,
    devices: &'a BTreeMap<PortIndex, String>,
}

impl Voice<'_> {
    /// A packet that cannot come in. Policy is asked all the same.
    fn unheard(&self, query: &ExplainQuery) -> Explanation {
        let judgement =
            self.snapshot.tables.policy.judge(query.src, query.dst, query.protocol, query.dst_port);
        let route = self.snapshot.tables.routes.lookup(query.src);
        let steps = vec![
            self.route(query.src, route),
            "no port is attached by which it could come in".to_owned(),
            self.policy("egress", query.src, judgement.egress),
            self.policy("ingress", query.dst, judgement.ingress),
        ];
        Explanation {
            verdict: "drop".to_owned(),
            reason: Some(DropReason::NoPort.name().to_owned()),
            steps,
            generation: self.snapshot.tables.generation,
            egress: self.rule(judgement.egress),
            ingress: self.rule(judgement.ingress),
            decisions: self.decisions(&judgement),
            backend: None,
        }
    }

    fn device(&self, port: PortIndex) -> String {
        self.devices.get(&port).cloned().unwrap_or_else(|| format!("number {port}"))
    }

    fn node(&self, index: u32) -> &str {
        self.snapshot.tables.routes.nodes().get(index as usize).map_or("?", |node| node.name.as_str())
    }

    fn origin(&self, src: IpAddr, origin: Origin) -> String {
        match origin {
            Origin::Endpoint(port) => format!("{} comes in by its port {}", self.who(src), self.device(port)),
            Origin::Host(port) => {
                format!("{} comes in by the host's port {}", self.who(src), self.device(port))
            }
            Origin::Uplink(port) => format!("{} comes in by the uplink {}", self.who(src), self.device(port)),
            Origin::Tunnel { port, node } => {
                format!(
                    "{} comes in by the tunnel from node {}, port {}",
                    self.who(src),
                    self.node(node),
                    self.device(port)
                )
            }
        }
    }

    fn service(&self, query: &ExplainQuery, decision: &Decision) -> Option<String> {
        let (name, port) = self.snapshot.tables.services.name(decision.service?)?;
        let frontend = SocketAddr::new(query.dst, query.dst_port);
        let port = if port.is_empty() { String::new() } else { format!(", port {port}") };
        let backend = match decision.verdict {
            Err(DropReason::ServiceReject) => "no endpoint: refused".to_owned(),
            Err(DropReason::ServiceDrop) => "no endpoint that may be used here".to_owned(),
            _ => format!("backend {}", decision.dst),
        };
        Some(format!("{frontend} is Service {name}{port}: {backend}"))
    }

    fn rule(&self, ruling: Ruling) -> String {
        self.snapshot.tables.policy.origins().text(ruling.rule)
    }

    fn decisions(&self, judgement: &Judgement) -> Vec<PolicyDecision> {
        let origins = self.snapshot.tables.policy.origins();
        let both = [(judgement.egress, false), (judgement.ingress, true)];
        let decision = |(ruling, ingress): (Ruling, bool)| {
            let decided_by = decided_by(&origins, ruling.rule, ingress)?;
            Some(PolicyDecision { allowed: ruling.allowed, decided_by })
        };
        both.into_iter().filter_map(decision).collect()
    }

    fn policy(&self, direction: &str, address: IpAddr, ruling: Ruling) -> String {
        let who = self.who(address);
        match ruling.rule {
            RuleId::DEFAULT_ALLOW => {
                format!("{direction} policy of {who}: allowed, nothing isolates it from this peer")
            }
            RuleId::NO_RULE => {
                let isolating = self.snapshot.tables.policy.isolating(address, direction == "ingress");
                let names: Vec<String> = isolating.iter().map(ToString::to_string).collect();
                format!("{direction} policy of {who}: denied, no rule matches of {}", names.join(", "))
            }
            _ => {
                let verdict = if ruling.allowed { "allowed" } else { "denied" };
                format!("{direction} policy of {who}: {verdict} by {}", self.rule(ruling))
            }
        }
    }

    /// An address with what is known of it.
    fn who(&self, address: IpAddr) -> String {
        match self.snapshot.tables.routes.lookup(address) {
            Route::Endpoint(index) => {
                let endpoint = self.snapshot.tables.routes.endpoints().get(index as usize);
                endpoint
                    .map_or_else(|| address.to_string(), |endpoint| format!("{address} ({})", endpoint.name))
            }
            Route::Tunnel(node) => format!("{address} (on node {})", self.node(node)),
            Route::Node => format!("{address} (this node)"),
            Route::External | Route::Unreachable => address.to_string(),
        }
    }

    fn route(&self, address: IpAddr, route: Route) -> String {
        match route {
            Route::Endpoint(_) => format!("{} is on this node", self.who(address)),
            Route::Tunnel(node) => format!("{address} is on node {}, behind the tunnel", self.node(node)),
            Route::Node => format!("{address} is this node"),
            Route::External => format!("{address} is outside of the cluster, by the underlay"),
            Route::Unreachable => format!("{address} would be ours, and does not exist"),
        }
    }

    fn way(&self, way: Way) -> String {
        match way {
            Way::Ready(index) => match self.snapshot.egresses.get(index as usize) {
                Some(egress) if egress.is_tunnel() => {
                    format!("leaves by {}, in VXLAN {}", self.device(egress.port), self.snapshot.tables.vni)
                }
                Some(egress) => {
                    let mac: Vec<String> =
                        egress.header[..6].iter().map(|octet| format!("{octet:02x}")).collect();
                    format!("leaves by {}, to {}", self.device(egress.port), mac.join(":"))
                }
                None => "leaves by a port that is gone".to_owned(),
            },
            Way::Unresolved => "the next hop's MAC address is not known yet".to_owned(),
            Way::NoPort => "no port leads there".to_owned(),
        }
    }
}
