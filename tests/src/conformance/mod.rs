//! Conformance: cases in folders (objects, probes, expected verdicts), run by what judges and by what forwards.
//!
//! ```text
//!   tests/cases/policy/NAME/case.yaml ─► folder ──┐                ┌─► offline: evaluate, and the oracle beside it
//!   cyclonus-ipv4.json ────────────────► cyclonus ┼─► Case, Step ──┤
//!   cluster-network-policy-ipv4.json ──► cluster_policy            └─► wire: penstockd, kernel sockets in namespaces
//!                                                                            └─► report: a table, each failure in words
//! ```
//!
//! * [`case`]: what a case is, wherever it was read. * [`folder`]: cases in folders; their format is in
//!   `tests/cases/README.md`. * [`matrix`]: tables of verdicts.
//! * [`cyclonus`], [`cluster_policy`]: what others recorded. * [`sample`]: a few of many that show every kind.
//! * [`offline`], [`wire`]: the two ways to run one. * [`report`]: what came of it. * [`command`]: for people.
//!
//! It is not for: Services' choice of backends, which has rows of its own (`policy-compiler`), nor for live flows whose
//! permission ends (`tests/tests/cluster.rs`). Only [`wire`] needs root.

pub mod case;
pub mod cluster_policy;
pub mod command;
pub mod cyclonus;
pub mod folder;
pub mod matrix;
pub mod offline;
pub mod report;
pub mod sample;
pub mod wire;

pub use case::{Case, Step};
pub use report::Outcome;
