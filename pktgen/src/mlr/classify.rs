//! What the trials at one load say about it: RFC 9971, appendix A (load classification) and B (conditional
//! throughput). Durations are in nanoseconds.

use std::time::Duration;

/// What a goal asks of a load: a goal's own figures, or the smaller ones of an earlier phase of the search.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Target {
    /// Loss ratio of a low-loss trial at most.
    pub loss: f64,
    /// Share of the duration sum that may be high-loss.
    pub exceed: f64,
    /// A trial this long is of full length.
    pub length: u64,
    /// Sum of full-length trials that decides.
    pub sum: u64,
    /// Distance of the bounds, as a share of the upper one.
    pub width: f64,
}

/// What a load is to a target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// The device keeps the goal there.
    Lower,
    /// The device does not.
    Upper,
    /// More trials are needed.
    Undecided,
}

/// The trials at one load: duration and loss ratio of each.
#[derive(Debug, Default, Clone, PartialEq)]
pub struct Trials {
    trials: Vec<(u64, f64)>,
}

/// Sums of durations of the four kinds of trials.
#[derive(Debug, Default, Clone, Copy, PartialEq)]
struct Sums {
    good_long: f64,
    bad_long: f64,
    good_short: f64,
    bad_short: f64,
}

impl Trials {
    /// Enters a trial of `duration` with that ratio of lost packets, from 0 to 1.
    pub fn push(&mut self, duration: Duration, loss: f64) {
        self.trials.push((duration.as_nanos() as u64, loss));
    }

    /// Trials so far.
    pub fn len(&self) -> usize {
        self.trials.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.trials.is_empty()
    }

    /// The smallest loss ratio seen, for guessing the next load.
    pub fn least_loss(&self) -> Option<f64> {
        self.trials.iter().map(|(_, loss)| *loss).min_by(f64::total_cmp)
    }

    /// What the load is to `target`: a lower bound where even the worst that is still to be measured would not
    /// change it, an upper bound where even the best would not.
    pub fn class(&self, target: &Target) -> Class {
        let sums = self.sums(target);
        let balancing = sums.good_short * target.exceed / (1.0 - target.exceed);
        let bad = sums.bad_long + (sums.bad_short - balancing).max(0.0);
        let whole = (sums.good_long + bad).max(target.sum as f64);
        let forgiven = whole * target.exceed;
        let (optimistic, pessimistic) = (bad <= forgiven, whole - sums.good_long <= forgiven);
        match (optimistic, pessimistic) {
            (true, true) => Class::Lower,
            (false, false) => Class::Upper,
            _ => Class::Undecided,
        }
    }

    /// The forwarding rate at `load` whose loss only the forgiven share of the duration exceeds; `None` without a
    /// full-length trial.
    pub fn conditional_throughput(&self, load: u64, target: &Target) -> Option<f64> {
        let mut long: Vec<_> =
            self.trials.iter().filter(|(duration, _)| *duration >= target.length).copied().collect();
        long.sort_by(|(_, a), (_, b)| a.total_cmp(b));
        let whole = long.iter().map(|(duration, _)| *duration).sum::<u64>().max(target.sum);
        let mut remaining = whole as f64 * (1.0 - target.exceed);
        let mut quantile = long.first()?.1;
        for (duration, loss) in &long {
            if remaining <= 0.0 {
                break;
            }
            quantile = *loss;
            remaining -= *duration as f64;
        }
        if remaining > 0.0 {
            quantile = 1.0; // not enough was measured: the rest counts as lost
        }
        Some(load as f64 * (1.0 - quantile))
    }

    fn sums(&self, target: &Target) -> Sums {
        let mut sums = Sums::default();
        for (duration, loss) in &self.trials {
            let sum = match (*duration >= target.length, *loss <= target.loss) {
                (true, true) => &mut sums.good_long,
                (true, false) => &mut sums.bad_long,
                (false, true) => &mut sums.good_short,
                (false, false) => &mut sums.bad_short,
            };
            *sum += *duration as f64;
        }
        sums
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MS: u64 = 1_000_000;

    fn trials(list: &[(u64, f64)]) -> Trials {
        let mut trials = Trials::default();
        list.iter().for_each(|(ms, loss)| trials.push(Duration::from_millis(*ms), *loss));
        trials
    }

    fn target(loss: f64, exceed: f64, length: u64, sum: u64) -> Target {
        Target { loss, exceed, length: length * MS, sum: sum * MS, width: 0.01 }
    }

    #[test]
    fn rows_of_trials_and_what_they_say() {
        let ndr = target(0.0, 0.5, 100, 300);
        let strict = target(0.0, 0.0, 100, 100);
        type Row = (&'static str, &'static [(u64, f64)], Target, Class);
        let rows: [Row; 9] = [
            ("nothing is known", &[], ndr, Class::Undecided),
            ("one good of three", &[(100, 0.0)], ndr, Class::Undecided),
            ("two good of three", &[(100, 0.0), (100, 0.0)], ndr, Class::Lower),
            ("two bad of three", &[(100, 0.1), (100, 0.2)], ndr, Class::Upper),
            ("one of each", &[(100, 0.1), (100, 0.0)], ndr, Class::Undecided),
            ("short ones balance each other", &[(50, 0.1), (50, 0.0)], ndr, Class::Undecided),
            ("short bad ones alone decide too", &[(50, 0.1); 4], ndr, Class::Upper),
            ("short good ones never do", &[(50, 0.0); 40], ndr, Class::Undecided),
            ("nothing is forgiven", &[(100, 0.0), (100, 1e-9)], strict, Class::Upper),
        ];
        for (name, list, target, class) in rows {
            assert_eq!(trials(list).class(&target), class, "{name}");
        }
        assert_eq!(trials(&[(100, 0.0)]).class(&strict), Class::Lower);
    }

    #[test]
    fn the_conditional_throughput_is_at_the_quantile() {
        let goal = target(0.01, 0.5, 100, 300);
        let of = |list: &[(u64, f64)]| trials(list).conditional_throughput(1000, &goal);
        assert_eq!(of(&[]), None);
        assert_eq!(of(&[(50, 0.0)]), None, "short trials say nothing of it");
        assert_eq!(of(&[(100, 0.0)]), Some(0.0), "less than half is measured");
        assert_eq!(of(&[(100, 0.004), (100, 0.0)]), Some(996.0));
        assert_eq!(of(&[(100, 0.5), (100, 0.002), (100, 0.0)]), Some(998.0), "the worst is forgiven");
    }

    /// The slow twin: time in slots of a millisecond. What is not measured is all good, or all bad.
    fn slow_class(list: &[(u64, f64)], target: &Target) -> Class {
        let count = |long: bool, good: bool| {
            let of = list
                .iter()
                .filter(|(ms, loss)| (ms * MS >= target.length) == long && (*loss <= target.loss) == good);
            of.map(|(ms, _)| *ms).sum::<u64>() as f64
        };
        // Of short trials, bad ones count where there are more than the good ones forgive.
        let forgiven_short = count(false, true) * target.exceed / (1.0 - target.exceed);
        let bad = count(true, false) + (count(false, false) - forgiven_short).max(0.0);
        let good = count(true, true);
        let missing = ((target.sum / MS) as f64 - good - bad).max(0.0);
        let kept = |bad: f64, good: f64| bad <= (bad + good) * target.exceed + 1e-9;
        match (kept(bad, good + missing), kept(bad + missing, good)) {
            (true, true) => Class::Lower,
            (false, false) => Class::Upper,
            _ => Class::Undecided,
        }
    }

    /// The slow twin: every millisecond of full-length trials, sorted; what is missing is lost.
    fn slow_throughput(list: &[(u64, f64)], load: u64, target: &Target) -> Option<f64> {
        let mut slots: Vec<f64> = list
            .iter()
            .filter(|(ms, _)| ms * MS >= target.length)
            .flat_map(|(ms, loss)| std::iter::repeat_n(*loss, *ms as usize))
            .collect();
        if slots.is_empty() {
            return None;
        }
        slots.sort_by(f64::total_cmp);
        slots.resize(slots.len().max((target.sum / MS) as usize), 1.0);
        let needed = (slots.len() as f64 * (1.0 - target.exceed)).ceil() as usize;
        Some(load as f64 * (1.0 - slots[needed.max(1) - 1]))
    }

    proptest! {
        #[test]
        fn agrees_with_counting_slots(
            list in proptest::collection::vec((1u64..40, prop_oneof![Just(0.0), Just(0.01), Just(0.3)]), 0..12),
            exceed in prop_oneof![Just(0.0), Just(0.25), Just(0.5)], loss in prop_oneof![Just(0.0), Just(0.05)],
            length in 1u64..40, more in 0u64..100,
        ) {
            let target = target(loss, exceed, length, length + more);
            prop_assert_eq!(trials(&list).class(&target), slow_class(&list, &target));
            let fast = trials(&list).conditional_throughput(1000, &target);
            prop_assert_eq!(fast, slow_throughput(&list, 1000, &target));
        }

        #[test]
        fn full_length_trials_for_the_whole_sum_decide(
            losses in proptest::collection::vec(0.0f64..0.2, 3..8), exceed in 0.0f64..0.9,
        ) {
            let list: Vec<_> = losses.iter().map(|loss| (100, *loss)).collect();
            prop_assert_ne!(trials(&list).class(&target(0.1, exceed, 100, 300)), Class::Undecided);
        }
    }
}
