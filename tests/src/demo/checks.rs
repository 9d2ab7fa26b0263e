//! [`Checks`]: what was looked at, whether it held, and in which words it is told.

use std::io::IsTerminal;
use std::path::Path;

use anyhow::{Context, Error, Result};
use serde::Serialize;
use serde_json::{Value, json};

use crate::interrupt;

/// Width of the column of names.
const NAMES: usize = 64;

/// One thing that was looked at.
#[derive(Debug, Clone, Serialize)]
pub struct Check {
    /// What must hold, in a few words.
    pub name: String,
    /// Whether it does.
    pub ok: bool,
    /// What was seen.
    pub detail: String,
}

/// The list of them, told as it grows or not at all.
#[derive(Debug, Default)]
pub struct Checks {
    list: Vec<Check>,
    aloud: bool,
    colour: bool,
}

impl Checks {
    /// A list that prints a line a check; in colour where a terminal reads it.
    pub fn aloud() -> Self {
        Checks { list: Vec::new(), aloud: true, colour: std::io::stdout().is_terminal() }
    }

    /// A list that prints nothing.
    pub fn silent() -> Self {
        Checks::default()
    }

    /// Looks: `work` returns what was seen where it holds, and what is wrong where it does not.
    pub fn check(&mut self, name: &str, work: impl FnOnce() -> Result<String>) {
        interrupt::point();
        let seen = work();
        interrupt::point();
        match seen {
            Ok(detail) => self.enter(name, true, detail),
            Err(error) => self.failed(name, &error),
        }
    }

    /// Enters a failure.
    pub fn failed(&mut self, name: &str, error: &Error) {
        self.enter(name, false, format!("{error:#}"));
    }

    /// How many held, of how many.
    pub fn count(&self) -> (usize, usize) {
        (self.list.iter().filter(|check| check.ok).count(), self.list.len())
    }

    /// Those that did not hold, a line each; for a test to be empty.
    pub fn failures(&self) -> Vec<String> {
        let failed = self.list.iter().filter(|check| !check.ok);
        failed.map(|check| format!("{}: {}", check.name, check.detail)).collect()
    }

    /// Writes the report: `{"checks": […], "traffic": {…}}`.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(&self, path: &Path, traffic: &Value) -> Result<()> {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
        }
        let traffic = if traffic.is_null() { json!({}) } else { traffic.clone() };
        let report = json!({ "checks": self.list, "traffic": traffic });
        let text = serde_json::to_string_pretty(&report)? + "\n";
        std::fs::write(path, text).with_context(|| path.display().to_string())
    }

    fn enter(&mut self, name: &str, ok: bool, detail: String) {
        if self.aloud {
            let word = match (ok, self.colour) {
                (true, false) => "ok    ".to_owned(),
                (true, true) => "\u{1b}[32mok\u{1b}[0m    ".to_owned(),
                (false, false) => "FAILED".to_owned(),
                (false, true) => "\u{1b}[31mFAILED\u{1b}[0m".to_owned(),
            };
            // One line a check, whatever an error's chain has quoted.
            let line = detail.split_whitespace().collect::<Vec<_>>().join(" ");
            crate::say(&format!("{word}  {name:<NAMES$}  {line}"));
        }
        self.list.push(Check { name: name.to_owned(), ok, detail });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::bail;

    #[test]
    fn the_report_has_each_check_and_failures_their_words() {
        let mut checks = Checks::silent();
        checks.check("it holds", || Ok("seen".to_owned()));
        checks.check("it does not", || bail!("nothing came"));
        assert_eq!(checks.count(), (1, 2));
        assert_eq!(checks.failures(), ["it does not: nothing came"]);
        let path = std::env::temp_dir().join(format!("penstock-checks-{}/report.json", std::process::id()));
        checks.write(&path, &Value::Null).unwrap();
        let report: Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
        assert_eq!(
            report["checks"][1],
            json!({"name": "it does not", "ok": false, "detail": "nothing came"})
        );
        assert!(report["traffic"].is_object());
        std::fs::remove_dir_all(path.parent().unwrap()).unwrap();
    }
}
