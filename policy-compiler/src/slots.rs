//! [`Slots`]: parts of an intent under numbers that stay, found by their object's name.

use std::collections::BTreeSet;

use crate::hash::FastMap;
use crate::intent::update::{Part, index};
use crate::view::Change;

/// Parts, each under a number for as long as it is there.
#[derive(Debug)]
pub(crate) struct Slots<T> {
    parts: Vec<Option<T>>,
    free: Vec<u32>,
    /// By the hash of the object's name: numbers of its parts, ascending, perhaps with those of another object.
    by_object: FastMap<u64, Vec<u32>>,
}

/// Which numbers a change takes and gives.
#[derive(Debug, Clone, Default)]
pub(crate) struct Plan {
    /// Numbers of what goes or is replaced.
    pub(crate) removed: Vec<u32>,
    /// For each part that comes, its number.
    pub(crate) places: Vec<u32>,
}

impl<T: Part> Slots<T> {
    /// Those parts, numbered in their order.
    pub(crate) fn new(parts: Vec<T>) -> Self {
        let by_object = index(parts.iter());
        Slots { parts: parts.into_iter().map(Some).collect(), free: Vec::new(), by_object }
    }

    /// How a change is to be made; `Err` names what should go but is not there.
    pub(crate) fn plan(&self, removed: &[T::Name], put: &[T]) -> Result<Plan, T::Name> {
        let mut plan = Plan::default();
        for object in removed {
            let numbers = self.numbers(object);
            if numbers.is_empty() {
                return Err(object.clone());
            }
            plan.removed.extend(numbers);
        }
        for object in put.iter().map(T::object) {
            plan.removed.extend(self.numbers(&object));
        }
        plan.removed.sort_unstable();
        plan.removed.dedup();
        // First an object's own numbers, then free ones, then new ones.
        let mut taken = BTreeSet::new();
        let mut free = self.free.iter().rev().copied();
        let mut next = self.parts.len() as u32;
        for part in put {
            let own = self.numbers(&part.object()).into_iter().find(|number| !taken.contains(number));
            let number = own.or_else(|| free.next()).unwrap_or_else(|| {
                next += 1;
                next - 1
            });
            taken.insert(number);
            plan.places.push(number);
        }
        Ok(plan)
    }

    /// What the plan changes.
    pub(crate) fn change<'a>(&'a self, plan: &Plan, put: &'a [T]) -> Change<'a, T> {
        let removed = plan.removed.iter().filter_map(|number| Some((*number, self.get(*number)?)));
        Change { removed: removed.collect(), added: plan.places.iter().copied().zip(put).collect() }
    }

    /// The parts by number, as they will be after the plan.
    pub(crate) fn view<'a>(&'a self, plan: &Plan, put: &'a [T]) -> Vec<Option<&'a T>> {
        let mut view: Vec<Option<&T>> = self.parts.iter().map(Option::as_ref).collect();
        let length = plan.places.iter().map(|number| *number as usize + 1).max().unwrap_or(0);
        view.resize(view.len().max(length), None);
        let mut set = |number: u32, part| {
            view.get_mut(number as usize).into_iter().for_each(|place| *place = part);
        };
        plan.removed.iter().for_each(|number| set(*number, None));
        plan.places.iter().zip(put).for_each(|(number, part)| set(*number, Some(part)));
        view
    }

    /// Makes the change that was planned on these very parts.
    pub(crate) fn commit(&mut self, plan: &Plan, put: Vec<T>) {
        for number in &plan.removed {
            let Some(part) = self.parts.get_mut(*number as usize).and_then(Option::take) else { continue };
            let hash = part.spread();
            if let Some(numbers) = self.by_object.get_mut(&hash) {
                numbers.retain(|other| other != number);
                if numbers.is_empty() {
                    self.by_object.remove(&hash);
                }
            }
            self.free.push(*number);
        }
        for (number, part) in plan.places.iter().zip(put) {
            let place = *number as usize;
            if self.parts.len() <= place {
                self.parts.resize(place + 1, None);
            }
            let numbers = self.by_object.entry(part.spread()).or_default();
            let at = numbers.partition_point(|other| other < number);
            numbers.insert(at, *number);
            if let Some(slot) = self.parts.get_mut(place) {
                *slot = Some(part);
            }
        }
        if !plan.places.is_empty() {
            let parts = &self.parts;
            self.free.retain(|number| parts.get(*number as usize).is_some_and(Option::is_none));
        }
    }

    /// All parts, in the order of their numbers.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        self.parts.iter().flatten()
    }

    /// The parts with their numbers.
    pub(crate) fn numbered(&self) -> impl Iterator<Item = (u32, &T)> {
        (0..).zip(&self.parts).filter_map(|(number, part)| Some((number, part.as_ref()?)))
    }

    /// The part of that number.
    pub(crate) fn get(&self, number: u32) -> Option<&T> {
        self.parts.get(number as usize)?.as_ref()
    }

    /// The numbers of an object's parts, ascending.
    fn numbers(&self, object: &T::Name) -> Vec<u32> {
        let alike = self.by_object.get(&T::spread_of(object)).into_iter().flatten().copied();
        alike.filter(|number| self.get(*number).is_some_and(|part| part.is_of(object))).collect()
    }
}
