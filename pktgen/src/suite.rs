//! [`Suite`]: trials towards figures. It knows the device only as something that makes trials, and the clock not at all.

use std::time::Duration;

use crate::check;
use crate::figures::{BenchReport, Better, Figure, NotReached, SearchRecord};
use crate::mix::SizeMix;
use crate::mlr::{Goal, GoalResult, Limits, Search, SearchError};
use crate::options::{BenchOptions, OptionsError, TrafficOptions};
use crate::rate::Rate;
use crate::run::Failure;
use crate::trial::{Amount, Device, TrialRecord, TrialSpec};

/// How long the sender's own highest rate is measured at most.
const PROBE: Duration = Duration::from_secs(1);

/// Frame sizes of RFC 2544, section 9.1, for Ethernet.
pub const RFC_2544_SIZES: [u16; 7] = [64, 128, 256, 512, 1024, 1280, 1518];

/// A device, and the report that its figures go to.
pub struct Suite<'a> {
    pub(crate) device: &'a mut dyn Device,
    /// What has been found so far.
    pub report: &'a mut BenchReport,
    pub(crate) options: &'a BenchOptions,
}

/// Loads for one frame size, in packets a second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Loads {
    /// The lowest.
    pub min: u64,
    /// The highest.
    pub max: u64,
}

impl<'a> Suite<'a> {
    /// Figures of `device` for `report`.
    pub fn new(device: &'a mut dyn Device, report: &'a mut BenchReport, options: &'a BenchOptions) -> Self {
        Suite { device, report, options }
    }

    /// The sizes asked for, if all can be sent; where none is asked for, those of `usual` that can be, and a word in the
    /// report about the others.
    ///
    /// # Errors
    /// [`OptionsError`] naming `--sizes`.
    pub fn sizes(&mut self, asked: &[SizeMix], usual: &[u16]) -> Result<Vec<SizeMix>, Failure> {
        let mut kept: Vec<SizeMix> = Vec::new();
        let usual = usual.iter().map(|size| SizeMix::one(*size));
        let explicit = !asked.is_empty();
        let candidates: Vec<SizeMix> = if explicit { asked.to_vec() } else { usual.collect() };
        for size in candidates {
            match self.sendable(&size) {
                _ if kept.contains(&size) => {
                    return Err(impossible("--sizes", format!("{size} is named twice")));
                }
                Ok(()) => kept.push(size),
                Err(why) if explicit => return Err(impossible("--sizes", why)),
                Err(why) => {
                    self.report.not_reached.push(NotReached { what: format!("frames of {size} bytes"), why })
                }
            }
        }
        if kept.is_empty() {
            return Err(impossible("--sizes", "none of the usual sizes can be sent".into()));
        }
        Ok(kept)
    }

    /// Whether frames of that size can be sent at all.
    fn sendable(&self, size: &SizeMix) -> Result<(), String> {
        let traffic = TrafficOptions { size: Some(size.clone()), ..self.options.traffic.clone() };
        let prepared = check::offline(&traffic).map_err(|error| match error {
            OptionsError::Impossible { why, .. } => why,
            error => error.to_string(),
        })?;
        match (prepared.sizes().last(), self.device.largest_frame()) {
            (Some(size), Some(largest)) if *size > largest => Err(format!(
                "frames of {size} bytes are longer than the {largest} that the sending device takes"
            )),
            _ => Ok(()),
        }
    }

    /// The loads for frames of `size`: the lowest as asked, the highest as asked or as fast as the sender can, which
    /// is measured.
    ///
    /// # Errors
    /// [`Failure`] where the lowest is not below the highest, or the trial fails.
    pub fn loads(&mut self, size: &SizeMix) -> Result<Loads, Failure> {
        let trials = &self.options.trials;
        let traffic = TrafficOptions { size: Some(size.clone()), ..self.options.traffic.clone() };
        let mean = check::offline(&traffic)?.mean_frame();
        let pps = |rate: Rate| rate.packets_per_second(mean, trials.link_speed.map(|speed| speed.0));
        let min = pps(trials.min_rate).map_err(OptionsError::from)?;
        let min =
            min.ok_or_else(|| impossible("--min-rate", "it must be a number".into()))?.ceil().max(1.0) as u64;
        let asked = trials.max_rate.map(pps).transpose().map_err(OptionsError::from)?.flatten();
        let max = match asked {
            Some(max) => max as u64,
            None => self.senders_own(size)?,
        };
        if min >= max {
            let why = format!(
                "{min} packets a second are not below the highest load of {max} for frames of {size} bytes"
            );
            return Err(impossible("--min-rate", why));
        }
        Ok(Loads { min, max })
    }

    /// As fast as the sender can send frames of `size`.
    fn senders_own(&mut self, size: &SizeMix) -> Result<u64, Failure> {
        let time = self.options.trials.length().min(PROBE);
        let record = self.measure("sender's own highest rate", size, None, Amount::Time(time))?;
        self.report.note(format!(
            "frames of {size} bytes: the highest load is the sender's own highest rate, {:.0} packets a second",
            record.sent_pps
        ));
        Ok(record.sent_pps as u64)
    }

    /// Makes a trial and keeps its record.
    ///
    /// # Errors
    /// As [`Device::measure`].
    pub fn measure(
        &mut self,
        test: &str,
        size: &SizeMix,
        rate: Option<f64>,
        amount: Amount,
    ) -> Result<TrialRecord, Failure> {
        let spec = TrialSpec { test: format!("{test}, {size} B"), size: Some(size.clone()), rate, amount };
        let record = self.device.measure(&spec)?;
        self.report.trials.push(record.clone());
        Ok(record)
    }

    /// Searches for `goals` between `loads` (MLRsearch), and keeps what was found.
    ///
    /// # Errors
    /// As [`measure`](Self::measure), and where a goal cannot be kept.
    pub fn search(
        &mut self,
        test: &str,
        size: &SizeMix,
        goals: &[Goal],
        loads: Loads,
        repeat: u32,
    ) -> Result<Vec<GoalResult>, Failure> {
        let limits = Limits { min: loads.min, max: loads.max, time: self.options.trials.time_limit };
        let mut search = Search::new(goals, limits).map_err(|error| match error {
            SearchError::Limits { .. } => impossible("--min-rate", error.to_string()),
            _ => impossible("--goal", error.to_string()),
        })?;
        let first = self.report.trials.len();
        while let Some(trial) = search.next() {
            let goal = search.working_on().unwrap_or(test).to_owned();
            let name = if goal == test { goal } else { format!("{test} {goal}") };
            let record = self.measure(&name, size, Some(trial.load as f64), Amount::Time(trial.duration))?;
            search.record(trial, record.outcome());
        }
        let results = search.results();
        let trials = self.report.trials.get(first..).unwrap_or_default();
        let records: Vec<_> =
            results.iter().map(|result| SearchRecord::new(test, size, repeat, result, trials)).collect();
        self.report.searches.extend(records);
        Ok(results)
    }

    /// Enters one repeat of a figure.
    pub fn figure(&mut self, name: &str, size: &SizeMix, unit: &str, better: Better, value: f64) {
        let size = size.to_string();
        let found = self.report.figures.iter_mut().find(|figure| figure.name == name && figure.size == size);
        match found {
            Some(figure) => figure.push(value),
            None => self.report.figures.push(Figure::new(name, &size, unit, better, value)),
        }
    }

    /// Says what was not reached, and why.
    pub fn not_reached(&mut self, what: String, why: String) {
        let entry = NotReached { what, why };
        if !self.report.not_reached.contains(&entry) {
            self.report.not_reached.push(entry);
        }
    }
}

pub(crate) fn impossible(flag: &'static str, why: String) -> Failure {
    OptionsError::Impossible { flag, why }.into()
}

/// Commands that go through frame sizes take `--sizes`: what `--size` says would be done by nobody.
pub(crate) fn no_size(options: &BenchOptions) -> Result<(), Failure> {
    match &options.traffic.size {
        Some(size) => Err(impossible("--size", format!("this command takes --sizes {size}"))),
        None => Ok(()),
    }
}
