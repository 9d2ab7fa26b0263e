//! `policy diff`, `policy who-can-reach` and `policy lint`.

use std::fmt::Write as _;
use std::path::Path;

use agent_api::tools::agent::prepare;
use agent_api::tools::folder::{self, text};
use policy_compiler::analysis::diff::{self, Change, Difference, Parties, PolicyDiff, Uncompared};
use policy_compiler::analysis::lint::{self, Report, Severity};
use policy_compiler::analysis::reach::{self, Access, Reach};
use policy_compiler::analysis::{Party, PortRange, Ruling};
use policy_compiler::intent::Intent;
use policy_compiler::objects::IntentOptions;
use policy_compiler::policy::PolicyTable;
use serde_json::json;

use crate::answer::{Answer, Fault, NEGATIVE, Rows, UNREACHABLE, USAGE};
use crate::arguments::{Connection, Source, WhoCanReach};
use crate::offline::count;
use crate::running::{connect, intent_from, protocol_name};

/// Most names that a list of what was not compared prints.
const NAMES: usize = 8;

pub(crate) async fn diff(connection: &Connection, old: &Source, new: &Source) -> Result<Answer, Fault> {
    let compared = async {
        let (before, after) = (state(connection, old).await?, state(connection, new).await?);
        let found = diff::diff(&before, &after)?;
        let PolicyDiff { differences, only_old, only_new } = &found;
        let value = json!({
            "old": old.to_string(),
            "new": new.to_string(),
            "differences": differences,
            "only_old": only_old,
            "only_new": only_new,
        });
        Ok(Answer::new(&value, diff_text(&found, old, new))?.negative_if(!differences.is_empty()))
    };
    compared.await.map_err(as_diff_does)
}

/// 1 says that there are differences: what is wrong is 2.
fn as_diff_does(fault: Fault) -> Fault {
    let code = if fault.code == UNREACHABLE { UNREACHABLE } else { USAGE };
    Fault { code, ..fault }
}

/// The state that `source` names.
async fn state(connection: &Connection, source: &Source) -> Result<Intent, Fault> {
    let wanted = match source {
        Source::Path(path) => return state_at(path),
        Source::Running(wanted) => wanted,
    };
    let state = connect(connection).await?.state().await?;
    match wanted {
        Some(wanted) if *wanted != state.generation => {
            let problem = format!("is not running, {} is; penstockd keeps no other", state.generation);
            let object = format!("generation {wanted}");
            Err(Fault { object, field: String::new(), problem, kind: "not_found", code: NEGATIVE })
        }
        _ => Ok(state.intent),
    }
}

/// A state from a folder or file of manifests, or from a file that `status -o json` has written.
fn state_at(path: &Path) -> Result<Intent, Fault> {
    let json = path.is_file() && path.extension().is_some_and(|end| end == "json");
    if json {
        let value: Option<serde_json::Value> = serde_json::from_str(&text(path)?).ok();
        // Kubernetes objects have a kind, states have not.
        if value.is_some_and(|value| value.is_object() && value.get("kind").is_none()) {
            return intent_from(path);
        }
    }
    Ok(prepare(path, "", &IntentOptions::default())?.0)
}

fn diff_text(found: &PolicyDiff, old: &Source, new: &Source) -> String {
    let mut text = String::new();
    for difference in &found.differences {
        difference_text(&mut text, difference);
    }
    for (source, uncompared) in [(old, &found.only_old), (new, &found.only_new)] {
        if uncompared.addresses > 0 {
            let _ = writeln!(text, "not compared, only in {source}: {}", uncompared_text(uncompared));
        }
    }
    let changes = |change: Change| found.differences.iter().filter(|row| row.change == change).count();
    let _ = match (changes(Change::Allowed), changes(Change::Denied)) {
        (0, 0) => writeln!(text, "no difference in what policy allows"),
        (allowed, denied) => writeln!(
            text,
            "{} in what policy allows: {allowed} newly allowed, {denied} newly denied",
            count(allowed + denied, "difference", "differences")
        ),
    };
    text
}

fn difference_text(text: &mut String, difference: &Difference) {
    let change = match difference.change {
        Change::Allowed => "newly allowed",
        Change::Denied => "newly denied",
    };
    let _ = writeln!(text, "{change}, {}", families(&difference.families));
    let about = if difference.own_node { "  (a pod and its own node)" } else { "" };
    let _ = writeln!(text, "  from  {}{about}", parties(&difference.from));
    let _ = writeln!(text, "  to    {}", parties(&difference.to));
    let nodes = |side: &Parties| {
        side.all_but || side.parties.iter().any(|party| matches!(party, Party::Nodes { .. }))
    };
    let nodes = nodes(&difference.from) || nodes(&difference.to);
    if nodes && !difference.own_node {
        let _ = writeln!(text, "  but   not between a pod and its own node");
    }
    let _ = writeln!(text, "  on    {}", ports(&difference.ports));
    let turns = [
        ("egress", &difference.old.egress, &difference.new.egress),
        ("ingress", &difference.old.ingress, &difference.new.ingress),
    ];
    for (direction, old, new) in turns.into_iter().filter(|(_, old, new)| old.allowed != new.allowed) {
        let _ = writeln!(text, "  was   {direction}: {}", ruling(old));
        let _ = writeln!(text, "  is    {direction}: {}", ruling(new));
    }
    let _ = writeln!(text, "  e.g.  {}\n", difference.witness);
}

/// A ruling with whether it allows.
pub(crate) fn ruling(ruling: &Ruling) -> String {
    format!("{} by {ruling}", if ruling.allowed { "allowed" } else { "denied" })
}

/// Each party on a line of its own.
fn parties(side: &Parties) -> String {
    let texts: Vec<String> = side.parties.iter().map(ToString::to_string).collect();
    let texts = texts.join("\n        ");
    match (side.all_but, side.parties.is_empty()) {
        (false, _) => texts,
        (true, true) => "every pod and node".to_owned(),
        (true, false) => format!("every pod and node but\n        {texts}"),
    }
}

fn ports(ranges: &[PortRange]) -> String {
    let whole = |range: &PortRange| range.protocol.is_none() || (range.first, range.last) == (0, u16::MAX);
    // TCP, UDP, SCTP and the rest.
    if ranges.len() == 4 && ranges.iter().all(whole) {
        return "every protocol and port".to_owned();
    }
    ranges.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

fn families(families: &[u8]) -> &'static str {
    match families {
        [4] => "IPv4",
        [6] => "IPv6",
        _ => "IPv4 and IPv6",
    }
}

fn uncompared_text(uncompared: &Uncompared) -> String {
    let names: Vec<&str> = uncompared.names.iter().take(NAMES).map(String::as_str).collect();
    let more = if uncompared.names.len() > NAMES { ", …" } else { "" };
    format!("{} of {}{more}", count(uncompared.addresses, "address", "addresses"), names.join(", "))
}

pub(crate) async fn who_can_reach(connection: &Connection, arguments: &WhoCanReach) -> Result<Answer, Fault> {
    let WhoCanReach { target, manifests, denied } = arguments;
    let source = manifests.clone().map_or(Source::Running(None), Source::Path);
    let intent = state(connection, &source).await?;
    let policy = PolicyTable::compile(&intent)?;
    let found = reach::who_can_reach(&intent, &policy, &target.pod, target.protocol, target.port);
    let Some(reach) = found else {
        let object = format!("Pod {}", target.pod);
        let problem = format!("no pod with an address is called that in {source}");
        return Err(Fault {
            object,
            field: "metadata.name".into(),
            problem,
            kind: "not_found",
            code: NEGATIVE,
        });
    };
    let Reach { target, addresses, protocol, port, allowed, denied: others } = &reach;
    let mut value = json!({
        "target": target,
        "addresses": addresses,
        "protocol": protocol,
        "port": port,
        "allowed": allowed,
    });
    if *denied {
        value["denied"] = json!(others);
    }
    Answer::new(&value, reach_text(&reach, *denied))
}

fn reach_text(reach: &Reach, denied: bool) -> String {
    let addresses: Vec<String> = reach.addresses.iter().map(ToString::to_string).collect();
    let protocol = protocol_name(reach.protocol);
    let port = if reach.port == 0 { protocol } else { format!("{protocol} {}", reach.port) };
    let mut text = format!("{port} of pod {} ({})\n", reach.target, addresses.join(", "));
    text += &access_rows("can reach it", &reach.allowed).text("nobody can reach it");
    if denied {
        text.push('\n');
        text += &access_rows("cannot", &reach.denied).text("nobody is denied");
    }
    text
}

fn access_rows(heading: &str, accesses: &[Access]) -> Rows {
    let mut rows = Rows::new([heading, "family", "egress", "ingress"]);
    for access in accesses {
        for who in &access.who {
            let own = if access.own_node { " (its own node)" } else { "" };
            rows.row([
                format!("{who}{own}"),
                families(&access.families).to_owned(),
                access.verdict.egress.to_string(),
                access.verdict.ingress.to_string(),
            ]);
        }
    }
    rows
}

pub(crate) fn lint(path: &Path) -> Result<Answer, Fault> {
    let loaded = folder::load(path).map_err(|error| as_diff_does(error.into()))?;
    let report = lint::lint(&loaded.objects);
    Ok(Answer::new(&report, lint_text(&report))?.negative_if(!report.findings.is_empty()))
}

fn lint_text(report: &Report) -> String {
    let mut text = String::new();
    for finding in &report.findings {
        let severity = match finding.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        let _ = writeln!(text, "{} {severity}: {}: {}", finding.code.name(), finding.object, finding.field);
        let _ = writeln!(text, "      {}", finding.reason);
        let _ = writeln!(text, "      {}", finding.suggestion);
    }
    let policies = count(report.policies, "policy", "policies");
    let pods = match report.pods {
        0 => "no pods to compare them with: NP004 to NP008 were left out".to_owned(),
        pods => count(pods, "pod", "pods"),
    };
    let _ = match report.findings.len() {
        0 => writeln!(text, "nothing found ({policies}, {pods})"),
        found => writeln!(text, "{} ({policies}, {pods})", count(found, "finding", "findings")),
    };
    text
}
