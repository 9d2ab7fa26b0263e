//! `explain --manifests`: the same question, judged by a folder; and the story of a packet in words, for both.

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use agent_api::tools::agent::prepare;
use policy_compiler::analysis::explain::{self, Explanation as Story};
use policy_compiler::analysis::{Packet, Verdict};
use policy_compiler::intent::{Action, Intent, Tier};
use policy_compiler::objects::IntentOptions;
use policy_compiler::policy::PolicyTable;
use policy_compiler::service::{Candidates, ServiceId, ServiceQuery};
use policy_compiler::tables::{Capacity, Tables};
use serde_json::json;

use crate::analysis::ruling as ruling_text;
use crate::answer::{Answer, Fault};
use crate::explain::{End, addresses};
use crate::offline::count;
use crate::running::{protocol_name, socket};

/// Judges by a folder of manifests.
pub(crate) fn offline(
    folder: &Path,
    node: Option<&str>,
    (source, destination): (&End, &End),
    protocol: u8,
) -> Result<Answer, Fault> {
    let (intent, _) = prepare(folder, node.unwrap_or_default(), &IntentOptions::default())?;
    let (src, dst) = addresses(&intent, source, destination)?;
    let asked = Packet { src, src_port: source.port, dst, dst_port: destination.port, protocol };
    let heading = format!(
        "{} {} > {}\n",
        protocol_name(protocol),
        socket(src, source.port),
        socket(dst, destination.port)
    );
    match node {
        Some(_) => {
            let tables = Tables::compile(&intent, 1, &Capacity::default())?;
            told(&intent, &tables.policy, &asked, choice(&tables, &asked), heading)
        }
        None if is_cluster_address(&intent, dst) => {
            let problem = "is the address of a Service, which chooses by node: name one with --node";
            Err(Fault::usage("destination", format!("{dst} {problem}")))
        }
        None => told(&intent, &PolicyTable::compile(&intent)?, &asked, Choice::None, heading),
    }
}

/// What a Service makes of a destination.
enum Choice {
    /// There is none.
    None,
    /// The end of the flow, with the Service's name.
    Ended(&'static str, Option<String>),
    /// The Service's name, and where it may send the flow.
    Backends(Option<String>, Vec<SocketAddr>),
}

fn choice(tables: &Tables, asked: &Packet) -> Choice {
    let Packet { src, src_port, dst, dst_port, protocol } = *asked;
    let name = |service: ServiceId| tables.services.name(service).map(|(name, _)| name.to_string());
    match tables.services.candidates(&ServiceQuery { src, src_port, dst, dst_port, protocol }) {
        Candidates::NotAService => Choice::None,
        Candidates::Reject { service } => Choice::Ended("reject", name(service)),
        Candidates::Drop { service } => Choice::Ended("drop", name(service)),
        Candidates::Forward { service, backends, .. } => {
            Choice::Backends(name(service), backends.iter().map(|backend| backend.address).collect())
        }
    }
}

/// The answer for a flow that may go to any backend of `choice`: it tells of the first that is allowed, or of the first.
fn told(
    intent: &Intent,
    policy: &PolicyTable,
    asked: &Packet,
    choice: Choice,
    heading: String,
) -> Result<Answer, Fault> {
    let mut human = heading;
    let (service, backends) = match choice {
        Choice::None => (None, Vec::new()),
        Choice::Backends(service, backends) => (service, backends),
        Choice::Ended(verdict, service) => {
            let name = service.clone().unwrap_or_default();
            let _ = writeln!(human, "{verdict}: by Service {name}, before any policy is asked");
            let value = json!({"verdict": verdict, "service": service, "backends": [], "policy": null});
            return Ok(Answer::new(&value, human)?.negative_if(true));
        }
    };
    let packet = |target: &SocketAddr| Packet { dst: target.ip(), dst_port: target.port(), ..*asked };
    let allowed = |target: &&SocketAddr| Verdict::of_translated(policy, &packet(target)).allowed;
    let target = backends.iter().find(allowed).or(backends.first()).copied();
    let target = target.unwrap_or(SocketAddr::new(asked.dst, asked.dst_port));
    let story = explain::explain(intent, policy, &packet(&target), service.is_some());
    let verdict = if story.verdict.allowed { "allow" } else { "deny" };
    let _ = writeln!(human, "{verdict}");
    if let Some(service) = &service {
        let denied = backends.len() - backends.iter().filter(allowed).count();
        let all = count(backends.len(), "backend", "backends");
        let _ = writeln!(
            human,
            "  Service {service}: {all}, {denied} of them denied by policy; told of {target}"
        );
    }
    human += &story_text(&story);
    let value = json!({"verdict": verdict, "service": service, "backends": backends, "policy": story});
    Ok(Answer::new(&value, human)?.negative_if(!story.verdict.allowed))
}

fn is_cluster_address(intent: &Intent, address: IpAddr) -> bool {
    let frontends = intent.services.iter().flat_map(|service| &service.frontends);
    frontends.into_iter().any(|frontend| frontend.address == Some(address))
}

/// What the policies of both ends say, rule by rule.
pub(crate) fn story_text(story: &Story) -> String {
    let ends = [
        ("egress", &story.source, &story.verdict.egress),
        ("ingress", &story.destination, &story.verdict.ingress),
    ];
    let mut text = String::new();
    for (direction, end, ruling) in ends {
        let _ = writeln!(text, "{direction} of {}: {}", end.who, ruling_text(ruling));
        match end.exempt {
            Some(exempt) => drop(writeln!(text, "  {exempt}")),
            None if end.policies.is_empty() => drop(writeln!(text, "  no policy selects it for {direction}")),
            None => {}
        }
        for policy in &end.policies {
            let version = match policy.resource_version.as_str() {
                "" => String::new(),
                version => format!(" (resourceVersion {version})"),
            };
            let tier = match policy.tier {
                Tier::Admin(priority) => format!(" (Admin tier, priority {priority})"),
                Tier::NetworkPolicy => String::new(),
                Tier::Baseline(priority) => format!(" (Baseline tier, priority {priority})"),
            };
            let _ = writeln!(text, "  {}{tier}{version} selects it", policy.policy);
            if policy.rules.is_empty() {
                let _ = writeln!(text, "    it has no {direction} rules");
            }
            for rule in &policy.rules {
                let decides = ruling.rule == format!("{} {}", policy.policy, rule.rule);
                let said = match &rule.mismatch {
                    Some(mismatch) => format!("no: {mismatch}"),
                    None if decides && rule.unknown_peer => {
                        "decides: the other end is in a pod range and no known pod's, and may be meant"
                            .to_owned()
                    }
                    None if decides => "matches and decides".to_owned(),
                    None if rule.action == Action::Pass => "matches: not for this tier to decide".to_owned(),
                    None => "would match, too".to_owned(),
                };
                let action = match policy.tier {
                    Tier::NetworkPolicy => String::new(),
                    _ => format!("{} ", rule.action),
                };
                let _ = writeln!(text, "    {action}{} {said}", rule.rule);
            }
        }
    }
    text
}
