//! The report as a table for people.

use std::io::{self, Write};

use super::{LatencyReport, Report, RxReport, StreamReport, TxReport, scaled, time};
use crate::figures::FloorReport;

impl Report {
    pub(super) fn write_table(&self, out: &mut impl Write) -> io::Result<()> {
        let run = self.run_id.map_or(String::new(), |run| format!("  run {run}"));
        writeln!(
            out,
            "pktgen {}{run}{}",
            self.command,
            if self.interrupted { "  (interrupted)" } else { "" }
        )?;
        if let Some(tx) = &self.tx {
            write_tx(out, tx)?;
        }
        if let Some(rx) = &self.rx {
            write_rx(out, rx)?;
        }
        if let Some(loss) = &self.loss {
            let inferred = if loss.exact { "" } else { "  (sent is inferred)" };
            writeln!(
                out,
                "  lost           {} of {} ({:.4} %){inferred}",
                loss.lost, loss.sent, loss.lost_percent
            )?;
        }
        if let Some(l) = &self.latency_ns {
            let [min, p50, p90, p99, p99_9, max] = [l.min, l.p50, l.p90, l.p99, l.p99_9, l.max].map(time);
            writeln!(
                out,
                "  latency        min {min}  p50 {p50}  p90 {p90}  p99 {p99}  p99.9 {p99_9}  max {max}  ({} samples)",
                l.samples
            )?;
        }
        if let Some(floor) = &self.floor {
            write_floor(out, floor)?;
        }
        if self.streams.len() > 1 {
            write_streams(out, &self.streams)?;
        }
        if let Some(conservation) = &self.conservation {
            let verdict = if conservation.holds { "holds" } else { "DOES NOT HOLD" };
            writeln!(out, "  conservation   {verdict}: {}", conservation.text)?;
        }
        self.notes.iter().try_for_each(|note| writeln!(out, "  note           {note}"))
    }
}

fn write_floor(out: &mut impl Write, floor: &FloorReport) -> io::Result<()> {
    let mut line = |name: &str, l: &LatencyReport| {
        writeln!(out, "  {name:<14} p50 {}  p99 {}  max {}", time(l.p50), time(l.p99), time(l.max))
    };
    line("floor, memory", &floor.memory_ns)?;
    if let Some(veth) = &floor.veth_ns {
        line("floor, veth", veth)?;
    }
    writeln!(out, "  floor          of the instrument alone, at {}pps; {}", scaled(floor.pps), floor.veth)
}

fn write_tx(out: &mut impl Write, tx: &TxReport) -> io::Result<()> {
    writeln!(out, "  sender         {}", end(&tx.engine, &tx.device, &tx.netns, &tx.mode))?;
    let packets = tx.asked_packets.map_or(String::new(), |packets| format!(", {packets} packets"));
    writeln!(out, "  asked          {}{packets}", tx.asked_rate)?;
    let rates = format!("{}pps, {}bit/s in {:.3} s", scaled(tx.pps), scaled(tx.bps), tx.seconds);
    writeln!(out, "  offered        {} packets, {rates}", tx.sent)?;
    for (name, count) in [
        ("forfeited", tx.forfeited),
        ("lost at sender", tx.lost_at_sender),
        ("device drops", tx.device_dropped),
        ("warm-up", tx.warmup_sent),
    ] {
        if count > 0 {
            writeln!(out, "  {name:<14} {count} packets")?;
        }
    }
    Ok(())
}

fn write_rx(out: &mut impl Write, rx: &RxReport) -> io::Result<()> {
    writeln!(out, "  receiver       {}", end(&rx.engine, &rx.device, &rx.netns, &rx.mode))?;
    writeln!(out, "  received       {} packets, {}pps in {:.3} s", rx.received, scaled(rx.pps), rx.seconds)?;
    writeln!(out, "  duplicates     {}", rx.duplicates)?;
    let distance =
        if rx.reordered > 0 { format!(" (by up to {})", rx.max_reorder_distance) } else { String::new() };
    writeln!(out, "  reordered      {}{distance}", rx.reordered)?;
    let seldom = [
        ("beyond window", rx.beyond_window),
        ("foreign", rx.foreign),
        ("other run", rx.other_run),
        ("corrupt", rx.corrupt),
        ("overflow", rx.receiver_overflow),
    ];
    for (name, count) in seldom {
        if count > 0 {
            writeln!(out, "  {name:<14} {count}")?;
        }
    }
    Ok(())
}

/// Streams shown in a table at most; JSON and CSV have all.
const STREAMS_SHOWN: usize = 16;

fn write_streams(out: &mut impl Write, streams: &[StreamReport]) -> io::Result<()> {
    writeln!(
        out,
        "  stream       sent   received       lost  dup  reord        p50        p99      p99.9        max"
    )?;
    for s in streams.iter().take(STREAMS_SHOWN) {
        let l = s.latency_ns.as_ref();
        let [p50, p99, p99_9, max] =
            [l.map(|l| l.p50), l.map(|l| l.p99), l.map(|l| l.p99_9), l.map(|l| l.max)]
                .map(|ns| ns.map_or("-".into(), time));
        writeln!(
            out,
            "  {:>6} {:>10} {:>10} {:>10} {:>4} {:>6} {p50:>10} {p99:>10} {p99_9:>10} {max:>10}",
            s.stream, s.sent, s.received, s.lost, s.duplicates, s.reordered
        )?;
    }
    match streams.len().checked_sub(STREAMS_SHOWN) {
        Some(more) if more > 0 => writeln!(out, "  … {more} more streams: -o json or -o csv has them all"),
        _ => Ok(()),
    }
}

fn end(engine: &str, device: &Option<String>, netns: &Option<String>, mode: &str) -> String {
    let device = device.as_ref().map_or(String::new(), |device| format!(" on {device}"));
    let netns = netns.as_ref().map_or(String::new(), |netns| format!(" in {netns}"));
    let mode = if mode.is_empty() { String::new() } else { format!(" ({mode})") };
    format!("{engine}{device}{netns}{mode}")
}
