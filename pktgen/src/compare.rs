//! `pktgen compare`: what differs between two reports beyond noise.
//!
//! The noise is what the repeats show. Two figures differ where the exact rank-sum test of their repeats says so at the
//! level asked for, and their medians are further apart than the threshold. Where there are too few repeats for the test
//! to say anything at that level (three against three, say), they differ where their ranges do not overlap and their
//! medians are further apart than the threshold and than the wider of the two ranges.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::figures::{BenchReport, Better, Figure, SCHEMA};
use crate::options::{CompareOptions, Form};
use crate::stats::{least_rank_sum_p, rank_sum_p};

/// Repeats below which nothing is known of the noise.
pub const FEWEST: usize = 3;

/// Settings that may differ between comparable reports: where, not what is measured.
const MAY_DIFFER: [&str; 19] = [
    "traffic.dst-ip",
    "traffic.dst-port",
    "traffic.src-ip",
    "traffic.src-mac",
    "traffic.dst-mac",
    "traffic.next-hop",
    "traffic.run-id",
    "sender.tx-device",
    "sender.tx-netns",
    "sender.tx-queue",
    "sender.tx-core",
    "receiver.rx-device",
    "receiver.rx-netns",
    "receiver.rx-port",
    "receiver.rx-core",
    "trials.repeats",
    "trials.time-limit",
    "trials.pause",
    "node",
];

/// Two reports that cannot be compared: exit code 2.
#[derive(Debug, thiserror::Error)]
pub enum CompareError {
    /// A file cannot be read as a report.
    #[error("{}: {reason}", file.display())]
    File {
        /// The file.
        file: PathBuf,
        /// Why not.
        reason: String,
    },
    /// They measure different things.
    #[error("the reports cannot be compared: {0}")]
    Incomparable(String),
}

/// What became of a figure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Better beyond noise.
    Better,
    /// Worse beyond noise.
    Worse,
    /// No difference beyond noise.
    Same,
}

/// A figure in both reports.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Difference {
    /// The figure's name.
    pub name: String,
    /// Frame size with FCS, or the mix.
    pub size: String,
    /// Its unit.
    pub unit: String,
    /// Median before.
    pub before: f64,
    /// Median after.
    pub after: f64,
    /// `after / before − 1`; null where before is 0.
    pub change: Option<f64>,
    /// Probability of a difference of ranks like this one by chance alone (two-sided, exact).
    pub p: f64,
    /// Which rule decided: `rank-sum` or `ranges`.
    pub rule: &'static str,
    /// What became of it.
    pub verdict: Verdict,
}

/// What differs.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Comparison {
    /// Figures of both reports.
    pub figures: Vec<Difference>,
    /// Figures of which more is better that only the first report has: what was reached before is not reached now.
    pub gone: Vec<String>,
    /// What the reader should know: other machines, other kernels, figures left out.
    pub notes: Vec<String>,
}

/// Reads and compares the two reports.
///
/// # Errors
/// [`CompareError`] naming the file, or what keeps them from being compared.
pub fn run(options: &CompareOptions) -> Result<Comparison, CompareError> {
    let (before, after) = (read(&options.before)?, read(&options.after)?);
    compare(&before, &after, options.threshold, options.alpha)
}

/// Compares two reports: differences of medians up to `threshold` (a share) are nobody's concern, and noise is taken
/// for a difference with a probability of `alpha`.
///
/// # Errors
/// [`CompareError::Incomparable`] naming what differs in what was measured, or the figure with too few repeats.
pub fn compare(
    before: &BenchReport,
    after: &BenchReport,
    threshold: f64,
    alpha: f64,
) -> Result<Comparison, CompareError> {
    comparable(before, after)?;
    let (mut figures, mut gone, mut notes) = (Vec::new(), Vec::new(), Vec::new());
    for figure in &before.figures {
        let name = format!("{}, {} B", figure.name, figure.size);
        let Some(other) = after.figure(&figure.name, &figure.size) else {
            if figure.better == Better::Higher {
                gone.push(name);
            } else {
                notes.push(format!("only before: {name}"));
            }
            continue;
        };
        let fewest = figure.repeats.len().min(other.repeats.len());
        if fewest < FEWEST {
            notes.push(format!("left out: {name}: {fewest} repeats say nothing of the noise"));
            continue;
        }
        figures.push(difference(figure, other, threshold, alpha));
    }
    if figures.is_empty() && gone.is_empty() {
        let why = notes.first().cloned().unwrap_or("they have no figure in common".into());
        let what = format!("{why}; measure both with --repeats {FEWEST} or more");
        return Err(CompareError::Incomparable(what));
    }
    for (name, before, after) in [
        ("machine", before.host.cpu.as_str(), after.host.cpu.as_str()),
        ("kernel", &before.host.kernel, &after.host.kernel),
        ("sender", &before.sender, &after.sender),
        ("receiver", &before.receiver, &after.receiver),
    ] {
        if before != after {
            notes.push(format!("{name}: `{before}` before, `{after}` after"));
        }
    }
    Ok(Comparison { figures, gone, notes })
}

impl Comparison {
    /// 1 where a figure is worse beyond noise, or gone; else 0.
    pub fn exit_code(&self) -> u8 {
        let worse = self.figures.iter().any(|figure| figure.verdict == Verdict::Worse);
        u8::from(worse || !self.gone.is_empty())
    }

    /// In the form asked for.
    ///
    /// # Errors
    /// What making JSON gives.
    pub fn to_text(&self, form: Form) -> Result<String, serde_json::Error> {
        match form {
            Form::Json => Ok(serde_json::to_string_pretty(self)? + "\n"),
            Form::Csv => Ok(self.csv()),
            Form::Table => Ok(self.table()),
        }
    }

    fn csv(&self) -> String {
        let mut csv = String::from("figure,frame,unit,before,after,change,p,rule,verdict\n");
        for figure in &self.figures {
            let change = figure.change.map_or(String::new(), |change| change.to_string());
            csv.push_str(&format!(
                "\"{}\",{},{},{},{},{change},{},{},{}\n",
                figure.name.replace('"', "\"\""),
                figure.size,
                figure.unit,
                figure.before,
                figure.after,
                figure.p,
                figure.rule,
                figure.verdict.word()
            ));
        }
        csv
    }

    fn table(&self) -> String {
        let mut text = String::new();
        for figure in &self.figures {
            let change = figure.change.map_or("-".into(), |change| format!("{:+.2} %", change * 100.0));
            text.push_str(&format!(
                "{:<7} {change:>10}  {}, {} B: {:.6} -> {:.6} {} (p = {:.3}, {})\n",
                figure.verdict.word(),
                figure.name,
                figure.size,
                figure.before,
                figure.after,
                figure.unit,
                figure.p,
                figure.rule
            ));
        }
        for gone in &self.gone {
            text.push_str(&format!("gone    {:>10}  {gone}: reached before, not reached now\n", "-"));
        }
        for note in &self.notes {
            text.push_str(&format!("note: {note}\n"));
        }
        text
    }
}

impl Verdict {
    fn word(self) -> &'static str {
        match self {
            Verdict::Better => "better",
            Verdict::Worse => "worse",
            Verdict::Same => "same",
        }
    }
}

fn read(path: &Path) -> Result<BenchReport, CompareError> {
    let failed = |reason: String| CompareError::File { file: path.to_owned(), reason };
    let text = fs::read_to_string(path).map_err(|error| failed(error.to_string()))?;
    let value: serde_json::Value =
        serde_json::from_str(&text).map_err(|error| failed(format!("not JSON: {error}")))?;
    match value.get("schema").and_then(serde_json::Value::as_str) {
        Some(SCHEMA) => serde_json::from_value(value).map_err(|error| failed(error.to_string())),
        Some(other) => Err(failed(format!("its schema is `{other}`; compare takes `{SCHEMA}`"))),
        None => Err(failed(format!("it has no schema; compare takes `{SCHEMA}`"))),
    }
}

fn comparable(before: &BenchReport, after: &BenchReport) -> Result<(), CompareError> {
    let refuse = |what: String| Err(CompareError::Incomparable(what));
    if before.schema != after.schema {
        return refuse(format!("schema: `{}` against `{}`", before.schema, after.schema));
    }
    if before.command != after.command {
        return refuse(format!("command: {} against {}", before.command, after.command));
    }
    for (name, report) in [("first", before), ("second", after)] {
        if report.interrupted {
            return refuse(format!("the {name} one was interrupted"));
        }
    }
    let keys: BTreeSet<&String> = before.settings.keys().chain(after.settings.keys()).collect();
    for key in keys.into_iter().filter(|key| !MAY_DIFFER.contains(&key.as_str())) {
        let of = |report: &BenchReport| report.settings.get(key).map_or("not set", String::as_str).to_owned();
        let (before, after) = (of(before), of(after));
        if before != after {
            return refuse(format!("{key}: {before} against {after}"));
        }
    }
    for figure in before.figures.iter().chain(&after.figures) {
        if let Some(value) = figure.repeats.iter().find(|value| !value.is_finite()) {
            return refuse(format!("{}, {} B: {value} is no figure", figure.name, figure.size));
        }
    }
    Ok(())
}

fn difference(before: &Figure, after: &Figure, threshold: f64, alpha: f64) -> Difference {
    let p = rank_sum_p(&before.repeats, &after.repeats);
    let apart = (after.median - before.median).abs();
    let beyond = apart > threshold * before.median.abs().max(after.median.abs());
    let testable = least_rank_sum_p(before.repeats.len(), after.repeats.len()) <= alpha;
    let (rule, differs) = if testable {
        ("rank-sum", p <= alpha)
    } else {
        let disjoint = before.max < after.min || after.max < before.min;
        let range = (before.max - before.min).max(after.max - after.min);
        ("ranges", disjoint && apart > range)
    };
    let improved = (after.median > before.median) == (before.better == Better::Higher);
    let verdict = match (differs && beyond, improved) {
        (false, _) => Verdict::Same,
        (true, true) => Verdict::Better,
        (true, false) => Verdict::Worse,
    };
    Difference {
        name: before.name.clone(),
        size: before.size.clone(),
        unit: before.unit.clone(),
        before: before.median,
        after: after.median,
        change: (before.median != 0.0).then(|| after.median / before.median - 1.0),
        p,
        rule,
        verdict,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn report(better: Better, repeats: &[f64]) -> BenchReport {
        let mut report = BenchReport::new("search");
        report.settings.insert("traffic.flows".into(), "64".into());
        let mut figure = Figure::new("NDR", "64", "packets/s", better, repeats[0]);
        repeats[1..].iter().for_each(|value| figure.push(*value));
        report.figures.push(figure);
        report
    }

    fn verdict(better: Better, before: &[f64], after: &[f64]) -> (Verdict, &'static str, u8) {
        let comparison = compare(&report(better, before), &report(better, after), 0.01, 0.05).unwrap();
        (comparison.figures[0].verdict, comparison.figures[0].rule, comparison.exit_code())
    }

    #[test]
    fn rows_of_repeats_and_what_is_said_of_them() {
        use Better::{Higher, Lower};
        let noisy = [100.0, 103.0, 97.0, 101.0, 99.0];
        let lower = [90.0, 91.0, 89.0, 90.5, 92.0];
        let hair = [99.5, 99.4, 99.45, 99.42, 99.48];
        let fine = [100.0, 100.1, 100.05, 100.02, 100.08];
        assert_eq!(verdict(Higher, &noisy, &lower), (Verdict::Worse, "rank-sum", 1));
        assert_eq!(verdict(Lower, &noisy, &lower), (Verdict::Better, "rank-sum", 0));
        assert_eq!(verdict(Higher, &lower, &noisy), (Verdict::Better, "rank-sum", 0));
        assert_eq!(verdict(Higher, &noisy, &noisy), (Verdict::Same, "rank-sum", 0));
        assert_eq!(verdict(Higher, &fine, &hair), (Verdict::Same, "rank-sum", 0), "below the threshold");
        let three = [100.0, 101.0, 99.0];
        assert_eq!(verdict(Higher, &three, &[90.0, 91.0, 89.0]), (Verdict::Worse, "ranges", 1));
        assert_eq!(
            verdict(Higher, &three, &[98.0, 97.5, 98.5]),
            (Verdict::Same, "ranges", 0),
            "as wide as apart"
        );
        assert_eq!(verdict(Lower, &[0.0; 5], &[0.0; 5]), (Verdict::Same, "rank-sum", 0));
        assert_eq!(verdict(Lower, &[0.0; 5], &[1.0; 5]), (Verdict::Worse, "rank-sum", 1));
    }

    #[test]
    fn what_cannot_be_compared_is_refused_by_name() {
        let base = report(Better::Higher, &[1.0, 2.0, 3.0]);
        let refused = |change: &dyn Fn(&mut BenchReport)| {
            let mut other = base.clone();
            change(&mut other);
            compare(&base, &other, 0.01, 0.05).unwrap_err().to_string()
        };
        type Row<'a> = (&'a str, &'a dyn Fn(&mut BenchReport));
        let rows: [Row<'_>; 7] = [
            ("command: search against rfc2544", &|r| r.command = "rfc2544".into()),
            ("schema", &|r| r.schema = "pktgen.bench/2".into()),
            ("traffic.flows: 64 against 1000", &|r| {
                drop(r.settings.insert("traffic.flows".into(), "1000".into()))
            }),
            ("traffic.flows: 64 against not set", &|r| r.settings.clear()),
            ("interrupted", &|r| r.interrupted = true),
            ("NDR, 64 B: 1 repeats", &|r| r.figures = report(Better::Higher, &[1.0]).figures),
            ("NDR, 64 B: inf", &|r| r.figures[0].repeats[1] = f64::INFINITY),
        ];
        for (says, change) in rows {
            assert!(refused(change).contains(says), "{says}: {}", refused(change));
        }
        let mut gone = base.clone();
        gone.figures.clear();
        let comparison = compare(&base, &gone, 0.01, 0.05).unwrap();
        assert_eq!((comparison.gone.as_slice(), comparison.exit_code()), (&["NDR, 64 B".to_owned()][..], 1));
        assert!(compare(&gone, &gone, 0.01, 0.05).unwrap_err().to_string().contains("no figure in common"));
        let mut elsewhere = base.clone();
        elsewhere.settings.insert("traffic.dst-ip".into(), "10.0.0.9".into());
        elsewhere.host.kernel = "7.0".into();
        let comparison = compare(&base, &elsewhere, 0.01, 0.05).unwrap();
        assert!(comparison.notes.iter().any(|note| note.contains("7.0")));
    }

    #[test]
    fn files_that_are_no_reports_are_named() {
        let directory = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = directory.path().join(name);
            fs::write(&path, text).unwrap();
            path
        };
        let rows = [
            ("not.json", "pktgen", "not JSON"),
            ("other.json", "{\"schema\": \"pktgen.report/1\"}", "pktgen.report/1"),
            ("none.json", "[]", "no schema"),
            ("part.json", "{\"schema\": \"pktgen.bench/1\", \"command\": 3}", "part.json"),
        ];
        for (name, text, says) in rows {
            let error = read(&write(name, text)).unwrap_err().to_string();
            assert!(error.contains(says) && error.contains(name), "{error}");
        }
        assert!(read(&directory.path().join("nothing.json")).is_err());
    }

    proptest! {
        #[test]
        fn no_report_is_worse_than_itself_and_nothing_is_better_and_worse(
            before in proptest::collection::vec(0.0f64..1e6, 3..9), after in proptest::collection::vec(0.0f64..1e6, 3..9),
        ) {
            prop_assert_eq!(verdict(Better::Higher, &before, &before).0, Verdict::Same);
            let (there, back) = (verdict(Better::Higher, &before, &after).0, verdict(Better::Higher, &after, &before).0);
            let mirrored = match there {
                Verdict::Better => Verdict::Worse,
                Verdict::Worse => Verdict::Better,
                Verdict::Same => Verdict::Same,
            };
            prop_assert_eq!(back, mirrored);
        }

        #[test]
        fn no_file_is_too_strange(text in "\\PC{0,80}", bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            let directory = tempfile::tempdir().unwrap();
            for content in [text.into_bytes(), bytes] {
                let path = directory.path().join("report.json");
                fs::write(&path, content).unwrap();
                prop_assert!(read(&path).is_err());
            }
        }
    }
}
