//! Where figures come from: when, from which commit, on which machine. Kept beside them as `origins.json`.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::SystemTime;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use crate::figures::{self, PEERS, PLOT, SOURCES, Source};

/// Where the figures of a file come from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Origin {
    /// The day, UTC.
    pub(crate) measured: String,
    /// The newest commit that is no younger than the file.
    pub(crate) commit: String,
    /// The processor's name.
    pub(crate) cpu: String,
    /// Cores there were.
    pub(crate) cores: usize,
    /// The kernel's release.
    pub(crate) kernel: String,
    /// The compiler.
    pub(crate) rustc: String,
}

/// By file.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Origins(BTreeMap<String, Origin>);

const FILE: &str = "origins.json";

impl Origins {
    pub(crate) fn read(folder: &Path) -> Result<Self> {
        let file = folder.join(FILE);
        if !file.exists() {
            return Ok(Origins::default());
        }
        let text = std::fs::read_to_string(&file).with_context(|| file.display().to_string())?;
        serde_json::from_str(&text).with_context(|| file.display().to_string())
    }

    pub(crate) fn of(&self, source: Source) -> Option<&Origin> {
        self.0.get(source.file)
    }

    pub(crate) fn set(&mut self, source: Source, origin: Origin) {
        self.0.insert(source.file.to_owned(), origin);
    }
}

/// Copies what has been measured into `kept`, and writes down where it comes from. Answers with what it did, a line a file.
pub(crate) fn collect(measured: &Path, kept: &Path, repository: &Path) -> Result<Vec<String>> {
    std::fs::create_dir_all(kept).with_context(|| kept.display().to_string())?;
    let mut origins = Origins::read(kept)?;
    let mut lines = Vec::new();
    for source in SOURCES {
        let (from, to) = (measured.join(source.file), kept.join(source.file));
        let Ok(text) = std::fs::read_to_string(&from) else {
            let old = if to.exists() { "the figures in docs/bench stay" } else { "there are none" };
            lines.push(format!("{}: not measured (`{}`); {old}", source.file, source.command));
            continue;
        };
        figures::parse(&text).with_context(|| from.display().to_string())?;
        if std::fs::read_to_string(&to).is_ok_and(|kept| kept == text) && origins.of(source).is_some() {
            lines.push(format!("{}: as before", source.file));
            continue;
        }
        let time = from.metadata().and_then(|metadata| metadata.modified());
        let time = time.with_context(|| from.display().to_string())?;
        std::fs::write(&to, text).with_context(|| to.display().to_string())?;
        let plot = measured.join(PLOT);
        if source == PEERS && plot.exists() {
            std::fs::copy(&plot, kept.join(PLOT)).with_context(|| plot.display().to_string())?;
        }
        origins.set(source, origin(time, repository)?);
        lines.push(format!("{}: taken", source.file));
    }
    let text = serde_json::to_string_pretty(&origins).context("origins as JSON")?;
    let file = kept.join(FILE);
    std::fs::write(&file, text + "\n").with_context(|| file.display().to_string())?;
    Ok(lines)
}

/// This machine, and the commit at a time.
fn origin(time: SystemTime, repository: &Path) -> Result<Origin> {
    let time = jiff::Timestamp::try_from(time).context("the file's time")?;
    let before = format!("--before={}", time.as_second());
    let git = ["-C", &repository.display().to_string(), "rev-list", "-1", "--abbrev-commit", &before, "HEAD"]
        .map(str::to_owned);
    let commit = output("git", &git)?;
    ensure!(!commit.is_empty(), "the figures are older than the first commit");
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").context("/proc/cpuinfo")?;
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").context("the kernel's release")?;
    Ok(Origin {
        measured: time.strftime("%Y-%m-%d").to_string(),
        commit,
        cpu: processor(&cpuinfo),
        cores: std::thread::available_parallelism().map_or(1, usize::from),
        kernel: format!("Linux {}", kernel.trim()),
        rustc: output("rustc", &["--version".to_owned()])?,
    })
}

/// The name in `/proc/cpuinfo`, and whether the machine is a virtual one.
fn processor(cpuinfo: &str) -> String {
    let field = |name: &str| {
        let mut fields = cpuinfo.lines().filter_map(|line| line.split_once(':'));
        fields.find(|(field, _)| field.trim() == name).map(|(_, value)| value.trim())
    };
    let name = field("model name").unwrap_or(std::env::consts::ARCH);
    let is_virtual = field("flags").is_some_and(|flags| flags.split(' ').any(|flag| flag == "hypervisor"));
    if is_virtual { format!("{name}, virtual") } else { name.to_owned() }
}

fn output(program: &str, arguments: &[String]) -> Result<String> {
    let output = Command::new(program).args(arguments).output().with_context(|| program.to_owned())?;
    ensure!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// An origin.
    pub(crate) fn origin() -> Origin {
        Origin {
            measured: "2026-11-25".into(),
            commit: "abc1234".into(),
            cpu: "A CPU".into(),
            cores: 2,
            kernel: "Linux 6".into(),
            rustc: "rustc 1".into(),
        }
    }

    #[test]
    fn a_virtual_processor_is_said_to_be_one() {
        assert_eq!(processor("model name\t: AMD EPYC\nflags\t\t: fpu hypervisor sse\n"), "AMD EPYC, virtual");
        assert_eq!(processor("model name\t: AMD EPYC\nflags\t\t: fpu sse\n"), "AMD EPYC");
        assert_eq!(processor(""), std::env::consts::ARCH);
    }

    #[test]
    fn figures_are_taken_with_their_origin_and_what_is_missing_is_named() {
        let (measured, kept) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let repository = Path::new(env!("CARGO_MANIFEST_DIR"));
        std::fs::write(measured.path().join("summary.json"), "[]").unwrap();
        let collect = || collect(measured.path(), kept.path(), repository).unwrap();
        let lines = collect();
        assert_eq!(lines[0], "summary.json: taken");
        assert_eq!(lines[1], "bounds.json: not measured (`make bounds`); there are none");
        assert_eq!(collect()[0], "summary.json: as before");
        let origins = Origins::read(kept.path()).unwrap();
        assert_eq!(origins.of(SOURCES[0]).unwrap().measured.len(), "2026-11-25".len());
        assert!(origins.of(SOURCES[1]).is_none());
    }

    #[test]
    fn a_file_of_no_figures_is_not_taken() {
        let (measured, kept) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        std::fs::write(measured.path().join("summary.json"), "{}").unwrap();
        assert!(collect(measured.path(), kept.path(), Path::new(".")).is_err());
        assert!(!kept.path().join("summary.json").exists());
    }
}
