use std::collections::HashMap;

use policy_compiler::intent::update::Update;
use policy_compiler::intent::{Identity, Intent, Node};
use policy_compiler::policy::PolicyTable;
use policy_compiler::tables::Capacity;
use proptest::prelude::*;

use super::{
    Arc, Compiler, Counts, Hits, ObjectName, Origins, Policy, PolicyKind, Rule, RuleId, RuleName, listed,
    running,
};

/// So many rules for ingress of each policy; zero: the policy is not there.
type Rules = [u32; 3];

fn intent(rules: Rules) -> Intent {
    let policies = rules.iter().zip(["a", "b", "c"]).filter(|(count, _)| **count > 0).map(|(count, name)| {
        let rules = (0..*count).map(|index| Rule { index, ..Rule::default() }).collect();
        Policy {
            name: ObjectName::new("ns", name),
            resource_version: count.to_string(),
            subjects: vec![0],
            ingress: Some(rules),
            ..Policy::default()
        }
    });
    Intent { identities: vec![Identity::default()], policies: policies.collect(), ..Intent::default() }
}

fn origins(rules: Rules) -> Origins {
    PolicyTable::compile(&intent(rules)).unwrap().origins()
}

fn compiler(rules: Rules) -> Compiler {
    let node = Node { name: "n".into(), addresses: vec![], pod_cidrs: vec![], zone: String::new() };
    let intent = Intent { node: "n".into(), nodes: vec![node], ..intent(rules) };
    Compiler::new(intent, 7, &Capacity::default(), None).unwrap()
}

fn name(policy: &str, index: u32) -> RuleName {
    let policy = ObjectName::new("ns", policy);
    RuleName { kind: PolicyKind::NetworkPolicy, policy, ingress: true, index }
}

fn allowed(flows_allowed: u64) -> Counts {
    Counts { flows_allowed, ..Counts::default() }
}

#[test]
fn a_policy_that_is_replaced_goes_on_counting_and_one_that_is_gone_is_dropped_at_the_next_fold() {
    let hits = Hits::new(2);
    let first = hits.table_for(&origins([2, 0, 1]), 1);
    let [a0, a1, c0] = [2, 3, 4].map(RuleId);
    first.allow(0, a0, true);
    first.allow(1, a0, true);
    first.allow(1, a1, true);
    first.allow(1, c0, true);
    first.deny(0, RuleId::NO_RULE, false);
    // Others come before it: its rule has another number.
    let second = hits.table_for(&origins([1, 2, 0]), 2);
    second.allow(0, a0, true);
    second.allow(0, a1, true);
    // A worker that has not come by yet.
    first.allow(1, a0, true);
    let expected = |rules: &[(&str, u32, u64)]| -> HashMap<RuleName, Counts> {
        rules.iter().map(|(policy, index, flows)| (name(policy, *index), allowed(*flows))).collect()
    };
    let all = expected(&[("a", 0, 4), ("a", 1, 1), ("b", 0, 1), ("c", 0, 1)]);
    assert_eq!(hits.totals().rules, all);
    hits.fold();
    assert_eq!(hits.totals().rules, all, "a worker may still count");
    drop(first);
    hits.fold();
    let totals = hits.totals();
    assert_eq!(totals.rules, expected(&[("a", 0, 4), ("b", 0, 1)]));
    assert_eq!(totals.constants[&(RuleId::NO_RULE, false)], Counts { flows_denied: 1, ..Counts::default() });
    hits.fold();
    assert_eq!(hits.totals(), totals);
}

#[test]
fn rules_that_go_on_keep_their_table() {
    let hits = Hits::new(1);
    let rules = origins([1, 1, 1]);
    let table = hits.table_for(&rules, 1);
    assert!(Arc::ptr_eq(&table, &hits.table_for(&rules, 2)));
    assert!(table.is_of(1) && table.is_of(2) && !table.is_of(0));
    let other = hits.table_for(&origins([1, 1, 1]), 3);
    assert!(!Arc::ptr_eq(&table, &other) && !other.continues(&table));
    assert!(other.is_of(3) && !other.is_of(2));
}

#[test]
fn a_table_grows_with_the_numbers_of_rules() {
    let mut compiler = compiler([1, 0, 0]);
    let hits = Hits::new(1);
    let table = hits.table_for(&compiler.tables().policy.origins(), 1);
    table.allow(0, RuleId(2), true);
    for (round, epoch) in (0..3).zip(2..) {
        // Other versions of the policy, each with numbers of its own.
        let mut policies = intent([200, 0, 0]).policies;
        policies[0].resource_version = format!("{round}");
        let update = Update { policies, ..Update::default() };
        let prepared = compiler.prepare(update, epoch).unwrap();
        compiler.commit(prepared);
        let rules = compiler.tables().policy.origins();
        let grown = hits.table_for(&rules, epoch.try_into().unwrap());
        assert!(grown.holds(&rules) && grown.continues(&table));
        grown.allow(0, RuleId(rules.numbers() - 200), true);
    }
    // A worker that has not come by yet.
    table.allow(0, RuleId(2), true);
    hits.fold();
    assert_eq!(hits.totals().rules, HashMap::from([(name("a", 0), allowed(5))]));
}

#[test]
fn every_running_rule_is_listed_with_its_version_in_the_order_of_names() {
    let compiler = compiler([1, 0, 2]);
    let hits = Hits::new(1);
    hits.table_for(&compiler.tables().policy.origins(), 1).allow(0, RuleId(3), true);
    let (generation, rules) = running(&compiler);
    let listed = listed(rules, &hits.totals());
    let told: Vec<(String, Option<&str>, u64)> = listed
        .iter()
        .map(|hits| {
            let version = hits.decided_by.rule().map(|rule| rule.resource_version.as_str());
            (format!("{} {}", hits.decided_by, hits.decided_by.direction), version, hits.flows_allowed)
        })
        .collect();
    let wanted = [
        ("default-allow ingress", None, 0),
        ("default-allow egress", None, 0),
        ("no-rule ingress", None, 0),
        ("no-rule egress", None, 0),
        ("NetworkPolicy ns/a ingress[0] ingress", Some("1"), 0),
        ("NetworkPolicy ns/c ingress[0] ingress", Some("2"), 1),
        ("NetworkPolicy ns/c ingress[1] ingress", Some("2"), 0),
    ];
    assert_eq!(told, wanted.map(|(name, version, flows)| (name.to_owned(), version, flows)));
    assert_eq!(generation, 7);
}

#[derive(Debug, Clone)]
enum Step {
    Apply(Rules),
    /// Into the table of so many before the last that are held, by the rule of that number.
    Count(prop::sample::Index, prop::sample::Index, usize),
    /// The workers pass the tables before.
    Pass,
    Fold,
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        2 => [0..3u32, 0..3u32, 0..3u32].prop_map(Step::Apply),
        8 => (any::<prop::sample::Index>(), any::<prop::sample::Index>(), 0..2usize)
            .prop_map(|(table, rule, worker)| Step::Count(table, rule, worker)),
        1 => Just(Step::Pass),
        2 => Just(Step::Fold),
    ]
}

/// Tables as the twin remembers them.
struct Counted {
    names: Vec<String>,
    counts: HashMap<String, u64>,
    /// A worker may still count into them.
    held: bool,
}

#[derive(Default)]
struct Twin {
    tables: Vec<Counted>,
    past: HashMap<String, u64>,
}

impl Twin {
    fn begin(&mut self, rules: &Origins) {
        let names = (RuleId::FIRST..rules.numbers()).map(|rule| rules.of(RuleId(rule)).unwrap().to_string());
        self.tables.push(Counted { names: names.collect(), counts: HashMap::new(), held: true });
    }

    fn pass(&mut self) {
        let before = self.tables.len() - 1;
        self.tables[..before].iter_mut().for_each(|counted| counted.held = false);
    }

    fn fold(&mut self) {
        let over: Vec<Counted> = self.tables.extract_if(.., |counted| !counted.held).collect();
        add(&mut self.past, &over);
        let current = &self.tables[self.tables.len() - 1];
        if !over.is_empty() {
            self.past.retain(|name, _| current.names.contains(name));
        }
    }

    fn totals(&self) -> HashMap<String, u64> {
        let mut totals = self.past.clone();
        add(&mut totals, &self.tables);
        totals
    }
}

fn add(sums: &mut HashMap<String, u64>, tables: &[Counted]) {
    for (name, count) in tables.iter().flat_map(|counted| &counted.counts) {
        *sums.entry(name.clone()).or_default() += count;
    }
}

proptest! {
    /// Nothing is lost or counted twice, whoever counts late and whenever is folded.
    #[test]
    fn totals_are_what_was_counted_by_name(steps in prop::collection::vec(any_step(), 1..80)) {
        let (hits, mut twin) = (Hits::new(2), Twin::default());
        let mut held = Vec::new();
        for (step, epoch) in [Step::Apply([1, 1, 0])].into_iter().chain(steps).zip(1..) {
            match step {
                Step::Apply(rules) => {
                    let rules = origins(rules);
                    held.push(hits.table_for(&rules, epoch));
                    twin.begin(&rules);
                }
                Step::Count(table, rule, worker) => {
                    let behind = table.index(held.len());
                    let known = twin.tables.len() - 1 - behind;
                    let counted = &mut twin.tables[known];
                    if !counted.names.is_empty() {
                        let rule = rule.index(counted.names.len());
                        *counted.counts.entry(counted.names[rule].clone()).or_default() += 1;
                        held[held.len() - 1 - behind].allow(worker, RuleId(RuleId::FIRST + rule as u32), true);
                    }
                }
                Step::Pass => {
                    held.drain(..held.len() - 1);
                    twin.pass();
                }
                Step::Fold => {
                    hits.fold();
                    twin.fold();
                }
            }
            let text = |name: &RuleName| format!("NetworkPolicy {} ingress[{}]", name.policy, name.index);
            let totals = hits.totals().rules;
            let told: HashMap<String, u64> =
                totals.iter().map(|(name, counts)| (text(name), counts.flows_allowed)).collect();
            prop_assert_eq!(told, twin.totals());
        }
    }
}
