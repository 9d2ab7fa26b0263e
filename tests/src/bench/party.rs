//! What a party is, and how a load through it is made and counted.

use std::fmt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde::Serialize;
use serde_json::Value;

use super::machine::{self, Machine, Meanwhile};
use crate::generator::{Generator, Report};
use crate::netns::Namespace;

/// From the generator's start to the first reading: it attaches, flows are set up, caches are warm.
pub(super) const WARM_UP: Duration = Duration::from_secs(2);
/// Bytes a frame, frame check sequence included: 60 as the kernel counts.
pub(super) const SIZE: usize = 64;
/// What a generator may need beyond its time.
const MARGIN: Duration = Duration::from_secs(20);
/// How long packets may be on their way once the generator has ended.
const SETTLE: Duration = Duration::from_millis(300);

/// Who is measured.
pub(super) trait Party {
    /// One word for tables.
    fn name(&self) -> &'static str;

    /// What it does with each packet, in a few words.
    fn does(&self) -> &'static str;

    /// Its version, as it says itself.
    fn version(&self) -> Result<String>;

    /// How it was set up: commands, in full.
    fn setup(&self) -> String;

    /// Measures it once at the most that the generator gives.
    fn round(&mut self, load: &Load) -> Result<Round>;

    /// Sends for a while at a rate and counts what gets through.
    fn trial(&mut self, load: &Load, pps: f64) -> Result<Trial>;
}

/// What is offered.
#[derive(Debug, Clone)]
pub(super) struct Load {
    /// How long is measured.
    pub(super) seconds: f64,
    /// How long it runs before.
    pub(super) warm_up: Duration,
    /// Source ports.
    pub(super) flows: u16,
    /// The generator's CPU.
    pub(super) core: usize,
}

/// One measurement.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Round {
    /// Packets a second that have left.
    pub(super) pps: f64,
    /// Packets a second that the generator has offered.
    pub(super) offered_pps: f64,
    /// TSC cycles a packet, where the party counts them.
    pub(super) cycles: Option<Cycles>,
    /// What the machine did meanwhile.
    pub(super) machine: Meanwhile,
}

/// TSC cycles a packet in turns that had packets.
#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct Cycles {
    /// In the party's own code.
    pub(super) own: f64,
    /// In the kernel, called to send.
    pub(super) kernel: f64,
}

/// A load at a fixed rate, from its first packet to its last.
#[derive(Debug, Clone, Copy)]
pub(super) struct Trial {
    pub(super) sent: u64,
    pub(super) received: u64,
}

impl Trial {
    /// Packets that did not get through.
    pub(super) fn lost(self) -> u64 {
        self.sent.saturating_sub(self.received)
    }
}

/// Where a load comes from, and where what is left of it is counted.
pub(super) struct Path<'a> {
    pub(super) from: &'a Namespace,
    pub(super) device: &'a str,
    /// pktgen's options for addresses.
    pub(super) addresses: String,
    pub(super) sink: (&'a Namespace, &'a str),
    pub(super) log: PathBuf,
}

impl Path<'_> {
    /// Runs the generator as fast as it can and counts packets a second at the end of the path. `cycles` is asked for the
    /// party's before and after.
    pub(super) fn count(&self, load: &Load) -> Result<Round> {
        let lasts = load.warm_up + Duration::from_secs_f64(load.seconds) + Duration::from_millis(500);
        let step_ns = machine::step_ns();
        let generator = self.start(load, "max", lasts)?;
        std::thread::sleep(load.warm_up);
        let machine = Machine::now(step_ns)?;
        let (begin, before) = (Instant::now(), self.received()?);
        std::thread::sleep(Duration::from_secs_f64(load.seconds));
        let (packets, seconds) = (self.received()? - before, begin.elapsed().as_secs_f64());
        let machine = machine.since()?;
        let sent = generator.finish(lasts + MARGIN)?.tx.unwrap_or_default();
        ensure!(packets > 0, "nothing has left by {} of {}", self.sink.1, self.sink.0.name());
        Ok(Round { pps: packets as f64 / seconds, offered_pps: sent.pps, cycles: None, machine })
    }

    /// Runs the generator at a rate.
    pub(super) fn trial(&self, load: &Load, pps: f64) -> Result<Trial> {
        let lasts = Duration::from_secs_f64(load.seconds);
        let before = self.received()?;
        let report: Report = self.start(load, &format!("{pps:.0}"), lasts)?.finish(lasts + MARGIN)?;
        let sent = report.tx.context("pktgen has not said what it has sent")?;
        std::thread::sleep(SETTLE);
        Ok(Trial { sent: sent.sent - sent.lost_at_sender, received: self.received()? - before })
    }

    fn start(&self, load: &Load, rate: &str, lasts: Duration) -> Result<Generator> {
        let words = format!(
            "send --tx-engine live --tx-netns {} --tx-device {} --tx-core {} {} --dst-port 7 --flows {} --size {SIZE} \
             --rate {rate} --duration {}ms",
            self.from.name(),
            self.device,
            load.core,
            self.addresses,
            load.flows,
            lasts.as_millis(),
        );
        Generator::start(self.from, self.log.clone(), &words)
    }

    /// Packets that the path's end has received, by its own statistics.
    fn received(&self) -> Result<u64> {
        let (namespace, device) = self.sink;
        let text = namespace.ip(&format!("-s -j link show dev {device}"))?;
        let links: Value = serde_json::from_str(&text)?;
        let packets = links.pointer("/0/stats64/rx/packets").and_then(Value::as_u64);
        packets.with_context(|| format!("no received packets in {text}"))
    }
}

/// As a line of the bench's progress.
impl fmt::Display for Round {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:>9.0} packets/s of {:.0} offered", self.pps, self.offered_pps)?;
        if let Some(Cycles { own, kernel }) = self.cycles {
            write!(f, ", {own:.0} cycles a packet ours and {kernel:.0} the kernel's")?;
        }
        write!(f, "; {}", self.machine)
    }
}
