//! Commands that ask a running penstockd.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Read;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use agent_api::client::{Client, ClientError, ConnectOptions};
use agent_api::contract::{
    AddPort, CheckStats, DropEvent, FlowInfo, PortInfo, PortRole, State, Stats, WorkerStats,
};
use agent_api::tools::agent::prepare;
use futures::{Stream, StreamExt};
use policy_compiler::intent::{self, Backend, Frontend, Intent, Service};
use serde::Serialize;
use serde_json::json;

use crate::answer::{Answer, Fault, Output, Rows, print_text};
use crate::arguments::{self, Apply, Connection, PortsCommand};

/// Connects as the arguments say.
pub(crate) async fn connect(connection: &Connection) -> Result<Client, Fault> {
    let options = ConnectOptions {
        patience: Duration::from_secs(connection.wait),
        call_timeout: Some(Duration::from_secs(connection.timeout)),
    };
    Ok(Client::connect_with(&connection.socket, &options).await?)
}

pub(crate) async fn apply(connection: &Connection, arguments: &Apply) -> Result<Answer, Fault> {
    let (intent, warnings) = match (&arguments.manifests, &arguments.file) {
        (Some(folder), _) => {
            let node = arguments.node.as_deref().unwrap_or_default();
            prepare(folder, node, &arguments.network.options())?
        }
        (None, Some(file)) => (intent_from(file)?, Vec::new()),
        (None, None) => return Err(Fault::usage("--manifests", "is missing, and --file, too")),
    };
    let applied = connect(connection).await?.apply(intent, arguments.expect).await?;
    let mut human = String::new();
    for warning in &warnings {
        let _ = writeln!(human, "warning: {warning}");
    }
    let _ = writeln!(human, "applied generation {} in {} µs", applied.generation, applied.microseconds);
    let value = json!({
        "generation": applied.generation,
        "microseconds": applied.microseconds,
        "warnings": warnings,
    });
    Answer::new(&value, human)
}

/// An intent from JSON: by itself, or within a state.
pub(crate) fn intent_from(file: &Path) -> Result<Intent, Fault> {
    let text = text_from(file)?;
    let name = file.display().to_string();
    let wrong = |error: serde_json::Error| Fault::invalid(name.clone(), "", error.to_string());
    let value: serde_json::Value = serde_json::from_str(&text).map_err(wrong)?;
    if value.get("intent").is_some() {
        return Ok(serde_json::from_str::<State>(&text).map_err(wrong)?.intent);
    }
    serde_json::from_str(&text).map_err(wrong)
}

/// The text of a file, or of standard input where it is called `-`.
pub(crate) fn text_from(file: &Path) -> Result<String, Fault> {
    if file == Path::new("-") {
        let mut text = String::new();
        std::io::stdin().lock().read_to_string(&mut text).map_err(|error| Fault::file(file, error))?;
        return Ok(text);
    }
    std::fs::read_to_string(file).map_err(|error| Fault::file(file, error))
}

pub(crate) async fn status(connection: &Connection) -> Result<Answer, Fault> {
    let state = connect(connection).await?.state().await?;
    let State { generation, workers, intent } = &state;
    let mut rows = Rows::new(["what", "value"]);
    rows.row(["generation", &generation.to_string()]);
    for (worker, passed) in workers.iter().enumerate() {
        rows.row([format!("worker {worker} has passed"), passed.to_string()]);
    }
    rows.row(["node", if intent.node.is_empty() { "-" } else { &intent.node }]);
    rows.row(["VNI", &intent.vni.to_string()]);
    let counts = [
        ("nodes", intent.nodes.len()),
        ("endpoints", intent.endpoints.len()),
        ("identities", intent.identities.len()),
        ("policies", intent.policies.len()),
        ("service ports", intent.services.len()),
    ];
    for (what, count) in counts {
        rows.row([what.to_owned(), count.to_string()]);
    }
    Answer::new(&state, rows.text(""))
}

pub(crate) async fn stats(connection: &Connection) -> Result<Answer, Fault> {
    let stats = connect(connection).await?.stats().await?;
    let human = format!(
        "generation {}, up {:.1} s\n{}\n{}\n{}\n{}\n{}",
        stats.generation,
        stats.uptime_seconds,
        checks(&stats.checks),
        worker_rows(&stats.workers).text("no workers"),
        port_counters(&stats).text("no ports"),
        flow_tables(&stats).text("no flow tables"),
        drop_rows(&drops_by_reason(&stats)).text("no drops"),
    );
    Answer::new(&stats, human)
}

/// What became of checked compilation.
fn checks(stats: &CheckStats) -> String {
    let CheckStats { passed, refused, microseconds, last, report } = stats;
    if passed + refused == 0 {
        return String::new();
    }
    let mut text = format!(
        "checked: {passed} generations passed, {refused} refused; the last: {} witnesses of {} classes, {} left out, {microseconds} µs\n",
        last.witnesses, last.classes, last.left_out
    );
    if let Some(report) = report {
        let (generation, total) = (report.checked.generation, report.total);
        let _ = writeln!(text, "refused generation {generation}: {total} witnesses are judged wrongly");
        report.mismatches.iter().for_each(|mismatch| {
            let _ = writeln!(text, "  {mismatch}");
        });
    }
    text
}

fn worker_rows(workers: &[WorkerStats]) -> Rows {
    let mut rows = Rows::new([
        "worker",
        "core",
        "rx",
        "generated",
        "tx",
        "drops",
        "held",
        "hits",
        "misses",
        "cycles/packet",
        "in kernel",
        "sleeps",
        "chunks free/all",
    ]);
    for worker in workers {
        let drops: u64 = worker.drops.values().sum();
        let cycles = |total: u64| match worker.rx {
            0 => "-".to_owned(),
            rx => format!("{:.0}", total as f64 / rx as f64),
        };
        let [free, _, _, all] = worker.chunks;
        rows.row([
            worker.worker.to_string(),
            worker.core.map_or("-".to_owned(), |core| core.to_string()),
            worker.rx.to_string(),
            worker.generated.to_string(),
            worker.tx.to_string(),
            drops.to_string(),
            worker.held.to_string(),
            worker.flow_hits.to_string(),
            worker.flow_misses.to_string(),
            cycles(worker.busy_cycles),
            cycles(worker.kernel_cycles),
            worker.sleeps.to_string(),
            format!("{free}/{all}"),
        ]);
    }
    rows
}

fn port_counters(stats: &Stats) -> Rows {
    let mut rows = Rows::new(["device", "pod", "rx packets", "rx bytes", "tx packets", "tx bytes", "kernel"]);
    for port in &stats.ports {
        let kernel: Vec<String> = port.kernel.iter().map(|(name, count)| format!("{name}={count}")).collect();
        rows.row([
            port.device.clone(),
            dash(&port.pod),
            port.rx_packets.to_string(),
            port.rx_bytes.to_string(),
            port.tx_packets.to_string(),
            port.tx_bytes.to_string(),
            dash(&kernel.join(" ")),
        ]);
    }
    rows
}

fn flow_tables(stats: &Stats) -> Rows {
    let mut rows = Rows::new(["flow table", "entries", "capacity", "evicted", "memory"]);
    for (name, table) in &stats.flows {
        let evicted: Vec<String> =
            table.evicted.iter().map(|(state, count)| format!("{state}={count}")).collect();
        rows.row([
            name.clone(),
            table.entries.to_string(),
            table.capacity.to_string(),
            dash(&evicted.join(" ")),
            table.backing.clone(),
        ]);
    }
    rows
}

pub(crate) async fn drops(connection: &Connection) -> Result<Answer, Fault> {
    let drops = drops_by_reason(&connect(connection).await?.stats().await?);
    Answer::new(&drops, drop_rows(&drops).text("no drops"))
}

fn drops_by_reason(stats: &Stats) -> BTreeMap<String, u64> {
    let mut drops = BTreeMap::new();
    for (reason, count) in stats.workers.iter().flat_map(|worker| &worker.drops) {
        *drops.entry(reason.clone()).or_default() += count;
    }
    drops
}

fn drop_rows(drops: &BTreeMap<String, u64>) -> Rows {
    let mut rows = Rows::new(["drop reason", "packets"]);
    for (reason, count) in drops {
        rows.row([reason.clone(), count.to_string()]);
    }
    rows
}

/// Prints each dropped packet until penstockd stops or nobody reads.
pub(crate) async fn follow_drops(connection: &Connection, output: Output) -> Result<Answer, Fault> {
    let events = connect(connection).await?.watch_drops().await?;
    follow(events, "DropEvent", output, drop_line).await
}

/// Prints each event until there are no more or nobody reads: as JSON one object a line, else `line` of it.
pub(crate) async fn follow<E: Serialize>(
    mut events: impl Stream<Item = Result<E, ClientError>> + Unpin,
    what: &str,
    output: Output,
    line: impl Fn(&E) -> String,
) -> Result<Answer, Fault> {
    while let Some(event) = events.next().await {
        let event = event?;
        let line = match output {
            Output::Json => {
                serde_json::to_string(&event).map_err(|error| Fault::invalid(what, "", error.to_string()))?
            }
            Output::Human => line(&event),
        };
        if !print_text(&line)? {
            break;
        }
    }
    Ok(Answer::silent(0))
}

fn drop_line(event: &DropEvent) -> String {
    let end = |address: Option<IpAddr>, port| address.map_or("?".to_owned(), |address| socket(address, port));
    let seconds = event.time_ns / 1_000_000_000;
    let micros = event.time_ns % 1_000_000_000 / 1000;
    let mut line = format!(
        "{seconds}.{micros:06} {} {} {} > {} {}",
        event.device,
        protocol_name(event.protocol),
        end(event.src, event.src_port),
        end(event.dst, event.dst_port),
        event.reason,
    );
    if !event.rule.is_empty() {
        let version = event.decided_by.as_ref().and_then(|by| by.rule()).map(|rule| &rule.resource_version);
        let version = version.filter(|version| !version.is_empty());
        let version = version.map_or(String::new(), |version| format!(", resourceVersion {version}"));
        let _ = write!(line, " ({}{version})", event.rule);
    }
    if event.missed > 0 {
        let _ = write!(line, " [{} not shown before]", event.missed);
    }
    line
}

pub(crate) async fn ports(connection: &Connection, command: Option<PortsCommand>) -> Result<Answer, Fault> {
    let client = connect(connection).await?;
    match command.unwrap_or(PortsCommand::List) {
        PortsCommand::List => {
            let ports = client.ports().await?;
            Answer::new(&ports, port_rows(&ports).text("no ports"))
        }
        PortsCommand::Add(arguments) => {
            let port = client.add_port(port_request(arguments)).await?;
            Answer::new(&port, port_rows(std::slice::from_ref(&port)).text(""))
        }
        PortsCommand::Remove { device } => {
            client.remove_port(device.clone()).await?;
            Answer::new(&json!({"device": device, "removed": true}), format!("removed {device}"))
        }
    }
}

fn port_request(arguments: arguments::AddPort) -> AddPort {
    let arguments::AddPort { device, pod, uplink, host: _, mac } = arguments;
    let role = match pod {
        Some(pod) => PortRole::Pod(pod),
        None if uplink => PortRole::Uplink,
        None => PortRole::Host,
    };
    AddPort { device, role, peer_mac: mac }
}

fn port_rows(ports: &[PortInfo]) -> Rows {
    let mut rows = Rows::new(["device", "role", "addresses", "mac", "peer mac", "mtu", "worker", "mode"]);
    for port in ports {
        let role = match &port.role {
            PortRole::Pod(name) => format!("pod {name}"),
            PortRole::Uplink => "uplink".to_owned(),
            PortRole::Host => "host".to_owned(),
        };
        let addresses: Vec<String> = port.addresses.iter().map(IpAddr::to_string).collect();
        rows.row([
            port.device.clone(),
            role,
            dash(&addresses.join(",")),
            mac(port.mac),
            port.peer_mac.map_or("-".to_owned(), mac),
            port.mtu.to_string(),
            port.worker.to_string(),
            port.mode.clone(),
        ]);
    }
    rows
}

pub(crate) async fn flows(connection: &Connection, limit: usize) -> Result<Answer, Fault> {
    let flows = connect(connection).await?.flows(limit).await?;
    let mut rows = Rows::new([
        "protocol",
        "source",
        "destination",
        "verdict",
        "direction",
        "state",
        "leaves as",
        "packets",
        "idle",
        "rule",
    ]);
    for flow in &flows {
        rows.row([
            protocol_name(flow.protocol),
            socket(flow.src, flow.src_port),
            socket(flow.dst, flow.dst_port),
            flow.verdict.clone(),
            if flow.reply { "reply" } else { "original" }.to_owned(),
            flow.state.clone(),
            translation(flow),
            flow.packets.to_string(),
            format!("{} s", flow.idle_seconds),
            dash(&flow.rule),
        ]);
    }
    Answer::new(&flows, rows.text("no flows"))
}

fn translation(flow: &FlowInfo) -> String {
    match (&flow.translated_src, &flow.translated_dst) {
        (None, None) => "-".to_owned(),
        (src, dst) => {
            let same = |end: &Option<String>| end.clone().unwrap_or_else(|| "=".to_owned());
            format!("{} > {}", same(src), same(dst))
        }
    }
}

pub(crate) async fn services(connection: &Connection) -> Result<Answer, Fault> {
    let services = connect(connection).await?.state().await?.intent.services;
    let mut rows =
        Rows::new(["service", "port", "protocol", "frontend", "backend", "node", "condition", "weight"]);
    for service in &services {
        service_rows(&mut rows, service);
    }
    Answer::new(&services, rows.text("no services"))
}

/// As many rows as the longer of both lists has; what stands above is not repeated.
fn service_rows(rows: &mut Rows, service: &Service) {
    let protocol = service.protocol.map_or("-".to_owned(), |protocol| protocol_name(protocol as u8));
    let heading = [service.name.to_string(), dash(&service.port_name), protocol];
    let lines = service.frontends.len().max(service.backends.len()).max(1);
    for line in 0..lines {
        let [name, port, protocol] = if line == 0 { heading.clone() } else { Default::default() };
        let frontend = service.frontends.get(line).map_or(String::new(), frontend_text);
        let [backend, node, condition, weight] = match service.backends.get(line) {
            Some(backend) => [
                socket(backend.address, backend.port),
                dash(&backend.node),
                condition(backend).to_owned(),
                backend.weight.to_string(),
            ],
            None if line == 0 => ["none", "", "", ""].map(str::to_owned),
            None => Default::default(),
        };
        rows.row([name, port, protocol, frontend, backend, node, condition, weight]);
    }
}

fn frontend_text(frontend: &Frontend) -> String {
    match frontend.address {
        Some(address) => socket(address, frontend.port),
        None => format!("{} node port {}", if frontend.ipv6 { "IPv6" } else { "IPv4" }, frontend.port),
    }
}

fn condition(backend: &Backend) -> &'static str {
    match (backend.ready, backend.serving, backend.terminating) {
        (true, _, _) => "ready",
        (false, true, true) => "terminating, serving",
        (false, false, true) => "terminating",
        (false, true, false) => "not ready, serving",
        (false, false, false) => "not ready",
    }
}

/// A dash for nothing, so that no column of a table is empty.
pub(crate) fn dash(text: &str) -> String {
    if text.is_empty() { "-".to_owned() } else { text.to_owned() }
}

fn mac(mac: [u8; 6]) -> String {
    mac.map(|octet| format!("{octet:02x}")).join(":")
}

/// `address:port`, the address alone for port 0.
pub(crate) fn socket(address: IpAddr, port: u16) -> String {
    if port == 0 { address.to_string() } else { SocketAddr::new(address, port).to_string() }
}

/// A protocol's name, its number where it has none here.
pub(crate) fn protocol_name(number: u8) -> String {
    intent::protocol_name(number).map_or_else(|| number.to_string(), str::to_owned)
}
