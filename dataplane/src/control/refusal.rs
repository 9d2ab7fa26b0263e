//! Refusals in the contract's words.

use agent_api::contract::{Refusal, RefusalKind};
use policy_compiler::tables::CompileError;

/// A refusal.
pub(super) fn refuse(
    kind: RefusalKind,
    object: impl Into<String>,
    field: impl Into<String>,
    problem: impl Into<String>,
) -> Refusal {
    Refusal { object: object.into(), field: field.into(), problem: problem.into(), kind }
}

/// Why an intent cannot become tables.
pub(super) fn not_compiled(error: CompileError) -> Refusal {
    match error {
        CompileError::Invalid { object, field, problem } => {
            refuse(RefusalKind::Invalid, object, field, problem)
        }
        CompileError::Missing { ref object } => {
            refuse(RefusalKind::NotFound, object.clone(), "name", "is to be removed, but is not there")
        }
        CompileError::Capacity { resource, ref culprit, .. } => {
            refuse(RefusalKind::Capacity, culprit.clone(), resource, error.to_string())
        }
    }
}

/// The generation that the caller believed in is not the running one.
pub(super) fn conflict(call: &str, field: &str, expected: u64, running: u64) -> Refusal {
    let problem = format!("expected {expected}, but {running} is running");
    refuse(RefusalKind::Conflict, call, field, problem)
}

/// The control thread has ended.
pub(super) fn stopped() -> Refusal {
    refuse(RefusalKind::System, "penstockd", "state", "is stopping")
}
