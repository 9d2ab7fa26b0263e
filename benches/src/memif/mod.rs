//! `make bench-memif`: a whole worker (policy, Service, VXLAN) between two memifs, against DPDK's testpmd in `macswap`,
//! in one run, on the same core, under the same generator.
//!
//! ```text
//!   generator, one thread on one core               party, one thread on another
//!   in ───── memif 0 ──► worker: policy, Service, VXLAN ──► memif 1 ───── out, counted
//!   in ───── memif 0 ──► testpmd: MAC addresses swapped ──► memif 1 ───── out, counted
//! ```
//!
//! The generator is the client of both memifs and the same code for both parties: it fills the way in as far as there
//! is room and then takes what has come out. Where it never finds the way in full, it and not the party is measured,
//! and that is said. Written to `target/bench/memif.json`, an array of `{"row", "value", "unit"}`.

mod generator;
mod party;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Parser;

use generator::{Generator, Passed};
use party::{Penstock, Testpmd};

/// The core of the parties, and that of the generator.
const CORES: [usize; 2] = [0, 1];

/// Options of `bench-memif`.
#[derive(Debug, Parser)]
#[command(name = "bench-memif", about = "A whole worker against DPDK testpmd in macswap, between two memifs")]
struct Options {
    /// How often each party is measured
    #[arg(long, default_value_t = 9, value_parser = clap::value_parser!(u16).range(1..=100))]
    rounds: u16,
    /// How long each measurement lasts, in milliseconds
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u64).range(100..=60_000))]
    millis: u64,
    /// Flows of the load, a packet of 64 bytes each in turn
    #[arg(long, default_value_t = 4096, value_parser = clap::value_parser!(u32).range(32..=1_000_000))]
    flows: u32,
    /// Exit with 1 where the worker passes less than this many times what testpmd does
    #[arg(long, value_name = "RATIO")]
    at_least: Option<f64>,
}

/// The medians.
struct Figures {
    penstock: f64,
    cycles: f64,
    testpmd: f64,
    ratio: f64,
}

/// Runs the bench. Exit codes: 0 measured, 1 it could not be or `--at-least` is missed, 2 wrong arguments.
pub fn main() -> ExitCode {
    let options = Options::parse();
    match measure(&options).and_then(|figures| {
        let path = write(&figures)?;
        say(&format!("written to {}", path.display()));
        Ok(figures.ratio)
    }) {
        Ok(ratio) => ExitCode::from(u8::from(options.at_least.is_some_and(|wanted| ratio < wanted))),
        Err(error) => {
            say(&format!("bench-memif: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn measure(options: &Options) -> Result<Figures> {
    let cores = std::thread::available_parallelism()?.get();
    ensure!(cores >= 2, "one core for the party, another for the generator: there is only one");
    let packets = crate::cluster::to_services(options.flows as usize);
    let lasts = Duration::from_millis(options.millis);
    let (mut ours, mut theirs, mut cycles) = (Vec::new(), Vec::new(), Vec::new());
    for round in 1..=options.rounds {
        // Who is first changes: what drifts in the machine cancels.
        let early = if round % 2 == 0 { Some(testpmd_round(&packets, lasts)?) } else { None };
        let (passed, spent) = penstock_round(&packets, lasts)?;
        let macswap = early.map_or_else(|| testpmd_round(&packets, lasts), Ok)?;
        say(&format!("round {round}: worker {passed} at {spent:.0} cycles a packet; testpmd {macswap}"));
        ours.push(passed.pps());
        cycles.push(spent);
        theirs.push(macswap.pps());
    }
    // Of rounds beside each other, so that a machine that slows down does not count.
    let ratios = ours.iter().zip(&theirs).map(|(ours, theirs)| ours / theirs).collect();
    let figures = Figures {
        penstock: median(ours),
        cycles: median(cycles),
        testpmd: median(theirs),
        ratio: median(ratios),
    };
    let Figures { penstock, cycles, testpmd, ratio } = figures;
    say(&format!(
        "\nmedians: worker with policy, Service and VXLAN {:.2} Mpps ({cycles:.0} TSC cycles a packet, memif included), \
         testpmd macswap {:.2} Mpps, ratio {ratio:.2}",
        penstock / 1e6,
        testpmd / 1e6
    ));
    Ok(figures)
}

/// What the worker passes, and its TSC cycles a packet in turns that took packets.
fn penstock_round(packets: &[crate::replay::Packet], lasts: Duration) -> Result<(Passed, f64)> {
    let sockets = sockets();
    let penstock = Penstock::start(&sockets, CORES[0])?;
    let mut generator = Generator::open(&sockets, CORES[1])?;
    generator.check_tunnelled(packets)?;
    let before = penstock.busy();
    let passed = generator.run(packets, lasts)?;
    let (cycles, taken) = penstock.busy();
    penstock.stop()?;
    Ok((passed, (cycles - before.0) as f64 / (taken - before.1).max(1) as f64))
}

fn testpmd_round(packets: &[crate::replay::Packet], lasts: Duration) -> Result<Passed> {
    let sockets = sockets();
    let mut testpmd = Testpmd::start(&sockets, CORES)?;
    let mut generator = Generator::open(&sockets, CORES[1]).context("testpmd")?;
    generator.check_swapped(packets)?;
    let passed = generator.run(packets, lasts)?;
    testpmd.check()?;
    Ok(passed)
}

/// Abstract sockets of this process: the way in and the way out.
fn sockets() -> [String; 2] {
    ["in", "out"].map(|way| format!("@penstock-bench-memif-{}-{way}", std::process::id()))
}

fn write(figures: &Figures) -> Result<PathBuf> {
    let row =
        |row: &str, value: f64, unit: &str| serde_json::json!({"row": row, "value": value, "unit": unit});
    let rows = serde_json::json!([
        row("memif/penstock_full_pps", figures.penstock.round(), "packets/s"),
        row("memif/penstock_full_cycles", figures.cycles, "TSC cycles a packet"),
        row("memif/testpmd_macswap_pps", figures.testpmd.round(), "packets/s"),
        row("memif/ratio", figures.ratio, "times testpmd"),
    ]);
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/bench");
    std::fs::create_dir_all(&folder)?;
    let path = folder.canonicalize()?.join("memif.json");
    std::fs::write(&path, serde_json::to_string_pretty(&rows)? + "\n")?;
    Ok(path)
}

/// The middle value; of an even number of them, the mean of both middles.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match (values.get(middle.wrapping_sub(1)), values.get(middle)) {
        (Some(below), Some(above)) if values.len().is_multiple_of(2) => f64::midpoint(*below, *above),
        (_, Some(above)) => *above,
        _ => 0.0,
    }
}

#[expect(clippy::print_stdout, reason = "a program's output is for people")]
fn say(line: &str) {
    println!("{line}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle() {
        assert_eq!(median(vec![]), 0.0);
        assert_eq!(median(vec![3.0]), 3.0);
        assert_eq!(median(vec![2.0, 1.0]), 1.5);
        assert_eq!(median(vec![9.0, 1.0, 2.0]), 2.0);
    }
}
