//! The table of `make bench-peers`: what one core forwards on veth, and whose cycles it takes.

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use crate::section::table;

/// What `bench-peers` writes, as far as it is shown.
#[derive(Debug, Deserialize)]
struct Report {
    schema: String,
    frame: u32,
    parties: Vec<Party>,
}

#[derive(Debug, Deserialize)]
struct Party {
    name: String,
    does: String,
    version: String,
    median_pps: f64,
    min_pps: f64,
    max_pps: f64,
    loss_free_pps: Option<f64>,
    cycles: Option<Cycles>,
    penstockd_ratio: f64,
}

/// TSC cycles a packet.
#[derive(Debug, Deserialize)]
struct Cycles {
    own: f64,
    kernel: f64,
}

const SCHEMA: &str = "penstock.bench-peers/1";

/// The table, and who took part.
pub(crate) fn text(file: &serde_json::Value) -> Result<String> {
    let report: Report = serde_json::from_value(file.clone()).context("no report of bench-peers")?;
    ensure!(report.schema == SCHEMA, "schema \"{}\", not \"{SCHEMA}\"", report.schema);
    let lines = report.parties.iter().map(|party| {
        let cycles = |part: fn(&Cycles) -> f64| {
            party.cycles.as_ref().map_or(String::new(), |cycles| format!("{:.0}", part(cycles)))
        };
        [
            party.name.clone(),
            party.does.clone(),
            format!(
                "{} ({} to {})",
                thousands(party.median_pps),
                thousands(party.min_pps),
                thousands(party.max_pps)
            ),
            party.loss_free_pps.map_or(String::new(), thousands),
            cycles(|cycles| cycles.own),
            cycles(|cycles| cycles.kernel),
            format!("{:.2} ×", party.penstockd_ratio),
        ]
    });
    let head = [
        "party",
        "does",
        "packets/s: median (range)",
        "without loss",
        "own cycles",
        "kernel's cycles",
        "penstockd is",
    ];
    let versions: Vec<&str> = report.parties.iter().map(|party| party.version.as_str()).collect();
    Ok(format!(
        "{}\n\n{}-byte frames, one core a party, the same generator and links, by turns in one run; cycles a packet where the party \
         counts them.\n{}.",
        table(head, 2..7, lines),
        report.frame,
        versions.join("; ")
    ))
}

/// `1234567.8` as `1,234,568`.
fn thousands(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn report() -> serde_json::Value {
        let party = |name: &str, pps: f64, cycles| {
            json!({
                "name": name, "does": "all of it", "version": format!("{name} 1"), "setup": "", "median_pps": pps,
                "min_pps": pps, "max_pps": 2.0 * pps, "delivered_percent": 20.0, "cycles": cycles, "loss_free_pps": null,
                "penstockd_ratio": 600_000.0 / pps, "rounds": [],
            })
        };
        let own = json!({"own": 300.4, "kernel": 2500.0});
        let parties = [party("penstockd", 600_000.0, own), party("testpmd", 400_000.0, json!(null))];
        json!({"schema": SCHEMA, "frame": 64, "parties": parties, "rows": []})
    }

    #[test]
    fn a_party_has_a_line_with_its_own_and_the_kernels_cycles() {
        let text = text(&report()).unwrap();
        let line = |name: &str| {
            let line = text.lines().find(|line| line.starts_with(&format!("| {name}"))).unwrap();
            line.split('|').map(str::trim).map(str::to_owned).collect::<Vec<_>>()[3..8].to_vec()
        };
        assert_eq!(line("penstockd"), ["600,000 (600,000 to 1,200,000)", "", "300", "2500", "1.00 ×"]);
        assert_eq!(line("testpmd"), ["400,000 (400,000 to 800,000)", "", "", "", "1.50 ×"]);
        assert!(text.ends_with("penstockd 1; testpmd 1."));
    }

    #[test]
    fn another_schema_is_refused() {
        let mut other = report();
        other["schema"] = json!("penstock.bench-peers/2");
        assert!(text(&other).unwrap_err().to_string().contains("/2"));
        assert!(text(&json!([])).is_err());
    }

    #[test]
    fn thousands_are_told_apart() {
        assert_eq!([0.0, 999.6, 1234567.8].map(thousands), ["0", "1,000", "1,234,568"]);
    }
}
