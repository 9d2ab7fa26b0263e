//! [`Report`]: what a run has shown, as a table, as JSON and as CSV.
//!
//! The JSON object, whose `schema` changes when a field changes its meaning or goes (new fields may come):
//!
//! | field | what |
//! |---|---|
//! | `schema` | `"pktgen.report/1"` |
//! | `command` | `"run"`, `"send"`, `"receive"`, `"replay"` |
//! | `run_id` | the number in this run's stamps; null where none was seen or, in a replay, set |
//! | `interrupted` | ended by SIGINT or SIGTERM: the figures are of what was done until then |
//! | `clock` | where the times come from |
//! | `tx` | [`TxReport`], or null (`receive`) |
//! | `rx` | [`RxReport`], or null (`send`, `replay`) |
//! | `loss` | [`LossReport`], or null where nothing was received on |
//! | `latency_ns` | [`LatencyReport`], or null where no latency was taken |
//! | `floor` | [`FloorReport`], or null: what the instrument itself adds to latencies (`run --floor`) |
//! | `conservation` | `{"holds": bool, "text": "sent … = received … + lost …; frames seen … = …"}`, or null (`send`, `replay`) |
//! | `streams` | a [`StreamReport`] a stream |
//! | `notes` | what the reader should know, in words |

use std::io::{self, Write};

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use crate::figures::FloorReport;
use crate::meter::{Meter, StreamMeter, latency_histogram};
use crate::options::Form;
use crate::traffic::StreamTally;

mod table;

/// The value of the JSON field `schema`.
pub const SCHEMA: &str = "pktgen.report/1";

/// What a run has shown. The fields are the JSON's; see the module.
#[derive(Debug, Serialize)]
#[allow(missing_docs)] // the table at the top of the module
pub struct Report {
    pub schema: &'static str,
    pub command: &'static str,
    pub run_id: Option<u16>,
    pub interrupted: bool,
    pub clock: &'static str,
    pub tx: Option<TxReport>,
    pub rx: Option<RxReport>,
    pub loss: Option<LossReport>,
    pub latency_ns: Option<LatencyReport>,
    pub floor: Option<FloorReport>,
    pub conservation: Option<Conservation>,
    pub streams: Vec<StreamReport>,
    pub notes: Vec<String>,
}

/// The sender: what was asked for and what was done.
#[derive(Debug, Clone, Default, Serialize)]
pub struct TxReport {
    /// `xdp`, `live` or `socket`.
    pub engine: String,
    /// The device, where there is one.
    pub device: Option<String>,
    /// The network namespace, where it is not this process's.
    pub netns: Option<String>,
    /// How the engine is attached, in the driver's words.
    pub mode: String,
    /// The rate as asked for: `max`, `100000pps`, …
    pub asked_rate: String,
    /// The same in packets a second; null for `max`.
    pub asked_pps: Option<f64>,
    /// Packets that the rate and the time, or the count, ask for; null for `max` without a count.
    pub asked_packets: Option<u64>,
    /// Packets of the measurement handed to the engine, each with its stamp.
    pub sent: u64,
    /// Bytes of those as whole frames, frame check sequence not included.
    pub bytes: u64,
    /// From the first to the end of the last batch.
    pub seconds: f64,
    /// `sent / seconds`.
    pub pps: f64,
    /// Bits of whole frames a second, frame check sequence included.
    pub bps: f64,
    /// Packets of the rate that were given up because the sender was too far behind.
    pub forfeited: u64,
    /// Of `sent`: consumed and lost by the kernel, or never left; contained in `lost`.
    pub lost_at_sender: u64,
    /// Packets that the device itself dropped meanwhile, warm-up and others' among them: on a veth, those that the
    /// other end had no room for. Contained in `lost`; not in `lost_at_sender`.
    pub device_dropped: u64,
    /// Packets before the measurement.
    pub warmup_sent: u64,
    /// Frame sizes in use, frame check sequence included.
    pub frame_sizes: Vec<usize>,
}

/// The receiver. Law: `frames` = `received` + `duplicates` + `beyond_window` + `foreign` + `other_run` + `corrupt` +
/// `warmup_received`.
#[derive(Debug, Clone, Default, Serialize)]
pub struct RxReport {
    /// `xdp` or `socket`.
    pub engine: String,
    /// The device, where there is one.
    pub device: Option<String>,
    /// The network namespace, where it is not this process's.
    pub netns: Option<String>,
    /// How the engine is attached, in the driver's words.
    pub mode: String,
    /// Everything that the engine handed over.
    pub frames: u64,
    /// Distinct packets of the measurement.
    pub received: u64,
    /// Bytes of those: whole frames (xdp) or UDP payloads (socket).
    pub bytes: u64,
    /// From the first to the last of them.
    pub seconds: f64,
    /// `received / seconds`.
    pub pps: f64,
    /// Packets seen again.
    pub duplicates: u64,
    /// Distinct packets that came after a later one (RFC 4737).
    pub reordered: u64,
    /// The largest distance of those, in sequence numbers.
    pub max_reorder_distance: u64,
    /// Packets too late to be told from duplicates.
    pub beyond_window: u64,
    /// Frames without our stamp.
    pub foreign: u64,
    /// Packets of another run of this program.
    pub other_run: u64,
    /// Packets with our stamp and a wrong checksum.
    pub corrupt: u64,
    /// Packets before the measurement.
    pub warmup_received: u64,
    /// Packets that the receiving socket or ring had no room for: the receiver's fault, not the path's; they are
    /// contained in `lost`. Foreign ones count too.
    pub receiver_overflow: u64,
}

/// What did not come.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LossReport {
    /// Packets of the measurement sent; by a sender elsewhere: numbers up to the highest seen.
    pub sent: u64,
    /// Distinct packets received.
    pub received: u64,
    /// The difference.
    pub lost: u64,
    /// In percent of `sent`.
    pub lost_percent: f64,
    /// Whether `sent` is known, not inferred.
    pub exact: bool,
}

/// Latencies in nanoseconds, to three significant digits.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs)] // named by what they are
pub struct LatencyReport {
    pub samples: u64,
    pub min: u64,
    pub mean: f64,
    pub p50: u64,
    pub p90: u64,
    pub p99: u64,
    pub p99_9: u64,
    pub max: u64,
}

/// Whether every packet is accounted for.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Conservation {
    /// No stream received more than was sent, and the receiver's law holds.
    pub holds: bool,
    /// The sums.
    pub text: String,
}

/// One stream.
#[derive(Debug, Clone, Serialize)]
#[allow(missing_docs)] // as in `RxReport` and `LossReport`
pub struct StreamReport {
    pub stream: u16,
    pub sent: u64,
    pub received: u64,
    pub lost: u64,
    pub duplicates: u64,
    pub reordered: u64,
    pub max_reorder_distance: u64,
    pub beyond_window: u64,
    pub latency_ns: Option<LatencyReport>,
}

impl Report {
    /// A report of `command` with nothing in it yet.
    pub fn new(command: &'static str, interrupted: bool) -> Self {
        Report {
            schema: SCHEMA,
            command,
            run_id: None,
            interrupted,
            clock: "CLOCK_MONOTONIC of one machine: sender and receiver must share it",
            tx: None,
            rx: None,
            loss: None,
            latency_ns: None,
            floor: None,
            conservation: None,
            streams: Vec::new(),
            notes: Vec::new(),
        }
    }

    /// Enters what the receiver saw, against what the sender gave out (`None`: inferred from the numbers seen).
    /// `rx` brings the engine's own fields.
    pub fn judge(&mut self, meter: &Meter, sent: Option<&[StreamTally]>, rx: RxReport) {
        let mut all = latency_histogram();
        let numbers = sent
            .map_or(0, <[StreamTally]>::len)
            .max(meter.streams().last().map_or(0, |(n, _)| usize::from(n) + 1));
        let unseen = StreamMeter::default();
        let mut from_future = 0;
        for number in 0..numbers as u16 {
            let seen = meter.stream(number).unwrap_or(&unseen);
            let expected = match sent {
                Some(tallies) => tallies.get(usize::from(number)).map_or(0, |tally| tally.sent),
                None => seen.expected(),
            };
            // Same bounds and digits: adding cannot fail.
            let _ = all.add(&seen.latency);
            from_future += seen.from_future;
            if expected > 0 || seen.received > 0 {
                self.streams.push(StreamReport::new(number, expected, seen));
            }
        }
        let total = |field: fn(&StreamReport) -> u64| self.streams.iter().map(field).sum::<u64>();
        let (sent_total, received, lost) = (total(|s| s.sent), total(|s| s.received), total(|s| s.lost));
        let seconds = seconds_between(meter.first, meter.last);
        let rx = RxReport {
            frames: meter.frames,
            received,
            bytes: meter.bytes,
            seconds,
            pps: per_second(received as f64, seconds),
            duplicates: total(|s| s.duplicates),
            reordered: total(|s| s.reordered),
            max_reorder_distance: self.streams.iter().map(|s| s.max_reorder_distance).max().unwrap_or(0),
            beyond_window: total(|s| s.beyond_window),
            foreign: meter.apart.foreign,
            other_run: meter.apart.other_run,
            corrupt: meter.apart.corrupt,
            warmup_received: meter.apart.warmup,
            ..rx
        };
        let never_more = self.streams.iter().all(|stream| stream.received <= stream.sent);
        let sums = received + lost == sent_total;
        self.conservation = Some(Conservation {
            holds: never_more && sums && meter.is_conserved(),
            text: format!(
                "sent {sent_total} = received {received} + lost {lost}; frames seen {} = received {received} + duplicates {} \
                 + beyond window {} + foreign {} + other run {} + corrupt {} + warm-up {}",
                rx.frames,
                rx.duplicates,
                rx.beyond_window,
                rx.foreign,
                rx.other_run,
                rx.corrupt,
                rx.warmup_received
            ),
        });
        let lost_percent = if sent_total == 0 { 0.0 } else { lost as f64 * 100.0 / sent_total as f64 };
        self.loss =
            Some(LossReport { sent: sent_total, received, lost, lost_percent, exact: sent.is_some() });
        self.latency_ns = LatencyReport::new(&all);
        self.run_id = self.run_id.or(meter.run());
        if from_future > 0 {
            self.notes.push(format!(
                "{from_future} packets carry a send time in the receiver's future: another machine's clock?"
            ));
        }
        if sent.is_none() {
            self.notes.push(
                "sent is inferred from the highest number of each stream: a loss at the very end is not seen"
                    .into(),
            );
        }
        self.rx = Some(rx);
    }

    /// What is lost, in percent of what was sent: all of it where nothing came at all. Of a sender alone, what never
    /// left it.
    pub fn lost_percent(&self) -> f64 {
        match (&self.loss, &self.tx) {
            (Some(loss), _) if loss.received == 0 => 100.0,
            (Some(loss), _) => loss.lost_percent,
            (None, Some(tx)) => tx.lost_at_sender as f64 * 100.0 / tx.sent.max(1) as f64,
            (None, None) => 0.0,
        }
    }

    /// Writes the report to `out`.
    ///
    /// # Errors
    /// What writing to `out` gives.
    pub fn write(&self, form: Form, out: &mut impl Write) -> io::Result<()> {
        match form {
            Form::Json => {
                serde_json::to_writer_pretty(&mut *out, self)?;
                writeln!(out)
            }
            Form::Csv => self.write_csv(out),
            Form::Table => self.write_table(out),
        }
    }

    fn write_csv(&self, out: &mut impl Write) -> io::Result<()> {
        writeln!(
            out,
            "stream,sent,received,lost,duplicates,reordered,max_reorder_distance,beyond_window,\
             latency_samples,latency_min_ns,latency_mean_ns,latency_p50_ns,latency_p90_ns,latency_p99_ns,latency_p99_9_ns,latency_max_ns"
        )?;
        for s in &self.streams {
            csv_line(out, &s.stream.to_string(), s)?;
        }
        let sent = self.loss.as_ref().map_or(self.tx.as_ref().map_or(0, |tx| tx.sent), |loss| loss.sent);
        let rx = self.rx.clone().unwrap_or_default();
        let all = StreamReport {
            stream: 0,
            sent,
            received: rx.received,
            lost: self.loss.as_ref().map_or(0, |loss| loss.lost),
            duplicates: rx.duplicates,
            reordered: rx.reordered,
            max_reorder_distance: rx.max_reorder_distance,
            beyond_window: rx.beyond_window,
            latency_ns: self.latency_ns.clone(),
        };
        csv_line(out, "all", &all)
    }
}

impl TxReport {
    /// What the reader should know of it, in words.
    pub fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        if self.lost_at_sender > 0 {
            notes.push(format!("{} packets never left the sender; they count as lost", self.lost_at_sender));
        }
        if let (1.., Some(device)) = (self.device_dropped, &self.device) {
            let count = self.device_dropped;
            notes.push(format!("{count} packets were dropped by {device} itself: the other end had no room"));
        }
        notes
    }
}

impl StreamReport {
    fn new(stream: u16, sent: u64, seen: &StreamMeter) -> Self {
        StreamReport {
            stream,
            sent,
            received: seen.received,
            lost: sent.saturating_sub(seen.received),
            duplicates: seen.duplicates,
            reordered: seen.reordered,
            max_reorder_distance: seen.max_distance,
            beyond_window: seen.beyond_window,
            latency_ns: LatencyReport::new(&seen.latency),
        }
    }
}

impl LatencyReport {
    /// The histogram's figures; `None` where it is empty.
    pub fn new(histogram: &Histogram<u64>) -> Option<Self> {
        (!histogram.is_empty()).then(|| LatencyReport {
            samples: histogram.len(),
            min: histogram.min(),
            mean: histogram.mean(),
            p50: histogram.value_at_quantile(0.5),
            p90: histogram.value_at_quantile(0.9),
            p99: histogram.value_at_quantile(0.99),
            p99_9: histogram.value_at_quantile(0.999),
            max: histogram.max(),
        })
    }
}

/// Seconds between two moments in nanoseconds; 0 where there are not two.
pub fn seconds_between(first: Option<u64>, last: Option<u64>) -> f64 {
    first.zip(last).map_or(0.0, |(first, last)| last.saturating_sub(first) as f64 / 1e9)
}

/// `count / seconds`, and 0 where no time has passed.
pub fn per_second(count: f64, seconds: f64) -> f64 {
    if seconds > 0.0 { count / seconds } else { 0.0 }
}

fn csv_line(out: &mut impl Write, name: &str, s: &StreamReport) -> io::Result<()> {
    write!(out, "{name},{},{},{},{},{}", s.sent, s.received, s.lost, s.duplicates, s.reordered)?;
    write!(out, ",{},{}", s.max_reorder_distance, s.beyond_window)?;
    match &s.latency_ns {
        Some(l) => writeln!(
            out,
            ",{},{},{:.0},{},{},{},{},{}",
            l.samples, l.min, l.mean, l.p50, l.p90, l.p99, l.p99_9, l.max
        ),
        None => writeln!(out, ",0,,,,,,,"),
    }
}

/// A number with k, M or G and four digits.
pub fn scaled(value: f64) -> String {
    match value {
        v if v >= 1e9 => format!("{:.3} G", v / 1e9),
        v if v >= 1e6 => format!("{:.3} M", v / 1e6),
        v if v >= 1e3 => format!("{:.3} k", v / 1e3),
        v => format!("{v:.1} "),
    }
}

/// Nanoseconds in the unit that fits.
pub fn time(ns: u64) -> String {
    match ns {
        0..1_000 => format!("{ns}ns"),
        1_000..1_000_000 => format!("{:.1}µs", ns as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.2}ms", ns as f64 / 1e6),
        _ => format!("{:.2}s", ns as f64 / 1e9),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::locate::Found;
    use crate::stamp::Stamp;

    fn stamp(stream: u16, sequence: u64) -> Found {
        Found::Stamped(Stamp { run: 1, stream, warmup: false, sequence, sent: 1_000 })
    }

    /// Stream 0: 0, 1, 3, 2, 2 of 6 sent; stream 1: nothing of 2 sent; one foreign frame.
    fn measured() -> (Meter, Vec<StreamTally>) {
        let mut meter = Meter::new(Some(1));
        for sequence in [0, 1, 3, 2, 2] {
            meter.observe(stamp(0, sequence), 1_000_001_000 * (1 + sequence), 60);
        }
        meter.observe(Found::Foreign, 5, 60);
        let tally = |sent| StreamTally { sent, ..StreamTally::default() };
        (meter, vec![tally(6), tally(2)])
    }

    fn text(report: &Report, form: Form) -> String {
        let mut out = Vec::new();
        report.write(form, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn sent_is_received_plus_lost() {
        let (meter, tallies) = measured();
        let mut report = Report::new("run", false);
        report.judge(&meter, Some(&tallies), RxReport::default());
        let loss = LossReport { sent: 8, received: 4, lost: 4, lost_percent: 50.0, exact: true };
        assert_eq!(report.loss, Some(loss));
        assert!(report.conservation.as_ref().unwrap().holds);
        let rx = report.rx.as_ref().unwrap();
        assert_eq!(
            (rx.duplicates, rx.reordered, rx.max_reorder_distance, rx.foreign, rx.frames),
            (1, 1, 1, 1, 6)
        );
        assert_eq!((report.streams[1].sent, report.streams[1].lost), (2, 2));
        assert!(text(&report, Form::Table).contains("lost           4 of 8 (50.0000 %)"));
    }

    #[test]
    fn nothing_received_is_all_lost_and_a_sender_alone_loses_what_never_left() {
        let mut report = Report::new("receive", false);
        report.judge(&Meter::new(None), None, RxReport::default());
        assert_eq!(report.lost_percent(), 100.0);
        let mut report = Report::new("send", false);
        assert_eq!(report.lost_percent(), 0.0);
        let tx = TxReport {
            sent: 200,
            lost_at_sender: 3,
            device_dropped: 2,
            device: Some("v".into()),
            ..TxReport::default()
        };
        assert_eq!(tx.notes().len(), 2);
        report.tx = Some(tx);
        assert_eq!(report.lost_percent(), 1.5);
        assert!(text(&report, Form::Table).contains("device drops   2 packets"));
    }

    #[test]
    fn more_received_than_sent_breaks_the_law() {
        let (meter, mut tallies) = measured();
        tallies[0].sent = 3;
        let mut report = Report::new("run", false);
        report.judge(&meter, Some(&tallies), RxReport::default());
        assert!(!report.conservation.as_ref().unwrap().holds);
        assert!(text(&report, Form::Table).contains("DOES NOT HOLD"));
    }

    #[test]
    fn without_the_sender_what_was_sent_is_inferred_and_said_so() {
        let (meter, _) = measured();
        let mut report = Report::new("receive", false);
        report.judge(&meter, None, RxReport::default());
        let loss = report.loss.as_ref().unwrap();
        assert_eq!((loss.sent, loss.lost, loss.exact), (4, 0, false));
        assert!(report.notes.iter().any(|note| note.contains("inferred")));
    }

    #[test]
    fn json_has_the_documented_fields_and_csv_a_line_a_stream() {
        let (meter, tallies) = measured();
        let mut report = Report::new("run", true);
        report.judge(&meter, Some(&tallies), RxReport::default());
        let json: serde_json::Value = serde_json::from_str(&text(&report, Form::Json)).unwrap();
        for field in
            "schema command run_id interrupted clock tx rx loss latency_ns floor conservation streams notes"
                .split(' ')
        {
            assert!(json.get(field).is_some(), "{field}");
        }
        assert_eq!(json["latency_ns"]["samples"], 4);
        let csv = text(&report, Form::Csv);
        let lines: Vec<_> = csv.lines().collect();
        assert_eq!(lines.len(), 4);
        assert!(lines.iter().all(|line| line.split(',').count() == 16), "{csv}");
        assert!(lines[2].starts_with("1,2,0,2,0,0,0,0,0,"), "{csv}");
        assert!(lines[3].starts_with("all,8,4,4,1,1,1,0,4,"), "{csv}");
    }
}
