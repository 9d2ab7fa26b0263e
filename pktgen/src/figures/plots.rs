//! The plots of a report: loss against load, rates by frame size, latency percentiles.

use super::{BenchReport, Figure};
use crate::plot::{Axis, Bar, Bars, Group, Lines, Mark, Plot, Series};
use crate::report::LatencyReport;

/// Percentiles of latency that are figures, and of how many packets one takes longer.
const PERCENTILES: [(&str, f64); 3] = [("p50", 2.0), ("p99", 100.0), ("p99.9", 1000.0)];

impl BenchReport {
    /// Its plots, each with the name of its file; only those that there is something to show in.
    pub fn plots(&self) -> Vec<(String, Box<dyn Plot>)> {
        let mut plots: Vec<(String, Box<dyn Plot>)> = Vec::new();
        if let Some(plot) = self.loss_plot() {
            plots.push(("loss".into(), Box::new(plot)));
        }
        if let Some(plot) = self.rate_plot() {
            plots.push(("rates".into(), Box::new(plot)));
        }
        let sizes = self.figures.iter().filter(|figure| figure.name.starts_with("latency "));
        for size in distinct(sizes.map(|figure| figure.size.clone())) {
            plots.push((format!("latency-{size}"), Box::new(self.latency_plot(&size))));
        }
        plots
    }

    /// Every trial with a load, by frame size.
    fn loss_plot(&self) -> Option<Lines> {
        let mut series: Vec<Series> = Vec::new();
        for trial in &self.trials {
            let (Some(load), Some(_)) = (trial.load_pps, trial.asked_seconds) else { continue };
            let name = frame(&trial.size);
            let point = (load, trial.loss_ratio() * 100.0);
            match series.iter_mut().find(|series| series.name == name) {
                Some(series) => series.points.push(point),
                None => series.push(Series { name, mark: Mark::Scatter, points: vec![point] }),
            }
        }
        (!series.is_empty()).then(|| Lines {
            title: "Loss of each trial against its load".into(),
            x: Axis::linear("load, packets/s"),
            y: Axis::linear("lost or never sent, %"),
            series,
        })
    }

    /// Figures in packets a second, by frame size.
    fn rate_plot(&self) -> Option<Bars> {
        let rates: Vec<&Figure> = self.figures.iter().filter(|figure| figure.unit == "packets/s").collect();
        let series = distinct(rates.iter().map(|figure| figure.name.clone()));
        let sizes = distinct(rates.iter().map(|figure| figure.size.clone()));
        let bar = |name: &String, size: &String| {
            self.figure(name, size).and_then(|figure| Bar::of(&figure.repeats))
        };
        let groups = sizes.iter().map(|size| Group {
            name: frame(size),
            bars: series.iter().map(|name| bar(name, size)).collect(),
        });
        let groups: Vec<Group> = groups.collect();
        (!groups.is_empty()).then(|| Bars {
            title: "Rates by frame size: median, lowest and highest repeat".into(),
            y: "packets/s".into(),
            series,
            groups,
        })
    }

    /// Percentiles of latency for one frame size, a series a load, beside the instrument's own.
    fn latency_plot(&self, size: &str) -> Lines {
        let series = |name: String, ns: [Option<f64>; 3]| {
            let points = PERCENTILES.iter().zip(ns);
            let points = points.filter_map(|((_, one_in), ns)| Some((*one_in, ns? / 1e3))).collect();
            Series { name, mark: Mark::Line, points }
        };
        let loads = self.figures.iter().filter(|figure| figure.size == size);
        let loads = loads.filter_map(|figure| figure.name.strip_prefix("latency p50 at "));
        let median = |percentile: &str, at: &str| {
            self.figure(&format!("latency {percentile} at {at}"), size).map(|figure| figure.median)
        };
        let mut all: Vec<Series> = loads
            .map(|at| series(format!("at {at}"), PERCENTILES.map(|(percentile, _)| median(percentile, at))))
            .collect();
        let own = |name: &str, l: &LatencyReport| {
            series(name.into(), [l.p50, l.p99, l.p99_9].map(|ns| Some(ns as f64)))
        };
        if let Some(floor) = &self.floor {
            all.push(own("instrument alone, in memory", &floor.memory_ns));
            all.extend(floor.veth_ns.as_ref().map(|veth| own("instrument alone, bare veth", veth)));
        }
        Lines {
            title: format!("Latency of frames of {}: medians of the repeats", frame(size)),
            x: Axis::log("one packet in N takes longer: p50 at 2, p99 at 100, p99.9 at 1000"),
            y: Axis::log("latency, \u{3bc}s"),
            series: all,
        }
    }
}

fn frame(size: &str) -> String {
    if size.parse::<u32>().is_ok() { format!("{size} B") } else { size.to_owned() }
}

fn distinct(names: impl Iterator<Item = String>) -> Vec<String> {
    let mut distinct: Vec<String> = Vec::new();
    for name in names {
        if !distinct.contains(&name) {
            distinct.push(name);
        }
    }
    distinct
}

#[cfg(test)]
mod tests {
    use super::super::Better;
    use super::super::tests::trial;
    use super::*;

    #[test]
    fn there_is_a_plot_for_what_was_measured_and_no_other() {
        let mut report = BenchReport::new("certify");
        assert!(report.plots().is_empty());
        report.trials.push(trial("loss", "64", 1000, 1000, 900));
        report.trials.push(trial("loss", "imix", 1000, 1000, 1000));
        report.figures.push(Figure::new("NDR", "64", "packets/s", Better::Higher, 900.0));
        for (percentile, _) in PERCENTILES {
            let name = format!("latency {percentile} at 50% of NDR");
            report.figures.push(Figure::new(&name, "64", "ns", Better::Lower, 20_000.0));
        }
        let plots = report.plots();
        assert_eq!(
            plots.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(),
            ["loss", "rates", "latency-64"]
        );
        let svg: Vec<String> = plots.iter().map(|(_, plot)| plot.to_svg().unwrap()).collect();
        assert!(
            svg[0].contains("imix") && svg[1].contains("64 B") && svg[2].contains("50% of NDR"),
            "{svg:?}"
        );
    }
}
