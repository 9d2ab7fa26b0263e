//! [`Line`]: one line of the flow table and its sequence lock.
//!
//! ```text
//!   [ epoch: 32, sequence: 32 │ word │ word │ activity │ word │ … ]
//!     writer: sequence odd ─► words ─► sequence even, two more       reader: sequence, words, sequence: the same and even?
//! ```
//!
//! A reader takes the words, and takes them again where the sequence was odd or has changed: it never waits for a lock and
//! never writes. Writers exclude one another by the same word. The activity stands outside of the lock.
//!
//! This file knows its atomics by `crate::sync` alone: `tests/loom.rs` compiles it again over loom's, and tries every
//! interleaving (docs/testing.md says what that covers).

use crate::sync::{AtomicU64, Ordering, fence, spin_loop};

/// Word that the lock does not cover: what has passed.
const ACTIVITY: usize = 3;
/// Bits of the first word that are the lock; the others hold the epoch.
const SEQUENCE: u64 = 0xffff_ffff;

/// A line, seen by anybody.
#[derive(Debug, Clone, Copy)]
pub(super) struct Line<'a, const WORDS: usize> {
    words: &'a [AtomicU64; WORDS],
}

/// A line, seen by one who will not look twice.
#[derive(Debug, Clone, Copy)]
pub(super) struct Glance<'a, const WORDS: usize> {
    line: Line<'a, WORDS>,
}

/// A line, seen by the one who writes it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Locked<'a, const WORDS: usize> {
    line: Line<'a, WORDS>,
}

impl<'a, const WORDS: usize> Line<'a, WORDS> {
    /// The line that these words are.
    #[inline(always)]
    pub(super) fn new(words: &'a [AtomicU64; WORDS]) -> Self {
        Line { words }
    }

    /// The words as they are, for prefetching.
    #[inline(always)]
    pub(super) fn words(self) -> &'a [AtomicU64; WORDS] {
        self.words
    }

    /// The word that the lock does not cover.
    #[inline(always)]
    pub(super) fn activity(self) -> &'a AtomicU64 {
        &self.words[ACTIVITY]
    }

    /// The words, consistent among themselves (the activity apart).
    #[inline(always)]
    pub(super) fn read(self) -> [u64; WORDS] {
        loop {
            let before = self.words[0].load(Ordering::Acquire);
            let mut words = [0; WORDS];
            for (word, place) in words.iter_mut().zip(self.words).skip(1) {
                *word = place.load(Ordering::Relaxed);
            }
            // Who saw a word of a later write sees its sequence, too.
            fence(Ordering::Acquire);
            let after = self.words[0].load(Ordering::Relaxed);
            if before == after && before & 1 == 0 {
                words[0] = before;
                return words;
            }
            spin_loop();
        }
    }

    /// One look at the words that `pick` takes; with it the first word, and 0 where they are consistent among themselves.
    #[inline(always)]
    pub(super) fn glance<T>(self, pick: impl FnOnce(Glance<'a, WORDS>) -> T) -> (u64, u64, T) {
        let before = self.words[0].load(Ordering::Acquire);
        let picked = pick(Glance { line: self });
        fence(Ordering::Acquire);
        let after = self.words[0].load(Ordering::Relaxed);
        (before, before ^ after | before & 1, picked)
    }

    /// Gives the line another epoch, where its first word still is `first`, as a [`glance`](Self::glance) found it to be: what was
    /// seen then stands in it. Where it has been written since, or is being written, nothing happens.
    #[inline]
    pub(super) fn renew(self, first: u64, epoch: u32) {
        let renewed = first & SEQUENCE | u64::from(epoch) << 32;
        let _ = self.words[0].compare_exchange(first, renewed, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// Runs `change` under the lock.
    pub(super) fn write<T>(self, change: impl FnOnce(Locked<'a, WORDS>) -> T) -> T {
        let lock = &self.words[0];
        let mut word = lock.load(Ordering::Relaxed);
        loop {
            if word & 1 == 1 {
                spin_loop();
                word = lock.load(Ordering::Relaxed);
                continue;
            }
            match lock.compare_exchange_weak(word, word | 1, Ordering::Acquire, Ordering::Relaxed) {
                Ok(_) => break,
                Err(now) => word = now,
            }
        }
        // Readers that see any word written below also see the lock odd.
        fence(Ordering::Release);
        let result = change(Locked { line: self });
        let written = lock.load(Ordering::Relaxed);
        let sequence = (word as u32).wrapping_add(2);
        lock.store(written & !SEQUENCE | u64::from(sequence), Ordering::Release);
        result
    }
}

impl<const WORDS: usize> Glance<'_, WORDS> {
    /// One of its words, perhaps of another write than the others.
    #[inline(always)]
    pub(super) fn word(self, index: usize) -> u64 {
        self.line.words[index].load(Ordering::Relaxed)
    }
}

impl<'a, const WORDS: usize> Locked<'a, WORDS> {
    /// One of its words. Nobody else writes it.
    pub(super) fn word(self, index: usize) -> u64 {
        self.line.words[index].load(Ordering::Relaxed)
    }

    /// The word that the lock does not cover.
    pub(super) fn activity(self) -> &'a AtomicU64 {
        self.line.activity()
    }

    /// Writes all words but the activity; of the first only the epoch, as the rest of it is the lock.
    pub(super) fn store(self, words: &[u64; WORDS]) {
        let lock = self.word(0) & SEQUENCE;
        self.line.words[0].store(words[0] & !SEQUENCE | lock, Ordering::Relaxed);
        for (index, place) in
            self.line.words.iter().enumerate().skip(1).filter(|(index, _)| *index != ACTIVITY)
        {
            place.store(words[index], Ordering::Relaxed);
        }
    }
}
