//! [`Document`]: a report as sections of text, tables and pictures, told once and shown as plain text or HTML.

use std::fmt::Write;

use super::{BenchReport, Culprit, Figure, SearchRecord};
use crate::mlr::Ended;
use crate::report::{LatencyReport, scaled, time};
use crate::trial::TrialRecord;

/// A table of text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    /// Names of the columns.
    pub head: Vec<String>,
    /// Rows, as long as the head.
    pub rows: Vec<Vec<String>>,
}

/// A part of a document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Section {
    /// Its title.
    pub title: String,
    /// Text before the tables.
    pub lines: Vec<String>,
    /// The table, where there is one.
    pub table: Option<Table>,
    /// Pictures as SVG, for HTML.
    pub pictures: Vec<String>,
    /// Whether it is long and for those who want to know: left out of plain text, closed in HTML.
    pub detail: bool,
}

/// A report to be shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    /// Its title.
    pub title: String,
    /// Its parts.
    pub sections: Vec<Section>,
}

impl Section {
    fn new(title: &str, lines: Vec<String>, table: Option<Table>) -> Self {
        Section { title: title.into(), lines, table, pictures: Vec::new(), detail: false }
    }
}

impl Table {
    fn new<const N: usize>(head: [&str; N], rows: impl Iterator<Item = [String; N]>) -> Option<Self> {
        let rows: Vec<Vec<String>> = rows.map(Vec::from).collect();
        (!rows.is_empty()).then(|| Table { head: head.map(str::to_owned).to_vec(), rows })
    }
}

impl Document {
    /// The document of a report; `pictures` are SVGs.
    pub fn new(report: &BenchReport, pictures: Vec<String>) -> Self {
        let mut sections = vec![
            head(report),
            Section::new(
                "Figures",
                Vec::new(),
                Table::new(
                    ["figure", "frame", "unit", "median", "lowest", "highest", "repeats"],
                    report.figures.iter().map(figure_row),
                ),
            ),
            floor(report),
            Section::new(
                "Searches",
                Vec::new(),
                Table::new(
                    [
                        "test",
                        "frame",
                        "repeat",
                        "lower bound",
                        "upper bound",
                        "cond. throughput",
                        "ended by",
                        "goal",
                    ],
                    report.searches.iter().map(search_row),
                ),
            ),
            Section::new(
                "Not reached",
                Vec::new(),
                Table::new(
                    ["what", "why"],
                    report.not_reached.iter().map(|entry| [entry.what.clone(), entry.why.clone()]),
                ),
            ),
            Section::new("Notes", report.notes.clone(), None),
            Section { pictures, ..Section::new("Plots", Vec::new(), None) },
            Section { detail: true, ..settings(report) },
            Section { detail: true, ..trials(report) },
        ];
        sections.retain(|section| {
            !section.lines.is_empty() || section.table.is_some() || !section.pictures.is_empty()
        });
        Document { title: format!("pktgen {}", report.command), sections }
    }

    /// As plain text, without details and pictures.
    pub fn to_text(&self) -> String {
        let mut text = format!("{}\n", self.title);
        for section in self.sections.iter().filter(|section| !section.detail) {
            if section.lines.is_empty() && section.table.is_none() {
                continue;
            }
            let _ = writeln!(text, "\n{}", section.title);
            for line in &section.lines {
                let _ = writeln!(text, "  {line}");
            }
            if let Some(table) = &section.table {
                aligned(table, &mut text);
            }
        }
        text
    }

    /// As one HTML file that needs no other.
    pub fn to_html(&self) -> String {
        let title = escaped(&self.title);
        let mut html = format!(
            "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>{title}</title>\n<style>{STYLE}</style></head>\n\
             <body><h1>{title}</h1>\n"
        );
        for section in &self.sections {
            let title = escaped(&section.title);
            let (open, close) = if section.detail {
                (format!("<details><summary>{title}</summary>"), "</details>")
            } else {
                (format!("<h2>{title}</h2>"), "")
            };
            let _ = writeln!(html, "{open}");
            for line in &section.lines {
                let _ = writeln!(html, "<p>{}</p>", escaped(line));
            }
            if let Some(table) = &section.table {
                let row = |cells: &[String], tag: &str| {
                    cells.iter().map(|cell| format!("<{tag}>{}</{tag}>", escaped(cell))).collect::<String>()
                };
                let _ = writeln!(html, "<table><tr>{}</tr>", row(&table.head, "th"));
                for cells in &table.rows {
                    let _ = writeln!(html, "<tr>{}</tr>", row(cells, "td"));
                }
                let _ = writeln!(html, "</table>");
            }
            for picture in &section.pictures {
                let _ = writeln!(html, "<figure>{picture}</figure>");
            }
            let _ = writeln!(html, "{close}");
        }
        html.push_str("</body></html>\n");
        html
    }
}

const STYLE: &str = "body{font:15px/1.45 sans-serif;max-width:75em;margin:2em auto;padding:0 1em;color:#222}\
table{border-collapse:collapse;margin:.6em 0}td,th{border:1px solid #ccc;padding:.2em .6em;text-align:left}\
th{background:#f0f0f0}p{margin:.3em 0}figure{margin:1em 0}summary{font-size:1.3em;font-weight:bold;margin:.8em 0}\
details{overflow-x:auto}";

fn head(report: &BenchReport) -> Section {
    let mut lines = Vec::new();
    if let Some(node) = &report.node {
        lines.push(format!("node: {node}"));
    }
    lines.push(format!("machine: {}", report.host.line()));
    lines.push(format!("sender: {}", report.sender));
    lines.push(format!("receiver: {}", report.receiver));
    lines.push(format!("from {} to {}, {} trials", report.started, report.ended, report.trials.len()));
    lines.push(format!("command: {}", report.command_line.join(" ")));
    if report.interrupted {
        lines.push("interrupted by a signal: the figures are of what was done until then".into());
    }
    Section::new("Measurement", lines, None)
}

fn floor(report: &BenchReport) -> Section {
    let Some(floor) = &report.floor else {
        return Section::new("The instrument's own latency", Vec::new(), None);
    };
    let row = |name: &str, latency: &LatencyReport| {
        [
            name.to_owned(),
            time(latency.min),
            time(latency.p50),
            time(latency.p99),
            time(latency.p99_9),
            time(latency.max),
        ]
    };
    let rows = [
        Some(row("in memory", &floor.memory_ns)),
        floor.veth_ns.as_ref().map(|veth| row("bare veth pair", veth)),
    ];
    let lines = vec![
        format!(
            "With nothing between its ends, at {}pps; every latency above contains about as much.",
            scaled(floor.pps)
        ),
        floor.veth.clone(),
    ];
    let table = Table::new(["ends joined", "min", "p50", "p99", "p99.9", "max"], rows.into_iter().flatten());
    Section::new("The instrument's own latency", lines, table)
}

fn settings(report: &BenchReport) -> Section {
    let rows = report.settings.iter().map(|(key, value)| [key.clone(), value.clone()]);
    Section::new("Settings", Vec::new(), Table::new(["option", "value"], rows))
}

fn trials(report: &BenchReport) -> Section {
    let table = Table::new(
        [
            "trial",
            "test",
            "load, pps",
            "asked",
            "sent",
            "received",
            "lost",
            "forfeited",
            "loss, %",
            "p50",
            "p99",
        ],
        report.trials.iter().enumerate().map(|(number, trial)| trial_row(number + 1, trial)),
    );
    Section::new("Trials", Vec::new(), table)
}

fn figure_row(figure: &Figure) -> [String; 7] {
    [
        figure.name.clone(),
        figure.size.clone(),
        figure.unit.clone(),
        number(figure.median),
        number(figure.min),
        number(figure.max),
        figure.repeats.len().to_string(),
    ]
}

fn search_row(search: &SearchRecord) -> [String; 8] {
    let bound = |bound: Option<u64>| bound.map_or("none".into(), |bound| bound.to_string());
    let ended = match (search.ended, search.upper_by) {
        (Ended::Width, Some(Culprit::Sender)) => "width; at the upper bound the sender was behind",
        (Ended::Width, Some(Culprit::Receiver)) => "width; at the upper bound the receiver had no room",
        (Ended::Width, _) => "width",
        (Ended::MaxLoad, _) => "highest load",
        (Ended::MinLoad, _) => "lowest load",
        (Ended::Time, _) => "time",
    };
    [
        search.test.clone(),
        search.size.clone(),
        search.repeat.to_string(),
        bound(search.lower),
        bound(search.upper),
        search.conditional_throughput.map_or("none".into(), number),
        ended.into(),
        search.goal.clone(),
    ]
}

fn trial_row(index: usize, trial: &TrialRecord) -> [String; 11] {
    let latency =
        |of: fn(&LatencyReport) -> u64| trial.latency_ns.as_ref().map_or(String::new(), |l| time(of(l)));
    [
        index.to_string(),
        trial.test.clone(),
        trial.load_pps.map_or("max".into(), |load| format!("{load:.0}")),
        trial.asked.to_string(),
        trial.sent.to_string(),
        trial.received.to_string(),
        trial.lost.to_string(),
        trial.forfeited.to_string(),
        format!("{:.4}", trial.loss_ratio() * 100.0),
        latency(|l| l.p50),
        latency(|l| l.p99),
    ]
}

/// A figure's value: whole where it is large, else four digits.
fn number(value: f64) -> String {
    if value == 0.0 || value.abs() >= 1000.0 { format!("{value:.0}") } else { format!("{value:.4}") }
}

fn aligned(table: &Table, text: &mut String) {
    let width = |column: usize| {
        let cells = std::iter::once(&table.head).chain(&table.rows);
        cells.filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..table.head.len()).map(width).collect();
    for row in std::iter::once(&table.head).chain(&table.rows) {
        let cells: Vec<String> =
            row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        let _ = writeln!(text, "  {}", cells.join("  ").trim_end());
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::super::tests::trial;
    use super::super::{Better, NotReached};
    use super::*;

    fn report() -> BenchReport {
        let mut report = BenchReport::new("rfc2544");
        report.figures.push(Figure::new("throughput", "64", "packets/s", Better::Higher, 123_456.0));
        report.trials.push(trial("throughput, 64 B", "64", 1000, 1000, 999));
        report
            .not_reached
            .push(NotReached { what: "frames of <1518> bytes".into(), why: "MTU & more".into() });
        report
    }

    #[test]
    fn text_has_figures_aligned_and_no_details() {
        let text = Document::new(&report(), Vec::new()).to_text();
        assert!(text.contains("throughput  64     packets/s  123456  123456  123456   1"), "{text}");
        assert!(text.contains("frames of <1518> bytes") && !text.contains("forfeited"), "{text}");
        assert!(!text.contains("Searches"), "an empty section is not shown: {text}");
    }

    #[test]
    fn html_has_everything_escaped_and_pictures_as_they_are() {
        let html = Document::new(&report(), vec!["<svg>picture</svg>".into()]).to_html();
        for part in [
            "frames of &lt;1518&gt; bytes",
            "MTU &amp; more",
            "<svg>picture</svg>",
            "<td>999</td>",
            "forfeited",
        ] {
            assert!(html.contains(part), "{part}: {html}");
        }
        assert_eq!(html.matches("<table>").count(), html.matches("</table>").count());
    }
}
