//! Holds what a packet costs in instructions and allocations to `benches/bounds.toml`. `make bounds`, `make bounds-renew`.
//!
//! ```text
//!   rows: NAME ─► work, prepared       callgrind: this very program, once a row, counted        bounds.toml
//!                   └──────────────────────────────► instructions, allocations a packet ◄── held to ──┘
//! ```
//!
//! callgrind executes the program by itself and counts: no clock, no cache and no neighbour changes what it says, so a
//! machine's noise cannot fail this. What it says depends on the compiler, which the file of bounds therefore names.

#![allow(clippy::print_stdout, reason = "the table is what it is for")]

mod callgrind;
mod limits;
mod report;
mod rows;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail, ensure};
use clap::Parser;

use limits::Limits;
use report::{Counted, Verdict};

/// Counts instructions and allocations a packet by callgrind and holds them to bounds.
#[derive(Debug, Parser)]
struct Arguments {
    /// Write what is counted, with a little room, as the new bounds instead of holding it to the old
    #[arg(long)]
    renew: bool,
    /// The bounds
    #[arg(long, value_name = "FILE", default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/bounds.toml"))]
    bounds: PathBuf,
    /// Where callgrind's profiles and bounds.json go
    #[arg(long, value_name = "FOLDER", default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/bench"))]
    out: PathBuf,
    /// Do the work of one row and print its packets: what callgrind is put around
    #[arg(long, value_name = "ROW", hide = true)]
    work: Option<String>,
    /// Parts of the names of the rows to count; all rows where none is given
    rows: Vec<String>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let done = match &arguments.work {
        Some(row) => work(row),
        None if arguments.renew => renew(&arguments),
        None => hold(&arguments),
    };
    match done {
        Ok(code) => code,
        Err(error) => {
            eprintln!("bounds: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The inside of a callgrind run.
fn work(row: &str) -> Result<ExitCode> {
    let row = rows::all()
        .chain([rows::control()])
        .find(|known| known.name == row)
        .with_context(|| format!("no row \"{row}\""))?;
    println!("{}", (row.work)());
    Ok(ExitCode::SUCCESS)
}

/// Counts and holds to the bounds.
fn hold(arguments: &Arguments) -> Result<ExitCode> {
    let limits = Limits::read(&arguments.bounds)?;
    let wanted = wanted(&arguments.rows)?;
    let counted = count(&wanted, &arguments.out)?;
    let mut verdicts: Vec<Verdict> = counted.iter().map(|row| limits.judge(row)).collect();
    if arguments.rows.is_empty() {
        verdicts.extend(limits.without_row(&wanted));
        report::write(&arguments.out, &counted, &limits)?;
    }
    report::print(&counted, &limits);
    for verdict in &verdicts {
        match verdict {
            Verdict::Held => {}
            Verdict::Loose(text) => eprintln!("warning: {text}"),
            Verdict::Broken(text) => eprintln!("error: {text}"),
        }
    }
    if verdicts.iter().any(|verdict| matches!(verdict, Verdict::Broken(_))) {
        let compiler = limits::compiler()?;
        if limits.rustc != compiler {
            eprintln!("note: the bounds were made with {}, this is {compiler}", limits.rustc);
        }
        return Ok(ExitCode::FAILURE);
    }
    println!("\n{} rows within their bounds", counted.len());
    Ok(ExitCode::SUCCESS)
}

/// Counts twice and writes new bounds. Rows that are not asked for keep theirs.
fn renew(arguments: &Arguments) -> Result<ExitCode> {
    let wanted = wanted(&arguments.rows)?;
    let counted = count(&wanted, &arguments.out)?;
    let again = count(&wanted, &arguments.out)?;
    for (first, second) in counted.iter().zip(&again) {
        ensure!(
            first.is_near(second),
            "{}: {:.2}, then {:.2} instructions a packet: something in it depends on chance, and it cannot be bounded",
            first.row,
            first.instructions,
            second.instructions,
        );
    }
    let old = match arguments.rows.is_empty() {
        true => None,
        false => Some(Limits::read(&arguments.bounds)?),
    };
    let limits = Limits::around(&counted, old)?;
    limits.write(&arguments.bounds)?;
    if arguments.rows.is_empty() {
        report::write(&arguments.out, &counted, &limits)?;
    }
    report::print(&counted, &limits);
    println!("\nwritten to {}", arguments.bounds.display());
    Ok(ExitCode::SUCCESS)
}

fn wanted(parts: &[String]) -> Result<Vec<rows::Row>> {
    let is_wanted =
        |row: &rows::Row| parts.is_empty() || parts.iter().any(|part| row.name.contains(part.as_str()));
    let wanted: Vec<_> = rows::all().filter(is_wanted).collect();
    if wanted.is_empty() {
        bail!("no row's name has a part {parts:?}");
    }
    Ok(wanted)
}

/// One callgrind run a row, as many at a time as there are cores.
fn count(rows: &[rows::Row], out: &Path) -> Result<Vec<Counted>> {
    let program = std::env::current_exe().context("where this program is")?;
    let folder = out.join("callgrind");
    std::fs::create_dir_all(&folder).with_context(|| format!("the folder {}", folder.display()))?;
    let control = callgrind::count(&program, &rows::control().name, &folder).context("the control")?;
    ensure!(
        control.allocations == control.packets,
        "callgrind has seen {} of {} allocations made on purpose: what it says of the others is worth nothing",
        control.allocations,
        control.packets
    );
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let next = std::sync::atomic::AtomicUsize::new(0);
    let take = || -> Result<Vec<(usize, Counted)>> {
        let mut done = Vec::new();
        while let index = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed)
            && let Some(row) = rows.get(index)
        {
            let count = callgrind::count(&program, &row.name, &folder)
                .with_context(|| format!("row {}", row.name))?;
            done.push((index, Counted::new(row, &count)));
        }
        Ok(done)
    };
    let mut counted = std::thread::scope(|scope| -> Result<Vec<(usize, Counted)>> {
        let threads: Vec<_> = (0..cores).map(|_| scope.spawn(take)).collect();
        let mut all = Vec::new();
        for thread in threads {
            let Ok(done) = thread.join() else { bail!("a thread that counts has died") };
            all.extend(done?);
        }
        Ok(all)
    })?;
    counted.sort_by_key(|(index, _)| *index);
    Ok(counted.into_iter().map(|(_, counted)| counted).collect())
}
