//! What is counted of a judgement, by rule: see [`crate::rule_hits`].
//!
//! A flow counts at a rule when that decides of it and did not before: when it is judged first, when a newer generation says otherwise,
//! and when another rule says the same. The last is known only while numbers of rules stand for the same; where they do not (a whole
//! state was applied), a flow that is treated as before counts no more.

use policy_compiler::policy::{PolicyTable, RuleId};

use super::{Pipeline, Turn, miss};
use crate::drops::DropReason;
use crate::flow::Entry;
use crate::judge::Decision;

impl Pipeline {
    /// Counts a flow that may pass, at the rules of both its ends; `before` is what its line said until now.
    pub(super) fn count_allowed(&self, turn: &Turn<'_>, decision: &Decision, before: Option<&Entry>) {
        let Some(judgement) = &decision.judgement else { return };
        let (hits, worker) = (&turn.snapshot.rule_hits, turn.out.worker());
        let before = before.filter(|entry| entry.flags.drop_reason().is_none());
        let policy = &turn.snapshot.tables.policy;
        let is_new = |rule: RuleId, was: fn(&Entry) -> u32| {
            before.is_none_or(|entry| hits.is_of(entry.epoch) && !is_same(policy, RuleId(was(entry)), rule))
        };
        // A flow that a policy keeps in spite of its rules is not theirs.
        if judgement.ingress.allowed && is_new(judgement.ingress.rule, |entry| entry.rule) {
            hits.allow(worker, judgement.ingress.rule, true);
        }
        if judgement.egress.allowed && is_new(judgement.egress.rule, |entry| entry.egress_rule) {
            hits.allow(worker, judgement.egress.rule, false);
        }
    }

    /// Counts a flow that is denied, where that is by policy, at the rule that denies it.
    pub(super) fn count_denied(
        &self,
        turn: &Turn<'_>,
        decision: &Decision,
        reason: DropReason,
        before: Option<&Entry>,
    ) {
        let Some(ingress) = denied_for_ingress(reason) else { return };
        let (hits, rule) = (&turn.snapshot.rule_hits, miss::rule_of(decision, reason));
        let is_new = before.is_none_or(|entry| match entry.flags.drop_reason() {
            Some(was) if denied_for_ingress(was).is_some() => {
                let policy = &turn.snapshot.tables.policy;
                hits.is_of(entry.epoch) && !(was == reason && is_same(policy, RuleId(entry.rule), rule))
            }
            _ => true,
        });
        if is_new {
            hits.deny(turn.out.worker(), rule, ingress);
        }
    }

    /// Counts a packet that ends by what its flow's entry says, where that is a denial by policy.
    #[inline(always)]
    pub(super) fn count_denied_packet(&self, turn: &Turn<'_>, reason: DropReason, entry: &Entry) {
        if let Some(ingress) = denied_for_ingress(reason) {
            turn.snapshot.rule_hits.drop_packet(turn.out.worker(), RuleId(entry.rule), ingress);
        }
    }
}

/// Whether both numbers, of one lineage, stand for a rule of one name: a policy that is replaced may have been numbered anew.
fn is_same(policy: &PolicyTable, one: RuleId, other: RuleId) -> bool {
    let (Some(this), Some(that)) = (policy.origin(one), policy.origin(other)) else { return one == other };
    (this.index, this.ingress, this.kind) == (that.index, that.ingress, that.kind)
        && this.policy == that.policy
}

/// Of a denial by policy: whether it was the destination's.
#[inline(always)]
fn denied_for_ingress(reason: DropReason) -> Option<bool> {
    match reason {
        DropReason::PolicyIngress => Some(true),
        DropReason::PolicyEgress => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use policy_compiler::intent::{Identity, Intent, ObjectName, Policy, Rule};

    use super::*;

    #[test]
    fn a_rule_is_the_same_by_its_name() {
        let rule = |index| Rule { index, ..Rule::default() };
        let policy = |name: &str| Policy {
            name: ObjectName::new("ns", name),
            subjects: vec![0],
            ingress: Some(vec![rule(0), rule(1)]),
            egress: Some(vec![rule(0)]),
            ..Policy::default()
        };
        // A state has no name twice; tables that number on have.
        let policies = vec![policy("a"), policy("a"), policy("b")];
        let intent = Intent { identities: vec![Identity::default()], policies, ..Intent::default() };
        let table = PolicyTable::compile(&intent).unwrap();
        let same = |one, other| is_same(&table, RuleId(one), RuleId(other));
        assert!(same(2, 2) && same(2, 5) && same(3, 6) && same(4, 7));
        assert!(!same(2, 3) && !same(2, 4) && !same(2, 6) && !same(2, 8) && !same(5, 8));
        assert!(same(0, 0) && same(1, 1) && !same(0, 1) && !same(1, 2) && !same(2, 99));
    }
}
