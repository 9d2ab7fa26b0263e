//! The files of a report, and its forms on standard output.

use std::fs;
use std::io::{self, Write};
use std::path::Path;

use super::{BenchReport, Document};
use crate::options::Form;
use crate::run::Failure;

impl BenchReport {
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
            Form::Csv => out.write_all(self.figures_csv().as_bytes()),
            Form::Table => out.write_all(Document::new(self, Vec::new()).to_text().as_bytes()),
        }
    }

    /// Writes all forms and the plots into `directory`, which is made where it is not there.
    ///
    /// # Errors
    /// [`Failure::File`] naming the file, [`Failure::Plot`] naming the plot.
    pub fn write_all(&self, directory: &Path) -> Result<(), Failure> {
        fs::create_dir_all(directory).map_err(|error| file(directory, &error))?;
        let mut pictures = Vec::new();
        for (name, plot) in self.plots() {
            plot.write(&directory.join(&name))?;
            pictures.push(plot.to_svg()?);
        }
        let mut json = Vec::new();
        self.write(Form::Json, &mut json).map_err(|error| file(&directory.join("report.json"), &error))?;
        let files = [
            ("report.json", json),
            ("report.html", Document::new(self, pictures).to_html().into_bytes()),
            ("figures.csv", self.figures_csv().into_bytes()),
            ("trials.csv", self.trials_csv().into_bytes()),
        ];
        for (name, bytes) in files {
            let path = directory.join(name);
            fs::write(&path, bytes).map_err(|error| file(&path, &error))?;
        }
        Ok(())
    }

    /// A header line, and a line a repeat of each figure.
    pub fn figures_csv(&self) -> String {
        let mut csv = String::from("figure,frame,unit,better,repeat,value\n");
        for figure in &self.figures {
            let better = if figure.better == super::Better::Higher { "higher" } else { "lower" };
            for (index, value) in figure.repeats.iter().enumerate() {
                let [name, size, unit] = [&figure.name, &figure.size, &figure.unit].map(|text| quoted(text));
                csv.push_str(&format!("{name},{size},{unit},{better},{},{value}\n", index + 1));
            }
        }
        csv
    }

    /// A header line, and a line a trial.
    pub fn trials_csv(&self) -> String {
        let mut csv = String::from(
            "trial,test,frame,load_pps,asked_seconds,asked,sent,seconds,sent_pps,forfeited,received,lost,lost_at_sender,\
             device_dropped,receiver_overflow,duplicates,reordered,latency_samples,latency_min_ns,latency_p50_ns,\
             latency_p90_ns,latency_p99_ns,latency_p99_9_ns,latency_max_ns\n",
        );
        let some = |value: Option<f64>| value.map_or(String::new(), |value| value.to_string());
        for (index, t) in self.trials.iter().enumerate() {
            let latency = t.latency_ns.as_ref().map_or("0,,,,,,".to_owned(), |l| {
                format!("{},{},{},{},{},{},{}", l.samples, l.min, l.p50, l.p90, l.p99, l.p99_9, l.max)
            });
            csv.push_str(&format!(
                "{},{},{},{},{},{},{},{},{},{},{},{},{},{},{},{},{},{latency}\n",
                index + 1,
                quoted(&t.test),
                quoted(&t.size),
                some(t.load_pps),
                some(t.asked_seconds),
                t.asked,
                t.sent,
                t.seconds,
                t.sent_pps,
                t.forfeited,
                t.received,
                t.lost,
                t.lost_at_sender,
                t.device_dropped,
                t.receiver_overflow,
                t.duplicates,
                t.reordered,
            ));
        }
        csv
    }
}

/// A field of CSV (RFC 4180): quoted where it must be.
fn quoted(text: &str) -> String {
    if text.contains([',', '"', '\n', '\r']) {
        format!("\"{}\"", text.replace('"', "\"\""))
    } else {
        text.to_owned()
    }
}

fn file(path: &Path, error: &io::Error) -> Failure {
    Failure::File { file: path.display().to_string(), reason: error.to_string() }
}

#[cfg(test)]
mod tests {
    use super::super::tests::trial;
    use super::super::{Better, Figure};
    use super::*;

    fn report() -> BenchReport {
        let mut report = BenchReport::new("search");
        let mut figure = Figure::new("loss 0.5%, \"mine\"", "64", "packets/s", Better::Higher, 10.0);
        figure.push(11.0);
        report.figures.push(figure);
        report.trials.push(trial("search NDR, 64 B", "64", 1000, 1000, 999));
        report
    }

    #[test]
    fn csv_has_a_line_a_repeat_and_a_line_a_trial() {
        let report = report();
        let csv = report.figures_csv();
        let lines: Vec<_> = csv.lines().collect();
        assert_eq!(lines.len(), 3);
        assert_eq!(lines[2], "\"loss 0.5%, \"\"mine\"\"\",64,packets/s,higher,2,11");
        let csv = report.trials_csv();
        let lines: Vec<_> = csv.lines().collect();
        assert_eq!(lines.len(), 2);
        // One comma is within quotes.
        assert_eq!(lines[0].matches(',').count() + 1, lines[1].matches(',').count(), "{csv}");
    }

    #[test]
    fn all_files_are_there_and_a_directory_that_cannot_be_made_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let deep = directory.path().join("a/b");
        report().write_all(&deep).unwrap();
        let names =
            ["report.json", "report.html", "figures.csv", "trials.csv", "loss.svg", "loss.png", "rates.svg"];
        for name in names {
            assert!(fs::metadata(deep.join(name)).unwrap().len() > 50, "{name}");
        }
        let error = report().write_all(Path::new("/proc/nowhere")).unwrap_err();
        assert!(error.to_string().contains("/proc/nowhere"), "{error}");
    }
}
