//! The pipeline of this tree against that of another revision, by turns in one run. `make bench-compare BASE=…`.
//!
//! ```text
//!   git worktree at BASE ─► its `pipeline`, built ──┐
//!                                                   ├─► base, this, this, base, … ─► medians, least and most, ratios
//!   this tree, changes included ─► its `pipeline` ──┘
//! ```
//!
//! A figure of another minute or machine is no base: both sides run in the same minutes, first one first, then the other.

#![allow(clippy::print_stdout, reason = "the table is what it is for")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result, bail, ensure};
use clap::Parser;

/// Runs the pipeline benchmark of this tree and of another revision by turns and prints the ratios.
#[derive(Debug, Parser)]
struct Arguments {
    /// The revision to compare with
    #[arg(long, value_name = "REVISION")]
    base: String,
    /// Times that each side runs
    #[arg(long, value_name = "COUNT", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// The repository
    #[arg(long, value_name = "FOLDER", default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/.."))]
    repository: PathBuf,
    /// Parts of the names of the rows to run; all rows where none is given
    rows: Vec<String>,
}

/// TSC cycles a packet by row, each as often as it was run.
type Measured = BTreeMap<String, Vec<f64>>;

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench-compare: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<()> {
    let repository = arguments.repository.canonicalize().context("the repository")?;
    let commit = output(
        git(&repository)
            .args(["rev-parse", "--short", "--verify"])
            .arg(format!("{}^{{commit}}", arguments.base)),
    )?;
    let commit = commit.trim();
    let base = Worktree::at(&repository, commit)?;
    // In a target folder of its own: cargo names what it builds by the place within the workspace, so that the two trees
    // would overwrite each other's programs in one, and a tree be compared with itself.
    let target = repository.join("target");
    let programs = [build(&base.folder, &target.join("bench-base/build"))?, build(&repository, &target)?];
    // A run with a part of a name writes no summary; each name has this part.
    let parts = if arguments.rows.is_empty() { vec!["/".to_owned()] } else { arguments.rows.clone() };
    let mut sides = [Measured::new(), Measured::new()];
    for round in 0..arguments.rounds {
        // Who goes first changes, or what a round does to the machine would always meet the same side.
        let order = if round % 2 == 0 { [0, 1] } else { [1, 0] };
        for side in order {
            let printed = output(Command::new(&programs[side]).args(&parts).stderr(Stdio::inherit()))?;
            let rows = rows(&printed);
            ensure!(!rows.is_empty(), "{} has printed no row", programs[side].display());
            rows.into_iter().for_each(|(row, cycles)| sides[side].entry(row).or_default().push(cycles));
        }
        eprintln!("round {} of {}", round + 1, arguments.rounds);
    }
    print!("{}", table(&sides, commit));
    Ok(())
}

/// A worktree of the repository, removed in the end; what was built for it stays in the target folder.
struct Worktree<'a> {
    repository: &'a Path,
    folder: PathBuf,
}

impl<'a> Worktree<'a> {
    fn at(repository: &'a Path, commit: &str) -> Result<Self> {
        let folder = repository.join("target/bench-base/tree");
        let worktree = Worktree { repository, folder };
        // One that a killed run has left.
        worktree.remove();
        output(
            git(repository)
                .args(["worktree", "add", "--force", "--detach", "--quiet"])
                .arg(&worktree.folder)
                .arg(commit),
        )?;
        Ok(worktree)
    }

    fn remove(&self) {
        // It fails where there is none.
        let _ = git(self.repository).args(["worktree", "remove", "--force"]).arg(&self.folder).output();
    }
}

impl Drop for Worktree<'_> {
    fn drop(&mut self) {
        self.remove();
    }
}

fn git(repository: &Path) -> Command {
    let mut command = Command::new("git");
    command.arg("-C").arg(repository);
    command
}

/// Builds the benchmark of a tree in a target folder and answers with the program.
fn build(tree: &Path, target: &Path) -> Result<PathBuf> {
    eprintln!("building {}", tree.display());
    let mut cargo = Command::new("cargo");
    cargo.args(["bench", "-p", "benches", "--bench", "pipeline", "--no-run", "--message-format=json"]);
    cargo.current_dir(tree).env("CARGO_TARGET_DIR", target).stderr(Stdio::inherit());
    let messages = output(&mut cargo)?;
    program(&messages).with_context(|| format!("no program `pipeline` in {}", tree.display()))
}

/// The program among cargo's messages.
fn program(messages: &str) -> Option<PathBuf> {
    let mut artifacts =
        messages.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let artifact = artifacts
        .find(|artifact| artifact["target"]["name"] == "pipeline" && artifact["executable"].is_string())?;
    artifact["executable"].as_str().map(PathBuf::from)
}

fn output(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("{command:?}"))?;
    if !output.status.success() {
        bail!("{command:?} ended with {}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The rows of a printed table: a name of several parts, then cycles a packet.
fn rows(printed: &str) -> Vec<(String, f64)> {
    let row = |line: &str| {
        let mut words = line.split_whitespace();
        let name = words.next().filter(|name| name.contains('/'))?;
        let cycles = words.next()?.parse().ok().filter(|cycles: &f64| *cycles > 0.0)?;
        // Older revisions name the usual batch as well.
        Some((name.strip_suffix("/64").unwrap_or(name).to_owned(), cycles))
    };
    printed.lines().filter_map(row).collect()
}

fn table([base, this]: &[Measured; 2], commit: &str) -> String {
    let mut text = format!(
        "\nTSC cycles a packet: median (least to most)\n{:20} {:>26} {:>26} {:>12}\n",
        "row",
        format!("base {commit}"),
        "this tree",
        "this / base"
    );
    for (row, this) in this {
        let (ours, theirs) = (Spread::of(this), base.get(row).map(|base| Spread::of(base)));
        let [theirs, verdict] = match theirs {
            Some(theirs) => [theirs.to_string(), ours.against(&theirs)],
            None => ["-".into(), String::new()],
        };
        text += &format!("{row:20} {theirs:>26} {:>26} {verdict:>12}\n", ours.to_string());
    }
    for (row, base) in base.iter().filter(|(row, _)| !this.contains_key(*row)) {
        text += &format!("{row:20} {:>26} {:>26}\n", Spread::of(base).to_string(), "-");
    }
    text + "~ the ranges overlap: no difference that this run could tell\n"
}

/// What a row took, over the rounds.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Spread {
    median: f64,
    least: f64,
    most: f64,
}

impl Spread {
    /// Of at least one value.
    fn of(values: &[f64]) -> Self {
        let mut values = values.to_vec();
        values.sort_by(f64::total_cmp);
        let middle = values.len() / 2;
        let median =
            if values.len() % 2 == 1 { values[middle] } else { (values[middle - 1] + values[middle]) / 2.0 };
        Spread { median, least: values[0], most: values[values.len() - 1] }
    }

    /// The ratio of the medians, and whether the ranges overlap.
    fn against(&self, base: &Spread) -> String {
        let overlap = self.least <= base.most && base.least <= self.most;
        format!("{}{:.3}", if overlap { "~ " } else { "" }, self.median / base.median)
    }
}

impl std::fmt::Display for Spread {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:.1} ({:.1} to {:.1})", self.median, self.least, self.most)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_told_from_what_is_printed_around_them() {
        let printed = "\nrow     cycles/packet  ns/packet\nport/16k/1    20.0   7.73\nfull/16k/64  130.9  50.42  121.4\n\
                       \nwritten to /work/target/bench/summary.json\n";
        assert_eq!(rows(printed), [("port/16k/1".to_owned(), 20.0), ("full/16k".to_owned(), 130.9)]);
    }

    #[test]
    fn the_program_is_found_among_cargos_messages() {
        let messages = "{\"reason\":\"build-script\"}\nno json\n\
                        {\"target\":{\"name\":\"pipeline\"},\"executable\":null}\n\
                        {\"target\":{\"name\":\"pipeline\"},\"executable\":\"/a/pipeline-1\"}\n";
        assert_eq!(program(messages), Some(PathBuf::from("/a/pipeline-1")));
        assert_eq!(program(""), None);
    }

    #[test]
    fn medians_of_odd_and_even_counts() {
        assert_eq!(Spread::of(&[3.0, 1.0, 2.0]), Spread { median: 2.0, least: 1.0, most: 3.0 });
        assert_eq!(Spread::of(&[4.0, 1.0]).median, 2.5);
    }

    #[test]
    fn ranges_that_overlap_are_no_difference() {
        let (slow, fast) = (Spread::of(&[100.0, 110.0]), Spread::of(&[80.0, 90.0]));
        assert_eq!(fast.against(&slow), "0.810");
        assert_eq!(Spread::of(&[95.0, 101.0]).against(&slow), "~ 0.933");
    }

    #[test]
    fn a_row_of_one_side_alone_has_no_ratio() {
        let side = |row: &str, values: &[f64]| Measured::from([(row.to_owned(), values.to_vec())]);
        let text = table(&[side("old/1", &[1.0]), side("new/1", &[2.0])], "abc");
        assert!(text.contains("old/1") && text.contains("new/1") && !text.contains("2.000"), "{text}");
    }
}
