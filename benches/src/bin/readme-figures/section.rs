//! The section: words of ours around tables of figures.

use comfy_table::presets::ASCII_MARKDOWN;
use comfy_table::{CellAlignment, Table};

use anyhow::{Context, Result};

use crate::figures::{
    BATCH, BOUNDS, Figure, Figures, MEMIF, PEERS, PIPELINE, PLOT, POLICY, SOURCES, Source, UPDATES,
};
use crate::peers;
use crate::targets::{self, CYCLES};

/// Batches of the pipeline's rows.
const BATCHES: [&str; 4] = ["1", "4", "16", BATCH];

/// How the rows call those that judge by policies.
const CLASSIFIERS: [&str; 4] = ["penstock", "linear", "tuple_space", "prefix_walks"];

/// The section that the figures make.
pub(crate) fn of(figures: &Figures) -> Result<String> {
    let targets = table(["work", "row", "reach", "measured", ""], 2..4, targets::lines(figures));
    let parts = [
        WRITTEN.to_owned(),
        PIPELINE_WORDS.to_owned(),
        targets,
        batches(figures),
        POLICY_WORDS.to_owned(),
        classifiers(figures),
        counted(figures),
        VETH_WORDS.to_owned(),
        veth(figures)?,
        "### Over memif: no kernel".to_owned(),
        plain(figures, MEMIF),
        "### Tables replaced under load".to_owned(),
        plain(figures, UPDATES),
        "### Where the figures come from".to_owned(),
        origins(figures),
    ];
    Ok(parts.join("\n\n") + "\n")
}

const WRITTEN: &str = "\
## How fast

Written by `make readme-figures` from the figures in [docs/bench](docs/bench). How they are made and how to read them:
[docs/performance.md](docs/performance.md).";

const PIPELINE_WORDS: &str = "\
### The pipeline: all of it ours

A worker's whole turn between ports in memory, without kernel and NIC, on one core: 64-byte packets, TSC cycles a packet, medians.
Batches of 64 where a row's name ends in no other. What the ports themselves cost (`port`: each packet is copied in) is part of
every row. `make bench`:";

const POLICY_WORDS: &str = "\
### Policy tables beside other classifiers

One judgement: both ends of a flow, addresses looked up, the deciding rules named; each waits for the one before. Generated sets of 10 to
100,000 rules: what a rule allows (hit), what no policy selects (miss), what is denied. `hot`: 1,024 flows over and over; `cold`: other flows
each time, after 512 MiB of other memory. Nanoseconds, and how many times ours they are, in one run. `make bench`:";

const VETH_WORDS: &str = "\
### On veth: mostly the kernel

The kernel makes an skb of each packet that is sent, runs both ends of the veth pair and copies the packet into the receiver's
ring: that is the kernel's share, and nobody's dataplane has a say in it. Ratios hold within one run.";

/// Every row of whole turns by its batches; then what else the same command measured.
fn batches(figures: &Figures) -> String {
    let all = figures.of(PIPELINE);
    if all.is_empty() {
        return absent(PIPELINE);
    }
    let (turns, others): (Vec<&Figure>, Vec<&Figure>) = all.iter().partition(|figure| figure.unit == CYCLES);
    let mut bases: Vec<&str> = Vec::new();
    for figure in turns {
        let base = without_batch(&figure.row);
        if !bases.contains(&base) {
            bases.push(base);
        }
    }
    let cell =
        |value: Option<f64>, digits: usize| value.map_or(String::new(), |value| format!("{value:.digits$}"));
    let lines = bases.into_iter().map(|base| {
        let at = |batch: &str| {
            let row = if batch == BATCH { base.to_owned() } else { format!("{base}/{batch}") };
            figures.figure(PIPELINE, &row, CYCLES)
        };
        let mut line = vec![format!("`{base}`")];
        line.extend(BATCHES.map(|batch| cell(at(batch).map(|figure| figure.value), 1)));
        let (usual, alone) = (at(BATCH), at(BATCH).and_then(|figure| figure.port_cycles));
        line.push(cell(usual.zip(alone).map(|(figure, port)| figure.value - port), 1));
        line.push(cell(usual.and_then(|figure| figure.ns), 1));
        line
    });
    let head = ["cycles a packet, batches of", "1", "4", "16", "64", "without port", "ns"];
    let mut text = table(head, 1..7, lines);
    if !others.is_empty() {
        text += "\n\n";
        text += &rows(&others);
    }
    text
}

/// What each way of judging takes, by group, rules and kind of flow; then what else the same command measured.
fn classifiers(figures: &Figures) -> String {
    let [ours, others @ ..] = CLASSIFIERS;
    let all = figures.of(POLICY);
    if all.is_empty() {
        return absent(POLICY);
    }
    let bases = all
        .iter()
        .filter_map(|figure| Some((figure.row.strip_suffix(ours)?.strip_suffix('/')?, figure.value)));
    let lines = bases.map(|(base, ours)| {
        let other = |name: &str| {
            let value = figures.value(POLICY, &format!("{base}/{name}"), "ns");
            value.map_or(String::new(), |value| format!("{value:.0} ({:.1} ×)", value / ours))
        };
        let mut line = vec![format!("`{base}`"), format!("{ours:.1}")];
        line.extend(others.map(other));
        line
    });
    let head = ["row, ns", "penstock", "linear scan", "tuple space", "prefix walks"];
    let judged = |figure: &&Figure| figure.row.rsplit('/').any(|part| CLASSIFIERS.contains(&part));
    let rest: Vec<&Figure> = all.iter().filter(|figure| !judged(figure)).collect();
    format!("{}\n\n{}", table(head, 1..5, lines), rows(&rest))
}

fn without_batch(row: &str) -> &str {
    match row.rsplit_once('/') {
        Some((base, batch)) if BATCHES.contains(&batch) => base,
        _ => row,
    }
}

/// Instructions.
fn counted(figures: &Figures) -> String {
    let counted = figures.of(BOUNDS);
    if counted.is_empty() {
        return absent(BOUNDS);
    }
    let lines = counted.iter().map(|figure| {
        let Figure { row, value, allocations, .. } = figure;
        let allocations = allocations.map_or(String::new(), |allocations| allocations.to_string());
        [format!("`{row}`"), format!("{value:.1}"), allocations]
    });
    format!(
        "Instructions a packet and heap allocations in all, counted by callgrind, which no noise can change. CI holds them to\n\
         [benches/bounds.toml](benches/bounds.toml). `{}`:\n\n{}",
        BOUNDS.command,
        table(["row", "instructions", "allocations"], 1..3, lines)
    )
}

/// Beside others, on the kernel's own links.
fn veth(figures: &Figures) -> Result<String> {
    let Some(file) = figures.file(PEERS) else { return Ok(absent(PEERS)) };
    let text = peers::text(&file.json).context(PEERS.file)?;
    let plot = if figures.has_plot() {
        format!("\n\n![packets a second through one core on veth](docs/bench/{PLOT})")
    } else {
        String::new()
    };
    Ok(format!("`{}`:\n\n{text}{plot}", PEERS.command))
}

/// The rows of a source as they are.
fn plain(figures: &Figures, source: Source) -> String {
    let all: Vec<&Figure> = figures.of(source).iter().collect();
    if all.is_empty() {
        return absent(source);
    }
    format!("`{}`:\n\n{}", source.command, rows(&all))
}

fn rows(figures: &[&Figure]) -> String {
    let lines =
        figures.iter().map(|figure| [format!("`{}`", figure.row), number(figure.value), figure.unit.clone()]);
    table(["row", "value", "unit"], 1..2, lines)
}

/// With as many digits as say something.
fn number(value: f64) -> String {
    match value.abs() {
        0.0 => "0".into(),
        small if small < 10.0 => format!("{value:.2}"),
        middle if middle < 1000.0 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    }
}

fn absent(source: Source) -> String {
    format!("Not measured: `{}` was not run for this page.", source.command)
}

fn origins(figures: &Figures) -> String {
    let lines = SOURCES.iter().filter_map(|source| {
        let origin = figures.origin(*source)?;
        let machine = format!("{}, {} cores; {}", origin.cpu, origin.cores, origin.kernel);
        Some([
            format!("`{}`", source.command),
            origin.measured.clone(),
            origin.commit.clone(),
            machine,
            origin.rustc.clone(),
        ])
    });
    table(["command", "measured", "commit", "machine", "compiler"], 0..0, lines)
}

/// A table in Markdown; the columns `right` hold numbers.
pub(crate) fn table<const N: usize>(
    head: [&str; N],
    right: std::ops::Range<usize>,
    lines: impl IntoIterator<Item = impl Into<comfy_table::Row>>,
) -> String {
    let mut table = Table::new();
    table.load_preset(ASCII_MARKDOWN).set_header(head).add_rows(lines);
    for column in right {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table.lines().map(|line| line.trim_end().to_owned()).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figures::tests::measured;

    #[test]
    fn what_was_not_measured_is_named_with_its_command() {
        let text = of(&Figures::default()).unwrap();
        for source in SOURCES {
            assert!(text.contains(&format!("Not measured: `{}`", source.command)), "{text}");
        }
    }

    #[test]
    fn a_row_has_a_column_for_each_batch() {
        let rows = [
            ("full/16k/1", 343.08, CYCLES),
            ("full/16k", 130.94, CYCLES),
            ("maglev/65537x1000_us", 812.3, "us"),
        ];
        let text = batches(&measured(&[(PIPELINE, &rows)]));
        let line = text.lines().find(|line| line.starts_with("| `full/16k`")).unwrap();
        let cells: Vec<&str> = line.split('|').map(str::trim).filter(|cell| !cell.is_empty()).collect();
        assert_eq!(cells, ["`full/16k`", "343.1", "130.9", "129.9", "65.5"]);
        assert_eq!(text.matches("full/16k").count(), 1);
        assert!(text.contains("812.3"));
    }

    #[test]
    fn a_classifier_stands_beside_ours() {
        let rows = [
            ("policy/hot/10/hit/penstock", 20.0, "ns"),
            ("policy/hot/10/hit/linear", 50.0, "ns"),
            ("policy/compile/10", 0.4, "ms"),
        ];
        let text = classifiers(&measured(&[(POLICY, &rows)]));
        let line = text.lines().find(|line| line.starts_with("| `policy/hot/10/hit`")).unwrap();
        let cells: Vec<&str> = line.split('|').map(str::trim).filter(|cell| !cell.is_empty()).collect();
        assert_eq!(cells, ["`policy/hot/10/hit`", "20.0", "50 (2.5 ×)"]);
        assert!(text.contains("| `policy/compile/10` |") && text.matches("linear").count() == 1, "{text}");
    }

    #[test]
    fn each_measured_file_says_where_it_comes_from() {
        let figures = measured(&[(PIPELINE, &[]), (PEERS, &[("ours", 1.0, "packets/s")])]);
        let text = origins(&figures);
        assert_eq!(text.matches("abc1234").count(), 2);
        assert!(text.contains("`make bench-peers`") && !text.contains("`make bounds`"));
    }

    #[test]
    fn numbers_have_the_digits_that_say_something() {
        assert_eq!([0.0, 1.234, 56.78, 901_234.5].map(number), ["0", "1.23", "56.8", "901234"]);
    }
}
