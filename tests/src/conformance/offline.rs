//! Runs a case without a packet: through `evaluate`, as `penstockctl evaluate` does, and through the oracle that reads
//! the objects as the API's documentation words it. Both must say what the case says.

use std::collections::BTreeMap;
use std::time::Instant;

use policy_compiler::evaluate::{self, Answer, DirectionAnswer, Probe, Verdict};
use policy_compiler::objects::Objects;
use policy_compiler::oracle::Oracle;

use super::case::{Case, Flow, Step, Wanted};
use super::report::Outcome;

/// Runs it. Needs no root.
pub fn run(case: &Case) -> Outcome {
    let begin = Instant::now();
    let mut outcome = Outcome::of(case);
    if case.pending.is_none() {
        for step in &case.steps {
            let (probes, failures) = run_step(step);
            outcome.probes += probes;
            outcome.failures.extend(failures.into_iter().map(|failure| format!("{}: {failure}", step.name)));
        }
    }
    outcome.took = begin.elapsed();
    outcome
}

fn run_step(step: &Step) -> (usize, Vec<String>) {
    match (&step.wanted, &step.objects) {
        (Wanted::Refused(parts), objects) => {
            let said = match objects {
                Ok(objects) => {
                    evaluate::evaluate(objects, some_node(objects), &[]).err().map(|e| e.to_string())
                }
                Err(error) => Some(error.clone()),
            };
            (1, judge_refusal(parts, said.as_deref()).err().into_iter().collect())
        }
        (Wanted::Flows(flows), Ok(objects)) => (flows.len(), judge(objects, flows)),
        (Wanted::Flows(flows), Err(error)) => (flows.len(), vec![format!("refused: {error}")]),
    }
}

/// Whether what was `said` in refusing has every part.
///
/// # Errors
/// In words, where it does not, or nothing was refused.
pub fn judge_refusal(parts: &[String], said: Option<&str>) -> Result<(), String> {
    let Some(said) = said else { return Err(format!("taken, though it is to be refused with {parts:?}")) };
    let missing: Vec<&String> = parts.iter().filter(|part| !said.contains(part.as_str())).collect();
    if missing.is_empty() { Ok(()) } else { Err(format!("the refusal does not say {missing:?}: {said}")) }
}

/// The flows that meet something else than they should. Each is asked of the node where it begins, or ends.
fn judge(objects: &Objects, flows: &[Flow]) -> Vec<String> {
    let mut by_node = BTreeMap::<&str, Vec<&Flow>>::new();
    for flow in flows {
        let node = flow.from.node.as_deref().or(flow.to.node.as_deref());
        by_node.entry(node.unwrap_or_else(|| some_node(objects))).or_default().push(flow);
    }
    by_node.into_iter().flat_map(|(node, flows)| judge_on(objects, node, &flows)).collect()
}

fn judge_on(objects: &Objects, node: &str, flows: &[&Flow]) -> Vec<String> {
    let probe = |flow: &&Flow| Probe {
        from: flow.src.to_string(),
        to: flow.dst.to_string(),
        protocol: flow.protocol,
        port: flow.port,
    };
    let probes: Vec<Probe> = flows.iter().map(probe).collect();
    let answers = match evaluate::evaluate(objects, node, &probes) {
        Ok(answers) => answers,
        Err(error) => return vec![format!("refused on {node}: {error}")],
    };
    let oracle = Oracle::new(objects);
    let compare = |(flow, answer): (&&Flow, Answer)| {
        let twin = oracle.judge(flow.src, flow.dst, flow.number(), flow.port);
        wrong(flow, &answer, twin)
    };
    flows.iter().zip(answers).filter_map(compare).collect()
}

fn wrong(flow: &Flow, answer: &Answer, (egress, ingress): (bool, bool)) -> Option<String> {
    let wanted = if flow.allowed { Verdict::Allow } else { Verdict::Deny };
    let mut said = Vec::new();
    if answer.verdict != wanted {
        let rule = |side: &Option<DirectionAnswer>| side.as_ref().map_or("-".to_owned(), |a| a.rule.clone());
        let (out, into) = (rule(&answer.egress), rule(&answer.ingress));
        said.push(format!("the tables say {} (egress: {out}; ingress: {into})", answer.verdict));
    }
    if (egress && ingress) != flow.allowed {
        let word = |allowed: bool| if allowed { "allow" } else { "deny" };
        said.push(format!("the oracle says {} (egress) and {} (ingress)", word(egress), word(ingress)));
    }
    (!said.is_empty()).then(|| format!("{flow}: wanted {wanted}, {}", said.join("; ")))
}

fn some_node(objects: &Objects) -> &str {
    objects.nodes.keys().next().map_or("", |node| node.name.as_str())
}
