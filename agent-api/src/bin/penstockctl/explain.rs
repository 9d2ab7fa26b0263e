//! `explain <5-tuple>`: what would happen to a packet, and why. Names are looked up in the running state, or in manifests.

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};

use agent_api::contract::{ExplainQuery, Explanation};
use policy_compiler::analysis::{Packet, explain as analysis};
use policy_compiler::intent::{FrontendKind, Intent};
use policy_compiler::policy::PolicyTable;
use serde_json::json;

use crate::answer::{Answer, Fault, NEGATIVE};
use crate::arguments::{Connection, Explain};
use crate::running::{connect, protocol_name, socket};
use crate::story::{offline, story_text};

/// How often the state is asked for again where it has changed before the question.
const ATTEMPTS: usize = 3;

pub(crate) async fn explain(connection: &Connection, arguments: &Explain) -> Result<Answer, Fault> {
    let source = End::parse("source", &arguments.source)?;
    let destination = End::parse("destination", &arguments.destination)?;
    match &arguments.manifests {
        None => running(connection, &source, &destination, arguments.protocol).await,
        Some(folder) => {
            let node = arguments.node.as_deref();
            offline(folder, node, (&source, &destination), arguments.protocol)
        }
    }
}

/// Asks penstockd, and tells from its state what the policies say.
async fn running(
    connection: &Connection,
    source: &End,
    destination: &End,
    protocol: u8,
) -> Result<Answer, Fault> {
    let client = connect(connection).await?;
    let mut attempt = 1;
    let (state, query, explanation) = loop {
        let state = client.state().await?;
        let (src, dst) = addresses(&state.intent, source, destination)?;
        let query = ExplainQuery { src, src_port: source.port, dst, dst_port: destination.port, protocol };
        let explanation = client.explain(query.clone()).await?;
        if explanation.generation == state.generation || attempt == ATTEMPTS {
            break (state, query, explanation);
        }
        attempt += 1;
    };
    let mut human = text(&query, &explanation);
    let mut value = json!(explanation);
    // Where a Service has ended the flow, no policy was asked.
    if !explanation.egress.is_empty() {
        let target = explanation.backend.as_deref().and_then(|backend| backend.parse().ok());
        let target = target.unwrap_or(SocketAddr::new(query.dst, query.dst_port));
        let packet = Packet {
            src: query.src,
            src_port: query.src_port,
            dst: target.ip(),
            dst_port: target.port(),
            protocol,
        };
        let story = analysis::explain(
            &state.intent,
            &PolicyTable::compile(&state.intent)?,
            &packet,
            explanation.backend.is_some(),
        );
        if state.generation != explanation.generation {
            let _ = writeln!(
                human,
                "the state has changed meanwhile; policies of generation {}:",
                state.generation
            );
        }
        human += &story_text(&story);
        value["policy"] =
            json!({"generation": state.generation, "source": story.source, "destination": story.destination});
    }
    let negative = explanation.verdict != "forward";
    Ok(Answer::new(&value, human)?.negative_if(negative))
}

fn text(query: &ExplainQuery, explanation: &Explanation) -> String {
    let reason = explanation.reason.as_ref().map_or(String::new(), |reason| format!(": {reason}"));
    let mut text = format!(
        "{} {} > {}\n{}{reason} (generation {})\n",
        protocol_name(query.protocol),
        socket(query.src, query.src_port),
        socket(query.dst, query.dst_port),
        explanation.verdict,
        explanation.generation,
    );
    for (index, step) in explanation.steps.iter().enumerate() {
        let _ = writeln!(text, "  {}. {step}", index + 1);
    }
    let _ = writeln!(text, "egress:  {}", explanation.egress);
    let _ = writeln!(text, "ingress: {}", explanation.ingress);
    if let Some(backend) = &explanation.backend {
        let _ = writeln!(text, "backend: {backend}");
    }
    text
}

/// One end as it was typed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct End {
    /// "source" or "destination".
    which: &'static str,
    host: Host,
    /// 0 where none was typed.
    pub(crate) port: u16,
}

#[derive(Debug, PartialEq, Eq)]
enum Host {
    Address(IpAddr),
    /// Namespace and name of a pod or Service.
    Name(String, String),
}

impl End {
    fn parse(which: &'static str, text: &str) -> Result<Self, Fault> {
        let wrong = |problem: &str| Fault::usage(which, format!("{text:?} {problem}"));
        // A bare address first: IPv6 has colons of its own.
        if let Ok(address) = text.trim_start_matches('[').trim_end_matches(']').parse() {
            return Ok(End { which, host: Host::Address(address), port: 0 });
        }
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) => {
                (host, port.parse().map_err(|_| wrong("has no port from 0 to 65535 behind its last colon"))?)
            }
            None => (text, 0),
        };
        let bracketed = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        if let Some(inner) = bracketed {
            let address =
                inner.parse::<std::net::Ipv6Addr>().map_err(|_| wrong("has no IPv6 address in brackets"))?;
            return Ok(End { which, host: Host::Address(address.into()), port });
        }
        if let Ok(address) = host.parse::<std::net::Ipv4Addr>() {
            return Ok(End { which, host: Host::Address(address.into()), port });
        }
        match host.split_once('/') {
            Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() => {
                Ok(End { which, host: Host::Name(namespace.to_owned(), name.to_owned()), port })
            }
            _ => Err(wrong("is neither an address nor namespace/name")),
        }
    }

    /// The addresses it may mean: a pod's, or else a Service's cluster addresses.
    fn addresses(&self, intent: &Intent) -> Result<Vec<IpAddr>, Fault> {
        let (namespace, name) = match &self.host {
            Host::Address(address) => return Ok(vec![*address]),
            Host::Name(namespace, name) => (namespace, name),
        };
        let pods =
            intent.endpoints.iter().filter(|pod| pod.name.namespace == *namespace && pod.name.name == *name);
        let pods: Vec<IpAddr> = pods.flat_map(|pod| pod.addresses.iter().copied()).collect();
        if !pods.is_empty() {
            return Ok(pods);
        }
        let services =
            intent.services.iter().filter(|s| s.name.namespace == *namespace && s.name.name == *name);
        let frontends = services.flat_map(|service| &service.frontends);
        let cluster = frontends.filter(|frontend| frontend.kind == FrontendKind::ClusterIp);
        let addresses: Vec<IpAddr> = cluster.filter_map(|frontend| frontend.address).collect();
        if self.which == "source" || addresses.is_empty() {
            let problem = format!("no pod with an address is called {namespace}/{name}");
            let field = self.which.to_owned();
            return Err(Fault {
                object: "explain".into(),
                field,
                problem,
                kind: "not_found",
                code: NEGATIVE,
            });
        }
        Ok(addresses)
    }
}

/// The first address of the source in whose family the destination has one.
pub(crate) fn addresses(intent: &Intent, source: &End, destination: &End) -> Result<(IpAddr, IpAddr), Fault> {
    let (sources, destinations) = (source.addresses(intent)?, destination.addresses(intent)?);
    let pair = sources.iter().find_map(|src| {
        let dst = destinations.iter().find(|dst| dst.is_ipv4() == src.is_ipv4())?;
        Some((*src, *dst))
    });
    pair.ok_or_else(|| Fault::invalid("explain", "destination", "has no address in a family of the source"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_are_addresses_or_names_with_a_port_or_without() {
        let address = |text: &str, port| (Host::Address(text.parse().unwrap()), port);
        let name = |namespace: &str, name: &str, port| (Host::Name(namespace.into(), name.into()), port);
        let rows = [
            ("10.1.0.2:40000", address("10.1.0.2", 40000)),
            ("10.1.0.2", address("10.1.0.2", 0)),
            ("[::1]:80", address("::1", 80)),
            ("[::1]", address("::1", 0)),
            ("fd00::80", address("fd00::80", 0)),
            ("shop/web-1:8080", name("shop", "web-1", 8080)),
            ("shop/web-1", name("shop", "web-1", 0)),
        ];
        for (text, (host, port)) in rows {
            assert_eq!(End::parse("source", text).unwrap(), End { which: "source", host, port }, "{text}");
        }
        for wrong in [
            "",
            ":80",
            "10.1.0.2:",
            "10.1.0.2:65536",
            "[::1]:x",
            "[10.1.0.2]:80",
            "web",
            "/web:80",
            "shop/:80",
        ] {
            assert_eq!(End::parse("source", wrong).unwrap_err().kind, "usage", "{wrong}");
        }
    }
}
