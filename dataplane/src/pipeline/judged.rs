//! What is counted of a judgement, by rule: see [`crate::rule_hits`].
//!
//! A flow counts at a rule when that decides of it and did not before: when it is judged first, when a newer generation says otherwise,
//! and when another rule says the same. The last is known only while numbers of rules stand for the same; where they do not (a whole
//! state was applied), a flow that is treated as before counts no more.

use policy_compiler::policy::RuleId;

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
        let is_new = |rule: RuleId, was: fn(&Entry) -> u32| {
            before.is_none_or(|entry| hits.is_of(entry.epoch) && was(entry) != rule.0)
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
                hits.is_of(entry.epoch) && (was, entry.rule) != (reason, rule.0)
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

/// Of a denial by policy: whether it was the destination's.
#[inline(always)]
fn denied_for_ingress(reason: DropReason) -> Option<bool> {
    match reason {
        DropReason::PolicyIngress => Some(true),
        DropReason::PolicyEgress => Some(false),
        _ => None,
    }
}
