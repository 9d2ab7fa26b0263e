//! [`BenchReport`]: what a command of many trials has found, with every trial behind it.
//!
//! The JSON object, whose `schema` changes when a field changes its meaning or goes (new fields may come):
//!
//! | field | what |
//! |---|---|
//! | `schema` | `"pktgen.bench/1"` |
//! | `command` | `"rfc2544"`, `"search"`, `"floor"`, `"certify"` |
//! | `node` | what is measured, in the words of `--node`; else null |
//! | `interrupted` | ended by a signal: the figures are of what was done until then |
//! | `started`, `ended` | UTC |
//! | `host` | [`Host`] |
//! | `command_line` | the words as given |
//! | `settings` | every option that shapes the measurement, with what it was in the end |
//! | `sender`, `receiver` | engines, and how they were attached |
//! | `floor` | [`FloorReport`], or null (`--no-floor`): what the instrument itself adds to latencies |
//! | `figures` | [`Figure`]s: each with all its repeats |
//! | `searches` | [`SearchRecord`]s: bounds, one a repeat and goal |
//! | `trials` | [`TrialRecord`]s, in the order made |
//! | `not_reached` | `{"what", "why"}` |
//! | `notes` | what the reader should know, in words |

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::host::Host;
use crate::mlr::{Ended, GoalResult};
use crate::report::LatencyReport;
use crate::stats::median_of;
use crate::trial::TrialRecord;

mod document;
mod files;
mod plots;

pub use document::{Document, Section, Table};

/// The value of the JSON field `schema`.
pub const SCHEMA: &str = "pktgen.bench/1";

/// What was found. The fields are the JSON's; see the module.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs)] // the table at the top of the module
pub struct BenchReport {
    pub schema: String,
    pub command: String,
    pub node: Option<String>,
    pub interrupted: bool,
    pub started: String,
    pub ended: String,
    pub host: Host,
    pub command_line: Vec<String>,
    pub settings: BTreeMap<String, String>,
    pub sender: String,
    pub receiver: String,
    pub floor: Option<FloorReport>,
    pub figures: Vec<Figure>,
    pub searches: Vec<SearchRecord>,
    pub trials: Vec<TrialRecord>,
    pub not_reached: Vec<NotReached>,
    pub notes: Vec<String>,
}

/// Which of two values of a figure is the better one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Better {
    /// The higher.
    Higher,
    /// The lower.
    Lower,
}

/// A figure with its repeats.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Figure {
    /// What it is.
    pub name: String,
    /// Frame size with FCS, or the mix.
    pub size: String,
    /// Its unit.
    pub unit: String,
    /// Which way is better.
    pub better: Better,
    /// Every repeat, in the order measured.
    pub repeats: Vec<f64>,
    /// Median of the repeats.
    pub median: f64,
    /// Lowest of the repeats.
    pub min: f64,
    /// Highest of the repeats.
    pub max: f64,
}

/// The bounds that one search has found for one goal.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SearchRecord {
    /// What it was for.
    pub test: String,
    /// Frame size with FCS, or the mix.
    pub size: String,
    /// Which repeat, from 1.
    pub repeat: u32,
    /// The goal, as `--goal` takes it.
    pub goal: String,
    /// Relevant lower bound in packets a second.
    pub lower: Option<u64>,
    /// Relevant upper bound in packets a second.
    pub upper: Option<u64>,
    /// Forwarding rate at the lower bound, at the goal's exceed quantile.
    pub conditional_throughput: Option<f64>,
    /// Why the search for this goal was over.
    pub ended: Ended,
    /// Who has lost most at the upper bound.
    pub upper_by: Option<Culprit>,
}

/// Who has lost the packets of a trial, for the most part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Culprit {
    /// The sender was behind its rate, or its packets never left: the device may carry more.
    Sender,
    /// The receiving end had no room: the device may carry more.
    Receiver,
    /// The device under test, as far as this program knows.
    Device,
}

/// What the instrument itself adds to a latency: a measurement with nothing between its ends.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FloorReport {
    /// Packets handed from the sender to the receiver in memory: stamping, writing, parsing, reading the clock.
    pub memory_ns: LatencyReport,
    /// The same engines over a bare veth pair; null where there could be none.
    pub veth_ns: Option<LatencyReport>,
    /// Why there is none, or what it was made of.
    pub veth: String,
    /// Packets a second in both.
    pub pps: f64,
}

/// Something asked for, and why it is not in the report.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NotReached {
    /// What.
    pub what: String,
    /// Why not.
    pub why: String,
}

impl BenchReport {
    /// A report of `command` with nothing in it yet, begun now on this machine.
    pub fn new(command: &str) -> Self {
        BenchReport {
            schema: SCHEMA.into(),
            command: command.into(),
            node: None,
            interrupted: false,
            started: crate::host::now(),
            ended: String::new(),
            host: Host::here(),
            command_line: Vec::new(),
            settings: BTreeMap::new(),
            sender: String::new(),
            receiver: String::new(),
            floor: None,
            figures: Vec::new(),
            searches: Vec::new(),
            trials: Vec::new(),
            not_reached: Vec::new(),
            notes: Vec::new(),
        }
    }

    /// Adds a note, once.
    pub fn note(&mut self, note: String) {
        if !self.notes.contains(&note) {
            self.notes.push(note);
        }
    }

    /// The figure of that name and size.
    pub fn figure(&self, name: &str, size: &str) -> Option<&Figure> {
        self.figures.iter().find(|figure| figure.name == name && figure.size == size)
    }
}

impl Figure {
    /// A figure with its first repeat.
    pub fn new(name: &str, size: &str, unit: &str, better: Better, value: f64) -> Self {
        Figure {
            name: name.into(),
            size: size.into(),
            unit: unit.into(),
            better,
            repeats: vec![value],
            median: value,
            min: value,
            max: value,
        }
    }

    /// Enters another repeat.
    pub fn push(&mut self, value: f64) {
        self.repeats.push(value);
        self.median = median_of(&self.repeats).unwrap_or(value);
        self.min = self.min.min(value);
        self.max = self.max.max(value);
    }
}

impl SearchRecord {
    /// The record of a goal's result; `trials` are those of the search.
    pub fn new(
        test: &str,
        size: impl ToString,
        repeat: u32,
        result: &GoalResult,
        trials: &[TrialRecord],
    ) -> Self {
        let upper_by = result.upper.and_then(|upper| {
            let at: Vec<_> = trials
                .iter()
                .filter(|trial| trial.load_pps == Some(upper as f64) && trial.loss_ratio() > result.goal.loss)
                .collect();
            (!at.is_empty()).then(|| Culprit::of(&at))
        });
        SearchRecord {
            test: test.into(),
            size: size.to_string(),
            repeat,
            goal: result.goal.to_string(),
            lower: result.lower,
            upper: result.upper,
            conditional_throughput: result.conditional_throughput,
            ended: result.ended,
            upper_by,
        }
    }
}

impl Culprit {
    fn of(trials: &[&TrialRecord]) -> Self {
        let sum = |of: fn(&TrialRecord) -> u64| trials.iter().map(|trial| of(trial)).sum::<u64>();
        let missing = sum(|trial| trial.asked.saturating_sub(trial.received));
        if 2 * sum(|trial| trial.forfeited + trial.lost_at_sender) > missing {
            Culprit::Sender
        } else if 2 * sum(|trial| trial.receiver_overflow) > missing {
            Culprit::Receiver
        } else {
            Culprit::Device
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::mlr::Goal;

    pub(crate) fn trial(test: &str, size: &str, load: u64, sent: u64, received: u64) -> TrialRecord {
        TrialRecord {
            test: test.into(),
            size: size.into(),
            load_pps: Some(load as f64),
            asked_seconds: Some(1.0),
            asked: load,
            sent,
            seconds: 1.0,
            sent_pps: sent as f64,
            forfeited: load - sent,
            received,
            lost: sent - received,
            lost_at_sender: 0,
            device_dropped: 0,
            receiver_overflow: 0,
            duplicates: 0,
            reordered: 0,
            latency_ns: None,
        }
    }

    #[test]
    fn a_figure_knows_its_median_and_range() {
        let mut figure = Figure::new("NDR", "64", "packets/s", Better::Higher, 10.0);
        figure.push(30.0);
        figure.push(20.0);
        assert_eq!((figure.median, figure.min, figure.max), (20.0, 10.0, 30.0));
        assert_eq!(figure.repeats, [10.0, 30.0, 20.0]);
    }

    #[test]
    fn an_upper_bound_says_whose_it_is() {
        let result = GoalResult {
            goal: Goal::ndr(),
            lower: Some(500),
            upper: Some(1000),
            conditional_throughput: Some(500.0),
            ended: Ended::Width,
        };
        let of = |trials: &[TrialRecord]| SearchRecord::new("search", 64, 1, &result, trials).upper_by;
        assert_eq!(of(&[trial("t", "64", 1000, 1000, 900)]), Some(Culprit::Device));
        assert_eq!(of(&[trial("t", "64", 1000, 700, 690)]), Some(Culprit::Sender));
        let overflow = TrialRecord { receiver_overflow: 90, ..trial("t", "64", 1000, 1000, 900) };
        assert_eq!(of(&[overflow]), Some(Culprit::Receiver));
        assert_eq!(of(&[trial("t", "64", 900, 900, 100)]), None, "no trial at the upper bound");
    }

    #[test]
    fn a_report_is_read_as_it_was_written() {
        let mut report = BenchReport::new("search");
        report.figures.push(Figure::new("NDR", "imix", "packets/s", Better::Higher, 1.5));
        report.trials.push(trial("search NDR", "imix", 10, 10, 9));
        let text = serde_json::to_string(&report).unwrap();
        assert_eq!(serde_json::from_str::<BenchReport>(&text).unwrap(), report);
    }
}
