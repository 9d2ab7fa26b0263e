//! The commands of many trials: each measures the instrument itself, opens both ends, and lets its suite make trials for
//! a [`BenchReport`]. What was found before a failure or a signal is not lost.

use std::collections::BTreeMap;
use std::fs;

use crate::bench::{Bench, as_run};
use crate::drive::Shared;
use crate::figures::BenchReport;
use crate::mix::SizeMix;
use crate::options::{BenchOptions, CertifyOptions, Rfc2544Options, SearchOptions};
use crate::progress::Status;
use crate::run::Failure;
use crate::suite::{Suite, impossible};
use crate::{certify, floor, rfc2544};

/// What a report says of how it came about.
#[derive(Debug, Clone, Default)]
pub struct Asked {
    /// The words of the command line.
    pub words: Vec<String>,
    /// The settings as they are in the end, of [`settings`](crate::profile::settings).
    pub settings: BTreeMap<String, String>,
}

/// What a command has come to.
#[derive(Debug)]
pub struct Ended {
    /// What was found.
    pub report: BenchReport,
    /// Why it ended early, where it did.
    pub failure: Option<Failure>,
}

/// `pktgen rfc2544`.
///
/// # Errors
/// [`Failure`] where nothing was measured.
pub fn rfc2544(options: &Rfc2544Options, asked: Asked, shared: &Shared) -> Result<Ended, Failure> {
    suite("rfc2544", &options.bench, asked, shared, |suite| rfc2544::run(suite, options))
}

/// `pktgen search`.
///
/// # Errors
/// As [`rfc2544()`].
pub fn search(options: &SearchOptions, mut asked: Asked, shared: &Shared) -> Result<Ended, Failure> {
    if let (Some(_), false) = (options.bench.trials.resolution, options.goal.is_empty()) {
        return Err(impossible("--resolution", "with --goal the goals say it: width=1%".into()));
    }
    let goals = options.goals();
    let texts: Vec<String> = goals.iter().map(ToString::to_string).collect();
    asked.settings.insert("search.goal".into(), texts.join(" "));
    let size = options.bench.traffic.size.clone().unwrap_or_default();
    suite("search", &options.bench, asked, shared, |suite| search_one(suite, &size, options, &goals))
}

fn search_one(
    suite: &mut Suite<'_>,
    size: &SizeMix,
    options: &SearchOptions,
    goals: &[crate::mlr::Goal],
) -> Result<(), Failure> {
    suite.goals(size, goals, options.bench.trials.repeats.unwrap_or(1)).map(drop)
}

/// `pktgen certify`.
///
/// # Errors
/// As [`rfc2544()`].
pub fn certify(options: &CertifyOptions, asked: Asked, shared: &Shared) -> Result<Ended, Failure> {
    let options = certify::filled(options.clone());
    suite("certify", &options.bench, asked, shared, |suite| certify::run(suite, &options))
}

fn suite(
    command: &str,
    options: &BenchOptions,
    asked: Asked,
    shared: &Shared,
    work: impl FnOnce(&mut Suite<'_>) -> Result<(), Failure>,
) -> Result<Ended, Failure> {
    let mut report = BenchReport::new(command);
    report.command_line = asked.words;
    report.settings = asked.settings;
    let trials = &options.trials;
    report.settings.insert("trials.trial".into(), format!("{:?}", trials.length()));
    let run = as_run(options);
    crate::check::run(&run)?;
    if let Some(directory) = &options.output.report {
        // Hours of measuring must not end at a directory that cannot be made.
        fs::create_dir_all(directory).map_err(|error| Failure::File {
            file: directory.display().to_string(),
            reason: error.to_string(),
        })?;
    }
    let status = Status::default();
    if !options.output.no_floor {
        report.floor = Some(floor::measure(&run, shared, &status)?);
    }
    let result = Bench::with(&run, trials.pause, shared, &status, |bench| {
        report.sender.clone_from(&bench.attached().sender);
        report.receiver.clone_from(&bench.attached().receiver);
        work(&mut Suite::new(bench, &mut report, options))
    });
    report.ended = crate::host::now();
    match result {
        Ok(()) => Ok(Ended { report, failure: None }),
        Err(failure) if report.trials.is_empty() => Err(failure),
        Err(failure) => {
            report.interrupted = matches!(failure, Failure::Interrupted);
            if !report.interrupted {
                report.note(format!("ended early: {failure}"));
            }
            Ok(Ended { report, failure: Some(failure) })
        }
    }
}
