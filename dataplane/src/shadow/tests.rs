use std::collections::HashMap;

use policy_compiler::policy::Decision;
use proptest::prelude::*;

use super::tally::{Row, TOLD_A_SECOND};
use super::*;

fn shadow(sample: u32) -> Shadow {
    Shadow::new(1, Arc::default(), sample, 1 << 10, 1)
}

fn decision(allowed: bool, rule: u32) -> Decision {
    Decision { allowed, rule: RuleId(rule) }
}

#[test]
fn a_difference_is_about_who_passes_and_names_the_denying_direction() {
    let judgement = |egress, ingress| Judgement { egress, ingress };
    let both = judgement(decision(true, 10), decision(true, 11));
    let by_egress = judgement(decision(false, 20), decision(false, 21));
    let by_ingress = judgement(decision(true, 30), decision(false, 31));
    let rows = [
        (both, both, None),
        (by_egress, by_ingress, None),
        (both, by_egress, Some((false, false, 10, 20))),
        (both, by_ingress, Some((false, true, 11, 31))),
        (by_egress, both, Some((true, false, 20, 10))),
        (by_ingress, both, Some((true, true, 31, 11))),
    ];
    for (active, candidate, expected) in rows {
        let expected = expected.map(|(allowed, ingress, active, candidate)| Difference {
            allowed,
            ingress,
            active: RuleId(active),
            candidate: RuleId(candidate),
        });
        assert_eq!(Difference::between(&active, &candidate), expected);
    }
}

#[test]
fn one_flow_in_so_many_is_in_the_sample() {
    for sample in [1, 16, MAX_SAMPLE] {
        let shadow = shadow(sample);
        let hashes = (0..1_u64 << 20).map(|number| number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let sampled = hashes.filter(|hash| shadow.samples(*hash)).count();
        let expected = (1 << 20) / sample as usize;
        assert!((expected * 9 / 10..=expected * 11 / 10 + 1).contains(&sampled), "{sample}: {sampled}");
    }
}

#[test]
fn a_tally_tells_of_so_many_a_second() {
    let tally = Tally::default();
    let told = |second| (0..TOLD_A_SECOND + 10).filter(|_| tally.may_tell(second)).count() as u64;
    assert_eq!((told(7), told(8)), (TOLD_A_SECOND, TOLD_A_SECOND));
    assert_eq!(tally.lost.read(), 20);
}

#[test]
fn new_tallies_know_what_has_been_compared() {
    let (first, hash) = (shadow(1), 0x0123_4567_89ab_cdef);
    assert_eq!(first.note(hash, 5, Outcome::Denied), None);
    first.tallies()[0].judged.add(1);
    let second = first.with_new_tallies();
    assert!(second.knows(hash, 5) && !second.knows(hash, 6));
    assert_eq!(second.tallies()[0].judged.read(), 0);
    assert_eq!(second.note(hash, 6, Outcome::Same), Some(Outcome::Denied));
}

proptest! {
    /// A flow that is known has been noted so: against a list of all that was noted. What shares a place is forgotten, never mistaken.
    #[test]
    fn what_is_known_was_noted(
        sample in prop::sample::select(vec![1_u32, 4]),
        steps in prop::collection::vec((any::<prop::sample::Index>(), 1_u32..4, 0..3_usize), 1..200),
        mut hashes in prop::collection::vec(any::<u64>(), 1..40),
    ) {
        // Some that share their place.
        hashes.extend(hashes.clone().iter().map(|hash| hash ^ 1 << 20));
        let shadow = shadow(sample);
        let mut noted = HashMap::new();
        for (index, epoch, outcome) in steps {
            let hash = *index.get(&hashes);
            let outcome = [Outcome::Same, Outcome::Allowed, Outcome::Denied][outcome];
            let before = shadow.note(hash, epoch, outcome);
            let was = noted.insert(hash, (epoch, outcome)).map(|(_, outcome)| outcome);
            prop_assert!(before.is_none() || before == was);
            for (hash, (at, _)) in &noted {
                for epoch in 0..5 {
                    let known = shadow.samples(*hash) && shadow.knows(*hash, epoch);
                    prop_assert!(!known || epoch == *at);
                }
            }
            prop_assert!(!shadow.samples(hash) || shadow.knows(hash, epoch), "the last is known");
        }
    }

    /// Counts by rules, beside a map: none is lost but those that are said to be.
    #[test]
    fn flows_are_counted_by_their_rules(
        flows in prop::collection::vec((any::<bool>(), any::<bool>(), 1..12_u32, 0..12_u32, 0..3_u64, any::<bool>()), 0..600),
    ) {
        let (tally, mut expected) = (Tally::default(), HashMap::new());
        for (number, (allowed, ingress, active, candidate, isolation, v6)) in flows.iter().enumerate() {
            let difference = Difference {
                allowed: *allowed,
                ingress: *ingress,
                active: RuleId(*active),
                candidate: RuleId(*candidate),
            };
            let last = number as u16;
            let ends: (IpAddr, IpAddr) = if *v6 {
                ([0xfd00, 0, 0, 0, 0, 0, 0, last].into(), [0xfd01, 0, 0, 0, 0, 0, 0, last].into())
            } else {
                let [high, low] = last.to_be_bytes();
                ([10, 1, high, low].into(), [10, 2, high, low].into())
            };
            tally.count(&difference, *isolation, ends);
            let entry = expected.entry((difference, *isolation, *v6)).or_insert((ends, 0));
            entry.1 += 1;
        }
        let rows = tally.rows();
        let placed: u64 = rows.iter().map(|row| row.flows).sum();
        prop_assert_eq!(placed + tally.unplaced.read(), flows.len() as u64);
        prop_assert_eq!(tally.allowed.read() + tally.denied.read(), flows.len() as u64);
        for Row { difference, ends, flows } in rows {
            let same = expected.iter().find(|((of, _, _), (first, _))| *of == difference && *first == ends);
            prop_assert_eq!(same.map(|(_, (_, count))| *count), Some(flows));
        }
        if expected.len() <= 16 {
            prop_assert_eq!(tally.unplaced.read(), 0);
        }
    }
}
