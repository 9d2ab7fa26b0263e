//! A line a second on standard error while a measurement runs, and one when a receiver is ready.

use std::io::{self, Write};
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use crate::drive::Shared;
use crate::report::scaled;

/// How often the watcher looks whether it is over.
const LOOK: Duration = Duration::from_millis(20);

/// The ends of a measurement that are in this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ends {
    /// The sender alone.
    Sender,
    /// The receiver alone.
    Receiver,
    /// Both.
    Both,
}

/// Waits until `finished`, and, where `shown`, writes a line a second about `ends`.
pub fn watch(shared: &Shared, ends: Ends, shown: bool, finished: impl Fn() -> bool) {
    let start = Instant::now();
    let (mut lines, mut before) = (0, (0, 0));
    while !finished() {
        thread::sleep(LOOK);
        let seconds = start.elapsed().as_secs();
        if shown && seconds > lines {
            let now = (shared.sent.load(Ordering::Relaxed), shared.received.load(Ordering::Relaxed));
            // Progress is a courtesy: a closed standard error does not end a measurement.
            let _ = writeln!(io::stderr(), "{}", line(ends, seconds, seconds - lines, before, now));
            (lines, before) = (seconds, now);
        }
    }
}

/// Says that packets can come, for whoever is to start the sender in another process.
pub fn ready() {
    // As above.
    let _ = writeln!(io::stderr(), "pktgen: ready to receive");
}

fn line(ends: Ends, seconds: u64, step: u64, before: (u64, u64), now: (u64, u64)) -> String {
    let part = |name, now: u64, before: u64| {
        let rate = scaled(now.saturating_sub(before) as f64 / step.max(1) as f64);
        format!("{name} {now} ({rate}pps)")
    };
    let (sent, received) = (part("sent", now.0, before.0), part("received", now.1, before.1));
    match ends {
        Ends::Sender => format!("[{seconds:>4} s] {sent}"),
        Ends::Receiver => format!("[{seconds:>4} s] {received}"),
        Ends::Both => format!("[{seconds:>4} s] {sent}  {received}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_totals_and_rates() {
        let text = |ends| line(ends, 3, 1, (200_000, 199_000), (300_000, 298_000));
        assert_eq!(text(Ends::Both), "[   3 s] sent 300000 (100.000 kpps)  received 298000 (99.000 kpps)");
        assert_eq!(text(Ends::Sender), "[   3 s] sent 300000 (100.000 kpps)");
        assert_eq!(text(Ends::Receiver), "[   3 s] received 298000 (99.000 kpps)");
    }

    #[test]
    fn watching_ends_when_it_is_finished() {
        let start = Instant::now();
        watch(&Shared::default(), Ends::Both, false, || start.elapsed() > Duration::from_millis(30));
        assert!(start.elapsed() < Duration::from_secs(2));
    }
}
