//! All classifiers say the same of the same flows, down to the rule.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::collections::BTreeSet;

use policy_compiler::intent::ObjectName;
use policy_compiler::policy::{Decision, PolicyTable, RuleId};

use super::*;
use crate::rulesets::{Kind, RuleSet};

/// Flows of each kind and family.
const FLOWS: usize = 250;

/// Everything that judges one set.
struct All {
    set: RuleSet,
    table: PolicyTable,
    lines: Lines,
    linear: Linear,
    space: TupleSpace,
    walks: PrefixWalks,
}

/// Whether it is allowed, and by what: `Err` for what is no rule of a policy.
type Named = (bool, Result<(ObjectName, bool, u32), RuleId>);

impl All {
    fn of(rules: usize, seed: u64) -> Self {
        let set = RuleSet::new(rules, seed);
        let lines = Lines::of(&set.intent);
        All {
            table: PolicyTable::compile(&set.intent).unwrap(),
            linear: Linear::new(&set.intent, &lines),
            space: TupleSpace::new(&set.intent, &lines),
            walks: PrefixWalks::new(&set.intent, &lines),
            set,
            lines,
        }
    }

    fn flows(&self, seed: u64) -> Vec<Flow> {
        let families = [false, true].into_iter();
        families
            .flat_map(|ipv6| {
                let of = |kind| self.set.flows(&self.table, kind, ipv6, FLOWS, seed);
                let any = self.set.any_flows(ipv6, FLOWS * 4, seed);
                Kind::ALL.into_iter().flat_map(of).chain(any).collect::<Vec<Flow>>()
            })
            .collect()
    }

    fn by_table(&self, decision: Decision) -> Named {
        let origin = self.table.origin(decision.rule);
        let named = origin.map(|origin| (origin.policy.clone(), origin.ingress, origin.index));
        (decision.allowed, named.ok_or(decision.rule))
    }

    fn by_lines(&self, decision: Decision) -> Named {
        let place = decision.rule.0.checked_sub(RuleId::FIRST).map(|place| place as usize);
        let origin = place.and_then(|place| self.lines.origins.get(place)).cloned();
        (decision.allowed, origin.ok_or(decision.rule))
    }

    fn assert_says<C: Classifier>(&self, other: &C, flow: &Flow, expected: &[Named; 2]) {
        let judgement = other.judge(flow);
        let said = [judgement.egress, judgement.ingress].map(|decision| self.by_lines(decision));
        assert_eq!(&said, expected, "{}: {flow:?}", C::NAME);
    }
}

#[test]
fn every_classifier_says_what_the_tables_say_and_by_the_same_rule() {
    let mut seen = BTreeSet::new();
    for (rules, seeds) in [(10, 12), (100, 6), (1000, 2), (3000, 1)] {
        for seed in 0..seeds {
            let all = All::of(rules, seed);
            for flow in all.flows(seed + 100) {
                let judgement = Classifier::judge(&all.table, &flow);
                let expected = [judgement.egress, judgement.ingress].map(|decision| all.by_table(decision));
                all.assert_says(&all.linear, &flow, &expected);
                all.assert_says(&all.space, &flow, &expected);
                all.assert_says(&all.walks, &flow, &expected);
                seen.extend(expected.iter().map(what));
            }
        }
    }
    let all =
        ["admin: false", "admin: true", "app: true", "baseline: false", "nothing: true", "no rule: false"];
    assert_eq!(seen, all.map(str::to_owned).into(), "what has decided");
}

/// What has decided: the kind of a policy, and whether it allows.
fn what((allowed, by): &Named) -> String {
    let kind = match by {
        Ok((policy, ..)) if policy.name.ends_with("admin") => "admin",
        Ok((policy, ..)) if policy.name.ends_with("baseline") => "baseline",
        Ok(_) => "app",
        Err(RuleId::NO_RULE) => "no rule",
        Err(_) => "nothing",
    };
    format!("{kind}: {allowed}")
}

#[test]
fn a_set_has_as_many_rules_as_asked_for_and_flows_of_every_kind() {
    for rules in [10, 100, 1000, 10_000] {
        let set = RuleSet::new(rules, 1);
        assert_eq!(set.rules(), rules);
        let table = PolicyTable::compile(&set.intent).unwrap();
        for kind in Kind::ALL {
            assert_eq!(set.flows(&table, kind, false, 1024, 1).len(), 1024, "{kind:?} of {rules} rules");
        }
    }
    assert_eq!(RuleSet::new(1000, 7).intent, RuleSet::new(1000, 7).intent);
    assert_ne!(RuleSet::new(1000, 7).intent, RuleSet::new(1000, 8).intent);
}

#[test]
fn a_pass_leaves_it_to_the_next_tier() {
    // Monitors of a tenant that its NetworkPolicies let in, or do not: in the Admin tier they are passed on.
    let all = All::of(3000, 0);
    let monitors: Vec<u32> = (40..42).collect();
    let monitor_of = |flow: &Flow| {
        let pods = all.set.intent.endpoints.iter().filter(|pod| monitors.contains(&pod.identity));
        pods.flat_map(|pod| &pod.addresses).any(|address| *address == flow.src)
    };
    let flows = all.set.any_flows(false, 40_000, 5);
    let passed = flows.iter().filter(|flow| flow.port == 9100 && flow.protocol == 6 && monitor_of(flow));
    let verdicts: BTreeSet<bool> = passed
        .map(|flow| {
            let judgement = all.walks.judge(flow);
            assert_eq!(judgement, all.linear.judge(flow), "{flow:?}");
            judgement.ingress.allowed
        })
        .collect();
    assert_eq!(verdicts, [false, true].into());
}
