//! A line a second on standard error while a measurement runs.

use std::io::{self, Write};
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use crate::drive::Shared;
use crate::report::scaled;

/// How often the watcher looks whether it is over.
const LOOK: Duration = Duration::from_millis(20);

/// Waits until `finished`, and, where `shown`, writes a line a second.
pub fn watch(shared: &Shared, shown: bool, finished: impl Fn() -> bool) {
    let start = Instant::now();
    let (mut lines, mut before) = (0, (0, 0));
    while !finished() {
        thread::sleep(LOOK);
        let seconds = start.elapsed().as_secs();
        if shown && seconds > lines {
            let now = (shared.sent.load(Ordering::Relaxed), shared.received.load(Ordering::Relaxed));
            // Progress is a courtesy: a closed standard error does not end a measurement.
            let _ = writeln!(io::stderr(), "{}", line(seconds, seconds - lines, before, now));
            (lines, before) = (seconds, now);
        }
    }
}

fn line(seconds: u64, step: u64, before: (u64, u64), now: (u64, u64)) -> String {
    let rate = |now: u64, before: u64| scaled(now.saturating_sub(before) as f64 / step.max(1) as f64);
    format!(
        "[{seconds:>4} s] sent {} ({} pps)  received {} ({} pps)",
        now.0,
        rate(now.0, before.0),
        now.1,
        rate(now.1, before.1)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_totals_and_rates() {
        let text = line(3, 1, (200_000, 199_000), (300_000, 298_000));
        assert_eq!(text, "[   3 s] sent 300000 (100.000 k pps)  received 298000 (99.000 k pps)");
    }

    #[test]
    fn watching_ends_when_it_is_finished() {
        let start = Instant::now();
        watch(&Shared::default(), false, || start.elapsed() > Duration::from_millis(30));
        assert!(start.elapsed() < Duration::from_secs(2));
    }
}
