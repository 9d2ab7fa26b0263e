//! [`History`]: whose rules an epoch was of. Rules and generations in flow entries and drop events are numbers of the
//! tables they were judged by, which may have been replaced since. Of those only what names the rules is kept.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use policy_compiler::policy::{Origins, RuleId};
use policy_compiler::tables::Tables;

/// Generations that are remembered.
const DEPTH: usize = 8;

/// What is remembered of a generation.
#[derive(Debug, Clone, Default)]
pub(super) struct Judges {
    /// Its number.
    pub(super) generation: u64,
    /// Where its rules come from; shared by all generations with the same policies.
    pub(super) rules: Origins,
}

/// The last generations, each with the first epoch under which it was published.
#[derive(Debug, Default)]
pub(super) struct History {
    generations: Mutex<VecDeque<(u32, Judges)>>,
}

impl History {
    /// From `epoch` on these tables are in force.
    pub(super) fn record(&self, epoch: u32, tables: &Tables) {
        let judges = Judges { generation: tables.generation, rules: tables.policy.origins() };
        let mut generations = self.generations();
        generations.push_back((epoch, judges));
        while generations.len() > DEPTH {
            generations.pop_front();
        }
    }

    /// Whose an epoch was; `None` where that is forgotten.
    pub(super) fn judges(&self, epoch: u32) -> Option<Judges> {
        let generations = self.generations();
        let found = generations.iter().rev().find(|(first, _)| (epoch.wrapping_sub(*first) as i32) >= 0);
        found.map(|(_, judges)| judges.clone())
    }

    fn generations(&self) -> MutexGuard<'_, VecDeque<(u32, Judges)>> {
        self.generations.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A rule by name: `default-allow`, `no-rule` or such as `NetworkPolicy db/mongo ingress[0]`.
pub(crate) fn rule_text(rules: &Origins, rule: RuleId) -> String {
    match rule {
        RuleId::DEFAULT_ALLOW => "default-allow".to_owned(),
        RuleId::NO_RULE => "no-rule".to_owned(),
        rule => rules.of(rule).map_or_else(String::new, ToString::to_string),
    }
}

#[cfg(test)]
mod tests {
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
}
