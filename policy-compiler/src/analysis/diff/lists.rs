//! [`Lists`]: what two tables say of protocols and ports, compared.

use std::collections::BTreeMap;
use std::rc::Rc;

use super::Change;
use crate::hash::FastMap;
use crate::policy::inspect::{ListId, OTHER_PROTOCOLS};
use crate::policy::{Decision, PolicyTable, RuleId};

/// The old rule and the new one of a direction whose decision changes.
pub(super) type Turn = Option<[RuleId; 2]>;

/// A difference between what two tables say of one pair of ends.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Delta {
    pub(super) change: Change,
    /// Egress and ingress.
    pub(super) turns: [Turn; 2],
    /// Ranges of keys, both ends included.
    pub(super) keys: Vec<(u32, u32)>,
}

/// What the tables say of a pair of ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Said {
    /// Egress and ingress of the old table, then of the new one.
    pub(super) lists: [[ListId; 2]; 2],
    /// Whether the old table exempts the pair from isolation, and whether the new one does.
    pub(super) exempt: [bool; 2],
}

/// Compares lists, each pair of pairs once.
pub(super) struct Lists<'a> {
    tables: [&'a PolicyTable; 2],
    known: FastMap<Said, Rc<[u32]>>,
    /// What was asked for last: neighbours are often told the same.
    last: Option<(Said, Rc<[u32]>)>,
    deltas: Vec<Rc<Delta>>,
    delta_numbers: FastMap<Rc<Delta>, u32>,
}

impl<'a> Lists<'a> {
    /// For the old table and the new one.
    pub(super) fn new(tables: [&'a PolicyTable; 2]) -> Self {
        Lists {
            tables,
            known: FastMap::default(),
            last: None,
            deltas: Vec::new(),
            delta_numbers: FastMap::default(),
        }
    }

    /// For each list of both tables, in the order of [`ListId::index`], a number that is equal where the same is allowed.
    pub(super) fn allowances(&self) -> [Vec<u32>; 2] {
        let mut numbers = FastMap::<Vec<(u32, bool)>, u32>::default();
        self.tables.map(|table| {
            let number = |list| {
                let mut allowed = Vec::<(u32, bool)>::new();
                for (first, decision) in table.segments(list) {
                    if allowed.last().is_none_or(|(_, before)| *before != decision.allowed) {
                        allowed.push((first, decision.allowed));
                    }
                }
                let next = numbers.len() as u32;
                *numbers.entry(allowed).or_insert(next)
            };
            table.lists().map(number).collect()
        })
    }

    /// The numbers of the differences in what is said; none where the same is allowed.
    pub(super) fn compare(&mut self, said: Said) -> Rc<[u32]> {
        if let Some((last, numbers)) = &self.last
            && *last == said
        {
            return Rc::clone(numbers);
        }
        let numbers = match self.known.get(&said) {
            Some(known) => Rc::clone(known),
            None => {
                let numbers: Rc<[u32]> =
                    differences(self.tables, said).map(|delta| self.number(delta)).collect();
                self.known.insert(said, Rc::clone(&numbers));
                numbers
            }
        };
        self.last = Some((said, Rc::clone(&numbers)));
        numbers
    }

    /// The difference of that number.
    pub(super) fn delta(&self, number: u32) -> Option<&Delta> {
        self.deltas.get(number as usize).map(Rc::as_ref)
    }

    fn number(&mut self, delta: Delta) -> u32 {
        let delta = Rc::new(delta);
        if let Some(number) = self.delta_numbers.get(&delta) {
            return *number;
        }
        let number = self.deltas.len() as u32;
        self.deltas.push(Rc::clone(&delta));
        self.delta_numbers.insert(delta, number);
        number
    }
}

/// Goes along the line of keys with both directions of both tables.
fn differences(tables: [&PolicyTable; 2], said: Said) -> impl Iterator<Item = Delta> + use<> {
    let segments = [0, 1].map(|side: usize| said.lists[side].map(|list| tables[side].segments(list)));
    let mut firsts: Vec<u32> =
        segments.iter().flatten().flatten().map(|(first, _)| *first).chain([0]).collect();
    firsts.sort_unstable();
    firsts.dedup();
    let mut found = BTreeMap::<(Change, [Turn; 2]), Vec<(u32, u32)>>::new();
    for (position, first) in firsts.iter().enumerate() {
        let last = firsts.get(position + 1).map_or(OTHER_PROTOCOLS, |next| next - 1);
        let decisions = [0, 1].map(|side: usize| {
            let decide = |list: &Vec<(u32, Decision)>| {
                let decision = decision_at(list, *first);
                if said.exempt[side] { PolicyTable::exempted(decision) } else { decision }
            };
            [decide(&segments[side][0]), decide(&segments[side][1])]
        });
        let Some(key) = difference(decisions) else { continue };
        let ranges = found.entry(key).or_default();
        match ranges.last_mut() {
            Some((_, end)) if *end + 1 == *first => *end = last,
            _ => ranges.push((*first, last)),
        }
    }
    found.into_iter().map(|((change, turns), keys)| Delta { change, turns, keys })
}

fn decision_at(segments: &[(u32, Decision)], key: u32) -> Decision {
    let after = segments.partition_point(|(first, _)| *first <= key);
    segments.get(after.wrapping_sub(1)).map_or(Decision::NO_RULE, |(_, decision)| *decision)
}

/// What changes between the decisions, egress and ingress, of the old table and of the new one.
fn difference([old, new]: [[Decision; 2]; 2]) -> Option<(Change, [Turn; 2])> {
    let allowed = |both: [Decision; 2]| both.iter().all(|decision| decision.allowed);
    let change = match (allowed(old), allowed(new)) {
        (false, true) => Change::Allowed,
        (true, false) => Change::Denied,
        _ => return None,
    };
    let turn = |way: usize| (old[way].allowed != new[way].allowed).then_some([old[way].rule, new[way].rule]);
    Some((change, [turn(0), turn(1)]))
}
