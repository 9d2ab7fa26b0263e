//! What is shown on standard error while a measurement runs: rate, loss and latency of the last second; of many trials
//! also which one it is. On a terminal the line is written over again, elsewhere each is a line of its own.

use std::io::{self, IsTerminal, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::drive::Shared;
use crate::report::{scaled, time};
use crate::trial::TrialRecord;

/// How often the watcher looks whether it is over.
const LOOK: Duration = Duration::from_millis(20);

/// How often the line of a terminal is written over.
const REFRESH: Duration = Duration::from_millis(250);

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
    let mut screen = Screen::new(shown);
    let mut view = View::new(shared);
    while !finished() {
        thread::sleep(LOOK);
        if screen.is_due() {
            let line = view.line(ends);
            screen.write(&line);
        }
    }
    screen.close();
}

/// Says that packets can come, for whoever is to start the sender in another process.
pub fn ready() {
    // Progress is a courtesy: a closed standard error does not end a measurement.
    let _ = writeln!(io::stderr(), "pktgen: ready to receive");
}

/// What a command of many trials is at. Written by the command, read by the watcher.
#[derive(Debug, Default)]
pub struct Status {
    now: Mutex<Now>,
    ended: AtomicBool,
}

#[derive(Debug, Default, Clone)]
struct Now {
    trial: u64,
    test: String,
    rate: Option<f64>,
    /// What the trials before have given, to be written as lines that stay.
    finished: Vec<String>,
}

impl Status {
    /// A trial begins.
    pub fn begin(&self, test: &str, rate: Option<f64>) {
        let mut now = self.now();
        now.trial += 1;
        now.test = test.to_owned();
        now.rate = rate;
    }

    /// It has ended.
    pub fn done(&self, record: &TrialRecord) {
        let mut now = self.now();
        let latency = record.latency_ns.as_ref().map_or(String::new(), |latency| {
            format!("  p50 {}  p99 {}", time(latency.p50), time(latency.p99))
        });
        let line = format!(
            "trial {}  {}  {}  sent {}  lost {} ({:.4} %){latency}",
            now.trial,
            record.test,
            asked(record.load_pps),
            record.sent,
            record.asked.saturating_sub(record.received),
            record.loss_ratio() * 100.0,
        );
        now.finished.push(line);
    }

    /// Something that is not a trial is done, or is going to be.
    pub fn say(&self, what: &str) {
        self.now().finished.push(what.to_owned());
    }

    /// Nothing more will come.
    pub fn end(&self) {
        self.ended.store(true, Ordering::Release);
    }

    fn now(&self) -> MutexGuard<'_, Now> {
        // What a panicking thread has left is still text.
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Waits until the command of many trials has ended, and, where `shown`, writes what it is at.
pub fn watch_trials(shared: &Shared, status: &Status, shown: bool) {
    let mut screen = Screen::new(shown);
    let mut view = View::new(shared);
    let mut trial = 0;
    loop {
        let ended = status.ended.load(Ordering::Acquire);
        let finished = std::mem::take(&mut status.now().finished);
        finished.iter().for_each(|line| screen.keep(line));
        if ended {
            break;
        }
        let now = status.now().clone();
        if now.trial != trial {
            trial = now.trial;
            view = View::new(shared);
        }
        if screen.is_due() && now.trial > 0 {
            let line =
                format!("trial {}  {}  {}  {}", now.trial, now.test, asked(now.rate), view.line(Ends::Both));
            screen.write(&line);
        }
        thread::sleep(LOOK);
    }
    screen.close();
}

fn asked(rate: Option<f64>) -> String {
    rate.map_or("max".into(), |rate| format!("{}pps", scaled(rate)))
}

/// Standard error, as a terminal or not.
struct Screen {
    shown: bool,
    terminal: bool,
    last: Instant,
    /// Letters of the line that is written over.
    length: usize,
}

impl Screen {
    fn new(shown: bool) -> Self {
        Screen { shown, terminal: io::stderr().is_terminal(), last: Instant::now(), length: 0 }
    }

    fn is_due(&self) -> bool {
        let every = if self.terminal { REFRESH } else { Duration::from_secs(1) };
        self.shown && self.last.elapsed() >= every
    }

    /// A line that the next one takes the place of, on a terminal.
    fn write(&mut self, line: &str) {
        self.last = Instant::now();
        let end = if self.terminal { "" } else { "\n" };
        self.put(line, end);
    }

    /// A line that stays.
    fn keep(&mut self, line: &str) {
        if self.shown {
            self.put(line, "\n");
            self.length = 0;
        }
    }

    fn put(&mut self, line: &str, end: &str) {
        // As above.
        let _ = write!(io::stderr(), "{}{end}", placed(self.terminal, self.length, line));
        self.length = if self.terminal { line.chars().count() } else { 0 };
    }

    fn close(&mut self) {
        if self.length > 0 {
            let _ = writeln!(io::stderr());
        }
    }
}

/// The line, over one of `before` letters where it is a terminal's.
fn placed(terminal: bool, before: usize, line: &str) -> String {
    if terminal {
        let blank = before.saturating_sub(line.chars().count());
        format!("\r{line}{}", " ".repeat(blank))
    } else {
        line.to_owned()
    }
}

/// A measurement as it goes: what has changed since the line before.
struct View<'a> {
    shared: &'a Shared,
    begin: Instant,
    at: f64,
    before: (u64, u64),
    latencies: Vec<u64>,
}

impl<'a> View<'a> {
    fn new(shared: &'a Shared) -> Self {
        let latencies = shared.latencies.counts();
        View { shared, begin: Instant::now(), at: 0.0, before: (0, 0), latencies }
    }

    fn line(&mut self, ends: Ends) -> String {
        let seconds = self.begin.elapsed().as_secs_f64();
        let now = (self.shared.sent.load(Ordering::Relaxed), self.shared.received.load(Ordering::Relaxed));
        let quantile = |share| self.shared.latencies.quantile(&self.latencies, share);
        let latency = quantile(0.5).zip(quantile(0.99));
        let text = line(ends, seconds, seconds - self.at, self.before, now, latency);
        (self.at, self.before, self.latencies) = (seconds, now, self.shared.latencies.counts());
        text
    }
}

fn line(
    ends: Ends,
    seconds: f64,
    step: f64,
    before: (u64, u64),
    now: (u64, u64),
    latency: Option<(u64, u64)>,
) -> String {
    let part = |name, now: u64, before: u64| {
        let rate = scaled(now.saturating_sub(before) as f64 / step.max(0.001));
        format!("{name} {now} ({rate}pps)")
    };
    let (sent, received) = (part("sent", now.0, before.0), part("received", now.1, before.1));
    let latency =
        latency.map_or(String::new(), |(p50, p99)| format!("  p50 {}  p99 {}", time(p50), time(p99)));
    match ends {
        Ends::Sender => format!("[{seconds:>4.0} s] {sent}"),
        Ends::Receiver => format!("[{seconds:>4.0} s] {received}{latency}"),
        Ends::Both => {
            // What is still on its way cannot be told from what is lost while it runs.
            let missing = now.0.saturating_sub(now.1);
            let share = missing as f64 * 100.0 / now.0.max(1) as f64;
            format!("[{seconds:>4.0} s] {sent}  {received}  missing {missing} ({share:.2} %){latency}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_totals_rates_what_is_missing_and_latencies() {
        let text =
            |ends| line(ends, 3.0, 1.0, (200_000, 199_000), (300_000, 297_000), Some((12_300, 4_500_000)));
        let both = "[   3 s] sent 300000 (100.000 kpps)  received 297000 (98.000 kpps)  missing 3000 (1.00 %)  \
                    p50 12.3µs  p99 4.50ms";
        assert_eq!(text(Ends::Both), both);
        assert_eq!(text(Ends::Sender), "[   3 s] sent 300000 (100.000 kpps)");
        assert_eq!(text(Ends::Receiver), "[   3 s] received 297000 (98.000 kpps)  p50 12.3µs  p99 4.50ms");
    }

    #[test]
    fn a_terminal_is_written_over_and_a_file_is_not() {
        assert_eq!(placed(true, 5, "abc"), "\rabc  ");
        assert_eq!(placed(false, 5, "abc"), "abc");
    }

    #[test]
    fn watching_ends_when_it_is_finished() {
        let start = Instant::now();
        watch(&Shared::default(), Ends::Both, false, || start.elapsed() > Duration::from_millis(30));
        let status = Status::default();
        status.begin("a test", Some(1000.0));
        status.end();
        watch_trials(&Shared::default(), &status, false);
        assert!(start.elapsed() < Duration::from_secs(2));
    }
}
