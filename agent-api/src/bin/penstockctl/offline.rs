//! Commands that judge a folder of manifests offline, through the very tables that penstockd compiles.

use std::fmt::Write as _;

use agent_api::tools::agent::prepare;
use policy_compiler::evaluate::{
    Answer as ProbeAnswer, DirectionAnswer, Probe, evaluate_intent, parse_probes,
};
use policy_compiler::intent::ObjectName;
use policy_compiler::objects::Warning;
use policy_compiler::policy::PolicyTable;
use policy_compiler::policy::report::{self, Cell, Summary};
use policy_compiler::tables::{Capacity, Tables};
use serde_json::json;

use crate::answer::{Answer, Fault, Rows};
use crate::arguments::{Evaluate, Manifests, Matrix};
use crate::running::{dash, protocol_name, text_from};

pub(crate) fn policy_check(manifests: &Manifests, node: Option<&str>) -> Result<Answer, Fault> {
    let (intent, warnings) =
        prepare(&manifests.folder, node.unwrap_or_default(), &manifests.network.options())?;
    let policy = match node {
        Some(_) => Tables::compile(&intent, 1, &Capacity::default())?.policy,
        None => PolicyTable::compile(&intent)?.into(),
    };
    let summary = report::summary(&intent, &policy);
    let human = check_text(&summary, &warnings);
    Answer::new(&json!({"ok": true, "summary": summary, "warnings": warnings}), human)
}

fn check_text(summary: &Summary, warnings: &[Warning]) -> String {
    let mut text = String::new();
    for warning in warnings {
        let _ = writeln!(text, "warning: {warning}");
    }
    let _ = writeln!(
        text,
        "ok: {}, {} ({} of them hostNetwork), {}, {} with {}, {}",
        count(summary.nodes, "node", "nodes"),
        count(summary.endpoints, "endpoint", "endpoints"),
        summary.host_network,
        count(summary.identities, "identity", "identities"),
        count(summary.policies, "policy", "policies"),
        count(summary.rules, "rule", "rules"),
        count(summary.services, "service port", "service ports"),
    );
    for policy in &summary.idle_policies {
        let _ = writeln!(text, "{policy} selects no endpoint");
    }
    let names = |names: &[ObjectName]| {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        dash(&names.join(", "))
    };
    let mut rows = Rows::new(["isolated endpoint", "ingress by", "egress by"]);
    for isolated in &summary.isolated {
        rows.row([isolated.endpoint.to_string(), names(&isolated.ingress), names(&isolated.egress)]);
    }
    if summary.ruled.is_empty() {
        return text + &rows.text("no endpoint is isolated: everyone may reach everyone");
    }
    let mut ruled = Rows::new(["endpoint", "cluster policies on ingress", "cluster policies on egress"]);
    for endpoint in &summary.ruled {
        ruled.row([endpoint.endpoint.to_string(), names(&endpoint.ingress), names(&endpoint.egress)]);
    }
    text + &rows.text("no endpoint is isolated") + &ruled.text("")
}

pub(crate) fn policy_matrix(arguments: &Matrix) -> Result<Answer, Fault> {
    let Matrix { manifests, node, protocol, port } = arguments;
    let node = node.as_deref().unwrap_or_default();
    let (intent, _) = prepare(&manifests.folder, node, &manifests.network.options())?;
    let matrix = report::matrix(&intent, &PolicyTable::compile(&intent)?, *protocol, *port);
    let names: Vec<String> = matrix.endpoints.iter().map(ToString::to_string).collect();
    let mut rows = Rows::with_headings(["FROM \\ TO".to_owned()].into_iter().chain(names.iter().cloned()));
    for (name, cells) in names.iter().zip(&matrix.cells) {
        let cells = cells.iter().map(|cell| cell_text(*cell).to_owned());
        rows.row([name.clone()].into_iter().chain(cells));
    }
    let human = format!("{} {port}\n{}", protocol_name(*protocol), rows.text("no endpoints"));
    Answer::new(&matrix, human)
}

fn cell_text(cell: Cell) -> &'static str {
    match cell {
        Cell::Allow => "allow",
        Cell::DenyEgress => "deny (egress)",
        Cell::DenyIngress => "deny (ingress)",
        Cell::DenyBoth => "deny (both)",
        Cell::ByFamily => "by family",
        Cell::NoCommonFamily => "no common family",
    }
}

pub(crate) fn evaluate(arguments: &Evaluate) -> Result<Answer, Fault> {
    let Evaluate { manifests, node, probes } = arguments;
    let (intent, _) = prepare(&manifests.folder, node, &manifests.network.options())?;
    let probes = parse_probes(&text_from(probes)?)?;
    let answers = evaluate_intent(&intent, &probes)?;
    Answer::new(&json!({"answers": answers}), answer_rows(&probes, &answers).text("no probes"))
}

fn answer_rows(probes: &[Probe], answers: &[ProbeAnswer]) -> Rows {
    let mut rows = Rows::new([
        "from", "to", "protocol", "port", "verdict", "egress", "ingress", "service", "backends", "snat",
    ]);
    let rule =
        |direction: &Option<DirectionAnswer>| direction.as_ref().map_or("-".into(), |d| d.rule.clone());
    for (probe, answer) in probes.iter().zip(answers) {
        rows.row([
            probe.from.clone(),
            probe.to.clone(),
            format!("{:?}", probe.protocol).to_lowercase(),
            probe.port.to_string(),
            answer.verdict.to_string(),
            rule(&answer.egress),
            rule(&answer.ingress),
            answer.service.as_deref().map_or("-".into(), dash),
            dash(&answer.backends.join(" ")),
            if answer.snat { "yes" } else { "no" }.to_owned(),
        ]);
    }
    rows
}

fn count(number: usize, one: &str, many: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { many })
}
