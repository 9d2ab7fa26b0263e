//! What `make bench-veth` measures: one worker of penstockd with policy, Service and VXLAN on, against DPDK's testpmd
//! doing nothing but MAC forwarding. In one run, on the same core, under the same generator, counted by the same counter.
//!
//! ```text
//!   A   pktgen ─► eth0 ══ pod-web-a ─► penstockd: policy, Service, VXLAN ─► uplink ══ counted
//!   B   pktgen ─► gen  ══ in0       ─► testpmd: MAC addresses            ─► out0   ══ counted
//! ```
//!
//! `══` is a veth pair. Counted is what the far end of the way out has received, by its own statistics. A and B take
//! turns; the medians are compared. Written to `target/bench/veth.json`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use serde::Serialize;
use serde_json::Value;

use crate::daemon::checkout;
use crate::generator::Generator;
use crate::interrupt;
use crate::netns::Namespace;

mod penstock;
mod testpmd;

/// What tells the bench's namespaces from others.
const TAG: &str = "bench";
/// From the generator's start to the first reading: it attaches, flows are set up, caches are warm.
const WARM_UP: Duration = Duration::from_secs(2);
/// What a generator may need beyond its time.
const MARGIN: Duration = Duration::from_secs(20);
/// Bytes a frame, frame check sequence included: 60 as the kernel counts.
const SIZE: usize = 64;

/// Options of `bench-veth`.
#[derive(Debug, Parser)]
#[command(
    name = "bench-veth",
    about = "One worker with all of it on against DPDK testpmd, on veth; needs root"
)]
struct Options {
    /// How often each party is measured
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=100))]
    rounds: u16,
    /// How long each measurement lasts, in seconds
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=60))]
    seconds: u64,
    /// Flows of the load
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..=50_000))]
    flows: u16,
    /// Exit with 1 where penstockd forwards less than this many times what testpmd does
    #[arg(long, value_name = "RATIO")]
    at_least: Option<f64>,
}

/// One measurement.
#[derive(Debug, Clone, Serialize)]
struct Round {
    /// Packets a second that have left.
    pps: f64,
    /// Packets a second that the generator has offered.
    offered_pps: f64,
    /// TSC cycles a packet in the worker's busy turns, where they are known.
    cycles: Option<f64>,
}

/// All measurements of one party.
#[derive(Debug, Clone, Serialize)]
struct Party {
    name: &'static str,
    median_pps: f64,
    min_pps: f64,
    max_pps: f64,
    rounds: Vec<Round>,
}

/// What is written.
#[derive(Debug, Serialize)]
struct Report {
    schema: &'static str,
    kernel: String,
    cores: usize,
    options: Value,
    penstockd: Party,
    testpmd: Party,
    ratio: f64,
}

/// Runs the bench. Exit codes: 0 measured, 1 it could not be or `--at-least` is missed, 2 wrong arguments.
pub fn main() -> ExitCode {
    let options = Options::parse();
    match interrupt::watch(TAG).and_then(|()| measure(&options)) {
        Ok(report) => {
            let missed = options.at_least.is_some_and(|wanted| report.ratio < wanted);
            ExitCode::from(u8::from(missed))
        }
        Err(error) => {
            interrupt::point();
            crate::say(&format!("bench-veth: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn measure(options: &Options) -> Result<Report> {
    let cores = std::thread::available_parallelism()?.get();
    ensure!(cores >= 2, "one core for the worker, another for the generator: there is only one");
    let penstock = penstock::Rig::up()?;
    let testpmd = testpmd::Rig::up(cores - 1)?;
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for number in 1..=options.rounds {
        ours.push(penstock.round(options, cores - 1)?);
        theirs.push(testpmd.round(options, cores - 1)?);
        if let (Some(ours), Some(theirs)) = (ours.last(), theirs.last()) {
            let cycles =
                ours.cycles.map_or(String::new(), |cycles| format!(" at {cycles:.0} cycles a packet"));
            crate::say(&format!(
                "round {number}: penstockd {:.0} packets/s{cycles}, testpmd {:.0} (offered {:.0} and {:.0})",
                ours.pps, theirs.pps, ours.offered_pps, theirs.offered_pps
            ));
        }
    }
    let (ours, theirs) = (Party::of("penstockd", ours), Party::of("testpmd", theirs));
    let report = Report {
        schema: "penstock.bench-veth/1",
        kernel: std::fs::read_to_string("/proc/sys/kernel/osrelease")?.trim().to_owned(),
        cores,
        options: serde_json::json!({
            "rounds": options.rounds, "seconds": options.seconds, "flows": options.flows, "frame": SIZE,
            "testpmd": testpmd.command(),
        }),
        ratio: ours.median_pps / theirs.median_pps,
        penstockd: ours,
        testpmd: theirs,
    };
    tell(&report);
    let path = checkout().join("target/bench/veth.json");
    write(&report, &path)?;
    crate::say(&format!("written to {}", path.canonicalize()?.display()));
    Ok(report)
}

fn write(report: &Report, path: &PathBuf) -> Result<()> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    std::fs::write(path, serde_json::to_string_pretty(report)? + "\n")
        .with_context(|| path.display().to_string())
}

fn tell(report: &Report) {
    crate::say(&format!(
        "\n{:<34}{:>12}{:>12}{:>12}",
        "packets/s leaving, one core", "median", "least", "most"
    ));
    for (party, does) in
        [(&report.penstockd, "policy, Service, VXLAN"), (&report.testpmd, "MAC addresses alone")]
    {
        let what = format!("{}: {does}", party.name);
        crate::say(&format!(
            "{what:<34}{:>12.0}{:>12.0}{:>12.0}",
            party.median_pps, party.min_pps, party.max_pps
        ));
    }
    crate::say(&format!(
        "penstockd / testpmd = {:.2} (Linux {}, {} cores, {SIZE}-byte frames)",
        report.ratio, report.kernel, report.cores
    ));
}

impl Party {
    fn of(name: &'static str, rounds: Vec<Round>) -> Self {
        let mut sorted: Vec<f64> = rounds.iter().map(|round| round.pps).collect();
        sorted.sort_by(f64::total_cmp);
        Party {
            name,
            median_pps: median(&sorted),
            min_pps: sorted.first().copied().unwrap_or_default(),
            max_pps: sorted.last().copied().unwrap_or_default(),
            rounds,
        }
    }
}

/// The middle of sorted values; of an even number of them, the mean of both middles.
fn median(sorted: &[f64]) -> f64 {
    let middle = sorted.len() / 2;
    match (sorted.get(middle.wrapping_sub(1)), sorted.get(middle)) {
        (Some(below), Some(above)) if sorted.len().is_multiple_of(2) => f64::midpoint(*below, *above),
        (_, Some(above)) => *above,
        _ => 0.0,
    }
}

/// Where a load comes from, and where what is left of it is counted.
struct Path<'a> {
    from: &'a Namespace,
    device: &'a str,
    addresses: String,
    sink: (&'a Namespace, &'a str),
    log: PathBuf,
}

/// Runs the generator along a path and counts at its end: packets a second there, and offered.
fn count(path: &Path<'_>, options: &Options, core: usize) -> Result<(f64, f64)> {
    let lasts = WARM_UP + Duration::from_secs(options.seconds) + Duration::from_secs(1);
    let words = format!(
        "send --tx-engine live --tx-netns {} --tx-device {} --tx-core {core} {} --dst-port 7 --flows {} --size {SIZE} \
         --rate max --duration {}s",
        path.from.name(),
        path.device,
        path.addresses,
        options.flows,
        lasts.as_secs(),
    );
    let generator = Generator::start(path.from, path.log.clone(), &words)?;
    std::thread::sleep(WARM_UP);
    let (begin, before) = (Instant::now(), received(path.sink)?);
    std::thread::sleep(Duration::from_secs(options.seconds));
    let (packets, seconds) = (received(path.sink)? - before, begin.elapsed().as_secs_f64());
    let report = generator.finish(lasts + MARGIN)?;
    ensure!(packets > 0, "nothing has left by {} of {}", path.sink.1, path.sink.0.name());
    Ok((packets as f64 / seconds, report.tx.map_or(0.0, |tx| tx.pps)))
}

/// Packets that a device has received, by its own statistics.
fn received((namespace, device): (&Namespace, &str)) -> Result<u64> {
    let text = namespace.ip(&format!("-s -j link show dev {device}"))?;
    let links: Value = serde_json::from_str(&text)?;
    let packets = links.pointer("/0/stats64/rx/packets").and_then(Value::as_u64);
    packets.with_context(|| format!("no received packets in {text}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle() {
        assert_eq!(median(&[]), 0.0);
        assert_eq!(median(&[3.0]), 3.0);
        assert_eq!(median(&[1.0, 2.0]), 1.5);
        assert_eq!(median(&[1.0, 2.0, 9.0]), 2.0);
    }
}
