//! Rows: for a subject, which of its rules match each peer class.
//!
//! A row is a function of the groups that the subject's rules are about and of nothing else: ten thousand policies
//! that each allow the same peers share one row. What a row holds for a class is a small number, the same for all
//! classes that the same rules match; 0 is where only the rules about everyone do, as for strangers to all of them.

use std::collections::{BTreeMap, BTreeSet};

use super::cells::{Cells, PagePool};
use super::classes::Classes;
use super::groups::Groups;
use crate::hash::FastMap;

/// All rows, by number. There are only more of them, until all is compiled anew.
#[derive(Debug, Default)]
pub(super) struct Rows {
    rows: Vec<Row>,
    by_groups: FastMap<Vec<u32>, u32>,
    /// The rows about each group, but for groups of everyone.
    about: FastMap<u32, Vec<u32>>,
    pool: PagePool,
    /// Of all rows.
    bytes: usize,
}

/// A row, and for each number in it the positions of the rules that match there, lowest first.
#[derive(Debug, Default)]
pub(super) struct Row {
    /// Positions of the rules about everyone, and of those about each group.
    always: Vec<u32>,
    positions: FastMap<u32, Vec<u32>>,
    pub(super) cells: Cells,
    /// Positions of rules, by the numbers that the row holds.
    pub(super) matches: Vec<Vec<u32>>,
    numbers: FastMap<Vec<u32>, u32>,
    /// The subjects that have it.
    pub(super) subjects: BTreeSet<u32>,
}

impl Rows {
    /// The number of the row of a subject whose rules are about `wanted`, in the rules' order.
    pub(super) fn number(&mut self, wanted: Vec<u32>, groups: &Groups, classes: &Classes) -> u32 {
        if let Some(number) = self.by_groups.get(&wanted) {
            return *number;
        }
        let number = self.rows.len() as u32;
        let mut row = Row::new(&wanted, groups);
        let mut matching = BTreeMap::<u32, Vec<u32>>::new();
        for (group, positions) in &row.positions {
            self.about.entry(*group).or_default().push(number);
            for class in classes.members(*group) {
                matching.entry(*class).or_default().extend_from_slice(positions);
            }
        }
        self.fill(&mut row, matching.into_iter().collect());
        self.rows.push(row);
        self.by_groups.insert(wanted, number);
        number
    }

    /// There are classes more, from `first` on: the rows that are about any of their groups hold them, too. Returns those rows.
    pub(super) fn add_classes(&mut self, first: u32, classes: &Classes) -> BTreeSet<u32> {
        let mut changed = FastMap::<u32, Vec<u32>>::default();
        for class in first..classes.count() {
            for row in classes.groups(class).iter().filter_map(|group| self.about.get(group)).flatten() {
                let added = changed.entry(*row).or_default();
                if added.last() != Some(&class) {
                    added.push(class);
                }
            }
        }
        for (number, added) in &changed {
            let Some(mut row) = self.rows.get_mut(*number as usize).map(std::mem::take) else { continue };
            let matching = |class: &u32| {
                let positions = classes.groups(*class).iter().filter_map(|group| row.positions.get(group));
                (*class, positions.flatten().copied().collect())
            };
            let matching = added.iter().map(matching).collect();
            self.fill(&mut row, matching);
            if let Some(place) = self.rows.get_mut(*number as usize) {
                *place = row;
            }
        }
        changed.into_keys().collect()
    }

    /// The row of that number.
    pub(super) fn get(&self, number: u32) -> Option<&Row> {
        self.rows.get(number as usize)
    }

    /// The subject has the row, or has it no more.
    pub(super) fn set_subject(&mut self, row: u32, subject: u32, has: bool) {
        let Some(row) = self.rows.get_mut(row as usize) else { return };
        if has {
            row.subjects.insert(subject)
        } else {
            row.subjects.remove(&subject)
        };
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.rows.len()
    }

    /// How many bytes they take.
    pub(super) fn bytes(&self) -> usize {
        self.bytes + self.pool.bytes()
    }

    /// Writes what the row holds for classes, ascending, of each of which those positions match that are not about everyone.
    fn fill(&mut self, row: &mut Row, added: Vec<(u32, Vec<u32>)>) {
        let added = added.into_iter().map(|(class, matching)| (class, row.number_for(matching)));
        let added: Vec<(u32, u32)> = added.collect();
        self.bytes -= row.cells.bytes();
        row.cells = row.cells.with(&added, &mut self.pool);
        self.bytes += row.cells.bytes();
    }
}

impl Row {
    fn new(about: &[u32], groups: &Groups) -> Self {
        let mut row = Row::default();
        for (position, group) in (0..).zip(about) {
            if groups.is_everyone(*group) {
                row.always.push(position);
            } else {
                row.positions.entry(*group).or_default().push(position);
            }
        }
        // Number 0.
        row.number_for(Vec::new());
        row
    }

    /// The number that stands for a class of which those positions match, and those about everyone.
    fn number_for(&mut self, mut matching: Vec<u32>) -> u32 {
        matching.extend_from_slice(&self.always);
        matching.sort_unstable();
        *self.numbers.entry(matching).or_insert_with_key(|matching| {
            self.matches.push(matching.clone());
            self.matches.len() as u32 - 1
        })
    }
}
