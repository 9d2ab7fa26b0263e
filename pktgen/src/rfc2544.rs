//! The tests of RFC 2544: throughput (section 26.1), latency (26.2), frame loss rate (26.3) and back-to-back frames
//! (26.4, with RFC 9004's corrected buffer time), each for one frame size.
//!
//! Throughput is found by MLRsearch with the goal that RFC 9971 calls compliant with RFC 2544, so that there is one
//! search in this program. What differs from the RFC by default is said in docs/pktgen.md.

use std::time::Duration;

use crate::figures::Better;
use crate::mix::SizeMix;
use crate::mlr::{Ended, Goal};
use crate::options::{Rfc2544Options, Test};
use crate::run::Failure;
use crate::suite::{Loads, RFC_2544_SIZES, Suite, no_size};
use crate::trial::Amount;

/// Repeats where none are asked for: RFC 2544's for latency ("at least 20") and back-to-back ("at least 50").
const LATENCY_REPEATS: u32 = 20;
const BACK_TO_BACK_REPEATS: u32 = 50;

/// Makes the tests that are asked for, size by size.
///
/// # Errors
/// [`Failure`] where the options are impossible, an end fails, or a signal comes; the report has what was found before.
pub fn run(suite: &mut Suite<'_>, options: &Rfc2544Options) -> Result<(), Failure> {
    no_size(&options.bench)?;
    let sizes = suite.sizes(&options.sizes, &RFC_2544_SIZES)?;
    let wanted = |test| options.test.contains(&test) || options.test.contains(&Test::All);
    let repeats = |usual: u32| options.bench.trials.repeats.unwrap_or(usual);
    for size in &sizes {
        let loads = suite.loads(size)?;
        let throughput = if wanted(Test::Throughput) || wanted(Test::Latency) {
            suite.throughput(size, loads, repeats(1))?
        } else {
            None
        };
        if wanted(Test::Latency) {
            suite.latency(size, throughput, repeats(LATENCY_REPEATS))?;
        }
        if wanted(Test::Loss) {
            suite.loss(size, loads, options.loss_step, repeats(1))?;
        }
        if wanted(Test::BackToBack) {
            suite.back_to_back(size, loads, throughput, options.burst, repeats(BACK_TO_BACK_REPEATS))?;
        }
    }
    Ok(())
}

impl Suite<'_> {
    /// Section 26.1: the highest rate at which nothing is lost; the median of the repeats, `None` where there is none.
    ///
    /// # Errors
    /// As [`run`].
    pub fn throughput(&mut self, size: &SizeMix, loads: Loads, repeats: u32) -> Result<Option<f64>, Failure> {
        let trials = &self.options.trials;
        let goal = Goal::rfc2544(trials.length(), trials.near());
        let mut found = Vec::new();
        for repeat in 1..=repeats {
            let result = self.search("throughput", size, std::slice::from_ref(&goal), loads, repeat)?;
            let Some(result) = result.first() else { continue };
            let Some(rate) = result.lower else {
                let why = format!("even {} packets a second lose some", loads.min);
                self.not_reached(format!("throughput, {size} bytes"), why);
                continue;
            };
            if result.ended == Ended::Time {
                let why = "--time-limit was over before the bounds were close enough".into();
                self.not_reached(format!("throughput to the resolution, {size} bytes"), why);
            }
            found.push(rate as f64);
            self.figure("throughput", size, "packets/s", Better::Higher, rate as f64);
        }
        Ok(crate::stats::median_of(&found))
    }

    /// Section 26.2: latency at the throughput.
    ///
    /// # Errors
    /// As [`run`].
    pub fn latency(&mut self, size: &SizeMix, rate: Option<f64>, repeats: u32) -> Result<(), Failure> {
        let Some(rate) = rate else {
            let why = "there is no throughput to take it at".into();
            self.not_reached(format!("latency, {size} bytes"), why);
            return Ok(());
        };
        self.latency_at("throughput", size, rate, repeats)
    }

    /// Latency at a rate, which is called `at` in the figures' names.
    ///
    /// # Errors
    /// As [`run`].
    pub fn latency_at(&mut self, at: &str, size: &SizeMix, rate: f64, repeats: u32) -> Result<(), Failure> {
        let amount = Amount::Time(self.options.trials.length());
        for _ in 0..repeats {
            let record = self.measure(&format!("latency at {at}"), size, Some(rate.max(1.0)), amount)?;
            let Some(latency) = &record.latency_ns else {
                let why = "nothing arrived".into();
                self.not_reached(format!("latency at {at}, {size} bytes"), why);
                continue;
            };
            let figures = [("p50", latency.p50), ("p99", latency.p99), ("p99.9", latency.p99_9)];
            for (name, value) in figures {
                let name = format!("latency {name} at {at}");
                self.figure(&name, size, "ns", Better::Lower, value as f64);
            }
        }
        Ok(())
    }

    /// Section 26.3: loss from the highest rate down, until two rates in a row lose nothing.
    ///
    /// # Errors
    /// As [`run`].
    pub fn loss(&mut self, size: &SizeMix, loads: Loads, step: f64, repeats: u32) -> Result<(), Failure> {
        let amount = Amount::Time(self.options.trials.length());
        for _ in 0..repeats {
            let mut without = 0;
            for number in 0.. {
                let share = 1.0 - step * f64::from(number);
                let load = (loads.max as f64 * share).round();
                // A share of zero may come out as a hair above it.
                if without == 2 || share < step * 1e-6 || load < loads.min as f64 {
                    break;
                }
                let record = self.measure("loss", size, Some(load), amount)?;
                without = if record.asked == record.received { without + 1 } else { 0 };
                let name = format!("loss at {}% of the highest load", round(share * 100.0));
                self.figure(&name, size, "%", Better::Lower, record.loss_ratio() * 100.0);
            }
        }
        Ok(())
    }

    /// Section 26.4: the longest burst, as fast as the sender can, of which nothing is lost. With the throughput known,
    /// also RFC 9004's corrected buffer time: the burst's time less what the device forwards of it meanwhile.
    ///
    /// # Errors
    /// As [`run`].
    pub fn back_to_back(
        &mut self,
        size: &SizeMix,
        loads: Loads,
        throughput: Option<f64>,
        longest: Duration,
        repeats: u32,
    ) -> Result<(), Failure> {
        let most = ((loads.max as f64 * longest.as_secs_f64()) as u64).max(2);
        for _ in 0..repeats {
            let (frames, pps) = self.longest_burst(size, most)?;
            self.figure("back-to-back", size, "frames", Better::Higher, frames as f64);
            if frames >= most {
                let why =
                    format!("bursts of {most} frames, {longest:?} at the highest load, lose nothing yet");
                self.not_reached(format!("the longest burst, {size} bytes"), why);
            } else if let Some(throughput) = throughput.filter(|throughput| pps > *throughput) {
                let seconds = frames as f64 / pps * (1.0 - throughput / pps);
                self.figure("corrected buffer time", size, "s", Better::Higher, seconds);
            }
        }
        Ok(())
    }

    /// Halves between a burst that loses nothing and one that does, to the resolution; gives its frames, and the rate
    /// at which it was sent.
    fn longest_burst(&mut self, size: &SizeMix, most: u64) -> Result<(u64, f64), Failure> {
        let (mut good, mut bad, mut pps) = (0, most + 1, 0.0);
        let mut frames = most;
        loop {
            let record = self.measure("back-to-back", size, None, Amount::Packets(frames))?;
            if record.lost == 0 {
                good = frames;
                pps = record.sent_pps;
            } else {
                bad = frames;
            }
            if good == most || bad - good <= ((bad as f64 * self.options.trials.near()) as u64).max(1) {
                return Ok((good, pps));
            }
            frames = good + (bad - good) / 2;
        }
    }
}

/// A percentage without what floating point adds to it.
fn round(percent: f64) -> f64 {
    (percent * 100.0).round() / 100.0
}
