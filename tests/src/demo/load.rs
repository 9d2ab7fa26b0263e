//! `pktgen` loads the path; what was offered and what became of it is a table, and every worker's books must balance.

use std::collections::BTreeMap;
use std::time::Duration;

use agent_api::contract::Stats;
use anyhow::{Context, Result, ensure};
use comfy_table::{CellAlignment, ContentArrangement, Table, presets};
use serde::Serialize;
use serde_json::{Value, json};

use super::{Checks, services};
use crate::cluster::{Cluster, Node, WEB};
use crate::generator::{Generator, Latency, Report};
use crate::lab::Pod;
use crate::stage::{DATABASE, Stage};
use crate::{law, traffic};

/// Beyond the load itself: neighbours, attaching, draining.
const MARGIN: Duration = Duration::from_secs(30);
/// A load that this path carries without effort, even with all of it on two cores.
const EASY: &str = "20kpps";
/// Counters of the kernel that are packets lost on the way into or out of penstockd.
const KERNEL_LOSSES: [&str; 5] = ["rx_dropped", "rx_ring_full", "rx_oversize", "tx_lost", "xdp_no_socket"];

/// One load.
struct Load<'a> {
    name: &'static str,
    from: &'a Pod,
    to: &'a Pod,
    words: String,
}

/// What became of it.
#[derive(Debug, Clone, Serialize)]
struct Measured {
    name: &'static str,
    offered: u64,
    offered_pps: f64,
    forwarded: u64,
    pps: f64,
    lost: u64,
    lost_at_sender: u64,
    receiver_overflow: u64,
    duplicates: u64,
    corrupt: u64,
    drops: BTreeMap<String, u64>,
    kernel: BTreeMap<String, u64>,
    latency_ns: Option<Latency>,
}

/// Shows it; returns the report's `traffic`.
pub fn show(stage: &Stage, checks: &mut Checks, seconds: u64) -> Value {
    let cluster = &stage.cluster;
    // All of the load is to leave the node, so that one receiver sees it.
    let mut was = String::new();
    let alone = cluster.edit(|manifests| {
        was = services::only_web_b(manifests)?;
        Ok(())
    });
    if let Err(error) = alone {
        checks.failed("pktgen loads the path", &error);
        return Value::Null;
    }
    let mut all = Vec::new();
    for load in loads(cluster, seconds) {
        checks.check(load.name, || {
            let measured = measure(cluster, &load)?;
            let told = judge(&measured);
            all.push(measured);
            told
        });
    }
    checks.check("afterwards the Service is as it was", || {
        cluster.edit(|manifests| services::restore(manifests, &was))?;
        Ok("both backends are ready".to_owned())
    });
    let mut workers = Vec::new();
    checks.check("rx + generated = tx + drops + held, for every worker", || {
        let mut told = Vec::new();
        for node in [&cluster.node_a, &cluster.node_b] {
            for worker in law::at_rest(node)?.workers {
                told.push(format!("{}: {}", node.site.name, law::balance(&worker)?));
                workers.push(json!({ "node": node.site.name, "holds": true, "counters": worker }));
            }
        }
        Ok(told.join("; "))
    });
    if !all.is_empty() {
        crate::say(&format!("\n{}\n", table(&all)));
    }
    let main = all.first().and_then(|measured| serde_json::to_value(measured).ok());
    let mut traffic = main.unwrap_or_else(|| json!({}));
    traffic["loads"] = json!(all);
    traffic["workers"] = json!(workers);
    traffic
}

/// The loads, the one that matters most first.
fn loads(cluster: &Cluster, seconds: u64) -> [Load<'_>; 4] {
    let (web_a, web_b, database) = (&cluster.web_a, &cluster.web_b, &cluster.mongodb);
    let [service, _] = WEB;
    let (v6, closed) = (web_b.v6, database.v4);
    [
        Load {
            name: "load: pod to Service, over VXLAN",
            from: web_a,
            to: web_b,
            words: format!("--dst-ip {service} --dst-port 7 --flows 64 --rate {EASY} --duration {seconds}s"),
        },
        Load {
            name: "load: pod to pod, IPv6, over VXLAN",
            from: web_a,
            to: web_b,
            words: format!(
                "--dst-ip {v6} --dst-port 9000 --flows 64 --size 594 --rate {EASY} --duration {seconds}s"
            ),
        },
        Load {
            name: "load: what the policy denies",
            from: web_b,
            to: database,
            words: format!("--dst-ip {closed} --dst-port {DATABASE} --flows 64 --rate 5kpps --duration 1s"),
        },
        Load {
            name: "load: pod to Service, as fast as it goes",
            from: web_a,
            to: web_b,
            words: format!(
                "--engine live --dst-ip {service} --dst-port 7 --flows 64 --rate max --duration {seconds}s"
            ),
        },
    ]
}

fn measure(cluster: &Cluster, load: &Load<'_>) -> Result<Measured> {
    let nodes = [&cluster.node_a, &cluster.node_b];
    let source = if load.words.contains("::") { load.from.v6.to_string() } else { load.from.v4.to_string() };
    let words = format!(
        "run --tx-netns {} --tx-device eth0 --rx-netns {} --rx-device eth0 --src-ip {source} {}",
        load.from.namespace.name(),
        load.to.namespace.name(),
        load.words
    );
    let log = cluster.node_a.logs().join(format!("pktgen-{}.json", traffic::clock_ns()));
    let before = counters(nodes)?;
    let report =
        Generator::start(&load.from.namespace, log, &words)?.finish(MARGIN + Duration::from_secs(60))?;
    let after = counters(nodes)?;
    Measured::of(load.name, &report, &before, &after)
}

/// Both nodes' counters at rest.
fn counters(nodes: [&Node; 2]) -> Result<[Stats; 2]> {
    Ok([law::at_rest(nodes[0])?, law::at_rest(nodes[1])?])
}

impl Measured {
    fn of(name: &'static str, report: &Report, before: &[Stats; 2], after: &[Stats; 2]) -> Result<Self> {
        let sent = report.tx.clone().context("the report has no sender")?;
        let received = report.rx.clone().context("the report has no receiver")?;
        let sums = report.conservation.as_ref().context("the report has no sums")?;
        ensure!(sums.holds, "pktgen's own sums are wrong: {}", sums.text);
        Ok(Measured {
            name,
            offered: sent.sent,
            offered_pps: sent.pps,
            forwarded: received.received,
            pps: received.pps,
            lost: report.loss.as_ref().map_or(0, |loss| loss.lost),
            lost_at_sender: sent.lost_at_sender,
            receiver_overflow: received.receiver_overflow,
            duplicates: received.duplicates,
            corrupt: received.corrupt,
            drops: grown(before, after, drops),
            kernel: grown(before, after, kernel_losses),
            latency_ns: report.latency_ns.clone(),
        })
    }

    /// Losses that have a name, at both ends and in between.
    fn named(&self) -> u64 {
        let between: u64 = self.drops.values().chain(self.kernel.values()).sum();
        between + self.lost_at_sender + self.receiver_overflow
    }
}

/// What must hold of a load.
fn judge(measured: &Measured) -> Result<String> {
    let Measured { name, offered, forwarded, lost, .. } = *measured;
    ensure!(offered > 0, "nothing was offered");
    ensure!(measured.corrupt == 0, "{} packets came with a wrong checksum", measured.corrupt);
    ensure!(measured.duplicates == 0, "{} packets came twice", measured.duplicates);
    if name.contains("denies") {
        let denied = measured.drops.get("policy_ingress").copied().unwrap_or(0);
        let arrived: u64 = denied + measured.kernel.values().sum::<u64>() + measured.lost_at_sender;
        ensure!(forwarded == 0, "{forwarded} of {offered} came through");
        ensure!(arrived == offered, "{offered} offered, {denied} dropped as policy_ingress");
        return Ok(format!("{offered} offered, 0 forwarded, {denied} dropped as policy_ingress"));
    }
    ensure!(forwarded > 0, "none of {offered} came through; drops: {:?}", measured.drops);
    if !name.contains("as fast") {
        // Every lost packet has a name. There should be none; but the generator, two nodes and whatever else this machine
        // does share its cores, and a worker that is kept from its own for 100 ms finds its rings overrun.
        ensure!(
            lost <= measured.named(),
            "{lost} of {offered} lost, of which {} have a name",
            measured.named()
        );
        ensure!(
            lost * 20 <= offered,
            "{lost} of {offered} lost at an easy load: {:?} {:?}",
            measured.drops,
            measured.kernel
        );
    }
    let p50 = measured.latency_ns.as_ref().map_or(0, |latency| latency.p50 / 1000);
    Ok(format!(
        "{forwarded} of {offered} forwarded, {:.0} a second, half of them within {p50} µs",
        measured.pps
    ))
}

fn drops(stats: &Stats) -> BTreeMap<String, u64> {
    let mut sums = BTreeMap::new();
    for (reason, count) in stats.workers.iter().flat_map(|worker| &worker.drops) {
        *sums.entry(reason.clone()).or_default() += count;
    }
    sums
}

fn kernel_losses(stats: &Stats) -> BTreeMap<String, u64> {
    let mut sums = BTreeMap::new();
    for (name, count) in stats.ports.iter().flat_map(|port| &port.kernel) {
        if KERNEL_LOSSES.contains(&name.as_str()) {
            *sums.entry(name.clone()).or_default() += count;
        }
    }
    sums
}

/// By how much the counters of both nodes together have grown; what has not is left out.
fn grown(
    before: &[Stats; 2],
    after: &[Stats; 2],
    read: impl Fn(&Stats) -> BTreeMap<String, u64>,
) -> BTreeMap<String, u64> {
    let mut sums: BTreeMap<String, u64> = BTreeMap::new();
    for (before, after) in before.iter().map(&read).zip(after.iter().map(&read)) {
        for (name, count) in after {
            *sums.entry(name.clone()).or_default() +=
                count.saturating_sub(before.get(&name).copied().unwrap_or(0));
        }
    }
    sums.retain(|_, count| *count > 0);
    sums
}

/// A column a load.
fn table(all: &[Measured]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    let titles = all.iter().map(|measured| measured.name.trim_start_matches("load: ").to_owned());
    table.set_header(std::iter::once(String::new()).chain(titles));
    let mut row = |name: String, cell: &dyn Fn(&Measured) -> String| {
        table.add_row(std::iter::once(name).chain(all.iter().map(cell)));
    };
    row("offered".into(), &|m| m.offered.to_string());
    row("forwarded".into(), &|m| m.forwarded.to_string());
    row("offered packets/s".into(), &|m| format!("{:.0}", m.offered_pps));
    row("forwarded packets/s".into(), &|m| format!("{:.0}", m.pps));
    let mut latency = |name: &str, quantile: fn(&Latency) -> u64| {
        let micros = |latency: &Latency| format!("{:.1} µs", quantile(latency) as f64 / 1e3);
        row(name.to_owned(), &|m| m.latency_ns.as_ref().map_or("-".to_owned(), micros));
    };
    latency("latency p50", |latency| latency.p50);
    latency("latency p99", |latency| latency.p99);
    latency("latency p99.9", |latency| latency.p99_9);
    for reason in names(all, |m| &m.drops) {
        row(format!("drop {reason}"), &|m| m.drops.get(&reason).copied().unwrap_or(0).to_string());
    }
    for name in names(all, |m| &m.kernel) {
        row(format!("kernel {name}"), &|m| m.kernel.get(&name).copied().unwrap_or(0).to_string());
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

fn names(all: &[Measured], map: impl Fn(&Measured) -> &BTreeMap<String, u64>) -> Vec<String> {
    let mut names: Vec<String> = all.iter().flat_map(|measured| map(measured).keys().cloned()).collect();
    names.sort();
    names.dedup();
    names
}
