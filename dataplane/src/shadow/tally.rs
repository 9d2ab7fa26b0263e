//! [`Tally`]: what one worker has counted of a shadow. Written by that worker alone, read by the control thread.

use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};

use policy_compiler::policy::RuleId;

use super::Difference;
use crate::counters::Counter;
use crate::flow::entry::{addresses_of, words_of};

/// Pairs of rules that are told apart.
const PLACES: usize = 256;
/// Places that are looked at for a pair.
const PROBES: usize = 16;
/// Differing flows that a worker tells of in a second.
pub const TOLD_A_SECOND: u64 = 1000;

/// What one worker has counted. Of flows, each counted once for as long as it is remembered.
#[derive(Debug)]
#[repr(align(64))]
pub struct Tally {
    /// Compared when they were judged.
    pub judged: Counter,
    /// Compared in the midst of their life.
    pub sampled: Counter,
    /// Of both: the candidate allows what is denied now.
    pub allowed: Counter,
    /// Of both: the candidate denies what is allowed now.
    pub denied: Counter,
    /// Differences that were counted and not told of.
    pub lost: Counter,
    /// Differences whose rules found no place among the counted ones.
    pub unplaced: Counter,
    /// The second of the worker's clock, and what was told in it.
    told: [Counter; 2],
    places: Box<[Place]>,
}

/// A pair of rules.
#[derive(Debug, Default)]
struct Place {
    /// The active rule and the candidate's; 0, which no difference has, where the place is free.
    rules: AtomicU64,
    /// Who isolates, family, direction and which way it differs.
    how: AtomicU64,
    /// The ends of the first such flow, as policies know them.
    ends: [AtomicU64; 4],
    flows: AtomicU64,
}

/// Flows that differ by the same rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row {
    /// How.
    pub difference: Difference,
    /// The ends of one of them, as policies know them.
    pub ends: (IpAddr, IpAddr),
    /// How many.
    pub flows: u64,
}

impl Default for Tally {
    fn default() -> Self {
        Tally {
            judged: Counter::default(),
            sampled: Counter::default(),
            allowed: Counter::default(),
            denied: Counter::default(),
            lost: Counter::default(),
            unplaced: Counter::default(),
            told: Default::default(),
            places: (0..PLACES).map(|_| Place::default()).collect(),
        }
    }
}

impl Tally {
    /// Counts a flow that differs. `isolation` tells apart what denies without a rule (see [`isolation`](super::isolation)); 0 where
    /// a rule does.
    pub fn count(&self, difference: &Difference, isolation: u64, ends: (IpAddr, IpAddr)) {
        if difference.allowed { &self.allowed } else { &self.denied }.add(1);
        let rules = u64::from(difference.active.0) << 32 | u64::from(difference.candidate.0);
        let how = isolation << 3
            | u64::from(ends.0.is_ipv6()) << 2
            | u64::from(difference.ingress) << 1
            | u64::from(difference.allowed);
        let first = (rules ^ how).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        for probe in 0..PROBES {
            let Some(place) = self.places.get((first as usize + probe) % PLACES) else { continue };
            let flows = place.flows.load(Ordering::Relaxed);
            if flows == 0 {
                place.take(rules, how, ends);
            } else if !place.is(rules, how) {
                continue;
            }
            // What stands in the place is seen by whoever sees this.
            return place.flows.store(flows + 1, Ordering::Release);
        }
        self.unplaced.add(1);
    }

    /// Whether one more difference may be told of in this second; where not, it is counted as lost.
    pub fn may_tell(&self, second: u32) -> bool {
        let [last, told] = &self.told;
        if last.read() != u64::from(second) {
            last.set(u64::from(second));
            told.set(0);
        }
        told.add(1);
        let may = told.read() <= TOLD_A_SECOND;
        self.lost.add(u64::from(!may));
        may
    }

    /// What is counted by rules.
    pub fn rows(&self) -> Vec<Row> {
        self.places.iter().filter_map(Place::row).collect()
    }
}

impl Place {
    fn take(&self, rules: u64, how: u64, (src, dst): (IpAddr, IpAddr)) {
        self.rules.store(rules, Ordering::Relaxed);
        self.how.store(how, Ordering::Relaxed);
        for (word, place) in words_of(src, dst).into_iter().zip(&self.ends) {
            place.store(word, Ordering::Relaxed);
        }
    }

    fn is(&self, rules: u64, how: u64) -> bool {
        (self.rules.load(Ordering::Relaxed), self.how.load(Ordering::Relaxed)) == (rules, how)
    }

    fn row(&self) -> Option<Row> {
        let flows = self.flows.load(Ordering::Acquire);
        if flows == 0 {
            return None;
        }
        let (rules, how) = (self.rules.load(Ordering::Relaxed), self.how.load(Ordering::Relaxed));
        let ends: [u64; 4] = std::array::from_fn(|word| self.ends[word].load(Ordering::Relaxed));
        let difference = Difference {
            allowed: how & 1 != 0,
            ingress: how & 2 != 0,
            active: RuleId((rules >> 32) as u32),
            candidate: RuleId(rules as u32),
        };
        Some(Row { difference, ends: addresses_of(&ends, how & 4 != 0), flows })
    }
}
