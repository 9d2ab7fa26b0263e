//! Writes README.md's section on performance from the figures in `docs/bench`. `make readme-figures`.
//!
//! ```text
//!   make bench, bounds, bench-…  ─► target/bench/*.json ── --collect ─► docs/bench/*.json, with where they come from
//!                                                                            │
//!                      README.md, between its two markers  ◄── section ──────┘        --check: is it the same?
//! ```
//!
//! The figures are in the repository, so that the check asks for no measurement: it fails where the section was edited by
//! hand, or the figures and not the section. What was not measured is named as such.

#![allow(clippy::print_stdout, reason = "it says what it has done")]

mod figures;
mod origin;
mod peers;
mod section;
mod targets;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use clap::Parser;

use figures::Figures;

/// Writes README.md's section on performance from the figures in docs/bench.
#[derive(Debug, Parser)]
struct Arguments {
    /// First take the figures of the last runs, with commit and machine, from target/bench into docs/bench
    #[arg(long, conflicts_with = "check")]
    collect: bool,
    /// Write nothing; fail where the section is not what docs/bench says
    #[arg(long)]
    check: bool,
    /// The repository
    #[arg(long, value_name = "FOLDER", default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/.."))]
    repository: PathBuf,
}

/// A line that begins so opens the section.
const BEGIN: &str = "<!-- performance: begin";
/// A line that begins so closes it.
const END: &str = "<!-- performance: end";

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("readme-figures: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<()> {
    let repository = &arguments.repository;
    let kept = repository.join("docs/bench");
    if arguments.collect {
        for line in origin::collect(&repository.join("target/bench"), &kept, repository)? {
            println!("{line}");
        }
    }
    let figures = Figures::read(&kept)?;
    let file = repository.join("README.md");
    let readme = read(&file)?;
    let written = spliced(&readme, &section::of(&figures)?).with_context(|| file.display().to_string())?;
    if arguments.check {
        let line = readme.lines().zip(written.lines()).position(|(is, should)| is != should);
        let place = line.map_or(String::new(), |line| format!(" (line {})", line + 1));
        ensure!(
            readme == written,
            "README.md's section on performance is not what docs/bench says{place}: change the figures by \
             `make bench` and the like, then `make readme-figures`; change the words in benches/src/bin/readme-figures"
        );
        println!("README.md says what docs/bench says");
        return Ok(());
    }
    std::fs::write(&file, written).with_context(|| file.display().to_string())?;
    println!("written: README.md's section on performance");
    Ok(())
}

fn read(file: &Path) -> Result<String> {
    std::fs::read_to_string(file).with_context(|| file.display().to_string())
}

/// `text` with `section` between its markers.
fn spliced(text: &str, section: &str) -> Result<String> {
    let place = |marker: &str| {
        let mut places = text.match_indices(marker).map(|(place, _)| place);
        let place = places.next().with_context(|| format!("no line \"{marker} …\""))?;
        ensure!(places.next().is_none(), "two lines \"{marker} …\"");
        Ok(place)
    };
    let (begin, end) = (place(BEGIN)?, place(END)?);
    ensure!(begin < end, "the section ends before it begins");
    let after_begin = text[begin..end].find('\n').context("both markers on one line")? + begin + 1;
    Ok(format!("{}\n{}\n\n{}", &text[..after_begin], section.trim_end(), &text[end..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    const README: &str = "# A\n<!-- performance: begin, by x -->\nold\n<!-- performance: end -->\nrest\n";

    #[test]
    fn what_stands_between_the_markers_is_replaced_and_nothing_else() {
        let new = spliced(README, "new\n\n").unwrap();
        assert_eq!(new, "# A\n<!-- performance: begin, by x -->\n\nnew\n\n<!-- performance: end -->\nrest\n");
        assert_eq!(spliced(&new, "new").unwrap(), new);
    }

    #[test]
    fn a_readme_without_its_markers_is_refused() {
        for text in
            ["", "<!-- performance: begin -->\n", "<!-- performance: end -->\n<!-- performance: begin -->\n"]
        {
            assert!(spliced(text, "new").is_err(), "{text}");
        }
        assert!(spliced(&README.repeat(2), "new").is_err());
    }

    #[test]
    fn an_edit_by_hand_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let arguments = |check| Arguments { collect: false, check, repository: folder.path().into() };
        std::fs::create_dir_all(folder.path().join("docs/bench")).unwrap();
        let file = folder.path().join("README.md");
        std::fs::write(&file, README).unwrap();
        assert!(run(&arguments(true)).is_err());
        run(&arguments(false)).unwrap();
        run(&arguments(true)).unwrap();
        let edited = std::fs::read_to_string(&file).unwrap().replacen("not measured", "fast", 1);
        std::fs::write(&file, edited).unwrap();
        assert!(run(&arguments(true)).unwrap_err().to_string().contains("line"));
    }
}
