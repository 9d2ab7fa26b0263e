//! What the machine does while a party is measured: whether it is as fast as a moment ago, and whose its CPUs are.
//!
//! A figure that changes from round to round is the party's only where none of this does.

use std::fmt;
use std::hint::black_box;
use std::time::Instant;

use anyhow::{Context, Result};
use serde::Serialize;

/// Steps of the fixed piece of work: some milliseconds.
const STEPS: u64 = 4_000_000;
/// Whose CPU time is the measurement's, by the beginning of a process's name: parties, generator, the kernel's receivers.
const OURS: [&str; 6] = ["penstockd", "pktgen", "dpdk-testpmd", "ovs-vswitchd", "napi/", "ksoftirqd/"];

/// A moment.
pub(super) struct Machine {
    cpus: Cpus,
    /// Ticks of the measurement's processes.
    ours: u64,
    step_ns: f64,
}

/// The time since a moment.
#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct Meanwhile {
    /// Of 100 ticks of all CPUs, those that the host gave to somebody else.
    pub(super) steal_percent: f64,
    /// The same for processes that have nothing to do with the measurement.
    pub(super) others_percent: f64,
    /// Nanoseconds for a step of a fixed piece of work just before: arithmetic alone, so where it changes, the processor's
    /// clock has.
    pub(super) step_ns: f64,
}

/// Ticks of all CPUs since the machine started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Cpus {
    all: u64,
    busy: u64,
    stolen: u64,
}

impl Machine {
    /// This moment, and a [step](step_ns) taken before the load.
    pub(super) fn now(step_ns: f64) -> Result<Self> {
        Ok(Machine { cpus: cpus()?, ours: ours()?, step_ns })
    }

    /// What has been since. To be asked while the measurement's processes still run: their time goes with them.
    pub(super) fn since(&self) -> Result<Meanwhile> {
        let (cpus, ours) = (cpus()?, ours()?.saturating_sub(self.ours));
        let percent =
            |ticks: u64| ticks as f64 / cpus.all.saturating_sub(self.cpus.all).max(1) as f64 * 100.0;
        Ok(Meanwhile {
            steal_percent: percent(cpus.stolen - self.cpus.stolen),
            others_percent: percent((cpus.busy - self.cpus.busy).saturating_sub(ours)),
            step_ns: self.step_ns,
        })
    }
}

/// Nanoseconds for a step of a fixed piece of work, a chain of multiplications, each waiting for the one before.
pub(super) fn step_ns() -> f64 {
    let began = Instant::now();
    let mut value = 1_u64;
    for step in 0..STEPS {
        value = black_box(value.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ step);
    }
    black_box(value);
    began.elapsed().as_nanos() as f64 / STEPS as f64
}

/// The processor's name.
pub(super) fn model() -> Result<String> {
    let text = std::fs::read_to_string("/proc/cpuinfo")?;
    let line = text.lines().find(|line| line.starts_with("model name"));
    Ok(line.and_then(|line| line.split_once(": ")).map_or("unknown processor", |(_, name)| name).to_owned())
}

impl fmt::Display for Meanwhile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "others {:.0} %, stolen {:.1} %, a step {:.2} ns",
            self.others_percent, self.steal_percent, self.step_ns
        )
    }
}

fn cpus() -> Result<Cpus> {
    let text = std::fs::read_to_string("/proc/stat")?;
    parse_cpus(&text).context("/proc/stat without a line for all CPUs")
}

fn parse_cpus(text: &str) -> Option<Cpus> {
    let line = text.lines().next()?.strip_prefix("cpu ")?;
    // user nice system idle iowait irq softirq steal; what follows is counted in user already.
    let ticks: Vec<u64> = line.split_whitespace().take(8).map(str::parse).collect::<Result<_, _>>().ok()?;
    let (all, stolen) = (ticks.iter().sum::<u64>(), *ticks.get(7)?);
    Some(Cpus { all, stolen, busy: all - stolen - ticks.get(3)? - ticks.get(4)? })
}

/// Ticks of the measurement's processes that there are now.
fn ours() -> Result<u64> {
    let mut ticks = 0;
    for entry in std::fs::read_dir("/proc")? {
        let path = entry?.path().join("stat");
        // Other entries have no such file, and processes end.
        let Ok(text) = std::fs::read_to_string(path) else { continue };
        ticks += parse_process(&text)
            .filter(|(name, _)| OURS.iter().any(|our| name.starts_with(our)))
            .map_or(0, |(_, ticks)| ticks);
    }
    Ok(ticks)
}

/// Name and ticks, user's and kernel's, of a process's `stat`.
fn parse_process(text: &str) -> Option<(&str, u64)> {
    // The name may have anything in it, parentheses too.
    let (name, rest) = (text.split_once('(')?.1, text.rsplit_once(')')?.1);
    let name = name.get(..name.rfind(')')?)?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    Some((name, fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_and_stolen_ticks_are_not_busy_and_guests_are_not_counted_twice() {
        let wanted = Cpus { all: 108, busy: 1 + 2 + 3 + 6 + 7, stolen: 80 };
        assert_eq!(parse_cpus("cpu  1 2 3 4 5 6 7 80 100 100\ncpu0 1"), Some(wanted));
        assert_eq!(parse_cpus("intr 1"), None);
        assert!(cpus().unwrap().busy > 0);
    }

    #[test]
    fn a_process_has_a_name_of_any_kind_and_ticks() {
        let text = "12 (a) b) c) S 1 2 3 4 5 6 7 8 9 10 100 23 0 0";
        assert_eq!(parse_process(text), Some(("a) b) c", 123)));
        assert_eq!(parse_process("12 (a"), None);
        assert_eq!(parse_process(") ("), None);
        let own = std::fs::read_to_string("/proc/self/stat").unwrap();
        assert!(parse_process(&own).is_some());
    }
}
