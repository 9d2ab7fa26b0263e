//! What a change of state changes in policy: exactly, and without looking at pairs of pods.
//!
//! ```text
//!   addresses of both states ──► ends: those that neither table can tell apart        (`ends`)
//!   subjects × classes ──► where what the two tables allow differs                    (`lists`)
//!   ends × ends, there only ──► differences by port ──► rows: who, whom, on what      (`rows`)
//! ```
//!
//! Compared is what both states know as the same sort of thing: an address that is a pod's in both (its labels may have
//! changed, and its name), a node's in both, or nobody's in both. What only one of the states has is listed, not compared:
//! of a pod that does not exist nothing is allowed or denied.
//!
//! Two addresses of one *end* are alike to both tables in all but one thing: no pod is isolated from its own node, nor
//! from itself. Those pairs are gone through one by one; there are as many as pods.

mod ends;
mod lists;
mod rows;

#[cfg(test)]
mod tests;

use serde::Serialize;

use self::ends::Ends;
use self::lists::Lists;
use self::rows::Rows;
use super::{Packet, Party, PortRange, Verdict};
use crate::intent::Intent;
use crate::policy::PolicyTable;
use crate::tables::CompileError;

/// What becomes of flows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Change {
    /// They were denied and are allowed.
    Allowed,
    /// They were allowed and are denied.
    Denied,
}

/// All that differs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PolicyDiff {
    /// The differences: newly allowed first. No flow is in two of them.
    pub differences: Vec<Difference>,
    /// Pods and nodes that the old state alone has at their addresses: not compared.
    pub only_old: Uncompared,
    /// The same of the new state.
    pub only_new: Uncompared,
}

/// Flows that the two states treat differently, all in the same way and by the same rules.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// What becomes of them.
    pub change: Change,
    /// 4, 6 or both: the IP versions that it holds for.
    pub families: Vec<u8>,
    /// From each of these,
    pub from: Parties,
    /// to each of these,
    pub to: Parties,
    /// on these ports.
    pub ports: Vec<PortRange>,
    /// True: it is about pods and the nodes that they run on, in either state. False: it is not, where it names both;
    /// nor is it about an endpoint and itself.
    pub own_node: bool,
    /// One such packet.
    pub witness: Packet,
    /// What the old state says of the witness. In the directions whose decision changes, the rules are those of every flow.
    pub old: Verdict,
    /// What the new state says of it.
    pub new: Verdict,
}

/// Several parties; or, where they are most of all that is compared, those that they are not.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Parties {
    /// True: every pod and node but these, of the families in question.
    pub all_but: bool,
    /// They.
    pub parties: Vec<Party>,
}

/// What one of two states alone has.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Uncompared {
    /// How many addresses.
    pub addresses: usize,
    /// The first hundred names of pods and nodes that have them.
    pub names: Vec<String>,
}

/// Compares what the policies of two states allow.
///
/// # Errors
/// [`CompileError`] where either does not compile.
pub fn diff(old: &Intent, new: &Intent) -> Result<PolicyDiff, CompileError> {
    let tables = (PolicyTable::compile(old)?, PolicyTable::compile(new)?);
    Ok(diff_tables([(old, &tables.0), (new, &tables.1)]))
}

/// The same of states with their compiled policies, old and new.
pub fn diff_tables(sides: [(&Intent, &PolicyTable); 2]) -> PolicyDiff {
    let [(_, old), (_, new)] = sides;
    let ends = Ends::of(sides);
    let mut lists = Lists::new([old, new]);
    let mut rows = Rows::new(sides, &ends);
    rows.classes(&mut lists);
    rows.own_nodes(&mut lists);
    let differences = rows.finish(&lists);
    let [only_old, only_new] = ends.uncompared;
    PolicyDiff { differences, only_old, only_new }
}
