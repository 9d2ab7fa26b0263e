//! [`HitTable`]: how often each rule of a policy has decided, counted by workers, read by anyone.
//!
//! ```text
//!   rule's number ──► chunk ──► the worker's own cells ──► flows allowed, flows denied, packets denied
//! ```
//!
//! * Written by the worker whose cells they are, a load and a store each; made and grown by the control thread alone.
//! * Grows by chunks, which the tables before and after share: no count is moved, and none is lost, for as long as numbers of
//!   rules go on standing for the same rules (a *lineage*). Other numbers begin another table.
//! * What a flow's line says of rules is a number, too. A line of an older epoch holds only where the lineage is the same
//!   ([`Publisher::publish_touching`](crate::publish::Publisher::publish_touching)); of one that does not hold,
//!   `HitTable::is_of` says whether its numbers still mean something.
//!
//! It is not for: packets that pass. They replay their flow's line, and nothing is counted of its rules.

use std::sync::Arc;

use policy_compiler::policy::{Origins, RuleId};

use crate::counters::Counter;

/// Rules of a chunk.
const CHUNK: usize = 256;
/// Numbers of [`RuleId`] that stand for no rule; each has a cell a direction.
const CONSTANTS: usize = RuleId::FIRST as usize;

/// What has been counted of a rule.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Flows that it has let pass, as far as its end of them goes.
    pub flows_allowed: u64,
    /// Flows that it has denied.
    pub flows_denied: u64,
    /// Packets of denied flows that were dropped, their first ones included.
    pub packets_denied: u64,
}

impl Counts {
    /// Whether it has never decided.
    pub fn is_zero(&self) -> bool {
        *self == Counts::default()
    }

    /// Both together.
    #[must_use]
    pub fn with(self, other: Counts) -> Self {
        Counts {
            flows_allowed: self.flows_allowed.wrapping_add(other.flows_allowed),
            flows_denied: self.flows_denied.wrapping_add(other.flows_denied),
            packets_denied: self.packets_denied.wrapping_add(other.packets_denied),
        }
    }
}

/// One worker's counts of one rule.
#[derive(Debug, Default)]
struct Cell {
    flows_allowed: Counter,
    flows_denied: Counter,
    packets_denied: Counter,
}

/// One worker's counts of a chunk of rules. No cache line is another worker's as well.
#[derive(Debug)]
#[repr(align(64))]
struct Cells([Cell; CHUNK]);

impl Default for Cells {
    fn default() -> Self {
        Cells(std::array::from_fn(|_| Cell::default()))
    }
}

/// Counts by rule and worker. The default counts nothing.
#[derive(Debug, Default)]
pub struct HitTable {
    /// The first epoch of its lineage.
    since: u32,
    workers: usize,
    /// Of each chunk the cells by worker.
    chunks: Vec<Arc<[Cells]>>,
}

impl HitTable {
    /// A table for so many workers and the rules of a lineage that begins with `epoch`.
    pub fn new(epoch: u32, workers: usize, rules: &Origins) -> Self {
        HitTable { since: epoch, workers, chunks: Vec::new() }.grown(rules)
    }

    /// The same counts, with room for rules that are numbered on.
    #[must_use]
    pub fn grown(&self, rules: &Origins) -> Self {
        let mut chunks = self.chunks.clone();
        let chunk = || (0..self.workers).map(|_| Cells::default()).collect();
        chunks.resize_with(chunks_for(rules).max(chunks.len()), chunk);
        HitTable { since: self.since, workers: self.workers, chunks }
    }

    /// Whether it has room for these rules.
    pub fn holds(&self, rules: &Origins) -> bool {
        self.chunks.len() >= chunks_for(rules)
    }

    /// Whether both are of one lineage: a number stands for the same rule in both.
    pub fn continues(&self, older: &HitTable) -> bool {
        self.since == older.since
    }

    /// Whether numbers of rules from a judgement under `epoch` are of this lineage.
    pub(crate) fn is_of(&self, epoch: u32) -> bool {
        epoch != 0 && (epoch.wrapping_sub(self.since) as i32) >= 0
    }

    /// Counts a flow that a rule lets pass. Only for that worker.
    pub(crate) fn allow(&self, worker: usize, rule: RuleId, ingress: bool) {
        if let Some(cell) = self.cell(worker, place(rule, ingress)) {
            cell.flows_allowed.add(1);
        }
    }

    /// Counts a flow that a rule denies. Only for that worker.
    pub(crate) fn deny(&self, worker: usize, rule: RuleId, ingress: bool) {
        if let Some(cell) = self.cell(worker, place(rule, ingress)) {
            cell.flows_denied.add(1);
        }
    }

    /// Counts a packet of a flow that a rule has denied. Only for that worker.
    pub(crate) fn drop_packet(&self, worker: usize, rule: RuleId, ingress: bool) {
        if let Some(cell) = self.cell(worker, place(rule, ingress)) {
            cell.packets_denied.add(1);
        }
    }

    /// What all workers have counted of a rule; of a number that stands for none, in that direction.
    pub fn read(&self, rule: RuleId, ingress: bool) -> Counts {
        let cells = (0..self.workers).filter_map(|worker| self.cell(worker, place(rule, ingress)));
        let counts = cells.map(|cell| Counts {
            flows_allowed: cell.flows_allowed.read(),
            flows_denied: cell.flows_denied.read(),
            packets_denied: cell.packets_denied.read(),
        });
        counts.fold(Counts::default(), Counts::with)
    }

    fn cell(&self, worker: usize, place: usize) -> Option<&Cell> {
        self.chunks.get(place / CHUNK)?.get(worker)?.0.get(place % CHUNK)
    }
}

/// Where a rule's cell is: the constants for ingress, for egress, then the rules.
fn place(rule: RuleId, ingress: bool) -> usize {
    let number = rule.0 as usize;
    if number < CONSTANTS && ingress { number } else { number + CONSTANTS }
}

fn chunks_for(rules: &Origins) -> usize {
    (rules.numbers() as usize + CONSTANTS).div_ceil(CHUNK)
}

#[cfg(test)]
mod tests {
    use policy_compiler::intent::{Identity, Intent, ObjectName, Policy, Rule};
    use policy_compiler::policy::PolicyTable;

    use super::*;

    fn origins(rules: u32) -> Origins {
        let policy = Policy {
            name: ObjectName::new("ns", "a"),
            subjects: vec![0],
            ingress: Some((0..rules).map(|index| Rule { index, ..Rule::default() }).collect()),
            ..Policy::default()
        };
        let intent =
            Intent { identities: vec![Identity::default()], policies: vec![policy], ..Intent::default() };
        PolicyTable::compile(&intent).unwrap().origins()
    }

    #[test]
    fn a_table_that_grows_shares_what_both_count() {
        let few = origins(252);
        let small = HitTable::new(4, 2, &few);
        assert_eq!((small.holds(&few), small.holds(&origins(253))), (true, false), "two chunks");
        let large = small.grown(&origins(600));
        assert!(large.holds(&origins(600)) && large.continues(&small) && small.continues(&large));
        let (last, beyond) = (RuleId(253), RuleId(601));
        // A worker is behind.
        small.allow(0, last, true);
        large.allow(1, last, true);
        large.deny(1, beyond, true);
        large.drop_packet(1, beyond, true);
        let counts = |flows_allowed, flows_denied, packets_denied| Counts {
            flows_allowed,
            flows_denied,
            packets_denied,
        };
        for table in [&small, &large] {
            assert_eq!(table.read(last, true), counts(2, 0, 0));
        }
        assert_eq!(large.read(beyond, true), counts(0, 1, 1));
        // What is not there is not counted, and nobody falls.
        small.deny(1, beyond, true);
        small.deny(2, last, true);
        HitTable::default().allow(0, last, true);
        assert_eq!((small.read(beyond, true), small.read(last, true)), (counts(0, 0, 0), counts(2, 0, 0)));
    }

    #[test]
    fn no_two_rules_or_constants_share_a_cell() {
        let rules = origins(1000);
        let table = HitTable::new(1, 1, &rules);
        let constants = [RuleId::DEFAULT_ALLOW, RuleId::NO_RULE];
        let constants = constants.into_iter().flat_map(|rule| [(rule, true), (rule, false)]);
        let all: Vec<_> = constants.chain((2..rules.numbers()).map(|rule| (RuleId(rule), true))).collect();
        for (times, (rule, ingress)) in all.iter().enumerate() {
            (0..times).for_each(|_| table.deny(0, *rule, *ingress));
        }
        for (times, (rule, ingress)) in all.iter().enumerate() {
            assert_eq!(table.read(*rule, *ingress).flows_denied, times as u64);
        }
    }

    #[test]
    fn lineages_are_told_by_epochs() {
        let rules = origins(1);
        let table = HitTable::new(7, 1, &rules);
        assert!(table.is_of(7) && table.is_of(8) && !table.is_of(6) && !table.is_of(0));
        assert!(!table.continues(&HitTable::new(8, 1, &rules)));
        let wraps = HitTable::new(u32::MAX, 1, &rules);
        assert!(wraps.is_of(u32::MAX) && wraps.is_of(1) && !wraps.is_of(u32::MAX - 1));
    }
}
