//! `conformance`: runs cases for people, and says what came of each.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use agent_api::tools::folder::text;
use anyhow::{Context, Result, bail};
use clap::Parser;
use serde_json::Value;

use super::case::Case;
use super::wire::Wire;
use super::{cluster_policy, cyclonus, folder, offline, report, sample};
use crate::daemon::checkout;
use crate::interrupt;

/// What tells this command's namespaces from those of tests.
const TAG: &str = "conf";
/// The project's own cases, within the checkout.
const OWN: &str = "tests/cases";

/// Options of `conformance`.
#[derive(Debug, Parser)]
#[command(
    name = "conformance",
    about = "Runs conformance cases through the compiled tables, or with --wire on real packets",
    after_help = EXIT_CODES
)]
pub struct Options {
    /// Run on packets: namespaces, penstockd, the kernel's own TCP, UDP and ICMP (root; needs `make build`)
    #[arg(long)]
    pub wire: bool,
    /// Only cases whose name, or one of whose tags, has this part
    #[arg(long, value_name = "PART")]
    pub filter: Option<String>,
    /// Of a file of recorded cases only as many as show every tag
    #[arg(long)]
    pub sample: bool,
    /// Say what would run, and run nothing
    #[arg(long)]
    pub list: bool,
    /// Case folders, folders of those, or files of ../shared/conformance/netpol [default: tests/cases of the checkout]
    #[arg(value_name = "PATH")]
    pub paths: Vec<PathBuf>,
}

const EXIT_CODES: &str = "\
Exit codes:
  0  every case passed, or is pending and says so
  1  a probe met something else than it should
  2  wrong arguments, a malformed case, or no case at all";

/// Runs the command.
pub fn main() -> ExitCode {
    let options = Options::parse();
    let cases = match gather(&options) {
        Ok(cases) => cases,
        Err(error) => {
            crate::say(&format!("{error:#}"));
            return ExitCode::from(2);
        }
    };
    if options.list {
        cases.iter().for_each(|case| crate::say(&format!("{}: {}", case.name, case.about)));
        return ExitCode::SUCCESS;
    }
    let how = if options.wire { "on the wire" } else { "offline" };
    let (outcomes, closed) = if options.wire { on_the_wire(&cases) } else { (offline(&cases), Ok(())) };
    crate::say(&report::print(&outcomes, how));
    if let Err(error) = &closed {
        crate::say(&format!("FAILED: at the end: {error:#}"));
    }
    ExitCode::from(u8::from(report::sums(&outcomes).failed > 0 || closed.is_err()))
}

fn offline(cases: &[Case]) -> Vec<report::Outcome> {
    cases.iter().map(offline::run).collect()
}

fn on_the_wire(cases: &[Case]) -> (Vec<report::Outcome>, Result<()>) {
    let wire = interrupt::watch(TAG).and_then(|()| Wire::new(TAG));
    let mut wire = match wire {
        Ok(wire) => wire,
        Err(error) => return (Vec::new(), Err(error)),
    };
    let outcomes = cases.iter().map(|case| wire.run(case)).collect();
    interrupt::point();
    (outcomes, wire.close())
}

fn gather(options: &Options) -> Result<Vec<Case>> {
    let own = [checkout().join(OWN)];
    let paths = if options.paths.is_empty() { &own[..] } else { &options.paths };
    let mut cases = Vec::new();
    for path in paths {
        let read = read(path)?;
        cases.extend(if options.sample { sample::pick(read) } else { read });
    }
    if let Some(part) = &options.filter {
        cases.retain(|case| case.name.contains(part) || case.tags.iter().any(|tag| tag.contains(part)));
        if cases.is_empty() {
            bail!("--filter {part}: no case is called that");
        }
    }
    Ok(cases)
}

/// Reads the cases at `path`: a file of recorded ones, or folders.
///
/// # Errors
/// With file and field, for whatever is malformed.
pub fn read(path: &Path) -> Result<Vec<Case>> {
    if path.is_file() {
        return recorded(&text(path)?).with_context(|| path.display().to_string());
    }
    folder::find(path)?.iter().map(|folder| folder::load(folder)).collect()
}

/// The two files of recorded cases are told apart by what they have.
fn recorded(text: &str) -> Result<Vec<Case>> {
    let value: Value = serde_json::from_str(text)?;
    match (value.get("cases"), value.get("tests")) {
        (Some(_), None) => cyclonus::load(text),
        (None, Some(_)) => cluster_policy::load(text),
        _ => bail!("has neither cases, as cyclonus' file, nor tests, as network-policy-api's"),
    }
}
