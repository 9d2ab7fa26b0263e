//! What `make bench-peers` measures: one worker of penstockd with policy, Service and VXLAN on, against what else one
//! core can be given to: DPDK's testpmd, the kernel, Open vSwitch. In one run, on the same kind of links, on the same
//! core, under the same generator, counted by the same counter.
//!
//! ```text
//!   pktgen ─► eth0 ══ in0 ─► the party, on CPU 0 ─► out0 ══ far0: counted
//!   (pktgen and what is behind far0: on the last CPU)
//! ```
//!
//! `══` is a veth pair. Counted is what the far end of the way out has received, by its own statistics. The parties take
//! turns, a different one first in each round; medians are compared. Written to `target/bench/peers.json`, `.md`, `.svg`
//! and `.png`.
//!
//! * `party`: what a party is and how a load is counted.   * `links`: the peers' topology.
//! * `penstock`, `testpmd`, `kernel`, `ovs`: the parties.   * `machine`: what the machine does meanwhile.
//! * `report`: what is written.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::{Parser, ValueEnum};

use crate::daemon::checkout;
use crate::interrupt;

mod kernel;
mod links;
mod machine;
mod ovs;
mod party;
mod penstock;
mod report;
mod testpmd;

use party::{Load, Party, Round};
use report::{Figures, Report};

/// What tells the bench's namespaces from others.
const TAG: &str = "bench";
/// Trials of a search for the rate without loss: it is then known to 1 in 256 of the highest.
const TRIALS: usize = 8;

/// Options of `bench-peers`.
#[derive(Debug, Parser)]
#[command(
    name = "bench-peers",
    about = "One worker with all of it on against DPDK testpmd, the kernel and Open vSwitch, on veth; needs root"
)]
struct Options {
    /// The peers to measure against; all of them unless given
    #[arg(long, value_delimiter = ',', value_name = "PEER")]
    only: Vec<Peer>,
    /// How often each party is measured
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=100))]
    rounds: u16,
    /// How long each measurement lasts, in seconds
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=60))]
    seconds: u64,
    /// Flows of the load
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..=50_000))]
    flows: u16,
    /// Measure the highest rate without loss, too: some ten trials more a party
    #[arg(long)]
    loss_free: bool,
    /// Exit with 1 where penstockd forwards less than this many times what testpmd does
    #[arg(long, value_name = "RATIO")]
    at_least: Option<f64>,
}

/// Whom penstockd is measured against.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Peer {
    /// DPDK testpmd by `net_af_xdp`: MAC addresses
    Testpmd,
    /// The kernel's IPv4 forwarding
    Kernel,
    /// The kernel with the same policy and Service in nftables, and its vxlan device
    Nftables,
    /// Open vSwitch in userspace by AF_XDP, with the same policy, Service and VXLAN
    Ovs,
}

impl Peer {
    fn up(self, tag: &str) -> Result<Box<dyn Party>> {
        Ok(match self {
            Peer::Testpmd => Box::new(testpmd::Rig::up(tag)?),
            Peer::Kernel => Box::new(kernel::Rig::up(tag, kernel::Work::Forwarding)?),
            Peer::Nftables => Box::new(kernel::Rig::up(tag, kernel::Work::PolicyServiceVxlan)?),
            Peer::Ovs => Box::new(ovs::Rig::up(tag)?),
        })
    }
}

impl Options {
    fn peers(&self) -> &[Peer] {
        if self.only.is_empty() { Peer::value_variants() } else { &self.only }
    }

    /// What a person would type for the same run, but for what only says when to fail.
    fn command(&self) -> String {
        let mut text = "bench-peers".to_owned();
        let names = self.only.iter().filter_map(ValueEnum::to_possible_value);
        let names: Vec<String> = names.map(|name| name.get_name().to_owned()).collect();
        if !names.is_empty() {
            text += &format!(" --only {}", names.join(","));
        }
        text += &format!(" --rounds {} --seconds {} --flows {}", self.rounds, self.seconds, self.flows);
        if self.loss_free { text + " --loss-free" } else { text }
    }
}

/// Runs the bench. Exit codes: 0 measured, 1 it could not be or `--at-least` is missed, 2 wrong arguments.
pub fn main() -> ExitCode {
    let options = Options::parse();
    if options.at_least.is_some() && !options.peers().contains(&Peer::Testpmd) {
        crate::say("bench-peers: --at-least is about testpmd, which --only leaves out");
        return ExitCode::from(2);
    }
    match interrupt::watch(TAG).and_then(|()| measure(&options)) {
        Ok(report) => ExitCode::from(u8::from(is_missed(&report, &options))),
        Err(error) => {
            interrupt::point();
            crate::say(&format!("bench-peers: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

/// Lets penstockd, and the peers for which the tests' own packages are enough, forward a little. Each proves that it
/// does what the bench says it does. Answers with a line for each.
///
/// # Errors
/// When one does not forward, or not as it should.
pub fn smoke(tag: &str) -> Result<Vec<String>> {
    let load = Load { seconds: 0.3, warm_up: Duration::from_millis(500), flows: 16, core: last_core()? };
    let mut parties = parties(tag, true, &[Peer::Kernel, Peer::Nftables])?;
    let told = parties.iter_mut().map(|party| {
        let round = party.round(&load).with_context(|| party.name())?;
        Ok(format!("{}: {:.0} packets/s", party.name(), round.pps))
    });
    told.collect()
}

fn measure(options: &Options) -> Result<Report> {
    let began = Instant::now();
    let load = Load {
        seconds: options.seconds as f64,
        warm_up: party::WARM_UP,
        flows: options.flows,
        core: last_core()?,
    };
    let mut parties = parties(TAG, false, options.peers())?;
    let mut rounds = vec![Vec::new(); parties.len()];
    for number in 0..usize::from(options.rounds) {
        for turn in 0..parties.len() {
            // Whoever comes first in one round comes last in the next: a machine that slows down is unfair to all.
            let place = (number + turn) % parties.len();
            let (Some(party), Some(rounds)) = (parties.get_mut(place), rounds.get_mut(place)) else {
                continue;
            };
            let round = party.round(&load).with_context(|| party.name())?;
            crate::say(&format!("round {}: {:<10} {round}", number + 1, party.name()));
            rounds.push(round);
        }
    }
    let mut figures = Vec::new();
    for (party, rounds) in parties.iter_mut().zip(rounds) {
        let loss_free =
            if options.loss_free { Some(loss_free(party.as_mut(), &rounds, &load)?) } else { None };
        figures.push(Figures::of(party.as_ref(), rounds, loss_free)?);
    }
    // Ours stand first in what is told.
    figures.rotate_right(1);
    let report = Report::of(figures, options, began.elapsed())?;
    report.tell();
    report.write(&checkout().join("target/bench"))?;
    Ok(report)
}

/// The peers, and penstockd as the last one: its rig holds the lab, and is dropped when their namespaces are gone.
fn parties(tag: &str, patient: bool, peers: &[Peer]) -> Result<Vec<Box<dyn Party>>> {
    let penstock = penstock::Rig::up(tag, patient)?;
    let mut parties = peers.iter().map(|peer| peer.up(tag)).collect::<Result<Vec<_>>>()?;
    parties.push(Box::new(penstock));
    Ok(parties)
}

/// The highest rate at which a party loses nothing, in packets a second: halving what lies between a rate that was kept
/// up and one that was not.
fn loss_free(party: &mut dyn Party, rounds: &[Round], load: &Load) -> Result<f64> {
    let most = rounds.iter().map(|round| round.pps).fold(0.0, f64::max);
    let (mut kept, mut lost) = (0.0, most * 1.05);
    for _ in 0..TRIALS {
        let rate = f64::midpoint(kept, lost);
        let trial = party.trial(load, rate)?;
        crate::say(&format!(
            "loss-free: {:<10} {rate:.0} packets/s: {} of {} lost",
            party.name(),
            trial.lost(),
            trial.sent
        ));
        if trial.lost() == 0 { kept = rate } else { lost = rate }
    }
    Ok(kept)
}

fn is_missed(report: &Report, options: &Options) -> bool {
    let ratio = report.ratio("testpmd").unwrap_or(0.0);
    options.at_least.is_some_and(|wanted| ratio < wanted)
}

/// The CPU of the generator: no party's.
fn last_core() -> Result<usize> {
    let cores = std::thread::available_parallelism()?.get();
    ensure!(cores >= 2, "one core for the party, another for the generator: there is only one");
    Ok(cores - 1)
}
