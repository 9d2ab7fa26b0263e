//! Subjects: which policies select an endpoint in a direction. Identities that the same ones select, and whose named ports agree
//! (they matter to ingress), have one subject.

use std::collections::HashMap;

use crate::intent::Protocol;

/// What a subject is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Key {
    /// Numbers of policies, in the order in which they are asked.
    pub(super) policies: Vec<u32>,
    /// (name, protocol, number); empty on egress.
    pub(super) ports: Vec<(String, Protocol, u16)>,
    pub(super) ingress: bool,
}

/// All subjects by number. Number 0 is of those whom no policy selects.
#[derive(Debug, Default)]
pub(super) struct Subjects {
    numbers: HashMap<Key, u32>,
    /// From number 1 on.
    subjects: Vec<Option<Subject>>,
    free: Vec<u32>,
}

#[derive(Debug)]
pub(super) struct Subject {
    pub(super) key: Key,
    /// Its row, once that is written.
    pub(super) row: Option<u32>,
    /// How many identities have it.
    identities: u32,
}

impl Subjects {
    /// The number of that subject, for one identity more; true where it is new.
    pub(super) fn take(&mut self, key: Key) -> (u32, bool) {
        if key.policies.is_empty() {
            return (0, false);
        }
        if let Some(number) = self.numbers.get(&key).copied() {
            self.get_mut(number).into_iter().for_each(|subject| subject.identities += 1);
            return (number, false);
        }
        let number = self.free.pop().unwrap_or_else(|| {
            self.subjects.push(None);
            self.subjects.len() as u32
        });
        self.numbers.insert(key.clone(), number);
        if let Some(place) = place(number).and_then(|place| self.subjects.get_mut(place)) {
            *place = Some(Subject { key, row: None, identities: 1 });
        }
        (number, true)
    }

    /// One identity less has it. Returns the subject where none has it any more; its number is free.
    pub(super) fn release(&mut self, number: u32) -> Option<Subject> {
        let slot = self.subjects.get_mut(place(number)?)?;
        let subject = slot.as_mut()?;
        subject.identities -= 1;
        if subject.identities > 0 {
            return None;
        }
        let subject = slot.take()?;
        self.numbers.remove(&subject.key);
        self.free.push(number);
        Some(subject)
    }

    /// The subject of that number.
    pub(super) fn get_mut(&mut self, number: u32) -> Option<&mut Subject> {
        self.subjects.get_mut(place(number)?)?.as_mut()
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.numbers.len()
    }
}

fn place(number: u32) -> Option<usize> {
    (number as usize).checked_sub(1)
}
