//! How an answer or a fault is printed: tables for people, JSON for programs. A reader that has gone is no failure.

use std::io::{self, ErrorKind, Write};
use std::path::Path;
use std::process::ExitCode;

use agent_api::client::ClientError;
use agent_api::contract::{Refusal, RefusalKind};
use agent_api::tools::agent::AgentError;
use agent_api::tools::folder::LoadError;
use clap::ValueEnum;
use comfy_table::{Cell, CellAlignment, ContentArrangement, Table, presets};
use policy_compiler::evaluate::EvaluateError;
use policy_compiler::manifest::ManifestError;
use policy_compiler::objects::ObjectError;
use policy_compiler::tables::CompileError;
use serde::Serialize;
use serde_json::json;

/// Exit code: the answer is negative, or the call was refused.
pub(crate) const NEGATIVE: u8 = 1;
/// Exit code: wrong arguments.
pub(crate) const USAGE: u8 = 2;
/// Exit code: nobody answers.
pub(crate) const UNREACHABLE: u8 = 3;

/// How to print.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// Tables and sentences.
    Human,
    /// JSON.
    Json,
}

/// What a command has found.
#[derive(Debug)]
pub(crate) struct Answer {
    json: String,
    human: String,
    code: u8,
}

impl Answer {
    /// An answer that is `value` to programs and `human` to people.
    pub(crate) fn new(value: &impl Serialize, human: impl Into<String>) -> Result<Self, Fault> {
        let json = serde_json::to_string_pretty(value).map_err(|error| Fault {
            object: "answer".into(),
            field: String::new(),
            problem: error.to_string(),
            kind: "system",
            code: NEGATIVE,
        })?;
        Ok(Answer { json, human: human.into(), code: 0 })
    }

    /// Nothing to print; ends with `code`.
    pub(crate) fn silent(code: u8) -> Self {
        Answer { json: String::new(), human: String::new(), code }
    }

    /// The same answer; it is a negative one where `negative` says so.
    pub(crate) fn negative_if(mut self, negative: bool) -> Self {
        if negative {
            self.code = NEGATIVE;
        }
        self
    }

    pub(crate) fn print(self, output: Output) -> Result<ExitCode, Fault> {
        let text = match output {
            Output::Human => &self.human,
            Output::Json => &self.json,
        };
        print_text(text)?;
        Ok(ExitCode::from(self.code))
    }
}

/// Prints text, ending it with a line break where it has none. Says whether anybody still reads.
pub(crate) fn print_text(text: &str) -> Result<bool, Fault> {
    if text.is_empty() {
        return Ok(true);
    }
    let mut out = io::stdout().lock();
    let end = if text.ends_with('\n') { "" } else { "\n" };
    match write!(out, "{text}{end}").and_then(|()| out.flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(Fault {
            object: "standard output".into(),
            field: String::new(),
            problem: error.to_string(),
            kind: "system",
            code: NEGATIVE,
        }),
    }
}

/// A table for people. Numbers stand at the right.
pub(crate) struct Rows {
    table: Table,
    empty: bool,
}

impl Rows {
    /// A table with these headings.
    pub(crate) fn new<const N: usize>(headings: [&str; N]) -> Self {
        Self::with_headings(headings.map(str::to_uppercase))
    }

    /// The same with as many headings as there are, as they are.
    pub(crate) fn with_headings(headings: impl IntoIterator<Item = String>) -> Self {
        let mut table = Table::new();
        table.load_preset(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
        table.set_header(headings.into_iter().map(Cell::new));
        Rows { table, empty: true }
    }

    /// Adds a row.
    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = impl ToString>) {
        self.empty = false;
        self.table.add_row(cells.into_iter().map(|cell| {
            let text = cell.to_string();
            let number = text.starts_with(|c: char| c.is_ascii_digit()) && text.parse::<f64>().is_ok();
            let alignment = if number { CellAlignment::Right } else { CellAlignment::Left };
            Cell::new(text).set_alignment(alignment)
        }));
    }

    /// The table as text; `nothing` where it has no row.
    pub(crate) fn text(&self, nothing: &str) -> String {
        if self.empty { format!("{nothing}\n") } else { format!("{}\n", self.table.trim_fmt()) }
    }
}

/// Why there is no answer. Prints as `penstockctl: object: field: problem`.
#[derive(Debug)]
pub(crate) struct Fault {
    pub(crate) object: String,
    pub(crate) field: String,
    pub(crate) problem: String,
    /// The kind of a refusal, or "usage", "unreachable", "failed".
    pub(crate) kind: &'static str,
    pub(crate) code: u8,
}

impl Fault {
    /// Wrong arguments.
    pub(crate) fn usage(field: impl Into<String>, problem: impl Into<String>) -> Self {
        let (field, problem) = (field.into(), problem.into());
        Fault { object: "penstockctl".into(), field, problem, kind: "usage", code: USAGE }
    }

    /// A file that an argument names cannot be read.
    pub(crate) fn file(path: &Path, problem: impl ToString) -> Self {
        let (object, problem) = (path.display().to_string(), problem.to_string());
        Fault { object, field: String::new(), problem, kind: "usage", code: USAGE }
    }

    /// Something is wrong with what was given, `object` and `field` of it.
    pub(crate) fn invalid(
        object: impl Into<String>,
        field: impl Into<String>,
        problem: impl Into<String>,
    ) -> Self {
        let (object, field, problem) = (object.into(), field.into(), problem.into());
        Fault { object, field, problem, kind: "invalid", code: NEGATIVE }
    }

    /// Prints it to standard error; the exit code.
    pub(crate) fn print(self, output: Output) -> ExitCode {
        let Fault { object, field, problem, kind, code } = self;
        let text = match output {
            Output::Json => {
                json!({"error": {"object": object, "field": field, "problem": problem, "kind": kind}})
                    .to_string()
            }
            Output::Human => {
                let parts = ["penstockctl", &object, &field, &problem];
                let mut parts: Vec<&str> = parts.into_iter().filter(|part| !part.is_empty()).collect();
                parts.dedup();
                parts.join(": ")
            }
        };
        // There is nobody to tell that printing failed; the exit code says it.
        let _ = writeln!(io::stderr().lock(), "{text}");
        ExitCode::from(code)
    }
}

impl From<Refusal> for Fault {
    fn from(refusal: Refusal) -> Self {
        let kind = match refusal.kind {
            RefusalKind::Invalid => "invalid",
            RefusalKind::NotFound => "not_found",
            RefusalKind::Exists => "exists",
            RefusalKind::Capacity => "capacity",
            RefusalKind::Conflict => "conflict",
            RefusalKind::System => "system",
            RefusalKind::CheckFailed => "check_failed",
        };
        let Refusal { object, field, problem, .. } = refusal;
        Fault { object, field, problem, kind, code: NEGATIVE }
    }
}

impl From<ClientError> for Fault {
    fn from(error: ClientError) -> Self {
        match error {
            ClientError::Refused(refusal) => refusal.into(),
            ClientError::Address(error) => Fault::usage("--socket", error.to_string()),
            ClientError::Unreachable { address, problem } => Fault {
                object: address.to_string(),
                field: String::new(),
                problem,
                kind: "unreachable",
                code: UNREACHABLE,
            },
            error => Fault {
                object: "penstockd".into(),
                field: String::new(),
                problem: error.to_string(),
                kind: "failed",
                code: NEGATIVE,
            },
        }
    }
}

impl From<LoadError> for Fault {
    fn from(error: LoadError) -> Self {
        match error {
            LoadError::Read { path, source } => Fault::file(&path, source),
            LoadError::TooLong { ref path }
            | LoadError::NotText { ref path, .. }
            | LoadError::TooDeep { ref path } => {
                let object = path.display().to_string();
                let text = error.to_string();
                let problem =
                    text.strip_prefix(&object).map_or(text.as_str(), |rest| rest.trim_start_matches(": "));
                Fault::invalid(object, "", problem)
            }
            LoadError::Manifest(ManifestError::Syntax { file, document, problem }) => {
                Fault::invalid(format!("{file}, document {document}"), "", problem)
            }
            LoadError::Manifest(ManifestError::Field { file, document, object, field, problem }) => {
                Fault::invalid(object, field, format!("{problem} ({file}, document {document})"))
            }
            LoadError::Manifest(ManifestError::Duplicate { object, first, second }) => {
                Fault::invalid(object, "metadata.name", format!("is in {first} and again in {second}"))
            }
        }
    }
}

impl From<ObjectError> for Fault {
    fn from(error: ObjectError) -> Self {
        Fault::invalid(error.object, error.field, error.problem)
    }
}

impl From<AgentError> for Fault {
    fn from(error: AgentError) -> Self {
        match error {
            AgentError::Load(error) => error.into(),
            AgentError::Objects(error) => error.into(),
            AgentError::Client(error) => error.into(),
            AgentError::Reading(problem) => Fault::invalid("manifests", "", problem),
        }
    }
}

impl From<CompileError> for Fault {
    fn from(error: CompileError) -> Self {
        match error {
            CompileError::Invalid { object, field, problem } => Fault::invalid(object, field, problem),
            CompileError::Missing { object } => {
                let problem = "is to be removed, but is not there".to_owned();
                Fault { kind: "not_found", ..Fault::invalid(object, "name", problem) }
            }
            CompileError::Capacity { resource, .. } => {
                let problem = error.to_string();
                Fault { kind: "capacity", ..Fault::invalid("Intent", resource, problem) }
            }
        }
    }
}

impl From<EvaluateError> for Fault {
    fn from(error: EvaluateError) -> Self {
        match error {
            EvaluateError::Objects(error) => error.into(),
            EvaluateError::Compile(error) => error.into(),
            EvaluateError::Syntax { path, problem } => Fault::invalid("probes", path, problem),
            EvaluateError::Probe { index, field, problem } => {
                Fault::invalid(format!("probes[{index}]"), field, problem)
            }
        }
    }
}
