//! `shadow`: a candidate state beside the running one.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use agent_api::client::Client;
use agent_api::contract::{DEFAULT_SAMPLE, Direction, ShadowDifference, ShadowStatus};
use agent_api::tools::agent::prepare;
use clap::{ArgGroup, Args, Subcommand};
use policy_compiler::intent::Intent;
use policy_compiler::objects::{IntentOptions, Warning};
use serde_json::json;

use crate::answer::{Answer, Fault, Output, Rows};
use crate::arguments::Connection;
use crate::offline::count;
use crate::running::{connect, follow, intent_from, protocol_name, socket};

#[derive(Debug, Subcommand)]
pub(crate) enum ShadowCommand {
    /// Judge live traffic by a candidate as well, without effect.
    Set(Set),
    /// What has been compared, and what differs, by rules (what `shadow` alone does).
    Status,
    /// Print each flow that differs, those found before as well, until interrupted (as JSON: one object a line).
    Watch,
    /// Make the candidate the running state, as one transaction.
    Promote {
        /// Also where another generation is running than the candidate was set beside: what came since is lost.
        #[arg(long)]
        force: bool,
    },
    /// Compare no more; what is running stays.
    Discard,
}

#[derive(Debug, Args)]
#[group(skip)]
#[command(group = ArgGroup::new("candidate").required(true).multiple(false).args(["folder", "file"]))]
pub(crate) struct Set {
    /// Folder of manifests: the whole candidate state, pods and Services included.
    #[arg(value_name = "FOLDER")]
    folder: Option<PathBuf>,
    /// A state as JSON, as `penstockctl status -o json` prints it; - for standard input.
    #[arg(short, long, value_name = "FILE", conflicts_with_all = ["node", "vni", "service_ranges"])]
    file: Option<PathBuf>,
    /// Compare one established flow in so many: a power of two up to 65536. Those that are judged are compared all.
    #[arg(long, value_name = "N", default_value_t = DEFAULT_SAMPLE, value_parser = clap::value_parser!(u32).range(1..))]
    sample: u32,
    /// Name of the Node object whose state is made; the running state's where left out.
    #[arg(long, value_name = "NAME", env = "NODE_NAME")]
    node: Option<String>,
    /// VXLAN network identifier of the pod network; the running state's where left out.
    #[arg(long, value_parser = clap::value_parser!(u32).range(..1 << 24))]
    vni: Option<u32>,
    /// The API server's --service-cluster-ip-range; may be repeated; the running state's where left out.
    #[arg(long = "service-range", value_name = "CIDR")]
    service_ranges: Vec<ipnet::IpNet>,
}

pub(crate) async fn shadow(
    connection: &Connection,
    command: Option<ShadowCommand>,
    output: Output,
) -> Result<Answer, Fault> {
    let client = connect(connection).await?;
    match command.unwrap_or(ShadowCommand::Status) {
        ShadowCommand::Set(arguments) => set(&client, &arguments).await,
        ShadowCommand::Status => {
            let status = client.shadow().await?;
            let human = status.as_ref().map_or_else(|| "no shadow is set".to_owned(), status_text);
            Ok(Answer::new(&status, human)?.negative_if(status.is_none()))
        }
        ShadowCommand::Watch => {
            follow(client.watch_shadow().await?, "ShadowDifference", output, difference_line).await
        }
        ShadowCommand::Promote { force } => {
            let applied = client.promote_shadow(force).await?;
            let human =
                format!("promoted as generation {} in {} µs", applied.generation, applied.microseconds);
            Answer::new(&applied, human)
        }
        ShadowCommand::Discard => {
            client.discard_shadow().await?;
            Answer::new(&json!({"discarded": true}), "discarded")
        }
    }
}

async fn set(client: &Client, arguments: &Set) -> Result<Answer, Fault> {
    let (intent, warnings) = candidate(client, arguments).await?;
    let status = client.set_shadow(intent, arguments.sample).await?;
    let mut human = String::new();
    for warning in &warnings {
        let _ = writeln!(human, "warning: {warning}");
    }
    let ShadowStatus { number, base_generation, .. } = &status;
    let _ = writeln!(human, "shadow {number} is set beside generation {base_generation}");
    Answer::new(&json!({"shadow": status, "warnings": warnings}), human)
}

/// The candidate; what manifests do not say is as in the running state.
async fn candidate(client: &Client, arguments: &Set) -> Result<(Intent, Vec<Warning>), Fault> {
    let Set { folder, file, node, vni, service_ranges, .. } = arguments;
    if let Some(file) = file {
        return Ok((intent_from(file)?, Vec::new()));
    }
    let Some(folder) = folder else { return Err(Fault::usage("FOLDER", "is missing, and --file, too")) };
    let (mut node, mut vni, mut service_ranges) = (node.clone(), *vni, service_ranges.clone());
    if node.is_none() || vni.is_none() || service_ranges.is_empty() {
        let running = client.state().await?.intent;
        node = node.or(Some(running.node).filter(|node| !node.is_empty()));
        vni = vni.or(Some(running.vni));
        if service_ranges.is_empty() {
            service_ranges = running.service_ranges;
        }
    }
    let Some(node) = node else {
        return Err(Fault::usage("--node", "is missing, and nothing is running to take it from"));
    };
    let options = IntentOptions { vni: vni.unwrap_or_default(), service_ranges };
    Ok(prepare(folder, &node, &options)?)
}

fn status_text(status: &ShadowStatus) -> String {
    let age = SystemTime::now().duration_since(UNIX_EPOCH + Duration::from_nanos(status.since_ns));
    let mut text = format!(
        "shadow {}, set {} s ago beside generation {}; {} is running\n",
        status.number,
        age.unwrap_or_default().as_secs(),
        status.base_generation,
        status.generation,
    );
    let flows = |number: u64| count(usize::try_from(number).unwrap_or(usize::MAX), "flow", "flows");
    let _ = writeln!(
        text,
        "{} compared: {} when judged, {} of the established (one in {} is looked at)",
        flows(status.judged + status.sampled),
        status.judged,
        status.sampled,
        status.sample,
    );
    let _ = writeln!(
        text,
        "{} differ: {} newly allowed, {} newly denied",
        flows(status.newly_allowed + status.newly_denied),
        status.newly_allowed,
        status.newly_denied,
    );
    for (number, what) in [(status.unplaced, "in no row"), (status.lost, "not streamed")] {
        if number > 0 {
            let _ = writeln!(text, "{number} of them {what}");
        }
    }
    let mut rows = Rows::new(["flows", "change", "direction", "by the running state", "by the candidate"]);
    for row in &status.rows {
        rows.row([
            row.flows.to_string(),
            change(row.allowed).to_owned(),
            Direction::of(row.ingress).to_string(),
            row.active.clone(),
            row.candidate.clone(),
        ]);
    }
    if status.rows.is_empty() { text } else { text + "\n" + &rows.text("") }
}

fn difference_line(event: &ShadowDifference) -> String {
    let named = |end: String, name: &str| if name.is_empty() { end } else { format!("{end} ({name})") };
    let (src, dst) = (socket(event.src, event.src_port), socket(event.dst, event.dst_port));
    let dst = event.backend.as_ref().map_or(dst.clone(), |backend| format!("{dst} = {backend}"));
    let (src, dst) = (named(src, &event.src_name), named(dst, &event.dst_name));
    let mut line = format!(
        "{}.{:06} {} {} {src} > {dst}, {}: {} becomes {}",
        event.time_ns / 1_000_000_000,
        event.time_ns % 1_000_000_000 / 1000,
        change(event.allowed),
        protocol_name(event.protocol),
        Direction::of(event.ingress),
        event.active,
        event.candidate,
    );
    if event.established {
        line += " [established]";
    }
    if event.stale {
        line += " [the candidate does not know an end]";
    }
    if event.missed > 0 {
        let _ = write!(line, " [{} not shown before]", event.missed);
    }
    line
}

fn change(allowed: bool) -> &'static str {
    if allowed { "newly allowed" } else { "newly denied" }
}
