//! [`Hits`]: what workers count of rules, by name, across generations.
//!
//! ```text
//!   tables come ─► numbers go on? ─ yes ─► the same table, grown where it must be
//!                                 └ no ──► a new one; the old one is `replaced` until no snapshot has it any more,
//!                                          then folded into `past`, by name
//!   asked       ─► past + replaced + current, added up by name
//! ```
//!
//! A rule is itself by kind, policy, direction and index: a policy that is replaced goes on counting. A fold drops what the
//! rules of then do not name.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use agent_api::contract::{Basis, DecidedBy, Direction, RuleHits, RuleRef};
use policy_compiler::compiler::Compiler;
use policy_compiler::intent::{Action, ObjectName, Policy, PolicyKind, Rule};
use policy_compiler::policy::{Origins, RuleId, RuleOrigin};

use crate::rule_hits::{Counts, HitTable};

/// A rule by name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct RuleName {
    pub(super) kind: PolicyKind,
    pub(super) policy: ObjectName,
    pub(super) ingress: bool,
    pub(super) index: u32,
}

impl RuleName {
    fn of(origin: &RuleOrigin) -> Self {
        RuleName {
            kind: origin.kind,
            policy: origin.policy.clone(),
            ingress: origin.ingress,
            index: origin.index,
        }
    }
}

/// Counts by name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Totals {
    /// Of rules that have decided.
    pub(super) rules: HashMap<RuleName, Counts>,
    /// Of the absence of any, and whether it is the one for ingress.
    pub(super) constants: HashMap<(RuleId, bool), Counts>,
}

impl Totals {
    /// The numbers of [`RuleId`] that stand for no rule.
    pub(super) const CONSTANTS: [RuleId; 2] = [RuleId::DEFAULT_ALLOW, RuleId::NO_RULE];

    /// What has been counted of it.
    fn of(&self, decided_by: &DecidedBy) -> Counts {
        let ingress = decided_by.direction == Direction::Ingress;
        let found = match &decided_by.basis {
            Basis::DefaultAllow => self.constants.get(&(RuleId::DEFAULT_ALLOW, ingress)),
            Basis::NoRule => self.constants.get(&(RuleId::NO_RULE, ingress)),
            Basis::Rule(rule) => {
                let policy = ObjectName::new(&*rule.namespace, &*rule.name);
                self.rules.get(&RuleName { kind: rule.kind, policy, ingress, index: rule.index })
            }
        };
        found.copied().unwrap_or_default()
    }

    fn add(&mut self, counted: &Counted) {
        let Counted { rules, table } = counted;
        for rule in Self::CONSTANTS {
            for ingress in [true, false] {
                let sum = self.constants.entry((rule, ingress)).or_default();
                *sum = sum.with(table.read(rule, ingress));
            }
        }
        for rule in (RuleId::FIRST..rules.numbers()).map(RuleId) {
            let Some(origin) = rules.of(rule) else { continue };
            let counts = table.read(rule, origin.ingress);
            if !counts.is_zero() {
                let sum = self.rules.entry(RuleName::of(origin)).or_default();
                *sum = sum.with(counts);
            }
        }
    }
}

/// A table and what its numbers mean.
#[derive(Debug, Clone, Default)]
struct Counted {
    rules: Origins,
    table: Arc<HitTable>,
}

/// All that has been counted.
#[derive(Debug)]
pub(super) struct Hits {
    workers: usize,
    lists: Mutex<Lists>,
}

#[derive(Debug, Default)]
struct Lists {
    current: Counted,
    /// Tables that workers may still write to, or did a moment ago.
    replaced: Vec<Counted>,
    past: Arc<Totals>,
}

impl Hits {
    /// Nothing yet, by so many workers.
    pub(super) fn new(workers: usize) -> Self {
        Hits { workers, lists: Mutex::default() }
    }

    /// Where workers are to count from `epoch` on, which is published with these rules. For the control thread.
    pub(super) fn table_for(&self, rules: &Origins, epoch: u32) -> Arc<HitTable> {
        let mut lists = self.lists();
        let current = &mut lists.current;
        let goes_on = rules.continues(&current.rules);
        let table = if !goes_on {
            Arc::new(HitTable::new(epoch, self.workers, rules))
        } else if current.table.holds(rules) {
            Arc::clone(&current.table)
        } else {
            // The smaller one shares its counts with it: there is nothing to fold.
            Arc::new(current.table.grown(rules))
        };
        let next = Counted { rules: rules.clone(), table: Arc::clone(&table) };
        let last = std::mem::replace(current, next);
        if !goes_on {
            lists.replaced.push(last);
        }
        table
    }

    /// Adds up what has been counted until now.
    pub(super) fn totals(&self) -> Totals {
        let (past, counted) = {
            let lists = self.lists();
            let counted: Vec<Counted> = lists.replaced.iter().chain([&lists.current]).cloned().collect();
            (Arc::clone(&lists.past), counted)
        };
        let mut totals = Totals::clone(&past);
        counted.iter().for_each(|counted| totals.add(counted));
        totals
    }

    /// Folds the tables that no snapshot has any more, so that no worker can count into them. Takes as long as there are rules: not for
    /// the control thread. The last table to be replaced is mostly folded when the next one is.
    pub(super) fn fold(&self) {
        let mut lists = self.lists();
        let Lists { current, replaced, past } = &mut *lists;
        let is_over = |counted: &mut Counted| Arc::get_mut(&mut counted.table).is_some();
        let over: Vec<Counted> = replaced.extract_if(.., is_over).collect();
        if over.is_empty() {
            return;
        }
        let past = Arc::make_mut(past);
        over.iter().for_each(|counted| past.add(counted));
        let numbers = (RuleId::FIRST..current.rules.numbers()).map(RuleId);
        let names: HashSet<RuleName> =
            numbers.filter_map(|rule| current.rules.of(rule)).map(RuleName::of).collect();
        past.rules.retain(|name, _| names.contains(name));
    }

    fn lists(&self) -> MutexGuard<'_, Lists> {
        self.lists.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The running generation and all rules of its policies, without hits.
pub(super) fn running(compiler: &Compiler) -> (u64, Vec<RuleHits>) {
    let rules = compiler.policies().flat_map(|policy| {
        let of = |ingress| {
            let rules = if ingress { &policy.ingress } else { &policy.egress };
            rules.iter().flatten().map(move |rule| unused(policy, rule, ingress))
        };
        of(true).chain(of(false))
    });
    (compiler.tables().generation, rules.collect())
}

fn unused(policy: &Policy, rule: &Rule, ingress: bool) -> RuleHits {
    let rule_ref = RuleRef::from(&RuleOrigin::of(policy, rule, ingress));
    let decided_by = DecidedBy { direction: Direction::of(ingress), basis: Basis::Rule(rule_ref) };
    RuleHits { decided_by, action: rule.action, flows_allowed: 0, flows_denied: 0, packets_denied: 0 }
}

/// The rules with their hits, in the order of their names; before them what is no rule's.
pub(super) fn listed(mut rules: Vec<RuleHits>, totals: &Totals) -> Vec<RuleHits> {
    for (basis, action) in [(Basis::DefaultAllow, Action::Accept), (Basis::NoRule, Action::Deny)] {
        for direction in [Direction::Ingress, Direction::Egress] {
            let decided_by = DecidedBy { direction, basis: basis.clone() };
            let none = RuleHits { decided_by, action, flows_allowed: 0, flows_denied: 0, packets_denied: 0 };
            rules.push(none);
        }
    }
    for hits in &mut rules {
        let counts = totals.of(&hits.decided_by);
        (hits.flows_allowed, hits.flows_denied) = (counts.flows_allowed, counts.flows_denied);
        hits.packets_denied = counts.packets_denied;
    }
    rules.sort_by_cached_key(|hits| order(&hits.decided_by));
    rules
}

/// By name, as people read it.
fn order(decided_by: &DecidedBy) -> impl Ord + use<> {
    let rule = decided_by
        .rule()
        .map(|rule| (rule.kind, rule.namespace.clone(), rule.name.clone(), decided_by.direction, rule.index));
    (rule, decided_by.basis == Basis::NoRule, decided_by.direction)
}

#[cfg(test)]
mod tests;
