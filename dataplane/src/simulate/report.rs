//! What is said of a packet: a JSON object, or a row of a table; and the summary at the end.

use std::io::{self, Write};
use std::net::{IpAddr, SocketAddr};

use policy_compiler::intent;
use serde::Serialize;

use super::stage::{Step, Totals, Verdict, ports_of};

/// A packet as JSON. Fields that do not apply are null.
#[derive(Debug, Serialize)]
struct Line<'a> {
    number: u64,
    time: String,
    length: usize,
    ingress: &'a str,
    tunnelled: bool,
    src: Option<IpAddr>,
    src_port: Option<u16>,
    dst: Option<IpAddr>,
    dst_port: Option<u16>,
    protocol: Option<String>,
    verdict: &'static str,
    reason: Option<&'static str>,
    egress: &'a [String],
    service: Option<&'a str>,
    backend: Option<SocketAddr>,
    rules: Rules<'a>,
    flow: Option<&'static str>,
}

/// The rules that decided: of the source's egress, of the destination's ingress.
#[derive(Debug, Serialize)]
struct Rules<'a> {
    egress: Option<&'a str>,
    ingress: Option<&'a str>,
}

/// Writes a packet as JSON in one line.
///
/// # Errors
/// Those of `out`.
pub fn json(out: &mut impl Write, step: &Step) -> io::Result<()> {
    let ports = step.packet.as_ref().and_then(ports_of);
    let flow = step.flow.as_ref();
    let line = Line {
        number: step.number,
        time: time(step.time_ns),
        length: step.length,
        ingress: &step.ingress,
        tunnelled: step.tunnelled,
        src: step.packet.map(|packet| packet.src()),
        src_port: ports.map(|ports| ports.0),
        dst: step.packet.map(|packet| packet.dst()),
        dst_port: ports.map(|ports| ports.1),
        protocol: step.packet.map(|packet| protocol(packet.protocol)),
        verdict: step.verdict.name(),
        reason: step.reason,
        egress: &step.egress,
        service: flow.and_then(|flow| flow.service.as_deref()),
        backend: flow.and_then(|flow| flow.backend),
        rules: Rules {
            egress: flow.and_then(|flow| flow.egress_rule.as_deref()),
            ingress: flow.and_then(|flow| flow.ingress_rule.as_deref()),
        },
        flow: flow.map(|flow| if flow.hit { "hit" } else { "miss" }),
    };
    serde_json::to_writer(&mut *out, &line)?;
    out.write_all(b"\n")
}

/// Writes the head of the table.
///
/// # Errors
/// Those of `out`.
pub fn head(out: &mut impl Write) -> io::Result<()> {
    write_row(out, ["#", "TIME", "INGRESS", "PACKET", "VERDICT", "EGRESS", "FLOW", "WHY"])
}

/// Writes a packet as a row.
///
/// # Errors
/// Those of `out`.
pub fn row(out: &mut impl Write, step: &Step) -> io::Result<()> {
    let flow = step.flow.as_ref();
    let packet = step.packet.as_ref().map_or_else(
        || "unreadable, or no IP".to_owned(),
        |packet| {
            let (from, to) = match ports_of(packet) {
                Some((src, dst)) => (
                    SocketAddr::new(packet.src(), src).to_string(),
                    SocketAddr::new(packet.dst(), dst).to_string(),
                ),
                None => (packet.src().to_string(), packet.dst().to_string()),
            };
            let tunnel = if step.tunnelled { " (tunnelled)" } else { "" };
            format!("{} {from} > {to}{tunnel}", protocol(packet.protocol))
        },
    );
    let mut why: Vec<String> = step.reason.map(str::to_owned).into_iter().collect();
    if let Some(flow) = flow {
        why.extend(flow.service.iter().map(|service| format!("Service {service}")));
        why.extend(flow.backend.iter().map(|backend| format!("backend {backend}")));
        why.extend(flow.egress_rule.iter().map(|rule| format!("egress {rule}")));
        why.extend(flow.ingress_rule.iter().map(|rule| format!("ingress {rule}")));
    }
    let egress = if step.egress.is_empty() { "-".to_owned() } else { step.egress.join(",") };
    let hit = flow.map_or("-", |flow| if flow.hit { "hit" } else { "miss" });
    let (number, time, why) = (step.number.to_string(), time(step.time_ns), why.join("; "));
    write_row(out, [&number, &time, &step.ingress, &packet, step.verdict.name(), &egress, hit, &why])
}

fn write_row(out: &mut impl Write, cells: [&str; 8]) -> io::Result<()> {
    let [number, time, ingress, packet, verdict, egress, flow, why] = cells;
    let line = format!(
        "{number:>6}  {time:20}  {ingress:20}  {packet:46}  {verdict:8}  {egress:20}  {flow:4}  {why}"
    );
    writeln!(out, "{}", line.trim_end())
}

/// Writes what all packets did.
///
/// # Errors
/// Those of `out`.
pub fn summary(out: &mut impl Write, totals: &Totals) -> io::Result<()> {
    let of = |verdict: Verdict| totals.verdicts[verdict as usize];
    let counts = |counts: &[(String, u64)]| {
        counts.iter().map(|(name, count)| format!("{name} {count}")).collect::<Vec<_>>().join(", ")
    };
    writeln!(
        out,
        "{} packets: {} forwarded, {} dropped, {} answered; flows: {} hits, {} misses",
        totals.packets,
        of(Verdict::Forward),
        of(Verdict::Drop),
        of(Verdict::Answered),
        totals.flows.0,
        totals.flows.1,
    )?;
    if !totals.reasons.is_empty() {
        let reasons: Vec<_> =
            totals.reasons.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect();
        writeln!(out, "ended here: {}", counts(&reasons))?;
    }
    if !totals.sent.is_empty() {
        writeln!(out, "left by: {}", counts(&totals.sent))?;
    }
    Ok(())
}

fn time(time_ns: u64) -> String {
    format!("{}.{:09}", time_ns / 1_000_000_000, time_ns % 1_000_000_000)
}

/// A protocol by the name that `penstockctl` takes, else its number.
fn protocol(number: u8) -> String {
    intent::protocol_name(number).map_or_else(|| number.to_string(), str::to_owned)
}
