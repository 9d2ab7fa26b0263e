//! Cases in folders: `case.yaml` beside the manifests that it names. `tests/cases/README.md` says how to write one.

use std::collections::HashSet;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use agent_api::tools::folder::text;
use anyhow::{Context, Result, bail, ensure};
use policy_compiler::evaluate::ProbeProtocol;
use serde::Deserialize;

use super::case::{self, Case, Document, Ends, Flow, Outside, Step, Wanted};
use super::matrix;

/// What makes a folder a case.
const FILE: &str = "case.yaml";

/// `case.yaml`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    about: String,
    source: String,
    #[serde(default)]
    outside: Vec<WrittenHost>,
    #[serde(default)]
    objects: Vec<PathBuf>,
    steps: Vec<WrittenStep>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenHost {
    name: String,
    addresses: Vec<IpAddr>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenStep {
    #[serde(default)]
    name: String,
    #[serde(default)]
    objects: Vec<PathBuf>,
    #[serde(default)]
    expect: Vec<WrittenTable>,
    #[serde(default)]
    refused: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenTable {
    on: Vec<String>,
    verdicts: String,
}

/// Whether the folder is a case.
pub fn is_case(folder: &Path) -> bool {
    folder.join(FILE).is_file()
}

/// The folders with a case at `path` or below, sorted.
///
/// # Errors
/// Where a folder cannot be read, or there is none.
pub fn find(path: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    walk(path, &mut found)?;
    ensure!(!found.is_empty(), "{}: no folder with a {FILE}", path.display());
    found.sort();
    Ok(found)
}

fn walk(path: &Path, found: &mut Vec<PathBuf>) -> Result<()> {
    if is_case(path) {
        found.push(path.to_owned());
        return Ok(());
    }
    for entry in std::fs::read_dir(path).with_context(|| path.display().to_string())? {
        let entry = entry.with_context(|| path.display().to_string())?;
        // Links are not followed: they might lead in a circle.
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            walk(&entry.path(), found)?;
        }
    }
    Ok(())
}

/// Reads the case in `folder`.
///
/// # Errors
/// With file and field, for whatever is malformed.
pub fn load(folder: &Path) -> Result<Case> {
    let file = folder.join(FILE);
    let written = parse(&text(&file)?).with_context(|| file.display().to_string())?;
    let name = folder.file_name().unwrap_or(folder.as_os_str()).to_string_lossy().into_owned();
    build(folder, name, written).with_context(|| file.display().to_string())
}

fn parse(text: &str) -> Result<Written> {
    let yaml = serde_norway::Deserializer::from_str(text);
    // The path leads to the field; the problem has line and column.
    serde_path_to_error::deserialize(yaml).map_err(|error| {
        let (path, problem) = (error.path().to_string(), error.inner().to_string());
        // The reader of YAML names the path of some problems by itself, and of others does not.
        let named = path == "." || problem.starts_with(&path);
        anyhow::anyhow!(if named { problem } else { format!("{path}: {problem}") })
    })
}

fn build(folder: &Path, name: String, written: Written) -> Result<Case> {
    for (field, text) in [("about", &written.about), ("source", &written.source)] {
        ensure!(!text.trim().is_empty(), "{field}: is empty");
    }
    ensure!(!written.steps.is_empty(), "steps: is empty");
    let outside = written.outside.into_iter().enumerate().map(|(index, host)| read_host(index, host));
    let mut case = Case {
        name,
        about: written.about.trim().to_owned(),
        tags: Vec::new(),
        outside: outside.collect::<Result<_>>()?,
        steps: Vec::new(),
        pending: None,
        notes: Vec::new(),
    };
    let common = documents(folder, &written.objects).context("objects")?;
    for (index, step) in written.steps.into_iter().enumerate() {
        let step = read_step(folder, &common, step, &mut case, index);
        case.steps.push(step.with_context(|| format!("steps[{index}]"))?);
    }
    Ok(case)
}

fn read_host(index: usize, host: WrittenHost) -> Result<Outside> {
    let families = host.addresses.iter().filter(|address| address.is_ipv4()).count();
    let at = format!("outside[{index}]");
    ensure!(!host.addresses.is_empty(), "{at}.addresses: is empty");
    ensure!(
        families <= 1 && host.addresses.len() - families <= 1,
        "{at}.addresses: more than one of a family"
    );
    ensure!(!host.name.contains('/'), "{at}.name: {:?} looks like a pod's", host.name);
    Ok(Outside { name: host.name, addresses: host.addresses })
}

fn documents(folder: &Path, files: &[PathBuf]) -> Result<Vec<Document>> {
    let document = |(index, file): (usize, &PathBuf)| -> Result<Document> {
        let text = text(&folder.join(file)).with_context(|| format!("[{index}]"))?;
        Ok(Document { name: file.display().to_string(), text })
    };
    files.iter().enumerate().map(document).collect()
}

fn read_step(
    folder: &Path,
    common: &[Document],
    written: WrittenStep,
    case: &mut Case,
    index: usize,
) -> Result<Step> {
    let name = if written.name.is_empty() { format!("step {index}") } else { written.name };
    let mut all = common.to_vec();
    all.extend(documents(folder, &written.objects).context("objects")?);
    let reading = case::read(&all)?;
    if let Some(unused) = reading.unused {
        case.pending.get_or_insert(unused);
    }
    let wanted = match (written.expect.is_empty(), written.refused.is_empty()) {
        (false, true) => {
            let objects = reading.objects.as_ref().map_err(|error| anyhow::anyhow!("{error}"))?;
            Wanted::Flows(flows(&Ends::of(objects, &case.outside)?, &written.expect)?)
        }
        (true, false) => {
            ensure!(!written.refused.iter().any(String::is_empty), "refused: a part is empty");
            Wanted::Refused(written.refused)
        }
        (true, true) => bail!("expect: is missing, and refused, too"),
        (false, false) => bail!("expect and refused exclude each other"),
    };
    Ok(Step { name, documents: all, objects: reading.objects, wanted })
}

fn flows(ends: &Ends, tables: &[WrittenTable]) -> Result<Vec<Flow>> {
    let mut flows = Vec::new();
    for (index, table) in tables.iter().enumerate() {
        let place = format!("expect[{index}]");
        ensure!(!table.on.is_empty(), "{place}.on: is empty");
        let cells = matrix::parse(&table.verdicts).with_context(|| format!("{place}.verdicts"))?;
        for (number, word) in table.on.iter().enumerate() {
            let on = parse_on(word).with_context(|| format!("{place}.on[{number}]"))?;
            for cell in &cells {
                let between = ends.flows(&cell.from, &cell.to, on, cell.allowed);
                flows.extend(between.with_context(|| format!("{place}.verdicts"))?);
            }
        }
        asked_once(&flows).with_context(|| format!("{place}.verdicts"))?;
    }
    Ok(flows)
}

/// Two tables with one flow might disagree.
fn asked_once(flows: &[Flow]) -> Result<()> {
    let mut seen = HashSet::new();
    for flow in flows {
        ensure!(
            seen.insert((&flow.from.name, &flow.to.name, flow.src, flow.number(), flow.port)),
            "{flow} is asked twice"
        );
    }
    Ok(())
}

/// `tcp/80`, `udp/53`, `sctp/9003` or `icmp`.
fn parse_on(word: &str) -> Result<(ProbeProtocol, u16)> {
    if word == "icmp" {
        return Ok((ProbeProtocol::Icmp, 0));
    }
    let wrong = || format!("{word:?} is not tcp/PORT, udp/PORT, sctp/PORT or icmp");
    let (protocol, port) = word.split_once('/').with_context(wrong)?;
    let protocol = match protocol {
        "tcp" => ProbeProtocol::Tcp,
        "udp" => ProbeProtocol::Udp,
        "sctp" => ProbeProtocol::Sctp,
        _ => bail!(wrong()),
    };
    let port: u16 = port.parse().with_context(wrong)?;
    ensure!(port > 0, wrong());
    Ok((protocol, port))
}

#[cfg(test)]
mod tests;
