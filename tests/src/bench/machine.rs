//! What the machine does while a party is measured: whether it is as fast as a moment ago, and whose its CPUs are.

use std::fmt;
use std::hint::black_box;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde::Serialize;

/// Steps of the fixed piece of work: some milliseconds.
const STEPS: u64 = 4_000_000;

/// A moment.
pub(super) struct Machine {
    /// Ticks of all CPUs that the host gave to somebody else, and all ticks.
    steal: (u64, u64),
    work: Duration,
}

/// The time since a moment.
#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct Meanwhile {
    /// Of 100 ticks of all CPUs, those that the host gave to somebody else.
    pub(super) steal_percent: f64,
    /// Nanoseconds for a step of a fixed piece of work just before: it has no business with packets, so where it changes,
    /// the machine has.
    pub(super) step_ns: f64,
}

impl Machine {
    /// This moment. Takes some milliseconds.
    pub(super) fn now() -> Result<Self> {
        let work = work();
        Ok(Machine { steal: ticks()?, work })
    }

    /// What has been since.
    pub(super) fn since(&self) -> Result<Meanwhile> {
        let (stolen, all) = ticks()?;
        let (stolen, all) = (stolen - self.steal.0, (all - self.steal.1).max(1));
        Ok(Meanwhile {
            steal_percent: stolen as f64 / all as f64 * 100.0,
            step_ns: self.work.as_nanos() as f64 / STEPS as f64,
        })
    }
}

/// The processor's name.
pub(super) fn model() -> Result<String> {
    let text = std::fs::read_to_string("/proc/cpuinfo")?;
    let line = text.lines().find(|line| line.starts_with("model name"));
    Ok(line.and_then(|line| line.split_once(": ")).map_or("unknown processor", |(_, name)| name).to_owned())
}

impl fmt::Display for Meanwhile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a step {:.2} ns, {:.1} % stolen", self.step_ns, self.steal_percent)
    }
}

/// A chain of multiplications, each waiting for the one before.
fn work() -> Duration {
    let began = Instant::now();
    let mut value = 1_u64;
    for step in 0..STEPS {
        value = black_box(value.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ step);
    }
    black_box(value);
    began.elapsed()
}

fn ticks() -> Result<(u64, u64)> {
    let text = std::fs::read_to_string("/proc/stat")?;
    parse(&text).context("/proc/stat without a line for all CPUs")
}

fn parse(text: &str) -> Option<(u64, u64)> {
    let line = text.lines().next()?.strip_prefix("cpu ")?;
    // user nice system idle iowait irq softirq steal; what follows is counted in user already.
    let ticks: Vec<u64> = line.split_whitespace().take(8).map(str::parse).collect::<Result<_, _>>().ok()?;
    Some((*ticks.get(7)?, ticks.iter().sum()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stolen_ticks_are_the_eighth_and_guests_are_not_counted_twice() {
        assert_eq!(parse("cpu  1 2 3 4 5 6 7 80 100 100\ncpu0 1"), Some((80, 108)));
        assert_eq!(parse("intr 1"), None);
        assert!(ticks().unwrap().1 > 0);
    }
}
