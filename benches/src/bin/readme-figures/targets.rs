//! What the pipeline is to reach, and whether it does.

use crate::figures::{BOUNDS, Figures, PIPELINE};

/// Unit of the pipeline's rows.
pub(crate) const CYCLES: &str = "cycles/packet";

/// What is to be reached.
struct Target {
    work: &'static str,
    row: &'static str,
    reach: Reach,
}

enum Reach {
    /// TSC cycles a packet.
    Cycles(f64),
    /// So many times what another row takes.
    Times(f64, &'static str),
}

const TARGETS: [Target; 13] = [
    Target {
        work: "parse, flow hit, verdict, Service NAT, VXLAN; 16 K flows",
        row: "full/16k",
        reach: Reach::Cycles(80.0),
    },
    Target { work: "the same, 1 M flows in no order", row: "full/1m", reach: Reach::Cycles(140.0) },
    Target { work: "the same, 4 M flows in no order", row: "full/4m", reach: Reach::Cycles(180.0) },
    Target { work: "16 K flows, batches of 16", row: "full/16k/16", reach: Reach::Times(1.3, "full/16k") },
    Target { work: "16 K flows, batches of 4", row: "full/16k/4", reach: Reach::Times(2.0, "full/16k") },
    Target { work: "16 K flows, single packets", row: "full/16k/1", reach: Reach::Times(4.0, "full/16k") },
    Target { work: "routed, nothing translated", row: "forward/16k", reach: Reach::Cycles(50.0) },
    Target {
        work: "a new flow: 10 K rules, 5 K Services, route, two entries",
        row: "miss/16k",
        reach: Reach::Cycles(1000.0),
    },
    Target { work: "IPv6, 16 K flows", row: "full6/16k", reach: Reach::Times(1.25, "full/16k") },
    Target { work: "IPv6, 1 M flows in no order", row: "full6/1m", reach: Reach::Times(1.25, "full/1m") },
    Target { work: "IPv6, 4 M flows in no order", row: "full6/4m", reach: Reach::Times(1.25, "full/4m") },
    Target { work: "IPv6, routed", row: "forward6/16k", reach: Reach::Times(1.25, "forward/16k") },
    Target { work: "IPv6, a new flow", row: "miss6/16k", reach: Reach::Times(1.25, "miss/16k") },
];

/// A line of the table: work, row, what is to be reached, what was, and whether.
pub(crate) type Line = [String; 5];

/// The pipeline's targets beside what was measured.
pub(crate) fn lines(figures: &Figures) -> Vec<Line> {
    let mut lines: Vec<Line> = TARGETS.iter().map(|target| line(figures, target)).collect();
    lines.push(allocations(figures));
    lines
}

fn line(figures: &Figures, target: &Target) -> Line {
    let value = figures.value(PIPELINE, target.row, CYCLES);
    let (reach, measured, is_reached) = match target.reach {
        Reach::Cycles(most) => {
            (format!("≤ {most}"), value.map(|value| format!("{value:.1}")), value.map(|value| value <= most))
        }
        Reach::Times(most, other) => {
            let times = value.zip(figures.value(PIPELINE, other, CYCLES)).map(|(value, other)| value / other);
            (
                format!("≤ {most} × `{other}`"),
                times.map(|times| format!("{times:.2} ×")),
                times.map(|times| times <= most),
            )
        }
    };
    finished(target.work, format!("`{}`", target.row), reach, measured, is_reached)
}

/// Those of whole turns, counted with their instructions.
fn allocations(figures: &Figures) -> Line {
    let counted: Vec<u64> = figures.of(BOUNDS).iter().filter_map(|figure| figure.allocations).collect();
    let sum: Option<u64> = (!counted.is_empty()).then(|| counted.iter().sum());
    finished(
        "heap allocations a packet",
        format!("`{}`, all rows", BOUNDS.command),
        "0".into(),
        sum.map(|sum| sum.to_string()),
        sum.map(|sum| sum == 0),
    )
}

fn finished(
    work: &str,
    row: String,
    reach: String,
    measured: Option<String>,
    is_reached: Option<bool>,
) -> Line {
    let verdict = match is_reached {
        Some(true) => "reached",
        Some(false) => "**not reached**",
        None => "",
    };
    [work.into(), row, reach, measured.unwrap_or_else(|| "not measured".into()), verdict.into()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figures::tests::measured;

    fn verdict(figures: &Figures, row: &str) -> [String; 2] {
        let line = lines(figures).into_iter().find(|line| line[1] == format!("`{row}`")).unwrap();
        [line[3].clone(), line[4].clone()]
    }

    #[test]
    fn a_target_is_reached_up_to_its_number() {
        let rows = [("full/16k", 80.0, CYCLES), ("full/1m", 140.1, CYCLES), ("full/16k/1", 320.0, CYCLES)];
        let figures = measured(&[(PIPELINE, &rows)]);
        assert_eq!(verdict(&figures, "full/16k"), ["80.0", "reached"]);
        assert_eq!(verdict(&figures, "full/1m"), ["140.1", "**not reached**"]);
        assert_eq!(verdict(&figures, "full/16k/1"), ["4.00 ×", "reached"]);
    }

    #[test]
    fn what_was_not_measured_is_neither_reached_nor_not() {
        let figures = measured(&[(PIPELINE, &[("full/16k/1", 320.0, CYCLES)])]);
        for row in ["full/4m", "full/16k/1", "miss/16k"] {
            assert_eq!(verdict(&figures, row), ["not measured", ""]);
        }
        assert_eq!(lines(&figures).last().unwrap()[3], "not measured");
    }
}
