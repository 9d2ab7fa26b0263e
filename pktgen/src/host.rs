//! [`Host`]: the machine that figures are of, as its kernel describes it.

use std::fs;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// A machine. What it does not say is empty.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Host {
    /// The processor's name.
    pub cpu: String,
    /// Cores that this process may use.
    pub cores: usize,
    /// Memory in MiB.
    pub memory_mib: u64,
    /// Kernel release and version.
    pub kernel: String,
    /// Distribution.
    pub system: String,
    /// How the processor's clock is governed, where it says so.
    pub governor: String,
    /// Whether it is a virtual machine, as far as the processor says.
    pub virtual_machine: bool,
    /// Version of this program.
    pub pktgen: String,
}

impl Host {
    /// This machine.
    pub fn here() -> Self {
        let cpuinfo = read("/proc/cpuinfo");
        let memory = field(&read("/proc/meminfo"), "MemTotal");
        let kilobytes: u64 = memory.split_whitespace().next().and_then(|text| text.parse().ok()).unwrap_or(0);
        let os = read("/etc/os-release");
        let system = os.lines().find_map(|line| line.strip_prefix("PRETTY_NAME=")).unwrap_or_default();
        Host {
            cpu: field(&cpuinfo, "model name"),
            cores: crate::place::cores().len(),
            memory_mib: kilobytes / 1024,
            kernel: format!("{} {}", read("/proc/sys/kernel/osrelease"), read("/proc/sys/kernel/version")),
            system: system.trim_matches('"').to_owned(),
            governor: read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
            virtual_machine: field(&cpuinfo, "flags").split_whitespace().any(|flag| flag == "hypervisor"),
            pktgen: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }

    /// In one line.
    pub fn line(&self) -> String {
        let kind = if self.virtual_machine { "virtual machine, " } else { "" };
        let governor =
            if self.governor.is_empty() { String::new() } else { format!(", governor {}", self.governor) };
        format!(
            "{}, {} cores, {} MiB ({kind}{}{governor}), Linux {}, pktgen {}",
            self.cpu, self.cores, self.memory_mib, self.system, self.kernel, self.pktgen
        )
    }
}

/// The date and time now, in UTC, as `2026-11-25T08:16:43Z`.
pub fn now() -> String {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    date(seconds)
}

/// A Unix time in UTC (Howard Hinnant's `civil_from_days`).
fn date(seconds: u64) -> String {
    let (days, rest) = (seconds / 86_400 + 719_468, seconds % 86_400);
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (rest / 3600, rest / 60 % 60, rest % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

fn read(path: &str) -> String {
    // A machine that does not say is described without it.
    fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

fn field(text: &str, name: &str) -> String {
    let of = |line: &str| {
        let (key, value) = line.split_once(':')?;
        (key.trim() == name).then(|| value.trim().to_owned())
    };
    text.lines().find_map(of).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_date_u() {
        let rows = [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_764_058_603, "2025-11-25T08:16:43Z"),
            (4_107_542_399, "2100-02-28T23:59:59Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ];
        for (seconds, text) in rows {
            assert_eq!(date(seconds), text);
        }
    }

    #[test]
    fn this_machine_has_a_kernel_and_cores() {
        let host = Host::here();
        assert!(host.cores > 0 && host.memory_mib > 0 && !host.kernel.is_empty(), "{host:?}");
        assert!(host.line().contains(&host.kernel));
    }
}
