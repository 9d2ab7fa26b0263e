//! Rows: for a subject, which of its rules match each peer class.
//!
//! A row is a function of the groups that the subject's rules are about and of nothing else: ten thousand policies
//! that each allow the same peers share one row. What a row holds for a class is a small number, the same for all
//! classes that the same rules match; 0 is where only the rules about everyone do, as for strangers to all of them. Rows are cut
//! into pages of 64 classes; equal pages are one, and pages of nothing but 0 are left out.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::classes::Classes;
use super::groups::Groups;
use crate::hash::FastMap;

/// Classes a page.
const PAGE: usize = 64;

/// The numbers of 64 classes.
type Page = [u32; PAGE];

/// What a row holds, by class. A clone is a reference.
#[derive(Debug, Clone, Default)]
pub(super) struct Pages(Arc<[Option<Arc<Page>>]>);

/// All rows, by number. There are only more of them, until all is compiled anew.
#[derive(Debug, Default)]
pub(super) struct Rows {
    rows: Vec<Row>,
    by_groups: FastMap<Vec<u32>, u32>,
    /// The rows about each group, but for groups of everyone.
    about: FastMap<u32, Vec<u32>>,
    pages: FastMap<Page, Arc<Page>>,
    /// References to pages, of all rows.
    references: usize,
}

/// A row, and for each number in it the positions of the rules that match there, lowest first.
#[derive(Debug, Default)]
pub(super) struct Row {
    /// Positions of the rules about everyone, and of those about each group.
    always: Vec<u32>,
    positions: FastMap<u32, Vec<u32>>,
    pub(super) pages: Pages,
    /// Positions of rules, by the numbers that the row holds.
    pub(super) matches: Vec<Vec<u32>>,
    numbers: FastMap<Vec<u32>, u32>,
    /// The subjects that have it.
    pub(super) subjects: BTreeSet<u32>,
}

impl Pages {
    /// What the row holds for `class`.
    #[inline]
    pub(super) fn number(&self, class: u32) -> u32 {
        let page = self.0.get(class as usize / PAGE).and_then(Option::as_deref);
        page.map_or(0, |page| page[class as usize % PAGE])
    }

    /// The classes for which the row holds another number than 0.
    pub(super) fn exceptions(&self) -> impl Iterator<Item = u32> {
        let pages = self.0.iter().zip(0..).filter_map(|(page, at)| Some((page.as_deref()?, at)));
        pages.flat_map(|(page, at)| {
            let held = page.iter().zip(at * PAGE as u32..);
            held.filter(|(number, _)| **number != 0).map(|(_, class)| class)
        })
    }
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
        self.pages.len() * size_of::<Page>() + self.references * size_of::<Arc<Page>>()
    }

    /// Writes what the row holds for classes, ascending, of each of which those positions match that are not about everyone.
    fn fill(&mut self, row: &mut Row, added: Vec<(u32, Vec<u32>)>) {
        let mut pages: Vec<Option<Arc<Page>>> = row.pages.0.to_vec();
        let mut added = added.into_iter().peekable();
        while let Some(place) = added.peek().map(|(class, _)| *class as usize / PAGE) {
            let known = pages.get(place).and_then(Option::as_deref);
            let mut page: Page = known.copied().unwrap_or([0; PAGE]);
            while let Some((class, matching)) = added.next_if(|(class, _)| *class as usize / PAGE == place) {
                page[class as usize % PAGE] = row.number_for(matching);
            }
            pages.resize(pages.len().max(place + 1), None);
            if let Some(slot) = pages.get_mut(place) {
                *slot = Some(self.page(page));
            }
        }
        self.references += pages.len() - row.pages.0.len();
        row.pages = Pages(pages.into());
    }

    fn page(&mut self, page: Page) -> Arc<Page> {
        Arc::clone(self.pages.entry(page).or_insert_with(|| Arc::new(page)))
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
