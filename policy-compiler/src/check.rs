//! Checked compilation: tables are held to the state that they were compiled from before they are put in force.
//!
//! ```text
//!   state ──► Compiler ──► tables ──┐
//!     └─────► Oracle ───────────────┴──► witness by witness ──► Checked, or Mismatches: not to be published
//! ```
//!
//! * `oracle`: reads the policies as the APIs word them, for one flow at a time; shares no code with the compiled table.
//! * `index`: what lets it do so without asking every policy; kept up by updates.
//! * `plan`: which endpoints stand for what has changed, and whom they are asked about.
//! * `witness`: the classes of those pairs, one packet for each segment of ports, and the comparison.
//!
//! A *class* is what neither side tells apart: a subject (endpoints that the same policies select and that the table gives one
//! row), peers that the same of its rules match and for which the table has one port list, and a range of ports on which
//! neither changes its mind. One packet stands for each, chosen anew each generation. After a whole state all classes are
//! asked about; after an update those of the policies and endpoints that it names, before and after.

mod index;
mod oracle;
mod plan;
mod witness;

#[cfg(test)]
mod tests;

use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use self::index::Index;
pub(crate) use self::index::{Laid, State};
use self::oracle::Oracle;
use self::witness::Run;
use crate::intent::{Endpoint, Policy, protocol_name};
use crate::policy::PolicyTable;
use crate::view::Change;

/// Most mismatches that a report names.
pub const MISMATCHES: usize = 16;

/// Rules that are asked at most where a whole state is checked, and where an update is.
const WHOLE: u64 = 1 << 25;
const UPDATE: u64 = 1 << 12;

/// What a check has asked.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checked {
    /// The generation.
    pub generation: u64,
    /// Endpoints and directions whose policies were asked.
    pub subjects: u64,
    /// Classes of pairs, ports not told apart.
    pub classes: u64,
    /// Packets that both sides were asked about.
    pub witnesses: u64,
    /// Subjects and peers that were left for other generations, as the check would have taken too long.
    pub left_out: u64,
}

/// Why a generation is refused: the tables do not say what the policies say.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("the tables of generation {} differ from the policies in {total} of {} witnesses; first: {}", .checked.generation, .checked.witnesses, First(.mismatches))]
pub struct Mismatches {
    /// What was asked.
    pub checked: Checked,
    /// How many answers differ.
    pub total: u64,
    /// The first [`MISMATCHES`] of them.
    pub mismatches: Vec<Mismatch>,
}

/// A witness on which table and oracle do not agree.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mismatch {
    /// Its source.
    pub src: IpAddr,
    /// Who that is: `Pod ns/name`, `Node name`, or empty.
    pub src_name: String,
    /// Its destination.
    pub dst: IpAddr,
    /// Who that is.
    pub dst_name: String,
    /// IP protocol number.
    pub protocol: u8,
    /// The destination's port; 0 for protocols without ports.
    pub port: u16,
    /// A Service has sent it back to its source.
    pub by_service: bool,
    /// The direction in question: true for ingress.
    pub ingress: bool,
    /// What the table says.
    pub table: Said,
    /// What the policies say.
    pub oracle: Said,
}

/// A verdict in one direction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Said {
    /// Whether it lets the packet pass.
    pub allowed: bool,
    /// `default-allow`, `no-rule`, or the rule, such as `NetworkPolicy db/mongo ingress[0]`.
    pub by: String,
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let end = |name: &str, address: &IpAddr| match name {
            "" => address.to_string(),
            name => format!("{name} ({address})"),
        };
        let (src, dst) = (end(&self.src_name, &self.src), end(&self.dst_name, &self.dst));
        let protocol = protocol_name(self.protocol).map_or(self.protocol.to_string(), str::to_owned);
        let direction = if self.ingress { "ingress" } else { "egress" };
        let way = if self.by_service { " by a Service" } else { "" };
        let Mismatch { port, table, oracle, .. } = self;
        write!(
            f,
            "{direction} of {src} to {dst} {protocol} {port}{way}: the table says {table}, the policies {oracle}"
        )
    }
}

impl fmt::Display for Said {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} by {}", if self.allowed { "allowed" } else { "denied" }, self.by)
    }
}

/// The first mismatch, for an error's text.
struct First<'a>(&'a [Mismatch]);

impl fmt::Display for First<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.first().map_or(Ok(()), |first| first.fmt(f))
    }
}

/// Checks tables against a state. It knows where in the state to look, and is kept up with it.
#[derive(Debug)]
pub(crate) struct Checker {
    index: Index,
}

impl Checker {
    /// For a state without a change.
    pub(crate) fn new(state: &State<'_>) -> Self {
        Checker { index: Index::of(state) }
    }

    /// Checks tables of all of the state.
    pub(crate) fn whole(
        &self,
        state: &State<'_>,
        table: &PolicyTable,
        generation: u64,
    ) -> Result<Checked, Box<Mismatches>> {
        let oracle = Oracle { state: *state, index: &self.index };
        let mut run = Run::new(oracle, table, generation, WHOLE);
        run.whole();
        outcome(run)
    }

    /// Checks what a change of the state has changed in its tables; `state` is the one after it.
    pub(crate) fn change(
        &mut self,
        state: &State<'_>,
        endpoints: &Change<'_, Endpoint>,
        policies: &Change<'_, Policy>,
        table: &PolicyTable,
        generation: u64,
    ) -> Result<Checked, Box<Mismatches>> {
        // Nothing is changed yet: what is taken in is taken back.
        self.index.change(state, endpoints, policies, false);
        let oracle = Oracle { state: *state, index: &self.index };
        let mut run = Run::new(oracle, table, generation, UPDATE);
        run.change(endpoints, policies);
        let outcome = outcome(run);
        self.index.change(state, endpoints, policies, true);
        outcome
    }

    /// The change is made.
    pub(crate) fn commit(
        &mut self,
        state: &State<'_>,
        endpoints: &Change<'_, Endpoint>,
        policies: &Change<'_, Policy>,
    ) {
        self.index.change(state, endpoints, policies, false);
    }
}

fn outcome(run: Run<'_>) -> Result<Checked, Box<Mismatches>> {
    let Run { checked, failed: total, mismatches, .. } = run;
    if total == 0 { Ok(checked) } else { Err(Box::new(Mismatches { checked, total, mismatches })) }
}
