//! Rows: for a subject, which of its rules match each peer class.
//!
//! A row is a function of the groups that the subject's rules are about and of nothing else: ten thousand policies
//! that each allow the same peers share one row. What a row holds for a class is a small number, the same for all
//! classes that the same rules match. Rows are cut into pages of 64 classes; equal pages are one, so that a row of
//! mostly strangers costs four bytes for 64 of them.

use super::peers::Classes;
use crate::hash::FastMap;

/// Classes a page.
const PAGE: usize = 64;

/// All rows of a table.
#[derive(Debug, Default)]
pub(super) struct Rows {
    pages: Vec<[u32; PAGE]>,
    /// Page numbers, row after row.
    rows: Vec<u32>,
    pages_a_row: usize,
}

/// A row, and for each number in it the positions of the rules that match there, lowest first.
pub(super) struct Row {
    /// Number of the row.
    pub(super) number: u32,
    /// Positions of rules, by the numbers that the row holds.
    pub(super) matches: Vec<Vec<u32>>,
}

/// Makes [`Rows`].
pub(super) struct RowBuilder {
    rows: Rows,
    classes: usize,
    pages: FastMap<[u32; PAGE], u32>,
    known: FastMap<Vec<u32>, std::rc::Rc<Row>>,
}

impl Rows {
    /// What row `row` holds for `class`.
    pub(super) fn number(&self, row: u32, class: u32) -> Option<u32> {
        let page = *self.rows.get(row as usize * self.pages_a_row + class as usize / PAGE)?;
        self.pages.get(page as usize)?.get(class as usize % PAGE).copied()
    }

    /// How many bytes they take.
    pub(super) fn bytes(&self) -> usize {
        size_of_val(self.pages.as_slice()) + size_of_val(self.rows.as_slice())
    }
}

impl RowBuilder {
    /// For that many classes.
    pub(super) fn new(classes: u32) -> Self {
        let classes = classes as usize;
        let rows = Rows { pages_a_row: classes.div_ceil(PAGE), ..Rows::default() };
        RowBuilder { rows, classes, pages: FastMap::default(), known: FastMap::default() }
    }

    /// The row of a subject whose rules are about `groups`, in the rules' order.
    pub(super) fn row(&mut self, groups: Vec<u32>, classes: &Classes) -> std::rc::Rc<Row> {
        if let Some(row) = self.known.get(&groups) {
            return row.clone();
        }
        let (numbers, matches) = match_classes(&groups, classes, self.classes);
        let number = (self.rows.rows.len() / self.rows.pages_a_row.max(1)) as u32;
        for chunk in numbers.chunks(PAGE) {
            let mut page = [0; PAGE];
            page.iter_mut().zip(chunk).for_each(|(slot, number)| *slot = *number);
            let pages = &mut self.rows.pages;
            let page = *self.pages.entry(page).or_insert_with(|| {
                pages.push(page);
                pages.len() as u32 - 1
            });
            self.rows.rows.push(page);
        }
        let row = std::rc::Rc::new(Row { number, matches });
        self.known.insert(groups, row.clone());
        row
    }

    /// The rows.
    pub(super) fn finish(self) -> Rows {
        self.rows
    }
}

/// For each class a number, and for each number the positions of the rules that match. 0 is where only the rules
/// about everyone do.
fn match_classes(groups: &[u32], classes: &Classes, count: usize) -> (Vec<u32>, Vec<Vec<u32>>) {
    let everyone = |group: &u32| classes.group(*group).is_some_and(|group| group.everyone);
    let positions = || groups.iter().enumerate().map(|(position, group)| (position as u32, group));
    let always: Vec<u32> =
        positions().filter(|(_, group)| everyone(group)).map(|(position, _)| position).collect();
    let mut some = FastMap::<u32, Vec<u32>>::default();
    for (position, group) in positions().filter(|(_, group)| !everyone(group)) {
        for class in classes.members(*group) {
            some.entry(*class).or_default().push(position);
        }
    }
    let mut numbers = vec![0; count];
    let mut known = FastMap::<Vec<u32>, u32>::from_iter([(always.clone(), 0)]);
    let mut matches = vec![always.clone()];
    // Ordered, so that the same intent always makes the same table.
    let mut some: Vec<(u32, Vec<u32>)> = some.into_iter().collect();
    some.sort_unstable_by_key(|(class, _)| *class);
    for (class, mut matching) in some {
        matching.extend_from_slice(&always);
        matching.sort_unstable();
        let number = *known.entry(matching).or_insert_with_key(|matching| {
            matches.push(matching.clone());
            matches.len() as u32 - 1
        });
        numbers.get_mut(class as usize).into_iter().for_each(|slot| *slot = number);
    }
    (numbers, matches)
}
