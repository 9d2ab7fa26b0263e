//! What was counted, as a table and as `bounds.json`.

use std::path::Path;

use anyhow::{Context, Result};
use serde_json::json;

use crate::callgrind::Count;
use crate::limits::Limits;
use crate::rows::Row;

/// A row that has been counted.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Counted {
    /// Its name.
    pub(crate) row: String,
    /// What it counts by.
    pub(crate) unit: &'static str,
    /// So many of those.
    pub(crate) packets: u64,
    /// Instructions by each.
    pub(crate) instructions: f64,
    /// Heap allocations in all.
    pub(crate) allocations: u64,
}

/// What is to be said of a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Nothing.
    Held,
    /// Its bound could be lower.
    Loose(String),
    /// It takes more than it may.
    Broken(String),
}

impl Counted {
    pub(crate) fn new(row: &Row, count: &Count) -> Self {
        let Count { packets, instructions, allocations } = *count;
        Counted {
            row: row.name.clone(),
            unit: row.unit,
            packets,
            instructions: instructions as f64 / packets as f64,
            allocations,
        }
    }

    /// Within a thousandth: what two runs of the same program may differ by, where nothing in it depends on chance.
    pub(crate) fn is_near(&self, other: &Counted) -> bool {
        (self.instructions - other.instructions).abs() <= 0.001 * self.instructions.max(other.instructions)
    }
}

pub(crate) fn print(counted: &[Counted], limits: &Limits) {
    println!("{:24} {:>14} {:>10} {:>12}", "row", "instructions", "bound", "allocations");
    for row in counted {
        let bound = limits.instructions.get(&row.row).map_or(String::new(), |bound| format!("{bound:.1}"));
        println!("{:24} {:>14.1} {bound:>10} {:>12}", row.row, row.instructions, row.allocations);
    }
}

/// To `bounds.json`: an array of rows, as `make bench` writes them.
pub(crate) fn write(folder: &Path, counted: &[Counted], limits: &Limits) -> Result<()> {
    let rows: Vec<_> = counted
        .iter()
        .map(|row| {
            json!({
                "row": row.row,
                "value": row.instructions,
                "unit": format!("instructions/{}", row.unit),
                "bound": limits.instructions.get(&row.row),
                "allocations": row.allocations,
            })
        })
        .collect();
    let file = folder.join("bounds.json");
    let text = serde_json::to_string_pretty(&rows).context("rows as JSON")?;
    std::fs::write(&file, text + "\n").with_context(|| file.display().to_string())
}
