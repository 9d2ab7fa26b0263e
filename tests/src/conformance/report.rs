//! What came of cases: a table of them, and each failure in words.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

use comfy_table::{Cell, CellAlignment, Table, presets};

use super::case::Case;

/// What came of one case.
#[derive(Debug, Clone, Default)]
pub struct Outcome {
    /// The case's name.
    pub case: String,
    /// Flows asked, and refusals.
    pub probes: usize,
    /// Flows that cannot be asked this way, and why in `notes`.
    pub left_out: usize,
    /// Each probe that met something else, in words.
    pub failures: Vec<String>,
    /// Why it was not run.
    pub pending: Option<String>,
    /// What is to be known.
    pub notes: Vec<String>,
    /// How long it took.
    pub took: Duration,
}

impl Outcome {
    /// Of a case of which nothing has been asked yet.
    pub fn of(case: &Case) -> Self {
        Outcome {
            case: case.name.clone(),
            pending: case.pending.clone(),
            notes: case.notes.clone(),
            ..Outcome::default()
        }
    }

    /// Whether it was run, and every probe met what it should.
    pub fn passed(&self) -> bool {
        self.failures.is_empty() && self.pending.is_none() && self.probes > 0
    }

    /// Whether none of its probes can be asked this way: neither passed nor failed.
    pub fn is_left_out(&self) -> bool {
        self.failures.is_empty() && self.pending.is_none() && self.probes == 0 && self.left_out > 0
    }

    /// `pass`, `pending`, or how many probes failed.
    fn word(&self) -> String {
        match (&self.pending, self.failures.len()) {
            (Some(_), _) => "pending".to_owned(),
            (None, 0) if self.is_left_out() => "left out".to_owned(),
            (None, 0) if self.probes == 0 => "FAIL (asks nothing)".to_owned(),
            (None, 0) => "pass".to_owned(),
            (None, failed) => format!("FAIL ({failed})"),
        }
    }
}

/// The sums of a run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sums {
    /// Cases that passed.
    pub passed: usize,
    /// Cases of which a probe failed, or that ask nothing.
    pub failed: usize,
    /// Cases none of whose probes can be asked this way.
    pub cases_left_out: usize,
    /// Cases not run, because a kind of object is not used yet.
    pub pending: usize,
    /// Probes asked.
    pub probes: usize,
    /// Probes that cannot be asked this way.
    pub left_out: usize,
}

/// Adds up.
pub fn sums(outcomes: &[Outcome]) -> Sums {
    let mut sums = Sums::default();
    for outcome in outcomes {
        sums.passed += usize::from(outcome.passed());
        sums.pending += usize::from(outcome.pending.is_some());
        sums.cases_left_out += usize::from(outcome.is_left_out());
        let settled = outcome.passed() || outcome.is_left_out() || outcome.pending.is_some();
        sums.failed += usize::from(!settled);
        sums.probes += outcome.probes;
        sums.left_out += outcome.left_out;
    }
    sums
}

/// The table, then what failed and what is to be known, then the sums.
pub fn print(outcomes: &[Outcome], how: &str) -> String {
    let mut out = table(outcomes);
    let mut notes = BTreeMap::<&String, Vec<&str>>::new();
    for outcome in outcomes {
        for note in outcome.pending.iter().chain(&outcome.notes) {
            notes.entry(note).or_default().push(&outcome.case);
        }
    }
    // Writing to a string cannot fail.
    for (note, cases) in notes {
        let _ = writeln!(out, "note: {note} ({})", cases.join(", "));
    }
    for outcome in outcomes {
        for failure in &outcome.failures {
            let _ = writeln!(out, "FAILED: {}: {failure}", outcome.case);
        }
    }
    let Sums { passed, failed, cases_left_out, pending, probes, left_out } = sums(outcomes);
    let took: f64 = outcomes.iter().map(|outcome| outcome.took.as_secs_f64()).sum();
    let _ = write!(
        out,
        "{how}: {} cases: {passed} passed, {failed} failed, {pending} pending, {cases_left_out} left out; {probes} probes, {left_out} left out; {took:.1} s",
        outcomes.len()
    );
    out
}

fn table(outcomes: &[Outcome]) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_header(["case", "probes", "left out", "ms", "result"]);
    for outcome in outcomes {
        let number = |value: usize| Cell::new(value).set_alignment(CellAlignment::Right);
        let ms = usize::try_from(outcome.took.as_millis()).unwrap_or(usize::MAX);
        table.add_row([
            Cell::new(&outcome.case),
            number(outcome.probes),
            number(outcome.left_out),
            number(ms),
            Cell::new(outcome.word()),
        ]);
    }
    let lines: Vec<String> = table.lines().map(|line| line.trim_end().to_owned()).collect();
    lines.join("\n") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_case_passes_only_where_something_was_asked_and_nothing_failed() {
        let good = Outcome { case: "good".into(), probes: 3, ..Outcome::default() };
        let bad =
            Outcome { case: "bad".into(), probes: 3, failures: vec!["no".into()], ..Outcome::default() };
        let waits = Outcome { case: "waits".into(), pending: Some("a kind".into()), ..Outcome::default() };
        let empty = Outcome { case: "empty".into(), ..Outcome::default() };
        let other = Outcome { case: "other".into(), left_out: 2, ..Outcome::default() };
        assert!(good.passed() && !bad.passed() && !waits.passed() && !empty.passed() && !other.passed());
        let outcomes = [good, bad, waits, empty, other];
        let expected = Sums { passed: 1, failed: 2, cases_left_out: 1, pending: 1, probes: 6, left_out: 2 };
        assert_eq!(sums(&outcomes), expected);
        let printed = print(&outcomes, "offline");
        for part in [
            "FAIL (1)",
            "FAIL (asks nothing)",
            "note: a kind (waits)",
            "FAILED: bad: no",
            "offline: 5 cases: 1 passed, 2 failed, 1 pending, 1 left out; 6 probes, 2 left out",
        ] {
            assert!(printed.contains(part), "{part:?} is not in\n{printed}");
        }
    }
}
