//! The file of bounds.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use crate::report::{Counted, Verdict};
use crate::rows::Row;

/// Room above what was counted: a change of this size may pass without a word.
const ROOM: f64 = 0.03;
/// Room at least, in instructions: three hundredths of a short loop are less than one.
const LEAST_ROOM: f64 = 2.0;
/// A count so far below its bound has earned a new one.
const LOOSE: f64 = 0.10;

const HEAD: &str = "\
# What a packet may cost: instructions by row, counted by callgrind, and calls of the heap allocator. `make bounds` (and with it
# CI) fails where a row takes more, and warns where it takes a tenth less: then lower the bound, or the gain can be lost unseen.
#
# Written by `make bounds-renew`: what is counted and 3 % (2 instructions at least). A commit that raises a bound says why.
# Counts depend on the compiler; another one than below may need new bounds. docs/performance.md says more.

";

/// What a packet may cost.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Limits {
    /// The compiler that the bounds were made with, as it names itself.
    pub(crate) rustc: String,
    /// Heap allocations of a row, in all: whatever the number of its packets.
    pub(crate) allocations: u64,
    /// Instructions a packet, by row.
    pub(crate) instructions: BTreeMap<String, f64>,
}

impl Limits {
    pub(crate) fn read(file: &Path) -> Result<Self> {
        let text =
            std::fs::read_to_string(file).with_context(|| format!("the bounds, {}", file.display()))?;
        let limits: Limits =
            toml::from_str(&text).with_context(|| format!("the bounds, {}", file.display()))?;
        for (row, bound) in &limits.instructions {
            ensure!(bound.is_finite() && *bound > 0.0, "{}: {row} = {bound} is no bound", file.display());
        }
        Ok(limits)
    }

    /// New bounds around what was counted; rows of `old` that were not counted stay as they are.
    pub(crate) fn around(counted: &[Counted], old: Option<Limits>) -> Result<Self> {
        let mut instructions = old.map(|old| old.instructions).unwrap_or_default();
        for row in counted {
            let bound = (row.instructions * (1.0 + ROOM)).max(row.instructions + LEAST_ROOM);
            instructions.insert(row.row.clone(), (bound * 10.0).ceil() / 10.0);
        }
        Ok(Limits { rustc: compiler()?, allocations: 0, instructions })
    }

    pub(crate) fn write(&self, file: &Path) -> Result<()> {
        let text = toml::to_string(self).context("bounds as TOML")?;
        std::fs::write(file, format!("{HEAD}{text}"))
            .with_context(|| format!("the bounds, {}", file.display()))
    }

    /// What is to be said of a row.
    pub(crate) fn judge(&self, row: &Counted) -> Verdict {
        let Counted { row: name, instructions, allocations, .. } = row;
        if *allocations > self.allocations {
            let most = self.allocations;
            return Verdict::Broken(format!(
                "{name}: {allocations} heap allocations in {} packets, bound {most}",
                row.packets
            ));
        }
        let Some(bound) = self.instructions.get(name) else {
            return Verdict::Broken(format!(
                "{name}: {instructions:.1} instructions a packet, and no bound; make bounds-renew"
            ));
        };
        let change = (instructions / bound - 1.0) * 100.0;
        let text =
            format!("{name}: {instructions:.1} instructions a packet, bound {bound:.1} ({change:+.1} %)");
        if instructions > bound {
            Verdict::Broken(text)
        } else if *instructions < bound * (1.0 - LOOSE) && bound - instructions > 2.0 * LEAST_ROOM {
            Verdict::Loose(format!("{text}: make bounds-renew"))
        } else {
            Verdict::Held
        }
    }

    /// Bounds of rows that there are no more.
    pub(crate) fn without_row(&self, rows: &[Row]) -> impl Iterator<Item = Verdict> {
        let gone = |name: &&String| !rows.iter().any(|row| row.name == **name);
        self.instructions
            .keys()
            .filter(gone)
            .map(|name| Verdict::Broken(format!("{name}: a bound without a row; make bounds-renew")))
    }
}

/// The compiler, as it names itself.
pub(crate) fn compiler() -> Result<String> {
    let output = Command::new("rustc").arg("--version").output().context("rustc --version")?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counted(instructions: f64, allocations: u64) -> Counted {
        Counted { row: "full".into(), unit: "packet", packets: 100, instructions, allocations }
    }

    fn limits() -> Limits {
        Limits { rustc: "rustc 1".into(), allocations: 0, instructions: [("full".to_owned(), 103.0)].into() }
    }

    #[test]
    fn more_than_the_bound_is_broken_by_name_and_value() {
        assert_eq!(limits().judge(&counted(103.0, 0)), Verdict::Held);
        let Verdict::Broken(text) = limits().judge(&counted(103.1, 0)) else { panic!("held") };
        assert_eq!(text, "full: 103.1 instructions a packet, bound 103.0 (+0.1 %)");
    }

    #[test]
    fn one_allocation_is_broken() {
        let Verdict::Broken(text) = limits().judge(&counted(1.0, 1)) else { panic!("held") };
        assert_eq!(text, "full: 1 heap allocations in 100 packets, bound 0");
    }

    #[test]
    fn far_below_is_told() {
        assert_eq!(limits().judge(&counted(93.0, 0)), Verdict::Held);
        assert!(matches!(limits().judge(&counted(92.0, 0)), Verdict::Loose(_)));
    }

    #[test]
    fn a_row_needs_a_bound_and_a_bound_a_row() {
        let mut limits = limits();
        assert!(limits.without_row(&[]).all(|verdict| matches!(verdict, Verdict::Broken(_))));
        assert_eq!(limits.without_row(&[]).count(), 1);
        limits.instructions.clear();
        assert!(matches!(limits.judge(&counted(1.0, 0)), Verdict::Broken(_)));
    }

    #[test]
    fn bounds_leave_room_and_come_back_as_they_were_written() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("bounds.toml");
        let around = Limits::around(&[counted(1000.0, 0)], Some(limits())).unwrap();
        assert_eq!(around.instructions["full"], 1030.0);
        around.write(&file).unwrap();
        assert_eq!(Limits::read(&file).unwrap(), around);
    }

    #[test]
    fn a_short_row_has_room_for_two_instructions() {
        assert_eq!(Limits::around(&[counted(10.0, 0)], None).unwrap().instructions["full"], 12.0);
    }

    #[test]
    fn nonsense_in_the_file_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("bounds.toml");
        for text in
            ["", "rustc = ''\nallocations = 0\ninstructions = { full = -1.0 }", "rustc = ''\nallocation = 0"]
        {
            std::fs::write(&file, text).unwrap();
            assert!(Limits::read(&file).is_err(), "{text}");
        }
    }
}
