//! What is in `docs/bench`.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use crate::origin::{Origin, Origins};

/// A file of figures and the command that writes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Source {
    /// Its name in `target/bench` and in `docs/bench`.
    pub(crate) file: &'static str,
    /// What writes it.
    pub(crate) command: &'static str,
}

/// Whole turns of a worker between ports in memory.
pub(crate) const PIPELINE: Source = Source { file: "summary.json", command: "make bench" };
/// The policy tables beside other classifiers.
pub(crate) const POLICY: Source = Source { file: "policy.json", command: "make bench" };
/// Instructions and allocations.
pub(crate) const BOUNDS: Source = Source { file: "bounds.json", command: "make bounds" };
/// On veth, beside others.
pub(crate) const PEERS: Source = Source { file: "peers.json", command: "make bench-peers" };
/// Over shared memory.
pub(crate) const MEMIF: Source = Source { file: "memif.json", command: "make bench-memif" };
/// Tables replaced under load.
pub(crate) const UPDATES: Source = Source { file: "updates.json", command: "make bench-updates" };
/// All of them.
pub(crate) const SOURCES: [Source; 6] = [PIPELINE, BOUNDS, PEERS, MEMIF, UPDATES, POLICY];

/// What `make bench-peers` draws.
pub(crate) const PLOT: &str = "peers.svg";

/// Batch of the rows that name none: `full/16k` is `full/16k` in batches of 64.
pub(crate) const BATCH: &str = "64";

/// A figure.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub(crate) struct Figure {
    /// What was measured.
    pub(crate) row: String,
    /// How much it was.
    pub(crate) value: f64,
    /// Of what.
    pub(crate) unit: String,
    /// Nanoseconds a packet, beside cycles.
    pub(crate) ns: Option<f64>,
    /// Of the cycles, what the ports alone took.
    pub(crate) port_cycles: Option<f64>,
    /// Heap allocations in all of the row, where they were counted.
    pub(crate) allocations: Option<u64>,
}

/// A file that was measured.
#[derive(Debug)]
pub(crate) struct File {
    /// All of it.
    pub(crate) json: serde_json::Value,
    /// Its rows.
    pub(crate) figures: Vec<Figure>,
}

/// All figures that were measured, by file.
#[derive(Debug, Default)]
pub(crate) struct Figures {
    files: BTreeMap<&'static str, File>,
    origins: Origins,
    has_plot: bool,
}

impl Figures {
    /// Reads `docs/bench`. A file that is not there was not measured.
    pub(crate) fn read(folder: &Path) -> Result<Self> {
        let mut files = BTreeMap::new();
        let origins = Origins::read(folder)?;
        for source in SOURCES {
            let file = folder.join(source.file);
            if !file.exists() {
                continue;
            }
            let text = std::fs::read_to_string(&file).with_context(|| file.display().to_string())?;
            let measured = parse(&text).with_context(|| file.display().to_string())?;
            ensure!(
                origins.of(source).is_some(),
                "{}: nothing says where it comes from; take it there by `make readme-figures`",
                file.display()
            );
            files.insert(source.file, measured);
        }
        Ok(Figures { files, origins, has_plot: folder.join(PLOT).exists() })
    }

    /// The figures of a source; none where it was not measured.
    pub(crate) fn of(&self, source: Source) -> &[Figure] {
        self.file(source).map_or(&[], |file| &file.figures)
    }

    /// All of a source's file.
    pub(crate) fn file(&self, source: Source) -> Option<&File> {
        self.files.get(source.file)
    }

    /// The figure of a row, if it is of that unit.
    pub(crate) fn figure(&self, source: Source, row: &str, unit: &str) -> Option<&Figure> {
        self.of(source).iter().find(|figure| figure.row == row && figure.unit == unit)
    }

    /// The value of a row, if it is of that unit.
    pub(crate) fn value(&self, source: Source, row: &str, unit: &str) -> Option<f64> {
        self.figure(source, row, unit).map(|figure| figure.value)
    }

    /// Whether [`PLOT`] is there.
    pub(crate) fn has_plot(&self) -> bool {
        self.has_plot
    }

    /// Where the figures of a source come from.
    pub(crate) fn origin(&self, source: Source) -> Option<&Origin> {
        self.files.contains_key(source.file).then(|| self.origins.of(source)).flatten()
    }
}

/// An array of figures, or an object whose `rows` are one.
pub(crate) fn parse(text: &str) -> Result<File> {
    let json: serde_json::Value = serde_json::from_str(text).context("no JSON")?;
    let rows = json.get("rows").unwrap_or(&json).clone();
    let figures = serde_json::from_value(rows).context("no array of {\"row\", \"value\", \"unit\"}")?;
    Ok(File { json, figures })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::origin::tests::origin;

    /// Row, value, unit.
    pub(crate) type Row = (&'static str, f64, &'static str);

    /// Figures as if measured.
    pub(crate) fn measured(files: &[(Source, &[Row])]) -> Figures {
        let figure = |&(row, value, unit): &Row| Figure {
            row: row.into(),
            value,
            unit: unit.into(),
            ns: Some(value / 2.0),
            port_cycles: Some(1.0),
            allocations: None,
        };
        let mut figures = Figures::default();
        for (source, rows) in files {
            let file = File { json: serde_json::Value::Null, figures: rows.iter().map(figure).collect() };
            figures.files.insert(source.file, file);
            figures.origins.set(*source, origin());
        }
        figures
    }

    #[test]
    fn a_row_of_another_unit_is_another() {
        let figures = measured(&[(PIPELINE, &[("full/16k", 3.0, "cycles/packet")])]);
        assert_eq!(figures.value(PIPELINE, "full/16k", "cycles/packet"), Some(3.0));
        assert_eq!(figures.value(PIPELINE, "full/16k", "ns/packet"), None);
        assert_eq!(figures.value(BOUNDS, "full/16k", "cycles/packet"), None);
    }

    #[test]
    fn figures_are_an_array_or_rows() {
        let rows = r#"[{"row": "a", "value": 1, "unit": "x", "more": []}]"#;
        let object = format!(r#"{{"rows": {rows}, "machine": {{}}}}"#);
        assert_eq!(parse(rows).unwrap().figures, parse(&object).unwrap().figures);
        for text in
            ["", "{}", r#"[{"row": "a", "unit": "x"}]"#, r#"[{"row": "a", "value": "1", "unit": "x"}]"#]
        {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn figures_from_nowhere_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(PIPELINE.file), "[]").unwrap();
        let error = Figures::read(folder.path()).unwrap_err().to_string();
        assert!(error.contains("summary.json: nothing says where it comes from"), "{error}");
    }
}
