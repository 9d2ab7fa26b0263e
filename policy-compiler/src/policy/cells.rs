//! Cells: from a class of peers to a small number, most of which are 0.
//!
//! A few stand in a hash table of two to four times as many places: one read of memory. Many stand in pages of 64 classes, behind an
//! array of pages; equal pages are one, and pages of nothing but 0 are left out. So subjects about everybody by name, ten thousand
//! times ten thousand, take a page each and share the rest.

use std::sync::Arc;

use crate::hash::FastMap;

/// So many cells that are not 0 are a few.
const FEW: usize = 48;
/// Classes a page.
const PAGE: usize = 64;
/// No class.
const NONE: u32 = u32::MAX;

type Page = [u32; PAGE];

/// See the module. A clone is a reference.
#[derive(Debug, Clone)]
pub(super) enum Cells {
    /// Places of (class, number), a power of two or none; a class stands at its home or behind it, before any free place.
    Few(Arc<[(u32, u32)]>),
    Many(Arc<[Option<Arc<Page>>]>),
}

/// All pages that cells share.
#[derive(Debug, Default)]
pub(super) struct PagePool(FastMap<Page, Arc<Page>>);

impl Default for Cells {
    fn default() -> Self {
        Cells::Few(Arc::default())
    }
}

impl Cells {
    /// The number of a class.
    #[inline]
    pub(super) fn number(&self, class: u32) -> u32 {
        match self {
            Cells::Few(places) => {
                let mut index = home(class, places.len());
                while let Some((known, number)) = places.get(index) {
                    if *known == class {
                        return *number;
                    }
                    if *known == NONE {
                        break;
                    }
                    index = (index + 1) % places.len();
                }
                0
            }
            Cells::Many(pages) => {
                let page = pages.get(class as usize / PAGE).and_then(Option::as_deref);
                page.map_or(0, |page| page[class as usize % PAGE])
            }
        }
    }

    /// The same with numbers of classes, ascending, that have had none.
    pub(super) fn with(&self, added: &[(u32, u32)], pool: &mut PagePool) -> Self {
        match self {
            Cells::Few(places) => {
                let known = places.iter().filter(|(class, _)| *class != NONE);
                let mut all: Vec<(u32, u32)> =
                    known.chain(added).copied().filter(|(_, number)| *number > 0).collect();
                if all.len() <= FEW {
                    return Cells::few(&all);
                }
                all.sort_unstable();
                Cells::Many(Arc::default()).with(&all, pool)
            }
            Cells::Many(pages) => {
                let mut pages = pages.to_vec();
                for of_page in
                    added.chunk_by(|(one, _), (next, _)| *one as usize / PAGE == *next as usize / PAGE)
                {
                    let Some(place) = of_page.first().map(|(class, _)| *class as usize / PAGE) else {
                        continue;
                    };
                    let mut page = pages.get(place).and_then(Option::as_deref).copied().unwrap_or([0; PAGE]);
                    for (class, number) in of_page {
                        page[*class as usize % PAGE] = *number;
                    }
                    pages.resize(pages.len().max(place + 1), None);
                    if let Some(slot) = pages.get_mut(place) {
                        *slot = Some(pool.page(page));
                    }
                }
                Cells::Many(pages.into())
            }
        }
    }

    /// The classes that have another number than 0.
    pub(super) fn exceptions(&self) -> impl Iterator<Item = u32> {
        let few: &[(u32, u32)] = if let Cells::Few(places) = self { places } else { &[] };
        let pages: &[Option<Arc<Page>>] = if let Cells::Many(pages) = self { pages } else { &[] };
        let pages = pages.iter().zip(0..).filter_map(|(page, at)| Some((page.as_deref()?, at * PAGE as u32)));
        let many = pages.flat_map(|(page, first)| (first..).zip(page.iter().copied()));
        few.iter().copied().chain(many).filter(|(_, number)| *number > 0).map(|(class, _)| class)
    }

    /// How many bytes they take, pages left out.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Cells::Few(places) => size_of_val::<[(u32, u32)]>(places),
            Cells::Many(pages) => size_of_val::<[Option<Arc<Page>>]>(pages),
        }
    }

    fn few(all: &[(u32, u32)]) -> Self {
        if all.is_empty() {
            return Cells::default();
        }
        let mut places = vec![(NONE, 0); (all.len() * 2).next_power_of_two()];
        for (class, number) in all {
            let mut index = home(*class, places.len());
            while places.get(index).is_some_and(|(known, _)| *known != NONE) {
                index = (index + 1) % places.len();
            }
            if let Some(place) = places.get_mut(index) {
                *place = (*class, *number);
            }
        }
        Cells::Few(places.into())
    }
}

impl PagePool {
    /// How many bytes the pages take.
    pub(super) fn bytes(&self) -> usize {
        self.0.len() * size_of::<Page>()
    }

    fn page(&mut self, page: Page) -> Arc<Page> {
        Arc::clone(self.0.entry(page).or_insert_with(|| Arc::new(page)))
    }
}

/// Where a class stands among so many places, a power of two: by Fibonacci hashing (Knuth, TAOCP volume 3, section 6.4).
#[inline]
fn home(class: u32, places: usize) -> usize {
    (class.wrapping_mul(0x9e37_79b9) >> 16) as usize & places.wrapping_sub(1)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Against a map, with few and with many, as classes come.
        #[test]
        fn are_a_map_of_numbers(
            steps in prop::collection::vec(prop::collection::btree_map(0..9000_u32, 0..5_u32, 0..40), 1..6),
        ) {
            let (mut cells, mut twin, mut pool) = (Cells::default(), BTreeMap::new(), PagePool::default());
            for step in steps {
                let added: Vec<(u32, u32)> = step.into_iter().filter(|(class, _)| !twin.contains_key(class)).collect();
                let before = (cells.clone(), twin.clone());
                cells = cells.with(&added, &mut pool);
                twin.extend(added);
                let mut exceptions: Vec<u32> = cells.exceptions().collect();
                exceptions.sort_unstable();
                let expected = twin.iter().filter(|(_, number)| **number > 0).map(|(class, _)| *class);
                prop_assert_eq!(exceptions, expected.collect::<Vec<_>>());
                for class in (0..9100).chain([u32::MAX - 1]) {
                    prop_assert_eq!(cells.number(class), twin.get(&class).copied().unwrap_or(0));
                    prop_assert_eq!(before.0.number(class), before.1.get(&class).copied().unwrap_or(0));
                }
            }
        }
    }
}
