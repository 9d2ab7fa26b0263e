//! [`Counted`]: what the workers have counted of a candidate, by names. Numbers of active rules mean something only beside their rules,
//! so that the workers begin to count anew where others come that do not continue those before; what was counted before is put away by names.
//!
//! ```text
//!   legs:  [ rules A, until epoch 7 ] [ rules B, now ]          all workers past 7 ──► A's counts by names, in `past`
//! ```

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use agent_api::contract::{ShadowRow, ShadowStatus};
use policy_compiler::policy::{Origins, PolicyTable, RuleId};
use policy_compiler::tables::Tables;

use crate::shadow::tally::Row;
use crate::shadow::{Difference, Shadow};

/// What was counted of a candidate.
pub(super) struct Counted {
    /// The last is published, or is to be.
    legs: Vec<Leg>,
    past: Sums,
}

/// Counts beside one set of active rules.
struct Leg {
    shadow: Arc<Shadow>,
    rules: Origins,
    /// The first epoch without it.
    until: Option<u32>,
}

impl Counted {
    /// Nothing yet, beside the rules of `tables`.
    pub(super) fn new(shadow: Shadow, tables: &Tables) -> Self {
        let leg = Leg { shadow: Arc::new(shadow), rules: tables.policy.origins(), until: None };
        Counted { legs: vec![leg], past: Sums::default() }
    }

    /// The shadow to publish beside `tables`.
    pub(super) fn beside(&mut self, tables: &Tables) -> Arc<Shadow> {
        let rules = tables.policy.origins();
        if let Some(leg) = self.legs.last_mut().filter(|leg| rules.continues(&leg.rules)) {
            // They name the rules of both.
            leg.rules = rules;
            return Arc::clone(&leg.shadow);
        }
        // There is one always; without any, nothing would be compared.
        let anew = self.legs.last().map(|leg| leg.shadow.with_new_tallies());
        let shadow = Arc::new(anew.unwrap_or_else(|| Shadow::new(0, Arc::default(), 1, 0, 0)));
        self.legs.push(Leg { shadow: Arc::clone(&shadow), rules, until: None });
        shadow
    }

    /// The last leg is published in this epoch: those before are not.
    pub(super) fn published(&mut self, epoch: u32) {
        let before = self.legs.len().saturating_sub(1);
        self.legs.iter_mut().take(before).for_each(|leg| {
            leg.until.get_or_insert(epoch);
        });
    }

    /// Puts away what no worker counts any more.
    pub(super) fn fold(&mut self, candidate: &PolicyTable, tables: &Tables, passed: impl Fn(u32) -> bool) {
        while let Some(leg) = self.legs.first()
            && leg.until.is_some_and(&passed)
        {
            let leg = self.legs.remove(0);
            self.past.add(&leg, candidate, tables);
        }
    }

    /// Differences that were counted and not told of.
    pub(super) fn lost(&self) -> u64 {
        let tallies = self.legs.iter().flat_map(|leg| leg.shadow.tallies());
        self.past.lost + tallies.map(|tally| tally.lost.read()).sum::<u64>()
    }

    /// The counts of a status.
    pub(super) fn status(&self, candidate: &PolicyTable, tables: &Tables) -> ShadowStatus {
        let mut sums = self.past.clone();
        self.legs.iter().for_each(|leg| sums.add(leg, candidate, tables));
        let row = |(name, flows)| {
            let RowName { allowed, ingress, active, candidate } = name;
            ShadowRow { allowed, ingress, active, candidate, flows }
        };
        let mut rows: Vec<ShadowRow> = sums.rows.into_iter().map(row).collect();
        // By names where they are as many.
        rows.sort_by_key(|row| std::cmp::Reverse(row.flows));
        ShadowStatus {
            judged: sums.judged,
            sampled: sums.sampled,
            newly_allowed: sums.allowed,
            newly_denied: sums.denied,
            unplaced: sums.unplaced,
            lost: sums.lost,
            rows,
            ..ShadowStatus::default()
        }
    }
}

/// Counts by names.
#[derive(Debug, Clone, Default)]
struct Sums {
    judged: u64,
    sampled: u64,
    allowed: u64,
    denied: u64,
    unplaced: u64,
    lost: u64,
    rows: BTreeMap<RowName, u64>,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct RowName {
    allowed: bool,
    ingress: bool,
    active: String,
    candidate: String,
}

impl Sums {
    fn add(&mut self, leg: &Leg, candidate: &PolicyTable, tables: &Tables) {
        for tally in leg.shadow.tallies() {
            self.judged += tally.judged.read();
            self.sampled += tally.sampled.read();
            self.allowed += tally.allowed.read();
            self.denied += tally.denied.read();
            self.unplaced += tally.unplaced.read();
            self.lost += tally.lost.read();
            for row in tally.rows() {
                *self.rows.entry(leg.name(&row, candidate, tables)).or_default() += row.flows;
            }
        }
    }
}

impl Leg {
    fn name(&self, row: &Row, candidate: &PolicyTable, tables: &Tables) -> RowName {
        let Row { difference, ends, .. } = row;
        let mut active = self.rules.text(difference.active);
        let mut would = candidate.origins().text(difference.candidate);
        if difference.denial() == RuleId::NO_RULE {
            if difference.allowed {
                active = isolated_by(&tables.policy, difference, *ends, active);
            } else {
                would = isolated_by(candidate, difference, *ends, would);
            }
        }
        RowName { allowed: difference.allowed, ingress: difference.ingress, active, candidate: would }
    }
}

/// `no-rule` with the policies that isolate the end in question.
pub(super) fn isolated_by(
    policy: &PolicyTable,
    difference: &Difference,
    (src, dst): (IpAddr, IpAddr),
    text: String,
) -> String {
    let isolated = if difference.ingress { dst } else { src };
    let names = policy.isolating(isolated, difference.ingress);
    if names.is_empty() {
        return text;
    }
    let names: Vec<String> = names.into_iter().map(|name| format!("NetworkPolicy {name}")).collect();
    format!("{text} of {}", names.join(", "))
}
