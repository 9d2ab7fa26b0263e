//! [`Checks`]: checked compilation. Tables are held to the policies before they are put in force; where they differ the generation
//! is refused, what runs goes on, and the report is kept.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use agent_api::contract::{CheckReport, CheckStats, Refusal, RefusalKind};
use policy_compiler::check::{Checked, Mismatches};
use policy_compiler::compiler::{Compiler, Prepared};
use policy_compiler::intent::Intent;
use policy_compiler::tables::Capacity;

use super::refusal::{not_compiled, refuse};

/// How tables are checked: those of a whole state, and those of an update.
#[derive(Clone, Copy)]
pub(super) struct Checking {
    pub(super) whole: fn(&mut Compiler) -> Result<Checked, Box<Mismatches>>,
    pub(super) prepared: fn(&mut Compiler, &Prepared) -> Result<Checked, Box<Mismatches>>,
}

impl Checking {
    /// By the compiler's own oracle.
    pub(super) const ORACLE: Checking =
        Checking { whole: Compiler::check, prepared: Compiler::check_prepared };
}

/// Checks tables, and keeps what came of it.
pub(super) struct Checks {
    /// `None`: they are not checked.
    checking: Option<Checking>,
    stats: Mutex<CheckStats>,
}

impl Checks {
    /// Checks so, or not at all.
    pub(super) fn new(checking: Option<Checking>) -> Self {
        Checks { checking, stats: Mutex::default() }
    }

    /// Compiles a whole state and checks its tables, which are not in force yet; takes from the state `before` what it can.
    ///
    /// # Errors
    /// As [`Compiler::new`]; [`RefusalKind::CheckFailed`] where the tables differ from the policies.
    pub(super) fn compiled(
        &self,
        intent: Intent,
        generation: u64,
        before: Option<&Compiler>,
    ) -> Result<Compiler, Refusal> {
        let compiled = Compiler::new(intent, generation, &Capacity::default(), before);
        let mut compiled = compiled.map_err(not_compiled)?;
        let began = Instant::now();
        if let Some(checking) = self.checking {
            self.keep((checking.whole)(&mut compiled), began)?;
        }
        Ok(compiled)
    }

    /// Checks an update's tables.
    ///
    /// # Errors
    /// [`RefusalKind::CheckFailed`] where they differ from the policies.
    pub(super) fn prepared(&self, compiler: &mut Compiler, prepared: &Prepared) -> Result<(), Refusal> {
        let began = Instant::now();
        self.checking.map_or(Ok(()), |checking| self.keep((checking.prepared)(compiler, prepared), began))
    }

    /// What has come of all checks.
    pub(super) fn stats(&self) -> CheckStats {
        self.locked().clone()
    }

    fn keep(&self, outcome: Result<Checked, Box<Mismatches>>, began: Instant) -> Result<(), Refusal> {
        let mut stats = self.locked();
        stats.microseconds = began.elapsed().as_micros() as u64;
        match outcome {
            Ok(checked) => {
                stats.passed += 1;
                stats.last = checked;
                Ok(())
            }
            Err(found) => {
                stats.refused += 1;
                let generation = found.checked.generation;
                let mismatches: Vec<String> = found.mismatches.iter().map(ToString::to_string).collect();
                for mismatch in &mismatches {
                    tracing::error!(generation, "checked compilation: {mismatch}");
                }
                let problem = found.to_string();
                stats.report = Some(CheckReport { total: found.total, mismatches, checked: found.checked });
                Err(refuse(RefusalKind::CheckFailed, format!("generation {generation}"), "policy", problem))
            }
        }
    }

    fn locked(&self) -> MutexGuard<'_, CheckStats> {
        self.stats.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
