//! The one clock of all measurements: `CLOCK_MONOTONIC` of this machine.

use nix::time::{ClockId, clock_gettime};

/// Nanoseconds of `CLOCK_MONOTONIC`. The same in every process and network namespace of one machine, and in no
/// other machine: a latency is only meaningful where sender and receiver share the machine.
#[inline]
pub fn monotonic_ns() -> u64 {
    // The clock exists on every Linux; the call has no other way to fail.
    clock_gettime(ClockId::CLOCK_MONOTONIC)
        .map(|time| time.tv_sec() as u64 * 1_000_000_000 + time.tv_nsec() as u64)
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_runs_forward() {
        let before = monotonic_ns();
        std::thread::sleep(std::time::Duration::from_millis(2));
        assert!(monotonic_ns() >= before + 2_000_000);
    }
}
