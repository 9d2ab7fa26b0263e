//! [`History`]: whose rules an epoch was of. Rules and generations in flow entries and drop events are numbers of the
//! tables they were judged by, which may have been replaced since. Of those only what names the rules is kept.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use agent_api::contract::{Basis, DecidedBy, Direction, RuleRef};
use policy_compiler::policy::{Origins, RuleId};
use policy_compiler::tables::Tables;

/// Sets of rules that are remembered. There is another one where all policies have been compiled anew.
const RULES: usize = 8;
/// Generations that are remembered: some may follow one another within milliseconds.
const GENERATIONS: usize = 4096;

/// What is remembered of a generation.
#[derive(Debug, Clone, Default)]
pub(super) struct Judges {
    /// Its number; 0 where that is forgotten.
    pub(super) generation: u64,
    /// Where its rules come from; shared by all generations whose rules are numbered on.
    pub(super) rules: Origins,
}

/// The last generations and sets of rules, each with the first epoch under which it was published. A set that continues the one before
/// takes its place: it names the rules of both.
#[derive(Debug, Default)]
pub(super) struct History {
    lists: Mutex<Lists>,
}

#[derive(Debug, Default)]
struct Lists {
    rules: VecDeque<(u32, Origins)>,
    generations: VecDeque<(u32, u64)>,
}

impl History {
    /// From `epoch` on these tables are in force.
    pub(super) fn record(&self, epoch: u32, tables: &Tables) {
        let mut lists = self.lists();
        let rules = tables.policy.origins();
        match lists.rules.back_mut() {
            // It knows what the last ones knew, and more.
            Some((_, last)) if rules.continues(last) => *last = rules,
            _ => push(&mut lists.rules, (epoch, rules), RULES),
        }
        push(&mut lists.generations, (epoch, tables.generation), GENERATIONS);
    }

    /// Whose an epoch was; `None` where its rules are forgotten.
    pub(super) fn judges(&self, epoch: u32) -> Option<Judges> {
        let lists = self.lists();
        let rules = at(&lists.rules, epoch)?.clone();
        Some(Judges { generation: at(&lists.generations, epoch).copied().unwrap_or_default(), rules })
    }

    fn lists(&self) -> MutexGuard<'_, Lists> {
        self.lists.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn push<T>(list: &mut VecDeque<T>, last: T, most: usize) {
    if list.len() == most {
        list.pop_front();
    }
    list.push_back(last);
}

/// What was in force in an epoch: the last of those that came with it or before.
fn at<T>(list: &VecDeque<(u32, T)>, epoch: u32) -> Option<&T> {
    list.iter().rev().find(|(first, _)| (epoch.wrapping_sub(*first) as i32) >= 0).map(|(_, found)| found)
}

/// A rule, field by field; `ingress` says whose absence it is where it is no rule's. `None` for a number of other tables.
pub(super) fn decided_by(rules: &Origins, rule: RuleId, ingress: bool) -> Option<DecidedBy> {
    let (ingress, basis) = match rule {
        RuleId::DEFAULT_ALLOW => (ingress, Basis::DefaultAllow),
        RuleId::NO_RULE => (ingress, Basis::NoRule),
        rule => {
            let origin = rules.of(rule)?;
            (origin.ingress, Basis::Rule(RuleRef::from(origin)))
        }
    };
    Some(DecidedBy { direction: Direction::of(ingress), basis })
}

#[cfg(test)]
mod tests {
    use policy_compiler::compiler::Compiler;
    use policy_compiler::intent::update::Update;
    use policy_compiler::intent::{Identity, Intent, Node, ObjectName, Policy, Rule};
    use policy_compiler::tables::Capacity;

    use super::*;

    #[test]
    fn an_epoch_finds_the_generation_it_was_judged_by() {
        let history = History::default();
        let tables = |generation| Tables { generation, ..Tables::empty() };
        history.record(1, &tables(0));
        history.record(4, &tables(1));
        history.record(9, &tables(2));
        let generation = |epoch| history.judges(epoch).map(|judges| judges.generation);
        assert_eq!([1, 3, 4, 8, 9, 100].map(generation), [0, 0, 1, 1, 2, 2].map(Some));
        assert_eq!(generation(0), None);
    }

    #[test]
    fn rules_that_are_numbered_on_are_one_set_and_those_that_are_gone_keep_their_names() {
        let policy = |version: u64| Policy {
            name: ObjectName::new("ns", "a"),
            resource_version: version.to_string(),
            subjects: vec![0],
            ingress: Some(vec![Rule::default()]),
            ..Policy::default()
        };
        let node = Node { name: "n".into(), addresses: vec![], pod_cidrs: vec![], zone: String::new() };
        let (nodes, identities) = (vec![node], vec![Identity::default()]);
        let intent = Intent { node: "n".into(), nodes, identities, ..Intent::default() };
        let mut compiler = Compiler::new(intent, 1, &Capacity::default(), None).unwrap();
        let history = History::default();
        history.record(1, compiler.tables());
        for generation in 2..3 * RULES as u64 {
            let update = Update { policies: vec![policy(generation)], ..Update::default() };
            let prepared = compiler.prepare(update, generation).unwrap();
            compiler.commit(prepared);
            history.record(generation as u32, compiler.tables());
        }
        let judges = history.judges(2).unwrap();
        let decided_by = decided_by(&judges.rules, RuleId(RuleId::FIRST), false).unwrap();
        assert_eq!((judges.generation, decided_by.direction), (2, Direction::Ingress));
        assert_eq!(decided_by.rule().map(|rule| rule.resource_version.as_str()), Some("2"));
        assert_eq!(decided_by.to_string(), judges.rules.text(RuleId(RuleId::FIRST)));
    }

    #[test]
    fn rules_are_known_for_as_long_as_they_stay_though_their_generation_is_forgotten() {
        let history = History::default();
        let mut tables = Tables::empty();
        for generation in 0..3 * GENERATIONS as u64 {
            tables.generation = generation;
            history.record(generation as u32 + 1, &tables);
        }
        let first = history.judges(1).unwrap();
        assert_eq!((first.generation, first.rules.is(&tables.policy.origins())), (0, true));
        assert_eq!(history.judges(3 * GENERATIONS as u32).unwrap().generation, 3 * GENERATIONS as u64 - 1);
        for generation in 0..RULES as u32 {
            tables.policy = std::sync::Arc::default();
            history.record(20_000 + generation, &tables);
        }
        assert!(history.judges(1).is_none());
    }
}
