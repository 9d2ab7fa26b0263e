//! What is written: `peers.json` with everything, `peers.md` with the table, `peers.svg` and `peers.png` with bars.

use std::fmt::Write;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use pktgen::plot::{Bar, Bars, Group, bars};
use serde::Serialize;

use super::party::{Cycles, Party, Round, SIZE};
use super::{Options, machine};
use crate::netns::run;

/// All measurements of one party.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Figures {
    name: &'static str,
    does: &'static str,
    version: String,
    setup: String,
    median_pps: f64,
    min_pps: f64,
    max_pps: f64,
    /// Of what the generator has offered, what got through: the median.
    delivered_percent: f64,
    /// Medians, where the party counts them.
    cycles: Option<Cycles>,
    /// The highest rate without loss, where it was looked for.
    loss_free_pps: Option<f64>,
    /// What penstockd forwards, in units of what this party does; of medians.
    penstockd_ratio: f64,
    rounds: Vec<Round>,
}

/// What is written.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    schema: &'static str,
    date: String,
    kernel: String,
    machine: String,
    cores: usize,
    command: String,
    frame: usize,
    flows: u16,
    seconds: f64,
    parties: Vec<Figures>,
    rows: Vec<Row>,
}

/// One figure, for whoever collects them.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct Row {
    row: String,
    value: f64,
    unit: &'static str,
}

impl Figures {
    pub(super) fn of(party: &dyn Party, rounds: Vec<Round>, loss_free_pps: Option<f64>) -> Result<Self> {
        let over = |figure: &dyn Fn(&Round) -> Option<f64>| sorted(rounds.iter().filter_map(figure));
        let pps = over(&|round| Some(round.pps));
        let delivered = over(&|round| Some(round.pps / round.offered_pps * 100.0));
        let own = over(&|round| round.cycles.map(|cycles| cycles.own));
        let kernel = over(&|round| round.cycles.map(|cycles| cycles.kernel));
        let cycles = median(&own).zip(median(&kernel)).map(|(own, kernel)| Cycles { own, kernel });
        Ok(Figures {
            name: party.name(),
            does: party.does(),
            version: party.version()?,
            setup: party.setup(),
            median_pps: median(&pps).context("no round")?,
            min_pps: pps.first().copied().unwrap_or_default(),
            max_pps: pps.last().copied().unwrap_or_default(),
            delivered_percent: median(&delivered).unwrap_or_default(),
            cycles,
            loss_free_pps,
            penstockd_ratio: 1.0,
            rounds,
        })
    }
}

impl Report {
    /// The first party is penstockd.
    pub(super) fn of(mut parties: Vec<Figures>, options: &Options, took: Duration) -> Result<Self> {
        let ours = parties.first().map_or(0.0, |party| party.median_pps);
        for party in &mut parties {
            party.penstockd_ratio = ours / party.median_pps;
        }
        let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease")?.trim().to_owned();
        Ok(Report {
            schema: "penstock.bench-peers/1",
            date: run("date", &["-u", "+%Y-%m-%d %H:%M UTC"])?.trim().to_owned(),
            kernel,
            machine: machine::model()?,
            cores: std::thread::available_parallelism()?.get(),
            command: options.command(),
            frame: SIZE,
            flows: options.flows,
            seconds: took.as_secs_f64(),
            rows: rows(&parties),
            parties,
        })
    }

    /// What penstockd forwards in units of what a peer does.
    pub(super) fn ratio(&self, peer: &str) -> Option<f64> {
        self.parties.iter().find(|party| party.name == peer).map(|party| party.penstockd_ratio)
    }

    pub(super) fn tell(&self) {
        crate::say(&format!("\n{}", self.markdown()));
    }

    /// Writes all four files.
    pub(super) fn write(&self, folder: &Path) -> Result<()> {
        std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
        let save = |name: &str, text: String| {
            let path = folder.join(name);
            std::fs::write(&path, text).with_context(|| path.display().to_string())
        };
        save("peers.json", serde_json::to_string_pretty(self)? + "\n")?;
        save("peers.md", self.markdown())?;
        let written = bars(&self.plot(), &folder.join("peers"))?;
        let folder = folder.canonicalize()?;
        let plot = written.png.file_name().unwrap_or_default().to_string_lossy().into_owned();
        crate::say(&format!("written to {}: peers.json, peers.md, peers.svg, {plot}", folder.display()));
        Ok(())
    }

    fn markdown(&self) -> String {
        let mut text = String::from(
            "| party | does | packets/s: median | least | most | of the offered | without loss | cycles a packet, own + kernel | \
             penstockd is |\n|---|---|---:|---:|---:|---:|---:|---:|---:|\n",
        );
        for party in &self.parties {
            let cycles = party
                .cycles
                .map_or("".to_owned(), |cycles| format!("{:.0} + {:.0}", cycles.own, cycles.kernel));
            let loss_free = party.loss_free_pps.map_or("".to_owned(), thousands);
            // Writing to a string does not fail.
            let _ = writeln!(
                text,
                "| {} | {} | {} | {} | {} | {:.0} % | {loss_free} | {cycles} | {:.2} × |",
                party.name,
                party.does,
                thousands(party.median_pps),
                thousands(party.min_pps),
                thousands(party.max_pps),
                party.delivered_percent,
                party.penstockd_ratio,
            );
        }
        let _ = write!(
            text,
            "\n`{}`, {}: {}, {} CPUs, Linux {}; {SIZE}-byte frames, {} flows, each party on one CPU. {}.\n",
            self.command,
            self.date,
            self.machine,
            self.cores,
            self.kernel,
            self.flows,
            self.parties.iter().map(|party| party.version.as_str()).collect::<Vec<_>>().join("; "),
        );
        text
    }

    fn plot(&self) -> Bars {
        let bar = |party: &Figures| Bar { min: party.min_pps, value: party.median_pps, max: party.max_pps };
        let group = |party: &Figures| Group {
            name: format!("{}: {}", party.name, party.does),
            bars: vec![Some(bar(party))],
        };
        Bars {
            title: format!("Packets a second through one core on veth ({SIZE}-byte frames)"),
            y: "packets/s, median with least and most".to_owned(),
            series: vec!["packets/s".to_owned()],
            groups: self.parties.iter().map(group).collect(),
        }
    }
}

fn rows(parties: &[Figures]) -> Vec<Row> {
    let mut rows = Vec::new();
    for party in parties {
        let mut row = |what: &str, value: f64, unit| {
            rows.push(Row { row: format!("peers/{}/{what}", party.name), value, unit });
        };
        row("pps", party.median_pps, "packets/s");
        row("delivered", party.delivered_percent, "%");
        if let Some(pps) = party.loss_free_pps {
            row("loss_free_pps", pps, "packets/s");
        }
        if let Some(Cycles { own, kernel }) = party.cycles {
            row("own_cycles", own, "cycles/packet");
            row("kernel_cycles", kernel, "cycles/packet");
        }
        if party.name != "penstockd" {
            row("penstockd_ratio", party.penstockd_ratio, "ratio");
        }
    }
    rows
}

fn sorted(values: impl Iterator<Item = f64>) -> Vec<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values
}

/// The middle of sorted values; of an even number of them, the mean of both middles.
fn median(sorted: &[f64]) -> Option<f64> {
    let middle = sorted.len() / 2;
    match (sorted.get(middle.wrapping_sub(1)), sorted.get(middle)) {
        (Some(below), Some(above)) if sorted.len().is_multiple_of(2) => Some(f64::midpoint(*below, *above)),
        (_, above) => above.copied(),
    }
}

/// `1234567.8` as `1,234,568`.
fn thousands(value: f64) -> String {
    let digits = format!("{:.0}", value.max(0.0));
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::machine::Meanwhile;

    fn party(name: &'static str, pps: &[f64], cycles: Option<Cycles>) -> Figures {
        let machine = Meanwhile { steal_percent: 0.0, others_percent: 0.0, step_ns: 1.0 };
        let rounds: Vec<Round> =
            pps.iter().map(|&pps| Round { pps, offered_pps: 4e6, cycles, machine }).collect();
        let of = sorted(pps.iter().copied());
        Figures {
            name,
            does: "something",
            version: format!("{name} 1"),
            setup: String::new(),
            median_pps: median(&of).unwrap(),
            min_pps: of[0],
            max_pps: of[of.len() - 1],
            delivered_percent: 25.0,
            cycles,
            loss_free_pps: None,
            penstockd_ratio: 1.0,
            rounds,
        }
    }

    fn report() -> Report {
        let cycles = Some(Cycles { own: 90.4, kernel: 1000.0 });
        let parties = vec![party("penstockd", &[3e6, 1e6, 2e6], cycles), party("testpmd", &[1e6], None)];
        let options = clap::Parser::parse_from(["bench-peers", "--only", "testpmd"]);
        Report::of(parties, &options, Duration::from_secs(1)).unwrap()
    }

    #[test]
    fn the_median_is_the_middle() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0]), Some(3.0));
        assert_eq!(median(&[1.0, 2.0]), Some(1.5));
        assert_eq!(median(&[1.0, 2.0, 9.0]), Some(2.0));
    }

    #[test]
    fn numbers_are_grouped_by_thousands() {
        for (value, text) in [(0.0, "0"), (999.4, "999"), (1000.0, "1,000"), (1_234_567.8, "1,234,568")] {
            assert_eq!(thousands(value), text);
        }
    }

    #[test]
    fn the_table_has_medians_ratios_and_whose_the_cycles_are() {
        let text = report().markdown();
        let ours =
            "| penstockd | something | 2,000,000 | 1,000,000 | 3,000,000 | 25 % |  | 90 + 1000 | 1.00 × |";
        let theirs = "| testpmd | something | 1,000,000 | 1,000,000 | 1,000,000 | 25 % |  |  | 2.00 × |";
        assert!(text.contains(ours) && text.contains(theirs), "{text}");
        assert!(text.contains("`bench-peers --only testpmd --rounds 5 --seconds 3 --flows 64`"), "{text}");
    }

    #[test]
    fn rows_have_a_name_a_value_and_a_unit_each() {
        let report = report();
        let find =
            |name: &str| report.rows.iter().find(|row| row.row == name).map(|row| (row.value, row.unit));
        assert_eq!(find("peers/penstockd/own_cycles"), Some((90.4, "cycles/packet")));
        assert_eq!(find("peers/testpmd/penstockd_ratio"), Some((2.0, "ratio")));
        assert_eq!(find("peers/penstockd/penstockd_ratio"), None);
        assert_eq!(report.ratio("testpmd"), Some(2.0));
    }

    #[test]
    fn all_files_are_written() {
        let folder = std::env::temp_dir().join(format!("penstock-peers-{}", std::process::id()));
        report().write(&folder).unwrap();
        for name in ["peers.json", "peers.md", "peers.svg", "peers.png"] {
            assert!(folder.join(name).metadata().unwrap().len() > 100, "{name}");
        }
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
