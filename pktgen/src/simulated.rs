//! A simulated device for tests of everything that makes trials: it forwards so many packets a second, holds so many more,
//! and loses the rest.

use crate::report::LatencyReport;
use crate::run::Failure;
use crate::trial::{Amount, Device, TrialRecord, TrialSpec};

/// The device and the sender before it.
#[derive(Debug, Clone)]
pub(crate) struct Simulated {
    /// Packets a second that the device forwards.
    pub(crate) capacity: f64,
    /// Packets that it holds.
    pub(crate) buffer: f64,
    /// Packets a second that the sender reaches.
    pub(crate) fastest: f64,
    /// Largest frame.
    pub(crate) largest: usize,
    /// Trials until a signal comes.
    pub(crate) patience: usize,
}

impl Default for Simulated {
    fn default() -> Self {
        Simulated {
            capacity: 400_000.0,
            buffer: 1_000.0,
            fastest: 1_000_000.0,
            largest: 1518,
            patience: usize::MAX,
        }
    }
}

impl Device for Simulated {
    fn measure(&mut self, spec: &TrialSpec) -> Result<TrialRecord, Failure> {
        self.patience = self.patience.checked_sub(1).ok_or(Failure::Interrupted)?;
        let sent_pps = spec.rate.unwrap_or(self.fastest).min(self.fastest);
        let (sent, asked, asked_seconds) = match spec.amount {
            Amount::Packets(packets) => (packets, packets, None),
            Amount::Time(time) => {
                let sent = (sent_pps * time.as_secs_f64()).round() as u64;
                let asked = spec.rate.map_or(sent, |rate| (rate * time.as_secs_f64()).round() as u64);
                (sent, asked, Some(time.as_secs_f64()))
            }
        };
        let seconds = sent as f64 / sent_pps;
        let received = sent.min((self.capacity * seconds + self.buffer).floor() as u64);
        let busy = (sent_pps / self.capacity).min(1.0);
        let latency = |factor: f64| (10_000.0 * factor * (1.0 + busy)) as u64;
        let size = spec.size.as_ref().map_or(String::new(), ToString::to_string);
        Ok(TrialRecord {
            test: spec.test.clone(),
            size,
            load_pps: spec.rate,
            asked_seconds,
            asked,
            sent,
            seconds,
            sent_pps,
            forfeited: asked - sent,
            received,
            lost: sent - received,
            lost_at_sender: 0,
            device_dropped: 0,
            receiver_overflow: 0,
            duplicates: 0,
            reordered: 0,
            latency_ns: (received > 0).then(|| LatencyReport {
                samples: received,
                min: latency(0.5),
                mean: latency(1.0) as f64,
                p50: latency(1.0),
                p90: latency(1.5),
                p99: latency(2.0),
                p99_9: latency(3.0),
                max: latency(4.0),
            }),
        })
    }

    fn largest_frame(&self) -> Option<usize> {
        Some(self.largest)
    }
}

mod tests {
    use clap::{Args, Command, FromArgMatches};

    use super::*;
    use crate::figures::{BenchReport, Culprit};
    use crate::mlr::Ended;
    use crate::options::{CertifyOptions, Rfc2544Options, SearchOptions};
    use crate::suite::Suite;
    use crate::{certify, rfc2544};

    fn options<T: Args + FromArgMatches>(words: &str) -> T {
        let words = format!("pktgen --dst-ip 10.0.0.2 --src-ip 10.0.0.1 {words}");
        let command = T::augment_args(Command::new("pktgen"));
        T::from_arg_matches(&command.get_matches_from(words.split_whitespace())).unwrap()
    }

    fn measured_rfc2544(mut device: Simulated, words: &str) -> (BenchReport, Result<(), Failure>) {
        let options: Rfc2544Options = options(words);
        let mut report = BenchReport::new("rfc2544");
        let result = rfc2544::run(&mut Suite::new(&mut device, &mut report, &options.bench), &options);
        (report, result)
    }

    fn value(report: &BenchReport, name: &str, size: &str) -> f64 {
        report.figure(name, size).unwrap_or_else(|| panic!("{name}: {:?}", report.figures)).median
    }

    #[test]
    fn all_of_rfc_2544_finds_what_the_device_is_made_of() {
        let words = "--sizes 64,1518 --trial 10s --repeats 2 --resolution 0.5%";
        let (report, result) = measured_rfc2544(Simulated::default(), words);
        result.unwrap();
        for size in ["64", "1518"] {
            let throughput = value(&report, "throughput", size);
            // Ten seconds fill the buffer once: 400,000 a second and 100 more.
            assert!((398_000.0..=400_100.0).contains(&throughput), "{throughput}");
            assert!(value(&report, "latency p50 at throughput", size) > 0.0);
            let loss = value(&report, "loss at 100% of the highest load", size);
            assert!((loss - 59.99).abs() < 0.02, "{loss}");
            assert_eq!(value(&report, "loss at 40% of the highest load", size), 0.0);
            // Two rates without loss in a row end it.
            assert_eq!(value(&report, "loss at 30% of the highest load", size), 0.0);
            assert!(report.figure("loss at 20% of the highest load", size).is_none());
            // A burst of n takes n / 1,000,000 s, in which 0.4 n are forwarded and 1,000 held: 1,666.
            let burst = value(&report, "back-to-back", size);
            assert!((1650.0..=1667.0).contains(&burst), "{burst}");
            // RFC 9004: the held 1,000 at the highest rate, to the resolution.
            let buffer = value(&report, "corrected buffer time", size);
            assert!((buffer - 0.001).abs() < 0.00002, "{buffer}");
            assert_eq!(report.figure("throughput", size).unwrap().repeats.len(), 2);
        }
        assert!(report.trials.iter().all(TrialRecord::is_conserved));
        assert!(report.not_reached.is_empty(), "{:?}", report.not_reached);
        let bounds = report.searches.iter().all(|search| search.lower < search.upper);
        assert!(bounds && report.searches.iter().all(|search| search.upper_by == Some(Culprit::Device)));
    }

    #[test]
    fn what_the_device_or_the_sender_cannot_do_is_said() {
        let fast = Simulated { capacity: 1e9, ..Simulated::default() };
        let (report, result) = measured_rfc2544(fast, "--sizes 64 --trial 1s --repeats 1 --burst 100ms");
        result.unwrap();
        assert_eq!(report.searches[0].ended, Ended::MaxLoad);
        assert!(
            report.not_reached.iter().any(|entry| entry.what.contains("longest burst")),
            "{:?}",
            report.not_reached
        );
        // Twice what the sender can: the upper bound is the sender's.
        let slow = Simulated { capacity: 1e9, fastest: 100_000.0, ..Simulated::default() };
        let (report, result) =
            measured_rfc2544(slow, "--sizes 64 --trial 1s --repeats 1 --test throughput --max-rate 200kpps");
        result.unwrap();
        assert_eq!(report.searches[0].upper_by, Some(Culprit::Sender));
        let dead = Simulated { capacity: 0.0, buffer: 0.0, ..Simulated::default() };
        let (report, result) = measured_rfc2544(dead, "--sizes 64 --trial 1s --repeats 1 --test latency");
        result.unwrap();
        let said: Vec<_> = report.not_reached.iter().map(|entry| entry.what.as_str()).collect();
        assert_eq!(said, ["throughput, 64 bytes", "latency, 64 bytes"]);
    }

    #[test]
    fn sizes_are_bounded_by_the_device_and_by_what_headers_need() {
        let small = || Simulated { largest: 600, ..Simulated::default() };
        let quick = "--trial 100ms --repeats 1 --test throughput";
        let (report, result) = measured_rfc2544(small(), quick);
        result.unwrap();
        let sizes: Vec<_> = report.figures.iter().map(|figure| figure.size.as_str()).collect();
        assert_eq!(sizes, ["64", "128", "256", "512"]);
        assert_eq!(report.not_reached.len(), 3);
        let (report, result) = measured_rfc2544(small(), &format!("{quick} --protocol tcp"));
        result.unwrap();
        assert!(
            report.not_reached.iter().any(|entry| entry.what == "frames of 64 bytes"),
            "{:?}",
            report.not_reached
        );
        let refused = |words: &str| {
            let error = measured_rfc2544(small(), &format!("{quick} {words}")).1.unwrap_err();
            assert_eq!(error.exit_code(), 2);
            error.to_string()
        };
        let rows = [
            ("--sizes 64,1518", "--sizes: frames of 1518 bytes are longer than the 600"),
            ("--sizes 64 --protocol tcp", "--sizes: a frame of 64 bytes is too small"),
            ("--sizes 64,64", "--sizes: 64 is named twice"),
            ("--size 64", "--size: this command takes --sizes 64"),
            ("--sizes 64 --min-rate 2Mpps", "--min-rate"),
            ("--sizes 64 --max-rate 50%", "--link-speed"),
            ("--sizes 64 --min-rate max", "--min-rate"),
        ];
        for (words, says) in rows {
            assert!(refused(words).contains(says), "{words}: {}", refused(words));
        }
    }

    #[test]
    fn goals_of_a_search_are_figures_with_their_repeats() {
        let options: SearchOptions =
            options("--size imix --repeats 3 --trial 1s --goal ndr --goal pdr,loss=10%");
        let (mut device, mut report) = (Simulated::default(), BenchReport::new("search"));
        let mut suite = Suite::new(&mut device, &mut report, &options.bench);
        let found = suite.goals(&"imix".parse().unwrap(), &options.goals(), 3).unwrap();
        assert!(found[0].unwrap() < found[1].unwrap());
        assert_eq!(report.searches.len(), 6);
        let pdr = value(&report, "PDR", "imix");
        assert!((440_000.0..446_000.0).contains(&pdr), "{pdr}");
        assert!(value(&report, "PDR conditional throughput", "imix") <= 401_000.0);
    }

    #[test]
    fn certify_makes_the_whole_set_and_a_signal_leaves_what_was_found() {
        let options: CertifyOptions = certify::filled(options("--quick --node lab"));
        let measured = |patience| {
            let mut device = Simulated { patience, ..Simulated::default() };
            let mut report = BenchReport::new("certify");
            let result = certify::run(&mut Suite::new(&mut device, &mut report, &options.bench), &options);
            (report, result)
        };
        let (report, result) = measured(usize::MAX);
        result.unwrap();
        for (name, size) in [
            ("throughput", "128"),
            ("latency p99 at throughput", "128"),
            ("back-to-back", "128"),
            ("NDR", "128"),
            ("PDR", "imix"),
            ("latency p50 at 50% of NDR", "imix"),
            ("latency p99.9 at 90% of NDR", "128"),
        ] {
            assert_eq!(
                report.figure(name, size).map(|figure| figure.repeats.len()),
                Some(3),
                "{name} {size}"
            );
        }
        assert_eq!(report.plots().len(), 4, "loss, rates, latency of 128 bytes and of the mix");
        let (report, result) = measured(30);
        assert!(matches!(result, Err(Failure::Interrupted)));
        assert_eq!(report.trials.len(), 30);
    }
}
